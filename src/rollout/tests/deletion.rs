//! Deletion with `revertOnDeletion`: the user's workload, Service and route are as they were before, and whatever is missing, the
//! object goes within its deadline (chapter 2.14, 9.2 R3).

use super::*;
use crate::object::kinds;

const FINALIZER: &str = "finalizer.flagger.app";
const USERS_SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: podinfo}
spec: {selector: {app: podinfo}, ports: [{name: http, port: 9898, protocol: TCP, targetPort: 9898}]}
";
const USERS_ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: podinfo}
spec:
  parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gateway, namespace: infra}]
  rules: [{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{group: '', kind: Service, name: podinfo, port: 9898, weight: 1}]}]
";

/// A canary over a Service and a route of the user.
fn taken_over(more: &str) -> Cluster {
    let mut cluster = Cluster::given_canary(&canary_with(STEPS, more));
    cluster.given(USERS_SERVICE).given(USERS_ROUTE);
    cluster.given_deployment("podinfo:1");
    cluster.run_until(Phase::Initialized);
    assert_eq!(cluster.apex(), "podinfo-primary");
    cluster.forget_the_past();
    cluster
}

fn finalizers(cluster: &Cluster) -> String {
    cluster
        .object(&cluster.canary_name())
        .unwrap()
        .at("/metadata/finalizers")
        .to_string()
}

fn first_backend(cluster: &Cluster) -> String {
    cluster
        .object(&route())
        .unwrap()
        .at("/spec/rules/0/backendRefs")
        .to_string()
}

#[test]
fn the_finalizer_is_there_as_long_as_it_is_wanted() {
    let mut cluster = initialised(STEPS);
    assert!(!finalizers(&cluster).contains(FINALIZER));
    cluster.edit_canary(|spec| spec["revertOnDeletion"] = json!(true));
    cluster.run_until_calm();
    assert!(finalizers(&cluster).contains(FINALIZER));
    cluster.edit_canary(|spec| spec["revertOnDeletion"] = json!(false));
    cluster.run_until_calm();
    assert!(!finalizers(&cluster).contains(FINALIZER));
}

#[test]
fn the_target_serves_again_before_routes_lead_to_it_and_then_the_object_goes() {
    let mut cluster = taken_over(", revertOnDeletion: true");
    cluster.pods("podinfo", Pods::Dead);
    cluster.delete_canary().run_until_calm();
    assert_eq!(cluster.phase(), Phase::Terminating);
    assert_eq!(cluster.replicas("podinfo"), 2);
    assert_eq!(
        cluster.apex(),
        "podinfo-primary",
        "while the target has no ready pods"
    );

    cluster.pods_ready("podinfo").run_until_calm();
    assert_eq!(cluster.apex(), "podinfo");
    assert!(
        first_backend(&cluster).contains("\"podinfo\""),
        "{}",
        first_backend(&cluster)
    );
    assert!(!cluster.is_gone(), "the primary drains");
    cluster.advance(5);
    assert!(cluster.is_gone());
    assert_eq!(
        cluster.texts(),
        [
            "Normal Terminating Terminating canary podinfo.test",
            "Normal Terminated Terminated canary podinfo.test",
        ]
    );
}

#[test]
fn a_run_that_is_under_way_is_dropped() {
    let mut cluster = taken_over(", revertOnDeletion: true");
    cluster.deploy("podinfo:2").run_until_calm();
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster.delete_canary().advance(10);
    assert!(cluster.is_gone());
    assert_eq!(cluster.apex(), "podinfo");
    assert!(!cluster.has_told("Advance podinfo.test canary weight 40"));
}

#[test]
fn whatever_is_missing_the_object_goes() {
    for missing in [
        deployment("podinfo"),
        deployment("podinfo-primary"),
        service("podinfo"),
        route(),
    ] {
        let mut cluster = taken_over(", revertOnDeletion: true");
        cluster.remove(&missing);
        cluster.delete_canary().advance(10);
        assert!(cluster.is_gone(), "without {missing}");
    }
}

#[test]
fn a_target_that_never_becomes_ready_holds_the_object_until_its_deadline_only() {
    let mut cluster = taken_over(", revertOnDeletion: true");
    cluster.pods("podinfo", Pods::Dead);
    cluster.delete_canary().advance(50);
    assert!(!cluster.is_gone());
    cluster.advance(15);
    assert!(cluster.is_gone());
    assert_eq!(
        cluster.apex(),
        "podinfo",
        "the primary goes with the object, so nobody may be led to it"
    );
}

#[test]
fn without_revert_nothing_is_touched() {
    let mut cluster = taken_over("");
    cluster.edit(&kinds::CANARY.named("test", "podinfo"), |canary| {
        canary["metadata"]["finalizers"] = json!(["somebody/else"]);
    });
    cluster.run_until_calm();
    cluster.forget_the_past();
    cluster.delete_canary().advance(60);
    assert_eq!(cluster.writes, []);
    assert_eq!(cluster.told, []);
}

#[test]
fn a_finalizer_that_is_not_wanted_any_more_does_not_hold_the_object() {
    let mut cluster = taken_over("");
    cluster.edit(&kinds::CANARY.named("test", "podinfo"), |canary| {
        canary["metadata"]["finalizers"] = json!([FINALIZER]);
        canary["metadata"]["deletionTimestamp"] = json!("2026-05-04T08:01:00Z");
    });
    cluster.run_until_calm();
    assert!(cluster.is_gone());
}
