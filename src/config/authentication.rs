//! The headers and secrets of a webhook.
//!
//! Constraint: what is read here is shown nowhere. Header values are marked sensitive, whatever
//! the header: whether one is a secret only its owner knows.

use std::collections::HashMap;

use base64::Engine;
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::secret;
use super::section::{Context, Fault, Place, Section};
use super::value::At;

/// A secret shorter than this, in bytes, can be guessed; Standard Webhooks asks for 24 to 64.
const SECRET_MIN: usize = 24;

/// Headers that the daemon sets itself, or that belong to the connection and not to a request.
const OWN_HEADERS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// The beginnings of such headers.
const OWN_PREFIXES: &[&str] = &["webhook-", "ce-"];

/// Headers whose value is a secret, as a rule.
const SECRET_HEADERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
];

/// Whether the value of a header is a secret, as a rule.
pub(super) fn is_secret(name: &HeaderName) -> bool {
    SECRET_HEADERS.contains(&name.as_str())
}

/// Reads `headers`.
pub(super) fn headers(
    section: Section<'_>,
    context: &mut Context<'_>,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut found: Vec<(HeaderName, HeaderValue)> = Vec::new();
    let mut seen: HashMap<HeaderName, usize> = HashMap::new();
    let mut complete = true;
    for (written, place, at) in section.names() {
        let name = header_name(written, &place, context);
        if let Some(name) = &name {
            let line = place.mark.line;
            if let Some(first) = seen.insert(name.clone(), line) {
                let message = format!("the header is given twice, first in line {first}");
                context.error(&place, message);
                complete = false;
            }
        }
        let value = header_value(&at, name.as_ref(), context);
        match (name, value) {
            (Some(name), Some(value)) => found.push((name, value)),
            _ => complete = false,
        }
    }
    complete.then_some(found)
}

fn header_name(written: &str, place: &Place, context: &mut Context<'_>) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(written.as_bytes()) else {
        let fault = Fault::new("is not the name of a header")
            .allowed("letters, digits and the characters !#$%&'*+-.^_`|~");
        context.error(place, fault);
        return None;
    };
    let text = name.as_str();
    if OWN_HEADERS.contains(&text) || OWN_PREFIXES.iter().any(|own| text.starts_with(own)) {
        let message = format!("the header {text} is set by the daemon itself");
        let fault =
            Fault::new(message).allowed("any header but webhook-*, ce-* and those of HTTP itself");
        context.error(place, fault);
        return None;
    }
    Some(name)
}

fn header_value(
    at: &At<'_>,
    name: Option<&HeaderName>,
    context: &mut Context<'_>,
) -> Option<HeaderValue> {
    let sourced = secret::value(at, context)?;
    let Ok(mut value) = HeaderValue::from_str(sourced.value.expose_secret()) else {
        let fault = Fault::new("the value cannot be sent as a header")
            .allowed("visible ASCII characters, spaces and tabs; no line ends");
        context.error(&at.place, fault);
        return None;
    };
    // Whether it is a secret only its owner knows, so that all of them are treated as one.
    value.set_sensitive(true);
    let holds_secret = name.is_some_and(is_secret);
    if sourced.is_plain && holds_secret {
        plain_secret(&at.place, context);
    }
    Some(value)
}

fn plain_secret(place: &Place, context: &mut Context<'_>) {
    if context.world_readable {
        let message = "this secret stands in a file that everybody on this machine can read; \
                       chmod 0640 it, or use { credential: NAME } or { file: PATH }";
        context.warning(place, message);
    }
}

/// Reads `secret`.
pub(super) fn secrets(at: &At<'_>, context: &mut Context<'_>) -> Option<Vec<SecretString>> {
    let items = at.one_or_many();
    if items.is_empty() || items.len() > 2 {
        let fault = Fault::new(format!("{} secrets are given", items.len()))
            .allowed("one, or a list of two during a rotation");
        context.error(&at.place, fault);
        return None;
    }
    let secrets: Vec<Option<SecretString>> = items
        .iter()
        .map(|item| {
            let sourced = secret::value(item, context)?;
            secret(sourced.value.expose_secret(), &item.place, context)?;
            if sourced.is_plain {
                plain_secret(&item.place, context);
            }
            Some(sourced.value)
        })
        .collect();
    secrets.into_iter().collect()
}

/// Whether a secret can sign, by Standard Webhooks.
fn secret(text: &str, place: &Place, context: &mut Context<'_>) -> Option<()> {
    const ALLOWED: &str = "whsec_ and base64 with its padding, or raw text";
    if text.starts_with("whsk_") || text.starts_with("whpk_") {
        let message = "is an asymmetric key; signatures are HMAC-SHA256, by a shared secret";
        context.error(place, Fault::new(message).allowed(ALLOWED));
        return None;
    }
    let length = match text.strip_prefix("whsec_") {
        None => text.len(),
        Some(encoded) => {
            let engine = base64::engine::general_purpose::STANDARD;
            match engine.decode(encoded) {
                Ok(key) if !key.is_empty() => key.len(),
                _ => {
                    let fault = Fault::new("what follows whsec_ is not base64").allowed(ALLOWED);
                    context.error(place, fault);
                    return None;
                }
            }
        }
    };
    if length < SECRET_MIN {
        let message = format!(
            "this secret has {length} bytes; Standard Webhooks asks for at least {SECRET_MIN}, \
             such as whsec_ and the output of: openssl rand -base64 32"
        );
        context.warning(place, message);
    }
    Some(())
}
