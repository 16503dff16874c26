//! The sending of one callback: one POST, one outcome.
//!
//! Constraint: this layer sends once and judges once. It keeps no queue, tries nothing again and
//! starts no task; when to try again is decided by [`crate::domain::delivery`], and what to send
//! was frozen when the event was recorded. All attempts of a delivery send the same body byte for
//! byte.
//!
//! Map, in reading order: [`request`] says what is sent and with which headers, [`body`] makes
//! the five formats, [`signature`] signs and verifies, [`trust`] says whom TLS trusts, [`client`]
//! sends over what `network`
//! lets it connect to, [`answer`] judges what came back, `failure` puts into words why nothing did.

pub mod answer;
pub mod body;
pub mod client;
mod failure;
mod network;
pub mod request;
pub mod signature;
pub mod trust;

pub use client::{Attempt, ClientError, WebhookClient};
pub use request::{Callback, CallbackContent, EventName};
pub use trust::TrustRoots;
