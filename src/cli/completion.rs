//! `serin completion SHELL`: a script made from the command line's own description. Names of canaries are asked of the cluster when the key is
//! pressed, with the namespace and context that stand on the line.

use clap::{Args, Command, ValueEnum};
use std::fmt::Write as _;
use std::io::Write as _;

/// Arguments of `serin completion`.
#[derive(Debug, Args)]
pub struct CompletionArguments {
    /// The shell, for example: source <(serin completion bash)
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub fn run(arguments: &CompletionArguments, command: &Command) -> anyhow::Result<()> {
    let script = match arguments.shell {
        Shell::Bash => bash(command),
        Shell::Zsh => format!(
            "autoload -U +X bashcompinit && bashcompinit\n{}",
            bash(command)
        ),
        Shell::Fish => fish(command),
    };
    std::io::stdout().write_all(script.as_bytes())?;
    Ok(())
}

/// Names of the commands, without clap's own.
fn names(command: &Command) -> Vec<&str> {
    command.get_subcommands().map(Command::get_name).collect()
}

/// Whether a command takes names of canaries.
fn takes_names(command: &Command) -> bool {
    command
        .get_positionals()
        .any(|positional| matches!(positional.get_id().as_str(), "name" | "names"))
}

fn flags(command: &Command) -> Vec<String> {
    command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .map(|long| format!("--{long}"))
        .collect()
}

const BASH_HEAD: &str = r#"_serin() {
  local current="${COMP_WORDS[COMP_CWORD]}" where=() flags="" names="" i
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "$(_serin_commands)" -- "$current"))
    return
  fi
  for ((i = 2; i < COMP_CWORD; i++)); do
    case "${COMP_WORDS[i]}" in
      -n|--namespace|--context|--kubeconfig) where+=("${COMP_WORDS[i]}" "${COMP_WORDS[i+1]}") ;;
    esac
  done
  case "${COMP_WORDS[1]}" in
"#;

const BASH_TAIL: &str = r#"  esac
  case "$current" in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$current")) ;;
    *)
      if [ -n "$names" ]; then
        COMPREPLY=($(compgen -W "$(serin get -o name "${where[@]}" 2> /dev/null | sed 's,.*/,,')" -- "$current"))
      else
        COMPREPLY=($(compgen -f -- "$current"))
      fi
      ;;
  esac
}
complete -F _serin serin
"#;

fn bash(command: &Command) -> String {
    let mut script = format!(
        "_serin_commands() {{ echo {}; }}\n{BASH_HEAD}",
        names(command).join(" ")
    );
    for one in command.get_subcommands() {
        let named = if takes_names(one) { " names=yes" } else { "" };
        let _ = writeln!(
            script,
            "    {}) flags=\"{}\"{named} ;;",
            one.get_name(),
            flags(one).join(" ")
        );
    }
    script + BASH_TAIL
}

fn fish(command: &Command) -> String {
    let all = names(command).join(" ");
    let mut script = format!(
        "complete -c serin -f\ncomplete -c serin -n \"not __fish_seen_subcommand_from {all}\" -a \"{all}\"\n"
    );
    for one in command.get_subcommands() {
        let name = one.get_name();
        let seen = format!("-n \"__fish_seen_subcommand_from {name}\"");
        for flag in flags(one) {
            let _ = writeln!(script, "complete -c serin {seen} -l {}", &flag[2..]);
        }
        let _ = if takes_names(one) {
            writeln!(
                script,
                "complete -c serin {seen} -a \"(serin get -o name 2> /dev/null | string replace -r '.*/' '')\""
            )
        } else {
            writeln!(script, "complete -c serin {seen} -F")
        };
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_know_commands_flags_and_who_takes_names() {
        let command = crate::cli::command();
        let script = bash(&command);
        for expected in [
            "get) flags=\"",
            "--all-namespaces",
            "lint) flags=\"--output",
            "complete -F _serin serin",
        ] {
            assert!(script.contains(expected), "{expected}:\n{script}");
        }
        let line = |name: &str| {
            let head = format!("    {name}) ");
            script
                .lines()
                .find(|line| line.starts_with(&head))
                .unwrap_or_default()
                .to_owned()
        };
        assert!(line("explain").contains("names=yes"));
        assert!(!line("lint").contains("names=yes"));
        assert!(fish(&command).contains("__fish_seen_subcommand_from abort"));
    }
}
