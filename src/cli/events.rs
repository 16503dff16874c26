//! `events`: lists the inferred events, shows why one was inferred, and replays them.

use std::io::Write;

use anyhow::Context;
use jiff::Timestamp;

use super::arguments;
use super::follow::Followed;
use super::output::{Cell, FAINT, Listing, Style, Table, print_json, time};
use super::replay::{self, ReplayArguments};
use super::view::{print_delivery, print_event, print_pairs, short_id};
use super::{DONE, usage};
use crate::admin;
use crate::config::Config;
use crate::domain::event::EventKind;
use crate::operator::follow;
use crate::operator::select::{Since, find_event, parse_since, place};
use crate::operator::view::{EventView, EventWithDeliveries, attempts_of, passed_over_by};
use crate::report::Settings;
use crate::store::{EventFilter, ListedEvent, Listings};

/// Shows events, and why they were inferred; replays them.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct EventsArguments {
    #[command(subcommand)]
    command: Option<EventsCommand>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum EventsCommand {
    /// List events, the newest last
    List(ListArguments),
    /// Show one event: why it was inferred, and its deliveries
    Show {
        /// The id of the event, or its first characters if no other id begins with them
        id: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Queue recorded events for a webhook again or for the first time, in order
    Replay(ReplayArguments),
}

#[derive(Clone, Debug, clap::Args)]
struct ListArguments {
    /// Only events recorded at this time or later: a date, a time, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only events recorded before this time: a date, a time, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    until: Option<Since>,
    /// Only this event, by name or label
    #[arg(long, value_name = "EVENT", value_parser = arguments::event())]
    event: Option<EventKind>,
    /// Only events of the repository with this name; needs the setting `repositories`
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Only events of ORGANIZATION/PROJECT, or of PROJECT in any organization
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

pub(super) fn run(
    arguments: &EventsArguments,
    config: &Config,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let listings = || super::listings(config);
    match &arguments.command {
        None => list(&arguments.list, config, &listings()?, now, style, out),
        Some(EventsCommand::List(list)) => self::list(list, config, &listings()?, now, style, out),
        Some(EventsCommand::Show { id, json }) => show(id, *json, config, &listings()?, style, out),
        Some(EventsCommand::Replay(replay)) => replay::run(replay, config, now, out),
    }
}

fn list(
    arguments: &ListArguments,
    config: &Config,
    listings: &Listings,
    now: Timestamp,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let (repository, project) = (
        arguments.repository.as_deref(),
        arguments.project.as_deref(),
    );
    let (organization, project) =
        place(repository, project, config).map_err(|error| usage(&error.to_string()))?;
    let filter = EventFilter {
        organization,
        project,
        kind: arguments.event,
        since: arguments.since.map(|since| since.time(now)),
        until: arguments.until.map(|until| until.time(now)),
    };
    let table = |events: &[ListedEvent]| {
        let mut table = Table::new(["recorded", "event", "project", "origin", "id"]);
        for listed in events {
            table.row([
                time(listed.recorded_at, style).into(),
                listed.event.kind.label().into(),
                listed.event.key.to_string().into(),
                listed.event.origin.as_str().into(),
                Cell::painted(FAINT, short_id(&listed.event.id.0)),
            ]);
        }
        table
    };
    let words = ("events", "--since, --event or --project");
    let listing = &arguments.listing;
    if listing.follows() {
        let followed = Followed {
            read: &|limit| Ok(listings.events(&filter, limit)?),
            position: follow::event,
            is_shown: &|_| true,
            view: EventView::of,
            table: &table,
        };
        let first = || Ok(listings.events(&filter, listing.limit())?);
        return followed.print(first, listing.is_json(), style, out);
    }
    let events = listings.events(&filter, listing.n_read())?;
    listing.print(events, words, EventView::of, table, style, out)
}

fn show(
    id: &str,
    json: bool,
    config: &Config,
    listings: &Listings,
    style: &Style,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let id = find_event(id, listings)?;
    let (listed, deliveries) = listings
        .event(&id)?
        .with_context(|| format!("the event {id} was removed meanwhile"))?;
    let log = attempts_of(&deliveries, listings)?;
    if json {
        let shown = EventWithDeliveries::of(&listed, &log, config);
        print_json(out, &shown)?;
        return Ok(DONE);
    }
    let passed_over = passed_over_by(&listed, &log, config);
    print_event(out, style, &listed.event, Some(listed.recorded_at))?;
    for (delivery, attempts) in &log {
        writeln!(out)?;
        print_delivery(out, style, delivery, attempts, false)?;
    }
    if !passed_over.is_empty() {
        writeln!(out, "\nwebhooks without a delivery")?;
        let pairs: Vec<(&str, String)> = passed_over
            .iter()
            .map(|one| (one.webhook.as_str(), one.because.clone()))
            .collect();
        print_pairs(out, style, "  ", &pairs)?;
        let daemon = admin::control::ask(&config.state_dir).unwrap_or_default();
        if daemon.is_some_and(|daemon| daemon.settings != Settings::of(config)) {
            writeln!(
                out,
                "The reasons come from the configuration file, which has changed since the daemon \
                 read it. To apply the file, run `project-webhooks reload`."
            )?;
        }
    } else if log.is_empty() {
        writeln!(out, "\nNo deliveries: no webhooks are configured.")?;
    }
    Ok(DONE)
}
