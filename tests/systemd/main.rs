//! The service as it will run: a real systemd, the units as they are, the package as it is built.
//!
//! Each test boots its own container, which takes a second. Without containers every test reports
//! that it is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod audit;
#[path = "../common/mod.rs"]
mod common;
mod container;
mod faults;
mod operations;
mod package;
mod reloads;
mod service;
mod starts;
mod units;

use std::path::Path;
use std::sync::OnceLock;

use common::skip;

/// The directory of the package.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a container can run; reports a skipped test if not.
fn can_boot(test: &str) -> bool {
    static WHY_NOT: OnceLock<Option<String>> = OnceLock::new();
    let reason = WHY_NOT.get_or_init(container::why_not);
    if let Some(reason) = reason {
        skip(test, reason);
    }
    reason.is_none()
}
