//! Clients that stall, a receiver that misbehaves, hostile files, and a full disk.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::common::{Endpoint, Home, Reserved, Run as _, wait_until, write};

/// Clients of the admin server and of the control socket that send half a request and then nothing.
pub struct StalledClients {
    _streams: Vec<UnixStream>,
}

impl StalledClients {
    /// Opens them.
    pub fn open(home: &Home, pid: u32) -> Self {
        let control = in_namespace(home, pid).join("control.sock");
        let mut streams = Vec::new();
        for (path, n, half) in [
            (home.beside("admin.sock"), 20, "GET /metrics HT"),
            (control, 5, "{\"rel"),
        ] {
            for _ in 0..n {
                let mut stream = UnixStream::connect(&path).unwrap();
                stream.write_all(half.as_bytes()).unwrap();
                streams.push(stream);
            }
        }
        Self { _streams: streams }
    }
}

/// The state directory, as the daemon sees it.
fn in_namespace(home: &Home, pid: u32) -> PathBuf {
    let state = home.beside("state");
    PathBuf::from(format!("/proc/{pid}/root")).join(state.strip_prefix("/").unwrap())
}

/// The disk of the state.
pub struct Disk {
    pid: u32,
    state: PathBuf,
}

impl Disk {
    /// The disk of this daemon, in its own mount namespace.
    pub fn of(home: &Home, pid: u32) -> Self {
        Self {
            pid,
            state: in_namespace(home, pid),
        }
    }

    /// Takes all that is left, to the last block.
    pub fn fill(&self) {
        let _full = fs::write(self.state.join("filler"), vec![0_u8; 256 << 20]);
    }

    /// Frees it again.
    pub fn free(&self) {
        let _none = fs::remove_file(self.state.join("filler"));
    }

    /// The bytes of the database and of its log.
    pub fn database(&self) -> (u64, u64) {
        let size = |name: &str| fs::metadata(self.state.join(name)).map_or(0, |meta| meta.len());
        (size("state.db"), size("state.db-wal"))
    }

    /// The stored deliveries, counted by a command beside the daemon.
    pub fn deliveries(&self, home: &Home) -> usize {
        let output = Command::new("nsenter")
            .args(["-m", "-t", &self.pid.to_string()])
            .arg(env!("CARGO_BIN_EXE_project-webhooks"))
            .arg("--config")
            .arg(home.config())
            .args(["deliveries", "--limit", "1000", "--json"])
            .run()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        listed.as_array().unwrap().len()
    }
}

/// Files that must not count, hang or end the daemon. Dropping this value removes them.
pub struct HostileFiles {
    paths: Vec<PathBuf>,
}

impl HostileFiles {
    /// Makes them.
    pub fn make(home: &Home) -> Self {
        let at = |below: &str| home.at(below);
        let bomb = "<!DOCTYPE a [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">\
                    <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;\">]><schema>&c;</schema>";
        write(&at("sales/h-bomb/project.xml"), bomb);
        write(
            &at("sales/h-half/project.xml"),
            "<?xml version=\"1.0\"?><sche",
        );
        write(&at("sales/h-deep/project.xml"), &"<a>".repeat(20_000));
        write(&at("sales/h-large/project.xml"), "<schema>");
        let large = fs::OpenOptions::new()
            .write(true)
            .open(at("sales/h-large/project.xml"))
            .unwrap();
        large.set_len(1 << 30).unwrap();
        fs::create_dir_all(at("sales/h-fifo")).unwrap();
        let fifo = at("sales/h-fifo/project.xml");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::create_dir_all(at("sales/h-loop")).unwrap();
        symlink(at("sales/h-loop"), at("sales/h-loop/snapshots")).unwrap();
        symlink("/dev/zero", at("sales/h-loop/project.xml")).unwrap();
        let unnamed = OsStr::from_bytes(b"h-\xff\xfe");
        fs::create_dir_all(at("sales").join(unnamed)).unwrap();
        let long = "h".repeat(255);
        fs::create_dir_all(at("sales").join(&long)).unwrap();
        let mut paths: Vec<PathBuf> = ["bomb", "half", "deep", "large", "fifo", "loop"]
            .map(|name| at(&format!("sales/h-{name}")))
            .into();
        paths.push(at("sales").join(unnamed));
        paths.push(at("sales").join(long));
        Self { paths }
    }
}

impl Drop for HostileFiles {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// What the receiver does with a request.
const MODES: usize = 6;
const GOOD: usize = 0;

/// A receiver that can be killed and revived at its port, and that misbehaves.
pub struct Receiver {
    /// Nobody else gets the port while the receiver is dead.
    reserved: Reserved,
    mode: Arc<AtomicUsize>,
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    clients: Arc<Mutex<Vec<TcpStream>>>,
    thread: JoinHandle<()>,
}

impl Receiver {
    /// Starts it. It answers with 204.
    pub fn new() -> Self {
        let mut receiver = Self {
            reserved: Endpoint::reserved(),
            mode: Arc::new(AtomicUsize::new(GOOD)),
            running: None,
        };
        receiver.revive();
        receiver
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.reserved.url()
    }

    /// Misbehaves in one of its ways.
    pub fn misbehave(&self, cycle: usize) {
        self.mode.store(1 + cycle % (MODES - 1), Ordering::SeqCst);
    }

    /// Answers with 204 again.
    pub fn behave(&self) {
        self.mode.store(GOOD, Ordering::SeqCst);
    }

    /// Closes its port and all connections.
    pub fn kill(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.reserved.address());
        running.thread.join().unwrap();
        for client in running.clients.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Listens at its port again.
    pub fn revive(&mut self) {
        let bind = || TcpListener::bind(self.reserved.address()).ok();
        let listener = wait_until("the port", bind);
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = Arc::new(Mutex::new(Vec::new()));
        let (ends, kept, mode) = (
            Arc::clone(&stop),
            Arc::clone(&clients),
            Arc::clone(&self.mode),
        );
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let mut all = kept.lock().unwrap();
                all.retain(|client: &TcpStream| client.peer_addr().is_ok());
                all.push(stream.try_clone().unwrap());
                let mode = Arc::clone(&mode);
                std::thread::spawn(move || answer_all(stream, &mode));
            }
        });
        self.running = Some(Running {
            stop,
            clients,
            thread,
        });
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a request. Returns false at the end of the connection.
fn read_request(stream: &mut TcpStream) -> bool {
    let mut request = Vec::new();
    let mut part = [0; 4_096];
    loop {
        let n = stream.read(&mut part).unwrap_or(0);
        if n == 0 {
            return false;
        }
        request.extend(&part[..n]);
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
        let length = head.lines().find_map(|line| {
            let value = line.strip_prefix("content-length:")?;
            value.trim().parse::<usize>().ok()
        });
        if request.len() >= end + 4 + length.unwrap_or(0) {
            return true;
        }
    }
}

/// Answers the requests of a connection.
fn answer_all(mut stream: TcpStream, mode: &AtomicUsize) {
    while read_request(&mut stream) {
        let answer: &[u8] = match mode.load(Ordering::SeqCst) {
            GOOD => b"HTTP/1.1 204 No Content\r\n\r\n",
            1 => b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops",
            2 => b"\x16\x03garbage\r\n\r\n",
            // Half an answer, and the rest never.
            3 => b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf",
            // No answer until the client gives up.
            4 => b"",
            _ => {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        };
        if stream.write_all(answer).is_err() {
            return;
        }
        if answer.is_empty() {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        }
    }
}
