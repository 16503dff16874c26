//! The daemon's use of memory, descriptors, threads and disk, cycle by cycle.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use super::RECOVERY;
use super::common::{Daemon, Home, get, wait_until, wait_within};
use super::faults::Disk;

/// The first cycles, in which caches and pools grow to their size.
pub const WARM_UP: usize = 8;

/// What is measured: its name, and how much more the second half may need than the first.
const MEASURES: [(&str, u64, u64); 5] = [
    // In parts of a hundred, and in its own unit.
    ("memory in KiB", 15, 8_192),
    ("descriptors", 0, 10),
    ("threads", 0, 3),
    // Without free pages. The last snapshots of each project stay recorded.
    ("used part of the database in KiB", 25, 256),
    ("log of the database in KiB", 0, 1_024),
];

/// The free pages that the database keeps, and some that become free after the last removal.
const FREE_MAX: u64 = (4 << 20) + (64 << 10);

/// The log after contents were removed: empty, but for some later commits.
const LOG_MAX: u64 = 1 << 20;

/// The figures of each cycle.
#[derive(Default)]
pub struct Figures {
    cycles: Vec<[u64; MEASURES.len()]>,
}

impl Figures {
    /// Measures at the end of a cycle.
    pub fn take(&mut self, home: &Home, daemon: &Daemon<'_>, disk: &Disk) {
        let pid = daemon.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        // The removal goes on after the last delivery is gone: contents, free pages, the log.
        let (used, log) = wait_within(RECOVERY, "a small database", || {
            let (database, log) = disk.database();
            let used = metric(home, "project_webhooks_state_bytes") as u64;
            (database <= used + FREE_MAX && log <= LOG_MAX).then_some((used, log))
        });
        assert_eq!(metric(home, "project_webhooks_uncovered_directories"), 0.0);
        self.cycles.push([
            field("VmRSS:"),
            descriptors as u64,
            field("Threads:"),
            used / 1_024,
            log / 1_024,
        ]);
    }

    /// The least value in the first and in the second half of the cycles after the warm-up.
    ///
    /// A leak raises it. A single cycle may need more, such as one with a full disk.
    fn halves(&self, measure: usize) -> (u64, u64) {
        let all: Vec<u64> = self.cycles[WARM_UP..]
            .iter()
            .map(|cycle| cycle[measure])
            .collect();
        let (first, second) = all.split_at(all.len() / 2);
        let least = |half: &[u64]| half.iter().min().copied().unwrap_or_default();
        (least(first), least(second))
    }

    /// Prints the least value of each half, and the maximum.
    pub fn print(&self, length: Duration) {
        let mut lines = format!("soak: {} cycles in {length:.0?}\n", self.cycles.len());
        for (measure, (name, _, _)) in MEASURES.iter().enumerate() {
            let (first, second) = self.halves(measure);
            let highest = self.cycles.iter().map(|cycle| cycle[measure]).max();
            let highest = highest.unwrap_or_default();
            lines += &format!("  {name}: at least {first}, then {second}; {highest} at most\n");
        }
        // The test harness does not capture it.
        let _ = std::io::stderr().write_all(lines.as_bytes());
    }

    /// Compares the second half with the first.
    pub fn assert_flat(&self) {
        for (measure, (name, hundredths, more)) in MEASURES.iter().enumerate() {
            let (first, second) = self.halves(measure);
            let bound = first + first * hundredths / 100 + more;
            assert!(second <= bound, "{name}: {first} became {second}");
        }
    }
}

/// The value of a series of `/metrics`; 0 if there is none.
pub fn metric(home: &Home, series: &str) -> f64 {
    let text = wait_until("metrics", || {
        get(home, "/metrics").and_then(|(status, text)| (status == 200).then_some(text))
    });
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}
