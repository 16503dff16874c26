//! From a tree of values to a [`Config`].
//!
//! Constraint: every section is read to its end before anything gives up, so that all errors are
//! listed at once. What a configuration refers to (the repository, secrets, PEM files) is looked
//! at here and nowhere later.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::problem::{Problem, Problems, arranged, shown};
use super::raw::{self, Kind, Node};
use super::section::{Context, Fault, Place, Section};
use super::value::At;
use super::{Config, Listen, Loaded, Log, LogFormat, Retention, network, repository, webhook};
use crate::domain::parameters::{Naming, Organization, UsernameSource};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest path of a Unix socket, in bytes; `sun_path` has 108 on Linux, 104 on macOS, and
/// ends in a zero.
const SOCKET_PATH_MAX: usize = 103;

/// A configuration from the bytes of `file`.
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
        let message = format!("its place cannot be told: {error}");
        whole(vec![Problem::of_file(file, message)])
    })?;
    let tree = raw::parse(bytes, file).map_err(whole)?;
    let mut context = Context {
        file,
        base: absolute.parent().unwrap_or(&absolute).to_owned(),
        environment,
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
                // Every reader that gives up reports why; this is the line for the day one forgets.
                errors.push(Problem::of_file(file, "is not valid"));
            }
            Err(Problems { errors, warnings })
        }
    }
}

fn config(tree: &Node, file: PathBuf, context: &mut Context<'_>) -> Option<Config> {
    let root = At {
        node: tree,
        place: Place {
            mark: tree.mark,
            key: String::new(),
        },
    };
    if root.is_null() {
        let message = "is empty; the least it needs is repository: { path: DIRECTORY }";
        context.errors.push(Problem::of_file(context.file, message));
        return None;
    }
    let mut section = root.section(context)?;
    let repository = section
        .require(
            context,
            "repository",
            "a mapping with at least path: DIRECTORY",
        )
        .and_then(|at| repository::repository(&at, context));
    let state_at = section.take("state_dir");
    let state_place = state_at
        .as_ref()
        .map_or_else(|| section.place.below("state_dir"), |at| at.place.clone());
    let state_dir = repository::state_dir(state_at, context);
    let organizations = section.section(context, "organizations");
    let organizations = organizations.map(|section| self::organizations(section, context));
    let username = match section.take("username") {
        Some(at) => username(&at, context),
        None => Some(vec![UsernameSource::Owner]),
    };
    let webhooks = section.take("webhooks");
    let webhooks = webhook::webhooks(webhooks, &section.place, context);
    let network = section
        .section(context, "network")
        .and_then(|section| network::network(section, context));
    let retention = section
        .section(context, "retention")
        .and_then(|section| retention(section, context));
    let admin = section.take("admin").map(|at| admin(&at, context));
    let log = section
        .section(context, "log")
        .and_then(|section| log(section, context));
    section.finish(context);

    let repository = repository?;
    let state_dir = state_dir?;
    repository::apart(&repository.path, &state_dir, &state_place, context);
    Some(Config {
        file,
        repository,
        state_dir,
        naming: Naming {
            organizations: organizations?,
            username: username?,
        },
        webhooks: webhooks?,
        network: network?,
        retention: retention?,
        admin: match admin {
            None => None,
            Some(listen) => Some(listen?),
        },
        log: log?,
    })
}

fn organizations(
    section: Section<'_>,
    context: &mut Context<'_>,
) -> std::collections::BTreeMap<String, Organization> {
    let mut found = std::collections::BTreeMap::new();
    for (directory, place, at) in section.names() {
        if directory.is_empty() || directory.contains('/') || directory.starts_with('.') {
            let message = format!("{} is not the name of an organization", shown(directory));
            let allowed = "the name of a directory: one path component without a leading dot";
            context.error(&place, Fault::new(message).allowed(allowed));
        }
        let Some(mut section) = at.section(context) else {
            continue;
        };
        let mut text = |name: &'static str, context: &mut Context<'_>| match section.take(name) {
            Some(at) => at.text(context).map(str::to_owned),
            None => Some(directory.to_owned()),
        };
        let name = text("name", context);
        let id = text("id", context);
        section.finish(context);
        if let (Some(name), Some(id)) = (name, id) {
            found.insert(directory.to_owned(), Organization { name, id });
        }
    }
    found
}

fn username(at: &At<'_>, context: &mut Context<'_>) -> Option<Vec<UsernameSource>> {
    const ALLOWED: &str = "owner, annotation:NAME, value:TEXT, or a list of them";
    let items = at.one_or_many();
    if items.is_empty() {
        context.error(&at.place, Fault::new("is empty").allowed(ALLOWED));
        return None;
    }
    let sources: Vec<Option<UsernameSource>> = items
        .iter()
        .map(|item| {
            if matches!(item.node.kind, Kind::Map(_)) {
                // `annotation: author` with a space is a mapping to YAML.
                let fault = Fault::new("must be a text, not a mapping; leave out the space")
                    .allowed(ALLOWED);
                context.error(&item.place, fault);
                return None;
            }
            let text = item.text(context)?;
            let source = match text.split_once(':') {
                None if text == "owner" => Some(UsernameSource::Owner),
                Some(("annotation", name)) if !name.trim().is_empty() => {
                    Some(UsernameSource::Annotation(name.trim().to_owned()))
                }
                Some(("value", value)) if !value.trim().is_empty() => {
                    Some(UsernameSource::Value(value.trim().to_owned()))
                }
                _ => None,
            };
            if source.is_none() {
                let fault = Fault::new(format!("unknown source {}", shown(text))).allowed(ALLOWED);
                context.error(&item.place, fault);
            }
            source
        })
        .collect();
    sources.into_iter().collect()
}

fn retention(mut section: Section<'_>, context: &mut Context<'_>) -> Option<Retention> {
    let bounds = Duration::ZERO..=3650 * DAY;
    let delivered = section.duration(context, "delivered", 7 * DAY, bounds.clone());
    let dead = section.duration(context, "dead", 30 * DAY, bounds);
    section.finish(context);
    Some(Retention {
        delivered: delivered?,
        dead: dead?,
    })
}

fn admin(at: &At<'_>, context: &mut Context<'_>) -> Option<Listen> {
    const ALLOWED: &str = "ADDRESS:PORT such as 127.0.0.1:9417 or [::1]:9417, or unix:PATH";
    let mut section = at.section(context)?;
    let listen = section.require(context, "listen", ALLOWED);
    section.finish(context);
    let at = listen?;
    let text = at.text(context)?;
    if let Some(path) = text.strip_prefix("unix:") {
        let absolute = context.path(path);
        if path.trim().is_empty() || path.ends_with('/') {
            context.error(&at.place, Fault::new("names no socket").allowed(ALLOWED));
            return None;
        }
        let length = absolute.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            let message = format!(
                "the path of a socket has at most {SOCKET_PATH_MAX} bytes, and {} has {length}",
                absolute.display()
            );
            context.error(&at.place, message);
            return None;
        }
        return Some(Listen::Unix(absolute));
    }
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) => {
            if !address.ip().is_loopback() {
                context.warning(
                    &at.place,
                    "metrics and health are served without authentication, beyond this machine",
                );
            }
            Some(Listen::Tcp(address))
        }
        Err(_) => {
            let suggestion = text
                .strip_prefix("localhost:")
                .map(|port| format!("127.0.0.1:{port}"));
            let fault = Fault::new(format!("{} is not an address", shown(text)))
                .allowed(ALLOWED)
                .suggest(suggestion);
            context.error(&at.place, fault);
            None
        }
    }
}

fn log(mut section: Section<'_>, context: &mut Context<'_>) -> Option<Log> {
    let level = section.choice(
        context,
        "level",
        tracing::Level::INFO,
        &[
            ("error", tracing::Level::ERROR),
            ("warn", tracing::Level::WARN),
            ("info", tracing::Level::INFO),
            ("debug", tracing::Level::DEBUG),
            ("trace", tracing::Level::TRACE),
        ],
    );
    let format = section.choice(
        context,
        "format",
        LogFormat::Auto,
        &[
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
            ("journald", LogFormat::Journald),
        ],
    );
    section.finish(context);
    Some(Log {
        level: level?,
        format: format?,
    })
}
