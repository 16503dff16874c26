//! How holds end: over a restart, by projects that come back, and by new settings.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;

use crate::common::{Daemon, Endpoint, Home, Settings, on_both_backends, wait_until, xml};
use crate::{events, names, projects, settings, vanish, wait_held, wait_not_held};

on_both_backends!(
    a_hold_goes_on_to_its_end_after_a_restart,
    held_projects_that_come_back_slowly_are_not_deleted,
    every_project_that_comes_back_extends_the_hold,
    a_reload_ends_a_hold_sooner,
    another_project_in_a_held_directory_is_imported,
);

/// The time of the hold is over before the repository is back and can be compared.
#[test]
fn a_hold_does_not_end_before_the_repository_is_compared_again() {
    let endpoint = Endpoint::new();
    let for_time = |hold| held_for(&endpoint, "poll", hold).repository("poll_interval: 200ms");
    let home = Home::new(&for_time("1h"));
    projects(&home, names(300));
    let daemon = home.start();
    take_away(&home, &daemon, names(160));
    wait_held(&home, 160, "more-than-half");
    fs::rename(home.at(""), home.beside("hidden")).unwrap();
    daemon.wait_message("no events are inferred until it is available", 1);
    for hold in ["0s", "1h"] {
        home.reconfigure(&for_time(hold));
        assert!(daemon.reload());
    }
    let back = home.beside("hidden/sales/p159");
    fs::rename(home.beside("away/p159"), back).unwrap();
    fs::rename(home.beside("hidden"), home.at("")).unwrap();
    daemon.wait_message("the repository is back", 1);
    wait_held(&home, 159, "more-than-half");
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
    bring_back(&home, names(159));
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
}

/// The end of the hold.
fn until(home: &Home) -> Timestamp {
    let status = home.json(&["status"]);
    let until = status["heldRemovals"]["until"].as_str().unwrap();
    until.parse().unwrap()
}

/// Moves projects out of the repository while the daemon is stopped. So for it they vanish together.
fn take_away(home: &Home, daemon: &Daemon<'_>, names: impl IntoIterator<Item = String>) {
    fs::create_dir_all(home.beside("away")).unwrap();
    daemon.signal(Signal::STOP);
    for name in names {
        let away = home.beside("away").join(&name);
        fs::rename(home.at("sales").join(name), away).unwrap();
    }
    daemon.signal(Signal::CONT);
}

fn bring_back(home: &Home, names: impl IntoIterator<Item = String>) {
    for name in names {
        let away = home.beside("away").join(&name);
        fs::rename(away, home.at("sales").join(name)).unwrap();
    }
}

fn held_for(endpoint: &Endpoint, backend: &str, hold: &str) -> Settings {
    settings(endpoint, backend).repository(&format!("mass_delete_after: {hold}"))
}

fn a_hold_goes_on_to_its_end_after_a_restart(backend: &str) {
    for is_killed in [false, true] {
        let endpoint = Endpoint::new();
        let home = Home::new(&held_for(&endpoint, backend, "1h"));
        projects(&home, names(20));
        let daemon = home.start();
        vanish(&home, &daemon, names(12));
        wait_held(&home, 12, "more-than-half");
        let before = until(&home);
        // So many that the removed ones are no longer more than half.
        for name in names(12) {
            let content = xml(&name, &format!("e-new-{name}"), "");
            home.write(&format!("hr/{name}/project.xml"), &content);
        }
        endpoint.wait_for(24);
        daemon.fence();
        endpoint.take();
        match is_killed {
            true => daemon.kill(),
            false => drop(daemon.terminate()),
        }
        let daemon = home.start();
        let status = wait_held(&home, 12, "more-than-half");
        let text = "12 of 20 projects are gone";
        let troubles = status["troubles"]["removals"].to_string();
        assert!(troubles.contains(text), "{troubles}");
        let difference = until(&home).duration_since(before).abs();
        assert!(difference < SignedDuration::from_secs(1), "{difference}");
        daemon.fence();
        let of_held = |endpoint: &Endpoint| {
            let all = endpoint.all().into_iter();
            all.filter(|one| one.event != "project-import" && one.event != "project-import-any")
                .count()
        };
        assert_eq!(of_held(&endpoint), 0);
        daemon.terminate();
        // A shorter hold than what is left of it.
        home.configure(&held_for(&endpoint, backend, "500ms"));
        let daemon = home.start();
        wait_until("the deletes", || (of_held(&endpoint) == 24).then_some(()));
        wait_not_held(&home);
        daemon.terminate();
        let daemon = home.start();
        daemon.fence();
        assert_eq!(of_held(&endpoint), 24);
        assert_eq!(daemon.n_messages(text), 0, "it is not held again");
    }
}

fn held_projects_that_come_back_slowly_are_not_deleted(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&held_for(&endpoint, backend, "1h"));
    projects(&home, names(12));
    let daemon = home.start();
    take_away(&home, &daemon, names(12));
    wait_held(&home, 12, "all");
    // After each part, nothing comes back for longer than the settle time.
    for part in [0..7, 7..8, 8..11] {
        bring_back(&home, names(12).skip(part.start).take(part.len()));
        wait_held(&home, 12 - part.end, "more-than-half");
        daemon.fence();
        daemon.fence();
    }
    // A restart in between finds them as they are.
    daemon.terminate();
    let daemon = home.start();
    wait_held(&home, 1, "more-than-half");
    daemon.fence();
    bring_back(&home, names(12).skip(11));
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
    drop(daemon);
}

fn every_project_that_comes_back_extends_the_hold(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&held_for(&endpoint, backend, "1h"));
    projects(&home, names(20));
    let daemon = home.start();
    take_away(&home, &daemon, names(12));
    wait_held(&home, 12, "more-than-half");
    for n in 0..2 {
        let before = until(&home);
        bring_back(&home, names(12).skip(n).take(1));
        wait_held(&home, 11 - n, "more-than-half");
        assert!(until(&home) > before);
    }
    assert_eq!(events(&endpoint), [""; 0]);
    assert_eq!(daemon.n_messages("projects are gone"), 1);
}

fn a_reload_ends_a_hold_sooner(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&held_for(&endpoint, backend, "1h"));
    projects(&home, names(20));
    let daemon = home.start();
    vanish(&home, &daemon, names(12));
    wait_held(&home, 12, "more-than-half");
    let first = until(&home);
    home.reconfigure(&held_for(&endpoint, backend, "2h"));
    assert!(daemon.reload());
    daemon.fence();
    assert_eq!(until(&home), first, "never later");
    home.reconfigure(&held_for(&endpoint, backend, "30m"));
    assert!(daemon.reload());
    daemon.fence();
    let sooner = Timestamp::now() + SignedDuration::from_mins(31);
    assert!(until(&home) < sooner);
    assert_eq!(endpoint.n(), 0);
    home.reconfigure(&held_for(&endpoint, backend, "0s"));
    assert!(daemon.reload());
    endpoint.wait_for(24);
    wait_not_held(&home);
    assert_eq!(endpoint.n(), 24);
}

fn another_project_in_a_held_directory_is_imported(backend: &str) {
    for (n, n_removed, cause) in [(4, 4, "all"), (20, 12, "more-than-half")] {
        let endpoint = Endpoint::new();
        let home = Home::new(&held_for(&endpoint, backend, "1h"));
        projects(&home, names(n));
        let daemon = home.start();
        vanish(&home, &daemon, names(n_removed));
        wait_held(&home, n_removed, cause);
        let new = xml("New", "e-new", "");
        home.write("sales/p000/project.xml", &new);
        assert_eq!(
            endpoint.take_events(4),
            [
                "project-delete",
                "project-delete-and-unpublish",
                "project-import",
                "project-import-any"
            ]
        );
        // The others are held as before, over a restart too.
        wait_held(&home, n_removed - 1, cause);
        daemon.terminate();
        let daemon = home.start();
        wait_held(&home, n_removed - 1, cause);
        // The last held one of them ends the hold.
        for name in names(n_removed).skip(1) {
            let content = xml("New", &format!("e-new-{name}"), "");
            home.write(&format!("sales/{name}/project.xml"), &content);
        }
        endpoint.wait_for(4 * (n_removed - 1));
        wait_not_held(&home);
        daemon.fence();
        assert_eq!(endpoint.n(), 4 * (n_removed - 1));
    }
}

#[test]
fn a_full_scan_finds_held_projects_that_are_back() {
    let endpoint = Endpoint::new();
    // Without reports, only a full scan finds them, and their metadata is unchanged.
    let home = Home::new(&settings(&endpoint, "poll").repository("poll_interval: 100ms"));
    projects(&home, names(4));
    let daemon = home.start();
    fs::rename(home.at("sales"), home.beside("sales")).unwrap();
    wait_held(&home, 4, "all");
    fs::rename(home.beside("sales"), home.at("sales")).unwrap();
    wait_not_held(&home);
    daemon.terminate();
    // The same while the daemon is not running.
    let daemon = home.start();
    fs::rename(home.at("sales"), home.beside("sales")).unwrap();
    wait_held(&home, 4, "all");
    daemon.terminate();
    fs::rename(home.beside("sales"), home.at("sales")).unwrap();
    let daemon = home.start();
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
    daemon.terminate();
}
