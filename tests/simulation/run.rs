//! One run: the parts together, and the checks after each step.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use project_webhooks::domain::event::{EventId, Origin};
use project_webhooks::domain::project::{ContentHash, ProjectKey};
use project_webhooks::domain::settle::Agenda;
use project_webhooks::domain::vanished::{HeldBecause, HeldBefore};
use project_webhooks::domain::wave::Times;
use project_webhooks::store::{EventFilter, Listings, MetaKey, Operations, Store};
use tokio::runtime::Runtime;

use crate::crash::{Crash, Image};
use crate::crowd::Crowd;
use crate::engine::Happening;
use crate::filter::Filter;
use crate::hook::{Hook, Standing};
use crate::steps::{Answers, Step};
use crate::truth::Truth;
use crate::world::{Action, N_SINGLE, PLACES, World, hash, key, path};

pub const PAUSE: Duration = Duration::from_secs(1);
/// How long removals of more than half of the projects are held.
const HOLD: Duration = Duration::from_secs(60);
/// How long events and delivered deliveries are kept.
const RETENTION: Duration = Duration::from_secs(10);
/// The delay before a file is observed that was created and is not closed.
const WRITER_PAUSE: Duration = Duration::from_millis(25);

pub struct Run {
    directory: tempfile::TempDir,
    /// The state directory; another one after each crash.
    pub state: PathBuf,
    n_crashes: usize,
    store: Option<Store>,
    /// The listings of an operator's command, beside the daemon. Opened once for each start.
    listings: OnceCell<Rc<Listings>>,
    /// The changes of an operator's command, beside the daemon. Opened once for each start.
    operations: Option<Operations>,
    pub runtime: Runtime,
    pub world: World,
    crowd: Crowd,
    pub truth: Truth,
    pub settle: Agenda,
    /// Whether removals are recorded as held.
    pub was_held: bool,
    /// How long the rule under test holds removals.
    hold: Duration,
    /// Whether the first scan is not complete.
    pub is_starting: bool,
    /// The number of places that have or had projects.
    pub n_places: usize,
    /// The time before which no removal of the crowd may count.
    pub crowd_until: Option<Duration>,
    /// The recorded facts about held removals.
    pub held_facts: HashMap<&'static str, String>,
    pub now: Duration,
    /// The difference of the time of day from the start, in addition to `now`.
    offset: SignedDuration,
    /// Whether no change is reported until the next full scan.
    pub is_deaf: bool,
    /// Places with unreported changes since the last full scan.
    unreported: BTreeSet<usize>,
    pub hooks: [Hook; 2],
    pub bytes: HashMap<ContentHash, Bytes>,
    /// The events that have to be on record.
    pub expected_events: HashMap<EventId, Happening>,
    /// The ids of all events, also of removed ones.
    pub used_ids: HashSet<EventId>,
    /// The time of the last hint for each place since the start.
    pub hinted: BTreeMap<usize, Duration>,
}

pub fn run(steps: &[Step]) {
    run_holding(steps, HOLD);
}

/// Runs steps with a rule that holds removals for this time. Only with [`HOLD`] it is right.
pub fn run_holding(steps: &[Step], hold: Duration) {
    let mut run = Run::new(hold);
    for step in steps {
        run.step(*step);
        // Other steps do not touch the store.
        if !matches!(
            step,
            Step::Act { .. } | Step::Overflow | Step::Answer { .. }
        ) {
            run.compare_counts();
        }
    }
    run.finish();
}

impl Run {
    fn new(hold: Duration) -> Self {
        // In memory if possible: other tests are about disks.
        let shared = Path::new("/dev/shm");
        let directory = if shared.is_dir() {
            tempfile::tempdir_in(shared)
        } else {
            tempfile::tempdir()
        };
        let directory = directory.unwrap();
        let state = directory.path().join("0");
        Image::of_new_store().put(&state);
        // One retries for ever, and one gives up soon.
        let mut patient = vec![Duration::from_secs(5); 500];
        patient[0] = Duration::ZERO;
        let hasty = [0, 5, 60].map(Duration::from_secs).to_vec();
        let mut run = Self {
            store: None,
            listings: OnceCell::new(),
            operations: None,
            state,
            directory,
            n_crashes: 0,
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
            world: World::default(),
            crowd: Crowd::default(),
            truth: Truth::default(),
            settle: Agenda::new(PAUSE),
            was_held: false,
            hold,
            is_starting: true,
            n_places: N_SINGLE,
            crowd_until: None,
            held_facts: HashMap::new(),
            now: Duration::ZERO,
            offset: SignedDuration::ZERO,
            is_deaf: false,
            unreported: BTreeSet::new(),
            hooks: [
                Hook::new("catalog", Filter::new("catalog", false), patient),
                Hook::new("audit", Filter::new("audit", true), hasty),
            ],
            bytes: HashMap::new(),
            expected_events: HashMap::new(),
            used_ids: HashSet::new(),
            hinted: BTreeMap::new(),
        };
        run.open();
        run
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub fn listings(&self) -> Rc<Listings> {
        let open = || Rc::new(Listings::open(&self.state).unwrap());
        Rc::clone(self.listings.get_or_init(open))
    }

    pub fn operations(&mut self) -> &mut Operations {
        let open = || Operations::open(&self.state).unwrap();
        self.operations.get_or_insert_with(open)
    }

    /// The time of day, in milliseconds as the store has it.
    pub fn wall(&self) -> Timestamp {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let exact = start + SignedDuration::try_from(self.now).unwrap() + self.offset;
        Timestamp::from_millisecond(exact.as_millisecond()).unwrap()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Act {
                action,
                hint_is_lost,
            } => self.act(action, hint_is_lost || self.is_deaf),
            Step::Pass {
                milliseconds,
                ticks,
            } => {
                self.now += Duration::from_millis(milliseconds);
                self.world.tick += i64::from(ticks);
            }
            Step::Round {
                limit,
                crash,
                sends,
            } => drop(self.round(limit, crash, sends)),
            Step::Overflow => self.is_deaf = true,
            Step::Compare => self.compare(Origin::Live),
            Step::Accept => self.accept(),
            Step::Restart => {
                // The last one that closes the state empties its log.
                self.operations = None;
                self.store().close();
                self.open();
            }
            Step::Answer { webhook, answers } => self.hooks[webhook].answers = answers,
            Step::Collect { is_all_old, crash } => {
                let age = if is_all_old {
                    Duration::ZERO
                } else {
                    RETENTION
                };
                self.collect(age, crash);
            }
            Step::OutAndBack { at } => {
                self.act(Action::Leave(at), self.is_deaf);
                self.rest();
                self.act(Action::Return(at), self.is_deaf);
                self.rest();
            }
            Step::Poison { webhook } => self.poison(webhook),
            Step::Deliver {
                webhook,
                limit,
                crash,
            } => drop(self.deliver(webhook, limit, crash)),
            Step::ReceiveSlowAnswers {
                webhook,
                in_time,
                crash,
            } => self.receive_slow_answers(webhook, in_time, crash),
            Step::Enable { webhook } => self.switch_on(webhook),
            Step::Redeliver { webhook } => self.redeliver(webhook),
            Step::Configure { has_second } => {
                let hook = &mut self.hooks[1];
                if has_second && !hook.is_configured {
                    hook.forget_failures();
                }
                hook.is_configured = has_second;
            }
            Step::Change { webhook } => self.change(webhook),
            Step::SetClock { seconds } => self.set_clock(seconds),
            Step::Wave { is_left } => self.wave(is_left),
            Step::ComeBack => {
                let changed = self.crowd.come_back(&mut self.world);
                self.report(changed, self.is_deaf);
            }
        }
    }

    pub fn act(&mut self, action: Action, hint_is_lost: bool) {
        let is_begun = matches!(
            action,
            Action::BeginSave(..) | Action::BeginPublish(..) | Action::BeginSnapshot(..)
        );
        for at in self.world.act(action) {
            if hint_is_lost {
                self.unreported.insert(at);
                continue;
            }
            self.hinted.insert(at, self.now);
            let (key, now, what) = (key(at), self.now, "a file changed");
            if is_begun {
                self.settle
                    .hint_later(&key, now, WRITER_PAUSE, Origin::Live, what);
            } else {
                self.settle.hint(&key, now, Origin::Live, what);
            }
            let delay = if is_begun {
                WRITER_PAUSE
            } else {
                Duration::ZERO
            };
            let next = self.settle.next();
            assert!(
                next.is_some_and(|next| next <= now + delay),
                "what was reported at {now:?} is looked at {next:?}"
            );
        }
        self.remember_bytes();
    }

    fn remember_bytes(&mut self) {
        for content in self.world.files.values().filter_map(|file| file.content) {
            let bytes = [content.engine.to_le_bytes(), content.version.to_le_bytes()].concat();
            self.bytes
                .entry(hash(content))
                .or_insert_with(|| bytes.into());
        }
    }

    /// Reports changed places, each with a hint.
    fn report(&mut self, changed: Vec<usize>, hint_is_lost: bool) {
        for at in changed {
            if hint_is_lost {
                self.unreported.insert(at);
                continue;
            }
            self.hinted.insert(at, self.now);
            let (key, now) = (key(at), self.now);
            self.settle.hint(&key, now, Origin::Live, "a file changed");
        }
        self.remember_bytes();
    }

    /// Most projects vanish together. Their removals are held, whatever happens then.
    fn wave(&mut self, is_left: bool) {
        self.n_places = PLACES.len();
        let changed = self.crowd.gather(&mut self.world);
        self.report(changed, self.is_deaf);
        self.compare(Origin::Live);
        self.rest();
        let changed = self.crowd.scatter(&mut self.world);
        assert_eq!(changed.len(), PLACES.len() - N_SINGLE);
        self.report(changed, false);
        self.crowd_until = Some(self.now + PAUSE + HOLD);
        // The engine looks at all of them before it does anything else.
        self.round(PLACES.len(), Crash::No, None);
        if !is_left {
            return;
        }
        // Nothing else changes, so it ends by itself, or waits for an operator.
        self.work_until(self.now + 3 * PAUSE + HOLD, false);
        let held = self.settle.held();
        assert!(
            held.is_none_or(|held| held.because == HeldBecause::All),
            "still held: {held:?}"
        );
    }

    fn compare(&mut self, origin: Origin) {
        self.is_deaf = false;
        self.unreported.clear();
        for at in 0..self.n_places {
            self.settle.check(&key(at), self.now, origin, "compared");
        }
    }

    fn set_clock(&mut self, seconds: i64) {
        self.offset += SignedDuration::from_secs(seconds);
        if seconds >= 0 {
            return;
        }
        let now = self.wall();
        for index in 0..self.hooks.len() {
            let corrected = self.store().correct_times(self.hooks[index].name, now);
            self.runtime.block_on(corrected).unwrap();
            self.hooks[index].endpoint.probe_soon(now);
            self.hooks[index].forget_times();
        }
    }

    /// Commits, and kills the process if the step says so. Returns whether the commit is on record,
    /// if that is known.
    pub fn commit(&mut self, crash: Crash, write: impl FnOnce(&Store, &Runtime)) -> Option<bool> {
        let before = matches!(crash, Crash::During { .. }).then(|| Image::take(&self.state));
        write(self.store(), &self.runtime);
        if crash == Crash::No {
            return Some(true);
        }
        let after = Image::take(&self.state);
        match (crash, before) {
            (Crash::During { part }, Some(before)) => {
                self.crash(&Image::between(before, after, part));
                None
            }
            _ => {
                self.crash(&after);
                Some(true)
            }
        }
    }

    /// Kills the process; the next one finds these files.
    pub fn crash(&mut self, left: &Image) {
        self.n_crashes += 1;
        let next = self.directory.path().join(self.n_crashes.to_string());
        left.put(&next);
        // Without its file, SQLite copies no log into the database when it closes.
        fs::remove_dir_all(std::mem::replace(&mut self.state, next)).unwrap();
        self.open();
    }

    /// Starts: the memory is empty, and the state is opened.
    fn open(&mut self) {
        self.store = None;
        self.listings = OnceCell::new();
        self.operations = None;
        self.store = Some(Store::open(&self.state).unwrap());
        self.settle = Agenda::new(PAUSE);
        let times = Times {
            settle: PAUSE,
            hold: self.hold,
        };
        self.settle.set_times(times, self.now);
        self.read_held();
        self.is_starting = true;
        self.hinted.clear();
        for hook in &mut self.hooks {
            hook.forget_failures();
            hook.in_flight.clear();
        }
        let fingerprints = self.hooks.iter().map(Hook::fingerprint).collect();
        let noted = self.store().set_fingerprints(fingerprints, self.wall());
        let switched_on = self.runtime.block_on(noted).unwrap();
        assert_eq!(switched_on, [""; 0], "their settings are as they were");
        self.compare(Origin::CatchUp);
    }

    /// Reads the facts about held removals, as a start does.
    fn read_held(&mut self) {
        let keys = [
            MetaKey::HeldRemovals,
            MetaKey::AcceptedRemovals,
            MetaKey::Hold,
        ];
        let recorded = keys.into_iter().filter_map(|key| {
            let text = self.store().meta_of(None, key).unwrap()?;
            Some((key.as_str(), text))
        });
        self.held_facts = recorded.collect();
        let text = |key: MetaKey| self.held_facts.get(key.as_str());
        let [held, accepted] = [MetaKey::HeldRemovals, MetaKey::AcceptedRemovals].map(|key| {
            let text = text(key).map_or("[]", String::as_str);
            serde_json::from_str::<Vec<ProjectKey>>(text).unwrap()
        });
        let hold = text(MetaKey::Hold).and_then(|text| {
            serde_json::from_str::<Option<(usize, Option<Duration>)>>(text).unwrap()
        });
        let held = hold.map(|(n_recorded, until)| HeldBefore {
            projects: held,
            n_recorded,
            because: until.map_or(HeldBecause::All, HeldBecause::MoreThanHalf),
        });
        self.settle.remember(held, accepted, self.now);
    }

    /// The counts of the store equal those of the model.
    fn compare_counts(&self) {
        let states = self.runtime.block_on(self.store().webhook_states());
        let states = states.unwrap();
        for hook in &self.hooks {
            hook.compare(&states, self.wall());
        }
    }

    /// Exactly the expected events are on record, each with its payload.
    fn compare_events(&self) {
        let listings = self.listings();
        let listed = listings.events(&EventFilter::default(), usize::MAX);
        let listed = listed.unwrap();
        assert_eq!(listed.len(), self.expected_events.len(), "events on record");
        let mut payloads = HashSet::new();
        for one in listed {
            let (kind, _, hash) = &self.expected_events[&one.event.id];
            assert_eq!((one.event.kind, one.event.payload), (*kind, *hash));
            payloads.insert(hash);
        }
        for hash in payloads {
            assert_eq!(whole(&listings, hash), self.bytes.get(hash).cloned());
        }
    }

    /// Ends the run: all files are completed, the endpoints answer, time passes.
    fn finish(mut self) {
        for at in 0..N_SINGLE {
            self.act(Action::FinishSave(at), false);
        }
        let is_whole = |at: usize| {
            let mut here = self
                .world
                .files
                .iter()
                .filter(|((place, _), _)| *place == at);
            here.all(|(_, file)| file.content.is_some())
        };
        let removed: Vec<usize> = (0..N_SINGLE).filter(|at| !is_whole(*at)).collect();
        self.world.finish();
        for at in removed {
            self.hinted.insert(at, self.now);
            let (key, now) = (key(at), self.now);
            self.settle.hint(&key, now, Origin::Live, "a file went");
        }
        // Hints are enough for reported changes; a full scan finds the others.
        self.rest();
        let reported = |at: &usize| !self.unreported.contains(at);
        self.compare_record((0..self.n_places).filter(reported).collect());
        self.compare(Origin::Live);
        self.rest();
        for webhook in 0..self.hooks.len() {
            self.hooks[webhook].answers = Answers::Well;
            self.hooks[webhook].is_configured = true;
            self.switch_on(webhook);
            self.receive_slow_answers(webhook, true, Crash::No);
            self.redeliver(webhook);
        }
        for _ in 0..1_000 {
            let n = self.deliver(0, 100, Crash::No) + self.deliver(1, 100, Crash::No);
            let n_pending = |hook: &Hook| hook.count(Standing::Pending);
            if self.hooks.iter().all(|hook| n_pending(hook) == 0) {
                break;
            }
            if n == 0 {
                self.now += Duration::from_secs(5);
            }
        }
        self.compare_counts();
        self.compare_events();
        for hook in &mut self.hooks {
            let name = hook.name;
            for one in hook.all() {
                let has_arrived = one.standing == Standing::Delivered && one.n_received > 0;
                assert!(has_arrived, "{name} never received {one:?}");
            }
        }
        self.compare_record((0..self.n_places).collect());
        self.compare(Origin::Live);
        assert_eq!(self.rest(), 0, "a second comparison finds something");
    }

    /// The record equals the disk, and the payload of a future delete is stored.
    fn compare_record(&self, places: Vec<usize>) {
        let listings = self.listings();
        for at in places {
            let recorded = self.store().recorded(&key(at)).unwrap();
            if let Some(definition) = &recorded.definition {
                let hash = &definition.hash;
                assert_eq!(whole(&listings, hash), self.bytes.get(hash).cloned());
            }
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
    }

    /// An operator accepts the held removals.
    fn accept(&mut self) {
        if self.settle.held().is_some() {
            self.crowd_until = None;
        }
        self.settle.accept(self.now);
        self.note_held();
    }

    /// Runs steps until nothing is due within three settle times, and accepts held removals. Returns
    /// the number of events.
    pub fn rest(&mut self) -> usize {
        self.work_until(self.now + 3 * PAUSE, true)
    }

    /// Runs the steps that are due until then. Returns the number of events.
    fn work_until(&mut self, until: Duration, accepts: bool) -> usize {
        let mut n_events = 0;
        for _ in 0..1_000 {
            if accepts && self.settle.held().is_some() {
                self.accept();
            }
            let next = [self.settle.next(), self.settle.wave_ends_at()];
            let next = next.into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= until) else {
                self.now = until;
                return n_events;
            };
            self.now = self.now.max(at);
            n_events += self.round(2, Crash::No, None);
        }
        panic!("the rounds do not come to rest");
    }
}

/// A whole payload.
fn whole(listings: &Listings, hash: &ContentHash) -> Option<Bytes> {
    let part = listings.payload_part(hash, 0, usize::MAX).unwrap();
    part.map(|part| part.bytes)
}
