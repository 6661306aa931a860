//! `serin simulate`: many simulated histories, and the story of the first that violates an invariant.

use crate::sim::run::{self, Wish};
use anyhow::{Result, bail};
use clap::Args;

/// Proves the rollout's decisions by simulation: random histories with faults at every effect, each checked against the invariants.
#[derive(Debug, Args)]
pub struct SimulateArguments {
    /// How many histories.
    #[arg(long, default_value_t = 1000)]
    histories: u64,
    /// The seed of the first; the others follow by one. A history is its seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tell the story of this one seed instead, made as small as it can be.
    #[arg(long, default_value_t = false)]
    story: bool,
    /// Put deliberate defects in, one after the other, each for at most so many histories, and say which invariant caught it.
    #[arg(long, default_value_t = false)]
    mutants: bool,
    /// Stop after so many histories that violate an invariant.
    #[arg(long, default_value_t = 5)]
    failures: usize,
}

/// Runs them.
pub fn run(arguments: &SimulateArguments) -> Result<()> {
    let (text, clean) = run::carry_out(&Wish {
        histories: arguments.histories,
        seed: arguments.seed,
        story: arguments.story,
        mutants: arguments.mutants,
        failures: arguments.failures,
    });
    print!("{text}");
    if !clean && arguments.mutants {
        bail!("a deliberate defect was not caught: an invariant or a scenario is missing");
    }
    if !clean {
        bail!(
            "an invariant was violated; `serin simulate --story --seed N` tells the story of seed N"
        );
    }
    Ok(())
}
