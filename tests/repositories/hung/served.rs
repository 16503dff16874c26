//! A repository that a process serves, so that it can hang.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::super::common::{Daemon, Home, own_mounts, skip, succeeds, wait_until};

/// A repository that a process serves. It hangs while that process is stopped.
pub(super) struct Served {
    server: Child,
    pub(super) at: PathBuf,
}

impl Served {
    /// Serves the directory [`backing`] at `NAME`. Returns `None` without FUSE.
    pub(super) fn new(home: &Home, name: &str, test: &str) -> Option<Self> {
        if !own_mounts(test) {
            return None;
        }
        if !succeeds("bindfs", &["--version"]) {
            skip(test, "needs bindfs");
            return None;
        }
        let backing = backing(home, name);
        let at = home.beside(name);
        for directory in [&backing, &at] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let server = Command::new("bindfs")
            .args([
                "-f",
                "-o",
                "entry_timeout=0,attr_timeout=0,negative_timeout=0",
            ])
            .args([&backing, &at])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut served = Self { server, at };
        wait_until("a served directory", || {
            let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let is_mounted = table.contains(&format!(" {} ", served.at.display()));
            let ended = served.server.try_wait().unwrap();
            (is_mounted || ended.is_some()).then_some(())
        });
        if served.server.try_wait().unwrap().is_some() {
            skip(test, "needs FUSE");
            return None;
        }
        Some(served)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.server.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(super) fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it hang, and waits until an engine waits for it.
    pub(super) fn hang_engine_of(&self, daemon: &Daemon<'_>) {
        self.hang();
        wait_until("a stuck engine", || {
            (n_waiting(daemon, "engine") > 0).then_some(())
        });
    }

    /// Lets it hang, and waits until a watch thread waits for it.
    pub(super) fn hang_watch_of(&self, daemon: &Daemon<'_>) {
        self.hang();
        daemon.signal(Signal::USR1);
        wait_until("a stuck watch thread", || {
            (n_waiting(daemon, "watch") > 0).then_some(())
        });
    }

    pub(super) fn answer(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Its end fails all calls that hang.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = succeeds("umount", &["--lazy", &self.at.to_string_lossy()]);
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The directory that is served at `NAME`. It is outside every repository.
pub(super) fn backing(home: &Home, name: &str) -> PathBuf {
    home.beside(&format!("{}.backing", name.replace('/', "-")))
}

/// The threads with a name.
pub(super) fn threads(daemon: &Daemon<'_>, name: &str) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let tasks = tasks.filter_map(|task| Some(task.ok()?.path()));
    let is_named = |task: &PathBuf| read(&task.join("comm")).trim() == name;
    tasks.filter(is_named).collect()
}

/// The number of threads with a name that wait for a server of FUSE.
fn n_waiting(daemon: &Daemon<'_>, name: &str) -> usize {
    // The function of the kernel in which a thread waits for an answer of FUSE.
    let waits = |task: &PathBuf| read(&task.join("wchan")) == "request_wait_answer";
    let tasks = threads(daemon, name);
    tasks.iter().filter(|task| waits(task)).count()
}
