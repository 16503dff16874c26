//! A directory with a repository, a configuration and a state, and the actions on its files.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Daemon, Endpoint, Patient, Run as _, wait_until, write};

/// One test's directory.
#[derive(Debug)]
pub struct Home {
    directory: tempfile::TempDir,
}

/// A webhook of the configuration.
#[derive(Clone, Debug)]
pub struct Webhook {
    name: String,
    url: String,
    events: String,
    projects: Option<String>,
    /// Lines of YAML.
    more: Vec<String>,
}

impl Webhook {
    /// A webhook for all events, Project Import too.
    pub fn new(name: &str, url: &str) -> Self {
        Self {
            name: name.to_owned(),
            url: url.to_owned(),
            events: "\"*\"".to_owned(),
            projects: Some("[\"*/*\"]".to_owned()),
            more: vec![
                "retry: { schedule: [0s, 100ms, 200ms, 500ms, 1s, 2s, 5s, 5s, 5s, 5s] }".to_owned(),
            ],
        }
    }

    /// Only these events: a YAML list.
    pub fn events(mut self, events: &str) -> Self {
        self.events = events.to_owned();
        self
    }

    /// Only these projects: a YAML list.
    pub fn projects(mut self, projects: &str) -> Self {
        self.projects = Some(projects.to_owned());
        self
    }

    /// One more line of YAML.
    pub fn with(mut self, line: &str) -> Self {
        self.more.push(line.to_owned());
        self
    }

    /// Another schedule of attempts: a YAML list.
    pub fn schedule(mut self, schedule: &str) -> Self {
        self.more.retain(|line| !line.starts_with("retry:"));
        self.with(&format!("retry: {{ schedule: {schedule} }}"))
    }
}

/// The configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `repository.settle`.
    pub settle: &'static str,
    /// Further lines of YAML below `repository`.
    pub repository: Vec<String>,
    /// The items of `repositories`, in YAML. If there are none, the repository is the only one.
    pub repositories: Vec<String>,
    /// Further lines of YAML at the top level.
    pub top: Vec<String>,
    /// The sources of `username`.
    pub username: &'static str,
    /// The webhooks.
    pub webhooks: Vec<Webhook>,
}

impl Settings {
    /// One webhook for all events, named `all`.
    pub fn all_to(endpoint: &Endpoint) -> Self {
        Self::of([Webhook::new("all", &endpoint.url())])
    }

    /// These webhooks.
    pub fn of(webhooks: impl IntoIterator<Item = Webhook>) -> Self {
        Self {
            settle: "300ms",
            repository: Vec::new(),
            repositories: Vec::new(),
            top: Vec::new(),
            username: "[\"value:tester\"]",
            webhooks: webhooks.into_iter().collect(),
        }
    }

    /// Another `repository.settle`.
    pub fn settle(mut self, settle: &'static str) -> Self {
        self.settle = settle;
        self
    }

    /// One of several repositories: a mapping in YAML.
    pub fn and_repository(mut self, mapping: &str) -> Self {
        self.repositories.push(mapping.to_owned());
        self
    }

    /// One more line below `repository`.
    pub fn repository(mut self, line: &str) -> Self {
        self.repository.push(line.to_owned());
        self
    }

    /// Another `repository.watch`.
    pub fn watch(self, mode: &str) -> Self {
        self.repository(&format!("watch: {mode}"))
    }

    /// One more line at the top level.
    pub fn top(mut self, line: &str) -> Self {
        self.top.push(line.to_owned());
        self
    }

    fn yaml(&self) -> String {
        let mut yaml = match self.repositories.is_empty() {
            true => format!(
                "repository:\n  path: ./repository\n  settle: {}\n",
                self.settle
            ),
            false => "repositories:\n".to_owned(),
        };
        for line in &self.repository {
            let _ = writeln!(yaml, "  {line}");
        }
        for mapping in &self.repositories {
            let _ = writeln!(yaml, "  - {mapping}");
        }
        let _ = writeln!(
            yaml,
            "state_dir: ./state\nusername: {}\nlog: {{ level: debug, format: json }}",
            self.username
        );
        for line in &self.top {
            let _ = writeln!(yaml, "{line}");
        }
        let _ = writeln!(yaml, "webhooks:");
        for webhook in &self.webhooks {
            let _ = writeln!(
                yaml,
                "  - name: {}\n    url: {}\n    events: {}",
                webhook.name, webhook.url, webhook.events
            );
            if let Some(projects) = &webhook.projects {
                let _ = writeln!(yaml, "    projects: {projects}");
            }
            for line in &webhook.more {
                let _ = writeln!(yaml, "    {line}");
            }
        }
        yaml
    }
}

impl Home {
    /// An empty repository with this configuration.
    pub fn new(settings: &Settings) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("repository")).expect("the repository");
        let home = Self { directory };
        home.configure(settings);
        home
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The configuration's file.
    pub fn config(&self) -> PathBuf {
        self.path().join("config.yaml")
    }

    /// A path below the repository; the empty one is the repository.
    pub fn at(&self, below: &str) -> PathBuf {
        self.path().join("repository").join(below)
    }

    /// A directory beside the repository, on the same file system.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes the configuration.
    pub fn configure(&self, settings: &Settings) {
        fs::write(self.config(), settings.yaml()).expect("the configuration");
    }

    /// Replaces the configuration in one step, for a daemon that may be reading it.
    pub fn reconfigure(&self, settings: &Settings) {
        let beside = self.beside("config.yaml.new");
        fs::write(&beside, settings.yaml()).expect("the configuration");
        fs::rename(beside, self.config()).expect("renames");
    }

    /// Runs a command of the program and returns what it prints; it must succeed.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_project-webhooks"))
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .run()
            .expect("the program ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command of the program with `--json`.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let printed = self.command(&[arguments, &["--json"]].concat());
        serde_json::from_str(&printed).expect("JSON")
    }

    /// The path of the database.
    pub fn database(&self) -> PathBuf {
        self.path().join("state/state.db")
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&self) -> Daemon<'_> {
        Daemon::start(self)
    }

    /// Writes a file as `mkdir -p` and a shell's `>` do.
    pub fn write(&self, below: &str, content: &str) {
        write(&self.at(below), content);
    }

    /// Replaces a file in one step: writes a temporary file and renames it.
    pub fn replace(&self, below: &str, content: &str) {
        let path = self.at(below);
        let parent = path.parent().expect("a parent");
        fs::create_dir_all(parent).expect("directories");
        let beside = parent.join(".incoming");
        fs::write(&beside, content).expect("a file");
        fs::rename(&beside, &path).expect("renames");
    }

    /// Removes a file.
    pub fn remove(&self, below: &str) {
        fs::remove_file(self.at(below)).expect("removes");
    }

    /// Removes a directory and all below it.
    pub fn remove_all(&self, below: &str) {
        fs::remove_dir_all(self.at(below)).expect("removes");
    }

    /// Renames within the repository.
    pub fn rename(&self, from: &str, to: &str) {
        let to = self.at(to);
        fs::create_dir_all(to.parent().expect("a parent")).expect("directories");
        fs::rename(self.at(from), to).expect("renames");
    }
}

/// The answer of the admin server at a Unix socket: the status and the body.
pub fn get(home: &Home, path: &str) -> Option<(u16, String)> {
    get_with(home, path, "accept: */*")
}

/// The answer to a request with one more header.
pub fn get_with(home: &Home, path: &str, header: &str) -> Option<(u16, String)> {
    let answer = ask(home, path, &format!("{header}\r\n")).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// The whole answer of the admin server at a Unix socket. Fails if there is none.
pub fn fetch(home: &Home, path: &str) -> String {
    ask(home, path, "").expect("an answer")
}

fn ask(home: &Home, path: &str, lines: &str) -> io::Result<String> {
    let mut stream = Patient::of(UnixStream::connect(home.beside("admin.sock"))?);
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{lines}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Waits until a path of the admin server answers with this status.
pub fn wait_health(home: &Home, path: &str, status: u16) {
    wait_until(&format!("{status} from {path}"), || {
        (get(home, path)?.0 == status).then_some(())
    });
}

/// A project.xml with a name, an engineId if not empty, and a body that distinguishes versions.
pub fn xml(name: &str, engine_id: &str, body: &str) -> String {
    let annotations = if engine_id.is_empty() {
        String::new()
    } else {
        format!(
            "  <annotations>\n    <annotation name=\"engineId\">{engine_id}</annotation>\n    \
             <annotation name=\"version\">version-to-be-generated-on-deploy</annotation>\n  \
             </annotations>\n"
        )
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- a project -->\n\
         <schema xmlns=\"http://www.atscale.com/xsd/project_2_0\" name=\"{name}\" version=\"2.0\">\n\
         {annotations}  <properties><caption>{body}</caption></properties>\n</schema>\n"
    )
}
