//! The queue of one webhook: the loop that sends its deliveries.
//!
//! Constraint: a queue sends at most one delivery of each project at a time. The project is busy
//! until the result is recorded.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::attempt::{self, Ended};
use super::handle::{Moves, QueueHandle};
use super::log::{AttemptLogger, log_transition};
use super::prefetch::{Prefetch, Wanted};
use super::results::{Results, STORE_PAUSE};
use super::{Shared, Target, ended_of, next_of};
use crate::clock::Reading;
use crate::domain::delivery::Verdict;
use crate::domain::endpoint::{Admission, Endpoint};
use crate::domain::pace::Pace;
use crate::domain::project::ProjectKey;
use crate::store::{AttemptLog, Claim, Claims, Fault, Finish, StoreError, Unreadable};

/// The longest sleep of a queue. It is short, because the clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// The time between requests from which the queue claims one delivery at a time.
///
/// More claims would expire before they are sent.
const RARELY: Duration = Duration::from_millis(20);

/// The longest time between two claims if other processes send deliveries of the same lanes.
const SHARED_POLL: Duration = Duration::from_secs(1);

/// How long a sender with a rate leaves the webhook to others after a failed probe.
///
/// Others ask every [`SHARED_POLL`].
const GIVE_WAY: Duration = Duration::from_secs(2);

/// How long a queue that ends tries to leave its webhook to other senders.
///
/// If it cannot, the next queue of the webhook does, or the end of the process.
const LEAVE: Duration = Duration::from_secs(3);

/// The maximum number of payload bytes that one webhook sends at the same time.
///
/// A larger payload is sent alone. Each webhook has its own limit, so that no webhook waits for
/// another.
const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;

/// Returns how long to sleep until a time of day.
fn sleep_until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now))
        .unwrap_or_default()
        .min(SLEEP_MAX)
}

/// The queue of one webhook.
pub(super) struct Queue {
    shared: Arc<Shared>,
    name: String,
    target: watch::Receiver<Arc<Target>>,
    stop: CancellationToken,
    handle: Arc<QueueHandle>,
    logger: AttemptLogger,
    /// The last reading of the clock. It shows whether the clock was set back.
    reading: Reading,
    prefetch: Prefetch,
    /// The monotonic time of the next claim, unless something wakes the queue earlier.
    ask_at: Duration,
    /// Whether the store failed. Then the queue does not claim before `ask_at`.
    is_store_failing: bool,
    in_flight: JoinSet<Ended>,
    /// The total size of the payloads in flight, in bytes.
    in_flight_bytes: usize,
    results: Results,
    endpoint: Endpoint,
    pace: Pace,
    /// The monotonic time until which other senders may become the only one.
    gives_way_until: Duration,
    /// The renames since the oldest attempt in progress began.
    moves: Vec<Moves>,
    /// The fingerprint of the settings. If it changes, `endpoint` is reset.
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
            prefetch: Prefetch::new(Arc::clone(&handle), shared.store.claims_last()),
            ask_at: Duration::ZERO,
            is_store_failing: false,
            handle,
            logger: AttemptLogger::default(),
            reading: shared.clock.reading(),
            shared,
            name,
            target,
            stop,
            in_flight: JoinSet::new(),
            in_flight_bytes: 0,
            results: Results::default(),
            endpoint: Endpoint::default(),
            pace: Pace::default(),
            gives_way_until: Duration::ZERO,
            moves: Vec::new(),
        }
    }

    /// Runs until the queue is stopped and its attempts in progress have ended.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        // Deliveries in the handle were passed to an earlier queue, which may have sent them. Only
        // the store knows their state, so this queue claims them from there.
        self.handle.drop_committed();
        while !stop.is_cancelled() {
            let sleep = self.send_due().await.min(self.until_recording());
            let sleep = sleep.min(self.until_told());
            self.tell();
            tokio::select! {
                Some(ended) = next_of(&mut self.in_flight) => self.accept_ended(ended),
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
            self.record();
        }
        while !self.in_flight.is_empty() || self.results.is_recording() {
            let sleep = self.until_recording();
            tokio::select! {
                Some(ended) = next_of(&mut self.in_flight) => self.accept_ended(ended),
                Some(recorded) = self.results.recorded() => self.release(recorded),
                () = tokio::time::sleep(sleep) => {}
            }
            self.record();
        }
        if self.shared.store.is_shared() && tokio::time::timeout(LEAVE, self.leave()).await.is_err()
        {
            debug!(
                webhook = self.name,
                "cannot leave the webhook to other senders"
            );
        }
    }

    /// Leaves the webhook to other senders.
    async fn leave(&mut self) {
        let at = self.shared.clock.reading();
        while let Err(error) = self
            .prefetch
            .leave(&self.shared.store, &self.name, at)
            .await
        {
            if matches!(error.fault(), Fault::Fenced | Fault::Closed) {
                return;
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }

    /// Sends due deliveries, as many as `concurrency` allows. Returns the longest time to sleep.
    async fn send_due(&mut self) -> Duration {
        self.check_clock().await;
        let moment = self.shared.clock.moment();
        self.logger.log_count(&self.name, moment);
        let target = self.current_target();
        if self.in_flight.is_empty() {
            self.moves.clear();
        }
        self.follow_moves();
        let now = self.shared.clock.now();
        let committed = self.take_committed(now);
        let admission = self.endpoint.admit(now, self.in_flight.len());
        let (concurrency, is_probe) = match admission {
            Admission::Everything => (target.webhook.concurrency, false),
            Admission::Probe { n_fresh, .. } => {
                let n_more = n_fresh.max(1);
                let n = self.in_flight.len().saturating_add(n_more);
                (target.webhook.concurrency.min(n), true)
            }
            // The end of the attempt wakes the queue.
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
        // Claims before the time of the next request would expire.
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
        if self.ask_at <= moment {
            self.is_store_failing = false;
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
        if !self.is_store_failing && !self.is_full() {
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
            let (at, alone) = (self.shared.clock.reading(), self.is_paced(&target));
            self.prefetch
                .ask(&self.shared.store, &self.name, at, n_wanted, wanted, alone);
        }
        if room == 0 || self.prefetch.is_asking() {
            // The end of an attempt or the answer of the claim wakes the queue.
            SLEEP_MAX
        } else {
            self.ask_at.saturating_sub(moment)
        }
    }

    /// Takes the committed deliveries, and what other tasks and processes changed.
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

    /// Returns how long to wait until the next request.
    fn until_next(&self, target: &Target, moment: Duration) -> Duration {
        let mut next = self.pace.next(target.webhook.rate);
        if self.is_paced(target) {
            next = next.max(self.gives_way_until);
        }
        next.saturating_sub(moment)
    }

    /// Whether requests to the webhook have a rate. Then only one sender may send at a time.
    fn is_paced(&self, target: &Target) -> bool {
        target.webhook.rate.is_some() || self.pace.is_learned()
    }

    /// Whether only this sender may send, although it claims nothing now.
    ///
    /// An endpoint that is down may be out of reach of this sender alone. So it keeps others from sending
    /// only during a probe.
    fn must_be_alone(&self, target: &Target) -> bool {
        let gives_way = self.shared.clock.moment() < self.gives_way_until;
        let is_idle = self.in_flight.is_empty() && self.prefetch.is_empty();
        self.is_paced(target) && !gives_way && !(self.endpoint.is_down() && is_idle)
    }

    /// Tells other senders what this one needs.
    fn tell(&mut self) {
        if self.is_store_failing && self.shared.clock.moment() < self.ask_at {
            return;
        }
        let target = Arc::clone(&self.target.borrow());
        let at = self.shared.clock.reading();
        let alone = self.must_be_alone(&target);
        self.prefetch
            .tell(&self.shared.store, &self.name, at, alone);
    }

    /// Returns how long to wait before telling other senders again, after the store failed.
    fn until_told(&self) -> Duration {
        let moment = self.shared.clock.moment();
        match self.is_store_failing && self.shared.store.is_shared() && moment < self.ask_at {
            true => self.ask_at.saturating_sub(moment),
            false => SLEEP_MAX,
        }
    }

    /// Whether the next payload must wait for those in flight, to limit memory.
    fn is_full(&self) -> bool {
        let n_bytes = self.prefetch.next_size().unwrap_or(1);
        let with_next = self.in_flight_bytes.saturating_add(n_bytes);
        !self.in_flight.is_empty() && with_next > IN_FLIGHT_BYTES
    }

    /// Sends claimed deliveries while fewer than `concurrency` are in flight.
    fn send(&mut self, target: &Arc<Target>, concurrency: usize, is_probe: bool) {
        while self.in_flight.len() < concurrency
            && !self.is_full()
            && self.pace.next(target.webhook.rate) <= self.shared.clock.moment()
            && let Some(claim) = self.prefetch.pop()
        {
            self.in_flight_bytes = match self.in_flight.is_empty() {
                true => claim.payload.len(),
                false => self.in_flight_bytes.saturating_add(claim.payload.len()),
            };
            self.pace
                .sent(target.webhook.rate, self.shared.clock.moment());
            let target = Arc::clone(target);
            let n_moves = self.moves.len();
            let (clock, traces) = (self.shared.clock, self.shared.traces.clone());
            self.in_flight.spawn(attempt::send(
                clock, traces, target, claim, is_probe, n_moves,
            ));
        }
    }

    /// Corrects due times if the clock was set back.
    ///
    /// Otherwise deliveries would be late by the time that it was set back.
    async fn check_clock(&mut self) {
        let reading = self.shared.clock.reading();
        if !self.reading.was_set_back_until(&reading) {
            self.reading = reading;
            return;
        }
        let now = reading.now();
        match self.shared.store.correct_times(&self.name, now).await {
            Ok(n_deliveries) => {
                self.reading = reading;
                self.endpoint.probe_soon(now);
                self.prefetch.expect_more();
                warn!(
                    webhook = self.name,
                    n_deliveries, "the clock was set back; deliveries delayed by this are due now"
                );
            }
            Err(error) => {
                debug!(webhook = self.name, %error, "cannot correct due times yet; retrying");
            }
        }
    }

    /// Returns the current settings. If they changed, resets the health of the endpoint.
    fn current_target(&mut self) -> Arc<Target> {
        if self.target.has_changed().unwrap_or(false) {
            self.prefetch.expect_more();
        }
        let target = Arc::clone(&self.target.borrow_and_update());
        if self.fingerprint != target.fingerprint {
            self.fingerprint = target.fingerprint;
            self.endpoint = Endpoint::default();
            self.pace = Pace::default();
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
        let now = self.shared.clock.now();
        let mut wait = next_due.map_or(SLEEP_MAX, |due| sleep_until(due, now));
        // The time for a probe may have come since the claim began. Then the next claim is due at
        // once.
        if let Admission::Probe { any_at, .. } = self.endpoint.admit(now, self.in_flight.len())
            && self.prefetch.leaves_out_failed()
        {
            wait = wait.min(sleep_until(any_at, now));
        }
        if self.shared.store.is_shared() {
            // Another sender may release lanes.
            wait = wait.min(SHARED_POLL);
        }
        self.ask_at = moment.saturating_add(wait);
        for one in unreadable {
            if let Err(error) = self.give_up(one).await {
                return self.ask_later(&error);
            }
            // The next delivery of the same project may be due.
            self.prefetch.expect_more();
        }
    }

    fn ask_later(&mut self, error: &StoreError) {
        self.is_store_failing = true;
        error!(
            webhook = self.name, %error,
            "cannot read due deliveries; retrying. Is the disk of the state directory healthy?"
        );
        self.ask_at = self.shared.clock.moment().saturating_add(STORE_PAUSE);
    }

    /// Records an unreadable delivery as dead. Otherwise its project would never be sent again.
    async fn give_up(&self, unreadable: Unreadable) -> Result<(), StoreError> {
        let reason = format!("the delivery cannot be read: {}", unreadable.fault);
        error!(
            webhook = self.name, project = %unreadable.key, delivery = unreadable.delivery,
            "{reason}"
        );
        let finish = Finish {
            delivery: unreadable.delivery,
            attempt: AttemptLog {
                number: unreadable.attempt,
                at: self.shared.clock.now(),
                duration: Duration::ZERO,
                status: None,
                error: Some(reason),
                answer: bytes::Bytes::new(),
                request_headers: Vec::new(),
            },
            verdict: Verdict::Dead,
            n_redeliveries: unreadable.n_redeliveries,
            fingerprint: None,
            rests_until: None,
            retry_at: None,
        };
        self.shared.store.finish([finish].into()).await
    }

    /// Handles all attempts that have ended. In a burst, several end in one iteration.
    fn accept_ended(&mut self, first: Ended) {
        let mut next = Some(first);
        while let Some(ended) = next {
            self.accept(ended);
            next = ended_of(&mut self.in_flight);
        }
    }

    /// Handles an ended attempt: judges it, logs it, and keeps its result for recording.
    fn accept(&mut self, ended: Ended) {
        let now = self.shared.clock.moment();
        let target = Arc::clone(&self.target.borrow());
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(ended.n_bytes());
        self.follow_moves();
        let mut uses_attempt = true;
        let mut transition = None;
        if ended.used(&self.fingerprint) {
            let effect = self.endpoint.attempt_ended(
                &self.current_key(&ended),
                ended.outcome(),
                ended.was_probe(),
                &target.webhook.schedule,
                self.shared.clock.now(),
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
        if self.endpoint.is_down() && self.is_paced(&target) && self.shared.store.is_shared() {
            self.gives_way_until = now.saturating_add(GIVE_WAY);
            self.prefetch.clear();
        }
        self.results.push(result, now);
    }

    /// Replaces the old keys of renamed projects.
    ///
    /// Claims have the old keys, so they are dropped.
    fn follow_moves(&mut self) {
        for moves in self.handle.take_moves() {
            self.endpoint.moved(&moves);
            self.prefetch.clear();
            self.moves.push(moves);
        }
    }

    /// Returns the current key of an attempt's project, which may have been renamed since.
    fn current_key(&self, ended: &Ended) -> ProjectKey {
        let later = self.moves.get(ended.n_moves()..).unwrap_or_default();
        later.iter().fold(ended.project().clone(), |key, moves| {
            moves.get(&key).cloned().unwrap_or(key)
        })
    }

    /// Returns how long to wait before the next recording.
    fn until_recording(&self) -> Duration {
        let now = self.shared.clock.moment();
        let wait = self.results.wait(self.in_flight.is_empty(), now);
        // If no recording is due, the end of an attempt or of a recording wakes the queue.
        wait.unwrap_or(SLEEP_MAX)
    }

    fn record(&mut self) {
        let is_idle = self.in_flight.is_empty();
        self.results
            .record(is_idle, &self.shared, &self.name, &self.stop);
    }

    /// Releases the deliveries whose results are recorded.
    fn release(&mut self, recorded: Vec<(ProjectKey, i64)>) {
        for (project, delivery) in recorded {
            self.prefetch.release(project, delivery);
        }
        if self.results.take_paused() {
            // The store enforces the pause now. Deliveries that were passed before must not be
            // sent.
            self.handle.drop_committed();
        }
    }
}
