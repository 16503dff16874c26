//! The pure core against the contract: a table of cases from data files, random sequences of user
//! actions against what the user did, and the times at which to look.

mod cases;
mod engine;
mod meaning;
mod settle;
mod simulation;
mod truth;
mod world;
