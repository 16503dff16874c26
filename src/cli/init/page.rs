//! Prepares the page for the new configuration: free ports, and the file with the token.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::output::safe;

/// The first port to try for the page.
const PAGE_PORT: u16 = 9417;

/// The number of ports to try.
const PORTS_MAX: u16 = 100;

/// The name of the file with the token, next to the configuration.
pub(super) const TOKEN_FILE: &str = "admin-token";

/// Returns the first port, starting at this one, that no other program uses at 127.0.0.1.
///
/// If none is free, returns the first one, so that the daemon reports the error.
fn free_port(first: u16) -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (first..first.saturating_add(PORTS_MAX))
        .find(is_free)
        .unwrap_or(first)
}

/// The ports that the configuration names.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    /// The port of the page.
    pub(super) page: u16,
    /// The port of `listen`.
    pub(super) receiver: u16,
}

impl Ports {
    /// Finds ports that no other program uses now.
    pub(super) fn free() -> Self {
        Self {
            page: free_port(PAGE_PORT),
            receiver: free_port(super::super::listen::DEFAULT_PORT),
        }
    }
}

/// The file with the token. Dropping it removes a file that `init` made, unless it is kept.
pub(super) struct TokenFile {
    pub(super) path: PathBuf,
    is_temporary: bool,
}

impl TokenFile {
    /// Makes the file with a random token. Only its owner may read it. An existing file stays.
    pub(super) fn make(config: &Path) -> anyhow::Result<Self> {
        let path = config.with_file_name(TOKEN_FILE);
        let shown = safe(&path.to_string_lossy());
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let made = match made {
            Ok(made) => Self::written(made, path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Self {
                path,
                is_temporary: false,
            }),
            Err(error) => Err(error),
        };
        made.with_context(|| format!("cannot write {shown}, the token of the page"))
    }

    fn written(mut file: fs::File, path: PathBuf) -> io::Result<Self> {
        let made = Self {
            path,
            is_temporary: true,
        };
        let [one, other] = [(); 2].map(|()| uuid::Uuid::new_v4().simple());
        writeln!(file, "{one}{other}")?;
        Ok(made)
    }

    /// Keeps the file.
    pub(super) fn keep(&mut self) {
        self.is_temporary = false;
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        if self.is_temporary {
            let _ = fs::remove_file(&self.path);
        }
    }
}
