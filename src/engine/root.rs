//! Guards the root: it has to be the directory that the record was made of.
//!
//! Constraint: nothing is inferred from a root that is gone, or from another directory in its place.
//! A root that is not the recorded one is compared with the record only if it has files of at least
//! half of the recorded projects. A deployment that swaps directories passes. An empty mount point
//! does not, even if somebody wrote a project into it.

use std::io;
use std::path::PathBuf;

use crate::domain::project::ProjectKey;
use crate::repository::{Root, RootIdentity};
use crate::store::{Store, StoreError};

/// The number of recorded projects that a survey reads at once.
const SURVEYED_AT_ONCE: usize = 256;

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The root is the directory that is watched.
    InPlace,
    /// The root is gone, for this reason.
    Lost(String),
    /// A root is there that is not watched yet.
    Back,
}

/// The state of the root.
#[derive(Debug)]
pub(crate) struct RootGuard {
    path: PathBuf,
    state: State,
    /// The recorded identity.
    recorded: Option<String>,
    is_trusted: bool,
    /// The numbers of recorded and of found projects in the last survey.
    n_recorded: usize,
    n_found: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SettingWatches,
    Watched(RootIdentity),
    Lost,
}

impl RootGuard {
    /// A guard for a root whose watches are being set.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: State::SettingWatches,
            recorded: None,
            is_trusted: false,
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

    /// Notes that the watches are being set anew.
    pub(crate) fn watching_begins(&mut self) {
        self.state = State::SettingWatches;
    }

    /// Notes that the watches are set on this root, or that there was none.
    pub(crate) fn watched(&mut self, root: Option<RootIdentity>) {
        self.state = match root {
            Some(identity) => State::Watched(identity),
            None => State::Lost,
        };
        self.is_trusted = root.is_some_and(|identity| {
            self.recorded
                .as_ref()
                .is_none_or(|recorded| *recorded == identity.to_string())
        });
    }

    /// Whether there is a root that is watched.
    pub(crate) fn is_watched(&self) -> bool {
        matches!(self.state, State::Watched(_))
    }

    /// Opens the root; none if it is not the one that is watched.
    pub(crate) fn open(&self) -> io::Result<Option<Root>> {
        let State::Watched(identity) = self.state else {
            return Ok(None);
        };
        let root = Root::open(&self.path)?;
        Ok((root.identity() == identity).then_some(root))
    }

    /// Compares the root's path with the directory that is watched.
    ///
    /// A root without permission to read counts as gone, for nothing below it can be observed. Other
    /// failures to open it, such as too many open files, prove nothing.
    pub(crate) fn check(&mut self) -> Check {
        let found = Root::identity_at(&self.path).and_then(|identity| {
            let entered = Root::open(&self.path).and_then(|root| root.open_directory(""));
            match entered {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
                _ => Ok(identity),
            }
        });
        match (self.state, found) {
            (State::SettingWatches, _) => Check::InPlace,
            (State::Watched(identity), Ok(found)) if found == identity => Check::InPlace,
            (_, Ok(_)) => Check::Back,
            (_, Err(error)) => {
                self.state = State::Lost;
                let path = self.path.display();
                Check::Lost(match error.kind() {
                    io::ErrorKind::PermissionDenied => format!(
                        "the repository's root {path} cannot be read ({error}); the daemon's user, \
                         or a group of it, needs to read and enter it"
                    ),
                    _ => format!("the repository's root {path} is not there ({error})"),
                })
            }
        }
    }

    /// Whether a survey has to decide if this directory may be compared with the record.
    pub(crate) fn needs_survey(&self) -> bool {
        self.is_watched() && !self.is_trusted
    }

    /// Counts the recorded projects with a file in this directory, up to half of them. Returns
    /// whether it may be compared with the record.
    pub(super) fn survey(
        &mut self,
        store: &Store,
        recorded: &[ProjectKey],
    ) -> Result<bool, StoreError> {
        let Ok(Some(root)) = self.open() else {
            return Ok(false);
        };
        let mut found = 0_usize;
        for keys in recorded.chunks(SURVEYED_AT_ONCE) {
            for files in store.recorded_many(keys)? {
                let has_a_file = files.files().any(|file| root.open_file(&file.path).is_ok());
                found = found.saturating_add(usize::from(has_a_file));
            }
            if found.saturating_mul(2) >= recorded.len() {
                break;
            }
        }
        Ok(self.surveyed(found, recorded.len()))
    }

    /// Notes the result of a survey. Returns whether this directory may be compared with the record.
    pub(crate) fn surveyed(&mut self, n_found: usize, n_recorded: usize) -> bool {
        self.n_found = n_found;
        self.n_recorded = n_recorded;
        self.is_trusted = self.is_watched() && n_found.saturating_mul(2) >= n_recorded;
        self.is_trusted
    }

    /// Whether this directory may be compared with the record.
    pub(crate) fn is_trusted(&self) -> bool {
        self.is_watched() && self.is_trusted
    }

    /// The identity to record, unless it is recorded already.
    pub(crate) fn identity_to_record(&self) -> Option<String> {
        let State::Watched(identity) = self.state else {
            return None;
        };
        let identity = identity.to_string();
        (self.is_trusted && self.recorded.as_ref() != Some(&identity)).then_some(identity)
    }

    /// The reason why nothing is inferred, as shown to people.
    pub(crate) fn distrust(&self) -> Option<String> {
        self.needs_survey().then(|| {
            format!(
                "{} is not the directory that was watched before: it has files of only {} of {} \
                 recorded projects, so nothing is inferred from it. Is a file system not mounted, \
                 or repository.path wrong? To start over with this directory, stop the daemon and \
                 give it an empty state_dir",
                self.path.display(),
                self.n_found,
                self.n_recorded
            )
        })
    }
}
