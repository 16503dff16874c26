//! A decoded request.

use bytes::Bytes;
use jiff::Timestamp;

use crate::config::Format;

/// A decoded request. A part that the request does not have is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The time at which it was complete.
    pub at: Timestamp,
    /// The event's id.
    pub id: String,
    /// The event's kebab-case name.
    pub event: String,
    /// The event's label, or its name if it has none.
    pub label: String,
    /// The attempt's number, from 1.
    pub attempt: Option<u32>,
    /// The origin of the delivery.
    pub origin: String,
    /// The time of sending by the sender's clock.
    pub timestamp: Option<Timestamp>,
    /// The parameters in the order of the wire.
    pub parameters: Vec<(String, String)>,
    /// The project.xml.
    pub payload: Bytes,
    /// The result of checking its signature.
    pub signature: Signature,
    /// Its format; absent if it is in none of the formats.
    pub format: Option<Format>,
    /// Why it could not be read to its end.
    pub problem: Option<String>,
    /// Path and query of the request.
    pub target: String,
    /// All headers in the order of the wire.
    pub headers: Vec<(String, String)>,
    /// The bytes of the body.
    pub body: Bytes,
}

impl Received {
    /// Returns the first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The result of checking a request's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// One of the secrets signed it.
    Verified,
    /// There is no signature, though there are secrets to check it with.
    Missing,
    /// The signature proves nothing, for this reason.
    Wrong(String),
    /// There is no secret to check with.
    NotChecked,
}

impl Signature {
    /// The word in listings.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Signature::Verified => "verified",
            Signature::Missing => "missing",
            Signature::Wrong(_) => "wrong",
            Signature::NotChecked => "not-checked",
        }
    }
}
