//! Replays events to a webhook.
//!
//! First shows the number of events, and then queues them only if the number is the same.

use std::sync::Arc;

use axum::extract::{Query, State};
use bytes::Bytes;
use maud::{Markup, html};
use serde::Deserialize;

use super::filters::{Choice, Posted, confirmation, given, project_and_times, webhook_names};
use super::parts::{counted, or_none, pairs, query};
use super::shell::{Failure, Page, Section, page};
use crate::admin::actions::{self, ReplayOptions};
use crate::admin::error::{ApiError, Json, Options};
use crate::admin::routes::Server;
use crate::operator::view::Replayed;

const TITLE: &str = "Replay events";

/// The fields of the form. A browser also sends empty fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chosen {
    to: String,
    project: String,
    since: String,
    until: String,
}

impl Chosen {
    fn pairs(&self) -> [(&'static str, &str); 4] {
        [
            ("to", &self.to),
            ("project", &self.project),
            ("since", &self.since),
            ("until", &self.until),
        ]
    }

    /// Returns the options of the request to the API.
    ///
    /// Without an expected number, the request only counts events.
    fn options(&self, expected: Option<u64>) -> ReplayOptions {
        ReplayOptions {
            repository: None,
            to: self.to.clone(),
            since: given(&self.since),
            until: given(&self.until),
            project: given(&self.project),
            dry_run: expected.is_none(),
            expected,
        }
    }
}

/// Shows the form.
///
/// If a webhook is chosen, also shows the number of selected events.
pub(super) async fn form(
    State(server): State<Arc<Server>>,
    Query(chosen): Query<Chosen>,
) -> Result<Page, Failure> {
    let names = webhook_names(&server);
    let counted = match chosen.to.is_empty() {
        true => None,
        false => Some(replay(&server, chosen.options(None)).await?),
    };
    let content = html! {
        p {
            "Queues recorded events for a webhook, again or for the first time: in order, with the same "
            "ids. Without more filters, selects all events that the webhook subscribes to or got before."
        }
        (inputs(&chosen, &names))
        @if let Some(counted) = &counted { (selected(&chosen, counted.matched)) }
        p { a href="/events" { "Events" } }
    };
    Ok(page(Section::Events, TITLE, &content))
}

fn inputs(chosen: &Chosen, names: &[String]) -> Markup {
    let webhook = Choice {
        name: "to",
        label: "Webhook",
        empty: "choose one",
        is_required: true,
    };
    html! {
        form.filters aria-label="Select events to replay" {
            (webhook.of(&chosen.to, names))
            (project_and_times(&chosen.project, ("Since", &chosen.since), ("Until", &chosen.until)))
            button.main type="submit" { "Count" }
        }
    }
}

/// Shows the number of selected events, with the button that replays them.
fn selected(chosen: &Chosen, matched: u64) -> Markup {
    let fields = chosen.pairs();
    // The selected webhook is `to` in the request.
    let label = |name| if name == "to" { "webhook" } else { name };
    let shown = fields.map(|(name, value)| (label(name), or_none(given(value).as_deref())));
    html! {
        div role="status" {
            p { "This selects " strong { (counted(matched, "event")) } ":" }
            (pairs(&shown))
        }
        @if matched > 0 {
            (confirmation("/events/replay", "Replay", matched, &fields))
        }
    }
}

/// Queues the events, if their number is still the number that the form showed.
pub(super) async fn apply(State(server): State<Arc<Server>>, body: Bytes) -> Result<Page, Failure> {
    let mut posted = Posted::read(&body);
    let expected = posted.expected()?;
    let mut field = |name: &str| posted.take(name);
    let chosen = Chosen {
        to: field("to"),
        project: field("project"),
        since: field("since"),
        until: field("until"),
    };
    let replayed = replay(&server, chosen.options(Some(expected))).await?;
    let queued = format!("/deliveries?{}", query(&[("webhook", &chosen.to)], &[]));
    let content = html! {
        p role="status" {
            (counted(replayed.replayed, "event")) " queued for " (replayed.webhook) "."
        }
        p { a href=(queued) { "Deliveries of the webhook" } }
    };
    Ok(page(Section::Events, TITLE, &content))
}

async fn replay(server: &Arc<Server>, options: ReplayOptions) -> Result<Replayed, ApiError> {
    let state = State(Arc::clone(server));
    let Json(replayed) = actions::replay(state, Options(options)).await?;
    Ok(replayed)
}
