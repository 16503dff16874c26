//! Traces: the tree of spans from a file's change to the answer, and collectors that do not work.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use project_webhooks::receiver::Received;
use serde_json::Value;

use crate::common::{Daemon, Endpoint, Home, Settings, Webhook, wait_until};
use crate::{define, reply};

/// A collector that keeps the spans it gets.
struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&spans);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let body = request(stream.unwrap());
                let resource = &body["resourceSpans"][0];
                let attributes = &resource["resource"]["attributes"];
                assert_eq!(value(attributes, "service.name"), "project-webhooks");
                let found = resource["scopeSpans"][0]["spans"].as_array().unwrap();
                kept.lock().unwrap().extend(found.iter().cloned());
            }
        });
        Self { port, spans }
    }

    /// The spans of a trace by name, once one of them has this status as an attribute.
    fn trace(&self, trace: &str, status: u16) -> BTreeMap<String, Vec<Value>> {
        let of_trace = || -> Vec<Value> {
            let spans = self.spans.lock().unwrap();
            let mine = spans.iter().filter(|span| span["traceId"] == trace);
            mine.cloned().collect()
        };
        let has_ended = |span: &Value| {
            let found = value(&span["attributes"], "http.response.status_code");
            found == status.to_string()
        };
        let spans = wait_until("the spans of a trace", || {
            let spans = of_trace();
            spans.iter().any(has_ended).then_some(spans)
        });
        let mut by_name: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for span in spans {
            let name = span["name"].as_str().unwrap().to_owned();
            by_name.entry(name).or_default().push(span);
        }
        by_name
    }
}

/// Reads a request as a collector does, and accepts it.
fn request(mut stream: TcpStream) -> Value {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_lowercase()),
        }
    }
    assert_eq!(lines[0], "post /v1/traces http/1.1");
    assert!(lines.contains(&"content-type: application/json".to_owned()));
    let length = lines
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
                  connection: close\r\n\r\n{}";
    stream.write_all(answer.as_bytes()).unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// The value of an attribute as text. Empty if there is none.
fn value(attributes: &Value, key: &str) -> String {
    let mut found = attributes.as_array().unwrap().iter();
    let Some(found) = found.find(|attribute| attribute["key"] == key) else {
        return String::new();
    };
    let value = &found["value"];
    let text = value["stringValue"].as_str().or(value["intValue"].as_str());
    text.unwrap().to_owned()
}

fn time(span: &Value, key: &str) -> u64 {
    span[key].as_str().unwrap().parse().unwrap()
}

fn traceparent(one: &Received) -> Option<&str> {
    let mut headers = one.headers.iter();
    let found = headers.find(|(name, _)| name == "traceparent");
    found.map(|(_, value)| value.as_str())
}

/// The value of the metric that counts spans.
fn spans_metric(home: &Home, outcome: &str) -> f64 {
    let mut stream = UnixStream::connect(home.beside("admin.sock")).unwrap();
    let head = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = format!("project_webhooks_trace_spans_total{{outcome=\"{outcome}\"}} ");
    let found = text.lines().find_map(|text| text.strip_prefix(&line));
    found.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

fn settings(endpoint: &Endpoint, port: u16) -> Settings {
    let webhook = Webhook::new("all", &endpoint.url()).events("[project-import-any]");
    let mut settings = Settings::of([webhook]).top(&format!(
        "otlp: {{ endpoint: \"http://127.0.0.1:{port}/\" }}"
    ));
    settings.settle = "100ms";
    settings
}

#[test]
fn an_event_is_one_trace_from_the_change_to_the_last_answer() {
    let collector = Collector::start();
    let endpoint = Endpoint::answering(|one| match one.attempt {
        Some(1) => reply(500),
        _ => reply(204),
    });
    let home = Home::new(&settings(&endpoint, collector.port));
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
    assert!(root.get("parentSpanId").is_none(), "{root}");
    assert_eq!(value(&root["attributes"], "event.id"), came[0].id);
    assert_eq!(value(&root["attributes"], "event.project"), "sales/orders");
    for span in spans.values().flatten() {
        assert!(time(span, "startTimeUnixNano") <= time(span, "endTimeUnixNano"));
        if span["spanId"] != root["spanId"] {
            assert_eq!(span["parentSpanId"], root["spanId"], "{span}");
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
    assert_eq!(root["startTimeUnixNano"], stages[0]["startTimeUnixNano"]);
    assert_eq!(root["endTimeUnixNano"], stages[1]["endTimeUnixNano"]);
    for pair in stages.windows(2) {
        let (end, start) = (&pair[0]["endTimeUnixNano"], &pair[1]["startTimeUnixNano"]);
        assert_eq!(end, start, "{pair:#?}");
    }
    for (span, (one, status)) in spans["attempt"].iter().zip(came.iter().zip(["500", "204"])) {
        let attributes = &span["attributes"];
        assert_eq!(value(attributes, "http.response.status_code"), status);
        assert_eq!(value(attributes, "webhook"), "all");
        assert_eq!(span["kind"], 3);
        let expected = format!("00-{trace}-{}-01", span["spanId"].as_str().unwrap());
        assert_eq!(traceparent(one), Some(expected.as_str()));
    }
    assert_eq!(spans["attempt"][0]["status"]["code"], 2);
    assert!(spans["attempt"][1].get("status").is_none());
    assert!(daemon.terminate().success());

    // Off by default: no header, and no request to the collector.
    let n_spans = collector.spans.lock().unwrap().len();
    let mut settings = settings(&endpoint, collector.port);
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
fn a_collector_that_never_answers_delays_nothing_and_spans_are_dropped_and_counted() {
    const PROJECTS: usize = 400;
    // It accepts connections, and nobody reads them.
    let stalled = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stalled.local_addr().unwrap().port();
    let endpoint = Endpoint::new();
    let settings = settings(&endpoint, port).top("admin: { listen: \"unix:admin.sock\" }");
    let home = Home::new(&settings);
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
