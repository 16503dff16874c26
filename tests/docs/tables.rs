//! The tables: complete, and equal to the tables of the program.

use std::process::Command;

use project_webhooks::config::settings::SETTINGS;
use project_webhooks::domain::event::{EventKind, Parameter};

use crate::blocks;
use crate::patience::Run as _;
use crate::process::program;

/// The rows of a page's tables whose first cell satisfies `wanted`, as cells.
fn rows(page: &str, wanted: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    blocks::text(page)
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>())
        .filter(|cells| wanted(&cells[0]))
        .collect()
}

#[test]
fn the_events_are_listed_with_their_parameters() {
    for kind in EventKind::ALL {
        let title = format!("{} `{}`", kind.label(), kind.as_str());
        let found = rows("README.md", |cell| cell == title);
        let [row] = found.as_slice() else {
            panic!("{title}: {found:?}")
        };
        let parameters: Vec<&str> = kind.parameters().iter().map(|p| p.as_str()).collect();
        assert_eq!(row[2], parameters.join(", "), "{title}");
    }
    let described = rows("docs/requests-and-receivers.md", |cell| {
        cell.starts_with('`')
    })
    .iter()
    .map(|cells| cells[0].clone())
    .collect::<Vec<_>>()
    .join(" ");
    for parameter in [
        Parameter::Username,
        Parameter::ProjectName,
        Parameter::OrganizationName,
        Parameter::OrganizationId,
        Parameter::VersionTag,
        Parameter::ProjectId,
        Parameter::PreviousProject,
    ] {
        let name = format!("`{}`", parameter.as_str());
        assert!(described.contains(&name), "{name}");
    }
}

#[test]
fn every_command_is_listed() {
    let output = Command::new(program()).arg("--help").run().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let mut n_commands = 0;
    for line in commands.lines().take_while(|line| !line.is_empty()) {
        // Further lines of a description are indented deeper.
        let Some(line) = line.strip_prefix("  ").filter(|l| !l.starts_with(' ')) else {
            continue;
        };
        let name = format!("`{}`", line.split(' ').next().unwrap());
        if name != "`help`" {
            let found = rows("docs/operations.md", |cell| {
                cell.split(", ").any(|command| command == name)
            });
            assert_eq!(found.len(), 1, "{name}");
            n_commands += 1;
        }
    }
    assert!(n_commands >= 6, "{help}");
}

/// The keys of a configuration, with NAME in place of chosen names.
fn keys(prefix: &str, value: &serde_yaml::Value, found: &mut Vec<String>) {
    match value {
        serde_yaml::Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let key = match prefix {
                    "organizations" | "webhooks[].headers" | "otlp.headers" => "NAME",
                    _ => key.as_str().unwrap(),
                };
                let path = match prefix {
                    "" => key.to_owned(),
                    _ => format!("{prefix}.{key}"),
                };
                keys(&path, value, found);
            }
        }
        serde_yaml::Value::Sequence(items) if items.iter().any(serde_yaml::Value::is_mapping) => {
            for item in items {
                keys(&format!("{prefix}[]"), item, found);
            }
        }
        _ => found.push(prefix.to_owned()),
    }
}

/// The table of settings in Markdown.
fn markdown() -> String {
    let mut table = "| key | allowed | default | meaning |\n|---|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let (key, allowed, default, meaning) = (
            setting.key,
            setting.allowed(),
            setting.default_text(),
            setting.meaning_text(),
        );
        table.push_str(&format!(
            "| `{key}` | {allowed} | {default} | {meaning} |\n"
        ));
    }
    table
}

#[test]
fn the_table_of_settings_is_that_of_the_program() {
    let opening = "<!-- generated: settings -->\n\n";
    blocks::expect_between("docs/configuration.md", opening, "\n", &markdown());
}

#[test]
fn the_complete_sample_has_every_setting() {
    let sample = blocks::root().join("tests/configs/valid/every_setting.yaml");
    let sample: serde_yaml::Value =
        serde_yaml::from_str(&std::fs::read_to_string(sample).unwrap()).unwrap();
    let mut expected = Vec::new();
    keys("", &sample, &mut expected);
    expected.sort();
    expected.dedup();
    // `repositories` excludes `repository`; several_repositories.yaml has them.
    let described = SETTINGS.iter().map(|setting| setting.key);
    let mut described: Vec<&str> = described
        .filter(|key| !key.ends_with("repositories"))
        .collect();
    described.sort_unstable();
    assert_eq!(described, expected, "src/config/settings/table.rs");
}
