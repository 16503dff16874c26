//! The names of repositories in PostgreSQL: no repository is watched in a list and alone.

use std::sync::Barrier;

use jiff::Timestamp;
use project_webhooks::config::Postgres as Settings;
use project_webhooks::store::{Fault, OpenError, Store};

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
