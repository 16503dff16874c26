//! Every state of a delivery with every outcome of an attempt, and the resulting state.

use std::time::Duration;

use crate::helpers::states;
use crate::helpers::*;
use project_webhooks::domain::delivery::{self, FailureCause, Outcome, RetryAfter, State};
use project_webhooks::domain::event::Origin;
use project_webhooks::store::{Claim, ListedDelivery, Listings, OffCause, Selector, Store};

const SCHEDULE: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(300),
];

const FAILED: Outcome = Outcome::NO_ANSWER;
const ASKED: Outcome = Outcome::Failed {
    cause: FailureCause::Endpoint,
    retry_after: Some(RetryAfter::Webhook(Duration::from_secs(3_600))),
};

/// A change by an operator during an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    Cancelled,
    Redelivered,
    CancelledAndRedelivered,
    CancelledAndPurged,
}

/// The resulting state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Finished, in this state.
    Is(State),
    /// Pending, and due this many seconds after the answer, which comes at 20.
    Due(i64),
    /// Pending, due since the redelivery, with a fresh schedule.
    Again,
    /// Pending and due now, but not claimed since the webhook is off.
    Off,
    /// Removed.
    Purged,
}

fn apply(store: &Store, claim: &Claim, outcome: Outcome) {
    let attempt = claim.scheduled_attempt;
    let verdict = delivery::next(&SCHEDULE, attempt, outcome, at(20), 0.0);
    wait(store.finish([finish(claim, verdict)].into())).unwrap();
}

fn listed(listings: &Listings, id: i64) -> Option<ListedDelivery> {
    let selector = Selector {
        ids: vec![id],
        ..Selector::default()
    };
    listings.deliveries(&selector, 1).unwrap().pop()
}

#[test]
fn an_outcome_leaves_a_delivery_where_it_belongs() {
    use After::{Again, Due, Is, Off, Purged};
    use Meanwhile::{Cancelled, CancelledAndPurged, CancelledAndRedelivered, Nothing, Redelivered};
    // Earlier failures, the operator's action, the outcome, and the resulting state.
    let cases = [
        (0, Nothing, Outcome::Accepted, Is(State::Delivered)),
        (0, Nothing, FAILED, Due(5)),
        (0, Nothing, ASKED, Due(3_600)),
        (0, Nothing, Outcome::Gone, Off),
        (1, Nothing, Outcome::Accepted, Is(State::Delivered)),
        (1, Nothing, FAILED, Due(300)),
        (1, Nothing, ASKED, Due(3_600)),
        (1, Nothing, Outcome::Gone, Off),
        // The last attempt.
        (2, Nothing, Outcome::Accepted, Is(State::Delivered)),
        (2, Nothing, FAILED, Is(State::Dead)),
        (2, Nothing, ASKED, Is(State::Dead)),
        (2, Nothing, Outcome::Gone, Off),
        // A cancelled delivery stays cancelled unless its attempt succeeds.
        (0, Cancelled, Outcome::Accepted, Is(State::Delivered)),
        (0, Cancelled, FAILED, Is(State::Cancelled)),
        (0, Cancelled, ASKED, Is(State::Cancelled)),
        (0, Cancelled, Outcome::Gone, Is(State::Cancelled)),
        (2, Cancelled, FAILED, Is(State::Cancelled)),
        (
            0,
            CancelledAndRedelivered,
            Outcome::Accepted,
            Is(State::Delivered),
        ),
        // A redelivery is not undone by the attempt that was in flight.
        (0, CancelledAndRedelivered, FAILED, Again),
        (0, CancelledAndRedelivered, ASKED, Again),
        (2, CancelledAndRedelivered, FAILED, Again),
        (0, Redelivered, Outcome::Accepted, Is(State::Delivered)),
        (0, Redelivered, FAILED, Again),
        (1, Redelivered, ASKED, Again),
        (2, Redelivered, FAILED, Again),
        (0, Redelivered, Outcome::Gone, Off),
        (0, CancelledAndRedelivered, Outcome::Gone, Off),
        (0, CancelledAndPurged, Outcome::Accepted, Purged),
        (0, CancelledAndPurged, FAILED, Purged),
        (0, CancelledAndPurged, Outcome::Gone, Purged),
    ];
    for (n_failures, meanwhile, outcome, after) in cases {
        let case = format!("{n_failures} failures, {meanwhile:?}, {outcome:?}");
        let fixture = Fixture::new();
        let store = fixture.store();
        store.record(one_event("a", "one", &["catalog"])).unwrap();
        store.record(one_event("a", "two", &["catalog"])).unwrap();
        for _ in 0..n_failures {
            apply(&store, &claim(&store, "catalog", at(9_000)), FAILED);
        }
        let head = claim(&store, "catalog", at(9_000));
        let selector = Selector {
            ids: vec![head.delivery],
            ..Selector::default()
        };
        let mut operations = fixture.operations();
        if !matches!(meanwhile, Nothing | Redelivered) {
            assert_eq!(operations.cancel(&selector, at(11)).unwrap(), 1, "{case}");
        }
        match meanwhile {
            Redelivered | CancelledAndRedelivered => {
                operations.redeliver(&selector, at(12)).unwrap();
            }
            CancelledAndPurged => {
                operations.purge(&selector).unwrap();
            }
            Nothing | Cancelled => {}
        }
        apply(&store, &head, outcome);
        // It arrived twice: nothing is counted twice.
        apply(&store, &head, outcome);

        let listings = fixture.listings();
        let found = listed(&listings, head.delivery);
        let catalog = states(&store).remove("catalog").unwrap();
        let is_off = outcome == Outcome::Gone && after != Purged;
        assert_eq!(
            catalog.off.map(|off| off.cause),
            is_off.then_some(OffCause::Gone),
            "{case}"
        );
        let heads = claims(&store, "catalog", at(20));
        let Some(found) = found else {
            assert_eq!(after, Purged, "{case}");
            assert_eq!(catalog.n_pending, 1, "{case}");
            continue;
        };
        assert_eq!(found.n_attempts, n_failures + 1, "{case}");
        match after {
            Is(state) => {
                assert_eq!(found.state, state, "{case}");
                assert!(found.finished_at.is_some(), "{case}");
                assert_eq!(catalog.n_pending, 1, "{case}");
                // The next one of the project is free.
                let next = if is_off { 0 } else { 1 };
                assert_eq!(heads.ready.len(), next, "{case}");
            }
            Due(seconds) => {
                assert_eq!(found.state, State::Pending, "{case}");
                assert_eq!(found.due, at(20 + seconds), "{case}");
                assert_eq!(found.finished_at, None, "{case}");
                assert_eq!(catalog.n_pending, 2, "{case}");
                assert!(heads.ready.is_empty(), "{case}");
                assert_eq!(heads.next_due, Some(at(20 + seconds)), "{case}");
            }
            Again => {
                assert_eq!(found.state, State::Pending, "{case}");
                assert_eq!(found.due, at(12), "{case}");
                let again = claim(&store, "catalog", at(20));
                assert_eq!(again.delivery, head.delivery, "{case}");
                assert_eq!(again.attempt, n_failures + 2, "{case}");
                assert_eq!(again.scheduled_attempt, 1, "{case}");
            }
            Off => {
                assert_eq!(found.state, State::Pending, "{case}");
                assert_eq!(catalog.n_pending, 2, "{case}");
                assert!(heads.ready.is_empty(), "{case}");
                assert!(fixture.operations().switch_on("catalog").unwrap(), "{case}");
                let again = claim(&store, "catalog", at(9_000));
                assert_eq!(again.delivery, head.delivery, "{case}");
                assert_eq!(again.attempt, n_failures + 2, "{case}");
            }
            Purged => panic!("{case}: it is still there"),
        }
    }
}

/// A redelivery starts its schedule over, from every state.
#[test]
fn a_redelivery_starts_over_from_every_state() {
    for (outcomes, state) in [
        (&[][..], State::Pending),
        (&[FAILED][..], State::Pending),
        (&[Outcome::Accepted][..], State::Delivered),
        (&[FAILED, FAILED, FAILED][..], State::Dead),
    ] {
        let fixture = Fixture::new();
        let store = fixture.store();
        store.record(one_event("a", "one", &["catalog"])).unwrap();
        let first = claim(&store, "catalog", at(0));
        for outcome in outcomes {
            apply(&store, &claim(&store, "catalog", at(9_000)), *outcome);
        }
        let listings = fixture.listings();
        let before = listed(&listings, first.delivery).unwrap();
        assert_eq!(before.state, state);
        let selector = Selector {
            ids: vec![first.delivery],
            ..Selector::default()
        };
        let mut operations = fixture.operations();
        assert_eq!(operations.redeliver(&selector, at(30)).unwrap(), 1);
        let again = claim(&store, "catalog", at(30));
        let n_before = u32::try_from(outcomes.len()).unwrap();
        assert_eq!(
            (again.attempt, again.scheduled_attempt),
            (n_before + 1, 1),
            "{state:?}"
        );
        assert_eq!(again.event.id, first.event.id, "{state:?}");
        assert_eq!(again.payload, first.payload, "{state:?}");
        let origin = if outcomes.is_empty() {
            Origin::Live
        } else {
            Origin::Redelivery
        };
        assert_eq!(again.origin, origin, "{state:?}");
        // The whole schedule applies again.
        apply(&store, &again, FAILED);
        assert_eq!(next_due(&store, "catalog"), Some(at(25)), "{state:?}");
    }
}
