//! Receivers that flood by the means of TLS and HTTP/2.
//!
//! Constraint: each flood is one frame or record that a client must take, again and again. HTTP/2 is
//! only spoken over TLS.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::{Daemon, Endpoint, Home, Settings, Webhook, wait_health, wait_until};
use crate::tls::{self, Authority};
use crate::{define, snapshot, standing};

/// How many callbacks the good endpoint gets, one after the other.
const CALLBACKS: usize = 5;

/// The most memory that all floods of a test may take together, in KiB.
const MEMORY: u64 = 96 * 1024;

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// How a server floods its client.
#[derive(Clone)]
enum Attack {
    /// It reads the request, answers with the first frames, and repeats the others.
    Frames { first: Vec<u8>, again: Vec<u8> },
    /// It renews its key for each byte that it sends.
    KeyUpdates,
    /// It sends many session tickets after each handshake.
    Tickets,
    /// It repeats these bytes instead of a handshake.
    Plain(&'static [u8]),
    /// It sends a handshake byte by byte.
    Drips,
}

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The floods of HTTP/2, by the frame that they repeat.
fn frames() -> Vec<(&'static str, Attack)> {
    const END_HEADERS: u8 = 4;
    // The header block `:status: 200`, and `:status: 103` as a literal.
    let ok = frame(1, END_HEADERS, 1, &[0x88]);
    let early_hints = frame(1, END_HEADERS, 1, b"\x08\x03103");
    let open = frame(1, 0, 1, &[0x88]);
    // A header `x-a` of 1,000 bytes.
    let mut field = b"\x00\x03x-a\x7f\xe9\x06".to_vec();
    field.extend([b'x'; 1_000]);
    let attack = |name, first: &[Vec<u8>], again: Vec<u8>| {
        let first = first.concat();
        (name, Attack::Frames { first, again })
    };
    vec![
        attack("pings", &[], frame(6, 0, 0, &[0; 8])),
        attack("settings", &[], frame(4, 0, 0, &[])),
        attack("windows", &[], frame(8, 0, 0, &[0, 0, 0, 1])),
        attack("empty-data", &[ok], frame(0, 0, 1, &[])),
        attack("interim-answers", &[], early_hints),
        attack(
            "continuations",
            std::slice::from_ref(&open),
            frame(9, 0, 1, &[]),
        ),
        attack("endless-headers", &[open], frame(9, 0, 1, &field)),
        attack("resets", &[], frame(3, 0, 1, &[0, 0, 0, 8])),
        attack("priorities", &[], frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        attack(
            "going-away",
            &[],
            frame(7, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        ),
        attack("unknown-frames", &[], frame(0xfa, 0, 0, &[0; 8])),
    ]
}

fn handshakes() -> Vec<(&'static str, Attack)> {
    vec![
        ("key-updates", Attack::KeyUpdates),
        ("tickets", Attack::Tickets),
        ("drips", Attack::Drips),
        // Records that a client ignores for compatibility: a change of the cipher, and a warning.
        ("cipher-changes", Attack::Plain(b"\x14\x03\x03\x00\x01\x01")),
        ("warnings", Attack::Plain(b"\x15\x03\x03\x00\x02\x01\x5a")),
        ("empty-records", Attack::Plain(b"\x16\x03\x03\x00\x00")),
    ]
}

/// A server that floods each client until the client is gone.
struct Flood {
    name: &'static str,
    port: u16,
    /// The number of bytes that it has sent to flood, in all connections.
    n_sent: Arc<AtomicUsize>,
    n_connections: Arc<AtomicUsize>,
}

impl Flood {
    fn start(name: &'static str, attack: Attack, authority: &Authority) -> Self {
        let mut config = tls::server_config(&authority.issue("localhost", 2100, ServerAuth), None);
        match attack {
            Attack::Frames { .. } => config.alpn_protocols = vec![b"h2".to_vec()],
            Attack::Tickets => config.send_tls13_tickets = 2_000,
            _ => {}
        }
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let flood = Self {
            name,
            port: listener.local_addr().unwrap().port(),
            n_sent: Arc::default(),
            n_connections: Arc::default(),
        };
        let (n_sent, n_connections) = (flood.n_sent.clone(), flood.n_connections.clone());
        // Ends with the process.
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                n_connections.fetch_add(1, Ordering::AcqRel);
                let (config, attack, n_sent) = (config.clone(), attack.clone(), n_sent.clone());
                std::thread::spawn(move || serve(socket, config, &attack, &n_sent));
            }
        });
        flood
    }

    /// Whether the flood has begun. The client may end it at any time.
    fn has_begun(&self) -> bool {
        self.n_sent.load(Ordering::Acquire) > 0
    }
}

fn serve(
    mut socket: TcpStream,
    config: Arc<ServerConfig>,
    attack: &Attack,
    n_sent: &AtomicUsize,
) -> io::Result<()> {
    let count = |n: usize| n_sent.fetch_add(n, Ordering::AcqRel);
    let stream = |socket| StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    match attack {
        Attack::Frames { first, again } => {
            let mut stream = stream(socket);
            read_request(&mut stream)?;
            // Its settings, and the acknowledgement of the client's.
            stream.write_all(&[frame(4, 0, 0, &[]), frame(4, 1, 0, &[])].concat())?;
            stream.write_all(first)?;
            let many = again.repeat(16 * 1024 / again.len());
            stream
                .sock
                .set_read_timeout(Some(Duration::from_millis(1)))?;
            let mut answers = vec![0; 64 * 1024];
            loop {
                stream.write_all(&many)?;
                count(many.len());
                // A client whose acknowledgements nobody reads would wait.
                match stream.read(&mut answers) {
                    Ok(0) => return Ok(()),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Attack::KeyUpdates => {
            let mut stream = stream(socket);
            stream.read_exact(&mut [0; 1])?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nX-Endless: ")?;
            loop {
                stream
                    .conn
                    .refresh_traffic_keys()
                    .map_err(io::Error::other)?;
                stream.write_all(b"x")?;
                stream.flush()?;
                count(64);
            }
        }
        Attack::Tickets => {
            let mut stream = stream(socket);
            stream.read_exact(&mut [0; 1])?;
            count(1);
            // Closed without an answer, so that the client comes again.
            Ok(())
        }
        Attack::Plain(record) => {
            let many = record.repeat(16 * 1024 / record.len());
            loop {
                socket.write_all(&many)?;
                count(many.len());
            }
        }
        Attack::Drips => {
            // A record of the handshake that announces 16 KiB, with an endless certificate.
            let mut bytes = b"\x16\x03\x03\x40\x00\x0b\x00\x40\x00".to_vec();
            bytes.resize(16 * 1024, 0);
            for byte in bytes.chunks(1).cycle() {
                socket.write_all(byte)?;
                count(1);
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
    }
}

/// Reads the preface of HTTP/2, and frames up to the head of a request.
fn read_request(stream: &mut Tls) -> io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; usize::try_from(length).unwrap()])?;
        if head[3] == 1 {
            return Ok(());
        }
    }
}

/// The memory of the daemon, in KiB.
fn memory(daemon: &Daemon<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

/// While all of these flood, another webhook goes on, memory stays bounded, and SIGTERM ends the daemon.
fn others_go_on(attacks: Vec<(&'static str, Attack)>) {
    let authority = Authority::new("floods");
    let good = Endpoint::new();
    let start = |(name, attack)| Flood::start(name, attack, &authority);
    let floods: Vec<Flood> = attacks.into_iter().map(start).collect();
    let mut webhooks = vec![Webhook::new("good", &good.url()).events("[snapshot-create]")];
    webhooks.extend(floods.iter().map(|flood| {
        let url = format!("https://localhost:{}/", flood.port);
        Webhook::new(flood.name, &url)
            .events("[project-import-any]")
            .with("timeout: 10m")
            .with("connect_timeout: 5m")
            .with("tls: { ca: ca.pem }")
    }));
    let settings = Settings::of(webhooks).top("admin: { listen: \"unix:admin.sock\" }");
    let home = Home::new(&settings);
    fs::write(home.beside("ca.pem"), authority.pem()).unwrap();
    let daemon = home.start();
    let before = memory(&daemon);
    define(&home, "p0");
    for flood in &floods {
        wait_until(&format!("the flood of {}", flood.name), || {
            flood.has_begun().then_some(())
        });
    }
    let mut most = 0;
    for number in 0..CALLBACKS {
        snapshot(&home, "p0", &format!("s{number:02}"));
        good.wait_for(number + 1);
        wait_health(&home, "/healthz", 200);
        most = memory(&daemon).max(most);
    }
    wait_until("all deliveries to be recorded", || {
        (standing(&home, "good")["pending"] == 0).then_some(())
    });
    let taken = most.saturating_sub(before);
    for flood in &floods {
        let n_sent = flood.n_sent.load(Ordering::Acquire);
        let n_connections = flood.n_connections.load(Ordering::Acquire);
        eprintln!(
            "{}: {n_sent} bytes, {n_connections} connections",
            flood.name
        );
    }
    eprintln!("{taken} KiB for {} floods", floods.len());
    assert!(taken < MEMORY, "{taken} KiB for {} floods", floods.len());
    // Attempts in progress have 10 s.
    assert!(daemon.terminate().success());
}

#[test]
fn receivers_that_flood_by_http_2_stop_no_other_webhook_and_not_the_end() {
    others_go_on(frames());
}

#[test]
fn receivers_that_flood_by_tls_stop_no_other_webhook_and_not_the_end() {
    others_go_on(handshakes());
}
