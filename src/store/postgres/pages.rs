//! Reads one page of a listing.

use tokio_postgres::Row;

use super::select::Conditions;
use super::session::Session;
use super::{listed, row};
use crate::store::error::Fault;
use crate::store::listing::{
    EventFilter, ListedDelivery, ListedEvent, PAGE_READ_MAX, Page, Selector,
};

pub(super) async fn events(
    session: &mut Session,
    repository: i32,
    filter: &EventFilter,
    before: Option<i64>,
    limit: usize,
) -> Result<Page<ListedEvent>, Fault> {
    let selected = Conditions::filtered(filter, repository);
    let sql = |conditions: &str, before: &str| {
        format!(
            "SELECT e.sequence, {conditions} FROM events e WHERE e.repository = $1 \
             AND e.sequence < {before} ORDER BY e.sequence DESC LIMIT {PAGE_READ_MAX}"
        )
    };
    let scanned = selected.statement(sql, before.unwrap_or(i64::MAX));
    let (positions, next) = found(&session.rows(scanned).await?, limit)?;
    let mut conditions = Conditions::of("e", repository);
    conditions.and("e.sequence = ANY", positions);
    let items = listed::events(session, conditions, limit).await?;
    Ok(Page { items, next })
}

pub(super) async fn deliveries(
    session: &mut Session,
    repository: i32,
    selector: &Selector,
    before: Option<i64>,
    limit: usize,
) -> Result<Page<ListedDelivery>, Fault> {
    let selected = Conditions::selected(selector, repository);
    let sql = |conditions: &str, before: &str| {
        // If the conditions select ids, put them into `WHERE`: the primary key finds these rows.
        // With other conditions in `WHERE`, the server might read all rows for one page.
        let ids = if selector.ids.is_empty() {
            "TRUE"
        } else {
            conditions
        };
        format!(
            "SELECT d.id, {conditions} FROM deliveries d WHERE d.repository = $1 \
             AND {ids} AND d.id < {before} ORDER BY d.id DESC LIMIT {PAGE_READ_MAX}"
        )
    };
    let scanned = selected.statement(sql, before.unwrap_or(i64::MAX));
    let (positions, next) = found(&session.rows(scanned).await?, limit)?;
    let mut conditions = Conditions::of("d", repository);
    conditions.and("d.id = ANY", positions);
    let items = listed::deliveries(session, conditions, limit).await?;
    Ok(Page { items, next })
}

/// Finds the selected positions of a page, at most `limit`.
///
/// Each row has a position, and whether that position is selected. Also returns the value of
/// `before` for the next page. `None` if no page follows.
fn found(rows: &[Row], limit: usize) -> Result<(Vec<i64>, Option<i64>), Fault> {
    let mut positions = Vec::new();
    let mut last = None;
    for found in rows {
        if positions.len() >= limit {
            return Ok((positions, last));
        }
        last = Some(row::number(found, 0)?);
        if found.try_get(1)? {
            positions.extend(last);
        }
    }
    let next = last.filter(|_| rows.len() >= PAGE_READ_MAX);
    Ok((positions, next))
}
