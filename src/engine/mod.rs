//! From hints to recorded events: the loop that does the work.
//!
//! Constraint: one thread owns what is being looked at, and it forgets nothing. A project leaves
//! this loop only when what was seen of it is committed; when the store cannot commit, inference
//! waits, for the difference is still on disk. Removals count only in the root they were recorded
//! in.
//!
//! Map: this file has the loop and its inputs, [`start`] what a start finds on record, `step` one
//! turn from due projects to a batch, `commit` what becomes of a batch and what follows where the
//! store cannot take it, `scan` the comparison of everything, `passed` the files that came and went
//! between two looks, `problems` what is recorded and said of files that do not count, [`root`]
//! whether the root is the one that was recorded, [`status`] what others may know.

mod commit;
mod passed;
mod problems;
pub mod root;
mod scan;
pub mod start;
pub mod status;
mod step;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::dispatch::QueueHandles;
use crate::domain::event::Origin;
use crate::domain::log_limit::LogLimit;
use crate::domain::project::{Problem, ProjectKey};
use crate::domain::rescan::RescanReason;
use crate::domain::route::Subscription;
use crate::domain::settle::{Agenda, Moment};
use crate::hint::{Hint, HintSender};
use crate::observe::{Held, Observer};
use crate::store::Store;
use crate::watch::{Watch, WatchSettings};

use problems::Healing;
use root::RootGuard;
use scan::Scan;
use start::Start;
use status::{Status, Trouble};

/// How many inputs may wait for the engine; a hint more is answered by a comparison of everything. As
/// many as the kernel's own queue holds by default. The channel takes room for all of them at once.
const INPUTS: usize = 16_384;
/// How many projects are looked at for one commit.
const BATCH: usize = 256;
/// How many while the daemon starts, which reads whole projects: what was in memory once stays with
/// the process for long.
const BATCH_AT_START: usize = 32;
/// How long the loop sleeps at most: the root is checked and the heart beats this often.
const PULSE: Duration = Duration::from_secs(1);
/// How long inference waits after the store failed or the root could not be opened.
const PAUSE: Duration = Duration::from_secs(1);
/// How many held files wait for one project.
const HELD_PER_PROJECT: usize = 128;
/// How long a file that was just created is left to its writer, whose close is reported too.
const WRITER_PAUSE: Duration = Duration::from_millis(25);

/// What the engine is told.
#[derive(Debug)]
pub enum Input {
    /// A hint of the watcher's.
    Hint(Box<Hint>),
    /// Compare everything.
    Rescan(RescanReason),
    /// Work by this configuration from now on, and say when that is so.
    Configure(Arc<Config>, oneshot::Sender<()>),
    /// Commit and end.
    Stop,
}

impl From<Hint> for Input {
    fn from(hint: Hint) -> Self {
        Self::Hint(Box::new(hint))
    }
}

/// The engine's thread.
#[derive(Debug)]
pub struct Engine {
    inputs: SyncSender<Input>,
    thread: JoinHandle<()>,
}

/// What the engine works with.
pub struct Parts {
    /// The valid configuration.
    pub config: Arc<Config>,
    /// The store.
    pub store: Store,
    /// The clock.
    pub clock: Clock,
    /// What others may know.
    pub status: Arc<Status>,
    /// Takes the deliveries that were recorded.
    pub queues: Arc<QueueHandles>,
}

impl Engine {
    /// Starts the thread. `on_exit` is called when it ends, however it ends.
    pub fn start(parts: Parts, on_exit: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (inputs, inbox) = sync_channel(INPUTS);
        let sender = inputs.clone();
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                // Also on a panic, so that the supervisor never waits for a dead thread.
                let _guard = OnDrop(Some(on_exit));
                if let Some(work) = Loop::new(parts, inbox, sender) {
                    work.run();
                }
            })?;
        Ok(Self { inputs, thread })
    }

    /// Tells the engine something. Returns whether it is still there.
    pub fn tell(&self, input: Input) -> bool {
        self.inputs.send(input).is_ok()
    }

    /// Stops it and waits until what it has seen is committed. False when it panicked.
    pub fn stop(self) -> bool {
        let _ = self.inputs.send(Input::Stop);
        self.thread.join().is_ok()
    }
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

/// Who hears of what, and when the first attempt is due.
#[derive(Debug)]
struct Routes {
    subscriptions: Vec<Subscription>,
    schedules: HashMap<String, Vec<Duration>>,
}

impl Routes {
    fn of(config: &Config) -> Self {
        let enabled = || config.webhooks.iter().filter(|webhook| webhook.enabled);
        Self {
            subscriptions: enabled()
                .map(|webhook| webhook.subscription.clone())
                .collect(),
            schedules: enabled()
                .map(|webhook| (webhook.name().to_owned(), webhook.schedule.clone()))
                .collect(),
        }
    }
}

struct Loop {
    config: Arc<Config>,
    store: Store,
    clock: Clock,
    status: Arc<Status>,
    queues: Arc<QueueHandles>,
    routes: Routes,
    inbox: Receiver<Input>,
    hints_lost: Arc<AtomicBool>,
    watch: Watch,
    observer: Observer,
    settle: Agenda,
    held: HashMap<ProjectKey, Vec<Held>>,
    problems: HashMap<Option<ProjectKey>, Vec<Problem>>,
    root: RootGuard,
    scan: Option<Scan>,
    /// Whether what the first scan finds is recorded without events.
    adopting: bool,
    /// Whether the first scan since the start is still to be finished.
    starting: bool,
    /// The layout that the record was made with; written when a scan has been recorded.
    layout_changed: bool,
    paused_until: Option<Moment>,
    /// Whether the database is not the one in the state directory.
    is_store_displaced: bool,
    /// How many files that do not count are said one by one.
    repeats: LogLimit,
    /// Files that do not count and may by themselves, that nothing was said of, and since when.
    healing: Healing,
    next_pulse: Moment,
    next_rescan: Moment,
    next_poll: Moment,
    next_survey: Moment,
    /// Whether a thread that this one needs is gone: then it ends, and the daemon with it.
    has_lost_a_part: bool,
}

impl Loop {
    fn new(parts: Parts, inbox: Receiver<Input>, sender: SyncSender<Input>) -> Option<Self> {
        let Parts {
            config,
            store,
            clock,
            status,
            queues,
        } = parts;
        let hints_lost = Arc::new(AtomicBool::new(false));
        let hints = HintSender::new(sender, Arc::clone(&hints_lost));
        let watch = match Watch::start(watch_settings(&config), hints) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::error!(%error, "the watch thread cannot be started; is the limit of tasks reached (TasksMax=)?");
                return None;
            }
        };
        let repository = &config.repository;
        let mut this = Self {
            observer: Observer::new(repository.layout.clone(), repository.max_file_size),
            settle: Agenda::new(repository.settle),
            root: RootGuard::new(repository.path.clone()),
            next_rescan: repository.rescan,
            next_poll: repository.poll_interval,
            routes: Routes::of(&config),
            config,
            store,
            clock,
            status,
            queues,
            inbox,
            hints_lost,
            watch,
            held: HashMap::new(),
            problems: HashMap::new(),
            scan: None,
            adopting: false,
            starting: true,
            layout_changed: false,
            paused_until: None,
            is_store_displaced: false,
            repeats: LogLimit::default(),
            healing: Healing::default(),
            next_pulse: Duration::ZERO,
            next_survey: Duration::ZERO,
            has_lost_a_part: false,
        };
        match this.remember() {
            Ok(()) => Some(this),
            Err(error) => {
                tracing::error!(%error, "what was recorded cannot be read; restore the state from a backup if it is damaged");
                None
            }
        }
    }

    /// Reads what the store knows of the last run.
    fn remember(&mut self) -> Result<(), crate::store::StoreError> {
        use crate::store::MetaKey;
        let start = Start::judge(
            self.store.meta(MetaKey::FirstStart)?.as_deref(),
            self.store.meta(MetaKey::Layout)?.as_deref(),
            &self.config.repository,
        );
        self.layout_changed = start.layout_changed;
        self.adopting = start.adopts;
        if self.layout_changed {
            warn!(
                "repository.layout is not the one that the record was made with; what exists is \
                 adopted under the new one, without events"
            );
        }
        self.root
            .remember(self.store.meta(MetaKey::RepositoryRoot)?);
        for recorded in self.store.problems(usize::MAX)? {
            self.problems
                .entry(recorded.key)
                .or_default()
                .push(recorded.problem);
        }
        Ok(())
    }

    fn run(mut self) {
        loop {
            self.status.beat(self.clock.moment());
            let timeout = self.until_next();
            match self.inbox.recv_timeout(timeout) {
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // All that waits is known before anything is looked at: one look then answers many.
            for _ in 0..INPUTS {
                match self.inbox.try_recv() {
                    Ok(Input::Stop) => return,
                    Ok(input) => self.take(input),
                    Err(_) => break,
                }
            }
            self.turn();
            if self.has_lost_a_part {
                return;
            }
        }
    }

    /// The time until there is something to do without being told.
    fn until_next(&self) -> Duration {
        let now = self.clock.moment();
        let mut next = self.next_pulse;
        if self.may_infer() {
            if let Some(due) = self.scan.as_ref().and_then(Scan::next) {
                next = next.min(due.max(self.paused_until.unwrap_or_default()));
            }
            if let Some(due) = self.settle.next() {
                next = next.min(due.max(self.paused_until.unwrap_or_default()));
            }
        }
        next.saturating_sub(now)
    }

    fn take(&mut self, input: Input) {
        let now = self.clock.moment();
        match input {
            Input::Hint(hint) => self.take_hint(*hint, now),
            Input::Rescan(reason) => self.rearm(reason),
            Input::Configure(config, taken) => {
                self.configure(config);
                // Who reloads may not wait any more.
                let _ = taken.send(());
            }
            Input::Stop => {}
        }
    }

    fn take_hint(&mut self, hint: Hint, now: Moment) {
        match hint {
            Hint::Project {
                key,
                what,
                held,
                unfinished,
            } => {
                if unfinished {
                    self.settle
                        .hint_later(&key, now, WRITER_PAUSE, Origin::Live, &what);
                } else {
                    self.settle.hint(&key, now, Origin::Live, &what);
                }
                if let Some(held) = held {
                    let waiting = self.held.entry(key).or_default();
                    // A file is named when it is created and again when it is closed.
                    let is_held = waiting
                        .iter()
                        .any(|other| other.path == held.path && other.stamp == held.stamp);
                    if !is_held && waiting.len() < HELD_PER_PROJECT {
                        waiting.push(held);
                    }
                }
            }
            Hint::Activity { key } => self.settle.activity(&key, now),
            Hint::Subtree { path, what } => self.hint_subtree(&path, &what, now),
            Hint::Unusable { problem, is_gone } => self.unusable(problem, is_gone),
            Hint::WalkStarted { root, reason } => self.begin_scan_of_walk(root, reason),
            Hint::ProjectsFound { keys } => self.found(keys),
            Hint::WalkFinished {
                root,
                reason,
                problems,
            } => self.armed(root, reason, problems),
        }
    }

    /// Something unusable appeared or went where no look at a project would see it.
    fn unusable(&mut self, problem: Problem, is_gone: bool) {
        let mut problems = self.problems.get(&None).cloned().unwrap_or_default();
        problems.retain(|known| known.path != problem.path);
        if !is_gone {
            problems.push(problem);
        }
        self.note_problems(None, problems);
    }

    /// Something happened above projects: every project that is recorded or found below.
    fn hint_subtree(&mut self, path: &str, what: &str, now: Moment) {
        let organization = self
            .config
            .repository
            .layout
            .at(path)
            .and_then(|cursor| cursor.organization());
        let recorded = match organization {
            Some(organization) => self.store.keys_in(&organization),
            None => self.store.keys(),
        };
        match recorded {
            Ok(keys) => {
                for key in keys {
                    self.settle.hint(&key, now, Origin::Live, what);
                }
            }
            Err(error) => {
                warn!(%error, "the projects below {path} cannot be listed; everything is compared");
                self.hints_lost.store(true, Ordering::Release);
            }
        }
    }

    fn turn(&mut self) {
        let now = self.clock.moment();
        if now >= self.next_pulse {
            self.next_pulse = now.saturating_add(PULSE);
            self.pulse(now);
        }
        if self.hints_lost.swap(false, Ordering::AcqRel) {
            warn!(
                "more hints came than could wait; everything is compared instead, and nothing is to be done"
            );
            self.begin_scan(RescanReason::Overflow);
        }
        if self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        if !self.may_infer() {
            return;
        }
        self.paused_until = None;
        let batch = if self.starting { BATCH_AT_START } else { BATCH };
        let due = self.settle.due(now, batch);
        if !due.is_empty() {
            self.step(due);
        }
        // After what was hinted, which does not wait for a piece more.
        if self.paused_until.is_none() {
            self.feed_scan();
        }
        self.end_scan();
    }

    /// Once a second: the watch thread, the store, the root, the timers.
    fn pulse(&mut self, now: Moment) {
        self.check_store(now);
        self.tell_of_what_lasts(now);
        if !self.watch.is_alive() {
            tracing::error!(
                "the watch thread ended; this is a defect of the program, please report it. The daemon ends, to be started again"
            );
            self.has_lost_a_part = true;
            return;
        }
        match self.root.check() {
            root::Check::InPlace => {}
            root::Check::Lost(reason) => {
                if self.status.set_trouble(Trouble::Root, Some(reason.clone())) {
                    warn!("{reason}; nothing is inferred until it is back");
                }
            }
            root::Check::Back => self.rearm(RescanReason::Root),
        }
        if !self.root.is_armed() || self.scan.is_some() {
            return;
        }
        if !self.may_infer() {
            if now >= self.next_survey {
                self.begin_scan(RescanReason::Root);
            }
            return;
        }
        let coverage = self.watch.coverage();
        if coverage.polls && now >= self.next_poll {
            self.begin_scan(RescanReason::Poll);
        } else if now >= self.next_rescan {
            self.begin_scan(RescanReason::Timer);
        }
        self.status.set_coverage(coverage);
    }

    fn rearm(&mut self, reason: RescanReason) {
        self.root.arming();
        self.scan = None;
        self.watch.arm(watch_settings(&self.config), reason);
    }

    /// Whether what is seen now may be compared with the record.
    fn may_infer(&self) -> bool {
        self.root.is_trusted() || (self.root.is_armed() && self.adopting)
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.routes = Routes::of(&config);
        let old = std::mem::replace(&mut self.config, config);
        let (old, new) = (&old.repository, &self.config.repository);
        self.settle.set_settle_time(new.settle);
        let layout_changed = old.layout != new.layout;
        if layout_changed || old.max_file_size != new.max_file_size {
            self.observer = Observer::new(new.layout.clone(), new.max_file_size);
        }
        if layout_changed {
            info!(
                "repository.layout changed; what exists is adopted under the new one, without events"
            );
            self.layout_changed = true;
            self.adopting = true;
            self.settle.clear();
            self.held.clear();
        }
        if old.path != new.path {
            let recorded = self.root.recorded();
            self.root = RootGuard::new(new.path.clone());
            self.root.remember(recorded);
        }
        if layout_changed || old.path != new.path || old.watch != new.watch {
            self.rearm(RescanReason::Reload);
        } else if old.max_file_size != new.max_file_size {
            self.begin_scan(RescanReason::Reload);
        }
        let now = self.clock.moment();
        let new = &self.config.repository;
        self.next_rescan = self.next_rescan.min(now.saturating_add(new.rescan));
        self.next_poll = self.next_poll.min(now.saturating_add(new.poll_interval));
    }
}

fn watch_settings(config: &Config) -> WatchSettings {
    WatchSettings {
        root: config.repository.path.clone(),
        layout: config.repository.layout.clone(),
        mode: config.repository.watch,
    }
}
