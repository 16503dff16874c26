//! The rules for the removal of old rows in both implementations.
//!
//! Constraint: the removal must not delay other work. So it works in small batches, and a batch
//! that finds no old rows is cheap.
//!
//! An index on the finish time finds old deliveries. Events are checked in the order of recording
//! once they are old enough. A checked event is checked again when one of its deliveries is
//! removed. If it is no longer old enough, for example because the retention became longer, the
//! check in the order of recording goes back to it.
//! The module [`garbage`](super::garbage) says when a payload is checked.

use std::time::Duration;

use crate::config::Retention;
use crate::domain::delivery::State;

/// Retentions that free space, to try in this order.
///
/// The first removes only delivered deliveries, the second also dead and cancelled ones.
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

/// Returns the error text for deliveries that were pending for longer than `age`.
pub(super) fn too_old(age: Duration) -> String {
    let age = humantime::format_duration(age);
    format!("pending for longer than retention.pending ({age})")
}

/// Corrects recording times that are after `now`, because the clock was ahead.
///
/// Otherwise such an event and all later ones would stay until the clock reaches that time. A
/// corrected event gets the time of the next event, because it was not recorded later. If the last
/// event is corrected, it gets `latest`.
///
/// Each event is a pair: its sequence number, and its recording time in milliseconds. Returns the
/// corrected events.
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
