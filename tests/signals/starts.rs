//! Starts: early signals, and refusals with their exit status.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use super::{home, snapshot};
use crate::common::{Daemon, Endpoint, Run as _, Settings, wait_until};

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
