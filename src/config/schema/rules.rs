//! The rules of the schema that are not in the table of settings.

use serde_json::{Value, json};

use super::{elsewhere, put, text};
use crate::config::headers::{HEADERS_MAX, OWN_HEADERS, OWN_PREFIXES};
use crate::config::load::TOKEN_MIN;
use crate::domain::event::{EventKind, Parameter};

/// An HTTP URL without a user name, password or fragment.
pub(super) const URL: &str = r"^\s*[hH][tT][tT][pP][sS]?://[^/?#@\s]+([/?][^#]*)?$";

/// The template of a published copy or a snapshot.
const TEMPLATE: &str = r"^(?!/)(?=.*\{project\})([^{}]|\{(organization|project|versionTag)\})+$";
/// The template of a definition, which has no `{versionTag}`.
const DEFINITION: &str = r"^(?!/)(?=.*\{project\})([^{}]|\{(organization|project)\})+$";

/// A name without control characters, and without spaces around it.
const NAME: &str = r"^(?!\s)[^\u0000-\u001f\u007f-\u009f]+(?<!\s)$";

/// A connection string of PostgreSQL without a password: a URL, or keywords that name a host.
///
/// The pattern rejects `sslmode=disable` and `sslmode=require`, but not the default `prefer`.
const CONNECTION: &str = concat!(
    r"^(?!.*\b(password\s*=|sslmode\s*=\s*'?(disable|require)))\s*",
    r"(postgres(ql)?://(?![^/@]*:[^/@]*@).*\S|(.*\s)?host\s*=\s*('[^']|[^\s']).*)$"
);
/// The name of a repository: as [`NAME`], without `//` and without a final slash.
const NAME_OF_REPOSITORY: &str =
    r"^(?!\s)(?!.*//)[^\u0000-\u001f\u007f-\u009f]*[^\s/\u0000-\u001f\u007f-\u009f]$";

/// An IP address or a range.
const ADDRESS: &str = r"^\s*[0-9a-fA-F:.]+(/\d{1,3})?\s*$";

/// Returns the schema of a setting's value if the table describes it incompletely.
pub(super) fn of_value(key: &str) -> Option<Value> {
    let pattern = match key {
        "repository.layout.project" => DEFINITION,
        "repository.layout.published" | "repository.layout.snapshot" => TEMPLATE,
        "repository.name" => {
            return Some(json!({
                "type": "string",
                "pattern": NAME_OF_REPOSITORY,
                "maxLength": crate::config::settings::REPOSITORY_NAME_MAX,
            }));
        }
        // Each item of the list has the settings of `repository`.
        "repositories" => return Some(json!({ "$ref": "#/properties/repository" })),
        "repository.ignore" => "^[^/]+$",
        "webhooks[].projects" => r"^(?!/).*(/|\*\*)",
        "webhooks[].when.username" | "webhooks[].when.versionTag" => {
            // At most one exclamation mark, then a glob.
            let mut schema = text("^!?[^!]");
            put(
                &mut schema,
                "maxLength",
                crate::config::subscription::GLOB_MAX,
            );
            return Some(schema);
        }
        "webhooks[].template.content_type" => r"^\s*[\w!#$&^.+-]+/[\w!#$&^.+-]+\s*(;.*)?$",
        "webhooks[].template.body" => {
            return Some(json!({ "anyOf": [text(r"\S"), {
                "type": "object",
                "properties": { "file": text(r"\S") },
                "required": ["file"],
                "additionalProperties": false,
            }] }));
        }
        "webhooks[].auth.basic.username" => return Some(sourced(r"^(?=.*\S)[^:]+$")),
        "webhooks[].auth.bearer" => return Some(sourced("^[!-~]+$")),
        "webhooks[].auth.oauth2.token_url" => URL,
        "webhooks[].auth.oauth2.scope" => r#"^[!#-\[\]-~]+( [!#-\[\]-~]+)*$"#,
        "webhooks[].headers.NAME" | "otlp.headers.NAME" => {
            return Some(sourced(r"^(?=.*\S)[\t -~]+$"));
        }
        // `whsk_` and `whpk_` begin asymmetric keys, which are not supported.
        "webhooks[].secret" => {
            return Some(sourced(
                r"^(?!wh(sk|pk)_)(?!whsec_).*\S|^whsec_\s*[A-Za-z0-9+/]+={0,2}\s*$",
            ));
        }
        "webhooks[].rate" => r"^\s*0*([1-9]\d{0,4}|100000)/[smh]\s*$",
        "webhooks[].name" => {
            return Some(json!({
                "type": "string",
                "pattern": NAME,
                "maxLength": crate::config::settings::WEBHOOK_NAME_MAX,
            }));
        }
        "store.postgres" => CONNECTION,
        "network.allow" | "network.deny" => ADDRESS,
        "admin.listen" => r"^(unix:.*\S.*|[\d.]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5})$",
        "admin.token" => return Some(sourced(&format!("^[!-~]{{{TOKEN_MIN},}}$"))),
        "admin.mode" => "^0?[0-7]{1,3}$",
        _ => return None,
    };
    Some(text(pattern))
}

/// Makes the schema of a value: a string with this pattern, or a source.
fn sourced(pattern: &str) -> Value {
    json!({ "anyOf": [text(pattern), elsewhere()] })
}

/// Adds the rules for a key path to the schema of its value.
pub(super) fn apply(path: &str, mut schema: Value) -> Value {
    if path == "store" {
        put(&mut schema, "type", "object");
        put(&mut schema, "required", json!(["postgres"]));
        return json!({ "anyOf": [{ "const": "sqlite" }, schema] });
    }
    if let Some(Value::Object(added)) = added(path) {
        // Some rules also replace the `type`, which would allow null: a key without a value is read
        // as an empty mapping, and these mappings must not be empty.
        for (keyword, value) in added {
            put(&mut schema, &keyword, value);
        }
    }
    schema
}

fn added(path: &str) -> Option<Value> {
    let required = |keys: &[&str]| json!({ "type": "object", "required": keys });
    Some(match path {
        "" => json!({
            "type": "object",
            "required": [],
            "oneOf": [{ "required": ["repository"] }, { "required": ["repositories"] }],
            "allOf": [
                {
                    "if": has("webhooks", json!({
                        "type": "array",
                        "contains": { "type": "object", "required": ["repositories"] },
                    })),
                    "then": { "required": ["repositories"] },
                },
            ],
        }),
        "admin" => required(&["listen"]),
        "otlp" => required(&["endpoint"]),
        "organizations" => json!({ "propertyNames": { "pattern": r"^[^./][^/]*$" } }),
        "webhooks[]" => webhook(),
        "webhooks[].events" => events(),
        "webhooks[].headers" | "otlp.headers" => {
            json!({
                "propertyNames": { "pattern": header_names() },
                "maxProperties": HEADERS_MAX,
            })
        }
        "webhooks[].auth" => json!({ "type": "object", "minProperties": 1, "maxProperties": 1 }),
        "webhooks[].when" => json!({ "type": "object", "minProperties": 1 }),
        "webhooks[].auth.basic" => required(&["username", "password"]),
        "webhooks[].auth.oauth2" => required(&["token_url", "client_id", "client_secret"]),
        "webhooks[].template" => required(&["body"]),
        "webhooks[].tls" => json!({
            "dependentRequired": {
                "client_cert": ["client_key"],
                "client_key": ["client_cert"],
            },
            "if": { "properties": { "ca_only": { "const": true } }, "required": ["ca_only"] },
            "then": { "required": ["ca"] },
        }),
        _ => return None,
    })
}

/// The rules for settings of a webhook that need or exclude each other.
fn webhook() -> Value {
    let import = EventKind::ProjectImport;
    let import = json!({ "enum": [import.as_str(), import.label()] });
    let tagged = EventKind::ALL
        .iter()
        .filter(|kind| kind.parameters().contains(&Parameter::VersionTag));
    let tagged: Vec<&str> = tagged
        .flat_map(|kind| [kind.as_str(), kind.label()])
        .chain(["*"])
        .collect();
    let tagged = json!({ "enum": tagged });
    json!({
        "type": "object",
        "required": ["name", "url"],
        "oneOf": [{ "required": ["event"] }, { "required": ["events"] }],
        "allOf": [
            {
                "if": names_one_of(&import),
                "then": { "required": ["projects"] },
            },
            {
                "if": has("when", json!({ "type": "object", "required": ["versionTag"] })),
                "then": names_one_of(&tagged),
            },
            {
                "if": has("format", json!({ "const": "template" })),
                "then": { "required": ["template"] },
                "else": { "not": { "required": ["template"] } },
            },
            {
                "if": has("signed_headers", json!({ "const": true })),
                "then": { "required": ["secret"] },
            },
            // `auth` sets the header `Authorization`, so `headers` must not set it.
            {
                "if": { "required": ["auth"] },
                "then": { "properties": { "headers": { "propertyNames": {
                    "not": { "pattern": format!("^{}$", any_case("authorization")) },
                } } } },
            },
        ],
    })
}

fn has(key: &str, value: Value) -> Value {
    json!({ "properties": { key: value }, "required": [key] })
}

/// Makes a schema that matches a webhook with at least one of these events.
fn names_one_of(events: &Value) -> Value {
    json!({ "anyOf": [
        has("event", events.clone()),
        has("events", events.clone()),
        has("events", json!({ "type": "array", "contains": events })),
    ] })
}

/// The rules that reject an event given twice: by its name, its label or `*`.
fn events() -> Value {
    let once = EventKind::ALL.map(|kind| {
        let mut words = vec![kind.as_str(), kind.label()];
        // Without `projects`, `*` does not include Project Import.
        if EventKind::SEVEN.contains(&kind) && kind != EventKind::ProjectImport {
            words.push("*");
        }
        json!({
            "if": { "type": "array" },
            "then": { "contains": { "enum": words }, "minContains": 0, "maxContains": 1 },
        })
    });
    json!({ "allOf": once })
}

/// The pattern of the header names that the user may set.
fn header_names() -> String {
    let own: Vec<String> = OWN_HEADERS.iter().map(|name| any_case(name)).collect();
    let prefixes: Vec<String> = OWN_PREFIXES.iter().map(|name| any_case(name)).collect();
    format!(
        r"^(?!({})$)(?!({}))[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        own.join("|"),
        prefixes.join("|")
    )
}

/// Returns a pattern for a word in any case. Patterns of JSON Schema have no flags.
fn any_case(word: &str) -> String {
    word.chars()
        .map(|c| match c.is_ascii_alphabetic() {
            true => format!("[{}{}]", c.to_ascii_lowercase(), c.to_ascii_uppercase()),
            false => c.to_string(),
        })
        .collect()
}
