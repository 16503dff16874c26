//! Builds CloudEvents 1.0 in HTTP binary mode: attributes in headers, the XML as the body.
//!
//! - `ce-type` is `project-webhooks.` followed by the event's name.
//! - `ce-source` is `/organizations/<organization>/projects/<project>`, with the names of
//!   directories.
//! - `ce-subject` is `<organization>/<project>`, the same text that the setting `projects` matches.
//! - The parameters are extension attributes. Their names are in lower case, as the specification
//!   requires.
//! - `ce-actor` is the user who made the change, if known: the same JSON object as in the format
//!   `json`.
//! - Values are percent-encoded as section 3.1.3.2 of the HTTP binding requires. `ce-source` is a
//!   URI whose segments are already percent-encoded, so it is not encoded again.
//! - There is no `ce-datacontenttype`. In binary mode the header `Content-Type` replaces it.

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Body;
use crate::domain::event::Parameter;
use crate::webhook::request::{CallbackContent, header_text, header_value};

/// The characters to escape in a path segment: all except unreserved ones (RFC 3986).
///
/// So every directory name becomes exactly one segment.
const SEGMENT_ESCAPES: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(super) fn build(content: &CallbackContent) -> Body {
    let key = &content.key;
    let source = format!(
        "/organizations/{}/projects/{}",
        utf8_percent_encode(key.organization_name(), SEGMENT_ESCAPES),
        utf8_percent_encode(&key.project, SEGMENT_ESCAPES),
    );
    let attributes = [
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", content.id.0.clone()),
        (
            "ce-type",
            format!("project-webhooks.{}", content.event.name),
        ),
        ("ce-time", content.occurred_at.to_string()),
        ("ce-subject", key.path()),
    ];
    let actor = content.actor.as_ref().and_then(|actor| {
        let text = serde_json::to_string(actor).ok()?;
        Some(("ce-actor", text))
    });
    let parameters = content
        .parameters
        .iter()
        .map(|(parameter, value)| (extension(*parameter), value.clone()));
    let mut extra_headers: Vec<(HeaderName, HeaderValue)> = attributes
        .into_iter()
        .chain(parameters)
        .chain(actor)
        .map(|(name, value)| header(name, &value))
        .collect();
    // The segments of this URI are already escaped.
    let source = (HeaderName::from_static("ce-source"), header_value(&source));
    extra_headers.insert(2, source);
    Body {
        extra_headers,
        ..Body::plain("application/xml", content.payload.clone())
    }
}

fn header(name: &'static str, value: &str) -> (HeaderName, HeaderValue) {
    (
        HeaderName::from_static(name),
        header_value(&header_text(value)),
    )
}

/// Returns the header name of a parameter's extension attribute.
const fn extension(parameter: Parameter) -> &'static str {
    match parameter {
        Parameter::Username => "ce-username",
        Parameter::ProjectName => "ce-projectname",
        Parameter::OrganizationName => "ce-organizationname",
        Parameter::OrganizationId => "ce-organizationid",
        Parameter::VersionTag => "ce-versiontag",
        Parameter::ProjectId => "ce-projectid",
        Parameter::PreviousProject => "ce-previousproject",
    }
}
