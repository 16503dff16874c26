//! Signs and verifies requests as Standard Webhooks specifies: HMAC-SHA256 over
//! `id.timestamp.body`.
//!
//! A second signature also covers the event, attempt, origin and parameters. These are the fields
//! of the header `webhook-signed-headers`, which has the form `FIELDS;h1,BASE64`. The signed text
//! is `h1`, a line feed, and `id.timestamp.LENGTH.FIELDS.body`. LENGTH is the number of bytes of
//! the body in decimal.
//!
//! Constraint: a secret is never printed. Verifying takes the same time for every signature. The id
//! of an event contains no dot, so `id.timestamp.body` is unambiguous. The fields and the body may
//! contain dots. LENGTH fixes where the fields end, and [`verify_headers`] refuses an id with a
//! dot. So the second signed text is unambiguous too, even if the first signature is not verified.
//! Only the second text has a line feed before its first dot, because the first text begins with
//! the id, and no header value contains a line feed. So no signature fits both texts.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use secrecy::SecretString;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::config::{self, SecretError};

/// The largest allowed difference between the timestamp and the receiver's clock.
///
/// The libraries of Standard Webhooks allow five minutes too.
pub(crate) const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// A signing key, made from a configured secret.
#[derive(Clone)]
pub struct SigningKey {
    mac: Hmac<Sha256>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// Makes the key from a secret: `whsec_` and base64, or raw text.
    ///
    /// # Errors
    ///
    /// The secret is empty, or the text after `whsec_` is not base64.
    pub fn parse(secret: &SecretString) -> Result<Self, SecretError> {
        let key = config::signing_key(secret)?;
        // HMAC accepts keys of any length, so this error never occurs.
        let mac = Hmac::new_from_slice(&key).map_err(|_| SecretError::Empty)?;
        Ok(Self { mac })
    }

    /// Makes the keys from several secrets. An error has the number of the secret, from 1.
    pub(crate) fn parse_all(secrets: &[SecretString]) -> Result<Vec<Self>, (usize, SecretError)> {
        let numbered = (1..).zip(secrets);
        numbered
            .map(|(number, secret)| Self::parse(secret).map_err(|error| (number, error)))
            .collect()
    }

    /// Signs these parts and the body, all joined by dots. Returns base64.
    fn signature(&self, parts: &[&str], body: &[&[u8]]) -> String {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update(part.as_bytes());
            mac.update(b".");
        }
        for part in body {
            mac.update(part);
        }
        BASE64_STANDARD.encode(mac.finalize().into_bytes())
    }
}

/// Returns the value of the header `webhook-signature`. `None` without a key.
///
/// The value has one signature for each key, separated by spaces. `timestamp` is in Unix seconds.
/// `body` has the parts of the body, in order.
pub fn sign(keys: &[SigningKey], id: &str, timestamp: i64, body: &[&[u8]]) -> Option<String> {
    let timestamp = timestamp.to_string();
    signatures(keys, BODY, &[id, &timestamp], body)
}

/// Returns the value of the header `webhook-signed-headers`. `None` without a key.
///
/// `fields` must not contain a semicolon, and `id` must not contain a dot.
pub(crate) fn sign_headers(
    keys: &[SigningKey],
    id: &str,
    timestamp: i64,
    fields: &str,
    body: &[&[u8]],
) -> Option<String> {
    let timestamp = timestamp.to_string();
    let length: usize = body.iter().map(|part| part.len()).sum();
    let length = length.to_string();
    let parts: [&str; 4] = [&prefixed(id), &timestamp, &length, fields];
    let signatures = signatures(keys, HEADERS, &parts, body)?;
    Some(format!("{fields};{signatures}"))
}

/// The version of the signatures in `webhook-signature`.
const BODY: &str = "v1";

/// The version of the signatures in `webhook-signed-headers`.
const HEADERS: &str = "h1";

/// Returns the beginning of the text that the second signature covers: `h1`, a line feed, the id.
fn prefixed(id: &str) -> String {
    format!("{HEADERS}\n{id}")
}

fn signatures(
    keys: &[SigningKey],
    version: &str,
    parts: &[&str],
    body: &[&[u8]],
) -> Option<String> {
    let signatures: Vec<String> = keys
        .iter()
        .map(|key| format!("{version},{}", key.signature(parts, body)))
        .collect();
    (!signatures.is_empty()).then(|| signatures.join(" "))
}

/// Why the verification of a signature failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error("webhook-timestamp is not a number of seconds")]
    Timestamp,
    #[error(
        "webhook-timestamp is {seconds} s {direction} this machine's clock; at most {tolerance} s is allowed"
    )]
    Skewed {
        /// The difference, in seconds.
        seconds: u64,
        /// `behind` or `ahead of`.
        direction: &'static str,
        /// The largest allowed difference, in seconds.
        tolerance: u64,
    },
    #[error("{header} contains no `{version},` signature")]
    NoVersion {
        header: &'static str,
        version: &'static str,
    },
    #[error("no signature matches: the sender uses another secret, or {what} was changed")]
    Mismatch {
        /// The signed parts of the request.
        what: &'static str,
    },
}

/// Verifies that one of `keys` signed this request.
///
/// `id`, `timestamp` and `signatures` are the values of the headers. `body` has the received
/// bytes.
///
/// # Errors
///
/// The timestamp is not a number, or differs from `now` by more than `tolerance`, or no `v1`
/// signature matches.
pub(crate) fn verify(
    keys: &[SigningKey],
    id: &str,
    timestamp: &str,
    body: &[u8],
    signatures: &str,
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    verify_time(timestamp, now, tolerance)?;
    let parts = [id, timestamp];
    if !offers(signatures, BODY) {
        return Err(VerifyError::NoVersion {
            header: "webhook-signature",
            version: BODY,
        });
    }
    let is_valid = matches(keys, BODY, &parts, body, signatures);
    is_valid
        .then_some(())
        .ok_or(VerifyError::Mismatch { what: "the body" })
}

/// Verifies the header `webhook-signed-headers` of a request. Returns its fields.
///
/// The caller has verified the timestamp with [`verify`].
///
/// # Errors
///
/// No signature matches, or `id` contains a dot.
pub(crate) fn verify_headers<'a>(
    keys: &[SigningKey],
    id: &str,
    timestamp: &str,
    header: &'a str,
    body: &[u8],
) -> Result<&'a str, VerifyError> {
    let none = VerifyError::NoVersion {
        header: "webhook-signed-headers",
        version: HEADERS,
    };
    let (fields, signatures) = header.rsplit_once(';').ok_or(none.clone())?;
    if !offers(signatures, HEADERS) {
        return Err(none);
    }
    let length = body.len().to_string();
    let parts: [&str; 4] = [&prefixed(id), timestamp, &length, fields];
    // With dots in the id, another timestamp, length and fields could make the same text.
    let is_valid = !id.contains('.') && matches(keys, HEADERS, &parts, body, signatures);
    let what = "webhook-signed-headers or the body";
    is_valid
        .then_some(fields)
        .ok_or(VerifyError::Mismatch { what })
}

fn verify_time(timestamp: &str, now: Timestamp, tolerance: Duration) -> Result<(), VerifyError> {
    let seconds: i64 = timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
    let distance = now.as_second().abs_diff(seconds);
    if distance <= tolerance.as_secs() {
        return Ok(());
    }
    Err(VerifyError::Skewed {
        seconds: distance,
        direction: if seconds < now.as_second() {
            "behind"
        } else {
            "ahead of"
        },
        tolerance: tolerance.as_secs(),
    })
}

/// Returns the signatures of this version, without the version.
fn offered<'a>(signatures: &'a str, version: &str) -> impl Iterator<Item = &'a str> {
    signatures.split(' ').filter_map(move |signature| {
        let (found, signature) = signature.split_once(',')?;
        (found == version).then_some(signature)
    })
}

fn offers(signatures: &str, version: &str) -> bool {
    offered(signatures, version).next().is_some()
}

/// Whether one of the signatures was made with one of the keys.
fn matches(
    keys: &[SigningKey],
    version: &str,
    parts: &[&str],
    body: &[u8],
    signatures: &str,
) -> bool {
    let mut matches = subtle::Choice::from(0);
    for key in keys {
        let expected = key.signature(parts, &[body]);
        for signature in offered(signatures, version) {
            matches |= expected.as_bytes().ct_eq(signature.as_bytes());
        }
    }
    bool::from(matches)
}
