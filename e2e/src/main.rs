//! `serin-e2e`: brings a bed up and down, runs scenarios on it, and holds the programs that run inside it.
use clap::Parser;
use serin_e2e::{demo_app, load};

/// A real cluster on one machine, and what is judged on it.
#[derive(Parser)]
#[command(name = "serin-e2e", version)]
enum Command {
    /// The program behind the demo pods: serves its version, metrics, and the faults its environment asks for
    DemoApp(demo_app::Arguments),
    /// Open-loop load with an account of every request
    Load(load::Arguments),
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    match Command::parse() {
        Command::DemoApp(arguments) => runtime.block_on(demo_app::run(&arguments)),
        Command::Load(arguments) => runtime.block_on(load::run(arguments)),
    }
}
