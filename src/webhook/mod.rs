//! Sends one callback: one attempt, one outcome.
//!
//! Constraint: this layer makes one attempt. It has no queue, and [`crate::domain::delivery`]
//! decides when to retry. The content is fixed when the event is recorded. So unless the settings
//! change, all attempts of a delivery send the same body.
//!
//! Modules, in reading order: [`request`] builds the request, and [`body`] its body in one of the
//! formats. [`signature`] signs and verifies. `trust` makes the TLS settings, and `authorization`
//! the header `Authorization`. `client` sends the request. `network` resolves names and applies the
//! network policy, `proxy` chooses the proxy, `transport` makes and replaces the connections, and
//! `upload` sends a large body. `start` decides whether a request may begin. `blocking` runs
//! blocking work on other threads. [`answer`] turns the answer into an outcome, and `failure`
//! describes why there was no answer. `forward` passes a received request on to another URL, for
//! `listen`.

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
mod start;
mod transport;
mod trust;
mod upload;

pub use client::{Attempt, ClientError, WebhookClient};
pub(crate) use forward::{ForwardError, Forwarded, Forwarder};
pub(crate) use proxy::{Proxies, Way};
pub use request::{Callback, CallbackContent, EventName};
pub(crate) use start::MayBegin;
pub use trust::TrustRoots;
