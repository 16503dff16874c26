//! Formats events, deliveries and attempts as text and as JSON.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

use super::listen::print::Pairs;
use super::output::{Cell, FAINT, GREEN, RED, Style, YELLOW, duration, safe, time};
use crate::domain::actor::Actor;
use crate::domain::delivery::State;
use crate::domain::event::{Event, FileSummary, Parameter};
use crate::store::{AttemptLog, ListedDelivery, ListedEvent};

/// The number of digits of an event id in listings. Commands accept such a shortened id.
const ID_DIGITS: usize = 12;

/// Shortens an event id for listings.
pub(super) fn short_id(id: &str) -> String {
    id.chars().take("evt_".len() + ID_DIGITS).collect()
}

pub(super) const fn state_color(state: State) -> &'static str {
    match state {
        State::Pending => YELLOW,
        State::Delivered => GREEN,
        State::Dead => RED,
        State::Cancelled => FAINT,
    }
}

/// An event in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventView {
    id: String,
    event: &'static str,
    label: &'static str,
    organization: String,
    project: String,
    origin: &'static str,
    occurred_at: Timestamp,
    recorded_at: Timestamp,
    deliveries: u64,
    because: String,
    hint: String,
    before: Option<FileSummary>,
    after: Option<FileSummary>,
    /// The source of the username, if the kernel's audit records are a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    username_from: Option<String>,
    /// The user who made the change, if the kernel recorded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<Actor>,
    parameters: serde_json::Value,
    payload: String,
}

impl EventView {
    pub(super) fn of(listed: &ListedEvent) -> Self {
        let event = &listed.event;
        Self {
            id: event.id.0.clone(),
            event: event.kind.as_str(),
            label: event.kind.label(),
            organization: event.key.organization.clone(),
            project: event.key.project.clone(),
            origin: event.origin.as_str(),
            occurred_at: event.occurred_at,
            recorded_at: listed.recorded_at,
            deliveries: listed.n_deliveries,
            because: event.explanation.because.clone(),
            hint: event.explanation.hint.clone(),
            before: event.explanation.before.clone(),
            after: event.explanation.after.clone(),
            username_from: event.explanation.username_from.clone(),
            actor: event.explanation.actor.clone(),
            parameters: parameters(&event.parameters),
            payload: event.payload.to_string(),
        }
    }
}

/// Parameters as a JSON object, in their documented order.
pub(super) fn parameters(parameters: &[(Parameter, String)]) -> serde_json::Value {
    let pairs: Vec<(String, String)> = parameters
        .iter()
        .map(|(parameter, value)| (parameter.as_str().to_owned(), value.clone()))
        .collect();
    serde_json::to_value(Pairs(&pairs)).unwrap_or_default()
}

/// A delivery in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeliveryView {
    id: i64,
    webhook: String,
    event_id: String,
    event: &'static str,
    label: &'static str,
    organization: String,
    project: String,
    state: &'static str,
    origin: &'static str,
    attempts: u32,
    created_at: Timestamp,
    /// The time of the next attempt, if the delivery is pending.
    next_attempt: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    last_status: Option<u16>,
    last_error: Option<String>,
}

impl DeliveryView {
    pub(super) fn of(delivery: &ListedDelivery) -> Self {
        Self {
            id: delivery.id,
            webhook: delivery.webhook.clone(),
            event_id: delivery.event.0.clone(),
            event: delivery.kind.as_str(),
            label: delivery.kind.label(),
            organization: delivery.key.organization.clone(),
            project: delivery.key.project.clone(),
            state: delivery.state.as_str(),
            origin: delivery.origin.as_str(),
            attempts: delivery.n_attempts,
            created_at: delivery.created_at,
            next_attempt: (delivery.state == State::Pending).then_some(delivery.due),
            finished_at: delivery.finished_at,
            last_status: delivery.last_status,
            last_error: delivery.last_error.clone(),
        }
    }
}

/// An attempt in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttemptView {
    number: u32,
    at: Timestamp,
    duration_ms: u128,
    status: Option<u16>,
    error: Option<String>,
    request_headers: Vec<(String, String)>,
    /// The first bytes of the answer's body. Invalid UTF-8 is replaced.
    answer: String,
}

impl AttemptView {
    pub(super) fn of(attempt: &AttemptLog) -> Self {
        Self {
            number: attempt.number,
            at: attempt.at,
            duration_ms: attempt.duration.as_millis(),
            status: attempt.status,
            error: attempt.error.clone(),
            request_headers: attempt.request_headers.clone(),
            answer: String::from_utf8_lossy(&attempt.answer).into_owned(),
        }
    }
}

/// A delivery with its attempts in JSON.
#[derive(Serialize)]
pub(super) struct DeliveryWithAttempts {
    #[serde(flatten)]
    delivery: DeliveryView,
    log: Vec<AttemptView>,
}

impl DeliveryWithAttempts {
    pub(super) fn of(delivery: &ListedDelivery, attempts: &[AttemptLog]) -> Self {
        Self {
            delivery: DeliveryView::of(delivery),
            log: attempts.iter().map(AttemptView::of).collect(),
        }
    }
}

/// Prints names and values, with the values in one column.
///
/// # Errors
///
/// `out` cannot be written.
pub(super) fn print_pairs(
    out: &mut dyn Write,
    style: &Style,
    indent: &str,
    pairs: &[(&str, String)],
) -> io::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in pairs {
        let name = style.paint(FAINT, &format!("{name:width$}"));
        writeln!(out, "{indent}{name}  {}", safe(value))?;
    }
    Ok(())
}

/// Formats a path with line and column, as compilers do: `path:line:column`.
pub(super) fn location(path: &str, line: Option<u64>, column: Option<u64>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!("{path}:{line}:{column}"),
        (Some(line), None) => format!("{path}:{line}"),
        _ => path.to_owned(),
    }
}

/// The state of a delivery. A pending one includes the time of its next attempt.
pub(super) fn standing(delivery: &ListedDelivery, style: &Style) -> Cell {
    let text = match delivery.state {
        State::Pending => format!("pending, next {}", time(delivery.due, style)),
        state => state.as_str().to_owned(),
    };
    Cell::painted(state_color(delivery.state), text)
}

/// Prints an event, why it was inferred, and its parameters.
///
/// # Errors
///
/// `out` cannot be written.
pub(super) fn print_event(
    out: &mut dyn Write,
    style: &Style,
    event: &Event,
    recorded_at: Option<Timestamp>,
) -> io::Result<()> {
    let label = style.paint(super::output::BOLD, event.kind.label());
    writeln!(out, "{label} of {}\n", safe(&event.key.to_string()))?;
    let explanation = &event.explanation;
    let mut pairs = vec![
        ("id", event.id.0.clone()),
        ("happened", time(event.occurred_at, style)),
    ];
    pairs.extend(recorded_at.map(|at| ("recorded", time(at, style))));
    pairs.push(("origin", event.origin.as_str().to_owned()));
    pairs.push(("because", explanation.because.clone()));
    pairs.push(("hint", explanation.hint.clone()));
    pairs.push(("before", brief(explanation.before.as_ref(), style)));
    pairs.push(("after", brief(explanation.after.as_ref(), style)));
    if let Some(source) = &explanation.username_from {
        pairs.push(("username from", source.clone()));
    }
    pairs.extend(
        explanation
            .actor
            .as_ref()
            .map(|actor| ("actor", brief_actor(actor))),
    );
    print_pairs(out, style, "", &pairs)?;
    writeln!(out, "\nparameters")?;
    let mut pairs: Vec<(&str, String)> = event
        .parameters
        .iter()
        .map(|(parameter, value)| (parameter.as_str(), value.clone()))
        .collect();
    pairs.push(("payload", event.payload.to_string()));
    print_pairs(out, style, "  ", &pairs)
}

fn brief_actor(actor: &Actor) -> String {
    let Actor {
        user,
        uid,
        program,
        pid,
        ..
    } = actor;
    let key = actor.key.as_ref().map(|key| format!(", audit key {key}"));
    format!(
        "{user} (uid {uid}, {} user), {program}, process {pid}{}",
        actor.account.as_str(),
        key.unwrap_or_default()
    )
}

fn brief(file: Option<&FileSummary>, style: &Style) -> String {
    file.map_or_else(
        || "nothing".to_owned(),
        |file| {
            format!(
                "{}, {}, modified {}, {}",
                file.path,
                bytesize::ByteSize::b(file.size),
                time(file.modified, style),
                file.hash.get(..16).unwrap_or(&file.hash)
            )
        },
    )
}

/// Prints a delivery with its attempts.
///
/// # Errors
///
/// `out` cannot be written.
pub(super) fn print_delivery(
    out: &mut dyn Write,
    style: &Style,
    delivery: &ListedDelivery,
    attempts: &[AttemptLog],
    in_full: bool,
) -> io::Result<()> {
    let state = style.paint(state_color(delivery.state), delivery.state.as_str());
    let mut line = format!(
        "delivery {} to {}: {state}",
        delivery.id,
        safe(&delivery.webhook)
    );
    match (delivery.state, delivery.finished_at) {
        (State::Pending, _) => {
            line.push_str(&format!(", next attempt {}", time(delivery.due, style)));
        }
        (_, Some(at)) => line.push_str(&format!(" {}", time(at, style))),
        (_, None) => {}
    }
    writeln!(out, "{line}")?;
    for attempt in attempts {
        print_attempt(out, style, attempt, in_full)?;
    }
    if attempts.is_empty() {
        writeln!(out, "  no attempt yet")?;
    }
    Ok(())
}

fn print_attempt(
    out: &mut dyn Write,
    style: &Style,
    attempt: &AttemptLog,
    in_full: bool,
) -> io::Result<()> {
    let status = attempt
        .status
        .map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let failed = attempt.error.as_deref().map(safe);
    let code = if failed.is_some() { RED } else { GREEN };
    writeln!(
        out,
        "  attempt {}  {}  {}  after {}{}",
        attempt.number,
        time(attempt.at, style),
        style.paint(code, &status),
        duration(attempt.duration),
        failed.map_or_else(String::new, |error| format!("  {error}"))
    )?;
    if in_full {
        for (name, value) in &attempt.request_headers {
            let line = format!("> {}: {}", safe(name), safe(value));
            writeln!(out, "    {}", style.paint(FAINT, &line))?;
        }
        print_answer(out, "    < ", &attempt.answer)?;
    }
    Ok(())
}

/// Prints an answer's body, line by line.
///
/// # Errors
///
/// `out` cannot be written.
pub(super) fn print_answer(out: &mut dyn Write, indent: &str, answer: &[u8]) -> io::Result<()> {
    for line in String::from_utf8_lossy(answer).lines() {
        writeln!(out, "{indent}{}", safe(line))?;
    }
    Ok(())
}
