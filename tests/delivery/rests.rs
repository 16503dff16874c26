use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderValue;

use crate::common::{Endpoint, Home, Settings, Webhook, wait_until};
use crate::{define, project, reply, snapshot, standing};

/// Longer than another project's change takes on a busy machine.
const ASKED: Duration = Duration::from_secs(8);

const SLOW: Duration = Duration::from_secs(24 * 60 * 60);

/// Sends a snapshot of one project, which the endpoint answers with this status and a Retry-After,
/// and then one of another project. Returns how long after the first request the other one came, and
/// how long after it the retry.
fn waits(status: u16) -> (Duration, Duration) {
    let endpoint = Endpoint::answering(move |one| {
        if project(one) == "other" || one.attempt != Some(1) {
            return reply(204);
        }
        let mut answer = reply(status);
        // A receiver whose clock is slow by a day asks by a date, another one by seconds.
        if matches!(status, 503 | 504) {
            let now = jiff::Timestamp::now() - SLOW;
            let date = |at: jiff::Timestamp| {
                let text = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                HeaderValue::from_str(&text).unwrap()
            };
            answer.headers.insert("date", date(now));
            answer.headers.insert("retry-after", date(now + ASKED));
        } else {
            let asked = HeaderValue::from(ASKED.as_secs());
            answer.headers.insert("retry-after", asked);
        }
        answer
    });
    let webhook = Webhook::new("all", &endpoint.url()).events("[snapshot-create]");
    let home = Home::new(&Settings::of([webhook]));
    define(&home, "first");
    define(&home, "other");
    let daemon = home.start();
    snapshot(&home, "first", "s1");
    daemon.wait_message("failed: ", 1);
    snapshot(&home, "other", "s1");
    let came = endpoint.wait_for(3);
    let after = |wanted: &str, attempt| {
        let mut came = came.iter();
        let is_wanted = |project_name: &str, number| project_name == wanted && number == attempt;
        let first = came.clone().next().unwrap().at;
        let one = came
            .find(|one| is_wanted(&project(one), one.attempt))
            .unwrap();
        one.at.duration_since(first).unsigned_abs()
    };
    (after("other", Some(1)), after("first", Some(2)))
}

/// The same for two statuses at the same time.
fn waits_of(statuses: [u16; 2]) -> [(Duration, Duration); 2] {
    std::thread::scope(|scope| {
        let running = statuses.map(|status| scope.spawn(move || waits(status)));
        running.map(|one| one.join().unwrap())
    })
}

#[test]
fn an_overloaded_receiver_gets_nothing_until_the_time_it_asked_for() {
    for (status, (other, retry)) in [429, 503].into_iter().zip(waits_of([429, 503])) {
        assert!(other >= ASKED, "{status}: another project after {other:?}");
        assert!(retry >= ASKED, "{status}: retried after {retry:?}");
    }
}

#[test]
fn another_url_does_not_wait_for_the_time_that_the_former_receiver_asked_for() {
    let old = Endpoint::answering(|_| {
        let mut answer = reply(429);
        answer
            .headers
            .insert("retry-after", HeaderValue::from(3600));
        answer
    });
    let new = Endpoint::new();
    let settings = |endpoint: &Endpoint| {
        let webhook = Webhook::new("all", &endpoint.url()).events("[snapshot-create]");
        Settings::of([webhook])
    };
    let home = Home::new(&settings(&old));
    define(&home, "first");
    let daemon = home.start();
    snapshot(&home, "first", "s1");
    daemon.wait_message("failed: ", 1);
    home.configure(&settings(&new));
    assert!(daemon.reload());
    assert_eq!(new.wait_for(1)[0].attempt, Some(2));
}

#[test]
fn a_gateway_postpones_the_one_delivery() {
    for (status, (other, retry)) in [502, 504].into_iter().zip(waits_of([502, 504])) {
        assert!(other < retry, "{status}: another project after {other:?}");
        assert!(retry >= ASKED, "{status}: retried after {retry:?}");
    }
}

#[test]
fn a_receiver_in_maintenance_that_asks_for_waits_uses_up_no_attempts() {
    const PROJECTS: usize = 4;
    let is_in_maintenance = Arc::new(AtomicBool::new(true));
    let endpoint = Endpoint::answering({
        let is_in_maintenance = Arc::clone(&is_in_maintenance);
        move |_| {
            if !is_in_maintenance.load(Ordering::SeqCst) {
                return reply(204);
            }
            let mut answer = reply(503);
            answer.headers.insert("retry-after", HeaderValue::from(1));
            answer
        }
    });
    let webhook = Webhook::new("all", &endpoint.url()).events("[snapshot-create]");
    let home = Home::new(&Settings::of([webhook.schedule("[0s, 10ms, 10ms]")]));
    for number in 0..PROJECTS {
        define(&home, &format!("p{number}"));
    }
    let daemon = home.start();
    for number in 0..PROJECTS {
        snapshot(&home, &format!("p{number}"), "s1");
    }
    // With the schedule, each delivery has three attempts.
    wait_until(
        "more attempts than the schedule has, or a dead delivery",
        || {
            let is_dead = standing(&home, "all")["dead"] != 0;
            (is_dead || endpoint.n() > 3 * PROJECTS).then_some(())
        },
    );
    is_in_maintenance.store(false, Ordering::SeqCst);
    wait_until("all deliveries", || {
        let standing = standing(&home, "all");
        (standing["pending"] == 0).then(|| assert_eq!(standing["dead"], 0))
    });
    drop(daemon);
}

/// A receiver with a bucket of five tokens, and four more in a second.
struct Bucket {
    tokens: f64,
    at: Option<jiff::Timestamp>,
}

impl Bucket {
    fn take(&mut self, now: jiff::Timestamp) -> bool {
        let passed = self.at.map(|at| now.duration_since(at).as_secs_f64());
        self.tokens = (self.tokens + 4.0 * passed.unwrap_or_default()).min(5.0);
        self.at = Some(now);
        let is_left = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(is_left));
        is_left
    }
}

#[test]
fn a_receiver_that_limits_requests_refuses_few() {
    const PROJECTS: usize = 60;
    let bucket = Mutex::new(Bucket {
        tokens: 5.0,
        at: None,
    });
    let endpoint = Endpoint::answering(move |one| {
        if bucket.lock().unwrap().take(one.at) {
            return reply(204);
        }
        let mut answer = reply(429);
        answer.headers.insert("retry-after", HeaderValue::from(1));
        answer
    });
    let webhook = Webhook::new("all", &endpoint.url()).events("[snapshot-create]");
    let home = Home::new(&Settings::of([webhook]));
    for number in 0..PROJECTS {
        define(&home, &format!("p{number}"));
    }
    let daemon = home.start();
    for number in 0..PROJECTS {
        snapshot(&home, &format!("p{number}"), "s1");
    }
    daemon.wait_message("delivered: ", PROJECTS);
    let n_requests = endpoint.n();
    assert!(n_requests <= PROJECTS + PROJECTS / 5, "{n_requests}");
    assert_eq!(daemon.n_messages("the endpoint seems to be down"), 0);
}

/// Requests are evenly spaced, so two of them are never closer than the rate allows.
#[test]
fn a_rate_limits_requests() {
    const PROJECTS: usize = 40;
    let endpoint = Endpoint::new();
    let webhook = Webhook::new("all", &endpoint.url())
        .events("[snapshot-create]")
        .with("rate: 10/s");
    let home = Home::new(&Settings::of([webhook]));
    for number in 0..PROJECTS {
        define(&home, &format!("p{number}"));
    }
    let daemon = home.start();
    // Any request may arrive late, so the time begins before the first one.
    let began = jiff::Timestamp::now();
    for number in 0..PROJECTS {
        snapshot(&home, &format!("p{number}"), "s1");
    }
    daemon.wait_message("delivered: ", PROJECTS);
    let last = endpoint.all()[PROJECTS - 1].at;
    let took = last.duration_since(began);
    assert!(
        took.unsigned_abs() >= Duration::from_millis(3_900),
        "{took:?}"
    );
}
