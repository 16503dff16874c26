//! The bytes of a body: the payload, and the bytes of the format before and after it.
//!
//! Constraint: a payload may have many MiB, and several requests are in progress at the same time.
//! So a format that sends the payload unchanged shares it with the event.

use bytes::{Bytes, BytesMut};

/// The bytes of a body, in three parts. A part may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyBytes {
    head: Bytes,
    payload: Bytes,
    tail: Bytes,
}

impl BodyBytes {
    /// Puts bytes before and after a payload, without copying it.
    pub(super) fn around(head: impl Into<Bytes>, payload: Bytes, tail: impl Into<Bytes>) -> Self {
        Self {
            head: head.into(),
            payload,
            tail: tail.into(),
        }
    }

    /// Returns the parts, in order.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 3] {
        [&self.head, &self.payload, &self.tail]
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Whether the body has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all bytes in one piece. Copies the payload only if the format adds bytes to it.
    #[must_use]
    pub fn joined(&self) -> Bytes {
        if self.head.is_empty() && self.tail.is_empty() {
            return self.payload.clone();
        }
        let mut joined = BytesMut::with_capacity(self.len());
        for part in self.parts() {
            joined.extend_from_slice(part);
        }
        joined.freeze()
    }

    /// Removes up to `max` bytes from the front and returns them.
    ///
    /// All of them are from one part. The result is empty only at the end of the body.
    pub(in crate::webhook) fn take_piece(&mut self, max: usize) -> Bytes {
        let parts = [&mut self.head, &mut self.payload, &mut self.tail];
        let first = parts.into_iter().find(|part| !part.is_empty());
        first.map_or_else(Bytes::new, |part| part.split_to(part.len().min(max)))
    }
}

impl<T: Into<Bytes>> From<T> for BodyBytes {
    fn from(bytes: T) -> Self {
        Self::around(Bytes::new(), bytes.into(), Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;
    use crate::domain::event::EventId;
    use crate::webhook::body;
    use crate::webhook::request::CallbackContent;

    #[test]
    fn a_format_that_sends_the_payload_unchanged_holds_no_second_copy() {
        let id = EventId("evt_0123456789abcdef".to_owned());
        let mut content = CallbackContent::test(id, jiff::Timestamp::UNIX_EPOCH);
        content.payload = Bytes::from(vec![b'x'; 1024 * 1024]);
        for format in [Format::Multipart, Format::Xml, Format::CloudEvents] {
            let built = body::build(format, &content);
            let [head, payload, tail] = built.bytes.parts();
            assert_eq!(payload.as_ptr(), content.payload.as_ptr(), "{format:?}");
            assert_eq!(payload.len(), content.payload.len(), "{format:?}");
            assert!(head.len() + tail.len() < 4096, "{format:?}");
        }
    }

    #[test]
    fn pieces_have_all_bytes_in_order_and_share_them() {
        for (head, payload, tail) in [
            ("", "", ""),
            ("ab", "cdefg", "h"),
            ("", "abc", ""),
            ("a", "", "b"),
        ] {
            let payload = Bytes::from(payload);
            let all = BodyBytes::around(head, payload, tail);
            let mut rest = all.clone();
            let mut taken = Vec::new();
            loop {
                let piece = rest.take_piece(2);
                assert!(piece.len() <= 2);
                if piece.is_empty() {
                    break;
                }
                let parts = all.parts();
                let mut ranges = parts.iter().map(|part| part.as_ptr_range());
                assert!(ranges.any(|range| range.contains(&piece.as_ptr())));
                taken.extend_from_slice(&piece);
                assert_eq!(taken.len() + rest.len(), all.len());
            }
            assert!(rest.is_empty());
            assert_eq!(taken, all.joined());
        }
    }
}
