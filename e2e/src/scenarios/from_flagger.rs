//! Taking over from Flagger, with visitors in the shops: Flagger itself brings its canaries into every phase, is killed, and Serin comes.
//! What counts is everything since the kill: no request lost, no new run, each run carried to its end. Afterwards the canary is deleted
//! with `revertOnDeletion`, and what Flagger had changed is the user's again.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use super::gates::Gates;
use super::handover::{condition, is_as_before, measured};
use super::shop::{self, PATIENCE, Plan, Shop, flawless};
use crate::bed::{Bed, beside};
use crate::load::Mark;

/// Requests per second on each shop; there are several.
const RATE: f64 = 30.0;

/// `analysis` of a shop under Flagger, whose shortest interval is ten seconds.
fn analysis(step: u32, most: u32, webhooks: &Value) -> Value {
    json!({"interval": "10s", "threshold": 1, "stepWeight": step, "maxWeight": most, "webhooks": webhooks})
}

/// What Serin may be judged by: everything since Flagger was killed.
struct Since<'s, 'b> {
    shop: &'s Shop<'b>,
    mark: Mark,
}

impl<'s, 'b> Since<'s, 'b> {
    fn now(shop: &'s Shop<'b>) -> Result<Self> {
        Ok(Self {
            shop,
            mark: shop.load()?.mark(),
        })
    }

    /// Prints the account since the kill, and expects it to be flawless.
    async fn flawless(&self, what: &str) -> Result<()> {
        let report = self.shop.load()?.settled_since(self.mark).await;
        measured(what, &report);
        flawless(&report).with_context(|| format!("{what}, since Flagger was killed"))
    }
}

/// How many runs Serin started by itself, by its events.
async fn runs_started(shop: &Shop<'_>) -> Result<usize> {
    let api = shop
        .bed
        .api_of("v1", "Event", shop.namespace.name())
        .await?;
    Ok(api
        .list(&ListParams::default())
        .await?
        .items
        .iter()
        .filter(|event| event.data["reason"] == "NewRevision")
        .count())
}

/// Waits until Serin has taken over a canary; gives its status.
async fn wait_adopted(shop: &Shop<'_>) -> Result<Value> {
    shop.bed
        .wait(
            &format!("{} to be taken over", shop.namespace.name()),
            PATIENCE,
            async || {
                let status = shop.status().await?;
                let ours = status["lastAppliedSpec"]
                    .as_str()
                    .is_some_and(|hash| hash.starts_with("s1:"));
                let adopted = shop
                    .events()
                    .await?
                    .iter()
                    .any(|text| text.contains("is taken over in phase"));
                Ok((adopted && (ours || status["promoted"].is_object())).then_some(status))
            },
        )
        .await
}

async fn phase(shop: &Shop<'_>) -> Result<String> {
    Ok(shop.status().await?["phase"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// Names of the primary's pods.
async fn primary_pods(shop: &Shop<'_>) -> Result<BTreeSet<String>> {
    let api = shop.bed.api_of("v1", "Pod", shop.namespace.name()).await?;
    Ok(api
        .list(&ListParams::default().labels("app=app-primary"))
        .await?
        .items
        .into_iter()
        .filter_map(|pod| pod.metadata.name)
        .collect())
}

/// What Flagger stamped the primary's pods with; another stamp would restart them.
async fn stamp(shop: &Shop<'_>) -> Result<String> {
    let primary = shop
        .namespace
        .get("apps/v1", "Deployment", "app-primary")
        .await?;
    Ok(
        primary.data["spec"]["template"]["metadata"]["annotations"]["flagger-id"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    )
}

/// The shops that Flagger leaves in mid-run.
fn plans_in_mid_run(gates: &Gates) -> [(&'static str, Plan); 4] {
    let usual = Plan {
        rate: RATE,
        spec: json!({"progressDeadlineSeconds": 180}),
        ..Plan::default()
    };
    [
        (
            "from-flagger-progressing",
            Plan {
                analysis: analysis(30, 90, &gates.hook("confirm-traffic-increase", "increase")),
                own_route: true,
                ..usual.clone()
            },
        ),
        (
            "from-flagger-waiting",
            Plan {
                analysis: analysis(30, 60, &gates.hook("confirm-promotion", "promotion")),
                own_route: true,
                ..usual.clone()
            },
        ),
        (
            "from-flagger-promoting",
            Plan {
                analysis: analysis(50, 50, &gates.hook("confirm-promotion", "promoting")),
                // The primary takes long to roll, so that the phase lasts.
                environment: vec![("SHUTDOWN_DELAY_MS", "8000"), ("START_DELAY_MS", "25000")],
                ..usual.clone()
            },
        ),
        (
            "from-flagger-finalising",
            Plan {
                analysis: analysis(50, 50, &gates.hook("confirm-promotion", "finalising")),
                ..usual
            },
        ),
    ]
}

/// Waits for the end of the run that Flagger began, and checks that it was one run.
async fn promoted_in_one_run(shop: &Shop<'_>) -> Result<()> {
    let canary = shop
        .namespace
        .wait_phase("app", "Succeeded", PATIENCE * 2)
        .await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "{}: the run went on to its promotion",
        shop.namespace.name()
    );
    shop.wait_route((100, 0)).await?;
    shop.wait_only("1.1.0").await?;
    let history = &canary.data["status"]["history"];
    ensure!(
        history.as_array().map_or(0, Vec::len) == 1 && history[0]["outcome"] == "Promoted",
        "{}: one run, to its end: {history}",
        shop.namespace.name()
    );
    ensure!(
        runs_started(shop).await? == 0,
        "{}: no run was started anew",
        shop.namespace.name()
    );
    Ok(())
}

/// Four runs under way: at 30 % of the traffic, waiting for promotion at 60 %, promoting, finalising.
pub async fn in_mid_run(bed: &Bed) -> Result<()> {
    let gates = Gates::start().await?;
    let flagger = bed.start_flagger()?;
    for name in ["promotion", "promoting", "finalising"] {
        gates.close(name);
    }
    let shops: Vec<Shop<'_>> =
        try_join_all(plans_in_mid_run(&gates).map(|(name, plan)| Shop::open(bed, name, plan)))
            .await?;
    let [progressing, waiting, promoting, finalising] = shops.as_slice() else {
        anyhow::bail!("four shops are expected");
    };
    for shop in &shops {
        shop.release("1.1.0").await?;
    }
    progressing.wait_weight(30).await?;
    gates.close("increase");
    for shop in [waiting, promoting, finalising] {
        shop.namespace
            .wait_phase("app", "WaitingPromotion", PATIENCE * 2)
            .await?;
    }
    // Promoting lasts as long as the primary rolls, Finalising one look of Flagger's.
    gates.open("promoting");
    promoting.wait_phase("Promoting").await?;
    gates.open("finalising");
    finalising.wait_phase("Finalising").await?;
    flagger.kill9().await?;
    bed.timeline().note("", "killed Flagger");
    let expected = [
        ("Progressing", (70, 30)),
        ("WaitingPromotion", (40, 60)),
        ("Promoting", (50, 50)),
        ("Finalising", (100, 0)),
    ];
    for (shop, (wanted, route)) in shops.iter().zip(expected) {
        let (found, split) = (phase(shop).await?, shop.route().await?);
        ensure!(
            found == wanted && split == route,
            "Flagger was meant to leave {} in {wanted} at {route:?}, and left it in {found} at {split:?}",
            shop.namespace.name()
        );
        println!("        left by Flagger: {found} at {split:?}");
    }
    let marks = shops.iter().map(Since::now).collect::<Result<Vec<_>>>()?;
    let stamps = [stamp(promoting).await?, stamp(finalising).await?];
    shop::serin(bed).await?;
    for shop in &shops {
        wait_adopted(shop).await?;
    }
    // Behind their gates the two stay as they are: same phase, same split.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let share = progressing.wait_split("1.1.0", 30).await?;
    println!(
        "        taken over at {:.1} % of the answers",
        share * 100.0
    );
    waiting.wait_split("1.1.0", 60).await?;
    for (shop, (wanted, route)) in shops.iter().zip(expected).take(2) {
        let status = shop.status().await?;
        ensure!(
            status["phase"] == wanted && shop.route().await? == route,
            "{} is in {wanted} at {route:?} still: {status}",
            shop.namespace.name()
        );
        ensure!(
            status["failedChecks"] == 0,
            "and nothing was counted against it: {status}"
        );
    }
    gates.open("increase");
    gates.open("promotion");
    for shop in &shops {
        promoted_in_one_run(shop).await?;
    }
    ensure!(
        stamps == [stamp(promoting).await?, stamp(finalising).await?],
        "a primary that Flagger had promoted is not rolled once more"
    );
    for (since, (phase, _)) in marks.iter().zip(expected) {
        since.flawless(&format!("taken over in {phase}")).await?;
    }
    drop(marks);
    // Released once more, now under Serin alone, then given back: Service and route were the user's before Flagger came.
    for shop in shops.into_iter().take(2) {
        give_back(bed, shop).await?;
    }
    Ok(())
}

/// Deletes the canary with `revertOnDeletion`, under load: what Flagger had changed is as it was.
async fn give_back(bed: &Bed, shop: Shop<'_>) -> Result<()> {
    let since = Since::now(&shop)?;
    shop.namespace
        .patch(
            "flagger.app/v1beta1",
            "Canary",
            "app",
            &json!({"spec": {"revertOnDeletion": true}}),
        )
        .await?;
    let canaries = bed
        .api_of("flagger.app/v1beta1", "Canary", shop.namespace.name())
        .await?;
    bed.wait("the finalizer", PATIENCE, async || {
        let canary = canaries.get("app").await?;
        Ok(canary
            .metadata
            .finalizers
            .is_some_and(|names| names.iter().any(|name| name == "finalizer.flagger.app"))
            .then_some(()))
    })
    .await?;
    canaries.delete("app", &DeleteParams::background()).await?;
    bed.wait("the canary to be gone", PATIENCE, async || {
        Ok(canaries.get_opt("app").await?.is_none().then_some(()))
    })
    .await?;
    is_as_before(&shop).await?;
    ensure!(
        shop.replicas("app").await? == 2,
        "the target has its replicas"
    );
    // Collected pods serve on for a while.
    tokio::time::sleep(Duration::from_secs(12)).await;
    since.flawless("given back").await
}

/// The shops that Flagger leaves at rest.
fn plans_at_rest(gates: &Gates) -> [(&'static str, Plan); 5] {
    let usual = Plan {
        rate: RATE,
        analysis: analysis(50, 50, &json!([])),
        ..Plan::default()
    };
    [
        ("from-flagger-at-rest-initialized", usual.clone()),
        ("from-flagger-at-rest-succeeded", usual.clone()),
        ("from-flagger-at-rest-failed", usual.clone()),
        (
            "from-flagger-at-rest-waiting",
            Plan {
                analysis: analysis(50, 50, &gates.hook("confirm-rollout", "rollout")),
                ..usual.clone()
            },
        ),
        (
            "from-flagger-at-rest-held",
            Plan {
                spec: json!({"progressDeadlineSeconds": 20}),
                ..usual
            },
        ),
    ]
}

/// After a failed promotion: the canary has the traffic and its pods, and what can be done is said.
async fn still_held(held: &Shop<'_>) -> Result<()> {
    held.wait_route((0, 100)).await?;
    held.wait_only("1.1.0").await?;
    ensure!(
        held.replicas("app").await? == 2,
        "the only healthy side keeps its pods"
    );
    let status = held.status().await?;
    let (_, _, message) = condition(&status, "Promoted");
    ensure!(
        message.contains("Release a fixed revision"),
        "what can be done is said: {message:?}"
    );
    Ok(())
}

async fn tell_what_was_left(shops: &[Shop<'_>]) -> Result<()> {
    for shop in shops {
        let (phase, split) = (phase(shop).await?, shop.route().await?);
        println!("        left by Flagger: {phase} at {split:?}");
    }
    Ok(())
}

/// `serin migrate check` reads this cluster and says of each canary that it will be taken over.
async fn foretold(bed: &Bed, shops: &[Shop<'_>]) -> Result<()> {
    let output = tokio::process::Command::new(beside("serin")?)
        .args(["migrate", "check", "--mesh-provider", "gatewayapi:v1"])
        .env("KUBECONFIG", bed.kubeconfig("admin"))
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let all = shops
        .iter()
        .all(|shop| said.contains(&format!("{}/app: taken over\n", shop.namespace.name())));
    ensure!(
        output.status.success() && all && said.contains(", 0 left alone"),
        "serin migrate check: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Five canaries that rest, or wait for somebody: Initialized, Succeeded, Failed, Waiting, and Failed after a promotion that failed.
pub async fn at_rest(bed: &Bed) -> Result<()> {
    let gates = Gates::start().await?;
    let flagger = bed.start_flagger()?;
    let shops: Vec<Shop<'_>> =
        try_join_all(plans_at_rest(&gates).map(|(name, plan)| Shop::open(bed, name, plan))).await?;
    let [initialized, succeeded, failed, waiting, held] = shops.as_slice() else {
        anyhow::bail!("five shops are expected");
    };
    gates.close("rollout");
    succeeded.release("1.1.0").await?;
    failed
        .release_with("1.2.0", &[("ERROR_RATE", "0.5")])
        .await?;
    waiting.release("1.1.0").await?;
    super::handover::release_licensed(held, "1.1.0", Some(20)).await?;
    held.wait_weight(50).await?;
    super::handover::licence(held, "1").await?;
    for (shop, phase) in [
        (succeeded, "Succeeded"),
        (failed, "Failed"),
        (waiting, "Waiting"),
        (held, "Failed"),
    ] {
        shop.namespace
            .wait_phase("app", phase, PATIENCE * 2)
            .await?;
    }
    held.wait_route((0, 100)).await?;
    flagger.kill9().await?;
    bed.timeline().note("", "killed Flagger");
    tell_what_was_left(&shops).await?;
    foretold(bed, &shops).await?;
    let marks = shops.iter().map(Since::now).collect::<Result<Vec<_>>>()?;
    let mut pods = BTreeMap::new();
    for shop in [initialized, succeeded, failed, waiting] {
        pods.insert(shop.namespace.name(), primary_pods(shop).await?);
    }
    // Nobody looks; Serin has to find out by itself.
    succeeded.release("1.1.1").await?;
    shop::serin(bed).await?;
    for shop in &shops {
        wait_adopted(shop).await?;
    }
    tokio::time::sleep(Duration::from_secs(12)).await;
    for (shop, wanted) in [
        (initialized, "Initialized"),
        (failed, "Failed"),
        (waiting, "Waiting"),
        (held, "Failed"),
    ] {
        let found = phase(shop).await?;
        ensure!(
            found == wanted,
            "{} rests in {wanted}, not in {found}",
            shop.namespace.name()
        );
        ensure!(
            runs_started(shop).await? == 0,
            "{}: no run was started",
            shop.namespace.name()
        );
    }
    for shop in [initialized, failed, waiting] {
        ensure!(
            pods[shop.namespace.name()] == primary_pods(shop).await?,
            "{}: no pod of the primary was restarted",
            shop.namespace.name()
        );
    }
    still_held(held).await?;

    gates.open("rollout");
    held.release("1.1.1").await?;
    for (shop, version) in [(succeeded, "1.1.1"), (waiting, "1.1.0"), (held, "1.1.1")] {
        bed.wait(
            &format!("{} to be promoted", shop.namespace.name()),
            PATIENCE * 2,
            async || {
                let image = shop.image("app-primary").await?;
                Ok((image == format!("serin-demo-app:{version}")
                    && phase(shop).await? == "Succeeded")
                    .then_some(()))
            },
        )
        .await?;
        shop.wait_only(version).await?;
    }
    for (since, phase) in marks.iter().zip([
        "Initialized",
        "Succeeded, with a release that nobody saw",
        "Failed",
        "Waiting",
        "Failed after a failed promotion",
    ]) {
        since.flawless(&format!("taken over in {phase}")).await?;
    }
    Ok(())
}

/// The way back: Serin is stopped, at rest and in mid-run, and Flagger goes on. It can't know Serin's hashes, so it judges once more what is
/// there; nothing is lost by that. Then Serin comes back.
pub async fn back(bed: &Bed) -> Result<()> {
    let serin = shop::start_serin(bed)?;
    let plan = Plan {
        rate: RATE,
        analysis: analysis(50, 50, &json!([])),
        ..Plan::default()
    };
    let shops: Vec<Shop<'_>> = try_join_all(
        ["back-to-flagger-at-rest", "back-to-flagger-progressing"]
            .map(|name| Shop::open(bed, name, plan.clone())),
    )
    .await?;
    let [rests, progressing] = shops.as_slice() else {
        anyhow::bail!("two shops are expected");
    };
    rests.release("1.1.0").await?;
    rests.wait_phase("Succeeded").await?;
    progressing.release("1.1.0").await?;
    progressing.wait_weight(50).await?;
    progressing.wait_split("1.1.0", 50).await?;
    serin.stop().await?;
    bed.timeline().note("", "stopped Serin");
    let marks = shops.iter().map(Since::now).collect::<Result<Vec<_>>>()?;
    let flagger = bed.start_flagger()?;
    for (shop, what) in shops.iter().zip(["at rest", "in mid-run"]) {
        bed.wait(
            &format!("{} to be Flagger's and promoted", shop.namespace.name()),
            PATIENCE * 2,
            async || {
                let status = shop.status().await?;
                let flaggers = status["lastPromotedSpec"]
                    .as_str()
                    .is_some_and(|hash| !hash.starts_with("s1:"));
                Ok((flaggers && status["phase"] == "Succeeded").then_some(()))
            },
        )
        .await?;
        shop.wait_only("1.1.0").await?;
        let restarted = shop
            .events()
            .await?
            .iter()
            .filter(|text| text.starts_with("New revision detected!"))
            .count();
        println!("        back to Flagger {what}: runs told of so far {restarted}");
    }
    for (since, what) in marks.iter().zip(["at rest", "in mid-run"]) {
        since.flawless(&format!("back to Flagger, {what}")).await?;
    }
    flagger.kill9().await?;
    bed.timeline().note("", "killed Flagger");
    shop::serin(bed).await?;
    for shop in &shops {
        wait_adopted(shop).await?;
        shop.release("1.2.0").await?;
        shop.wait_phase("Progressing").await?;
    }
    for shop in &shops {
        shop.wait_phase("Succeeded").await?;
        shop.wait_only("1.2.0").await?;
    }
    for since in &marks {
        since.flawless("and Serin again").await?;
    }
    Ok(())
}
