//! Finds free ports for the new configuration, and creates the token file of its browser page.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::super::output::safe;

/// The first port to try for the page.
const PAGE_PORT: u16 = 9417;

/// The number of ports to try.
const PORTS_MAX: u16 = 100;

/// The name of the file with the token, next to the configuration.
pub(super) const TOKEN_FILE: &str = "admin-token";

/// Returns the first port, from `first` on, that no program uses at 127.0.0.1.
///
/// If none of [`PORTS_MAX`] ports is free, returns `first`. The command that later tries to listen
/// on this port then reports the error.
fn free_port(first: u16) -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (first..first.saturating_add(PORTS_MAX))
        .find(is_free)
        .unwrap_or(first)
}

/// The ports that the new configuration names.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    /// The port of the page, in `admin.listen`.
    pub(super) page: u16,
    /// The port of the command `listen`, in the `url` of the first webhook.
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

/// The file with the token.
///
/// Dropping this value removes the file if `make` created it, unless `keep` was called.
pub(super) struct TokenFile {
    pub(super) path: PathBuf,
    is_temporary: bool,
}

impl TokenFile {
    /// Makes the file with a random token. Only its owner may read it.
    ///
    /// Keeps an existing file if only the caller can know its token, and otherwise fails.
    pub(super) fn make(config: &Path) -> anyhow::Result<Self> {
        let path = config.with_file_name(TOKEN_FILE);
        let shown = safe(&path.to_string_lossy());
        let is_new = write_new(&path)
            .with_context(|| format!("cannot write {shown}, the token of the page"))?;
        if !is_new {
            let found = fs::symlink_metadata(&path);
            let found = found.with_context(|| format!("cannot read {shown}"))?;
            if let Some(reason) = distrust(&found, rustix::process::geteuid().as_raw()) {
                bail!(
                    "{shown} exists already, but {reason}, so others may know the token. Remove \
                     the file, and init makes a new token"
                );
            }
        }
        Ok(Self {
            path,
            is_temporary: is_new,
        })
    }

    pub(super) fn keep(&mut self) {
        self.is_temporary = false;
    }
}

/// Creates a file with a random token. Returns false if a file with this name exists.
fn write_new(path: &Path) -> io::Result<bool> {
    // `tempfile` creates files that only their owner may read.
    let mut file = tempfile::Builder::new()
        .prefix(".admin-token.")
        .tempfile_in(directory_of(path))?;
    let [one, other] = [(); 2].map(|()| uuid::Uuid::new_v4().simple());
    writeln!(file, "{one}{other}")?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Returns why other users may know the content of a file. `None` if only the caller can know it.
fn distrust(found: &Metadata, caller: u32) -> Option<String> {
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    if !found.is_file() {
        Some("it is not a regular file".to_owned())
    } else if uid != caller {
        Some(format!("it belongs to the user with id {uid}, not to you"))
    } else if mode & 0o077 != 0 {
        Some(format!("its mode is {mode:04o} instead of 0600"))
    } else {
        None
    }
}

pub(super) fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        if self.is_temporary {
            let _ = fs::remove_file(&self.path);
        }
    }
}
