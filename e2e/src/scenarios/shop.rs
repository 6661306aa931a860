//! What most stories need: an app under a canary, traffic on it, and Serin at work. A shop has a namespace and a host name of its own,
//! so several stay open side by side on one bed.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::bed::parts::{
    ENVOY_GATEWAY, ENVOY_GATEWAY_TCP, ENVOY_GATEWAY_TLS, GATEWAY, INGRESS_GATEWAY, ISTIO_GATEWAY,
    ISTIO_ROUTE_GATEWAY, ISTIO_SIDECAR, LENIENT_GATEWAY, LENIENT_GATEWAY_TCP, PROMETHEUS,
    SECOND_GATEWAY,
};
use crate::bed::process::Process;
use crate::bed::{Bed, Namespace};
use crate::load::{Load, LoadPlan, Mark, Report};

/// Requests per second on each shop.
pub const RATE: f64 = 200.0;
/// `analysis.interval` of a shop.
pub const INTERVAL: Duration = Duration::from_secs(3);
/// More than any single phase takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// What visitors call who come by gRPC.
const GRPC_METHOD: &str = "/shop.v1.Orders/Place";

/// apiVersion and kind of Istio's routes.
const ISTIO_ROUTES: (&str, &str) = ("networking.istio.io/v1beta1", "VirtualService");

/// The controller that the stories of one bed share.
static SERIN: OnceCell<Process> = OnceCell::const_new();

/// Istio, which some of them need.
static ISTIO: OnceCell<()> = OnceCell::const_new();

/// Brings up Istio on this bed unless it is there already.
pub async fn istio(bed: &Bed) -> Result<()> {
    ISTIO.get_or_try_init(|| bed.start_istio()).await.map(drop)
}

/// The proxy of a workload in Istio's mesh.
static SIDECAR: OnceCell<()> = OnceCell::const_new();

/// The Traefik that lets Services without pods pass.
static LENIENT: OnceCell<()> = OnceCell::const_new();

/// Starts Serin on this bed unless it runs already.
pub async fn serin(bed: &Bed) -> Result<()> {
    SERIN
        .get_or_try_init(|| async { start_serin(bed) })
        .await
        .map(drop)
}

/// A controller with the bed's addresses, ready for work.
pub fn start_serin(bed: &Bed) -> Result<Process> {
    start_serin_with(bed, &[])
}

/// The same with further arguments.
pub fn start_serin_with(bed: &Bed, more: &[&str]) -> Result<Process> {
    let arguments = [
        "--metrics-server",
        PROMETHEUS,
        "--mesh-provider",
        "gatewayapi:v1",
        "--log-level",
        "debug",
    ];
    bed.start_serin(arguments.into_iter().chain(more.iter().copied()))
}

/// A gateway of the bed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// The one that every bed has.
    Traefik,
    /// Contour with Envoy; a story brings it up with [`Bed::start_second_gateway`].
    Contour,
    /// Traefik reading Ingresses and resources of its own; a story brings it up with [`Bed::start_ingress_gateway`].
    Ingress,
    /// The same with `allowEmptyServices`: routes that name the canary's Service while it has no pods are no mistake.
    Lenient,
    /// Its way in for connections, which are led on whatever is said on them.
    LenientTcp,
    /// Istio with Envoy; a story brings it up with [`istio`]. Its canaries are for provider `istio`.
    Istio,
    /// The same Envoy, for routes of the Gateway API.
    IstioRoutes,
    /// Envoy Gateway with Envoy; a story brings it up with [`Bed::start_envoy_gateway`].
    Envoy,
    /// Its listener of TCP.
    EnvoyTcp,
    /// Its listener of TLS, which ends the encryption and leads the connection on by the name it was for.
    EnvoyTls,
    /// No gateway: visitors are a workload in Istio's mesh, whose proxy follows routes that have a Service as parent.
    Mesh,
}

impl Gateway {
    /// Brings up what carries the traffic, unless it is up.
    pub async fn start(self, bed: &Bed) -> Result<()> {
        match self {
            Self::Traefik => Ok(()),
            Self::Contour => bed.start_second_gateway().await,
            Self::Ingress => bed.start_ingress_gateway().await,
            Self::Lenient | Self::LenientTcp => LENIENT
                .get_or_try_init(|| bed.start_lenient_gateway())
                .await
                .map(drop),
            Self::Istio | Self::IstioRoutes => istio(bed).await,
            Self::Envoy | Self::EnvoyTcp | Self::EnvoyTls => bed.start_envoy_gateway().await,
            Self::Mesh => {
                istio(bed).await?;
                SIDECAR
                    .get_or_try_init(|| bed.start_istio_sidecar())
                    .await
                    .map(drop)
            }
        }
    }

    /// What it is called where figures are told.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Traefik | Self::Ingress => "Traefik",
            Self::Lenient | Self::LenientTcp => "Traefik with allowEmptyServices",
            Self::Contour => "Contour, Envoy",
            Self::Istio | Self::IstioRoutes => "istiod, Envoy",
            Self::Envoy | Self::EnvoyTcp | Self::EnvoyTls => "Envoy Gateway, Envoy",
            Self::Mesh => "istiod, Envoy as sidecar",
        }
    }

    /// The parent of a route of the Gateway API that visitors are to find here.
    #[must_use]
    pub fn parent(self) -> Value {
        match self {
            Self::Traefik | Self::Ingress | Self::Lenient | Self::LenientTcp => {
                json!({"name": "traefik", "namespace": "gateway"})
            }
            Self::Contour => json!({"name": "contour", "namespace": "gateway"}),
            Self::Istio | Self::IstioRoutes => {
                json!({"name": "bed-api", "namespace": "istio-system"})
            }
            Self::Envoy => json!({"name": "envoy", "namespace": "gateway"}),
            Self::EnvoyTcp => {
                json!({"name": "envoy", "namespace": "gateway", "sectionName": "tcp"})
            }
            Self::EnvoyTls => {
                json!({"name": "envoy", "namespace": "gateway", "sectionName": "tls"})
            }
            Self::Mesh => json!({"group": "", "kind": "Service", "name": "app"}),
        }
    }

    /// The host name by which visitors find the app of a namespace.
    fn host(self, namespace: &Namespace<'_>) -> String {
        match self {
            Self::Mesh => format!("app.{}.svc.cluster.local", namespace.name()),
            _ => namespace.host("app"),
        }
    }

    /// Where requests enter.
    #[must_use]
    pub fn address(self) -> &'static str {
        match self {
            Self::Traefik => GATEWAY,
            Self::Contour => SECOND_GATEWAY,
            Self::Ingress => INGRESS_GATEWAY,
            Self::Lenient => LENIENT_GATEWAY,
            Self::LenientTcp => LENIENT_GATEWAY_TCP,
            Self::Istio => ISTIO_GATEWAY,
            Self::IstioRoutes => ISTIO_ROUTE_GATEWAY,
            Self::Envoy => ENVOY_GATEWAY,
            Self::EnvoyTcp => ENVOY_GATEWAY_TCP,
            Self::EnvoyTls => ENVOY_GATEWAY_TLS,
            Self::Mesh => ISTIO_SIDECAR,
        }
    }
}

/// What differs from shop to shop; the rest is the same.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Lines of `spec.analysis` beside interval and metrics.
    pub analysis: Value,
    /// Further fields of `spec`.
    pub spec: Value,
    /// Further fields of `spec.service`.
    pub service: Value,
    /// Environment of the app's container.
    pub environment: Vec<(&'static str, &'static str)>,
    /// Requests per second; 0 for a shop without visitors.
    pub rate: f64,
    pub replicas: u32,
    /// Whether Service and route are the user's own and visitors come before the canary, so that the take-over is under load too.
    pub own_route: bool,
    /// Where its visitors come in.
    pub gateway: Gateway,
    /// Whether they call a method of gRPC.
    pub grpc: bool,
    /// Kind of the target: a Deployment or a `DaemonSet`.
    pub kind: &'static str,
    /// Further fields of the app's container.
    pub container: Value,
    /// Whether Prometheus scrapes the app's own pods.
    pub scraped: bool,
    /// What is applied before the target: configs, autoscalers, routes of the user's own.
    pub beside: Vec<Value>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            analysis: json!({"threshold": 2, "stepWeight": 20, "maxWeight": 60}),
            spec: json!({}),
            service: json!({}),
            // Longer than the app's own two seconds: with several shops on a busy machine gateways were seen to learn six seconds late
            // which pods are there (the flags of the controller manager say why).
            environment: vec![("SHUTDOWN_DELAY_MS", "8000")],
            rate: RATE,
            replicas: 2,
            own_route: false,
            gateway: Gateway::Traefik,
            grpc: false,
            kind: "Deployment",
            container: json!({}),
            scraped: true,
            beside: Vec::new(),
        }
    }
}

/// Why the last run of a canary ended, by its history; empty where none has.
#[must_use]
pub fn last_cause(canary: &DynamicObject) -> String {
    let runs = canary.data["status"]["history"].as_array();
    let last = runs.and_then(|runs| runs.last());
    last.map(|run| run["cause"].to_string()).unwrap_or_default()
}

/// An app that is sold under a canary.
pub struct Shop<'a> {
    pub bed: &'a Bed,
    pub namespace: Namespace<'a>,
    pub host: String,
    pub load: Option<Load>,
    environment: Vec<(&'static str, &'static str)>,
    pub gateway: Gateway,
    grpc: bool,
    kind: &'static str,
    more_of_container: Value,
    scraped: bool,
}

impl<'a> Shop<'a> {
    /// Opens a shop with 1.0.0 on its shelves: applies it, waits until the canary is initialised, and lets visitors in *before* that, so
    /// that the take-over of the running app is judged as well.
    pub async fn open(bed: &'a Bed, name: &str, plan: Plan) -> Result<Self> {
        let namespace = bed.scenario_namespace(name).await?;
        let host = plan.gateway.host(&namespace);
        let mut shop = Self {
            bed,
            namespace,
            host,
            load: None,
            environment: plan.environment.clone(),
            gateway: plan.gateway,
            grpc: plan.grpc,
            kind: plan.kind,
            more_of_container: plan.container.clone(),
            scraped: plan.scraped,
        };
        for object in &plan.beside {
            shop.apply_json(object).await?;
        }
        shop.apply_json(&shop.target("1.0.0", plan.replicas))
            .await?;
        shop.wait_ready("app").await?;
        if plan.own_route {
            shop.apply_json(&own_service()).await?;
            shop.apply_json(&shop.own_route()).await?;
            shop.let_visitors_in(plan.rate).await?;
        }
        shop.apply_json(&shop.canary(&plan)).await?;
        shop.namespace
            .wait_phase("app", "Initialized", PATIENCE)
            .await?;
        if !plan.own_route {
            shop.let_visitors_in(plan.rate).await?;
        }
        Ok(shop)
    }

    async fn let_visitors_in(&mut self, rate: f64) -> Result<()> {
        if rate == 0.0 {
            return Ok(());
        }
        self.bed
            .wait_served_at(self.gateway.address(), &self.host, Duration::from_secs(30))
            .await?;
        self.load = Some(Load::start_plan(&self.visitors(rate))?);
        self.bed
            .wait(
                "the first second of traffic",
                Duration::from_secs(20),
                async || {
                    let load = self.load()?;
                    let second = load.report_since(load.mark_ago(Duration::from_secs(1)));
                    ensure!(second.answered() as f64 > rate / 2.0, "{second}");
                    Ok(Some(()))
                },
            )
            .await
    }

    /// So many visitors a second, as they come to this shop.
    #[must_use]
    pub fn visitors(&self, rate: f64) -> LoadPlan {
        let method = if self.grpc { GRPC_METHOD } else { "" };
        let url = format!("{}{method}", self.gateway.address());
        let mut plan = LoadPlan::new(&url, Some(&self.host), rate);
        plan.grpc = self.grpc;
        let of_connections = [Gateway::LenientTcp, Gateway::EnvoyTcp, Gateway::EnvoyTls];
        plan.anew = of_connections.contains(&self.gateway);
        let encrypted = url.starts_with("https:");
        plan.authority = encrypted.then(|| self.bed.pki().authority_pem().to_owned());
        plan
    }

    pub fn load(&self) -> Result<&Load> {
        self.load.as_ref().context("this shop has no visitors")
    }

    /// The route that the user had before the canary came.
    #[must_use]
    pub fn own_route(&self) -> Value {
        if self.gateway == Gateway::Istio {
            return json!({
                "apiVersion": ISTIO_ROUTES.0, "kind": ISTIO_ROUTES.1, "metadata": {"name": "app"},
                "spec": {
                    "gateways": ["istio-system/bed"],
                    "hosts": [self.host],
                    "http": [{"route": [{"destination": {"host": "app"}}]}],
                },
            });
        }
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "app"},
            "spec": {
                "parentRefs": [self.gateway.parent()],
                "hostnames": [self.host],
                "rules": [{"backendRefs": [{"name": "app", "port": 80}]}],
            },
        })
    }

    fn target(&self, version: &str, replicas: u32) -> Value {
        let mut target = json!({
            "apiVersion": "apps/v1", "kind": self.kind, "metadata": {"name": "app"},
            "spec": {
                "selector": {"matchLabels": {"app": "app"}},
                "template": {
                    "metadata": {
                        "labels": {"app": "app"},
                        "annotations": {"prometheus.io/scrape": self.scraped.to_string(), "prometheus.io/port": "8080"},
                    },
                    "spec": {"containers": [self.container(version, &[])]},
                },
            },
        });
        if self.kind == "Deployment" {
            target["spec"]["replicas"] = json!(replicas);
        }
        target
    }

    /// The app's container as a release has it, with further environment.
    #[must_use]
    pub fn container(&self, version: &str, more: &[(&str, &str)]) -> Value {
        let environment: Vec<Value> = self
            .environment
            .iter()
            .chain(more)
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        let mut container = json!({
            "name": "app",
            "image": format!("serin-demo-app:{version}"),
            "env": environment,
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 1},
        });
        merge(&mut container, &self.more_of_container);
        container
    }

    fn canary(&self, plan: &Plan) -> Value {
        let mut analysis = json!({
            "interval": format!("{}s", INTERVAL.as_secs()),
            "metrics": [
                {"name": "request-success-rate", "interval": "5s", "thresholdRange": {"min": 99}},
                {"name": "request-duration", "interval": "5s", "thresholdRange": {"max": 1000}},
            ],
        });
        merge(&mut analysis, &plan.analysis);
        let mut service = json!({"port": 80, "targetPort": 8080, "hosts": [self.host]});
        let provider = if plan.gateway == Gateway::Istio {
            service["gateways"] = json!(["istio-system/bed"]);
            "istio"
        } else {
            service["gatewayRefs"] = json!([plan.gateway.parent()]);
            "gatewayapi:v1"
        };
        merge(&mut service, &plan.service);
        let mut spec = json!({
            "provider": provider,
            "targetRef": {"apiVersion": "apps/v1", "kind": self.kind, "name": "app"},
            "progressDeadlineSeconds": 60,
            "service": service,
            "analysis": analysis,
        });
        merge(&mut spec, &plan.spec);
        json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": "app"}, "spec": spec})
    }

    /// Applies one object given as JSON, which is YAML too.
    pub async fn apply_json(&self, object: &Value) -> Result<()> {
        self.namespace.apply(&object.to_string()).await
    }

    /// Releases a version with further environment, as a user would by editing the target.
    pub async fn release_with(&self, version: &str, environment: &[(&str, &str)]) -> Result<()> {
        self.release_container(&self.container(version, environment))
            .await?;
        self.note(format!("released {version} {environment:?}"));
        Ok(())
    }

    /// Releases whatever this container is.
    pub async fn release_container(&self, container: &Value) -> Result<()> {
        let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
        self.namespace
            .patch("apps/v1", self.kind, "app", &patch)
            .await
            .map(drop)
    }

    pub async fn release(&self, version: &str) -> Result<()> {
        self.release_with(version, &[]).await
    }

    pub fn note(&self, what: String) {
        self.bed.timeline().note(self.namespace.name(), what);
    }

    pub async fn wait_phase(&self, phase: &str) -> Result<DynamicObject> {
        self.namespace.wait_phase("app", phase, PATIENCE).await
    }

    pub async fn status(&self) -> Result<Value> {
        Ok(self.namespace.canary("app").await?.data["status"].clone())
    }

    /// Waits until the canary has at least this weight.
    pub async fn wait_weight(&self, weight: i64) -> Result<Value> {
        self.bed
            .wait(
                &format!("canary weight {weight} in {}", self.namespace.name()),
                PATIENCE,
                async || {
                    let status = self.status().await?;
                    Ok((status["canaryWeight"].as_i64().unwrap_or(0) >= weight).then_some(status))
                },
            )
            .await
    }

    /// apiVersion and kind of the route.
    #[must_use]
    pub fn routes(&self) -> (&'static str, &'static str) {
        if self.gateway == Gateway::Istio {
            ISTIO_ROUTES
        } else {
            ("gateway.networking.k8s.io/v1", "HTTPRoute")
        }
    }

    /// The rules of the route now.
    pub async fn rules(&self) -> Result<Vec<Value>> {
        let (api_version, kind) = self.routes();
        let route = self.namespace.get(api_version, kind, "app").await?;
        let spec = &route.data["spec"];
        let rules = ["rules", "http", "tcp"].map(|key| spec[key].as_array());
        Ok(rules.into_iter().flatten().flatten().cloned().collect())
    }

    /// The weights of the route now: primary, canary. Of several rules it is the first that counts.
    pub async fn route(&self) -> Result<(i64, i64)> {
        let rules = self.rules().await?;
        let rule = rules.first().unwrap_or(&Value::Null);
        let backends = rule["backendRefs"].as_array().or(rule["route"].as_array());
        let weight = |name: &str| {
            backends
                .into_iter()
                .flatten()
                .find(|backend| backend["name"] == name || backend["destination"]["host"] == name)
                .and_then(|backend| backend["weight"].as_i64())
                .unwrap_or(-1)
        };
        Ok((weight("app-primary"), weight("app-canary")))
    }

    /// Waits until the route has these weights: primary, canary.
    pub async fn wait_route(&self, weights: (i64, i64)) -> Result<()> {
        self.bed
            .wait(
                &format!("the route of {} at {weights:?}", self.namespace.name()),
                PATIENCE,
                async || Ok((self.route().await? == weights).then_some(())),
            )
            .await
    }

    /// Waits until a second's answers are split as asked, and says which share of them a version had, 0..=1.
    pub async fn wait_split(&self, version: &str, percent: i64) -> Result<f64> {
        self.bed
            .wait(
                &format!("a measured split of {percent} % for {version}"),
                Duration::from_secs(20),
                async || {
                    let recent = self
                        .load()?
                        .report_since(self.load()?.mark_ago(Duration::from_secs(1)));
                    if recent.answered() < 20 {
                        return Ok(None);
                    }
                    Ok(recent
                        .split_within(version, percent as f64 / 100.0, 1.0)
                        .ok())
                },
            )
            .await
    }

    /// Waits until a workload of the shop runs its latest template in all its pods, and no older pod is left.
    pub async fn wait_ready(&self, workload: &str) -> Result<()> {
        if self.kind == "Deployment" {
            return self.namespace.wait_ready(workload, PATIENCE).await;
        }
        self.bed
            .wait(
                &format!("{}/{workload} to be ready", self.namespace.name()),
                PATIENCE,
                async || {
                    let object = self.namespace.get("apps/v1", self.kind, workload).await?;
                    let status = &object.data["status"];
                    let wanted = status["desiredNumberScheduled"].as_i64().unwrap_or(0);
                    let current =
                        status["observedGeneration"].as_i64() >= object.metadata.generation;
                    let ready = ["updatedNumberScheduled", "numberAvailable"]
                        .iter()
                        .all(|count| status[count].as_i64() == Some(wanted));
                    Ok((wanted > 0 && current && ready).then_some(()))
                },
            )
            .await
    }

    /// The image that a workload of the shop asks for.
    pub async fn image(&self, workload: &str) -> Result<String> {
        let object = self.namespace.get("apps/v1", self.kind, workload).await?;
        Ok(
            object.data["spec"]["template"]["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    }

    /// How many pods a Deployment of the shop asks for.
    pub async fn replicas(&self, deployment: &str) -> Result<i64> {
        let object = self
            .namespace
            .get("apps/v1", "Deployment", deployment)
            .await?;
        Ok(object.data["spec"]["replicas"].as_i64().unwrap_or(1))
    }

    /// The texts of the events of the canary, oldest first.
    pub async fn events(&self) -> Result<Vec<String>> {
        let api = self
            .bed
            .api_of("v1", "Event", self.namespace.name())
            .await?;
        let mut events = api.list(&kube::api::ListParams::default()).await?.items;
        events.sort_by_key(|event| event.metadata.creation_timestamp.clone().map(|time| time.0));
        Ok(events
            .iter()
            .filter_map(|event| Some(event.data["message"].as_str()?.to_owned()))
            .collect())
    }

    /// When the canary's status had which weight, by the bed's own watch.
    #[must_use]
    pub fn weights(&self) -> Vec<(Timestamp, String)> {
        self.bed
            .timeline()
            .of(self.namespace.name())
            .into_iter()
            .map(|one| (one.at, one.what))
            .collect()
    }

    /// The whole account of the visitors, when the shop closes.
    pub async fn close(mut self) -> Result<Report> {
        Ok(self
            .load
            .take()
            .context("this shop has no visitors")?
            .stop()
            .await)
    }

    /// Waits until for a whole second every answer came from one version.
    pub async fn wait_only(&self, version: &str) -> Result<Mark> {
        self.bed
            .wait(
                &format!("all traffic on {version}"),
                Duration::from_secs(30),
                async || {
                    let recent = self
                        .load()?
                        .report_since(self.load()?.mark_ago(Duration::from_secs(1)));
                    let all = recent.answered() > 0
                        && (recent.share_of(version) - 1.0).abs() < f64::EPSILON;
                    Ok(all.then_some(()))
                },
            )
            .await?;
        Ok(self.load()?.mark())
    }
}

/// The Service that the user had before the canary came.
#[must_use]
pub fn own_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "app"},
        "spec": {"selector": {"app": "app"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// What everybody may expect of a run that went well: nothing lost, nothing answered with an error by anybody.
pub fn flawless(report: &Report) -> Result<()> {
    report.none_lost()?;
    let failed: u64 = report
        .versions
        .values()
        .map(|version| version.requests - version.ok)
        .sum();
    ensure!(
        failed == 0,
        "no request may fail, but {failed} did:\n{report}"
    );
    Ok(())
}

/// Nothing lost, and errors only from one version.
pub fn only_failed(report: &Report, bad: &str) -> Result<()> {
    report.none_lost()?;
    for (version, counts) in &report.versions {
        ensure!(
            version == bad || counts.requests == counts.ok,
            "{version} answered with errors:\n{report}"
        );
    }
    Ok(())
}

pub fn merge(into: &mut Value, more: &Value) {
    let (Some(into), Some(more)) = (into.as_object_mut(), more.as_object()) else {
        return;
    };
    for (key, value) in more {
        into.insert(key.clone(), value.clone());
    }
}
