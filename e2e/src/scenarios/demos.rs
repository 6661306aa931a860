//! The two demos: the one of the real cluster tells its story on this bed, and the simulated one of `serin demo` answers kubectl and obeys keys as
//! docs/demo.md says.
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serin::demo::Screen;
use tokio::io::AsyncWriteExt;
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

/// `serin demo` on a terminal, whose keys release, promote, break and abort, and end it.
pub async fn by_keys(bed: &Bed) -> Result<()> {
    let log = bed.state().join("logs/serin-demo-keys.log");
    let typed = format!("stty cols 100 rows 40; {} demo", beside("serin")?.display());
    let mut demo = Command::new("script")
        .args(["-qefc", &typed, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&log)?)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start script (util-linux)")?;
    let mut keys = demo.stdin.take().context("no keyboard")?;
    let mut shown = 0;
    for (key, words) in [
        ("", "1.0.0 serves"),
        ("r", "is released: a good one"),
        ("", "Advance shop.demo canary weight 20"),
        ("p", "is promoted and serves everyone"),
        ("b", "is released: it fails 5 % of its requests"),
        ("", "Progressing"),
        ("a", "is taken back"),
    ] {
        keys.write_all(key.as_bytes()).await?;
        let what = format!("{words:?} on the screen after key {key:?}");
        shown = bed
            .wait(&what, PATIENCE, async || {
                let text = std::fs::read_to_string(&log)?;
                let found = text.get(shown..).and_then(|news| news.rfind(words));
                Ok(found.map(|_| text.len()))
            })
            .await?;
    }
    let text = std::fs::read_to_string(&log)?;
    ensure!(
        text.contains("Promotion completed!") && text.contains("aborted"),
        "{text}"
    );
    keys.write_all(b"q").await?;
    let status = tokio::time::timeout(PATIENCE, demo.wait()).await??;
    ensure!(status.success(), "the demo ended with {status}");
    Ok(())
}
