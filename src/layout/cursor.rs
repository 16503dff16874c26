//! Follows a path name by name, with the templates that still match.
//!
//! Constraint: a path is never ambiguous. Each capture takes the shortest text that lets the rest
//! of its component match. If a capture already has a value, it matches only this value.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::template::{Capture, Part, Template};
use super::{Entries, Layout, ProjectFile};
use crate::domain::project::{ProjectKey, Role, stored_organization};

/// The captured values of one template so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) organization: Option<Arc<str>>,
    pub(super) project: Option<Arc<str>>,
    pub(super) tag: Option<Arc<str>>,
}

impl Bound {
    fn get(&self, capture: Capture) -> Option<&str> {
        match capture {
            Capture::Organization => self.organization.as_deref(),
            Capture::Project => self.project.as_deref(),
            Capture::VersionTag => self.tag.as_deref(),
        }
    }

    fn set(&mut self, capture: Capture, value: &str) {
        let slot = match capture {
            Capture::Organization => &mut self.organization,
            Capture::Project => &mut self.project,
            Capture::VersionTag => &mut self.tag,
        };
        *slot = Some(value.into());
    }

    fn key(&self, repository: Option<&str>) -> Option<ProjectKey> {
        let organization = self.organization.as_deref()?;
        Some(ProjectKey {
            organization: stored_organization(repository, organization),
            project: self.project.as_deref()?.to_owned(),
        })
    }
}

/// A path below the root, and the templates that can still match from there.
#[derive(Clone, Debug)]
pub struct Cursor {
    layout: Layout,
    depth: usize,
    live: Vec<Live>,
}

#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) rank: usize,
    pub(super) bound: Bound,
}

impl Cursor {
    pub(super) fn at_root(layout: Layout, live: Vec<Live>) -> Self {
        Self {
            layout,
            depth: 0,
            live,
        }
    }

    /// Keeps only the templates of the wanted roles.
    #[must_use]
    pub(crate) fn with_roles(mut self, wanted: impl Fn(Role) -> bool) -> Cursor {
        let layout = self.layout.clone();
        self.live.retain(|live| {
            layout
                .templates
                .get(live.rank)
                .is_some_and(|template| wanted(template.role))
        });
        self
    }

    /// Returns the roles of the files that a template can match at or below this path.
    pub fn roles(&self) -> BTreeSet<Role> {
        let templates = self.live.iter().filter_map(|live| self.template(live));
        templates.map(|template| template.role).collect()
    }

    /// Returns the cursor after one more name of the path. `None` if no template matches.
    pub(crate) fn enter(&self, name: &str) -> Option<Cursor> {
        let is_ignored = self.layout.ignored().matches(name);
        let live: Vec<Live> = self
            .live
            .iter()
            .filter_map(|live| {
                let component = self.component(live)?;
                if is_ignored && has_capture(component) {
                    return None;
                }
                let bound = match_component(component, name, &live.bound)?;
                Some(Live {
                    rank: live.rank,
                    bound,
                })
            })
            .collect();
        (!live.is_empty()).then(|| Cursor {
            layout: self.layout.clone(),
            depth: self.depth + 1,
            live,
        })
    }

    /// Returns the file that a template matches at this path. Templates do not overlap.
    pub fn file(&self) -> Option<ProjectFile> {
        self.live.iter().find_map(|live| {
            let template = self.template(live)?;
            if template.components.len() != self.depth {
                return None;
            }
            Some(ProjectFile {
                key: live.bound.key(self.layout.repository.as_deref())?,
                role: template.role,
                tag: live.bound.tag.as_deref().map(str::to_owned),
                rank: live.rank,
            })
        })
    }

    /// Whether a template can match a path below this one.
    pub(crate) fn leads_on(&self) -> bool {
        self.live.iter().any(|live| self.component(live).is_some())
    }

    /// Returns the entries of this directory that a template can match.
    pub(crate) fn entries(&self) -> Entries {
        let mut names = BTreeSet::new();
        for live in &self.live {
            let Some(component) = self.component(live) else {
                continue;
            };
            let mut name = String::new();
            for part in component {
                match part {
                    Part::Literal(text) => name.push_str(text),
                    Part::Capture(capture) => match live.bound.get(*capture) {
                        Some(value) => name.push_str(value),
                        None => return Entries::Any,
                    },
                }
            }
            names.insert(name);
        }
        Entries::Only(names)
    }

    /// Returns the project, if all paths at and below this one belong to the same project.
    pub(crate) fn project(&self) -> Option<ProjectKey> {
        let (first, others) = self.live.split_first()?;
        let is_same = |live: &Live| {
            live.bound.project == first.bound.project
                && live.bound.organization == first.bound.organization
        };
        let key = first.bound.key(self.layout.repository.as_deref())?;
        others.iter().all(is_same).then_some(key)
    }

    /// Returns the organization, if all paths at and below this one belong to the same one.
    ///
    /// It has the form of [`ProjectKey::organization`].
    pub(crate) fn organization(&self) -> Option<String> {
        let mut organizations = self
            .live
            .iter()
            .map(|live| live.bound.organization.as_ref());
        let first = organizations.next()??;
        organizations
            .all(|organization| organization == Some(first))
            .then(|| stored_organization(self.layout.repository.as_deref(), first))
    }

    fn template(&self, live: &Live) -> Option<&Template> {
        self.layout.templates.get(live.rank)
    }

    /// Returns the next component of a template that can still match.
    fn component(&self, live: &Live) -> Option<&[Part]> {
        self.template(live)?
            .components
            .get(self.depth)
            .map(Vec::as_slice)
    }
}

/// Matches a name with a component of a template.
///
/// Returns all values captured so far.
pub(super) fn match_component(parts: &[Part], name: &str, bound: &Bound) -> Option<Bound> {
    // Programs such as editors and synchronisers create hidden entries for internal use.
    if has_capture(parts) && name.starts_with('.') {
        return None;
    }
    match_parts(parts, name, bound)
}

fn has_capture(parts: &[Part]) -> bool {
    parts.iter().any(|part| matches!(part, Part::Capture(_)))
}

fn match_parts(parts: &[Part], text: &str, bound: &Bound) -> Option<Bound> {
    match parts.split_first() {
        None => text.is_empty().then(|| bound.clone()),
        Some((Part::Literal(literal), rest)) => {
            match_parts(rest, text.strip_prefix(literal.as_str())?, bound)
        }
        Some((Part::Capture(capture), rest)) => match bound.get(*capture) {
            Some(value) => match_parts(rest, text.strip_prefix(value)?, bound),
            None => text
                .char_indices()
                .map(|(start, character)| start + character.len_utf8())
                .find_map(|end| {
                    let (value, after) = text.split_at_checked(end)?;
                    let mut matched = match_parts(rest, after, bound)?;
                    matched.set(*capture, value);
                    Some(matched)
                }),
        },
    }
}
