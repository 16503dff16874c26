//! The receiver: it must never be the bottleneck, so a request costs it one lock and one copy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;

type Calls = Arc<Mutex<Vec<(Instant, Bytes)>>>;

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
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Takes all calls out.
    pub fn take(&self) -> Vec<(Instant, Bytes)> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `wanted` calls came and then for `quiet` without another, so that doubled calls
    /// are seen too; gives up when `limit` has passed.
    pub fn settle(&self, wanted: usize, quiet: Duration, limit: Duration) {
        let end = Instant::now() + limit;
        let mut seen = (self.count(), Instant::now());
        while Instant::now() < end {
            let now = self.count();
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if now >= wanted && seen.1.elapsed() >= quiet {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

async fn receive(State(calls): State<Calls>, body: Bytes) {
    calls
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((Instant::now(), body));
}
