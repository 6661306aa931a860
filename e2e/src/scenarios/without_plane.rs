//! Meshes and ingresses without a plane on the bed: their objects are real, nobody acts on them. Each canary is taken through a release, and
//! at every step the split is read from its object by that object's own words.
pub mod knative;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::{try_join, try_join_all};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};

use super::shop::{self, PATIENCE};
use crate::bed::{Bed, Namespace};

pub const DEFINITIONS: &str = include_str!("../../manifests/objects-without-plane.yaml");

/// What judges each step: whether Prometheus scrapes pods of the canary, by the app's own `/metrics`.
const TEMPLATE: &str = r#"
apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: scraped}
spec:
  provider: {type: prometheus, address: "http://127.0.0.1:9090"}
  query: count(up{kubernetes_namespace="{{ namespace }}",app="{{ target }}"} == 1)
"#;

/// Where an object holds the split.
enum Place {
    /// A list of both sides, and in each entry the name of the side and its weight, as pointers.
    List(&'static str, &'static str, &'static str),
    /// An annotation with a JSON object from the name of a side to its weight.
    Annotation(&'static str),
}

/// One router and its object.
struct Plane {
    provider: &'static str,
    /// Names the canary and its app.
    name: &'static str,
    /// The object: version, kind, name, with `APP` and `NAMESPACE` for those of the canary.
    object: (&'static str, &'static str, &'static str),
    place: Place,
    /// Further fields of `spec` and of `spec.service`.
    spec: fn() -> Value,
    service: fn() -> Value,
    /// What the user brings.
    beside: &'static str,
}

const NOTHING: fn() -> Value = || json!({});

const SMI: Plane = Plane {
    provider: "",
    name: "",
    object: ("split.smi-spec.io/v1alpha1", "TrafficSplit", "APP"),
    place: Place::List("/spec/backends", "/service", "/weight"),
    spec: NOTHING,
    service: NOTHING,
    beside: "",
};

const PLANES: &[Plane] = &[
    Plane {
        provider: "linkerd",
        name: "linkerd",
        ..SMI
    },
    Plane {
        provider: "osm",
        name: "osm",
        object: ("split.smi-spec.io/v1alpha2", "TrafficSplit", "APP"),
        ..SMI
    },
    Plane {
        provider: "smi:v1alpha1",
        name: "smi-one",
        ..SMI
    },
    Plane {
        provider: "smi:v1alpha2",
        name: "smi-two",
        object: ("split.smi-spec.io/v1alpha2", "TrafficSplit", "APP"),
        ..SMI
    },
    Plane {
        provider: "smi:v1alpha3",
        name: "smi",
        object: ("split.smi-spec.io/v1alpha3", "TrafficSplit", "APP"),
        ..SMI
    },
    Plane {
        provider: "kuma",
        name: "kuma",
        object: ("kuma.io/v1alpha1", "TrafficRoute", "APP.NAMESPACE"),
        place: Place::List(
            "/spec/conf/split",
            "/destination/kuma.io~1service",
            "/weight",
        ),
        ..SMI
    },
    Plane {
        provider: "gloo",
        name: "gloo",
        object: ("gateway.solo.io/v1", "RouteTable", "APP"),
        place: Place::List(
            "/spec/routes/0/routeAction/multi/destinations",
            "/destination/upstream/name",
            "/weight",
        ),
        spec: || json!({"upstreamRef": {"apiVersion": "gloo.solo.io/v1", "kind": "Upstream", "name": "settings"}}),
        beside: "
apiVersion: gloo.solo.io/v1
kind: Upstream
metadata: {name: settings}
spec: {useHttp2: true}
",
        ..SMI
    },
    Plane {
        provider: "appmesh",
        name: "appmesh",
        object: ("appmesh.k8s.aws/v1beta1", "VirtualService", "APP.NAMESPACE"),
        place: Place::List(
            "/spec/routes/0/http/action/weightedTargets",
            "/virtualNodeName",
            "/weight",
        ),
        service: || json!({"meshName": "global"}),
        ..SMI
    },
    Plane {
        provider: "appmesh:v1beta2",
        name: "appmesh-two",
        object: ("appmesh.k8s.aws/v1beta2", "VirtualRouter", "APP"),
        place: Place::List(
            "/spec/routes/0/httpRoute/action/weightedTargets",
            "/virtualNodeRef/name",
            "/weight",
        ),
        ..SMI
    },
    Plane {
        provider: "skipper",
        name: "skipper",
        object: ("networking.k8s.io/v1", "Ingress", "APP-canary"),
        place: Place::Annotation("zalando.org/backend-weights"),
        spec: || json!({"ingressRef": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "skipper"}}),
        beside: "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: skipper}
spec:
  rules:
  - host: skipper.example
    http:
      paths: [{path: /, pathType: Prefix, backend: {service: {name: skipper, port: {number: 80}}}}]
",
        ..SMI
    },
    Plane {
        provider: "apisix",
        name: "apisix",
        object: ("apisix.apache.org/v2", "ApisixRoute", "APP-APP-canary"),
        place: Place::List("/spec/http/0/backends", "/serviceName", "/weight"),
        spec: || json!({"routeRef": {"apiVersion": "apisix.apache.org/v2", "kind": "ApisixRoute", "name": "apisix"}}),
        beside: "
apiVersion: apisix.apache.org/v2
kind: ApisixRoute
metadata: {name: apisix}
spec:
  http:
  - name: main
    match: {hosts: [apisix.example], paths: ['/*']}
    backends: [{serviceName: apisix, servicePort: 80}]
",
        ..SMI
    },
];

pub async fn run(bed: &Bed) -> Result<()> {
    bed.apply(DEFINITIONS).await?;
    let place = bed.scenario_namespace("without-plane").await?;
    place.apply(TEMPLATE).await?;
    shop::serin(bed).await?;
    let meshes = try_join_all(PLANES.iter().map(|plane| async {
        let release = Release {
            place: &place,
            bed,
            plane,
        };
        release
            .run()
            .await
            .with_context(|| format!("provider {}", plane.provider))
    }));
    let knative = async {
        let run = knative::run(bed, &place).await;
        run.context("provider knative")
    };
    try_join(meshes, knative).await?;
    Ok(())
}

struct Release<'a> {
    place: &'a Namespace<'a>,
    bed: &'a Bed,
    plane: &'a Plane,
}

impl Release<'_> {
    async fn run(&self) -> Result<()> {
        let name = self.plane.name;
        if !self.plane.beside.is_empty() {
            self.place.apply(self.plane.beside).await?;
        }
        self.place.apply(&self.target().to_string()).await?;
        self.place.apply(&self.canary().to_string()).await?;
        self.place.wait_phase(name, "Initialized", PATIENCE).await?;
        ensure!(
            self.split().await? == (100, 0),
            "at rest the primary gets all, found {:?}",
            self.split().await?
        );
        self.write_beside().await?;

        self.place.release(name, "2.0.0").await?;
        let seen = self.splits_until_the_end().await?;
        let expected = [(100, 0), (70, 30), (40, 60), (100, 0)];
        ensure!(
            seen == expected,
            "expected the splits {expected:?}, saw {seen:?}"
        );
        let image = self
            .place
            .get("apps/v1", "Deployment", &format!("{name}-primary"))
            .await?;
        let image = &image.data["spec"]["template"]["spec"]["containers"][0]["image"];
        ensure!(
            image == "serin-demo-app:2.0.0",
            "the primary runs {image} after the release"
        );
        self.edit_is_put_back().await?;
        let object = self.object().await?;
        let note = object.metadata.annotations.as_ref();
        ensure!(
            (object.data["spec"]["theirs"] == json!({"kept": [1, 2]}) || !self.takes_any_field())
                && note.is_some_and(|notes| notes.get("note").is_some_and(|note| note == "theirs")),
            "what somebody else wrote is gone: {}",
            serde_json::to_string(&object)?
        );
        self.goes_with_its_canary().await
    }

    fn target(&self) -> Value {
        let name = self.plane.name;
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {
                        "labels": {"app": name},
                        "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
                    },
                    "spec": {"containers": [{
                        "name": "app",
                        "image": "serin-demo-app:1.0.0",
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 3},
                    }]},
                },
            },
        })
    }

    fn canary(&self) -> Value {
        let mut canary = json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": self.plane.name},
            "spec": {
                "provider": self.plane.provider,
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.plane.name},
                "progressDeadlineSeconds": 60,
                "service": {"port": 80, "targetPort": 8080},
                "analysis": {
                    "interval": "2s", "threshold": 5, "stepWeight": 30, "maxWeight": 60,
                    "metrics": [{"name": "scraped", "templateRef": {"name": "scraped"}, "thresholdRange": {"min": 1}}],
                },
            },
        });
        let merge = |into: &mut Value, more: Value| {
            for (key, value) in more.as_object().into_iter().flatten() {
                into[key] = value.clone();
            }
        };
        merge(&mut canary["spec"], (self.plane.spec)());
        merge(&mut canary["spec"]["service"], (self.plane.service)());
        canary
    }

    async fn api(&self) -> Result<(Api<DynamicObject>, String)> {
        let (version, kind, name) = self.plane.object;
        let name = name
            .replace("APP", self.plane.name)
            .replace("NAMESPACE", self.place.name());
        let api = self.bed.api_of(version, kind, self.place.name()).await?;
        Ok((api, name))
    }

    async fn object(&self) -> Result<DynamicObject> {
        let (api, name) = self.api().await?;
        Ok(api.get(&name).await?)
    }

    /// What the object gives to the primary and to the canary.
    async fn split(&self) -> Result<(i64, i64)> {
        self.split_of(&self.object().await?)
    }

    fn split_of(&self, object: &DynamicObject) -> Result<(i64, i64)> {
        let entries = self.entries(object)?;
        let (mut primary, mut canary) = (None, None);
        for (side, weight) in &entries {
            let weight = match weight {
                Value::String(text) => text.parse()?,
                weight => weight.as_i64().context("a weight is no whole number")?,
            };
            if side.contains("-primary") {
                primary = Some(weight);
            } else if side.contains("-canary") {
                canary = Some(weight);
            } else {
                bail!("{side} is neither side");
            }
        }
        match (primary, canary, entries.len()) {
            (Some(primary), Some(canary), 2) => Ok((primary, canary)),
            _ => bail!("expected both sides once: {entries:?}"),
        }
    }

    /// The sides by name, each with its weight as the object has it.
    fn entries(&self, object: &DynamicObject) -> Result<Vec<(String, Value)>> {
        match self.plane.place {
            Place::List(list, side, weight) => {
                let entries = object.data.pointer(list).and_then(Value::as_array);
                let entries =
                    entries.with_context(|| format!("no list of both sides: {}", object.data))?;
                entries
                    .iter()
                    .map(|entry| {
                        let side = entry.pointer(side).and_then(Value::as_str);
                        let side = side.with_context(|| format!("a side without name: {entry}"))?;
                        let weight = entry.pointer(weight);
                        let weight = weight.with_context(|| format!("{side} has no weight"))?;
                        Ok((side.to_owned(), weight.clone()))
                    })
                    .collect()
            }
            Place::Annotation(name) => {
                let weights = object.metadata.annotations.as_ref();
                let weights = weights.and_then(|all| all.get(name));
                let weights = weights.with_context(|| format!("no annotation {name}"))?;
                let weights: Map<String, Value> = serde_json::from_str(weights)?;
                Ok(weights.into_iter().collect())
            }
        }
    }

    /// The object with half of the traffic on each side.
    fn halved(&self, mut object: DynamicObject) -> DynamicObject {
        match self.plane.place {
            Place::List(list, _, weight) => {
                let entries = object.data.pointer_mut(list).and_then(Value::as_array_mut);
                for entry in entries.into_iter().flatten() {
                    if let Some(weight) = entry.pointer_mut(weight) {
                        *weight = if weight.is_string() {
                            json!("50")
                        } else {
                            json!(50)
                        };
                    }
                }
            }
            Place::Annotation(name) => {
                let annotations = object.metadata.annotations.iter_mut();
                for weights in annotations.filter_map(|all| all.get_mut(name)) {
                    let entries: Map<String, Value> =
                        serde_json::from_str(weights).unwrap_or_default();
                    let halved: Map<String, Value> = entries
                        .into_iter()
                        .map(|(side, _)| (side, json!(50)))
                        .collect();
                    *weights = json!(halved).to_string();
                }
            }
        }
        object
    }

    /// Looks at the object again and again until the canary is promoted: every split that it ever had, without repetitions.
    async fn splits_until_the_end(&self) -> Result<Vec<(i64, i64)>> {
        let mut seen = vec![self.split().await?];
        self.bed
            .wait(
                &format!("the release of {}", self.plane.name),
                PATIENCE,
                async || {
                    let canary = self.place.canary(self.plane.name).await?;
                    let split = self.split().await?;
                    ensure!(split.0 + split.1 == 100, "{split:?} is not whole");
                    if seen.last() != Some(&split) {
                        seen.push(split);
                    }
                    let status = &canary.data["status"];
                    ensure!(status["phase"] != "Failed", "it failed: {status}");
                    let done = status["phase"] == "Succeeded" && split == (100, 0);
                    Ok(done.then_some(()))
                },
            )
            .await?;
        Ok(seen)
    }

    /// Somebody else writes a field and an annotation of their own.
    async fn write_beside(&self) -> Result<()> {
        let (api, name) = self.api().await?;
        let mut patch = json!({"metadata": {"annotations": {"note": "theirs"}}});
        if self.takes_any_field() {
            patch["spec"] = json!({"theirs": {"kept": [1, 2]}});
        }
        let params = PatchParams {
            field_manager: Some("somebody".to_owned()),
            ..PatchParams::default()
        };
        api.patch(&name, &params, &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Kubernetes' own kinds drop fields that they don't know.
    fn takes_any_field(&self) -> bool {
        self.plane.object.1 != "Ingress"
    }

    async fn edit_is_put_back(&self) -> Result<()> {
        let (api, name) = self.api().await?;
        let object = self.halved(api.get(&name).await?);
        let params = PostParams {
            field_manager: Some("somebody".to_owned()),
            ..PostParams::default()
        };
        let edited = api.replace(&name, &params, &object).await?;
        ensure!(
            self.split_of(&edited)? == (50, 50),
            "the edit took no effect"
        );
        self.bed
            .wait(
                &format!("the edit of {name} to be put back"),
                Duration::from_secs(10),
                async || Ok((self.split().await? == (100, 0)).then_some(())),
            )
            .await
    }

    /// Objects go with their canary. Where the garbage collector of the bed does that, it is the API server's business; what lives in no
    /// namespace is Serin's.
    async fn goes_with_its_canary(&self) -> Result<()> {
        let (api, name) = self.api().await?;
        let object = api.get(&name).await?;
        if object.metadata.namespace.is_some() {
            let owners = object.metadata.owner_references.unwrap_or_default();
            ensure!(
                owners.iter().any(|owner| owner.kind == "Canary"),
                "{name} has no owner: it would stay behind"
            );
            return Ok(());
        }
        let canaries = self
            .bed
            .api_of("flagger.app/v1beta1", "Canary", self.place.name())
            .await?;
        canaries
            .delete(self.plane.name, &kube::api::DeleteParams::default())
            .await?;
        self.bed
            .wait(
                &format!("{name} to go with its canary"),
                Duration::from_secs(20),
                async || {
                    let gone = api.get_opt(&name).await?.is_none();
                    let canary = canaries.get_opt(self.plane.name).await?.is_none();
                    Ok((gone && canary).then_some(()))
                },
            )
            .await
    }
}
