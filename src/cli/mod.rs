//! The command line: `serin controller` with Flagger's flags, `serin crd`, `serin version`. Long flags may have one dash or two, as with
//! Go programs, so Flagger's arguments can be taken over as they are.

mod controller;
mod crd;
mod credentials;
mod rbac;
mod simulate;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Progressive delivery for Kubernetes. Takes Flagger's manifests (flagger.app/v1beta1) unchanged.
#[derive(Debug, Parser)]
#[command(name = "serin", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  serin crd | kubectl apply --server-side -f -      install the custom resources
  serin controller -mesh-provider=gatewayapi:v1 -metrics-server=http://prometheus:9090
  serin controller -namespace=test -log-level=debug -zap-encoding=console

Long flags may be written with one dash or two.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller: watch Canaries and move traffic to new revisions step by step.
    Controller(Box<controller::ControllerArguments>),
    /// Print the custom resource definitions as YAML.
    Crd(crd::CrdArguments),
    /// Print the roles that the controller needs, for the routers in use.
    Rbac(rbac::RbacArguments),
    /// Run simulated histories and check the invariants.
    Simulate(simulate::SimulateArguments),
    /// Print the version.
    Version,
}

/// Parses the process's arguments and runs what they say.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse_from(double_dashes(std::env::args())) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" that go to stdout with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match arguments.command {
        Command::Controller(arguments) => controller::run(&arguments),
        Command::Crd(arguments) => crd::run(&arguments),
        Command::Rbac(arguments) => rbac::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Version => {
            println!("serin {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serin: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Go's `-flag` becomes `--flag`; single letters, values and negative numbers stay as they are.
fn double_dashes(arguments: impl Iterator<Item = String>) -> Vec<String> {
    arguments
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
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
