//! A client of the admin API: plain HTTP/1.1, so that a test can send what no library would.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tokio::net::TcpSocket;

use super::common::{Patient, wait_until};

/// The token of the tests.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A free address that nobody gets by asking the system for any port.
pub fn free_address() -> SocketAddr {
    static N_TAKEN: AtomicU32 = AtomicU32::new(0);
    // Tests run in parallel, so that each gets ports of its own.
    let first = 10_000 + std::process::id() % 5_000 + 100 * N_TAKEN.fetch_add(1, Ordering::SeqCst);
    let mut ports = (first..20_000).filter_map(|port| u16::try_from(port).ok());
    // It does not listen, because a child that another test starts now would go on listening.
    let is_free = |port: &u16| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
        socket.bind(address).is_ok()
    };
    SocketAddr::from((Ipv4Addr::LOCALHOST, ports.find(is_free).unwrap()))
}

/// Where the server listens.
#[derive(Clone, Debug)]
pub enum Server {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Server {
    pub fn connect(&self) -> Box<dyn Stream> {
        match self {
            Server::Tcp(address) => {
                // The daemon may be ready a moment before its server listens.
                let connect = || TcpStream::connect(address).ok();
                Box::new(Patient::of(wait_until("the server", connect)))
            }
            Server::Unix(path) => {
                let connect = || UnixStream::connect(path).ok();
                Box::new(Patient::of(wait_until("the server", connect)))
            }
        }
    }

    /// Sends a request with these lines of the head, and reads the whole answer.
    pub fn send(&self, method: &str, path: &str, lines: &[&str], body: &str) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        for line in lines {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        // The server may answer before it has read everything.
        let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Answer {
            status: status.unwrap_or_default(),
            head: head.to_lowercase().replace("\r\n", "\n"),
            body: body.to_owned(),
        }
    }

    /// Gets a path with the token.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &["host: localhost", &bearer(TOKEN)], "")
    }

    /// Gets a path with the token; the answer must be JSON with the status 200.
    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Posts JSON with the token.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let lines = [
            "host: localhost",
            &bearer(TOKEN),
            "content-type: application/json",
        ];
        self.send("POST", path, &lines, &body.to_string())
    }

    /// Opens the stream, and returns its messages.
    pub fn stream(&self, lines: &[&str]) -> Messages {
        self.open_stream(&[&[bearer(TOKEN).as_str()], lines].concat())
    }

    /// Opens the stream with this cookie instead of the token.
    pub fn stream_with(&self, cookie: &str) -> Messages {
        self.open_stream(&[cookie])
    }

    fn open_stream(&self, lines: &[&str]) -> Messages {
        let mut stream = self.connect();
        let mut head = "GET /api/v1/stream HTTP/1.1\r\n".to_owned();
        for line in ["host: localhost"].iter().chain(lines) {
            head.push_str(line);
            head.push_str("\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while line != "\r\n" {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "it ended");
        }
        Messages { reader }
    }
}

/// The header line with a token.
pub fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// The messages of a stream.
pub struct Messages {
    reader: BufReader<Box<dyn Stream>>,
}

/// One message.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub name: String,
    pub id: String,
    pub data: String,
}

impl Messages {
    /// Reads the next message. `None` at the end of the stream.
    pub fn next(&mut self) -> Option<Message> {
        let mut message = Message::default();
        wait_until("a message of the stream", || {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap_or_default() == 0 {
                return Some(None);
            }
            let line = line.trim_end();
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut message.name);
            } else if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut message.id);
            } else if let Some(data) = line.strip_prefix("data: ") {
                data.clone_into(&mut message.data);
            } else if line.is_empty() && !message.name.is_empty() {
                return Some(Some(std::mem::take(&mut message)));
            }
            None
        })
    }

    /// Reads up to the next message that is wanted.
    pub fn find(&mut self, mut wanted: impl FnMut(&Message) -> bool) -> Message {
        wait_until("a message of the stream", || {
            let message = self.next().unwrap();
            wanted(&message).then_some(message)
        })
    }
}
