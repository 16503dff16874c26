//! The queues of a run: claims, attempts and outcomes.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use jiff::SignedDuration;
use project_webhooks::config::Retention;
use project_webhooks::domain::delivery::{self, FailureCause, Outcome, RetryAfter, State, Verdict};
use project_webhooks::domain::endpoint::Admission;
use project_webhooks::domain::event::EventId;
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::store::{Alone, Asking, AttemptLog, Claim, EventFilter, Finish, Selector};

use crate::crash::{Crash, Image};
use crate::hook::{OpenAttempt, Standing};
use crate::run::Run;
use crate::steps::Answers;
use crate::world::{Action, N_SINGLE, key};

/// The project whose callbacks [`Answers::RefusesOne`] refuses.
const REFUSED: usize = 1;

/// The project whose callbacks [`Answers::Poison`] accepts.
const HEALTHY: usize = 0;

/// The most rows of a kind that one collection removes.
const COLLECTED_AT_ONCE: usize = 3;

/// The time in a Retry-After header.
pub const ASKED: Duration = Duration::from_secs(30);

/// The outcome of an attempt; none if the answer is slow.
fn answer(answers: Answers, of: &ProjectKey) -> Option<(Option<u16>, Outcome)> {
    let asked = Outcome::Failed {
        cause: FailureCause::Endpoint,
        retry_after: Some(RetryAfter::Webhook(ASKED)),
    };
    let refused = Outcome::Failed {
        cause: FailureCause::Delivery,
        retry_after: None,
    };
    Some(match answers {
        Answers::RefusesOne if *of == key(REFUSED) => (Some(400), refused),
        Answers::Poison if *of != key(HEALTHY) => (Some(500), Outcome::NO_ANSWER),
        Answers::Well | Answers::RefusesOne | Answers::Poison => (Some(200), Outcome::Accepted),
        Answers::Nothing => (None, Outcome::NO_ANSWER),
        Answers::Later => (Some(503), asked),
        Answers::Gone => (Some(410), Outcome::Gone),
        Answers::Slowly => return None,
    })
}

impl Run {
    pub fn claims(&self, webhook: &str, limit: usize, busy: HashSet<ProjectKey>) -> Vec<Claim> {
        let asking = Asking {
            now: self.wall(),
            limit,
            excluding: busy,
            alone: Alone::No,
            keeping: None,
        };
        let claims = self.store().claim(webhook, asking);
        let claims = self.runtime.block_on(claims).unwrap();
        assert!(claims.unreadable.is_empty(), "{:?}", claims.unreadable);
        claims.ready
    }

    /// Runs a webhook's queue once. Returns the number of attempts.
    pub fn deliver(&mut self, webhook: usize, limit: usize, crash: Crash) -> usize {
        let now = self.wall();
        let hook = &self.hooks[webhook];
        if !hook.is_configured {
            return 0;
        }
        let admission = hook.endpoint.admit(now, hook.in_flight.len());
        let is_up = admission == Admission::Everything;
        assert_eq!(
            is_up,
            !hook.is_down(),
            "{}: whether the endpoint is up",
            hook.name
        );
        let limit = match admission {
            Admission::Everything => limit.saturating_sub(hook.in_flight.len()),
            Admission::Probe { n_fresh, .. } => {
                let n_more = n_fresh.max(1);
                limit.saturating_sub(hook.in_flight.len()).min(n_more)
            }
            Admission::AfterInFlight | Admission::Nothing(_) => 0,
        };
        let mut busy = hook.busy();
        let mut claims = Vec::new();
        if let Admission::Probe { n_fresh, any_at } = admission {
            let failed = hook.endpoint.failed().cloned();
            let avoided = failed.chain(busy.iter().cloned()).collect();
            let is_any = any_at <= now && hook.in_flight.is_empty();
            claims = self.claims(hook.name, limit.min(n_fresh), avoided);
            if claims.is_empty() && limit > 0 {
                claims = self.claims(hook.name, usize::from(is_any), busy.clone());
            }
        } else if limit > 0 {
            claims = self.claims(hook.name, limit, busy.clone());
        }
        let n_claims = claims.len();
        for claim in claims {
            if self.hooks[webhook].is_in_flight(claim.delivery) {
                continue;
            }
            assert!(busy.insert(claim.key.clone()), "two of one project at once");
            let is_probe = matches!(admission, Admission::Probe { .. });
            self.send(webhook, claim, is_probe);
        }
        self.receive_answers(webhook, crash);
        n_claims
    }

    fn send(&mut self, webhook: usize, claim: Claim, is_probe: bool) {
        let content = &self.bytes[&claim.event.payload];
        assert_eq!(claim.payload, content, "other bytes");
        let now = self.wall();
        let hook = &mut self.hooks[webhook];
        hook.claimed(&claim, now);
        if hook.answers != Answers::Nothing {
            hook.received(&claim);
        }
        let (_, fingerprint) = hook.fingerprint();
        hook.in_flight.push(OpenAttempt {
            claim,
            is_probe,
            answers: hook.answers,
            fingerprint,
        });
    }

    /// Sends the deliveries that a commit returned as the queues do: without asking the store, if
    /// they would claim them too.
    pub fn send_ready(&mut self, ready: Vec<(String, Claim)>, crash: Crash) {
        let now = self.wall();
        for (name, claim) in ready {
            let mut hooks = self.hooks.iter();
            let webhook = hooks.position(|hook| hook.name == name).unwrap();
            let hook = &self.hooks[webhook];
            let is_free = !hook.busy().contains(&claim.key);
            let admission = hook.endpoint.admit(now, hook.in_flight.len());
            if hook.is_configured && is_free && admission == Admission::Everything {
                self.send(webhook, claim, false);
            }
        }
        for webhook in 0..self.hooks.len() {
            self.receive_answers(webhook, crash);
        }
    }

    /// Receives the answers that are not slow.
    fn receive_answers(&mut self, webhook: usize, crash: Crash) {
        self.finish_attempts(webhook, crash, |open| {
            answer(open.answers, &open.claim.event.key)
        });
    }

    /// Receives slow answers, in time or too late.
    pub fn receive_slow_answers(&mut self, webhook: usize, in_time: bool, crash: Crash) {
        self.finish_attempts(webhook, crash, |_| {
            Some(if in_time {
                (Some(200), Outcome::Accepted)
            } else {
                (None, Outcome::NO_ANSWER)
            })
        });
    }

    /// Records the outcomes of attempts together.
    fn finish_attempts(
        &mut self,
        webhook: usize,
        crash: Crash,
        answer: impl Fn(&OpenAttempt) -> Option<(Option<u16>, Outcome)>,
    ) {
        let in_flight = std::mem::take(&mut self.hooks[webhook].in_flight);
        let (answered, unanswered): (Vec<OpenAttempt>, Vec<OpenAttempt>) = in_flight
            .into_iter()
            .partition(|open| answer(open).is_some());
        self.hooks[webhook].in_flight = unanswered;
        if answered.is_empty() {
            return;
        }
        if crash == Crash::Before {
            // The answer is lost, so the attempt is repeated after the restart.
            return self.crash(&Image::take(&self.state));
        }
        let now = self.wall();
        let hook = &mut self.hooks[webhook];
        let mut finished = Vec::new();
        for open in &answered {
            let (status, outcome) = answer(open).unwrap();
            let claim = &open.claim;
            let uses_attempt = hook.answered(open, outcome, now);
            let rule = if uses_attempt {
                delivery::next
            } else {
                delivery::repeat
            };
            let verdict = rule(&hook.schedule, claim.scheduled_attempt, outcome, now, 0.5);
            if let Some(due) = verdict.retry_at() {
                let latest = now + SignedDuration::from_secs(86_400);
                assert!(due > now && due <= latest, "{due}");
                if verdict.is_as_asked() {
                    assert!(
                        due >= now + SignedDuration::try_from(ASKED).unwrap(),
                        "{due}"
                    );
                }
            }
            finished.push(Finish {
                delivery: claim.delivery,
                attempt: AttemptLog {
                    number: claim.attempt,
                    at: now,
                    duration: Duration::from_millis(1),
                    status,
                    error: (verdict != Verdict::Delivered).then(|| "it failed".to_owned()),
                    answer: Bytes::new(),
                    request_headers: Vec::new(),
                },
                verdict,
                n_redeliveries: claim.n_redeliveries,
                fingerprint: Some(open.fingerprint),
                rests_until: delivery::rests_until(outcome, now),
                retry_at: None,
            });
        }
        let results = finished.clone();
        let is_recorded = self.commit(crash, |store, runtime| {
            runtime.block_on(store.finish(finished.into())).unwrap();
        });
        let is_recorded = is_recorded.unwrap_or_else(|| {
            // After the crash all of them are on record, or none.
            let listings = self.listings();
            let on_record: Vec<bool> = answered
                .iter()
                .map(|open| {
                    let (_, _, attempts) = listings.delivery(open.claim.delivery).unwrap().unwrap();
                    attempts
                        .iter()
                        .any(|attempt| attempt.number == open.claim.attempt)
                })
                .collect();
            assert!(on_record.windows(2).all(|two| two[0] == two[1]), "in part");
            on_record[0]
        });
        if is_recorded {
            for (open, finish) in answered.iter().zip(&results) {
                self.hooks[webhook].recorded(open, finish);
            }
        }
    }

    /// All projects change, and an endpoint fails all of them but one, while time passes.
    pub fn poison(&mut self, webhook: usize) {
        self.hooks[webhook].answers = Answers::Poison;
        for at in 0..N_SINGLE {
            self.act(Action::Import(at), self.is_deaf);
            self.act(Action::Save(at), self.is_deaf);
        }
        self.rest();
        for _ in 0..4 {
            self.deliver(webhook, N_SINGLE, Crash::No);
            // Twice three settle times, longer than the delays of the schedule.
            self.rest();
            self.rest();
        }
    }

    /// Removes old deliveries and events. The model takes over which are left: pending deliveries,
    /// and the events of all that are left.
    pub fn collect(&mut self, age: Duration, crash: Crash) {
        let retention = Retention {
            delivered: age,
            dead: 2 * age,
            pending: None,
            max_state_size: None,
        };
        let now = self.wall();
        self.commit(crash, |store, runtime| {
            let collected = store.collect(retention, now, COLLECTED_AT_ONCE);
            runtime.block_on(collected).unwrap();
        });
        let listings = self.listings();
        let deliveries = listings.deliveries(&Selector::default(), usize::MAX);
        let deliveries = deliveries.unwrap();
        let kept: HashSet<(EventId, &str)> = deliveries
            .iter()
            .map(|one| (one.event.clone(), one.webhook.as_str()))
            .collect();
        for hook in &mut self.hooks {
            hook.forget(&kept);
        }
        let events = listings.events(&EventFilter::default(), usize::MAX);
        let left: HashSet<EventId> = events
            .unwrap()
            .into_iter()
            .map(|one| one.event.id)
            .collect();
        assert!(kept.iter().all(|(id, _)| left.contains(id)));
        self.expected_events.retain(|id, _| left.contains(id));
    }

    pub fn switch_on(&mut self, webhook: usize) {
        let hook = &self.hooks[webhook];
        let (name, is_off) = (hook.name, hook.is_off);
        let was_off = self.operations().switch_on(name).unwrap();
        assert_eq!(was_off, is_off, "{name}");
        self.hooks[webhook].is_off = false;
        self.hooks[webhook].end_rest();
    }

    /// An operator's command, beside the daemon.
    pub fn redeliver(&mut self, webhook: usize) {
        let now = self.wall();
        let dead = Selector {
            webhook: Some(self.hooks[webhook].name.to_owned()),
            state: Some(State::Dead),
            ..Selector::default()
        };
        let n_again = self.operations().redeliver(&dead, now).unwrap();
        let hook = &mut self.hooks[webhook];
        assert_eq!(n_again, hook.count(Standing::Dead) as u64, "{}", hook.name);
        for one in hook.all().filter(|one| one.standing == Standing::Dead) {
            one.standing = Standing::Pending;
            one.n_attempts_before = one.n_attempts;
            one.due = Some(now);
        }
        hook.endpoint.probe_soon(now);
    }

    /// Changes the settings, for which the state of the endpoint does not hold.
    pub fn change(&mut self, webhook: usize) {
        let now = self.wall();
        let hook = &mut self.hooks[webhook];
        hook.n_changes += 1;
        hook.forget_failures();
        hook.forget_times();
        let (fingerprint, was_off) = (hook.fingerprint(), hook.is_off);
        let noted = self.store().set_fingerprints(vec![fingerprint], now);
        let switched_on = self.runtime.block_on(noted).unwrap();
        assert_eq!(!switched_on.is_empty(), was_off);
        self.hooks[webhook].is_off = false;
    }
}
