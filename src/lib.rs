//! From a file change to a webhook.

pub mod clock;
pub mod config;
pub mod document;
pub mod domain;
pub mod engine;
pub mod hint;
pub mod layout;
pub mod observe;
pub mod receiver;
pub mod repository;
pub mod store;
pub mod users;
pub mod watch;
pub mod webhook;
