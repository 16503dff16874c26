//! The control socket in the state directory, for commands to a running daemon.
//!
//! Constraint: only the daemon's user can connect, because the daemon creates the state directory
//! with mode 0700. A slow client delays others only if [`CLIENTS_MAX`] clients are served.
//!
//! A client sends one line and gets one JSON object. `status` returns the report. `wake` makes all
//! queues read the store again, and returns the report too. `reload`, `list-held` and `accept` go
//! to the supervisor. A client that closes its side cancels its `list-held` or `accept`, unless an
//! engine has begun to release the removals.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::socket::SocketFile;
use super::{Admin, Reloaded, Request};
use crate::engine::held_removals::{Accepted, HeldProjects};
use crate::report::DaemonReport;

/// The name of the control socket in the state directory.
const CONTROL: &str = "control.sock";

/// Serves the control socket until `stop`.
pub(crate) async fn serve(admin: Arc<Admin>, state_dir: PathBuf, stop: CancellationToken) {
    let mut socket = None;
    // One task for each client, so that a client that waits for a reload blocks no other client.
    let mut clients = JoinSet::new();
    let mut check = tokio::time::interval(CHECK_EVERY);
    // Whether the present failures to bind and to accept have been logged.
    let (mut is_bind_warned, mut is_accept_warned) = (false, false);
    loop {
        tokio::select! {
            _ = check.tick() => {
                let is_in_place = |(_, file): &(UnixListener, SocketFile)| file.is_in_place();
                if socket.as_ref().is_some_and(is_in_place) {
                    continue;
                }
                match bind(&state_dir) {
                    Ok(bound) => {
                        is_bind_warned = false;
                        socket = Some(bound);
                    }
                    Err(error) => {
                        socket = None;
                        if !std::mem::replace(&mut is_bind_warned, true) {
                            warn!(path = %state_dir.join(CONTROL).display(), %error, "cannot open the control socket: `status` shows only the recorded state, and `reload` and `accept` do not work (SIGHUP still reloads). Retrying; fix the state directory");
                        }
                    }
                }
            }
            accepted = next_client(socket.as_ref()), if clients.len() < CLIENTS_MAX => match accepted {
                Ok(stream) => {
                    is_accept_warned = false;
                    clients.spawn(answer(Arc::clone(&admin), stream));
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_accept_warned, true) {
                        warn!(%error, "the control socket cannot accept connections; retrying. Has the daemon reached its limit of open files (LimitNOFILE=)?");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            Some(_) = clients.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    if let Some((_, file)) = socket {
        file.remove();
    }
}

/// Accepts a connection. Waits forever if there is no socket.
async fn next_client(socket: Option<&(UnixListener, SocketFile)>) -> io::Result<UnixStream> {
    match socket {
        Some((listener, _)) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Binds the control socket.
///
/// Replaces an existing socket. With SQLite, it has no listener, because this daemon holds the
/// lock on the state directory. With PostgreSQL, each process needs its own state directory.
fn bind(state_dir: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let path = state_dir.join(CONTROL);
    let _ = std::fs::remove_file(&path);
    let listener = bind_short(state_dir)?;
    Ok((listener, SocketFile::at(&path)?))
}

/// Binds the control socket through the descriptor of its directory.
///
/// The path of a socket has at most 107 bytes, and the path of the state directory may be longer.
fn bind_short(state_dir: &Path) -> io::Result<UnixListener> {
    let directory = std::fs::File::open(state_dir)?;
    UnixListener::bind(short_path(&directory))
}

fn short_path(directory: &std::fs::File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}/{CONTROL}", directory.as_raw_fd()))
}

/// How often the server checks whether its socket is still at its path.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long a client may take to send its line, and then to read the answer.
const CLIENT_MAX: Duration = Duration::from_secs(1);
/// The maximum number of clients that are served at the same time.
///
/// Further clients wait.
const CLIENTS_MAX: usize = 16;
/// How long a command waits for an answer that does not need the supervisor.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a command waits for the supervisor, for example to reload.
///
/// A reload waits for busy engines, so it may take longer than this. The daemon then finishes it
/// without an answer to the command.
const RELOAD_MAX: Duration = Duration::from_secs(60);

/// The request that makes every queue read the store again.
const WAKE: &str = "wake";
const STATUS: &str = "status";
const RELOAD: &str = "reload";
const LIST_HELD: &str = "list-held";
/// The request to accept held removals. Their token follows on the same line.
const ACCEPT: &str = "accept ";

async fn answer(admin: Arc<Admin>, mut stream: UnixStream) {
    let mut line = String::new();
    let mut reader = BufReader::new(&mut stream).take(64);
    // A client that sends no line or an unknown one gets the report.
    let _ = tokio::time::timeout(CLIENT_MAX, reader.read_line(&mut line)).await;
    let report = match line.trim_end() {
        RELOAD => supervisor(&admin, &mut stream, Request::Reload).await,
        LIST_HELD => supervisor(&admin, &mut stream, Request::ListHeld).await,
        WAKE => {
            info!("a command changed deliveries or webhooks");
            admin.queues.wake_all();
            serde_json::to_vec(&admin.sources.daemon())
        }
        line => match line.strip_prefix(ACCEPT) {
            Some(token) => {
                let request = |answer| Request::Accept(token.to_owned(), answer);
                supervisor(&admin, &mut stream, request).await
            }
            None => serde_json::to_vec(&admin.sources.daemon()),
        },
    };
    let Ok(report) = report else { return };
    let _ = tokio::time::timeout(CLIENT_MAX, stream.write_all(&report)).await;
}

/// Passes a request to the supervisor.
///
/// The answer is empty if the daemon stops, the client disconnects or [`RELOAD_MAX`] passes.
async fn supervisor<T: Serialize>(
    admin: &Admin,
    client: &mut UnixStream,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> serde_json::Result<Vec<u8>> {
    let answered = async {
        let (sender, answer) = oneshot::channel();
        admin.requests.send(request(sender)).await.ok()?;
        answer.await.ok()
    };
    // The command gives up after the same time. So stop waiting then, and serve another client.
    let answered = tokio::time::timeout(RELOAD_MAX, answered);
    let answer = tokio::select! {
        answer = answered => answer.ok().flatten(),
        () = left(client) => None,
    };
    answer.map_or(Ok(Vec::new()), |answer| serde_json::to_vec(&answer))
}

/// Waits until the client closes its side. Ignores all data after its line.
async fn left(client: &mut UnixStream) {
    let mut rest = [0; 64];
    while client.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}

/// Why a daemon that may be running gave no valid answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// Nothing was sent.
    #[error("cannot connect to the daemon that uses {}: {error}{}", state_dir.display(), advice(error))]
    Connect {
        state_dir: PathBuf,
        error: io::Error,
    },
    /// The daemon may have received the request.
    #[error("{0}")]
    Answer(#[source] io::Error),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ". Run the command as the daemon's user",
        _ => "",
    }
}

/// Asks the daemon of this state directory for its report.
///
/// Returns `None` if nothing listens at the control socket.
pub(crate) fn ask(state_dir: &Path) -> Result<Option<DaemonReport>, RequestError> {
    request(state_dir, STATUS, ANSWER_MAX)
}

/// Makes the queues of the daemon read the store again.
///
/// Returns `None` if nothing listens at the control socket.
pub(crate) fn wake(state_dir: &Path) -> Result<Option<DaemonReport>, RequestError> {
    request(state_dir, WAKE, ANSWER_MAX)
}

/// Makes the daemon reload, and waits for the result.
///
/// Returns `None` if nothing listens at the control socket.
pub(crate) fn reload(state_dir: &Path) -> Result<Option<Reloaded>, RequestError> {
    request(state_dir, RELOAD, RELOAD_MAX)
}

/// Asks the daemon which removals are held.
///
/// Returns `None` if nothing listens at the control socket.
pub(crate) fn list_held(state_dir: &Path) -> Result<Option<HeldProjects>, RequestError> {
    request(state_dir, LIST_HELD, RELOAD_MAX)
}

/// Makes the daemon accept held removals.
///
/// Returns `None` if nothing listens at the control socket.
pub(crate) fn accept(state_dir: &Path, token: &str) -> Result<Option<Accepted>, RequestError> {
    request(state_dir, &format!("{ACCEPT}{token}"), RELOAD_MAX)
}

/// Sends a line to the daemon and reads the answer.
///
/// Returns `None` if nothing listens at the control socket.
///
/// # Errors
///
/// A daemon may be running, but the request failed, or no valid answer arrived in time.
fn request<T: serde::de::DeserializeOwned>(
    state_dir: &Path,
    line: &str,
    patience: Duration,
) -> Result<Option<T>, RequestError> {
    let connect = || {
        let directory = std::fs::File::open(state_dir)?;
        std::os::unix::net::UnixStream::connect(short_path(&directory))
    };
    match connect() {
        Ok(stream) => match exchange(stream, line, patience) {
            Ok(answer) => Ok(Some(answer)),
            // The kernel reports a timeout as one of these errors.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                let text = format!("no answer within {}s", patience.as_secs());
                Err(RequestError::Answer(io::Error::new(error.kind(), text)))
            }
            Err(error) => Err(RequestError::Answer(error)),
        },
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(RequestError::Connect {
            state_dir: state_dir.to_owned(),
            error,
        }),
    }
}

fn exchange<T: serde::de::DeserializeOwned>(
    mut stream: std::os::unix::net::UnixStream,
    line: &str,
    patience: Duration,
) -> io::Result<T> {
    use std::io::{Read, Write};
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    writeln!(stream, "{line}")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        return Err(io::Error::other(
            "the daemon closed the connection without an answer",
        ));
    }
    serde_json::from_str(&text).map_err(|error| {
        io::Error::other(format!(
            "its answer is not understood; does the daemon run another version of the program? Then \
             restart the daemon ({error})"
        ))
    })
}
