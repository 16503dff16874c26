//! An HTTP/1.1 server that no client can exhaust or stop.
//!
//! Constraint: a client that stalls costs one of a bounded number of connections, and nothing else.
//! A new client never waits for older ones: if there are too many, the oldest connection is closed.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a client may take for the head of a request, after connecting or the last answer.
const HEAD_MAX: Duration = Duration::from_secs(10);

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

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The maximum number of connections at the same time.
    pub(crate) connections: usize,
    /// How long requests may still run after the stop.
    pub(crate) stop: Duration,
}

/// Serves until `stop` is cancelled. Each request has the extension [`Peer`].
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
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    tokio::task::AbortHandle::abort(&oldest);
                    connections.join_next().await;
                }
                oldest_first.retain(|connection| !connection.is_finished());
                let peer: Peer = address.into();
                let router = router.clone().layer(Extension(peer));
                let one = connection(stream, router, stop.clone());
                oldest_first.push_back(connections.spawn(one));
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

/// Serves one connection until its end, or until the end of a running request after `stop`.
async fn connection<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
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
