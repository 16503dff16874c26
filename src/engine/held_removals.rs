//! Stores held removals for a restart, and reports them.
//!
//! Constraint: the agenda decides which removals are held ([`crate::domain::wave`]). The store has the
//! projects that are held for an operator, so that a restart does not judge them. It also has those
//! that an operator accepted, so that a restart does not hold them again. The facts to store are
//! compared with the stored ones, so a commit that failed is repeated.

use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::status::{HeldReport, Status, Trouble};
use crate::config::Repository;
use crate::domain::project::{ContentHash, ProjectKey};
use crate::domain::settle::{Agenda, Moment};
use crate::domain::vanished::{Held, HeldBecause};
use crate::domain::wave::Times;
use crate::store::{MetaKey, Store, StoreError};

/// The held removals, as an operator sees them before accepting them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct HeldProjects {
    /// Why removals are held. `None` if no removals are held.
    pub reason: Option<String>,
    pub projects: Vec<ProjectKey>,
    /// Identifies these projects; see [`HeldProjects::token_of`].
    pub token: String,
}

impl HeldProjects {
    /// Returns a short text that differs for different sets of projects.
    fn token_of(projects: &[ProjectKey]) -> String {
        let mut text = String::new();
        for key in projects {
            text.push_str(&key.to_string());
            text.push('\n');
        }
        let mut token = ContentHash::of(text.as_bytes()).to_string();
        token.truncate(16);
        token
    }
}

/// The outcome of accepting held removals.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accepted {
    /// The removals of this many projects were released.
    Released(usize),
    /// Nothing was released, because other removals are held now.
    Changed,
    /// Nothing was released, because the store failed for this reason.
    Failed(String),
}

/// The stored facts about held removals.
#[derive(Debug, Default)]
pub(super) struct HeldRemovals {
    /// The projects that are stored as held for an operator.
    recorded: Vec<ProjectKey>,
    /// Whether accepted projects are stored.
    has_accepted: bool,
    reported: Option<Held>,
}

impl HeldRemovals {
    /// Reads the stored facts and passes them to the agenda.
    pub(super) fn recorded_before(store: &Store, agenda: &mut Agenda) -> Result<Self, StoreError> {
        let recorded = held_before(store)?;
        let accepted = stored_projects(store, MetaKey::AcceptedRemovals)?;
        let has_accepted = !accepted.is_empty();
        agenda.remember(recorded.iter().cloned(), accepted);
        Ok(Self {
            recorded,
            has_accepted,
            reported: None,
        })
    }

    /// Returns the facts to store, if they differ from the stored ones.
    pub(super) fn to_record(&self, agenda: &Agenda) -> Vec<(MetaKey, String)> {
        let (held, accepted) = agenda.to_remember();
        let mut facts = Vec::new();
        if held != self.recorded {
            facts.push((MetaKey::HeldRemovals, text_of(&held)));
        }
        if self.has_accepted && accepted.is_empty() {
            facts.push((MetaKey::AcceptedRemovals, text_of(&[])));
        }
        facts
    }

    /// Returns the facts to store before removals are accepted.
    pub(super) fn to_record_accepted(&self, agenda: &Agenda) -> Vec<(MetaKey, String)> {
        let (_, before) = agenda.to_remember();
        let accepted: Vec<ProjectKey> = before
            .iter()
            .chain(agenda.held_projects())
            .cloned()
            .collect();
        vec![
            (MetaKey::HeldRemovals, text_of(&[])),
            (MetaKey::AcceptedRemovals, text_of(&accepted)),
        ]
    }

    /// Records that the facts of the agenda are stored.
    pub(super) fn recorded(&mut self, agenda: &Agenda) {
        let (held, accepted) = agenda.to_remember();
        self.recorded = held;
        self.has_accepted = !accepted.is_empty();
    }

    /// Logs a change of the held removals, and updates the status.
    pub(super) fn report(&mut self, agenda: &Agenda, status: &Status, now: (Moment, Timestamp)) {
        let held = agenda.held();
        if held == self.reported {
            return;
        }
        let because = |held: Option<Held>| held.map(|held| held.because);
        let is_news = because(held) != because(self.reported);
        self.reported = held;
        let report = held.map(|held| HeldReport::of(&held, now));
        let reason = report.as_ref().map(|report| report.reason.clone());
        status.set_held(report);
        status.set_trouble(Trouble::Removals, reason.clone());
        match reason {
            Some(reason) if is_news => warn!("{reason}"),
            None if is_news => info!("no removals are held any longer"),
            // Some of the projects are back.
            _ => {}
        }
    }
}

impl HeldReport {
    fn of(held: &Held, (now, time): (Moment, Timestamp)) -> Self {
        let n = held.n;
        match held.because {
            HeldBecause::All => Self {
                count: n,
                cause: "all".to_owned(),
                reason: format!(
                    "all {n} projects are gone; their removals are held until one of them is back. \
                     Is a file system not mounted, or a directory locked? If they were removed on \
                     purpose, run `project-webhooks accept`"
                ),
                until: None,
            },
            HeldBecause::MoreThanHalf(at) => {
                let left = SignedDuration::try_from(at.saturating_sub(now)).unwrap_or_default();
                let until = time.checked_add(left).unwrap_or(time);
                Self {
                    count: n,
                    cause: "more-than-half".to_owned(),
                    reason: format!(
                        "{n} of {} projects vanished together; their removals are held until \
                         {until:.0} (repository.mass_delete_after). `project-webhooks accept` \
                         releases them now",
                        held.n_recorded
                    ),
                    until: Some(until),
                }
            }
        }
    }
}

/// Returns the held projects of an agenda. The list is empty if no removals are held.
pub(super) fn held_projects(agenda: &Agenda, status: &Status) -> HeldProjects {
    let Some(held) = status.snapshot().held_removals else {
        return HeldProjects::default();
    };
    let projects: Vec<ProjectKey> = agenda.held_projects().cloned().collect();
    HeldProjects {
        reason: Some(held.reason),
        token: HeldProjects::token_of(&projects),
        projects,
    }
}

/// Reads the projects that were held for an operator when the daemon last ran.
pub(crate) fn held_before(store: &Store) -> Result<Vec<ProjectKey>, StoreError> {
    stored_projects(store, MetaKey::HeldRemovals)
}

fn stored_projects(store: &Store, key: MetaKey) -> Result<Vec<ProjectKey>, StoreError> {
    let text = store.meta(key)?;
    Ok(text
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default())
}

/// Returns the settings of waves from the configuration.
pub(crate) fn wave_times(repository: &Repository) -> Times {
    Times {
        settle: repository.settle,
        hold: repository.mass_delete_after,
    }
}

/// Formats projects for the store. Empty without projects.
fn text_of(keys: &[ProjectKey]) -> String {
    if keys.is_empty() {
        return String::new();
    }
    serde_json::to_string(keys).unwrap_or_default()
}
