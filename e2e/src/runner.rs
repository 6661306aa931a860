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
    let mut counts = (0, 0);
    for (groups, beds) in [(Vec::from_iter(shared), 1), (alone, parallel)] {
        let results: Vec<Result<(usize, usize)>> = stream::iter(&groups)
            .map(|group| run_group(group, parallel, arguments.keep))
            .buffered(beds)
            .collect()
            .await;
        for result in results {
            let (passed, failed) = result?;
            counts = (counts.0 + passed, counts.1 + failed);
        }
    }
    println!("{} passed, {} failed", counts.0, counts.1);
    Ok(if counts.1 == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Passed and failed; what was not told because the bed failed counts as failed.
async fn run_group(group: &Group, parallel: usize, keep: bool) -> Result<(usize, usize)> {
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
    let passed = std::fs::read_to_string(passed_file(&state))
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let failed = group.scenarios.len() - passed;
    if failed == 0 && status.success() && !keep {
        std::fs::remove_dir_all(&state)?;
    } else {
        println!("logs are in {}", state.join("logs").display());
    }
    Ok((passed, failed))
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
    let told: Vec<bool> = stream::iter(&chosen)
        .map(|scenario| tell(scenario, &bed))
        .buffer_unordered(arguments.parallel.max(1))
        .collect()
        .await;
    let whole = bed.timeline().of_all();
    std::fs::write(bed.state().join("logs/timeline.log"), whole)?;
    let passed = told.iter().filter(|passed| **passed).count();
    std::fs::write(passed_file(bed.state()), passed.to_string())?;
    Ok(if passed == chosen.len() {
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
    let failure = match outcome {
        Ok(Ok(Ok(()))) => None,
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
    let seconds = started.elapsed().as_secs_f64();
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
