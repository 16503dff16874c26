//! Projects that vanish together: they are judged together.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{self, Endpoint, Home, in_time, on_both_backends, skip, wait_until, xml};
use crate::{events, fetch, names, projects, settings, vanish, wait_held, wait_not_held};

on_both_backends!(
    renames_that_take_longer_than_the_settle_time_are_moves,
    a_start_in_the_middle_of_slow_renames_deletes_nothing,
    an_rsync_with_limited_speed_that_renames_projects_is_no_event,
    a_checkout_that_renames_all_projects_is_no_event,
    imports_during_a_wave_do_not_prevent_its_hold,
    a_wave_that_shrinks_ends_after_a_few_full_scans,
);

/// Steps with a pause after each, which may not take much longer.
struct Paced {
    pause: Duration,
    last: Instant,
    longest: Duration,
}

impl Paced {
    fn new(pause: Duration) -> Self {
        Self {
            pause,
            last: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    /// Pauses after a step.
    fn step(&mut self) {
        std::thread::sleep(self.pause);
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    /// Whether no step with its pause took longer than this.
    fn is_within(&self, longest: Duration) -> bool {
        self.longest <= longest
    }
}

fn renames_that_take_longer_than_the_settle_time_are_moves(backend: &str) {
    // Of the projects, so many are renamed: as by `rsync --delete-before`, with a pause after each.
    for (n, n_renamed) in [(20, 20), (30, 12)] {
        in_time(|| {
            let endpoint = Endpoint::new();
            let home = Home::new(&settings(&endpoint, backend).settle("3s"));
            projects(&home, names(n));
            fs::create_dir(home.beside("away")).unwrap();
            let daemon = home.start();
            let mut paced = Paced::new(Duration::from_millis(180));
            let renamed: Vec<String> = names(n_renamed).collect();
            for name in &renamed {
                let away = home.beside("away").join(name);
                fs::rename(home.at("sales").join(name), away).unwrap();
                paced.step();
            }
            for name in &renamed {
                let away = home.beside("away").join(name);
                let new = home.at("sales").join(format!("new-{name}"));
                fs::rename(away, new).unwrap();
                paced.step();
            }
            if !paced.is_within(Duration::from_millis(2_500)) {
                return false;
            }
            daemon.fence();
            assert_eq!(events(&endpoint), [""; 0], "{n_renamed} of {n}");
            daemon.wait_message("the project moved", n_renamed);
            assert_eq!(home.json(&["status"])["projects"], n);
            true
        });
    }
}

/// The projects come back one after another, and all of it takes longer than the settle time.
fn an_rsync_with_limited_speed_that_renames_projects_is_no_event(backend: &str) {
    const N: usize = 20;
    if !common::succeeds("rsync", &["--version"]) {
        return skip("an rsync that renames projects", "rsync is not installed");
    }
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = Home::new(&settings(&endpoint, backend).settle("2s"));
        for name in names(N) {
            for file in ["project.xml", "published/v1/project.xml"] {
                let body = format!("{file}{}", "x".repeat(20_000));
                let content = xml(&name, &format!("e-{name}"), &body);
                home.write(&format!("sales/{name}/{file}"), &content);
            }
        }
        let (source, root) = (home.beside("source"), home.at(""));
        let rsync = |options: &[&str], from: &Path, to: &Path| {
            let [from, to] = [from, to].map(|path| format!("{}/", path.display()));
            let arguments = [options, &[from.as_str(), to.as_str()]].concat();
            assert!(common::succeeds("rsync", &arguments), "{arguments:?}");
        };
        rsync(&["-a"], &root, &source);
        for name in names(N) {
            let at = source.join("sales");
            fs::rename(at.join(&name), at.join(format!("new-{name}"))).unwrap();
        }
        let daemon = home.start();
        let began = Instant::now();
        rsync(&["-a", "--delete-before", "--bwlimit=200"], &source, &root);
        // Four seconds without a pause. A pause of the settle time would end the wave.
        if began.elapsed() > Duration::from_millis(5_800) {
            return false;
        }
        daemon.wait_message("the project moved", N);
        daemon.fence();
        assert_eq!(events(&endpoint), [""; 0]);
        assert_eq!(home.json(&["status"])["projects"], N);
        true
    });
}

/// Renames projects: first all are taken away, then all come under another name, as by `rsync
/// --delete-before`. Fewer than ten of them are no wave.
fn rename_slowly(home: &Home, names: &[String], paced: &mut Paced) {
    take_away(home, names.iter().cloned(), paced);
    for name in names {
        let new = home.at("sales").join(format!("new-{name}"));
        fs::rename(home.beside("away").join(name), new).unwrap();
        paced.step();
    }
}

fn take_away(home: &Home, names: impl Iterator<Item = String>, paced: &mut Paced) {
    fs::create_dir_all(home.beside("away")).unwrap();
    for name in names {
        let away = home.beside("away").join(&name);
        fs::rename(home.at("sales").join(&name), away).unwrap();
        paced.step();
    }
}

fn a_start_in_the_middle_of_slow_renames_deletes_nothing(backend: &str) {
    in_time(|| {
        let endpoint = Endpoint::new();
        let home = Home::new(&settings(&endpoint, backend).settle("3s"));
        projects(&home, names(20));
        home.start().terminate();
        let all: Vec<String> = names(20).collect();
        let (first, last) = all.split_at(11);
        let mut at_once = Paced::new(Duration::ZERO);
        rename_slowly(&home, first, &mut at_once);
        take_away(&home, last.iter().cloned(), &mut at_once);
        let mut paced = Paced::new(Duration::from_millis(600));
        // The scan of the start finds them gone.
        let daemon = home.start();
        for name in last {
            let new = home.at("sales").join(format!("new-{name}"));
            fs::rename(home.beside("away").join(name), new).unwrap();
            paced.step();
        }
        if !paced.is_within(Duration::from_millis(2_500)) {
            return false;
        }
        daemon.fence();
        assert_eq!(events(&endpoint), [""; 0]);
        daemon.wait_message("the project moved", 20);
        true
    });
}

#[test]
fn slow_renames_that_only_scans_see_are_moves() {
    in_time(|| {
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, "poll").settle("2s");
        let home = Home::new(&settings.repository("poll_interval: 3s"));
        projects(&home, names(20));
        let daemon = home.start();
        let few: Vec<String> = names(9).collect();
        let mut paced = Paced::new(Duration::from_millis(300));
        let began = Instant::now();
        rename_slowly(&home, &few, &mut paced);
        // 5.4 s without a delay.
        if began.elapsed() > Duration::from_millis(6_400) {
            return false;
        }
        daemon.fence();
        assert_eq!(events(&endpoint), [""; 0]);
        daemon.wait_message("the project moved", 9);
        true
    });
}

/// `PROJECT_WEBHOOKS_CHECKOUT=3000 cargo test --test absence checkout` renames more projects.
fn a_checkout_that_renames_all_projects_is_no_event(backend: &str) {
    const TEST: &str = "a checkout that renames all projects";
    let n = std::env::var("PROJECT_WEBHOOKS_CHECKOUT").ok();
    let n: usize = n.map_or(400, |n| n.parse().unwrap());
    if !common::succeeds("git", &["--version"]) {
        return skip(TEST, "git is not installed");
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend).settle("3s"));
    let root = home.at("");
    let root = root.to_str().unwrap();
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"];
        let at = ["-C", root];
        let all = [&at[..], &identity[..], arguments].concat();
        assert!(common::succeeds("git", &all), "{arguments:?}");
    };
    git(&["init", "-q", "-b", "old"]);
    projects(&home, names(n));
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "old names"]);
    git(&["checkout", "-q", "-b", "new"]);
    for name in names(n) {
        home.rename(&format!("sales/{name}"), &format!("sales/new-{name}"));
    }
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "new names"]);
    git(&["checkout", "-q", "old"]);
    let daemon = home.start();
    for branch in ["new", "old"] {
        git(&["checkout", "-q", branch]);
        wait_until("all projects moved", || {
            let moved = daemon.n_messages("the project moved");
            (moved >= if branch == "new" { n } else { 2 * n }).then_some(())
        });
    }
    daemon.fence();
    wait_not_held(&home);
    assert_eq!(events(&endpoint), [""; 0]);
}

fn imports_during_a_wave_do_not_prevent_its_hold(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend).repository("mass_delete_after: 1h"));
    projects(&home, names(20));
    let daemon = home.start();
    vanish(&home, &daemon, names(12));
    for name in names(12) {
        let content = xml(&name, &format!("e-new-{name}"), "");
        home.write(&format!("hr/{name}/project.xml"), &content);
    }
    let status = wait_held(&home, 12, "more-than-half");
    let text = "12 of 20 projects are gone";
    let troubles = status["troubles"]["removals"].to_string();
    assert!(troubles.contains(text), "{troubles}");
    drop(daemon);
}

/// A scan observes new projects before it looks for those that are gone.
#[test]
fn imports_that_the_same_scan_finds_do_not_prevent_a_hold() {
    // How many of the projects vanish, and how many others come.
    let (n, n_gone, n_new) = (20, 12, 50);
    for backend in ["poll", "native"] {
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, backend)
            .repository("mass_delete_after: 1h")
            .repository("poll_interval: 1h");
        let home = Home::new(&settings);
        projects(&home, names(n));
        let daemon = home.start();
        let change = || {
            for name in names(n_gone) {
                home.remove_all(&format!("sales/{name}"));
            }
            for name in names(n_new) {
                let content = xml(&name, &format!("e-new-{name}"), "");
                home.write(&format!("hr/{name}/project.xml"), &content);
            }
        };
        let daemon = if backend == "poll" {
            change();
            daemon.signal(rustix::process::Signal::USR1);
            daemon
        } else {
            daemon.terminate();
            change();
            home.start()
        };
        wait_held(&home, n_gone, "more-than-half");
        endpoint.wait_for(2 * n_new);
        assert_eq!(endpoint.n(), 2 * n_new, "{backend}");
        drop(daemon);
    }
}

/// The number of full scans that confirmed the end of a wave.
fn n_scans_for_removals(home: &Home) -> u64 {
    let metrics = fetch(home, "/metrics");
    let metric = "project_webhooks_rescans_total{reason=\"removals\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(metric));
    line.unwrap().trim().parse().unwrap()
}

fn a_wave_that_shrinks_ends_after_a_few_full_scans(backend: &str) {
    // How many of the projects vanish, and how many of those are back.
    for (n, n_gone, n_back) in [(4, 4, 1), (40, 12, 5)] {
        in_time(|| {
            let endpoint = Endpoint::new();
            let settings = settings(&endpoint, backend).settle("2s");
            let home = Home::new(&settings.repository("mass_delete_after: 500ms"));
            projects(&home, names(n));
            fs::create_dir(home.beside("away")).unwrap();
            let daemon = home.start();
            let began = Instant::now();
            for name in names(n_gone) {
                let away = home.beside("away").join(&name);
                fs::rename(home.at("sales").join(&name), away).unwrap();
            }
            if n_gone == n {
                wait_held(&home, n, "all");
            }
            // A later change is observed, so the wave has begun.
            home.write("hr/new/project.xml", &xml("New", "e-new", ""));
            endpoint.wait_for(2);
            endpoint.take();
            for name in names(n_back) {
                let away = home.beside("away").join(&name);
                fs::rename(away, home.at("sales").join(&name)).unwrap();
            }
            // Held removals wait for as long as it takes.
            if n_gone < n && began.elapsed() > Duration::from_millis(1_500) {
                return false;
            }
            let n_events = 2 * (n_gone - n_back);
            let scans = "full scans for a wave that is over";
            wait_until("the deletes", || {
                let n_scans = n_scans_for_removals(&home);
                assert!(n_scans <= 3, "{n_scans} {scans}, {n_gone} of {n}");
                (endpoint.n() >= n_events).then_some(())
            });
            wait_not_held(&home);
            drop(daemon);
            assert_eq!(endpoint.n(), n_events, "{n_gone} of {n}");
            true
        });
    }
}
