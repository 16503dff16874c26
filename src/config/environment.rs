//! What the environment says.
//!
//! Constraint: nothing in this layer reads the process's environment but [`SystemEnvironment`], so
//! that a test gives its own and needs no globals.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Environment variables.
pub trait Environment {
    /// The value of a variable, if it is set.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// Whether values that come from elsewhere (credentials, variables, files) are read. Where
    /// they are not, a placeholder stands for each, and nothing can be sent.
    fn reads_secrets(&self) -> bool {
        true
    }
}

/// The process's own environment, for a command that sends nothing: an operator's shell has
/// neither the service's credentials nor its variables, and must be able to ask how it is.
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

/// The process's own environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        // `var_os` is documented to give nothing, or to panic on some systems, for names that
        // cannot be; the name comes from the file, so it is checked first.
        let possible = !name.is_empty() && !name.contains(['=', '\0']);
        possible.then(|| std::env::var_os(name)).flatten()
    }
}

/// A fixed environment.
impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }
}
