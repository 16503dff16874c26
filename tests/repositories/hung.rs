//! A repository whose file system hangs, beside one that works.

mod commands;
mod mounts;
mod reloads;
mod served;

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use super::common::{
    Daemon, Endpoint, Home, PATIENCE, Patient, Relay, Run as _, Settings, Webhook, wait_health,
    wait_until, write, xml,
};
use super::postgres::{Place, launch, server, start_refused, store, wait_fleet};
use super::{ADMIN, DEFINITION, field, get, is_healthy, put, roots, start, two};
use served::{Served, backing, threads};

/// Runs a command with this configuration.
fn run(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
        .arg("--config")
        .arg(config)
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("NOTIFY_SOCKET")
        .run()
        .unwrap()
}

/// Runs a command with this configuration. Returns its exit status and all that it prints.
fn printed(config: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(config, arguments);
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    (output.status.code(), printed)
}

fn accept(home: &Home) -> (Option<i32>, serde_json::Value, String) {
    let output = run(&home.config(), &["accept", "--yes", "--json"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), printed, errors)
}

/// Accepts the held removals, as a client that leaves before the answer.
fn accept_and_leave(home: &Home) {
    let connect = || Patient::of(UnixStream::connect(home.beside("state/control.sock")).unwrap());
    let mut client = connect();
    client.write_all(b"list-held\n").unwrap();
    let mut held = String::new();
    client.read_to_string(&mut held).unwrap();
    let held: serde_json::Value = serde_json::from_str(&held).unwrap();
    let line = format!("accept {}\n", held["token"].as_str().unwrap());
    connect().write_all(line.as_bytes()).unwrap();
}

#[test]
fn a_repository_that_hangs_stops_nobody_else() {
    let test = "hung::a_repository_that_hangs_stops_nobody_else";
    let (all, later) = (Endpoint::new(), Endpoint::new());
    let webhook = || Webhook::new("all", &all.url());
    let home = Home::new(&two([webhook()]));
    roots(&home, &["models", "finance"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    for project in ["a", "b", "c", "d"] {
        let path = format!("sales/{project}/project.xml");
        put(&home, "models", &path, &xml(project, "", "one"));
    }
    let daemon = start(&home);

    finance.hang_engine_of(&daemon);
    // All projects of the other one vanish.
    let (sales, away) = (home.beside("models/sales"), home.beside("away"));
    std::fs::rename(sales, away).unwrap();
    wait_until("held removals", || {
        (home.json(&["status"])["heldRemovals"]["count"] == 4).then_some(())
    });
    // Nobody waits for the answer, so the removals stay held.
    accept_and_leave(&home);
    let (status, printed, errors) = std::thread::scope(|scope| {
        // The engine of the hung one is asked, too.
        let accepting = scope.spawn(|| accept(&home));
        for _ in 0..20 {
            let page = get(&home, "/");
            assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
        }
        assert!(get(&home, "/api/v1/status").starts_with("HTTP/1.1 200 "));
        accepting.join().unwrap()
    });
    assert_eq!(status, Some(1), "{errors}");
    assert_eq!(printed["released"], 4, "{errors}");
    assert_eq!(printed["stuck"], serde_json::json!(["finance"]));
    assert!(
        errors.contains("no answer from the engine of finance"),
        "{errors}"
    );
    all.wait_for(4);

    // As many clients as the control socket serves ask, and leave. Their places become free again.
    for _ in 0..16 {
        let mut client = UnixStream::connect(home.beside("state/control.sock")).unwrap();
        client.write_all(b"list-held\n").unwrap();
    }

    // A reload takes effect for the others, and does not keep a signal to stop waiting.
    let more = Webhook::new("later", &later.url());
    home.reconfigure(&two([webhook(), more]));
    daemon.signal(Signal::HUP);
    wait_until("the new webhook", || {
        let webhooks = home.json(&["status"])["settings"]["webhooks"].clone();
        webhooks.to_string().contains("later").then_some(())
    });
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    later.wait_for(2);
    daemon.wait_message("finance cannot be read now: it does not answer", 1);
    // The requests have ended, so none of them is reported as lost.
    let before = daemon.n_messages("did not finish within");
    daemon.signal(Signal::TERM);
    daemon.wait_message("inference of finance did not stop in time", 1);
    assert_eq!(daemon.n_messages("did not finish within"), before);
    let mut daemon = daemon;
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

/// The messages to the service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(home: &Home) -> Self {
        let socket = UnixDatagram::bind(home.beside("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// A daemon that sends its messages here.
    fn launch<'a>(&self, home: &'a Home) -> Daemon<'a> {
        let mut command = Daemon::command(home);
        command.env("NOTIFY_SOCKET", home.beside("notify"));
        Daemon::launch(home, command)
    }

    fn wait_ready(&self) {
        wait_until("READY=1", || {
            let is_ready = self.next().lines().any(|line| line == "READY=1");
            is_ready.then_some(())
        });
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4_096];
        let n = self.0.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }
}

#[test]
fn a_repository_that_hangs_at_the_start_can_be_removed_and_added_again() {
    let test = "hung::a_repository_that_hangs_at_the_start_can_be_removed_and_added_again";
    let Some(server) = server(test) else {
        return;
    };
    let store = store(server, &server.database());
    let all = Endpoint::new();
    let webhook = || Webhook::new("all", &all.url());
    let both = two([webhook()]).top(&store);
    let home = Home::new(&both);
    roots(&home, &["models", "finance"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    finance.hang();
    let manager = Manager::listen(&home);
    let daemon = manager.launch(&home);
    wait_until("the other repository is watched", || {
        let status = home.json(&["status"]);
        (status["repositories"][0]["ready"] == true).then_some(())
    });
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    all.wait_for(2);

    // Without it, the start is complete.
    let models = "{ path: ./models, name: models, settle: 300ms }";
    let only = Settings::of([webhook()]).and_repository(models);
    let only = only.top(ADMIN).top(&store);
    home.reconfigure(&only);
    assert!(daemon.reload());
    manager.wait_ready();
    wait_health(&home, "/readyz", 200);
    assert!(is_healthy(&home));

    let ending = home.json(&["status"])["ending"].clone();
    assert_eq!(field(&ending, "name"), ["finance"]);
    assert!(ending[0]["since"].is_string(), "{ending}");
    let shown = home.command(&["status"]);
    assert!(shown.contains("its engine has not ended"), "{shown}");

    // It has one engine at a time. Nobody else may watch it while that has not ended.
    let alone = Settings::of([webhook()]).repository("name: finance");
    let alone = Home::new(&alone.top(ADMIN).top(&store));
    start_refused(&alone, "the repository finance is in the list");
    home.reconfigure(&both);
    assert!(!daemon.reload());
    daemon.wait_message(
        "the former engine of the repository finance has not ended",
        1,
    );
    finance.answer();
    wait_fleet(&home, "/repositories", &serde_json::json!(["models"]));
    assert!(alone.start().terminate().success());
    assert!(home.json(&["status"])["ending"].is_null());
    assert!(daemon.reload());
    wait_health(&home, "/readyz", 200);
    let status = home.json(&["status"]);
    assert_eq!(
        field(&status["repositories"], "name"),
        ["models", "finance"]
    );
    write(
        &backing(&home, "finance").join(DEFINITION),
        &xml("Orders", "e-2", "one"),
    );
    daemon.signal(Signal::USR1);
    all.wait_for(4);
    assert!(daemon.terminate().success());
}

#[test]
fn a_process_becomes_a_standby_although_a_repository_hangs() {
    let test = "hung::a_process_becomes_a_standby_although_a_repository_hangs";
    let Some(server) = server(test) else { return };
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint));
    let place = Place {
        root: &home,
        endpoint: &endpoint,
        store: store(server, &server.database()),
    };
    roots(&home, &["models", "finance", "elsewhere"]);
    let Some(finance) = Served::new(&home, "finance", test) else {
        return;
    };
    home.configure(&place.list(&["models", "finance"]));
    let daemon = launch(&home);
    wait_health(&home, "/readyz", 200);
    // The other process sees the same repository at another path.
    let elsewhere = home.beside("elsewhere").display().to_string();
    let elsewhere = format!("{{ path: {elsewhere}, name: finance, settle: 300ms }}");
    let other = Home::new(&place.list(&["models"]).and_repository(&elsewhere));
    let standby = launch(&other);
    let waiting = "watches the repositories models, finance in";
    standby.wait_message(waiting, 1);

    finance.hang_engine_of(&daemon);
    daemon.signal(Signal::STOP);
    wait_health(&other, "/readyz", 200);
    daemon.signal(Signal::CONT);
    daemon.wait_message("inference of finance did not stop in time", 1);
    daemon.wait_message(waiting, 1);
    put(&home, "models", DEFINITION, &xml("Orders", "e-1", "one"));
    endpoint.wait_for(2);

    // It watches the other repository again, and loses the lease a second time.
    assert!(standby.terminate().success());
    wait_until("the other repository is watched", || {
        let status = home.json(&["status"]);
        (status["repositories"][0]["ready"] == true).then_some(())
    });
    let standby = launch(&other);
    standby.wait_message(waiting, 1);
    daemon.signal(Signal::STOP);
    wait_health(&other, "/readyz", 200);
    daemon.signal(Signal::CONT);
    daemon.wait_message(waiting, 2);
    // The second engine has not touched the repository.
    assert_eq!(threads(&daemon, "engine").len(), 1);

    // The stuck engine ends with its first answer. A new one takes its place.
    finance.answer();
    wait_until("the end of the stuck engine", || {
        threads(&daemon, "engine").is_empty().then_some(())
    });
    assert!(standby.terminate().success());
    wait_health(&home, "/readyz", 200);
    let more = backing(&home, "finance").join(DEFINITION);
    write(&more, &xml("Orders", "e-2", "one"));
    daemon.signal(Signal::USR1);
    endpoint.wait_for(4);
    assert!(daemon.terminate().success());
    assert_eq!(endpoint.n(), 4);
}

#[test]
fn a_database_that_does_not_answer_is_no_file_system_that_hangs() {
    let test = "hung::a_database_that_does_not_answer_is_no_file_system_that_hangs";
    let Some(server) = server(test) else { return };
    let relay = Relay::start(server.port);
    let endpoint = Endpoint::new();
    let connection = relay.through(&server.connection(&server.database()), server);
    let settings = Settings::all_to(&endpoint).top(ADMIN);
    let home = Home::new(&settings.top(&format!(
        "store: {{ postgres: \"{connection}\", lease: 5m }}"
    )));
    let daemon = launch(&home);
    wait_health(&home, "/readyz", 200);
    relay.silence();
    home.write(DEFINITION, &xml("Orders", "e-1", "one"));
    wait_health(&home, "/readyz", 503);
    // The reason names no database to a client without the token.
    let page = get(&home, "/readyz");
    assert!(page.contains("the state "), "{page}");
    assert!(!page.contains("disk or network file system"), "{page}");
    assert!(get(&home, "/healthz").starts_with("HTTP/1.1 200 "));
    assert_eq!(daemon.n_messages("has not responded"), 0);
}
