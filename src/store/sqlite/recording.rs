//! Implements [`Recording`]: reads the record and records batches.

use rusqlite::Connection;

use super::{SqliteStore, guard, payload, problems, record, recorded};
use crate::domain::project::{ContentHash, Identity, Mark, ProjectKey, Recorded};
use crate::store::batch::{Batch, Change, Committed, MetaKey};
use crate::store::contract::{Recording, Records};
use crate::store::error::StoreError;
use crate::store::listing::RecordedProblem;
use crate::store::payload::prepare;

impl Records for SqliteStore {
    fn recorded(&self, key: &ProjectKey) -> Result<Recorded, StoreError> {
        self.read_blocking(|connection| recorded::project(connection, key))
    }

    fn keys_of(&self, repository: Option<&str>) -> Result<Vec<ProjectKey>, StoreError> {
        self.read_blocking(|connection| recorded::keys(connection, repository))
    }

    fn n_defined_of(&self, repository: Option<&str>) -> Result<usize, StoreError> {
        self.read_blocking(|connection| recorded::n_defined(connection, repository))
    }

    fn meta_of(
        &self,
        repository: Option<&str>,
        key: MetaKey,
    ) -> Result<Option<String>, StoreError> {
        self.read_blocking(|connection| recorded::meta(connection, repository, key))
    }

    fn problems(&self, limit: usize) -> Result<Vec<RecordedProblem>, StoreError> {
        self.read_blocking(move |connection| problems::list(connection, limit))
    }
}

impl Recording for SqliteStore {
    fn recorded_many(&self, keys: &[ProjectKey]) -> Result<Vec<Recorded>, StoreError> {
        let read = |connection: &Connection| {
            keys.iter()
                .map(|key| recorded::project(connection, key))
                .collect()
        };
        self.read_blocking(read)
    }

    fn marks(&self, keys: Vec<ProjectKey>) -> Result<Vec<Vec<Mark>>, StoreError> {
        self.read_blocking(move |connection| recorded::marks(connection, &keys))
    }

    fn keys_in(&self, organization: &str) -> Result<Vec<ProjectKey>, StoreError> {
        self.read_blocking(|connection| recorded::keys_in(connection, organization))
    }

    fn with_identities(&self, wanted: &[Identity]) -> Result<Vec<Vec<ProjectKey>>, StoreError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let read = |connection: &Connection| {
            let wanted = wanted.iter();
            wanted
                .map(|identity| recorded::with_identity(connection, identity))
                .collect()
        };
        self.read_blocking(read)
    }

    fn kept_ids(&self) -> Result<Vec<(ProjectKey, String)>, StoreError> {
        self.read_blocking(recorded::kept_ids)
    }

    fn record(&self, mut batch: Batch) -> Result<Committed, StoreError> {
        let payloads = prepare(&mut batch, &self.shared.location, |hashes| {
            self.read_blocking(|connection| payload::stored(connection, hashes))
        })?;
        let replaced: Vec<ContentHash> =
            batch.changes.iter().filter_map(Change::replaced).collect();
        let committed =
            self.write_blocking(move |connection| record::record(connection, &batch, &payloads))?;
        guard(&self.shared.garbage).add(replaced);
        Ok(committed)
    }
}
