//! The real binary with its state in PostgreSQL: moving a state, the report of the lease, and TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/mod.rs"]
mod common;

mod documented;
mod moving;
mod silent;
mod standby;
mod tls;

use std::sync::OnceLock;

use common::{Postgres, skip};

/// The server of all tests. Its own shell stops it when this process ends.
fn server(test: &str) -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    let server = SERVER.get_or_init(Postgres::start);
    if server.is_none() {
        skip(test, "needs Debian's package postgresql");
    }
    server.as_ref()
}

/// The line of the configuration that puts the state into this database.
///
/// The lease is longer than a process waits on a busy machine.
fn store(connection: &str) -> String {
    format!("store: {{ postgres: \"{connection}\", lease: 10s }}")
}
