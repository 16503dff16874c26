//! Translates selectors to conditions in SQL.

use rusqlite::types::Value;

use super::row;
use crate::domain::delivery::State;
use crate::domain::project::organizations_of;
use crate::store::listing::Organizations;
use crate::store::{EventFilter, Selector};

impl EventFilter {
    /// Returns the conditions on the table `events` with the alias `e`.
    pub(super) fn conditions(&self) -> Conditions {
        let mut conditions = Conditions::default();
        if let Some(organization) = &self.organization {
            conditions.and_organization(
                organization,
                [
                    "e.organization = ?",
                    "(e.organization >= ? AND e.organization < ?)",
                    "substr(e.organization, -length(?)) = ?",
                ],
            );
        }
        if let Some(project) = &self.project {
            conditions.and("e.project = ?", project.clone());
        }
        if let Some(kind) = self.kind {
            conditions.and("e.kind = ?", kind.as_str().to_owned());
        }
        if let Some(since) = self.since {
            conditions.and("e.recorded_ms >= ?", row::milliseconds_up(since));
        }
        if let Some(until) = self.until {
            conditions.and("e.recorded_ms < ?", row::milliseconds_up(until));
        }
        conditions
    }
}

impl Selector {
    /// Returns the conditions on the table `deliveries` with the alias `d`.
    pub(super) fn conditions(&self) -> Conditions {
        let mut conditions = Conditions::default();
        if !self.ids.is_empty() {
            let ids: Vec<String> = self.ids.iter().map(i64::to_string).collect();
            conditions.and(
                "d.id IN (SELECT value FROM json_each(?))",
                format!("[{}]", ids.join(",")),
            );
        }
        if let Some(webhook) = &self.webhook {
            conditions.and("d.webhook = ?", webhook.clone());
        }
        if let Some(state) = self.state {
            // Literals instead of parameters, so that SQLite can count with the partial indexes.
            conditions.parts.push(match state {
                State::Pending => "d.state = 'pending'",
                State::Delivered => "d.state = 'delivered' AND d.finished_ms IS NOT NULL",
                State::Dead => "d.state = 'dead' AND d.finished_ms IS NOT NULL",
                State::Cancelled => "d.state = 'cancelled' AND d.finished_ms IS NOT NULL",
            });
        }
        if self.not_pending {
            conditions.parts.push("d.state <> 'pending'");
        }
        if let Some(kind) = self.kind {
            conditions.and(
                "(SELECT kind FROM events WHERE sequence = d.event) = ?",
                kind.as_str().to_owned(),
            );
        }
        if let Some(organization) = &self.organization {
            conditions.and_organization(
                organization,
                [
                    "d.organization = ?",
                    "(d.organization >= ? AND d.organization < ?)",
                    "substr(d.organization, -length(?)) = ?",
                ],
            );
        }
        if let Some(project) = &self.project {
            conditions.and("d.project = ?", project.clone());
        }
        if let Some(since) = self.since {
            conditions.and("d.created_ms >= ?", row::milliseconds_up(since));
        }
        if let Some(until) = self.until {
            conditions.and("d.created_ms < ?", row::milliseconds_up(until));
        }
        conditions
    }
}

/// SQL conditions that must all be true, with their values.
#[derive(Default)]
pub(super) struct Conditions {
    parts: Vec<&'static str>,
    values: Vec<Value>,
}

impl Conditions {
    /// Adds a condition with one value.
    pub(super) fn and(&mut self, condition: &'static str, value: impl Into<Value>) {
        self.parts.push(condition);
        self.values.push(value.into());
    }

    /// Adds a condition on the organization.
    ///
    /// The forms are for one organization, for all organizations of a repository, and for one
    /// organization in any repository.
    pub(super) fn and_organization(&mut self, filter: &str, forms: [&'static str; 3]) {
        let [is, is_in_repository, is_in_any] = forms;
        match Organizations::of(filter) {
            Organizations::One(stored) => self.and(is, stored.to_owned()),
            Organizations::OfRepository(name) => {
                let (first, end) = organizations_of(name);
                self.parts.push(is_in_repository);
                self.values.extend([first.into(), end.into()]);
            }
            Organizations::InAnyRepository(end) => {
                self.parts.push(is_in_any);
                self.values
                    .extend([end.to_owned().into(), end.to_owned().into()]);
            }
        }
    }

    /// Returns all conditions as one SQL expression.
    pub(super) fn sql(&self) -> String {
        if self.parts.is_empty() {
            "TRUE".to_owned()
        } else {
            self.parts.join(" AND ")
        }
    }

    /// Returns the values of the conditions, followed by one more value.
    pub(super) fn values_and(mut self, last: impl Into<Value>) -> Vec<Value> {
        self.values.push(last.into());
        self.values
    }

    pub(super) fn values(self) -> Vec<Value> {
        self.values
    }
}
