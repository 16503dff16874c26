//! The settings `format` and `template` of a webhook.
//!
//! Constraint: a template must render a sample of each event that the webhook subscribes to. So
//! most faults of a template are errors of the configuration, not of a delivery.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use http::HeaderValue;

use super::problem::Position;
use super::reader::{Context, Fault, Mapping};
use super::source;
use super::types::{BodyFormat, Format};
use super::value::Value;
use super::yaml::Kind;
use crate::domain::event::EventKind;
use crate::template::{Template, TemplateError};

/// Reads `format` and `template`.
///
/// `format: template` needs `template`. With all other formats, `template` is an error.
pub(super) fn format(
    mapping: &Mapping<'_>,
    events: Option<&BTreeSet<EventKind>>,
    context: &mut Context<'_>,
) -> Option<BodyFormat> {
    let fixed = Format::ALL.map(|format| (format.as_str(), Some(format)));
    let words = fixed.into_iter().chain([(BodyFormat::TEMPLATE, None)]);
    let format = mapping.read(context, "format", |value, context| {
        value.word(context, words)
    });
    let given = mapping.given("template");
    // Read the template even if `format` excludes it, so that all its errors are listed.
    let template = given.as_ref().map(|value| {
        let mapping = value.mapping(context)?;
        template(&mapping, events, context)
    });
    match (format?, template) {
        (Some(format), None) => Some(format.into()),
        (Some(_), Some(_)) => {
            let fault = Fault::new(
                "has no effect without format: template; set this format, or remove template",
            );
            context.error(&given?.location, fault);
            None
        }
        (None, None) => {
            let fault = Fault::new("is template, but the setting `template` is missing")
                .allowed("template: { body: TEMPLATE }");
            context.error(&mapping.given("format")?.location, fault);
            None
        }
        (None, Some(template)) => template,
    }
}

/// Reads `template` and renders a sample of each of the `events`.
fn template(
    mapping: &Mapping<'_>,
    events: Option<&BTreeSet<EventKind>>,
    context: &mut Context<'_>,
) -> Option<BodyFormat> {
    let content_type = mapping.read(context, "content_type", |value, context| {
        value.parsed(context, content_type)
    });
    let body = mapping.given("body");
    let Some(body) = body else {
        let location = mapping.location.below("body");
        context.error(&location, Fault::not_allowed("is missing"));
        return None;
    };
    let (text, file) = source_of(&body, context)?;
    let template = Template::compile(content_type?, &text);
    let template = template.map_err(|error| fail(error, "", &body, file.as_deref(), context));
    let template = template.ok()?;
    for event in events? {
        if let Err(error) = template.check(*event) {
            let about = format!(" (with a sample of {event})");
            fail(error, &about, &body, file.as_deref(), context);
            return None;
        }
    }
    Some(BodyFormat::Template(template))
}

/// Reports an error of a template with its position.
///
/// For a template in a file or a literal block (`|`), this is a position in that file or in
/// config.yaml. For another string in config.yaml, it is a position in the string.
fn fail(
    error: TemplateError,
    about: &str,
    body: &Value<'_>,
    file: Option<&Path>,
    context: &mut Context<'_>,
) {
    let TemplateError {
        line,
        column,
        message,
    } = &error;
    let mut location = body.location.clone();
    let message = match file {
        Some(path) => format!("{}:{line}:{column}: {message}{about}", path.display()),
        None if let (true, Kind::Text(text)) = (body.node.is_literal, &body.node.kind) => {
            let Position {
                line: first_line,
                column: first_column,
            } = location.position;
            let n_empty = text.bytes().take_while(|byte| *byte == b'\n').count();
            location.position = Position {
                line: first_line.saturating_add(*line).saturating_sub(n_empty + 1),
                column: first_column.saturating_add(column.saturating_sub(1)),
            };
            format!("{message}{about}")
        }
        None => format!("{error}{about}"),
    };
    context.error(&location, Fault::new(message));
}

fn content_type(text: &str) -> Result<String, Fault> {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let is_token = |part: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !part.is_empty() && part.bytes().all(is_allowed)
    };
    let is_type = essence
        .split_once('/')
        .is_some_and(|(kind, name)| is_token(kind) && is_token(name));
    if !is_type || !text.is_ascii() || HeaderValue::from_str(text).is_err() {
        let fault = Fault::new("is not a media type");
        return Err(fault.allowed("a media type such as application/json"));
    }
    Ok(text.to_owned())
}

/// Returns the text of a template, and the path of its file if it has one.
fn source_of(value: &Value<'_>, context: &mut Context<'_>) -> Option<(String, Option<PathBuf>)> {
    let Kind::Map(entries) = &value.node.kind else {
        return Some((value.text(context)?.to_owned(), None));
    };
    let n_errors = context.errors.len();
    let mapping = Mapping::with_keys(entries, value.location.clone(), &["file"], context);
    let Some(file) = mapping.given("file") else {
        // If there is a new error, `with_keys` has reported a wrong key.
        if context.errors.len() == n_errors {
            context.error(&value.location, Fault::not_allowed("has no file"));
        }
        return None;
    };
    let path = file.path(context)?;
    let text = source::read_text(&path, &mut context.looks);
    let text = context.accept(&file.location, text)?;
    if text.trim().is_empty() {
        let message = format!("{} is empty", path.display());
        context.error(&file.location, Fault::not_allowed(message));
        return None;
    }
    Some((text, Some(path)))
}
