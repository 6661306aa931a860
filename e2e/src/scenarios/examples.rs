//! What `examples/` shows works as it stands there.
use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;

use super::shop::{self, PATIENCE};
use crate::bed::Bed;
use crate::tools::project_root;

pub async fn run(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    bed.start_second_gateway().await?;
    bed.start_ingress_gateway().await?;
    bed.install_istio_definitions().await?;
    let place = bed.scenario_namespace("examples").await?;
    let mut canaries = Vec::new();
    for entry in std::fs::read_dir(project_root()?.join("examples"))? {
        let file = entry?.path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&file)?;
        place
            .apply(&text)
            .await
            .with_context(|| format!("applying {}", file.display()))?;
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text)?;
        let mut found: Vec<String> = documents
            .iter()
            .filter(|document| document["kind"] == "Canary")
            .filter_map(|document| Some(document["metadata"]["name"].as_str()?.to_owned()))
            .collect();
        ensure!(
            !found.is_empty(),
            "expected a Canary in {}, found none",
            file.display()
        );
        canaries.append(&mut found);
    }
    try_join_all(
        canaries
            .iter()
            .map(|canary| place.wait_phase(canary, "Initialized", PATIENCE)),
    )
    .await?;
    let template = place
        .get("flagger.app/v1beta1", "MetricTemplate", "not-found")
        .await?;
    ensure!(
        template.data["spec"]["provider"]["type"] == "prometheus",
        "{}",
        template.data
    );
    Ok(())
}
