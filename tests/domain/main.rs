//! The pure core against the contract: a table of cases from data files, and random sequences of
//! user actions against a model that knows what the user did.

mod cases;
