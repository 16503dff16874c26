//! The projects that vanished and are not judged yet.
//!
//! Constraint: no clock, and no reading. [`super::wave`] has the rules.

use std::collections::{BTreeMap, BTreeSet};

use super::project::{Observed, ObservedFile, ProjectKey, Recorded, Role};
use super::settle::Moment;
use super::wave::{Census, Input, State, Times, WAVE_LASTS};

/// The definition of a project, as an observation shows it beside the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// None is on record, and none is there.
    #[default]
    Absent,
    /// One is there that was not on record, or that is not complete yet.
    Appears,
    /// The recorded one is there.
    Stays,
    /// The recorded one is gone.
    Gone,
    /// Another project's definition is in its place.
    Replaced,
    /// The recorded one is neither readable nor gone.
    Unclear,
    /// It is no longer on record here: it was deleted, or it moved.
    Left,
}

impl Presence {
    /// Compares the record before and after an observation with it.
    pub fn of(before: &Recorded, after: &Recorded, observed: &Observed) -> Self {
        let is_begun = observed.files.values().any(
            |file| matches!(file, ObservedFile::Invalid { role, .. } if *role == Role::Definition),
        );
        match (&before.definition, &after.definition) {
            (None, Some(_)) => Presence::Appears,
            (None, None) if is_begun => Presence::Appears,
            (None, None) => Presence::Absent,
            (Some(_), None) => Presence::Left,
            (Some(_), Some(recorded)) => match observed.definition() {
                Some(seen) if seen.hash == recorded.hash => Presence::Stays,
                Some(_) => Presence::Replaced,
                None if observed.definition_is_gone() => Presence::Gone,
                None => Presence::Unclear,
            },
        }
    }
}

/// Why removals are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBecause {
    /// A wave took more than half of the projects; they are held until then.
    MoreThanHalf(Moment),
    /// All projects vanished.
    All,
}

/// The held removals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The number of projects.
    pub n: usize,
    /// The number of recorded projects when that was decided.
    pub n_recorded: usize,
    /// Why they are held.
    pub because: HeldBecause,
}

/// Projects that vanished and wait together, with their last [`Presence`].
#[derive(Debug, Default)]
struct Group {
    state: State,
    projects: BTreeMap<ProjectKey, Presence>,
}

impl Group {
    fn n_gone(&self) -> usize {
        let presences = self.projects.values();
        presences
            .filter(|presence| **presence == Presence::Gone)
            .count()
    }
}

/// The projects that vanished and are not judged yet.
#[derive(Debug)]
pub struct Vanished {
    times: Times,
    /// Those that vanish now: calm, a chain or a wave.
    current: Group,
    /// Those that are held. What vanishes later is judged without them.
    held: Group,
    /// Projects whose removal may be judged.
    released: BTreeSet<ProjectKey>,
    /// Of these, the ones that an operator accepted.
    accepted: BTreeSet<ProjectKey>,
    /// The projects that were held for an operator when the record was opened.
    held_before: BTreeSet<ProjectKey>,
    n_recorded: usize,
}

impl Vanished {
    pub(super) fn new(times: Times) -> Self {
        Self {
            times,
            current: Group::default(),
            held: Group::default(),
            released: BTreeSet::new(),
            accepted: BTreeSet::new(),
            held_before: BTreeSet::new(),
            n_recorded: 0,
        }
    }

    pub(super) fn set_times(&mut self, times: Times) {
        self.times = times;
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.times);
    }

    pub(super) fn remember(
        &mut self,
        held: impl IntoIterator<Item = ProjectKey>,
        accepted: impl IntoIterator<Item = ProjectKey>,
    ) {
        self.held_before = held.into_iter().collect();
        self.accepted = accepted.into_iter().collect();
        self.released.clone_from(&self.accepted);
    }

    /// Whether the removal of a project has to wait for others.
    pub(super) fn holds(&self, key: &ProjectKey) -> bool {
        self.current.projects.contains_key(key) || self.held.projects.contains_key(key)
    }

    /// The number of projects that vanish now. Held ones are not counted.
    pub(super) fn n_vanished(&self) -> usize {
        self.current.projects.len()
    }

    /// The time of the next decision.
    pub(super) fn ends_at(&self) -> Option<Moment> {
        let groups = [&self.current, &self.held].into_iter();
        groups
            .filter_map(|group| group.state.ends_at(self.times))
            .min()
    }

    /// The time when a wave is over, if that is now. None if it lasts too long already.
    pub(super) fn wave_is_over_since(&self, now: Moment) -> Option<Moment> {
        match self.current.state {
            State::Wave { began, .. } if now < began.saturating_add(WAVE_LASTS) => {
                let ends_at = self.current.state.ends_at(self.times);
                ends_at.filter(|at| *at <= now)
            }
            _ => None,
        }
    }

    /// Notes an observation of a project.
    pub(super) fn observed(&mut self, key: &ProjectKey, presence: Presence, now: Moment) {
        match presence {
            Presence::Absent => {}
            Presence::Appears => self.input(Input::Appeared, now),
            Presence::Gone | Presence::Replaced => self.vanished(key, presence, now),
            Presence::Unclear => {
                // It is not back, so it ends no hold.
                if let Some(known) = self.held.projects.get_mut(key) {
                    *known = presence;
                } else if self.holds(key) || self.held_before.contains(key) {
                    self.current.projects.insert(key.clone(), presence);
                }
            }
            Presence::Stays | Presence::Left => self.returned(key, now),
        }
    }

    fn vanished(&mut self, key: &ProjectKey, presence: Presence, now: Moment) {
        if self.released.contains(key) {
            return;
        }
        if let Some(known) = self.held.projects.get_mut(key) {
            *known = presence;
            return;
        }
        let is_new = self
            .current
            .projects
            .insert(key.clone(), presence)
            .is_none();
        if is_new || self.current.state == State::Calm {
            let n = self.current.projects.len();
            self.input(Input::Vanished { n }, now);
        }
    }

    fn returned(&mut self, key: &ProjectKey, now: Moment) {
        self.released.remove(key);
        self.accepted.remove(key);
        if self.held_before.contains(key) {
            self.held_before.clear();
        }
        if self.current.projects.remove(key).is_some() {
            self.input(Input::Returned, now);
            if self.current.projects.is_empty() {
                self.input(Input::Emptied, now);
            }
        }
        if self.held.projects.remove(key).is_none() {
            return;
        }
        let input = match self.held.projects.is_empty() {
            true => Input::Emptied,
            false => Input::Returned,
        };
        self.held.state = self.held.state.after(input, now, self.times);
        if matches!(self.held.state, State::Wave { .. }) {
            // The others are judged with those that vanish now.
            let held = std::mem::take(&mut self.held);
            self.current.projects.extend(held.projects);
            self.current.state = held.state;
        }
    }

    /// Decides about the groups whose time has come. Returns the projects to judge.
    pub(super) fn end(&mut self, now: Moment, n_recorded: usize) -> Vec<ProjectKey> {
        let is_due = |state: State| state.ends_at(self.times).is_some_and(|at| now >= at);
        let (ends_current, ends_hold) = (is_due(self.current.state), is_due(self.held.state));
        let mut released = Vec::new();
        self.n_recorded = n_recorded;
        let mut census = Census {
            n_gone: self.current.n_gone(),
            n_gone_in_all: self.current.n_gone() + self.held.n_gone(),
            n_recorded,
            was_held: false,
        };
        if ends_current {
            let is_waiting = |key: &ProjectKey| self.current.projects.contains_key(key);
            let mut held_before = self.held_before.iter();
            census.was_held = !self.held_before.is_empty() && held_before.all(is_waiting);
            self.held_before.clear();
            self.input(Input::Ended(census), now);
            let ended = std::mem::take(&mut self.current);
            match (ended.state, self.held.state) {
                (State::Calm, _) => released.extend(ended.projects.into_keys()),
                (state, hold) => {
                    self.held.projects.extend(ended.projects);
                    self.held.state = state.later_hold(hold);
                }
            }
        }
        if ends_hold {
            let is_due = self
                .held
                .state
                .ends_at(self.times)
                .is_some_and(|at| now >= at);
            census.was_held = false;
            if is_due {
                self.held.state = self.held.state.after(Input::Ended(census), now, self.times);
            }
            if self.held.state == State::Calm {
                released.extend(std::mem::take(&mut self.held).projects.into_keys());
            }
        }
        self.released.extend(released.iter().cloned());
        released
    }

    /// Accepts the held projects. Returns them, to be judged.
    pub(super) fn accept(&mut self) -> Vec<ProjectKey> {
        let released: Vec<ProjectKey> = std::mem::take(&mut self.held)
            .projects
            .into_keys()
            .collect();
        self.accepted.extend(released.iter().cloned());
        self.released.extend(released.iter().cloned());
        released
    }

    /// Drops what is known of projects that are not missing.
    pub(super) fn retain(&mut self, is_missing: impl Fn(&ProjectKey) -> bool) {
        self.released.retain(|key| is_missing(key));
        self.accepted.retain(|key| is_missing(key));
        if self.current.projects.is_empty() {
            self.held_before.clear();
        }
    }

    /// The held removals, if there are any.
    pub(super) fn held(&self) -> Option<Held> {
        let because = match self.held.state {
            State::Calm | State::Chain { .. } | State::Wave { .. } => return None,
            State::Held { until } => HeldBecause::MoreThanHalf(until),
            State::HeldForOperator => HeldBecause::All,
        };
        Some(Held {
            n: self.held.projects.len(),
            n_recorded: self.n_recorded,
            because,
        })
    }

    /// The held projects, in order.
    pub(super) fn held_projects(&self) -> impl Iterator<Item = &ProjectKey> {
        self.held.projects.keys()
    }

    /// The projects that are held for an operator.
    pub(super) fn held_for_operator(&self) -> Vec<ProjectKey> {
        match self.held.state {
            State::HeldForOperator => self.held.projects.keys().cloned().collect(),
            _ => self.held_before.iter().cloned().collect(),
        }
    }

    /// The accepted projects that are not judged yet.
    pub(super) fn accepted(&self) -> &BTreeSet<ProjectKey> {
        &self.accepted
    }

    fn input(&mut self, input: Input, now: Moment) {
        self.current.state = self.current.state.after(input, now, self.times);
    }
}
