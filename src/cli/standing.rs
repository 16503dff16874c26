//! Where each webhook stands: its queue, and whether it takes part.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

use super::output::{
    Cell, FAINT, GREEN, RED, Style, Table, YELLOW, between, counted, duration, safe, time,
};
use crate::config::Config;
use crate::store::{Listings, WebhookState};

/// Whether a webhook takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It does.
    On,
    /// It was switched off, by its receiver or by an operator.
    Off,
    /// The configuration says `enabled: false`.
    Disabled,
    /// It is not in the configuration; what waits for it is kept.
    Parked,
}

impl Standing {
    const fn as_str(self) -> &'static str {
        match self {
            Standing::On => "on",
            Standing::Off => "off",
            Standing::Disabled => "disabled",
            Standing::Parked => "parked",
        }
    }

    pub fn cell(self) -> Cell {
        let code = match self {
            Standing::On => GREEN,
            Standing::Off => RED,
            Standing::Disabled | Standing::Parked => YELLOW,
        };
        Cell::painted(code, self.as_str())
    }
}

/// A webhook, configured or parked.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookStanding {
    pub name: String,
    pub standing: Standing,
    pub off: Option<OffView>,
    pub pending: u64,
    oldest_pending: Option<Timestamp>,
    next_attempt: Option<Timestamp>,
    pub dead: u64,
    pub delivered: u64,
    cancelled: u64,
    last_delivered: Option<Timestamp>,
    last_error: Option<ErrorView>,
}

#[derive(Serialize)]
pub struct OffView {
    cause: &'static str,
    reason: String,
    since: Timestamp,
}

#[derive(Serialize)]
struct ErrorView {
    at: Timestamp,
    error: String,
}

/// The webhooks of the configuration in its order, then those that are only in the record.
pub fn webhooks(
    config: &Config,
    listings: Option<&Listings>,
) -> anyhow::Result<Vec<WebhookStanding>> {
    let states = listings.map_or(Ok(Vec::new()), Listings::webhook_states)?;
    let mut by_name: BTreeMap<String, WebhookState> = states
        .into_iter()
        .map(|state| (state.name.clone(), state))
        .collect();
    let mut views = Vec::new();
    for webhook in &config.webhooks {
        let state = by_name.remove(webhook.name());
        let standing = match &state {
            _ if !webhook.enabled => Standing::Disabled,
            Some(state) if state.off.is_some() => Standing::Off,
            _ => Standing::On,
        };
        views.push(WebhookStanding::of(webhook.name(), standing, state));
    }
    for (name, state) in by_name {
        let n_kept = [
            state.n_pending,
            state.n_dead,
            state.n_delivered,
            state.n_cancelled,
        ];
        // Of one that was removed long ago nothing is left to know.
        if n_kept.iter().any(|n| *n > 0) {
            views.push(WebhookStanding::of(&name, Standing::Parked, Some(state)));
        }
    }
    Ok(views)
}

impl WebhookStanding {
    fn of(name: &str, standing: Standing, state: Option<WebhookState>) -> Self {
        let state = state.unwrap_or_else(|| WebhookState {
            name: name.to_owned(),
            off: None,
            n_pending: 0,
            n_delivered: 0,
            n_dead: 0,
            n_cancelled: 0,
            oldest_pending: None,
            next_attempt: None,
            last_error: None,
            last_delivered: None,
        });
        Self {
            name: name.to_owned(),
            standing,
            off: state.off.map(|off| OffView {
                cause: off.cause.as_str(),
                reason: off.reason,
                since: off.at,
            }),
            pending: state.n_pending,
            oldest_pending: state.oldest_pending,
            // What is off, disabled or parked waits for an operator.
            next_attempt: state.next_attempt.filter(|_| standing == Standing::On),
            dead: state.n_dead,
            delivered: state.n_delivered,
            cancelled: state.n_cancelled,
            last_delivered: state.last_delivered,
            last_error: state.last_error.map(|(at, error)| ErrorView { at, error }),
        }
    }

    /// What a table has no room for.
    pub fn print_notes(&self, out: &mut dyn Write, style: &Style) -> io::Result<()> {
        let name = safe(&self.name);
        if let Some(off) = &self.off {
            let hint = match off.cause {
                "gone" => "changing its configuration or `webhooks enable` switches it on",
                _ => "`webhooks enable` switches it on",
            };
            writeln!(
                out,
                "  {name}: {} since {}: {}; {hint}",
                style.paint(RED, "off"),
                time(off.since, style),
                safe(&off.reason)
            )?;
        }
        if self.standing == Standing::Parked && self.pending > 0 {
            writeln!(
                out,
                "  {name}: not in the configuration any more; {} until it is back, or cancelled",
                counted_waits(self.pending)
            )?;
        }
        if let Some(error) = &self.last_error {
            let is_old = self.last_delivered.is_some_and(|at| at > error.at);
            let line = format!(
                "last error {}: {}",
                time(error.at, style),
                safe(&error.error)
            );
            let line = if is_old {
                style.paint(FAINT, &format!("{line} (delivered since)"))
            } else {
                line
            };
            writeln!(out, "  {name}: {line}")?;
        }
        Ok(())
    }
}

fn counted_waits(n: u64) -> String {
    let verb = if n == 1 { "waits" } else { "wait" };
    format!("{} {verb}", counted(n, "delivery"))
}

/// Prints webhooks as a table, and below it what it has no room for.
pub fn print_webhooks(
    webhooks: &[WebhookStanding],
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> io::Result<()> {
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
        table.row([
            webhook.name.as_str().into(),
            webhook.standing.cell(),
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
        webhook.print_notes(out, style)?;
    }
    Ok(())
}
