//! Missing files of one project: when their removal counts.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Endpoint, Home, Settings, Stop, in_time, on_both_backends, xml};
use crate::events;

on_both_backends!(
    activity_that_goes_on_does_not_postpone_a_delete_for_ever,
    a_published_copy_that_is_overwritten_and_removed_while_a_replacement_waits_is_published,
    an_unreadable_directory_of_copies_does_not_hold_up_a_delete,
);

fn activity_that_goes_on_does_not_postpone_a_delete_for_ever(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).watch(backend).settle("200ms"));
    home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
    let daemon = home.start();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0_u64.. {
                if is_done.load(Ordering::Relaxed) {
                    return;
                }
                home.write("sales/orders/build.log", &n.to_string());
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let _end = Stop(&is_done);
        home.remove("sales/orders/project.xml");
        assert_eq!(endpoint.take_events(1), ["project-delete"]);
    });
    drop(daemon);
}

fn a_published_copy_that_is_overwritten_and_removed_while_a_replacement_waits_is_published(
    backend: &str,
) {
    let copy = "sales/orders/published/v1/project.xml";
    for in_place in [true, false] {
        in_time(|| {
            let endpoint = Endpoint::new();
            // Long enough for all of it to happen while the replacement waits.
            let home = Home::new(&Settings::all_to(&endpoint).watch(backend).settle("3s"));
            home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
            home.write(copy, &xml("Orders", "e-1", "v1"));
            let daemon = home.start();
            let v2 = xml("Leads", "e-2", "v2");
            let began = Instant::now();
            home.replace("sales/orders/project.xml", &xml("Leads", "e-2", "one"));
            if in_place {
                fs::write(home.at(copy), &v2).unwrap();
            } else {
                home.replace(copy, &v2);
            }
            // A later change is observed, so this one was before it is gone.
            home.write("sales/other/project.xml", &xml("Other", "e-3", ""));
            endpoint.wait_for_one("of another project", |one| {
                one.event == "project-import-any"
            });
            endpoint.take();
            home.remove(copy);
            if began.elapsed() > Duration::from_millis(2_500) {
                return false;
            }
            let came = endpoint.wait_for(5);
            let told: Vec<(&str, bool)> = came
                .iter()
                .map(|one| (one.event.as_str(), one.payload == v2.as_bytes()))
                .collect();
            assert_eq!(
                told,
                [
                    ("project-delete", false),
                    ("project-delete-and-unpublish", false),
                    ("project-import", false),
                    ("project-import-any", false),
                    ("project-publish", true),
                ],
                "in place: {in_place}"
            );
            daemon.fence();
            assert_eq!(events(&endpoint).len(), 5);
            true
        });
    }
}

/// Unreadable for everybody, also for root: a symbolic link in the place of a directory.
fn hide(home: &Home, below: &str) {
    fs::rename(home.at(below), home.beside("hidden")).unwrap();
    symlink(home.beside("hidden"), home.at(below)).unwrap();
}

fn an_unreadable_directory_of_copies_does_not_hold_up_a_delete(backend: &str) {
    let (a, s, v) = (
        xml("Orders", "e-1", "one"),
        xml("Orders", "e-1", "snapshot"),
        xml("Orders", "e-1", "published"),
    );
    // The directory that cannot be read, and the events once the rest is gone.
    let cases: [(&str, &[&str]); 2] = [
        (
            "sales/orders/snapshots",
            &["project-delete", "project-delete-and-unpublish"],
        ),
        ("sales/orders/published", &["project-delete"]),
    ];
    for (hidden, expected) in cases {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
        home.write("sales/orders/project.xml", &a);
        home.write("sales/orders/snapshots/s1.xml", &s);
        home.write("sales/orders/published/v1/project.xml", &v);
        let daemon = home.start();
        hide(&home, hidden);
        daemon.fence();
        assert_eq!(endpoint.n(), 0, "unreadable is not gone");
        home.remove("sales/orders/project.xml");
        if hidden.ends_with("snapshots") {
            home.remove_all("sales/orders/published");
        }
        endpoint.wait_for(expected.len());
        daemon.fence();
        assert_eq!(events(&endpoint), expected, "{hidden}");
        let status = home.json(&["status"]);
        assert_eq!(status["incomplete"][0]["path"], hidden, "{status}");
        // The files come back into sight, and the project with them.
        fs::remove_file(home.at(hidden)).unwrap();
        fs::rename(home.beside("hidden"), home.at(hidden)).unwrap();
        daemon.fence();
        assert_eq!(events(&endpoint), expected, "{hidden}");
        home.write("sales/orders/project.xml", &a);
        endpoint.wait_for_one("the project is back", |one| {
            one.event == "project-import-any"
        });
    }
}
