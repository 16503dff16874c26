//! When to look at a project.
//!
//! Constraint: no clock. `now` is an argument, a [`Moment`] of any monotonic clock.
//!
//! A hint makes its project due at once: a completed creation is acted on immediately. What the
//! look finds missing counts only when the project has been quiet for the pause, so the look is
//! repeated then. Hints come late, or not at all, so that no hint is not yet quiet: what is missing
//! counts only if a look after the last hint found it missing and another one, no sooner than a
//! pause after both, still does. A look that finds more missing than the one before begins the
//! pause anew. What the look finds incomplete is looked at again after a delay that doubles, for
//! writers whose close nobody reports.
//!
//! The round, for one caller at a time:
//!
//! 1. Take in what was hinted, by [`Settle::hint`] and [`Settle::check`].
//! 2. Take what is [`Settle::due`] and look at it.
//! 3. For each arrival ([`super::moves::Look::arrival`]) look also at the projects on record in its
//!    organization with that content, until there are no more.
//! 4. Ask for each look whether what is missing ([`super::infer::missing`]) counts:
//!    [`Settle::removals`].
//! 5. Infer ([`super::moves::infer_all`]) and record.
//! 6. Say of each look, whether it was due or joined in step 3, what it left open:
//!    [`Settle::looked`]. Only then let each project that is awaited elsewhere
//!    ([`super::moves::Change::awaited_at`]) [`Settle::follow`] that place.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::event::Origin;
use super::infer::Removals;
use super::project::ProjectKey;

/// A moment of a monotonic clock, as the time since that clock's start.
pub type Moment = Duration;

/// The first delay before an incomplete file is looked at again without a hint.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
/// The longest such delay.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// A project to look at now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The project.
    pub key: ProjectKey,
    /// The origin of what will be inferred.
    pub origin: Origin,
    /// What made the daemon look, for a person.
    pub hint: String,
}

/// What a look left open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// What is missing and did not count yet ([`super::infer::Inference::missing`]).
    pub missing: BTreeSet<String>,
    /// Something is incomplete or unreadable and may heal.
    pub unclear: bool,
}

/// The projects that were hinted at and are not at rest. At rest a project costs nothing here.
#[derive(Debug)]
pub struct Settle {
    pause: Duration,
    waiting: HashMap<ProjectKey, Waiting>,
    agenda: BTreeSet<(Moment, ProjectKey)>,
}

#[derive(Debug)]
struct Waiting {
    /// The last sign of activity.
    active_at: Moment,
    /// What the last look found missing.
    missing: Option<Missing>,
    /// When to look; none between [`Settle::due`] and [`Settle::looked`].
    look_at: Option<Moment>,
    /// The origin handed out; none but between [`Settle::due`] and [`Settle::looked`].
    taken: Option<Origin>,
    /// Whether a look was taken with this origin.
    origin_served: bool,
    /// How often it was looked at in vain since the last sign of activity.
    looks_in_vain: u32,
    origin: Origin,
    hint: String,
}

#[derive(Debug)]
struct Missing {
    paths: BTreeSet<String>,
    /// Since when every look has found it so; none where no look was taken since the last hint.
    since: Option<Moment>,
    /// The origin of the look that first found something missing; what went while the daemon was
    /// down is inferred as that, whatever else happens before it counts.
    origin: Origin,
}

impl Waiting {
    fn new(now: Moment, origin: Origin, hint: &str) -> Self {
        Self {
            active_at: now,
            missing: None,
            look_at: None,
            taken: None,
            origin_served: false,
            looks_in_vain: 0,
            origin,
            hint: hint.to_owned(),
        }
    }

    /// Since when the project has been quiet, if something is missing.
    fn quiet_since(&self) -> Option<Moment> {
        Some(self.active_at.max(self.missing.as_ref()?.since?))
    }

    fn is_quiet(&self, now: Moment, pause: Duration) -> bool {
        self.quiet_since()
            .is_some_and(|since| now >= since.saturating_add(pause))
    }
}

impl Settle {
    /// Nothing hinted at yet; a removal counts after `pause` without activity.
    pub fn new(pause: Duration) -> Self {
        Self {
            pause,
            waiting: HashMap::new(),
            agenda: BTreeSet::new(),
        }
    }

    /// Changes the pause; what waits is judged by the new one.
    pub fn set_pause(&mut self, pause: Duration) {
        self.pause = pause;
        let sooner: Vec<(ProjectKey, Moment)> = self
            .waiting
            .iter()
            // One that is being looked at is scheduled afterwards.
            .filter(|(_, waiting)| waiting.look_at.is_some())
            .filter_map(|(key, waiting)| {
                let since = waiting.quiet_since()?;
                Some((key.clone(), since.saturating_add(pause)))
            })
            .collect();
        // Of a longer pause the old look stays: it is one too many, and finds the right time for
        // the next one.
        for (key, at) in sooner {
            self.schedule(&key, at);
        }
    }

    /// There was activity in a project: look now, and let the pause begin anew.
    pub fn hint(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) {
        let waiting = self.entry(key, now, origin, hint);
        waiting.active_at = waiting.active_at.max(now);
        if let Some(missing) = &mut waiting.missing {
            missing.since = None;
        }
        waiting.looks_in_vain = 0;
        waiting.hint = hint.to_owned();
        self.schedule(key, now);
    }

    /// There was activity in a project that goes on: look after `delay`, or when the next hint says
    /// so.
    pub fn hint_later(
        &mut self,
        key: &ProjectKey,
        now: Moment,
        delay: Duration,
        origin: Origin,
        hint: &str,
    ) {
        let waiting = self.entry(key, now, origin, hint);
        waiting.active_at = now;
        waiting.looks_in_vain = 0;
        waiting.hint = hint.to_owned();
        self.schedule(key, now.saturating_add(delay));
    }

    /// There was activity in a project that changed nothing of it: a pause that runs begins anew.
    pub fn active(&mut self, key: &ProjectKey, now: Moment) {
        if let Some(waiting) = self.waiting.get_mut(key)
            && waiting.missing.is_some()
        {
            waiting.active_at = now;
        }
    }

    /// A project is to be compared although nothing is known to have happened in it; a pause that
    /// runs goes on.
    pub fn check(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) {
        self.entry(key, now, origin, hint);
        self.schedule(key, now);
    }

    /// Lets what is missing of a project count only after the pause of the place to which it went,
    /// so that the two are judged together and the project is not deleted in between.
    pub fn follow(&mut self, key: &ProjectKey, place: &ProjectKey) {
        let Some(since) = self.waiting.get(place).and_then(Waiting::quiet_since) else {
            return;
        };
        let Some(waiting) = self.waiting.get_mut(key) else {
            return;
        };
        // After it by the least that a clock can tell, so that the place is due first.
        let behind = since.saturating_add(Duration::from_nanos(1));
        waiting.active_at = waiting.active_at.max(behind);
    }

    fn entry(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) -> &mut Waiting {
        let waiting = self
            .waiting
            .entry(key.clone())
            .or_insert_with(|| Waiting::new(now, origin, hint));
        // What a look that is still to be taken finds may be older than this hint.
        if waiting.origin_served {
            waiting.origin = origin;
            waiting.origin_served = false;
        }
        waiting
    }

    /// Looks no later than `at`.
    fn schedule(&mut self, key: &ProjectKey, at: Moment) {
        let Some(waiting) = self.waiting.get_mut(key) else {
            return;
        };
        match waiting.look_at {
            Some(sooner) if sooner <= at => return,
            Some(later) => {
                self.agenda.remove(&(later, key.clone()));
            }
            None => {}
        }
        waiting.look_at = Some(at);
        self.agenda.insert((at, key.clone()));
    }

    /// Takes up to `limit` projects that are due, longest due first. Each has to come back by
    /// [`Settle::looked`] before more are taken.
    pub fn due(&mut self, now: Moment, limit: usize) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < limit {
            let Some((at, _)) = self.agenda.first() else {
                break;
            };
            if *at > now {
                break;
            }
            let Some((_, key)) = self.agenda.pop_first() else {
                break;
            };
            let Some(waiting) = self.waiting.get_mut(&key) else {
                continue;
            };
            waiting.look_at = None;
            let origin = match &waiting.missing {
                Some(missing) if waiting.is_quiet(now, self.pause) => missing.origin,
                _ => waiting.origin,
            };
            waiting.taken = Some(origin);
            waiting.origin_served = true;
            due.push(Due {
                key,
                origin,
                hint: waiting.hint.clone(),
            });
        }
        due
    }

    /// Whether what a look at this moment finds missing counts.
    pub fn removals(&self, key: &ProjectKey, now: Moment, missing: &BTreeSet<String>) -> Removals {
        let counts = self.waiting.get(key).is_some_and(|waiting| {
            let was_missing = |before: &Missing| missing.is_subset(&before.paths);
            waiting.is_quiet(now, self.pause) && waiting.missing.as_ref().is_some_and(was_missing)
        });
        if counts {
            Removals::Count
        } else {
            Removals::Wait
        }
    }

    /// A look at a project, due or not, is done and recorded, and left this open.
    pub fn looked(&mut self, key: &ProjectKey, now: Moment, open: Open) {
        if !open.missing.is_empty() || open.unclear {
            // A look that was not due may be the first to find something open.
            self.waiting.entry(key.clone()).or_insert_with(|| {
                Waiting::new(now, Origin::Live, "found open beside another project")
            });
        }
        let pause = self.pause;
        let Some(waiting) = self.waiting.get_mut(key) else {
            return;
        };
        let taken = waiting.taken.take();
        // The look may have been over before that hint, which has its own look to come.
        let was_hinted_meanwhile = taken.is_some() && waiting.look_at.is_some();
        // What was left open although it could have counted begins anew as well.
        let could_count = waiting.is_quiet(now, pause);
        let before = waiting.missing.take();
        if !open.missing.is_empty() {
            let goes_on = before.as_ref().and_then(|before| {
                let goes_on = open.missing.is_subset(&before.paths) && !could_count;
                before.since.filter(|_| goes_on)
            });
            waiting.missing = Some(Missing {
                since: (!was_hinted_meanwhile).then_some(goes_on.unwrap_or(now)),
                origin: before.map_or(taken.unwrap_or(waiting.origin), |before| before.origin),
                paths: open.missing,
            });
        }
        let mut again = waiting
            .quiet_since()
            .map(|since| since.saturating_add(pause));
        if open.unclear {
            let factor = 1_u32.checked_shl(waiting.looks_in_vain).unwrap_or(u32::MAX);
            let delay = AGAIN_FIRST.saturating_mul(factor).min(AGAIN_MAX);
            waiting.looks_in_vain = waiting.looks_in_vain.saturating_add(1);
            let at = now.saturating_add(delay);
            again = Some(again.map_or(at, |sooner| sooner.min(at)));
        }
        match (again, waiting.look_at) {
            (Some(at), _) => self.schedule(key, at),
            // A hint came in between, or a joined look came before the one that is due.
            (None, Some(_)) => {}
            (None, None) => {
                self.waiting.remove(key);
            }
        }
    }

    /// When the next project is due.
    pub fn next(&self) -> Option<Moment> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// How many projects are not at rest.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether all projects are at rest.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets everything that waits; used before a comparison of everything.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.agenda.clear();
    }
}
