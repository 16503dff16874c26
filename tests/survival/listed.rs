//! The problems that `status` lists are those of the present disk.

use std::fs;
use std::os::unix::fs::symlink;

use super::common::{Daemon, Endpoint, Home, Settings, on_both_backends, sorted, wait_until, xml};

on_both_backends!(listed_problems_are_those_of_the_present_disk);

/// Waits until exactly these paths are listed.
fn wait_listed(home: &Home, what: &str, paths: &[&str]) {
    let mut last = String::new();
    let expected = sorted(paths.iter().map(|path| (*path).to_owned()));
    wait_until(what, || {
        let status = home.json(&["status"]);
        let listed = status["incomplete"].as_array()?.iter();
        let listed = sorted(listed.filter_map(|one| one["path"].as_str().map(str::to_owned)));
        let found = format!("{what}: {listed:?}");
        if found != last {
            eprintln!("{found}");
            last = found;
        }
        (listed == expected).then_some(())
    });
}

/// No full scan helps: the next one by `rescan` is 10 minutes away.
fn listed_problems_are_those_of_the_present_disk(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
    let outside = home.beside("outside");
    let project = |at: &str, id: &str| home.write(&format!("{at}/project.xml"), &xml("P", id, ""));
    fs::create_dir_all(outside.join("p")).unwrap();
    fs::write(outside.join("p/project.xml"), xml("P", "e-o", "")).unwrap();
    project("sales/good", "e-1");
    symlink(&outside, home.at("linked")).unwrap();
    symlink(&outside, home.at("linked-later")).unwrap();
    symlink(outside.join("p"), home.at("sales/link")).unwrap();
    home.write("sales/broken/project.xml", "<schema");
    let daemon: Daemon<'_> = home.start();
    let first = [
        "linked",
        "linked-later",
        "sales/broken/project.xml",
        "sales/link",
    ];
    wait_listed(&home, "at the start", &first);

    // A link is replaced by a directory, another one is removed, and a new one comes.
    fs::remove_file(home.at("linked")).unwrap();
    project("linked/p", "e-2");
    fs::remove_file(home.at("linked-later")).unwrap();
    symlink(&outside, home.at("new-link")).unwrap();
    let then = ["new-link", "sales/broken/project.xml", "sales/link"];
    wait_listed(&home, "other links", &then);

    // In one step, and back.
    fs::create_dir_all(home.beside("made/p")).unwrap();
    fs::write(home.beside("made/p/project.xml"), xml("P", "e-3", "")).unwrap();
    exchange(&home.beside("made"), &home.at("new-link"));
    wait_listed(
        &home,
        "an exchange",
        &["sales/broken/project.xml", "sales/link"],
    );
    exchange(&home.beside("made"), &home.at("new-link"));
    wait_listed(&home, "an exchange back", &then);
    fs::remove_file(home.at("new-link")).unwrap();

    // An organization with problems is renamed, and removed.
    home.rename("sales", "hr");
    let renamed = ["hr/broken/project.xml", "hr/link"];
    wait_listed(&home, "a renamed organization", &renamed);
    home.remove_all("hr/broken");
    wait_listed(&home, "a removed project", &["hr/link"]);
    fs::remove_file(home.at("hr/link")).unwrap();
    project("hr/link", "e-4");
    wait_listed(&home, "a link that is a project now", &[]);
    home.write("hr/link/published/project.xml", "<schema");
    home.write("hr/link/snapshots/s1.xml", "");
    symlink(&outside, home.at("hr/link-2")).unwrap();
    let three = [
        "hr/link-2",
        "hr/link/published/project.xml",
        "hr/link/snapshots/s1.xml",
    ];
    wait_listed(&home, "files of a project", &three);
    fs::rename(home.at("hr"), home.beside("away")).unwrap();
    wait_listed(&home, "a removed organization", &[]);
    drop(daemon);
}

fn exchange(one: &std::path::Path, other: &std::path::Path) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}
