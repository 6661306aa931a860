//! `DaemonSets`. They have no replica count: an idle target is parked by a node selector that no node has.

use crate::api::Canary;
use crate::object::{Expect, Object, ObjectRef, Patch, Write, kinds};
use crate::workload::deployment::{cloned_workload, selector_label};
use crate::workload::ownership::beside;
use crate::workload::services::discover_ports;
use crate::workload::{
    DiscoveredPort, PrimaryRequest, Readiness, ReadinessRule, Rounding, SelectorLabel, Target,
    WorkloadError, WorkloadSettings, share_of,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// `apps/v1` `DaemonSets`.
pub(super) struct DaemonSets;

/// Node label that no node has; a pod template that asks for it is parked.
const SCALE_TO_ZERO: &str = "flagger.app/scale-to-zero";

const ROLLOUT_FIELDS: [&str; 3] = ["minReadySeconds", "revisionHistoryLimit", "updateStrategy"];

impl Target for DaemonSets {
    fn kind(&self) -> &'static str {
        "DaemonSet"
    }

    fn target(&self, canary: &Canary) -> ObjectRef {
        beside(canary, &kinds::DAEMON_SET, canary.target_name())
    }

    fn primary(&self, canary: &Canary) -> ObjectRef {
        beside(canary, &kinds::DAEMON_SET, &canary.primary_name())
    }

    fn selector(
        &self,
        target: &Object,
        settings: &WorkloadSettings,
    ) -> Result<SelectorLabel, WorkloadError> {
        selector_label(
            kinds::DAEMON_SET.named(target.namespace(), target.name()),
            target,
            settings,
        )
    }

    fn ports(&self, target: &Object, canary: &Canary) -> Vec<DiscoveredPort> {
        discover_ports(target.at("/spec/template/spec"), canary)
    }

    fn template(&self, target: &Object) -> Value {
        without_parking(target.at("/spec/template").clone())
    }

    fn desired_primary(&self, request: &PrimaryRequest<'_>) -> Result<Object, WorkloadError> {
        let strategy = request.target.text("/spec/updateStrategy/type");
        if !matches!(strategy, "" | "RollingUpdate") {
            return Err(WorkloadError::unfit(
                self.target(request.canary),
                format!(
                    "spec.updateStrategy.type is {strategy}; RollingUpdate (or none) is needed, since with {strategy} new pods \
                     come only when somebody deletes the old ones"
                ),
            ));
        }
        // A kept template has no parking selector; one made by hand or by an older controller may.
        let template = without_parking(request.template.clone());
        cloned_workload(
            self.primary(request.canary),
            &PrimaryRequest {
                template: &template,
                ..request.clone()
            },
            &ROLLOUT_FIELDS,
        )
    }

    fn readiness(&self, workload: &Object, rule: &ReadinessRule) -> Readiness {
        readiness(workload, rule)
    }

    fn replicas(&self, workload: &Object) -> i64 {
        if is_parked(workload) {
            0
        } else {
            workload
                .number("/status/desiredNumberScheduled")
                .unwrap_or(1)
                .max(1)
        }
    }

    fn rolls_dark(&self, target: &Object, primary: &Object) -> bool {
        let rolling = target.at("/spec/updateStrategy/rollingUpdate");
        let pods = self.replicas(primary);
        let surge = share_of(&rolling["maxSurge"], pods, Rounding::Up).unwrap_or(0);
        let unavailable = share_of(&rolling["maxUnavailable"], pods, Rounding::Up).unwrap_or(1);
        surge == 0 && unavailable >= pods
    }

    fn scale(&self, workload: &Object, replicas: i64) -> Option<Write> {
        let parked = replicas == 0;
        let mark = if parked { json!("true") } else { Value::Null };
        (parked != is_parked(workload)).then(|| Write::Patch {
            target: kinds::DAEMON_SET.named(workload.namespace(), workload.name()),
            patch: Patch::Merge(
                json!({"spec": {"template": {"spec": {"nodeSelector": {SCALE_TO_ZERO: mark}}}}}),
            ),
            expect: Expect::unchanged(workload),
        })
    }

    fn replicas_from_zero(
        &self,
        _canary: &Canary,
        _target: &Object,
        _primary: Option<&Object>,
        _autoscaler: Option<&Object>,
    ) -> i64 {
        1
    }
}

fn is_parked(workload: &Object) -> bool {
    workload
        .at("/spec/template/spec/nodeSelector")
        .get(SCALE_TO_ZERO)
        .is_some()
}

/// The template without the parking selector, and without a node selector that is empty after that: for a scheduler no
/// selector and an empty one are the same, so they must be the same revision.
fn without_parking(mut template: Value) -> Value {
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut)
        && let Some(nodes) = spec.get_mut("nodeSelector").and_then(Value::as_object_mut)
    {
        nodes.remove(SCALE_TO_ZERO);
        if nodes.is_empty() {
            spec.remove("nodeSelector");
        }
    }
    template
}

fn readiness(workload: &Object, rule: &ReadinessRule) -> Readiness {
    if workload.generation() > workload.number("/status/observedGeneration").unwrap_or(0) {
        return Readiness::Waiting {
            message:
                "waiting for rollout to finish: observed daemonset generation less than desired generation"
                    .to_owned(),
        };
    }
    if is_parked(workload) {
        return Readiness::Waiting {
            message: format!("daemonset {:?} is scaled to zero", workload.name()),
        };
    }
    let count = |field: &str| workload.at("/status")[field].as_i64().unwrap_or(0);
    let (wanted, updated, available) = (
        count("desiredNumberScheduled"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
    );
    let missing = if updated < wanted {
        format!("{updated} out of {wanted} new pods have been updated")
    } else if available < wanted * rule.threshold / 100 {
        format!(
            "{available} of {wanted} (readyThreshold {}%) updated pods are available",
            rule.threshold
        )
    } else {
        return Readiness::Ready;
    };
    if rule.since.is_some_and(|since| is_past(since, rule)) {
        return Readiness::Failed {
            message: format!(
                "daemonset {:?} exceeded its progressDeadlineSeconds: {} ({missing})",
                workload.name(),
                rule.progress_deadline.as_secs()
            ),
        };
    }
    Readiness::Waiting {
        message: format!("waiting for rollout to finish: {missing}"),
    }
}

/// A `DaemonSet` has no condition that tells since when it hangs, so the only clock is the beginning of the wait.
fn is_past(since: Timestamp, rule: &ReadinessRule) -> bool {
    since
        .checked_add(rule.progress_deadline)
        .is_ok_and(|deadline| rule.now > deadline)
}
