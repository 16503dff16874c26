//! The pages of a listing, and the cursors between them.
//!
//! Constraint: if rows are added or removed between two requests for pages, no other row is
//! repeated or skipped. So a cursor has the position of a row, not a number of rows.

use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::operator::view::{DeliveryView, EventView};
use crate::store::Page;

/// The default number of items on a page.
const LIMIT: usize = 50;

/// The maximum number of items on a page.
const LIMIT_MAX: usize = 500;

/// The maximum size of the items of a page in JSON, in bytes.
///
/// A single item may be larger.
const BYTES_MAX: usize = 1024 * 1024;

/// The maximum length of a cursor, in bytes.
const CURSOR_MAX: usize = 32;

/// A listing with pages.
///
/// A cursor contains the letter of its listing, so it is invalid for another listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Events,
    Deliveries,
}

impl Listing {
    const fn letter(self) -> char {
        match self {
            Listing::Events => 'e',
            Listing::Deliveries => 'd',
        }
    }

    /// Parses a cursor. `None` if it is invalid or belongs to another listing.
    fn read(self, cursor: &str) -> Option<i64> {
        if cursor.len() > CURSOR_MAX {
            return None;
        }
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        text.strip_prefix(self.letter())?.parse().ok()
    }

    /// Makes the cursor of a position.
    fn write(self, position: i64) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(format!("{}{position}", self.letter()))
    }
}

/// Where a page begins, and its maximum number of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) before: Option<i64>,
    pub(super) limit: usize,
}

impl Place {
    /// Parses the options `cursor` and `limit`.
    pub(super) fn read(
        listing: Listing,
        cursor: Option<&str>,
        limit: Option<&str>,
    ) -> Result<Self, ApiError> {
        let before = match cursor {
            None => None,
            Some(cursor) => Some(listing.read(cursor).ok_or_else(|| {
                ApiError::invalid(
                    "the cursor is not from this listing; use `next` of the \
                    previous page",
                )
            })?),
        };
        let limit = match limit {
            None => LIMIT,
            Some(limit) => limit
                .parse()
                .ok()
                .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                .ok_or_else(|| {
                    ApiError::invalid(format!("limit must be a number from 1 to {LIMIT_MAX}"))
                })?,
        };
        Ok(Self { before, limit })
    }
}

/// Returns the first items of a page, up to [`BYTES_MAX`].
///
/// Also returns the position after which the next page begins, if there is a next page.
fn first_items<T, V: Serialize>(
    page: &Page<T>,
    view: fn(&T) -> V,
    position: fn(&T) -> i64,
) -> (Vec<V>, Option<i64>) {
    let mut items = Vec::new();
    let mut size = Size(0);
    let mut last = None;
    for item in &page.items {
        let view = view(item);
        // If an item cannot be serialized, serializing the answer fails later.
        let _ = serde_json::to_writer(&mut size, &view);
        if size.0 > BYTES_MAX && last.is_some() {
            return (items, last);
        }
        items.push(view);
        last = Some(position(item));
    }
    (items, page.next)
}

/// Counts the bytes that are written to it.
struct Size(usize);

impl Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A page of events, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct EventPage {
    /// The items. There may be fewer than the limit, or none, even if `next` is set.
    pub(super) items: Vec<EventView>,
    /// The cursor of the next page. `null` if there is none.
    pub(super) next: Option<String>,
}

impl EventPage {
    pub(super) fn of(page: &Page<crate::store::ListedEvent>) -> Self {
        let (items, next) = first_items(page, EventView::of, |event| event.sequence);
        Self {
            items,
            next: next.map(|next| Listing::Events.write(next)),
        }
    }
}

/// A page of deliveries, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryPage {
    /// The items. There may be fewer than the limit, or none, even if `next` is set.
    pub(super) items: Vec<DeliveryView>,
    /// The cursor of the next page. `null` if there is none.
    pub(super) next: Option<String>,
}

impl DeliveryPage {
    pub(super) fn of(page: &Page<crate::store::ListedDelivery>) -> Self {
        let (items, next) = first_items(page, DeliveryView::of, |delivery| delivery.id);
        Self {
            items,
            next: next.map(|next| Listing::Deliveries.write(next)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_of_one_listing_and_limits_are_bounded() {
        for position in [0, 1, i64::MAX, i64::MIN] {
            let cursor = Listing::Events.write(position);
            assert_eq!(Listing::Events.read(&cursor), Some(position));
            assert_eq!(Listing::Deliveries.read(&cursor), None);
        }
        for cursor in ["", "e1", "====", "../..", &"A".repeat(10_000)] {
            assert!(Place::read(Listing::Events, Some(cursor), None).is_err());
        }
        for limit in ["0", "501", "-1", "1e9", "99999999999999999999", ""] {
            assert!(
                Place::read(Listing::Events, None, Some(limit)).is_err(),
                "{limit}"
            );
        }
        let place = Place::read(Listing::Events, None, Some("500"));
        assert_eq!(place.unwrap().limit, 500);
    }
}
