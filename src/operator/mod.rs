//! Listings and changes for operators, shared by the command line and the admin API.
//!
//! Constraint: both use the same checks, types and JSON, which are all defined here.
//!
//! Modules: [`view`] is the JSON, [`select`] parses filters, [`change`] changes deliveries and
//! webhooks, [`mod@test`] sends a test request, and [`follow`] finds new items of a listing.

pub(crate) mod change;
pub(crate) mod follow;
pub(crate) mod select;
pub(crate) mod test;
pub(crate) mod view;
