//! Checks, compresses and decompresses payloads.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use super::batch::Batch;
use super::error::{Fault, StoreError};
use super::listing::PayloadPart;
use crate::domain::project::ContentHash;

/// If the payloads of a batch have at most this many bytes in total, all of them are compressed.
///
/// Up to this size, checking which payloads are already in the store takes longer than compressing
/// all of them.
const UNASKED_MAX: usize = 64 * 1024;

/// Takes the payloads out of a batch, checks their hashes, and compresses them.
///
/// If the payloads have more than [`UNASKED_MAX`] bytes, `stored` returns which of them are stored.
/// Stored payloads are then not compressed.
pub(super) fn prepare(
    batch: &mut Batch,
    location: &Arc<str>,
    stored: impl FnOnce(Vec<ContentHash>) -> Result<BTreeSet<ContentHash>, StoreError>,
) -> Result<Vec<Given>, StoreError> {
    let payloads = std::mem::take(&mut batch.payloads);
    let size: usize = payloads.iter().map(|(_, bytes)| bytes.len()).sum();
    let stored = if size <= UNASKED_MAX {
        BTreeSet::new()
    } else {
        stored(payloads.iter().map(|(hash, _)| *hash).collect())?
    };
    payloads
        .into_iter()
        .map(|(hash, bytes)| Given::prepare(hash, bytes, stored.contains(&hash)))
        .collect::<Result<Vec<_>, Fault>>()
        .map_err(|fault| StoreError::new(location, fault))
}

/// The compression level of zstd.
///
/// Every level makes a project.xml about ten times smaller, but higher levels take longer.
const LEVEL: i32 = 2;

/// A payload of a batch. Clones share the bytes.
#[derive(Clone, Debug)]
pub(super) struct Given {
    hash: ContentHash,
    bytes: Bytes,
    /// `None` if the payload was known to be stored when the batch was prepared.
    compressed: Option<Bytes>,
}

impl Given {
    /// Checks the payload against its hash. Compresses the payload unless `stored`.
    fn prepare(hash: ContentHash, bytes: Bytes, stored: bool) -> Result<Self, Fault> {
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

    pub(super) fn hash(&self) -> ContentHash {
        self.hash
    }

    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Returns the compressed bytes.
    ///
    /// `None` if the payload was known to be stored when the batch was prepared.
    pub(super) fn compressed(&self) -> Option<&Bytes> {
        self.compressed.as_ref()
    }

    /// Compresses a payload that was removed from the store after the batch was prepared.
    pub(super) fn compress_late(&self) -> Result<Bytes, Fault> {
        Ok(Bytes::from(compress(&self.hash, &self.bytes)?))
    }
}

/// The maximum size of a payload, in bytes: the largest allowed `repository.max_file_size`.
const SIZE_MAX: usize = 1 << 30;

thread_local! {
    /// The compression context of this thread.
    ///
    /// Creating a context takes longer than compressing a small project.xml.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn compress(hash: &ContentHash, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    compress_bytes(bytes).map_err(|source| Fault::Coding {
        hash: *hash,
        source: Arc::new(source),
    })
}

/// Compresses with this thread's context.
pub(super) fn compress_bytes(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let mut compressor = match kept.take() {
            Some(compressor) => compressor,
            None => Compressor::new(LEVEL).map_err(out_of_memory)?,
        };
        // After a failure, the next call makes a new context.
        let compressed = compressor.compress(bytes)?;
        *kept = Some(compressor);
        Ok(compressed)
    })
}

/// Marks an error of making a context as a lack of memory, which is its only possible cause.
///
/// The error from zstd itself has no such kind.
fn out_of_memory(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, error)
}

/// Decompresses to at most `size` bytes. Fails if the content is larger.
pub(super) fn decompress(compressed: &[u8], size: usize) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let mut decompressor = match kept.take() {
            Some(decompressor) => decompressor,
            None => Decompressor::new().map_err(out_of_memory)?,
        };
        let bytes = decompressor.decompress(compressed, size)?;
        *kept = Some(decompressor);
        Ok(bytes)
    })
}

/// Decompresses a stored payload, and checks it against its hash.
pub(super) fn restore(hash: &ContentHash, size: i64, compressed: &[u8]) -> Result<Bytes, Fault> {
    let coding = |source| Fault::Coding {
        hash: *hash,
        source: Arc::new(source),
    };
    let size = usize::try_from(size).map_err(|error| coding(io::Error::other(error)))?;
    // A damaged size must not look like a lack of memory.
    if size > SIZE_MAX {
        return Err(coding(io::Error::other("its recorded size is above 1 GiB")));
    }
    let bytes = decompress(compressed, size).map_err(coding)?;
    if ContentHash::of(&bytes) != *hash {
        return Err(Fault::WrongPayload { hash: *hash });
    }
    Ok(Bytes::from(bytes))
}

/// Decompresses a part of a stored payload, without keeping the rest in memory.
///
/// If the position is 0, checks the whole payload against the hash.
pub(super) fn restore_part(
    hash: &ContentHash,
    size: i64,
    compressed: &[u8],
    (position, limit): (u64, usize),
) -> Result<PayloadPart, Fault> {
    let coding = |source| Fault::Coding {
        hash: *hash,
        source: Arc::new(source),
    };
    let decoder = || zstd::stream::read::Decoder::new(compressed).map_err(coding);
    if position == 0 && hash_of(decoder()?).map_err(coding)? != *hash {
        return Err(Fault::WrongPayload { hash: *hash });
    }
    let mut decoder = decoder()?;
    io::copy(&mut (&mut decoder).take(position), &mut io::sink()).map_err(coding)?;
    let mut bytes = Vec::new();
    let mut part = decoder.take(limit as u64);
    part.read_to_end(&mut bytes).map_err(coding)?;
    Ok(PayloadPart {
        bytes: Bytes::from(bytes),
        size: u64::try_from(size).unwrap_or_default(),
    })
}

fn hash_of(reader: impl io::Read) -> io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(reader)?;
    Ok(ContentHash(*hasher.finalize().as_bytes()))
}
