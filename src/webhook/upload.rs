//! Sends the body of a large request.
//!
//! Constraint: a server may answer before it has read the body, for example with 413, and close the
//! connection. The HTTP library reads an answer only between two writes, and a failed write hides
//! the answer. So a large body is written in pieces, and the runtime checks for input before each
//! piece. Then 9 of 10 of these answers are read. If an answer is still lost, the client sends a
//! second request. Its body begins only after a wait for the answer to the headers.
//!
//! The pieces share the payload. If the body were one piece, the HTTP library would copy all of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::body::BodyBytes;

/// The size up to which a body is sent together with the headers, in bytes.
pub(super) const LARGE: usize = 64 * 1024;

/// The size of a piece, in bytes.
const PIECE: usize = 64 * 1024;

/// How long a second request waits for an answer before it sends its body.
///
/// Other clients wait just as long for the answer to `Expect: 100-continue`.
pub(super) const WAIT: Duration = Duration::from_secs(1);

type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that is written in pieces.
pub(super) struct Upload {
    rest: BodyBytes,
    /// The pause before the next piece. The runtime checks for input meanwhile.
    pause: Mutex<Pause>,
}

/// Makes the body of a request. A large body starts after `wait`.
pub(super) fn body(bytes: BodyBytes, wait: Duration) -> reqwest::Body {
    if bytes.len() <= LARGE {
        return bytes.joined().into();
    }
    reqwest::Body::wrap(Upload {
        rest: bytes,
        pause: Mutex::new(if wait.is_zero() {
            pause()
        } else {
            Box::pin(tokio::time::sleep(wait))
        }),
    })
}

fn pause() -> Pause {
    Box::pin(tokio::task::yield_now())
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let waiting = self.pause.get_mut();
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        ready!(waiting.as_mut().poll(context));
        *waiting = pause();
        let piece = self.rest.take_piece(PIECE);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
