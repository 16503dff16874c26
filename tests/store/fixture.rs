//! The store under test.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use project_webhooks::config::Postgres;
use project_webhooks::store::{Listings, Operations, Store};

use crate::common::Run as _;

/// The environment variable with the connection string of a server of PostgreSQL.
///
/// With it, the tests of the contract open that implementation.
pub const POSTGRES: &str = "PROJECT_WEBHOOKS_TEST_POSTGRES";

/// A state to open stores on: of SQLite in its own directory, or of PostgreSQL under its own name.
pub struct Fixture {
    directory: tempfile::TempDir,
    postgres: Option<Postgres>,
}

/// The number of schemas and repositories so far.
static N_SCHEMAS: AtomicUsize = AtomicUsize::new(0);

/// The settings of a store in a new schema of a database.
pub fn in_new_schema(connection: &str) -> Postgres {
    let number = N_SCHEMAS.fetch_add(1, Ordering::Relaxed);
    let schema = format!("s{}_{number}", std::process::id());
    let sql = format!("CREATE SCHEMA {schema}");
    let done = Command::new("psql")
        .args(["-X", "-q", "-d", connection, "-c", &sql])
        .run();
    let done = done.unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    Postgres {
        connection: format!("{connection} options='-c search_path={schema}'"),
        password: None,
        tls: false,
        lease: Duration::from_secs(10),
        repository: "/srv/repository".to_owned(),
        repositories: Vec::new(),
    }
}

/// The number of random cases of a test. A case with PostgreSQL takes ten times as long.
pub fn n_cases(with_sqlite: u32) -> u32 {
    match std::env::var_os(POSTGRES) {
        Some(_) => with_sqlite.div_ceil(4),
        None => with_sqlite,
    }
}

/// The settings of a store of a repository that only this test knows.
///
/// All of them share the tables of one schema, because tables cost more than most tests.
fn in_shared_schema(connection: &str) -> Postgres {
    static SHARED: LazyLock<Mutex<Option<Postgres>>> = LazyLock::new(Mutex::default);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let shared = shared.get_or_insert_with(|| in_new_schema(connection));
    let number = N_SCHEMAS.fetch_add(1, Ordering::Relaxed);
    Postgres {
        repository: format!("/srv/repository-{number}"),
        ..shared.clone()
    }
}

impl Fixture {
    pub fn new() -> Self {
        let connection = std::env::var(POSTGRES).ok();
        Self {
            directory: tempfile::tempdir().unwrap(),
            postgres: connection.map(|connection| in_shared_schema(&connection)),
        }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn store(&self) -> Store {
        match &self.postgres {
            Some(postgres) => Store::connect(postgres).unwrap(),
            None => Store::open(self.directory()).unwrap(),
        }
    }

    pub fn listings(&self) -> Listings {
        match &self.postgres {
            Some(postgres) => Listings::connect(postgres).unwrap(),
            None => Listings::open(self.directory()).unwrap(),
        }
    }

    pub fn operations(&self) -> Operations {
        match &self.postgres {
            Some(postgres) => Operations::connect(postgres).unwrap(),
            None => Operations::open(self.directory()).unwrap(),
        }
    }
}

/// The number of pages in the log of a SQLite database.
///
/// While the store copies the log itself, there is no answer.
pub fn n_frames(connection: &rusqlite::Connection) -> i64 {
    loop {
        let found = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get::<_, bool>(0)?, row.get(1)?))
        });
        if let (false, n) = found.unwrap() {
            return n;
        }
        std::thread::yield_now();
    }
}
