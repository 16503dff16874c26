//! docs/operations.md: its commands are run, in a story that gives each its sense.

use std::collections::BTreeMap;

use crate::common::wait_until;
use crate::container::Container;
use crate::service::{REPOSITORY, UNIT, config, drop_in, installed};
use crate::{can_boot, root};

/// The blocks that are run, in the order of the story below.
const RUN: [&str; 14] = [
    "glance",
    "watches",
    "why-events",
    "why-deliveries",
    "why-not",
    "why-test",
    "backup",
    "restore",
    "rotate-make",
    "rotate-both",
    "rotate-done",
    "move-from",
    "move-to",
    "instance",
];

fn guide() -> String {
    std::fs::read_to_string(root().join("docs/operations.md")).unwrap()
}

/// The blocks of shell, by name; one that is done by hand has none.
fn blocks() -> BTreeMap<String, String> {
    let mut blocks = BTreeMap::new();
    let text = guide();
    let mut above = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            assert_eq!(line, "```sh", "{above}");
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let is_by_hand = above.starts_with("<!-- by hand: ");
            let name = above
                .strip_prefix("<!-- run: ")
                .and_then(|rest| rest.strip_suffix(" -->"));
            assert!(name.is_some() || is_by_hand, "nothing runs {block:?}");
            if let Some(name) = name {
                blocks.insert(name.to_owned(), block.join("\n"));
            }
        }
        above = line;
    }
    blocks
}

#[test]
fn every_block_is_run() {
    let blocks = blocks();
    let mut names: Vec<&str> = RUN.to_vec();
    // Where the story is over.
    names.push("version");
    names.sort_unstable();
    assert_eq!(blocks.keys().map(String::as_str).collect::<Vec<_>>(), names);
}

/// Writes secrets into the configuration, and the drop-in that provides them.
fn secrets(container: &Container, names: &[&str]) {
    let values: Vec<String> = names
        .iter()
        .map(|n| format!("{{ credential: {n} }}"))
        .collect();
    let secret = format!("    secret: [{}]\n", values.join(", "));
    container.configure(&config(9000, &secret).replace("name: all", "name: catalog"));
    let mut text = "[Service]\n".to_owned();
    for name in names {
        text += &format!("LoadCredential={name}:/etc/project-webhooks/credentials/{name}\n");
    }
    container.write(&format!("/etc/systemd/system/{UNIT}.d/secrets.conf"), &text);
}

/// The ids of the events, in order.
fn event_ids(container: &Container) -> Vec<String> {
    let events = container.run(&["project-webhooks", "events", "--json", "--limit", "0"]);
    let events: serde_json::Value = serde_json::from_str(&events).unwrap();
    let of = |event: &serde_json::Value| event["id"].as_str().unwrap().to_owned();
    events.as_array().unwrap().iter().map(of).collect()
}

#[test]
fn the_commands_of_the_guide_work() {
    if !can_boot("the_commands_of_the_guide_work") {
        return;
    }
    let blocks = blocks();
    let container = installed(|stage| drop_in(stage, "empty", "[Service]\n"));
    let run = |name: &str| container.sh(&blocks[name]);
    container.sh("umask 077; mkdir /etc/project-webhooks/credentials\n\
         printf 'whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz' \
           >/etc/project-webhooks/credentials/catalog-secret");
    secrets(&container, &["catalog-secret"]);
    container.run(&["systemctl", "daemon-reload"]);
    let old = container.receive(9000, "--secret whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz");
    container.run(&["systemctl", "start", UNIT]);
    container.import(REPOSITORY);
    container.snapshot(REPOSITORY, "s1");
    container.wait_snapshots(&old, 1);
    wait_until("the answer is recorded", || {
        let waiting = [
            "project-webhooks",
            "deliveries",
            "--state",
            "pending",
            "--json",
        ];
        (container.run(&waiting).trim() == "[]").then_some(())
    });

    run("glance");
    run("version");
    // The daemon has a watch for each directory that is counted, and no more.
    wait_until("the watches are as counted", || {
        let said = run("watches");
        let number = |line: &str| {
            let digits = line.trim_matches(|c: char| !c.is_ascii_digit());
            digits.parse::<u32>().ok()
        };
        let (counted, has) = (number(said.lines().next()?)?, number(said.lines().last()?)?);
        (counted == 4 && has == counted).then_some(())
    });

    let deliveries = container.run(&["project-webhooks", "deliveries", "--json"]);
    let deliveries: serde_json::Value = serde_json::from_str(&deliveries).unwrap();
    let id = deliveries[0]["id"].to_string();
    let event = deliveries[0]["eventId"].as_str().unwrap().to_owned();
    for name in ["why-events", "why-deliveries", "why-not", "why-test"] {
        let script = blocks[name].replace("DELIVERY", &id);
        let script = script
            .replace("show EVENT", &format!("show {event}"))
            .replace("EVENT_ID=EVENT", &format!("EVENT_ID={event}"));
        let said = container.sh(&script);
        assert!(name != "why-test" || said.contains("204"), "{said}");
    }

    // A backup of a running daemon; what comes after it is inferred again, as what it was.
    assert!(run("backup").contains("ok"));
    container.snapshot(REPOSITORY, "s2");
    container.wait_snapshots(&old, 2);
    let before = event_ids(&container);
    run("restore");
    wait_until("it is inferred again", || {
        (event_ids(&container) == before).then_some(())
    });

    // Two secrets: the receiver with the old one and one with the new one are both content.
    run("rotate-make");
    secrets(&container, &["catalog-secret", "catalog-secret-next"]);
    run("rotate-both");
    container.snapshot(REPOSITORY, "s3");
    // s2 came twice: with one id.
    container.wait_snapshots(&old, 4);
    let next = container.sh("cat /etc/project-webhooks/credentials/catalog-secret-next");
    container.run(&["systemctl", "stop", &old]);
    let new = container.receive(9000, &format!("--secret {}", next.trim()));
    container.snapshot(REPOSITORY, "s4");
    container.wait_snapshots(&new, 1);
    secrets(&container, &["catalog-secret"]);
    run("rotate-done");
    container.snapshot(REPOSITORY, "s5");
    container.wait_snapshots(&new, 2);
    for callback in container
        .received(&old)
        .iter()
        .chain(&container.received(&new))
    {
        assert_eq!(callback["signature"], "verified", "{callback}");
    }

    // Another host: another number of the user, another file system with the same files.
    run("move-from");
    container.sh(&format!(
        "rm -r /var/lib/project-webhooks /etc/project-webhooks /etc/systemd/system/{UNIT}.d\n\
         groupmod -g 4712 project-webhooks; usermod -u 4711 project-webhooks\n\
         mv {REPOSITORY} /srv/old; cp -r /srv/old {REPOSITORY}"
    ));
    let before = container.received(&new).len();
    run("move-to");
    container.snapshot(REPOSITORY, "s6");
    let tags = container.wait_snapshots(&new, 3);
    assert_eq!(tags.last().map(String::as_str), Some("s6"));
    assert_eq!(container.received(&new).len(), before + 1);

    // A second repository. Its secret comes by a drop-in of its own.
    container.sh(&format!(
        "mkdir /srv/sales; cd /etc/systemd/system; cp -r {UNIT}.d project-webhooks@sales.service.d"
    ));
    run("instance");
    container.import("/srv/sales");
    container.snapshot("/srv/sales", "other");
    let tags = container.wait_snapshots(&new, 4);
    assert_eq!(tags.last().map(String::as_str), Some("other"));
}
