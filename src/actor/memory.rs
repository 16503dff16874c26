//! Keeps recent changes, and finds the system call behind an observed change.
//!
//! Constraint: give an answer only if it is certain. Therefore:
//!
//! - For a new file, a call must have given the file its name at this path, or moved a directory
//!   above the file to this path. If a later call opened the file for writing, that is the answer.
//! - For a file that was written in place, a call must have opened the file for writing, or given
//!   it its name, between the recorded and the observed change time.
//! - For a missing file, a call must have removed the file's name, or moved a directory above the
//!   file away, after the recorded change time. Or it put another file in its place.
//! - After a loss of records, the memory forgets all older changes.
//!
//! The number of changes and their age are limited. Changes by calls without the configured key
//! have a separate limit, so that other audit rules cannot displace the changes with the key.

mod recent;

use std::sync::Arc;

use super::change::{Change, Deed, Node, Place};
use recent::Recent;

/// The maximum number of changes by calls with the configured key.
///
/// Removing a project with four files and four directories makes eight changes, so the removals of
/// 4,000 such projects fit.
const OWN_MAX: usize = 32 * 1024;

/// The maximum number of changes by other calls.
const OTHERS_MAX: usize = 8 * 1024;

/// The maximum time between a record and the change of its file, in milliseconds.
///
/// A record has the time of the last clock tick before its call, up to 10 ms earlier. The call then
/// takes some time until it changes the file.
const SLACK_MS: i64 = 20;

/// For this long after lost records, the move of a directory explains no missing file.
///
/// In milliseconds. A lost record may show that the file was removed before the move.
const DOUBT_MS: i64 = 60 * 1000;

/// A system call, with the user and the process that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// The serial number of the audit event. Later events have higher numbers.
    pub serial: u64,
    /// The start of the call, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The login user id. `None` without a login, and for io_uring, whose records lack the id.
    pub login: Option<u32>,
    /// The effective user id.
    pub effective: u32,
    /// The process id.
    pub pid: u32,
    /// The path of the program.
    pub program: String,
    /// The first key of the audit rules that reported the call, if any.
    pub key: Option<String>,
    /// Whether a rule with the configured key reported the call.
    pub has_key: bool,
}

/// A path below the repository's root, and its existing directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathNodes {
    /// The root, then each existing directory on the path.
    pub directories: Vec<Node>,
    /// The components of the path.
    pub names: Vec<Arc<[u8]>>,
}

/// An observed change that needs an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The file is new at this path.
    Appeared {
        /// The file.
        node: Node,
        /// The file's change time, in nanoseconds.
        changed_ns: i64,
        /// The number of directories on the path that existed before the file, including the root.
        depth: usize,
    },
    /// The same file has other content.
    Rewritten {
        /// The file.
        node: Node,
        /// The file's change time, in nanoseconds.
        changed_ns: i64,
        /// The recorded change time of the file, in nanoseconds.
        since_ns: i64,
    },
    /// The file is gone.
    Vanished {
        /// The recorded file.
        node: Node,
        /// The recorded change time of the file, in nanoseconds.
        since_ns: i64,
        /// The file that is now at the path, if any, and its change time in nanoseconds.
        replaced_by: Option<(Node, i64)>,
    },
    /// The project of the file was at another path before.
    Moved {
        /// The recorded file.
        node: Node,
        /// The recorded change time of the file, in nanoseconds.
        since_ns: i64,
        /// The previous path.
        from: PathNodes,
    },
}

/// A question about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The path.
    pub path: PathNodes,
    /// The change that was observed at the path.
    pub asked: Asked,
}

/// The recent changes of all calls.
#[derive(Debug, Default)]
pub struct Memory {
    own: Recent,
    others: Recent,
    /// The time when the last loss of records was noticed, in milliseconds since the Unix epoch.
    lost_ms: Option<i64>,
}

impl Memory {
    /// Adds the changes of a call.
    pub fn add(&mut self, act: &Act, changes: Vec<Change>) {
        let (kept, max) = match act.has_key {
            true => (&mut self.own, OWN_MAX),
            false => (&mut self.others, OTHERS_MAX),
        };
        for change in changes {
            kept.add(change, max);
        }
    }

    /// Forgets all changes, because records were lost before this time.
    pub fn lost(&mut self, now_ms: i64) {
        self.own = Recent::default();
        self.others = Recent::default();
        self.lost_ms = Some(now_ms);
    }

    /// Returns the number of changes.
    pub fn len(&self) -> usize {
        self.own.len() + self.others.len()
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the call that explains the observed change, if the answer is certain.
    pub fn answer(&self, question: &Question) -> Option<Arc<Act>> {
        let path = &question.path;
        let act = match &question.asked {
            Asked::Appeared {
                node,
                changed_ns,
                depth,
            } => self.appeared(path, *node, *changed_ns, *depth),
            Asked::Rewritten {
                node,
                changed_ns,
                since_ns,
            } => self.rewritten(path, *node, *changed_ns, *since_ns),
            Asked::Vanished {
                node,
                since_ns,
                replaced_by,
            } => {
                let gone = self.gone(path, *node, *since_ns);
                gone.or_else(|| {
                    let (node, changed_ns) = (*replaced_by)?;
                    self.appeared(path, node, changed_ns, 1)
                })
            }
            Asked::Moved {
                node,
                since_ns,
                from,
            } => self.moved(path, *node, *since_ns, from),
        };
        act.cloned()
    }

    /// Returns the call that created the file here, or moved it or a directory above it here.
    ///
    /// If the file was written later, returns the call that opened it for writing.
    fn appeared(
        &self,
        path: &PathNodes,
        node: Node,
        changed_ns: i64,
        depth: usize,
    ) -> Option<&Arc<Act>> {
        let limit = latest_ms(changed_ns);
        let place = path.place()?;
        let here = self.latest_at(&place, |change| {
            change.node == node && change.is_appearance() && change.act.time_ms <= limit
        });
        let mut moved: Option<&Change> = None;
        for (index, directory) in path.directories.iter().enumerate().skip(depth.max(1)) {
            let Some(last) = self.latest_of(*directory, Change::is_appearance) else {
                continue;
            };
            // The last record has the directory at another path, so the record of its move to this
            // path is missing.
            if !last.is_at(&path.place_of(index)?) {
                return None;
            }
            // If the file changed after the move, it may not have been in the moved directory.
            let is_moved = matches!(last.deed, Deed::Appeared { is_moved: true, .. });
            if is_moved
                && changed_ns.div_euclid(1_000_000) <= last.act.time_ms.saturating_add(SLACK_MS)
            {
                moved = later(moved, Some(last));
            }
        }
        let named = later(here, moved)?;
        let wrote = self.wrote(node, limit);
        later(Some(named), wrote).map(|change| &change.act)
    }

    /// Returns the call that changed the file after the recorded change time.
    ///
    /// The call opened the file for writing, or gave it the name at this path.
    fn rewritten(
        &self,
        path: &PathNodes,
        node: Node,
        changed_ns: i64,
        since_ns: i64,
    ) -> Option<&Arc<Act>> {
        let limit = latest_ms(changed_ns);
        let since = since_ns.div_euclid(1_000_000);
        let here = path.place().and_then(|place| {
            self.latest_at(&place, |change| {
                change.node == node && change.is_appearance() && change.act.time_ms <= limit
            })
        });
        let found = later(here, self.wrote(node, limit))?;
        (found.act.time_ms > since).then_some(&found.act)
    }

    fn wrote(&self, node: Node, limit: i64) -> Option<&Change> {
        self.latest_of(node, |change| {
            change.deed == Deed::Wrote && change.act.time_ms <= limit
        })
    }

    /// Returns the call that removed the file, or moved a directory above it away.
    fn gone(&self, path: &PathNodes, node: Node, since_ns: i64) -> Option<&Arc<Act>> {
        let (root, below) = path.directories.split_first()?;
        let found = self.gone_below(*root, &path.names, below, u64::MAX, node)?;
        let since = since_ns.div_euclid(1_000_000);
        (found.time_ms.saturating_add(SLACK_MS) >= since).then_some(found)
    }

    /// Returns the latest act that removed the path `names` below a directory.
    ///
    /// Acts with a serial number of `before` or higher are ignored. `below` has the existing
    /// directories on the path. `node` is the recorded file.
    fn gone_below(
        &self,
        directory: Node,
        names: &[Arc<[u8]>],
        below: &[Node],
        before: u64,
        node: Node,
    ) -> Option<&Arc<Act>> {
        let (name, rest) = names.split_first()?;
        let place = Place {
            directory,
            name: Arc::clone(name),
        };
        let removal = self.latest_at(&place, |change| {
            change.act.serial < before && change.is_removal_of(node)
        });
        if rest.is_empty() {
            let removal = removal?;
            // The records may not show which of two directories has the new name of a renamed file.
            // Then the new name may also seem to be at the old place, but the file is not back.
            let is_other_end = |change: &Change| {
                change.act == removal.act
                    && change.node == removal.node
                    && change.places().len() > 1
            };
            let is_back = self.latest_at(&place, |change| {
                change.act.serial < before
                    && change.act.serial >= removal.act.serial
                    && change.is_appearance()
                    && !is_other_end(change)
            });
            return is_back.is_none().then_some(&removal.act);
        }
        let inside = below
            .split_first()
            .and_then(|(child, below)| self.gone_below(*child, rest, below, before, node));
        let outside = removal.and_then(|removal| self.went_with(removal, &place, rest, node));
        match (inside, outside) {
            (Some(one), Some(other)) if one.serial < other.serial => Some(other),
            (None, other) => other,
            (one, _) => one,
        }
    }

    /// Returns the call that removed a file whose directory left the path by `removal`.
    ///
    /// If the file was removed before its directory was moved, this is the call that removed the
    /// file. Otherwise it is the call that moved the directory.
    fn went_with<'a>(
        &'a self,
        removal: &'a Change,
        place: &Place,
        rest: &[Arc<[u8]>],
        node: Node,
    ) -> Option<&'a Arc<Act>> {
        let act = &removal.act;
        if let Some(before) = self.gone_below(removal.node, rest, &[], act.serial, node) {
            return Some(before);
        }
        // If the directory was removed, not moved, it was empty. So the file was removed earlier,
        // and the record of its removal is missing.
        let is_moved = matches!(removal.deed, Deed::Vanished { is_moved: true, .. });
        // If another directory was moved here later, it may have contained the removed file.
        let is_followed = self.latest_at(place, |change| {
            change.act.serial > act.serial
                && matches!(change.deed, Deed::Appeared { is_moved: true, .. })
        });
        let is_doubtful = self
            .lost_ms
            .is_some_and(|lost| act.time_ms < lost.saturating_add(DOUBT_MS));
        (is_moved && is_followed.is_none() && !is_doubtful).then_some(act)
    }

    /// Returns the call that moved the file, or a directory above it, to this path.
    ///
    /// If the file was copied instead, returns the call that removed the original.
    fn moved(
        &self,
        path: &PathNodes,
        node: Node,
        since_ns: i64,
        from: &PathNodes,
    ) -> Option<&Arc<Act>> {
        let since = since_ns.div_euclid(1_000_000);
        let is_later = |change: &Change| change.act.time_ms.saturating_add(SLACK_MS) >= since;
        let is_moved = |change: &Change| {
            matches!(change.deed, Deed::Appeared { is_moved: true, .. }) && is_later(change)
        };
        let mut arrived = path.place().and_then(|place| {
            self.latest_at(&place, |change| {
                change.node == node && change.is_appearance() && is_later(change)
            })
        });
        for (index, directory) in path.directories.iter().enumerate().skip(1) {
            let Some(last) = self.latest_of(*directory, Change::is_appearance) else {
                continue;
            };
            // The last record has the directory at another path, so the record of its move to this
            // path is missing.
            if !last.is_at(&path.place_of(index)?) {
                return None;
            }
            arrived = later(arrived, is_moved(last).then_some(last));
        }
        let left = self.gone(from, node, since_ns);
        match (arrived, left) {
            (None, left) => left,
            (Some(arrived), Some(left)) if arrived.act.serial >= left.serial => Some(&arrived.act),
            // The record is about the file itself, so the answer is certain.
            (Some(arrived), None) if arrived.node == node => Some(&arrived.act),
            // No record shows how the file left its old path. Or it left after the arrival here, so
            // the directory was here already, or two directories were exchanged.
            (Some(_), _) => None,
        }
    }

    fn latest_at(&self, place: &Place, wanted: impl Fn(&Change) -> bool) -> Option<&Change> {
        let own = self.own.latest_at(place, &wanted);
        later(own, self.others.latest_at(place, &wanted))
    }

    fn latest_of(&self, node: Node, wanted: impl Fn(&Change) -> bool) -> Option<&Change> {
        let own = self.own.latest_of(node, &wanted);
        later(own, self.others.latest_of(node, &wanted))
    }
}

impl PathNodes {
    /// Returns the place of the file. `None` if a directory on the path does not exist.
    fn place(&self) -> Option<Place> {
        match self.directories.len() == self.names.len() {
            true => self.place_of(self.names.len()),
            false => None,
        }
    }

    /// Returns the place of the directory with this index. The file has the last index.
    fn place_of(&self, index: usize) -> Option<Place> {
        let above = index.checked_sub(1)?;
        Some(Place {
            directory: *self.directories.get(above)?,
            name: Arc::clone(self.names.get(above)?),
        })
    }
}

impl Change {
    fn is_appearance(&self) -> bool {
        matches!(self.deed, Deed::Appeared { .. })
    }

    /// Whether the change removed a name whose place is the only possible one, or a name of this
    /// file.
    fn is_removal_of(&self, node: Node) -> bool {
        match &self.deed {
            Deed::Vanished { places, .. } => places.len() == 1 || self.node == node,
            Deed::Wrote | Deed::Appeared { .. } => false,
        }
    }

    fn is_at(&self, place: &Place) -> bool {
        self.places().contains(place)
    }

    fn places(&self) -> &[Place] {
        match &self.deed {
            Deed::Appeared { places, .. } | Deed::Vanished { places, .. } => places,
            Deed::Wrote => &[],
        }
    }
}

/// Returns the later of two changes, or the only one.
fn later<'a>(one: Option<&'a Change>, other: Option<&'a Change>) -> Option<&'a Change> {
    match (one, other) {
        (Some(one), Some(other)) if one.act.serial < other.act.serial => Some(other),
        (None, other) => other,
        (one, _) => one,
    }
}

/// Returns the latest time of a call that can have set this change time, in ms.
///
/// Some file systems store only whole seconds. Then the call may be up to 999 ms later than the
/// stored time.
fn latest_ms(changed_ns: i64) -> i64 {
    let is_whole = changed_ns.rem_euclid(1_000_000_000) == 0;
    let more = if is_whole { 999 } else { 0 };
    changed_ns.div_euclid(1_000_000).saturating_add(more)
}

#[cfg(test)]
mod tests;
