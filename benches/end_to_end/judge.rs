//! Compares the changes with the calls.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::receiver::Call;
use crate::tree::{self, Change};

/// The result of one round.
#[derive(Default)]
pub struct Judged {
    changes: usize,
    /// Changes without a call.
    lost: usize,
    /// Calls before the file was complete.
    early: usize,
    /// Calls beyond the first of a change.
    doubled: usize,
    /// Calls about files that did not change.
    unasked: usize,
    /// The times from a change to its first call, sorted.
    pub latencies: Vec<Duration>,
    /// The time from the first change to the last of the first calls.
    span: Option<Duration>,
}

impl Judged {
    /// Compares a round in which each change has a call at each path of `webhooks`.
    ///
    /// If `webhooks` is empty, each change has a call at any path.
    pub fn of(calls: Vec<Call>, made: &[Change], webhooks: &[String]) -> anyhow::Result<Self> {
        let mut called: HashMap<(String, String), Vec<Instant>> = HashMap::new();
        for call in calls {
            let path = match webhooks {
                [] => String::new(),
                _ => call.uri.path().to_owned(),
            };
            let key = (path, tree::token(&call.body)?);
            called.entry(key).or_default().push(call.at);
        }
        let any = [String::new()];
        let webhooks = if webhooks.is_empty() { &any } else { webhooks };
        let mut judged = Self {
            changes: made.len() * webhooks.len(),
            ..Self::default()
        };
        let mut last = None;
        for (change, path) in made
            .iter()
            .flat_map(|change| webhooks.iter().map(move |path| (change, path)))
        {
            let Some(calls) = called.remove(&(path.clone(), change.token.clone())) else {
                judged.lost += 1;
                continue;
            };
            judged.doubled += calls.len().saturating_sub(1);
            judged.early += calls.iter().filter(|at| **at < change.complete).count();
            if let Some(first) = calls.first() {
                let latency = first.saturating_duration_since(change.complete);
                judged.latencies.push(latency);
                last = last.max(Some(*first));
            }
        }
        judged.unasked = called.len();
        judged.latencies.sort();
        judged.span = made
            .first()
            .zip(last)
            .map(|(first, last)| last.saturating_duration_since(first.complete));
        Ok(judged)
    }

    /// The number of changes divided by the time to the last of their first calls.
    fn per_second(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let calls = self.latencies.len() as f64;
        self.span.map(|span| calls / span.as_secs_f64())
    }
}

/// Summarizes rounds: sums of faults, medians of measurements.
///
/// Up to `allowed` doubled calls are `repeated`.
pub fn summary(rounds: &[Judged], allowed: usize) -> Value {
    let sum = |count: fn(&Judged) -> usize| rounds.iter().map(count).sum::<usize>();
    let of = |part: f64| {
        median(
            rounds
                .iter()
                .filter_map(|one| quantile(&one.latencies, part)),
        )
    };
    let doubled = sum(|one| one.doubled);
    let worst = rounds
        .iter()
        .filter_map(|one| quantile(&one.latencies, 1.0))
        .reduce(f64::max);
    json!({
        "changes": sum(|one| one.changes), "rounds": rounds.len(),
        "lost": sum(|one| one.lost), "early": sum(|one| one.early),
        "doubled": if doubled > allowed { doubled } else { 0 }, "repeated": doubled,
        "unasked": sum(|one| one.unasked),
        "p50_ms": of(0.5), "p99_ms": of(0.99), "max_ms": worst,
        "per_second": median(rounds.iter().filter_map(Judged::per_second)),
    })
}

/// The latencies of all rounds at each percentage, for the plot.
pub fn curve(rounds: &[Judged]) -> Vec<f64> {
    let mut all: Vec<Duration> = rounds
        .iter()
        .flat_map(|round| round.latencies.iter().copied())
        .collect();
    all.sort();
    (0..=100)
        .filter_map(|percent| quantile(&all, f64::from(percent) / 100.0))
        .collect()
}

/// In milliseconds.
fn quantile(sorted: &[Duration], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a small number"
    )]
    let at = (last as f64 * part).round() as usize;
    sorted.get(at).map(|latency| latency.as_secs_f64() * 1e3)
}

/// The median; of an even number of values, the mean of the two in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied()?;
    let lower = values.get((values.len() - 1) / 2).copied()?;
    Some(f64::midpoint(lower, upper))
}
