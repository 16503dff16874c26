//! Finds the configuration file if the user does not name one.
//!
//! Constraint: the current directory may belong to another user, whose configuration could send
//! the caller's secrets to any URL. So `./config.yaml` and its directory must belong to root or the
//! caller, and no other user may write them, except members of the owner's private group. Otherwise
//! the file is not read. If the file is a link, the same holds for its target.
//!
//! The directories above the current directory need no check: the file is opened relative to the
//! current directory, which stays the same if a directory above it is renamed.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::looks::{Looks, is_silent};
use super::problem::{Problem, Problems};

/// The first default path, relative to the current directory.
pub(crate) const HERE: &str = "./config.yaml";
/// The second default path.
pub(super) const SYSTEM: &str = "/etc/project-webhooks/config.yaml";

/// The configuration file to read.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: PathBuf,
    /// The warning that `HERE` is ignored, if the file is not trusted.
    pub(crate) ignored: Option<Problem>,
}

/// Returns the file to read: the named file, or a default.
///
/// The default is `HERE` if that file is trusted, else `SYSTEM`. If neither file is found, the
/// result is `HERE`, so that the error names it.
///
/// # Errors
///
/// The file `HERE` is not trusted, and `SYSTEM` is not found.
pub(crate) fn find(named: Option<&Path>) -> Result<Found, Problems> {
    let found = |file: &Path, ignored| Found {
        file: file.to_owned(),
        ignored,
    };
    if let Some(named) = named {
        return Ok(found(named, None));
    }
    let (here, system) = (Path::new(HERE), Path::new(SYSTEM));
    let caller = rustix::process::geteuid().as_raw();
    let distrust = Looks::new(false).read(here, move |here| distrust(here, caller));
    let mut is_passing = false;
    let distrust = match distrust {
        Ok(distrust) => distrust,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = if system.exists() { system } else { here };
            return Ok(found(file, None));
        }
        // Another user may have caused the error, so the file is not trusted.
        Err(error) => {
            is_passing = is_silent(&error);
            Some(format!("{HERE} cannot be checked: {error}"))
        }
    };
    match distrust {
        None => Ok(found(here, None)),
        Some(reason) if system.exists() => {
            let message = format!("is ignored, and {SYSTEM} is read instead: {reason}. {ADVICE}");
            Ok(found(system, Some(Problem::of_file(here, message))))
        }
        Some(reason) => Err(Problems {
            errors: vec![Problem {
                is_passing,
                ..Problem::of_file(here, format!("is ignored: {reason}. {ADVICE}"))
            }],
            warnings: Vec::new(),
        }),
    }
}

const ADVICE: &str =
    "Correct the owner or the permissions, or pass --config FILE if you trust the file";

/// Returns why a file is not trusted. `None` if it is trusted.
fn distrust(file: &Path, caller: u32) -> io::Result<Option<String>> {
    let named = fs::symlink_metadata(file)?;
    // Resolve only links, because `canonicalize` fails if a directory above cannot be searched.
    let target = match named.is_symlink() {
        true => fs::canonicalize(file)?,
        false => file.to_owned(),
    };
    let links = named.is_symlink().then_some((HERE, named));
    let mut checked: Vec<(&str, Metadata)> = links.into_iter().collect();
    let directories = [
        ("its directory", file.parent()),
        ("the directory of the link's target", target.parent()),
    ];
    for (what, directory) in directories {
        if let Some(directory) = directory {
            checked.push((what, fs::metadata(directory)?));
        }
    }
    checked.push((HERE, fs::metadata(&target)?));
    let mut reasons = checked.iter().filter_map(|(what, metadata)| {
        // Nobody can write to a symbolic link, so its mode does not matter.
        let mode = if metadata.is_symlink() {
            0
        } else {
            metadata.mode()
        };
        distrust_of(metadata.uid(), metadata.gid(), mode, caller)
            .map(|reason| reason.replace("{}", what))
    });
    Ok(reasons.next())
}

/// Returns why no configuration in this directory would be trusted.
///
/// `None` if the directory is trusted.
///
/// # Errors
///
/// The metadata of the directory cannot be read.
pub(crate) fn distrust_of_directory(directory: &Path) -> io::Result<Option<String>> {
    let found = fs::metadata(directory)?;
    let caller = rustix::process::geteuid().as_raw();
    let reason = distrust_of(found.uid(), found.gid(), found.mode(), caller);
    Ok(reason.map(|reason| reason.replace("{}", "its directory")))
}

/// Returns why other users may have written a file with this owner, group and mode.
///
/// `None` if they may not. In the text, `{}` stands for the file. A group with the number of the
/// owner may write the file, because it is the private group of the owner by convention.
fn distrust_of(uid: u32, gid: u32, mode: u32, caller: u32) -> Option<String> {
    if uid != 0 && uid != caller {
        Some(format!(
            "{{}} belongs to the user with id {uid}, who is neither root nor you"
        ))
    } else if mode & 0o002 != 0 {
        Some("everybody may write to {}".to_owned())
    } else if mode & 0o020 != 0 && gid != uid {
        Some(format!("the group with id {gid} may write to {{}}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_caller_may_have_written_it() {
        for (uid, gid, mode, is_trusted) in [
            (0, 0, 0o644, true),
            (0, 0, 0o775, true),
            (1000, 1000, 0o600, true),
            // A private group.
            (1000, 1000, 0o664, true),
            (1000, 100, 0o664, false),
            (0, 1000, 0o664, false),
            (1000, 1000, 0o666, false),
            // A sticky directory, where everybody may add a file.
            (0, 0, 0o1777, false),
            (1001, 1001, 0o600, false),
        ] {
            let reason = distrust_of(uid, gid, mode, 1000);
            assert_eq!(reason.is_none(), is_trusted, "{uid} {gid} {mode:o}");
        }
        assert!(distrust_of(1000, 1000, 0o600, 0).is_some());
    }
}
