//! Path templates, and what they say about paths.
//!
//! Constraint: no I/O, and one walker's view. A [`Cursor`] stands at a path below the root and
//! knows which templates can still match there; the scan of the whole tree, the look at one
//! project and the reading of a hint's path are all steps of a cursor.

use std::collections::BTreeSet;

use crate::domain::project::{ProjectKey, Role};

/// The templates of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    templates: std::sync::Arc<[Template]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Template;

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TemplateError {
    /// The role it was given for.
    pub role: Role,
    /// Its place in the list of that role, from 0.
    pub index: usize,
    /// What is wrong with it, and what is allowed.
    pub reason: String,
}

impl Layout {
    /// The layout of these templates, or everything that is wrong with them: faults of one
    /// template, and pairs that can match the same path.
    pub fn new(
        _project: &[String],
        _published: &[String],
        _snapshot: &[String],
    ) -> Result<Self, Vec<TemplateError>> {
        let _unused: (BTreeSet<u8>, Option<ProjectKey>);
        Ok(Self {
            templates: std::sync::Arc::from([]),
        })
    }
}
