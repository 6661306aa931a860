//! A Service as the target: its clones, and what counts as a revision of it.

use super::*;
use crate::workload::service_target::desired_canary;
use crate::workload::services::apply_exactly;
use crate::workload::{Sides, revision_hash, target_of};
use serde_json::json;

fn canary_of_service(service: &str) -> Canary {
    let mut canary = canary_of("Service", service);
    canary.spec.target_ref.api_version = "v1".into();
    canary
}

fn target() -> Object {
    object(
        "
apiVersion: v1
kind: Service
metadata: {name: podinfo, namespace: shop, labels: {team: a}, annotations: {external-dns/hostname: shop.example}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [10.0.0.0/8]
  healthCheckNodePort: 32000
  clusterIP: 10.0.0.1
  clusterIPs: [10.0.0.1]
  selector: {app: podinfo, version: v2}
  ports: [{name: http, port: 80, targetPort: 9898, protocol: TCP, nodePort: 30080}]
",
    )
}

fn primary(canary: &Canary, template: &Value) -> Object {
    let kind = target_of(canary);
    kind.desired_primary(&PrimaryRequest {
        canary,
        target: &target(),
        template,
        replicas: None,
        renamed_configs: &BTreeMap::new(),
        flagger_id: "",
        selector: &kind
            .selector(&target(), &WorkloadSettings::default())
            .unwrap(),
        settings: &WorkloadSettings::default(),
    })
    .unwrap()
}

#[test]
fn clones_are_named_after_the_apex_and_reached_from_inside_only() {
    let canary = canary_of_service("{name: shop, port: 80, trafficDistribution: PreferClose}");
    let template = target_of(&canary).template(&target());
    let primary = primary(&canary, &template);
    assert_eq!(primary.name(), "shop-primary");
    assert_eq!(
        primary.at("/spec"),
        &json!({
            "type": "ClusterIP",
            "trafficDistribution": "PreferClose",
            "selector": {"app": "podinfo", "version": "v2"},
            "ports": [{"name": "http", "port": 80, "targetPort": 9898, "protocol": "TCP"}],
        })
    );
    assert_eq!(primary.at("/metadata/annotations"), &json!({}));
    assert_eq!(primary.controller_owner().unwrap().uid, "canary-uid");
}

#[test]
fn the_canary_clone_follows_the_target_and_the_primary_what_was_promoted() {
    let canary = canary_of_service("{port: 80}");
    let kind = target_of(&canary);
    let promoted = kind.template(&target());
    let mut next = target();
    next.value_mut()["spec"]["selector"]["version"] = json!("v3");
    let follow = |live: &Reading| {
        let spec = kind.template(&next);
        desired_canary(&canary, &next, &spec, live, &WorkloadSettings::default()).unwrap()
    };
    let stored = carried_out(&follow(&Reading::Absent).unwrap(), &Reading::Absent);
    assert_eq!(stored.name(), "podinfo-canary");
    assert_eq!(stored.at("/spec/selector/version"), "v3");
    assert_eq!(follow(&present(&stored)), None);
    assert_eq!(
        primary(&canary, &promoted).at("/spec/selector/version"),
        "v2"
    );
}

#[test]
fn what_the_cluster_allocates_is_no_revision() {
    let kind = target_of(&canary_of_service("{port: 80}"));
    let hash = |object: &Object| revision_hash(&kind.template(object));
    let mut moved = target();
    moved.value_mut()["spec"]["clusterIP"] = json!("10.0.0.2");
    moved.value_mut()["spec"]["ports"][0]["nodePort"] = json!(30_081);
    assert_eq!(hash(&moved), hash(&target()));
    moved.value_mut()["spec"]["clusterIP"] = json!("None");
    assert_ne!(hash(&moved), hash(&target()), "headless is the user's wish");
}

#[test]
fn ports_of_another_writer_go_before_ours_are_applied() {
    let canary = canary_of_service("{port: 80}");
    let kind = target_of(&canary);
    let desired = primary(&canary, &kind.template(&target()));
    let mut live = desired.clone();
    live.value_mut()["spec"]["ports"] = json!([{"name": "http", "port": 8080}]);
    let patch = merge_patch(apply_exactly(&canary, desired, &present(&live)).unwrap());
    assert_eq!(patch["spec"]["ports"][0]["port"], 80);
}

#[test]
fn the_api_group_tells_a_knative_service_from_a_core_one() {
    let mut canary = canary_of_service("{port: 80}");
    assert_eq!(target_of(&canary).sides(), Sides::Clones);
    canary.spec.target_ref.api_version = "serving.knative.dev/v1".into();
    assert_eq!(target_of(&canary).sides(), Sides::Revisions);
}
