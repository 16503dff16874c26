//! Traces each event from the change of a file to the answer of a receiver.
//!
//! Constraint: tracing never delays an event. Spans go into a bounded channel to the thread of
//! [`export`], which sends them to an OpenTelemetry collector. If the channel is full, spans are
//! dropped and counted.
//!
//! The ids of a trace and of its spans are derived from the id of the event. So all attempts to
//! deliver an event belong to one trace, even after a restart or on another machine. No id has to
//! be stored.

mod export;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use jiff::Timestamp;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;

pub(crate) use self::export::{Counter, Exporter};
use crate::clock::Clock;
use crate::domain::event::{Event, EventId};

/// The capacity of the channel to the thread of [`export`], in spans.
const WAITING_MAX: usize = 1_024;

/// The maximum number of remembered steps, see [`Step`].
///
/// The time of a step is the start of a span `queue`.
const STEPS_MAX: usize = 4_096;

/// The name and the version of the program in traces.
const SCOPE: (&str, &str) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// An attempt that ended with an answer or a failure.
pub(crate) struct EndedAttempt<'a> {
    pub(crate) webhook: &'a str,
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<&'a str>,
    /// Whether the attempt failed, so that another attempt may follow.
    pub(crate) has_failed: bool,
}

/// Identifies the span of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct AttemptSpan {
    event: EventId,
    delivery: i64,
    number: u32,
}

impl AttemptSpan {
    pub(crate) fn of(event: &EventId, delivery: i64, number: u32) -> Self {
        Self {
            event: event.clone(),
            delivery,
            number,
        }
    }

    /// Returns the header `traceparent`, with which a receiver can continue the trace.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", trace_of(&self.event), self.id())
    }

    fn id(&self) -> SpanId {
        self.derived("attempt")
    }

    fn derived(&self, what: &str) -> SpanId {
        let (delivery, number) = (self.delivery, self.number);
        span_of(&self.event, &format!("{what} {delivery} {number}"))
    }
}

/// Makes the spans of events and attempts, and adds them to the channel.
#[derive(Debug)]
pub(crate) struct Traces {
    clock: Clock,
    spans: mpsc::Sender<SpanData>,
    counter: Counter,
    steps: Mutex<Steps>,
}

impl Traces {
    fn new(clock: Clock, counter: Counter) -> (Arc<Self>, mpsc::Receiver<SpanData>) {
        let (spans, receiver) = mpsc::channel(WAITING_MAX);
        let traces = Self {
            clock,
            spans,
            counter,
            steps: Mutex::default(),
        };
        (Arc::new(traces), receiver)
    }

    /// Traces an event that was just committed. Its project was due at `due`.
    pub(crate) fn recorded(&self, id: &EventId, event: &Event, due: Timestamp) {
        let now = self.clock.now();
        // The time of a file may be in the future.
        let changed = event.occurred_at.min(due);
        self.steps().note((id.clone(), None), now);
        let mut change = span(id, span_of(id, CHANGE), event.kind.as_str(), changed, now);
        change.parent_span_id = SpanId::INVALID;
        change.attributes = vec![
            KeyValue::new("event.id", id.0.clone()),
            KeyValue::new("event.project", event.key.to_string()),
            KeyValue::new("event.origin", event.origin.as_str()),
            KeyValue::new("event.hint", event.explanation.hint.clone()),
        ];
        self.send(change);
        let step = |name, start, end| span(id, span_of(id, name), name, start, end);
        self.send(step("settle", changed, due));
        self.send(step("record", due, now));
    }

    /// Traces an attempt, and how long its delivery waited before it.
    pub(crate) fn attempted(&self, of: &AttemptSpan, attempt: &EndedAttempt<'_>) {
        let id = &of.event;
        let key = (id.clone(), Some(of.delivery));
        let waited_since = {
            let mut steps = self.steps();
            let last = steps.take(&key);
            if attempt.has_failed {
                steps.note(key, attempt.ended);
            }
            // The step may be of another process or an earlier run. Then its time is unknown.
            let recorded = || steps.times.get(&(id.clone(), None)).copied();
            last.or_else(|| recorded().filter(|_| of.number == 1))
        };
        let attributes = [
            KeyValue::new("webhook", attempt.webhook.to_owned()),
            KeyValue::new("webhook.attempt", i64::from(of.number)),
        ];
        if let Some(since) = waited_since {
            let since = since.min(attempt.began);
            let mut waited = span(id, of.derived("queue"), "queue", since, attempt.began);
            waited.attributes = attributes.to_vec();
            self.send(waited);
        }
        let mut sent = span(id, of.id(), "attempt", attempt.began, attempt.ended);
        sent.span_kind = SpanKind::Client;
        sent.attributes = attributes.to_vec();
        if let Some(status) = attempt.status {
            let status = KeyValue::new("http.response.status_code", i64::from(status));
            sent.attributes.push(status);
        }
        if let Some(error) = attempt.error {
            sent.status = Status::error(error.to_owned());
        }
        self.send(sent);
    }

    fn send(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.counter.dropped(1);
        }
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step after which a delivery waits for its attempt.
///
/// `None`: the recording of the event. `Some`: the last failed attempt of this delivery.
type Step = (EventId, Option<i64>);

/// The times of the last [`STEPS_MAX`] steps.
#[derive(Debug, Default)]
struct Steps {
    times: HashMap<Step, Timestamp>,
    /// The oldest first. Also contains removed steps, and old times of repeated steps.
    order: VecDeque<(Step, Timestamp)>,
}

impl Steps {
    fn note(&mut self, step: Step, at: Timestamp) {
        self.order.push_back((step.clone(), at));
        self.times.insert(step, at);
        if self.order.len() > STEPS_MAX
            && let Some((oldest, at)) = self.order.pop_front()
            && self.times.get(&oldest) == Some(&at)
        {
            self.times.remove(&oldest);
        }
    }

    fn take(&mut self, step: &Step) -> Option<Timestamp> {
        self.times.remove(step)
    }
}

/// Identifies the root span, from the change of a file to the record of its event.
const CHANGE: &str = "change";

/// Makes a span of an event. Its parent is the root span.
fn span(
    event: &EventId,
    id: SpanId,
    name: &'static str,
    start: Timestamp,
    end: Timestamp,
) -> SpanData {
    let (trace, is_remote) = (trace_of(event), false);
    let (flags, state) = (TraceFlags::SAMPLED, TraceState::NONE);
    let (scope, version) = SCOPE;
    SpanData {
        span_context: SpanContext::new(trace, id, flags, is_remote, state),
        parent_span_id: span_of(event, CHANGE),
        parent_span_is_remote: is_remote,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: system_time(start),
        end_time: system_time(end.max(start)),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder(scope)
            .with_version(version)
            .build(),
    }
}

/// Converts a time. This succeeds for every time that the clock returns.
fn system_time(at: Timestamp) -> SystemTime {
    at.try_into().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The id of an event's trace.
///
/// These are the 32 hexadecimal digits in the event's id. If the event's id has no such digits, or
/// only zeros, the trace id is a hash of the event's id.
fn trace_of(event: &EventId) -> TraceId {
    let digits = event.0.strip_prefix("evt_").unwrap_or_default();
    match TraceId::from_hex(digits) {
        Ok(id) if digits.len() == 32 && id != TraceId::INVALID => id,
        _ => TraceId::from_bytes(hash(&event.0)),
    }
}

/// The id of the span `what` in an event's trace.
fn span_of(event: &EventId, what: &str) -> SpanId {
    SpanId::from_bytes(hash(&format!("{event} {what}")))
}

fn hash<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(text.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}
