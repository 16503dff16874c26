//! The stream: new events and outcomes, once each, also after a reconnect.

use super::client::Message;
use super::common::{Endpoint, wait_until, xml};
use super::{refusing, with_api};

/// Whether a message has a delivery to the working webhook of this project, delivered.
fn is_delivered(message: &Message, project: &str) -> bool {
    let data: serde_json::Value = serde_json::from_str(&message.data).unwrap();
    message.name == "delivery" && data["project"] == project && data["state"] == "delivered"
}

#[test]
fn new_events_and_outcomes_arrive_and_none_is_lost_over_a_reconnect() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let daemon = home.start();
    home.write("sales/old/project.xml", &xml("Old", "old", ""));
    // All outcomes, so that none of them comes later.
    wait_until("the outcomes", || {
        let n = |state: &str| {
            let page = server.json(&format!("/api/v1/deliveries?state={state}"));
            page["items"].as_array().unwrap().len()
        };
        (n("delivered") == 2 && n("dead") == 1).then_some(())
    });
    let mut stream = server.stream(&[]);
    let mut other = server.stream(&[]);
    let first = stream.next().unwrap();
    assert_eq!((first.name.as_str(), first.data.as_str()), ("ready", "{}"));
    assert_eq!(other.next().unwrap().name, "ready");

    home.write("sales/new/project.xml", &xml("New", "new", ""));
    let is_event = |message: &Message| message.name == "event" && message.data.contains("\"new\"");
    let event = stream.find(is_event);
    let listed = &server.json("/api/v1/events")["items"];
    let sent: serde_json::Value = serde_json::from_str(&event.data).unwrap();
    assert!(
        listed.as_array().unwrap().contains(&sent),
        "{sent}\n{listed}"
    );
    stream.find(|message| is_delivered(message, "new"));
    other.find(|message| is_delivered(message, "new"));
    let last = other.find(|message| is_delivered(message, "new"));

    // Two events are two deliveries. What comes while nobody listens is sent after a reconnect.
    drop((stream, other));
    home.write("sales/newer/project.xml", &xml("Newer", "newer", ""));
    good.wait_for(6);
    let mut stream = server.stream(&[&format!("last-event-id: {}", last.id)]);
    assert_eq!(stream.next().unwrap().name, "ready");
    let mut n_events = 0;
    stream.find(|message| {
        assert!(!message.data.contains("\"old\""), "{message:?}");
        n_events += u32::from(message.name == "event" && message.data.contains("\"newer\""));
        n_events == 2
    });
    // An id of another time.
    for id in ["x", "0-1", "00000000000000000000000000000000-5"] {
        let mut stream = server.stream(&[&format!("last-event-id: {id}")]);
        assert_eq!(stream.next().unwrap().name, "missed", "{id}");
    }
    // The end of the daemon ends the stream.
    assert_eq!(daemon.terminate().code(), Some(0));
    while stream.next().is_some() {}
}

#[test]
fn the_number_of_streams_is_bounded() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let _daemon = home.start();
    let mut streams: Vec<_> = (0..16).map(|_| server.stream(&[])).collect();
    for stream in &mut streams {
        assert_eq!(stream.next().unwrap().name, "ready");
    }
    assert_eq!(server.get("/api/v1/stream").status, 503);
    drop(streams);
    wait_until("a free place", || {
        let answer = server.send(
            "HEAD",
            "/api/v1/stream",
            &["host: localhost", &super::client::bearer(super::TOKEN)],
            "",
        );
        (answer.status == 200).then_some(())
    });
}

#[test]
fn a_state_that_cannot_be_read_is_logged() {
    let (good, bad) = (Endpoint::new(), refusing());
    let (home, server) = with_api(&good, &bad);
    let daemon = home.start();
    std::fs::rename(home.database(), home.beside("away.db")).unwrap();
    let answer = server.get("/api/v1/stream");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        answer.json()["error"]
            .as_str()
            .unwrap()
            .contains("see the log")
    );
    let log = daemon.wait_log("the reason", |entry| {
        entry
            .message()
            .starts_with("cannot read the state for the stream")
    });
    assert_eq!(log.field("level"), "WARN");
}
