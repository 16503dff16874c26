//! Finds the items of one page of a listing.
//!
//! Constraint: a page reads a limited number of rows, so that its cost is limited. It reads at most
//! [`PAGE_READ_MAX`] rows of the table, the newest first. A page of pending, dead or cancelled
//! deliveries first tries an index, which is enough if it has only few entries.

use rusqlite::{Connection, params_from_iter};

use super::select::Conditions;
use crate::domain::delivery::State;
use crate::store::error::Fault;
use crate::store::listing::{EventFilter, PAGE_READ_MAX, Selector};

/// A page by state uses an index only up to this number of entries.
///
/// If the selector names a webhook, only the entries of this webhook count.
const INDEXED_MAX: usize = 5_000;

/// The positions of the items of a page.
#[derive(Debug, Default)]
pub(super) struct Found {
    positions: Vec<i64>,
    /// The next page has only positions before this one. `None` on the last page.
    pub(super) next: Option<i64>,
    /// The number of rows that were read.
    n_read: usize,
}

impl Found {
    /// Returns the positions as a JSON array, for a statement.
    pub(super) fn json(&self) -> String {
        let positions: Vec<String> = self.positions.iter().map(i64::to_string).collect();
        format!("[{}]", positions.join(","))
    }
}

pub(super) fn events(
    connection: &Connection,
    filter: &EventFilter,
    before: Option<i64>,
    limit: usize,
) -> Result<Found, Fault> {
    let conditions = filter.conditions();
    let sql = events_sql(&conditions);
    scan(connection, &sql, conditions, before, limit)
}

pub(super) fn deliveries(
    connection: &Connection,
    selector: &Selector,
    before: Option<i64>,
    limit: usize,
) -> Result<Found, Fault> {
    if let Some(found) = by_state(connection, selector, before, limit)? {
        return Ok(found);
    }
    let conditions = selector.conditions();
    let sql = deliveries_sql(selector, &conditions);
    scan(connection, &sql, conditions, before, limit)
}

fn events_sql(conditions: &Conditions) -> String {
    format!(
        "SELECT e.sequence, {} FROM events e WHERE e.sequence < ? \
         ORDER BY e.sequence DESC LIMIT {PAGE_READ_MAX}",
        conditions.sql()
    )
}

fn deliveries_sql(selector: &Selector, conditions: &Conditions) -> String {
    if selector.ids.is_empty() {
        format!(
            "SELECT d.id, {} FROM deliveries d WHERE d.id < ? ORDER BY d.id DESC LIMIT {PAGE_READ_MAX}",
            conditions.sql()
        )
    } else {
        format!(
            "SELECT d.id, TRUE FROM deliveries d WHERE {} AND d.id < ? \
             ORDER BY d.id DESC LIMIT {PAGE_READ_MAX}",
            conditions.sql()
        )
    }
}

/// Reads rows, the newest first, until the page is full.
///
/// Stops after [`PAGE_READ_MAX`] rows.
fn scan(
    connection: &Connection,
    sql: &str,
    conditions: Conditions,
    before: Option<i64>,
    limit: usize,
) -> Result<Found, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params_from_iter(
        conditions.values_and(before.unwrap_or(i64::MAX)),
    ))?;
    let mut found = Found::default();
    let mut last = None;
    while let Some(row) = rows.next()? {
        if found.positions.len() >= limit {
            found.next = last;
            return Ok(found);
        }
        let position = row.get(0)?;
        found.n_read += 1;
        last = Some(position);
        if row.get(1)? {
            found.positions.push(position);
        }
    }
    if found.n_read >= PAGE_READ_MAX {
        found.next = last;
    }
    Ok(found)
}

/// Finds the deliveries of a page by an index on their state.
///
/// Dead and cancelled deliveries share an index. `None` if the index has more than [`INDEXED_MAX`]
/// entries, or if the selector has ids, has no state, or has the state `delivered`.
fn by_state(
    connection: &Connection,
    selector: &Selector,
    before: Option<i64>,
    limit: usize,
) -> Result<Option<Found>, Fault> {
    let (index, is_indexed) = match selector.state {
        Some(State::Pending) => ("deliveries_lane", "d.state = 'pending'"),
        Some(State::Dead | State::Cancelled) => (
            "deliveries_undelivered",
            "(d.state = 'dead' OR d.state = 'cancelled')",
        ),
        Some(State::Delivered) | None => return Ok(None),
    };
    if !selector.ids.is_empty() {
        return Ok(None);
    }
    // The webhook is the first column of the index.
    let mut indexed = Conditions::default();
    if let Some(webhook) = &selector.webhook {
        indexed.and("d.webhook = ?", webhook.clone());
    }
    let sql = format!(
        "SELECT d.id FROM deliveries d INDEXED BY {index} WHERE {is_indexed} AND {} \
         LIMIT {INDEXED_MAX} + 1",
        indexed.sql()
    );
    let mut ids = connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(indexed.values()), |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    if ids.len() > INDEXED_MAX {
        return Ok(None);
    }
    let before = before.unwrap_or(i64::MAX);
    ids.retain(|id| *id < before);
    ids.sort_unstable_by(|one, other| other.cmp(one));
    let conditions = selector.conditions();
    let sql = format!(
        "SELECT {} FROM deliveries d WHERE d.id = ?",
        conditions.sql()
    );
    let values = conditions.values();
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = Found {
        n_read: ids.len(),
        ..Found::default()
    };
    for id in ids {
        let with_id = values.iter().cloned().chain([id.into()]);
        if !statement.query_row(params_from_iter(with_id), |row| row.get(0))? {
            continue;
        }
        if found.positions.len() >= limit {
            found.next = found.positions.last().copied();
            break;
        }
        found.positions.push(id);
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventKind;
    use crate::store::Store;

    /// Makes a store with `n` deliveries and events.
    ///
    /// One delivery in `rare` is dead, and the others are delivered.
    fn filled(n: usize, rare: usize) -> (tempfile::TempDir, Connection) {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::open(directory.path()).unwrap());
        let connection = Connection::open(directory.path().join("state.db")).unwrap();
        let numbers = format!(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {n})"
        );
        connection
            .execute_batch(&format!(
                "BEGIN; {numbers} INSERT INTO events (sequence, id, repetition, kind, organization, \
                 project, origin, occurred_ns, recorded_ms, parameters, explanation, payload, \
                 first_delivery, end_delivery) SELECT n, 'evt_' || n, 0, 'project-save', 'sales', \
                 'one', 'live', 0, 0, '{{}}', '{{}}', x'00', n, n + 1 FROM numbers; {numbers} \
                 INSERT INTO deliveries (id, event, webhook, organization, project, state, is_head, \
                 is_delete, origin, due_ms, created_ms, waiting_ms, finished_ms) SELECT n, n, 'all', \
                 'sales', 'one', iif(n % {rare} = 1, 'dead', 'delivered'), 0, 0, 'live', 0, 0, 0, 0 \
                 FROM numbers; COMMIT;"
            ))
            .unwrap();
        (directory, connection)
    }

    fn plan(connection: &Connection, sql: &str) -> String {
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let mut rows = statement.raw_query();
        let mut plan = String::new();
        while let Some(row) = rows.next().unwrap() {
            plan.push_str(&row.get::<_, String>(3).unwrap());
        }
        plan
    }

    #[test]
    fn a_page_reads_as_much_of_four_times_as_many_rows() {
        let read = |n: usize| {
            let (_directory, connection) = filled(n, n / 4);
            let in_state = |state| Selector {
                state: Some(state),
                ..Selector::default()
            };
            let of_nobody = Selector {
                webhook: Some("nobody".to_owned()),
                ..Selector::default()
            };
            let found = |selector: &Selector| {
                let found = deliveries(&connection, selector, None, 50).unwrap();
                (found.positions.len(), found.n_read)
            };
            let saves = EventFilter {
                kind: Some(EventKind::ProjectDelete),
                ..EventFilter::default()
            };
            let saves = events(&connection, &saves, None, 50).unwrap();
            [
                found(&Selector::default()),
                found(&in_state(State::Delivered)),
                found(&in_state(State::Dead)),
                found(&in_state(State::Pending)),
                found(&of_nobody),
                (saves.positions.len(), saves.n_read),
            ]
        };
        let expected = [
            (50, 50),
            (50, 50),
            (4, 4),
            (0, 0),
            (0, PAGE_READ_MAX),
            (0, PAGE_READ_MAX),
        ];
        assert_eq!(read(25_000), expected);
        assert_eq!(read(100_000), expected);
    }

    #[test]
    fn bounded_counts_read_as_much_of_four_times_as_many_rows() {
        use rusqlite::StatementStatus;

        use crate::store::sqlite::webhooks::{
            FINISHED_UP_TO, LAST_DELIVERED, PENDING_UP_TO, states_up_to,
        };
        let steps = |n: usize| {
            let (_directory, connection) = filled(n, 2);
            let pending =
                "UPDATE deliveries SET state = 'pending', finished_ms = NULL WHERE id % 2";
            let webhook = "INSERT INTO webhooks (name) VALUES ('all')";
            connection
                .execute_batch(&format!("{pending}; {webhook}"))
                .unwrap();
            let state = states_up_to(&connection, 1_000).unwrap().remove(0);
            assert_eq!(
                (state.n_pending, state.n_delivered, state.n_dead),
                (1_001, 1_001, 0)
            );
            assert_eq!(state.oldest_pending, None);
            [
                (PENDING_UP_TO, vec!["all", "1001"]),
                (FINISHED_UP_TO, vec!["all", "delivered", "1001"]),
                (LAST_DELIVERED, vec!["all"]),
            ]
            .map(|(sql, values)| {
                let mut statement = connection.prepare(sql).unwrap();
                let values = rusqlite::params_from_iter(values);
                assert!(
                    statement
                        .query_row(values, |row| row.get::<_, i64>(0))
                        .is_ok()
                );
                statement.get_status(StatementStatus::VmStep)
            })
        };
        assert_eq!(steps(4_000), steps(16_000));
    }

    #[test]
    fn counts_of_a_state_use_its_index() {
        let (_directory, connection) = filled(10, 2);
        for (state, index) in [
            (State::Pending, "deliveries_lane"),
            (State::Dead, "deliveries_finished"),
            (State::Cancelled, "deliveries_finished"),
            (State::Delivered, "deliveries_finished"),
        ] {
            let selector = Selector {
                webhook: Some("all".to_owned()),
                state: Some(state),
                ..Selector::default()
            };
            let sql = format!(
                "SELECT COUNT(*) FROM deliveries d WHERE {}",
                selector.conditions().sql()
            );
            let plan = plan(&connection, &sql);
            assert!(plan.starts_with("SEARCH") && plan.contains(index), "{plan}");
        }
    }

    #[test]
    fn pages_use_the_order_of_the_table_and_sort_nothing() {
        let (_directory, connection) = filled(10, 2);
        let selector = Selector {
            webhook: Some("all".to_owned()),
            kind: Some(EventKind::ProjectSave),
            state: Some(State::Delivered),
            ..Selector::default()
        };
        let conditions = selector.conditions();
        for sql in [
            deliveries_sql(&selector, &conditions),
            events_sql(&EventFilter::default().conditions()),
        ] {
            let plan = plan(&connection, &sql);
            assert!(plan.starts_with("SEARCH"), "{plan}");
            assert!(plan.contains("INTEGER PRIMARY KEY"), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }

    #[test]
    fn many_deliveries_in_a_state_are_read_in_pages() {
        let (_directory, connection) = filled(15_000, 2);
        let dead = Selector {
            state: Some(State::Dead),
            ..Selector::default()
        };
        let mut before = None;
        let mut all = Vec::new();
        loop {
            let found = deliveries(&connection, &dead, before, 500).unwrap();
            all.extend(found.positions);
            assert!(found.n_read <= PAGE_READ_MAX);
            match found.next {
                Some(next) => before = Some(next),
                None => break,
            }
        }
        let expected: Vec<i64> = (1..=15_000).rev().filter(|id| id % 2 == 1).collect();
        assert_eq!(all, expected);
    }
}
