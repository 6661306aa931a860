//! The routers of meshes without a route object that a gateway answers for: golden objects in `tests/fixtures/meshes/`, whose requests
//! may name objects that are there already, and what holds for all of them on objects as an API server keeps them.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::object::{Object, Patch, kinds};
use golden_tests::{SETTINGS, request, yaml};
use route_object::ORIGINAL_ANNOTATION;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The routers that are told of here.
const MESHES: [&str; 9] = [
    "linkerd",
    "osm",
    "smi:v1alpha1",
    "smi:v1alpha2",
    "smi:v1alpha3",
    "kuma",
    "gloo",
    "appmesh",
    "appmesh:v1beta2",
];

fn canary(provider: &str) -> Canary {
    let mut canary = Canary::decode(&yaml(
        "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: podinfo, namespace: test, uid: canary-uid}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: podinfo}
  service: {port: 9898, meshName: global}
  analysis: {interval: 1m, threshold: 5, maxWeight: 50, stepWeight: 10}
",
    ))
    .unwrap();
    canary.spec.provider = Some(provider.to_owned());
    canary
}

/// Objects as an API server keeps them: an apply merges maps and replaces lists.
#[derive(Default)]
struct World(RefCell<BTreeMap<ObjectRef, Object>>);

impl World {
    fn lookup(&self) -> impl Fn(&ObjectRef) -> Reading + '_ {
        |name| {
            let found = self.0.borrow().get(name).cloned();
            found.map_or(Reading::Absent, |object| Reading::Present(Arc::new(object)))
        }
    }

    fn object(&self, name: &ObjectRef) -> Object {
        self.0.borrow()[name].clone()
    }

    fn change(&self, name: &ObjectRef, change: impl FnOnce(&mut Value)) {
        change(self.0.borrow_mut().get_mut(name).unwrap().value_mut());
    }

    fn put(&self, name: ObjectRef, value: Value) {
        self.0.borrow_mut().insert(name, Object::new(value));
    }

    fn write(&self, writes: &[Write]) {
        for write in writes {
            let mut objects = self.0.borrow_mut();
            match write {
                Write::Apply { object, .. } => {
                    let count = objects.len();
                    let live = objects.entry(write.target()).or_insert_with(|| {
                        Object::new(json!({"metadata": {"uid": format!("uid-{count}")}}))
                    });
                    merge(live.value_mut(), object.value());
                }
                Write::Patch {
                    target,
                    patch: Patch::Json(operations),
                    ..
                } => {
                    let live = objects.get_mut(target).unwrap().value_mut();
                    for one in operations {
                        operate(live, one);
                    }
                }
                Write::Delete { target, .. } => {
                    objects.remove(target);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Writes what a router wants until it wants nothing more.
    fn settle(&self, router: &dyn Router, request: &RouteRequest<'_>) {
        for _ in 0..3 {
            let writes = router.desired(request, &self.lookup()).unwrap();
            if writes.is_empty() {
                return;
            }
            self.write(&writes);
        }
        let again = router.desired(request, &self.lookup()).unwrap();
        assert_eq!(again, [], "{} never rests", router.provider());
    }

    fn split(&self, router: &dyn Router, canary: &Canary) -> Option<Split> {
        let observed = router.observed(canary, &SETTINGS, &self.lookup());
        observed.unwrap().split
    }
}

fn merge(live: &mut Value, applied: &Value) {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            for (key, value) in applied {
                merge(live.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (live, applied) => *live = applied.clone(),
    }
}

fn operate(live: &mut Value, operation: &Value) {
    let (parent, key) = operation["path"]
        .as_str()
        .unwrap()
        .rsplit_once('/')
        .unwrap();
    let key = key.replace("~1", "/").replace("~0", "~");
    let parent = live.pointer_mut(parent).unwrap();
    match operation["op"].as_str().unwrap() {
        "replace" => parent[key.as_str()] = operation["value"].clone(),
        "remove" => {
            parent.as_object_mut().unwrap().remove(&key).unwrap();
        }
        other => panic!("{other}"),
    }
}

/// The object that holds the split.
fn dividing(router: &dyn Router, canary: &Canary) -> ObjectRef {
    let objects = router.objects(canary);
    let wanted = match router.provider() {
        "kuma" => &objects[0],
        "gloo" => &objects[2],
        "appmesh" => &objects[3],
        "appmesh:v1beta2" => &objects[4],
        _ => objects.last().unwrap(),
    };
    wanted.clone()
}

/// Every `weight` in an object, in order.
fn weights(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Object(map) => map
            .iter_mut()
            .flat_map(|(key, value)| {
                if key == "weight" {
                    vec![value]
                } else {
                    weights(value)
                }
            })
            .collect(),
        Value::Array(list) => list.iter_mut().flat_map(weights).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn golden_objects() {
    let mut wrong = Vec::new();
    for case in golden_tests::cases("meshes", 12) {
        let router = router(case.canary.spec.provider.as_deref().unwrap()).unwrap();
        let errors: Vec<Refusal> = router
            .refusals(&case.canary)
            .into_iter()
            .filter(|refusal| refusal.field != "spec.provider")
            .collect();
        assert_eq!(errors, [], "{}", case.name);
        let world = World::default();
        for object in case.wish["objects"].as_array().into_iter().flatten() {
            let object = Object::new(object.clone());
            let kind = [kinds::UPSTREAM, kinds::SERVICE]
                .into_iter()
                .find(|kind| kind.kind == object.kind())
                .unwrap();
            let name = kind.named(object.namespace(), object.name());
            world.put(name, object.into_value());
        }
        let writes = router.desired(&case.request(&SETTINGS), &world.lookup());
        wrong.extend(case.difference("objects.yaml", &writes.unwrap()));
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

#[test]
fn every_split_is_written_once_and_reads_back() {
    for provider in MESHES {
        let router = router(provider).unwrap();
        let canary = canary(provider);
        let world = World::default();
        assert_eq!(world.split(router, &canary), None, "{provider}");
        for percent in [0, 1, 10, 50, 99, 100, 0] {
            let split = Split::canary(percent);
            let request = request(&canary, split);
            world.settle(router, &request);
            assert_eq!(world.split(router, &canary), Some(split), "{provider}");
        }
    }
}

#[test]
fn one_step_is_one_write() {
    for provider in MESHES {
        let router = router(provider).unwrap();
        let canary = canary(provider);
        let world = World::default();
        world.settle(router, &request(&canary, Split::canary(10)));
        let next = request(&canary, Split::canary(20));
        let writes = router.desired(&next, &world.lookup()).unwrap();
        assert_eq!(writes.len(), 1, "{provider}: {writes:?}");
        assert_eq!(writes[0].target(), dividing(router, &canary), "{provider}");
    }
}

#[test]
fn weights_edited_by_hand_are_read_as_they_are_and_put_back() {
    for provider in MESHES {
        let router = router(provider).unwrap();
        let canary = canary(provider);
        let world = World::default();
        let request = request(&canary, Split::canary(30));
        world.settle(router, &request);
        let object = dividing(router, &canary);
        world.change(&object, |value| {
            for weight in weights(value) {
                *weight = if weight.is_string() {
                    json!("50")
                } else {
                    json!(50)
                };
            }
        });
        let seen = world.split(router, &canary);
        assert_eq!(seen, Some(Split::canary(50)), "{provider}");
        // Both sides at nothing is no split at all.
        world.change(&object, |value| {
            for weight in weights(value) {
                *weight = json!(0);
            }
        });
        assert_eq!(world.split(router, &canary), None, "{provider}");
        world.settle(router, &request);
        let seen = world.split(router, &canary);
        assert_eq!(seen, Some(Split::canary(30)), "{provider}");
    }
}

#[test]
fn a_third_that_gets_traffic_by_hand_is_taken_out() {
    let canary = canary("osm");
    let router = router("osm").unwrap();
    let world = World::default();
    let request = request(&canary, Split::canary(30));
    world.settle(router, &request);
    let split = dividing(router, &canary);
    world.change(&split, |value| {
        let backends = value["spec"]["backends"].as_array_mut().unwrap();
        backends.push(json!({"service": "shadow", "weight": 10}));
    });
    assert_eq!(world.split(router, &canary), None);
    world.settle(router, &request);
    assert_eq!(
        world.object(&split).at("/spec/backends"),
        &json!([{"service": "podinfo-canary", "weight": 30}, {"service": "podinfo-primary", "weight": 70}])
    );
}

#[test]
fn fields_labels_and_annotations_of_others_survive_every_step() {
    for provider in MESHES {
        let router = router(provider).unwrap();
        let canary = canary(provider);
        let world = World::default();
        world.settle(router, &request(&canary, Split::PRIMARY));
        for name in router.objects(&canary) {
            if !world.0.borrow().contains_key(&name) {
                continue;
            }
            world.change(&name, |value| {
                value["spec"]["theirs"] = json!({"kept": true});
                value["metadata"]["labels"] = json!({"team": "a"});
                value["metadata"]["annotations"]["note"] = json!("theirs");
            });
        }
        let next = request(&canary, Split::canary(10));
        world.settle(router, &next);
        assert_eq!(world.split(router, &canary), Some(Split::canary(10)));
        for (name, object) in world.0.borrow().iter() {
            assert_eq!(object.at("/spec/theirs/kept"), true, "{name}");
            assert_eq!(object.at("/metadata/labels/team"), "a", "{name}");
            assert_eq!(object.annotation("note"), Some("theirs"), "{name}");
        }
    }
}

#[test]
fn a_route_that_was_there_is_taken_over_and_given_back_as_it_was() {
    let original = json!({"apiVersion": "split.smi-spec.io/v1alpha2", "kind": "TrafficSplit",
        "metadata": {"name": "podinfo", "namespace": "test", "uid": "u", "labels": {"team": "a"}},
        "spec": {"service": "podinfo", "backends": [{"service": "podinfo", "weight": 1}]}});
    let canary = canary("osm");
    let router = router("osm").unwrap();
    let world = World::default();
    let name = dividing(router, &canary);
    world.put(name.clone(), original.clone());
    world.settle(router, &request(&canary, Split::canary(10)));
    let taken = world.object(&name);
    assert!(taken.annotation(ORIGINAL_ANNOTATION).is_some() && taken.controller_owner().is_none());
    let back = router.finalize(&canary, &world.lookup()).unwrap();
    world.write(&back);
    let mut left = world.object(&name).into_value();
    let metadata = left["metadata"].as_object_mut().unwrap();
    assert_eq!(metadata.remove("annotations"), Some(json!({})));
    assert_eq!(left, original);
}

#[test]
fn a_route_of_another_canary_is_left_alone() {
    for provider in MESHES {
        let router = router(provider).unwrap();
        let mine = canary(provider);
        let world = World::default();
        world.settle(router, &request(&mine, Split::canary(10)));
        let mut other = canary(provider);
        other.metadata.uid = Some("another".to_owned());
        "another".clone_into(&mut other.metadata.name);
        other.spec.service.as_mut().unwrap().name = Some("podinfo".to_owned());
        let found = router.desired(&request(&other, Split::PRIMARY), &world.lookup());
        assert!(
            matches!(found, Err(RouteError::Unfit(..))),
            "{provider}: {found:?}"
        );
    }
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let unknown = |_: &ObjectRef| Reading::Unknown("timeout".to_owned());
    for provider in MESHES {
        let router = router(provider).unwrap();
        let canary = canary(provider);
        let desired = router.desired(&request(&canary, Split::PRIMARY), &unknown);
        assert!(
            matches!(desired, Err(RouteError::Unknown(..))),
            "{provider}"
        );
        let observed = router.observed(&canary, &SETTINGS, &unknown);
        assert!(
            matches!(observed, Err(RouteError::Unknown(..))),
            "{provider}"
        );
    }
}

#[test]
fn providers_answer_to_the_names_that_flagger_knows() {
    let found = |name: &str| router(name).map(Router::provider);
    for provider in MESHES {
        assert_eq!(found(provider), Some(provider));
    }
    for (name, provider) in [
        ("smi:v1alpha2:istio", "smi:v1alpha2"),
        ("smi:v1alpha3:linkerd", "smi:v1alpha3"),
        ("gloo:v1", "gloo"),
        ("appmesh:v1beta2:x", "appmesh:v1beta2"),
    ] {
        assert_eq!(found(name), Some(provider), "{name}");
    }
    for name in ["smi", "smi:v1alpha10", "appmesh:v1", "linkerd2"] {
        assert_eq!(found(name), None, "{name}");
    }
}

#[test]
fn meshes_that_came_to_their_end_say_what_to_move_to_and_still_work() {
    for provider in MESHES {
        let refusals = router(provider).unwrap().refusals(&canary(provider));
        let retired = !["kuma", "gloo"].contains(&provider);
        let told = refusals
            .iter()
            .any(|refusal| refusal.field == "spec.provider" && refusal.message.contains("move to"));
        assert_eq!(told, retired, "{provider}: {refusals:?}");
        let none_forbids = refusals
            .iter()
            .all(|refusal| refusal.severity == Severity::Warning);
        assert!(none_forbids, "{refusals:?}");
    }
}

#[test]
fn without_a_service_nothing_can_be_routed() {
    for provider in MESHES {
        let mut canary = canary(provider);
        canary.spec.service = None;
        let refusals = router(provider).unwrap().refusals(&canary);
        let error = refusals
            .iter()
            .find(|refusal| refusal.severity == Severity::Error);
        assert_eq!(error.unwrap().field, "spec.service", "{provider}");
    }
}

mod smi {
    use super::*;

    #[test]
    fn quantities_are_read_in_each_of_their_forms() {
        let canary = canary("linkerd");
        let router = router("linkerd").unwrap();
        for (primary, other, percent) in [
            (json!("90"), json!("10"), 10),
            (json!(90), json!(10), 10),
            (json!("900m"), json!("100m"), 10),
            (json!("1.5"), json!("500m"), 25),
            (json!("1k"), json!("1000"), 50),
        ] {
            let world = World::default();
            world.put(
                dividing(router, &canary),
                json!({"metadata": {"name": "podinfo", "namespace": "test"}, "spec": {"backends": [
                    {"service": "podinfo-primary", "weight": primary},
                    {"service": "podinfo-canary", "weight": other},
                ]}}),
            );
            let seen = world.split(router, &canary);
            assert_eq!(seen, Some(Split::canary(percent)), "{primary} {other}");
        }
        for odd in [json!("a"), json!(-1), json!(null), json!("1Q")] {
            let world = World::default();
            world.put(
                dividing(router, &canary),
                json!({"spec": {"backends": [
                    {"service": "podinfo-primary", "weight": 1},
                    {"service": "podinfo-canary", "weight": odd},
                ]}}),
            );
            assert_eq!(world.split(router, &canary), None, "{odd}");
        }
    }
}

mod kuma {
    use super::*;

    #[test]
    fn canaries_of_one_name_in_two_namespaces_have_a_route_each() {
        let router = router("kuma").unwrap();
        let world = World::default();
        for (namespace, percent) in [("test", 10), ("prod", 40)] {
            let mut canary = canary("kuma");
            namespace.clone_into(&mut canary.metadata.namespace);
            world.settle(router, &request(&canary, Split::canary(percent)));
        }
        let names: Vec<String> = world
            .0
            .borrow()
            .keys()
            .map(|key| key.name.clone())
            .collect();
        assert_eq!(names, ["podinfo.prod", "podinfo.test"]);
    }

    #[test]
    fn a_route_that_flagger_made_is_gone_on_with_and_one_for_other_services_is_not_touched() {
        let router = router("kuma").unwrap();
        let canary = canary("kuma");
        let flaggers = |namespace: &str| {
            let tag = |side: &str| json!({"kuma.io/service": format!("podinfo-{side}_{namespace}_svc_9898")});
            json!({
                "apiVersion": "kuma.io/v1alpha1", "kind": "TrafficRoute", "mesh": "default",
                "metadata": {"name": "podinfo", "uid": "u"},
                "spec": {"conf": {"split": [
                    {"weight": 80, "destination": tag("primary")},
                    {"weight": 20, "destination": tag("canary")},
                ]}},
            })
        };
        let name = kinds::TRAFFIC_ROUTE.named("", "podinfo");
        let world = World::default();
        world.put(name.clone(), flaggers("test"));
        assert_eq!(world.split(router, &canary), Some(Split::canary(20)));
        world.settle(router, &request(&canary, Split::canary(30)));
        assert_eq!(world.0.borrow().len(), 1);
        let world = World::default();
        world.put(name.clone(), flaggers("prod"));
        world.settle(router, &request(&canary, Split::canary(30)));
        assert_eq!(world.object(&name).into_value(), flaggers("prod"));
        assert_eq!(world.0.borrow().len(), 2);
    }

    #[test]
    fn the_route_goes_with_its_canary() {
        let router = router("kuma").unwrap();
        let canary = canary("kuma");
        let world = World::default();
        world.settle(router, &request(&canary, Split::PRIMARY));
        assert!(router.leaves_objects());
        world.write(&router.finalize(&canary, &world.lookup()).unwrap());
        assert!(world.0.borrow().is_empty());
    }
}

mod gloo {
    use super::*;

    #[test]
    fn a_table_that_a_gateway_rejects_is_not_applied() {
        let router = router("gloo").unwrap();
        let canary = canary("gloo");
        let world = World::default();
        world.settle(router, &request(&canary, Split::canary(10)));
        let observed = || {
            let observed = router.observed(&canary, &SETTINGS, &world.lookup());
            observed.unwrap().applied
        };
        assert_eq!(observed(), Applied::Yes);
        world.change(&dividing(router, &canary), |value| {
            value["status"] = json!({"statuses": {"gloo-system": {"state": "Rejected", "reason": "bad upstream"}}});
        });
        let Applied::Pending(why) = observed() else {
            panic!("applied");
        };
        assert!(
            why.contains("gloo-system") && why.contains("bad upstream"),
            "{why}"
        );
    }

    #[test]
    fn without_the_users_upstream_nothing_starts_but_traffic_still_goes_back() {
        let router = router("gloo").unwrap();
        let mut canary = canary("gloo");
        canary.spec.upstream_ref = Some(crate::api::UpstreamRef {
            api_version: "gloo.solo.io/v1".to_owned(),
            kind: "Upstream".to_owned(),
            name: "settings".to_owned(),
            namespace: None,
        });
        let world = World::default();
        let half = request(&canary, Split::canary(50));
        let found = router.desired(&half, &world.lookup());
        assert!(matches!(found, Err(RouteError::Missing(_))), "{found:?}");
        let name = kinds::UPSTREAM.named("test", "settings");
        world.put(
            name.clone(),
            json!({"spec": {"useHttp2": true, "kube": {}}}),
        );
        world.settle(router, &half);
        let upstream = world.object(&router.objects(&canary)[0]);
        assert_eq!(upstream.at("/spec/useHttp2"), true);
        world.0.borrow_mut().remove(&name);
        world.settle(router, &request(&canary, Split::PRIMARY));
        assert_eq!(world.split(router, &canary), Some(Split::PRIMARY));
    }
}

mod appmesh {
    use super::*;

    #[test]
    fn nodes_are_there_before_the_primary_and_no_route_is() {
        for (provider, nodes) in [("appmesh", 3), ("appmesh:v1beta2", 2)] {
            let router = router(provider).unwrap();
            let canary = canary(provider);
            let world = World::default();
            let first = router
                .prepare(&request(&canary, Split::PRIMARY), &world.lookup())
                .unwrap();
            assert_eq!(first.len(), nodes);
            for write in &first {
                assert_eq!(write.target().kind.kind, "VirtualNode");
            }
            world.write(&first);
            let again = router.prepare(&request(&canary, Split::PRIMARY), &world.lookup());
            assert_eq!(again.unwrap(), []);
        }
    }

    #[test]
    fn a_health_check_that_somebody_added_to_the_listener_of_a_node_stays() {
        let router = router("appmesh:v1beta2").unwrap();
        let canary = canary("appmesh:v1beta2");
        let world = World::default();
        world.settle(router, &request(&canary, Split::PRIMARY));
        let node = router.objects(&canary)[0].clone();
        world.change(&node, |value| {
            value["spec"]["listeners"][0]["healthCheck"] = json!({"path": "/healthz"});
        });
        let next = request(&canary, Split::canary(10));
        let writes = router.desired(&next, &world.lookup()).unwrap();
        assert_eq!(writes.len(), 1, "{writes:?}");
        world.change(&node, |value| {
            value["spec"]["listeners"][0]["portMapping"]["port"] = json!(1);
        });
        world.settle(router, &next);
        assert_eq!(
            world.object(&node).at("/spec/listeners/0"),
            &json!({"portMapping": {"port": 9898, "protocol": "http"}, "healthCheck": {"path": "/healthz"}})
        );
    }

    #[test]
    fn what_the_controller_has_not_carried_out_is_not_applied() {
        let router = router("appmesh:v1beta2").unwrap();
        let canary = canary("appmesh:v1beta2");
        let world = World::default();
        world.settle(router, &request(&canary, Split::PRIMARY));
        let name = dividing(router, &canary);
        let applied = |status: Value| {
            world.change(&name, |value| {
                value["metadata"]["generation"] = json!(2);
                value["status"] = status;
            });
            let observed = router.observed(&canary, &SETTINGS, &world.lookup());
            observed.unwrap().applied == Applied::Yes
        };
        assert!(applied(json!({})));
        assert!(!applied(json!({"observedGeneration": 1})));
        let active = |status: &str| json!({"observedGeneration": 2, "conditions": [{"type": "VirtualRouterActive", "status": status}]});
        assert!(applied(active("True")) && !applied(active("False")));
    }

    #[test]
    fn conditions_beside_one_path_prefix_are_said_to_be_left_out() {
        for (matches, told) in [
            (json!([{"uri": {"prefix": "/api"}}]), false),
            (json!([]), false),
            (json!([{"uri": {"exact": "/api"}}]), true),
            (
                json!([{"uri": {"prefix": "/api"}, "method": {"exact": "GET"}}]),
                true,
            ),
            (
                json!([{"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/b"}}]),
                true,
            ),
        ] {
            let mut canary = canary("appmesh:v1beta2");
            canary.spec.service.as_mut().unwrap().matches =
                serde_json::from_value(matches.clone()).unwrap();
            let refusals = router("appmesh:v1beta2").unwrap().refusals(&canary);
            let found = refusals
                .iter()
                .any(|refusal| refusal.field == "spec.service.match");
            assert_eq!(found, told, "{matches}");
        }
    }
}
