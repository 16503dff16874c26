//! The report for `status`, `webhooks`, health, `/metrics` and the control socket.
//!
//! Constraint: each figure is gathered only here, and all outputs take it from the report. So
//! metrics, `status` and `/readyz` do not contradict each other. Gauges and counts of the engine
//! are fields of [`Snapshot`], and counts of attempts are fields of [`AttemptCounts`].

mod fleet;
mod passed_over;
mod settings;
mod summary;
mod unwatched;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use utoipa::ToSchema;

use crate::clock::Clock;
use crate::config::Config;
use crate::domain::state_size::StateSize;
use crate::engine::status::Snapshot;
use crate::engine::statuses::{EndingReport, RepositoryReport, Statuses};
use crate::logging::DroppedLines;
use crate::metrics::{AttemptCounts, Metrics};
use crate::store::{LeaseView, Listings, RecordedProblem, Store, StoreError, WebhookState};

pub(crate) use fleet::FleetReport;
pub(crate) use passed_over::{PassedOver, passed_over};
pub(crate) use settings::Settings;
pub(crate) use summary::{public_summary, summary};
pub(crate) use unwatched::UnwatchedReport;

/// The maximum number of invalid files in a report.
pub(crate) const INCOMPLETE_MAX: usize = 1_000;

/// The largest number of deliveries that a limited count shows exactly.
///
/// A larger number is shown as "more than 10,000".
pub(crate) const SHOWN_MAX: u64 = 10_000;

/// How long counts of deliveries are reused, as a multiple of the time that the counting took.
const COUNTS_KEPT: u32 = 10;
/// The maximum time for which the counts of deliveries are reused.
const COUNTS_KEPT_MAX: Duration = Duration::from_secs(1);

/// The monotonic time until which the states of webhooks are reused, and these states.
type Counted = (Duration, Vec<WebhookState>);

/// The sources of a running daemon's report.
pub(crate) struct Sources {
    pub(crate) statuses: Arc<Statuses>,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) dropped_lines: DroppedLines,
    pub(crate) clock: Clock,
    /// The size of the state at the last measurement by housekeeping.
    pub(crate) state_size: watch::Receiver<StateSize>,
    /// An engine is stuck if its loop starts no new iteration for this time.
    ///
    /// If the loop waits for the store, a longer time applies.
    pub(crate) standstill: Duration,
    pub(crate) counted: Mutex<Option<Counted>>,
    /// The configuration that the daemon uses.
    pub(crate) config: std::sync::Mutex<Arc<Config>>,
}

/// The part of the report that comes from a running daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DaemonReport {
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) uptime_seconds: u64,
    /// Whether the loop of at least one engine runs.
    pub(crate) alive: bool,
    pub(crate) state_size: StateSize,
    #[serde(flatten)]
    pub(crate) engine: Snapshot,
    /// The state of each repository, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) repositories: Vec<RepositoryReport>,
    /// Engines that were asked to stop and have not ended, for example of a removed repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) ending: Vec<EndingReport>,
    /// Repositories that nobody has watched since this process took over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) left_out: Vec<String>,
    pub(crate) since_start: Counts,
    /// The settings that the daemon uses.
    #[serde(default)]
    pub(crate) settings: Settings,
}

/// The counts since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Counts {
    pub(crate) events: BTreeMap<String, u64>,
    #[serde(flatten)]
    pub(crate) attempts: AttemptCounts,
    /// The number of full scans, by reason.
    pub(crate) rescans: BTreeMap<String, u64>,
    /// The number of reloads of the configuration, by result.
    pub(crate) reloads: BTreeMap<String, u64>,
    /// The number of log lines that were dropped because the log's reader stalled.
    #[serde(default)]
    pub(crate) dropped_log_lines: u64,
}

impl Sources {
    /// Whether at least one engine is not stuck.
    pub(crate) fn is_alive(&self) -> bool {
        self.statuses.is_alive(self.clock.moment(), self.standstill)
    }

    /// The merged state of all engines.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = self.clock.moment();
        self.statuses.snapshot(now, self.standstill)
    }

    /// Collects the figures of the daemon, which are all in memory. Does not wait.
    pub(crate) fn daemon(&self) -> DaemonReport {
        let engine = self.snapshot();
        let mut events = BTreeMap::new();
        for ((event, _), n) in &engine.events {
            *events.entry((*event).to_owned()).or_default() += n;
        }
        let (applied, rejected) = engine.reloads;
        DaemonReport {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.clock.moment().as_secs(),
            alive: self.is_alive(),
            state_size: *self.state_size.borrow(),
            since_start: Counts {
                events,
                attempts: self.metrics.counts(),
                rescans: engine.rescans.clone(),
                reloads: [("applied", applied), ("rejected", rejected)]
                    .map(|(result, n)| (result.to_owned(), n))
                    .into(),
                dropped_log_lines: self.dropped_lines.count(),
            },
            settings: Settings::of(&self.config()),
            repositories: self.statuses.reports(self.clock.moment(), self.standstill),
            ending: self.statuses.ending(),
            left_out: self.statuses.left_out(),
            engine,
        }
    }

    /// Replaces the configuration that the report describes.
    pub(crate) fn configure(&self, config: &Arc<Config>) {
        *self.lock_config() = Arc::clone(config);
    }

    /// Returns the configuration that the daemon uses.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.lock_config())
    }

    fn lock_config(&self) -> MutexGuard<'_, Arc<Config>> {
        let config = self.config.lock();
        config.unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the states of webhooks, with counts of their deliveries, from the store.
    ///
    /// Counting a million deliveries takes 0.15 s of processor time, and up to 2 s on a busy
    /// machine. So requests share the counts. With few deliveries, counts are reused only for
    /// milliseconds.
    pub(crate) async fn states(&self) -> Result<Vec<WebhookState>, StoreError> {
        let mut counted = self.counted.lock().await;
        let begin = self.clock.moment();
        Ok(match &*counted {
            Some((until, states)) if begin < *until => states.clone(),
            _ => {
                let states = self.store.webhook_states().await?;
                let end = self.clock.moment();
                let kept = end.saturating_sub(begin).saturating_mul(COUNTS_KEPT);
                let until = end.saturating_add(kept.min(COUNTS_KEPT_MAX));
                *counted = Some((until, states.clone()));
                states
            }
        })
    }

    /// Forgets the counts, so that an operator sees the effect of a change immediately.
    pub(crate) async fn forget_states(&self) {
        *self.counted.lock().await = None;
    }

    /// Returns the lease and the processes that share the state, as last read.
    ///
    /// `None` if the state is in SQLite.
    pub(crate) fn lease(&self) -> Option<LeaseView> {
        let view = self.store.fleet()?;
        let view = view.borrow().clone();
        Some(view)
    }

    /// Returns the configured webhooks, then the parked webhooks.
    pub(crate) async fn webhooks(&self) -> Result<Vec<WebhookReport>, StoreError> {
        let states = self.states().await?;
        Ok(WebhookReport::all(self.metrics.configured(), states))
    }
}

/// The whole report, with or without a running daemon.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) running: bool,
    #[serde(flatten)]
    pub(crate) daemon: Option<DaemonReport>,
    /// Why the daemon did not answer, if it may be running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unknown: Option<String>,
    pub(crate) repository: String,
    pub(crate) state_dir: String,
    /// Whether the configuration file differs from the settings that the daemon uses.
    pub(crate) is_file_changed: bool,
    /// Whether there is a recorded state.
    pub(crate) has_state: bool,
    /// Why the recorded state cannot be read. The report then has only the daemon's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(crate) state_error: Option<String>,
    /// The number of recorded projects, if no running daemon reports it.
    #[serde(rename = "projects", skip_serializing_if = "Option::is_none")]
    pub(crate) recorded_projects: Option<usize>,
    /// The recorded repositories that are not in the list of watched repositories.
    ///
    /// Empty without the setting `repositories`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) unwatched: Vec<UnwatchedReport>,
    pub(crate) incomplete: Vec<ProblemReport>,
    pub(crate) webhooks: Vec<WebhookReport>,
    /// The processes that share the repository, if the state is in PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(crate) fleet: Option<FleetReport>,
}

impl Report {
    /// Makes the report from the store and the daemon's answer.
    ///
    /// `file` has the settings of the configuration file. If there is no answer, `daemon` has the
    /// reason, or `None` if no daemon runs. Without a readable state, `listings` is `None`.
    pub(crate) fn gather(
        file: &Settings,
        state_dir: &Path,
        daemon: Result<DaemonReport, Option<String>>,
        states: Vec<WebhookState>,
        listings: Option<&Listings>,
    ) -> Result<Self, StoreError> {
        let (daemon, unknown) = match daemon {
            Ok(daemon) => (Some(daemon), None),
            Err(unknown) => (None, unknown),
        };
        let recorded_projects = match (&daemon, listings) {
            (Some(_), _) => None,
            (None, Some(record)) => Some(record.n_defined_of(None)?),
            (None, None) => Some(0),
        };
        let incomplete =
            listings.map_or(Ok(Vec::new()), |record| record.problems(INCOMPLETE_MAX))?;
        let settings = daemon.as_ref().map_or(file, |daemon| &daemon.settings);
        let fleet = listings.map_or(Ok(None), |record| record.fleet())?;
        let watched = match (&daemon, &fleet) {
            (None, Some(fleet)) => fleet.watched_by_another(),
            _ => None,
        };
        let watched = watched.unwrap_or(&settings.repositories);
        let incomplete = incomplete.into_iter().filter(|one| is_of(one, watched));
        let incomplete = incomplete.map(ProblemReport::of).collect();
        let unwatched = match listings {
            Some(record) if !settings.repositories.is_empty() => {
                UnwatchedReport::all(watched, record)?
            }
            _ => Vec::new(),
        };
        let webhooks = WebhookReport::of_settings(settings, states);
        Ok(Self {
            running: daemon.is_some(),
            unknown,
            repository: settings.repository.clone(),
            is_file_changed: settings != file,
            daemon,
            state_dir: state_dir.display().to_string(),
            has_state: listings.is_some(),
            state_error: None,
            recorded_projects,
            unwatched,
            fleet: fleet.map(FleetReport::of),
            incomplete,
            webhooks,
        })
    }

    /// Returns the state of each repository, if there are several and a daemon runs.
    pub(crate) fn repositories(&self) -> &[RepositoryReport] {
        let daemon = self.daemon.as_ref();
        daemon.map_or(&[], |daemon| &daemon.repositories)
    }

    /// Returns the number of recorded projects.
    pub(crate) fn projects(&self) -> usize {
        let running = self.daemon.as_ref().map(|daemon| daemon.engine.projects);
        running.or(self.recorded_projects).unwrap_or_default()
    }
}

/// Whether an invalid file is in a watched repository.
fn is_of(problem: &RecordedProblem, watched: &[String]) -> bool {
    let repository = problem.key.as_ref().and_then(|key| key.repository());
    repository.is_none_or(|name| watched.iter().any(|known| known == name))
}

/// An invalid file.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProblemReport {
    /// The name of the repository, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(crate) repository: Option<String>,
    organization: Option<String>,
    project: Option<String>,
    pub(crate) path: String,
    pub(crate) reason: String,
    pub(crate) line: Option<u64>,
    pub(crate) column: Option<u64>,
    pub(crate) since: Timestamp,
}

impl ProblemReport {
    fn of(recorded: RecordedProblem) -> Self {
        let repository = recorded.key.as_ref().and_then(|key| key.repository());
        let repository = repository.map(str::to_owned);
        let key = recorded.key.filter(|key| !key.project.is_empty());
        let names = key.map(|key| (key.organization_name().to_owned(), key.project));
        let (organization, project) = names.unzip();
        Self {
            repository,
            organization,
            project,
            path: recorded.problem.path,
            reason: recorded.problem.reason,
            line: recorded.problem.line,
            column: recorded.problem.column,
            since: recorded.since,
        }
    }
}

/// Whether a webhook sends, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Standing {
    /// The webhook sends.
    On,
    /// The receiver or an operator switched the webhook off.
    Off,
    /// The configuration has `enabled: false` for the webhook.
    Disabled,
    /// The webhook is not in the configuration. Its deliveries are kept.
    Parked,
}

impl Standing {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Standing::On => "on",
            Standing::Off => "off",
            Standing::Disabled => "disabled",
            Standing::Parked => "parked",
        }
    }
}

/// A configured or parked webhook and its queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebhookReport {
    pub(crate) name: String,
    pub(crate) standing: Standing,
    pub(crate) off: Option<OffReport>,
    pub(crate) pending: u64,
    pub(crate) oldest_pending: Option<Timestamp>,
    pub(crate) next_attempt: Option<Timestamp>,
    pub(crate) dead: u64,
    pub(crate) delivered: u64,
    pub(crate) cancelled: u64,
    pub(crate) last_delivered: Option<Timestamp>,
    pub(crate) last_error: Option<ErrorReport>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OffReport {
    pub(crate) cause: &'static str,
    pub(crate) reason: String,
    pub(crate) since: Timestamp,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorReport {
    pub(crate) at: Timestamp,
    pub(crate) error: String,
}

impl WebhookReport {
    /// Returns the configured webhooks in the given order, then the parked webhooks.
    ///
    /// `configured` has the name of each webhook, and whether it is enabled. `states` also has
    /// webhooks that are not configured. Those with deliveries are parked.
    pub(crate) fn all(
        configured: impl IntoIterator<Item = (String, bool)>,
        states: Vec<WebhookState>,
    ) -> Vec<Self> {
        let mut by_name: BTreeMap<String, WebhookState> = states
            .into_iter()
            .map(|state| (state.name.clone(), state))
            .collect();
        let mut reports = Vec::new();
        for (name, is_enabled) in configured {
            let state = by_name.remove(&name).unwrap_or_default();
            let standing = if !is_enabled {
                Standing::Disabled
            } else if state.off.is_some() {
                Standing::Off
            } else {
                Standing::On
            };
            reports.push(Self::of(name, standing, state));
        }
        let parked = by_name
            .into_iter()
            .map(|(name, state)| Self::of(name, Standing::Parked, state));
        // Leave out webhooks that are not in the configuration and have no deliveries.
        reports.extend(parked.filter(|report| {
            [
                report.pending,
                report.dead,
                report.delivered,
                report.cancelled,
            ]
            .iter()
            .any(|n| *n > 0)
        }));
        reports
    }

    /// Returns the webhooks of the settings, then the parked webhooks of the recorded state.
    pub(crate) fn recorded(
        settings: &Settings,
        listings: Option<&Listings>,
    ) -> Result<Vec<Self>, StoreError> {
        let states = listings.map_or(Ok(Vec::new()), |listings| listings.webhook_states())?;
        Ok(Self::of_settings(settings, states))
    }

    /// Returns the webhooks of the settings, then the parked webhooks in `states`.
    pub(crate) fn of_settings(settings: &Settings, states: Vec<WebhookState>) -> Vec<Self> {
        let webhooks = settings.webhooks.iter();
        let configured = webhooks.map(|webhook| (webhook.name.clone(), webhook.enabled));
        Self::all(configured, states)
    }

    fn of(name: String, standing: Standing, state: WebhookState) -> Self {
        Self {
            name,
            standing,
            off: state.off.map(|off| OffReport {
                cause: off.cause.as_str(),
                reason: off.reason,
                since: off.at,
            }),
            pending: state.n_pending,
            oldest_pending: state.oldest_pending,
            // A webhook that is not on has no next attempt.
            next_attempt: state.next_attempt.filter(|_| standing == Standing::On),
            dead: state.n_dead,
            delivered: state.n_delivered,
            cancelled: state.n_cancelled,
            last_delivered: state.last_delivered,
            last_error: state
                .last_error
                .map(|(at, error)| ErrorReport { at, error }),
        }
    }
}
