//! Compares names on disk with names in the configuration.
//!
//! Constraint: names that Unicode defines as equivalent are equal. For instance, macOS and some
//! file servers store `é` as two characters, and editors write it as one. The record keeps each
//! name as it is on disk.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Returns the name in the composed form (NFC). Names are compared in this form.
pub fn composed(name: &str) -> Cow<'_, str> {
    match is_nfc_quick(name.chars()) {
        IsNormalized::Yes => Cow::Borrowed(name),
        IsNormalized::No | IsNormalized::Maybe => Cow::Owned(name.nfc().collect()),
    }
}
