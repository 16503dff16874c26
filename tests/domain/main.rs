//! The pure core against the contract: a table of cases from data files, random sequences of user
//! actions against what the user did, and the times at which to look.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking; that is what it is for"
)]
mod cases;
mod engine;
mod event;
mod meaning;
mod parameters;
mod route;
mod settle;
mod simulation;
mod truth;
mod world;
