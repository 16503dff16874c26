//! A server that restarts, a connection that is cut off, and a slow link.

use std::time::Duration;

use project_webhooks::config::Postgres as Settings;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::domain::event::EventKind;
use project_webhooks::store::{EventFilter, Fault, Listings, Store, move_to_sqlite};

use super::{schema, server, settings};
use crate::common::{Postgres, Relay, skip, wait_until};
use crate::helpers::*;

#[test]
fn a_restarted_server_loses_nothing_and_is_used_again() {
    // A server of its own, because others must not notice.
    let Some(server) = Postgres::start() else {
        return skip(
            "a_restarted_server_loses_nothing_and_is_used_again",
            "no postgresql",
        );
    };
    let settings = settings(&server);
    let store = Store::connect(&settings).unwrap();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    server.crash();
    let error = store
        .record(one_event("b", "two", &["catalog"]))
        .unwrap_err();
    assert!(matches!(error.fault(), Fault::Unreachable(_)), "{error}");
    let error = wait(store.claim("catalog", asking(at(0), 10))).unwrap_err();
    assert!(matches!(error.fault(), Fault::Unreachable(_)), "{error}");
    server.start_again();
    store.record(one_event("b", "two", &["catalog"])).unwrap();
    assert_eq!(claims(&store, "catalog", at(0)).ready.len(), 2);
}

/// The rest of a statement that finds the commit that sleeps in this schema. Tests share a server.
fn sleeping_in(schema: &str) -> String {
    format!(
        "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid IN \
         (SELECT pid FROM pg_locks WHERE relation = '{schema}.events'::regclass)"
    )
}

/// Nobody knows whether a batch was recorded whose commit was not answered.
#[test]
fn a_batch_whose_commit_was_cut_off_is_recorded_once() {
    let Some(server) = server("a_batch_whose_commit_was_cut_off_is_recorded_once") else {
        return;
    };
    // A trigger at the end of the transaction ends it, or makes it last.
    for (at_commit, is_recorded) in [
        ("pg_terminate_backend(pg_backend_pid())", false),
        ("pg_sleep(8)", true),
    ] {
        let relay = Relay::start(server.port);
        let direct = settings(server);
        let schema = schema(&direct);
        let settings = Settings {
            connection: direct.connection.replace(
                &format!("port={}", server.port),
                &format!("port={}", relay.port),
            ),
            ..direct.clone()
        };
        let store = Store::connect(&settings).unwrap();
        server.sql(
            "postgres",
            &format!(
                "CREATE FUNCTION {schema}.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 PERFORM {at_commit}; RETURN NULL; END $$; \
                 CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON {schema}.events \
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.at_commit()"
            ),
        );
        // An event that leaves the record as it is, such as that of a short-lived snapshot.
        let batch = || {
            let new = event(EventKind::SnapshotCreate, &key("a"), "one", &["catalog"]);
            of_event(new, "one")
        };
        let error = std::thread::scope(|scope| {
            let recording = scope.spawn(|| store.record(batch()).unwrap_err());
            if is_recorded {
                wait_until("the commit sleeps", || {
                    let sql = format!("SELECT count(*) {}", sleeping_in(schema));
                    (server.sql("postgres", &sql) == "1").then_some(())
                });
                relay.cut();
            }
            recording.join().unwrap()
        });
        assert!(matches!(error.fault(), Fault::Unreachable(_)), "{error}");
        if !is_recorded {
            let sql = format!("DROP TRIGGER at_commit ON {schema}.events");
            server.sql("postgres", &sql);
        }
        // This waits for the commit that is under way.
        let committed = store.record(batch()).unwrap();
        let expected = batch().changes[0].events[0].event.id.clone();
        assert_eq!(committed.events[0].id, expected, "{at_commit}");
        let listings = Listings::connect(&direct).unwrap();
        let events = listings.events(&EventFilter::default(), 10).unwrap();
        assert_eq!(events.len(), 1, "{at_commit}");
        assert_eq!(claims(&store, "catalog", at(0)).ready.len(), 1);
        // The same happening again is another one.
        store.record(batch()).unwrap();
        let events = listings.events(&EventFilter::default(), 10).unwrap();
        assert_eq!(events.len(), 2);
    }
}

/// Engines of several repositories record through one store at the same time.
#[test]
fn a_batch_whose_commit_was_cut_off_is_recorded_once_beside_other_batches() {
    let test = "a_batch_whose_commit_was_cut_off_is_recorded_once_beside_other_batches";
    let Some(server) = server(test) else { return };
    let relay = Relay::start(server.port);
    let direct = settings(server);
    let schema = schema(&direct);
    let settings = Settings {
        connection: relay.through(&direct.connection, server),
        ..direct.clone()
    };
    let store = Store::connect(&settings).unwrap();
    // The commit of the first project lasts.
    server.sql(
        "postgres",
        &format!(
            "CREATE FUNCTION {schema}.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.project = 'a' THEN PERFORM pg_sleep(8); END IF; RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON {schema}.events \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.at_commit()"
        ),
    );
    let batch = || one_event("a", "one", &["catalog"]);
    // A payload of this size is stored before its batch, so it shows that the batch has begun.
    let large = random(&mut fastrand::Rng::with_seed(7), 128 * 1024);
    let error = std::thread::scope(|scope| {
        let recording = scope.spawn(|| store.record(batch()).unwrap_err());
        let port = wait_until("the commit sleeps", || {
            let sql = format!("SELECT client_port {}", sleeping_in(schema));
            server.sql("postgres", &sql).parse().ok()
        });
        let other = scope.spawn(|| store.record(one_event("b", &large, &["catalog"])));
        wait_until("the other batch has begun", || {
            let sql = format!("SELECT count(*) FROM {schema}.payloads");
            (server.sql("postgres", &sql) == "1").then_some(())
        });
        relay.cut_one(port);
        let error = recording.join().unwrap();
        other.join().unwrap().unwrap();
        error
    });
    assert!(matches!(error.fault(), Fault::Unreachable(_)), "{error}");
    store.record(batch()).unwrap();
    let listings = Listings::connect(&direct).unwrap();
    let events = listings.events(&EventFilter::default(), 10).unwrap();
    let mut projects: Vec<&str> = events.iter().map(|one| &*one.event.key.project).collect();
    projects.sort_unstable();
    assert_eq!(projects, ["a", "b"]);
}

/// Nothing locks the database, so its operator must not look for a lock.
#[test]
fn a_statement_that_takes_too_long_is_reported_as_slow() {
    let Some(server) = server("a_statement_that_takes_too_long_is_reported_as_slow") else {
        return;
    };
    let settings = settings(server);
    let schema = schema(&settings);
    let limited = settings
        .connection
        .replace("options='", "options='-c statement_timeout=500 ");
    let limited = Settings {
        connection: limited,
        ..settings.clone()
    };
    let store = Store::connect(&limited).unwrap();
    server.sql(
        "postgres",
        &format!(
            "CREATE FUNCTION {schema}.at_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             PERFORM pg_sleep(60); RETURN NULL; END $$; \
             CREATE TRIGGER at_insert AFTER INSERT ON {schema}.events \
             FOR EACH ROW EXECUTE FUNCTION {schema}.at_insert()"
        ),
    );
    let error = store.record(one_event("a", "one", &[])).unwrap_err();
    assert!(matches!(error.fault(), Fault::Slow(_)), "{error}");
    assert!(error.to_string().contains("took too long"), "{error}");
}

/// A text that cannot be compressed to less than three quarters of its length.
fn random(rng: &mut fastrand::Rng, n: usize) -> String {
    std::iter::repeat_with(|| rng.alphanumeric())
        .take(n)
        .collect()
}

#[test]
fn a_slow_link_delays_batches_and_results_and_does_not_prevent_them() {
    let test = "a_slow_link_delays_batches_and_results_and_does_not_prevent_them";
    let Some(server) = server(test) else { return };
    let relay = Relay::start(server.port);
    let direct = settings(server);
    let settings = Settings {
        connection: relay.through(&direct.connection, server),
        lease: Duration::from_secs(12),
        ..direct.clone()
    };
    let store = Store::connect(&settings).unwrap();
    // The server waits for 3 s within a transaction, in which the link sends 192 KiB. A part of 64 KiB
    // takes one of them, so a stall of this machine for two ends no transaction.
    relay.slow_down(64 * 1024);
    let mut rng = fastrand::Rng::with_seed(7);
    let large = random(&mut rng, 320 * 1024);
    store.record(one_event("a", &large, &["other"])).unwrap();

    let mut batch = one_event("b", "one", &[]);
    batch.changes = (0..400)
        .map(|number| {
            let key = key(&format!("b{number}"));
            let mut new = event(EventKind::SnapshotCreate, &key, "one", &["catalog"]);
            new.event.explanation.because = random(&mut rng, 512);
            of_event(new, "one").changes.remove(0)
        })
        .collect();
    store.record(batch).unwrap();

    let claims = claims(&store, "catalog", at(0)).ready;
    let results = claims.iter().take(18).map(|claim| {
        let mut finish = finish(claim, Verdict::Retry(at(60)));
        finish.attempt.answer = random(&mut rng, 16 * 1024).into();
        finish
    });
    wait(store.finish(results.collect())).unwrap();
    let listings = Listings::connect(&direct).unwrap();
    let events = listings.events(&EventFilter::default(), 2_000).unwrap();
    assert_eq!(events.len(), 401);
    let (_, _, attempts) = listings.delivery(claims[0].delivery).unwrap().unwrap();
    assert_eq!(attempts.len(), 1);
}

/// The server ends a statement after a time, however much of its answer is on the way.
#[test]
fn a_large_payload_arrives_over_a_slow_link() {
    let Some(server) = server("a_large_payload_arrives_over_a_slow_link") else {
        return;
    };
    let relay = Relay::start(server.port);
    let direct = settings(server);
    let settings = Settings {
        connection: relay
            .through(&direct.connection, server)
            .replace("options='", "options='-c statement_timeout=4000 "),
        ..direct.clone()
    };
    assert!(settings.connection.contains("statement_timeout"));
    let store = Store::connect(&settings).unwrap();
    let large = random(&mut fastrand::Rng::with_seed(7), 8 * 1024 * 1024);
    for (project, text) in [("a", "one"), ("b", &large), ("c", "two")] {
        store
            .record(one_event(project, text, &["catalog"]))
            .unwrap();
    }
    relay.slow_answers_down(512 * 1024);
    let mut arrived = Vec::new();
    // A large payload does not hold up the deliveries before it.
    for n in [1, 1, 1] {
        let ready = claims(&store, "catalog", at(0)).ready;
        assert_eq!(ready.len(), n);
        for claim in ready {
            arrived.push(claim.payload.clone());
            end(&store, &claim, Verdict::Delivered);
        }
    }
    assert!(arrived == [bytes("one"), bytes(&large), bytes("two")]);
    drop(store);
    // A listing and a move read it too.
    let listings = Listings::connect(&settings).unwrap();
    let part = listings.payload_part(&hash(&large), 0, 1024).unwrap();
    assert!(part.is_some());
    let directory = tempfile::tempdir().unwrap();
    move_to_sqlite(&settings, directory.path(), &mut |_, _| {}).unwrap();
}
