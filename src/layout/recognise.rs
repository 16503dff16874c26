//! Recognises the layout of a directory tree from the paths of its XML files.
//!
//! Constraint: this module does no I/O, and its work is nearly proportional to the number of paths.
//! It compares candidates. A candidate is a directory and a known layout ([`Shape`]) that starts
//! there. The candidate that explains the most files wins. A published copy or a snapshot is
//! explained only if its project has a definition.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Ignored, Layout};
use crate::domain::project::{ProjectKey, Role};

#[cfg(test)]
mod tests;

/// A known layout: its path templates for each role.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The name of the layout in messages.
    pub(crate) name: &'static str,
    pub(crate) project: &'static [&'static str],
    pub(crate) published: &'static [&'static str],
    pub(crate) snapshot: &'static [&'static str],
}

/// The known layouts.
///
/// If candidates explain the same number of files, the one in the highest directory wins. If they
/// are equally high, the one whose layout comes first in this list wins.
pub(crate) const SHAPES: [Shape; 4] = [
    Shape {
        name: "the default layout",
        project: &["{organization}/{project}/project.xml"],
        published: &[
            "{organization}/{project}/published/project.xml",
            "{organization}/{project}/published/{versionTag}/project.xml",
        ],
        snapshot: &[
            "{organization}/{project}/snapshots/{versionTag}.xml",
            "{organization}/{project}/snapshots/{versionTag}/project.xml",
        ],
    },
    Shape {
        name: "the default layout without organizations",
        project: &["{project}/project.xml"],
        published: &[
            "{project}/published/project.xml",
            "{project}/published/{versionTag}/project.xml",
        ],
        snapshot: &[
            "{project}/snapshots/{versionTag}.xml",
            "{project}/snapshots/{versionTag}/project.xml",
        ],
    },
    Shape {
        name: "a flat directory of XML files",
        project: &["{project}.xml"],
        published: &[],
        snapshot: &[],
    },
    Shape {
        name: "a flat directory of XML files for each organization",
        project: &["{organization}/{project}.xml"],
        published: &[],
        snapshot: &[],
    },
];

/// The file name of a definition in layouts with one directory per project.
pub(crate) const DEFINITION: &str = "project.xml";

/// The names of directories inside a project. They are not projects or organizations.
const PARTS_OF_A_PROJECT: [&str; 2] = ["published", "snapshots"];

impl Shape {
    /// Whether this is the default layout of the configuration.
    pub(crate) fn is_default(&self) -> bool {
        SHAPES.first() == Some(self)
    }

    fn layout(&self, ignored: &Ignored) -> Option<Layout> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let [project, published, snapshot]: [Vec<String>; 3] =
            [self.project, self.published, self.snapshot].map(owned);
        let layout = Layout::new(&project, &published, &snapshot).ok()?;
        Some(layout.ignoring(ignored.clone()))
    }

    /// The possible numbers of path components of a file.
    fn depths(&self) -> BTreeSet<usize> {
        let texts = [self.project, self.published, self.snapshot].concat();
        texts.iter().map(|text| text.split('/').count()).collect()
    }
}

/// The recognised layout of a tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recognised {
    /// The directory at which the layout starts. Empty for the root of the tree.
    pub(crate) below: String,
    pub(crate) shape: &'static Shape,
    /// The projects of each organization.
    pub(crate) organizations: BTreeMap<String, BTreeSet<String>>,
    pub(crate) published: usize,
    pub(crate) snapshots: usize,
    /// The files that the layout does not explain, each with the reason.
    pub(crate) unexplained: Vec<(String, &'static str)>,
}

impl Recognised {
    pub(crate) fn projects(&self) -> usize {
        self.organizations.values().map(BTreeSet::len).sum()
    }
}

/// A directory, and the index of a layout in [`SHAPES`].
type Candidate<'a> = (&'a str, usize);

/// The project and the role of a file according to a candidate.
struct Meaning<'a> {
    candidate: Candidate<'a>,
    key: ProjectKey,
    role: Role,
}

/// Recognises the layout of these files. `None` if no known layout finds a project.
pub(crate) fn recognise(paths: &[String], ignored: &Ignored) -> Option<Recognised> {
    let layouts: Vec<(Layout, BTreeSet<usize>)> = SHAPES
        .iter()
        .filter_map(|shape| Some((shape.layout(ignored)?, shape.depths())))
        .collect();
    let mut projects: HashMap<Candidate<'_>, HashSet<ProjectKey>> = HashMap::new();
    for meaning in paths.iter().flat_map(|path| meanings(path, &layouts)) {
        if meaning.role == Role::Definition {
            let keys = projects.entry(meaning.candidate).or_default();
            keys.insert(meaning.key);
        }
    }
    let mut explained: HashMap<Candidate<'_>, usize> = HashMap::new();
    for meaning in paths.iter().flat_map(|path| meanings(path, &layouts)) {
        let keys = projects.get(&meaning.candidate);
        if keys.is_some_and(|keys| keys.contains(&meaning.key)) {
            *explained.entry(meaning.candidate).or_default() += 1;
        }
    }
    let (&best, _) = explained.iter().min_by_key(|((below, shape), n)| {
        let depth = below.split('/').filter(|name| !name.is_empty()).count();
        (std::cmp::Reverse(**n), depth, *shape, *below)
    })?;
    let shape = SHAPES.get(best.1)?;
    Some(explain(paths, best, shape, &layouts, projects.get(&best)?))
}

/// Explains each file with the chosen candidate.
fn explain(
    paths: &[String],
    chosen: Candidate<'_>,
    shape: &'static Shape,
    layouts: &[(Layout, BTreeSet<usize>)],
    projects: &HashSet<ProjectKey>,
) -> Recognised {
    let (below, _) = chosen;
    let mut recognised = Recognised {
        below: below.to_owned(),
        shape,
        organizations: BTreeMap::new(),
        published: 0,
        snapshots: 0,
        unexplained: Vec::new(),
    };
    for key in projects {
        let names = recognised.organizations.entry(key.organization.clone());
        names.or_default().insert(key.project.clone());
    }
    for path in paths {
        let mut meanings = meanings(path, layouts).into_iter();
        let meaning = meanings.find(|meaning| meaning.candidate == chosen);
        let reason = match meaning {
            Some(meaning) if projects.contains(&meaning.key) => {
                match meaning.role {
                    Role::Definition | Role::Deleted => {}
                    Role::Published => recognised.published += 1,
                    Role::Snapshot => recognised.snapshots += 1,
                }
                continue;
            }
            Some(meaning) if meaning.role == Role::Published => {
                "a published copy of a project that has no definition"
            }
            Some(_) => "a snapshot of a project that has no definition",
            None if !is_below(path, below) => "outside the recognised directory",
            None => "at a path that the recognised layout does not use",
        };
        recognised.unexplained.push((path.clone(), reason));
    }
    recognised
}

fn is_below(path: &str, directory: &str) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// Returns the meaning of a file for each candidate whose layout matches it.
fn meanings<'a>(path: &'a str, layouts: &[(Layout, BTreeSet<usize>)]) -> Vec<Meaning<'a>> {
    // The byte offsets where the components start.
    let starts: Vec<usize> = std::iter::once(0)
        .chain(path.match_indices('/').map(|(at, _)| at + 1))
        .collect();
    let mut meanings = Vec::new();
    for (index, (shape, (layout, depths))) in SHAPES.iter().zip(layouts).enumerate() {
        for depth in depths {
            let component = starts.len().checked_sub(*depth);
            let Some(start) = component.and_then(|component| starts.get(component)) else {
                continue;
            };
            let (below, rest) = path.split_at(*start);
            if !may_contain_projects(below, layout.ignored()) {
                continue;
            }
            let file = layout.at(rest).and_then(|cursor| cursor.file());
            if let Some(file) = file.filter(|file| may_be(&file.key, shape)) {
                meanings.push(Meaning {
                    candidate: (below.trim_end_matches('/'), index),
                    key: file.key,
                    role: file.role,
                });
            }
        }
    }
    meanings
}

/// Whether a layout can start in the directory at this path.
fn may_contain_projects(path: &str, ignored: &Ignored) -> bool {
    let mut names = path.split('/').filter(|name| !name.is_empty());
    names.all(|name| {
        !(PARTS_OF_A_PROJECT.contains(&name) || name.starts_with('.') || ignored.matches(name))
    })
}

/// Whether a project can have this key with this shape.
fn may_be(key: &ProjectKey, shape: &Shape) -> bool {
    let is_part = |name: &String| PARTS_OF_A_PROJECT.contains(&name.as_str());
    let is_flat = shape.project.iter().all(|text| !text.ends_with(DEFINITION));
    let is_definition = DEFINITION.strip_suffix(".xml") == Some(key.project.as_str());
    !(is_part(&key.organization) || is_part(&key.project) || (is_flat && is_definition))
}
