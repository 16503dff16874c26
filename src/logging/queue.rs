//! A bounded queue of log lines, and the thread that writes them.
//!
//! Constraint: adding a line never waits for the reader of the log. If the reader stops, because
//! journald hangs or a pipe is full, the queue fills up, and further lines are dropped and counted.
//! The count is logged when the reader continues.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::warn;

use super::journal::JournalEntry;

/// The maximum memory of queued lines, in bytes: about 3,000 lines.
const BYTES_MAX: usize = 1024 * 1024;

/// A batch takes no further items once it has this many bytes of text.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

/// How long a flush waits for the reader of the log.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// An item of the log.
pub(super) enum Item {
    /// One or more lines, each with its line break.
    Text(Vec<u8>),
    Journal(Box<JournalEntry>),
}

impl Item {
    fn size(&self) -> usize {
        let content = match self {
            Self::Text(text) => text.len(),
            Self::Journal(entry) => entry.size(),
        };
        content.saturating_add(size_of::<Self>())
    }
}

/// The number of lines that were dropped since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct DroppedLines(Arc<AtomicU64>);

impl DroppedLines {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

/// The sending side of the queue.
#[derive(Clone)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when an item is added while the thread waits.
    filled: Condvar,
    /// Notified when all items are written, and when the thread ends.
    emptied: Condvar,
    dropped: DroppedLines,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    is_writing: bool,
    is_closed: bool,
}

impl Queue {
    /// Adds an item. Drops it if the queue is full or closed.
    pub(super) fn add(&self, item: Item) {
        let mut state = self.shared.lock();
        let bytes = state.bytes.saturating_add(item.size());
        if bytes > BYTES_MAX || state.is_closed {
            drop(state);
            return self.shared.dropped.add(1);
        }
        state.bytes = bytes;
        state.items.push_back(item);
        // If the thread is writing, it checks the queue itself before it waits.
        if !state.is_writing {
            self.shared.filled.notify_one();
        }
    }

    /// Adds a text even if the queue is full. Only for the last text of the program.
    fn add_last(&self, text: String) {
        let mut state = self.shared.lock();
        state.items.push_back(Item::Text(text.into_bytes()));
        self.shared.filled.notify_one();
    }
}

/// Adds written text to the queue.
impl io::Write for Queue {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.add(Item::Text(text.to_vec()));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent even if another thread panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log's destination: standard error or a file. Dropping it flushes the queue.
pub(crate) struct LogWriter {
    queue: Queue,
    thread: JoinHandle<()>,
    is_terminal: bool,
}

impl LogWriter {
    /// Starts the thread that writes to `file`, or to standard error.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(crate) fn start(file: Option<File>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped: DroppedLines::default(),
        });
        let is_terminal = file.is_none() && io::IsTerminal::is_terminal(&io::stderr());
        let queue = Queue {
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                let _guard = CloseOnDrop(&shared);
                match file {
                    Some(file) => shared.write_all(file.as_fd()),
                    None => shared.write_all(io::stderr().as_fd()),
                }
            })?;
        Ok(Self {
            queue,
            thread,
            is_terminal,
        })
    }

    pub(super) fn queue(&self) -> Queue {
        self.queue.clone()
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(crate) fn dropped(&self) -> DroppedLines {
        self.queue.shared.dropped.clone()
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Prints the last text of the program, without a log format.
    ///
    /// Waits at most [`FLUSH_MAX`].
    pub(crate) fn print_last(&self, text: impl std::fmt::Display) {
        self.queue.add_last(format!("{text}\n"));
        self.flush();
    }

    /// Waits until all lines are written, but at most [`FLUSH_MAX`].
    pub(super) fn flush(&self) {
        let shared = &self.queue.shared;
        let is_busy =
            |state: &mut State| !state.is_closed && (state.is_writing || !state.items.is_empty());
        // If the program exits after this time, the lines that were not written are lost.
        let _ = shared
            .emptied
            .wait_timeout_while(shared.lock(), FLUSH_MAX, is_busy);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Closes the queue if its thread panics.
///
/// Then `flush` does not wait for the thread.
struct CloseOnDrop<'a>(&'a Shared);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.emptied.notify_all();
    }
}

impl Shared {
    /// Writes all items. Never returns.
    fn write_all(&self, file: BorrowedFd<'_>) {
        let mut reported = 0;
        loop {
            let (batch, is_half_empty) = self.next();
            let n = batch.len() as u64;
            if batch.write(file).is_err() {
                self.dropped.add(n);
                continue;
            }
            let dropped = self.dropped.count();
            // The warning itself must fit into the queue.
            if dropped > reported && is_half_empty {
                warn!(
                    dropped = dropped - reported,
                    since_start = dropped,
                    "log lines were dropped because the reader of the log did not take them; nothing \
                     else was affected. Is journald, or the program that reads standard error, stuck?"
                );
                reported = dropped;
            }
        }
    }

    /// Waits for items and takes a batch.
    ///
    /// Also returns whether the queue is then at most half full.
    fn next(&self) -> (Batch, bool) {
        let mut state = self.lock();
        state.is_writing = false;
        if state.items.is_empty() {
            self.emptied.notify_all();
        }
        let mut state = self
            .filled
            .wait_while(state, |state| state.items.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.is_writing = true;
        let mut batch = Batch::default();
        while let Some(item) = state.items.pop_front() {
            state.bytes = state.bytes.saturating_sub(item.size());
            batch.add(item);
            if batch.text.len() >= WRITTEN_AT_ONCE || batch.entry.is_some() {
                break;
            }
        }
        let is_half_empty = state.bytes <= BYTES_MAX / 2;
        (batch, is_half_empty)
    }
}

/// Items to write together: lines, and then at most one entry of the journal.
#[derive(Default)]
struct Batch {
    text: Vec<u8>,
    n_texts: usize,
    entry: Option<Box<JournalEntry>>,
}

impl Batch {
    fn add(&mut self, item: Item) {
        match item {
            Item::Text(text) => {
                self.text.extend(text);
                self.n_texts = self.n_texts.saturating_add(1);
            }
            Item::Journal(entry) => self.entry = Some(entry),
        }
    }

    fn len(&self) -> usize {
        self.n_texts
            .saturating_add(usize::from(self.entry.is_some()))
    }

    fn write(self, file: BorrowedFd<'_>) -> io::Result<()> {
        write_text(file, &self.text)?;
        self.entry.map_or(Ok(()), |entry| entry.send())
    }
}

/// Writes a whole text, even to a pipe that another process made non-blocking.
fn write_text(file: BorrowedFd<'_>, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match rustix::io::write(file, text) {
            Ok(n) => text = text.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                match poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::OUT)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
