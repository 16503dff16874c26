//! Formats events, deliveries and attempts as text.

use std::io::{self, Write};

use jiff::Timestamp;

use super::output::{Cell, FAINT, GREEN, RED, Style, YELLOW, counted, duration, safe, time};
use crate::domain::actor::Actor;
use crate::domain::delivery::State;
use crate::domain::event::{Event, FileSummary};
use crate::store::{AttemptLog, ListedDelivery};

/// The number of digits of an event id in listings. `events show` accepts these short ids.
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

/// Prints names and values, with the values in one column.
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

/// Describes the state of a delivery. If it is pending, adds the time of the next attempt.
pub(super) fn standing(delivery: &ListedDelivery, style: &Style) -> Cell {
    let text = match delivery.state {
        State::Pending => format!("pending, next {}", time(delivery.due, style)),
        state => state.as_str().to_owned(),
    };
    Cell::painted(state_color(delivery.state), text)
}

/// Prints an event, why it was inferred, and its parameters.
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

/// Prints a delivery with its attempts. `in_full` adds request headers and answers.
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
    if let Some(first) = attempts.first().filter(|first| first.number > 1) {
        let n_older = u64::from(first.number.saturating_sub(1));
        writeln!(out, "  {} not listed", counted(n_older, "older attempt"))?;
    }
    for attempt in attempts {
        print_attempt(out, style, attempt, in_full)?;
    }
    if attempts.is_empty() {
        let none = match delivery.state {
            State::Pending => "no attempt yet",
            _ => "no attempts",
        };
        writeln!(out, "  {none}")?;
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

/// Prints the body of an answer. Each line starts with `indent`.
pub(super) fn print_answer(out: &mut dyn Write, indent: &str, answer: &[u8]) -> io::Result<()> {
    for line in String::from_utf8_lossy(answer).lines() {
        writeln!(out, "{indent}{}", safe(line))?;
    }
    Ok(())
}
