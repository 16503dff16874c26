//! Sends a test request to a webhook.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::view::Exchange;
use crate::config::{NetworkPolicy, Webhook};
use crate::domain::delivery::Outcome;
use crate::domain::event::{EventId, EventKind, Origin};
use crate::webhook::{Attempt, Callback, CallbackContent, ClientError, TrustRoots, WebhookClient};

/// A test request that is ready to be sent.
pub(crate) struct TestRequest {
    client: WebhookClient,
    name: String,
    url: String,
    format: &'static str,
}

impl TestRequest {
    /// Prepares a request. Blocks, because it reads the system's certificate authorities.
    ///
    /// # Errors
    ///
    /// The settings of the webhook or of a proxy cannot be used.
    pub(crate) fn prepare(webhook: &Webhook, network: &NetworkPolicy) -> Result<Self, ClientError> {
        let network = Arc::new(network.clone());
        Ok(Self {
            client: WebhookClient::new(webhook, &TrustRoots::load(), &network)?,
            name: webhook.name().to_owned(),
            url: webhook.url.shown(),
            format: webhook.format.as_str(),
        })
    }

    /// Sends a sample of `event`, or a `test` event if `event` is `None`.
    pub(crate) async fn send(&self, event: Option<EventKind>, now: Timestamp) -> Attempt {
        // The id is unique, because a receiver may drop a request whose id it has seen before.
        let id = EventId(format!("evt_{}", Uuid::new_v4().simple()));
        let callback = Callback {
            content: match event {
                Some(kind) => CallbackContent::sample(kind, id, now),
                None => CallbackContent::test(id, now),
            },
            attempt: 1,
            origin: Origin::Test,
            traceparent: None,
        };
        self.client.send(&callback, now).await
    }

    /// Combines the request and its answer in one JSON type.
    pub(crate) fn exchange(&self, attempt: Attempt) -> Exchange {
        Exchange {
            webhook: self.name.clone(),
            url: self.url.clone(),
            format: self.format,
            delivered: attempt.outcome == Outcome::Accepted,
            status: attempt.status,
            duration_ms: super::view::milliseconds(attempt.duration),
            answer: String::from_utf8_lossy(&attempt.answer).into_owned(),
            error: attempt.error,
            request_headers: attempt.request_headers,
        }
    }
}
