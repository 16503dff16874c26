//! Sends notifications to systemd without waiting for it.
//!
//! Constraint: a send never blocks, because signals and reloads are handled on the same thread. If
//! the socket cannot be reached or its queue is full, messages wait here in order. A new status
//! replaces the last waiting message if that is also a status. A watchdog message never waits,
//! because the next watchdog message follows soon.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};

use sd_notify::NotifyState;

/// The maximum number of waiting messages.
///
/// A further message replaces the oldest.
const WAITING_MAX: usize = 32;

/// The messages that are not sent yet, oldest first.
static WAITING: Mutex<Waiting> = Mutex::new(Waiting(VecDeque::new()));

/// Sends the waiting messages, and then a message with these states, if any.
///
/// Without the environment variable `NOTIFY_SOCKET`, nothing is sent.
pub(super) fn send(states: &[NotifyState<'_>]) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.push(states);
    if waiting.0.is_empty() {
        return Ok(());
    }
    let sent = connected(&path).and_then(|socket| waiting.send(&socket));
    waiting.0.retain(|message| message.kind != Kind::Watchdog);
    sent
}

/// Connects to the socket. A path that begins with `@` is an abstract address.
fn connected(path: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match path.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt as _;
            use std::os::unix::net::SocketAddr;
            socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
        }
        _ => socket.connect(path)?,
    }
    Ok(socket)
}

struct Message {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Only a status line.
    Status,
    Watchdog,
    /// A change of the service's state: the start, a reload or the end.
    Change,
}

struct Waiting(VecDeque<Message>);

impl Waiting {
    fn push(&mut self, states: &[NotifyState<'_>]) {
        let kind = match states {
            [] => return,
            [NotifyState::Status(_)] => Kind::Status,
            [NotifyState::Watchdog] => Kind::Watchdog,
            _ => Kind::Change,
        };
        if kind == Kind::Status && self.0.back().is_some_and(|last| last.kind == kind) {
            self.0.pop_back();
        }
        if self.0.len() >= WAITING_MAX {
            self.0.pop_front();
        }
        let text = states.iter().map(|state| format!("{state}\n")).collect();
        self.0.push_back(Message { kind, text });
    }

    /// Sends the messages in order, until one cannot be sent.
    fn send(&mut self, socket: &UnixDatagram) -> io::Result<()> {
        while let Some(message) = self.0.front() {
            match socket.send(message.text.as_bytes()) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                // Drop the message, because a retry may never succeed. For instance, the message
                // may be too long.
                Err(error) => {
                    self.0.pop_front();
                    return Err(error);
                }
            }
            self.0.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 1_024];
        let n = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(buffer.get(..n)?).into_owned())
    }

    #[test]
    fn messages_that_are_not_taken_are_sent_later_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let socket = connected(path.as_os_str()).unwrap();
        while socket.send(b"other").is_ok() {}
        let mut waiting = Waiting(VecDeque::new());
        for states in [
            &[NotifyState::Reloading, NotifyState::MonotonicUsec(5)] as &[_],
            &[NotifyState::Status("one")],
            &[NotifyState::Status("two")],
            &[NotifyState::Ready, NotifyState::Status("ready")],
        ] {
            waiting.push(states);
            let refused = waiting.send(&socket).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        }
        while read(&manager).is_some() {}
        waiting.send(&socket).unwrap();
        let sent: Vec<String> = std::iter::from_fn(|| read(&manager)).collect();
        assert_eq!(
            sent,
            [
                "RELOADING=1\nMONOTONIC_USEC=5\n",
                "STATUS=two\n",
                "READY=1\nSTATUS=ready\n"
            ]
        );
        // The number of waiting messages is bounded.
        for _ in 0..1_000 {
            waiting.push(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
        }
        assert_eq!(waiting.0.len(), WAITING_MAX);
    }
}
