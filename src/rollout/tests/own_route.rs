//! Routes of the user's own: only weights are shifted, in all rules and routes together, what somebody changes is put back and told, and at
//! rest the routes are what they were.

use super::*;
use crate::object::{Kind, Object, ObjectRef, Write, kinds};
use serde_json::Value;

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, annotations: {owner: somebody}}
spec:
  parentRefs: [{name: gateway, namespace: infra}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /api}}]
    filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Limit, name: strict}}]
    backendRefs: [{name: podinfo, port: 9898, weight: 1}, {name: podinfo-canary, port: 9898, weight: 0}]
  - backendRefs: [{name: podinfo-canary, port: 80, weight: 0}, {name: podinfo, port: 80, weight: 90}, {name: old, port: 80, weight: 10}]
";
const SPLIT: &str = "
apiVersion: demo.example/v1
kind: Split
metadata: {name: shop}
spec: {sides: {stable: '100', next: '0'}, note: kept}
";
const HTTP: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, name: shop}";
const OTHER: &str = "{apiVersion: demo.example/v1, kind: Split, name: shop,
    weightPaths: {canary: .spec.sides.next, primary: .spec.sides.stable}}";
const SUCCESS: &str = "{interval: 10s, threshold: 2, stepWeight: 20, maxWeight: 40,
    metrics: [{name: request-success-rate, interval: 1m, thresholdRange: {min: 99}}]}";

fn shop() -> ObjectRef {
    kinds::HTTP_ROUTE.named("test", "shop")
}

fn split() -> ObjectRef {
    Kind::namespaced("demo.example", "v1", "Split", "").named("test", "shop")
}

fn own(references: &[&str]) -> Cluster {
    let more = format!(
        ", revertOnDeletion: true, routeRefs: [{}]",
        references.join(", ")
    );
    let canary = canary_with(SUCCESS, &more)
        // Fields of a generated route say nothing here.
        .replace(
            "service: {port: 9898, gatewayRefs: [{name: gateway, namespace: infra}]}",
            "service: {port: 9898}",
        );
    let mut cluster = Cluster::given_canary(&canary);
    cluster.given_deployment("podinfo:1");
    cluster
}

/// What both references need, initialised.
fn shops() -> Cluster {
    let mut cluster = own(&[HTTP, OTHER]);
    cluster.given(ROUTE).given(SPLIT);
    cluster.run_until(Phase::Initialized);
    cluster.forget_the_past();
    cluster
}

fn object(cluster: &Cluster, name: &ObjectRef) -> Object {
    cluster.object(name).unwrap().clone()
}

/// Everything of a route that its user wrote.
fn written(cluster: &Cluster, name: &ObjectRef) -> (Value, Value) {
    let object = object(cluster, name);
    let annotations = object.annotations();
    (object.at("/spec").clone(), json!(annotations))
}

/// The canary's share in each of the three places.
fn shares(cluster: &Cluster) -> [String; 3] {
    let http = object(cluster, &shop());
    let split = object(cluster, &split());
    [
        http.at("/spec/rules/0/backendRefs/1/weight").to_string(),
        http.at("/spec/rules/1/backendRefs/0/weight").to_string(),
        split.text("/spec/sides/next").to_owned(),
    ]
}

/// A release that has come to its first step.
fn at_twenty(cluster: &mut Cluster) {
    cluster.deploy("podinfo:2").run_until_calm();
    for _ in 0..30 {
        if shares(cluster)[0] == "20" {
            return;
        }
        cluster.advance(1);
    }
    panic!("the first step was not reached: {:?}", cluster.texts());
}

fn said(cluster: &Cluster) -> (String, String) {
    let (_, reason, message) = cluster.condition(condition_type::ACCEPTED);
    (reason, message)
}

#[test]
fn all_rules_and_routes_shift_together_and_are_given_back() {
    let mut cluster = shops();
    let before = [written(&cluster, &shop()), written(&cluster, &split())];
    assert!(cluster.object(&route()).is_none(), "no route is generated");
    at_twenty(&mut cluster);
    assert_eq!(shares(&cluster), ["20", "18", "20"]);
    let raised = cluster
        .writes
        .iter()
        .filter(|write| matches!(write, Write::Together(both) if both.len() == 2));
    assert_eq!(raised.count(), 1);
    cluster.advance(10);
    assert_eq!(shares(&cluster), ["40", "36", "40"]);
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
    assert_eq!(
        [written(&cluster, &shop()), written(&cluster, &split())],
        before
    );
}

#[test]
fn a_bad_release_gives_the_weights_back_too() {
    let mut cluster = shops();
    let before = [written(&cluster, &shop()), written(&cluster, &split())];
    at_twenty(&mut cluster);
    assert_eq!(shares(&cluster), ["20", "18", "20"]);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(50.0));
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    assert_eq!(
        [written(&cluster, &shop()), written(&cluster, &split())],
        before
    );
    assert_eq!(cluster.replicas("podinfo"), 0);
}

/// What a hand leaves in a route beside its change.
fn by_hand(route: &mut Value, time: &str) {
    route["metadata"]["managedFields"] = json!([
        {"manager": "serin", "operation": "Update", "time": "2026-05-04T08:00:00Z"},
        {"manager": "kubectl-edit", "operation": "Update", "time": time},
    ]);
}

#[test]
fn a_weight_that_a_hand_changes_is_put_back_and_the_hand_is_named() {
    let mut cluster = shops();
    at_twenty(&mut cluster);
    cluster.forget_the_past();
    cluster
        .edit(&shop(), |route| {
            route["spec"]["rules"][1]["backendRefs"][0]["weight"] = json!(80);
            by_hand(route, "2026-05-04T09:00:00Z");
        })
        .run_until_calm();
    assert_eq!(shares(&cluster), ["20", "18", "20"]);
    let told = cluster.texts().join("\n");
    assert!(
        told.contains("HTTPRoute shop.test had been changed by kubectl-edit to weights that don't agree; it is set back to 20"),
        "{told}"
    );
    // All rules at once are a split, and at rest it is the same.
    cluster.run_until(Phase::Succeeded);
    cluster.forget_the_past();
    cluster
        .edit(&shop(), |route| {
            route["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(50);
            route["spec"]["rules"][0]["backendRefs"][1]["weight"] = json!(50);
            by_hand(route, "2026-05-04T10:00:00Z");
        })
        .run_until_calm();
    assert_eq!(shares(&cluster)[0], "0");
    assert!(
        cluster.texts().join("\n").contains("kubectl-edit"),
        "{:?}",
        cluster.texts()
    );
}

#[test]
fn a_hand_that_the_api_server_does_not_name_is_told_of_too() {
    let mut cluster = shops();
    at_twenty(&mut cluster);
    cluster.forget_the_past();
    cluster
        .edit(&shop(), |route| {
            route["spec"]["rules"][0]["backendRefs"][1]["weight"] = json!(95);
            route["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(5);
            route["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("managedFields");
        })
        .run_until_calm();
    assert_eq!(shares(&cluster), ["20", "18", "20"]);
    let told = cluster.texts().join("\n");
    assert!(
        told.contains("changed by somebody whom the API server does not name"),
        "{told}"
    );
}

#[test]
fn what_else_a_hand_changes_is_left_and_told_to_nobody() {
    let mut cluster = shops();
    at_twenty(&mut cluster);
    cluster.forget_the_past();
    cluster
        .edit(&shop(), |route| {
            route["spec"]["rules"][0]["filters"] = json!([]);
            route["spec"]["rules"][0]["matches"][0]["path"]["value"] = json!("/v2");
            by_hand(route, "2026-05-04T09:00:00Z");
        })
        .run_until_calm();
    assert_eq!(cluster.texts(), Vec::<String>::new());
    cluster.run_until(Phase::Succeeded);
    let route = object(&cluster, &shop());
    assert_eq!(route.text("/spec/rules/0/matches/0/path/value"), "/v2");
    assert_eq!(route.at("/spec/rules/0/filters"), &json!([]));
    assert_eq!(shares(&cluster), ["0", "0", "0"]);
}

#[test]
fn what_others_add_to_a_rule_hides_neither_a_hand_nor_what_the_user_wrote() {
    let mut cluster = shops();
    at_twenty(&mut cluster);
    cluster
        .edit(&shop(), |route| {
            let rules = &mut route["spec"]["rules"];
            rules[0]["name"] = json!("main");
            rules[1]["backendRefs"][1]["filters"] = json!([{"type": "RequestMirror"}]);
            by_hand(route, "2026-05-04T08:30:00Z");
        })
        .run_until_calm();
    cluster.advance(10);
    assert_eq!(shares(&cluster), ["40", "36", "40"]);
    cluster.forget_the_past();
    cluster
        .edit(&shop(), |route| {
            route["spec"]["rules"][1]["backendRefs"][0]["weight"] = json!(80);
            by_hand(route, "2026-05-04T09:00:00Z");
        })
        .run_until_calm();
    let told = cluster.texts().join("\n");
    assert!(told.contains("changed by kubectl-edit"), "{told}");
    cluster.run_until(Phase::Succeeded);
    let rules = object(&cluster, &shop()).at("/spec/rules").clone();
    assert_eq!(
        rules[0]["backendRefs"],
        json!([{"name": "podinfo", "port": 9898, "weight": 1}, {"name": "podinfo-canary", "port": 9898, "weight": 0}])
    );
    assert_eq!(
        rules[1]["backendRefs"],
        json!([
            {"name": "podinfo-canary", "port": 80, "weight": 0},
            {"name": "podinfo", "port": 80, "weight": 90, "filters": [{"type": "RequestMirror"}]},
            {"name": "old", "port": 80, "weight": 10},
        ])
    );
    assert_eq!(rules[0]["name"], "main");
}

#[test]
fn before_anything_is_changed_a_route_must_be_there_and_fit() {
    let mut cluster = own(&[HTTP]);
    cluster.run_until_calm();
    assert_eq!(said(&cluster).0, "RouteNotFound");
    cluster.given(&ROUTE.replace("{name: podinfo-canary, port: 80, weight: 0}, ", ""));
    cluster.run_until_calm();
    let (reason, message) = said(&cluster);
    assert_eq!(reason, "RouteUnfit");
    assert!(
        message.contains("spec.rules[1] names podinfo and not podinfo-canary"),
        "{message}"
    );
    assert!(cluster.object(&deployment("podinfo-primary")).is_none());
    assert_eq!(cluster.replicas("podinfo"), 2);
    cluster.given(ROUTE);
    cluster.run_until(Phase::Initialized);
    assert_eq!(said(&cluster).0, "Accepted");
}

#[test]
fn a_route_that_may_not_be_read_is_said_with_what_is_missing() {
    let mut cluster = own(&[OTHER]);
    cluster.given(SPLIT);
    cluster.unreadable(
        split(),
        "Split can't be watched: forbidden; the controller's role needs the rule {}",
    );
    cluster.run_until_calm();
    let (reason, message) = said(&cluster);
    assert_eq!(reason, "RouteNotReadable");
    assert!(
        message.contains("the controller's role needs the rule"),
        "{message}"
    );
    cluster.readable_again();
    cluster.run_until(Phase::Initialized);
}

#[test]
fn a_route_that_goes_in_mid_run_ends_the_run_and_the_other_goes_back() {
    let mut cluster = shops();
    let before = written(&cluster, &shop());
    at_twenty(&mut cluster);
    cluster.remove(&split()).run_until_calm();
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    assert_eq!(written(&cluster, &shop()), before);
    let history = cluster.status().history.last().unwrap().clone();
    let cause = json!(history)["cause"].to_string();
    assert!(cause.contains("Split shop.test not found"), "{cause}");
}

#[test]
fn a_deleted_canary_leaves_the_weights_as_they_were() {
    let mut cluster = own(&[HTTP, OTHER]);
    cluster.given(ROUTE).given(SPLIT).given(
        "
apiVersion: v1
kind: Service
metadata: {name: podinfo}
spec: {selector: {app: podinfo}, ports: [{name: http, port: 9898, protocol: TCP, targetPort: 9898}]}
",
    );
    cluster.run_until(Phase::Initialized);
    let before = [written(&cluster, &shop()), written(&cluster, &split())];
    at_twenty(&mut cluster);
    assert_eq!(shares(&cluster), ["20", "18", "20"]);
    cluster.delete_canary().advance(120);
    assert!(cluster.is_gone());
    assert_eq!(
        [written(&cluster, &shop()), written(&cluster, &split())],
        before
    );
    assert_eq!(cluster.apex(), "podinfo");
}

#[test]
fn matches_of_the_analysis_are_refused_before_anything_is_done() {
    let mut cluster = own(&[HTTP]);
    cluster.given(ROUTE);
    cluster.edit_canary(|spec| {
        spec["analysis"]["iterations"] = json!(5);
        spec["analysis"]["match"] = json!([{"headers": {"x": {"exact": "v"}}}]);
        for field in ["stepWeight", "maxWeight"] {
            spec["analysis"].as_object_mut().unwrap().remove(field);
        }
    });
    cluster.run_until_calm();
    let (reason, message) = said(&cluster);
    assert_eq!(reason, "RouterCannotExpress");
    assert!(message.contains("spec.analysis.match"), "{message}");
    assert!(cluster.object(&deployment("podinfo-primary")).is_none());
}
