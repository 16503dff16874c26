//! config.yaml: its text, and the valid configuration that comes of it.
//!
//! Constraint: no other layer checks a setting again. [`Config`] holds only valid values, with
//! secrets read and paths absolute. Errors become [`Problem`]s, all of them at once, each with
//! file, line, key path and the allowed values.
//!
//! Map, in reading order: [`settings`] is the table of settings. `yaml` turns bytes into a tree of
//! values with their positions. `reader` reads a mapping of it by the table, `value` a single
//! value, `units` durations and sizes, `source` values from credentials, the environment and
//! files. `load` makes a [`Config`] of all that, with the help of `repository`, `webhook`,
//! `subscription`, `headers`, `tls` and `network`. `problem` is the form of an error, and
//! `fingerprint` a hash of a webhook's settings.

mod environment;
mod fingerprint;
#[cfg(test)]
pub(crate) mod fixtures;
mod headers;
mod load;
mod network;
mod problem;
mod reader;
mod repository;
pub mod settings;
mod source;
mod subscription;
mod tls;
mod units;
mod value;
mod webhook;
mod yaml;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;
use url::Url;

use crate::domain::parameters::Naming;
use crate::domain::route::Subscription;
use crate::layout::Layout;

pub use environment::{Environment, SystemEnvironment, WithoutSecrets};
pub use fingerprint::fingerprint;
pub use headers::SecretError;
pub(crate) use headers::{is_reserved, signing_key};
pub use network::{Denied, NetworkPolicy};
pub use problem::{Position, Problem, Problems};
pub(crate) use repository::given_state_dir;
pub(crate) use units::duration_text;

/// A valid configuration, with warnings.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Settings that are valid and probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads a configuration and the files that it names.
///
/// # Errors
///
/// All problems of the configuration, or that the file is absent or unreadable.
pub fn load(file: &Path, environment: &dyn Environment) -> Result<Loaded, Problems> {
    match read(file) {
        Ok((bytes, mode)) => load::load(&bytes, file, mode & 0o004 != 0, environment),
        Err(error) => {
            let message = if error.kind() == std::io::ErrorKind::NotFound {
                let [here, system] = Config::default_files();
                format!(
                    "there is no configuration here; name one with --config FILE, or put it at {} \
                     or {} (`project-webhooks demo` needs none)",
                    here.display(),
                    system.display()
                )
            } else {
                format!("the configuration cannot be read: {error}")
            };
            Err(Problems {
                errors: vec![Problem::of_file(file, message)],
                warnings: Vec::new(),
            })
        }
    }
}

/// Reads a configuration from bytes, as though they were in `file`.
///
/// The file need not exist.
///
/// # Errors
///
/// All problems of the configuration.
pub fn load_str(
    bytes: &[u8],
    file: &Path,
    environment: &dyn Environment,
) -> Result<Loaded, Problems> {
    load::load(bytes, file, false, environment)
}

/// Reads the file and its mode, up to one byte above the limit.
///
/// A pipe with a writer is read to its end, as with `--config <(command)`. A pipe without a writer is
/// empty: waiting for one would block the daemon.
fn read(path: &Path) -> std::io::Result<(Vec<u8>, u32)> {
    let nonblocking = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, nonblocking, Mode::empty())?;
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    let file = File::from(file);
    let mode = file.metadata()?.mode();
    let mut bytes = Vec::new();
    file.take(yaml::SIZE_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes, mode))
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from, absolute.
    pub file: PathBuf,
    /// The watched repository.
    pub repository: Repository,
    /// The directory of the daemon's state, absolute.
    pub state_dir: PathBuf,
    /// The names of organizations and users.
    pub naming: Naming,
    /// The webhooks in the order of the file.
    pub webhooks: Vec<Webhook>,
    /// The addresses that callbacks may be sent to.
    pub network: NetworkPolicy,
    /// How long finished deliveries are kept.
    pub retention: Retention,
    /// The address of metrics and health.
    pub admin: Option<Listen>,
    /// The level and the format of the log.
    pub log: Log,
}

impl Config {
    /// The files that are tried if none is named, in this order.
    fn default_files() -> [PathBuf; 2] {
        [
            PathBuf::from("./config.yaml"),
            PathBuf::from("/etc/project-webhooks/config.yaml"),
        ]
    }

    /// The file to read: the named one, else the first default that exists.
    ///
    /// If no default exists it is the first one, so that the error names it.
    pub(crate) fn file_or_default(named: Option<&Path>) -> PathBuf {
        if let Some(named) = named {
            return named.to_owned();
        }
        let [here, system] = Self::default_files();
        if !here.exists() && system.exists() {
            system
        } else {
            here
        }
    }

    /// The settings of `new` that a running daemon cannot take over, as key paths.
    pub(crate) fn needing_restart(&self, new: &Config) -> Vec<&'static str> {
        let differs = |key| match key {
            "state_dir" => self.state_dir != new.state_dir,
            _ => false,
        };
        settings::SETTINGS
            .iter()
            .filter(|setting| setting.needs_restart && differs(setting.key))
            .map(|setting| setting.key)
            .collect()
    }
}

/// The watched repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its root, absolute.
    pub path: PathBuf,
    /// The paths of projects in it.
    pub layout: Layout,
    /// The templates of the layout, as written.
    pub templates: Templates,
    /// How long a project must be idle before a removal in it counts.
    pub settle: Duration,
    /// The time between full scans.
    pub rescan: Duration,
    /// The way to notice changes.
    pub watch: WatchMode,
    /// The time between scans if the system reports no changes.
    pub poll_interval: Duration,
    /// The largest file that is read, in bytes.
    pub max_file_size: u64,
    /// The treatment of existing files on the first start.
    pub on_first_start: FirstStart,
}

/// Path templates, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    /// Of definitions.
    pub project: Vec<String>,
    /// Of published copies.
    pub published: Vec<String>,
    /// Of snapshots.
    pub snapshot: Vec<String>,
}

/// The way to notice changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchMode {
    /// The best that there is: scans on a timer too if the file system is a network's.
    Auto,
    /// The daemon reads inotify, on Linux.
    Native,
    /// The crate notify reads what the system has.
    Notify,
    /// Scans on a timer.
    Poll,
}

impl WatchMode {
    /// All of them, in the order of the documentation.
    pub const ALL: [WatchMode; 4] = [
        WatchMode::Auto,
        WatchMode::Native,
        WatchMode::Notify,
        WatchMode::Poll,
    ];

    /// The mode with `auto` replaced by the backend of this system.
    pub const fn resolved(self) -> Self {
        match self {
            WatchMode::Auto if cfg!(target_os = "linux") => WatchMode::Native,
            WatchMode::Auto => WatchMode::Notify,
            other => other,
        }
    }

    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            WatchMode::Auto => "auto",
            WatchMode::Native => "native",
            WatchMode::Notify => "notify",
            WatchMode::Poll => "poll",
        }
    }
}

/// The treatment of existing files on the first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstStart {
    /// Record them silently.
    Adopt,
    /// Report them as imports, snapshots and published copies.
    Report,
}

impl FirstStart {
    /// All of them, in the order of the documentation.
    pub const ALL: [FirstStart; 2] = [FirstStart::Adopt, FirstStart::Report];

    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            FirstStart::Adopt => "adopt",
            FirstStart::Report => "report",
        }
    }
}

/// A webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its events and projects; `webhook` is the unique name.
    pub subscription: Subscription,
    /// The globs of the subscription's filter, as written; empty without a filter.
    pub project_globs: Vec<String>,
    /// The address of the receiver.
    pub url: Url,
    /// The format of the body.
    pub format: Format,
    /// Configured headers.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// No secret, one, or two during a rotation.
    pub secrets: Vec<SecretString>,
    /// The bound of a whole exchange.
    pub timeout: Duration,
    /// The bound of its first part: name resolution, connection, proxy and TLS.
    pub connect_timeout: Duration,
    /// The delay before each attempt.
    pub schedule: Vec<Duration>,
    /// How many projects are served at the same time.
    pub concurrency: usize,
    /// Extra certificate authorities, and the client certificate with its key.
    pub tls: Tls,
    /// Whether it gets deliveries.
    pub enabled: bool,
}

impl Webhook {
    /// Its unique name.
    pub fn name(&self) -> &str {
        &self.subscription.webhook
    }
}

/// The format of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `multipart/form-data`.
    Multipart,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// The XML, with the parameters in the query string.
    Xml,
    /// `application/json`.
    Json,
    /// CloudEvents 1.0 in HTTP binary mode.
    CloudEvents,
}

impl Format {
    /// All of them, in the order of the documentation.
    pub const ALL: [Format; 5] = [
        Format::Multipart,
        Format::Form,
        Format::Xml,
        Format::Json,
        Format::CloudEvents,
    ];

    /// The word in the configuration and in listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Format::Multipart => "multipart",
            Format::Form => "form",
            Format::Xml => "xml",
            Format::Json => "json",
            Format::CloudEvents => "cloudevents",
        }
    }
}

/// The certificates and keys of a webhook's TLS connections.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Authorities to trust in addition to the system's.
    pub ca: Vec<CertificateDer<'static>>,
    /// The client's own certificate and key.
    pub identity: Option<Arc<ClientIdentity>>,
}

/// A client certificate with its key. It prints without the key.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate chain, the client's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

/// How long finished deliveries are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Delivered ones.
    pub delivered: Duration,
    /// Dead ones.
    pub dead: Duration,
}

/// The address of metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(std::net::SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Writes the address as the configuration does.
impl std::fmt::Display for Listen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::Tcp(address) => write!(formatter, "{address}"),
            Listen::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// The level and the format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level.
    pub level: tracing::Level,
    /// The format of a line.
    pub format: LogFormat,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// journald's own protocol under systemd, else text.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
    /// journald's own protocol.
    Journald,
}

impl LogFormat {
    /// All of them, in the order of the documentation.
    pub const ALL: [LogFormat; 4] = [
        LogFormat::Auto,
        LogFormat::Text,
        LogFormat::Json,
        LogFormat::Journald,
    ];

    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
            LogFormat::Journald => "journald",
        }
    }
}

/// The levels of logging by their words, the most severe first.
pub const LOG_LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];
