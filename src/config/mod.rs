//! Reads config.yaml and returns a valid configuration.
//!
//! Constraint: a [`Config`] has only valid values, so other modules need not check a setting again.
//! Relative paths in the file become absolute. One run lists as many errors as possible.
//!
//! Modules, in reading order:
//!
//! - `find` chooses the file if the user does not name one.
//! - [`settings`] is the table of settings. `types` has [`Config`] and the types of its fields.
//! - `yaml` parses bytes into a tree of values with their positions.
//! - `reader` reads a mapping as the table describes it. `value` reads a single value.
//! - `units` reads durations, sizes and rates.
//! - `environment` reads environment variables.
//! - `source` reads values from credentials, environment variables and files.
//! - `load` makes a [`Config`] from the tree. `repository`, `store`, `webhook`, `subscription`,
//!   `headers`, `auth`, `body_format`, `tls` and `network` read parts of the tree.
//! - `looks` checks paths and reads files on file systems that may hang.
//! - `again` reads some values from files again while the daemon runs.
//! - `problem` has the type of errors and warnings.
//! - `schema` makes the JSON Schema of config.yaml.
//! - `fingerprint` hashes the settings of a webhook.

mod again;
mod auth;
mod body_format;
mod environment;
mod find;
mod fingerprint;
#[cfg(test)]
pub(crate) mod fixtures;
mod headers;
mod load;
mod looks;
mod network;
mod problem;
mod reader;
mod repository;
mod schema;
pub mod settings;
mod source;
mod store;
mod subscription;
mod tls;
mod types;
mod units;
mod value;
mod webhook;
mod yaml;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use looks::{Looks, is_silent};

pub(crate) use again::read_again;
pub(crate) use auth::bearer;
pub use environment::{Environment, SystemEnvironment, WithoutSecrets};
pub(crate) use find::{HERE, distrust_of_directory, find};
pub use fingerprint::fingerprint;
pub use headers::SecretError;
pub(crate) use headers::{is_reserved, signing_key};
pub use network::{Denied, NetworkPolicy};
pub use problem::{Position, Problem, Problems};
pub(crate) use repository::given_state_dir;
pub use schema::schema;
pub(crate) use types::shown_url;
pub use types::{
    AdminServer, AdminToken, Auth, Authentication, BodyFormat, ClientIdentity, Config, FileSetting,
    FileValue, FirstStart, Format, Globs, LOG_LEVELS, Listen, Log, LogFormat, OAuth2, Otlp,
    Postgres, ReceiverUrl, Repository, Retention, Roles, Templates, Tls, WatchMode, Webhook,
};
pub(crate) use units::{duration_text, rate_text};

/// A valid configuration and the warnings about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Problems that do not make the configuration invalid.
    pub warnings: Vec<Problem>,
}

/// Reads a configuration from a file.
///
/// # Errors
///
/// The configuration has errors, or its file is missing or unreadable.
pub fn load(file: &Path, environment: &dyn Environment) -> Result<Loaded, Problems> {
    match read(file) {
        Ok((bytes, mode)) => load::load(&bytes, file, mode & 0o004 != 0, environment),
        Err(error) => {
            let message = if error.kind() == io::ErrorKind::NotFound {
                let (here, system) = (find::HERE, find::SYSTEM);
                format!(
                    "the configuration file does not exist; pass --config FILE, or create {here} \
                     or {system}. `project-webhooks init DIR` writes a file; `demo` needs no file"
                )
            } else {
                format!("the configuration cannot be read: {error}")
            };
            let problem = Problem {
                is_passing: is_silent(&error),
                ..Problem::of_file(file, message)
            };
            Err(Problems {
                errors: vec![problem],
                warnings: Vec::new(),
            })
        }
    }
}

/// Reads a configuration from bytes instead of a file.
///
/// Messages show the path `file`, and relative paths start from its directory. The file need not
/// exist.
///
/// # Errors
///
/// The configuration has errors, or `file` cannot be made absolute.
pub fn load_str(
    bytes: &[u8],
    file: &Path,
    environment: &dyn Environment,
) -> Result<Loaded, Problems> {
    load::load(bytes, file, false, environment)
}

/// Returns the content and the mode of a file.
///
/// Reads at most one byte above the size limit. The parser reports a file that is too large.
///
/// A pipe is read until its writer closes it, as for `--config <(command)`. A pipe without a writer
/// reads as empty, because `NONBLOCK` does not wait for a writer.
fn read(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let mut looks = Looks::new(false);
    let (file, metadata) = looks.read(path, |path| {
        let nonblocking = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, nonblocking, Mode::empty())?;
        rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
        let file = File::from(file);
        let metadata = file.metadata()?;
        Ok((file, metadata))
    })?;
    let content = move |_: &Path| {
        let mut bytes = Vec::new();
        let mut limited = file.take(yaml::SIZE_MAX as u64 + 1);
        limited.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // Reading a pipe has no time limit, because its writer may be slow.
    let bytes = match metadata.is_file() {
        true => looks.read(path, content)?,
        false => content(path)?,
    };
    Ok((bytes, metadata.mode()))
}

/// Resolves symbolic links and dots in a path.
///
/// Stops at a file system that does not answer, after at most five seconds.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    Looks::new(true).at(path).canonical
}
