//! An HTTP/1.1 server that no client can exhaust or stop.
//!
//! Constraint: a client that stalls costs one of a bounded number of connections, and nothing else.
//! A new client never waits for older ones: if there are too many, the oldest connection is closed.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a client may take for the head of a request, after connecting or the last answer.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The maximum number of connections at the same time.
    pub(crate) connections: usize,
    /// How long requests may still run after the stop.
    pub(crate) stop: Duration,
}

/// Serves until `stop` is cancelled and running requests are answered, but no longer than the bound.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    loop {
        tokio::select! {
            (stream, _) = listener.accept() => {
                while connections.len() >= bounds.connections
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    tokio::task::AbortHandle::abort(&oldest);
                    connections.join_next().await;
                }
                oldest_first.retain(|connection| !connection.is_finished());
                let one = connection(stream, router.clone(), stop.clone());
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
