//! `check`: its listing, its JSON and its exit status.

use std::fs;
use std::path::Path;

use std::process::Command;

use crate::patience::Run as _;

const TEXT: &str = "repository: { path: repository }
network: { deny: [10.0.0.0/8], allow: [10.1.0.0/16, 169.254.7.7] }
webhooks:
  - name: catalog
    events: [Project Publish, snapshot-create]
    url: https://catalog.example.com/hook?token=hidden-1
    projects: [\"sales/*\"]
    when: { versionTag: \"release-*\", username: [\"!svc-*\", \"!root\"] }
    rate: 600/m
    headers: { Authorization: hidden-2, X-Key: { file: key } }
    secret: { env: SECRET }
    retry: { schedule: [0s, 5m] }
  - { name: spare, events: \"*\", url: \"http://127.0.0.1:9/\", enabled: false }
";

fn check(file: &Path, json: bool) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
    command.arg("check").arg("--config").arg(file);
    if json {
        command.arg("--json");
    }
    let output = command
        .env("SECRET", "hidden-4-hidden-4-hidden-4")
        .run()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), printed)
}

fn run(text: &str, json: bool) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("repository")).unwrap();
    fs::write(directory.path().join("key"), "hidden-3\n").unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, text).unwrap();
    check(&file, json)
}

#[test]
fn a_valid_configuration_is_listed_without_what_is_secret() {
    let (status, printed) = run(TEXT, false);
    assert_eq!(status, 0);
    for expected in [
        "webhook     catalog\n",
        "  to        https://catalog.example.com/hook?token=… as multipart\n",
        "  events    Project Publish, Snapshot Create\n",
        "  projects  sales/*\n",
        "  when      username !svc-*, !root\n",
        "  when      versionTag release-*\n",
        "  auth      signed; headers authorization, x-key\n",
        "  retry     2 attempts: 0s, 5m\n",
        "  limits    15s for an attempt, 5s of it to connect, 8 projects at the same time, 600/m requests\n",
        "webhook     spare (disabled)\n",
        "  deny      10.0.0.0/8\n",
        "  allow     10.1.0.0/16, 169.254.7.7\n",
        "  projects  all\n",
        "  project    {organization}/{project}/project.xml\n",
    ] {
        assert!(
            printed.contains(expected),
            "{expected:?} not in:\n{printed}"
        );
    }
    assert!(!printed.contains("hidden"), "{printed}");
}

#[test]
fn json_says_the_same() {
    let (_, printed) = run(TEXT, true);
    assert!(!printed.contains("hidden"), "{printed}");
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["valid"], true);
    let webhook = &report["config"]["webhooks"][0];
    assert_eq!(webhook["events"][1], "Snapshot Create");
    assert_eq!(webhook["secrets"], 1);
    assert_eq!(webhook["schedule"][1], "5m");
    assert_eq!(webhook["connectTimeout"], "5s");
    assert_eq!(webhook["rate"], "600/m");
    assert_eq!(
        webhook["when"],
        serde_json::json!({ "username": ["!svc-*", "!root"], "versionTag": ["release-*"] })
    );
    assert_eq!(report["config"]["webhooks"][1].get("when"), None);
    assert_eq!(report["config"]["network"]["deny"][0], "10.0.0.0/8");
}

#[test]
fn every_error_is_listed_and_the_status_is_78() {
    let text = TEXT.replace("events: [", "evnts: [").replace("0s", "0x");
    let (status, printed) = run(&text, false);
    assert_eq!(status, 78);
    assert!(printed.contains("config.yaml:5:5: webhooks[0].evnts: unknown key"));
    assert!(printed.contains("config.yaml:12:25: webhooks[0].retry.schedule[0]:"));
    let (_, printed) = run(&text, true);
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["valid"], false);
    assert_eq!(report["errors"][0]["key"], "webhooks[0].event");
    assert_eq!(report["errors"][1]["line"], 5);
}

#[test]
fn an_absent_file_is_a_configuration_error() {
    let (status, printed) = check(Path::new("/nowhere/config.yaml"), false);
    assert_eq!(status, 78);
    assert!(printed.starts_with("/nowhere/config.yaml: the configuration file does not exist"));
}
