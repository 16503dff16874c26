//! The table of settings against the reader.

use project_webhooks::config::load_str;
use project_webhooks::config::settings::SETTINGS;

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
