//! The subscription of a webhook: its events and its projects.
//!
//! Constraint: a subscription that can never match is an error, because its author expects
//! callbacks.

use std::collections::BTreeSet;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::problem::{nearest, shown};
use super::reader::{Context, Fault, Mapping, all};
use super::value::Value;
use super::yaml::Kind;
use crate::domain::event::EventKind;
use crate::domain::names::composed;

/// The longest glob, in bytes. The limit bounds the memory of a compiled glob.
const GLOB_MAX: usize = 1000;

/// Reads `event` or `events`. `is_filtered` is true if the webhook has `projects`.
pub(super) fn events(
    mapping: &Mapping<'_>,
    is_filtered: bool,
    context: &mut Context<'_>,
) -> Option<BTreeSet<EventKind>> {
    let value = match (mapping.given("event"), mapping.given("events")) {
        (Some(_), Some(value)) => {
            let fault = Fault::new("both event and events are given").allowed("one of them");
            context.error(&value.location, fault);
            return None;
        }
        (Some(value), None) if matches!(value.node.kind, Kind::List(_)) => {
            let fault = Fault::new("event takes one event; put a list under events");
            context.error(&value.location, fault.suggest(Some("events")));
            return None;
        }
        (None, None) => {
            let fault = Fault::new("is missing").allowed(
                "event: with the name of one event, or events: with a list of them or \"*\"",
            );
            context.error(&mapping.location.below("event"), fault);
            return None;
        }
        (Some(value), None) => {
            return event(&value, is_filtered, context);
        }
        (None, Some(value)) => value,
    };
    let items = value.items(context)?;
    let mut found = BTreeSet::new();
    all(items.iter().map(|item| {
        for kind in event(item, is_filtered, context)? {
            if !found.insert(kind) {
                let message = format!("{} is named twice", kind.label());
                context.error(&item.location, message);
                return None;
            }
        }
        Some(())
    }))?;
    Some(found)
}

/// Reads one event, or `*` for the seven.
fn event(
    value: &Value<'_>,
    is_filtered: bool,
    context: &mut Context<'_>,
) -> Option<BTreeSet<EventKind>> {
    value.parsed(context, |text| match text {
        "*" => Ok(EventKind::SEVEN
            .into_iter()
            .filter(|kind| is_filtered || *kind != EventKind::ProjectImport)
            .collect()),
        _ => Ok(BTreeSet::from([event_kind(text, is_filtered)?])),
    })
}

/// Finds an event by its name or its label.
fn event_kind(text: &str, is_filtered: bool) -> Result<EventKind, Fault> {
    // The suggestion is a name if the text looks like a name, else a label.
    let is_name = text.contains(['-', '_']) && !text.contains(' ');
    let word = if is_name {
        EventKind::as_str
    } else {
        EventKind::label
    };
    let found = EventKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text || kind.label() == text);
    match found {
        Some(EventKind::ProjectImport) if !is_filtered => Err(Fault::new(
            "Project Import is for specific projects, and this webhook has no projects",
        )
        .allowed("Project Import with projects: [GLOB, …]")
        .suggest(Some(word(EventKind::ProjectImportAny)))),
        Some(kind) => Ok(kind),
        None => {
            let names = EventKind::ALL.map(EventKind::as_str).join(", ");
            Err(Fault::new(format!("unknown event {}", shown(text)))
                .allowed(format!("{names}, or their labels, or \"*\""))
                .suggest(nearest(text, EventKind::ALL.map(word))))
        }
    }
}

/// Reads `projects`. Returns the globs as written and the compiled filter.
pub(super) fn projects(
    value: &Value<'_>,
    context: &mut Context<'_>,
) -> Option<(Vec<String>, GlobSet)> {
    let items = value.items(context)?;
    let globs = all(items.iter().map(|item| item.parsed(context, glob)))?;
    let texts = globs.iter().map(|glob| glob.glob().to_owned()).collect();
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        builder.add(glob);
    }
    let set = builder
        .build()
        .map_err(|error| format!("these globs are too complex: {}", error.kind()));
    Some((texts, context.accept(&value.location, set)?))
}

fn glob(text: &str) -> Result<Glob, Fault> {
    if text.len() > GLOB_MAX {
        let message = format!("is longer than {GLOB_MAX} bytes");
        return Err(Fault::not_allowed(message));
    }
    // Globs are matched against organization/project. A glob with a leading slash, or without any
    // slash, never matches.
    if text.starts_with('/') || !(text.contains('/') || text.contains("**")) {
        let trimmed = text.trim_matches('/');
        let suggestion = match trimmed {
            "*" => "*/*".to_owned(),
            _ if trimmed.contains('/') => trimmed.to_owned(),
            _ => format!("{trimmed}/*"),
        };
        let fault = Fault::not_allowed(format!("{} matches no project", shown(text)));
        return Err(fault.suggest((suggestion.len() < 80).then_some(suggestion)));
    }
    GlobBuilder::new(&composed(text))
        .literal_separator(true)
        .build()
        .map_err(|error| {
            Fault::not_allowed(format!("{} is not a glob: {}", shown(text), error.kind()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_known_by_label_and_name() {
        for kind in EventKind::ALL {
            assert_eq!(event_kind(kind.label(), true).ok(), Some(kind));
            assert_eq!(event_kind(kind.as_str(), true).ok(), Some(kind));
        }
        for text in ["project publish", "Project_Publish", "*", ""] {
            assert!(event_kind(text, true).is_err(), "{text}");
        }
    }
}
