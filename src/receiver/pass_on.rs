//! Passes requests on to another receiver, and reports its answers.
//!
//! Constraint: each request that is passed on gets one report, even if its sender gives up before
//! the answer. The report of such a request is lost if the channel of reports is full.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Response, Uri};
use http::HeaderMap;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{Clock, Received};
use crate::webhook::{Forwarded, Forwarder};

/// The report on a request that was passed on.
#[derive(Clone, Debug)]
pub(crate) struct PassedOn {
    /// The time of the answer, or the time when the sender gave up.
    pub(crate) at: Timestamp,
    /// The id of the event, from the request.
    pub(crate) id: String,
    pub(crate) attempt: Option<u32>,
    /// The answer. `None` if the sender gave up before it.
    pub(crate) answer: Option<Forwarded>,
}

/// Passes requests on to another receiver.
pub(crate) struct PassOn {
    pub(crate) forwarder: Arc<Forwarder>,
    /// The channel of reports. When it is full, senders wait.
    pub(crate) reports: mpsc::Sender<PassedOn>,
}

/// When dropped, reports a request whose sender gave up before the answer.
struct Pending<'a> {
    reports: &'a mpsc::Sender<PassedOn>,
    clock: &'a Clock,
    open: Option<PassedOn>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(mut report) = self.open.take() {
            report.at = (self.clock)();
            // This fails if the channel is full. The callback has been printed anyway.
            let _full = self.reports.try_send(report);
        }
    }
}

impl PassOn {
    /// Passes a request on and returns the answer for its sender.
    pub(super) async fn answer(
        &self,
        received: &Received,
        clock: &Clock,
        (method, uri, headers): (Method, &Uri, &HeaderMap),
    ) -> Response<Body> {
        let mut pending = Pending {
            reports: &self.reports,
            clock,
            open: Some(PassedOn {
                at: received.at,
                id: received.id.clone(),
                attempt: received.attempt,
                answer: None,
            }),
        };
        let body = received.body.clone();
        let forwarded = self.forwarder.forward(method, uri.query(), headers, body);
        let forwarded = forwarded.await;
        if let Some(report) = pending.open.take() {
            let report = PassedOn {
                at: clock(),
                answer: Some(forwarded.clone()),
                ..report
            };
            // This fails if nobody reads the reports. The sender gets an answer anyway.
            let _reader_gone = self.reports.send(report).await;
        }
        let mut response = Response::new(Body::from(forwarded.body));
        *response.status_mut() = forwarded.status;
        *response.headers_mut() = forwarded.headers;
        response
    }
}
