//! Reads config.yaml and returns a valid configuration.
//!
//! Constraint: no other layer checks a setting again. [`Config`] holds only valid values. Its
//! secrets are read and its paths are absolute. All errors are listed at once, as [`Problem`]s with
//! file, line, key path and the allowed values.
//!
//! Modules, in reading order:
//!
//! - [`settings`] is the table of settings.
//! - `yaml` parses bytes into a tree of values with their positions.
//! - `reader` reads a mapping by the table, and `value` a single value.
//! - `units` reads durations and sizes.
//! - `source` reads values from credentials, the environment and files.
//! - `load` makes a [`Config`] from the tree. `repository`, `webhook`, `subscription`, `headers`,
//!   `tls` and `network` read its parts.
//! - `problem` is an error or a warning.
//! - `fingerprint` hashes the settings of a webhook.

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

/// A valid configuration and the warnings about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Settings that are valid but probably not intended.
    pub warnings: Vec<Problem>,
}

/// Reads a configuration and the files that it names.
///
/// # Errors
///
/// The configuration has errors, or its file is absent or unreadable.
pub fn load(file: &Path, environment: &dyn Environment) -> Result<Loaded, Problems> {
    match read(file) {
        Ok((bytes, mode)) => load::load(&bytes, file, mode & 0o004 != 0, environment),
        Err(error) => {
            let message = if error.kind() == std::io::ErrorKind::NotFound {
                let [here, system] = Config::default_files();
                format!(
                    "the configuration file does not exist; pass --config FILE, or create {} \
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

/// Reads a configuration from bytes instead of a file.
///
/// Messages and relative paths use the path `file`, which need not exist.
///
/// # Errors
///
/// The configuration has errors.
pub fn load_str(
    bytes: &[u8],
    file: &Path,
    environment: &dyn Environment,
) -> Result<Loaded, Problems> {
    load::load(bytes, file, false, environment)
}

/// Reads the content and the mode of the file, up to one byte above the size limit.
///
/// A pipe with a writer is read to its end, as for `--config <(command)`. A pipe without a writer
/// reads as empty, because the daemon would block while it waits for one.
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
    /// The absolute path of the configuration file.
    pub file: PathBuf,
    /// The watched repository.
    pub repository: Repository,
    /// The absolute path of the state directory.
    pub state_dir: PathBuf,
    /// The names of organizations and users.
    pub naming: Naming,
    /// The webhooks in the order of the file.
    pub webhooks: Vec<Webhook>,
    /// The IP addresses that callbacks may be sent to.
    pub network: NetworkPolicy,
    /// How long finished deliveries are kept.
    pub retention: Retention,
    /// The server of metrics and health, if any.
    pub admin: Option<AdminServer>,
    /// The level and the format of the log.
    pub log: Log,
}

impl Config {
    /// The files to try, in this order, if the user names none.
    fn default_files() -> [PathBuf; 2] {
        [
            PathBuf::from("./config.yaml"),
            PathBuf::from("/etc/project-webhooks/config.yaml"),
        ]
    }

    /// Returns the file to read: the named one, else the first default that exists.
    ///
    /// If no default exists, returns the first one, so that the error names it.
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

    /// The changed settings that take effect only after a restart, as key paths.
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
    /// The absolute path of the root.
    pub path: PathBuf,
    /// The paths of projects below the root.
    pub layout: Layout,
    /// The templates of the layout, as written.
    pub templates: Templates,
    /// How long a project must be idle before a missing file counts as removed.
    pub settle: Duration,
    /// How long removals are held if more than half of the projects vanish together.
    pub mass_delete_after: Duration,
    /// The time between full scans.
    pub rescan: Duration,
    /// How the daemon notices changes.
    pub watch: WatchMode,
    /// The time between scans when the operating system reports no changes.
    pub poll_interval: Duration,
    /// The largest file that is read, in bytes.
    pub max_file_size: u64,
    /// Whether the first start reports existing files.
    pub on_first_start: FirstStart,
}

/// Path templates, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    /// Templates of definitions.
    pub project: Vec<String>,
    /// Templates of published copies.
    pub published: Vec<String>,
    /// Templates of snapshots.
    pub snapshot: Vec<String>,
}

/// How the daemon notices changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchMode {
    /// `Native` on Linux, `Notify` elsewhere; on a network file system also scans on a timer.
    Auto,
    /// Reads inotify directly. Linux only.
    Native,
    /// Uses the operating system's change events through the crate notify.
    Notify,
    /// Scans on a timer.
    Poll,
}

impl WatchMode {
    /// All modes, in the order of the documentation.
    pub const ALL: [WatchMode; 4] = [
        WatchMode::Auto,
        WatchMode::Native,
        WatchMode::Notify,
        WatchMode::Poll,
    ];

    /// Replaces `auto` by the default mode of this operating system.
    pub const fn resolved(self) -> Self {
        match self {
            WatchMode::Auto if cfg!(target_os = "linux") => WatchMode::Native,
            WatchMode::Auto => WatchMode::Notify,
            other => other,
        }
    }

    /// The word for this value in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            WatchMode::Auto => "auto",
            WatchMode::Native => "native",
            WatchMode::Notify => "notify",
            WatchMode::Poll => "poll",
        }
    }
}

/// Whether the first start reports existing files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstStart {
    /// Records existing files without events.
    Adopt,
    /// Reports existing files as imports, snapshots and published copies.
    Report,
}

impl FirstStart {
    /// Both words, in the order of the documentation.
    pub const ALL: [FirstStart; 2] = [FirstStart::Adopt, FirstStart::Report];

    /// The word for this value in the configuration.
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
    /// The subscribed events and projects, and the unique name of the webhook.
    pub subscription: Subscription,
    /// The globs of `projects`, as written. Empty if the webhook gets all projects.
    pub project_globs: Vec<String>,
    /// The URL of the receiver.
    pub url: Url,
    /// The format of the request body.
    pub format: Format,
    /// The headers that the user configured.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// The signing secrets: none, one, or two during a rotation.
    pub secrets: Vec<SecretString>,
    /// The time limit of an attempt, from name resolution to the end of the answer.
    pub timeout: Duration,
    /// The time limit of connecting: name resolution, connection, proxy and TLS.
    pub connect_timeout: Duration,
    /// The delay before each attempt. Its length is the maximum number of attempts.
    pub schedule: Vec<Duration>,
    /// The maximum number of projects with a request in progress at the same time.
    pub concurrency: usize,
    /// Extra certificate authorities, and the client certificate with its key.
    pub tls: Tls,
    /// Whether events are delivered to this webhook.
    pub enabled: bool,
}

impl Webhook {
    /// The unique name of the webhook.
    pub fn name(&self) -> &str {
        &self.subscription.webhook
    }
}

/// The format of the request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `multipart/form-data`.
    Multipart,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// The project.xml as the body, with the parameters in the query string.
    Xml,
    /// `application/json`.
    Json,
    /// CloudEvents 1.0 in HTTP binary mode.
    CloudEvents,
}

impl Format {
    /// All formats, in the order of the documentation.
    pub const ALL: [Format; 5] = [
        Format::Multipart,
        Format::Form,
        Format::Xml,
        Format::Json,
        Format::CloudEvents,
    ];

    /// The word for this value in the configuration and in listings.
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
    /// Certificate authorities to trust in addition to the system's.
    pub ca: Vec<CertificateDer<'static>>,
    /// Whether only `ca` is trusted, and not the system's authorities.
    pub ca_only: bool,
    /// The client's own certificate and key.
    pub identity: Option<Arc<ClientIdentity>>,
}

/// A client certificate with its key. Its `Debug` output omits the key.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate chain. The client's own certificate is first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

/// How long finished deliveries are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// How long delivered deliveries are kept.
    pub delivered: Duration,
    /// How long dead deliveries are kept.
    pub dead: Duration,
}

/// The server of metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminServer {
    /// The address.
    pub listen: Listen,
    /// The permissions of a Unix socket: who may connect.
    pub mode: u32,
}

/// The address of the admin server.
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
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// The format of a log line.
    pub format: LogFormat,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `Journald` under systemd, else `Text`.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object on each line.
    Json,
    /// The native protocol of journald.
    Journald,
}

impl LogFormat {
    /// All formats, in the order of the documentation.
    pub const ALL: [LogFormat; 4] = [
        LogFormat::Auto,
        LogFormat::Text,
        LogFormat::Json,
        LogFormat::Journald,
    ];

    /// The word for this value in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
            LogFormat::Journald => "journald",
        }
    }
}

/// The log levels with their words in the configuration. The most severe is first.
pub const LOG_LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];
