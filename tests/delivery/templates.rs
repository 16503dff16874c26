use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Endpoint, Home, Settings, Webhook, wait_until, xml};
use crate::{assert_same_bytes, reply, standing};

/// The settings with a webhook whose body is this template, in double quotes.
fn settings(endpoint: &Endpoint, template: &str) -> Settings {
    let webhook = Webhook::new("chat", &endpoint.url())
        .events("[snapshot-create]")
        .schedule("[0s, 1h, 1h]")
        .with("format: template")
        .with(&format!(
            "template: {{ content_type: text/plain, body: \"{template}\" }}"
        ));
    Settings::of([webhook])
}

fn snapshot(home: &Home, tag: &str, body: &str) {
    home.write(
        &format!("sales/orders/snapshots/{tag}.xml"),
        &xml("orders", "id-orders", body),
    );
}

/// A template is applied by each attempt. So the body is the same until a reload changes the template.
#[test]
fn a_body_is_the_same_after_a_restart_and_follows_a_changed_template() {
    let works = Arc::new(AtomicBool::new(false));
    let is_working = Arc::clone(&works);
    let endpoint = Endpoint::answering(move |_| {
        reply(if is_working.load(Ordering::Acquire) {
            200
        } else {
            500
        })
    });
    let home = Home::new(&settings(
        &endpoint,
        "{{ label }} {{ versionTag }} {{ occurredAt }}",
    ));
    home.write("sales/orders/project.xml", &xml("orders", "id-orders", ""));
    let daemon = home.start();
    snapshot(&home, "s1", "one");
    endpoint.wait_for(1);
    daemon.wait_message("failed: ", 1);
    assert!(daemon.terminate().success());

    let daemon = home.start();
    home.command(&["deliveries", "redeliver", "--state", "pending", "--yes"]);
    endpoint.wait_for(2);
    daemon.wait_message("failed: ", 1);
    let came = endpoint.all();
    assert_same_bytes(&came);
    assert!(came[0].body.starts_with(b"Snapshot Create s1 "));

    // Events from before the reload and after it have the body by the new template.
    works.store(true, Ordering::Release);
    home.configure(&settings(&endpoint, "tag={{ versionTag }}"));
    assert!(daemon.reload());
    snapshot(&home, "s2", "two");
    let came = endpoint.wait_for(4);
    assert_eq!(came[2].id, came[0].id);
    assert_eq!(
        (&came[2].body[..], &came[3].body[..]),
        (&b"tag=s1"[..], &b"tag=s2"[..])
    );

    // The sample at the load is short. Sent, the body is longer than the limit.
    let too_long = "{{ payload }}".repeat(8);
    home.configure(&settings(&endpoint, &too_long));
    assert!(daemon.reload());
    snapshot(&home, "s3", &"long ".repeat(80_000));
    daemon.wait_log("the dead delivery", |entry| {
        let message = entry.message();
        message.starts_with("given up: ")
            && message.contains("of the template: the output is longer than ")
    });
    assert_eq!(endpoint.n(), 4);
    home.configure(&settings(&endpoint, "{{ versionTag }} again"));
    assert!(daemon.reload());
    home.command(&["deliveries", "redeliver", "--state", "dead", "--yes"]);
    assert_eq!(endpoint.wait_for(5)[4].body, &b"s3 again"[..]);
    wait_until("all deliveries to be recorded", || {
        (standing(&home, "chat")["pending"] == 0).then_some(())
    });
}
