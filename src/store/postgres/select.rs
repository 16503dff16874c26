//! Translates selectors to conditions in SQL.

use jiff::Timestamp;

use super::row;
use super::session::{Statement, Value};
use crate::store::listing::{EventFilter, Organizations, Selector};

/// SQL conditions that must all be true, with their values.
pub(super) struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    /// Makes the condition on the repository, for the table with this alias.
    pub(super) fn of(alias: &'static str, repository: i32) -> Self {
        Self {
            sql: format!("{alias}.repository = $1"),
            values: vec![Box::new(repository)],
        }
    }

    /// Makes the conditions of a filter, for the table `events` as `e`.
    pub(super) fn filtered(filter: &EventFilter, repository: i32) -> Self {
        let mut conditions = Self::of("e", repository);
        conditions.and_project(
            "e",
            filter.organization.as_deref(),
            filter.project.as_deref(),
        );
        if let Some(kind) = filter.kind {
            conditions.and("e.kind = ", kind.as_str());
        }
        conditions.and_time("e.recorded_ms", filter.since, filter.until);
        conditions
    }

    /// Makes the conditions of a selector, for the table `deliveries` as `d`.
    pub(super) fn selected(selector: &Selector, repository: i32) -> Self {
        let mut conditions = Self::of("d", repository);
        if !selector.ids.is_empty() {
            conditions.and("d.id = ANY", selector.ids.clone());
        }
        if let Some(webhook) = &selector.webhook {
            conditions.and("d.webhook = ", webhook.clone());
        }
        if let Some(state) = selector.state {
            conditions.and("d.state = ", state.as_str());
        }
        if selector.not_pending {
            conditions.sql.push_str(" AND d.state <> 'pending'");
        }
        conditions.and_time("d.created_ms", selector.since, selector.until);
        let (organization, project) = (&selector.organization, &selector.project);
        conditions.and_project("d", organization.as_deref(), project.as_deref());
        if let Some(kind) = selector.kind {
            conditions.and(
                "EXISTS (SELECT 1 FROM events k WHERE k.repository = d.repository \
                 AND k.sequence = d.event AND k.kind = ",
                kind.as_str(),
            );
            conditions.sql.push(')');
        }
        conditions
    }

    /// Adds conditions on organization and project, for the table with this alias.
    fn and_project(&mut self, alias: &str, organization: Option<&str>, project: Option<&str>) {
        if let Some(filter) = organization {
            let n = self.values.len().saturating_add(1);
            let condition = match Organizations::of(filter) {
                Organizations::One(_) => format!("{alias}.organization = ${n}"),
                Organizations::OfRepository(_) => {
                    format!("starts_with({alias}.organization, ${n})")
                }
                Organizations::InAnyRepository(_) => {
                    format!("right({alias}.organization, length(${n})) = ${n}")
                }
            };
            self.values.push(Box::new(filter.to_owned()));
            self.sql = format!("{} AND {condition}", self.sql);
        }
        if let Some(project) = project {
            self.and(&format!("{alias}.project = "), project.to_owned());
        }
    }

    /// Adds the conditions on the time in this column.
    fn and_time(&mut self, column: &str, since: Option<Timestamp>, until: Option<Timestamp>) {
        if let Some(since) = since {
            self.and(&format!("{column} >= "), row::milliseconds_up(since));
        }
        if let Some(until) = until {
            self.and(&format!("{column} < "), row::milliseconds_up(until));
        }
    }

    /// Adds the SQL `condition`, followed by the placeholder of `value` in parentheses.
    pub(super) fn and(
        &mut self,
        condition: &str,
        value: impl tokio_postgres::types::ToSql + Sync + Send + 'static,
    ) {
        self.values.push(Box::new(value));
        self.sql = format!("{} AND {condition}(${})", self.sql, self.values.len());
    }

    /// Makes a statement with these conditions and one more value.
    ///
    /// `sql` gets the conditions and the placeholder of `last`.
    pub(super) fn statement(
        mut self,
        sql: impl FnOnce(&str, &str) -> String,
        last: impl tokio_postgres::types::ToSql + Sync + Send + 'static,
    ) -> Statement {
        self.values.push(Box::new(last));
        let last = format!("${}", self.values.len());
        (sql(&self.sql, &last).into(), self.values)
    }

    /// Makes a statement with these conditions.
    pub(super) fn statement_without_limit(self, sql: impl FnOnce(&str) -> String) -> Statement {
        (sql(&self.sql).into(), self.values)
    }
}
