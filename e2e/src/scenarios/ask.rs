//! The asking and telling commands against a rollout that is really under way: what they show, and the exit codes that pipelines go by.
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::process::Command;

use super::shop::{self, Plan, Shop};
use crate::bed::{Bed, beside};

/// What a command said and how it ended.
struct Said {
    code: i32,
    text: String,
}

/// `serin` as a person would call it, with what was said kept for the documentation.
struct Terminal<'a> {
    bed: &'a Bed,
    namespace: String,
    transcript: String,
}

impl Terminal<'_> {
    async fn serin(&mut self, arguments: &[&str]) -> Result<Said> {
        let output = Command::new(beside("serin")?)
            .args(arguments)
            .args(["-n", &self.namespace])
            .env("KUBECONFIG", self.bed.kubeconfig("admin"))
            .env("NO_COLOR", "1")
            .kill_on_drop(true)
            .output()
            .await
            .context("serin can't be started")?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let code = output.status.code().unwrap_or(-1);
        writeln!(
            self.transcript,
            "$ serin {}\n{text}[{code}]\n",
            arguments.join(" ")
        )?;
        Ok(Said { code, text })
    }

    /// Runs a command that must end with `code` and say each of `words`.
    async fn expect(&mut self, arguments: &[&str], code: i32, words: &[&str]) -> Result<String> {
        let said = self.serin(arguments).await?;
        ensure!(
            said.code == code,
            "serin {} ended with {}, expected {code}:\n{}",
            arguments.join(" "),
            said.code,
            said.text
        );
        for word in words {
            ensure!(
                said.text.contains(word),
                "serin {} does not say {word:?}:\n{}",
                arguments.join(" "),
                said.text
            );
        }
        Ok(said.text)
    }
}

/// A rollout is watched, explained, paused, resumed, promoted; the next one is aborted and tried again.
pub async fn run(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        analysis: json!({"threshold": 2, "stepWeight": 20, "maxWeight": 80}),
        rate: 50.0,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "ask", plan).await?;
    let mut terminal = Terminal {
        bed,
        namespace: shop.namespace.name().to_owned(),
        transcript: String::new(),
    };
    let told = tell(&mut terminal, &shop).await;
    let transcript = bed.state().join("ask.txt");
    std::fs::write(&transcript, &terminal.transcript)?;
    shop.note(format!("the transcript is in {}", transcript.display()));
    told.with_context(|| format!("what was said before:\n{}", terminal.transcript))?;
    shop.close().await?;
    Ok(())
}

async fn tell(terminal: &mut Terminal<'_>, shop: &Shop<'_>) -> Result<()> {
    let t = terminal;
    t.expect(&["get"], 0, &["NAME", "app", "Initialized"])
        .await?;
    t.expect(&["abort", "app"], 6, &["refused", "no run is under way"])
        .await?;
    t.expect(
        &["wait", "app", "--for=initialized", "--timeout=5s"],
        0,
        &["is initialised"],
    )
    .await?;

    // A release: looked at while it goes, held, and promoted by word.
    shop.release("1.1.0").await?;
    t.expect(&["wait", "app", "--timeout=1s", "-q"], 4, &[])
        .await?;
    // The second step is the first that was measured for.
    shop.wait_weight(40).await?;
    t.expect(&["pause", "app", "-m", "lunch"], 0, &["honoured"])
        .await?;
    t.expect(
        &["get", "app"],
        0,
        &[
            "SIDE", "primary", "canary", "STEPS", "METRICS", "EVENTS", "ready",
        ],
    )
    .await?;
    t.expect(
        &["explain", "app"],
        0,
        &["Where", "Waits", "Paused by", "lunch"],
    )
    .await?;
    t.expect(&["get", "-o", "name"], 0, &["canary.flagger.app/app"])
        .await?;
    let object: serde_json::Value =
        serde_json::from_str(&t.expect(&["get", "app", "-ojson"], 0, &[]).await?)?;
    ensure!(object["kind"] == "Canary", "-o json gives the object");
    t.expect(&["resume", "app"], 0, &["honoured"]).await?;
    t.expect(
        &["promote", "app", "-m", "tested by hand"],
        0,
        &["honoured"],
    )
    .await?;
    t.expect(&["wait", "app", "--timeout=90s"], 0, &["is promoted"])
        .await?;
    shop.wait_only("1.1.0").await?;

    // The next one is aborted, and judged once more.
    shop.release("1.2.0").await?;
    shop.wait_weight(20).await?;
    t.expect(
        &["abort", "app", "-m", "checkout is broken"],
        0,
        &["honoured"],
    )
    .await?;
    t.expect(
        &["wait", "app", "--timeout=90s"],
        3,
        &["Aborted by", "checkout is broken"],
    )
    .await?;
    shop.wait_only("1.1.0").await?;
    t.expect(
        &["history", "app"],
        0,
        &["RolledBack", "Promoted", "checkout is broken"],
    )
    .await?;
    t.expect(&["explain", "app", "--run", "2"], 0, &["Words", "abort"])
        .await?;
    t.expect(
        &["explain", "app", "--run", "77"],
        1,
        &["remembers no run 77"],
    )
    .await?;
    t.expect(&["retry", "app"], 0, &["honoured"]).await?;
    t.expect(&["skip-analysis", "app"], 0, &["honoured"])
        .await?;
    t.expect(&["wait", "app", "--timeout=90s"], 0, &["is promoted"])
        .await?;
    t.expect(&["get", "nobody"], 1, &["not found"]).await?;

    // Files need no cluster.
    let slips = project("tests/fixtures/lint/shop.yaml")?;
    t.expect(
        &["lint", &slips, "-o", "github"],
        1,
        &["::error file=", "did you mean stepWeight"],
    )
    .await?;
    let examples = project("examples")?;
    t.expect(&["lint", &examples], 0, &["0 errors"]).await?;
    Ok(())
}

fn project(path: &str) -> Result<String> {
    let root = crate::tools::project_root()?;
    Ok(Path::new(&root).join(path).display().to_string())
}
