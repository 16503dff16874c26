//! Sets the level, format and destination of the log.
//!
//! Constraint: each log event is one line of the log, or one entry of the journal. Standard output
//! is only for commands. Only the thread of [`queue`] waits for the reader of the log, except that
//! a flush waits at most one second. [`journal`] makes the entries for journald. [`spans`] keeps the
//! fields of spans when the format changes.

mod journal;
mod queue;
mod spans;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

use journal::Journal;
pub(crate) use queue::{DroppedLines, LogWriter};
use spans::SpanLayer;

type Lines = Box<dyn Layer<WithSpans> + Send + Sync>;
type WithSpans = Layered<SpanLayer, Filtered>;
type Filtered = Layered<reload::Layer<Targets, Registry>, Registry>;

/// The running log. Its level and format can change.
pub(crate) struct Logging {
    filter: reload::Handle<Targets, Registry>,
    lines: reload::Handle<Lines, WithSpans>,
    writer: Arc<LogWriter>,
}

impl std::fmt::Debug for Logging {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Logging")
    }
}

impl Logging {
    /// Starts logging to `writer`. Panics are logged too.
    ///
    /// `RUST_LOG` has no effect. config.yaml and `--log-level` set the level.
    ///
    /// # Errors
    ///
    /// Logging is already started.
    pub(crate) fn start(log: Log, writer: Arc<LogWriter>) -> io::Result<Self> {
        let (filter, filter_handle) = reload::Layer::new(directives(log.level));
        let (lines, fallback) = lines(log.format, &writer);
        let (lines, lines_handle) = reload::Layer::new(lines);
        tracing_subscriber::registry()
            .with(filter)
            .with(SpanLayer)
            .with(lines)
            .try_init()
            .map_err(io::Error::other)?;
        // The default hook would write to standard error and wait for its reader.
        std::panic::set_hook(Box::new(|panic| {
            let backtrace = Backtrace::capture();
            let is_captured = backtrace.status() == BacktraceStatus::Captured;
            let backtrace = is_captured.then(|| tracing::field::display(backtrace));
            tracing::error!(backtrace, "{panic}");
        }));
        warn_of(fallback.as_ref());
        Ok(Self {
            filter: filter_handle,
            lines: lines_handle,
            writer,
        })
    }

    /// Switches to these settings.
    pub(crate) fn change(&self, log: Log) {
        let (lines, fallback) = lines(log.format, &self.writer);
        let changed = self
            .filter
            .reload(directives(log.level))
            .and_then(|()| self.lines.reload(lines));
        warn_of(fallback.as_ref());
        if let Err(error) = changed {
            tracing::error!(%error, "cannot change the log settings; restart to apply them");
        }
    }

    pub(crate) fn dropped(&self) -> DroppedLines {
        self.writer.dropped()
    }

    /// Waits until all lines are written, but at most one second.
    pub(crate) fn flush(&self) {
        self.writer.flush();
    }

    /// Whether the thread that writes the lines is running.
    pub(crate) fn is_running(&self) -> bool {
        self.writer.is_running()
    }
}

/// Warns that the log is text because `log.format: journald` cannot be used.
fn warn_of(fallback: Option<&io::Error>) {
    if let Some(error) = fallback {
        tracing::warn!(%error, "cannot reach journald (log.format); logging text to standard error");
    }
}

/// Makes the layer of a format, or of text if journald is unavailable.
///
/// If the setting is `journald`, also returns the error of an unavailable journald.
fn lines(format: LogFormat, writer: &LogWriter) -> (Lines, Option<io::Error>) {
    let is_given = format == LogFormat::Journald;
    let queue = writer.queue();
    let lines = || {
        let queue = queue.clone();
        fmt::layer()
            .with_writer(move || queue.clone())
            .with_target(false)
    };
    let text = || lines().fmt_fields(text_fields());
    let format = match format {
        LogFormat::Auto if is_journal() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        given => given,
    };
    let layer = match format {
        LogFormat::Json => lines().json().flatten_event(true).boxed(),
        LogFormat::Journald => match Journal::open(queue.clone()) {
            Ok(journal) => journal.boxed(),
            Err(error) => {
                return (text().with_ansi(false).boxed(), is_given.then_some(error));
            }
        },
        LogFormat::Text | LogFormat::Auto => text().with_ansi(writer.is_terminal()).boxed(),
    };
    (layer, None)
}

/// Returns the format of the fields of text lines and of their spans.
fn text_fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    format::debug_fn(field).delimited(" ")
}

/// Writes a field of a text line. Escapes control characters.
///
/// A file name or a name in a project.xml may contain line breaks and terminal escape sequences.
/// Such a name must not forge a log line.
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

/// Returns the log filter: `level` for this program, and less for libraries.
///
/// Libraries log at most warnings and errors. Their less severe lines repeat lines of this program,
/// for example when a peer closes a connection. The PostgreSQL client logs nothing, because each
/// operation returns its error.
fn directives(level: tracing::Level) -> Targets {
    Targets::new()
        .with_default(LevelFilter::from_level(level.min(tracing::Level::WARN)))
        .with_targets(
            ["tokio_postgres", "deadpool", "deadpool_postgres"]
                .map(|name| (name, LevelFilter::OFF)),
        )
        .with_target(env!("CARGO_CRATE_NAME"), level)
}

/// Whether standard error goes to the journal.
///
/// If so, systemd sets `JOURNAL_STREAM` to the device and inode of the stream (systemd.exec(5)).
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::directives;

    #[test]
    fn only_this_program_reports_errors_of_postgresql() {
        let filter = directives(Level::TRACE);
        for target in [
            "tokio_postgres::connection",
            "deadpool_postgres",
            "deadpool",
        ] {
            assert!(!filter.would_enable(target, &Level::ERROR), "{target}");
        }
        assert!(filter.would_enable("hyper", &Level::WARN));
        assert!(filter.would_enable("project_webhooks::store", &Level::TRACE));
    }
}
