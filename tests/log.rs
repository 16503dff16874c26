//! The log: a reader that stalls stops nothing, and loses lines that are counted. A reload changes
//! the format.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _};
use std::ops::RangeFrom;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use common::{
    Daemon, Endpoint, Home, PATIENCE, Patient, Settings, get, skip, succeeds, wait_health,
    wait_until, write, xml,
};
use rustix::process::{Pid, Signal, kill_process};

const SOCKET: &str = "admin: { listen: \"unix:./admin.sock\" }";

/// A daemon whose log the test reads, or does not read.
struct Logging(Child);

impl Logging {
    fn start(mut command: Command, log: impl Into<Stdio>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.stderr(log).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn wait_exit(&mut self) -> ExitStatus {
        wait_until("the end of the daemon", || self.0.try_wait().unwrap())
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Imports projects with long names, so that few of them fill a log.
fn import(home: &Home, round: usize, n: usize) {
    for number in 0..n {
        let key = format!("{round}{:0>150}/{number:0>150}", "");
        home.write(
            &format!("{key}/project.xml"),
            &xml("a", &format!("{round}-{number}"), "a"),
        );
    }
}

/// The value of the metric of dropped lines.
fn n_dropped(home: &Home) -> u64 {
    let (_, metrics) = get(home, "/metrics").unwrap();
    let mut lines = metrics.lines();
    let series = "project_webhooks_log_lines_dropped_total ";
    let value = lines.find_map(|line| line.strip_prefix(series)).unwrap();
    value.parse().unwrap()
}

/// Imports until further lines were dropped.
fn import_until_dropped(home: &Home, endpoint: &Endpoint, rounds: RangeFrom<usize>) {
    const PROJECTS: usize = 100;
    let before = n_dropped(home);
    for round in rounds.take(100) {
        let n = endpoint.n();
        import(home, round, PROJECTS);
        endpoint.wait_for(n + PROJECTS);
        wait_health(home, "/healthz", 200);
        if n_dropped(home) > before {
            return;
        }
    }
    panic!("no line was dropped");
}

/// The lines of a log, from now on.
fn read(log: PipeReader) -> Receiver<serde_json::Value> {
    let (sender, lines) = sync_channel(1);
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines() {
            // Each line is complete, though others were dropped.
            let line = serde_json::from_str(&line.unwrap()).unwrap();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[test]
fn a_reader_of_the_log_that_stalls_stops_no_delivery_and_not_the_end() {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).top(SOCKET));
    let (log, writer) = std::io::pipe().unwrap();
    let mut daemon = Logging::start(Daemon::command(&home), writer);
    wait_health(&home, "/readyz", 200);
    import_until_dropped(&home, &endpoint, 0..);
    let status = home.json(&["status"]);
    assert!(status["sinceStart"]["droppedLogLines"].as_u64() > Some(0));

    // Once somebody reads, the number of dropped lines is logged, and later lines are complete.
    let lines = read(log);
    let warning = loop {
        let line = lines.recv_timeout(PATIENCE).unwrap();
        if line["message"].as_str().unwrap().contains("were dropped") {
            break line;
        }
    };
    assert!(warning["dropped"].as_u64() > Some(0), "{warning}");
    import(&home, 1_000, 1);
    loop {
        let line = lines.recv_timeout(PATIENCE).unwrap();
        let project = line["project"].as_str().unwrap_or_default();
        if project.starts_with("1000") {
            break;
        }
    }

    // The receiver of the lines stalls again, and with it the reader of the log.
    import_until_dropped(&home, &endpoint, 2_000..);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn errors_before_the_end_are_printed_but_wait_for_no_reader() {
    let endpoint = Endpoint::new();
    let wrong = Settings::all_to(&endpoint).top("unknown: 1");
    let held = Home::new(&Settings::all_to(&endpoint));
    let _holder = held.start();
    for (home, code, reason) in [(&Home::new(&wrong), 78, "unknown"), (&held, 75, "another")] {
        let (log, writer) = std::io::pipe().unwrap();
        let mut daemon = Logging::start(Daemon::command(home), writer);
        assert_eq!(daemon.wait_exit().code(), Some(code));
        let mut text = String::new();
        Patient::of(log).read_to_string(&mut text).unwrap();
        assert!(text.contains(reason), "{text}");

        let (_log, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[b'\n'; 64 * 1024]).unwrap();
        let mut daemon = Logging::start(Daemon::command(home), writer);
        assert_eq!(daemon.wait_exit().code(), Some(code));
    }
}

/// Runs the command at `$@` with the directory `$0` in the place of journald's.
const WITH_JOURNAL: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
                            mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";

/// The command of a daemon that sees this directory in the place of journald's.
fn with_journal(home: &Home, journal: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", WITH_JOURNAL])
        .arg(journal);
    let run = Daemon::command(home);
    command.arg(run.get_program()).args(run.get_args());
    command
}

/// Sets `log.format`.
fn set_format(home: &Home, settings: &Settings, format: &str) {
    home.configure(settings);
    let text = fs::read_to_string(home.config()).unwrap();
    let text = text.replace("format: json", &format!("format: {format}"));
    fs::write(home.config(), text).unwrap();
}

#[test]
fn a_stuck_journald_stops_no_delivery_and_not_the_end() {
    const TEST: &str = "a_stuck_journald_stops_no_delivery_and_not_the_end";
    if !succeeds("unshare", &["--mount", "true"]) {
        return skip(TEST, "needs mount namespaces (root)");
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).top(SOCKET);
    let home = Home::new(&settings);
    set_format(&home, &settings, "journald");
    let journal = home.beside("journal");
    fs::create_dir(&journal).unwrap();
    let journald = UnixDatagram::bind(journal.join("socket")).unwrap();

    let command = with_journal(&home, &journal);
    let mut daemon = Logging::start(command, Stdio::inherit());
    wait_health(&home, "/readyz", 200);
    import_until_dropped(&home, &endpoint, 0..);

    // Once journald goes on, entries have their fields, and one has the number of dropped lines.
    journald.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut has_event = false;
    loop {
        let mut entry = vec![0; 64 * 1024];
        let n = journald.recv(&mut entry).unwrap();
        let entry = String::from_utf8_lossy(&entry[..n]).into_owned();
        has_event |= entry.contains("EVENT_ID") && entry.contains("PROJECT");
        if entry.contains("were dropped") {
            assert!(entry.contains("PRIORITY=4\n"), "{entry}");
            assert!(entry.contains("SYSLOG_IDENTIFIER"), "{entry}");
            assert!(entry.contains("DROPPED"), "{entry}");
            break;
        }
    }
    assert!(has_event);
    import_until_dropped(&home, &endpoint, 2_000..);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

/// The end of the key of the project that an engine reports after the reload.
const PROJECT: &str = "sales/orders";

/// Whether an entry of the journal is about the project, with the field of its engine.
fn is_entry_of_models(entry: &str) -> bool {
    entry.contains(PROJECT) && entry.contains("REPOSITORY")
}

/// Starts with one format, and changes to another by a reload.
///
/// Then waits for a line about a project, with the repository of its engine.
fn change_format(before: &str, after: &str) {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .and_repository("{ path: ./models, name: models, settle: 300ms }")
        .and_repository("{ path: ./finance, name: finance, settle: 300ms }")
        .top(SOCKET);
    let home = Home::new(&settings);
    set_format(&home, &settings, before);
    for directory in ["models", "finance", "journal"] {
        fs::create_dir(home.beside(directory)).unwrap();
    }
    let journald = UnixDatagram::bind(home.beside("journal/socket")).unwrap();
    journald.set_nonblocking(true).unwrap();
    let command = match [before, after].contains(&"journald") {
        true => with_journal(&home, &home.beside("journal")),
        false => Daemon::command(&home),
    };
    let daemon = Daemon::launch(&home, command);
    wait_health(&home, "/readyz", 200);

    set_format(&home, &settings, after);
    home.command(&["reload"]);
    let definition = home.beside("models").join(PROJECT).join("project.xml");
    write(&definition, &xml("Orders", "e-1", "one"));
    let what = format!("a line with the repository after {before} to {after}");
    wait_until(&what, || {
        // The log's thread waits until the entries before the reload are received.
        let mut is_in_journal = false;
        let mut entry = vec![0; 64 * 1024];
        while let Ok(n) = journald.recv(&mut entry) {
            is_in_journal |= is_entry_of_models(&String::from_utf8_lossy(&entry[..n]));
        }
        let entries = daemon.entries();
        let is_found = match after {
            "journald" => is_in_journal,
            "json" => entries.iter().any(|entry| {
                entry.field("project").ends_with(PROJECT)
                    && entry.0["span"]["repository"] == "models"
            }),
            _ => entries.iter().any(|entry| {
                let line = entry.message();
                line.contains(PROJECT) && line.contains("engine{repository=models}")
            }),
        };
        is_found.then_some(())
    });
    endpoint.wait_for(2);
    assert!(daemon.terminate().success());
}

#[test]
fn an_engine_names_its_repository_after_a_change_of_the_log_format() {
    change_format("text", "json");
    change_format("json", "text");
}

#[test]
fn an_engine_names_its_repository_after_a_change_from_or_to_journald() {
    const TEST: &str = "an_engine_names_its_repository_after_a_change_from_or_to_journald";
    if !succeeds("unshare", &["--mount", "true"]) {
        return skip(TEST, "needs mount namespaces (root)");
    }
    change_format("text", "journald");
    change_format("json", "journald");
    change_format("journald", "json");
    change_format("journald", "text");
}
