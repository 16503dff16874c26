//! Several repositories in one PostgreSQL database: one process watches the whole list.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{
    Daemon, Endpoint, Home, Postgres, Relay, Run as _, Settings, Webhook, skip, wait_health,
    wait_until, xml,
};
use crate::{ADMIN, DEFINITION, field, get, put, roots};

/// The server of all tests. Its own shell stops it when this process ends.
pub fn server(test: &str) -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    let server = SERVER.get_or_init(Postgres::start);
    if server.is_none() {
        skip(test, "needs Debian's package postgresql");
    }
    server.as_ref()
}

/// Where the repositories are, and the database of the processes that watch them.
pub struct Place<'a> {
    pub root: &'a Home,
    pub endpoint: &'a Endpoint,
    pub store: String,
}

impl Place<'_> {
    fn settings(&self) -> Settings {
        let settings = Settings::of([Webhook::new("all", &self.endpoint.url())]);
        settings.top(ADMIN).top(&self.store)
    }

    /// The settings of a process with a list of these repositories.
    pub fn list(&self, names: &[&str]) -> Settings {
        names.iter().fold(self.settings(), |settings, name| {
            let path = self.root.beside(name).display().to_string();
            settings.and_repository(&format!("{{ path: {path}, name: {name}, settle: 300ms }}"))
        })
    }

    /// The settings of a process that watches its own repository under this name.
    pub fn single(&self, name: &str) -> Settings {
        self.settings().repository(&format!("name: {name}"))
    }
}

pub fn store(server: &Postgres, database: &str) -> String {
    let connection = server.connection(database);
    format!("store: {{ postgres: \"{connection}\", lease: 5s }}")
}

pub fn launch(home: &Home) -> Daemon<'_> {
    Daemon::launch(home, Daemon::command(home))
}

/// Asserts that a start or a command ends with this status and this text.
fn refused(output: &Output, status: i32, text: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(text), "{said}");
}

pub fn start_refused(home: &Home, text: &str) {
    let output = Daemon::command(home).stdin(Stdio::null()).run().unwrap();
    refused(&output, 78, text);
}

/// The recorded events: the repository with the project, and the id, in order.
fn recorded(home: &Home) -> Vec<(String, String)> {
    let events = home.json(&["events", "--limit", "1000"]);
    let events = events.as_array().unwrap().iter();
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    events
        .map(|event| {
            let project = format!("{} {}", text(event, "repository"), text(event, "project"));
            (project, text(event, "id"))
        })
        .collect()
}

/// Waits until `n` events are recorded, and each was delivered once, in the order of its project.
fn all_delivered(home: &Home, endpoint: &Endpoint, n: usize) {
    let came = endpoint.wait_for(n);
    let recorded = recorded(home);
    assert_eq!((came.len(), recorded.len()), (n, n), "{recorded:?}");
    let project_of: BTreeMap<&str, &str> = recorded
        .iter()
        .map(|(project, id)| (id.as_str(), project.as_str()))
        .collect();
    let mut by_project: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in &came {
        let project = project_of[one.id.as_str()];
        by_project.entry(project).or_default().push(&one.id);
    }
    for (project, came) in by_project {
        let expected = recorded.iter().filter(|(of, _)| of == project);
        let expected: Vec<&str> = expected.map(|(_, id)| id.as_str()).collect();
        assert_eq!(came, expected, "{project}");
    }
}

/// Waits until `status` says this of the fleet. What it says is as old as the last renewal.
pub fn wait_fleet(home: &Home, pointer: &str, expected: &Value) {
    wait_until(&format!("{pointer} {expected} in the fleet"), || {
        let status = home.json(&["status"]);
        (status["fleet"].pointer(pointer) == Some(expected)).then_some(())
    });
}

#[test]
fn a_list_has_one_lease_and_moves_to_the_standby_as_a_whole() {
    let test = "a_list_has_one_lease_and_moves_to_the_standby_as_a_whole";
    let Some(server) = server(test) else { return };
    let database = server.database();
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let place = Place {
        root: &home,
        endpoint: &endpoint,
        store: store(server, &database),
    };
    roots(&home, &["models", "finance", "third"]);
    // Only the sender delivers, so a killed watcher repeats nothing.
    let both = place.list(&["models", "finance"]);
    let watches = both.clone().top("roles: [watch]");
    let (other, sender) = (
        Home::new(&watches),
        Home::new(&both.top("roles: [deliver]")),
    );
    home.configure(&watches);
    let checked = home.command(&["check"]);
    assert!(
        checked.contains(" as the repositories models, finance"),
        "{checked}"
    );
    let first = launch(&home);
    wait_health(&home, "/readyz", 200);
    let second = launch(&other);
    second.wait_message("watches the repositories models, finance in", 1);
    let sending = launch(&sender);

    let content = xml("Orders", "e-1", "one");
    for repository in ["models", "finance"] {
        put(&home, repository, DEFINITION, &content);
        let alone = format!("sales/of-{repository}/project.xml");
        put(&home, repository, &alone, &xml("Alone", "e-2", "one"));
        for tag in ["s1", "s2", "s3"] {
            let path = format!("sales/orders/snapshots/{tag}.xml");
            put(&home, repository, &path, &content);
        }
    }
    all_delivered(&home, &endpoint, 14);
    let sql = "SELECT string_agg(name, ' ') FROM repositories";
    assert_eq!(server.sql(&database, sql), "repositories//");
    wait_fleet(&home, "/repositories", &json!(["models", "finance"]));
    wait_fleet(&home, "/holder/pid", &json!(first.pid()));
    wait_fleet(&home, "/standbys/0/pid", &json!(second.pid()));
    wait_fleet(&home, "/senders/0/pid", &json!(sending.pid()));
    let text = home.command(&["status"]);
    assert!(
        text.contains("epoch 1; repositories models, finance"),
        "{text}"
    );
    let series = [
        "project_webhooks_lease_held 1",
        "project_webhooks_standbys 1",
        "project_webhooks_projects{repository=\"finance\"} 2",
    ];
    wait_until("the metrics", || {
        let metrics = get(&home, "/metrics");
        let mut series = series.iter();
        series.all(|line| metrics.contains(line)).then_some(())
    });

    // The standby takes both over, and finds the changes of the meantime.
    first.kill();
    put(&home, "models", "sales/more/project.xml", &content);
    fs::remove_dir_all(home.beside("finance").join("sales/of-finance")).unwrap();
    wait_health(&other, "/readyz", 200);
    all_delivered(&other, &endpoint, 17);
    let listed = other.json(&["events", "--limit", "3"]);
    assert_eq!(field(&listed, "origin"), ["catch-up"; 3]);
    wait_fleet(&other, "/holder/epoch", &json!(2));
    let status = other.json(&["status"]);
    assert_eq!(status["repositories"][0]["projects"], 3);
    assert_eq!(status["repositories"][1]["projects"], 1);
    put(&home, "finance", "sales/more/project.xml", &content);
    all_delivered(&other, &endpoint, 19);

    // A standby with another list says so. It may get yet another one.
    let watching = |names: &[&str]| place.list(names).top("roles: [watch]");
    home.configure(&watching(&["models"]));
    let third = launch(&home);
    third.wait_message("the list `repositories` of this process lacks finance:", 1);
    // The working process watches it.
    assert_eq!(home.json(&["status"])["unwatched"], Value::Null);
    // A record belongs to its name, also on a standby.
    let models = home.beside("models").display().to_string();
    let renamed = place.settings().top("roles: [watch]");
    let renamed = renamed.and_repository(&format!("{{ path: {models}, name: other }}"));
    home.configure(&renamed);
    assert!(!third.reload());
    third.wait_message("repositories: models is now named other", 1);
    home.configure(&watching(&["models", "third"]));
    assert!(third.reload());
    third.wait_message("of this process lacks finance and adds third:", 1);
    // It lets others go first. Then the list is its own, and the other repository stays on record.
    second.signal(Signal::STOP);
    third.wait_message("takes over only if no other process does within", 1);
    third.wait_message(
        "not watching a repository that was removed from the configuration",
        1,
    );
    wait_health(&home, "/readyz", 200);
    let status = home.json(&["status"]);
    assert_eq!(field(&status["repositories"], "name"), ["models", "third"]);
    assert_eq!(
        status["unwatched"],
        json!([{ "name": "finance", "projects": 2, "pending": 0 }])
    );
    let text = home.command(&["status"]);
    assert!(
        text.contains("finance: not in the list of watched repositories; 2 projects recorded"),
        "{text}"
    );
    assert!(get(&home, "/").contains("finance: not in the list of watched repositories"));
    let left_out = "project_webhooks_trouble{part=\"repositories\",repository=\"finance\"} 1";
    assert!(get(&home, "/metrics").contains(left_out));
    let trouble = status["troubles"]["repositories"].to_string();
    assert!(trouble.contains("former process: finance."), "{trouble}");
    put(&home, "finance", "sales/last/project.xml", &content);
    put(&home, "third", DEFINITION, &content);
    all_delivered(&home, &endpoint, 21);

    // The former holder stops all of its engines and waits.
    second.signal(Signal::CONT);
    second.wait_message("of this process lacks third and adds finance:", 1);
    // A reload of the holder changes the list, and the standby knows it.
    home.configure(&watching(&["finance", "models"]));
    assert!(third.reload());
    all_delivered(&home, &endpoint, 23);
    wait_fleet(&home, "/repositories", &json!(["finance", "models"]));
    second.wait_message("watches the repositories finance, models in", 1);
    assert_eq!(home.json(&["status"])["troubles"], json!({}));
    assert!(!get(&home, "/metrics").contains(left_out));
    for daemon in [third, second, sending] {
        assert!(daemon.terminate().success());
    }
    assert_eq!(endpoint.n(), 23);
}

#[test]
fn no_repository_is_watched_in_a_list_and_alone() {
    let test = "no_repository_is_watched_in_a_list_and_alone";
    let Some(server) = server(test) else { return };
    let database = server.database();
    let relay = Relay::start(server.port);
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let place = Place {
        root: &home,
        endpoint: &endpoint,
        store: relay.through(&store(server, &database), server),
    };
    roots(&home, &["models", "finance", "empty"]);
    let single = Home::new(&place.single("models"));
    single.write(DEFINITION, &xml("Orders", "e-1", "one"));
    home.configure(&place.list(&["models", "finance"]));

    // With a record of its own: while it is watched, and afterwards.
    let daemon = single.start();
    let own = "the repository models of the list `repositories` has a record of its own";
    start_refused(
        &home,
        &format!("{own} in this database and is watched by process"),
    );
    assert!(daemon.terminate().success());
    start_refused(&home, own);
    // Without a record, it has only to wait.
    let alone = Home::new(&place.single("finance"));
    let daemon = alone.start();
    home.configure(&place.list(&["finance"]));
    let list = launch(&home);
    list.wait_message(
        "the repository finance of the list `repositories` is watched alone by",
        1,
    );
    wait_health(&home, "/readyz", 503);
    assert!(daemon.terminate().success());
    wait_health(&home, "/readyz", 200);
    home.configure(&place.list(&["finance", "models"]));
    assert!(!list.reload());
    list.wait_message(own, 1);

    // The other way round, and also after the repository was removed from the list.
    put(&home, "finance", DEFINITION, &xml("Ledger", "e-2", "one"));
    endpoint.wait_for(2);
    start_refused(&alone, "the repository finance is in the list");
    // A sender with the former configuration gets no new delivery.
    let former = Home::new(&place.single("finance").top("roles: [deliver]"));
    let sending = launch(&former);
    let nothing = "sending nothing new: in this database, the repository belongs to a list";
    sending.wait_message(nothing, 1);
    wait_health(&former, "/readyz", 503);
    assert!(get(&former, "/readyz").contains(nothing));
    assert!(sending.terminate().success());
    home.configure(&place.list(&["empty"]));
    assert!(list.reload());
    start_refused(&alone, "the repository finance was in the list");
    home.configure(&place.list(&["finance"]));
    assert!(list.reload());

    // Without projects, only a process that watches it counts. One that was stopped past its lease
    // does not get the repository back.
    let empty = Home::new(&place.single("empty"));
    let daemon = empty.start();
    home.configure(&place.list(&["finance", "empty"]));
    assert!(!list.reload());
    list.wait_message("the repository empty of the list", 1);
    daemon.signal(Signal::STOP);
    wait_until("the end of the lease", || list.reload().then_some(()));
    empty.write(DEFINITION, &xml("Late", "e-3", "one"));
    daemon.signal(Signal::CONT);
    daemon.wait_message("the repository empty is in the list", 1);
    wait_health(&empty, "/readyz", 503);
    assert!(daemon.terminate().success());
    put(&home, "empty", DEFINITION, &xml("Orders", "e-4", "one"));
    endpoint.wait_for(4);
    // The list starts again with it.
    assert!(list.terminate().success());
    let list = launch(&home);
    wait_health(&home, "/readyz", 200);
    assert_eq!(endpoint.n(), 4);
    let list = refused_take_overs(&place, list);
    rejected_reload(&place, &relay, &list);
    removed_with_pending(&place, &list);
    assert!(list.terminate().success());
    assert_eq!(endpoint.n(), 18);
}

/// Shows that `status` names a removed repository that has only pending deliveries.
///
/// `list` watches finance, and holds the removals of its four projects.
fn removed_with_pending(place: &Place<'_>, list: &Daemon<'_>) {
    let home = place.root;
    let with_down = |names: &[&str]| {
        let mut settings = place.list(names);
        let down = Webhook::new("down", "http://127.0.0.1:1/").schedule("[1h]");
        settings.webhooks.push(down);
        home.configure(&settings);
        assert!(list.reload());
    };
    with_down(&["finance", "empty"]);
    assert_eq!(home.json(&["accept", "--yes"])["released"], 4);
    place.endpoint.wait_for(18);
    with_down(&["empty"]);
    let expected = json!([{ "name": "finance", "projects": 0, "pending": 4 }]);
    wait_until("the repository with pending deliveries", || {
        (home.json(&["status"])["unwatched"] == expected).then_some(())
    });
    let text = home.command(&["status"]);
    assert!(
        text.contains(
            "finance: not in the list of watched repositories; 0 projects recorded, 4 pending"
        ),
        "{text}"
    );
}

/// Shows that a rejected reload leaves the former list on record, although the database was away.
fn rejected_reload(place: &Place<'_>, relay: &Relay, list: &Daemon<'_>) {
    let mut settings = place.list(&["finance", "third"]);
    let added = Webhook::new("added-by-the-reload", &place.endpoint.url());
    settings.webhooks.push(added);
    place.root.configure(&settings);
    let config = fs::read_to_string(place.root.config()).unwrap();
    let config = config.replace("./admin.sock", "./other.sock");
    fs::write(place.root.config(), config).unwrap();
    // The names are recorded by then, and the new webhook is not.
    relay.close_at("added-by-the-reload");
    assert!(!list.reload());
    assert!(!place.root.beside("other.sock").exists());
    list.wait_message("cannot save the changed webhook settings", 1);
    assert!(relay.is_closed());
    relay.open();
    let names = json!(["finance", "empty"]);
    wait_fleet(place.root, "/repositories", &names);
}

/// Shows that a standby whose take-over is refused goes on sending, and says why it waits.
///
/// `list` watches finance and empty, and models has a record of its own.
fn refused_take_overs<'a>(place: &Place<'a>, list: Daemon<'_>) -> Daemon<'a> {
    let (home, endpoint) = (place.root, place.endpoint);
    let both = place.list(&["finance", "empty"]);
    let other = Home::new(&both);
    let standby = launch(&other);
    standby.wait_message("watches the repositories finance, empty in", 1);
    other.configure(&place.list(&["finance", "empty", "models"]));
    assert!(standby.reload());
    standby.wait_message(
        "this process cannot take over now: the repository models",
        1,
    );
    assert!(list.terminate().success());
    standby.wait_log("a refused take-over", |entry| {
        let message = entry.message();
        message.contains("the repository models of the list") && !message.contains(" watches ")
    });
    wait_health(&other, "/readyz", 503);
    let replay = ["events", "replay", "--to", "all", "--yes"];
    assert_eq!(other.json(&replay)["replayed"], 4);
    endpoint.wait_for(8);
    other.configure(&both);
    assert!(standby.reload());
    wait_health(&other, "/readyz", 200);

    // The same with a layout that the working process rejects, because removals are held.
    for project in ["a", "b", "c"] {
        let path = format!("sales/{project}/project.xml");
        put(home, "finance", &path, &xml(project, "", "one"));
    }
    endpoint.wait_for(14);
    let (sales, away) = (home.beside("finance/sales"), home.beside("away"));
    fs::rename(sales, away).unwrap();
    let held = |of: &Home| {
        wait_until("held removals", || {
            (of.json(&["status"])["heldRemovals"]["count"] == 4).then_some(())
        });
    };
    held(&other);
    let list = launch(home);
    list.wait_message("watches the repositories finance, empty in", 1);
    let finance = home.beside("finance").display().to_string();
    let layout = "{ project: \"{project}/project.xml\", published: [], snapshot: [] }";
    let finance = format!("{{ path: {finance}, name: finance, layout: {layout} }}");
    home.configure(&place.list(&["empty"]).and_repository(&finance));
    assert!(list.reload());
    assert!(standby.terminate().success());
    list.wait_message(
        "finance: repository.layout changed while removals are held",
        1,
    );
    wait_health(home, "/readyz", 503);
    home.configure(&both);
    assert!(list.reload());
    wait_health(home, "/readyz", 200);
    held(home);
    list
}

fn migrate(home: &Home, to: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
    command.arg("--config").arg(home.config());
    command.args(["migrate-store", "--to", to]);
    command.stdin(Stdio::null()).run().unwrap()
}

#[test]
fn a_state_of_several_repositories_moves_to_postgresql_and_back() {
    let test = "a_state_of_several_repositories_moves_to_postgresql_and_back";
    let Some(server) = server(test) else { return };
    let database = server.database();
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let place = Place {
        root: &home,
        endpoint: &endpoint,
        store: "store: sqlite".to_owned(),
    };
    roots(&home, &["models", "finance"]);
    let names = ["models", "finance"];
    let sqlite = place.list(&names);
    let postgres = Place {
        store: store(server, &database),
        ..place
    }
    .list(&names);
    home.configure(&sqlite);
    let content = xml("Orders", "e-1", "one");
    let daemon = launch(&home);
    wait_health(&home, "/readyz", 200);
    put(&home, "models", DEFINITION, &content);
    put(&home, "finance", DEFINITION, &content);
    all_delivered(&home, &endpoint, 4);
    assert!(daemon.terminate().success());

    // Each place finds the changes of the meantime, and nothing else.
    let more = xml("More", "e-2", "one");
    for (to, settings, n) in [("postgres", &postgres, 6), ("sqlite", &sqlite, 8)] {
        let before = recorded(&home);
        home.configure(&postgres);
        let output = migrate(&home, to);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        home.configure(settings);
        assert_eq!(recorded(&home), before);
        put(&home, "finance", &format!("{to}/more/project.xml"), &more);
        let daemon = launch(&home);
        wait_health(&home, "/readyz", 200);
        all_delivered(&home, &endpoint, n);
        let newest = home.json(&["events", "--limit", "1"]);
        assert_eq!(field(&newest, "repository"), ["finance"]);
        assert!(daemon.terminate().success());
    }

    // A state of one repository is none of a list.
    let other = Home::new(&Settings::all_to(&endpoint));
    assert!(other.start().terminate().success());
    other.configure(&postgres);
    refused(
        &migrate(&other, "postgres"),
        1,
        "was recorded with the setting `repository`, but the configuration has the setting `repositories`",
    );
}
