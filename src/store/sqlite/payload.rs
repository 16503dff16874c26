//! Stores payloads (contents of project.xml), compressed and without duplicates.
//!
//! Constraint: a payload has exactly the observed bytes. So the store compares payloads with their
//! hashes when it takes a batch and when it reads them, except for a read that starts in the middle
//! of a payload. It compresses payloads before the transaction, on the caller's thread, because all
//! other writes wait for the transaction. Only a payload that was removed in the meantime is
//! compressed in the transaction.

use std::collections::BTreeSet;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::row;
use crate::domain::project::ContentHash;
use crate::store::error::Fault;
use crate::store::listing::PayloadPart;
use crate::store::payload::{self, Given};

/// Returns which of these payloads are stored.
pub(super) fn stored(
    connection: &Connection,
    hashes: Vec<ContentHash>,
) -> Result<BTreeSet<ContentHash>, Fault> {
    let mut stored = BTreeSet::new();
    for hash in hashes {
        if exists(connection, &hash)? {
            stored.insert(hash);
        }
    }
    Ok(stored)
}

pub(super) fn exists(connection: &Connection, hash: &ContentHash) -> Result<bool, Fault> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM payloads WHERE hash = ?1")?
        .exists([&hash.0[..]])?)
}

/// Stores a payload unless it is already stored. Returns whether it is new.
///
/// If a definition in the batch has this content, `identity` is the text of its
/// [`identity`](crate::domain::project::FileState::identity), which depends only on the content.
pub(super) fn put(
    connection: &Connection,
    given: &Given,
    identity: Option<&str>,
) -> Result<bool, Fault> {
    // The payload may have been removed after the batch was prepared.
    let late;
    let compressed = match given.compressed() {
        Some(compressed) => compressed,
        None if exists(connection, &given.hash())? => return Ok(false),
        None => {
            late = given.compress_late()?;
            &late
        }
    };
    let stored = connection
        .prepare_cached(
            "INSERT INTO payloads (hash, size, identity, compressed) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            &given.hash().0[..],
            row::limit(given.bytes().len()),
            identity,
            &compressed[..]
        ])?;
    Ok(stored > 0)
}

/// Stores the identity of the definitions with this content.
///
/// Returns whether the payload is stored. [`remove_garbage`] finds the definitions by this
/// identity.
pub(super) fn set_identity(
    connection: &Connection,
    hash: &ContentHash,
    identity: &str,
) -> Result<bool, Fault> {
    let found: Option<Option<String>> = connection
        .prepare_cached("SELECT identity FROM payloads WHERE hash = ?1")?
        .query_row([&hash.0[..]], |row| row.get(0))
        .optional()?;
    let identity = match found.as_ref().map(Option::as_deref) {
        None => return Ok(false),
        Some(Some(found)) if found == identity || found.is_empty() => return Ok(true),
        Some(None) => identity,
        // Another version of the program gave this content another identity. The empty identity
        // keeps the payload forever.
        Some(Some(_)) => "",
    };
    connection
        .prepare_cached("UPDATE payloads SET identity = ?2 WHERE hash = ?1")?
        .execute(params![&hash.0[..], identity])?;
    Ok(true)
}

pub(super) fn get(connection: &Connection, hash: &ContentHash) -> Result<Option<Bytes>, Fault> {
    let found = compressed(connection, hash)?;
    let restore = |(size, compressed): (i64, Vec<u8>)| payload::restore(hash, size, &compressed);
    found.map(restore).transpose()
}

/// Reads at most `limit` bytes of a payload from a position.
pub(super) fn part(
    connection: &Connection,
    hash: &ContentHash,
    position: u64,
    limit: usize,
) -> Result<Option<PayloadPart>, Fault> {
    let found = compressed(connection, hash)?;
    let restore = |(size, compressed): (i64, Vec<u8>)| {
        payload::restore_part(hash, size, &compressed, (position, limit))
    };
    found.map(restore).transpose()
}

/// Reads the size and the compressed bytes of a payload.
fn compressed(
    connection: &Connection,
    hash: &ContentHash,
) -> Result<Option<(i64, Vec<u8>)>, Fault> {
    Ok(connection
        .prepare_cached("SELECT size, compressed FROM payloads WHERE hash = ?1")?
        .query_row([&hash.0[..]], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

/// Removes a payload if no event and no definition needs it.
///
/// A payload with an empty identity stays. Returns the size before compression, in bytes. `None` if
/// the payload was not removed.
pub(super) fn remove_garbage(
    connection: &Connection,
    hash: &ContentHash,
) -> Result<Option<u64>, Fault> {
    let size = connection
        .prepare_cached(REMOVE_GARBAGE)?
        .query_row([&hash.0[..]], |row| row.get::<_, i64>(0))
        .optional()?;
    Ok(size.map(row::count))
}

pub(super) const REMOVE_GARBAGE: &str = "DELETE FROM payloads WHERE hash = ?1 \
     AND identity IS NOT '' \
     AND NOT EXISTS (SELECT 1 FROM events WHERE payload = ?1) \
     AND NOT EXISTS (SELECT 1 FROM files WHERE identity = payloads.identity AND hash = ?1) \
     RETURNING size";

/// Lists the next `limit` stored payloads after this one, sorted by hash.
pub(super) fn after(
    connection: &Connection,
    hash: &ContentHash,
    limit: usize,
) -> Result<Vec<ContentHash>, Fault> {
    let mut statement = connection
        .prepare_cached("SELECT hash FROM payloads WHERE hash > ?1 ORDER BY hash LIMIT ?2")?;
    let mut rows = statement.query(params![&hash.0[..], row::limit(limit)])?;
    let mut hashes = Vec::new();
    while let Some(found) = rows.next()? {
        hashes.push(row::hash("a payload", &found.get::<_, Vec<u8>>(0)?)?);
    }
    Ok(hashes)
}
