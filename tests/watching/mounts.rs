//! Mounts in a namespace of the test: over watched directories, at two paths, and of file systems
//! that do not report changes.

use std::fs;
use std::path::PathBuf;

use super::common::{
    Daemon, Endpoint, Home, Settings, on_both_backends, own_mounts, skip, sorted, succeeds,
    wait_until, xml,
};
use super::properties::assert_watched;
use super::{add_project, coverage, home_with_projects};

on_both_backends!(
    a_mount_over_a_watched_directory_is_watched_at_once,
    a_directory_at_two_paths_is_watched_at_one_and_scanned_at_the_other,
    projects_on_an_unmounted_file_system_are_kept,
    projects_under_another_mount_are_kept,
    projects_of_a_mount_point_that_is_removed_and_made_again_are_kept,
    projects_of_a_removed_mount_point_are_deleted,
    projects_on_a_mount_below_the_root_of_a_reload_are_kept,
    projects_on_a_mount_below_a_renamed_root_are_kept,
    a_mount_below_a_renamed_directory_is_the_same_mount,
    a_fuse_file_system_below_a_local_root_is_scanned_on_a_timer,
);

/// A mount of this thread's namespace, unmounted when dropped.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts with these arguments of mount(8) at a directory; none if that fails.
    pub fn new(arguments: &[&str], at: PathBuf) -> Option<Self> {
        let mut all = arguments.to_vec();
        let target = at.to_str()?.to_owned();
        all.push(&target);
        succeeds("mount", &all).then(|| Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        succeeds("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// Writes a snapshot into a project, and waits until it is reported.
fn expect_snapshot(home: &Home, daemon: &Daemon<'_>, project: &str, tag: &str) {
    let event = format!("Snapshot Create {project}");
    let count = || {
        daemon
            .events()
            .iter()
            .filter(|found| **found == event)
            .count()
    };
    let before = count();
    let content = xml("p", "e", &format!("{project} {tag}"));
    home.write(&format!("{project}/snapshots/{tag}.xml"), &content);
    wait_until("the snapshot", || (count() > before).then_some(()));
}

fn a_mount_over_a_watched_directory_is_watched_at_once(backend: &str) {
    let test = "a_mount_over_a_watched_directory_is_watched_at_once";
    if !own_mounts(test) {
        return;
    }
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 2);
    let daemon = home.start();
    for round in 0..3 {
        let organization = ["ops", "hr", "ops"][round];
        fs::create_dir_all(home.at(organization)).unwrap();
        assert_watched(&home, &daemon, test);
        let mounted = Mount::new(&["-t", "tmpfs", "tmpfs"], home.at(organization)).unwrap();
        assert_watched(&home, &daemon, test);
        let project = ["ops/a", "hr/b", "ops/c"][round];
        add_project(&home, project, 70 + round);
        daemon.fence();
        expect_snapshot(&home, &daemon, project, &format!("mounted-{round}"));
        home.remove_all(project);
        daemon.wait_message("Project Delete and Unpublish", round + 1);
        drop(mounted);
        assert_watched(&home, &daemon, test);
        expect_snapshot(&home, &daemon, "sales/p1", &format!("unmounted-{round}"));
    }
    assert_eq!(coverage(&home)["uncovered"], 0);
}

fn a_directory_at_two_paths_is_watched_at_one_and_scanned_at_the_other(backend: &str) {
    let test = "a_directory_at_two_paths_is_watched_at_one_and_scanned_at_the_other";
    if !own_mounts(test) {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .watch(backend)
        .repository("poll_interval: 100ms");
    let home = home_with_projects(&settings, 2);
    fs::create_dir(home.at("hr")).unwrap();
    let daemon = home.start();
    let sales = home.at("sales");
    let mounted = Mount::new(&["--bind", sales.to_str().unwrap()], home.at("hr")).unwrap();
    wait_until("the second path", || {
        let found = coverage(&home);
        let directories = found["directories"].as_array()?;
        let is_named = directories.len() == 1 && directories[0]["path"] == "hr";
        (is_named && found["polls"] == true).then_some(())
    });
    assert_watched(&home, &daemon, test);
    expect_snapshot(&home, &daemon, "sales/p0", "twice");
    wait_until("the snapshot at both paths", || {
        let events = daemon.events();
        let has = |project| events.contains(&format!("Snapshot Create {project}"));
        (has("sales/p0") && has("hr/p0")).then_some(())
    });
    drop(mounted);
    wait_until("one path", || {
        let found = coverage(&home);
        (found["uncovered"] == 0 && found["polls"] == false).then_some(())
    });
    assert_watched(&home, &daemon, test);
    expect_snapshot(&home, &daemon, "sales/p1", "once");
}

fn a_fuse_file_system_below_a_local_root_is_scanned_on_a_timer(backend: &str) {
    let test = "a_fuse_file_system_below_a_local_root_is_scanned_on_a_timer";
    if !own_mounts(test) {
        return;
    }
    // A mode of its own asks for no scans.
    if backend == "notify" {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).repository("poll_interval: 100ms");
    let home = home_with_projects(&settings, 1);
    fs::create_dir(home.at("remote")).unwrap();
    let elsewhere = home.beside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let daemon = home.start();
    assert_eq!(coverage(&home)["polls"], false);
    let (from, to) = (elsewhere.to_str().unwrap(), home.at("remote"));
    if !succeeds("bindfs", &[from, to.to_str().unwrap()]) {
        return skip(test, "needs bindfs and FUSE");
    }
    let mounted = Mount(to);
    wait_until("scans on a timer", || {
        let found = coverage(&home);
        let note = found["note"].as_str()?;
        (found["polls"] == true && note.contains("FUSE (at \"remote\")")).then_some(())
    });
    // The change is made where the kernel does not report it.
    let write = |path: &str, content: &str| {
        super::common::write(&elsewhere.join(path), content);
    };
    write("p/project.xml", &xml("p", "remote", "one"));
    wait_until("the project", || {
        let events = daemon.events();
        events
            .contains(&"Project Import remote/p".to_owned())
            .then_some(())
    });
    write("p/snapshots/v1.xml", &xml("p", "remote", "two"));
    wait_until("the snapshot", || {
        let events = daemon.events();
        events
            .contains(&"Snapshot Create remote/p".to_owned())
            .then_some(())
    });
    drop(mounted);
    wait_until("no scans", || {
        (coverage(&home)["polls"] == false).then_some(())
    });
}

/// A disk with three projects, mounted at an organization beside one that is not.
fn with_a_disk(backend: &str, test: &str, then: impl FnOnce(&Home, &[&str])) {
    with_a_disk_and(backend, test, "1m", then);
}

/// The same with this `repository.mass_delete_after`.
fn with_a_disk_and(
    backend: &str,
    test: &str,
    mass_delete_after: &str,
    then: impl FnOnce(&Home, &[&str]),
) {
    if !own_mounts(test) {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .watch(backend)
        .repository("poll_interval: 200ms")
        .repository(&format!("mass_delete_after: {mass_delete_after}"));
    let home = home_with_projects(&settings, 4);
    let disk = home.beside("disk");
    for number in 0..3 {
        let content = xml("d", &format!("disk-{number}"), "one");
        super::common::write(&disk.join(format!("d{number}/project.xml")), &content);
        super::common::write(&disk.join(format!("d{number}/snapshots/v1.xml")), &content);
    }
    fs::create_dir(home.at("disk")).unwrap();
    then(&home, &["--bind", disk.to_str().unwrap()]);
}

/// Waits until `status` lists the projects that are kept.
fn wait_kept(home: &Home, reason: &str) {
    wait_until("the kept projects", || {
        let listed = home.json(&["status"])["incomplete"].to_string();
        listed.contains(reason).then_some(())
    });
}

fn projects_on_an_unmounted_file_system_are_kept(backend: &str) {
    let test = "projects_on_an_unmounted_file_system_are_kept";
    with_a_disk(backend, test, |home, disk| {
        let mounted = Mount::new(disk, home.at("disk")).unwrap();
        let daemon = home.start();
        drop(mounted);
        wait_kept(home, "its file system is not mounted");
        daemon.fence();
        // Other projects go on, and removals in them count.
        home.remove_all("sales/p3");
        daemon.wait_message("Project Delete and Unpublish", 1);
        assert_eq!(daemon.events().len(), 2);
        assert!(daemon.terminate().success());
        // Nor is it a removal for the next start.
        let scanned = home.json(&["scan"]).to_string();
        assert!(!scanned.contains("project-delete"), "{scanned}");
        let daemon = home.start();
        daemon.fence();
        wait_kept(home, "its file system is not mounted");
        assert_eq!(daemon.events(), [""; 0]);
        let mounted = Mount::new(disk, home.at("disk")).unwrap();
        wait_until("nothing kept", || {
            let listed = home.json(&["status"])["incomplete"].to_string();
            (listed == "[]").then_some(())
        });
        expect_snapshot(home, &daemon, "disk/d1", "later");
        home.remove_all("disk/d2");
        daemon.wait_message("Project Delete", 1);
        daemon.fence();
        let expected = ["Snapshot Create disk/d1", "Project Delete disk/d2"];
        assert_eq!(daemon.events(), expected);
        drop(mounted);
    });
}

fn projects_under_another_mount_are_kept(backend: &str) {
    let test = "projects_under_another_mount_are_kept";
    with_a_disk(backend, test, |home, _| {
        let daemon = home.start();
        let empty = Mount::new(&["-t", "tmpfs", "tmpfs"], home.at("sales")).unwrap();
        wait_kept(home, "another file system is mounted there");
        add_project(home, "sales/other", 99);
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        drop(empty);
        daemon.fence();
        expect_snapshot(home, &daemon, "sales/p0", "later");
        // One over a directory of a project hides that directory alone.
        let empty = Mount::new(&["-t", "tmpfs", "tmpfs"], home.at("sales/p0/snapshots")).unwrap();
        wait_kept(home, "sales/p0/snapshots");
        daemon.fence();
        assert_eq!(daemon.events(), ["Snapshot Create sales/p0"]);
        drop(empty);
        wait_until("nothing kept", || {
            let listed = home.json(&["status"])["incomplete"].to_string();
            (listed == "[]").then_some(())
        });
        daemon.fence();
        assert_eq!(daemon.events(), ["Snapshot Create sales/p0"]);
    });
}

fn projects_of_a_mount_point_that_is_removed_and_made_again_are_kept(backend: &str) {
    let test = "projects_of_a_mount_point_that_is_removed_and_made_again_are_kept";
    with_a_disk(backend, test, |home, disk| {
        let mounted = Mount::new(disk, home.at("disk")).unwrap();
        let daemon = home.start();
        // As programs do that mount and unmount.
        drop(mounted);
        fs::remove_dir(home.at("disk")).unwrap();
        wait_kept(home, "the mount point was removed");
        daemon.fence();
        assert!(daemon.terminate().success());
        let daemon = home.start();
        wait_kept(home, "the mount point was removed");
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        fs::create_dir(home.at("disk")).unwrap();
        let mounted = Mount::new(disk, home.at("disk")).unwrap();
        wait_until("nothing kept", || {
            let listed = home.json(&["status"])["incomplete"].to_string();
            (listed == "[]").then_some(())
        });
        expect_snapshot(home, &daemon, "disk/d1", "later");
        daemon.fence();
        assert_eq!(daemon.events(), ["Snapshot Create disk/d1"]);
        drop(mounted);
    });
}

fn projects_of_a_removed_mount_point_are_deleted(backend: &str) {
    let test = "projects_of_a_removed_mount_point_are_deleted";
    with_a_disk_and(backend, test, "2s", |home, disk| {
        let mounted = Mount::new(disk, home.at("disk")).unwrap();
        let daemon = home.start();
        drop(mounted);
        wait_kept(home, "its file system is not mounted");
        fs::remove_dir(home.at("disk")).unwrap();
        wait_kept(home, "the mount point was removed");
        daemon.wait_message("Project Delete", 3);
        daemon.fence();
        let expected = [0, 1, 2].map(|number| format!("Project Delete disk/d{number}"));
        assert_eq!(sorted(daemon.events()), expected);
    });
}

/// Copies the repository to a directory beside it, with the projects of the disk, but without mounts.
fn copy_with_disk(home: &Home, name: &str) {
    let (from, disk, to) = (home.at(""), home.beside("disk"), home.beside(name));
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (from, disk, to) = (text(&from), text(&disk), text(&to));
    assert!(succeeds("cp", &["-a", &from, &to]));
    assert!(succeeds("cp", &["-a", &disk, &to]));
}

/// Waits for the end of a full scan with this reason. Then unmounts the disk, whose projects are kept.
fn expect_kept_after(reason: &str, home: &Home, daemon: &Daemon<'_>) {
    daemon.wait_log("a full scan of the new root", |entry| {
        entry.message() == "full scan finished" && entry.field("reason") == reason
    });
    let disk = home.at("disk");
    assert!(succeeds("umount", &["-l", disk.to_str().unwrap()]));
    wait_kept(home, "its file system is not mounted");
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
}

/// No mount changes between the start and the end of the scan of the new root.
fn projects_on_a_mount_below_the_root_of_a_reload_are_kept(backend: &str) {
    let test = "projects_on_a_mount_below_the_root_of_a_reload_are_kept";
    with_a_disk(backend, test, |home, disk| {
        copy_with_disk(home, "old");
        let _mounted = Mount::new(disk, home.at("disk")).unwrap();
        let config = fs::read_to_string(home.config()).unwrap();
        let old = config.replace("./repository", "./old");
        fs::write(home.config(), old).unwrap();
        let daemon = home.start();
        fs::write(home.config(), config).unwrap();
        assert!(daemon.reload());
        expect_kept_after("reload", home, &daemon);
    });
}

/// As a deployment does that exchanges directories. The kernel reports no change of the mounts.
fn projects_on_a_mount_below_a_renamed_root_are_kept(backend: &str) {
    let test = "projects_on_a_mount_below_a_renamed_root_are_kept";
    with_a_disk(backend, test, |home, disk| {
        copy_with_disk(home, "old");
        let new = home.beside("new");
        fs::rename(home.at(""), &new).unwrap();
        fs::rename(home.beside("old"), home.at("")).unwrap();
        let _mounted = Mount::new(disk, new.join("disk")).unwrap();
        let daemon = home.start();
        fs::rename(home.at(""), home.beside("old")).unwrap();
        fs::rename(&new, home.at("")).unwrap();
        expect_kept_after("root", home, &daemon);
    });
}

fn a_mount_below_a_renamed_directory_is_the_same_mount(backend: &str) {
    let test = "a_mount_below_a_renamed_directory_is_the_same_mount";
    with_a_disk(backend, test, |home, _| {
        // The snapshots are on a file system of their own.
        fs::create_dir(home.beside("snapshots")).unwrap();
        let from = home.beside("snapshots");
        let bind = ["--bind", from.to_str().unwrap()];
        let content = xml("p", "e0", "of the mount");
        super::common::write(&from.join("m1.xml"), &content);
        let mounted = Mount::new(&bind, home.at("sales/p0/snapshots")).unwrap();
        let daemon = home.start();
        // The list of mounts does not change.
        home.rename("sales/p0", "sales/q0");
        expect_snapshot(home, &daemon, "sales/q0", "m2");
        assert_watched(home, &daemon, test);
        drop(mounted);
        assert!(succeeds(
            "umount",
            &["-l", home.at("sales/q0/snapshots").to_str().unwrap()]
        ));
        wait_kept(home, "its file system is not mounted");
        assert_watched(home, &daemon, test);
        daemon.fence();
        assert_eq!(daemon.events(), ["Snapshot Create sales/q0"]);
    });
}
