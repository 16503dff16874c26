//! Binds listening sockets, at an address or at a path.
//!
//! Constraint: only a socket without a listener is removed. A file that is not a socket is never
//! removed.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::{AdminServer, Listen};

/// How long a process that listens at a path may take to accept a connection.
const ACCEPT_MAX: Duration = Duration::from_secs(1);

/// A socket for the admin server.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Finds the socket that was just bound at this path.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let metadata = path.symlink_metadata()?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Whether clients still find this socket at its path.
    pub(crate) fn is_in_place(&self) -> bool {
        Self::at(&self.path).is_ok_and(|found| found == *self)
    }

    /// Removes the file, unless another one is in its place.
    pub(crate) fn remove(&self) {
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds the address of the admin server.
///
/// # Errors
///
/// The address is in use or not of this machine, or another file is at the path.
pub(crate) async fn bind(server: &AdminServer) -> io::Result<Bound> {
    match &server.listen {
        Listen::Tcp(address) => TcpListener::bind(address).await.map(Bound::Tcp),
        Listen::Unix(path) => {
            remove_dead(path).await?;
            let listener = UnixListener::bind(path)?;
            let file = SocketFile::at(path)?;
            std::fs::set_permissions(path, Permissions::from_mode(server.mode))?;
            Ok(Bound::Unix(listener, file))
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
            "another process listens there",
        )),
    }
}
