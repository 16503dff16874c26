//! Helpers for the tests of the commands.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use assert_cmd::cargo::CommandCargoExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::patience::{PATIENCE, Patient, Run as _, kill, wait_exit, wait_until};

pub(crate) const SECRET: &str = "a-secret-that-nobody-may-ever-see";

pub(crate) fn program() -> Command {
    let mut command = Command::cargo_bin("project-webhooks").unwrap();
    command
        .stdin(Stdio::null())
        .env("NO_COLOR", "1")
        .env("TZ", "UTC");
    command
}

/// The result of a command.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.status, 0, "{}\n{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    pub(crate) fn failed(self, status: i32) -> String {
        assert_eq!(self.status, status, "{}\n{}", self.out, self.err);
        self.err + &self.out
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.succeeded()).unwrap()
    }
}

pub(crate) fn run(mut command: Command) -> Ran {
    let output = command.run().unwrap();
    Ran {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A repository with a configuration beside it.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new(webhooks: &str) -> Self {
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

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    pub(crate) fn write(&self, relative: &str, text: &str) {
        let path = self.path("repository").join(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .arg("--config")
            .arg(self.path("config.yaml"))
            .args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments))
    }

    /// Starts the daemon and waits until it watches.
    pub(crate) fn daemon(&self) -> Running {
        let log = fs::File::create(self.path("daemon.log")).unwrap();
        let daemon = Running(self.command(&["run"]).stderr(log).spawn().unwrap());
        wait_until("a daemon that watches", || {
            let status = self.run(&["status", "--json"]).json();
            (status["ready"] == true).then_some(())
        });
        daemon
    }

    /// Waits until there are matching deliveries.
    #[track_caller]
    pub(crate) fn deliveries(&self, what: &str, fit: impl Fn(&Value) -> bool) -> Vec<Value> {
        wait_until(what, || {
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

pub(crate) fn project(name: &str) -> String {
    format!("<schema name=\"{name}\"><annotations/></schema>")
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

/// The lines that a process prints.
pub(crate) type Printed = Lines<BufReader<Patient<ChildStdout>>>;

impl Running {
    /// Starts a process whose output is read.
    pub(crate) fn printing(mut command: Command) -> (Self, Printed) {
        let mut running = Self(command.stdout(Stdio::piped()).spawn().unwrap());
        let out = running.0.stdout.take().unwrap();
        (running, BufReader::new(Patient::of(out)).lines())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        wait_exit(&mut self.0).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // A demo removes its directory.
            self.signal(Signal::TERM);
            let begin = Instant::now();
            while matches!(self.0.try_wait(), Ok(None)) && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(2));
            }
            kill(&mut self.0);
        }
    }
}

/// An endpoint that answers everything with one status, which can be changed.
pub(crate) struct Endpoint {
    pub(crate) url: String,
    status: Arc<AtomicU16>,
}

impl Endpoint {
    pub(crate) fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "http://{}/hook?token=hidden",
            listener.local_addr().unwrap()
        );
        let status = Arc::new(AtomicU16::new(status));
        let shared = Arc::clone(&status);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client may open a connection and use another one.
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream?, shared.load(Ordering::SeqCst)));
            }
        });
        Self { url, status }
    }

    pub(crate) fn set(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

pub(crate) fn answer(stream: TcpStream, status: u16) -> std::io::Result<()> {
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

pub(crate) fn webhook(name: &str, url: &str) -> String {
    format!(
        "  - {{ name: {name}, events: \"*\", url: \"{url}\", secret: {SECRET}, \
         retry: {{ schedule: [0s, 1h] }} }}\n"
    )
}
