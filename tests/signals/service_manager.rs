//! The notifications for the service manager.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use super::{home, snapshot};
use crate::common::{
    Daemon, Endpoint, Home, PATIENCE, Settings, Webhook, fetch, in_time, wait_health, wait_until,
    xml,
};

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
