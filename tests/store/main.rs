//! Tests of the store's contract (`src/store/contract.rs`), for every implementation.
//!
//! They run with SQLite. `postgres` runs them once more with PostgreSQL, and has tests for it alone, as
//! `senders` has. `contents`, `damage`, `pages` and `sqlite` are for SQLite alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking"
)]

#[path = "../common/mod.rs"]
mod common;
mod contents;
mod damage;
mod fixture;
mod helpers;
mod model;
mod moving;
mod names;
mod operating;
mod outcomes;
mod pages;
mod postgres;
mod queueing;
mod recording;
mod replaying;
mod retaining;
mod room;
mod senders;
mod sqlite;
mod webhooks;
