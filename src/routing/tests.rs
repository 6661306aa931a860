//! The rows of the capability table against what each router refuses: what a row lacks is refused with its field, what it has is not.
#![allow(clippy::unwrap_used)]

use super::*;
use serde_json::{Value, json};

/// A canary that names whatever any router needs.
fn canary(service: &Value, analysis: &Value) -> Canary {
    let mut object = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": "web", "namespace": "test", "uid": "1"},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "ingressRef": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "web"},
            "routeRef": {"apiVersion": "apisix.apache.org/v2", "kind": "ApisixRoute", "name": "web"},
            "service": {"port": 80, "gatewayRefs": [{"name": "gateway"}], "meshName": "global"},
            "analysis": {"interval": "1m", "threshold": 1},
        },
    });
    for (part, more) in [("service", service), ("analysis", analysis)] {
        for (key, value) in more.as_object().unwrap() {
            object["spec"][part][key] = value.clone();
        }
    }
    Canary::decode(&object).unwrap()
}

/// The severity with which a field, or something below it, is refused.
fn refused(router: &dyn Router, canary: &Canary, field: &str) -> Option<Severity> {
    router
        .refusals(canary)
        .into_iter()
        .filter(|refusal| refusal.field == field || refusal.field.starts_with(&format!("{field}.")))
        .map(|refusal| refusal.severity)
        .max()
}

/// An analysis match that asks for exactly one condition.
fn asking(condition: Condition) -> Value {
    match condition {
        Condition::HeaderExact => json!({"headers": {"x-who": {"exact": "a"}}}),
        Condition::HeaderPrefix => json!({"headers": {"x-who": {"prefix": "a"}}}),
        Condition::HeaderSuffix => json!({"headers": {"x-who": {"suffix": "a"}}}),
        Condition::HeaderRegex => json!({"headers": {"x-who": {"regex": "a.*"}}}),
        Condition::HeaderPresent => json!({"headers": {"x-who": {}}}),
        Condition::Cookie => json!({"headers": {"cookie": {"exact": "canary"}}}),
        Condition::QueryExact => json!({"queryParams": {"who": {"exact": "a"}}}),
        Condition::QueryPrefix => json!({"queryParams": {"who": {"prefix": "a"}}}),
        Condition::QueryRegex => json!({"queryParams": {"who": {"regex": "a.*"}}}),
        Condition::QueryPresent => json!({"queryParams": {"who": {}}}),
        Condition::SourceLabels => json!({"sourceLabels": {"app": "a"}}),
    }
}

/// A value for each field of the service.
fn with(field: ServiceField) -> Value {
    match field {
        ServiceField::Match => json!({"match": [{"uri": {"prefix": "/"}}]}),
        ServiceField::Hosts => json!({"hosts": ["app.example.com"]}),
        ServiceField::Headers => json!({"headers": {"request": {"add": {"a": "b"}}}}),
        ServiceField::Rewrite => json!({"rewrite": {"uri": "/"}}),
        ServiceField::Timeout => json!({"timeout": "15s"}),
        ServiceField::BackendTimeout => json!({"backendTimeout": "5s"}),
        ServiceField::Retries => json!({"retries": {"attempts": 3}}),
        ServiceField::CorsPolicy => json!({"corsPolicy": {"allowOrigin": ["example.com"]}}),
        ServiceField::Mirror => {
            json!({"mirror": [{"backendRef": {"name": "shadow", "port": 80}}]})
        }
        ServiceField::TrafficPolicy => {
            json!({"trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}})
        }
    }
}

#[test]
fn an_ab_test_by_a_condition_that_the_row_lacks_is_refused_by_every_router_with_weights() {
    for (provider, can) in table().into_iter().filter(|(_, can)| can.weighted()) {
        let router = router(provider).unwrap();
        for condition in Condition::ALL {
            let canary = canary(
                &json!({}),
                &json!({"iterations": 10, "match": [asking(condition)]}),
            );
            let found = refused(router, &canary, "spec.analysis.match").max(refused(
                router,
                &canary,
                "spec.analysis.match[0]",
            ));
            // Without a way to name a cookie the condition is one on the whole header.
            let known = can.conditions.contains(&condition)
                || (condition == Condition::Cookie
                    && can.conditions.contains(&Condition::HeaderExact));
            let expected = (!known).then_some(Severity::Error);
            assert_eq!(found, expected, "{provider}: {condition:?}");
        }
    }
}

#[test]
fn copies_cookies_and_fields_that_the_row_lacks_are_told_and_the_rollout_goes_on() {
    for (provider, can) in table() {
        let router = router(provider).unwrap();
        let warned = |lacking: bool| lacking.then_some(Severity::Warning);
        let mirror = |analysis: Value| {
            let canary = canary(&json!({}), &analysis);
            refused(router, &canary, "spec.analysis.mirror")
        };
        // Without weights every rollout is Blue/Green.
        let stepwise = if can.weighted() {
            can.mirror.canary_step
        } else {
            can.mirror.blue_green
        };
        assert_eq!(
            mirror(json!({"stepWeight": 10, "mirror": true})),
            warned(!stepwise),
            "{provider}"
        );
        assert_eq!(
            mirror(json!({"iterations": 10, "mirror": true})),
            warned(!can.mirror.blue_green),
            "{provider}"
        );
        let cookies = canary(
            &json!({}),
            &json!({"stepWeight": 10, "sessionAffinity": {"cookieName": "side", "primaryCookieName": "other"}}),
        );
        assert_eq!(
            refused(router, &cookies, "spec.analysis.sessionAffinity"),
            warned(!can.affinity || !can.primary_affinity),
            "{provider}"
        );
        for field in ServiceField::ALL {
            let canary = canary(&with(field), &json!({"iterations": 10}));
            let name = format!("spec.service.{}", field.name());
            assert_eq!(
                refused(router, &canary, &name),
                warned(!can.fields.contains(&field)),
                "{provider}: {name}"
            );
        }
    }
}

#[test]
fn connections_behind_a_router_of_requests_are_refused() {
    for (provider, can) in table() {
        let canary = canary(&json!({"appProtocol": "TCP"}), &json!({"stepWeight": 10}));
        let found = refused(
            router(provider).unwrap(),
            &canary,
            "spec.service.appProtocol",
        );
        let expected = (can.weighted() && !can.tcp).then_some(Severity::Error);
        assert_eq!(found, expected, "{provider}");
    }
}

#[test]
fn weights_between_the_steps_of_a_router_are_refused() {
    let coarse = Capabilities {
        weights: Weights::Steps(5),
        ..Capabilities::NONE
    };
    let canary = canary(
        &json!({}),
        &json!({"stepWeights": [5, 12, 50], "stepWeightPromotion": 1}),
    );
    let found: Vec<String> = capabilities::refusals("coarse", &coarse, &canary)
        .into_iter()
        .map(|refusal| format!("{}: {}", refusal.field, refusal.message))
        .collect();
    assert_eq!(
        found,
        [
            "spec.analysis.stepWeightPromotion: 1; coarse holds splits in steps of 5 %: use a multiple of 5",
            "spec.analysis.stepWeights[1]: 12; coarse holds splits in steps of 5 %: use a multiple of 5",
        ]
    );
}

#[test]
fn what_could_be_asked_for_instead_is_said() {
    let by_header = Capabilities {
        conditions: &[Condition::HeaderExact, Condition::HeaderRegex],
        ..Capabilities::WEIGHTED
    };
    let cases = [
        (
            json!({"headers": {"x": {"suffix": "a"}}}),
            "by knows `exact` and `regex` here",
        ),
        (
            json!({"queryParams": {"x": {"exact": "a"}}}),
            "can't match by queryParams; use headers",
        ),
        (
            json!({"sourceLabels": {"x": "a"}}),
            "can't match by the labels of the caller; use headers",
        ),
        (
            json!({}),
            "no condition; name at least one, or every request would go to the canary",
        ),
    ];
    for (entry, expected) in cases {
        let canary = canary(&json!({}), &json!({"iterations": 10, "match": [entry]}));
        let found = capabilities::refusals("by", &by_header, &canary);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.contains(expected), "{found:?}");
    }
}
