//! The deliveries: a filtered listing, and a view of a delivery with its attempts.

use std::sync::Arc;

use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;

use super::filters::{event_choice, given, project_and_times, select, webhook_names};
use super::parts::{
    button, counted, duration, event_link, headers, next_page, or_none, pairs, query, segment,
    state, time, time_or_none,
};
use super::shell::{Failure, Page, Section, page};
use crate::admin::error::{Filters, Json, Named};
use crate::admin::pages::DeliveryPage;
use crate::admin::reads::{self, DeliveryFilters};
use crate::admin::routes::Server;
use crate::domain::delivery::State as DeliveryState;
use crate::operator::view::{AttemptView, DeliveryView, DeliveryWithAttempts};

/// The filters and the cursor. A browser also sends the empty fields of the form.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chosen {
    pub(super) webhook: String,
    pub(super) state: String,
    pub(super) event: String,
    pub(super) project: String,
    pub(super) since: String,
    pub(super) until: String,
    pub(super) cursor: String,
}

impl Chosen {
    /// Returns the filters without the cursor.
    pub(super) fn pairs(&self) -> [(&'static str, &str); 6] {
        [
            ("webhook", &self.webhook),
            ("state", &self.state),
            ("event", &self.event),
            ("project", &self.project),
            ("since", &self.since),
            ("until", &self.until),
        ]
    }

    fn filters(&self) -> DeliveryFilters {
        DeliveryFilters {
            webhook: given(&self.webhook),
            state: given(&self.state),
            event: given(&self.event),
            project: given(&self.project),
            since: given(&self.since),
            until: given(&self.until),
            limit: None,
            cursor: given(&self.cursor),
            ..DeliveryFilters::default()
        }
    }
}

pub(super) async fn list(
    State(server): State<Arc<Server>>,
    Query(chosen): Query<Chosen>,
) -> Result<Page, Failure> {
    let names = webhook_names(&server);
    let filters = Filters(chosen.filters());
    let Json(found) = reads::deliveries(State(Arc::clone(&server)), filters).await?;
    let content = html! {
        (form(&chosen, &names))
        (table(&chosen, &found))
    };
    Ok(page(Section::Deliveries, "Deliveries", &content))
}

fn form(chosen: &Chosen, webhooks: &[String]) -> Markup {
    let states = DeliveryState::ALL.map(DeliveryState::as_str);
    html! {
        form.filters role="search" aria-label="Filter deliveries" {
            (select("webhook", "Webhook", &chosen.webhook, webhooks))
            (select("state", "State", &chosen.state, &states))
            (event_choice(&chosen.event))
            (project_and_times(
                &chosen.project, ("Since", &chosen.since), ("Until", &chosen.until)
            ))
            button.main type="submit" { "Filter" }
            a href="/deliveries" { "Clear" }
        }
    }
}

fn table(chosen: &Chosen, found: &DeliveryPage) -> Markup {
    let filters = chosen.pairs();
    let is_first = chosen.cursor.is_empty();
    let is_filtered = filters.iter().any(|(_, value)| !value.is_empty());
    html! {
        div #deliveries data-live[is_first] {
            @if is_filtered {
                div.actions {
                    a href={ "/deliveries/bulk?" (query(&filters, &[("action", "redeliver")])) } {
                        "Redeliver these…"
                    }
                    a href={ "/deliveries/bulk?" (query(&filters, &[("action", "cancel")])) } {
                        "Cancel these…"
                    }
                }
            }
            @if found.items.is_empty() {
                p { @if found.next.is_some() { "None on this page. Older pages may have some." }
                    @else { "No deliveries." } }
            } @else {
                (rows(&found.items))
            }
            (next_page("/deliveries", &filters, found.next.as_deref()))
        }
    }
}

fn rows(deliveries: &[DeliveryView]) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Deliveries" {
            table {
                thead { tr {
                    th scope="col" { "Delivery" } th scope="col" { "Event" }
                    th scope="col" { "Project" } th scope="col" { "Webhook" }
                    th scope="col" { "State" } th scope="col" { "Attempts" }
                    th scope="col" { "Last answer" } th scope="col" { "Recorded" }
                    th scope="col" { "Next attempt or end" }
                } }
                tbody {
                    @for delivery in deliveries {
                        tr {
                            td { a href={ "/deliveries/" (delivery.id) } { (delivery.id) } }
                            td { (delivery.label) }
                            td { (delivery.place()) }
                            td { (delivery.webhook) }
                            td { (state(delivery.state)) }
                            td { (delivery.attempts) }
                            td.text { (answer(delivery)) }
                            td { (time(delivery.created_at)) }
                            td { (time_or_none(delivery.next_attempt.or(delivery.finished_at))) }
                        }
                    }
                }
            }
        }
    }
}

fn answer(delivery: &DeliveryView) -> Markup {
    html! {
        @match (&delivery.last_error, delivery.last_status) {
            (Some(error), _) => (error),
            (None, Some(status)) => (status),
            (None, None) => (or_none(None)),
        }
    }
}

pub(super) async fn one(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Result<Page, Failure> {
    let Json(found) = reads::delivery(State(server), Named(id)).await?;
    let title = format!("Delivery {}", found.delivery.id);
    let content = html! { div #delivery data-live { (in_full(&found)) } };
    Ok(page(Section::Deliveries, &title, &content))
}

/// Shows a delivery with its buttons and attempts.
pub(super) fn in_full(found: &DeliveryWithAttempts) -> Markup {
    let DeliveryWithAttempts { delivery, log } = found;
    let is_pending = delivery.state == DeliveryState::Pending.as_str();
    let to = |action: &str| format!("/deliveries/{}/{action}", delivery.id);
    let about = format!("delivery {}", delivery.id);
    let payload = format!("/events/{}/payload", segment(&delivery.event_id));
    html! {
        (pairs(&[
            ("State", state(delivery.state)),
            ("Webhook", html! { (delivery.webhook) }),
            ("Event", html! { (delivery.label) " " (event_link(&delivery.event_id)) }),
            ("Project", html! { (delivery.place()) }),
            ("Origin", html! { (delivery.origin) }),
            ("Recorded", time(delivery.created_at)),
            ("Next attempt", time_or_none(delivery.next_attempt)),
            ("Finished", time_or_none(delivery.finished_at)),
            ("Payload", html! { a href=(payload) { "project.xml" } }),
        ]))
        div.actions {
            (button(&to("redeliver"), if is_pending { "Send now" } else { "Redeliver" }, &about))
            @if is_pending { (button(&to("cancel"), "Cancel", &about)) }
        }
        h2 { "Attempts" }
        @if log.is_empty() { p { "No attempt yet." } }
        @for attempt in log.iter().rev() { (self::attempt(attempt)) }
        @if let Some(first) = log.first().filter(|first| first.number > 1) {
            p { (counted(u64::from(first.number.saturating_sub(1)), "older attempt")) " not shown." }
        }
    }
}

fn attempt(attempt: &AttemptView) -> Markup {
    let status = attempt.status.map(|status| status.to_string());
    html! {
        section.card aria-label={ "Attempt " (attempt.number) } {
            h3 {
                "Attempt " (attempt.number) ": "
                span class=(if attempt.error.is_some() { "state bad" } else { "state good" }) {
                    (status.as_deref().unwrap_or("failed"))
                }
            }
            p { (time(attempt.at)) ", took " (duration(attempt.duration_ms)) }
            @if let Some(error) = &attempt.error { p.bad.text { (error) } }
            details {
                summary { "Request headers" }
                (headers(&attempt.request_headers))
            }
            @if !attempt.answer.is_empty() {
                details open { summary { "Answer" } pre tabindex="0" { (attempt.answer) } }
            }
        }
    }
}
