//! Writes completion scripts, which ask the program for names, projects and ids.
//!
//! `clap_complete` writes the scripts. Its support for candidates from the program is unstable and
//! does not quote names for bash. So this module adds a few lines for each shell, which call the
//! command `complete`.

use std::io::{self, Write};

use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::Shell;

use super::super::Arguments;
use super::Kind;

/// The hint that marks an argument whose values the program offers.
///
/// This hint is free for the purpose, because no argument is a user name.
const ASKED: ValueHint = ValueHint::Username;

/// Replaces the static completions of `_project__webhooks` with the program's candidates, if any.
const BASH: &str = r#"
# Offers webhook names, projects and ids, which the program reads from the configuration and the state.
_project-webhooks_names() {
    _project__webhooks "$@"
    local name names=()
    while IFS= read -r name; do
        names+=("$name")
    done < <(command project-webhooks complete bash -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null </dev/null)
    if ((${#names[@]})); then
        COMPREPLY=("${names[@]}")
    fi
}
"#;

const ZSH: &str = r#"
# Offers webhook names, projects and ids, which the program reads from the configuration and the state.
_project-webhooks_names() {
    local -a names
    names=(${(f)"$(command project-webhooks complete zsh -- $typed_line 2>/dev/null </dev/null)"})
    compadd -V names -a names
}
"#;

const FISH: &str = r#"
# Offers webhook names, projects and ids, which the program reads from the configuration and the state.
function __project_webhooks_names
    command project-webhooks complete fish -- (commandline -cp | string collect) 2>/dev/null </dev/null
end
"#;

/// Writes the completion script for a shell.
pub(in crate::cli) fn write(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Vec::new();
    let mut command = with_hints(Arguments::command(), "", shell);
    clap_complete::generate(shell, &mut command, env!("CARGO_PKG_NAME"), &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    out.write_all(asking(shell, &text, &command).as_bytes())
}

/// Adds the lines that ask the program for candidates.
fn asking(shell: Shell, text: &str, command: &Command) -> String {
    match shell {
        Shell::Bash => {
            // clap_complete writes the hyphen of the program's name in two ways. Without this
            // replacement, bash completes nothing after the first command.
            let text = text.replace("project__subcmd__webhooks", "project__webhooks");
            let registered = "complete -F _project__webhooks ";
            match text.split_once("\nif [[ \"${BASH_VERSINFO[0]}\" -eq 4 ") {
                Some((functions, rest)) => {
                    let rest = rest.replace(registered, "complete -F _project-webhooks_names ");
                    format!("{functions}{BASH}\nif [[ \"${{BASH_VERSINFO[0]}}\" -eq 4 {rest}")
                }
                None => text,
            }
        }
        Shell::Zsh => {
            let first = "    typeset -A opt_args\n";
            let saved = "    local typed_line=\"${(j: :)words[1,CURRENT-1]} $PREFIX\"\n";
            let text = text.replacen(first, &format!("{saved}{first}"), 1);
            let text = text.replace(":_users'", ":_project-webhooks_names'");
            match text.split_once("\n\n_project-webhooks() {") {
                Some((head, rest)) => format!("{head}\n{ZSH}\n_project-webhooks() {{{rest}"),
                None => text,
            }
        }
        Shell::Fish => {
            let text = format!("{text}{}{FISH}", fish_rest(command));
            text.replace(
                "-a \"(__fish_complete_users)\"",
                "-k -a \"(__project_webhooks_names)\"",
            )
        }
        _ => text.to_owned(),
    }
}

/// Returns the completions for fish that `clap_complete` leaves out.
///
/// These are the values of positional arguments, and of options before the command. For positional
/// arguments, the lines also switch off the completion of file names.
fn fish_rest(command: &Command) -> String {
    let name = command.get_name();
    let mut lines = format!("complete -c {name} -f\n");
    for argument in command.get_opts() {
        let long = argument.get_long().map(|long| format!("--{long}"));
        let short = argument.get_short().map(|short| format!("-{short}"));
        let names: Vec<String> = [long, short].into_iter().flatten().collect();
        let condition = format!("__fish_prev_arg_in {}", names.join(" "));
        lines.push_str(&fish_line(name, &condition, argument));
    }
    for sub in command.get_subcommands() {
        fish_positionals(name, sub, "", &mut lines);
    }
    lines
}

fn fish_positionals(program: &str, command: &Command, above: &str, lines: &mut String) {
    let condition = format!("{above}__fish_seen_subcommand_from {}", command.get_name());
    for argument in command.get_positionals() {
        lines.push_str(&fish_line(program, &condition, argument));
    }
    for sub in command
        .get_subcommands()
        .filter(|_| command.get_name() != "help")
    {
        fish_positionals(program, sub, &format!("{condition}; and "), lines);
    }
}

fn fish_line(program: &str, condition: &str, argument: &Arg) -> String {
    let values = argument.get_possible_values();
    let values: Vec<&str> = values.iter().map(|value| value.get_name()).collect();
    let what = match argument.get_value_hint() {
        ValueHint::FilePath => "-F".to_owned(),
        ASKED => "-a \"(__fish_complete_users)\"".to_owned(),
        _ if values.is_empty() => return String::new(),
        _ => format!("-a \"{}\"", values.join(" ")),
    };
    format!("complete -c {program} -n \"{condition}\" {what}\n")
}

/// Marks the arguments that the program completes.
///
/// For other arguments without a hint, switches off the completion of file names.
fn with_hints(command: Command, parent: &str, shell: Shell) -> Command {
    let name = match command.get_name() {
        "show" => parent.to_owned(),
        name => name.to_owned(),
    };
    let command = command.mut_args(|argument| match argument.get_value_hint() {
        // The script for bash asks the program about every word, so it needs no hint.
        _ if shell != Shell::Bash && Kind::of(&name, &argument).is_some() => {
            argument.value_hint(ASKED)
        }
        ValueHint::Unknown if argument.get_action().takes_values() => {
            argument.value_hint(ValueHint::Other)
        }
        _ => argument,
    });
    command.mut_subcommands(|sub| with_hints(sub, &name, shell))
}
