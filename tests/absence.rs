//! Missing files and projects, with the real binary: when a removal counts, and when it is held.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Daemon, Endpoint, Home, Settings, on_both_backends, skip, wait_until, xml};

on_both_backends!(
    activity_that_goes_on_does_not_postpone_a_delete_for_ever,
    a_published_copy_that_is_overwritten_and_removed_while_a_replacement_waits_is_published,
    an_unreadable_directory_of_copies_does_not_hold_up_a_delete,
    all_projects_that_vanish_are_held_until_one_is_back,
    accepted_removals_are_judged,
    held_and_accepted_removals_survive_a_restart,
    a_directory_that_is_locked_at_the_start_deletes_nothing,
    renames_that_take_longer_than_the_settle_time_are_moves,
    a_checkout_that_renames_all_projects_is_no_event,
    more_than_half_of_the_projects_are_held_for_a_time,
    imports_during_a_wave_do_not_prevent_its_hold,
    a_wave_that_shrinks_ends_after_a_few_full_scans,
    a_repository_whose_bind_mount_lost_its_source_deletes_nothing,
);

/// Calls a function at the end of its scope, also after a panic.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The events that an endpoint received, in order.
fn events(endpoint: &Endpoint) -> Vec<String> {
    endpoint.all().into_iter().map(|one| one.event).collect()
}

fn activity_that_goes_on_does_not_postpone_a_delete_for_ever(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).watch(backend).settle("200ms"));
    home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
    let daemon = home.start();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0_u64.. {
                if is_done.load(Ordering::Relaxed) {
                    return;
                }
                home.write("sales/orders/build.log", &n.to_string());
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let _guard = OnDrop(|| is_done.store(true, Ordering::Relaxed));
        home.remove("sales/orders/project.xml");
        assert_eq!(endpoint.take_events(1), ["project-delete"]);
    });
    drop(daemon);
}

fn a_published_copy_that_is_overwritten_and_removed_while_a_replacement_waits_is_published(
    backend: &str,
) {
    let copy = "sales/orders/published/v1/project.xml";
    for in_place in [true, false] {
        let endpoint = Endpoint::new();
        // Long enough for all of it to happen while the replacement waits.
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend).settle("3s"));
        home.write("sales/orders/project.xml", &xml("Orders", "e-1", "one"));
        home.write(copy, &xml("Orders", "e-1", "v1"));
        let daemon = home.start();
        let v2 = xml("Leads", "e-2", "v2");
        home.replace("sales/orders/project.xml", &xml("Leads", "e-2", "one"));
        if in_place {
            fs::write(home.at(copy), &v2).unwrap();
        } else {
            home.replace(copy, &v2);
        }
        // A later change is observed, so this one was before it is gone.
        home.write("sales/other/project.xml", &xml("Other", "e-3", ""));
        endpoint.wait_for_one("of another project", |one| {
            one.event == "project-import-any"
        });
        endpoint.take();
        home.remove(copy);
        let came = endpoint.wait_for(5);
        let told: Vec<(&str, bool)> = came
            .iter()
            .map(|one| (one.event.as_str(), one.payload == v2.as_bytes()))
            .collect();
        assert_eq!(
            told,
            [
                ("project-delete", false),
                ("project-delete-and-unpublish", false),
                ("project-import", false),
                ("project-import-any", false),
                ("project-publish", true),
            ],
            "in place: {in_place}"
        );
        daemon.fence();
        assert_eq!(events(&endpoint).len(), 5);
    }
}

/// Unreadable for everybody, also for root: a symbolic link in the place of a directory.
fn hide(home: &Home, below: &str) {
    fs::rename(home.at(below), home.beside("hidden")).unwrap();
    symlink(home.beside("hidden"), home.at(below)).unwrap();
}

fn an_unreadable_directory_of_copies_does_not_hold_up_a_delete(backend: &str) {
    let (a, s, v) = (
        xml("Orders", "e-1", "one"),
        xml("Orders", "e-1", "snapshot"),
        xml("Orders", "e-1", "published"),
    );
    // The directory that cannot be read, and the events once the rest is gone.
    let cases: [(&str, &[&str]); 2] = [
        (
            "sales/orders/snapshots",
            &["project-delete", "project-delete-and-unpublish"],
        ),
        ("sales/orders/published", &["project-delete"]),
    ];
    for (hidden, expected) in cases {
        let endpoint = Endpoint::new();
        let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
        home.write("sales/orders/project.xml", &a);
        home.write("sales/orders/snapshots/s1.xml", &s);
        home.write("sales/orders/published/v1/project.xml", &v);
        let daemon = home.start();
        hide(&home, hidden);
        daemon.fence();
        assert_eq!(endpoint.n(), 0, "unreadable is not gone");
        home.remove("sales/orders/project.xml");
        if hidden.ends_with("snapshots") {
            home.remove_all("sales/orders/published");
        }
        endpoint.wait_for(expected.len());
        daemon.fence();
        assert_eq!(events(&endpoint), expected, "{hidden}");
        let status = home.json(&["status"]);
        assert_eq!(status["incomplete"][0]["path"], hidden, "{status}");
        // The files come back into sight, and the project with them.
        fs::remove_file(home.at(hidden)).unwrap();
        fs::rename(home.beside("hidden"), home.at(hidden)).unwrap();
        daemon.fence();
        assert_eq!(events(&endpoint), expected, "{hidden}");
        home.write("sales/orders/project.xml", &a);
        endpoint.wait_for_one("the project is back", |one| {
            one.event == "project-import-any"
        });
    }
}

/// A project that was published, and the directory of its organization.
fn project(home: &Home, name: &str) {
    let content = |body: &str| xml(name, &format!("e-{name}"), body);
    let at = format!("sales/{name}");
    home.write(&format!("{at}/project.xml"), &content("one"));
    home.write(&format!("{at}/published/v1/project.xml"), &content("v1"));
    home.write(&format!("{at}/snapshots/s1.xml"), &content("s1"));
}

fn projects(home: &Home, names: impl IntoIterator<Item = String>) {
    for name in names {
        project(home, &name);
    }
}

fn names(n: usize) -> impl Iterator<Item = String> + Clone {
    (0..n).map(|n| format!("p{n:03}"))
}

fn settings(endpoint: &Endpoint, backend: &str) -> Settings {
    Settings::all_to(endpoint)
        .watch(backend)
        .top("admin: { listen: \"unix:./admin.sock\" }")
}

/// Waits until so many removals are held for this cause. Returns the status.
fn wait_held(home: &Home, count: usize, cause: &str) -> serde_json::Value {
    wait_until(&format!("{count} held removals: {cause}"), || {
        let status = home.json(&["status"]);
        let held = &status["heldRemovals"];
        (held["count"] == count && held["cause"] == cause).then_some(status)
    })
}

fn wait_not_held(home: &Home) {
    wait_until("no held removals", || {
        home.json(&["status"])["heldRemovals"]
            .is_null()
            .then_some(())
    });
}

/// The answer of the admin server at a path.
fn fetch(home: &Home, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(home.beside("admin.sock")).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Runs a command that may fail.
fn run(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
        .arg("--config")
        .arg(home.config())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8(said).unwrap())
}

fn all_projects_that_vanish_are_held_until_one_is_back(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    projects(&home, names(4));
    let daemon = home.start();
    fs::rename(home.at("sales"), home.beside("away")).unwrap();
    let status = wait_held(&home, 4, "all");
    let text = "all 4 projects are gone";
    assert!(status["troubles"]["removals"].to_string().contains(text));
    assert_eq!(status["heldRemovals"]["until"], serde_json::Value::Null);
    daemon.wait_message(text, 1);
    let ready = fetch(&home, "/readyz");
    assert!(ready.contains(text), "{ready}");
    let metrics = fetch(&home, "/metrics");
    let metric = "project_webhooks_held_removals{reason=\"all\"} 4";
    assert!(metrics.contains(metric), "{metrics}");
    assert!(home.command(&["status"]).contains(text));

    // Another project that comes meanwhile ends no hold.
    home.write("hr/new/project.xml", &xml("New", "e-new", ""));
    endpoint.wait_for(2);
    wait_held(&home, 4, "all");
    endpoint.take();

    // One of them is back, and the others soon after: nothing happened.
    fs::create_dir(home.at("sales")).unwrap();
    for name in names(4) {
        fs::rename(
            home.beside("away").join(&name),
            home.at("sales").join(&name),
        )
        .unwrap();
    }
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
    // A single project that goes is deleted.
    home.remove_all("sales/p000");
    endpoint.wait_for(2);
    daemon.fence();
    assert_eq!(
        events(&endpoint),
        ["project-delete", "project-delete-and-unpublish"]
    );
}

fn accepted_removals_are_judged(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    projects(&home, names(3));
    let (code, said) = run(&home, &["accept", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no running daemon uses"), "{said}");
    let daemon = home.start();
    assert!(home.command(&["accept"]).contains("No removals are held"));
    home.remove_all("sales");
    wait_held(&home, 3, "all");
    let scanned = home.command(&["scan"]);
    assert!(scanned.contains("`run` holds their deletes"), "{scanned}");
    // It does not go on without an answer, or without a terminal to ask on.
    let (code, said) = run(&home, &["accept"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("all 3 projects are gone"), "{said}");
    for name in names(3) {
        assert!(said.contains(&format!("sales/{name}")), "{said}");
    }
    wait_held(&home, 3, "all");
    let accepted = home.json(&["accept", "--yes"]);
    assert_eq!(accepted["released"], 3);
    assert_eq!(accepted["projects"][0], "sales/p000");
    endpoint.wait_for(6);
    wait_not_held(&home);
    assert!(home.command(&["accept"]).contains("No removals are held"));
    daemon.fence();
    assert_eq!(endpoint.n(), 6);
}

fn held_and_accepted_removals_survive_a_restart(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    projects(&home, names(5));
    let daemon = home.start();
    fs::rename(home.at("sales"), home.beside("away")).unwrap();
    wait_held(&home, 5, "all");
    // As into an empty mount point.
    home.write("hr/new/project.xml", &xml("New", "e-new", ""));
    endpoint.wait_for(2);
    endpoint.take();
    daemon.terminate();

    let daemon = home.start();
    wait_held(&home, 5, "all");
    assert_eq!(events(&endpoint), [""; 0]);
    // One is back while the daemon is down; the others are not all projects any more.
    daemon.terminate();
    project(&home, "p000");
    let daemon = home.start();
    endpoint.wait_for(8);
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(endpoint.take().len(), 8);

    home.remove_all("sales");
    home.remove_all("hr");
    projects(&home, names(4).skip(1));
    endpoint.wait_for(15);
    endpoint.take();
    home.remove_all("sales");
    wait_held(&home, 3, "all");
    assert_eq!(home.json(&["accept", "--yes"])["released"], 3);
    // Whether they are judged by now or not.
    daemon.kill();
    let daemon = home.start();
    // A callback whose answer was not recorded comes again, with its id.
    let ids = || -> BTreeSet<String> { endpoint.all().into_iter().map(|one| one.id).collect() };
    wait_until("six events", || (ids().len() == 6).then_some(()));
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(daemon.n_messages("are gone"), 0, "they are not held again");
    assert_eq!(ids().len(), 6);
}

/// As fscrypt shows a directory without its key: other names, and contents that cannot be read.
fn a_directory_that_is_locked_at_the_start_deletes_nothing(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    projects(&home, names(12));
    home.start().terminate();
    fs::rename(home.at("sales"), home.beside("unlocked")).unwrap();
    for name in names(12) {
        let locked = format!("sKLyFz5,_OWkP+{name}/Sx7NpQ,wGh0uVtJ/4dD_oU8CJc");
        home.write(&locked, "unreadable");
    }
    let daemon = home.start();
    wait_held(&home, 12, "all");
    assert_eq!(events(&endpoint), [""; 0]);
    for name in names(12) {
        home.remove_all(&format!("sKLyFz5,_OWkP+{name}"));
    }
    fs::rename(home.beside("unlocked"), home.at("sales")).unwrap();
    wait_not_held(&home);
    daemon.fence();
    assert_eq!(events(&endpoint), [""; 0]);
}

fn renames_that_take_longer_than_the_settle_time_are_moves(backend: &str) {
    // Of the projects, so many are renamed: as by `rsync --delete-before`, with a pause after each.
    for (n, n_renamed) in [(20, 20), (30, 12)] {
        let endpoint = Endpoint::new();
        let home = Home::new(&settings(&endpoint, backend).settle("3s"));
        projects(&home, names(n));
        fs::create_dir(home.beside("away")).unwrap();
        let daemon = home.start();
        let pause = || std::thread::sleep(Duration::from_millis(180));
        let renamed: Vec<String> = names(n_renamed).collect();
        for name in &renamed {
            let away = home.beside("away").join(name);
            fs::rename(home.at("sales").join(name), away).unwrap();
            pause();
        }
        for name in &renamed {
            let away = home.beside("away").join(name);
            let new = home.at("sales").join(format!("new-{name}"));
            fs::rename(away, new).unwrap();
            pause();
        }
        daemon.fence();
        assert_eq!(events(&endpoint), [""; 0], "{n_renamed} of {n}");
        daemon.wait_message("the project moved", n_renamed);
        assert_eq!(home.json(&["status"])["projects"], n);
    }
}

fn a_checkout_that_renames_all_projects_is_no_event(backend: &str) {
    const TEST: &str = "a checkout that renames all projects";
    const N: usize = 400;
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
    projects(&home, names(N));
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "old names"]);
    git(&["checkout", "-q", "-b", "new"]);
    for name in names(N) {
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
            (moved >= if branch == "new" { N } else { 2 * N }).then_some(())
        });
    }
    daemon.fence();
    wait_not_held(&home);
    assert_eq!(events(&endpoint), [""; 0]);
}

fn more_than_half_of_the_projects_are_held_for_a_time(backend: &str) {
    // How many of 20 are removed, `mass_delete_after`, and whether they are held.
    for (n, hold, is_held) in [
        (12, "1h", true),
        (12, "500ms", true),
        (12, "0s", false),
        (10, "1h", false),
    ] {
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, backend);
        let home = Home::new(&settings.repository(&format!("mass_delete_after: {hold}")));
        projects(&home, names(20));
        let daemon = home.start();
        for name in names(n) {
            home.remove_all(&format!("sales/{name}"));
        }
        let text = format!("{n} of 20 projects vanished together");
        if hold == "1h" && is_held {
            let status = wait_held(&home, n, "more-than-half");
            let until = status["heldRemovals"]["until"].as_str().unwrap();
            let until: jiff::Timestamp = until.parse().unwrap();
            assert!(until > jiff::Timestamp::now());
            let ready = fetch(&home, "/readyz");
            assert!(ready.contains(&text), "{ready}");
            let metrics = fetch(&home, "/metrics");
            let metric = format!("project_webhooks_held_removals{{reason=\"more-than-half\"}} {n}");
            assert!(metrics.contains(&metric), "{metrics}");
            daemon.fence();
            assert_eq!(events(&endpoint), [""; 0]);
            assert_eq!(home.json(&["accept", "--yes"])["released"], n);
        }
        endpoint.wait_for(2 * n);
        daemon.fence();
        wait_not_held(&home);
        assert_eq!(endpoint.n(), 2 * n);
        assert_eq!(daemon.n_messages(&text) > 0, is_held, "{n}, {hold}");
    }
}

fn imports_during_a_wave_do_not_prevent_its_hold(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend).repository("mass_delete_after: 1h"));
    projects(&home, names(20));
    let daemon = home.start();
    for name in names(12) {
        home.remove_all(&format!("sales/{name}"));
    }
    for name in names(12) {
        let content = xml(&name, &format!("e-new-{name}"), "");
        home.write(&format!("hr/{name}/project.xml"), &content);
    }
    let status = wait_held(&home, 12, "more-than-half");
    let text = "12 of 20 projects vanished together";
    let troubles = status["troubles"]["removals"].to_string();
    assert!(troubles.contains(text), "{troubles}");
    drop(daemon);
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
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, backend).settle("2s");
        let home = Home::new(&settings.repository("mass_delete_after: 500ms"));
        projects(&home, names(n));
        fs::create_dir(home.beside("away")).unwrap();
        let daemon = home.start();
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
    }
}

fn a_repository_whose_bind_mount_lost_its_source_deletes_nothing(backend: &str) {
    const TEST: &str = "a bind mount without its source";
    if !common::succeeds("unshare", &["-m", "true"]) {
        return skip(TEST, "mount namespaces are not allowed");
    }
    let endpoint = Endpoint::new();
    let home = Home::new(&settings(&endpoint, backend));
    projects(&home, names(12));
    let source = home.beside("source");
    fs::rename(home.at(""), &source).unwrap();
    fs::create_dir(home.at("")).unwrap();
    let run = Daemon::command(&home);
    let mut command = Command::new("unshare");
    command
        .args([
            "-m",
            "sh",
            "-ec",
            "mount --bind \"$0\" \"$1\"; shift; exec \"$@\"",
        ])
        .arg(&source)
        .arg(home.at(""))
        .arg(run.get_program())
        .args(run.get_args())
        .env_remove("NOTIFY_SOCKET");
    let daemon = Daemon::launch(&home, command);
    daemon.wait_ready();
    fs::remove_dir_all(&source).unwrap();
    wait_held(&home, 12, "all");
    assert_eq!(events(&endpoint), [""; 0]);
}

const OTHER_LAYOUT: &str =
    "layout: { snapshot: \"{organization}/{project}/old/{versionTag}.xml\" }";

#[test]
fn a_reload_with_another_layout_is_refused_while_removals_are_held() {
    for (n, n_projects, cause) in [(12, 12, "all"), (12, 20, "more-than-half")] {
        let endpoint = Endpoint::new();
        let settings = settings(&endpoint, "auto").repository("mass_delete_after: 1h");
        let home = Home::new(&settings);
        projects(&home, names(n_projects));
        let daemon = home.start();
        for name in names(n) {
            home.remove_all(&format!("sales/{name}"));
        }
        wait_held(&home, n, cause);
        home.reconfigure(&settings.clone().repository(OTHER_LAYOUT));
        assert!(!daemon.reload(), "{cause}");
        daemon.wait_message("or run `project-webhooks accept`, and then reload", 1);
        wait_held(&home, n, cause);
        // Nothing changed, so the deletes are sent once they are accepted. Then the layout may change.
        assert_eq!(home.json(&["accept", "--yes"])["released"], n);
        endpoint.wait_for(2 * n);
        wait_not_held(&home);
        assert!(daemon.reload(), "{cause}");
        daemon.wait_message("existing projects are recorded without events", 1);
        assert_eq!(endpoint.n(), 2 * n);
    }
}

#[test]
fn a_start_with_another_layout_is_refused_while_removals_are_held() {
    let endpoint = Endpoint::new();
    let settings = settings(&endpoint, "auto");
    let home = Home::new(&settings);
    projects(&home, names(3));
    let daemon = home.start();
    home.remove_all("sales");
    wait_held(&home, 3, "all");
    daemon.terminate();
    home.configure(&settings.clone().repository(OTHER_LAYOUT));
    let mut daemon = Daemon::launch(&home, Daemon::command(&home));
    assert_eq!(daemon.wait_exit().code(), Some(78));
    assert_eq!(daemon.n_messages("or run `project-webhooks accept`"), 1);
    // Nothing is lost.
    home.configure(&settings);
    let daemon = home.start();
    wait_held(&home, 3, "all");
    assert_eq!(home.json(&["accept", "--yes"])["released"], 3);
    endpoint.wait_for(6);
    daemon.fence();
    assert_eq!(endpoint.n(), 6);
}
