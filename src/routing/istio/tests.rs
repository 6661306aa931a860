//! Golden routes in `tests/fixtures/routes-istio/`. Then what is drift and what is not, taking over and giving back, and what is refused.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::object::{APPLIED_ANNOTATION, Expect, Object, Patch, Reading, canonical_json};
use crate::routing::golden_tests::{SETTINGS, canary, request};
use crate::routing::route_object::ORIGINAL_ANNOTATION;
use crate::routing::{Applied, Cookies, Revisions, Severity, Split, Weight, golden_tests, router};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
  analysis: {interval: 1m, threshold: 5, maxWeight: 50, stepWeight: 10}
";

fn with(service: &str, analysis: &str) -> Canary {
    let service = if service.is_empty() {
        String::new()
    } else {
        format!("    {service}\n")
    };
    canary(
        &PLAIN
            .replace("    port: 9898\n", &format!("    port: 9898\n{service}"))
            .replace("{interval: 1m", &format!("{{{analysis}interval: 1m")),
    )
}

/// The objects of a cluster, as far as the router asks for them.
#[derive(Clone, Default)]
struct Cluster(BTreeMap<ObjectRef, Arc<Object>>);

impl Cluster {
    fn holding(object: Object) -> Self {
        let mut cluster = Self::default();
        cluster.put(object);
        cluster
    }

    fn put(&mut self, object: Object) {
        let kind = [kinds::VIRTUAL_SERVICE, kinds::DESTINATION_RULE]
            .into_iter()
            .find(|kind| kind.kind == object.kind())
            .unwrap();
        let name = kind.named(object.namespace(), object.name());
        self.0.insert(name, Arc::new(object));
    }

    fn read(&self, name: &ObjectRef) -> Reading {
        match self.0.get(name) {
            Some(object) => Reading::Present(Arc::clone(object)),
            None => Reading::Absent,
        }
    }

    fn desired(&self, request: &RouteRequest<'_>) -> Result<Vec<Write>, RouteError> {
        Istio.desired(request, &|name| self.read(name))
    }

    fn split(&self, canary: &Canary) -> Option<Split> {
        let observed = Istio
            .observed(canary, &SETTINGS, &|name| self.read(name))
            .unwrap();
        observed.split
    }

    /// Carries out what is desired; then nothing more is.
    fn reconcile(&mut self, request: &RouteRequest<'_>) -> Vec<Write> {
        let writes = self.desired(request).unwrap();
        for write in &writes {
            self.carry_out(write);
        }
        assert_eq!(self.desired(request).unwrap(), []);
        writes
    }

    fn finalize(&mut self, canary: &Canary) -> usize {
        let writes = Istio.finalize(canary, &|name| self.read(name)).unwrap();
        for write in &writes {
            self.carry_out(write);
        }
        writes.len()
    }

    fn carry_out(&mut self, write: &Write) {
        let name = write.target();
        let mut live = self
            .0
            .get(&name)
            .map_or(json!({}), |live| live.value().clone());
        match write {
            Write::Apply { object, .. } => merge(&mut live, object.value()),
            Write::Patch {
                patch: Patch::Json(operations),
                ..
            } => operations.iter().for_each(|one| patch(&mut live, one)),
            other => panic!("{other:?}"),
        }
        live["metadata"]["uid"] = json!("live-uid");
        live["metadata"]["resourceVersion"] = json!("7");
        self.put(Object::new(live));
    }

    fn route(&self) -> &Object {
        &self.0[&kinds::VIRTUAL_SERVICE.named("test", "podinfo")]
    }

    /// Somebody edits the `VirtualService`.
    fn edit(&mut self, change: impl FnOnce(&mut Value)) -> &mut Self {
        let mut route = self.route().clone();
        change(route.value_mut());
        self.put(route);
        self
    }
}

/// An apply, without what it gives up: maps are merged, all else is replaced.
fn merge(live: &mut Value, wanted: &Value) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            for (key, value) in wanted {
                merge(live.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (live, wanted) => *live = wanted.clone(),
    }
}

/// A JSON patch operation, as far as it is used here.
fn patch(value: &mut Value, operation: &Value) {
    let path = operation["path"].as_str().unwrap();
    let (parent, key) = path.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/").replace("~0", "~");
    let parent = value.pointer_mut(parent).unwrap();
    match operation["op"].as_str().unwrap() {
        "replace" => parent[&key] = operation["value"].clone(),
        "remove" => {
            parent.as_object_mut().unwrap().remove(&key).unwrap();
        }
        op => panic!("{op}"),
    }
}

/// The cluster of a canary with this split.
fn routed(canary: &Canary, split: Split) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.reconcile(&request(canary, split));
    cluster
}

#[test]
fn golden_routes() {
    let mut wrong = Vec::new();
    for case in golden_tests::cases("routes-istio", 18) {
        assert_eq!(Istio.refusals(&case.canary), [], "{}", case.name);
        let mut cluster = Cluster::default();
        let writes = cluster.reconcile(&case.request(&SETTINGS));
        wrong.extend(case.difference("routes.yaml", &writes));
        let split = cluster.split(&case.canary);
        assert_eq!(split, Some(case.split()), "{}", case.name);
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

#[test]
fn given_weights_edited_by_hand_then_one_write_guarded_by_the_version_puts_the_runs_split_back() {
    let canary = canary(PLAIN);
    let request = request(&canary, Split::canary(30));
    let mut cluster = routed(&canary, request.split);
    cluster.edit(|route| route["spec"]["http"][0]["route"][1]["weight"] = json!(90));
    let writes = cluster.desired(&request).unwrap();
    let [Write::Apply { object, expect, .. }] = writes.as_slice() else {
        panic!("{writes:?}");
    };
    assert_eq!(object.number("/spec/http/0/route/1/weight"), Some(30));
    let expected = Expect::Version {
        uid: "live-uid".into(),
        resource_version: "7".into(),
    };
    assert_eq!(*expect, expected);
    cluster.reconcile(&request);
    assert_eq!(cluster.split(&canary), Some(Split::canary(30)));
}

/// What somebody edits, and how.
type Edit = (&'static str, fn(&mut Value));

#[test]
fn whatever_leads_requests_elsewhere_is_drift_and_put_back_with_the_runs_split() {
    let canary = with(
        "retries: {attempts: 1}",
        "sessionAffinity: {cookieName: side}, ",
    );
    let mut request = request(&canary, Split::canary(30));
    request.cookies.canary = Some("side=one".into());
    let mut cluster = Cluster::default();
    cluster.reconcile(&request);
    let before = cluster.route().clone();
    let edits: [Edit; 11] = [
        ("weights", |spec| {
            spec["http"][1]["route"][0]["weight"] = json!(0);
        }),
        ("a rule of its own in front", |spec| {
            let rules = spec["http"].as_array_mut().unwrap();
            rules.insert(
                0,
                json!({"route": [{"destination": {"host": "elsewhere"}}]}),
            );
        }),
        ("a sticky rule removed", |spec| {
            spec["http"].as_array_mut().unwrap().remove(0);
        }),
        ("a match", |spec| {
            spec["http"][1]["match"] = json!([{"uri": {"prefix": "/x"}}]);
        }),
        ("a subset", |spec| {
            spec["http"][1]["route"][0]["destination"]["subset"] = json!("v1");
        }),
        ("a redirect", |spec| {
            spec["http"][1]["redirect"] = json!({"uri": "/"});
        }),
        ("a direct response", |spec| {
            spec["http"][1]["directResponse"] = json!({"status": 503});
        }),
        ("a mirror", |spec| {
            spec["http"][1]["mirror"] = json!({"host": "elsewhere"});
        }),
        ("mirrors", |spec| {
            spec["http"][1]["mirrors"] = json!([{"destination": {"host": "elsewhere"}}]);
        }),
        ("hosts", |spec| spec["hosts"] = json!(["other"])),
        ("gateways", |spec| spec["gateways"] = json!(["other"])),
    ];
    for (what, edit) in edits {
        cluster.edit(|route| edit(&mut route["spec"]));
        let writes = cluster.reconcile(&request);
        assert_eq!(writes.len(), 1, "{what}");
        assert_eq!(cluster.route().at("/spec"), before.at("/spec"), "{what}");
    }
}

#[test]
fn what_others_write_is_neither_drift_nor_lost_at_the_next_step() {
    let canary = with("retries: {attempts: 1}\n    corsPolicy: {maxAge: 1h}", "");
    let mut cluster = routed(&canary, Split::canary(10));
    let fault =
        json!({"abort": {"httpStatus": 503, "percentage": {"value": 0.1}}, "field-of-1.99": 1});
    cluster.edit(|route| {
        route["metadata"]["annotations"]["external-dns/ttl"] = json!("60");
        route["metadata"]["labels"] = json!({"team": "a"});
        let spec = &mut route["spec"];
        spec["exportTo"] = json!(["."]);
        spec["tls"] =
            json!([{"match": [{"sniHosts": ["a"]}], "route": [{"destination": {"host": "b"}}]}]);
        spec["http"][0]["fault"] = fault.clone();
        spec["http"][0]["name"] = json!("main");
        spec["http"][0]["retries"]["backoff"] = json!("1s");
        spec["http"][0]["corsPolicy"]["unmatchedPreflights"] = json!("IGNORE");
    });
    assert_eq!(
        cluster
            .desired(&request(&canary, Split::canary(10)))
            .unwrap(),
        []
    );
    let mut sticky = canary.clone();
    sticky.spec.analysis.session_affinity =
        Some(serde_json::from_value(json!({"cookieName": "side"})).unwrap());
    let mut next = request(&sticky, Split::canary(20));
    next.cookies.canary = Some("side=one".into());
    cluster.reconcile(&next);
    assert_eq!(cluster.split(&sticky), Some(Split::canary(20)));
    let route = cluster.route();
    assert_eq!(route.annotation("external-dns/ttl"), Some("60"));
    assert_eq!(route.labels()["team"], "a");
    assert_eq!(route.at("/spec/exportTo"), &json!(["."]));
    assert_eq!(route.text("/spec/tls/0/match/0/sniHosts/0"), "a");
    // The rule that pins the cookie's bearers is new, and a copy in this too.
    for rule in [0, 1] {
        let at = |pointer: &str| route.at(&format!("/spec/http/{rule}/{pointer}"));
        assert_eq!(at("fault"), &fault);
        assert_eq!(at("name"), "main");
        assert_eq!(at("retries"), &json!({"attempts": 1, "backoff": "1s"}));
        assert_eq!(at("corsPolicy/unmatchedPreflights"), "IGNORE");
    }
    cluster.reconcile(&request(&canary, Split::PRIMARY));
    assert_eq!(
        cluster.route().at("/spec/http").as_array().unwrap().len(),
        1
    );
    assert_eq!(cluster.route().at("/spec/http/0/fault"), &fault);
    cluster.edit(|route| {
        route["spec"]["http"][0]
            .as_object_mut()
            .unwrap()
            .remove("fault");
    });
    let idle = request(&canary, Split::PRIMARY);
    assert_eq!(cluster.desired(&idle).unwrap(), []);
}

#[test]
fn a_traffic_policy_is_put_back_and_what_others_add_to_a_destination_rule_stays() {
    let canary = with("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}", "");
    let mut cluster = routed(&canary, Split::PRIMARY);
    for name in ["podinfo-primary", "podinfo-canary"] {
        let name = kinds::DESTINATION_RULE.named("test", name);
        let mut rule = (*cluster.0[&name]).clone();
        rule.value_mut()["spec"]["trafficPolicy"]["tls"]["mode"] = json!("DISABLE");
        rule.value_mut()["spec"]["subsets"] = json!([{"name": "all"}]);
        cluster.put(rule);
        let writes = cluster.reconcile(&request(&canary, Split::PRIMARY));
        assert_eq!(writes.len(), 1);
        let rule = &cluster.0[&name];
        assert_eq!(rule.text("/spec/trafficPolicy/tls/mode"), "ISTIO_MUTUAL");
        assert_eq!(rule.text("/spec/subsets/0/name"), "all");
    }
}

#[test]
fn given_a_route_that_was_deleted_then_it_is_made_again_with_the_runs_split() {
    let canary = canary(PLAIN);
    let mut cluster = routed(&canary, Split::canary(30));
    cluster
        .0
        .remove(&kinds::VIRTUAL_SERVICE.named("test", "podinfo"));
    let observed = Istio
        .observed(&canary, &SETTINGS, &|name| cluster.read(name))
        .unwrap();
    assert_eq!(observed.split, None);
    assert!(matches!(observed.applied, Applied::Pending(_)));
    let writes = cluster.reconcile(&request(&canary, Split::canary(30)));
    assert_eq!(writes.len(), 1);
    assert_eq!(cluster.split(&canary), Some(Split::canary(30)));
}

fn users_route() -> Object {
    Object::new(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "podinfo", "namespace": "test", "uid": "live-uid", "resourceVersion": "7",
            "annotations": {"kustomize.toolkit.fluxcd.io/reconcile": "enabled", "mine": "yes"}},
        "spec": {"hosts": ["podinfo.example.com"], "gateways": ["infra/public"], "exportTo": ["*"],
            "http": [{"match": [{"uri": {"prefix": "/old"}}], "redirect": {"uri": "/new"}},
                {"route": [{"destination": {"host": "podinfo"}}]}]},
    }))
}

#[test]
fn given_a_users_route_when_taken_over_and_finalized_then_it_is_as_before() {
    let canary = canary(PLAIN);
    let mut cluster = Cluster::holding(users_route());
    cluster.reconcile(&request(&canary, Split::PRIMARY));
    let taken = cluster.route();
    assert_eq!(
        taken.controller_owner(),
        None,
        "what the user made must not be collected with the canary"
    );
    assert_eq!(taken.at("/spec/hosts"), &json!(["podinfo"]));
    assert_eq!(taken.at("/spec/exportTo"), &json!(["*"]));
    assert_eq!(cluster.split(&canary), Some(Split::PRIMARY));
    assert_eq!(cluster.finalize(&canary), 1);
    let before = users_route();
    assert_eq!(cluster.route().at("/spec"), before.at("/spec"));
    assert_eq!(cluster.route().annotations(), before.annotations());
}

#[test]
fn given_routes_made_for_the_canary_when_finalized_then_the_owner_reference_does_it() {
    let canary = canary(PLAIN);
    let mut cluster = routed(&canary, Split::PRIMARY);
    for object in cluster.0.values() {
        assert_eq!(object.controller_owner().unwrap().uid, "canary-uid");
    }
    assert_eq!(cluster.finalize(&canary), 0);
    assert_eq!(Cluster::default().finalize(&canary), 0);
}

#[test]
fn given_a_users_destination_rule_when_taken_over_and_finalized_then_it_is_as_before() {
    let canary = with("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}", "");
    let rule = Object::new(json!({
        "apiVersion": "networking.istio.io/v1beta1", "kind": "DestinationRule",
        "metadata": {"name": "podinfo-primary", "namespace": "test", "uid": "live-uid", "resourceVersion": "7"},
        "spec": {"host": "podinfo-primary.test", "trafficPolicy": {"tls": {"mode": "DISABLE"}}},
    }));
    let mut cluster = Cluster::holding(rule.clone());
    cluster.reconcile(&request(&canary, Split::PRIMARY));
    assert_eq!(cluster.finalize(&canary), 1);
    let name = kinds::DESTINATION_RULE.named("test", "podinfo-primary");
    assert_eq!(cluster.0[&name].at("/spec"), rule.at("/spec"));
}

/// The user's route after Flagger took it over, which leaves it without an owner.
fn taken_over_by_flagger(canary: &Canary) -> Cluster {
    let mut cluster = routed(canary, Split::canary(30));
    cluster.edit(|route| {
        let metadata = &mut route["metadata"];
        metadata.as_object_mut().unwrap().remove("ownerReferences");
        metadata["annotations"] = json!({
            "kustomize.toolkit.fluxcd.io/reconcile": "disabled",
            "helm.toolkit.fluxcd.io/driftDetection": "disabled",
        });
    });
    cluster
}

#[test]
fn given_a_users_route_that_flagger_had_taken_over_when_finalized_then_it_is_what_it_was_before_flagger()
 {
    let canary = with("", "sessionAffinity: {cookieName: side}, ");
    let flaggers = routed(&canary, Split::canary(5))
        .route()
        .at("/spec")
        .clone();
    let before = users_route();
    let kubectl = "kubectl.kubernetes.io/last-applied-configuration";
    let flagger = "flagger.kubernetes.io/original-configuration";
    let apex = json!([{"destination": {"host": "podinfo"}}]);
    let spec = before.at("/spec").to_string();
    // What the annotations hold, and whether the user's spec can be known from it.
    let cases = [
        (Some(before.value().to_string()), None, true),
        (None, Some(spec.clone()), true),
        (Some(before.value().to_string()), Some("{}".into()), true),
        // Flagger keeps what it finds at a later edit too: a spec of its own.
        (Some("no JSON".into()), Some(flaggers.to_string()), false),
        (None, None, false),
    ];
    for (applied, kept, known) in cases {
        for written_by_serin in [true, false] {
            let mut cluster = taken_over_by_flagger(&canary);
            cluster.edit(|route| {
                for (annotation, text) in [(kubectl, &applied), (flagger, &kept)] {
                    if let Some(text) = text {
                        route["metadata"]["annotations"][annotation] = json!(text);
                    }
                }
            });
            if written_by_serin {
                cluster.reconcile(&request(&canary, Split::canary(30)));
                assert_eq!(cluster.route().controller_owner(), None);
            }
            assert_eq!(cluster.finalize(&canary), 1);
            let route = cluster.route();
            if known {
                assert_eq!(route.at("/spec"), before.at("/spec"));
            } else {
                assert_eq!(route.at("/spec/http"), &json!([{"route": apex}]));
                assert_eq!(route.at("/spec/hosts"), &json!(["podinfo"]));
            }
            for ours in [flagger, APPLIED_ANNOTATION, ORIGINAL_ANNOTATION] {
                assert_eq!(route.annotation(ours), None, "{ours}");
            }
            assert_eq!(route.annotation(kubectl), applied.as_deref());
        }
    }
}

#[test]
fn a_route_of_which_nobody_knows_what_it_was_leads_to_the_apex_with_everything_else_in_place() {
    let canary = with(
        "timeout: 5s",
        "sessionAffinity: {cookieName: side, primaryCookieName: home}, ",
    );
    let mut request = request(&canary, Split::canary(30));
    request.cookies.canary = Some("side=a".into());
    request.cookies.primary = Some("home=b".into());
    let mut cluster = Cluster::default();
    cluster.reconcile(&request);
    let mut spec = cluster.route().at("/spec").clone();
    assert_eq!(spec["http"].as_array().unwrap().len(), 3);
    spec["http"][2]["mirror"] = json!({"host": "podinfo-canary"});
    spec["http"][2]["route"][0]["destination"]["port"] = json!({"number": 9898});
    spec["tls"] = json!([{"route": [{"destination": {"host": "elsewhere"}}]}]);
    let back = rules::lead_back(&canary, &spec);
    assert_eq!(
        back["http"],
        json!([{"timeout": "5s", "route": [{"destination": {"host": "podinfo", "port": {"number": 9898}}}]}])
    );
    assert_eq!(back["tls"], spec["tls"]);

    let mixed = json!({"tcp": [{"route": [
        {"destination": {"host": "podinfo-primary.test.svc.cluster.local"}, "weight": 60},
        {"destination": {"host": "podinfo-canary"}, "weight": 10},
        {"destination": {"host": "podinfo-primary.other"}, "weight": 30},
    ]}]});
    assert_eq!(
        rules::lead_back(&canary, &mixed)["tcp"][0]["route"],
        json!([
            {"destination": {"host": "podinfo"}, "weight": 70},
            {"destination": {"host": "podinfo-primary.other"}, "weight": 30},
        ])
    );
}

#[test]
fn given_a_route_of_another_canary_then_it_is_left_alone_and_named() {
    let canary = canary(PLAIN);
    let mut cluster = routed(&canary, Split::PRIMARY);
    cluster.edit(|route| {
        route["metadata"]["ownerReferences"] =
            json!([{"kind": "Canary", "name": "other", "uid": "other-uid", "controller": true}]);
    });
    let error = cluster
        .desired(&request(&canary, Split::PRIMARY))
        .unwrap_err();
    assert!(matches!(error, RouteError::Unfit(..)), "{error}");
    assert!(error.to_string().contains("Canary other"), "{error}");
    assert_eq!(cluster.finalize(&canary), 0);
}

#[test]
fn given_an_unreadable_route_then_nothing_is_written_or_claimed() {
    let canary = canary(PLAIN);
    let unknown = |_: &ObjectRef| Reading::Unknown("timeout".into());
    let desired = Istio.desired(&request(&canary, Split::PRIMARY), &unknown);
    assert!(matches!(desired, Err(RouteError::Unknown(..))));
    let observed = Istio.observed(&canary, &SETTINGS, &unknown);
    assert!(matches!(observed, Err(RouteError::Unknown(..))));
    let finalized = Istio.finalize(&canary, &unknown);
    assert!(matches!(finalized, Err(RouteError::Unknown(..))));
}

#[test]
fn weights_are_read_as_istio_takes_them() {
    let canary = canary(PLAIN);
    let primary = "podinfo-primary";
    let cases = [
        (primary, json!(9), json!(1), Some(10)),
        (primary, json!(90), json!(10), Some(10)),
        (primary, json!(999), json!(1), Some(1)),
        (primary, json!(100), Value::Null, Some(0)),
        (primary, Value::Null, json!(100), Some(100)),
        (primary, json!(0), json!(0), None),
        (primary, json!(-1), json!(1), None),
        ("podinfo-primary.test", json!(80), json!(20), Some(20)),
        (
            "podinfo-primary.test.svc.cluster.local",
            json!(80),
            json!(20),
            Some(20),
        ),
        ("podinfo-primary.other", json!(80), json!(20), None),
        ("podinfo-primary-2", json!(80), json!(20), None),
    ];
    for (host, first, second, expected) in cases {
        let mut cluster = routed(&canary, Split::PRIMARY);
        cluster.edit(|route| {
            let route = &mut route["spec"]["http"][0]["route"];
            route[0]["destination"]["host"] = json!(host);
            route[0]["weight"] = first.clone();
            route[1]["weight"] = second.clone();
        });
        assert_eq!(
            cluster.split(&canary),
            expected.map(Split::canary),
            "{host} {first} {second}"
        );
    }
}

/// What Flagger wrote in the middle of a run is read as the split of the run.
#[test]
fn a_sticky_split_that_flagger_wrote_is_read() {
    let canary = with("", "sessionAffinity: {cookieName: side}, ");
    let to = |primary: i64, canary: i64, cookie: Value| {
        let mut route = json!([
            {"destination": {"host": "podinfo-primary"}, "weight": primary},
            {"destination": {"host": "podinfo-canary"}, "weight": canary},
        ]);
        if !cookie.is_null() {
            route[1]["headers"] = json!({"response": {"add": {"Set-Cookie": cookie}}});
        }
        route
    };
    let pinned = json!([{"headers": {"Cookie": {"regex": ".*side.*abc.*"}}}]);
    let cases = [
        (
            json!([{"match": pinned, "route": to(0, 100, Value::Null)},
                {"route": to(80, 20, json!("side=abc; Max-Age=86400"))}]),
            Split::canary(20),
        ),
        (
            json!([{"match": pinned, "route": to(100, 0, Value::Null),
                    "headers": {"response": {"add": {"Set-Cookie": "side=abc; Max-Age=-1"}}}},
                {"route": to(100, 0, Value::Null)}]),
            Split::PRIMARY,
        ),
        // Without a cookie Flagger writes the weighted rule twice.
        (
            json!([{"route": to(100, 0, Value::Null)}, {"route": to(100, 0, Value::Null)}]),
            Split::PRIMARY,
        ),
        (
            json!([{"route": to(100, 0, Value::Null), "mirror": {"host": "podinfo-canary"}}]),
            Split {
                canary: Weight::NONE,
                mirrored: true,
            },
        ),
    ];
    for (http, expected) in cases {
        let mut cluster = routed(&canary, Split::PRIMARY);
        cluster.edit(|route| route["spec"]["http"] = http.clone());
        assert_eq!(cluster.split(&canary), Some(expected), "{http}");
    }
}

/// A header that a service asks for.
const TENANT: (&str, &str) = ("x-tenant", "a");

/// Headers or query parameters of a request.
type Texts = &'static [(&'static str, &'static str)];

/// A request: its headers, its query parameters, and the labels of the pod that sends it.
#[derive(Clone, Copy, Debug, Default)]
struct Sent<'a> {
    headers: &'a [(&'a str, &'a str)],
    query: &'a [(&'a str, &'a str)],
    caller: &'a [(&'a str, &'a str)],
}

/// Carries out the conditions of a rule on a request, as Istio documents them.
fn takes(rule: &Value, sent: Sent<'_>) -> bool {
    let (headers, query, caller): (BTreeMap<_, _>, BTreeMap<_, _>, BTreeMap<_, _>) = (
        sent.headers.iter().copied().collect(),
        sent.query.iter().copied().collect(),
        sent.caller.iter().copied().collect(),
    );

    let meets = |condition: &Value, value: Option<&&str>| -> bool {
        let Some(value) = value else { return false };
        let text = |key: &str| condition[key].as_str();
        let whole = |regex: &str| regex::Regex::new(&format!("^(?:{regex})$")).unwrap();
        text("exact").is_none_or(|exact| exact == *value)
            && text("prefix").is_none_or(|prefix| value.starts_with(prefix))
            && text("regex").is_none_or(|regex| whole(regex).is_match(value))
    };
    let all = |conditions: &Value, values: &BTreeMap<&str, &str>| {
        let mut conditions = conditions.as_object().into_iter().flatten();
        conditions.all(|(name, condition)| {
            let name = name.to_lowercase();
            meets(condition, values.get(name.as_str()))
        })
    };
    let labelled = |labels: &Value| {
        let mut labels = labels.as_object().into_iter().flatten();
        labels.all(|(key, value)| caller.get(key.as_str()).is_some_and(|found| value == found))
    };
    let matches = live::list(rule, "match");
    matches.is_empty()
        || matches.iter().any(|entry| {
            all(&entry["headers"], &headers)
                && all(&entry["queryParams"], &query)
                && labelled(&entry["sourceLabels"])
        })
}

fn side(route: &Object, sent: Sent<'_>) -> Option<String> {
    let rule = live::list(route.at("/spec"), "http")
        .iter()
        .find(|rule| takes(rule, sent))?;
    let route = live::list(rule, "route");
    let chosen = route.iter().find(|entry| entry["weight"] == 100)?;
    Some(chosen["destination"]["host"].as_str()?.to_owned())
}

#[test]
fn an_ab_test_sends_those_who_meet_a_condition_to_the_canary_and_nobody_else() {
    let conditions = "iterations: 3, match: [{headers: {x-user: {exact: insider}}}, {headers: {x-region: {prefix: eu-}}}, \
                      {headers: {user-agent: {regex: '.*Firefox.*'}}}, {headers: {x-build: {suffix: '+beta'}}}, \
                      {queryParams: {preview: {exact: '1'}}}], ";
    let plain = with("", conditions);
    let matched = with(
        "match: [{headers: {x-tenant: {exact: a}}}, {headers: {x-tenant: {exact: b}}}]",
        conditions,
    );
    let requests: [(Texts, Texts, bool); 11] = [
        (&[("x-user", "insider")], &[], true),
        (&[("x-user", "insiders")], &[], false),
        (&[("x-region", "eu-west")], &[], true),
        (&[("x-region", "us-eu-west")], &[], false),
        (&[("user-agent", "Mozilla Firefox 99")], &[], true),
        (&[("user-agent", "curl")], &[], false),
        (&[("x-build", "1.2.3+beta")], &[], true),
        (&[("x-build", "1.2.3-beta")], &[], false),
        (&[], &[("preview", "1")], true),
        (&[], &[("preview", "0")], false),
        (&[], &[], false),
    ];
    for (headers, query, canaries) in requests {
        let expected = Some(if canaries {
            "podinfo-canary"
        } else {
            "podinfo-primary"
        });
        let cluster = routed(&plain, Split::CANARY);
        let found = side(
            cluster.route(),
            Sent {
                headers,
                query,
                caller: &[],
            },
        );
        assert_eq!(found.as_deref(), expected, "{headers:?} {query:?}");
        // Where the service takes only some requests the test's query parameters count too: Flagger loses them.
        let cluster = routed(&matched, Split::CANARY);
        let tenant: Vec<(&str, &str)> = [("x-tenant", "b")]
            .into_iter()
            .chain(headers.iter().copied())
            .collect();
        let found = side(
            cluster.route(),
            Sent {
                headers: &tenant,
                query,
                caller: &[],
            },
        );
        assert_eq!(found.as_deref(), expected, "{tenant:?} {query:?}");
        let cluster = routed(&plain, Split::PRIMARY);
        let found = side(
            cluster.route(),
            Sent {
                headers,
                query,
                caller: &[],
            },
        );
        assert_eq!(
            found.as_deref(),
            Some("podinfo-primary"),
            "idle: {headers:?}"
        );
    }
}

#[test]
fn an_ab_test_by_the_caller_sends_those_pods_to_the_canary_and_no_others() {
    let conditions = "iterations: 3, match: [{sourceLabels: {app: front, tier: web}}, \
                      {headers: {x-user: {exact: insider}}, sourceLabels: {app: desk}}], ";
    let services: [(Canary, Texts); 2] = [
        (with("", conditions), &[]),
        (
            with(
                "match: [{headers: {x-tenant: {exact: a}}, sourceLabels: {app: anybody}}]",
                conditions,
            ),
            &[TENANT],
        ),
    ];
    let insider: Texts = &[("x-user", "insider")];
    let requests: [(Texts, Texts, bool); 8] = [
        (&[("app", "front"), ("tier", "web")], &[], true),
        (
            &[("app", "front"), ("tier", "web"), ("pod", "1")],
            &[],
            true,
        ),
        (&[("app", "front")], &[], false),
        (&[("app", "front"), ("tier", "batch")], insider, false),
        (&[("app", "desk")], insider, true),
        (&[("app", "desk")], &[], false),
        // From outside of the mesh nobody brings labels.
        (&[], insider, false),
        (&[], &[], false),
    ];
    for (canary, more) in &services {
        for split in [Split::CANARY, Split::PRIMARY] {
            let cluster = routed(canary, split);
            for (caller, headers, insider) in requests {
                let headers: Vec<(&str, &str)> = headers.iter().chain(*more).copied().collect();
                let sent = Sent {
                    headers: &headers,
                    caller,
                    ..Sent::default()
                };
                let found = side(cluster.route(), sent);
                let expected = if insider && split == Split::CANARY {
                    Some("podinfo-canary")
                } else if insider || more.is_empty() {
                    Some("podinfo-primary")
                } else {
                    // The service itself takes other callers only.
                    None
                };
                assert_eq!(found.as_deref(), expected, "{split:?} {sent:?}");
            }
        }
    }
}

#[test]
fn bearers_of_a_cookie_stay_on_their_side_among_the_requests_that_the_service_takes() {
    let canary = with(
        "match: [{headers: {x-tenant: {exact: a}}}, {headers: {Cookie: {regex: '.*consent=yes.*'}}}]",
        "sessionAffinity: {cookieName: side.v1, primaryCookieName: home}, ",
    );
    let mut request = request(&canary, Split::canary(30));
    request.cookies.canary = Some("side.v1=abc".into());
    request.cookies.primary = Some("home=xyz".into());
    let mut cluster = Cluster::default();
    cluster.reconcile(&request);
    let canaries = Some("podinfo-canary");
    let primaries = Some("podinfo-primary");
    let cases: [(Texts, Option<&str>); 7] = [
        (&[TENANT, ("cookie", "a=b; side.v1=abc; c=d")], canaries),
        (&[TENANT, ("cookie", "home=xyz")], primaries),
        (&[("cookie", "consent=yes; side.v1=abc")], canaries),
        // A dot is a dot.
        (&[TENANT, ("cookie", "sideXv1=abc")], None),
        (&[TENANT, ("cookie", "side.v1=old")], None),
        // Neither does the cookie let in what the service doesn't take.
        (&[("cookie", "side.v1=abc")], None),
        (&[TENANT], None),
    ];
    for (headers, expected) in cases {
        let found = side(
            cluster.route(),
            Sent {
                headers,
                ..Sent::default()
            },
        );
        assert_eq!(found.as_deref(), expected, "{headers:?}");
    }
}

#[test]
fn given_all_traffic_on_the_canary_then_no_cookie_holds_anybody_on_the_primary() {
    let canary = with(
        "",
        "sessionAffinity: {cookieName: side, primaryCookieName: home}, ",
    );
    for (split, rules) in [(Split::canary(50), 3), (Split::CANARY, 2)] {
        let mut request = request(&canary, split);
        request.cookies.canary = Some("side=new".into());
        request.cookies.primary = Some("home=old".into());
        let mut cluster = Cluster::default();
        cluster.reconcile(&request);
        let found = live::list(cluster.route().at("/spec"), "http").len();
        assert_eq!(found, rules);
    }
}

/// Of the service, of the analysis, what is refused, and a part of the message.
type Case = (
    &'static str,
    &'static str,
    Severity,
    &'static str,
    &'static str,
);
const REFUSED: &[Case] = &[
    (
        "delegation: true\n    hosts: [a]",
        "",
        Severity::Error,
        "spec.service.hosts",
        "a; a delegate has none",
    ),
    (
        "delegation: true\n    gateways: [mesh]",
        "",
        Severity::Error,
        "spec.service.gateways",
        "mesh; a delegate",
    ),
    (
        "hosts: ['*']",
        "",
        Severity::Error,
        "spec.service.hosts",
        "only at a gateway",
    ),
    (
        "backendTimeout: 5s",
        "",
        Severity::Warning,
        "spec.service.backendTimeout",
        "goes on without",
    ),
    (
        "rewrite: {uri: /, type: ReplaceFullPath}",
        "",
        Severity::Warning,
        "spec.service.rewrite.type",
        "ReplaceFullPath",
    ),
    (
        "timeout: soon",
        "",
        Severity::Error,
        "spec.service.timeout",
        "soon",
    ),
    (
        "retries: {perTryTimeout: 1us}",
        "",
        Severity::Error,
        "spec.service.retries.perTryTimeout",
        "at least 1ms",
    ),
    (
        "corsPolicy: {maxAge: 1d}",
        "",
        Severity::Error,
        "spec.service.corsPolicy.maxAge",
        "1d",
    ),
    (
        "",
        "iterations: 1, match: [{}], ",
        Severity::Error,
        "spec.analysis.match[0]",
        "every request would go to the canary",
    ),
    (
        "gateways: [public]",
        "iterations: 1, match: [{sourceLabels: {app: a}}], ",
        Severity::Warning,
        "spec.analysis.match[0].sourceLabels",
        "add mesh",
    ),
    (
        "",
        "iterations: 1, match: [{headers: {x: {exact: a}}}], sessionAffinity: {cookieName: a}, ",
        Severity::Warning,
        "spec.analysis.sessionAffinity",
        "cookies are not used",
    ),
    (
        "headers: {response: {remove: [Set-Cookie]}}",
        "sessionAffinity: {cookieName: a}, ",
        Severity::Warning,
        "spec.service.headers.response",
        "use add",
    ),
    (
        "appProtocol: tcp",
        "iterations: 1, match: [{headers: {x: {exact: a}}}], ",
        Severity::Error,
        "spec.analysis.match",
        "everybody would go to the canary",
    ),
    (
        "appProtocol: tcp",
        "mirror: true, ",
        Severity::Error,
        "spec.analysis.mirror",
        "can't be mirrored",
    ),
    (
        "appProtocol: tcp\n    delegation: true",
        "",
        Severity::Error,
        "spec.service.delegation",
        "includes only routes of requests",
    ),
    (
        "appProtocol: tcp",
        "sessionAffinity: {cookieName: a}, ",
        Severity::Warning,
        "spec.analysis.sessionAffinity",
        "goes on without",
    ),
    (
        "appProtocol: tcp\n    timeout: 5s",
        "",
        Severity::Warning,
        "spec.service.timeout",
        "goes on without",
    ),
    (
        "appProtocol: tcp\n    match: [{port: 1, uri: {prefix: /}}]",
        "",
        Severity::Warning,
        "spec.service.match[0].uri",
        "left out",
    ),
];

#[test]
fn each_refusal_names_the_field_the_value_and_the_remedy() {
    for (service, analysis, severity, field, part) in REFUSED {
        let canary = with(service, analysis);
        let refusals = Istio.refusals(&canary);
        let [refusal] = refusals.as_slice() else {
            panic!("{service} {analysis}: {refusals:?}");
        };
        let found = (refusal.severity, refusal.field.as_str());
        assert_eq!(found, (*severity, *field));
        assert!(refusal.message.contains(part), "{}", refusal.message);
        let writes = Cluster::default().desired(&request(&canary, Split::PRIMARY));
        assert_eq!(writes.is_ok(), *severity == Severity::Warning, "{writes:?}");
    }
}

#[test]
fn the_router_answers_to_its_name_alone() {
    for (name, found) in [("istio", true), ("istio:v1", false), ("linkerd2", false)] {
        let provider = router(name).map(Router::provider);
        assert_eq!(provider == Some("istio"), found, "{name}");
    }
}

prop_compose! {
    fn canaries()(
        port in 1..=65535_i64,
        tcp in any::<bool>(),
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
        let mut service = json!({"port": port});
        if tcp {
            service["appProtocol"] = json!("tcp");
        } else {
            let matches: Vec<Value> = paths.iter().map(|path| json!({"uri": {"prefix": path}})).collect();
            service["match"] = matches.into();
            service["headers"] = json!({"response": {"set": headers}});
            if ab {
                analysis["match"] = json!([{"headers": {"x-canary": {"exact": "yes"}}}]);
            }
            if affinity {
                analysis["sessionAffinity"] = json!({"cookieName": "side", "primaryCookieName": "home"});
            }
        }
        Canary::decode(&json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "podinfo", "namespace": "test", "uid": "canary-uid"},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"},
                "service": service,
                "analysis": analysis,
            },
        })).unwrap()
    }
}

proptest! {
    /// I1: whatever is asked for, the weights of a route sum to 100, and what is written reads back as what was asked for.
    #[test]
    fn every_split_is_written_whole_and_reads_back(
        canary in canaries(), weight in 0..=100_i64, mirrored in any::<bool>(), cookies in any::<[bool; 3]>(),
    ) {
        let cookie = |wanted: bool, text: &str| wanted.then(|| text.to_owned());
        let tcp = canary.spec.service.as_ref().unwrap().app_protocol.is_some();
        let request = RouteRequest {
            canary: &canary,
            settings: &SETTINGS,
            split: Split { canary: Weight::clamped(weight), mirrored: mirrored && !tcp },
            revisions: Revisions::default(),
            cookies: Cookies {
                canary: cookie(cookies[0], "side=abc"),
                primary: cookie(cookies[1], "home=def"),
                previous: cookie(cookies[2], "side=old"),
            },
            selector_label: None,
        };
        let mut cluster = Cluster::default();
        cluster.reconcile(&request);
        for rule in live::list(cluster.route().at("/spec"), if tcp { "tcp" } else { "http" }) {
            let sum: i64 = live::list(rule, "route").iter().map(|entry| entry["weight"].as_i64().unwrap()).sum();
            prop_assert_eq!(sum, 100);
        }
        prop_assert_eq!(cluster.split(&canary), Some(request.split));
    }
}

/// The page for users shows a canary and the objects that come of it: they are what the code says.
#[test]
fn the_example_in_the_documentation_is_true() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/routers/istio.md");
    let page = std::fs::read_to_string(page).unwrap();
    // The first block is a Gateway of the user's.
    let blocks: Vec<&str> = page
        .split("```yaml\n")
        .skip(2)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    let mut example = canary(blocks[0]);
    example.metadata.uid = Some("uid-of-the-canary".into());
    assert_eq!(Istio.refusals(&example), []);
    let cluster = routed(&example, Split::canary(10));
    let rule = kinds::DESTINATION_RULE.named("test", "podinfo-canary");
    let found = [cluster.route(), &cluster.0[&rule]];
    for (shown, found) in blocks[1..].iter().zip(found) {
        let shown: Value = serde_saphyr::from_str(shown).unwrap();
        assert_eq!(shown["kind"], found.kind());
        assert_eq!(
            canonical_json(&shown["spec"]),
            canonical_json(found.at("/spec"))
        );
    }
    assert_eq!(blocks.len(), 3);
}
