//! The command line: `serin controller` with Flagger's flags, `serin get`, `explain` and the other commands that ask and tell, `serin lint`,
//! `serin crd` and more. Long flags of the controller may have one dash or two, as with Go programs, so Flagger's arguments can be taken over
//! as they are.

mod ask;
mod completion;
mod controller;
mod crd;
mod credentials;
mod demo;
mod lint;
mod loadtester;
mod migrate;
mod rbac;
mod simulate;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

pub use ask::EXIT_CODES;

/// Progressive delivery for Kubernetes. Takes Flagger's manifests (flagger.app/v1beta1) unchanged.
#[derive(Debug, Parser)]
#[command(name = "serin", version, arg_required_else_help = true, after_help = format!("{EXAMPLES}\n\n{}", ask::EXIT_CODES))]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  serin demo                                         see it without a cluster
  serin crd | kubectl apply --server-side -f -      install the custom resources
  serin controller -mesh-provider=gatewayapi:v1 -metrics-server=http://prometheus:9090
  serin controller -namespace=test -log-level=debug -zap-encoding=console
  serin get -A                                       all canaries in a table
  serin get podinfo -n test                          one canary on one screen
  serin explain podinfo                              why it is where it is, and what comes next
  serin wait podinfo --timeout=10m                   for pipelines: promoted is 0, rolled back is 3
  serin abort podinfo -m \"checkout is broken\"
  serin lint manifests/*.yaml

Long flags of the controller may be written with one dash or two. As kubectl-serin in the PATH it is also `kubectl serin`.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller: watch Canaries and move traffic to new revisions step by step.
    Controller(Box<controller::ControllerArguments>),
    #[command(flatten)]
    Ask(ask::Ask),
    /// See it before you have a cluster: the real controller on a simulated cluster, with real traffic on loopback.
    Demo(demo::DemoArguments),
    /// Check Canaries, templates and what they refer to in files, before a cluster sees them.
    Lint(lint::LintArguments),
    /// Send load, run tests and keep gates for the webhooks of canaries, as Flagger's load tester does.
    Loadtester(Box<loadtester::LoadTesterArguments>),
    /// Print the completion script of a shell; names of canaries are completed from the cluster.
    Completion(completion::CompletionArguments),
    /// Print the custom resource definitions as YAML.
    Crd(crd::CrdArguments),
    /// Print the roles that the controller needs, for the routers in use.
    Rbac(rbac::RbacArguments),
    /// Say what will change when Serin takes over from Flagger.
    Migrate(migrate::MigrateArguments),
    /// Run simulated histories and check the invariants.
    Simulate(simulate::SimulateArguments),
    /// Print the version.
    Version,
}

/// Parses the process's arguments and runs what they say.
#[must_use]
pub fn main() -> ExitCode {
    let parsed = command()
        .try_get_matches_from(double_dashes(std::env::args()))
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" that go to stdout with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match arguments.command {
        Command::Controller(arguments) => controller::run(&arguments),
        Command::Ask(asked) => return finished(ask::run(&asked)),
        Command::Lint(arguments) => return finished(lint::run(&arguments)),
        Command::Completion(arguments) => completion::run(&arguments, &command()),
        Command::Crd(arguments) => crd::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Loadtester(arguments) => loadtester::run(&arguments),
        Command::Migrate(arguments) => migrate::run(&arguments),
        Command::Rbac(arguments) => rbac::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Version => {
            println!("serin {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    finished(result.map(|()| ask::exit::OK))
}

fn finished(result: anyhow::Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("serin: {error:#}");
            ExitCode::from(ask::exit::ERROR)
        }
    }
}

/// The command line's description, by the name under which it was called: `kubectl serin` finds us as `kubectl-serin`.
#[must_use]
pub fn command() -> clap::Command {
    let plugin = std::env::args_os().next().is_some_and(|name| {
        std::path::Path::new(&name)
            .file_stem()
            .is_some_and(|stem| stem == "kubectl-serin")
    });
    let command = Arguments::command();
    if plugin {
        command.bin_name("kubectl serin")
    } else {
        command
    }
}

/// Commands that take Go's flags: one dash may begin a long flag there. Elsewhere `-n` and `-ojson` mean what they mean to kubectl.
const GO_FLAGS: [&str; 5] = ["controller", "crd", "loadtester", "rbac", "simulate"];

/// Go's `-flag` becomes `--flag`; single letters, values and negative numbers stay as they are.
fn double_dashes(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let arguments: Vec<String> = arguments.collect();
    let go = arguments
        .get(1)
        .is_some_and(|command| GO_FLAGS.contains(&command.as_str()));
    if !go {
        return arguments;
    }
    arguments
        .into_iter()
        .map(|argument| {
            let mut characters = argument.chars();
            let dashed = characters.next() == Some('-')
                && characters.next().is_some_and(char::is_alphabetic);
            let long = characters.next().is_some_and(|character| character != '=');
            if dashed && long {
                format!("-{argument}")
            } else {
                argument
            }
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    pub(super) fn parse(
        arguments: &[&str],
    ) -> Result<controller::ControllerArguments, clap::Error> {
        let all = ["serin", "controller"]
            .iter()
            .chain(arguments)
            .map(|argument| (*argument).to_owned());
        match Arguments::try_parse_from(double_dashes(all))?.command {
            Command::Controller(arguments) => Ok(*arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_with_one_dash_or_two_mean_the_same() {
        let all = [
            "serin",
            "controller",
            "-port=1",
            "--port=1",
            "-h",
            "-v=4",
            "-1",
            "value",
            "--",
            "-log-level",
            "debug",
        ]
        .map(str::to_owned);
        assert_eq!(
            double_dashes(all.into_iter()),
            [
                "serin",
                "controller",
                "--port=1",
                "--port=1",
                "-h",
                "-v=4",
                "-1",
                "value",
                "--",
                "--log-level",
                "debug"
            ]
        );
    }

    #[test]
    fn the_asking_commands_take_flags_as_kubectl_does() {
        let line = ["serin", "get", "-ojson", "-nshop", "-lapp=web", "-A"].map(str::to_owned);
        assert_eq!(double_dashes(line.clone().into_iter()), line);
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
