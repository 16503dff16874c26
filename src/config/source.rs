//! Reads values from credentials, environment variables and files.
//!
//! Constraint: a value is never printed. Problems name the source instead.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use secrecy::{ExposeSecret, SecretString};

use super::looks::Looks;
use super::problem::shown;
use super::reader::{Context, Fault, Location, Mapping};
use super::value::Value;
use super::yaml::{Entry, Kind};
use super::{Environment, SystemEnvironment};

/// The maximum size of a file with a value, in bytes.
const FILE_MAX: u64 = 256 * 1024;

/// A value and its source.
pub(super) struct Sourced {
    pub text: SecretString,
    /// Whether the configuration file itself contains the value.
    pub is_plain: bool,
    /// The file that the value was read from, if any. A credential is also a file.
    pub file: Option<PathBuf>,
}

impl Sourced {
    /// Whether the value was not read. See [`Environment::reads_secrets`].
    pub(super) fn is_placeholder(&self) -> bool {
        self.text.expose_secret() == NOT_READ
    }
}

/// The placeholder for a value that is not read.
///
/// It is valid as a secret and as the value of a header.
const NOT_READ: &str = "not-read-not-read-not-read-not-read";

/// Reads a string from the configuration, or from the source that it names.
pub(super) fn read(value: &Value<'_>, context: &mut Context<'_>) -> Option<Sourced> {
    let fault = match &value.node.kind {
        Kind::Text(_) => {
            let text = SecretString::from(value.text(context)?.to_owned());
            return Some(Sourced {
                text,
                is_plain: true,
                file: None,
            });
        }
        Kind::Map(entries) => {
            return read_source(entries, &value.location, context);
        }
        Kind::Null => Fault::not_allowed("has no value"),
        Kind::Boolean(_) | Kind::Whole(_) | Kind::Number => {
            let found = value.node.kind.name();
            Fault::not_allowed(format!("must be a string, not {found}; put it in quotes"))
        }
        Kind::List(_) => Fault::not_allowed("must be one value, not a list"),
    };
    context.error(&value.location, fault);
    None
}

/// Reads a value even if `context` reads no secrets ([`Environment::reads_secrets`]).
///
/// If `context` reads no secrets and the value cannot be read, returns `Some(None)` without an
/// error. The command fails later if it needs the value.
pub(super) fn read_if_possible(
    value: &Value<'_>,
    context: &mut Context<'_>,
) -> Option<Option<SecretString>> {
    let sourced = read(value, context)?;
    if !sourced.is_placeholder() {
        return Some(Some(sourced.text));
    }
    let (n_errors, n_warnings) = (context.errors.len(), context.warnings.len());
    let environment = std::mem::replace(&mut context.environment, &SystemEnvironment);
    let sourced = read(value, context);
    context.environment = environment;
    context.errors.truncate(n_errors);
    context.warnings.truncate(n_warnings);
    Some(sourced.map(|sourced| sourced.text))
}

fn read_source(
    entries: &[Entry],
    location: &Location,
    context: &mut Context<'_>,
) -> Option<Sourced> {
    let n_errors = context.errors.len();
    let keys = ["credential", "env", "file"];
    let mapping = Mapping::with_keys(entries, location.clone(), &keys, context);
    let (value, text, file) = match keys.map(|key| mapping.given(key)) {
        [Some(value), None, None] => {
            let name = value.text(context)?;
            let path = credential_path(name, context.environment);
            let path = context.accept(&value.location, path)?;
            let text = path
                .as_deref()
                .map(|path| read_text(path, &mut context.looks));
            (value, text, path)
        }
        [None, Some(value), None] => {
            let name = value.text(context)?;
            let environment = context.environment;
            let reads = environment.reads_secrets();
            let text = reads.then(|| variable(name, environment).map_err(Fault::from));
            (value, text, None)
        }
        [None, None, Some(value)] => {
            let path = value.path(context)?;
            let reads = context.environment.reads_secrets();
            if reads {
                warn_if_public(&path, &value.location, context);
            }
            let text = reads.then(|| read_text(&path, &mut context.looks));
            (value, text, reads.then_some(path))
        }
        [None, None, None] => {
            // If there is a new error, `with_keys` has reported a wrong key.
            if context.errors.len() == n_errors {
                context.error(location, Fault::not_allowed("has no source"));
            }
            return None;
        }
        _ => {
            let message = "has several sources; a value has exactly one source";
            context.error(location, Fault::not_allowed(message));
            return None;
        }
    };
    let text = text.unwrap_or_else(|| Ok(NOT_READ.to_owned()));
    let text = text.and_then(|text| Ok(without_line_end(text)?));
    let text = context.accept(&value.location, text)?;
    Some(Sourced {
        text: SecretString::from(text),
        is_plain: false,
        file,
    })
}

/// Reads a value from a file, without its line end.
pub(super) fn read_value(path: &Path) -> Result<SecretString, Fault> {
    let text = read_text(path, &mut Looks::new(false))?;
    Ok(SecretString::from(without_line_end(text)?))
}

/// Returns the path of a credential. `None` if secrets are not read.
fn credential_path(name: &str, environment: &dyn Environment) -> Result<Option<PathBuf>, Fault> {
    if name.contains('/') || name == "." || name == ".." {
        let message = format!("{} is not the name of a credential", shown(name));
        let allowed = "a file name below $CREDENTIALS_DIRECTORY; for a path: { file: PATH }";
        return Err(Fault::new(message).allowed(allowed));
    }
    if !environment.reads_secrets() {
        return Ok(None);
    }
    let directory = environment
        .variable("CREDENTIALS_DIRECTORY")
        .filter(|directory| !directory.is_empty());
    match directory {
        Some(directory) => Ok(Some(PathBuf::from(directory).join(name))),
        None => Err(Fault::new(format!(
            "the credential {} cannot be read: $CREDENTIALS_DIRECTORY is not set; systemd sets this \
             variable if the unit has LoadCredential= or SetCredential=",
            shown(name)
        ))),
    }
}

fn variable(name: &str, environment: &dyn Environment) -> Result<String, String> {
    let shown_name = shown(name);
    match environment.variable(name) {
        Some(value) => value
            .into_string()
            .map_err(|_| format!("the environment variable {shown_name} is not UTF-8")),
        None => Err(format!("the environment variable {shown_name} is not set")),
    }
}

/// Removes the line end that editors and `echo` add. An empty value is an error.
fn without_line_end(mut text: String) -> Result<String, String> {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err("the value is empty".to_owned());
    }
    Ok(text)
}

/// Warns if every user of the machine can read a file.
pub(super) fn warn_if_public(path: &Path, location: &Location, context: &mut Context<'_>) {
    let metadata = context.looks.read(path, |path| std::fs::metadata(path));
    if metadata.is_ok_and(|metadata| metadata.mode() & 0o004 != 0) {
        let message = format!(
            "every user of this machine can read {}; chmod it to 0600, or to 0640 with the \
             daemon's group",
            path.display()
        );
        context.warning(location, message);
    }
}

/// Reads a UTF-8 file of at most [`FILE_MAX`] bytes.
pub(super) fn read_text(path: &Path, looks: &mut Looks) -> Result<String, Fault> {
    let bytes = read_bytes(path, FILE_MAX, looks)?;
    String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()).into())
}

/// Reads a file of at most `max` bytes.
pub(super) fn read_bytes(path: &Path, max: u64, looks: &mut Looks) -> Result<Vec<u8>, Fault> {
    let read = looks.read(path, move |path| read_file(path, max));
    read.map_err(|error| Fault::of_file(path, &error))
}

fn read_file(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // Without `NONBLOCK`, opening a pipe waits for a writer. A pipe may replace the file at any
    // time.
    let nonblocking = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, nonblocking, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("it is larger than {max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::sync_channel;
    use std::thread;
    use std::time::Duration;

    use rustix::fs::{CWD, FileType, RenameFlags, mknodat, renameat_with};

    use super::*;

    #[test]
    fn a_pipe_that_takes_the_place_of_a_file_is_not_waited_for() {
        const READS: usize = 20_000;
        let directory = tempfile::tempdir().unwrap();
        let (file, pipe) = (directory.path().join("file"), directory.path().join("pipe"));
        std::fs::write(&file, "value").unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (sender, ended) = sync_channel(1);
        let path = file.clone();
        thread::spawn(move || {
            let read = (0..READS).filter_map(|_| read_file(&path, 8).ok());
            let _ = sender.send(read.filter(|value| value != b"value").count());
        });
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let exchange = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                renameat_with(CWD, &file, CWD, &pipe, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let n_wrong = ended.recv_timeout(Duration::from_secs(60));
        stop.store(true, Ordering::Relaxed);
        exchange.join().unwrap();
        assert_eq!(n_wrong, Ok(0));
    }
}
