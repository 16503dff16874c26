//! From a file change to a webhook.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "a test owns its clock and its tasks"
    )
)]

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dispatch;
pub mod document;
pub mod domain;
pub mod engine;
pub mod hint;
pub mod housekeeping;
pub mod layout;
pub mod logging;
pub mod observe;
pub mod os;
pub mod receiver;
pub mod repository;
pub mod store;
pub mod users;
pub mod watch;
pub mod webhook;
