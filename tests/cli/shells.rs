//! Completions in their shells, and the manual pages in man and mandoc.
//!
//! A missing shell or program is reported as `skipped:`, which `.ci/run` counts.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::patience::{Patient, Run as _, terminal, wait_until};
use crate::support::{Place, program, project, webhook};

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
        .ended()
        .is_ok();
    if !found {
        let _ = writeln!(std::io::stderr(), "skipped: {test}: no {tool}");
    }
    found
}

/// The output of the program.
fn printed(arguments: &[&str]) -> String {
    let output = program().args(arguments).run().unwrap();
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

/// The search path of the scripts, which begins with the directory of the program.
fn path() -> String {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_project-webhooks"));
    let rest = std::env::var("PATH").unwrap();
    format!("{}:{rest}", program.parent().unwrap().display())
}

/// Runs a shell there and returns both of its outputs.
fn run(mut command: Command, directory: &Path) -> String {
    let output = command
        .current_dir(directory)
        .stdin(Stdio::null())
        .env("TERM", "dumb")
        .env("HOME", directory)
        .env("PATH", path())
        .run()
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
            let output = mandoc.current_dir(directory.path()).run().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            // Without a date, one version always has the same page.
            let mut lines = said.lines().filter(|line| !line.contains("missing date"));
            assert_eq!(lines.next(), None, "{file}: {said}");
        }
    }
}

/// Names of webhooks and of projects. Each begins with another character, and all are offered.
///
/// A shell that ran a part of a name would make the file `pwned`.
const HOSTILE: [&str; 5] = [
    "a name",
    "b$(touch pwned)`touch pwned`",
    "c'\";touch pwned;&touch pwned|<>*?[x]{1,2}~#%!!\\",
    "d@e:f=g",
    "é$(touch pwned)",
];

/// Names of projects that a terminal would interpret. No shell may get them.
const UNSAFE: [&str; 3] = [
    "u\n$(touch pwned)",
    "u\u{1b}]0;title\u{7}",
    "u\u{202e}reversed",
];

/// A place with recorded events of hostile names.
fn recorded() -> Place {
    let quoted = |name: &str| serde_json::to_string(name).unwrap();
    let webhooks: String = HOSTILE
        .iter()
        .map(|name| webhook(&quoted(name), "http://127.0.0.1:9/"))
        .collect();
    let place = Place::new(&webhooks);
    let daemon = place.daemon();
    for name in HOSTILE.iter().chain(&UNSAFE) {
        let project = project("Orders");
        place.write(&format!("{name}/orders/project.xml"), &project);
    }
    wait_until("the events", || {
        let events = place.run(&["events", "--json"]).json();
        // A new project is an Import, and an Import of any project.
        (events.as_array()?.len() == 2 * (HOSTILE.len() + UNSAFE.len())).then_some(())
    });
    drop(daemon);
    place
}

/// A shell at a terminal, in which the program is a function that prints its arguments.
struct Terminal {
    child: Child,
    terminal: Patient<File>,
    text: String,
}

impl Terminal {
    fn start(mut shell: Command, setup: &str, directory: &Path) -> Self {
        let (terminal, side) = terminal();
        let child = shell
            .current_dir(directory)
            .stdin(side.try_clone().unwrap())
            .stdout(side.try_clone().unwrap())
            .stderr(side)
            .env("TERM", "xterm")
            .env("HOME", directory)
            .env("XDG_DATA_HOME", directory)
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", path())
            .spawn()
            .unwrap();
        drop(shell);
        let text = String::new();
        let mut terminal = Self {
            child,
            terminal,
            text,
        };
        terminal.enter(setup);
        terminal.enter("\n");
        terminal.wait("prompt:");
        terminal
    }

    fn enter(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for a text and returns the output up to it.
    #[track_caller]
    fn wait(&mut self, wanted: &str) -> String {
        loop {
            if let Some((before, after)) = self.text.split_once(wanted) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.text = after;
                return before;
            }
            let mut buffer = [0; 4096];
            let Ok(n) = self.terminal.read(&mut buffer) else {
                panic!("{wanted} did not come: {:?}", self.text);
            };
            let printed = String::from_utf8_lossy(&buffer[..n]).into_owned();
            // fish asks which terminal it has.
            if printed.contains("\u{1b}[c") || printed.contains("\u{1b}[0c") {
                self.enter("\u{1b}[?62;c");
            }
            self.text.push_str(&printed);
        }
    }

    /// Types the beginning of a line and the Tab key, runs the line, and returns its arguments.
    fn completed(&mut self, typed: &str) -> Vec<String> {
        self.enter(typed);
        self.enter("\t\n");
        self.wait("got<");
        let arguments = self.wait(">end");
        arguments.split("><").map(str::to_owned).collect()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Completes hostile names by their first characters in a shell, and compares the arguments.
fn names_are_literal(shell: &str, file: &str, arguments: &[&str], setup: &str) {
    let place = recorded();
    let directory = place.path("");
    fs::write(directory.join(file), printed(&["completions", shell])).unwrap();
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", shell]).args(arguments);
    let mut terminal = Terminal::start(command, setup, &directory);
    for name in HOSTILE {
        let first = name.chars().next().unwrap();
        let line = format!("project-webhooks webhooks enable {first}");
        assert_eq!(terminal.completed(&line), ["webhooks", "enable", name]);
        let line = format!("project-webhooks deliveries --webhook={first}");
        let option = format!("--webhook={name}");
        assert_eq!(terminal.completed(&line), ["deliveries", &option]);
        let line = format!("project-webhooks events --project {first}");
        let project = format!("{name}/orders");
        assert_eq!(terminal.completed(&line), ["events", "--project", &project]);
    }
    // No recorded name that a terminal would interpret is offered.
    let line = "project-webhooks events --project u";
    assert_eq!(terminal.completed(line), ["events", "--project", "u"]);
    let events = place.run(&["events", "--json"]).json();
    let id = events[0]["id"].as_str().unwrap();
    let line = format!("project-webhooks events show {}", &id[..id.len() - 4]);
    assert_eq!(terminal.completed(&line), ["events", "show", id]);
    let deliveries = place.run(&["deliveries", "--json"]).json();
    let last = deliveries.as_array().and_then(|all| all.last()).unwrap();
    let id = last["id"].to_string();
    let line = format!("project-webhooks deliveries redeliver {id}");
    assert_eq!(terminal.completed(&line), ["deliveries", "redeliver", &id]);
    // Without a configuration, the shell stays silent.
    fs::remove_file(place.path("config.yaml")).unwrap();
    let line = "project-webhooks webhooks enable a";
    assert_eq!(terminal.completed(line), ["webhooks", "enable", "a"]);
    assert!(!place.path("pwned").exists());
}

#[test]
fn bash_completes_hostile_names() {
    if is_here("bash_completes_hostile_names", "bash") {
        let setup = r#"PS1='pro''mpt:'; set +H; source ./completions; project-webhooks() { printf 'got'; printf '<%s>' "$@"; echo end; }"#;
        names_are_literal(
            "bash",
            "completions",
            &["--norc", "--noprofile", "-i"],
            setup,
        );
    }
}

#[test]
fn zsh_completes_hostile_names() {
    if is_here("zsh_completes_hostile_names", "zsh") {
        let setup = r#"unsetopt beep promptsp; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; project-webhooks() { printf 'got'; printf '<%s>' "$@"; echo end; }; PS1='pro''mpt:'"#;
        names_are_literal("zsh", "_project-webhooks", &["-f", "-i"], setup);
    }
}

#[test]
fn fish_completes_hostile_names() {
    if is_here("fish_completes_hostile_names", "fish") {
        let setup = "source ./completions; function project-webhooks; printf 'got'; printf '<%s>' $argv; echo end; end; function fish_prompt; printf 'pro'; printf 'mpt:'; end";
        names_are_literal("fish", "completions", &["--no-config", "-i"], setup);
    }
}

#[test]
fn candidates_are_few_and_the_newest_first() {
    let place = recorded();
    let offered = |line: &str| {
        let config = place.path("config.yaml");
        let line = format!("project-webhooks --config {} {line}", config.display());
        let offered = printed(&["complete", "fish", "--", &line]);
        offered.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(offered("webhooks enable "), HOSTILE);
    let listed = |command: &str| {
        let listed = place.run(&[command, "--json", "--limit", "100"]).json();
        let ids = listed.as_array().unwrap().iter().rev();
        let ids = ids.map(|one| match &one["id"] {
            Value::String(id) => id.clone(),
            id => id.to_string(),
        });
        ids.collect::<Vec<_>>()
    };
    assert_eq!(offered("events show "), listed("events"));
    assert_eq!(offered("deliveries show "), listed("deliveries"));
    assert_eq!(offered("events --project ").len(), HOSTILE.len());

    let many: String = (0..300)
        .map(|n| webhook(&format!("n{n}"), "http://127.0.0.1:9/"))
        .collect();
    let place = Place::new(&many);
    let line = format!(
        "project-webhooks -c {} webhooks enable ",
        place.path("config.yaml").display()
    );
    assert_eq!(
        printed(&["complete", "zsh", "--", &line]).lines().count(),
        100
    );
    // Without state, and without a configuration, nothing is offered or said.
    for line in [
        &line.replace("webhooks enable", "events show"),
        "project-webhooks -c /no webhooks enable ",
    ] {
        let output = program()
            .args(["complete", "zsh", "--", line])
            .run()
            .unwrap();
        assert!(output.status.success());
        assert!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}
