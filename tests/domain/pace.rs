//! The pace of requests, by a virtual clock and modelled receivers.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use project_webhooks::domain::delivery::{self, FailureCause, Outcome, RetryAfter, Verdict};
use project_webhooks::domain::endpoint::{Admission, Endpoint};
use project_webhooks::domain::pace::{Pace, Rate};
use project_webhooks::domain::project::ProjectKey;

const MILLISECOND: Duration = Duration::from_millis(1);

const SCHEDULE: [u64; 10] = [
    0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400,
];

/// How a receiver limits requests. It answers others with 429, and a Retry-After in whole seconds.
trait Limit {
    /// Takes a request. The wait if it is one too many.
    fn take(&mut self, now: Duration) -> Option<Duration>;
}

/// A bucket that holds `size` tokens, and gets `per_second`.
struct Bucket {
    size: f64,
    per_second: f64,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    fn new(size: f64, per_second: f64) -> Self {
        Self {
            size,
            per_second,
            tokens: size,
            at: Duration::ZERO,
        }
    }
}

impl Limit for Bucket {
    fn take(&mut self, now: Duration) -> Option<Duration> {
        let added = (now - self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + added).min(self.size);
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return None;
        }
        let missing = (1.0 - self.tokens) / self.per_second;
        Some(Duration::from_secs_f64(missing.ceil().max(1.0)))
    }
}

/// At most `n` requests in each minute.
struct Window {
    n: u32,
    minute: u64,
    n_taken: u32,
}

impl Limit for Window {
    fn take(&mut self, now: Duration) -> Option<Duration> {
        let minute = now.as_secs() / 60;
        if minute != self.minute {
            (self.minute, self.n_taken) = (minute, 0);
        }
        if self.n_taken < self.n {
            self.n_taken += 1;
            return None;
        }
        Some(Duration::from_secs(60 - now.as_secs() % 60))
    }
}

/// No limit.
struct Unlimited;

impl Limit for Unlimited {
    fn take(&mut self, _now: Duration) -> Option<Duration> {
        None
    }
}

/// The requests of a run, and when the last delivery was delivered.
struct Sent {
    times: Vec<Duration>,
    delivered_at: Duration,
}

/// Delivers one delivery of each of `n` projects, eight side by side. An answer takes `latency`.
fn deliver(n: usize, limit: &mut dyn Limit, rate: Option<Rate>, latency: Duration) -> Sent {
    let schedule = SCHEDULE.map(Duration::from_secs);
    let wall = |now: Duration| {
        let start = Timestamp::from_second(1_000_000).unwrap();
        start + SignedDuration::try_from(now).unwrap()
    };
    let (mut pace, mut endpoint) = (Pace::default(), Endpoint::default());
    let keys: Vec<ProjectKey> = (0..n)
        .map(|one| ProjectKey::new("sales", one.to_string()))
        .collect();
    let mut attempts = vec![0_u32; n];
    // The due deliveries, the longest due first.
    let mut due: BTreeSet<(Timestamp, usize)> =
        (0..n).map(|one| (wall(Duration::ZERO), one)).collect();
    let mut in_flight: Vec<(Duration, usize, Duration, Outcome)> = Vec::new();
    let (mut now, mut rests_until, mut times) = (Duration::ZERO, Timestamp::MIN, Vec::new());
    while !due.is_empty() || !in_flight.is_empty() {
        assert!(now < Duration::from_secs(100_000), "it never ends");
        let (answered, rest) = in_flight.into_iter().partition(|(at, ..)| *at <= now);
        in_flight = rest;
        let answered: Vec<(Duration, usize, Duration, Outcome)> = answered;
        for (_, one, began, outcome) in answered {
            let at = wall(now);
            pace.answered(outcome, began, now);
            let effect = endpoint.attempt_ended(&keys[one], outcome, false, &schedule, at, 0.5);
            assert!(effect.transition.is_none(), "a limit is no outage");
            rests_until =
                rests_until.max(delivery::rests_until(outcome, at).unwrap_or(rests_until));
            match delivery::next(&schedule, attempts[one], outcome, at, 0.5) {
                Verdict::RetryAsAsked(next) => drop(due.insert((next, one))),
                verdict => assert_eq!(verdict, Verdict::Delivered),
            }
        }
        while in_flight.len() < 8
            && rests_until <= wall(now)
            && pace.next(rate) <= now
            && let Some(&(at, one)) = due.first()
            && at <= wall(now)
        {
            assert_eq!(endpoint.admit(at, in_flight.len()), Admission::Everything);
            due.pop_first();
            pace.sent(rate, now);
            times.push(now);
            attempts[one] += 1;
            let outcome = match limit.take(now) {
                None => Outcome::Accepted,
                Some(wait) => Outcome::Failed {
                    cause: FailureCause::Endpoint,
                    retry_after: Some(RetryAfter::Webhook(wait)),
                },
            };
            in_flight.push((now + latency, one, now, outcome));
        }
        now += MILLISECOND;
    }
    Sent {
        times,
        delivered_at: now,
    }
}

/// All deliveries come within 1.2 times the ideal time, with 1.2 requests for each at most.
#[test]
fn a_receiver_that_limits_requests_is_kept_busy_and_refuses_few() {
    let per_minute = |n| Window {
        n,
        minute: 0,
        n_taken: 0,
    };
    let bucket = |size, per_second| -> Box<dyn Limit> { Box::new(Bucket::new(size, per_second)) };
    let latencies = [1, 20].map(Duration::from_millis);
    for latency in latencies {
        let cases: [(&str, usize, Box<dyn Limit>, f64); 5] = [
            ("5 and 1/s", 300, bucket(5.0, 1.0), 295.0),
            ("10 and 10/s", 1_000, bucket(10.0, 10.0), 99.0),
            ("1 and 10/s", 1_000, bucket(1.0, 10.0), 99.9),
            ("100 and 50/s", 5_000, bucket(100.0, 50.0), 98.0),
            ("60 a minute", 600, Box::new(per_minute(60)), 540.0),
        ];
        for (name, n, mut limit, ideal) in cases {
            let sent = deliver(n, &mut *limit, None, latency);
            let took = sent.delivered_at.as_secs_f64();
            let n_requests = sent.times.len();
            println!("{name}, {latency:?}: {took} s of {ideal}, {n_requests} requests for {n}");
            assert!(took <= 1.2 * ideal, "{name}: {took} s instead of {ideal}");
            assert!(n_requests <= n + n / 5, "{name}: {n_requests} requests");
        }
    }
}

/// A request is never early, so a receiver with that limit refuses none.
#[test]
fn a_configured_rate_is_never_exceeded() {
    for (requests, seconds) in [(10, 1), (1, 1), (600, 60), (1, 5), (3, 60)] {
        let rate = Rate {
            n: requests,
            per: Duration::from_secs(seconds),
        };
        let n = 3 * requests as usize + 1;
        let sent = deliver(n, &mut Unlimited, Some(rate), MILLISECOND);
        assert_eq!(sent.times.len(), n);
        let per = rate.per / requests;
        for two in sent.times.windows(2) {
            assert!(
                two[1] - two[0] >= per.saturating_sub(MILLISECOND),
                "{rate:?}: {two:?}"
            );
        }
        for window in sent.times.windows(requests as usize + 1) {
            let took = window[requests as usize] - window[0];
            assert!(took >= rate.per, "{rate:?}: {took:?}");
        }
        let ideal = per * u32::try_from(n - 1).unwrap();
        assert!(sent.delivered_at <= ideal.mul_f64(1.05) + 20 * MILLISECOND);
    }
}

/// A reload is no reason for more requests. A higher rate takes effect at once.
#[test]
fn new_settings_do_not_exceed_the_rate() {
    let seconds = Duration::from_secs;
    let rate = |n| {
        Some(Rate {
            n,
            per: seconds(60),
        })
    };
    for (new, next) in [(rate(1), 60), (rate(6), 20), (None, 0)] {
        let mut pace = Pace::default();
        pace.sent(rate(1), seconds(0));
        pace.reset(new, seconds(10));
        assert_eq!(pace.next(new), seconds(next), "{new:?}");
    }
    let mut pace = Pace::default();
    pace.reset(rate(1), seconds(10));
    assert_eq!(pace.next(rate(1)), seconds(0));
}

#[test]
fn a_receiver_without_a_limit_is_not_slowed_down() {
    let sent = deliver(1_000, &mut Unlimited, None, MILLISECOND);
    assert!(sent.delivered_at < Duration::from_secs(1));
}

/// A receiver that asked for a wait once gets the usual load again.
#[test]
fn the_pace_is_forgotten_when_the_receiver_has_no_limit_any_more() {
    let mut pace = Pace::default();
    let asked = Outcome::Failed {
        cause: FailureCause::Endpoint,
        retry_after: Some(RetryAfter::Webhook(Duration::from_secs(30))),
    };
    pace.answered(asked, Duration::ZERO, MILLISECOND);
    let mut now = Duration::from_secs(30);
    for _ in 0..5_000 {
        now = now.max(pace.next(None));
        pace.sent(None, now);
        pace.answered(Outcome::Accepted, now, now + MILLISECOND);
    }
    assert_eq!(pace.next(None), Duration::ZERO);
    assert!(now < Duration::from_secs(60), "{now:?}");
}
