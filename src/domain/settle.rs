//! Decides when to observe a project, and when its removals are confirmed.
//!
//! Constraint: this module reads no clock. The caller passes `now`, a [`Moment`] of a monotonic
//! clock.
//!
//! A hint usually makes its project due immediately, so that new files cause events without delay.
//! A missing file counts as removed only after the project was idle for the settle time. Hints may
//! be late or lost, so a project without hints may still be changing. Therefore two observations
//! must find the file missing: one after the last hint, and one at least a settle time later. If
//! the second observation finds more files missing, the settle time starts again. Continuous
//! activity postpones a removal by at most 20 settle times. After a longer wait for other vanished
//! projects, it postpones the removal by at most ten more.
//!
//! A project with an invalid file that may become valid is observed again without a hint, because
//! the end of a write is not always reported. The delay doubles each time, up to a maximum.
//!
//! The removal of a project whose definition vanished waits for other projects that vanish at the
//! same time; see [`super::wave`].
//!
//! The caller repeats these steps:
//!
//! 1. Pass hints to [`Agenda::hint`], [`Agenda::hint_later`] or [`Agenda::activity`]. Pass projects
//!    that a scan finds changed to [`Agenda::check`].
//! 2. Take due projects from [`Agenda::due`] and observe them.
//! 3. Also observe the recorded projects that [`super::moves::infer_all`] needs for arrivals and
//!    departures. For each project that is gone, also observe the location that it waits to move
//!    to ([`Agenda::moves_to`]). Repeat this step for the projects that it adds.
//! 4. For each comparison, pass the missing files ([`super::infer::missing`]) to
//!    [`Agenda::removals`].
//! 5. Infer ([`super::moves::infer_all`]) and record.
//! 6. Pass the outcome of each observation, including those of step 3, to [`Agenda::observed`].
//! 7. Call these for each [`Conclusion`](super::moves::Conclusion) that waits:
//!    - [`Agenda::confirm_after`] for a move ([`super::moves::Conclusion::moves_to`])
//!    - [`Agenda::confirm_with`] for a removal ([`super::moves::Conclusion::removed_with`])
//!    - [`Agenda::observe_after`] for an arrival
//!      ([`Hold::Removal`](super::shared_ids::Hold::Removal))
//! 8. Call [`Agenda::end_wave`] when [`Agenda::wave_ends_at`] is reached.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::event::Origin;
use super::infer::Removals;
use super::project::ProjectKey;
use super::vanished::{Held, HeldBefore, Presence, Vanished};
use super::wave::{CHAIN_LASTS, Times};

/// A time of a monotonic clock, measured from the start of the clock.
pub type Moment = Duration;

/// The first delay before a project with an invalid file is observed again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest delay before a project with an invalid file is observed again.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The maximum number of settle times that activity postpones a removal.
const SETTLE_TIMES_MAX: u32 = 20;

/// A project to observe now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The project.
    pub key: ProjectKey,
    /// The origin of the inferred events.
    pub origin: Origin,
    /// The reason for the observation, for the explanation of events.
    pub hint: String,
}

/// The reasons to observe a project again after an observation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unresolved {
    /// Missing files whose removal is not confirmed yet ([`super::infer::Inference::missing`]).
    pub missing: BTreeSet<String>,
    /// Whether to observe the project again soon, without a hint.
    ///
    /// For instance, an invalid file may become valid.
    pub retry: bool,
    /// The origin of the events that the observation causes.
    pub origin: Origin,
    /// The observed definition, compared with the recorded one.
    pub presence: Presence,
    /// Whether the removal waits for another removal; see [`Agenda::confirm_with`].
    pub is_postponed: bool,
}

/// The projects to observe now or later, and the projects that vanished.
///
/// Other projects take no memory here.
#[derive(Debug)]
pub struct Agenda {
    settle_time: Duration,
    entries: HashMap<ProjectKey, Entry>,
    by_time: BTreeSet<(Moment, ProjectKey)>,
    vanished: Vanished,
}

#[derive(Debug)]
struct Entry {
    active_at: Moment,
    /// The missing files of the last observation.
    missing: Option<Missing>,
    /// The time of the next observation.
    ///
    /// `None` from [`Agenda::due`] until [`Agenda::observed`] or the next hint, and while this
    /// project only waits for other vanished projects.
    observe_at: Option<Moment>,
    /// The origin of the observation in progress. `None` after [`Agenda::observed`].
    taken: Option<Origin>,
    /// Whether [`Agenda::due`] has already used `origin`.
    origin_served: bool,
    /// The location that the project moves to once the project recorded there is gone.
    moves_to: Option<ProjectKey>,
    /// The number of observations with [`Unresolved::retry`] since the last hint.
    n_retries: u32,
    origin: Origin,
    hint: String,
}

#[derive(Debug)]
struct Missing {
    paths: BTreeSet<String>,
    /// The time from which [`SETTLE_TIMES_MAX`] is counted.
    ///
    /// Usually it is the first observation that found a file missing. Later activity does not
    /// change it.
    first_at: Moment,
    /// The time since which every observation found these files missing.
    ///
    /// `None` if there was no observation since the last hint.
    since: Option<Moment>,
    /// The origin of the first observation that found a file missing.
    ///
    /// Later hints do not change it. So a removal that the first scan after a start finds has the
    /// origin catch-up.
    origin: Origin,
}

impl Entry {
    fn new(now: Moment, origin: Origin, hint: &str) -> Self {
        Self {
            active_at: now,
            missing: None,
            observe_at: None,
            taken: None,
            origin_served: false,
            moves_to: None,
            n_retries: 0,
            origin,
            hint: hint.to_owned(),
        }
    }

    /// Returns the time since which the project has been idle with the same files missing.
    ///
    /// `None` if no files are missing, or if there was no observation since the last hint.
    fn idle_since(&self) -> Option<Moment> {
        Some(self.active_at.max(self.missing.as_ref()?.since?))
    }

    /// Returns the time when missing files count as removed, if files are missing.
    ///
    /// This is one settle time after [`Entry::idle_since`]. Continuous activity, such as writes to
    /// a log file in the same directory, postpones it by at most [`SETTLE_TIMES_MAX`] settle times.
    fn settled_at(&self, settle_time: Duration) -> Option<Moment> {
        let first_at = self.missing.as_ref()?.first_at;
        let latest = first_at.saturating_add(settle_time.saturating_mul(SETTLE_TIMES_MAX));
        let idle = self.idle_since();
        Some(idle.map_or(latest, |since| {
            latest.min(since.saturating_add(settle_time))
        }))
    }

    fn is_settled(&self, now: Moment, settle_time: Duration) -> bool {
        self.settled_at(settle_time).is_some_and(|at| now >= at)
    }
}

impl Agenda {
    /// Makes an empty agenda. Removals are confirmed after `settle_time` without activity.
    pub fn new(settle_time: Duration) -> Self {
        Self {
            settle_time,
            entries: HashMap::new(),
            by_time: BTreeSet::new(),
            vanished: Vanished::new(Times {
                settle: settle_time,
                hold: Duration::ZERO,
            }),
        }
    }

    /// Changes the settings, also for removals that are not confirmed yet.
    ///
    /// If a current hold has an end, the end stays, but is at most the new [`Times::hold`] from
    /// now.
    pub fn set_times(&mut self, times: Times, now: Moment) {
        let settle_time = times.settle;
        self.settle_time = settle_time;
        self.vanished.set_times(times, now);
        let sooner: Vec<(ProjectKey, Moment)> = self
            .entries
            .iter()
            // A project that is being observed, or waits for other projects, is scheduled later.
            .filter(|(_, entry)| entry.observe_at.is_some())
            .filter_map(|(key, entry)| Some((key.clone(), entry.settled_at(settle_time)?)))
            .collect();
        // If the settle time became longer, the scheduled observation is too early. That
        // observation then schedules the next one.
        for (key, at) in sooner {
            self.schedule(&key, at);
        }
    }

    /// Records activity in a project. The project is due now, and its settle time starts again.
    pub fn hint(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) {
        let entry = self.entry(key, now, origin, hint);
        entry.active_at = entry.active_at.max(now);
        if let Some(missing) = &mut entry.missing {
            missing.since = None;
        }
        entry.n_retries = 0;
        entry.hint = hint.to_owned();
        self.schedule(key, now);
    }

    /// Records continuing activity.
    ///
    /// The project is due after `delay`, unless it is due earlier.
    pub fn hint_later(
        &mut self,
        key: &ProjectKey,
        now: Moment,
        delay: Duration,
        origin: Origin,
        hint: &str,
    ) {
        let entry = self.entry(key, now, origin, hint);
        entry.active_at = now;
        if let Some(missing) = &mut entry.missing {
            missing.since = None;
        }
        entry.n_retries = 0;
        entry.hint = hint.to_owned();
        self.schedule(key, now.saturating_add(delay));
    }

    /// Records activity that changed no project file. A running settle time starts again.
    pub fn activity(&mut self, key: &ProjectKey, now: Moment) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.missing.is_some()
        {
            entry.active_at = now;
        }
    }

    /// Makes a project due without activity. A running settle time continues.
    pub fn check(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) {
        self.entry(key, now, origin, hint);
        self.schedule(key, now);
    }

    /// Delays the removals of a project until the removals at its new location are due.
    ///
    /// So the removals at both locations are judged in the same step, and the project is not
    /// deleted before it moves.
    pub fn confirm_after(&mut self, key: &ProjectKey, moves_to: &ProjectKey) {
        let since = self.entries.get(moves_to).and_then(Entry::idle_since);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.moves_to = Some(moves_to.clone());
        let Some(since) = since else {
            return;
        };
        // One nanosecond later, so that the other location is due first.
        let behind = since.saturating_add(Duration::from_nanos(1));
        entry.active_at = entry.active_at.max(behind);
    }

    /// Returns the location that a project waits to move to, as of its last observation.
    pub fn moves_to(&self, key: &ProjectKey) -> Option<&ProjectKey> {
        self.entries.get(key)?.moves_to.as_ref()
    }

    /// Schedules a project together with another directory of the same project id.
    ///
    /// So the removals in both are judged in the same step. If the other directory is not
    /// scheduled, because it waits for further projects, this directory is observed after the
    /// settle time.
    pub fn confirm_with(&mut self, key: &ProjectKey, other: &ProjectKey, now: Moment) {
        let other = self.entries.get(other);
        let since = other.and_then(Entry::idle_since);
        let next = other.and_then(|other| other.observe_at);
        if let (Some(since), Some(entry)) = (since, self.entries.get_mut(key)) {
            entry.active_at = entry.active_at.max(since);
        }
        self.schedule(key, next.unwrap_or(now.saturating_add(self.settle_time)));
    }

    /// Schedules a project right after `other`, or now if `other` is already judged.
    ///
    /// So a project is imported as soon as it is deleted from its old directory.
    pub fn observe_after(&mut self, key: &ProjectKey, other: &ProjectKey, now: Moment) {
        let at = match self.entries.get(other).map(|other| other.observe_at) {
            None => now,
            Some(Some(next)) => next.saturating_add(Duration::from_nanos(1)),
            // `other` waits for further projects. Meanwhile this project keeps its schedule.
            Some(None) => return,
        };
        self.schedule(key, at);
    }

    fn entry(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) -> &mut Entry {
        let entry = self
            .entries
            .entry(key.clone())
            .or_insert_with(|| Entry::new(now, origin, hint));
        // An observation that is still due may find changes from before this hint. So `origin` is
        // replaced only after [`Agenda::due`] has used it.
        if entry.origin_served {
            entry.origin = origin;
            entry.origin_served = false;
        }
        entry
    }

    /// Makes a project due at `at`, unless it is due earlier.
    fn schedule(&mut self, key: &ProjectKey, at: Moment) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        match entry.observe_at {
            Some(sooner) if sooner <= at => return,
            Some(later) => {
                self.by_time.remove(&(later, key.clone()));
            }
            None => {}
        }
        entry.observe_at = Some(at);
        self.by_time.insert((at, key.clone()));
    }

    /// Takes at most `limit` due projects, starting with the longest overdue.
    ///
    /// The caller must pass each of them to [`Agenda::observed`] before it takes more. If it does
    /// not observe one, it must pass that one to [`Agenda::check`].
    pub fn due(&mut self, now: Moment, limit: usize) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < limit {
            let Some((at, _)) = self.by_time.first() else {
                break;
            };
            if *at > now {
                break;
            }
            let Some((_, key)) = self.by_time.pop_first() else {
                break;
            };
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.observe_at = None;
            let origin = match &entry.missing {
                Some(missing) if entry.is_settled(now, self.settle_time) => missing.origin,
                _ => entry.origin,
            };
            entry.taken = Some(origin);
            entry.origin_served = true;
            due.push(Due {
                key,
                origin,
                hint: entry.hint.clone(),
            });
        }
        due
    }

    /// Decides whether the files in `missing` count as removed.
    ///
    /// An observation at `now` found these files missing.
    pub fn removals(&self, key: &ProjectKey, now: Moment, missing: &BTreeSet<String>) -> Removals {
        let is_confirmed = !self.vanished.holds(key)
            && self.entries.get(key).is_some_and(|entry| {
                let was_missing = |before: &Missing| missing.is_subset(&before.paths);
                entry.is_settled(now, self.settle_time)
                    && entry.missing.as_ref().is_some_and(was_missing)
            });
        if is_confirmed {
            Removals::Confirmed
        } else {
            Removals::Unconfirmed
        }
    }

    /// Records a committed observation, and the reasons to observe the project again.
    ///
    /// This also works for a project that was not due.
    pub fn observed(&mut self, key: &ProjectKey, now: Moment, unresolved: Unresolved) {
        let was_held = self.vanished.holds(key);
        let is_postponed = unresolved.is_postponed;
        self.vanished.observed(key, unresolved.presence, now);
        let is_held = self.vanished.holds(key);
        if !unresolved.missing.is_empty() || unresolved.retry {
            // An observation of a project that was not due may be the first to find a missing or
            // invalid file.
            self.entries.entry(key.clone()).or_insert_with(|| {
                Entry::new(now, unresolved.origin, "observed with another project")
            });
        }
        let settle_time = self.settle_time;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let taken = entry.taken.take();
        entry.moves_to = None;
        // A hint that arrived during the observation has scheduled another observation.
        let was_hinted_meanwhile = taken.is_some() && entry.observe_at.is_some();
        // If a removal was due for confirmation but was not confirmed, its settle time starts
        // again.
        let was_settled = !was_held && !is_postponed && entry.is_settled(now, settle_time);
        let before = entry.missing.take();
        if !unresolved.missing.is_empty() {
            let are_known = before
                .as_ref()
                .is_some_and(|before| unresolved.missing.is_subset(&before.paths));
            let goes_on = before
                .as_ref()
                .and_then(|before| before.since)
                .filter(|_| are_known && !was_settled);
            let first_at = before.as_ref().map(|before| before.first_at);
            entry.missing = Some(Missing {
                first_at: first_at
                    .filter(|_| !(are_known && was_settled))
                    .unwrap_or(now),
                since: (!was_hinted_meanwhile).then_some(goes_on.unwrap_or(now)),
                origin: before.map_or(taken.unwrap_or(entry.origin), |before| before.origin),
                paths: unresolved.missing,
            });
        }
        let mut again = entry
            .settled_at(settle_time)
            .filter(|_| !is_held && !is_postponed);
        if unresolved.retry {
            let factor = 1_u32.checked_shl(entry.n_retries).unwrap_or(u32::MAX);
            let delay = RETRY_FIRST.saturating_mul(factor).min(RETRY_MAX);
            entry.n_retries = entry.n_retries.saturating_add(1);
            let at = now.saturating_add(delay);
            again = Some(again.map_or(at, |sooner| sooner.min(at)));
        }
        match (again, entry.observe_at) {
            (Some(at), _) => self.schedule(key, at),
            // A hint arrived in the meantime, or the project was observed before it was due.
            (None, Some(_)) => {}
            (None, None) if is_held || is_postponed => {}
            (None, None) => {
                self.entries.remove(key);
            }
        }
    }

    /// Restores held removals from an earlier run, and the projects whose removal was accepted.
    ///
    /// If a hold has an end, the end stays, but is at most [`Times::hold`] from now.
    pub fn remember(
        &mut self,
        held: Option<HeldBefore>,
        accepted: impl IntoIterator<Item = ProjectKey>,
        now: Moment,
    ) {
        self.vanished.remember(held, accepted, now);
    }

    /// Returns the time of the next decision about vanished projects; see [`Agenda::end_wave`].
    pub fn wave_ends_at(&self) -> Option<Moment> {
        self.vanished.ends_at()
    }

    /// Returns the end of a wave that is over, if a full scan may still extend the wave.
    pub fn wave_is_over_since(&self, now: Moment) -> Option<Moment> {
        self.vanished.wave_is_over_since(now)
    }

    /// Whether no chain or wave of vanished projects is in progress.
    pub fn is_calm(&self) -> bool {
        self.vanished.is_calm()
    }

    /// Records the number of recorded projects before the first project vanishes.
    ///
    /// Call this before the first project of a chain or wave. The share of vanished projects is
    /// computed from at most this number. So projects that are imported later do not change the
    /// share.
    pub fn begins_with(&mut self, n_recorded: usize) {
        self.vanished.begins_with(n_recorded);
    }

    /// Records the number of recorded projects when a full scan begins.
    ///
    /// Until [`Agenda::scanned`], the share of vanished projects is computed from at most this
    /// number. So new projects that the scan finds first do not change the share.
    pub fn scan_begins(&mut self, n_recorded: usize) {
        self.vanished.scan_begins(n_recorded);
    }

    /// Whether a wave is in progress.
    ///
    /// A wave whose end time has passed is still in progress until [`Agenda::end_wave`].
    pub fn is_wave(&self) -> bool {
        self.vanished.is_wave()
    }

    /// Decides about vanished projects if their chain, wave or hold has ended.
    ///
    /// `n_recorded` is the number of projects with a recorded definition.
    pub fn end_wave(&mut self, now: Moment, n_recorded: usize) {
        let released = self.vanished.end(now, n_recorded);
        self.confirm(released, now);
    }

    /// The held removals, if there are any.
    pub fn held(&self) -> Option<Held> {
        self.vanished.held()
    }

    /// The held projects, in order.
    pub fn held_projects(&self) -> impl Iterator<Item = &ProjectKey> {
        self.vanished.held_projects()
    }

    /// Whether the removal of this project is held, or waits for the end of a chain or wave.
    pub fn holds(&self, key: &ProjectKey) -> bool {
        self.vanished.holds(key)
    }

    /// A counter of changes to the set of held projects.
    ///
    /// The counter stays if a hold ends, or if a project comes back or is no longer recorded.
    pub fn n_holds(&self) -> u64 {
        self.vanished.n_holds()
    }

    /// The projects whose accepted removal is not judged yet, for [`Agenda::remember`].
    pub fn accepted(&self) -> &BTreeSet<ProjectKey> {
        self.vanished.accepted()
    }

    /// Releases the held removals after an operator accepted them.
    pub fn accept(&mut self, now: Moment) {
        let released = self.vanished.accept();
        self.confirm(released, now);
    }

    /// Records the end of a full scan. A project without an entry has no missing files.
    pub fn scanned(&mut self, now: Moment) {
        let entries = &self.entries;
        let is_missing = |key: &ProjectKey| {
            let entry = entries.get(key);
            entry.is_some_and(|entry| entry.missing.is_some())
        };
        self.vanished.retain(now, is_missing);
    }

    /// Schedules the observations that confirm these removals, each at its settle time.
    ///
    /// The removals may have waited or been held for more than [`SETTLE_TIMES_MAX`] settle times.
    /// Even then, a hint since the last observation postpones them, because a file may be back.
    fn confirm(&mut self, released: Vec<ProjectKey>, now: Moment) {
        let settle_time = self.settle_time;
        let waited = settle_time.saturating_mul(CHAIN_LASTS);
        for key in released {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            if let Some(missing) = &mut entry.missing {
                missing.first_at = missing.first_at.max(now.saturating_sub(waited));
            }
            if let Some(at) = entry.settled_at(settle_time) {
                self.schedule(&key, at);
            }
        }
    }

    /// The time when the next project is due.
    pub fn next(&self) -> Option<Moment> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Whether an observation is due, or a missing file is not confirmed as removed.
    pub(crate) fn has_pending(&self, now: Moment) -> bool {
        let is_due = self.next().is_some_and(|next| next <= now);
        is_due || self.entries.values().any(|entry| entry.missing.is_some())
    }

    /// Sets whether projects may have vanished or moved before they could be observed.
    ///
    /// This is possible after a start, and while only scans find changes. Then even a few vanished
    /// projects are judged like a wave, because they may be part of a slow checkout.
    pub fn see_late(&mut self, sees_late: bool) {
        self.vanished.see_late(sees_late);
    }

    /// Holds the projects that vanish next, for instance in the next full scan.
    ///
    /// A restore of the repository may bring them back.
    pub fn expect_returns(&mut self, now: Moment) {
        self.vanished.expect_returns(now);
    }

    /// Whether no project needs to be observed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops all projects, before a full scan.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_time.clear();
        self.vanished.clear();
    }
}
