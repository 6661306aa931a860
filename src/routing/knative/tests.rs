//! The traffic list by itself: what is written for a split, word for word, and what is read.

use super::*;
use crate::object::Reading;
use crate::routing::golden_tests::yaml;
use crate::routing::{Cookies, Revisions};
use std::sync::Arc;

fn canary() -> Canary {
    Canary::decode(&yaml(
        "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: podinfo, namespace: test, uid: canary-uid}
spec:
  provider: knative
  targetRef: {apiVersion: serving.knative.dev/v1, kind: Service, name: podinfo}
  analysis: {interval: 1m, threshold: 5, maxWeight: 50, stepWeight: 10}
",
    ))
    .unwrap()
}

/// A Service with this annotation and list, which Knative has taken over.
fn service(primary: &str, traffic: &str) -> Object {
    let mut value = yaml(&format!(
        "
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {{name: podinfo, namespace: test, uid: u, resourceVersion: '7', generation: 4}}
spec: {{traffic: {traffic}}}
status:
  observedGeneration: 4
  latestCreatedRevisionName: r2
  latestReadyRevisionName: r2
  conditions: [{{type: Ready, status: 'False'}}, {{type: RoutesReady, status: 'True'}}]
"
    ));
    if !primary.is_empty() {
        value["metadata"]["annotations"] = json!({PRIMARY_ANNOTATION: primary});
    }
    Object::new(value)
}

fn observed(service: &Object) -> Observed {
    let reading = Reading::Present(Arc::new(service.clone()));
    let settings = RoutingSettings::default();
    Knative
        .observed(&canary(), &settings, &|_| reading.clone())
        .unwrap()
}

/// The operations for a split between r1 and this canary, without their guard.
fn operations(service: &Object, (primary, other): (&str, Option<&str>), weight: i64) -> Value {
    let reading = Reading::Present(Arc::new(service.clone()));
    let request = RouteRequest {
        canary: &canary(),
        settings: &RoutingSettings::default(),
        split: Split::canary(weight),
        revisions: Revisions {
            primary: Some(primary),
            canary: other,
        },
        cookies: Cookies::default(),
        selector_label: None,
    };
    let writes = Knative.desired(&request, &|_| reading.clone()).unwrap();
    let mut all = Vec::new();
    for write in writes {
        let Write::Patch {
            patch: Patch::Json(operations),
            expect,
            ..
        } = write
        else {
            panic!("{write:?}");
        };
        let asked = Expect::Asked {
            uid: "u".to_owned(),
            generation: 4,
        };
        assert_eq!(expect, asked);
        all.extend(operations);
    }
    json!(all)
}

#[test]
fn golden_traffic_lists() {
    // What the Service says, the two revisions and the weight, and the operations that come of it.
    let table = [
        (
            "the first time",
            service("", "[{latestRevision: true, percent: 100}]"),
            ("r2", Some("r2")),
            0,
            "
- {op: add, path: /metadata/annotations, value: {flagger.app/primary-revision: r2}}
- {op: replace, path: /spec/traffic, value: [{revisionName: r2, latestRevision: false, percent: 100}]}
",
        ),
        (
            "a step",
            service("r1", "[{revisionName: r1, latestRevision: false, percent: 100}]"),
            ("r1", Some("r2")),
            30,
            "
- op: replace
  path: /spec/traffic
  value:
    - {revisionName: r1, latestRevision: false, percent: 70}
    - {revisionName: r2, latestRevision: false, percent: 30}
",
        ),
        (
            "as it is",
            service("r1", "[{revisionName: r1, latestRevision: false, percent: 70}, {revisionName: r2, latestRevision: false, percent: 30}]"),
            ("r1", Some("r2")),
            30,
            "[]",
        ),
        (
            "all on the canary",
            service("r1", "[{revisionName: r1, latestRevision: false, percent: 100}]"),
            ("r1", Some("r2")),
            100,
            "[{op: replace, path: /spec/traffic, value: [{revisionName: r2, latestRevision: false, percent: 100}]}]",
        ),
        (
            "the promotion, whatever the split was",
            service("r1", "[{revisionName: r1, latestRevision: false, percent: 50}, {revisionName: r2, latestRevision: false, percent: 50}]"),
            ("r2", Some("r2")),
            50,
            "
- {op: replace, path: /metadata/annotations/flagger.app~1primary-revision, value: r2}
- {op: replace, path: /spec/traffic, value: [{revisionName: r2, latestRevision: false, percent: 100}]}
",
        ),
        (
            "Flagger's list, a tag and a field of somebody's",
            service("r1", "[{latestRevision: true, percent: 30, tag: next}, {revisionName: r1, latestRevision: false, percent: 70, theirs: 1}]"),
            ("r1", Some("r2")),
            30,
            "
- op: replace
  path: /spec/traffic
  value:
    - {revisionName: r1, latestRevision: false, percent: 70, theirs: 1}
    - {revisionName: r2, latestRevision: false, percent: 30}
    - {latestRevision: true, tag: next}
",
        ),
        (
            "only the name is wrong",
            service("r0", "[{revisionName: r1, latestRevision: false, percent: 100}]"),
            ("r1", None),
            0,
            "[{op: replace, path: /metadata/annotations/flagger.app~1primary-revision, value: r1}]",
        ),
    ];
    for (case, service, revisions, weight, expected) in table {
        let found = operations(&service, revisions, weight);
        assert_eq!(found, yaml(expected), "{case}");
    }
}

#[test]
fn a_split_is_read_by_the_name_of_the_primary() {
    let table = [
        ("r1", "[{revisionName: r1, percent: 100}]", Some(0)),
        (
            "r1",
            "[{revisionName: r1, percent: 70}, {revisionName: r2, percent: 30}]",
            Some(30),
        ),
        (
            "r1",
            "[{latestRevision: true, percent: 30}, {revisionName: r1, percent: 70}]",
            Some(30),
        ),
        ("r1", "[{latestRevision: true, percent: 100}]", Some(100)),
        // Tags, and revisions of the user's that have a share.
        (
            "r1",
            "[{revisionName: r1, percent: 60}, {revisionName: r9, percent: 40}, {tag: t, revisionName: r9}]",
            Some(40),
        ),
        // Nobody was called the primary, or nobody gets anything (Flagger's controller panics at some of these, 9.2 S4).
        ("", "[{latestRevision: true, percent: 100}]", None),
        ("r1", "[]", None),
        ("r1", "[{}]", None),
        ("r1", "[{tag: t}]", None),
    ];
    for (primary, traffic, expected) in table {
        let found = observed(&service(primary, traffic)).split;
        assert_eq!(found, expected.map(Split::canary), "{primary} {traffic}");
    }
}

#[test]
fn knative_says_whether_its_routes_carry_the_list() {
    type Change = fn(&mut Value);
    let with = |change: Change| {
        let mut service = service("r1", "[{revisionName: r1, percent: 100}]");
        change(service.value_mut());
        observed(&service).applied
    };
    // The condition Ready is also about a revision that failed, which has no traffic.
    assert_eq!(with(|_| ()), Applied::Yes);
    let table: [(Change, &str); 3] = [
        (
            |service| service["metadata"]["generation"] = json!(5),
            "not looked at",
        ),
        (
            |service| {
                service["status"]["conditions"][1] = json!({
                    "type": "RoutesReady", "status": "False", "reason": "RevisionMissing", "message": "r1 is gone",
                });
            },
            "RoutesReady False: RevisionMissing r1 is gone",
        ),
        (
            |service| service["status"]["conditions"] = json!([]),
            "not said RoutesReady",
        ),
    ];
    for (change, expected) in table {
        let Applied::Pending(why) = with(change) else {
            panic!("{expected}");
        };
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_service_that_is_missing_or_can_not_be_read_is_named() {
    let canary = canary();
    let request = RouteRequest {
        canary: &canary,
        settings: &RoutingSettings::default(),
        split: Split::PRIMARY,
        revisions: Revisions::default(),
        cookies: Cookies::default(),
        selector_label: None,
    };
    let said = |reading: Reading| {
        let result = Knative.desired(&request, &|_| reading.clone());
        result.unwrap_err().to_string()
    };
    assert!(said(Reading::Absent).starts_with("Service podinfo.test not found"));
    assert!(said(Reading::Unknown("forbidden".to_owned())).contains("forbidden"));
    let nothing = Reading::Present(Arc::new(service("", "[]")));
    assert!(said(nothing).contains("none of its revisions is promoted yet"));
}
