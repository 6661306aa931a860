//! Make before break: every way in which traffic changes sides, with visitors in the shop. A newer revision at a high weight, a fall from
//! a high weight, an app that starts and ends slowly, a promotion that fails and both ways out of it, the end of the canary itself.
//! Each story prints what was measured.
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use super::shop::{self, PATIENCE, Plan, Shop, flawless, only_failed};
use crate::bed::audit::Audit;
use crate::bed::{Bed, Namespace};
use crate::load::Report;

/// Prints the account of the visitors in one line.
pub fn measured(what: &str, report: &Report) {
    let versions: Vec<String> = report
        .versions
        .iter()
        .map(|(name, version)| {
            let failed = report.failed_of(name);
            let failed = if failed > 0 {
                format!(" ({failed} failed)")
            } else {
                String::new()
            };
            format!("{name}: {}{failed}", version.requests)
        })
        .collect();
    println!(
        "        {what}: {} requests, {} lost, p99 {:.0} ms; answered by {}",
        report.requests,
        report.lost(),
        report.latency.p99.as_secs_f64() * 1e3,
        versions.join(", ")
    );
}

/// The message of a condition of a canary's status.
pub fn condition<'a>(status: &'a Value, kind: &str) -> (&'a str, &'a str, &'a str) {
    let found = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null);
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    (text("status"), text("reason"), text("message"))
}

/// A newer revision comes while the canary has 80 % of the traffic: all of it goes back to the primary before the newer one is judged from
/// the first step, and the newer one is promoted.
pub async fn overtaken(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        analysis: json!({"threshold": 2, "stepWeight": 40, "maxWeight": 80}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "overtaken", plan).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(80).await?;
    let share = shop.wait_split("1.1.0", 80).await?;
    let overtaken = shop.load()?.mark();
    shop.release("1.1.1").await?;
    let mut judged = overtaken;
    bed.wait("the newer revision's first step", PATIENCE, async || {
        // Taken before the look, so that nothing of the step itself counts.
        let before = shop.load()?.mark();
        let status = shop.status().await?;
        let history = status["history"].as_array().map_or(0, Vec::len);
        if history > 0 && status["canaryWeight"].as_i64().unwrap_or(0) > 0 {
            return Ok(Some(()));
        }
        judged = before;
        Ok(None)
    })
    .await?;
    let meanwhile = shop.load()?.report_between(overtaken, judged);
    let unjudged = meanwhile.versions.get("1.1.1").map_or(0, |v| v.requests);
    ensure!(
        unjudged == 0,
        "{unjudged} visitors met the newer revision before its first step:\n{meanwhile}"
    );
    let canary = shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.1",
        "the newer revision is promoted"
    );
    let history = &canary.data["status"]["history"];
    ensure!(
        history[0]["outcome"] == "Superseded" && history[1]["outcome"] == "Promoted",
        "the older run was superseded and the newer one promoted: {history}"
    );
    shop.wait_only("1.1.1").await?;
    let report = shop.close().await?;
    println!("        overtaken at {:.1} % of the answers", share * 100.0);
    measured("overtaken", &report);
    flawless(&report)
}

/// A bad revision has 80 % of the traffic when it is found out: what failed is what it answered itself, on the way back nothing is lost.
pub async fn steep_fall(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        analysis: json!({"threshold": 2, "stepWeight": 80, "maxWeight": 80}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "steep-fall", plan).await?;
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.05")])
        .await?;
    shop.wait_weight(80).await?;
    let share = shop.wait_split("1.2.0", 80).await?;
    shop.wait_phase("Failed").await?;
    shop.wait_only("1.0.0").await?;
    ensure!(shop.replicas("app").await? == 0, "the bad revision is gone");
    let report = shop.close().await?;
    println!("        fell from {:.1} % of the answers", share * 100.0);
    measured("steep fall", &report);
    let bad = report
        .versions
        .get("1.2.0")
        .context("the bad revision answered")?;
    // Each of its two pods fails every twentieth request.
    let expected = bad.requests as f64 * 0.05;
    let failed = report.failed_of("1.2.0") as f64;
    ensure!(
        (failed - expected).abs() <= 2.0,
        "{failed} requests failed where the revision itself fails {expected:.0}:\n{report}"
    );
    only_failed(&report, "1.2.0")
}

/// Four replicas of an app that takes five seconds to start, a fifth of one to answer, and twelve to end.
pub async fn slow_both_ways(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        environment: vec![
            ("START_DELAY_MS", "5000"),
            ("DELAY_MS", "200"),
            ("SHUTDOWN_DELAY_MS", "12000"),
        ],
        analysis: json!({"threshold": 2, "stepWeight": 50, "maxWeight": 50}),
        spec: json!({"progressDeadlineSeconds": 120}),
        replicas: 4,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "slow-both-ways", plan).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(50).await?;
    let share = shop.wait_split("1.1.0", 50).await?;
    shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.replicas("app-primary").await? == 4,
        "the primary has its replicas"
    );
    shop.namespace.wait_ready("app-primary", PATIENCE).await?;
    shop.wait_only("1.1.0").await?;
    pods_are_gone(&shop).await?;
    let report = shop.close().await?;
    println!(
        "        half of the way: {:.1} % of the answers",
        share * 100.0
    );
    measured("slow both ways", &report);
    flawless(&report)
}

/// Waits until no pod of the target is left.
async fn pods_are_gone(shop: &Shop<'_>) -> Result<()> {
    pods_of_are_gone(shop, "app").await
}

async fn pods_of_are_gone(shop: &Shop<'_>, app: &str) -> Result<()> {
    let pods = shop.bed.api_of("v1", "Pod", shop.namespace.name()).await?;
    let selected = ListParams::default().labels(&format!("app={app}"));
    shop.bed
        .wait("the canary's pods to be gone", PATIENCE, async || {
            let left = pods.list(&selected).await?;
            Ok(left.items.is_empty().then_some(()))
        })
        .await
}

/// A revision that asks a shared `ConfigMap` whether it may start.
fn licensed(shop: &Shop<'_>, version: &str) -> Value {
    let mut container = shop.container(version, &[]);
    if let Some(environment) = container["env"].as_array_mut() {
        environment.push(json!({"name": "NEVER_READY", "valueFrom": {"configMapKeyRef": {"name": "licence", "key": "used-up"}}}));
    }
    container
}

/// The licence that all pods share; it is no part of a revision.
pub async fn licence(shop: &Shop<'_>, used_up: &str) -> Result<()> {
    shop.note(format!("licence used up: {used_up}"));
    shop.apply_json(&json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "licence", "annotations": {"flagger.app/config-tracking": "disabled"}},
        "data": {"used-up": used_up},
    }))
    .await
}

/// Releases a revision that needs the licence, while there is one. With a deadline, the Deployment's own is set too: Flagger goes by it.
pub async fn release_licensed(shop: &Shop<'_>, version: &str, deadline: Option<u32>) -> Result<()> {
    licence(shop, "0").await?;
    if let Some(deadline) = deadline {
        let patch = json!({"spec": {"progressDeadlineSeconds": deadline}});
        shop.namespace
            .patch("apps/v1", "Deployment", "app", &patch)
            .await?;
    }
    shop.release_container(&licensed(shop, version)).await?;
    shop.note(format!("released {version}, which needs a licence"));
    Ok(())
}

/// Releases a revision that comes up as canary, with the last licence there is, and not as primary; waits until its promotion has failed.
async fn release_that_fails_in_promotion(
    shop: &Shop<'_>,
    version: &str,
    before: &str,
) -> Result<()> {
    release_licensed(shop, version, None).await?;
    shop.wait_weight(50).await?;
    licence(shop, "1").await?;
    let canary = shop.wait_phase("Failed").await?;
    shop.wait_route((0, 100)).await?;
    shop.wait_only(version).await?;
    ensure!(
        shop.replicas("app").await? == 2,
        "the only side that runs {version} keeps its pods"
    );
    shop.bed
        .wait(
            "the primary to have its former template",
            PATIENCE,
            async || {
                Ok(
                    (shop.image("app-primary").await? == format!("serin-demo-app:{before}"))
                        .then_some(()),
                )
            },
        )
        .await?;
    let status = &canary.data["status"];
    ensure!(
        status["canaryWeight"] == 100,
        "status says where the traffic is: {status}"
    );
    let (promoted, reason, message) = condition(status, "Promoted");
    ensure!(
        promoted == "False"
            && reason == "Failed"
            && message.contains("the canary keeps the traffic")
            && message.contains("fixed revision")
            && message.contains("set the target back"),
        "the condition says what holds and offers both ways out: {promoted} {reason} {message:?}"
    );
    let (_, _, ready) = condition(status, "Ready");
    ensure!(
        ready.contains("primary not ready"),
        "and Ready says why: {ready:?}"
    );
    // It stays like that.
    let before = shop
        .namespace
        .canary("app")
        .await?
        .metadata
        .resource_version;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = shop
        .namespace
        .canary("app")
        .await?
        .metadata
        .resource_version;
    ensure!(before == after, "while nobody decides nothing is written");
    shop.wait_only(version).await.map(drop)
}

/// A promoted revision does not come up as primary: the healthy side keeps the traffic, and both ways out are walked: a fixed revision, and
/// back to the old one.
pub async fn failed_promotion(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        analysis: json!({"threshold": 2, "stepWeight": 50, "maxWeight": 50}),
        spec: json!({"progressDeadlineSeconds": 15}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "failed-promotion", plan).await?;
    release_that_fails_in_promotion(&shop, "1.1.0", "1.0.0").await?;
    let fixed = shop.load()?.mark();
    shop.release("1.1.1").await?;
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.1",
        "the fixed revision is promoted"
    );
    shop.wait_route((100, 0)).await?;
    let back = shop.wait_only("1.1.1").await?;
    measured(
        "way out 1, a fixed revision",
        &shop.load()?.report_between(fixed, back),
    );

    release_that_fails_in_promotion(&shop, "1.2.0", "1.1.1").await?;
    let reverted = shop.load()?.mark();
    shop.release("1.1.1").await?;
    shop.wait_phase("Succeeded").await?;
    shop.wait_route((100, 0)).await?;
    let back = shop.wait_only("1.1.1").await?;
    pods_are_gone(&shop).await?;
    ensure!(shop.replicas("app").await? == 0, "the target sleeps again");
    measured(
        "way out 2, back to the old revision",
        &shop.load()?.report_between(reverted, back),
    );
    let report = shop.close().await?;
    measured("failed promotion", &report);
    flawless(&report)
}

async fn delete_canary(shop: &Shop<'_>, params: &DeleteParams) -> Result<()> {
    let canaries = shop
        .bed
        .api_of("flagger.app/v1beta1", "Canary", shop.namespace.name())
        .await?;
    canaries.delete("app", params).await?;
    shop.note("deleted the canary".to_owned());
    shop.bed
        .wait("the canary to be gone", PATIENCE, async || {
            Ok(canaries.get_opt("app").await?.is_none().then_some(()))
        })
        .await
}

async fn wait_deleted(shop: &Shop<'_>, api_version: &str, kind: &str, name: &str) -> Result<()> {
    let api = shop
        .bed
        .api_of(api_version, kind, shop.namespace.name())
        .await?;
    shop.bed
        .wait(
            &format!("{kind} {name} to be collected"),
            PATIENCE,
            async || Ok(api.get_opt(name).await?.is_none().then_some(())),
        )
        .await
}

/// Checks that Service and route are the user's again, without a trace.
pub async fn is_as_before(shop: &Shop<'_>) -> Result<()> {
    let service = shop.namespace.get("v1", "Service", "app").await?;
    ensure!(
        service.data["spec"]["selector"] == json!({"app": "app"}),
        "the Service selects the user's pods again: {}",
        service.data["spec"]
    );
    let route = shop
        .namespace
        .get("gateway.networking.k8s.io/v1", "HTTPRoute", "app")
        .await?;
    let backends = &route.data["spec"]["rules"][0]["backendRefs"];
    ensure!(
        backends.as_array().map_or(0, Vec::len) == 1 && backends[0]["name"] == "app",
        "the route leads to the user's Service again: {backends}"
    );
    for object in [&service, &route] {
        let traces: Vec<&String> = object
            .metadata
            .annotations
            .iter()
            .flatten()
            .map(|(key, _)| key)
            .filter(|key| {
                key.contains("serin") || key.contains("fluxcd") || key.contains("flagger")
            })
            .collect();
        ensure!(traces.is_empty(), "left behind: {traces:?}");
        ensure!(
            object.metadata.owner_references.iter().flatten().count() == 0,
            "left behind: {:?}",
            object.metadata.owner_references
        );
    }
    Ok(())
}

/// A canary with `revertOnDeletion` is deleted in mid-run with a split: the user's Service and route are what they were, and nobody notices.
pub async fn reverted_in_mid_run(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        spec: json!({"revertOnDeletion": true}),
        own_route: true,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "reverted-in-mid-run", plan).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(40).await?;
    let share = shop.wait_split("1.1.0", 40).await?;
    delete_canary(&shop, &DeleteParams::background()).await?;
    wait_deleted(&shop, "apps/v1", "Deployment", "app-primary").await?;
    wait_deleted(&shop, "v1", "Service", "app-primary").await?;
    is_as_before(&shop).await?;
    ensure!(
        shop.replicas("app").await? == 2,
        "the target has its replicas"
    );
    // The primary's pods serve on for a while after they were told to end.
    tokio::time::sleep(Duration::from_secs(12)).await;
    shop.wait_only("1.1.0").await?;
    let report = shop.close().await?;
    println!("        deleted at {:.1} % of the answers", share * 100.0);
    measured("deleted with revertOnDeletion", &report);
    flawless(&report)
}

/// A canary without `revertOnDeletion` is deleted in mid-run. Told to leave what it owns (`--cascade=orphan`), nobody notices and the split
/// stays; otherwise what it made goes, as with Flagger, and what the user made stays.
pub async fn left_in_mid_run(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        own_route: true,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "left-in-mid-run", plan.clone()).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(40).await?;
    shop.wait_split("1.1.0", 40).await?;
    let orphaned = shop.load()?.mark();
    delete_canary(&shop, &DeleteParams::orphan()).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let share = shop.wait_split("1.1.0", 40).await?;
    ensure!(
        shop.route().await? == (60, 40),
        "the route is what it was: {:?}",
        shop.route().await?
    );
    let report = shop.load()?.settled_since(orphaned).await;
    println!(
        "        ten seconds later {:.1} % of the answers",
        share * 100.0
    );
    measured("deleted, what it owned left alone", &report);
    flawless(&shop.close().await?)?;

    let shop = Shop::open(bed, "left-in-mid-run", plan).await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(40).await?;
    let until_now = shop
        .load()?
        .settled_since(crate::load::Mark::BEGINNING)
        .await;
    flawless(&until_now)?;
    let deleted = shop.load()?.mark();
    delete_canary(&shop, &DeleteParams::background()).await?;
    for name in ["app-primary", "app-canary"] {
        wait_deleted(&shop, "v1", "Service", name).await?;
    }
    wait_deleted(&shop, "apps/v1", "Deployment", "app-primary").await?;
    ensure!(
        shop.replicas("app").await? == 2,
        "the target is left as it was"
    );
    // What the user made is not Serin's to take away.
    shop.namespace.get("v1", "Service", "app").await?;
    shop.namespace
        .get("gateway.networking.k8s.io/v1", "HTTPRoute", "app")
        .await
        .context("the user's route is still there")?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = shop.load()?.report_since(deleted);
    measured("deleted as Flagger leaves it (Services gone)", &after);
    shop.close().await.map(drop)
}

/// What objects look like to somebody who wants to know whether they were written.
async fn versions(namespace: &Namespace<'_>, bed: &Bed) -> Result<BTreeMap<String, String>> {
    let kinds = [
        ("apps/v1", "Deployment"),
        ("apps/v1", "ControllerRevision"),
        ("v1", "Service"),
        ("v1", "ConfigMap"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ];
    let mut seen = BTreeMap::new();
    for (api_version, kind) in kinds {
        let api = bed.api_of(api_version, kind, namespace.name()).await?;
        for object in api.list(&ListParams::default()).await?.items {
            let name = object.metadata.name.unwrap_or_default();
            seen.insert(
                format!("{kind} {name}"),
                object.metadata.resource_version.unwrap_or_default(),
            );
        }
    }
    Ok(seen)
}

async fn wait_refused(
    namespace: &Namespace<'_>,
    bed: &Bed,
    canary: &str,
    reason: &str,
) -> Result<String> {
    bed.wait(&format!("{canary} to be refused"), PATIENCE, async || {
        let found = namespace.canary(canary).await?;
        let (accepted, why, message) = condition(&found.data["status"], "Accepted");
        Ok((accepted == "False" && why == reason).then(|| message.to_owned()))
    })
    .await
}

fn other_deployment(shop: &Shop<'_>, name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [shop.container("1.0.0", &[])]}},
        },
    })
}

fn other_canary(shop: &Shop<'_>, name: &str, target: &str, apex: Option<&str>) -> Value {
    let mut service = json!({
        "port": 80, "targetPort": 8080,
        "gatewayRefs": [{"name": "traefik", "namespace": "gateway"}],
        "hosts": [shop.namespace.host(name)],
    });
    if let Some(apex) = apex {
        service["name"] = json!(apex);
    }
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": name},
        "spec": {
            "provider": "gatewayapi:v1",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "progressDeadlineSeconds": 60,
            "service": service,
            "analysis": {"interval": "3s", "threshold": 2, "stepWeight": 50, "maxWeight": 50},
        },
    })
}

/// Other people's workloads around a shop, and a route that somebody else controls; all at rest.
async fn open_the_neighbourhood(shop: &Shop<'_>) -> Result<()> {
    let namespace = &shop.namespace;
    for name in ["other", "lone", "lone-primary", "twin", "routed"] {
        shop.apply_json(&other_deployment(shop, name)).await?;
    }
    shop.apply_json(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "somebody"}, "data": {},
    }))
    .await?;
    let somebody = namespace.get("v1", "ConfigMap", "somebody").await?;
    let mut foreign = shop.own_route();
    foreign["metadata"] = json!({"name": "routed", "ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "somebody",
        "uid": somebody.metadata.uid, "controller": true,
    }]});
    foreign["spec"]["hostnames"] = json!([namespace.host("routed")]);
    shop.apply_json(&foreign).await?;
    for name in ["other", "lone", "lone-primary", "twin", "routed"] {
        namespace.wait_ready(name, PATIENCE).await?;
    }
    shop.apply_json(&other_canary(shop, "first-twin", "twin", None))
        .await?;
    namespace
        .wait_phase("first-twin", "Initialized", PATIENCE)
        .await?;
    // Deployments at rest have come to rest in their status as well.
    for name in ["app", "twin"] {
        pods_of_are_gone(shop, name).await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

/// Two canaries on one target, an apex name used twice, a primary and a route that belong to somebody else: each is refused with a condition
/// that names the rival, and no object is written. When the rival goes, the one that was refused gets its turn.
pub async fn rivals(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        rate: 50.0,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "rivals", plan).await?;
    let namespace = &shop.namespace;
    open_the_neighbourhood(&shop).await?;
    let before = versions(namespace, bed).await?;
    let mark = bed.audit_mark()?;
    let rivals = [
        ("second", "app", None, "TargetClaimed", "canary app"),
        (
            "namesake",
            "other",
            Some("app"),
            "ApexClaimed",
            "canary app",
        ),
        ("lone", "lone", None, "PrimaryNotOurs", "lone-primary"),
        (
            "second-twin",
            "twin",
            Some("second-twin"),
            "TargetClaimed",
            "canary first-twin",
        ),
    ];
    for (name, target, apex, reason, names) in rivals {
        shop.apply_json(&other_canary(&shop, name, target, apex))
            .await?;
        let message = wait_refused(namespace, bed, name, reason).await?;
        ensure!(
            message.contains(names),
            "{name} names its rival: {message:?}"
        );
        println!("        {name}: {reason}: {message}");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = versions(namespace, bed).await?;
    ensure!(
        before == after,
        "refused canaries touch nothing, but of {before:?} there is now {after:?}"
    );
    let written: Audit = bed.audit_since(mark)?.of_user("serin").work();
    let touched = written.count(|request| {
        request.namespace == namespace.name()
            && !matches!(request.verb.as_str(), "get" | "list")
            && request.resource != "events"
            && request.resource != "canaries/status"
    });
    ensure!(
        touched == 0,
        "refused canaries write nothing but their status:\n{written}"
    );

    // A route that somebody else controls: everything else may be made, the route is not touched.
    let route = after["HTTPRoute routed"].clone();
    shop.apply_json(&other_canary(&shop, "routed", "routed", None))
        .await?;
    bed.wait("the foreign route to be told", PATIENCE, async || {
        let found = namespace.canary("routed").await?;
        let (stalled, reason, message) = condition(&found.data["status"], "Stalled");
        Ok(
            (stalled == "True" && reason == "RouteNotWritable" && message.contains("somebody"))
                .then_some(()),
        )
    })
    .await?;
    ensure!(
        shop.namespace
            .get("apps/v1", "Deployment", "routed")
            .await?
            .data["spec"]["replicas"]
            == 1,
        "the user's workload serves on"
    );
    // Its parents' status may change; its spec and metadata may not.
    let found = namespace
        .get("gateway.networking.k8s.io/v1", "HTTPRoute", "routed")
        .await?;
    ensure!(
        found.data["spec"]["rules"][0]["backendRefs"][0]["name"] == "app",
        "the foreign route (once version {route}) leads where it led: {}",
        found.data["spec"]
    );

    let canaries = bed
        .api_of("flagger.app/v1beta1", "Canary", namespace.name())
        .await?;
    canaries
        .delete("first-twin", &DeleteParams::background())
        .await?;
    shop.note("deleted first-twin".to_owned());
    namespace
        .wait_phase("second-twin", "Initialized", PATIENCE)
        .await
        .context("the one that was refused gets its turn")?;
    let report = shop.close().await?;
    measured("rivals", &report);
    flawless(&report)
}

/// Ten canaries at rest, in every phase in which one can rest, refused and failed ones among them: not one request in a minute.
pub async fn at_rest(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        rate: 0.0,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "at-rest", plan).await?;
    let namespace = &shop.namespace;
    let names: Vec<String> = (1..10).map(|number| format!("shop-{number}")).collect();
    for name in &names {
        shop.apply_json(&other_deployment(&shop, name)).await?;
        let mut canary = other_canary(&shop, name, name, None);
        canary["spec"]["progressDeadlineSeconds"] = json!(20);
        // Nobody visits, so nothing can be measured.
        canary["spec"]["analysis"]["metrics"] = json!([]);
        shop.apply_json(&canary).await?;
    }
    shop.apply_json(&other_canary(&shop, "refused", "app", Some("refused")))
        .await?;
    for name in &names {
        namespace
            .wait_phase(name, "Initialized", PATIENCE * 2)
            .await?;
    }
    for (index, name) in names.iter().enumerate() {
        let faults: &[(&str, &str)] = if index < 3 {
            &[("NEVER_READY", "1")]
        } else {
            &[]
        };
        if index < 6 {
            let patch = json!({"spec": {"template": {"spec": {"containers": [shop.container("1.1.0", faults)]}}}});
            namespace
                .patch("apps/v1", "Deployment", name, &patch)
                .await?;
        }
    }
    for (index, name) in names.iter().take(6).enumerate() {
        let phase = if index < 3 { "Failed" } else { "Succeeded" };
        namespace.wait_phase(name, phase, PATIENCE * 2).await?;
    }
    super::economy::settle(bed).await?;
    let mark = bed.audit_mark()?;
    let before = statuses(namespace, bed).await?;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let requests = super::economy::work(&bed.audit_since(mark)?);
    ensure!(
        requests.requests.is_empty(),
        "canaries at rest make no request, but:\n{requests}"
    );
    let after = statuses(namespace, bed).await?;
    ensure!(before == after, "and none of their objects is written");
    let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, phase) in after.values() {
        *phases.entry(phase).or_default() += 1;
    }
    println!("        no request in a minute from {phases:?} and one refused");
    Ok(())
}

/// Resource version and phase of each canary.
async fn statuses(
    namespace: &Namespace<'_>,
    bed: &Bed,
) -> Result<BTreeMap<String, (String, String)>> {
    let api = bed
        .api_of("flagger.app/v1beta1", "Canary", namespace.name())
        .await?;
    Ok(api
        .list(&ListParams::default())
        .await?
        .items
        .into_iter()
        .map(|canary| {
            let phase = canary.data["status"]["phase"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            (
                canary.metadata.name.unwrap_or_default(),
                (canary.metadata.resource_version.unwrap_or_default(), phase),
            )
        })
        .collect())
}
