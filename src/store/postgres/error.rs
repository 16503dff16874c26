//! Converts errors of PostgreSQL to errors of the store.

use std::error::Error;
use std::io;
use std::sync::Arc;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::store::error::Fault;

impl From<tokio_postgres::Error> for Fault {
    fn from(source: tokio_postgres::Error) -> Self {
        match source.code() {
            // Without a code, the error is not an answer of the server. Either the connection
            // failed, or the client cannot use a setting or a value.
            None if is_of_connection(&source) => Fault::Unreachable(Arc::new(source)),
            None => Fault::Database(Arc::new(source)),
            Some(code) if is_outage(code) => Fault::Unreachable(Arc::new(source)),
            Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED) => {
                Fault::Busy(Arc::new(source))
            }
            Some(&SqlState::QUERY_CANCELED) => Fault::Slow(Arc::new(source)),
            Some(_) => Fault::Database(Arc::new(source)),
        }
    }
}

impl From<PoolError> for Fault {
    fn from(source: PoolError) -> Self {
        match source {
            PoolError::Backend(source) => source.into(),
            source => Fault::Unreachable(Arc::new(source)),
        }
    }
}

/// Whether the connection failed.
///
/// This includes an invalid certificate of the server, which its administrator may renew.
fn is_of_connection(error: &tokio_postgres::Error) -> bool {
    let mut cause = error.source();
    while let Some(found) = cause {
        if found.is::<io::Error>() {
            return true;
        }
        cause = found.source();
    }
    error.is_closed()
}

/// Whether the server cannot work now, but may work later.
fn is_outage(code: &SqlState) -> bool {
    // 08: the connection failed. 57P: the server ended or refused the connection, for example
    // because it stops or starts. 53: the server lacks a resource. 25P03: a transaction idled for
    // too long, so the server closed the connection.
    ["08", "57P", "53", "25P03"]
        .iter()
        .any(|class| code.code().starts_with(class))
}
