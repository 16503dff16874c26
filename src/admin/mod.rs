//! What the running daemon tells of itself: health and metrics over HTTP, and its state on the
//! control socket.
//!
//! Constraint: it changes nothing itself, and it answers while everything else is stuck. The
//! control socket in the state directory is how the other commands find a running daemon. Who
//! connects sends one line: `status`; `wake` after having changed the queue, upon which every
//! webhook's queue looks at the store again; or `reload`, which is passed on to the supervisor.
//! The answer is one JSON object and the end.

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

use crate::clock::Clock;
use crate::config::Listen;
use crate::dispatch::QueueHandles;
use crate::engine::status::{Snapshot, Status};
use crate::metrics::{Counts, Metrics};
use crate::store::Store;

/// What can be told.
pub struct Known {
    /// The engine's state.
    pub status: Arc<Status>,
    /// The store.
    pub store: Store,
    /// Rung when a command changed the queue.
    pub queues: Arc<QueueHandles>,
    /// The clock of the engine's beats.
    pub clock: Clock,
    /// How long the loop may stand before the daemon counts as not alive.
    pub standstill: Duration,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where requests to read the configuration again go.
    pub reloads: mpsc::Sender<ReloadRequest>,
}

/// A request to read the configuration again: where the answer goes.
pub type ReloadRequest = oneshot::Sender<Reloaded>;

/// What came of reading the configuration again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Why the configuration is rejected; it is applied where there is nothing.
    pub errors: Vec<String>,
    /// What the configuration has that is probably not meant.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Reloaded {
    /// Whether the daemon works by what it read.
    pub fn is_applied(&self) -> bool {
        self.errors.is_empty()
    }
}

impl Known {
    fn is_alive(&self) -> bool {
        self.clock.moment().saturating_sub(self.status.last_beat()) < self.standstill
    }

    fn report(&self) -> Report {
        let engine = self.status.snapshot();
        let mut counts = self.metrics.counts();
        for ((event, _), n) in &engine.events {
            *counts.events.entry((*event).to_owned()).or_default() += n;
        }
        counts.rescans.clone_from(&engine.rescans);
        let (applied, rejected) = engine.reloads;
        counts.reloads = [("applied", applied), ("rejected", rejected)]
            .map(|(result, n)| (result.to_owned(), n))
            .into();
        Report {
            counts,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            alive: self.is_alive(),
            uptime_s: self.clock.moment().as_secs(),
            engine,
        }
    }
}

/// What the control socket sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The daemon's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Whether the loop turns.
    pub alive: bool,
    /// How long it runs, in seconds.
    #[serde(default)]
    pub uptime_s: u64,
    /// The engine's state.
    pub engine: Snapshot,
    /// What was counted since the start.
    #[serde(default)]
    pub counts: Counts,
}

/// A line for people about what the daemon does.
pub fn summary(known: &Snapshot) -> String {
    if let Some(trouble) = known.troubles.values().next() {
        return format!("trouble: {trouble}");
    }
    if !known.ready {
        return "starting: comparing what is there with what was recorded".to_owned();
    }
    let projects = match known.projects {
        1 => "1 project".to_owned(),
        n => format!("{n} projects"),
    };
    let unread = match known.problems {
        0 => String::new(),
        1 => ", 1 file incomplete or unreadable".to_owned(),
        n => format!(", {n} files incomplete or unreadable"),
    };
    format!("watching {projects}{unread}")
}

/// The name of the control socket in the state directory.
const CONTROL: &str = "control.sock";

/// Serves the control socket until `stop`.
pub async fn control(known: Arc<Known>, state_dir: PathBuf, stop: CancellationToken) {
    let path = state_dir.join(CONTROL);
    // The lock on the state directory is held, so what is there is of a daemon that is gone.
    let _ = std::fs::remove_file(&path);
    let listener = match bind_short(&state_dir) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(path = %path.display(), %error, "no control socket: `status` shows only what is recorded, and `reload` does not work (SIGHUP does); mend the state directory and restart");
            return;
        }
    };
    // Those who wait for a reload must not keep others from asking how it is.
    let mut clients = JoinSet::new();
    // Said once, not once a second.
    let mut is_refusing = false;
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                Ok((stream, _)) => {
                    is_refusing = false;
                    clients.spawn(answer(Arc::clone(&known), stream));
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_refusing, true) {
                        warn!(%error, "the control socket cannot accept; it is tried again. Is the limit of open files reached (LimitNOFILE=)?");
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

/// Binds by the directory's descriptor: the path of a socket may have 107 bytes only, and a state
/// directory may be deeper than that.
fn bind_short(state_dir: &Path) -> std::io::Result<UnixListener> {
    let directory = std::fs::File::open(state_dir)?;
    UnixListener::bind(short_path(&directory))
}

fn short_path(directory: &std::fs::File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}/{CONTROL}", directory.as_raw_fd()))
}

/// How long a client may take for its line, and to read the answer.
const CLIENT_MAX: Duration = Duration::from_secs(1);
/// How many clients are served at once; more wait.
const CLIENTS_MAX: usize = 16;
/// How long a command waits for the answer of a daemon that runs.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long it waits for a reload: the daemon looks for this long at most at what the loop does.
const RELOAD_MAX: Duration = Duration::from_secs(60);

/// The request to look at the store again.
const WAKE: &str = "wake";
/// The request for the report alone.
const STATUS: &str = "status";
/// The request to read the configuration again.
const RELOAD: &str = "reload";

async fn answer(known: Arc<Known>, mut stream: UnixStream) {
    let mut line = String::new();
    let mut reader = BufReader::new(&mut stream).take(64);
    // One that says nothing is told the status too.
    let _ = tokio::time::timeout(CLIENT_MAX, reader.read_line(&mut line)).await;
    let report = match line.trim_end() {
        RELOAD => {
            let (request, answer) = oneshot::channel();
            // Dropped unanswered where the daemon stops: the command then sees no answer.
            if known.reloads.send(request).await.is_err() {
                return;
            }
            let Ok(reloaded) = answer.await else { return };
            serde_json::to_vec(&reloaded)
        }
        WAKE => {
            info!("a command changed the queue");
            known.queues.wake_all();
            serde_json::to_vec(&known.report())
        }
        _ => serde_json::to_vec(&known.report()),
    };
    let Ok(report) = report else { return };
    let _ = tokio::time::timeout(CLIENT_MAX, stream.write_all(&report)).await;
}

/// Asks the daemon that holds this state directory. Nothing where none runs.
///
/// # Errors
///
/// Where a daemon that may be there cannot be asked.
pub fn ask(state_dir: &Path) -> std::io::Result<Option<Report>> {
    request(state_dir, STATUS, ANSWER_MAX)
}

/// Tells the daemon that holds this state directory that the queue was changed, so that it acts on
/// it at once. Nothing where none runs.
///
/// # Errors
///
/// Where a daemon that may be there cannot be told.
pub fn wake(state_dir: &Path) -> std::io::Result<Option<Report>> {
    request(state_dir, WAKE, ANSWER_MAX)
}

/// Has the daemon that holds this state directory read its configuration again, and waits until it
/// works by it or has rejected it. Nothing where none runs.
///
/// # Errors
///
/// Where a daemon that may be there cannot be told, or does not answer.
pub fn reload(state_dir: &Path) -> std::io::Result<Option<Reloaded>> {
    request(state_dir, RELOAD, RELOAD_MAX)
}

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
        return Err(std::io::Error::other("it ended before it answered"));
    }
    serde_json::from_str(&text)
        .map(Some)
        .map_err(std::io::Error::other)
}

/// A socket that health is served on.
#[derive(Debug)]
pub enum Bound {
    /// On a TCP address.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

/// Takes the address that health is served on.
///
/// # Errors
///
/// It is taken, or not this machine's.
pub async fn bind(listen: &Listen) -> std::io::Result<Bound> {
    match listen {
        Listen::Tcp(address) => TcpListener::bind(address).await.map(Bound::Tcp),
        Listen::Unix(path) => {
            // A socket that nobody answers on is of a daemon that is gone.
            if std::os::unix::net::UnixStream::connect(path).is_err() {
                let _ = std::fs::remove_file(path);
            }
            UnixListener::bind(path).map(Bound::Unix)
        }
    }
}

/// Serves health until `stop`.
pub async fn health(known: Arc<Known>, bound: Bound, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition::metrics))
        .with_state(known);
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
        error!(%error, "health and metrics are no longer served; the daemon goes on without them until it is restarted");
    }
}

async fn healthz(State(known): State<Arc<Known>>) -> (StatusCode, &'static str) {
    if known.is_alive() {
        (StatusCode::OK, "the loop turns\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the loop stands still\n")
    }
}

async fn readyz(State(known): State<Arc<Known>>) -> (StatusCode, String) {
    let snapshot = known.status.snapshot();
    let status = if snapshot.is_watching() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, format!("{}\n", summary(&snapshot)))
}
