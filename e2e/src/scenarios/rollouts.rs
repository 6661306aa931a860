//! The main job, told with visitors in the shop: good and bad releases, changes of mind, and what people do to a cluster meanwhile.
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::planes::CROWD;
use super::shop::{
    self, Gateway, INTERVAL, PATIENCE, Plan, Shop, flawless, last_cause, only_failed,
};
use super::stays::Stays;
use crate::bed::Bed;
use crate::bed::parts::Part;
use crate::bed::process::Process;
use crate::figures::{Figures, in_words};

/// (a) A good release is promoted with the weights that were asked for, and no request fails.
pub async fn good_release(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let stays = Stays::start().await?;
    let plan = Plan {
        analysis: json!({"threshold": 2, "stepWeight": 20, "maxWeight": 60, "webhooks": stays.hooks()}),
        rate: CROWD,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "good-release", plan).await?;
    shop.release("1.1.0").await?;
    let mut shares = Vec::new();
    for weight in [20, 40, 60] {
        shop.wait_weight(weight).await?;
        stays.hold();
        shares.push(stays.measure(&shop, "1.1.0", weight).await?);
    }
    let canary = shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "the primary runs the release"
    );
    ensure!(
        shop.replicas("app").await? == 0,
        "the target is scaled to zero"
    );
    ensure!(
        canary.data["status"]["canaryWeight"] == 0,
        "{}",
        canary.data["status"]
    );
    ensure!(
        shop.route().await? == (100, 0),
        "all traffic is on the primary"
    );
    shop.wait_only("1.1.0").await?;
    let whole = shop.close().await?;
    let figures = Figures::new(
        "gatewayapi:v1, HTTPRoute",
        Gateway::Traefik.name(),
        &whole,
        0,
        in_words(&shares),
    );
    bed.figures().note("good-release", figures);
    flawless(&whole)
}

/// (b) A release with 5 % errors is rolled back; only the canary's own answers failed.
pub async fn bad_release(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let shop = Shop::open(bed, "bad-release", Plan::default()).await?;
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.05")])
        .await?;
    let canary = shop.wait_phase("Failed").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.0.0",
        "the primary is what it was"
    );
    ensure!(
        shop.route().await? == (100, 0),
        "all traffic is on the primary"
    );
    let cause = canary.data["status"]["history"][0]["cause"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        cause.contains("success rate"),
        "the cause names what was measured: {cause:?}"
    );
    shop.wait_only("1.0.0").await?;
    let report = shop.close().await?;
    ensure!(
        report.failed_of("1.2.0") > 0,
        "the bad release did fail requests"
    );
    only_failed(&report, "1.2.0")
}

/// (c) Pods that never become ready: the run fails after the deadline, and nobody notices.
pub async fn never_ready(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        spec: json!({"progressDeadlineSeconds": 15}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "never-ready", plan).await?;
    shop.release_with("1.3.0", &[("NEVER_READY", "1")]).await?;
    shop.wait_phase("Progressing").await?;
    let canary = shop.wait_phase("Failed").await?;
    let cause = canary.data["status"]["history"][0]["cause"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        cause.contains("not ready"),
        "the cause says that pods were not ready: {cause:?}"
    );
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.0.0",
        "the primary is what it was"
    );
    flawless(&shop.close().await?)
}

/// Pods that crash, and pods whose image is not to be had: what they said is kept for those who come when they are gone.
pub async fn last_words(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        spec: json!({"progressDeadlineSeconds": 12}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "last-words", plan).await?;
    shop.release_with("1.4.0", &[("CRASH_AFTER_MS", "10")])
        .await?;
    told_after_the_end(&shop, &["CrashLoopBackOff", "exit code 1"]).await?;
    shop.release("missing").await?;
    told_after_the_end(&shop, &["ImagePullBackOff"]).await?;
    flawless(&shop.close().await?)
}

/// Waits until a run that is about to begin has failed and its pods are gone, and looks for these words in its cause and in an event.
async fn told_after_the_end(shop: &Shop<'_>, words: &[&str]) -> Result<()> {
    shop.wait_phase("Progressing").await?;
    let canary = shop.wait_phase("Failed").await?;
    let cause = last_cause(&canary);
    shop.bed
        .wait("the failed pods to be gone", PATIENCE, async || {
            Ok((shop.replicas("app").await? == 0).then_some(()))
        })
        .await?;
    let events = shop.events().await?;
    for word in words {
        ensure!(cause.contains(word), "the cause says {word}: {cause}");
        ensure!(
            events
                .iter()
                .any(|event| event.starts_with("Pods of app") && event.contains(word)),
            "an event says {word}: {events:#?}"
        );
    }
    Ok(())
}

/// (d) A newer revision in mid-run: the analysis restarts on it, and it is the one that is promoted.
pub async fn change_of_mind(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let shop = Shop::open(bed, "change-of-mind", Plan::default()).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(40).await?;
    shop.release("1.1.1").await?;
    bed.wait(
        "the traffic to be back on the primary",
        PATIENCE,
        async || Ok((shop.route().await? == (100, 0)).then_some(())),
    )
    .await?;
    let canary = shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.1",
        "the newer revision is promoted"
    );
    ensure!(
        canary.data["status"]["history"][0]["outcome"] == "Superseded",
        "{}",
        canary.data["status"]["history"]
    );
    ensure!(
        shop.events()
            .await?
            .iter()
            .any(|text| text.starts_with("New revision detected! Restarting analysis for app.")),
        "an event says that the analysis restarts"
    );
    flawless(&shop.close().await?)
}

/// (e) The controller is killed at every phase, at least ten times in one rollout: same end, no step twice within an interval, nothing
/// lost.
pub async fn killed_controller(bed: &Bed) -> Result<()> {
    let mut serin = shop::start_serin(bed)?;
    let mut hit = BTreeSet::new();
    let mut opening = Box::pin(Shop::open(bed, "killed-controller", Plan::default()));
    let shop = loop {
        tokio::select! {
            shop = &mut opening => break shop?,
            () = tokio::time::sleep(Duration::from_millis(900)) => {
                serin.kill9().await?;
                hit.insert("Initializing".to_owned());
                serin = shop::start_serin(bed)?;
            }
        }
    };
    let wanted = ["Initializing", "Progressing", "Promoting", "Finalising"];
    // One rollout has its ten kills; a phase that was too short to be hit in it is hit in the next.
    for version in ["1.1.0", "1.1.1", "1.1.2", "1.1.3"] {
        serin = one_killed_rollout(bed, &shop, serin, version, &mut hit).await?;
        if wanted.iter().all(|phase| hit.contains(*phase)) {
            break;
        }
    }
    ensure!(
        wanted.iter().all(|phase| hit.contains(*phase)),
        "the controller was killed only in {hit:?}"
    );
    bed.wait("the last controller to be at work", PATIENCE, async || {
        Ok(std::fs::read_to_string(serin.log())?
            .contains("the cache is ready")
            .then_some(()))
    })
    .await?;
    let status = serin.stop().await?;
    ensure!(
        status.success(),
        "a controller that is asked to stop ends with 0, not {status}"
    );
    flawless(&shop.close().await?)
}

/// Kills and restarts the controller until the release is promoted; adds the phases in which it was hit.
async fn one_killed_rollout(
    bed: &Bed,
    shop: &Shop<'_>,
    mut serin: Process,
    version: &str,
    hit: &mut BTreeSet<String>,
) -> Result<Process> {
    shop.release(version).await?;
    let mut kills = 0;
    let mut steps: Vec<(Instant, i64)> = Vec::new();
    let started = Instant::now();
    let mut under_way = false;
    loop {
        let status = shop.status().await?;
        let phase = status["phase"].as_str().unwrap_or_default().to_owned();
        let weight = status["canaryWeight"].as_i64().unwrap_or(0);
        if weight > 0 && steps.last().is_none_or(|(_, last)| weight > *last) {
            steps.push((Instant::now(), weight));
        }
        under_way |= phase == "Progressing";
        if under_way && phase == "Succeeded" {
            break;
        }
        ensure!(phase != "Failed", "the run failed: {status}");
        ensure!(
            started.elapsed() < PATIENCE * 2,
            "the run does not end: {status}"
        );
        // A new controller gets a moment that differs from kill to kill, so that it is hit at different points of its work.
        tokio::time::sleep(Duration::from_millis(300 + 170 * (kills % 7))).await;
        let phase = shop.status().await?["phase"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        serin.kill9().await?;
        kills += 1;
        shop.note(format!(
            "killed the controller for the {kills}. time, in {phase}"
        ));
        hit.insert(phase);
        serin = shop::start_serin(bed)?;
    }
    ensure!(kills >= 10, "killed only {kills} times");
    let weights: Vec<i64> = steps.iter().map(|(_, weight)| *weight).collect();
    ensure!(
        weights == [20, 40, 60],
        "the steps were taken once each: {weights:?}"
    );
    for pair in steps.windows(2) {
        let stay = pair[1].0 - pair[0].0;
        // Both ends are seen by looks that are up to two seconds apart.
        ensure!(
            stay + Duration::from_secs(2) >= INTERVAL,
            "a step lasted only {stay:?}"
        );
    }
    let image = shop.image("app-primary").await?;
    ensure!(
        image == format!("serin-demo-app:{version}"),
        "the primary runs {image}"
    );
    println!("        killed {kills} times while {version} was rolled out");
    Ok(serin)
}

/// (f) Prometheus is gone for three intervals: the run waits, says so, and goes on.
pub async fn no_metrics(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let shop = Shop::open(bed, "no-metrics", Plan::default()).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    bed.stop_part(Part::Prometheus).await?;
    shop.note("stopped Prometheus".to_owned());
    let held = bed
        .wait("the run to say that it waits", PATIENCE, async || {
            let status = shop.status().await?;
            Ok(status["run"]["noDataSince"].is_string().then_some(status))
        })
        .await?;
    let weight = held["canaryWeight"].clone();
    tokio::time::sleep(INTERVAL * 3).await;
    let status = shop.status().await?;
    ensure!(
        status["canaryWeight"] == weight && status["phase"] == "Progressing",
        "the step holds: {status}"
    );
    ensure!(
        status["failedChecks"] == 0,
        "a metrics server that is down is not a failed check: {status}"
    );
    bed.start_part(Part::Prometheus).await?;
    shop.note("started Prometheus".to_owned());
    shop.wait_phase("Succeeded").await?;
    flawless(&shop.close().await?)
}

/// Prometheus is gone all the time: the pages of the canary's own pods are enough to promote a good release and to roll a bad one back.
pub async fn without_prometheus(bed: &Bed) -> Result<()> {
    bed.stop_part(Part::Prometheus).await?;
    shop::serin(bed).await?;
    let spec = json!({"metricsServer": "scrape"});
    judged_by_pods(bed, "without-prometheus", spec).await?;
    bed.start_part(Part::Prometheus).await
}

/// The pages of the canary's pods promote a good release and roll a bad one back.
pub async fn judged_by_pods(bed: &Bed, story: &str, spec: serde_json::Value) -> Result<()> {
    let began = Instant::now();
    let plan = Plan {
        spec,
        ..Plan::default()
    };
    let shop = Shop::open(bed, story, plan).await?;
    shop.release("1.1.0").await?;
    let canary = shop.wait_phase("Succeeded").await?;
    measured_by_pods(&canary.data["status"])?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "the primary runs the good release"
    );
    shop.wait_only("1.1.0").await?;
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.05")])
        .await?;
    let canary = shop.wait_phase("Failed").await?;
    measured_by_pods(&canary.data["status"])?;
    let cause = canary.data["status"]["history"][1]["cause"].to_string();
    ensure!(
        cause.contains("success rate 9"),
        "the cause has what was measured, about 95 %: {cause}"
    );
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "the primary is what it was"
    );
    shop.wait_only("1.1.0").await?;
    println!(
        "        promoted and rolled back without Prometheus within {:?}",
        began.elapsed()
    );
    only_failed(&shop.close().await?, "1.2.0")
}

/// Nobody scrapes the app: the gateway's own series are found and chosen, judge a good release and a bad one, and the choice is told.
pub async fn gateway_metrics(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        scraped: false,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "gateway-metrics", plan).await?;
    shop.release("1.1.0").await?;
    let canary = shop.wait_phase("Succeeded").await?;
    let observed = canary.data["status"]["observed"].clone();
    for check in ["request-success-rate", "request-duration"] {
        ensure!(
            observed[check]
                .as_str()
                .is_some_and(|told| told.starts_with("traefik-gateway: ")),
            "the gateway's series were chosen for {check}: {observed}"
        );
    }
    shop.wait_only("1.1.0").await?;
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.05")])
        .await?;
    let canary = shop.wait_phase("Failed").await?;
    let cause = canary.data["status"]["history"][1]["cause"].to_string();
    ensure!(
        cause.contains("success rate 9"),
        "the cause has what was measured, about 95 %: {cause}"
    );
    shop.wait_only("1.1.0").await?;
    only_failed(&shop.close().await?, "1.2.0")
}

/// Both built-in metrics have values, and the pods gave them.
fn measured_by_pods(status: &serde_json::Value) -> Result<()> {
    let metrics = status["metrics"].as_array().cloned().unwrap_or_default();
    ensure!(metrics.len() == 2, "two metrics were measured: {status}");
    for metric in metrics {
        ensure!(
            metric["provider"] == "scrape" && metric["value"].is_string(),
            "measured on the pods: {metric}"
        );
    }
    Ok(())
}

/// (g) Weights edited by hand in mid-run are put back within a second, and an event names the editor.
pub async fn edited_route(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        analysis: json!({"interval": "6s", "threshold": 2, "stepWeight": 20, "maxWeight": 40}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "edited-route", plan).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    bed.wait("the route at 20", PATIENCE, async || {
        Ok((shop.route().await? == (80, 20)).then_some(()))
    })
    .await?;
    let routes = bed
        .api_of(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            shop.namespace.name(),
        )
        .await?;
    let patch = json!([
        {"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 5},
        {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 95},
    ]);
    let params = PatchParams {
        field_manager: Some("night-shift".to_owned()),
        ..PatchParams::default()
    };
    let patch: Patch<serde_json::Value> = Patch::Json(serde_json::from_value(patch)?);
    routes.patch("app", &params, &patch).await?;
    let edited = Instant::now();
    bed.wait(
        "the weights to be put back",
        Duration::from_secs(5),
        async || Ok((shop.route().await? == (80, 20)).then_some(())),
    )
    .await?;
    let took = edited.elapsed();
    ensure!(
        took < Duration::from_secs(1),
        "putting the weights back took {took:?}"
    );
    bed.wait(
        "an event that names the editor",
        Duration::from_secs(10),
        async || {
            Ok(shop
                .events()
                .await?
                .iter()
                .any(|text| text.contains("night-shift"))
                .then_some(()))
        },
    )
    .await?;
    println!("        put back after {took:?}");
    shop.wait_phase("Succeeded").await?;
    flawless(&shop.close().await?)
}

/// (h) The primary is deleted by hand while the target carries a revision that failed: it is rebuilt from what was promoted.
pub async fn deleted_primary(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let shop = Shop::open(bed, "deleted-primary", Plan::default()).await?;
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.5")]).await?;
    shop.wait_phase("Failed").await?;
    let deployments = bed
        .api_of("apps/v1", "Deployment", shop.namespace.name())
        .await?;
    deployments
        .delete("app-primary", &DeleteParams::background())
        .await?;
    shop.note("deleted app-primary".to_owned());
    bed.wait("the primary to be back", PATIENCE, async || {
        Ok(deployments
            .get_opt("app-primary")
            .await?
            .is_some()
            .then_some(()))
    })
    .await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.0.0",
        "it is rebuilt from the promoted revision"
    );
    ensure!(
        shop.replicas("app-primary").await? == 2,
        "with the replicas that it had"
    );
    shop.namespace.wait_ready("app-primary", PATIENCE).await?;
    shop.wait_only("1.0.0").await?;
    ensure!(
        shop.status().await?["phase"] == "Failed",
        "and no run is started by it"
    );
    Ok(())
}

/// Pods that die at once when they are told to: Serin's own order (weights, applied, drained, only then pods) loses nothing.
pub async fn sudden_death(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        environment: vec![("DIE_AT_ONCE", "1")],
        // As long as the other shops' pods serve on after SIGTERM; the gateway of a busy bed learns late.
        analysis: json!({"threshold": 2, "stepWeight": 20, "maxWeight": 60, "drain": "8s"}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "sudden-death", plan).await?;
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.5")]).await?;
    shop.wait_phase("Failed").await?;
    bed.wait("the canary's pods to be gone", PATIENCE, async || {
        let target = shop.namespace.get("apps/v1", "Deployment", "app").await?;
        Ok(target.data["status"]["replicas"]
            .as_i64()
            .unwrap_or(0)
            .eq(&0)
            .then_some(()))
    })
    .await?;
    shop.wait_only("1.0.0").await?;
    only_failed(&shop.close().await?, "1.2.0")
}
