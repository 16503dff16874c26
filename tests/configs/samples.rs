//! The sample configurations. Each invalid one yields the problems that its first lines name, each
//! valid one loads, and no bytes make the reader panic.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use project_webhooks::config::{Loaded, Problems, load, load_str};
use proptest::prelude::*;

pub fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/configs")
        .join(name)
}

/// The samples of a directory by name, in order.
fn samples(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(directory(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect();
    found.sort();
    found
}

/// The texts of the comment lines with this mark.
fn asked(bytes: &[u8], mark: &str) -> Vec<String> {
    String::from_utf8_lossy(bytes)
        .trim_start_matches('\u{feff}')
        .lines()
        .filter_map(|line| line.strip_prefix(mark))
        .map(|rest| rest.trim().to_owned())
        .collect()
}

pub fn environment() -> BTreeMap<String, String> {
    BTreeMap::from([("A_VARIABLE".to_owned(), "from the environment".to_owned())])
}

fn read(path: &Path) -> Result<Loaded, Problems> {
    load(path, &environment())
}

#[test]
fn every_invalid_sample_yields_the_problems_it_names() {
    let samples = samples("invalid");
    // A table that matches nothing passes too, so that its size is part of the test.
    assert_eq!(samples.len(), 232);
    let mut failures = Vec::new();
    for (path, bytes) in &samples {
        let expected = asked(bytes, "# expect:");
        assert!(!expected.is_empty(), "{} expects nothing", path.display());
        match read(path) {
            Ok(_) => failures.push(format!("{}: is accepted", path.display())),
            Err(problems) => {
                let rendered = problems.to_string();
                for substring in expected {
                    if !rendered.contains(&substring) {
                        failures.push(format!(
                            "{}\n  expected: {substring}\n  rendered: {rendered}",
                            path.display()
                        ));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_valid_sample_loads_with_the_warnings_it_names() {
    let samples = samples("valid");
    assert_eq!(samples.len(), 20);
    for (path, bytes) in &samples {
        let loaded = read(path).unwrap_or_else(|problems| panic!("{problems}"));
        let warnings: Vec<String> = loaded
            .warnings
            .iter()
            .map(ToString::to_string)
            // The modes of a checkout are not part of it.
            .filter(|warning| !warning.contains("every user of this machine"))
            .collect();
        let expected = asked(bytes, "# warns:");
        for substring in &expected {
            assert!(
                warnings.iter().any(|warning| warning.contains(substring)),
                "{}: {substring} is not in {warnings:#?}",
                path.display()
            );
        }
        assert_eq!(
            warnings.is_empty(),
            expected.is_empty(),
            "{}: {warnings:#?}",
            path.display()
        );
    }
}

#[test]
fn the_shipped_sample_is_valid_and_gives_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml");
    let shipped = read(&path).unwrap_or_else(|problems| panic!("{problems}"));
    let least = b"repository: { path: ./repository }\nwebhooks:\n  - { name: everything, events: \
                  \"*\", url: \"http://127.0.0.1:9000/\" }\n";
    let least = load_str(least, &path, &environment()).unwrap();
    let [least, shipped] = [least, shipped].map(|loaded| format!("{:#?}", loaded.config));
    assert_eq!(least, shipped);
}

static ALL: LazyLock<Vec<(PathBuf, Vec<u8>)>> =
    LazyLock::new(|| [samples("valid"), samples("invalid")].concat());

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = load_str(&bytes, &directory("valid").join("any.yaml"), &environment());
    }

    #[test]
    fn no_text_of_yaml_characters_makes_the_reader_panic(
        text in "[-a-c:?*&!|>%@`'\"{}\\[\\],#<~0-9.\\\\ \n\t\u{feff}é]{0,200}",
    ) {
        let _ = load_str(text.as_bytes(), &directory("valid").join("any.yaml"), &environment());
    }

    #[test]
    fn no_mutation_of_a_sample_makes_the_reader_panic(
        choice in any::<proptest::sample::Index>(),
        edits in proptest::collection::vec(
            (any::<proptest::sample::Index>(), 0_usize..12, "[-a-z:*&!|>'\"{}\\[\\],# \n0-9/]{0,12}"),
            1..6,
        ),
    ) {
        let (path, mut bytes) = choice.get(&ALL).clone();
        for (at, removed, inserted) in edits {
            let start = at.index(bytes.len() + 1);
            let end = (start + removed).min(bytes.len());
            bytes.splice(start..end, inserted.into_bytes());
        }
        let result = load_str(&bytes, &path, &environment());
        if let Err(problems) = result {
            prop_assert!(!problems.errors.is_empty());
            for problem in problems.errors.iter().chain(&problems.warnings) {
                let rendered = problem.to_string();
                prop_assert!(!rendered.contains(char::is_control), "{rendered:?}");
            }
        }
    }
}
