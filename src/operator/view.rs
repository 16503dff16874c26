//! Events, deliveries, attempts and webhooks in JSON.
//!
//! Constraint: the JSON of a type is defined only once. `--json`, the admin API and its OpenAPI
//! description share the definition.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::config::Config;
use crate::domain::actor::Actor;
use crate::domain::delivery::State;
use crate::domain::event::{FileSummary, Parameter};
use crate::domain::project::stored_organization;
use crate::report::{PassedOver, Settings, WebhookReport, passed_over};
use crate::store::{ATTEMPTS_MAX, AttemptLog, ListedDelivery, ListedEvent, Listings, StoreError};

/// An event in JSON.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventView {
    pub(crate) id: String,
    pub(crate) event: &'static str,
    pub(crate) label: &'static str,
    /// The name of the repository, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(crate) repository: Option<String>,
    pub(crate) organization: String,
    pub(crate) project: String,
    pub(crate) origin: &'static str,
    pub(crate) occurred_at: Timestamp,
    pub(crate) recorded_at: Timestamp,
    pub(crate) deliveries: u64,
    pub(crate) because: String,
    pub(crate) hint: String,
    pub(crate) before: Option<FileSummary>,
    pub(crate) after: Option<FileSummary>,
    /// The source of the username, if `audit` is one of the sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) username_from: Option<String>,
    /// The user who made the change, if the kernel recorded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<Actor>,
    #[schema(value_type = BTreeMap<String, String>)]
    pub(crate) parameters: serde_json::Value,
    pub(crate) payload: String,
}

impl EventView {
    /// The project with its organization, and with the repository if there are several.
    pub(crate) fn place(&self) -> String {
        place(
            self.repository.as_deref(),
            &self.organization,
            &self.project,
        )
    }

    pub(crate) fn of(listed: &ListedEvent) -> Self {
        let event = &listed.event;
        Self {
            id: event.id.0.clone(),
            event: event.kind.as_str(),
            label: event.kind.label(),
            repository: event.key.repository().map(str::to_owned),
            organization: event.key.organization_name().to_owned(),
            project: event.key.project.clone(),
            origin: event.origin.as_str(),
            occurred_at: event.occurred_at,
            recorded_at: listed.recorded_at,
            deliveries: listed.n_deliveries,
            because: event.explanation.because.clone(),
            hint: event.explanation.hint.clone(),
            before: event.explanation.before.clone(),
            after: event.explanation.after.clone(),
            username_from: event.explanation.username_from.clone(),
            actor: event.explanation.actor.clone(),
            parameters: parameters(&event.parameters),
            payload: event.payload.to_string(),
        }
    }
}

fn place(repository: Option<&str>, organization: &str, project: &str) -> String {
    format!(
        "{}/{project}",
        stored_organization(repository, organization)
    )
}

/// Parameters as a JSON object, in their documented order.
pub(crate) fn parameters(parameters: &[(Parameter, String)]) -> serde_json::Value {
    let pairs = parameters
        .iter()
        .map(|(parameter, value)| (parameter.as_str().to_owned(), value.clone().into()))
        .collect();
    serde_json::Value::Object(pairs)
}

/// A delivery in JSON.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeliveryView {
    pub(crate) id: i64,
    pub(crate) webhook: String,
    pub(crate) event_id: String,
    pub(crate) event: &'static str,
    pub(crate) label: &'static str,
    /// The name of the repository, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(crate) repository: Option<String>,
    pub(crate) organization: String,
    pub(crate) project: String,
    pub(crate) state: &'static str,
    pub(crate) origin: &'static str,
    pub(crate) attempts: u32,
    pub(crate) created_at: Timestamp,
    /// The time of the next attempt, if the delivery is pending.
    pub(crate) next_attempt: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) last_status: Option<u16>,
    pub(crate) last_error: Option<String>,
}

impl DeliveryView {
    /// The project with its organization, and with the repository if there are several.
    pub(crate) fn place(&self) -> String {
        place(
            self.repository.as_deref(),
            &self.organization,
            &self.project,
        )
    }

    pub(crate) fn of(delivery: &ListedDelivery) -> Self {
        Self {
            id: delivery.id,
            webhook: delivery.webhook.clone(),
            event_id: delivery.event.0.clone(),
            event: delivery.kind.as_str(),
            label: delivery.kind.label(),
            repository: delivery.key.repository().map(str::to_owned),
            organization: delivery.key.organization_name().to_owned(),
            project: delivery.key.project.clone(),
            state: delivery.state.as_str(),
            origin: delivery.origin.as_str(),
            attempts: delivery.n_attempts,
            created_at: delivery.created_at,
            next_attempt: (delivery.state == State::Pending).then_some(delivery.due),
            finished_at: delivery.finished_at,
            last_status: delivery.last_status,
            last_error: delivery.last_error.clone(),
        }
    }
}

/// An attempt in JSON.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttemptView {
    pub(crate) number: u32,
    pub(crate) at: Timestamp,
    pub(crate) duration_ms: u64,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
    pub(crate) request_headers: Vec<(String, String)>,
    /// The first bytes of the answer's body. Invalid UTF-8 is replaced.
    pub(crate) answer: String,
}

impl AttemptView {
    pub(crate) fn of(attempt: &AttemptLog) -> Self {
        Self {
            number: attempt.number,
            at: attempt.at,
            duration_ms: milliseconds(attempt.duration),
            status: attempt.status,
            error: attempt.error.clone(),
            request_headers: attempt.request_headers.clone(),
            answer: String::from_utf8_lossy(&attempt.answer).into_owned(),
        }
    }
}

/// A delivery with its newest attempts in JSON.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeliveryWithAttempts {
    #[serde(flatten)]
    pub(crate) delivery: DeliveryView,
    /// The newest attempts. If the number of the first is above 1, there are older attempts.
    pub(crate) log: Vec<AttemptView>,
}

impl DeliveryWithAttempts {
    pub(crate) fn of(delivery: &ListedDelivery, attempts: &[AttemptLog]) -> Self {
        Self {
            delivery: DeliveryView::of(delivery),
            log: attempts.iter().map(AttemptView::of).collect(),
        }
    }
}

/// An event in JSON, with its deliveries, and the webhooks without a delivery of it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventWithDeliveries {
    #[serde(flatten)]
    pub(crate) event: EventView,
    pub(crate) log: Vec<DeliveryWithAttempts>,
    pub(crate) passed_over: Vec<PassedOver>,
}

impl EventWithDeliveries {
    pub(crate) fn of(
        listed: &ListedEvent,
        log: &[(ListedDelivery, Vec<AttemptLog>)],
        config: &Config,
    ) -> Self {
        let deliveries = log.iter();
        Self {
            event: EventView::of(listed),
            log: deliveries
                .map(|(delivery, attempts)| DeliveryWithAttempts::of(delivery, attempts))
                .collect(),
            passed_over: passed_over_by(listed, log, config),
        }
    }
}

/// Reads the newest attempts of the deliveries of an event.
///
/// Each delivery gets an equal share of [`ATTEMPTS_MAX`], but at least one attempt.
pub(crate) fn attempts_of(
    deliveries: &[ListedDelivery],
    listings: &Listings,
) -> Result<Vec<(ListedDelivery, Vec<AttemptLog>)>, StoreError> {
    let share = share(deliveries.len());
    let mut log = Vec::new();
    for delivery in deliveries {
        // Housekeeping may have removed the delivery since it was listed.
        if let Some((delivery, _, mut attempts)) = listings.delivery(delivery.id)? {
            attempts.drain(..attempts.len().saturating_sub(share));
            log.push((delivery, attempts));
        }
    }
    Ok(log)
}

/// The maximum number of attempts of each delivery in the log of an event.
fn share(n_deliveries: usize) -> usize {
    ATTEMPTS_MAX.checked_div(n_deliveries).unwrap_or(0).max(1)
}

/// Returns the configured webhooks without a delivery of an event, with the reasons.
pub(crate) fn passed_over_by(
    listed: &ListedEvent,
    log: &[(ListedDelivery, Vec<AttemptLog>)],
    config: &Config,
) -> Vec<PassedOver> {
    let webhooks = log.iter().map(|(delivery, _)| delivery.webhook.as_str());
    passed_over(&listed.event, &webhooks.collect(), config)
}

/// A webhook in JSON.
#[derive(Serialize, ToSchema)]
pub(crate) struct WebhookView {
    #[serde(flatten)]
    pub(crate) state: WebhookReport,
    /// The URL without parts that may be secrets. `null` if the webhook is not configured.
    pub(crate) url: Option<String>,
    pub(crate) format: Option<String>,
    pub(crate) events: Vec<String>,
    /// The globs of `projects`. `null` if the webhook receives events of every project.
    pub(crate) projects: Option<Vec<String>>,
    /// The setting `repositories`. Absent if the webhook receives events of every repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(crate) repositories: Option<Vec<String>>,
    /// The globs of `when` by parameter. Absent without `when`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    pub(crate) when: BTreeMap<String, Vec<String>>,
}

impl WebhookView {
    /// Combines the state of each webhook with its settings.
    pub(crate) fn all(settings: Settings, states: Vec<WebhookReport>) -> Vec<Self> {
        let webhooks = settings.webhooks.into_iter();
        let mut configured: BTreeMap<String, _> = webhooks
            .map(|webhook| (webhook.name.clone(), webhook))
            .collect();
        let view = |state: WebhookReport| {
            let settings = configured.remove(&state.name);
            let (url, format) = settings
                .as_ref()
                .map(|webhook| (webhook.url.clone(), webhook.format.clone()))
                .unzip();
            let repositories = settings.as_ref().and_then(|one| one.repositories.clone());
            let (events, projects, when) = settings
                .map(|webhook| (webhook.events, webhook.projects, webhook.when))
                .unwrap_or_default();
            Self {
                state,
                url,
                format,
                events,
                projects,
                repositories,
                when,
            }
        };
        states.into_iter().map(view).collect()
    }
}

/// A change of deliveries in JSON.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changed {
    pub(crate) action: &'static str,
    pub(crate) matched: u64,
    pub(crate) changed: u64,
    pub(crate) dry_run: bool,
    /// Whether running processes were notified, so that they apply the change immediately.
    ///
    /// False for a dry run. Otherwise always true with PostgreSQL, because each running process sees
    /// the change in the database.
    pub(crate) daemon_told: bool,
}

/// A replay of events in JSON.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Replayed {
    pub(crate) webhook: String,
    pub(crate) matched: u64,
    pub(crate) replayed: u64,
    pub(crate) dry_run: bool,
    /// Whether running processes were notified, so that they send the events immediately.
    ///
    /// False for a dry run. Otherwise always true with PostgreSQL, because each running process sees
    /// the change in the database.
    pub(crate) daemon_told: bool,
}

/// A test request and its answer in JSON.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Exchange {
    pub(crate) webhook: String,
    pub(crate) url: String,
    pub(crate) format: &'static str,
    pub(crate) delivered: bool,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
    pub(crate) duration_ms: u64,
    pub(crate) request_headers: Vec<(String, String)>,
    pub(crate) answer: String,
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attempts_of_an_event_have_a_bound_and_none_of_its_deliveries_is_without() {
        for (n_deliveries, expected) in [(0, 1), (1, 100), (3, 33), (100, 1), (1_000, 1)] {
            assert_eq!(share(n_deliveries), expected, "{n_deliveries}");
        }
    }
}
