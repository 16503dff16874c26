//! A sender sends only with a confirmed lease.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use project_webhooks::receiver::Reply;

use super::common::{Endpoint, Relay, wait_within};
use super::fleet::{Fleet, LEASE, PATIENCE, assert_in_order, launch, senders};

#[test]
fn a_sender_that_is_killed_during_an_exchange_leaves_its_lanes() {
    let Some(fleet) = Fleet::new("a_sender_that_is_killed_during_an_exchange_leaves_its_lanes")
    else {
        return;
    };
    // The first sender gets no answers.
    let endpoint = Endpoint::answering(|one| {
        let mut reply = Reply::status(StatusCode::NO_CONTENT);
        if one.header("X-Sender") == Some("first") {
            reply.delay = Duration::from_secs(3_600);
        }
        reply
    });
    fleet.record(0..20, 2);
    let more = ["timeout: 1h"];
    let homes = ["first", "second"].map(|name| fleet.home(&endpoint, name, "[deliver]", &more));
    let first = launch(&homes[0]);
    endpoint.wait_for(2);
    let second = launch(&homes[1]);
    second.wait_message("sending callbacks", 1);
    // Its lanes are claimed, so the other one sends only later events.
    fleet.record(20..22, 22);
    endpoint.wait_for(4);
    first.kill();
    wait_within(PATIENCE, "the end", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(second.terminate().success());
    let all = endpoint.all();
    assert_in_order(&all, 22);
    // Only the exchanges that were under way happen twice, with the same body.
    let of_first = || {
        all.iter()
            .filter(|one| one.header("X-Sender") == Some("first"))
    };
    assert_eq!(all.len(), 22 + of_first().count());
    for one in of_first() {
        let again = all.iter().filter(|other| other.id == one.id);
        let bodies: Vec<&Bytes> = again.map(|other| &other.body).collect();
        assert_eq!(bodies.len(), 2);
        assert_eq!(bodies[0], bodies[1]);
    }
}

/// The sender has claimed its delivery, and waits for a token when its lease ends.
#[test]
fn a_sender_that_gets_its_token_after_its_lease_ended_sends_nothing() {
    let Some(fleet) =
        Fleet::new("a_sender_that_gets_its_token_after_its_lease_ended_sends_nothing")
    else {
        return;
    };
    let (issue, may_issue) = mpsc::channel::<()>();
    let may_issue = Mutex::new(may_issue);
    let tokens = Endpoint::answering(move |_| {
        // Until the test says so, or has failed.
        let _ = may_issue.lock().unwrap().recv_timeout(PATIENCE);
        let mut reply = Reply::status(StatusCode::OK);
        reply.body = Bytes::from_static(b"{\"access_token\": \"t\", \"token_type\": \"bearer\"}");
        reply
    });
    let endpoint = Endpoint::new();
    fleet.record(0..2, 1);
    let relay = Relay::start(fleet.server.port);
    let auth = format!(
        "auth: {{ oauth2: {{ token_url: '{}', client_id: c, client_secret: s }} }}",
        tokens.url()
    );
    let late = fleet.home(&endpoint, "late", "[deliver]", &["timeout: 1h", &auth]);
    let config = std::fs::read_to_string(late.config()).unwrap();
    let through = relay.through(&config, &fleet.server);
    std::fs::write(late.config(), through).unwrap();
    let other = fleet.home(&endpoint, "other", "[deliver]", &[]);
    let late = launch(&late);
    wait_within(PATIENCE, "the request for a token", || {
        (tokens.n_all() == 1).then_some(())
    });
    relay.close();
    let other = launch(&other);
    wait_within(PATIENCE, "the other sender", || {
        (endpoint.n_all() == 2).then_some(())
    });
    issue.send(()).unwrap();
    // It lets its exchanges end.
    assert!(late.terminate().success());
    assert!(other.terminate().success());
    let all = endpoint.all();
    assert_eq!(senders(&all), ["other".to_owned()].into());
    assert_in_order(&all, 2);
}

/// The answer to a claim takes longer than half of a lease, which is renewed meanwhile.
#[test]
fn a_claim_whose_answer_takes_long_is_sent() {
    let Some(fleet) = Fleet::new("a_claim_whose_answer_takes_long_is_sent") else {
        return;
    };
    let endpoint = Endpoint::new();
    fleet.record(0..1, 1);
    let slow = LEASE / 2 + 1;
    fleet.sql(&format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_sleep({slow}); RETURN NULL; END $$; \
         CREATE TRIGGER slow AFTER INSERT ON claims FOR EACH ROW EXECUTE FUNCTION slow()"
    ));
    let home = fleet.home(&endpoint, "slow", "[deliver]", &[]);
    let daemon = launch(&home);
    wait_within(PATIENCE, "the end", || {
        (fleet.n_pending() == 0).then_some(())
    });
    assert!(daemon.terminate().success());
    assert_eq!(endpoint.n_all(), 1);
}

#[test]
fn a_sender_says_that_it_sends_nothing_without_a_confirmed_lease() {
    let Some(fleet) = Fleet::new("a_sender_says_that_it_sends_nothing_without_a_confirmed_lease")
    else {
        return;
    };
    let endpoint = Endpoint::new();
    fleet.record(0..1, 1);
    let home = fleet.home(&endpoint, "slow", "[deliver]", &[]);
    let daemon = launch(&home);
    let all_sent = || {
        wait_within(PATIENCE, "the end", || {
            (fleet.n_pending() == 0).then_some(())
        });
    };
    all_sent();
    let locks = "BEGIN; SELECT FROM senders FOR UPDATE;";
    let locked = fleet.server.session(fleet.database(), locks);
    daemon.wait_message(
        "sending no callbacks: the database has not confirmed the lease",
        1,
    );
    fleet.record(1..2, 1);
    assert_eq!(endpoint.n_all(), 1);
    locked.end();
    daemon.wait_message("the database answers again", 1);
    all_sent();
    assert!(daemon.terminate().success());
    assert_eq!(endpoint.n_all(), 2);
}
