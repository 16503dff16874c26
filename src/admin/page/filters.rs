//! The forms that select events and deliveries, and the forms that confirm changes.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::admin::error::ApiError;
use crate::admin::routes::Server;
use crate::domain::event::EventKind;

/// Returns the trimmed text of a filter, or `None` if the field is empty.
pub(super) fn given(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Makes a text field with its label, value and placeholder.
pub(super) fn field(name: &str, label: &str, chosen: &str, example: &str) -> Markup {
    html! {
        label { (label)
            input name=(name) value=(chosen) placeholder=(example) autocomplete="off";
        }
    }
}

/// Makes the fields for a project and a time range.
///
/// `since` and `until` are pairs of a label and a value.
pub(super) fn project_and_times(project: &str, since: (&str, &str), until: (&str, &str)) -> Markup {
    html! {
        (field("project", "Project", project, "organization/project"))
        (field("since", since.0, since.1, "2h, 7d or 2026-01-31"))
        (field("until", until.0, until.1, "1h or 2026-01-31 12:00"))
    }
}

/// A list of choices. The first choice has no value, and shows the text `empty`.
pub(super) struct Choice<'a> {
    pub(super) name: &'a str,
    pub(super) label: &'a str,
    pub(super) empty: &'a str,
    pub(super) is_required: bool,
}

impl Choice<'_> {
    pub(super) fn of<S: AsRef<str>>(&self, chosen: &str, choices: &[S]) -> Markup {
        // A link may choose a webhook that is no longer configured.
        let is_known = chosen.is_empty() || choices.iter().any(|choice| choice.as_ref() == chosen);
        html! {
            label { (self.label)
                select name=(self.name) required[self.is_required] {
                    option value="" { (self.empty) }
                    @if !is_known { option selected { (chosen) } }
                    @for choice in choices.iter().map(AsRef::as_ref) {
                        option value=(choice) selected[choice == chosen] { (choice) }
                    }
                }
            }
        }
    }
}

/// Makes a list of choices for a filter. The first choice is `all`.
pub(super) fn select<S: AsRef<str>>(
    name: &str,
    label: &str,
    chosen: &str,
    choices: &[S],
) -> Markup {
    let choice = Choice {
        name,
        label,
        empty: "all",
        is_required: false,
    };
    choice.of(chosen, choices)
}

pub(super) fn event_choice(chosen: &str) -> Markup {
    let events = EventKind::ALL.map(EventKind::as_str);
    select("event", "Event", chosen, &events)
}

/// Returns the names of the configured webhooks.
pub(super) fn webhook_names(server: &Server) -> Vec<String> {
    let config = server.admin.sources.config();
    let webhooks = config.webhooks.iter();
    webhooks.map(|webhook| webhook.name().to_owned()).collect()
}

/// Makes the form that confirms a change of `expected` items.
///
/// `fields` are the hidden fields that select the items.
pub(super) fn confirmation(
    action: &str,
    button: &str,
    expected: u64,
    fields: &[(&str, &str)],
) -> Markup {
    html! {
        form method="post" action=(action) {
            input type="hidden" name="expected" value=(expected);
            @for (name, value) in fields {
                input type="hidden" name=(name) value=(value);
            }
            button.main type="submit" { (button) " " (expected) }
        }
    }
}

/// The fields of a posted form.
pub(super) struct Posted(BTreeMap<String, String>);

impl Posted {
    pub(super) fn read(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    /// Takes the value of a field. A missing field has an empty value.
    pub(super) fn take(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }

    /// Takes the number of items that the form showed.
    pub(super) fn expected(&mut self) -> Result<u64, ApiError> {
        let expected = self.take("expected").parse();
        expected.map_err(|_| ApiError::invalid("the form does not contain the number of items"))
    }
}
