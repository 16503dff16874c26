//! Tests of the store's contract (`src/store/contract.rs`) with the implementation that
//! [`helpers::Fixture`] opens. `damage`, `pages` and `sqlite` are for SQLite alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking"
)]

mod damage;
mod helpers;
mod model;
mod moving;
mod operating;
mod outcomes;
mod pages;
mod queueing;
mod recording;
mod replaying;
mod retaining;
mod room;
mod sqlite;
mod webhooks;
