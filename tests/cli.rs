//! The commands, as the real program in processes of its own: without state, beside a stopped
//! daemon and beside a running one. What is waited for has a deadline and no fixed time.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test owns its clock and its threads, and fails by panicking"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use assert_cmd::cargo::CommandCargoExt;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

const SECRET: &str = "a-secret-that-nobody-may-ever-see";

fn program() -> Command {
    let mut command = Command::cargo_bin("project-webhooks").unwrap();
    command
        .stdin(Stdio::null())
        .env("NO_COLOR", "1")
        .env("TZ", "UTC");
    command
}

/// What a command came to.
struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn succeeded(self) -> String {
        assert_eq!(self.status, 0, "{}\n{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    fn failed(self, status: i32) -> String {
        assert_eq!(self.status, status, "{}\n{}", self.out, self.err);
        self.err + &self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.succeeded()).unwrap()
    }
}

fn run(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Asks again until there is an answer.
#[track_caller]
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
    }
}

/// A repository with a configuration beside it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new(webhooks: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self { directory };
        fs::create_dir(place.path("repository")).unwrap();
        let config = format!(
            "repository: {{ path: repository, settle: 100ms }}\nstate_dir: state\n\
             log: {{ format: text }}\nwebhooks:\n{webhooks}"
        );
        fs::write(place.path("config.yaml"), config).unwrap();
        place
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    fn write(&self, relative: &str, text: &str) {
        let path = self.path("repository").join(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .arg("--config")
            .arg(self.path("config.yaml"))
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments))
    }

    /// Starts the daemon and waits until it watches.
    fn daemon(&self) -> Running {
        let log = fs::File::create(self.path("daemon.log")).unwrap();
        let daemon = Running(self.command(&["run"]).stderr(log).spawn().unwrap());
        wait_for("a daemon that watches", || {
            let status = self.run(&["status", "--json"]).json();
            (status["ready"] == true).then_some(())
        });
        daemon
    }

    /// Waits until there are deliveries that fit.
    #[track_caller]
    fn deliveries(&self, what: &str, fit: impl Fn(&Value) -> bool) -> Vec<Value> {
        wait_for(what, || {
            let listed = self.run(&["deliveries", "--json"]).json();
            let fitting: Vec<Value> = listed
                .as_array()?
                .iter()
                .filter(|d| fit(d))
                .cloned()
                .collect();
            (!fitting.is_empty()).then_some(fitting)
        })
    }
}

fn project(name: &str) -> String {
    format!("<schema name=\"{name}\"><annotations/></schema>")
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // SIGTERM first: a demo has a daemon of its own to end.
            self.signal(Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

/// An endpoint that answers everything with one status, which can be changed.
struct Endpoint {
    url: String,
    status: Arc<AtomicU16>,
}

impl Endpoint {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "http://{}/hook?token=hidden",
            listener.local_addr().unwrap()
        );
        let status = Arc::new(AtomicU16::new(status));
        let shared = Arc::clone(&status);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), shared.load(Ordering::SeqCst));
            }
        });
        Self { url, status }
    }

    fn set(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

fn answer(stream: TcpStream, status: u16) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && line != "\r\n" {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
    let body = "answered \u{1b}[2J";
    write!(
        reader.into_inner(),
        "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn webhook(name: &str, url: &str) -> String {
    format!(
        "  - {{ name: {name}, events: \"*\", url: \"{url}\", secret: {SECRET}, \
         retry: {{ schedule: [0s, 1h] }} }}\n"
    )
}

const LABELS: [&str; 7] = [
    "Project Delete",
    "Project Delete and Unpublish",
    "Project Import",
    "Project Import - Any",
    "Project Publish",
    "Snapshot Create",
    "Snapshot Restore",
];

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn the_demo_shows_all_seven_events_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = program();
    command.arg("demo").env("TMPDIR", temporary.path());
    let printed = run(command).succeeded();
    for label in LABELS {
        let row = printed
            .lines()
            .rev()
            .find(|line| line.starts_with(&format!("{label}  ")))
            .unwrap_or_else(|| panic!("no {label} in:\n{printed}"));
        assert!(row.ends_with("verified"), "{row}");
        assert!(
            printed.contains(&format!("-> {label}, after ")),
            "{printed}"
        );
    }
    for command in ["$ mv ", "$ mkdir -p ", "&& cp ", "$ rm -r "] {
        assert!(printed.contains(command), "{command} not in:\n{printed}");
    }
    assert!(printed.contains("All callbacks came: 9"), "{printed}");
    assert!(!printed.contains('\u{1b}'), "{printed:?}");
    assert!(is_empty(temporary.path()));
}

/// What a demo prints, line by line.
type Lines = std::io::Lines<BufReader<std::process::ChildStdout>>;

/// Starts `demo` and reads its lines up to one of this type. The rest can be read by somebody who
/// keeps the lines.
fn start_demo(arguments: &[&str], temporary: &Path, until: &str) -> (Running, Vec<Value>, Lines) {
    let mut command = program();
    command
        .args(["demo", "--json"])
        .args(arguments)
        .env("TMPDIR", temporary)
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let demo = Running(child);
    let mut seen = Vec::new();
    loop {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let is_last = line["type"] == until;
        seen.push(line);
        if is_last {
            return (demo, seen, lines);
        }
    }
}

fn is_gone(pid: &Value) -> bool {
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    test_kill_process(Pid::from_raw(pid).unwrap()).is_err()
}

#[test]
fn a_demo_that_is_kept_goes_on_until_it_is_interrupted() {
    let temporary = tempfile::tempdir().unwrap();
    let (demo, lines, _more) = start_demo(&["--keep"], temporary.path(), "result");
    let result = lines.last().unwrap();
    assert_eq!(result["complete"], true, "{result}");
    assert_eq!(result["events"].as_array().unwrap().len(), 7);
    let start = &lines[0];
    let config = start["config"].as_str().unwrap().to_owned();
    let status = || {
        let mut command = program();
        command.args(["--config", &config, "status", "--json"]);
        run(command).json()
    };
    assert_eq!(status()["pid"], start["daemon"]);
    assert_eq!(demo.end(Signal::INT), Some(0));
    assert!(is_gone(&start["daemon"]));
    assert_eq!(status()["running"], false);
    assert!(Path::new(start["directory"].as_str().unwrap()).exists());
}

#[test]
fn an_interrupted_demo_ends_its_daemon_and_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let temporary = tempfile::tempdir().unwrap();
        let (demo, lines, _more) = start_demo(&[], temporary.path(), "start");
        assert_eq!(demo.end(signal), Some(1));
        assert!(is_gone(&lines[0]["daemon"]), "{signal:?}");
        assert!(is_empty(temporary.path()), "{signal:?}");
    }
}

#[test]
fn a_demo_that_nobody_reads_tidies_up_too() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut demo, lines, more) = start_demo(&[], temporary.path(), "start");
    drop(more);
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
    assert!(is_gone(&lines[0]["daemon"]));
    assert!(is_empty(temporary.path()));
}

#[test]
fn before_the_first_start_there_is_nothing_and_that_is_said() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    place.write("sales/orders/project.xml", &project("Orders"));
    let status = place.run(&["status"]).succeeded();
    assert!(status.starts_with("stopped: "), "{status}");
    assert!(status.contains("the daemon never ran"), "{status}");
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["running"], false);
    assert_eq!(status["webhooks"][0]["name"], "catalog");

    let scan = place.run(&["scan"]).succeeded();
    assert!(scan.contains("adopted: 1 definition"), "{scan}");
    for command in [
        &["events"][..],
        &["deliveries"],
        &["deliveries", "redeliver", "1"],
        &["webhooks", "disable", "catalog"],
    ] {
        let said = place.run(command).failed(1);
        assert!(said.contains("there is no state in"), "{said}");
    }
    let listed = place.run(&["webhooks", "--json"]).json();
    assert_eq!(listed[0]["standing"], "on");
    // Looking has made nothing.
    assert!(!place.path("state").exists());
}

#[test]
fn a_first_start_that_reports_is_scanned_as_it_would_be_reported() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let config = fs::read_to_string(place.path("config.yaml")).unwrap();
    let config = config.replace("settle: 100ms", "settle: 100ms, on_first_start: report");
    fs::write(place.path("config.yaml"), config).unwrap();
    place.write("sales/orders/project.xml", &project("Orders"));
    place.write("sales/orders/snapshots/v1.xml", &project("Orders"));
    place.write("sales/orders/snapshots/v2.xml", "<schema");
    let scan = place.run(&["scan", "--json"]).json();
    let events: Vec<&str> = scan["changes"][0]["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        ["project-import", "project-import-any", "snapshot-create"]
    );
    let event = &scan["changes"][0]["events"][2];
    assert_eq!(event["webhooks"][0], "catalog");
    assert_eq!(event["parameters"]["versionTag"], "v1");
    assert_eq!(
        scan["incomplete"][0]["path"],
        "sales/orders/snapshots/v2.xml"
    );
}

#[test]
fn events_and_deliveries_are_shown_beside_a_running_daemon_and_after_it() {
    let endpoint = Endpoint::start(500);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    place.write("sales/orders/project.xml", &project("Orders"));
    let daemon = place.daemon();
    place.write("sales/orders/snapshots/v1.xml", &project("Orders"));
    let failed = place.deliveries("an attempt", |d| d["attempts"] == 1);
    assert_eq!(failed[0]["state"], "pending");
    assert_eq!(failed[0]["lastStatus"], 500);
    let id = failed[0]["id"].to_string();

    for running in [true, false] {
        let status = place.run(&["status", "--json"]).json();
        assert_eq!(status["running"], running);
        assert_eq!(status["projects"], 1);
        let webhook = &status["webhooks"][0];
        assert_eq!(webhook["pending"], 1);
        assert!(
            webhook["lastError"]["error"]
                .as_str()
                .unwrap()
                .contains("500")
        );
        let text = place.run(&["status"]).succeeded();
        assert!(
            text.starts_with(if running { "running: " } else { "stopped: " }),
            "{text}"
        );
        assert!(text.contains("catalog  on     1 "), "{text}");

        let events = place
            .run(&["events", "list", "--json", "--since", "1h"])
            .json();
        assert_eq!(events.as_array().unwrap().len(), 1);
        let event_id = events[0]["id"].as_str().unwrap();
        let text = place.run(&["events"]).succeeded();
        assert!(
            text.contains("Snapshot Create  sales/orders  live"),
            "{text}"
        );
        for none in [["--event", "Project Publish"], ["--project", "sales/other"]] {
            assert_eq!(
                place.run(&["events", none[0], none[1], "--json"]).json(),
                Value::Array(vec![])
            );
        }
        let shown = place
            .run(&["events", "show", &event_id[..10], "--json"])
            .json();
        assert_eq!(shown["id"], event_id);
        assert_eq!(shown["after"]["path"], "sales/orders/snapshots/v1.xml");
        assert_eq!(shown["because"], "a snapshot appeared");
        assert_eq!(shown["log"][0]["log"][0]["status"], 500);
        let text = place.run(&["events", "show", &event_id[4..12]]).succeeded();
        for expected in ["because", "versionTag        v1", "to catalog: pending"] {
            assert!(text.contains(expected), "{expected} not in:\n{text}");
        }
        assert!(
            place
                .run(&["events", "show", "evt_"])
                .failed(1)
                .contains("hexadecimal")
        );

        let text = place.run(&["deliveries", "show", &id]).succeeded();
        assert!(text.contains("< answered \\u{1b}[2J"), "{text:?}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        place.run(&["deliveries", "show", "99"]).failed(1);
        if running {
            let said = place.run(&["scan"]).succeeded();
            assert!(said.contains("1 project compared: 0 changes"), "{said}");
            daemon.signal(Signal::TERM);
            wait_for("the end of the daemon", || {
                let status = place.run(&["status", "--json"]).json();
                (status["running"] == false).then_some(())
            });
        }
    }
    fs::remove_dir_all(place.path("repository/sales/orders")).unwrap();
    let said = place.run(&["scan"]).succeeded();
    assert!(said.contains("Project Delete -> catalog"), "{said}");
}

#[test]
fn a_running_daemon_acts_at_once_on_what_an_operator_does() {
    let endpoint = Endpoint::start(500);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    place.write("sales/orders/project.xml", &project("Orders"));
    let daemon = place.daemon();
    place.write("sales/orders/snapshots/v1.xml", &project("Orders"));
    place.deliveries("an attempt", |d| d["attempts"] == 1);
    endpoint.set(204);

    // By its schedule it would be sent in an hour.
    let dry = place.run(&["deliveries", "redeliver", "--state", "pending", "--dry-run"]);
    assert!(dry.succeeded().contains("1 delivery would be redelivered"));
    let changed = place
        .run(&["deliveries", "redeliver", "--state", "pending", "--json"])
        .json();
    assert_eq!(
        (&changed["changed"], &changed["daemonTold"]),
        (&1.into(), &true.into())
    );
    let delivered = place.deliveries("the redelivery", |d| d["state"] == "delivered");
    assert_eq!(delivered[0]["origin"], "redelivery");

    let said = place.run(&[
        "webhooks",
        "disable",
        "catalog",
        "--reason",
        "down for a while",
    ]);
    assert!(said.succeeded().contains("catalog is off"));
    place.write("sales/orders/snapshots/v2.xml", &project("Orders"));
    place.deliveries("a delivery that waits", |d| {
        d["state"] == "pending" && d["attempts"] == 0
    });
    let text = place.run(&["webhooks"]).succeeded();
    assert!(text.contains("down for a while"), "{text}");
    assert!(!text.contains("hidden"), "{text}");
    assert!(
        place
            .run(&["webhooks", "enable", "catalg"])
            .failed(1)
            .contains("did you mean catalog?")
    );
    assert!(
        place
            .run(&["webhooks", "enable", "catalog"])
            .succeeded()
            .contains("catalog is on")
    );
    wait_for("what had waited", || {
        let listed = place.run(&["deliveries", "--json"]).json();
        let all = listed.as_array()?.iter().all(|d| d["state"] == "delivered");
        all.then_some(())
    });

    let said = place
        .run(&["deliveries", "purge", "--webhook", "catalog", "--yes"])
        .succeeded();
    assert!(said.contains("2 deliveries purged"), "{said}");
    assert_eq!(
        place.run(&["deliveries", "--json"]).json(),
        Value::Array(vec![])
    );
    assert_eq!(daemon.end(Signal::TERM), Some(0));
}

#[test]
fn what_waits_is_cancelled_without_a_daemon_as_well() {
    let endpoint = Endpoint::start(500);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    place.write("sales/orders/project.xml", &project("Orders"));
    let daemon = place.daemon();
    place.write("sales/orders/snapshots/v1.xml", &project("Orders"));
    let failed = place.deliveries("an attempt", |d| d["attempts"] == 1);
    assert_eq!(daemon.end(Signal::TERM), Some(0));

    // A webhook that is not configured any more.
    let config = fs::read_to_string(place.path("config.yaml")).unwrap();
    fs::write(
        place.path("config.yaml"),
        config.replace("catalog", "other"),
    )
    .unwrap();
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["webhooks"][1]["name"], "catalog");
    assert_eq!(status["webhooks"][1]["standing"], "parked");

    let id = failed[0]["id"].to_string();
    let said = place.run(&["deliveries", "cancel", &id]).succeeded();
    assert!(
        said.contains("1 delivery cancelled; no daemon runs"),
        "{said}"
    );
    assert_eq!(
        place.run(&["deliveries", "--json"]).json()[0]["state"],
        "cancelled"
    );
    let said = place.run(&["deliveries", "cancel", &id]).failed(1);
    assert!(said.contains("No delivery is meant"), "{said}");
    place
        .run(&["deliveries", "cancel", "--webhook", "catalog"])
        .succeeded();
}

#[test]
fn a_test_event_needs_no_daemon_and_its_exchange_is_printed() {
    let endpoint = Endpoint::start(204);
    let place = Place::new(&webhook("catalog", &endpoint.url));
    let text = place.run(&["webhooks", "test", "catalog"]).succeeded();
    for expected in [
        "> webhook-event: test",
        "> webhook-signature: v1,",
        "< 204",
        "delivered after",
    ] {
        assert!(text.contains(expected), "{expected} not in:\n{text}");
    }
    assert!(!text.contains("hidden") && !text.contains(SECRET), "{text}");
    endpoint.set(503);
    let exchange: Value = serde_json::from_str(
        &place
            .run(&["webhooks", "test", "catalog", "--json"])
            .failed(1),
    )
    .unwrap();
    assert_eq!(exchange["status"], 503);
    assert_eq!(exchange["delivered"], false);
    assert!(!place.path("state").exists());
}

#[test]
fn names_on_disk_do_not_reach_the_terminal_as_they_are() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    place.write("sales/orders/project.xml", &project("Orders"));
    place.write("sales/orders/snapshots/\u{1b}[2J\u{9b}\n.xml", "<schema");
    let daemon = place.daemon();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["scan"],
        &["scan", "--json"],
    ] {
        let printed = place.run(arguments).succeeded();
        assert!(printed.contains("[2J"), "{printed:?}");
        let is_safe = |c: char| c == '\n' || !c.is_control();
        assert!(printed.chars().all(is_safe), "{printed:?}");
    }
    drop(daemon);
}

#[test]
fn an_operators_shell_without_the_services_credentials_can_ask() {
    let place = Place::new(
        "  - { name: a, events: \"*\", url: \"http://127.0.0.1:9/\", secret: { credential: c } }\n",
    );
    place.run(&["status"]).succeeded();
    place.run(&["scan"]).succeeded();
    // What sends needs them.
    let said = place.run(&["webhooks", "test", "a"]).failed(78);
    assert!(said.contains("CREDENTIALS_DIRECTORY"), "{said}");
}

#[test]
fn the_exit_status_tells_usage_from_configuration() {
    let place = Place::new("  - { name: a, event: nonsense, url: \"http://127.0.0.1:9/\" }\n");
    for command in ["run", "scan", "status", "events", "deliveries", "webhooks"] {
        let said = place.run(&[command]).failed(78);
        assert!(
            said.contains("config.yaml:5:23: webhooks[0].event"),
            "{said}"
        );
    }
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    for arguments in [
        &["nonsense"][..],
        &["deliveries", "redeliver"],
        &["deliveries", "purge", "--dry-run"],
        &["deliveries", "cancel", "--state", "dead"],
        &["deliveries", "list", "--state", "lost"],
        &["events", "--since", "yesterday"],
        &["events", "--event", "saved"],
    ] {
        place.run(arguments).failed(2);
    }
}

#[test]
fn packagers_get_completions_and_a_manual_page_without_a_configuration() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let mut command = program();
        command.args(["completions", shell]);
        assert!(run(command).succeeded().contains("redeliver"), "{shell}");
    }
    let mut command = program();
    command.arg("man");
    let page = run(command).succeeded();
    assert!(page.contains(".TH project-webhooks 1 "), "{}", &page[..200]);
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let mut child = program().arg("man").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
