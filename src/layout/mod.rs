//! Matches paths below the root with the configured path templates.
//!
//! Constraint: this module does no I/O, and a path is never ambiguous.
//!
//! A [`Cursor`] is a path below the root with the templates that can still match from there.
//! Scans, observations and hints all use cursors, so that they agree on the files of a project.
//!
//! Modules: this file has the layout. `cursor` follows paths. `template` parses and compares
//! templates. `recognise` finds the layout of an existing tree.

mod cursor;
pub(crate) mod recognise;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::domain::names::composed;
use crate::domain::project::{ProjectKey, Role};

pub use cursor::Cursor;
use cursor::{Bound, Live};
use template::{Capture, Part, Template};

/// The organization of every project if the templates have no `{organization}`.
const DEFAULT_ORGANIZATION: &str = "default";

/// The maximum number of templates of one role.
///
/// Every pair of templates is compared, so the limit keeps checking a configuration fast.
pub(crate) const TEMPLATES_MAX: usize = 32;

/// The longest template, in characters.
const TEMPLATE_MAX: usize = 1024;

/// The path templates of a repository. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    templates: Arc<[Template]>,
    ignored: Arc<Ignored>,
    /// The name of the repository in keys, if there are several.
    repository: Option<Arc<str>>,
}

/// Names that no component with a capture matches, such as that of a recycle bin.
#[derive(Clone, Debug, Default)]
pub struct Ignored {
    globs: Vec<String>,
    set: GlobSet,
}

impl Ignored {
    /// Compiles globs that match names.
    ///
    /// # Errors
    ///
    /// The globs are too complex in total.
    pub fn new(globs: &[Glob]) -> Result<Self, globset::Error> {
        let mut builder = GlobSetBuilder::new();
        for glob in globs {
            builder.add(glob.clone());
        }
        Ok(Self {
            globs: globs.iter().map(|glob| glob.glob().to_owned()).collect(),
            set: builder.build()?,
        })
    }

    /// The globs, in the composed form of Unicode (NFC).
    pub fn globs(&self) -> &[String] {
        &self.globs
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        !self.globs.is_empty() && self.set.is_match(&*composed(name))
    }
}

impl PartialEq for Ignored {
    fn eq(&self, other: &Self) -> bool {
        self.globs == other.globs
    }
}

impl Eq for Ignored {}

/// Why a template is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TemplateError {
    /// The role of the template.
    pub role: Role,
    /// The index of the template in the list of its role, from 0.
    pub index: usize,
    /// The fault, and how to fix it.
    pub reason: String,
}

/// A path that a template matches: a file of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectFile {
    /// The project of the file.
    pub key: ProjectKey,
    /// The role of the file in the project.
    pub role: Role,
    /// The captured value of `{versionTag}`.
    pub tag: Option<String>,
    /// The index of the template in the layout.
    ///
    /// If a project has two definitions, the one with the lower rank is used.
    pub rank: usize,
}

/// The directory entries that a template can match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entries {
    /// Any name can match, so the directory must be listed.
    Any,
    /// Only these names can match. They can be opened without listing the directory.
    Only(BTreeSet<String>),
}

impl Layout {
    /// Parses the templates of each role.
    ///
    /// # Errors
    ///
    /// The definition has no template, or a role has too many. A template is invalid. Two templates
    /// can match the same path, or only one of them has `{organization}`.
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
                        "is one too many: there are {} templates; at most {TEMPLATES_MAX} are \
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
                ignored: Arc::default(),
                repository: None,
            })
        } else {
            Err(errors)
        }
    }

    /// Returns this layout with these names ignored; see [`Ignored`].
    #[must_use]
    pub fn ignoring(mut self, ignored: Ignored) -> Self {
        self.ignored = Arc::new(ignored);
        self
    }

    /// Returns this layout with the name of one of several repositories in its keys.
    #[must_use]
    pub fn in_repository(mut self, name: Arc<str>) -> Self {
        self.repository = Some(name);
        self
    }

    pub(crate) fn repository(&self) -> Option<&Arc<str>> {
        self.repository.as_ref()
    }

    /// The ignored names.
    pub fn ignored(&self) -> &Ignored {
        &self.ignored
    }

    /// Returns a cursor at the root with all templates.
    pub fn root(&self) -> Cursor {
        self.start(|_| Some(Bound::default()))
    }

    /// Returns a cursor at the root that matches only paths of one project.
    pub(crate) fn project(&self, key: &ProjectKey) -> Cursor {
        self.start(|template| {
            let organization = key.organization_name();
            (template.has(Capture::Organization) || organization == DEFAULT_ORGANIZATION).then(
                || Bound {
                    organization: Some(organization.into()),
                    project: Some(key.project.as_str().into()),
                    tag: None,
                },
            )
        })
    }

    fn start(&self, bound: impl Fn(&Template) -> Option<Bound>) -> Cursor {
        let live = self
            .templates
            .iter()
            .enumerate()
            .filter_map(|(rank, template)| {
                let mut bound = bound(template)?;
                if !template.has(Capture::Organization) {
                    bound.organization = Some(DEFAULT_ORGANIZATION.into());
                }
                Some(Live { rank, bound })
            })
            .collect();
        Cursor::at_root(self.clone(), live)
    }

    /// Returns the depth of the directory that contains all files of a project.
    ///
    /// The depth is in path components. `None` if the templates have no such directory in common.
    pub(crate) fn project_directory(&self) -> Option<usize> {
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

    /// Returns the path of the directory that contains all files of a project, and its cursor.
    ///
    /// See [`Layout::project_directory`].
    pub fn directory_of(&self, key: &ProjectKey) -> Option<(String, Cursor)> {
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
                    Part::Capture(Capture::Organization) => key.organization_name(),
                    Part::Capture(Capture::Project) => &key.project,
                    Part::Capture(Capture::VersionTag) => return None,
                });
            }
            cursor = cursor.enter(path.get(start..)?)?;
        }
        Some((path, cursor))
    }

    /// Returns the new path of a file after its project moved to another key.
    ///
    /// `None` if the templates have no such path.
    pub fn relocate(&self, path: &str, to: &ProjectKey) -> Option<String> {
        let place = self.at(path)?.file()?;
        let template = self.templates.get(place.rank)?;
        let components = template.components.iter().map(|component| {
            component
                .iter()
                .map(|part| match part {
                    Part::Literal(text) => Some(text.as_str()),
                    Part::Capture(Capture::Organization) => Some(to.organization_name()),
                    Part::Capture(Capture::Project) => Some(to.project.as_str()),
                    Part::Capture(Capture::VersionTag) => place.tag.as_deref(),
                })
                .collect::<Option<String>>()
        });
        let path = components.collect::<Option<Vec<_>>>()?.join("/");
        // Check that the new path belongs to the new key and has the same role.
        let read_back = self.at(&path)?.file()?;
        (read_back.key == *to && read_back.role == place.role).then_some(path)
    }

    /// Returns the cursor at a path below the root. `None` if no template can match from there.
    pub fn at(&self, path: &str) -> Option<Cursor> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(self.root(), |cursor, name| cursor.enter(name))
    }
}

impl fmt::Display for Layout {
    /// Formats each template and each ignored glob on a line, for the store.
    ///
    /// Equal layouts have equal texts.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for template in self.templates.iter() {
            writeln!(formatter, "{} {}", template.role.as_str(), template.text)?;
        }
        for glob in self.ignored.globs() {
            writeln!(formatter, "ignore {glob}")?;
        }
        Ok(())
    }
}

/// Finds contradictions between valid templates.
fn disagreements(templates: &[Template]) -> Vec<TemplateError> {
    let mut errors = Vec::new();
    let has_organization = |template: &Template| template.has(Capture::Organization);
    if let Some(first) = templates.first() {
        for template in templates {
            if has_organization(template) != has_organization(first) {
                errors.push(TemplateError {
                    role: template.role,
                    index: template.index,
                    reason: format!(
                        "{} {{organization}}, but {:?} {}; all templates must have it, or none",
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
                        "can match the same path as {:?} ({}); a path must match only one template",
                        earlier.text,
                        earlier.role.as_str()
                    ),
                });
            }
        }
    }
    errors
}
