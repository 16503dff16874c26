//! Pairs projects that appeared with projects that disappeared.
//!
//! Constraint: renaming a project directory, or moving it inside its organization, causes no import
//! or delete. The project id identifies the project; see [`super::identity`]. So if a project with
//! an id is renamed and then saved, the events are a move and a save. A project without an id is
//! identified by its content. An observation of the new location alone does not distinguish a move
//! from a copy. So the old location is observed as well. This module takes several projects
//! together and pairs arrivals with departures. Then [`infer`] compares each project with the
//! record that belongs to it.
//!
//! - If no definition was recorded at the new location, the project moves immediately, without
//!   waiting for the settle time.
//! - If another project was recorded there, the move waits until the removal of that project is
//!   confirmed, or until that project has moved away. Until then the removal at the old location
//!   waits too ([`Conclusion::moves_to`]). Otherwise the moving project would be deleted at the old
//!   location and imported at the new one.
//! - The record of a file that is gone from the old location moves with the project, even if the
//!   file has not arrived yet. Files that remain unchanged or cannot be read stay recorded at the
//!   old location.
//! - If a project is copied and the original is gone in the same observation, that is a move.
//!   Observations cannot tell the difference.
//!
//! Two more rules handle a project id that several directories share; see [`super::shared_ids`].

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::event::{EventKind, InferredEvent};
use super::infer::{Inference, Removals, infer, is_replaced};
use super::pairs::{Pairs, pair};
use super::project::{FileState, Identity, Observed, ObservedFile, ProjectKey, Recorded, Role};
use super::shared_ids::{Hold, Removal, SharedIds};

/// Returns the path of a recorded file after its project moved to this key.
///
/// `None` if the layout has no such path.
pub type Relocate<'a> = dyn Fn(&FileState, &ProjectKey) -> Option<String> + 'a;

/// The record of a project and an observation of it.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The project.
    pub key: ProjectKey,
    /// The record.
    pub recorded: Recorded,
    /// The observation.
    pub observed: Observed,
    /// Whether missing files count as removed.
    pub removals: Removals,
}

/// The result of judging a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// The project.
    pub key: ProjectKey,
    /// The former key, if the project moved here in this comparison.
    pub moved_from: Option<ProjectKey>,
    /// The key of the location that the project moves to, if the move has to wait.
    ///
    /// The move waits until the removal of the project recorded there is confirmed, or until that
    /// project has moved away. The removal of this project must not be confirmed earlier; see
    /// [`super::settle::Agenda::confirm_after`].
    pub moves_to: Option<ProjectKey>,
    /// Why the project that arrived here is not imported yet.
    pub hold: Option<Hold>,
    /// Another directory of the organization that has or had the same project.
    ///
    /// If set, no delete is inferred for this directory. The project still exists in the other
    /// directory, or is deleted from that directory.
    pub lives_on_in: Option<ProjectKey>,
    /// Another missing directory of the same project, whose removal is not confirmed yet.
    ///
    /// The removal of this directory waits for that removal; see
    /// [`super::settle::Agenda::confirm_with`].
    pub removed_with: Option<ProjectKey>,
    /// The new record, the events, and the removals that are not confirmed yet.
    pub inference: Inference,
}

impl Comparison {
    /// See [`arrival`].
    pub fn arrival(&self) -> Option<&FileState> {
        arrival(&self.recorded, &self.observed)
    }

    pub(crate) fn recorded_identity(&self) -> Option<Identity> {
        let definition = self.recorded.definition.as_ref()?;
        Some(definition.project_identity(&self.key))
    }

    /// Returns the observed definition if it may belong to a project that moved here.
    ///
    /// Unlike [`Comparison::arrival`], this includes a changed definition if the ids do not show
    /// whether it is of another project. For instance, the old or the new definition has no id.
    /// Such a change may also be an ordinary save.
    pub fn newcomer(&self) -> Option<&FileState> {
        let seen = self.observed.definition()?;
        let is_newcomer = match &self.recorded.definition {
            Some(known) if known.hash == seen.hash => false,
            Some(known) => known.project_identity(&self.key) != seen.identity(),
            None => true,
        };
        is_newcomer.then_some(seen)
    }

    /// Whether the ids do not show if the changed definition is a save or a replacement.
    pub(super) fn is_saved_or_replaced(&self) -> bool {
        self.newcomer().is_some() && self.arrival().is_none()
    }

    /// Returns the recorded definition if it is certainly gone from this location.
    pub(crate) fn departure(&self) -> Option<&FileState> {
        let recorded = self.recorded.definition.as_ref()?;
        let departed = match self.observed.definition() {
            Some(seen) => seen.hash != recorded.hash && is_replaced(&self.recorded, &self.observed),
            None => self.observed.definition_is_gone(),
        };
        departed.then_some(recorded)
    }
}

/// Returns the observed definition if it may have moved here.
///
/// A project may have moved here if the record has no definition here, or that of another project.
pub fn arrival<'a>(recorded: &Recorded, observed: &'a Observed) -> Option<&'a FileState> {
    let arrived = recorded.definition.is_none() || is_replaced(recorded, observed);
    observed.definition().filter(|_| arrived)
}

/// Infers the events of several projects together.
///
/// The comparisons must be complete:
///
/// - For every arrival, they include the recorded projects with the same identity, except those
///   whose definition is known to be in place.
/// - For every confirmed departure, and for every departure of a project that arrived elsewhere,
///   they include the recorded projects of its organization with the same identity. If the
///   definition of one such project still exists, that project is enough.
///
/// Projects with the same [`Identity::Content`] matter only within one organization.
pub fn infer_all<C: Borrow<Comparison>>(
    comparisons: &[C],
    relocate: &Relocate<'_>,
) -> Vec<Conclusion> {
    let comparisons: Vec<&Comparison> = comparisons.iter().map(Borrow::borrow).collect();
    let Pairs { moves, waiting } = pair(&comparisons);
    let origins: BTreeSet<usize> = moves.values().copied().collect();
    let shared = SharedIds::of(&comparisons, &moves, &origins);
    comparisons
        .iter()
        .enumerate()
        .map(|(index, comparison)| {
            let at = |index: &usize| comparisons.get(*index).copied();
            let origin = moves.get(&index).and_then(at);
            let departed = origins.contains(&index);
            let moves_to = waiting.get(&index).and_then(at);
            let removals = moves_to.map_or(comparison.removals, |_| Removals::Unconfirmed);
            let removal = match removals {
                Removals::Confirmed if !departed => shared.removal(comparison),
                _ => Removal::Deletes,
            };
            let (lives_on_in, removed_with) = match removal {
                Removal::Deletes => (None, None),
                Removal::MergesInto(other) => (Some(other), None),
                Removal::WaitsFor(other) => (None, Some(other)),
            };
            let removals = removed_with.map_or(removals, |_| Removals::Unconfirmed);
            let departed = departed || lives_on_in.is_some();
            // An arrived project waits for the removal of the project that was here. Until that
            // removal is confirmed, no other hold applies. Otherwise two projects that exchange
            // their locations would wait for each other.
            let may_arrive = origin.is_none()
                && (departed
                    || removals == Removals::Confirmed
                    || comparison.recorded.definition.is_none());
            let hold = shared.hold(comparison).filter(|_| may_arrive);
            let inference = match hold {
                Some(_) => judge_departure(comparison, departed, removals),
                None => {
                    let is_back = shared.is_back(comparison);
                    judge(comparison, origin, (departed, is_back), removals, relocate)
                }
            };
            Conclusion {
                key: comparison.key.clone(),
                moved_from: origin.map(|origin| origin.key.clone()),
                moves_to: moves_to.map(|to| to.key.clone()),
                hold,
                lives_on_in: lives_on_in.cloned(),
                removed_with: removed_with.cloned(),
                inference,
            }
        })
        .collect()
}

/// Infers the events of one comparison.
///
/// `origin` is the old location of the project that arrived here. `departed` is true if the project
/// recorded here left without being deleted here: it moved, or [`Conclusion::lives_on_in`] is set.
/// `is_back` is true if the project deleted here has come back to its organization.
fn judge(
    here: &Comparison,
    origin: Option<&Comparison>,
    (departed, is_back): (bool, bool),
    removals: Removals,
    relocate: &Relocate<'_>,
) -> Inference {
    let mut events: Vec<InferredEvent> = Vec::new();
    let mut recorded = if departed {
        left_behind(here)
    } else {
        here.recorded.clone()
    };
    recorded.deleted.take_if(|_| is_back);
    if let Some(origin) = origin {
        if recorded.definition.is_some() {
            // The project that was recorded here is gone, and another project moved here.
            events = infer(&recorded, &here.observed, Removals::Confirmed).events;
            events.retain(|event| event.kind.is_delete());
            recorded = left_behind(here);
        }
        for file in carried_along(origin, here, relocate) {
            recorded.put(file);
        }
        events.extend(moved(origin, &recorded));
    }
    let mut inference = infer(&recorded, &here.observed, removals);
    events.append(&mut inference.events);
    inference.events = events;
    inference
}

/// Returns the move event of a project. `recorded` is its record at the new location.
fn moved(origin: &Comparison, recorded: &Recorded) -> Option<InferredEvent> {
    let definition = recorded.definition.clone()?;
    let because = format!("the project was in {} before", origin.key);
    Some(InferredEvent {
        moved_from: Some(origin.key.clone()),
        before: origin.recorded.definition.clone(),
        ..InferredEvent::about(EventKind::ProjectMove, definition, because)
    })
}

/// Infers the events of one comparison without the arrived project, which has to wait.
///
/// If the arrived project replaces a recorded project that did not move, the recorded project is
/// deleted now. Otherwise two projects that exchange their locations would wait for each other.
fn judge_departure(here: &Comparison, departed: bool, removals: Removals) -> Inference {
    let mut inference = Inference {
        record: here.recorded.clone(),
        ..Inference::default()
    };
    if is_replaced(&here.recorded, &here.observed) {
        if !departed {
            inference.events = infer(&here.recorded, &here.observed, removals).events;
            inference.events.retain(|event| event.kind.is_delete());
        }
        inference.record = left_behind(here);
    }
    // The path of the arrived definition marks the project as not fully judged.
    let arrived = here.arrival().map(|definition| definition.path.clone());
    inference.missing.extend(arrived);
    inference
}

/// Returns the record that stays at the old location of a moved project.
///
/// It has the files that are still there and unchanged, and the copies that cannot be read.
fn left_behind(from: &Comparison) -> Recorded {
    let observed = &from.observed;
    let is_gone = observed.is_gone();
    from.recorded
        .files()
        .filter(|file| match observed.files.get(&file.path) {
            Some(ObservedFile::Complete(seen)) => seen.role == file.role && seen.hash == file.hash,
            // The definition has certainly left, so the invalid file is a new definition.
            Some(ObservedFile::Invalid { .. }) => file.role != Role::Definition,
            None => file.role != Role::Definition && !is_gone(file),
        })
        .cloned()
        .collect()
}

/// Returns the record that moves with a project: files that left its old location.
///
/// A file that has not arrived yet is recorded at the new location too. A checkout moves file by
/// file, and a file that arrives later must not cause an event.
fn carried_along(
    origin: &Comparison,
    here: &Comparison,
    relocate: &Relocate<'_>,
) -> Vec<FileState> {
    let stayed = left_behind(origin);
    let left = origin
        .recorded
        .files()
        .filter(|file| stayed.file(&file.path).is_none());
    let mut of_tags: HashMap<(Role, Option<&str>), Vec<&FileState>> = HashMap::new();
    for role in Role::ALL {
        for seen in here.observed.complete(role) {
            of_tags.entry(tagged(seen)).or_default().push(seen);
        }
    }
    let mut carried: BTreeMap<String, FileState> = BTreeMap::new();
    // Two files may get the same new path, for instance from two templates. Then the file that was
    // observed at this path wins.
    let mut put = |file: &FileState, path: &str| {
        let is_seen = match here.observed.files.get(path) {
            Some(ObservedFile::Complete(seen)) => seen.role == file.role && seen.hash == file.hash,
            Some(ObservedFile::Invalid { .. }) | None => false,
        };
        if is_seen || !carried.contains_key(path) {
            carried.insert(path.to_owned(), file.moved(path, &origin.key, &here.key));
        }
    };
    for file in left {
        match of_tags.get(&tagged(file)) {
            Some(seen) => seen.iter().for_each(|seen| put(file, &seen.path)),
            None => {
                if let Some(path) = relocate(file, &here.key) {
                    put(file, &path);
                }
            }
        }
    }
    carried.into_values().collect()
}

/// Returns the role and the tag of a file. The tag of a definition is ignored.
fn tagged(file: &FileState) -> (Role, Option<&str>) {
    let is_copy = file.role != Role::Definition;
    (file.role, file.tag.as_deref().filter(|_| is_copy))
}
