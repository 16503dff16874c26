//! The times when the engine acts without an input.

use std::time::Duration;

use crate::config::Repository;
use crate::domain::settle::Moment;

/// The time between two pulses.
///
/// A pulse runs the recurring checks, such as those of the store, the root and the mounts.
const PULSE: Duration = Duration::from_secs(1);
/// How long inference pauses after a failure of the store or the root.
const PAUSE: Duration = Duration::from_secs(1);

/// The next time of each recurring task.
#[derive(Debug)]
pub(super) struct Timers {
    pulse: Moment,
    /// The time of the next full scan with a walk, which also sets missing watches.
    rescan: Moment,
    /// The time of the next full scan by `repository.poll_interval`.
    poll: Moment,
    /// Whether some changes are found only by full scans.
    polls: bool,
    /// The time of the next survey of a root or mount that is not trusted.
    survey: Moment,
    /// The end of the current pause of inference, if any.
    paused_until: Option<Moment>,
}

impl Timers {
    /// Makes the timers. The first full scan sets the times of the next scans.
    pub(super) fn new(repository: &Repository) -> Self {
        Self {
            pulse: Duration::ZERO,
            rescan: repository.rescan,
            poll: repository.poll_interval,
            polls: false,
            survey: Duration::ZERO,
            paused_until: None,
        }
    }

    /// Returns whether a pulse is due, and schedules the next one.
    pub(super) fn take_pulse(&mut self, now: Moment) -> bool {
        let is_due = now >= self.pulse;
        if is_due {
            self.pulse = now.saturating_add(PULSE);
        }
        is_due
    }

    pub(super) fn pulse_now(&mut self, now: Moment) {
        self.pulse = now;
    }

    pub(super) fn pause(&mut self, now: Moment) {
        self.paused_until = Some(now.saturating_add(PAUSE));
    }

    /// Whether inference is paused. Only [`Timers::resume`] ends a pause.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// Ends the pause if it is over. Returns whether inference may continue.
    pub(super) fn resume(&mut self, now: Moment) -> bool {
        self.paused_until = self.paused_until.filter(|until| now < *until);
        self.paused_until.is_none()
    }

    /// Returns how long to wait for an input if the next work is at `next`.
    pub(super) fn until_next(&self, now: Moment, next: Option<Moment>) -> Duration {
        let next = next.map(|next| next.max(self.paused_until.unwrap_or_default()));
        next.map_or(self.pulse, |next| next.min(self.pulse))
            .saturating_sub(now)
    }

    pub(super) fn set_polls(&mut self, polls: bool) {
        self.polls = polls;
    }

    pub(super) fn polls(&self) -> bool {
        self.polls
    }

    /// The time of the next scan by `repository.poll_interval`, if needed.
    pub(super) fn next_poll(&self) -> Option<Moment> {
        self.polls.then_some(self.poll)
    }

    /// Returns whether a scan by `repository.rescan` is due, and schedules the next.
    pub(super) fn take_rescan(&mut self, now: Moment, repository: &Repository) -> bool {
        let is_due = now >= self.rescan;
        if is_due {
            self.rescan = now.saturating_add(repository.rescan);
        }
        is_due
    }

    /// Schedules the next full scans after a scan has ended.
    ///
    /// The next scan that sets missing watches is postponed only if the ended scan did so.
    pub(super) fn scanned(&mut self, now: Moment, repository: &Repository, has_walked: bool) {
        self.poll = now.saturating_add(repository.poll_interval);
        if has_walked {
            self.rescan = now.saturating_add(repository.rescan);
        }
    }

    /// Makes the next scans earlier if the new intervals are shorter.
    pub(super) fn configure(&mut self, now: Moment, repository: &Repository) {
        self.rescan = self.rescan.min(now.saturating_add(repository.rescan));
        self.poll = self.poll.min(now.saturating_add(repository.poll_interval));
    }

    pub(super) fn is_survey_due(&self, now: Moment) -> bool {
        now >= self.survey
    }

    /// Schedules the next survey.
    pub(super) fn surveyed(&mut self, now: Moment, repository: &Repository) {
        self.survey = now.saturating_add(repository.poll_interval);
    }
}
