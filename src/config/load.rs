//! Makes a [`Config`] from a tree of values.
//!
//! Constraint: a function reads its whole mapping before it returns `None` for an error, so that
//! one run lists as many errors as possible.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::environment::Environment;
use super::looks::Looks;
use super::problem::{Problem, Problems, arranged, shown};
use super::reader::{Context, Fault, Location, Mapping, all};
use super::repository::Repositories;
use super::value::Value;
use super::yaml::{self, Kind, Node};
use super::{
    AdminServer, AdminToken, Config, LOG_LEVELS, Listen, Loaded, Log, LogFormat, Otlp, Postgres,
    Repository, Retention, auth, headers, network, repository, source, store, webhook,
};
use crate::domain::names::composed;
use crate::domain::parameters::{Naming, Organization, UsernameSource};

/// The longest path of a Unix socket, in bytes.
///
/// `sun_path` has 108 bytes on Linux and 104 on macOS. The last byte is a zero.
const SOCKET_PATH_MAX: usize = 103;

/// The minimum number of characters of `admin.token`, so that nobody guesses it.
pub(super) const TOKEN_MIN: usize = 16;

/// The default key of the audit rule, as in packaging/audit/project-webhooks.rules.
const DEFAULT_KEY: &str = "project-webhooks";

/// Reads a configuration from the bytes of `file`.
pub(super) fn load(
    bytes: &[u8],
    file: &Path,
    world_readable: bool,
    environment: &dyn Environment,
) -> Result<Loaded, Problems> {
    let whole = |errors| Problems {
        errors: arranged(errors, file),
        warnings: Vec::new(),
    };
    let absolute = std::path::absolute(file).map_err(|error| {
        let message = format!("the path of the file cannot be made absolute: {error}");
        whole(vec![Problem::of_file(file, message)])
    })?;
    let tree = yaml::parse(bytes, file).map_err(whole)?;
    let mut context = Context {
        file,
        base: absolute.parent().unwrap_or(&absolute).to_owned(),
        environment,
        looks: Looks::new(environment.looks_at_repositories()),
        world_readable,
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    let config = config(&tree, absolute, &mut context);
    let warnings = arranged(context.warnings, file);
    match config {
        Some(config) if context.errors.is_empty() => Ok(Loaded { config, warnings }),
        _ => {
            let mut errors = arranged(context.errors, file);
            if errors.is_empty() {
                // Each function reports its errors, so only a bug leads here.
                errors.push(Problem::of_file(file, "is not valid"));
            }
            Err(Problems { errors, warnings })
        }
    }
}

/// The warning that `retention.max_state_size` has no effect with PostgreSQL.
const NO_SIZE: &str = "has no effect with store.postgres; limit the size of the database on its \
                       server, and set retention.pending";

fn config(tree: &Node, file: PathBuf, context: &mut Context<'_>) -> Option<Config> {
    let root = Value {
        node: tree,
        location: Location::root(tree.position),
    };
    let root = root.mapping(context)?;
    let state_dir = repository::state_dir(&root, context);
    let repositories = repository::repositories(&root, state_dir.as_ref(), context);
    let store = store::store(&root, context);
    let roles = store::roles(&root, store.as_ref().is_some_and(Option::is_none), context);
    let organizations = root
        .mapping(context, "organizations")
        .map(|mapping| organizations(&mapping, context));
    let username = root.read(context, "username", |value, context| {
        let items = value.items(context)?;
        all(items.iter().map(|item| username_source(item, context)))
    });
    let webhooks = webhook::webhooks(&root, repositories.as_ref(), context);
    let network = root
        .mapping(context, "network")
        .and_then(|mapping| network::network(&mapping, context));
    let retention_mapping = root.mapping(context, "retention");
    let state_size = retention_mapping
        .as_ref()
        .and_then(|mapping| mapping.given("max_state_size"));
    let retention = retention_mapping.and_then(|mapping| retention(&mapping, context));
    let admin = root.read_optional(context, "admin", |value, context| {
        admin(&value.mapping(context)?, context)
    });
    let otlp = root.read_optional(context, "otlp", otlp);
    let log = root
        .mapping(context, "log")
        .and_then(|mapping| log(&mapping, context));

    let Repositories { several, first } = repositories?;
    let state_dir = state_dir?.path;
    let repository = first?;
    let store = store?.map(|mut store| {
        store.repositories = several.iter().map(Repository::name).collect();
        store.repository = match several.is_empty() {
            true => repository.name(),
            false => Postgres::LIST.to_owned(),
        };
        store
    });
    let mut retention = retention?;
    if store.is_some()
        && let Some(given) = state_size
    {
        context.warning(&given.location, NO_SIZE);
        // Ignore the limit, because the database may also contain data of other programs.
        retention.max_state_size = None;
    }
    Some(Config {
        file,
        repository,
        repositories: several,
        state_dir,
        store,
        roles: roles?,
        naming: Naming {
            organizations: organizations?,
            username: username?,
        },
        webhooks: webhooks?,
        network: network?,
        retention,
        admin: admin?,
        otlp: otlp?,
        log: log?,
    })
}

fn otlp(value: &Value<'_>, context: &mut Context<'_>) -> Option<Otlp> {
    let mapping = value.mapping(context)?;
    let endpoint = mapping.read(context, "endpoint", |value, context| {
        value.parsed(context, webhook::endpoint)
    });
    let headers = mapping.mapping(context, "headers").and_then(|mapping| {
        // A change of these headers needs a restart, so no file is read again.
        headers::headers(&mapping, &mut Vec::new(), context)
    });
    let (endpoint, headers) = (endpoint?, headers?);
    let has_secret = headers.iter().any(|(name, _)| headers::is_secret(name));
    if let Some(given) = mapping.given("endpoint")
        && has_secret
        && webhook::is_open(&endpoint)
    {
        context.warning(&given.location, headers::OPEN_SECRET);
    }
    Some(Otlp { endpoint, headers })
}

fn organizations(
    mapping: &Mapping<'_>,
    context: &mut Context<'_>,
) -> BTreeMap<String, Organization> {
    let mut found = BTreeMap::new();
    for (directory, location, value) in mapping.entries() {
        if directory.is_empty() || directory.contains('/') || directory.starts_with('.') {
            let message = format!("{} is not the name of an organization", shown(directory));
            let allowed = "the name of a directory: one path component without a leading dot";
            context.error(location, Fault::new(message).allowed(allowed));
        }
        let Some(mapping) = value.mapping(context) else {
            continue;
        };
        let mut text = |name| {
            let text = mapping.read_optional(context, name, Value::text)?;
            Some(text.unwrap_or(directory).to_owned())
        };
        if let (Some(name), Some(id)) = (text("name"), text("id")) {
            let given = mapping.given("id");
            let location = given.as_ref().map_or(location, |id| &id.location);
            warn_of_shared_id(directory, &id, location, &found, context);
            let directory = composed(directory).into_owned();
            let message = format!("{} is given twice", shown(&directory));
            if found.insert(directory, Organization { name, id }).is_some() {
                context.error(location, Fault::new(message));
            }
        }
    }
    found
}

/// Warns if one of the `others` has the same id, ignoring case.
fn warn_of_shared_id(
    directory: &str,
    id: &str,
    location: &Location,
    others: &BTreeMap<String, Organization>,
    context: &mut Context<'_>,
) {
    let is_same = |other: &Organization| other.id.to_lowercase() == id.to_lowercase();
    let Some((other, _)) = others.iter().find(|(_, other)| is_same(other)) else {
        return;
    };
    let message = format!(
        "{} and {} have the same id, upper and lower case aside; receivers may be unable to tell the \
         two organizations apart",
        shown(other),
        shown(directory)
    );
    context.warning(location, message);
}

fn username_source(item: &Value<'_>, context: &mut Context<'_>) -> Option<UsernameSource> {
    if matches!(item.node.kind, Kind::Map(_)) {
        // YAML reads `annotation: author`, with a space, as a mapping.
        let message = "must be a string, not a mapping; remove the space after the colon";
        context.error(&item.location, Fault::not_allowed(message));
        return None;
    }
    item.parsed(context, |text| match text.split_once(':') {
        None if text == "owner" => Ok(UsernameSource::Owner),
        None if text == "audit" => Ok(UsernameSource::Audit(DEFAULT_KEY.to_owned())),
        Some(("audit", key)) if is_audit_key(key) => Ok(UsernameSource::Audit(key.to_owned())),
        Some(("annotation", name)) if !name.trim().is_empty() => {
            Ok(UsernameSource::Annotation(name.trim().to_owned()))
        }
        Some(("value", value)) if !value.trim().is_empty() => {
            Ok(UsernameSource::Value(value.trim().to_owned()))
        }
        _ => Err(Fault::not_allowed(format!(
            "unknown source {}",
            shown(text)
        ))),
    })
}

/// Whether a text is a single key of an audit rule.
///
/// auditctl(8) accepts keys of up to 31 characters. A control character separates several keys.
fn is_audit_key(key: &str) -> bool {
    key.len() <= 31 && !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())
}

fn retention(mapping: &Mapping<'_>, context: &mut Context<'_>) -> Option<Retention> {
    let delivered = mapping.read(context, "delivered", Value::duration);
    let dead = mapping.read(context, "dead", Value::duration);
    let pending = mapping.read_optional(context, "pending", Value::duration);
    let max_state_size = mapping.read_optional(context, "max_state_size", Value::size);
    Some(Retention {
        delivered: delivered?,
        dead: dead?,
        pending: pending?,
        max_state_size: max_state_size?,
    })
}

fn admin(mapping: &Mapping<'_>, context: &mut Context<'_>) -> Option<AdminServer> {
    let listen = mapping.read(context, "listen", listen);
    let mode = mapping.read(context, "mode", |value, context| {
        value.parsed(context, |text| {
            let is_octal =
                text.len() <= 4 && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
            match u32::from_str_radix(text, 8) {
                Ok(mode) if is_octal && mode <= 0o777 => Ok(mode),
                _ => Err(Fault::not_allowed(format!("{} is not a mode", shown(text)))),
            }
        })
    });
    let hosts = mapping.read_optional(context, "hosts", |value, context| {
        let items = value.items(context)?;
        all(items.iter().map(|item| item.parsed(context, host_name)))
    });
    if let (Some(Listen::Tcp(_)), Some(value)) = (&listen, mapping.given("mode")) {
        let message = "has no effect, because admin.listen is not a Unix socket";
        context.warning(&value.location, message);
    }
    let token = mapping.read_optional(context, "token", admin_token);
    if let (Some(Listen::Tcp(address)), Some(value)) = (&listen, mapping.given("listen"))
        && !address.ip().is_loopback()
    {
        let message = match &token {
            Some(None) => {
                "other machines can read metrics and health at this address without authentication"
            }
            _ => {
                "other machines can reach this address, and the token crosses the network without \
                 encryption; use a proxy with TLS, or a loopback address"
            }
        };
        context.warning(&value.location, message);
    }
    Some(AdminServer {
        hosts: hosts?.unwrap_or_default(),
        listen: listen?,
        mode: mode?,
        token: token?,
    })
}

/// Reads the token of the admin server, which API clients send in a header.
fn admin_token(value: &Value<'_>, context: &mut Context<'_>) -> Option<AdminToken> {
    let sourced = source::read(value, context)?;
    if sourced.is_plain {
        headers::warn_of_plain_secret(&value.location, context);
    }
    let n_characters = sourced.text.expose_secret().chars().count();
    let fault = if n_characters < TOKEN_MIN {
        Some(Fault::new(format!(
            "the token has {n_characters} characters, but needs at least {TOKEN_MIN}. Make a token \
             with `openssl rand -hex 32`"
        )))
    } else if auth::bearer(&sourced.text).is_none() {
        let fault = Fault::new("the token cannot be sent in a header");
        Some(fault.allowed("visible ASCII characters without spaces"))
    } else {
        None
    };
    context.accept(&value.location, fault.map_or(Ok(()), Err))?;
    Some(AdminToken(sourced.text))
}

fn listen(value: &Value<'_>, context: &mut Context<'_>) -> Option<Listen> {
    let text = value.text(context)?;
    let listen = match text.strip_prefix("unix:") {
        Some(path) => socket(path, context.path(path), &mut context.looks),
        None => text.parse().map(Listen::Tcp).map_err(|_| {
            if let Ok(address) = text.parse::<IpAddr>() {
                let suggestion = SocketAddr::new(address, 9417).to_string();
                let message = format!("{} has no port", shown(text));
                return Fault::not_allowed(message).suggest(Some(suggestion));
            }
            let suggestion = text
                .strip_prefix("localhost:")
                .map(|port| format!("127.0.0.1:{port}"));
            Fault::not_allowed(format!("{} is not an address", shown(text))).suggest(suggestion)
        }),
    };
    context.accept(&value.location, listen)
}

/// Reads a name that requests may have in the header `Host`. A port is an error.
fn host_name(text: &str) -> Result<String, Fault> {
    if !text.contains([':', '/']) && !text.contains(char::is_whitespace) {
        return Ok(text.to_owned());
    }
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
    let name = authority
        .split([':', '/'])
        .next()
        .unwrap_or_default()
        .trim();
    let suggestion = (!name.is_empty()).then(|| name.to_owned());
    Err(Fault::not_allowed(format!("{} is not a host name", shown(text))).suggest(suggestion))
}

fn socket(written: &str, path: PathBuf, looks: &mut Looks) -> Result<Listen, Fault> {
    if written.trim().is_empty() || written.ends_with('/') {
        return Err(Fault::not_allowed("has no file name for the socket"));
    }
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(Fault::new(format!(
            "the path of a socket has at most {SOCKET_PATH_MAX} bytes, but {} has {length}",
            path.display()
        )));
    }
    let is_file = |found: Metadata| !found.file_type().is_socket();
    let found = looks.read(&path, |path| path.symlink_metadata());
    if found.is_ok_and(is_file) {
        let message = format!("{} exists and is not a socket", path.display());
        return Err(Fault::not_allowed(message));
    }
    Ok(Listen::Unix(path))
}

fn log(mapping: &Mapping<'_>, context: &mut Context<'_>) -> Option<Log> {
    let level = mapping.read(context, "level", |value, context| {
        value.word(context, LOG_LEVELS)
    });
    let format = mapping.read(context, "format", |value, context| {
        value.word(
            context,
            LogFormat::ALL.map(|format| (format.as_str(), format)),
        )
    });
    Some(Log {
        level: level?,
        format: format?,
    })
}
