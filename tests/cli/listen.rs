//! `listen`: its arguments, and one callback from the start to the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Running, program, run};

#[test]
fn a_status_is_a_number_from_200_to_599() {
    for status in ["100", "199", "600", "abc", ""] {
        let mut command = program();
        command.args(["listen", "--status", status]);
        let error = run(command).failed(2);
        assert!(
            error.contains("a status is a number from 200 to 599"),
            "{error}"
        );
    }
}

#[test]
fn it_introduces_itself_prints_and_stops() {
    let mut command = program();
    command.args(["listen", "--port", "0", "--status", "503"]);
    command.args(["--secret", "hush", "--secret", "hush-hush"]);
    let mut listening = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(listening.0.stdout.take().unwrap()).lines();
    let mut until_empty = || {
        let lines = lines.by_ref().map(Result::unwrap);
        lines
            .take_while(|line| !line.is_empty())
            .collect::<Vec<_>>()
    };
    let first = until_empty();
    let snippet = until_empty().join("\n");
    assert!(!snippet.contains("hush"));
    let snippet: serde_yaml::Value = serde_yaml::from_str(&snippet).unwrap();
    let url = snippet["webhooks"][0]["url"].as_str().unwrap();
    assert_eq!(first[0], format!("Listening on {url}"));
    assert_eq!(snippet["webhooks"][0]["event"].as_str(), Some("*"));

    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut socket = TcpStream::connect(address).unwrap();
    let request = b"POST /x HTTP/1.1\r\nHost: x\r\nWebhook-Event: test\r\n\
        Connection: close\r\nContent-Length: 0\r\n\r\n";
    socket.write_all(request).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let callback = until_empty();
    let head = "  Test, no known format, signature missing";
    assert!(callback[0].ends_with(head), "{callback:?}");
    assert_eq!(listening.end(Signal::INT), None);
}
