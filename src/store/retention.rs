//! The rules by which both implementations remove old rows.
//!
//! Constraint: the removal must not delay other work. So it works in small batches, and a batch that
//! finds nothing is cheap.
//!
//! An index on the finish time finds old deliveries. Events are checked in the order of recording once
//! they are old enough. An event is checked again when its last delivery is removed. If it is not old
//! enough then, the check in order begins again at that event. A payload is checked when an event with
//! it is removed, or a definition with it is replaced ([`Garbage`](super::garbage::Garbage)).

use std::time::Duration;

use crate::config::Retention;
use crate::domain::delivery::State;

/// Retentions to collect by until there is room: delivered deliveries go first, then the others.
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

/// The reason why a delivery becomes dead that was pending for longer than this age.
pub(super) fn too_old(age: Duration) -> String {
    let age = humantime::format_duration(age);
    format!("pending for longer than retention.pending ({age})")
}

/// Corrects events whose recording time is after `now`, because the clock was ahead.
///
/// Otherwise they and all later events would be kept until the clock reaches that time. Each event
/// gets the time of the next event, because it cannot be later. The last event gets `latest`. Returns
/// the corrected events.
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
