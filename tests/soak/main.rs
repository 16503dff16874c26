//! Runs the real binary under faults, cycle after cycle: nothing is lost, and nothing grows.
//!
//! Each cycle has clients that stall, a receiver that is killed and misbehaves, hostile files, reloads
//! and, every third cycle a full disk. After each the daemon must recover, deliver every change of the
//! cycle, and hold no more memory, descriptors, threads or disk than before.
//!
//! `PROJECT_WEBHOOKS_SOAK_SECONDS=3600 cargo test --test soak -- --nocapture` runs for an hour and
//! prints its figures.

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

// What goes wrong: clients, receivers, files, the disk.
mod faults;

// What is measured, and how far it may grow.
mod figures;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Daemon, Endpoint, Home, Settings, Webhook, skip, succeeds, wait_health, wait_until};
use common::{wait_within, xml};
use faults::{Disk, HostileFiles, Receiver, StalledClients};
use figures::Figures;
use rustix::process::Signal;

/// The projects that change in each cycle.
const N_PROJECTS: usize = 12;

/// How long a cycle may take to recover, on a busy machine.
const RECOVERY: Duration = Duration::from_secs(180);

/// The length of the run, unless `PROJECT_WEBHOOKS_SOAK_SECONDS` is set.
const SECONDS: u64 = 30;

struct Soak<'a> {
    home: &'a Home,
    daemon: &'a Daemon<'a>,
    good: &'a Endpoint,
    flaky: Receiver,
    disk: Disk,
}

fn settings(good: &Endpoint, flaky: &Receiver, cycle: usize) -> Settings {
    let seven = "[project-publish, project-delete, project-import-any, snapshot-create]";
    let timeout = format!("timeout: {}s", 2 + cycle % 2);
    let good = Webhook::new("good", &good.url()).events(seven);
    let flaky = Webhook::new("flaky", &flaky.url())
        .events(seven)
        .schedule("[0s, 100ms, 200ms, 300ms, 500ms, 500ms, 500ms, 500ms]")
        .with(&timeout);
    Settings::of([good, flaky])
        .repository("max_file_size: 64KiB")
        .top("admin: { listen: \"unix:./admin.sock\" }")
        .top("retention: { delivered: 1s, dead: 1s }")
}

fn publish(home: &Home, project: usize, cycle: usize) {
    let id = format!("e-{project}");
    let at = format!("sales/p{project}");
    let content = |what: &str| xml("P", &id, &format!("{what} {cycle}"));
    home.replace(&format!("{at}/project.xml"), &content("definition"));
    home.replace(
        &format!("{at}/published/project.xml"),
        &content("published"),
    );
    home.write(
        &format!("{at}/snapshots/c{cycle}.xml"),
        &content("snapshot"),
    );
}

impl Soak<'_> {
    /// One cycle: faults, changes, recovery.
    fn cycle(&mut self, cycle: usize) {
        let (home, daemon) = (self.home, self.daemon);
        let stalled = StalledClients::open(home, daemon.pid());
        let hostile = HostileFiles::make(home);
        self.flaky.misbehave(cycle);
        let (first, second) = (0..N_PROJECTS / 2, N_PROJECTS / 2..N_PROJECTS);
        for project in first {
            publish(home, project, cycle);
        }
        self.flaky.kill();
        self.reloads(cycle);
        if cycle % 3 == 1 {
            self.disk.fill();
            write_until_full(home, cycle);
        }
        for project in second {
            publish(home, project, cycle);
        }
        self.flaky.revive();
        self.disk.free();
        wait_trouble(home, false);
        drop(hostile);
        drop(stalled);
        self.flaky.behave();
        self.recover(cycle);
        self.clean(cycle);
    }

    /// A reload that changes a webhook, one that is refused, and a full scan.
    fn reloads(&self, cycle: usize) {
        let count = |result: &str| {
            let name = format!("project_webhooks_config_reloads_total{{result=\"{result}\"}}");
            figures::metric(self.home, &name)
        };
        let applied = count("applied");
        let good = settings(self.good, &self.flaky, cycle);
        self.home.reconfigure(&good);
        self.daemon.signal(Signal::HUP);
        wait_until("a reload", || (count("applied") > applied).then_some(()));
        let rejected = count("rejected");
        self.home.reconfigure(&good.clone().top("surprise: true"));
        self.daemon.signal(Signal::HUP);
        wait_until("a refusal", || (count("rejected") > rejected).then_some(()));
        self.home.reconfigure(&good);
        self.daemon.signal(Signal::USR1);
    }

    /// Waits until both receivers have every change of the cycle.
    fn recover(&self, cycle: usize) {
        let tag = format!("c{cycle}");
        let mut missing: BTreeMap<String, &str> = (0..N_PROJECTS)
            .flat_map(|project| {
                let key = |what: &str| (format!("{what} e-{project}"), "missing");
                [key("snapshot-create"), key("project-publish")]
            })
            .collect();
        wait_within(RECOVERY, &format!("the changes of cycle {cycle}"), || {
            for one in self.good.take() {
                let body = String::from_utf8_lossy(&one.payload);
                let id = (0..N_PROJECTS).find(|n| body.contains(&format!(">e-{n}<")));
                let of_this = one.parameter("versionTag") == Some(&tag)
                    || body.contains(&format!("published {cycle}<"));
                if let (Some(id), true) = (id, of_this) {
                    missing.remove(&format!("{} e-{id}", one.event));
                }
            }
            missing.is_empty().then_some(())
        });
        wait_within(RECOVERY, "no pending deliveries", || {
            let pending = |name: &str| {
                let name = format!("project_webhooks_pending{{webhook=\"{name}\"}}");
                figures::metric(self.home, &name)
            };
            (pending("good") + pending("flaky") == 0.0).then_some(())
        });
    }

    /// Removes what would grow by itself: the snapshots of the cycle, and one project.
    fn clean(&self, cycle: usize) {
        for project in 0..N_PROJECTS {
            self.home
                .remove(&format!("sales/p{project}/snapshots/c{cycle}.xml"));
        }
        let _none = fs::remove_dir_all(self.home.at("sales/full"));
        let moved = format!("sales/p{}", cycle % N_PROJECTS);
        let aside = self.home.beside("aside");
        fs::rename(self.home.at(&moved), &aside).unwrap();
        let is_deleted = |one: &project_webhooks::receiver::Received| one.event == "project-delete";
        self.good.wait_for_one("a delete", is_deleted);
        fs::rename(&aside, self.home.at(&moved)).unwrap();
        let imported = "an import";
        self.good
            .wait_for_one(imported, |one| one.event == "project-import-any");
        self.good.take();
        wait_within(RECOVERY, "retention", || {
            if self.disk.deliveries(self.home) == 0 {
                return Some(());
            }
            // A reload makes retention run at once.
            self.daemon.signal(Signal::HUP);
            std::thread::sleep(Duration::from_millis(500));
            None
        });
    }
}

/// Writes snapshots until they fit neither on the disk nor into what the log of the database has left.
fn write_until_full(home: &Home, cycle: usize) {
    home.write("sales/full/project.xml", &xml("F", "f", ""));
    let mut seed = cycle as u32;
    for number in 0..600 {
        let body: String = (0..60_000)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b'a' + (seed >> 24) as u8 % 26)
            })
            .collect();
        let path = format!("sales/full/snapshots/f{number}.xml");
        home.write(&path, &xml("F", "f", &body));
        if number % 20 == 0 && figures::metric(home, TROUBLE) == 1.0 {
            return;
        }
    }
    wait_trouble(home, true);
}

const TROUBLE: &str = "project_webhooks_trouble{part=\"store\"}";

fn wait_trouble(home: &Home, expected: bool) {
    let expected = f64::from(u8::from(expected));
    wait_within(
        RECOVERY,
        &format!("trouble of the store: {expected}"),
        || {
            let trouble = figures::metric(home, TROUBLE);
            (trouble == expected).then_some(())
        },
    );
}

#[test]
fn faults_lose_nothing_and_nothing_grows() {
    const TEST: &str = "a soak under faults";
    if !rustix::process::geteuid().is_root()
        || !succeeds("nsenter", &["--version"])
        || !succeeds("unshare", &["-m", "true"])
    {
        return skip(TEST, "needs root and mount namespaces");
    }
    let seconds = std::env::var("PROJECT_WEBHOOKS_SOAK_SECONDS");
    let length = Duration::from_secs(seconds.map_or(SECONDS, |text| text.parse().unwrap()));
    let good = Endpoint::new();
    let flaky = Receiver::new();
    let home = Home::new(&settings(&good, &flaky, 0));
    for project in 0..N_PROJECTS {
        publish(&home, project, 0);
    }
    fs::create_dir(home.beside("state")).unwrap();
    let run = Daemon::command(&home);
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-ec"])
        .arg("mount -t tmpfs -o size=128m tmpfs \"$0\"; exec \"$@\"")
        .arg(home.beside("state"))
        .arg(run.get_program())
        .args(run.get_args())
        .args(["--log-level", "warn"])
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET");
    let daemon = Daemon::launch(&home, command);
    wait_health(&home, "/readyz", 200);
    let disk = Disk::of(&home, daemon.pid());
    let mut figures = Figures::default();
    let mut soak = Soak {
        home: &home,
        daemon: &daemon,
        good: &good,
        flaky,
        disk,
    };
    let begin = Instant::now();
    let mut cycle = 0;
    while begin.elapsed() < length || cycle < figures::WARM_UP + 4 {
        cycle += 1;
        soak.cycle(cycle);
        figures.take(&home, &daemon, &soak.disk);
    }
    figures.print(begin.elapsed());
    figures.assert_flat();
    assert!(daemon.terminate().success());
}
