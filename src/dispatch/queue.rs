//! One webhook's deliveries.
//!
//! Constraint: a lane, that is a project, has at most one delivery in flight, and it is free again
//! only when what came of it is recorded. What cannot be recorded is tried again until it can be:
//! sending anew instead would be a second callback for one happening. Landings are recorded together,
//! so that a burst costs the store a few commits and not one for each.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::ahead::Ahead;
use super::attempt::{Landed, fly};
use super::repeats::Failures;
use super::{QueueHandle, Shared, Target};
use crate::clock::Reading;
use crate::domain::delivery::Verdict;
use crate::domain::endpoint::{Admission, Endpoint, Transition};
use crate::domain::project::ProjectKey;
use crate::store::{AttemptLog, Claims, Finish, StoreError, Unreadable};

/// How long to wait before the store is asked again after it failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// How long a queue sleeps at most: the time of day may be set meanwhile.
const LONG: Duration = Duration::from_secs(30);

fn wait_until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now))
        .unwrap_or_default()
        .min(LONG)
}

/// How many attempts may wait to be recorded before no more are made. A kill makes these again: so
/// many, as many that are being recorded, and those whose answer is not there. Half as many would
/// cost a fifth of the throughput of a burst (measured: 5,100 to 5,500 calls a second for 6,500).
const UNRECORDED_MAX: usize = 64;

/// How many attempts are recorded at once, and how long one waits for others at most while more are
/// under way. Without this the commits of a burst had 13 in them (counted), each with some thirty
/// pages that the next one writes again.
const RECORDED_TOGETHER: usize = 32;
const RECORDED_WITHIN: Duration = Duration::from_millis(10);

/// The queue of one webhook.
pub(super) struct Queue {
    shared: Shared,
    name: String,
    target: watch::Receiver<Arc<Target>>,
    stop: CancellationToken,
    handle: Arc<QueueHandle>,
    failures: Failures,
    /// The clock at the last turn.
    reading: Reading,
    ahead: Ahead,
    /// When the store is asked for more at the latest, by the clock that is never set.
    look_at: Duration,
    /// Whether it is not asked before that: it failed.
    is_pausing: bool,
    flights: JoinSet<Landed>,
    /// What came of attempts, until it is recorded together.
    landed: Vec<Landed>,
    /// When the first of them landed, by the clock that is never set.
    landed_at: Duration,
    /// Whether the receiver asked for no more, and that is not recorded yet.
    is_switching_off: bool,
    /// The recording in progress, at most one; ends with the lanes that it frees.
    recording: JoinSet<Vec<ProjectKey>>,
    endpoint: Endpoint,
    /// Of the settings by which the endpoint is known.
    fingerprint: [u8; 32],
}

impl Queue {
    pub(super) fn new(
        shared: Shared,
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
            ahead: Ahead::new(Arc::clone(&handle)),
            look_at: Duration::ZERO,
            is_pausing: false,
            handle,
            failures: Failures::default(),
            reading: shared.clock.reading(),
            shared,
            name,
            target,
            stop,
            flights: JoinSet::new(),
            landed: Vec::new(),
            landed_at: Duration::ZERO,
            is_switching_off: false,
            recording: JoinSet::new(),
            endpoint: Endpoint::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        // They were for a queue that is gone; what became of them since is in the store.
        drop(self.handle.take_ready());
        while !stop.is_cancelled() {
            let wait = self.launch().await.min(self.until_recording());
            tokio::select! {
                Some(landed) = self.flights.join_next() => self.land(landed),
                Some(recorded) = self.recording.join_next() => self.free(recorded),
                answer = self.ahead.answer() => self.take_answer(answer).await,
                () = self.handle.woken() => self.ahead.look_again(),
                changed = self.target.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.ahead.look_again();
                }
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => {}
            }
            self.record();
        }
        while !(self.flights.is_empty() && self.recording.is_empty()) {
            let wait = self.until_recording();
            tokio::select! {
                Some(landed) = self.flights.join_next() => self.land(landed),
                Some(recorded) = self.recording.join_next() => self.free(recorded),
                () = tokio::time::sleep(wait) => {}
            }
            self.record();
        }
    }

    /// Where the time of day was set back, what waits must not wait for as long as it was ahead.
    async fn mind_the_clock(&mut self) {
        let reading = self.shared.clock.reading();
        if !self.reading.was_set_back_until(&reading) {
            self.reading = reading;
            return;
        }
        let now = self.shared.clock.now();
        match self.shared.store.correct_times(&self.name, now).await {
            Ok(n_mended) => {
                self.reading = reading;
                self.endpoint.probe_soon(now);
                self.ahead.look_again();
                warn!(
                    webhook = self.name,
                    n_mended,
                    "the time of day was set back; what waited by the old time is tried now"
                );
            }
            Err(error) => {
                debug!(webhook = self.name, %error, "the times cannot be mended yet");
            }
        }
    }

    /// Sends what is due, as far as there is room. Returns how long to wait for the next.
    async fn launch(&mut self) -> Duration {
        self.mind_the_clock().await;
        self.failures.sum_up(&self.name, self.shared.clock.moment());
        let target = self.take_target();
        let now = self.shared.clock.now();
        let mut committed = self.handle.take_ready();
        if self.handle.take_changed_by_operator() {
            self.endpoint.probe_soon(now);
            self.ahead.drop_all();
            // An operator may have cancelled them.
            committed.clear();
        }
        let admission = self.endpoint.admit(now, self.flights.len());
        let concurrency = match admission {
            Admission::Everything => target.webhook.concurrency,
            Admission::Probe => 1,
            // The landing asks again.
            Admission::AfterInFlight => {
                self.ahead.drop_all();
                return LONG;
            }
            Admission::Nothing(until) => {
                self.ahead.drop_all();
                return wait_until(until, now);
            }
        };
        if self.landed.len() >= UNRECORDED_MAX || self.is_switching_off {
            // The next recording asks again.
            return LONG;
        }
        let moment = self.shared.clock.moment();
        let is_open = admission == Admission::Everything;
        let has_room = self.flights.len() < concurrency;
        if has_room {
            self.ahead.drop_old(moment);
        }
        if is_open && self.ahead.is_empty() && has_room {
            self.ahead.accept(committed, moment);
        }
        if self.look_at <= moment {
            self.is_pausing = false;
            self.ahead.look_again();
        }
        self.send(&target, concurrency, !is_open);
        let room = concurrency.saturating_sub(self.flights.len());
        if !self.is_pausing {
            let at = self.shared.clock.reading();
            self.ahead
                .ask(&self.shared.store, &self.name, at, room, is_open);
        }
        if room == 0 || self.ahead.is_asking() {
            // The next landing or the answer asks again.
            LONG
        } else {
            self.look_at.saturating_sub(moment)
        }
    }

    /// Sends what is claimed, as far as there is room.
    fn send(&mut self, target: &Arc<Target>, concurrency: usize, is_probe: bool) {
        while self.flights.len() < concurrency
            && let Some(claim) = self.ahead.take()
        {
            self.flights.spawn(fly(
                self.shared.clone(),
                Arc::clone(target),
                self.target.clone(),
                claim,
                is_probe,
            ));
        }
    }

    /// Takes what the store found due.
    async fn take_answer(&mut self, answer: Result<Claims, StoreError>) {
        let moment = self.shared.clock.moment();
        let taken = match answer {
            Ok(claims) => self.ahead.take_answer(claims),
            Err(error) => return self.ask_later(&error),
        };
        let (unreadable, next_due) = taken;
        let wait = next_due.map_or(LONG, |due| wait_until(due, self.shared.clock.now()));
        self.look_at = moment.saturating_add(wait);
        for one in unreadable {
            if let Err(error) = self.give_up(one).await {
                return self.ask_later(&error);
            }
            // Its lane goes on.
            self.ahead.look_again();
        }
    }

    fn ask_later(&mut self, error: &StoreError) {
        self.is_pausing = true;
        error!(webhook = self.name, %error, "what is due cannot be taken from the store; it is tried again. Is the state directory's disk in order?");
        self.look_at = self.shared.clock.moment().saturating_add(STORE_PAUSE);
    }

    /// The settings to work with now. What is known of the endpoint was learnt by the settings
    /// before, and does not hold for others.
    fn take_target(&mut self) -> Arc<Target> {
        if self.target.has_changed().unwrap_or(false) {
            self.ahead.look_again();
        }
        let target = Arc::clone(&self.target.borrow_and_update());
        if self.fingerprint != target.fingerprint {
            self.fingerprint = target.fingerprint;
            self.endpoint = Endpoint::default();
        }
        target
    }

    fn land(&mut self, landed: Result<Landed, JoinError>) {
        match landed {
            Ok(landed) => {
                self.failures
                    .say(&self.name, &landed, self.shared.clock.moment());
                self.note(&landed);
                if landed.finish.verdict == Verdict::SwitchOff {
                    self.is_switching_off = true;
                    self.ahead.drop_all();
                }
                if self.landed.is_empty() {
                    self.landed_at = self.shared.clock.moment();
                }
                self.landed.push(landed);
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    /// How long what landed may wait for more that is recorded with it.
    fn until_recording(&self) -> Duration {
        let is_alone = self.flights.is_empty() || self.is_switching_off;
        if self.landed.is_empty() || !self.recording.is_empty() {
            // The next landing or recording asks again.
            LONG
        } else if is_alone || self.landed.len() >= RECORDED_TOGETHER {
            Duration::ZERO
        } else {
            let waited = self.shared.clock.moment().saturating_sub(self.landed_at);
            RECORDED_WITHIN.saturating_sub(waited)
        }
    }

    /// Records together what landed, when that has waited for long enough. One recording is in
    /// progress at a time.
    fn record(&mut self) {
        if !self.until_recording().is_zero() {
            return;
        }
        let (lanes, finished) = std::mem::take(&mut self.landed)
            .into_iter()
            .map(|landed| (landed.lane, landed.finish))
            .unzip();
        let (shared, name, stop) = (self.shared.clone(), self.name.clone(), self.stop.clone());
        self.recording.spawn(async move {
            record(&shared, &name, finished, &stop).await;
            lanes
        });
    }

    fn free(&mut self, recorded: Result<Vec<ProjectKey>, JoinError>) {
        match recorded {
            Ok(lanes) => {
                for lane in lanes {
                    self.ahead.free(lane);
                }
                if self.landed.is_empty() && std::mem::take(&mut self.is_switching_off) {
                    // On record, where the next claim finds it. What was passed before is not sent.
                    drop(self.handle.take_ready());
                }
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    /// Notes what a landing says of the endpoint.
    fn note(&mut self, landed: &Landed) {
        if landed.fingerprint != self.fingerprint {
            return;
        }
        let target = Arc::clone(&self.target.borrow());
        let transition = self.endpoint.attempt_ended(
            &landed.lane,
            landed.outcome,
            landed.was_probe,
            &target.webhook.schedule,
            self.shared.clock.now(),
            (self.shared.jitter)(),
        );
        match transition {
            Some(Transition::Down(next_probe)) => warn!(
                webhook = self.name, %next_probe,
                "the endpoint seems to be down: what waits is kept, and it is probed with one \
                 delivery at a time"
            ),
            Some(Transition::Up(after)) => info!(
                webhook = self.name,
                down_s = after.as_secs(),
                "the endpoint is back; what waited is delivered"
            ),
            None => {}
        }
    }

    /// Finishes a delivery that cannot be read as dead: it would hold its lane for ever.
    async fn give_up(&self, unreadable: Unreadable) -> Result<(), StoreError> {
        let reason = format!("the delivery cannot be read: {}", unreadable.fault);
        error!(webhook = self.name, project = %unreadable.key, delivery = unreadable.delivery, "{reason}");
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
        };
        self.shared.store.finish([finish]).await
    }
}

/// Records what came of attempts, however long the store cannot.
async fn record(shared: &Shared, webhook: &str, finished: Vec<Finish>, stop: &CancellationToken) {
    let n_finished = finished.len();
    let finished: Arc<[Finish]> = finished.into();
    let mut failures: u32 = 0;
    loop {
        match shared.store.finish(Arc::clone(&finished)).await {
            Ok(()) => {
                if failures > 0 {
                    info!(webhook, n_finished, "recorded after all");
                }
                return;
            }
            Err(error) if failures == 0 => error!(
                webhook, n_finished, %error,
                "what came of attempts cannot be recorded; it is tried until it can. Is the disk full?"
            ),
            Err(error) => debug!(webhook, n_finished, %error, "still not recorded"),
        }
        failures = failures.saturating_add(1);
        if stop.is_cancelled() && failures > 3 {
            // The next start sends them again, with the same ids.
            return;
        }
        tokio::time::sleep(STORE_PAUSE).await;
    }
}
