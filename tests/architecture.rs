//! ARCHITECTURE.md: its tables say what the code does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking; that is what it is for"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The rows of the table below a heading, as cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = read("ARCHITECTURE.md");
    let (_, section) = text
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    section
        .split("\n## ")
        .next()
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix('|'))
        .map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect())
        .map(|mut cells: Vec<String>| {
            cells[0] = cells[0].trim_end_matches('`').to_owned();
            cells
        })
        .collect()
}

/// The names in backticks in a cell.
fn names(cell: &str) -> BTreeSet<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The source files of a module but those of its tests.
fn sources(module: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join("src").join(module)];
    let alone = root().join(format!("src/{module}.rs"));
    found.extend(alone.is_file().then_some(alone));
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(directory) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.file_stem().is_some_and(|stem| stem == "tests") {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// The modules of the crate that a source text names, but for its tests.
fn imports(text: &str) -> BTreeSet<String> {
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .filter_map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
        })
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_module_imports_what_it_may_and_no_more() {
    let modules: BTreeSet<String> = read("src/lib.rs")
        .lines()
        .filter_map(|line| {
            let line = line.trim_start_matches("pub ");
            line.strip_prefix("mod ")?.strip_suffix(';')
        })
        .map(str::to_owned)
        .collect();
    let rows = table("Layers");
    let listed: BTreeSet<String> = rows.iter().map(|cells| cells[0].clone()).collect();
    assert_eq!(listed, modules, "the table and src/lib.rs");
    let mut wrong = Vec::new();
    for cells in rows {
        let (module, cell) = (&cells[0], &cells[1]);
        let mut may = match cell.strip_prefix("everything") {
            Some(but) => modules.difference(&names(but)).cloned().collect(),
            None => names(cell),
        };
        may.insert(module.clone());
        let files = sources(module);
        assert!(!files.is_empty(), "{module}");
        for file in files {
            for import in imports(&read(&file)) {
                if modules.contains(&import) && !may.contains(&import) {
                    wrong.push(format!("{}: crate::{import}", file.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "not allowed by ARCHITECTURE.md, \"Layers\":\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_rules_are_pure() {
    for file in sources("domain") {
        let text = read(&file);
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
        for word in [
            "std::fs", "std::env", "std::net", "tokio::", "async fn", "::now()",
        ] {
            assert!(!code.contains(word), "{}: {word}", file.display());
        }
    }
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let manifest = read("Cargo.toml");
    let mut section = "";
    let mut dependencies = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if matches!(section, "[dependencies]" | "[dev-dependencies]")
            && let Some((name, _)) = line.split_once(" =")
            && !name.starts_with('#')
        {
            dependencies.insert(name.to_owned());
        }
    }
    assert!(dependencies.len() > 20);
    let reasons: BTreeMap<String, String> = table("Dependencies")
        .into_iter()
        .map(|cells| (cells[0].clone(), cells[1].clone()))
        .collect();
    let listed: BTreeSet<String> = reasons.keys().cloned().collect();
    assert_eq!(listed, dependencies);
    for (name, reason) in reasons {
        assert!(!reason.is_empty(), "{name}");
    }
}

#[test]
fn the_tests_that_prove_a_promise_exist() {
    let text = ["README.md", "docs/reliability.md"].map(read).concat();
    let named: Vec<(&str, &str)> = text
        .split('`')
        .filter_map(|word| word.split_once(".rs::"))
        .collect();
    assert!(named.len() > 40, "{} tests are named", named.len());
    for (file, name) in named {
        let source = read(format!("{file}.rs"));
        let blocks = format!("#[test]\nfn {name}() {{");
        let waits = format!("#[tokio::test]\nasync fn {name}() {{");
        let is_there = source.contains(&blocks) || source.contains(&waits);
        assert!(is_there, "{file}.rs has no test {name}");
    }
}
