//! `/metrics` of the real binary, as Prometheus reads it.
//!
//! The alert rules and the dashboard name only existing metrics, and the guide explains every alert.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Endpoint, Home, Run as _, Settings, Webhook, finish, get, wait_until, xml};
use project_webhooks::receiver::Reply;

/// The contract's names, section 8, as they are in the text: a histogram has three.
const CONTRACT: &[&str] = &[
    "project_webhooks_events_total",
    "project_webhooks_deliveries_total",
    "project_webhooks_attempt_seconds_bucket",
    "project_webhooks_attempt_seconds_sum",
    "project_webhooks_attempt_seconds_count",
    "project_webhooks_event_latency_seconds_bucket",
    "project_webhooks_event_latency_seconds_sum",
    "project_webhooks_event_latency_seconds_count",
    "project_webhooks_pending",
    "project_webhooks_oldest_pending_seconds",
    "project_webhooks_dead",
    "project_webhooks_webhook_enabled",
    "project_webhooks_projects",
    "project_webhooks_watches",
    "project_webhooks_incomplete_files",
    "project_webhooks_held_removals",
    "project_webhooks_rescans_total",
    "project_webhooks_actor_total",
    "project_webhooks_actor_losses_total",
    "project_webhooks_config_reloads_total",
    "project_webhooks_log_lines_dropped_total",
    "project_webhooks_build_info",
];

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Whether promtool is installed; reports a skipped test if not.
fn has_promtool(test: &str) -> bool {
    let found = Command::new("promtool").arg("--version").run();
    let has = found.is_ok_and(|output| output.status.success());
    if !has {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {test}: needs promtool (prometheus)"
        );
    }
    has
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = finish(child).unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{arguments:?}: {said}");
    // It also succeeds with a warning on standard error.
    assert!(
        arguments[0] != "check" || arguments[1] != "metrics" || said.is_empty(),
        "{said}"
    );
}

/// The names that exist with PostgreSQL alone. `tests/database` asserts them.
const WITH_POSTGRES: &[&str] = &[
    "project_webhooks_lease_held",
    "project_webhooks_lease_epoch",
    "project_webhooks_standbys",
    "project_webhooks_senders",
    "project_webhooks_database_reachable",
];

/// The value of a series.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The names of the series of a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The names of series that a text in another language mentions.
fn mentioned(text: &str) -> BTreeSet<&str> {
    text.split(|one: char| !(one.is_ascii_alphanumeric() || one == '_'))
        .filter(|word| word.starts_with("project_webhooks_"))
        .collect()
}

#[test]
fn metrics_are_true_and_well_formed() {
    let endpoint = Endpoint::new();
    let refusing = Endpoint::answering(|_| Reply::status(axum::http::StatusCode::BAD_REQUEST));
    let gone = Endpoint::answering(|_| Reply::status(axum::http::StatusCode::GONE));
    let settings = Settings::of([
        Webhook::new("good", &endpoint.url()),
        Webhook::new("refusing", &refusing.url()).schedule("[0s]"),
        Webhook::new("gone", &gone.url()),
        Webhook::new("asleep", &endpoint.url()).with("enabled: false"),
    ])
    .top("admin: { listen: \"unix:./admin.sock\" }");
    let home = Home::new(&settings);
    home.write("sales/known/project.xml", &xml("Known", "k", ""));
    let daemon = home.start();
    home.write("sales/p/project.xml", &xml("P", "e", ""));
    home.write("sales/broken/project.xml", "<schema");
    let text = wait_until("all that happened is counted", || {
        let (status, text) = get(&home, "/metrics")?;
        let is = |series: &str, wanted: f64| value(&text, series) == Some(wanted);
        let all = status == 200
            && is(
                "project_webhooks_deliveries_total{outcome=\"delivered\",webhook=\"good\"}",
                2.0,
            )
            && is("project_webhooks_dead{webhook=\"refusing\"}", 2.0)
            && is(
                "project_webhooks_deliveries_total{outcome=\"gone\",webhook=\"gone\"}",
                1.0,
            )
            && is("project_webhooks_incomplete_files", 1.0)
            // The counter changes at the answer, the queue when the store has recorded it.
            && is("project_webhooks_pending{webhook=\"good\"}", 0.0)
            && is("project_webhooks_webhook_enabled{webhook=\"gone\"}", 0.0);
        all.then_some(text)
    });
    for (series, expected) in [
        (
            "project_webhooks_events_total{event=\"project-import\",origin=\"live\"}",
            1.0,
        ),
        (
            "project_webhooks_events_total{event=\"project-delete\",origin=\"live\"}",
            0.0,
        ),
        (
            "project_webhooks_deliveries_total{outcome=\"dead\",webhook=\"refusing\"}",
            2.0,
        ),
        (
            "project_webhooks_attempt_seconds_count{webhook=\"good\"}",
            2.0,
        ),
        ("project_webhooks_event_latency_seconds_count", 2.0),
        ("project_webhooks_pending{webhook=\"gone\"}", 2.0),
        ("project_webhooks_pending{webhook=\"good\"}", 0.0),
        ("project_webhooks_webhook_enabled{webhook=\"good\"}", 1.0),
        ("project_webhooks_webhook_enabled{webhook=\"gone\"}", 0.0),
        ("project_webhooks_webhook_enabled{webhook=\"asleep\"}", 0.0),
        ("project_webhooks_projects", 2.0),
        ("project_webhooks_watching", 1.0),
        ("project_webhooks_trouble{part=\"store\"}", 0.0),
        ("project_webhooks_rescans_total{reason=\"start\"}", 1.0),
        (
            "project_webhooks_config_reloads_total{result=\"applied\"}",
            0.0,
        ),
        ("project_webhooks_log_lines_dropped_total", 0.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}\n{text}");
    }
    assert!(value(&text, "project_webhooks_watches").is_some_and(|n| n > 2.0));
    let version = format!(
        "project_webhooks_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(value(&text, &version), Some(1.0));
    let names = names(&text);
    for name in CONTRACT {
        assert!(names.contains(name), "{name} is missing");
    }
    // The metrics of rules and dashboard exist.
    for source in [
        "monitoring/alerts.yaml",
        "monitoring/grafana-dashboard.json",
    ] {
        for name in mentioned(&file(source)) {
            let exists = names.contains(name) || WITH_POSTGRES.contains(&name);
            assert!(exists, "{source}: {name}");
        }
    }
    // The dashboard shows all metrics.
    let dashboard = file("monitoring/grafana-dashboard.json");
    for name in &names {
        let base = name.trim_end_matches("_sum").trim_end_matches("_count");
        assert!(dashboard.contains(base), "no panel shows {name}");
    }
    if has_promtool("promtool check metrics") {
        promtool(&["check", "metrics"], &text);
    }
    // `status` has the same figures.
    let status = home.json(&["status"]);
    let counts = &status["sinceStart"];
    assert_eq!(counts["events"]["project-import"], 1, "{counts}");
    assert_eq!(counts["attempts"]["good"]["delivered"], 2, "{counts}");
    assert_eq!(counts["attempts"]["refusing"]["dead"], 2, "{counts}");
    assert_eq!(counts["rescans"]["start"], 1, "{counts}");
    assert!(counts["eventLatencySeconds"].as_f64().is_some(), "{counts}");
    // A removed webhook has no series, except for its parked deliveries.
    home.reconfigure(
        &Settings::of([Webhook::new("good", &endpoint.url())])
            .top("admin: { listen: \"unix:./admin.sock\" }"),
    );
    assert!(daemon.reload());
    let reloads = "project_webhooks_config_reloads_total{result=\"applied\"}";
    let text = wait_until("the reload is counted", || {
        let (_, text) = get(&home, "/metrics")?;
        (value(&text, reloads) == Some(1.0)).then_some(text)
    });
    assert!(!text.contains("asleep") && !text.contains("attempt_seconds_count{webhook=\"gone\"}"));
    assert_eq!(
        value(&text, "project_webhooks_pending{webhook=\"gone\"}"),
        Some(2.0)
    );
}

#[test]
fn the_dashboard_is_json_and_every_alert_is_explained() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&file("monitoring/grafana-dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
    let guide = file("docs/operations.md");
    let rules = file("monitoring/alerts.yaml");
    let tests = file("monitoring/alerts.test.yaml");
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert_eq!(alerts.len(), 17);
    for alert in &alerts {
        assert!(
            guide.contains(&format!("\n### {alert}\n")),
            "{alert} is not in the guide"
        );
        let anchor = format!("docs/operations.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} has no runbook");
        assert!(
            tests.contains(&format!("alertname: {alert} ")),
            "{alert} is not tested"
        );
    }
    let explained = guide
        .lines()
        .filter_map(|line| line.strip_prefix("### ProjectWebhooks"));
    assert_eq!(
        explained.count(),
        alerts.len(),
        "the guide explains an alert that is none"
    );
}

#[test]
fn the_rules_are_valid_and_fire_when_they_should() {
    if !has_promtool("promtool test rules") {
        return;
    }
    promtool(&["check", "rules", "monitoring/alerts.yaml"], "");
    promtool(&["test", "rules", "monitoring/alerts.test.yaml"], "");
}

/// The answer to an attempt in flight comes after the reload that removed its webhook.
#[test]
fn a_removed_webhook_has_no_series_once_its_last_answer_came() {
    let endpoint = Endpoint::answering(|_| {
        let mut answer = Reply::status(axum::http::StatusCode::NO_CONTENT);
        answer.delay = std::time::Duration::from_secs(3);
        answer
    });
    let other = Webhook::new("other", &endpoint.url()).with("enabled: false");
    let removed = Webhook::new("removed", &endpoint.url()).events("[project-import-any]");
    let settings = |webhooks: &[&Webhook]| {
        Settings::of(webhooks.iter().map(|one| (*one).clone()))
            .top("admin: { listen: \"unix:./admin.sock\" }")
    };
    let home = Home::new(&settings(&[&other, &removed]));
    let daemon = home.start();
    home.write("sales/p/project.xml", &xml("P", "e", ""));
    endpoint.wait_for(1);
    home.configure(&settings(&[&other]));
    assert!(daemon.reload());
    daemon.wait_message("delivered: ", 1);
    // The counters have the answer before the log has it. The gauges go once the outcome is committed.
    wait_until("metrics without the removed webhook", || {
        let (_, text) = get(&home, "/metrics").expect("the metrics");
        assert!(text.contains("webhook=\"other\""));
        (!text.contains("webhook=\"removed\"")).then_some(())
    });
}
