//! config.yaml: sample files, values from elsewhere, the network policy and the table of settings.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking; that is what it is for"
)]

mod fingerprint;
mod network;
mod reading;
mod samples;
mod table;
