//! The elements that several views share: times, states, links, headers and buttons.

use jiff::Timestamp;
use maud::{Markup, Render, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::report::SHOWN_MAX;

/// The number of characters of an event id in tables.
const SHORT_ID: usize = 16;

/// Shows a time in UTC. The page's script converts it to local time.
pub(super) fn time(at: Timestamp) -> Markup {
    let utc = at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    html! { time datetime=(at) title=(utc) { (utc) } }
}

/// Shows a time that may be missing.
pub(super) fn time_or_none(at: Option<Timestamp>) -> Markup {
    html! {
        @match at {
            Some(at) => (time(at)),
            None => span.faint { "–" },
        }
    }
}

/// Shows a text that may be missing.
pub(super) fn or_none(text: Option<&str>) -> Markup {
    html! {
        @match text {
            Some(text) => (text),
            None => span.faint { "–" },
        }
    }
}

/// Encodes a text as a segment of a URL's path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Shows the state of a delivery or a webhook as a coloured word.
pub(super) fn state(word: &str) -> Markup {
    let class = match word {
        "delivered" | "on" => "state good",
        "pending" => "state wait",
        "dead" | "off" => "state bad",
        _ => "state faint",
    };
    html! { span class=(class) { (word) } }
}

pub(super) fn event_link(id: &str) -> Markup {
    let short: String = id.chars().take(SHORT_ID).collect();
    html! { a href={ "/events/" (segment(id)) } title=(id) { (short) } }
}

/// Makes a button that sends a form. `about` names the item for screen readers.
pub(super) fn button(action: &str, label: &str, about: &str) -> Markup {
    html! {
        form.act method="post" action=(action) {
            button type="submit" { (label) span.hidden { " " (about) } }
        }
    }
}

/// Shows a list of names with their values.
pub(super) fn pairs(pairs: &[(impl Render, Markup)]) -> Markup {
    html! {
        dl {
            @for (name, value) in pairs {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

pub(super) fn headers(headers: &[(String, String)]) -> Markup {
    html! {
        dl.headers {
            @for (name, value) in headers {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

/// Formats a number with its noun.
pub(super) fn counted(n: u64, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

pub(super) fn deliveries(n: u64) -> String {
    match n {
        1 => "1 delivery".to_owned(),
        n => format!("{n} deliveries"),
    }
}

/// Formats a number of deliveries that were counted only up to [`SHOWN_MAX`].
pub(super) fn number(n: u64) -> String {
    if n > SHOWN_MAX {
        "more than 10,000".to_owned()
    } else {
        n.to_string()
    }
}

pub(super) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{seconds}.{} s", milliseconds % 1_000 / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Makes the link to the next page of a listing, if there is one.
pub(super) fn next_page(path: &str, query: &[(&str, &str)], next: Option<&str>) -> Markup {
    html! {
        @if let Some(next) = next {
            nav.pages aria-label="Pages" {
                a rel="next" href={ (path) "?" (self::query(query, &[("cursor", next)])) } {
                    "Older"
                }
            }
        }
    }
}

/// Makes the query of a URL. Empty values are left out.
pub(super) fn query(pairs: &[(&str, &str)], more: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let given = pairs
        .iter()
        .chain(more)
        .filter(|(_, value)| !value.is_empty());
    query.extend_pairs(given).finish()
}
