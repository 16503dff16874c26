//! Signals that end the daemon, and a terminal that closes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::Duration;

use axum::http::StatusCode;
use project_webhooks::receiver::Reply;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

use super::{home, snapshot};
use crate::common::{
    Daemon, Endpoint, Home, Patient, Settings, Webhook, skip, succeeds, wait_exit, wait_health,
};

#[test]
fn sigterm_lets_running_requests_finish_and_exits_with_0() {
    let endpoint = Endpoint::answering(|_| Reply {
        delay: Duration::from_millis(700),
        ..Reply::status(StatusCode::OK)
    });
    let home = home(&Settings::of([
        Webhook::new("all", &endpoint.url()).events("[snapshot-create]")
    ]));
    let daemon = home.start();
    snapshot(&home, "s1");
    snapshot(&home, "s2");
    endpoint.wait_for(1);
    // The endpoint has not answered yet.
    assert_eq!(daemon.terminate().code(), Some(0));
    // The result is recorded: the next start sends only the other deliveries.
    let daemon = home.start();
    let came = endpoint.wait_for(2);
    daemon.fence();
    assert_eq!(endpoint.n(), 2);
    let tags: Vec<_> = came.iter().map(|one| one.parameter("versionTag")).collect();
    assert_eq!(tags, [Some("s1"), Some("s2")]);
}

/// A receiver, a client of the control socket and one of the admin server hold their requests.
#[test]
fn sigint_ends_it_as_well_and_a_second_signal_ends_it_at_once() {
    for signal in [Signal::INT, Signal::TERM] {
        let endpoint = Endpoint::answering(|_| Reply {
            delay: Duration::from_secs(3_600),
            ..Reply::status(StatusCode::OK)
        });
        let webhook = Webhook::new("all", &endpoint.url())
            .events("[snapshot-create]")
            .with("timeout: 1h");
        let settings = Settings::of([webhook]).top("admin: { listen: \"unix:./admin.sock\" }");
        let home = home(&settings);
        let mut daemon = home.start();
        wait_health(&home, "/readyz", 200);
        snapshot(&home, "s1");
        endpoint.wait_for(1);
        let held = [("state/control.sock", "rel"), ("admin.sock", "GET /x HT")];
        let held = held.map(|(socket, half)| {
            let mut client = UnixStream::connect(home.beside(socket)).unwrap();
            client.write_all(half.as_bytes()).unwrap();
            client
        });
        daemon.signal(signal);
        daemon.wait_message("stopping", 1);
        daemon.signal(signal);
        assert_eq!(daemon.wait_exit().code(), Some(0));
        assert_eq!(
            daemon.n_messages("stopping immediately after a second signal"),
            1
        );
        assert_eq!(daemon.n_messages("did not finish within"), 0);
        drop(held);
    }
}

/// A process that does not outlive the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_terminal_that_closes_ends_the_daemon() {
    if !succeeds("setsid", &["true"]) {
        return skip("a_terminal_that_closes_ends_the_daemon", "needs setsid");
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = fs::File::from(openpt(flags).unwrap());
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let side = fs::File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let run = Daemon::command(&home);
    let daemon = Command::new("setsid")
        .arg("--ctty")
        .arg(run.get_program())
        .args(run.get_args())
        .stdin(side.try_clone().unwrap())
        .stdout(side.try_clone().unwrap())
        .stderr(side)
        .spawn()
        .unwrap();
    let mut daemon = Killed(daemon);
    // As a terminal does, read what is printed.
    let mut lines = BufReader::new(Patient::of(terminal)).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready: ")));
    drop(lines);
    assert_eq!(wait_exit(&mut daemon.0).code(), Some(0));
}
