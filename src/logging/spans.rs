//! Stores the fields of spans.
//!
//! Constraint: a reload can change the log's format while an engine stays in its span. A layer of
//! `tracing_subscriber` formats the fields of a span only when the span begins, and the JSON layer
//! panics if they are missing. So [`SpanLayer`], which no reload replaces, stores them for every
//! format.

use std::fmt::Debug;

use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::fmt::{FormatFields, FormattedFields};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::text_fields;

/// A layer that stores the fields of each new span for every format.
pub(super) struct SpanLayer;

/// The fields of a span for the journal, such as the repository of an engine.
pub(super) struct SpanFields(pub(super) Vec<(&'static str, String)>);

impl Visit for SpanFields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = SpanFields(Vec::new());
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            let mut extensions = span.extensions_mut();
            extensions.insert(fields);
            // The layers of text and JSON find these, and do not format the fields again.
            extensions.insert(formatted(&text_fields(), attributes));
            extensions.insert(formatted(&JsonFields::new(), attributes));
        }
    }
}

/// Formats the fields of a span as the log layer with this `format` does.
fn formatted<F>(format: &F, attributes: &Attributes<'_>) -> FormattedFields<F>
where
    F: for<'writer> FormatFields<'writer>,
{
    let mut fields = FormattedFields::<F>::new(String::new());
    // Writing to a string does not fail.
    let _ = format.format_fields(fields.as_writer(), attributes);
    fields
}
