//! The listings of the API. Their items have the same JSON as in the commands.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Admin;
use super::error::{Answer, ApiError, Filters, Json, Named};
use super::pages::{DeliveryPage, EventPage, Listing, Place};
use super::routes::Server;
use crate::config::{self, WithoutSecrets};
use crate::domain::delivery::State as DeliveryState;
use crate::operator::change::check_webhook;
use crate::operator::select::{find_event, parse_event, parse_since, place};
use crate::operator::view::{DeliveryWithAttempts, EventWithDeliveries, WebhookView, attempts_of};
use crate::report::{Report, Settings, WebhookReport};
use crate::store::{EventFilter, Listings, Selector, WebhookState};

/// How long a request waits for exact counts of deliveries.
const COUNTS_MAX: Duration = Duration::from_secs(10);

/// How long a request waits until the configuration file is read.
const FILE_MAX: Duration = Duration::from_secs(2);

/// How to count deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// Count all deliveries. The time grows with their number.
    Exact,
    /// Count up to this number, so that counting stays fast.
    ///
    /// A greater result means only that there are more.
    UpTo(u64),
}

/// The state of the daemon, as `status --json` prints it.
#[utoipa::path(get, path = "/api/v1/status", tag = "read", responses(
    (status = 200, body = Report), (status = "default", body = ApiError)))]
pub(super) async fn status(State(server): State<Arc<Server>>) -> Answer<Report> {
    report(&server, Counts::Exact).await.map(Json)
}

/// Gathers the state of the daemon.
pub(super) async fn report(server: &Server, counts: Counts) -> Result<Report, ApiError> {
    let states = states(server, counts).await?;
    let admin = &server.admin;
    let daemon = admin.sources.daemon();
    let file = settings_of_file(admin).await;
    let state_dir = admin.state_dir.clone();
    let report = move |listings: &Listings| {
        Ok(Report::gather(
            &file,
            &state_dir,
            Ok(daemon),
            states,
            Some(listings),
        )?)
    };
    admin.read(report).await
}

/// Reads the settings in the configuration file.
///
/// Returns the settings in use if reading takes too long.
async fn settings_of_file(admin: &Admin) -> Settings {
    let config = admin.sources.config();
    let present = Settings::of(&config);
    let read = move || {
        // For an invalid file, return the defaults. They differ from the settings in use, so the
        // status shows the file as changed.
        Ok(config::load(&config.file, &WithoutSecrets).map_or_else(
            |_| Settings::default(),
            |loaded| Settings::of(&loaded.config),
        ))
    };
    let read = tokio::time::timeout(FILE_MAX, admin.read_file(read)).await;
    read.ok().and_then(Result::ok).unwrap_or(present)
}

/// Reads the states of all webhooks, with the counts of their deliveries.
async fn states(server: &Server, counts: Counts) -> Result<Vec<WebhookState>, ApiError> {
    let most = match counts {
        Counts::UpTo(most) => most,
        Counts::Exact => {
            let states = server.admin.sources.states();
            return match tokio::time::timeout(COUNTS_MAX, states).await {
                Ok(states) => Ok(states?),
                Err(_) => Err(ApiError::unavailable(
                    "counting the deliveries takes too long",
                )),
            };
        }
    };
    let read = move |listings: &Listings| Ok(listings.webhook_states_up_to(most)?);
    server.admin.read(read).await
}

/// The webhooks with their queues, as `webhooks --json` prints them.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "read", responses(
    (status = 200, body = Vec<WebhookView>), (status = "default", body = ApiError)))]
pub(super) async fn webhooks(State(server): State<Arc<Server>>) -> Answer<Vec<WebhookView>> {
    all_webhooks(&server, Counts::Exact).await.map(Json)
}

/// Lists the webhooks with their queues.
pub(super) async fn all_webhooks(
    server: &Server,
    counts: Counts,
) -> Result<Vec<WebhookView>, ApiError> {
    let settings = Settings::of(&server.admin.sources.config());
    let states = WebhookReport::of_settings(&settings, states(server, counts).await?);
    Ok(WebhookView::all(settings, states))
}

/// The filters of events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventFilters {
    /// Only events recorded since this time: a date, a time, or how long ago, such as 2h.
    pub(super) since: Option<String>,
    /// Only events recorded before this time.
    pub(super) until: Option<String>,
    /// Only this event, by name or label.
    pub(super) event: Option<String>,
    /// Only events of the repository with this name, if there are several.
    pub(super) repository: Option<String>,
    /// Only events of ORGANIZATION/PROJECT, or of PROJECT in any organization.
    pub(super) project: Option<String>,
    /// The maximum number of items, from 1 to 500. The default is 50.
    pub(super) limit: Option<String>,
    /// The value of `next` in the previous page.
    pub(super) cursor: Option<String>,
}

/// Events, the newest first.
#[utoipa::path(get, path = "/api/v1/events", tag = "read", params(EventFilters), responses(
    (status = 200, body = EventPage), (status = "default", body = ApiError)))]
pub(super) async fn events(
    State(server): State<Arc<Server>>,
    Filters(filters): Filters<EventFilters>,
) -> Answer<EventPage> {
    let place = Place::read(
        Listing::Events,
        filters.cursor.as_deref(),
        filters.limit.as_deref(),
    )?;
    let (organization, project) =
        server.place(filters.repository.as_deref(), filters.project.as_deref())?;
    let filter = EventFilter {
        organization,
        project,
        kind: kind(filters.event.as_deref())?,
        since: server.time("since", filters.since.as_deref())?,
        until: server.time("until", filters.until.as_deref())?,
    };
    let read = move |listings: &Listings| {
        let page = listings.events_page(&filter, place.before, place.limit)?;
        Ok(EventPage::of(&page))
    };
    server.admin.read(read).await.map(Json)
}

/// One event with its deliveries, as `events show --json` prints it.
#[utoipa::path(get, path = "/api/v1/events/{id}", tag = "read",
    params(("id" = String, Path, description = "The id, or its first characters")), responses(
    (status = 200, body = EventWithDeliveries), (status = "default", body = ApiError)))]
pub(super) async fn event(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Answer<EventWithDeliveries> {
    let config = server.admin.sources.config();
    let read = move |listings: &Listings| {
        let id = find_event(&id, listings)?;
        let removed = || ApiError::absent(format!("the event {id} was removed meanwhile"));
        let (listed, deliveries) = listings.event(&id)?.ok_or_else(removed)?;
        let log = attempts_of(&deliveries, listings)?;
        Ok(EventWithDeliveries::of(&listed, &log, &config))
    };
    server.admin.read(read).await.map(Json)
}

/// The filters of deliveries.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveryFilters {
    /// Only deliveries to this webhook.
    pub(super) webhook: Option<String>,
    /// Only deliveries in this state: pending, delivered, dead or cancelled.
    pub(super) state: Option<String>,
    /// Only deliveries of this event, by name or label.
    pub(super) event: Option<String>,
    /// Only deliveries of the repository with this name, if there are several.
    pub(super) repository: Option<String>,
    /// Only deliveries of ORGANIZATION/PROJECT, or of PROJECT in any organization.
    pub(super) project: Option<String>,
    /// Only deliveries recorded since this time: a date, a time, or how long ago, such as 2h.
    pub(super) since: Option<String>,
    /// Only deliveries recorded before this time.
    pub(super) until: Option<String>,
    /// The maximum number of items, from 1 to 500. The default is 50.
    pub(super) limit: Option<String>,
    /// The value of `next` in the previous page.
    pub(super) cursor: Option<String>,
}

/// Deliveries, the newest first.
#[utoipa::path(get, path = "/api/v1/deliveries", tag = "read", params(DeliveryFilters), responses(
    (status = 200, body = DeliveryPage), (status = "default", body = ApiError)))]
pub(super) async fn deliveries(
    State(server): State<Arc<Server>>,
    Filters(filters): Filters<DeliveryFilters>,
) -> Answer<DeliveryPage> {
    let place = Place::read(
        Listing::Deliveries,
        filters.cursor.as_deref(),
        filters.limit.as_deref(),
    )?;
    let (organization, project) =
        server.place(filters.repository.as_deref(), filters.project.as_deref())?;
    let selector = Selector {
        webhook: filters.webhook,
        state: state(filters.state.as_deref())?,
        kind: kind(filters.event.as_deref())?,
        organization,
        project,
        since: server.time("since", filters.since.as_deref())?,
        until: server.time("until", filters.until.as_deref())?,
        ..Selector::default()
    };
    check(&server, &selector).await?;
    let read = move |listings: &Listings| {
        let page = listings.deliveries_page(&selector, place.before, place.limit)?;
        Ok(DeliveryPage::of(&page))
    };
    server.admin.read(read).await.map(Json)
}

/// One delivery with its attempts, as `deliveries show --json` prints it.
#[utoipa::path(get, path = "/api/v1/deliveries/{id}", tag = "read",
    params(("id" = i64, Path, description = "The id of the delivery")), responses(
    (status = 200, body = DeliveryWithAttempts), (status = "default", body = ApiError)))]
pub(super) async fn delivery(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Answer<DeliveryWithAttempts> {
    let id = delivery_id(&id)?;
    let read = move |listings: &Listings| match listings.delivery(id)? {
        Some((delivery, _, attempts)) => Ok(DeliveryWithAttempts::of(&delivery, &attempts)),
        None => Err(no_delivery(id)),
    };
    server.admin.read(read).await.map(Json)
}

/// Parses the id of a delivery.
pub(super) fn delivery_id(text: &str) -> Result<i64, ApiError> {
    let message = "the id of a delivery must be a number";
    text.parse().map_err(|_| ApiError::invalid(message))
}

pub(super) fn no_delivery(id: i64) -> ApiError {
    ApiError::absent(format!("there is no delivery {id}"))
}

/// Parses the name or label of an event.
pub(super) fn kind(
    event: Option<&str>,
) -> Result<Option<crate::domain::event::EventKind>, ApiError> {
    let Some(text) = event else { return Ok(None) };
    let unknown = || ApiError::invalid("event must be the name or the label of an event");
    parse_event(text).map(Some).ok_or_else(unknown)
}

/// Parses the state of a delivery.
pub(super) fn state(text: Option<&str>) -> Result<Option<DeliveryState>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let unknown = || {
        let words = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
        ApiError::invalid(format!("state must be one of {words}"))
    };
    DeliveryState::from_word(text).map(Some).ok_or_else(unknown)
}

/// Refuses a selector whose webhook is neither configured nor known to the store.
pub(super) async fn check(server: &Server, selector: &Selector) -> Result<(), ApiError> {
    let Some(name) = &selector.webhook else {
        return Ok(());
    };
    let config = server.admin.sources.config();
    if config.webhooks.iter().any(|webhook| webhook.name() == name) {
        return Ok(());
    }
    // Only the names of the webhooks are needed, not the counts.
    let states = states(server, Counts::UpTo(0)).await?;
    let states = WebhookReport::of_settings(&Settings::of(&config), states);
    check_webhook(name, &states).map_err(|error| ApiError::invalid(error.to_string()))
}

impl Server {
    /// Parses the filters of the repository and the project.
    pub(super) fn place(
        &self,
        repository: Option<&str>,
        project: Option<&str>,
    ) -> Result<(Option<String>, Option<String>), ApiError> {
        let config = self.admin.sources.config();
        place(repository, project, &config).map_err(|error| ApiError::invalid(error.to_string()))
    }

    /// Parses a time in a filter.
    pub(super) fn time(
        &self,
        name: &str,
        text: Option<&str>,
    ) -> Result<Option<jiff::Timestamp>, ApiError> {
        let Some(text) = text else { return Ok(None) };
        match parse_since(text) {
            Ok(since) => Ok(Some(since.time(self.admin.sources.clock.now()))),
            Err(expected) => Err(ApiError::invalid(format!("{name} {expected}"))),
        }
    }
}
