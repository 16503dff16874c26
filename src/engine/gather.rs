//! Observes due projects, and the old directories of projects that may have moved.
//!
//! Constraint: if a project moves during a step, the step must not see it in both directories.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::copies::{Copies, FEW};
use super::kept_ids::KeptIds;
use super::observation::{Arrived, Gathered, Observation};
use super::reported_files::ReportedFiles;
use crate::clock::Clock;
use crate::domain::infer::{Removals, missing};
use crate::domain::moves::Comparison;
use crate::domain::project::{FileState, Identity, ObservedFile, ProjectKey};
use crate::domain::settle::{Agenda, Due};
use crate::observe::{Contents, Observer};
use crate::repository::Root;
use crate::store::{RepositoryStore, StoreError};

/// The number of read bytes after which a step observes no more due projects.
///
/// The remaining due projects are due in the next step again.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Identifies a project in any directory by its id, or by organization and content.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct SameProject(Option<String>, Identity);

impl SameProject {
    fn of_arrived(arrived: &Arrived) -> Self {
        Self::new(&arrived.key, arrived.identity.clone())
    }

    fn new(key: &ProjectKey, identity: Identity) -> Self {
        let organization = (!identity.is_id()).then(|| key.organization.clone());
        Self(organization, identity)
    }

    /// Returns the identities of the project whose definition is in this directory.
    ///
    /// These are the observed identity and, unless another project arrived, the recorded identity.
    fn shown_by(comparison: &Comparison) -> impl Iterator<Item = Self> {
        let key = &comparison.key;
        let seen = comparison.observed.definition();
        let is_recorded = seen.is_some() && comparison.arrival().is_none();
        let recorded = comparison.recorded_identity().filter(|_| is_recorded);
        let own = seen.map(FileState::identity);
        let own = own.filter(|identity| Some(identity) != recorded.as_ref());
        recorded
            .into_iter()
            .chain(own)
            .map(|identity| Self::new(key, identity))
    }
}

/// The parts that a step needs for its observations.
pub(super) struct Gatherer<'a> {
    pub root: &'a Root,
    pub store: &'a RepositoryStore,
    pub observer: &'a mut Observer,
    pub agenda: &'a Agenda,
    pub reported: &'a mut ReportedFiles,
    /// The recorded projects whose id is not in their definition. `None` until they are needed.
    pub kept: &'a mut Option<KeptIds>,
    pub copies: &'a mut Copies,
    pub clock: Clock,
    /// Whether missing files are treated as removed immediately.
    ///
    /// True while projects are recorded without events.
    pub is_adopting: bool,
    pub now: Timestamp,
}

impl Gatherer<'_> {
    /// Observes due projects, and the other projects that are needed to judge them.
    ///
    /// After an error, `gathered` keeps the reported files taken so far.
    pub(super) fn gather(
        &mut self,
        due: Vec<Due>,
        gathered: &mut Gathered,
    ) -> Result<(), StoreError> {
        self.observe_each(due, BATCH_BYTES, gathered)?;
        self.read_kept(gathered)?;
        self.judge_held(gathered);
        let mut first = 0;
        loop {
            let n_observed = gathered.observations.len();
            let new = gathered.observations.iter().skip(first);
            let arrived: Vec<Arrived> = new.filter_map(Observation::arrival).collect();
            self.observe_origins_again(&arrived, gathered);
            let mut more = self.recorded_origins(&arrived, gathered)?;
            more.extend(self.destinations(first, gathered, &more));
            if more.is_empty() {
                more = self.recorded_elsewhere(gathered)?;
            }
            if more.is_empty() {
                break;
            }
            first = n_observed;
            // No limit of bytes here: without the old directory of a moved project, the move would
            // be an import. Usually few bytes are read, because removed projects have no files, and
            // unchanged files are not read.
            self.observe_each(more, usize::MAX, gathered)?;
        }
        self.observe_arrivals_again(gathered);
        self.avoid_kept_ids(gathered);
        gathered.postpone_later_files();
        for observation in &mut gathered.observations {
            observation.comparison.removals = self.removals(&observation.comparison);
            self.copies.observed(&observation.comparison);
        }
        Ok(())
    }

    /// Observes projects until more than `bytes_max` bytes were read.
    fn observe_each(
        &mut self,
        due: Vec<Due>,
        bytes_max: usize,
        gathered: &mut Gathered,
    ) -> Result<(), StoreError> {
        let keys: Vec<ProjectKey> = due.iter().map(|due| due.key.clone()).collect();
        let recorded = self.store.recorded_many(&keys)?;
        for (due, recorded) in due.into_iter().zip(recorded) {
            if gathered.contents.n_read() > bytes_max {
                break;
            }
            let reported = self.reported.take(&due.key);
            let contents = &mut gathered.contents;
            let seen = self.observer.observe(
                self.root, &due.key, &recorded, &reported, contents, self.now,
            );
            gathered.keys.insert(due.key.clone());
            gathered.observations.push(Observation {
                origin: due.origin,
                hint: due.hint,
                before: recorded.clone(),
                comparison: Comparison {
                    key: due.key,
                    recorded,
                    observed: seen.observed,
                    removals: Removals::Unconfirmed,
                },
                home: seen.home,
                events: Vec::new(),
                reported,
                counted: Vec::new(),
                waiting: Vec::new(),
                linked: Vec::new(),
            });
        }
        Ok(())
    }

    fn observe_again(&mut self, observation: &mut Observation, contents: &mut Contents) {
        let (key, recorded) = (&observation.comparison.key, &observation.before);
        let reported = &observation.reported;
        let seen = self
            .observer
            .observe(self.root, key, recorded, reported, contents, self.now);
        observation.comparison.observed = seen.observed;
        observation.home = seen.home;
    }

    /// Reads the kept ids ([`KeptIds`]) if a new or removed project was observed.
    fn read_kept(&mut self, gathered: &Gathered) -> Result<(), StoreError> {
        let mut observations = gathered.observations.iter();
        let needs_them = observations.any(|one| {
            let comparison = &one.comparison;
            comparison.arrival().is_some() || comparison.departure().is_some()
        });
        if needs_them && !self.is_adopting && self.kept.is_none() {
            *self.kept = Some(KeptIds::of(self.store.kept_ids()?));
        }
        Ok(())
    }

    /// Gives new projects without an id a generated id that no recorded project keeps.
    fn avoid_kept_ids(&self, gathered: &mut Gathered) {
        let Some(kept) = self.kept.as_ref() else {
            return;
        };
        for observation in &mut gathered.observations {
            let Comparison {
                key,
                recorded,
                observed,
                ..
            } = &mut observation.comparison;
            if recorded.definition.is_some() {
                continue;
            }
            for file in observed.files.values_mut() {
                if let ObservedFile::Complete(file) = file {
                    file.avoid_kept_ids(key, |id| kept.has(id));
                }
            }
        }
    }

    /// Returns recorded projects that may have moved to an arrived project's directory.
    ///
    /// They have the identity of the arrived project and are not observed yet. Projects that
    /// [`Copies`] knows to be in place are left out, unless the inode of their definition arrived.
    fn recorded_origins(
        &mut self,
        arrived: &[Arrived],
        gathered: &Gathered,
    ) -> Result<Vec<Due>, StoreError> {
        let mut by_identity: BTreeMap<&Identity, Vec<&Arrived>> = BTreeMap::new();
        for one in arrived {
            by_identity.entry(&one.identity).or_default().push(one);
        }
        self.learn(by_identity.keys().copied())?;
        let mut origins: BTreeMap<ProjectKey, Due> = BTreeMap::new();
        for (identity, arrived) in by_identity {
            let inodes = arrived.iter().map(|one| one.inode);
            let candidates = self.copies.may_have_left(identity, inodes);
            for key in candidates {
                if gathered.keys.contains(&key) || origins.contains_key(&key) {
                    continue;
                }
                let mut arrived = arrived.iter();
                let may_be_origin =
                    |one: &&&Arrived| identity.is_id() || key.organization == one.key.organization;
                if let Some(one) = arrived.find(may_be_origin) {
                    let due = Due {
                        key: key.clone(),
                        origin: one.origin,
                        hint: format!("its definition appeared in {}", one.key),
                    };
                    origins.insert(key, due);
                }
            }
        }
        Ok(origins.into_values().collect())
    }

    /// Returns the directories that departed projects wait to move to, except observed ones.
    ///
    /// If such a directory is not observed in the same step, the departed project seems to be gone,
    /// and could be deleted instead of moved.
    fn destinations(&self, first: usize, gathered: &Gathered, more: &[Due]) -> Vec<Due> {
        let new = gathered.observations.iter().skip(first);
        let departed = new.filter(|one| one.comparison.departure().is_some());
        let all: BTreeMap<&ProjectKey, &Observation> = departed
            .filter_map(|one| Some((self.agenda.moves_to(&one.comparison.key)?, one)))
            .collect();
        let is_new = |key: &ProjectKey| {
            !gathered.keys.contains(key) && more.iter().all(|due| due.key != *key)
        };
        let all = all.into_iter().filter(|(key, _)| is_new(key));
        all.map(|(key, observation)| Due {
            key: key.clone(),
            origin: observation.origin,
            hint: format!("{} moves here", observation.comparison.key),
        })
        .collect()
    }

    /// Reads the recorded projects with these identities, unless they are known.
    fn learn<'i>(
        &mut self,
        identities: impl Iterator<Item = &'i Identity>,
    ) -> Result<(), StoreError> {
        let unknown: Vec<Identity> = identities
            .filter(|identity| !self.copies.knows(identity))
            .cloned()
            .collect();
        let found = self.store.with_identities(&unknown)?;
        for (identity, mut keys) in unknown.iter().zip(found) {
            keys.extend(
                self.kept
                    .iter()
                    .flat_map(|kept| kept.with(identity))
                    .cloned(),
            );
            self.copies.learn(identity, &keys);
        }
        Ok(())
    }

    /// Returns unobserved recorded projects that share the id of a removed project.
    ///
    /// They are in the same organization. If one of them still exists, the removed project lives
    /// on there. So only a few are returned at a time. Considers only removed projects whose
    /// removal is confirmed, or whose id an arrived project has.
    fn recorded_elsewhere(&mut self, gathered: &Gathered) -> Result<Vec<Due>, StoreError> {
        let observations = gathered.observations.iter();
        let arrived: BTreeSet<Identity> = observations
            .filter_map(|observation| observation.comparison.arrival())
            .map(FileState::identity)
            .filter(Identity::is_id)
            .collect();
        let mut removed: BTreeMap<(&str, Identity), &Observation> = BTreeMap::new();
        let mut present: BTreeSet<(&str, Identity)> = BTreeSet::new();
        let mut n_observed: BTreeMap<(&str, Identity), usize> = BTreeMap::new();
        for observation in &gathered.observations {
            let comparison = &observation.comparison;
            let organization = comparison.key.organization.as_str();
            let seen = comparison.arrival().map(FileState::identity);
            present.extend(seen.map(|identity| (organization, identity)));
            let Some(identity) = comparison.recorded_identity() else {
                continue;
            };
            let place = (organization, identity);
            *n_observed.entry(place.clone()).or_default() += 1;
            let matters =
                arrived.contains(&place.1) || self.removals(comparison) == Removals::Confirmed;
            if comparison.departure().is_some() && matters {
                removed.insert(place, observation);
            } else {
                present.insert(place);
            }
        }
        removed.retain(|place, _| !present.contains(place));
        self.learn(removed.keys().map(|(_, identity)| identity))?;
        let mut others = Vec::new();
        for (place, observation) in removed {
            // The limit doubles in each round, so even many missing copies take only a few rounds.
            let limit = n_observed.get(&place).map_or(FEW, |n| FEW.max(*n));
            let (organization, identity) = place;
            let keys = self.copies.in_organization(&identity, organization);
            let new = keys.filter(|key| !gathered.keys.contains(*key));
            others.extend(new.take(limit).map(|key| Due {
                key: key.clone(),
                origin: observation.origin,
                hint: format!("it shares its id with {}", observation.comparison.key),
            }));
        }
        Ok(others)
    }

    /// Observes the old directories of arrived projects again.
    ///
    /// The first observation of an old directory may be older than the move. Then the project would
    /// seem to be in both directories.
    fn observe_origins_again(&mut self, arrived: &[Arrived], gathered: &mut Gathered) {
        let mut arrived_as: BTreeMap<SameProject, Vec<&ProjectKey>> = BTreeMap::new();
        for one in arrived {
            let keys = arrived_as.entry(SameProject::of_arrived(one)).or_default();
            keys.push(&one.key);
        }
        let Gathered {
            observations,
            contents,
            ..
        } = gathered;
        for observation in observations {
            let own = &observation.comparison.key;
            let is_origin = SameProject::shown_by(&observation.comparison)
                .filter_map(|here| arrived_as.get(&here))
                .flatten()
                .any(|key| *key != own);
            if is_origin && observation.before.definition.is_some() {
                self.observe_again(observation, contents);
            }
        }
    }

    /// Observes an arrived project again if another directory seems to have the same project.
    ///
    /// The project may have moved back in the meantime, for instance because somebody checked out
    /// another branch and then the first branch again. If it is still here, it is a copy.
    fn observe_arrivals_again(&mut self, gathered: &mut Gathered) {
        let mut shown: BTreeMap<SameProject, usize> = BTreeMap::new();
        for observation in &gathered.observations {
            for place in SameProject::shown_by(&observation.comparison) {
                *shown.entry(place).or_default() += 1;
            }
        }
        let Gathered {
            observations,
            contents,
            ..
        } = gathered;
        for observation in observations {
            let arrived = observation.arrival();
            let n_shown = arrived.and_then(|one| shown.get(&SameProject::of_arrived(&one)));
            if n_shown.is_some_and(|n| *n > 1) {
                self.observe_again(observation, contents);
            }
        }
    }

    fn removals(&self, comparison: &Comparison) -> Removals {
        if self.is_adopting {
            return Removals::Confirmed;
        }
        let missing = missing(&comparison.recorded, &comparison.observed);
        self.agenda
            .removals(&comparison.key, self.clock.moment(), &missing)
    }
}
