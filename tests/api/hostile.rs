//! Clients that stall, send too much, or are too many.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::client::{Server, TOKEN, bearer};
use super::common::{Endpoint, PATIENCE, Stop, wait_until, wait_within, xml};
use super::{refusing, three_projects, with_api};

const HOST: &str = "host: localhost";
const JSON: &str = "content-type: application/json";

#[test]
fn markup_in_every_field_is_only_text() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    three_projects(&home, &server);
    for path in [
        "/api/v1/status",
        "/api/v1/events",
        "/api/v1/deliveries",
        "/api/v1/webhooks",
        "/api/v1/openapi.json",
        "/api/v1/events/%3Cscript%3E",
        "/%3Cscript%3E",
        "/login",
        "/healthz",
    ] {
        let answer = server.get(path);
        let content_type = answer.header("content-type").unwrap();
        let is_page = path == "/login";
        assert_eq!(content_type.starts_with("text/html"), is_page, "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!answer.head.contains("access-control"), "{answer:?}");
    }
}

#[test]
fn methods_and_bodies_are_bounded() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let token = bearer(TOKEN);
    let lines = [HOST, &token, JSON];
    let head = server.send("HEAD", "/api/v1/status", &lines, "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for (method, path) in [
        ("OPTIONS", "/api/v1/status"),
        ("DELETE", "/api/v1/deliveries/1"),
        ("POST", "/api/v1/status"),
        ("GET", "/api/v1/webhooks/good/enable"),
        ("TRACE", "/api/v1/status"),
    ] {
        let answer = server.send(method, path, &lines, "");
        assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
        assert!(!answer.head.contains("access-control"), "{answer:?}");
    }
    let path = "/api/v1/webhooks/good/disable";
    let large = format!("{{\"reason\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(server.send("POST", path, &lines, &large).status, 413);
    for body in ["{", "[]", "null", "{\"reason\":1}", "{\"other\":1}"] {
        assert_eq!(
            server.send("POST", path, &lines, body).status,
            400,
            "{body}"
        );
    }
    // Every text of a request is bounded.
    let long = "x".repeat(1_025);
    let reason = format!("{{\"reason\":\"{long}\"}}");
    let answer = server.send("POST", path, &lines, &reason);
    assert_eq!(answer.status, 400, "{answer:?}");
    let error = answer.json()["error"].to_string();
    assert!(error.contains("reason is longer than 1,024"), "{error}");
    assert_eq!(server.json("/api/v1/webhooks")[0]["standing"], "on");
    let longest = format!("{{\"reason\":\"{}\"}}", "x".repeat(1_024));
    assert_eq!(server.send("POST", path, &lines, &longest).status, 200);
    for (method, path, body) in [
        (
            "POST",
            "/api/v1/deliveries/cancel",
            format!("{{\"project\":\"{long}\",\"dryRun\":true}}"),
        ),
        (
            "POST",
            "/api/v1/events/replay",
            format!("{{\"to\":\"{long}\"}}"),
        ),
        (
            "POST",
            &*format!("/api/v1/webhooks/{long}/enable"),
            String::new(),
        ),
        (
            "GET",
            &*format!("/api/v1/deliveries?webhook={long}"),
            String::new(),
        ),
        (
            "GET",
            &*format!("/api/v1/events?project={}", "%61".repeat(1_025)),
            String::new(),
        ),
        ("GET", &*format!("/api/v1/events/{long}"), String::new()),
    ] {
        let answer = server.send(method, path, &lines, &body);
        let error = answer.json()["error"].to_string();
        assert_eq!(answer.status, 400, "{error}");
        assert!(error.contains("longer than 1,024"), "{error}");
    }
    let deep = "[".repeat(60_000);
    assert_eq!(server.send("POST", path, &lines, &deep).status, 400);
    let many: Vec<i64> = (0..1_001).collect();
    let many = serde_json::json!({ "ids": many, "dryRun": true }).to_string();
    let answer = server.send("POST", "/api/v1/deliveries/cancel", &lines, &many);
    assert_eq!(answer.status, 400);
    let long = format!("x: {}", "x".repeat(1_000_000));
    let answer = server.send("GET", "/api/v1/status", &[HOST, &token, &long], "");
    assert_ne!(answer.status, 200);
    assert_eq!(server.get("/api/v1/status").status, 200);
}

#[test]
fn stalled_and_idle_clients_delay_nobody() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let daemon = home.start();
    // Half a head, half a body, an answer that nobody reads, and many that say nothing.
    let mut stalled = Vec::new();
    for text in [
        "GET /api/v1/status HT".to_owned(),
        format!(
            "POST /api/v1/webhooks/good/disable HTTP/1.1\r\n{HOST}\r\n{}\r\n{JSON}\r\n\
             content-length: 100\r\n\r\n{{",
            bearer(TOKEN)
        ),
    ] {
        let mut client = server.connect();
        client.write_all(text.as_bytes()).unwrap();
        stalled.push(client);
    }
    let unread = server.stream(&[]);
    for _ in 0..1_000 {
        stalled.push(server.connect());
    }
    home.write("sales/one/project.xml", &xml("One", "one", ""));
    good.wait_for(2);
    assert_eq!(server.get("/api/v1/status").status, 200);
    assert!(daemon.reload());
    assert_eq!(server.get("/api/v1/status").status, 200);
    let again = server.stream(&[]);
    // The oldest connections are closed for newer ones.
    let mut rest = String::new();
    let _ = stalled[0].read_to_string(&mut rest);
    assert_eq!(daemon.n_messages("Too many open files"), 0);
    assert_eq!(daemon.terminate().code(), Some(0));
    drop((unread, again, stalled));
}

#[test]
fn a_body_that_never_comes_is_cut_off() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let mut client = server.connect();
    let token = bearer(TOKEN);
    let head = format!(
        "POST /api/v1/webhooks/good/disable HTTP/1.1\r\n{HOST}\r\n{token}\r\n{JSON}\r\n\
         content-length: 100\r\n\r\n{{"
    );
    client.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    wait_until("the webhook", || {
        (server.json("/api/v1/webhooks")[0]["standing"] == "on").then_some(())
    });
}

#[test]
fn clients_without_the_token_close_no_connection_of_others() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let mut stream = server.stream(&[]);
    let idle: Vec<_> = (0..200).map(|_| server.connect()).collect();
    // The server has accepted all of them before it answers this.
    assert_eq!(server.get("/api/v1/status").status, 200);
    home.write("sales/one/project.xml", &xml("One", "one", ""));
    stream.find(|message| message.name == "event");
    drop(idle);
}

#[test]
fn health_answers_during_a_flood_of_connections() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let daemon = home.start();
    let mut stream = server.stream(&[]);
    assert_eq!(stream.next().unwrap().name, "ready");
    // Many connections at once, as a busy machine accepts them: one of them asks for the health.
    daemon.signal(Signal::STOP);
    let mut crowd: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let mut probe = server.connect();
    let request = format!("GET /healthz HTTP/1.1\r\n{HOST}\r\nconnection: close\r\n\r\n");
    probe.write_all(request.as_bytes()).unwrap();
    crowd.extend((0..100).map(|_| server.connect()));
    daemon.signal(Signal::CONT);
    let mut answer = String::new();
    let _ = probe.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    drop(crowd);
    let is_over = AtomicBool::new(false);
    let n_connected = AtomicUsize::new(0);
    // Silent ones, a part of a head, and heads that ask for the health endlessly.
    let texts = [
        "",
        "GET /heal",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ];
    let statuses = std::thread::scope(|scope| {
        for text in texts {
            let (server, is_over, n_connected) = (&server, &is_over, &n_connected);
            scope.spawn(move || {
                let mut open = VecDeque::new();
                while !is_over.load(Ordering::Relaxed) {
                    let mut client = server.connect();
                    let _ = client.write_all(text.as_bytes());
                    open.push_back(client);
                    n_connected.fetch_add(1, Ordering::Relaxed);
                    if open.len() > 200 {
                        open.pop_front();
                    }
                }
            });
        }
        let _end = Stop(&is_over);
        wait_until("the flood", || {
            (n_connected.load(Ordering::Relaxed) > 1_000).then_some(())
        });
        let mut statuses = Vec::new();
        wait_within(3 * PATIENCE, "the answers", || {
            statuses.extend(prompt_probe(&server));
            (statuses.len() >= 50).then_some(())
        });
        statuses
    });
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    // A client with the token keeps its connection.
    home.write("sales/one/project.xml", &xml("One", "one", ""));
    stream.find(|message| message.name == "event");
}

/// Asks for the health, and returns the status of the answer. 0 if there is none.
///
/// The server gives a new connection 10 ms for its request. `None` if this machine was too busy to send
/// it in that time: then the server may have closed the connection.
fn prompt_probe(server: &Server) -> Option<u16> {
    let begin = Instant::now();
    let mut probe = server.connect();
    let request = format!("GET /healthz HTTP/1.1\r\n{HOST}\r\nconnection: close\r\n\r\n");
    let _ = probe.write_all(request.as_bytes());
    let was_prompt = begin.elapsed() < Duration::from_millis(10);
    let mut answer = String::new();
    let _ = probe.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).unwrap_or_default();
    was_prompt.then(|| status.parse().unwrap_or_default())
}

#[test]
fn downloads_that_nobody_reads_hold_no_payload() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let daemon = home.start();
    // As large as a payload may get, and compressed to nearly nothing.
    let content = xml("Large", "large", &"x".repeat(48 << 20));
    home.write("sales/large/project.xml", &content);
    let imports = "/api/v1/events?event=project-import";
    let event = wait_until("the event", || {
        let id = server.json(imports)["items"][0]["id"].clone();
        id.as_str().map(str::to_owned)
    });
    let path = format!("/events/{event}/project.xml");
    let head = format!("GET {path} HTTP/1.1\r\n{HOST}\r\n{}\r\n\r\n", bearer(TOKEN));
    let mut unread = Vec::new();
    for _ in 0..12 {
        let mut client = server.connect();
        client.write_all(head.as_bytes()).unwrap();
        // A byte shows that the answer has begun.
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        unread.push(client);
    }
    let status = server.get("/api/v1/status");
    assert_eq!(status.status, 200);
    // The event itself takes memory for a moment, and 12 payloads would take 576 MiB for all the time.
    wait_until("little memory", || {
        let held = super::memory_kib(&daemon, "RssAnon:");
        (held < 200 << 10).then_some(())
    });
    // The next one is refused or gets every byte.
    drop(unread);
    let body = wait_until("a download", || {
        let answer = server.get(&path);
        (answer.status == 200).then_some(answer.body)
    });
    assert!(body == content, "{} bytes", body.len());
}
