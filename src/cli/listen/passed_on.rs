//! Prints the answers to callbacks that were passed on.

use std::io::{self, Write};

use serde::Serialize;

use super::print::{Style, safe, safe_json};
use crate::cli::output::{GREEN, RED, duration};
use crate::cli::view::print_answer;
use crate::receiver::PassedOn;

/// The maximum number of printed bytes of an answer: as many as the daemon keeps of an answer.
const SHOWN_MAX: usize = 16 * 1024;

/// Prints an answer as text.
pub(super) fn print_passed_on(
    out: &mut impl Write,
    report: &PassedOn,
    target: &str,
    style: &Style,
) -> io::Result<()> {
    let time = report.at.to_zoned_datetime(style.zone.clone());
    let attempt = report.attempt;
    let attempt = attempt.map_or_else(String::new, |attempt| format!(", attempt {attempt}"));
    let id = match report.id.as_str() {
        "" => "the request".to_owned(),
        id => safe(id),
    };
    let about = format!("{id}{attempt}");
    write!(out, "{}  ", time.strftime("%H:%M:%S%.3f"))?;
    let Some(answer) = &report.answer else {
        let text = "the sender gave up before the answer";
        return writeln!(out, "{} to {about}\n", style.paint(RED, text));
    };
    let code = if answer.status.is_success() {
        GREEN
    } else {
        RED
    };
    let status = style.paint(code, answer.status.as_str());
    let (target, duration) = (safe(target), duration(answer.duration));
    writeln!(
        out,
        "{status} to {about}, passed on to {target}, after {duration}"
    )?;
    if let Some(error) = &answer.error {
        writeln!(out, "  problem  {}", style.paint(RED, &safe(error)))?;
    } else {
        let shown = answer.body.get(..SHOWN_MAX).unwrap_or(&answer.body);
        print_answer(out, "  < ", shown)?;
    }
    writeln!(out)
}

/// An answer in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    at: String,
    /// The id of the event in the answered callback.
    answer_to: &'a str,
    attempt: Option<u32>,
    forwarded_to: &'a str,
    /// The status that the sender got. `None` if the sender gave up before the answer.
    status: Option<u16>,
    duration_ms: Option<u128>,
    error: Option<&'a str>,
    answer: String,
}

/// Prints an answer as one line of JSON.
pub(super) fn print_passed_on_json(
    out: &mut impl Write,
    report: &PassedOn,
    target: &str,
) -> io::Result<()> {
    let answer = report.answer.as_ref();
    let body = answer.map_or(&[][..], |answer| &answer.body);
    let error = answer.map_or(Some("the sender gave up before the answer"), |answer| {
        answer.error.as_deref()
    });
    let line = serde_json::to_string(&Line {
        at: report.at.to_string(),
        answer_to: &report.id,
        attempt: report.attempt,
        forwarded_to: target,
        status: answer.map(|answer| answer.status.as_u16()),
        duration_ms: answer.map(|answer| answer.duration.as_millis()),
        error,
        answer: String::from_utf8_lossy(body.get(..SHOWN_MAX).unwrap_or(body)).into_owned(),
    })?;
    writeln!(out, "{}", safe_json(&line))
}
