//! `webhooks`: lists webhooks, and enables, disables or tests one.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::arguments;
use super::deliveries::wake;
use super::output::{FAINT, GREEN, RED, Style, Table, duration, print_json, safe};
use super::standing;
use super::view::print_answer;
use super::{DONE, FAILED, recorded, runtime};
use crate::admin;
use crate::clock::Clock;
use crate::config::{Config, Webhook};
use crate::domain::delivery::Outcome;
use crate::domain::event::{EventId, EventKind, Origin};
use crate::report::{Settings, WebhookReport};
use crate::store::Operations;
use crate::webhook::{Attempt, Callback, CallbackContent, TrustRoots, WebhookClient};

/// The maximum number of names that an error lists.
const KNOWN_MAX: usize = 20;

/// Lists webhooks, and enables, disables or tests one.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct WebhooksArguments {
    #[command(subcommand)]
    command: Option<WebhooksCommand>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum WebhooksCommand {
    /// List the configured webhooks, and those with parked deliveries
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Switch on a webhook that an operator or a 410 answer switched off
    Enable {
        /// The webhook's name
        name: String,
    },
    /// Switch off a webhook; its deliveries wait until it is on again
    Disable {
        /// The webhook's name
        name: String,
        /// The reason, shown by `status`
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "switched off by an operator"
        )]
        reason: String,
    },
    /// Send one signed `test` event and print request and answer; needs no daemon
    Test {
        /// The webhook's name
        name: String,
        /// Send a sample of this event instead, by name or label, with the origin `test`
        #[arg(long, value_name = "EVENT", value_parser = arguments::event())]
        event: Option<EventKind>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl WebhooksArguments {
    /// Whether the command sends a request and so needs the secrets.
    pub(super) fn sends(&self) -> bool {
        matches!(self.command, Some(WebhooksCommand::Test { .. }))
    }
}

/// Runs the command.
pub(super) fn run(
    arguments: &WebhooksArguments,
    config: &Config,
    clock: Clock,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let now = clock.now();
    match &arguments.command {
        None => list(arguments.json, config, now, style, out),
        Some(WebhooksCommand::List { json }) => list(*json, config, now, style, out),
        Some(WebhooksCommand::Enable { name }) => enable(name, config, out),
        Some(WebhooksCommand::Disable { name, reason }) => disable(name, reason, config, now, out),
        Some(WebhooksCommand::Test { name, event, json }) => {
            test(name, *event, *json, config, now, style, out)
        }
    }
}

/// A webhook in JSON.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    state: WebhookReport,
    url: Option<String>,
    format: Option<String>,
    events: Vec<String>,
    /// `None` if the webhook gets the events of every project.
    projects: Option<Vec<String>>,
    /// The globs of `when` by parameter. Absent if the values of parameters do not matter.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    when: BTreeMap<String, Vec<String>>,
}

/// Lists the webhooks that the running daemon has, or those of the file if no daemon answers.
fn list(
    json: bool,
    config: &Config,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let file = Settings::of(config);
    let daemon = admin::control::ask(&config.state_dir).unwrap_or_default();
    let settings = daemon.map_or_else(|| file.clone(), |daemon| daemon.settings);
    let listings = recorded(config)?;
    let states = WebhookReport::recorded(&settings, listings.as_ref())?;
    if !json {
        standing::print_webhooks(&states, now, style, out)?;
        let mut table = Table::new(["webhook", "url", "format", "events"]);
        for webhook in &settings.webhooks {
            table.row([
                webhook.name.as_str().into(),
                webhook.url.as_str().into(),
                webhook.format.as_str().into(),
                webhook.events.join(" ").into(),
            ]);
        }
        writeln!(out)?;
        table.print(out, style, "")?;
        if settings != file {
            standing::print_file_changed(out)?;
        }
        return Ok(DONE);
    }
    let mut configured: BTreeMap<String, _> = settings
        .webhooks
        .into_iter()
        .map(|webhook| (webhook.name.clone(), webhook))
        .collect();
    let listed: Vec<Listed> = states
        .into_iter()
        .map(|state| {
            let settings = configured.remove(&state.name);
            let (url, format) = settings
                .as_ref()
                .map(|webhook| (webhook.url.clone(), webhook.format.clone()))
                .unzip();
            let (events, projects, when) = settings
                .map(|webhook| (webhook.events, webhook.projects, webhook.when))
                .unwrap_or_default();
            Listed {
                state,
                url,
                format,
                events,
                projects,
                when,
            }
        })
        .collect();
    print_json(out, &listed)?;
    Ok(DONE)
}

/// Finds the configured webhook with this name.
pub(super) fn configured<'a>(name: &str, config: &'a Config) -> anyhow::Result<&'a Webhook> {
    let found = config
        .webhooks
        .iter()
        .find(|webhook| webhook.name() == name);
    if let Some(webhook) = found {
        return Ok(webhook);
    }
    let known: Vec<&str> = config.webhooks.iter().map(Webhook::name).collect();
    Err(unknown(name, &known))
}

/// The error for a name that no webhook has, with the known names.
pub(super) fn unknown(name: &str, known: &[&str]) -> anyhow::Error {
    let distance = |known: &&&str| strsim::damerau_levenshtein(known, name);
    let near = known.iter().min_by_key(distance);
    let near = near.filter(|near| distance(near) <= 2);
    let near = near.map_or_else(String::new, |near| {
        format!("; did you mean {}?", safe(near))
    });
    let shown: Vec<String> = known
        .iter()
        .take(KNOWN_MAX)
        .map(|known| safe(known))
        .collect();
    let mut shown = shown.join(", ");
    if shown.is_empty() {
        shown.push_str("none");
    }
    if let Some(more) = known.len().checked_sub(KNOWN_MAX + 1) {
        shown.push_str(&format!(" and {} more", more + 1));
    }
    let separator = if near.is_empty() { ";" } else { "" };
    anyhow!(
        "there is no webhook {}{near}{separator} known: {shown}",
        safe(name)
    )
}

fn enable(name: &str, config: &Config, out: &mut dyn Write) -> anyhow::Result<u8> {
    let webhook = configured(name, config)?;
    let was_off = Operations::open(&config.state_dir)?.switch_on(name)?;
    let notified = wake(config);
    let name = safe(name);
    if was_off {
        writeln!(out, "{name} is on; {}.", notified.words())?;
    } else {
        writeln!(out, "{name} was already on.")?;
    }
    if !webhook.enabled {
        writeln!(
            out,
            "The configuration still has enabled: false for this webhook; change that and reload."
        )?;
    }
    Ok(DONE)
}

fn disable(
    name: &str,
    reason: &str,
    config: &Config,
    now: Timestamp,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    configured(name, config)?;
    let was_on = Operations::open(&config.state_dir)?.switch_off(name, reason, now)?;
    let notified = wake(config);
    let name = safe(name);
    if was_on {
        writeln!(
            out,
            "{name} is off until you run `webhooks enable`; {}. Its deliveries wait.",
            notified.words()
        )?;
    } else {
        writeln!(out, "{name} was already off.")?;
    }
    Ok(DONE)
}

/// A test request and its answer in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Exchange {
    webhook: String,
    url: String,
    format: &'static str,
    delivered: bool,
    status: Option<u16>,
    error: Option<String>,
    duration_ms: u128,
    request_headers: Vec<(String, String)>,
    answer: String,
}

fn test(
    name: &str,
    event: Option<EventKind>,
    json: bool,
    config: &Config,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let webhook = configured(name, config)?;
    let network = Arc::new(config.network.clone());
    let client = WebhookClient::new(webhook, &TrustRoots::load(), &network)?;
    let runtime = runtime().context("cannot start the runtime")?;
    // A unique id, because a receiver may drop a request whose id it has seen before.
    let id = EventId(format!("evt_{}", Uuid::new_v4().simple()));
    let callback = Callback {
        content: match event {
            Some(kind) => CallbackContent::sample(kind, id, now),
            None => CallbackContent::test(id, now),
        },
        attempt: 1,
        origin: Origin::Test,
    };
    let attempt = runtime.block_on(client.send(&callback, now));
    // A flood of the receiver, or a lookup of its name that hangs, does not hold up the end.
    runtime.shutdown_background();
    let delivered = attempt.outcome == Outcome::Accepted;
    if json {
        print_json(
            out,
            &Exchange {
                webhook: name.to_owned(),
                url: webhook.url.shown(),
                format: webhook.format.as_str(),
                delivered,
                status: attempt.status,
                duration_ms: attempt.duration.as_millis(),
                answer: String::from_utf8_lossy(&attempt.answer).into_owned(),
                error: attempt.error,
                request_headers: attempt.request_headers,
            },
        )?;
    } else {
        print_exchange(webhook, &attempt, delivered, style, out)?;
    }
    Ok(if delivered { DONE } else { FAILED })
}

fn print_exchange(
    webhook: &Webhook,
    attempt: &Attempt,
    delivered: bool,
    style: &Style,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    writeln!(out, "> POST {}", safe(&webhook.url.shown()))?;
    for (name, value) in &attempt.request_headers {
        let line = format!("> {}: {}", safe(name), safe(value));
        writeln!(out, "{}", style.paint(FAINT, &line))?;
    }
    if webhook.secrets.is_empty() {
        writeln!(out, "> (not signed: the webhook has no secret)")?;
    }
    writeln!(out)?;
    if let Some(status) = attempt.status {
        writeln!(out, "< {status}")?;
    }
    print_answer(out, "< ", &attempt.answer)?;
    let took = duration(attempt.duration);
    let verdict = if delivered {
        style.paint(GREEN, "delivered")
    } else {
        style.paint(RED, "failed")
    };
    let reason = attempt.error.as_deref().map(safe);
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    writeln!(out, "{verdict} after {took}{reason}")
}
