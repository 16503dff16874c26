//! Stores held removals for a restart, and reports them.
//!
//! Constraint: the agenda decides which removals are held ([`crate::domain::wave`]). The store has
//! the held projects and the end of the hold. So a restart neither releases the removals early nor
//! starts a new hold. The store also has the projects that an operator accepted, so that a restart
//! does not hold their removals again. After a failed commit, the data still differs from the
//! stored data, so the engine tries again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::status::{HeldReport, Status, Trouble};
use super::worker::Worker;
use crate::config::Repository;
use crate::domain::project::{ContentHash, ProjectKey};
use crate::domain::settle::{Agenda, Moment};
use crate::domain::vanished::{Held, HeldBecause, HeldBefore};
use crate::domain::wave::Times;
use crate::store::{Batch, MetaKey, RepositoryStore, StoreError};

/// The held removals, as an operator sees them before accepting them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct HeldProjects {
    /// Why removals are held. `None` if no removals are held.
    pub reason: Option<String>,
    pub projects: Vec<ProjectKey>,
    /// Identifies these projects; see [`HeldProjects::token_of`].
    pub token: String,
    /// The repositories whose engine does not respond. Their held removals are unknown.
    pub stuck: Vec<String>,
}

impl HeldProjects {
    /// Adds the held removals of another engine.
    pub(crate) fn and(mut self, other: Self) -> Self {
        let reasons = self.reason.into_iter().chain(other.reason);
        self.reason = Some(reasons.collect::<Vec<_>>().join("; "));
        self.projects.extend(other.projects);
        self.token = Self::token_of(&self.projects);
        self
    }

    /// Returns a short text that identifies a set of projects.
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
    /// Some repositories did not release their removals, for these reasons.
    Partly {
        released: usize,
        reasons: Vec<String>,
    },
    /// Nothing was released, because the token does not match the held projects.
    Changed,
    /// Nothing was released, because the store failed for this reason.
    Failed(String),
}

/// A hold, as stored.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct StoredHold {
    /// The end of the hold.
    ///
    /// `None` if all projects vanished, because such a hold has no time limit.
    until: Option<Timestamp>,
    n_recorded: usize,
}

/// The part of the agenda's state whose changes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    /// The number of recorded projects before the hold, and the reason for the hold.
    ///
    /// The reason includes the end of the hold.
    hold: Option<(usize, HeldBecause)>,
    n_holds: u64,
}

impl Stored {
    fn of(agenda: &Agenda) -> Self {
        Self {
            hold: agenda.held().map(|held| (held.n_recorded, held.because)),
            n_holds: agenda.n_holds(),
        }
    }
}

/// Remembers which held removals are stored and reported.
#[derive(Debug)]
pub(super) struct HeldRemovals {
    stored: Stored,
    /// The number of accepted projects that are stored.
    n_accepted: usize,
    reported: Option<Held>,
}

impl HeldRemovals {
    /// Reads the stored data and passes it to the agenda.
    pub(super) fn recorded_before(
        store: &RepositoryStore,
        agenda: &mut Agenda,
        now: (Moment, Timestamp),
    ) -> Result<Self, StoreError> {
        let projects = held_before(store)?;
        let hold: Option<StoredHold> = parsed(store.meta(MetaKey::Hold)?);
        let held = (!projects.is_empty()).then(|| HeldBefore {
            n_recorded: hold.as_ref().map_or(projects.len(), |hold| hold.n_recorded),
            because: match hold.and_then(|hold| hold.until) {
                Some(until) => HeldBecause::MoreThanHalf(moment_of(until, now)),
                None => HeldBecause::All,
            },
            projects,
        });
        let accepted: Vec<ProjectKey> =
            parsed(store.meta(MetaKey::AcceptedRemovals)?).unwrap_or_default();
        let n_accepted = accepted.len();
        agenda.remember(held, accepted, now.0);
        Ok(Self {
            stored: Stored::of(agenda),
            n_accepted,
            reported: None,
        })
    }

    /// Returns the data to store, if it differs from the stored data.
    ///
    /// The list of held projects is not stored again if projects only came back: a large backup may
    /// restore thousands of them one by one. After a restart, the first scan finds those that are
    /// back. For the same reason, the list of accepted projects is stored only if it is empty, no
    /// project is due, or other data changed too.
    pub(super) fn to_record(
        &self,
        agenda: &Agenda,
        now: (Moment, Timestamp),
    ) -> Vec<(MetaKey, String)> {
        let current = Stored::of(agenda);
        let mut facts = Vec::new();
        if current.hold != self.stored.hold {
            facts.push((MetaKey::Hold, hold_text(current.hold, now)));
        }
        let ends = current.hold.is_none() && self.stored.hold.is_some();
        if current.n_holds != self.stored.n_holds || ends {
            let held: Vec<ProjectKey> = agenda.held_projects().cloned().collect();
            facts.push((MetaKey::HeldRemovals, text_of(&held)));
        }
        // Keep this list current. Otherwise it would accept the removal of a project that is
        // imported later under the same key.
        let accepted = agenda.accepted();
        let is_idle = agenda.next().is_none_or(|next| next > now.0);
        let is_worth_it = accepted.is_empty() || is_idle || !facts.is_empty();
        if self.n_accepted != accepted.len() && is_worth_it {
            let accepted: Vec<ProjectKey> = accepted.iter().cloned().collect();
            facts.push((MetaKey::AcceptedRemovals, text_of(&accepted)));
        }
        facts
    }

    /// Returns the data to store before removals are accepted.
    pub(super) fn to_record_accepted(&self, agenda: &Agenda) -> Vec<(MetaKey, String)> {
        let before = agenda.accepted().iter();
        let accepted: Vec<ProjectKey> = before.chain(agenda.held_projects()).cloned().collect();
        vec![
            (MetaKey::Hold, String::new()),
            (MetaKey::HeldRemovals, text_of(&[])),
            (MetaKey::AcceptedRemovals, text_of(&accepted)),
        ]
    }

    /// Records that the current state of the agenda is stored.
    pub(super) fn recorded(&mut self, agenda: &Agenda) {
        self.stored = Stored::of(agenda);
        self.n_accepted = agenda.accepted().len();
    }

    /// Updates the status. Logs when a hold begins or ends, or its cause changes.
    pub(super) fn report(&mut self, agenda: &Agenda, status: &Status, now: (Moment, Timestamp)) {
        let held = agenda.held();
        if held == self.reported {
            return;
        }
        // The end of a hold may change when a project comes back. Log only changes of the cause.
        let cause = |held: Option<Held>| held.map(|held| held.because == HeldBecause::All);
        let is_news = cause(held) != cause(self.reported);
        self.reported = held;
        let report = held.map(|held| HeldReport::of(&held, now));
        let reason = report.as_ref().map(|report| report.reason.clone());
        let until = report.as_ref().and_then(|report| report.until);
        let until = until.map(|until| format!("{until:.0}"));
        // Set the trouble first, so that no status shows a new hold without its trouble.
        status.set_trouble(Trouble::Removals, reason.clone());
        status.set_held(report);
        match reason {
            Some(reason) if is_news => warn!(until, "{reason}"),
            None if is_news => info!("no removals are held any longer"),
            // Only numbers or the end of the hold changed.
            _ => {}
        }
    }
}

impl HeldReport {
    fn of(held: &Held, now: (Moment, Timestamp)) -> Self {
        let n = held.n;
        match held.because {
            HeldBecause::All => Self {
                count: n,
                cause: "all".to_owned(),
                reason: format!(
                    "all projects are gone; {n} removals are held at least until one of the projects is back. Is a file system not mounted, or a directory locked? If the projects were \
                     removed on purpose, run `project-webhooks accept`"
                ),
                until: None,
            },
            HeldBecause::MoreThanHalf(at) => Self {
                count: n,
                cause: "more-than-half".to_owned(),
                // Each output adds the end in its own time zone.
                reason: format!(
                    "{n} of {} projects are gone; their removals are held for \
                     repository.mass_delete_after, and then the deletes are sent. Is a file system \
                     not mounted, or a synchronisation half done? If the projects were removed on \
                     purpose, run `project-webhooks accept`",
                    held.n_recorded
                ),
                until: Some(time_of(at, now)),
            },
        }
    }
}

/// Returns the held projects of an agenda, with the reason.
pub(super) fn held_projects(agenda: &Agenda, status: &Status) -> HeldProjects {
    let Some(held) = status.snapshot().held_removals else {
        return HeldProjects::default();
    };
    let projects: Vec<ProjectKey> = agenda.held_projects().cloned().collect();
    HeldProjects {
        reason: Some(held.reason),
        token: HeldProjects::token_of(&projects),
        projects,
        stuck: Vec::new(),
    }
}

/// Reads the stored list of projects whose removals are held. Some may be back.
pub(crate) fn held_before(store: &RepositoryStore) -> Result<Vec<ProjectKey>, StoreError> {
    Ok(parsed(store.meta(MetaKey::HeldRemovals)?).unwrap_or_default())
}

fn parsed<T: serde::de::DeserializeOwned>(text: Option<String>) -> Option<T> {
    serde_json::from_str(&text?).ok()
}

/// Formats a hold for the store. The text is empty if there is no hold.
fn hold_text(hold: Option<(usize, HeldBecause)>, now: (Moment, Timestamp)) -> String {
    let Some((n_recorded, because)) = hold else {
        return String::new();
    };
    let until = match because {
        HeldBecause::MoreThanHalf(until) => Some(time_of(until, now)),
        HeldBecause::All => None,
    };
    serde_json::to_string(&StoredHold { until, n_recorded }).unwrap_or_default()
}

/// Converts a later moment to a timestamp.
fn time_of(later: Moment, (moment, time): (Moment, Timestamp)) -> Timestamp {
    let left = SignedDuration::try_from(later.saturating_sub(moment)).unwrap_or_default();
    time.checked_add(left).unwrap_or(time)
}

/// Converts a timestamp to a moment. A timestamp in the past becomes the current moment.
fn moment_of(later: Timestamp, (moment, time): (Moment, Timestamp)) -> Moment {
    let left = Duration::try_from(later.duration_since(time)).unwrap_or_default();
    moment.saturating_add(left)
}

/// Returns the settings of waves from the configuration.
pub(crate) fn wave_times(repository: &Repository) -> Times {
    Times {
        settle: repository.settle,
        hold: repository.mass_delete_after,
    }
}

/// Formats projects for the store. The text is empty if there are none.
fn text_of(keys: &[ProjectKey]) -> String {
    if keys.is_empty() {
        return String::new();
    }
    serde_json::to_string(keys).unwrap_or_default()
}
impl Worker {
    /// Passes the number of recorded projects to the agenda when a full scan begins.
    pub(super) fn count_before_scan(&mut self) {
        match self.recorder.store().n_defined() {
            Ok(n_recorded) => self.agenda.scan_begins(n_recorded),
            Err(error) => self.store_failed(&error),
        }
    }

    /// Decides about vanished projects if their chain, wave or hold has ended.
    pub(super) fn end_wave(&mut self, now: Moment) {
        match self.recorder.store().n_defined() {
            Ok(n_recorded) => self.agenda.end_wave(now, n_recorded),
            Err(error) => self.store_failed(&error),
        }
    }

    /// Stores and reports the held removals if they changed.
    pub(super) fn note_held_removals(&mut self) {
        let now = self.clock.now();
        let moment = self.clock.moment();
        self.held_removals
            .report(&self.agenda, &self.status, (moment, now));
        let facts = self.held_removals.to_record(&self.agenda, (moment, now));
        if facts.is_empty() {
            return;
        }
        let mut batch = Batch::new(now);
        batch.meta = facts;
        if self.commit(batch) {
            self.held_removals.recorded(&self.agenda);
        }
    }

    pub(super) fn held_projects(&self) -> HeldProjects {
        held_projects(&self.agenda, &self.status)
    }

    /// Stores that the removals with this token are accepted, and releases them.
    pub(super) fn accept(&mut self, token: &str) -> Accepted {
        let held = self.held_projects();
        if held.reason.is_none() || held.token != token {
            return Accepted::Changed;
        }
        let mut batch = Batch::new(self.clock.now());
        batch.meta = self.held_removals.to_record_accepted(&self.agenda);
        if let Err(error) = self.recorder.commit(batch) {
            self.store_failed(&error);
            return Accepted::Failed(crate::error::chain(&error));
        }
        self.agenda.accept(self.clock.moment());
        self.held_removals.recorded(&self.agenda);
        info!(
            projects = held.projects.len(),
            "an operator accepted the held removals"
        );
        self.note_held_removals();
        Accepted::Released(held.projects.len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::event::Origin;
    use crate::domain::settle::Unresolved;
    use crate::domain::vanished::Presence;

    #[test]
    fn an_accepted_removal_is_forgotten_once_it_is_judged() {
        let [deleted, unreadable] = ["a", "b"].map(|name| ProjectKey::new("sales", name));
        let mut agenda = Agenda::new(Duration::from_secs(1));
        let now = (Moment::ZERO, Timestamp::UNIX_EPOCH);
        agenda.remember(None, [deleted.clone(), unreadable.clone()], now.0);
        let mut held = HeldRemovals {
            stored: Stored::of(&agenda),
            n_accepted: 2,
            reported: None,
        };
        agenda.hint(&unreadable, now.0, Origin::Live, "a file changed");
        let left = Unresolved {
            presence: Presence::Left,
            ..Unresolved::default()
        };
        agenda.observed(&deleted, now.0, left);
        assert_eq!(held.to_record(&agenda, now), [], "the other one is due");
        agenda.due(now.0, 1);
        let unclear = Unresolved {
            presence: Presence::Unclear,
            ..Unresolved::default()
        };
        agenda.observed(&unreadable, now.0, unclear);
        let expected = (MetaKey::AcceptedRemovals, text_of(&[unreadable]));
        assert_eq!(held.to_record(&agenda, now), [expected]);
        held.recorded(&agenda);
        assert_eq!(held.to_record(&agenda, now), []);
    }
}
