//! Path templates, and what they say about paths.
//!
//! Constraint: no I/O, and one way to read a path. A [`Cursor`] stands at a directory below the
//! root and knows which templates can still match from there. The walk over the whole tree, the
//! look at one project and the reading of a hint's path are all steps of a cursor, so that they
//! cannot disagree about what belongs to a project.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::domain::project::{ProjectKey, Role};

/// The organization of every project where the templates have no `{organization}`.
pub const DEFAULT_ORGANIZATION: &str = "default";

/// The most templates of one role. Every pair of templates is compared, so that their number has to
/// be bounded for a check of the configuration to take bounded time.
pub const TEMPLATES_MAX: usize = 32;

/// The longest template, in characters.
pub const TEMPLATE_MAX: usize = 1024;

/// The longest name that a file system has, in bytes (limits.h, NAME_MAX).
const NAME_MAX: usize = 255;

/// The templates of a repository; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    templates: Arc<[Template]>,
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TemplateError {
    /// The role it was given for.
    pub role: Role,
    /// Its place in the list of that role, from 0.
    pub index: usize,
    /// What is wrong with it, and what is allowed.
    pub reason: String,
}

/// What a path is to a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The project.
    pub key: ProjectKey,
    /// What the file is to it.
    pub role: Role,
    /// What `{versionTag}` captured.
    pub tag: Option<String>,
    /// The place of its template in the layout. Of two definitions of one project the one with the
    /// lower rank counts.
    pub rank: usize,
}

/// Which entries of a directory can matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entries {
    /// Any may; the directory has to be listed.
    Any,
    /// Only these names; they can be opened without listing the directory.
    Only(BTreeSet<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Template {
    role: Role,
    index: usize,
    text: String,
    components: Vec<Vec<Part>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Capture {
    Organization,
    Project,
    VersionTag,
}

const CAPTURES: [(&str, Capture); 3] = [
    ("organization", Capture::Organization),
    ("project", Capture::Project),
    ("versionTag", Capture::VersionTag),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Capture(Capture),
}

/// What the captures of one template have matched so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bound {
    organization: Option<String>,
    project: Option<String>,
    tag: Option<String>,
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
        *slot = Some(value.to_owned());
    }

    fn key(&self) -> Option<ProjectKey> {
        Some(ProjectKey {
            organization: self.organization.clone()?,
            project: self.project.clone()?,
        })
    }
}

impl Layout {
    /// The layout of these templates, or everything that is wrong with them: faults of one
    /// template, and pairs that can match the same path.
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
                    reason: "no template says where a project's definition is".to_owned(),
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

    /// The cursor at the root, open to every project.
    pub fn root(&self) -> Cursor {
        self.start(|_| Some(Bound::default()))
    }

    /// The cursor at the root, open to this project alone.
    pub fn project(&self, key: &ProjectKey) -> Cursor {
        self.start(|template| {
            let has_organization = template.captures().any(|c| c == Capture::Organization);
            (has_organization || key.organization == DEFAULT_ORGANIZATION).then(|| Bound {
                organization: Some(key.organization.clone()),
                project: Some(key.project.clone()),
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
                    bound.organization = Some(DEFAULT_ORGANIZATION.to_owned());
                }
                Some(Live { rank, bound })
            })
            .collect();
        Cursor {
            layout: self.clone(),
            depth: 0,
            live,
        }
    }

    /// Where the file at this path lies once its project is in another place.
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
        // A name may be matched in more than one way; only what is read back as meant is meant.
        let read_back = self.at(&path)?.place()?;
        (read_back.key == *to && read_back.role == place.role).then_some(path)
    }

    /// The cursor at this path below the root, where any template leads there.
    pub fn at(&self, path: &str) -> Option<Cursor> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(self.root(), |cursor, name| cursor.enter(name))
    }
}

impl fmt::Display for Layout {
    /// One line a template; equal texts mean equal layouts.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for template in self.templates.iter() {
            writeln!(formatter, "{} {}", template.role.as_str(), template.text)?;
        }
        Ok(())
    }
}

/// A position below the root, and the templates that can still match from there.
#[derive(Clone, Debug)]
pub struct Cursor {
    layout: Layout,
    depth: usize,
    live: Vec<Live>,
}

#[derive(Clone, Debug)]
struct Live {
    rank: usize,
    bound: Bound,
}

impl Cursor {
    /// The cursor with the templates of these roles alone.
    #[must_use]
    pub fn of(mut self, wanted: impl Fn(Role) -> bool) -> Cursor {
        let layout = self.layout.clone();
        self.live.retain(|live| {
            layout
                .templates
                .get(live.rank)
                .is_some_and(|template| wanted(template.role))
        });
        self
    }

    /// The cursor one component further, where any template leads there.
    pub fn enter(&self, name: &str) -> Option<Cursor> {
        let live: Vec<Live> = self
            .live
            .iter()
            .filter_map(|live| {
                let component = self.component(live)?;
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

    /// What a file at this path is; templates do not overlap, so there is one answer.
    pub fn place(&self) -> Option<Place> {
        self.live.iter().find_map(|live| {
            let template = self.template(live)?;
            if template.components.len() != self.depth {
                return None;
            }
            Some(Place {
                key: live.bound.key()?,
                role: template.role,
                tag: live.bound.tag.clone(),
                rank: live.rank,
            })
        })
    }

    /// Whether a directory at this path can hold anything that matters.
    pub fn leads_on(&self) -> bool {
        self.live.iter().any(|live| self.component(live).is_some())
    }

    /// Which entries of a directory at this path can matter.
    pub fn entries(&self) -> Entries {
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

    /// The one project that everything at and below this path belongs to, where that is certain.
    pub fn project(&self) -> Option<ProjectKey> {
        let mut keys = self.live.iter().map(|live| live.bound.key());
        let first = keys.next()??;
        keys.all(|key| key.as_ref() == Some(&first))
            .then_some(first)
    }

    /// The one organization that everything at and below this path belongs to, where that is
    /// certain.
    pub fn organization(&self) -> Option<String> {
        let mut organizations = self
            .live
            .iter()
            .map(|live| live.bound.organization.as_ref());
        let first = organizations.next()??;
        organizations
            .all(|organization| organization == Some(first))
            .then(|| first.clone())
    }

    fn template(&self, live: &Live) -> Option<&Template> {
        self.layout.templates.get(live.rank)
    }

    /// The component that comes next in a template that can still match.
    fn component(&self, live: &Live) -> Option<&[Part]> {
        self.template(live)?
            .components
            .get(self.depth)
            .map(Vec::as_slice)
    }
}

/// Matches one name; each capture takes the shortest text that lets the rest match. A capture that
/// is bound already matches only its value.
fn match_component(parts: &[Part], name: &str, bound: &Bound) -> Option<Bound> {
    let has_capture = parts.iter().any(|part| matches!(part, Part::Capture(_)));
    // Hidden entries are editors', version control's and synchronisers' own.
    if has_capture && name.starts_with('.') {
        return None;
    }
    match_parts(parts, name, bound)
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

impl Template {
    fn parse(role: Role, index: usize, text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty; a template is a path below repository.path".to_owned());
        }
        if text.chars().nth(TEMPLATE_MAX).is_some() {
            return Err(format!(
                "is too long; a template has at most {TEMPLATE_MAX} characters"
            ));
        }
        if text.starts_with('/') {
            return Err(
                "starts with a slash; a template is a path below repository.path".to_owned(),
            );
        }
        let components = text
            .split('/')
            .map(parse_component)
            .collect::<Result<Vec<_>, _>>()?;
        let template = Self {
            role,
            index,
            text: text.to_owned(),
            components,
        };
        for (name, capture) in CAPTURES {
            if template
                .captures()
                .filter(|found| *found == capture)
                .count()
                > 1
            {
                return Err(format!("has {{{name}}} more than once"));
            }
        }
        if !template.captures().any(|found| found == Capture::Project) {
            return Err("has no {project}: it would put every file into one project".to_owned());
        }
        if role == Role::Definition
            && template
                .captures()
                .any(|found| found == Capture::VersionTag)
        {
            return Err(
                "has {versionTag}, but a definition has no version; allowed: {organization}, {project}"
                    .to_owned(),
            );
        }
        Ok(template)
    }

    fn captures(&self) -> impl Iterator<Item = Capture> {
        self.components
            .iter()
            .flatten()
            .filter_map(|part| match part {
                Part::Capture(capture) => Some(*capture),
                Part::Literal(_) => None,
            })
    }

    /// Whether some path matches both.
    fn overlaps(&self, other: &Template) -> bool {
        self.components.len() == other.components.len()
            && self
                .components
                .iter()
                .zip(&other.components)
                .all(|(left, right)| intersect(&tokens(left), &tokens(right)))
    }
}

fn parse_component(text: &str) -> Result<Vec<Part>, String> {
    match text {
        "" => {
            return Err("has an empty path component (two slashes, or one at the end)".to_owned());
        }
        "." | ".." => {
            return Err(format!(
                "has the path component {text:?}, which is not allowed"
            ));
        }
        _ => {}
    }
    if text.contains('\0') {
        return Err("has a NUL character, which no path can have".to_owned());
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let open = rest.find(['{', '}']).unwrap_or(rest.len());
        let (literal, after) = rest.split_at(open);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.to_owned()));
        }
        let Some(inside) = after.strip_prefix('{') else {
            if after.is_empty() {
                break;
            }
            return Err("has a } without a {".to_owned());
        };
        let Some((name, after)) = inside.split_once('}') else {
            return Err("has a { without a }".to_owned());
        };
        let Some((_, capture)) = CAPTURES.iter().find(|(known, _)| *known == name) else {
            return Err(unknown_capture(name));
        };
        if matches!(parts.last(), Some(Part::Capture(_))) {
            return Err(format!(
                "has {{{name}}} right behind another capture; put a character between them"
            ));
        }
        parts.push(Part::Capture(*capture));
        rest = after;
    }
    let has_capture = parts.iter().any(|part| matches!(part, Part::Capture(_)));
    if has_capture && text.starts_with('.') {
        return Err(format!(
            "can never match: a capture does not match a name that starts with a dot ({text:?})"
        ));
    }
    let shortest: usize = parts
        .iter()
        .map(|part| match part {
            Part::Literal(literal) => literal.len(),
            Part::Capture(_) => 1,
        })
        .sum();
    if shortest > NAME_MAX {
        return Err(format!(
            "can never match: it asks for a name of {shortest} bytes or more, and names have at \
             most {NAME_MAX}"
        ));
    }
    Ok(parts)
}

fn unknown_capture(name: &str) -> String {
    let near = CAPTURES
        .iter()
        .map(|(known, _)| {
            (
                strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase()),
                known,
            )
        })
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| format!("; did you mean {{{known}}}?"))
        .unwrap_or_default();
    format!(
        "has the unknown capture {{{name}}}{near} allowed: {{organization}}, {{project}}, {{versionTag}}"
    )
}

/// What is wrong between templates that are each right.
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
                        "can match the same path as {:?} ({}); a file must be one thing",
                        earlier.text,
                        earlier.role.as_str()
                    ),
                });
            }
        }
    }
    errors
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Exactly(char),
    AnyButDot,
    Any,
    AnyNumber,
}

/// A component as a pattern of single characters and runs; a capture is one character and a run.
fn tokens(parts: &[Part]) -> Vec<Token> {
    let mut tokens = Vec::new();
    for part in parts {
        match part {
            Part::Literal(text) => tokens.extend(text.chars().map(Token::Exactly)),
            Part::Capture(_) if tokens.is_empty() => {
                tokens.extend([Token::AnyButDot, Token::AnyNumber]);
            }
            Part::Capture(_) => tokens.extend([Token::Any, Token::AnyNumber]),
        }
    }
    tokens
}

/// Whether some text matches both patterns.
///
/// `reachable[j]` says whether the patterns can have matched the same text when the left one is
/// used up to the current token and the right one up to `j`; row by row, so that a hostile
/// template costs the product of the lengths and no more.
fn intersect(left: &[Token], right: &[Token]) -> bool {
    let mut reachable = vec![false; right.len() + 1];
    for i in 0..=left.len() {
        let mut row = vec![false; right.len() + 1];
        for j in 0..=right.len() {
            let previous = |back: usize, tokens: &[Token], at: usize| {
                at.checked_sub(back).and_then(|k| tokens.get(k).copied())
            };
            let up = i > 0 && reachable.get(j).copied().unwrap_or(false);
            let back = j > 0 && row.get(j - 1).copied().unwrap_or(false);
            let diagonal = i > 0 && j > 0 && reachable.get(j - 1).copied().unwrap_or(false);
            let left_token = previous(1, left, i);
            let right_token = previous(1, right, j);
            let reached = (i == 0 && j == 0)
                // The left token is a run that ends here, having taken nothing more.
                || (up && left_token == Some(Token::AnyNumber))
                || (back && right_token == Some(Token::AnyNumber))
                // A character of the other pattern goes into this pattern's run.
                || (back && left_token == Some(Token::AnyNumber))
                || (up && right_token == Some(Token::AnyNumber))
                || (diagonal && compatible(left_token, right_token));
            if let Some(cell) = row.get_mut(j) {
                *cell = reached;
            }
        }
        reachable = row;
    }
    reachable.last().copied().unwrap_or(false)
}

fn compatible(left: Option<Token>, right: Option<Token>) -> bool {
    match (left, right) {
        (Some(Token::Exactly(left)), Some(Token::Exactly(right))) => left == right,
        (Some(Token::AnyButDot), Some(Token::Exactly(character)))
        | (Some(Token::Exactly(character)), Some(Token::AnyButDot)) => character != '.',
        (Some(Token::AnyNumber) | None, _) | (_, Some(Token::AnyNumber) | None) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn layout(project: &[&str], published: &[&str], snapshot: &[&str]) -> Result<Layout, String> {
        Layout::new(&strings(project), &strings(published), &strings(snapshot)).map_err(|errors| {
            errors
                .iter()
                .map(|e| format!("{}[{}]: {}", e.role.as_str(), e.index, e.reason))
                .collect::<Vec<_>>()
                .join("\n")
        })
    }

    fn standard() -> Layout {
        layout(
            &["{organization}/{project}/project.xml"],
            &[
                "{organization}/{project}/published/project.xml",
                "{organization}/{project}/published/{versionTag}/project.xml",
            ],
            &[
                "{organization}/{project}/snapshots/{versionTag}.xml",
                "{organization}/{project}/snapshots/{versionTag}/project.xml",
            ],
        )
        .expect("the default layout is valid")
    }

    fn place(layout: &Layout, path: &str) -> Option<String> {
        let place = layout.at(path)?.place()?;
        Some(format!(
            "{} {} {}",
            place.key,
            place.role.as_str(),
            place.tag.as_deref().unwrap_or("-")
        ))
    }

    #[test]
    fn paths_of_the_default_layout() {
        let layout = standard();
        for (path, expected) in [
            ("sales/crm/project.xml", Some("sales/crm definition -")),
            (
                "sales/crm/published/project.xml",
                Some("sales/crm published -"),
            ),
            (
                "sales/crm/published/v 1/project.xml",
                Some("sales/crm published v 1"),
            ),
            ("sales/crm/snapshots/v1.xml", Some("sales/crm snapshot v1")),
            (
                "sales/crm/snapshots/a.b.xml",
                Some("sales/crm snapshot a.b"),
            ),
            (
                "sales/crm/snapshots/v1/project.xml",
                Some("sales/crm snapshot v1"),
            ),
            ("sales/crm/snapshots/.v1.xml", None),
            ("sales/crm/snapshots/.xml", None),
            ("sales/.git/project.xml", None),
            (".sales/crm/project.xml", None),
            ("sales/crm/project.xml.tmp", None),
            ("sales/crm/.project.xml.swp", None),
            ("sales/project.xml", None),
            ("project.xml", None),
            ("sales/crm/deeper/project.xml", None),
        ] {
            assert_eq!(place(&layout, path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn directories_that_lead_on() {
        let layout = standard();
        for (path, leads_on, project) in [
            ("", true, None),
            ("sales", true, None),
            ("sales/crm", true, Some("sales/crm")),
            ("sales/crm/published", true, Some("sales/crm")),
            ("sales/crm/snapshots/v1", true, Some("sales/crm")),
            ("sales/crm/project.xml", false, Some("sales/crm")),
        ] {
            let cursor = layout.at(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(cursor.leads_on(), leads_on, "{path}");
            let key = cursor.project().map(|key| key.to_string());
            assert_eq!(key.as_deref(), project, "{path}");
        }
        for path in [
            "sales/.git",
            "sales/crm/src",
            "sales/crm/published/v1/deeper",
        ] {
            assert!(layout.at(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_known_project_needs_no_listing_but_of_its_tags() {
        let layout = standard();
        let cursor = layout.project(&ProjectKey::new("sales", "crm"));
        let only = |names: &[&str]| Entries::Only(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(cursor.entries(), only(&["sales"]));
        let organization = cursor.enter("sales").expect("enters");
        assert!(cursor.enter("other").is_none());
        assert_eq!(organization.entries(), only(&["crm"]));
        let project = organization.enter("crm").expect("enters");
        assert_eq!(
            project.entries(),
            only(&["project.xml", "published", "snapshots"])
        );
        assert_eq!(
            project.enter("snapshots").expect("enters").entries(),
            Entries::Any
        );
        assert_eq!(layout.root().entries(), Entries::Any);
    }

    #[test]
    fn layouts_of_other_shapes() {
        let flat = layout(
            &["definitions/{project}.xml"],
            &["out/{project}@{versionTag}.xml"],
            &[],
        )
        .expect("valid");
        assert_eq!(
            place(&flat, "definitions/a.xml").as_deref(),
            Some("default/a definition -")
        );
        assert_eq!(
            place(&flat, "out/a@b@c.xml").as_deref(),
            Some("default/a published b@c")
        );
        assert!(
            flat.project(&ProjectKey::new("elsewhere", "a"))
                .enter("definitions")
                .is_none()
        );
        let cursor = flat.project(&ProjectKey::new("default", "a"));
        assert!(
            cursor
                .enter("out")
                .and_then(|c| c.enter("a@1.xml"))
                .is_some()
        );
        assert!(
            cursor
                .enter("out")
                .and_then(|c| c.enter("b@1.xml"))
                .is_none()
        );
    }

    #[test]
    fn faults_are_named() {
        for (project, published, expected) in [
            (&[][..], &[][..], "no template says where"),
            (&[""], &[], "is empty"),
            (&["/{project}.xml"], &[], "starts with a slash"),
            (&["a//{project}.xml"], &[], "empty path component"),
            (&["{project}/"], &[], "empty path component"),
            (&["../{project}.xml"], &[], "\"..\""),
            (
                &["{organisation}/{project}.xml"],
                &[],
                "did you mean {organization}?",
            ),
            (&["{tag}/{project}.xml"], &[], "unknown capture {tag}"),
            (&["{project"], &[], "{ without a }"),
            (&["project}"], &[], "} without a {"),
            (
                &["{organization}{project}.xml"],
                &[],
                "right behind another",
            ),
            (&["{project}/{project}.xml"], &[], "more than once"),
            (&["project.xml"], &[], "no {project}"),
            (&["{project}/{versionTag}.xml"], &[], "has {versionTag}"),
            (&[".{project}/a.xml"], &[], "can never match"),
            (
                &["{project}.xml"],
                &["{organization}/{project}.xml"],
                "all templates have it",
            ),
            (
                &["{project}.xml", "{project}.xml"],
                &[],
                "project[1]: can match the same",
            ),
            (
                &["{project}/a.xml"],
                &["{project}/{versionTag}.xml"],
                "can match the same path",
            ),
            (
                &["{project}-x.xml"],
                &["a{project}.xml"],
                "can match the same path",
            ),
        ] {
            let expected = expected.replace("project[1]", "definition[1]");
            let fault = layout(project, published, &[]).expect_err(&expected);
            assert!(fault.contains(&expected), "{project:?}: {fault}");
        }
        for (project, published) in [
            (&["{project}/a.xml"][..], &["{project}/b.xml"][..]),
            (&["{project}/a.xml"], &["{project}/b/{versionTag}.xml"]),
            (&["{project}-x.xml"], &["{project}-y.xml"]),
            (&["a{project}"], &["b{project}"]),
            (&["{project}"], &[".{versionTag}/{project}"][..0]),
            (&["x/.a.xml{project}"], &[][..]),
        ] {
            let result = layout(project, published, &[]);
            if project[0].starts_with("x/.") {
                assert!(result.is_err());
            } else {
                assert!(result.is_ok(), "{project:?} {published:?} {result:?}");
            }
        }
    }

    #[test]
    fn number_and_length_are_bounded() {
        let texts =
            |n: usize| -> Vec<String> { (0..n).map(|i| format!("{{project}}/{i}.xml")).collect() };
        let project = ["{project}/project.xml".to_owned()];
        let most = texts(TEMPLATES_MAX);
        assert!(Layout::new(&most, &[], &[]).is_ok());
        assert!(Layout::new(&project, &most, &[]).is_ok());
        for n in [TEMPLATES_MAX + 1, 10_000] {
            let errors = Layout::new(&project, &[], &texts(n)).expect_err("too many");
            let [error] = errors.as_slice() else {
                panic!("{errors:?}")
            };
            assert_eq!((error.role, error.index), (Role::Snapshot, TEMPLATES_MAX));
            assert!(error.reason.contains(&format!("{n} templates")), "{error}");
        }

        // Characters, not bytes; the seven directories have names of 254 bytes.
        let of_length = |n: usize| {
            let directories = format!("{}/", "é".repeat(127)).repeat(7);
            let rest = n - directories.chars().count() - "{project}".len();
            format!("{directories}{}{{project}}", "x".repeat(rest))
        };
        for (length, is_allowed) in [
            (TEMPLATE_MAX - 1, true),
            (TEMPLATE_MAX, true),
            (TEMPLATE_MAX + 11, false),
        ] {
            let text = of_length(length);
            assert_eq!(text.chars().count(), length);
            let result = Layout::new(&[text], &[], &[]);
            assert_eq!(result.is_ok(), is_allowed, "{length}: {result:?}");
        }
        for (length, is_allowed) in [(NAME_MAX, true), (NAME_MAX + 1, false)] {
            let text = format!("{{project}}{}", "x".repeat(length - 1));
            assert_eq!(
                Layout::new(&[text], &[], &[]).is_ok(),
                is_allowed,
                "{length}"
            );
        }
    }

    #[test]
    fn overlap_agrees_with_trying_all_short_texts() {
        let component = |text: &str| parse_component(text).expect("parses");
        let alphabet = ['a', 'b', '.', '-'];
        let mut texts = vec![String::new()];
        for length in 0..5 {
            let longer: Vec<String> = texts
                .iter()
                .filter(|text| text.chars().count() == length)
                .flat_map(|text| alphabet.map(|c| format!("{text}{c}")))
                .collect();
            texts.extend(longer);
        }
        let patterns = [
            "a",
            "{project}",
            "a{project}",
            "{project}b",
            "a{project}b",
            "{project}-{versionTag}",
            "ab",
            "{project}a{versionTag}",
            ".a",
            "{project}.",
            "-{project}-",
        ];
        for left in patterns {
            for right in patterns {
                let (l, r) = (component(left), component(right));
                let found = texts.iter().any(|text| {
                    match_component(&l, text, &Bound::default()).is_some()
                        && match_component(&r, text, &Bound::default()).is_some()
                });
                assert_eq!(intersect(&tokens(&l), &tokens(&r)), found, "{left} {right}");
            }
        }
    }
}
