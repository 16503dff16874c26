//! The events: a filtered listing, and a view of one event with the reason for it.

use std::sync::Arc;

use axum::extract::{Query, State};
use bytesize::ByteSize;
use maud::{Markup, html};
use serde::Deserialize;

use super::filters::{event_choice, given, project_and_times};
use super::parts::{event_link, next_page, or_none, pairs, segment, state, time};
use super::shell::{Failure, Page, Section, page};
use crate::admin::error::{Filters, Json, Named};
use crate::admin::pages::EventPage;
use crate::admin::reads::{self, EventFilters};
use crate::admin::routes::Server;
use crate::domain::actor::Actor;
use crate::domain::event::FileSummary;
use crate::operator::view::{EventView, EventWithDeliveries};

/// The filters and the cursor. A browser also sends the empty fields of the form.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chosen {
    event: String,
    project: String,
    since: String,
    until: String,
    cursor: String,
}

pub(super) async fn list(
    State(server): State<Arc<Server>>,
    Query(chosen): Query<Chosen>,
) -> Result<Page, Failure> {
    let filters = EventFilters {
        since: given(&chosen.since),
        until: given(&chosen.until),
        event: given(&chosen.event),
        project: given(&chosen.project),
        limit: None,
        cursor: given(&chosen.cursor),
        ..EventFilters::default()
    };
    let Json(found) = reads::events(State(server), Filters(filters)).await?;
    let content = html! {
        (form(&chosen))
        (table(&chosen, &found))
    };
    Ok(page(Section::Events, "Events", &content))
}

fn form(chosen: &Chosen) -> Markup {
    html! {
        form.filters role="search" aria-label="Filter events" {
            (event_choice(&chosen.event))
            (project_and_times(
                &chosen.project, ("Since", &chosen.since), ("Until", &chosen.until)
            ))
            button.main type="submit" { "Filter" }
            a href="/events" { "Clear" }
        }
    }
}

fn table(chosen: &Chosen, found: &EventPage) -> Markup {
    let filters = [
        ("event", chosen.event.as_str()),
        ("project", &chosen.project),
        ("since", &chosen.since),
        ("until", &chosen.until),
    ];
    html! {
        div.actions { a href="/events/replay" { "Replay…" } }
        div #events data-live[chosen.cursor.is_empty()] {
            @if found.items.is_empty() {
                p { @if found.next.is_some() { "None on this page. Older pages may have some." }
                    @else { "No events." } }
            } @else {
                (rows(&found.items))
            }
            (next_page("/events", &filters, found.next.as_deref()))
        }
    }
}

fn rows(events: &[EventView]) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Events" {
            table {
                thead { tr {
                    th scope="col" { "Happened" } th scope="col" { "Event" }
                    th scope="col" { "Project" } th scope="col" { "Because" }
                    th scope="col" { "Deliveries" } th scope="col" { "Id" }
                } }
                tbody {
                    @for event in events {
                        tr {
                            td { (time(event.occurred_at)) }
                            td { (event.label) }
                            td { (event.place()) }
                            td.text { (event.because) }
                            td { (event.deliveries) }
                            td { (event_link(&event.id)) }
                        }
                    }
                }
            }
        }
    }
}

pub(super) async fn one(
    State(server): State<Arc<Server>>,
    Named(id): Named,
) -> Result<Page, Failure> {
    let Json(found) = reads::event(State(server), Named(id)).await?;
    let event = &found.event;
    let title = format!("{} of {}", event.label, event.place());
    let content = html! { div #event data-live { (in_full(&found)) } };
    Ok(page(Section::Events, &title, &content))
}

/// Shows an event, why it was inferred, and its deliveries.
fn in_full(found: &EventWithDeliveries) -> Markup {
    let event = &found.event;
    let payload = format!("/events/{}/payload", segment(&event.id));
    let download = format!("/events/{}/project.xml", segment(&event.id));
    html! {
        (pairs(&[
            ("Id", html! { (event.id) }),
            ("Happened", time(event.occurred_at)),
            ("Recorded", time(event.recorded_at)),
            ("Origin", html! { (event.origin) }),
        ]))
        h2 { "Why" }
        (pairs(&[
            ("Because", html! { (event.because) }),
            ("Hint", html! { (event.hint) }),
            ("Before", file(event.before.as_ref())),
            ("After", file(event.after.as_ref())),
            ("Who", who(event.actor.as_ref())),
            ("Username from", or_none(event.username_from.as_deref())),
        ]))
        h2 { "Parameters" }
        (parameters(event))
        p { a href=(payload) { "Payload with line numbers" } " · "
            a href=(download) download="project.xml" { "Download" } }
        h2 { "Webhooks" }
        (webhooks(found))
    }
}

fn file(file: Option<&FileSummary>) -> Markup {
    html! {
        @match file {
            None => "nothing",
            Some(file) => {
                code { (file.path) } ", " (ByteSize(file.size)) ", modified " (time(file.modified))
                ", " code title=(file.hash) { (file.hash.get(..16).unwrap_or(&file.hash)) }
            }
        }
    }
}

fn who(actor: Option<&Actor>) -> Markup {
    html! {
        @match actor {
            None => (or_none(None)),
            Some(actor) => {
                (actor.user) " (uid " (actor.uid) ", " (actor.account.as_str()) " user), "
                code { (actor.program) } ", process " (actor.pid)
            }
        }
    }
}

fn parameters(event: &EventView) -> Markup {
    let values = event.parameters.as_object();
    let values = values.into_iter().flatten();
    html! {
        dl {
            @for (name, value) in values {
                div { dt { (name) } dd { (value.as_str().unwrap_or_default()) } }
            }
        }
    }
}

/// Shows each webhook with its delivery, or with the reason why it has none.
fn webhooks(found: &EventWithDeliveries) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Webhooks of the event" {
            table {
                thead { tr {
                    th scope="col" { "Webhook" } th scope="col" { "Delivery" }
                    th scope="col" { "Result" }
                } }
                tbody {
                    @for one in &found.log {
                        tr {
                            td { (one.delivery.webhook) }
                            td { a href={ "/deliveries/" (one.delivery.id) } { (one.delivery.id) } }
                            td.text {
                                (state(one.delivery.state)) " "
                                @if let Some(error) = &one.delivery.last_error { (error) }
                            }
                        }
                    }
                    @for webhook in &found.passed_over {
                        tr {
                            td { (webhook.webhook) }
                            td { (or_none(None)) }
                            td.text { (webhook.because) }
                        }
                    }
                }
            }
        }
    }
}
