//! Waits that end: a test that would wait for ever fails.
//!
//! Constraint: no test waits for a process, a pipe, a terminal or a socket in another way. A test that
//! hangs stops the whole run, and nothing says which test it was.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it, and no crate uses it from outside"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

/// How long a test waits before it fails: enough for a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a command may take. Some compile, install packages, or run other tests.
pub const RUN_MAX: Duration = Duration::from_secs(600);

/// Polls until there is an answer.
#[track_caller]
pub fn wait_until<T>(what: &str, answer: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, answer)
}

/// Polls until there is an answer. Panics after `patience`.
#[track_caller]
pub fn wait_within<T>(patience: Duration, what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = answer() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends threads that run until this is set, also if the test panics.
///
/// A scope waits for its threads before it passes a panic on.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A pipe, a terminal or a socket. Its reads and writes fail if they take too long.
pub struct Patient<T> {
    pub stream: T,
    patience: Duration,
}

impl<T> Patient<T> {
    /// Each read and write may take [`PATIENCE`].
    pub fn of(stream: T) -> Self {
        Self::within(PATIENCE, stream)
    }

    /// Each read and write may take so long.
    pub fn within(patience: Duration, stream: T) -> Self {
        Self { stream, patience }
    }
}

impl<T: AsFd> Patient<T> {
    fn wait(&self, event: PollFlags) -> io::Result<()> {
        let patience = Timespec::try_from(self.patience).unwrap();
        let mut polled = [PollFd::new(&self.stream, event)];
        let n_ready = retry_on_intr(|| poll(&mut polled, Some(&patience)))?;
        if n_ready > 0 {
            return Ok(());
        }
        let what = match event {
            PollFlags::OUT => "nothing was taken",
            _ => "nothing came",
        };
        let error = format!("{what} within {:?}", self.patience);
        Err(io::Error::new(io::ErrorKind::TimedOut, error))
    }
}

impl<T: Read + AsFd> Read for Patient<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::IN)?;
        self.stream.read(buffer)
    }
}

impl<T: Write + AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // There is room for so many. A write of more would wait for the other side.
        const ROOM: usize = 4_096;
        self.wait(PollFlags::OUT)?;
        self.stream.write(&bytes[..bytes.len().min(ROOM)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<T> Deref for Patient<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.stream
    }
}

/// Makes a terminal. Returns its end and the side of a program.
pub fn terminal() -> (Patient<File>, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = File::from(openpt(flags).unwrap());
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let mut options = File::options();
    let side = options.read(true).write(true).open(name.to_str().unwrap());
    (Patient::of(terminal), side.unwrap())
}

/// Accepts the next connection.
pub fn accept(listener: &TcpListener) -> io::Result<Patient<TcpStream>> {
    Patient::of(listener).wait(PollFlags::IN)?;
    Ok(Patient::of(listener.accept()?.0))
}

/// Runs a command to its end.
pub trait Run {
    /// Runs it without input, and returns its output. Kills it after [`RUN_MAX`].
    fn run(&mut self) -> io::Result<Output>;

    /// Runs it with the streams that it has, and returns its exit status. Kills it after [`RUN_MAX`].
    fn ended(&mut self) -> io::Result<ExitStatus>;
}

impl Run for Command {
    fn run(&mut self) -> io::Result<Output> {
        self.stdin(Stdio::null());
        self.stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = self.spawn();
        started.and_then(finish).map_err(|error| {
            let text = format!("{self:?}: {error}");
            io::Error::new(error.kind(), text)
        })
    }

    fn ended(&mut self) -> io::Result<ExitStatus> {
        let ended = self.spawn().and_then(finish)?;
        Ok(ended.status)
    }
}

/// Waits for the end of a process, and returns its output. Kills it after [`RUN_MAX`].
pub fn finish(child: Child) -> io::Result<Output> {
    let pid = Pid::from_child(&child);
    let (sender, ended) = mpsc::sync_channel(1);
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    if let Ok(output) = ended.recv_timeout(RUN_MAX) {
        return output;
    }
    let _ = kill_process(pid, Signal::KILL);
    let said = ended.recv_timeout(Duration::from_secs(5));
    let error = format!("has not ended within {RUN_MAX:?}: {said:?}");
    Err(io::Error::new(io::ErrorKind::TimedOut, error))
}

/// Waits for the end of a process. Kills it after [`PATIENCE`], and panics.
#[track_caller]
pub fn wait_exit(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("process {} has not ended within {PATIENCE:?}", child.id());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a process. Returns whether it ended: a system call on a file system that hangs does not.
pub fn kill(child: &mut Child) -> bool {
    let _ = child.kill();
    let deadline = Instant::now() + PATIENCE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
