//! Usernames: a user directory that fails or hangs gives no wrong name and stops nothing.
//!
//! The daemon runs with a module of the C library's name service that the tests control.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Daemon, Endpoint, Home, Run as _, Settings, skip, succeeds, wait_health, xml};
use rustix::process::Signal;

const SOCKET: &str = "admin: { listen: \"unix:./admin.sock\" }";

/// A user that only the module knows.
const UID: u32 = 424_242;

/// The module. The file `MODE` says how it answers: `fail`, `hang`, or `answer` with the name `ann`.
const MODULE: &str = r#"
#include <errno.h>
#include <nss.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char mode(void) {
    FILE *file = fopen(MODE, "r");
    int first = file ? fgetc(file) : 'f';
    if (file) fclose(file);
    return first;
}

enum nss_status _nss_tested_getpwuid_r(uid_t uid, struct passwd *user, char *buffer, size_t size,
                                       int *error) {
    if (uid != 424242) return NSS_STATUS_NOTFOUND;
    while (mode() == 'h') usleep(1000);
    if (mode() == 'f' || size < 16) {
        *error = size < 16 ? ERANGE : ECONNREFUSED;
        return size < 16 ? NSS_STATUS_TRYAGAIN : NSS_STATUS_UNAVAIL;
    }
    strcpy(buffer, "ann");
    strcpy(buffer + 8, "/");
    user->pw_name = buffer;
    user->pw_passwd = user->pw_gecos = buffer + 3;
    user->pw_dir = user->pw_shell = buffer + 8;
    user->pw_uid = user->pw_gid = uid;
    return NSS_STATUS_SUCCESS;
}
"#;

/// Runs the command at `$@` with the file `$0` as the configuration of the name service.
const WITH_MODULE: &str = "mount --bind \"$0\" /etc/nsswitch.conf && exec \"$@\"";

/// A repository, and a user directory that the test controls.
struct Directory {
    home: Home,
}

impl Directory {
    /// Compiles the module. Returns `None` if this machine cannot.
    fn new(test: &str, endpoint: &Endpoint) -> Option<Self> {
        let can_mount = "mount --bind /etc/nsswitch.conf /etc/nsswitch.conf";
        if !succeeds("unshare", &["--mount", "sh", "-c", can_mount]) {
            skip(test, "needs mount namespaces (root) and /etc/nsswitch.conf");
            return None;
        }
        let mut settings = Settings::all_to(endpoint).top(SOCKET);
        settings.username = "[owner, \"value:nobody-knows\"]";
        let home = Home::new(&settings);
        let directory = Self { home };
        directory.answers("fail");
        let (source, module) = (directory.at("module.c"), directory.at("libnss_tested.so.2"));
        fs::write(&source, MODULE).unwrap();
        fs::write(directory.at("nsswitch.conf"), "passwd: files tested\n").unwrap();
        let mode = format!("-DMODE=\"{}\"", directory.at("mode").display());
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", &mode, "-o"])
            .args([&module, &source])
            .ended();
        if !compiled.is_ok_and(|status| status.success()) {
            skip(test, "needs a C compiler (gcc, libc6-dev)");
            return None;
        }
        Some(directory)
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.home.beside(name)
    }

    fn answers(&self, mode: &str) {
        fs::write(self.at("mode.new"), mode).unwrap();
        fs::rename(self.at("mode.new"), self.at("mode")).unwrap();
    }

    fn start(&self) -> Daemon<'_> {
        let run = Daemon::command(&self.home);
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", WITH_MODULE])
            .arg(self.at("nsswitch.conf"))
            .arg(run.get_program())
            .args(run.get_args())
            .current_dir("/")
            .env_remove("NOTIFY_SOCKET")
            .env("LD_LIBRARY_PATH", self.home.path());
        let daemon = Daemon::launch(&self.home, command);
        daemon.wait_ready();
        daemon
    }

    /// Imports a project of a user in one step.
    fn import(&self, project: &str, uid: u32) {
        let made = self.at("made");
        common::write(&made.join("project.xml"), &xml(project, project, "a"));
        std::os::unix::fs::chown(made.join("project.xml"), Some(uid), None).unwrap();
        fs::create_dir_all(self.home.at("sales")).unwrap();
        rename(&made, &self.home.at(&format!("sales/{project}")));
    }
}

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}

/// The username of the callback with this event and project.
fn username(endpoint: &Endpoint, event: &str, project: &str) -> String {
    let callback = endpoint.wait_for_one(&format!("{event} of {project}"), |one| {
        one.event == event && one.parameter("projectName") == Some(project)
    });
    callback.parameter("username").unwrap().to_owned()
}

const IMPORT: &str = "project-import-any";

#[test]
fn a_failing_user_directory_is_no_answer_and_the_name_is_found_later() {
    let endpoint = Endpoint::new();
    let test = "a_failing_user_directory_is_no_answer_and_the_name_is_found_later";
    let Some(directory) = Directory::new(test, &endpoint) else {
        return;
    };
    let daemon = directory.start();
    directory.import("first", UID);
    assert_eq!(username(&endpoint, IMPORT, "first"), "nobody-knows");
    directory.import("other", 0);
    assert_eq!(username(&endpoint, IMPORT, "other"), "root");
    daemon.wait_message("cannot look up the name of a user", 1);

    // Once the directory answers, the record has the name, and the later delete too.
    directory.answers("answer");
    daemon.wait_log("a scan for owners", |entry| {
        entry.message() == "full scan finished" && entry.field("reason") == "owners"
    });
    directory.home.remove_all("sales/first");
    assert_eq!(username(&endpoint, "project-delete", "first"), "ann");
    assert_eq!(daemon.n_messages("cannot look up the name of a user"), 1);
    directory.import("last", UID);
    assert_eq!(username(&endpoint, IMPORT, "last"), "ann");
    // A known name is not forgotten when the directory fails again.
    directory.answers("fail");
    directory.home.remove_all("sales/last");
    assert_eq!(username(&endpoint, "project-delete", "last"), "ann");
}

#[test]
fn a_hanging_user_directory_stops_neither_inference_nor_the_end() {
    let endpoint = Endpoint::new();
    let test = "a_hanging_user_directory_stops_neither_inference_nor_the_end";
    let Some(directory) = Directory::new(test, &endpoint) else {
        return;
    };
    directory.answers("hang");
    let daemon = directory.start();
    for project in ["a", "b", "c"] {
        directory.import(project, UID);
        assert_eq!(username(&endpoint, IMPORT, project), "nobody-knows");
    }
    directory.import("d", 0);
    assert_eq!(username(&endpoint, IMPORT, "d"), "root");
    wait_health(&directory.home, "/healthz", 200);
    wait_health(&directory.home, "/readyz", 200);
    daemon.signal(Signal::HUP);
    daemon.wait_message("the configuration is applied", 1);
    assert_eq!(daemon.terminate().code(), Some(0));
}
