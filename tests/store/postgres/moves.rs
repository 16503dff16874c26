//! Commands and senders that began before the state was moved.

use project_webhooks::config::Postgres as Settings;
use project_webhooks::store::{
    Fault, Operations, Selector, Store, move_to_postgres, move_to_sqlite,
};

use super::{remove_senders, schema, server, settings};
use crate::common::{Relay, wait_until};
use crate::helpers::*;

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
    // The first claim finds that the sender lost its lease, unless a renewal found it before.
    let claim = || wait(sender.claim("catalog", asking(at(0), 1)));
    let error = claim().err().unwrap_or_else(|| claim().unwrap_err());
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
