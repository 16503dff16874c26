use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use rustix::process::Signal;

use crate::common::{Daemon, Endpoint, Home, PATIENCE, Settings, Webhook, wait_health, wait_until};
use crate::{define, snapshot, standing};

/// How many callbacks the good endpoint gets, one after the other.
const CALLBACKS: usize = 20;

/// A server that answers each request with the same bytes until the client is gone.
pub struct Flood {
    address: SocketAddr,
    /// The number of connections that it has flooded.
    n_flooded: Arc<AtomicUsize>,
    is_ended: Arc<AtomicBool>,
}

impl Flood {
    pub fn new(first: &'static str, again: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let flood = Self {
            address: listener.local_addr().unwrap(),
            n_flooded: Arc::default(),
            is_ended: Arc::default(),
        };
        let (n_flooded, is_ended) = (Arc::clone(&flood.n_flooded), Arc::clone(&flood.is_ended));
        let again: Arc<[u8]> = again.repeat(64 * 1024 / again.len()).into_bytes().into();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if is_ended.load(Ordering::Acquire) {
                    return;
                }
                let (n_flooded, again) = (Arc::clone(&n_flooded), Arc::clone(&again));
                std::thread::spawn(move || {
                    flood_one(socket.unwrap(), first.as_bytes(), &again, &n_flooded)
                });
            }
        });
        flood
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn n_flooded(&self) -> usize {
        self.n_flooded.load(Ordering::Acquire)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

/// Reads the head of a request, and writes until the client is gone.
fn flood_one(mut socket: TcpStream, first: &[u8], again: &[u8], n_flooded: &AtomicUsize) {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match socket.read(&mut piece) {
            Ok(n) if n > 0 => head.extend_from_slice(&piece[..n]),
            _ => return,
        }
    }
    n_flooded.fetch_add(1, Ordering::AcqRel);
    let mut written = socket.write_all(first);
    while written.is_ok() {
        written = socket.write_all(again);
    }
}

/// The receivers, authorization servers and proxies that flood, each for a webhook of its own.
fn floods() -> [(&'static str, Flood); 4] {
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    [
        ("continues", Flood::new("", CONTINUE)),
        (
            "hints",
            Flood::new("", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
        ),
        ("token", Flood::new("", CONTINUE)),
        ("proxy", Flood::new("", CONTINUE)),
    ]
}

/// The settings of all webhooks. Without `with_floods`, only of the good one.
fn settings(good: &Endpoint, floods: &[(&str, Flood)], with_floods: bool) -> Settings {
    let mut webhooks = vec![Webhook::new("good", &good.url()).events("[snapshot-create]")];
    for (name, flood) in floods.iter().filter(|_| with_floods) {
        let webhook = match *name {
            "token" => Webhook::new(name, &good.url()).with(&format!(
                "auth: {{ oauth2: {{ token_url: {:?}, client_id: a, client_secret: b }} }}",
                flood.url()
            )),
            "proxy" => Webhook::new(name, "http://receiver.invalid/"),
            _ => Webhook::new(name, &flood.url()),
        };
        webhooks.push(webhook.events("[project-import-any]").with("timeout: 10m"));
    }
    Settings::of(webhooks).top("admin: { listen: \"unix:admin.sock\" }")
}

/// Starts the daemon, and waits until all floods have begun.
fn flooded<'a>(home: &'a Home, floods: &[(&str, Flood)]) -> Daemon<'a> {
    let mut command = Daemon::command(home);
    let (_, proxy) = floods.iter().find(|(name, _)| *name == "proxy").unwrap();
    command.env("HTTP_PROXY", proxy.url());
    let daemon = Daemon::launch(home, command);
    daemon.wait_ready();
    define(home, "p0");
    for (name, flood) in floods {
        wait_until(&format!("the flood of {name}"), || {
            (flood.n_flooded() > 0).then_some(())
        });
    }
    daemon
}

/// A client reads all interim answers that have arrived before it lets others work.
#[test]
fn receivers_that_flood_stop_no_other_webhook_no_command_and_not_the_end() {
    let good = Endpoint::new();
    let floods = floods();
    let home = Home::new(&settings(&good, &floods, true));
    let daemon = flooded(&home, &floods);
    let begin = Instant::now();
    for number in 0..CALLBACKS {
        snapshot(&home, "p0", &format!("s{number:02}"));
        good.wait_for(number + 1);
        wait_health(&home, "/healthz", 200);
    }
    // One wait for the processor would be short; the sum shows whether each callback waits for floods.
    assert!(begin.elapsed() < 3 * PATIENCE, "{:?}", begin.elapsed());
    wait_until("all deliveries to be recorded", || {
        (standing(&home, "good")["pending"] == 0).then_some(())
    });

    // A reload removes the webhooks that are flooded, and their attempts go on.
    home.configure(&settings(&good, &floods, false));
    assert!(daemon.reload());
    snapshot(&home, "p0", "s90");
    good.wait_for(CALLBACKS + 1);
    // They come back and wait for their attempts.
    home.configure(&settings(&good, &floods, true));
    assert!(daemon.reload());
    snapshot(&home, "p0", "s91");
    good.wait_for(CALLBACKS + 2);
    assert!(floods.iter().all(|(_, flood)| flood.n_flooded() == 1));

    // The second signal ends them at once.
    daemon.signal(Signal::TERM);
    daemon.wait_message("stopping: waiting for requests in progress", 1);
    assert!(daemon.terminate().success());
    for (name, flood) in &floods {
        assert_eq!(flood.n_flooded(), 1, "{name}");
    }
}
