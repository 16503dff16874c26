//! Listings and changes for operators, shared by the command line and the admin API.
//!
//! Constraint: the checks and the JSON that both need are defined only once.
//!
//! Modules: [`view`] is the JSON, [`select`] parses filters, [`change`] checks and applies changes,
//! [`mod@test`] sends a test request, and [`follow`] finds new and changed items of a listing.

pub(crate) mod change;
pub(crate) mod follow;
pub(crate) mod select;
pub(crate) mod test;
pub(crate) mod view;
