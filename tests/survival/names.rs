//! Hostile names and parameters.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, mkdirat, openat};

use super::common::{
    Daemon, Endpoint, Home, Settings, Webhook, on_both_backends, sorted, wait_until, xml,
};
use super::wait_status;

/// Names that could break a header, a multipart part, a URL or a log line.
const NAMES: &[&str] = &[
    "new\nline",
    "carriage\r\nx-evil: 1",
    "quo\"te",
    "back\\slash",
    "per%0d%0acent",
    "semi;colon=1",
    "amp&ersand",
    "\u{1b}[31mred",
    "\u{7f}\u{1}",
    "--boundary",
    "ünï çödé 日本語 🦀",
    " space ",
    "{projectName}",
    "$(touch pwned)",
    "*",
];

on_both_backends!(
    every_name_arrives_unchanged_in_every_format,
    names_that_are_not_text_are_listed_and_block_nothing,
    paths_longer_than_a_system_call_accepts_block_nothing,
    a_root_whose_files_have_longer_paths_than_a_system_call_takes_is_watched,
    a_line_of_the_log_stays_one_line,
);

fn every_name_arrives_unchanged_in_every_format(backend: &str) {
    let endpoint = Endpoint::new();
    let formats = ["multipart", "form", "xml", "json", "cloudevents"];
    let webhooks = formats.map(|format| {
        Webhook::new(format, &format!("{}{format}", endpoint.url()))
            .events("[project-import-any]")
            .with(&format!("format: {format}"))
    });
    let home = Home::new(&Settings::of(webhooks).watch(backend));
    let daemon = home.start();
    let long = "n".repeat(255);
    let names: Vec<&str> = NAMES.iter().copied().chain([long.as_str()]).collect();
    for name in &names {
        // The name of the directory, since the definition has none.
        home.write(&format!("{name}/{name}/project.xml"), "<schema/>");
        // The name in the definition, with every character written so that it stays what it is.
        let escaped: String = name
            .chars()
            .filter(
                |one| !matches!(*one, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}'),
            )
            .map(|one| format!("&#{};", u32::from(one)))
            .collect();
        home.write(
            &format!("{name}/named/project.xml"),
            &format!("<schema name=\"{escaped}\"/>"),
        );
    }
    let n = names.len() * 2 * formats.len();
    let came = endpoint.wait_for(n);
    daemon.fence();
    assert_eq!(endpoint.n(), n);
    for format in formats {
        for name in &names {
            let in_file: String = name
                .chars()
                .filter(|one| {
                    !matches!(*one, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}')
                })
                .collect();
            for project_name in [*name, in_file.as_str()] {
                let found = came.iter().any(|one| {
                    one.target.starts_with(&format!("/{format}"))
                        && one.parameter("projectName") == Some(project_name)
                        && one.parameter("organizationName") == Some(name)
                });
                assert!(found, "{format}: {project_name:?} of {name:?}");
            }
        }
    }
    assert!(!PathBuf::from("pwned").exists() && !home.beside("pwned").exists());
}

fn names_that_are_not_text_are_listed_and_block_nothing(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
    let name = OsStr::from_bytes(b"la\xfftin");
    fs::create_dir_all(home.at("sales").join(name)).unwrap();
    fs::write(home.at("sales").join(name).join("project.xml"), "<schema/>").unwrap();
    fs::create_dir_all(home.at("").join(name)).unwrap();
    let daemon = home.start();
    home.write("sales/p/project.xml", &xml("P", "e-1", ""));
    endpoint.wait_for(2);
    daemon.fence();
    assert_eq!(endpoint.n(), 2);
    wait_status(&home, "both names", |status| {
        let listed = status["incomplete"].as_array().unwrap();
        let of_them = listed.iter().filter(|one| {
            one["path"].as_str().unwrap().contains("la\u{fffd}tin")
                && one["reason"].as_str().unwrap().contains("UTF-8")
        });
        of_them.count() == 2
    });
}

/// Makes directories of long names in each other, each through the one above, since the path as a
/// whole is longer than a system call takes. Returns the path.
fn deep(home: &Home, below: &str, n: usize) -> PathBuf {
    let mut path = home.at(below);
    fs::create_dir_all(&path).unwrap();
    let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = rustix::fs::open(&path, open, Mode::empty()).unwrap();
    let name = "d".repeat(250);
    for _ in 0..n {
        mkdirat(&directory, name.as_str(), Mode::RWXU).unwrap();
        directory = openat(&directory, name.as_str(), open, Mode::empty()).unwrap();
        path.push(&name);
    }
    path
}

fn paths_longer_than_a_system_call_accepts_block_nothing(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).watch(backend));
    deep(&home, "sales/p", 30);
    let daemon = home.start();
    deep(&home, "sales/q/published", 30);
    home.write("sales/p/project.xml", &xml("P", "e-1", ""));
    endpoint.wait_for(2);
    daemon.fence();
    // Projects whose whole path is longer than the root's path and theirs may be: 4,096 bytes.
    let long = "o".repeat(250);
    home.write(&format!("{long}/{long}/project.xml"), "<schema/>");
    endpoint.wait_for(4);
    // Such a tree is removed through its directories too.
    home.remove_all("sales/p");
    let deleted = endpoint.wait_for_one("the delete", |one| one.event == "project-delete");
    assert_eq!(deleted.parameter("projectName"), Some("P"));
}

fn a_root_whose_files_have_longer_paths_than_a_system_call_takes_is_watched(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(
        &Settings::all_to(&endpoint)
            .watch(backend)
            .repository("poll_interval: 1s"),
    );
    let root = deep(&home, "deep", 15);
    fs::create_dir_all(&root).unwrap();
    let config = fs::read_to_string(home.config()).unwrap();
    let config = config.replace("./repository", root.to_str().unwrap());
    fs::write(home.config(), config).unwrap();
    let daemon = Daemon::start(&home);
    let organization = "o".repeat(255);
    let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = rustix::fs::open(&root, open, Mode::empty()).unwrap();
    mkdirat(&above, organization.as_str(), Mode::RWXU).unwrap();
    let above = openat(&above, organization.as_str(), open, Mode::empty()).unwrap();
    mkdirat(&above, "p", Mode::RWXU).unwrap();
    let above = openat(&above, "p", open, Mode::empty()).unwrap();
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = openat(&above, "project.xml", write, Mode::RUSR).unwrap();
    rustix::io::write(&file, xml("P", "e-1", "").as_bytes()).unwrap();
    drop(file);
    let came = endpoint.wait_for(2);
    assert_eq!(
        came[0].parameter("organizationName"),
        Some(organization.as_str())
    );
    drop(daemon);
}

fn a_line_of_the_log_stays_one_line(backend: &str) {
    let endpoint = Endpoint::new();
    let home = Home::new(
        &Settings::all_to(&endpoint)
            .watch(backend)
            .top("admin: {}")
            .settle("300ms"),
    );
    let config = fs::read_to_string(home.config()).unwrap();
    let config = config
        .replace("admin: {}\n", "")
        .replace("format: json", "format: text");
    fs::write(home.config(), config).unwrap();
    let daemon = Daemon::launch(&home, Daemon::command(&home));
    wait_until("ready", || {
        (daemon.n_messages("ready: watching") > 0).then_some(())
    });
    home.write("a\nFAKE ERROR b/p\u{1b}[2J/project.xml", "<schema/>");
    endpoint.wait_for(2);
    daemon.wait_message("delivered", 2);
    let lines: Vec<String> = daemon
        .entries()
        .iter()
        .map(|entry| entry.message().to_owned())
        .collect();
    let forged = lines
        .iter()
        .filter(|line| line.starts_with("FAKE") || line.contains('\u{1b}'));
    assert_eq!(sorted(forged.cloned()), [""; 0], "{lines:#?}");
}
