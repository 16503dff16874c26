//! The demo: what it shows is what the README shows.

use std::collections::BTreeSet;
use std::process::Command;

use project_webhooks::domain::event::EventKind;

use crate::blocks;
use crate::process::program;

/// The command.
pub const ARGUMENT: &str = "demo";

#[test]
fn the_demo_shows_all_seven_events() {
    let block = blocks::only("demo");
    let output = Command::new(program())
        .arg(ARGUMENT)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
    for kind in EventKind::ALL {
        assert!(printed.contains(kind.label()), "{}", kind.label());
    }
    // Callbacks of different webhooks may overtake each other, and times differ.
    let (shown, now) = (essence(&block.text), essence(&printed));
    if shown != now && blocks::is_updating() {
        return blocks::write(&block, &format!("{}\n", by_ada(printed.trim_end())));
    }
    assert_eq!(
        shown, now,
        "README.md:{}: not what the demo prints; UPDATE_README=1 cargo test --test readme",
        block.line
    );
}

/// The lines without what differs from run to run and from user to user, and without how columns
/// are aligned because of it.
fn essence(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(|line| {
            line.split_whitespace()
                .filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
                .filter(|word| !matches!(word.trim_end_matches([',', '.']), "µs" | "ms" | "s"))
                .filter(|word| !word.starts_with("username=") && !word.contains("-demo-"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|line| !line.is_empty())
        .collect()
}

/// The text with another user's name.
fn by_ada(text: &str) -> String {
    text.split_inclusive([' ', '\n'])
        .map(|word| match word.strip_prefix("username=") {
            Some(name) => format!("username=ada{}", &name[name.trim_end().len()..]),
            None => word.to_owned(),
        })
        .collect()
}
