//! Deployments: the usual target. The target is the canary and is scaled to zero when idle; the primary is `<target>-primary`.

use crate::api::Canary;
use crate::object::{Expect, Object, ObjectRef, Patch, Write, kinds};
use crate::workload::metadata::included;
use crate::workload::ownership::{beside, owner_references};
use crate::workload::pod_template::primary_template;
use crate::workload::services::discover_ports;
use crate::workload::{
    DiscoveredPort, PrimaryRequest, Readiness, ReadinessRule, Rounding, SelectorLabel, Target,
    WorkloadError, WorkloadSettings, share_of,
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// `apps/v1` Deployments.
pub(super) struct Deployments;

/// What the primary takes from the live target beside the template. `paused` is left out: it is a switch of one object.
const ROLLOUT_FIELDS: [&str; 4] = [
    "progressDeadlineSeconds",
    "minReadySeconds",
    "revisionHistoryLimit",
    "strategy",
];

impl Target for Deployments {
    fn kind(&self) -> &'static str {
        "Deployment"
    }

    fn target(&self, canary: &Canary) -> ObjectRef {
        beside(canary, &kinds::DEPLOYMENT, canary.target_name())
    }

    fn primary(&self, canary: &Canary) -> ObjectRef {
        beside(canary, &kinds::DEPLOYMENT, &canary.primary_name())
    }

    fn selector(
        &self,
        target: &Object,
        settings: &WorkloadSettings,
    ) -> Result<SelectorLabel, WorkloadError> {
        selector_label(
            kinds::DEPLOYMENT.named(target.namespace(), target.name()),
            target,
            settings,
        )
    }

    fn ports(&self, target: &Object, canary: &Canary) -> Vec<DiscoveredPort> {
        discover_ports(target.at("/spec/template/spec"), canary)
    }

    fn template(&self, target: &Object) -> Value {
        target.at("/spec/template").clone()
    }

    fn desired_primary(&self, request: &PrimaryRequest<'_>) -> Result<Object, WorkloadError> {
        let mut primary = cloned_workload(self.primary(request.canary), request, &ROLLOUT_FIELDS)?;
        if let Some(replicas) = request.replicas {
            primary.value_mut()["spec"]["replicas"] = json!(replicas);
        }
        Ok(primary)
    }

    fn readiness(&self, workload: &Object, rule: &ReadinessRule) -> Readiness {
        readiness(workload, rule)
    }

    fn replicas(&self, workload: &Object) -> i64 {
        // The API server fills in 1 where the field is left out.
        workload.number("/spec/replicas").unwrap_or(1)
    }

    fn rolls_dark(&self, target: &Object, primary: &Object) -> bool {
        let strategy = target.at("/spec/strategy");
        if strategy["type"] == "Recreate" {
            return true;
        }
        let pods = self.replicas(primary);
        let rolling = &strategy["rollingUpdate"];
        let unavailable =
            share_of(&rolling["maxUnavailable"], pods, Rounding::Down).unwrap_or(pods / 4);
        // Where neither a missing nor an extra pod is allowed, the API lets one be missing.
        let surge = share_of(&rolling["maxSurge"], pods, Rounding::Up).unwrap_or(1);
        let unavailable = if surge == 0 {
            unavailable.max(1)
        } else {
            unavailable
        };
        unavailable >= pods
    }

    fn scale(&self, workload: &Object, replicas: i64) -> Option<Write> {
        (workload.number("/spec/replicas") != Some(replicas)).then(|| Write::Patch {
            target: kinds::DEPLOYMENT.named(workload.namespace(), workload.name()),
            patch: Patch::Merge(json!({"spec": {"replicas": replicas}})),
            expect: Expect::unchanged(workload),
        })
    }

    fn replicas_from_zero(
        &self,
        canary: &Canary,
        target: &Object,
        primary: Option<&Object>,
        autoscaler: Option<&Object>,
    ) -> i64 {
        let own = self.replicas(target);
        if own > 0 {
            return own;
        }
        let wanted = if canary.spec.autoscaler_ref.is_some() {
            autoscaler.and_then(least_replicas)
        } else {
            primary.map(|primary| self.replicas(primary))
        };
        wanted.filter(|replicas| *replicas > 0).unwrap_or(1)
    }
}

/// The minimum that a `HorizontalPodAutoscaler` or `ScaledObject` keeps.
fn least_replicas(autoscaler: &Object) -> Option<i64> {
    autoscaler
        .number("/spec/minReplicas")
        .or_else(|| autoscaler.number("/spec/minReplicaCount"))
}

/// The first of the configured labels by which the workload selects its pods.
pub(super) fn selector_label(
    object: ObjectRef,
    target: &Object,
    settings: &WorkloadSettings,
) -> Result<SelectorLabel, WorkloadError> {
    let labels = target.string_map("/spec/selector/matchLabels");
    settings
        .selector_labels
        .iter()
        .find_map(|key| {
            labels.get(key).map(|value| SelectorLabel {
                key: key.clone(),
                value: value.clone(),
            })
        })
        .ok_or_else(|| WorkloadError::unfit(object, format!(
                "spec.selector.matchLabels has {}; one of the labels {} is needed there to tell primary and canary pods apart \
                 (add one, or name yours with -selector-labels)",
                if labels.is_empty() {
                    "no label".to_owned()
                } else {
                    format!("only {}", labels.keys().cloned().collect::<Vec<_>>().join(", "))
                },
                settings.selector_labels.join(", ")
            )))
}

/// What Deployment and `DaemonSet` primaries have in common: everything but replicas.
pub(super) fn cloned_workload(
    primary: ObjectRef,
    request: &PrimaryRequest<'_>,
    rollout_fields: &[&str],
) -> Result<Object, WorkloadError> {
    if request.template["spec"]["containers"]
        .as_array()
        .is_none_or(Vec::is_empty)
    {
        return Err(WorkloadError::unfit(primary, "the template to run has no spec.containers; a pod template with at least one container is needed"
                .to_owned()));
    }
    if let Some((container, port)) = port_named_twice(&request.template["spec"]) {
        return Err(WorkloadError::unfit(
            primary,
            format!(
                "container {container} lists port {port} twice; the API server's server-side apply takes each port of a \
                 container once, so remove one of the two from the target"
            ),
        ));
    }
    let mut labels = included(&request.target.labels(), request.settings);
    labels.insert(
        request.selector.key.clone(),
        Value::String(request.selector.primary_value()),
    );
    let mut spec = Map::new();
    for field in rollout_fields {
        let value = &request.target.at("/spec")[*field];
        if !value.is_null() {
            spec.insert((*field).to_owned(), value.clone());
        }
    }
    spec.insert(
        "selector".to_owned(),
        json!({"matchLabels": {request.selector.key.as_str(): request.selector.primary_value()}}),
    );
    spec.insert("template".to_owned(), primary_template(request));
    Ok(Object::new(json!({
        "apiVersion": primary.kind.api_version(),
        "kind": primary.kind.kind,
        "metadata": {
            "name": primary.name,
            "namespace": request.canary.metadata.namespace,
            "labels": labels,
            "annotations": included(&request.target.annotations(), request.settings),
            "ownerReferences": owner_references(request.canary),
        },
        "spec": spec,
    })))
}

/// The first container that has a port number twice for one protocol, with number and protocol.
fn port_named_twice(pod_spec: &Value) -> Option<(String, String)> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| pod_spec[list].as_array().into_iter().flatten())
        .find_map(|container| {
            let mut seen = BTreeSet::new();
            container["ports"]
                .as_array()?
                .iter()
                .map(|port| {
                    let protocol = port["protocol"].as_str().unwrap_or("TCP");
                    format!("{}/{protocol}", port["containerPort"])
                })
                .find(|port| !seen.insert(port.clone()))
                .map(|port| {
                    let name = container["name"].as_str().unwrap_or_default();
                    (name.to_owned(), port)
                })
        })
}

/// A condition of `status.conditions`.
struct Condition<'a> {
    status: &'a str,
    reason: &'a str,
    updated_at: Option<Timestamp>,
}

fn condition<'a>(workload: &'a Object, kind: &str) -> Option<Condition<'a>> {
    let found = workload
        .at("/status/conditions")
        .as_array()?
        .iter()
        .find(|condition| condition["type"].as_str() == Some(kind))?;
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    Some(Condition {
        status: text("status"),
        reason: text("reason"),
        updated_at: text("lastUpdateTime").parse().ok(),
    })
}

fn readiness(workload: &Object, rule: &ReadinessRule) -> Readiness {
    if workload.generation() > workload.number("/status/observedGeneration").unwrap_or(0) {
        return Readiness::Waiting {
            message: "waiting for rollout to finish: observed deployment generation less than desired generation".to_owned(),
        };
    }
    let wanted = workload.number("/spec/replicas");
    if wanted == Some(0) {
        return Readiness::Waiting {
            message: format!("deployment {:?} is scaled to zero", workload.name()),
        };
    }
    let progressing = condition(workload, "Progressing");
    if progressing.as_ref().is_some_and(|progressing| {
        progressing.reason == "ProgressDeadlineExceeded"
            && is_fresh(progressing.updated_at, rule.since)
    }) {
        return Readiness::Failed {
            message: format!(
                "deployment {:?} exceeded its progress deadline",
                workload.name()
            ),
        };
    }
    let count = |field: &str| workload.at("/status")[field].as_i64().unwrap_or(0);
    let (all, updated, available) = (
        count("replicas"),
        count("updatedReplicas"),
        count("availableReplicas"),
    );
    let missing = if wanted.is_some_and(|wanted| updated < wanted) {
        format!(
            "{updated} out of {} new replicas have been updated",
            wanted.unwrap_or_default()
        )
    } else if all > updated {
        format!("{} old replicas are pending termination", all - updated)
    } else if available < updated * rule.threshold / 100 {
        format!(
            "{available} of {updated} (readyThreshold {}%) updated replicas are available",
            rule.threshold
        )
    } else {
        return Readiness::Ready;
    };
    let message = format!("waiting for rollout to finish: {missing}");
    if is_overdue(workload, progressing.as_ref(), rule) {
        Readiness::Failed { message }
    } else {
        Readiness::Waiting { message }
    }
}

/// Whether a condition speaks of the revision that is waited for, and not of one before it. Conditions carry whole seconds.
fn is_fresh(updated_at: Option<Timestamp>, since: Option<Timestamp>) -> bool {
    match (updated_at, since) {
        (Some(updated_at), Some(since)) => updated_at.as_second() >= since.as_second(),
        _ => true,
    }
}

/// Whether the canary's `progressDeadlineSeconds` is past. Flagger counts from the moment at which the Deployment became
/// unavailable; that moment may lie in a former revision, or before a rollout that is still making progress. So the clock
/// starts at the latest of: waiting began, the Deployment became unavailable, the Deployment last made progress.
fn is_overdue(
    workload: &Object,
    progressing: Option<&Condition<'_>>,
    rule: &ReadinessRule,
) -> bool {
    let unavailable_since = condition(workload, "Available")
        .filter(|available| {
            available.status == "False" && available.reason == "MinimumReplicasUnavailable"
        })
        .and_then(|available| available.updated_at)
        .filter(|_| progressing.is_some());
    let start = match rule.since {
        Some(since) => [
            Some(since),
            unavailable_since,
            progressing.and_then(|progressing| progressing.updated_at),
        ]
        .into_iter()
        .flatten()
        .max(),
        None => unavailable_since,
    };
    start.is_some_and(|start| {
        start
            .checked_add(rule.progress_deadline)
            .is_ok_and(|deadline| rule.now > deadline)
    })
}
