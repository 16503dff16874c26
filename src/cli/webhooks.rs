//! `webhooks`: lists webhooks, and enables, disables or tests one.

use std::io::Write;

use anyhow::{Context, anyhow};
use jiff::Timestamp;

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
use crate::domain::event::EventKind;
use crate::operator::change;
use crate::operator::test::TestRequest;
use crate::operator::view::WebhookView;
use crate::report::{Settings, WebhookReport};
use crate::store::Operations;
use crate::webhook::Attempt;

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
    /// List the configured webhooks, and removed ones that still have deliveries
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
            default_value = change::SWITCHED_OFF
        )]
        reason: String,
    },
    /// Send one `test` event, signed if the webhook has a secret, and print request and answer;
    /// needs no daemon
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
    /// Whether the command sends a request, and so needs the secrets.
    pub(super) fn sends(&self) -> bool {
        matches!(self.command, Some(WebhooksCommand::Test { .. }))
    }
}

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

/// Lists the webhooks of the running daemon, or those of the file if no daemon answers.
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
    print_json(out, &WebhookView::all(settings, states))?;
    Ok(DONE)
}

/// Finds the configured webhook with this name.
pub(super) fn configured<'a>(name: &str, config: &'a Config) -> anyhow::Result<&'a Webhook> {
    change::configured(name, config).map_err(|error| anyhow!(safe(&error.to_string())))
}

fn enable(name: &str, config: &Config, out: &mut dyn Write) -> anyhow::Result<u8> {
    let webhook = configured(name, config)?;
    let was_off = Operations::of(config)?.switch_on(name)?;
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
            "The configuration still has enabled: false, so nothing is sent to {name}; change this \
             setting and reload."
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
    let was_on = Operations::of(config)?.switch_off(name, reason, now)?;
    let notified = wake(config);
    let name = safe(name);
    if was_on {
        writeln!(
            out,
            "{name} is off, and its deliveries wait until you run `webhooks enable`; {}.",
            notified.words()
        )?;
    } else {
        writeln!(out, "{name} was already off.")?;
    }
    Ok(DONE)
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
    let request = TestRequest::prepare(webhook, &config.network)?;
    let runtime = runtime().context("cannot start the runtime")?;
    let attempt = runtime.block_on(request.send(event, now));
    // A busy receiver or a name lookup that hangs must not delay the end of the command.
    runtime.shutdown_background();
    let delivered = attempt.outcome == Outcome::Accepted;
    if json {
        print_json(out, &request.exchange(attempt))?;
    } else {
        print_exchange(webhook, &attempt, delivered, style, out)?;
        print_differences(webhook, event, out)?;
    }
    Ok(if delivered { DONE } else { FAILED })
}

/// Prints notes if the daemon would not send such a request to the webhook.
fn print_differences(
    webhook: &Webhook,
    event: Option<EventKind>,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let name = safe(webhook.name());
    if !webhook.enabled {
        writeln!(
            out,
            "note: {name} has enabled: false, so it gets only tests"
        )?;
    }
    match event {
        Some(event) if !webhook.subscription.events.contains(&event) => writeln!(
            out,
            "note: {name} does not subscribe to {}, so it gets only samples of this event",
            event.label()
        ),
        None => writeln!(
            out,
            "note: `test` is not an event of a project; --event EVENT sends a sample of such an event"
        ),
        Some(_) => Ok(()),
    }
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
