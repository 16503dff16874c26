//! From a file change to a webhook.

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
