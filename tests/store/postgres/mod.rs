//! The contract with PostgreSQL, and the promises that only several processes can show.

mod connections;
mod lease;
mod moves;
mod senders;

use std::process::Command;
use std::sync::OnceLock;

use project_webhooks::config::Postgres as Settings;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::store::{EventFilter, Listings, Operations, Selector, Store};

use crate::common::{Postgres, Run as _, skip};
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

/// Removes the leases of senders and their claims, as if the leases had ended.
fn remove_senders(server: &Postgres, schema: &str) {
    let sql = format!("DELETE FROM {schema}.senders; DELETE FROM {schema}.claims");
    server.sql("postgres", &sql);
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

/// The schema of these settings.
pub fn schema(settings: &Settings) -> &str {
    let schema = settings.connection.rsplit('=').next().unwrap();
    schema.trim_end_matches('\'')
}
