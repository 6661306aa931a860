//! The load tester as its users get it: installed by Helm in two replicas under the restricted profile, and called by the hooks of a canary
//! that has no other visitors than the ones it sends.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::ListParams;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::shop::{self, PATIENCE, Plan, Shop};
use crate::bed::parts::GATEWAY;
use crate::bed::process::{Process, Program, exit_code};
use crate::bed::{Bed, beside};
use crate::tools::project_root;

/// One pod of the load tester.
struct Tester {
    pod: String,
    base: String,
    http: reqwest::Client,
}

impl Tester {
    fn new(pod: String, base: String) -> Result<Self> {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(20))
            .build()?;
        Ok(Self { pod, base, http })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<(u16, String)> {
        let url = format!("{}{path}", self.base);
        let answer = self.http.post(url).body(body.to_string()).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The sum of the samples whose line has all these words.
    async fn counted(&self, words: &[&str]) -> Result<f64> {
        let url = format!("{}/metrics", self.base);
        let text = self.http.get(url).send().await?.text().await?;
        Ok(text
            .lines()
            .filter(|line| !line.starts_with('#') && words.iter().all(|word| line.contains(word)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// Ends the pod's process without a word; the kubelet starts it again.
    async fn kill(&self, bed: &Bed) -> Result<()> {
        let before = self.process()?;
        kill_process(before, Signal::KILL)?;
        let what = format!("{} to be back", self.pod);
        bed.wait(&what, Duration::from_secs(30), async || {
            let answer = self
                .http
                .get(format!("{}/healthz", self.base))
                .send()
                .await?;
            Ok((answer.status().is_success() && self.process()? != before).then_some(()))
        })
        .await
    }

    fn process(&self) -> Result<Pid> {
        let own = format!("POD_NAME={}", self.pod);
        let has = |path: std::path::PathBuf, word: &str| {
            std::fs::read(path).is_ok_and(|text| {
                text.split(|byte| *byte == 0)
                    .any(|found| found == word.as_bytes())
            })
        };
        std::fs::read_dir("/proc")?
            .flatten()
            .map(|process| process.path())
            .filter(|path| {
                has(path.join("cmdline"), "loadtester") && has(path.join("environ"), &own)
            })
            .find_map(|path| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?))
            .with_context(|| format!("no process of {}", self.pod))
    }
}

/// Installs the chart; its two pods.
async fn install(bed: &Bed, home: &str) -> Result<(Tester, Tester)> {
    bed.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {home}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
    ))
    .await?;
    let chart = project_root()?.join("charts/loadtester");
    let chart = chart.to_str().context("the path is not UTF-8")?;
    let told = bed
        .helm([
            "install",
            "loadtester",
            chart,
            "--namespace",
            home,
            "--wait",
            "--timeout",
            "90s",
            // All pods of the bed share one network.
            "--set",
            "bindAddress=$(POD_IP)",
            "--set",
            "replicaCount=2",
        ])
        .await?;
    ensure!(!told.contains("WARNING"), "{told}");
    let pods = bed.api_of("v1", "Pod", home).await?;
    let mut testers = Vec::new();
    for pod in pods.list(&ListParams::default()).await? {
        let ip = pod.data["status"]["podIP"].as_str().unwrap_or_default();
        testers.push(Tester::new(pod.name_any(), format!("http://{ip}:8080"))?);
    }
    match (testers.pop(), testers.pop(), testers.pop()) {
        (Some(one), Some(other), None) => Ok((one, other)),
        _ => anyhow::bail!("expected two pods"),
    }
}

/// The canary's hooks, with this test before the first visitor.
async fn hooks(shop: &Shop<'_>, tester: &Tester, test: &str) -> Result<()> {
    let load = format!("hey -z 1m -q 10 -c 2 -host {} {GATEWAY}/", shop.host);
    let hooks = json!([
        {"name": "test", "type": "pre-rollout", "url": tester.base, "timeout": "5s", "metadata": {"type": "bash", "cmd": test}},
        {"name": "load", "type": "rollout", "url": format!("{}/", tester.base), "metadata": {"cmd": load}},
        {"name": "gate", "type": "confirm-promotion", "url": format!("{}/gate/check", tester.base)},
    ]);
    let patch = json!({"spec": {"analysis": {"webhooks": hooks}}});
    shop.namespace
        .patch("flagger.app/v1beta1", "Canary", "app", &patch)
        .await
        .map(drop)
}

/// Load, a test and a gate for a canary; what needs a shell is refused; replicas agree and a restart keeps the gate.
pub async fn run(bed: &Bed) -> Result<()> {
    let mark = bed.audit_mark()?;
    shop::serin(bed).await?;
    let home = bed.scenario_namespace("loadtester-home").await?;
    let plan = Plan {
        analysis: json!({"threshold": 2, "stepWeight": 50, "maxWeight": 50}),
        rate: 0.0,
        ..Plan::default()
    };
    let (shop, (one, other)) = futures::try_join!(
        Shop::open(bed, "loadtester", plan),
        install(bed, home.name())
    )?;
    let canary = json!({"name": "app", "namespace": shop.namespace.name()});

    // A test that needs a program: refused, so the release goes back before anybody saw it.
    hooks(&shop, &one, "bats /tests/acceptance.bats").await?;
    shop.release("1.1.0").await?;
    shop.wait_phase("Failed").await?;
    let events = shop.events().await?;
    ensure!(
        events.iter().any(|event| event.contains("--allow-shell")),
        "no event says why the test was refused: {events:#?}"
    );

    // A test that needs none, and load without which there is nothing to judge.
    let test = format!(
        "curl -sf -H 'Host: {}' {GATEWAY}/ | grep 'version 1.0.0'",
        shop.host
    );
    hooks(&shop, &one, &test).await?;
    shop.release("1.2.0").await?;
    shop.wait_phase("WaitingPromotion").await?;
    let asked = one.counted(&["/gate/check", "code=\"403\""]).await?;
    bed.wait("the gate to be asked again", PATIENCE, async || {
        let now = one.counted(&["/gate/check", "code=\"403\""]).await?;
        Ok((now >= asked + 2.0).then_some(()))
    })
    .await?;
    ensure!(
        shop.status().await?["phase"] == "WaitingPromotion",
        "a closed gate holds"
    );
    let sent = one.counted(&["requests_total", "name=\"app\""]).await?;
    let fine = one
        .counted(&["requests_total", "name=\"app\"", "code=\"200\""])
        .await?;
    let running = one.counted(&["serin_loadtester_tasks_running "]).await?;
    ensure!(
        sent > 50.0 && (sent - fine).abs() < f64::EPSILON && (running - 1.0).abs() < f64::EPSILON,
        "{sent} requests, {fine} of them answered with 200, by {running} loads"
    );

    // Opened at one replica while the other, which the canary asks, is not there.
    let (opened, back) = futures::join!(other.post("/gate/open", &canary), one.kill(bed));
    back?;
    ensure!(opened?.0 == 202, "the gate could not be opened");
    shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.2.0",
        "the primary runs the release"
    );
    other.kill(bed).await?;
    for tester in [&one, &other] {
        let answer = tester.post("/gate/check", &canary).await?;
        ensure!(
            answer == (200, "Approved".to_owned()),
            "after its restart {} says {answer:?}",
            tester.pod
        );
    }
    ensure!(
        other.post("/gate/close", &canary).await?.0 == 202,
        "the gate could not be closed"
    );
    ensure!(
        one.post("/gate/check", &canary).await?.0 == 403,
        "replicas disagree"
    );

    let user = format!("system:serviceaccount:{}:loadtester", home.name());
    let audit = bed.audit_since(mark)?.of_user(&user);
    let surplus = audit.count(|request| {
        request.resource != "configmaps"
            || !["get", "patch"].contains(&request.verb.as_str())
            || request.code >= 400
    });
    ensure!(!audit.requests.is_empty() && surplus == 0, "{audit}");
    println!(
        "        {sent} requests of load before the gate; {} requests to the API server, to read and patch one ConfigMap",
        audit.requests.len()
    );
    ends_in_order(bed).await
}

/// SIGTERM stops a running load after its last answers, and the process ends with 0.
async fn ends_in_order(bed: &Bed) -> Result<()> {
    const PORT: u16 = 18_087;
    let program = Program::new(beside("serin")?).args([
        "loadtester",
        "--gates=memory",
        "--bind-address=127.0.0.1",
        &format!("-port={PORT}"),
    ]);
    let process = Process::start("loadtester", &program, &bed.state().join("logs"))?;
    let tester = Tester::new("loadtester".to_owned(), format!("http://127.0.0.1:{PORT}"))?;
    let body = json!({"name": "app", "namespace": "test", "metadata": {"cmd": format!("hey -z 1h -q 5 -c 1 {GATEWAY}/")}});
    bed.wait("a load to run", PATIENCE, async || {
        let (status, text) = tester.post("/", &body).await?;
        Ok((status == 202 && text.starts_with("running")).then_some(()))
    })
    .await?;
    let status = process.stop().await.context("stopping the load tester")?;
    ensure!(exit_code(status) == 0, "ended with {status}");
    Ok(())
}
