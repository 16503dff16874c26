//! The power of the database's disk is cut: every acknowledged event is there afterwards.
//!
//! The server's files lie on a file system that is shut down without flushing its log, and mounted again.
//! The repository lies elsewhere and survives, and so does the process in each second round.
//!
//! `PROJECT_WEBHOOKS_ROUNDS=20 cargo test --test fleet power -- --nocapture` cuts twenty times.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use project_webhooks::receiver::{ReceiverOptions, Reply};

use super::isolated::is_isolated;
use super::load::{self, Arrived};
use super::settings;
use crate::common::{Disk, Endpoint, Home, Postgres, Stop, skip, succeeds, wait_until, xml};

#[test]
fn power_cuts_of_the_database_lose_no_acknowledged_event() {
    const TEST: &str = "power::power_cuts_of_the_database_lose_no_acknowledged_event";
    if !is_isolated(TEST) {
        return;
    }
    let rounds = std::env::var("PROJECT_WEBHOOKS_ROUNDS");
    let rounds: usize = rounds.map_or(2, |rounds| rounds.parse().unwrap());
    let mut rng = Rng::new();
    println!("power cuts of the database: seed {}", rng.get_seed());
    if !succeeds("xfs_io", &["-V"]) {
        return skip(TEST, "needs xfs_io (xfsprogs)");
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("disk");
    let Some(disk) = Disk::new("ext4", directory.path().join("disk.img"), at.clone()) else {
        return skip(TEST, "needs root, mkfs and loop devices");
    };
    let Some(server) = Postgres::start_on(&at.join("data")) else {
        return skip(TEST, "needs Debian's package postgresql");
    };
    let database = server.database();
    let arrived = Arrived::default();
    let kept = arrived.clone();
    let endpoint = Endpoint::with(
        ReceiverOptions::new(Timestamp::now).with_answer(move |one| {
            let payload = String::from_utf8(one.payload.to_vec()).unwrap();
            kept.lock().unwrap().insert((one.event.clone(), payload));
            Reply::status(http::StatusCode::NO_CONTENT)
        }),
    );
    let settings = settings(&endpoint, &server.connection(&database), "2s");
    let home = Home::new(&settings.repository("mass_delete_after: 0s"));
    // If all projects were gone, their removals would wait for an operator. This one stays.
    home.write("sales/stays/project.xml", &xml("stays", "stays", "stays"));
    assert!(succeeds("sync", &[]));
    let mut daemon = Some(home.start());
    let mut acknowledged = 0;
    let mut written = load::Written::default();
    for round in 0..rounds {
        println!("power cuts of the database: round {round}");
        let name = format!("r{round}");
        let (stop, mut writers) = (AtomicBool::new(false), rng.fork());
        let pid = server.pid();
        let pause = Duration::from_millis(500 + rng.u64(..3_000));
        let more = std::thread::scope(|scope| {
            let writer = scope.spawn(|| load::write(&home, &name, &arrived, &mut writers, &stop));
            let end = Stop(&stop);
            // The moment of the cut, not a wait.
            std::thread::sleep(pause);
            disk.cut();
            drop(end);
            writer.join().unwrap()
        });
        written.happenings.extend(more.happenings);
        if round % 2 == 1 {
            daemon.take().unwrap().kill();
        }
        Postgres::end(pid);
        let before: BTreeSet<String> = endpoint.all().into_iter().map(|one| one.id).collect();
        acknowledged = before.len();
        disk.again();
        server.start_again();
        daemon = daemon.or_else(|| Some(home.start()));
        let recorded = server.sql(&database, "SELECT id FROM events");
        let recorded: BTreeSet<&str> = recorded.lines().collect();
        for id in &before {
            assert!(
                recorded.contains(id.as_str()),
                "round {round}: {id} is lost"
            );
        }
        wait_until("all callbacks", || {
            let arrived = arrived.lock().unwrap();
            written.all().all(|one| arrived.contains(one)).then_some(())
        });
    }
    // Each happening has one id.
    let all = endpoint.all();
    let ids: BTreeSet<&str> = all.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids.len(), written.all().count());
    assert!(daemon.unwrap().terminate().success());
    println!(
        "power cuts of the database: {rounds} cuts, {acknowledged} events acknowledged before them, \
         {} events, {} callbacks, 0 lost, 0 invented",
        ids.len(),
        all.len()
    );
}
