//! Path templates and the meaning of paths.
//!
//! Constraint: no I/O, and one way to read a path. A [`Cursor`] stands at a directory below the
//! root and knows which templates can still match from there. The walk of the tree, the observation
//! of a project and the reading of a hint's path are all steps of a cursor, so they agree about the
//! files of a project.
//!
//! Map: this file has the layout, `cursor` the steps, `template` the parser of templates.

mod cursor;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::domain::project::{ProjectKey, Role};

pub use cursor::Cursor;
use cursor::{Bound, Live};
use template::{Capture, Part, Template};

/// The organization of every project if no template has `{organization}`.
pub const DEFAULT_ORGANIZATION: &str = "default";

/// The most templates of one role.
///
/// A check of the configuration compares every pair of templates; the bound limits its time.
pub const TEMPLATES_MAX: usize = 32;

/// The longest template, in characters.
pub const TEMPLATE_MAX: usize = 1024;

/// The templates of a repository. It is cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    templates: Arc<[Template]>,
}

/// An error in a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TemplateError {
    /// The role of the template.
    pub role: Role,
    /// Its index in the list of that role, from 0.
    pub index: usize,
    /// The problem, and the allowed values.
    pub reason: String,
}

/// The meaning of a path for a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The project.
    pub key: ProjectKey,
    /// The role of the file.
    pub role: Role,
    /// The text that `{versionTag}` captured.
    pub tag: Option<String>,
    /// The index of its template in the layout. Of two definitions of one project, the one with the
    /// lower rank wins.
    pub rank: usize,
}

/// The entries of a directory that can match a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entries {
    /// Any entry: the directory has to be listed.
    Any,
    /// Only these names: they can be opened without listing the directory.
    Only(BTreeSet<String>),
}

impl Layout {
    /// The layout of these templates, or all their errors.
    ///
    /// An error concerns one template, or a pair that can match the same path.
    pub fn new(
        project: &[String],
        published: &[String],
        snapshot: &[String],
    ) -> Result<Self, Vec<TemplateError>> {
        let mut templates = Vec::new();
        let mut errors = Vec::new();
        for (role, texts) in [
            (Role::Definition, project),
            (Role::Published, published),
            (Role::Snapshot, snapshot),
        ] {
            if role == Role::Definition && texts.is_empty() {
                errors.push(TemplateError {
                    role,
                    index: 0,
                    reason: "there is no template for the definition of a project".to_owned(),
                });
            }
            if texts.len() > TEMPLATES_MAX {
                errors.push(TemplateError {
                    role,
                    index: TEMPLATES_MAX,
                    reason: format!(
                        "is one too many: {} templates are given; at most {TEMPLATES_MAX} are \
                         allowed",
                        texts.len()
                    ),
                });
            }
            for (index, text) in texts.iter().take(TEMPLATES_MAX).enumerate() {
                match Template::parse(role, index, text) {
                    Ok(template) => templates.push(template),
                    Err(reason) => errors.push(TemplateError {
                        role,
                        index,
                        reason,
                    }),
                }
            }
        }
        errors.extend(disagreements(&templates));
        if errors.is_empty() {
            Ok(Self {
                templates: templates.into(),
            })
        } else {
            Err(errors)
        }
    }

    /// The cursor at the root, for every project.
    pub fn root(&self) -> Cursor {
        self.start(|_| Some(Bound::default()))
    }

    /// The cursor at the root, for this project alone.
    pub fn project(&self, key: &ProjectKey) -> Cursor {
        self.start(|template| {
            let has_organization = template.captures().any(|c| c == Capture::Organization);
            (has_organization || key.organization == DEFAULT_ORGANIZATION).then(|| Bound {
                organization: Some(key.organization.as_str().into()),
                project: Some(key.project.as_str().into()),
                tag: None,
            })
        })
    }

    fn start(&self, bound: impl Fn(&Template) -> Option<Bound>) -> Cursor {
        let live = self
            .templates
            .iter()
            .enumerate()
            .filter_map(|(rank, template)| {
                let mut bound = bound(template)?;
                if !template.captures().any(|c| c == Capture::Organization) {
                    bound.organization = Some(DEFAULT_ORGANIZATION.into());
                }
                Some(Live { rank, bound })
            })
            .collect();
        Cursor::at_root(self.clone(), live)
    }

    /// The number of components of the directory that contains all files of a project.
    ///
    /// Absent if the templates have no such directory.
    pub fn project_directory(&self) -> Option<usize> {
        let first = self.templates.first()?;
        let needed = first.captures().filter(|c| *c != Capture::VersionTag);
        let needed: BTreeSet<Capture> = needed.collect();
        let mut named = BTreeSet::new();
        let mut depth = 0;
        for component in &first.components {
            named.extend(component.iter().filter_map(|part| match part {
                Part::Capture(capture) => Some(*capture),
                Part::Literal(_) => None,
            }));
            depth += 1;
            if named.is_superset(&needed) {
                break;
            }
        }
        let prefix = first.components.get(..depth)?;
        self.templates
            .iter()
            .all(|template| {
                template.components.len() > depth
                    && template.components.get(..depth) == Some(prefix)
            })
            .then_some(depth)
    }

    /// The directory that contains all files of a project, and the cursor there.
    ///
    /// The cursor is for this project alone; see [`Layout::project_directory`].
    pub fn home(&self, key: &ProjectKey) -> Option<(String, Cursor)> {
        let depth = self.project_directory()?;
        let template = self.templates.first()?;
        let mut cursor = self.project(key);
        let mut path = String::new();
        for component in template.components.iter().take(depth) {
            let start = path.len() + usize::from(!path.is_empty());
            if !path.is_empty() {
                path.push('/');
            }
            for part in component {
                path.push_str(match part {
                    Part::Literal(text) => text,
                    Part::Capture(Capture::Organization) => &key.organization,
                    Part::Capture(Capture::Project) => &key.project,
                    Part::Capture(Capture::VersionTag) => return None,
                });
            }
            cursor = cursor.enter(path.get(start..)?)?;
        }
        Some((path, cursor))
    }

    /// The path of this file after its project has moved.
    pub fn relocate(&self, path: &str, to: &ProjectKey) -> Option<String> {
        let place = self.at(path)?.place()?;
        let template = self.templates.get(place.rank)?;
        let components = template.components.iter().map(|component| {
            component
                .iter()
                .map(|part| match part {
                    Part::Literal(text) => Some(text.as_str()),
                    Part::Capture(Capture::Organization) => Some(to.organization.as_str()),
                    Part::Capture(Capture::Project) => Some(to.project.as_str()),
                    Part::Capture(Capture::VersionTag) => place.tag.as_deref(),
                })
                .collect::<Option<String>>()
        });
        let path = components.collect::<Option<Vec<_>>>()?.join("/");
        // A name can match in several ways, so the new path has to read back as the same file.
        let read_back = self.at(&path)?.place()?;
        (read_back.key == *to && read_back.role == place.role).then_some(path)
    }

    /// The cursor at this path below the root, if any template leads there.
    pub fn at(&self, path: &str) -> Option<Cursor> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(self.root(), |cursor, name| cursor.enter(name))
    }
}

impl fmt::Display for Layout {
    /// One line for each template; equal texts mean equal layouts.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for template in self.templates.iter() {
            writeln!(formatter, "{} {}", template.role.as_str(), template.text)?;
        }
        Ok(())
    }
}

/// The errors between templates that are valid by themselves.
fn disagreements(templates: &[Template]) -> Vec<TemplateError> {
    let mut errors = Vec::new();
    let has_organization =
        |template: &Template| template.captures().any(|c| c == Capture::Organization);
    if let Some(first) = templates.first() {
        for template in templates {
            if has_organization(template) != has_organization(first) {
                errors.push(TemplateError {
                    role: template.role,
                    index: template.index,
                    reason: format!(
                        "{} {{organization}}, but {:?} {}; all templates have it, or none",
                        if has_organization(template) {
                            "has"
                        } else {
                            "has no"
                        },
                        first.text,
                        if has_organization(first) {
                            "has"
                        } else {
                            "has not"
                        },
                    ),
                });
            }
        }
    }
    for (position, template) in templates.iter().enumerate() {
        for earlier in templates.iter().take(position) {
            if template.overlaps(earlier) {
                errors.push(TemplateError {
                    role: template.role,
                    index: template.index,
                    reason: format!(
                        "can match the same path as {:?} ({}); a file must have one meaning",
                        earlier.text,
                        earlier.role.as_str()
                    ),
                });
            }
        }
    }
    errors
}
