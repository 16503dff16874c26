//! The root is removed, returns, or is replaced. Nothing is inferred from that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::common::{Daemon, Endpoint, Home, Run as _, Settings, wait_health, xml};
use super::{Mount, is_root, projects, unprivileged};

/// A daemon that watches four projects, with a health endpoint.
fn watched(test: impl FnOnce(&Home, &Daemon<'_>, &Endpoint)) {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .repository("poll_interval: 1s")
        .top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    projects(&home, 4);
    let daemon = home.start();
    wait_health(&home, "/readyz", 200);
    test(&home, &daemon, &endpoint);
    // The root is watched again, and nothing was inferred.
    wait_health(&home, "/readyz", 200);
    wait_health(&home, "/healthz", 200);
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
    home.write("sales/after/project.xml", &xml("After", "e-after", ""));
    endpoint.wait_for(2);
}

/// The root is lost: the daemon lives, is not ready, and `status` says why.
fn wait_lost(home: &Home) {
    wait_health(home, "/readyz", 503);
    wait_health(home, "/healthz", 200);
    let status = home.json(&["status"]);
    let troubles = status["troubles"].to_string();
    assert!(troubles.contains("root"), "{status:#}");
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .ended()
        .unwrap();
    assert!(copied.success());
}

#[test]
fn renamed_away_and_back() {
    watched(|home, _, _| {
        for _ in 0..3 {
            fs::rename(home.at(""), home.beside("away")).unwrap();
            wait_lost(home);
            fs::rename(home.beside("away"), home.at("")).unwrap();
            wait_health(home, "/readyz", 200);
        }
    });
}

#[test]
fn removed_and_recreated() {
    watched(|home, daemon, _| {
        copy(&home.at(""), &home.beside("backup"));
        // Removed file by file, which is the one thing that looks like what it is; but the root
        // goes with it before the removals count.
        fs::rename(home.at(""), home.beside("away")).unwrap();
        fs::remove_dir_all(home.beside("away")).unwrap();
        wait_lost(home);
        fs::create_dir(home.at("")).unwrap();
        daemon.wait_message("is not the directory that was watched before", 1);
        wait_lost(home);
        // Restored from a backup, into the directory that is there now.
        for entry in fs::read_dir(home.beside("backup")).unwrap() {
            copy(&entry.unwrap().path(), &home.at(""));
        }
    });
}

#[test]
fn replaced_by_another_directory() {
    watched(|home, daemon, _| {
        fs::create_dir_all(home.beside("other/hr/p")).unwrap();
        fs::write(
            home.beside("other/hr/p/project.xml"),
            xml("Other", "o-1", ""),
        )
        .unwrap();
        fs::rename(home.at(""), home.beside("away")).unwrap();
        fs::rename(home.beside("other"), home.at("")).unwrap();
        daemon.wait_message("is not the directory that was watched before", 1);
        wait_lost(home);
        fs::rename(home.at(""), home.beside("other")).unwrap();
        fs::rename(home.beside("away"), home.at("")).unwrap();
    });
}

#[test]
fn its_parent_renamed_away_and_back() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .repository("poll_interval: 1s")
        .top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    fs::create_dir(home.beside("parent")).unwrap();
    projects(&home, 4);
    fs::rename(home.at(""), home.beside("parent/repository")).unwrap();
    let config = fs::read_to_string(home.config()).unwrap();
    let config = config.replace("./repository", "./parent/repository");
    fs::write(home.config(), config).unwrap();
    let daemon = home.start();
    fs::rename(home.beside("parent"), home.beside("elsewhere")).unwrap();
    wait_lost(&home);
    // Changes made in the meantime are found when it is back.
    fs::remove_dir_all(home.beside("elsewhere/repository/sales/p1")).unwrap();
    fs::rename(home.beside("elsewhere"), home.beside("parent")).unwrap();
    wait_health(&home, "/readyz", 200);
    assert_eq!(
        endpoint.take_events(2),
        ["project-delete", "project-delete-and-unpublish"]
    );
    assert_eq!(daemon.events().len(), 2);
}

#[test]
fn unmounted_and_mounted_again() {
    const TEST: &str = "a root that is unmounted and mounted again";
    if !is_root(TEST) {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint)
        .repository("poll_interval: 1s")
        .top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    projects(&home, 4);
    fs::rename(home.at(""), home.beside("disk")).unwrap();
    fs::create_dir(home.at("")).unwrap();
    let disk = home.beside("disk");
    let bind = ["--bind", disk.to_str().unwrap()];
    let Some(mounted) = Mount::new(&bind, &home.at("")) else {
        return super::skip(TEST, "mounting is not allowed");
    };
    let daemon = home.start();
    drop(mounted);
    wait_lost(&home);
    let mounted = Mount::new(&bind, &home.at("")).expect("mounts again");
    wait_health(&home, "/readyz", 200);
    // Another file system is mounted over it, and goes.
    let over = Mount::new(&["-t", "tmpfs", "tmpfs"], &home.at("")).expect("mounts");
    wait_lost(&home);
    drop(over);
    wait_health(&home, "/readyz", 200);
    assert_eq!(daemon.events(), [""; 0]);
    home.write("sales/after/project.xml", &xml("After", "e-after", ""));
    endpoint.wait_for(2);
    assert_eq!(endpoint.n(), 2);
    drop(daemon);
    drop(mounted);
}

#[test]
fn moved_to_another_file_system() {
    const TEST: &str = "a root that is moved to another file system";
    if !is_root(TEST) {
        return;
    }
    watched(|home, _, _| {
        let new = home.beside("new");
        fs::create_dir(&new).unwrap();
        let Some(mounted) = Mount::new(&["-t", "tmpfs", "tmpfs"], &new) else {
            return super::skip(TEST, "mounting is not allowed");
        };
        for entry in fs::read_dir(home.at("")).unwrap() {
            copy(&entry.unwrap().path(), &new);
        }
        // The same files on another device, in the place of the old ones.
        fs::rename(home.at(""), home.beside("old")).unwrap();
        wait_lost(home);
        std::os::unix::fs::symlink(&new, home.beside("repository")).unwrap();
        wait_health(home, "/readyz", 200);
        // And back, since what is mounted goes with this test.
        fs::remove_file(home.beside("repository")).unwrap();
        fs::rename(home.beside("old"), home.beside("repository")).unwrap();
        wait_health(home, "/readyz", 200);
        drop(mounted);
    });
}

#[test]
fn not_readable_any_more_and_readable_again() {
    let endpoint = Endpoint::new();
    let settings = Settings::all_to(&endpoint).top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    projects(&home, 4);
    let Some(command) = unprivileged(&home, "a root that may not be read") else {
        return;
    };
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    let mode = |mode: u32| {
        fs::set_permissions(home.at(""), fs::Permissions::from_mode(mode)).unwrap();
    };
    // Neither is enough: to read it without entering it, and to enter it without reading it.
    for not_enough in [0o000, 0o444, 0o111] {
        mode(not_enough);
        wait_lost(&home);
        let status = home.json(&["status"]);
        let trouble = status["troubles"]["root"].to_string();
        assert!(trouble.contains("cannot be read"), "{trouble}");
        mode(0o755);
        wait_health(&home, "/readyz", 200);
    }
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
}
