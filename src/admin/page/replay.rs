//! Replays events to a webhook: first shows their number, then queues only that number.

use std::sync::Arc;

use axum::extract::{Query, State};
use bytes::Bytes;
use maud::{Markup, html};
use serde::Deserialize;

use super::actions::fields;
use super::deliveries::{field, given};
use super::parts::{counted, or_none, pairs, query};
use super::shell::{Failure, Page, Section, page};
use crate::admin::actions::{self, ReplayOptions};
use crate::admin::error::{ApiError, Json, Options};
use crate::admin::routes::Server;
use crate::operator::view::Replayed;

const TITLE: &str = "Replay events";

/// The fields of the form. A browser also sends empty ones.
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

    /// The request. Without an expected number, it only counts the events.
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

/// Shows the form, and with a webhook the number of events that it selects.
pub(super) async fn form(
    State(server): State<Arc<Server>>,
    Query(chosen): Query<Chosen>,
) -> Result<Page, Failure> {
    let config = server.admin.sources.config();
    let names: Vec<&str> = config
        .webhooks
        .iter()
        .map(|webhook| webhook.name())
        .collect();
    let counted = match chosen.to.is_empty() {
        true => None,
        false => Some(replay(&server, chosen.options(None)).await?),
    };
    let content = html! {
        p {
            "Queues recorded events for a webhook, again or for the first time: in order, with the same "
            "ids. Without more filters, these are all events that the webhook subscribes to."
        }
        (inputs(&chosen, &names))
        @if let Some(counted) = &counted { (confirmation(&chosen, counted.matched)) }
        p { a href="/events" { "Events" } }
    };
    Ok(page(Section::Events, TITLE, &content))
}

fn inputs(chosen: &Chosen, names: &[&str]) -> Markup {
    html! {
        form.filters aria-label="Select events to replay" {
            label { "Webhook"
                select name="to" required {
                    option value="" { "choose one" }
                    @for name in names {
                        option value=(name) selected[*name == chosen.to] { (name) }
                    }
                }
            }
            (field("project", "Project", &chosen.project, "organization/project"))
            (field("since", "From", &chosen.since, "2h, 7d or 2026-01-31"))
            (field("until", "To", &chosen.until, "1h or 2026-01-31 12:00"))
            button.main type="submit" { "Count" }
        }
    }
}

fn confirmation(chosen: &Chosen, matched: u64) -> Markup {
    let selected = chosen
        .pairs()
        .map(|(name, value)| (name, or_none(given(value).as_deref())));
    html! {
        div role="status" {
            p { "This selects " strong { (counted(matched, "event")) } ":" }
            (pairs(&selected))
        }
        @if matched > 0 {
            form method="post" action="/events/replay" {
                input type="hidden" name="expected" value=(matched);
                @for (name, value) in &chosen.pairs() {
                    input type="hidden" name=(name) value=(value);
                }
                button.main type="submit" { "Replay " (matched) }
            }
        }
    }
}

/// Queues the events, if their number is still the one that was shown.
pub(super) async fn apply(State(server): State<Arc<Server>>, body: Bytes) -> Result<Page, Failure> {
    let mut fields = fields(&body);
    let mut field = |name: &str| fields.remove(name).unwrap_or_default();
    let chosen = Chosen {
        to: field("to"),
        project: field("project"),
        since: field("since"),
        until: field("until"),
    };
    let expected: u64 = field("expected")
        .parse()
        .map_err(|_| ApiError::invalid("the form has no number of events"))?;
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
