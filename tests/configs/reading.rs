//! Values from files and the environment, defaults, positions and limits.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use project_webhooks::config::{
    Format, Loaded, Position, Problem, Problems, Webhook, load, load_str,
};
use project_webhooks::domain::event::{EventKind, Parameter};
use project_webhooks::domain::project::ProjectKey;
use project_webhooks::domain::route::{Interest, Properties};
use secrecy::ExposeSecret;
use tempfile::TempDir;

/// A directory with a repository and configurations.
struct Files {
    directory: TempDir,
    environment: BTreeMap<String, String>,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("repository")).unwrap();
        Self {
            directory,
            environment: BTreeMap::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, text: &str, mode: u32) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self, rest: &str) -> Result<Loaded, Problems> {
        let text = format!("repository: {{ path: repository }}\n{rest}");
        self.file("config.yaml", &text, 0o644);
        load(&self.path("config.yaml"), &self.environment)
    }

    fn webhook(&self, settings: &str) -> Result<(Webhook, Vec<Problem>), Problems> {
        let Loaded { config, warnings } = self.load(&format!(
            "webhooks: [{{ name: a, url: 'http://127.0.0.1/', {settings} }}]\n"
        ))?;
        Ok((config.webhooks.into_iter().next().unwrap(), warnings))
    }
}

#[test]
fn values_come_from_their_sources_without_the_last_line_end() {
    let mut files = Files::new();
    files.file("token", "from file\r\n", 0o600);
    files.file("credentials/name", "from credential\n", 0o644);
    let credentials = files.path("credentials").display().to_string();
    files
        .environment
        .insert("CREDENTIALS_DIRECTORY".into(), credentials);
    files.environment.insert("V".into(), "from variable".into());
    let (webhook, warnings) = files
        .webhook(
            "event: project-delete, headers: { A: { file: token }, B: { credential: name }, \
             C: { env: V }, D: plain }",
        )
        .unwrap();
    let values: Vec<&[u8]> = webhook
        .headers
        .iter()
        .map(|(_, value)| value.as_bytes())
        .collect();
    let expected: [&[u8]; 4] = [b"from file", b"from credential", b"from variable", b"plain"];
    assert_eq!(values, expected);
    assert_eq!(warnings, []);
}

#[test]
fn a_secret_that_everybody_can_read_is_a_warning() {
    let files = Files::new();
    let long = "s".repeat(32);
    files.file("open", &long, 0o644);
    files.file("closed", &long, 0o640);
    let warned = |settings: &str| {
        let (_, warnings) = files
            .webhook(&format!("event: project-delete, {settings}"))
            .unwrap();
        warnings.len()
    };
    assert_eq!(warned("secret: { file: open }"), 1);
    assert_eq!(warned("secret: { file: closed }"), 0);
    // The configuration file of these tests is open to everybody as well.
    assert_eq!(warned(&format!("secret: {long}")), 1);
    assert_eq!(warned("headers: { Authorization: x, X-Other: x }"), 1);
}

#[test]
fn no_value_of_a_secret_is_ever_printed() {
    let mut files = Files::new();
    files.file("key", "hidden\nhidden", 0o600);
    files.environment.insert("V".into(), "hidden".into());
    let fine = files
        .webhook(
            "event: project-delete, secret: [{ file: key }, hidden], \
             headers: { A: { env: V }, B: hidden }",
        )
        .unwrap();
    assert_eq!(fine.0.secrets[1].expose_secret(), "hidden");
    assert!(!format!("{fine:?}").contains("hidden"), "{fine:?}");
    for settings in [
        "headers: { A: { file: key } }",
        "headers: { A: \"hidden\\n\" }",
        "secret: whsec_hidden!",
        "secret: whsk_hidden",
        "secret: [{ a: hidden }]",
        "secret: { file: { a: hidden } }",
        "secret: [[hidden]]",
        "secret: hidden, secret: hidden",
    ] {
        let problems = files
            .webhook(&format!("event: project-delete, {settings}"))
            .unwrap_err();
        assert!(!problems.to_string().contains("hidden"), "{problems}");
        assert!(!format!("{problems:?}").contains("hidden"), "{problems:?}");
    }
    let in_url = files
        .load("webhooks: [{ name: a, event: project-delete, url: 'http://u:hidden@x/' }]")
        .unwrap_err();
    assert!(!in_url.to_string().contains("hidden"), "{in_url}");
}

#[test]
fn the_state_directory_is_the_first_that_systemd_names_else_beside_the_file() {
    let mut files = Files::new();
    let state = |files: &Files, rest: &str| files.load(rest).unwrap().config.state_dir;
    assert_eq!(state(&files, ""), files.path("state"));
    let list = "/var/lib/one:/var/lib/two".to_owned();
    files.environment.insert("STATE_DIRECTORY".into(), list);
    assert_eq!(state(&files, ""), Path::new("/var/lib/one"));
    assert_eq!(state(&files, "state_dir: ./own\n"), files.path("own"));
}

#[test]
fn a_link_does_not_hide_that_the_state_is_inside_the_repository() {
    let files = Files::new();
    symlink(files.path("repository"), files.path("elsewhere")).unwrap();
    let problems = files.load("state_dir: elsewhere/new/state\n").unwrap_err();
    assert!(problems.to_string().contains("is inside the repository"));
}

#[test]
fn project_globs_do_not_cross_the_separator() {
    let files = Files::new();
    let (webhook, _) = files
        .webhook("events: '*', projects: ['sales/*', '*/core', 'deep/**']")
        .unwrap();
    let wants = |organization: &str, project: &str| {
        let key = ProjectKey::new(organization, project);
        let interest = webhook.subscription.interest(Properties {
            kind: EventKind::ProjectImport,
            key: &key,
            parameters: &[],
        });
        interest == Interest::Yes
    };
    assert!(wants("sales", "one") && wants("any", "core") && wants("deep", "one"));
    assert!(!wants("sales", "one/two") && !wants("other", "one"));
}

#[test]
fn when_selects_values_by_globs() {
    let files = Files::new();
    let (webhook, _) = files
        .webhook(
            "event: Project Publish, when: { username: '!svc-*', versionTag: [release-*, v?] }",
        )
        .unwrap();
    let key = ProjectKey::new("sales", "orders");
    let wants = |username: &str, tag: &str| {
        let interest = webhook.subscription.interest(Properties {
            kind: EventKind::ProjectPublish,
            key: &key,
            parameters: &[
                (Parameter::Username, username.to_owned()),
                (Parameter::VersionTag, tag.to_owned()),
            ],
        });
        interest == Interest::Yes
    };
    assert!(wants("alice", "release-1") && wants("", "release-a/b") && wants("alice", "v1"));
    assert!(!wants("svc-sync", "release-1") && !wants("alice", "v10") && !wants("alice", ""));
}

#[test]
fn every_event_leaves_out_project_import_where_no_projects_are_named() {
    let files = Files::new();
    let (all, _) = files.webhook("events: '*'").unwrap();
    assert_eq!(all.subscription.events.len(), 6);
    assert!(!all.subscription.events.contains(&EventKind::ProjectImport));
    let (some, _) = files.webhook("events: ['*'], projects: 'a/*'").unwrap();
    assert_eq!(some.subscription.events.len(), 7);
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let files = Files::new();
    let (webhook, _) = files.webhook("event: project-delete").unwrap();
    assert_eq!(webhook.format, Format::Multipart.into());
    assert_eq!(webhook.timeout, Duration::from_secs(15));
    assert_eq!(webhook.connect_timeout, Duration::from_secs(5));
    let (short, _) = files.webhook("event: project-delete, timeout: 2s").unwrap();
    assert_eq!(short.connect_timeout, Duration::from_secs(2));
    assert_eq!(webhook.concurrency, 8);
    assert!(webhook.enabled);
    let hours: Vec<u64> = webhook
        .schedule
        .iter()
        .map(|delay| delay.as_secs() / 3600)
        .collect();
    assert_eq!(hours, [0, 0, 0, 0, 2, 5, 10, 14, 20, 24]);
}

#[test]
fn positions_are_those_of_an_editor() {
    let text = "# ä\nrepository:\n  # ö\n  path: repository\n  \"watch\": [\n    é ]\n";
    let files = Files::new();
    let environment = BTreeMap::new();
    let problems = load_str(text.as_bytes(), &files.path("c.yaml"), &environment).unwrap_err();
    let position = problems.errors.first().and_then(|problem| problem.position);
    assert_eq!(
        position,
        Some(Position {
            line: 5,
            column: 12
        })
    );
}

#[test]
fn a_database_on_another_host_needs_tls_by_default() {
    let files = Files::new();
    for (connection, tls) in [
        ("host=/run/postgresql", false),
        ("host=localhost", false),
        ("host=127.0.0.1,::1", false),
        ("host=localhost,db.example.com", true),
        ("host=localhost hostaddr=192.0.2.1", true),
        ("host=db.example.com hostaddr=127.0.0.1", false),
    ] {
        let loaded = files.load(&format!("store: {{ postgres: '{connection}' }}\n"));
        let store = loaded.unwrap().config.store.unwrap();
        assert_eq!(store.tls, tls, "{connection}");
    }
}

#[test]
fn a_file_that_is_too_large_is_not_parsed() {
    let text = " ".repeat(1024 * 1024 + 1);
    let problems = load_str(text.as_bytes(), Path::new("c.yaml"), &BTreeMap::new()).unwrap_err();
    assert!(
        problems
            .to_string()
            .contains("is larger than 1048576 bytes")
    );
}

#[test]
fn a_long_list_of_errors_is_cut_and_says_so() {
    let text: String = (0..500).map(|index| format!("key{index}: 1\n")).collect();
    let problems = load_str(text.as_bytes(), Path::new("c.yaml"), &BTreeMap::new()).unwrap_err();
    assert_eq!(problems.errors.len(), 101);
    assert!(
        problems
            .to_string()
            .ends_with("further problems not listed: 401")
    );
}
