//! The shared states of all engines: one for each repository.
//!
//! Constraint: with one repository, the merged state has the state of its engine, and a trouble if
//! the engine does not respond. With several repositories, the merged state is watching only while
//! every engine watches, and its texts name the repository.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::status::{ActorReport, HeldReport, Snapshot, Status, Trouble};
use crate::config::Repository;
use crate::domain::settle::Moment;
use crate::watch::Coverage;

/// The text for an engine whose loop does not run.
const STUCK: &str =
    "the engine does not respond; is the repository's disk or network file system stuck?";

/// The state of one engine, with its repository.
#[derive(Clone, Debug)]
pub(crate) struct OfRepository {
    /// The name of the repository. `None` if the configuration has only `repository`.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) path: String,
    pub(crate) status: Arc<Status>,
}

/// The text for an engine that waits for the store.
const STORE_STUCK: &str = "the database of the state does not answer; inference waits until it does, and no change is lost";

/// How long an engine that waits for the store is considered alive.
///
/// The time limits of the database's answers and connections are shorter.
const STORE_MAX: Duration = Duration::from_secs(600);

impl OfRepository {
    pub(crate) fn new(repository: &Repository) -> Self {
        Self {
            name: repository.name_in_keys(),
            path: repository.path.display().to_string(),
            status: Arc::default(),
        }
    }

    /// The name of the repository, or its path if it has no name.
    pub(crate) fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.path)
    }

    /// Whether the engine's loop ran within this time.
    ///
    /// For a loop that waits for the store, the time is at least [`STORE_MAX`], because no restart
    /// makes a database faster.
    pub(crate) fn is_alive(&self, now: Moment, standstill: Duration) -> bool {
        let last = self.status.last_beat();
        let limit = match last.waits_for_store {
            true => standstill.max(STORE_MAX),
            false => standstill,
        };
        now.saturating_sub(last.at) < limit
    }

    /// The trouble of an engine whose loop did not run within this time.
    pub(crate) fn standstill(
        &self,
        now: Moment,
        standstill: Duration,
    ) -> Option<(Trouble, &'static str)> {
        let last = self.status.last_beat();
        let is_still = now.saturating_sub(last.at) >= standstill;
        is_still.then_some(match last.waits_for_store {
            true => (Trouble::Store, STORE_STUCK),
            false => (Trouble::Engine, STUCK),
        })
    }

    /// The state, including a trouble if the engine does not respond.
    fn seen(&self, now: Moment, standstill: Duration) -> Snapshot {
        let mut state = self.status.snapshot();
        if let Some((trouble, text)) = self.standstill(now, standstill) {
            let troubles = &mut state.troubles;
            troubles.entry(trouble).or_insert_with(|| text.to_owned());
        }
        state
    }
}

/// The state of one of several engines, as `status` shows it.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub(crate) struct RepositoryReport {
    pub(crate) name: String,
    pub(crate) path: String,
    /// Whether the engine's loop runs.
    pub(crate) alive: bool,
    #[serde(flatten)]
    pub(crate) engine: Snapshot,
}

/// An engine that was asked to stop and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct EndingReport {
    /// The name of the repository, or its path if there is only one repository.
    pub(crate) name: String,
    pub(crate) path: String,
    /// The time when the engine was asked to stop.
    pub(crate) since: Timestamp,
}

/// The states of all engines. A reload may add and remove engines.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    all: Mutex<Vec<OfRepository>>,
    /// The engines that are stopping and have not ended.
    ending: Mutex<Vec<EndingReport>>,
    /// The numbers of applied and of rejected reloads.
    reloads: Mutex<(u64, u64)>,
    /// The repositories that are no longer watched after this process took over.
    left_out: Mutex<Vec<String>>,
}

impl Statuses {
    fn lock(&self) -> MutexGuard<'_, Vec<OfRepository>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replace(&self, all: Vec<OfRepository>) {
        *self.lock() = all;
    }

    pub(crate) fn all(&self) -> Vec<OfRepository> {
        self.lock().clone()
    }

    pub(crate) fn count_reload(&self, applied: bool) {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        match applied {
            true => reloads.0 += 1,
            false => reloads.1 += 1,
        }
    }

    /// Replaces the list of engines that are stopping and have not ended.
    pub(crate) fn set_ending(&self, ending: Vec<EndingReport>) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = ending;
    }

    pub(crate) fn ending(&self) -> Vec<EndingReport> {
        let ending = self.ending.lock();
        ending.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the repositories that are no longer watched after this process took over.
    pub(crate) fn leave_out(&self, names: Vec<String>) {
        *self.left_out.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    pub(crate) fn left_out(&self) -> Vec<String> {
        let left_out = self.left_out.lock();
        left_out.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the loop of at least one engine runs.
    ///
    /// So a stuck file system of one repository does not matter if there are others.
    pub(crate) fn is_alive(&self, now: Moment, standstill: Duration) -> bool {
        self.lock().iter().any(|one| one.is_alive(now, standstill))
    }

    /// Whether the start of every engine is complete.
    ///
    /// A stuck engine is not considered, unless all engines are stuck.
    pub(crate) fn is_started(&self, now: Moment, standstill: Duration) -> bool {
        let all = self.lock();
        let is_alive = |one: &OfRepository| one.is_alive(now, standstill);
        let has_alive = all.iter().any(is_alive);
        all.iter()
            .all(|one| one.status.with(Snapshot::is_started) || has_alive && !is_alive(one))
    }

    /// Returns the state of each engine whose repository has a name.
    pub(crate) fn reports(&self, now: Moment, standstill: Duration) -> Vec<RepositoryReport> {
        let all = self.lock();
        let several = all.iter().filter_map(|one| Some((one.name.as_ref()?, one)));
        several
            .map(|(name, one)| RepositoryReport {
                name: name.to_string(),
                path: one.path.clone(),
                alive: one.is_alive(now, standstill),
                engine: one.seen(now, standstill),
            })
            .collect()
    }

    /// Reads the merged state. Its counts of reloads may be missing.
    pub(crate) fn with<T>(
        &self,
        now: Moment,
        standstill: Duration,
        read: impl FnOnce(&Snapshot) -> T,
    ) -> T {
        let all = self.lock();
        match all.as_slice() {
            [only] if only.name.is_none() && only.standstill(now, standstill).is_none() => {
                only.status.with(read)
            }
            _ => {
                drop(all);
                read(&self.snapshot(now, standstill))
            }
        }
    }

    /// Returns the merged state of all engines.
    pub(crate) fn snapshot(&self, now: Moment, standstill: Duration) -> Snapshot {
        let mut whole: Option<Snapshot> = None;
        for one in self.lock().iter() {
            let mut next = one.seen(now, standstill);
            if let Some(name) = &one.name {
                next = named(next, name);
            }
            whole = Some(match whole {
                Some(before) => merged(before, next),
                None => next,
            });
        }
        let mut whole = whole.unwrap_or_default();
        let left_out = self.left_out();
        if !left_out.is_empty() {
            whole.troubles.insert(
                Trouble::Repositories,
                format!(
                    "this process does not watch repositories of the former process: {}. Add them \
                     to `repositories`, or reload the configuration to confirm its list",
                    left_out.join(", ")
                ),
            );
        }
        whole.reloads = *self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        whole
    }
}

/// Names the repository in the texts of a state.
fn named(mut state: Snapshot, name: &str) -> Snapshot {
    for text in state.troubles.values_mut() {
        *text = format!("{name}: {text}");
    }
    if let Some(held) = &mut state.held_removals {
        held.reason = format!("{name}: {}", held.reason);
    }
    if let Some(note) = &mut state.coverage.note {
        *note = format!("{name}: {note}");
    }
    for directory in &mut state.coverage.directories {
        directory.path = format!("{name}//{}", directory.path);
    }
    state
}

fn merged(one: Snapshot, other: Snapshot) -> Snapshot {
    let mut troubles = one.troubles;
    for (trouble, text) in other.troubles {
        let all = troubles.entry(trouble).or_default();
        *all = joined(std::mem::take(all), &text);
    }
    Snapshot {
        ready: one.ready && other.ready,
        troubles,
        projects: one.projects.saturating_add(other.projects),
        held_removals: either(one.held_removals, other.held_removals, held),
        actor: either(one.actor, other.actor, actor),
        problems: one.problems.saturating_add(other.problems),
        coverage: coverage(one.coverage, other.coverage),
        rescans: sums(one.rescans, other.rescans),
        reloads: (0, 0),
        events: sums(one.events, other.events),
        usernames: sums(one.usernames, other.usernames),
    }
}

fn joined(text: String, other: &str) -> String {
    match text.is_empty() {
        true => other.to_owned(),
        false => format!("{text}; {other}"),
    }
}

fn either<T>(one: Option<T>, other: Option<T>, merge: impl FnOnce(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(merge(one, other)),
        (one, other) => one.or(other),
    }
}

fn held(one: HeldReport, other: HeldReport) -> HeldReport {
    HeldReport {
        count: one.count.saturating_add(other.count),
        // If all projects of a repository vanished, an operator is needed, so show that cause.
        cause: if one.cause == "all" {
            one.cause
        } else {
            other.cause
        },
        reason: joined(one.reason, &other.reason),
        until: one
            .until
            .zip(other.until)
            .map(|(one, other)| one.max(other)),
    }
}

fn actor(one: ActorReport, other: ActorReport) -> ActorReport {
    ActorReport {
        key: one.key,
        records: one.records.saturating_add(other.records),
        named: one.named.saturating_add(other.named),
        missed: one.missed.saturating_add(other.missed),
        losses: one.losses.saturating_add(other.losses),
        failure: either(one.failure, other.failure, |one, other| joined(one, &other)),
    }
}

fn coverage(mut one: Coverage, other: Coverage) -> Coverage {
    one.directories.extend(other.directories);
    Coverage {
        watches: one.watches.saturating_add(other.watches),
        uncovered: one.uncovered.saturating_add(other.uncovered),
        directories: one.directories,
        polls: one.polls || other.polls,
        note: either(one.note, other.note, |one, other| joined(one, &other)),
    }
}

fn sums<K: Ord>(mut one: BTreeMap<K, u64>, other: BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    for (key, n) in other {
        *one.entry(key).or_default() += n;
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDSTILL: Duration = Duration::from_secs(30);

    fn engine(name: &str) -> OfRepository {
        OfRepository {
            name: Some(name.into()),
            path: format!("/srv/{name}"),
            status: Arc::default(),
        }
    }

    #[test]
    fn the_whole_watches_only_while_every_engine_does() {
        let now = Duration::from_secs(100);
        let (one, other) = (engine("one"), engine("other"));
        one.status.beat(now);
        other.status.beat(now);
        let statuses = Statuses::default();
        statuses.replace(vec![one.clone(), other.clone()]);
        one.status.set_ready();
        one.status.set_projects(2);
        let is_started = || statuses.is_started(now, STANDSTILL);
        let whole = || statuses.snapshot(now, STANDSTILL);
        assert!(!is_started() && !whole().ready);
        let trouble = Some("the root is missing".to_owned());
        other.status.set_trouble(Trouble::Root, trouble);
        assert!(is_started(), "it waits for the root");
        assert!(!whole().is_watching());
        assert_eq!(whole().projects, 2);
        assert_eq!(
            whole().troubles.get(&Trouble::Root).map(String::as_str),
            Some("other: the root is missing")
        );
        other.status.set_trouble(Trouble::Root, None);
        other.status.set_ready();
        other.status.set_projects(3);
        assert!(whole().is_watching());
        assert_eq!(whole().projects, 5);
    }

    #[test]
    fn a_stuck_engine_is_a_trouble_and_delays_no_start_but_its_own() {
        let (one, other) = (engine("one"), engine("other"));
        let statuses = Statuses::default();
        statuses.replace(vec![one.clone(), other.clone()]);
        one.status.set_ready();
        let later = STANDSTILL * 2;
        one.status.beat(later);
        assert!(statuses.is_started(later, STANDSTILL));
        let whole = statuses.snapshot(later, STANDSTILL);
        let trouble = whole.troubles.get(&Trouble::Engine);
        assert!(trouble.is_some_and(|text| text.starts_with("other: the engine does not respond")));
        other.status.set_ready();
        assert!(!statuses.snapshot(later, STANDSTILL).is_watching());
        let reports = statuses.reports(later, STANDSTILL);
        let watching = reports.iter().map(|one| one.engine.is_watching());
        assert_eq!(watching.collect::<Vec<_>>(), [true, false]);
        other.status.beat(later);
        assert!(statuses.snapshot(later, STANDSTILL).is_watching());

        // An engine that waits for the store counts as responding.
        one.status.beat_at_store(true, later);
        other.status.beat_at_store(true, later);
        let slow = later + STANDSTILL;
        let whole = statuses.snapshot(slow, STANDSTILL);
        let troubles: Vec<&Trouble> = whole.troubles.keys().collect();
        assert_eq!(troubles, [&Trouble::Store]);
        assert!(!whole.is_watching() && statuses.is_alive(slow, STANDSTILL));
        assert!(!statuses.is_alive(slow + STORE_MAX, STANDSTILL));

        // Without another engine, the service manager waits for the file system.
        let alone = engine("alone");
        statuses.replace(vec![alone]);
        assert!(!statuses.is_started(later, STANDSTILL));
    }
}
