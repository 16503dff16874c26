//! One run: the parts put together, and what has to hold after each step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use project_webhooks::domain::delivery::{self, Outcome, Verdict};
use project_webhooks::domain::endpoint::{Admission, Endpoint};
use project_webhooks::domain::event::{Event, EventId, Explanation, Inferred, Origin};
use project_webhooks::domain::infer::{Removals, missing};
use project_webhooks::domain::moves::{Look, infer_all};
use project_webhooks::domain::project::{ContentHash, FileState, ProjectKey};
use project_webhooks::domain::settle::{Open, Settle};
use project_webhooks::store::{AttemptLog, Batch, Change, Claim, Finish, NewEvent, Store};

use crate::engine::Happening;
use crate::steps::{Answers, Crash, Step};
use crate::truth::Truth;
use crate::world::{PLACES, World, hash, key, path, place};

const PAUSE: Duration = Duration::from_secs(1);
const WEBHOOKS: [&str; 2] = ["catalog", "audit"];
/// Whose callbacks an endpoint refuses that refuses one project's.
const REFUSED: usize = 1;

/// A webhook as the model sees it.
#[derive(Default)]
struct Hook {
    endpoint: Endpoint,
    answers: Option<Answers>,
    is_configured: bool,
    /// What has to arrive, by place and in order, and how much of it did.
    expected: BTreeMap<usize, Vec<EventId>>,
    n_accepted: BTreeMap<usize, usize>,
}

struct Run {
    directory: tempfile::TempDir,
    store: Option<Store>,
    runtime: tokio::runtime::Runtime,
    world: World,
    truth: Truth,
    settle: Settle,
    now: Duration,
    /// How far the time of day is from where it began, besides `now`.
    offset: SignedDuration,
    hooks: [Hook; 2],
    bytes: HashMap<ContentHash, Bytes>,
    told: HashMap<EventId, Happening>,
    /// When something was last reported of each place, since the start.
    hinted: BTreeMap<usize, Duration>,
}

/// Where a file lies once its project is in another place.
fn relocate(file: &FileState, to: &ProjectKey) -> Option<String> {
    let below = file.path.splitn(3, '/').nth(2)?;
    Some(format!("{to}/{below}"))
}

fn schedule() -> Vec<Duration> {
    let mut schedule = vec![Duration::from_secs(5); 500];
    schedule[0] = Duration::ZERO;
    schedule
}

pub fn run(steps: &[Step]) {
    let mut run = Run::new();
    for step in steps {
        run.step(*step);
    }
    run.finish();
}

impl Run {
    fn new() -> Self {
        // In memory where that is possible: what a disk does is tested elsewhere.
        let shared = Path::new("/dev/shm");
        let directory = if shared.is_dir() {
            tempfile::tempdir_in(shared)
        } else {
            tempfile::tempdir()
        };
        let directory = directory.unwrap();
        let store = Store::open(directory.path()).unwrap();
        let hook = || Hook {
            is_configured: true,
            ..Hook::default()
        };
        Self {
            store: Some(store),
            directory,
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
            world: World::default(),
            truth: Truth::default(),
            settle: Settle::new(PAUSE),
            now: Duration::ZERO,
            offset: SignedDuration::ZERO,
            hooks: [hook(), hook()],
            bytes: HashMap::new(),
            told: HashMap::new(),
            hinted: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// The time of day.
    fn wall(&self) -> Timestamp {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        start + SignedDuration::try_from(self.now).unwrap() + self.offset
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Act {
                action,
                hint_is_lost,
            } => {
                for at in self.world.act(action) {
                    if !hint_is_lost {
                        self.hinted.insert(at, self.now);
                        self.settle
                            .hint(&key(at), self.now, Origin::Live, "a file changed");
                    }
                }
                self.remember_bytes();
            }
            Step::Pass {
                milliseconds,
                ticks,
            } => {
                self.now += Duration::from_millis(milliseconds);
                self.world.tick += i64::from(ticks);
            }
            Step::Round { limit, crash } => drop(self.round(limit, crash)),
            Step::Compare => self.compare(Origin::Live),
            Step::Restart => self.restart(),
            Step::Answer { webhook, answers } => self.hooks[webhook].answers = Some(answers),
            Step::Deliver {
                webhook,
                limit,
                crash,
            } => {
                self.deliver(webhook, limit, crash);
            }
            Step::Enable { webhook } => {
                let switched = self.store().switch_on(WEBHOOKS[webhook]);
                self.runtime.block_on(switched).unwrap();
            }
            Step::Reload { has_second } => self.hooks[1].is_configured = has_second,
            Step::SetClock { seconds } => {
                self.offset += SignedDuration::from_secs(seconds);
                if seconds < 0 {
                    for name in WEBHOOKS {
                        let mended = self.store().mend_times(name, self.wall());
                        self.runtime.block_on(mended).unwrap();
                    }
                    let now = self.wall();
                    self.hooks
                        .iter_mut()
                        .for_each(|hook| hook.endpoint.hurry(now));
                }
            }
        }
    }

    fn remember_bytes(&mut self) {
        for content in self.world.files.values().filter_map(|file| file.content) {
            let bytes = [content.engine.to_le_bytes(), content.version.to_le_bytes()].concat();
            self.bytes
                .entry(hash(content))
                .or_insert_with(|| bytes.into());
        }
    }

    fn compare(&mut self, origin: Origin) {
        for at in 0..PLACES.len() {
            self.settle.check(&key(at), self.now, origin, "compared");
        }
    }

    /// All that was in memory is gone, and the state is opened again.
    fn restart(&mut self) {
        self.store().close();
        self.store = None;
        self.store = Some(Store::open(self.directory.path()).unwrap());
        self.settle = Settle::new(PAUSE);
        self.hinted.clear();
        for hook in &mut self.hooks {
            hook.endpoint = Endpoint::default();
        }
        self.compare(Origin::CatchUp);
    }

    fn look(&self, at: usize) -> Look {
        let recorded = self.store().recorded(&key(at)).unwrap();
        let observed = self.world.observe(at);
        let missing = missing(&recorded, &observed);
        Look {
            key: key(at),
            removals: self.settle.removals(&key(at), self.now, &missing),
            recorded,
            observed,
        }
    }

    /// One turn of the engine. Returns how many events it recorded.
    fn round(&mut self, limit: usize, crash: Crash) -> usize {
        let due = self.settle.due(self.now, limit);
        let mut looks: Vec<Look> = due.iter().map(|due| self.look(place(&due.key))).collect();
        let mut next = 0;
        while let Some(look) = looks.get(next) {
            next += 1;
            let Some(arrived) = look.arrival().map(FileState::identity) else {
                continue;
            };
            let organization = look.key.organization.clone();
            for candidate in self.store().with_identity(&organization, &arrived).unwrap() {
                if !looks.iter().any(|look| look.key == candidate) {
                    looks.push(self.look(place(&candidate)));
                }
            }
        }
        let changes = infer_all(&looks, &relocate);

        // Nothing lost, nothing invented: the model finds the same in the same order.
        let known = self.truth.known.clone();
        let seen: Vec<(usize, bool)> = looks
            .iter()
            .map(|look| (place(&look.key), look.removals == Removals::Count))
            .collect();
        for (at, _) in seen.iter().filter(|(_, counts)| *counts) {
            let since = self.hinted.get(at).map(|hinted| self.now - *hinted);
            assert!(
                since.is_none_or(|since| since >= PAUSE),
                "a removal counts after {since:?}"
            );
        }
        let expected = self.truth.look(&self.world, &seen);
        let mut found: BTreeMap<usize, Vec<Happening>> = BTreeMap::new();
        for (look, change) in looks.iter().zip(&changes) {
            let events = &change.inference.events;
            let happenings = events
                .iter()
                .map(|event| (event.kind, event.subject.path.clone(), event.subject.hash));
            if !events.is_empty() {
                found.insert(place(&look.key), happenings.collect());
            }
        }
        assert_eq!(found, expected, "what is inferred");

        if crash == Crash::Before {
            self.truth.known = known;
            self.restart();
            return 0;
        }
        let mut batch = Batch::new(self.wall());
        for (look, change) in looks.iter().zip(&changes) {
            let inference = &change.inference;
            let events = inference.events.iter();
            batch.changes.push(Change {
                key: look.key.clone(),
                before: look.recorded.clone(),
                after: inference.record.clone(),
                events: events.map(|event| self.event(&look.key, event)).collect(),
            });
            let definition = inference.record.definition.iter().map(|file| file.hash);
            let payloads = inference.events.iter().map(|event| event.subject.hash);
            for needed in definition.chain(payloads) {
                batch.payloads.push((needed, self.bytes[&needed].clone()));
            }
        }
        let committed = self.store().record(batch).unwrap();
        let inferred = looks.iter().zip(&changes).flat_map(|(look, change)| {
            let events = change.inference.events.iter();
            events.map(move |event| (place(&look.key), event))
        });
        let mut n_events = 0;
        for ((at, event), recorded) in inferred.zip(&committed.events) {
            n_events += 1;
            let subject = &event.subject;
            let happening = (event.kind, subject.path.clone(), subject.hash);
            let before = self.told.insert(recorded.id.clone(), happening);
            assert_eq!(
                before, None,
                "{} is the id of two happenings",
                recorded.id.0
            );
            for hook in self.hooks.iter_mut().filter(|hook| hook.is_configured) {
                hook.expected
                    .entry(at)
                    .or_default()
                    .push(recorded.id.clone());
            }
        }
        assert_eq!(n_events, committed.events.len());
        // What a commit hands over is what a claim finds.
        for (webhook, handed) in &committed.claims {
            let claims = self.claims(webhook, 100);
            assert!(claims.contains(handed), "{webhook}: {handed:?}");
        }
        if crash == Crash::After {
            self.restart();
            return n_events;
        }
        for (look, change) in looks.iter().zip(&changes) {
            let open = Open {
                missing: change.inference.missing.clone(),
                unclear: look.observed.problems().any(|problem| problem.may_heal),
            };
            self.settle.looked(&look.key, self.now, open);
        }
        for change in &changes {
            if let Some(place) = &change.awaited_at {
                self.settle.follow(&change.key, place);
            }
        }
        n_events
    }

    fn event(&self, key: &ProjectKey, inferred: &Inferred) -> NewEvent {
        let subject = &inferred.subject;
        let tag = subject.tag.clone();
        let (kind, now) = (inferred.kind, self.wall());
        let webhooks = WEBHOOKS.iter().zip(&self.hooks);
        NewEvent {
            event: Event {
                id: EventId::of(kind, key, tag.as_deref(), &subject.stamp, &subject.hash, 0),
                kind,
                key: key.clone(),
                origin: Origin::Live,
                occurred_at: now,
                parameters: Vec::new(),
                payload: subject.hash,
                explanation: Explanation::default(),
            },
            tag,
            stamp: subject.stamp,
            webhooks: webhooks
                .filter(|(_, hook)| hook.is_configured)
                .map(|(name, _)| ((*name).to_owned(), delivery::first(&schedule(), now)))
                .collect(),
        }
    }

    fn claims(&self, webhook: &str, limit: usize) -> Vec<Claim> {
        let claims = self
            .store()
            .claim_due(webhook, self.wall(), limit, HashSet::new());
        let claims = self.runtime.block_on(claims).unwrap();
        assert!(claims.unreadable.is_empty(), "{:?}", claims.unreadable);
        claims.ready
    }

    /// One turn of a webhook's queue. Returns how many attempts it made.
    fn deliver(&mut self, webhook: usize, limit: usize, crash: Crash) -> usize {
        if !self.hooks[webhook].is_configured {
            return 0;
        }
        let admission = self.hooks[webhook].endpoint.admit(self.wall(), 0);
        let limit = match admission {
            Admission::Everything => limit,
            Admission::Probe => 1,
            Admission::AfterLanding | Admission::Nothing(_) => return 0,
        };
        let claims = self.claims(WEBHOOKS[webhook], limit);
        let places: HashSet<&ProjectKey> = claims.iter().map(|claim| &claim.event.key).collect();
        assert_eq!(places.len(), claims.len(), "two of one project at once");
        let n_claims = claims.len();
        for claim in claims {
            if !self.attempt(webhook, &claim, admission == Admission::Probe, crash) {
                break;
            }
        }
        n_claims
    }

    /// One attempt. Returns whether the process lives on.
    fn attempt(&mut self, webhook: usize, claim: &Claim, is_probe: bool, crash: Crash) -> bool {
        let now = self.wall();
        let at = place(&claim.event.key);
        assert_eq!(
            claim.payload, self.bytes[&claim.event.payload],
            "other bytes"
        );
        let hook = &mut self.hooks[webhook];
        let n_accepted = hook.n_accepted.entry(at).or_default();
        let head = hook.expected.get(&at).and_then(|ids| ids.get(*n_accepted));
        assert_eq!(
            head,
            Some(&claim.event.id),
            "out of order, or nobody expected it"
        );
        let failed = |retry_after| Outcome::Failed { retry_after };
        let (status, outcome) = match hook.answers.unwrap_or(Answers::Well) {
            Answers::RefusesOne if at == REFUSED => (Some(400), failed(None)),
            Answers::Well | Answers::RefusesOne => (Some(200), Outcome::Accepted),
            Answers::Nothing => (None, failed(None)),
            Answers::Later => (Some(503), failed(Some(Duration::from_secs(30)))),
            Answers::Gone => (Some(410), Outcome::Gone),
        };
        if crash == Crash::Before {
            // Answered, and nobody knows: the same again after the restart.
            self.restart();
            return false;
        }
        let verdict = delivery::next(&schedule(), claim.scheduled_attempt, outcome, now, 0.5);
        if let Verdict::Retry(due) = verdict {
            assert!(
                due > now && due <= now + SignedDuration::from_secs(86_400),
                "{due}"
            );
        }
        let key = &claim.event.key;
        hook.endpoint
            .landed(key, status, outcome, is_probe, &schedule(), now, 0.5);
        if verdict == Verdict::Delivered {
            *n_accepted += 1;
        }
        let finish = Finish {
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
        };
        let finished = self.store().finish(vec![finish]);
        self.runtime.block_on(finished).unwrap();
        if crash == Crash::After {
            self.restart();
        }
        crash == Crash::No
    }

    /// Everything comes to rest: the files are whole, the endpoints answer, time goes by.
    fn finish(mut self) {
        self.world.finish();
        self.remember_bytes();
        self.compare(Origin::Live);
        self.rest();
        for (name, hook) in WEBHOOKS.iter().zip(&mut self.hooks) {
            hook.answers = None;
            hook.is_configured = true;
            let switched = self.store.as_ref().unwrap().switch_on(name);
            self.runtime.block_on(switched).unwrap();
        }
        for _ in 0..1_000 {
            let n = self.deliver(0, 100, Crash::No) + self.deliver(1, 100, Crash::No);
            let is_done = self.hooks.iter().all(|hook| {
                hook.expected
                    .iter()
                    .all(|(at, ids)| hook.n_accepted.get(at).copied().unwrap_or(0) == ids.len())
            });
            if is_done {
                break;
            }
            if n == 0 {
                self.now += Duration::from_secs(5);
            }
        }
        for (name, hook) in WEBHOOKS.iter().zip(&self.hooks) {
            for (at, ids) in &hook.expected {
                let n_accepted = hook.n_accepted.get(at).copied().unwrap_or(0);
                assert_eq!(
                    n_accepted,
                    ids.len(),
                    "{name} never heard of {:?}",
                    &ids[n_accepted..]
                );
            }
            assert_eq!(
                self.claims(name, 100),
                [],
                "{name} is sent what nobody expects"
            );
        }
        // The record is what is on disk, and looking again finds nothing.
        for at in 0..PLACES.len() {
            let recorded = self.store().recorded(&key(at)).unwrap();
            let recorded: BTreeMap<String, ContentHash> = recorded
                .files()
                .map(|file| (file.path.clone(), file.hash))
                .collect();
            let here = self
                .world
                .files
                .iter()
                .filter(|((place, _), _)| *place == at);
            let on_disk: BTreeMap<String, ContentHash> = here
                .map(|((at, name), file)| (path(*at, *name), hash(file.content.unwrap())))
                .collect();
            assert_eq!(recorded, on_disk, "the record is what is there");
        }
        self.compare(Origin::Live);
        assert_eq!(self.rest(), 0, "a second comparison finds something");
    }

    /// Turns of the engine until nothing is due within three pauses. Returns how many events came.
    fn rest(&mut self) -> usize {
        let until = self.now + 3 * PAUSE;
        let mut n_events = 0;
        for _ in 0..1_000 {
            let Some(at) = self.settle.next().filter(|at| *at <= until) else {
                self.now = until;
                return n_events;
            };
            self.now = self.now.max(at);
            n_events += self.round(2, Crash::No);
        }
        panic!("the rounds do not come to rest");
    }
}
