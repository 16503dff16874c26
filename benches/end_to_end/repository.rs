//! A repository with its state, and the programs that run on it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::Program;
use crate::tree::{self, Change, Edits};

/// A program to measure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The daemon.
    Ours,
    /// The floor with a sync for each call.
    FloorEach,
    /// The floor with a sync for each read of inotify.
    FloorBatch,
    /// inotifywait with curl in a shell script.
    Inotifywait,
}

impl Who {
    /// Its name in the results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "project-webhooks",
            Self::FloorEach => "floor-each",
            Self::FloorBatch => "floor-batch",
            Self::Inotifywait => "inotifywait",
        }
    }

    /// Whether its tools are installed.
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
    /// The path of its URL.
    pub path: String,
    /// A YAML list.
    pub events: &'static str,
    /// The number of projects in parallel.
    pub concurrency: usize,
}

impl Webhook {
    /// A webhook for imports and published copies.
    pub fn at(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            events: "[project-publish, project-import-any]",
            concurrency: 16,
        }
    }
}

/// A repository with its state. Dropping it removes both.
pub struct Repository {
    directory: tempfile::TempDir,
}

impl Repository {
    /// A repository of so many projects.
    pub fn new(projects: usize) -> anyhow::Result<Self> {
        let repository = Self {
            directory: tempfile::tempdir()?,
        };
        tree::prepare(&repository.root(), projects)?;
        Ok(repository)
    }

    /// The root directory.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    /// Replaces files.
    pub fn edit(&self, edits: &Edits) -> anyhow::Result<Vec<Change>> {
        tree::replace(&self.root(), &self.directory.path().join("stage"), edits)
    }

    /// Starts a program with one webhook.
    pub fn start(&self, who: Who, address: &str) -> anyhow::Result<Program> {
        match who {
            Who::Ours => self.daemon(address, &[Webhook::at("/")]),
            Who::FloorEach => self.floor(address, true, 1),
            Who::FloorBatch => self.floor(address, false, 1),
            Who::Inotifywait => {
                // A careful script: the right events, a filter, a time limit.
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

    /// Starts the floor, which posts each file `copies` times.
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
            "repository: {{ path: {:?}, watch: {} }}\nstate_dir: {:?}\nwebhooks:\n",
            self.root(),
            std::env::var("PROJECT_WEBHOOKS_WATCH").unwrap_or_else(|_| "auto".to_owned()),
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

    /// The path of the daemon.
    pub fn binary() -> &'static Path {
        Path::new(env!("CARGO_BIN_EXE_project-webhooks"))
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}
