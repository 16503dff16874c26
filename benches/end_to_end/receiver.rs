//! The receiver. It must not be the bottleneck, so a request costs one lock and no copy.
//!
//! It answers `/after/MS` after that many milliseconds, `/hung` never, and other paths at once. It
//! ignores requests for `/hung` in its counts.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;

/// One call.
pub struct Call {
    /// The time at which its body was complete.
    pub at: Instant,
    /// The path of the request.
    pub uri: Uri,
    /// The body of the request.
    pub body: Bytes,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// A server on loopback, on its own thread, that records its requests.
pub struct Receiver {
    /// The address it listens on.
    pub address: SocketAddr,
    calls: Calls,
}

impl Receiver {
    /// Starts it on a free port, until the process ends.
    pub fn start() -> anyhow::Result<Self> {
        let calls = Calls::default();
        let listener =
            std::net::TcpListener::bind("127.0.0.1:0").context("binding the receiver")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::clone(&calls);
        std::thread::spawn(move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let router = Router::new().fallback(receive).with_state(state);
                Ok(axum::serve(listener, router).await?)
            })
        });
        Ok(Self { address, calls })
    }

    /// The number of calls so far.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Removes and returns all calls.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until `wanted` calls came, and then until none came for `quiet`, to see doubled calls.
    ///
    /// It gives up after `limit`.
    pub fn settle(&self, wanted: usize, quiet: Duration, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        let mut seen = (self.count(), Instant::now());
        while Instant::now() < end {
            let now = self.count();
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if now >= wanted && seen.1.elapsed() >= quiet {
                return Ok(());
            }
            crate::interrupt::check()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path that never answers.
pub const HUNG: &str = "/hung";

async fn receive(State(calls): State<Calls>, uri: Uri, body: Bytes) {
    let at = Instant::now();
    if uri.path() == HUNG {
        return std::future::pending().await;
    }
    let wait = uri.path().strip_prefix("/after/").map(str::parse);
    calls
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Call { at, uri, body });
    if let Some(Ok(milliseconds)) = wait {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}
