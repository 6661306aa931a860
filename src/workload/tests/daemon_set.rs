//! `DaemonSets`: parking, readiness, and a primary that is never parked.

use super::*;
use crate::workload::{Readiness, ReadinessRule, revision_hash};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

fn daemon_set() -> Object {
    let mut object = deployment();
    let value = object.value_mut();
    value["kind"] = json!("DaemonSet");
    let spec = value["spec"].as_object_mut().unwrap();
    spec.remove("replicas");
    spec.remove("strategy");
    spec.insert(
        "updateStrategy".into(),
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}),
    );
    object
}

fn parked() -> Object {
    let live = daemon_set();
    carried_out(&kind_of(&live).scale(&live, 0).unwrap(), &present(&live))
}

fn primary(target: &Object) -> Result<Object, WorkloadError> {
    let canary = canary_of("DaemonSet", "{port: 80}");
    primary_of(
        &canary,
        target,
        &WorkloadSettings::default(),
        &BTreeMap::new(),
        None,
    )
}

#[test]
fn an_idle_target_is_parked_by_a_node_selector_and_freed_by_its_removal() {
    let live = daemon_set();
    let kind = kind_of(&live);
    assert_eq!(kind.scale(&live, 1), None);
    let parked = parked();
    assert_eq!(
        parked.at("/spec/template/spec/nodeSelector"),
        &json!({"flagger.app/scale-to-zero": "true"})
    );
    assert_eq!((kind.replicas(&live), kind.replicas(&parked)), (1, 0));
    assert_eq!(kind.scale(&parked, 0), None);
    let freed = carried_out(&kind.scale(&parked, 1).unwrap(), &present(&parked));
    assert_eq!(kind.replicas(&freed), 1);
}

#[test]
fn parking_is_no_new_revision() {
    let live = daemon_set();
    let kind = kind_of(&live);
    let mut empty = daemon_set();
    empty.value_mut()["spec"]["template"]["spec"]["nodeSelector"] = json!({});
    let hash = |object: &Object| revision_hash(&kind.template(object));
    assert_eq!(hash(&parked()), hash(&live));
    assert_eq!(hash(&empty), hash(&live));
    let mut chosen = daemon_set();
    chosen.value_mut()["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    assert_ne!(hash(&chosen), hash(&live));
}

#[test]
fn the_primary_is_never_parked_and_keeps_the_rollout_fields() {
    let primary = primary(&parked()).unwrap();
    assert_eq!(primary.kind(), "DaemonSet");
    assert!(
        primary
            .at("/spec/template/spec")
            .get("nodeSelector")
            .is_none()
    );
    assert_eq!(
        primary.at("/spec/updateStrategy/rollingUpdate/maxUnavailable"),
        1
    );
    assert_eq!(primary.at("/spec/minReadySeconds"), 5);
    assert!(primary.at("/spec").get("progressDeadlineSeconds").is_none());
    assert_eq!(
        primary.at("/spec/selector/matchLabels/app"),
        "podinfo-primary"
    );
}

#[test]
fn a_daemon_set_that_does_not_roll_by_itself_is_refused() {
    let mut target = daemon_set();
    target.value_mut()["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let error = primary(&target).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("spec.updateStrategy.type is OnDelete; RollingUpdate"),
        "{error}"
    );
}

#[test]
fn readiness_counts_nodes_and_fails_only_after_the_deadline_of_this_wait() {
    let waits = |text: &str| Readiness::Waiting {
        message: format!("waiting for rollout to finish: {text}"),
    };
    let failed = |text: &str| Readiness::Failed {
        message: format!("daemonset \"podinfo\" exceeded its progressDeadlineSeconds: 60 ({text})"),
    };
    let updating = "1 out of 3 new pods have been updated";
    let starting = "2 of 3 (readyThreshold 100%) updated pods are available";
    // status, threshold, waiting since, expected at second 100
    let rows = [
        (
            "{observedGeneration: 3}",
            100,
            None,
            waits("observed daemonset generation less than desired generation"),
        ),
        (
            "{observedGeneration: 4, desiredNumberScheduled: 3, updatedNumberScheduled: 1}",
            100,
            Some(40),
            waits(updating),
        ),
        (
            "{observedGeneration: 4, desiredNumberScheduled: 3, updatedNumberScheduled: 1}",
            100,
            Some(39),
            failed(updating),
        ),
        (
            "{observedGeneration: 4, desiredNumberScheduled: 3, updatedNumberScheduled: 3, numberAvailable: 2}",
            100,
            None,
            waits(starting),
        ),
        (
            "{observedGeneration: 4, desiredNumberScheduled: 3, updatedNumberScheduled: 3, numberAvailable: 2}",
            100,
            Some(0),
            failed(starting),
        ),
        (
            "{observedGeneration: 4, desiredNumberScheduled: 3, updatedNumberScheduled: 3, numberAvailable: 2}",
            67,
            Some(0),
            Readiness::Ready,
        ),
    ];
    for (status, threshold, since, expected) in rows {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let rule = ReadinessRule {
            threshold,
            progress_deadline: SignedDuration::from_secs(60),
            since: since.map(at),
            now: at(100),
        };
        let mut live = daemon_set();
        live.value_mut()["status"] = value(status);
        assert_eq!(kind_of(&live).readiness(&live, &rule), expected, "{status}");
        let mut idle = parked();
        idle.value_mut()["status"] = value("{observedGeneration: 4}");
        assert_eq!(
            kind_of(&idle).readiness(&idle, &rule).message(),
            "daemonset \"podinfo\" is scaled to zero"
        );
    }
}

#[test]
fn a_primary_is_dark_for_a_while_where_no_pod_need_stay_and_none_may_come_before() {
    let deployments: &[(i64, serde_json::Value, bool)] = &[
        (3, json!(null), false),
        (1, json!(null), false),
        (3, json!({"type": "Recreate"}), true),
        (
            1,
            json!({"rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}),
            false,
        ),
        (
            1,
            json!({"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}),
            true,
        ),
        (
            1,
            json!({"rollingUpdate": {"maxUnavailable": "25%", "maxSurge": 0}}),
            true,
        ),
        (
            3,
            json!({"rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 1}}),
            true,
        ),
        (3, json!({"rollingUpdate": {"maxUnavailable": 2}}), false),
    ];
    for (pods, strategy, expected) in deployments {
        let mut target = deployment();
        target.value_mut()["spec"]["strategy"] = strategy.clone();
        let mut primary = deployment();
        primary.value_mut()["spec"]["replicas"] = json!(pods);
        let dark = kind_of(&target).rolls_dark(&target, &primary);
        assert_eq!(dark, *expected, "{pods} pods of a Deployment, {strategy}");
    }
    let daemon_sets: &[(i64, serde_json::Value, bool)] = &[
        (1, json!(null), true),
        (3, json!(null), false),
        (3, json!({"maxUnavailable": "10%"}), false),
        (3, json!({"maxUnavailable": "70%"}), true),
        (1, json!({"maxSurge": 1, "maxUnavailable": 0}), false),
    ];
    for (pods, rolling, expected) in daemon_sets {
        let mut target = daemon_set();
        target.value_mut()["spec"]["updateStrategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": rolling});
        let mut primary = daemon_set();
        primary.value_mut()["status"] = json!({"desiredNumberScheduled": pods});
        let dark = kind_of(&target).rolls_dark(&target, &primary);
        assert_eq!(dark, *expected, "{pods} pods of a DaemonSet, {rolling}");
    }
}
