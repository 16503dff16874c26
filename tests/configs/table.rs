//! The table of settings against the reader and the shipped sample.

use std::path::Path;

use project_webhooks::config::load_str;
use project_webhooks::config::settings::{DefaultValue, SETTINGS, ValueType};

use crate::samples::{directory, environment};

/// A configuration with this text as the value of a setting.
fn with_setting(key: &str, value: &str) -> String {
    let key = key.replace("NAME", "X");
    key.rsplit('.').fold(value.to_owned(), |value, part| {
        match part.strip_suffix("[]") {
            Some(list) => format!("{{ {list}: [{value}] }}"),
            None => format!("{{ {part}: {value} }}"),
        }
    })
}

#[test]
fn every_setting_of_the_table_is_read() {
    for setting in SETTINGS {
        // No setting takes such a value.
        let text = with_setting(setting.key, "{ no: [\"\"] }");
        let key = setting.key.replace("[]", "[0]").replace("NAME", "X");
        let path = directory("invalid").join("any.yaml");
        let problems = load_str(text.as_bytes(), &path, &environment()).unwrap_err();
        let found = problems.errors.iter().any(|problem| {
            problem.key.starts_with(&key) && !problem.message.starts_with("is missing")
        });
        assert!(found, "{text}: {problems}");
    }
}

#[test]
fn the_shipped_sample_shows_every_setting_with_its_default_and_its_words() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml");
    let sample = std::fs::read_to_string(path).unwrap();
    for setting in SETTINGS {
        let name = setting.key.rsplit('.').next().unwrap();
        let name = name.trim_end_matches("[]");
        // A name that the user chooses is shown by an example.
        let is_shown = setting.key.ends_with("NAME")
            || sample.contains(&format!("{name}: "))
            || sample.contains(&format!("{name}:\n"));
        assert!(is_shown, "config.yaml has no {}", setting.key);
        if let DefaultValue::Values(values) | DefaultValue::AtMost(values, _) = setting.default {
            for value in values {
                let is_default = |line: &str| match line.split_once(&format!("{name}: ")) {
                    // One line has all values, or each has a line.
                    Some((_, rest)) => rest.contains(value),
                    None => line.trim_start_matches(['#', ' ', '-']) == format!("\"{value}\""),
                };
                assert!(sample.lines().any(is_default), "{}: {value}", setting.key);
            }
        }
        if let ValueType::Word(words) = setting.value {
            for word in words() {
                assert!(sample.contains(word), "{}: {word}", setting.key);
            }
        }
    }
}
