//! What a webhook wants to hear of: its events and its projects.
//!
//! Constraint: a subscription that can match nothing is an error, because whoever wrote it waits
//! for callbacks.

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::problem::shown;
use super::raw::Kind;
use super::scalar;
use super::section::{Context, Fault, Place};
use super::value::At;
use crate::domain::event::EventKind;

/// The most globs of a webhook, and the longest of them in bytes: each costs memory once compiled.
const GLOBS_MAX: usize = 1000;
const GLOB_MAX: usize = 1000;

/// The events of `event` or `events`; `filtered` where the webhook has `projects`.
pub(super) fn events(
    event: Option<At<'_>>,
    events: Option<At<'_>>,
    filtered: bool,
    place: &Place,
    context: &mut Context<'_>,
) -> Option<BTreeSet<EventKind>> {
    let at = match (event, events) {
        (Some(_), Some(at)) => {
            let fault = Fault::new("both event and events are given").allowed("one of them");
            context.error(&at.place, fault);
            return None;
        }
        (Some(at), None) => {
            if matches!(at.node.kind, Kind::List(_)) {
                let fault = Fault::new("event is one event; a list belongs under events")
                    .suggest(Some("events"));
                context.error(&at.place, fault);
                return None;
            }
            at
        }
        (None, Some(at)) => at,
        (None, None) => {
            let fault = Fault::new("is missing").allowed(
                "event: with the name of one event, or events: with a list of them or \"*\"",
            );
            context.error(&place.below("event"), fault);
            return None;
        }
    };
    let items = at.one_or_many();
    if items.is_empty() {
        context.error(
            &at.place,
            Fault::new("is empty").allowed("at least one event, or \"*\""),
        );
        return None;
    }
    let several = items.len() > 1;
    let mut found = BTreeSet::new();
    let mut complete = true;
    for item in items {
        let Some(text) = item.text(context) else {
            complete = false;
            continue;
        };
        if text == "*" {
            if several {
                let fault = Fault::new("\"*\" means every event and stands alone");
                context.error(&item.place, fault);
                complete = false;
            }
            let every = EventKind::ALL.into_iter();
            found.extend(every.filter(|kind| filtered || *kind != EventKind::ProjectImport));
            continue;
        }
        match scalar::event(text) {
            Ok(EventKind::ProjectImport) if !filtered => {
                // Contract section 5: Project Import is for specific projects.
                let any = if text.contains(' ') {
                    EventKind::ProjectImportAny.label()
                } else {
                    EventKind::ProjectImportAny.as_str()
                };
                let fault = Fault::new(
                    "Project Import is for specific projects, and this webhook has no projects",
                )
                .allowed("Project Import with projects: [GLOB, …]")
                .suggest(Some(any));
                context.error(&item.place, fault);
                complete = false;
            }
            Ok(kind) => {
                if !found.insert(kind) {
                    let message = format!("{} is named twice", kind.label());
                    context.error(&item.place, message);
                    complete = false;
                }
            }
            Err(fault) => {
                context.error(&item.place, fault);
                complete = false;
            }
        }
    }
    complete.then_some(found)
}

/// Reads `projects`: the globs as written, and the filter they make.
pub(super) fn projects(at: &At<'_>, context: &mut Context<'_>) -> Option<(Vec<String>, GlobSet)> {
    const ALLOWED: &str = "globs on organization/project, such as \"sales/*\"; * does not cross /";
    let items = at.one_or_many();
    if items.is_empty() {
        let fault = Fault::new("is empty and would match no project").allowed(ALLOWED);
        context.error(&at.place, fault);
        return None;
    }
    if items.len() > GLOBS_MAX {
        let fault = Fault::new(format!("{} globs are given", items.len())).allowed(format!(
            "at most {GLOBS_MAX} globs of at most {GLOB_MAX} bytes each"
        ));
        context.error(&at.place, fault);
        return None;
    }
    let mut globs = Vec::new();
    let mut builder = GlobSetBuilder::new();
    let mut complete = true;
    for item in items {
        let Some(text) = item.text(context) else {
            complete = false;
            continue;
        };
        if text.len() > GLOB_MAX {
            let message = format!("is longer than {GLOB_MAX} bytes");
            context.error(&item.place, Fault::new(message).allowed(ALLOWED));
            complete = false;
            continue;
        }
        // Matched against organization/project, so that these match nothing, ever.
        if text.starts_with('/') || !(text.contains('/') || text.contains("**")) {
            let trimmed = text.trim_matches('/');
            let suggestion = match trimmed {
                "*" => "*/*".to_owned(),
                _ if trimmed.contains('/') => trimmed.to_owned(),
                _ => format!("{trimmed}/*"),
            };
            let fault = Fault::new(format!("{} matches no project", shown(text)))
                .allowed(ALLOWED)
                .suggest((suggestion.len() < 80).then_some(suggestion));
            context.error(&item.place, fault);
            complete = false;
            continue;
        }
        match GlobBuilder::new(text).literal_separator(true).build() {
            Ok(glob) => {
                builder.add(glob);
                globs.push(text.to_owned());
            }
            Err(error) => {
                let message = format!("{} is not a glob: {}", shown(text), error.kind());
                context.error(&item.place, Fault::new(message).allowed(ALLOWED));
                complete = false;
            }
        }
    }
    if !complete {
        return None;
    }
    match builder.build() {
        Ok(set) => Some((globs, set)),
        Err(error) => {
            let fault = Fault::new(format!("these globs are too much: {}", error.kind()));
            context.error(&at.place, fault);
            None
        }
    }
}
