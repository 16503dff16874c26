//! The contract with PostgreSQL, and what only several processes can show.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use project_webhooks::config::Postgres as Settings;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::domain::event::EventKind;
use project_webhooks::store::{
    Alone, Asking, EventFilter, Fault, Listings, OpenError, Operations, Selector, Store,
    move_to_postgres, move_to_sqlite,
};

use crate::common::{Patient, Postgres, Relay, Run as _, skip, wait_exit, wait_until};
use crate::fixture::{POSTGRES, in_new_schema};
use crate::helpers::*;

/// The server of all tests, or `None` after a line that says that the test was skipped.
pub fn server(test: &str) -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    let server = SERVER.get_or_init(Postgres::start).as_ref();
    if server.is_none() {
        skip(test, "needs Debian's package postgresql");
    }
    server
}

pub fn settings(server: &Postgres) -> Settings {
    in_new_schema(&server.connection("postgres"))
}

/// The modules with tests of SQLite alone, and this one.
const OTHERS: [&str; 7] = [
    "contents::",
    "damage::",
    "names::",
    "pages::",
    "senders::",
    "sqlite::",
    "postgres::",
];

#[test]
fn the_contract_holds_with_postgresql() {
    let Some(server) = server("the_contract_holds_with_postgresql") else {
        return;
    };
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.env(POSTGRES, server.connection("postgres"));
    for module in OTHERS {
        tests.args(["--skip", module]);
    }
    let done = tests.run().unwrap();
    let output = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{output}");
    // So that the tests are not just skipped.
    assert!(!output.contains(" 0 passed"), "{output}");
}

#[test]
fn repositories_of_one_database_do_not_mix() {
    let Some(server) = server("repositories_of_one_database_do_not_mix") else {
        return;
    };
    let one = settings(server);
    let other = Settings {
        repository: "another".to_owned(),
        ..one.clone()
    };
    let stores = [
        Store::connect(&one).unwrap(),
        Store::connect(&other).unwrap(),
    ];
    for (store, text) in stores.iter().zip(["one", "other"]) {
        store.record(one_event("a", text, &["catalog"])).unwrap();
        let mut recorded = change("a", &Default::default(), &definition(text));
        recorded.payloads = vec![payload(text)];
        store.record(recorded).unwrap();
    }
    for (store, text) in stores.iter().zip(["one", "other"]) {
        assert_eq!(store.recorded(&key("a")).unwrap(), definition(text));
        assert_eq!(claim(store, "catalog", at(0)).payload, bytes(text));
    }
    end(
        &stores[0],
        &claim(&stores[0], "catalog", at(0)),
        Verdict::Dead,
    );
    let dead = Selector {
        webhook: Some("catalog".to_owned()),
        ..Selector::default()
    };
    assert_eq!(
        Operations::connect(&other)
            .unwrap()
            .cancel(&dead, at(1))
            .unwrap(),
        1
    );
    assert_eq!(
        Operations::connect(&one)
            .unwrap()
            .redeliver(&dead, at(1))
            .unwrap(),
        1
    );
    assert_eq!(claim(&stores[0], "catalog", at(1)).attempt, 2);
    assert!(claims(&stores[1], "catalog", at(1)).ready.is_empty());
    for (settings, text) in [(&one, "one"), (&other, "other")] {
        let events = Listings::connect(settings).unwrap();
        let events = events.events(&EventFilter::default(), 10).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].event.payload, hash(text));
    }
}

#[test]
fn one_process_works_on_a_repository_and_the_next_one_takes_over() {
    let Some(server) = server("one_process_works_on_a_repository_and_the_next_one_takes_over")
    else {
        return;
    };
    let settings = settings(server);
    let first = Store::connect(&settings).unwrap();
    let refused = Store::connect(&settings).err();
    assert!(
        matches!(refused, Some(OpenError::Leased { .. })),
        "{refused:?}"
    );
    // Given back at once.
    first.close();
    let second = Store::connect(&settings).unwrap();
    let error = first.record(one_event("a", "one", &[])).unwrap_err();
    assert!(matches!(error.fault(), Fault::Closed), "{error}");
    second.record(one_event("a", "one", &[])).unwrap();
}

#[test]
fn a_process_whose_lease_was_taken_over_changes_nothing() {
    let Some(server) = server("a_process_whose_lease_was_taken_over_changes_nothing") else {
        return;
    };
    let settings = settings(server);
    let stale = Store::connect(&settings).unwrap();
    stale.record(one_event("a", "one", &["catalog"])).unwrap();
    let claimed = claim(&stale, "catalog", at(0));
    // As if it had been stopped past the end of its lease.
    let schema = schema(&settings);
    server.sql(
        "postgres",
        &format!("UPDATE {schema}.leases SET leased_until = '-infinity'"),
    );
    let present = Store::connect(&settings).unwrap();
    let fenced = |fault: &Fault| matches!(fault, Fault::Fenced);
    let error = stale
        .record(one_event("b", "two", &["catalog"]))
        .unwrap_err();
    assert!(fenced(error.fault()), "{error}");
    // Its claims hold until another sender removes them with its lease.
    assert!(claims(&present, "catalog", at(0)).ready.is_empty());
    remove_senders(server, schema);
    // The first claim finds that the lease is gone, and gets another one.
    assert!(claims(&present, "catalog", at(0)).ready.is_empty());
    assert_eq!(claim(&present, "catalog", at(0)), claimed);
    end(&stale, &claimed, Verdict::Delivered);
    assert!(claims(&stale, "catalog", at(0)).ready.is_empty());
    assert_eq!(claim(&present, "catalog", at(0)), claimed);
    let mut notices = stale.notices().unwrap();
    let is_told = tokio::runtime::Runtime::new().unwrap().block_on(async {
        notices
            .wait_for(|notice| notice.is_superseded)
            .await
            .is_ok()
    });
    assert!(is_told);
    // Its end does not take the lease from the other one.
    stale.close();
    let refused = Store::connect(&settings).err();
    assert!(
        matches!(refused, Some(OpenError::Leased { .. })),
        "{refused:?}"
    );
}

/// Removes the leases of senders and their claims, as if the leases had ended.
fn remove_senders(server: &Postgres, schema: &str) {
    let sql = format!("DELETE FROM {schema}.senders; DELETE FROM {schema}.claims");
    server.sql("postgres", &sql);
}

#[test]
fn senders_claim_different_lanes_and_a_late_one_records_nothing() {
    let Some(server) = server("senders_claim_different_lanes_and_a_late_one_records_nothing")
    else {
        return;
    };
    let settings = settings(server);
    let watching = Store::connect(&settings).unwrap();
    let other = Store::connect_sender(&settings).unwrap();
    for (project, text) in [("a", "one"), ("a", "two"), ("b", "three")] {
        let batch = one_event(project, text, &["catalog"]);
        watching.record(batch).unwrap();
    }
    let some = wait(watching.claim("catalog", asking(at(0), 1))).unwrap();
    let late = some.ready[0].clone();
    let theirs = claim(&other, "catalog", at(0));
    assert_eq!((&late.key, &theirs.key), (&key("a"), &key("b")));
    assert_eq!(claim(&watching, "catalog", at(0)), late);
    end(&other, &theirs, Verdict::Delivered);
    remove_senders(server, schema(&settings));
    // The first claim finds that the lease is gone, and gets another one.
    assert!(claims(&other, "catalog", at(0)).ready.is_empty());
    assert_eq!(claim(&other, "catalog", at(0)), late);
    end(&watching, &late, Verdict::Delivered);
    assert_eq!(claim(&other, "catalog", at(0)), late);
    end(&other, &late, Verdict::Delivered);
    assert_eq!(claim(&other, "catalog", at(0)).payload, bytes("two"));
    // The end of a sender releases its lanes.
    other.close();
    assert!(claims(&watching, "catalog", at(0)).ready.is_empty());
    assert_eq!(claim(&watching, "catalog", at(0)).payload, bytes("two"));
}

#[test]
fn a_sender_that_must_be_alone_is_alone_until_it_ends() {
    let Some(server) = server("a_sender_that_must_be_alone_is_alone_until_it_ends") else {
        return;
    };
    let settings = settings(server);
    let watching = Store::connect(&settings).unwrap();
    let other = Store::connect_sender(&settings).unwrap();
    let batch = one_event("a", "one", &["catalog"]);
    watching.record(batch).unwrap();
    let tell = |store: &Store, alone| {
        let asking = Asking {
            alone,
            ..asking(at(0), 0)
        };
        wait(store.claim("catalog", asking)).unwrap();
    };
    tell(&other, Alone::Yes);
    assert!(claims(&watching, "catalog", at(0)).ready.is_empty());
    tell(&other, Alone::No);
    let claimed = claim(&watching, "catalog", at(0));
    tell(&other, Alone::Yes);
    // The result of an exchange that was under way is recorded.
    end(&watching, &claimed, Verdict::Retry(at(1)));
    assert!(claims(&watching, "catalog", at(9)).ready.is_empty());
    other.close();
    assert_eq!(claim(&watching, "catalog", at(9)).attempt, 2);
}

/// Nobody tells a sender that it became the only one if the answer of the database is lost.
#[test]
fn a_sender_that_may_be_alone_ends_that() {
    let Some(server) = server("a_sender_that_may_be_alone_ends_that") else {
        return;
    };
    let settings = settings(server);
    let watching = Store::connect(&settings).unwrap();
    let batch = one_event("a", "one", &["catalog"]);
    watching.record(batch).unwrap();
    let relay = Relay::start(server.port);
    let other = Store::connect_sender(&Settings {
        connection: relay.through(&settings.connection, server),
        ..settings.clone()
    });
    let other = other.unwrap();
    let schema = schema(&settings);
    server.sql(
        "postgres",
        &format!(
            "CREATE FUNCTION {schema}.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             PERFORM pg_sleep(3); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON {schema}.webhooks \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.at_commit()"
        ),
    );
    let tell = |alone| {
        let asking = Asking {
            alone,
            ..asking(at(0), 0)
        };
        wait(other.claim("catalog", asking))
    };
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| tell(Alone::Yes).unwrap_err());
        wait_until("the commit sleeps", || {
            let sql = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                 AND query LIKE 'COMMIT%' AND pid IN (SELECT pid FROM pg_locks WHERE relation = \
                 '{schema}.webhooks'::regclass)"
            );
            (server.sql("postgres", &sql) == "1").then_some(())
        });
        relay.cut();
        asking.join().unwrap();
    });
    // This waits for the commit.
    server.sql(
        "postgres",
        &format!("DROP TRIGGER at_commit ON {schema}.webhooks"),
    );
    let sql = format!("SELECT count(sole_sender) FROM {schema}.webhooks");
    assert_eq!(server.sql("postgres", &sql), "1");
    wait_until("an answer", || tell(Alone::No).ok());
    assert_eq!(claim(&watching, "catalog", at(0)).attempt, 1);
}

#[test]
fn an_operator_on_another_machine_is_noticed() {
    let Some(server) = server("an_operator_on_another_machine_is_noticed") else {
        return;
    };
    let settings = settings(server);
    let store = Store::connect(&settings).unwrap();
    let mut notices = store.notices().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // The first notice says that the daemon listens.
    runtime.block_on(async { notices.changed().await.unwrap() });
    let before = notices.borrow_and_update().n_changes;
    Operations::connect(&settings)
        .unwrap()
        .switch_off("catalog", "test", at(0))
        .unwrap();
    let changed = notices.wait_for(|notice| notice.n_changes > before);
    assert!(runtime.block_on(changed).is_ok());
}

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
                    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                               AND application_name = 'project-webhooks'";
                    (server.sql("postgres", sql) == "1").then_some(())
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

#[test]
fn slow_statements_do_not_lose_the_lease() {
    let Some(server) = server("slow_statements_do_not_lose_the_lease") else {
        return;
    };
    let settings = Settings {
        lease: Duration::from_secs(2),
        ..settings(server)
    };
    let schema = schema(&settings);
    let store = Store::connect(&settings).unwrap();
    let until = || {
        let sql = format!("SELECT leased_until FROM {schema}.leases WHERE epoch = 1");
        server.sql("postgres", &sql)
    };
    std::thread::scope(|scope| {
        // The statements below wait until the session of this process ends.
        let mut slow = Command::new("psql");
        slow.args(["-X", "-q", "-A", "-t", "-d"]);
        slow.arg(server.connection("postgres"));
        slow.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut slow = slow.spawn().unwrap();
        let mut input = slow.stdin.take().unwrap();
        let sql = format!("BEGIN; LOCK TABLE {schema}.deliveries; SELECT 'locked';\n");
        input.write_all(sql.as_bytes()).unwrap();
        let mut said = BufReader::new(Patient::of(slow.stdout.take().unwrap()));
        said.read_line(&mut String::new()).unwrap();
        // More than there are connections for.
        for number in 0..8 {
            let (store, webhook) = (&store, format!("webhook-{number}"));
            scope.spawn(move || wait(store.claim(&webhook, asking(at(0), 1))));
        }
        wait_until("the waiting statements", || {
            let sql = format!(
                "SELECT count(*) > 0 FROM pg_locks \
                 WHERE relation = '{schema}.deliveries'::regclass AND NOT granted"
            );
            (server.sql("postgres", &sql) == "t").then_some(())
        });
        // Renewals go on for longer than the lease.
        for _ in 0..6 {
            let before = until();
            wait_until("a renewal", || (until() != before).then_some(()));
        }
        drop(input);
        assert!(wait_exit(&mut slow).success());
    });
    assert!(!until().is_empty());
}

#[test]
fn an_operator_changes_nothing_of_a_state_that_moved_meanwhile() {
    let test = "an_operator_changes_nothing_of_a_state_that_moved_meanwhile";
    let Some(server) = server(test) else { return };
    let settings = settings(server);
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    drop(store);
    let pending = Selector {
        webhook: Some("catalog".to_owned()),
        ..Selector::default()
    };
    // The commands began before the move ended.
    let changes_nothing = |mut late: Operations| {
        let errors = [
            late.redeliver(&pending, at(1)).unwrap_err(),
            late.cancel(&pending, at(1)).unwrap_err(),
            late.purge(&pending).unwrap_err(),
            late.switch_off("catalog", "test", at(1)).unwrap_err(),
            late.switch_on("catalog").unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error.fault(), Fault::Moved(_)), "{error}");
        }
    };
    let late = Operations::open(directory.path()).unwrap();
    move_to_postgres(directory.path(), &settings, &mut |_, _| {}).unwrap();
    changes_nothing(late);
    let late = Operations::connect(&settings).unwrap();
    // A sender that lost its lease, and so began before the move too.
    let sender = Store::connect_sender(&settings).unwrap();
    assert_eq!(claims(&sender, "catalog", at(0)).ready.len(), 1);
    let refused = move_to_sqlite(&settings, directory.path(), &mut |_, _| {}).unwrap_err();
    assert!(
        refused.to_string().contains("delivers for the repository"),
        "{refused}"
    );
    remove_senders(server, schema(&settings));
    move_to_sqlite(&settings, directory.path(), &mut |_, _| {}).unwrap();
    changes_nothing(late);
    wait(sender.claim("catalog", asking(at(0), 1))).unwrap();
    let error = wait(sender.claim("catalog", asking(at(0), 1))).unwrap_err();
    assert!(matches!(error.fault(), Fault::Moved(_)), "{error}");
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(claims(&store, "catalog", at(0)).ready.len(), 1);
}

#[test]
fn a_sender_that_was_stopped_during_a_move_sends_nothing_of_the_former_state() {
    let test = "a_sender_that_was_stopped_during_a_move_sends_nothing_of_the_former_state";
    let Some(server) = server(test) else { return };
    let settings = settings(server);
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    drop(store);
    move_to_postgres(directory.path(), &settings, &mut |_, _| {}).unwrap();
    let relay = Relay::start(server.port);
    let through = Settings {
        connection: relay.through(&settings.connection, server),
        ..settings.clone()
    };
    let mut stopped = None;
    let mut during = |_: &str, _: u64| {
        if stopped.is_none() {
            stopped = Some(Store::connect_sender(&through).unwrap());
            relay.close();
            let schema = schema(&settings);
            let sql = format!("UPDATE \"{schema}\".senders SET leased_until = '-infinity'");
            server.sql("postgres", &sql);
        }
    };
    move_to_sqlite(&settings, directory.path(), &mut during).unwrap();
    relay.open();
    let sender = stopped.unwrap();
    let claim = || wait(sender.claim("catalog", asking(at(0), 1)));
    let error = wait_until("an error", || match claim() {
        Ok(claims) => {
            assert!(claims.ready.is_empty(), "claimed from the former state");
            None
        }
        Err(error) => (!matches!(error.fault(), Fault::Unreachable(_))).then_some(error),
    });
    assert!(matches!(error.fault(), Fault::Moved(_)), "{error}");
}

#[test]
fn a_slow_link_delays_batches_and_results_and_does_not_prevent_them() {
    let test = "a_slow_link_delays_batches_and_results_and_does_not_prevent_them";
    let Some(server) = server(test) else { return };
    let relay = Relay::start(server.port);
    let direct = settings(server);
    let settings = Settings {
        connection: relay.through(&direct.connection, server),
        lease: Duration::from_secs(2),
        ..direct.clone()
    };
    let store = Store::connect(&settings).unwrap();
    // The server waits for 0.5 s within a transaction, in which the link sends 128 KiB.
    relay.slow_down(256 * 1024);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut random = |n| -> String {
        std::iter::repeat_with(|| rng.alphanumeric())
            .take(n)
            .collect()
    };
    let large = random(512 * 1024);
    store.record(one_event("a", &large, &["other"])).unwrap();

    let mut batch = one_event("b", "one", &[]);
    batch.changes = (0..400)
        .map(|number| {
            let key = key(&format!("b{number}"));
            let mut new = event(EventKind::SnapshotCreate, &key, "one", &["catalog"]);
            new.event.explanation.because = random(512);
            of_event(new, "one").changes.remove(0)
        })
        .collect();
    store.record(batch).unwrap();

    let claims = claims(&store, "catalog", at(0)).ready;
    let results = claims.iter().take(24).map(|claim| {
        let mut finish = finish(claim, Verdict::Retry(at(60)));
        finish.attempt.answer = random(16 * 1024).into();
        finish
    });
    wait(store.finish(results.collect())).unwrap();
    let listings = Listings::connect(&direct).unwrap();
    let events = listings.events(&EventFilter::default(), 2_000).unwrap();
    assert_eq!(events.len(), 401);
    let (_, _, attempts) = listings.delivery(claims[0].delivery).unwrap().unwrap();
    assert_eq!(attempts.len(), 1);
}

/// The schema of these settings.
pub fn schema(settings: &Settings) -> &str {
    let schema = settings.connection.rsplit('=').next().unwrap();
    schema.trim_end_matches('\'')
}
