//! Values that come from elsewhere: credentials, environment variables, files.
//!
//! Constraint: a value that was read is shown nowhere. Problems name where it comes from, never
//! what it is; the types that carry it on do not print it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::problem::shown;
use super::raw::Kind;
use super::section::{Context, Fault, Place};
use super::value::At;

/// The largest file that a value is read from, in bytes.
const FILE_MAX: u64 = 256 * 1024;

/// What is allowed where a value may come from elsewhere.
const ALLOWED: &str = "a text, { credential: NAME }, { env: NAME } or { file: PATH }";

/// A value, and whether it stands in the configuration file itself.
pub(super) struct Sourced {
    pub value: SecretString,
    pub is_plain: bool,
}

/// What stands for a value that is not read: long enough for a secret, fit for a header.
const NOT_READ: &str = "not-read-not-read-not-read-not-read";

/// The value of a text or of one of its sources.
pub(super) fn value(at: &At<'_>, context: &mut Context<'_>) -> Option<Sourced> {
    match &at.node.kind {
        Kind::Text(_) => {
            let text = at.text(context)?;
            Some(Sourced {
                value: SecretString::from(text.to_owned()),
                is_plain: true,
            })
        }
        Kind::Map(_) => source(at, context).map(|value| Sourced {
            value,
            is_plain: false,
        }),
        Kind::Null => {
            context.error(&at.place, Fault::new("has no value").allowed(ALLOWED));
            None
        }
        Kind::Boolean(_) | Kind::Whole(_) | Kind::Number => {
            let found = at.node.kind.called();
            let message = format!("must be a text, not {found}; put it into quotes");
            context.error(&at.place, Fault::new(message).allowed(ALLOWED));
            None
        }
        Kind::List(_) => {
            let fault = Fault::new("must be one value, not a list").allowed(ALLOWED);
            context.error(&at.place, fault);
            None
        }
    }
}

fn source(at: &At<'_>, context: &mut Context<'_>) -> Option<SecretString> {
    let before = context.errors.len();
    let mut section = at.section(context)?;
    let place = section.place.clone();
    let credential = section.take("credential");
    let variable = section.take("env");
    let file = section.take("file");
    section.finish(context);
    match (credential, variable, file) {
        (Some(at), None, None) => {
            let name = at.text(context)?;
            from_credential(name, &at.place, context)
        }
        (None, Some(at), None) => {
            let name = at.text(context)?;
            if !context.environment.reads_secrets() {
                return Some(SecretString::from(NOT_READ));
            }
            from_environment(name, &at.place, context)
        }
        (None, None, Some(at)) => {
            let path = at.path(context)?;
            if !context.environment.reads_secrets() {
                return Some(SecretString::from(NOT_READ));
            }
            let text = read(&path, &at.place, context, true)?;
            checked(text, &at.place, context)
        }
        (None, None, None) => {
            // An unknown key has been reported already, with the same list.
            if context.errors.len() == before {
                context.error(&place, Fault::new("names no source").allowed(ALLOWED));
            }
            None
        }
        _ => {
            context.error(
                &place,
                Fault::new("names several sources; a value comes from one").allowed(ALLOWED),
            );
            None
        }
    }
}

fn from_credential(name: &str, place: &Place, context: &mut Context<'_>) -> Option<SecretString> {
    if name.contains('/') || name == "." || name == ".." {
        let fault = Fault::new(format!("{} is not the name of a credential", shown(name)))
            .allowed("a file name below $CREDENTIALS_DIRECTORY; for a path: { file: PATH }");
        context.error(place, fault);
        return None;
    }
    if !context.environment.reads_secrets() {
        return Some(SecretString::from(NOT_READ));
    }
    let directory = context
        .environment
        .variable("CREDENTIALS_DIRECTORY")
        .filter(|directory| !directory.is_empty());
    let Some(directory) = directory else {
        let message = format!(
            "the credential {} cannot be read: $CREDENTIALS_DIRECTORY is not set; systemd sets it \
             where the unit has LoadCredential= or SetCredential=",
            shown(name)
        );
        context.error(place, message);
        return None;
    };
    let path = PathBuf::from(directory).join(name);
    // systemd looks after the permissions of what it puts there.
    let text = read(&path, place, context, false)?;
    checked(text, place, context)
}

fn from_environment(name: &str, place: &Place, context: &mut Context<'_>) -> Option<SecretString> {
    let Some(value) = context.environment.variable(name) else {
        let message = format!("the environment variable {} is not set", shown(name));
        context.error(place, message);
        return None;
    };
    match value.into_string() {
        Ok(text) => checked(text, place, context),
        Err(_) => {
            let message = format!("the environment variable {} is not UTF-8", shown(name));
            context.error(place, message);
            None
        }
    }
}

/// The text without the one line end that editors and `echo` add.
fn checked(mut text: String, place: &Place, context: &mut Context<'_>) -> Option<SecretString> {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        context.error(place, "the value is empty");
        return None;
    }
    Some(SecretString::from(text))
}

/// The text of a small file; `guarded` warns where everybody can read it.
pub(super) fn read(
    path: &Path,
    place: &Place,
    context: &mut Context<'_>,
    guarded: bool,
) -> Option<String> {
    let shown_path = path.display();
    let result = read_file(path);
    let (bytes, mode) = match result {
        Ok(found) => found,
        Err(reason) => {
            context.error(place, format!("{shown_path} cannot be read: {reason}"));
            return None;
        }
    };
    if guarded && mode & 0o004 != 0 {
        let message = format!(
            "everybody on this machine can read {shown_path}; chmod 0600 it, or 0640 with the \
             daemon's group"
        );
        context.warning(place, message);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(_) => {
            context.error(place, format!("{shown_path} is not UTF-8"));
            None
        }
    }
}

fn read_file(path: &Path) -> Result<(Vec<u8>, u32), String> {
    // Opening a pipe would wait for its other end, so what it is comes first.
    let is_file = |metadata: &std::fs::Metadata| {
        if metadata.is_file() {
            Ok(())
        } else {
            Err("it is not a regular file".to_owned())
        }
    };
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    is_file(&metadata)?;
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("it is larger than {FILE_MAX} bytes"));
    }
    Ok((bytes, metadata.mode()))
}
