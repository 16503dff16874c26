//! Makes the JSON Schema of config.yaml, for editors.
//!
//! Constraint: keys, types and allowed words come from the table of settings, and also bounds, if a
//! schema can check them. [`rules`] has the rest: settings that need or exclude each other, and the
//! form of some strings. A test compares the schema with the reader for every sample configuration.
//! It lists the invalid samples that a schema cannot reject.

mod rules;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::settings::Count::{List, One, OneOrList};
use super::settings::ValueType::{
    Boolean, Duration, Event, Size, Sourced, Text, TextUpTo, Url, Whole, Word,
};
use super::settings::{DefaultValue, NAME, SETTINGS, Setting};
use super::units;
use crate::domain::event::EventKind;

/// The pattern of a string that is not blank.
const NOT_BLANK: &str = r"\S";

/// The units of durations, as the crate humantime reads them.
const TIME_UNITS: &str = "nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs|sec|s|minutes|\
                          minute|mins|min|m|hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w|\
                          months|month|M|years|year|yrs|yr|y";

/// Makes the JSON Schema of config.yaml.
#[must_use]
pub fn schema() -> Value {
    let mut root = Branch::default();
    for setting in SETTINGS {
        root.insert(setting.key, setting);
    }
    let Value::Object(mut schema) = root.schema("") else {
        return Value::Null;
    };
    let mut whole = Map::new();
    whole.insert(
        "$schema".to_owned(),
        "https://json-schema.org/draft/2020-12/schema".into(),
    );
    whole.insert("title".to_owned(), "config.yaml of project-webhooks".into());
    whole.append(&mut schema);
    Value::Object(whole)
}

/// A key of the configuration, with the keys below it in the order of the table.
#[derive(Default)]
struct Branch {
    order: Vec<&'static str>,
    below: BTreeMap<&'static str, Branch>,
    setting: Option<&'static Setting>,
}

impl Branch {
    fn insert(&mut self, path: &'static str, setting: &'static Setting) {
        let (name, rest) = path
            .split_once('.')
            .map_or((path, None), |(name, rest)| (name, Some(rest)));
        if !self.below.contains_key(name) {
            self.order.push(name);
        }
        let branch = self.below.entry(name).or_default();
        match rest {
            Some(rest) => branch.insert(rest, setting),
            None => branch.setting = Some(setting),
        }
    }

    /// Whether the key must be present.
    ///
    /// A mapping is required if it has a required setting. A list may be absent, even if its items
    /// have required settings.
    fn is_required(&self) -> bool {
        let is_required = |setting: &Setting| matches!(setting.default, DefaultValue::Required);
        self.setting.is_some_and(is_required)
            || self
                .below
                .iter()
                .any(|(name, branch)| !name.ends_with("[]") && branch.is_required())
    }

    fn schema(&self, path: &str) -> Value {
        let schema = match self.setting {
            Some(setting) => of_setting(setting),
            None => self.mapping(path),
        };
        rules::apply(path, schema)
    }

    fn mapping(&self, path: &str) -> Value {
        let mut properties = Map::new();
        let mut schema = json!({ "type": ["object", "null"] });
        let mut required: Vec<&str> = Vec::new();
        for &name in &self.order {
            let Some(branch) = self.below.get(name) else {
                continue;
            };
            let path = match path {
                "" => name.to_owned(),
                path => format!("{path}.{name}"),
            };
            let below = branch.schema(&path);
            match name.strip_suffix("[]") {
                _ if name == NAME => {
                    put(&mut schema, "additionalProperties", below);
                    continue;
                }
                Some(list) => {
                    let list_of = json!({ "type": ["array", "null"], "items": below });
                    properties.insert(list.to_owned(), list_of);
                    continue;
                }
                None => properties.insert(name.to_owned(), below),
            };
            if branch.is_required() {
                required.push(name);
            }
        }
        if schema.get("additionalProperties").is_none() {
            put(&mut schema, "properties", Value::Object(properties));
            put(&mut schema, "additionalProperties", false);
        }
        if !required.is_empty() {
            // A key without a value is read as an empty mapping, which lacks the required keys.
            put(&mut schema, "type", "object");
            put(&mut schema, "required", json!(required));
        }
        schema
    }
}

/// Makes the schema of a setting's value or list.
fn of_setting(setting: &Setting) -> Value {
    let one = rules::of_value(setting.key).unwrap_or_else(|| of_type(setting));
    let list = |min: usize, max: usize| json!({ "type": "array", "items": one, "minItems": min, "maxItems": max });
    let mut schema = match setting.count {
        One => one,
        OneOrList(min, max) => json!({ "anyOf": [one, list(min, max)] }),
        List(min, max) => list(min, max),
    };
    let description = format!(
        "{}.\n\nAllowed: {}.\n\nDefault: {}.",
        setting.plain_meaning(),
        setting.allowed(),
        setting.default_text()
    );
    put(&mut schema, "description", description);
    schema
}

fn of_type(setting: &Setting) -> Value {
    match setting.value {
        Text(_, pattern) => text(pattern.unwrap_or(NOT_BLANK)),
        TextUpTo(max) => {
            let mut schema = text(NOT_BLANK);
            put(&mut schema, "maxLength", max);
            schema
        }
        Sourced => json!({ "anyOf": [text(NOT_BLANK), elsewhere()] }),
        // A port or a path may follow the host. A user name, password or fragment is an error.
        Url => json!({ "anyOf": [text(rules::URL), elsewhere()] }),
        Event => {
            let names = EventKind::ALL.map(EventKind::as_str);
            let labels = EventKind::ALL.map(EventKind::label);
            let words = [&["*"][..], &names, &labels].concat();
            json!({ "enum": words })
        }
        Word(words) => json!({ "enum": words() }),
        Boolean => json!({ "type": "boolean" }),
        Whole(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Duration(min, _) => duration(min),
        Size(min, max) => {
            let number = |bound: &str| units::size(bound).unwrap_or(0);
            json!({ "anyOf": [
                { "type": "integer", "minimum": number(min), "maximum": number(max) },
                text(r"^\s*(\d+|[\d.]+\s*([kKmMgGtTpPeE]([iI]?[bB])?|[bB]))\s*$"),
            ] })
        }
    }
}

/// Makes the schema of a duration.
///
/// It allows zero only if `min` is zero. A pattern cannot check other bounds.
fn duration(min: &str) -> Value {
    let whole = r"\d+(\.\d+)?";
    if units::duration(min).is_ok_and(|min| min.is_zero()) {
        let pattern = format!(r"^\s*(0+|({whole}\s*({TIME_UNITS})\s*)+)$");
        json!({ "anyOf": [text(&pattern), { "const": 0 }] })
    } else {
        text(&format!(r"^(?=.*[1-9])\s*({whole}\s*({TIME_UNITS})\s*)+$"))
    }
}

fn text(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

/// Makes the schema of a source: a credential, an environment variable or a file.
fn elsewhere() -> Value {
    json!({
        "type": "object",
        "properties": {
            "credential": text(r"^(?!\.{1,2}$)[^/]+$"),
            "env": text(NOT_BLANK),
            "file": text(NOT_BLANK),
        },
        "additionalProperties": false,
        "minProperties": 1,
        "maxProperties": 1,
    })
}

/// Sets a keyword of a schema.
fn put(schema: &mut Value, keyword: &str, value: impl Into<Value>) {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert(keyword.to_owned(), value.into());
    }
}
