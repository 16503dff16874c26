//! The thread that receives audit records and fills the memory.
//!
//! Constraint: the thread must never stop reading, because the kernel drops the records of a slow
//! reader. So the thread parses records without the lock, and takes the lock only to add changes.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::memory::{Act, Memory, Question};
use crate::clock::Clock;

/// The counts since the start of the thread, and the error of the thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// The number of system calls with the configured key.
    pub n_calls: u64,
    /// How often records were lost.
    pub n_losses: u64,
    /// Why the thread ended: an error, or a panic. `None` while it runs.
    pub failure: Option<String>,
}

/// The state that the thread shares with the engine.
#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    memory: Memory,
    counts: Counts,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        // The memory is valid after each added change, so it is usable even after a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running reader. Dropping it stops the thread.
#[derive(Debug)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
    /// Closing this stream ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Joins the kernel's audit group and starts the thread.
    ///
    /// `key` is the key of the audit rule.
    #[cfg(target_os = "linux")]
    pub(crate) fn start(key: &str, clock: Clock) -> io::Result<Self> {
        let log = super::netlink::AuditLog::join()?;
        let (stop, stopped) = UnixStream::pair()?;
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            log,
            stopped,
            shared: Arc::clone(&shared),
            key: key.to_owned(),
            clock,
            assembler: super::Assembler::default(),
            has_lost: false,
        };
        let thread = std::thread::Builder::new()
            .name("actor".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Only Linux has audit records.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn start(_key: &str, _clock: Clock) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.known().counts.clone()
    }

    /// Returns the answer to each question, in order. Waits at most `patience` in total.
    pub(crate) fn answer(
        &self,
        questions: &[Question],
        patience: Duration,
        clock: Clock,
    ) -> Vec<Option<Arc<Act>>> {
        let until = clock.moment().saturating_add(patience);
        let mut answers: Vec<Option<Arc<Act>>> = vec![None; questions.len()];
        let mut known = self.shared.known();
        loop {
            for (question, answer) in questions.iter().zip(&mut answers) {
                if answer.is_none() {
                    *answer = known.memory.answer(question);
                }
            }
            let rest = until.saturating_sub(clock.moment());
            let is_over = rest.is_zero() || known.counts.failure.is_some();
            if is_over || answers.iter().all(Option::is_some) {
                return answers;
            }
            let waited = self.shared.changed.wait_timeout(known, rest);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(target_os = "linux")]
struct Worker {
    log: super::netlink::AuditLog,
    stopped: UnixStream,
    shared: Arc<Shared>,
    key: String,
    clock: Clock,
    assembler: super::Assembler,
    /// Whether records were lost. The kernel drops further records until the queue is empty.
    has_lost: bool,
}

/// The maximum number of records in a batch.
///
/// After each batch, the thread checks if it must stop.
#[cfg(target_os = "linux")]
const RECORDS_MAX: usize = 1024;

/// The failure if the thread panics.
#[cfg(target_os = "linux")]
const PANICKED: &str = "the thread panicked, see the log lines before this one";

/// Forgets all changes when the thread ends, also by a panic, and reports why it ended.
///
/// The thread reads no further records. They could be newer, and about the same files as the changes
/// in the memory.
#[cfg(target_os = "linux")]
struct ThreadEnd {
    shared: Arc<Shared>,
    failure: Option<String>,
}

#[cfg(target_os = "linux")]
impl Drop for ThreadEnd {
    fn drop(&mut self) {
        let mut known = self.shared.known();
        known.memory = Memory::default();
        known.counts.failure = self.failure.take();
        drop(known);
        self.shared.changed.notify_all();
    }
}

#[cfg(target_os = "linux")]
impl Worker {
    fn run(mut self) {
        let mut end = ThreadEnd {
            shared: Arc::clone(&self.shared),
            failure: Some(PANICKED.to_owned()),
        };
        end.failure = self.read().err().map(|error| error.to_string());
    }

    /// Reads records until the [`Reader`] is dropped.
    fn read(&mut self) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            let mut descriptors = [
                PollFd::from_borrowed_fd(self.log.descriptor(), PollFlags::IN),
                PollFd::new(&self.stopped, PollFlags::IN),
            ];
            match poll(&mut descriptors, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [_, stopped] = &descriptors;
            if !stopped.revents().is_empty() {
                return Ok(());
            }
            self.drain()?;
        }
    }

    /// Reads a batch of queued records. Takes the lock once to add all their changes.
    fn drain(&mut self) -> io::Result<()> {
        use super::netlink::Received;
        use super::{Assembled, changes};
        let mut found = Vec::new();
        let mut is_empty = false;
        for _ in 0..RECORDS_MAX {
            let assembled = match self.log.receive()? {
                Received::Record(kind, text) => self.assembler.take(kind, text),
                Received::Other => Assembled::Nothing,
                Received::Overflow => Assembled::Lost,
                Received::Empty => {
                    is_empty = true;
                    break;
                }
            };
            match assembled {
                Assembled::Nothing => {}
                Assembled::Lost => self.has_lost = true,
                // The lost records may be about the files of this call, and may be newer.
                Assembled::Complete(_) if self.has_lost => {}
                Assembled::Complete(call) => found.push(changes(*call, &self.key)),
            }
        }
        let mut known = self.shared.known();
        if self.has_lost {
            // Forget all changes so far, because the lost records may be about the same files.
            found.clear();
            known.memory.lost(self.clock.now().as_millisecond());
        }
        for (act, changes) in found {
            known.counts.n_calls += u64::from(act.has_key);
            known.memory.add(&act, changes);
        }
        if self.has_lost && is_empty {
            self.has_lost = false;
            known.counts.n_losses += 1;
            self.assembler.clear();
        }
        drop(known);
        self.shared.changed.notify_all();
        Ok(())
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::actor::{Asked, Change, Deed, PathNodes};

    fn panic_with(_end: ThreadEnd) {
        panic!("a panic");
    }

    /// After the end, a later change of the same file by another user has no record.
    #[test]
    fn the_end_of_the_thread_forgets_all_changes() {
        let shared = Arc::new(Shared::default());
        let node = ((8, 1), 50);
        let act = Arc::new(Act {
            serial: 1,
            time_ms: 1_500,
            login: Some(1),
            effective: 1,
            pid: 7,
            program: "/bin/x".to_owned(),
            key: None,
            has_key: true,
        });
        let wrote = Change {
            act: Arc::clone(&act),
            node,
            deed: Deed::Wrote,
        };
        shared.known().memory.add(&act, vec![wrote]);
        let question = Question {
            path: PathNodes {
                directories: Vec::new(),
                names: Vec::new(),
            },
            asked: Asked::Rewritten {
                node,
                changed_ns: 2_000_000_000,
                since_ns: 1_000_000_000,
            },
        };
        let reader = Reader {
            shared: Arc::clone(&shared),
            stop: None,
            thread: None,
        };
        let answer = || {
            let answers = reader.answer(
                std::slice::from_ref(&question),
                Duration::ZERO,
                Clock::start(),
            );
            answers.into_iter().next().flatten()
        };
        assert_eq!(answer(), Some(act));
        let end = ThreadEnd {
            shared,
            failure: Some(PANICKED.to_owned()),
        };
        catch_unwind(AssertUnwindSafe(|| panic_with(end))).unwrap_err();
        assert_eq!(answer(), None);
        assert_eq!(reader.counts().failure.as_deref(), Some(PANICKED));
    }
}
