//! The ingress planes: releases behind Traefik's own resources, behind an Ingress with nginx's annotations and behind Contour's `HTTPProxy`, with
//! visitors in the shop, and what people do to the objects that Serin steers with meanwhile.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::shop::{self, Gateway, PATIENCE, Plan, RATE, Shop, flawless, only_failed};
use crate::bed::Bed;
use crate::load::{HeaderGroup, Load, LoadPlan, Report};

/// What differs from plane to plane.
struct Plane {
    provider: &'static str,
    gateway: Gateway,
    /// `apiVersion`, kind and name of the object that Serin steers with.
    object: (&'static str, &'static str, &'static str),
    /// Weights of the primary and the canary in it.
    weights: fn(&Value) -> (i64, i64),
    /// What somebody does to the weights by hand, as a JSON patch.
    edit: fn() -> Value,
    /// What somebody adds, as a JSON patch, and where it is found.
    addition: fn() -> (Value, &'static str),
    /// The user's own objects, and the spec of the canary that goes with them.
    own: fn() -> Vec<Value>,
    spec: fn() -> Value,
    /// How the release is measured.
    metrics: fn() -> Value,
    /// The requests of the canary as the plane counts them, for the built-in queries; empty where the app is measured.
    counted: &'static str,
    /// Whether requests are lost while the object is away.
    needed: bool,
}

const BUILT_IN: fn() -> Value = || {
    json!([
        {"name": "request-success-rate", "interval": "5s", "thresholdRange": {"min": 99}},
        {"name": "request-duration", "interval": "5s", "thresholdRange": {"max": 1000}},
    ])
};

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn by_name(services: &Value, name: &str) -> i64 {
    services
        .as_array()
        .into_iter()
        .flatten()
        .find(|service| service["name"] == name)
        .map_or(0, |service| number(&service["weight"]))
}

const TRAEFIK: Plane = Plane {
    provider: "traefik",
    gateway: Gateway::Ingress,
    object: ("traefik.io/v1alpha1", "TraefikService", "app"),
    weights: |object| {
        let services = &object["spec"]["weighted"]["services"];
        (
            by_name(services, "app-primary"),
            by_name(services, "app-canary"),
        )
    },
    edit: || {
        json!([
            {"op": "replace", "path": "/spec/weighted/services/0/weight", "value": 5},
            {"op": "replace", "path": "/spec/weighted/services/1/weight", "value": 95},
        ])
    },
    addition: || {
        (
            json!([{"op": "add", "path": "/spec/weighted/services/0/passHostHeader", "value": true}]),
            "/spec/weighted/services/0/passHostHeader",
        )
    },
    own: || {
        vec![json!({
            "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": {"name": "app"},
            "spec": {
                "entryPoints": ["web"],
                "routes": [{
                    "kind": "Rule", "match": "Host(`app.${NAMESPACE}.bed`)",
                    "services": [{"kind": "TraefikService", "name": "app"}],
                }],
            },
        })]
    },
    spec: || json!({}),
    metrics: BUILT_IN,
    counted: "traefik_service_request_duration_seconds_bucket{service=~\"${NAMESPACE}-app-canary-[0-9a-zA-Z-]+@kubernetescrd\", le=\"+Inf\"}",
    needed: true,
};

const NGINX: Plane = Plane {
    provider: "nginx",
    gateway: Gateway::Ingress,
    object: ("networking.k8s.io/v1", "Ingress", "app-canary"),
    weights: |object| {
        let weight = object["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight"]
            .as_str()
            .and_then(|weight| weight.parse().ok())
            .filter(|_| {
                object["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-by-header"]
                    .is_null()
            })
            .unwrap_or(-1);
        (100 - weight, weight)
    },
    edit: || {
        let weight = "/metadata/annotations/nginx.ingress.kubernetes.io~1canary-weight";
        let header = "/metadata/annotations/nginx.ingress.kubernetes.io~1canary-by-header";
        json!([
            {"op": "replace", "path": weight, "value": "95"},
            {"op": "add", "path": header, "value": "x-night-shift"},
        ])
    },
    addition: || {
        (
            json!([{"op": "add", "path": "/metadata/annotations/example.com~1owner", "value": "night-shift"}]),
            "/metadata/annotations/example.com~1owner",
        )
    },
    own: || vec![own_ingress(), success_template()],
    spec: || json!({"ingressRef": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "app"}}),
    // Traefik has not the metrics of ingress-nginx.
    metrics: || json!([{"name": "success", "templateRef": {"name": "success"}, "interval": "5s", "thresholdRange": {"min": 99}}]),
    counted: "",
    needed: false,
};

const CONTOUR: Plane = Plane {
    provider: "contour",
    gateway: Gateway::Contour,
    object: ("projectcontour.io/v1", "HTTPProxy", "app"),
    weights: |object| {
        let services = &object["spec"]["routes"][0]["services"];
        (
            by_name(services, "app-primary"),
            by_name(services, "app-canary"),
        )
    },
    edit: || {
        json!([
            {"op": "replace", "path": "/spec/routes/0/services/0/weight", "value": 5},
            {"op": "replace", "path": "/spec/routes/0/services/1/weight", "value": 95},
        ])
    },
    addition: || {
        (
            // Nothing that gives Envoy a cluster anew: Contour sends routes and clusters apart, and a request may come between.
            json!([{"op": "add", "path": "/spec/routes/0/responseHeadersPolicy", "value": {"set": [{"name": "x-night", "value": "shift"}]}}]),
            "/spec/routes/0/responseHeadersPolicy/set/0/name",
        )
    },
    own: || {
        vec![json!({
            "apiVersion": "projectcontour.io/v1", "kind": "HTTPProxy", "metadata": {"name": "root"},
            "spec": {
                "virtualhost": {"fqdn": "app.${NAMESPACE}.bed"},
                "includes": [{"name": "app", "conditions": [{"prefix": "/"}]}],
            },
        })]
    },
    spec: || json!({}),
    // Envoy brings its histograms up to date every five seconds.
    metrics: || {
        let mut metrics = BUILT_IN();
        metrics[1]["interval"] = json!("10s");
        metrics
    },
    counted: "envoy_cluster_upstream_rq{envoy_cluster_name=~\"${NAMESPACE}_app-canary_[0-9a-zA-Z-]+\"}",
    needed: true,
};

fn own_ingress() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "app"},
        "spec": {
            "ingressClassName": "nginx",
            "rules": [{
                "host": "app.${NAMESPACE}.bed",
                "http": {"paths": [{
                    "path": "/", "pathType": "Prefix",
                    "backend": {"service": {"name": "app", "port": {"number": 80}}},
                }]},
            }],
        },
    })
}

/// The success rate of the new release's own pods.
fn success_template() -> Value {
    let pods = r#"namespace="{{ namespace }}", pod=~"{{ target }}-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)""#;
    let count = "http_request_duration_seconds_count";
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": {"name": "success"},
        "spec": {
            "provider": {"type": "prometheus", "address": "http://127.0.0.1:9090"},
            "query": format!(
                "100 * sum(rate({count}{{{pods}, status!~\"5..\"}}[{{{{ interval }}}}])) / sum(rate({count}{{{pods}}}[{{{{ interval }}}}]))"
            ),
        },
    })
}

impl Plane {
    /// Brings up what carries the traffic.
    async fn start(&self, bed: &Bed) -> Result<()> {
        shop::serin(bed).await?;
        match self.gateway {
            Gateway::Traefik | Gateway::Istio => Ok(()),
            Gateway::Contour => bed.start_second_gateway().await,
            Gateway::Ingress => bed.start_ingress_gateway().await,
        }
    }

    fn plan(&self, analysis: Value) -> Plan {
        let mut spec = (self.spec)();
        spec["provider"] = json!(self.provider);
        spec["service"] = json!({"port": 80, "targetPort": 8080});
        let mut analysis = analysis;
        analysis["metrics"] = (self.metrics)();
        Plan {
            gateway: self.gateway,
            analysis,
            spec,
            beside: (self.own)(),
            ..Plan::default()
        }
    }

    async fn read(&self, shop: &Shop<'_>) -> Result<Value> {
        let (version, kind, name) = self.object;
        let object = shop.namespace.get(version, kind, name).await?;
        Ok(serde_json::to_value(object)?)
    }

    async fn wait_weights(&self, shop: &Shop<'_>, weights: (i64, i64)) -> Result<()> {
        let what = format!("weights {weights:?} in {}", self.object.1);
        shop.bed
            .wait(&what, PATIENCE, async || {
                Ok(((self.weights)(&self.read(shop).await?) == weights).then_some(()))
            })
            .await
    }

    /// Changes the object as somebody called `night-shift`.
    async fn patch(&self, shop: &Shop<'_>, operations: Value) -> Result<()> {
        let (version, kind, name) = self.object;
        let api = shop
            .bed
            .api_of(version, kind, shop.namespace.name())
            .await?;
        let params = PatchParams {
            field_manager: Some("night-shift".to_owned()),
            ..PatchParams::default()
        };
        let patch: Patch<Value> = Patch::Json(serde_json::from_value(operations)?);
        api.patch(name, &params, &patch).await?;
        shop.note(format!("night-shift wrote {kind} {name}"));
        Ok(())
    }
}

/// Waits until a second's answers are split as asked within four standard deviations; the share.
async fn measured(shop: &Shop<'_>, version: &str, percent: i64) -> Result<f64> {
    let settled = shop.load()?.mark();
    shop.bed
        .wait(
            &format!("a measured split of {percent} % for {version}"),
            Duration::from_secs(20),
            async || {
                let load = shop.load()?;
                let all = load.report_between(settled, load.mark());
                let recent = load.report_since(load.mark_ago(Duration::from_secs(1)));
                let share = recent.split_within(version, percent as f64 / 100.0, 4.0);
                Ok(share.ok().filter(|_| all.answered() > 200))
            },
        )
        .await
}

pub async fn traefik_release(bed: &Bed) -> Result<()> {
    release(bed, "traefik-release", &TRAEFIK).await
}

pub async fn nginx_release(bed: &Bed) -> Result<()> {
    release(bed, "nginx-release", &NGINX).await
}

pub async fn contour_release(bed: &Bed) -> Result<()> {
    release(bed, "contour-release", &CONTOUR).await
}

/// A good release with a busy night shift, a bad one, and one during which the object that steers is deleted.
async fn release(bed: &Bed, name: &str, plane: &Plane) -> Result<()> {
    plane.start(bed).await?;
    let plan = plane.plan(json!({"threshold": 2, "stepWeight": 30, "maxWeight": 60}));
    let shop = Shop::open(bed, name, plan).await?;
    plane.wait_weights(&shop, (100, 0)).await?;

    let opened = shop.load()?.mark();
    shop.release("1.1.0").await?;
    plane.wait_weights(&shop, (70, 30)).await?;
    let share = measured(&shop, "1.1.0", 30).await?;
    let (added, pointer) = (plane.addition)();
    plane.patch(&shop, added).await?;
    plane.wait_weights(&shop, (40, 60)).await?;
    plane.patch(&shop, (plane.edit)()).await?;
    let edited = Instant::now();
    plane.wait_weights(&shop, (40, 60)).await?;
    let back = edited.elapsed();
    ensure!(
        back < Duration::from_secs(1),
        "putting the weights back took {back:?}"
    );
    if !plane.counted.is_empty() {
        let counted = plane.counted.replace("${NAMESPACE}", shop.namespace.name());
        let rate = bed
            .query(&format!("sum(rate({counted}[5s]))"))
            .await?
            .context("the plane counts the canary's requests under the name that is asked for")?;
        ensure!(
            rate > RATE * 0.1,
            "the plane counts {rate} requests a second"
        );
    }
    shop.wait_phase("Succeeded").await?;
    plane.wait_weights(&shop, (100, 0)).await?;
    let object = plane.read(&shop).await?;
    ensure!(
        object.pointer(pointer).is_some(),
        "what was added in mid-run stays: {object}"
    );
    shop.wait_only("1.1.0").await?;
    flawless(&shop.load()?.report_since(opened))?;

    let opened = shop.load()?.mark();
    shop.release_with("1.2.0", &[("ERROR_RATE", "0.05")])
        .await?;
    shop.wait_phase("Progressing").await?;
    shop.wait_phase("Failed").await?;
    plane.wait_weights(&shop, (100, 0)).await?;
    shop.wait_only("1.1.0").await?;
    let bad = shop.load()?.settled_since(opened).await;
    ensure!(
        bad.failed_of("1.2.0") > 0,
        "the bad release did fail requests"
    );
    only_failed(&bad, "1.2.0")?;

    let opened = shop.load()?.mark();
    shop.release("1.3.0").await?;
    plane.wait_weights(&shop, (70, 30)).await?;
    measured(&shop, "1.3.0", 30).await?;
    let (version, kind, object) = plane.object;
    let api = bed.api_of(version, kind, shop.namespace.name()).await?;
    if plane.needed {
        flawless(&shop.load()?.settled_since(opened).await)?;
    }
    api.delete(object, &DeleteParams::background()).await?;
    let deleted = Instant::now();
    bed.wait(
        "the object to be back",
        Duration::from_secs(10),
        async || Ok(api.get_opt(object).await?.map(drop)),
    )
    .await?;
    let away = deleted.elapsed();
    let status = shop.status().await?;
    let weight = status["canaryWeight"].as_i64().unwrap_or(-1);
    ensure!(
        (plane.weights)(&plane.read(&shop).await?) == (100 - weight, weight) && weight >= 30,
        "it comes back with the split of the run: {status}"
    );
    let mark = if plane.needed {
        // Until the plane has read it nobody is led anywhere.
        bed.wait_served_at(plane.gateway.address(), &shop.host, Duration::from_secs(10))
            .await?;
        shop.load()?.mark()
    } else {
        opened
    };
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.3.0").await?;
    flawless(&shop.load()?.settled_since(mark).await)?;
    println!(
        "        30 % measured as {:.1} %; weights put back after {back:?}, the object rebuilt after {away:?}",
        share * 100.0
    );
    shop.close().await.map(drop)
}

/// A/B behind nginx's annotations: by a header or by a cookie.
pub async fn nginx_by_header(bed: &Bed) -> Result<()> {
    by_header(
        bed,
        "nginx-by-header",
        &NGINX,
        json!([{"headers": {"x-canary": {"exact": "insider"}}}, {"headers": {"cookie": {"exact": "insider"}}}]),
        &[
            vec![("x-canary", "insider")],
            vec![("cookie", "a=b; insider=always")],
        ],
        &[vec![("x-canary", "outsider")], vec![("cookie", "insider=no")]],
    )
    .await
}

/// A/B behind an `HTTPProxy`: by two headers at once, one of them by its beginning.
pub async fn contour_by_header(bed: &Bed) -> Result<()> {
    by_header(
        bed,
        "contour-by-header",
        &CONTOUR,
        json!([{"headers": {"x-canary": {"exact": "insider"}, "x-team": {"prefix": "shop-"}}}]),
        &[vec![("x-canary", "insider"), ("x-team", "shop-window")]],
        &[
            vec![("x-canary", "insider")],
            vec![("x-canary", "insider"), ("x-team", "my-shop-window")],
            vec![("x-team", "shop-window")],
        ],
    )
    .await
}

type Carried = Vec<(&'static str, &'static str)>;

/// Of ten visitors two or more are in the test; they get the new release, all others the old one, until it is promoted.
async fn by_header(
    bed: &Bed,
    name: &str,
    plane: &Plane,
    matches: Value,
    insiders: &[Carried],
    outsiders: &[Carried],
) -> Result<()> {
    plane.start(bed).await?;
    let mut plan = plane.plan(json!({"threshold": 2, "iterations": 3, "match": matches}));
    plan.rate = 0.0;
    let mut shop = Shop::open(bed, name, plan).await?;
    bed.wait_served_at(plane.gateway.address(), &shop.host, Duration::from_secs(30))
        .await?;
    let mut visitors = LoadPlan::new(plane.gateway.address(), Some(&shop.host), RATE);
    visitors.users = 40;
    let groups = [("in", insiders), ("out", outsiders)];
    visitors.groups = groups
        .into_iter()
        .flat_map(|(side, all)| {
            all.iter()
                .enumerate()
                .map(move |(index, headers)| (side, index, headers))
        })
        .map(|(side, index, headers)| HeaderGroup {
            name: format!("{side}-{index}"),
            share: 0.15,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        })
        .collect();
    let share = 0.15 * insiders.len() as f64;
    shop.load = Some(Load::start_plan(&visitors)?);
    shop.release("1.1.0").await?;
    shop.wait_weight(100).await?;
    bed.wait("the insiders' answers from 1.1.0", PATIENCE, async || {
        let load = shop.load()?;
        let recent = load.report_since(load.mark_ago(Duration::from_secs(1)));
        Ok(
            (recent.answered() > 100 && recent.split_within("1.1.0", share, 4.0).is_ok())
                .then_some(()),
        )
    })
    .await?;
    let judged = shop.load()?.mark();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let report = shop.load()?.report_between(judged, shop.load()?.mark());
    told_apart(&report, insiders.len(), outsiders.len())?;
    shop.wait_phase("Succeeded").await?;
    shop.wait_only("1.1.0").await?;
    flawless(&shop.close().await?)
}

/// Those in the test got the new release and nothing else, all others the old one.
fn told_apart(report: &Report, insiders: usize, outsiders: usize) -> Result<()> {
    ensure!(
        report.groups.len() > insiders + outsiders,
        "every group and those without header were answered: {:?}",
        report.groups
    );
    for (group, versions) in &report.groups {
        let expected = if group.starts_with("in-") {
            "1.1.0"
        } else {
            "1.0.0"
        };
        ensure!(
            versions.keys().all(|version| version == expected),
            "group {group} gets {expected} alone: {versions:?}"
        );
    }
    Ok(())
}
