//! `--follow` and `--watch`: what is new, until the command is interrupted.

use std::io::Read as _;
use std::process::Command;

use serde_json::Value;

use crate::patience::{terminal, wait_until};
use crate::support::{Place, Printed, Running, project, webhook};

/// A command that goes on until the test ends.
struct Following {
    _running: Running,
    lines: Printed,
}

impl Following {
    fn start(command: Command) -> Self {
        let (_running, lines) = Running::printing(command);
        Self { _running, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("it goes on").unwrap()
    }

    /// The next JSON line that fits.
    fn json(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        wait_until("a line that fits", || {
            let line = serde_json::from_str(&self.line()).unwrap();
            fits(&line).then_some(line)
        })
    }
}

#[test]
fn listings_go_on_with_new_and_changed_items() {
    // Nobody listens there.
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let _daemon = place.daemon();
    place.write("sales/orders/project.xml", &project("Orders"));
    place.deliveries("an event", |one| one["project"] == "orders");

    let mut events = Following::start(place.command(&["events", "--follow", "--json"]));
    let mut deliveries = Following::start(place.command(&["deliveries", "--follow", "--json"]));
    let arguments = ["deliveries", "--follow", "--state", "cancelled"];
    let mut cancelled = Following::start(place.command(&arguments));
    // First what is there: both events of an import.
    for _ in 0..2 {
        assert_eq!(events.json(|_| true)["project"], "orders");
    }
    let first = deliveries.json(|one| one["project"] == "orders");
    assert_eq!(first["state"], "pending", "{first}");
    assert!(cancelled.line().starts_with("id"), "the headings");

    place.write("sales/returns/project.xml", &project("Returns"));
    let event = events.json(|_| true);
    assert_eq!(event["project"], "returns", "only what is new");
    deliveries.json(|one| one["project"] == "returns");
    let id = first["id"].to_string();
    place
        .run(&["deliveries", "cancel", &id, "--yes"])
        .succeeded();
    deliveries.json(|one| one["id"] == first["id"] && one["state"] == "cancelled");
    let line = cancelled.line();
    assert!(
        line.starts_with(&id) && line.contains("cancelled"),
        "{line}"
    );
}

#[test]
fn the_status_is_drawn_again_without_clearing_the_screen() {
    let place = Place::new(&webhook("catalog", "http://127.0.0.1:9/"));
    let mut json = Following::start(place.command(&["status", "--watch", "--json"]));
    json.json(|status| status["running"] == false);

    let (mut terminal, side) = terminal();
    let mut command = place.command(&["status", "--watch"]);
    let watching = Running(command.stdout(side).spawn().unwrap());
    drop(command);
    let mut drawn = String::new();
    let mut read_until = |words: &str| {
        let mut buffer = [0; 4096];
        wait_until(words, || {
            let n = terminal.read(&mut buffer).unwrap();
            drawn.push_str(&String::from_utf8_lossy(&buffer[..n]));
            drawn.contains(words).then_some(())
        });
    };
    read_until("stopped: ");
    let daemon = place.daemon();
    json.json(|status| status["running"] == true);
    read_until("running: process");
    drop((watching, daemon));
    assert_eq!(drawn.matches("\u{1b}[2J").count(), 1);
    assert!(drawn.matches("\u{1b}[H").count() > 1, "{drawn}");
}
