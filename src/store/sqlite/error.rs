//! Converts errors of SQLite to errors of the store.

use std::path::Path;
use std::sync::Arc;

use rusqlite::ErrorCode;

use crate::store::error::{Fault, OpenError};

impl OpenError {
    /// Converts an error of opening the database. Damage has its own variant.
    pub(super) fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OpenError::Damaged {
                path,
                what: format!("SQLite cannot read it as a database ({source})"),
            },
            _ => OpenError::Database {
                path,
                source: Arc::new(source),
            },
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(source: rusqlite::Error) -> Self {
        let code = source.sqlite_error_code();
        let source = Arc::new(source);
        match code {
            Some(ErrorCode::DiskFull) => Fault::Full(source),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Fault::Busy(source),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Fault::Damaged(source),
            Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
                Fault::Io(source)
            }
            _ => Fault::Database(source),
        }
    }
}
