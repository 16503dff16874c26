//! The receivers: they run as shown and get callbacks from the real daemon.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::patience::{Patient, Run as _};
use crate::process::{Running, is_there, program};
use crate::{blocks, skip};

/// A base64 secret, which the receivers have to decode.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Not ASCII, with CR LF line ends and with text that looks like a multipart boundary.
const PROJECT: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
    <schema name=\"Größe & mehr\"><![CDATA[\u{1F4E6} --boundary\r\n\r\n--\r\n]]>\n</schema>\r\n";

#[test]
fn the_python_receiver_accepts_callbacks_of_the_daemon() {
    let test = "the_python_receiver_accepts_callbacks_of_the_daemon";
    if !is_there("python3", "--version") {
        return skip(test, "no python3");
    }
    accepts_callbacks("python", "multipart", "receiver.py", |file| {
        run("python3", file)
    });
}

#[test]
fn the_python_receiver_of_signed_headers_accepts_callbacks_of_the_daemon() {
    let test = "the_python_receiver_of_signed_headers_accepts_callbacks_of_the_daemon";
    if !is_there("python3", "--version") {
        return skip(test, "no python3");
    }
    accepts_callbacks("python", "cloudevents", "receiver.py", |file| {
        run("python3", file)
    });
}

#[test]
fn the_node_receiver_accepts_callbacks_of_the_daemon() {
    let test = "the_node_receiver_accepts_callbacks_of_the_daemon";
    if !is_there("node", "--version") {
        return skip(test, "no node");
    }
    accepts_callbacks("js", "json", "receiver.js", |file| run("node", file));
}

#[test]
fn the_go_receiver_accepts_callbacks_of_the_daemon() {
    let test = "the_go_receiver_accepts_callbacks_of_the_daemon";
    if !is_there("go", "version") {
        return skip(test, "no go");
    }
    accepts_callbacks("go", "multipart", "receiver.go", |file| {
        let built = file.with_extension("");
        let mut command = Command::new("go");
        command.arg("build").arg("-o").arg(&built).arg(file);
        let output = command.env("GO111MODULE", "off").run().unwrap();
        assert!(output.status.success(), "{output:?}");
        Command::new(built)
    });
}

#[test]
fn the_java_receiver_of_signed_headers_accepts_callbacks_of_the_daemon() {
    let test = "the_java_receiver_of_signed_headers_accepts_callbacks_of_the_daemon";
    if !is_there("javac", "--version") {
        return skip(test, "no javac");
    }
    accepts_callbacks("java", "xml", "Receiver.java", |file| run("java", file));
}

/// Runs a file with its interpreter.
fn run(interpreter: &str, file: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(file);
    command
}

fn accepts_callbacks(language: &str, format: &str, file: &str, run: impl Fn(&Path) -> Command) {
    let block = blocks::all()
        .into_iter()
        .find(|block| {
            block.kind() == "receiver" && block.language == language && block.argument() == format
        })
        .unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    std::fs::write(directory.join(file), &block.text).unwrap();
    let mut command = run(&directory.join(file));
    command.env("WEBHOOK_SECRET", SECRET).env("PORT", "0");
    let receiver = Running::start(command);
    let port: u16 = receiver.wait_for("the port", |text| {
        let (_, rest) = text.split_once("listening on port ")?;
        rest.split_once('\n')?.0.parse().ok()
    });

    let daemon = daemon(directory, port, format, block.has("signed"));
    let project = PROJECT.replace('&', "&amp;");
    let project_directory = directory.join("repository/sales/orders");
    std::fs::create_dir_all(&project_directory).unwrap();
    std::fs::write(project_directory.join("project.xml"), &project).unwrap();
    let digest = Sha256::digest(project.as_bytes())
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
    let expected = format!("project-import-any Größe & mehr {digest}\n");
    receiver.wait_for(&expected, |text| text.contains(&expected).then_some(()));
    daemon.wait_for("the answer", |text| {
        text.contains("delivered: Project Import - Any")
            .then_some(())
    });

    // The receiver refuses a missing and a foreign signature.
    for signature in [
        "",
        "webhook-signature: v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n",
    ] {
        let timestamp = jiff::Timestamp::now().as_second();
        let headers = format!("webhook-id: evt_x\r\nwebhook-timestamp: {timestamp}\r\n{signature}");
        assert_eq!(post(port, &headers), "401", "{signature}");
    }
    assert_eq!(receiver.printed().matches("project-").count(), 1);
}

/// Starts a daemon with one webhook for this port and waits until it is ready.
fn daemon(directory: &Path, port: u16, format: &str, is_signed: bool) -> Running {
    std::fs::create_dir(directory.join("repository")).unwrap();
    let config = directory.join("config.yaml");
    std::fs::write(
        &config,
        format!(
            "repository: {{ path: repository }}\nwebhooks:\n  - name: receiver\n    \
             event: Project Import - Any\n    url: http://127.0.0.1:{port}/hook\n    \
             format: {format}\n    secret: {SECRET}\n    signed_headers: {is_signed}\n"
        ),
    )
    .unwrap();
    let mut command = Command::new(program());
    command
        .arg("--config")
        .arg(&config)
        .arg("run")
        .env_remove("STATE_DIRECTORY")
        .env_remove("NOTIFY_SOCKET");
    let daemon = Running::start(command);
    daemon.wait_for("ready", |text| text.contains("ready").then_some(()));
    daemon
}

/// Sends an empty request with these headers and returns the status of the answer.
fn post(port: u16, headers: &str) -> String {
    let mut stream = Patient::of(TcpStream::connect(("127.0.0.1", port)).unwrap());
    let request = format!(
        "POST /hook HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\
         {headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}
