//! The place of the state: SQLite in the state directory, or PostgreSQL.

use std::time::Duration;

use secrecy::SecretString;

/// The database that keeps the state, if it is PostgreSQL.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// The connection string, without a password.
    pub connection: String,
    /// The password, if the server asks for one.
    pub password: Option<SecretString>,
    /// Whether the connection is encrypted and the server's certificate is verified.
    pub tls: bool,
    /// How long a process may be unreachable before another one takes over its work.
    pub lease: Duration,
    /// The name under which the database has the watched repository: [`Postgres::LIST`] for several.
    pub repository: String,
    /// The names of several repositories (`repositories:`). Empty with one.
    pub repositories: Vec<String>,
}

impl Postgres {
    /// The name under which a database has the record of all repositories of a list.
    ///
    /// No single repository has it: `repository.name` contains no two slashes, and a path begins with one.
    pub const LIST: &'static str = "repositories//";

    /// The watched repository or repositories, for messages.
    pub(crate) fn shown(&self) -> String {
        match self.repositories.is_empty() {
            true => format!("the repository {}", self.repository),
            false => format!("the repositories {}", self.repositories.join(", ")),
        }
    }
}

/// The tasks of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Whether it watches the repository, or waits to take that over.
    pub watch: bool,
    /// Whether it sends callbacks.
    pub deliver: bool,
}

impl Default for Roles {
    fn default() -> Self {
        Self {
            watch: true,
            deliver: true,
        }
    }
}
