//! Receives audit records over netlink, and asks the kernel about its audit rules.
//!
//! Constraint: reading never disturbs other programs. The multicast group AUDIT_NLGRP_READLOG can
//! have any number of readers in addition to an audit daemon. Joining needs only CAP_AUDIT_READ.
//! Messages that are not from the kernel are ignored.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{AUDIT, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto,
    socket_with, sockopt,
};

/// The bit of AUDIT_NLGRP_READLOG in the group mask of a netlink address.
const READLOG: u32 = 1;

/// The requested size of the receive buffer.
///
/// Without CAP_NET_ADMIN, the kernel limits the size to `net.core.rmem_max`.
const RECEIVE_BYTES: usize = 8 * 1024 * 1024;

/// The maximum length of a message, in bytes.
///
/// A path record with a name of 4 KiB is shorter than 9 KiB.
const MESSAGE_MAX: usize = 64 * 1024;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `AUDIT_GET`: asks for the status of auditing.
const GET: u16 = 1000;
/// `AUDIT_LIST_RULES`: asks for the audit rules.
const LIST_RULES: u16 = 1013;

/// How long a request waits for each message of the kernel's answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The result of a receive call.
pub(super) enum Received<'a> {
    /// A record: its type and its text.
    Record(u16, &'a [u8]),
    /// A message that is not from the kernel.
    Other,
    /// Nothing is queued, or a signal interrupted the call.
    Empty,
    /// The kernel dropped messages, or the message is incomplete.
    ///
    /// After it dropped a message, the kernel drops further ones until nothing is queued.
    Overflow,
}

/// A socket that is a member of the multicast group.
#[derive(Debug)]
pub(super) struct AuditLog {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl AuditLog {
    pub(super) fn join() -> io::Result<Self> {
        let socket = socket()?;
        // The kernel may refuse both calls. Then the buffer is smaller, and records are lost sooner
        // under load.
        if sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BYTES);
        }
        bind(&socket, &SocketAddrNetlink::new(0, READLOG))?;
        Ok(Self {
            socket,
            buffer: vec![0; MESSAGE_MAX],
        })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Receives a message without waiting.
    pub(super) fn receive(&mut self) -> io::Result<Received<'_>> {
        match receive(&self.socket, &mut self.buffer) {
            Ok(Some(Message { kind, body })) => Ok(Received::Record(kind, body)),
            Ok(None) => Ok(Received::Other),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Empty),
            Err(Errno::NOBUFS) => Ok(Received::Overflow),
            Err(error) => Err(error.into()),
        }
    }
}

/// A message from the kernel.
struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(AUDIT),
    )?)
}

/// Receives a message. Returns `None` if it is not from the kernel.
///
/// # Errors
///
/// `NOBUFS` if messages were dropped, or if this message is not complete. Other errors are those
/// of recvfrom(2).
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Result<Option<Message<'a>>, Errno> {
    let (_, length, from) = recvfrom(socket, &mut *buffer, RecvFlags::TRUNC)?;
    let is_from_kernel = from
        .and_then(|from| SocketAddrNetlink::try_from(from).ok())
        .is_some_and(|from| from.pid() == 0);
    if !is_from_kernel {
        return Ok(None);
    }
    let Some((header, body)) = buffer
        .get(..length)
        .and_then(|message| message.split_at_checked(HEADER))
    else {
        // Treat a message that is truncated, or shorter than its header, as lost.
        return Err(Errno::NOBUFS);
    };
    let kind = match header {
        [_, _, _, _, low, high, ..] => u16::from_ne_bytes([*low, *high]),
        _ => return Ok(None),
    };
    Ok(Some(Message { kind, body }))
}

/// An audit rule that reports system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// The watched directory or file.
    pub path: Option<String>,
    pub key: Option<String>,
    pub is_for_writes: bool,
    /// Whether the rule has more conditions, for example on the user.
    pub is_partial: bool,
}

/// The state of auditing in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub is_enabled: bool,
    /// The maximum number of records in the kernel's queue. 0 means no limit.
    pub backlog_limit: u32,
}

/// Returns the state of auditing. Needs CAP_AUDIT_CONTROL.
pub(super) fn state() -> io::Result<State> {
    let mut state = None;
    ask(GET, |kind, body| {
        if kind == GET {
            // `struct audit_status`: mask, enabled, failure, pid, rate limit, backlog limit.
            state = Some(State {
                is_enabled: words(body).nth(1) != Some(0),
                backlog_limit: words(body).nth(5).unwrap_or(0),
            });
        }
        state.is_some()
    })?;
    state.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Returns the audit rules for system calls. Needs CAP_AUDIT_CONTROL.
pub(super) fn rules() -> io::Result<Vec<Rule>> {
    let mut rules = Vec::new();
    ask(LIST_RULES, |kind, body| {
        if kind == LIST_RULES {
            rules.extend(rule(body));
        }
        kind == DONE
    })?;
    Ok(rules)
}

/// Sends a request, and passes the messages of the answer to `take`.
///
/// Stops when `take` returns true.
fn ask(request: u16, mut take: impl FnMut(u16, &[u8]) -> bool) -> io::Result<()> {
    const REQUEST_FLAG: u16 = 1;
    let socket = socket()?;
    let kernel = SocketAddrNetlink::new(0, 0);
    bind(&socket, &kernel)?;
    let mut message = Vec::with_capacity(HEADER);
    message.extend((HEADER as u32).to_ne_bytes());
    message.extend(request.to_ne_bytes());
    message.extend(REQUEST_FLAG.to_ne_bytes());
    message.extend([0; 8]);
    sendto(&socket, &message, SendFlags::empty(), &kernel)?;
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        let mut descriptors = [PollFd::new(&socket, PollFlags::IN)];
        let patience = Timespec::try_from(ANSWER_MAX).unwrap_or_default();
        if poll(&mut descriptors, Some(&patience))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let Some(message) = receive(&socket, &mut buffer)? else {
            continue;
        };
        if message.kind == ERROR {
            let code = words(message.body).next().unwrap_or(0).cast_signed();
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            continue;
        }
        if take(message.kind, message.body) {
            return Ok(());
        }
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes
        .chunks_exact(4)
        .filter_map(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)))
}

/// Parses `struct audit_rule_data` of linux/audit.h.
///
/// `None` if the rule reports no system calls, or is malformed.
fn rule(body: &[u8]) -> Option<Rule> {
    const FIELDS: usize = 64;
    const STRINGS: [std::ops::RangeInclusive<u32>; 5] =
        [13..=17, 19..=23, 105..=105, 107..=107, 112..=112];
    const WATCH: u32 = 105;
    const ARCH: u32 = 11;
    const SUCCESS: u32 = 104;
    const PERM: u32 = 106;
    const DIR: u32 = 107;
    const KEY: u32 = 210;
    const PERM_WRITE: u32 = 2;
    const FILTER_EXIT: u32 = 4;
    const ALWAYS: u32 = 2;
    let head: Vec<u32> = words(body).take(3 + 4 * FIELDS + 1).collect();
    let [list, action, n_fields] = *head.get(..3)? else {
        return None;
    };
    if list & 7 != FILTER_EXIT || action != ALWAYS {
        return None;
    }
    let fields = head.get(3 + FIELDS..3 + 2 * FIELDS)?;
    let values = head.get(3 + 2 * FIELDS..3 + 3 * FIELDS)?;
    let mut strings = body.get(4 * (3 + 4 * FIELDS + 1)..)?;
    let mut rule = Rule {
        is_for_writes: true,
        ..Rule::default()
    };
    let used = usize::try_from(n_fields).ok()?;
    for (field, value) in fields.iter().zip(values).take(used) {
        if *field == PERM {
            rule.is_for_writes = value & PERM_WRITE != 0;
        }
        let is_harmless =
            [ARCH, WATCH, PERM, DIR, KEY].contains(field) || (*field == SUCCESS && *value == 1);
        rule.is_partial |= !is_harmless;
        if *field != KEY && !STRINGS.iter().any(|range| range.contains(field)) {
            continue;
        }
        let (text, rest) = strings.split_at_checked(usize::try_from(*value).ok()?)?;
        strings = rest;
        let text = String::from_utf8_lossy(text).into_owned();
        match *field {
            WATCH | DIR => rule.path = Some(text),
            KEY => rule.key = Some(text),
            _ => {}
        }
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a `struct audit_rule_data` with these fields and their values.
    fn rule_data(fields: &[(u32, Result<u32, &str>)]) -> Vec<u8> {
        let mut words = vec![4, 2, u32::try_from(fields.len()).unwrap()];
        words.extend([u32::MAX; 64]);
        let value = |value: &Result<u32, &str>| match value {
            Ok(number) => *number,
            Err(text) => u32::try_from(text.len()).unwrap(),
        };
        let filled = |values: Vec<u32>| values.into_iter().chain(std::iter::repeat(0)).take(64);
        words.extend(filled(fields.iter().map(|(field, _)| *field).collect()));
        words.extend(filled(
            fields.iter().map(|(_, given)| value(given)).collect(),
        ));
        words.extend([0; 64 + 1]);
        let texts = fields.iter().filter_map(|(_, given)| given.err());
        let words = words.into_iter().flat_map(u32::to_ne_bytes);
        words.chain(texts.flat_map(str::bytes)).collect()
    }

    #[test]
    fn a_rule_with_more_conditions_is_partial() {
        let (dir, perm, key) = ((107, Err("/srv")), (106, Ok(10)), (210, Err("k")));
        let whole = rule(&rule_data(&[dir, perm, key])).unwrap();
        assert_eq!(
            (whole.path.as_deref(), whole.key.as_deref()),
            (Some("/srv"), Some("k"))
        );
        assert!(whole.is_for_writes && !whole.is_partial);
        let with_user = rule(&rule_data(&[(9, Ok(0)), dir, perm, key])).unwrap();
        assert!(with_user.is_partial);
        assert_eq!(with_user.path, whole.path);
    }
}
