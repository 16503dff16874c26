//! Random trees and operations: the kernel's watches are those of the layout.
//!
//! Constraint: the truth is the kernel's. It lists the watched directories in fdinfo of the inotify
//! descriptor. After each round these are the directories that the layout wants, but those that
//! `status` lists as uncovered, and those below them. `PROJECT_WEBHOOKS_SEEDS=20 cargo test --test
//! watching properties` tries more trees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::common::own_mounts;
use super::common::{Daemon, Endpoint, Home, PATIENCE, Settings, on_both_backends};
use super::mounts::Mount;
use super::{coverage, home_with_projects, limit_descriptors, unprivileged};

on_both_backends!(the_watched_directories_are_those_of_the_layout);

/// The device and the number of a directory.
type Inode = (u64, u64);

/// The rounds of operations, and the most operations of a round.
const ROUNDS: usize = 40;
const OPERATIONS: usize = 12;

/// The directories that a process watches.
fn watched(pid: u32) -> BTreeSet<Inode> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for line in text.lines().filter(|line| line.starts_with("inotify ")) {
            let field = |name: &str| {
                let mut fields = line.split(' ');
                let value = fields.find_map(|field| field.strip_prefix(name)).unwrap();
                u64::from_str_radix(value, 16).unwrap()
            };
            // The kernel's own form of a device number.
            let (device, inode) = (field("sdev:"), field("ino:"));
            let major = u32::try_from(device >> 20).unwrap();
            let minor = u32::try_from(device & 0xf_ffff).unwrap();
            found.insert((rustix::fs::makedev(major, minor), inode));
        }
    }
    found
}

/// The directories that the default layout wants, by their paths.
fn wanted(home: &Home) -> BTreeMap<String, Inode> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(String::new(), 0)];
    while let Some((path, depth)) = waiting.pop() {
        let Ok(metadata) = fs::symlink_metadata(home.at(&path)) else {
            continue;
        };
        found.insert(path.clone(), (metadata.dev(), metadata.ino()));
        if depth == 4 {
            continue;
        }
        for entry in fs::read_dir(home.at(&path)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let is_wanted = match depth {
                2 => name == "published" || name == "snapshots",
                _ => !name.starts_with('.'),
            };
            if is_wanted && entry.file_type().unwrap().is_dir() {
                waiting.push((super::properties::join(&path, &name), depth + 1));
            }
        }
    }
    found
}

fn join(path: &str, name: &str) -> String {
    Path::new(path).join(name).to_str().unwrap().to_owned()
}

/// The difference between the kernel's watches and the wanted ones that `status` does not list.
fn difference(home: &Home, daemon: &Daemon<'_>) -> Vec<String> {
    let status = coverage(home);
    let listed: Vec<&str> = status["directories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["path"].as_str().unwrap())
        .collect();
    let is_listed = |path: &str| {
        listed
            .iter()
            .any(|known| Path::new(path).starts_with(known))
    };
    let (watched, wanted) = (watched(daemon.pid()), wanted(home));
    let mut differences = Vec::new();
    let mut at: BTreeMap<Inode, Vec<&str>> = BTreeMap::new();
    for (path, inode) in &wanted {
        if !is_listed(path) {
            at.entry(*inode).or_default().push(path);
            if !watched.contains(inode) {
                differences.push(format!("{path} is neither watched nor listed"));
            }
        }
    }
    for paths in at.values().filter(|paths| paths.len() > 1) {
        differences.push(format!("{paths:?} are one directory, and none is listed"));
    }
    let wanted: BTreeSet<Inode> = wanted.into_values().collect();
    for inode in watched.difference(&wanted) {
        differences.push(format!("{inode:?} is watched, and is not of the layout"));
    }
    if status["watches"] != watched.len() {
        let (said, is) = (&status["watches"], watched.len());
        differences.push(format!("status says {said} watches, the kernel has {is}"));
    }
    differences
}

/// Waits until the watched directories are the wanted ones but those that `status` lists.
///
/// Fails with what was done before.
pub fn assert_watched(home: &Home, daemon: &Daemon<'_>, done: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = difference(home, daemon);
        if found.is_empty() {
            return;
        }
        let status = coverage(home);
        assert!(Instant::now() < deadline, "{done}\n{found:#?}\n{status:#}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The operations of a test on a repository.
struct Operations<'a> {
    home: &'a Home,
    daemon: &'a Daemon<'a>,
    random: Rng,
    mounts: Vec<Mount>,
    done: Vec<String>,
}

impl Operations<'_> {
    /// A path that may exist.
    fn path(&mut self) -> String {
        let names: [&[&str]; 4] = [
            &["sales", "hr", "ops", ".staging"],
            &["a", "b", "c", ".hidden"],
            &["published", "snapshots", "published.new", "other"],
            &["v1", "v2", ".v3"],
        ];
        let depth = self.random.usize(1..=4);
        let path: Vec<&str> = names[..depth]
            .iter()
            .map(|names| names[self.random.usize(..names.len())])
            .collect();
        path.join("/")
    }

    /// A directory that exists, if one of some paths does.
    fn existing(&mut self) -> Option<String> {
        (0..20).find_map(|_| {
            let path = self.path();
            self.home.at(&path).is_dir().then_some(path)
        })
    }

    /// One operation. Some fail, as on a path that is gone or a directory with a mount below it.
    fn one(&mut self) {
        let (Some(one), other) = (self.existing(), self.path()) else {
            let path = self.path();
            let _ = fs::create_dir_all(self.home.at(&path));
            return;
        };
        let (from, to) = (self.home.at(&one), self.home.at(&other));
        let number = self.random.usize(..20);
        let (what, is_done) = match number {
            0..=5 => ("create", fs::create_dir_all(&to).is_ok()),
            6..=8 => ("rename", fs::rename(&from, &to).is_ok()),
            9..=11 => (
                "exchange",
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &from,
                    rustix::fs::CWD,
                    &to,
                    rustix::fs::RenameFlags::EXCHANGE,
                )
                .is_ok(),
            ),
            12 => ("remove", fs::remove_dir_all(&from).is_ok()),
            13 | 14 => {
                let mode = [0o000, 0o644, 0o311, 0o755, 0o755][self.random.usize(..5)];
                let permissions = fs::Permissions::from_mode(mode);
                (
                    "change the mode of",
                    fs::set_permissions(&from, permissions).is_ok(),
                )
            }
            15 => {
                let mounted = Mount::new(&["-t", "tmpfs", "tmpfs"], from);
                let is_done = mounted.is_some();
                self.mounts.extend(mounted);
                ("mount a tmpfs at", is_done)
            }
            16 => {
                let mounted = Mount::new(&["--bind", to.to_str().unwrap()], from);
                let is_done = mounted.is_some();
                self.mounts.extend(mounted);
                ("mount there", is_done)
            }
            17 | 18 if !self.mounts.is_empty() => {
                let mount = self.random.usize(..self.mounts.len());
                drop(self.mounts.swap_remove(mount));
                ("unmount", true)
            }
            _ => {
                let limit = if self.random.bool() { 3 } else { 1_024 };
                limit_descriptors(self.daemon, limit);
                ("limit descriptors", true)
            }
        };
        if is_done {
            self.done.push(format!("{what}: {one}, {other}"));
        }
    }
}

fn the_watched_directories_are_those_of_the_layout(backend: &str) {
    let test = "the_watched_directories_are_those_of_the_layout";
    if !own_mounts(test) {
        return;
    }
    let first = std::env::var("PROJECT_WEBHOOKS_FIRST_SEED");
    let first: u64 = first.map_or(104, |text| text.parse().unwrap());
    let n_seeds = std::env::var("PROJECT_WEBHOOKS_SEEDS");
    let n_seeds: u64 = n_seeds.map_or(1, |text| text.parse().unwrap());
    for seed in first..first + n_seeds {
        let endpoint = Endpoint::new();
        let settings = Settings::all_to(&endpoint).watch(backend);
        let home = home_with_projects(&settings, 2);
        let Some(command) = unprivileged(&home, test) else {
            return;
        };
        let daemon = Daemon::launch(&home, command);
        daemon.wait_ready();
        let mut operations = Operations {
            home: &home,
            daemon: &daemon,
            random: Rng::with_seed(seed),
            mounts: Vec::new(),
            done: Vec::new(),
        };
        for round in 0..ROUNDS {
            operations.done.clear();
            for _ in 0..operations.random.usize(1..=OPERATIONS) {
                operations.one();
            }
            limit_descriptors(&daemon, 1_024);
            let done = &operations.done;
            assert_watched(
                &home,
                &daemon,
                &format!("seed {seed}, round {round}: {done:#?}"),
            );
        }
    }
}
