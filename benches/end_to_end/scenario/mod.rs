//! What is measured. Each scenario compares with a floor or a peer in the same run, in rounds that
//! take turns, so that noise of the machine meets both.

mod failure;
mod idle;
mod latency;
mod load;
mod scale;

use std::time::Duration;

use serde_json::Value;

use crate::judge::Judged;
use crate::place::Place;
use crate::receiver::Receiver;
use crate::tree::Edits;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// Whether it works.
    Quick,
    /// Up to 20,000 projects.
    Usual,
    /// Up to 100,000 projects.
    Full,
}

/// What every scenario works with.
pub struct Bench {
    /// Where calls go.
    pub receiver: Receiver,
    /// How much is measured.
    pub size: Size,
    /// The numbers of projects of `scale`.
    pub projects: Vec<usize>,
    /// Rounds of a comparison.
    pub rounds: usize,
}

/// Measures, and hands out what it found.
type Scenario = fn(&Bench, Found<'_>) -> anyhow::Result<()>;

/// Takes a measurement as soon as there is one.
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

    /// Makes changes and judges the calls. Each change has a call at each of `webhooks`, by path;
    /// any path where that is empty.
    fn round(&self, place: &Place, edits: &Edits, webhooks: &[String]) -> anyhow::Result<Judged> {
        // In a burst, whoever is slow may be silent for a while.
        let quiet = if edits.pause.is_zero() { 1_000 } else { 300 };
        let _ = self.receiver.take();
        let made = place.edit(edits)?;
        self.receiver.settle(
            made.len() * webhooks.len().max(1),
            Duration::from_millis(quiet),
            Duration::from_secs(60),
        )?;
        Judged::of(self.receiver.take(), &made, webhooks)
    }
}

/// Puts further entries in front of a result.
fn labelled(result: Value, entries: Value) -> Value {
    match (entries, result) {
        (Value::Object(mut entries), Value::Object(mut result)) => {
            entries.append(&mut result);
            Value::Object(entries)
        }
        (_, result) => result,
    }
}
