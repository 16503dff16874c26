//! Finds the directories that share a project id.
//!
//! Constraint: the last event of a project id must show whether its project exists. Two rules
//! ensure this:
//!
//! - A project is deleted from its organization once: when the last directory with its id is gone.
//!   So replacing a directory with a copy of itself causes no event. Missing directories wait for
//!   each other and are judged together, even if their removals were noticed at different times.
//!   If several directories are gone, one of them gets the delete: the last by name of those with
//!   recorded published copies. If none has such copies, it is the last by name of all.
//! - A project that moved to another organization is first deleted from the old organization, and
//!   then imported into the new one. The arrived project waits until the old directory is judged.
//!   If the old directory still has the project, the arrived project is a copy and does not wait.
//!
//! If the definition in the old directory cannot be read, the project may have moved or may be a
//! copy. The arrived project is then imported after the settle time.
//!
//! For n directories the work is at most n log n, even if many organizations have copies of one
//! project.
//!
//! The identity is the project id; see [`super::identity`]. An arrived project whose content has
//! no id is not recognised as coming from another organization.

use std::collections::{BTreeMap, BTreeSet};

use super::infer::Removals;
use super::moves::Comparison;
use super::project::{FileState, Identity, ProjectKey};
use super::work;

/// Why an arrived project is not imported yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The project left this directory of another organization, and must be deleted there first.
    Removal(ProjectKey),
    /// The project may have left this directory of another organization.
    ///
    /// The definition there cannot be read. The arrived project waits for the settle time.
    Unclear(ProjectKey),
}

/// The consequence of a confirmed removal in one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal<'a> {
    Deletes,
    /// Another directory still has the project, or the project is deleted from that directory.
    MergesInto(&'a ProjectKey),
    /// Another directory with the project is gone too, but its removal is not confirmed.
    WaitsFor(&'a ProjectKey),
}

/// The directories of one organization that have, or had, the same project.
#[derive(Default)]
struct Places<'a> {
    /// A directory that has the project, or may have it.
    stays: Option<&'a ProjectKey>,
    /// A directory that the project has certainly left, but whose removal is not confirmed.
    unconfirmed: Option<&'a ProjectKey>,
    /// Of the directories with a confirmed removal, the one that the project is deleted from.
    ///
    /// The flag tells whether published copies were recorded in this directory.
    last: Option<(bool, &'a ProjectKey)>,
    /// A directory whose definition cannot be read.
    unclear: Option<&'a ProjectKey>,
}

impl<'a> Places<'a> {
    /// The directory that an arrival in another organization waits for.
    fn holder(&self) -> Option<Holder<'a>> {
        let last = self.last.map(|(_, key)| key);
        let left = self.unconfirmed.or(last);
        let left = left.filter(|_| self.stays.is_none());
        let left = left.map(Holder::Left);
        left.or_else(|| self.unclear.map(Holder::Unclear))
    }
}

/// A directory that arrivals in other organizations wait for.
#[derive(Clone, Copy)]
enum Holder<'a> {
    /// The project is gone from this directory.
    Left(&'a ProjectKey),
    /// The definition in this directory cannot be read.
    Unclear(&'a ProjectKey),
}

/// The first holders of an identity, by the names of their organizations.
///
/// Two of each kind are enough, because an arrival ignores at most one: that of its organization.
#[derive(Default)]
struct Holders<'a>(Vec<Holder<'a>>);

impl<'a> Holders<'a> {
    fn of(organizations: &BTreeMap<&'a str, Places<'a>>) -> Self {
        let (mut n_left, mut n_unclear) = (0, 0);
        let holders = organizations.values().filter_map(Places::holder);
        let first = holders.filter(|holder| {
            work::visit();
            let n = match holder {
                Holder::Left(_) => &mut n_left,
                Holder::Unclear(_) => &mut n_unclear,
            };
            *n += 1;
            *n <= 2
        });
        Self(first.collect())
    }
}

/// All directories of the comparisons.
pub(super) struct SharedIds<'a> {
    places: BTreeMap<Identity, BTreeMap<&'a str, Places<'a>>>,
    /// The holders of each identity, if it has any.
    holders: BTreeMap<Identity, Holders<'a>>,
}

impl<'a> SharedIds<'a> {
    /// Groups the directories of the comparisons by identity and organization.
    ///
    /// `moves` maps the index of each new location to the index of the old location. Both locations
    /// are in the same organization.
    pub(super) fn of(
        comparisons: &[&'a Comparison],
        moves: &BTreeMap<usize, usize>,
        origins: &BTreeSet<usize>,
    ) -> Self {
        let mut all = Self {
            places: BTreeMap::new(),
            holders: BTreeMap::new(),
        };
        for (index, comparison) in comparisons.iter().copied().enumerate() {
            let key = &comparison.key;
            let seen = comparison.observed.definition();
            let origin = moves
                .get(&index)
                .and_then(|origin| comparisons.get(*origin));
            let arrived = comparison.arrival().map(FileState::identity);
            let moved = origin.and_then(|origin| origin.recorded_identity());
            for identity in arrived.into_iter().chain(moved).filter(Identity::is_id) {
                all.places(identity, key).stays = Some(key);
            }
            let Some(identity) = comparison.recorded_identity() else {
                continue;
            };
            if origins.contains(&index) {
                continue;
            }
            let places = all.places(identity, key);
            if comparison.departure().is_some() {
                if comparison.removals == Removals::Unconfirmed {
                    places.unconfirmed = Some(key);
                } else {
                    let was_published = !comparison.recorded.published.is_empty();
                    places.last = places.last.max(Some((was_published, key)));
                }
            } else {
                places.stays = Some(key);
                if seen.is_none() {
                    places.unclear = Some(key);
                }
                // A save may give the project its first id, which other directories may share.
                let saved = seen.zip(comparison.recorded.definition.as_ref());
                if let Some((seen, before)) = saved {
                    let identity = seen.succeeding(before).project_identity(key);
                    all.places(identity, key).stays = Some(key);
                }
            }
        }
        let holders = all.places.iter().map(|(identity, organizations)| {
            let holders = Holders::of(organizations);
            (identity, holders)
        });
        let holders = holders.filter(|(_, holders)| !holders.0.is_empty());
        let holders = holders.map(|(identity, holders)| (identity.clone(), holders));
        all.holders = holders.collect();
        all
    }

    fn places(&mut self, identity: Identity, key: &'a ProjectKey) -> &mut Places<'a> {
        let organizations = self.places.entry(identity).or_default();
        organizations.entry(&key.organization).or_default()
    }

    /// Returns the consequence of the confirmed removal in this directory.
    pub(super) fn removal(&self, here: &Comparison) -> Removal<'a> {
        let identity = here.departure().and_then(|_| here.recorded_identity());
        let organizations = identity.and_then(|identity| self.places.get(&identity));
        let places = organizations.and_then(|all| all.get(here.key.organization.as_str()));
        let Some(places) = places else {
            return Removal::Deletes;
        };
        if let Some(other) = places.stays {
            return Removal::MergesInto(other);
        }
        match (places.unconfirmed, places.last) {
            // The successor of a replaced project must not wait for another directory.
            (Some(other), _) if here.observed.definition().is_some() => Removal::MergesInto(other),
            (Some(other), _) => Removal::WaitsFor(other),
            (None, Some((_, last))) if *last != here.key => Removal::MergesInto(last),
            (None, _) => Removal::Deletes,
        }
    }

    /// Whether the project that was deleted here is in its organization again.
    ///
    /// Then no `ProjectDeleteAndUnpublish` is inferred here, because a receiver would treat it as
    /// the end of the project.
    pub(super) fn is_back(&self, here: &Comparison) -> bool {
        let deleted = here.recorded.deleted.as_ref();
        let identity = deleted.map(|deleted| deleted.project_identity(&here.key));
        let organizations = identity.and_then(|identity| self.places.get(&identity));
        let places = organizations.and_then(|all| all.get(here.key.organization.as_str()));
        places.is_some_and(|places| places.stays.is_some())
    }

    /// Returns why the project that arrived here is not imported yet.
    pub(super) fn hold(&self, here: &Comparison) -> Option<Hold> {
        let holders = self.holders.get(&here.arrival()?.identity())?;
        let is_settled = here.removals == Removals::Confirmed;
        holders.0.iter().find_map(|holder| {
            work::visit();
            let (key, hold) = match *holder {
                Holder::Left(key) => (key, Hold::Removal(key.clone())),
                Holder::Unclear(_) if is_settled => return None,
                Holder::Unclear(key) => (key, Hold::Unclear(key.clone())),
            };
            (key.organization != here.key.organization).then_some(hold)
        })
    }
}
