//! Finds the names, projects and ids that begin with a typed text.

use std::collections::HashSet;
use std::path::Path;

use super::{CANDIDATES_MAX, Kind};
use crate::config::{self, Config, Repository, WithoutSecrets};
use crate::store::{EventFilter, Listings, Selector};

/// The maximum number of rows to read, newest first. Older ids are not offered.
const ROWS_MAX: usize = 1_000;

/// Returns the names of this kind that begin with `typed`. Returns no names after a failure.
///
/// Ids are sorted newest first. Projects with recent events come first, then the others.
pub(super) fn read(kind: Kind, file: Option<&Path>, typed: &str) -> Vec<String> {
    let Ok(found) = config::find(file) else {
        return Vec::new();
    };
    let Ok(loaded) = config::load(&found.file, &WithoutSecrets) else {
        return Vec::new();
    };
    let names = match kind {
        Kind::Webhook => Some(webhooks(&loaded.config)),
        Kind::Repository => Some(repositories(&loaded.config)),
        kind => recorded(kind, &loaded.config),
    };
    let mut seen = HashSet::new();
    names
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name.starts_with(typed) && seen.insert(name.clone()))
        .take(CANDIDATES_MAX)
        .collect()
}

fn webhooks(config: &Config) -> Vec<String> {
    let names = config.webhooks.iter();
    names.map(|webhook| webhook.name().to_owned()).collect()
}

/// Returns the names of the repositories, if there are several.
///
/// No option accepts the name of a single repository.
fn repositories(config: &Config) -> Vec<String> {
    config.repositories.iter().map(Repository::name).collect()
}

fn recorded(kind: Kind, config: &Config) -> Option<Vec<String>> {
    let listings = Listings::of(config).ok()?;
    let names = match kind {
        Kind::Webhook | Kind::Repository => return None,
        Kind::Delivery => {
            let page = listings.deliveries_page(&Selector::default(), None, ROWS_MAX);
            let rows = page.ok()?.items.into_iter();
            rows.map(|delivery| delivery.id.to_string()).collect()
        }
        Kind::Event | Kind::Project => {
            let page = listings.events_page(&EventFilter::default(), None, ROWS_MAX);
            let events = page.ok()?.items.into_iter().map(|listed| listed.event);
            if kind == Kind::Event {
                events.map(|event| event.id.0).collect()
            } else {
                let newest = events.map(|event| event.key.to_string());
                let others = listings.keys().unwrap_or_default();
                newest
                    .chain(others.iter().map(ToString::to_string))
                    .collect()
            }
        }
    };
    Some(names)
}
