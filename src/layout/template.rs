//! Parses a path template, and decides whether two templates can match the same path.
//!
//! Constraint: a template that can match no path is an error. Comparing two templates takes time
//! proportional to the product of their lengths, at most.

use super::TEMPLATE_MAX;
use crate::domain::project::Role;

/// The longest file name, in bytes (NAME_MAX in limits.h).
pub(super) const NAME_MAX: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) role: Role,
    pub(super) index: usize,
    pub(super) text: String,
    pub(super) components: Vec<Vec<Part>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Capture {
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
pub(super) enum Part {
    Literal(String),
    Capture(Capture),
}

impl Template {
    pub(super) fn parse(role: Role, index: usize, text: &str) -> Result<Self, String> {
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
            let uses = template.captures().filter(|found| *found == capture);
            if uses.count() > 1 {
                return Err(format!("has {{{name}}} more than once"));
            }
        }
        if !template.has(Capture::Project) {
            return Err("has no {project}: it would put every file into one project".to_owned());
        }
        if role == Role::Definition && template.has(Capture::VersionTag) {
            return Err(
                "has {versionTag}, but a definition has no version; allowed: {organization}, {project}"
                    .to_owned(),
            );
        }
        Ok(template)
    }

    pub(super) fn captures(&self) -> impl Iterator<Item = Capture> {
        self.components
            .iter()
            .flatten()
            .filter_map(|part| match part {
                Part::Capture(capture) => Some(*capture),
                Part::Literal(_) => None,
            })
    }

    pub(super) fn has(&self, capture: Capture) -> bool {
        self.captures().any(|found| found == capture)
    }

    /// Whether some path matches both templates.
    pub(super) fn overlaps(&self, other: &Template) -> bool {
        self.components.len() == other.components.len()
            && self
                .components
                .iter()
                .zip(&other.components)
                .all(|(left, right)| intersect(&tokens(left), &tokens(right)))
    }
}

pub(super) fn parse_component(text: &str) -> Result<Vec<Part>, String> {
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
                "has {{{name}}} directly after another capture; put a character between them"
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
            "can never match: it needs a name of {shortest} bytes or more, but names have at \
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
        .map_or_else(
            || ";".to_owned(),
            |(_, known)| format!("; did you mean {{{known}}}?"),
        );
    format!(
        "has the unknown capture {{{name}}}{near} allowed: {{organization}}, {{project}}, {{versionTag}}"
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Exactly(char),
    AnyButDot,
    Any,
    AnyNumber,
}

/// Converts a component to a pattern. A capture matches one or more characters.
pub(super) fn tokens(parts: &[Part]) -> Vec<Token> {
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
/// `reachable[j]` is true if some text matches the left tokens so far and the first `j` right
/// tokens. The table is computed row by row, one row for each left token.
pub(super) fn intersect(left: &[Token], right: &[Token]) -> bool {
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
                // The repetition in one pattern ends here.
                || (up && left_token == Some(Token::AnyNumber))
                || (back && right_token == Some(Token::AnyNumber))
                // The repetition includes a character of the other pattern.
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
