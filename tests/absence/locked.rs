//! Encrypted directories whose key is removed and added again: fscrypt of the kernel, on ext4.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::{self, Daemon, Endpoint, Home, Run as _, on_both_backends, skip, wait_until};
use crate::{events, names, project, projects, settings};

on_both_backends!(
    an_encrypted_organization_that_is_locked_deletes_nothing,
    names_that_look_encrypted_are_readable_with_the_key,
    copies_in_locked_directories_are_kept,
);

/// Adds a key, encrypts empty directories with it, or removes the key, by ioctl(2).
///
/// The numbers and structures are those of `linux/fscrypt.h`. A key is known by its identifier.
/// `remove` prints whether files are still in use, such as watched directories.
const FSCRYPT: &str = r#"
import fcntl, os, struct, sys

def call(path, direction, number, argument):
    argument = bytearray(argument)
    directory = os.open(path, os.O_RDONLY)
    size = 12 if number == 19 else len(argument[:80])
    fcntl.ioctl(directory, direction << 30 | size << 16 | ord("f") << 8 | number, argument)
    os.close(directory)
    return bytes(argument)

def spec(identifier):
    return struct.pack("<II32s", 2, 0, identifier)

action, mounted, *directories = sys.argv[1:]
key = b"k" * 64
added = call(mounted, 3, 23, spec(b"") + struct.pack("<II", len(key), 0) + bytes(32) + key)
identifier = added[8:24]
for directory in directories:
    policy = struct.pack("<BBBBB3s16s", 2, 1, 4, 3, 0, b"", identifier)
    call(directory, 2, 19, policy)
if action == "remove":
    removed = call(mounted, 3, 24, spec(identifier) + bytes(24))
    print("busy" if struct.unpack("<I", removed[40:44])[0] & 1 else "removed")
"#;

/// An ext4 file system in a mount namespace of this thread.
struct Disk(PathBuf);

impl Disk {
    /// Makes one with these encrypted directories, or skips the test.
    fn new(home: &Home, test: &str, encrypted: &[&str]) -> Option<Self> {
        let image = home.beside("image");
        let image = image.to_str().unwrap();
        let at = home.at("");
        let disk = Self(at.clone());
        let is_made = common::own_mounts(test)
            && common::succeeds("truncate", &["-s", "64M", image])
            && common::succeeds(
                "mke2fs",
                &["-q", "-F", "-t", "ext4", "-O", "encrypt", image],
            )
            && common::succeeds("mount", &["-o", "loop", image, at.to_str().unwrap()]);
        let encrypted: Vec<PathBuf> = encrypted.iter().map(|path| home.at(path)).collect();
        if is_made {
            for directory in &encrypted {
                fs::create_dir_all(directory).unwrap();
            }
        }
        if !is_made || disk.run("encrypt", &encrypted).is_none() {
            skip(
                test,
                "needs root, python3, and ext4 with encryption on a loop device",
            );
            return None;
        }
        Some(disk)
    }

    /// Runs an action. Returns what it prints, or None if it failed.
    fn run(&self, action: &str, directories: &[PathBuf]) -> Option<String> {
        let mut command = Command::new("python3");
        command.args(["-c", FSCRYPT, action]).arg(&self.0);
        let output = command.args(directories).run().ok()?;
        let printed = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| printed.trim().to_owned())
    }

    /// Removes the key, while nobody uses the directory.
    fn lock(&self) {
        // A program that just ended may still use it for a moment.
        wait_until("the end of the key", || {
            (self.run("remove", &[])? == "removed").then_some(())
        });
    }

    /// Removes the key, while the daemon watches the directory.
    ///
    /// Then the names stay, and files that nobody has open cannot be opened.
    fn lock_in_use(&self) {
        assert_eq!(self.run("remove", &[]).as_deref(), Some("busy"));
    }

    fn unlock(&self) {
        assert!(self.run("add", &[]).is_some());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        common::succeeds("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

fn snapshot(home: &Home, of: &str, tag: &str) {
    let content = common::xml("p000", "e-p000", tag);
    home.write(&format!("{of}/snapshots/{tag}.xml"), &content);
}

/// Waits until the status lists exactly these paths as unreadable, and the daemon has judged
/// everything since.
fn wait_unreadable(home: &Home, daemon: &Daemon<'_>, paths: &[&str]) {
    wait_until(&format!("only these are unreadable: {paths:?}"), || {
        let status = home.json(&["status"]);
        let listed = status["incomplete"].as_array().unwrap().iter();
        // Each project of a directory lists it.
        let listed: BTreeSet<&str> = listed.map(|one| one["path"].as_str().unwrap()).collect();
        let is_held = !status["heldRemovals"].is_null();
        assert!(!is_held, "{status}");
        listed.into_iter().eq(paths.iter().copied()).then_some(())
    });
    daemon.fence();
}

fn an_encrypted_organization_that_is_locked_deletes_nothing(backend: &str) {
    const TEST: &str = "an_encrypted_organization_that_is_locked_deletes_nothing";
    let endpoint = Endpoint::new();
    let settings = settings(&endpoint, backend).repository("poll_interval: 200ms");
    let home = Home::new(&settings.repository("mass_delete_after: 300ms"));
    let Some(disk) = Disk::new(&home, TEST, &["sales"]) else {
        return;
    };
    projects(&home, names(12));
    home.start().terminate();

    // Locked at the start: the names are others, and nothing can be opened.
    disk.lock();
    assert!(!home.at("sales/p000").exists());
    let daemon = home.start();
    wait_unreadable(&home, &daemon, &["sales"]);
    let status = home.json(&["status"]);
    let uncovered = &status["coverage"]["directories"][0];
    assert_eq!(uncovered["path"], "sales", "{status}");
    let reason = uncovered["reason"].as_str().unwrap();
    assert!(reason.contains("key not available"), "{reason}");
    disk.unlock();
    wait_unreadable(&home, &daemon, &[]);
    snapshot(&home, "sales/p000", "unlocked-1");
    endpoint.wait_for(1);

    // Locked while it runs.
    disk.lock_in_use();
    assert!(fs::read(home.at("sales/p000/project.xml")).is_err());
    let n_scans = daemon.n_messages("full scan finished");
    daemon.signal(rustix::process::Signal::USR1);
    daemon.wait_message("full scan finished", n_scans + 1);
    daemon.fence();
    disk.unlock();
    snapshot(&home, "sales/p000", "unlocked-2");
    endpoint.wait_for(2);

    // It ends and is started again while nothing can be read.
    assert!(daemon.terminate().success());
    disk.lock();
    let daemon = home.start();
    wait_unreadable(&home, &daemon, &["sales"]);
    disk.unlock();
    project(&home, "new");
    endpoint.wait_for(6);
    wait_unreadable(&home, &daemon, &[]);
    let last = [
        "project-import",
        "project-import-any",
        "snapshot-create",
        "project-publish",
    ];
    assert_eq!(events(&endpoint)[..2], ["snapshot-create"; 2]);
    assert_eq!(events(&endpoint)[2..], last);
    assert!(daemon.terminate().success());
}

/// The definition can be read, and its copies cannot: they are neither removed nor new later.
fn copies_in_locked_directories_are_kept(backend: &str) {
    const TEST: &str = "copies_in_locked_directories_are_kept";
    const HIDDEN: [&str; 3] = [
        "sales/p000/published",
        "sales/p000/snapshots",
        "sales/p001/published/v1",
    ];
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    let Some(disk) = Disk::new(&home, TEST, &HIDDEN) else {
        return;
    };
    projects(&home, names(2));
    home.start().terminate();
    disk.lock();
    for _ in 0..2 {
        let daemon = home.start();
        wait_unreadable(&home, &daemon, &HIDDEN);
        assert!(daemon.terminate().success());
    }
    let daemon = home.start();
    disk.unlock();
    wait_unreadable(&home, &daemon, &[]);
    assert_eq!(events(&endpoint), [""; 0]);
    // With the key, removed files count as removed.
    home.remove_all("sales/p000/published");
    home.remove("sales/p000/project.xml");
    endpoint.wait_for(2);
    daemon.fence();
    let removed = ["project-delete", "project-delete-and-unpublish"];
    assert_eq!(events(&endpoint), removed);
    assert!(daemon.terminate().success());
}

/// Directories whose names have the form of encrypted ones, some of them empty.
fn names_that_look_encrypted_are_readable_with_the_key(backend: &str) {
    const TEST: &str = "names_that_look_encrypted_are_readable_with_the_key";
    let long = |n: usize| format!("0b6c1d3e9a574a3f8d511f0c3c6f{n:04}");
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    let Some(disk) = Disk::new(&home, TEST, &["sales"]) else {
        return;
    };
    let daemon = home.start();
    for n in 0..12 {
        fs::create_dir(home.at("sales").join(long(n))).unwrap();
    }
    let project = format!("sales/{}", long(20));
    let tag = format!("{project}/published/{}", long(21));
    let content = |text| common::xml("p", "e-p", text);
    home.write(&format!("{project}/project.xml"), &content("one"));
    home.write(&format!("{tag}/project.xml"), &content("one"));
    endpoint.wait_for(3);
    // The directory of the tag stays, and a directory without files has no key to miss.
    home.remove(&format!("{tag}/project.xml"));
    home.remove(&format!("{project}/project.xml"));
    endpoint.wait_for(5);
    let removed = ["project-delete", "project-delete-and-unpublish"];
    assert_eq!(events(&endpoint)[3..], removed);
    // Locked while a file is there: it is neither removed nor new.
    home.write(&format!("{project}/project.xml"), &content("two"));
    endpoint.wait_for(7);
    assert!(daemon.terminate().success());
    disk.lock();
    let daemon = home.start();
    wait_unreadable(&home, &daemon, &["sales"]);
    disk.unlock();
    wait_unreadable(&home, &daemon, &[]);
    assert_eq!(endpoint.n(), 7);
    assert!(daemon.terminate().success());
}

/// Without watches, nothing keeps the names while the daemon runs.
#[test]
fn an_encrypted_directory_that_is_locked_between_scans_deletes_nothing() {
    const TEST: &str = "an_encrypted_directory_that_is_locked_between_scans_deletes_nothing";
    let endpoint = Endpoint::new();
    let settings = settings(&endpoint, "poll").repository("poll_interval: 100ms");
    let home = Home::new(&settings.repository("mass_delete_after: 300ms"));
    let hidden = ["hr/p000/snapshots", "sales"];
    let Some(disk) = Disk::new(&home, TEST, &hidden) else {
        return;
    };
    projects(&home, names(3));
    let content = common::xml("p000", "e-hr", "one");
    home.write("hr/p000/project.xml", &content);
    snapshot(&home, "hr/p000", "s1");
    let daemon = home.start();
    for _ in 0..2 {
        disk.lock();
        wait_unreadable(&home, &daemon, &hidden);
        disk.unlock();
        wait_unreadable(&home, &daemon, &[]);
    }
    assert_eq!(events(&endpoint), [""; 0]);
    assert!(daemon.terminate().success());
}
