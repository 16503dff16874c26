//! Signals, the service manager, and the exit status.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use common::{
    Daemon, Endpoint, Home, PATIENCE, Patient, Run as _, Settings, Webhook, fetch, in_time, skip,
    succeeds, wait_exit, wait_health, wait_until, xml,
};
use project_webhooks::receiver::Reply;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

const DEFINITION: &str = "sales/orders/project.xml";

fn snapshot(home: &Home, tag: &str) {
    home.write(
        &format!("sales/orders/snapshots/{tag}.xml"),
        &xml("Orders", "e-1", tag),
    );
}

fn home(settings: &Settings) -> Home {
    let home = Home::new(settings);
    home.write(DEFINITION, &xml("Orders", "e-1", "one"));
    home
}

/// An endpoint that answers only once the gate is open.
fn endpoint_with_gate() -> (Endpoint, Arc<AtomicBool>) {
    let gate = Arc::new(AtomicBool::new(false));
    let open = Arc::clone(&gate);
    let endpoint = Endpoint::answering(move |_| {
        let status = if open.load(Ordering::Acquire) {
            200
        } else {
            503
        };
        Reply::status(StatusCode::from_u16(status).unwrap())
    });
    (endpoint, gate)
}

/// The program has begun when it opens its configuration, here a FIFO.
#[test]
fn signals_that_come_before_the_handlers_are_handled_later() {
    const ROUNDS: usize = 10;
    let endpoint = Endpoint::new();
    let home = home(&Settings::all_to(&endpoint));
    let written = fs::read(home.config()).unwrap();
    let beside = home.beside("beside.yaml");
    for _ in 0..ROUNDS {
        fs::remove_file(home.config()).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, home.config(), FileType::Fifo, mode, 0).unwrap();
        fs::write(&beside, &written).unwrap();
        // It has a writer before the program begins, or the program would read it as empty.
        let mut fifo = OpenOptions::new()
            .read(true)
            .write(true)
            .open(home.config())
            .unwrap();
        let daemon = Daemon::launch(&home, Daemon::command(&home));
        wait_until("the program has begun", || {
            let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).ok()?;
            let mut open = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            open.any(|file| file.ends_with("config.yaml")).then_some(())
        });
        daemon.signal(Signal::HUP);
        daemon.signal(Signal::USR1);
        // A reload reads a file.
        fs::rename(&beside, home.config()).unwrap();
        fifo.write_all(&written).unwrap();
        drop(fifo);
        daemon.wait_message("the configuration is applied", 1);
        daemon.wait_message("SIGUSR1: rescanning everything", 1);
        daemon.fence();
        assert!(daemon.terminate().success());
    }
}

#[test]
fn a_valid_reload_is_applied_as_a_whole() {
    let (first, second, third) = (Endpoint::new(), Endpoint::new(), Endpoint::new());
    let of = |webhooks: &[(&str, &Endpoint)]| {
        Settings::of(webhooks.iter().map(|(name, endpoint)| {
            Webhook::new(name, &endpoint.url()).events("[snapshot-create]")
        }))
    };
    let home = home(&of(&[("a", &first), ("b", &second)]));
    let daemon = home.start();
    snapshot(&home, "s1");
    first.wait_for(1);
    second.wait_for(1);

    // Remove one webhook and add another.
    home.configure(&of(&[("a", &first), ("c", &third)]));
    assert!(daemon.reload());
    snapshot(&home, "s2");
    first.wait_for(2);
    assert_eq!(third.wait_for(1)[0].parameter("versionTag"), Some("s2"));
    daemon.fence();
    assert_eq!((first.n(), second.n(), third.n()), (2, 1, 1));

    // Configured again, it gets the events from then on.
    home.configure(&of(&[("a", &first), ("b", &second), ("c", &third)]));
    assert!(daemon.reload());
    snapshot(&home, "s3");
    let tags: Vec<String> = second
        .wait_for(2)
        .iter()
        .filter_map(|one| one.parameter("versionTag").map(str::to_owned))
        .collect();
    assert_eq!(tags, ["s1", "s3"]);
}

#[test]
fn pending_deliveries_use_new_settings_and_those_of_a_removed_webhook_are_parked() {
    let (down, open) = endpoint_with_gate();
    let elsewhere = Endpoint::new();
    let slow = "[0s, 1h, 1h]";
    let quick = "[0s, 100ms, 200ms, 400ms, 1s, 2s, 5s, 5s]";
    let of = |webhooks: &[(&str, &Endpoint, &str)]| {
        Settings::of(webhooks.iter().map(|(name, endpoint, schedule)| {
            Webhook::new(name, &endpoint.url())
                .events("[snapshot-create]")
                .schedule(schedule)
        }))
    };
    let home = home(&of(&[("moved", &down, quick), ("parked", &down, quick)]));
    let daemon = home.start();
    snapshot(&home, "s1");
    // Two of each: both have failed at least once.
    wait_until("attempts of both", || {
        let failures = |name: &str| {
            daemon
                .entries()
                .iter()
                .filter(|e| e.message().starts_with("failed") && e.field("webhook") == name)
                .count()
        };
        (failures("moved") > 0 && failures("parked") > 0).then_some(())
    });
    // One has another address now; the other is removed.
    home.configure(&of(&[("moved", &elsewhere, quick)]));
    assert!(daemon.reload());
    assert_eq!(elsewhere.wait_for(1)[0].parameter("versionTag"), Some("s1"));
    open.store(true, Ordering::Release);
    snapshot(&home, "s2");
    elsewhere.wait_for(2);
    daemon.fence();
    assert_eq!(elsewhere.n(), 2);
    down.take();
    // Configured again: parked deliveries are sent, but no events from the time in between.
    home.configure(&of(&[
        ("moved", &elsewhere, quick),
        ("parked", &down, slow),
    ]));
    assert!(daemon.reload());
    let came = down.wait_for(1);
    assert_eq!(came[0].parameter("versionTag"), Some("s1"));
    daemon.fence();
    assert_eq!(down.n(), 1);
}

#[test]
fn a_configuration_that_became_a_pipe_is_rejected_without_waiting() {
    let endpoint = Endpoint::new();
    let settings = Settings::of([Webhook::new("all", &endpoint.url()).events("[snapshot-create]")]);
    let home = home(&settings);
    let daemon = home.start();
    fs::rename(home.config(), home.beside("good.yaml")).unwrap();
    let (mode, kind) = (rustix::fs::Mode::RWXU, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(rustix::fs::CWD, home.config(), kind, mode, 0).unwrap();
    assert!(!daemon.reload());
    snapshot(&home, "s1");
    endpoint.wait_for(1);
    fs::rename(home.beside("good.yaml"), home.config()).unwrap();
    assert!(daemon.reload());
    assert!(daemon.terminate().success());
}

#[test]
fn an_invalid_reload_reports_every_error_and_changes_nothing() {
    let endpoint = Endpoint::new();
    let settings = Settings::of([Webhook::new("all", &endpoint.url()).events("[snapshot-create]")]);
    let home = home(&settings);
    let daemon = home.start();
    let good = fs::read_to_string(home.config()).unwrap();
    let bad = good
        .replace("settle: 300ms", "settle: soon")
        .replace("snapshot-create", "snapshot-creat")
        .replace("state_dir: ./state", "state_dirr: ./elsewhere");
    fs::write(home.config(), bad).unwrap();
    assert!(!daemon.reload());
    for mistake in ["settle", "snapshot-creat", "state_dirr"] {
        daemon.wait_log(mistake, |entry| {
            entry.field("level") == "ERROR" && entry.message().contains(mistake)
        });
    }
    snapshot(&home, "s1");
    endpoint.wait_for(1);
    // A setting that needs a restart is refused by name, with the whole configuration.
    let moved = good
        .replace("state_dir: ./state", "state_dir: ./elsewhere")
        .replace("snapshot-create", "project-publish");
    fs::write(home.config(), moved).unwrap();
    assert!(!daemon.reload());
    daemon.wait_log("state_dir by name", |entry| {
        entry.field("level") == "ERROR" && entry.message().contains("state_dir cannot change")
    });
    // A missing file, and one that is not YAML.
    fs::remove_file(home.config()).unwrap();
    assert!(!daemon.reload());
    fs::write(home.config(), "webhooks: [\n  \u{0}").unwrap();
    assert!(!daemon.reload());
    snapshot(&home, "s2");
    endpoint.wait_for(2);
    fs::write(home.config(), good).unwrap();
    assert!(daemon.reload());
    snapshot(&home, "s3");
    endpoint.wait_for(3);
}

/// Runs `reload`: its exit status and its output.
fn reload_command(home: &Home, state_dir: Option<&str>) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
    command.arg("--config").arg(home.config()).arg("reload");
    command.env_remove("STATE_DIRECTORY");
    if let Some(state_dir) = state_dir {
        command.env("STATE_DIRECTORY", home.path().join(state_dir));
    }
    let output = command.run().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn the_reload_command_waits_and_prints_the_result() {
    let (first, second) = (Endpoint::new(), Endpoint::new());
    let of = |endpoint: &Endpoint| {
        Settings::of([Webhook::new("all", &endpoint.url()).events("[snapshot-create]")])
    };
    let home = home(&of(&first));
    let (status, said) = reload_command(&home, None);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("no running daemon uses"), "{said}");

    let daemon = home.start();
    home.configure(&of(&second));
    let (status, said) = reload_command(&home, None);
    assert_eq!(status, Some(0), "{said}");
    // The daemon has applied it already, so there is no need to wait.
    assert_eq!(daemon.n_messages("the configuration is applied"), 1);
    snapshot(&home, "s1");
    second.wait_for(1);

    // An invalid one: every error, from the daemon if $STATE_DIRECTORY finds it.
    let good = fs::read_to_string(home.config()).unwrap();
    let bad = good
        .replace("settle: 300ms", "settle: soon")
        .replace("snapshot-create", "snapshot-creat");
    fs::write(home.config(), bad).unwrap();
    for state_dir in [None, Some("state")] {
        let (status, said) = reload_command(&home, state_dir);
        assert_eq!(status, Some(78), "{said}");
        for mistake in ["settle", "snapshot-creat"] {
            assert!(said.contains(mistake), "{said}");
        }
    }
    assert_eq!(daemon.n_messages("the configuration is rejected"), 1);

    // Valid for the command but not for the daemon, which does not have the variable.
    let secret = "secret: { env: A_VARIABLE_THAT_IS_NOT_SET }\n    url:";
    fs::write(home.config(), good.replace("url:", secret)).unwrap();
    let (status, said) = reload_command(&home, None);
    assert_eq!(status, Some(78), "{said}");
    assert!(said.contains("A_VARIABLE_THAT_IS_NOT_SET"), "{said}");
    snapshot(&home, "s2");
    second.wait_for(2);
    daemon.fence();
    assert_eq!((first.n(), second.n()), (0, 2));
}

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

#[test]
fn sigusr1_starts_a_full_scan() {
    let endpoint = Endpoint::new();
    // The daemon gets no reports, and no scan is due for a long time.
    let home = home(
        &Settings::all_to(&endpoint)
            .repository("watch: poll")
            .repository("poll_interval: 1h"),
    );
    let daemon = home.start();
    snapshot(&home, "s1");
    daemon.signal(Signal::USR1);
    assert_eq!(endpoint.wait_for(1)[0].parameter("versionTag"), Some("s1"));
    daemon.wait_message("SIGUSR1", 1);
}

#[test]
fn a_second_instance_is_refused_by_the_first_ones_pid() {
    let endpoint = Endpoint::new();
    let home = home(&Settings::all_to(&endpoint));
    let daemon = home.start();
    let output = Daemon::command(&home).run().unwrap();
    assert_eq!(output.status.code(), Some(75));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&daemon.pid().to_string()), "{said}");
    // The first one keeps running.
    snapshot(&home, "s1");
    endpoint.wait_for(1);
    daemon.kill();
    // It leaves nothing behind that would prevent the next start.
    let daemon = home.start();
    assert!(daemon.terminate().success());
}

#[test]
fn a_configuration_error_ends_with_78_and_all_errors() {
    let endpoint = Endpoint::new();
    let home = home(&Settings::all_to(&endpoint));
    let good = fs::read_to_string(home.config()).unwrap();
    let bad = good
        .replace("settle: 300ms", "setle: 300ms")
        .replace("http://", "htp://");
    fs::write(home.config(), bad).unwrap();
    let output = Daemon::command(&home).run().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("setle") && said.contains("settle") && said.contains("\"htp\""),
        "{said}"
    );
    fs::remove_file(home.config()).unwrap();
    let output = Daemon::command(&home).run().unwrap();
    assert_eq!(output.status.code(), Some(78));
}

/// The service manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(home: &Home) -> Self {
        let socket = UnixDatagram::bind(home.beside("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    fn launch<'a>(&self, home: &'a Home, watchdog: Option<Duration>) -> Daemon<'a> {
        let mut command = Daemon::command(home);
        command.env("NOTIFY_SOCKET", home.beside("notify"));
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        Daemon::launch(home, command)
    }

    /// Fills the queue of the socket.
    fn fill(&self, home: &Home) {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sender.connect(home.beside("notify")).unwrap();
        while sender.send(b"of another process").is_ok() {}
    }

    /// The next message.
    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4_096];
        let n = self.socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..n])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// The next message with this line; panics if one of the other lines comes first.
    fn expect(&self, line: &str, not_before: &[&str]) -> Vec<String> {
        wait_until(line, || {
            let message = self.next();
            if message.iter().any(|found| found == line) {
                return Some(message);
            }
            for unwanted in not_before {
                assert!(
                    !message.iter().any(|found| found == unwanted),
                    "{message:?}"
                );
            }
            None
        })
    }
}

fn has_status(message: &[String]) -> bool {
    message.iter().any(|line| {
        line.strip_prefix("STATUS=")
            .is_some_and(|status| !status.is_empty())
    })
}

#[test]
fn the_service_manager_is_notified_of_readiness_reloads_and_the_end() {
    let endpoint = Endpoint::new();
    let home = home(&Settings::all_to(&endpoint));
    home.start().terminate();
    for number in 0..40 {
        home.write(
            &format!("sales/p{number}/project.xml"),
            &xml("P", "", &format!("{number}")),
        );
    }
    let manager = Manager::listen(&home);
    let daemon = manager.launch(&home, None);
    let ready = manager.expect("READY=1", &["STOPPING=1", "RELOADING=1"]);
    // By then the first scan is recorded.
    wait_until("the lines of the first scan", || {
        (daemon.events().len() == 80).then_some(())
    });
    assert!(has_status(&ready), "{ready:?}");
    assert!(
        ready.iter().any(|line| line.contains("41 projects")),
        "{ready:?}"
    );

    for valid in [true, false] {
        if !valid {
            fs::write(home.config(), "nonsense").unwrap();
        }
        assert_eq!(daemon.reload(), valid);
        let reloading = manager.expect("RELOADING=1", &["READY=1"]);
        let monotonic = reloading
            .iter()
            .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
            .and_then(|text| text.parse::<u64>().ok());
        assert!(monotonic.is_some_and(|at| at > 0), "{reloading:?}");
        let ready = manager.expect("READY=1", &["STOPPING=1"]);
        assert!(has_status(&ready), "{ready:?}");
    }
    assert_eq!(daemon.terminate().code(), Some(0));
    manager.expect("STOPPING=1", &["READY=1"]);
}

/// The manager reads nothing during the scan, so its queue is full at times.
#[test]
fn a_reload_during_the_first_scan_is_applied_and_loses_nothing() {
    const N: usize = 600;
    in_time(|| {
        let (endpoint, later) = (Endpoint::new(), Endpoint::new());
        let all = Webhook::new("all", &endpoint.url()).events("[project-import-any]");
        let added = Webhook::new("later", &later.url()).events("[snapshot-create]");
        let of = |webhooks: &[&Webhook]| {
            let settings = Settings::of(webhooks.iter().copied().cloned());
            settings.repository("on_first_start: report")
        };
        let home = home(&of(&[&all]));
        for number in 1..N {
            let (at, id) = (
                format!("sales/p{number}/project.xml"),
                format!("e-p{number}"),
            );
            home.write(&at, &xml("P", &id, "one"));
        }
        let manager = Manager::listen(&home);
        let daemon = manager.launch(&home, Some(Duration::from_millis(20)));
        daemon.wait_message("full scan started", 1);
        // The scan does not go on before the signal comes.
        daemon.signal(Signal::STOP);
        home.reconfigure(&of(&[&all, &added]));
        daemon.signal(Signal::HUP);
        daemon.signal(Signal::CONT);
        daemon.wait_message("the configuration is applied", 1);
        if daemon.n_messages("ready: ") > 0 {
            // The scan may have ended before the signal.
            return false;
        }
        manager.expect("WATCHDOG=1", &["STOPPING=1"]);
        daemon.wait_ready();
        snapshot(&home, "s1");
        assert_eq!(later.wait_for(1)[0].parameter("versionTag"), Some("s1"));
        let came = endpoint.wait_for(N);
        daemon.fence();
        assert_eq!((endpoint.n(), later.n()), (N, 1));
        let ids: BTreeSet<&str> = came.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids.len(), N);
        assert_eq!(daemon.terminate().code(), Some(0));
        true
    });
}

#[test]
fn a_start_without_a_repository_ends_with_the_reason_and_can_be_reloaded() {
    let endpoint = Endpoint::new();
    let home =
        Home::new(&Settings::all_to(&endpoint).top("admin: { listen: \"unix:./admin.sock\" }"));
    fs::remove_dir(home.at("")).unwrap();
    let manager = Manager::listen(&home);
    let daemon = manager.launch(&home, None);
    let ready = manager.expect("READY=1", &["STOPPING=1", "RELOADING=1"]);
    let status = ready.iter().find(|line| line.starts_with("STATUS="));
    assert!(
        status.is_some_and(|line| line.contains("is missing")),
        "{ready:?}"
    );
    assert_eq!(daemon.n_messages("ready"), 0);
    wait_health(&home, "/readyz", 503);
    let answer = fetch(&home, "/readyz");
    let path = home.at("").display().to_string();
    let path = path.trim_end_matches('/');
    assert!(
        answer.contains("is missing") && answer.contains(path),
        "{answer}"
    );
    assert!(daemon.reload());
    manager.expect("RELOADING=1", &["READY=1"]);
    let ready = manager.expect("READY=1", &["STOPPING=1"]);
    assert!(
        ready.iter().any(|line| line.contains("is missing")),
        "{ready:?}"
    );
    fs::create_dir(home.at("")).unwrap();
    daemon.wait_ready();
    home.write("sales/p/project.xml", &xml("P", "", ""));
    endpoint.wait_for(1);
    assert_eq!(daemon.terminate().code(), Some(0));
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

#[test]
fn the_status_line_is_current_and_the_watchdog_is_fed() {
    let endpoint = Endpoint::new();
    let home = home(&Settings::all_to(&endpoint));
    let manager = Manager::listen(&home);
    let daemon = manager.launch(&home, Some(Duration::from_millis(400)));
    manager.expect("READY=1", &[]);
    for _ in 0..3 {
        manager.expect("WATCHDOG=1", &["STOPPING=1"]);
    }
    // The service manager shows the trouble to people.
    let status_with = |text: &str| {
        wait_until(&format!("STATUS= with {text}"), || {
            manager
                .next()
                .into_iter()
                .find(|line| line.starts_with("STATUS=") && line.contains(text))
        })
    };
    fs::rename(home.at(""), home.beside("away")).unwrap();
    status_with("trouble");
    fs::rename(home.beside("away"), home.at("")).unwrap();
    status_with("watching 1 project");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_service_manager_that_does_not_read_delays_nothing_and_hears_it_later() {
    let endpoint = Endpoint::new();
    let home = home(&Settings::all_to(&endpoint));
    let manager = Manager::listen(&home);
    manager.fill(&home);
    let daemon = manager.launch(&home, Some(Duration::from_millis(200)));
    daemon.wait_ready();
    assert!(daemon.reload());
    snapshot(&home, "s1");
    endpoint.wait_for(1);
    manager.expect("READY=1", &["RELOADING=1", "STOPPING=1"]);
    manager.expect("RELOADING=1", &["READY=1"]);
    manager.expect("READY=1", &["STOPPING=1"]);
    manager.expect("WATCHDOG=1", &["STOPPING=1"]);
    manager.fill(&home);
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_new_layout_waits_for_removals_under_the_old_one() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).settle("1s");
    let home = Home::new(&settings);
    let a = xml("Orders", "e-1", "one");
    home.write("sales/orders/project.xml", &a);
    home.write("sales/kept/project.xml", &xml("Kept", "e-2", "one"));
    home.write("sales/kept/old/v1.xml", &xml("Kept", "e-2", "one"));
    let daemon = home.start();
    home.remove_all("sales/orders");
    home.reconfigure(
        &settings
            .clone()
            .repository("layout: { snapshot: \"{organization}/{project}/old/{versionTag}.xml\" }"),
    );
    assert!(daemon.reload());
    daemon.wait_message("existing projects are recorded without events", 1);
    // At the start, under the old layout, under the new one.
    daemon.wait_message("full scan finished", 3);
    daemon.fence();
    let came = endpoint.wait_for(1);
    assert_eq!(came.len(), 1, "{came:?}");
    assert_eq!(
        (came[0].event.as_str(), &came[0].payload[..]),
        ("project-delete", a.as_bytes())
    );
    // The snapshot is known under the new layout, and a change of it is an event.
    home.write("sales/kept/old/v1.xml", &xml("Kept", "e-2", "two"));
    let came = endpoint.wait_for(2);
    assert_eq!(came[1].event, "snapshot-create");
}

#[test]
fn a_reload_that_waits_for_removals_stops_no_signal_or_command() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).settle("1h");
    let home = home(&settings);
    home.write("sales/kept/project.xml", &xml("Kept", "e-2", "one"));
    let daemon = home.start();
    fs::remove_file(home.at(DEFINITION)).unwrap();
    home.reconfigure(
        &settings
            .repository("layout: { snapshot: \"{organization}/{project}/old/{versionTag}.xml\" }"),
    );
    assert!(daemon.reload());
    assert_eq!(daemon.n_messages("the engine has been busy"), 0);
    daemon.wait_message("takes effect once the changes", 1);
    assert!(home.command(&["accept"]).contains("No removals are held"));
    assert_eq!(daemon.n_messages("recorded without events"), 0);
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(endpoint.n(), 0);
}
