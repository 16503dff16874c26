//! Runs the real binary, reads its log, sends signals.

use std::cell::{Cell, RefCell};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Home, kill, wait_exit, wait_until, xml};

/// The organization of the projects that [`Daemon::fence`] makes.
pub const FENCE: &str = "fence";

/// The last lines of the log that a failing test shows.
const SHOWN: usize = 60;

/// A running daemon; killed when dropped.
pub struct Daemon<'a> {
    home: &'a Home,
    child: Child,
    log: PathBuf,
    tail: RefCell<Tail>,
    fences: Cell<u32>,
}

/// The part of the log that was read.
struct Tail {
    file: File,
    rest: Vec<u8>,
    entries: Vec<Entry>,
}

/// One line of the log.
#[derive(Clone, Debug)]
pub struct Entry(pub serde_json::Value);

impl Entry {
    /// A field as text; empty if there is none.
    pub fn field(&self, name: &str) -> &str {
        self.0
            .get(name)
            .and_then(|value| value.as_str())
            .unwrap_or_default()
    }

    /// The message.
    pub fn message(&self) -> &str {
        self.field("message")
    }
}

impl<'a> Daemon<'a> {
    /// Starts it and waits until it is ready.
    pub fn start(home: &'a Home) -> Self {
        let daemon = Self::launch(home, Self::command(home));
        daemon.wait_ready();
        daemon
    }

    /// The command that runs it.
    pub fn command(home: &Home) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
        command.arg("--config").arg(home.config()).arg("run");
        command.current_dir("/").env_remove("NOTIFY_SOCKET");
        command
    }

    /// Starts this command, with its log appended to one file. Does not wait.
    pub fn launch(home: &'a Home, mut command: Command) -> Self {
        let log = home.path().join("daemon.log");
        let writer = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the log");
        let mut file = File::open(&log).expect("the log");
        file.seek(SeekFrom::End(0)).expect("seeks");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .expect("the program starts");
        Self {
            home,
            child,
            log,
            tail: RefCell::new(Tail {
                file,
                rest: Vec::new(),
                entries: Vec::new(),
            }),
            // Fences of an earlier run are on record.
            fences: Cell::new(0),
        }
    }

    /// Waits until it is ready.
    pub fn wait_ready(&self) {
        self.wait_log("ready", |entry| entry.message().starts_with("ready"));
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the thread that writes the log waits for lines.
    ///
    /// Then everything is in the file that was logged before.
    fn wait_written(&self) {
        // A thread that never waits writes lines that no test asks for.
        const TRIES: usize = 1_000;
        let tasks = format!("/proc/{}/task", self.pid());
        let thread = fs::read_dir(tasks).ok().and_then(|tasks| {
            let mut tasks = tasks.filter_map(|task| Some(task.ok()?.path()));
            tasks.find(|task| {
                let name = fs::read_to_string(task.join("comm"));
                name.is_ok_and(|name| name.trim() == "log")
            })
        });
        let Some(thread) = thread else { return };
        for _ in 0..TRIES {
            let status = fs::read_to_string(thread.join("stat")).unwrap_or_default();
            let state = status.rsplit(") ").next().unwrap_or_default();
            if !state.starts_with(['R', 'D']) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The lines logged since this start.
    pub fn entries(&self) -> Vec<Entry> {
        self.wait_written();
        let mut tail = self.tail.borrow_mut();
        let tail = &mut *tail;
        let mut read = Vec::new();
        tail.file.read_to_end(&mut read).expect("reads the log");
        tail.rest.extend(read);
        while let Some(end) = tail.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = tail.rest.drain(..=end).collect();
            let value = serde_json::from_slice(&line).unwrap_or_else(
                |_| serde_json::json!({ "message": String::from_utf8_lossy(&line) }),
            );
            tail.entries.push(Entry(value));
        }
        tail.entries.clone()
    }

    /// Waits for a line of the log, and returns the first such.
    pub fn wait_log(&self, what: &str, wanted: impl Fn(&Entry) -> bool) -> Entry {
        wait_until(&format!("a log line: {what}"), || {
            self.entries().into_iter().find(|entry| wanted(entry))
        })
    }

    /// Waits for the nth line of the log that contains a text.
    pub fn wait_message(&self, text: &str, n: usize) {
        wait_until(&format!("{n} log lines with: {text}"), || {
            (self.n_messages(text) >= n).then_some(())
        });
    }

    /// Counts the lines of the log that contain a text.
    pub fn n_messages(&self, text: &str) -> usize {
        self.entries()
            .iter()
            .filter(|entry| entry.message().contains(text))
            .count()
    }

    /// The events recorded since this start, in order, as `label organization/project`.
    ///
    /// Events of fences are left out.
    pub fn events(&self) -> Vec<String> {
        self.event_entries()
            .iter()
            .filter(|entry| !entry.field("project").starts_with("fence/"))
            .map(|entry| format!("{} {}", entry.message(), entry.field("project")))
            .collect()
    }

    /// The lines that report recorded events.
    pub fn event_entries(&self) -> Vec<Entry> {
        let mut entries = self.entries();
        entries.retain(|entry| {
            entry.0.get("webhooks").is_some() && !entry.field("event_id").is_empty()
        });
        entries
    }

    /// Waits until all earlier changes are judged, removals too.
    ///
    /// It creates and removes a project of its own.
    pub fn fence(&self) {
        let number = self.fences.get();
        self.fences.set(number + 1);
        let key = format!("{FENCE}/{}-{number}", self.pid());
        self.home
            .write(&format!("{key}/project.xml"), &xml("fence", "", &key));
        let recorded = |label: &str| {
            self.wait_log(&format!("{label} of {key}"), |entry| {
                entry.message() == label && entry.field("project") == key
            });
        };
        recorded("Project Import - Any");
        self.home.remove_all(&key);
        recorded("Project Delete");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("signals");
    }

    /// Sends SIGHUP and waits until the reload ends. Returns whether it was applied.
    pub fn reload(&self) -> bool {
        const APPLIED: &str = "the configuration is applied";
        const REJECTED: &str = "the configuration is rejected";
        let before = (self.n_messages(APPLIED), self.n_messages(REJECTED));
        self.signal(Signal::HUP);
        wait_until("an answer to SIGHUP", || {
            if self.n_messages(APPLIED) > before.0 {
                return Some(true);
            }
            (self.n_messages(REJECTED) > before.1).then_some(false)
        })
    }

    /// Sends SIGKILL.
    pub fn kill(mut self) {
        assert!(kill(&mut self.child), "the daemon is stuck");
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waits").is_none()
    }

    /// Waits for the end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_exit(&mut self.child)
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        kill(&mut self.child);
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of the daemon's log:");
            for line in lines.iter().skip(lines.len().saturating_sub(SHOWN)) {
                eprintln!("  {line}");
            }
        }
    }
}
