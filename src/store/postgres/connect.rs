//! Connects to the database.
//!
//! Constraint: a connection that hangs must not stop the daemon. So each attempt to connect, each
//! statement and each wait for a lock has a time limit. TCP keepalives detect a dead peer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Postgres;
use crate::store::error::{Fault, OpenError};

/// The maximum number of connections, without those for renewals and notifications.
///
/// If all of them are busy, a caller waits. Most callers need only a few round trips.
const CONNECTIONS_MAX: usize = 6;

/// The number of connections that only renew leases.
///
/// One is for the lease on the repository, and one for the lease of the sender.
const RENEWING: usize = 2;

/// The default time limit for opening a TCP connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit for making a connection, including TLS and the authentication.
///
/// The connections for renewals have another limit, [`renewal_max`].
pub(super) const CREATE_MAX: Duration = CONNECT_TIMEOUT.saturating_mul(2);

/// How long a caller waits at most for a free connection of the pool.
///
/// Renewals have another limit, [`renewal_max`].
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest time that a transaction may idle, even with a long lease.
///
/// The transactions of `migrate-store` may idle for longer.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A transaction may idle for the length of the lease divided by this number.
///
/// Usually, at most four transactions of one process wait for the lock of the repository: those of
/// a batch, of results of attempts, of a collection and of fingerprints. If the process is stopped,
/// each of them gets the lock in turn and then idles. The server should end all four within the
/// length of the lease.
const IDLE_PART: u32 = 4;

/// Returns the server options of each connection.
///
/// A large batch takes seconds on a slow disk, so a statement may take half a minute. If a process
/// is stopped during a transaction, the transaction keeps its locks, and no other process can take
/// over. So the server ends a transaction that idles. Statements need little computation, so JIT
/// compilation costs more than it saves.
fn options(lease: Duration) -> String {
    format!(
        "-c statement_timeout=30000 -c lock_timeout=20000 \
         -c idle_in_transaction_session_timeout={} -c jit=off",
        (lease / IDLE_PART).min(IDLE_MAX).as_millis()
    )
}

/// The default name of a connection in the server's list of connections.
const APPLICATION: &str = "project-webhooks";

/// Returns the name of the database for messages.
pub(super) fn location(config: &Config) -> Arc<str> {
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    let name = config
        .get_dbname()
        .or(config.get_user())
        .unwrap_or_default();
    format!("the PostgreSQL database {name} on {}", hosts.join(", ")).into()
}

/// Makes the configuration of a connection.
pub(super) fn config(settings: &Postgres) -> Result<Config, OpenError> {
    let mut config: Config =
        settings
            .connection
            .parse()
            .map_err(|source: tokio_postgres::Error| OpenError::Refused {
                location: "the PostgreSQL database of store.postgres".into(),
                source: Arc::new(source),
            })?;
    let mut options = options(settings.lease);
    if let Some(given) = config.get_options() {
        options = format!("{options} {given}");
    }
    config.options(options);
    if config.get_application_name().is_none() {
        config.application_name(APPLICATION);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    config
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(30));
    if let Some(password) = &settings.password {
        config.password(password.expose_secret());
    }
    config.ssl_mode(if settings.tls {
        SslMode::Require
    } else {
        SslMode::Disable
    });
    Ok(config)
}

/// Makes the server plan a statement once for each connection, not at each use.
///
/// A daemon's statements find rows by keys, so the best plan does not depend on the values.
/// Planning a statement each time costs as much as executing it (measured). After an analysis of a
/// table, the server plans the table's statements again.
pub(super) fn plan_once(config: &mut Config) {
    let others = config.get_options().unwrap_or_default();
    config.options(format!("-c plan_cache_mode=force_generic_plan {others}"));
}

/// The TLS settings of connections. `None` for connections without TLS.
pub(super) type Tls = Option<MakeRustlsConnect>;

/// Makes the pool for the work of a store or a client. The pool connects on demand.
pub(super) fn pool(tls: &Tls, config: Config, location: &Arc<str>) -> Result<Pool, OpenError> {
    let limits = (CONNECTIONS_MAX, WAIT_TIMEOUT, CREATE_MAX);
    pool_of(tls, config, location, limits)
}

/// Makes the pool for renewals of leases.
///
/// It is separate, so that slow statements of other work do not delay a renewal.
pub(super) fn renewals(
    tls: &Tls,
    mut config: Config,
    location: &Arc<str>,
    lease: Duration,
) -> Result<Pool, OpenError> {
    let limit = renewal_max(lease);
    let milliseconds = limit.as_millis();
    let given = config.get_options().unwrap_or_default();
    config.options(format!(
        "{given} -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
    ));
    pool_of(tls, config, location, (RENEWING, limit, limit))
}

/// Makes a pool of one connection, for a process that waits for the lease.
pub(super) fn waiting(tls: &Tls, config: Config, location: &Arc<str>) -> Result<Pool, OpenError> {
    let limits = (1, WAIT_TIMEOUT, CREATE_MAX);
    pool_of(tls, config, location, limits)
}

/// Returns the time limit for the connection of a renewal, and for its statements.
///
/// If one of the two fails after this time, a second renewal can still begin before the lease
/// expires.
pub(super) fn renewal_max(lease: Duration) -> Duration {
    lease / 2
}

fn pool_of(
    tls: &Tls,
    config: Config,
    location: &Arc<str>,
    (connections, wait, create): (usize, Duration, Duration),
) -> Result<Pool, OpenError> {
    let how = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = match tls {
        Some(tls) => Manager::from_config(config, tls.clone(), how),
        None => Manager::from_config(config, NoTls, how),
    };
    Pool::builder(manager)
        .max_size(connections)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(wait))
        .create_timeout(Some(create))
        .build()
        .map_err(|source| refused(location, source))
}

/// Makes the TLS settings, with the certificate authorities of the system.
pub(super) fn tls(settings: &Postgres, location: &Arc<str>) -> Result<Tls, OpenError> {
    if !settings.tls {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for certificate in found.certs {
        // Skip a certificate that rustls does not support. The system may have some.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        let problem = found.errors.first();
        let problem = problem.map_or_else(String::new, |problem| format!(" ({problem})"));
        let text = format!(
            "this machine has no CA certificates{problem}; install the package ca-certificates"
        );
        return Err(refused(location, io::Error::other(text)));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| refused(location, source))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn refused(
    location: &Arc<str>,
    source: impl std::error::Error + Send + Sync + 'static,
) -> OpenError {
    OpenError::Refused {
        location: Arc::clone(location),
        source: Arc::new(source),
    }
}

/// Converts an error that occurred while the store was opened.
pub(super) fn open_error(location: &Arc<str>, fault: Fault) -> OpenError {
    let location = Arc::clone(location);
    match fault {
        // `Busy` and `Slow` are temporary too: a stopped process may hold a lock until the server
        // ends its transaction.
        Fault::Unreachable(source) | Fault::Busy(source) | Fault::Slow(source) => {
            OpenError::Unreachable { location, source }
        }
        Fault::Database(source) => OpenError::Refused { location, source },
        fault => OpenError::Refused {
            location,
            source: Arc::new(fault),
        },
    }
}
