//! Claims, attempts and their verdicts.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::error::Fault;
use crate::domain::delivery::Verdict;
use crate::domain::event::{Event, Origin};
use crate::domain::project::ProjectKey;

/// A delivery to attempt now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The delivery.
    pub delivery: i64,
    /// The number of this attempt in the delivery, from 1: the header `webhook-attempt`.
    pub attempt: u32,
    /// The number of this attempt in its schedule, from 1, for
    /// [`delivery::next`](crate::domain::delivery::next). A redelivery starts the schedule over.
    pub scheduled_attempt: u32,
    /// The event.
    pub event: Event,
    /// The payload, byte for byte as it was observed.
    pub payload: Bytes,
    /// How this delivery came about.
    pub origin: Origin,
}

impl Claim {
    /// The first attempt of a delivery that was just recorded.
    pub(super) fn first(delivery: i64, event: Event, payload: Bytes) -> Self {
        Self {
            delivery,
            attempt: 1,
            scheduled_attempt: 1,
            origin: event.origin,
            event,
            payload,
        }
    }
}

/// A due delivery whose event or payload cannot be read. It would block its lane for ever:
/// finish it as dead.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// The delivery.
    pub delivery: i64,
    /// The number the attempt would have.
    pub attempt: u32,
    /// Its project.
    pub key: ProjectKey,
    /// Why it cannot be read.
    pub fault: Fault,
}

/// The result of a claim.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Deliveries to attempt, the longest due first.
    pub ready: Vec<Claim>,
    /// Due deliveries that cannot be attempted.
    pub unreadable: Vec<Unreadable>,
    /// The earliest due time of the lanes that are neither claimed nor excluded. In the past if
    /// more than the limit were due.
    pub next_due: Option<Timestamp>,
}

/// One attempt, for the log. It must hold no secret: mask header values before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptLog {
    /// Its number in the delivery, from 1.
    pub number: u32,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The error, for a person.
    pub error: Option<String>,
    /// The beginning of the answer's body; cut to [`ANSWER_MAX`](crate::domain::delivery::ANSWER_MAX).
    pub answer: Bytes,
    /// The headers that were sent.
    pub request_headers: Vec<(String, String)>,
}

/// An attempt and its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// The delivery.
    pub delivery: i64,
    /// The attempt.
    pub attempt: AttemptLog,
    /// The verdict.
    pub verdict: Verdict,
}
