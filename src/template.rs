//! Renders a request body from a Jinja template of the user.
//!
//! Constraint: rendering is pure. A template has no clock, no random values and no files, so that
//! all attempts send the same bytes. The number of steps, the memory and the output are limited.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::domain::actor::{Account, Actor};
use crate::domain::event::{EventKind, Parameter};

/// The name of the only template in its environment.
const NAME: &str = "template";

/// The basic number of steps that a template may take.
///
/// Each 8 bytes of allowed output add one step. The template engine also takes about one step
/// for each 64 bytes of data, so the limit of steps also limits the memory.
const STEPS: u64 = 500_000;

/// The maximum length of a body for an empty payload, in bytes.
const OUTPUT_BASE: u64 = 1024 * 1024;

/// The number of additional bytes of the body for each byte of the payload.
const OUTPUT_FACTOR: u64 = 4;

/// The characters to escape in a URL: all except the unreserved ones of RFC 3986.
const URL_ESCAPES: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A compiled template with the content type of its output.
#[derive(Clone)]
pub struct Template {
    content_type: String,
    source: Arc<str>,
    environment: Arc<Environment<'static>>,
}

/// Two templates are equal if their sources and content types are.
impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        (&self.content_type, &self.source) == (&other.content_type, &other.source)
    }
}

impl Eq for Template {}

impl fmt::Debug for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Template")
            .field("content_type", &self.content_type)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// The variables of a template.
#[derive(Clone, Copy, Debug)]
pub struct Variables<'a> {
    /// The name of the event in kebab case.
    pub event: &'a str,
    /// The label of the event.
    pub label: &'a str,
    /// The id of the event.
    pub id: &'a str,
    /// The time of the event.
    pub occurred_at: Timestamp,
    /// The origin of the event. A redelivery does not change it.
    pub origin: &'a str,
    /// The parameters of the event.
    pub parameters: &'a [(Parameter, String)],
    /// The text of the project.xml.
    pub payload: &'a str,
    /// The user who made the change, if known.
    pub actor: Option<&'a Actor>,
}

/// An error in a template, and its position there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// The line in the template, from 1.
    pub line: usize,
    /// The column in the template, in characters from 1.
    pub column: usize,
    /// The error message.
    pub message: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            message,
        } = self;
        write!(
            formatter,
            "line {line}, column {column} of the template: {message}"
        )
    }
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    ///
    /// The source is not a valid template. Unknown filters are found only by rendering.
    pub fn compile(content_type: String, source: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // In debug mode, errors name the undefined expression.
        environment.set_debug(true);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.remove_global("debug");
        environment.add_filter("tojson", to_json);
        environment.add_filter("urlencode", url_encode);
        environment.add_filter("xmlescape", xml_escape);
        environment.add_filter("base64", to_base64);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| described(&error, source))?;
        Ok(Self {
            content_type,
            source: source.into(),
            environment: Arc::new(environment),
        })
    }

    /// The value of the header `Content-Type`.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders the body.
    ///
    /// # Errors
    ///
    /// The template fails, exceeds a limit, or uses a variable that the event does not have.
    pub fn render(&self, variables: &Variables<'_>) -> Result<Vec<u8>, TemplateError> {
        let length = variables.payload.len() as u64;
        let output_max = length.saturating_mul(OUTPUT_FACTOR) + OUTPUT_BASE;
        // This copy shares the compiled template.
        let mut environment = (*self.environment).clone();
        environment.set_fuel(Some(STEPS + output_max / 8));
        let mut output = Bounded {
            bytes: Vec::new(),
            max: usize::try_from(output_max).unwrap_or(usize::MAX),
        };
        environment
            .get_template(NAME)
            .and_then(|template| {
                let rendered = template.render_captured_to(variables.values(), &mut output);
                rendered.map(drop)
            })
            .map_err(|error| match error.kind() {
                ErrorKind::WriteFailure => limit(
                    &error,
                    &self.source,
                    &format!("the output is longer than {output_max} bytes"),
                ),
                ErrorKind::OutOfFuel => limit(
                    &error,
                    &self.source,
                    "the template takes too many steps or too much memory",
                ),
                _ => described(&error, &self.source),
            })?;
        Ok(output.bytes)
    }

    /// Renders a sample of an event, with and without an actor.
    ///
    /// # Errors
    ///
    /// See [`Template::render`].
    pub fn check(&self, kind: EventKind) -> Result<(), TemplateError> {
        let parameters: Vec<_> = kind
            .parameters()
            .iter()
            .map(|parameter| (*parameter, format!("a {}", parameter.as_str())))
            .collect();
        let actor = Actor {
            user: "alice".to_owned(),
            uid: 1000,
            account: Account::Login,
            program: "/usr/bin/cp".to_owned(),
            pid: 1,
            key: Some("project-webhooks".to_owned()),
        };
        for actor in [None, Some(&actor)] {
            self.render(&Variables {
                event: kind.as_str(),
                label: kind.label(),
                id: "evt_0123456789abcdef0123456789abcdef",
                occurred_at: Timestamp::UNIX_EPOCH,
                origin: "live",
                parameters: &parameters,
                payload: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<schema name=\"a\"/>\n",
                actor,
            })?;
        }
        Ok(())
    }
}

impl Variables<'_> {
    fn values(&self) -> Value {
        let fixed = [
            ("event", self.event.into()),
            ("label", self.label.into()),
            ("id", self.id.into()),
            ("occurredAt", self.occurred_at.to_string().into()),
            ("origin", self.origin.into()),
            ("payload", self.payload.into()),
        ];
        let parameters = self.parameters.iter();
        let parameters = parameters.map(|(name, value)| (name.as_str(), value.as_str().into()));
        let actor = self.actor.map(|actor| ("actor", Value::from(Serde(actor))));
        let all: BTreeMap<&str, Value> = fixed.into_iter().chain(parameters).chain(actor).collect();
        Value::from(all)
    }
}

/// An output that fails when it exceeds `max` bytes.
struct Bounded {
    bytes: Vec<u8>,
    max: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max.saturating_sub(self.bytes.len()) {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Describes an error of the template engine.
fn described(error: &Error, source: &str) -> TemplateError {
    let message = match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, detail) => format!(
            "{}; check the name, or use \"is defined\" or the filter default",
            detail.unwrap_or("the value is undefined")
        ),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    limit(error, source, &message)
}

/// Makes an error with this message, at the position of the engine's error.
fn limit(error: &Error, source: &str, message: &str) -> TemplateError {
    let start = error.range().map(|range| range.start);
    let before = start.and_then(|start| source.get(..start));
    let column = before.map_or(1, |before| {
        let line = before.rsplit('\n').next().unwrap_or_default();
        line.chars().count() + 1
    });
    TemplateError {
        line: error.line().unwrap_or(1),
        column,
        message: message.to_owned(),
    }
}

/// Rejects an undefined value. A filter would treat it as an empty text.
fn defined(value: &Value) -> Result<&Value, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    Ok(value)
}

fn to_json(value: &Value) -> Result<String, Error> {
    serde_json::to_string(defined(value)?)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn url_encode(value: &Value) -> Result<String, Error> {
    let text = defined(value)?.to_string();
    Ok(utf8_percent_encode(&text, URL_ESCAPES).to_string())
}

fn xml_escape(value: &Value) -> Result<String, Error> {
    let text = defined(value)?.to_string();
    Ok(quick_xml::escape::escape(text.as_str()).into_owned())
}

fn to_base64(value: &Value) -> Result<String, Error> {
    Ok(BASE64_STANDARD.encode(defined(value)?.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, payload: &str) -> Result<String, TemplateError> {
        let template = Template::compile("text/plain".to_owned(), source)?;
        let parameters = [(Parameter::ProjectName, "a \"b\" & <c>/é".to_owned())];
        let bytes = template.render(&Variables {
            event: "project-delete",
            label: "Project Delete",
            id: "evt_1",
            occurred_at: Timestamp::UNIX_EPOCH,
            origin: "live",
            parameters: &parameters,
            payload,
            actor: None,
        })?;
        Ok(String::from_utf8(bytes).unwrap_or_default())
    }

    #[test]
    fn filters_escape_and_nothing_else_does() {
        for (source, expected) in [
            ("{{ projectName }}", "a \"b\" & <c>/é"),
            ("{{ projectName | tojson }}", "\"a \\\"b\\\" & <c>/é\""),
            (
                "{{ projectName | urlencode }}",
                "a%20%22b%22%20%26%20%3Cc%3E%2F%C3%A9",
            ),
            (
                "{{ projectName | xmlescape }}",
                "a &quot;b&quot; &amp; &lt;c&gt;/é",
            ),
            ("{{ id | base64 }}", "ZXZ0XzE="),
            (
                "{{ {'z': 1, 'a': [true, none]} | tojson }}",
                "{\"z\":1,\"a\":[true,null]}",
            ),
            ("{{ versionTag | default('none') }}", "none"),
            (
                "{% if actor is defined %}x{% endif %}{{ occurredAt }}",
                "1970-01-01T00:00:00Z",
            ),
        ] {
            assert_eq!(render(source, "").as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn errors_have_a_position_in_the_template() {
        for (source, line, column) in [
            ("a\n  {{ versionTag }}", 2, 6),
            ("a\n{{ versionTag | tojson }}", 2, 17),
            ("{{ id | nothing }}", 1, 9),
        ] {
            let error = render(source, "").err();
            let position = error.as_ref().map(|error| (error.line, error.column));
            assert_eq!(position, Some((line, column)), "{source}: {error:?}");
        }
    }

    #[test]
    fn loops_memory_and_output_are_limited() {
        let message = |source: &str, payload: &str| {
            let error = render(source, payload).err();
            error.map(|error| error.message).unwrap_or_default()
        };
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert!(message(endless, "").contains("too many steps"));
        let large = "{% set x = 'xxxxxxxxxxxxxxxx' * 100000000 %}";
        assert!(!message(large, "").is_empty());
        let payload = "x".repeat(1_000_000);
        assert_eq!(message("{{ payload }}{{ payload | tojson }}", &payload), "");
        let five = "{{ payload }}".repeat(6);
        let found = message(&five, &payload);
        assert_eq!(found, "the output is longer than 5048576 bytes");
    }
}
