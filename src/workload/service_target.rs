//! A core Service as the target: only routes and two clones of it are managed, no pods. A revision is what the Service says.
//!
//! ```text
//! <target>  ──(spec)──▶ <apex>-canary     the revision that is judged; the target's while idle
//!           ──(kept)──▶ <apex>-primary    what was promoted last
//! ```
//! The clones are named after the apex, like the Services that routers point at (Flagger names them after the target, so that
//! `spec.service.name` leads nowhere there). They are of type `ClusterIP`: a clone needs neither node ports nor a load balancer.

use crate::api::Canary;
use crate::object::{Object, ObjectRef, Reading, Write, kinds};
use crate::workload::metadata::included;
use crate::workload::ownership::{beside, owner_references};
use crate::workload::services::{ServiceRole, apply_exactly};
use crate::workload::{
    DiscoveredPort, PrimaryRequest, Readiness, ReadinessRule, SelectorLabel, Sides, Target,
    WorkloadError, WorkloadSettings,
};
use serde_json::{Value, json};

/// `v1` Services.
pub(super) struct ServiceTargets;

/// What the API server allocates to one Service. It is not part of what the user says, so it is no revision and is not cloned.
const ALLOCATED: [&str; 3] = ["clusterIP", "clusterIPs", "healthCheckNodePort"];

/// What belongs to Services that are reached from outside.
const OUTSIDE: [&str; 6] = [
    "allocateLoadBalancerNodePorts",
    "externalIPs",
    "externalTrafficPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
];

impl Target for ServiceTargets {
    fn kind(&self) -> &'static str {
        "Service"
    }

    fn target(&self, canary: &Canary) -> ObjectRef {
        beside(canary, &kinds::SERVICE, canary.target_name())
    }

    fn primary(&self, canary: &Canary) -> ObjectRef {
        ServiceRole::Primary.object(canary)
    }

    /// An empty label: the sides are told apart by their Services, not by a label.
    fn selector(
        &self,
        _target: &Object,
        _settings: &WorkloadSettings,
    ) -> Result<SelectorLabel, WorkloadError> {
        Ok(SelectorLabel {
            key: String::new(),
            value: String::new(),
        })
    }

    fn ports(&self, _target: &Object, _canary: &Canary) -> Vec<DiscoveredPort> {
        Vec::new()
    }

    /// The spec of the Service without what the API server allocated to it.
    fn template(&self, target: &Object) -> Value {
        let mut spec = target.at("/spec").clone();
        let headless = spec["clusterIP"] == "None";
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|field, _| !ALLOCATED.contains(&field.as_str()));
        }
        if headless {
            spec["clusterIP"] = json!("None");
        }
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
        spec
    }

    fn desired_primary(&self, request: &PrimaryRequest<'_>) -> Result<Object, WorkloadError> {
        clone_of(
            request.canary,
            ServiceRole::Primary,
            request.target,
            request.template,
            request.settings,
        )
    }

    fn readiness(&self, _workload: &Object, _rule: &ReadinessRule) -> Readiness {
        Readiness::Ready
    }

    fn runs(&self, primary: &Object, template: &Value, _: &str, _: &SelectorLabel) -> bool {
        let said = self.template(primary);
        cloned_spec(template)
            .as_object()
            .into_iter()
            .flatten()
            .all(|(field, value)| said[field.as_str()] == *value)
    }

    fn sides(&self) -> Sides {
        Sides::Clones
    }

    /// A clone says less than what it was made from.
    fn found_template(&self, _: &Object, _: &SelectorLabel) -> Option<Value> {
        None
    }

    /// The pods are somebody else's.
    fn replicas(&self, _workload: &Object) -> i64 {
        0
    }

    fn rolls_dark(&self, _target: &Object, _primary: &Object) -> bool {
        false
    }

    fn scale(&self, _workload: &Object, _replicas: i64) -> Option<Write> {
        None
    }

    fn replicas_from_zero(
        &self,
        _canary: &Canary,
        _target: &Object,
        _primary: Option<&Object>,
        _autoscaler: Option<&Object>,
    ) -> i64 {
        0
    }
}

/// The write that brings `<apex>-canary` to this revision of the target; none where it says so.
pub fn desired_canary(
    canary: &Canary,
    target: &Object,
    spec: &Value,
    live: &Reading,
    settings: &WorkloadSettings,
) -> Result<Option<Write>, WorkloadError> {
    let clone = clone_of(canary, ServiceRole::Canary, target, spec, settings)?;
    apply_exactly(canary, clone, live)
}

/// What a clone takes from a revision.
fn cloned_spec(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|field, _| !OUTSIDE.contains(&field.as_str()));
        if matches!(
            fields.get("type").and_then(Value::as_str),
            Some("NodePort" | "LoadBalancer")
        ) {
            fields.insert("type".to_owned(), json!("ClusterIP"));
        }
    }
    spec
}

fn clone_of(
    canary: &Canary,
    role: ServiceRole,
    target: &Object,
    spec: &Value,
    settings: &WorkloadSettings,
) -> Result<Object, WorkloadError> {
    let object = role.object(canary);
    if object.name == canary.target_name() {
        return Err(WorkloadError::unfit(
            object,
            "the target would be its own clone; choose another spec.service.name",
        ));
    }
    let mut spec = cloned_spec(spec);
    if let Some(distribution) = canary
        .spec
        .service
        .as_ref()
        .and_then(|service| service.traffic_distribution.as_ref())
    {
        spec["trafficDistribution"] = json!(distribution);
    }
    Ok(Object::new(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": object.name,
            "namespace": object.namespace,
            "labels": included(&target.labels(), settings),
            "annotations": included(&target.annotations(), settings),
            "ownerReferences": owner_references(canary),
        },
        "spec": spec,
    })))
}
