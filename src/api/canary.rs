//! The Canary: which workload is under control, how it is reached, how a new revision of it is judged.
//!
//! The doc comment of each field is also its description in the CRD, what `kubectl explain` shows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::canary_analysis::CanaryAnalysis;
use super::canary_service::CanaryService;
use super::canary_status::CanaryStatus;
use super::decode::{self, DecodeError};
use super::metadata::Metadata;
use super::schema;
use super::string_enum::string_enum;
use super::{API_VERSION, GROUP};

/// A Canary as it stands in the cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Canary {
    /// Name and identity.
    pub metadata: Metadata,
    /// What the user wants.
    pub spec: CanarySpec,
    /// What was decided and seen; `None` on a new object.
    pub status: Option<CanaryStatus>,
    /// Parts of `status` that could not be understood and are treated as absent.
    pub status_problems: Vec<DecodeError>,
}

impl Canary {
    /// The kind in an object's `kind`.
    pub const KIND: &'static str = "Canary";
    /// The resource name in API paths.
    pub const PLURAL: &'static str = "canaries";

    /// Reads a Canary from the API server's JSON.
    ///
    /// The spec must be understood whole; of the status, what cannot be understood counts as absent and is listed in
    /// `status_problems`. When this fails, [`Metadata::of`] still says which object it was.
    pub fn decode(object: &Value) -> Result<Self, DecodeError> {
        let metadata = decode::envelope(object, Self::KIND)?;
        let spec = decode::required(object, "spec")?;
        let (status, status_problems) = decode::lenient(object, "status");
        Ok(Self {
            metadata,
            spec,
            status,
            status_problems,
        })
    }

    /// The same where an earlier state of the object was read already: the API server counts `generation` up with every change of the
    /// spec, so a spec of the same generation is taken over.
    pub fn decode_after(earlier: &Self, object: &Value) -> Result<Self, DecodeError> {
        let metadata = decode::envelope(object, Self::KIND)?;
        let known = &earlier.metadata;
        if metadata.uid.is_none()
            || metadata.generation.is_none()
            || (&metadata.uid, metadata.generation) != (&known.uid, known.generation)
        {
            return Self::decode(object);
        }
        let (status, status_problems) = decode::lenient(object, "status");
        Ok(Self {
            metadata,
            spec: earlier.spec.clone(),
            status,
            status_problems,
        })
    }

    /// The object as JSON, with `apiVersion` and `kind`. Absent fields stay absent.
    #[must_use]
    pub fn encode(&self) -> Value {
        let mut object = json!({
            "apiVersion": API_VERSION,
            "kind": Self::KIND,
            "metadata": self.metadata,
            "spec": self.spec,
        });
        if let Some(status) = &self.status {
            object["status"] = json!(status);
        }
        object
    }

    /// The owner reference that makes an object go when this Canary goes; `None` before the object has a uid.
    #[must_use]
    pub fn owner_reference(&self) -> Option<Value> {
        let uid = self.metadata.uid.as_ref()?;
        Some(json!({
            "apiVersion": format!("{GROUP}/{}", super::VERSION),
            "kind": Self::KIND,
            "name": self.metadata.name,
            "uid": uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }))
    }
}

/// The workload under control, the way traffic reaches it, and how a new revision is judged before it is promoted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanarySpec {
    /// The mesh or ingress that splits the traffic of this canary. Default: the controller's -mesh-provider flag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = PROVIDERS))]
    pub provider: Option<String>,

    /// Base URL of the Prometheus server that answers built-in and inline metric queries of this canary, or scrape, perhaps
    /// with options as in scrape?port=9797, for the metrics pages of the canary's own pods. Default: the controller's
    /// -metrics-server flag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_server: Option<String>,

    /// Longest time in whole seconds that the canary or the primary may take to become ready before the run fails.
    /// Default: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub progress_deadline_seconds: Option<i64>,

    /// The workload under control. A change of its pod template starts a run.
    pub target_ref: TargetRef,

    /// The autoscaler of the target. The primary gets a copy of it, named with the suffix -primary; the original is
    /// paused while the canary is idle. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaler_ref: Option<AutoscalerRef>,

    /// The Ingress whose traffic is split, for the providers nginx and skipper. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_ref: Option<IngressRef>,

    /// A route of your own whose weights are shifted in place of a generated route: an HTTPRoute, GRPCRoute, TLSRoute,
    /// TCPRoute, VirtualService, IngressRoute, IngressRouteTCP, TraefikService, HTTPProxy or canary Ingress that names
    /// the Services of both sides, or any other kind with weightPaths. For the provider apisix the ApisixRoute whose
    /// traffic is split. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_ref: Option<RouteRef>,

    /// Further routes of your own, beside routeRef or in its place: all are shifted together. An object that stands
    /// here several times with different weightPaths has several places with weights. Not for the providers apisix and
    /// knative. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub route_refs: Vec<RouteRef>,

    /// The Gloo Upstream whose connection settings the generated Upstreams take over, for the provider gloo. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_ref: Option<UpstreamRef>,

    /// How clients reach the workload: name and port of the generated Services, and what the generated routes match
    /// and change. May be left out only for a Knative target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<CanaryService>,

    /// Promote a new revision without judging it. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_analysis: Option<bool>,

    /// Give the target back its replicas, Service and routes when this object is deleted. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert_on_deletion: Option<bool>,

    /// Leave everything as it is, the present traffic split included, until this is false again. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,

    /// How a new revision is judged: the steps of traffic it gets, what is measured at each step, and how many failed
    /// checks end the run. Exactly one of iterations, stepWeight and stepWeights chooses the strategy.
    pub analysis: CanaryAnalysis,

    /// How many promoted revisions of the pod template are kept as ControllerRevisions, so that a lost primary can be
    /// rebuilt and earlier versions can be looked at. A whole number from 1. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub revision_history_limit: Option<i64>,

    /// What happens when the promotion itself goes wrong. Default: the defaults of its fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<PromotionOptions>,
}

/// The values of `spec.provider`.
pub const PROVIDERS: &[&str] = &[
    "apisix",
    "appmesh",
    "appmesh:v1beta2",
    "contour",
    "gatewayapi:v1",
    "gatewayapi:v1beta1",
    "gloo",
    "istio",
    "knative",
    "kubernetes",
    "kuma",
    "linkerd",
    "nginx",
    "osm",
    "skipper",
    "smi:v1alpha1",
    "smi:v1alpha2",
    "smi:v1alpha3",
    "traefik",
];

/// The workload under control.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group and version of the workload: apps/v1, v1 for a core Service, serving.knative.dev/v1 for Knative.
    pub api_version: String,
    /// Kind of the workload.
    #[schemars(extend("enum" = ["DaemonSet", "Deployment", "Service"]))]
    pub kind: String,
    /// Name of the workload, in the namespace of the canary.
    pub name: String,
}

/// What sort of workload a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// `apps/v1` Deployment; also what an unknown kind is taken for, as Flagger does.
    Deployment,
    /// `apps/v1` DaemonSet.
    DaemonSet,
    /// A core Service: only routes are managed, not pods.
    Service,
    /// A Knative Service, split by its own traffic list.
    Knative,
}

/// The autoscaler of the target.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalerRef {
    /// API group and version of the autoscaler: autoscaling/v2 or keda.sh/v1alpha1.
    pub api_version: String,
    /// Kind of the autoscaler.
    #[schemars(extend("enum" = ["HorizontalPodAutoscaler", "ScaledObject"]))]
    pub kind: String,
    /// Name of the autoscaler, in the namespace of the canary.
    pub name: String,
    /// For a KEDA ScaledObject: the query that each named trigger uses in the primary's copy, by trigger name. Default:
    /// the query of the original with the target's name replaced by the primary's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub primary_scaler_queries: BTreeMap<String, String>,
    /// Replica bounds of the primary's copy. Default: those of the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_scaler_replicas: Option<ScalerReplicas>,
}

/// Replica bounds of the primary's autoscaler.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalerReplicas {
    /// Fewest replicas of the primary, from 1. Default: as in the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_replicas: Option<i64>,
    /// Most replicas of the primary, from 1. Default: as in the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_replicas: Option<i64>,
}

/// The Ingress whose traffic is split.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressRef {
    /// API group and version of the Ingress: networking.k8s.io/v1.
    pub api_version: String,
    /// Kind of the object, always Ingress.
    #[schemars(extend("enum" = ["Ingress"]))]
    pub kind: String,
    /// Name of the Ingress, in the namespace of the canary.
    pub name: String,
}

/// A route of the user, in the namespace of the canary.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteRef {
    /// API group and version of the route, for example gateway.networking.k8s.io/v1.
    pub api_version: String,
    /// Kind of the route, for example HTTPRoute.
    pub kind: String,
    /// Name of the route, in the namespace of the canary.
    pub name: String,
    /// Where the weights stand in a route of any other kind. Default: none; kinds that Serin knows need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_paths: Option<WeightPaths>,
}

/// Where the weights stand in a route of a kind that Serin does not know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightPaths {
    /// JSONPath of the canary's weight, for example .spec.split[1].weight or .spec.weights.canary.
    pub canary: String,
    /// JSONPath of the primary's weight, which gets what the canary does not. Default: none, the canary's weight says
    /// all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// What both weights sum to: 1 for fractions, or a whole number from 100. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub total: Option<i64>,
}

/// The Gloo Upstream whose settings are taken over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamRef {
    /// API group and version of the Upstream: gloo.solo.io/v1.
    pub api_version: String,
    /// Kind of the object, always Upstream.
    #[schemars(extend("enum" = ["Upstream"]))]
    pub kind: String,
    /// Name of the Upstream.
    pub name: String,
    /// Namespace of the Upstream. Default: the namespace of the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What happens when the promotion itself goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PromotionOptions {
    /// When the primary does not become ready with the promoted template within progressDeadlineSeconds: hold leaves
    /// the traffic on the side that is healthy and waits for a person or a new revision, rollback also puts the
    /// template that was promoted before back into the primary. Default: hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<FailurePromotion>,
}

string_enum! {
    /// What to do when the primary does not become ready with the promoted template.
    pub enum FailurePromotion {
        /// Keep the traffic on the healthy side and wait.
        #[default]
        Hold = "hold",
        /// Also put the template promoted before back into the primary.
        Rollback = "rollback",
    }
}
