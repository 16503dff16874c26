//! The text of the configuration that `init` writes.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;

use super::super::output::counted;
use super::page::{Ports, TOKEN_FILE};
use crate::domain::names::composed;
use crate::layout::recognise::{Recognised, Shape};

/// The name of the webhook that sends everything to `listen`.
pub(super) const WEBHOOK: &str = "everything";

/// The path where packages install the schema of the configuration.
const SCHEMA: &str = "/usr/share/project-webhooks/config.schema.json";

/// The maximum number of organizations in the text. Further ones work without an entry.
const ORGANIZATIONS_MAX: usize = 200;

/// The facts that the text depends on.
pub(super) struct Facts<'a> {
    /// The surveyed directory, as the caller named it.
    pub(super) directory: &'a Path,
    /// The file that will contain the text.
    pub(super) file: &'a Path,
    pub(super) recognised: Option<&'a Recognised>,
    pub(super) ports: Ports,
}

/// Returns the name of the recognised layout, with its templates.
pub(super) fn layout_name(recognised: &Recognised) -> String {
    let shape = recognised.shape;
    let below = match recognised.below.as_str() {
        "" => String::new(),
        below => format!(" in {below}"),
    };
    let is_bundle = shape.is_default() && recognised.below.rsplit('/').next() == Some("metadata");
    let name = if is_bundle {
        "AtScale's support bundle"
    } else {
        shape.name
    };
    format!("{name}{below}, {}", shape.project.join(" or "))
}

/// Writes the configuration.
///
/// # Errors
///
/// A path is not UTF-8, the current directory cannot be read, or there is no place for the state.
pub(super) fn write(facts: &Facts<'_>) -> anyhow::Result<String> {
    let mut path = facts.directory.to_owned();
    if let Some(recognised) = facts.recognised.filter(|found| !found.below.is_empty()) {
        path.push(&recognised.below);
    }
    let base = facts.file.parent().unwrap_or(Path::new(""));
    let current = std::env::current_dir().context("cannot read the current directory")?;
    let is_here = current.join(base).canonicalize().ok() == current.canonicalize().ok();
    let absolute = current.join(&path);
    // A relative path in the configuration starts from the directory of its file. So keep a
    // relative path only if that directory is the current directory.
    let written = if is_here { path } else { absolute.clone() };
    let written = utf8(&written)?;
    let state = state_dir(&absolute, &current.join(base))?;
    let layout = layout(facts.recognised.map(|found| found.shape));
    let organizations = organizations(facts.recognised);
    let found = match facts.recognised {
        Some(found) => layout_name(found),
        None => "no project yet, so the default layout is expected".to_owned(),
    };
    let found = comment(&found);
    let path = quoted(&written);
    let Ports { page, receiver } = facts.ports;
    Ok(format!(
        "{}\n\
         # project-webhooks: the configuration, as `project-webhooks init` wrote it.\n\
         #\n\
         # `project-webhooks check` validates this file and prints where every event goes. A running\n\
         # daemon reads it again on `project-webhooks reload`. Every setting is in\n\
         # `project-webhooks man 5`. Relative paths start from the directory of this file.\n\
         \n\
         # The directory tree that is watched: {found}.\n\
         repository:\n  path: {path}\n{layout}\
         \n  # The first start, with nothing recorded: `adopt` records the existing files without\n  \
         # callbacks, `report` also sends their imports, publishes and snapshots.\n  \
         on_first_start: adopt\n\
         \n  # How long a project must be idle before a missing file counts as removed.\n  # settle: 1s\n\
         \n{state}\n{organizations}\n\
         # The user name in callbacks: the first source that yields one. owner is the file's owner,\n\
         # annotation:NAME an annotation in the project.xml, value:TEXT a fixed text.\n\
         username: [owner]\n\
         \n\
         # The receivers and their events.\n\
         webhooks:\n  \
         # `project-webhooks listen` receives these callbacks and prints them.\n  \
         - name: {WEBHOOK}\n    events: \"*\"\n    url: http://127.0.0.1:{receiver}/\n\
         \n  \
         # A receiver of one event, with a signature. The secret is better kept in a file.\n  \
         # - name: catalog\n  \
         #   event: Project Publish\n  \
         #   url: https://catalog.example.com/hooks/atscale\n  \
         #   projects: [\"sales/*\"]        # globs on organization/project\n  \
         #   format: multipart            # or form, xml, json, cloudevents, template\n  \
         #   secret: {{ file: secret }}\n\
         \n\
         # How long finished deliveries are kept, for listings and redelivery.\n\
         # retention: {{ delivered: 7d, dead: 30d }}\n\
         \n\
         # The page (http://127.0.0.1:{page}/), the API, metrics and health, for this machine only. The page\n\
         # and the API need the token. The token gives access to all payloads, so only the owner of\n\
         # its file may read it. If the daemon runs as another user, make that user the owner.\n\
         admin: {{ listen: \"127.0.0.1:{page}\", token: {{ file: {TOKEN_FILE} }} }}\n",
        editor_line()
    ))
}

/// Returns the comment that tells editors where the schema is, so that they need no network.
///
/// Packages install the schema at [`SCHEMA`]. Without a package, the user can write the schema
/// next to the configuration.
fn editor_line() -> String {
    if Path::new(SCHEMA).exists() {
        format!("# yaml-language-server: $schema={SCHEMA}")
    } else {
        "# yaml-language-server: $schema=config.schema.json\n\
         # Editors complete and check this file after: project-webhooks schema config >config.schema.json\n#"
            .to_owned()
    }
}

fn utf8(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.with_context(|| {
        format!(
            "the path {} is not UTF-8, so no configuration can name it; rename the directory",
            path.display()
        )
    })
}

/// Returns the lines of `repository.layout`. The default layout needs none.
fn layout(shape: Option<&Shape>) -> String {
    let Some(shape) = shape.filter(|shape| !shape.is_default()) else {
        return String::new();
    };
    let list = |texts: &[&str]| {
        let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
        format!("[{}]", texts.join(", "))
    };
    format!(
        "\n  # The paths of the files below the path. Only published and snapshot may be empty.\n  layout:\n    \
         project: {}\n    published: {}\n    snapshot: {}\n",
        list(shape.project),
        list(shape.published),
        list(shape.snapshot)
    )
}

/// Returns the lines of `organizations`.
fn organizations(recognised: Option<&Recognised>) -> String {
    let mut text =
        "# The name and id of organizations in callbacks, by directory name. Without an \
                    entry, both are\n# the directory's name.\n"
            .to_owned();
    let Some(found) = recognised else {
        text.push_str(
            "# organizations:\n#   sales: { name: Sales, id: 0b6c1d3e-9a57-4a3f-8d51-1f0c3c6f7a10 }\n",
        );
        return text;
    };
    text.push_str("organizations:\n");
    let mut names: Vec<String> = found
        .organizations
        .keys()
        .map(|n| composed(n).into_owned())
        .collect();
    // Names that differ only in Unicode normalization need only one entry.
    names.sort();
    names.dedup();
    for name in names.iter().take(ORGANIZATIONS_MAX) {
        let name = quoted(name);
        let _ = writeln!(text, "  {name}: {{ name: {name}, id: {name} }}");
    }
    if let Some(more) = names
        .len()
        .checked_sub(ORGANIZATIONS_MAX)
        .filter(|more| *more > 0)
    {
        let more = counted(more as u64, "other organization");
        let _ = writeln!(text, "  # {more} without an entry.");
    }
    text
}

/// Returns the lines of `state_dir`. Uses `./state` unless it overlaps the repository.
fn state_dir(repository: &Path, base: &Path) -> anyhow::Result<String> {
    let what = "# The directory of the record and the queues; outside the repository.";
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| lexical(path));
    let (repository, base) = (resolved(repository), resolved(base));
    let default = base.join("state");
    if !default.starts_with(&repository) && !repository.starts_with(&default) {
        return Ok(format!("{what}\nstate_dir: ./state\n"));
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let states = variable("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(variable("HOME")?.join(".local/state")))
        .filter(|path| path.is_absolute())
        .context("neither XDG_STATE_HOME nor HOME is an absolute path, so there is no place for the state; set one of them, or run init in a directory outside the repository")?;
    let path = states
        .join("project-webhooks")
        .join(state_name(&utf8(&repository)?));
    Ok(format!("{what}\nstate_dir: {}\n", quoted(&utf8(&path)?)))
}

/// Returns the name of a repository's state directory.
///
/// It ends with a hash of the repository's path, so the names of two repositories differ.
fn state_name(repository: &str) -> String {
    let readable: String = repository.trim_matches('/').replace('/', "-");
    // A file name has at most 255 bytes, and a character has at most 4.
    let readable: String = readable.chars().take(40).collect();
    let hash = blake3::hash(repository.as_bytes()).to_hex();
    let digits = hash.get(..8).unwrap_or_default();
    format!("{readable}-{digits}")
}

/// Resolves `.` and `..` in an absolute path without asking the file system.
fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Makes a text safe for a comment of one line.
fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if is_printable(c) { c } else { '?' })
        .collect()
}

/// Quotes a text for YAML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if is_printable(c) => quoted.push(c),
            c => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Whether YAML and all editors show a character as itself, on one line.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repository_has_its_own_state() {
        let [one, other] = ["/srv/a-b/c", "/srv/a/b-c"].map(state_name);
        assert!(one.starts_with("srv-a-b-c-"), "{one}");
        assert_ne!(one, other);
        assert!(state_name(&"/漢字".repeat(1_000)).len() <= 255);
    }
}
