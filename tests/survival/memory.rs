//! Memory does not grow with the size of a project: the real binary under a limit.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use super::common::{Daemon, Endpoint, Home, Settings, Webhook, skip, succeeds, wait_until, xml};

/// The size of each large file, in bytes.
const LARGE: usize = 8 * 1024 * 1024;

/// The number of large files: together they are more than [`LIMIT`].
const FILES: usize = 16;

/// The limit of the daemon's data, in bytes. Counted: at most 93 MiB.
const LIMIT: usize = 120 * 1024 * 1024;

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
    wait_until("the events of all snapshots", || {
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
