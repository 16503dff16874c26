//! Pairs projects that appeared with projects that disappeared.
//!
//! Constraint: renaming or moving a project directory inside its organization causes no event. The
//! project id identifies the project, else the content; see [`super::identity`]. So a project that is
//! renamed and then saved is a move and a save, not a delete and an import. An observation of the new
//! location does not tell a move from a copy, so the old location is observed as well. This module
//! takes several projects at once and pairs arrivals with departures. Then [`infer`] judges each
//! project by the record that belongs to it.
//!
//! - If no definition was recorded at the new location, a project moves at once, without waiting for
//!   the settle time.
//! - If another project was recorded there, the move waits until that project's removal is confirmed
//!   or that project has moved away. Until then the removal at the old location waits as well
//!   ([`Conclusion::moves_to`]). Otherwise the project would be deleted there and imported here.
//! - A moved project takes along the record of all files that are gone from the old location, also of
//!   files that have not arrived yet. Files that stayed or cannot be read remain recorded there.
//! - If a project is copied and the original is missing in the same observation, that is a move,
//!   because observations cannot tell the difference.
//!
//! Two more rules are about a project id that several directories have; see [`super::shared_ids`].

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::event::{EventKind, InferredEvent};
use super::infer::{Inference, Removals, infer, is_replaced};
use super::pairs::{Pairs, pair};
use super::project::{FileState, Identity, Observed, ObservedFile, ProjectKey, Recorded, Role};
use super::shared_ids::{Hold, Removal, SharedIds};

/// Returns the path of a recorded file after its project moved, according to the layout.
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
    /// The former key, if the project moved here.
    pub moved_from: Option<ProjectKey>,
    /// The key that the project moves to, if the move has to wait.
    ///
    /// It waits until the removal of the project recorded there is confirmed. This project's removal
    /// must not be confirmed earlier; see [`super::settle::Agenda::confirm_after`].
    pub moves_to: Option<ProjectKey>,
    /// Why the project that arrived here is not imported yet, although it is complete.
    pub hold: Option<Hold>,
    /// Another directory of the organization with the same project, so no delete is inferred here.
    ///
    /// If all of these directories are gone, this is the one whose delete is inferred.
    pub lives_on_in: Option<ProjectKey>,
    /// A directory with the same project that is gone too, if the removal here waits for it.
    ///
    /// See [`super::settle::Agenda::confirm_with`].
    pub removed_with: Option<ProjectKey>,
    /// The new record, the events, and the removals that are not confirmed yet.
    pub inference: Inference,
}

impl Comparison {
    /// See [`arrival`].
    pub fn arrival(&self) -> Option<&FileState> {
        arrival(&self.recorded, &self.observed)
    }

    /// The identity of the recorded project.
    pub(crate) fn recorded_identity(&self) -> Option<Identity> {
        let definition = self.recorded.definition.as_ref()?;
        Some(definition.project_identity(&self.key))
    }

    /// Returns the observed definition if another project may have moved here.
    ///
    /// Unlike [`Comparison::arrival`] it may also be an ordinary save: without an id on both sides, the
    /// definition alone does not tell.
    pub fn newcomer(&self) -> Option<&FileState> {
        let seen = self.observed.definition()?;
        let is_newcomer = match &self.recorded.definition {
            Some(known) if known.hash == seen.hash => false,
            Some(known) => known.project_identity(&self.key) != seen.identity(),
            None => true,
        };
        is_newcomer.then_some(seen)
    }

    /// Whether the definition here changed to that of another project, or was saved.
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
/// It may have if the record has no definition, or another project's definition.
pub fn arrival<'a>(recorded: &Recorded, observed: &'a Observed) -> Option<&'a FileState> {
    let arrived = recorded.definition.is_none() || is_replaced(recorded, observed);
    observed.definition().filter(|_| arrived)
}

/// Infers the events of several projects together.
///
/// For every arrival, the comparisons must include the recorded projects with the same identity,
/// except those whose definition is known to be in place. For every confirmed departure, and for
/// every departure of a project that arrived, they must include the recorded projects of its
/// organization with the same identity, or at least one of them whose definition still exists.
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
            // A project that arrived waits for the removal of the one that was here. Until that
            // removal is confirmed, it has no other hold. Otherwise projects that exchange their
            // locations would wait for each other.
            let may_arrive = origin.is_none()
                && (departed
                    || removals == Removals::Confirmed
                    || comparison.recorded.definition.is_none());
            let hold = shared.hold(comparison).filter(|_| may_arrive);
            let inference = match hold {
                Some(_) => judge_departure(comparison, departed, removals),
                None => judge(comparison, origin, departed, removals, relocate),
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

/// Judges one comparison.
///
/// `origin` is the old location of the project that arrived here. `departed` is true if the project
/// recorded here arrived at another location.
fn judge(
    here: &Comparison,
    origin: Option<&Comparison>,
    departed: bool,
    removals: Removals,
    relocate: &Relocate<'_>,
) -> Inference {
    let mut events: Vec<InferredEvent> = Vec::new();
    let mut recorded = if departed {
        left_behind(here)
    } else {
        here.recorded.clone()
    };
    if let Some(origin) = origin {
        if recorded.definition.is_some() {
            // The project that was recorded here is gone, and another one moved here.
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

/// Returns the event of a project that moved here, with the definition that was recorded before.
fn moved(origin: &Comparison, recorded: &Recorded) -> Option<InferredEvent> {
    let definition = recorded.definition.clone()?;
    let because = format!("the project was in {} before", origin.key);
    Some(InferredEvent {
        moved_from: Some(origin.key.clone()),
        before: origin.recorded.definition.clone(),
        ..InferredEvent::about(EventKind::ProjectMove, definition, because)
    })
}

/// Judges one comparison without the project that arrived, which has to wait.
///
/// A removed project that was here before is deleted now. Otherwise two projects that swap their
/// locations would wait for each other.
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
    // The path of the arrived definition shows that the project is not judged yet.
    let arrived = here.arrival().map(|definition| definition.path.clone());
    inference.missing.extend(arrived);
    inference
}

/// Returns the record that stays at the old location of a moved project.
///
/// It has the files that are, or may be, still there and unchanged.
fn left_behind(from: &Comparison) -> Recorded {
    let observed = &from.observed;
    let is_gone = observed.is_gone();
    from.recorded
        .files()
        .filter(|file| match observed.files.get(&file.path) {
            Some(ObservedFile::Complete(seen)) => seen.role == file.role && seen.hash == file.hash,
            // The definition is known to be gone.
            Some(ObservedFile::Invalid { .. }) => file.role != Role::Definition,
            None => file.role != Role::Definition && !is_gone(file),
        })
        .cloned()
        .collect()
}

/// Returns the record that a moved project takes along: files that are gone from its old location.
///
/// A file that is not observed here yet is recorded as missing. A checkout moves file by file, and
/// a file that arrives later must not cause an event.
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
    // Two files may get the same new path, for instance from two templates. Then the file that is
    // observed there wins.
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

/// The role of a file, and its tag. There is one definition, whatever its tag.
fn tagged(file: &FileState) -> (Role, Option<&str>) {
    let is_copy = file.role != Role::Definition;
    (file.role, file.tag.as_deref().filter(|_| is_copy))
}
