//! Parses filters: times, events, projects and ids.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::{Config, Repository};
use crate::domain::event::{EventId, EventKind};
use crate::domain::project::stored_organization;
use crate::store::{Listings, StoreError};

/// The start or the end of a time range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    At(Timestamp),
    /// This long before now.
    Ago(Duration),
}

impl Since {
    /// Returns the time, given the current time.
    pub(crate) fn time(self, now: Timestamp) -> Timestamp {
        match self {
            Since::At(time) => time,
            Since::Ago(length) => now.saturating_sub(length).unwrap_or(Timestamp::MIN),
        }
    }
}

/// Parses the start or the end of a time range.
pub(crate) fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Since::At(time));
    }
    if let Ok(length) = humantime::parse_duration(text) {
        return Ok(Since::Ago(length));
    }
    // A date or a time without an offset is in the local time zone.
    text.parse::<jiff::civil::DateTime>()
        .ok()
        .and_then(|civil| TimeZone::system().to_timestamp(civil).ok())
        .map(Since::At)
        .ok_or_else(|| {
            "must be a duration such as 90s, 2h or 7d, a date such as 2026-01-31, or a time such as \
             2026-01-31T12:00:00Z"
                .to_owned()
        })
}

/// Finds an event by its name or label, ignoring upper and lower case.
pub(crate) fn parse_event(text: &str) -> Option<EventKind> {
    EventKind::ALL.into_iter().find(|kind| {
        kind.as_str().eq_ignore_ascii_case(text) || kind.label().eq_ignore_ascii_case(text)
    })
}

/// Reads the filters of the repository and of the project.
///
/// `named` is ORGANIZATION/PROJECT or PROJECT, with an optional `REPOSITORY//` in front. Returns
/// the selection of organizations in the form that the store expects, and the directory name of
/// the project.
///
/// # Errors
///
/// No repository has this name, or the two filters name different repositories.
pub(crate) fn place(
    repository: Option<&str>,
    named: Option<&str>,
    config: &Config,
) -> Result<(Option<String>, Option<String>), PlaceError> {
    let (repository, named) = match (named.and_then(|text| text.rsplit_once("//")), repository) {
        (Some((name, _)), Some(repository)) if name != repository => {
            return Err(PlaceError::Contradiction {
                repository: repository.to_owned(),
                name: name.to_owned(),
            });
        }
        (Some((name, rest)), _) => (Some(name), Some(rest)),
        (None, repository) => (repository, named),
    };
    let named = named.filter(|text| !text.is_empty());
    let names: Vec<String> = config.repositories.iter().map(Repository::name).collect();
    if let Some(unknown) = repository.filter(|name| !names.iter().any(|known| known == name)) {
        return Err(PlaceError::Unknown {
            name: unknown.to_owned(),
            known: names.join(", "),
        });
    }
    let (organization, project) = split(named);
    let organization = match (repository, organization) {
        (Some(_), organization) => {
            let organization = organization.unwrap_or_default();
            Some(stored_organization(repository, &organization))
        }
        // The organization may be in any repository.
        (None, Some(organization)) if !names.is_empty() => {
            Some(stored_organization(Some(""), &organization))
        }
        (None, organization) => organization,
    };
    Ok((organization, project))
}

/// The errors of [`place`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error(
        "there is no repository {name}; {}",
        if .known.is_empty() { "the configuration has no setting `repositories`".to_owned() } else { format!("known: {known}") }
    )]
    Unknown { name: String, known: String },
    #[error("the project is in the repository {name}, but the repository {repository} is selected")]
    Contradiction { repository: String, name: String },
}

/// Splits ORGANIZATION/PROJECT or PROJECT into the names of the two directories.
fn split(named: Option<&str>) -> (Option<String>, Option<String>) {
    let Some(named) = named else {
        return (None, None);
    };
    let (organization, project) = match named.split_once('/') {
        Some((organization, project)) => (Some(organization.to_owned()), project),
        None => (None, named),
    };
    let project = Some(project).filter(|name| !name.is_empty());
    (organization, project.map(str::to_owned))
}

/// The errors of [`find_event`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error(
        "the id of an event is evt_ and hexadecimal digits; its first digits are enough; \
         `events --limit 0` lists all ids"
    )]
    Invalid,
    #[error("there is no event {0}; `events --limit 0` lists all events")]
    Absent(String),
    #[error("several ids begin with {0}: {1}")]
    Several(String, String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The maximum number of ids that an error lists.
const IDS_SHOWN: usize = 4;

/// Finds the event id that begins with this text. Fails if there is none, or more than one.
pub(crate) fn find_event(text: &str, listings: &Listings) -> Result<EventId, FindError> {
    let text = text.to_ascii_lowercase();
    let digits = text.strip_prefix("evt_").unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(FindError::Invalid);
    }
    let prefix = format!("evt_{digits}");
    let found = listings.event_ids(&prefix, IDS_SHOWN + 1)?;
    match found.as_slice() {
        [id] => Ok(id.clone()),
        [] => Err(FindError::Absent(prefix)),
        several => {
            let ids: Vec<&str> = several.iter().map(|id| id.0.as_str()).collect();
            let more = if ids.len() > IDS_SHOWN {
                " and more"
            } else {
                ""
            };
            let ids = ids.get(..IDS_SHOWN).unwrap_or(&ids).join(", ");
            Err(FindError::Several(prefix, format!("{ids}{more}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{WithoutSecrets, load_str};

    #[test]
    fn since_is_a_time_a_date_or_so_long_ago() {
        let now: Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
        let at = |text: &str| parse_since(text).map(|since| since.time(now).to_string());
        assert_eq!(at("2h"), Ok("2026-01-31T22:00:00Z".to_owned()));
        assert_eq!(
            at("2026-01-31T12:00:00+02:00"),
            Ok("2026-01-31T10:00:00Z".to_owned())
        );
        assert!(matches!(parse_since("2026-01-31"), Ok(Since::At(_))));
        assert!(matches!(parse_since("2026-01-31 12:30"), Ok(Since::At(_))));
        assert_eq!(
            Since::Ago(Duration::MAX).time(now),
            Timestamp::MIN,
            "before every record"
        );
        assert!(parse_since("yesterday").is_err());
        assert!(parse_since("").is_err());
    }

    #[test]
    fn events_go_by_name_and_label() {
        for kind in EventKind::ALL {
            assert_eq!(parse_event(kind.as_str()), Some(kind));
            assert_eq!(parse_event(&kind.label().to_lowercase()), Some(kind));
        }
        assert_eq!(parse_event("project"), None);
    }

    #[test]
    fn a_project_may_have_its_repository_in_front() {
        let text = b"repositories:\n  - { name: a, path: /a }\n  - { name: b, path: /b }\n\
                     state_dir: /state\n";
        let config = load_str(text, Path::new("config.yaml"), &WithoutSecrets);
        let config = config.unwrap().config;
        let expected = Ok((
            Some(stored_organization(Some("a"), "sales")),
            Some("orders".to_owned()),
        ));
        assert_eq!(place(Some("a"), Some("sales/orders"), &config), expected);
        assert_eq!(place(None, Some("a//sales/orders"), &config), expected);
        assert_eq!(place(Some("a"), Some("a//sales/orders"), &config), expected);
        assert!(place(Some("b"), Some("a//sales/orders"), &config).is_err());
    }
}
