//! Traces: the way of each event from the change of a file to the answer of a receiver, for a collector
//! of OpenTelemetry.
//!
//! Constraint: tracing never delays an event. Spans go into a bounded channel, and are dropped and
//! counted if it is full. Only the thread of [`export`] waits for the collector.
//!
//! The id of a trace is that of its event, and the ids of its spans are derived from it. So all attempts
//! of all webhooks belong to one trace, over restarts and on several machines, and nothing is stored.

mod export;
mod json;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::mpsc;

pub(crate) use self::export::{Counter, Exporter};
use crate::clock::Clock;
use crate::domain::event::{Event, EventId};

/// The number of spans that wait for the collector. Further ones are dropped.
const WAITING_MAX: usize = 1_024;

/// The number of deliveries whose last step is remembered, for the spans of their waiting.
const STEPS_MAX: usize = 4_096;

/// One span.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    trace: String,
    id: String,
    /// The span of the change, unless this is it.
    parent: Option<String>,
    name: &'static str,
    /// Whether the span is a request to another program.
    is_request: bool,
    start: Timestamp,
    end: Timestamp,
    attributes: Vec<(&'static str, Attribute)>,
    error: Option<String>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attribute {
    Text(String),
    Number(u32),
}

/// The attempt that an answer or a failure ended.
pub(crate) struct EndedAttempt<'a> {
    pub(crate) webhook: &'a str,
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<&'a str>,
    /// Whether another attempt may follow.
    pub(crate) has_failed: bool,
}

/// The place of an attempt in its trace.
#[derive(Clone, Debug)]
pub(crate) struct AttemptSpan {
    event: EventId,
    delivery: i64,
    number: u32,
}

impl AttemptSpan {
    /// The span of this attempt of a delivery.
    pub(crate) fn of(event: &EventId, delivery: i64, number: u32) -> Self {
        Self {
            event: event.clone(),
            delivery,
            number,
        }
    }

    /// The value of the header `traceparent`, by which a receiver continues the trace.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", trace_of(&self.event), self.id())
    }

    fn id(&self) -> String {
        self.derived("attempt")
    }

    fn derived(&self, what: &str) -> String {
        let (delivery, number) = (self.delivery, self.number);
        span_of(&self.event, &format!("{what} {delivery} {number}"))
    }
}

/// Takes the spans of the engine and of the queues.
#[derive(Debug)]
pub(crate) struct Traces {
    clock: Clock,
    spans: mpsc::Sender<Span>,
    counter: Counter,
    steps: Mutex<Steps>,
}

impl Traces {
    fn new(clock: Clock, counter: Counter) -> (Arc<Self>, mpsc::Receiver<Span>) {
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
        let (trace, root) = (trace_of(id), span_of(id, "change"));
        let span = |name, start, end| Span {
            trace: trace.clone(),
            id: span_of(id, name),
            parent: Some(root.clone()),
            name,
            is_request: false,
            start,
            end,
            attributes: Vec::new(),
            error: None,
        };
        self.steps().note((id.clone(), None), now);
        let text = |text: &str| Attribute::Text(text.to_owned());
        self.send(Span {
            id: root.clone(),
            parent: None,
            attributes: vec![
                ("event.id", text(&id.0)),
                ("event.project", Attribute::Text(event.key.to_string())),
                ("event.origin", text(event.origin.as_str())),
                ("event.hint", text(&event.explanation.hint)),
            ],
            ..span(event.kind.as_str(), changed, now)
        });
        self.send(span("settle", changed, due));
        self.send(span("record", due, now));
    }

    /// Traces an attempt, and the time that its delivery waited before.
    pub(crate) fn attempted(&self, span: &AttemptSpan, attempt: &EndedAttempt<'_>) {
        let id = &span.event;
        let key = (id.clone(), Some(span.delivery));
        let waited_since = {
            let mut steps = self.steps();
            let last = steps.take(&key);
            if attempt.has_failed {
                steps.note(key, attempt.ended);
            }
            // A delivery that this process did not see before has no known time.
            let recorded = || steps.times.get(&(id.clone(), None)).copied();
            last.or_else(|| recorded().filter(|_| span.number == 1))
        };
        let attributes = vec![
            ("webhook", Attribute::Text(attempt.webhook.to_owned())),
            ("webhook.attempt", Attribute::Number(span.number)),
        ];
        let of = |name, span_id, start, end| Span {
            trace: trace_of(id),
            id: span_id,
            parent: Some(span_of(id, "change")),
            name,
            is_request: false,
            start,
            end,
            attributes: attributes.clone(),
            error: None,
        };
        if let Some(since) = waited_since {
            let since = since.min(attempt.began);
            self.send(of("queue", span.derived("queue"), since, attempt.began));
        }
        let mut sent = of("attempt", span.id(), attempt.began, attempt.ended);
        sent.is_request = true;
        sent.error = attempt.error.map(str::to_owned);
        if let Some(status) = attempt.status {
            let status = Attribute::Number(status.into());
            sent.attributes.push(("http.response.status_code", status));
        }
        self.send(sent);
    }

    fn send(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.counter.dropped(1);
        }
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event, and a delivery of it once it was attempted.
type Step = (EventId, Option<i64>);

/// The times of the last steps, the newest [`STEPS_MAX`] of them.
#[derive(Debug, Default)]
struct Steps {
    times: HashMap<Step, Timestamp>,
    order: VecDeque<Step>,
}

impl Steps {
    fn note(&mut self, step: Step, at: Timestamp) {
        self.order.push_back(step.clone());
        self.times.insert(step, at);
        if self.order.len() > STEPS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.times.remove(&oldest);
        }
    }

    fn take(&mut self, step: &Step) -> Option<Timestamp> {
        self.times.remove(step)
    }
}

/// The id of an event's trace: 32 hexadecimal digits.
fn trace_of(event: &EventId) -> String {
    let digits = event.0.strip_prefix("evt_").unwrap_or_default();
    let is_id = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id && digits.bytes().any(|byte| byte != b'0') {
        return digits.to_owned();
    }
    hash(&event.0, 32)
}

/// The id of a span of an event's trace: 16 hexadecimal digits.
fn span_of(event: &EventId, what: &str) -> String {
    hash(&format!("{event} {what}"), 16)
}

fn hash(text: &str, n_digits: usize) -> String {
    let hex = blake3::hash(text.as_bytes()).to_hex();
    hex.chars().take(n_digits).collect()
}
