//! Tests the rules against the contract: cases from data files, random user actions against a model
//! of their events, and the times of observations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking; that is what it is for"
)]
mod cases;
mod delivery;
mod endpoint;
mod engine;
mod event;
mod meaning;
mod pace;
mod parameters;
mod portions;
mod route;
mod settle;
mod simulation;
mod truth;
mod wave;
mod world;
