//! Whether the root is the directory that the record was made of.
//!
//! Constraint: nothing is ever inferred from a root that went away, or from another directory in
//! its place. A root that is not the recorded one is compared with the record only when it has
//! files of at least half of the projects on record: a deployment that swaps directories passes, an
//! empty mount point does not, not even one that somebody wrote a project into.

use std::io;
use std::path::PathBuf;

use crate::domain::project::ProjectKey;
use crate::repository::{Root, RootIdentity};
use crate::store::{Store, StoreError};

/// The number of recorded projects that a survey reads at once.
const SURVEYED_AT_ONCE: usize = 256;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The root is the directory that is watched.
    InPlace,
    /// There is no root, for this reason.
    Lost(String),
    /// A root is there, and is not watched yet.
    Back,
}

/// The root's state.
#[derive(Debug)]
pub struct RootGuard {
    path: PathBuf,
    state: State,
    /// The identity on record, as text.
    recorded: Option<String>,
    trusted: bool,
    /// Of the last survey: how many projects were on record, and how many of them were found.
    on_record: usize,
    found: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The watches are being set.
    Arming,
    Armed(RootIdentity),
    Lost,
}

impl RootGuard {
    /// A guard for the root at this path, whose watches are being set.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: State::Arming,
            recorded: None,
            trusted: false,
            on_record: 0,
            found: 0,
        }
    }

    /// The identity that is on record from the last run.
    pub fn remember(&mut self, recorded: Option<String>) {
        self.recorded = recorded;
    }

    /// The identity that is on record.
    pub fn recorded(&self) -> Option<String> {
        self.recorded.clone()
    }

    /// The watches are being set anew.
    pub fn arming(&mut self) {
        self.state = State::Arming;
    }

    /// The watches are set on this root, or there was none.
    pub fn armed(&mut self, root: Option<RootIdentity>) {
        self.state = match root {
            Some(identity) => State::Armed(identity),
            None => State::Lost,
        };
        self.trusted = root.is_some_and(|identity| {
            self.recorded
                .as_ref()
                .is_none_or(|recorded| *recorded == identity.to_string())
        });
    }

    /// Whether there is a root that is watched.
    pub fn is_armed(&self) -> bool {
        matches!(self.state, State::Armed(_))
    }

    /// Opens the root for a batch of looks; none when it is not the one that is watched.
    pub fn open(&self) -> io::Result<Option<Root>> {
        let State::Armed(identity) = self.state else {
            return Ok(None);
        };
        let root = Root::open(&self.path)?;
        Ok((root.identity() == identity).then_some(root))
    }

    /// Compares the root's path with the directory that is watched. One that may not be read is as
    /// good as none: nothing below it can be looked at. Other failures to open it, such as too many
    /// open files, are no word of the root.
    pub fn check(&mut self) -> Check {
        let found = Root::identity_at(&self.path).and_then(|identity| {
            let entered = Root::open(&self.path).and_then(|root| root.open_directory(""));
            match entered {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
                _ => Ok(identity),
            }
        });
        match (self.state, found) {
            (State::Arming, _) => Check::InPlace,
            (State::Armed(identity), Ok(found)) if found == identity => Check::InPlace,
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

    /// Whether it has to be found out if this directory may be compared with the record.
    pub fn needs_survey(&self) -> bool {
        self.is_armed() && !self.trusted
    }

    /// Counts the recorded projects with a file in this directory, until they are half of them.
    /// Returns whether it may be compared with the record.
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

    /// Of so many projects on record so many have a file in this directory. Returns whether it may
    /// be compared with the record.
    pub fn surveyed(&mut self, found: usize, on_record: usize) -> bool {
        self.found = found;
        self.on_record = on_record;
        self.trusted = self.is_armed() && found.saturating_mul(2) >= on_record;
        self.trusted
    }

    /// Whether this directory may be compared with the record.
    pub fn is_trusted(&self) -> bool {
        self.is_armed() && self.trusted
    }

    /// The identity to record, where it is not on record already.
    pub fn identity_to_record(&self) -> Option<String> {
        let State::Armed(identity) = self.state else {
            return None;
        };
        let identity = identity.to_string();
        (self.trusted && self.recorded.as_ref() != Some(&identity)).then_some(identity)
    }

    /// Why nothing is inferred, for a person.
    pub fn distrust(&self) -> Option<String> {
        self.needs_survey().then(|| {
            format!(
                "{} is not the directory that was watched before, and has files of only {} of the \
                 {} projects on record; nothing is inferred from it. Is a file system not mounted, \
                 or repository.path wrong? To begin anew with this directory, stop the daemon and \
                 give it an empty state_dir",
                self.path.display(),
                self.found,
                self.on_record
            )
        })
    }
}
