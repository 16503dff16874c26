//! The states of a delivery, and the verdicts on its attempts.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use project_webhooks::domain::delivery::{
    FailureCause, Outcome, RETRY_AFTER_MAX, RetryAfter, State, Verdict, first, next, repeat,
};
use proptest::prelude::*;

/// Adds a delay to `now`, up to the last representable time.
fn after(now: Timestamp, delay: Duration) -> Timestamp {
    SignedDuration::try_from(delay)
        .ok()
        .and_then(|delay| now.checked_add(delay).ok())
        .unwrap_or(Timestamp::MAX)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The default schedule.
const SCHEDULE: [Duration; 10] = [
    seconds(0),
    seconds(5),
    seconds(5 * 60),
    seconds(30 * 60),
    seconds(2 * 3600),
    seconds(5 * 3600),
    seconds(10 * 3600),
    seconds(14 * 3600),
    seconds(20 * 3600),
    seconds(24 * 3600),
];

const FAILED: Outcome = Outcome::NO_ANSWER;

const fn asking(delay: Duration) -> Outcome {
    Outcome::Failed {
        cause: FailureCause::Endpoint,
        retry_after: Some(RetryAfter::Webhook(delay)),
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_777_000_000).unwrap_or_default()
}

fn in_seconds(delay: i64) -> Timestamp {
    Timestamp::from_second(1_777_000_000 + delay).unwrap_or_default()
}

#[test]
fn every_attempt_has_a_verdict_for_each_outcome() {
    for attempt in 0..=12 {
        let next = |outcome| next(&SCHEDULE, attempt, outcome, now(), 0.0);
        assert_eq!(next(Outcome::Accepted), Verdict::Delivered, "{attempt}");
        assert_eq!(next(Outcome::Gone), Verdict::SwitchOff, "{attempt}");
    }

    let failed_after = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
    for (attempt, delay) in (1..).zip(failed_after) {
        assert_eq!(
            next(&SCHEDULE, attempt, FAILED, now(), 0.0),
            Verdict::Retry(in_seconds(delay)),
            "{attempt}"
        );
        // A Retry-After that is shorter than the schedule changes nothing.
        assert_eq!(
            next(&SCHEDULE, attempt, asking(seconds(4)), now(), 0.0),
            Verdict::RetryAsAsked(in_seconds(delay)),
            "{attempt}"
        );
        // One that is longer than a day counts as a day.
        assert_eq!(
            next(&SCHEDULE, attempt, asking(Duration::MAX), now(), 0.0),
            Verdict::RetryAsAsked(in_seconds(86_400)),
            "{attempt}"
        );
    }
    for attempt in [10, 11, u32::MAX] {
        for outcome in [FAILED, asking(seconds(60))] {
            assert_eq!(next(&SCHEDULE, attempt, outcome, now(), 0.5), Verdict::Dead);
        }
    }
    // A Retry-After that is later than the schedule and within bounds.
    assert_eq!(
        next(&SCHEDULE, 1, asking(seconds(60)), now(), 1.0),
        Verdict::RetryAsAsked(in_seconds(60))
    );
}

#[test]
fn a_schedule_of_one_attempt_or_none_gives_up_at_once() {
    assert_eq!(next(&[seconds(0)], 1, FAILED, now(), 0.0), Verdict::Dead);
    assert_eq!(next(&[], 1, FAILED, now(), 0.0), Verdict::Dead);
}

#[test]
fn a_failure_that_uses_up_no_attempt_is_never_the_last_and_keeps_the_requested_wait() {
    let schedule = [seconds(0), seconds(5), seconds(60)];
    for (attempt, outcome, expected) in [
        (1, FAILED, Verdict::Repeat(in_seconds(5))),
        (2, FAILED, Verdict::Repeat(in_seconds(60))),
        // After the last attempt, the last delay is used again.
        (3, FAILED, Verdict::Repeat(in_seconds(60))),
        (9, FAILED, Verdict::Repeat(in_seconds(60))),
        (1, asking(seconds(4)), Verdict::RepeatAsAsked(in_seconds(5))),
        (
            1,
            asking(seconds(40)),
            Verdict::RepeatAsAsked(in_seconds(40)),
        ),
        (
            3,
            asking(seconds(40)),
            Verdict::RepeatAsAsked(in_seconds(60)),
        ),
        (
            3,
            asking(seconds(3_600)),
            Verdict::RepeatAsAsked(in_seconds(3_600)),
        ),
        (3, Outcome::Unsendable, Verdict::Dead),
        (3, Outcome::Accepted, Verdict::Delivered),
        (3, Outcome::Gone, Verdict::SwitchOff),
    ] {
        let verdict = repeat(&schedule, attempt, outcome, now(), 0.0);
        assert_eq!(verdict, expected, "attempt {attempt}, {outcome:?}");
    }
    assert_eq!(repeat(&[], 1, FAILED, now(), 0.0), Verdict::Repeat(now()));
}

#[test]
fn jitter_adds_up_to_a_tenth() {
    let retry = |jitter| next(&SCHEDULE, 2, FAILED, now(), jitter);
    assert_eq!(retry(0.0), Verdict::Retry(in_seconds(300)));
    assert_eq!(retry(0.5), Verdict::Retry(in_seconds(315)));
    assert_eq!(retry(1.0), Verdict::Retry(in_seconds(330)));
    // Values out of bounds.
    assert_eq!(retry(-1.0), retry(0.0));
    assert_eq!(retry(7.0), retry(1.0));
    assert_eq!(retry(f64::NAN), retry(0.0));
    assert_eq!(retry(f64::INFINITY), retry(0.0));
}

#[test]
fn the_first_attempt_is_due_after_the_first_delay() {
    assert_eq!(first(&SCHEDULE, now()), now());
    assert_eq!(first(&[seconds(30)], now()), in_seconds(30));
    assert_eq!(first(&[], now()), now());
    assert_eq!(first(&[Duration::MAX], now()), Timestamp::MAX);
}

#[test]
fn state_words_round_trip() {
    for state in State::ALL {
        assert_eq!(State::from_word(state.as_str()), Some(state));
    }
    assert_eq!(State::from_word("in-flight"), None);
}

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0..200_000_u64, 0..1_000_000_000_u32).prop_map(|(seconds, n)| Duration::new(seconds, n)),
        (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(seconds, n)| Duration::new(seconds, n)),
        Just(Duration::MAX),
    ]
}

fn timestamps() -> impl Strategy<Value = Timestamp> {
    (Timestamp::MIN.as_second()..=Timestamp::MAX.as_second())
        .prop_map(|second| Timestamp::from_second(second).unwrap_or(Timestamp::MAX))
}

proptest! {
    #[test]
    fn a_retry_is_never_sooner_than_the_schedule_nor_much_later(
        schedule in prop::collection::vec(durations(), 0..12),
        attempt in 0..14_u32,
        retry_after in prop::option::of(durations()),
        now in timestamps(),
        jitter in prop_oneof![0.0..=1.0_f64, any::<f64>()],
    ) {
        let cause = FailureCause::Delivery;
        let asked = retry_after.map(RetryAfter::Delivery);
        let outcome = Outcome::Failed { cause, retry_after: asked };
        let verdict = next(&schedule, attempt, outcome, now, jitter);
        let Some(delay) = schedule.get(attempt as usize) else {
            prop_assert_eq!(verdict, Verdict::Dead);
            return Ok(());
        };
        prop_assert_eq!(matches!(verdict, Verdict::RetryAsAsked(_)), retry_after.is_some());
        let Some(at) = verdict.retry_at() else {
            return Err(TestCaseError::fail(format!("{verdict:?}")));
        };
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let earliest = after(now, asked.max(*delay));
        // A nanosecond for the rounding of the tenth.
        let tenth = delay.div_f64(10.0).saturating_add(Duration::from_nanos(1));
        let latest = after(now, asked.max(delay.saturating_add(tenth)));
        prop_assert!(earliest <= at && at <= latest, "{earliest} <= {at} <= {latest}");
    }
}
