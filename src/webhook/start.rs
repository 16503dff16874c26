//! Decides at the first byte of a body whether a request may begin.
//!
//! Constraint: a request may begin only while the claim of its delivery is valid. The wait for a
//! token, a DNS answer or a free HTTP/2 stream may take the whole timeout of the webhook. So the
//! check comes last, before the first byte of the body. A receiver ignores a request without its
//! body.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Returns whether a request may begin now.
pub(crate) type MayBegin = Arc<dyn Fn() -> bool + Send + Sync>;

/// The error of a request that may not begin.
#[derive(Debug, thiserror::Error)]
#[error("not sent: another process may send this delivery")]
pub(super) struct Withheld;

/// Records whether a request of an attempt has begun, or was refused.
pub(super) struct Start {
    may_begin: MayBegin,
    has_begun: AtomicBool,
    was_refused: AtomicBool,
}

impl Start {
    pub(super) fn new(may_begin: &MayBegin) -> Arc<Self> {
        Arc::new(Self {
            may_begin: Arc::clone(may_begin),
            has_begun: AtomicBool::new(false),
            was_refused: AtomicBool::new(false),
        })
    }

    /// Checks whether a request may begin, and records a refusal.
    pub(super) fn check(&self) -> Result<(), Withheld> {
        if (self.may_begin)() {
            return Ok(());
        }
        self.was_refused.store(true, Ordering::Relaxed);
        Err(Withheld)
    }

    /// Whether no request of the attempt has begun, and at least one was refused.
    pub(super) fn is_withheld(&self) -> bool {
        self.was_refused.load(Ordering::Relaxed) && !self.has_begun.load(Ordering::Relaxed)
    }
}

/// Adds a check before the first byte of a body.
///
/// If the request may not begin, the body ends with an error.
pub(super) fn guarded(body: reqwest::Body, start: &Arc<Start>) -> reqwest::Body {
    reqwest::Body::wrap(Guarded {
        body,
        start: Some(Arc::clone(start)),
    })
}

struct Guarded {
    body: reqwest::Body,
    /// `None` after the check.
    start: Option<Arc<Start>>,
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(start) = self.start.take() {
            if let Err(withheld) = start.check() {
                return Poll::Ready(Some(Err(withheld.into())));
            }
            start.has_begun.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
