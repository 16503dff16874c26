//! Lists the requirements of the audit source that this machine does not meet.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The minimum length of the kernel's queue that `check` accepts, in records.
///
/// The kernel's default is 64.
const QUEUE_MIN: u32 = 1024;

/// A requirement of the audit source that is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// The process is in a container or a user namespace.
    Container,
    /// The kernel has no auditing, or this is not Linux.
    NoKernel,
    /// The process has no permission to read audit records.
    NoCapability,
    /// Joining the multicast group failed for another reason.
    Failed(String),
    /// Auditing is off.
    Off,
    /// The kernel's queue holds only this many records, so audited calls wait during a burst.
    ShortQueue(u32),
    /// No audit rule with this key reports writes in the repository.
    NoRule { path: PathBuf, key: String },
    /// The rules or the state of auditing could not be read, for this reason.
    UnknownRules(String),
    /// Processes that started before auditing was enabled have no audit records.
    EarlyProcesses,
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::Container => formatter.write_str(
                "the audit source cannot work in a container or user namespace: the kernel sends \
                 audit records only to the host. Run the daemon on the host, or remove `audit` from `username`",
            ),
            Gap::NoKernel => formatter.write_str(
                "this kernel has no auditing (CONFIG_AUDIT, CONFIG_AUDITSYSCALL); remove `audit` \
                 from `username`",
            ),
            Gap::NoCapability => formatter.write_str(
                "the audit source needs CAP_AUDIT_READ; for the service, install \
                 systemd/examples/audit.conf as a drop-in",
            ),
            Gap::Failed(error) => write!(formatter, "cannot read audit records: {error}"),
            Gap::Off => formatter.write_str(
                "auditing is off, so there are no audit records; run `auditctl -e 1`, and boot with \
                 audit=1",
            ),
            Gap::ShortQueue(limit) => write!(
                formatter,
                "the kernel's audit queue has room for only {limit} records, so records arrive too \
                 late during a burst; run `auditctl -b 8192`, or add `-b 8192` to the audit rules"
            ),
            Gap::NoRule { path, key } => write!(
                formatter,
                "no audit rule with the key {key} reports writes in {path}; install \
                 packaging/audit/project-webhooks.rules, or run `auditctl -a always,exit -F dir={path} \
                 -F perm=wa -F key={key}`",
                path = path.display()
            ),
            Gap::UnknownRules(error) => write!(
                formatter,
                "cannot read the audit rules, so they were not checked: {error}. Reading them needs \
                 CAP_AUDIT_CONTROL; run `check` as root"
            ),
            Gap::EarlyProcesses => formatter.write_str(
                "the kernel was started without audit=1; processes that started before auditing was \
                 enabled have no audit records. Add audit=1 to the kernel's command line",
            ),
        }
    }
}

/// Returns the gap that explains a failure to join the multicast group.
pub(crate) fn gap_of(error: &io::Error) -> Gap {
    if is_in_container() {
        return Gap::Container;
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => Gap::NoCapability,
        io::ErrorKind::Unsupported => Gap::NoKernel,
        _ => match error.raw_os_error() {
            // EPROTONOSUPPORT: no audit. EAFNOSUPPORT: a sandbox without AF_NETLINK.
            Some(93) => Gap::NoKernel,
            Some(97) => Gap::NoCapability,
            _ => Gap::Failed(error.to_string()),
        },
    }
}

/// Whether the process seems to be in a container.
///
/// A container has its own user, process or network namespace.
pub(crate) fn is_in_container() -> bool {
    // The inodes of the host's namespaces are fixed (linux/nsfs.h).
    const USER: &str = "user:[4026531837]";
    const PROCESS: &str = "pid:[4026531836]";
    let namespace = |path: &str| std::fs::read_link(path).ok();
    let differs =
        |path: &str, first: &str| namespace(path).is_some_and(|found| found.as_os_str() != first);
    let network = (namespace("/proc/self/ns/net"), namespace("/proc/1/ns/net"));
    // Only root may read the namespace of process 1. For other users, assume the same network.
    let is_other_network = matches!(&network, (Some(own), Some(first)) if own != first);
    differs("/proc/self/ns/user", USER) || differs("/proc/self/ns/pid", PROCESS) || is_other_network
}

/// Returns the gaps that this process can find.
///
/// `repository` must be a path without symbolic links.
#[cfg(target_os = "linux")]
pub(crate) fn gaps(repository: &Path, key: &str) -> Vec<Gap> {
    use super::netlink;
    if is_in_container() {
        return vec![Gap::Container];
    }
    let mut gaps = Vec::new();
    match netlink::AuditLog::join() {
        Ok(_) => {}
        Err(error) => match gap_of(&error) {
            Gap::NoKernel => return vec![Gap::NoKernel],
            gap => gaps.push(gap),
        },
    }
    match (netlink::state(), netlink::rules()) {
        (Ok(state), Ok(rules)) => {
            if !state.is_enabled {
                gaps.push(Gap::Off);
            }
            if (1..QUEUE_MIN).contains(&state.backlog_limit) {
                gaps.push(Gap::ShortQueue(state.backlog_limit));
            }
            let covers = |rule: &netlink::Rule| {
                let is_above = rule
                    .path
                    .as_ref()
                    .is_some_and(|above| repository.starts_with(above));
                let reports = rule.is_for_writes && !rule.is_partial;
                is_above && reports && rule.key.as_deref() == Some(key)
            };
            if !rules.iter().any(covers) {
                let (path, key) = (repository.to_owned(), key.to_owned());
                gaps.push(Gap::NoRule { path, key });
            }
        }
        (Err(error), _) | (_, Err(error)) => gaps.push(Gap::UnknownRules(error.to_string())),
    }
    let command = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if !command
        .split_ascii_whitespace()
        .any(|word| word == "audit=1")
    {
        gaps.push(Gap::EarlyProcesses);
    }
    gaps
}

/// Only Linux has audit records.
#[cfg(not(target_os = "linux"))]
pub(crate) fn gaps(_repository: &Path, _key: &str) -> Vec<Gap> {
    vec![Gap::NoKernel]
}
