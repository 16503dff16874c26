//! The types of a valid configuration.
//!
//! Constraint: these types have only valid values.
//!
//! Modules: `webhook` has the settings of a webhook, `url` its URL, and `auth` its authentication.
//! `store` has the database and the roles.

mod auth;
mod store;
mod url;
mod webhook;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::url::Url;
use secrecy::{ExposeSecret, SecretString};

pub use self::auth::{Auth, Authentication, FileSetting, FileValue, OAuth2};
pub use self::store::{Postgres, Roles};
pub use self::url::ReceiverUrl;
pub(crate) use self::url::shown as shown_url;
pub use self::webhook::{BodyFormat, ClientIdentity, Format, Globs, Tls, Webhook};
use super::{NetworkPolicy, settings};
use crate::domain::parameters::Naming;
use crate::layout::Layout;

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The absolute path of the configuration file.
    pub file: PathBuf,
    /// The only repository, or the first of `repositories`.
    ///
    /// In the configuration of an engine, the repository of that engine.
    pub repository: Repository,
    /// The items of `repositories`. Empty if the file has `repository`.
    pub repositories: Vec<Repository>,
    /// The absolute path of the state directory.
    pub state_dir: PathBuf,
    /// The PostgreSQL database of the state. `None` means SQLite in `state_dir`.
    pub store: Option<Postgres>,
    /// The tasks of this process: watching, delivering, or both.
    pub roles: Roles,
    /// The settings for the names of organizations and users.
    pub naming: Naming,
    /// The webhooks in the order of the file.
    pub webhooks: Vec<Webhook>,
    /// The IP addresses that callbacks may be sent to.
    pub network: NetworkPolicy,
    /// How long deliveries are kept, and how large the state may become.
    pub retention: Retention,
    /// The admin server. `None` if it is off.
    pub admin: Option<AdminServer>,
    /// The collector of traces, if any.
    pub otlp: Option<Otlp>,
    /// The level and the format of the log.
    pub log: Log,
}

impl Config {
    /// Returns the key paths of changed settings that need a restart.
    pub(crate) fn needing_restart(&self, new: &Config) -> Vec<&'static str> {
        let differs = |key| match key {
            "state_dir" => self.state_dir != new.state_dir,
            // A reload may change the repositories of a list.
            "repository.name" => {
                self.repositories.is_empty() && self.repository.name != new.repository.name
            }
            "roles" => self.roles != new.roles,
            "store.postgres" => {
                self.postgres(|store| &store.connection) != new.postgres(|store| &store.connection)
            }
            "otlp.endpoint" => self.otlp(|otlp| &otlp.endpoint) != new.otlp(|otlp| &otlp.endpoint),
            "otlp.headers.NAME" => {
                self.otlp(|otlp| &otlp.headers) != new.otlp(|otlp| &otlp.headers)
            }
            "store.password" => self.password() != new.password(),
            "store.tls" => self.postgres(|store| &store.tls) != new.postgres(|store| &store.tls),
            "store.lease" => {
                self.postgres(|store| &store.lease) != new.postgres(|store| &store.lease)
            }
            _ => false,
        };
        let settings = settings::SETTINGS.iter();
        let changed = settings.filter(|setting| setting.needs_restart && differs(setting.key));
        let mut changed: Vec<&str> = changed.map(|setting| setting.key).collect();
        // Stored project keys begin with the name of the repository only if there is a list.
        if self.repositories.is_empty() != new.repositories.is_empty() {
            changed.push(
                "the choice between repository and repositories (this change also needs an empty \
                 state_dir; with store.postgres, it may need new repository names instead)",
            );
        }
        changed
    }

    /// The roots of all repositories.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        let others = self.repositories.iter().skip(1);
        let all = std::iter::once(&self.repository).chain(others);
        all.map(|repository| repository.path.as_path())
    }

    /// The names of `repositories`. Empty if the file has `repository`.
    pub(crate) fn repository_names(&self) -> Vec<String> {
        self.repositories.iter().map(Repository::name).collect()
    }

    /// Returns a configuration for each engine, with one of the repositories.
    pub(crate) fn of_each_repository(self: &Arc<Self>) -> Vec<Arc<Config>> {
        if self.repositories.is_empty() {
            return vec![Arc::clone(self)];
        }
        let with = |repository: &Repository| {
            let mut config = Config::clone(self);
            config.repository = repository.clone();
            Arc::new(config)
        };
        self.repositories.iter().map(with).collect()
    }
}

impl Config {
    /// The webhooks that this process delivers to, also those that are not enabled.
    pub(crate) fn sent_webhooks(&self) -> &[Webhook] {
        match self.roles.deliver {
            true => &self.webhooks,
            false => &[],
        }
    }

    fn postgres<T>(&self, field: impl FnOnce(&Postgres) -> &T) -> Option<&T> {
        self.store.as_ref().map(field)
    }

    fn otlp<T>(&self, field: impl FnOnce(&Otlp) -> &T) -> Option<&T> {
        self.otlp.as_ref().map(field)
    }

    fn password(&self) -> Option<&str> {
        let password = self.store.as_ref()?.password.as_ref()?;
        Some(password.expose_secret())
    }
}

/// The collector of traces.
#[derive(Clone, Debug)]
pub struct Otlp {
    /// The base URL of the collector, which takes traces at `v1/traces` below this URL.
    pub endpoint: Url,
    /// The headers of requests to the collector.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

/// The settings of a repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// The absolute path of the root.
    pub path: PathBuf,
    /// The setting `repository.name`. If it is absent, the path is the name.
    pub name: Option<String>,
    /// The paths of projects below the root.
    pub layout: Layout,
    /// The templates of the layout, as written.
    pub templates: Templates,
    /// How long a project must be idle before a missing file may count as removed.
    ///
    /// Continuous activity postpones the removal by at most 20 settle times.
    pub settle: Duration,
    /// How long the removals of projects are held if many projects vanish together.
    ///
    /// See [`crate::domain::wave`].
    pub mass_delete_after: Duration,
    /// The time until a full scan is repeated, if nothing requests one earlier.
    pub rescan: Duration,
    /// How the daemon notices changes.
    pub watch: WatchMode,
    /// The time between scans while the operating system does not report all changes.
    pub poll_interval: Duration,
    /// The largest file that is read, in bytes.
    pub max_file_size: u64,
    /// How the first start treats existing files.
    pub on_first_start: FirstStart,
}

impl Repository {
    /// The name of the repository: `repository.name`, else its path.
    pub fn name(&self) -> String {
        let path = || self.path.display().to_string();
        self.name.clone().unwrap_or_else(path)
    }

    /// The name at the beginning of project keys. `None` if the file has `repository`.
    pub(crate) fn name_in_keys(&self) -> Option<Arc<str>> {
        self.layout.repository().cloned()
    }
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
    /// `Native` on Linux, `Notify` elsewhere.
    ///
    /// Network file systems are also scanned on a timer.
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

    /// Replaces `Auto` with the default mode of this operating system.
    pub const fn resolved(self) -> Self {
        match self {
            WatchMode::Auto if cfg!(target_os = "linux") => WatchMode::Native,
            WatchMode::Auto => WatchMode::Notify,
            other => other,
        }
    }

    /// The name of this mode in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            WatchMode::Auto => "auto",
            WatchMode::Native => "native",
            WatchMode::Notify => "notify",
            WatchMode::Poll => "poll",
        }
    }
}

/// How the first start treats existing files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstStart {
    /// Records existing files without events.
    Adopt,
    /// Reports existing files as imports, snapshots and published copies.
    Report,
}

impl FirstStart {
    /// All values, in the order of the documentation.
    pub const ALL: [FirstStart; 2] = [FirstStart::Adopt, FirstStart::Report];

    /// The name of this value in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            FirstStart::Adopt => "adopt",
            FirstStart::Report => "report",
        }
    }
}

/// How long deliveries are kept, and how large the state may become.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// How long delivered deliveries are kept.
    pub delivered: Duration,
    /// How long dead and cancelled deliveries are kept.
    pub dead: Duration,
    /// How long a delivery may be pending before it becomes dead. `None` means forever.
    pub pending: Option<Duration>,
    /// The size of the state at which old deliveries are removed early, in bytes.
    ///
    /// `None` means about nine tenths of the space that the state can take with SQLite, and no
    /// limit with PostgreSQL.
    pub max_state_size: Option<u64>,
}

/// The admin server: health, metrics, the API and the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminServer {
    /// Additional host names that the header `Host` of requests may have.
    pub hosts: Vec<String>,
    /// The address.
    pub listen: Listen,
    /// The permissions of the Unix socket. They decide who may connect.
    pub mode: u32,
    /// The token of the API and the page. Health and metrics need no token.
    pub token: Option<AdminToken>,
}

/// The token of the admin server.
#[derive(Clone, Debug)]
pub struct AdminToken(pub SecretString);

impl PartialEq for AdminToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for AdminToken {}

/// The address of the admin server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(std::net::SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Formats the address as in the configuration.
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
    /// `Journald` if standard error goes to the journal, else `Text`.
    Auto,
    /// Human-readable text.
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

    /// The name of this format in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
            LogFormat::Journald => "journald",
        }
    }
}

/// The log levels with their names in the configuration. The most severe is first.
pub const LOG_LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];
