//! The repository of a configuration, and the state directory, which must be apart from it.
//!
//! Constraint: what the paths lead to is looked at, and nothing is created or changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::Mark;
use super::section::{Context, Fault, Place, Section};
use super::value::At;
use super::{Environment, FirstStart, Repository, Templates, WatchMode};
use crate::domain::project::Role;
use crate::layout::Layout;

/// The defaults of the layout (contract section 1).
const PROJECT_TEMPLATES: &[&str] = &["{organization}/{project}/project.xml"];
const PUBLISHED_TEMPLATES: &[&str] = &[
    "{organization}/{project}/published/project.xml",
    "{organization}/{project}/published/{versionTag}/project.xml",
];
const SNAPSHOT_TEMPLATES: &[&str] = &[
    "{organization}/{project}/snapshots/{versionTag}.xml",
    "{organization}/{project}/snapshots/{versionTag}/project.xml",
];

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads `repository`.
pub(super) fn repository(at: &At<'_>, context: &mut Context<'_>) -> Option<Repository> {
    let mut section = at.section(context)?;
    let path = section
        .require(context, "path", "the directory that holds the projects")
        .and_then(|at| repository_path(&at, context));
    let layout = section
        .section(context, "layout")
        .and_then(|section| layout(section, context));
    let settle = section.duration(context, "settle", SECOND, MILLISECOND..=HOUR);
    let rescan = section.duration(context, "rescan", 600 * SECOND, SECOND..=7 * DAY);
    let watch = section.choice(
        context,
        "watch",
        WatchMode::Auto,
        &[
            ("auto", WatchMode::Auto),
            ("native", WatchMode::Native),
            ("poll", WatchMode::Poll),
        ],
    );
    let poll_interval =
        section.duration(context, "poll_interval", 5 * SECOND, 10 * MILLISECOND..=DAY);
    let max_file_size = match section.take("max_file_size") {
        Some(at) => at.size(context, 1..=1 << 30),
        None => Some(64 << 20),
    };
    let on_first_start = section.choice(
        context,
        "on_first_start",
        FirstStart::Adopt,
        &[("adopt", FirstStart::Adopt), ("report", FirstStart::Report)],
    );
    section.finish(context);
    let (layout, templates) = layout?;
    Some(Repository {
        path: path?,
        layout,
        templates,
        settle: settle?,
        rescan: rescan?,
        watch: watch?,
        poll_interval: poll_interval?,
        max_file_size: max_file_size?,
        on_first_start: on_first_start?,
    })
}

fn repository_path(at: &At<'_>, context: &mut Context<'_>) -> Option<PathBuf> {
    let path = at.path(context)?;
    match std::fs::metadata(&path) {
        Ok(metadata) if !metadata.is_dir() => {
            let message = format!("{} is not a directory", path.display());
            context.error(&at.place, message);
            return None;
        }
        Ok(_) => {}
        // It may be mounted later; the daemon waits for it.
        Err(error) => {
            let message = format!("{} cannot be looked at now: {error}", path.display());
            context.warning(&at.place, message);
        }
    }
    Some(path)
}

fn layout(mut section: Section<'_>, context: &mut Context<'_>) -> Option<(Layout, Templates)> {
    let mut read = |name: &'static str, default: &[&str], context: &mut Context<'_>| {
        let Some(at) = section.take(name) else {
            let default: Vec<String> = default.iter().map(|&text| text.to_owned()).collect();
            return (Some(default), Vec::new());
        };
        let items = at.one_or_many();
        let places: Vec<Place> = items.iter().map(|at| at.place.clone()).collect();
        let texts: Vec<Option<String>> = items
            .iter()
            .map(|at| at.text(context).map(str::to_owned))
            .collect();
        (texts.into_iter().collect::<Option<Vec<String>>>(), places)
    };
    let (project, project_places) = read("project", PROJECT_TEMPLATES, context);
    let (published, published_places) = read("published", PUBLISHED_TEMPLATES, context);
    let (snapshot, snapshot_places) = read("snapshot", SNAPSHOT_TEMPLATES, context);
    let place = section.place.clone();
    section.finish(context);
    let templates = Templates {
        project: project?,
        published: published?,
        snapshot: snapshot?,
    };
    if templates.project.is_empty() {
        let fault = Fault::new("is empty").allowed("one path template, or a list of them");
        context.error(&place.below("project"), fault);
        return None;
    }
    match Layout::new(
        &templates.project,
        &templates.published,
        &templates.snapshot,
    ) {
        Ok(layout) => Some((layout, templates)),
        Err(errors) => {
            for error in errors {
                let (name, places) = match error.role {
                    Role::Definition => ("project", &project_places),
                    Role::Published => ("published", &published_places),
                    Role::Snapshot => ("snapshot", &snapshot_places),
                };
                // A default has no place of its own, but can be in the way of what is written.
                let place = places
                    .get(error.index)
                    .cloned()
                    .unwrap_or_else(|| place.below(&format!("{name}[{}] (default)", error.index)));
                context.error(&place, error.reason);
            }
            None
        }
    }
}

/// Reads `state_dir`, or finds its default.
pub(super) fn state_dir(at: Option<At<'_>>, context: &mut Context<'_>) -> Option<PathBuf> {
    let (path, place) = match at {
        Some(at) => (at.path(context)?, at.place),
        None => {
            let path = match given_state_dir(context.environment) {
                Some(path) => context.base.join(path),
                None => context.path("./state"),
            };
            let place = Place {
                mark: Mark { line: 1, column: 1 },
                key: "state_dir".to_owned(),
            };
            (path, place)
        }
    };
    if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_dir()) {
        let message = format!("{} is not a directory", path.display());
        context.error(&place, message);
        return None;
    }
    Some(path)
}

/// The state directory that the service manager gives. systemd gives several as a list with
/// colons; the first is ours.
pub fn given_state_dir(environment: &dyn Environment) -> Option<PathBuf> {
    let list = environment.variable("STATE_DIRECTORY")?;
    let first = std::env::split_paths(&list).next()?;
    (!first.as_os_str().is_empty()).then_some(first)
}

/// Reports a state directory that is not apart from the repository: the daemon must not see its
/// own files as changes.
pub(super) fn apart(repository: &Path, state: &Path, place: &Place, context: &mut Context<'_>) {
    let (repository, state) = (canonical(repository), canonical(state));
    let message = if state == repository {
        "is the repository itself; every write of the daemon would be a change in it"
    } else if state.starts_with(&repository) {
        "is inside the repository; every write of the daemon would be a change in it"
    } else if repository.starts_with(&state) {
        "contains the repository; the state needs a directory of its own"
    } else {
        return;
    };
    let shown_state = state.display();
    let fault = Fault::new(format!("{shown_state} {message}"))
        .allowed(format!("a directory outside {}", repository.display()));
    context.error(place, fault);
}

/// The path without links and dots, as far as it exists.
fn canonical(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
            let mut whole = real;
            for component in rest.components() {
                match component {
                    std::path::Component::ParentDir => {
                        whole.pop();
                    }
                    other => whole.push(other),
                }
            }
            return whole;
        }
    }
    path.to_owned()
}
