//! Several repositories in one process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/mod.rs"]
mod common;

mod hung;
mod postgres;

use std::collections::BTreeSet;
use std::fs;

use common::fetch as get;
use common::{
    Daemon, Endpoint, Home, Settings, Webhook, skip, succeeds, wait_health, wait_until, write, xml,
};
use serde_json::Value;

const DEFINITION: &str = "sales/orders/project.xml";
const ADMIN: &str = "admin: { listen: \"unix:./admin.sock\" }";

/// Two repositories, `models` and `finance`.
fn two(webhooks: impl IntoIterator<Item = Webhook>) -> Settings {
    Settings::of(webhooks)
        .and_repository("{ path: ./models, name: models, settle: 300ms }")
        .and_repository("{ path: ./finance, name: finance, settle: 300ms }")
        .top(ADMIN)
}

/// Makes empty roots.
fn roots(home: &Home, names: &[&str]) {
    for name in names {
        fs::create_dir_all(home.beside(name)).unwrap();
    }
}

fn put(home: &Home, repository: &str, below: &str, content: &str) {
    write(&home.beside(repository).join(below), content);
}

/// Starts the daemon, and waits until `/readyz` answers 200.
fn start(home: &Home) -> Daemon<'_> {
    let daemon = Daemon::launch(home, Daemon::command(home));
    wait_health(home, "/readyz", 200);
    daemon
}

/// Whether the health check of the container succeeds.
fn is_healthy(home: &Home) -> bool {
    let config = home.config();
    let arguments = [
        "--config",
        config.to_str().unwrap(),
        "status",
        "--exit-code",
    ];
    succeeds(env!("CARGO_BIN_EXE_project-webhooks"), &arguments)
}

/// The values of a field of a listing.
fn field<'a>(listing: &'a Value, name: &str) -> Vec<&'a str> {
    let items = listing.as_array().unwrap().iter();
    items.map(|item| item[name].as_str().unwrap()).collect()
}

#[test]
fn equal_paths_in_two_repositories_are_two_projects_for_one_webhook() {
    let (all, bound) = (Endpoint::new(), Endpoint::new());
    let settings = two([
        Webhook::new("all", &all.url()),
        Webhook::new("bound", &bound.url()).with("repositories: [finance]"),
    ]);
    let home = Home::new(&settings);
    roots(&home, &["models", "finance"]);
    let daemon = start(&home);

    // The same content at the same path.
    let content = xml("Orders", "e-1", "one");
    put(&home, "models", DEFINITION, &content);
    all.wait_for(2);
    put(&home, "finance", DEFINITION, &content);
    let imports = all.wait_for(4);
    bound.wait_for(2);
    let ids: BTreeSet<&str> = imports
        .iter()
        .filter_map(|one| one.header("webhook-id"))
        .collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    let same = |name: &str| {
        let values = imports
            .iter()
            .map(|one| one.parameter(name).unwrap_or_default());
        values.collect::<BTreeSet<_>>()
    };
    assert_eq!(same("organizationName"), BTreeSet::from(["sales"]));
    assert_eq!(same("projectId"), BTreeSet::from(["e-1"]));

    // A change of one is none of the other.
    fs::remove_dir_all(home.beside("models").join("sales/orders")).unwrap();
    let deletes = all.wait_for(5);
    assert_eq!(deletes[4].header("webhook-event"), Some("project-delete"));
    let listing = home.json(&["events"]);
    assert_eq!(
        field(&listing, "repository"),
        ["models", "models", "finance", "finance", "models"],
        "the newest last"
    );
    assert_eq!(field(&listing, "organization"), ["sales"; 5]);
    let of_finance = home.json(&["events", "--repository", "finance"]);
    assert_eq!(field(&of_finance, "repository"), ["finance"; 2]);
    let everywhere = home.json(&["events", "--project", "sales/orders"]);
    assert_eq!(everywhere.as_array().unwrap().len(), 5);
    let of_models = home.json(&["deliveries", "--project", "models//sales/orders"]);
    assert_eq!(field(&of_models, "repository"), ["models"; 3]);
    assert!(home.command(&["events"]).contains("models//sales/orders"));

    let status = home.json(&["status"]);
    assert_eq!(status["projects"], 1);
    assert_eq!(
        field(&status["repositories"], "name"),
        ["models", "finance"]
    );
    assert_eq!(status["repositories"][0]["projects"], 0);
    assert_eq!(status["repositories"][1]["projects"], 1);
    let text = home.command(&["status"]);
    assert!(
        text.contains("finance: ") && text.contains("1 project recorded"),
        "{text}"
    );
    // An outcome is recorded after its answer.
    let nothing_pending = "project_webhooks_pending{webhook=\"all\"} 0";
    let metrics = wait_until("nothing pending", || {
        let metrics = get(&home, "/metrics");
        metrics.contains(nothing_pending).then_some(metrics)
    });
    for line in [
        "project_webhooks_projects{repository=\"models\"} 0",
        "project_webhooks_projects{repository=\"finance\"} 1",
        "project_webhooks_events_total{event=\"project-delete\",origin=\"live\",repository=\"models\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let page = get(&home, "/api/v1/events?repository=finance&limit=1");
    assert!(page.contains("\"repository\":\"finance\""), "{page}");
    assert!(get(&home, "/events").contains("models//sales/orders"));

    // A replay keeps to the repositories of its webhook.
    let replay = ["events", "replay", "--to", "bound", "--yes"];
    assert_eq!(home.json(&replay)["replayed"], 2);
    bound.wait_for(4);

    // A restart finds what changed meanwhile, in the right repository, and nothing else.
    assert!(daemon.terminate().success());
    put(&home, "models", DEFINITION, &content);
    let daemon = start(&home);
    let again = all.wait_for(7);
    assert_eq!(again[5].header("webhook-origin"), Some("catch-up"));
    assert!(!ids.contains(again[5].header("webhook-id").unwrap()));
    let newest = home.json(&["events", "--limit", "1"]);
    assert_eq!(field(&newest, "repository"), ["models"]);
    assert_eq!(bound.n(), 4);
    assert!(daemon.terminate().success());
}

#[test]
fn a_missing_root_stops_only_its_own_repository() {
    let endpoint = Endpoint::new();
    let home = Home::new(&two([Webhook::new("all", &endpoint.url())]));
    roots(&home, &["models"]);
    let daemon = Daemon::launch(&home, Daemon::command(&home));
    daemon.wait_log("the root is missing, with its repository", |entry| {
        entry.0["span"]["repository"] == "finance" && entry.message().contains("finance")
    });
    wait_until("the other repository is watched", || {
        let status = home.json(&["status"]);
        (status["repositories"][0]["ready"] == true).then_some(())
    });
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    endpoint.wait_for(2);
    assert!(!is_healthy(&home));
    let readiness = get(&home, "/readyz");
    assert!(
        readiness.contains(" 503 ") && readiness.contains("finance: "),
        "{readiness}"
    );
    let metrics = get(&home, "/metrics");
    assert!(metrics.contains("project_webhooks_watching{repository=\"models\"} 1"));
    assert!(metrics.contains("project_webhooks_watching{repository=\"finance\"} 0"));

    roots(&home, &["finance"]);
    wait_health(&home, "/readyz", 200);
    assert!(is_healthy(&home));
    // Lost later, it counts too.
    let (finance, away) = (home.beside("finance"), home.beside("finance.away"));
    fs::rename(&finance, &away).unwrap();
    wait_health(&home, "/readyz", 503);
    assert!(!is_healthy(&home));
    fs::rename(&away, &finance).unwrap();
    wait_health(&home, "/readyz", 200);
    put(&home, "finance", DEFINITION, &xml("Orders", "e-1", "one"));
    endpoint.wait_for(4);

    // All projects of both vanish: each repository holds its own removals until they are accepted.
    for repository in ["models", "finance"] {
        for project in ["a", "b", "c"] {
            let path = format!("sales/{project}/project.xml");
            put(&home, repository, &path, &xml(project, "", "one"));
        }
    }
    endpoint.wait_for(16);
    for repository in ["models", "finance"] {
        fs::rename(
            home.beside(repository).join("sales"),
            home.beside(&format!("{repository}.gone")),
        )
        .unwrap();
    }
    let wait_held = |count: usize| {
        wait_until("held removals", || {
            let held = &home.json(&["status"])["heldRemovals"];
            (held["count"] == count).then_some(())
        });
    };
    wait_held(8);
    // Removed and added again, it holds them still, so it gets no new layout.
    let with_finance = |more: &str| {
        Settings::all_to(&endpoint)
            .and_repository("{ path: ./models, name: models, settle: 300ms }")
            .and_repository(&format!(
                "{{ path: ./finance, name: finance, settle: 300ms{more} }}"
            ))
            .top(ADMIN)
    };
    let models = Settings::all_to(&endpoint)
        .and_repository("{ path: ./models, name: models, settle: 300ms }")
        .top(ADMIN);
    home.configure(&models);
    assert!(daemon.reload());
    wait_held(4);
    home.configure(&with_finance(
        ", layout: { snapshot: \"{organization}/{project}/old/{versionTag}.xml\" }",
    ));
    assert!(!daemon.reload());
    daemon.wait_message(
        "finance: repository.layout cannot change while removals are held",
        1,
    );
    home.configure(&with_finance(""));
    assert!(daemon.reload());
    wait_held(8);
    let accepted = home.json(&["accept", "--yes"]);
    assert_eq!(accepted["released"], 8);
    let named = accepted["projects"].to_string();
    assert!(named.contains("models//sales/a") && named.contains("finance//sales/a"));
    endpoint.wait_for(24);
    assert!(daemon.terminate().success());
}

/// Leaves a daemon this many descriptors, by its limit.
fn leave_descriptors(daemon: &Daemon<'_>, n: usize) {
    // An engine opens its root every second, so only those that stay open count.
    let open = || -> BTreeSet<usize> {
        let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        let names = open.filter_map(|file| file.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    };
    let first = open();
    let open = (0..10).fold(first, |kept, _| &kept & &open());
    let mut free = (0..).filter(|number| !open.contains(number));
    let limit = free.nth(n).unwrap();
    limit_descriptors(daemon, limit);
}

fn limit_descriptors(daemon: &Daemon<'_>, limit: usize) {
    let (pid, limit) = (daemon.pid().to_string(), format!("--nofile={limit}:"));
    assert!(succeeds("prlimit", &["--pid", &pid, &limit]), "{limit}");
}

#[test]
fn a_reload_that_cannot_watch_an_added_repository_changes_nothing() {
    let test = "a_reload_that_cannot_watch_an_added_repository_changes_nothing";
    if !succeeds("prlimit", &["--version"]) {
        return skip(test, "needs prlimit");
    }
    let endpoint = Endpoint::new();
    let webhook = || Webhook::new("all", &endpoint.url());
    let home = Home::new(&two([webhook()]));
    roots(&home, &["models", "finance", "third", "fourth"]);
    for added in ["third", "fourth"] {
        put(&home, added, DEFINITION, &xml("Orders", added, "one"));
    }
    let daemon = start(&home);
    let report = "settle: 300ms, on_first_start: report";
    let four = two([webhook()])
        .and_repository(&format!("{{ path: ./third, name: third, {report} }}"))
        .and_repository(&format!("{{ path: ./fourth, name: fourth, {report} }}"));
    home.reconfigure(&four);
    // The watch of the third takes both. If another part takes them first, try again.
    wait_until("a watch that cannot start", || {
        leave_descriptors(&daemon, 2);
        let is_applied = daemon.reload();
        limit_descriptors(&daemon, 1_024);
        assert!(!is_applied);
        (daemon.n_messages("cannot watch the repository ") > 0).then_some(())
    });
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    endpoint.wait_for(2);
    let status = home.json(&["status"]);
    assert_eq!(
        field(&status["repositories"], "name"),
        ["models", "finance"]
    );
    // Each has one engine, and those of rejected reloads recorded nothing.
    assert!(daemon.reload());
    let came = endpoint.wait_for(6);
    let origins = came[2..].iter().map(|one| one.header("webhook-origin"));
    assert_eq!(origins.collect::<Vec<_>>(), [Some("catch-up"); 4]);
    put(&home, "third", DEFINITION, &xml("Orders", "third", "two"));
    put(
        &home,
        "third",
        "sales/more/project.xml",
        &xml("More", "more", "one"),
    );
    endpoint.wait_for(8);
    assert!(daemon.terminate().success());
}

#[test]
fn a_reload_adds_and_removes_repositories() {
    let endpoint = Endpoint::new();
    let webhook = || Webhook::new("all", &endpoint.url());
    let home = Home::new(&two([webhook()]));
    roots(&home, &["models", "finance", "third", "repository"]);
    let daemon = start(&home);
    put(&home, "third", DEFINITION, &xml("Orders", "e-3", "one"));

    // The first one is another now.
    let third = Settings::of([webhook()])
        .and_repository("{ path: ./third, name: third, settle: 300ms, on_first_start: report }")
        .and_repository("{ path: ./models, name: models, settle: 300ms }")
        .top(ADMIN);
    home.configure(&third);
    assert!(daemon.reload());
    endpoint.wait_for(2);
    let status = home.json(&["status"]);
    assert_eq!(field(&status["repositories"], "name"), ["third", "models"]);
    put(&home, "finance", DEFINITION, &xml("Orders", "e-1", "one"));
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    endpoint.wait_for(4);

    // A record belongs to a name.
    let renamed = Settings::of([webhook()])
        .and_repository("{ path: ./third, name: other, settle: 300ms }")
        .and_repository("{ path: ./models, name: models, settle: 300ms }")
        .top(ADMIN);
    home.configure(&renamed);
    assert!(!daemon.reload());
    daemon.wait_message("repositories: third is now named other", 1);

    // The removed one is compared with its record when it comes back.
    home.configure(&two([webhook()]));
    assert!(daemon.reload());
    let back = endpoint.wait_for(6);
    assert_eq!(back[4].header("webhook-origin"), Some("catch-up"));

    // One repository without a list has another record.
    let only = Settings::all_to(&endpoint).top(ADMIN);
    home.configure(&only);
    assert!(!daemon.reload());
    daemon.wait_message(
        "the choice between repository and repositories (this change also needs an empty state_dir",
        1,
    );
    put(
        &home,
        "models",
        "sales/more/project.xml",
        &xml("More", "e-2", "one"),
    );
    endpoint.wait_for(8);
    assert!(daemon.terminate().success());

    // A state without the mark gets it before anything else is recorded.
    let database = rusqlite::Connection::open(home.database()).unwrap();
    let unmark = "DELETE FROM meta WHERE key = 'repositories'; BEGIN IMMEDIATE";
    database.execute_batch(unmark).unwrap();
    home.configure(&two([webhook()]));
    let daemon = Daemon::launch(&home, Daemon::command(&home));
    daemon.wait_message(
        "another transaction, probably of another process, keeps the database locked",
        1,
    );
    assert_eq!(daemon.n_messages("ready"), 0);
    database.execute_batch("ROLLBACK").unwrap();
    wait_health(&home, "/readyz", 200);
    assert!(daemon.terminate().success());
    home.configure(&only);
    let mut daemon = Daemon::launch(&home, Daemon::command(&home));
    assert_eq!(daemon.wait_exit().code(), Some(78));
    daemon.wait_message("was recorded with repositories", 1);
}
