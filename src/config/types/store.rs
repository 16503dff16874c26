//! The settings of PostgreSQL as the database of the state, and the roles of a process.

use std::time::Duration;

use secrecy::SecretString;

/// The PostgreSQL database that keeps the state.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// The connection string, without a password.
    pub connection: String,
    /// The password. `None` if it is not set.
    ///
    /// Also `None` if it cannot be read and secrets are not required, as in some commands.
    pub password: Option<SecretString>,
    /// Whether the connection is encrypted and the server's certificate is verified.
    pub tls: bool,
    /// How long this process may be out of reach of the database.
    ///
    /// After that, other processes may take over its work.
    pub lease: Duration,
    /// The name of the repository in the database.
    ///
    /// [`Postgres::LIST`] if the configuration has the setting `repositories`.
    pub repository: String,
    /// The names of the repositories of the setting `repositories`.
    ///
    /// Empty if the configuration has the setting `repository` instead.
    pub repositories: Vec<String>,
}

impl Postgres {
    /// The name in the database that all repositories of the setting `repositories` share.
    ///
    /// No single repository has this name: `repository.name` contains no `//`, and a path begins
    /// with `/`.
    pub const LIST: &'static str = "repositories//";

    /// The repository or repositories, for messages.
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
    /// Whether the process may watch the repository.
    ///
    /// With PostgreSQL, only one process watches it at a time. The others wait to take over.
    pub watch: bool,
    /// Whether the process sends callbacks.
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
