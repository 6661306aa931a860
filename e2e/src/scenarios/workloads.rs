//! What is rolled out, told with visitors in the shop: plain Services without a router, `DaemonSets`, autoscaled targets, tracked configs,
//! visitors that are held by cookies, and one shop's whole life.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use kube::ResourceExt;
use kube::api::DeleteParams;
use kube::runtime::{WatchStreamExt, watcher};
use reqwest::header::{COOKIE, SET_COOKIE};
use serde_json::{Value, json};

use super::gates::Gates;
use super::handover::measured;
use super::shop::{self, Gateway, INTERVAL, PATIENCE, Plan, RATE, Shop, flawless, only_failed};
use crate::bed::Bed;
use crate::bed::parts::GATEWAY;
use crate::figures::Figures;
use crate::load::{Load, LoadPlan, Mark};

const HPA: &str = "autoscaling/v2";
const KEDA: &str = "keda.sh/v1alpha1";
/// KEDA's annotation that holds a scaled object at a number of replicas.
const PAUSED: &str = "autoscaling.keda.sh/paused-replicas";

/// A route of the user's own that leads a host to a Service.
fn route(name: &str, host: &str, service: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name},
        "spec": {
            "parentRefs": [{"name": "traefik", "namespace": "gateway"}],
            "hostnames": [host],
            "rules": [{"backendRefs": [{"name": service, "port": 80}]}],
        },
    })
}

/// Provider `kubernetes`: the user's Service is taken over under load, a good release is tested through the canary's own Service and
/// promoted, a bad one is not; visitors never meet what is being tested.
pub async fn services_only(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        analysis: json!({"threshold": 2, "iterations": 3}),
        spec: json!({"provider": "kubernetes"}),
        beside: vec![route("testers", "test.services-only.bed", "app-canary")],
        own_route: true,
        ..Plan::default()
    };
    let shop = Shop::open(bed, "services-only", plan).await?;
    let apex = shop.namespace.get("v1", "Service", "app").await?;
    ensure!(
        apex.data["spec"]["selector"] == json!({"app": "app-primary"}),
        "the Service leads to the primary: {}",
        apex.data["spec"]
    );
    ensure!(
        apex.annotations()
            .contains_key("kustomize.toolkit.fluxcd.io/reconcile"),
        "Flux is told to leave the Service alone: {:?}",
        apex.annotations()
    );

    shop.release("1.1.0").await?;
    let testers = Load::start(GATEWAY, "test.services-only.bed", 40.0)?;
    let (before, promoted) = shop.until_promoting("1.1.0").await?;
    let meanwhile = shop.load()?.report_between(before, promoted);
    ensure!(
        (meanwhile.share_of("1.0.0") - 1.0).abs() < f64::EPSILON,
        "while 1.1.0 was tested, visitors met it:\n{meanwhile}"
    );
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;

    let before = shop.load()?.mark();
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.5")]).await?;
    shop.wait_phase("Failed").await?;
    let meanwhile = shop.load()?.settled_since(before).await;
    ensure!(
        (meanwhile.share_of("1.1.0") - 1.0).abs() < f64::EPSILON,
        "while 1.2.0 was tested, visitors met it:\n{meanwhile}"
    );
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "the primary is what it was"
    );
    let tested = testers.stop().await;
    ensure!(
        tested.failed_of("1.2.0") > 0 && tested.failed_of("1.1.0") == 0,
        "the testers met both releases:\n{tested}"
    );
    let report = shop.close().await?;
    measured("visitors", &report);
    flawless(&report)
}

/// A `DaemonSet` with one pod on the one node: its update takes the pod away before the next one comes, and still nothing is lost, since
/// the canary serves meanwhile.
pub async fn each_node(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        kind: "DaemonSet",
        ..Plan::default()
    };
    let shop = Shop::open(bed, "each-node", plan).await?;
    ensure!(shop.is_parked().await?, "the target has no pod");
    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "the primary runs the release"
    );
    shop.wait_ready("app-primary").await?;
    shop.wait_only("1.1.0").await?;
    ensure!(shop.is_parked().await?, "the target has no pod again");

    shop.release_with("1.2.0", &[("ERROR_RATE", "0.2")]).await?;
    shop.wait_phase("Failed").await?;
    ensure!(
        shop.image("app-primary").await? == "serin-demo-app:1.1.0",
        "the primary is what it was"
    );
    shop.wait_only("1.1.0").await?;
    bed.wait("the target to be parked", PATIENCE, async || {
        Ok(shop.is_parked().await?.then_some(()))
    })
    .await?;
    let report = shop.close().await?;
    measured("visitors", &report);
    ensure!(
        report.failed_of("1.2.0") > 0,
        "the bad release did fail requests"
    );
    only_failed(&report, "1.2.0")
}

impl Shop<'_> {
    /// Whether the target, a `DaemonSet`, asks for a node that there is not.
    async fn is_parked(&self) -> Result<bool> {
        let target = self.namespace.get("apps/v1", "DaemonSet", "app").await?;
        Ok(
            target.data["spec"]["template"]["spec"]["nodeSelector"]["flagger.app/scale-to-zero"]
                == "true"
                && target.data["status"]["desiredNumberScheduled"] == 0,
        )
    }

    /// Waits until the primary is told to run a version: from when on the wait lasted, and when it ended, in the load's time.
    async fn until_promoting(&self, version: &str) -> Result<(Mark, Mark)> {
        let before = self.load()?.mark();
        let mut last = before;
        let image = format!("serin-demo-app:{version}");
        self.bed
            .wait(
                &format!("the primary to be told to run {version}"),
                PATIENCE,
                async || {
                    // Taken before the look, so that what came after the promotion began is not counted.
                    let now = self.load()?.mark();
                    let found = self.image("app-primary").await? == image;
                    if !found {
                        last = now;
                    }
                    Ok(found.then_some(()))
                },
            )
            .await?;
        Ok((before, last))
    }

    async fn ready_replicas(&self, deployment: &str) -> Result<i64> {
        let object = self
            .namespace
            .get("apps/v1", "Deployment", deployment)
            .await?;
        Ok(object.data["status"]["readyReplicas"].as_i64().unwrap_or(0))
    }

    async fn autoscaler(&self, api_version: &str, kind: &str, name: &str) -> Result<Value> {
        Ok(self.namespace.get(api_version, kind, name).await?.data["spec"].clone())
    }
}

/// A Deployment with a `HorizontalPodAutoscaler`: the primary gets one of its own whose bounds hold, the canary has its minimum before it
/// has visitors, and the primary's number is the autoscaler's, not the manifest's.
pub async fn autoscaled(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        spec: json!({"autoscalerRef": {
            "apiVersion": HPA, "kind": "HorizontalPodAutoscaler", "name": "app",
            "primaryScalerReplicas": {"minReplicas": 3, "maxReplicas": 6},
        }}),
        beside: vec![json!({
            "apiVersion": HPA, "kind": "HorizontalPodAutoscaler", "metadata": {"name": "app"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                "minReplicas": 2, "maxReplicas": 4,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}],
            },
        })],
        ..Plan::default()
    };
    let shop = Shop::open(bed, "autoscaled", plan).await?;
    let primary = shop
        .autoscaler(HPA, "HorizontalPodAutoscaler", "app-primary")
        .await?;
    ensure!(
        primary["scaleTargetRef"]["name"] == "app-primary"
            && primary["minReplicas"] == 3
            && primary["maxReplicas"] == 6,
        "the primary has an autoscaler of its own, with the bounds that the canary asks for: {primary}"
    );
    bed.wait("the primary's minimum of 3", PATIENCE, async || {
        Ok((shop.ready_replicas("app-primary").await? == 3).then_some(()))
    })
    .await?;

    // What a busy afternoon does: the autoscaler's number, which no promotion may take back.
    shop.namespace
        .patch(
            "apps/v1",
            "Deployment",
            "app-primary",
            &json!({"spec": {"replicas": 4}}),
        )
        .await?;
    let edit = json!({"spec": {"maxReplicas": 5, "metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
    ]}});
    shop.namespace
        .patch(HPA, "HorizontalPodAutoscaler", "app", &edit)
        .await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    let canary = shop.ready_replicas("app").await?;
    ensure!(
        canary >= 2,
        "the canary has its minimum before it has visitors, but {canary} were ready"
    );
    shop.wait_phase("Succeeded").await?;
    let (asked, ready) = (
        shop.replicas("app-primary").await?,
        shop.ready_replicas("app-primary").await?,
    );
    ensure!(
        asked == 4 && ready >= 4,
        "the primary keeps what its autoscaler gave it, but asks for {asked} and has {ready}"
    );
    let primary = shop
        .autoscaler(HPA, "HorizontalPodAutoscaler", "app-primary")
        .await?;
    ensure!(
        primary["metrics"] == edit["spec"]["metrics"]
            && primary["minReplicas"] == 3
            && primary["maxReplicas"] == 6,
        "the primary's autoscaler follows on promotion and keeps its bounds: {primary}"
    );
    // The autoscaler controller looks each second: three looks without a change show that the target may rest.
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(
        shop.replicas("app").await? == 0,
        "the target rests although its autoscaler has a minimum"
    );
    shop.wait_only("1.1.0").await?;
    let report = shop.close().await?;
    measured("visitors", &report);
    println!("        {canary} canary pods at the first visitor, {ready} primary pods at the end");
    flawless(&report)
}

/// Which values an annotation had on each object of a kind, in order.
struct Annotations {
    seen: Arc<Mutex<BTreeMap<String, Vec<Option<String>>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Annotations {
    async fn watch(
        shop: &Shop<'_>,
        api_version: &str,
        kind: &str,
        annotation: &'static str,
    ) -> Result<Self> {
        let api = shop
            .bed
            .api_of(api_version, kind, shop.namespace.name())
            .await?;
        let seen = Arc::<Mutex<BTreeMap<String, Vec<Option<String>>>>>::default();
        let into = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut changes = watcher(api, watcher::Config::default())
                .applied_objects()
                .boxed();
            while let Some(change) = changes.next().await {
                let Ok(object) = change else { continue };
                let value = object.annotations().get(annotation).cloned();
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                let values = seen.entry(object.name_any()).or_default();
                if values.last() != Some(&value) {
                    values.push(value);
                }
            }
        });
        Ok(Self { seen, task })
    }

    fn of(&self, name: &str) -> Vec<Option<String>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(name).cloned().unwrap_or_default()
    }
}

impl Drop for Annotations {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A KEDA `ScaledObject`: the primary's copy asks about the primary, keeps its bounds and is never paused; the target's is held at zero
/// exactly while the target rests.
pub async fn event_driven(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        spec: json!({"autoscalerRef": {
            "apiVersion": KEDA, "kind": "ScaledObject", "name": "app",
            "primaryScalerReplicas": {"minReplicas": 3},
        }}),
        beside: vec![json!({
            "apiVersion": KEDA, "kind": "ScaledObject",
            "metadata": {"name": "app", "labels": {"team": "sales"}},
            "spec": {
                "scaleTargetRef": {"name": "app"},
                "pollingInterval": 10, "cooldownPeriod": 60, "minReplicaCount": 2, "maxReplicaCount": 8,
                "advanced": {"horizontalPodAutoscalerConfig": {"name": "app-by-requests"}},
                "triggers": [{"type": "prometheus", "name": "requests", "metadata": {
                    "serverAddress": "http://127.0.0.1:9090", "threshold": "100",
                    "query": "sum(rate(http_request_duration_seconds_count{job=\"app\"}[30s]))",
                }}],
            },
        })],
        ..Plan::default()
    };
    let shop = Shop::open(bed, "event-driven", plan).await?;
    let pauses = Annotations::watch(&shop, KEDA, "ScaledObject", PAUSED).await?;
    let primary = shop.autoscaler(KEDA, "ScaledObject", "app-primary").await?;
    ensure!(
        primary["scaleTargetRef"]["name"] == "app-primary"
            && primary["minReplicaCount"] == 3
            && primary["maxReplicaCount"] == 8
            && primary["advanced"]["horizontalPodAutoscalerConfig"]["name"]
                == "app-by-requests-primary"
            && primary["triggers"][0]["metadata"]["query"]
                == "sum(rate(http_request_duration_seconds_count{job=\"app-primary\"}[30s]))",
        "the primary's ScaledObject scales the primary by the primary's requests: {primary}"
    );
    shop.namespace
        .patch(
            KEDA,
            "ScaledObject",
            "app",
            &json!({"spec": {"maxReplicaCount": 10}}),
        )
        .await?;
    shop.release("1.1.0").await?;
    shop.wait_weight(20).await?;
    let canary = shop.ready_replicas("app").await?;
    ensure!(
        canary >= 2,
        "the canary has the minimum of its ScaledObject before it has visitors, but {canary} were ready"
    );
    shop.wait_phase("Succeeded").await?;
    let primary = shop.autoscaler(KEDA, "ScaledObject", "app-primary").await?;
    ensure!(
        primary["minReplicaCount"] == 3 && primary["maxReplicaCount"] == 10,
        "the primary's ScaledObject follows on promotion and keeps its bounds: {primary}"
    );
    let held = Some("0".to_owned());
    bed.wait("the target's pauses", Duration::from_secs(10), async || {
        let pauses = pauses.of("app");
        ensure!(
            pauses.ends_with(&[held.clone(), None, held.clone()]),
            "it was paused like that: {pauses:?}"
        );
        Ok(Some(()))
    })
    .await?;
    ensure!(
        pauses.of("app-primary") == [None],
        "the primary's was paused: {:?}",
        pauses.of("app-primary")
    );
    shop.wait_only("1.1.0").await?;
    let report = shop.close().await?;
    measured("visitors", &report);
    flawless(&report)
}

/// Answers to one visitor who carries this cookie: how many from each version.
async fn visit(shop: &Shop<'_>, cookie: Option<&str>, times: u32) -> Result<BTreeMap<String, u32>> {
    let http = reqwest::Client::new();
    let mut answers = BTreeMap::new();
    for _ in 0..times {
        let mut request = http.get(shop.gateway.address()).header("host", &shop.host);
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, format!("theme=dark; {cookie}"));
        }
        let answer = request.send().await?;
        let version = answer
            .headers()
            .get(crate::demo_app::VERSION_HEADER)
            .and_then(|version| version.to_str().ok())
            .with_context(|| format!("an answer of {} without a version", answer.status()))?;
        *answers.entry(version.to_owned()).or_default() += 1;
    }
    Ok(answers)
}

/// Waits until a browser that comes with a run's cookie is told to forget it.
async fn wait_forgotten(shop: &Shop<'_>, cookie: &str) -> Result<()> {
    shop.bed
        .wait(
            "the browser of a regular to be told to forget",
            Duration::from_secs(10),
            async || {
                let answer = reqwest::Client::new()
                    .get(shop.gateway.address())
                    .header("host", &shop.host)
                    .header(COOKIE, cookie)
                    .send()
                    .await?;
                let told: Vec<&str> = answer
                    .headers()
                    .get_all(SET_COOKIE)
                    .iter()
                    .filter_map(|value| value.to_str().ok())
                    .collect();
                ensure!(
                    told == [format!("{cookie}; Max-Age=-1")],
                    "it was told {told:?}"
                );
                Ok(Some(()))
            },
        )
        .await
}

/// Session affinity: who has met a side stays on it, whatever the weights; after the run browsers are told to forget.
pub async fn regulars(bed: &Bed) -> Result<()> {
    stay(bed, "regulars", Gateway::Traefik).await
}

/// The same behind a gateway, under the name of a story.
pub async fn stay(bed: &Bed, story: &str, gateway: Gateway) -> Result<()> {
    shop::serin(bed).await?;
    // While the primary's pods are replaced, it answers with both versions: what is asked of affinity ends before that.
    let gates = Gates::start().await?;
    gates.close("promotion");
    let plan = Plan {
        analysis: json!({
            "interval": "5s", "threshold": 2, "stepWeight": 25, "maxWeight": 50,
            "webhooks": gates.hook("confirm-promotion", "promotion"),
            "sessionAffinity": {"cookieName": "regular", "primaryCookieName": "regular-primary", "maxAge": 600},
        }),
        gateway,
        rate: 0.0,
        ..Plan::default()
    };
    let mut shop = Shop::open(bed, story, plan).await?;
    bed.wait_served_at(gateway.address(), &shop.host, Duration::from_secs(30))
        .await?;
    let mut visitors = LoadPlan::new(gateway.address(), Some(&shop.host), RATE);
    visitors.users = 150;
    visitors.cookies = true;
    shop.load = Some(Load::start_plan(&visitors)?);
    let opened = shop.load()?.mark();
    shop.release("1.1.0").await?;
    let status = shop.wait_weight(50).await?;
    let cookie = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    let (canary, primary) = (
        cookie("sessionAffinityCookie"),
        cookie("primarySessionAffinityCookie"),
    );
    ensure!(
        canary.starts_with("regular=") && primary.starts_with("regular-primary="),
        "both sides have a cookie: {status}"
    );
    bed.wait("the gateway to split in halves", PATIENCE, async || {
        let rules = shop.rules().await?;
        ensure!(
            rules.len() == 3,
            "the route has a rule for each cookie: {rules:?}"
        );
        Ok((visit(&shop, None, 20).await?.len() == 2).then_some(()))
    })
    .await?;
    for (carried, version) in [(&canary, "1.1.0"), (&primary, "1.0.0")] {
        let answers = visit(&shop, Some(carried), 30).await?;
        ensure!(
            answers == BTreeMap::from([(version.to_owned(), 30)]),
            "a visitor with {carried} stays on {version}, but was answered by {answers:?}"
        );
    }
    shop.wait_phase("WaitingPromotion").await?;
    let before = shop.load()?.report_since(opened);
    gates.open("promotion");
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;
    let status = shop.status().await?;
    ensure!(
        status["previousSessionAffinityCookie"] == canary.as_str()
            && status["sessionAffinityCookie"].is_null()
            && status["primarySessionAffinityCookie"].is_null(),
        "the run's cookies are over: {status}"
    );
    wait_forgotten(&shop, &canary).await?;
    let secrets: Vec<&str> = [&canary, &primary]
        .iter()
        .filter_map(|cookie| Some(cookie.split_once('=')?.1))
        .collect();
    let events = shop.events().await?;
    ensure!(
        !events
            .iter()
            .any(|event| secrets.iter().any(|secret| event.contains(secret))),
        "no event carries a cookie's value: {events:?}"
    );
    let report = shop.close().await?;
    let back = before
        .switches
        .get(&("1.1.0".to_owned(), "1.0.0".to_owned()))
        .copied()
        .unwrap_or(0);
    measured(story, &report);
    let route = match gateway {
        Gateway::Istio => "istio, VirtualService",
        _ => "gatewayapi:v1, HTTPRoute",
    };
    let found = format!(
        "by cookie: {back} of {} answers led back",
        before.answered()
    );
    let figures = Figures::new(route, gateway.name(), &report, 0, found);
    bed.figures().note(story, figures);
    flawless(&report)?;
    ensure!(
        back == 0,
        "nobody who met 1.1.0 may meet 1.0.0 again, but {back} did:\n{report}"
    );
    Ok(())
}

/// Opening, a good release, a bad one, second thoughts that start nothing, the same mistake again, a fix, and the end.
pub async fn whole_life(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let plan = Plan {
        spec: json!({"revertOnDeletion": true}),
        ..Plan::default()
    };
    let shop = Shop::open(bed, "whole-life", plan).await?;
    shop.release("1.1.0").await?;
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Succeeded").await?;
    let bad = [("ERROR_RATE", "0.3")];
    shop.release_with("1.2.0", &bad).await?;
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Failed").await?;

    // Back to what the primary runs: nothing is new about that.
    let runs = shop.runs().await?;
    shop.release("1.1.0").await?;
    tokio::time::sleep(INTERVAL * 3).await;
    let status = shop.status().await?;
    ensure!(
        status["phase"] == "Failed" && shop.runs().await? == runs,
        "going back to the promoted revision starts no run: {status}"
    );

    shop.release_with("1.2.0", &bad).await?;
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Failed").await?;
    shop.release("1.2.1").await?;
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.2.1").await?;
    let status = shop.status().await?;
    let outcomes: Vec<&str> = status["history"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|run| run["outcome"].as_str())
        .collect();
    println!("        runs: {}", outcomes.join(", "));
    let count = |outcome: &str| outcomes.iter().filter(|one| **one == outcome).count();
    ensure!(
        count("Promoted") == 2 && count("RolledBack") == 2,
        "two releases were promoted and two attempts failed: {outcomes:?}"
    );

    ensure!(shop.replicas("app").await? == 0, "the target sleeps");
    let canaries = bed
        .api_of("flagger.app/v1beta1", "Canary", shop.namespace.name())
        .await?;
    let canary = canaries.get("app").await?;
    ensure!(
        canary
            .finalizers()
            .iter()
            .any(|name| name == "finalizer.flagger.app"),
        "the canary has its finalizer: {:?}",
        canary.finalizers()
    );
    // With the canary its route goes, as in Flagger; so the visitors are counted until now.
    let report = shop.load()?.settled_since(Mark::BEGINNING).await;
    measured("visitors", &report);
    canaries.delete("app", &DeleteParams::background()).await?;
    bed.wait("the canary to be gone", PATIENCE, async || {
        Ok(canaries.get_opt("app").await?.is_none().then_some(()))
    })
    .await?;
    ensure!(
        shop.replicas("app").await? == 2,
        "the target has its replicas back"
    );
    shop.wait_ready("app").await?;
    let deployments = bed
        .api_of("apps/v1", "Deployment", shop.namespace.name())
        .await?;
    bed.wait("the primary to be gone", PATIENCE, async || {
        Ok(deployments
            .get_opt("app-primary")
            .await?
            .is_none()
            .then_some(()))
    })
    .await?;
    only_failed(&report, "1.2.0")
}

impl Shop<'_> {
    /// How many runs the status remembers.
    async fn runs(&self) -> Result<usize> {
        Ok(self.status().await?["history"]
            .as_array()
            .map_or(0, Vec::len))
    }
}

/// Nothing but a config changes: that is a revision too, and the primary reads the old one until the new one is promoted.
pub async fn new_settings(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    let config = |values: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": values});
    let plan = Plan {
        container: json!({"envFrom": [{"configMapRef": {"name": "settings"}}]}),
        beside: vec![config(json!({"VERSION": "blue"}))],
        ..Plan::default()
    };
    let shop = Shop::open(bed, "new-settings", plan).await?;
    ensure!(
        shop.setting("settings-primary").await? == "blue",
        "the primary has a copy of its own"
    );
    shop.wait_only("blue").await?;

    shop.apply_json(&config(json!({"VERSION": "green"})))
        .await?;
    shop.note("changed the settings to green".to_owned());
    shop.wait_weight(60).await?;
    ensure!(
        shop.setting("settings-primary").await? == "blue",
        "the primary's copy waits for the promotion"
    );
    shop.wait_phase("Succeeded").await?;
    ensure!(
        shop.setting("settings-primary").await? == "green",
        "the promotion brings the primary's copy"
    );
    shop.wait_only("green").await?;

    shop.apply_json(&config(json!({"VERSION": "red", "ERROR_RATE": "0.2"})))
        .await?;
    shop.note("changed the settings to red".to_owned());
    shop.wait_phase("Failed").await?;
    ensure!(
        shop.setting("settings-primary").await? == "green",
        "bad settings never reach the primary"
    );
    shop.wait_only("green").await?;
    let versions: BTreeSet<String> = shop
        .load()?
        .report_since(Mark::BEGINNING)
        .versions
        .into_keys()
        .collect();
    let report = shop.close().await?;
    measured("visitors", &report);
    ensure!(
        versions.len() == 3,
        "visitors met all three settings: {versions:?}"
    );
    only_failed(&report, "red")
}

impl Shop<'_> {
    async fn setting(&self, config_map: &str) -> Result<String> {
        let config = self.namespace.get("v1", "ConfigMap", config_map).await?;
        Ok(config.data["data"]["VERSION"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }
}
