//! Converts the bodies of answers to and from their stored form.
//!
//! Constraint: a receiver that is down for days may answer each attempt with an error page. So the
//! store compresses a long body: 16 KiB of a typical page with a stack trace become 1 to 3 KiB. The
//! body of a successful answer is rarely read, so the store keeps only the beginning.

use std::borrow::Cow;
use std::io;

use super::error::Fault;
use super::payload::{compress_bytes, decompress};
use super::values;
use crate::domain::delivery::ANSWER_MAX;

/// The maximum stored size of a successful answer's body, in bytes.
const OF_SUCCESS_MAX: usize = 1024;

/// The minimum size of a body to compress, in bytes.
///
/// A smaller body fits into the row's page anyway.
const COMPRESSED_MIN: usize = 512;

/// The stored form of a body.
pub(super) struct Stored<'a> {
    /// The size before compression, in bytes. `None` if the body is not compressed.
    pub(super) size: Option<i64>,
    pub(super) bytes: Cow<'a, [u8]>,
}

/// Makes the stored form of a body.
pub(super) fn stored(body: &[u8], is_success: bool) -> Stored<'_> {
    let max = if is_success {
        OF_SUCCESS_MAX
    } else {
        ANSWER_MAX
    };
    let kept = body.get(..max).unwrap_or(body);
    if kept.len() >= COMPRESSED_MIN
        // A body that does not become smaller is stored without compression.
        && let Ok(compressed) = compress_bytes(kept)
        && compressed.len() < kept.len()
    {
        return Stored {
            size: Some(values::limit(kept.len())),
            bytes: Cow::Owned(compressed),
        };
    }
    Stored {
        size: None,
        bytes: Cow::Borrowed(kept),
    }
}

/// Reads a body from its stored form.
pub(super) fn read(size: Option<i64>, bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
    let Some(size) = size else {
        return Ok(bytes);
    };
    let size = usize::try_from(size).unwrap_or_default().min(ANSWER_MAX);
    decompress(&bytes, size).map_err(|error: io::Error| Fault::Undecodable {
        what: "the answer of an attempt".to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn stack_trace() -> Vec<u8> {
        let mut page = "<!doctype html><html><head><title>HTTP Status 500</title></head><body>\
                        <h1>HTTP Status 500 - Internal Server Error</h1><pre>"
            .to_owned();
        for line in 0..400 {
            let _ = writeln!(
                page,
                "\tat com.example.catalog.service{}.Handler{}.handle(Handler{}.java:{})",
                line % 7,
                line % 23,
                line % 23,
                line * 37 % 911
            );
        }
        page.into_bytes()
    }

    #[test]
    fn an_error_page_is_kept_whole_in_a_quarter_of_its_size() {
        let page = stack_trace();
        let kept = stored(&page, false);
        assert!(kept.bytes.len() <= ANSWER_MAX / 4, "{}", kept.bytes.len());
        let bytes = read(kept.size, kept.bytes.into_owned()).unwrap();
        assert_eq!(bytes, page[..ANSWER_MAX]);
    }

    #[test]
    fn a_success_keeps_its_first_kibibyte_and_a_short_body_stays_as_it_is() {
        let page = stack_trace();
        let kept = stored(&page, true);
        let bytes = read(kept.size, kept.bytes.into_owned()).unwrap();
        assert_eq!(bytes, page[..OF_SUCCESS_MAX]);
        let short = stored(b"no such catalog", false);
        assert_eq!((short.size, &*short.bytes), (None, &b"no such catalog"[..]));
    }
}
