//! Sends a large body in pieces.
//!
//! Constraint: the HTTP library copies what it is about to write. Of a body in one piece, it copies
//! everything, so each delivery in flight would take that much more memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// The size of a piece, in bytes. A smaller body is sent with the headers in one write.
const PIECE: usize = 64 * 1024;

/// Makes the body of a request.
pub(super) fn body(bytes: Bytes) -> reqwest::Body {
    if bytes.len() <= PIECE {
        bytes.into()
    } else {
        reqwest::Body::wrap(Pieces(bytes))
    }
}

/// The rest of a body. Its pieces share the buffer.
struct Pieces(Bytes);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let n_bytes = self.0.len().min(PIECE);
        let piece = self.0.split_to(n_bytes);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
