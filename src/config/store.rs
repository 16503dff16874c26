//! Reads `store`, the database of the state, and `roles`.

use std::net::IpAddr;

use tokio_postgres::config::{Host, SslMode};

use super::problem::shown;
use super::reader::{Context, Fault, Mapping, all};
use super::source;
use super::value::Value;
use super::yaml::Kind;
use super::{Postgres, Roles};

/// The value of `store` for SQLite, which is the default.
const SQLITE: &str = "sqlite";

/// Reads `store`. Returns `Some(None)` for SQLite.
///
/// The caller sets the names of the repositories.
pub(super) fn store(root: &Mapping<'_>, context: &mut Context<'_>) -> Option<Option<Postgres>> {
    let Some(value) = root.given("store") else {
        return Some(None);
    };
    match &value.node.kind {
        Kind::Text(word) if word == SQLITE => return Some(None),
        Kind::Text(word) => {
            let fault = Fault::new(format!("unknown value {}", shown(word)))
                .allowed("sqlite, or a mapping with postgres: CONNECTION");
            context.error(&value.location, fault);
            return None;
        }
        _ => {}
    }
    let mapping = value.mapping(context)?;
    let connection = mapping.read(context, "postgres", connection);
    let password = mapping.read_optional(context, "password", |value, context| {
        source::read_if_possible(value, context)
    });
    let tls = mapping.read_optional(context, "tls", |value, context| {
        value.word(context, [("require", true), ("off", false)])
    });
    let lease = mapping.read(context, "lease", Value::duration);
    let (connection, is_local) = connection?;
    Some(Some(Postgres {
        connection,
        password: password?.flatten(),
        tls: tls?.unwrap_or(!is_local),
        lease: lease?,
        repository: String::new(),
        repositories: Vec::new(),
    }))
}

/// Reads `roles`. With SQLite, a process must have both roles.
pub(super) fn roles(
    root: &Mapping<'_>,
    is_sqlite: bool,
    context: &mut Context<'_>,
) -> Option<Roles> {
    let words = root.read(context, "roles", |value, context| {
        let items = value.items(context)?;
        all(items
            .iter()
            .map(|item| item.word(context, [("watch", true), ("deliver", false)])))
    })?;
    let roles = Roles {
        watch: words.contains(&true),
        deliver: words.contains(&false),
    };
    if is_sqlite
        && roles != Roles::default()
        && let Some(given) = root.given("roles")
    {
        let fault = Fault::new("needs store.postgres: with SQLite one process has both roles");
        context.error(&given.location, fault);
        return None;
    }
    Some(roles)
}

/// Reads a connection string. Also returns whether all its hosts are this machine.
fn connection(value: &Value<'_>, context: &mut Context<'_>) -> Option<(String, bool)> {
    value.parsed(context, |text| {
        let config: tokio_postgres::Config = text
            .parse()
            .map_err(|error| Fault::not_allowed(format!("is not a connection string: {error}")))?;
        if config.get_password().is_some() {
            let message = "contains a password; set store.password instead, which is never printed";
            return Err(Fault::new(message));
        }
        if config.get_ssl_mode() != SslMode::Prefer {
            return Err(Fault::new("contains sslmode; set store.tls instead"));
        }
        if config.get_hosts().is_empty() {
            return Err(Fault::not_allowed("has no host"));
        }
        let is_local = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost"
                    || name
                        .parse()
                        .is_ok_and(|address: IpAddr| address.is_loopback())
            }
        };
        // With `hostaddr`, connections go to these addresses, and the hosts are only names.
        let addresses = config.get_hostaddrs();
        let is_local = match addresses.is_empty() {
            true => config.get_hosts().iter().all(is_local),
            false => addresses.iter().all(IpAddr::is_loopback),
        };
        Ok((text.to_owned(), is_local))
    })
}
