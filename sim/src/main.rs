//! `make sim`: what `serin simulate` does, in a program that is built in seconds.
//!
//! usage: `serin-simulation [--histories N] [--seed N] [--failures N] [--story] [--mutants]`

use serin_simulation::sim::run::{self, Wish};
use std::process::ExitCode;

/// A history is mostly JSON that is made and dropped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let wish = match wish(std::env::args().skip(1)) {
        Ok(wish) => wish,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let (text, clean) = run::carry_out(&wish);
    print!("{text}");
    if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn wish(mut arguments: impl Iterator<Item = String>) -> Result<Wish, String> {
    let mut wish = Wish::default();
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().unwrap_or_default();
            text.parse::<u64>()
                .map_err(|_| format!("{argument} needs a whole number, found {text:?}"))
        };
        match argument.as_str() {
            "--histories" => wish.histories = number()?,
            "--seed" => wish.seed = number()?,
            "--failures" => wish.failures = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--story" => wish.story = true,
            "--mutants" => wish.mutants = true,
            other => {
                return Err(format!(
                    "{other} is not known; expected --histories N, --seed N, --failures N, --story or --mutants"
                ));
            }
        }
    }
    Ok(wish)
}
