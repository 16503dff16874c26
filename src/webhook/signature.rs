//! Signs and verifies requests by Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`.
//!
//! Constraint: a secret is never printed. Verifying takes the same time for any signature. The id
//! of an event contains no dot, so the signed text is unambiguous.

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

/// The largest allowed difference between a timestamp and the receiver's clock.
///
/// The libraries of Standard Webhooks also use five minutes.
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
    /// Makes the key of a secret: `whsec_` and base64, or raw text.
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

    /// Makes the keys of several secrets. An error has the number of the secret, from 1.
    pub(crate) fn parse_all(secrets: &[SecretString]) -> Result<Vec<Self>, (usize, SecretError)> {
        let numbered = (1..).zip(secrets);
        numbered
            .map(|(number, secret)| Self::parse(secret).map_err(|error| (number, error)))
            .collect()
    }

    /// Computes the signature with this key: 32 bytes.
    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> [u8; 32] {
        let mut mac = self.mac.clone();
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        mac.finalize().into_bytes().into()
    }
}

/// Returns the value of the header `webhook-signature`. `None` without a key.
///
/// The value has one signature for each key, separated by spaces. `timestamp` is in Unix seconds.
pub fn sign(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    if keys.is_empty() {
        return None;
    }
    let timestamp = timestamp.to_string();
    let mut signatures = String::with_capacity(keys.len() * 48);
    for key in keys {
        if !signatures.is_empty() {
            signatures.push(' ');
        }
        signatures.push_str("v1,");
        BASE64_STANDARD.encode_string(key.mac(id, &timestamp, body), &mut signatures);
    }
    Some(signatures)
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
    #[error("webhook-signature contains no `v1,` signature")]
    NoVersion,
    #[error("no signature matches: the sender uses another secret, or the body was changed")]
    Mismatch,
}

/// Verifies that one of `keys` signed this request.
///
/// `id`, `timestamp` and `signatures` are the values of the headers. `body` has the received bytes.
///
/// # Errors
///
/// The timestamp differs from `now` by more than `tolerance`, or no `v1` signature matches.
pub(crate) fn verify(
    keys: &[SigningKey],
    id: &str,
    timestamp: &str,
    body: &[u8],
    signatures: &str,
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    let seconds: i64 = timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
    let distance = now.as_second().abs_diff(seconds);
    if distance > tolerance.as_secs() {
        return Err(VerifyError::Skewed {
            seconds: distance,
            direction: if seconds < now.as_second() {
                "behind"
            } else {
                "ahead of"
            },
            tolerance: tolerance.as_secs(),
        });
    }
    let offered: Vec<&str> = signatures
        .split(' ')
        .filter_map(|signature| signature.strip_prefix("v1,"))
        .collect();
    if offered.is_empty() {
        return Err(VerifyError::NoVersion);
    }
    let mut matches = subtle::Choice::from(0);
    for key in keys {
        let expected = BASE64_STANDARD.encode(key.mac(id, timestamp, body));
        for signature in &offered {
            matches |= expected.as_bytes().ct_eq(signature.as_bytes());
        }
    }
    if bool::from(matches) {
        Ok(())
    } else {
        Err(VerifyError::Mismatch)
    }
}
