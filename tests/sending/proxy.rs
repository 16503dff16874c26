//! Proxies as small as they can be: they note what they are asked for, and connect to this machine
//! instead, to one port for everything plain and to another for TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy on a port of its own.
pub(crate) struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

/// Where a proxy connects to.
#[derive(Clone, Copy)]
struct Upstream {
    plain: u16,
    tls: u16,
}

impl Upstream {
    fn connect(self, is_tls: bool) -> Option<TcpStream> {
        let port = if is_tls { self.tls } else { self.plain };
        TcpStream::connect(("127.0.0.1", port)).ok()
    }
}

impl Proxy {
    /// An HTTP proxy; what it notes are the heads of requests.
    pub(crate) fn http(plain: u16, tls: u16) -> Self {
        Self::start(Upstream { plain, tls }, serve_http)
    }

    /// A SOCKS5 proxy; what it notes are hosts and ports.
    pub(crate) fn socks5(plain: u16, tls: u16) -> Self {
        Self::start(Upstream { plain, tls }, serve_socks5)
    }

    fn start(
        upstream: Upstream,
        serve: fn(TcpStream, Upstream, &Mutex<Vec<String>>) -> Option<()>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&heads);
        // Ends with the process.
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let noted = Arc::clone(&noted);
                thread::spawn(move || serve(client, upstream, &noted));
            }
        });
        Self { port, heads }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// As the variables of the environment have it; `user` ends in `@`.
    pub(crate) fn url(&self, scheme: &str, user: &str) -> String {
        format!("{scheme}://{user}127.0.0.1:{}", self.port)
    }

    /// The heads of all requests.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn serve_http(mut client: TcpStream, to: Upstream, heads: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let is_tunnel = text.starts_with("CONNECT ");
    heads.lock().unwrap().push(text);
    let mut server = to.connect(is_tunnel)?;
    if is_tunnel {
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
    } else {
        server.write_all(&head).ok()?;
    }
    splice(client, server)
}

fn serve_socks5(mut client: TcpStream, to: Upstream, heads: &Mutex<Vec<String>>) -> Option<()> {
    let [_, n_methods] = read(&mut client)?;
    client
        .read_exact(&mut vec![0; usize::from(n_methods)])
        .ok()?;
    client.write_all(&[5, 0]).ok()?;
    let [_, _, _, kind] = read(&mut client)?;
    let host = match kind {
        1 => std::net::Ipv4Addr::from(read(&mut client)?).to_string(),
        3 => {
            let [length] = read(&mut client)?;
            let mut name = vec![0; usize::from(length)];
            client.read_exact(&mut name).ok()?;
            String::from_utf8(name).ok()?
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(read(&mut client)?);
    heads.lock().unwrap().push(format!("{host}:{port}"));
    let server = to.connect(port == 443)?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    splice(client, server)
}

fn read<const N: usize>(client: &mut TcpStream) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Both ways, until both have ended.
fn splice(client: TcpStream, server: TcpStream) -> Option<()> {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        let _ended = std::io::copy(&mut from, &mut to);
        let _ended = to.shutdown(Shutdown::Write);
    };
    let (there, back) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || copy(there, back));
    copy(server, client);
    Some(())
}
