//! An HTTP/1.1 server that no client can exhaust or stop.
//!
//! Constraint: a client that stalls costs one of a bounded number of connections, and nothing else.
//! A new client never waits for older ones: if there are too many, the oldest connection is closed,
//! first those of clients that have not shown that they may use the server.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// How long a client may take for the head of a request, after connecting or the last answer.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// How long a client may take no byte of an answer that waits for it.
const UNREAD_MAX: Duration = Duration::from_secs(30);

/// The IP address of a client. `None` on a Unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self(Some(address.ip()))
    }
}

impl From<tokio::net::unix::SocketAddr> for Peer {
    fn from(_: tokio::net::unix::SocketAddr) -> Self {
        Self(None)
    }
}

/// Whether the client of a connection has shown that it may use the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Arc<AtomicBool>);

impl Known {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The maximum number of connections at the same time.
    pub(crate) connections: usize,
    /// How long requests may still run after the stop.
    pub(crate) stop: Duration,
}

/// Serves until `stop` is cancelled. Each request has the extensions [`Peer`] and [`Known`].
///
/// It returns when running requests are answered, but no longer than the bound.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) where
    L::Addr: Into<Peer>,
{
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    loop {
        tokio::select! {
            (stream, address) = listener.accept() => {
                while connections.len() >= bounds.connections
                    && let Some(oldest) = take_oldest(&mut oldest_first)
                {
                    AbortHandle::abort(&oldest);
                    connections.join_next().await;
                }
                oldest_first.retain(|(connection, _)| !connection.is_finished());
                let peer: Peer = address.into();
                let known = Known::default();
                let router = router
                    .clone()
                    .layer(Extension(peer))
                    .layer(Extension(known.clone()));
                let one = connection(stream, router, stop.clone());
                oldest_first.push_back((connections.spawn(one), known));
            }
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    // The address is free from now on.
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // The set ends the tasks that are left.
    let _ = tokio::time::timeout(bounds.stop, ended).await;
}

/// Takes the oldest connection of an unknown client, or else the oldest one.
fn take_oldest(oldest_first: &mut VecDeque<(AbortHandle, Known)>) -> Option<AbortHandle> {
    let unknown = oldest_first.iter().position(|(_, known)| !known.is_set());
    let (connection, _) = oldest_first.remove(unknown.unwrap_or_default())?;
    Some(connection)
}

/// Serves one connection until its end, or until the end of a running request after `stop`.
async fn connection<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let stream = Impatient {
        stream,
        waiting: None,
    };
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    // An error is the client's: there is nobody to tell.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// A stream whose writes fail if the client reads nothing for [`UNREAD_MAX`].
struct Impatient<S> {
    stream: S,
    /// Ends the wait for the client.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    /// Replaces a wait that is too long with an error.
    fn bound(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let begin = || Box::pin(tokio::time::sleep(UNREAD_MAX));
        let waiting = self.waiting.get_or_insert_with(begin);
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bound(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
