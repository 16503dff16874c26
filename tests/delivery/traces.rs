//! Traces: the tree of spans from a file's change to the answer, and collectors that do not work.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use project_webhooks::receiver::Received;
use prost::Message;
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::{Daemon, Endpoint, Home, Settings, Webhook, get, wait_until};
use crate::tls::{self, Authority};
use crate::{define, reply};

/// A collector that keeps the spans it gets.
struct Collector {
    /// The URL for `otlp.endpoint`.
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    /// The lines of the heads of the requests, in lower case.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    fn start() -> Self {
        Self::with(None)
    }

    /// Starts a collector, with TLS if there are settings for it.
    fn with(tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match tls {
            None => format!("http://127.0.0.1:{port}/"),
            Some(_) => format!("https://localhost:{port}"),
        };
        let (spans, heads) = <(Arc<Mutex<_>>, Arc<Mutex<_>>)>::default();
        let collector = Self { url, spans, heads };
        let (spans, heads) = (Arc::clone(&collector.spans), Arc::clone(&collector.heads));
        let tls = tls.map(Arc::new);
        std::thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                // A client may open a connection and use another one.
                let (tls, spans, heads) = (tls.clone(), Arc::clone(&spans), Arc::clone(&heads));
                std::thread::spawn(move || {
                    let keep = |head: Vec<String>, body: ExportTraceServiceRequest| {
                        heads.lock().unwrap().extend(head);
                        for found in body.resource_spans {
                            let attributes = found.resource.unwrap().attributes;
                            assert_eq!(value(&attributes, "service.name"), "project-webhooks");
                            let found = found.scope_spans.into_iter().flat_map(|scope| scope.spans);
                            spans.lock().unwrap().extend(found);
                        }
                    };
                    match tls {
                        None => request(stream, keep),
                        Some(tls) => {
                            let connection = ServerConnection::new(tls).unwrap();
                            request(StreamOwned::new(connection, stream), keep);
                        }
                    }
                });
            }
        });
        collector
    }

    /// The spans of a trace by name, once one of them has this status as an attribute.
    fn trace(&self, trace: &str, status: u16) -> BTreeMap<String, Vec<Span>> {
        let of_trace = || -> Vec<Span> {
            let spans = self.spans.lock().unwrap();
            let mine = spans.iter().filter(|span| hex(&span.trace_id) == trace);
            mine.cloned().collect()
        };
        let has_ended = |span: &Span| {
            let found = value(&span.attributes, "http.response.status_code");
            found == status.to_string()
        };
        let spans = wait_until("the spans of a trace", || {
            let spans = of_trace();
            spans.iter().any(has_ended).then_some(spans)
        });
        let mut by_name: BTreeMap<String, Vec<Span>> = BTreeMap::new();
        for span in spans {
            by_name.entry(span.name.clone()).or_default().push(span);
        }
        by_name
    }
}

/// Reads a request as a collector does, keeps it, and accepts it. The client may send none.
fn request(
    mut stream: impl Read + Write,
    keep: impl FnOnce(Vec<String>, ExportTraceServiceRequest),
) {
    let mut reader = BufReader::new(&mut stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_lowercase()),
        }
    }
    assert_eq!(lines[0], "post /v1/traces http/1.1");
    assert!(lines.contains(&"content-type: application/x-protobuf".to_owned()));
    let length = lines
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let body = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    keep(lines, body);
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n\
                  content-length: 0\r\nconnection: close\r\n\r\n";
    stream.write_all(answer.as_bytes()).unwrap();
    stream.flush().unwrap();
}

/// The value of an attribute as text. Empty if there is none.
fn value(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|found| found.value.as_ref()?.value.clone());
    match value {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(n)) => n.to_string(),
        Some(other) => panic!("{key}: {other:?}"),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn traceparent(one: &Received) -> Option<&str> {
    let mut headers = one.headers.iter();
    let found = headers.find(|(name, _)| name == "traceparent");
    found.map(|(_, value)| value.as_str())
}

/// The value of the metric that counts spans.
fn spans_metric(home: &Home, outcome: &str) -> f64 {
    let (_, text) = get(home, "/metrics").unwrap();
    let line = format!("project_webhooks_trace_spans_total{{outcome=\"{outcome}\"}} ");
    let found = text.lines().find_map(|text| text.strip_prefix(&line));
    found.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

const ADMIN: &str = "admin: { listen: \"unix:admin.sock\" }";

fn settings(endpoint: &Endpoint, collector: &str) -> Settings {
    let webhook = Webhook::new("all", &endpoint.url()).events("[project-import-any]");
    let mut settings = Settings::of([webhook]).top(&format!(
        "otlp: {{ endpoint: \"{collector}\", headers: {{ Authorization: {{ file: token }} }} }}"
    ));
    settings.settle = "100ms";
    settings
}

fn home(settings: &Settings) -> Home {
    let home = Home::new(settings);
    fs::write(home.beside("token"), "Bearer 50%25-secret\n").unwrap();
    home
}

#[test]
fn an_event_is_one_trace_from_the_change_to_the_last_answer() {
    let collector = Collector::start();
    let endpoint = Endpoint::answering(|one| match one.attempt {
        Some(1) => reply(500),
        _ => reply(204),
    });
    let home = home(&settings(&endpoint, &collector.url));
    let daemon = Daemon::start(&home);
    define(&home, "orders");
    let came = endpoint.wait_for(2);
    let trace = came[0].id.strip_prefix("evt_").unwrap();
    let spans = collector.trace(trace, 204);
    let names: Vec<(&str, usize)> = spans
        .iter()
        .map(|(name, spans)| (name.as_str(), spans.len()))
        .collect();
    let expected = [
        ("attempt", 2),
        ("project-import-any", 1),
        ("queue", 2),
        ("record", 1),
        ("settle", 1),
    ];
    assert_eq!(names, expected, "{spans:#?}");
    let root = &spans["project-import-any"][0];
    assert!(root.parent_span_id.is_empty(), "{root:?}");
    assert_eq!(value(&root.attributes, "event.id"), came[0].id);
    assert_eq!(value(&root.attributes, "event.project"), "sales/orders");
    for span in spans.values().flatten() {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        if span.span_id != root.span_id {
            assert_eq!(span.parent_span_id, root.span_id, "{span:?}");
        }
    }
    // The stages follow one another from the change of the file to the answer.
    let stages = [
        &spans["settle"][0],
        &spans["record"][0],
        &spans["queue"][0],
        &spans["attempt"][0],
        &spans["queue"][1],
        &spans["attempt"][1],
    ];
    assert_eq!(root.start_time_unix_nano, stages[0].start_time_unix_nano);
    assert_eq!(root.end_time_unix_nano, stages[1].end_time_unix_nano);
    for pair in stages.windows(2) {
        let (end, start) = (pair[0].end_time_unix_nano, pair[1].start_time_unix_nano);
        assert_eq!(end, start, "{pair:#?}");
    }
    for (span, (one, status)) in spans["attempt"].iter().zip(came.iter().zip(["500", "204"])) {
        let attributes = &span.attributes;
        assert_eq!(value(attributes, "http.response.status_code"), status);
        assert_eq!(value(attributes, "webhook"), "all");
        assert_eq!(span.kind(), SpanKind::Client);
        let expected = format!("00-{trace}-{}-01", hex(&span.span_id));
        assert_eq!(traceparent(one), Some(expected.as_str()));
    }
    let status = |span: &Span| span.status.as_ref().map(|status| status.code());
    assert_eq!(status(&spans["attempt"][0]), Some(StatusCode::Error));
    assert_eq!(status(&spans["attempt"][1]), Some(StatusCode::Unset));
    // The header is sent as it is configured.
    let header = "authorization: bearer 50%25-secret".to_owned();
    assert!(collector.heads.lock().unwrap().contains(&header));
    assert!(daemon.terminate().success());

    // Off by default: no header, and no request to the collector.
    let n_spans = collector.spans.lock().unwrap().len();
    let mut settings = settings(&endpoint, &collector.url);
    settings.top.clear();
    home.configure(&settings);
    let daemon = Daemon::start(&home);
    define(&home, "returns");
    let came = endpoint.wait_for_one("a second attempt", |one| {
        one.attempt == Some(2) && one.id != came[0].id
    });
    assert_eq!(traceparent(&came), None);
    assert!(daemon.terminate().success());
    assert_eq!(collector.spans.lock().unwrap().len(), n_spans);
}

#[test]
fn a_collector_with_tls_needs_a_certificate_that_the_machine_trusts() {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let identity = right.issue("localhost", 2100, ServerAuth);
    let collector = Collector::with(Some(tls::server_config(&identity, None)));
    let endpoint = Endpoint::new();
    let home = home(&settings(&endpoint, &collector.url).top(ADMIN));
    let start = |authority: &Authority| {
        fs::write(home.beside("authority.pem"), authority.pem()).unwrap();
        let mut command = Daemon::command(&home);
        command
            .env("SSL_CERT_FILE", home.beside("authority.pem"))
            .env_remove("SSL_CERT_DIR");
        let daemon = Daemon::launch(&home, command);
        daemon.wait_ready();
        daemon
    };
    // Without trust, callbacks arrive, and the spans are counted as failed.
    let daemon = start(&wrong);
    define(&home, "orders");
    endpoint.wait_for(1);
    let failed = daemon.wait_log("the reason", |entry| {
        entry.message().contains("takes no traces")
    });
    let reason = failed.message();
    assert!(reason.contains("UnknownIssuer"), "{reason}");
    wait_until("failed spans", || {
        (spans_metric(&home, "failed") > 0.0).then_some(())
    });
    assert!(daemon.terminate().success());
    assert!(collector.spans.lock().unwrap().is_empty());

    let daemon = start(&right);
    define(&home, "returns");
    let came = endpoint.wait_for(2);
    let trace = came[1].id.strip_prefix("evt_").unwrap();
    assert_eq!(collector.trace(trace, 204)["attempt"].len(), 1);
    assert!(daemon.terminate().success());
}

#[test]
fn a_collector_that_never_answers_delays_nothing_and_spans_are_dropped_and_counted() {
    const PROJECTS: usize = 400;
    // It accepts connections, and nobody reads them.
    let stalled = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stalled.local_addr().unwrap().port();
    let endpoint = Endpoint::new();
    let url = format!("http://127.0.0.1:{port}");
    let settings = settings(&endpoint, &url).top(ADMIN);
    let home = home(&settings);
    let daemon = Daemon::start(&home);
    for n in 0..PROJECTS {
        define(&home, &format!("project-{n}"));
    }
    endpoint.wait_for(PROJECTS);
    wait_until("dropped spans", || {
        (spans_metric(&home, "dropped") > 0.0).then_some(())
    });
    assert_eq!(spans_metric(&home, "sent"), 0.0);
    assert!(daemon.terminate().success());
}
