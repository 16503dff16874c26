//! The engine's loop: handles inputs and runs one step after another.
//!
//! Constraint: no change is lost. A project stays due until its observation is committed. While the
//! store cannot commit, inference waits. The changes remain visible, because the record still
//! differs from the disk.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tracing::{error, info, warn};

use super::commands::{Command, Pending};
use super::held_removals::wave_times;
use super::judge::Routes;
use super::recorder::report;
use super::root::{Check, RootGuard};
use super::scanner::Scanner;
use super::status::Trouble;
use super::worker::Worker;
use super::{INPUTS, Input, Parts, STANDSTILL};
use crate::config::Config;
use crate::domain::event::Origin;
use crate::domain::project::ProjectKey;
use crate::domain::rescan::RescanReason;
use crate::domain::settle::Moment;
use crate::error::chain;
use crate::hint::{Hint, HintSender};
use crate::watch::{Watch, WatchSettings};

/// How long an observation waits after an empty file was created.
///
/// The writer usually completes the file within this time.
const WRITER_DELAY: Duration = Duration::from_millis(25);

/// The receiving end of the input channel.
#[derive(Debug)]
pub(super) struct Inbox {
    pub inputs: Receiver<Input>,
    pub commands: Arc<Pending>,
    /// Whether a hint of a change was dropped because the channel was full.
    pub has_lost_hints: Arc<AtomicBool>,
}

/// The inbox and the watch thread that fills it.
pub(super) struct Watched {
    // Dropped before `watch`, because the watch thread may wait for room in the channel.
    pub inbox: Inbox,
    pub watch: Watch,
}

/// How long to wait after a failure before reading the recorded state again.
const READ_AGAIN: Duration = Duration::from_millis(400);

/// The state of the engine's thread: its inputs and its parts.
pub(super) struct EventLoop {
    inbox: Inbox,
    watch: Watch,
    scanner: Scanner,
    worker: Worker,
    new_layout: Option<NewLayout>,
}

/// A configuration with a new layout. It waits until changes under the old layout are recorded.
struct NewLayout {
    config: Arc<Config>,
    /// The end of the wait, unless [`EventLoop::change_layout`] extends it.
    until: Moment,
    /// Whether the log says that the layout waits for the repository or the store.
    is_reported: bool,
}

/// The longest wait of a new layout, in addition to twice `repository.settle`.
///
/// [`EventLoop::change_layout`] may extend the wait.
const NEW_LAYOUT_MAX: Duration = Duration::from_secs(60);

/// Starts the watch thread. Logs a failure.
pub(super) fn start_watch(parts: &Parts, hints: HintSender) -> io::Result<Watch> {
    parts.status.beat(parts.clock.moment());
    Watch::start(watch_settings(&parts.config), hints, parts.clock).inspect_err(|error| {
        error!(%error, "cannot start the watch thread; has the service reached its limit of tasks (TasksMax=) or of open files (LimitNOFILE=)?");
    })
}

impl EventLoop {
    /// Reads the recorded state. Retries after an error that may pass.
    ///
    /// Logs any other error and returns `None`. Also returns `None` if the engine is stopped while
    /// reading fails.
    pub(super) fn new(parts: Parts, watched: Watched) -> Option<Self> {
        let worker = loop {
            parts.status.beat(parts.clock.moment());
            match Worker::new(parts.clone()) {
                Ok(worker) => break worker,
                Err(_) if parts.status.is_stopping() => return None,
                Err(error) if error.fault().is_passing() => {
                    report(&parts.status, &error);
                    // Meanwhile, inputs wait in the inbox.
                    std::thread::sleep(READ_AGAIN);
                }
                Err(error) => {
                    error!(
                        error = %chain(&error),
                        "cannot read the recorded state; restore it from a backup if it is damaged"
                    );
                    return None;
                }
            }
        };
        // Not earlier: local variables are dropped in reverse order, so a return above would drop
        // `watch` before `inbox`.
        let Watched { inbox, watch } = watched;
        Some(Self {
            inbox,
            watch,
            scanner: Scanner::default(),
            worker,
            new_layout: None,
        })
    }

    /// Runs until it must stop, the watch thread has ended, or the store is closed.
    pub(super) fn run(mut self) {
        loop {
            let now = self.worker.clock.moment();
            self.worker.status.beat(now);
            let timeout = self.worker.timers.until_next(now, self.next_work());
            match self.inbox.inputs.recv_timeout(timeout) {
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // First handle all queued inputs, so that several hints for a project need only one
            // observation.
            for _ in 0..INPUTS {
                match self.inbox.inputs.try_recv() {
                    Ok(input) => self.take(input),
                    Err(_) => break,
                }
            }
            if self.worker.status.is_stopping() {
                return;
            }
            for command in self.inbox.commands.take() {
                self.obey(command);
            }
            self.work();
            if self.has_lost_a_thread() {
                return;
            }
        }
    }

    /// Returns the time of the next work, if any is scheduled.
    ///
    /// Work is an observation, a scan or its next piece, or a decision about vanished projects.
    fn next_work(&self) -> Option<Moment> {
        if !self.worker.may_infer() {
            return None;
        }
        let scan = match self.scanner.is_scanning() {
            true => self.scanner.next(),
            false => self.worker.timers.next_poll(),
        };
        let agenda = &self.worker.agenda;
        let work = [scan, agenda.next(), self.wave_ends_at()];
        work.into_iter().flatten().min()
    }

    /// Returns the time of the next decision about vanished projects.
    ///
    /// `None` during a scan that may change the decision. The scan may find more vanished projects,
    /// or find that held projects are back. A wave waits for the scan even if its projects are
    /// back.
    fn wave_ends_at(&self) -> Option<Moment> {
        let worker = &self.worker;
        let agenda = &worker.agenda;
        let may_change = agenda.is_wave() || agenda.held().is_some() || worker.phase.is_starting();
        if self.scanner.is_scanning() && may_change {
            return None;
        }
        worker.agenda.wave_ends_at()
    }

    /// Decides about vanished projects, if a decision is due.
    ///
    /// Hints may be late or lost, so a full scan must confirm the end of a wave. Only the maximum
    /// duration of a wave ends it without such a scan.
    fn end_wave(&mut self, now: Moment) {
        if self.wave_ends_at().is_none_or(|at| now < at) {
            return;
        }
        let scanned = self.scanner.last_began();
        match self.worker.agenda.wave_is_over_since(now) {
            Some(since) if scanned.is_none_or(|began| began < since) => {
                // While only scans find changes, begin a poll, because its pace is limited to a
                // quarter of a core.
                let reason = match self.worker.timers.polls() {
                    true => RescanReason::Poll,
                    false => RescanReason::Removals,
                };
                self.scanner.begin(&mut self.worker, reason);
            }
            _ => self.worker.end_wave(now),
        }
    }

    fn has_lost_a_thread(&self) -> bool {
        let is_watch_alive = self.watch.is_alive();
        if !is_watch_alive {
            error!(
                "the watch thread ended unexpectedly, so the daemon exits and systemd restarts it"
            );
        }
        !is_watch_alive || self.worker.recorder.is_closed()
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Hint(hint) => self.take_hint(*hint),
            Input::Wake => {}
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Rescan(reason) => self.watch_again(reason),
            Command::Configure(config, done) => {
                self.reload(config);
                if done.send(()).is_err() {
                    info!("the engine responds again and has the new settings of a delayed reload");
                }
            }
            // The sender may have stopped waiting for the answer.
            Command::ListHeld(answer) => drop(answer.send(self.worker.held_projects())),
            // An earlier command took so long that nobody waits for the answer any more.
            Command::Accept(_, answer) if answer.is_closed() => {}
            Command::Accept(token, answer) => drop(answer.send(self.worker.accept(&token))),
        }
    }

    fn take_hint(&mut self, hint: Hint) {
        let now = self.worker.clock.moment();
        match hint {
            Hint::Project {
                key,
                cause,
                file,
                unfinished,
            } => {
                self.worker.copies.doubt(&key);
                self.worker.doubt_unusable_of(&key);
                if unfinished {
                    self.worker
                        .agenda
                        .hint_later(&key, now, WRITER_DELAY, Origin::Live, &cause);
                } else {
                    self.worker.agenda.hint(&key, now, Origin::Live, &cause);
                }
                if let Some(file) = file {
                    let (path, held) = *file;
                    self.worker.reported.add(key, &path, held);
                }
            }
            Hint::Activity { key } => self.worker.agenda.activity(&key, now),
            Hint::Subtree { path, cause } => {
                self.worker.doubt_unusable_below(&path);
                self.hint_subtree(&path, &cause, now);
            }
            Hint::Unusable { path } => self.worker.doubt_unusable(path),
            Hint::WalkStarted { root, reason } => {
                self.scanner.begin_walk(&mut self.worker, root, reason);
            }
            Hint::ProjectsFound { keys } => self.scanner.found(keys),
            Hint::WalkFinished {
                root,
                reason,
                problems,
            } => {
                let coverage = self.watch.coverage();
                self.worker.timers.set_polls(coverage.polls);
                self.worker.status.set_coverage(coverage);
                self.scanner
                    .end_walk(&mut self.worker, root, reason, problems);
            }
        }
    }

    /// Schedules observations of the projects that may be below a directory.
    ///
    /// These are the projects with a record or with invalid files: those of the organization in the
    /// path, or all if the path has none.
    fn hint_subtree(&mut self, path: &str, cause: &str, now: Moment) {
        // In a pause after a failure, do not query the store for each of thousands of hints.
        // Request one scan instead.
        if self.worker.timers.is_paused() {
            return self.scanner.request(RescanReason::Overflow);
        }
        let cursor = self.worker.config.repository.layout.at(path);
        let organization = cursor.and_then(|cursor| cursor.organization());
        let recorded = match &organization {
            Some(organization) => self.worker.recorder.store().keys_in(organization),
            None => self.worker.recorder.store().keys(),
        };
        // Projects that have only invalid files are not in the record.
        let invalid = self.worker.invalid_files.keys_in(organization.as_deref());
        match recorded {
            Ok(keys) => {
                let keys: BTreeSet<ProjectKey> = keys.into_iter().chain(invalid).collect();
                for key in keys {
                    self.worker.copies.doubt(&key);
                    self.worker.agenda.hint(&key, now, Origin::Live, cause);
                }
            }
            Err(error) => {
                self.worker.store_failed(&error);
                self.scanner.request(RescanReason::Overflow);
            }
        }
    }

    /// Runs everything that is due now.
    fn work(&mut self) {
        let now = self.worker.clock.moment();
        if self.worker.timers.take_pulse(now) {
            self.pulse(now);
        }
        if self.inbox.has_lost_hints.swap(false, Ordering::AcqRel) {
            warn!("the change queue overflowed; rescanning everything (no action needed)");
            self.scanner.request(RescanReason::Overflow);
        }
        if std::mem::take(&mut self.worker.compares_again) {
            self.scanner.request(RescanReason::Root);
        }
        self.scanner.begin_requested(&mut self.worker);
        self.change_layout(now);
        if !self.worker.timers.resume(now) || !self.worker.may_infer() {
            return;
        }
        let sees_late = self.worker.timers.polls() || self.worker.phase.is_starting();
        self.worker.agenda.see_late(sees_late);
        let due = self.worker.agenda.due(now, self.worker.phase.batch());
        if !due.is_empty() {
            self.worker.step(due);
        }
        // Observe hinted projects first, so that they wait for at most one piece of the scan.
        if !self.worker.timers.is_paused() {
            let is_poll_due = self
                .worker
                .timers
                .next_poll()
                .is_some_and(|poll| poll <= now);
            if is_poll_due && !self.scanner.is_scanning() {
                self.scanner.begin(&mut self.worker, RescanReason::Poll);
            }
            self.scanner.compare_piece(&mut self.worker);
        }
        self.scanner.end(&mut self.worker);
        if !self.worker.timers.is_paused() {
            self.end_wave(now);
            self.worker.note_held_removals();
        }
    }

    /// Runs the recurring checks, such as those of the store, the root and the mounts.
    ///
    /// Runs about once a second, and earlier if the root or a mount may have changed.
    fn pulse(&mut self, now: Moment) {
        if self.worker.recorder.check_in_place() {
            self.worker.check_unusable();
        } else {
            // Pause, because a commit would go to a database that is no longer in the state
            // directory.
            self.worker.timers.pause(now);
        }
        self.worker.invalid_files.log_lasting(now);
        // Once the user database answers, a scan reads files with unknown owners again.
        if !self.scanner.is_scanning() && self.worker.retry_owners() {
            self.scanner.request(RescanReason::Owners);
        }
        self.worker.report_actors();
        self.check_watch();
        let status = Arc::clone(&self.worker.status);
        match self.worker.root.check() {
            Check::InPlace => {}
            Check::Lost(reason) => {
                if status.set_trouble(Trouble::Root, Some(reason.clone())) {
                    warn!("{reason}; no events are inferred until it is available");
                }
            }
            Check::Failed(reason) => {
                if status.set_trouble(Trouble::Root, Some(reason.clone())) {
                    warn!("{reason}; inference waits until the repository can be opened");
                }
            }
            Check::Works => {
                let reason = self.worker.distrust();
                if status.set_trouble(Trouble::Root, reason) {
                    info!("the repository's root can be opened again");
                }
            }
            Check::Back => self.watch_again(RescanReason::Root),
        }
        if !self.worker.root.is_watched() {
            return;
        }
        let coverage = self.watch.coverage();
        self.worker.timers.set_polls(coverage.polls);
        self.worker.status.set_coverage(coverage);
        if self.worker.root.is_trusted() {
            self.worker.survey_mounts(now);
        }
        if !self.worker.may_infer() {
            if self.worker.timers.is_survey_due(now) && !self.scanner.is_scanning() {
                self.scanner.begin(&mut self.worker, RescanReason::Root);
            }
            return;
        }
        let repository = &self.worker.config.repository;
        if !self.scanner.is_walking() && self.worker.timers.take_rescan(now, repository) {
            // The full scan also sets missing watches.
            let settings = watch_settings(&self.worker.config);
            self.watch.watch_everything(settings, RescanReason::Timer);
        }
    }

    /// Reports when the watch thread waits for a file system that does not answer.
    fn check_watch(&self) {
        let status = &self.worker.status;
        let Some(path) = self.watch.stuck_at(STANDSTILL) else {
            if status.set_trouble(Trouble::Watch, None) {
                info!("the watch thread responds again");
            }
            return;
        };
        let path = self.worker.config.repository.path.join(path);
        let reason = format!(
            "the watch thread does not respond, because {} has not answered for {STANDSTILL:?}; is its disk or network \
             file system stuck? Changes of the repository are found once it answers",
            path.display()
        );
        if status.set_trouble(Trouble::Watch, Some(reason.clone())) {
            error!("{reason}");
        }
    }

    /// Sets all watches again. A full scan follows.
    fn watch_again(&mut self, reason: RescanReason) {
        self.worker.root.watching_begins();
        self.scanner.stop();
        self.watch
            .watch_everything(watch_settings(&self.worker.config), reason);
    }

    /// Applies a new configuration. Only a new layout may have to wait.
    ///
    /// If the path of the repository changes too, the new path waits with the layout.
    ///
    /// The first scan with a new layout records projects without events. So pending changes are
    /// first recorded under the old layout, with their events.
    fn reload(&mut self, config: Arc<Config>) {
        // This reload replaces an earlier reload whose layout still waits.
        self.new_layout = None;
        let old = &self.worker.config.repository;
        if old.layout == config.repository.layout || self.worker.phase.is_adopting() {
            self.configure(config);
            return;
        }
        info!(
            "the new repository.layout takes effect once the changes under the old layout are \
             recorded"
        );
        let mut rest = Config::clone(&config);
        rest.repository.path.clone_from(&old.path);
        rest.repository.layout = old.layout.clone();
        rest.repository.templates = old.templates.clone();
        self.configure(Arc::new(rest));
        self.scanner.begin(&mut self.worker, RescanReason::Reload);
        let until = new_layout_until(&config, self.worker.clock.moment());
        self.new_layout = Some(NewLayout {
            config,
            until,
            is_reported: false,
        });
    }

    /// Applies the new layout once earlier changes are recorded or the wait is over.
    ///
    /// The wait is extended while removals are held, while changes cannot be recorded, and while a
    /// file system below the root is missing or replaced.
    fn change_layout(&mut self, now: Moment) {
        let Some(new) = &mut self.new_layout else {
            return;
        };
        let worker = &self.worker;
        // If the path changes too, do not wait for a missing root. It may never come back.
        let is_blind = match worker.may_infer() {
            true => self.scanner.is_requested() || worker.timers.is_paused(),
            false => new.config.repository.path == worker.config.repository.path,
        } || !worker.mounts.hidden().is_empty();
        if is_blind && !std::mem::replace(&mut new.is_reported, true) {
            info!(
                "the new repository.layout waits until the repository, the file systems mounted in it \
                 and the store are available"
            );
        }
        if is_blind || worker.agenda.held().is_some() {
            new.until = new_layout_until(&new.config, now);
        }
        let has_pending = is_blind || self.scanner.is_scanning() || worker.agenda.has_pending(now);
        let Some(new) = self
            .new_layout
            .take_if(|new| !has_pending || now >= new.until)
        else {
            return;
        };
        if has_pending {
            warn!(
                "the new repository.layout takes effect now, but some changes under the old layout \
                 are not recorded; pending removals cause no events"
            );
        }
        self.configure(new.config);
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.worker.routes = Routes::of(&config);
        let (clock, status) = (self.worker.clock, Arc::clone(&self.worker.status));
        self.worker.actors.configure(&config, clock, &status);
        let old = std::mem::replace(&mut self.worker.config, config);
        let (old, new) = (&old.repository, &self.worker.config.repository);
        self.worker
            .agenda
            .set_times(wave_times(new), self.worker.clock.moment());
        let layout_changed = old.layout != new.layout;
        let path_changed = old.path != new.path;
        let size_changed = old.max_file_size != new.max_file_size;
        if layout_changed || size_changed {
            let observer = &mut self.worker.observer;
            observer.change(new.layout.clone(), new.max_file_size);
            self.worker.mounts.doubt();
        }
        if layout_changed {
            info!("repository.layout changed; existing projects are recorded without events");
            self.worker.phase = self.worker.phase.with_new_layout();
            self.worker.agenda.clear();
            self.worker.copies.clear();
            self.worker.reported.clear();
        }
        if path_changed {
            let recorded = self.worker.root.recorded();
            self.worker.root = RootGuard::new(new.path.clone());
            self.worker.root.remember(recorded);
        }
        if layout_changed || path_changed || old.watch != new.watch {
            self.watch_again(RescanReason::Reload);
        } else if size_changed {
            self.scanner.begin(&mut self.worker, RescanReason::Reload);
        }
        let now = self.worker.clock.moment();
        self.worker
            .timers
            .configure(now, &self.worker.config.repository);
    }
}

/// Returns the end of the wait for the new layout, if the wait begins now.
fn new_layout_until(config: &Config, now: Moment) -> Moment {
    let longest = NEW_LAYOUT_MAX.saturating_add(config.repository.settle.saturating_mul(2));
    now.saturating_add(longest)
}

fn watch_settings(config: &Config) -> WatchSettings {
    WatchSettings {
        root: config.repository.path.clone(),
        layout: config.repository.layout.clone(),
        mode: config.repository.watch,
    }
}
