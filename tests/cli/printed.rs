//! Names on a terminal are escaped; completions and manual pages are complete.

use std::fs;

use project_webhooks::config::settings::SETTINGS;

use super::patience::wait_exit;
use super::support::{Place, Ran, Running, program, project, run, webhook};

#[test]
fn names_on_disk_are_escaped_on_the_terminal() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    place.write("sales/orders/project.xml", &project("Orders"));
    place.write("sales/orders/snapshots/\u{1b}[2J\u{9b}\n.xml", "<schema");
    let daemon = place.daemon();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["scan"],
        &["scan", "--json"],
    ] {
        let printed = place.run(arguments).succeeded();
        assert!(printed.contains("[2J"), "{printed:?}");
        let is_safe = |c: char| c == '\n' || !c.is_control();
        assert!(printed.chars().all(is_safe), "{printed:?}");
    }
    drop(daemon);
}

#[test]
fn paths_of_the_configuration_are_escaped_on_the_terminal() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let hostile = place.path("\u{1b}[2J\u{9b}");
    fs::create_dir_all(hostile.join("repository")).unwrap();
    let config = hostile.join("config.yaml");
    let valid = fs::read_to_string(place.path("config.yaml")).unwrap();
    let invalid = format!("{valid}unknown: 1\n");
    for (text, arguments) in [
        (&valid, &["check"][..]),
        (&valid, &["check", "--json"]),
        (&valid, &["accept"]),
        (&valid, &["reload"]),
        (&invalid, &["check"]),
        (&invalid, &["check", "--json"]),
        (&invalid, &["status"]),
        (&invalid, &["run"]),
    ] {
        fs::write(&config, text).unwrap();
        let mut command = program();
        command.arg("--config").arg(&config).args(arguments);
        let Ran { out, err, .. } = run(command);
        let printed = out + &err;
        assert!(printed.contains("[2J"), "{arguments:?}: {printed:?}");
        let is_safe = |c: char| c == '\n' || !c.is_control();
        assert!(printed.chars().all(is_safe), "{arguments:?}: {printed:?}");
    }
}

#[test]
fn packagers_get_completions_and_a_manual_page_without_a_configuration() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let mut command = program();
        command.args(["completions", shell]);
        assert!(run(command).succeeded().contains("redeliver"), "{shell}");
    }
    let mut command = program();
    command.arg("man");
    let page = run(command).succeeded();
    assert!(
        page.contains(".TH project\\-webhooks 1 "),
        "{}",
        &page[..200]
    );
}

#[test]
fn the_manual_page_of_the_configuration_has_every_setting() {
    let mut command = program();
    command.args(["man", "5"]);
    let page = run(command).succeeded();
    for setting in SETTINGS {
        let key = setting.key.replace('-', "\\-");
        let title = format!(".TP\n\\fB{key}\\fR\n");
        assert_eq!(page.matches(&title).count(), 1, "{key}\n{page}");
    }
    assert!(!page.contains('`'), "{page}");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let mut command = program();
    command.arg("man");
    let (mut man, lines) = Running::printing(command);
    drop(lines);
    assert_eq!(wait_exit(&mut man.0).code(), Some(0));
}
