//! One webhook's deliveries.
//!
//! Constraint: a lane, that is a project, has at most one delivery in flight, and it is free again
//! only when what came of it is recorded. What cannot be recorded is tried again until it can be:
//! sending anew instead would be a second callback for one happening. Claims are made some ahead and
//! landings recorded together, so that a burst costs the store a few questions and not one for each.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::attempt::{Grounded, Landed, fly};
use super::repeats::Failures;
use super::{Bell, Shared, Target};
use crate::clock::Reading;
use crate::domain::delivery::Verdict;
use crate::domain::endpoint::{Admission, Endpoint, Turn};
use crate::domain::project::ProjectKey;
use crate::store::{AttemptLog, Claim, Commit, Finish, StoreError, Unreadable};

/// How long to wait before the store is asked again after it failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// How long a queue sleeps at most: the time of day may be set meanwhile.
const LONG: Duration = Duration::from_secs(30);

fn wait_until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now))
        .unwrap_or_default()
        .min(LONG)
}

/// How many deliveries are claimed beyond those that can go out now, so that the store is not asked
/// for each one.
const AHEAD: usize = 16;
/// How large the payloads of one claim may be for the next to be made ahead, in bytes.
const AHEAD_BYTES: usize = 1024 * 1024;
/// How long a claim made ahead holds: an operator may have cancelled it meanwhile.
const AHEAD_FOR: Duration = Duration::from_millis(500);
/// How many attempts may wait to be recorded before no more are made. A kill makes these again: so
/// many, as many that are being recorded, and those whose answer is not there. Half as many would
/// cost a fifth of the throughput of a burst (measured: 5,100 to 5,500 calls a second for 6,500).
const UNRECORDED_MAX: usize = 64;

/// The queue of one webhook.
pub(super) struct Queue {
    shared: Shared,
    name: String,
    target: watch::Receiver<Arc<Target>>,
    stop: CancellationToken,
    bell: Arc<Bell>,
    failures: Failures,
    /// The clock at the last turn.
    reading: Reading,
    /// The lanes that are not to be claimed: their delivery is ahead, in flight, or not recorded.
    lanes: HashSet<ProjectKey>,
    /// Claims that wait for room, with the commit they came with where they did, and since when.
    ahead: VecDeque<(Claim, Option<Commit>)>,
    ahead_since: Duration,
    /// Whether payloads are small enough to claim ahead.
    claims_ahead: bool,
    flights: JoinSet<Result<Landed, Grounded>>,
    /// What came of attempts, until it is recorded together.
    landed: Vec<Landed>,
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
        Self {
            fingerprint,
            bell: shared.doorbells.of(&name),
            failures: Failures::default(),
            reading: shared.clock.reading(),
            shared,
            name,
            target,
            stop,
            lanes: HashSet::new(),
            ahead: VecDeque::new(),
            ahead_since: Duration::ZERO,
            claims_ahead: false,
            flights: JoinSet::new(),
            landed: Vec::new(),
            is_switching_off: false,
            recording: JoinSet::new(),
            endpoint: Endpoint::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        while !stop.is_cancelled() {
            let wait = self.launch().await;
            tokio::select! {
                Some(landed) = self.flights.join_next() => self.land(landed),
                Some(recorded) = self.recording.join_next() => self.free(recorded),
                () = self.bell.rung() => {
                    if self.bell.take_hurry() {
                        self.endpoint.hurry(self.shared.clock.now());
                        self.drop_ahead();
                        // An operator may have cancelled what it is.
                        drop(self.bell.take_handed());
                    }
                }
                changed = self.target.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
        loop {
            tokio::select! {
                Some(landed) = self.flights.join_next() => self.land(landed),
                Some(recorded) = self.recording.join_next() => self.free(recorded),
                else => return,
            }
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
        match self.shared.store.mend_times(&self.name, now).await {
            Ok(n_mended) => {
                self.reading = reading;
                self.endpoint.hurry(now);
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
        let handed = self.bell.take_handed();
        let now = self.shared.clock.now();
        let admission = self.endpoint.admit(now, self.flights.len());
        let concurrency = match admission {
            Admission::Everything => target.webhook.concurrency,
            Admission::Probe => 1,
            // The landing asks again.
            Admission::AfterLanding => {
                self.drop_ahead();
                return LONG;
            }
            Admission::Nothing(until) => {
                self.drop_ahead();
                return wait_until(until, now);
            }
        };
        let room = concurrency.saturating_sub(self.flights.len());
        if room == 0 || self.landed.len() >= UNRECORDED_MAX || self.is_switching_off {
            // The next landing or recording asks again.
            return LONG;
        }
        if self.shared.clock.moment().saturating_sub(self.ahead_since) > AHEAD_FOR {
            self.drop_ahead();
        }
        if admission == Admission::Everything && self.ahead.is_empty() {
            self.accept(handed);
            let mut commits = self.ahead.iter().filter_map(|(_, commit)| commit.as_ref());
            let is_early = commits.any(|commit| !commit.is_durable());
            if self.send_ahead(&target, concurrency, false) > 0 {
                if is_early {
                    // The bell rings again when the commit is durable, and where it fails they land.
                    return LONG;
                }
                // They are on the wire before the store is asked for more.
                tokio::task::yield_now().await;
            }
        }
        let room = concurrency.saturating_sub(self.flights.len());
        let mut wait = LONG;
        if self.ahead.len() < room {
            match self.claim(room, admission == Admission::Everything).await {
                Ok(Some(due)) => wait = wait_until(due, now),
                Ok(None) => {}
                Err(error) => {
                    error!(webhook = self.name, %error, "what is due cannot be read; it is tried again. Is the state directory's disk in order?");
                    wait = STORE_PAUSE;
                }
            }
        }
        self.send_ahead(&target, concurrency, admission == Admission::Probe);
        if self.flights.len() < concurrency {
            wait
        } else {
            LONG
        }
    }

    /// Takes claims that came with the commit of their deliveries, where the store would give the
    /// same after it: the lane is free, and the delivery is newer than all that were claimed.
    fn accept(&mut self, handed: Vec<(Claim, Commit)>) {
        for (claim, commit) in handed {
            if self.bell.is_news(claim.delivery) && !self.lanes.contains(&claim.event.key) {
                self.ahead_since = self.shared.clock.moment();
                self.take_in(claim, Some(commit));
            }
        }
    }

    fn take_in(&mut self, claim: Claim, commit: Option<Commit>) {
        self.bell.claimed(claim.delivery);
        self.lanes.insert(claim.event.key.clone());
        self.ahead.push_back((claim, commit));
    }

    /// Sends what is claimed, as far as there is room, and says how many that were.
    fn send_ahead(&mut self, target: &Arc<Target>, concurrency: usize, is_probe: bool) -> usize {
        let room = concurrency.saturating_sub(self.flights.len());
        let n_sent = room.min(self.ahead.len());
        for (claim, commit) in self.ahead.drain(..n_sent) {
            self.flights.spawn(fly(
                self.shared.clone(),
                Arc::clone(target),
                self.target.clone(),
                claim,
                commit,
                is_probe,
            ));
        }
        n_sent
    }

    /// Claims what is due, for the room there is and some ahead. Returns when more is due.
    async fn claim(
        &mut self,
        room: usize,
        may_be_ahead: bool,
    ) -> Result<Option<Timestamp>, StoreError> {
        let wanted = room.saturating_sub(self.ahead.len());
        let wanted = if may_be_ahead && self.claims_ahead {
            wanted.saturating_add(AHEAD)
        } else {
            wanted
        };
        let (now, busy) = (self.shared.clock.now(), self.lanes.clone());
        let claims = self
            .shared
            .store
            .claim_due(&self.name, now, wanted, busy)
            .await?;
        for unreadable in claims.unreadable {
            self.give_up(unreadable).await?;
        }
        if !claims.ready.is_empty() {
            let bytes: usize = claims.ready.iter().map(|claim| claim.payload.len()).sum();
            self.claims_ahead = bytes <= AHEAD_BYTES;
            self.ahead_since = self.shared.clock.moment();
        }
        for claim in claims.ready {
            self.take_in(claim, None);
        }
        Ok(claims.next_due)
    }

    /// Gives back the claims that were made ahead.
    fn drop_ahead(&mut self) {
        for (claim, _) in self.ahead.drain(..) {
            self.lanes.remove(&claim.event.key);
        }
    }

    /// The settings to work with now. What is known of the endpoint was learnt by the settings
    /// before, and does not hold for others.
    fn take_target(&mut self) -> Arc<Target> {
        let target = Arc::clone(&self.target.borrow_and_update());
        if self.fingerprint != target.fingerprint {
            self.fingerprint = target.fingerprint;
            self.endpoint = Endpoint::default();
        }
        target
    }

    fn land(&mut self, landed: Result<Result<Landed, Grounded>, JoinError>) {
        match landed {
            Ok(Err(Grounded { lane })) => {
                self.lanes.remove(&lane);
            }
            Ok(Ok(landed)) => {
                self.failures
                    .say(&self.name, &landed, self.shared.clock.moment());
                self.note(&landed);
                if landed.finish.verdict == Verdict::SwitchOff {
                    self.is_switching_off = true;
                    self.drop_ahead();
                }
                self.landed.push(landed);
                self.record();
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    /// Records together what landed, unless a recording is in progress, which does so at its end.
    fn record(&mut self) {
        if self.landed.is_empty() || !self.recording.is_empty() {
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
                    self.lanes.remove(&lane);
                }
                if self.landed.is_empty() {
                    // On record, where the next claim finds it.
                    self.is_switching_off = false;
                }
                self.record();
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
        let turn = self.endpoint.landed(
            &landed.lane,
            landed.status,
            landed.outcome,
            landed.was_probe,
            &target.webhook.schedule,
            self.shared.clock.now(),
            (self.shared.jitter)(),
        );
        match turn {
            Some(Turn::Down(next_probe)) => warn!(
                webhook = self.name, %next_probe,
                "the endpoint seems to be down: what waits is kept, and it is probed with one \
                 delivery at a time"
            ),
            Some(Turn::Up(after)) => info!(
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
        self.shared.store.finish(vec![finish]).await
    }
}

/// Records what came of attempts, however long the store cannot.
async fn record(shared: &Shared, webhook: &str, finished: Vec<Finish>, stop: &CancellationToken) {
    let n_finished = finished.len();
    let mut failures: u32 = 0;
    loop {
        match shared.store.finish(finished.clone()).await {
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
