//! What is logged, and how.
//!
//! Constraint: one line an event, to standard error; standard output belongs to the commands.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Changes what is logged while the program runs.
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
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
        let (filter, handle) = reload::Layer::new(directives(log.level));
        let registry = tracing_subscriber::registry().with(filter);
        let text = || fmt::layer().with_writer(std::io::stderr).with_target(false);
        let format = match log.format {
            LogFormat::Auto if is_journal() => LogFormat::Journald,
            LogFormat::Auto => LogFormat::Text,
            given => given,
        };
        let layer: Box<dyn Layer<_> + Send + Sync> = match format {
            LogFormat::Json => text().json().flatten_event(true).boxed(),
            LogFormat::Journald => match tracing_journald::layer() {
                Ok(journal) => journal.with_field_prefix(None).boxed(),
                // No journal after all: text is better than nothing.
                Err(_) => text().with_ansi(false).boxed(),
            },
            LogFormat::Text | LogFormat::Auto => {
                text().with_ansi(std::io::stderr().is_terminal()).boxed()
            }
        };
        registry.with(layer).try_init()?;
        Ok(Self { filter: handle })
    }

    /// Changes the level.
    pub fn set_level(&self, level: tracing::Level) {
        if let Err(error) = self.filter.reload(directives(level)) {
            tracing::error!(%error, "the log level cannot be changed");
        }
    }
}

/// Our own lines from this level on, those of libraries only from warnings on: a peer that closes
/// a connection is said by our own line already.
fn directives(level: tracing::Level) -> EnvFilter {
    let libraries = LevelFilter::from_level(level.min(tracing::Level::WARN));
    let ours = format!("project_webhooks={level}");
    let filter = EnvFilter::default().add_directive(libraries.into());
    match ours.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
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
