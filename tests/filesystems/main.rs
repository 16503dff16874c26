//! What a file system tells of its files, on real file systems: stamps, names, identities.
//!
//! Constraint: nothing is left behind. A test that mounts runs again as a process with its own mount and
//! process namespaces, which end with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/mod.rs"]
mod common;

mod mounts;
mod names;
mod roots;
mod stamps;
mod unreported;
