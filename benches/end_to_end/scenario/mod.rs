//! The scenarios. Each compares the daemon with a floor or a peer in rounds that alternate, so that
//! noise of the machine affects both.

mod failure;
mod idle;
mod latency;
mod load;
mod scale;

use std::time::Duration;

use serde_json::Value;

use crate::judge::Judged;
use crate::receiver::Receiver;
use crate::repository::Repository;
use crate::tree::Edits;

/// The extent of a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// Shows that the benchmark works.
    Quick,
    /// Up to 20,000 projects.
    Usual,
    /// Up to 100,000 projects.
    Full,
}

/// The settings and the receiver of all scenarios.
pub struct Bench {
    /// The receiver of the calls.
    pub receiver: Receiver,
    /// The extent of a run.
    pub size: Size,
    /// The numbers of projects of `scale`.
    pub projects: Vec<usize>,
    /// The number of rounds of a comparison.
    pub rounds: usize,
}

/// Measures and reports its results.
type Scenario = fn(&Bench, Found<'_>) -> anyhow::Result<()>;

/// Receives each result as soon as it is measured.
pub type Found<'a> = &'a mut dyn FnMut(Value) -> anyhow::Result<()>;

/// All scenarios by name.
pub const ALL: [(&str, Scenario); 10] = [
    ("edits", latency::edits),
    ("many", latency::many),
    ("hung", latency::hung),
    ("burst", load::burst),
    ("fresh", load::fresh),
    ("slow", load::slow),
    ("kill", failure::kill),
    ("stopped", failure::stopped),
    ("scale", scale::scale),
    ("idle", idle::idle),
];

impl Size {
    /// The numbers of projects of `scale`.
    pub fn projects(self) -> &'static [usize] {
        match self {
            Self::Quick => &[1_000],
            Self::Usual => &[1_000, 10_000, 20_000],
            Self::Full => &[1_000, 10_000, 20_000, 100_000],
        }
    }
}

impl Bench {
    fn address(&self) -> String {
        self.receiver.address.to_string()
    }

    /// Makes changes and judges the calls, as [`Judged::of`] does.
    fn round(
        &self,
        repository: &Repository,
        edits: &Edits,
        webhooks: &[String],
    ) -> anyhow::Result<Judged> {
        // In a burst, a slow program may pause for longer.
        let quiet = if edits.pause.is_zero() { 1_000 } else { 300 };
        let _ = self.receiver.take();
        let made = repository.edit(edits)?;
        self.receiver.settle(
            made.len() * webhooks.len().max(1),
            Duration::from_millis(quiet),
            Duration::from_secs(60),
        )?;
        Judged::of(self.receiver.take(), &made, webhooks)
    }
}

/// Inserts entries before those of a result.
fn labelled(result: Value, entries: Value) -> Value {
    match (entries, result) {
        (Value::Object(mut entries), Value::Object(mut result)) => {
            entries.append(&mut result);
            Value::Object(entries)
        }
        (_, result) => result,
    }
}
