//! Held removals and another layout.

use std::fs;
use std::path::Path;

use crate::common::{
    Daemon, Endpoint, Home, Settings, own_mounts, skip, succeeds, wait_until, xml,
};
use crate::{names, projects, settings, vanish, wait_held, wait_not_held};

const OTHER_LAYOUT: &str =
    "layout: { snapshot: \"{organization}/{project}/old/{versionTag}.xml\" }";

#[test]
fn a_reload_with_another_layout_is_refused_while_removals_are_held() {
    for (n, n_projects, cause) in [(12, 12, "all"), (12, 20, "more-than-half")] {
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, "auto").repository("mass_delete_after: 1h");
        let home = Home::new(&settings);
        projects(&home, names(n_projects));
        let daemon = home.start();
        vanish(&home, &daemon, names(n));
        wait_held(&home, n, cause);
        home.reconfigure(&settings.clone().repository(OTHER_LAYOUT));
        assert!(!daemon.reload(), "{cause}");
        daemon.wait_message("or run `project-webhooks accept`, and then reload", 1);
        wait_held(&home, n, cause);
        // Nothing changed, so the deletes are sent once they are accepted. Then the layout may change.
        assert_eq!(home.json(&["accept", "--yes"])["released"], n);
        endpoint.wait_for(2 * n);
        wait_not_held(&home);
        assert!(daemon.reload(), "{cause}");
        daemon.wait_message("existing projects are recorded without events", 1);
        assert_eq!(endpoint.n(), 2 * n);
    }
}

#[test]
fn a_start_with_another_layout_is_refused_while_removals_are_held() {
    for (n, n_projects, cause) in [(3, 3, "all"), (12, 20, "more-than-half")] {
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, "auto").repository("mass_delete_after: 1h");
        let home = Home::new(&settings);
        projects(&home, names(n_projects));
        let daemon = home.start();
        vanish(&home, &daemon, names(n));
        wait_held(&home, n, cause);
        daemon.terminate();
        home.configure(&settings.clone().repository(OTHER_LAYOUT));
        let mut daemon = Daemon::launch(&home, Daemon::command(&home));
        assert_eq!(daemon.wait_exit().code(), Some(78), "{cause}");
        assert_eq!(daemon.n_messages("or run `project-webhooks accept`"), 1);
        // Nothing is lost.
        home.configure(&settings);
        let daemon = home.start();
        wait_held(&home, n, cause);
        assert_eq!(home.json(&["accept", "--yes"])["released"], n);
        endpoint.wait_for(2 * n);
        daemon.fence();
        assert_eq!(endpoint.n(), 2 * n);
    }
}

/// The directory of the repository that an empty directory replaces.
#[derive(Clone, Copy, Debug)]
enum Absent {
    /// The root.
    Root,
    /// A mounted organization, with all recorded projects.
    Mount,
}

impl Absent {
    /// A repository with twelve projects, and what has to be mounted for that.
    fn prepare(self, home: &Home) -> Option<()> {
        projects(home, names(12));
        if let Self::Mount = self {
            if !own_mounts("another layout without its mount") {
                return None;
            }
            fs::rename(home.at("sales"), home.beside("disk")).unwrap();
            fs::create_dir(home.at("sales")).unwrap();
        }
        self.comes(home);
        Some(())
    }

    fn goes(self, home: &Home) {
        match self {
            Self::Root => {
                fs::rename(home.at(""), home.beside("away")).unwrap();
                fs::create_dir(home.at("")).unwrap();
            }
            Self::Mount => assert!(succeeds("umount", &[path(&home.at("sales"))])),
        }
    }

    fn comes(self, home: &Home) {
        match self {
            Self::Root if home.beside("away").exists() => {
                fs::remove_dir(home.at("")).unwrap();
                fs::rename(home.beside("away"), home.at("")).unwrap();
            }
            Self::Root => {}
            Self::Mount => {
                let (disk, at) = (home.beside("disk"), home.at("sales"));
                assert!(succeeds("mount", &["--bind", path(&disk), path(&at)]));
            }
        }
    }

    /// The message that says why nothing is inferred.
    fn reason(self) -> &'static str {
        match self {
            Self::Root => "is not the directory that was watched before",
            Self::Mount => "its file system is not mounted",
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn settings_of_layouts(endpoint: &Endpoint) -> Settings {
    settings(endpoint, "auto").repository("poll_interval: 1s")
}

#[test]
fn a_start_with_another_layout_waits_for_the_repository() {
    for absent in [Absent::Root, Absent::Mount] {
        let endpoint = Endpoint::new();
        let settings = settings_of_layouts(&endpoint);
        let home = Home::new(&settings);
        let Some(()) = absent.prepare(&home) else {
            return;
        };
        home.start().terminate();
        absent.goes(&home);
        home.configure(&settings.repository(OTHER_LAYOUT));
        let daemon = Daemon::launch(&home, Daemon::command(&home));
        daemon.wait_message(absent.reason(), 1);
        wait_until("a reason in the status", || {
            home.json(&["status"])["troubles"]["root"]
                .is_string()
                .then_some(())
        });
        absent.comes(&home);
        daemon.wait_ready();
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0], "{absent:?}");
        home.write("sales/p000/old/v1.xml", &xml("p000", "e-p000", "v1"));
        endpoint.wait_for_one("the snapshot", |one| one.event == "snapshot-create");
        assert_eq!(endpoint.n(), 1, "{absent:?}");
        drop(daemon);
        if let Absent::Mount = absent {
            absent.goes(&home);
        }
    }
}

#[test]
fn a_reload_with_another_layout_waits_for_the_repository() {
    for absent in [Absent::Root, Absent::Mount] {
        let endpoint = Endpoint::new();
        let settings = settings_of_layouts(&endpoint);
        let home = Home::new(&settings);
        let Some(()) = absent.prepare(&home) else {
            return;
        };
        let daemon = home.start();
        absent.goes(&home);
        daemon.wait_message(absent.reason(), 1);
        home.reconfigure(&settings.repository(OTHER_LAYOUT));
        assert!(daemon.reload(), "{absent:?}");
        daemon.wait_message("new repository.layout waits", 1);
        // The change is recorded under the old layout.
        let removed = match absent {
            Absent::Root => "away/sales/p000",
            Absent::Mount => "disk/p000",
        };
        fs::remove_dir_all(home.beside(removed)).unwrap();
        absent.comes(&home);
        wait_until("a scan under the new layout", || {
            let entries = daemon.entries();
            let mut messages = entries.iter().map(|entry| entry.message());
            messages.find(|text| text.contains("existing projects are recorded without events"))?;
            messages
                .find(|text| *text == "full scan finished")
                .map(drop)
        });
        assert_eq!(
            endpoint.take_events(2),
            ["project-delete", "project-delete-and-unpublish"],
            "{absent:?}"
        );
        daemon.fence();
        assert_eq!(daemon.events().len(), 2, "{absent:?}");
        drop(daemon);
        if let Absent::Mount = absent {
            absent.goes(&home);
        }
    }
}

/// The root cannot be opened for a moment, and then it can.
#[test]
fn a_start_with_another_layout_says_until_the_mount_is_back_that_it_waits() {
    let test = "a_start_with_another_layout_says_until_the_mount_is_back_that_it_waits";
    if !succeeds("prlimit", &["--version"]) {
        return skip(test, "needs prlimit");
    }
    let endpoint = Endpoint::new();
    let settings = settings_of_layouts(&endpoint);
    let home = Home::new(&settings);
    let Some(()) = Absent::Mount.prepare(&home) else {
        return;
    };
    home.start().terminate();
    Absent::Mount.goes(&home);
    home.configure(&settings.repository(OTHER_LAYOUT));
    let daemon = Daemon::launch(&home, Daemon::command(&home));
    let wait_reason = || {
        wait_until("the reason in the status", || {
            let status = home.json(&["status"]);
            let reason = status["troubles"]["root"].as_str()?;
            reason
                .starts_with("the new repository.layout waits for sales: ")
                .then_some(())
        });
    };
    wait_reason();
    let pid = daemon.pid().to_string();
    let limit_descriptors = |n: u32| {
        let limit = format!("--nofile={n}:");
        assert!(succeeds("prlimit", &["--pid", &pid, &limit]), "{limit}");
    };
    // Every new descriptor is refused.
    limit_descriptors(3);
    daemon.wait_message("inference waits until the repository can be opened", 1);
    limit_descriptors(1_024);
    daemon.wait_message("the repository's root can be opened again", 1);
    wait_reason();
}
