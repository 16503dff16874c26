//! Judges held files: files that were opened when a report named them.
//!
//! Constraint: a held file causes an event here only if it is no longer in its project. Otherwise,
//! the observation of the project infers the event.

use std::os::fd::AsFd;

use super::gather::Gatherer;
use super::observation::{Gathered, Observation};
use crate::domain::infer::is_replaced;
use crate::domain::moves::Comparison;
use crate::domain::project::{Inodes, ObservedFile};
use crate::domain::short_lived::{ShortLived, infer_short_lived};
use crate::observe::Held;

impl Gatherer<'_> {
    /// Infers the events of held files that are no longer in their project.
    pub(super) fn judge_held(&mut self, gathered: &mut Gathered) {
        let Gathered {
            observations,
            contents,
            ..
        } = gathered;
        let inodes = self.observer.inodes();
        for observation in observations {
            let elsewhere = take_those_elsewhere(observation, inodes);
            // If an earlier file waits, postpone the later file at its path first. Judging a held
            // file may record all observed files.
            if observation.comparison.newcomer().is_none() {
                observation.postpone_later_files();
            }
            for held in elsewhere {
                let Some((mut file, bytes)) = self.observer.read_held(&held, self.now) else {
                    continue;
                };
                let comparison = &mut observation.comparison;
                if let Some(kept) = self.kept.as_ref()
                    && comparison.recorded.definition.is_none()
                {
                    file.avoid_kept_ids(&comparison.key, |id| kept.has(id));
                }
                match infer_short_lived(&comparison.recorded, &comparison.observed, &file) {
                    ShortLived::Ignored => {}
                    ShortLived::Waits => observation.waiting.push(held),
                    ShortLived::Counts(inference) => {
                        observation.events.extend(inference.events);
                        comparison.recorded = inference.record;
                        contents.add_held(file.hash, bytes, &held);
                        observation.counted.push((held, observation.events.len()));
                    }
                }
            }
        }
    }
}

/// Takes all held files, and returns those that are no longer in their project.
///
/// The others wait in the observation. Files that were opened in another directory than the
/// project's are dropped, because they may belong to another project.
fn take_those_elsewhere(observation: &mut Observation, inodes: Inodes) -> Vec<Held> {
    let mut elsewhere = Vec::new();
    for mut held in observation.reported.take_held() {
        if inodes == Inodes::Stable && was_in_another_directory(&held, observation) {
            continue;
        }
        match whereabouts(&held, &observation.comparison) {
            Whereabouts::InProject => observation.linked.push(held),
            Whereabouts::Unknown => {
                held.has_left = true;
                observation.waiting.push(held);
            }
            Whereabouts::Elsewhere => elsewhere.push(held),
        }
    }
    elsewhere
}

/// Whether a held file comes from a directory other than the project's directory.
///
/// Then the file may belong to another project. For instance, two projects may have exchanged their
/// directories for a short time. Returns false while the project is not in place, because its own
/// directory may have been moved away.
fn was_in_another_directory(held: &Held, observation: &Observation) -> bool {
    let Comparison {
        recorded, observed, ..
    } = &observation.comparison;
    let is_in_place = recorded.definition.is_some()
        && observed.definition().is_some()
        && !is_replaced(recorded, observed);
    let homes = held.home.zip(observation.home);
    is_in_place && homes.is_some_and(|(then, now)| then != now)
}

/// The location of a held file now.
enum Whereabouts {
    /// The file is in its project, at the reported path or at another path.
    InProject,
    /// The file may have been renamed after its project was listed. The next observation decides.
    Unknown,
    /// The file has no links, or only links outside its project.
    Elsewhere,
}

/// Finds a held file by its inode.
///
/// A link at another path is ignored if it was already recorded there. An invalid file at the
/// reported path is taken for the held file. If a file has links only outside the project, it was
/// moved away, or was linked into the project for a short time. If the number of links cannot be
/// read, this function assumes that the file has links.
fn whereabouts(held: &Held, comparison: &Comparison) -> Whereabouts {
    let is_linked = !rustix::fs::fstat(held.file.as_fd()).is_ok_and(|stat| stat.st_nlink == 0);
    let was_there = |path: &str| {
        let recorded = comparison.recorded.file(path);
        recorded.is_some_and(|file| file.stamp.inode == held.stamp.inode)
    };
    let has_it = |(path, file): (&String, &ObservedFile)| match file {
        ObservedFile::Complete(file) => {
            file.stamp.inode == held.stamp.inode && (*path == held.path || !was_there(path))
        }
        ObservedFile::Invalid { .. } => *path == held.path,
    };
    if !is_linked {
        Whereabouts::Elsewhere
    } else if comparison.observed.files.iter().any(has_it) {
        Whereabouts::InProject
    } else if held.has_left {
        Whereabouts::Elsewhere
    } else {
        Whereabouts::Unknown
    }
}
