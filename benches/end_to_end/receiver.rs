//! The receiver: it must never be the bottleneck, so a request costs it one lock and no copy.
//!
//! The path says how it answers: `/after/MS` when that many milliseconds have passed, `/hung`
//! never and is not counted, and every other path at once.

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
    /// When its body was read whole.
    pub at: Instant,
    /// Where it went.
    pub uri: Uri,
    /// What it brought.
    pub body: Bytes,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// A server on loopback, on a thread of its own, that remembers when each body was complete.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    calls: Calls,
}

impl Receiver {
    /// Starts it on a free port. It lives as long as the process.
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

    /// How many calls came.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Takes all calls out.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until `wanted` calls came and then for `quiet` without another, so that doubled calls
    /// are seen too; gives up when `limit` has passed.
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
