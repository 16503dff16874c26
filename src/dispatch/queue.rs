//! The queue of one webhook: the loop that sends its deliveries.
//!
//! Constraint: a queue sends at most one delivery of each project at a time. The project is busy
//! until the result is recorded.

mod sharing;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::attempt::Ended;
use super::handle::QueueHandle;
use super::in_flight::InFlight;
use super::log::{AttemptLogger, log_transition};
use super::prefetch::{Prefetch, Wanted};
use super::results::{Results, STORE_PAUSE};
use super::{Shared, Target};
use crate::clock::SetBack;
use crate::domain::delivery::Verdict;
use crate::domain::endpoint::{Admission, Endpoint};
use crate::domain::pace::Pace;
use crate::domain::project::ProjectKey;
use crate::error::chain;
use crate::store::{AttemptLog, Claim, Claims, Finish, StoreError, Unreadable};

/// The longest sleep of a queue. It is short, because the clock may be set during a sleep.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// How long a delivery waits that could not be read for lack of memory.
const MEMORY_PAUSE: Duration = Duration::from_secs(10);

/// If requests must be at least this long apart, the queue claims one delivery at a time.
///
/// Further claims might expire before the queue can send them.
const RARELY: Duration = Duration::from_millis(20);

/// The time after which the queue claims again if other processes may send to its webhook.
const SHARED_POLL: Duration = Duration::from_secs(1);

/// Returns how long to sleep until a time of day, at most [`SLEEP_MAX`].
fn sleep_until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now))
        .unwrap_or_default()
        .min(SLEEP_MAX)
}

/// When a queue claims next, unless something wakes the queue earlier.
#[derive(Default)]
struct NextClaim {
    /// The monotonic time of the next claim.
    at: Duration,
    /// Whether the store failed. Then the queue does not claim before `at`, even if it is woken.
    is_after_failure: bool,
    /// Whether the failure is logged, and no claim has succeeded since.
    is_failure_logged: bool,
}

/// Notices when the clock is set back, to correct due times.
struct ClockCheck {
    set_back: SetBack,
    /// The earliest monotonic time for the next correction. A failure delays it.
    at: Duration,
}

/// The queue of one webhook.
pub(super) struct Queue {
    shared: Arc<Shared>,
    name: String,
    target: watch::Receiver<Arc<Target>>,
    stop: CancellationToken,
    handle: Arc<QueueHandle>,
    logger: AttemptLogger,
    clock_check: ClockCheck,
    prefetch: Prefetch,
    next_claim: NextClaim,
    in_flight: InFlight,
    results: Results,
    endpoint: Endpoint,
    pace: Pace,
    /// The monotonic time until which this queue leaves the webhook to other senders.
    gives_way_until: Duration,
    /// The fingerprint of the settings. If it changes, `endpoint` and `pace` are reset.
    fingerprint: [u8; 32],
}

impl Queue {
    pub(super) fn new(
        shared: Arc<Shared>,
        target: watch::Receiver<Arc<Target>>,
        stop: CancellationToken,
    ) -> Self {
        let (name, fingerprint) = {
            let target = target.borrow();
            (target.webhook.name().to_owned(), target.fingerprint)
        };
        let handle = shared.queues.of(&name);
        Self {
            fingerprint,
            prefetch: Prefetch::new(Arc::clone(&handle), shared.store.is_shared()),
            next_claim: NextClaim::default(),
            handle,
            logger: AttemptLogger::default(),
            clock_check: ClockCheck {
                set_back: SetBack::new(shared.reading()),
                at: Duration::ZERO,
            },
            shared,
            name,
            target,
            stop,
            in_flight: InFlight::default(),
            results: Results::default(),
            endpoint: Endpoint::default(),
            pace: Pace::default(),
            gives_way_until: Duration::ZERO,
        }
    }

    /// Runs until the queue is stopped, its attempts have ended and the recording has ended.
    ///
    /// `stop_of_all` stops the queues of all webhooks.
    pub(super) async fn run(mut self, stop_of_all: CancellationToken) {
        let stop = self.stop.clone();
        // An earlier queue may have sent the deliveries in the handle. Only the store has their
        // current state, so this queue claims them from the store.
        self.handle.drop_committed();
        while !stop.is_cancelled() {
            let sleep = self.send_due().await.min(self.until_recording());
            let sleep = sleep.min(self.until_told());
            self.tell();
            tokio::select! {
                Some(ended) = self.in_flight.next() => self.accept_ended(ended),
                Some(recorded) = self.results.recorded() => self.release(recorded),
                answer = self.prefetch.answer() => self.accept_claims(answer).await,
                () = self.handle.woken() => self.prefetch.expect_more(),
                changed = self.target.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.prefetch.expect_more();
                }
                () = tokio::time::sleep(sleep) => {}
                () = stop.cancelled() => {}
            }
            self.record(&stop_of_all);
        }
        while !self.in_flight.is_empty() || self.results.is_recording() {
            let sleep = self.until_recording();
            tokio::select! {
                Some(ended) = self.in_flight.next() => self.accept_ended(ended),
                Some(recorded) = self.results.recorded() => self.release(recorded),
                () = tokio::time::sleep(sleep) => {}
            }
            self.record(&stop_of_all);
        }
        if self.shared.store.is_shared() {
            self.leave(&stop_of_all).await;
        }
    }

    /// Sends due deliveries within the webhook's limits. Returns the longest time to sleep.
    async fn send_due(&mut self) -> Duration {
        self.check_clock().await;
        let moment = self.shared.clock.moment();
        self.logger.log_count(&self.name, moment);
        let target = self.current_target();
        self.in_flight.drop_old_moves();
        self.follow_moves();
        let now = self.shared.now();
        let committed = self.take_committed(now);
        let admission = self.endpoint.admit(now, self.in_flight.len());
        let (concurrency, is_probe) = match admission {
            Admission::Everything => (target.webhook.concurrency, false),
            Admission::Probe { n_fresh, .. } => {
                let n_more = n_fresh.max(1);
                let n = self.in_flight.len().saturating_add(n_more);
                (target.webhook.concurrency.min(n), true)
            }
            // The end of an attempt wakes the queue.
            Admission::AfterInFlight => {
                self.prefetch.clear();
                return SLEEP_MAX;
            }
            Admission::Nothing(until) => {
                self.prefetch.clear();
                return sleep_until(until, now);
            }
        };
        if self.results.blocks_sending() {
            // The end of a recording wakes the queue.
            return SLEEP_MAX;
        }
        // Do not claim yet: the claims might expire before the rate allows the next request.
        let until_next = self.until_next(&target, moment);
        if !until_next.is_zero() {
            return until_next.min(SLEEP_MAX);
        }
        if self.in_flight.len() < concurrency {
            self.prefetch.drop_expired(moment);
            if !is_probe && self.prefetch.is_empty() {
                self.prefetch.accept_committed(committed, moment);
            }
        }
        if self.next_claim.at <= moment {
            self.next_claim.is_after_failure = false;
            self.prefetch.expect_more();
        }
        self.send(&target, concurrency, is_probe);
        let until_next = self.until_next(&target, moment);
        if !until_next.is_zero() {
            return until_next.min(SLEEP_MAX);
        }
        let interval = self.pace.interval(target.webhook.rate);
        let room = match self.is_full() {
            true => 0,
            false => concurrency.saturating_sub(self.in_flight.len()),
        };
        if !self.next_claim.is_after_failure && !self.is_full() {
            let wanted = match admission {
                Admission::Probe { n_fresh, any_at } => Wanted::Probe {
                    avoiding: self.endpoint.failed().cloned().collect(),
                    n_fresh,
                    or_any: any_at <= now && self.in_flight.is_empty(),
                },
                _ if interval < RARELY => Wanted::Ahead,
                _ => Wanted::Now,
            };
            let n_wanted = if interval < RARELY { room } else { room.min(1) };
            let (at, alone) = (self.shared.reading(), self.alone(&target));
            self.prefetch
                .ask(&self.shared.store, &self.name, at, n_wanted, wanted, alone);
        }
        if room == 0 || self.prefetch.is_asking() {
            // The end of an attempt or the answer of the claim wakes the queue.
            SLEEP_MAX
        } else {
            self.next_claim.at.saturating_sub(moment)
        }
    }

    /// Takes the committed deliveries from the handle.
    ///
    /// Drops all prefetched claims if an operator changed deliveries or webhooks, or if another
    /// process paused the queue.
    fn take_committed(&mut self, now: Timestamp) -> Vec<Claim> {
        let mut committed = self.handle.take_committed();
        if self.handle.take_changed_by_operator() {
            self.endpoint.probe_soon(now);
            self.prefetch.clear();
            // An operator may have cancelled these deliveries.
            committed.clear();
        }
        if self.handle.take_paused_by_other() {
            self.prefetch.clear();
        }
        committed
    }

    /// Returns how long to wait before the next request may start.
    fn until_next(&self, target: &Target, moment: Duration) -> Duration {
        let mut next = self.pace.next(target.webhook.rate);
        if self.is_paced(target) {
            next = next.max(self.gives_way_until);
        }
        next.saturating_sub(moment)
    }

    /// Whether requests to the webhook are limited to a rate.
    ///
    /// Then only one sender may send at a time.
    fn is_paced(&self, target: &Target) -> bool {
        target.webhook.rate.is_some() || self.pace.is_learned()
    }

    /// Whether the next payload must wait for attempts in flight, to limit memory.
    fn is_full(&self) -> bool {
        self.in_flight
            .is_full(self.prefetch.next_size().unwrap_or(1))
    }

    /// Sends prefetched deliveries while `concurrency`, memory and the rate allow.
    fn send(&mut self, target: &Arc<Target>, concurrency: usize, is_probe: bool) {
        while self.in_flight.len() < concurrency
            && !self.is_full()
            && self.pace.next(target.webhook.rate) <= self.shared.clock.moment()
            && let Some((claim, hold)) = self.prefetch.pop()
        {
            self.pace
                .sent(target.webhook.rate, self.shared.clock.moment());
            self.in_flight
                .send(&self.shared, Arc::clone(target), claim, hold, is_probe);
        }
    }

    /// Corrects due times if the clock was set back.
    ///
    /// Otherwise deliveries would be late by as much as the clock was set back.
    async fn check_clock(&mut self) {
        let reading = self.shared.reading();
        let moment = self.shared.clock.moment();
        if !self.clock_check.set_back.is_noticed(reading) || moment < self.clock_check.at {
            return;
        }
        let now = reading.now();
        match self.shared.store.correct_times(&self.name, now).await {
            Ok(n_deliveries) => {
                self.clock_check.set_back = SetBack::new(reading);
                self.endpoint.probe_soon(now);
                self.prefetch.expect_more();
                warn!(
                    webhook = self.name,
                    n_deliveries,
                    "the clock was set back; deliveries that were scheduled while it was ahead are due now"
                );
            }
            Err(error) => {
                self.clock_check.at = moment.saturating_add(STORE_PAUSE);
                let reason = chain(&error);
                debug!(
                    webhook = self.name,
                    reason,
                    "the clock was set back, but due times cannot be corrected yet; retrying"
                );
            }
        }
    }

    /// Returns the current settings. If they changed, resets `endpoint` and `pace`.
    fn current_target(&mut self) -> Arc<Target> {
        if self.target.has_changed().unwrap_or(false) {
            self.prefetch.expect_more();
        }
        let target = Arc::clone(&self.target.borrow_and_update());
        if self.fingerprint != target.fingerprint {
            self.fingerprint = target.fingerprint;
            self.endpoint = Endpoint::default();
            let now = self.shared.clock.moment();
            self.pace.reset(target.webhook.rate, now);
        }
        target
    }

    /// Handles the answer to a claim.
    async fn accept_claims(&mut self, answer: Result<Claims, StoreError>) {
        let moment = self.shared.clock.moment();
        let (unreadable, next_due) = match answer {
            Ok(claims) => self.prefetch.accept(claims, moment),
            Err(error) => return self.ask_later(&error),
        };
        if self.prefetch.is_telling() {
            // Ignore the next due time in this answer. It may be the due time of a failed project
            // that must not send yet. Then the queue would claim again and again.
            return;
        }
        let now = self.shared.now();
        let mut wait = next_due.map_or(SLEEP_MAX, |due| sleep_until(due, now));
        // If the claim left out failed projects, claim again when they may send a probe. This time
        // may have come since the claim began.
        if let Admission::Probe { any_at, .. } = self.endpoint.admit(now, self.in_flight.len())
            && self.prefetch.leaves_out_failed()
        {
            wait = wait.min(sleep_until(any_at, now));
        }
        if self.shared.store.is_shared() {
            // Another sender may release claims at any time.
            wait = wait.min(SHARED_POLL);
        }
        self.next_claim.at = moment.saturating_add(wait);
        if !unreadable.is_empty() {
            let finished: Vec<Finish> =
                unreadable.into_iter().map(|one| self.unread(one)).collect();
            if let Err(error) = self.shared.store.finish(finished.into()).await {
                return self.ask_later(&error);
            }
            // The next deliveries of the same projects may be due.
            self.prefetch.expect_more();
        }
        if std::mem::take(&mut self.next_claim.is_failure_logged) {
            info!(webhook = self.name, "due deliveries can be claimed again");
        }
    }

    fn ask_later(&mut self, error: &StoreError) {
        self.next_claim.is_after_failure = true;
        let reason = chain(error);
        if std::mem::replace(&mut self.next_claim.is_failure_logged, true) {
            debug!(
                webhook = self.name,
                reason, "still cannot claim due deliveries"
            );
        } else {
            error!(
                webhook = self.name,
                reason,
                "cannot claim due deliveries; retrying. Check the disk of state_dir, or the \
                 connection to PostgreSQL"
            );
        }
        self.next_claim.at = self.shared.clock.moment().saturating_add(STORE_PAUSE);
    }

    /// Returns the result of a delivery that cannot be read.
    ///
    /// A damaged delivery is dead. Otherwise it would block its project forever. If there is not
    /// enough memory to read a delivery, it is retried after [`MEMORY_PAUSE`].
    fn unread(&self, unreadable: Unreadable) -> Finish {
        let reason = format!("the delivery cannot be read: {}", chain(&unreadable.fault));
        let (project, delivery) = (&unreadable.key, unreadable.delivery);
        let verdict = match self.shared.now().checked_add(MEMORY_PAUSE) {
            Ok(at) if !unreadable.fault.is_damage() => {
                warn!(webhook = self.name, %project, delivery, "{reason}; retrying");
                Verdict::Repeat(at)
            }
            _ => {
                error!(webhook = self.name, %project, delivery, "given up: {reason}");
                Verdict::Dead
            }
        };
        Finish {
            delivery: unreadable.delivery,
            attempt: AttemptLog {
                number: unreadable.attempt,
                at: self.shared.now(),
                duration: Duration::ZERO,
                status: None,
                error: Some(reason),
                answer: bytes::Bytes::new(),
                request_headers: Vec::new(),
            },
            verdict,
            n_redeliveries: unreadable.n_redeliveries,
            fingerprint: None,
            rests_until: None,
            retry_at: None,
        }
    }

    /// Handles all attempts that have ended. In a burst, several end in one iteration.
    fn accept_ended(&mut self, first: Ended) {
        let mut next = Some(first);
        while let Some(ended) = next {
            self.accept(ended);
            next = self.in_flight.ended();
        }
    }

    /// Handles an ended attempt: judges it, logs it, and keeps its result for recording.
    ///
    /// A withheld attempt, whose claim might have ended, has no result. Then only the claim is
    /// dropped.
    fn accept(&mut self, ended: Ended) {
        let now = self.shared.clock.moment();
        let target = Arc::clone(&self.target.borrow());
        self.follow_moves();
        if ended.was_withheld() {
            let (project, delivery) = ended.lane();
            debug!(webhook = self.name, %project, "not sent: another process may send the delivery");
            return self.prefetch.drop_claim(project, delivery);
        }
        let mut uses_attempt = true;
        let mut transition = None;
        if ended.used(&self.fingerprint) {
            let effect = self.endpoint.attempt_ended(
                &self.in_flight.current_key(&ended),
                ended.outcome(),
                ended.was_probe(),
                &target.webhook.schedule,
                self.shared.now(),
                (self.shared.jitter)(),
            );
            (uses_attempt, transition) = (effect.uses_attempt, effect.transition);
            let began = now.saturating_sub(ended.took());
            self.pace.answered(ended.outcome(), began, now);
        }
        let result = ended.judge(&target, &self.shared, uses_attempt);
        self.logger.log(&self.name, &result, now);
        if let Some(transition) = transition {
            log_transition(&self.name, transition);
            self.prefetch.clear();
        }
        if result.pauses_webhook() {
            self.prefetch.clear();
        }
        let may_reach_none = self.endpoint.may_be_out_of_reach() && self.is_paced(&target);
        if may_reach_none && self.shared.store.is_shared() {
            self.give_way(now, &target);
        } else {
            // Do not give way: this sender reaches the receiver, or shares no rate with others.
            self.gives_way_until = Duration::ZERO;
        }
        self.results.push(result, now);
    }

    /// Replaces the old keys of renamed projects.
    fn follow_moves(&mut self) {
        for moves in self.handle.take_moves() {
            self.endpoint.moved(&moves);
            self.prefetch.follow(&moves);
            self.in_flight.follow(moves);
        }
    }

    /// Returns how long to wait before the next recording.
    fn until_recording(&self) -> Duration {
        let now = self.shared.clock.moment();
        let wait = self.results.wait(self.in_flight.is_empty(), now);
        // If no recording is due, the end of an attempt or of a recording wakes the queue.
        wait.unwrap_or(SLEEP_MAX)
    }

    fn record(&mut self, stop_of_all: &CancellationToken) {
        let is_idle = self.in_flight.is_empty();
        self.results
            .record(is_idle, &self.shared, &self.name, stop_of_all);
    }

    /// Releases the deliveries whose recording has ended.
    fn release(&mut self, recorded: Vec<(ProjectKey, i64)>) {
        for (project, delivery) in recorded {
            self.prefetch.release(project, delivery);
        }
        if self.results.take_paused() {
            // The store enforces the pause now. Deliveries that the engine passed before must not
            // be sent.
            self.handle.drop_committed();
        }
    }
}
