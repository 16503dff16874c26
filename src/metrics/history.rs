//! Counts attempts and latency for each minute of the last hour, for the charts.
//!
//! Constraint: counting takes constant time, and the counts of an hour take a few kilobytes.

use std::collections::VecDeque;
use std::time::Duration;

/// The number of minutes that are kept.
const MINUTES: u64 = 60;

/// The counts of one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Minute {
    /// The number of attempts with a 2xx answer.
    pub(crate) delivered: u64,
    /// The number of other ended attempts.
    pub(crate) failed: u64,
    /// The number of 2xx answers to deliveries with the origin `live`.
    n_latencies: u64,
    /// The sum of the times from the change of a file to these answers.
    latencies: Duration,
}

impl Minute {
    /// Returns the mean time from a change to its 2xx answer, in milliseconds.
    pub(crate) fn latency_ms(&self) -> Option<u64> {
        let n = u128::from(self.n_latencies);
        let mean = self.latencies.as_millis().checked_div(n)?;
        Some(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    pub(super) fn attempted(&mut self, is_delivered: bool) {
        let n = if is_delivered {
            &mut self.delivered
        } else {
            &mut self.failed
        };
        *n = n.saturating_add(1);
    }

    pub(super) fn delivered_after(&mut self, latency: Duration) {
        self.n_latencies = self.n_latencies.saturating_add(1);
        self.latencies = self.latencies.saturating_add(latency);
    }
}

/// The minutes that have counts, each with its number, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(u64, Minute)>);

/// Returns the number of whole minutes since the start of the daemon.
const fn number(moment: Duration) -> u64 {
    moment.as_secs() / 60
}

impl History {
    /// Returns the counts of the minute at this time.
    pub(super) fn at(&mut self, moment: Duration) -> Option<&mut Minute> {
        let now = number(moment);
        let last = self.0.back().map(|(last, _)| *last);
        // Near the end of a minute, calls of several threads may arrive out of order. Then a late
        // call is counted in the next minute.
        if last.is_none_or(|last| last < now) {
            self.0.push_back((now, Minute::default()));
            while self.0.front().is_some_and(|(old, _)| *old + MINUTES <= now) {
                self.0.pop_front();
            }
        }
        self.0.back_mut().map(|(_, minute)| minute)
    }

    /// Returns the counts of each minute of the last hour, the oldest first.
    pub(super) fn last_hour(&self, moment: Duration) -> Vec<Minute> {
        let now = number(moment);
        (0..MINUTES)
            .rev()
            .map(|ago| {
                let wanted = now.checked_sub(ago);
                let found = self.0.iter().find(|(minute, _)| Some(*minute) == wanted);
                found.map(|(_, minute)| *minute).unwrap_or_default()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> Duration {
        Duration::from_secs(minute * 60 + 7)
    }

    #[test]
    fn an_hour_has_sixty_minutes_and_forgets_older_ones() {
        let mut history = History::default();
        for minute in [0, 1, 1, 59, 70] {
            history.at(at(minute)).unwrap().attempted(minute != 59);
        }
        let last = history.at(at(70)).unwrap();
        last.delivered_after(Duration::from_millis(10));
        last.delivered_after(Duration::from_millis(30));
        let hour = history.last_hour(at(71));
        assert_eq!(hour.len(), 60);
        let counts: Vec<(usize, u64, u64)> = hour
            .iter()
            .enumerate()
            .filter(|(_, minute)| **minute != Minute::default())
            .map(|(at, minute)| (at, minute.delivered, minute.failed))
            .collect();
        assert_eq!(counts, [(47, 0, 1), (58, 1, 0)]);
        assert_eq!(hour[58].latency_ms(), Some(20));
        assert_eq!(hour[59].latency_ms(), None);
        assert!(history.0.len() < 60);
    }

    #[test]
    fn the_first_hour_begins_with_empty_minutes() {
        let mut history = History::default();
        history.at(at(0)).unwrap().attempted(true);
        let hour = history.last_hour(at(0));
        assert_eq!(hour[59].delivered, 1);
        assert_eq!(hour[..59], [Minute::default(); 59]);
    }
}
