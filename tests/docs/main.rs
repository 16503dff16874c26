//! README.md, ARCHITECTURE.md and docs/: every block is run, every table compared with the program.
//!
//! A comment `<!-- test: KIND -->` above a block says how. Output is compared with the shown one,
//! without times, ids and paths. `UPDATE_DOCS=1` writes the generated blocks again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail by panicking, and owns its clock"
)]

#[path = "../common/patience.rs"]
mod patience;

mod blocks;
mod demo;
mod install;
mod links;
mod process;
mod receivers;
mod requests;
mod tables;
mod templates;
mod tour;

use std::collections::BTreeMap;

use blocks::{Block, root};
use project_webhooks::config::{Config, load_str};

/// The kinds of blocks with their languages and numbers. A block without one would never be run.
const KINDS: [(&str, &str, usize); 26] = [
    ("picture", "text", 1),
    ("commands", "sh", 1),
    ("demo", "text", 1),
    ("file", "yaml", 1),
    ("file", "xml", 1),
    ("terminal", "console", 2),
    ("tour", "console", 5),
    ("shown", "text", 2),
    ("request", "http", 5),
    ("signed-header", "http", 1),
    ("receiver", "python", 2),
    ("receiver", "js", 1),
    ("receiver", "go", 1),
    ("receiver", "java", 1),
    ("try", "sh", 1),
    ("config", "yaml", 9),
    ("template", "yaml", 6),
    ("install", "sh", 1),
    ("package", "sh", 1),
    ("static", "sh", 1),
    ("package-start", "sh", 1),
    ("unit", "ini", 1),
    ("map", "text", 1),
    // tests/database runs these.
    ("fleet", "sh", 5),
    // tests/systemd runs these in a container.
    ("run:", "sh", 15),
    ("by", "sh", 1),
];

#[test]
fn every_block_is_run() {
    let mut found: BTreeMap<(String, String), usize> = BTreeMap::new();
    for block in blocks::all() {
        let key = (block.kind().to_owned(), block.language.clone());
        let is_known = KINDS
            .iter()
            .any(|(kind, language, _)| *kind == key.0 && *language == key.1);
        assert!(
            is_known,
            "{}: nothing runs this {} block; put <!-- test: KIND --> above it",
            block.position(),
            block.language
        );
        *found.entry(key).or_default() += 1;
    }
    for (kind, language, count) in KINDS {
        let found = found.get(&(kind.to_owned(), language.to_owned()));
        assert_eq!(found.copied(), Some(count), "{kind} blocks in {language}");
    }
}

#[test]
fn the_readme_stays_short() {
    let n_lines = blocks::text("README.md").lines().count();
    assert!(
        n_lines <= 300,
        "{n_lines} lines; docs/ has room for the rest"
    );
}

#[test]
fn the_picture_names_existing_parts() {
    let picture = blocks::only("picture");
    for part in ["watch", "settle", "observe", "infer", "store", "dispatch"] {
        assert!(picture.text.contains(part), "{part}");
        let candidates = [
            format!("src/{part}.rs"),
            format!("src/{part}/mod.rs"),
            format!("src/domain/{part}.rs"),
        ];
        assert!(
            candidates.iter().any(|path| root().join(path).is_file()),
            "{part}"
        );
    }
}

#[test]
fn the_map_names_existing_modules() {
    let map = blocks::only("map");
    let library = blocks::text("src/lib.rs");
    for part in [
        "watch",
        "engine",
        "daemon",
        "repository",
        "users",
        "document",
        "store",
        "dispatch",
        "webhook",
        "cli",
    ] {
        assert!(map.text.contains(part), "{part}");
        assert!(library.contains(&format!("mod {part};\n")), "{part}");
    }
}

#[test]
fn the_two_commands_are_run() {
    let commands = blocks::only("commands");
    let lines: Vec<&str> = commands.text.lines().collect();
    let [demo, test] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    // `demo.rs` runs the part after the two dashes.
    let arguments = demo.strip_prefix("cargo run --release -- ");
    assert_eq!(arguments, Some(demo::ARGUMENT));
    let script = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(
        script
            .lines()
            .any(|line| line.split(" 2>&1").next() == Some(*test)),
        "{test} is not what .ci/run runs"
    );
}

#[test]
fn every_configuration_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = directory.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    for name in [
        "catalog-token",
        "catalog-secret",
        "catalog-secret-next",
        "api-client",
        "db",
    ] {
        std::fs::write(credentials.join(name), "0123456789012345678901234").unwrap();
    }
    std::fs::copy(
        root().join("tests/configs/files/ca.pem"),
        directory.path().join("ca.pem"),
    )
    .unwrap();
    // The tour makes it.
    std::fs::write(directory.path().join("secret"), "not much of a secret").unwrap();
    let environment = BTreeMap::from([
        (
            "CREDENTIALS_DIRECTORY".to_owned(),
            credentials.display().to_string(),
        ),
        ("ARCHIVE_PASSWORD".to_owned(), "a-password".to_owned()),
    ]);
    let mut checked = 0;
    for block in blocks::all() {
        if block.language == "yaml" {
            load(&block, directory.path(), &environment);
            checked += 1;
        }
    }
    assert_eq!(checked, 16);
}

fn load(
    block: &Block,
    directory: &std::path::Path,
    environment: &BTreeMap<String, String>,
) -> Config {
    let file = directory.join("config.yaml");
    load_str(block.text.as_bytes(), &file, environment)
        .unwrap_or_else(|problems| panic!("{}: {problems}", block.position()))
        .config
}

/// Reports a skipped test past the capture of output; .ci/run counts these lines.
fn skip(test: &str, reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}
