//! Golden routes in `tests/fixtures/routes/`, whose requests may name a provider. Then what is drift and what is not, taking over and
//! giving back, and what is refused.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::object::{APPLIED_ANNOTATION, Expect, Object, Patch, Reading, canonical_json};
use crate::routing::golden_tests::{SETTINGS, canary, request};
use crate::routing::route_object::ORIGINAL_ANNOTATION;
use crate::routing::{Applied, Cookies, Revisions, Severity, Split, Weight, golden_tests, router};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

const PLAIN: &str = "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: podinfo, namespace: test, uid: canary-uid}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: podinfo}
  service:
    port: 9898
    gatewayRefs: [{name: gateway, namespace: infra}]
  analysis: {interval: 1m, threshold: 5, maxWeight: 50, stepWeight: 10}
";

/// What the API server holds after an apply: the object with an identity, and defaults that Serin didn't write.
fn stored(write: &Write) -> Object {
    let Write::Apply { object, .. } = write else {
        panic!("not an apply: {write:?}");
    };
    let mut stored = object.clone();
    let value = stored.value_mut();
    value["metadata"]["uid"] = json!("route-uid");
    value["metadata"]["resourceVersion"] = json!("7");
    value["metadata"]["generation"] = json!(3);
    for rule in value["spec"]["rules"].as_array_mut().unwrap() {
        for filter in rule["filters"].as_array_mut().into_iter().flatten() {
            if filter["type"] == "CORS" && filter["cors"]["maxAge"].is_null() {
                filter["cors"]["maxAge"] = json!(5);
            }
        }
    }
    stored
}

fn present(object: Object) -> impl Fn(&ObjectRef) -> Reading {
    let object = Arc::new(object);
    move |_| Reading::Present(object.clone())
}

fn absent(_: &ObjectRef) -> Reading {
    Reading::Absent
}

fn first(request: &RouteRequest<'_>) -> Write {
    V1.desired(request, &absent).unwrap().remove(0)
}

fn live(canary: &Canary, split: Split) -> Object {
    stored(&first(&request(canary, split)))
}

#[test]
fn golden_routes() {
    let mut wrong = Vec::new();
    for case in golden_tests::cases("routes", 15) {
        let request = case.request(&SETTINGS);
        let router = router(case.wish["provider"].as_str().unwrap_or("gatewayapi:v1")).unwrap();
        assert_eq!(router.refusals(&case.canary), [], "{}", case.name);
        let writes = router.desired(&request, &absent).unwrap();
        wrong.extend(case.difference("route.yaml", &writes));
        let live = present(stored(&writes[0]));
        let observed = router.observed(&case.canary, &SETTINGS, &live).unwrap();
        assert_eq!(observed.split, Some(request.split), "{}", case.name);
        let again = router.desired(&request, &live).unwrap();
        assert_eq!(again, [], "{}", case.name);
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

#[test]
fn given_a_route_that_says_it_when_asked_again_then_nothing_is_written() {
    let canary = canary(PLAIN);
    let request = request(&canary, Split::canary(10));
    let live = present(stored(&first(&request)));
    assert_eq!(V1.desired(&request, &live).unwrap(), []);
}

#[test]
fn given_weights_edited_by_hand_when_asked_then_one_write_guarded_by_the_version_puts_them_back() {
    let canary = canary(PLAIN);
    let request = request(&canary, Split::canary(10));
    let mut edited = stored(&first(&request));
    edited.value_mut()["spec"]["rules"][0]["backendRefs"][1]["weight"] = json!(60);
    let writes = V1.desired(&request, &present(edited)).unwrap();
    let [Write::Apply { object, expect, .. }] = writes.as_slice() else {
        panic!("{writes:?}");
    };
    assert_eq!(
        object.number("/spec/rules/0/backendRefs/1/weight"),
        Some(10)
    );
    assert_eq!(
        *expect,
        Expect::Version {
            uid: "route-uid".into(),
            resource_version: "7".into()
        }
    );
    assert_eq!(
        V1.desired(&request, &present(stored(&writes[0]))).unwrap(),
        []
    );
}

#[test]
fn given_a_filter_match_host_or_parent_added_by_hand_then_it_is_drift() {
    let canary = canary(PLAIN);
    let request = request(&canary, Split::canary(10));
    let edits: [fn(&mut Value); 5] = [
        |spec| {
            spec["rules"][0]["filters"] =
                json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "x"}}}]);
        },
        |spec| {
            spec["rules"][0]["matches"][0]["headers"] =
                json!([{"type": "Exact", "name": "a", "value": "b"}]);
        },
        |spec| spec["hostnames"] = json!(["other.example.com"]),
        |spec| {
            spec["parentRefs"]
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "second"}));
        },
        |spec| spec["rules"][0]["timeouts"] = json!({"request": "1s"}),
    ];
    for edit in edits {
        let mut edited = stored(&first(&request));
        edit(&mut edited.value_mut()["spec"]);
        let writes = V1.desired(&request, &present(edited.clone())).unwrap();
        assert_eq!(writes.len(), 1, "{:?}", edited.at("/spec"));
    }
}

#[test]
fn foreign_annotations_and_labels_are_neither_owned_nor_drift() {
    let canary = canary(PLAIN);
    let request = request(&canary, Split::canary(10));
    let mut live = stored(&first(&request));
    live.value_mut()["metadata"]["annotations"]["external-dns/ttl"] = json!("60");
    live.value_mut()["metadata"]["labels"] = json!({"team": "a"});
    assert_eq!(V1.desired(&request, &present(live.clone())).unwrap(), []);
    let other = super::tests::request(&canary, Split::canary(20));
    let writes = V1.desired(&other, &present(live)).unwrap();
    let Write::Apply { object, .. } = &writes[0] else {
        panic!("{writes:?}");
    };
    assert_eq!(object.annotation("external-dns/ttl"), None);
    assert!(object.labels().is_empty());
}

#[test]
fn given_a_rule_that_somebody_named_then_it_keeps_its_name_through_a_run() {
    for (routes, kind) in [(&V1, None), (&V1BETA1, None), (&V1, Some("GRPCRoute"))] {
        let mut canary = canary(PLAIN);
        canary.spec.service.as_mut().unwrap().route_kind =
            kind.map(|_| crate::api::RouteKind::Grpc);
        let split = |percent| Split {
            canary: Weight::clamped(percent),
            mirrored: false,
        };
        let write = |percent: i64, live: &dyn Fn(&ObjectRef) -> Reading| {
            routes
                .desired(&request(&canary, split(percent)), &live)
                .unwrap()
        };
        let mut route = stored(&write(10, &absent)[0]);
        route.value_mut()["spec"]["rules"][0]["name"] = json!("main");
        assert_eq!(write(10, &present(route.clone())), [], "a name is no drift");
        let step = write(20, &present(route));
        let rule = stored(&step[0]).at("/spec/rules/0").clone();
        assert_eq!(
            (&rule["name"], &rule["backendRefs"][1]["weight"]),
            (&json!("main"), &json!(20)),
            "{rule}"
        );
    }
}

#[test]
fn given_several_rules_then_each_keeps_its_own_name_and_a_new_one_has_none() {
    let canary = canary(&PLAIN.replace(
        "maxWeight: 50, stepWeight: 10",
        "iterations: 5, match: [{headers: {x-canary: {exact: insider}}}]",
    ));
    let mut route = live(&canary, Split::PRIMARY);
    route.value_mut()["spec"]["rules"][1]["name"] = json!("everybody");
    let all = Split {
        canary: Weight::ALL,
        mirrored: false,
    };
    let step = V1.desired(&request(&canary, all), &present(route)).unwrap();
    let rules = stored(&step[0]).at("/spec/rules").clone();
    assert_eq!(
        (&rules[0]["name"], &rules[1]["name"]),
        (&Value::Null, &json!("everybody")),
        "{rules}"
    );
}

#[test]
fn given_a_route_of_another_controller_then_it_is_left_alone_and_named() {
    let canary = canary(PLAIN);
    let mut route = live(&canary, Split::PRIMARY);
    route.value_mut()["metadata"]["ownerReferences"] = json!([{"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "name": "other", "uid": "other-uid", "controller": true}]);
    let error = V1
        .desired(&request(&canary, Split::PRIMARY), &present(route))
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, RouteError::Unfit(..)), "{text}");
    assert!(
        text.contains("Canary other") && text.contains("spec.service.name"),
        "{text}"
    );
}

#[test]
fn given_a_route_that_another_canary_has_taken_over_then_it_is_left_alone() {
    let canary = canary(PLAIN);
    let mut route = users_route();
    route.value_mut()["metadata"]["annotations"][ORIGINAL_ANNOTATION] = json!("{}");
    route.value_mut()["metadata"]["ownerReferences"] =
        json!([{"kind": "Canary", "name": "other", "uid": "other-uid", "controller": true}]);
    let desired = V1.desired(&request(&canary, Split::PRIMARY), &present(route.clone()));
    assert!(matches!(desired, Err(RouteError::Unfit(..))), "{desired:?}");
    assert_eq!(V1.finalize(&canary, &present(route)).unwrap(), []);
}

#[test]
fn given_a_response_header_that_sets_a_cookie_when_the_previous_one_is_removed_then_both_are_sent()
{
    let affinity = "sessionAffinity: {cookieName: side}, interval: 1m";
    let manifest = PLAIN.replace("interval: 1m", affinity).replace(
        "    port: 9898\n",
        "    port: 9898\n    headers: {response: {add: {set-cookie: mine=1}}}\n",
    );
    let canary = canary(&manifest);
    let mut request = request(&canary, Split::PRIMARY);
    request.cookies.previous = Some("side=old".into());
    let route = stored(&first(&request));
    let rules = route.at("/spec/rules").as_array().unwrap();
    for rule in rules {
        let add = &rule["filters"][0]["responseHeaderModifier"]["add"];
        assert_eq!(add, &json!([{"name": "set-cookie", "value": "mine=1"}]));
    }
    for backend in rules[0]["backendRefs"].as_array().unwrap() {
        let add = &backend["filters"][0]["responseHeaderModifier"]["add"];
        assert_eq!(add[0]["value"], "side=old; Max-Age=-1");
    }
    assert_eq!(rules[1]["backendRefs"][0]["filters"], Value::Null);
    let observed = V1.observed(&canary, &SETTINGS, &present(route)).unwrap();
    assert_eq!(observed.split, Some(Split::PRIMARY));
}

#[test]
fn given_all_traffic_on_the_canary_then_no_cookie_holds_anybody_on_the_primary() {
    let affinity = "sessionAffinity: {cookieName: side, primaryCookieName: home}, interval: 1m";
    let canary = canary(&PLAIN.replace("interval: 1m", affinity));
    let to_primary = |split: Split| {
        let mut request = request(&canary, split);
        request.cookies.canary = Some("side=new".into());
        request.cookies.primary = Some("home=old".into());
        let route = stored(&first(&request));
        let rules = route.at("/spec/rules").as_array().unwrap().clone();
        rules
            .iter()
            .filter(|rule| rule["backendRefs"][0]["weight"] != 0)
            .count()
    };
    assert_eq!(to_primary(Split::canary(50)), 2);
    assert_eq!(to_primary(Split::CANARY), 0);
}

#[test]
fn given_a_service_match_with_more_headers_than_the_ab_test_then_the_user_is_told_that_nobody_would_match()
 {
    let service = "    port: 9898\n    match: [{headers: {a: {exact: one}, b: {exact: two}}}]\n";
    let manifest = PLAIN.replace("    port: 9898\n", service).replace(
        "{interval",
        "{match: [{headers: {c: {exact: three}}}], interval",
    );
    let refusals = V1.refusals(&canary(&manifest));
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].severity, Severity::Warning);
    assert!(
        refusals[0].message.contains(r#""name":"c""#),
        "{}",
        refusals[0].message
    );
}

#[test]
fn given_an_unreadable_route_then_nothing_is_written_or_claimed() {
    let canary = canary(PLAIN);
    let unknown = |_: &ObjectRef| Reading::Unknown("timeout".into());
    let desired = V1.desired(&request(&canary, Split::PRIMARY), &unknown);
    assert!(matches!(desired, Err(RouteError::Unknown(..))));
    assert!(matches!(
        V1.observed(&canary, &SETTINGS, &unknown),
        Err(RouteError::Unknown(..))
    ));
    assert!(matches!(
        V1.finalize(&canary, &unknown),
        Err(RouteError::Unknown(..))
    ));
}

fn users_route() -> Object {
    Object::new(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "podinfo", "namespace": "test", "uid": "route-uid", "resourceVersion": "5",
            "annotations": {"kustomize.toolkit.fluxcd.io/reconcile": "enabled", "mine": "yes"}},
        "spec": {"parentRefs": [{"name": "gateway"}], "hostnames": ["a.example.com"],
            "rules": [{"backendRefs": [{"name": "podinfo", "port": 9898}]}]},
    }))
}

#[test]
fn given_a_users_route_when_taken_over_and_finalized_then_it_is_as_before() {
    let canary = canary(PLAIN);
    let before = users_route();
    let request = request(&canary, Split::PRIMARY);
    let taken = V1
        .desired(&request, &present(before.clone()))
        .unwrap()
        .remove(0);
    let mut live = stored(&taken);
    live.value_mut()["metadata"]["annotations"]["mine"] = json!("yes");
    assert!(
        live.annotation(ORIGINAL_ANNOTATION)
            .unwrap()
            .contains("a.example.com")
    );
    assert_eq!(live.at("/spec/hostnames"), &json!([]));
    assert_eq!(
        live.controller_owner(),
        None,
        "what the user made must not be collected with the canary"
    );
    assert_eq!(V1.desired(&request, &present(live.clone())).unwrap(), []);

    give_back(&canary, &mut live);
    assert_eq!(live.at("/spec"), before.at("/spec"));
    assert_eq!(live.annotations(), before.annotations());
    assert_eq!(live.controller_owner(), None);
}

/// Carries out what gives the route back.
fn give_back(canary: &Canary, live: &mut Object) {
    let writes = V1.finalize(canary, &present(live.clone())).unwrap();
    let [
        Write::Patch {
            patch: Patch::Json(operations),
            expect: Expect::Version { .. },
            ..
        },
    ] = writes.as_slice()
    else {
        panic!("{writes:?}");
    };
    for operation in operations {
        patch(live.value_mut(), operation);
    }
}

/// A JSON patch operation, as far as it is used here.
fn patch(value: &mut Value, operation: &Value) {
    let path = operation["path"].as_str().unwrap();
    let (parent, key) = path.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/").replace("~0", "~");
    let parent = value.pointer_mut(parent).unwrap();
    match (operation["op"].as_str().unwrap(), parent) {
        ("test", parent) => assert_eq!(parent[&key], operation["value"]),
        ("replace", parent) => parent[&key] = operation["value"].clone(),
        ("remove", Value::Array(items)) => {
            items.remove(key.parse().unwrap());
        }
        ("remove", parent) => {
            parent.as_object_mut().unwrap().remove(&key).unwrap();
        }
        (op, _) => panic!("{op}"),
    }
}

#[test]
fn given_a_route_made_for_the_canary_when_finalized_then_the_owner_reference_does_it() {
    let canary = canary(PLAIN);
    assert_eq!(
        V1.finalize(&canary, &present(live(&canary, Split::PRIMARY)))
            .unwrap(),
        []
    );
    assert_eq!(V1.finalize(&canary, &absent).unwrap(), []);
}

#[test]
fn given_a_route_that_flagger_made_then_its_split_is_read_and_nothing_is_kept_as_original() {
    let canary = canary(PLAIN);
    let mut route = live(&canary, Split::canary(30));
    let metadata = route.value_mut()["metadata"].as_object_mut().unwrap();
    metadata.remove("annotations");
    assert_eq!(
        V1.observed(&canary, &SETTINGS, &present(route.clone()))
            .unwrap()
            .split,
        Some(Split::canary(30))
    );
    let writes = V1
        .desired(&request(&canary, Split::canary(30)), &present(route))
        .unwrap();
    let Write::Apply { object, .. } = &writes[0] else {
        panic!("{writes:?}");
    };
    assert_eq!(object.annotation(ORIGINAL_ANNOTATION), None);
    assert!(object.controller_owner().is_some());
}

/// The user's route after Flagger took it over, which leaves it without an owner.
fn taken_over_by_flagger(canary: &Canary) -> Object {
    let mut route = live(canary, Split::canary(30));
    let metadata = &mut route.value_mut()["metadata"];
    metadata.as_object_mut().unwrap().remove("ownerReferences");
    metadata["annotations"] = json!({
        "kustomize.toolkit.fluxcd.io/reconcile": "disabled",
        "helm.toolkit.fluxcd.io/driftDetection": "disabled",
    });
    route
}

fn taken_over_from_flagger(canary: &Canary, route: Object) -> Object {
    let writes = V1
        .desired(&request(canary, Split::canary(30)), &present(route))
        .unwrap();
    let taken = stored(&writes[0]);
    assert_eq!(taken.controller_owner(), None, "it stays the user's");
    taken
}

#[test]
fn given_a_users_route_that_flagger_had_taken_over_when_finalized_then_it_is_what_kubectl_applied()
{
    let canary = canary(PLAIN);
    let mut before = users_route();
    before.value_mut()["metadata"]["annotations"] =
        json!({"kustomize.toolkit.fluxcd.io/reconcile": "enabled"});
    let mut route = taken_over_by_flagger(&canary);
    let applied = before.value().to_string();
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    route.value_mut()["metadata"]["annotations"][annotation] = json!(applied);
    let mut live = taken_over_from_flagger(&canary, route);
    give_back(&canary, &mut live);
    assert_eq!(live.at("/spec"), before.at("/spec"));
    assert_eq!(live.annotations(), before.annotations());
}

#[test]
fn given_a_users_route_that_flagger_had_taken_over_and_nobody_knows_how_it_was_then_it_leads_to_the_apex()
 {
    let canary = canary(PLAIN);
    let mut live = taken_over_from_flagger(&canary, taken_over_by_flagger(&canary));
    give_back(&canary, &mut live);
    assert_eq!(
        live.at("/spec/rules/0/backendRefs"),
        &json!([{"group": "", "kind": "Service", "name": "podinfo", "port": 9898, "weight": 1}])
    );
    assert_eq!(live.at("/spec/parentRefs/0/name"), "gateway");
    assert!(live.annotations().is_empty(), "{:?}", live.annotations());
}

#[test]
fn weights_that_do_not_sum_to_a_hundred_are_read_as_proportions() {
    let canary = canary(PLAIN);
    let cases = [
        (json!(9), json!(1), Some(10)),
        (json!(90), json!(10), Some(10)),
        (json!(0), json!(0), None),
        (json!(999), json!(1), Some(1)),
        (json!(1), json!(999), Some(99)),
        (json!(0), json!(5), Some(100)),
        (json!(-1), json!(5), None),
        (Value::Null, Value::Null, Some(50)),
    ];
    for (primary, share, expected) in cases {
        let mut route = live(&canary, Split::PRIMARY);
        let backends = &mut route.value_mut()["spec"]["rules"][0]["backendRefs"];
        backends[0]["weight"] = primary.clone();
        backends[1]["weight"] = share.clone();
        let found = V1
            .observed(&canary, &SETTINGS, &present(route))
            .unwrap()
            .split;
        assert_eq!(found, expected.map(Split::canary), "{primary}/{share}");
    }
}

#[test]
fn rules_that_disagree_carry_no_split() {
    let canary = canary(PLAIN);
    let mut route = live(&canary, Split::canary(10));
    let mut second = route.at("/spec/rules/0").clone();
    second["backendRefs"][0]["weight"] = json!(50);
    second["backendRefs"][1]["weight"] = json!(50);
    route.value_mut()["spec"]["rules"]
        .as_array_mut()
        .unwrap()
        .push(second);
    assert_eq!(
        V1.observed(&canary, &SETTINGS, &present(route))
            .unwrap()
            .split,
        None
    );
}

#[test]
fn a_route_is_applied_once_every_parent_has_accepted_this_generation() {
    let canary = canary(PLAIN);
    let entry = |conditions: Value| json!([{"parentRef": {"name": "gateway", "namespace": "infra"}, "conditions": conditions}]);
    let pending = |text: &str| Some(text.to_owned());
    let cases = [
        (json!([]), pending("no gateway has accepted the route yet")),
        (
            entry(json!([])),
            pending("no gateway has accepted the route yet"),
        ),
        (
            json!([{"parentRef": {"name": "else"}, "conditions": [{"type": "Accepted", "status": "True"}]}]),
            pending("no gateway has accepted the route yet"),
        ),
        (
            entry(json!([{"type": "Accepted", "status": "True", "observedGeneration": 2}])),
            pending("has seen generation 2 of the route, not yet 3"),
        ),
        (
            entry(
                json!([{"type": "Accepted", "status": "False", "observedGeneration": 3, "reason": "NotAllowedByListeners", "message": "wrong namespace"}]),
            ),
            pending("NotAllowedByListeners: wrong namespace"),
        ),
        (
            entry(
                json!([{"type": "Accepted", "status": "True", "observedGeneration": 3},
                {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "no podinfo-canary"}]),
            ),
            pending("BackendNotFound: no podinfo-canary"),
        ),
        (
            entry(json!([{"type": "Accepted", "status": "True", "observedGeneration": 3}])),
            None,
        ),
    ];
    for (parents, expected) in cases {
        let mut route = live(&canary, Split::PRIMARY);
        route.value_mut()["status"] = json!({"parents": parents});
        match (
            V1.observed(&canary, &SETTINGS, &present(route))
                .unwrap()
                .applied,
            expected,
        ) {
            (Applied::Yes, None) => {}
            (Applied::Pending(text), Some(part)) => assert!(text.contains(&part), "{text}"),
            (applied, expected) => panic!("{applied:?}, expected {expected:?}"),
        }
    }
    assert!(matches!(
        V1.observed(&canary, &SETTINGS, &absent).unwrap().applied,
        Applied::Pending(_)
    ));
}

#[test]
fn the_last_writer_is_named_only_where_it_is_somebody_else() {
    let canary = canary(PLAIN);
    let cases = [
        (
            json!([{"manager": "serin", "time": "2026-01-01T10:00:00Z"}]),
            None,
        ),
        (
            json!([{"manager": "serin", "time": "2026-01-01T10:00:00Z"}, {"manager": "kubectl-edit", "time": "2026-01-01T11:00:00Z"}]),
            Some("kubectl-edit"),
        ),
        (
            json!([{"manager": "serin", "time": "2026-01-01T12:00:00Z"}, {"manager": "kubectl-edit", "time": "2026-01-01T11:00:00Z"}]),
            None,
        ),
        (
            json!([{"manager": "flagger", "time": "2026-01-01T12:00:00Z"}, {"manager": "kubectl-edit", "time": "2026-01-01T11:00:00Z"}]),
            None,
        ),
        (
            json!([{"manager": "serin", "time": "2026-01-01T10:00:00Z"}, {"manager": "envoy", "subresource": "status", "time": "2026-01-01T11:00:00Z"}]),
            None,
        ),
    ];
    for (fields, expected) in cases {
        let mut route = live(&canary, Split::PRIMARY);
        route.value_mut()["metadata"]["managedFields"] = fields.clone();
        let found = V1
            .observed(&canary, &SETTINGS, &present(route))
            .unwrap()
            .foreign_writer;
        assert_eq!(found.as_deref(), expected, "{fields}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn what_an_http_route_cannot_say_is_refused_by_field_and_value() {
    use Severity::{Error, Warning};
    let cases = [
        (
            "service: {port: 80}",
            Error,
            "spec.service.gatewayRefs",
            "empty",
        ),
        (
            "match: [{headers: {x: {prefix: a}}}]",
            Error,
            "spec.service.match[0].headers.x",
            r#"{"prefix":"a"}"#,
        ),
        (
            "match: [{uri: {}}]",
            Error,
            "spec.service.match[0].uri",
            "{}",
        ),
        (
            "match: [{method: {prefix: P}}]",
            Error,
            "spec.service.match[0].method",
            r#"{"prefix":"P"}"#,
        ),
        (
            "match: [{sourceLabels: {app: a}}]",
            Warning,
            "spec.service.match[0].sourceLabels",
            "labels of the caller",
        ),
        (
            "ANALYSIS match: [{headers: {x: {suffix: a}}}]",
            Error,
            "spec.analysis.match[0].headers.x",
            r#"{"suffix":"a"}"#,
        ),
        (
            "ANALYSIS match: [{sourceLabels: {app: a}}]",
            Error,
            "spec.analysis.match[0].sourceLabels",
            "labels of the caller",
        ),
        (
            "ANALYSIS match: [{}]",
            Error,
            "spec.analysis.match[0]",
            "every request would go to the canary",
        ),
        (
            "ANALYSIS mirror: true",
            Warning,
            "spec.analysis.mirror",
            "without iterations",
        ),
        ("timeout: 1.5s", Error, "spec.service.timeout", "1.5s"),
        (
            "retries: {attempts: 3}",
            Warning,
            "spec.service.retries",
            "retries",
        ),
        (
            "match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}]\n    rewrite: {uri: /, type: ReplacePrefixMatch}",
            Error,
            "spec.service.rewrite.type",
            "exactly one match",
        ),
        (
            "timeout: 5s\n    backendTimeout: 1m",
            Error,
            "spec.service.backendTimeout",
            "spec.service.timeout, which is 5s",
        ),
        (
            "hosts: [\"*\"]",
            Error,
            "spec.service.hosts[0]",
            "leave hosts empty",
        ),
        (
            "corsPolicy: {allowOrigins: [{prefix: a}]}",
            Warning,
            "spec.service.corsPolicy.allowOrigins",
            "allowOrigin",
        ),
    ];
    for (text, severity, field, part) in cases {
        let manifest = match text.strip_prefix("ANALYSIS ") {
            Some(more) => PLAIN.replace("{interval: 1m", &format!("{{{more}, interval: 1m")),
            None if text.starts_with("service:") => {
                PLAIN.replace("    gatewayRefs: [{name: gateway, namespace: infra}]\n", "")
            }
            None => PLAIN.replace("    port: 9898\n", &format!("    port: 9898\n    {text}\n")),
        };
        let canary = canary(&manifest);
        let refusals = V1.refusals(&canary);
        let [refusal] = refusals.as_slice() else {
            panic!("{text}: {refusals:?}");
        };
        assert_eq!(
            (refusal.severity, refusal.field.as_str()),
            (severity, field)
        );
        assert!(
            refusal.message.contains(part),
            "{text}: {}",
            refusal.message
        );
        let writes = V1.desired(&request(&canary, Split::PRIMARY), &absent);
        let written_nonetheless = severity == Warning
            || ["imeout", "type", "hosts[0]"]
                .iter()
                .any(|end| field.ends_with(end));
        assert_eq!(writes.is_ok(), written_nonetheless, "{text}: {writes:?}");
    }
}

#[test]
fn more_matches_than_a_route_may_have_are_refused() {
    let entries: Vec<String> = (0..50)
        .map(|n| format!("{{uri: {{prefix: /p{n}}}}}"))
        .collect();
    let service = format!("    port: 9898\n    match: [{}]\n", entries.join(", "));
    let manifest = PLAIN.replace("    port: 9898\n", &service);
    assert_eq!(V1.refusals(&canary(&manifest)), []);
    let affinity = manifest.replace(
        "{interval",
        "{sessionAffinity: {cookieName: side}, interval",
    );
    let refusals = V1.refusals(&canary(&affinity));
    assert_eq!(refusals.len(), 1);
    assert!(
        refusals[0].message.contains("150 in the route"),
        "{}",
        refusals[0].message
    );
}

/// The page for users shows a canary and the route that comes of it: both are what the code says.
#[test]
fn the_example_in_the_documentation_is_true() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/routers/gateway-api.md");
    let page = std::fs::read_to_string(page).unwrap();
    // The first block is a Gateway of the user's.
    let blocks: Vec<&str> = page
        .split("```yaml\n")
        .skip(2)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    let mut example = canary(blocks[0]);
    example.metadata.uid = Some("uid-of-the-canary".into());
    assert_eq!(V1.refusals(&example), []);
    let Write::Apply { object, .. } = first(&request(&example, Split::canary(10))) else {
        panic!("not an apply");
    };
    let mut found = object.into_value();
    let annotations = found["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove(APPLIED_ANNOTATION);
    let shown: Value = serde_saphyr::from_str(blocks[1]).unwrap();
    assert_eq!(canonical_json(&shown), canonical_json(&found));
}

/// Headers or query parameters of a request.
type Texts = &'static [(&'static str, &'static str)];

/// A request: path, headers, query parameters.
type Sent<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);

/// How well a match of an `HTTPRoute` fits a request, by the order that the Gateway API gives; `None` where it does not.
fn fits(entry: &Value, (path, headers, query): Sent<'_>) -> Option<(bool, usize, usize, usize)> {
    let all = |conditions: &Value, values: &[(&str, &str)], folded: bool| -> Option<usize> {
        let conditions = conditions.as_array().cloned().unwrap_or_default();
        let holds = |condition: &Value| {
            let name = condition["name"].as_str().unwrap();
            let named =
                |(key, _): &&(&str, &str)| *key == name || folded && key.eq_ignore_ascii_case(name);
            let wanted = condition["value"].as_str().unwrap();
            values.iter().find(named).is_some_and(|(_, value)| {
                match condition["type"].as_str().unwrap_or("Exact") {
                    "Exact" => *value == wanted,
                    _ => regex::Regex::new(&format!("^(?:{wanted})$"))
                        .unwrap()
                        .is_match(value),
                }
            })
        };
        conditions.iter().all(holds).then_some(conditions.len())
    };
    let wanted = entry["path"]["value"].as_str().unwrap_or("/");
    let exact = entry["path"]["type"] == "Exact";
    let under = path.strip_prefix(wanted.trim_end_matches('/'));
    let fits = if exact {
        path == wanted
    } else {
        under.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let headers = all(&entry["headers"], headers, true)?;
    let query = all(&entry["queryParams"], query, false)?;
    fits.then_some((exact, wanted.len(), headers, query))
}

/// The Service that answers: that of the first rule whose match fits best.
fn answers(route: &Object, sent: Sent<'_>) -> Option<String> {
    let mut best = None;
    for rule in route.at("/spec/rules").as_array().unwrap() {
        for entry in rule["matches"].as_array().unwrap() {
            let found = fits(entry, sent);
            if found > best.as_ref().map(|(fits, _)| *fits) {
                best = found.map(|fits| (fits, rule));
            }
        }
    }
    let backends = best?.1["backendRefs"].as_array().unwrap();
    let all = backends.iter().find(|backend| backend["weight"] == 100)?;
    Some(all["name"].as_str().unwrap().to_owned())
}

#[test]
fn an_ab_test_by_query_and_header_sends_those_who_meet_it_to_the_canary_and_nobody_else() {
    let test = "match: [{queryParams: {preview: {exact: '1'}}}, {queryParams: {build: {regex: '[0-9]+-rc'}}}, \
                {headers: {X-Team: {exact: qa}}, queryParams: {side: {exact: b}}}]";
    let plain = PLAIN.replace(
        "maxWeight: 50, stepWeight: 10",
        &format!("iterations: 5, {test}"),
    );
    let matched = plain.replace(
        "    port: 9898\n",
        "    port: 9898\n    match: [{uri: {prefix: /shop}, queryParams: {lang: {exact: en}}}, {uri: {exact: /till}}]\n",
    );
    let requests: [(Texts, Texts, bool); 10] = [
        (&[], &[("preview", "1")], true),
        (&[], &[("a", "b"), ("preview", "1")], true),
        (&[], &[("preview", "2")], false),
        (&[], &[("Preview", "1")], false),
        (&[], &[("build", "17-rc")], true),
        (&[], &[("build", "17-rc2")], false),
        (&[("x-team", "qa")], &[("side", "b")], true),
        (&[("x-team", "qa")], &[], false),
        (&[], &[("side", "b")], false),
        (&[], &[], false),
    ];
    for (canary, paths) in [
        (canary(&plain), &["/", "/shop/1"][..]),
        (canary(&matched), &["/shop", "/shop/1", "/till"]),
    ] {
        assert_eq!(V1.refusals(&canary), []);
        for split in [Split::CANARY, Split::PRIMARY] {
            let route = live(&canary, split);
            for path in paths {
                for (headers, query, inside) in requests {
                    let side = if inside && split == Split::CANARY {
                        "podinfo-canary"
                    } else {
                        "podinfo-primary"
                    };
                    // As in Flagger, conditions of the test take the place of the service's of the same kind, and those that are not in
                    // the test must fit the service's.
                    let query: Vec<(&str, &str)> = if side == "podinfo-primary" {
                        query.iter().copied().chain([("lang", "en")]).collect()
                    } else {
                        query.to_vec()
                    };
                    let found = answers(&route, (path, headers, &query));
                    assert_eq!(found.as_deref(), Some(side), "{path} {headers:?} {query:?}");
                }
            }
            if paths.len() == 3 {
                assert_eq!(
                    answers(&route, ("/elsewhere", &[], &[("preview", "1")])),
                    None
                );
            }
        }
    }
}

#[test]
fn providers_are_found_by_flaggers_rules() {
    for (name, provider) in [
        ("gatewayapi:v1", Some("gatewayapi:v1")),
        ("gatewayapi:v1.4", Some("gatewayapi:v1")),
        ("gatewayapi:v1beta1", Some("gatewayapi:v1beta1")),
        ("kubernetes", Some("kubernetes")),
        ("kubernetes2", None),
        ("gatewayapi", None),
    ] {
        assert_eq!(router(name).map(Router::provider), provider, "{name}");
    }
}

prop_compose! {
    fn canaries()(
        port in 1..=65535_i64,
        iterations in prop::option::of(1..20_i64),
        ab in any::<bool>(),
        affinity in any::<bool>(),
        headers in prop::collection::btree_map("[a-z]{1,6}", "[a-z0-9]{1,6}", 0..5),
        paths in prop::collection::vec("/[a-z]{1,5}", 0..4),
    ) -> Canary {
        let mut analysis = json!({"interval": "1m", "threshold": 3});
        match iterations {
            Some(number) => analysis["iterations"] = json!(number),
            None => analysis["stepWeight"] = json!(10),
        }
        if ab {
            analysis["match"] = json!([{"headers": {"x-canary": {"exact": "yes"}}}]);
        }
        if affinity {
            analysis["sessionAffinity"] = json!({"cookieName": "side", "primaryCookieName": "home"});
        }
        let matches: Vec<Value> = paths.iter().map(|path| json!({"uri": {"prefix": path}})).collect();
        Canary::decode(&json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "app", "namespace": "test", "uid": "u"},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                "service": {"port": port, "gatewayRefs": [{"name": "g"}], "match": matches,
                    "headers": {"response": {"set": headers}}},
                "analysis": analysis,
            },
        })).unwrap()
    }
}

proptest! {
    /// I1: whatever is asked for, the weights of a rule sum to 100, and what is written reads back as what was asked for.
    #[test]
    fn every_split_is_written_whole_and_reads_back(
        canary in canaries(), weight in 0..=100_i64, mirrored in any::<bool>(), cookies in any::<[bool; 3]>(),
    ) {
        let cookie = |wanted: bool, text: &str| wanted.then(|| text.to_owned());
        let request = RouteRequest {
            canary: &canary,
            settings: &SETTINGS,
            split: Split { canary: Weight::clamped(weight), mirrored },
            revisions: Revisions::default(),
            cookies: Cookies {
                canary: cookie(cookies[0], "side=abc"),
                primary: cookie(cookies[1], "home=def"),
                previous: cookie(cookies[2], "side=old"),
            },
            selector_label: None,
        };
        let write = first(&request);
        let route = stored(&write);
        for rule in route.at("/spec/rules").as_array().unwrap() {
            let sum: i64 = rule["backendRefs"].as_array().unwrap().iter().map(|b| b["weight"].as_i64().unwrap()).sum();
            prop_assert_eq!(sum, 100);
        }
        prop_assert_eq!(V1.observed(&canary, &SETTINGS, &present(route.clone())).unwrap().split, Some(request.split));
        prop_assert_eq!(V1.desired(&request, &present(route)).unwrap(), []);
    }
}

/// What a canary for calls of gRPC may ask for, and what not.
#[test]
fn what_a_grpc_route_cannot_say_is_refused_by_field_and_value() {
    use Severity::{Error, Warning};
    let cases = [
        ("SERVICE match: [{uri: {prefix: /}}]", None),
        ("SERVICE match: [{uri: {prefix: /a.B/}}]", None),
        (
            "SERVICE match: [{uri: {prefix: /a.B/C}}]",
            Some((
                Error,
                "spec.service.match[0].uri",
                "exact: /package.Service/Method",
            )),
        ),
        (
            "SERVICE match: [{uri: {exact: /a.B}}]",
            Some((
                Error,
                "spec.service.match[0].uri",
                "exact: /package.Service/Method",
            )),
        ),
        (
            "SERVICE match: [{uri: {regex: .*}}]",
            Some((
                Error,
                "spec.service.match[0].uri",
                "prefix: /package.Service",
            )),
        ),
        (
            "SERVICE match: [{method: {exact: GET}}]",
            Some((Error, "spec.service.match[0].method", "POST")),
        ),
        (
            "SERVICE match: [{queryParams: {a: {exact: b}}}]",
            Some((Error, "spec.service.match[0].queryParams", "none")),
        ),
        (
            "SERVICE rewrite: {uri: /, type: ReplacePrefixMatch}",
            Some((Warning, "spec.service.rewrite", "no rewrite")),
        ),
        (
            "SERVICE timeout: 5s",
            Some((Warning, "spec.service.timeout", "no timeout")),
        ),
        (
            "ANALYSIS match: [{queryParams: {a: {exact: b}}}]",
            Some((Error, "spec.analysis.match[0].queryParams.a", "use headers")),
        ),
        (
            "ANALYSIS sessionAffinity: {cookieName: side}",
            Some((Warning, "spec.analysis.sessionAffinity", "no cookies")),
        ),
    ];
    for (text, expected) in cases {
        let service = "    port: 9898\n    routeKind: GRPCRoute\n";
        let manifest = PLAIN.replace("    port: 9898\n", service);
        let manifest = match text.split_once(' ').unwrap() {
            ("ANALYSIS", more) => {
                manifest.replace("{interval: 1m", &format!("{{{more}, interval: 1m"))
            }
            (_, more) => manifest.replace(service, &format!("{service}    {more}\n")),
        };
        let canary = canary(&manifest);
        let refusals = V1.refusals(&canary);
        let writes = V1.desired(&request(&canary, Split::canary(10)), &absent);
        let Some((severity, field, part)) = expected else {
            assert_eq!(refusals, [], "{text}");
            assert!(writes.is_ok(), "{text}: {writes:?}");
            continue;
        };
        let [refusal] = refusals.as_slice() else {
            panic!("{text}: {refusals:?}");
        };
        assert_eq!(
            (refusal.severity, refusal.field.as_str()),
            (severity, field)
        );
        assert!(
            refusal.message.contains(part),
            "{text}: {}",
            refusal.message
        );
        assert_eq!(writes.is_ok(), severity == Warning, "{text}: {writes:?}");
    }
    let manifest = PLAIN.replace(
        "    port: 9898\n",
        "    port: 9898\n    routeKind: GRPCRoute\n",
    );
    let refusals = V1BETA1.refusals(&canary(&manifest));
    assert_eq!(refusals[0].field, "spec.service.routeKind");
    assert_eq!(refusals[0].severity, Error);
}

/// A mesh answers for a Service as parent as a gateway does for itself, by either name of the core group.
#[test]
fn a_service_as_parent_is_known_by_either_name_of_its_group() {
    for (asked, answered) in [
        ("\"\"", ""),
        ("core", ""),
        ("\"\"", "core"),
        ("core", "core"),
    ] {
        let parents = format!(
            "[{{group: {asked}, kind: Service, name: podinfo, port: 9898}}, {{name: gateway, namespace: infra}}]"
        );
        let manifest = PLAIN.replace("[{name: gateway, namespace: infra}]", &parents);
        let canary = canary(&manifest);
        let mut route = live(&canary, Split::canary(10));
        let accepted = |parent: Value| json!({"parentRef": parent, "controllerName": "x", "conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 3}]});
        let mesh = accepted(
            json!({"group": answered, "kind": "Service", "name": "podinfo", "namespace": "test", "port": 9898}),
        );
        let gateway = accepted(
            json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway", "namespace": "infra"}),
        );
        route.value_mut()["status"] = json!({"parents": [mesh.clone()]});
        let applied = |route: &Object| {
            let observed = V1.observed(&canary, &SETTINGS, &present(route.clone()));
            observed.unwrap().applied
        };
        let Applied::Pending(why) = applied(&route) else {
            panic!("the gateway has not answered");
        };
        assert!(why.contains("Gateway gateway"), "{why}");
        route.value_mut()["status"] = json!({"parents": [gateway.clone()]});
        let Applied::Pending(why) = applied(&route) else {
            panic!("the mesh has not answered");
        };
        assert!(why.contains("Service podinfo"), "{why}");
        route.value_mut()["status"] = json!({"parents": [mesh, gateway]});
        assert_eq!(applied(&route), Applied::Yes);
    }
}

#[test]
fn a_parent_of_kind_service_is_in_the_core_group_without_saying_so() {
    let manifest = PLAIN.replace(
        "{name: gateway, namespace: infra}",
        "{kind: Service, name: podinfo}",
    );
    let Write::Apply { object, .. } = first(&request(&canary(&manifest), Split::PRIMARY)) else {
        panic!("not an apply");
    };
    let parent = object.at("/spec/parentRefs/0");
    assert_eq!(
        parent,
        &json!({"group": "", "kind": "Service", "name": "podinfo"})
    );
}
