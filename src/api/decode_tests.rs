//! Specification of decoding: what is understood, what is told, and that one bad part harms no other.

use serde_json::{Value, json};

use super::{Canary, Metadata, MetricTemplate, Phase};

fn canary(spec_changes: &Value, status: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": { "name": "podinfo", "namespace": "test", "uid": "u1", "generation": 3 },
        "spec": {
            "targetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo" },
            "service": { "port": 80 },
            "analysis": { "interval": "1m", "threshold": 5, "stepWeight": 10 }
        }
    });
    merge(&mut object["spec"], spec_changes);
    if !status.is_null() {
        object["status"] = status.clone();
    }
    object
}

fn merge(target: &mut Value, changes: &Value) {
    match changes {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| merge(&mut target[key], value)),
        other => *target = other.clone(),
    }
}

#[test]
fn given_a_number_without_fraction_then_it_is_read_as_whole() {
    let object = canary(
        &json!({ "analysis": { "stepWeight": 10.0, "stepWeights": [1.0, 5] } }),
        &Value::Null,
    );
    let canary = Canary::decode(&object).unwrap();
    assert_eq!(canary.spec.analysis.step_weight, Some(10));
    assert_eq!(canary.spec.analysis.step_weights, [1, 5]);
}

#[test]
fn given_what_cannot_be_understood_then_the_error_names_field_value_and_what_would_be_right() {
    let table = [
        (
            json!({ "analysis": { "stepWeight": 2.5 } }),
            "spec.analysis.stepWeight: 2.5 is not a whole number; use 2 or 3",
        ),
        (
            json!({ "analysis": { "stepWeights": [1, 2.5] } }),
            "spec.analysis.stepWeights[1]: 2.5 is not a whole number; use 2 or 3",
        ),
        (
            json!({ "analysis": { "threshold": "five" } }),
            "spec.analysis.threshold: expected a whole number, found \"five\"",
        ),
        (
            json!({ "suspend": "yes" }),
            "spec.suspend: expected true or false, found \"yes\"",
        ),
        (
            json!({ "analysis": { "metrics": [{}] } }),
            "spec.analysis.metrics[0].name: is required and missing",
        ),
        (
            json!({ "targetRef": null }),
            "spec.targetRef: is required and missing",
        ),
        (
            json!({ "analysis": { "failureMode": "both" } }),
            "spec.analysis.failureMode: expected one of \"cumulative\", \"consecutive\", \"window\", found \"both\"",
        ),
    ];
    for (changes, message) in table {
        assert_eq!(
            Canary::decode(&canary(&changes, &Value::Null))
                .unwrap_err()
                .to_string(),
            message
        );
    }
}

#[test]
fn given_an_object_that_cannot_be_decoded_then_it_can_still_be_named() {
    let object = canary(&json!({ "analysis": { "stepWeight": 2.5 } }), &Value::Null);
    assert_eq!(Metadata::of(&object).namespaced_name(), "test/podinfo");
    assert_eq!(Metadata::of(&json!(3)).namespaced_name(), "");
    let deleting = json!({ "metadata": { "name": "a", "deletionTimestamp": "soon" } });
    assert!(Metadata::of(&deleting).is_deleting());
}

#[test]
fn given_another_kind_or_no_spec_then_decoding_says_so() {
    let template = json!({ "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": { "name": "a" } });
    let message = Canary::decode(&template).unwrap_err().to_string();
    assert_eq!(
        message,
        "kind: expected \"Canary\", found \"MetricTemplate\""
    );
    assert_eq!(
        MetricTemplate::decode(&template).unwrap_err().to_string(),
        "spec: is required and missing"
    );
}

#[test]
fn given_a_status_with_odd_parts_then_only_those_are_absent_and_each_is_told() {
    let status = json!({
        "phase": "Dancing", "failedChecks": 2, "canaryWeight": 30.0, "iterations": -1,
        "lastAppliedSpec": "abc", "lastTransitionTime": "yesterday",
        "conditions": [
            { "type": "Promoted", "status": "Unknown", "reason": "Progressing" },
            { "type": "Ready", "status": "Perhaps", "reason": "Progressing" }
        ],
        "run": { "id": "a", "weights": { "primary": -7, "canary": 30 }, "stage": "judging" }
    });
    let canary = Canary::decode(&canary(&json!({}), &status)).unwrap();
    let read = canary.status.clone().unwrap();
    assert_eq!(
        (
            read.phase,
            read.failed_checks,
            read.canary_weight,
            read.iterations
        ),
        (Phase::Unset, 2, 30, -1)
    );
    assert_eq!(read.last_applied_spec.as_deref(), Some("abc"));
    assert_eq!(read.conditions.len(), 1);
    let run = read.run.unwrap();
    assert_eq!((run.stage.as_str(), run.weights), ("judging", None));
    let paths: Vec<_> = canary
        .status_problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    for path in [
        "status.phase",
        "status.lastTransitionTime",
        "status.conditions[1].status",
        "status.run.weights.primary",
    ] {
        assert!(paths.contains(&path), "{path} is not told: {paths:?}");
    }
}

#[test]
fn given_a_status_of_flagger_then_it_is_read_whole_and_written_with_its_counters() {
    let status = json!({
        "phase": "Initialized", "failedChecks": 0, "canaryWeight": 0, "iterations": 0,
        "lastAppliedSpec": "7d8", "lastPromotedSpec": "7d8", "lastTransitionTime": "2024-05-01T10:00:00Z",
        "trackedConfigs": {},
        "conditions": [{
            "type": "Promoted", "status": "True", "reason": "Initialized", "message": "Deployment initialization completed.",
            "lastUpdateTime": "2024-05-01T10:00:00Z", "lastTransitionTime": "2024-05-01T10:00:00Z"
        }]
    });
    let canary = Canary::decode(&canary(&json!({}), &status)).unwrap();
    assert!(
        canary.status_problems.is_empty(),
        "{:?}",
        canary.status_problems
    );
    assert_eq!(canary.encode()["status"], status);
}

#[test]
fn given_a_time_of_our_own_then_it_is_written_in_milliseconds_and_flaggers_in_seconds() {
    let time = "2030-01-01T00:00:00.123456789Z";
    let status = json!({ "lastTransitionTime": time, "run": { "startedAt": time } });
    let written = Canary::decode(&canary(&json!({}), &status))
        .unwrap()
        .encode();
    assert_eq!(
        written["status"]["lastTransitionTime"],
        "2030-01-01T00:00:00Z"
    );
    assert_eq!(
        written["status"]["run"]["startedAt"],
        "2030-01-01T00:00:00.123Z"
    );
}
