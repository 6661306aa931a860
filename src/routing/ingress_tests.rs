//! The ingress routers (traefik, contour, nginx, skipper, apisix) on real objects. Golden routes are in `tests/fixtures/routes-ingress/`, with
//! provider and flags in their requests, and the user's object in `beside.yaml` where the router builds on one.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::object::{Expect, Object, Patch, kinds};
use crate::routing::route_object::ORIGINAL_ANNOTATION;
use golden_tests::{Case, yaml};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const GOLDEN: &str = "routes-ingress";

/// A cluster of route objects, as a router sees it.
#[derive(Clone, Default)]
struct Cluster {
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    unreadable: Option<ObjectRef>,
    writes: u32,
}

impl Cluster {
    fn add(&mut self, value: Value) {
        let object = Object::new(value);
        let kind = [
            kinds::INGRESS,
            kinds::HTTP_PROXY,
            kinds::TRAEFIK_SERVICE,
            kinds::APISIX_ROUTE,
        ]
        .into_iter()
        .find(|kind| kind.kind == object.kind())
        .unwrap();
        let name = kind.named(object.namespace(), object.name());
        self.objects.insert(name, Arc::new(object));
    }

    fn read(&self, name: &ObjectRef) -> Reading {
        if self.unreadable.as_ref() == Some(name) {
            return Reading::Unknown("timeout".into());
        }
        self.objects.get(name).map_or(Reading::Absent, |object| {
            Reading::Present(Arc::clone(object))
        })
    }

    /// Does a write as the API server would, so far as these objects need it: what Serin applied before and leaves out goes, what
    /// others have stays.
    fn carry_out(&mut self, write: &Write) {
        let target = write.target();
        self.writes += 1;
        match write {
            Write::Apply { object, .. } => {
                let mut stored = self
                    .objects
                    .get(&target)
                    .map_or_else(|| json!({}), |live| live.value().clone());
                let owned = stored["test-owned"].take();
                forget(&mut stored, &owned, object.value());
                overlay(&mut stored, object.value());
                stored["test-owned"] = object.value().clone();
                stored["metadata"]["uid"] = json!("route-uid");
                stored["metadata"]["resourceVersion"] = json!(self.writes.to_string());
                stored["metadata"]["generation"] = json!(self.writes);
                self.add(stored);
            }
            Write::Patch {
                patch: Patch::Json(operations),
                ..
            } => {
                let mut live = self.objects[&target].value().clone();
                for operation in operations {
                    let path = operation["path"].as_str().unwrap();
                    let (parent, key) = path.rsplit_once('/').unwrap();
                    let key = key.replace("~1", "/").replace("~0", "~");
                    let parent = live.pointer_mut(parent).unwrap();
                    match operation["op"].as_str().unwrap() {
                        "remove" => drop(parent.as_object_mut().unwrap().remove(&key)),
                        "replace" => parent[key] = operation["value"].clone(),
                        other => panic!("{other}"),
                    }
                }
                self.add(live);
            }
            Write::Patch {
                patch: Patch::Merge(change),
                ..
            } => {
                let mut live = self.objects[&target].value().clone();
                merge(&mut live, change);
                self.add(live);
            }
            Write::Delete { .. } => drop(self.objects.remove(&target)),
            Write::Together(_) => panic!("{write:?}"),
        }
    }

    fn edit(&mut self, name: &ObjectRef, edit: impl FnOnce(&mut Value)) {
        let mut value = self.objects[name].value().clone();
        edit(&mut value);
        self.add(value);
    }
}

fn forget(stored: &mut Value, owned: &Value, wanted: &Value) {
    if let (Some(stored), Some(owned)) = (stored.as_object_mut(), owned.as_object()) {
        for (key, value) in owned {
            if wanted[key].is_null() {
                stored.remove(key);
            } else if let Some(inner) = stored.get_mut(key) {
                forget(inner, value, &wanted[key]);
            }
        }
    }
}

fn merge(live: &mut Value, change: &Value) {
    let Some(change) = change.as_object() else {
        *live = change.clone();
        return;
    };
    for (key, value) in change {
        if value.is_null() {
            live.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut live[key], value);
        }
    }
}

fn overlay(stored: &mut Value, wanted: &Value) {
    match wanted.as_object() {
        Some(wanted) if stored.is_object() => {
            for (key, value) in wanted {
                overlay(&mut stored[key], value);
            }
        }
        _ => *stored = wanted.clone(),
    }
}

#[derive(Clone)]
struct Story {
    router: &'static dyn Router,
    canary: Canary,
    settings: RoutingSettings,
    cluster: Cluster,
}

impl Story {
    /// The canary of a golden case with its user's object.
    fn of(name: &str) -> Self {
        Self::told(&Case::of(GOLDEN, name))
    }

    fn told(case: &Case) -> Self {
        let mut cluster = Cluster::default();
        if let Some(beside) = case.beside("beside.yaml") {
            cluster.add(beside);
        }
        let mut settings = RoutingSettings::default();
        if let Some(class) = case.wish["ingressClass"].as_str() {
            class.clone_into(&mut settings.ingress_class);
        }
        if let Some(prefix) = case.wish["prefix"].as_str() {
            prefix.clone_into(&mut settings.ingress_annotations_prefix);
        }
        Self {
            router: router(case.wish["provider"].as_str().unwrap()).unwrap(),
            canary: case.canary.clone(),
            settings,
            cluster,
        }
    }

    fn with(mut self, edit: impl FnOnce(&mut crate::api::CanarySpec)) -> Self {
        edit(&mut self.canary.spec);
        self
    }

    /// The object that the router writes.
    fn target(&self) -> ObjectRef {
        self.router.objects(&self.canary).pop().unwrap()
    }

    fn desired(&self, split: Split) -> Result<Vec<Write>, RouteError> {
        let request = RouteRequest {
            canary: &self.canary,
            settings: &self.settings,
            split,
            revisions: Revisions::default(),
            cookies: Cookies::default(),
            selector_label: Some("app"),
        };
        self.router
            .desired(&request, &|name| self.cluster.read(name))
    }

    fn observed(&self) -> Observed {
        self.router
            .observed(&self.canary, &self.settings, &|name| {
                self.cluster.read(name)
            })
            .unwrap()
    }

    /// Writes until nothing is left to write, as the controller does; the number of writes that it took.
    fn converge(&mut self, split: Split) -> usize {
        for round in 0..5 {
            let writes = self.desired(split).unwrap();
            if writes.is_empty() {
                return round;
            }
            for write in &writes {
                self.cluster.carry_out(write);
            }
        }
        panic!("does not converge: {:?}", self.desired(split));
    }

    fn route(&self) -> Value {
        self.cluster.objects[&self.target()].value().clone()
    }

    fn annotation(&self, key: &str) -> Value {
        self.route()["metadata"]["annotations"][key].clone()
    }

    /// The annotations of a companion by which requests are steered.
    fn steering(&self) -> Value {
        let annotations = self.route()["metadata"]["annotations"].clone();
        let steers = |key: &str| key.contains("io/canary") || key.starts_with("zalando.org/");
        let found = annotations.as_object().unwrap().clone().into_iter();
        found.filter(|(key, _)| steers(key)).collect()
    }

    /// The user's object that a companion is made from.
    fn source(&self) -> ObjectRef {
        self.router.objects(&self.canary)[0].clone()
    }

    fn unfit(&self) -> Vec<RouteError> {
        let read = |name: &ObjectRef| self.cluster.read(name);
        self.router.unfit(&self.canary, &read)
    }
}

#[test]
fn golden_routes() {
    let mut wrong = Vec::new();
    for case in golden_tests::cases(GOLDEN, 15) {
        let (mut story, split, name) = (Story::told(&case), case.split(), &case.name);
        assert_eq!(story.router.refusals(&story.canary), [], "{name}");
        let writes = story.desired(split).unwrap();
        wrong.extend(case.difference("route.yaml", &writes));
        assert_eq!(story.converge(split), 1, "{name}");
        assert_eq!(story.observed().split, Some(split), "{name}");
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

/// What a hand does to a route.
type Edit = fn(&mut Value);

/// One case of each router that divides by weight.
const SPLITS: [&str; 5] = [
    "traefik-split",
    "contour-split",
    "nginx-split",
    "skipper-split",
    "apisix-split",
];

/// One of each that builds on an object of the user.
const COMPANIONS: [&str; 3] = ["nginx-split", "skipper-split", "apisix-split"];

#[test]
fn each_split_is_written_whole_and_read_back() {
    for case in SPLITS {
        let mut story = Story::of(case);
        for percent in [0, 1, 50, 99, 100, 0] {
            let split = Split::canary(percent);
            story.converge(split);
            assert_eq!(story.observed().split, Some(split), "{case} {percent}");
            assert_eq!(story.desired(split).unwrap(), [], "{case} {percent}");
        }
    }
}

#[test]
fn given_weights_edited_by_hand_then_one_write_guarded_by_the_version_puts_the_split_of_the_run_back()
 {
    let edits: [(&str, Edit); 5] = [
        ("traefik-split", |route| {
            route["spec"]["weighted"]["services"][1]["weight"] = json!(90);
        }),
        ("contour-split", |route| {
            route["spec"]["routes"][0]["services"][1]["weight"] = json!(90);
        }),
        ("nginx-split", |route| {
            route["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight"] =
                json!("90");
        }),
        ("skipper-split", |route| {
            route["metadata"]["annotations"]["zalando.org/backend-weights"] =
                json!(r#"{"podinfo-primary": 10, "podinfo-canary": 90}"#);
        }),
        ("apisix-split", |route| {
            route["spec"]["http"][0]["backends"][1]["weight"] = json!(90);
        }),
    ];
    for (case, edit) in edits {
        let mut story = Story::of(case);
        let split = Split::canary(20);
        story.converge(split);
        let target = story.target();
        story.cluster.edit(&target, edit);
        assert_ne!(story.observed().split, Some(split), "{case}");
        let writes = story.desired(split).unwrap();
        let [Write::Apply { expect, .. }] = writes.as_slice() else {
            panic!("{case}: {writes:?}");
        };
        assert!(matches!(expect, Expect::Version { .. }), "{case}");
        assert_eq!(story.converge(split), 1, "{case}");
        assert_eq!(story.observed().split, Some(split), "{case}");
    }
}

#[test]
fn given_a_route_deleted_in_mid_run_then_it_comes_back_with_the_split_of_the_run() {
    for case in SPLITS {
        let mut story = Story::of(case);
        let split = Split::canary(40);
        story.converge(split);
        let target = story.target();
        story.cluster.objects.remove(&target);
        assert_eq!(story.observed().split, None, "{case}");
        story.converge(split);
        assert_eq!(story.observed().split, Some(split), "{case}");
    }
}

#[test]
fn what_others_add_to_a_route_survives_every_step_and_is_no_drift() {
    let edits: [(&str, Edit, &str); 6] = [
        (
            "traefik-split",
            |route| {
                route["spec"]["weighted"]["sticky"] = json!({"cookie": {"name": "side"}});
            },
            "/spec/weighted/sticky/cookie/name",
        ),
        (
            "traefik-split",
            |route| {
                route["spec"]["weighted"]["services"][0]["serversTransport"] = json!("mtls");
            },
            "/spec/weighted/services/0/serversTransport",
        ),
        (
            "contour-split",
            |route| {
                route["spec"]["routes"][0]["loadBalancerPolicy"] = json!({"strategy": "Random"});
            },
            "/spec/routes/0/loadBalancerPolicy/strategy",
        ),
        (
            "contour-split",
            |route| {
                route["spec"]["routes"][1]["services"][1]["protocol"] = json!("h2c");
            },
            "/spec/routes/1/services/1/protocol",
        ),
        (
            "contour-split",
            |route| {
                route["spec"]["virtualhost"] = json!({"fqdn": "app.example.com"});
            },
            "/spec/virtualhost/fqdn",
        ),
        (
            "nginx-split",
            |route| {
                route["metadata"]["annotations"]["example.com/mine"] = json!("yes");
            },
            "/metadata/annotations/example.com~1mine",
        ),
    ];
    for (case, edit, pointer) in edits {
        let mut story = Story::of(case);
        story.converge(Split::canary(20));
        let target = story.target();
        story.cluster.edit(&target, edit);
        assert_eq!(
            story.desired(Split::canary(20)).unwrap(),
            [],
            "{case} {pointer}"
        );
        let added = story.route().pointer(pointer).cloned();
        assert!(added.is_some(), "{case} {pointer}");
        for percent in [40, 60, 0, 20] {
            story.converge(Split::canary(percent));
            assert_eq!(
                story.route().pointer(pointer).cloned(),
                added,
                "{case} {pointer}"
            );
        }
    }
}

#[test]
fn what_would_answer_in_place_of_both_sides_is_drift() {
    let edits: [(&str, Edit); 7] = [
        ("contour-split", |route| {
            route["spec"]["routes"][0]["requestRedirectPolicy"] = json!({"hostname": "elsewhere"});
        }),
        ("contour-split", |route| {
            route["spec"]["routes"][0]["services"][1]["mirror"] = json!(true);
        }),
        ("contour-split", |route| {
            route["spec"]["routes"][0]["conditions"][0]["prefix"] = json!("/");
        }),
        ("contour-split", |route| {
            route["spec"]["routes"].as_array_mut().unwrap().pop();
        }),
        ("traefik-split", |route| {
            let other = json!({"name": "other", "port": 80, "weight": 5});
            route["spec"]["weighted"]["services"]
                .as_array_mut()
                .unwrap()
                .push(other);
        }),
        ("nginx-split", |route| {
            route["spec"]["rules"][0]["http"]["paths"][0]["path"] = json!("/other");
        }),
        ("apisix-split", |route| {
            route["spec"]["http"][0]["websocket"] = json!(true);
        }),
    ];
    for (case, edit) in edits {
        let mut story = Story::of(case);
        let split = Split::canary(20);
        story.converge(split);
        let (target, before) = (story.target(), story.route());
        story.cluster.edit(&target, edit);
        assert_eq!(story.converge(split), 1, "{case}");
        assert_eq!(story.route()["spec"], before["spec"], "{case}");
    }
}

#[test]
fn given_all_traffic_on_one_side_then_traefik_is_told_of_no_other() {
    for (percent, only) in [(0, "podinfo-primary"), (100, "podinfo-canary")] {
        let mut story = Story::of("traefik-split");
        story.converge(Split::canary(percent));
        let services = story.route()["spec"]["weighted"]["services"].clone();
        assert_eq!(services.as_array().unwrap().len(), 1);
        assert_eq!(
            (&services[0]["name"], &services[0]["weight"]),
            (&json!(only), &json!(100))
        );
    }
}

/// Traefik reads a weight that is not there as 1, and divides by the sum.
#[test]
fn what_traefik_makes_of_its_service_is_the_split_that_was_asked_for() {
    for percent in [0, 1, 30, 50, 99, 100] {
        let mut story = Story::of("traefik-split");
        story.converge(Split::canary(50));
        story.converge(Split::canary(percent));
        let route = story.route();
        let services = route["spec"]["weighted"]["services"].as_array().unwrap();
        let weight = |service: &Value| service["weight"].as_i64().unwrap_or(1);
        let of = |name: &str| -> i64 {
            let named = services.iter().filter(|service| service["name"] == name);
            named.map(weight).sum()
        };
        let total: i64 = services.iter().map(weight).sum();
        assert_eq!(of("podinfo-canary") * 100, percent * total, "{percent}");
        assert_eq!(of("podinfo-primary") * 100, (100 - percent) * total);
    }
}

/// Flagger leaves out a weight of 0, which Traefik reads as 1.
#[test]
fn given_flaggers_traefik_service_at_the_end_of_a_run_then_its_true_split_is_seen() {
    let mut story = Story::of("traefik-split");
    story.cluster.add(yaml(
        "
apiVersion: traefik.io/v1alpha1
kind: TraefikService
metadata: {name: podinfo, namespace: test}
spec: {weighted: {services: [{name: podinfo-primary, port: 80}, {name: podinfo-canary, port: 80, weight: 100}]}}",
    ));
    assert_eq!(story.observed().split, Some(Split::canary(99)));
}

#[test]
fn given_shapes_that_make_no_sense_then_no_split_is_claimed_and_nothing_panics() {
    let shapes = [
        ("traefik-split", "spec: {}"),
        ("traefik-split", "spec: {weighted: {services: []}}"),
        (
            "traefik-split",
            "spec: {weighted: {services: [{name: podinfo-primary, weight: -1}]}}",
        ),
        ("traefik-split", "spec: {mirroring: {name: podinfo}}"),
        ("contour-split", "spec: {routes: []}"),
        (
            "contour-split",
            "spec: {routes: [{services: [{name: podinfo-primary, weight: 100}]}, {services: 3}]}",
        ),
        ("contour-split", "spec: {tcpproxy: {}}"),
        (
            "apisix-split",
            "spec: {http: [{backends: [{serviceName: podinfo-primary}]}]}",
        ),
        (
            "nginx-split",
            "metadata: {annotations: {nginx.ingress.kubernetes.io/canary: 'true', nginx.ingress.kubernetes.io/canary-weight: many}}",
        ),
        (
            "nginx-split",
            "metadata: {annotations: {nginx.ingress.kubernetes.io/canary-weight: '50'}}",
        ),
        (
            "skipper-split",
            "metadata: {annotations: {zalando.org/backend-weights: '{\"podinfo-primary\": 50}'}}",
        ),
        ("skipper-split", "metadata: {}"),
    ];
    for (case, shape) in shapes {
        let mut story = Story::of(case);
        story.converge(Split::canary(20));
        let target = story.target();
        story.cluster.edit(&target, |route| {
            for (part, value) in yaml(shape).as_object().unwrap() {
                if part == "metadata" {
                    route["metadata"]["annotations"] = value["annotations"].clone();
                } else {
                    route[part] = value.clone();
                }
            }
        });
        assert_eq!(story.observed().split, None, "{case} {shape}");
        story.converge(Split::canary(20));
        assert_eq!(
            story.observed().split,
            Some(Split::canary(20)),
            "{case} {shape}"
        );
    }
}

// ---- routes of the user, taken over

#[test]
fn given_a_route_of_the_user_then_it_is_taken_over_without_an_owner_and_given_back_as_it_was() {
    let routes = [
        (
            "traefik-split",
            "
apiVersion: traefik.io/v1alpha1
kind: TraefikService
metadata: {name: podinfo, namespace: test, uid: users}
spec: {weighted: {services: [{name: podinfo, port: 80, scheme: h2c}, {name: legacy, port: 80, weight: 3}]}}",
        ),
        (
            "contour-split",
            "
apiVersion: projectcontour.io/v1
kind: HTTPProxy
metadata: {name: podinfo, namespace: test, uid: users}
spec:
  virtualhost: {fqdn: app.example.com}
  routes: [{conditions: [{prefix: /api}], loadBalancerPolicy: {strategy: Cookie}, services: [{name: podinfo, port: 80}]}]",
        ),
    ];
    for (case, users) in routes {
        let mut story = Story::of(case);
        let users = yaml(users);
        story.cluster.add(users.clone());
        assert_eq!(story.observed().split, None, "{case}");
        story.converge(Split::canary(30));
        let route = story.route();
        assert_eq!(story.observed().split, Some(Split::canary(30)), "{case}");
        assert!(route["metadata"]["ownerReferences"].is_null(), "{case}");
        let kept: Value =
            serde_json::from_str(story.annotation(ORIGINAL_ANNOTATION).as_str().unwrap()).unwrap();
        assert_eq!(kept["spec"], users["spec"], "{case}");
        let text = route["spec"].to_string();
        assert!(
            text.contains("h2c") || text.contains("app.example.com") && text.contains("Cookie"),
            "what the user wrote for the apex holds for both sides: {text}"
        );
        let back = story
            .router
            .finalize(&story.canary, &|name| story.cluster.read(name))
            .unwrap();
        assert_eq!(back.len(), 1, "{case}");
        story.cluster.carry_out(&back[0]);
        assert_eq!(story.route()["spec"], users["spec"], "{case}");
    }
}

#[test]
fn given_a_route_of_flagger_in_mid_run_then_its_split_is_read_and_its_object_continued() {
    let mut story = Story::of("contour-ab-headers");
    story.cluster.add(yaml(
        "
apiVersion: projectcontour.io/v1
kind: HTTPProxy
metadata:
  name: podinfo
  namespace: test
  uid: route-uid
  ownerReferences: [{apiVersion: flagger.app/v1beta1, kind: Canary, name: podinfo, uid: canary-uid, controller: true}]
spec:
  routes:
  - conditions: [{prefix: /shop}, {header: {name: x-canary, exact: insider}}]
    services: [{name: podinfo-primary, port: 80, weight: 0}, {name: podinfo-canary, port: 80, weight: 100}]
  - conditions: [{prefix: /shop}]
    services: [{name: podinfo-primary, port: 80, weight: 100}, {name: podinfo-canary, port: 80}]
status: {conditions: [{type: Valid, status: 'True'}]}",
    ));
    assert_eq!(story.observed().split, Some(Split::CANARY));
    assert_eq!(story.observed().applied, Applied::Yes);
    story.converge(Split::CANARY);
    assert_eq!(story.annotation(ORIGINAL_ANNOTATION), Value::Null);
    assert_eq!(story.route()["spec"]["routes"].as_array().unwrap().len(), 3);
}

#[test]
fn an_object_of_somebody_else_is_left_alone_and_named() {
    for case in SPLITS {
        let mut story = Story::of(case);
        story.converge(Split::PRIMARY);
        let target = story.target();
        story.cluster.edit(&target, |route| {
            route["metadata"]["ownerReferences"] =
                json!([{"kind": "Canary", "name": "other", "uid": "other-uid", "controller": true}]);
        });
        let error = story.desired(Split::canary(10)).unwrap_err();
        assert!(matches!(error, RouteError::Unfit(..)), "{case}: {error}");
        assert!(
            error.to_string().contains("Canary other"),
            "{case}: {error}"
        );
        let removal = story
            .router
            .finalize(&story.canary, &|name| story.cluster.read(name))
            .unwrap();
        assert_eq!(removal, [], "{case}");
    }
    for case in COMPANIONS {
        let mut story = Story::of(case);
        story.converge(Split::PRIMARY);
        let target = story.target();
        story.cluster.edit(&target, |route| {
            route["metadata"]["ownerReferences"] = Value::Null;
        });
        let error = story.desired(Split::PRIMARY).unwrap_err().to_string();
        assert!(error.contains("belongs to no canary"), "{case}: {error}");
    }
}

// ---- companions of the user's objects

#[test]
fn given_no_object_of_the_user_or_none_that_leads_to_the_apex_then_the_canary_says_so() {
    for case in COMPANIONS {
        let mut story = Story::of(case);
        let source = story.source();
        assert_eq!(story.unfit(), [], "{case}");
        let mut other = story.clone();
        story.cluster.objects.remove(&source);
        let missing = RouteError::Missing(Box::new(source.clone()));
        assert_eq!(
            story.desired(Split::PRIMARY),
            Err(missing.clone()),
            "{case}"
        );
        assert_eq!(story.unfit(), [missing], "{case}");
        other.cluster.edit(&source, |object| {
            let text = object["spec"]
                .to_string()
                .replace(r#""podinfo""#, r#""elsewhere""#);
            object["spec"] = serde_json::from_str(&text).unwrap();
        });
        let error = other.desired(Split::PRIMARY).unwrap_err().to_string();
        assert!(
            error.contains("leads to Service podinfo"),
            "{case}: {error}"
        );
        assert_eq!(other.unfit()[0].to_string(), error, "{case}");
        let nameless = Story::of(case).with(|spec| {
            spec.ingress_ref = None;
            spec.route_ref = None;
        });
        let refusals = nameless.router.refusals(&nameless.canary);
        assert_eq!(refusals.len(), 1, "{case}");
        assert_eq!(refusals[0].severity, Severity::Error);
        assert!(refusals[0].field.ends_with("Ref"), "{case}");
        assert!(nameless.desired(Split::PRIMARY).is_err());
    }
}

/// What may become of the user's object in mid-run, so that nothing can be made of it.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Deleted,
    Unreadable,
    LeadsElsewhere,
}

impl Story {
    fn befalls(&mut self, fate: Fate) {
        let source = self.source();
        match fate {
            Fate::Deleted => drop(self.cluster.objects.remove(&source)),
            Fate::Unreadable => self.cluster.unreadable = Some(source),
            Fate::LeadsElsewhere => self.cluster.edit(&source, |object| {
                let text = object["spec"].to_string();
                let text = text.replace(r#""podinfo""#, r#""elsewhere""#);
                object["spec"] = serde_json::from_str(&text).unwrap();
            }),
        }
    }

    /// Writes once, and then has nothing more to write, which is told.
    fn go_back(&mut self, split: Split) {
        let writes = self.desired(split).unwrap();
        let [write] = writes.as_slice() else {
            panic!("{writes:?}");
        };
        self.cluster.carry_out(write);
        assert_eq!(self.observed().split, Some(split));
        assert!(self.desired(split).is_err());
    }
}

#[test]
fn given_the_users_object_gone_in_mid_run_then_only_the_way_back_is_open_until_it_returns() {
    for case in COMPANIONS {
        for fate in [Fate::Deleted, Fate::Unreadable, Fate::LeadsElsewhere] {
            let mut story = Story::of(case);
            let expected = |split| {
                let mut story = Story::of(case);
                story.converge(split);
                (story.route()["spec"].clone(), story.steering())
            };
            story.converge(Split::canary(30));
            let before = story.cluster.clone();
            story.befalls(fate);
            assert_eq!(story.observed().split, Some(Split::canary(30)), "{case}");
            for raise in [30, 31, 100] {
                let error = story.desired(Split::canary(raise)).unwrap_err();
                let text = error.to_string();
                assert!(text.contains(&story.source().name), "{case}: {text}");
            }
            story.go_back(Split::canary(10));
            assert!(story.desired(Split::canary(30)).is_err(), "{case}");
            story.go_back(Split::PRIMARY);
            let now = (story.route()["spec"].clone(), story.steering());
            assert_eq!(now, expected(Split::PRIMARY), "{case} {fate:?}");
            // The object is back, and all goes on.
            let source = story.source();
            story.cluster.unreadable = None;
            story.cluster.add(before.objects[&source].value().clone());
            story.converge(Split::PRIMARY);
            story.converge(Split::canary(40));
            let now = (story.route()["spec"].clone(), story.steering());
            assert_eq!(now, expected(Split::canary(40)), "{case} {fate:?}");
        }
    }
}

#[test]
fn given_a_companion_changed_by_a_hand_and_no_object_of_the_user_then_nobody_is_led_to_the_canary()
{
    let edits: [(&str, Edit); 4] = [
        ("nginx-split", |route| {
            let annotations = &mut route["metadata"]["annotations"];
            annotations["nginx.ingress.kubernetes.io/canary-by-header"] = json!("x-test");
        }),
        ("skipper-split", |route| {
            let annotations = &mut route["metadata"]["annotations"];
            annotations["zalando.org/backend-weights"] = json!("{}");
            annotations["zalando.org/skipper-predicate"] = json!("Weight(7)");
        }),
        ("apisix-split", |route| {
            route["spec"]["http"][0]["backends"][1]["serviceName"] = json!("elsewhere");
        }),
        ("apisix-split", |route| {
            route["spec"]["http"] = json!([]);
        }),
    ];
    for (case, edit) in edits {
        let mut story = Story::of(case);
        story.converge(Split::canary(30));
        let target = story.target();
        story.cluster.edit(&target, edit);
        story.befalls(Fate::Deleted);
        assert_eq!(story.observed().split, None, "{case}");
        assert!(story.desired(Split::canary(10)).is_err(), "{case}");
        story.go_back(Split::PRIMARY);
        assert_eq!(story.unfit().len(), usize::from(case == "apisix-split"));
    }
}

#[test]
fn given_an_ab_test_and_no_ingress_then_its_conditions_are_taken_away() {
    let mut story = Story::of("nginx-ab-header-and-cookie");
    story.converge(Split::CANARY);
    story.befalls(Fate::Deleted);
    story.go_back(Split::PRIMARY);
    let steering = story.steering();
    assert_eq!(
        steering,
        json!({
            "nginx.ingress.kubernetes.io/canary": "true",
            "nginx.ingress.kubernetes.io/canary-weight": "0",
        })
    );
}

/// Whether ingress-nginx leads a request to a canary Ingress, as its balancer reads the annotations: the header first, then the cookie, then
/// the weight, which is 0 or 100 here.
fn is_led(annotations: &Value, headers: &BTreeMap<&str, &str>) -> bool {
    let says = |name: &str| annotations[format!("nginx.ingress.kubernetes.io/{name}")].as_str();
    let header = says("canary-by-header").and_then(|name| headers.get(name));
    if let Some(value) = header {
        let matched = match (
            says("canary-by-header-value"),
            says("canary-by-header-pattern"),
        ) {
            (Some(wanted), _) => *value == wanted,
            (None, Some(pattern)) => regex::Regex::new(pattern).unwrap().is_match(value),
            (None, None) => *value == "always",
        };
        if matched {
            return true;
        }
    }
    let cookie = says("canary-by-cookie").and_then(|name| {
        let mut cookies = headers.get("cookie")?.split("; ");
        cookies.find_map(|cookie| cookie.strip_prefix(name)?.strip_prefix('='))
    });
    cookie == Some("always") || says("canary-weight") == Some("100")
}

#[test]
fn an_ab_test_behind_nginx_leads_those_who_meet_its_condition_to_the_canary_and_nobody_else() {
    type Values = &'static [&'static str];
    let table: [(&str, Values, Values); 6] = [
        ("exact: insider", &["insider"], &["insiders", "always"]),
        (
            "regex: '^shop-(window|floor)$'",
            &["shop-window", "shop-floor"],
            &["my-shop-floor", "shop-floor-2", "always"],
        ),
        // A pattern of the user's own is looked for anywhere.
        ("regex: 'beta|rc'", &["beta", "1.2-rc3"], &["1.2", "always"]),
        ("prefix: '2.'", &["2.", "2.0"], &["2-0", "12.0", "always"]),
        (
            "suffix: '+qa'",
            &["1+qa", "+qa"],
            &["1+qa2", "1qa", "always"],
        ),
        ("exact: always", &["always"], &["never"]),
    ];
    for (condition, inside, outside) in table {
        let matches = format!(
            "[{{headers: {{x-who: {{{condition}}}}}}}, {{headers: {{cookie: {{exact: side}}}}}}]"
        );
        let mut story = Story::of("nginx-split").with(|spec| {
            spec.analysis.matches = serde_json::from_value(yaml(&matches)).unwrap();
            spec.analysis.iterations = Some(10);
        });
        assert_eq!(story.router.refusals(&story.canary), [], "{condition}");
        let header = |value| BTreeMap::from([("x-who", value)]);
        let cookie = |value| BTreeMap::from([("cookie", value), ("x-who", "somebody")]);
        for split in [Split::CANARY, Split::PRIMARY] {
            story.converge(split);
            let annotations = story.route()["metadata"]["annotations"].clone();
            let led = |headers: &BTreeMap<&str, &str>| is_led(&annotations, headers);
            let testing = split == Split::CANARY;
            for value in inside {
                assert_eq!(led(&header(*value)), testing, "{condition}: {value}");
            }
            for value in outside {
                assert!(!led(&header(*value)), "{condition}: {value}");
            }
            assert_eq!(led(&cookie("a=b; side=always")), testing, "{condition}");
            assert!(!led(&cookie("side=no")), "{condition}");
            assert!(!led(&BTreeMap::new()), "{condition}");
        }
    }
}

#[test]
fn a_predicate_of_the_user_outlives_their_ingress() {
    let mut story = Story::of("skipper-split");
    let (source, predicate) = (story.source(), "zalando.org/skipper-predicate");
    story.cluster.edit(&source, |object| {
        object["metadata"]["annotations"][predicate] = json!("Header(\"a\", \"b\")");
    });
    story.converge(Split::canary(30));
    story.befalls(Fate::Deleted);
    story.go_back(Split::PRIMARY);
    assert_eq!(
        story.annotation(predicate),
        "False() && Header(\"a\", \"b\")"
    );
    story.cluster.objects.remove(&story.target());
    assert_eq!(story.observed().split, Some(Split::PRIMARY));
}

#[test]
fn given_a_change_of_the_users_object_in_mid_run_then_the_companion_follows_with_the_split_of_the_run()
 {
    for case in COMPANIONS {
        let mut story = Story::of(case);
        let split = Split::canary(20);
        story.converge(split);
        let source = story.router.objects(&story.canary)[0].clone();
        story.cluster.edit(&source, |object| {
            let text = object["spec"]
                .to_string()
                .replace("app.example.com", "new.example.com");
            object["spec"] = serde_json::from_str(&text).unwrap();
            object["metadata"]["annotations"] = json!({"example.com/rate": "5"});
            object["metadata"]["labels"] = json!({"team": "b"});
        });
        assert_eq!(story.converge(split), 1, "{case}");
        let route = story.route();
        assert!(
            route["spec"].to_string().contains("new.example.com"),
            "{case}"
        );
        assert_eq!(
            route["metadata"]["annotations"]["example.com/rate"], "5",
            "{case}"
        );
        assert_eq!(route["metadata"]["labels"], json!({"team": "b"}), "{case}");
        let gone = "nginx.ingress.kubernetes.io/proxy-read-timeout";
        assert_eq!(story.annotation(gone), Value::Null, "{case}");
        assert_eq!(story.observed().split, Some(split), "{case}");
    }
}

#[test]
fn given_steering_annotations_of_another_hand_then_they_are_taken_away() {
    let mut story = Story::of("nginx-split");
    let split = Split::canary(20);
    story.converge(split);
    let target = story.target();
    story.cluster.edit(&target, |route| {
        let annotations = &mut route["metadata"]["annotations"];
        annotations["nginx.ingress.kubernetes.io/canary-by-header"] = json!("x-test");
        annotations["nginx.ingress.kubernetes.io/canary-weight-total"] = json!("1000");
        annotations["nginx.ingress.kubernetes.io/canaryish"] = json!("kept");
    });
    assert_eq!(story.observed().split, None);
    assert_eq!(story.converge(split), 1);
    assert_eq!(
        story.annotation("nginx.ingress.kubernetes.io/canary-by-header"),
        Value::Null
    );
    assert_eq!(
        story.annotation("nginx.ingress.kubernetes.io/canary-weight-total"),
        Value::Null
    );
    assert_eq!(
        story.annotation("nginx.ingress.kubernetes.io/canaryish"),
        "kept"
    );
    assert_eq!(story.observed().split, Some(split));
}

#[test]
fn given_an_ab_test_that_ends_then_nothing_of_its_conditions_stays() {
    let mut story = Story::of("nginx-ab-header-and-cookie");
    story.converge(Split::CANARY);
    assert_eq!(
        story.annotation("nginx.ingress.kubernetes.io/canary-by-cookie"),
        "canary"
    );
    story.converge(Split::PRIMARY);
    let left: Vec<String> = story.route()["metadata"]["annotations"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|key| key.contains("/canary"))
        .cloned()
        .collect();
    assert_eq!(
        left,
        [
            "nginx.ingress.kubernetes.io/canary",
            "nginx.ingress.kubernetes.io/canary-weight"
        ]
    );
}

#[test]
fn the_companion_goes_before_the_services_when_the_canary_is_deleted() {
    for case in COMPANIONS {
        let mut story = Story::of(case);
        story.converge(Split::canary(20));
        let finalize = |story: &Story| {
            story
                .router
                .finalize(&story.canary, &|name| story.cluster.read(name))
                .unwrap()
        };
        let writes = finalize(&story);
        assert!(
            matches!(writes.as_slice(), [Write::Delete { .. }]),
            "{case}"
        );
        story.cluster.carry_out(&writes[0]);
        assert_eq!(finalize(&story), [], "{case}");
    }
}

// ---- refusals

fn refused(case: &str, service: &str, analysis: &str) -> Vec<(String, Severity)> {
    let story = Story::of(case).with(|spec| {
        if !service.is_empty() {
            spec.service = serde_json::from_value(yaml(service)).unwrap();
        }
        if !analysis.is_empty() {
            spec.analysis = serde_json::from_value(yaml(analysis)).unwrap();
        }
    });
    let refusals = story.router.refusals(&story.canary);
    if refusals.iter().any(|one| one.severity == Severity::Error) {
        assert!(
            story.desired(Split::canary(10)).is_err(),
            "what is refused is not written"
        );
    }
    refusals
        .into_iter()
        .map(|refusal| (refusal.field, refusal.severity))
        .collect()
}

#[test]
fn what_nginx_cannot_ask_for_at_once_is_refused() {
    let table = [
        (
            "[{headers: {a: {exact: x}, b: {exact: z}}}]",
            "spec.analysis.match[0].headers",
        ),
        (
            "[{headers: {a: {exact: x}, cookie: {exact: z}}}]",
            "spec.analysis.match[0].headers",
        ),
        (
            "[{headers: {a: {exact: x}}}, {headers: {b: {exact: z}}}]",
            "spec.analysis.match[1].headers.b",
        ),
        (
            "[{headers: {cookie: {exact: x}}}, {headers: {Cookie: {exact: z}}}]",
            "spec.analysis.match[1].headers.Cookie",
        ),
        (
            "[{queryParams: {a: {exact: x}}}]",
            "spec.analysis.match[0].queryParams.a",
        ),
        (
            "[{sourceLabels: {a: x}}]",
            "spec.analysis.match[0].sourceLabels",
        ),
        ("[{headers: {a: {}}}]", "spec.analysis.match[0].headers.a"),
    ];
    for (matches, field) in table {
        let analysis = format!("{{interval: 1m, iterations: 5, match: {matches}}}");
        let found = refused("nginx-split", "", &analysis);
        assert_eq!(found, [(field.to_owned(), Severity::Error)], "{matches}");
    }
}

#[test]
fn a_cookie_by_expression_is_not_taken_for_one_by_name() {
    let analysis =
        "{interval: 1m, iterations: 5, match: [{headers: {cookie: {regex: 'canary=.*'}}}]}";
    let found = refused("nginx-split", "", analysis);
    assert_eq!(
        found,
        [(
            "spec.analysis.match[0].headers.cookie".to_owned(),
            Severity::Error
        )]
    );
}

#[test]
fn an_ab_test_with_a_router_that_only_knows_weights_is_refused() {
    let analysis = "{interval: 1m, iterations: 5, match: [{headers: {a: {exact: x}}}]}";
    for case in ["traefik-split", "skipper-split", "apisix-split"] {
        let found = refused(case, "", analysis);
        assert_eq!(
            found,
            [("spec.analysis.match".to_owned(), Severity::Error)],
            "{case}"
        );
    }
}

#[test]
fn what_an_http_proxy_cannot_say_is_refused_or_told() {
    let table = [
        (
            "{port: 80, match: [{uri: {regex: 'api.*'}}]}",
            "spec.service.match[0].uri",
            Severity::Error,
        ),
        (
            "{port: 80, match: [{uri: {prefix: /a}, headers: {x: {exact: z}}}]}",
            "spec.service.match[0].headers",
            Severity::Warning,
        ),
        (
            "{port: 80, match: [{method: {exact: GET}}]}",
            "spec.service.match[0].method",
            Severity::Warning,
        ),
        (
            "{port: 80, timeout: soon}",
            "spec.service.timeout",
            Severity::Error,
        ),
        (
            "{port: 80, retries: {retryOn: '5xx,sometimes'}}",
            "spec.service.retries.retryOn",
            Severity::Error,
        ),
        (
            "{port: 80, retries: {perTryTimeout: soon}}",
            "spec.service.retries.perTryTimeout",
            Severity::Error,
        ),
        (
            "{port: 80, hosts: [app.example.com]}",
            "spec.service.hosts",
            Severity::Warning,
        ),
    ];
    for (service, field, severity) in table {
        let found = refused("contour-split", service, "");
        assert_eq!(found, [(field.to_owned(), severity)], "{service}");
    }
}

// ---- whether the data plane has taken a route over

#[test]
fn contour_is_waited_for_until_it_has_found_this_generation_valid() {
    let table = [
        (Value::Null, "has not looked"),
        (
            json!([{"type": "Valid", "status": "True", "observedGeneration": 0}]),
            "generation 0",
        ),
        (
            json!([{"type": "Valid", "status": "False", "message": "At least one error present",
                    "errors": [{"type": "Orphaned", "reason": "Orphaned", "message": "not part of a chain"}]}]),
            "Orphaned: not part of a chain",
        ),
        (
            json!([{"type": "Valid", "status": "True", "observedGeneration": 1}]),
            "",
        ),
    ];
    for (conditions, expected) in table {
        let mut story = Story::of("contour-split");
        story.converge(Split::PRIMARY);
        let target = story.target();
        story.cluster.edit(&target, |route| {
            route["status"] = json!({"conditions": conditions});
        });
        match story.observed().applied {
            Applied::Yes => assert_eq!(expected, "", "{conditions}"),
            Applied::Pending(why) => {
                assert!(
                    !expected.is_empty() && why.contains(expected),
                    "{conditions}: {why}"
                );
            }
        }
    }
}

#[test]
fn apisix_is_waited_for_only_where_it_says_no() {
    for (conditions, yes) in [
        (json!([]), true),
        (json!([{"type": "Accepted", "status": "True"}]), true),
        (
            json!([{"type": "ResourcesAvailable", "status": "False", "reason": "SyncFailed", "message": "no"}]),
            false,
        ),
        (
            json!([{"type": "Accepted", "status": "False", "observedGeneration": 0}]),
            true,
        ),
    ] {
        let mut story = Story::of("apisix-split");
        story.converge(Split::PRIMARY);
        let target = story.target();
        story.cluster.edit(&target, |route| {
            route["status"] = json!({"conditions": conditions});
        });
        assert_eq!(
            story.observed().applied == Applied::Yes,
            yes,
            "{conditions}"
        );
    }
}

#[test]
fn given_an_unreadable_object_then_nothing_is_written_or_claimed() {
    for case in SPLITS {
        let story = Story::of(case);
        let unknown = |_: &ObjectRef| Reading::Unknown("timeout".into());
        let request = RouteRequest {
            canary: &story.canary,
            settings: &story.settings,
            split: Split::PRIMARY,
            revisions: Revisions::default(),
            cookies: Cookies::default(),
            selector_label: None,
        };
        let desired = story.router.desired(&request, &unknown);
        assert!(matches!(desired, Err(RouteError::Unknown(..))), "{case}");
        let observed = story
            .router
            .observed(&story.canary, &story.settings, &unknown);
        assert!(matches!(observed, Err(RouteError::Unknown(..))), "{case}");
    }
}
