//! The service manager, signals and the process's limits.
//!
//! Constraint: talking to systemd never fails the daemon. Without a service manager these do
//! nothing; what cannot be sent is logged at debug.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_tokio::Signals;
use tracing::debug;

/// Handles the signals from now on, as a stream.
///
/// # Errors
///
/// The system refuses a handler.
pub(crate) fn signals() -> io::Result<Signals> {
    Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1])
}

/// Tells the service manager that start-up or a reload is done.
pub(crate) fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells it that a reload begins. systemd 253 and later wants the time with it (sd_notify(3),
/// MONOTONIC_USEC).
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
        NotifyState::Status("stopping: deliveries in flight finish"),
    ]);
}

/// Tells it, in a line for people, what the daemon does.
pub(crate) fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Tells it that the loop still turns.
pub(crate) fn notify_watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// How often the service manager wants to hear that the loop turns: half of what it allows.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager cannot be told");
    }
}

/// Allows as many open files as the system lets this process have: the default of 1,024 is for
/// programs that use select(2), and every connection and held file takes one.
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
        debug!(%error, "the limit of open files stays");
    }
}
