//! Programs that run during a test.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::patience::Run as _;

/// The longest time that a test waits for output.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// The program.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_project-webhooks"))
}

/// A running program with its output so far; dropping it kills the program.
pub struct Running {
    child: Child,
    printed: Arc<(Mutex<String>, Condvar)>,
}

impl Running {
    /// Starts it and collects standard output and standard error.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let printed = Arc::new((Mutex::default(), Condvar::new()));
        collect(child.stdout.take().unwrap(), Arc::clone(&printed));
        collect(child.stderr.take().unwrap(), Arc::clone(&printed));
        Self { child, printed }
    }

    /// Its output so far.
    pub fn printed(&self) -> String {
        self.printed.0.lock().unwrap().clone()
    }

    /// Waits until `yields` finds something in the output.
    pub fn wait_for<T>(&self, what: &str, mut yields: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let (text, changed) = &*self.printed;
        let mut text = text.lock().unwrap();
        loop {
            if let Some(found) = yields(&text) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come; printed:\n{text}");
            text = changed.wait_timeout(text, left).unwrap().0;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: impl Read + Send + 'static, printed: Arc<(Mutex<String>, Condvar)>) {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|count| count > 0) {
            let (text, changed) = &*printed;
            text.lock().unwrap().push_str(&line);
            changed.notify_all();
            line.clear();
        }
    });
}

/// Whether a program is on this machine.
pub fn is_there(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .ended()
        .is_ok_and(|status| status.success())
}
