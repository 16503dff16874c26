//! Sends log entries with fields to journald, in journald's own protocol.
//!
//! Constraint: journald may hang. So other threads only copy the fields, and the log's thread
//! sends them.

use std::fmt::{self, Debug};
use std::io;
use std::sync::Arc;

use log::Record;
use systemd_journal_logger::{JournalLog, current_exe_identifier};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::queue::{Item, Queue};
use super::spans::SpanFields;

/// A layer that queues a journal entry for each log event.
pub(super) struct Journal {
    log: Arc<JournalLog>,
    queue: Queue,
}

impl Journal {
    /// Connects to the journal.
    ///
    /// # Errors
    ///
    /// Nothing listens at journald's socket.
    pub(super) fn open(queue: Queue) -> io::Result<Self> {
        let name = current_exe_identifier().unwrap_or_default();
        let log = JournalLog::empty()?.with_syslog_identifier(name);
        Ok(Self {
            log: Arc::new(log),
            queue,
        })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut entry = JournalEntry {
            log: Arc::clone(&self.log),
            level: match *metadata.level() {
                Level::ERROR => log::Level::Error,
                Level::WARN => log::Level::Warn,
                Level::INFO => log::Level::Info,
                Level::DEBUG => log::Level::Debug,
                Level::TRACE => log::Level::Trace,
            },
            target: metadata.target(),
            file: metadata.file(),
            line: metadata.line(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut entry);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                entry.fields.extend(fields.iter().cloned());
            }
        }
        self.queue.add(Item::Journal(Box::new(entry)));
    }
}

pub(super) struct JournalEntry {
    log: Arc<JournalLog>,
    level: log::Level,
    target: &'static str,
    file: Option<&'static str>,
    line: Option<u32>,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl JournalEntry {
    pub(super) fn size(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| {
            let field = size_of::<(&str, String)>();
            field.saturating_add(name.len()).saturating_add(value.len())
        });
        let fields = fields.fold(self.message.len(), usize::saturating_add);
        fields.saturating_add(size_of::<Self>())
    }

    /// Sends the entry. Waits while journald's socket is full.
    pub(super) fn send(&self) -> io::Result<()> {
        let fields = self.fields.iter();
        let fields: Vec<_> = fields.map(|(name, text)| (*name, text.as_str())).collect();
        self.log.journal_send(
            &Record::builder()
                .level(self.level)
                .target(self.target)
                .file_static(self.file)
                .line(self.line)
                .key_values(&fields)
                .args(format_args!("{}", self.message))
                .build(),
        )
    }

    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.fields.push((name, value)),
        }
    }
}

impl Visit for JournalEntry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, fmt::format(format_args!("{value:?}")));
    }
}
