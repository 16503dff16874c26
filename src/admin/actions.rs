//! The actions of the API: the changes that commands also make, with the same checks.
//!
//! Constraint: a request that changes many deliveries has their expected number. So it changes
//! nothing if its sender has seen another number. A request with `dryRun` returns the number.

use std::sync::Arc;

use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::error::{ApiError, Json, Named, Options};
use super::reads::{check, delivery_id, kind, no_delivery, state};
use super::routes::Server;
use crate::error::chain;
use crate::operator::change::{self, Change, Refused};
use crate::operator::select::split;
use crate::operator::test::TestRequest;
use crate::operator::view::{Changed, Exchange, Replayed};
use crate::store::{Operations, Selector};

/// The maximum number of ids in one request.
const IDS_MAX: usize = 1_000;

/// A webhook that was switched on or off.
#[derive(Serialize, ToSchema)]
pub(super) struct Switched {
    webhook: String,
    /// Whether the request changed the switch. `false` if the webhook was in this state already.
    changed: bool,
    /// Whether the configuration enables the webhook. If not, it sends nothing.
    enabled: bool,
}

/// The body of an action without options.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NoOptions {}

/// Selects deliveries to change.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Bulk {
    /// Only these deliveries.
    pub(super) ids: Vec<i64>,
    /// Only deliveries to this webhook.
    pub(super) webhook: Option<String>,
    /// Only deliveries in this state.
    pub(super) state: Option<String>,
    /// Only deliveries of this event, by name or label.
    pub(super) event: Option<String>,
    /// Only deliveries of ORGANIZATION/PROJECT, or of PROJECT in any organization.
    pub(super) project: Option<String>,
    /// Only deliveries recorded since then.
    pub(super) since: Option<String>,
    /// Only deliveries recorded before then.
    pub(super) until: Option<String>,
    /// Return the number of selected deliveries, and change nothing.
    pub(super) dry_run: bool,
    /// The number that `dryRun` returned. If another number is selected now, nothing is changed.
    pub(super) expected: Option<u64>,
}

/// Sends one delivery again now, with a new retry schedule.
#[utoipa::path(post, path = "/api/v1/deliveries/{id}/redeliver", tag = "act",
    params(("id" = i64, Path, description = "The id of the delivery")), responses(
    (status = 200, body = Changed), (status = "default", body = ApiError)))]
pub(super) async fn redeliver(
    State(server): State<Arc<Server>>,
    Named(id): Named,
    Options(NoOptions {}): Options<NoOptions>,
) -> Result<Json<Changed>, ApiError> {
    change_one(&server, Change::Redeliver, &id).await
}

/// Cancels one pending delivery.
#[utoipa::path(post, path = "/api/v1/deliveries/{id}/cancel", tag = "act",
    params(("id" = i64, Path, description = "The id of the delivery")), responses(
    (status = 200, body = Changed), (status = "default", body = ApiError)))]
pub(super) async fn cancel(
    State(server): State<Arc<Server>>,
    Named(id): Named,
    Options(NoOptions {}): Options<NoOptions>,
) -> Result<Json<Changed>, ApiError> {
    change_one(&server, Change::Cancel, &id).await
}

async fn change_one(server: &Server, change: Change, id: &str) -> Result<Json<Changed>, ApiError> {
    let id = delivery_id(id)?;
    let bulk = Bulk {
        ids: vec![id],
        ..Bulk::default()
    };
    let selector = select(server, change, bulk).await?;
    let any = Selector {
        ids: vec![id],
        ..Selector::default()
    };
    let now = server.admin.sources.clock.now();
    let work = move |operations: &mut Operations| {
        if operations.count(&any)? == 0 {
            return Err(no_delivery(id));
        }
        match change.apply(&selector, operations, now)? {
            0 => Err(ApiError::conflict(NOT_PENDING)),
            n => Ok(changed(change, 1, n, false)),
        }
    };
    server.admin.change(work).await.map(Json)
}

const NOT_PENDING: &str = "only pending deliveries can be cancelled";

/// Sends the selected deliveries again now. Without `ids` and `state`, only dead ones.
#[utoipa::path(post, path = "/api/v1/deliveries/redeliver", tag = "act", request_body = Bulk,
    responses((status = 200, body = Changed), (status = "default", body = ApiError)))]
pub(super) async fn redeliver_many(
    State(server): State<Arc<Server>>,
    Options(bulk): Options<Bulk>,
) -> Result<Json<Changed>, ApiError> {
    change_many(&server, Change::Redeliver, bulk).await
}

/// Cancels the selected pending deliveries.
#[utoipa::path(post, path = "/api/v1/deliveries/cancel", tag = "act", request_body = Bulk,
    responses((status = 200, body = Changed), (status = "default", body = ApiError)))]
pub(super) async fn cancel_many(
    State(server): State<Arc<Server>>,
    Options(bulk): Options<Bulk>,
) -> Result<Json<Changed>, ApiError> {
    change_many(&server, Change::Cancel, bulk).await
}

async fn change_many(
    server: &Server,
    change: Change,
    bulk: Bulk,
) -> Result<Json<Changed>, ApiError> {
    let (dry_run, expected) = (bulk.dry_run, bulk.expected);
    let selector = select(server, change, bulk).await?;
    let now = server.admin.sources.clock.now();
    let work = move |operations: &mut Operations| {
        let matched = change.count(&selector, operations)?;
        if !confirmed(dry_run, expected, matched)? {
            return Ok(changed(change, matched, 0, true));
        }
        let n = change.apply(&selector, operations, now)?;
        Ok(changed(change, matched, n, false))
    };
    server.admin.change(work).await.map(Json)
}

/// Whether to make the change. Fails if another number was expected than is selected.
fn confirmed(dry_run: bool, expected: Option<u64>, matched: u64) -> Result<bool, ApiError> {
    match expected {
        _ if dry_run => Ok(false),
        Some(expected) if expected == matched => Ok(true),
        Some(expected) => Err(ApiError::conflict(format!(
            "{matched} are selected by now, not {expected}, so nothing was changed"
        ))),
        None => Err(ApiError::invalid(
            "expected is missing: count with dryRun, and then send the number as expected",
        )),
    }
}

fn changed(change: Change, matched: u64, changed: u64, dry_run: bool) -> Changed {
    if !dry_run {
        info!(
            action = change.done(),
            matched, changed, "a request changed deliveries"
        );
    }
    Changed {
        action: change.done(),
        matched,
        changed,
        dry_run,
        daemon_told: !dry_run,
    }
}

async fn select(server: &Server, change: Change, bulk: Bulk) -> Result<Selector, ApiError> {
    if bulk.ids.len() > IDS_MAX {
        let message = format!("ids has at most {IDS_MAX} items; use a filter for more");
        return Err(ApiError::invalid(message));
    }
    let (organization, project) = split(bulk.project.as_deref());
    let selector = Selector {
        ids: bulk.ids,
        webhook: bulk.webhook,
        state: state(bulk.state.as_deref())?,
        kind: kind(bulk.event.as_deref())?,
        organization,
        project,
        since: server.time("since", bulk.since.as_deref())?,
        until: server.time("until", bulk.until.as_deref())?,
    };
    check(server, &selector).await?;
    change.check(selector).map_err(|refused| {
        ApiError::invalid(match refused {
            Refused::Everything => {
                "select deliveries by ids, webhook, state, event, project or time"
            }
            Refused::NotPending => NOT_PENDING,
            Refused::Pending => "pending deliveries cannot be purged; cancel them first",
        })
    })
}

/// Switches a webhook on.
#[utoipa::path(post, path = "/api/v1/webhooks/{name}/enable", tag = "act",
    params(("name" = String, Path, description = "The name of the webhook")), responses(
    (status = 200, body = Switched), (status = "default", body = ApiError)))]
pub(super) async fn enable(
    State(server): State<Arc<Server>>,
    Named(name): Named,
    Options(NoOptions {}): Options<NoOptions>,
) -> Result<Json<Switched>, ApiError> {
    let enabled = change::configured(&name, &server.admin.sources.config())?.enabled;
    let work = move |operations: &mut Operations| {
        let changed = operations.switch_on(&name)?;
        info!(webhook = name, changed, "a request switched a webhook on");
        Ok(Switched {
            webhook: name,
            changed,
            enabled,
        })
    };
    server.admin.change(work).await.map(Json)
}

/// The options of `disable`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DisableOptions {
    /// The reason, which `status` shows.
    reason: Option<String>,
}

/// Switches a webhook off. Its deliveries wait until it is on again.
#[utoipa::path(post, path = "/api/v1/webhooks/{name}/disable", tag = "act",
    request_body = DisableOptions,
    params(("name" = String, Path, description = "The name of the webhook")), responses(
    (status = 200, body = Switched), (status = "default", body = ApiError)))]
pub(super) async fn disable(
    State(server): State<Arc<Server>>,
    Named(name): Named,
    Options(options): Options<DisableOptions>,
) -> Result<Json<Switched>, ApiError> {
    let enabled = change::configured(&name, &server.admin.sources.config())?.enabled;
    let reason = options
        .reason
        .unwrap_or_else(|| change::SWITCHED_OFF.to_owned());
    let now = server.admin.sources.clock.now();
    let work = move |operations: &mut Operations| {
        let changed = operations.switch_off(&name, &reason, now)?;
        info!(webhook = name, changed, "a request switched a webhook off");
        Ok(Switched {
            webhook: name,
            changed,
            enabled,
        })
    };
    server.admin.change(work).await.map(Json)
}

/// The options of `test`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TestOptions {
    /// Send a sample of this event instead, by name or label.
    event: Option<String>,
}

/// Sends one signed `test` event, and returns the request and its answer.
#[utoipa::path(post, path = "/api/v1/webhooks/{name}/test", tag = "act",
    request_body = TestOptions,
    params(("name" = String, Path, description = "The name of the webhook")), responses(
    (status = 200, body = Exchange), (status = "default", body = ApiError)))]
pub(super) async fn test(
    State(server): State<Arc<Server>>,
    Named(name): Named,
    Options(options): Options<TestOptions>,
) -> Result<Json<Exchange>, ApiError> {
    let event = kind(options.event.as_deref())?;
    let config = server.admin.sources.config();
    change::configured(&name, &config)?;
    let prepare = move || {
        let webhook = change::configured(&name, &config)?;
        TestRequest::prepare(webhook, &config.network)
            .map_err(|error| ApiError::unavailable(chain(&error)))
    };
    let (request, _permit) = server.admin.prepare(prepare).await?;
    let attempt = request.send(event, server.admin.sources.clock.now()).await;
    Ok(Json(request.exchange(attempt)))
}

/// Selects events to replay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ReplayOptions {
    /// Queue the events for this webhook: those it subscribes to, and those it got before.
    to: String,
    /// Only events recorded since then.
    #[serde(default)]
    since: Option<String>,
    /// Only events recorded before then.
    #[serde(default)]
    until: Option<String>,
    /// Only events of ORGANIZATION/PROJECT, or of PROJECT in any organization.
    #[serde(default)]
    project: Option<String>,
    /// Return the number of selected events, and change nothing.
    #[serde(default)]
    dry_run: bool,
    /// The number that `dryRun` returned. If another number is selected now, nothing is changed.
    #[serde(default)]
    expected: Option<u64>,
}

/// Queues recorded events for a webhook again or for the first time, in order.
#[utoipa::path(post, path = "/api/v1/events/replay", tag = "act", request_body = ReplayOptions,
    responses((status = 200, body = Replayed), (status = "default", body = ApiError)))]
pub(super) async fn replay(
    State(server): State<Arc<Server>>,
    Options(options): Options<ReplayOptions>,
) -> Result<Json<Replayed>, ApiError> {
    let config = server.admin.sources.config();
    let webhook = change::configured(&options.to, &config)?;
    let (since, until): (Option<Timestamp>, Option<Timestamp>) = (
        server.time("since", options.since.as_deref())?,
        server.time("until", options.until.as_deref())?,
    );
    let replay = change::replay(webhook, options.project.as_deref(), since, until)
        .ok_or_else(|| ApiError::invalid("since must be earlier than until"))?;
    let now = server.admin.sources.clock.now();
    let work = move |operations: &mut Operations| {
        let matched = operations.count_replay(&replay)?;
        let is_confirmed = confirmed(options.dry_run, options.expected, matched)?;
        let replayed = if is_confirmed {
            operations.replay(&replay, now)?
        } else {
            0
        };
        if is_confirmed {
            info!(
                webhook = options.to,
                matched, replayed, "a request replayed events"
            );
        }
        Ok(Replayed {
            webhook: options.to,
            matched,
            replayed,
            dry_run: !is_confirmed,
            daemon_told: is_confirmed,
        })
    };
    server.admin.change(work).await.map(Json)
}
