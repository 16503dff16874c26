//! The recorded repositories that are not watched.

use serde::Serialize;
use utoipa::ToSchema;

use super::SHOWN_MAX;
use crate::store::{Listings, StoreError};

/// A recorded repository that is not in the list of watched repositories.
#[derive(Serialize, ToSchema)]
pub(crate) struct UnwatchedReport {
    pub(crate) name: String,
    /// The number of recorded projects.
    pub(crate) projects: usize,
    /// The number of pending deliveries. A number above 10,000 means more than 10,000.
    pub(crate) pending: u64,
}

impl UnwatchedReport {
    /// Lists the repositories outside `watched` that have recorded projects or pending deliveries.
    pub(super) fn all(watched: &[String], record: &Listings) -> Result<Vec<Self>, StoreError> {
        let mut all = Vec::new();
        for name in record.repositories()? {
            if watched.contains(&name) {
                continue;
            }
            let projects = record.n_defined_of(Some(&name))?;
            let pending = record.n_pending_of(&name, SHOWN_MAX.saturating_add(1))?;
            if projects > 0 || pending > 0 {
                all.push(Self {
                    name,
                    projects,
                    pending,
                });
            }
        }
        Ok(all)
    }

    /// Describes the repository in words.
    pub(crate) fn text(&self) -> String {
        let projects = match self.projects {
            1 => "1 project".to_owned(),
            n => format!("{n} projects"),
        };
        let pending = match self.pending {
            0 => String::new(),
            1 => ", 1 pending delivery".to_owned(),
            n if n > SHOWN_MAX => format!(", more than {SHOWN_MAX} pending deliveries"),
            n => format!(", {n} pending deliveries"),
        };
        let name = &self.name;
        format!("{name}: not in the list of watched repositories; {projects} recorded{pending}")
    }
}
