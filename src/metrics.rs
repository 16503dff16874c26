//! What is counted and measured, in the text format of Prometheus (exposition format 0.0.4).
//!
//! Constraint: counting costs a few nanoseconds and never fails what is counted. What others know
//! better, such as the length of a queue, is given when somebody asks ([`Gauges`]) and not kept
//! twice. Names and labels are the contract's, section 8.
//!
//! Every series whose labels are known exists from the start, at 0, so that a rate over the first
//! occurrence is seen; those of a webhook that is not configured any more go.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::domain::event::{EventKind, Origin};
use crate::domain::rescan::RescanReason;

/// What became of an attempt: the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Answered 2xx.
    Delivered,
    /// Failed, and is tried again.
    Failed,
    /// Failed, and was the last of its schedule.
    Dead,
    /// Answered 410: the webhook is switched off.
    Gone,
}

impl AttemptOutcome {
    const ALL: [Self; 4] = [Self::Delivered, Self::Failed, Self::Dead, Self::Gone];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Gone => "gone",
        }
    }
}

/// From a kept connection on loopback to the longest `timeout` that anybody sets.
const ATTEMPT_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

/// From the fastest that can be to what a day's outage makes of it.
const LATENCY_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 86400.0,
];

/// How things stand at the moment of asking.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Whether the first comparison is done and nothing is wrong.
    pub is_watching: bool,
    /// Whether the repository's root is lost or another one.
    pub has_root_trouble: bool,
    /// Whether the state cannot be written.
    pub has_store_trouble: bool,
    /// How many projects are on record.
    pub projects: usize,
    /// How many directories are watched.
    pub watches: usize,
    /// How many directories should be and are not.
    pub uncovered: usize,
    /// Whether changes are found by comparison on a timer.
    pub polls: bool,
    /// How many files do not count now.
    pub incomplete: usize,
    /// Events recorded since the start, by name and origin.
    pub events: Vec<(&'static str, &'static str, u64)>,
    /// Comparisons of everything, by reason.
    pub rescans: Vec<(String, u64)>,
    /// How often the configuration was read again and applied.
    pub reloads_applied: u64,
    /// How often it was read again and rejected.
    pub reloads_rejected: u64,
    /// The webhooks that have a queue or a history.
    pub webhooks: Vec<WebhookGauges>,
}

/// How a webhook stands at the moment of asking.
#[derive(Clone, Debug, Default)]
pub struct WebhookGauges {
    /// Its name.
    pub name: String,
    /// How many deliveries wait.
    pub pending: u64,
    /// How long the one that waits longest has waited.
    pub oldest: Duration,
    /// How many are dead and still kept.
    pub dead: u64,
    /// Whether it was switched off, by its receiver or an operator.
    pub is_off: bool,
}

/// What was counted since the start, for who has no Prometheus.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Events that were recorded, by name.
    pub events: BTreeMap<String, u64>,
    /// Attempts that ended, by webhook and by what became of them.
    pub attempts: BTreeMap<String, BTreeMap<String, u64>>,
    /// How long an attempt took on average, by webhook, in seconds.
    pub attempt_seconds: BTreeMap<String, f64>,
    /// From a file's last change to the 2xx of its callback, on average, in seconds.
    pub event_latency_seconds: Option<f64>,
    /// Comparisons of everything, by reason.
    pub rescans: BTreeMap<String, u64>,
    /// How often the configuration was read again, by result.
    pub reloads: BTreeMap<String, u64>,
}

/// The counters of a running daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The webhooks of the configuration, and whether it enables them. Held while a text is made, so
    /// that two who ask at once do not mix.
    configured: Mutex<BTreeMap<String, bool>>,
    deliveries: IntCounterVec,
    attempt_seconds: HistogramVec,
    latency: Histogram,
    events: IntCounterVec,
    rescans: IntCounterVec,
    reloads: IntCounterVec,
    pending: IntGaugeVec,
    oldest_pending: GaugeVec,
    dead: IntGaugeVec,
    webhook_enabled: IntGaugeVec,
    projects: IntGauge,
    watches: IntGauge,
    uncovered: IntGauge,
    incomplete: IntGauge,
    watching: IntGauge,
    polling: IntGauge,
    trouble: IntGaugeVec,
}

impl Metrics {
    /// Counters at 0 for these webhooks; each with whether the configuration enables it.
    ///
    /// # Errors
    ///
    /// Two metrics have one name, which a test of this module rules out.
    pub fn new(webhooks: BTreeMap<String, bool>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("project_webhooks".to_owned()), None)?;
        let make = Maker(&registry);
        let metrics = Self {
            deliveries: make.counters(
                "deliveries_total",
                "Attempts that ended, by what became of them.",
                &["webhook", "outcome"],
            )?,
            attempt_seconds: make.histograms(
                "attempt_seconds",
                "How long an attempt took, until its answer was read or given up.",
                &ATTEMPT_BUCKETS,
                &["webhook"],
            )?,
            latency: make.histogram(
                "event_latency_seconds",
                "From the file's last change to the 2xx of its callback, of events seen live.",
                &LATENCY_BUCKETS,
            )?,
            events: make.counters(
                "events_total",
                "Events that were inferred and recorded.",
                &["event", "origin"],
            )?,
            rescans: make.counters(
                "rescans_total",
                "Comparisons of everything, by why.",
                &["reason"],
            )?,
            reloads: make.counters(
                "config_reloads_total",
                "How often the configuration was read again.",
                &["result"],
            )?,
            pending: make.gauges("pending", "Deliveries that wait.", &["webhook"])?,
            oldest_pending: make.seconds(
                "oldest_pending_seconds",
                "How long the delivery that waits longest has waited.",
                &["webhook"],
            )?,
            dead: make.gauges("dead", "Deliveries that failed for good.", &["webhook"])?,
            webhook_enabled: make.gauges(
                "webhook_enabled",
                "1 where callbacks are sent, 0 where the webhook is off.",
                &["webhook"],
            )?,
            projects: make.gauge("projects", "Projects on record.")?,
            watches: make.gauge("watches", "Directories that are watched.")?,
            uncovered: make.gauge(
                "uncovered_directories",
                "Directories that should be watched and are not.",
            )?,
            incomplete: make.gauge(
                "incomplete_files",
                "Files that do not count: incomplete, malformed or unreadable.",
            )?,
            watching: make.gauge("watching", "1 while changes are noticed, as /readyz says.")?,
            polling: make.gauge(
                "polling",
                "1 while changes are found by comparison on a timer.",
            )?,
            trouble: make.gauges(
                "trouble",
                "1 while inference waits: for the repository's root, or for the state.",
                &["part"],
            )?,
            configured: Mutex::default(),
            registry: registry.clone(),
        };
        let build = make.gauges("build_info", "1, with the version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for kind in EventKind::ALL {
            for origin in [Origin::Live, Origin::CatchUp] {
                let labels = [kind.as_str(), origin.as_str()];
                metrics.events.with_label_values(&labels);
            }
        }
        for reason in RescanReason::ALL {
            metrics.rescans.with_label_values(&[reason.as_str()]);
        }
        metrics.configure(webhooks);
        Ok(metrics)
    }

    /// Works with these webhooks from now on.
    pub fn configure(&self, webhooks: BTreeMap<String, bool>) {
        for name in webhooks.keys() {
            for outcome in AttemptOutcome::ALL {
                self.deliveries
                    .with_label_values(&[name.as_str(), outcome.as_str()]);
            }
            self.attempt_seconds.with_label_values(&[name.as_str()]);
        }
        let mut configured = self
            .configured
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for name in configured
            .keys()
            .filter(|name| !webhooks.contains_key(*name))
        {
            // What is not there cannot be removed, and need not be.
            for outcome in AttemptOutcome::ALL {
                let _ = self
                    .deliveries
                    .remove_label_values(&[name.as_str(), outcome.as_str()]);
            }
            let _ = self.attempt_seconds.remove_label_values(&[name.as_str()]);
        }
        *configured = webhooks;
    }

    /// An attempt ended.
    pub fn attempted(&self, webhook: &str, outcome: AttemptOutcome, took: Duration) {
        self.deliveries
            .with_label_values(&[webhook, outcome.as_str()])
            .inc();
        self.attempt_seconds
            .with_label_values(&[webhook])
            .observe(took.as_secs_f64());
    }

    /// A callback of an event that was seen live was answered 2xx so long after it happened.
    pub fn delivered_after(&self, latency: Duration) {
        self.latency.observe(latency.as_secs_f64());
    }

    /// What attempts came to since the start; the rest of the counts is others'.
    pub fn counts(&self) -> Counts {
        let configured = self
            .configured
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut counts = Counts {
            event_latency_seconds: mean(&self.latency),
            ..Counts::default()
        };
        for name in configured.keys() {
            let outcomes = AttemptOutcome::ALL.map(|outcome| {
                let labels = [name.as_str(), outcome.as_str()];
                let n = self.deliveries.with_label_values(&labels).get();
                (outcome.as_str().to_owned(), n)
            });
            counts.attempts.insert(name.clone(), outcomes.into());
            let took = mean(&self.attempt_seconds.with_label_values(&[name.as_str()]));
            counts
                .attempt_seconds
                .extend(took.map(|took| (name.clone(), took)));
        }
        counts
    }

    /// All of it as text.
    ///
    /// # Errors
    ///
    /// The library cannot write it.
    pub fn text(&self, gauges: &Gauges) -> Result<String, prometheus::Error> {
        let configured = self
            .configured
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.set(gauges, &configured);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn set(&self, gauges: &Gauges, configured: &BTreeMap<String, bool>) {
        self.projects.set(count(gauges.projects));
        self.watches.set(count(gauges.watches));
        self.uncovered.set(count(gauges.uncovered));
        self.incomplete.set(count(gauges.incomplete));
        self.watching.set(i64::from(gauges.is_watching));
        self.polling.set(i64::from(gauges.polls));
        let trouble = |part, is| self.trouble.with_label_values(&[part]).set(i64::from(is));
        trouble("root", gauges.has_root_trouble);
        trouble("store", gauges.has_store_trouble);
        for (event, origin, n) in &gauges.events {
            raise(&self.events.with_label_values(&[*event, *origin]), *n);
        }
        for (reason, n) in &gauges.rescans {
            raise(&self.rescans.with_label_values(&[reason.as_str()]), *n);
        }
        let reloads = |result| self.reloads.with_label_values(&[result]);
        raise(&reloads("applied"), gauges.reloads_applied);
        raise(&reloads("rejected"), gauges.reloads_rejected);

        self.pending.reset();
        self.oldest_pending.reset();
        self.dead.reset();
        self.webhook_enabled.reset();
        for (name, is_enabled) in configured {
            let name = [name.as_str()];
            self.pending.with_label_values(&name);
            self.oldest_pending.with_label_values(&name);
            self.dead.with_label_values(&name);
            self.webhook_enabled
                .with_label_values(&name)
                .set(i64::from(*is_enabled));
        }
        for webhook in &gauges.webhooks {
            let is_parked = !configured.contains_key(&webhook.name);
            if is_parked && webhook.pending == 0 && webhook.dead == 0 {
                continue;
            }
            let name = [webhook.name.as_str()];
            let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            self.pending
                .with_label_values(&name)
                .set(number(webhook.pending));
            self.dead.with_label_values(&name).set(number(webhook.dead));
            self.oldest_pending
                .with_label_values(&name)
                .set(webhook.oldest.as_secs_f64());
            if is_parked || webhook.is_off {
                self.webhook_enabled.with_label_values(&name).set(0);
            }
        }
    }
}

/// The mean of what was observed, if anything was.
fn mean(histogram: &Histogram) -> Option<f64> {
    let n = u32::try_from(histogram.get_sample_count()).unwrap_or(u32::MAX);
    (n > 0).then(|| histogram.get_sample_sum() / f64::from(n))
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Raises a counter to what somebody else counted.
fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

/// Makes and registers metrics.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn register<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: M,
    ) -> Result<M, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn seconds(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<GaugeVec, prometheus::Error> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help)?)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(options)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics, gauges: &Gauges) -> Vec<String> {
        let text = metrics.text(gauges).expect("a text");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn series_exist_from_the_start_and_go_with_their_webhook() {
        let only = |name: &str| BTreeMap::from([(name.to_owned(), true)]);
        let metrics = Metrics::new(only("catalog")).expect("metrics");
        let at_first = lines(&metrics, &Gauges::default());
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
        metrics.attempted(
            "catalog",
            AttemptOutcome::Delivered,
            Duration::from_millis(3),
        );
        metrics.configure(only("audit"));
        let later = lines(&metrics, &Gauges::default());
        assert!(
            later.iter().all(|line| !line.contains("catalog")),
            "{later:#?}"
        );
    }

    #[test]
    fn parked_deliveries_are_seen_and_label_values_are_escaped() {
        let metrics = Metrics::new(BTreeMap::new()).expect("metrics");
        let parked = |pending| Gauges {
            webhooks: vec![WebhookGauges {
                name: "a\"b\\c\nd".to_owned(),
                pending,
                ..WebhookGauges::default()
            }],
            ..Gauges::default()
        };
        let expected = "project_webhooks_pending{webhook=\"a\\\"b\\\\c\\nd\"} 2";
        let shown = lines(&metrics, &parked(2));
        assert!(shown.iter().any(|line| line == expected), "{shown:#?}");
        let empty = lines(&metrics, &parked(0));
        assert!(
            empty
                .iter()
                .all(|line| !line.starts_with("project_webhooks_pending"))
        );
    }
}
