//! Files that cannot be read or are invalid, and a root that is missing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::{home_with_projects, run};
use crate::common::{Daemon, Endpoint, Home, Settings, on_both_backends, sorted, wait_until, xml};

on_both_backends!(
    unreadable_files_are_not_deleted,
    a_root_that_is_renamed_away_and_back_infers_nothing,
    invalid_files_are_not_sent_and_block_nothing,
);

fn unreadable_files_are_not_deleted(backend: &str) {
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 4);
    home.write("hr/leads/project.xml", &xml("Leads", "e-9", ""));
    let mut command = Daemon::command(&home);
    if rustix::process::geteuid().is_root() {
        // Root reads everything, whatever the mode says.
        run(
            home.path(),
            "chmod 755 . && touch daemon.log && chown -R 65534:65534 .",
        );
        let mut unprivileged = Command::new("setpriv");
        unprivileged
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "--",
            ])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir("/");
        command = unprivileged;
    }
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(home.at(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let hidden = [
        "sales/p0",
        "sales/p1/project.xml",
        "sales/p2/published",
        "hr",
    ];
    for path in hidden {
        mode(path, 0);
    }
    // A hinted change, and a full scan.
    home.replace("sales/p2/project.xml", &xml("P2", "e-2", "two"));
    daemon.signal(rustix::process::Signal::USR1);
    daemon.wait_message("full scan finished", 2);
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    for path in hidden {
        mode(path, 0o755);
    }
    // No report tells of the mode; the full scan finds it.
    home.replace("sales/p2/project.xml", &xml("P2", "e-2", "three"));
    daemon.signal(rustix::process::Signal::USR1);
    daemon.wait_message("full scan finished", 3);
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
    home.remove_all("sales/p0");
    assert_eq!(endpoint.take_events(2).len(), 2);
}

fn a_root_that_is_renamed_away_and_back_infers_nothing(backend: &str) {
    const AWAY: &str = "no events are inferred until it is available";
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 4);
    let daemon = home.start();
    fs::rename(home.at(""), home.beside("away")).unwrap();
    daemon.wait_message(AWAY, 1);
    fs::rename(home.beside("away"), home.at("")).unwrap();
    daemon.wait_message("the repository is back", 1);
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    // An empty directory in its place, as where nothing is mounted, proves nothing either.
    fs::rename(home.at(""), home.beside("away")).unwrap();
    fs::create_dir(home.at("")).unwrap();
    daemon.wait_message("is not the directory that was watched before", 1);
    fs::remove_dir(home.at("")).unwrap();
    daemon.wait_message(AWAY, 2);
    fs::rename(home.beside("away"), home.at("")).unwrap();
    daemon.wait_message("the repository is back", 2);
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
    // Changes while it was away and changes afterwards are both noticed.
    fs::rename(home.at(""), home.beside("away")).unwrap();
    daemon.wait_message(AWAY, 3);
    fs::remove_dir_all(home.beside("away/sales/p1")).unwrap();
    fs::rename(home.beside("away"), home.at("")).unwrap();
    assert_eq!(
        endpoint.take_events(2),
        ["project-delete", "project-delete-and-unpublish"]
    );
}

fn invalid_files_are_not_sent_and_block_nothing(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(
        &Settings::all_to(&endpoint)
            .watch(backend)
            .repository("max_file_size: 64KiB"),
    );
    let outside = home.beside("outside.xml");
    fs::write(&outside, xml("Outside", "e-0", "")).unwrap();
    let daemon = home.start();
    let hostile = |name: &str| {
        let path = home.at(&format!("sales/{name}/project.xml"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let bomb = "<!DOCTYPE schema [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>\
                <schema name=\"&b;\"/>";
    fs::write(hostile("bomb"), bomb).unwrap();
    let external = "<!DOCTYPE schema [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>\
                    <schema name=\"x\">&x;</schema>";
    fs::write(hostile("external"), external).unwrap();
    symlink(&outside, hostile("link")).unwrap();
    fs::create_dir(hostile("directory")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        hostile("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    fs::write(hostile("empty"), "").unwrap();
    fs::write(hostile("half"), "<schema name=\"half\"><properties>").unwrap();
    fs::write(hostile("other-root"), "<project name=\"p\"/>").unwrap();
    fs::write(hostile("binary"), [0_u8, 255, 254, 1, 2, 3]).unwrap();
    fs::write(hostile("large"), xml("Large", "e", &"x".repeat(70_000))).unwrap();
    fs::write(hostile("deep"), "<schema>".repeat(7_000)).unwrap();
    symlink(home.beside(""), home.at("sales/linked-directory")).unwrap();
    symlink("/proc/self", home.at("linked-organization")).unwrap();
    fs::write(hostile("good"), xml("Good", "e-1", "")).unwrap();

    endpoint.wait_for(2);
    daemon.fence();
    assert_eq!(
        daemon.events(),
        [
            "Project Import sales/good",
            "Project Import - Any sales/good"
        ]
    );
    // Each is read again once it is fixed.
    fs::write(hostile("half"), xml("Half", "e-2", "")).unwrap();
    fs::remove_file(hostile("link")).unwrap();
    fs::write(hostile("link"), xml("Link", "e-3", "")).unwrap();
    fs::remove_file(hostile("fifo")).unwrap();
    fs::write(hostile("fifo"), xml("Fifo", "e-4", "")).unwrap();
    fs::remove_dir(hostile("directory")).unwrap();
    fs::write(hostile("directory"), xml("Directory", "e-5", "")).unwrap();
    fs::write(hostile("large"), xml("Large", "e-6", "")).unwrap();
    let names = wait_until("five more imports", || {
        let names: BTreeSet<String> = endpoint
            .all()
            .iter()
            .filter_map(|one| one.parameter("projectName").map(str::to_owned))
            .collect();
        (names.len() >= 6).then_some(names)
    });
    assert_eq!(
        sorted(names),
        ["Directory", "Fifo", "Good", "Half", "Large", "Link"]
    );
    assert_eq!(
        fs::read_to_string(&outside).unwrap(),
        xml("Outside", "e-0", "")
    );
    daemon.fence();
    assert_eq!(endpoint.n(), 12);
}
