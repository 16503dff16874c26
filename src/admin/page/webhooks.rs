//! The webhooks, with their queues and switches.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::parts::{button, number, or_none, pairs, segment, state, time, time_or_none};
use super::shell::{Failure, Page, Section, page};
use crate::admin::reads::{self, Counts};
use crate::admin::routes::Server;
use crate::operator::view::WebhookView;
use crate::report::{SHOWN_MAX, Standing};

pub(super) async fn view(State(server): State<Arc<Server>>) -> Result<Page, Failure> {
    let webhooks = reads::all_webhooks(&server, Counts::UpTo(SHOWN_MAX)).await?;
    Ok(page(Section::Webhooks, "Webhooks", &all(&webhooks)))
}

pub(super) fn all(webhooks: &[WebhookView]) -> Markup {
    html! {
        div #webhooks data-live {
            @if webhooks.is_empty() {
                p { "No webhook is configured." }
            }
            @for webhook in webhooks {
                (one(webhook))
            }
        }
    }
}

fn one(webhook: &WebhookView) -> Markup {
    let report = &webhook.state;
    let name = &report.name;
    let listed = format!("/deliveries?webhook={}", segment(name));
    let mut facts = vec![
        (
            "Pending",
            html! { a href={ (listed) "&state=pending" } { (number(report.pending)) } },
        ),
        ("Oldest pending", time_or_none(report.oldest_pending)),
        ("Next attempt", time_or_none(report.next_attempt)),
        (
            "Delivered",
            html! { a href={ (listed) "&state=delivered" } { (number(report.delivered)) } },
        ),
        ("Last delivered", time_or_none(report.last_delivered)),
        (
            "Dead",
            html! { a href={ (listed) "&state=dead" } { (number(report.dead)) } },
        ),
        (
            "Cancelled",
            html! { a href={ (listed) "&state=cancelled" } { (number(report.cancelled)) } },
        ),
    ];
    if let Some(url) = &webhook.url {
        let projects = webhook.projects.as_ref();
        let projects = projects.map_or_else(|| "all".to_owned(), |globs| globs.join(", "));
        facts.extend([
            ("URL", html! { (url) }),
            ("Format", or_none(webhook.format.as_deref())),
            ("Events", html! { (webhook.events.join(", ")) }),
            ("Projects", html! { (projects) }),
        ]);
    }
    html! {
        section.card aria-label={ "Webhook " (name) } {
            h2 { (name) " " (state(report.standing.as_str())) }
            @if let Some(off) = &report.off {
                p.bad { "Off since " (time(off.since)) ": " (off.reason) }
            }
            @if let Some(error) = &report.last_error {
                p { strong { "Last error" } " " (time(error.at)) ": " span.text { (error.error) } }
            }
            (pairs(&facts))
            (switches(name, report.standing))
        }
    }
}

fn switches(name: &str, standing: Standing) -> Markup {
    let to = |action: &str| format!("/webhooks/{}/{action}", segment(name));
    html! {
        @match standing {
            Standing::Parked => p {
                "This webhook is not in the configuration. Its deliveries wait until it is configured again."
            },
            Standing::Disabled => {
                p { "The configuration has " code { "enabled: false" } " for this webhook." }
                div.actions { (button(&to("test"), "Send a test", name)) }
            },
            Standing::On => div.actions {
                (button(&to("test"), "Send a test", name))
                (button(&to("disable"), "Switch off", name))
            },
            Standing::Off => div.actions {
                (button(&to("test"), "Send a test", name))
                (button(&to("enable"), "Switch on", name))
            },
        }
    }
}
