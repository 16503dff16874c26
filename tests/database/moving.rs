//! `migrate-store`: a state goes to PostgreSQL and back, and nothing is lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::common::{
    Daemon, Endpoint, Home, Postgres, Run as _, Settings, Webhook, finish, in_time, kill, sorted,
    wait_until, xml,
};
use super::{server, store};
use axum::http::StatusCode;
use project_webhooks::receiver::{Received, Reply};
use serde_json::{Value, json};

fn migrate(home: &Home, to: &str) -> Output {
    start_migration(home, to).run().unwrap()
}

fn start_migration(home: &Home, to: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
    command.arg("--config").arg(home.config());
    command.args(["migrate-store", "--json", "--to", to]);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn moved(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asserts that a command fails with this status and this text.
fn refused(output: &Output, status: i32, text: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(text), "{said}");
}

fn run(home: &Home) -> Output {
    Daemon::command(home).stdin(Stdio::null()).run().unwrap()
}

/// Everything that an operator can list.
fn listed(home: &Home) -> Value {
    let mut status = home.json(&["status"]);
    // Where the state is, and who uses it.
    for place in ["stateDir", "fleet", "isFileChanged"] {
        status.as_object_mut().unwrap().remove(place);
    }
    let events = home.json(&["events", "list", "--limit", "1000"]);
    let deliveries = home.json(&["deliveries", "list", "--limit", "1000"]);
    let one_by_one = |command: &str, all: &Value| -> Vec<Value> {
        let all = all.as_array().unwrap().iter().step_by(5);
        all.map(|one| home.json(&[command, "show", &text(&one["id"])]))
            .collect()
    };
    json!({
        "status": status,
        "each event": one_by_one("events", &events),
        "each delivery": one_by_one("deliveries", &deliveries),
        "events": events,
        "deliveries": deliveries,
        "webhooks": home.json(&["webhooks", "list"]),
    })
}

fn text(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

fn assert_same(before: &Value, after: &Value) {
    for (name, before) in before.as_object().unwrap() {
        assert_eq!(before, &after[name], "{name}");
    }
}

/// Webhooks whose deliveries are delivered, dead, pending and parked.
fn settings(endpoint: &Endpoint) -> Settings {
    let url = endpoint.url();
    Settings::of([
        Webhook::new("good", &url),
        Webhook::new("dying", &format!("{url}dying")).schedule("[0s]"),
        Webhook::new("waiting", &format!("{url}waiting")).schedule("[0s, 5h]"),
        Webhook::new("off", &format!("{url}off")).events("[project-import-any]"),
        Webhook::new("gone", &format!("{url}gone")).events("[project-publish]"),
    ])
    .repository("name: models")
}

fn endpoint() -> Endpoint {
    Endpoint::answering(|one: &Received| match one.target.trim_matches('/') {
        "dying" | "waiting" => Reply::status(StatusCode::INTERNAL_SERVER_ERROR),
        "gone" => Reply::status(StatusCode::GONE),
        _ => Reply::status(StatusCode::NO_CONTENT),
    })
}

/// The paths and ids of the callbacks that came, sorted.
fn came(endpoint: &Endpoint) -> Vec<(String, String)> {
    let all = endpoint.all().into_iter();
    sorted(all.map(|one| (one.target, one.id)))
}

/// Waits until the webhook `good` has nothing pending.
fn wait_quiet(home: &Home) {
    wait_until("all deliveries to `good`", || {
        let pending = [
            "deliveries",
            "list",
            "--webhook",
            "good",
            "--state",
            "pending",
        ];
        home.json(&pending)
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(())
    });
}

/// Makes a state with rows in every table.
fn fill(home: &Home) {
    let daemon = home.start();
    home.command(&["webhooks", "disable", "off", "--reason", "a test"]);
    for project in ["one", "two", "three", "hidden", "veiled"] {
        let content = xml(project, &format!("id-{project}"), "first");
        home.write(&format!("sales/{project}/project.xml"), &content);
        home.write(
            &format!("sales/{project}/published/v1/project.xml"),
            &content,
        );
        home.write(&format!("sales/{project}/snapshots/s1.xml"), &content);
    }
    daemon.fence();
    // Deleted, and what became of their published copies is not known.
    for project in ["hidden", "veiled"] {
        let published = home.at(&format!("sales/{project}/published"));
        fs::rename(&published, home.beside(project)).unwrap();
        symlink(home.beside(project), published).unwrap();
        home.remove(&format!("sales/{project}/project.xml"));
    }
    home.rename("sales/three", "sales/third");
    home.write("sales/broken/project.xml", "<schema>");
    daemon.fence();
    home.remove_all("sales/two");
    daemon.fence();
    wait_until("the deletes", || {
        let events = home.json(&["events", "list", "--limit", "100"]);
        let mut events = events.as_array().unwrap().iter();
        events
            .any(|one| one["event"] == "project-delete-and-unpublish")
            .then_some(())
    });
    wait_quiet(home);
    let pending = home.json(&[
        "deliveries",
        "list",
        "--webhook",
        "waiting",
        "--state",
        "pending",
    ]);
    let id = text(&pending[0]["id"]);
    home.command(&["deliveries", "cancel", &id]);
    daemon.fence();
    wait_quiet(home);
    assert!(daemon.terminate().success());
}

#[test]
fn a_first_start_beside_a_state_that_was_never_moved_warns() {
    let test = "a_first_start_beside_a_state_that_was_never_moved_warns";
    let Some(server) = server(test) else { return };
    let endpoint = Endpoint::new();
    let sqlite = Settings::all_to(&endpoint);
    let home = Home::new(&sqlite);
    assert!(home.start().terminate().success());
    home.configure(&sqlite.top(&store(&server.connection(&server.database()))));
    let daemon = home.start();
    assert_eq!(daemon.n_messages("migrate-store --to postgres"), 1);
    assert!(daemon.terminate().success());
    // The next start has a state.
    let daemon = home.start();
    assert_eq!(daemon.n_messages("migrate-store"), 0);
    assert!(daemon.terminate().success());
}

#[test]
fn a_state_goes_to_postgresql_and_back_and_nothing_is_lost_or_sent_twice() {
    let test = "a_state_goes_to_postgresql_and_back_and_nothing_is_lost_or_sent_twice";
    let Some(server) = server(test) else { return };
    let endpoint = endpoint();
    let sqlite = settings(&endpoint);
    let connection = server.connection(&server.database());
    let postgres = sqlite.clone().top(&store(&connection));
    let home = Home::new(&sqlite);
    fill(&home);
    let before = listed(&home);

    // Without `store`, the command cannot know the database.
    refused(&migrate(&home, "postgres"), 2, "store.postgres is not set");
    home.configure(&postgres);
    let first = moved(&migrate(&home, "postgres"));
    let tables = first["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 10);
    for table in tables {
        assert!(table["rows"].as_u64().unwrap() > 0, "{table}");
    }
    assert_same(&before, &listed(&home));
    // The command may be run again.
    let again = moved(&migrate(&home, "postgres"));
    assert_eq!(
        (&again["wasDone"], &again["tables"]),
        (&json!(true), &first["tables"])
    );
    // The former place is closed.
    home.configure(&sqlite);
    refused(&run(&home), 78, "was moved to the PostgreSQL database");
    home.configure(&postgres);

    // While no daemon ran, one project changed, and one came.
    let sent = came(&endpoint);
    home.write("sales/four/project.xml", &xml("four", "id-4", "first"));
    home.write("sales/one/snapshots/s2.xml", &xml("one", "id-one", "new"));
    home.remove("sales/hidden/published");
    let daemon = home.start();
    daemon.fence();
    let events: Vec<String> = sorted(daemon.events());
    assert_eq!(
        events,
        [
            "Project Delete and Unpublish sales/hidden",
            "Project Import - Any sales/four",
            "Project Import sales/four",
            "Snapshot Create sales/one"
        ]
    );
    wait_quiet(&home);
    assert!(daemon.terminate().success());
    // To each of the three webhooks that are on, and no earlier one again. A receiver that is down is
    // probed with a delivery that failed before, and the schedule of `dying` has no pause.
    let later = endpoint.all().split_off(sent.len()).into_iter();
    let mut later = later.map(|one| (one.target, one.id));
    let again = later.find(|one| one.0 != "/dying" && sent.contains(one));
    assert_eq!(again, None);

    let before = listed(&home);
    let ids = |all: &Value| -> Vec<i64> {
        let all = all["deliveries"].as_array().unwrap().iter();
        all.map(|one| one["id"].as_i64().unwrap()).collect()
    };
    let newest = *ids(&before).iter().max().unwrap();
    // Redelivery and purging remove rows; their numbers are never used again.
    home.command(&["deliveries", "purge", "--yes", "--state", "delivered"]);
    let before = listed(&home);
    let back = moved(&migrate(&home, "sqlite"));
    assert_eq!(back["wasDone"], false);
    refused(&run(&home), 78, "was moved to");
    home.configure(&sqlite);
    assert_same(&before, &listed(&home));
    let n_sent = endpoint.all().len();
    home.write("sales/five/project.xml", &xml("five", "id-5", "first"));
    home.remove("sales/veiled/published");
    let daemon = home.start();
    daemon.fence();
    assert_eq!(
        sorted(daemon.events()),
        [
            "Project Delete and Unpublish sales/veiled",
            "Project Import - Any sales/five",
            "Project Import sales/five"
        ]
    );
    wait_quiet(&home);
    assert!(daemon.terminate().success());
    assert!(
        ids(&listed(&home))
            .iter()
            .filter(|id| **id > newest)
            .count()
            >= 6
    );
    let fresh = endpoint.all().split_off(n_sent);
    // The other webhooks make first attempts of what waited for an endpoint that was down.
    let mut fresh = fresh.iter().filter(|one| one.target == "/");
    let is_new = |name| matches!(name, Some("five" | "veiled"));
    assert!(fresh.all(|one| is_new(one.parameter("projectName"))));
    // And there again: the earlier copy there is replaced.
    home.configure(&postgres);
    let before = {
        home.configure(&sqlite);
        let before = listed(&home);
        home.configure(&postgres);
        before
    };
    assert_eq!(moved(&migrate(&home, "postgres"))["wasDone"], false);
    assert_same(&before, &listed(&home));
}

#[test]
fn a_move_refuses_a_running_daemon_and_another_state() {
    let test = "a_move_refuses_a_running_daemon_and_another_state";
    let Some(server) = server(test) else { return };
    let endpoint = endpoint();
    let sqlite = settings(&endpoint);
    let connection = server.connection(&server.database());
    let postgres = sqlite.clone().top(&store(&connection));
    let (home, other) = (Home::new(&sqlite), Home::new(&postgres));
    home.write("sales/one/project.xml", &xml("one", "id-1", "first"));
    let daemon = home.start();
    home.configure(&postgres);
    let pid = daemon.pid();
    refused(&migrate(&home, "postgres"), 75, &format!("(process {pid})"));
    assert!(daemon.terminate().success());
    // There is nothing to move.
    refused(&migrate(&other, "postgres"), 1, "there is no state in");
    refused(&migrate(&other, "sqlite"), 1, "there is no state in");
    let daemon = other.start();
    let pid = daemon.pid();
    refused(
        &migrate(&home, "postgres"),
        75,
        &format!("process {pid} on"),
    );
    refused(&migrate(&home, "sqlite"), 75, &format!("process {pid} on"));
    assert!(daemon.terminate().success());
    let sender = Home::new(&postgres.clone().top("roles: [deliver]"));
    let daemon = Daemon::launch(&sender, Daemon::command(&sender));
    daemon.wait_message("sending callbacks", 1);
    let pid = daemon.pid();
    for to in ["postgres", "sqlite"] {
        let output = migrate(&home, to);
        refused(&output, 75, &format!("process {pid} on"));
        refused(&output, 75, "delivers for the repository models");
    }
    assert!(daemon.terminate().success());
    refused(&migrate(&home, "postgres"), 1, "already has another state");
    refused(&migrate(&home, "sqlite"), 1, "already has another state");
    // Nothing was changed on either side.
    home.configure(&sqlite);
    let daemon = home.start();
    assert!(daemon.terminate().success());
    let daemon = other.start();
    assert!(daemon.terminate().success());
}

#[test]
fn a_killed_move_goes_on_and_no_daemon_starts_on_a_part() {
    let test = "a_killed_move_goes_on_and_no_daemon_starts_on_a_part";
    let Some(server) = server(test) else { return };
    in_time(|| {
        let endpoint = endpoint();
        let sqlite =
            Settings::of([Webhook::new("good", &endpoint.url())]).repository("name: models");
        let database = server.database();
        let postgres = sqlite.clone().top(&store(&server.connection(&database)));
        let home = Home::new(&sqlite);
        let daemon = home.start();
        for n in 0..150 {
            let name = format!("p{n}");
            home.write(
                &format!("sales/{name}/project.xml"),
                &xml(&name, &format!("id-{n}"), "first"),
            );
        }
        endpoint.wait_for(300);
        daemon.fence();
        assert!(daemon.terminate().success());
        for (to, from) in [("postgres", &sqlite), ("sqlite", &postgres)] {
            home.configure(from);
            let before = listed(&home);
            home.configure(&postgres);
            let (mut n_killed, mut n_parts, mut delay) = (0, 0, Duration::from_millis(30));
            let done = loop {
                let mut command = start_migration(&home, to).spawn().unwrap();
                // Later each time, so that the kills hit all steps.
                std::thread::sleep(delay);
                delay = delay.mul_f64(1.3);
                if command.try_wait().unwrap().is_some() {
                    break finish(command).unwrap();
                }
                assert!(kill(&mut command));
                n_killed += 1;
                let mark = if to == "postgres" {
                    let table = "SELECT to_regclass('meta') IS NOT NULL";
                    let has_table = server.sql(&database, table) == "t";
                    let marks = "SELECT value FROM meta WHERE key = 'transfer'";
                    let mark = has_table.then(|| server.sql(&database, marks));
                    // The killed process has the lease for ten more seconds.
                    if has_table {
                        server.sql(&database, "UPDATE leases SET leased_until = '-infinity'");
                    }
                    mark.unwrap_or_default()
                } else {
                    server.sql(&database, "UPDATE leases SET leased_until = '-infinity'");
                    String::new()
                };
                if mark.contains("arriving") && n_parts == 0 {
                    n_parts += 1;
                    refused(&run(&home), 78, "incomplete copy");
                    server.sql(&database, "UPDATE leases SET leased_until = '-infinity'");
                }
            };
            let done = moved(&done);
            if n_killed < 2 || n_parts != i32::from(to == "postgres") {
                // It ended before the kill of an important step.
                return false;
            }
            let rows = |name: &str| {
                let mut tables = done["tables"].as_array().unwrap().iter();
                tables.find(|table| table["name"] == name).unwrap()["rows"].clone()
            };
            assert_eq!(rows("events"), before["events"].as_array().unwrap().len());
            assert_eq!(
                rows("deliveries"),
                before["deliveries"].as_array().unwrap().len()
            );
            if to == "sqlite" {
                home.configure(&sqlite);
            }
            assert_same(&before, &listed(&home));
        }
        let n = endpoint.all().len();
        let daemon = home.start();
        daemon.fence();
        assert_eq!(daemon.events(), Vec::<String>::new());
        assert_eq!(endpoint.all().len(), n);
        assert!(daemon.terminate().success());
        assert_eq!(
            columns_of_postgres(server, &database),
            columns_of_sqlite(&home)
        );
        true
    });
}

/// The columns of each table in PostgreSQL, without those that only PostgreSQL has.
fn columns_of_postgres(server: &Postgres, database: &str) -> Vec<String> {
    let sql = "SELECT table_name || '.' || column_name FROM information_schema.columns \
         WHERE table_schema = 'public' AND column_name NOT IN ('repository', 'path_hash', 'sole_sender')";
    let found = server.sql(database, sql);
    let own = [
        "repositories.",
        "leases.",
        "standbys.",
        "senders.",
        "claims.",
        "project_webhooks_schema.",
    ];
    sorted(
        found
            .lines()
            .filter(|line| own.iter().all(|table| !line.starts_with(table)))
            .map(str::to_owned),
    )
}

/// The columns of each table in SQLite, without those that only SQLite has.
fn columns_of_sqlite(home: &Home) -> Vec<String> {
    let connection = rusqlite::Connection::open(home.database()).unwrap();
    let mut statement = connection
        .prepare(
            "SELECT m.name || '.' || c.name FROM sqlite_schema m, pragma_table_info(m.name) c \
             WHERE m.type = 'table' AND m.name <> 'numbers'",
        )
        .unwrap();
    let found = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    let own = [
        "events.first_delivery",
        "events.end_delivery",
        "deliveries.is_replay",
        "payloads.identity",
    ];
    sorted(
        found
            .map(Result::unwrap)
            .filter(|name| !own.contains(&name.as_str())),
    )
}
