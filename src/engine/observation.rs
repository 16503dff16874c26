//! The observations of one step, with their reported files.
//!
//! Constraint: a reported file is not lost if its step is not committed. The step's reported files
//! then return to [`ReportedFiles`], except those that can cause no event.

use std::collections::{BTreeSet, HashSet};

use super::reported_files::ReportedFiles;
use crate::domain::event::{InferredEvent, Origin};
use crate::domain::moves::Comparison;
use crate::domain::project::{FileState, Identity, ObservedFile, ProjectKey, Recorded, Role};
use crate::observe::{Contents, Held, Reported};

/// The observations of one step.
#[derive(Default)]
pub(super) struct Gathered {
    pub observations: Vec<Observation>,
    /// The contents that were read.
    pub contents: Contents,
    /// The observed projects.
    pub keys: HashSet<ProjectKey>,
}

impl Gathered {
    /// Postpones later files, except in directories to which a project may have moved.
    ///
    /// See [`Observation::postpone_later_files`]. A move must be judged with all files as they are.
    pub(super) fn postpone_later_files(&mut self) {
        let comparisons = self.observations.iter().map(|one| &one.comparison);
        let departed: BTreeSet<Identity> = comparisons
            .filter(|comparison| comparison.departure().is_some())
            .filter_map(Comparison::recorded_identity)
            .collect();
        let may_have_moved = |seen: &FileState| departed.contains(&seen.identity());
        for observation in &mut self.observations {
            let newcomer = observation.comparison.newcomer();
            if !newcomer.is_some_and(may_have_moved) {
                observation.postpone_later_files();
            }
        }
    }

    /// Puts all reported files back into `files`, because this step was not committed.
    pub(super) fn put_back_reported(self, files: &mut ReportedFiles) {
        for mut observation in self.observations {
            let mut reported = observation.reported;
            reported.hold(observation.counted.drain(..).map(|(held, _)| held));
            reported.hold(observation.waiting.drain(..));
            reported.hold(observation.linked.drain(..));
            files.put_back(&observation.comparison.key, reported);
        }
    }
}

/// An observation of a project, with its reported files.
pub(super) struct Observation {
    pub origin: Origin,
    /// The reason for the observation in words, for the explanation of events.
    pub hint: String,
    /// The record before this step.
    pub before: Recorded,
    /// The observed state, and the record after the events of short-lived files.
    pub comparison: Comparison,
    /// The inode of the project's directory; see [`crate::observe::ObservedProject`].
    pub home: Option<u64>,
    /// The events of short-lived files.
    pub events: Vec<InferredEvent>,
    /// The reported files. `judge_held` takes the held files out of it.
    pub reported: Reported,
    /// Held files that caused `events`, each with the length of `events` after its own were added.
    pub counted: Vec<(Held, usize)>,
    /// Held files that the next observation judges again.
    pub waiting: Vec<Held>,
    /// Held files that are still in their project.
    pub linked: Vec<Held>,
}

/// A project that arrived, or may have arrived, in a directory.
pub(super) struct Arrived {
    pub key: ProjectKey,
    pub identity: Identity,
    pub inode: u64,
    pub origin: Origin,
}

impl Observation {
    /// Returns the project that arrived, or may have arrived, in this directory.
    pub(super) fn arrival(&self) -> Option<Arrived> {
        let definition = self.comparison.newcomer()?;
        Some(Arrived {
            key: self.comparison.key.clone(),
            identity: definition.identity(),
            inode: definition.stamp.inode,
            origin: self.origin,
        })
    }

    /// Hides the change of a file if an earlier file at its path waits to be judged.
    ///
    /// Otherwise the later file would be recorded first, and the event of the earlier file would be
    /// lost. The next observation judges both files.
    pub(super) fn postpone_later_files(&mut self) {
        let Comparison {
            recorded, observed, ..
        } = &mut self.comparison;
        for held in &self.waiting {
            let Some(ObservedFile::Complete(later)) = observed.files.get(&held.path) else {
                continue;
            };
            match recorded.file(&held.path) {
                Some(known) if held.is_recorded_as(known) => {}
                Some(known) if known.is_of_another_project(later) => {}
                Some(known) => {
                    let unchanged = ObservedFile::Complete(known.clone());
                    observed.files.insert(held.path.clone(), unchanged);
                }
                None if later.role == Role::Definition => {}
                None => drop(observed.files.remove(&held.path)),
            }
        }
    }

    /// Returns the project, and the reported files for its next observation.
    ///
    /// These are the waiting held files, and the reported paths of recorded files that are invalid.
    /// A file that is not recorded is read in any case. If the project may have moved here, all its
    /// files are taken for recorded, because they may be in the record of its former directory.
    pub(super) fn unresolved_reports(self) -> (ProjectKey, Reported) {
        let mut reported = self.reported;
        let files = self.comparison.observed.files.iter();
        let (recorded, is_new) = (
            &self.comparison.recorded,
            self.comparison.newcomer().is_some(),
        );
        let invalid = files.filter(|(path, file)| {
            let is_recorded = is_new || recorded.file(path).is_some();
            is_recorded && matches!(file, ObservedFile::Invalid { .. })
        });
        reported.keep_paths(invalid.map(|(path, _)| path.as_str()));
        reported.hold(self.waiting);
        (self.comparison.key, reported)
    }

    /// Keeps held files with unrecorded events for the next observation.
    ///
    /// Only the first `n_recorded` events were recorded.
    pub(super) fn keep_unrecorded(&mut self, n_recorded: usize) {
        let counted = std::mem::take(&mut self.counted).into_iter();
        let unrecorded = counted.filter(|(_, n_events)| *n_events > n_recorded);
        self.waiting.extend(unrecorded.map(|(held, _)| held));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::infer::Removals;
    use crate::domain::project::{ContentHash, Document, FileState, Observed, Problem};
    use crate::domain::stamp::Stamp;

    fn paths(n_files: usize) -> Vec<String> {
        let numbers = 0..n_files;
        numbers
            .map(|number| format!("sales/p/snapshots/{number:03}.xml"))
            .collect()
    }

    fn snapshot(path: &str) -> FileState {
        FileState {
            path: path.to_owned(),
            role: Role::Snapshot,
            tag: None,
            stamp: Stamp {
                inode: 1,
                size: 1,
                modified_ns: 1,
                changed_ns: 1,
            },
            read_ns: 1,
            hash: ContentHash([0; 32]),
            document: Document::default(),
            owner: String::new(),
        }
    }

    /// An observation after reports of these files, which are recorded except the second one. The
    /// last `n_invalid` of them were invalid.
    fn observation(paths: &[String], n_invalid: usize) -> Observation {
        let (mut reported, mut recorded) = (Reported::default(), Recorded::default());
        for (number, path) in paths.iter().enumerate() {
            reported.add(path, None);
            if number != 1 {
                recorded.put(snapshot(path));
            }
        }
        let mut observed = Observed::default();
        for path in paths.iter().rev().take(n_invalid) {
            let problem = Problem {
                path: path.clone(),
                reason: "it changed while it was read".to_owned(),
                line: None,
                column: None,
                may_resolve: true,
            };
            let role = Role::Snapshot;
            let invalid = ObservedFile::Invalid { role, problem };
            observed.files.insert(path.clone(), invalid);
        }
        Observation {
            origin: Origin::Live,
            hint: String::new(),
            before: Recorded::default(),
            comparison: Comparison {
                key: ProjectKey::new("sales", "p"),
                recorded,
                observed,
                removals: Removals::Unconfirmed,
            },
            home: None,
            events: Vec::new(),
            reported,
            counted: Vec::new(),
            waiting: Vec::new(),
            linked: Vec::new(),
        }
    }

    #[test]
    fn the_reports_of_invalid_files_are_kept_after_any_number_of_reports() {
        for n_files in [3, 128, 129, 300] {
            let paths = paths(n_files);
            let (_, kept) = observation(&paths, 1).unresolved_reports();
            let [first, second, .., last] = paths.as_slice() else {
                panic!("three files");
            };
            assert!(kept.names(last), "{n_files}");
            assert!(!kept.names(first), "{n_files}");
            let (_, kept) = observation(&paths, n_files).unresolved_reports();
            let mut recorded = paths.iter().filter(|path| *path != second);
            assert!(recorded.all(|path| kept.names(path)), "{n_files}");
            // A file that is not recorded is read in any case.
            let is_full = n_files > 129;
            assert_eq!(kept.names(second), is_full, "{n_files}");
            let (_, kept) = observation(&paths, 0).unresolved_reports();
            assert!(kept.is_empty(), "{n_files}");
        }
    }
}
