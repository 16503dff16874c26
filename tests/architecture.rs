//! ARCHITECTURE.md: its tables describe the code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
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

/// The text before the tests in a file. The line of a module in another file ends nothing.
fn without_tests(text: &str) -> &str {
    let mut marks = text.match_indices("\n#[cfg(test)]\nmod ");
    let is_inline = |start: usize| text[start..].lines().nth(2).unwrap().ends_with('{');
    match marks.find(|(start, _)| is_inline(*start)) {
        Some((start, _)) => &text[..start],
        None => text,
    }
}

/// The modules of the crate that a source text imports, without those of its tests.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = without_tests(text)
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads(group)),
            None => found.extend([identifier(rest)]),
        }
    }
    found.remove("");
    found
}

/// The first identifiers of the items of a group such as `{a::b, c::{d, e}}`.
fn heads(group: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(identifier(group[start..at].trim_start()));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn groups_of_imports_are_read() {
    let text = "use crate::{a::b, c::{d, e}, f};\n#[cfg(test)]\nmod tests;\n// crate::g\nlet x = \
                crate::h::i();\n#[cfg(test)]\nmod more {\nuse crate::j;\n}\n";
    let expected = ["a", "c", "f", "h"].map(str::to_owned);
    assert_eq!(imports(text), BTreeSet::from(expected));
}

/// The modules of src/lib.rs.
fn modules() -> BTreeSet<String> {
    read("src/lib.rs")
        .lines()
        .filter_map(|line| {
            let line = line.trim_start_matches("pub ");
            let line = line.trim_start_matches("pub(crate) ");
            line.strip_prefix("mod ")?.strip_suffix(';')
        })
        .map(str::to_owned)
        .collect()
}

/// The table of layers: each module with the modules that it may import.
fn layers() -> BTreeMap<String, BTreeSet<String>> {
    let modules = modules();
    let rows = table("Layers");
    rows.into_iter()
        .map(|cells| {
            let (module, cell) = (cells[0].clone(), &cells[1]);
            let mut may = match cell.strip_prefix("everything") {
                Some(but) => modules.difference(&names(but)).cloned().collect(),
                None => names(cell),
            };
            may.remove(&module);
            (module, may)
        })
        .collect()
}

#[test]
fn every_module_imports_what_it_may_and_no_more() {
    let layers = layers();
    let listed: BTreeSet<String> = layers.keys().cloned().collect();
    assert_eq!(listed, modules(), "the table and src/lib.rs");
    let mut wrong = Vec::new();
    for (module, may) in &layers {
        assert!(
            may.is_subset(&listed),
            "{module} may import an unknown module"
        );
        let files = sources(module);
        assert!(!files.is_empty(), "{module}");
        let mut unused = may.clone();
        for file in files {
            for import in imports(&read(&file)) {
                unused.remove(&import);
                if listed.contains(&import) && !may.contains(&import) && import != *module {
                    wrong.push(format!("{}: crate::{import}", file.display()));
                }
            }
        }
        // These two rows list exceptions only.
        if !["daemon", "cli"].contains(&module.as_str()) {
            wrong.extend(
                unused
                    .iter()
                    .map(|one| format!("{module} never imports {one}")),
            );
        }
    }
    assert!(
        wrong.is_empty(),
        "not allowed by ARCHITECTURE.md, \"Layers\":\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_layers_have_no_cycle() {
    let mut left = layers();
    // A module without imports is a lowest layer: remove it, and the next layer is the lowest.
    loop {
        let lowest: BTreeSet<String> = left
            .iter()
            .filter(|(_, may)| may.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        if lowest.is_empty() {
            break;
        }
        left.retain(|module, _| !lowest.contains(module));
        for may in left.values_mut() {
            *may = may.difference(&lowest).cloned().collect();
        }
    }
    assert!(left.is_empty(), "in a cycle, or above one: {left:?}");
}

/// The words in backticks of a text, without those of its fenced blocks.
fn code_words(text: &str) -> Vec<String> {
    let mut is_fenced = false;
    let prose: Vec<&str> = text
        .lines()
        .filter(|line| {
            is_fenced ^= line.starts_with("```");
            !is_fenced && !line.starts_with("```")
        })
        .collect();
    let spans = prose.join("\n");
    spans
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn has_function(module: &str, name: &str) -> bool {
    let declaration = format!("fn {name}(");
    let files = sources(module);
    files.iter().any(|file| read(file).contains(&declaration))
}

#[test]
fn every_file_and_module_that_is_named_exists() {
    let modules = modules();
    let mut n_checked = 0;
    let pages = ["ARCHITECTURE.md", "docs/decisions.md"];
    for word in pages.iter().flat_map(|page| code_words(&read(page))) {
        let is_path =
            word.contains('/') && !word.contains([' ', ':', '*', '<']) && !word.starts_with('/');
        let path: Vec<&str> = word.split("::").collect();
        let is_module = path.len() > 1 && modules.contains(path[0]);
        let candidates = if is_path {
            vec![word.clone()]
        } else if is_module && path[1].starts_with(char::is_lowercase) {
            let (module, part) = (path[0], path[1]);
            vec![
                format!("src/{module}/{part}.rs"),
                format!("src/{module}/{part}"),
            ]
        } else {
            continue;
        };
        n_checked += 1;
        let is_there = candidates.iter().any(|path| root().join(path).exists())
            || is_module && has_function(path[0], path[1]);
        assert!(is_there, "{pages:?} name {word}, which does not exist");
    }
    assert!(n_checked > 40, "{n_checked} words");
}

#[test]
fn every_test_is_in_the_table() {
    let rows = table("Tests");
    let named: BTreeSet<String> = rows
        .iter()
        .flat_map(|cells| names(&format!("`{}`{}", cells[0], cells[1])))
        .collect();
    for entry in std::fs::read_dir(root().join("tests")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_test =
            root().join("tests").join(&name).join("main.rs").exists() || name.ends_with(".rs");
        let path = format!("tests/{name}");
        assert!(
            !is_test || named.contains(&path),
            "{path} is not in the table of tests"
        );
    }
}

#[test]
fn the_rules_are_pure() {
    for file in sources("domain") {
        let text = read(&file);
        let code = without_tests(&text);
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
        let on_both_backends = format!("fn {name}(backend: &str) {{");
        let starts = [blocks, waits, on_both_backends];
        let is_there = starts.iter().any(|start| source.contains(start));
        assert!(is_there, "{file}.rs has no test {name}");
    }
}

/// The source files below a directory.
fn files(directory: PathBuf) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    let below = entries.map(|entry| entry.unwrap().path()).map(|path| {
        if path.is_dir() {
            return files(path);
        }
        let is_source = path.extension().is_some_and(|end| end == "rs");
        Vec::from_iter(is_source.then_some(path))
    });
    below.flatten().collect()
}

/// A test that waits for ever stops the whole run, and nothing says which test it was.
#[test]
fn tests_wait_for_processes_with_a_deadline() {
    let own = ["tests/architecture.rs", "tests/common/patience.rs"].map(|file| root().join(file));
    let mut sources = files(root().join("tests"));
    sources.retain(|file| !own.contains(file));
    assert!(sources.len() > 150, "{} files", sources.len());
    for file in sources {
        let text = std::fs::read_to_string(&file).unwrap();
        for call in [".output()", ".wait_with_output()", ".wait().unwrap()"] {
            let has_call = text.contains(call);
            assert!(
                !has_call,
                "{}: {call}; see {}",
                file.display(),
                own[1].display()
            );
        }
    }
}
