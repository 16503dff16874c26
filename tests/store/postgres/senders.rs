//! Senders beside a process that watches, and the one that must be alone.

use std::time::Duration;

use project_webhooks::config::Postgres as Settings;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::store::{Alone, Asking, Listings, Store};

use super::{remove_senders, schema, server, settings};
use crate::common::{Relay, wait_until};
use crate::helpers::*;

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

/// The first sender that reaches the database again must not remove the others.
#[test]
fn an_outage_that_lasts_longer_than_the_leases_costs_no_sender_its_claims() {
    let test = "an_outage_that_lasts_longer_than_the_leases_costs_no_sender_its_claims";
    let Some(server) = server(test) else { return };
    let direct = settings(server);
    let relay = Relay::start(server.port);
    let settings = Settings {
        connection: relay.through(&direct.connection, server),
        lease: Duration::from_secs(4),
        ..direct.clone()
    };
    let senders = [
        Store::connect(&settings).unwrap(),
        Store::connect_sender(&settings).unwrap(),
        Store::connect_sender(&settings).unwrap(),
    ];
    for project in ["a", "b", "c"] {
        let batch = one_event(project, "one", &["catalog"]);
        senders[0].record(batch).unwrap();
    }
    let claims = senders.each_ref().map(|one| {
        let found = wait(one.claim("catalog", asking(at(0), 1))).unwrap();
        found.ready.into_iter().next().unwrap()
    });
    relay.close();
    let schema = schema(&direct);
    let of_senders = |condition: &str| {
        let sql = format!("SELECT count(*) FROM {schema}.senders WHERE {condition}");
        server.sql("postgres", &sql)
    };
    wait_until("the end of all leases", || {
        (of_senders("leased_until < clock_timestamp()") == "3").then_some(())
    });
    relay.open();
    wait_until("all renewals", || {
        assert_eq!(of_senders("true"), "3");
        (of_senders("leased_until > clock_timestamp()") == "3").then_some(())
    });
    for (sender, claim) in senders.iter().zip(&claims) {
        wait_until("an answer", || {
            let finish = finish(claim, Verdict::Delivered);
            wait(sender.finish([finish].into())).ok()
        });
    }
    let none_left = format!("SELECT count(*) FROM {schema}.claims");
    assert_eq!(server.sql("postgres", &none_left), "0");
    let listings = Listings::connect(&direct).unwrap();
    for claim in claims {
        let (_, _, attempts) = listings.delivery(claim.delivery).unwrap().unwrap();
        assert_eq!(attempts.len(), 1);
    }
}

/// Otherwise, `migrate-store` would refuse until the lease expires.
#[test]
fn a_sender_that_cannot_start_leaves_no_lease() {
    let Some(server) = server("a_sender_that_cannot_start_leaves_no_lease") else {
        return;
    };
    let settings = settings(server);
    // The first start makes the tables.
    Store::connect(&settings).unwrap().close();
    let schema = schema(&settings);
    let broken = format!("ALTER TABLE {schema}.standbys RENAME TO lost");
    server.sql("postgres", &broken);
    assert!(Store::connect_sender(&settings).is_err());
    let left = format!("SELECT count(*) FROM {schema}.senders");
    assert_eq!(server.sql("postgres", &left), "0");
}

/// Right after an outage, the others may not have renewed their leases yet.
#[test]
fn a_sender_that_stops_leaves_the_expired_leases_of_others() {
    let test = "a_sender_that_stops_leaves_the_expired_leases_of_others";
    let Some(server) = server(test) else { return };
    let direct = Settings {
        // Nobody renews a lease meanwhile.
        lease: Duration::from_secs(600),
        ..settings(server)
    };
    let relay = Relay::start(server.port);
    let through = Settings {
        connection: relay.through(&direct.connection, server),
        ..direct.clone()
    };
    let watching = Store::connect(&direct).unwrap();
    let other = Store::connect_sender(&through).unwrap();
    let stopping = Store::connect_sender(&direct).unwrap();
    let batch = one_event("a", "one", &["catalog"]);
    watching.record(batch).unwrap();
    let claimed = claim(&other, "catalog", at(0));
    relay.close();
    let schema = schema(&direct);
    let expire = format!(
        "UPDATE {schema}.senders SET leased_until = clock_timestamp() - interval '1 s' \
         WHERE id = (SELECT sender FROM {schema}.claims)"
    );
    server.sql("postgres", &expire);
    stopping.close();
    let left = format!("SELECT count(*) FROM {schema}.senders");
    assert_eq!(server.sql("postgres", &left), "1");
    relay.open();
    wait_until("an answer", || {
        let finish = finish(&claimed, Verdict::Delivered);
        wait(other.finish([finish].into())).ok()
    });
    let listings = Listings::connect(&direct).unwrap();
    let (_, _, attempts) = listings.delivery(claimed.delivery).unwrap().unwrap();
    assert_eq!(attempts.len(), 1);
}

/// Others may remove such a lease at any time.
#[test]
fn a_sender_claims_nothing_while_its_lease_is_not_renewed() {
    let Some(server) = server("a_sender_claims_nothing_while_its_lease_is_not_renewed") else {
        return;
    };
    let settings = Settings {
        lease: Duration::from_secs(4),
        ..settings(server)
    };
    let watching = Store::connect(&settings).unwrap();
    let batch = one_event("a", "one", &["catalog"]);
    watching.record(batch).unwrap();
    let sender = Store::connect_sender(&settings).unwrap();
    let schema = schema(&settings);
    let locks = format!("BEGIN; SELECT FROM {schema}.senders FOR UPDATE;");
    let locked = server.session("postgres", &locks);
    let sql = format!("SELECT count(*) FROM {schema}.senders WHERE leased_until > now()");
    wait_until("the end of the lease", || {
        (server.sql("postgres", &sql) == "0").then_some(())
    });
    for alone in [Alone::No, Alone::Yes] {
        let asking = Asking {
            alone,
            ..asking(at(0), 1)
        };
        let found = wait(sender.claim("catalog", asking)).unwrap();
        assert!(found.ready.is_empty(), "{alone:?}");
    }
    locked.end();
    let found = wait_until("a renewal", || {
        let found = claims(&sender, "catalog", at(0));
        (!found.ready.is_empty()).then_some(found)
    });
    assert!(found.hold.is_valid());
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

/// The server, or a proxy before it, accepts a connection and then says nothing.
#[test]
fn a_connection_without_an_answer_does_not_stop_the_notices() {
    let Some(server) = server("a_connection_without_an_answer_does_not_stop_the_notices") else {
        return;
    };
    let direct = Settings {
        // Nothing but notices is sent meanwhile.
        lease: Duration::from_secs(600),
        ..settings(server)
    };
    let relay = Relay::start(server.port);
    let through = Settings {
        connection: relay.through(&direct.connection, server),
        ..direct.clone()
    };
    let watching = Store::connect(&direct).unwrap();
    let batch = one_event("a", "one", &["catalog"]);
    watching.record(batch).unwrap();
    let sender = Store::connect_sender(&through).unwrap();
    let mut notices = sender.notices().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // The first notices say that the sender listens.
    let listens = notices.wait_for(|notice| notice.n_pauses > 0 || notice.n_changes > 0);
    runtime.block_on(async { listens.await.map(drop) }).unwrap();
    relay.silence();
    relay.cut();
    wait_until("a connection without an answer", || {
        relay.keeps("project-webhooks").then_some(())
    });
    relay.end_silence();
    wait_until("a notice", || {
        for alone in [Alone::No, Alone::Yes] {
            let asking = Asking {
                alone,
                ..asking(at(0), 0)
            };
            wait(watching.claim("catalog", asking)).unwrap();
        }
        let is_noticed = notices.borrow().n_pauses_of.contains_key("catalog");
        is_noticed.then_some(())
    });
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
