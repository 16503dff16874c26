//! Projects that are out of sight: locked, not mounted, or without their source.

use std::fs;
use std::process::Command;

use crate::common::{self, Daemon, Endpoint, Home, on_both_backends, skip};
use crate::{events, names, projects, settings, wait_held, wait_not_held};

on_both_backends!(
    a_repository_that_is_restored_slowly_deletes_nothing,
    a_start_while_a_repository_is_restored_deletes_nothing,
    a_directory_that_is_locked_at_the_start_deletes_nothing,
    a_repository_whose_bind_mount_lost_its_source_deletes_nothing,
);

/// As fscrypt shows a directory without its key: other names, and contents that cannot be read.
fn a_directory_that_is_locked_at_the_start_deletes_nothing(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    projects(&home, names(12));
    home.start().terminate();
    fs::rename(home.at("sales"), home.beside("unlocked")).unwrap();
    for name in names(12) {
        let locked = format!("sKLyFz5,_OWkP+{name}/Sx7NpQ,wGh0uVtJ/4dD_oU8CJc");
        home.write(&locked, "unreadable");
    }
    let daemon = home.start();
    wait_held(&home, 12, "all");
    assert_eq!(events(&endpoint), [""; 0]);
    for name in names(12) {
        home.remove_all(&format!("sKLyFz5,_OWkP+{name}"));
    }
    fs::rename(home.beside("unlocked"), home.at("sales")).unwrap();
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
}

fn a_repository_that_is_restored_slowly_deletes_nothing(backend: &str) {
    let endpoint = Endpoint::new();
    let settings = settings(&endpoint, backend).repository("poll_interval: 200ms");
    let home = Home::new(&settings.repository("mass_delete_after: 1h"));
    projects(&home, names(8));
    let daemon = home.start();
    let away = home.beside("away");
    fs::rename(home.at(""), &away).unwrap();
    fs::create_dir_all(home.at("sales")).unwrap();
    daemon.wait_message("is not the directory that was watched before", 1);
    let restore = |name: String| {
        let at = home.at("sales").join(&name);
        fs::rename(away.join("sales").join(name), at).unwrap();
    };
    // With half of them the root is trusted.
    names(4).for_each(restore);
    wait_held(&home, 4, "more-than-half");
    for (n, name) in names(8).enumerate().skip(4) {
        // Nothing comes for longer than the settle time.
        daemon.fence();
        restore(name);
        match n {
            7 => wait_not_held(&home),
            n => drop(wait_held(&home, 7 - n, "more-than-half")),
        }
    }
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
}

/// No survey found less than half of the projects, because no daemon ran at that time.
fn a_start_while_a_repository_is_restored_deletes_nothing(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend).repository("mass_delete_after: 1h"));
    projects(&home, names(8));
    home.start().terminate();
    let away = home.beside("away");
    fs::rename(home.at(""), &away).unwrap();
    fs::create_dir_all(home.at("sales")).unwrap();
    let restore = |name: String| {
        let at = home.at("sales").join(&name);
        fs::rename(away.join("sales").join(name), at).unwrap();
    };
    names(5).for_each(restore);
    let daemon = home.start();
    wait_held(&home, 3, "more-than-half");
    daemon.fence();
    names(8).skip(5).for_each(restore);
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
}

fn a_repository_whose_bind_mount_lost_its_source_deletes_nothing(backend: &str) {
    const TEST: &str = "a bind mount without its source";
    if !common::succeeds("unshare", &["-m", "true"]) {
        return skip(TEST, "mount namespaces are not allowed");
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    projects(&home, names(12));
    let source = home.beside("source");
    fs::rename(home.at(""), &source).unwrap();
    fs::create_dir(home.at("")).unwrap();
    let run = Daemon::command(&home);
    let mut command = Command::new("unshare");
    command
        .args([
            "-m",
            "sh",
            "-ec",
            "mount --bind \"$0\" \"$1\"; shift; exec \"$@\"",
        ])
        .arg(&source)
        .arg(home.at(""))
        .arg(run.get_program())
        .args(run.get_args())
        .env_remove("NOTIFY_SOCKET");
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    fs::remove_dir_all(&source).unwrap();
    wait_held(&home, 12, "all");
    assert_eq!(events(&endpoint), [""; 0]);
}
