//! Sets the stage for the story: builds what is missing, brings up a bed with Serin in it, and clears up afterwards.
use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use serin::demo::Screen;
use serin::demo::story::{self, Tempo};

use super::crowd::BedCrowd;
use crate::bed::parts::{GATEWAY, PROMETHEUS};
use crate::bed::process::{exit_code, tail};
use crate::bed::{Bed, BedOptions, beside, namespace};
use crate::load::Report;
use crate::tools;

/// The demo's bed, `.bed/demo`; its logs stay until the next demo.
const BED: &str = "demo";

/// `serin-e2e demo`: outside the bed's namespace.
pub async fn run() -> Result<ExitCode> {
    beside("serin")?;
    tools::setup()?;
    let inside = namespace::spawn_inside(&[OsString::from("demo-inside")])?;
    let status = namespace::wait_or_interrupt(inside).await?;
    if stdout().is_terminal() {
        // Whoever was ended while drawing could not show the cursor again.
        print!("\x1b[?25h");
    }
    Ok(u8::try_from(exit_code(status)).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// `serin-e2e demo-inside`: inside the bed's namespace, which ends with this process.
pub async fn run_inside() -> Result<ExitCode> {
    eprintln!("A cluster of its own comes up:");
    let bed = Bed::start(&BedOptions::new(BED), tools::setup()?)
        .await
        .context("the bed did not come up")?;
    let report = tell(&bed, Screen::of_stdout()).await.with_context(|| {
        format!(
            "the demo ended early; logs are in {}",
            bed.state().join("logs").display()
        )
    })?;
    println!("\n{report}");
    report.none_lost().map(|()| ExitCode::SUCCESS)
}

/// Tells the story while watching that the controller lives: its early end is what a viewer should hear of, not the wait that follows.
pub async fn tell(bed: &Bed, mut screen: Screen) -> Result<Report> {
    let metrics = format!("-metrics-server={PROMETHEUS}");
    let mut serin = bed.start_serin(["-mesh-provider=gatewayapi:v1", &metrics])?;
    let log = serin.log().to_path_buf();
    let client = bed.client();
    let mut crowd = BedCrowd::new(GATEWAY);
    tokio::select! {
        told = story::tell(&client, &mut crowd, Tempo::on_the_bed(), None, &mut screen) => told.map(drop)?,
        ended = serin.wait() => bail!("serin controller ended with {}; its log ends with:\n{}", ended?, tail(&log)),
    }
    drop(screen);
    serin.stop().await?;
    crowd.report.context("the load was never started")
}
