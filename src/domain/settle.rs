//! Decides when to observe a project, and when its removals are confirmed.
//!
//! Constraint: no clock. `now` is an argument, a [`Moment`] of any monotonic clock.
//!
//! A hint makes its project due at once, so that a completed creation is acted on immediately.
//! Missing files count as removed only when the project has been idle for the settle time, so the
//! project is observed again then. Hints may be late or lost, so the absence of hints does not prove
//! that a project is idle. Two observations have to find the files missing: one after the last hint,
//! and one at least a settle time after both. If the second one finds more files missing, the settle
//! time begins anew. Activity that goes on postpones a removal by no more than 20 settle times. A
//! project with an invalid file is observed again after a delay that doubles, since the end of a
//! write is not always reported.
//!
//! The caller's step:
//!
//! 1. Pass in hints by [`Agenda::hint`] and [`Agenda::check`].
//! 2. Take due projects by [`Agenda::due`] and observe them.
//! 3. For each arrival ([`super::moves::arrival`]) observe also the recorded projects of its
//!    organization with that identity, until there are no more.
//! 4. For each comparison, pass the missing files ([`super::infer::missing`]) to
//!    [`Agenda::removals`].
//! 5. Infer ([`super::moves::infer_all`]) and record.
//! 6. Report the outcome of each observation, also those of step 3, by [`Agenda::observed`]. Then
//!    call [`Agenda::confirm_after`] for each project that moves to a location which waits itself
//!    ([`super::moves::Conclusion::moves_to`]).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::event::Origin;
use super::infer::Removals;
use super::project::ProjectKey;

/// A time of a monotonic clock, measured from that clock's start.
pub type Moment = Duration;

/// The first delay before a project with an invalid file is observed again without a hint.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest such delay.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The most settle times that activity postpones a removal by.
const SETTLE_TIMES_MAX: u32 = 20;

/// A project to observe now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The project.
    pub key: ProjectKey,
    /// The origin of the events that are inferred.
    pub origin: Origin,
    /// The reason for the observation, as shown to people.
    pub hint: String,
}

/// The part of an observation that has to be observed again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unresolved {
    /// Missing files whose removal is not confirmed yet ([`super::infer::Inference::missing`]).
    pub missing: BTreeSet<String>,
    /// Whether a file is invalid that may become valid without a hint.
    pub retry: bool,
}

/// Projects that are to be observed, now or later. Other projects take no memory here.
#[derive(Debug)]
pub struct Agenda {
    settle_time: Duration,
    entries: HashMap<ProjectKey, Entry>,
    by_time: BTreeSet<(Moment, ProjectKey)>,
}

#[derive(Debug)]
struct Entry {
    /// The time of the last activity.
    active_at: Moment,
    /// The missing files of the last observation.
    missing: Option<Missing>,
    /// The time of the next observation; none between [`Agenda::due`] and [`Agenda::observed`].
    observe_at: Option<Moment>,
    /// The origin that [`Agenda::due`] returned; none after [`Agenda::observed`].
    taken: Option<Origin>,
    /// Whether [`Agenda::due`] has returned `origin` already.
    origin_served: bool,
    /// The number of observations with invalid files since the last activity.
    n_retries: u32,
    origin: Origin,
    hint: String,
}

#[derive(Debug)]
struct Missing {
    paths: BTreeSet<String>,
    /// The time since which some file is missing, whatever happens beside it.
    first_at: Moment,
    /// The time since which every observation found these files missing; none if there was no
    /// observation since the last hint.
    since: Option<Moment>,
    /// The origin of the first observation that found a file missing. A file that was removed while
    /// the daemon was down keeps that origin, whatever happens before the removal is confirmed.
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
            n_retries: 0,
            origin,
            hint: hint.to_owned(),
        }
    }

    /// The time since which the project has been idle, if files are missing.
    fn idle_since(&self) -> Option<Moment> {
        Some(self.active_at.max(self.missing.as_ref()?.since?))
    }

    /// The time when missing files count as removed, if there are any.
    ///
    /// It comes a settle time after the last activity. Activity that goes on, such as a log file
    /// beside the missing ones, postpones it by no more than [`SETTLE_TIMES_MAX`].
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
    /// An empty agenda. Removals are confirmed after `settle_time` without activity.
    pub fn new(settle_time: Duration) -> Self {
        Self {
            settle_time,
            entries: HashMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// Changes the settle time, also for removals that are not confirmed yet.
    pub fn set_settle_time(&mut self, settle_time: Duration) {
        self.settle_time = settle_time;
        let sooner: Vec<(ProjectKey, Moment)> = self
            .entries
            .iter()
            // A project that is being observed is scheduled afterwards.
            .filter(|(_, entry)| entry.observe_at.is_some())
            .filter_map(|(key, entry)| Some((key.clone(), entry.settled_at(settle_time)?)))
            .collect();
        // With a longer settle time the old observation stays. It is one too many, and schedules the
        // next one at the right time.
        for (key, at) in sooner {
            self.schedule(&key, at);
        }
    }

    /// Notes activity in a project: it is due now, and its settle time begins anew.
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

    /// Notes activity that goes on: the project is due after `delay`, or by the next hint.
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
        entry.n_retries = 0;
        entry.hint = hint.to_owned();
        self.schedule(key, now.saturating_add(delay));
    }

    /// Notes activity that changed no file of the project: a running settle time begins anew.
    pub fn activity(&mut self, key: &ProjectKey, now: Moment) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.missing.is_some()
        {
            entry.active_at = now;
        }
    }

    /// Makes a project due without activity: a running settle time goes on.
    pub fn check(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) {
        self.entry(key, now, origin, hint);
        self.schedule(key, now);
    }

    /// Confirms removals of a project only after those of the location that it moves to.
    ///
    /// So both are judged together, and the project is not deleted in between.
    pub fn confirm_after(&mut self, key: &ProjectKey, moves_to: &ProjectKey) {
        let Some(since) = self.entries.get(moves_to).and_then(Entry::idle_since) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        // Later by the least that a clock can tell, so that the other location is due first.
        let behind = since.saturating_add(Duration::from_nanos(1));
        entry.active_at = entry.active_at.max(behind);
    }

    fn entry(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) -> &mut Entry {
        let entry = self
            .entries
            .entry(key.clone())
            .or_insert_with(|| Entry::new(now, origin, hint));
        // An observation that is still to come may find changes that are older than this hint.
        if entry.origin_served {
            entry.origin = origin;
            entry.origin_served = false;
        }
        entry
    }

    /// Makes a project due no later than `at`.
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

    /// Takes up to `limit` due projects, longest due first.
    ///
    /// Each has to come back by [`Agenda::observed`] before more are taken.
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

    /// Whether the missing files of an observation at this time count as removed.
    pub fn removals(&self, key: &ProjectKey, now: Moment, missing: &BTreeSet<String>) -> Removals {
        let is_confirmed = self.entries.get(key).is_some_and(|entry| {
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

    /// Notes that an observation, due or not, is recorded, and what it left unresolved.
    pub fn observed(&mut self, key: &ProjectKey, now: Moment, unresolved: Unresolved) {
        if !unresolved.missing.is_empty() || unresolved.retry {
            // An observation that was not due may be the first to find a file missing or invalid.
            self.entries
                .entry(key.clone())
                .or_insert_with(|| Entry::new(now, Origin::Live, "observed with another project"));
        }
        let settle_time = self.settle_time;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let taken = entry.taken.take();
        // The observation may be older than that hint, which has its own observation to come.
        let was_hinted_meanwhile = taken.is_some() && entry.observe_at.is_some();
        // A removal that could have been confirmed and was not begins anew as well.
        let was_settled = entry.is_settled(now, settle_time);
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
        let mut again = entry.settled_at(settle_time);
        if unresolved.retry {
            let factor = 1_u32.checked_shl(entry.n_retries).unwrap_or(u32::MAX);
            let delay = RETRY_FIRST.saturating_mul(factor).min(RETRY_MAX);
            entry.n_retries = entry.n_retries.saturating_add(1);
            let at = now.saturating_add(delay);
            again = Some(again.map_or(at, |sooner| sooner.min(at)));
        }
        match (again, entry.observe_at) {
            (Some(at), _) => self.schedule(key, at),
            // A hint came in between, or the project was observed before it was due.
            (None, Some(_)) => {}
            (None, None) => {
                self.entries.remove(key);
            }
        }
    }

    /// The time when the next project is due.
    pub fn next(&self) -> Option<Moment> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Whether no project is to be observed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops all projects, before a full scan.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_time.clear();
    }
}
