//! The asking and telling commands against a rollout that is really under way: what they show, and the exit codes that pipelines go by.
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::process::Command;

use super::shop::{self, PATIENCE, Plan, Shop};
use crate::bed::process::{Process, Program};
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
        self.serin_as("admin", arguments).await
    }

    async fn serin_as(&mut self, user: &str, arguments: &[&str]) -> Result<Said> {
        let everywhere = arguments.contains(&"-A");
        let output = Command::new(beside("serin")?)
            .args(arguments)
            .args(if everywhere {
                Vec::new()
            } else {
                vec!["-n", &self.namespace]
            })
            .env("KUBECONFIG", self.bed.kubeconfig(user))
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

    /// What a line says in a shell in which `serin`, `kubectl` and the plugin for it are found.
    async fn shell(&self, typed: &str) -> Result<String> {
        let serin = beside("serin")?;
        let folder = self.bed.state().join("plugins");
        std::fs::create_dir_all(&folder)?;
        for name in ["serin", "kubectl-serin"] {
            let link = folder.join(name);
            if !link.exists() {
                std::os::unix::fs::symlink(&serin, link)?;
            }
        }
        let kubectl = self.bed.tools().kubectl.parent().map(Path::to_owned);
        let known = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(folder)
            .chain(kubectl)
            .chain(std::env::split_paths(&known));
        let output = Command::new("bash")
            .args(["-ec", typed])
            .env("PATH", std::env::join_paths(path)?)
            .env("KUBECONFIG", self.bed.kubeconfig("admin"))
            .env("NO_COLOR", "1")
            .kill_on_drop(true)
            .output()
            .await
            .context("bash can't be started")?;
        ensure!(
            output.status.success(),
            "{typed}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts a command that goes on and shows every change, into a file.
    fn watching(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        let program = Program::new(beside("serin")?)
            .args(arguments)
            .args(["-n", &self.namespace])
            .env("KUBECONFIG", self.bed.kubeconfig("admin"));
        Process::start(name, &program, &self.bed.state().join("logs"))
    }
}

/// A person who may look at canaries and at nothing else.
const ONLOOKER: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: onlooker}
rules: [{apiGroups: [flagger.app], resources: [canaries], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: onlooker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: onlooker}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: somebody}]
";

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

    as_kubectl_does(t).await?;
    held_and_promoted(t, shop).await?;
    aborted_and_tried_again(t, shop).await?;

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

/// A release: looked at while it goes, held, and promoted by word.
async fn held_and_promoted(t: &mut Terminal<'_>, shop: &Shop<'_>) -> Result<()> {
    let table = t.watching("serin-watch", &["watch"])?;
    let screen = t.watching("serin-get-w", &["get", "app", "-w"])?;
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
    // Whoever may only look can say nothing.
    shop.namespace.apply(ONLOOKER).await?;
    let said = t.serin_as("somebody", &["get"]).await?;
    ensure!(said.code == 0 && said.text.contains("app"), "{}", said.text);
    let said = t.serin_as("somebody", &["abort", "app"]).await?;
    ensure!(
        said.code == 1 && said.text.contains("forbidden"),
        "{}: {}",
        said.code,
        said.text
    );
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
    for (shown, words) in [
        (&table, ["NAME", "Progressing", "Succeeded"]),
        (&screen, ["SIDE", "METRICS", "Succeeded"]),
    ] {
        let what = format!("{} to have shown {words:?}", shown.name());
        t.bed
            .wait(&what, PATIENCE, async || {
                let text = std::fs::read_to_string(shown.log())?;
                Ok(words.iter().all(|word| text.contains(word)).then_some(()))
            })
            .await?;
    }
    table.kill9().await?;
    screen.kill9().await?;

    Ok(())
}

/// The next one is aborted, and judged once more.
async fn aborted_and_tried_again(t: &mut Terminal<'_>, shop: &Shop<'_>) -> Result<()> {
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
    Ok(())
}

/// As a plugin, with kubectl's flags, and with names at the tabulator key.
async fn as_kubectl_does(t: &mut Terminal<'_>) -> Result<()> {
    let place = t.namespace.clone();
    let said = t.shell(&format!("kubectl serin get -n {place}")).await?;
    ensure!(
        said.contains("app") && said.contains("Initialized"),
        "{said}"
    );
    // Words for all of a label.
    let label = format!("kubectl -n {place} label canary app team=web");
    t.shell(&label).await?;
    for word in ["pause", "resume"] {
        t.expect(&[word, "-l", "team=web"], 0, &["honoured"])
            .await?;
    }
    let said = t.shell("kubectl serin get --help").await?;
    ensure!(said.contains("Usage: kubectl serin get"), "{said}");
    t.expect(&["get", "-A"], 0, &["NAMESPACE", &place, "app"])
        .await?;
    t.expect(&["get", "-l", "team=none"], 0, &["No canaries found"])
        .await?;
    t.expect(&["get", "--context", "bed"], 0, &["app"]).await?;
    t.expect(&["get", "--context", "elsewhere"], 1, &["elsewhere"])
        .await?;
    let press = format!(
        "source <(serin completion bash); COMP_WORDS=(serin abort -n {place} ''); COMP_CWORD=4; _serin; echo \"${{COMPREPLY[@]}}\""
    );
    let said = t.shell(&press).await?;
    ensure!(said.trim() == "app", "completed to {said:?}");
    Ok(())
}

fn project(path: &str) -> Result<String> {
    let root = crate::tools::project_root()?;
    Ok(Path::new(&root).join(path).display().to_string())
}
