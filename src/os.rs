//! The service manager, signals and the process's limits.
//!
//! Constraint: an error in talking to systemd never stops the daemon. Without a service manager these
//! functions do nothing. A message that cannot be sent is logged at debug.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_tokio::Signals;
use tracing::debug;

/// Handles the signals from now on, as a stream.
pub(crate) fn signals() -> io::Result<Signals> {
    Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1])
}

/// Tells the service manager that start-up or a reload is done.
pub(crate) fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells it that a reload begins.
///
/// systemd 253 and later needs the time too (sd_notify(3), MONOTONIC_USEC).
pub(crate) fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => {
            debug!(%error, "no monotonic time for the service manager");
            notify(&[NotifyState::Reloading]);
        }
    }
}

/// Tells it that the daemon stops.
pub(crate) fn notify_stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping: waiting for running requests to finish"),
    ]);
}

/// Sends it a status line for people.
pub(crate) fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Feeds its watchdog.
pub(crate) fn notify_watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// The interval for feeding the watchdog: half of its timeout.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "cannot notify the service manager");
    }
}

/// Raises the limit of open files to the system's maximum.
///
/// The default of 1,024 is meant for programs that use select(2). Every connection and held file needs
/// a descriptor.
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
