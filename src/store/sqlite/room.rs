//! Estimates how many rows to remove to free some space.
//!
//! Constraint: rows that are removed for space are lost before their retention ends. So a removal
//! should remove no more rows than necessary. The caller measures the space again after each
//! removal.

use rusqlite::Connection;

use super::row;
use crate::store::error::Fault;

/// The estimate of the average size uses this number of the oldest events.
const SAMPLE: i64 = 100;

/// The approximate size of an event and its delivery without the payload, in bytes.
const ROW_SIZE: u64 = 1024;

pub(super) const OLDEST_SIZES: &str = "SELECT length(p.compressed) \
     FROM (SELECT payload FROM events ORDER BY sequence LIMIT ?1) e \
     JOIN payloads p ON p.hash = e.payload";

/// Estimates how many of the oldest rows take `needed` bytes.
///
/// Returns at least one and at most `limit`.
pub(super) fn rows(connection: &Connection, needed: u64, limit: usize) -> Result<usize, Fault> {
    let mut statement = connection.prepare_cached(OLDEST_SIZES)?;
    let sizes: Vec<i64> = statement
        .query_map([SAMPLE], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let (mut total, mut n) = (0_u64, 0_u64);
    for size in sizes {
        total = total.saturating_add(row::count(size));
        n = n.saturating_add(1);
    }
    let average = total.checked_div(n).unwrap_or(0).saturating_add(ROW_SIZE);
    let n_rows = usize::try_from(needed.div_ceil(average)).unwrap_or(usize::MAX);
    Ok(n_rows.clamp(1, limit.max(1)))
}
