//! The names of repositories in PostgreSQL: no repository is watched in a list and alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Barrier;

use jiff::Timestamp;
use project_webhooks::config::Postgres as Settings;
use project_webhooks::domain::delivery::{State, Verdict};
use project_webhooks::domain::event::EventKind;
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::store::{
    Batch, Fault, Listings, MetaKey, OpenError, Operations, Selector, Store, move_to_postgres,
    move_to_sqlite,
};

use crate::helpers::*;
use crate::postgres::{schema, server, settings};

fn list(of: &Settings, names: &[&str]) -> Settings {
    Settings {
        repository: Settings::LIST.to_owned(),
        repositories: names.iter().map(|name| (*name).to_owned()).collect(),
        ..of.clone()
    }
}

fn single(of: &Settings, name: &str) -> Settings {
    Settings {
        repository: name.to_owned(),
        ..of.clone()
    }
}

/// Gets the lease on a list and records its names, as a start does.
fn start(list: &Settings) -> Result<Store, String> {
    let store = Store::connect(list).map_err(|error| error.to_string())?;
    let named = store.name_repositories(&list.repositories, Timestamp::now());
    match named {
        Ok(()) => Ok(store),
        Err(error) => {
            store.close();
            Err(error.to_string())
        }
    }
}

#[test]
fn of_a_list_and_a_single_repository_that_start_at_once_one_is_refused() {
    let test = "of_a_list_and_a_single_repository_that_start_at_once_one_is_refused";
    let Some(server) = server(test) else { return };
    let of = settings(server);
    for round in 0..10 {
        let name = format!("models-{round}");
        let (alone, list) = (single(&of, &name), list(&of, &[&name]));
        let barrier = Barrier::new(2);
        let (alone, listed) = std::thread::scope(|scope| {
            let listed = scope.spawn(|| {
                barrier.wait();
                start(&list)
            });
            barrier.wait();
            let alone = Store::connect(&alone).map_err(|error| error.to_string());
            (alone, listed.join().unwrap())
        });
        let errors: Vec<&String> = [&alone, &listed]
            .into_iter()
            .filter_map(|started| started.as_ref().err())
            .collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("watched twice"), "{errors:?}");
        for store in [alone, listed].into_iter().flatten() {
            store.close();
        }
    }
}

#[test]
fn a_process_that_lost_the_lease_on_a_list_records_no_names() {
    let test = "a_process_that_lost_the_lease_on_a_list_records_no_names";
    let Some(server) = server(test) else { return };
    let of = settings(server);
    let stale = start(&list(&of, &["models", "finance"])).unwrap();
    let schema = schema(&of);
    server.sql(
        "postgres",
        &format!("UPDATE {schema}.leases SET leased_until = '-infinity'"),
    );
    let present = start(&list(&of, &["models"])).unwrap();
    let names = ["other".to_owned()];
    let error = stale.name_repositories(&names, at(0)).unwrap_err();
    assert!(matches!(error.fault(), Fault::Fenced), "{error}");
    // Those of the present holder count.
    let refused = Store::connect(&single(&of, "models")).err();
    assert!(
        matches!(refused, Some(OpenError::WatchedTwice { .. })),
        "{refused:?}"
    );
    Store::connect(&single(&of, "finance")).unwrap().close();
    present.close();
}

/// Asserts that a repository or a list may not be watched now, and says why. That ends by itself.
fn not_yet(settings: &Settings, why: &str) {
    let refused = Store::connect(settings).err();
    let is_so = matches!(&refused, Some(OpenError::NotYet { reason, .. }) if reason.contains(why));
    assert!(is_so, "{why}: {refused:?}");
}

/// Asserts that a repository or a list may not be watched with this configuration.
fn watched_twice(settings: &Settings, why: &str) {
    let refused = Store::connect(settings).err();
    let is_so =
        matches!(&refused, Some(OpenError::WatchedTwice { reason, .. }) if reason.contains(why));
    assert!(is_so, "{why}: {refused:?}");
}

/// An event of a project in one of the repositories of a list.
fn event_in(repository: &str, text: &str) -> Batch {
    let key = ProjectKey::new(format!("{repository}//sales"), "a");
    of_event(
        event(EventKind::SnapshotCreate, &key, text, &["catalog"]),
        text,
    )
}

/// Ends the one pending delivery without success.
fn give_up(store: &Store) {
    end(store, &claim(store, "catalog", at(0)), Verdict::Dead);
}

/// Makes the failed delivery pending again.
fn redeliver(settings: &Settings) {
    let dead = Selector {
        state: Some(State::Dead),
        ..Selector::default()
    };
    let mut operations = Operations::connect(settings).unwrap();
    assert_eq!(operations.redeliver(&dead, at(1)).unwrap(), 1);
}

#[test]
fn pending_deliveries_of_a_former_list_go_first() {
    let test = "pending_deliveries_of_a_former_list_go_first";
    let Some(server) = server(test) else { return };
    let of = settings(server);
    let (both, models) = (list(&of, &["models", "finance"]), single(&of, "models"));
    let listed = start(&both).unwrap();
    listed.record(event_in("models", "one")).unwrap();
    // All projects of the repository are gone, and it leaves the list.
    listed
        .name_repositories(&["finance".to_owned()], at(0))
        .unwrap();
    not_yet(&models, "pending deliveries");
    Store::connect(&single(&of, "model")).unwrap().close();
    give_up(&listed);
    let alone = Store::connect(&models).unwrap();
    let mut project = change("a", &Default::default(), &definition("two"));
    project.payloads = vec![payload("two")];
    alone.record(project).unwrap();
    alone.close();
    // An operator may redeliver former ones, and that keeps nobody from watching.
    redeliver(&both);
    Store::connect(&models).unwrap().close();
    listed.close();
}

#[test]
fn pending_deliveries_of_a_former_single_repository_go_first() {
    let test = "pending_deliveries_of_a_former_single_repository_go_first";
    let Some(server) = server(test) else { return };
    let of = settings(server);
    let (both, models) = (list(&of, &["finance", "models"]), single(&of, "models"));
    let alone = Store::connect(&models).unwrap();
    alone.record(one_event("a", "one", &["catalog"])).unwrap();
    alone.close();
    not_yet(
        &both,
        "models of the list `repositories` has pending deliveries",
    );
    let listed = start(&list(&of, &["finance"])).unwrap();
    let refused = listed.name_repositories(&both.repositories, at(0));
    let refused = refused.unwrap_err();
    assert!(matches!(refused.fault(), Fault::NotYet(_)), "{refused}");
    let sender = Store::connect_sender(&models).unwrap();
    give_up(&sender);
    sender.close();
    listed.name_repositories(&both.repositories, at(0)).unwrap();
    listed.close();
    redeliver(&models);
    start(&both).unwrap().close();
}

#[test]
fn a_lease_that_ends_refuses_nobody_for_good() {
    let test = "a_lease_that_ends_refuses_nobody_for_good";
    let Some(server) = server(test) else { return };
    let of = settings(server);
    let (both, empty) = (list(&of, &["models", "empty"]), single(&of, "empty"));
    let alone = Store::connect(&empty).unwrap();
    not_yet(
        &both,
        "the repository empty of the list `repositories` is watched alone by process",
    );
    alone.close();
    let listed = start(&both).unwrap();
    watched_twice(&empty, "that other processes watch in this database");
    listed.close();
    watched_twice(&empty, "that was last watched in this database");
    start(&list(&of, &["models"])).unwrap().close();
    Store::connect(&empty).unwrap().close();
}

/// Makes a state of several repositories: one is watched, and one was removed from the list.
fn state_of_several(directory: &Path) {
    let store = Store::open(directory).unwrap();
    let names = ["models", "former"].map(str::to_owned);
    store.name_repositories(&names, at(0)).unwrap();
    for name in ["models", "former"] {
        let mut batch = event_in(name, name);
        batch.meta.push((MetaKey::FirstStart, at(0).to_string()));
        batch.repository = Some(name.into());
        store.record(batch).unwrap();
    }
    store.name_repositories(&names[..1], at(0)).unwrap();
    store.close();
}

#[test]
fn nobody_watches_a_repository_of_a_list_that_moves() {
    let test = "nobody_watches_a_repository_of_a_list_that_moves";
    let Some(server) = server(test) else { return };
    let of = settings(server);
    let directory = tempfile::tempdir().unwrap();
    state_of_several(directory.path());
    let moved = list(&of, &["models", "third"]);
    // The target has no names of the source yet while its payloads are copied.
    let mut n_refused = 0;
    let mut during = |table: &str, _: u64| {
        if !["payloads", "attempts"].contains(&table) {
            return;
        }
        for name in ["models", "former", "third"] {
            let refused = Store::connect(&single(&of, name)).err();
            n_refused += usize::from(matches!(refused, Some(OpenError::WatchedTwice { .. })));
        }
        Store::connect(&single(&of, "other")).unwrap().close();
    };
    move_to_postgres(directory.path(), &moved, &mut during).unwrap();
    assert_eq!(n_refused, 6);
    // Those without a record were free again.
    let third = Store::connect(&single(&of, "third")).unwrap();
    not_yet(&moved, "third");
    // A state that moves away watches nothing.
    move_to_sqlite(&moved, directory.path(), &mut |_, _| {}).unwrap();
    let refused = move_to_postgres(directory.path(), &moved, &mut |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("third"), "{refused}");
    third.close();
    // The record of a repository that is not in the list moves too.
    let former = Store::connect(&single(&of, "former")).unwrap();
    let refused = move_to_postgres(directory.path(), &moved, &mut |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("former"), "{refused}");
    former.close();
    move_to_postgres(directory.path(), &moved, &mut |_, _| {}).unwrap();
    start(&moved).unwrap().close();
    let events = Listings::connect(&moved).unwrap();
    assert_eq!(events.events(&Default::default(), 10).unwrap().len(), 2);
}

#[test]
fn no_list_takes_a_repository_whose_move_is_incomplete() {
    let test = "no_list_takes_a_repository_whose_move_is_incomplete";
    let Some(server) = server(test) else { return };
    let of = settings(server);
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.record(one_event("a", "one", &["catalog"])).unwrap();
    store.close();
    drop(store);
    let models = single(&of, "models");
    let killed = catch_unwind(AssertUnwindSafe(|| {
        let mut killed = |_: &str, _: u64| panic!("killed");
        move_to_postgres(directory.path(), &models, &mut killed)
    }));
    assert!(killed.is_err());
    watched_twice(&list(&of, &["models"]), "has a record of its own");
    move_to_postgres(directory.path(), &models, &mut |_, _| {}).unwrap();
    let sender = Store::connect_sender(&models).unwrap();
    give_up(&sender);
    sender.close();
    // Without pending deliveries it may go to a list, and its own record may move away.
    start(&list(&of, &["models"])).unwrap().close();
    move_to_sqlite(&models, directory.path(), &mut |_, _| {}).unwrap();
}

#[test]
fn a_record_that_moved_away_lets_no_delivery_of_a_list_be_late() {
    let test = "a_record_that_moved_away_lets_no_delivery_of_a_list_be_late";
    let Some(server) = server(test) else { return };
    let of = settings(server);
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut project = change("a", &Default::default(), &definition("one"));
    project.payloads = vec![payload("one")];
    store.record(project).unwrap();
    drop(store);
    // Its rows stay in the database.
    let models = single(&of, "models");
    move_to_postgres(directory.path(), &models, &mut |_, _| {}).unwrap();
    move_to_sqlite(&models, directory.path(), &mut |_, _| {}).unwrap();
    let listed = start(&list(&of, &["models", "finance"])).unwrap();
    listed.record(event_in("models", "one")).unwrap();
    let finance = ["finance".to_owned()];
    listed.name_repositories(&finance, at(0)).unwrap();
    let refused = move_to_postgres(directory.path(), &models, &mut |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("pending"), "{refused}");
    give_up(&listed);
    move_to_postgres(directory.path(), &models, &mut |_, _| {}).unwrap();
    listed.close();
}

#[test]
fn a_sender_of_a_repository_that_is_in_a_list_knows_it() {
    let test = "a_sender_of_a_repository_that_is_in_a_list_knows_it";
    let Some(server) = server(test) else { return };
    let of = settings(server);
    let listed = start(&list(&of, &["models", "finance"])).unwrap();
    for (settings, expected) in [
        (single(&of, "models"), true),
        (single(&of, "model"), false),
        (list(&of, &["models"]), false),
    ] {
        let sender = Store::connect_sender(&settings).unwrap();
        let view = sender.fleet().unwrap().borrow().clone();
        assert_eq!(view.fleet.is_listed, expected, "{settings:?}");
        sender.close();
    }
    listed.close();
}
