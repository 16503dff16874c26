//! `listen`: its arguments, and one callback from the start to the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;

use rustix::process::Signal;

use crate::patience::{Patient, accept};
use crate::support::{Running, program, run};

#[test]
fn a_status_is_a_number_from_200_to_599() {
    for status in ["100", "199", "600", "abc", ""] {
        let mut command = program();
        command.args(["listen", "--status", status]);
        let error = run(command).failed(2);
        assert!(
            error.contains("a status must be a number from 200 to 599"),
            "{error}"
        );
    }
}

#[test]
fn it_introduces_itself_prints_and_stops() {
    let listen = || {
        let mut command = program();
        command.args(["listen", "--port", "0", "--status", "503"]);
        command
    };
    let mut given = listen();
    given.args(["--secret", "hush", "--secret", "hush-hush"]);
    introduces_itself_prints_and_stops(given);
    let mut from_variable = listen();
    from_variable.env("PROJECT_WEBHOOKS_LISTEN_SECRET", "hush");
    introduces_itself_prints_and_stops(from_variable);
    let mut help = program();
    help.args(["listen", "--help"])
        .env("PROJECT_WEBHOOKS_LISTEN_SECRET", "hush");
    let help = run(help).succeeded();
    assert!(help.contains("PROJECT_WEBHOOKS_LISTEN_SECRET"), "{help}");
    assert!(!help.contains("hush"), "{help}");
}

fn introduces_itself_prints_and_stops(command: Command) {
    let (listening, mut lines) = Running::printing(command);
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
    let mut socket = Patient::of(TcpStream::connect(address).unwrap());
    let request = b"POST /x HTTP/1.1\r\nHost: x\r\nWebhook-Event: test\r\n\
        Connection: close\r\nContent-Length: 0\r\n\r\n";
    socket.write_all(request).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let callback = until_empty();
    let head = "  Test, no known format, signature missing";
    assert!(callback[0].ends_with(head), "{callback:?}");
    assert_eq!(listening.end(Signal::TERM), None);
}

#[test]
fn a_url_to_forward_to_is_checked_and_never_printed() {
    for (url, expected) in [
        ("hush", "it is not a URL"),
        (
            "ftp://hush:hush@127.0.0.1/",
            "it must begin with http:// or https://",
        ),
        ("http://127.0.0.1/#hush", "it has a fragment"),
        (
            "http://hush:hush@127.0.0.1:9/hush",
            "leads to this receiver itself",
        ),
        (
            "http://localhost:9/?token=hush",
            "leads to this receiver itself",
        ),
    ] {
        let mut command = program();
        command.args(["listen", "--port", "9", "--forward-to", url]);
        let error = run(command).failed(2);
        assert!(
            error.contains(expected) && !error.contains("hush"),
            "{url}: {error}"
        );
    }
    let mut command = program();
    command.args([
        "listen",
        "--status",
        "200",
        "--forward-to",
        "http://127.0.0.1:9/",
    ]);
    let error = run(command).failed(2);
    assert!(error.contains("cannot be used with"), "{error}");
}

/// Starts `listen`, which passes callbacks on to this address. Returns its address and its output.
fn forwarding(to: &str) -> (Running, String, impl Iterator<Item = String>) {
    let mut command = program();
    command.args(["listen", "--port", "0"]);
    command.env("PROJECT_WEBHOOKS_LISTEN_FORWARD_TO", to);
    let (listening, lines) = Running::printing(command);
    // A test that fails shows what was printed.
    let mut lines = lines
        .map(Result::unwrap)
        .inspect(|line| eprintln!("{line}"));
    let first = lines.next().unwrap();
    let url = first.strip_prefix("Listening on http://").unwrap();
    (listening, url.trim_end_matches('/').to_owned(), lines)
}

/// Reads the head and the body of a message with a length.
fn message(stream: &mut impl Read) -> (Vec<String>, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}

#[test]
fn it_passes_callbacks_on_unchanged_and_the_answer_back() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!(
        "http://user:hush@{}/hook/hush?key=hush",
        target.local_addr().unwrap()
    );
    let (listening, address, mut lines) = forwarding(&to);
    let shown = lines.next().unwrap();
    assert!(
        shown.starts_with("Passing callbacks on to http://127.0.0.1:"),
        "{shown}"
    );
    assert!(shown.ends_with("/hook/…?key=…"), "{shown}");

    let mut sender = Patient::of(TcpStream::connect(&address).unwrap());
    let body = b"<schema/>\xff\0";
    let head = "POST /?a=1&b=%26 HTTP/1.1\r\nHost: x\r\nWebhook-Id: evt_1\r\nWebhook-Event: test\r\n\
                Webhook-Attempt: 3\r\nWebhook-Signature: v1,abc v1,def\r\nX-Two: 1\r\nX-Two: 2\r\n\
                Content-Type: application/xml\r\nContent-Length: 11\r\n\r\n";
    sender.write_all(head.as_bytes()).unwrap();
    sender.write_all(body).unwrap();
    let mut stream = accept(&target).unwrap();
    let (came, came_body) = message(&mut stream);
    assert_eq!(came[0], "POST /hook/hush?key=hush&a=1&b=%26 HTTP/1.1");
    assert_eq!(came_body, body);
    let mut came: Vec<&str> = came[1..].iter().map(String::as_str).collect();
    came.sort_unstable();
    let host = format!("host: {}", target.local_addr().unwrap());
    assert_eq!(
        came,
        [
            "accept: */*",
            "authorization: Basic dXNlcjpodXNo",
            "content-length: 11",
            "content-type: application/xml",
            host.as_str(),
            "webhook-attempt: 3",
            "webhook-event: test",
            "webhook-id: evt_1",
            "webhook-signature: v1,abc v1,def",
            "x-two: 1",
            "x-two: 2",
        ]
    );
    // A kept connection might not yet be ready for the next request, which would then take another one.
    let answer = "HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nConnection: close\r\n\
                  Transfer-Encoding: chunked\r\n\r\n4\r\nwait\r\n0\r\n\r\n";
    stream.write_all(answer.as_bytes()).unwrap();
    let (head, body) = message(&mut sender);
    assert_eq!(head[0], "HTTP/1.1 429 Too Many Requests");
    assert!(head.contains(&"retry-after: 7".to_owned()), "{head:?}");
    assert_eq!(body, b"wait");
    let printed: Vec<String> = lines
        .by_ref()
        .skip_while(|line| !line.contains("  429 to "))
        .take_while(|line| !line.is_empty())
        .collect();
    assert!(
        printed[0].contains("  429 to evt_1, attempt 3, passed on to http://127.0.0.1:"),
        "{printed:?}"
    );
    assert_eq!(printed[1..], ["  < wait"]);

    // A sender that gives up ends the request to the target.
    sender
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut stream = accept(&target).unwrap();
    let (request, _) = message(&mut stream);
    assert_eq!(request[0], "POST /hook/hush?key=hush HTTP/1.1");
    sender.shutdown(Shutdown::Both).unwrap();
    drop(sender);
    let line = lines.find(|line| line.contains("gave up"));
    assert!(
        line.unwrap()
            .ends_with("  the sender gave up before the answer to the request")
    );
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);

    // Without the target, the sender gets an answer that makes it retry.
    drop((stream, target));
    let mut sender = Patient::of(TcpStream::connect(&address).unwrap());
    sender
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let (head, body) = message(&mut sender);
    assert_eq!(head[0], "HTTP/1.1 502 Bad Gateway");
    let body = String::from_utf8(body).unwrap();
    assert!(body.starts_with("project-webhooks listen: "), "{body}");
    // The connection is refused. One that the client opened before, and nobody accepted, is reset.
    let problem = lines.find(|line| line.starts_with("  problem  ")).unwrap();
    let reasons = ["refused", "reset"];
    assert!(
        reasons.iter().any(|reason| problem.contains(reason)),
        "{problem}"
    );
    assert!(!problem.contains("hush"), "{problem}");
    assert_eq!(listening.end(Signal::TERM), None);
}
