//! Autoscalers: what the primary's copy says, and the pause of the user's `ScaledObject`.

use super::*;
use crate::api::{AutoscalerRef, ScalerReplicas};
use crate::object::{apply_if_needed, kinds};
use crate::workload::autoscaler::{
    PAUSED_REPLICAS, desired_primary_autoscaler, pause, primary, primary_query, resume, source,
};
use serde_json::json;

fn scaled(kind: &str) -> Canary {
    let mut canary = canary();
    canary.spec.autoscaler_ref = Some(AutoscalerRef {
        kind: kind.into(),
        name: "podinfo".into(),
        ..AutoscalerRef::default()
    });
    canary
}

fn with_bounds(mut canary: Canary, min: Option<i64>, max: Option<i64>) -> Canary {
    if let Some(reference) = &mut canary.spec.autoscaler_ref {
        reference.primary_scaler_replicas = Some(ScalerReplicas {
            min_replicas: min,
            max_replicas: max,
        });
    }
    canary
}

fn hpa() -> Object {
    object(
        "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: podinfo
  namespace: shop
  labels: {team: checkout, kustomize.toolkit.fluxcd.io/name: apps}
  annotations: {note: text}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: podinfo}
  minReplicas: 2
  maxReplicas: 4
  metrics:
    - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 99}}}
  behavior: {scaleDown: {stabilizationWindowSeconds: 300}}
",
    )
}

fn scaled_object() -> Object {
    object(
        "
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: podinfo
  namespace: shop
  uid: so-uid
  resourceVersion: '9'
  annotations: {autoscaling.keda.sh/paused-replicas: '0', scaledobject.keda.sh/transfer-hpa-ownership: 'true'}
spec:
  scaleTargetRef: {name: podinfo, envSourceContainerName: podinfod}
  pollingInterval: 10
  initialCooldownPeriod: 7
  minReplicaCount: 1
  maxReplicaCount: 3
  advanced: {horizontalPodAutoscalerConfig: {name: podinfo, behavior: {scaleUp: {stabilizationWindowSeconds: 1}}}}
  triggers:
    - type: prometheus
      name: load
      metadata: {serverAddress: 'http://prometheus', query: 'sum(rate(http_requests{app=\"podinfo\"}[30s]))', threshold: '5'}
    - type: cron
      metadata: {timezone: UTC}
",
    )
}

#[test]
fn the_primary_hpa_is_the_source_with_the_primarys_name() {
    let canary = scaled("HorizontalPodAutoscaler");
    assert_eq!(
        source(&canary).unwrap().to_string(),
        "HorizontalPodAutoscaler podinfo.shop"
    );
    assert_eq!(primary(&canary).unwrap().name, "podinfo-primary");
    let copy = desired_primary_autoscaler(&canary, &hpa()).unwrap();
    let mut expected = hpa().at("/spec").clone();
    expected["scaleTargetRef"]["name"] = json!("podinfo-primary");
    assert_eq!(copy.at("/spec"), &expected);
    assert_eq!(copy.at("/metadata/labels"), &json!({"team": "checkout"}));
    assert_eq!(copy.at("/metadata/annotations"), &json!({}));
    assert_eq!(copy.controller_owner().unwrap().uid, "canary-uid");

    let write = apply_if_needed(
        &kinds::HORIZONTAL_POD_AUTOSCALER,
        copy.clone(),
        &Reading::Absent,
    )
    .unwrap();
    let stored = carried_out(&write, &Reading::Absent);
    assert_eq!(
        apply_if_needed(&kinds::HORIZONTAL_POD_AUTOSCALER, copy, &present(&stored)),
        None
    );
}

#[test]
fn replica_bounds_of_the_canary_win() {
    let rows = [
        (Some(1), Some(9), 1, 9),
        (None, Some(9), 2, 9),
        (Some(1), None, 1, 4),
        (None, None, 2, 4),
    ];
    for (min, max, least, most) in rows {
        let canary = with_bounds(scaled("HorizontalPodAutoscaler"), min, max);
        let copy = desired_primary_autoscaler(&canary, &hpa()).unwrap();
        assert_eq!(
            (
                copy.number("/spec/minReplicas"),
                copy.number("/spec/maxReplicas")
            ),
            (Some(least), Some(most))
        );
    }
    let canary = with_bounds(scaled("ScaledObject"), Some(5), Some(7));
    let copy = desired_primary_autoscaler(&canary, &scaled_object()).unwrap();
    assert_eq!(
        (
            copy.number("/spec/minReplicaCount"),
            copy.number("/spec/maxReplicaCount")
        ),
        (Some(5), Some(7))
    );
}

#[test]
fn the_primary_scaled_object_keeps_every_field_but_never_the_pause() {
    let copy = desired_primary_autoscaler(&scaled("ScaledObject"), &scaled_object()).unwrap();
    assert_eq!(
        copy.at("/spec/scaleTargetRef"),
        &json!({"name": "podinfo-primary", "envSourceContainerName": "podinfod"})
    );
    assert_eq!(
        copy.at("/spec/advanced/horizontalPodAutoscalerConfig/name"),
        "podinfo-primary"
    );
    assert_eq!(copy.at("/spec/initialCooldownPeriod"), 7);
    assert_eq!(
        copy.at("/spec/triggers/0/metadata/query"),
        r#"sum(rate(http_requests{app="podinfo-primary"}[30s]))"#
    );
    assert_eq!(
        copy.at("/spec/triggers/1"),
        scaled_object().at("/spec/triggers/1")
    );
    assert_eq!(copy.annotation(PAUSED_REPLICAS), None);
    assert_eq!(
        copy.annotation("scaledobject.keda.sh/transfer-hpa-ownership"),
        Some("true")
    );
}

#[test]
fn a_query_that_the_canary_names_replaces_the_triggers_own() {
    let mut canary = scaled("ScaledObject");
    let mut source = scaled_object();
    let named = |canary: &mut Canary, key: &str| {
        canary
            .spec
            .autoscaler_ref
            .as_mut()
            .unwrap()
            .primary_scaler_queries = BTreeMap::from([(key.to_owned(), "up".to_owned())]);
    };
    named(&mut canary, "load");
    let query = |canary: &Canary, source: &Object| {
        desired_primary_autoscaler(canary, source)
            .unwrap()
            .at("/spec/triggers/0/metadata/query")
            .clone()
    };
    assert_eq!(query(&canary, &source), "up");
    named(&mut canary, "other");
    assert_eq!(
        query(&canary, &source),
        source.at("/spec/triggers/0/metadata/query").clone()
    );
    source.value_mut()["spec"]["triggers"][0]["metadata"] = json!({"value": "1"});
    assert_eq!(query(&canary, &source), Value::Null);
}

#[test]
fn queries_about_the_target_become_queries_about_the_primary() {
    let rows = [
        ("podinfo", "podinfo-primary"),
        ("podinfo-canary", "podinfo-primary"),
        ("podinfo-primary", "podinfo-primary"),
        (
            r#"a{app="podinfo"} / a{app="podinfo-canary"}"#,
            r#"a{app="podinfo-primary"} / a{app="podinfo-primary"}"#,
        ),
        (
            r#"a{pod=~"podinfo-[0-9a-z]+"}"#,
            r#"a{pod=~"podinfo-primary-[0-9a-z]+"}"#,
        ),
        (r#"a{pod=~"podinfo-.*"}"#, r#"a{pod=~"podinfo-primary-.*"}"#),
        ("podinfo_requests_total", "podinfo_requests_total"),
        (
            "my-podinfo podinfo-backend podinfos",
            "my-podinfo podinfo-backend podinfos",
        ),
        (
            r#"a{podinfo="x", podinfo!="y"}"#,
            r#"a{podinfo="x", podinfo!="y"}"#,
        ),
        ("nothing", "nothing"),
    ];
    for (query, expected) in rows {
        assert_eq!(primary_query(query, "podinfo"), expected, "{query}");
        assert_eq!(
            primary_query(expected, "podinfo"),
            expected,
            "twice is once: {query}"
        );
    }
}

#[test]
fn the_users_scaled_object_is_paused_and_resumed_by_one_annotation() {
    let paused = scaled_object();
    assert_eq!(pause(&paused), None);
    let resumed = carried_out(&resume(&paused).unwrap(), &present(&paused));
    assert_eq!(resumed.annotation(PAUSED_REPLICAS), None);
    assert_eq!(resumed.at("/spec"), paused.at("/spec"));
    assert_eq!(resume(&resumed), None);
    assert_eq!(
        merge_patch(pause(&resumed)),
        json!({"metadata": {"annotations": {PAUSED_REPLICAS: "0"}}})
    );
    let mut own = scaled_object();
    own.value_mut()["metadata"]["annotations"][PAUSED_REPLICAS] = json!("3");
    assert_eq!(resume(&own), None, "a pause at three is the user's");
    assert_eq!((pause(&hpa()), resume(&hpa())), (None, None));
}

#[test]
fn unknown_kinds_and_broken_sources_are_refused() {
    let error = desired_primary_autoscaler(&scaled("VerticalPodAutoscaler"), &hpa()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("HorizontalPodAutoscaler or ScaledObject is expected"),
        "{error}"
    );
    let broken = object("{kind: ScaledObject, metadata: {name: podinfo, namespace: shop}}");
    let error = desired_primary_autoscaler(&scaled("ScaledObject"), &broken).unwrap_err();
    assert!(
        error.to_string().contains("spec.scaleTargetRef is missing"),
        "{error}"
    );
}
