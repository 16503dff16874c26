//! An HTTP/1.1 server that no client can exhaust or stop.
//!
//! Constraint: the number of connections is limited, and an idle client costs nothing but its
//! connection. At the limit, the server closes a connection for each new one. If there are
//! connections without proven access, it considers only these, and only those of the network that
//! has the most of them. It prefers connections older than [`GRACE`], then those without a request,
//! then the oldest. So the server answers short requests even if very many clients connect.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// How long a client may take to send the head of a request.
///
/// The time begins when the client connects, and again after each answer.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// How long answers may wait for their client to read.
const UNREAD_MAX: Duration = Duration::from_secs(30);

/// The minimum rate at which a client must read answers, in bytes per second.
const RATE_MIN: usize = 16 * 1024;

/// The minimum age of a connection that the server closes for a new one.
///
/// At the limit of connections, this also limits the rate of new connections.
const GRACE: Duration = Duration::from_millis(10);

/// The IP address of a client. `None` on a Unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

impl Peer {
    /// Returns the network of the client: an IPv4 address, or an IPv6 network (/64).
    ///
    /// Limits apply to networks, because an IPv6 host may use all addresses of its network.
    pub(crate) fn network(self) -> Option<IpAddr> {
        match self.0? {
            IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Some(IpAddr::V6(Ipv6Addr::from_bits(network)))
            }
            address => Some(address.to_canonical()),
        }
    }
}

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

/// Whether a request of the connection has shown that its client has access.
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

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The maximum number of connections at the same time.
    pub(crate) connections: usize,
    /// How long running requests may continue after the server begins to stop.
    pub(crate) stop: Duration,
}

/// An open connection.
struct Open {
    task: AbortHandle,
    peer: Peer,
    since: Instant,
    known: Known,
    /// Whether the client sent bytes of a request that has no answer yet.
    is_asking: Arc<AtomicBool>,
}

/// Serves until `stop` is cancelled, and then finishes running requests.
///
/// Finishing takes at most `bounds.stop`. Adds the extensions [`Peer`] and [`Known`] to each
/// request.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) where
    L::Addr: Into<Peer>,
{
    let mut connections = JoinSet::new();
    // The oldest connection comes first.
    let mut open: VecDeque<Open> = VecDeque::new();
    loop {
        let is_full = open.len() >= bounds.connections;
        let accept = async {
            let closed = to_close(&open, Instant::now());
            if is_full && let Some(one) = closed.and_then(|index| open.get(index)) {
                tokio::time::sleep_until(one.since + GRACE).await;
            }
            listener.accept().await
        };
        tokio::select! {
            (stream, address) = accept => {
                // Let the other connections read requests that have arrived. Otherwise, on a busy
                // machine, a connection with a request would seem to have none, and be closed.
                tokio::task::yield_now().await;
                open.retain(|one| !one.task.is_finished());
                while open.len() >= bounds.connections
                    && let Some(closed) = to_close(&open, Instant::now())
                    && let Some(closed) = open.remove(closed)
                {
                    closed.task.abort();
                    connections.join_next().await;
                }
                let peer: Peer = address.into();
                let (known, is_asking) = (Known::default(), Arc::new(AtomicBool::new(false)));
                let router = with_extensions(router.clone(), peer, &known, &is_asking);
                let one = connection(stream, Arc::clone(&is_asking), router, stop.clone());
                let task = connections.spawn(one);
                open.push_back(Open { task, peer, since: Instant::now(), known, is_asking });
                // Answer requests that have arrived before accepting more connections.
                tokio::task::yield_now().await;
            }
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => break,
        }
        while connections.try_join_next().is_some() {}
        open.retain(|one| !one.task.is_finished());
    }
    // Release the address for another process.
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // Dropping `connections` ends the remaining tasks.
    let _ = tokio::time::timeout(bounds.stop, ended).await;
}

/// Returns the index of the connection to close for a new one.
///
/// The connection may be younger than [`GRACE`] if all candidates are. The caller waits until it is
/// old enough.
fn to_close(open: &VecDeque<Open>, now: Instant) -> Option<usize> {
    let mut n_of: HashMap<Option<IpAddr>, usize> = HashMap::new();
    for one in open.iter().filter(|one| !one.known.is_set()) {
        *n_of.entry(one.peer.network()).or_default() += 1;
    }
    // Of equal connections, `max_by_key` returns the last. In reversed order that is the oldest.
    let rank = |one: &Open| {
        let is_known = one.known.is_set();
        let n = if is_known {
            0
        } else {
            n_of.get(&one.peer.network()).copied().unwrap_or_default()
        };
        let had_time = one.since + GRACE <= now;
        let is_asking = one.is_asking.load(Ordering::Relaxed);
        (!is_known, n, had_time, !is_asking)
    };
    let ranked = open.iter().enumerate().rev();
    ranked
        .max_by_key(|(_, one)| rank(one))
        .map(|(index, _)| index)
}

/// Adds the extensions to each request.
///
/// Clears `is_asking` once the answer is ready.
fn with_extensions(
    router: Router,
    peer: Peer,
    known: &Known,
    is_asking: &Arc<AtomicBool>,
) -> Router {
    let (known, is_asking) = (known.clone(), Arc::clone(is_asking));
    router.layer(middleware::from_fn(
        move |mut request: Request, next: Next| {
            let (known, is_asking) = (known.clone(), Arc::clone(&is_asking));
            async move {
                request.extensions_mut().insert(peer);
                request.extensions_mut().insert(known);
                let answer = next.run(request).await;
                is_asking.store(false, Ordering::Relaxed);
                answer
            }
        },
    ))
}

/// Serves one connection. After `stop`, finishes the running request.
async fn connection<S>(
    stream: S,
    is_asking: Arc<AtomicBool>,
    router: Router,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let stream = Impatient {
        stream,
        is_asking,
        patience: Patience::default(),
        waiting: None,
    };
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    // Only the client can cause errors of its connection, so do not log them.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// How much longer the answers of a connection may wait for their client.
///
/// Each byte that the client reads adds time. So the client must read at [`RATE_MIN`] or faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(UNREAD_MAX)
    }
}

impl Patience {
    /// Subtracts a wait. Adds time for the bytes that the client read after the wait.
    fn after(self, wait: Duration, n_taken: usize) -> Self {
        let earned = Duration::from_secs_f64(n_taken as f64 / RATE_MIN as f64);
        let left = self.0.saturating_sub(wait).saturating_add(earned);
        Self(left.min(UNREAD_MAX))
    }
}

/// A stream whose writes fail if the client reads too slowly.
struct Impatient<S> {
    stream: S,
    /// Set when the client sends bytes.
    is_asking: Arc<AtomicBool>,
    patience: Patience,
    /// The start of the current wait for the client, and the timer that limits it.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Impatient<S> {
    /// Turns a write that waits too long into an error.
    fn bound(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            let waited = self.waiting.take().map(|(begin, _)| begin.elapsed());
            let n_taken = *written.as_ref().unwrap_or(&0);
            self.patience = self.patience.after(waited.unwrap_or_default(), n_taken);
            return Poll::Ready(written);
        }
        let longest = self.patience.0;
        let begin = || (Instant::now(), Box::pin(tokio::time::sleep(longest)));
        let (_, end) = self.waiting.get_or_insert_with(begin);
        match end.as_mut().poll(context) {
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
        let n_before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > n_before {
            self.is_asking.store(true, Ordering::Relaxed);
        }
        read
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_reads_fast_enough_keeps_its_connection() {
        // The time between two reads and the bytes of each.
        for (seconds, n_bytes, is_kept) in [
            (10, 1, false),
            (29, 100_000, false),
            (1, RATE_MIN - 1_000, false),
            (1, RATE_MIN, true),
            (29, 29 * RATE_MIN, true),
            (31, usize::MAX, false),
        ] {
            let wait = Duration::from_secs(seconds);
            let mut patience = Patience::default();
            let mut reads = 0..10_000 / seconds;
            let is_cut = reads.any(|_| {
                let is_cut = wait > patience.0;
                patience = patience.after(wait, n_bytes);
                is_cut
            });
            assert_eq!(is_cut, !is_kept, "{n_bytes} bytes in {seconds} s");
        }
    }

    /// A client: its address, has access, sent a request, is older than [`GRACE`].
    type Client = (&'static str, bool, bool, bool);

    fn closed(clients: &[Client]) -> Option<usize> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            let mut open = VecDeque::new();
            let begin = Instant::now();
            for (address, is_known, is_asking, had_time) in clients {
                let known = Known::default();
                if *is_known {
                    known.set();
                }
                open.push_back(Open {
                    task: tasks.spawn(std::future::pending::<()>()),
                    peer: Peer(Some(address.parse().unwrap())),
                    since: if *had_time { begin } else { begin + GRACE },
                    known,
                    is_asking: Arc::new(AtomicBool::new(*is_asking)),
                });
            }
            to_close(&open, begin + GRACE)
        })
    }

    #[test]
    fn a_connection_without_access_and_without_a_request_is_closed_first() {
        const A: &str = "192.0.2.1";
        const B: &str = "192.0.2.2";
        let (known, asking, had_time) = (true, true, true);
        let cases: &[(&[Client], Option<usize>)] = &[
            (&[], None),
            // The oldest of equal connections.
            (
                &[(A, false, false, had_time), (A, false, false, had_time)],
                Some(0),
            ),
            (
                &[(A, false, asking, had_time), (A, false, false, had_time)],
                Some(1),
            ),
            (
                &[(A, known, false, had_time), (A, false, asking, had_time)],
                Some(1),
            ),
            (
                &[(A, known, false, had_time), (A, known, asking, had_time)],
                Some(0),
            ),
            // A connection younger than `GRACE` outlives an older one, even without a request.
            (
                &[(A, false, false, false), (A, false, asking, had_time)],
                Some(1),
            ),
            (
                &[(A, false, asking, false), (A, false, false, false)],
                Some(1),
            ),
            (
                &[(A, known, false, had_time), (A, false, false, false)],
                Some(1),
            ),
            // A connection of the network with the most connections.
            (
                &[
                    (A, false, false, had_time),
                    (B, false, asking, false),
                    (B, false, asking, had_time),
                ],
                Some(2),
            ),
            (
                &[
                    (A, known, false, had_time),
                    (A, known, false, had_time),
                    (B, false, asking, had_time),
                ],
                Some(2),
            ),
            (
                &[
                    ("2001:db8::1", false, false, had_time),
                    ("2001:db8:0:1::1", false, asking, had_time),
                    ("2001:db8:0:1:ffff::2", false, asking, had_time),
                ],
                Some(1),
            ),
        ];
        for (clients, expected) in cases {
            assert_eq!(closed(clients), *expected, "{clients:?}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        for (address, network) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::"),
            ("::1", "::"),
        ] {
            let peer = Peer(Some(address.parse().unwrap()));
            assert_eq!(peer.network(), Some(network.parse().unwrap()), "{address}");
        }
        assert_eq!(Peer(None).network(), None);
    }
}
