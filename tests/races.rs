//! Writers, editors and tools that work while the daemon observes.
//!
//! No event is partial, missing, doubled or invented.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    Daemon, Endpoint, Home, PATIENCE, Run as _, Settings, Stop, Webhook, in_time, on_both_backends,
    sorted, wait_until, wait_within, xml,
};

/// A pause inside a scenario: a writer that takes its time. Nothing is synchronised by it.
fn takes(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Runs a command in a directory, which has to succeed.
fn run(directory: &Path, command: &str) {
    let output = Command::new("sh")
        .args(["-ec", command])
        .current_dir(directory)
        .run()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A home whose projects `sales/p0` and so on exist, each with a snapshot and a published copy.
fn home_with_projects(settings: &Settings, n: usize) -> Home {
    let home = Home::new(settings);
    for number in 0..n {
        let content = |body: &str| xml(&format!("P{number}"), &format!("e-{number}"), body);
        home.write(&format!("sales/p{number}/project.xml"), &content("one"));
        home.write(&format!("sales/p{number}/snapshots/s1.xml"), &content("s1"));
        home.write(
            &format!("sales/p{number}/published/v1/project.xml"),
            &content("v1"),
        );
    }
    home
}

on_both_backends!(
    a_thousand_directories_made_and_filled_at_once_are_a_thousand_imports,
    a_slowly_written_file_is_sent_once_and_whole,
    a_burst_of_atomic_replacements_is_seen_one_by_one,
    saving_in_any_way_is_no_event,
    an_automatic_snapshot_is_sent_before_its_restore,
    a_real_editor_saves_without_an_event,
    a_checkout_of_another_branch_and_back_is_no_event,
    the_rest_of_a_checkout_that_is_taken_back_is_no_event,
    an_rsync_that_deletes_before_is_no_event,
    renaming_a_project_while_files_in_it_change_is_no_import_and_no_delete,
    renaming_a_project_that_is_saved_at_the_same_time_is_no_event,
    swapping_two_projects_is_no_event,
    swapping_two_projects_and_back_is_no_event,
    a_publish_during_a_swap_and_back_is_one_event,
    a_project_that_visits_the_directory_of_another_is_no_event,
    a_project_that_moves_on_through_the_directory_of_another_moves_once,
    unreadable_files_are_not_deleted,
    a_root_that_is_renamed_away_and_back_infers_nothing,
    invalid_files_are_not_sent_and_block_nothing,
);

fn a_thousand_directories_made_and_filled_at_once_are_a_thousand_imports(backend: &str) {
    const N: usize = 1_000;
    let endpoint = Endpoint::new();
    let home = Home::new(
        &Settings::of([Webhook::new("all", &endpoint.url())
            .events("[Project Import - Any]")
            .with("concurrency: 32")])
        .watch(backend),
    );
    let daemon = home.start();
    let content = |number: usize| xml(&format!("P{number}"), &format!("e-{number}"), "");
    for number in 0..N {
        home.write(
            &format!("organization-{}/p{number}/project.xml", number / 2),
            &content(number),
        );
    }
    wait_within(3 * PATIENCE, "all imports", || {
        (endpoint.n() >= N).then_some(())
    });
    daemon.fence();
    let came = endpoint.all();
    assert_eq!(came.len(), N);
    let payloads: BTreeMap<&str, &[u8]> = came
        .iter()
        .map(|one| (one.parameter("projectName").unwrap(), &one.payload[..]))
        .collect();
    assert_eq!(payloads.len(), N);
    for number in 0..N {
        assert_eq!(
            payloads[format!("P{number}").as_str()],
            content(number).as_bytes()
        );
    }
    assert_eq!(daemon.events().len(), 2 * N);
}

fn a_slowly_written_file_is_sent_once_and_whole(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(
        &Settings::of([Webhook::new("all", &endpoint.url())
            .events("[project-import-any, project-publish, snapshot-create]")])
        .watch(backend),
    );
    // Two of the writers publish anew over a copy that is there.
    for number in 6..8 {
        home.write(&format!("sales/p{number}/project.xml"), &xml("P", "e", ""));
        home.write(
            &format!("sales/p{number}/published/project.xml"),
            &xml("P", "e", "old"),
        );
    }
    let daemon = home.start();
    let content = |number: usize| {
        xml(
            &format!("P{number}"),
            &format!("e-{number}"),
            &"content ".repeat(200 + number),
        )
    };
    let path = |number: usize| match number {
        0..4 => format!("sales/p{number}/project.xml"),
        4..6 => format!("sales/p{number}/snapshots/s.xml"),
        _ => format!("sales/p{number}/published/project.xml"),
    };
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (home, content, path) = (&home, content(number), path(number));
            scope.spawn(move || {
                let path = home.at(&path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let mut file = File::create(&path).unwrap();
                for piece in content.as_bytes().chunks(content.len().div_ceil(12)) {
                    file.write_all(piece).unwrap();
                    takes(120);
                    if number % 2 == 1 {
                        drop(file);
                        takes(30);
                        file = OpenOptions::new().append(true).open(&path).unwrap();
                    }
                }
            });
        }
    });
    let came = endpoint.wait_for(8);
    daemon.fence();
    assert_eq!(endpoint.n(), 8);
    let came: BTreeSet<&[u8]> = came.iter().map(|one| &one.payload[..]).collect();
    let written: Vec<String> = (0..8).map(content).collect();
    assert_eq!(came, written.iter().map(String::as_bytes).collect());
}

fn a_burst_of_atomic_replacements_is_seen_one_by_one(backend: &str) {
    const PROJECTS: usize = 100;
    const COPIES: usize = 10;
    let endpoint = Endpoint::new();
    let home = Home::new(
        &Settings::of([Webhook::new("all", &endpoint.url()).with("concurrency: 32")])
            .watch(backend),
    );
    let path =
        |project: usize, copy: usize| format!("sales/p{project}/published/v{copy}/project.xml");
    let content = |project: usize, copy: usize, round: &str| {
        xml(&format!("P{project}"), "", &format!("{copy} {round}"))
    };
    let each = || (0..PROJECTS).flat_map(|project| (0..COPIES).map(move |copy| (project, copy)));
    for (project, copy) in each() {
        home.write(&path(project, copy), &content(project, copy, "before"));
        home.write(&format!("sales/p{project}/project.xml"), &xml("P", "", ""));
    }
    let daemon = home.start();
    for (project, copy) in each() {
        home.replace(&path(project, copy), &content(project, copy, "after"));
    }
    wait_within(3 * PATIENCE, "all publishes", || {
        (endpoint.n() >= PROJECTS * COPIES).then_some(())
    });
    daemon.fence();
    let came = sorted(endpoint.all().into_iter().map(|one| one.payload.to_vec()));
    let written = sorted(each().map(|(p, c)| content(p, c, "after").into_bytes()));
    assert_eq!(came, written);
}

fn saving_in_any_way_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        // The tools below may take longer than the default settle time on a busy machine.
        let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("4s"), 4);
        let daemon = home.start();
        let project = home.at("sales/p0");
        // Each command ends what it begins.
        let mut longest = Duration::ZERO;
        let mut run = |directory: &Path, command: &str| {
            let began = Instant::now();
            run(directory, command);
            longest = longest.max(began.elapsed());
        };
        // The metadata alone.
        run(
            &project,
            "touch project.xml snapshots/s1.xml published/v1/project.xml",
        );
        run(
            &project,
            "chmod 600 project.xml && chmod -R go-w . && touch -d '2001-02-03' snapshots/s1.xml",
        );
        // Removed and written again, with the same and with other content.
        run(
            &project,
            "c=$(cat project.xml; echo x); rm project.xml; printf %s \"${c%x}\" >project.xml",
        );
        run(
            &project,
            "sed s/one/two/ project.xml >../new; rm project.xml; mv ../new project.xml",
        );
        run(
            &project,
            "c=$(cat published/v1/project.xml; echo x); rm -r published; \
                       mkdir -p published/v1; printf %s \"${c%x}\" >published/v1/project.xml",
        );
        run(&project, "mv snapshots away; mv away snapshots");
        // sed -i, and what vim, emacs and gedit leave beside the file while they save.
        run(&project, "sed -i s/two/three/ project.xml");
        run(
            &project,
            "printf x >4913; rm 4913; cp project.xml .project.xml.swp; \
                       mv project.xml project.xml~; sed s/three/four/ project.xml~ >project.xml; \
                       rm project.xml~ .project.xml.swp",
        );
        run(
            &project,
            "ln -s someone@host.1234:5678 .#project.xml; cp project.xml '#project.xml#'; \
                       cp project.xml project.xml~; sed s/four/five/ project.xml~ >project.xml; \
                       rm .#project.xml '#project.xml#'",
        );
        run(
            &project,
            "sed s/five/six/ project.xml >.goutputstream-ABC123; \
                       mv .goutputstream-ABC123 project.xml",
        );
        run(
            &project.join("snapshots"),
            "cp s1.xml s1.xml~; cp s1.xml .s1.xml.swp; \
                       cp s1.xml .goutputstream-XYZ; mv .goutputstream-XYZ s1.xml; rm s1.xml~ .s1.xml.swp",
        );
        // Exchanged by another file in one step, as editors on file systems with renameat2 do.
        let beside = home.beside("beside.xml");
        fs::write(&beside, xml("P0", "e-0", "seven")).unwrap();
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &beside,
            rustix::fs::CWD,
            home.at("sales/p0/project.xml"),
            rustix::fs::RenameFlags::EXCHANGE,
        )
        .unwrap();
        if longest > Duration::from_secs(3) {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        assert_eq!(endpoint.n(), 0);
        // A removal is still an event.
        home.remove_all("sales/p0");
        assert_eq!(
            endpoint.take_events(2),
            ["project-delete", "project-delete-and-unpublish"]
        );
        true
    });
}

/// The daemon observes in the middle of it. The snapshot comes before its restore all the same.
fn an_automatic_snapshot_is_sent_before_its_restore(backend: &str) {
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 0);
    let definition = "sales/orders/project.xml";
    let content = |text: &str| xml("Orders", "e-1", text);
    home.write(definition, &content("first"));
    // Two that are restored in turns: what is on record already is no change.
    let restored = ["one", "two"].map(content);
    for (name, content) in ["s1", "s2"].iter().zip(&restored) {
        home.write(&format!("sales/orders/snapshots/{name}.xml"), content);
    }
    let _daemon = home.start();
    for round in 0..150 {
        let saved = content(&format!("saved {round}"));
        home.replace(definition, &saved);
        home.write(&format!("sales/orders/snapshots/auto-{round}.xml"), &saved);
        home.replace(definition, &restored[round % 2]);
        assert_eq!(
            endpoint.take_events(2),
            ["snapshot-create", "snapshot-restore"],
            "round {round}"
        );
    }
}

fn a_real_editor_saves_without_an_event(backend: &str) {
    if Command::new("vim").arg("--version").run().is_err() {
        // Its pattern is tried by `saving_in_any_way_is_no_event` all the same.
        return;
    }
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("2s"), 1);
    let daemon = home.start();
    for options in [
        "",
        "set backup",
        "set nowritebackup",
        "set backupcopy=yes",
        "set backupcopy=no",
    ] {
        for file in ["project.xml", "snapshots/s1.xml"] {
            // The snapshot is saved as it is.
            let change = if file == "project.xml" {
                "%s/caption>/caption> /"
            } else {
                ""
            };
            let status = Command::new("vim")
                .args([
                    "-u", "NONE", "-es", "-c", options, "-c", change, "-c", "wq!",
                ])
                .arg(home.at("sales/p0").join(file))
                .ended()
                .unwrap();
            assert!(status.success(), "{options}");
        }
    }
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
}

fn a_checkout_of_another_branch_and_back_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("5s"), 20);
        let root = home.at("");
        run(
            &root,
            "git init -q -b main . && git config user.email a@example.com && git config user.name a \
             && git config gc.auto 0 && git add . && git commit -qm one \
             && git checkout -qb other && sed -i s/one/another/ sales/*/project.xml \
             && git mv sales/p5 sales/p55 && git mv sales/p6 sales/p66 \
             && sed -i s/another/moved/ sales/p66/project.xml \
             && git rm -rqf sales/p3 sales/p4 && git add . && git commit -qm two \
             && git checkout -q main",
        );
        let daemon = home.start();
        for _ in 0..3 {
            let began = Instant::now();
            run(&root, "git checkout -q other; git checkout -q main");
            if began.elapsed() > Duration::from_secs(4) {
                return false;
            }
        }
        run(
            &root,
            "git stash -q; git reset -q --hard main; touch sales/p1/project.xml; git status >/dev/null",
        );
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        assert_eq!(endpoint.n(), 0);
        // On the other branch two projects are gone.
        run(&root, "git checkout -q other");
        endpoint.wait_for(4);
        daemon.fence();
        assert_eq!(
            sorted(daemon.events()),
            [
                "Project Delete and Unpublish sales/p3",
                "Project Delete and Unpublish sales/p4",
                "Project Delete sales/p3",
                "Project Delete sales/p4",
            ]
        );
        true
    });
}

fn the_rest_of_a_checkout_that_is_taken_back_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("3s"), 1);
        let daemon = home.start();
        // A checkout and back may leave copies whose definition was removed first.
        let began = Instant::now();
        for (path, body) in [
            ("snapshots/s1.xml", "s1"),
            ("published/v1/project.xml", "v1"),
        ] {
            home.write(&format!("sales/p55/{path}"), &xml("P0", "e-0", body));
        }
        // Once a later project is imported, they were observed.
        home.write("sales/p56/project.xml", &xml("P56", "e-56", ""));
        let imports = ["Project Import sales/p56", "Project Import - Any sales/p56"];
        endpoint.wait_for(imports.len());
        home.remove_all("sales/p55");
        if began.elapsed() > Duration::from_millis(2_500) {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), imports);
        // A copy that stays causes an event after the settle time.
        home.write("sales/p55/snapshots/s1.xml", &xml("P0", "e-0", "s1"));
        endpoint.wait_for(imports.len() + 1);
        daemon.fence();
        assert_eq!(daemon.events()[2..], ["Snapshot Create sales/p55"]);
        true
    });
}

fn an_rsync_that_deletes_before_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend).settle("3s"), 20);
        run(home.path(), "cp -a repository source");
        let daemon = home.start();
        run(
            home.path(),
            "sed -i s/one/two/ source/sales/*/project.xml; rsync -a --delete-before source/ repository/; \
             sed -i s/two/three/ source/sales/*/project.xml; rsync -a --delete-before --inplace source/ repository/; \
             touch source/sales/*/project.xml source/sales/*/*/*.xml; rsync -a --delete-before source/ repository/; \
             rsync -a --delete-before --ignore-times --whole-file source/ repository/",
        );
        // One that removes everything and brings it back.
        let began = Instant::now();
        run(
            home.path(),
            "mkdir empty; rsync -a --delete-before empty/ repository/; rsync -a --delete-before source/ repository/",
        );
        if began.elapsed() > Duration::from_millis(2_500) {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        assert_eq!(endpoint.n(), 0);
        true
    });
}

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

fn swapping_two_projects_is_no_event(backend: &str) {
    let endpoint = Endpoint::new();
    let home = home_with_projects(&Settings::all_to(&endpoint).watch(backend), 5);
    let daemon = home.start();
    home.rename("sales/p0", "sales/between");
    home.rename("sales/p1", "sales/p0");
    home.rename("sales/between", "sales/p1");
    daemon.fence();
    // In one step.
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        home.at("sales/p2"),
        rustix::fs::CWD,
        home.at("sales/p3"),
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap();
    daemon.fence();
    // Round in a circle of three.
    for (from, to) in [("p2", "x"), ("p3", "p2"), ("p4", "p3"), ("x", "p4")] {
        home.rename(&format!("sales/{from}"), &format!("sales/{to}"));
    }
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    // The record equals the disk: a restart finds nothing new.
    assert!(daemon.terminate().success());
    let daemon = home.start();
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    assert_eq!(endpoint.n(), 0);
}

/// Two projects in one organization, each with a published copy and a snapshot.
fn home_with_two_projects(endpoint: &Endpoint, backend: &str) -> Home {
    home_with_projects(&Settings::all_to(endpoint).watch(backend).settle("5s"), 2)
}

/// The longest time from the first of their moves to the last one. Then the first is not judged before.
const WITHIN: Duration = Duration::from_millis(4_500);

/// Waits until the engine has observed all earlier changes. They settle later.
fn wait_observed(home: &Home, daemon: &Daemon<'_>, mark: &str) {
    let key = format!("fence/{mark}");
    home.write(&format!("{key}/project.xml"), &xml(mark, "", ""));
    daemon.wait_log(mark, |entry| {
        entry.message() == "Project Import - Any" && entry.field("project") == key
    });
}

/// Two directories exchange their paths.
fn swap(home: &Home, one: &str, other: &str) {
    let aside = home.beside("aside");
    fs::rename(home.at(one), &aside).unwrap();
    home.rename(other, one);
    fs::rename(&aside, home.at(other)).unwrap();
}

fn swapping_two_projects_and_back_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_two_projects(&endpoint, backend);
        let daemon = home.start();
        let began = Instant::now();
        swap(&home, "sales/p0", "sales/p1");
        wait_observed(&home, &daemon, "swapped");
        swap(&home, "sales/p0", "sales/p1");
        if began.elapsed() > WITHIN {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        true
    });
}

/// The former copy has no links after it is replaced, and the new one moves back with its project.
fn a_publish_during_a_swap_and_back_is_one_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_two_projects(&endpoint, backend);
        let daemon = home.start();
        let began = Instant::now();
        swap(&home, "sales/p0", "sales/p1");
        wait_observed(&home, &daemon, "swapped");
        let copy = "sales/p0/published/v1/project.xml";
        home.replace(copy, &xml("P1", "e-1", "v2"));
        wait_observed(&home, &daemon, "published");
        swap(&home, "sales/p0", "sales/p1");
        if began.elapsed() > WITHIN {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), ["Project Publish sales/p1"]);
        true
    });
}

/// The visitor comes from outside the repository and goes there again.
fn a_project_that_visits_the_directory_of_another_is_no_event(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_two_projects(&endpoint, backend);
        let [aside, outside] = ["aside", "outside"].map(|name| home.beside(name));
        let project = home.at("sales/p0");
        fs::rename(home.at("sales/p1"), &outside).unwrap();
        let daemon = home.start();
        let began = Instant::now();
        fs::rename(&project, &aside).unwrap();
        fs::rename(&outside, &project).unwrap();
        wait_observed(&home, &daemon, "visited");
        fs::rename(&project, &outside).unwrap();
        // The directory is observed twice while no project is there.
        for mark in ["left", "left-again"] {
            fs::create_dir(&project).unwrap();
            wait_observed(&home, &daemon, mark);
            fs::remove_dir(&project).unwrap();
        }
        wait_observed(&home, &daemon, "absent");
        fs::rename(&aside, &project).unwrap();
        if began.elapsed() > WITHIN {
            return false;
        }
        daemon.fence();
        assert_eq!(daemon.events(), [""; 0]);
        true
    });
}

fn a_project_that_moves_on_through_the_directory_of_another_moves_once(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = home_with_two_projects(&endpoint, backend);
        let aside = home.beside("aside");
        let daemon = home.start();
        let began = Instant::now();
        fs::rename(home.at("sales/p0"), &aside).unwrap();
        home.rename("sales/p1", "sales/p0");
        wait_observed(&home, &daemon, "visited");
        home.rename("sales/p0", "other/p1");
        fs::rename(&aside, home.at("sales/p0")).unwrap();
        if began.elapsed() > WITHIN {
            return false;
        }
        daemon.fence();
        assert_eq!(
            daemon.events(),
            [
                "Project Delete sales/p1",
                "Project Delete and Unpublish sales/p1",
                "Project Import other/p1",
                "Project Import - Any other/p1",
                "Snapshot Create other/p1",
                "Project Publish other/p1",
            ]
        );
        true
    });
}

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
    const AWAY: &str = "no events are inferred until it is back";
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
