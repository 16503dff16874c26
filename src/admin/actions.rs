//! The actions of the API. The commands have the same actions and checks.
//!
//! Constraint: a request that changes many deliveries, or replays events, must say how many its
//! sender expects it to select. In the first transaction of the change, the store compares this
//! number with the number it selects. If they differ, nothing is changed. A request with `dryRun`
//! returns the number.

use std::sync::Arc;

use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::error::{Answer, ApiError, Json, Named, Options};
use super::reads::{check, delivery_id, kind, no_delivery, state};
use super::routes::Server;
use crate::error::chain;
use crate::operator::change::{self, Change, Refused};
use crate::operator::test::TestRequest;
use crate::operator::view::{Changed, Exchange, Replayed};
use crate::store::{Operations, Replay, Selector};

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
    /// Only deliveries of the repository with this name, if there are several.
    pub(super) repository: Option<String>,
    /// Only deliveries of ORGANIZATION/PROJECT, or of PROJECT in any organization.
    pub(super) project: Option<String>,
    /// Only deliveries recorded since this time.
    pub(super) since: Option<String>,
    /// Only deliveries recorded before this time.
    pub(super) until: Option<String>,
    /// Return the number of selected deliveries, and change nothing.
    pub(super) dry_run: bool,
    /// The number that `dryRun` returned. If it is not the number selected now, nothing is changed.
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
) -> Answer<Changed> {
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
) -> Answer<Changed> {
    change_one(&server, Change::Cancel, &id).await
}

async fn change_one(server: &Server, change: Change, id: &str) -> Answer<Changed> {
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
    let work = move |operations: &mut Operations, now| {
        if operations.count(&any)? == 0 {
            return Err(no_delivery(id));
        }
        match change.apply(&selector, operations, now)? {
            0 if change == Change::Cancel => Err(ApiError::conflict(NOT_PENDING)),
            // The delivery was removed meanwhile.
            0 => Err(no_delivery(id)),
            n => Ok(changed(change, 1, n, false)),
        }
    };
    apply(server, work).await
}

/// Runs `work`, which changes the store, with the present time.
async fn apply<T: Send + 'static>(
    server: &Server,
    work: impl FnOnce(&mut Operations, Timestamp) -> Result<T, ApiError> + Send + 'static,
) -> Answer<T> {
    let now = server.admin.sources.clock.now();
    let work = move |operations: &mut Operations| work(operations, now);
    server.admin.change(work).await.map(Json)
}

const NOT_PENDING: &str = "only pending deliveries can be cancelled";

/// Sends the selected deliveries again now. Without `ids` and `state`, only dead ones.
#[utoipa::path(post, path = "/api/v1/deliveries/redeliver", tag = "act", request_body = Bulk,
    responses((status = 200, body = Changed), (status = "default", body = ApiError)))]
pub(super) async fn redeliver_many(
    State(server): State<Arc<Server>>,
    Options(bulk): Options<Bulk>,
) -> Answer<Changed> {
    change_many(&server, Change::Redeliver, bulk).await
}

/// Cancels the selected pending deliveries.
#[utoipa::path(post, path = "/api/v1/deliveries/cancel", tag = "act", request_body = Bulk,
    responses((status = 200, body = Changed), (status = "default", body = ApiError)))]
pub(super) async fn cancel_many(
    State(server): State<Arc<Server>>,
    Options(bulk): Options<Bulk>,
) -> Answer<Changed> {
    change_many(&server, Change::Cancel, bulk).await
}

async fn change_many(server: &Server, change: Change, bulk: Bulk) -> Answer<Changed> {
    let only_count = bulk.dry_run;
    let expected = bulk.expected;
    let mut selector = select(server, change, bulk).await?;
    if only_count {
        let work = move |operations: &Operations| {
            let matched = operations.count(&selector)?;
            Ok(changed(change, matched, 0, true))
        };
        return server.admin.count(work).await.map(Json);
    }
    let expected = expected.ok_or_else(uncounted)?;
    selector.expected = Some(expected);
    let work = move |operations: &mut Operations, now| {
        let n = change.apply(&selector, operations, now)?;
        Ok(changed(change, expected, n, false))
    };
    apply(server, work).await
}

/// The error of a change without the expected number.
fn uncounted() -> ApiError {
    ApiError::invalid(
        "`expected` is missing: count with `dryRun`, and then send the number as `expected`",
    )
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
    let (organization, project) =
        server.place(bulk.repository.as_deref(), bulk.project.as_deref())?;
    let selector = Selector {
        ids: bulk.ids,
        webhook: bulk.webhook,
        state: state(bulk.state.as_deref())?,
        kind: kind(bulk.event.as_deref())?,
        organization,
        project,
        since: server.time("since", bulk.since.as_deref())?,
        until: server.time("until", bulk.until.as_deref())?,
        ..Selector::default()
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
) -> Answer<Switched> {
    switch(&server, name, Switch::On).await
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
) -> Answer<Switched> {
    let reason = options.reason;
    let reason = reason.unwrap_or_else(|| change::SWITCHED_OFF.to_owned());
    switch(&server, name, Switch::Off(reason)).await
}

/// The new position of a webhook's switch.
enum Switch {
    On,
    /// Off, for this reason.
    Off(String),
}

async fn switch(server: &Server, name: String, to: Switch) -> Answer<Switched> {
    let enabled = change::configured(&name, &server.admin.sources.config())?.enabled;
    let work = move |operations: &mut Operations, now| {
        let (changed, position) = match to {
            Switch::On => (operations.switch_on(&name)?, "on"),
            Switch::Off(reason) => (operations.switch_off(&name, &reason, now)?, "off"),
        };
        info!(
            webhook = name,
            changed, "a request switched a webhook {position}"
        );
        Ok(Switched {
            webhook: name,
            changed,
            enabled,
        })
    };
    apply(server, work).await
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
) -> Answer<Exchange> {
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
    /// Queue the events for this webhook: those it subscribes to, and those that
    /// already have a delivery to it.
    pub(super) to: String,
    /// Only events recorded since this time.
    #[serde(default)]
    pub(super) since: Option<String>,
    /// Only events recorded before this time.
    #[serde(default)]
    pub(super) until: Option<String>,
    /// Only events of the repository with this name, if there are several.
    #[serde(default)]
    pub(super) repository: Option<String>,
    /// Only events of ORGANIZATION/PROJECT, or of PROJECT in any organization.
    #[serde(default)]
    pub(super) project: Option<String>,
    /// Return the number of selected events, and change nothing.
    #[serde(default)]
    pub(super) dry_run: bool,
    /// The number that `dryRun` returned. If it is not the number selected now, nothing is changed.
    #[serde(default)]
    pub(super) expected: Option<u64>,
}

/// Queues recorded events for a webhook again or for the first time, in order.
#[utoipa::path(post, path = "/api/v1/events/replay", tag = "act", request_body = ReplayOptions,
    responses((status = 200, body = Replayed), (status = "default", body = ApiError)))]
pub(super) async fn replay(
    State(server): State<Arc<Server>>,
    Options(options): Options<ReplayOptions>,
) -> Answer<Replayed> {
    let config = server.admin.sources.config();
    let webhook = change::configured(&options.to, &config)?;
    let since = server.time("since", options.since.as_deref())?;
    let until = server.time("until", options.until.as_deref())?;
    let place = server.place(options.repository.as_deref(), options.project.as_deref())?;
    let replay = change::replay(webhook, place, since, until)
        .ok_or_else(|| ApiError::invalid("`since` must be earlier than `until`"))?;
    let webhook = options.to;
    if options.dry_run {
        let work = move |operations: &Operations| {
            let matched = operations.count_replay(&replay)?;
            Ok(replayed(webhook, matched, None))
        };
        return server.admin.count(work).await.map(Json);
    }
    let expected = options.expected.ok_or_else(uncounted)?;
    let replay = Replay {
        expected: Some(expected),
        ..replay
    };
    let work = move |operations: &mut Operations, now| {
        let n = operations.replay(&replay, now)?;
        Ok(replayed(webhook, expected, Some(n)))
    };
    apply(&server, work).await
}

/// Makes the answer of a replay. `queued` is `None` if events were only counted.
fn replayed(webhook: String, matched: u64, queued: Option<u64>) -> Replayed {
    if let Some(replayed) = queued {
        info!(webhook, matched, replayed, "a request replayed events");
    }
    Replayed {
        webhook,
        matched,
        replayed: queued.unwrap_or_default(),
        dry_run: queued.is_none(),
        daemon_told: queued.is_some(),
    }
}
