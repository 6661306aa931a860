//! What a rollout of five steps costs the API server behind each router, counted from its audit log. Most of these meshes and ingresses have
//! no plane here: their objects are real, nobody acts on them. Those that tell whether a route is applied have theirs, Knative a stand-in.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::economy::{BUDGET, work};
use super::shop::{self, PATIENCE, own_service};
use super::without_plane::knative::{SERVING, StandIn};
use crate::bed::audit::{Audit, AuditMark};
use crate::bed::{Bed, Namespace};
use crate::bench::idle_app;
use crate::tools::{self, project_root};

const DEFINITIONS: &str = include_str!("../../manifests/objects-without-plane.yaml");
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
/// Rollouts that go on at the same time.
const SIDE_BY_SIDE: usize = 4;
/// Steps of a rollout, and what one of them may cost: its status, its event, its route.
const STEPS: usize = 5;
const OF_A_STEP: usize = 3;
/// Steps between the first and the last.
const BETWEEN: usize = STEPS - 2;
/// Names the file that the table is written to, for `docs/testing.md`.
const FILE: &str = "SERIN_ROUTER_BUDGET";
const HEAD: &str = "| router | requests | per step | events | status | routes | workloads |\n|---|---:|---:|---:|---:|---:|---:|\n";
/// Without a request for so long, a canary is at rest.
const REST: Duration = Duration::from_secs(3);

/// One router. `${HOST}` is the host name of its canary.
struct Router {
    provider: &'static str,
    /// Further fields of `spec` and of `spec.service`.
    spec: fn() -> Value,
    service: fn() -> Value,
    /// What the user brings.
    beside: fn() -> Vec<Value>,
}

const NOTHING: fn() -> Value = || json!({});

const fn plain(provider: &'static str) -> Router {
    Router {
        provider,
        spec: NOTHING,
        service: NOTHING,
        beside: Vec::new,
    }
}

const fn behind_a_gateway(provider: &'static str) -> Router {
    Router {
        service: || {
            json!({
                "hosts": ["${HOST}"],
                "gatewayRefs": [{"name": "traefik", "namespace": "gateway"}],
            })
        },
        ..plain(provider)
    }
}

const fn behind_an_ingress(provider: &'static str) -> Router {
    Router {
        spec: || json!({"ingressRef": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "app"}}),
        beside: || vec![ingress()],
        ..plain(provider)
    }
}

/// Routes of the user's own, which have no provider.
const OWN_ROUTE: &str = "spec.routeRef";

/// What is released there is a Revision that Knative itself makes, and no Deployment.
const KNATIVE: &str = "knative";

const ROUTERS: &[Router] = &[
    plain("kubernetes"),
    plain("istio"),
    behind_a_gateway("gatewayapi:v1beta1"),
    behind_a_gateway("gatewayapi:v1"),
    Router {
        spec: || json!({"routeRef": {"apiVersion": GATEWAY_API, "kind": "HTTPRoute", "name": "mine"}}),
        beside: || vec![own_service(), own_route()],
        ..plain(OWN_ROUTE)
    },
    plain("linkerd"),
    plain("osm"),
    plain("smi:v1alpha1"),
    plain("smi:v1alpha2"),
    plain("smi:v1alpha3"),
    plain("kuma"),
    plain("gloo"),
    Router {
        service: || json!({"meshName": "global"}),
        ..plain("appmesh")
    },
    plain("appmesh:v1beta2"),
    Router {
        beside: || vec![root_proxy()],
        ..plain("contour")
    },
    behind_an_ingress("nginx"),
    behind_an_ingress("skipper"),
    plain("traefik"),
    Router {
        spec: || json!({"routeRef": {"apiVersion": "apisix.apache.org/v2", "kind": "ApisixRoute", "name": "mine"}}),
        beside: || vec![apisix_route()],
        ..plain("apisix")
    },
    Router {
        spec: || json!({"targetRef": {"apiVersion": SERVING, "kind": "Service", "name": "app"}, "service": null}),
        ..plain(KNATIVE)
    },
];

fn ingress() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "app"},
        "spec": {"rules": [{
            "host": "${HOST}",
            "http": {"paths": [{
                "path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": "app", "port": {"number": 80}}},
            }]},
        }]},
    })
}

fn own_route() -> Value {
    json!({
        "apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"name": "mine"},
        "spec": {
            "parentRefs": [{"name": "traefik", "namespace": "gateway"}],
            "hostnames": ["${HOST}"],
            "rules": [{"backendRefs": [
                {"name": "app", "port": 80, "weight": 100},
                {"name": "app-canary", "port": 80, "weight": 0},
            ]}],
        },
    })
}

fn root_proxy() -> Value {
    json!({
        "apiVersion": "projectcontour.io/v1", "kind": "HTTPProxy", "metadata": {"name": "root"},
        "spec": {
            "virtualhost": {"fqdn": "${HOST}"},
            "includes": [{"name": "app", "conditions": [{"prefix": "/"}]}],
        },
    })
}

fn apisix_route() -> Value {
    json!({
        "apiVersion": "apisix.apache.org/v2", "kind": "ApisixRoute", "metadata": {"name": "mine"},
        "spec": {"http": [{
            "name": "web",
            "match": {"hosts": ["${HOST}"], "paths": ["/*"]},
            "backends": [{"serviceName": "app", "servicePort": 80}],
        }]},
    })
}

/// A definition that takes any field, for a kind that has none on the bed.
fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

/// What one rollout cost.
struct Cost {
    provider: &'static str,
    all: Audit,
    /// Requests of the steps between the first, which tells of the analysis too, and the last, which ends with it.
    of_steps: usize,
}

impl Cost {
    fn of(&self, resources: &[&str]) -> usize {
        self.all
            .count(|request| resources.contains(&request.resource.as_str()))
    }

    fn row(&self) -> String {
        let (status, events) = (self.of(&["canaries/status"]), self.of(&["events"]));
        let workloads = self.of(&["deployments", "controllerrevisions"]);
        let all = self.all.requests.len();
        format!(
            "| {} | {all} | {} | {events} | {status} | {} | {workloads} |",
            self.provider,
            self.of_steps as f64 / BETWEEN as f64,
            all - events - status - workloads,
        )
    }
}

pub async fn run(bed: &Bed) -> Result<()> {
    let known: Vec<&str> = ROUTERS.iter().map(|router| router.provider).collect();
    for (provider, _) in serin::routing::table() {
        ensure!(
            known.contains(&provider),
            "no rollout is counted behind the router {provider}"
        );
    }
    bed.apply(DEFINITIONS).await?;
    let apisix = definition("apisix.apache.org", "v2", "ApisixRoute", "apisixroutes");
    bed.apply(&apisix.to_string()).await?;
    bed.install_istio_definitions().await?;
    let traefik = tokio::task::spawn_blocking(tools::traefik_definitions).await??;
    bed.apply(&std::fs::read_to_string(traefik)?).await?;
    bed.start_second_gateway().await?;
    shop::serin(bed).await?;
    let costs: Vec<Cost> = stream::iter(ROUTERS)
        .map(async |router| {
            rollout(bed, router)
                .await
                .with_context(|| format!("provider {}", router.provider))
        })
        .buffered(SIDE_BY_SIDE)
        .try_collect()
        .await?;
    let mut table = HEAD.to_owned();
    for cost in &costs {
        table.extend([&cost.row(), "\n"]);
    }
    print!("{table}");
    if let Some(file) = std::env::var_os(FILE) {
        std::fs::write(project_root()?.join(file), &table)?;
    }
    for cost in &costs {
        let (all, provider) = (cost.all.requests.len(), cost.provider);
        // A route of the user's own is given back at the end. A patch that came after the gateway's is refused, and the route and the canary
        // are read again.
        let refused = cost.all.count(|request| request.code >= 400);
        let budget = BUDGET + usize::from(provider == OWN_ROUTE) + 3 * refused;
        ensure!(
            all <= budget && cost.of_steps <= OF_A_STEP * BETWEEN,
            "a rollout behind {provider} may make {budget} requests, each step {OF_A_STEP}, but:\n{}",
            cost.all
        );
    }
    Ok(())
}

/// A Service of Knative's.
fn knative_service(version: &str) -> Value {
    json!({
        "apiVersion": SERVING, "kind": "Service", "metadata": {"name": "app"},
        "spec": {
            "template": {"spec": {"containers": [{"image": format!("serin-demo-app:{version}")}]}},
            "traffic": [{"latestRevision": true, "percent": 100}],
        },
    })
}

/// A release in five steps, in a namespace of its own.
async fn rollout(bed: &Bed, router: &Router) -> Result<Cost> {
    let name: String = router
        .provider
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '-' })
        .collect();
    let place = bed
        .scenario_namespace(&format!("budget-{}", name.to_lowercase()))
        .await?;
    if router.provider != KNATIVE {
        return release(bed, &place, router).await;
    }
    let knative = StandIn::of(bed, &place, "app").await?;
    tokio::select! {
        stopped = knative.run() => match stopped? {},
        cost = release(bed, &place, router) => cost,
    }
}

/// A release in five steps.
async fn release(bed: &Bed, place: &Namespace<'_>, router: &Router) -> Result<Cost> {
    let apply = async |object: Value| {
        let text = object.to_string().replace("${HOST}", &place.host("app"));
        place.apply(&text).await
    };
    for object in (router.beside)() {
        apply(object).await?;
    }
    apply(template()).await?;
    if router.provider == KNATIVE {
        apply(knative_service("1.0.0")).await?;
    } else {
        apply(idle_app("app")).await?;
        place.wait_ready("app", PATIENCE).await?;
    }
    apply(canary(router)).await?;
    place.wait_phase("app", "Initialized", PATIENCE).await?;
    let mark = rest(bed, place).await?;
    if router.provider == KNATIVE {
        let next = json!({"spec": {"template": knative_service("2.0.0")["spec"]["template"]}});
        place.patch(SERVING, "Service", "app", &next).await?;
    } else {
        place.release("app", "2.0.0").await?;
    }
    place.wait_phase("app", "Succeeded", PATIENCE).await?;
    rest(bed, place).await?;
    let mut all = of_place(bed, place, mark)?;
    all.requests.sort_by_key(|request| request.at);
    let transitions: Vec<_> = all
        .requests
        .iter()
        .filter(|request| request.resource == "canaries/status")
        .map(|request| request.at)
        .collect();
    // One for the new revision, then one for each step.
    let (Some(first), Some(last)) = (transitions.get(2), transitions.get(STEPS)) else {
        bail!("fewer status writes than steps:\n{all}");
    };
    let of_steps = all.count(|request| request.at >= *first && request.at < *last);
    Ok(Cost {
        provider: router.provider,
        all,
        of_steps,
    })
}

/// Serin's requests about one canary: in its namespace, or about an object of no namespace that is called after it.
fn of_place(bed: &Bed, place: &Namespace<'_>, mark: AuditMark) -> Result<Audit> {
    let mut audit = work(&bed.audit_since(mark)?);
    audit.requests.retain(|request| {
        request.namespace == place.name()
            || request.namespace.is_empty() && request.name.ends_with(place.name())
    });
    Ok(audit)
}

/// Waits until Serin makes no request about a canary for a while; where the log is then.
async fn rest(bed: &Bed, place: &Namespace<'_>) -> Result<AuditMark> {
    let mut mark = bed.audit_mark()?;
    let mut since = Instant::now();
    bed.wait("the canary to come to rest", PATIENCE, async || {
        let now = bed.audit_mark()?;
        if !of_place(bed, place, mark)?.requests.is_empty() {
            since = Instant::now();
        }
        mark = now;
        Ok((since.elapsed() > REST).then_some(now))
    })
    .await
}

/// A measurement that is always good: what is counted here is not what judges.
fn template() -> Value {
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": {"name": "one"},
        "spec": {"provider": {"type": "prometheus", "address": crate::bed::parts::PROMETHEUS}, "query": "vector(1)"},
    })
}

fn canary(router: &Router) -> Value {
    let mut analysis = json!({
        "interval": "2s", "threshold": 5,
        "metrics": [{"name": "one", "templateRef": {"name": "one"}, "thresholdRange": {"min": 1}}],
    });
    if router.provider == "kubernetes" {
        analysis["iterations"] = json!(STEPS);
    } else {
        analysis["stepWeight"] = json!(100 / STEPS);
        analysis["maxWeight"] = json!(100);
    }
    let mut canary = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": "app"},
        "spec": {
            "provider": router.provider,
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
            "progressDeadlineSeconds": 60,
            "service": {"port": 80, "targetPort": 8080},
            "analysis": analysis,
        },
    });
    if router.provider == OWN_ROUTE {
        canary["spec"]["provider"] = json!("gatewayapi:v1");
    }
    for (key, value) in (router.spec)().as_object().into_iter().flatten() {
        canary["spec"][key] = value.clone();
    }
    if canary["spec"]["service"].is_null()
        && let Some(spec) = canary["spec"].as_object_mut()
    {
        spec.remove("service");
    }
    for (key, value) in (router.service)().as_object().into_iter().flatten() {
        canary["spec"]["service"][key] = value.clone();
    }
    canary
}
