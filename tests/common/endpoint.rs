//! An endpoint that keeps what it receives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use jiff::Timestamp;
use project_webhooks::receiver::{Received, Receiver, ReceiverOptions, Reply};
use secrecy::SecretString;
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use super::daemon::FENCE;
use super::wait_until;

/// An endpoint on a port of its own; ends when dropped.
pub struct Endpoint {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Answers everything with 204.
    pub fn new() -> Self {
        Self::with(ReceiverOptions::new(Timestamp::now))
    }

    /// Answers as the function says.
    pub fn answering(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(ReceiverOptions::new(Timestamp::now).with_answer(answer))
    }

    /// Checks signatures.
    pub fn with_secret(secret: &str) -> Self {
        let secrets = vec![SecretString::from(secret.to_owned())];
        Self::with(ReceiverOptions::new(Timestamp::now).with_secrets(secrets))
    }

    /// Behaves like this.
    pub fn with(options: ReceiverOptions) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), options)
    }

    /// A port of its own on which nobody listens yet.
    pub fn reserved() -> Reserved {
        Reserved::new()
    }

    /// Listens on this address.
    fn at(address: SocketAddr, options: ReceiverOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (receiver, mut incoming) = runtime
            .block_on(Receiver::bind(address, options))
            .expect("a port");
        let url = receiver.url();
        let stop = CancellationToken::new();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (kept, stopped) = (Arc::clone(&received), stop.clone());
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let keep = async {
                    while let Some(one) = incoming.recv().await {
                        kept.lock().expect("the list").push(one);
                    }
                };
                tokio::select! {
                    () = keep => {}
                    served = receiver.serve(CancellationToken::new()) => served.expect("serves"),
                    () = stopped.cancelled() => {}
                }
            });
            // Answers that are still being delayed are not waited for.
            runtime.shutdown_background();
        });
        Self {
            url,
            received,
            stop,
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// How many callbacks came so far, those of fences too. Costs nothing, however many.
    pub fn n_all(&self) -> usize {
        self.received.lock().expect("the list").len()
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        let port = self.url.trim_end_matches('/').rsplit(':').next();
        port.and_then(|port| port.parse().ok()).expect("a port")
    }

    /// All callbacks so far, except those of fences.
    pub fn all(&self) -> Vec<Received> {
        let mut all = self.received.lock().expect("the list").clone();
        all.retain(|one| one.parameter("organizationName") != Some(FENCE));
        all
    }

    /// How many callbacks came so far, but those of fences.
    pub fn n(&self) -> usize {
        let all = self.received.lock().expect("the list");
        all.iter()
            .filter(|one| one.parameter("organizationName") != Some(FENCE))
            .count()
    }

    /// Waits for so many callbacks in all.
    pub fn wait_for(&self, n: usize) -> Vec<Received> {
        wait_until(&format!("{n} callbacks"), || (self.n() >= n).then_some(()));
        self.all()
    }

    /// Waits for a callback like this one.
    pub fn wait_for_one(&self, what: &str, wanted: impl Fn(&Received) -> bool) -> Received {
        wait_until(&format!("a callback: {what}"), || {
            self.all().into_iter().find(&wanted)
        })
    }

    /// Forgets what came so far, and returns it.
    pub fn take(&self) -> Vec<Received> {
        let all = std::mem::take(&mut *self.received.lock().expect("the list"));
        all.into_iter()
            .filter(|one| one.parameter("organizationName") != Some(FENCE))
            .collect()
    }

    /// Waits for exactly so many callbacks, and returns their events in the order of arrival.
    pub fn take_events(&self, n: usize) -> Vec<String> {
        self.wait_for(n);
        self.take().into_iter().map(|one| one.event).collect()
    }
}

/// A port of our own on which nobody listens yet: connections to it are refused.
pub struct Reserved {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Reserved {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Only so can another socket listen on it while this one keeps it.
        socket.set_reuseaddr(true).expect("an option");
        socket
            .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("a port");
        let address = socket.local_addr().expect("an address");
        Self { socket, address }
    }

    /// Where somebody will listen.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Listens on it.
    pub fn open(self, options: ReceiverOptions) -> Endpoint {
        let endpoint = Endpoint::at(self.address, options);
        drop(self.socket);
        endpoint
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
