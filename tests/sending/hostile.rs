//! Receivers that break the rules: an attempt ends, uses little memory, and has a one-line error.

use std::time::Duration;

use project_webhooks::domain::delivery::{ANSWER_MAX, Outcome, RetryAfter};
use project_webhooks::webhook::Attempt;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::harness::{
    PATIENT, REFUSED, SHORT, answering, callback, client, host, now, peer, read_request, send,
    webhook,
};

/// More than the kernel's buffers of a connection, and far less than an endless answer.
///
/// The client cannot have kept more than the server could write.
const BOUND: usize = 32 * 1024 * 1024;

/// Answers with `first`, then with `again` until the client is gone; returns the bytes written.
async fn flooding(first: &'static [u8], again: Vec<u8>) -> (String, JoinHandle<usize>) {
    peer(move |mut socket| async move {
        read_request(&mut socket).await;
        let _client_may_be_gone = socket.write_all(first).await;
        let mut written = 0;
        while written < 4 * BOUND && socket.write_all(&again).await.is_ok() {
            written += again.len();
        }
        written
    })
    .await
}

async fn attempt(url: &str, timeout: Duration) -> Attempt {
    let mut webhook = webhook(url);
    webhook.timeout = timeout;
    let attempt = send(&webhook).await;
    assert!(attempt.answer.len() <= ANSWER_MAX);
    let success = attempt.outcome == Outcome::Accepted;
    assert_eq!(attempt.error.is_none(), success, "{attempt:?}");
    if let Some(error) = &attempt.error {
        assert!(error.len() <= 4_000, "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    attempt
}

#[tokio::test]
async fn endless_headers_end_the_attempt() {
    for (first, again) in [
        // One header after the other.
        (
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"x-header: 0123456789\r\n".repeat(500),
        ),
        // One header without an end, and a status line without one.
        (b"HTTP/1.1 200 OK\r\nx-header: ", vec![b'x'; 10_000]),
        (b"HTTP/1.1 200 O", vec![b'K'; 10_000]),
        // Trailers of a body, and the extension of a chunk.
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"x-trailer: 0123456789\r\n".repeat(500),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=",
            vec![b'x'; 10_000],
        ),
    ] {
        let (url, written) = flooding(first, again).await;
        let attempt = attempt(&url, PATIENT).await;
        // The status counts once all headers were read.
        let has_head = first.ends_with(b"0\r\n") || first.ends_with(b"x=");
        assert_eq!(
            attempt.outcome == Outcome::Accepted,
            has_head,
            "{attempt:?}"
        );
        assert!(written.await.unwrap() < BOUND, "{attempt:?}");
    }
}

#[tokio::test]
async fn too_many_and_too_large_headers_are_described() {
    let many = b"x-header: 1\r\n".repeat(101);
    let mut large = b"x-header: ".to_vec();
    large.extend(vec![b'x'; 1_000_000]);
    large.extend(b"\r\n");
    for headers in [many, large] {
        let answer = [b"HTTP/1.1 200 OK\r\n", headers.as_slice(), b"\r\n"].concat();
        let url = answering(answer).await;
        let attempt = attempt(&url, PATIENT).await;
        let error = attempt.error.unwrap();
        assert!(error.starts_with("message head is too large ("), "{error}");
    }
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    for first in [
        &b"HTTP/1.1 200 OK\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFF\r\n",
    ] {
        let (url, written) = flooding(first, vec![b'x'; 10_000]).await;
        let attempt = attempt(&url, PATIENT).await;
        assert_eq!(attempt.outcome, Outcome::Accepted, "{attempt:?}");
        assert_eq!(attempt.answer.len(), ANSWER_MAX);
        assert!(written.await.unwrap() < BOUND);
    }
}

#[tokio::test]
async fn a_body_that_trickles_ends_with_the_timeout() {
    let (url, task) = peer(|mut socket| async move {
        read_request(&mut socket).await;
        let mut sent = socket.write_all(b"HTTP/1.1 500 No\r\n\r\n").await;
        while sent.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            sent = socket.write_all(b"x").await;
        }
    })
    .await;
    let attempt = attempt(&url, SHORT).await;
    assert_eq!(attempt.status, Some(500));
    assert!(attempt.answer.len() < 200);
    task.await.unwrap();
}

#[tokio::test]
async fn interim_answers_are_ignored() {
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
    ] {
        let some = format!("{}HTTP/1.1 204 No\r\n\r\n", interim.repeat(50));
        let some = attempt(&answering(some.into_bytes()).await, PATIENT).await;
        assert_eq!(some.status, Some(204), "{some:?}");

        let (url, task) = peer(move |mut socket| async move {
            read_request(&mut socket).await;
            while socket.write_all(interim.as_bytes()).await.is_ok() {}
        })
        .await;
        let endless = attempt(&url, SHORT).await;
        let error = endless.error.unwrap();
        assert!(
            error.starts_with("timed out after 5s: no answer"),
            "{error}"
        );
        task.await.unwrap();
    }
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    let switched = attempt(&answering(answer.to_vec()).await, PATIENT).await;
    assert_eq!(switched.outcome, REFUSED);
}

#[tokio::test]
async fn a_connection_that_is_closed_at_any_stage_is_a_failure_until_the_status_is_there() {
    // Before the request, within it, and after it.
    for n_read in [0, 1, 100, 1_000, usize::MAX] {
        let (url, _) = peer(move |mut socket| async move {
            let mut request = Vec::new();
            let mut piece = [0; 64];
            while request.len() < n_read && !request.ends_with(b"--\r\n") {
                let room = (n_read - request.len()).min(piece.len());
                match socket.read(&mut piece[..room]).await {
                    Ok(n @ 1..) => request.extend_from_slice(&piece[..n]),
                    _ => return,
                }
            }
        })
        .await;
        let attempt = attempt(&url, PATIENT).await;
        assert_eq!(attempt.status, None);
        let error = attempt.error.unwrap();
        assert!(error.contains("connection"), "{n_read}: {error}");
        assert!(error.contains(&host(&url)), "{n_read}: {error}");
    }
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome";
    let head = answer.find("some").unwrap();
    for end in 1..answer.len() {
        let url = answering(answer.as_bytes()[..end].to_vec()).await;
        let attempt = attempt(&url, PATIENT).await;
        let accepted = attempt.outcome == Outcome::Accepted;
        assert_eq!(accepted, end >= head, "{end}: {attempt:?}");
        assert_eq!(attempt.answer.len(), end.saturating_sub(head));
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_1_is_a_failure() {
    for answer in [
        &b"hello, this is HTTP/0.9\n"[..],
        b"<html>200 OK</html>",
        b"\x00\x01\x02\xff\xfe",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/3.0 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx\0y: z\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let attempt = attempt(&answering(answer.to_vec()).await, PATIENT).await;
        assert_eq!(
            (attempt.outcome, attempt.status),
            (Outcome::NO_ANSWER, None),
            "{attempt:?}"
        );
    }
}

#[tokio::test]
async fn a_wrong_length_does_not_change_the_status() {
    for (headers, body, kept) in [
        ("Content-Length: 10", "some", Some("some")),
        ("Content-Length: 2", "some", Some("so")),
        ("Content-Length: 0", "some", Some("")),
        (
            "Content-Length: 4\r\nContent-Length: 4",
            "some",
            Some("some"),
        ),
        // Two lengths are the way of request smuggling: refused.
        ("Content-Length: 4\r\nContent-Length: 5", "some", None),
        ("Content-Length: -1", "some", None),
        ("Content-Length: +4", "some", None),
        ("Content-Length: 99999999999999999999999", "some", None),
        ("Transfer-Encoding: chunked", "xyz", Some("")),
        (
            "Transfer-Encoding: chunked",
            "FFFFFFFFFFFFFFFFFF\r\nsome",
            Some(""),
        ),
        ("Transfer-Encoding: chunked", "-4\r\nsome", Some("")),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n{body}");
        let attempt = attempt(&answering(answer.into_bytes()).await, PATIENT).await;
        match kept {
            Some(kept) => {
                assert_eq!(attempt.outcome, Outcome::Accepted, "{headers}: {attempt:?}");
                assert_eq!(attempt.answer, kept, "{headers}");
            }
            None => assert_eq!(attempt.status, None, "{headers}: {attempt:?}"),
        }
    }
}

#[tokio::test]
async fn a_compressed_answer_is_kept_compressed() {
    // Ten megabytes of zeros, or a claim of them.
    let bomb = zstd::encode_all(vec![0; 10_000_000].as_slice(), 1).unwrap();
    assert!(bomb.len() < ANSWER_MAX);
    for encoding in ["zstd", "gzip", "deflate", "br", "gzip, gzip", "unknown"] {
        let length = bomb.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {length}\r\n\r\n"
        );
        let url = answering([head.as_bytes(), &bomb].concat()).await;
        let attempt = attempt(&url, PATIENT).await;
        assert_eq!(attempt.outcome, Outcome::Accepted);
        assert_eq!(attempt.answer, bomb, "{encoding}");
    }
}

#[tokio::test]
async fn any_retry_after_on_the_wire_is_safe() {
    let long = "9".repeat(10_000);
    for (value, expected) in [
        ("120", Some(120)),
        ("  7\t", Some(7)),
        ("0", Some(0)),
        (long.as_str(), Some(u64::MAX)),
        ("18446744073709551616", Some(u64::MAX)),
        ("1e300", None),
        ("-1", None),
        ("", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", Some(251_635_000_000)),
        ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
        ("Thu, 99 Foo 99999 99:99:99 GMT", None),
        ("\u{661}\u{662}", None),
        ("1, 2", None),
    ] {
        let answer = format!("HTTP/1.1 503 No\r\nRetry-After: {value}\r\n\r\n");
        let attempt = attempt(&answering(answer.into_bytes()).await, PATIENT).await;
        let Outcome::Failed { retry_after, .. } = attempt.outcome else {
            panic!("{attempt:?}")
        };
        let asked = retry_after.map(|asked| match asked {
            RetryAfter::Webhook(wait) | RetryAfter::Delivery(wait) => wait.as_secs(),
        });
        match (expected, asked) {
            // A date is relative to the time of the answer.
            (Some(expected), Some(asked)) if value.ends_with("GMT") => {
                assert!(asked.abs_diff(expected) < 1_000_000, "{value}: {asked}");
            }
            _ => assert_eq!(asked, expected, "{value}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_answer_makes_the_client_panic(
        status in prop_oneof![
            Just("HTTP/1.1 200 OK\r\n".to_owned()),
            Just("HTTP/1.1 503 No\r\nRetry-After: ".to_owned()),
            Just("HTTP/1.1 302 No\r\nLocation: ".to_owned()),
            "HTTP/[0-9]\\.[0-9] [0-9]{1,4} ?.{0,9}\r?\n",
            Just(String::new()),
        ],
        rest in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            "([a-zA-Z-]{1,12}: ?[ -~]{0,30}\r\n){0,5}\r\n[ -~]{0,100}".prop_map(String::into_bytes),
        ],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let url = answering([status.as_bytes(), &rest].concat()).await;
            attempt(&url, PATIENT).await;
        });
    }
}

/// A server that answers like this as soon as it has the headers, and closes the connection.
fn answering_early(answer: String) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    // A thread of its own, because a receiver does not share the runtime.
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let (mut head, mut piece) = (Vec::new(), [0; 1024]);
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let n = socket.read(&mut piece).unwrap_or(0);
                if n == 0 {
                    break;
                }
                head.extend_from_slice(&piece[..n]);
            }
            let _client_may_be_gone = socket.write_all(answer.as_bytes());
        }
    });
    url
}

/// The system resets such a connection, because the server has not read all.
#[tokio::test]
async fn an_early_answer_to_a_large_upload_is_the_answer_of_that_delivery() {
    const ATTEMPTS: usize = 50;
    let payload = vec![b'x'; 8 * 1024 * 1024];
    for status in [413, 401] {
        let answer =
            format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let url = answering_early(answer);
        let client = client(&webhook(&url));
        let callback = callback(&payload);
        for _ in 0..ATTEMPTS {
            let attempt = client.send(&callback, now()).await;
            let found = (attempt.status, attempt.outcome);
            assert_eq!(found, (Some(status), REFUSED), "{attempt:?}");
        }
    }
}

/// The endpoint accepts connections, so other deliveries to it may work.
#[tokio::test]
async fn a_connection_closed_during_a_large_upload_counts_against_the_delivery() {
    let url = answering_early(String::new());
    let payload = vec![b'x'; 8 * 1024 * 1024];
    let attempt = client(&webhook(&url))
        .send(&callback(&payload), now())
        .await;
    assert_eq!(
        (attempt.status, attempt.outcome),
        (None, REFUSED),
        "{attempt:?}"
    );
    // A small one says nothing about its length.
    let attempt = client(&webhook(&url)).send(&callback(b"<x/>"), now()).await;
    assert_eq!(attempt.outcome, Outcome::NO_ANSWER, "{attempt:?}");
}
