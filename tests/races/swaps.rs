//! Projects that exchange directories, or visit that of another.

use std::fs;
use std::time::{Duration, Instant};

use super::home_with_projects;
use crate::common::{Daemon, Endpoint, Home, Settings, in_time, on_both_backends, xml};

on_both_backends!(
    swapping_two_projects_is_no_event,
    swapping_two_projects_and_back_is_no_event,
    a_publish_during_a_swap_and_back_is_one_event,
    a_project_that_visits_the_directory_of_another_is_no_event,
    a_project_that_moves_on_through_the_directory_of_another_moves_once,
);

fn swapping_two_projects_is_no_event(backend: &str) {
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 5);
    let daemon = home.start();
    home.rename("sales/p0", "sales/between");
    home.rename("sales/p1", "sales/p0");
    home.rename("sales/between", "sales/p1");
    daemon.fence();
    // In one step.
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        home.at("sales/p2"),
        rustix::fs::CWD,
        home.at("sales/p3"),
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap();
    daemon.fence();
    // Round in a circle of three.
    for (from, to) in [("p2", "x"), ("p3", "p2"), ("p4", "p3"), ("x", "p4")] {
        home.rename(&format!("sales/{from}"), &format!("sales/{to}"));
    }
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    // The record equals the disk: a restart finds nothing new.
    assert!(daemon.terminate().success());
    let daemon = home.start();
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
}

/// Two projects in one organization, each with a published copy and a snapshot.
fn home_with_two_projects(endpoint: &Endpoint, backend: &str) -> Home {
    home_with_projects(&Settings::all_to(endpoint).watch(backend).settle("5s"), 2)
}

/// The longest time from the first of their moves to the last one. Then the first is not judged before.
const WITHIN: Duration = Duration::from_millis(4_500);

/// Waits until the engine has observed all earlier changes. They settle later.
fn wait_observed(home: &Home, daemon: &Daemon<'_>, mark: &str) {
    let key = format!("fence/{mark}");
    home.write(&format!("{key}/project.xml"), &xml(mark, "", ""));
    daemon.wait_log(mark, |entry| {
        entry.message() == "Project Import - Any" && entry.field("project") == key
    });
}

/// Two directories exchange their paths.
fn swap(home: &Home, one: &str, other: &str) {
    let aside = home.beside("aside");
    fs::rename(home.at(one), &aside).unwrap();
    home.rename(other, one);
    fs::rename(&aside, home.at(other)).unwrap();
}

fn swapping_two_projects_and_back_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_two_projects(&endpoint, backend);
        let daemon = home.start();
        let began = Instant::now();
        swap(&home, "sales/p0", "sales/p1");
        wait_observed(&home, &daemon, "swapped");
        swap(&home, "sales/p0", "sales/p1");
        if began.elapsed() > WITHIN {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        true
    });
}

/// The former copy has no links after it is replaced, and the new one moves back with its project.
fn a_publish_during_a_swap_and_back_is_one_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_two_projects(&endpoint, backend);
        let daemon = home.start();
        let began = Instant::now();
        swap(&home, "sales/p0", "sales/p1");
        wait_observed(&home, &daemon, "swapped");
        let copy = "sales/p0/published/v1/project.xml";
        home.replace(copy, &xml("P1", "e-1", "v2"));
        wait_observed(&home, &daemon, "published");
        swap(&home, "sales/p0", "sales/p1");
        if began.elapsed() > WITHIN {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), ["Project Publish sales/p1"]);
        true
    });
}

/// The visitor comes from outside the repository and goes there again.
fn a_project_that_visits_the_directory_of_another_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_two_projects(&endpoint, backend);
        let [aside, outside] = ["aside", "outside"].map(|name| home.beside(name));
        let project = home.at("sales/p0");
        fs::rename(home.at("sales/p1"), &outside).unwrap();
        let daemon = home.start();
        let began = Instant::now();
        fs::rename(&project, &aside).unwrap();
        fs::rename(&outside, &project).unwrap();
        wait_observed(&home, &daemon, "visited");
        fs::rename(&project, &outside).unwrap();
        // The directory is observed twice while no project is there.
        for mark in ["left", "left-again"] {
            fs::create_dir(&project).unwrap();
            wait_observed(&home, &daemon, mark);
            fs::remove_dir(&project).unwrap();
        }
        wait_observed(&home, &daemon, "absent");
        fs::rename(&aside, &project).unwrap();
        if began.elapsed() > WITHIN {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        true
    });
}

fn a_project_that_moves_on_through_the_directory_of_another_moves_once(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_two_projects(&endpoint, backend);
        let aside = home.beside("aside");
        let daemon = home.start();
        let began = Instant::now();
        fs::rename(home.at("sales/p0"), &aside).unwrap();
        home.rename("sales/p1", "sales/p0");
        wait_observed(&home, &daemon, "visited");
        home.rename("sales/p0", "other/p1");
        fs::rename(&aside, home.at("sales/p0")).unwrap();
        if began.elapsed() > WITHIN {
            return false;
        }
        daemon.fence();
        assert_eq!(
            daemon.events(),
            [
                "Project Delete sales/p1",
                "Project Delete and Unpublish sales/p1",
                "Project Import other/p1",
                "Project Import - Any other/p1",
                "Snapshot Create other/p1",
                "Project Publish other/p1",
            ]
        );
        true
    });
}
