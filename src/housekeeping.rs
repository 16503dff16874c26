//! Removes deliveries and events after their retention, and keeps the state below its limit.
//!
//! Constraint: removals must not delay recording and delivery, so they run in small batches with
//! pauses. If the clock is wrong for a short time, no row may be removed too early.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::{Clock, Reading};
use crate::config::Retention;
use crate::dispatch::QueueHandles;
use crate::domain::state_size::{self, Fill, StateSize};
use crate::error::chain;
use crate::store::{Collected, NewDeliveries, Store, StoreError, WebhookState};

/// The time between two runs.
const INTERVAL: Duration = Duration::from_secs(60);
/// The time between two measurements of the state's size.
const SIZE_INTERVAL: Duration = Duration::from_secs(5);
/// The pause between two batches of one run.
const PAUSE: Duration = Duration::from_millis(20);
/// The maximum number of rows in each step of a transaction that removes rows.
const BATCH: usize = 500;
/// How long the clock must run steadily after it was set, before old rows are removed.
const STEADY_FOR: Duration = Duration::from_secs(60 * 60);

/// Removes old rows and limits the size of the state.
#[derive(Clone)]
pub(crate) struct Housekeeping {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    /// The queues. Each is woken when some of its deliveries have become dead.
    pub(crate) queues: Arc<QueueHandles>,
    pub(crate) retention: watch::Receiver<Retention>,
    /// The largest sum of used and available space since the start, in bytes.
    pub(crate) space: Arc<AtomicU64>,
}

impl Housekeeping {
    /// Removes rows after their retention, each minute, until `stop`.
    pub(crate) async fn collect(mut self, stop: CancellationToken) {
        let mut steadiness = self.first_steadiness().await;
        loop {
            let kept = *self.retention.borrow_and_update();
            let reading = self.reading();
            let was_steady = steadiness.is_steady();
            if !steadiness.observe(reading) {
                if was_steady {
                    info!(
                        hours = STEADY_FOR.as_secs() / 3600,
                        "the clock (with PostgreSQL, the clock of the database server) was set, or the host was suspended; old deliveries and events are kept until the clock has been steady for an hour (no action needed)"
                    );
                }
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => continue,
                    () = stop.cancelled() => return,
                }
            }
            let pause = match self.store.collect(kept, reading.now(), BATCH).await {
                Ok(collected) if collected.is_empty() => INTERVAL,
                Ok(collected) => {
                    debug!(?collected, "removed old deliveries and events");
                    for (webhook, n) in &collected.expired {
                        error!(
                            webhook,
                            deliveries = n,
                            "deliveries that were pending for longer than retention.pending are now dead. After fixing the cause, send them again with `project-webhooks deliveries redeliver --webhook {webhook} --state dead`"
                        );
                    }
                    self.wake(&collected);
                    PAUSE
                }
                Err(error) => {
                    warn!(
                        error = %chain(&error),
                        "cannot remove old deliveries and events; retrying"
                    );
                    INTERVAL
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.retention.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads the clock that decides which rows are old.
    ///
    /// If the state is in PostgreSQL, this is the clock of the database server.
    fn reading(&self) -> Reading {
        let shared = self.store.shared_now();
        Reading::of(
            shared.unwrap_or_else(|| self.clock.now()),
            self.clock.moment(),
        )
    }

    /// Decides at the start whether the clock is reliable.
    async fn first_steadiness(&self) -> Steadiness {
        let states = self.store.webhook_states().await;
        let reading = self.reading();
        let is_plausible = match states {
            Ok(states) => {
                let last = states.iter().filter_map(WebhookState::last_change).max();
                let is_plausible =
                    last.is_none_or(|last| Steadiness::is_plausible(last, reading.now()));
                if !is_plausible {
                    info!(
                        "the last delivery was recorded more than an hour ago, or the clock is wrong; old deliveries and events are kept until the clock has been steady for an hour (no action needed)"
                    );
                }
                is_plausible
            }
            Err(error) => {
                warn!(
                    error = %chain(&error),
                    "cannot compare the clock with the last delivery; old deliveries and events are kept until the clock has been steady for an hour"
                );
                false
            }
        };
        Steadiness::new(reading, is_plausible)
    }

    /// Measures the state and keeps its size below the limit, until `stop`.
    ///
    /// From 80 % of the limit, logs a warning. Above the limit, removes rows.
    pub(crate) async fn keep_size(self, sizes: watch::Sender<StateSize>, stop: CancellationToken) {
        let mut warnings = Warnings::default();
        let work = async {
            loop {
                match self.measure(&sizes).await {
                    Ok(size) => {
                        warnings.report(size);
                        if size.fill() == Fill::Over {
                            self.make_room(size, &sizes, &mut warnings).await;
                        }
                    }
                    Err(error) => warnings.report_unmeasured(&error),
                }
                tokio::time::sleep(SIZE_INTERVAL).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    async fn measure(&self, sizes: &watch::Sender<StateSize>) -> Result<StateSize, StoreError> {
        let space = self.store.space().await?;
        let configured = self.retention.borrow().max_state_size;
        let limit = match space.disk {
            Some(disk) => {
                let mut could_take = space.used.saturating_add(disk.available);
                // The first limit allows the present size and nine tenths of the available space,
                // because files of other programs may have filled the disk before the start.
                if self.space.load(Relaxed) == 0 {
                    let available = disk.available - disk.available / 10;
                    could_take = state_size::space_of(space.used.saturating_add(available));
                }
                let could_take = self.space.fetch_max(could_take, Relaxed).max(could_take);
                Some(state_size::limit(configured, could_take, disk.total))
            }
            // The size of the disk is unknown, so only a configured limit applies.
            None => configured,
        };
        let size = StateSize {
            used: space.used,
            log: space.log,
            limit,
        };
        sizes.send_replace(size);
        Ok(size)
    }

    /// Removes rows until the state is 5 % below its limit.
    ///
    /// Ends earlier if nothing more can be removed, or after an error. Logs the number of removed
    /// deliveries.
    async fn make_room(
        &self,
        over: StateSize,
        sizes: &watch::Sender<StateSize>,
        warnings: &mut Warnings,
    ) {
        let limit = ByteSize(over.limit.unwrap_or_default());
        let reason = format!("given up because the state reached its limit of {limit}");
        let mut n_removed = 0_usize;
        let mut expired: BTreeMap<String, usize> = BTreeMap::new();
        let mut size = over;
        let mut failure = None;
        let mut n_rows = BATCH;
        while size.excess() > 0 {
            let (now, needed) = (self.clock.now(), size.excess());
            let batch = self.store.make_room(&reason, now, needed, n_rows).await;
            let collected = match batch {
                Ok(collected) if collected.is_empty() => break,
                Ok(collected) => collected,
                // A smaller batch needs less space in the write-ahead log.
                Err(error) if n_rows > 1 && error.is_full() => {
                    n_rows = n_rows.div_ceil(8);
                    continue;
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            n_removed = n_removed.saturating_add(collected.n_deliveries);
            for (webhook, n) in &collected.expired {
                *expired.entry(webhook.clone()).or_default() += n;
            }
            self.wake(&collected);
            tokio::time::sleep(PAUSE).await;
            match self.measure(sizes).await {
                Ok(measured) => size = measured,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        for (webhook, n) in expired {
            error!(
                webhook,
                deliveries = n,
                "the state reached its limit of {limit}, so the oldest pending deliveries of the \
                 webhook with the most pending deliveries are now dead. Fix or remove the webhook, \
                 raise retention.max_state_size, or use a larger disk"
            );
        }
        if n_removed > 0 {
            warn!(
                deliveries = n_removed,
                "the state reached its limit of {limit}, so finished deliveries were removed before the end of their retention"
            );
        }
        if let Some(error) = failure {
            warn!(
                error = %chain(&error),
                "cannot remove deliveries to keep the state below its limit; retrying"
            );
        } else if size.fill() == Fill::Over {
            warnings.report_stuck(size);
        }
    }

    /// Wakes the queues of webhooks that lost pending deliveries.
    ///
    /// Later deliveries waited for these deliveries and may be due now.
    fn wake(&self, collected: &Collected) {
        if collected.expired.is_empty() {
            return;
        }
        let deliveries = NewDeliveries {
            webhooks: collected.expired.keys().cloned().collect(),
            ready: Vec::new(),
        };
        self.queues.deliver(deliveries, self.queues.epoch());
    }
}

/// The warnings that were logged and still apply. Each is logged once until it no longer applies.
#[derive(Default)]
struct Warnings {
    is_full: bool,
    is_stuck: bool,
    is_log_held: bool,
    is_unmeasured: bool,
}

impl Warnings {
    fn report_unmeasured(&mut self, error: &StoreError) {
        let reason = chain(error);
        if std::mem::replace(&mut self.is_unmeasured, true) {
            debug!(reason, "still cannot measure the size of the state");
        } else {
            warn!(
                reason,
                "cannot measure the size of the state, so its limit does not apply; retrying"
            );
        }
    }

    fn report(&mut self, size: StateSize) {
        if std::mem::take(&mut self.is_unmeasured) {
            info!("the size of the state can be measured again");
        }
        let (used, limit, log) = (
            ByteSize(size.used),
            ByteSize(size.limit.unwrap_or_default()),
            ByteSize(size.log),
        );
        let is_full = size.fill() != Fill::Low;
        if is_full && !self.is_full {
            warn!(
                "the state takes {used}, 80 % or more of its limit of {limit}. At the limit, the oldest deliveries are removed. Fix webhooks with many pending deliveries (`project-webhooks webhooks`), raise retention.max_state_size, or use a larger disk"
            );
        } else if self.is_full && !is_full {
            info!("the state takes only {used} now, less than 80 % of its limit of {limit}");
        }
        self.is_full = is_full;
        self.is_stuck &= size.fill() == Fill::Over;
        let is_held = size.is_log_held();
        if is_held && !self.is_log_held {
            warn!(
                "the write-ahead log of the database takes {log}, because a process has been reading the database in one transaction. Close that process, for example a sqlite3 shell; `fuser -v` with the path of state.db lists the processes. The log then shrinks by itself"
            );
        } else if self.is_log_held && !is_held {
            info!("the write-ahead log of the database takes only {log} now");
        }
        self.is_log_held = is_held;
    }

    fn report_stuck(&mut self, size: StateSize) {
        if !std::mem::replace(&mut self.is_stuck, true) {
            warn!(
                "the state takes {}, more than its limit of {}, and nothing more can be removed: the rest is the record of the projects. Raise retention.max_state_size, or use a larger disk",
                ByteSize(size.used),
                ByteSize(size.limit.unwrap_or_default())
            );
        }
    }
}

/// Decides whether the time of day is reliable enough to remove old rows.
///
/// At the start, the time is reliable if the last recorded time is close to it, or if none is
/// recorded. Otherwise, and whenever somebody sets the clock, the clock must first run steadily for
/// [`STEADY_FOR`].
struct Steadiness {
    last: Reading,
    /// The reading since which the clock has run steadily. `None` while the time is reliable.
    jumped_at: Option<Reading>,
}

impl Steadiness {
    fn new(reading: Reading, is_plausible: bool) -> Self {
        Self {
            last: reading,
            jumped_at: (!is_plausible).then_some(reading),
        }
    }

    /// Whether the time of day at a start is close to the last recorded time.
    ///
    /// If not, the clock may be wrong. For instance, that of a host without a battery may be ahead
    /// until it is synchronised.
    fn is_plausible(last: Timestamp, now: Timestamp) -> bool {
        now.duration_since(last).unsigned_abs() < STEADY_FOR
    }

    fn is_steady(&self) -> bool {
        self.jumped_at.is_none()
    }

    /// Compares a reading with the last reading. Returns whether the time of day is reliable.
    fn observe(&mut self, reading: Reading) -> bool {
        if self.last.was_set_until(&reading) {
            self.jumped_at = Some(reading);
        } else if let Some(jumped) = self.jumped_at
            && jumped.passed_until(&reading) >= STEADY_FOR
        {
            self.jumped_at = None;
        }
        self.last = reading;
        self.is_steady()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn nothing_is_old_by_a_clock_that_is_not_steady() {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let reading = |minute: i64, ahead_s: i64| {
            let passed = SignedDuration::from_mins(minute);
            let now = start + passed + SignedDuration::from_secs(ahead_s);
            Reading::of(now, passed.unsigned_abs())
        };
        const YEAR: i64 = 365 * 24 * 3600;
        let mut steadiness = Steadiness::new(reading(0, 0), true);
        for (minute, ahead_s, expected) in [
            (1, 0, true),
            // The clock is slewed.
            (2, 1, true),
            // The clock is ahead for a minute.
            (3, YEAR, false),
            (4, 0, false),
            (63, 0, false),
            (64, 0, true),
            // The clock is set back, and then forward.
            (65, -YEAR, false),
            (66, YEAR, false),
            (125, YEAR, false),
            (126, YEAR, true),
        ] {
            let is_steady = steadiness.observe(reading(minute, ahead_s));
            assert_eq!(is_steady, expected, "minute {minute}");
        }
        let mut steadiness = Steadiness::new(reading(0, YEAR), false);
        assert!(!steadiness.observe(reading(59, YEAR)));
        assert!(steadiness.observe(reading(60, YEAR)));
    }
}
