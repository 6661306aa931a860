//! The rows of the capability table against what each router refuses: what a row lacks is refused or told with its field, what it has is
//! neither.
#![allow(clippy::unwrap_used)]

use super::*;
use serde_json::{Value, json};

fn canary(service: &Value, analysis: &Value) -> Canary {
    Canary::decode(&asked::canary("", service, analysis)).unwrap()
}

#[test]
fn what_a_row_lacks_is_refused_or_told_and_what_it_has_is_neither() {
    let all = asked::all();
    assert!(all.len() > 19 * 25, "{}", all.len());
    for asked in all {
        let router = router(asked.provider).unwrap();
        let canary = Canary::decode(&asked.canary).unwrap();
        let found = router
            .refusals(&canary)
            .into_iter()
            .filter(|refusal| asked.is_at(&refusal.field))
            .map(|refusal| refusal.severity)
            .max();
        assert_eq!(found, asked.refused, "{}", asked.what);
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
