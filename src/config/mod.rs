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
pub use repository::given_state_dir;
pub use units::duration_text;

/// A configuration that is valid, and what is probably not meant in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads a configuration with all that it refers to.
///
/// # Errors
///
/// Everything that is wrong with it, the file being absent or unreadable included.
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

/// Reads a configuration of these bytes as though they stood in `file`, which need not exist.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn load_str(
    bytes: &[u8],
    file: &Path,
    environment: &dyn Environment,
) -> Result<Loaded, Problems> {
    load::load(bytes, file, false, environment)
}

/// The bytes and the mode of the file, no more of it than one byte above the limit.
///
/// A pipe is read to its end while somebody writes to it, as with `--config <(command)`; but one that
/// nobody writes to is empty and not waited for: a reload would never end, nor would the daemon.
fn read(path: &Path) -> std::io::Result<(Vec<u8>, u32)> {
    let without_waiting = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, without_waiting, Mode::empty())?;
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    let file = File::from(file);
    let mode = file.metadata()?.mode();
    let mut bytes = Vec::new();
    file.take(yaml::SIZE_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes, mode))
}

/// A configuration that is valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from, absolute.
    pub file: PathBuf,
    /// The watched repository.
    pub repository: Repository,
    /// Where the daemon keeps its state, absolute.
    pub state_dir: PathBuf,
    /// How organizations and users are named.
    pub naming: Naming,
    /// The webhooks in the order of the file.
    pub webhooks: Vec<Webhook>,
    /// Which addresses callbacks may be sent to.
    pub network: NetworkPolicy,
    /// How long finished deliveries are kept.
    pub retention: Retention,
    /// Where metrics and health are served.
    pub admin: Option<Listen>,
    /// What is logged, and how.
    pub log: Log,
}

impl Config {
    /// Where a configuration is looked for when none is named, in this order.
    pub fn default_files() -> [PathBuf; 2] {
        [
            PathBuf::from("./config.yaml"),
            PathBuf::from("/etc/project-webhooks/config.yaml"),
        ]
    }

    /// The configuration file to read: the one that is named, else the first default that exists,
    /// else the first default, so that the error names it.
    pub fn file_or_default(named: Option<&Path>) -> PathBuf {
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
    /// Where projects are in it.
    pub layout: Layout,
    /// The templates that the layout was made of, as written.
    pub templates: Templates,
    /// How long a project must be quiet before a removal in it counts.
    pub settle: Duration,
    /// The time between full comparisons.
    pub rescan: Duration,
    /// How changes are noticed.
    pub watch: WatchMode,
    /// The time between comparisons where the system reports no changes.
    pub poll_interval: Duration,
    /// The largest file that is read, in bytes.
    pub max_file_size: u64,
    /// What the first start does with what is there.
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

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchMode {
    /// By the operating system where the file system can tell, else by comparison on a timer.
    Auto,
    /// By the operating system.
    Native,
    /// By comparison on a timer.
    Poll,
}

impl WatchMode {
    /// All of them, in the order of the documentation.
    pub const ALL: [WatchMode; 3] = [WatchMode::Auto, WatchMode::Native, WatchMode::Poll];

    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            WatchMode::Auto => "auto",
            WatchMode::Native => "native",
            WatchMode::Poll => "poll",
        }
    }
}

/// What the first start does with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstStart {
    /// Record it, fire nothing.
    Adopt,
    /// Report imports, snapshots and published copies.
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
    /// What it wants to hear of; its `webhook` is the unique name.
    pub subscription: Subscription,
    /// The globs that the subscription's filter was made of, as written; empty where it has none.
    pub project_globs: Vec<String>,
    /// Where callbacks go.
    pub url: Url,
    /// The form of the body.
    pub format: Format,
    /// Headers of its own, with their values read.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// No secret, one, or two during a rotation.
    pub secrets: Vec<SecretString>,
    /// The bound of a whole exchange.
    pub timeout: Duration,
    /// The bound of its first part: name, connection, proxy and TLS; at most `timeout`.
    pub connect_timeout: Duration,
    /// The delay before each attempt.
    pub schedule: Vec<Duration>,
    /// How many projects are served side by side.
    pub concurrency: usize,
    /// What the TLS connection needs beyond the system's trust store; PEM files, absolute.
    pub tls: Tls,
    /// Whether it takes part at all.
    pub enabled: bool,
}

impl Webhook {
    /// Its unique name.
    pub fn name(&self) -> &str {
        &self.subscription.webhook
    }
}

/// The form of the body.
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

/// Where metrics and health are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(std::net::SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The address as it is written in the configuration.
impl std::fmt::Display for Listen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::Tcp(address) => write!(formatter, "{address}"),
            Listen::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
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
