//! What Serin costs the API server and how fast it is, counted from the audit log and by the clock.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

use super::alerts::Receivers;
use super::shop::{self, PATIENCE, Plan, Shop};
use crate::bed::Bed;
use crate::bed::audit::Audit;

/// Requests of a rollout of five steps. An alert that is told at the end of it has one write more, since no other comes after it.
pub const BUDGET: usize = 30;

/// Serin's own requests but for watches and the lease.
pub fn work(audit: &Audit) -> Audit {
    audit.of_user("serin").work()
}

/// An idle canary makes no request in a minute; a failed one neither; a rollout of five steps keeps to its budget, with alerts and without.
pub async fn api_budget(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        // Long enough for data of each step: a round without any is one write more.
        analysis: json!({"interval": "6s", "threshold": 2, "stepWeight": 20, "maxWeight": 100}),
        rate: 50.0,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "api-budget", plan).await?;
    settle(bed).await?;
    let mark = bed.audit_mark()?;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let idle = work(&bed.audit_since(mark)?);
    ensure!(
        idle.requests.is_empty(),
        "an idle canary makes no request, but:\n{idle}"
    );

    let rollout = cost(bed, &shop, "1.1.0").await?;
    println!("        a rollout of five steps:\n{rollout}");
    ensure!(
        rollout.requests.len() <= BUDGET,
        "a rollout of five steps makes {BUDGET} requests at most, but:\n{rollout}"
    );

    let receivers = Receivers::start().await?;
    shop.apply_json(&json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider", "metadata": {"name": "chat"},
        "spec": {"type": "slack", "channel": "shop", "address": format!("{}/chat", receivers.address)},
    }))
    .await?;
    let alerts = json!([{"name": "all", "severity": "info", "providerRef": {"name": "chat"}}]);
    shop.namespace
        .patch(
            "flagger.app/v1beta1",
            "Canary",
            "app",
            &json!({"spec": {"analysis": {"alerts": alerts}}}),
        )
        .await?;
    settle(bed).await?;
    let rollout = cost(bed, &shop, "1.1.1").await?;
    println!("        the same with alerts:\n{rollout}");
    let told = receivers.chat();
    ensure!(
        told.len() == 2 && rollout.requests.len() <= BUDGET + 1,
        "with two alerts a rollout makes {} requests at most, but with {told:?}:\n{rollout}",
        BUDGET + 1
    );

    shop.release_with("1.2.0", &[("ERROR_RATE", "0.5")]).await?;
    shop.wait_phase("Failed").await?;
    settle(bed).await?;
    let mark = bed.audit_mark()?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let failed = work(&bed.audit_since(mark)?);
    ensure!(
        failed.requests.is_empty(),
        "a failed canary makes no request, but:\n{failed}"
    );
    Ok(())
}

/// The requests of a release, from its start until all is quiet.
async fn cost(bed: &Bed, shop: &Shop<'_>, version: &str) -> Result<Audit> {
    let mark = bed.audit_mark()?;
    shop.release(version).await?;
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Succeeded").await?;
    settle(bed).await?;
    Ok(work(&bed.audit_since(mark)?))
}

/// Waits until Serin made no request for three seconds.
pub async fn settle(bed: &Bed) -> Result<()> {
    let mut mark = bed.audit_mark()?;
    let mut since = Instant::now();
    bed.wait("Serin to come to rest", PATIENCE, async || {
        if !work(&bed.audit_since(mark)?).requests.is_empty() {
            mark = bed.audit_mark()?;
            since = Instant::now();
        }
        Ok((since.elapsed() > Duration::from_secs(3)).then_some(()))
    })
    .await
}

/// A new revision is acted on within a second of the Deployment's change, 99 times of 100.
pub async fn reaction(bed: &Bed) -> Result<()> {
    const TRIES: usize = 100;
    shop::serin(bed).await?;
    let plan = Plan {
        // Nothing ever becomes of these runs: each is overtaken by the next revision.
        analysis: json!({"interval": "60s", "threshold": 2, "stepWeight": 20, "maxWeight": 60, "metrics": []}),
        rate: 0.0,
        replicas: 1,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "reaction", plan).await?;
    let canaries = bed
        .api_of("flagger.app/v1beta1", "Canary", shop.namespace.name())
        .await?;
    let mut changes = watcher(canaries, watcher::Config::default())
        .applied_objects()
        .boxed();
    let mut seen = shop.status().await?["lastAppliedSpec"].clone();
    let mut times = Vec::with_capacity(TRIES);
    for number in 0..TRIES {
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"try": number.to_string()}}}}});
        shop.namespace
            .patch("apps/v1", "Deployment", "app", &patch)
            .await?;
        let edited = Instant::now();
        let acted = tokio::time::timeout(Duration::from_secs(20), async {
            while let Some(canary) = changes.next().await {
                let now = canary?.data["status"]["lastAppliedSpec"].clone();
                if now != seen && now.is_string() {
                    seen = now;
                    break;
                }
            }
            anyhow::Ok(())
        })
        .await;
        acted.map_err(|_| anyhow::anyhow!("revision {number} was not acted on within 20 s"))??;
        times.push(edited.elapsed());
    }
    times.sort();
    let within = times
        .iter()
        .filter(|time| **time <= Duration::from_secs(1))
        .count();
    println!(
        "        {within} of {TRIES} within 1 s; median {:?}, slowest {:?}",
        times[TRIES / 2],
        times[TRIES - 1]
    );
    ensure!(
        within >= 99,
        "only {within} of {TRIES} revisions were acted on within a second: {times:?}"
    );
    Ok(())
}
