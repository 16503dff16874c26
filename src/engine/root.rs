//! Guards the root: only a trusted directory is compared with the record.
//!
//! Constraint: no event is inferred while the root is missing or an unknown directory is in its
//! place. An unknown directory is trusted only after a survey: at least half of the recorded
//! projects must have files there. So a deployment may swap directories while the daemon runs. An
//! empty mount point is not trusted if projects are recorded.
//!
//! If a survey finds enough projects after an earlier survey found too few, somebody is probably
//! restoring the root. Then the removals of projects that are still missing are held. During a
//! start, this applies to the first survey too, because earlier surveys are unknown.

use std::io;
use std::path::PathBuf;

use crate::domain::project::ProjectKey;
use crate::repository::{Root, RootIdentity};
use crate::store::{RepositoryStore, StoreError};

/// The number of recorded projects that a survey reads from the store in one call.
pub(super) const SURVEYED_AT_ONCE: usize = 256;

/// The result of a check of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The root is the watched directory, or its watches are being set.
    InPlace,
    /// The root is missing or unreadable, for this reason.
    Lost(String),
    /// The root exists, but it is not the directory that is watched.
    Back,
    /// The root exists but cannot be opened, for this reason.
    Failed(String),
    /// The root can be opened again after a failure.
    Works,
}

/// The state of the root, and whether it is trusted.
#[derive(Debug)]
pub(crate) struct RootGuard {
    path: PathBuf,
    state: State,
    /// Whether the root could not be opened in the last check.
    has_failed: bool,
    /// The recorded identity of the root.
    recorded: Option<String>,
    is_trusted: bool,
    /// Whether a survey found too few projects. [`RootGuard::take_incomplete`] resets this.
    was_incomplete: bool,
    /// The number of recorded projects in the last survey.
    n_recorded: usize,
    /// The number of these projects that the survey found. A survey may stop at half of all.
    n_found: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SettingWatches,
    Watched(RootIdentity),
    Lost,
}

impl RootGuard {
    /// Makes a guard for a root whose watches are not set yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: State::SettingWatches,
            has_failed: false,
            recorded: None,
            is_trusted: false,
            was_incomplete: false,
            n_recorded: 0,
            n_found: 0,
        }
    }

    pub(crate) fn remember(&mut self, recorded: Option<String>) {
        self.recorded = recorded;
    }

    pub(crate) fn recorded(&self) -> Option<String> {
        self.recorded.clone()
    }

    /// Records that the watches are being set again.
    pub(crate) fn watching_begins(&mut self) {
        self.state = State::SettingWatches;
    }

    /// Records that a walk watches this root. `None` if there was no root to watch.
    pub(crate) fn watched(&mut self, root: Option<RootIdentity>) {
        self.state = match root {
            Some(identity) => State::Watched(identity),
            None => State::Lost,
        };
        self.is_trusted = root.is_some_and(|identity| {
            self.recorded
                .as_ref()
                .is_none_or(|recorded| *recorded == identity.to_record())
        });
    }

    /// Whether a root is watched.
    pub(crate) fn is_watched(&self) -> bool {
        matches!(self.state, State::Watched(_))
    }

    /// Opens the root. Returns `None` if it is not the watched directory.
    pub(crate) fn open(&self) -> io::Result<Option<Root>> {
        let State::Watched(identity) = self.state else {
            return Ok(None);
        };
        let root = Root::open(&self.path)?;
        Ok((root.identity() == identity).then_some(root))
    }

    /// Checks whether the root's path still leads to the watched directory.
    ///
    /// A root without read permission is treated as lost, because its files cannot be observed. If
    /// the root exists but cannot be opened for another reason, the state does not change.
    pub(crate) fn check(&mut self) -> Check {
        let entered = Root::open(&self.path).and_then(|root| root.open_directory(""));
        let found = match (Root::identity_at(&self.path), entered) {
            (Ok(_), Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            (Ok(_), Err(error)) => {
                self.has_failed = true;
                return Check::Failed(format!(
                    "the repository's root {} cannot be opened: {error}",
                    self.path.display()
                ));
            }
            (found, _) => found,
        };
        let works_again = std::mem::take(&mut self.has_failed);
        match (self.state, found) {
            (State::Watched(identity), Ok(found)) if found == identity && works_again => {
                Check::Works
            }
            (State::SettingWatches, _) => Check::InPlace,
            (State::Watched(identity), Ok(found)) if found == identity => Check::InPlace,
            (_, Ok(_)) => Check::Back,
            (_, Err(error)) => {
                self.state = State::Lost;
                let path = self.path.display();
                Check::Lost(match error.kind() {
                    io::ErrorKind::PermissionDenied => format!(
                        "the repository {path} cannot be read ({error}); give the daemon's user, or one \
                         of its groups, permission to read and enter this directory"
                    ),
                    io::ErrorKind::NotFound => {
                        format!("the repository {path} is missing ({error})")
                    }
                    _ => format!("the repository {path} is not available ({error})"),
                })
            }
        }
    }

    /// Whether a survey has to decide if this root is trusted.
    pub(crate) fn needs_survey(&self) -> bool {
        self.is_watched() && !self.is_trusted
    }

    /// Counts the recorded projects that have a file below this root. Stops at half of all.
    ///
    /// Calls `on_progress` before each project. Returns whether the root is trusted.
    pub(super) fn survey(
        &mut self,
        store: &RepositoryStore,
        recorded: &[ProjectKey],
        on_progress: impl Fn(),
    ) -> Result<bool, StoreError> {
        let Ok(Some(root)) = self.open() else {
            return Ok(false);
        };
        let mut found = 0_usize;
        for keys in recorded.chunks(SURVEYED_AT_ONCE) {
            for files in store.recorded_many(keys)? {
                on_progress();
                let has_a_file = files.files().any(|file| root.open_file(&file.path).is_ok());
                found = found.saturating_add(usize::from(has_a_file));
            }
            if found.saturating_mul(2) >= recorded.len() {
                break;
            }
        }
        Ok(self.surveyed(found, recorded.len()))
    }

    /// Records the result of a survey. Returns whether the root is trusted.
    pub(crate) fn surveyed(&mut self, n_found: usize, n_recorded: usize) -> bool {
        self.n_found = n_found;
        self.n_recorded = n_recorded;
        self.is_trusted = self.is_watched() && n_found.saturating_mul(2) >= n_recorded;
        self.was_incomplete |= !self.is_trusted;
        self.is_trusted
    }

    /// Returns whether an earlier survey found too few projects, and resets this flag.
    ///
    /// If so, somebody is probably restoring the root. Missing projects may come back.
    pub(super) fn take_incomplete(&mut self) -> bool {
        std::mem::take(&mut self.was_incomplete)
    }

    /// Whether this root may be compared with the record.
    pub(crate) fn is_trusted(&self) -> bool {
        self.is_watched() && self.is_trusted
    }

    /// Returns the identity of the root, if it has to be recorded.
    pub(crate) fn identity_to_record(&self) -> Option<String> {
        let State::Watched(identity) = self.state else {
            return None;
        };
        let identity = identity.to_record();
        (self.is_trusted && self.recorded.as_ref() != Some(&identity)).then_some(identity)
    }

    /// Returns the reason why the root is not trusted, for the log and `status`.
    pub(crate) fn distrust(&self) -> Option<String> {
        self.needs_survey().then(|| {
            format!(
                "{} is not the directory that was watched before: it has files of only {} of the {} \
                 recorded projects, so no events are inferred from it. Is a file system not mounted, \
                 or repository.path wrong? To start over with this directory, stop the daemon and \
                 set state_dir to an empty directory; with store.postgres or several repositories, give \
                 the repository another name instead",
                self.path.display(),
                self.n_found,
                self.n_recorded
            )
        })
    }
}
