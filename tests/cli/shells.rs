//! Completions in their shells, and the manual pages in man and mandoc.
//!
//! A missing shell or program is reported as `skipped:`, which `.ci/run` counts.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::program;

/// Command lines up to the Tab key, and some of the expected completions.
const OFFERED: [(&str, &[&str]); 9] = [
    ("project-webhooks ", &["run", "status", "deliveries", "man"]),
    ("project-webhooks del", &["deliveries"]),
    (
        "project-webhooks deliveries ",
        &["list", "show", "redeliver", "cancel", "purge"],
    ),
    (
        "project-webhooks deliveries redeliver --",
        &["--webhook", "--state", "--since", "--dry-run"],
    ),
    (
        "project-webhooks deliveries redeliver --state ",
        &["pending", "delivered", "dead", "cancelled"],
    ),
    (
        "project-webhooks events --event ",
        &["project-publish", "snapshot-restore"],
    ),
    ("project-webhooks --log-level ", &["error", "trace"]),
    ("project-webhooks completions ", &["bash", "zsh", "fish"]),
    ("project-webhooks --config known", &["known-file.yaml"]),
];

/// Command lines that expect a user's name, and so complete no file.
const NO_FILES: [&str; 3] = [
    "project-webhooks webhooks enable ",
    "project-webhooks deliveries --webhook ",
    "project-webhooks deliveries --since ",
];

fn is_here(test: &str, tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        let _ = writeln!(std::io::stderr(), "skipped: {test}: no {tool}");
    }
    found
}

/// The output of the program.
fn printed(arguments: &[&str]) -> String {
    let output = program().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with one file and the completions for a shell.
fn place(shell: &str, name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("known-file.yaml"), "").unwrap();
    let text = printed(&["completions", shell]);
    fs::write(directory.path().join(name), text).unwrap();
    directory
}

/// Runs a shell there and returns both of its outputs.
fn run(mut command: Command, directory: &Path) -> String {
    let output = command
        .current_dir(directory)
        .stdin(Stdio::null())
        .env("TERM", "dumb")
        .env("HOME", directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// Compares the completions of a shell with the expected ones.
fn compare(mut offered: impl FnMut(&str) -> Vec<String>) {
    for (line, wanted) in OFFERED {
        let offered = offered(line);
        for word in wanted {
            assert!(offered.iter().any(|one| one == word), "{line}: {offered:?}");
        }
    }
    for line in NO_FILES {
        let offered = offered(line);
        let is_file = |one: &String| one.contains("known-file");
        assert!(!offered.iter().any(is_file), "{line}: {offered:?}");
    }
}

#[test]
fn bash_completes() {
    if !is_here("bash_completes", "bash") {
        return;
    }
    const ASK: &str = r#"
source ./completions
read -ra COMP_WORDS <<<"$1"
case $1 in *' ') COMP_WORDS+=('') ;; esac
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE=$1 COMP_POINT=${#1}
function=$(complete -p project-webhooks | sed 's/.*-F \([^ ]*\).*/\1/')
$function project-webhooks "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;
    let directory = place("bash", "completions");
    compare(|line| {
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-uc", ASK, "bash", line]);
        let offered = run(bash, directory.path());
        offered.lines().map(str::to_owned).collect()
    });
}

#[test]
fn fish_completes() {
    if !is_here("fish_completes", "fish") {
        return;
    }
    let directory = place("fish", "completions");
    compare(|line| {
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c"]);
        fish.arg("source ./completions; complete -C \"$argv[1]\"")
            .arg(line);
        let offered = run(fish, directory.path());
        let word = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
        offered.lines().map(word).collect()
    });
}

#[test]
fn zsh_completes() {
    if !is_here("zsh_completes", "zsh") {
        return;
    }
    // zsh completes only at a terminal. The input has exactly one completion; the prompt shows that
    // the shell is ready for it.
    const ASK: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "unsetopt beep; fpath=($PWD \$fpath); autoload -Uz compinit; compinit -u -D; PS1='pro''mpt:'"
zpty -r shell said '*prompt:*'
zpty -w -n shell "$1"$'\t'
zpty -r shell said "*$2*"
"#;
    let directory = place("zsh", "_project-webhooks");
    let mut zsh = Command::new("zsh");
    zsh.args(["-f", "-n", "_project-webhooks"]);
    assert_eq!(run(zsh, directory.path()), "");
    for (typed, wanted) in [
        ("project-webhooks del", "deliveries "),
        ("project-webhooks deliveries red", "redeliver "),
        ("project-webhooks deliveries redeliver --sta", "--state"),
        (
            "project-webhooks deliveries redeliver --state pen",
            "pending ",
        ),
        (
            "project-webhooks events --event project-pub",
            "project-publish ",
        ),
        ("project-webhooks completions fi", "fish "),
        ("project-webhooks --config known", "known-file.yaml "),
    ] {
        // It waits for what is wanted without end.
        let mut zsh = Command::new("timeout");
        zsh.args(["60", "zsh", "-f", "-c", ASK, "zsh", typed, wanted]);
        run(zsh, directory.path());
    }
}

#[test]
fn the_manual_pages_are_well_formed() {
    const TEST: &str = "the_manual_pages_are_well_formed";
    for section in ["1", "5"] {
        let directory = tempfile::tempdir().unwrap();
        let file = format!("page.{section}");
        fs::write(directory.path().join(&file), printed(&["man", section])).unwrap();
        if is_here(TEST, "man") {
            let mut man = Command::new("sh");
            man.args(["-c", "man --warnings --local-file \"$1\" >page", "sh"]);
            man.arg(&file)
                .env("LC_ALL", "C.UTF-8")
                .env("MANWIDTH", "80");
            assert_eq!(run(man, directory.path()), "", "{file}");
            let page = fs::read_to_string(directory.path().join("page")).unwrap();
            assert!(page.contains("NAME"), "{page}");
        }
        if is_here(TEST, "mandoc") {
            let mut mandoc = Command::new("mandoc");
            mandoc.args(["-T", "lint", "-W", "warning", &file]);
            let output = mandoc.current_dir(directory.path()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            // Without a date, one version always has the same page.
            let mut lines = said.lines().filter(|line| !line.contains("missing date"));
            assert_eq!(lines.next(), None, "{file}: {said}");
        }
    }
}
