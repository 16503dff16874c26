//! The model of a webhook: its expected deliveries in order, and their states.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use project_webhooks::domain::delivery::{self, Outcome, Verdict};
use project_webhooks::domain::endpoint::{DOWN_AFTER, Endpoint};
use project_webhooks::domain::event::EventId;
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::store::{Claim, Finish, WebhookState};

use crate::deliver::ASKED;
use crate::filter::Filter;
use crate::steps::Answers;
use crate::world::{key, place};

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Pending,
    Delivered,
    Dead,
}

/// A delivery.
#[derive(Debug)]
pub struct Expected {
    pub id: EventId,
    /// Its place in the order of recording.
    order: usize,
    pub standing: Standing,
    /// The numbers of recorded attempts, and of those before the last redelivery.
    pub n_attempts: u32,
    pub n_attempts_before: u32,
    /// The earliest time of the next attempt, if known.
    pub due: Option<Timestamp>,
    /// Whether the endpoint asked for that time.
    pub was_asked: bool,
    /// The number of times that the endpoint received it.
    pub n_received: usize,
}

/// A claimed delivery whose answer is not recorded yet.
#[derive(Debug)]
pub struct OpenAttempt {
    pub claim: Claim,
    pub is_probe: bool,
    pub answers: Answers,
    /// The settings of the request.
    pub fingerprint: [u8; 32],
}

/// Which projects failed.
#[derive(Default)]
struct Failures {
    /// The projects that failed since the last success, without the suspects.
    failed: BTreeSet<ProjectKey>,
    /// The projects that failed while the endpoint accepted another one, until they succeed, and
    /// whether they failed again.
    suspects: BTreeMap<ProjectKey, bool>,
    /// The projects that were asked to wait since the last success, at most [`DOWN_AFTER`].
    asked: BTreeSet<ProjectKey>,
    is_down: bool,
}

pub struct Hook {
    pub name: &'static str,
    pub filter: Filter,
    pub endpoint: Endpoint,
    pub answers: Answers,
    failures: Failures,
    pub schedule: Vec<Duration>,
    /// The number of changes of its settings.
    pub n_changes: u8,
    pub is_configured: bool,
    pub is_off: bool,
    /// Until when the endpoint asked for no request, if that is certain.
    pub rests_until: Option<Timestamp>,
    /// The expected deliveries, by place and in order.
    pub lanes: BTreeMap<usize, Vec<Expected>>,
    n_expected: usize,
    pub in_flight: Vec<OpenAttempt>,
}

impl Hook {
    pub fn new(name: &'static str, filter: Filter, schedule: Vec<Duration>) -> Self {
        Self {
            name,
            filter,
            endpoint: Endpoint::default(),
            answers: Answers::Well,
            failures: Failures::default(),
            schedule,
            n_changes: 0,
            is_configured: true,
            is_off: false,
            rests_until: None,
            lanes: BTreeMap::new(),
            n_expected: 0,
            in_flight: Vec::new(),
        }
    }

    /// Its settings as the store gets them.
    pub fn fingerprint(&self) -> (String, [u8; 32]) {
        (self.name.to_owned(), [self.n_changes; 32])
    }

    /// Expects the delivery of a recorded event.
    pub fn expect(&mut self, at: usize, id: EventId, now: Timestamp) {
        self.n_expected += 1;
        self.lanes.entry(at).or_default().push(Expected {
            id,
            order: self.n_expected,
            standing: Standing::Pending,
            n_attempts: 0,
            n_attempts_before: 0,
            due: Some(delivery::first(&self.schedule, now)),
            was_asked: false,
            n_received: 0,
        });
    }

    /// Moves undelivered deliveries with their projects, each from its former place to its new one.
    pub fn move_pending(&mut self, moves: &[(usize, usize)]) {
        let mut moved = Vec::new();
        for (from, to) in moves {
            let lane = self.lanes.entry(*from).or_default();
            let (pending, rest) = std::mem::take(lane)
                .into_iter()
                .partition::<Vec<Expected>, _>(|one| one.standing != Standing::Delivered);
            *lane = rest;
            moved.push((*to, pending));
        }
        for (to, pending) in moved {
            let lane = self.lanes.entry(to).or_default();
            lane.extend(pending);
            lane.sort_by_key(|one| one.order);
        }
        let moves: HashMap<ProjectKey, ProjectKey> = moves
            .iter()
            .map(|(from, to)| (key(*from), key(*to)))
            .collect();
        let new = |key: ProjectKey| moves.get(&key).cloned().unwrap_or(key);
        self.endpoint.moved(&moves);
        for keys in [&mut self.failures.failed, &mut self.failures.asked] {
            *keys = std::mem::take(keys).into_iter().map(new).collect();
        }
        self.failures.suspects = std::mem::take(&mut self.failures.suspects)
            .into_iter()
            .map(|(key, has_failed_again)| (new(key), has_failed_again))
            .collect();
        for open in &mut self.in_flight {
            open.claim.key = new(open.claim.key.clone());
        }
    }

    /// Forgets which projects failed, as a start or a change of the settings does.
    pub fn forget_failures(&mut self) {
        self.endpoint = Endpoint::default();
        self.failures = Failures::default();
    }

    /// Whether the endpoint is down: several projects failed that are no suspects.
    pub fn is_down(&self) -> bool {
        self.failures.is_down
    }

    /// Takes an outcome for the state of the endpoint, unless it is one with earlier settings.
    ///
    /// Returns whether an attempt of the schedule is used up.
    pub fn answered(&mut self, open: &OpenAttempt, outcome: Outcome, now: Timestamp) -> bool {
        if open.fingerprint != self.fingerprint().1 {
            return true;
        }
        let (key, schedule) = (&open.claim.key, &self.schedule);
        let endpoint = &mut self.endpoint;
        let effect = endpoint.attempt_ended(key, outcome, open.is_probe, schedule, now, 0.5);
        let has_failed =
            self.failures.failed.contains(key) || self.failures.suspects.contains_key(key);
        let asks = outcome.asks_webhook_to_rest() && !self.is_down();
        let asked = &mut self.failures.asked;
        if asks && asked.len() < DOWN_AFTER {
            asked.insert(key.clone());
        }
        let uses_attempt = match asks {
            true => asked.len() < DOWN_AFTER,
            false => !outcome.is_endpoint_failure() || !self.is_down() || has_failed,
        };
        assert_eq!(
            effect.uses_attempt, uses_attempt,
            "{}: whether an attempt is used up",
            self.name
        );
        if !outcome.is_endpoint_failure() {
            self.failures.is_down = false;
            self.failures.asked.clear();
            let failed = std::mem::take(&mut self.failures.failed);
            let was_suspect = self.failures.suspects.remove(key).is_some();
            if was_suspect || failed.contains(key) {
                self.failures
                    .suspects
                    .retain(|_, has_failed_again| *has_failed_again);
            } else {
                for key in failed {
                    self.failures.suspects.insert(key, false);
                }
            }
        } else if self.is_down() {
            if !has_failed {
                self.failures.failed.insert(key.clone());
            }
        } else if outcome.asks_webhook_to_rest() {
            // It says nothing about the endpoint.
        } else if let Some(has_failed_again) = self.failures.suspects.get_mut(key) {
            *has_failed_again = true;
        } else {
            self.failures.failed.insert(key.clone());
            self.failures.is_down = self.failures.failed.len() >= DOWN_AFTER;
        }
        uses_attempt
    }

    /// Forgets finished deliveries that are not kept.
    pub fn forget(&mut self, kept: &HashSet<(EventId, &str)>) {
        let name = self.name;
        for lane in self.lanes.values_mut() {
            lane.retain(|one| {
                let is_kept = kept.contains(&(one.id.clone(), name));
                let is_pending = one.standing == Standing::Pending;
                assert!(is_kept || !is_pending, "{name}: {one:?} is removed");
                is_kept
            });
        }
    }

    pub fn all(&mut self) -> impl Iterator<Item = &mut Expected> {
        self.lanes.values_mut().flatten()
    }

    pub fn count(&self, standing: Standing) -> usize {
        let all = self.lanes.values().flatten();
        all.filter(|one| one.standing == standing).count()
    }

    /// The projects with an attempt.
    pub fn busy(&self) -> HashSet<ProjectKey> {
        let in_flight = self.in_flight.iter();
        in_flight.map(|attempt| attempt.claim.key.clone()).collect()
    }

    /// Whether this delivery has an attempt, perhaps under its project's former key.
    pub fn is_in_flight(&self, delivery: i64) -> bool {
        let mut in_flight = self.in_flight.iter();
        in_flight.any(|attempt| attempt.claim.delivery == delivery)
    }

    /// Checks a claim: the first pending delivery of its lane, when it is due, with its number.
    pub fn claimed(&mut self, claim: &Claim, now: Timestamp) {
        let (name, is_off) = (self.name, self.is_off);
        assert!(!is_off, "{name} is off");
        let rests_until = self.rests_until;
        assert!(rests_until.is_none_or(|until| until <= now), "{name} rests");
        let lane = self.lanes.entry(place(&claim.key)).or_default();
        let head = lane
            .iter()
            .find(|one| one.standing == Standing::Pending)
            .unwrap_or_else(|| panic!("{name}: nobody expects {:?}", claim.event));
        assert_eq!(head.id, claim.event.id, "{name}: out of order");
        assert!(
            head.due.is_none_or(|due| due <= now),
            "{name}: {:?} before {:?}",
            head,
            now
        );
        let numbers = (claim.attempt, claim.scheduled_attempt);
        let expected = (
            head.n_attempts + 1,
            head.n_attempts + 1 - head.n_attempts_before,
        );
        assert_eq!(numbers, expected, "{name}: the number of the attempt");
    }

    fn of(&mut self, claim: &Claim) -> &mut Expected {
        let mut all = self.all();
        all.find(|one| one.id == claim.event.id).unwrap()
    }

    /// Notes that the endpoint received a callback.
    pub fn received(&mut self, claim: &Claim) {
        self.of(claim).n_received += 1;
    }

    /// Notes a recorded outcome.
    pub fn recorded(&mut self, open: &OpenAttempt, finish: &Finish) {
        let (claim, verdict) = (&open.claim, finish.verdict);
        let is_outdated = open.fingerprint != self.fingerprint().1;
        if !is_outdated {
            self.rests_until = self.rests_until.max(finish.rests_until);
        }
        let one = self.of(claim);
        one.n_attempts = claim.attempt;
        one.was_asked = verdict.is_as_asked();
        match verdict {
            Verdict::Delivered => one.standing = Standing::Delivered,
            Verdict::Dead => one.standing = Standing::Dead,
            _ if is_outdated => one.due = None,
            Verdict::Repeat(due) | Verdict::RepeatAsAsked(due) => {
                one.n_attempts_before += 1;
                one.due = Some(due);
            }
            Verdict::Retry(due) | Verdict::RetryAsAsked(due) => one.due = Some(due),
            Verdict::SwitchOff => self.is_off = true,
        }
    }

    /// Makes the deliveries due whose time the endpoint asked for, and ends its rest.
    pub fn end_rest(&mut self) {
        for one in self.all().filter(|one| one.was_asked) {
            one.due = None;
        }
        self.rests_until = None;
    }

    /// Makes all pending deliveries due, after the clock or the settings were set.
    pub fn forget_times(&mut self) {
        self.all().for_each(|one| one.due = None);
        self.rests_until = None;
    }

    /// Compares the store's counts with the model, and due times with the schedule.
    pub fn compare(&self, states: &[WebhookState], now: Timestamp) {
        let state = states.iter().find(|state| state.name == self.name);
        if let Some(next) = state.and_then(|state| state.next_attempt) {
            let longest = self.schedule.iter().max().unwrap().max(&ASKED);
            let latest = now + SignedDuration::try_from(longest.mul_f64(1.1)).unwrap();
            assert!(next <= latest, "{}: {next} at {now}", self.name);
        }
        let found = state.map(|state| {
            (
                state.n_pending,
                state.n_delivered,
                state.n_dead,
                state.off.is_some(),
            )
        });
        let count = |standing| self.count(standing) as u64;
        let expected = (
            count(Standing::Pending),
            count(Standing::Delivered),
            count(Standing::Dead),
            self.is_off,
        );
        assert_eq!(
            found.unwrap_or_default(),
            expected,
            "{}: pending, delivered, dead, off",
            self.name
        );
    }
}
