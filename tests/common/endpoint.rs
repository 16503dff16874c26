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

    /// Answers with the result of the function.
    pub fn answering(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(ReceiverOptions::new(Timestamp::now).with_answer(answer))
    }

    /// Checks signatures.
    pub fn with_secret(secret: &str) -> Self {
        let secrets = vec![SecretString::from(secret.to_owned())];
        Self::with(ReceiverOptions::new(Timestamp::now).with_secrets(secrets))
    }

    /// Uses these options.
    pub fn with(options: ReceiverOptions) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), options)
    }

    /// Reserves a port without listening on it.
    pub fn reserved() -> Reserved {
        Reserved::new()
    }

    /// Listens on this address.
    ///
    /// It keeps a callback before it answers, so whoever sees the answer finds the callback.
    fn at(address: SocketAddr, mut options: ReceiverOptions) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&received);
        let answer = options.answer;
        options.answer = Box::new(move |one| {
            kept.lock().expect("the list").push(one.clone());
            answer(one)
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (receiver, mut incoming) = runtime
            .block_on(Receiver::bind(address, options))
            .expect("a port");
        let url = receiver.url();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let drain = async { while incoming.recv().await.is_some() {} };
                tokio::select! {
                    () = drain => {}
                    () = receiver.serve(CancellationToken::new()) => {}
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

    /// Its URL.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The number of received callbacks, those of fences too. Constant time.
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

    /// The number of received callbacks, except those of fences.
    pub fn n(&self) -> usize {
        let all = self.received.lock().expect("the list");
        all.iter()
            .filter(|one| one.parameter("organizationName") != Some(FENCE))
            .count()
    }

    /// Waits until `n` callbacks are received in total.
    pub fn wait_for(&self, n: usize) -> Vec<Received> {
        wait_until(&format!("{n} callbacks"), || (self.n() >= n).then_some(()));
        self.all()
    }

    /// Waits for a callback that is `wanted`.
    pub fn wait_for_one(&self, what: &str, wanted: impl Fn(&Received) -> bool) -> Received {
        wait_until(&format!("a callback: {what}"), || {
            self.all().into_iter().find(&wanted)
        })
    }

    /// Takes the received callbacks.
    pub fn take(&self) -> Vec<Received> {
        let all = std::mem::take(&mut *self.received.lock().expect("the list"));
        all.into_iter()
            .filter(|one| one.parameter("organizationName") != Some(FENCE))
            .collect()
    }

    /// Waits for exactly `n` callbacks. Returns their events in the order of arrival.
    pub fn take_events(&self, n: usize) -> Vec<String> {
        self.wait_for(n);
        self.take().into_iter().map(|one| one.event).collect()
    }
}

/// A reserved port without a listener: connections to it are refused.
pub struct Reserved {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Reserved {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Allows another socket to listen on it while this one reserves it.
        socket.set_reuseaddr(true).expect("an option");
        socket
            .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("a port");
        let address = socket.local_addr().expect("an address");
        Self { socket, address }
    }

    /// The URL of the future endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
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
