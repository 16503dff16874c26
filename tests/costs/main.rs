//! Costs in numbers that do not depend on the machine: syncs, opened files, connections, threads,
//! wake-ups. Times are for `benches`.
//!
//! A bound is the counted number and a third or more above it, unless it is exact. Comments give
//! the number without the guarded property.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/mod.rs"]
mod common;

mod copies;
mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use axum::http::StatusCode;
use common::{Daemon, Endpoint, Home, Settings, Webhook, skip, wait_until, xml};
use project_webhooks::receiver::Reply;
use rustix::process::Signal;
use trace::Trace;

/// One webhook for published copies.
fn settings(endpoint: &Endpoint) -> Settings {
    let webhook = Webhook::new("publish", &endpoint.url()).events("[project-publish]");
    Settings::of([webhook.with("concurrency: 16")])
}

/// Projects with a definition, a published copy and three snapshots.
fn projects(home: &Home, n: usize) {
    for number in 0..n {
        let at = format!("sales/p{number}");
        for file in [
            "project.xml",
            "published/project.xml",
            "snapshots/1.xml",
            "snapshots/2.xml",
            "snapshots/3.xml",
        ] {
            let content = xml(&at, &format!("id-{number}"), file);
            home.write(&format!("{at}/{file}"), &content);
        }
    }
}

/// Replaces the published copy of a project.
fn publish(home: &Home, number: usize, version: usize) {
    let content = xml("P", &format!("id-{number}"), &format!("version {version}"));
    // Written outside the repository, so that the watcher reports only the rename.
    let beside = home.beside("incoming.xml");
    fs::write(&beside, content).unwrap();
    fs::rename(
        beside,
        home.at(&format!("sales/p{number}/published/project.xml")),
    )
    .unwrap();
}

/// Makes projects, and waits until the last of their files is so old that metadata proves it
/// unchanged.
fn old_projects(home: &Home, n: usize) {
    projects(home, n);
    let last = home.at(&format!("sales/p{}/snapshots/3.xml", n - 1));
    wait_until("files that are old enough", || {
        let modified = fs::metadata(&last).unwrap().modified().unwrap();
        let age = SystemTime::now().duration_since(modified);
        age.is_ok_and(|age| age > Duration::from_millis(2_500))
            .then_some(())
    });
}

#[test]
fn a_change_costs_one_open_and_two_syncs() {
    const CHANGES: usize = 20;
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    old_projects(&home, CHANGES);
    let test = "a_change_costs_one_open_and_two_syncs";
    let Some((_daemon, trace)) = Trace::start(test, &home) else {
        return;
    };
    let begin = trace.now();
    for number in 0..CHANGES {
        publish(&home, number, 1);
        endpoint.wait_for(number + 1);
    }
    let calls = trace.since(begin);
    // The daemon opens a changed file once, although it reads it twice, to hash and to parse it.
    let opens = calls.opens("published/project.xml");
    assert!(opens <= CHANGES, "{opens} opens\n{}", calls.text());
    // One commit for the event and one for the answer; an occasional checkpoint has two more. A
    // change is on disk before it is delivered.
    let syncs = calls.syncs();
    assert!(syncs >= CHANGES, "{syncs} syncs: delivered before on disk");
    assert!(syncs <= 2 * CHANGES + 4, "{syncs} syncs\n{}", calls.text());
    // Counted: 23 for each. Observing the project twice would make it 40.
    let looks = calls.looks();
    assert!(looks <= 32 * CHANGES, "{looks} looks\n{}", calls.text());
    // Sequential deliveries share one connection.
    let connections = calls.connections();
    assert!(connections <= 1, "{connections} connections");
}

/// Without it, a power cut could remove the state with durable commits.
#[test]
fn the_entries_of_new_directories_above_the_state_are_synced() {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    let written = fs::read_to_string(home.config()).unwrap();
    let deep = written.replace("state_dir: ./state", "state_dir: new/deep/state");
    assert_ne!(deep, written);
    fs::write(home.config(), deep).unwrap();
    let test = "the_entries_of_new_directories_above_the_state_are_synced";
    let Some((_daemon, trace)) = Trace::start(test, &home) else {
        return;
    };
    let calls = trace.since(0);
    for above in [
        home.path().to_owned(),
        home.beside("new"),
        home.beside("new/deep"),
    ] {
        assert!(
            calls.has_synced(&above),
            "{}\n{}",
            above.display(),
            calls.text()
        );
    }
}

#[test]
fn a_burst_shares_its_syncs() {
    const CHANGES: usize = 500;
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    old_projects(&home, CHANGES);
    let Some((daemon, trace)) = Trace::start("a_burst_shares_its_syncs", &home) else {
        return;
    };
    let begin = trace.now();
    // The whole burst is there when the daemon continues, on every machine.
    daemon.signal(Signal::STOP);
    for number in 0..CHANGES {
        publish(&home, number, 1);
    }
    daemon.signal(Signal::CONT);
    endpoint.wait_for(CHANGES);
    let calls = trace.since(begin);
    // Counted: 72. The number of answers between two commits varies; without sharing, it would be
    // 1,000.
    let syncs = calls.syncs();
    assert!(syncs <= CHANGES / 2, "{syncs} syncs\n{}", calls.text());
    // A full scan may open a file again.
    let opens = calls.opens("published/project.xml");
    assert!(opens <= CHANGES + CHANGES / 10, "{opens} opens");
    // Counted: 17 for each.
    let looks = calls.looks();
    assert!(looks <= 25 * CHANGES, "{looks} looks\n{}", calls.text());
    // `concurrency` is 16, and connections are kept alive: 500 if each call had its own. One that
    // is being opened while another becomes free is kept too.
    let connections = calls.connections();
    assert!(connections <= 32, "{connections} connections");
}

#[test]
fn a_restart_opens_no_file_that_did_not_change() {
    const PROJECTS: usize = 200;
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    old_projects(&home, PROJECTS);
    home.start().kill();
    let test = "a_restart_opens_no_file_that_did_not_change";
    let Some((_daemon, trace)) = Trace::start(test, &home) else {
        return;
    };
    let calls = trace.since(0);
    // Of 1,000 files.
    assert_eq!(calls.opens(".xml"), 0, "{}", calls.text());
    // Root, organization, and three directories of each project.
    assert_eq!(calls.count(&["inotify_add_watch"], ""), 2 + 3 * PROJECTS);
    // Counted: 18 for each project, of three directories and five files.
    let looks = calls.looks();
    assert!(looks <= 26 * PROJECTS, "{looks} looks\n{}", calls.text());
    // The daemon records nothing about an unchanged project. Counted: 2.
    let syncs = calls.syncs();
    assert!(syncs <= 10, "{syncs} syncs\n{}", calls.text());
}

#[test]
fn files_with_future_times_are_neither_read_nor_written_for_ever() {
    for projects in [10, 40] {
        let endpoint = Endpoint::new();
        let home = Home::new(&settings(&endpoint));
        self::projects(&home, projects);
        let tomorrow = SystemTime::now() + Duration::from_secs(24 * 60 * 60);
        for number in 0..projects {
            for file in ["project.xml", "published/project.xml", "snapshots/1.xml"] {
                let path = home.at(&format!("sales/p{number}/{file}"));
                let file = fs::File::options().append(true).open(path).unwrap();
                file.set_modified(tomorrow).unwrap();
            }
        }
        let test = "files_with_future_times_are_neither_read_nor_written_for_ever";
        let Some((daemon, trace)) = Trace::start(test, &home) else {
            return;
        };
        let store = rusqlite::Connection::open(home.database()).unwrap();
        let mut n_scans = 1;
        // The files that a full scan opens, and whether the daemon wrote.
        let mut scan = || {
            let (begin, before) = (trace.now(), n_commits(&store));
            daemon.signal(Signal::USR1);
            n_scans += 1;
            daemon.wait_message("full scan finished", n_scans);
            let is_changed = n_commits(&store) != before;
            (trace.since(begin).opens(".xml"), is_changed)
        };
        // Two readings some seconds apart prove what the times cannot.
        wait_until("a scan that neither opens nor writes", || {
            (scan() == (0, false)).then_some(())
        });
        assert_eq!(scan(), (0, false));
    }
}

/// A number that changes with each commit of another connection.
fn n_commits(store: &rusqlite::Connection) -> i64 {
    let version = store.pragma_query_value(None, "data_version", |row| row.get(0));
    version.unwrap()
}

#[test]
fn a_change_waits_for_few_projects_of_a_full_scan() {
    // More than two batches of 256 projects, the former size.
    const PROJECTS: usize = 600;
    const CHANGES: usize = 5;
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    old_projects(&home, PROJECTS);
    let test = "a_change_waits_for_few_projects_of_a_full_scan";
    let Some((daemon, trace)) = Trace::start(test, &home) else {
        return;
    };
    let engine = thread(&daemon, "engine");
    let mut waited = Vec::new();
    // A change may be observed after the scan has finished; then try another one.
    for number in 0..PROJECTS {
        let begin = trace.now();
        daemon.signal(Signal::USR1);
        wait_until("a full scan", || {
            (!trace.since(begin).of(engine).compared().is_empty()).then_some(())
        });
        let change = trace.now();
        publish(&home, number, 1);
        endpoint.wait_for(number + 1);
        daemon.wait_message("full scan finished", number + 2);
        // The watch thread opens the file first, the engine later.
        let calls = trace.since(change);
        let held = calls.position("\"published/project.xml\"").unwrap();
        let since = calls.from(held).of(engine);
        let looked = since.read_in(&format!("sales/p{number}")).unwrap();
        let compared = since.compared();
        let before = compared.iter().filter(|at| **at < looked).count();
        if before < compared.len() {
            waited.push(before);
        }
        if waited.len() == CHANGES {
            break;
        }
    }
    waited.sort_unstable();
    // Counted: the rest of a batch of 32, and the project itself. A whole batch more if the scan
    // went before hints; with batches of 256, up to 500. The median, since one report may be
    // delayed.
    assert!(waited[CHANGES / 2] <= 36, "{waited:?} projects");
}

/// The number of the thread with this name.
fn thread(daemon: &Daemon<'_>, name: &str) -> u32 {
    let tasks = format!("/proc/{}/task", daemon.pid());
    let mut tasks = fs::read_dir(tasks).unwrap().map(|task| task.unwrap());
    let task = tasks.find(|task| {
        let found = fs::read_to_string(task.path().join("comm"));
        found.is_ok_and(|found| found.trim() == name)
    });
    task.unwrap().file_name().to_string_lossy().parse().unwrap()
}

/// The numbers of a daemon's threads, each with the number of its wake-ups.
fn threads(daemon: &Daemon<'_>) -> BTreeMap<String, u64> {
    let tasks = format!("/proc/{}/task", daemon.pid());
    let mut found = BTreeMap::new();
    for task in fs::read_dir(tasks).unwrap() {
        let task = task.unwrap();
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let woken = line.unwrap().trim().parse().unwrap();
        found.insert(task.file_name().to_string_lossy().into_owned(), woken);
    }
    found
}

/// The number of an idle daemon's wake-ups, and the seconds of counting, rounded up.
fn woken_at_rest(daemon: &Daemon<'_>) -> (u64, u64) {
    const REST: Duration = Duration::from_secs(3);
    let before = threads(daemon);
    let begin = Instant::now();
    wait_until("some rest", || (begin.elapsed() > REST).then_some(()));
    // A thread may end meanwhile, or begin.
    let woken = threads(daemon)
        .iter()
        .map(|(thread, n)| n - before.get(thread).unwrap_or(&0))
        .sum();
    (woken, begin.elapsed().as_secs() + 1)
}

#[test]
fn an_idle_daemon_has_no_timer_for_each_project_or_webhook() {
    let endpoint = Endpoint::new();
    let homes = [(10, 1), (300, 50)].map(|(n_projects, n_webhooks)| {
        let home = Home::new(&Settings::of((0..n_webhooks).map(|number| {
            // They do not match the fence below, so that no delivery is in flight.
            Webhook::new(&format!("w{number}"), &endpoint.url()).projects("[\"sales/*\"]")
        })));
        old_projects(&home, n_projects);
        home
    });
    let daemons = homes.each_ref().map(Home::start);
    for daemon in &daemons {
        daemon.fence();
        let (woken, seconds) = woken_at_rest(daemon);
        // The daemon checks the root and reports its heartbeat each second. Counted: 1 a second,
        // and some until it is idle; 300 if each project had a timer.
        assert!(woken <= 20 * seconds, "woken {woken} times in {seconds} s");
    }
    // The queue of each webhook has a thread. A thread that has nothing to do ends after some seconds.
    wait_until("49 threads more with 50 webhooks than with 1", || {
        let [one, fifty] = daemons.each_ref().map(|daemon| threads(daemon).len());
        (one + 49 == fifty).then_some(())
    });
}

#[test]
fn a_directory_that_is_mounted_at_two_paths_is_not_observed_at_rest() {
    const PROJECTS: usize = 100;
    let test = "a_directory_that_is_mounted_at_two_paths_is_not_observed_at_rest";
    if !common::own_mounts(test) {
        return;
    }
    let endpoint = Endpoint::new();
    let settings = settings(&endpoint).repository("poll_interval: 1h");
    let home = Home::new(&settings);
    old_projects(&home, PROJECTS);
    fs::create_dir(home.at("hr")).unwrap();
    let (sales, hr) = (home.at("sales"), home.at("hr"));
    let bind = ["--bind", sales.to_str().unwrap(), hr.to_str().unwrap()];
    assert!(common::succeeds("mount", &bind));
    let daemon = home.start();
    daemon.fence();
    let directories = home.json(&["status"])["coverage"]["directories"].clone();
    assert_eq!(directories[0]["path"], "hr", "{directories}");
    let n_reads = || {
        let counts = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
        let line = counts.lines().find_map(|line| line.strip_prefix("syscr: "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = n_reads();
    let (_, seconds) = woken_at_rest(&daemon);
    // Each observation reads from the store.
    let n = n_reads() - before;
    assert!(n < PROJECTS as u64 * seconds, "{n} reads in {seconds} s");
    drop(daemon);
    assert!(common::succeeds("umount", &[hr.to_str().unwrap()]));
}

#[test]
fn a_hung_endpoint_causes_no_wakeups_with_many_pending_deliveries() {
    const PROJECTS: usize = 150;
    let endpoint = Endpoint::answering(|_| Reply {
        delay: Duration::from_secs(3600),
        ..Reply::status(StatusCode::NO_CONTENT)
    });
    let webhook = Webhook::new("publish", &endpoint.url()).events("[project-publish]");
    let home = Home::new(&Settings::of([webhook.with("concurrency: 2")]));
    old_projects(&home, PROJECTS);
    let daemon = home.start();
    for number in 0..PROJECTS {
        publish(&home, number, 1);
    }
    endpoint.wait_for(2);
    wait_until("all pending", || {
        let waiting = home.json(&["deliveries", "--state", "pending", "--limit", "0"]);
        (waiting.as_array().unwrap().len() == PROJECTS).then_some(())
    });
    let (woken, seconds) = woken_at_rest(&daemon);
    // Some 850 a second if a full queue keeps asking for due deliveries.
    assert!(woken <= 50 * seconds, "woken {woken} times in {seconds} s");
}

#[test]
fn many_names_that_are_not_utf_8_share_their_commits() {
    use std::os::unix::ffi::OsStrExt;
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint));
    let test = "many_names_that_are_not_utf_8_share_their_commits";
    let Some((_daemon, trace)) = Trace::start(test, &home) else {
        return;
    };
    let mut n_listed = 0;
    // The list is recorded once a second at most. Counted: 4 and 6 syncs. With a commit for each
    // name, there would be 200 and 800.
    for names in [200, 800] {
        let begin = trace.now();
        for number in 0..names {
            let mut name = format!("{names}-{number}-").into_bytes();
            name.push(0xff);
            fs::create_dir(home.at("").join(std::ffi::OsStr::from_bytes(&name))).unwrap();
        }
        n_listed += names;
        wait_until("all names in the status", || {
            let status = home.json(&["status"]);
            let listed = status["incompleteFiles"].as_u64()?;
            (listed >= n_listed).then_some(())
        });
        let syncs = trace.since(begin).syncs();
        assert!(syncs <= 40, "{syncs} syncs for {names} names");
    }
}
