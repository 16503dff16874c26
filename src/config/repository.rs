//! The repositories and the state directory of a configuration.
//!
//! Constraint: the reader inspects these directories, but does not create or change anything. It
//! requires that none of them contains another.

use std::path::{Path, PathBuf};

use globset::Glob;

use super::looks::{Found, is_silent};
use super::problem::{Position, shown};
use super::reader::{Context, Fault, Location, Mapping, all};
use super::settings::REPOSITORY_NAME_MAX;
use super::value::Value;
use super::yaml::{Kind, key_text};
use super::{Environment, FirstStart, Repository, Templates, WatchMode};
use crate::domain::names::composed;
use crate::domain::project::Role;
use crate::layout::{Ignored, Layout};

/// The state directory, and its location in the configuration file.
pub(super) struct StateDir {
    pub(super) path: PathBuf,
    location: Location,
}

fn repository(
    value: &Value<'_>,
    state: Option<&StateDir>,
    context: &mut Context<'_>,
) -> Option<Repository> {
    let mapping = value.mapping(context)?;
    let path = mapping.read(context, "path", repository_path);
    if let (Some(path), Some(state)) = (&path, state) {
        check_apart(path, state, context);
    }
    let name = mapping.read_optional(context, "name", |value, context| {
        value.parsed(context, name)
    });
    let layout = mapping
        .mapping(context, "layout")
        .and_then(|mapping| layout(&mapping, context));
    let settle = mapping.read(context, "settle", Value::duration);
    let mass_delete_after = mapping.read(context, "mass_delete_after", Value::duration);
    let rescan = mapping.read(context, "rescan", Value::duration);
    let ignored = mapping.read(context, "ignore", ignored);
    let watch = mapping.read(context, "watch", watch_mode);
    let poll_interval = mapping.read(context, "poll_interval", Value::duration);
    let max_file_size = mapping.read(context, "max_file_size", Value::size);
    let on_first_start = mapping.read(context, "on_first_start", |value, context| {
        value.word(
            context,
            FirstStart::ALL.map(|start| (start.as_str(), start)),
        )
    });
    let (layout, templates) = layout?;
    Some(Repository {
        path: path?,
        name: name?,
        layout: layout.ignoring(ignored?),
        templates,
        settle: settle?,
        mass_delete_after: mass_delete_after?,
        rescan: rescan?,
        watch: watch?,
        poll_interval: poll_interval?,
        max_file_size: max_file_size?,
        on_first_start: on_first_start?,
    })
}

/// Parses the name of a repository.
///
/// The name must not contain `//`, which separates it from the organization in project keys.
fn name(text: &str) -> Result<String, Fault> {
    let is_harmless = text.trim() == text
        && !text.chars().any(char::is_control)
        && !text.contains("//")
        && !text.ends_with('/');
    if !is_harmless || text.chars().nth(REPOSITORY_NAME_MAX).is_some() {
        return Err(Fault::new("is not a valid name").allowed(format!(
            "a string of at most {REPOSITORY_NAME_MAX} characters, without control characters, \
             without //, without a slash at its end, and without spaces around it"
        )));
    }
    Ok(text.to_owned())
}

/// The repositories of a configuration.
#[derive(Default)]
pub(super) struct Repositories {
    /// The items of `repositories`. Empty if there is only `repository`.
    pub(super) several: Vec<Repository>,
    /// The first repository of the list, or the only repository.
    pub(super) first: Option<Repository>,
}

/// Reads `repository` or `repositories`.
pub(super) fn repositories(
    root: &Mapping<'_>,
    state: Option<&StateDir>,
    context: &mut Context<'_>,
) -> Option<Repositories> {
    let list = match (root.given("repository"), root.given("repositories")) {
        (Some(_), Some(list)) => {
            let fault =
                Fault::new("both repository and repositories are given").allowed("one of them");
            context.error(&list.location, fault);
            return None;
        }
        (Some(one), None) => {
            let first = Some(repository(&one, state, context)?);
            return Some(Repositories {
                first,
                several: Vec::new(),
            });
        }
        (None, None) => {
            let fault = Fault::new("is missing").allowed(
                "a mapping with at least path: DIRECTORY; for several repositories, use the setting repositories instead",
            );
            context.error(&root.location.below("repository"), fault);
            return None;
        }
        (None, Some(list)) => list,
    };
    let Kind::List(_) = list.node.kind else {
        let message = format!("must be a list (- path: …), not {}", list.node.kind.name());
        context.error(&list.location, message);
        return None;
    };
    let items = list.items(context)?;
    let paths = items.iter().filter_map(|item| path_of(item, context));
    let paths: Vec<PathBuf> = paths.collect();
    context.looks.at_all(&paths);
    let mut several: Vec<Repository> = Vec::new();
    for item in &items {
        let Some(mut one) = repository(item, state, context) else {
            continue;
        };
        let name = one.name();
        for other in &several {
            check_different(&one, other, &item.location, context);
        }
        one.layout = one.layout.in_repository(name.into());
        several.push(one);
    }
    if several.len() < items.len() {
        return None;
    }
    let first = several.first().cloned();
    Some(Repositories { several, first })
}

/// Returns the path of a repository.
///
/// If the path is not a string, returns `None` without an error.
fn path_of(item: &Value<'_>, context: &Context<'_>) -> Option<PathBuf> {
    let Kind::Map(entries) = &item.node.kind else {
        return None;
    };
    let path = entries.iter().find(|entry| key_text(&entry.key) == "path");
    match &path?.value.kind {
        Kind::Text(written) => Some(context.path(written)),
        _ => None,
    }
}

/// Reports an error if two repositories have the same name or overlap.
fn check_different(
    one: &Repository,
    other: &Repository,
    location: &Location,
    context: &mut Context<'_>,
) {
    if one.name() == other.name() {
        let message = format!(
            "an earlier repository already has the name {}",
            shown(&one.name())
        );
        context.error(location, Fault::new(message).allowed("a unique name"));
        return;
    }
    let path = context.looks.at(&one.path).canonical;
    let earlier = context.looks.at(&other.path).canonical;
    if path.starts_with(&earlier) || earlier.starts_with(&path) {
        let message = format!(
            "{} and {} overlap; the same project would be reported twice",
            one.path.display(),
            other.path.display()
        );
        context.error(
            location,
            Fault::new(message).allowed("separate directories"),
        );
    }
}

fn ignored(value: &Value<'_>, context: &mut Context<'_>) -> Option<Ignored> {
    let items = value.items(context)?;
    let globs = all(items.iter().map(|item| item.parsed(context, ignored_name)))?;
    let ignored = Ignored::new(&globs)
        .map_err(|error| format!("these globs are too complex: {}", error.kind()));
    context.accept(&value.location, ignored)
}

/// Parses a glob for the name of one file or directory.
fn ignored_name(text: &str) -> Result<Glob, Fault> {
    if text.is_empty() || text.contains('/') {
        return Err(Fault::not_allowed(format!(
            "{} is not a glob on a name; a name has no slash",
            shown(text)
        )));
    }
    Glob::new(&composed(text)).map_err(|error| {
        Fault::not_allowed(format!("{} is not a glob: {}", shown(text), error.kind()))
    })
}

fn watch_mode(value: &Value<'_>, context: &mut Context<'_>) -> Option<WatchMode> {
    let mode = value.word(context, WatchMode::ALL.map(|mode| (mode.as_str(), mode)))?;
    if mode == WatchMode::Native && !cfg!(target_os = "linux") {
        let fault = Fault::new("\"native\" works only on Linux").allowed("auto, notify, poll");
        context.error(&value.location, fault);
        return None;
    }
    Some(mode)
}

fn repository_path(value: &Value<'_>, context: &mut Context<'_>) -> Option<PathBuf> {
    let path = value.path(context)?;
    match context.looks.at(&path).found {
        Found::Directory | Found::Unknown => {}
        Found::Other => {
            let message = format!("{} is not a directory", path.display());
            context.error(&value.location, message);
            return None;
        }
        // The repository may be mounted later. The daemon waits for it.
        Found::Unreadable(reason) => {
            let message = format!("{} cannot be read now: {reason}", path.display());
            context.warning(&value.location, message);
        }
    }
    Some(path)
}

/// The templates of one [`Role`], each with its location in the configuration file.
type Located = Vec<(String, Location)>;

fn layout(mapping: &Mapping<'_>, context: &mut Context<'_>) -> Option<(Layout, Templates)> {
    let mut read = |name: &str| -> Option<Located> {
        mapping.read(context, name, |value, context| {
            let items = value.items(context)?;
            all(items.into_iter().map(|item| {
                let text = item.text(context)?.to_owned();
                Some((text, item.location))
            }))
        })
    };
    let (project, published, snapshot) = (read("project"), read("published"), read("snapshot"));
    let (project, published, snapshot) = (project?, published?, snapshot?);
    let texts = |templates: &Located| templates.iter().map(|(text, _)| text.clone()).collect();
    let templates = Templates {
        project: texts(&project),
        published: texts(&published),
        snapshot: texts(&snapshot),
    };
    let layout = Layout::new(
        &templates.project,
        &templates.published,
        &templates.snapshot,
    );
    match layout {
        Ok(layout) => Some((layout, templates)),
        Err(errors) => {
            for error in errors {
                let located = match error.role {
                    Role::Definition | Role::Deleted => &project,
                    Role::Published => &published,
                    Role::Snapshot => &snapshot,
                };
                let location = located.get(error.index).map(|(_, location)| location);
                context.error(location.unwrap_or(&mapping.location), error.reason);
            }
            None
        }
    }
}

/// Reads `state_dir`, or returns its default.
pub(super) fn state_dir(root: &Mapping<'_>, context: &mut Context<'_>) -> Option<StateDir> {
    let (path, location) = match root.given("state_dir") {
        Some(value) => (value.path(context)?, value.location),
        None => {
            let path = match given_state_dir(context.environment) {
                Some(path) => context.base.join(path),
                None => context.path("./state"),
            };
            (
                path,
                Location::root(Position { line: 1, column: 1 }).below("state_dir"),
            )
        }
    };
    match context.looks.read(&path, |path| std::fs::metadata(path)) {
        Ok(metadata) if !metadata.is_dir() => {
            let message = format!("{} is not a directory", path.display());
            context.error(&location, message);
            return None;
        }
        Err(error) if is_silent(&error) => {
            context.error(&location, Fault::of_file(&path, &error));
            return None;
        }
        _ => {}
    }
    Some(StateDir { path, location })
}

/// Returns the state directory from systemd: the first path in `$STATE_DIRECTORY`.
pub(crate) fn given_state_dir(environment: &dyn Environment) -> Option<PathBuf> {
    // systemd separates several paths with colons.
    let list = environment.variable("STATE_DIRECTORY")?;
    let first = std::env::split_paths(&list).next()?;
    (!first.as_os_str().is_empty()).then_some(first)
}

/// Reports an error if the state directory and the repository overlap.
///
/// In a repository that contains the state directory, the daemon would see its own writes as
/// changes.
fn check_apart(repository: &Path, state: &StateDir, context: &mut Context<'_>) {
    let (repository, location) = (context.looks.at(repository).canonical, &state.location);
    let state = context.looks.at(&state.path).canonical;
    let message = if state == repository {
        "is the repository itself; the daemon would see its own writes as changes"
    } else if state.starts_with(&repository) {
        "is inside the repository; the daemon would see its own writes as changes"
    } else if repository.starts_with(&state) {
        "contains the repository; the daemon's state needs a separate directory"
    } else {
        return;
    };
    let fault = Fault::new(format!("{} {message}", state.display()))
        .allowed(format!("a directory outside {}", repository.display()));
    context.error(location, fault);
}
