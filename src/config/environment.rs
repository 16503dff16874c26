//! Environment variables.
//!
//! Constraint: only [`SystemEnvironment`] reads the environment of the process. So tests pass
//! their own variables and need no global state.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Environment variables.
pub trait Environment {
    /// The value of a variable, if it is set.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// Whether values are read from credentials, variables and files.
    ///
    /// If not, such values are placeholders, and the configuration cannot be used to send.
    fn reads_secrets(&self) -> bool {
        true
    }
}

/// The environment of the process, without secrets: for commands that send nothing.
///
/// An operator's shell lacks the service's credentials and variables, but `status` must work
/// there.
#[derive(Clone, Copy, Debug, Default)]
pub struct WithoutSecrets;

impl Environment for WithoutSecrets {
    fn variable(&self, name: &str) -> Option<OsString> {
        SystemEnvironment.variable(name)
    }

    fn reads_secrets(&self) -> bool {
        false
    }
}

/// The process's environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        // The name comes from the configuration, and `var_os` may panic on an invalid name.
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
