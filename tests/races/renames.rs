//! Projects that are renamed while files in them change.

use std::fs::{self, File};
use std::path::Path;

use super::{home_with_projects, takes};
use crate::common::{Endpoint, Settings, Stop, on_both_backends, sorted, xml};

on_both_backends!(
    renaming_a_project_while_files_in_it_change_is_no_import_and_no_delete,
    renaming_a_project_that_is_saved_at_the_same_time_is_no_event,
);

fn renaming_a_project_while_files_in_it_change_is_no_import_and_no_delete(backend: &str) {
    const RENAMES: usize = 20;
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("1s"), 1);
    let daemon = home.start();
    // The writers hold the project's directory, as a program whose working directory it is.
    let project = File::open(home.at("sales/p0")).unwrap();
    let beneath = |path: &str| {
        use std::os::fd::AsRawFd;
        Path::new(&format!("/proc/self/fd/{}", project.as_raw_fd())).join(path)
    };
    let renamed = std::sync::atomic::AtomicBool::new(false);
    let snapshots = std::thread::scope(|scope| {
        let (renamed, beneath) = (&renamed, &beneath);
        let snapshots = scope.spawn(move || {
            let mut written = Vec::new();
            while !renamed.load(std::sync::atomic::Ordering::Acquire) {
                let n = written.len();
                let content = xml("P0", "e-0", &format!("snapshot {n}"));
                fs::write(beneath(&format!("snapshots/n{n}.xml")), &content).unwrap();
                written.push(content.into_bytes());
                takes(15);
            }
            written
        });
        let end = Stop(renamed);
        for number in 0..RENAMES {
            home.rename(
                &format!("sales/p{number}"),
                &format!("sales/p{}", number + 1),
            );
            takes(25);
        }
        drop(end);
        snapshots.join().unwrap()
    });
    daemon.fence();
    let events = daemon.events();
    let others: Vec<&String> = events
        .iter()
        .filter(|event| !event.starts_with("Snapshot Create"))
        .collect();
    assert_eq!(others, [""; 0]);
    let came = endpoint.wait_for(snapshots.len());
    assert_eq!(
        sorted(came.iter().map(|one| one.payload.to_vec())),
        sorted(snapshots)
    );
}

fn renaming_a_project_that_is_saved_at_the_same_time_is_no_event(backend: &str) {
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("1s"), 10);
    let daemon = home.start();
    for number in 0..10 {
        let saved = xml(&format!("P{number}"), &format!("e-{number}"), "saved");
        home.rename(&format!("sales/p{number}"), &format!("sales/q{number}"));
        home.replace(&format!("sales/q{number}/project.xml"), &saved);
    }
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
}
