//! The lease on a repository: one process works, and the next one takes over.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use project_webhooks::config::Postgres as Settings;
use project_webhooks::domain::delivery::Verdict;
use project_webhooks::store::{Fault, OpenError, Store};

use super::{remove_senders, schema, server, settings};
use crate::common::{Patient, wait_exit, wait_until};
use crate::helpers::*;

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
fn an_error_after_the_lease_was_granted_gives_it_back() {
    let Some(server) = server("an_error_after_the_lease_was_granted_gives_it_back") else {
        return;
    };
    let settings = settings(server);
    let schema = schema(&settings);
    Store::connect(&settings).unwrap().close();
    let rename = |from: &str, to: &str| {
        let sql = format!("ALTER TABLE {schema}.{from} RENAME TO {to}");
        server.sql("postgres", &sql);
    };
    rename("senders", "others");
    let refused = Store::connect(&settings).err();
    assert!(
        matches!(refused, Some(OpenError::Refused { .. })),
        "{refused:?}"
    );
    rename("others", "senders");
    Store::connect(&settings).unwrap();
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
