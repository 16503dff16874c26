//! The rules for the removal of old rows in both implementations.
//!
//! Constraint: the removal must not delay other work. So it works in small batches, and a batch
//! that finds nothing is cheap.
//!
//! An index on the finish time finds old deliveries. Events are checked in the order of recording
//! once they are old enough. An event is checked again when its last delivery is removed. If it is
//! not old enough then, the check in order begins again at that event. A payload is checked when an
//! event with it is removed, or a definition with it is replaced
//! ([`Garbage`](super::garbage::Garbage)).

use std::time::Duration;

use crate::config::Retention;
use crate::domain::delivery::State;

/// Retentions that free space, in this order: first delivered deliveries go, then the others.
pub(super) const FOR_ROOM: [Retention; 2] = [for_room(Duration::MAX), for_room(Duration::ZERO)];

const fn for_room(dead: Duration) -> Retention {
    Retention {
        delivered: Duration::ZERO,
        dead,
        pending: None,
        max_state_size: None,
    }
}

/// How long deliveries are kept, by the state in which they ended.
pub(super) fn ages(retention: &Retention) -> [(State, Duration); 3] {
    [
        (State::Delivered, retention.delivered),
        (State::Dead, retention.dead),
        // Operators need cancelled deliveries for as long as dead ones.
        (State::Cancelled, retention.dead),
    ]
}

/// Returns the reason for a delivery that becomes dead after being pending for longer than `age`.
pub(super) fn too_old(age: Duration) -> String {
    let age = humantime::format_duration(age);
    format!("pending for longer than retention.pending ({age})")
}

/// Corrects events whose recording time is after `now`, because the clock was ahead.
///
/// Otherwise these and all later events would stay until the clock reaches that time. Each of them
/// gets the time of the next event, the latest possible time. The last event gets `latest`. An
/// event is a pair of its sequence number and its time in milliseconds. Returns the corrected
/// events.
pub(super) fn correct_times(
    events: &mut [(i64, i64)],
    now: i64,
    mut latest: i64,
) -> Vec<(i64, i64)> {
    let mut corrected = Vec::new();
    for (sequence, recorded) in events.iter_mut().rev() {
        if *recorded <= now {
            latest = *recorded;
            continue;
        }
        *recorded = latest;
        corrected.push((*sequence, latest));
    }
    corrected
}
