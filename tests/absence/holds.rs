//! Held removals: how they begin, how they end, and what reports them.

use std::collections::BTreeSet;
use std::fs;

use crate::common::{Endpoint, Home, on_both_backends, terminal, wait_until, xml};
use crate::{
    events, fetch, names, project, projects, run, run_with, settings, vanish, wait_held,
    wait_not_held,
};

on_both_backends!(
    all_projects_that_vanish_are_held_until_one_is_back,
    accepted_removals_are_judged,
    held_and_accepted_removals_survive_a_restart,
    more_than_half_of_the_projects_are_held_for_a_time,
);

fn all_projects_that_vanish_are_held_until_one_is_back(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    projects(&home, names(4));
    let daemon = home.start();
    fs::rename(home.at("sales"), home.beside("away")).unwrap();
    let status = wait_held(&home, 4, "all");
    let text = "all projects are gone; 4 removals";
    assert!(status["troubles"]["removals"].to_string().contains(text));
    assert_eq!(status["heldRemovals"]["until"], serde_json::Value::Null);
    daemon.wait_message(text, 1);
    let ready = fetch(&home, "/readyz");
    assert!(ready.contains(text), "{ready}");
    let metrics = fetch(&home, "/metrics");
    let metric = "project_webhooks_held_removals{reason=\"all\"} 4";
    assert!(metrics.contains(metric), "{metrics}");
    assert!(home.command(&["status"]).contains(text));

    // Another project that comes meanwhile ends no hold.
    home.write("hr/new/project.xml", &xml("New", "e-new", ""));
    endpoint.wait_for(2);
    wait_held(&home, 4, "all");
    endpoint.take();

    // One of them is back, and the others soon after: nothing happened.
    fs::create_dir(home.at("sales")).unwrap();
    for name in names(4) {
        fs::rename(
            home.beside("away").join(&name),
            home.at("sales").join(&name),
        )
        .unwrap();
    }
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
    // A single project that goes is deleted.
    home.remove_all("sales/p000");
    endpoint.wait_for(2);
    daemon.fence();
    assert_eq!(
        events(&endpoint),
        ["project-delete", "project-delete-and-unpublish"]
    );
}

fn accepted_removals_are_judged(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    projects(&home, names(3));
    let (code, said) = run(&home, &["accept", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no running daemon uses"), "{said}");
    let daemon = home.start();
    // The control socket may open after the first scan.
    wait_until("an answer", || {
        let (_, said) = run(&home, &["accept"]);
        said.contains("No removals are held").then_some(())
    });
    home.remove_all("sales");
    wait_held(&home, 3, "all");
    let scanned = home.command(&["scan"]);
    assert!(scanned.contains("`run` holds their deletes"), "{scanned}");
    // It does not go on without an answer, or without a terminal to ask on.
    let (code, said) = run(&home, &["accept"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("all projects are gone; 3 removals"), "{said}");
    for name in names(3) {
        assert!(said.contains(&format!("sales/{name}")), "{said}");
    }
    wait_held(&home, 3, "all");
    // Nor with a terminal for the input only, as in `accept > file`: the question would not be seen.
    let (_terminal, input) = terminal();
    let (code, said) = run_with(&home, &["accept"], input.into());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("sales/p000"), "{said}");
    wait_held(&home, 3, "all");
    let accepted = home.json(&["accept", "--yes"]);
    assert_eq!(accepted["released"], 3);
    assert_eq!(accepted["projects"][0], "sales/p000");
    endpoint.wait_for(6);
    wait_not_held(&home);
    assert!(home.command(&["accept"]).contains("No removals are held"));
    daemon.fence();
    assert_eq!(endpoint.n(), 6);
}

#[test]
fn commands_tell_a_daemon_without_its_socket_from_a_stopped_one() {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, "auto"));
    let daemon = home.start();
    let text = format!("process {} (a daemon or", daemon.pid());
    for arguments in [&["status"][..], &["accept", "--yes"], &["reload"]] {
        // The daemon makes the socket again, maybe before the command runs.
        wait_until(&format!("{arguments:?} without the socket"), || {
            let _ = fs::remove_file(home.beside("state/control.sock"));
            let (_, said) = run(&home, arguments);
            assert!(!said.contains("no running daemon"), "{said}");
            said.contains(&text).then_some(())
        });
    }
    daemon.terminate();
    let (_, said) = run(&home, &["status"]);
    assert!(said.contains("no running daemon"), "{said}");
}

fn held_and_accepted_removals_survive_a_restart(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend).repository("mass_delete_after: 500ms"));
    projects(&home, names(5));
    let daemon = home.start();
    fs::rename(home.at("sales"), home.beside("away")).unwrap();
    wait_held(&home, 5, "all");
    // As into an empty mount point.
    home.write("hr/new/project.xml", &xml("New", "e-new", ""));
    endpoint.wait_for(2);
    endpoint.take();
    daemon.terminate();

    let daemon = home.start();
    wait_held(&home, 5, "all");
    assert_eq!(events(&endpoint), [""; 0]);
    // One is back while the daemon is down; the others are not all projects any more.
    daemon.terminate();
    project(&home, "p000");
    let daemon = home.start();
    endpoint.wait_for(8);
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(endpoint.take().len(), 8);

    home.remove_all("sales");
    home.remove_all("hr");
    projects(&home, names(4).skip(1));
    endpoint.wait_for(15);
    endpoint.take();
    home.remove_all("sales");
    wait_held(&home, 3, "all");
    assert_eq!(home.json(&["accept", "--yes"])["released"], 3);
    // Whether they are judged by now or not.
    daemon.kill();
    let daemon = home.start();
    // A callback whose answer was not recorded comes again, with its id.
    let ids = || -> BTreeSet<String> { endpoint.all().into_iter().map(|one| one.id).collect() };
    wait_until("six events", || (ids().len() == 6).then_some(()));
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(daemon.n_messages("are gone"), 0, "they are not held again");
    assert_eq!(ids().len(), 6);
}

fn more_than_half_of_the_projects_are_held_for_a_time(backend: &str) {
    // How many of 20 are removed, `mass_delete_after`, and whether they are held.
    for (n, hold, is_held) in [
        (12, "1h", true),
        (12, "500ms", true),
        (12, "0s", false),
        (10, "1h", false),
    ] {
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, backend);
        let home = Home::new(&settings.repository(&format!("mass_delete_after: {hold}")));
        projects(&home, names(20));
        let daemon = home.start();
        vanish(&home, &daemon, names(n));
        let text = format!("{n} of 20 projects are gone");
        if hold == "1h" && is_held {
            let status = wait_held(&home, n, "more-than-half");
            let until = status["heldRemovals"]["until"].as_str().unwrap();
            let until: jiff::Timestamp = until.parse().unwrap();
            assert!(until > jiff::Timestamp::now());
            let ready = fetch(&home, "/readyz");
            assert!(ready.contains(&text), "{ready}");
            // A sentence has no time zone, so it has no time. The status shows the local time.
            assert!(!ready.contains(&until.to_string()[..10]), "{ready}");
            let local = until.to_zoned_datetime(jiff::tz::TimeZone::system());
            let local = local.strftime("until %Y-%m-%d %H:%M:%S").to_string();
            let shown = home.command(&["status"]);
            assert!(shown.contains(&local), "{shown}");
            let metrics = fetch(&home, "/metrics");
            let metric = format!("project_webhooks_held_removals{{reason=\"more-than-half\"}} {n}");
            assert!(metrics.contains(&metric), "{metrics}");
            daemon.fence();
            assert_eq!(events(&endpoint), [""; 0]);
            assert_eq!(home.json(&["accept", "--yes"])["released"], n);
        }
        endpoint.wait_for(2 * n);
        daemon.fence();
        wait_not_held(&home);
        assert_eq!(endpoint.n(), 2 * n);
        assert_eq!(daemon.n_messages(&text) > 0, is_held, "{n}, {hold}");
    }
}
