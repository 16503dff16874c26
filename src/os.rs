//! Notifies systemd, handles signals and raises the limit of open files.
//!
//! Constraint: if the daemon cannot notify systemd, it logs the error at level debug and continues.
//! Without systemd, the notifications do nothing. If systemd does not read, the daemon does not
//! wait: `notifications` keeps the last messages and sends them later.

mod notifications;

use std::ffi::c_int;
use std::io;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use nix::sys::signal::{SigSet, Signal};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_tokio::Signals;
use tracing::debug;

/// Blocks SIGHUP and SIGUSR1 until their handlers are set.
///
/// Without handlers, these signals would end the process. A thread that starts while they are
/// blocked never receives them, so other threads handle them.
pub(crate) struct HeldSignals(SigSet);

impl HeldSignals {
    pub(crate) fn hold() -> Self {
        let held = SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR1]);
        // This fails only with an invalid argument.
        let _ = held.thread_block();
        Self(held)
    }

    /// Unblocks the signals in the calling thread.
    ///
    /// If the process ends before this call, a blocked signal does not change the exit status.
    pub(crate) fn release(&self) {
        let _ = self.0.thread_unblock();
    }
}

/// Starts to handle signals. Returns them as a stream.
pub(crate) fn signals() -> io::Result<Signals> {
    Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1])
}

/// Turns SIGHUP into SIGTERM, for a process that ends when its terminal is closed.
pub(crate) fn ended_by_hangup(
    signals: impl Stream<Item = c_int> + Unpin,
) -> impl Stream<Item = c_int> + Unpin {
    signals.map(|signal| if signal == SIGHUP { SIGTERM } else { signal })
}

/// Notifies systemd that the start or a reload is complete.
pub(crate) fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Notifies systemd that a reload begins.
///
/// systemd 253 and later also needs the time (sd_notify(3), MONOTONIC_USEC).
pub(crate) fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => {
            debug!(%error, "cannot read the monotonic time for systemd");
            notify(&[NotifyState::Reloading]);
        }
    }
}

pub(crate) fn notify_stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping: waiting for requests in progress"),
    ]);
}

/// Sends systemd a status line, which `systemctl status` shows.
pub(crate) fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Notifies systemd's watchdog that the daemon responds.
pub(crate) fn notify_watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// Returns the time between two watchdog notifications: half of the timeout.
///
/// `None` if the service has no watchdog.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// Retries the notifications that wait.
pub(crate) fn notify_again() {
    notify(&[]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = notifications::send(states) {
        debug!(%error, "cannot notify systemd");
    }
}

/// Raises the soft limit of open files to the hard limit.
///
/// Each connection and each open file needs a file descriptor. The usual limit of 1,024 exists
/// only for programs that use select(2).
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        debug!(%error, "cannot raise the limit of open files");
    }
}
