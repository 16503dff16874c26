//! Prints webhooks and their queues as a table with notes.

use std::io::{self, Write};

use jiff::Timestamp;

use super::output::{
    Cell, FAINT, GREEN, RED, Style, Table, YELLOW, between, counted, duration, safe, time,
};
use crate::report::{Standing, WebhookReport};

pub(super) fn print_webhooks(
    webhooks: &[WebhookReport],
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    if webhooks.is_empty() {
        return writeln!(out, "No webhooks are configured.");
    }
    let mut table = Table::new([
        "webhook",
        "state",
        "pending",
        "oldest",
        "dead",
        "delivered",
        "next attempt",
    ]);
    for webhook in webhooks {
        let dead = webhook.dead.to_string();
        let color = match webhook.standing {
            Standing::On => GREEN,
            Standing::Off => RED,
            Standing::Disabled | Standing::Parked => YELLOW,
        };
        table.row([
            webhook.name.as_str().into(),
            Cell::painted(color, webhook.standing.as_str()),
            webhook.pending.to_string().into(),
            webhook
                .oldest_pending
                .map_or_else(String::new, |at| duration(between(at, now)))
                .into(),
            if webhook.dead > 0 {
                Cell::painted(RED, dead)
            } else {
                dead.into()
            },
            webhook.delivered.to_string().into(),
            webhook
                .next_attempt
                .map_or_else(String::new, |at| {
                    if at <= now {
                        "now".to_owned()
                    } else {
                        format!("in {}", duration(between(now, at)))
                    }
                })
                .into(),
        ]);
    }
    table.print(out, style, "")?;
    for webhook in webhooks {
        print_notes(webhook, style, out)?;
    }
    Ok(())
}

/// Prints that the configuration file differs from the daemon's settings.
pub(super) fn print_file_changed(out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "The daemon uses the settings above. The configuration file has changed since the daemon read \
         it; to apply the file, run `project-webhooks reload`."
    )
}

/// Prints the details that have no column in the table.
fn print_notes(webhook: &WebhookReport, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    let name = safe(&webhook.name);
    if let Some(off) = &webhook.off {
        let hint = match off.cause {
            "gone" => "to switch it on, change its configuration or run `webhooks enable`",
            _ => "to switch it on, run `webhooks enable`",
        };
        let (state, since) = (style.paint(RED, "off"), time(off.since, style));
        let reason = safe(&off.reason);
        writeln!(out, "  {name}: {state} since {since}: {reason}; {hint}")?;
    }
    if webhook.standing == Standing::Parked && webhook.pending > 0 {
        let n = counted(webhook.pending, "pending delivery");
        writeln!(
            out,
            "  {name}: no longer configured; {n} parked until you configure it again or cancel them"
        )?;
    }
    if let Some(error) = &webhook.last_error {
        let is_old = webhook.last_delivered.is_some_and(|at| at > error.at);
        let (at, text) = (time(error.at, style), safe(&error.error));
        let mut line = format!("last error {at}: {text}");
        if is_old {
            line = style.paint(FAINT, &format!("{line} (delivered since)"));
        }
        writeln!(out, "  {name}: {line}")?;
    }
    Ok(())
}
