//! A request's body that tells how far it got.
//!
//! The HTTP client does not say whether a request that timed out was still connecting, still
//! sending or already waiting. It asks for the body once it is connected, though, and goes on
//! asking as the connection takes it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// How much is handed over at a time, in bytes.
const CHUNK: usize = 64 * 1024;

const CONNECTING: u8 = 0;
const SENDING: u8 = 1;
const SENT: u8 = 2;

/// How far a request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// There is no connection yet.
    Connecting,
    /// A part of the body is still to be sent.
    Sending,
    /// All of it is on its way.
    Sent,
}

/// Tells how far an [`Upload`] got.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

impl Progress {
    /// How far it got.
    pub(super) fn stage(&self) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            CONNECTING => Stage::Connecting,
            SENDING => Stage::Sending,
            _ => Stage::Sent,
        }
    }
}

/// The body of a request. Its size is known beforehand, so that it goes out with a
/// Content-Length.
#[derive(Debug)]
pub(super) struct Upload {
    rest: Bytes,
    progress: Progress,
}

impl Upload {
    /// A body of these bytes.
    pub(super) fn new(bytes: Bytes) -> Self {
        Self {
            rest: bytes,
            progress: Progress::default(),
        }
    }

    /// What tells how far it got.
    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.rest.len().min(CHUNK);
        let chunk = self.rest.split_to(length);
        let stage = if self.rest.is_empty() { SENT } else { SENDING };
        self.progress.0.store(stage, Ordering::Relaxed);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
