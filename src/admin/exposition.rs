//! Serves `GET /metrics`: the report in the text format of Prometheus.
//!
//! Constraint: a scrape must not delay events and deliveries. It takes the figures of webhooks from
//! [`Sources::webhooks`](crate::report::Sources::webhooks), which counts deliveries in the store.
//! All other figures are in memory.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder};
use tracing::warn;

use super::Admin;
use crate::domain::event::{EventKind, Origin};
use crate::domain::parameters::UsernameSource;
use crate::domain::rescan::RescanReason;
use crate::engine::status::{Snapshot, Trouble};
use crate::error::chain;
use crate::metrics::{Metrics, PREFIX};
use crate::report::{DaemonReport, Standing, WebhookReport};
use crate::store::{Fault, LeaseView};

/// The content type of the text format (prometheus.io, "Exposition formats").
pub(super) const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long a scrape waits for the store.
const STORE_MAX: Duration = Duration::from_secs(5);

pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let sources = &admin.sources;
    let lease = sources.lease();
    let webhooks = match tokio::time::timeout(STORE_MAX, sources.webhooks()).await {
        Ok(Ok(webhooks)) => webhooks,
        // Serve the other metrics, such as `database_reachable`.
        Ok(Err(error)) if lease.is_some() && matches!(error.fault(), Fault::Unreachable(_)) => {
            Vec::new()
        }
        Err(_) if lease.is_some() => Vec::new(),
        Ok(Err(error)) => {
            // Only the log gets the error, because the error names the database and its host, and
            // anybody can read the metrics.
            warn!(error = %chain(&error), "cannot read the state for /metrics");
            return unavailable("the state cannot be read; the log has the reason");
        }
        Err(_) => return unavailable("reading the state takes too long"),
    };
    let now = sources.clock.now();
    match text(
        &sources.daemon(),
        lease.as_ref(),
        &webhooks,
        &sources.metrics,
        now,
    ) {
        Ok(text) => ([(CONTENT_TYPE, FORMAT)], text).into_response(),
        Err(error) => unavailable(&error.to_string()),
    }
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

fn text(
    daemon: &DaemonReport,
    lease: Option<&LeaseView>,
    webhooks: &[WebhookReport],
    metrics: &Metrics,
    now: Timestamp,
) -> Result<String, prometheus::Error> {
    let figures = Figures(Registry::new_custom(Some(PREFIX.to_owned()), None)?);
    figures.daemon(daemon)?;
    if let Some(view) = lease {
        figures.lease(view)?;
    }
    figures.counters(daemon)?;
    figures.webhooks(webhooks, now)?;
    figures.encode(Some(metrics))
}

/// The name of a gauge: 1 in the process that has the lease, 0 in the others.
const LEASE_HELD: &str = "lease_held";
const LEASE_HELD_HELP: &str = "1 while this process has the lease and watches, else 0.";

/// Returns the metrics of a process that does not watch.
///
/// `metrics` has the counters of attempts, if the process sends.
pub(super) fn of_waiting(
    database_reachable: bool,
    metrics: Option<&Metrics>,
) -> Result<String, prometheus::Error> {
    let figures = Figures(Registry::new_custom(Some(PREFIX.to_owned()), None)?);
    figures.gauges(LEASE_HELD, LEASE_HELD_HELP, &[], [(vec![], 0.0)])?;
    figures.gauges(
        "database_reachable",
        "1 if the database answered the last request for a lease.",
        &[],
        [(vec![], flag(database_reachable))],
    )?;
    figures.gauges(
        "build_info",
        "Always 1. The label has the version.",
        &["version"],
        [(vec![env!("CARGO_PKG_VERSION")], 1.0)],
    )?;
    figures.encode(metrics)
}

/// The gauges and counters of one scrape.
struct Figures(Registry);

impl Figures {
    /// Returns the figures as text, with the counters of attempts if given.
    fn encode(&self, metrics: Option<&Metrics>) -> Result<String, prometheus::Error> {
        let mut families = metrics.map(Metrics::families).unwrap_or_default();
        families.extend(self.0.gather());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn daemon(&self, daemon: &DaemonReport) -> Result<(), prometheus::Error> {
        let engines = engines(daemon);
        let gauge = |name, help, value: fn(&Snapshot) -> f64| {
            let of_engine = |engine: &Snapshot| vec![(vec![], value(engine))];
            self.gauges_of(&engines, name, help, &[], of_engine)
        };
        gauge("projects", "Recorded projects.", |engine| {
            number(engine.projects)
        })?;
        gauge("watches", "Watched directories.", |engine| {
            number(engine.coverage.watches)
        })?;
        gauge(
            "uncovered_directories",
            "Directories that should be watched but are not.",
            |engine| number(engine.coverage.uncovered),
        )?;
        gauge(
            "incomplete_files",
            "Ignored files: incomplete, malformed or unreadable.",
            |engine| number(engine.problems),
        )?;
        gauge(
            "watching",
            "1 while the repository is watched. /readyz answers 200 while all are.",
            |engine| flag(engine.is_watching()),
        )?;
        gauge("polling", "1 while a timer scans for changes.", |engine| {
            flag(engine.coverage.polls)
        })?;
        self.state_size(daemon)?;
        self.gauges_of(
            &engines,
            "held_removals",
            "Projects whose removals are held, because all or more than half of the projects vanished together, or may come back.",
            &["reason"],
            |engine| {
                let causes = ["all", "more-than-half"].map(|cause| {
                    let held = engine.held_removals.as_ref();
                    let held = held.filter(|held| held.cause == cause);
                    (vec![cause], number(held.map_or(0, |held| held.count)))
                });
                causes.into()
            },
        )?;
        self.troubles(daemon, &engines)?;
        let version = vec![daemon.version.as_str()];
        self.gauges(
            "build_info",
            "Always 1. The label has the version.",
            &["version"],
            [(version, 1.0)],
        )
    }

    fn troubles<'a>(
        &self,
        daemon: &'a DaemonReport,
        engines: &[Engine<'a>],
    ) -> Result<(), prometheus::Error> {
        let (labels, mut rows) = labelled(engines, &["part"], |engine| {
            let parts = [
                ("root", Trouble::Root),
                ("store", Trouble::Store),
                ("removals", Trouble::Removals),
                ("engine", Trouble::Engine),
                ("watch", Trouble::Watch),
                ("repositories", Trouble::Repositories),
            ];
            let value = |part| flag(engine.troubles.contains_key(&part));
            parts.map(|(name, part)| (vec![name], value(part))).into()
        });
        let left_out = daemon.left_out.iter();
        rows.extend(left_out.map(|name| (vec!["repositories", name.as_str()], 1.0)));
        self.gauges(
            "trouble",
            "1 while some or all inference waits because of the repository's root, the store, held removals, a stuck engine or watch thread, \
             or because nobody has watched the repository since a take-over.",
            &labels,
            rows,
        )
    }

    fn state_size(&self, daemon: &DaemonReport) -> Result<(), prometheus::Error> {
        let size = daemon.state_size;
        // Before the first measurement, all three metrics are 0.
        let limit = size.limit.or((size.used == 0).then_some(0));
        for (name, help, bytes) in [
            (
                "state_bytes",
                "The used part of the state's database.",
                Some(size.used),
            ),
            (
                "state_limit_bytes",
                "The limit of state_bytes, at which the oldest deliveries are removed.",
                limit,
            ),
            (
                "state_log_bytes",
                "The write-ahead log of the state's database.",
                Some(size.log),
            ),
        ] {
            let rows = bytes.map(|bytes| (vec![], bytes as f64));
            self.gauges(name, help, &[], rows)?;
        }
        Ok(())
    }

    /// Adds the metrics about the lease, for the process that holds it.
    fn lease(&self, view: &LeaseView) -> Result<(), prometheus::Error> {
        let standbys = view.fleet.standbys.iter();
        let n_standbys = standbys.filter(|standby| standby.is_waiting).count();
        let senders = view.fleet.senders.iter();
        let n_senders = senders.filter(|sender| sender.is_alive).count();
        let epoch = view.fleet.lease.as_ref().map_or(0, |lease| lease.epoch);
        for (name, help, value) in [
            (LEASE_HELD, LEASE_HELD_HELP, 1.0),
            (
                "lease_epoch",
                "The number of the lease; it grows with each take-over.",
                epoch as f64,
            ),
            (
                "standbys",
                "Processes that wait for the lease.",
                number(n_standbys),
            ),
            (
                "senders",
                "Processes that deliver, including this one if it does.",
                number(n_senders),
            ),
            (
                "database_reachable",
                "1 if the database answered the last renewal of the lease.",
                flag(view.is_reachable),
            ),
        ] {
            self.gauges(name, help, &[], [(vec![], value)])?;
        }
        Ok(())
    }

    fn counters(&self, daemon: &DaemonReport) -> Result<(), prometheus::Error> {
        let engines = engines(daemon);
        self.counts_of(
            &engines,
            "events_total",
            "Recorded events.",
            &["event", "origin"],
            |engine| {
                let kinds = EventKind::ALL.into_iter().flat_map(|kind| {
                    [Origin::Live, Origin::CatchUp].map(|origin| {
                        let labels = (kind.as_str(), origin.as_str());
                        let n = engine.events.get(&labels).copied();
                        (vec![labels.0, labels.1], n)
                    })
                });
                kinds.collect()
            },
        )?;
        self.counts_of(
            &engines,
            "actor_total",
            "Recorded events by the source of their username, if `audit` is a source.",
            &["source"],
            |engine| {
                let sources = UsernameSource::WORDS
                    .map(|source| (vec![source], engine.usernames.get(source).copied()));
                sources.into()
            },
        )?;
        self.counts_of(
            &engines,
            "actor_losses_total",
            "How often the kernel dropped audit records before the daemon read them.",
            &[],
            |engine| vec![(vec![], engine.actor.as_ref().map(|actor| actor.losses))],
        )?;
        self.counts_of(
            &engines,
            "rescans_total",
            "Full scans.",
            &["reason"],
            |engine| {
                let reasons = RescanReason::ALL.map(|reason| {
                    let reason = reason.as_str();
                    (vec![reason], engine.rescans.get(reason).copied())
                });
                reasons.into()
            },
        )?;
        let reloads = ["applied", "rejected"].map(|result| {
            let n = daemon.since_start.reloads.get(result).copied();
            (vec![result], n)
        });
        self.counts(
            "config_reloads_total",
            "Reloads of the configuration.",
            &["result"],
            reloads,
        )?;
        self.counts(
            "log_lines_dropped_total",
            "Log lines that were dropped because the reader of the log stalled.",
            &[],
            [(vec![], Some(daemon.since_start.dropped_log_lines))],
        )
    }

    fn webhooks(
        &self,
        webhooks: &[WebhookReport],
        now: Timestamp,
    ) -> Result<(), prometheus::Error> {
        let age = |since: Timestamp| {
            let age = Duration::try_from(now.duration_since(since));
            age.unwrap_or_default().as_secs_f64()
        };
        // Leave out webhooks that are not configured and have no pending or dead deliveries.
        let shown = |webhook: &&WebhookReport| {
            webhook.standing != Standing::Parked || webhook.pending > 0 || webhook.dead > 0
        };
        let gauges = |name, help, value: &dyn Fn(&WebhookReport) -> f64| {
            let webhooks = webhooks.iter().filter(shown);
            let rows = webhooks.map(|webhook| (vec![webhook.name.as_str()], value(webhook)));
            self.gauges(name, help, &["webhook"], rows)
        };
        gauges("pending", "Pending deliveries.", &|webhook| {
            webhook.pending as f64
        })?;
        gauges(
            "oldest_pending_seconds",
            "The age of the oldest pending delivery.",
            &|webhook| webhook.oldest_pending.map_or(0.0, age),
        )?;
        gauges("dead", "Deliveries that failed for good.", &|webhook| {
            webhook.dead as f64
        })?;
        gauges(
            "webhook_enabled",
            "1 while the webhook sends. 0 while it is off, disabled, or removed with deliveries kept.",
            &|webhook| flag(webhook.standing == Standing::On),
        )
    }

    /// Adds a gauge with the values of each engine.
    fn gauges_of<'a>(
        &self,
        engines: &[Engine<'a>],
        name: &str,
        help: &str,
        labels: &[&str],
        rows: impl Fn(&'a Snapshot) -> Vec<(Vec<&'a str>, f64)>,
    ) -> Result<(), prometheus::Error> {
        let (labels, rows) = labelled(engines, labels, rows);
        self.gauges(name, help, &labels, rows)
    }

    /// Adds a counter with the values of each engine.
    fn counts_of<'a>(
        &self,
        engines: &[Engine<'a>],
        name: &str,
        help: &str,
        labels: &[&str],
        rows: impl Fn(&'a Snapshot) -> Vec<(Vec<&'a str>, Option<u64>)>,
    ) -> Result<(), prometheus::Error> {
        let (labels, rows) = labelled(engines, labels, rows);
        self.counts(name, help, &labels, rows)
    }

    fn gauges<'a>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        rows: impl IntoIterator<Item = (Vec<&'a str>, f64)>,
    ) -> Result<(), prometheus::Error> {
        let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
        for (values, value) in rows {
            gauges.with_label_values(&values).set(value);
        }
        self.register(gauges)
    }

    fn counts<'a>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        rows: impl IntoIterator<Item = (Vec<&'a str>, Option<u64>)>,
    ) -> Result<(), prometheus::Error> {
        let counters = CounterVec::new(Opts::new(name, help), labels)?;
        for (values, n) in rows {
            let counter = counters.with_label_values(&values);
            counter.inc_by(n.unwrap_or_default() as f64);
        }
        self.register(counters)
    }

    fn register(&self, collector: impl Collector + 'static) -> Result<(), prometheus::Error> {
        self.0.register(Box::new(collector))
    }
}

/// The state of an engine, and the name of its repository if there are several.
type Engine<'a> = (Option<&'a str>, &'a Snapshot);

fn engines(daemon: &DaemonReport) -> Vec<Engine<'_>> {
    if daemon.repositories.is_empty() {
        return vec![(None, &daemon.engine)];
    }
    let several = daemon.repositories.iter();
    several
        .map(|one| (Some(one.name.as_str()), &one.engine))
        .collect()
}

/// The rows of a metric: the values of the labels, and the value of the metric.
type Rows<'a, T> = Vec<(Vec<&'a str>, T)>;

/// Returns the labels and rows of all engines.
///
/// Adds the label `repository` if there are several repositories.
fn labelled<'a, 'l, T>(
    engines: &[Engine<'a>],
    labels: &[&'l str],
    rows: impl Fn(&'a Snapshot) -> Rows<'a, T>,
) -> (Vec<&'l str>, Rows<'a, T>) {
    let has_several = engines.iter().any(|(name, _)| name.is_some());
    let mut labels = labels.to_vec();
    labels.extend(has_several.then_some("repository"));
    let rows = engines.iter().flat_map(|(name, engine)| {
        let rows = rows(engine).into_iter();
        rows.map(|(mut values, value)| {
            values.extend(*name);
            (values, value)
        })
    });
    (labels, rows.collect())
}

fn number(n: usize) -> f64 {
    n as f64
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::metrics::AttemptOutcome;
    use crate::store::WebhookState;

    fn lines(metrics: &Metrics, parked: Vec<WebhookState>) -> Vec<String> {
        let webhooks = WebhookReport::all(metrics.configured(), parked);
        let daemon = DaemonReport::default();
        let text = text(&daemon, None, &webhooks, metrics, Timestamp::UNIX_EPOCH).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn series_exist_from_the_start_and_go_with_their_webhook() {
        let only = |name: &str| BTreeMap::from([(name.to_owned(), true)]);
        let metrics = Metrics::new(only("catalog")).unwrap();
        let at_first = lines(&metrics, Vec::new());
        for expected in [
            "project_webhooks_deliveries_total{outcome=\"gone\",webhook=\"catalog\"} 0",
            "project_webhooks_attempt_seconds_count{webhook=\"catalog\"} 0",
            "project_webhooks_events_total{event=\"snapshot-restore\",origin=\"catch-up\"} 0",
            "project_webhooks_pending{webhook=\"catalog\"} 0",
            "project_webhooks_webhook_enabled{webhook=\"catalog\"} 1",
            "project_webhooks_config_reloads_total{result=\"rejected\"} 0",
            "project_webhooks_rescans_total{reason=\"poll\"} 0",
        ] {
            assert!(
                at_first.iter().any(|line| line == expected),
                "{expected}\n{at_first:#?}"
            );
        }
        let took = Duration::from_millis(3);
        metrics.attempted("catalog", AttemptOutcome::Delivered, took, took);
        metrics.configure(only("audit"));
        let later = lines(&metrics, Vec::new());
        assert!(
            later.iter().all(|line| !line.contains("catalog")),
            "{later:#?}"
        );
    }

    #[test]
    fn parked_deliveries_are_shown_and_label_values_are_escaped() {
        let metrics = Metrics::new(BTreeMap::new()).unwrap();
        let parked = |n_pending| {
            vec![WebhookState {
                name: "a\"b\\c\nd".to_owned(),
                n_pending,
                n_delivered: 1,
                ..WebhookState::default()
            }]
        };
        let expected = "project_webhooks_pending{webhook=\"a\\\"b\\\\c\\nd\"} 2";
        let shown = lines(&metrics, parked(2));
        assert!(shown.iter().any(|line| line == expected), "{shown:#?}");
        let empty = lines(&metrics, parked(0));
        assert!(empty.iter().all(|line| !line.contains("_pending{")));
    }
}
