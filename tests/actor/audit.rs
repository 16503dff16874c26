//! Adds an audit rule, and restores the machine's auditing afterwards.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::net::netlink::{AUDIT, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use super::common::{RUN_MAX, skip, wait_within};

const GET: u16 = 1000;
const SET: u16 = 1001;
const ADD_RULE: u16 = 1011;
const DELETE_RULE: u16 = 1012;

/// Auditing with rules of its own. Only one exists at a time.
pub struct Audit {
    /// Whether auditing was enabled, and the limit of the kernel's queue.
    before: (u32, u32),
    rules: Vec<Vec<u8>>,
    _lock: File,
}

impl Audit {
    /// Enables auditing with a rule for this directory. `None` if that is impossible here.
    pub fn of(test: &str, directory: &Path) -> Option<Self> {
        let mut audit = Self::without_rules(test)?;
        audit.add(directory, "project-webhooks");
        Some(audit)
    }

    /// Enables auditing without a rule.
    pub fn without_rules(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip(test, "needs root");
            return None;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(std::env::temp_dir().join("project-webhooks-audit.lock"))
            .unwrap();
        // Each test with a rule of its own takes its turn.
        wait_within(RUN_MAX, "the lock of the audit rules", || {
            flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()
        });
        let before = match state() {
            Ok(before) => before,
            Err(error) => {
                skip(test, &format!("no auditing here: {error}"));
                return None;
            }
        };
        if before.0 == 2 {
            skip(test, "the audit rules are locked");
            return None;
        }
        let audit = Self {
            before,
            rules: Vec::new(),
            _lock: lock,
        };
        audit.enable(1);
        audit.limit(8192);
        Some(audit)
    }

    pub fn enable(&self, enabled: u32) {
        request(SET, &status(1, enabled)).unwrap();
    }

    /// Limits the kernel's queue.
    pub fn limit(&self, limit: u32) {
        request(SET, &status(0x10, limit)).unwrap();
    }

    /// Adds a rule for changes below a directory.
    pub fn add(&mut self, directory: &Path, key: &str) {
        let directory = directory.canonicalize().unwrap();
        let rule = rule(directory.to_str().unwrap(), key);
        request(ADD_RULE, &rule).unwrap();
        self.rules.push(rule);
    }

    /// Removes all rules that were added.
    pub fn remove_rules(&mut self) {
        for rule in self.rules.drain(..) {
            // The kernel removes the rule of a directory that is gone.
            let _ = request(DELETE_RULE, &rule);
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.remove_rules();
        let (enabled, limit) = self.before;
        let _ = request(SET, &status(1, enabled));
        let _ = request(SET, &status(0x10, limit));
    }
}

/// `struct audit_status` that sets one value: whether auditing is enabled, or the limit of the queue.
fn status(mask: u32, value: u32) -> Vec<u8> {
    let mut words = [0_u32; 10];
    words[0] = mask;
    words[if mask == 1 { 1 } else { 5 }] = value;
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct audit_rule_data` of `-a always,exit -F dir=DIRECTORY -F perm=wa -F key=KEY`.
fn rule(directory: &str, key: &str) -> Vec<u8> {
    const FIELDS: usize = 64;
    const EQUAL: u32 = 0x4000_0000;
    let mut words = vec![0_u32; 3 + 4 * FIELDS + 1];
    (words[0], words[1], words[2]) = (4, 2, 3);
    // All system calls.
    words[3..3 + FIELDS].fill(u32::MAX);
    let fields = [
        (107, u32::try_from(directory.len()).unwrap()),
        (106, 2 | 8),
        (210, u32::try_from(key.len()).unwrap()),
    ];
    for (index, (field, value)) in fields.into_iter().enumerate() {
        words[3 + FIELDS + index] = field;
        words[3 + 2 * FIELDS + index] = value;
        words[3 + 3 * FIELDS + index] = EQUAL;
    }
    let text = format!("{directory}{key}");
    words[3 + 4 * FIELDS] = u32::try_from(text.len()).unwrap();
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(text.bytes());
    bytes
}

/// Whether auditing is enabled (0, 1, or 2 if it is locked), and the limit of the kernel's queue.
fn state() -> io::Result<(u32, u32)> {
    let answer = request(GET, &[])?;
    let word = |index: usize| -> io::Result<u32> {
        let word = answer.get(4 * index..4 * index + 4);
        let word = word.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(u32::from_ne_bytes(word.try_into().unwrap()))
    };
    Ok((word(1)?, word(5)?))
}

/// Sends a request, and returns the body of the answer. A request without one is acknowledged.
fn request(kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(AUDIT))?;
    let kernel = SocketAddrNetlink::new(0, 0);
    bind(&socket, &kernel)?;
    let mut message = Vec::new();
    message.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    // NLM_F_REQUEST, and NLM_F_ACK where there is no answer.
    let flags: u16 = if kind == GET { 1 } else { 5 };
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    sendto(&socket, &message, SendFlags::empty(), &kernel)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let mut descriptors = [PollFd::new(&socket, PollFlags::IN)];
        let patience = Timespec::try_from(Duration::from_secs(10)).unwrap();
        if poll(&mut descriptors, Some(&patience))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (_, length) = recv(&socket, &mut buffer, RecvFlags::empty())?;
        let answer = &buffer[..length];
        let kind_of = u16::from_ne_bytes([answer[4], answer[5]]);
        if kind_of == kind {
            return Ok(answer[16..].to_vec());
        }
        if kind_of == 2 {
            let code = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
            match code {
                0 if kind == GET => {}
                0 => return Ok(Vec::new()),
                code => return Err(io::Error::from_raw_os_error(-code)),
            }
        }
    }
}
