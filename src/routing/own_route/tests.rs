//! Real routes of every kind in `tests/fixtures/own-routes/`: which values a shift changes there, that nothing else changes, and that they
//! come back as they were.
#![allow(clippy::unwrap_used)]

use super::path::Path;
use super::shift::SHIFTED_ANNOTATION;
use super::*;
use crate::object::{Expect, Patch};
use crate::routing::golden_tests::yaml;
use crate::routing::{Cookies, Revisions, Severity, router_of};
use crate::sim::merge::json_patch;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A canary of `web` with these fields of the spec in addition, as flow YAML.
fn canary(more: &str) -> Canary {
    Canary::decode(&yaml(&format!(
        "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {{name: web, namespace: test, uid: canary-uid}}
spec: {{
  provider: 'gatewayapi:v1',
  targetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}},
  service: {{port: 80}},
  analysis: {{interval: 1m, threshold: 5, maxWeight: 50, stepWeight: 10}},
  {more}
}}"
    )))
    .unwrap()
}

fn with_route(api_version: &str, kind: &str) -> Canary {
    canary(&format!(
        "routeRef: {{apiVersion: {api_version}, kind: {kind}, name: shop}}"
    ))
}

fn http_route() -> Canary {
    with_route("gateway.networking.k8s.io/v1", "HTTPRoute")
}

fn fixture(name: &str) -> Object {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/own-routes")
        .join(name);
    Object::new(yaml(&std::fs::read_to_string(path).unwrap()))
}

/// A cluster of routes by name.
#[derive(Clone)]
struct Routes(BTreeMap<String, Object>);

impl Routes {
    fn of(objects: impl IntoIterator<Item = Object>) -> Self {
        Self(
            objects
                .into_iter()
                .map(|object| (object.name().to_owned(), object))
                .collect(),
        )
    }

    fn lookup(&self) -> impl Fn(&ObjectRef) -> Reading + '_ {
        |name| match self.0.get(&name.name) {
            Some(object) => Reading::Present(Arc::new(object.clone())),
            None => Reading::Absent,
        }
    }

    fn desired(&self, canary: &Canary, percent: i64) -> Result<Vec<Write>, RouteError> {
        let request = RouteRequest {
            canary,
            settings: &RoutingSettings::default(),
            split: Split::canary(percent),
            revisions: Revisions::default(),
            cookies: Cookies::default(),
            selector_label: Some("app"),
        };
        OwnRoute.desired(&request, &self.lookup())
    }

    fn observed(&self, canary: &Canary) -> Observed {
        OwnRoute
            .observed(canary, &RoutingSettings::default(), &self.lookup())
            .unwrap()
    }

    fn share(&self, canary: &Canary) -> Option<u8> {
        Some(self.observed(canary).split?.canary.percent())
    }

    fn carry_out(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Together(writes) => self.carry_out(writes),
                Write::Patch {
                    target,
                    patch: Patch::Json(operations),
                    ..
                } => {
                    let live = self.0.get_mut(&target.name).unwrap();
                    json_patch(live.value_mut(), operations).unwrap();
                }
                other => panic!("only JSON patches may touch a route of the user, found {other:?}"),
            }
        }
    }

    /// Brings the routes to a split, and checks that there is nothing to do then.
    fn shift(&mut self, canary: &Canary, percent: i64) -> &mut Self {
        let writes = self.desired(canary, percent).unwrap();
        self.carry_out(&writes);
        assert_eq!(self.desired(canary, percent).unwrap(), [], "at {percent}");
        assert_eq!(self.share(canary).map(i64::from), Some(percent));
        self
    }

    fn one(&self) -> &Object {
        self.0.values().next().unwrap()
    }

    fn edit(&mut self, pointer: &str, value: Value) -> &mut Self {
        let object = self.0.values_mut().next().unwrap();
        *object.value_mut().pointer_mut(pointer).unwrap() = value;
        self
    }
}

/// One fixture: its kind, and the values at a share of 30 and of 100.
struct Case {
    file: &'static str,
    reference: &'static str,
    values: Vec<(&'static str, Value, Value)>,
}

fn case(
    file: &'static str,
    reference: &'static str,
    values: impl IntoIterator<Item = (&'static str, Value, Value)>,
) -> Case {
    Case {
        file,
        reference,
        values: values.into_iter().collect(),
    }
}

const WEIGHT: &str = "/metadata/annotations/nginx.ingress.kubernetes.io~1canary-weight";

#[allow(clippy::too_many_lines, reason = "one table")]
fn cases() -> Vec<Case> {
    vec![
        case(
            "httproute.yaml",
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, name: shop}",
            [
                ("/spec/rules/1/backendRefs/0/weight", json!(63), json!(0)),
                ("/spec/rules/1/backendRefs/2/weight", json!(27), json!(90)),
                ("/spec/rules/2/backendRefs/0/weight", json!(30), json!(100)),
                ("/spec/rules/2/backendRefs/1/weight", json!(70), json!(0)),
            ],
        ),
        case(
            "grpcroute.yaml",
            "{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, name: shop}",
            [
                ("/spec/rules/0/backendRefs/0/weight", json!(70), json!(0)),
                ("/spec/rules/0/backendRefs/1/weight", json!(30), json!(100)),
            ],
        ),
        case(
            "tlsroute.yaml",
            "{apiVersion: gateway.networking.k8s.io/v1alpha3, kind: TLSRoute, name: shop}",
            [
                ("/spec/rules/0/backendRefs/0/weight", json!(70), json!(0)),
                ("/spec/rules/0/backendRefs/1/weight", json!(30), json!(100)),
            ],
        ),
        case(
            "tcproute.yaml",
            "{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, name: shop}",
            [
                ("/spec/rules/0/backendRefs/0/weight", json!(70), json!(0)),
                ("/spec/rules/0/backendRefs/1/weight", json!(30), json!(100)),
            ],
        ),
        case(
            "virtualservice.yaml",
            "{apiVersion: networking.istio.io/v1, kind: VirtualService, name: shop}",
            [
                ("/spec/http/1/route/0/weight", json!(70), json!(0)),
                ("/spec/http/1/route/1/weight", json!(30), json!(100)),
                ("/spec/tcp/0/route/0/weight", json!(56), json!(0)),
                ("/spec/tcp/0/route/1/weight", json!(24), json!(80)),
                ("/spec/tls/0/route/0/weight", json!(70), json!(0)),
                ("/spec/tls/0/route/1/weight", json!(30), json!(100)),
            ],
        ),
        case(
            "ingressroute.yaml",
            "{apiVersion: traefik.io/v1alpha1, kind: IngressRoute, name: shop}",
            [
                ("/spec/routes/0/services/0/weight", json!(70), json!(0)),
                ("/spec/routes/0/services/1/weight", json!(30), json!(100)),
            ],
        ),
        case(
            "ingressroutetcp.yaml",
            "{apiVersion: traefik.io/v1alpha1, kind: IngressRouteTCP, name: shop}",
            [
                ("/spec/routes/0/services/0/weight", json!(70), json!(0)),
                ("/spec/routes/0/services/1/weight", json!(30), json!(100)),
            ],
        ),
        case(
            "traefikservice.yaml",
            "{apiVersion: traefik.io/v1alpha1, kind: TraefikService, name: shop}",
            [
                ("/spec/weighted/services/0/weight", json!(70), json!(0)),
                ("/spec/weighted/services/1/weight", json!(30), json!(100)),
            ],
        ),
        case(
            "httpproxy.yaml",
            "{apiVersion: projectcontour.io/v1, kind: HTTPProxy, name: shop}",
            [
                ("/spec/routes/0/services/0/weight", json!(70), json!(0)),
                ("/spec/routes/0/services/1/weight", json!(30), json!(100)),
                ("/spec/tcpproxy/services/0/weight", json!(42), json!(0)),
                ("/spec/tcpproxy/services/1/weight", json!(18), json!(60)),
            ],
        ),
        case(
            "ingress.yaml",
            "{apiVersion: networking.k8s.io/v1, kind: Ingress, name: shop}",
            [(WEIGHT, json!("30"), json!("100"))],
        ),
        case(
            "any-kind.yaml",
            "{apiVersion: demo.example/v1, kind: Split, name: shop, weightPaths: {canary: '.spec.sides[1].share',
              primary: '$.spec.sides[0].share', total: 1000}}",
            [
                ("/spec/sides/0/share", json!(700), json!(0)),
                ("/spec/sides/1/share", json!(300), json!(1000)),
            ],
        ),
        case(
            "any-kind.yaml",
            "{apiVersion: demo.example/v1, kind: Split, name: shop, weightPaths: {canary: \".spec.text['web/canary']\"}}",
            [("/spec/text/web~1canary", json!("30"), json!("100"))],
        ),
        case(
            "any-kind.yaml",
            "{apiVersion: demo.example/v1, kind: Split, name: shop, weightPaths: {canary: '{.spec.fraction}', total: 1}}",
            [("/spec/fraction", json!(0.3), json!(1))],
        ),
        case(
            "any-kind.yaml",
            "{apiVersion: demo.example/v1, kind: Split, name: shop, weightPaths: {canary: .spec.untouched.weight}}",
            [("/spec/untouched/weight", json!(30), json!(100))],
        ),
    ]
}

/// The object without the values at these places and without what Serin remembers on it.
fn without(object: &Object, pointers: &[&str]) -> Value {
    let mut value = object.value().clone();
    for pointer in pointers {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let key = key.replace("~1", "/");
        if let Some(parent) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
            parent.remove(&key);
        }
    }
    let annotations = &mut value["metadata"]["annotations"];
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove(SHIFTED_ANNOTATION);
    }
    if annotations
        .as_object()
        .is_none_or(serde_json::Map::is_empty)
    {
        value["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("annotations");
    }
    value
}

#[test]
fn nothing_but_the_weights_of_both_sides_changes_and_they_come_back_as_they_were() {
    for case in cases() {
        let canary = canary(&format!("routeRef: {}", case.reference));
        assert_eq!(OwnRoute.refusals(&canary), [], "{}", case.reference);
        let before = fixture(case.file);
        let pointers: Vec<&str> = case.values.iter().map(|(pointer, ..)| *pointer).collect();
        let mut routes = Routes::of([before.clone()]);
        assert_eq!(routes.share(&canary), Some(0), "{}", case.file);
        assert_eq!(
            routes.desired(&canary, 0).unwrap(),
            [],
            "{}: a route at rest is not touched",
            case.file
        );
        routes.shift(&canary, 30);
        for (pointer, wanted, _) in &case.values {
            assert_eq!(routes.one().at(pointer), wanted, "{} {pointer}", case.file);
        }
        assert_eq!(
            without(routes.one(), &pointers).to_string(),
            without(&before, &pointers).to_string(),
            "{}",
            case.file
        );
        routes.shift(&canary, 100);
        for (pointer, _, wanted) in &case.values {
            assert_eq!(routes.one().at(pointer), wanted, "{} {pointer}", case.file);
        }
        routes.shift(&canary, 0);
        let mut after = routes.one().value().clone();
        if before.at("/metadata/annotations").is_null() {
            // The API server leaves an empty map out.
            assert_eq!(after["metadata"]["annotations"], json!({}));
            after["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("annotations");
        }
        assert_eq!(
            after.to_string(),
            before.value().to_string(),
            "{}",
            case.file
        );
    }
}

#[test]
fn every_kind_of_the_table_has_a_fixture() {
    for shape in &kinds::SHAPES {
        assert!(
            cases().iter().any(|case| case
                .reference
                .contains(&format!("kind: {},", shape.kind.kind))),
            "{}",
            shape.kind.kind
        );
    }
}

#[test]
fn each_value_is_tested_before_it_is_replaced_and_the_object_must_be_the_one_that_was_read() {
    let routes = Routes::of([fixture("grpcroute.yaml")]);
    let canary = with_route("gateway.networking.k8s.io/v1", "GRPCRoute");
    let writes = routes.desired(&canary, 20).unwrap();
    let [
        Write::Patch {
            patch: Patch::Json(operations),
            expect,
            ..
        },
    ] = writes.as_slice()
    else {
        panic!("{writes:?}");
    };
    assert_eq!(*expect, Expect::unchanged(routes.one()));
    assert_eq!(
        Value::Array(operations[..4].to_vec()),
        json!([
            {"op": "test", "path": "/spec/rules/0/backendRefs/0/weight", "value": 100},
            {"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 80},
            {"op": "test", "path": "/spec/rules/0/backendRefs/1/weight", "value": 0},
            {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 20},
        ])
    );
    assert_eq!(
        operations.len(),
        5,
        "and what is remembered: {operations:?}"
    );
}

#[test]
fn every_percent_is_read_back_as_it_was_written() {
    let canary = http_route();
    let mut routes = Routes::of([fixture("httproute.yaml")]);
    for percent in (0..=100).chain((0..100).rev()) {
        routes.shift(&canary, percent);
        let weights = |rule: usize, backends: [usize; 2]| -> i64 {
            let at = |backend| format!("/spec/rules/{rule}/backendRefs/{backend}/weight");
            backends
                .iter()
                .map(|backend| routes.one().number(&at(*backend)).unwrap())
                .sum()
        };
        assert_eq!(
            weights(1, [0, 2]),
            90,
            "the rule's other backend keeps its share"
        );
        assert_eq!(weights(2, [0, 1]), if percent == 0 { 1 } else { 100 });
    }
}

#[test]
fn a_side_that_gets_anything_is_never_rounded_to_nothing() {
    let canary = canary(
        "routeRef: {apiVersion: demo.example/v1, kind: Split, name: shop, weightPaths: {canary: .spec.weight, total: 100000}}",
    );
    let split = Object::new(
        json!({"kind": "Split", "metadata": {"name": "shop", "namespace": "test"}, "spec": {"weight": 0}}),
    );
    let mut routes = Routes::of([split]);
    routes.shift(&canary, 1);
    assert_eq!(routes.one().number("/spec/weight"), Some(1000));
    routes.edit("/spec/weight", json!(2));
    assert_eq!(routes.share(&canary), Some(1), "2 of 100000 is not nothing");
    routes.edit("/spec/weight", json!(99_999));
    assert_eq!(routes.share(&canary), Some(99));
}

#[test]
fn a_route_that_gives_the_canary_something_at_rest_is_put_right() {
    let canary = http_route();
    let mut routes = Routes::of([fixture("httproute.yaml")]);
    // Without a weight the Gateway API's default of 1 stands there: half of the traffic for a side without pods.
    routes.edit("/spec/rules/2/backendRefs/0/weight", json!(1));
    assert_eq!(routes.share(&canary), None, "the rules don't agree");
    routes.shift(&canary, 0);
    let rule = routes.one().at("/spec/rules/2/backendRefs").clone();
    assert_eq!(
        (&rule[0]["weight"], &rule[1]["weight"]),
        (&json!(0), &json!(100))
    );
    assert_eq!(routes.one().annotation(SHIFTED_ANNOTATION), None);
    // Beside other backends both keep what they have together.
    routes.edit("/spec/rules/1/backendRefs/2/weight", json!(30));
    routes.shift(&canary, 0);
    let rule = routes.one().at("/spec/rules/1/backendRefs").clone();
    assert_eq!(rule[0]["weight"], 120);
    assert_eq!(rule[1]["weight"], 10);
    assert_eq!(rule[2]["weight"], 0);
}

#[test]
fn missing_weights_mean_what_the_gateway_makes_of_them() {
    let share = |file: &str, api_version: &str, kind: &str, edits: &[(&str, &str)]| {
        let mut route = fixture(file);
        for (pointer, key) in edits {
            let holder = route.value_mut().pointer_mut(pointer).unwrap();
            holder.as_object_mut().unwrap().remove(*key);
        }
        Routes::of([route]).share(&with_route(api_version, kind))
    };
    let backends = "/spec/rules/0/backendRefs";
    let both = [
        (format!("{backends}/0"), "weight"),
        (format!("{backends}/1"), "weight"),
    ];
    let both: Vec<(&str, &str)> = both.iter().map(|(at, key)| (at.as_str(), *key)).collect();
    let gateway = "gateway.networking.k8s.io/v1";
    assert_eq!(
        share("grpcroute.yaml", gateway, "GRPCRoute", &both),
        Some(50)
    );
    let proxy = [
        ("/spec/routes/0/services/0", "weight"),
        ("/spec", "tcpproxy"),
    ];
    assert_eq!(
        share(
            "httpproxy.yaml",
            "projectcontour.io/v1",
            "HTTPProxy",
            &proxy
        ),
        Some(50),
        "no weights at all are equal shares for Contour"
    );
    assert_eq!(
        share(
            "httpproxy.yaml",
            "projectcontour.io/v1",
            "HTTPProxy",
            &proxy[1..]
        ),
        Some(0),
        "one weight makes the others nothing"
    );
    assert_eq!(
        share(
            "traefikservice.yaml",
            "traefik.io/v1alpha1",
            "TraefikService",
            &[("/spec/weighted/services/1", "weight")]
        ),
        Some(1),
        "1 beside 100"
    );
}

#[test]
fn routes_shift_together_or_not_at_all() {
    let more =
        "routeRefs: [{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, name: shop},
        {apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, name: redis}]";
    let canary = canary(more);
    let mut tcp = fixture("tcproute.yaml");
    tcp.value_mut()["metadata"]["name"] = json!("redis");
    let mut routes = Routes::of([fixture("httproute.yaml"), tcp]);
    let writes = routes.desired(&canary, 10).unwrap();
    let [Write::Together(both)] = writes.as_slice() else {
        panic!("a raise of two routes is one write: {writes:?}");
    };
    assert_eq!(both.len(), 2);
    routes.shift(&canary, 10).shift(&canary, 40);
    // A way back is not held up by a route that can't be written.
    let back = routes.desired(&canary, 0).unwrap();
    assert!(
        back.iter()
            .all(|write| matches!(write, Write::Patch { .. }))
            && back.len() == 2
    );
    // With one of them gone nothing is raised, and the other one still goes back.
    let mut gone = routes.clone();
    gone.0.remove("redis");
    let error = gone.desired(&canary, 60).unwrap_err();
    assert!(
        error.to_string().contains("TCPRoute redis.test not found"),
        "{error}"
    );
    let back = gone.desired(&canary, 0).unwrap();
    assert_eq!(back.len(), 1);
    gone.carry_out(&back);
    let observed = gone.observed(&canary);
    assert_eq!(observed.split, Some(Split::PRIMARY));
    assert!(matches!(observed.applied, Applied::Pending(why) if why.contains("redis")));
    // One route ahead of the other is no split.
    let ahead = routes.desired(&canary, 50).unwrap();
    let Write::Together(both) = &ahead[0] else {
        panic!("{ahead:?}")
    };
    routes.carry_out(&both[..1]);
    assert_eq!(routes.share(&canary), None);
}

#[test]
fn what_a_route_must_name_is_said() {
    let canary = http_route();
    let table: [(&str, Value, &str); 6] = [
        (
            "/spec/rules/2/backendRefs",
            json!([{"name": "web", "port": 80}]),
            "spec.rules[2] names web and not web-canary",
        ),
        (
            "/spec/rules/2/backendRefs",
            json!([{"name": "web"}, {"name": "web-primary"}, {"name": "web-canary"}]),
            "spec.rules[2] names one side more than once",
        ),
        (
            "/spec/rules/2/backendRefs",
            json!([{"name": "web"}, {"name": "web-canary", "weight": 0}, {"name": "old"}]),
            "sum to 1 only",
        ),
        ("/spec/rules", json!([]), "no rule names both sides"),
        (
            "/spec/rules",
            json!([{"backendRefs": [{"name": "web-primary"}]}, {"backendRefs": [{"name": "web-canary"}]}]),
            "no rule names both sides",
        ),
        (
            "/spec/rules",
            json!([{"backendRefs": [{"name": "web", "namespace": "other"}, {"name": "web-canary", "namespace": "other"}]}]),
            "no rule names both sides",
        ),
    ];
    for (pointer, value, why) in table {
        let mut routes = Routes::of([fixture("httproute.yaml")]);
        routes.edit(pointer, value.clone());
        let error = routes.desired(&canary, 10).unwrap_err().to_string();
        assert!(error.contains(why), "{value}: {error}");
        let unfit = OwnRoute.unfit(&canary, &routes.lookup());
        assert_eq!(unfit[0].to_string(), error);
    }
    let whole = Routes::of([fixture("httproute.yaml")]);
    assert_eq!(OwnRoute.unfit(&canary, &whole.lookup()), []);
}

#[test]
fn a_rule_that_breaks_in_mid_run_does_not_keep_the_others_from_going_back() {
    let canary = http_route();
    let mut routes = Routes::of([fixture("httproute.yaml")]);
    routes.shift(&canary, 40);
    routes.edit("/spec/rules/1/backendRefs/2/name", json!("nobody"));
    assert!(routes.desired(&canary, 60).is_err());
    let back = routes.desired(&canary, 0).unwrap();
    routes.carry_out(&back);
    assert_eq!(
        routes.one().at("/spec/rules/2/backendRefs/0/weight"),
        &json!(0)
    );
    assert_eq!(routes.share(&canary), Some(0));
}

#[test]
fn a_rule_that_its_user_gave_to_somebody_else_is_left_alone() {
    let canary = http_route();
    let mut routes = Routes::of([fixture("httproute.yaml")]);
    routes.edit("/spec/rules/1/backendRefs/0/weight", json!(0));
    routes.edit("/spec/rules/1/backendRefs/1/weight", json!(100));
    routes.shift(&canary, 30);
    assert_eq!(
        routes.one().at("/spec/rules/1/backendRefs/2/weight"),
        &json!(0)
    );
}

#[test]
fn rules_may_move_while_they_are_shifted() {
    let canary = http_route();
    let mut routes = Routes::of([fixture("httproute.yaml")]);
    routes.shift(&canary, 30);
    let mut rules = routes.one().at("/spec/rules").clone();
    rules.as_array_mut().unwrap().swap(1, 2);
    routes.edit("/spec/rules", rules);
    assert_eq!(routes.desired(&canary, 30).unwrap(), []);
    routes.shift(&canary, 0);
    assert_eq!(
        routes.one().at("/spec/rules/1/backendRefs/1/weight"),
        &json!(1)
    );
    assert_eq!(
        routes.one().at("/spec/rules/2/backendRefs/0/weight"),
        &json!(90)
    );
}

/// `metadata.managedFields` with these entries: manager, operation, time.
fn hands(entries: &[(&str, &str, &str)]) -> Value {
    entries
        .iter()
        .map(|(manager, operation, time)| {
            json!({"manager": manager, "operation": operation, "time": time})
        })
        .collect()
}

#[test]
fn a_foreign_hand_on_the_weights_is_put_back_and_named() {
    let canary = http_route();
    let mut route = fixture("httproute.yaml");
    route.value_mut()["metadata"]["managedFields"] =
        hands(&[("helm", "Apply", "2026-01-01T00:00:00Z")]);
    let mut routes = Routes::of([route]);
    routes.shift(&canary, 30);
    routes.edit(
        "/metadata/managedFields",
        hands(&[
            ("helm", "Apply", "2026-01-01T00:00:00Z"),
            ("serin", "Update", "2026-01-02T00:00:00Z"),
        ]),
    );
    assert_eq!(routes.observed(&canary).foreign_writer, None);
    // Somebody changes a filter: that is theirs.
    routes.edit(
        "/metadata/managedFields",
        hands(&[
            ("serin", "Update", "2026-01-02T00:00:00Z"),
            ("kubectl-edit", "Update", "2026-01-02T00:00:05Z"),
        ]),
    );
    routes.edit("/spec/hostnames/0", json!("new.example.com"));
    assert_eq!(routes.observed(&canary).foreign_writer, None);
    assert_eq!(routes.desired(&canary, 30).unwrap(), []);
    // And a weight: that is put back, and only that.
    routes.edit("/spec/rules/2/backendRefs/0/weight", json!(90));
    let observed = routes.observed(&canary);
    assert_eq!(observed.split, None);
    assert_eq!(observed.foreign_writer.as_deref(), Some("kubectl-edit"));
    routes.shift(&canary, 30);
    assert_eq!(routes.one().text("/spec/hostnames/0"), "new.example.com");
}

#[test]
fn a_route_that_was_replaced_whole_in_mid_run_names_its_writer() {
    let mut canary = http_route();
    canary.status = Some(
        serde_json::from_value(json!({
            "phase": "Progressing", "canaryWeight": 30, "lastTransitionTime": "2026-01-02T00:00:00Z",
            "run": {"id": "a", "stage": "Analysing", "weights": {"primary": 70, "canary": 30}},
        }))
        .unwrap(),
    );
    let mut route = fixture("httproute.yaml");
    route.value_mut()["metadata"]["managedFields"] =
        hands(&[("kubectl-replace", "Update", "2026-01-01T00:00:00Z")]);
    let mut routes = Routes::of([route]);
    assert_eq!(
        routes.observed(&canary).foreign_writer,
        None,
        "it has not been shifted yet"
    );
    routes.edit(
        "/metadata/managedFields/0/time",
        json!("2026-01-02T00:00:09Z"),
    );
    assert_eq!(
        routes.observed(&canary).foreign_writer.as_deref(),
        Some("kubectl-replace")
    );
}

#[test]
fn at_rest_nothing_on_the_route_is_down_as_serins() {
    let canary = http_route();
    let mut route = fixture("httproute.yaml");
    route.value_mut()["metadata"]["managedFields"] = hands(&[
        ("kubectl", "Update", "2026-01-01T00:00:00Z"),
        ("serin", "Update", "2026-01-02T00:00:00Z"),
    ]);
    let mut routes = Routes::of([route]);
    routes.shift(&canary, 0);
    assert_eq!(
        routes.one().at("/metadata/managedFields"),
        &hands(&[("kubectl", "Update", "2026-01-01T00:00:00Z")])
    );
    // As the only entry it can't be taken out, but it can be emptied.
    routes.edit(
        "/metadata/managedFields",
        hands(&[("serin", "Update", "2026-01-02T00:00:00Z")]),
    );
    routes.shift(&canary, 0);
    assert_eq!(routes.one().at("/metadata/managedFields"), &json!([{}]));
}

#[test]
fn two_canaries_may_share_one_route() {
    let web = http_route();
    let mut blog = http_route();
    blog.metadata.name = "blog".to_owned();
    blog.spec.service.as_mut().unwrap().name = Some("blog".to_owned());
    let mut routes = Routes::of([fixture("httproute.yaml")]);
    routes.edit(
        "/spec/rules/4/backendRefs",
        json!([{"name": "blog", "weight": 1}, {"name": "blog-canary", "weight": 0}]),
    );
    let before = routes.one().clone();
    routes.shift(&web, 30);
    routes.shift(&blog, 50);
    assert_eq!(routes.share(&web), Some(30));
    routes.shift(&web, 0);
    assert_eq!(routes.share(&blog), Some(50));
    routes.shift(&blog, 0);
    assert_eq!(routes.one().value(), before.value());
}

#[test]
fn several_places_of_one_object_are_one_patch() {
    let canary = canary(
        "routeRefs: [
           {apiVersion: demo.example/v1, kind: Split, name: shop, weightPaths: {canary: '.spec.sides[1].share', primary: '.spec.sides[0].share', total: 1000}},
           {apiVersion: demo.example/v1, kind: Split, name: shop, weightPaths: {canary: .spec.fraction, total: 1}}]",
    );
    let mut routes = Routes::of([fixture("any-kind.yaml")]);
    assert_eq!(OwnRoute.objects(&canary).len(), 1);
    assert_eq!(routes.desired(&canary, 25).unwrap().len(), 1);
    routes.shift(&canary, 25);
    assert_eq!(routes.one().at("/spec/fraction"), &json!(0.25));
    assert_eq!(routes.one().at("/spec/sides/1/share"), &json!(250));
}

#[test]
fn a_path_that_leads_nowhere_is_said() {
    let table = [
        (".spec.nothing.weight", "leads to nothing"),
        (".spec.sides[7].share", "leads to nothing"),
        (".spec.sides[0].note", "a number from 0 is expected"),
        (".spec.mode", "a number from 0 is expected"),
        (".spec.untouched", "a number from 0 is expected"),
    ];
    for (path, why) in table {
        let canary = canary(&format!(
            "routeRef: {{apiVersion: demo.example/v1, kind: Split, name: shop, weightPaths: {{canary: '{path}'}}}}"
        ));
        let routes = Routes::of([fixture("any-kind.yaml")]);
        let error = routes.desired(&canary, 10).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains(why), "{error}");
    }
}

#[test]
fn paths_are_read_as_written() {
    let table: [(&str, Result<&str, &str>); 20] = [
        (".spec.weight", Ok("/spec/weight")),
        ("$.spec.split[0].weight", Ok("/spec/split/0/weight")),
        ("spec.weight", Ok("/spec/weight")),
        ("{.spec.weight}", Ok("/spec/weight")),
        ("$['spec'][\"a.b\"][12]", Ok("/spec/a.b/12")),
        (".spec['a/b~c'].d", Ok("/spec/a~1b~0c/d")),
        (
            r".metadata.annotations.example\.com/weight",
            Ok("/metadata/annotations/example.com~1weight"),
        ),
        (
            ".metadata.annotations['example.com/weight']",
            Ok("/metadata/annotations/example.com~1weight"),
        ),
        (".data.weight", Ok("/data/weight")),
        ("", Err("empty")),
        ("$", Err("empty")),
        (".spec..weight", Err("a key is missing")),
        (".spec.", Err("a key is missing")),
        (".spec[*].weight", Err("no wildcards")),
        (".spec[?(@.name=='a')].weight", Err("no wildcards")),
        (".spec[0", Err("not closed")),
        (".spec['a", Err("not closed")),
        (".spec[0]weight", Err("expected . or [")),
        (".status.weight", Err("expected a place below .spec")),
        (".metadata.name", Err("expected a place below .spec")),
    ];
    for (text, wanted) in table {
        match (Path::parse(text), wanted) {
            (Ok(path), Ok(pointer)) => assert_eq!(path.pointer(), pointer, "{text}"),
            (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
}

#[test]
fn an_ingress_needs_the_annotations_of_a_canary() {
    let canary = with_route("networking.k8s.io/v1", "Ingress");
    let spoiled = |change: &dyn Fn(&mut Value)| {
        let mut ingress = fixture("ingress.yaml");
        change(ingress.value_mut());
        Routes::of([ingress])
            .desired(&canary, 10)
            .unwrap_err()
            .to_string()
    };
    let plain = spoiled(&|it| it["metadata"]["annotations"] = json!({}));
    assert!(plain.contains("an Ingress has no weights"), "{plain}");
    let mixed = spoiled(&|it| {
        it["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = json!("web");
    });
    assert!(mixed.contains("it leads to web too"), "{mixed}");
    let total = spoiled(&|it| {
        it["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight-total"] =
            json!("ten");
    });
    assert!(total.contains("a whole number from 100"), "{total}");
    let mut fine = fixture("ingress.yaml");
    let annotations = &mut fine.value_mut()["metadata"]["annotations"];
    annotations["nginx.ingress.kubernetes.io/canary-weight-total"] = json!("1000");
    annotations
        .as_object_mut()
        .unwrap()
        .remove("nginx.ingress.kubernetes.io/canary-weight");
    let mut routes = Routes::of([fine]);
    routes.shift(&canary, 15);
    assert_eq!(routes.one().at(WEIGHT), &json!("150"));
    routes.shift(&canary, 0);
    assert_eq!(routes.one().at(WEIGHT), &Value::Null);
}

#[test]
fn a_route_counts_as_applied_when_every_parent_has_accepted_it() {
    let canary = http_route();
    let mut routes = Routes::of([fixture("httproute.yaml")]);
    let silent = routes.observed(&canary).applied;
    assert!(matches!(silent, Applied::Pending(_)), "{silent:?}");
    let accepted = |parent: &Value, generation: i64| {
        json!({"parentRef": parent, "controllerName": "a/b", "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": generation}]})
    };
    let parents = routes.one().at("/spec/parentRefs").clone();
    let entries = |generation| json!({"parents": [accepted(&parents[0], 3), accepted(&parents[1], generation)]});
    for (generation, applied) in [(2, false), (3, true)] {
        let mut object = routes.one().clone();
        object.value_mut()["status"] = entries(generation);
        routes = Routes::of([object]);
        assert_eq!(routes.observed(&canary).applied == Applied::Yes, applied);
    }
    let mut proxy = fixture("httpproxy.yaml");
    proxy.value_mut()["status"] =
        json!({"currentStatus": "invalid", "description": "no such secret"});
    let canary = with_route("projectcontour.io/v1", "HTTPProxy");
    let applied = Routes::of([proxy]).observed(&canary).applied;
    assert!(matches!(applied, Applied::Pending(why) if why.contains("no such secret")));
}

#[test]
fn who_brings_a_route_is_routed_by_it_whatever_the_provider_says() {
    let named = |more: &str| router_of(&canary(more), "kubernetes").map(Router::provider);
    let own = "routeRef: {apiVersion: networking.istio.io/v1, kind: VirtualService, name: shop}";
    assert_eq!(named(own), Some(OWN_ROUTE));
    assert_eq!(named(""), Some("gatewayapi:v1"));
    let apisix = "routeRef: {apiVersion: apisix.apache.org/v2, kind: ApisixRoute, name: shop}";
    assert_eq!(
        named(apisix),
        Some("gatewayapi:v1"),
        "as in Flagger: ignored"
    );
    for provider in ["apisix", "knative"] {
        let mut canary = canary(own);
        canary.spec.provider = Some(provider.to_owned());
        assert!(
            !claims(&canary, provider),
            "{provider} has its own meaning for it"
        );
    }
}

#[test]
fn what_a_route_of_the_users_own_can_not_do_is_refused() {
    use Severity::{Error, Warning};
    let said = |more: &str| -> Vec<(Severity, String)> {
        let mut canary = canary(
            "routeRef: {apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, name: shop}",
        );
        let more: Value = yaml(more);
        let mut spec = serde_json::to_value(&canary.spec).unwrap();
        for (pointer, value) in more.as_object().unwrap() {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[key] = value.clone();
        }
        canary.spec = serde_json::from_value(spec).unwrap();
        OwnRoute
            .refusals(&canary)
            .into_iter()
            .map(|refusal| (refusal.severity, refusal.field))
            .collect()
    };
    let table = [
        (
            "{/analysis/match: [{headers: {x: {exact: v}}}]}",
            Error,
            "spec.analysis.match",
        ),
        ("{/analysis/mirror: true}", Error, "spec.analysis.mirror"),
        (
            "{/analysis/sessionAffinity: {cookieName: a}}",
            Error,
            "spec.analysis.sessionAffinity",
        ),
        ("{/service/timeout: 5s}", Warning, "spec.service.timeout"),
        (
            "{/service/hosts: [a.example.com]}",
            Warning,
            "spec.service.hosts",
        ),
        (
            "{/service/gatewayRefs: [{name: a}]}",
            Warning,
            "spec.service.gatewayRefs",
        ),
        ("{/routeRef/kind: Split}", Error, "spec.routeRef.kind"),
        ("{/routeRef/name: ''}", Error, "spec.routeRef.name"),
        (
            "{/routeRef/weightPaths: {canary: '.spec[*]'}}",
            Error,
            "spec.routeRef.weightPaths.canary",
        ),
        (
            "{/routeRef/weightPaths: {canary: .spec.a, primary: .spec.a}}",
            Error,
            "spec.routeRef.weightPaths.primary",
        ),
        (
            "{/routeRef/weightPaths: {canary: .spec.a, total: 10}}",
            Error,
            "spec.routeRef.weightPaths.total",
        ),
    ];
    for (more, severity, field) in table {
        assert_eq!(said(more), [(severity, field.to_owned())], "{more}");
    }
}
