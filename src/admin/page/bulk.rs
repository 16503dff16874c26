//! Changes many deliveries.
//!
//! First shows the number of deliveries, and then changes them only if the number is the same.

use std::sync::Arc;

use axum::extract::{Query, State};
use bytes::Bytes;
use maud::html;
use serde::Deserialize;

use super::deliveries::Chosen;
use super::filters::{Posted, confirmation, given};
use super::parts::{deliveries, or_none, pairs, query};
use super::shell::{Failure, Page, Section, page};
use crate::admin::actions::{self, Bulk};
use crate::admin::error::{ApiError, Json, Options};
use crate::admin::routes::Server;
use crate::operator::view::Changed;

/// The action in a link to this view.
#[derive(Debug, Deserialize)]
pub(super) struct Action {
    action: String,
}

/// Shows the number of deliveries that an action would change, and asks for confirmation.
pub(super) async fn count(
    State(server): State<Arc<Server>>,
    Query(Action { action }): Query<Action>,
    Query(chosen): Query<Chosen>,
) -> Result<Page, Failure> {
    let counted = change(&server, &action, bulk(&chosen, None)).await?;
    let (verb, title) = words(&action);
    let filters = chosen.pairs();
    let back = format!("/deliveries?{}", query(&filters, &[]));
    let selected = filters.map(|(name, value)| (name, or_none(given(value).as_deref())));
    let fields = [&[("action", action.as_str())], &filters[..]].concat();
    let content = html! {
        p { "This selects " strong { (deliveries(counted.matched)) } ":" }
        (pairs(&selected))
        @if chosen.state.is_empty() {
            p {
                @if action == REDELIVER { "Without a state, only dead deliveries are sent again." }
                @else { "Only pending deliveries are cancelled." }
            }
        }
        @if counted.matched > 0 {
            (confirmation("/deliveries/bulk", verb, counted.matched, &fields))
        }
        p { a href=(back) { "Back" } }
    };
    Ok(page(Section::Deliveries, title, &content))
}

/// Changes the deliveries, if their number is still the number that the form showed.
pub(super) async fn apply(State(server): State<Arc<Server>>, body: Bytes) -> Result<Page, Failure> {
    let mut posted = Posted::read(&body);
    let expected = posted.expected()?;
    let mut field = |name: &str| posted.take(name);
    let action = field("action");
    let chosen = Chosen {
        webhook: field("webhook"),
        state: field("state"),
        event: field("event"),
        project: field("project"),
        since: field("since"),
        until: field("until"),
        cursor: String::new(),
    };
    let changed = change(&server, &action, bulk(&chosen, Some(expected))).await?;
    let back = format!("/deliveries?{}", query(&chosen.pairs(), &[]));
    let content = html! {
        p role="status" {
            (deliveries(changed.changed)) " " (changed.action) "."
        }
        p { a href=(back) { "Back to the deliveries" } }
    };
    Ok(page(Section::Deliveries, words(&action).1, &content))
}

const REDELIVER: &str = "redeliver";

/// Returns the text of the button, and the title.
fn words(action: &str) -> (&'static str, &'static str) {
    if action == REDELIVER {
        ("Redeliver", "Redeliver deliveries")
    } else {
        ("Cancel", "Cancel deliveries")
    }
}

/// Returns the body of the request to the API.
///
/// Without an expected number, the request only counts deliveries.
fn bulk(chosen: &Chosen, expected: Option<u64>) -> Bulk {
    Bulk {
        ids: Vec::new(),
        webhook: given(&chosen.webhook),
        state: given(&chosen.state),
        event: given(&chosen.event),
        project: given(&chosen.project),
        since: given(&chosen.since),
        until: given(&chosen.until),
        dry_run: expected.is_none(),
        expected,
        ..Bulk::default()
    }
}

async fn change(server: &Arc<Server>, action: &str, bulk: Bulk) -> Result<Changed, ApiError> {
    let (state, options) = (State(Arc::clone(server)), Options(bulk));
    let Json(changed) = match action {
        REDELIVER => actions::redeliver_many(state, options).await?,
        "cancel" => actions::cancel_many(state, options).await?,
        _ => return Err(ApiError::invalid("action must be redeliver or cancel")),
    };
    Ok(changed)
}
