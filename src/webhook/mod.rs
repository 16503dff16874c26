//! Sends one callback: one POST request, one outcome.
//!
//! Constraint: this layer makes one attempt. It has no queue and retries nothing.
//! [`crate::domain::delivery`] decides when to retry. The content is fixed when the event is
//! recorded, so all attempts of a delivery send the same bytes.
//!
//! Modules, in reading order: [`request`] builds the request, and [`body`] its body in one of the
//! formats. [`signature`] signs and verifies. `trust` has the certificates for TLS, and `authorization` the
//! header of that name. `client` sends to
//! the addresses that `network` allows, by the way that `proxy` chooses and
//! the connections of `transport`. `upload` is a large body. `blocking` has
//! the threads for work that blocks. [`answer`] turns the answer into an outcome, and `failure`
//! describes why there was no answer. `forward` passes a received request on, for `listen`.

pub mod answer;
mod authorization;
mod blocking;
pub mod body;
mod client;
mod failure;
mod forward;
mod network;
mod proxy;
pub mod request;
pub mod signature;
mod transport;
mod trust;
mod upload;

pub use client::{Attempt, ClientError, WebhookClient};
pub(crate) use forward::{ForwardError, Forwarded, Forwarder};
pub(crate) use proxy::{Proxies, Way};
pub use request::{Callback, CallbackContent, EventName};
pub use trust::TrustRoots;
