//! Pairs projects that arrived with projects that left.
//!
//! Constraint: for n projects the work is at most n log n, also for long chains of moves.
//! [`super::moves`] has the rules.

use std::collections::{BTreeMap, BTreeSet};

use super::infer::Removals;
use super::moves::Comparison;
use super::project::{ContentHash, Identity, ProjectKey};
use super::work;

/// Departed projects that are not paired with an arrival yet, in the order of their names.
///
/// The keys have the organization and the identity. Those of `by_content` also have the hash of the
/// content.
#[derive(Default)]
struct Departures<'a> {
    by_identity: BTreeMap<(&'a str, Identity), BTreeMap<&'a ProjectKey, usize>>,
    by_content: BTreeMap<(&'a str, Identity, ContentHash), BTreeMap<&'a ProjectKey, usize>>,
}

impl<'a> Departures<'a> {
    /// Collects the departures, including the definitions at the indexes in `replaced`.
    fn of(comparisons: &[&'a Comparison], replaced: &BTreeSet<usize>) -> Self {
        let mut all = Self::default();
        for (index, comparison) in comparisons.iter().copied().enumerate() {
            let was_here = comparison.recorded.definition.as_ref();
            let was_replaced = was_here.filter(|_| replaced.contains(&index));
            let Some(departed) = comparison.departure().or(was_replaced) else {
                continue;
            };
            let key = &comparison.key;
            let organization = key.organization.as_str();
            for identity in departed.identities(key) {
                let of_content = (organization, identity.clone(), departed.hash);
                let with_content = all.by_content.entry(of_content).or_default();
                with_content.insert(key, index);
                let of_identity = (organization, identity);
                let with_identity = all.by_identity.entry(of_identity).or_default();
                with_identity.insert(key, index);
            }
        }
        all
    }

    /// Removes and returns the departure of the project that arrived in `arrived_in`.
    ///
    /// Takes the first departure by name that has the same identity and content. If there is none,
    /// takes the first one that has the same identity.
    fn take(&mut self, comparisons: &[&'a Comparison], arrived_in: usize) -> Option<usize> {
        let here = comparisons.get(arrived_in).copied()?;
        let arrived = here.newcomer()?;
        let organization = here.key.organization.as_str();
        let of_content = (organization, arrived.identity(), arrived.hash);
        let with_content = self.by_content.get(&of_content);
        // A project cannot arrive from its own location.
        let first = |all: &BTreeMap<&'a ProjectKey, usize>| {
            let mut all = all.values().copied();
            all.find(|origin| *origin != arrived_in)
        };
        let of_identity = (organization, of_content.1);
        let with_identity = self.by_identity.get(&of_identity);
        let index = with_content
            .and_then(first)
            .or_else(|| with_identity.and_then(first))?;
        let origin = comparisons.get(index)?;
        let departed = origin.recorded.definition.as_ref()?;
        for identity in departed.identities(&origin.key) {
            let of_content = (organization, identity.clone(), departed.hash);
            if let Some(with_content) = self.by_content.get_mut(&of_content) {
                with_content.remove(&origin.key);
            }
            if let Some(with_identity) = self.by_identity.get_mut(&(organization, identity)) {
                with_identity.remove(&origin.key);
            }
        }
        Some(index)
    }
}

/// Pairs of arrivals and departures, as indexes into the comparisons.
pub(super) struct Pairs {
    /// The old location of each move, by the new location.
    pub moves: BTreeMap<usize, usize>,
    /// The new location of each move that has to wait, by the old location.
    ///
    /// Moves that would wait for each other in a ring are left out.
    pub waiting: BTreeMap<usize, usize>,
}

/// The maximum number of rounds in [`pair`].
const PAIRED_AT_MOST: usize = 8;

/// Pairs arrivals with departures.
///
/// A changed definition may be a save or a replacement if its id cannot be compared with the
/// recorded one. Such a change is a replacement if the new content came from another location, and
/// the project recorded here went to another location. So an exchange of locations is recognised as
/// moves, with or without ids. Each round drops the definitions that turned out to be saves, and
/// pairs again. If the last round still drops some, all such changes are treated as saves.
pub(super) fn pair(comparisons: &[&Comparison]) -> Pairs {
    let indexed = comparisons.iter().enumerate();
    let mut replaced: BTreeSet<usize> = indexed
        .filter(|(_, comparison)| comparison.is_saved_or_replaced())
        .map(|(index, _)| index)
        .collect();
    for _ in 0..PAIRED_AT_MOST {
        let moves = moves_between(comparisons, &replaced).0;
        let origins: BTreeSet<usize> = moves.values().copied().collect();
        let n_before = replaced.len();
        replaced.retain(|at| moves.contains_key(at) && origins.contains(at));
        if replaced.len() == n_before {
            return pairs(comparisons, &replaced);
        }
    }
    pairs(comparisons, &BTreeSet::new())
}

/// Pairs arrivals that need not wait. Returns the pairs and the remaining departures.
fn moves_between<'a>(
    comparisons: &[&'a Comparison],
    replaced: &BTreeSet<usize>,
) -> (BTreeMap<usize, usize>, Departures<'a>) {
    let mut departures = Departures::of(comparisons, replaced);
    let mut moves = BTreeMap::new();
    // The project that is recorded at the new location is judged together with the arrival. So the
    // arrival waits until that project's removal is confirmed, or until that project is paired with
    // another location.
    let is_settled = |comparison: &Comparison| {
        let is_free = comparison.recorded.definition.is_none();
        comparison.arrival().is_some() && (is_free || comparison.removals == Removals::Confirmed)
    };
    let settled = comparisons.iter().enumerate();
    let settled = settled.filter(|(_, comparison)| is_settled(comparison));
    let settled = settled.map(|(index, _)| index);
    let mut settled: BTreeSet<usize> = settled.chain(replaced.iter().copied()).collect();
    while let Some(index) = settled.pop_first() {
        if let Some(origin) = departures.take(comparisons, index) {
            moves.insert(index, origin);
            let may_arrive = comparisons
                .get(origin)
                .is_some_and(|one| one.arrival().is_some());
            if may_arrive && !moves.contains_key(&origin) {
                settled.insert(origin);
            }
        }
    }
    (moves, departures)
}

/// Pairs arrivals with departures, including arrivals that have to wait.
fn pairs(comparisons: &[&Comparison], replaced: &BTreeSet<usize>) -> Pairs {
    let (moves, mut departures) = moves_between(comparisons, replaced);
    let mut waiting = BTreeMap::new();
    for (index, comparison) in comparisons.iter().enumerate() {
        if moves.contains_key(&index) || comparison.arrival().is_none() {
            continue;
        }
        if let Some(origin) = departures.take(comparisons, index) {
            waiting.insert(origin, index);
        }
    }
    // Projects that exchange their locations in a ring do not wait. Otherwise each would wait for
    // the next one forever. Whenever one project of a ring is observed, all others are too.
    let ring = rings(&waiting);
    waiting.retain(|origin, _| !ring.contains(origin));
    Pairs { moves, waiting }
}

/// Returns the locations that wait for each other in a ring.
///
/// Each location waits for at most one other and is visited once.
fn rings(waiting: &BTreeMap<usize, usize>) -> BTreeSet<usize> {
    let mut ring = BTreeSet::new();
    let mut visited = BTreeSet::new();
    for start in waiting.keys() {
        let mut way = Vec::new();
        let mut at = Some(start);
        while let Some(here) = at.filter(|here| visited.insert(**here)) {
            work::visit();
            way.push(*here);
            at = waiting.get(here);
        }
        // The way ends at a location that does not wait, or at a visited location. If a visited
        // location is on this way, a ring begins there.
        let begin = at.and_then(|end| way.iter().position(|here| here == end));
        if let Some(begin) = begin {
            ring.extend(way.drain(begin..));
        }
    }
    ring
}
