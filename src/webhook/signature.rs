//! Signs and verifies by Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`.
//!
//! Constraint: a secret is never printed, and verifying takes the same time for any signature. The
//! event's id holds no dot, so the signed text can be read in one way only.

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

/// The largest difference between a timestamp and the receiver's clock, either way.
///
/// The libraries of the specification use five minutes.
pub(crate) const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// A key that signs, from a configured secret.
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
    /// When the secret is empty, or the text after `whsec_` is not base64.
    pub fn parse(secret: &SecretString) -> Result<Self, SecretError> {
        let key = config::signing_key(secret)?;
        // HMAC takes keys of any length; the error type is there for other algorithms.
        let mac = Hmac::new_from_slice(&key).map_err(|_| SecretError::Empty)?;
        Ok(Self { mac })
    }

    /// Computes the 32 bytes of this key's signature.
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

/// Returns the value of the header `webhook-signature`; `None` without a key.
///
/// It has one signature per key, separated by spaces. `timestamp` is in Unix seconds.
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

/// Why a signature does not prove a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VerifyError {
    /// The timestamp is not a number of seconds.
    #[error("webhook-timestamp is not a number of seconds")]
    Timestamp,
    /// The timestamp is too far from the clock.
    #[error(
        "webhook-timestamp is {seconds} s {direction} this machine's clock, more than {tolerance} s"
    )]
    Skewed {
        /// The difference, in seconds.
        seconds: u64,
        /// `behind` or `ahead of`.
        direction: &'static str,
        /// The largest allowed difference, in seconds.
        tolerance: u64,
    },
    /// No signature has the version `v1`.
    #[error("webhook-signature holds no `v1,` signature")]
    NoVersion,
    /// No signature matches one of the keys.
    #[error("no signature matches: another secret, or the body was changed on the way")]
    Mismatch,
}

/// Verifies that one of `keys` signed this request.
///
/// `id`, `timestamp` and `signatures` are the values of the headers, `body` the bytes as received.
///
/// # Errors
///
/// When the timestamp is further than `tolerance` from `now`, or no `v1` signature matches.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secrets: &[&str]) -> Vec<SigningKey> {
        secrets
            .iter()
            .map(|secret| SigningKey::parse(&SecretString::from(*secret)).unwrap())
            .collect()
    }

    const VECTORS: [(&str, &str, i64, &[u8], &str); 2] = [
        // From the documentation of Svix, where the specification comes from.
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        // From the specification's reference libraries.
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            br#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ];

    #[test]
    fn published_vectors_hold() {
        for (secret, id, timestamp, body, expected) in VECTORS {
            let signature = sign(&keys(&[secret]), id, timestamp, body);
            assert_eq!(signature.as_deref(), Some(expected));
        }
    }

    #[test]
    fn the_reference_library_verifies_both_signatures_of_a_rotation() {
        let now = Timestamp::now().as_second();
        let secrets = [
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "a raw text secret",
        ];
        let signatures = sign(&keys(&secrets), "evt_1", now, b"body").unwrap();
        assert_eq!(signatures.split(' ').count(), 2);
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", "evt_1".parse().unwrap());
        headers.insert("webhook-timestamp", now.into());
        headers.insert("webhook-signature", signatures.parse().unwrap());
        let first = standardwebhooks::Webhook::new(secrets[0]).unwrap();
        let second = standardwebhooks::Webhook::from_bytes(secrets[1].into()).unwrap();
        first.verify(b"body", &headers).unwrap();
        second.verify(b"body", &headers).unwrap();
        first.verify(b"other", &headers).unwrap_err();
    }

    #[test]
    fn what_the_reference_library_signs_verifies() {
        let (secret, id, timestamp, body, _) = VECTORS[0];
        let signature = standardwebhooks::Webhook::new(secret)
            .unwrap()
            .sign(id, timestamp, body)
            .unwrap();
        let now = Timestamp::from_second(timestamp).unwrap();
        let signature = format!("v2,x v1,AAAA {signature}");
        let timestamp = timestamp.to_string();
        let verify = |secret, id, body, signature: &str| {
            verify(
                &keys(&[secret]),
                id,
                &timestamp,
                body,
                signature,
                now,
                TOLERANCE,
            )
        };
        assert_eq!(verify(secret, id, body, &signature), Ok(()));
        let mismatch = Err(VerifyError::Mismatch);
        assert_eq!(verify("other", id, body, &signature), mismatch);
        assert_eq!(verify(secret, "msg_2", body, &signature), mismatch);
        assert_eq!(verify(secret, id, b"{}", &signature), mismatch);
        assert_eq!(verify(secret, id, body, "v1,"), mismatch);
        assert_eq!(verify(secret, id, body, ""), Err(VerifyError::NoVersion));
    }

    #[test]
    fn the_clock_may_differ_by_the_tolerance_and_no_more() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, accepted) in [
            (1_000_000 - 301, false),
            (1_000_000 - 300, true),
            (1_000_000 + 300, true),
            (1_000_000 + 301, false),
            (i64::MAX, false),
            (i64::MIN, false),
        ] {
            let keys = keys(&["secret"]);
            let signature = sign(&keys, "evt_1", seconds, b"").unwrap();
            let timestamp = seconds.to_string();
            let verdict = verify(&keys, "evt_1", &timestamp, b"", &signature, now, TOLERANCE);
            assert_eq!(verdict.is_ok(), accepted, "{seconds}: {verdict:?}");
        }
        let verdict = verify(&[], "evt_1", "1e6", b"", "", now, TOLERANCE);
        assert_eq!(verdict, Err(VerifyError::Timestamp));
    }

    #[test]
    fn secrets_are_parsed_and_never_shown() {
        let parse = |text: &str| SigningKey::parse(&SecretString::from(text)).map(|_| ());
        assert_eq!(parse(""), Err(SecretError::Empty));
        assert_eq!(parse("whsec_"), Err(SecretError::Empty));
        assert_eq!(parse("whsec_not base64"), Err(SecretError::NotBase64));
        assert_eq!(parse("whsec_c2VjcmV0cw"), Ok(()));
        assert_eq!(parse("raw"), Ok(()));
        assert_eq!(
            sign(&keys(&["whsec_c2VjcmV0cw=="]), "a", 1, b""),
            sign(&keys(&["secrets"]), "a", 1, b"")
        );
        assert_eq!(sign(&[], "a", 1, b""), None);
        assert_eq!(format!("{:?}", keys(&["raw"])), "[SigningKey(…)]");
    }
}
