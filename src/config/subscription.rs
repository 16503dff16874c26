//! Reads the subscription of a webhook: its events and its filters.
//!
//! Constraint: a subscription that clearly can never match is an error, because the user expects
//! callbacks.

use std::collections::BTreeSet;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::problem::{nearest, shown};
use super::reader::{Context, Fault, Mapping, all};
use super::repository::Repositories;
use super::value::Value;
use super::yaml::Kind;
use crate::domain::event::{EventKind, Parameter};
use crate::domain::names::composed;
use crate::domain::route::ValueFilter;

/// The longest glob, in bytes. A longer glob would need more memory when compiled.
pub(super) const GLOB_MAX: usize = 1000;

/// Reads `event` or `events`.
///
/// `is_filtered` is true if the webhook has `projects`, even with errors.
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
            let fault = Fault::new("takes one event; for a list, use the key `events` instead");
            context.error(&value.location, fault);
            return None;
        }
        (None, None) => {
            let fault = Fault::new("is missing").allowed(
                "event: with the name of one event, or events: with a list of names or \"*\"",
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
                let mut message = format!("{} is named twice", kind.label());
                if items.iter().any(Value::is_star) && EventKind::SEVEN.contains(&kind) {
                    message.push_str(": \"*\" includes it");
                }
                context.error(&item.location, message);
                return None;
            }
        }
        Some(())
    }))?;
    Some(found)
}

/// Reads one event, or the events that `*` stands for.
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
    // Suggest a name if the text looks like a name, else a label.
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
            "Project Import is for specific projects, and this webhook lacks the setting projects",
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

/// Reads the setting `repositories` of a webhook.
///
/// `known` has the configured repositories. It is `None` if they have errors.
pub(super) fn repositories(
    value: &Value<'_>,
    known: Option<&Repositories>,
    context: &mut Context<'_>,
) -> Option<BTreeSet<String>> {
    let names = known.map(|known| {
        let names = known.several.iter().map(|one| one.name());
        names.collect::<Vec<String>>()
    });
    if names.as_ref().is_some_and(Vec::is_empty) {
        let message = "needs several repositories; remove this setting, or replace the top-level \
                       key repository by a list under repositories";
        context.error(&value.location, message);
        return None;
    }
    let items = value.items(context)?;
    let read = all(items.iter().map(|item| {
        item.parsed(context, |text| match &names {
            Some(names) if !names.iter().any(|name| name == text) => {
                let names = names.iter().map(String::as_str);
                Err(Fault::new(format!("unknown repository {}", shown(text)))
                    .allowed(names.clone().collect::<Vec<_>>().join(", "))
                    .suggest(nearest(text, names)))
            }
            _ => Ok(text.to_owned()),
        })
    }));
    Some(read?.into_iter().collect())
}

/// Reads `projects`. Returns the texts of the globs, and the compiled filter.
pub(super) fn projects(
    value: &Value<'_>,
    context: &mut Context<'_>,
) -> Option<(Vec<String>, GlobSet)> {
    let items = value.items(context)?;
    let globs = all(items.iter().map(|item| item.parsed(context, project_glob)))?;
    let texts = globs.iter().map(|glob| glob.glob().to_owned()).collect();
    Some((texts, set(globs, value, context)?))
}

/// Compiles globs. Reports an error at the location of `value`.
fn set(
    globs: impl IntoIterator<Item = Glob>,
    value: &Value<'_>,
    context: &mut Context<'_>,
) -> Option<GlobSet> {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        builder.add(glob);
    }
    let set = builder
        .build()
        .map_err(|error| format!("these globs are too complex: {}", error.kind()));
    context.accept(&value.location, set)
}

/// The filter of a parameter: the globs as written, and compiled.
pub(super) type When = (Parameter, Vec<String>, ValueFilter);

/// The parameters that `when` filters. Their names are the keys below `when`.
const FILTERED: [Parameter; 2] = [Parameter::Username, Parameter::VersionTag];

/// Reads `when`. Each filtered parameter must belong to one of the `events`.
///
/// `events` is `None` if the events of the webhook have errors.
pub(super) fn when(
    value: &Value<'_>,
    events: Option<&BTreeSet<EventKind>>,
    context: &mut Context<'_>,
) -> Option<Vec<When>> {
    const ALLOWED: &str = "username or versionTag, each with globs";
    if value.is_null() {
        context.error(&value.location, Fault::new("has no value").allowed(ALLOWED));
        return None;
    }
    let mapping = value.mapping(context)?;
    // Check the written entries, because `mapping` reports and drops unknown keys.
    if matches!(&value.node.kind, Kind::Map(entries) if entries.is_empty()) {
        context.error(&value.location, Fault::new("is empty").allowed(ALLOWED));
        return None;
    }
    let filters = FILTERED.map(|parameter| {
        mapping.read_optional(context, parameter.as_str(), |value, context| {
            let has_it = |kind: &EventKind| kind.parameters().contains(&parameter);
            if events.is_some_and(|events| !events.iter().any(has_it)) {
                let having: Vec<&str> = EventKind::ALL
                    .iter()
                    .filter(|kind| has_it(kind))
                    .map(|kind| kind.label())
                    .collect();
                let name = parameter.as_str();
                let fault = Fault::new(format!("no event of this webhook has a {name}"))
                    .allowed(format!("events with a {name}: {}", having.join(", ")));
                context.error(&value.location, fault);
                return None;
            }
            let (globs, filter) = value_filter(value, context)?;
            Some((parameter, globs, filter))
        })
    });
    Some(all(filters)?.into_iter().flatten().collect())
}

/// Reads the globs of a parameter. Returns them as written and compiled.
fn value_filter(
    value: &Value<'_>,
    context: &mut Context<'_>,
) -> Option<(Vec<String>, ValueFilter)> {
    let items = value.items(context)?;
    let globs = all(items.iter().map(|item| item.parsed(context, value_glob)))?;
    let texts = items.iter().filter_map(|item| item.text(context));
    let texts: Vec<String> = texts.map(str::to_owned).collect();
    let (excluded, included): (Vec<_>, Vec<_>) =
        globs.into_iter().partition(|(is_excluded, _)| *is_excluded);
    let is_excluded = |text: &str| excluded.iter().any(|(_, glob)| glob.glob() == text);
    let is_void = !included.is_empty() && included.iter().all(|(_, one)| is_excluded(one.glob()));
    if is_void || is_excluded("*") || is_excluded("**") {
        let message = "selects no value, because ! excludes all of them";
        context.error(&value.location, Fault::not_allowed(message));
        return None;
    }
    let globs = |globs: Vec<(bool, Glob)>| globs.into_iter().map(|(_, glob)| glob);
    let has_included = !included.is_empty();
    let included = set(globs(included), value, context)?;
    let filter = ValueFilter {
        included: has_included.then_some(included),
        excluded: set(globs(excluded), value, context)?,
    };
    Some((texts, filter))
}

/// Parses a glob for a value. The flag is true if the glob excludes values.
fn value_glob(text: &str) -> Result<(bool, Glob), Fault> {
    let (is_excluded, pattern) = match text.strip_prefix('!') {
        Some(pattern) => (true, pattern),
        None => (false, text),
    };
    if pattern.trim().is_empty() {
        return Err(Fault::not_allowed(
            "! excludes nothing without a glob after it",
        ));
    }
    if pattern.starts_with('!') {
        let fault = Fault::not_allowed(format!("{} has more than one !", shown(text)));
        return Err(fault);
    }
    // A value is not a path, so `*` also matches a slash.
    let glob = bounded(&composed(pattern))?
        .literal_separator(false)
        .build();
    Ok((is_excluded, glob.map_err(|error| not_a_glob(text, &error))?))
}

/// Checks the length of a glob and returns its builder.
fn bounded(text: &str) -> Result<GlobBuilder<'_>, Fault> {
    if text.len() > GLOB_MAX {
        let message = format!("is longer than {GLOB_MAX} bytes");
        return Err(Fault::not_allowed(message));
    }
    Ok(GlobBuilder::new(text))
}

fn not_a_glob(text: &str, error: &globset::Error) -> Fault {
    Fault::not_allowed(format!("{} is not a glob: {}", shown(text), error.kind()))
}

fn project_glob(text: &str) -> Result<Glob, Fault> {
    let text = &*composed(text);
    let mut builder = bounded(text)?;
    if text.starts_with('!') {
        let message = format!(
            "{} excludes nothing, because ! has no meaning in this setting. For a name that begins with !, \
             write \\!",
            shown(text)
        );
        return Err(Fault::not_allowed(message));
    }
    // A glob that begins with a slash does not match `organization/project`. Neither does a glob
    // without a slash and without `**`, unless a class such as `[!a]` matches the slash.
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
    let glob = builder.literal_separator(true).build();
    glob.map_err(|error| not_a_glob(text, &error))
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
