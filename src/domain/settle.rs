//! When to look at a project.
//!
//! Constraint: no clock. `now` is an argument, a [`Moment`] of any monotonic clock.
//!
//! A hint makes its project due at once: a completed creation is acted on immediately. What the
//! look finds missing counts only when the project has been quiet for the pause, so the look is
//! repeated then. What the look finds incomplete is looked at again after a delay that doubles,
//! for writers whose close nobody reports.

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
    /// Whether what is missing counts.
    pub removals: Removals,
    /// The origin of what will be inferred.
    pub origin: Origin,
    /// What made the daemon look, for a person.
    pub hint: String,
}

/// What a look left open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Something recorded is missing and did not count yet.
    pub removal: bool,
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
    /// When to look; none between [`Settle::due`] and [`Settle::looked`].
    look_at: Option<Moment>,
    /// How often it was looked at in vain since the last sign of activity.
    looks_in_vain: u32,
    origin: Origin,
    hint: String,
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
        let later: Vec<ProjectKey> = self.waiting.keys().cloned().collect();
        for key in later {
            // A look too many is harmless, and finds the right time for the next one.
            let active_at = self.waiting.get(&key).map(|waiting| waiting.active_at);
            if let Some(active_at) = active_at {
                self.schedule(&key, active_at);
            }
        }
    }

    /// There was activity in a project: look now, and let the pause begin anew.
    pub fn hint(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) {
        let waiting = self.entry(key, now, origin, hint);
        waiting.active_at = now;
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

    /// A project is to be compared although nothing is known to have happened in it; a pause that
    /// runs goes on.
    pub fn check(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) {
        self.entry(key, now, origin, hint);
        self.schedule(key, now);
    }

    fn entry(&mut self, key: &ProjectKey, now: Moment, origin: Origin, hint: &str) -> &mut Waiting {
        self.waiting.entry(key.clone()).or_insert_with(|| Waiting {
            active_at: now,
            look_at: None,
            looks_in_vain: 0,
            origin,
            hint: hint.to_owned(),
        })
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
    /// [`Settle::looked`].
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
            let quiet = now.saturating_sub(waiting.active_at) >= self.pause;
            due.push(Due {
                key,
                removals: if quiet {
                    Removals::Count
                } else {
                    Removals::Wait
                },
                origin: waiting.origin,
                hint: waiting.hint.clone(),
            });
        }
        due
    }

    /// A look at a due project is done and recorded, and left this open.
    pub fn looked(&mut self, key: &ProjectKey, now: Moment, open: Open) {
        let Some(waiting) = self.waiting.get_mut(key) else {
            return;
        };
        let mut again = None;
        if open.removal {
            again = Some(waiting.active_at.saturating_add(self.pause));
        }
        if open.unclear {
            let delay = AGAIN_FIRST
                .saturating_mul(1_u32.checked_shl(waiting.looks_in_vain).unwrap_or(u32::MAX))
                .min(AGAIN_MAX);
            waiting.looks_in_vain = waiting.looks_in_vain.saturating_add(1);
            let at = now.saturating_add(delay);
            again = Some(again.map_or(at, |sooner: Moment| sooner.min(at)));
        }
        match (again, waiting.look_at) {
            (Some(at), _) => self.schedule(key, at),
            // A hint came in between.
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
