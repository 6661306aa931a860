//! Whatever Flagger's CRDs accept is valid under ours, decodes, and comes back with every field.

use super::drawing::{Choices, draw};
use super::structural::{pruned, violations, without_empties};
use super::{flagger, in_repository, ours, schema};
use proptest::prelude::*;
use serde_json::{Value, json};
use serin::api::{
    AlertProvider, Canary, MetricTemplate, ProblemSeverity, Strategy, ValidationOptions, validate,
};

/// Decodes and encodes again; the error text otherwise.
fn through_our_types(object: &Value) -> Result<Value, String> {
    let encoded = match object["kind"].as_str() {
        Some("Canary") => Canary::decode(object).and_then(|canary| {
            canary
                .status_problems
                .first()
                .map_or_else(|| Ok(canary.encode()), |problem| Err(problem.clone()))
        }),
        Some("MetricTemplate") => MetricTemplate::decode(object).map(|template| template.encode()),
        Some("AlertProvider") => AlertProvider::decode(object).map(|provider| provider.encode()),
        other => panic!("kind {other:?}"),
    };
    encoded.map_err(|error| error.to_string())
}

/// Fails when `object` is refused or loses something.
fn assert_kept(theirs: &Value, ours: &Value, object: &Value) {
    assert_eq!(
        violations(theirs, object),
        Vec::<String>::new(),
        "Flagger's schema refuses {object:#}"
    );
    assert_eq!(
        violations(ours, object),
        Vec::<String>::new(),
        "our schema refuses {object:#}"
    );
    assert_eq!(
        pruned(ours, object)["spec"],
        pruned(theirs, object)["spec"],
        "our schema prunes"
    );
    let back = through_our_types(object).unwrap_or_else(|error| panic!("{error}\n{object:#}"));
    let comparable =
        |object: &Value, part: &str| without_empties(&ours["properties"][part], &object[part]);
    assert_eq!(
        comparable(&back, "spec"),
        comparable(object, "spec"),
        "lost on the way through {object:#}"
    );
    if object.get("status").is_some() {
        let (before, after) = (comparable(object, "status"), comparable(&back, "status"));
        // Counters are always written, so the status may gain zeros and lose nothing.
        for (name, value) in before.as_object().unwrap() {
            assert_eq!(
                after.get(name),
                Some(value),
                "status.{name} lost on the way through {object:#}"
            );
        }
    }
}

fn drawn_object(seed: u64, kind: usize) -> (&'static Value, &'static Value, Value) {
    let (theirs, ours) = (schema(&flagger()[kind]), schema(&ours()[kind]));
    let mut choices = Choices(seed);
    let mut object = json!({
        "apiVersion": "flagger.app/v1beta1",
        "kind": flagger()[kind]["spec"]["names"]["kind"],
        "metadata": { "name": "drawn", "namespace": "test" },
    });
    for part in ["spec", "status"] {
        if let Some(part_schema) = theirs["properties"].get(part) {
            object[part] = draw(part_schema, part, &mut choices);
        }
    }
    (theirs, ours, object)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn drawn_canaries_are_accepted_and_kept(seed: u64) {
        let (theirs, ours, object) = drawn_object(seed, 0);
        assert_kept(theirs, ours, &object);
    }

    #[test]
    fn drawn_metric_templates_are_accepted_and_kept(seed: u64) {
        let (theirs, ours, object) = drawn_object(seed, 1);
        assert_kept(theirs, ours, &object);
    }

    #[test]
    fn drawn_alert_providers_are_accepted_and_kept(seed: u64) {
        let (theirs, ours, object) = drawn_object(seed, 2);
        assert_kept(theirs, ours, &object);
    }

    #[test]
    fn no_drawn_canary_crashes_validation(seed: u64) {
        let (_, _, object) = drawn_object(seed, 0);
        let canary = Canary::decode(&object).unwrap();
        let options = ValidationOptions { no_cross_namespace_refs: true, default_provider: String::new() };
        for problem in validate(&canary, &options) {
            prop_assert!(problem.field.starts_with("spec.") && !problem.message.is_empty(), "{problem:?}");
        }
    }
}

fn manifests() -> Vec<(String, Value)> {
    let mut files: Vec<_> = std::fs::read_dir(in_repository("tests/fixtures/canaries"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let object =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, object)
    };
    files.iter().map(read).collect()
}

#[test]
fn manifests_of_every_provider_and_strategy_are_accepted_kept_and_found_in_order() {
    let (theirs, ours) = (flagger(), ours());
    let manifests = manifests();
    for (name, object) in &manifests {
        assert_kept(schema(&theirs[0]), schema(&ours[0]), object);
        let canary = Canary::decode(object).unwrap();
        let problems = validate(
            &canary,
            &ValidationOptions {
                no_cross_namespace_refs: true,
                default_provider: "istio".into(),
            },
        );
        let errors: Vec<_> = problems
            .iter()
            .filter(|problem| problem.severity == ProblemSeverity::Error)
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
    }
    let canaries: Vec<Canary> = manifests
        .iter()
        .map(|(_, object)| Canary::decode(object).unwrap())
        .collect();
    for provider in serin::api::canary::PROVIDERS {
        let named = canaries
            .iter()
            .any(|canary| canary.spec.provider.as_deref() == Some(*provider));
        assert!(named, "no manifest names the provider {provider}");
    }
    for strategy in [Strategy::Canary, Strategy::AbTesting, Strategy::BlueGreen] {
        assert!(
            canaries
                .iter()
                .any(|canary| canary.spec.strategy() == strategy),
            "no manifest with {strategy}"
        );
    }
}

#[test]
fn what_our_additions_allow_is_valid_decodes_and_is_kept() {
    let object = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": { "name": "podinfo", "namespace": "test" },
        "spec": {
            "provider": "istio", "revisionHistoryLimit": 3, "promotion": { "onFailure": "rollback" },
            "targetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo" },
            "service": { "port": 80 },
            "analysis": {
                "interval": "30s", "threshold": 2, "stepWeight": 10, "drain": "500ms", "noDataDeadline": "1h30m",
                "gateTimeout": "24h", "failureMode": "window", "failureWindow": 5
            }
        },
        "status": {
            "phase": "Progressing", "failedChecks": 0, "canaryWeight": 10, "iterations": 0, "observedGeneration": 4,
            "conditions": [{ "type": "Ready", "status": "False", "reason": "Progressing", "observedGeneration": 4 }],
            "run": {
                "id": "a1", "number": 7, "revision": "s1-abc", "step": 1, "weights": { "primary": 90, "canary": 10 }, "checks": 3,
                "startedAt": "2030-01-01T00:00:00.123Z", "stage": "judging", "preRolloutPassed": true
            },
            "metrics": [{ "name": "errors", "provider": "prometheus", "verdict": "Passed", "recent": ["1", "2"] }],
            "history": [{ "number": 6, "revision": "s1-abb", "outcome": "Promoted", "cause": "All steps passed." }],
            "observed": { "router": "istio" }, "deletion": { "stage": "reverting" }
        }
    });
    let ours = &ours()[0];
    assert_eq!(violations(schema(ours), &object), Vec::<String>::new());
    assert_eq!(pruned(schema(ours), &object)["status"], object["status"]);
    let back = through_our_types(&object).unwrap();
    assert_eq!(back["spec"], object["spec"]);
    assert_eq!(back["status"], object["status"]);
}
