//! Claims, attempts and their verdicts.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::error::Fault;
use super::hold::Hold;
use crate::domain::delivery::{State, Verdict};
use crate::domain::event::{Event, Origin};
use crate::domain::project::ProjectKey;

/// A delivery to attempt now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The id of the delivery.
    pub delivery: i64,
    /// The number of this attempt, from 1, as in the header `webhook-attempt`.
    pub attempt: u32,
    /// The number of this attempt in its schedule, from 1.
    ///
    /// [`delivery::next`](crate::domain::delivery::next) needs it. A redelivery begins the
    /// schedule again.
    pub scheduled_attempt: u32,
    /// The number of redeliveries so far.
    ///
    /// If the stored number changes during the attempt, an operator has redelivered the delivery.
    pub n_redeliveries: u32,
    /// The current key of the project, which determines the lane.
    ///
    /// The event has the key at the time of recording.
    pub key: ProjectKey,
    /// The event to send.
    pub event: Event,
    /// The observed bytes of the project.xml.
    pub payload: Bytes,
    /// The cause of this attempt: a live change, a catch-up, or a redelivery.
    pub origin: Origin,
}

impl Claim {
    /// Makes the claim for the first attempt of a newly recorded delivery.
    pub(super) fn first(delivery: i64, event: Event, payload: Bytes) -> Self {
        Self {
            delivery,
            attempt: 1,
            scheduled_attempt: 1,
            n_redeliveries: 0,
            origin: event.origin,
            key: event.key.clone(),
            event,
            payload,
        }
    }
}

/// A due delivery whose event or payload cannot be read.
///
/// A damaged delivery ([`Fault::is_damage`]) would block its lane forever. So the caller must
/// record it as dead.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// The id of the delivery.
    pub delivery: i64,
    /// The number of the attempt that cannot be made.
    pub attempt: u32,
    /// The project of the delivery.
    pub key: ProjectKey,
    /// The number of redeliveries so far.
    pub n_redeliveries: u32,
    /// The reason why the delivery cannot be read.
    pub fault: Fault,
}

/// The result of a claim.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The deliveries to attempt, the longest overdue first.
    pub ready: Vec<Claim>,
    /// The due deliveries that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// The earliest due time of the lanes that are neither claimed nor excluded.
    ///
    /// It is not before the end of a wait that the receiver requested. It is not in the future if
    /// more deliveries can be claimed now. `None` if no such time is known.
    pub next_due: Option<Timestamp>,
    /// Whether the claims still exclude other processes.
    pub hold: Hold,
}

impl Claims {
    /// Adds a claim, or an unreadable delivery to [`Claims::unreadable`].
    ///
    /// So an unreadable delivery does not delay the others. Returns the error if it does not
    /// concern this delivery alone.
    pub(super) fn add(
        &mut self,
        claim: Result<Claim, Fault>,
        unreadable: impl FnOnce(Fault) -> Unreadable,
    ) -> Result<(), Fault> {
        match claim {
            Ok(claim) => self.ready.push(claim),
            Err(
                fault @ (Fault::MissingPayload { .. }
                | Fault::WrongPayload { .. }
                | Fault::Coding { .. }
                | Fault::Undecodable { .. }),
            ) => self.unreadable.push(unreadable(fault)),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Makes a result without claims.
    pub(super) fn later(next_due: Option<Timestamp>) -> Self {
        Self {
            next_due,
            ..Self::default()
        }
    }
}

/// An attempt to store. The caller must already have masked secret header values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptLog {
    /// The number of the attempt, from 1.
    pub number: u32,
    /// When the attempt began.
    pub at: Timestamp,
    /// How long the attempt took.
    pub duration: Duration,
    /// The status of the answer. `None` without an answer.
    pub status: Option<u16>,
    /// The error message. `None` if the attempt succeeded.
    pub error: Option<String>,
    /// The beginning of the answer's body.
    ///
    /// It has at most [`ANSWER_MAX`](crate::domain::delivery::ANSWER_MAX) bytes.
    pub answer: Bytes,
    /// The headers of the request.
    pub request_headers: Vec<(String, String)>,
}

/// An attempt and its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// The id of the delivery.
    pub delivery: i64,
    /// The attempt to record.
    pub attempt: AttemptLog,
    /// The verdict after the attempt.
    pub verdict: Verdict,
    /// The number of redeliveries at the time of the claim.
    pub n_redeliveries: u32,
    /// The fingerprint of the settings that the request was made with.
    ///
    /// `None` if the delivery was unreadable, so that no request was made.
    pub fingerprint: Option<[u8; 32]>,
    /// The end of the wait that the receiver requested for all deliveries, if any.
    pub rests_until: Option<Timestamp>,
    /// The time of the next attempt if the answer is 410 but the webhook stays on.
    ///
    /// The webhook stays on if another process has newer settings.
    pub retry_at: Option<Timestamp>,
}

impl Finish {
    /// Returns when the attempt ended.
    pub(super) fn ended(&self) -> Timestamp {
        let attempt = &self.attempt;
        attempt
            .at
            .saturating_add(attempt.duration)
            .unwrap_or(attempt.at)
    }

    /// Returns why the attempt failed. `None` if it succeeded.
    pub(super) fn error(&self) -> Option<String> {
        (self.verdict != Verdict::Delivered).then(|| {
            match (&self.attempt.error, self.attempt.status) {
                (Some(error), _) => error.clone(),
                (None, Some(status)) => format!("answered {status}"),
                (None, None) => "no answer".to_owned(),
            }
        })
    }

    /// Returns the effect on the delivery, considering changes during the attempt.
    ///
    /// `before` is the stored state, and `n_redeliveries` the stored number. `is_outdated` means
    /// that the settings changed since the request was sent. `has_newest` means that this process
    /// has the newest settings.
    pub(super) fn effect(
        &self,
        before: State,
        n_redeliveries: u32,
        is_outdated: bool,
        has_newest: bool,
    ) -> Effect {
        let ended = self.ended();
        let verdict = match self.verdict {
            // The request had the old settings. The new settings may work.
            verdict if is_outdated && has_newest => verdict.with_changed_settings(ended),
            // This 410 does not apply to the new settings. But this process still has the old ones
            // and would send the same request again at once, so it waits.
            Verdict::SwitchOff if is_outdated => Verdict::Retry(self.retry_at.unwrap_or(ended)),
            verdict => verdict,
        };
        let starts_again = self.n_redeliveries != n_redeliveries
            && (verdict.retry_at().is_some() || verdict == Verdict::Dead);
        if starts_again {
            return Effect {
                state: before,
                due: None,
                is_due_as_asked: false,
                starts_again,
                n_uncounted: 0,
                switches_off: false,
            };
        }
        Effect {
            state: match verdict {
                // The request arrived, even if the delivery was cancelled in the meantime.
                Verdict::Delivered => State::Delivered,
                Verdict::Dead if before == State::Pending => State::Dead,
                _ => before,
            },
            due: verdict.retry_at(),
            is_due_as_asked: verdict.is_as_asked(),
            starts_again,
            n_uncounted: u32::from(verdict.is_repeat()),
            switches_off: verdict == Verdict::SwitchOff,
        }
    }
}

/// The effect of an attempt on its delivery.
pub(super) struct Effect {
    /// The state after the attempt.
    pub(super) state: State,
    /// The new due time. `None` if the due time stays.
    pub(super) due: Option<Timestamp>,
    /// Whether the receiver asked for the new due time.
    pub(super) is_due_as_asked: bool,
    /// Whether the schedule begins again after this attempt.
    ///
    /// It does if an operator redelivered the delivery during the attempt, and the attempt failed
    /// without switching the webhook off.
    pub(super) starts_again: bool,
    /// 1 if the attempt uses up no step of the schedule, otherwise 0.
    pub(super) n_uncounted: u32,
    /// Whether the attempt switches the webhook off.
    pub(super) switches_off: bool,
}

/// A failed attempt of a webhook.
pub(super) struct Failure {
    pub(super) at: Timestamp,
    pub(super) error: String,
    /// The end of the wait that the receiver requested for all deliveries, if any.
    pub(super) rests_until: Option<Timestamp>,
}

impl Failure {
    /// Adds this failure, unless a later one of the webhook is known.
    ///
    /// Keeps the longest of the requested waits.
    pub(super) fn replace(self, failures: &mut BTreeMap<String, Failure>, webhook: &str) {
        let rests_until = self.rests_until;
        let latest = match failures.remove(webhook) {
            Some(before) => Self {
                rests_until: rests_until.max(before.rests_until),
                ..if before.at > self.at { before } else { self }
            },
            None => self,
        };
        failures.insert(webhook.to_owned(), latest);
    }
}
