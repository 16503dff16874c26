//! The system calls of a daemon, by strace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::common::{Daemon, Home, Run as _};
use super::skip;

/// The traced calls: those that open, stat, list, sync and connect.
///
/// Reads and writes of sockets and pipes, and calls that wake threads, depend on the machine.
const TRACED: &str = "open,openat,openat2,stat,lstat,newfstatat,statx,getdents64,fsync,fdatasync,\
    connect,inotify_add_watch";

/// The system calls of one run.
pub struct Trace {
    file: PathBuf,
}

/// System calls between two moments.
pub struct Calls(Vec<String>);

impl Trace {
    /// Starts the daemon under strace and waits until it is ready. Returns `None`, with a message,
    /// if that is not possible here.
    pub fn start<'a>(test: &str, home: &'a Home) -> Option<(Daemon<'a>, Self)> {
        let can_trace = Command::new("strace")
            .args(["-D", "-f", "-qq", "-o", "/dev/null", "true"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .ended()
            .is_ok_and(|status| status.success());
        if !can_trace {
            skip(test, "needs strace, and to be allowed to trace");
            return None;
        }
        let file = home.path().join("trace");
        let inner = Daemon::command(home);
        // -D: the daemon is the child and strace a separate process, so that signals reach the
        // daemon.
        let mut command = Command::new("strace");
        command
            .args(["-D", "-f", "-qq", "--seccomp-bpf", "-e", "signal=none"])
            .args(["-e", &format!("trace={TRACED}"), "-o"])
            .arg(&file)
            .arg(inner.get_program())
            .args(inner.get_args())
            .current_dir("/")
            .env_remove("NOTIFY_SOCKET");
        let daemon = Daemon::launch(home, command);
        daemon.wait_ready();
        Some((daemon, Self { file }))
    }

    /// The current position: finished calls have their line in the file.
    pub fn now(&self) -> usize {
        self.text().len()
    }

    /// The calls since then.
    pub fn since(&self, moment: usize) -> Calls {
        Calls(self.text()[moment..].lines().map(str::to_owned).collect())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.file).unwrap()).into_owned()
    }
}

impl Calls {
    /// The number of these calls with an argument like this. A call shown in two parts counts once.
    pub fn count(&self, names: &[&str], argument: &str) -> usize {
        let is_call = |line: &str| {
            let call = line
                .split_once(' ')
                .map_or("", |(_, call)| call.trim_start());
            names.iter().any(|name| {
                call.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('('))
            })
        };
        let wanted = |line: &&String| is_call(line) && line.contains(argument);
        self.0.iter().filter(wanted).count()
    }

    /// The calls of one thread.
    pub fn of(&self, thread: u32) -> Self {
        let begin = format!("{thread} ");
        let calls = self.0.iter().filter(|line| line.starts_with(&begin));
        Self(calls.cloned().collect())
    }

    /// The first call with this in it.
    pub fn position(&self, argument: &str) -> Option<usize> {
        self.0.iter().position(|line| line.contains(argument))
    }

    /// The calls from that one on.
    pub fn from(&self, position: usize) -> Self {
        Self(self.0[position..].to_vec())
    }

    /// The positions at which a project's directory was opened, to observe or to scan it.
    pub fn compared(&self) -> Vec<usize> {
        let is_one = |line: &str| line.contains("openat2(") && line.contains("\"sales/p");
        let lines = self.0.iter().enumerate();
        lines
            .filter_map(|(at, line)| is_one(line).then_some(at))
            .collect()
    }

    /// The position at which a file of this project was first opened. A scan opens none.
    pub fn read_in(&self, project: &str) -> Option<usize> {
        let home = format!("\"{project}\"");
        let mut is_there = false;
        self.0.iter().position(|line| {
            if line.contains("openat2(") {
                is_there = line.contains(&home);
            }
            is_there && line.contains("\"project.xml\", O_RDONLY")
        })
    }

    /// The number of syncs.
    pub fn syncs(&self) -> usize {
        self.count(&["fsync", "fdatasync"], "")
    }

    /// Whether a thread opened this directory, and synced it by its next call.
    pub fn has_synced(&self, directory: &Path) -> bool {
        let open = format!("openat(AT_FDCWD, \"{}\", O_RDONLY", directory.display());
        let mut lines = self.0.iter().enumerate();
        lines.any(|(at, line)| {
            let begin = format!("{} ", line.split(' ').next().unwrap_or_default());
            let is_next = |line: &&String| line.starts_with(&begin) && !line.contains("resumed>");
            let next = self.0[at + 1..].iter().find(is_next);
            line.contains(&open) && next.is_some_and(|next| next.contains("fsync("))
        })
    }

    /// The number of opens of names that end like this.
    pub fn opens(&self, end: &str) -> usize {
        self.count(&["open", "openat", "openat2"], &format!("{end}\""))
    }

    /// The number of calls that open, stat or list.
    pub fn looks(&self) -> usize {
        let names = [
            "open",
            "openat",
            "openat2",
            "stat",
            "lstat",
            "newfstatat",
            "statx",
            "getdents64",
        ];
        self.count(&names, "")
    }

    /// The number of connections over IPv4.
    pub fn connections(&self) -> usize {
        self.count(&["connect"], "AF_INET,")
    }

    /// The last calls, for a failing test.
    pub fn text(&self) -> String {
        let last = self.0.len().saturating_sub(200);
        self.0[last..].join("\n")
    }
}
