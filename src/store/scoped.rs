//! The record of one repository, for inference.
//!
//! Constraint: several repositories may share one store. The keys of their projects differ. But an
//! engine must list only the keys of its own repository, and read only the facts about it. If the
//! repository has no name, it is the only one, and every call passes unchanged. `on_call` shows
//! other threads whether a call is running. So if the database does not answer, they report the
//! database, not the file system.

use std::sync::Arc;

use jiff::Timestamp;

use super::batch::{Batch, Committed, MetaKey};
use super::error::StoreError;
use super::listing::RecordedProblem;
use super::{Backend, Store};
use crate::domain::project::{Identity, Mark, ProjectKey, Recorded, stored_organization};

/// The store for the engine of one repository. All clones use the same store.
///
/// Operations on given projects pass unchanged, because the keys name the repository.
#[derive(Clone)]
pub(crate) struct RepositoryStore {
    store: Store,
    /// The name of the repository, if there are several.
    name: Option<Arc<str>>,
    /// Called with true before each operation of the store, and with false after it.
    on_call: Arc<dyn Fn(bool) + Send + Sync>,
}

impl RepositoryStore {
    pub(crate) fn new(store: Store, name: Option<Arc<str>>) -> Self {
        Self {
            store,
            name,
            on_call: Arc::new(|_| {}),
        }
    }

    pub(crate) fn on_call(mut self, on_call: impl Fn(bool) + Send + Sync + 'static) -> Self {
        self.on_call = Arc::new(on_call);
        self
    }

    fn call<T>(&self, call: impl FnOnce(&dyn Backend) -> T) -> T {
        (self.on_call)(true);
        let answer = call(&*self.store);
        (self.on_call)(false);
        answer
    }

    /// Returns the time by the database's clock, if any. See `Delivering::shared_now`.
    pub(crate) fn shared_now(&self) -> Option<Timestamp> {
        self.call(|store| store.shared_now())
    }

    fn is_of_this(&self, key: &ProjectKey) -> bool {
        key.repository() == self.name.as_deref()
    }

    /// Lists the projects with a record, sorted.
    pub(crate) fn keys(&self) -> Result<Vec<ProjectKey>, StoreError> {
        self.call(|store| store.keys_of(self.name.as_deref()))
    }

    /// Counts the projects with a recorded definition.
    pub(crate) fn n_defined(&self) -> Result<usize, StoreError> {
        self.call(|store| store.n_defined_of(self.name.as_deref()))
    }

    /// Lists the projects with each identity. See `Recording::with_identities`.
    pub(crate) fn with_identities(
        &self,
        wanted: &[Identity],
    ) -> Result<Vec<Vec<ProjectKey>>, StoreError> {
        let mut found = self.call(|store| store.with_identities(wanted))?;
        for keys in &mut found {
            keys.retain(|key| self.is_of_this(key));
        }
        Ok(found)
    }

    /// Lists the projects that keep an id. See `Recording::kept_ids`.
    pub(crate) fn kept_ids(&self) -> Result<Vec<(ProjectKey, String)>, StoreError> {
        let mut kept = self.call(|store| store.kept_ids())?;
        kept.retain(|(key, _)| self.is_of_this(key));
        Ok(kept)
    }

    /// Reads a fact about the repository.
    pub(crate) fn meta(&self, key: MetaKey) -> Result<Option<String>, StoreError> {
        self.call(|store| store.meta_of(self.name.as_deref(), key))
    }

    /// Lists all invalid files of the repository, sorted by project and path.
    pub(crate) fn problems(&self) -> Result<Vec<RecordedProblem>, StoreError> {
        let mut problems = self.call(|store| store.problems(usize::MAX))?;
        if let Some(name) = self.name.as_deref() {
            problems.retain(|problem| {
                let key = problem.key.as_ref();
                key.is_some_and(|key| key.repository() == Some(name))
            });
            for problem in &mut problems {
                problem.key = problem.key.take().filter(|key| !key.project.is_empty());
            }
        }
        Ok(problems)
    }

    pub(crate) fn record(&self, mut batch: Batch) -> Result<Committed, StoreError> {
        if let Some(name) = &self.name {
            for (key, _) in &mut batch.problems {
                // Without a key, the files are outside any project. The new key names their
                // repository.
                key.get_or_insert_with(|| ProjectKey::new(stored_organization(Some(name), ""), ""));
            }
            batch.repository = Some(Arc::clone(name));
        }
        self.call(|store| store.record(batch))
    }

    /// See [`Recording::recorded_many`](super::Recording::recorded_many).
    pub(crate) fn recorded_many(&self, keys: &[ProjectKey]) -> Result<Vec<Recorded>, StoreError> {
        self.call(|store| store.recorded_many(keys))
    }

    /// See [`Recording::marks`](super::Recording::marks).
    pub(crate) fn marks(&self, keys: Vec<ProjectKey>) -> Result<Vec<Vec<Mark>>, StoreError> {
        self.call(|store| store.marks(keys))
    }

    /// Lists the recorded projects of an organization, sorted.
    pub(crate) fn keys_in(&self, organization: &str) -> Result<Vec<ProjectKey>, StoreError> {
        self.call(|store| store.keys_in(organization))
    }

    /// Whether the state is still where it was opened.
    pub(crate) fn is_in_place(&self) -> bool {
        self.call(|store| store.is_in_place())
    }

    /// The place of the state, for messages.
    pub(crate) fn location(&self) -> &str {
        self.store.location()
    }
}
