//! The headers and secrets of a webhook.
//!
//! Constraint: the values of headers and secrets are never printed. All header values are marked
//! sensitive, because any of them may be a secret.

use std::collections::HashMap;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::reader::{Context, Fault, Location, Mapping, all};
use super::source;
use super::types::{FileSetting, FileValue};
use super::value::Value;

/// The prefix of a secret that is written in base64.
const BASE64_PREFIX: &str = "whsec_";

/// The shortest secret without a warning, in bytes.
///
/// Standard Webhooks recommends 24 to 64 bytes.
const SECRET_MIN: usize = 24;

/// The maximum number of configured headers.
///
/// Many servers accept only about 100 headers in a request.
pub(super) const HEADERS_MAX: usize = 100;

/// Headers that the daemon sets, or that control the transfer by HTTP.
pub(super) const OWN_HEADERS: &[&str] = &[
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

/// Prefixes of further headers that the daemon sets.
pub(super) const OWN_PREFIXES: &[&str] = &["webhook-", "ce-"];

/// Headers whose value is usually a secret.
const SECRET_HEADERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
];

/// The warning about a secret header that is sent without encryption.
pub(super) const OPEN_SECRET: &str =
    "sends a secret header over http://, so every network on the way can read the secret";

/// Whether the user may not set this header.
///
/// The daemon sets a reserved header itself, or the header controls the transfer by HTTP.
pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    OWN_HEADERS.contains(&name) || OWN_PREFIXES.iter().any(|own| name.starts_with(own))
}

/// Whether the value of a header is usually a secret.
pub(super) fn is_secret(name: &HeaderName) -> bool {
    SECRET_HEADERS.contains(&name.as_str())
}

/// Reads the headers. Values from files are also added to `files`.
pub(super) fn headers(
    mapping: &Mapping<'_>,
    files: &mut Vec<FileValue>,
    context: &mut Context<'_>,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    if let Some((_, location, _)) = mapping.entries().get(HEADERS_MAX) {
        context.error(
            location,
            format!("at most {HEADERS_MAX} headers are allowed"),
        );
        return None;
    }
    let mut lines: HashMap<HeaderName, usize> = HashMap::new();
    all(mapping.entries().iter().map(|(written, location, value)| {
        let name = context.accept(location, header_name(written));
        let value = header_value(value, name.as_ref(), files, context);
        let name = name?;
        if let Some(first) = lines.insert(name.clone(), location.position.line) {
            let message = format!("the header is given twice, first on line {first}");
            context.error(location, message);
            return None;
        }
        Some((name, value?))
    }))
}

fn header_name(written: &str) -> Result<HeaderName, Fault> {
    let name = HeaderName::from_bytes(written.as_bytes()).map_err(|_| {
        Fault::new("is not the name of a header")
            .allowed("letters, digits and the characters !#$%&'*+-.^_`|~")
    })?;
    if is_reserved(&name) {
        let message = format!(
            "the header {name} is reserved: the daemon sets it, or it controls the transfer by HTTP"
        );
        return Err(Fault::new(message)
            .allowed("any header except webhook-*, ce-* and those of HTTP itself"));
    }
    Ok(name)
}

fn header_value(
    value: &Value<'_>,
    name: Option<&HeaderName>,
    files: &mut Vec<FileValue>,
    context: &mut Context<'_>,
) -> Option<HeaderValue> {
    let sourced = source::read(value, context)?;
    let Ok(mut header) = HeaderValue::from_str(sourced.text.expose_secret()) else {
        let fault = Fault::new("the value cannot be sent as a header")
            .allowed("visible ASCII characters, spaces and tabs; no line ends");
        context.error(&value.location, fault);
        return None;
    };
    header.set_sensitive(true);
    if sourced.is_plain && name.is_some_and(is_secret) {
        warn_of_plain_secret(&value.location, context);
    }
    if let (Some(path), Some(name)) = (sourced.file, name) {
        files.push(FileValue {
            path,
            text: sourced.text,
            setting: FileSetting::Header(name.clone()),
        });
    }
    Some(header)
}

pub(super) fn warn_of_plain_secret(location: &Location, context: &mut Context<'_>) {
    if context.world_readable {
        let message = "this secret is in a file that every user of this machine can read; \
                       chmod 0640 the file, or use { credential: NAME } or { file: PATH }";
        context.warning(location, message);
    }
}

/// Reads the secrets. Secrets from files are also added to `files`.
pub(super) fn secrets(
    value: &Value<'_>,
    files: &mut Vec<FileValue>,
    context: &mut Context<'_>,
) -> Option<Vec<SecretString>> {
    let items = value.items(context)?;
    all(items.iter().enumerate().map(|(index, item)| {
        let sourced = source::read(item, context)?;
        let length = checked_key(&sourced.text).map(|key| key.len());
        let length = context.accept(&item.location, length)?;
        if length < SECRET_MIN {
            let message = format!(
                "this secret has {length} bytes, but Standard Webhooks recommends at least \
                 {SECRET_MIN}; use whsec_ and the output of `openssl rand -base64 32`"
            );
            context.warning(&item.location, message);
        }
        if sourced.is_plain {
            warn_of_plain_secret(&item.location, context);
        }
        if let Some(path) = sourced.file {
            files.push(FileValue {
                path,
                text: sourced.text.clone(),
                setting: FileSetting::Secret(index),
            });
        }
        Some(sourced.text)
    }))
}

/// Decodes a secret as [`signing_key`] does, but more strictly.
///
/// Base64 must have its padding and no spaces around it, because some receivers require that. An
/// asymmetric key is an error.
fn checked_key(secret: &SecretString) -> Result<Vec<u8>, Fault> {
    const ALLOWED: &str = "whsec_ and base64 with its padding, or raw text";
    let text = secret.expose_secret();
    if text.starts_with("whsk_") || text.starts_with("whpk_") {
        let message = "is an asymmetric key; signatures are HMAC-SHA256 with a shared secret";
        return Err(Fault::new(message).allowed(ALLOWED));
    }
    let is_padded = text
        .strip_prefix(BASE64_PREFIX)
        .is_none_or(|encoded| encoded.len().is_multiple_of(4) && encoded.trim() == encoded);
    signing_key(secret)
        .ok()
        .filter(|_| is_padded)
        .ok_or_else(|| {
            Fault::new("the text after whsec_ is not base64 with its padding").allowed(ALLOWED)
        })
}

/// The reason why a text is not a signing secret. Messages do not quote the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text is empty, or nothing follows `whsec_`.
    #[error("the secret is empty; give `whsec_` and base64, or raw text")]
    Empty,
    /// The text after `whsec_` is not base64.
    #[error("the text after `whsec_` in the secret is not valid base64")]
    NotBase64,
}

/// Returns the key of a signing secret: `whsec_` and base64, or raw text.
///
/// The base64 padding is optional here, because some generators leave it out.
///
/// # Errors
///
/// The key is empty, or the text after `whsec_` is not base64.
pub(crate) fn signing_key(secret: &SecretString) -> Result<Vec<u8>, SecretError> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = secret.expose_secret();
    let key = match text.strip_prefix(BASE64_PREFIX) {
        Some(encoded) => LENIENT
            .decode(encoded.trim())
            .map_err(|_| SecretError::NotBase64)?,
        None => text.as_bytes().to_vec(),
    };
    if key.is_empty() {
        return Err(SecretError::Empty);
    }
    Ok(key)
}
