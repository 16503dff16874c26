//! A decoded request.

use bytes::Bytes;
use jiff::Timestamp;

use crate::config::Format;
use crate::domain::event::Parameter;
use crate::webhook::request::WEBHOOK_SIGNED_HEADERS;

/// A decoded request. A part that the request lacks is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The time when the request was complete.
    pub at: Timestamp,
    /// The id of the event.
    pub id: String,
    /// The name of the event in kebab case.
    pub event: String,
    /// The label of the event, which in the format `json` is from the body.
    ///
    /// In other formats, the label of an unknown event is its name.
    pub label: String,
    /// The number of the attempt, from 1.
    pub attempt: Option<u32>,
    /// The origin of the delivery.
    pub origin: String,
    /// The time when the request was sent, according to the sender's clock.
    pub timestamp: Option<Timestamp>,
    /// The parameters in the order of the request.
    pub parameters: Vec<(String, String)>,
    /// The bytes of the project.xml.
    pub payload: Bytes,
    /// The result of checking the signature.
    pub signature: Signature,
    /// The format of the body. `None` if it is not a known format.
    pub format: Option<Format>,
    /// Why the body could not be decoded to its end, or contradicts the headers.
    pub problem: Option<String>,
    /// The path and the query of the request.
    pub target: String,
    /// All headers in the order of the request.
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

    /// Describes the parts of the event that the signatures do not cover, if there are any.
    pub fn not_signed(&self) -> Option<&'static str> {
        if self.header(WEBHOOK_SIGNED_HEADERS.as_str()).is_some() {
            let is_parameter = |name: &str| Parameter::ALL.iter().any(|one| one.as_str() == name);
            let mut names = self.parameters.iter().map(|(name, _)| name);
            let is_more = names.any(|name| !is_parameter(name));
            return is_more.then_some("the request also has parameters that are not signed");
        }
        match self.format {
            Some(Format::Json) => None,
            Some(Format::Multipart | Format::Form) => Some("the event's name is not signed"),
            // The parameters are in the URL or in headers.
            Some(Format::Xml | Format::CloudEvents) | None => {
                Some("the event's name and the parameters are not signed")
            }
        }
    }

    /// Returns the first value of a parameter.
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
    /// The signature was made with one of the secrets, and its time is within the tolerance.
    Verified,
    /// The request has no signature, but the receiver has secrets.
    Missing,
    /// The signature is invalid, for this reason.
    Wrong(String),
    /// The receiver has no secrets.
    NotChecked,
}

impl Signature {
    /// Returns the name of this value for listings.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Signature::Verified => "verified",
            Signature::Missing => "missing",
            Signature::Wrong(_) => "wrong",
            Signature::NotChecked => "not-checked",
        }
    }
}
