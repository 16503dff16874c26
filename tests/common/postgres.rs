//! A server of PostgreSQL that ends with the tests.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpSocket;

use super::{PATIENCE, Patient, Run as _, kill, wait_until};

/// A running server, with the user `postgres` and without passwords.
///
/// Its processes belong to an unprivileged user, because the server refuses to run as root. A shell
/// stops it and removes its directory when the standard input of the shell ends: at the latest when the
/// process of the tests ends.
pub struct Postgres {
    shell: Child,
    directory: PathBuf,
    programs: PathBuf,
    pub port: u16,
    /// Keeps the port while the server does not listen, before its start and after a crash.
    _reserved: TcpSocket,
    n_databases: AtomicUsize,
}

/// The unprivileged user that the Debian package makes.
const USER: &str = "postgres";

const SCRIPT: &str = r#"
cd "$1" && { [ -z "$4" ] || ln -s "$4" data; } && "$2/initdb" -D data -U postgres -A trust -E UTF8 --no-locale -N > log 2>&1 || exit 1
printf '%s\n' "port = $3" "listen_addresses = '127.0.0.1'" "unix_socket_directories = '$1'" \
    "fsync = $5" 'max_connections = 200' 'shared_buffers = 32MB' "log_min_messages = fatal" >> data/postgresql.conf
printf '%s\n' 'host all locked 127.0.0.1/32 scram-sha-256' 'host all all 127.0.0.1/32 trust' \
    'local all all trust' > data/pg_hba.conf
"$2/pg_ctl" -D data -w -l log start > /dev/null || exit 1
touch started
cat > /dev/null
"$2/pg_ctl" -D data -m immediate stop > /dev/null 2>&1
rm -rf "$1"
"#;

/// A session of psql. It ends when it is dropped.
pub struct Session(Child);

impl Session {
    /// Ends it, and returns its output since its start, with the notifications that it got.
    pub fn end(mut self) -> String {
        // It prints them after a statement.
        let input = self.0.stdin.as_mut().unwrap();
        input.write_all(b"SELECT 'end';\n").unwrap();
        drop(self.0.stdin.take());
        let mut output = String::new();
        let mut all = Patient::of(self.0.stdout.take().unwrap());
        all.read_to_string(&mut output).unwrap();
        output
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let begin = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
        kill(&mut self.0);
    }
}

impl Postgres {
    /// Starts a server. Returns `None` if PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// Starts a server with its files in a new directory, which survives it, and with `fsync`.
    pub fn start_on(data: &Path) -> Option<Self> {
        fs::create_dir(data).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(data, Some(id_of(USER)?), None).unwrap();
        }
        Self::start_with(Some(data))
    }

    fn start_with(data: Option<&Path>) -> Option<Self> {
        let programs = programs()?;
        let directory = tempfile::Builder::new()
            .prefix("pg")
            .tempdir()
            .unwrap()
            .keep();
        let reserved = TcpSocket::new_v4().unwrap();
        // The server may listen on it while this socket is bound to it.
        reserved.set_reuseaddr(true).unwrap();
        reserved
            .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .unwrap();
        let port = reserved.local_addr().unwrap().port();
        let mut command = if rustix::process::geteuid().is_root() {
            let id = id_of(USER)?;
            chown(&directory, Some(id), None).unwrap();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--clear-groups", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        let shell = command
            .args(["-c", SCRIPT, "sh"])
            .arg(&directory)
            .arg(&programs)
            .arg(port.to_string())
            .arg(data.unwrap_or(Path::new("")))
            .arg(if data.is_some() { "on" } else { "off" })
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self {
            shell,
            directory,
            programs,
            port,
            _reserved: reserved,
            n_databases: AtomicUsize::new(0),
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        while !server.directory.join("started").exists() {
            let log = || fs::read_to_string(server.directory.join("log")).unwrap_or_default();
            assert!(server.shell.try_wait().unwrap().is_none(), "{}", log());
            assert!(Instant::now() < deadline, "{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// The connection string of a database.
    pub fn connection(&self, database: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname={database}",
            self.port
        )
    }

    /// Listens on these addresses too, in a network that the test made.
    pub fn listen_on(&self, addresses: &[String]) {
        let data = self.directory.join("data");
        let append = |file: &str, line: String| {
            let file = fs::OpenOptions::new().append(true).open(data.join(file));
            writeln!(file.unwrap(), "{line}").unwrap();
        };
        let all = addresses.join(",");
        append(
            "postgresql.conf",
            format!("listen_addresses = '127.0.0.1,{all}'"),
        );
        for address in addresses {
            append("pg_hba.conf", format!("host all all {address}/32 trust"));
        }
        self.crash();
        self.start_again();
    }

    /// Makes a new database and returns its name.
    pub fn database(&self) -> String {
        let number = self.n_databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("d{}_{number}", std::process::id());
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Starts a session that has run this SQL.
    pub fn session(&self, database: &str, sql: &str) -> Session {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-d", &self.connection(database)]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut session = Session(command.spawn().unwrap());
        let input = session.0.stdin.as_mut().unwrap();
        writeln!(input, "{sql}\nSELECT 'started';").unwrap();
        let mut output = Patient::of(session.0.stdout.take().unwrap());
        let mut printed = Vec::new();
        while !printed.ends_with(b"started\n") {
            let mut byte = [0];
            output.read_exact(&mut byte).unwrap();
            printed.extend(byte);
        }
        session.0.stdout = Some(output.stream);
        session
    }

    /// Runs SQL, and returns the rows as text.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let done = Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .args(["-d", &self.connection(database), "-c", sql])
            .run()
            .unwrap();
        assert!(
            done.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Switches TLS on, with this certificate and key.
    pub fn enable_tls(&self, certificate: &str, key: &str) {
        for (name, content) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.directory.join("data").join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            if rustix::process::geteuid().is_root() {
                chown(&path, id_of(USER), None).unwrap();
            }
        }
        self.sql("postgres", "ALTER SYSTEM SET ssl = on");
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// Stops the server as a crash does: with `pg_ctl stop -m immediate`.
    pub fn crash(&self) {
        self.control(&["-m", "immediate", "stop"]);
        wait_until("the end of the server", || {
            TcpStream::connect(("127.0.0.1", self.port))
                .is_err()
                .then_some(())
        });
    }

    /// The process id of the server.
    pub fn pid(&self) -> i32 {
        let file = fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap();
        file.lines().next().unwrap().parse().unwrap()
    }

    /// Ends a server that cannot read its files any more, and waits until all of its processes ended.
    pub fn end(pid: i32) {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::QUIT);
        wait_until("the end of the server", || {
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
    }

    /// Starts the server again.
    pub fn start_again(&self) {
        self.control(&["-w", "-l", "log", "start"]);
    }

    fn control(&self, arguments: &[&str]) {
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", USER, "--clear-groups"])
                .arg(self.programs.join("pg_ctl"));
            command
        } else {
            Command::new(self.programs.join("pg_ctl"))
        };
        let done = command
            .current_dir(&self.directory)
            .args(["-D", "data"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .ended();
        assert!(done.unwrap().success(), "pg_ctl {arguments:?}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The shell's input ends.
        drop(self.shell.stdin.take());
        let begin = Instant::now();
        while matches!(self.shell.try_wait(), Ok(None)) && begin.elapsed() < 2 * PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The directory of the server's programs, of the latest version.
fn programs() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|path| path.join("initdb").exists())
        .collect();
    found.sort();
    found.pop()
}

fn id_of(user: &str) -> Option<u32> {
    let lines = fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    let line = lines
        .lines()
        .find(|line| line.split(':').next() == Some(user))?;
    line.split(':').nth(2)?.parse().ok()
}

/// A network between the program and the server, which a test can cut, silence and slow down.
pub struct Relay {
    pub port: u16,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    link: Arc<Link>,
}

/// The state of the network.
#[derive(Default)]
struct Link {
    is_closed: AtomicBool,
    /// Whether it accepts everything and forwards nothing.
    is_silent: AtomicBool,
    /// The bytes to the server that were not forwarded.
    kept: Mutex<Vec<u8>>,
    /// The most bytes in a second to the server. 0 without a limit.
    rate: AtomicUsize,
    /// The most bytes in a second from the server. 0 without a limit.
    rate_of_answers: AtomicUsize,
    /// A request with this text closes the network, before it is forwarded.
    closes_at: Mutex<Option<String>>,
    n_accepted: AtomicUsize,
}

impl Relay {
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (kept, link) = (Arc::clone(&streams), Arc::new(Link::default()));
        let shared = Arc::clone(&link);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                if shared.is_closed.load(Ordering::SeqCst) {
                    continue;
                }
                shared.n_accepted.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                for (from, to, is_request) in [(&client, &server, true), (&server, &client, false)]
                {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (link, streams) = (Arc::clone(&shared), Arc::clone(&kept));
                    std::thread::spawn(move || link.forward(from, to, is_request, &streams));
                }
                kept.lock().unwrap().extend([client, server]);
            }
        });
        Self {
            port,
            streams,
            link,
        }
    }

    /// This connection, through the relay.
    pub fn through(&self, connection: &str, server: &Postgres) -> String {
        let (from, to) = (
            format!("port={}", server.port),
            format!("port={}", self.port),
        );
        connection.replace(&from, &to)
    }

    /// Cuts all connections, and later ones too until [`Relay::open`].
    pub fn close(&self) {
        self.link.is_closed.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Closes the network once, as soon as a request has this text.
    pub fn close_at(&self, text: &str) {
        *self.link.closes_at.lock().unwrap() = Some(text.to_owned());
    }

    pub fn is_closed(&self) -> bool {
        self.link.is_closed.load(Ordering::SeqCst)
    }

    /// Lets connections through again.
    pub fn open(&self) {
        self.link.is_closed.store(false, Ordering::SeqCst);
    }

    /// Accepts connections and bytes from now on, and forwards nothing.
    pub fn silence(&self) {
        self.link.is_silent.store(true, Ordering::SeqCst);
    }

    /// Forwards what comes from now on.
    pub fn end_silence(&self) {
        self.link.is_silent.store(false, Ordering::SeqCst);
    }

    /// Whether a request with this text was not forwarded.
    pub fn keeps(&self, text: &str) -> bool {
        has(&self.link.kept.lock().unwrap(), text)
    }

    /// Forwards at most so many bytes in a second to the server.
    pub fn slow_down(&self, rate: usize) {
        self.link.rate.store(rate, Ordering::SeqCst);
    }

    /// Forwards at most so many bytes in a second from the server, on each connection.
    pub fn slow_answers_down(&self, rate: usize) {
        self.link.rate_of_answers.store(rate, Ordering::SeqCst);
    }

    /// The number of connections so far.
    pub fn n_accepted(&self) -> usize {
        self.link.n_accepted.load(Ordering::SeqCst)
    }

    /// Cuts the connection that the server knows by this port of its client.
    pub fn cut_one(&self, port: u16) {
        let streams = self.streams.lock().unwrap();
        // Each connection has two streams, one to either side.
        for pair in streams.chunks(2) {
            let is_wanted = |stream: &TcpStream| {
                stream
                    .local_addr()
                    .is_ok_and(|address| address.port() == port)
            };
            if pair.iter().any(is_wanted) {
                for stream in pair {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
        }
    }

    /// Cuts all connections. Later ones work.
    pub fn cut(&self) {
        cut(&self.streams);
    }
}

/// More than the length of any text that a relay looks for.
const PART_MAX: usize = 256;

fn cut(streams: &Mutex<Vec<TcpStream>>) {
    for stream in streams.lock().unwrap().drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    let mut windows = bytes.windows(text.len());
    windows.any(|window| window == text.as_bytes())
}

impl Link {
    fn forward(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        is_request: bool,
        streams: &Mutex<Vec<TcpStream>>,
    ) {
        let mut buffer = [0; 16 * 1024];
        // A text may arrive in two parts.
        let mut last = Vec::new();
        while let Ok(n) = from.read(&mut buffer)
            && n > 0
        {
            let bytes = &buffer[..n];
            if is_request {
                pace(&self.rate, n);
                let n_before = last.len();
                last.extend_from_slice(bytes);
                let mut closes_at = self.closes_at.lock().unwrap();
                let has_come = |text: &String| {
                    let begin = n_before.saturating_sub(text.len() - 1);
                    has(&last[begin..], text)
                };
                if closes_at.as_ref().is_some_and(has_come) {
                    *closes_at = None;
                    self.is_closed.store(true, Ordering::SeqCst);
                    cut(streams);
                    return;
                }
                last.drain(..last.len().saturating_sub(PART_MAX));
            } else {
                pace(&self.rate_of_answers, n);
            }
            if self.is_silent.load(Ordering::SeqCst) {
                if is_request {
                    self.kept.lock().unwrap().extend_from_slice(bytes);
                }
                continue;
            }
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Takes the time that so many bytes need.
fn pace(rate: &AtomicUsize, n: usize) {
    let rate = rate.load(Ordering::SeqCst);
    if rate > 0 {
        std::thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
    }
}
