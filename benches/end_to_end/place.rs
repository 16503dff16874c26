//! A repository with its state beside it, and who can be started on it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::Program;
use crate::tree::{self, Change, Edits};

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The daemon.
    Ours,
    /// One sync for each call.
    FloorEach,
    /// One sync for each read of inotify.
    FloorBatch,
    /// inotifywait with curl, as a shell would have it.
    Inotifywait,
}

impl Who {
    /// How results call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "project-webhooks",
            Self::FloorEach => "floor-each",
            Self::FloorBatch => "floor-batch",
            Self::Inotifywait => "inotifywait",
        }
    }

    /// Whether what it needs is installed.
    pub fn is_there(self) -> bool {
        let needed: &[&str] = match self {
            Self::Inotifywait => &["bash", "grep", "inotifywait", "curl"],
            _ => &[],
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        needed
            .iter()
            .all(|tool| std::env::split_paths(&path).any(|at| at.join(tool).is_file()))
    }
}

/// A webhook of the daemon.
pub struct Webhook {
    /// The path of its URL, which is its name too.
    pub path: String,
    /// A YAML list.
    pub events: &'static str,
    /// How many projects side by side.
    pub concurrency: usize,
}

impl Webhook {
    /// Hears of imports and published copies.
    pub fn at(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            events: "[project-publish, project-import-any]",
            concurrency: 16,
        }
    }
}

/// A tree with its state beside it, removed when dropped.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// A repository of so many projects.
    pub fn new(projects: usize) -> anyhow::Result<Self> {
        let place = Self {
            directory: tempfile::tempdir()?,
        };
        tree::prepare(&place.root(), projects)?;
        Ok(place)
    }

    /// The repository.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    /// Replaces files.
    pub fn edit(&self, edits: &Edits) -> anyhow::Result<Vec<Change>> {
        tree::replace(&self.root(), &self.directory.path().join("stage"), edits)
    }

    /// Starts somebody with one webhook.
    pub fn start(&self, who: Who, address: &str) -> anyhow::Result<Program> {
        match who {
            Who::Ours => self.daemon(address, &[Webhook::at("/")]),
            Who::FloorEach => self.floor(address, true, 1),
            Who::FloorBatch => self.floor(address, false, 1),
            Who::Inotifywait => {
                // The right events, a filter, a time limit: as one would write it with care.
                let script = "inotifywait -m -r -e close_write -e moved_to --format '%w%f' \"$1\" \
                    | grep --line-buffered '/project\\.xml$' \
                    | while IFS= read -r file; do \
                    curl -fsS -m 10 -o /dev/null --data-binary \"@$file\" \"$2\" </dev/null; done";
                let mut command = Command::new("bash");
                command.args(["-c", script, "bash"]).arg(self.root());
                command.arg(format!("http://{address}/"));
                Program::start(&mut command, &self.log(), "Watches established")
            }
        }
    }

    /// Starts the floor, which posts each file so many times.
    pub fn floor(&self, address: &str, each: bool, copies: usize) -> anyhow::Result<Program> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--floor")
            .arg(self.root())
            .arg(address)
            .arg(self.directory.path().join("journal"))
            .arg(if each { "each" } else { "batch" })
            .arg(copies.to_string());
        Program::start(&mut command, &self.log(), "ready")
    }

    /// Starts the daemon with these webhooks.
    pub fn daemon(&self, address: &str, webhooks: &[Webhook]) -> anyhow::Result<Program> {
        let config = self.directory.path().join("config.yaml");
        let mut yaml = format!(
            "repository: {{ path: {:?} }}\nstate_dir: {:?}\nwebhooks:\n",
            self.root(),
            self.directory.path().join("state"),
        );
        for (number, webhook) in webhooks.iter().enumerate() {
            let Webhook {
                path,
                events,
                concurrency,
            } = webhook;
            write!(
                yaml,
                "  - name: webhook-{number}\n    events: {events}\n    url: http://{address}{path}\n    \
                 format: xml\n    concurrency: {concurrency}\n"
            )?;
        }
        std::fs::write(&config, yaml)?;
        let mut command = Command::new(Self::binary());
        command.arg("--config").arg(config).arg("run");
        Program::start(&mut command, &self.log(), "ready")
    }

    /// The program that is measured.
    pub fn binary() -> &'static Path {
        Path::new(env!("CARGO_BIN_EXE_project-webhooks"))
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}
