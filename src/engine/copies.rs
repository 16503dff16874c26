//! Remembers which copies of a project are in place. So a step observes only the other copies.
//!
//! Constraint: the first scan of an organization with n copies of a project observes each copy
//! once. Each arrival may be a move of any recorded project with the same id. So without this
//! module, each step would observe all copies: 53 seconds for 4,000 copies.
//!
//! If an identity has at most [`FEW`] recorded projects, the step that read them also forgets them.
//! A copy is considered in place from an observation of its recorded definition, but at most until
//! its next hint or the next full scan. A hint may be late, so a copy is also observed if an
//! arrived definition has the inode of its definition.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::domain::moves::Comparison;
use crate::domain::project::{Identity, ProjectKey};
use crate::store::Batch;

/// If at most this many projects share an identity, a step observes them all.
pub(super) const FEW: usize = 8;

/// The recorded projects with one identity.
#[derive(Debug, Default)]
struct Group {
    /// The copies that may have left.
    doubtful: BTreeSet<ProjectKey>,
    /// The copies that are in place, with the inode of their definition.
    in_place: BTreeMap<ProjectKey, u64>,
    /// The copies of `in_place`, by inode.
    by_inode: BTreeSet<(u64, ProjectKey)>,
}

impl Group {
    /// Records that a copy is in place, with its inode, or doubtful (`None`).
    fn set(&mut self, key: &ProjectKey, inode: Option<u64>) {
        self.remove(key);
        match inode {
            None => {
                self.doubtful.insert(key.clone());
            }
            Some(inode) => {
                self.in_place.insert(key.clone(), inode);
                self.by_inode.insert((inode, key.clone()));
            }
        }
    }

    fn remove(&mut self, key: &ProjectKey) {
        self.doubtful.remove(key);
        if let Some(inode) = self.in_place.remove(key) {
            self.by_inode.remove(&(inode, key.clone()));
        }
    }
}

/// The groups of copies by identity, and the identity of each copy.
#[derive(Debug, Default)]
pub(super) struct Copies {
    groups: HashMap<Identity, Group>,
    identities: HashMap<ProjectKey, Identity>,
    /// The groups that were added in this step.
    new: Vec<Identity>,
}

impl Copies {
    /// Forgets everything, for instance before a full scan.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn knows(&self, identity: &Identity) -> bool {
        self.groups.contains_key(identity)
    }

    /// Forgets the small groups that were added in this step.
    pub(super) fn end_step(&mut self) {
        for identity in std::mem::take(&mut self.new) {
            let is_small = |group: &Group| group.doubtful.len() + group.in_place.len() <= FEW;
            if self.groups.get(&identity).is_some_and(is_small)
                && let Some(group) = self.groups.remove(&identity)
            {
                for key in group.doubtful.iter().chain(group.in_place.keys()) {
                    self.identities.remove(key);
                }
            }
        }
    }

    /// Adds the recorded projects with an identity. All are doubtful.
    pub(super) fn learn(&mut self, identity: &Identity, keys: &[ProjectKey]) {
        self.new.push(identity.clone());
        let group = self.groups.entry(identity.clone()).or_default();
        for key in keys {
            group.set(key, None);
            self.identities.insert(key.clone(), identity.clone());
        }
    }

    /// Records that a copy may have left its directory.
    pub(super) fn doubt(&mut self, key: &ProjectKey) {
        if let Some(identity) = self.identities.get(key)
            && let Some(group) = self.groups.get_mut(identity)
        {
            group.set(key, None);
        }
    }

    /// Records an observation. A copy is in place if its recorded definition was found.
    pub(super) fn observed(&mut self, comparison: &Comparison) {
        let key = &comparison.key;
        if !self.identities.contains_key(key) {
            return;
        }
        let recorded = comparison.recorded.definition.as_ref();
        let seen = comparison.observed.definition();
        let found = seen.filter(|seen| recorded.is_some_and(|known| known.hash == seen.hash));
        if let Some(identity) = self.identities.get(key)
            && let Some(group) = self.groups.get_mut(identity)
        {
            group.set(key, found.map(|seen| seen.stamp.inode));
        }
    }

    /// Applies the changes of a batch. If the commit fails, call [`Copies::clear`].
    pub(super) fn committed(&mut self, batch: &Batch) {
        if self.groups.is_empty() {
            return;
        }
        for change in &batch.changes {
            let after = change.after.last_definition();
            // Skip changes without a definition: merges, and portions that have only other files.
            if change.before.last_definition().is_none() && after.is_none() {
                continue;
            }
            let now = after.map(|file| file.project_identity(&change.key));
            let before = self.identities.get(&change.key).cloned();
            if let Some(before) = before.filter(|before| now.as_ref() != Some(before))
                && let Some(group) = self.groups.get_mut(&before)
            {
                group.remove(&change.key);
                self.identities.remove(&change.key);
            }
        }
        for change in &batch.changes {
            let Some(definition) = &change.after.definition else {
                continue;
            };
            let identity = definition.project_identity(&change.key);
            let is_new = !self.identities.contains_key(&change.key);
            if let Some(group) = self.groups.get_mut(&identity).filter(|_| is_new) {
                group.set(&change.key, Some(definition.stamp.inode));
                self.identities.insert(change.key.clone(), identity);
            }
        }
    }

    /// Returns the copies that may have moved, given the inodes of arrived projects.
    ///
    /// These are the doubtful copies, and copies in place with one of the inodes.
    pub(super) fn may_have_left(
        &self,
        identity: &Identity,
        inodes: impl Iterator<Item = u64>,
    ) -> Vec<ProjectKey> {
        let Some(group) = self.groups.get(identity) else {
            return Vec::new();
        };
        let first = ProjectKey::new("", "");
        let with_inode = inodes.flat_map(|inode| {
            let from = (inode, first.clone());
            let range = group.by_inode.range(from..);
            range.take_while(move |(it, _)| *it == inode)
        });
        let with_inode = with_inode.map(|(_, key)| key);
        group.doubtful.iter().chain(with_inode).cloned().collect()
    }

    /// Returns the copies in an organization. Copies in place come first.
    pub(super) fn in_organization<'a>(
        &'a self,
        identity: &Identity,
        organization: &'a str,
    ) -> impl Iterator<Item = &'a ProjectKey> {
        let first = ProjectKey::new(organization, "");
        let is_in = move |key: &&ProjectKey| key.organization == organization;
        let group = self.groups.get(identity);
        group.into_iter().flat_map(move |group| {
            let in_place = group.in_place.range(first.clone()..).map(|(key, _)| key);
            let doubtful = group.doubtful.range(first.clone()..);
            in_place.take_while(is_in).chain(doubtful.take_while(is_in))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Copies, FEW};
    use crate::domain::project::{Identity, ProjectKey};

    #[test]
    fn only_large_groups_are_remembered_and_copies_are_doubtful_until_observed() {
        let identity = Identity::Id("e".to_owned());
        let key = |n: usize| ProjectKey::new("sales", format!("p{n}"));
        let keys: Vec<ProjectKey> = (0..=FEW).map(key).collect();
        let mut copies = Copies::default();
        copies.learn(&identity, keys.get(1..).unwrap_or_default());
        assert!(copies.knows(&identity));
        copies.end_step();
        assert!(!copies.knows(&identity) && copies.identities.is_empty());
        copies.learn(&identity, &keys);
        copies.end_step();
        assert!(copies.knows(&identity));
        let left = |copies: &Copies, inode| copies.may_have_left(&identity, [inode].into_iter());
        assert_eq!(left(&copies, 1).len(), FEW + 1);
        for (key, inode) in keys.iter().zip(1..) {
            if let Some(group) = copies.groups.get_mut(&identity) {
                group.set(key, Some(inode));
            }
        }
        assert_eq!(left(&copies, 2), [key(1)]);
        copies.doubt(&key(3));
        assert_eq!(left(&copies, 2), [key(3), key(1)]);
        let in_sales = copies.in_organization(&identity, "sales");
        assert_eq!(in_sales.last(), Some(&key(3)));
        assert_eq!(copies.in_organization(&identity, "hr").count(), 0);
    }
}
