//! The two demos: the one of the real cluster tells its story on this bed, and the simulated one of `serin demo` answers kubectl as
//! docs/demo.md says.
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serin::demo::Screen;
use tokio::process::Command;

use super::shop::PATIENCE;
use crate::bed::process::{Process, Program};
use crate::bed::{Bed, beside};
use crate::demo;

/// `make demo-cluster`: the good release is promoted, the bad one taken back, nothing is lost.
pub async fn on_the_cluster(bed: &Bed) -> Result<()> {
    let report = demo::tell(bed, Screen::plain()).await?;
    report.none_lost()
}

/// Runs a command against the demo's cluster. Returns what was said.
async fn said(bed: &Bed, kubeconfig: &str, line: &[&str]) -> Result<String> {
    let (program, arguments) = line.split_first().context("an empty line")?;
    let program = match *program {
        "kubectl" => bed.tools().kubectl.clone(),
        other => beside(other)?,
    };
    let output = Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("NO_COLOR", "1")
        .env("KUBE_EDITOR", "sed -i s/threshold:.*/threshold:\\ 3/")
        .kill_on_drop(true)
        .output()
        .await?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.success(),
        "{} ended with {}:\n{text}",
        line.join(" "),
        output.status
    );
    Ok(text)
}

/// `serin demo --keep`, asked and told by kubectl and `serin` from outside.
pub async fn by_kubectl(bed: &Bed) -> Result<()> {
    let program = Program::new(beside("serin")?).args(["demo", "--plain", "--keep"]);
    let demo = Process::start("serin-demo", &program, &bed.state().join("logs"))?;
    let log = demo.log().to_owned();
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    bed.wait("the bad release to be taken back", PATIENCE, async || {
        Ok(read().contains("== 1.2.0 is taken back").then_some(()))
    })
    .await
    .with_context(|| format!("the demo said:\n{}", read()))?;
    let text = read();
    let first = text.lines().next().unwrap_or_default();
    ensure!(first.contains("This cluster is simulated"), "{first}");
    let kubeconfig = first
        .split_once("KUBECONFIG=")
        .context("the first line names no kubeconfig")?
        .1
        .trim();

    for (line, words) in [
        (
            "kubectl get canaries,deployments,pods,httproutes",
            &[
                "canary.flagger.app/shop",
                "Failed",
                "deployment.apps/shop-primary",
                "pod/shop-primary-",
                "httproute.gateway.networking.k8s.io/shop",
            ][..],
        ),
        (
            "kubectl describe canary shop",
            &["Events:", "Rolling back shop.demo"],
        ),
        (
            "kubectl edit canary shop",
            &["canary.flagger.app/shop edited"],
        ),
        (
            "kubectl get canary shop -o jsonpath={.spec.analysis.threshold}",
            &["3"],
        ),
        (
            "kubectl set env deployment/shop ERROR_RATE=0",
            &["deployment.apps/shop env updated"],
        ),
        ("serin wait shop --timeout 60s", &["is promoted"]),
        (
            "kubectl set image deployment/shop shop=shop:2.0.0",
            &["deployment.apps/shop image updated"],
        ),
        (
            "serin wait shop --for phase=Progressing --timeout 60s",
            &["is Progressing"],
        ),
        ("serin abort shop -m no", &["honoured"]),
        ("serin wait shop --for failed --timeout 60s", &["no"]),
        ("serin explain shop", &["Aborted by"]),
    ] {
        let line: Vec<&str> = line.split(' ').collect();
        let said = said(bed, kubeconfig, &line).await?;
        for word in words {
            ensure!(
                said.contains(word),
                "{} does not say {word:?}:\n{said}",
                line.join(" ")
            );
        }
    }
    demo.stop().await?;
    ensure!(
        !Path::new(kubeconfig).exists(),
        "the demo left {kubeconfig} behind"
    );
    Ok(())
}
