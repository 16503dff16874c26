//! Memory does not grow with the size of a project: the real binary under a limit.

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use axum::http::StatusCode;
use project_webhooks::receiver::Reply;
use rustix::process::Signal;

use super::common::{
    Daemon, Endpoint, Home, PATIENCE, Settings, Webhook, in_time, skip, succeeds, wait_within, xml,
};

/// The size of each large file, in bytes.
const LARGE: usize = 8 * 1024 * 1024;

/// The number of large files: together they are more than [`LIMIT`].
const FILES: usize = 16;

/// The limit of the daemon's data, in bytes. Counted: at most 93 MiB.
const LIMIT: usize = 120 * 1024 * 1024;

/// The number of projects whose published copies are sent at the same time.
const PUBLISHED: usize = 8;

/// Writes a large valid file that compression cannot shrink to less than half.
fn write_large(path: &std::path::Path, number: usize) {
    let body = xml("P", "e-1", "BODY");
    let (before, after) = body.split_once("BODY").unwrap();
    let mut state = number as u64 + 1;
    let text: Vec<u8> = (0..LARGE)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'A' + u8::try_from(state & 31).unwrap()
        })
        .collect();
    let mut file = fs::File::create(path).unwrap();
    file.write_all(before.as_bytes()).unwrap();
    file.write_all(&text).unwrap();
    file.write_all(after.as_bytes()).unwrap();
}

/// Starts the daemon with a limit of its memory, by prlimit(1).
fn limited(home: &Home) -> Daemon<'_> {
    let inner = Daemon::command(home);
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--data={LIMIT}"))
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET");
    let daemon = Daemon::launch(home, command);
    daemon.wait_ready();
    daemon
}

/// Waits for the events of all large files, in order, each once.
///
/// The payloads are dropped meanwhile, because the endpoint keeps what it received.
fn wait_for_snapshots(endpoint: &Endpoint) {
    let mut tags: Vec<String> = Vec::new();
    wait_within(3 * PATIENCE, "the events of all snapshots", || {
        for one in endpoint.take() {
            assert_eq!(one.event, "snapshot-create");
            assert!(one.payload.len() > LARGE, "the payload is whole");
            tags.push(one.parameter("versionTag").unwrap().to_owned());
        }
        (tags.len() >= FILES).then_some(())
    });
    let expected: Vec<String> = (0..FILES).map(|number| format!("s{number:02}")).collect();
    assert_eq!(tags, expected);
}

#[test]
fn a_project_larger_than_the_memory_is_reported_live_and_at_a_start() {
    const TEST: &str = "a_project_larger_than_the_memory_is_reported_live_and_at_a_start";
    if !succeeds("prlimit", &["--version"]) {
        return skip(TEST, "needs prlimit");
    }
    let endpoint = Endpoint::new();
    let webhook = Webhook::new("snapshots", &endpoint.url()).events("[snapshot-create]");
    let home = Home::new(&Settings::of([webhook]));
    home.write("sales/live/project.xml", &xml("Live", "e-live", ""));
    home.write("sales/start/project.xml", &xml("Start", "e-start", ""));
    let beside = home.beside("snapshots");
    fs::create_dir(&beside).unwrap();
    for number in 0..FILES {
        write_large(&beside.join(format!("s{number:02}.xml")), number);
    }
    let daemon = limited(&home);
    fs::rename(&beside, home.at("sales/live/snapshots")).unwrap();
    wait_for_snapshots(&endpoint);
    assert!(daemon.terminate().success());
    let (live, start) = ("sales/live/snapshots", "sales/start/snapshots");
    fs::rename(home.at(live), home.at(start)).unwrap();
    let daemon = limited(&home);
    wait_for_snapshots(&endpoint);
    assert!(daemon.terminate().success());
}

/// A step that records many portions ends soon after SIGTERM. The next start infers the rest.
#[test]
fn a_stop_waits_for_at_most_one_portion() {
    in_time(|| {
        let endpoint = Endpoint::new();
        let webhook = Webhook::new("snapshots", &endpoint.url()).events("[snapshot-create]");
        let home = Home::new(&Settings::of([webhook]));
        home.write("sales/a/project.xml", &xml("A", "e-a", ""));
        let beside = home.beside("snapshots");
        fs::create_dir(&beside).unwrap();
        for number in 0..FILES {
            write_large(&beside.join(format!("s{number:02}.xml")), number);
        }
        let daemon = home.start();
        fs::rename(&beside, home.at("sales/a/snapshots")).unwrap();
        let is_event = |message: &str| message == "Snapshot Create";
        daemon.wait_log("the first portion", |entry| is_event(entry.message()));
        daemon.signal(Signal::TERM);
        daemon.wait_message("stopped", 1);
        let entries = daemon.entries();
        let messages: Vec<&str> = entries.iter().map(|entry| entry.message()).collect();
        let is_stop = |message: &&str| message.starts_with("stopping: ");
        let stop = messages.iter().position(is_stop).unwrap();
        let n = messages.iter().filter(|one| is_event(one)).count();
        let n_after = messages[stop..].iter().filter(|one| is_event(one)).count();
        if n == FILES {
            // All were recorded before the signal came.
            return false;
        }
        assert!(n_after <= 1, "{n_after} portions after the signal");
        drop(daemon);
        let daemon = home.start();
        wait_for_snapshots(&endpoint);
        assert!(daemon.terminate().success());
        true
    });
}

#[test]
fn deliveries_to_a_slow_receiver_take_bounded_memory() {
    const TEST: &str = "deliveries_to_a_slow_receiver_take_bounded_memory";
    if !succeeds("prlimit", &["--version"]) {
        return skip(TEST, "needs prlimit");
    }
    // All of them would be in flight together: 64 MiB of payloads, and more of bodies and buffers.
    let endpoint = Endpoint::answering(|_| Reply {
        delay: Duration::from_millis(500),
        ..Reply::status(StatusCode::NO_CONTENT)
    });
    let webhook = Webhook::new("published", &endpoint.url()).events("[project-publish]");
    let home = Home::new(&Settings::of([webhook.with("concurrency: 8")]));
    for number in 0..PUBLISHED {
        let id = format!("e-{number}");
        home.write(&format!("sales/p{number}/project.xml"), &xml("P", &id, ""));
        fs::create_dir(home.at(&format!("sales/p{number}/published"))).unwrap();
        write_large(&home.beside(&format!("{number}.xml")), number);
    }
    let daemon = limited(&home);
    for number in 0..PUBLISHED {
        let to = home.at(&format!("sales/p{number}/published/project.xml"));
        fs::rename(home.beside(&format!("{number}.xml")), to).unwrap();
    }
    let received = endpoint.wait_for(PUBLISHED);
    assert!(received.iter().all(|one| one.payload.len() > LARGE));
    daemon.fence();
    assert_eq!(endpoint.n(), PUBLISHED);
    assert!(daemon.terminate().success());
}
