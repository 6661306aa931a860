//! Specification of defaults and validation: a table of changes to one sound canary, and what each means.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Canary, HookType, IntOrString, ProblemSeverity, Strategy, TargetKind, ValidationOptions,
    validate,
};
use ProblemSeverity::{Error, Warning};

/// A sound canary with `pointers` set to other values (null takes a field away).
fn canary(changes: &[(&str, Value)]) -> Canary {
    let mut object = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": { "name": "podinfo", "namespace": "test" },
        "spec": {
            "targetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo" },
            "service": { "port": 80 },
            "analysis": { "interval": "1m", "threshold": 5, "stepWeight": 10 }
        }
    });
    for (path, value) in changes {
        let field = path
            .split('.')
            .fold(&mut object["spec"], |holder, key| &mut holder[key]);
        *field = value.clone();
    }
    Canary::decode(&object).unwrap()
}

fn problems(changes: &[(&str, Value)]) -> Vec<(ProblemSeverity, String, String)> {
    let options = ValidationOptions {
        no_cross_namespace_refs: true,
        default_provider: "istio".to_owned(),
    };
    let found = validate(&canary(changes), &options);
    found
        .into_iter()
        .map(|problem| (problem.severity, problem.field, problem.message))
        .collect()
}

#[test]
fn a_sound_canary_has_no_problems() {
    assert_eq!(problems(&[]), []);
}

#[test]
#[allow(clippy::too_many_lines)] // one table
fn each_rule_names_its_field() {
    let table: Vec<(&str, Value, ProblemSeverity, &str)> = vec![
        ("provider", json!("knative"), Error, "spec.targetRef"),
        ("service", Value::Null, Error, "spec.service"),
        ("service.port", json!(0), Error, "spec.service.port"),
        ("service.port", json!(70000), Error, "spec.service.port"),
        ("service.name", json!("Shop_1"), Error, "spec.service.name"),
        (
            "service.timeout",
            json!("soon"),
            Warning,
            "spec.service.timeout",
        ),
        (
            "progressDeadlineSeconds",
            json!(0),
            Warning,
            "spec.progressDeadlineSeconds",
        ),
        (
            "upstreamRef",
            json!({"apiVersion": "v1", "kind": "Upstream", "name": "u", "namespace": "else"}),
            Error,
            "spec.upstreamRef.namespace",
        ),
        (
            "analysis.interval",
            json!("5minutes"),
            Warning,
            "spec.analysis.interval",
        ),
        (
            "analysis.interval",
            json!("0s"),
            Warning,
            "spec.analysis.interval",
        ),
        (
            "analysis.threshold",
            json!(0),
            Warning,
            "spec.analysis.threshold",
        ),
        (
            "analysis.stepWeight",
            json!(0),
            Error,
            "spec.analysis.stepWeight",
        ),
        (
            "analysis.stepWeight",
            json!(150),
            Warning,
            "spec.analysis.stepWeight",
        ),
        (
            "analysis.stepWeights",
            json!([10, 5]),
            Warning,
            "spec.analysis.stepWeights",
        ),
        (
            "analysis.stepWeights",
            json!([-1, 5]),
            Error,
            "spec.analysis.stepWeights[0]",
        ),
        (
            "analysis.stepWeights",
            json!([10, 120]),
            Warning,
            "spec.analysis.stepWeights[1]",
        ),
        (
            "analysis.maxWeight",
            json!(-5),
            Error,
            "spec.analysis.maxWeight",
        ),
        (
            "analysis.match",
            json!([{}]),
            Warning,
            "spec.analysis.match",
        ),
        (
            "analysis.mirrorWeight",
            json!(30),
            Warning,
            "spec.analysis.mirrorWeight",
        ),
        (
            "analysis.mirrorWeight",
            json!(130),
            Error,
            "spec.analysis.mirrorWeight",
        ),
        (
            "analysis.canaryReadyThreshold",
            json!(101),
            Error,
            "spec.analysis.canaryReadyThreshold",
        ),
        (
            "analysis.gateTimeout",
            json!("later"),
            Error,
            "spec.analysis.gateTimeout",
        ),
        (
            "analysis.failureWindow",
            json!(3),
            Warning,
            "spec.analysis.failureWindow",
        ),
        (
            "analysis.metrics",
            json!([{"name": "errors", "threshold": 1}]),
            Error,
            "spec.analysis.metrics[0].name",
        ),
        (
            "analysis.metrics",
            json!([{"name": "request-duration"}]),
            Warning,
            "spec.analysis.metrics[0].thresholdRange",
        ),
        (
            "analysis.metrics",
            json!([{"name": "request-duration", "thresholdRange": {"min": 9, "max": 1}}]),
            Error,
            "spec.analysis.metrics[0].thresholdRange.min",
        ),
        (
            "analysis.metrics",
            json!([{"name": "e", "threshold": 1, "templateRef": {"name": "e", "namespace": "else"}}]),
            Error,
            "spec.analysis.metrics[0].templateRef.namespace",
        ),
        (
            "analysis.webhooks",
            json!([{"name": "h", "url": "tester:80"}]),
            Error,
            "spec.analysis.webhooks[0].url",
        ),
        (
            "analysis.webhooks",
            json!([{"name": "h", "url": "http://t/", "timeout": "5minutes"}]),
            Warning,
            "spec.analysis.webhooks[0].timeout",
        ),
        (
            "analysis.alerts",
            json!([{"name": "a", "severity": "info", "providerRef": {"name": "p", "namespace": "else"}}]),
            Error,
            "spec.analysis.alerts[0].providerRef.namespace",
        ),
        (
            "analysis.sessionAffinity",
            json!({"cookieName": "a b"}),
            Error,
            "spec.analysis.sessionAffinity.cookieName",
        ),
        (
            "analysis.sessionAffinity",
            json!({"cookieName": "a", "primaryCookieName": "a"}),
            Error,
            "spec.analysis.sessionAffinity.primaryCookieName",
        ),
    ];
    for (path, value, severity, field) in table {
        let found = problems(&[(path, value.clone())]);
        let fields: Vec<_> = found
            .iter()
            .map(|(severity, field, _)| (*severity, field.as_str()))
            .collect();
        assert_eq!(fields, [(severity, field)], "{path} = {value}: {found:?}");
    }
}

#[test]
fn a_knative_target_needs_its_provider_in_the_spec_and_no_autoscaler() {
    let target = (
        "targetRef",
        json!({ "apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "shop" }),
    );
    let no_service = ("service", Value::Null);
    let provider = ("provider", json!("knative"));
    assert_eq!(
        problems(&[target.clone(), no_service.clone(), provider.clone()]),
        []
    );
    assert_eq!(
        problems(&[target.clone(), no_service.clone()])[0].1,
        "spec.provider"
    );
    let scaler = (
        "autoscalerRef",
        json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "shop" }),
    );
    assert_eq!(
        problems(&[target, no_service, provider, scaler])[0].1,
        "spec.autoscalerRef"
    );
}

#[test]
fn a_window_that_cannot_hold_the_threshold_is_refused() {
    let window = [
        ("analysis.failureMode", json!("window")),
        ("analysis.failureWindow", json!(3)),
    ];
    assert_eq!(problems(&window)[0].1, "spec.analysis.failureWindow");
}

#[test]
fn skipped_analysis_needs_no_steps() {
    assert_eq!(
        problems(&[
            ("analysis.stepWeight", json!(0)),
            ("skipAnalysis", json!(true))
        ]),
        []
    );
}

#[test]
fn intervals_are_honoured_from_a_second_up_and_a_minute_when_unreadable() {
    let table = [
        ("1m30s", 90),
        ("5s", 5),
        ("0s", 1),
        ("5minutes", 60),
        ("", 60),
    ];
    for (text, seconds) in table {
        let canary = canary(&[("analysis.interval", json!(text))]);
        assert_eq!(
            canary.spec.analysis.interval(),
            Duration::from_secs(seconds),
            "{text}"
        );
    }
}

#[test]
fn absent_fields_mean_what_flagger_takes_them_for() {
    let canary = canary(&[
        ("analysis.threshold", json!(-3)),
        (
            "analysis.webhooks",
            json!([{ "name": "h", "url": "http://t/" }]),
        ),
    ]);
    let (spec, analysis) = (&canary.spec, &canary.spec.analysis);
    assert_eq!(analysis.threshold(), 1);
    assert_eq!(analysis.max_weight(), 100);
    assert_eq!(
        (
            analysis.primary_ready_threshold(),
            analysis.canary_ready_threshold()
        ),
        (100, 100)
    );
    assert_eq!(analysis.webhooks[0].kind(), HookType::Rollout);
    assert_eq!(analysis.webhooks[0].timeout(), Duration::from_secs(10));
    assert_eq!(spec.progress_deadline(), Duration::from_mins(10));
    assert_eq!(spec.no_data_deadline(), Duration::from_mins(10));
    assert_eq!(spec.revision_history_limit(), 10);
    assert_eq!(analysis.drain(), Duration::from_secs(2));
    assert_eq!(analysis.gate_timeout(), None);
    let service = spec.service.as_ref().unwrap();
    assert_eq!(
        (service.port_name(), service.target_port()),
        ("http", IntOrString::Int(80))
    );
    assert_eq!(canary.apex_name(), "podinfo");
    assert_eq!(
        (canary.primary_service_name(), canary.canary_service_name()),
        ("podinfo-primary".into(), "podinfo-canary".into())
    );
}

#[test]
fn the_target_port_is_the_port_when_unset_or_zero() {
    let table = [
        (json!("http"), IntOrString::String("http".into())),
        (json!(8080), IntOrString::Int(8080)),
        (json!("0"), IntOrString::Int(80)),
        (json!(0), IntOrString::Int(80)),
    ];
    for (value, expected) in table {
        let canary = canary(&[("service.targetPort", value)]);
        assert_eq!(canary.spec.service.unwrap().target_port(), expected);
    }
}

#[test]
fn the_greatest_weight_is_the_last_step_and_never_above_100() {
    let table: [(&[(&str, Value)], i64); 4] = [
        (&[("analysis.maxWeight", json!(50))], 50),
        (&[("analysis.maxWeight", json!(0))], 100),
        (
            &[
                ("analysis.maxWeight", json!(50)),
                ("analysis.stepWeights", json!([5, 80])),
            ],
            80,
        ),
        (&[("analysis.stepWeights", json!([5, 120]))], 100),
    ];
    for (changes, weight) in table {
        assert_eq!(canary(changes).spec.analysis.max_weight(), weight);
    }
}

#[test]
fn the_strategy_follows_from_iterations_and_match() {
    let rounds = ("analysis.iterations", json!(3));
    let matches = (
        "analysis.match",
        json!([{ "headers": { "a": { "exact": "b" } } }]),
    );
    assert_eq!(canary(&[]).spec.strategy(), Strategy::Canary);
    assert_eq!(
        canary(std::slice::from_ref(&matches)).spec.strategy(),
        Strategy::Canary
    );
    assert_eq!(
        canary(std::slice::from_ref(&rounds))
            .spec
            .strategy()
            .to_string(),
        "blue-green"
    );
    assert_eq!(
        canary(&[rounds, matches]).spec.strategy().to_string(),
        "ab-testing"
    );
}

#[test]
fn the_kind_of_target_follows_from_api_version_and_kind() {
    let table = [
        ("apps/v1", "Deployment", TargetKind::Deployment),
        ("apps/v1", "DaemonSet", TargetKind::DaemonSet),
        ("v1", "Service", TargetKind::Service),
        ("serving.knative.dev/v1", "Service", TargetKind::Knative),
    ];
    for (api_version, kind, expected) in table {
        let canary = canary(&[
            ("targetRef.apiVersion", json!(api_version)),
            ("targetRef.kind", json!(kind)),
        ]);
        assert_eq!(canary.spec.target_ref.target_kind(), expected);
    }
}
