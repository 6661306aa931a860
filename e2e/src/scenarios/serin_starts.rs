//! The controller comes up, says so, breaks nothing over a Canary that can't be understood, and goes in order.
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;
use crate::bed::process::exit_code;

const PORT: &str = "18086";

/// A Canary whose spec Flagger's CRD lets through and that means nothing.
const ODD_CANARY: &str = "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: odd}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: nowhere}
  service: {port: 80}
  analysis: {interval: 5s, threshold: 3, stepWeight: 2.5}
";

pub async fn run(bed: &Bed) -> Result<()> {
    let place = bed.scenario_namespace("serin-starts").await?;
    place.apply(ODD_CANARY).await?;
    let serin = bed.start_serin([
        "-namespace",
        place.name(),
        "-port",
        PORT,
        "-mesh-provider=kubernetes",
    ])?;
    bed.wait("serin to be ready", Duration::from_secs(20), async || {
        let answer = reqwest::get(format!("http://127.0.0.1:{PORT}/readyz")).await?;
        Ok(answer.status().is_success().then_some(()))
    })
    .await?;
    let message = bed
        .wait(
            "the odd Canary to say what is wrong",
            Duration::from_secs(10),
            async || {
                let odd = place.canary("odd").await?;
                let conditions = odd.data["status"]["conditions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let accepted = conditions.iter().find(|condition| {
                    condition["type"] == "Accepted" && condition["reason"] == "InvalidSpec"
                });
                Ok(accepted.and_then(|accepted| accepted["message"].as_str().map(str::to_owned)))
            },
        )
        .await?;
    ensure!(
        message.contains("stepWeight"),
        "expected the condition to name stepWeight, found {message:?}"
    );
    let status = serin.stop().await.context("stopping serin")?;
    ensure!(
        exit_code(status) == 0,
        "expected exit code 0 after SIGTERM, found {}",
        exit_code(status)
    );
    Ok(())
}
