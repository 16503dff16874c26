//! Three daemons on one database and one repository, under random load, while one after another fails.
//!
//! The process that works is killed, stopped for longer than its lease, or cut off from the database; or
//! the database crashes. One of two more processes, which only send, fails at the same time. Nothing is
//! lost or invented, nothing has two ids or comes out of order, and another process takes over within
//! twice the lease.
//!
//! `PROJECT_WEBHOOKS_FLEET_SECONDS=1200 cargo test --test fleet chaos -- --nocapture` runs for 20 minutes,
//! with a failure every 20 seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use http::StatusCode;
use jiff::Timestamp;
use project_webhooks::receiver::{ReceiverOptions, Reply};
use rustix::process::Signal;

use super::isolated::is_isolated;
use super::load::{self, Arrived, Written};
use super::{server, settings};
use crate::common::{
    Daemon, Endpoint, Home, Postgres, Stop, succeeds, wait_until, wait_within, xml,
};

/// The length of a run in seconds, without `PROJECT_WEBHOOKS_FLEET_SECONDS`.
const SECONDS: u64 = 45;

/// A run of at least so many seconds has the machine for itself.
const LONG: u64 = 1_200;

/// The number of processes that watch or wait for that. The others only send.
const WATCHING: usize = 3;

/// The number of all processes.
const ALL: usize = 5;

/// The length of the lease.
const LEASE: Duration = Duration::from_secs(3);

/// The maximum time until all callbacks of a run have arrived.
const CALM: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    Killed,
    Stopped,
    Cut,
    DatabaseCrashed,
}

/// Counts and times of a run.
#[derive(Default)]
struct Tally {
    failures: BTreeMap<Failure, u32>,
    of_senders: BTreeMap<Failure, u32>,
    take_overs: Vec<Duration>,
}

/// Processes with one repository, each with an address of its own.
struct Fleet<'a> {
    server: &'a Postgres,
    database: &'a str,
    homes: &'a [Home],
    daemons: Vec<Option<Daemon<'a>>>,
    tally: Tally,
}

/// The address at which the process finds the database.
fn address(process: usize) -> String {
    format!("10.77.0.{}", process + 1)
}

/// The arguments of `ip rule` that cut a process off from the database.
fn cut(process: usize) -> String {
    format!("pref 10 to {} blackhole", address(process))
}

fn ip(arguments: &str) {
    let words: Vec<&str> = arguments.split(' ').collect();
    assert!(succeeds("ip", &words), "ip {arguments}");
}

impl<'a> Fleet<'a> {
    fn launch(&mut self, process: usize) {
        let home = &self.homes[process];
        self.daemons[process] = Some(Daemon::launch(home, Daemon::command(home)));
    }

    fn daemon(&self, process: usize) -> &Daemon<'a> {
        self.daemons[process].as_ref().unwrap()
    }

    /// The epoch of the lease, and the process that has it.
    fn holder(&self) -> Option<(i64, usize)> {
        let sql = "SELECT epoch, holder FROM leases WHERE leased_until > clock_timestamp()";
        let found = self.server.sql(self.database, sql);
        let (epoch, holder) = found.split_once('|')?;
        let pid: u32 = holder.split(' ').nth(1)?.parse().ok()?;
        let is_it = |daemon: &Option<Daemon<'_>>| daemon.as_ref().is_some_and(|it| it.pid() == pid);
        let process = self.daemons.iter().position(is_it)?;
        Some((epoch.parse().unwrap(), process))
    }

    fn wait_holder(&self) -> (i64, usize) {
        wait_until("a process has the lease", || self.holder())
    }

    /// Waits until another process has the lease.
    fn wait_take_over(&mut self, epoch: i64, since: Instant) {
        wait_until("another process takes over", || {
            self.holder().filter(|(found, _)| *found > epoch)
        });
        self.tally.take_overs.push(since.elapsed());
    }

    /// Waits until the others have removed the lease of a sender with its claims.
    fn wait_removal(&self, pid: u32) {
        let sql = format!("SELECT count(*) FROM senders WHERE name LIKE 'process {pid} on %'");
        wait_until("the others take the lanes over", || {
            (self.server.sql(self.database, &sql) == "0").then_some(())
        });
    }

    /// Fails the working process, or the database, and a process that only sends.
    fn fail_both(&mut self, failure: Failure, of_sender: Failure) {
        let n_failures: u32 = self.tally.of_senders.values().sum();
        let process = WATCHING + n_failures as usize % (ALL - WATCHING);
        *self.tally.of_senders.entry(of_sender).or_default() += 1;
        let pid = self.daemon(process).pid();
        match of_sender {
            Failure::Killed => self.daemons[process].take().unwrap().kill(),
            Failure::Stopped => self.daemon(process).signal(Signal::STOP),
            Failure::Cut => ip(&format!("rule add {}", cut(process))),
            Failure::DatabaseCrashed => {}
        }
        self.fail(failure);
        if of_sender != Failure::DatabaseCrashed {
            self.wait_removal(pid);
        }
        match of_sender {
            Failure::Killed => self.launch(process),
            Failure::Stopped => self.daemon(process).signal(Signal::CONT),
            Failure::Cut => ip(&format!("rule del {}", cut(process))),
            Failure::DatabaseCrashed => {}
        }
    }

    fn fail(&mut self, failure: Failure) {
        *self.tally.failures.entry(failure).or_default() += 1;
        let (epoch, process) = self.wait_holder();
        let since = Instant::now();
        match failure {
            Failure::Killed => {
                self.daemons[process].take().unwrap().kill();
                self.wait_take_over(epoch, since);
                self.launch(process);
            }
            Failure::Stopped => {
                self.daemon(process).signal(Signal::STOP);
                self.wait_take_over(epoch, since);
                self.daemon(process).signal(Signal::CONT);
            }
            Failure::Cut => {
                let rule = cut(process);
                ip(&format!("rule add {rule}"));
                self.wait_take_over(epoch, since);
                // It tries to go on for some time.
                std::thread::sleep(LEASE / 2);
                ip(&format!("rule del {rule}"));
            }
            Failure::DatabaseCrashed => {
                self.server.crash();
                self.server.start_again();
                self.wait_holder();
            }
        }
        for daemon in self.daemons.iter().flatten() {
            let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid()));
            let is_running = stat.is_ok_and(|stat| !stat.contains(") Z "));
            assert!(is_running, "a process ended by itself");
        }
    }
}

/// One home for each process. All have the repository of the first.
fn homes(endpoint: &Endpoint, server: &Postgres, database: &str) -> Vec<Home> {
    let mut homes: Vec<Home> = Vec::new();
    for process in 0..ALL {
        let connection = server.connection(database);
        let connection = connection.replace("127.0.0.1", &address(process));
        // No TLS: all addresses are this machine's. A wave of removals is not held.
        let settings = settings(
            endpoint,
            &connection,
            &format!("{}s, tls: off", LEASE.as_secs()),
        );
        let settings = settings.repository("mass_delete_after: 0s");
        let home = Home::new(&match process < WATCHING {
            true => settings,
            false => settings.top("roles: [deliver]"),
        });
        let config = fs::read_to_string(home.config()).unwrap();
        let root = homes.first().unwrap_or(&home).at("");
        let config = config.replace("./repository", &root.display().to_string());
        fs::write(home.config(), config).unwrap();
        homes.push(home);
    }
    homes
}

#[test]
fn failures_of_processes_and_the_database_lose_and_invent_nothing() {
    const TEST: &str = "chaos::failures_of_processes_and_the_database_lose_and_invent_nothing";
    if !is_isolated(TEST) {
        return;
    }
    let Some(server) = server(TEST) else { return };
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seconds = number("PROJECT_WEBHOOKS_FLEET_SECONDS").unwrap_or(SECONDS);
    let seed = number("PROJECT_WEBHOOKS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("chaos: {seconds} s, PROJECT_WEBHOOKS_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let between = Duration::from_secs(if seconds >= 300 { 20 } else { 6 });

    // Rules of addresses can only cut what is not decided by the table of local addresses before.
    ip("rule add pref 100 lookup local");
    ip("rule del pref 0");
    for process in 0..ALL {
        ip(&format!("addr add {}/32 dev lo", address(process)));
    }
    server.listen_on(&(0..ALL).map(address).collect::<Vec<_>>());
    let database = server.database();
    let arrived = Arrived::default();
    let (kept, n_requests) = (arrived.clone(), AtomicU64::new(0));
    let endpoint = Endpoint::with(
        ReceiverOptions::new(Timestamp::now).with_answer(move |one| {
            let payload = String::from_utf8(one.payload.to_vec()).unwrap();
            kept.lock().unwrap().insert((one.event.clone(), payload));
            // Some requests fail.
            let is_refused = n_requests.fetch_add(1, Ordering::Relaxed) % 40 == 7;
            Reply::status(match is_refused {
                true => StatusCode::INTERNAL_SERVER_ERROR,
                false => StatusCode::NO_CONTENT,
            })
        }),
    );
    let homes = homes(&endpoint, &server, &database);
    // If all projects were gone, their removals would wait for an operator. This one stays.
    homes[0].write("sales/stays/project.xml", &xml("stays", "stays", "stays"));
    let mut fleet = Fleet {
        server: &server,
        database: &database,
        homes: &homes,
        daemons: (0..ALL).map(|_| None).collect(),
        tally: Tally::default(),
    };
    for process in 0..ALL {
        fleet.launch(process);
        if process == 0 {
            // It makes the tables.
            fleet.daemon(0).wait_ready();
        }
    }

    let (stop, mut writers) = (AtomicBool::new(false), rng.fork());
    let begun = Instant::now();
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| load::write(&homes[0], "p", &arrived, &mut writers, &stop));
        let end = Stop(&stop);
        let mut next: Vec<Failure> = Vec::new();
        let mut of_senders = [Failure::Stopped, Failure::Killed, Failure::Cut]
            .into_iter()
            .cycle();
        while begun.elapsed() < Duration::from_secs(seconds) {
            let since = Instant::now();
            if next.is_empty() {
                use Failure::*;
                next = vec![Killed, Stopped, Cut, DatabaseCrashed];
                rng.shuffle(&mut next);
            }
            let failure = next.pop().unwrap();
            fleet.fail_both(failure, of_senders.next().unwrap());
            let (passed, n) = (begun.elapsed().as_secs(), endpoint.n_all());
            let last = fleet.tally.take_overs.last();
            println!("chaos: {passed} s, {failure:?}, {n} callbacks, last take-over {last:?}");
            // The period of failures.
            std::thread::sleep(between.saturating_sub(since.elapsed()));
        }
        drop(end);
        writer.join().unwrap()
    });
    wait_within(CALM, "all callbacks", || {
        let arrived = arrived.lock().unwrap();
        written.all().all(|one| arrived.contains(one)).then_some(())
    });
    let sql = "SELECT count(*) FROM deliveries WHERE state <> 'delivered'";
    wait_within(CALM, "all results recorded", || {
        (server.sql(&database, sql) == "0").then_some(())
    });
    check(&endpoint, &server, &database, &written);
    let Fleet { daemons, tally, .. } = fleet;
    for daemon in daemons.into_iter().flatten() {
        assert!(daemon.terminate().success());
    }
    // Nothing is left to infer.
    let daemon = homes[0].start();
    daemon.fence();
    assert_eq!(daemon.events(), [""; 0]);
    let longest = tally.take_overs.iter().max().copied().unwrap_or_default();
    println!(
        "chaos: {:?}, of senders {:?}, {} take-overs in at most {longest:?}, {} events, {} callbacks, \
         0 lost, 0 invented, 0 under two ids, 0 out of order",
        tally.failures,
        tally.of_senders,
        tally.take_overs.len(),
        written.all().count(),
        endpoint.n(),
    );
    // Beside a build or other tests, a process may wait for a processor. Then the median counts.
    let mut times = tally.take_overs.clone();
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let counts = if seconds < LONG { median } else { longest };
    assert!(
        counts <= LEASE * 2,
        "a take-over took {counts:?}: {times:?}"
    );
}

fn check(endpoint: &Endpoint, server: &Postgres, database: &str, written: &Written) {
    let all = endpoint.all();
    let mut ids: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    for one in &all {
        let payload = String::from_utf8(one.payload.to_vec()).unwrap();
        let happening = (one.event.clone(), payload);
        ids.entry(happening).or_default().insert(&one.id);
    }
    let expected: BTreeSet<_> = written.all().cloned().collect();
    for (happening, ids) in &ids {
        assert!(expected.contains(happening), "invented: {happening:?}");
        assert_eq!(ids.len(), 1, "{happening:?} has the ids {ids:?}");
    }
    assert_eq!(ids.len(), expected.len(), "lost");

    // The order of recording is that of arriving.
    let sql = "SELECT id FROM events ORDER BY sequence";
    let recorded = server.sql(database, sql);
    let sequence: BTreeMap<&str, usize> = recorded
        .lines()
        .enumerate()
        .map(|(at, id)| (id, at))
        .collect();
    let sent: BTreeSet<&str> = all.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(sequence.keys().copied().collect::<BTreeSet<_>>(), sent);
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for one in all.iter().filter(|one| seen.insert(&one.id)) {
        let project = one.parameter("projectName").unwrap();
        let at = sequence[one.id.as_str()];
        let before = last.insert(project, at);
        assert!(before < Some(at), "{} of {project} is late", one.event);
    }
    // And a project's definition comes before its files, and goes after them.
    for (project, happenings) in &written.happenings {
        let place = |happening: &(String, String)| {
            let id = ids[happening].first().unwrap();
            sequence[id]
        };
        for two in happenings.windows(2) {
            let frames =
                |one: &(String, String)| !one.0.contains("create") && one.0 != "project-publish";
            if frames(&two[0]) || frames(&two[1]) {
                let is_ordered = place(&two[0]) < place(&two[1]);
                assert!(is_ordered, "{project}: {:?} after {:?}", two[0].0, two[1].0);
            }
        }
    }
}
