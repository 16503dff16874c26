//! `GET /metrics`: how things stand, gathered from those who know.
//!
//! Constraint: asking is cheap, however much waits, and holds nobody up: the engine's state is a
//! copy that is there, and the store is asked where no delivery waits for the answer but briefly.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::Known;
use crate::engine::status::{Snapshot, Trouble};
use crate::metrics::{Gauges, WebhookGauges};
use crate::store::WebhookState;

/// Of the text format (prometheus.io, "Exposition formats").
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long the store may take to say how the queues stand.
const STORE_MAX: Duration = Duration::from_secs(5);

pub(super) async fn metrics(State(known): State<Arc<Known>>) -> Response {
    let states = tokio::time::timeout(STORE_MAX, known.store.webhook_states()).await;
    let states = match states {
        Ok(Ok(states)) => states,
        Ok(Err(error)) => return unavailable(&error.to_string()),
        Err(_) => return unavailable("the state cannot be read in time"),
    };
    let gauges = gauges(known.status.snapshot(), states, known.clock.now());
    match known.metrics.text(&gauges) {
        Ok(text) => ([(CONTENT_TYPE, FORMAT)], text).into_response(),
        Err(error) => unavailable(&error.to_string()),
    }
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

fn gauges(engine: Snapshot, webhooks: Vec<WebhookState>, now: Timestamp) -> Gauges {
    Gauges {
        is_watching: engine.is_watching(),
        has_root_trouble: engine.troubles.contains_key(&Trouble::Root),
        has_store_trouble: engine.troubles.contains_key(&Trouble::Store),
        projects: engine.projects,
        watches: engine.coverage.watches,
        uncovered: engine.coverage.uncovered,
        polls: engine.coverage.polls,
        incomplete: engine.problems,
        events: engine
            .events
            .iter()
            .map(|((event, origin), n)| (*event, *origin, *n))
            .collect(),
        rescans: engine.rescans.into_iter().collect(),
        reloads_applied: engine.reloads.0,
        reloads_rejected: engine.reloads.1,
        webhooks: webhooks
            .into_iter()
            .map(|webhook| WebhookGauges {
                oldest: webhook
                    .oldest_pending
                    .and_then(|since| Duration::try_from(now.duration_since(since)).ok())
                    .unwrap_or_default(),
                name: webhook.name,
                pending: webhook.n_pending,
                dead: webhook.n_dead,
                is_off: webhook.off.is_some(),
            })
            .collect(),
    }
}
