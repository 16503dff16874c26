//! Writers and editors that work while the daemon observes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{home_with_projects, run, takes};
use crate::common::{
    Endpoint, Home, PATIENCE, Run as _, Settings, Webhook, in_time, on_both_backends, sorted,
    wait_within, xml,
};

on_both_backends!(
    a_thousand_directories_made_and_filled_at_once_are_a_thousand_imports,
    a_slowly_written_file_is_sent_once_and_whole,
    a_burst_of_atomic_replacements_is_seen_one_by_one,
    saving_in_any_way_is_no_event,
    an_automatic_snapshot_is_sent_before_its_restore,
    a_real_editor_saves_without_an_event,
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
