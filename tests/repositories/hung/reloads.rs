//! Reloads while a repository hangs.

use rustix::process::Signal;

use super::super::common::{
    Endpoint, Home, Settings, Webhook, wait_health, wait_until, write, xml,
};
use super::super::postgres::{Place, launch, server, store, wait_fleet};
use super::super::{ADMIN, DEFINITION, put, roots, start, two};
use super::run;
use super::served::{Served, backing, threads};

#[test]
fn many_repositories_that_hang_do_not_reject_a_reload() {
    let test = "hung::reloads::many_repositories_that_hang_do_not_reject_a_reload";
    let list = |n: usize| {
        let models = Settings::of([]).and_repository("{ path: ./models, name: models }");
        (0..n).fold(models.top(ADMIN), |settings, n| {
            settings.and_repository(&format!("{{ path: ./disk/{n}, name: disk-{n} }}"))
        })
    };
    let home = Home::new(&list(0));
    roots(&home, &["models"]);
    let Some(disk) = Served::new(&home, "disk", test) else {
        return;
    };
    let daemon = start(&home);
    disk.hang();
    home.reconfigure(&list(63));
    assert!(daemon.reload());
    assert!(daemon.terminate().success());
}

#[test]
fn a_reload_names_the_repository_that_applies_it_later() {
    let test = "hung::reloads::a_reload_names_the_repository_that_applies_it_later";
    let (all, later) = (Endpoint::new(), Endpoint::new());
    let webhook = || Webhook::new("all", &all.url());
    let home = Home::new(&two([webhook()]));
    roots(&home, &["models", "finance"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    let daemon = start(&home);
    finance.hang_engine_of(&daemon);
    home.reconfigure(&two([webhook(), Webhook::new("later", &later.url())]));
    let output = run(&home.config(), &["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("finance: the engine does not respond"),
        "{said}"
    );
    assert!(!said.contains("models: "), "{said}");
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    later.wait_for(2);

    finance.answer();
    daemon.wait_message(
        "the engine responds again and has the new settings of a delayed reload",
        1,
    );
    let below = backing(&home, "finance").join(DEFINITION);
    write(&below, &xml("Orders", "e-2", "one"));
    daemon.signal(Signal::USR1);
    later.wait_for(4);
    assert!(daemon.terminate().success());
}

#[test]
fn rejected_reloads_leave_one_engine_of_a_repository_that_hangs() {
    let test = "hung::reloads::rejected_reloads_leave_one_engine_of_a_repository_that_hangs";
    let Some(server) = server(test) else { return };
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let place = Place {
        root: &home,
        endpoint: &endpoint,
        store: store(server, &server.database()),
    };
    roots(&home, &["models", "finance", "alone"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    let alone = Home::new(&place.single("alone"));
    let other = alone.start();
    home.configure(&place.list(&["models"]));
    let daemon = launch(&home);
    wait_health(&home, "/readyz", 200);

    // The names cannot be recorded, because another process watches one of them.
    finance.hang();
    home.reconfigure(&place.list(&["models", "finance", "alone"]));
    for _ in 0..3 {
        assert!(!daemon.reload());
    }
    daemon.wait_message("is watched alone by", 1);
    daemon.wait_message(
        "the former engine of the repository finance has not ended",
        2,
    );
    for name in ["engine", "watch"] {
        assert!(threads(&daemon, name).len() <= 2, "one of each repository");
    }
    // It is not on record, because it never began.
    wait_fleet(&home, "/repositories", &serde_json::json!(["models"]));
    finance.answer();
    wait_until("the end of its engine", || {
        (threads(&daemon, "engine").len() == 1).then_some(())
    });
    assert!(other.terminate().success());
    home.reconfigure(&place.list(&["models", "finance"]));
    assert!(daemon.reload());
    wait_health(&home, "/readyz", 200);
    assert!(daemon.terminate().success());
}
