//! Binds the listening socket of the admin server, at a TCP address or at a path.
//!
//! Constraint: of the files at the path, only a socket without a listener and the server's own
//! socket are removed.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};

use crate::config::{AdminServer, Listen};

/// How long connecting to a socket may take.
///
/// If connecting takes longer, the socket is assumed to have a listener.
const ACCEPT_MAX: Duration = Duration::from_secs(1);

/// The maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A socket for the admin server.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Identifies the file at this path.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let metadata = path.symlink_metadata()?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Whether this socket is still at its path, where clients find it.
    pub(crate) fn is_in_place(&self) -> bool {
        Self::at(&self.path).is_ok_and(|found| found == *self)
    }

    /// Removes the file, unless another file is at its path.
    pub(crate) fn remove(&self) {
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Bound {
    /// Closes a socket that is not needed, and removes its file.
    pub(crate) fn discard(self) {
        if let Self::Unix(_, file) = self {
            file.remove();
        }
    }
}

/// Binds the address of the admin server.
///
/// # Errors
///
/// The address cannot be bound. For example, it is in use, or the path has a file that is not a
/// dead socket.
pub(crate) async fn bind(server: &AdminServer) -> io::Result<Bound> {
    match &server.listen {
        Listen::Tcp(address) => TcpListener::bind(address).await.map(Bound::Tcp),
        Listen::Unix(path) => {
            remove_dead(path).await?;
            let socket = UnixSocket::new_stream()?;
            socket.bind(path)?;
            let file = SocketFile::at(path)?;
            // Nobody can connect before `listen`, so access is never wider than `mode`.
            let listening = std::fs::set_permissions(path, Permissions::from_mode(server.mode))
                .and_then(|()| socket.listen(BACKLOG));
            match listening {
                Ok(listener) => Ok(Bound::Unix(listener, file)),
                Err(error) => {
                    file.remove();
                    Err(error)
                }
            }
        }
    }
}

/// Removes a socket without a listener, which a killed daemon leaves behind.
async fn remove_dead(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::other("the path exists and is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let connected = tokio::time::timeout(ACCEPT_MAX, UnixStream::connect(path)).await;
    match connected {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens at the path",
        )),
    }
}
