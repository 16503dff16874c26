//! The format `multipart` with the form parsers that receivers use: each reads every parameter as a
//! text field, and the payload as a file, byte for byte.
//!
//! The receivers are small programs in `programs`. They print the fields and the SHA-256 of the
//! payload. `.ci/run` installs the parsers; without one its test is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Endpoint, Home, Run as _, Settings, Webhook, skip, succeeds, wait_until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Not ASCII, with CR LF line ends and with text that looks like a boundary.
const PROJECT: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
    <schema name=\"Größe &amp; &quot;mehr&quot; \u{1f4e6}\" id=\"id 1\"><![CDATA[--boundary\r\n\r\n\
    --\r\n]]>\n</schema>\r\n";

/// A running receiver; killed when dropped.
struct Program {
    child: Child,
    output: PathBuf,
}

impl Program {
    fn start(mut command: Command, directory: &Path) -> Self {
        let output = directory.join("receiver.out");
        let file = fs::File::create(&output).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, output }
    }

    fn wait<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        wait_until(what, || {
            let printed = fs::read_to_string(&self.output).unwrap();
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: {ended:?}: {printed}");
            find(&printed)
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/parsers/programs")
        .join(name)
}

/// The directory where `.ci/run` installs packages.
fn packages() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty());
    let cache = cache
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache"));
    cache.join("project-webhooks-ci/parsers")
}

/// Delivers one event to a program that listens on a free port, and compares what it reads.
fn reads_every_parameter(command: Command) {
    let directory = tempfile::tempdir().unwrap();
    let mut receiver = Program::start(command, directory.path());
    let port = receiver.wait("the port", |printed| {
        let (_, rest) = printed.split_once("listening on port ")?;
        rest.split_once('\n')?.0.parse::<u16>().ok()
    });
    expect_fields(&mut receiver, &format!("http://127.0.0.1:{port}/"));
}

fn expect_fields(receiver: &mut Program, url: &str) {
    let to = Webhook::new("parser", url).events("[project-import-any]");
    let home = Home::new(&Settings::of([to]));
    let _daemon = home.start();
    home.write("sales/orders/project.xml", PROJECT);
    let line = receiver.wait("a request", |printed| {
        let line = printed.lines().find(|line| line.starts_with('{'))?;
        serde_json::from_str::<Value>(line).ok()
    });
    let digest = Sha256::digest(PROJECT);
    let digest = digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let fields = json!({
        "username": "tester",
        "projectName": "Größe & \"mehr\" \u{1f4e6}",
        "organizationName": "sales",
        "organizationId": "sales",
        "projectId": "id 1",
    });
    assert_eq!(line, json!({ "fields": fields, "payload": digest }));
    wait_until("the delivery", || {
        (home.json(&["deliveries"])[0]["state"] == "delivered").then_some(())
    });
}

/// Runs a receiver with a package of npm.
fn node(test: &str, package: &str) {
    let modules = packages().join("node_modules");
    if !modules.join(package).is_dir() || !succeeds("node", &["--version"]) {
        return skip(test, &format!("no {package}, which .ci/run installs"));
    }
    let mut command = Command::new("node");
    command.arg(program(&format!("{package}.js")));
    command.env("NODE_PATH", modules);
    reads_every_parameter(command);
}

/// Runs a receiver with a package of PyPI.
fn python(test: &str, module: &str, file: &str) {
    let python = packages().join("python/bin/python");
    let import = format!("import {module}");
    if !succeeds(python.to_str().unwrap(), &["-c", &import]) {
        return skip(test, &format!("no {module}, which .ci/run installs"));
    }
    let mut command = Command::new(python);
    command.arg(program(file));
    reads_every_parameter(command);
}

#[test]
fn formidable_reads_fields() {
    node("formidable_reads_fields", "formidable");
}

#[test]
fn busboy_reads_fields() {
    node("busboy_reads_fields", "busboy");
}

#[test]
fn multer_reads_fields() {
    node("multer_reads_fields", "multer");
}

#[test]
fn flask_reads_fields() {
    python("flask_reads_fields", "flask", "flask_form.py");
}

#[test]
fn python_multipart_reads_fields() {
    let file = "python_multipart_form.py";
    python("python_multipart_reads_fields", "python_multipart", file);
}

#[test]
fn go_reads_fields() {
    if !succeeds("go", &["version"]) {
        return skip("go_reads_fields", "no go");
    }
    let directory = tempfile::tempdir().unwrap();
    let built = directory.path().join("form");
    let mut command = Command::new("go");
    command
        .arg("build")
        .arg("-o")
        .arg(&built)
        .arg(program("form.go"));
    let output = command.env("GO111MODULE", "off").run().unwrap();
    assert!(output.status.success(), "{output:?}");
    reads_every_parameter(Command::new(built));
}

#[test]
fn tomcat_reads_fields() {
    let jars = ["core", "el"].map(|part| format!("/usr/share/java/tomcat10-embed-{part}.jar"));
    if !succeeds("javac", &["--version"]) || !Path::new(&jars[0]).is_file() {
        return skip(
            "tomcat_reads_fields",
            "no javac or no libtomcat10-embed-java",
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("java");
    command
        .arg("-cp")
        .arg(jars.join(":"))
        .arg(program("TomcatForm.java"))
        .arg(directory.path());
    reads_every_parameter(command);
}

#[test]
fn php_reads_fields() {
    if !succeeds("php", &["--version"]) {
        return skip("php_reads_fields", "no php");
    }
    // PHP's server does not report the port that it takes, so one is reserved for it.
    let reserved = Endpoint::reserved();
    let url = reserved.url();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("php");
    command.arg("-S").arg(address).arg(program("post.php"));
    let mut receiver = Program::start(command, directory.path());
    receiver.wait("its start", |printed| {
        printed.contains(") started").then_some(())
    });
    expect_fields(&mut receiver, &url);
}

#[test]
fn the_documentation_lists_these_parsers() {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file!())).unwrap();
    // In two parts, so that this line is not a test.
    let end = ["_reads_fields", "() {"].concat();
    let tests = source.split("\nfn ").filter_map(|rest| {
        let (name, _) = rest.split_once(&end)?;
        Some(name.replace('_', "-"))
    });
    let tests: Vec<String> = tests.collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/requests-and-receivers.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("### Form parsers").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    assert_eq!(rows.len(), tests.len());
    for test in tests {
        let is_there = |row: &&str| row.to_lowercase().contains(&test);
        assert!(rows.iter().any(is_there), "{test}");
    }
}
