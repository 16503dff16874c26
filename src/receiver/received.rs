//! What came: one request, taken apart.

use bytes::Bytes;
use jiff::Timestamp;

use crate::config::Format;

/// One request, taken apart. What a request did not have is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// When it was complete.
    pub at: Timestamp,
    /// The event's id.
    pub id: String,
    /// The event's kebab-case name.
    pub event: String,
    /// The label that people know the event by; the name where it has none.
    pub label: String,
    /// The attempt's number, from 1.
    pub attempt: Option<u32>,
    /// How the delivery came about.
    pub origin: String,
    /// When it was sent, by the sender's clock.
    pub timestamp: Option<Timestamp>,
    /// The parameters in the order of the wire.
    pub parameters: Vec<(String, String)>,
    /// The project.xml.
    pub payload: Bytes,
    /// What is to be made of its signature.
    pub signature: Signature,
    /// The format it came in; absent where it is none of the five.
    pub format: Option<Format>,
    /// Why it could not be read to its end, where it could not.
    pub problem: Option<String>,
    /// Path and query of the request.
    pub target: String,
    /// All headers in the order of the wire.
    pub headers: Vec<(String, String)>,
    /// The body as it came.
    pub body: Bytes,
}

impl Received {
    /// The value of a header; of several the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What is to be made of a request's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// One of the secrets signed it.
    Verified,
    /// There are secrets to check with, and no signature.
    Missing,
    /// It is not what its sender signed, for this reason.
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
