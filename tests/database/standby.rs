//! The lease and the senders in `status`, on the page, in health, metrics and the line for systemd.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::common::{
    Daemon, Endpoint, Home, Settings, get, get_with, wait_health, wait_until, xml,
};
use super::{server, store};

/// A command whose lines for systemd arrive at the socket.
fn notifying(home: &Home) -> (Command, UnixDatagram) {
    let socket = UnixDatagram::bind(home.beside("notify")).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    let mut command = Daemon::command(home);
    command.env("NOTIFY_SOCKET", home.beside("notify"));
    (command, socket)
}

/// Waits for a message to systemd with this text.
fn wait_notified(socket: &UnixDatagram, text: &str) -> String {
    let mut buffer = [0; 4096];
    wait_until(text, || {
        let n = socket.recv(&mut buffer).expect("a message");
        let message = String::from_utf8_lossy(&buffer[..n]).into_owned();
        message.contains(text).then_some(message)
    })
}

#[test]
fn every_report_shows_the_lease_and_who_waits_for_it() {
    let test = "every_report_shows_the_lease_and_who_waits_for_it";
    let Some(server) = server(test) else { return };
    let endpoint = Endpoint::new();
    let database = server.database();
    let settings = Settings::all_to(&endpoint)
        .repository("name: models")
        .top(&store(&server.connection(&database)))
        .top("admin: { listen: \"unix:./admin.sock\" }");
    let (home, other) = (Home::new(&settings), Home::new(&settings));
    let (command, to_systemd) = notifying(&home);
    let first = Daemon::launch(&home, command);
    first.wait_ready();
    wait_notified(
        &to_systemd,
        "watching 0 projects; lease epoch 1, no standby",
    );
    let alone = home.json(&["status"]);
    assert_eq!(alone["fleet"]["repository"], "models");
    assert_eq!(alone["fleet"]["holder"]["pid"], first.pid());
    assert_eq!(alone["fleet"]["holder"]["epoch"], 1);
    assert_eq!(alone["fleet"]["holder"]["isValid"], true);
    assert_eq!(alone["fleet"]["standbys"], serde_json::json!([]));

    let (command, to_other) = notifying(&other);
    let second = Daemon::launch(&other, command);
    let waits = format!("waiting: process {} on", first.pid());
    let told = wait_notified(&to_other, &waits);
    assert!(told.contains("READY=1"), "{told}");
    wait_notified(&to_systemd, "watching 0 projects; lease epoch 1, 1 standby");
    // The working process reports the standby.
    let status = home.json(&["status"]);
    let standby = &status["fleet"]["standbys"][0];
    assert_eq!(
        (&standby["pid"], &standby["isWaiting"]),
        (&second.pid().into(), &true.into())
    );
    let text = home.command(&["status"]);
    assert!(
        text.contains(&format!("process {} on", first.pid())),
        "{text}"
    );
    assert!(text.contains("epoch 1; repository models"), "{text}");
    assert!(
        text.contains("ago") && !text.contains("no longer waiting"),
        "{text}"
    );
    let (ready, line) = get(&home, "/readyz").unwrap();
    assert_eq!(
        (ready, line.as_str()),
        (200, "watching 0 projects; lease epoch 1, 1 standby\n")
    );
    let (_, metrics) = get(&home, "/metrics").unwrap();
    for series in [
        "project_webhooks_lease_held 1",
        "project_webhooks_lease_epoch 1",
        "project_webhooks_standbys 1",
        "project_webhooks_database_reachable 1",
    ] {
        assert!(
            metrics.lines().any(|line| line == series),
            "{series}\n{metrics}"
        );
    }
    let (_, page) = get(&home, "/").unwrap();
    assert!(page.contains("<dt>Lease</dt>"), "{page}");
    assert!(
        page.contains(&format!("process {} on", second.pid())),
        "{page}"
    );

    // The standby says for whom it waits. It runs, but it is not ready to watch.
    let text = other.command(&["status"]);
    assert!(text.starts_with("standby: process "), "{text}");
    assert_eq!(get(&other, "/healthz").unwrap().0, 200);
    let (ready, line) = get(&other, "/readyz").unwrap();
    assert!(ready == 503 && line.starts_with(&waits), "{ready} {line}");
    let (_, metrics) = get(&other, "/metrics").unwrap();
    assert!(
        metrics.contains("project_webhooks_lease_held 0"),
        "{metrics}"
    );
    assert!(!metrics.contains("project_webhooks_watching"), "{metrics}");

    // Taken over: the new holder has the next epoch, and its admin server has the address at once.
    assert!(first.terminate().success());
    second.wait_ready();
    wait_notified(&to_other, "watching 0 projects; lease epoch 2, no standby");
    assert_eq!(get(&other, "/readyz").unwrap().0, 200);
    let status = other.json(&["status"]);
    assert_eq!(status["fleet"]["holder"]["pid"], second.pid());
    assert_eq!(status["fleet"]["holder"]["epoch"], 2);
    assert_eq!(status["fleet"]["standbys"], serde_json::json!([]));
    // A killed holder keeps the lease until it expires, and `status` says so afterwards.
    second.kill();
    wait_until("the end of the lease", || {
        (other.json(&["status"])["fleet"]["holder"]["isValid"] == false).then_some(())
    });
    fs::remove_file(home.beside("notify")).unwrap();
}

#[test]
fn metrics_and_health_report_a_database_that_is_away() {
    let test = "metrics_and_health_report_a_database_that_is_away";
    let Some(server) = server(test) else { return };
    let relay = super::common::Relay::start(server.port);
    let endpoint = Endpoint::new();
    let connection = relay.through(&server.connection(&server.database()), server);
    let settings = Settings::all_to(&endpoint)
        .top(&store(&connection))
        .top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    let daemon = home.start();
    home.write("sales/one/project.xml", &xml("one", "id-1", "first"));
    endpoint.wait_for(2);
    // Completions ask the database as well, and offer nothing while it is away.
    let config = home.config();
    let offered = |rest: &str| {
        let line = format!("project-webhooks --config {} {rest}", config.display());
        home.command(&["complete", "bash", &line])
    };
    // On a busy machine, an answer may come after the deadline of a completion.
    wait_until("the project", || {
        (offered("events --project sa") == "sales/one\n").then_some(())
    });
    relay.close();
    assert_eq!(offered("deliveries show "), "");
    wait_until("the figure", || {
        let (status, metrics) = get(&home, "/metrics")?;
        (status == 200 && metrics.contains("project_webhooks_database_reachable 0")).then_some(())
    });
    assert_eq!(get(&home, "/healthz").unwrap().0, 200);
    wait_until("the reason", || {
        let (_, line) = get(&home, "/readyz")?;
        line.contains("the database does not answer").then_some(())
    });
    relay.open();
    wait_until("the figure", || {
        let (_, metrics) = get(&home, "/metrics")?;
        metrics
            .contains("project_webhooks_database_reachable 1")
            .then_some(())
    });
    assert!(daemon.terminate().success());
}

/// A collector of traces that accepts all requests and keeps their first lines.
fn collector() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || {
                let mut line = String::new();
                let _ = BufReader::new(&stream).read_line(&mut line);
                kept.lock().unwrap().push(line);
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    (port, lines)
}

#[test]
fn a_process_that_sends_for_an_unknown_repository_says_so() {
    let test = "a_process_that_sends_for_an_unknown_repository_says_so";
    let Some(server) = server(test) else { return };
    let endpoint = Endpoint::new();
    let connection = server.connection(&server.database());
    let settings = |name: &str, roles: &str| {
        let settings = Settings::all_to(&endpoint).repository(&format!("name: {name}"));
        let settings = settings.top(&store(&connection)).top(roles);
        settings.top("admin: { listen: \"unix:./admin.sock\" }")
    };
    let nothing = "sending nothing: with this database, no process has ever watched";
    let sending = Home::new(&settings("misspelt", "roles: [deliver]"));
    let sender = Daemon::launch(&sending, Daemon::command(&sending));
    sender.wait_message(nothing, 1);
    let (ready, line) = get(&sending, "/readyz").unwrap();
    assert_eq!((ready, line.starts_with(nothing)), (503, true), "{line}");
    let text = sending.command(&["status"]);
    let first = format!(
        "sending: process {} on this machine sends nothing",
        sender.pid()
    );
    assert!(text.starts_with(&first), "{text}");
    // It may only have started first.
    let watching = Home::new(&settings("misspelt", "roles: [watch]"));
    let _watching = watching.start();
    wait_health(&sending, "/readyz", 200);
    assert!(sender.terminate().success());
}

#[test]
fn a_process_that_only_sends_is_reported_everywhere() {
    let test = "a_process_that_only_sends_is_reported_everywhere";
    let Some(server) = server(test) else { return };
    let relay = super::common::Relay::start(server.port);
    let (port, traced) = collector();
    let endpoint = Endpoint::new();
    let direct = server.connection(&server.database());
    let connection = direct.replace(
        &format!("port={}", server.port),
        &format!("port={}", relay.port),
    );
    let settings = |connection: &str, roles: &str| {
        Settings::all_to(&endpoint)
            .repository("name: models")
            .top(&store(connection))
            .top(&format!("roles: {roles}"))
            .top("admin: { listen: \"unix:./admin.sock\" }")
    };
    let home = Home::new(&settings(&direct, "[watch]"));
    let sending = settings(&connection, "[deliver]");
    let sending = Home::new(&sending.top(&format!(
        "otlp: {{ endpoint: \"http://127.0.0.1:{port}\" }}"
    )));
    let watching = home.start();
    let sender = Daemon::launch(&sending, Daemon::command(&sending));
    sender.wait_message("sending callbacks", 1);
    home.write(
        "sales/a/project.xml",
        &super::common::xml("A", "id-a", "one"),
    );
    endpoint.wait_for(2);

    // The process with the lease reports the sender.
    let status = wait_until("the end of the claims", || {
        let status = home.json(&["status"]);
        (status["fleet"]["senders"][0]["lanes"] == 0).then_some(status)
    });
    let found = &status["fleet"]["senders"];
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    assert_eq!(
        (&found[0]["pid"], &found[0]["isAlive"]),
        (&sender.pid().into(), &true.into())
    );
    let text = home.command(&["status"]);
    // The server does not tell how much space there is.
    assert!(status["stateSize"]["used"].as_u64() > Some(0), "{status}");
    assert!(status["stateSize"]["limit"].is_null(), "{status}");
    assert!(!text.contains("EiB"), "{text}");
    let line = format!(
        "process {} on {}",
        sender.pid(),
        found[0]["host"].as_str().unwrap()
    );
    assert!(
        text.contains(&format!("{line} with 0 lanes, seen ")),
        "{text}"
    );
    // The metric is as of the last renewal of the lease.
    wait_until("the sender in the metrics", || {
        let (_, metrics) = get(&home, "/metrics")?;
        metrics
            .contains("project_webhooks_senders 1\n")
            .then_some(())
    });
    let (_, page) = get(&home, "/").unwrap();
    assert!(page.contains(&format!("{line} with 0 lanes")), "{page}");

    // The sender reports itself. It is ready, because it does all that its roles say.
    let text = sending.command(&["status"]);
    let first = format!("sending: process {} on this machine", sender.pid());
    assert!(text.starts_with(&first), "{text}");
    assert_eq!(get(&sending, "/healthz").unwrap().0, 200);
    let (ready, line) = get(&sending, "/readyz").unwrap();
    assert_eq!(
        (ready, line.as_str()),
        (
            200,
            "sending only: the setting roles does not contain watch\n"
        )
    );
    let series = [
        "project_webhooks_deliveries_total{outcome=\"delivered\",webhook=\"all\"} 2",
        "project_webhooks_attempt_seconds_count{webhook=\"all\"} 2",
        "project_webhooks_database_reachable 1",
        "project_webhooks_lease_held 0",
    ];
    wait_until("the counts", || {
        let (_, metrics) = get(&sending, "/metrics")?;
        let has = |series: &&str| metrics.lines().any(|line| line == *series);
        series.iter().all(has).then_some(())
    });
    wait_until("the traces of its attempts", || {
        let lines = traced.lock().unwrap();
        lines
            .iter()
            .any(|line| line.contains("/v1/traces"))
            .then_some(())
    });
    // It has no control socket, so the commands say what to do instead.
    let failed = |arguments: &[&str]| -> String {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
        command.arg("--config").arg(sending.config());
        let ended = super::common::Run::run(command.args(arguments)).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
        String::from_utf8_lossy(&ended.stderr).into_owned()
    };
    let said = failed(&["reload"]);
    assert!(said.contains("SIGHUP"), "{said}");
    let said = failed(&["accept", "--yes"]);
    assert!(said.contains("the host that has the lease"), "{said}");
    let applied = "all running processes that use the database apply the change now";
    for change in ["disable", "enable"] {
        let said = sending.command(&["webhooks", change, "all"]);
        assert!(said.contains(applied), "{said}");
    }
    let commands = [
        ["deliveries", "redeliver", "--state", "delivered"],
        ["events", "replay", "--to", "all"],
    ];
    for (command, n) in commands.iter().zip([4, 6]) {
        let changed = sending.json(command);
        assert_eq!(changed["daemonTold"], true, "{changed}");
        endpoint.wait_for(n);
        wait_until("the results", || {
            let pending = sending.json(&["deliveries", "--state", "pending"]);
            pending.as_array()?.is_empty().then_some(())
        });
    }
    relay.close();
    wait_until("the figure", || {
        let (status, line) = get(&sending, "/readyz")?;
        (status == 503 && line.contains("the database does not answer")).then_some(())
    });
    relay.open();
    wait_until("the database", || {
        (get(&sending, "/readyz")?.0 == 200).then_some(())
    });
    sender.kill();
    wait_until("the end of the sender's lease", || {
        let status = home.json(&["status"]);
        (status["fleet"]["senders"] == serde_json::json!([])).then_some(())
    });
    assert!(watching.terminate().success());
}

#[test]
fn a_standby_keeps_one_connection_and_names_nothing_without_the_token() {
    let test = "a_standby_keeps_one_connection_and_names_nothing_without_the_token";
    let Some(server) = server(test) else { return };
    let relay = super::common::Relay::start(server.port);
    let endpoint = Endpoint::new();
    let database = server.database();
    let direct = server.connection(&database);
    let token = "0123456789abcdef0123456789abcdef";
    let with = format!("authorization: Bearer {token}");
    let settings = |connection: &str| {
        Settings::all_to(&endpoint)
            .repository("name: models")
            .top(&store(connection))
            .top("roles: [watch]")
            .top(&format!(
                "admin: {{ listen: \"unix:./admin.sock\", token: {token} }}"
            ))
    };
    let home = Home::new(&settings(&direct));
    let other = Home::new(&settings(&relay.through(&direct, server)));
    let first = home.start();
    let standby = Daemon::launch(&other, Daemon::command(&other));
    let waits = format!("waiting: process {} on", first.pid());
    standby.wait_message(&waits, 1);
    let ready = |header: &str| get_with(&other, "/readyz", header);
    let public = "waiting: another process watches the repository\n";
    wait_until("the standby's server", || ready("accept: text/plain"));
    assert_eq!(
        ready("accept: text/plain").unwrap(),
        (503, public.to_owned())
    );
    let (_, line) = ready(&with).unwrap();
    assert!(line.starts_with(&waits), "{line}");

    // Each request that writes its row is one of several.
    let wait_seen = |n: usize| {
        for _ in 0..n {
            let seen = || server.sql(&database, "SELECT max(seen) FROM standbys");
            let before = seen();
            wait_until("a request of the standby", || {
                (seen() != before).then_some(())
            });
        }
    };
    wait_seen(1);
    let n_connections = relay.n_accepted();
    wait_seen(3);
    assert_eq!(relay.n_accepted(), n_connections);

    relay.close();
    let public = "waiting: the database cannot be used now\n";
    wait_until("the outage", || {
        let (_, line) = ready("accept: text/plain")?;
        (line == public).then_some(())
    });
    let (_, line) = ready(&with).unwrap();
    assert!(line.contains(&database), "{line}");
    relay.open();
    wait_seen(1);
    assert!(first.terminate().success());
    standby.wait_ready();
    // Its commits fail, and so it is in trouble.
    relay.close();
    other.write("sales/one/project.xml", &xml("one", "id-one", "one"));
    let public = "trouble: the state cannot be read or written; inference waits";
    wait_until("the trouble", || {
        let (_, line) = ready("accept: text/plain")?;
        line.starts_with(public).then_some(())
    });
    let (_, line) = ready(&with).unwrap();
    assert!(line.contains(&database), "{line}");
    relay.open();
    assert!(standby.terminate().success());
}

#[test]
fn a_standby_applies_a_reload_of_admin() {
    let test = "a_standby_applies_a_reload_of_admin";
    let Some(server) = server(test) else { return };
    let endpoint = Endpoint::new();
    let connection = server.connection(&server.database());
    let settings = |admin: &str| {
        Settings::all_to(&endpoint)
            .repository("name: models")
            .top(&store(&connection))
            .top("roles: [watch]")
            .top(admin)
    };
    let admin = |socket: &str, token: &str| {
        settings(&format!(
            "admin: {{ listen: \"unix:./{socket}\", token: {token} }}"
        ))
    };
    let tokens = [
        "0123456789abcdef0123456789abcdef",
        "abcdef0123456789abcdef0123456789",
    ];
    let home = Home::new(&settings(""));
    let other = Home::new(&admin("admin.sock", tokens[0]));
    let first = home.start();
    let standby = Daemon::launch(&other, Daemon::command(&other));
    let waits = format!("waiting: process {} on", first.pid());
    standby.wait_message(&waits, 1);
    // Whether the answer to a client with this token names the other process.
    let is_known = |token: &str| {
        let header = format!("authorization: Bearer {token}");
        let (_, line) = get_with(&other, "/readyz", &header)?;
        Some(line.starts_with(&waits))
    };
    wait_until("the standby's server", || is_known(tokens[0]));
    assert_eq!(tokens.map(is_known), [Some(true), Some(false)]);

    other.reconfigure(&admin("admin.sock", tokens[1]));
    assert!(standby.reload());
    assert_eq!(tokens.map(is_known), [Some(false), Some(true)]);

    // An address that another program uses changes nothing.
    let taken = UnixListener::bind(other.beside("taken.sock")).unwrap();
    other.reconfigure(&admin("taken.sock", tokens[0]));
    assert!(!standby.reload());
    assert_eq!(tokens.map(is_known), [Some(false), Some(true)]);
    drop(taken);

    // The socket comes back after somebody removed it, and goes with the process.
    fs::remove_file(other.beside("admin.sock")).unwrap();
    wait_until("the socket", || is_known(tokens[1]));
    assert!(standby.terminate().success());
    assert!(!other.beside("admin.sock").exists());
    assert!(first.terminate().success());
}

#[test]
fn a_process_that_only_sends_applies_a_reload_of_admin() {
    let test = "a_process_that_only_sends_applies_a_reload_of_admin";
    let Some(server) = server(test) else { return };
    let endpoint = Endpoint::new();
    let connection = server.connection(&server.database());
    let settings = |admin: &str| {
        Settings::all_to(&endpoint)
            .repository("name: models")
            .top(&store(&connection))
            .top("roles: [deliver]")
            .top(admin)
    };
    let home = Home::new(&settings("admin: { listen: \"unix:./former.sock\" }"));
    let sender = Daemon::launch(&home, Daemon::command(&home));
    wait_until("the former socket", || {
        home.beside("former.sock").exists().then_some(())
    });
    home.reconfigure(&settings("admin: { listen: \"unix:./admin.sock\" }"));
    assert!(sender.reload());
    assert_eq!(get(&home, "/healthz").unwrap().0, 200);
    assert!(!home.beside("former.sock").exists());
    // Without the setting, there is no server.
    home.reconfigure(&settings(""));
    assert!(sender.reload());
    assert!(!home.beside("admin.sock").exists());
    assert!(sender.terminate().success());
}
