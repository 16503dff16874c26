//! `init`: writes a configuration for the projects that a directory contains.
//!
//! Constraint: the command never overwrites a file, and only writes a configuration that `check`
//! accepts. It writes to the file that the other commands read first: `--config FILE`, else
//! `./config.yaml`. The other commands ignore `./config.yaml` in a directory that other users may
//! write to, so `init` does not write it there.

mod page;
mod survey;
mod text;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use globset::Glob;

use self::page::{Ports, TokenFile, directory_of};
use self::survey::{BOUNDS, Survey, survey};
use super::DONE;
use super::listen::DEFAULT_PORT;
use super::output::{counted, safe};
use crate::config::settings::{DefaultValue, SETTINGS};
use crate::config::{self, SystemEnvironment};
use crate::layout::Ignored;
use crate::layout::recognise::{DEFINITION, Recognised, recognise};
use crate::repository::Root;

/// Write a commented configuration for the projects that a directory contains.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct InitArguments {
    /// The directory of the projects
    #[arg(value_name = "DIR", default_value = ".", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
}

/// Writes the configuration, and prints the found projects and the next commands.
pub(super) fn run(
    arguments: &InitArguments,
    named: Option<&Path>,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let file = named.unwrap_or(Path::new(config::HERE));
    writable(file, named.is_some())?;
    let directory = &arguments.directory;
    let shown = safe(&directory.to_string_lossy());
    let root = open(directory)?;
    let ignored = ignored()?;
    let mut found = survey(&root, &ignored, BOUNDS);
    let recognised = recognise(&found.paths, &ignored);
    if let Some(recognised) = &recognised {
        for (path, reason) in &recognised.unexplained {
            let reason = format!("XML files, each {reason}");
            found.left_out.add(&reason, path, None);
        }
    }
    print_found(&shown, recognised.as_ref(), &found, out)?;
    if recognised.is_none() {
        nothing_recognised(&shown, &found)?;
    }
    let ports = Ports::free();
    let text = text::write(&text::Facts {
        directory,
        file,
        recognised: recognised.as_ref(),
        ports,
    })?;
    let mut token = TokenFile::make(file)?;
    accepted(&text, file)?;
    create(file, &text)?;
    token.keep();
    let next = Next {
        file,
        is_named: named.is_some(),
        token: &token.path,
        ports,
    };
    next.print(out)?;
    Ok(DONE)
}

/// Fails if the file exists, or if the other commands would ignore it.
fn writable(file: &Path, is_named: bool) -> anyhow::Result<()> {
    let shown = safe(&file.to_string_lossy());
    ensure!(
        file.symlink_metadata().is_err(),
        "{shown} exists already and is left as it is; name another file with --config FILE"
    );
    if !is_named && let Some(reason) = config::distrust_of_directory(Path::new("."))? {
        bail!(
            "{shown} is not written: {reason}, so the other commands would ignore it. Change to \
             another directory, or name the file with --config FILE"
        );
    }
    Ok(())
}

fn open(directory: &Path) -> anyhow::Result<Root> {
    let shown = safe(&directory.to_string_lossy());
    match std::fs::metadata(directory) {
        Ok(found) if !found.is_dir() => {
            bail!("{shown} is not a directory; name the directory that contains the projects")
        }
        Ok(_) => {}
        Err(error) => bail!("cannot read the directory {shown}: {error}"),
    }
    let root = Root::open(directory);
    root.with_context(|| format!("cannot read the directory {shown}"))
}

/// Returns the names that `repository.ignore` ignores by default.
fn ignored() -> anyhow::Result<Ignored> {
    let setting = SETTINGS
        .iter()
        .find(|setting| setting.key == "repository.ignore");
    let globs: Vec<Glob> = match setting.map(|setting| setting.default) {
        Some(DefaultValue::Values(globs)) => globs
            .iter()
            .map(|glob| Glob::new(glob))
            .collect::<Result<_, _>>()?,
        _ => Vec::new(),
    };
    Ok(Ignored::new(&globs)?)
}

/// Prints the layout, the counts, and the paths that are left out.
fn print_found(
    shown: &str,
    recognised: Option<&Recognised>,
    found: &Survey,
    out: &mut dyn Write,
) -> io::Result<()> {
    let counted = |n: usize, noun: &str| counted(n as u64, noun);
    if let Some(recognised) = recognised {
        let copies = match recognised.published {
            1 => "1 published copy".to_owned(),
            n => format!("{n} published copies"),
        };
        writeln!(out, "{shown}: {}", safe(&text::layout_name(recognised)))?;
        writeln!(
            out,
            "  {} in {}, {copies}, {}",
            counted(recognised.projects(), "project"),
            counted(recognised.organizations.len(), "organization"),
            counted(recognised.snapshots, "snapshot"),
        )?;
    } else if found.paths.is_empty() && found.left_out.count() == 0 && !found.is_cut {
        writeln!(out, "{shown}: no XML files; expecting the default layout")?;
    } else {
        writeln!(out, "{shown}: no layout recognised")?;
    }
    if found.left_out.count() > 0 {
        writeln!(out, "  not understood:")?;
    }
    for (reason, left) in found.left_out.iter() {
        let more = left.count - left.examples.len();
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let examples = left.examples.join(", ");
        writeln!(out, "    {reason}: {}{more}", safe(&examples))?;
    }
    if found.unread > 0 {
        let unread = counted(found.unread, "file");
        writeln!(
            out,
            "  {unread} counted by path but not read, because init reads at most {} files and {} MiB",
            BOUNDS.reads,
            BOUNDS.bytes / (1024 * 1024),
        )?;
    }
    if found.is_cut {
        writeln!(
            out,
            "  the search stopped after {} entries, so projects may be missing",
            BOUNDS.entries
        )?;
    }
    Ok(())
}

/// Fails if the survey found something but recognised no layout.
///
/// A directory without XML files is valid: it becomes a new repository.
fn nothing_recognised(shown: &str, found: &Survey) -> anyhow::Result<()> {
    ensure!(
        !found.paths.iter().any(|path| path == DEFINITION),
        "{shown} is a project by itself. Name the directory that contains its organization"
    );
    ensure!(
        found.paths.is_empty() && found.left_out.count() == 0 && !found.is_cut,
        "no projects in a known layout were found in {shown}, so nothing is written. For another \
         layout, write repository.layout by hand: see project-webhooks man 5"
    );
    Ok(())
}

/// Fails if `check` would reject the text.
fn accepted(text: &str, file: &Path) -> anyhow::Result<()> {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    config::load_str(text.as_bytes(), &path, &SystemEnvironment)
        .map(|_| ())
        .map_err(|problems| {
            anyhow::anyhow!("{problems}\nnothing is written: the configuration for this directory would be invalid")
        })
}

/// Creates the file with all its content, unless a file with this name exists.
fn create(file: &Path, text: &str) -> anyhow::Result<()> {
    let shown = safe(&file.to_string_lossy());
    let write = || -> io::Result<()> {
        let mut temporary = tempfile::Builder::new()
            .prefix(".config.yaml.")
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(directory_of(file))?;
        temporary.write_all(text.as_bytes())?;
        temporary.persist_noclobber(file)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {shown}"))
}

/// The facts that the printed commands depend on.
struct Next<'a> {
    /// The written configuration.
    file: &'a Path,
    is_named: bool,
    /// The file with the token of the page.
    token: &'a Path,
    ports: Ports,
}

impl Next<'_> {
    /// Prints the next commands in a form that can be copied.
    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let program = program();
        let with = match self.is_named {
            true => format!(" --config {}", quoted(self.file.as_os_str())),
            false => String::new(),
        };
        let port = match self.ports.receiver {
            DEFAULT_PORT => String::new(),
            port => format!(" --port {port}"),
        };
        let commands = [
            (
                format!("{program}{with} check"),
                "validate the configuration, and see where events go",
            ),
            (
                format!("{program} listen{port}"),
                "in a second terminal: print the callbacks",
            ),
            (
                format!("{program}{with} run"),
                "in a third: watch the projects and send",
            ),
        ];
        let width = commands.iter().map(|(command, _)| command.chars().count());
        let width = width.max().unwrap_or(0);
        let (file, token) = (self.file.to_string_lossy(), self.token.to_string_lossy());
        writeln!(
            out,
            "wrote {}; the token of the page is in {}\n\nnext:",
            safe(&file),
            safe(&token)
        )?;
        for (command, purpose) in commands {
            let padding = " ".repeat(width.saturating_sub(command.chars().count()));
            writeln!(out, "  {command}{padding}   # {purpose}")?;
        }
        writeln!(
            out,
            "\nthen copy a project's directory, and see its callbacks. Or send a test:\n  \
             {program}{with} webhooks test {}\n\n\
             while the daemon runs, a page in the browser shows events, deliveries and webhooks:\n  \
             http://127.0.0.1:{}/\n\
             log in with the token that this prints:\n  \
             cat {}",
            text::WEBHOOK,
            self.ports.page,
            quoted(self.token.as_os_str())
        )
    }
}

/// Returns the program's path as the caller wrote it, or only its name if the caller wrote no path.
fn program() -> String {
    match std::env::args_os().next() {
        Some(named) if named.to_string_lossy().contains('/') => quoted(&named),
        _ => env!("CARGO_PKG_NAME").to_owned(),
    }
}

/// Quotes an argument for a shell if necessary.
fn quoted(argument: &OsStr) -> String {
    let text = argument.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::recognise::SHAPES;

    #[test]
    fn the_first_known_layout_is_the_default_of_the_settings() {
        let shape = SHAPES.iter().find(|shape| shape.is_default());
        let shape = shape.expect("the first one");
        for (key, texts) in [
            ("repository.layout.project", shape.project),
            ("repository.layout.published", shape.published),
            ("repository.layout.snapshot", shape.snapshot),
        ] {
            let setting = SETTINGS.iter().find(|setting| setting.key == key);
            let default = setting.map(|setting| setting.default);
            assert!(
                matches!(default, Some(DefaultValue::Values(values)) if values == texts),
                "{key}: {default:?}"
            );
        }
    }

    #[test]
    fn arguments_are_quoted_for_a_shell_if_needed() {
        for (argument, expected) in [
            ("/srv/config.yaml", "/srv/config.yaml"),
            ("my config.yaml", "'my config.yaml'"),
            ("it's", r"'it'\''s'"),
            ("$(x)", "'$(x)'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(OsStr::new(argument)), expected);
        }
    }
}
