//! Names that a lookup gets wrong: cached ones, and those of file systems that ignore case.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use super::common::{Daemon, Endpoint, Home, Settings, skip, succeeds, wait_until, write, xml};
use super::mounts::{Mounted, exfat, in_namespaces};

/// Serves `backing` as the repository. The kernel keeps a missing name for an hour.
fn cached_names(home: &Home) -> Mounted {
    let mut server = Command::new("bindfs");
    server
        .args(["-f", "-o"])
        .arg("negative_timeout=3600,entry_timeout=0,attr_timeout=0")
        .arg(home.beside("backing"))
        .arg(home.at(""));
    Mounted::by_server(server, &home.at(""))
}

/// Waits until the daemon has begun another `n` scans.
fn scans(daemon: &Daemon<'_>, n: usize) {
    let before = daemon.n_messages("full scan finished");
    daemon.wait_message("full scan finished", before + n);
}

#[test]
fn a_file_that_only_the_cache_misses_is_not_deleted() {
    let test = "names::a_file_that_only_the_cache_misses_is_not_deleted";
    in_namespaces(test, &["bindfs"], || {
        let endpoint = Endpoint::new();
        let settings = Settings::all_to(&endpoint).repository("poll_interval: 1s");
        let home = Home::new(&settings.settle("2s"));
        let backing = home.beside("backing");
        let definition = xml("Orders", "e-1", "one");
        for path in ["sales/orders/project.xml", "sales/moved/project.xml"] {
            write(&backing.join(path), &definition);
        }
        write(
            &backing.join("sales/moved/project.xml"),
            &xml("Moved", "e-2", "one"),
        );
        let _mounted = cached_names(&home);
        let daemon = home.start();
        // Another machine saves by unlink and rewrite, and a lookup happens in between.
        let file = backing.join("sales/orders/project.xml");
        fs::remove_file(&file).unwrap();
        fs::rename(backing.join("sales/moved"), backing.join("away")).unwrap();
        for path in ["sales/orders/project.xml", "sales/moved"] {
            assert!(home.at(path).metadata().is_err(), "{path} is cached");
        }
        fs::write(&file, &definition).unwrap();
        fs::rename(backing.join("away"), backing.join("sales/moved")).unwrap();
        // More than the settle time.
        scans(&daemon, 5);
        assert_eq!(daemon.events(), [""; 0]);
        // What is really gone counts.
        fs::remove_file(&file).unwrap();
        fs::remove_dir_all(backing.join("sales/moved")).unwrap();
        endpoint.wait_for(2);
        let mut events = daemon.events();
        events.sort();
        assert_eq!(
            events,
            ["Project Delete sales/moved", "Project Delete sales/orders"]
        );
    });
}

#[test]
fn a_rename_in_case_only_is_a_move_where_case_is_ignored() {
    let test = "names::a_rename_in_case_only_is_a_move_where_case_is_ignored";
    in_namespaces(test, &["mkfs.exfat", "mount.exfat-fuse"], || {
        let endpoint = Endpoint::new();
        let settings = Settings::all_to(&endpoint).repository("poll_interval: 1s");
        let home = Home::new(&settings);
        let _mounted = exfat(&home.beside("disk"), &home.at(""));
        for (project, id) in [("orders", "e-1"), ("Stock", "e-2")] {
            home.write(
                &format!("sales/{project}/project.xml"),
                &xml(project, id, "1"),
            );
        }
        home.write("hr/people/project.xml", &xml("people", "e-3", "1"));
        let daemon = home.start();
        home.rename("sales/orders", "sales/Orders");
        home.rename("sales/Stock", "sales/STOCK");
        scans(&daemon, 3);
        assert_eq!(daemon.events(), [""; 0]);
        home.write("sales/Orders/snapshots/v1.xml", &xml("orders", "e-1", "1"));
        home.write("sales/STOCK/snapshots/v1.xml", &xml("Stock", "e-2", "1"));
        endpoint.wait_for(2);
        scans(&daemon, 2);
        let mut events = daemon.events();
        events.sort();
        assert_eq!(
            events,
            [
                "Snapshot Create sales/Orders",
                "Snapshot Create sales/STOCK"
            ]
        );
        wait_until("three projects", || {
            (home.json(&["status"])["projects"] == 3).then_some(())
        });
    });
}

/// A failing lookup proves nothing. Its listings have no types, so the types must be looked up.
#[test]
fn what_cannot_be_looked_up_is_not_gone() {
    let test = "names::what_cannot_be_looked_up_is_not_gone";
    let python = "/usr/bin/python3";
    if !succeeds(python, &["-c", "import fusepy"]) {
        return skip(test, "needs the Python module fusepy");
    }
    in_namespaces(test, &[python], || {
        let endpoint = Endpoint::new();
        let settings = Settings::all_to(&endpoint).repository("poll_interval: 1s");
        let home = Home::new(&settings);
        let (backing, failing) = (home.beside("backing"), home.beside("failing"));
        for (project, id) in [("sales/orders", "e-1"), ("hr/people", "e-2")] {
            let path = backing.join(project).join("project.xml");
            write(&path, &xml("P", id, "1"));
        }
        fs::write(&failing, "").unwrap();
        let mut server = Command::new(python);
        server
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/filesystems/failing.py"
            ))
            .args([&backing, &home.at(""), &failing]);
        let _mounted = Mounted::by_server(server, &home.at(""));
        let daemon = home.start();

        // An organization may be a directory, so it is not covered.
        let uncovered = |paths: &[&str]| {
            wait_until(&format!("not covered: {paths:?}"), || {
                let coverage = home.json(&["status"])["coverage"].clone();
                let listed = coverage["directories"].as_array()?.iter();
                let listed: Vec<&str> = listed.filter_map(|one| one["path"].as_str()).collect();
                (listed == paths).then_some(())
            });
        };
        fs::write(&failing, "/sales").unwrap();
        daemon.signal(Signal::USR1);
        uncovered(&["sales"]);
        scans(&daemon, 2);
        let status = home.json(&["status"]);
        assert_eq!(status["incomplete"][0]["path"], "sales", "{status}");
        fs::write(&failing, "").unwrap();
        uncovered(&[]);
        assert_eq!(daemon.events(), [""; 0]);

        // The name in capitals would tell that case is ignored.
        fs::write(&failing, "/hr/PEOPLE").unwrap();
        fs::rename(backing.join("hr/people"), backing.join("hr/People")).unwrap();
        scans(&daemon, 3);
        assert_eq!(daemon.events(), [""; 0]);
        let snapshot = backing.join("hr/People/snapshots/v1.xml");
        write(&snapshot, &xml("P", "e-2", "1"));
        endpoint.wait_for(1);
        assert_eq!(daemon.events(), ["Snapshot Create hr/People"]);
        assert_eq!(home.json(&["status"])["projects"], 2);
    });
}
