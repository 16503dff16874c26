//! Checks and applies changes of deliveries, and prepares replays.
//!
//! Constraint: a change affects only deliveries that the operator selected.

use jiff::Timestamp;

use crate::config::{Config, Webhook};
use crate::domain::delivery::State;
use crate::report::WebhookReport;
use crate::store::{Operations, Replay, Selector, StoreError};

/// The maximum number of names that an error lists.
const KNOWN_MAX: usize = 20;

/// The reason that `status` shows for a webhook that was switched off without a reason.
pub(crate) const SWITCHED_OFF: &str = "switched off by an operator";

/// A change of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Redeliver,
    Cancel,
    Purge,
}

/// Why a selection of deliveries to change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The selection has no condition.
    Everything,
    /// A cancel selects deliveries that are not pending.
    NotPending,
    /// A purge selects pending deliveries.
    Pending,
}

impl Change {
    pub(crate) const fn verb(self) -> &'static str {
        match self {
            Change::Redeliver => "Redeliver",
            Change::Cancel => "Cancel",
            Change::Purge => "Purge",
        }
    }

    pub(crate) const fn done(self) -> &'static str {
        match self {
            Change::Redeliver => "redelivered",
            Change::Cancel => "cancelled",
            Change::Purge => "purged",
        }
    }

    /// Checks a selection, and limits it to deliveries in states that the change affects.
    pub(crate) fn check(self, mut selector: Selector) -> Result<Selector, Refused> {
        if selector.is_empty() {
            return Err(Refused::Everything);
        }
        match (self, selector.state) {
            // With neither ids nor a state, only dead deliveries are sent again.
            (Change::Redeliver, None) if selector.ids.is_empty() => {
                selector.state = Some(State::Dead);
            }
            (Change::Redeliver, _) => {}
            (Change::Cancel, None | Some(State::Pending)) => selector.state = Some(State::Pending),
            (Change::Cancel, Some(_)) => return Err(Refused::NotPending),
            (Change::Purge, Some(State::Pending)) => return Err(Refused::Pending),
            (Change::Purge, _) => selector.not_pending = true,
        }
        Ok(selector)
    }

    /// Changes the selected deliveries. Returns the number of changed deliveries.
    pub(crate) fn apply(
        self,
        selector: &Selector,
        operations: &mut Operations,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        match self {
            Change::Redeliver => operations.redeliver(selector, now),
            Change::Cancel => operations.cancel(selector, now),
            Change::Purge => operations.purge(selector),
        }
    }
}

/// The error for a name that no webhook has. It lists known names.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UnknownWebhook(String);

/// The maximum difference in length, in bytes, of two names that differ in two characters.
const NEAR_MAX: usize = 8;

fn unknown(name: &str, known: &[&str]) -> UnknownWebhook {
    let distance = |known: &&&str| strsim::damerau_levenshtein(known, name);
    // A name from a client may be very long, and the distance of long names is slow to compute.
    let near = known
        .iter()
        .filter(|known| known.len().abs_diff(name.len()) <= NEAR_MAX)
        .min_by_key(distance);
    let near = near.filter(|near| distance(near) <= 2);
    let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
    let shown: Vec<&str> = known.iter().take(KNOWN_MAX).copied().collect();
    let mut shown = shown.join(", ");
    if shown.is_empty() {
        shown.push_str("none");
    }
    if let Some(more) = known.len().checked_sub(KNOWN_MAX + 1) {
        shown.push_str(&format!(" and {} more", more + 1));
    }
    let separator = if near.is_empty() { ";" } else { "" };
    UnknownWebhook(format!(
        "there is no webhook {name}{near}{separator} known: {shown}"
    ))
}

/// Fails if the named webhook is not configured and has no deliveries.
pub(crate) fn check_webhook(name: &str, states: &[WebhookReport]) -> Result<(), UnknownWebhook> {
    let known: Vec<&str> = states.iter().map(|state| state.name.as_str()).collect();
    if known.contains(&name) {
        Ok(())
    } else {
        Err(unknown(name, &known))
    }
}

/// Finds the configured webhook with this name.
pub(crate) fn configured<'a>(
    name: &str,
    config: &'a Config,
) -> Result<&'a Webhook, UnknownWebhook> {
    let mut webhooks = config.webhooks.iter();
    if let Some(webhook) = webhooks.find(|webhook| webhook.name() == name) {
        return Ok(webhook);
    }
    let known: Vec<&str> = config.webhooks.iter().map(Webhook::name).collect();
    Err(unknown(name, &known))
}

/// Makes the selection of a replay. `None` if the time range is empty.
pub(crate) fn replay(
    webhook: &Webhook,
    (organization, project): (Option<String>, Option<String>),
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Option<Replay> {
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        return None;
    }
    Some(Replay {
        subscription: webhook.subscription.clone(),
        organization,
        project,
        since,
        until,
        expected: None,
    })
}
