//! A root that cannot be written, with a state directory that can: SQLite gets no temporary file.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use project_webhooks::receiver::Reply;

use super::common::{
    Daemon, Endpoint, Home, PATIENCE, Settings, Webhook, wait_until, wait_within, xml,
};
use super::{is_root, skip, succeeds};

/// More rows than SQLite changes in one statement without a temporary file of 64 KiB.
const N: usize = 1_500;

/// Every directory in which SQLite looks for room, and all others; `$0` stays as it is.
const READ_ONLY: &str = "all='/ /tmp /var/tmp /usr/tmp'
for at in $all; do
    if [ -d \"$at\" ] && ! mountpoint -q \"$at\"; then mount --bind \"$at\" \"$at\"; fi
done
mount --bind \"$0\" \"$0\"
for at in $all; do
    if [ -d \"$at\" ]; then mount -o remount,bind,ro \"$at\"; fi
    if [ -w \"$at\" ]; then exit 1; fi
done
exec \"$@\"";

/// Runs the daemon where only the state directory can be written.
fn on_a_read_only_root(home: &Home) -> Daemon<'_> {
    let run = Daemon::command(home);
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-ec", READ_ONLY])
        .arg(home.beside("state"))
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("SQLITE_TMPDIR")
        .env_remove("TMPDIR");
    let daemon = Daemon::launch(home, command);
    daemon.wait_ready();
    daemon
}

fn count(home: &Home, condition: &str) -> usize {
    let database = rusqlite::Connection::open(home.database()).unwrap();
    let sql = format!("SELECT count(*) FROM deliveries WHERE {condition}");
    let n: i64 = database.query_row(&sql, [], |row| row.get(0)).unwrap();
    usize::try_from(n).unwrap()
}

#[test]
fn retention_and_a_reload_need_no_temporary_directory() {
    const TEST: &str = "a read-only root";
    if !is_root(TEST) {
        return;
    }
    if !succeeds("unshare", &["-m", "true"]) {
        return skip(TEST, "mount namespaces are not allowed");
    }
    let refuses = Arc::new(AtomicBool::new(true));
    let good = Endpoint::new();
    let bad = Endpoint::answering({
        let refuses = Arc::clone(&refuses);
        move |_| {
            let refused = refuses.load(Ordering::SeqCst);
            Reply::status(StatusCode::from_u16(if refused { 500 } else { 204 }).unwrap())
        }
    });
    let webhook = |name: &str, endpoint: &Endpoint| {
        Webhook::new(name, &endpoint.url()).events("[project-import-any]")
    };
    let settings = |bad: Webhook| {
        Settings::of([webhook("good", &good), bad]).repository("on_first_start: report")
    };
    let waiting = webhook("bad", &bad).schedule("[0s, 1h]");
    let home = Home::new(&settings(waiting.clone()));
    for n in 0..N {
        let (key, id) = (format!("sales/p{n}/project.xml"), format!("e-{n}"));
        home.write(&key, &xml("P", &id, "one"));
    }
    let daemon = home.start();
    wait_within(3 * PATIENCE, "all imports", || {
        (good.n() >= N).then_some(())
    });
    wait_until("recorded", || {
        (count(&home, "state = 'delivered'") == N).then_some(())
    });
    daemon.terminate();
    // A receiver that is down is only probed, so that most deliveries have no attempt yet.
    rusqlite::Connection::open(home.database())
        .unwrap()
        .execute_batch(
            "UPDATE deliveries SET n_attempts = 1, due_ms = created_ms + 3600000 \
             WHERE state = 'pending'",
        )
        .unwrap();
    home.configure(&settings(waiting.clone()).top("retention: { delivered: 0s }"));
    let daemon = on_a_read_only_root(&home);
    wait_until("retention", || {
        (count(&home, "state = 'delivered'") == 0).then_some(())
    });
    assert_eq!(daemon.n_messages("cannot remove old deliveries"), 0);
    bad.take();
    refuses.store(false, Ordering::SeqCst);
    home.reconfigure(&settings(waiting.with("timeout: 7s")));
    assert!(daemon.reload());
    wait_within(3 * PATIENCE, "all imports again", || {
        (bad.n() >= N).then_some(())
    });
}
