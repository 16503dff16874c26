use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::common::{Endpoint, Home, Settings, Webhook, wait_until, xml};
use crate::standing;

/// Otherwise the delivery would be retried for days, and would count against the endpoint.
#[test]
fn a_name_that_is_too_long_for_the_format_is_dead_at_once() {
    for (format, what) in [
        ("xml", "the URL"),
        ("cloudevents", "the header ce-projectname"),
    ] {
        let endpoint = Endpoint::new();
        let webhook = Webhook::new("all", &endpoint.url())
            .events("[project-import-any]")
            .with(&format!("format: {format}"));
        let home = Home::new(&Settings::of([webhook]));
        let daemon = home.start();
        for length in [2_000, 8_001, 30_000] {
            let name = "n".repeat(length);
            home.write(&format!("sales/p{length}/project.xml"), &xml(&name, "", ""));
        }
        daemon.wait_message("delivered: ", 1);
        daemon.wait_message("given up: not sent: ", 2);
        daemon.wait_log("what to do", |entry| {
            let text = entry.message();
            text.contains(what) && text.contains("shorten the names")
        });
        assert_eq!(endpoint.n(), 1, "{format}");
        // The log has the outcome before it is committed.
        wait_until("two dead deliveries", || {
            (standing(&home, "all")["dead"] == 2).then_some(())
        });
        assert_eq!(daemon.n_messages("the endpoint seems to be down"), 0);
    }
}

/// The longest body that [`narrow`] accepts.
const LIMIT: usize = 100_000;

/// Answers one request, with 413 and without reading the body if that is too long.
fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim_end().parse().unwrap();
        }
    }
    let status = if length > LIMIT {
        "413 Content Too Large"
    } else {
        reader.read_exact(&mut vec![0; length])?;
        "200 OK"
    };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    reader.into_inner().write_all(answer.as_bytes())
}

/// A receiver that refuses long bodies and closes. Returns its URL.
fn narrow() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream?));
        }
    });
    format!("http://{address}/")
}

#[test]
fn projects_that_are_too_long_for_a_receiver_hold_up_no_others() {
    const N: usize = 12;
    let webhook = Webhook::new("all", &narrow())
        .events("[project-import-any]")
        .schedule("[0s]");
    let home = Home::new(&Settings::of([webhook]));
    let daemon = home.start();
    for n in 0..N {
        for (name, length) in [("long", 512 << 10), ("short", 10)] {
            let content = xml(name, &format!("{name}{n}"), &"x".repeat(length));
            home.write(&format!("sales/{name}{n}/project.xml"), &content);
        }
    }
    let outcomes = wait_until("all outcomes", || {
        let standing = standing(&home, "all");
        (standing["pending"] == 0 && standing["delivered"] == N).then_some(standing)
    });
    assert_eq!(outcomes["dead"], N, "{outcomes}");
    assert_eq!(daemon.n_messages("the endpoint seems to be down"), 0);
    let dead = home.json(&["deliveries", "--state", "dead"]);
    for one in dead.as_array().unwrap() {
        assert_eq!(one["lastStatus"], 413, "{one}");
    }
}
