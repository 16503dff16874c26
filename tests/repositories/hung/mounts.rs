//! A file system that hangs below a root that answers.

use super::super::common::{
    Endpoint, Home, Settings, Webhook, wait_health, wait_until, write, xml,
};
use super::super::{ADMIN, DEFINITION, get, is_healthy, put, roots, start};
use super::Manager;
use super::served::{Served, backing};

/// The message that a watch thread does not respond.
const WATCH: &str = "the watch thread does not respond";

fn wait_trouble(home: &Home, part: &str, text: &str) {
    wait_until(&format!("the trouble {part}: {text}"), || {
        let status = home.json(&["status"]);
        let trouble = status["troubles"][part].as_str()?.to_owned();
        trouble.contains(text).then_some(())
    });
}

#[test]
fn a_mount_that_hangs_below_a_root_is_reported_and_stops_no_other_repository() {
    let test =
        "hung::mounts::a_mount_that_hangs_below_a_root_is_reported_and_stops_no_other_repository";
    let all = Endpoint::new();
    let settings = Settings::of([Webhook::new("all", &all.url())])
        .and_repository("{ path: ./models, name: models, settle: 300ms, watch: native }")
        .and_repository("{ path: ./finance, name: finance, settle: 300ms }");
    let home = Home::new(&settings.top(ADMIN));
    roots(&home, &["models/hung", "finance"]);
    let Some(hung) = Served::new(&home, "models/hung", test) else {
        return;
    };
    let daemon = start(&home);
    hung.hang_watch_of(&daemon);
    wait_health(&home, "/readyz", 503);
    wait_trouble(&home, "watch", WATCH);
    assert!(get(&home, "/readyz").contains(&format!("models: {WATCH}")));
    // It says where.
    daemon.wait_message("models/hung", 1);
    assert!(get(&home, "/healthz").starts_with("HTTP/1.1 200 "));
    let series = "project_webhooks_trouble{part=\"watch\",repository=\"models\"} 1";
    assert!(get(&home, "/metrics").contains(series));
    put(&home, "finance", DEFINITION, &xml("Orders", "e-1", "one"));
    all.wait_for(2);

    // Changes of the meantime are found once it answers.
    put(&home, "models", DEFINITION, &xml("Orders", "e-2", "one"));
    let below = backing(&home, "models/hung").join("orders/project.xml");
    write(&below, &xml("Orders", "e-3", "one"));
    hung.answer();
    wait_health(&home, "/readyz", 200);
    all.wait_for(6);
    daemon.wait_message("the watch thread responds again", 1);
    assert!(daemon.terminate().success());
}

#[test]
fn a_mount_that_hangs_below_the_root_at_a_start_keeps_the_service_manager_from_waiting() {
    let test = "hung::mounts::a_mount_that_hangs_below_the_root_at_a_start_keeps_the_service_manager_from_waiting";
    let all = Endpoint::new();
    let home = Home::new(&Settings::all_to(&all).top(ADMIN));
    roots(&home, &["repository/hung"]);
    let Some(hung) = Served::new(&home, "repository/hung", test) else {
        return;
    };
    hung.hang();
    let manager = Manager::listen(&home);
    let daemon = manager.launch(&home);
    manager.wait_ready();
    let page = get(&home, "/readyz");
    assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
    assert!(page.contains(WATCH), "{page}");
    assert!(!is_healthy(&home));
    hung.answer();
    wait_health(&home, "/readyz", 200);
    home.write(DEFINITION, &xml("Orders", "e-1", "one"));
    all.wait_for(2);
    assert!(daemon.terminate().success());
}
