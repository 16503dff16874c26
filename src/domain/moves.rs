//! Which project went where.
//!
//! Constraint: a project directory that is renamed or moved inside its organization is none of the
//! seven events. It is known by its engineId, so that one that is saved right after it was renamed,
//! before anybody could look, is a move and a save and no delete; where it has none it is known by
//! its content. One look at the new place is not
//! enough to tell a move from a copy; the old place has to be looked at too. So this layer takes
//! several looks at once, pairs arrivals with departures, and lets [`infer`] judge each project by
//! the record that belongs to it now.
//!
//! - Into a place where no definition was on record a project moves at once, without the pause.
//! - Into the place of another project it moves when that one's removal counts, or when that one
//!   moved away itself. Until then its old place waits for it ([`Change::awaited_at`]), or else it
//!   would be deleted there and imported here.
//! - It takes along what was on record in the old place and is there no more, also what has not
//!   come yet; what stayed, or cannot be read, stays on record there.
//! - A copy whose original is missing at that very look is a move; looks cannot tell the two apart.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{EventKind, Inferred};
use super::infer::{Inference, Removals, infer, is_replaced};
use super::project::{FileState, Identity, Observed, ProjectKey, Recorded, Role, Sighting};

/// Where a file on record lies once its project is in another place, as the layout says.
pub type Relocate<'a> = dyn Fn(&FileState, &ProjectKey) -> Option<String> + 'a;

/// One project, recorded and observed.
#[derive(Clone, Debug)]
pub struct Look {
    /// The project.
    pub key: ProjectKey,
    /// What was recorded of it.
    pub recorded: Recorded,
    /// What was seen of it.
    pub observed: Observed,
    /// Whether what is missing counts.
    pub removals: Removals,
}

/// What looks mean for one project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The project.
    pub key: ProjectKey,
    /// The project it was before, where it moved.
    pub moved_from: Option<ProjectKey>,
    /// The place to which this project went, where that place waits itself. Its definition's
    /// removal must not count before that place is judged (see [`super::settle::Settle::follow`]).
    pub awaited_at: Option<ProjectKey>,
    /// What to record, what happened, and whether something waits.
    pub inference: Inference,
}

impl Look {
    /// A definition that arrived here and may have come from elsewhere: there was none on record,
    /// or that of another project.
    pub fn arrival(&self) -> Option<&FileState> {
        arrival(&self.recorded, &self.observed)
    }

    /// A definition that was on record here and certainly is here no more.
    fn departure(&self) -> Option<&FileState> {
        let recorded = self.recorded.definition.as_ref()?;
        let departed = match self.observed.definition() {
            Some(seen) => seen.hash != recorded.hash && is_replaced(&self.recorded, &self.observed),
            None => self.observed.definition_is_gone(),
        };
        departed.then_some(recorded)
    }
}

/// See [`Look::arrival`].
pub fn arrival<'a>(recorded: &Recorded, observed: &'a Observed) -> Option<&'a FileState> {
    let arrived = recorded.definition.is_none() || is_replaced(recorded, observed);
    observed.definition().filter(|_| arrived)
}

/// The projects that departed and were not found elsewhere yet.
struct Departures<'a> {
    looks: &'a [Look],
    by_identity: BTreeMap<(&'a str, Identity), Vec<usize>>,
}

impl<'a> Departures<'a> {
    fn of(looks: &'a [Look]) -> Self {
        let mut by_identity: BTreeMap<(&str, Identity), Vec<usize>> = BTreeMap::new();
        for (index, look) in looks.iter().enumerate() {
            if let Some(departed) = look.departure() {
                by_identity
                    .entry((&look.key.organization, departed.identity()))
                    .or_default()
                    .push(index);
            }
        }
        for origins in by_identity.values_mut() {
            origins.sort_by_key(|index| looks.get(*index).map(|look| &look.key));
        }
        Self { looks, by_identity }
    }

    /// Takes the place that the project came from which arrived in this look: the one with its
    /// content, or else the first by name.
    fn take(&mut self, look: &'a Look) -> Option<usize> {
        let arrived = look.arrival()?;
        let origins = self
            .by_identity
            .get_mut(&(look.key.organization.as_str(), arrived.identity()))?;
        let looks = self.looks;
        let has_its_content = |index: &usize| {
            looks
                .get(*index)
                .and_then(Look::departure)
                .is_some_and(|departed| departed.hash == arrived.hash)
        };
        let position = origins.iter().position(has_its_content).unwrap_or(0);
        (position < origins.len()).then(|| origins.remove(position))
    }
}

/// What these looks mean together. For every arrival, the projects on record in its organization
/// with that identity have to be among the looks.
///
/// `relocate` says where a file on record lies once its project is in another place.
pub fn infer_all(looks: &[Look], relocate: &Relocate<'_>) -> Vec<Change> {
    let Pairs { moves, awaited } = pair(looks);
    let origins: BTreeSet<usize> = moves.values().copied().collect();
    looks
        .iter()
        .enumerate()
        .map(|(index, look)| {
            let origin = moves.get(&index).and_then(|origin| looks.get(*origin));
            let departed = origins.contains(&index);
            let awaited_at = awaited.get(&index).and_then(|place| looks.get(*place));
            let removals = awaited_at.map_or(look.removals, |_| Removals::Wait);
            Change {
                key: look.key.clone(),
                moved_from: origin.map(|origin| origin.key.clone()),
                awaited_at: awaited_at.map(|place| place.key.clone()),
                inference: judge(look, origin, departed, removals, relocate),
            }
        })
        .collect()
}

/// Arrivals and departures that belong together, by their indexes among the looks.
struct Pairs {
    /// New place to old place.
    moves: BTreeMap<usize, usize>,
    /// Old place to new place, where the new place is that of a project whose removal waits. No
    /// rings.
    awaited: BTreeMap<usize, usize>,
}

/// Pairs arrivals with departures.
fn pair(looks: &[Look]) -> Pairs {
    let mut departures = Departures::of(looks);
    let mut moves = BTreeMap::new();
    let mut departed = BTreeSet::new();
    loop {
        let paired = moves.len();
        for (index, look) in looks.iter().enumerate() {
            // A project that was on record here has to be judged with the arrival: when its own
            // removal counts, or as soon as it is known where it went.
            let settled = look.recorded.definition.is_none()
                || look.removals == Removals::Count
                || departed.contains(&index);
            if !settled || moves.contains_key(&index) {
                continue;
            }
            if let Some(origin) = departures.take(look) {
                moves.insert(index, origin);
                departed.insert(origin);
            }
        }
        if moves.len() == paired {
            break;
        }
    }
    let mut awaited = BTreeMap::new();
    for (index, look) in looks.iter().enumerate() {
        if moves.contains_key(&index) {
            continue;
        }
        if let Some(origin) = departures.take(look) {
            awaited.insert(origin, index);
        }
    }
    // Projects that change places in a ring wait for nobody: a look at any one of them brings the
    // others along, and each would follow the other for ever.
    let in_ring = |start: usize| {
        std::iter::successors(awaited.get(&start), |place| awaited.get(place))
            .take(awaited.len())
            .any(|place| *place == start)
    };
    let ring: BTreeSet<usize> = awaited.keys().copied().filter(|at| in_ring(*at)).collect();
    awaited.retain(|origin, _| !ring.contains(origin));
    Pairs { moves, awaited }
}

/// Judges one look, given where the project came from and whether the one on record went away.
fn judge(
    look: &Look,
    origin: Option<&Look>,
    departed: bool,
    removals: Removals,
    relocate: &Relocate<'_>,
) -> Inference {
    let mut events: Vec<Inferred> = Vec::new();
    let mut recorded = if departed {
        left_behind(look)
    } else {
        look.recorded.clone()
    };
    if let Some(origin) = origin {
        if recorded.definition.is_some() {
            // The project that was here is gone, and another one moved into its place.
            events = infer(&recorded, &look.observed, Removals::Count).events;
            events.retain(|event| {
                matches!(
                    event.kind,
                    EventKind::ProjectDelete | EventKind::ProjectDeleteAndUnpublish
                )
            });
            recorded = left_behind(look);
        }
        for file in carried_along(origin, look, relocate) {
            recorded.put(file);
        }
    }
    let mut inference = infer(&recorded, &look.observed, removals);
    events.append(&mut inference.events);
    inference.events = events;
    inference
}

/// What stays on record in a place that a project moved away from: the files that are still there
/// as they were, or may be.
fn left_behind(look: &Look) -> Recorded {
    let observed = &look.observed;
    look.recorded
        .files()
        .filter(|file| match observed.files.get(&file.path) {
            Some(Sighting::Complete(seen)) => seen.role == file.role && seen.hash == file.hash,
            // It is certain that the definition went.
            Some(Sighting::Unclear { .. }) => file.role != Role::Definition,
            None => file.role != Role::Definition && !observed.is_gone(&file.path),
        })
        .cloned()
        .collect()
}

/// What a moved project brings on record to its new place: everything that was on record in the old
/// place and is there no more. What is not seen here yet is on record as missing: a move may be made
/// file by file, as by a checkout, and what comes later is no news.
fn carried_along(origin: &Look, here: &Look, relocate: &Relocate<'_>) -> Vec<FileState> {
    let stayed = left_behind(origin);
    let left = origin
        .recorded
        .files()
        .filter(|file| stayed.file(&file.path).is_none());
    let mut carried: Vec<FileState> = Vec::new();
    // Where two files come to one place, as from two templates, the one that is seen there counts.
    let mut put = |file: &FileState, path: &str| {
        let is_seen = here
            .observed
            .complete(file.role)
            .any(|seen| seen.path == path && seen.hash == file.hash);
        let known = carried.iter().position(|known| known.path == path);
        let moved = FileState {
            path: path.to_owned(),
            ..file.clone()
        };
        match known.and_then(|at| carried.get_mut(at)) {
            Some(known) if is_seen => *known = moved,
            Some(_) => {}
            None => carried.push(moved),
        }
    };
    for file in left {
        let mut seen = here
            .observed
            .complete(file.role)
            .filter(|seen| seen.role == Role::Definition || seen.tag == file.tag)
            .peekable();
        if seen.peek().is_none()
            && let Some(path) = relocate(file, &here.key)
        {
            put(file, &path);
        }
        for seen in seen {
            put(file, &seen.path);
        }
    }
    carried
}
