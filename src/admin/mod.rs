//! The admin server (health and metrics over HTTP) and the control socket.
//!
//! Constraint: both change nothing themselves. They answer even if all other parts are stuck.
//!
//! Commands reach a running daemon through the control socket in the state directory. A client sends
//! one line and gets one JSON object. `status` returns the report. `wake` makes every queue read the
//! store again. `reload` makes the supervisor reload the configuration.

mod exposition;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Listen;
use crate::dispatch::QueueHandles;
use crate::engine::held_removals::{Accepted, HeldProjects};
use crate::report::{DaemonReport, Sources, summary};

/// The parts of the daemon that the admin server and the control socket reach.
pub(crate) struct Admin {
    pub(crate) sources: Sources,
    /// The queues, which are woken when a command changed deliveries or webhooks.
    pub(crate) queues: Arc<QueueHandles>,
    pub(crate) requests: mpsc::Sender<Request>,
}

/// A request of a command to the supervisor, with the channel for the answer.
pub(crate) enum Request {
    Reload(oneshot::Sender<Reloaded>),
    /// List the held removals.
    ListHeld(oneshot::Sender<HeldProjects>),
    /// Accept the held removals that this token identifies.
    Accept(String, oneshot::Sender<Accepted>),
}

/// The outcome of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// Why the configuration was rejected. Empty if it was applied.
    pub(crate) errors: Vec<String>,
    /// Warnings about settings that are valid but probably not intended.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

impl Reloaded {
    pub(crate) fn is_applied(&self) -> bool {
        self.errors.is_empty()
    }
}

/// The name of the control socket in the state directory.
const CONTROL: &str = "control.sock";

/// Serves the control socket until `stop`.
pub(crate) async fn control(admin: Arc<Admin>, state_dir: PathBuf, stop: CancellationToken) {
    let path = state_dir.join(CONTROL);
    // This daemon has the lock on the state directory, so no other daemon uses the old socket.
    let _ = std::fs::remove_file(&path);
    let listener = match bind_short(&state_dir) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot open the control socket: `status` shows only the recorded state, and `reload` does not work (SIGHUP does). Fix the state directory and restart");
            return;
        }
    };
    // A client that waits for a reload must not block the others.
    let mut clients = JoinSet::new();
    // Log the failure once, not every second.
    let mut is_refusing = false;
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                Ok((stream, _)) => {
                    is_refusing = false;
                    clients.spawn(answer(Arc::clone(&admin), stream));
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_refusing, true) {
                        warn!(%error, "the control socket cannot accept connections; retrying. Has the daemon reached its limit of open files (LimitNOFILE=)?");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            Some(_) = clients.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    let _ = std::fs::remove_file(&path);
}

/// Binds the control socket through the descriptor of its directory.
///
/// The path of a socket has at most 107 bytes, and the path of the state directory may be longer.
fn bind_short(state_dir: &Path) -> std::io::Result<UnixListener> {
    let directory = std::fs::File::open(state_dir)?;
    UnixListener::bind(short_path(&directory))
}

fn short_path(directory: &std::fs::File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}/{CONTROL}", directory.as_raw_fd()))
}

/// The time limit for a client to send its line, and to read the answer.
const CLIENT_MAX: Duration = Duration::from_secs(1);
/// The maximum number of clients that are served at once. Others wait.
const CLIENTS_MAX: usize = 16;
/// How long a command waits for the answer of a running daemon.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a command waits for a reload. It is longer than the daemon waits for its engine.
const RELOAD_MAX: Duration = Duration::from_secs(60);

/// The request that makes every queue read the store again.
const WAKE: &str = "wake";
/// The request for the report.
const STATUS: &str = "status";
/// The request to reload the configuration.
const RELOAD: &str = "reload";
/// The request for the held removals.
const LIST_HELD: &str = "list-held";
/// The request to accept held removals. The token follows it.
const ACCEPT: &str = "accept ";

async fn answer(admin: Arc<Admin>, mut stream: UnixStream) {
    let mut line = String::new();
    let mut reader = BufReader::new(&mut stream).take(64);
    // A client that sends no line also gets the report.
    let _ = tokio::time::timeout(CLIENT_MAX, reader.read_line(&mut line)).await;
    let report = match line.trim_end() {
        RELOAD => supervisor(&admin, Request::Reload).await,
        LIST_HELD => supervisor(&admin, Request::ListHeld).await,
        WAKE => {
            info!("a command changed deliveries or webhooks");
            admin.queues.wake_all();
            serde_json::to_vec(&admin.sources.daemon())
        }
        line => match line.strip_prefix(ACCEPT) {
            Some(token) => {
                supervisor(&admin, |answer| Request::Accept(token.to_owned(), answer)).await
            }
            None => serde_json::to_vec(&admin.sources.daemon()),
        },
    };
    let Ok(report) = report else { return };
    let _ = tokio::time::timeout(CLIENT_MAX, stream.write_all(&report)).await;
}

/// Passes a request to the supervisor. A stopping daemon drops it, and the answer is empty.
async fn supervisor<T: Serialize>(
    admin: &Admin,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> serde_json::Result<Vec<u8>> {
    let (sender, answer) = oneshot::channel();
    if admin.requests.send(request(sender)).await.is_err() {
        return Ok(Vec::new());
    }
    match answer.await {
        Ok(answer) => serde_json::to_vec(&answer),
        Err(_) => Ok(Vec::new()),
    }
}

/// Asks the daemon of this state directory for its report. Returns `None` if no daemon runs.
pub(crate) fn ask(state_dir: &Path) -> std::io::Result<Option<DaemonReport>> {
    request(state_dir, STATUS, ANSWER_MAX)
}

/// Makes the queues of the daemon read the store again. Returns `None` if no daemon runs.
pub(crate) fn wake(state_dir: &Path) -> std::io::Result<Option<DaemonReport>> {
    request(state_dir, WAKE, ANSWER_MAX)
}

/// Makes the daemon reload, and waits for the result. Returns `None` if no daemon runs.
pub(crate) fn reload(state_dir: &Path) -> std::io::Result<Option<Reloaded>> {
    request(state_dir, RELOAD, RELOAD_MAX)
}

/// Asks the daemon which removals are held. Returns `None` if no daemon runs.
pub(crate) fn list_held(state_dir: &Path) -> std::io::Result<Option<HeldProjects>> {
    request(state_dir, LIST_HELD, RELOAD_MAX)
}

/// Makes the daemon accept held removals. Returns `None` if no daemon runs.
pub(crate) fn accept(state_dir: &Path, token: &str) -> std::io::Result<Option<Accepted>> {
    request(state_dir, &format!("{ACCEPT}{token}"), RELOAD_MAX)
}

/// Sends a line to the daemon. An error means that a daemon may be running but does not answer.
fn request<T: serde::de::DeserializeOwned>(
    state_dir: &Path,
    line: &str,
    patience: Duration,
) -> std::io::Result<Option<T>> {
    use std::io::{Read, Write};
    let directory = match std::fs::File::open(state_dir) {
        Ok(directory) => directory,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let connected = std::os::unix::net::UnixStream::connect(short_path(&directory));
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    writeln!(stream, "{line}")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        return Err(std::io::Error::other("the daemon ended before it answered"));
    }
    serde_json::from_str(&text)
        .map(Some)
        .map_err(std::io::Error::other)
}

/// The listening socket of the admin server.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds the address of the admin server.
///
/// # Errors
///
/// The address is in use, or belongs to another machine.
pub(crate) async fn bind(listen: &Listen) -> std::io::Result<Bound> {
    match listen {
        Listen::Tcp(address) => TcpListener::bind(address).await.map(Bound::Tcp),
        Listen::Unix(path) => {
            // An earlier daemon left a socket on which no process answers.
            if std::os::unix::net::UnixStream::connect(path).is_err() {
                let _ = std::fs::remove_file(path);
            }
            UnixListener::bind(path).map(Bound::Unix)
        }
    }
}

/// Serves health and metrics until `stop`.
pub(crate) async fn health(admin: Arc<Admin>, bound: Bound, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition::metrics))
        .with_state(admin);
    let stopped = stop.cancelled_owned();
    let served = match bound {
        Bound::Tcp(listener) => {
            axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
        }
        Bound::Unix(listener) => {
            axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
        }
    };
    if let Err(error) = served {
        error!(%error, "the admin server ended; running without health and metrics until a restart");
    }
}

async fn healthz(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    if admin.sources.is_alive() {
        (StatusCode::OK, "the engine responds\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the engine does not respond\n",
        )
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    let snapshot = admin.sources.status.snapshot();
    let status = if snapshot.is_watching() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, format!("{}\n", summary(&snapshot)))
}
