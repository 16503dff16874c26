//! `deliveries`: shows the queue and its log, and changes deliveries.
//!
//! Constraint: a change affects only selected deliveries. It needs a selector, shows the number of
//! matching deliveries first, and asks for confirmation on a terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;

use super::arguments::{self, Since, parse_since};
use super::output::{Cell, FAINT, Style, Table, counted, print_json, safe, time};
use super::view::{
    DeliveryView, DeliveryWithAttempts, print_delivery, print_event, short_id, standing,
};
use super::{DONE, FAILED, scan, usage};
use crate::admin;
use crate::config::Config;
use crate::domain::delivery::State;
use crate::store::{Operations, Selector};

/// Shows the queue and its log, and changes it.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DeliveriesArguments {
    #[command(subcommand)]
    command: Option<DeliveriesCommand>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum DeliveriesCommand {
    /// List deliveries, the newest last
    List(ListArguments),
    /// Show one delivery: its event, and every attempt with the answer
    Show {
        /// The delivery's id
        #[arg(value_parser = parse_id)]
        id: i64,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Send deliveries again, now and with a fresh schedule; without ids and a state, the dead ones
    Redeliver(ChangeArguments),
    /// Cancel pending deliveries
    Cancel(ChangeArguments),
    /// Remove deliveries that are not pending, with their log
    Purge(ChangeArguments),
}

#[derive(Clone, Debug, clap::Args)]
struct ListArguments {
    #[command(flatten)]
    which: Which,
    /// The number of deliveries to list, the last ones; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// The number of a delivery.
fn parse_id(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| {
        "a delivery's id is its number, the first column of `deliveries list`; an event's id \
         goes to `events show`"
            .to_owned()
    })
}

/// The selected deliveries: those that match all given options.
#[derive(Clone, Debug, clap::Args)]
struct Which {
    /// Only these deliveries
    #[arg(value_name = "ID", value_parser = parse_id)]
    ids: Vec<i64>,
    /// Only those of this webhook
    #[arg(long, value_name = "NAME")]
    webhook: Option<String>,
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = arguments::state())]
    state: Option<State>,
    /// Only those recorded since then: a duration (2h), a date or a time
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
}

#[derive(Clone, Debug, clap::Args)]
struct ChangeArguments {
    #[command(flatten)]
    which: Which,
    /// Print the number of matching deliveries and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Print one JSON object; does not ask
    #[arg(long)]
    json: bool,
}

impl Which {
    fn selector(&self, now: Timestamp) -> Selector {
        Selector {
            ids: self.ids.clone(),
            webhook: self.webhook.clone(),
            state: self.state,
            since: self.since.map(|since| since.time(now)),
        }
    }
}

/// Runs the command.
pub(super) fn run(
    arguments: &DeliveriesArguments,
    config: &Config,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let mut change = |kind, arguments| self::change(kind, arguments, config, now, out);
    match &arguments.command {
        None => list(&arguments.list, config, now, style, out),
        Some(DeliveriesCommand::List(list)) => self::list(list, config, now, style, out),
        Some(DeliveriesCommand::Show { id, json }) => show(*id, *json, config, style, out),
        Some(DeliveriesCommand::Redeliver(arguments)) => change(Kind::Redeliver, arguments),
        Some(DeliveriesCommand::Cancel(arguments)) => change(Kind::Cancel, arguments),
        Some(DeliveriesCommand::Purge(arguments)) => change(Kind::Purge, arguments),
    }
}

fn list(
    arguments: &ListArguments,
    config: &Config,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let limit = match arguments.limit {
        0 => usize::MAX,
        limit => limit,
    };
    let listings = super::listings(config)?;
    let mut deliveries = listings.deliveries(&arguments.which.selector(now), limit)?;
    // The newest is last, next to the prompt.
    deliveries.reverse();
    if arguments.json {
        let views: Vec<DeliveryView> = deliveries.iter().map(DeliveryView::of).collect();
        print_json(out, &views)?;
        return Ok(DONE);
    }
    if deliveries.is_empty() {
        writeln!(out, "No deliveries.")?;
        return Ok(DONE);
    }
    let mut table = Table::new([
        "id", "recorded", "webhook", "event", "project", "attempts", "last", "state", "event id",
    ]);
    for delivery in &deliveries {
        let last = match (delivery.last_status, &delivery.last_error) {
            (Some(status), _) => status.to_string(),
            (None, Some(_)) => "no answer".to_owned(),
            (None, None) => String::new(),
        };
        table.row([
            delivery.id.to_string().into(),
            time(delivery.created_at, style).into(),
            delivery.webhook.as_str().into(),
            delivery.kind.label().into(),
            delivery.key.to_string().into(),
            delivery.n_attempts.to_string().into(),
            last.into(),
            standing(delivery, style),
            Cell::painted(FAINT, short_id(&delivery.event.0)),
        ]);
    }
    table.print(out, style, "")?;
    if deliveries.len() == limit {
        writeln!(
            out,
            "\nThe last {limit}; --limit 0 shows all, --webhook, --state and --since fewer."
        )?;
    }
    Ok(DONE)
}

fn show(
    id: i64,
    json: bool,
    config: &Config,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let listings = super::listings(config)?;
    let (delivery, event, attempts) = listings
        .delivery(id)?
        .with_context(|| format!("there is no delivery {id}; `deliveries` lists them"))?;
    if json {
        print_json(out, &DeliveryWithAttempts::of(&delivery, &attempts))?;
        return Ok(DONE);
    }
    print_delivery(out, style, &delivery, &attempts, true)?;
    writeln!(out)?;
    print_event(out, style, &event, None)?;
    Ok(DONE)
}

/// A change of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Redeliver,
    Cancel,
    Purge,
}

impl Kind {
    const fn verb(self) -> &'static str {
        match self {
            Kind::Redeliver => "Redeliver",
            Kind::Cancel => "Cancel",
            Kind::Purge => "Purge",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Kind::Redeliver => "redelivered",
            Kind::Cancel => "cancelled",
            Kind::Purge => "purged",
        }
    }
}

/// The result of a change.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    action: &'static str,
    matched: u64,
    changed: u64,
    dry_run: bool,
    /// Whether a running daemon was notified; it then acts at once.
    daemon_told: bool,
}

fn change(
    kind: Kind,
    arguments: &ChangeArguments,
    config: &Config,
    now: Timestamp,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let which = &arguments.which;
    let mut selector = which.selector(now);
    if selector.is_empty() {
        return Err(usage(
            "no deliveries selected: give ids, --webhook, --state or --since",
        ));
    }
    match (kind, selector.state) {
        // Sending delivered callbacks again needs an explicit selection.
        (Kind::Redeliver, None) if selector.ids.is_empty() => selector.state = Some(State::Dead),
        (Kind::Redeliver, _) => {}
        (Kind::Cancel, None | Some(State::Pending)) => selector.state = Some(State::Pending),
        (Kind::Cancel, Some(_)) => {
            return Err(usage("only pending deliveries can be cancelled"));
        }
        (Kind::Purge, Some(State::Pending)) => {
            return Err(usage(
                "pending deliveries cannot be purged; cancel them first",
            ));
        }
        (Kind::Purge, _) => {}
    }
    let mut operations = Operations::open(&config.state_dir)?;
    let matched = count(kind, &selector, &operations)?;
    let mut result = Changed {
        action: kind.done(),
        matched,
        changed: 0,
        dry_run: arguments.dry_run,
        daemon_told: false,
    };
    if matched == 0 {
        return nothing(kind, arguments, &result, out);
    }
    let meant = counted(matched, "delivery");
    if arguments.dry_run {
        if arguments.json {
            print_json(out, &result)?;
        } else {
            writeln!(out, "{meant} would be {}.", kind.done())?;
        }
        return Ok(DONE);
    }
    if !arguments.json {
        let question = format!("{} {meant}", kind.verb());
        if !confirmed(&question, arguments.yes, out)? {
            writeln!(out, "Nothing was changed.")?;
            return Ok(FAILED);
        }
    }
    let progress = scan::progress(matched);
    let bar = progress.clone();
    operations.on_progress(move |n| bar.inc(n));
    result.changed = match kind {
        Kind::Redeliver => operations.redeliver(&selector, now)?,
        Kind::Cancel => operations.cancel(&selector, now)?,
        Kind::Purge => operations.purge(&selector)?,
    };
    progress.finish_and_clear();
    // A daemon does not work with purged deliveries.
    let told = (kind != Kind::Purge).then(|| wake(config));
    result.daemon_told = matches!(told, Some(Told::Daemon));
    if arguments.json {
        print_json(out, &result)?;
    } else {
        let n = counted(result.changed, "delivery");
        let told = told.map_or_else(String::new, |told| format!("; {}", told.words()));
        writeln!(out, "{n} {}{told}.", kind.done())?;
    }
    Ok(DONE)
}

/// The number of deliveries that a change would affect.
fn count(kind: Kind, selector: &Selector, operations: &Operations) -> anyhow::Result<u64> {
    let n = operations.count(selector)?;
    if kind == Kind::Purge && selector.state.is_none() {
        let pending = Selector {
            state: Some(State::Pending),
            ..selector.clone()
        };
        return Ok(n.saturating_sub(operations.count(&pending)?));
    }
    Ok(n)
}

fn nothing(
    kind: Kind,
    arguments: &ChangeArguments,
    result: &Changed,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    if arguments.json {
        print_json(out, result)?;
    } else {
        writeln!(
            out,
            "No matching deliveries to {}.",
            kind.verb().to_lowercase()
        )?;
    }
    // A missing id is a mistake; a selection without ids may match nothing.
    let is_named = !arguments.which.ids.is_empty();
    Ok(if is_named { FAILED } else { DONE })
}

/// Prints the change, and asks for confirmation on a terminal.
fn confirmed(question: &str, yes: bool, out: &mut dyn Write) -> io::Result<bool> {
    if yes || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        writeln!(out, "{question}.")?;
        return Ok(true);
    }
    write!(out, "{question}? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

/// The receiver of the news of a change.
#[derive(Debug)]
pub(super) enum Told {
    /// A running daemon.
    Daemon,
    /// No daemon runs.
    Nobody,
    /// A daemon that may run could not be notified.
    Failed(io::Error),
}

impl Told {
    /// The consequence for the change, in words.
    pub(super) fn words(&self) -> String {
        match self {
            Told::Daemon => "the running daemon acts on it now".to_owned(),
            Told::Nobody => "no daemon runs, the next one acts on it".to_owned(),
            Told::Failed(error) => {
                let reason = safe(&error.to_string());
                format!("a running daemon could not be notified ({reason}) and acts on it later")
            }
        }
    }
}

/// Notifies the running daemon of a change of the queue.
pub(super) fn wake(config: &Config) -> Told {
    match admin::wake(&config.state_dir) {
        Ok(Some(_)) => Told::Daemon,
        Ok(None) => Told::Nobody,
        Err(error) => Told::Failed(error),
    }
}
