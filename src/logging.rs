//! What is logged, and how.
//!
//! Constraint: one line an event, to standard error; standard output belongs to the commands.

use std::fmt::Debug;
use std::io::IsTerminal;

use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

type Lines = Box<dyn Layer<Filtered> + Send + Sync>;
type Filtered = Layered<reload::Layer<Targets, Registry>, Registry>;

/// Changes what is logged, and how, while the program runs.
pub struct Logging {
    filter: reload::Handle<Targets, Registry>,
    lines: reload::Handle<Lines, Filtered>,
}

impl std::fmt::Debug for Logging {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Logging")
    }
}

impl Logging {
    /// Starts logging. `RUST_LOG` is not read: config.yaml and `--log-level` say what is logged.
    ///
    /// # Errors
    ///
    /// Logging was started before.
    pub fn start(log: Log) -> Result<Self, TryInitError> {
        let (filter, filter_handle) = reload::Layer::new(directives(log.level));
        let (lines, lines_handle) = reload::Layer::new(lines(log.format));
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()?;
        Ok(Self {
            filter: filter_handle,
            lines: lines_handle,
        })
    }

    /// Logs by these settings from now on.
    pub fn change(&self, log: Log) {
        let changed = self
            .filter
            .reload(directives(log.level))
            .and_then(|()| self.lines.reload(lines(log.format)));
        if let Err(error) = changed {
            tracing::error!(%error, "the settings of the log cannot be changed; a restart applies them");
        }
    }
}

fn lines(format: LogFormat) -> Lines {
    let lines = || fmt::layer().with_writer(std::io::stderr).with_target(false);
    let text = || lines().fmt_fields(format::debug_fn(field).delimited(" "));
    let format = match format {
        LogFormat::Auto if is_journal() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        given => given,
    };
    match format {
        LogFormat::Json => lines().json().flatten_event(true).boxed(),
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(journal) => journal.with_field_prefix(None).boxed(),
            // No journal after all: text is better than nothing.
            Err(_) => text().with_ansi(false).boxed(),
        },
        LogFormat::Text | LogFormat::Auto => {
            text().with_ansi(std::io::stderr().is_terminal()).boxed()
        }
    }
}

/// Writes a field of a line of text. A name on disk or in a project.xml may have line breaks and
/// escape sequences of terminals, and must not look like a line of its own.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    if field.name() != "message" {
        write!(writer, "{field}=")?;
    }
    let text = format!("{value:?}");
    if !text.contains(char::is_control) {
        return writer.write_str(&text);
    }
    for character in text.chars() {
        if character.is_control() {
            write!(writer, "{}", character.escape_default())?;
        } else {
            writer.write_char(character)?;
        }
    }
    Ok(())
}

/// Our own lines from this level on, those of libraries only from warnings on: a peer that closes
/// a connection is said by our own line already.
fn directives(level: tracing::Level) -> Targets {
    Targets::new()
        .with_default(LevelFilter::from_level(level.min(tracing::Level::WARN)))
        .with_target(env!("CARGO_CRATE_NAME"), level)
}

/// Whether standard error is the journal's: systemd names its device and inode (systemd.exec(5),
/// JOURNAL_STREAM).
fn is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else {
        return false;
    };
    stream
        .to_str()
        .is_some_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
