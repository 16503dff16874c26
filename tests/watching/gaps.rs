//! Directories that no watch can be set on, and those that it can be set on later.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::common::{
    Daemon, Endpoint, Home, Patient, Settings, on_both_backends, skip, succeeds, wait_health,
    wait_until, xml,
};
use super::{
    add_project, coverage, home_with_projects, limit_descriptors, unprivileged, wait_for_watches,
};

on_both_backends!(
    a_directory_that_appears_while_descriptors_are_short_is_watched_later,
    an_unreadable_directory_is_listed_once_while_it_is_there,
    a_directory_below_an_unreadable_one_is_watched_when_that_is_readable,
);

const SOCKET: &str = "admin: { listen: \"unix:./admin.sock\" }";

/// A connection to the admin server, which needs no more descriptors of the daemon.
struct Metrics(BufReader<Patient<UnixStream>>);

impl Metrics {
    fn of(home: &Home) -> Self {
        let stream = UnixStream::connect(home.beside("admin.sock")).unwrap();
        let mut metrics = Self(BufReader::new(Patient::of(stream)));
        // The answer shows that the daemon accepted the connection.
        metrics.read();
        metrics
    }

    fn read(&mut self) -> String {
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
        self.0.get_mut().write_all(request).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.trim_end().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }
}

/// Waits until the coverage in `status` is as wanted.
fn wait_coverage(home: &Home, what: &str, wanted: impl Fn(&Value) -> bool) {
    wait_until(what, || wanted(&coverage(home)).then_some(()));
}

fn a_directory_that_appears_while_descriptors_are_short_is_watched_later(backend: &str) {
    let test = "a_directory_that_appears_while_descriptors_are_short_is_watched_later";
    if !succeeds("prlimit", &["--version"]) {
        return skip(test, "needs prlimit");
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .watch(backend)
        .repository("poll_interval: 200ms")
        .top(SOCKET);
    let home = home_with_projects(&settings, 1);
    let daemon = home.start();
    wait_health(&home, "/readyz", 200);
    let mut metrics = Metrics::of(&home);
    // Every new descriptor is refused.
    limit_descriptors(&daemon, 3);
    fs::create_dir_all(home.at("hr/q/snapshots")).unwrap();
    wait_until("directories that are not watched", || {
        // The server closes a connection without requests after some seconds.
        let is_covered = metrics.read().contains("uncovered_directories 0\n");
        let is_logged = daemon.n_messages("file events are incomplete") > 0;
        (is_logged && !is_covered).then_some(())
    });
    limit_descriptors(&daemon, 1_024);
    wait_for_watches(&home, 2 + 3 + 3);
    let found = coverage(&home);
    assert_eq!(found["uncovered"], 0, "{found}");
    assert_eq!(found["polls"], false, "{found}");
    // Its changes are reported.
    add_project(&home, "hr/q", 7);
    endpoint.wait_for(4);
}

fn mode(home: &Home, below: &str, mode: u32) {
    fs::set_permissions(home.at(below), fs::Permissions::from_mode(mode)).unwrap();
}

fn an_unreadable_directory_is_listed_once_while_it_is_there(backend: &str) {
    let test = "an_unreadable_directory_is_listed_once_while_it_is_there";
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).watch(backend).top(SOCKET);
    let home = home_with_projects(&settings, 2);
    // Ignored by default, so it is no trouble that it is unreadable.
    for directory in ["sales/locked", "closed", "lost+found"] {
        fs::create_dir_all(home.at(directory)).unwrap();
        mode(&home, directory, 0o000);
    }
    let Some(command) = unprivileged(&home, test) else {
        return;
    };
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    // It is never readable.
    fs::DirBuilder::new()
        .mode(0o000)
        .create(home.at("sales/later"))
        .unwrap();
    let count = |listed: &Value, path: &str| {
        let listed = listed["incomplete"].as_array().unwrap();
        listed.iter().filter(|one| one["path"] == path).count()
    };
    let places = ["sales/locked", "closed", "sales/later"];
    wait_until("each listed once", || {
        let status = home.json(&["status"]);
        let listed = places.iter().all(|path| count(&status, path) == 1);
        let uncovered = &status["coverage"];
        let paths = uncovered["directories"].as_array()?;
        (listed && uncovered["uncovered"] == 3 && paths.len() == 3).then_some(())
    });
    let printed = home.command(&["status"]);
    assert!(printed.contains("3 directories not watched"), "{printed}");
    assert!(printed.contains("  closed: Permission denied"), "{printed}");
    assert!(!printed.contains("lost+found"), "{printed}");
    let metrics = Metrics::of(&home).read();
    for metric in ["incomplete_files", "uncovered_directories"] {
        let line = format!("project_webhooks_{metric} 3\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    for place in places {
        fs::remove_dir(home.at(place)).unwrap();
    }
    wait_until("none listed", || {
        let status = home.json(&["status"]);
        let listed = places.iter().any(|path| count(&status, path) > 0);
        (!listed && status["coverage"]["uncovered"] == 0).then_some(())
    });
    assert_eq!(home.json(&["status"])["incomplete"], serde_json::json!([]));
    assert_eq!(daemon.events(), [""; 0]);
}

fn a_directory_below_an_unreadable_one_is_watched_when_that_is_readable(backend: &str) {
    let test = "a_directory_below_an_unreadable_one_is_watched_when_that_is_readable";
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).watch(backend);
    let home = home_with_projects(&settings, 2);
    // Readable, but nothing in it can be opened.
    mode(&home, "sales/p0", 0o644);
    let Some(command) = unprivileged(&home, test) else {
        return;
    };
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    wait_coverage(&home, "two directories without a watch", |found| {
        found["uncovered"] == 2
    });
    mode(&home, "sales/p0", 0o755);
    wait_for_watches(&home, 2 + 2 * 3);
    wait_coverage(&home, "full coverage", |found| found["uncovered"] == 0);
    home.write("sales/p0/snapshots/live.xml", &xml("p", "e0", "live"));
    wait_until("the live snapshot", || {
        let events = daemon.events();
        events
            .contains(&"Snapshot Create sales/p0".to_owned())
            .then_some(())
    });
}
