//! The settings that listings show. They never contain secrets.
//!
//! Constraint: the configuration file may have changed since a running daemon read it. So listings
//! show the settings that the daemon uses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::{Config, Webhook};

/// The settings of a configuration that listings show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The path of the repository, or the paths of several.
    pub(crate) repository: String,
    /// The names of the repositories, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) repositories: Vec<String>,
    /// The configured webhooks, in the order of the file.
    pub(crate) webhooks: Vec<WebhookSettings>,
}

/// The settings of a webhook that listings show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebhookSettings {
    pub(crate) name: String,
    pub(crate) enabled: bool,
    /// The URL without parts that may be secrets.
    pub(crate) url: String,
    pub(crate) format: String,
    pub(crate) events: Vec<String>,
    /// The globs of `projects`. `null` if the webhook receives events of every project.
    pub(crate) projects: Option<Vec<String>>,
    /// The setting `repositories`. Absent if the webhook receives events of every repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(crate) repositories: Option<Vec<String>>,
    /// The globs of `when` by parameter. Empty without `when`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    pub(crate) when: BTreeMap<String, Vec<String>>,
}

impl Settings {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            repository: match config.repositories.as_slice() {
                [] => config.repository.path.display().to_string(),
                several => several
                    .iter()
                    .map(|one| one.path.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            },
            repositories: config.repository_names(),
            webhooks: config.webhooks.iter().map(WebhookSettings::of).collect(),
        }
    }
}

impl WebhookSettings {
    fn of(webhook: &Webhook) -> Self {
        let subscription = &webhook.subscription;
        let events = subscription.events.iter();
        Self {
            name: webhook.name().to_owned(),
            enabled: webhook.enabled,
            url: webhook.url.shown(),
            format: webhook.format.as_str().to_owned(),
            events: events.map(|kind| kind.as_str().to_owned()).collect(),
            projects: subscription
                .projects
                .as_ref()
                .map(|_| webhook.globs.projects.clone()),
            repositories: subscription
                .repositories
                .as_ref()
                .map(|names| names.iter().cloned().collect()),
            when: webhook.globs.when_by_name(),
        }
    }
}
