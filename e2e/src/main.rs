//! `serin-e2e`: brings a bed up and down, runs scenarios on it, and holds the programs that run inside it.
use std::process::ExitCode;

use clap::Parser;
use serin_e2e::{bench, crowd, demo, demo_app, kubelet, load, runner, standing, tools};

/// A real cluster on one machine, and what is judged on it.
#[derive(Parser)]
#[command(name = "serin-e2e", version)]
enum Command {
    /// Build the bed's programs that are not there yet
    Setup,
    /// Bring up a bed and leave it up
    Up(standing::Name),
    /// End a bed that was left up
    Down(standing::Name),
    /// Run a command inside a bed: `serin-e2e exec -- curl 127.0.0.1:8000`
    Exec(standing::ExecArguments),
    /// Ask a bed's API server
    Kubectl(standing::KubectlArguments),
    /// Print the log of a part of a bed
    Logs(standing::LogsArguments),
    /// Run a command in a namespace like a bed's, without a bed; it and all it started end with this process
    #[command(hide = true)]
    Inside(standing::InsideArguments),
    /// Run scenarios, each on a bed made for it
    Run(runner::Arguments),
    /// A good release promoted and a bad one taken back, live in the terminal
    Demo,
    /// What many canaries at rest cost in time, memory, CPU and requests
    Bench(bench::Arguments),
    /// Many canaries that roll at the same time, again and again, with visitors through two planes
    Crowd(crowd::Arguments),
    /// The program behind the demo pods: serves its version, metrics, and the faults its environment asks for
    DemoApp(demo_app::Arguments),
    /// Open-loop load with an account of every request
    Load(load::Arguments),
    /// The bed's kubelet
    #[command(hide = true)]
    Kubelet(kubelet::Arguments),
    #[command(hide = true)]
    Stand(standing::Name),
    #[command(hide = true)]
    BenchInside(bench::Arguments),
    #[command(hide = true)]
    CrowdInside(crowd::Arguments),
    #[command(hide = true)]
    DemoInside,
    #[command(hide = true)]
    RunInside(runner::InsideArguments),
}

fn main() -> anyhow::Result<ExitCode> {
    // The client tells of every refused request; a bed that waits for its API server has many.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,kube_client=off".into());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
    // Two crates bring TLS; both use the provider chosen here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new()?;
    match Command::parse() {
        Command::Setup => tools::setup().map(drop).map(done),
        Command::Up(arguments) => runtime.block_on(standing::up(arguments)),
        Command::Down(arguments) => runtime.block_on(standing::down(arguments)),
        Command::Exec(arguments) => standing::exec(&arguments),
        Command::Kubectl(arguments) => standing::kubectl(arguments),
        Command::Logs(arguments) => standing::logs(&arguments),
        Command::Inside(arguments) => runtime.block_on(standing::inside(arguments)),
        Command::Run(arguments) => runtime.block_on(runner::run(arguments)),
        Command::Demo => runtime.block_on(demo::run()),
        Command::Bench(arguments) => runtime.block_on(bench::run(arguments)),
        Command::BenchInside(arguments) => runtime.block_on(bench::run_inside(arguments)),
        Command::Crowd(arguments) => runtime.block_on(crowd::run(arguments)),
        Command::CrowdInside(arguments) => runtime.block_on(crowd::run_inside(arguments)),
        Command::DemoInside => runtime.block_on(demo::run_inside()),
        Command::DemoApp(arguments) => runtime.block_on(demo_app::run(&arguments)).map(done),
        Command::Load(arguments) => runtime.block_on(load::run(arguments)).map(done),
        Command::Kubelet(arguments) => runtime.block_on(kubelet::run(arguments)).map(done),
        Command::Stand(arguments) => runtime.block_on(standing::stand(arguments)),
        Command::RunInside(arguments) => runtime.block_on(runner::run_inside(arguments)),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
