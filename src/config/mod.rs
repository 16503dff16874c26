//! config.yaml: as written, and as usable.
//!
//! Constraint: nothing past this layer checks a setting again. [`Config`] holds only what is
//! valid, with its secrets read and its paths absolute; what is wrong becomes [`Problem`]s, all of
//! them at once, each with file, line, key path and what is allowed.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::domain::parameters::Naming;
use crate::domain::route::Subscription;
use crate::layout::Layout;

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
    /// How long finished deliveries are kept.
    pub retention: Retention,
    /// Where metrics and health are served.
    pub admin: Option<Listen>,
    /// What is logged, and how.
    pub log: Log,
}

/// The watched repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its root, absolute.
    pub path: PathBuf,
    /// Where projects are in it.
    pub layout: Layout,
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

/// What the first start does with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstStart {
    /// Record it, fire nothing.
    Adopt,
    /// Report imports, snapshots and published copies.
    Report,
}

/// A webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// What it wants to hear of; its `webhook` is the unique name.
    pub subscription: Subscription,
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

/// PEM text for a webhook's TLS connections, read when the configuration was.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Certificates of authorities to trust beside the system's.
    pub ca: Option<Vec<u8>>,
    /// The client's certificate chain.
    pub client_cert: Option<Vec<u8>>,
    /// The client's private key.
    pub client_key: Option<SecretString>,
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
