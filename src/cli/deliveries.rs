//! `deliveries`: lists deliveries with their attempts, and redelivers, cancels and purges them.
//!
//! Constraint: a change affects only deliveries that the operator selected. So a change requires a
//! selector. The command prints how many deliveries match, and asks for confirmation on a terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, anyhow};
use jiff::Timestamp;

use super::arguments;
use super::follow::Followed;
use super::output::{
    Cell, FAINT, Listing, Progress, Style, Table, counted, print_json, safe, time,
};
use super::view::{print_delivery, print_event, short_id, standing};
use super::{DONE, FAILED, missing_socket, usage};
use crate::admin;
use crate::config::Config;
use crate::domain::delivery::State;
use crate::domain::event::EventKind;
use crate::operator::change::{Change, Refused, check_webhook};
use crate::operator::follow;
use crate::operator::select::{Since, parse_since, place};
use crate::operator::view::{Changed, DeliveryView, DeliveryWithAttempts};
use crate::report::{Settings, WebhookReport};
use crate::store::{ListedDelivery, Listings, Operations, Selector};

/// Lists deliveries with their attempts, and redelivers, cancels and purges them.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct DeliveriesArguments {
    #[command(subcommand)]
    command: Option<DeliveriesCommand>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum DeliveriesCommand {
    /// List deliveries, the newest last
    List(ListArguments),
    /// Show one delivery: its event, and its newest attempts with their answers
    Show {
        /// The id of the delivery: the first column of `deliveries list`
        #[arg(value_parser = parse_id)]
        id: i64,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Send deliveries again now, with a new retry schedule; only dead ones unless IDs or --state
    /// select others
    Redeliver(ChangeArguments),
    /// Cancel pending deliveries
    Cancel(ChangeArguments),
    /// Remove deliveries that are not pending, with their attempts
    Purge(ChangeArguments),
}

#[derive(Clone, Debug, clap::Args)]
struct ListArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    listing: Listing,
}

fn parse_id(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| {
        "must be a number, the id of a delivery: see the first column of `deliveries list`; for the id of \
         an event, use `events show`"
            .to_owned()
    })
}

/// Selects the deliveries that match all given conditions.
#[derive(Clone, Debug, clap::Args)]
struct Which {
    /// Only these deliveries
    #[arg(value_name = "ID", value_parser = parse_id)]
    ids: Vec<i64>,
    /// Only deliveries to this webhook
    #[arg(long, value_name = "NAME")]
    webhook: Option<String>,
    /// Only deliveries in this state
    #[arg(long, value_name = "STATE", value_parser = arguments::state())]
    state: Option<State>,
    /// Only deliveries recorded at this time or later: a date, a time, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only deliveries recorded before this time: a date, a time, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    until: Option<Since>,
    /// Only deliveries of this event, by name or label
    #[arg(long, value_name = "EVENT", value_parser = arguments::event())]
    event: Option<EventKind>,
    /// Only deliveries of the repository with this name; needs the setting `repositories`
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Only deliveries of ORGANIZATION/PROJECT, or of PROJECT in any organization
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
}

#[derive(Clone, Debug, clap::Args)]
struct ChangeArguments {
    #[command(flatten)]
    which: Which,
    /// Print how many deliveries match, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Print one JSON object, and do not ask for confirmation
    #[arg(long)]
    json: bool,
}

impl Which {
    fn selector(&self, config: &Config, now: Timestamp) -> anyhow::Result<Selector> {
        let (repository, project) = (self.repository.as_deref(), self.project.as_deref());
        let (organization, project) =
            place(repository, project, config).map_err(|error| usage(&error.to_string()))?;
        Ok(Selector {
            ids: self.ids.clone(),
            webhook: self.webhook.clone(),
            state: self.state,
            kind: self.event,
            organization,
            project,
            since: self.since.map(|since| since.time(now)),
            until: self.until.map(|until| until.time(now)),
            ..Selector::default()
        })
    }

    /// Fails if the named webhook is not configured and has no deliveries.
    fn check_webhook(&self, config: &Config, listings: &Listings) -> anyhow::Result<()> {
        let Some(name) = &self.webhook else {
            return Ok(());
        };
        let states = WebhookReport::recorded(&Settings::of(config), Some(listings))?;
        check_webhook(name, &states).map_err(|error| anyhow!(safe(&error.to_string())))
    }
}

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
        Some(DeliveriesCommand::Redeliver(arguments)) => change(Change::Redeliver, arguments),
        Some(DeliveriesCommand::Cancel(arguments)) => change(Change::Cancel, arguments),
        Some(DeliveriesCommand::Purge(arguments)) => change(Change::Purge, arguments),
    }
}

fn list(
    arguments: &ListArguments,
    config: &Config,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let listing = &arguments.listing;
    let selector = arguments.which.selector(config, now)?;
    let listings = super::listings(config)?;
    arguments.which.check_webhook(config, &listings)?;
    let table = |deliveries: &[ListedDelivery]| {
        let mut table = Table::new([
            "id", "recorded", "webhook", "event", "project", "attempts", "last", "state",
            "event id",
        ]);
        for delivery in deliveries {
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
        table
    };
    let words = ("deliveries", "--webhook, --state or --since");
    if listing.follows() {
        // A delivery may change to the selected state later.
        let any_state = Selector {
            state: None,
            ..selector.clone()
        };
        let followed = Followed {
            read: &|limit| Ok(listings.deliveries(&any_state, limit)?),
            position: follow::delivery,
            is_shown: &|delivery| selector.state.is_none_or(|state| delivery.state == state),
            view: DeliveryView::of,
            table: &table,
        };
        let first = || Ok(listings.deliveries(&selector, listing.limit())?);
        return followed.print(first, listing.is_json(), style, out);
    }
    let deliveries = listings.deliveries(&selector, listing.n_read())?;
    listing.print(deliveries, words, DeliveryView::of, table, style, out)
}

fn show(
    id: i64,
    json: bool,
    config: &Config,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let listings = super::listings(config)?;
    let (delivery, event, attempts) = listings.delivery(id)?.with_context(|| {
        format!("there is no delivery {id}; `deliveries --limit 0` lists all deliveries")
    })?;
    if json {
        print_json(out, &DeliveryWithAttempts::of(&delivery, &attempts))?;
        return Ok(DONE);
    }
    print_delivery(out, style, &delivery, &attempts, true)?;
    writeln!(out)?;
    print_event(out, style, &event, None)?;
    Ok(DONE)
}

fn change(
    kind: Change,
    arguments: &ChangeArguments,
    config: &Config,
    now: Timestamp,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let which = &arguments.which;
    let mut selector = kind
        .check(which.selector(config, now)?)
        .map_err(|refused| {
            usage(match refused {
                Refused::Everything => "select deliveries by id, --webhook, --state or --since",
                Refused::NotPending => "only pending deliveries can be cancelled",
                Refused::Pending => "pending deliveries cannot be purged; cancel them first",
            })
        })?;
    if which.webhook.is_some() {
        which.check_webhook(config, &super::listings(config)?)?;
    }
    let mut operations = Operations::of(config)?;
    let matched = operations.count(&selector)?;
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
        match confirmed(&question, arguments.yes, out)? {
            Confirmed::No => {
                writeln!(out, "Nothing was changed.")?;
                return Ok(FAILED);
            }
            Confirmed::Seen => selector.expected = Some(matched),
            Confirmed::Unasked => {}
        }
    }
    let mut progress = Progress::new(matched);
    operations.on_progress(Box::new(move |n| progress.add(n)));
    result.changed = kind.apply(&selector, &mut operations, now)?;
    drop(operations);
    // A purge removes no pending deliveries, so the daemon need not be notified of it.
    let notified = (kind != Change::Purge).then(|| wake(config));
    result.daemon_told = notified.as_ref().is_some_and(Notified::is_done);
    if arguments.json {
        print_json(out, &result)?;
    } else {
        let n = counted(result.changed, "delivery");
        let notified = notified.map_or_else(String::new, |told| format!("; {}", told.words()));
        writeln!(out, "{n} {}{notified}.", kind.done())?;
    }
    Ok(DONE)
}

fn nothing(
    kind: Change,
    arguments: &ChangeArguments,
    result: &Changed,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    if arguments.json {
        print_json(out, result)?;
    } else {
        let verb = kind.verb().to_lowercase();
        writeln!(out, "No matching deliveries to {verb}.")?;
    }
    // Given ids must match at least one delivery. A filter may match none.
    let is_named = !arguments.which.ids.is_empty();
    Ok(if is_named { FAILED } else { DONE })
}

/// The operator's answer to a planned change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    No,
    /// The operator agreed to the printed number, so exactly this many items may change.
    Seen,
    /// Nobody was asked.
    Unasked,
}

/// Prints the planned change, and asks for confirmation on a terminal.
///
/// With `yes`, or if standard input or standard output is not a terminal, nobody is asked.
pub(super) fn confirmed(question: &str, yes: bool, out: &mut dyn Write) -> io::Result<Confirmed> {
    if yes || !is_asked() {
        writeln!(out, "{question}.")?;
        return Ok(Confirmed::Unasked);
    }
    write!(out, "{question}? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Confirmed::Seen,
        _ => Confirmed::No,
    })
}

/// Whether a question can be asked: standard input and standard output are terminals.
pub(super) fn is_asked() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The result of notifying the running daemon of a change.
#[derive(Debug)]
pub(super) enum Notified {
    Daemon,
    /// The store notified the processes that share the database when it made the change.
    Fleet,
    /// No daemon is running.
    Nobody,
    /// A daemon may be running, but could not be notified.
    Failed(String),
}

impl Notified {
    /// Whether running processes were notified.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Notified::Daemon | Notified::Fleet)
    }

    /// Describes when the change takes effect.
    pub(super) fn words(&self) -> String {
        match self {
            Notified::Daemon => "the running daemon applies the change now".to_owned(),
            Notified::Fleet => {
                "all running processes that use the database apply the change now".to_owned()
            }
            Notified::Nobody => {
                "no daemon is running; the change takes effect when one starts".to_owned()
            }
            Notified::Failed(reason) => {
                let reason = safe(reason);
                format!(
                    "the running daemon could not be notified and applies the change later, usually \
                     within 30 seconds ({reason})"
                )
            }
        }
    }
}

/// Notifies the running daemon that deliveries or webhooks changed.
pub(super) fn wake(config: &Config) -> Notified {
    match admin::control::wake(&config.state_dir) {
        Ok(Some(_)) => Notified::Daemon,
        Ok(None) if config.store.is_some() => Notified::Fleet,
        Ok(None) => match missing_socket(&config.state_dir) {
            Some(reason) => Notified::Failed(reason),
            None => Notified::Nobody,
        },
        Err(error) => Notified::Failed(error.to_string()),
    }
}
