//! Keeps the projects that vanished and are not judged yet.
//!
//! Constraint: this module reads no clock and no store. [`super::wave`] has the rules.

use std::collections::{BTreeMap, BTreeSet};

use super::project::{Observed, ObservedFile, ProjectKey, Recorded, Role};
use super::settle::Moment;
use super::wave::{Census, Input, State, Times, WAVE_LASTS};

/// Whether a project has a definition now, compared with the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// No definition was or is recorded. One may exist that waits to be imported.
    #[default]
    Absent,
    /// A definition exists that was not recorded. It may be incomplete.
    Appears,
    /// A definition was recorded, and the observed definition is recorded now.
    Stays,
    /// The recorded definition is gone.
    Gone,
    /// Another project's definition replaced the recorded one.
    Replaced,
    /// The recorded definition cannot be read, but may still exist.
    Unclear,
    /// The project was deleted or moved, so its definition is no longer recorded here.
    ///
    /// The engine also uses this for a project that arrived in another organization and is not
    /// deleted here yet.
    Left,
}

impl Presence {
    /// Compares an observation with the records before and after it.
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
    /// More than half of the projects vanished, or vanished projects may come back.
    ///
    /// The hold ends at this time.
    MoreThanHalf(Moment),
    /// All projects vanished.
    All,
}

/// The number of held removals, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The number of projects whose removals are held.
    pub n: usize,
    /// The number of recorded projects before the last held chain or wave began.
    pub n_recorded: usize,
    /// Why the removals are held.
    pub because: HeldBecause,
}

/// Held removals of an earlier run; see [`super::settle::Agenda::remember`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBefore {
    /// The projects that were held. Some may be back, and some may no longer be recorded.
    pub projects: Vec<ProjectKey>,
    /// The value of [`Held::n_recorded`] in that run.
    pub n_recorded: usize,
    /// Why the removals are held.
    pub because: HeldBecause,
}

/// Vanished projects that are judged together, with their last [`Presence`].
#[derive(Debug, Default)]
struct Group {
    state: State,
    projects: BTreeMap<ProjectKey, Presence>,
    /// The projects that appeared during the wave. Each project extends the wave only once.
    appeared: BTreeSet<ProjectKey>,
    /// The number of recorded projects before the first project vanished, if known.
    n_recorded: Option<usize>,
    /// The value of [`Census::n_vanished`].
    n_vanished: usize,
}

impl Group {
    fn n_gone(&self) -> usize {
        let presences = self.projects.values();
        presences
            .filter(|presence| **presence == Presence::Gone)
            .count()
    }

    fn reset_if_empty(&mut self) {
        if self.projects.is_empty() {
            self.state = State::Calm;
        }
    }
}

/// The projects that vanished and are not judged yet.
#[derive(Debug)]
pub struct Vanished {
    times: Times,
    /// The projects of the current chain or wave.
    current: Group,
    /// The held projects. Projects that vanish later are judged separately.
    ///
    /// Held projects that were not observed since a restart have [`Presence::Absent`].
    held: Group,
    /// See [`super::settle::Agenda::n_holds`].
    n_holds: u64,
    /// Projects whose removal may be judged now.
    released: BTreeSet<ProjectKey>,
    /// The released projects whose removal an operator accepted.
    accepted: BTreeSet<ProjectKey>,
    n_recorded: usize,
    /// The number of recorded projects when the full scan in progress began.
    ///
    /// `None` after the scan, or if the number was zero. The scan may import projects before it
    /// finds that other projects vanished.
    n_before_scan: Option<usize>,
    /// Whether projects may have vanished or moved before they could be observed.
    sees_late: bool,
    /// Whether missing projects may come back, because the repository is being restored.
    may_return: bool,
}

impl Vanished {
    pub(super) fn new(times: Times) -> Self {
        Self {
            times,
            current: Group::default(),
            held: Group::default(),
            n_holds: 0,
            released: BTreeSet::new(),
            accepted: BTreeSet::new(),
            n_recorded: 0,
            n_before_scan: None,
            sees_late: false,
            may_return: false,
        }
    }

    /// Holds the projects that vanish next, because they may come back.
    ///
    /// Extends a current hold that has an end.
    pub(super) fn expect_returns(&mut self, now: Moment) {
        self.may_return = true;
        if self.held.state != State::HeldForOperator {
            self.held.state = self.held.state.after(Input::Returned, now, self.times);
        }
    }

    pub(super) fn see_late(&mut self, sees_late: bool) {
        self.sees_late = sees_late;
    }

    pub(super) fn set_times(&mut self, times: Times, now: Moment) {
        self.times = times;
        self.held.state = self.held.state.with_hold_within(now, times);
    }

    pub(super) fn clear(&mut self) {
        let n_holds = self.n_holds.saturating_add(1);
        let sees_late = self.sees_late;
        *self = Self::new(self.times);
        self.n_holds = n_holds;
        self.sees_late = sees_late;
    }

    pub(super) fn remember(
        &mut self,
        held: Option<HeldBefore>,
        accepted: impl IntoIterator<Item = ProjectKey>,
        now: Moment,
    ) {
        if let Some(held) = held {
            let state = match held.because {
                HeldBecause::MoreThanHalf(until) => State::Held { until },
                HeldBecause::All => State::HeldForOperator,
            };
            self.held.state = state.with_hold_within(now, self.times);
            let projects = held.projects.into_iter();
            self.held.projects = projects.map(|key| (key, Presence::Absent)).collect();
            self.n_recorded = held.n_recorded;
        }
        self.accepted = accepted.into_iter().collect();
        self.released.clone_from(&self.accepted);
    }

    /// Whether the removal of this project must wait, because the project is in a group.
    pub(super) fn holds(&self, key: &ProjectKey) -> bool {
        self.current.projects.contains_key(key) || self.held.projects.contains_key(key)
    }

    /// Whether there is no current chain or wave.
    pub(super) fn is_calm(&self) -> bool {
        self.current.state == State::Calm
    }

    /// Records the number of recorded projects before the first project vanishes.
    ///
    /// During a scan, the number is at most that of [`Vanished::scan_begins`].
    pub(super) fn begins_with(&mut self, n_recorded: usize) {
        let n_before_scan = self.n_before_scan.unwrap_or(n_recorded);
        self.current.n_recorded = Some(n_recorded.min(n_before_scan));
    }

    /// Records the number of recorded projects when a full scan begins.
    ///
    /// If the scan begins again before its end, the smaller number is kept.
    pub(super) fn scan_begins(&mut self, n_recorded: usize) {
        if n_recorded > 0 {
            let before = self.n_before_scan.unwrap_or(n_recorded);
            self.n_before_scan = Some(before.min(n_recorded));
        }
    }

    /// Whether the current group is a wave.
    pub(super) fn is_wave(&self) -> bool {
        matches!(self.current.state, State::Wave { .. })
    }

    /// The time of the next decision.
    pub(super) fn ends_at(&self) -> Option<Moment> {
        let groups = [&self.current, &self.held].into_iter();
        groups
            .filter_map(|group| group.state.ends_at(self.times))
            .min()
    }

    /// Returns the end of a wave that is over, unless its maximum duration has passed.
    pub(super) fn wave_is_over_since(&self, now: Moment) -> Option<Moment> {
        match self.current.state {
            State::Wave { began, .. } if now < began.saturating_add(WAVE_LASTS) => {
                let ends_at = self.current.state.ends_at(self.times);
                ends_at.filter(|at| *at <= now)
            }
            _ => None,
        }
    }

    pub(super) fn observed(&mut self, key: &ProjectKey, presence: Presence, now: Moment) {
        if matches!(presence, Presence::Absent | Presence::Appears) {
            // A crash may have left an accepted removal that is already judged.
            self.released.remove(key);
            self.accepted.remove(key);
        }
        match presence {
            Presence::Absent => {}
            Presence::Appears => {
                // An incomplete definition appears in every observation until it is complete.
                if self.is_wave() && self.current.appeared.insert(key.clone()) {
                    self.input(Input::Appeared, now);
                }
            }
            Presence::Gone | Presence::Replaced => self.vanished(key, presence, now),
            Presence::Unclear => {
                // If the definition turns out to be gone later, the project vanishes at that time.
                if !self.accepted.contains(key) {
                    self.released.remove(key);
                }
                // An unreadable project is not back, so the other projects stay held.
                if let Some(known) = self.held.projects.get_mut(key) {
                    *known = presence;
                } else if self.holds(key) {
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
            if presence == Presence::Gone {
                return;
            }
            // The directory has another project now, so this removal leaves the hold.
            self.held.projects.remove(key);
            self.held.reset_if_empty();
            self.n_holds = self.n_holds.saturating_add(1);
        }
        let is_new = self
            .current
            .projects
            .insert(key.clone(), presence)
            .is_none();
        if is_new || self.current.state == State::Calm {
            let n = self.current.projects.len();
            self.current.n_vanished = self.current.n_vanished.saturating_add(1);
            self.input(Input::Vanished { n }, now);
        }
    }

    fn returned(&mut self, key: &ProjectKey, now: Moment) {
        self.released.remove(key);
        self.accepted.remove(key);
        if self.current.projects.remove(key).is_some() {
            self.input(Input::Returned, now);
            if self.current.projects.is_empty() {
                self.input(Input::Emptied, now);
            }
        }
        if self.held.projects.remove(key).is_some() {
            self.held.state = self.held.state.after(Input::Returned, now, self.times);
            self.held.reset_if_empty();
        }
    }

    /// Decides about the groups that have ended. Returns the projects to judge.
    pub(super) fn end(&mut self, now: Moment, n_recorded: usize) -> Vec<ProjectKey> {
        let is_due = |state: State| state.ends_at(self.times).is_some_and(|at| now >= at);
        let (ends_current, ends_hold) = (is_due(self.current.state), is_due(self.held.state));
        let mut released: Vec<(ProjectKey, Presence)> = Vec::new();
        let n_before = self.current.n_recorded.unwrap_or(n_recorded);
        let census = Census {
            n_vanished: self.current.n_vanished,
            n_gone: self.current.n_gone(),
            n_gone_in_all: self.current.n_gone() + self.held.n_gone(),
            n_recorded,
            n_before,
            may_return: self.may_return,
        };
        if ends_current {
            self.may_return = false;
            self.input(Input::Ended(census), now);
            let ended = std::mem::take(&mut self.current);
            match (ended.state, self.held.state) {
                (State::Calm, _) => released.extend(ended.projects),
                (state, hold) => {
                    self.n_recorded = n_before;
                    self.n_holds = self.n_holds.saturating_add(1);
                    self.held.state = state.later_hold(hold);
                    for (key, presence) in ended.projects {
                        match presence {
                            Presence::Replaced => released.push((key, presence)),
                            _ => drop(self.held.projects.insert(key, presence)),
                        }
                    }
                    self.held.reset_if_empty();
                }
            }
        }
        if ends_hold {
            let is_due = self
                .held
                .state
                .ends_at(self.times)
                .is_some_and(|at| now >= at);
            if is_due {
                self.held.state = self.held.state.after(Input::Ended(census), now, self.times);
            }
            if self.held.state == State::Calm {
                released.extend(std::mem::take(&mut self.held).projects);
            }
        }
        // An unreadable project is not known to be gone.
        let gone = released.iter().filter(|(_, at)| *at != Presence::Unclear);
        self.released.extend(gone.map(|(key, _)| key.clone()));
        released.into_iter().map(|(key, _)| key).collect()
    }

    /// Releases the held projects after an operator accepted them, and returns them.
    pub(super) fn accept(&mut self) -> Vec<ProjectKey> {
        let released: Vec<ProjectKey> = std::mem::take(&mut self.held)
            .projects
            .into_keys()
            .collect();
        self.accepted.extend(released.iter().cloned());
        self.released.extend(released.iter().cloned());
        released
    }

    /// After a full scan, drops released projects that are not missing.
    ///
    /// Also drops held projects that were not observed since a restart. They are no longer
    /// recorded, because the scan has observed each held project that is still recorded.
    pub(super) fn retain(&mut self, now: Moment, is_missing: impl Fn(&ProjectKey) -> bool) {
        self.n_before_scan = None;
        self.released.retain(|key| is_missing(key));
        self.accepted.retain(|key| is_missing(key));
        self.may_return &= !self.is_calm();
        let held = &mut self.held;
        let n_before = held.projects.len();
        held.projects
            .retain(|_, presence| *presence != Presence::Absent);
        if held.projects.len() < n_before && held.state == State::HeldForOperator {
            held.state = held.state.after(Input::Returned, now, self.times);
        }
        held.reset_if_empty();
    }

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

    pub(super) fn held_projects(&self) -> impl Iterator<Item = &ProjectKey> {
        self.held.projects.keys()
    }

    pub(super) fn n_holds(&self) -> u64 {
        self.n_holds
    }

    pub(super) fn accepted(&self) -> &BTreeSet<ProjectKey> {
        &self.accepted
    }

    fn input(&mut self, input: Input, now: Moment) {
        self.current.state = self.current.state.after(input, now, self.times);
        if self.sees_late {
            self.current.state = self.current.state.as_wave();
        }
        if self.current.state == State::Calm {
            self.current.appeared.clear();
            self.current.n_recorded = None;
            self.current.n_vanished = 0;
        }
    }
}
