//! A tree of the watched directories.
//!
//! Constraint: the cost of renaming or removing a subtree depends only on its size, not on the
//! number of all watches. So a watch has a parent and a name, but no path. Renaming a directory
//! changes one entry, and thereby the paths of all directories below it.
//!
//! The kernel has one watch for each directory, even if the path of the directory changes. Adding
//! the watch again returns the same watch descriptor (`Wd`). A directory that was moved away from
//! its parent is an *orphan* until all reports are read. If a report shows its new parent, the
//! orphan keeps its watch and the watches below it. Otherwise these watches are removed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::backend::{ABOVE, NOWHERE, Node as Wd};
use crate::observe::join;

/// The maximum number of directories above a directory.
///
/// No template has that many components, so a longer chain of parents is a ring. Outdated entries
/// can form a ring until the next report.
const DEPTH_MAX: usize = 1_100;
/// The maximum number of names, such as `published`, that nodes share instead of copying.
const SHARED_MAX: usize = 64;

#[derive(Debug)]
struct Node {
    parent: Wd,
    /// The value of [`Tree::walk`] when [`Tree::put`] last got this directory.
    walk: u32,
    name: Arc<str>,
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: HashMap<Wd, Node>,
    children: BTreeMap<(Wd, Arc<str>), Wd>,
    orphans: Vec<Wd>,
    shared: HashSet<Arc<str>>,
    /// The number of the walk in progress, or of the last walk.
    walk: u32,
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether a directory is watched, perhaps as an orphan.
    pub(super) fn contains(&self, wd: Wd) -> bool {
        self.nodes.contains_key(&wd)
    }

    /// Whether a directory is watched with this parent and this name.
    pub(super) fn is_placed(&self, wd: Wd, parent: Wd, name: &str) -> bool {
        let node = self.nodes.get(&wd);
        node.is_some_and(|node| node.parent == parent && *node.name == *name)
    }

    /// Returns the watched directory at a path below the root, if any.
    pub(super) fn at(&self, path: &str) -> Option<Wd> {
        let root = self.children.get(&(ABOVE, Arc::from("")))?;
        let mut names = path.split('/').filter(|name| !name.is_empty());
        names.try_fold(*root, |parent, name| {
            self.children.get(&(parent, Arc::from(name))).copied()
        })
    }

    /// Begins a walk of the whole tree. [`Tree::take_unseen`] ends it.
    pub(super) fn begin_walk(&mut self) {
        self.walk = self.walk.wrapping_add(1);
    }

    /// Adds a watched directory, or sets its new parent and name.
    ///
    /// Returns false if the parent is not watched.
    pub(super) fn put(&mut self, wd: Wd, parent: Wd, name: &str) -> bool {
        if parent != ABOVE && !self.nodes.contains_key(&parent) {
            return false;
        }
        if let Some(node) = self.nodes.get_mut(&wd) {
            node.walk = self.walk;
            if node.parent == parent && *node.name == *name {
                return true;
            }
        }
        self.unlink(wd);
        let name = self.name(name);
        if let Some(displaced) = self.children.insert((parent, Arc::clone(&name)), wd) {
            // Another directory was at this path. A later report may show its new parent.
            if let Some(node) = self.nodes.get_mut(&displaced) {
                node.parent = NOWHERE;
            }
            self.orphans.push(displaced);
        }
        self.nodes.insert(
            wd,
            Node {
                parent,
                walk: self.walk,
                name,
            },
        );
        true
    }

    /// Returns the path of a watched directory below the root.
    ///
    /// `None` for an orphan, and for a directory below an orphan.
    pub(super) fn path(&self, wd: Wd) -> Option<String> {
        let mut names: Vec<&str> = Vec::new();
        let mut at = wd;
        while at != ABOVE {
            let node = self.nodes.get(&at)?;
            if names.len() > DEPTH_MAX {
                return None;
            }
            names.push(&node.name);
            at = node.parent;
        }
        // The name of the root is empty.
        let mut path = String::new();
        for name in names.iter().rev().filter(|name| !name.is_empty()) {
            path = join(&path, name);
        }
        Some(path)
    }

    /// Makes the subdirectories of a directory orphans, except those with these names.
    pub(super) fn retain(&mut self, parent: Wd, names: &BTreeSet<&str>) {
        let first = (parent, Arc::from(""));
        let children = self.children.range(first..);
        let others: Vec<Arc<str>> = children
            .take_while(|((of, _), _)| *of == parent)
            .filter(|((_, name), _)| !names.contains(&**name))
            .map(|((_, name), _)| Arc::clone(name))
            .collect();
        for name in others {
            self.detach(parent, &name);
        }
    }

    /// Makes a directory an orphan, for instance because it was moved away.
    pub(super) fn detach(&mut self, parent: Wd, name: &str) {
        let key = (parent, Arc::from(name));
        if let Some(wd) = self.children.remove(&key) {
            if let Some(node) = self.nodes.get_mut(&wd) {
                node.parent = NOWHERE;
            }
            self.orphans.push(wd);
        }
    }

    /// Removes a watch that the kernel has already removed.
    ///
    /// The subdirectories become orphans.
    pub(super) fn forget(&mut self, wd: Wd) {
        self.unlink(wd);
        if self.nodes.remove(&wd).is_some() {
            for child in self.children_of(wd) {
                self.unlink(child);
                if let Some(node) = self.nodes.get_mut(&child) {
                    node.parent = NOWHERE;
                }
                self.orphans.push(child);
            }
        }
    }

    /// Removes and returns the watches of all orphans and the directories below them.
    pub(super) fn take_orphans(&mut self) -> Vec<Wd> {
        let mut waiting: Vec<Wd> = std::mem::take(&mut self.orphans)
            .into_iter()
            .filter(|wd| {
                self.nodes
                    .get(wd)
                    .is_some_and(|node| node.parent == NOWHERE)
            })
            .collect();
        let mut taken = Vec::new();
        while let Some(wd) = waiting.pop() {
            waiting.extend(self.children_of(wd));
            self.unlink(wd);
            if self.nodes.remove(&wd).is_some() {
                taken.push(wd);
            }
        }
        taken
    }

    /// Removes and returns the watches of directories that the last walk did not pass.
    pub(super) fn take_unseen(&mut self) -> Vec<Wd> {
        let unseen: Vec<Wd> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.walk != self.walk)
            .map(|(wd, _)| *wd)
            .collect();
        for wd in &unseen {
            self.unlink(*wd);
            self.nodes.remove(wd);
        }
        unseen
    }

    fn children_of(&self, parent: Wd) -> Vec<Wd> {
        let first = (parent, Arc::from(""));
        self.children
            .range(first..)
            .take_while(|((of, _), _)| *of == parent)
            .map(|(_, wd)| *wd)
            .collect()
    }

    /// Removes a directory from the children of its parent.
    fn unlink(&mut self, wd: Wd) {
        if let Some(node) = self.nodes.get(&wd) {
            let key = (node.parent, Arc::clone(&node.name));
            if self.children.get(&key) == Some(&wd) {
                self.children.remove(&key);
            }
        }
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(shared) = self.shared.get(name) {
            return Arc::clone(shared);
        }
        let name: Arc<str> = Arc::from(name);
        if self.shared.len() < SHARED_MAX {
            self.shared.insert(Arc::clone(&name));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        for (wd, parent, name) in [
            (1, ABOVE, ""),
            (2, 1, "sales"),
            (3, 2, "orders"),
            (4, 3, "snapshots"),
            (5, 1, "finance"),
        ] {
            assert!(tree.put(wd, parent, name));
        }
        tree
    }

    #[test]
    fn a_renamed_directory_takes_everything_below_it_along() {
        let mut tree = tree();
        assert_eq!(tree.path(4).as_deref(), Some("sales/orders/snapshots"));
        tree.detach(2, "orders");
        assert_eq!(tree.path(4), None, "an orphan");
        assert!(tree.put(3, 5, "orders-2"));
        assert_eq!(tree.path(4).as_deref(), Some("finance/orders-2/snapshots"));
        assert!(tree.take_orphans().is_empty());
        assert_eq!(tree.len(), 5);
    }

    #[test]
    fn an_orphan_is_taken_with_everything_below_it() {
        let mut tree = tree();
        tree.detach(1, "sales");
        let mut taken = tree.take_orphans();
        taken.sort_unstable();
        assert_eq!(taken, [2, 3, 4]);
        assert_eq!(tree.len(), 2);
        assert_eq!(tree.path(5).as_deref(), Some("finance"));
        assert!(tree.children.len() == 2 && tree.take_orphans().is_empty());
    }

    #[test]
    fn a_watch_that_the_kernel_removed_leaves_nothing_behind() {
        let mut tree = tree();
        tree.forget(4);
        tree.forget(4);
        assert_eq!(tree.len(), 4);
        // An unmount removes the watches below it without reporting each of them.
        tree.forget(2);
        assert_eq!(tree.take_orphans(), [3]);
        assert_eq!((tree.len(), tree.children.len()), (2, 2));
    }

    #[test]
    fn a_name_that_another_directory_took_belongs_to_that_one() {
        let mut tree = tree();
        assert!(tree.put(9, 2, "orders"));
        assert_eq!(tree.path(9).as_deref(), Some("sales/orders"));
        assert_eq!(tree.path(4), None);
        tree.forget(3);
        let mut taken = tree.take_orphans();
        taken.sort_unstable();
        assert_eq!(taken, [4]);
        assert_eq!(tree.path(9).as_deref(), Some("sales/orders"));
    }

    #[test]
    fn watches_that_a_walk_does_not_see_are_taken() {
        let mut tree = tree();
        tree.begin_walk();
        for (wd, parent, name) in [(1, ABOVE, ""), (2, 1, "sales"), (3, 2, "renamed")] {
            assert!(tree.put(wd, parent, name));
        }
        let mut unseen = tree.take_unseen();
        unseen.sort_unstable();
        assert_eq!(unseen, [4, 5]);
        assert_eq!(tree.path(3).as_deref(), Some("sales/renamed"));
        assert_eq!((tree.len(), tree.children.len()), (3, 3));
    }

    #[test]
    fn a_ring_of_stale_entries_has_no_path() {
        let mut tree = tree();
        assert!(tree.put(2, 3, "sales"));
        assert_eq!(tree.path(4), None);
        assert!(!tree.put(7, 77, "below nothing"));
    }
}
