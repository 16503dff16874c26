//! The demo: the README shows the end of its output.

use std::collections::BTreeSet;
use std::process::Command;

use project_webhooks::domain::event::EventKind;

use crate::blocks;
use crate::patience::Run as _;
use crate::process::program;

/// The command.
pub const ARGUMENT: &str = "demo";

#[test]
fn the_demo_shows_all_seven_events() {
    let block = blocks::only("demo");
    let output = Command::new(program())
        .arg(ARGUMENT)
        .env("NO_COLOR", "1")
        .run()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
    for kind in EventKind::SEVEN {
        assert!(printed.contains(kind.label()), "{}", kind.label());
        assert!(block.text.contains(kind.label()), "{}", kind.label());
    }
    let (_, end) = printed
        .rsplit_once("\nevent ")
        .expect("the demo ends with a table");
    let end = format!("event {}\n", end.trim_end());
    if essence(&block.text) != essence(&end) {
        blocks::expect_generated("demo", "", &end);
    }
}

/// The lines without times and without the alignment of columns, which differ from run to run.
fn essence(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(|line| {
            line.split_whitespace()
                .filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
                .filter(|word| !matches!(word.trim_end_matches([',', '.']), "µs" | "ms" | "s"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|line| !line.is_empty())
        .collect()
}
