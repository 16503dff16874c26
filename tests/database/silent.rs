//! A database that accepts everything and never answers, or that goes away at a bad time.

use std::process::ExitStatus;

use rustix::process::Signal;

use super::common::{Daemon, Endpoint, Home, Relay, Settings, wait_until, xml};
use super::{server, store};

#[test]
fn a_stop_ends_while_the_database_does_not_answer() {
    let test = "a_stop_ends_while_the_database_does_not_answer";
    let Some(server) = server(test) else { return };
    let relay = Relay::start(server.port);
    let endpoint = Endpoint::new();
    let connection = relay.through(&server.connection(&server.database()), server);
    let homes: Vec<Home> = ["recording", "twice", "idle", "standby", "starting"]
        .map(|name| {
            let repository = if name == "standby" { "idle" } else { name };
            // The server gets the name of the application when a process connects.
            let connection = format!("{connection} application_name={name}");
            let settings = Settings::all_to(&endpoint)
                .repository(&format!("name: {repository}"))
                .top(&store(&connection));
            Home::new(&settings)
        })
        .into();
    let daemons = homes
        .iter()
        .map(|home| Daemon::launch(home, Daemon::command(home)));
    let mut daemons: Vec<Daemon<'_>> = daemons.take(3).collect();
    for daemon in &daemons {
        daemon.wait_ready();
    }
    daemons.push(Daemon::launch(&homes[3], Daemon::command(&homes[3])));
    daemons[3].wait_message("watches the repository idle", 1);
    relay.silence();
    for home in &homes[..2] {
        home.write("sales/late/project.xml", &xml("late", "id-late", "one"));
    }
    daemons.push(Daemon::launch(&homes[4], Daemon::command(&homes[4])));
    // The engine reads the record of the project. Without an answer, it may only prepare that.
    wait_until("requests of the engines, and of the start", || {
        let is_reading = relay.keeps("late") || relay.keeps("FROM files f");
        (is_reading && relay.keeps("starting")).then_some(())
    });
    for daemon in &daemons {
        daemon.signal(Signal::TERM);
    }
    daemons[1].wait_message("stopping: waiting for requests in progress", 1);
    daemons[1].signal(Signal::TERM);
    // The second signal ends it at once, so before the first one, which stops since as long.
    let ended = |daemon: &mut Daemon<'_>| daemon.wait_exit();
    let second: ExitStatus = ended(&mut daemons[1]);
    assert!(second.success() && daemons[0].is_running());
    for daemon in &mut daemons {
        assert!(daemon.wait_exit().success());
    }
}

#[test]
fn an_outage_right_after_the_lease_was_granted_delays_the_start() {
    let test = "an_outage_right_after_the_lease_was_granted_delays_the_start";
    let Some(server) = server(test) else { return };
    // The check before the start, the fingerprints of webhooks, and what the engine reads first.
    for text in [
        "first-start",
        "name, fingerprint, off_cause",
        "FROM problems",
    ] {
        let relay = Relay::start(server.port);
        let endpoint = Endpoint::new();
        let connection = relay.through(&server.connection(&server.database()), server);
        let home = Home::new(&Settings::all_to(&endpoint).top(&store(&connection)));
        relay.close_at(text);
        let mut daemon = Daemon::launch(&home, Daemon::command(&home));
        wait_until("the outage", || relay.is_closed().then_some(()));
        daemon.wait_log(text, |entry| {
            let words = [
                "does not answer",
                "cannot be used now",
                "cannot save changed",
            ];
            words.iter().any(|word| entry.message().contains(word))
        });
        assert!(daemon.is_running(), "{text}");
        relay.open();
        daemon.wait_ready();
        home.write("sales/one/project.xml", &xml("one", "id-one", "one"));
        endpoint.wait_for(2);
        assert!(daemon.terminate().success(), "{text}");
    }
}

/// The answer to the commit of the new settings is lost, so the reload is rejected.
#[test]
fn a_rejected_reload_leaves_the_former_settings_on_record() {
    let test = "a_rejected_reload_leaves_the_former_settings_on_record";
    let Some(server) = server(test) else { return };
    let relay = Relay::start(server.port);
    let endpoint = Endpoint::new();
    let database = server.database();
    let connection = relay.through(&server.connection(&database), server);
    let home = Home::new(&Settings::all_to(&endpoint).top(&store(&connection)));
    let daemon = home.start();
    let sql = |sql: &str| server.sql(&database, sql);
    let recorded = || sql("SELECT fingerprint FROM webhooks");
    let before = recorded();
    // The commit waits for this lock.
    sql(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER hold AFTER UPDATE OF fingerprint ON webhooks \
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold()",
    );
    let holder = server.session(&database, "SELECT pg_advisory_lock(7);");
    let config = std::fs::read_to_string(home.config()).unwrap();
    let changed = config.replace("[0s, 100ms,", "[0s, 150ms,");
    assert_ne!(config, changed);
    std::fs::write(home.config(), changed).unwrap();
    daemon.signal(Signal::HUP);
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                   AND objid = 7 AND database = (SELECT oid FROM pg_database WHERE datname = \
                   current_database())";
    wait_until("the commit", || (sql(waiting) == "1").then_some(()));
    relay.close();
    daemon.wait_message("the configuration is rejected", 1);
    drop(holder);
    wait_until("the new settings", || (recorded() != before).then_some(()));
    relay.open();
    wait_until("the former settings", || {
        (recorded() == before).then_some(())
    });
    assert!(daemon.terminate().success());
}
