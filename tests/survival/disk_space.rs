//! The space of the state: a long reader, a webhook that only piles up deliveries, a full disk.

use std::fs;
use std::time::Duration;

use project_webhooks::receiver::ReceiverOptions;
use rusqlite::Connection;
use rustix::process::Signal;

use super::common::{Endpoint, Home, Settings, Webhook, wait_health, wait_until, wait_within, xml};
use super::{Mount, is_root, skip, wait_status};

const MIB: u64 = 1 << 20;

/// How long many callbacks may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

fn log_size(home: &Home) -> u64 {
    fs::metadata(home.beside("state/state.db-wal")).map_or(0, |metadata| metadata.len())
}

#[test]
fn a_long_reader_is_reported_and_the_log_shrinks_after_it() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let daemon = home.start();
    let reader = Connection::open(home.database()).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM events")
        .unwrap();
    // What 20,000 events would write.
    let writer = Connection::open(home.database()).unwrap();
    writer
        .execute_batch(
            "CREATE TABLE much (bytes BLOB); INSERT INTO much VALUES (zeroblob(270 << 20)); \
             DROP TABLE much",
        )
        .unwrap();
    drop(writer);
    assert!(log_size(&home) > 256 * MIB);
    let cause = "because a process has been reading the database in one transaction";
    daemon.wait_message(cause, 1);
    wait_status(&home, "the log's size", |status| {
        status["stateSize"]["log"].as_u64() > Some(256 * MIB)
    });
    assert!(
        home.command(&["status"])
            .contains("close that process (`fuser -v`")
    );
    home.write("sales/a/project.xml", &xml("A", "a", ""));
    endpoint.wait_for(2);
    reader.execute_batch("ROLLBACK").unwrap();
    // Without any further change.
    wait_until("a small log", || {
        (log_size(&home) <= 16 * MIB).then_some(())
    });
    daemon.wait_message("the write-ahead log of the database takes", 2);
    assert_eq!(daemon.n_messages(cause), 1);
}

/// Text that compression does not make small.
fn noise(seed: u32, length: usize) -> String {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'0' + (state >> 24) as u8 % 64)
        })
        .map(|character| match character {
            '<' | '>' => '-',
            other => other,
        })
        .collect()
}

#[test]
fn a_webhook_that_is_down_fills_no_disk_for_the_others() {
    const TEST: &str = "a webhook that fills the disk";
    const N: usize = 600;
    if !is_root(TEST) {
        return;
    }
    let good = Endpoint::new();
    let down = Endpoint::reserved();
    let events = "[snapshot-create]";
    let webhooks = [
        Webhook::new("good", &good.url()).events(events),
        Webhook::new("down", &down.url())
            .events(events)
            .schedule("[0s, 1h]"),
    ];
    let settings = Settings::of(webhooks)
        .top("retention: { max_state_size: 16MiB }")
        .top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    for project in 0..16 {
        let id = format!("e-{project}");
        home.write(&format!("sales/p{project}/project.xml"), &xml("P", &id, ""));
    }
    let state = home.beside("state");
    fs::create_dir(&state).unwrap();
    let Some(mounted) = Mount::new(&["-t", "tmpfs", "-o", "size=40m", "tmpfs"], &state) else {
        return skip(TEST, "mounting is not allowed");
    };
    let daemon = home.start();
    // The daemon sleeps meanwhile: then it records 36 MB faster than it measures the size.
    daemon.signal(Signal::STOP);
    for number in 0..N {
        let (project, body) = (number % 16, noise(number as u32, 60_000));
        let content = xml("P", &format!("e-{project}"), &body);
        home.write(
            &format!("sales/p{project}/snapshots/s{number}.xml"),
            &content,
        );
    }
    daemon.signal(Signal::CONT);
    let of_good = format!("{N} callbacks");
    wait_within(PATIENCE, &of_good, || (good.n() >= N).then_some(()));
    daemon.wait_message("80 % or more of its limit of 16.0 MiB", 1);
    let given_up = "the oldest pending deliveries of the webhook with the most pending deliveries are \
        now dead";
    daemon.wait_log(given_up, |entry| {
        entry.message().contains(given_up) && entry.field("webhook") == "down"
    });
    wait_status(&home, "room", |status| {
        let size = &status["stateSize"];
        size["used"].as_u64() <= size["limit"].as_u64()
    });
    wait_health(&home, "/readyz", 200);
    // No more is given up than necessary: what fits is pending, and goes out once the receiver is up.
    let pending = home.json(&["deliveries", "--state", "pending", "--limit", "1000"]);
    let n_pending = pending.as_array().unwrap().len();
    assert!((200..N).contains(&n_pending), "{n_pending}");
    let down = down.open(ReceiverOptions::new(jiff::Timestamp::now));
    home.command(&[
        "deliveries",
        "redeliver",
        "--webhook",
        "down",
        "--state",
        "pending",
        "--yes",
    ]);
    let of_down = format!("{n_pending} callbacks");
    wait_within(PATIENCE, &of_down, || (down.n() >= n_pending).then_some(()));
    assert!(down.n() < N);
    drop(daemon);
    drop(mounted);
}

/// Another program fills the disk: the daemon waits, reports it once, and gives nothing up.
#[test]
fn files_of_others_that_fill_the_disk_cost_nothing() {
    const TEST: &str = "a disk that others fill";
    if !is_root(TEST) {
        return;
    }
    let (good, down) = (Endpoint::new(), Endpoint::reserved());
    let webhooks = [
        Webhook::new("good", &good.url()),
        Webhook::new("down", &down.url()).schedule("[0s, 1h]"),
    ];
    let settings = Settings::of(webhooks).top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    let state = home.beside("state");
    fs::create_dir(&state).unwrap();
    let Some(mounted) = Mount::new(&["-t", "tmpfs", "-o", "size=40m", "tmpfs"], &state) else {
        return skip(TEST, "mounting is not allowed");
    };
    let daemon = home.start();
    let snapshot = |number: u32| {
        let content = xml("P", "e", &noise(number, 60_000));
        home.write(&format!("sales/p/snapshots/s{number}.xml"), &content);
    };
    home.write("sales/p/project.xml", &xml("P", "e", ""));
    (0..20).for_each(snapshot);
    good.wait_for(21);
    let filler = state.join("filler");
    let _full = fs::write(&filler, vec![0_u8; 64 << 20]);
    // More than the log has room for.
    (20..200).for_each(snapshot);
    daemon.wait_message("inference waits until the store works again", 1);
    wait_status(&home, "the store's trouble", |status| {
        status["troubles"].to_string().contains("no change is lost")
    });
    wait_health(&home, "/readyz", 503);
    // The size is measured meanwhile, and nothing is removed.
    wait_status(&home, "the size", |status| {
        let size = &status["stateSize"];
        size["used"].as_u64() < size["limit"].as_u64()
    });
    fs::remove_file(&filler).unwrap();
    wait_within(PATIENCE, "201 callbacks", || {
        (good.n() >= 201).then_some(())
    });
    wait_health(&home, "/readyz", 200);
    // Each trouble is logged once. A busy machine may have several, if a commit succeeds in between.
    wait_until("the end of each trouble", || {
        let entries = daemon.entries();
        let n_ended = entries
            .iter()
            .filter(|entry| entry.message() == "the store works again");
        let n_begun = daemon.n_messages("inference waits until the store works again");
        (n_ended.count() == n_begun).then_some(())
    });
    let deliveries = home.json(&["deliveries", "--limit", "1000"]);
    let n = |webhook: &str, state: &str| {
        let of = |one: &&serde_json::Value| one["webhook"] == webhook && one["state"] == state;
        deliveries.as_array().unwrap().iter().filter(of).count()
    };
    let (n_delivered, n_pending) = (n("good", "delivered"), n("down", "pending"));
    assert_eq!(n_delivered, n_pending);
    assert_eq!(
        n_delivered + n_pending,
        deliveries.as_array().unwrap().len()
    );
    assert!(n_delivered >= 201, "{n_delivered}");
    drop(daemon);
    drop(mounted);
}

#[test]
fn a_delivery_that_was_pending_too_long_becomes_dead() {
    let down = Endpoint::reserved();
    let webhook = Webhook::new("down", &down.url())
        .events("[project-import-any]")
        .schedule("[0s, 1h, 1h]");
    let settings = Settings::of([webhook]).top("retention: { pending: 1s }");
    let home = Home::new(&settings);
    let daemon = home.start();
    for name in ["a", "b", "c"] {
        home.write(&format!("sales/{name}/project.xml"), &xml(name, name, ""));
    }
    daemon.wait_log("the first attempt", |entry| {
        entry.message().starts_with("failed")
    });
    let dead = wait_until("dead deliveries", || {
        // A reload makes retention run at once.
        assert!(daemon.reload());
        let dead = home.json(&["deliveries", "--state", "dead"]);
        (dead.as_array().unwrap().len() == 3).then_some(dead)
    });
    for delivery in dead.as_array().unwrap() {
        let error = delivery["lastError"].as_str().unwrap();
        assert!(
            error.starts_with("pending for longer than retention.pending (1s)"),
            "{error}"
        );
    }
    daemon.wait_message(
        "deliveries that were pending for longer than retention.pending are now dead",
        1,
    );
    let down = down.open(ReceiverOptions::new(jiff::Timestamp::now));
    home.command(&[
        "deliveries",
        "redeliver",
        "--webhook",
        "down",
        "--state",
        "dead",
        "--yes",
    ]);
    down.wait_for(3);
}
