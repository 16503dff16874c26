//! Sends one callback: one POST, one outcome.
//!
//! Constraint: this layer sends once and judges once. It has no queue and retries nothing;
//! [`crate::domain::delivery`] decides when to retry. The content was frozen when the event was
//! recorded, so all attempts of a delivery send the same body byte for byte.
//!
//! Map, in reading order: [`request`] builds the request, [`body`] its body in one of the formats,
//! [`signature`] signs and verifies, `trust` holds the certificates for TLS. `client` sends to
//! the addresses that `network` allows, [`answer`] turns the answer into an outcome, and `failure`
//! describes why there was none.

pub mod answer;
pub mod body;
mod client;
mod failure;
mod network;
pub mod request;
pub mod signature;
mod trust;

pub use client::{Attempt, ClientError, WebhookClient};
pub use request::{Callback, CallbackContent, EventName};
pub use trust::TrustRoots;
