//! config.yaml: sample files, values from elsewhere, the network policy, the table of settings and
//! `check`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking; that is what it is for"
)]

#[path = "../common/patience.rs"]
mod patience;

mod check;
mod fingerprint;
mod network;
mod reading;
mod samples;
mod schema;
mod table;
mod wrong_settings;
