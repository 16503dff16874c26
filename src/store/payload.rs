//! Payloads: the bytes of project.xml files, stored once per content and compressed.
//!
//! Constraint: what is sent is byte for byte what was observed, so a payload is checked against
//! its hash when it comes in and when it goes out. Compression happens on the caller's thread,
//! not in the transaction that everything else waits for.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use zstd::bulk::{Compressor, Decompressor};

use super::error::Fault;
use super::row;
use crate::domain::project::ContentHash;

/// zstd's level. project.xml shrinks about tenfold at any level; higher ones cost time for little.
const LEVEL: i32 = 2;

/// The most payloads that one transaction removes.
const REMOVED_AT_ONCE: usize = 64;

/// A payload that a batch brings. Its clones share their bytes.
#[derive(Clone, Debug)]
pub(super) struct Given {
    hash: ContentHash,
    bytes: Bytes,
    /// Absent where it was stored already when the batch was prepared.
    compressed: Option<Bytes>,
}

impl Given {
    /// Checks the payload and, where it is not stored yet, compresses it.
    pub(super) fn prepare(hash: ContentHash, bytes: Bytes, stored: bool) -> Result<Self, Fault> {
        if ContentHash::of(&bytes) != hash {
            return Err(Fault::WrongPayload { hash });
        }
        let compressed = if stored {
            None
        } else {
            Some(Bytes::from(compress(&hash, &bytes)?))
        };
        Ok(Self {
            hash,
            bytes,
            compressed,
        })
    }

    /// Its hash.
    pub(super) fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Its bytes, shared.
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

thread_local! {
    /// Making a context costs more than compressing a small project.xml with it, so each thread
    /// keeps its own.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn compress(hash: &ContentHash, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let compressed = COMPRESSOR.with_borrow_mut(|kept| {
        let mut compressor = match kept.take() {
            Some(compressor) => compressor,
            None => Compressor::new(LEVEL)?,
        };
        // After an error the context is not kept.
        let compressed = compressor.compress(bytes)?;
        *kept = Some(compressor);
        Ok(compressed)
    });
    compressed.map_err(|source| Fault::Coding {
        hash: *hash,
        source: Arc::new(source),
    })
}

fn decompress(compressed: &[u8], size: usize) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let mut decompressor = match kept.take() {
            Some(decompressor) => decompressor,
            None => Decompressor::new()?,
        };
        let bytes = decompressor.decompress(compressed, size)?;
        *kept = Some(decompressor);
        Ok(bytes)
    })
}

/// Payloads of this size together are compressed without asking whether they are stored, which takes
/// longer than to compress them.
pub(super) const UNASKED_MAX: usize = 64 * 1024;

/// Which of these payloads are stored.
pub(super) fn stored(connection: &Connection, hashes: &[ContentHash]) -> Result<Vec<bool>, Fault> {
    hashes
        .iter()
        .map(|hash| Ok(id(connection, hash)?.is_some()))
        .collect()
}

/// The row of a payload.
pub(super) fn id(connection: &Connection, hash: &ContentHash) -> Result<Option<i64>, Fault> {
    Ok(connection
        .prepare_cached("SELECT id FROM payloads WHERE hash = ?1")?
        .query_row([&hash.0[..]], |row| row.get(0))
        .optional()?)
}

/// A payload of a batch in its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put {
    /// Its row.
    pub(super) id: i64,
    /// Whether it is held, with a reference of its own, until [`release`].
    pub(super) is_held: bool,
}

/// Stores a payload, unless it is stored already. One that is new is held: a payload that never was
/// without references costs no change of the index of those that are.
pub(super) fn put(connection: &Connection, given: &Given) -> Result<Put, Fault> {
    if let Some(id) = id(connection, &given.hash)? {
        return Ok(Put { id, is_held: false });
    }
    // It may have been collected since it was looked up.
    let late;
    let compressed = match &given.compressed {
        Some(compressed) => compressed,
        None => {
            late = Bytes::from(compress(&given.hash, &given.bytes)?);
            &late
        }
    };
    connection
        .prepare_cached("INSERT INTO payloads (hash, size, n_references) VALUES (?1, ?2, 1)")?
        .execute(params![&given.hash.0[..], row::limit(given.bytes.len())])?;
    let id = connection.last_insert_rowid();
    connection
        .prepare_cached("INSERT INTO payload_contents (payload, compressed) VALUES (?1, ?2)")?
        .execute(params![id, &compressed[..]])?;
    Ok(Put { id, is_held: true })
}

/// Lets go of a payload that [`put`] holds.
pub(super) fn release(connection: &Connection, payload: i64) -> Result<(), Fault> {
    connection
        .prepare_cached("UPDATE payloads SET n_references = n_references - 1 WHERE id = ?1")?
        .execute([payload])?;
    Ok(())
}

/// The bytes of a payload.
pub(super) fn get(connection: &Connection, hash: &ContentHash) -> Result<Option<Bytes>, Fault> {
    let found: Option<(i64, Vec<u8>)> = connection
        .prepare_cached(
            "SELECT p.size, c.compressed FROM payloads p \
             JOIN payload_contents c ON c.payload = p.id WHERE p.hash = ?1",
        )?
        .query_row([&hash.0[..]], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((size, compressed)) = found else {
        return Ok(None);
    };
    let coding = |source| Fault::Coding {
        hash: *hash,
        source: Arc::new(source),
    };
    let size = usize::try_from(size).map_err(|error| coding(std::io::Error::other(error)))?;
    let bytes = decompress(&compressed, size).map_err(coding)?;
    if ContentHash::of(&bytes) != *hash {
        return Err(Fault::WrongPayload { hash: *hash });
    }
    Ok(Some(Bytes::from(bytes)))
}

/// Removes payloads that nothing refers to, a few at a time, and says how many.
pub(super) fn collect(connection: &Connection) -> Result<usize, Fault> {
    // The statement below sets up a table of its own, which costs more than to ask first.
    let any = connection
        .prepare_cached("SELECT 1 FROM payloads WHERE n_references = 0 LIMIT 1")?
        .exists([])?;
    if !any {
        return Ok(0);
    }
    Ok(connection
        .prepare_cached(
            "DELETE FROM payloads WHERE id IN \
             (SELECT id FROM payloads WHERE n_references = 0 LIMIT ?1)",
        )?
        .execute([row::limit(REMOVED_AT_ONCE)])?)
}
