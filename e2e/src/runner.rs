//! Runs scenarios on fresh beds: outside, it starts a bed's namespace for each group of scenarios; inside, it brings the bed up and
//! tells the stories.
use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{FutureExt, StreamExt, stream};

use crate::bed::{Bed, BedOptions, namespace, state_folder};
use crate::scenarios::{self, Company, Scenario};
use crate::tools;

/// A scenario that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(10);

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Which scenarios to run; those of every day if none is named
    scenarios: Vec<String>,
    /// Run also those that take long or need Flagger itself
    #[arg(long)]
    all: bool,
    /// How many run side by side: scenarios on the shared bed, and beds of scenarios that need one alone
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// How often a scenario is tried that fails; later tries have a bed of their own, and what went wrong is told all the same
    #[arg(long, default_value_t = 1)]
    tries: usize,
    /// Keep state and logs in `.bed/` also when everything passes
    #[arg(long)]
    keep: bool,
    /// List the scenarios and do nothing
    #[arg(long)]
    list: bool,
}

#[derive(clap::Args, Debug)]
pub struct InsideArguments {
    #[arg(long)]
    name: String,
    #[arg(long)]
    parallel: usize,
    scenarios: Vec<String>,
}

/// One bed's worth of scenarios.
struct Group {
    name: String,
    scenarios: Vec<&'static Scenario>,
}

/// `serin-e2e run`.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let chosen = scenarios::select(&arguments.scenarios, arguments.all)?;
    if arguments.list {
        for scenario in chosen {
            println!("{:<24} {}", scenario.name, scenario.title);
        }
        return Ok(ExitCode::SUCCESS);
    }
    tools::setup()?;
    scenarios::prepare(&chosen)?;
    let run = format!("run-{}", std::process::id());
    let (shared, alone): (Vec<_>, Vec<_>) = chosen
        .into_iter()
        .partition(|scenario| scenario.company == Company::Shared);
    let shared = (!shared.is_empty()).then(|| Group {
        name: run.clone(),
        scenarios: shared,
    });
    let alone: Vec<Group> = alone
        .into_iter()
        .map(|scenario| Group {
            name: format!("{run}-{}", scenario.name),
            scenarios: vec![scenario],
        })
        .collect();

    let parallel = arguments.parallel.max(1);
    let mut passed = 0;
    let mut failed: Vec<&Scenario> = Vec::new();
    for (groups, beds) in [(Vec::from_iter(shared), 1), (alone, parallel)] {
        let results: Vec<Result<(usize, Vec<&Scenario>)>> = stream::iter(&groups)
            .map(|group| run_group(group, parallel, arguments.keep))
            .buffered(beds)
            .collect()
            .await;
        for result in results {
            let (more, fewer) = result?;
            passed += more;
            failed.extend(fewer);
        }
    }
    for attempt in 2..=arguments.tries {
        for scenario in std::mem::take(&mut failed) {
            println!("{}: try {attempt}, on a bed of its own", scenario.name);
            let group = Group {
                name: format!("{run}-{}-{attempt}", scenario.name),
                scenarios: vec![scenario],
            };
            let (more, fewer) = run_group(&group, 1, arguments.keep).await?;
            if more > 0 {
                println!(
                    "{} passed at try {attempt} only; what went wrong before is told above",
                    scenario.name
                );
            }
            passed += more;
            failed.extend(fewer);
        }
    }
    println!("{passed} passed, {} failed", failed.len());
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How many passed, and those that failed; what was not told because the bed failed counts as failed.
async fn run_group(
    group: &Group,
    parallel: usize,
    keep: bool,
) -> Result<(usize, Vec<&'static Scenario>)> {
    let state = state_folder(&group.name)?;
    std::fs::create_dir_all(&state)?;
    let mut inner: Vec<OsString> = [
        "run-inside",
        "--name",
        &group.name,
        "--parallel",
        &parallel.to_string(),
    ]
    .map(OsString::from)
    .into();
    inner.extend(group.scenarios.iter().map(|scenario| scenario.name.into()));
    let child = namespace::spawn_inside(&inner)?;
    let status = namespace::wait_or_interrupt(child).await?;
    let passed = std::fs::read_to_string(passed_file(&state)).unwrap_or_default();
    let failed: Vec<&'static Scenario> = group
        .scenarios
        .iter()
        .copied()
        .filter(|scenario| !passed.lines().any(|name| name == scenario.name))
        .collect();
    if failed.is_empty() && status.success() && !keep {
        std::fs::remove_dir_all(&state)?;
    } else {
        println!("logs are in {}", state.join("logs").display());
    }
    Ok((group.scenarios.len() - failed.len(), failed))
}

fn passed_file(state: &Path) -> std::path::PathBuf {
    state.join("passed")
}

/// What runs inside the namespace: bed up, scenarios side by side.
pub async fn run_inside(arguments: InsideArguments) -> Result<ExitCode> {
    let chosen = scenarios::select(&arguments.scenarios, true)?;
    let started = Instant::now();
    let bed = Bed::start(&BedOptions::new(&arguments.name), tools::setup()?)
        .await
        .context("the bed did not come up")?;
    eprintln!(
        "bed {} is up after {:.1} s",
        arguments.name,
        started.elapsed().as_secs_f64()
    );
    let told: Vec<Option<&str>> = stream::iter(&chosen)
        .map(async |scenario| tell(scenario, &bed).await.then_some(scenario.name))
        .buffer_unordered(arguments.parallel.max(1))
        .collect()
        .await;
    let whole = bed.timeline().of_all();
    std::fs::write(bed.state().join("logs/timeline.log"), whole)?;
    let passed: Vec<&str> = told.into_iter().flatten().collect();
    std::fs::write(passed_file(bed.state()), passed.join("\n"))?;
    Ok(if passed.len() == chosen.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs one scenario and says how it went; a panic is a failure like any other.
async fn tell(scenario: &Scenario, bed: &Bed) -> bool {
    let started = Instant::now();
    let outcome = tokio::time::timeout(
        PATIENCE,
        AssertUnwindSafe((scenario.run)(bed)).catch_unwind(),
    )
    .await;
    let seconds = started.elapsed().as_secs_f64();
    let failure = match outcome {
        Ok(Ok(Ok(()))) => match bed.figures().publish(scenario.name, seconds) {
            Ok(()) => None,
            Err(error) => Some(format!("{error:#}")),
        },
        Ok(Ok(Err(error))) => Some(format!("{error:#}")),
        Ok(Err(panic)) => Some(
            panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "it panicked".to_owned()),
        ),
        Err(_) => Some(format!("it took longer than {PATIENCE:?}")),
    };
    let Some(failure) = failure else {
        println!(
            "ok      {:<24} {seconds:>6.1} s  {}",
            scenario.name, scenario.title
        );
        return true;
    };
    // In one piece, so that scenarios running side by side do not mix their lines.
    let timeline = bed
        .timeline()
        .text(|namespace| namespace.is_empty() || namespace.starts_with(scenario.name));
    let parts = bed
        .expect_parts_running()
        .await
        .err()
        .map(|error| format!("{error:#}\n"))
        .unwrap_or_default();
    println!(
        "FAILED  {:<24} {seconds:>6.1} s  {}\n{failure}\n{parts}what happened:\n{timeline}",
        scenario.name, scenario.title
    );
    false
}
