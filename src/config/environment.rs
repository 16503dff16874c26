//! Environment variables.
//!
//! Constraint: the configuration reads variables only through [`Environment`]. So tests pass their
//! own variables and need no global state.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// A source of environment variables.
pub trait Environment {
    /// The value of a variable, if it is set.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// Whether values are read from credentials, variables and files.
    ///
    /// If not, such values are placeholders, and the configuration cannot be used to send requests.
    /// `store.password` is read even then, if possible.
    fn reads_secrets(&self) -> bool {
        true
    }

    /// Whether the paths of repositories are checked on disk.
    ///
    /// If not, a repository on a hung file system does not delay the command.
    fn looks_at_repositories(&self) -> bool {
        true
    }
}

/// The environment of the process, without secrets and checks of repositories.
///
/// An operator's shell lacks the service's credentials and variables, but `status` must work
/// there. It must also work while the file system of a repository hangs.
#[derive(Clone, Copy, Debug, Default)]
pub struct WithoutSecrets;

impl Environment for WithoutSecrets {
    fn variable(&self, name: &str) -> Option<OsString> {
        SystemEnvironment.variable(name)
    }

    fn reads_secrets(&self) -> bool {
        false
    }

    fn looks_at_repositories(&self) -> bool {
        false
    }
}

/// The environment of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        // The name may come from the configuration. A variable with an invalid name is not set.
        let possible = !name.is_empty() && !name.contains(['=', '\0']);
        possible.then(|| std::env::var_os(name)).flatten()
    }
}

/// A fixed environment, for tests.
impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }
}
