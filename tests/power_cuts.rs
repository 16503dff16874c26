//! The power is cut: state and repository lie on a file system that is shut down without flushing
//! its log, and mounted again. An event keeps the one id under which it was sent or logged, and
//! every surviving file has its event.
//!
//! The cut loses everything that the file system had not written: pages that were not synced, and
//! metadata that its log does not have. The disk's own cache is not lost: the test relies on the disk
//! to obey a flush.
//!
//! `PROJECT_WEBHOOKS_ROUNDS=20 cargo test --test power_cuts -- --nocapture` cuts twenty times on each
//! file system. Needs root, loop devices and xfs_io; says so where one is missing.

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
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{
    Daemon, Disk, Endpoint, Home, Settings, Stop, own_mounts, skip, succeeds, wait_until, xml,
};

/// Counts over all rounds. A cut must lose none of the acknowledged events.
#[derive(Default)]
struct Tally {
    rounds: usize,
    written: usize,
    /// The events that the receiver or the log was told of.
    acknowledged: usize,
    callbacks: usize,
}

/// Random numbers that a seed repeats (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Writes until the disk is gone or somebody says stop. Nothing is written twice: each file's
/// content has a number of its own. Returns what was written, whole or not.
fn load(home: &Home, round: usize, random: &mut Random, stop: &AtomicBool) -> BTreeSet<String> {
    let mut written = BTreeSet::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let project = format!("r{round}-p{}", random.below(20));
        let unique = format!("{round}/{number}");
        let (below, content) = match random.below(4) {
            0 => (
                format!("sales/r{round}-n{number}/project.xml"),
                xml(&format!("r{round}-n{number}"), "", &unique),
            ),
            1 => (
                format!("sales/{project}/snapshots/s{number}.xml"),
                xml(&project, "", &unique),
            ),
            2 => (
                format!("sales/{project}/published/project.xml"),
                xml(&project, "", &unique),
            ),
            _ => (
                format!("sales/{project}/project.xml"),
                xml(&project, "", &unique),
            ),
        };
        written.insert(content.clone());
        let path = home.at(&below);
        let beside = path.with_extension("tmp");
        let done = fs::create_dir_all(path.parent().unwrap())
            .and_then(|()| fs::write(&beside, &content))
            .and_then(|()| fs::rename(&beside, &path));
        if done.is_err() {
            break;
        }
    }
    written
}

/// The names of the projects whose definitions are whole on disk.
fn whole_on_disk(repository: &Path) -> BTreeSet<String> {
    let projects = fs::read_dir(repository.join("sales")).into_iter().flatten();
    projects
        .flatten()
        .filter_map(|project| {
            let text = fs::read_to_string(project.path().join("project.xml")).ok()?;
            let is_whole = text.ends_with("</schema>\n");
            is_whole.then(|| project.file_name().into_string().unwrap())
        })
        .collect()
}

fn cuts(kind: &str) {
    let rounds = std::env::var("PROJECT_WEBHOOKS_ROUNDS");
    let rounds: usize = rounds.map_or(2, |rounds| rounds.parse().unwrap());
    let seed = std::env::var("PROJECT_WEBHOOKS_SEED").map_or_else(
        |_| u64::from(std::process::id()),
        |seed| seed.parse().unwrap(),
    );
    println!("power cuts on {kind}: PROJECT_WEBHOOKS_SEED={seed}");
    let mut random = Random(seed);
    let endpoint = Endpoint::new();
    // A cut may take the definitions of most projects. Their removals are told all the same.
    let settings = Settings::all_to(&endpoint).repository("mass_delete_after: 0s");
    let home = Home::new(&settings);
    let skip = |why: &str| {
        skip(&format!("power cuts on {kind}"), why);
    };
    if !succeeds("xfs_io", &["-V"]) {
        return skip("needs xfs_io (xfsprogs)");
    }
    // Otherwise a namespace that another program makes now has a copy of the mount. After the cut, that copy
    // would keep the file system in memory, and it would be mounted again as it was shut down.
    if !own_mounts(&format!("power cuts on {kind}")) {
        return;
    }
    let Some(disk) = Disk::new(kind, home.beside("disk.img"), home.beside("disk")) else {
        return skip("needs root, mkfs and loop devices");
    };
    fs::remove_dir(home.at("")).unwrap();
    for name in ["repository", "state"] {
        fs::create_dir(disk.at().join(name)).unwrap();
        std::os::unix::fs::symlink(disk.at().join(name), home.beside(name)).unwrap();
    }
    // If all projects were gone, their removals would wait for an operator. This one survives.
    let survivor = xml("survivor", "", "survivor");
    let mut daemon = home.start();
    home.write("sales/survivor/project.xml", &survivor);
    assert!(succeeds("sync", &[]));

    let mut tally = Tally::default();
    let mut written = BTreeSet::from([survivor]);
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    // The requests of the earlier rounds.
    let mut n_judged = 0;
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        let pause = Duration::from_millis(50 + random.below(900));
        let mut writers_random = Random(random.below(u64::MAX));
        written.extend(std::thread::scope(|scope| {
            let writer = scope.spawn(|| load(&home, round, &mut writers_random, &stop));
            let end = Stop(&stop);
            // The moment of the cut, not a wait.
            std::thread::sleep(pause);
            // Only events acknowledged before the cut count. The cut shuts the file system down, but the
            // daemon goes on. So a sync during the shutdown may succeed without writing anything. After a
            // real power cut, no process would see that success. For the same reason, requests that came
            // during an earlier cut do not count.
            let came = endpoint.all().into_iter().skip(n_judged);
            acknowledged.extend(came.map(|one| one.id));
            acknowledged.extend(ids_in_the_log(&daemon));
            disk.cut();
            drop(end);
            writer.join().unwrap()
        }));
        daemon.kill();
        disk.again();

        daemon = home.start();
        let told = "everything that survived is told and delivered";
        wait_until(told, || {
            let status = home.json(&["status"]);
            let pending = &status["webhooks"][0]["pending"];
            (*pending == 0).then_some(())
        });
        daemon.fence();
        // Requests of the killed daemon may still arrive, so its successor's log says what that sent.
        acknowledged.extend(ids_in_the_log(&daemon));
        acknowledged.extend(delivered_in_the_log(&daemon));
        // Each event that was sent or logged is on record under its id.
        let listed = home.json(&["events", "--limit", "0"]);
        let on_record: BTreeSet<&str> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["id"].as_str().unwrap())
            .collect();
        let came = endpoint.all();
        for id in &acknowledged {
            assert!(
                on_record.contains(id.as_str()),
                "round {round}: {id} is lost"
            );
        }
        tally.acknowledged = acknowledged.len();
        // One happening has one id, and a payload is what was written. Of files that are written
        // once, that is: a published copy that the cut set back to what it was before is published
        // again, and a definition that the cut took is a delete, since that is what the disk says.
        let mut ids: BTreeMap<(String, &[u8]), BTreeSet<&str>> = BTreeMap::new();
        for one in &came {
            let payload = std::str::from_utf8(&one.payload).unwrap();
            assert!(
                written.contains(payload),
                "round {round}: nobody wrote {payload}"
            );
            if one.event == "snapshot-create" || one.event.starts_with("project-import") {
                let happening = (one.event.clone(), &one.payload[..]);
                ids.entry(happening).or_default().insert(&one.id);
            }
        }
        for ((event, _), ids) in &ids {
            assert_eq!(ids.len(), 1, "round {round}: {event} came under {ids:?}");
        }
        // Each complete project on disk was sent.
        let imported: BTreeSet<&str> = came
            .iter()
            .filter(|one| one.event == "project-import-any")
            .filter_map(|one| one.parameter("projectName"))
            .collect();
        for project in whole_on_disk(&home.at("")) {
            assert!(
                imported.contains(project.as_str()),
                "round {round}: {project} is not told"
            );
        }
        tally.rounds += 1;
        n_judged = came.len();
        tally.callbacks = came.len();
        tally.written = written.len();
    }
    println!(
        "power cuts on {kind}: {} cuts, each with a kill, {} files written, {} events acknowledged, \
         {} callbacks, lost 0, doubled ids 0",
        tally.rounds, tally.written, tally.acknowledged, tally.callbacks
    );
}

/// The ids that the log says are recorded.
fn ids_in_the_log(daemon: &Daemon<'_>) -> Vec<String> {
    let entries = daemon.event_entries();
    let ids = entries
        .iter()
        .map(|entry| entry.field("event_id").to_owned());
    ids.collect()
}

/// The ids that the log says are delivered.
fn delivered_in_the_log(daemon: &Daemon<'_>) -> Vec<String> {
    let entries = daemon.entries();
    let delivered = entries
        .iter()
        .filter(|entry| entry.message().starts_with("delivered: "));
    let ids: Vec<String> = delivered
        .map(|entry| entry.field("event_id").to_owned())
        .collect();
    assert!(ids.iter().all(|id| id.starts_with("evt_")));
    ids
}

#[test]
fn cuts_on_ext4_lose_no_acknowledged_commit() {
    cuts("ext4");
}

#[test]
fn cuts_on_xfs_lose_no_acknowledged_commit() {
    cuts("xfs");
}
