//! From a file change to a webhook.

pub mod cli;
pub mod config;
pub mod document;
pub mod domain;
pub mod layout;
pub mod receiver;
pub mod store;
pub mod webhook;
