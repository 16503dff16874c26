//! Counts attempts, for Prometheus, `status` and the page.
//!
//! Constraint: counting only looks up counters in memory, and never fails. Names and labels are a
//! public interface. Other metrics are not here: `admin` takes them from the report at each scrape.
//!
//! Every series with known labels exists from the start, with the value 0, so that a rate includes
//! the first occurrence. The series of a webhook exist only while it is configured.

mod history;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use self::history::History;
pub(crate) use self::history::Minute;

/// The prefix of all metric names.
pub(crate) const PREFIX: &str = "project_webhooks";

/// The outcome of an attempt, and the value of the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    /// The receiver answered 2xx.
    Delivered,
    /// The attempt failed, and another attempt follows.
    Failed,
    /// The attempt failed, and no other attempt follows.
    Dead,
    /// The receiver answered 410. This switches the webhook off.
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

/// The histogram buckets for the duration of an attempt, in seconds.
///
/// The lowest bucket fits a reused connection to the same machine. The highest bucket fits the
/// longest usual `timeout`.
const ATTEMPT_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

/// The histogram buckets for the time from a change to its callback, in seconds.
///
/// The lowest bucket fits the fastest possible callback. The highest bucket fits an outage of a
/// day.
const LATENCY_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 86400.0,
];

/// The counts of attempts since the start.
#[derive(
    Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttemptCounts {
    /// The number of ended attempts, by webhook and outcome.
    pub(crate) attempts: BTreeMap<String, BTreeMap<String, u64>>,
    /// The mean duration of an attempt, by webhook, in seconds.
    pub(crate) attempt_seconds: BTreeMap<String, f64>,
    /// The mean time from the last change of a file to the 2xx answer of its callback, in seconds.
    pub(crate) event_latency_seconds: Option<f64>,
}

/// The counters of a running daemon.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Each configured webhook. `true` if the configuration enables it.
    configured: Mutex<BTreeMap<String, bool>>,
    deliveries: IntCounterVec,
    attempt_seconds: HistogramVec,
    latency: Histogram,
    history: Mutex<History>,
}

impl Metrics {
    /// Makes the counters for these webhooks. `true` means that a webhook is enabled.
    ///
    /// # Errors
    ///
    /// A name is invalid or repeated. The names are constants, so any test finds this.
    pub(crate) fn new(webhooks: BTreeMap<String, bool>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some(PREFIX.to_owned()), None)?;
        let deliveries = IntCounterVec::new(
            Opts::new("deliveries_total", "Ended attempts, by outcome."),
            &["webhook", "outcome"],
        )?;
        let attempt_seconds = HistogramVec::new(
            HistogramOpts::new(
                "attempt_seconds",
                "The duration of an attempt, until its answer was read or the attempt failed.",
            )
            .buckets(ATTEMPT_BUCKETS.to_vec()),
            &["webhook"],
        )?;
        let latency = Histogram::with_opts(
            HistogramOpts::new(
                "event_latency_seconds",
                "The time from a file's last change to the 2xx answer of its callback, for live events.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(deliveries.clone()))?;
        registry.register(Box::new(attempt_seconds.clone()))?;
        registry.register(Box::new(latency.clone()))?;
        let metrics = Self {
            registry,
            configured: Mutex::default(),
            deliveries,
            attempt_seconds,
            latency,
            history: Mutex::default(),
        };
        metrics.configure(webhooks);
        Ok(metrics)
    }

    /// Adds the counter of spans. Only a daemon that sends traces has this counter.
    ///
    /// # Errors
    ///
    /// The counter was added before.
    pub(crate) fn count_spans(&self) -> Result<IntCounterVec, prometheus::Error> {
        let spans = IntCounterVec::new(
            Opts::new("trace_spans_total", "Spans of traces, by outcome."),
            &["outcome"],
        )?;
        self.registry.register(Box::new(spans.clone()))?;
        Ok(spans)
    }

    pub(crate) fn configure(&self, webhooks: BTreeMap<String, bool>) {
        let mut configured = self.lock();
        for name in webhooks.keys() {
            for outcome in AttemptOutcome::ALL {
                self.deliveries
                    .with_label_values(&[name.as_str(), outcome.as_str()]);
            }
            self.attempt_seconds.with_label_values(&[name.as_str()]);
        }
        for name in configured.keys() {
            if webhooks.contains_key(name) {
                continue;
            }
            // Removing a series fails only if the series does not exist.
            for outcome in AttemptOutcome::ALL {
                let labels = [name.as_str(), outcome.as_str()];
                let _ = self.deliveries.remove_label_values(&labels);
            }
            let _ = self.attempt_seconds.remove_label_values(&[name.as_str()]);
        }
        *configured = webhooks;
    }

    /// Returns the configured webhooks. `true` means that a webhook is enabled.
    pub(crate) fn configured(&self) -> BTreeMap<String, bool> {
        self.lock().clone()
    }

    /// Counts an ended attempt, unless its webhook is no longer configured.
    ///
    /// An attempt may end after a reload removed its webhook and the webhook's series. Counting the
    /// attempt would bring the series back.
    pub(crate) fn attempted(
        &self,
        webhook: &str,
        outcome: AttemptOutcome,
        took: Duration,
        moment: Duration,
    ) {
        let configured = self.lock();
        if !configured.contains_key(webhook) {
            return;
        }
        self.deliveries
            .with_label_values(&[webhook, outcome.as_str()])
            .inc();
        self.attempt_seconds
            .with_label_values(&[webhook])
            .observe(took.as_secs_f64());
        drop(configured);
        if let Some(minute) = self.history().at(moment) {
            minute.attempted(outcome == AttemptOutcome::Delivered);
        }
    }

    /// Counts the 2xx answer to a delivery with the origin `live`.
    ///
    /// `latency` is the time from the change of the file to the answer.
    pub(crate) fn delivered_after(&self, latency: Duration, moment: Duration) {
        self.latency.observe(latency.as_secs_f64());
        if let Some(minute) = self.history().at(moment) {
            minute.delivered_after(latency);
        }
    }

    /// Returns the counts of each minute of the last hour, the oldest first.
    pub(crate) fn last_hour(&self, moment: Duration) -> Vec<Minute> {
        self.history().last_hour(moment)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the counts since the start.
    pub(crate) fn counts(&self) -> AttemptCounts {
        let mut counts = AttemptCounts {
            event_latency_seconds: mean(&self.latency),
            ..AttemptCounts::default()
        };
        for name in self.lock().keys() {
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

    /// Returns the counters and histograms, for the text format of Prometheus.
    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.configured
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the mean of the observed values, if there are any.
fn mean(histogram: &Histogram) -> Option<f64> {
    let n = u32::try_from(histogram.get_sample_count()).unwrap_or(u32::MAX);
    (n > 0).then(|| histogram.get_sample_sum() / f64::from(n))
}
