//! Reads payloads of any size.
//!
//! Constraint: the server ends a statement that takes too long, including the time that a slow link
//! needs for the answer. So each piece of a payload is read by a separate statement.

use super::session::{Session, statement};
use crate::store::error::Fault;

/// The size of a piece, in bytes. It takes 8 s over a link of 16 KiB per second.
pub(super) const PIECE: usize = 128 * 1024;

/// Reads a compressed payload. Returns `None` if it is missing.
///
/// The session must not be in a transaction. Otherwise the transaction would idle while the answer
/// with a piece is in transit.
pub(super) async fn read(
    session: &mut Session,
    repository: i32,
    hash: Vec<u8>,
) -> Result<Option<Vec<u8>>, Fault> {
    let mut all = Vec::new();
    loop {
        // The server does not compress the column again, so it reads only the pages of this piece.
        let rows = session
            .rows(statement!(
                "SELECT substring(compressed FROM $3::int FOR $4::int) FROM payloads \
                 WHERE repository = $1 AND hash = $2",
                repository,
                hash.clone(),
                i32::try_from(all.len().saturating_add(1)).unwrap_or(i32::MAX),
                i32::try_from(PIECE).unwrap_or(i32::MAX),
            ))
            .await?;
        let Some(found) = rows.first() else {
            return Ok(None);
        };
        let piece: &[u8] = found.try_get(0)?;
        all.extend_from_slice(piece);
        if piece.len() < PIECE {
            return Ok(Some(all));
        }
    }
}
