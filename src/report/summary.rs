//! The state of the daemon in one line: for systemd and for `/readyz`.

use super::fleet;
use crate::engine::status::{Snapshot, Trouble};
use crate::store::LeaseView;

/// Returns the state of the engine, and of the lease if there is one, in one line.
pub(crate) fn summary(engine: &Snapshot, lease: Option<&LeaseView>) -> String {
    let mut line = of_engine(engine);
    line.extend(lease.map(fleet::summary));
    line
}

/// The text that replaces an error of the store for clients that `auth` does not permit.
///
/// The error may contain the names of the database and its host.
const STORE_TROUBLE: &str = "the state cannot be read or written; inference waits";

/// Returns the [`summary`] without names of the database, for clients without the token.
pub(crate) fn public_summary(engine: &Snapshot, lease: Option<&LeaseView>) -> String {
    let mut public = engine.clone();
    if let Some(text) = public.troubles.get_mut(&Trouble::Store) {
        STORE_TROUBLE.clone_into(text);
    }
    summary(&public, lease)
}

fn of_engine(engine: &Snapshot) -> String {
    if !engine.troubles.is_empty() {
        let troubles: Vec<String> = engine.troubles.values().map(ToString::to_string).collect();
        return format!("trouble: {}", troubles.join("; "));
    }
    if !engine.ready {
        return "starting: the first full scan is running".to_owned();
    }
    let projects = match engine.projects {
        1 => "1 project".to_owned(),
        n => format!("{n} projects"),
    };
    let invalid = match engine.problems {
        0 => String::new(),
        1 => ", 1 file incomplete or unreadable".to_owned(),
        n => format!(", {n} files incomplete or unreadable"),
    };
    format!("watching {projects}{invalid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_without_the_token_read_no_error_of_the_store() {
        const ROOT: &str = "the repository /srv/models is missing";
        const STORE: &str = "the PostgreSQL database webhooks on db.example.com: no answer";
        for with_root in [false, true] {
            let mut engine = Snapshot::default();
            engine.troubles.insert(Trouble::Store, STORE.to_owned());
            if with_root {
                engine.troubles.insert(Trouble::Root, ROOT.to_owned());
            }
            let line = public_summary(&engine, None);
            assert!(!line.contains("db.example.com"), "{line}");
            assert!(
                line.contains("the state cannot be read or written"),
                "{line}"
            );
            assert_eq!(line.contains(ROOT), with_root, "{line}");
            assert!(summary(&engine, None).contains(STORE));
        }
    }
}
