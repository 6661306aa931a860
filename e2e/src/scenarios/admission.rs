//! The admission webhook in front of the real API server: what can never work does not get in, what is good does, and without the controller
//! everything does.
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use super::shop::{self, PATIENCE};
use crate::bed::Bed;
use crate::bed::pki::Authority;
use crate::tools::project_root;

const PORT: &str = "9443";

/// Puts a new authority's certificate for 127.0.0.1 into `folder`, as a mounted Secret has it. Returns the authority.
fn issue_in(folder: &Path) -> Result<String> {
    let authority = Authority::new("admission-ca")?;
    let issued = authority.server(["127.0.0.1".to_owned()])?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("tls.key"), issued.key)?;
    std::fs::write(folder.join("tls.crt"), issued.certificate)?;
    Ok(authority.pem().to_owned())
}

/// The chart's webhook configuration, led to this bed's controller instead of to a Service.
async fn configuration(bed: &Bed, authority: &str) -> Result<Value> {
    let chart = project_root()?.join("charts/serin");
    let chart = chart.to_str().context("the path is not UTF-8")?;
    let rendered = bed
        .helm([
            "template",
            "serin",
            chart,
            "--namespace",
            "serin-system",
            "--set",
            "admission.enabled=true",
            "--show-only",
            "templates/admission.yaml",
        ])
        .await?;
    let options = serde_saphyr::options! { budget: None };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&rendered, options)?;
    let mut configuration = documents
        .into_iter()
        .find(|document| document["kind"] == "ValidatingWebhookConfiguration")
        .context("the chart renders no webhook configuration")?;
    let webhook = &mut configuration["webhooks"][0];
    ensure!(
        webhook["failurePolicy"] == "Ignore"
            && webhook["timeoutSeconds"] == 5
            && webhook["clientConfig"]["caBundle"].is_string()
            && webhook["clientConfig"]["service"]["path"] == "/validate",
        "{webhook:#}"
    );
    webhook["clientConfig"] = json!({
        "url": format!("https://127.0.0.1:{PORT}/validate"),
        "caBundle": base64(authority),
    });
    Ok(configuration)
}

pub fn base64(text: &str) -> String {
    use k8s_openapi::ByteString;
    serde_json::to_value(ByteString(text.as_bytes().to_vec()))
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// A canary that asks nothing of the cluster, with this least success rate in percent.
pub fn canary(name: &str, minimum: f64) -> Value {
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": name, "namespace": "admission"},
        "spec": {
            "provider": "gatewayapi:v1",
            "suspend": true,
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "service": {"port": 80, "gatewayRefs": [{"name": "traefik", "namespace": "gateway"}]},
            "analysis": {
                "interval": "10s", "threshold": 1, "stepWeight": 50,
                "metrics": [{"name": "request-success-rate", "thresholdRange": {"min": minimum}}],
            },
        },
    })
}

/// `kubectl apply`, as a person would. Whether it went well, and all that was said.
pub async fn apply(bed: &Bed, object: &Value, more: &[&str]) -> Result<(bool, String)> {
    let file = bed.state().join("admission.json");
    std::fs::write(&file, object.to_string())?;
    let output = Command::new(&bed.tools().kubectl)
        .args(["apply", "-f"])
        .arg(&file)
        .args(more)
        .env("KUBECONFIG", bed.kubeconfig("admin"))
        .output()
        .await?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), said))
}

/// Waits until an object is denied; what was said then.
pub async fn wait_denied(bed: &Bed, object: &Value, what: &str) -> Result<String> {
    bed.wait(what, PATIENCE, async || {
        let (taken, said) = apply(bed, object, &["--dry-run=server"]).await?;
        Ok((!taken).then_some(said))
    })
    .await
}

/// Denied, warned, let in; with a new certificate too; and let in by everybody once the controller is gone.
pub async fn run(bed: &Bed) -> Result<()> {
    bed.namespace("admission").await?;
    let folder = bed.state().join("admission");
    let authority = issue_in(&folder)?;
    let folder = folder.to_str().context("the path is not UTF-8")?.to_owned();
    let serin = shop::start_serin_with(
        bed,
        &[
            "--admission-port",
            PORT,
            "--admission-certificates",
            &folder,
        ],
    )?;
    bed.wait("the webhook to be served", PATIENCE, async || {
        let log = std::fs::read_to_string(serin.log())?;
        Ok(log
            .contains("the admission webhook is served")
            .then_some(()))
    })
    .await?;
    bed.apply(&configuration(bed, &authority).await?.to_string())
        .await?;

    let never = canary("never", 990.0);
    let said = wait_denied(bed, &never, "a bad canary to be denied").await?;
    for words in [
        "denied the request",
        "spec.analysis.metrics[0].thresholdRange.min: 990: a success rate is a percentage, so no value can pass",
    ] {
        ensure!(said.contains(words), "expected {words:?} in:\n{said}");
    }
    // What Flagger's schema takes and nobody can work with.
    let mut odd = canary("odd", 99.0);
    odd["spec"]["analysis"]["stepWeight"] = json!(10.5);
    let (taken, said) = apply(bed, &odd, &[]).await?;
    ensure!(
        !taken && said.contains("spec.analysis.stepWeight") && said.contains("10.5"),
        "{said}"
    );
    let (taken, said) = apply(bed, &canary("doubtful", 0.99), &[]).await?;
    ensure!(
        taken && said.contains("Warning:") && said.contains("did you mean 99?"),
        "{said}"
    );
    let (taken, said) = apply(bed, &canary("good", 99.0), &[]).await?;
    ensure!(taken && !said.contains("Warning"), "{said}");
    let template = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": {"name": "errors", "namespace": "admission"},
        "spec": {"provider": {"type": "prometheus", "address": "http://prometheus:9090"}, "query": "sum({{ targte }})"},
    });
    let (taken, said) = apply(bed, &template, &[]).await?;
    ensure!(
        !taken && said.contains("spec.query") && said.contains("targte"),
        "{said}"
    );
    let provider = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider", "metadata": {"name": "chat", "namespace": "admission"},
        "spec": {"type": "slack", "address": "hooks.slack.com/services/x"},
    });
    let (taken, said) = apply(bed, &provider, &[]).await?;
    ensure!(!taken && said.contains("spec.address"), "{said}");

    // A certificate of another authority, as a rotation brings it: the controller shows it without a restart.
    let authority = issue_in(Path::new(&folder))?;
    bed.apply(&configuration(bed, &authority).await?.to_string())
        .await?;
    wait_denied(
        bed,
        &never,
        "a bad canary to be denied under the new certificate",
    )
    .await?;
    ensure!(
        std::fs::read_to_string(serin.log())?.contains("has a new certificate"),
        "the log does not tell of the new certificate"
    );

    serin.stop().await?;
    let (taken, said) = apply(bed, &never, &[]).await?;
    ensure!(
        taken,
        "without the controller everything gets in, but:\n{said}"
    );
    Ok(())
}
