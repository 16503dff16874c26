//! Whether the root is the directory that the record was made of.
//!
//! Constraint: no delete is ever inferred from a root that went away, or from another directory in
//! its place. A root that is not the recorded one is trusted with removals only when a scan finds
//! in it at least half of the projects on record: a deployment that swaps directories passes, an
//! empty mount point does not, not even one that somebody wrote a project into.

use std::io;
use std::path::PathBuf;

use crate::repository::{Root, RootIdentity};

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
    /// Of the scan in progress: how many projects were on record, and how many of them were found.
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

    /// Compares the root's path with the directory that is watched.
    pub fn check(&mut self) -> Check {
        let found = Root::identity_at(&self.path);
        match (self.state, found) {
            (State::Arming, _) => Check::InPlace,
            (State::Armed(identity), Ok(found)) if found == identity => Check::InPlace,
            (_, Ok(_)) => Check::Back,
            (_, Err(error)) => {
                self.state = State::Lost;
                Check::Lost(format!(
                    "the repository's root {} is not there ({error})",
                    self.path.display()
                ))
            }
        }
    }

    /// A scan begins, with so many projects on record.
    pub fn begin_scan(&mut self, on_record: usize) {
        self.on_record = on_record;
        self.found = 0;
    }

    /// A project on record was found, in a scan or by a hint.
    pub fn found_one(&mut self) {
        self.found = self.found.saturating_add(1);
    }

    /// Whether what is missing in this root counts.
    pub fn trusts_removals(&self) -> bool {
        self.trusted
    }

    /// A scan ended. Returns the identity to record when the root has come to be trusted or is
    /// new, and whether a further scan has to judge what was missing.
    pub fn end_scan(&mut self) -> (Option<String>, bool) {
        let State::Armed(identity) = self.state else {
            return (None, false);
        };
        let identity = identity.to_string();
        if self.trusted {
            let changed = self.recorded.as_ref() != Some(&identity);
            return (changed.then_some(identity), false);
        }
        if self.found.saturating_mul(2) >= self.on_record {
            self.trusted = true;
            return (Some(identity), true);
        }
        (None, false)
    }

    /// Why removals do not count, for a person.
    pub fn distrust(&self) -> Option<String> {
        (self.is_armed() && !self.trusted).then(|| {
            format!(
                "{} is not the directory that was watched before, and has {} of the {} projects on \
                 record; none of them is taken as deleted. Is a file system not mounted? To begin \
                 anew with this directory, stop the daemon and give it an empty state_dir",
                self.path.display(),
                self.found.min(self.on_record),
                self.on_record
            )
        })
    }
}
