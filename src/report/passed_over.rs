//! Explains why configured webhooks have no delivery of an event.
//!
//! Constraint: the store does not keep the reasons. So this module derives them from the current
//! configuration, with the same rule that the engine uses to select webhooks.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::config::Config;
use crate::domain::event::{Event, Parameter};
use crate::domain::route::{Interest, Mismatch};

/// A webhook without a delivery of an event.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PassedOver {
    pub(crate) webhook: String,
    /// The reason as a word, for programs.
    pub(crate) reason: &'static str,
    /// The reason in words.
    pub(crate) because: String,
}

/// Returns the configured webhooks that are not in `delivered`, with the reasons.
pub(crate) fn passed_over(
    event: &Event,
    delivered: &BTreeSet<&str>,
    config: &Config,
) -> Vec<PassedOver> {
    let webhooks = config.webhooks.iter();
    webhooks
        .filter(|webhook| !delivered.contains(webhook.name()))
        .map(|webhook| {
            let (reason, because) = match webhook.subscription.interest(event.into()) {
                Interest::No(mismatch) => explained(mismatch, event),
                Interest::IfHeard(mismatch) => {
                    let (reason, because) = explained(mismatch, event);
                    let because =
                        format!("{because}, and no earlier event of the project was routed to it");
                    (reason, because)
                }
                Interest::Yes if !webhook.enabled => ("disabled", "enabled is false".to_owned()),
                Interest::Yes => (
                    "no-delivery",
                    "its settings select the event now; either they have changed since, or retention \
                     or an operator removed the delivery"
                        .to_owned(),
                ),
            };
            PassedOver {
                webhook: webhook.name().to_owned(),
                reason,
                because,
            }
        })
        .collect()
}

/// Explains a mismatch: as a word, and as a text.
fn explained(mismatch: Mismatch, event: &Event) -> (&'static str, String) {
    match mismatch {
        Mismatch::Event => (
            "event",
            format!("it does not subscribe to {}", event.kind.label()),
        ),
        Mismatch::Project => (
            "projects",
            format!(
                "its setting `projects` does not select {}",
                event.key.path()
            ),
        ),
        Mismatch::Repository => (
            "repositories",
            format!(
                "its setting `repositories` does not select {}",
                event.key.repository().unwrap_or_default()
            ),
        ),
        Mismatch::Value(parameter) => {
            let reason = match parameter {
                Parameter::Username => "when.username",
                Parameter::VersionTag => "when.versionTag",
                _ => "when",
            };
            let mut parameters = event.parameters.iter();
            let value = parameters.find(|(name, _)| *name == parameter);
            let value = value.map_or("", |(_, value)| value);
            (
                reason,
                format!("its setting `{reason}` does not select {value:?}"),
            )
        }
    }
}
