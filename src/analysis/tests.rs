//! Queries and verdicts, on canaries as people write them.

use super::*;
use crate::api::{Canary, Verdict};
use crate::object::{Object, Reading};
use serde_json::{Value, json};
use std::sync::Arc;

fn canary(metrics: &str) -> Canary {
    let yaml = format!(
        "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {{name: podinfo, namespace: test}}
spec:
  targetRef: {{apiVersion: apps/v1, kind: Deployment, name: podinfo-app}}
  service: {{port: 80, name: podinfo}}
  analysis:
    interval: 1m
    threshold: 5
    stepWeight: 10
    metrics:
{metrics}"
    );
    let value: Value = serde_saphyr::from_str(&yaml).unwrap();
    Canary::decode(&value).unwrap()
}

fn nothing(_: &crate::object::ObjectRef) -> Reading {
    Reading::Absent
}

fn template(spec: Value) -> impl Fn(&crate::object::ObjectRef) -> Reading {
    move |name| {
        Reading::Present(Arc::new(Object::new(json!({
            "apiVersion": "flagger.app/v1beta1",
            "kind": "MetricTemplate",
            "metadata": {"name": name.name, "namespace": name.namespace},
            "spec": spec.clone(),
        }))))
    }
}

fn flags<'a>(mesh_provider: &'a str, metrics_server: &'a str) -> MetricFlags<'a> {
    MetricFlags {
        mesh_provider,
        metrics_server,
        no_cross_namespace_refs: false,
    }
}

fn only(canary: &Canary) -> MetricQuery {
    queries(
        canary,
        flags("gatewayapi:v1", "http://prometheus:9090"),
        &nothing,
    )
    .remove(0)
    .unwrap()
}

#[test]
fn built_in_and_inline_metrics_come_before_templates() {
    let canary = canary(
        "
      - {name: errors, templateRef: {name: errors, namespace: monitoring}, thresholdRange: {max: 1}, interval: 30s}
      - {name: request-success-rate, thresholdRange: {min: 99}, interval: 2m}
      - {name: latency, query: 'max(latency{app=\"{{ target }}\"}[{{ interval }}])', threshold: 5}
      - {name: request-duration, thresholdRange: {max: 500}}
",
    );
    let lookup = template(json!({
        "provider": {"type": "datadog", "address": "https://dd.example", "secretRef": {"name": "dd"}, "insecureSkipVerify": true},
        "query": "errors{service:{{ service }},canary:{{ name }}} over [{{ interval }}]",
    }));
    let found: Vec<MetricQuery> = queries(
        &canary,
        flags("gatewayapi:v1", "http://prometheus:9090"),
        &lookup,
    )
    .into_iter()
    .map(Result::unwrap)
    .collect();
    let names: Vec<&str> = found.iter().map(|query| query.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "request-success-rate",
            "latency",
            "request-duration",
            "errors"
        ]
    );
    assert!(found[0].query.contains("podinfo-app-[0-9a-zA-Z]+") && found[0].query.contains("[2m]"));
    assert_eq!(
        found[0].provider.address.as_deref(),
        Some("http://prometheus:9090")
    );
    assert_eq!(found[1].query, "max(latency{app=\"podinfo-app\"}[1m])");
    assert!(found[2].query.contains("[1m]"));
    assert_eq!(
        found[3].query,
        "errors{service:podinfo,canary:podinfo} over [30s]"
    );
    assert_eq!(found[3].provider_name(), "datadog");
    assert_eq!(
        found[3].provider.secret,
        Some(SecretName {
            namespace: "monitoring".to_owned(),
            name: "dd".to_owned()
        })
    );
    assert!(found[3].provider.insecure_skip_verify);
}

#[test]
fn a_built_in_name_with_a_template_is_asked_once_by_its_template() {
    let canary = canary(
        "
      - {name: request-success-rate, templateRef: {name: rate}, thresholdRange: {min: 99}}
",
    );
    let lookup = template(
        json!({"provider": {"type": "prometheus"}, "query": "rate{x=\"{{ interval }}\"}"}),
    );
    let found = queries(&canary, flags("istio", "http://prometheus:9090"), &lookup);
    assert_eq!(found.len(), 1);
    let query = found[0].clone().unwrap();
    // The interval of a template is the raw field, here empty.
    assert_eq!(query.query, "rate{x=\"\"}");
    assert_eq!(query.kind, MetricKind::Value);
    assert_eq!(
        query.provider.address.as_deref(),
        Some("http://prometheus:9090")
    );
}

#[test]
fn what_cannot_be_asked_says_why() {
    let unusable = canary(
        "
      - {name: my-metric, threshold: 1}
",
    );
    let by_template = canary(
        "
      - {name: my-metric, templateRef: {name: mine}}
",
    );
    let problem = |canary: &Canary, lookup: &dyn Fn(&crate::object::ObjectRef) -> Reading| {
        queries(canary, flags("istio", "http://prometheus:9090"), lookup)
            .remove(0)
            .unwrap_err()
    };
    let text = |problem: QueryProblem| match problem {
        QueryProblem::Invalid { message, .. } => message,
        QueryProblem::Unknown(why) => format!("unknown: {why}"),
    };
    assert!(text(problem(&unusable, &nothing)).starts_with(
        "Metric query failed for no usable metrics template and query were configured"
    ));
    assert!(text(problem(&by_template, &nothing)).starts_with(
        "Metric template mine.test error: there is no MetricTemplate mine in namespace test"
    ));
    assert_eq!(
        text(problem(&by_template, &|_| Reading::Unknown(
            "timeout".to_owned()
        ))),
        "unknown: MetricTemplate mine.test: timeout"
    );
    let broken =
        template(json!({"provider": {"type": "prometheus"}, "query": "x{{ variables.a }}"}));
    assert_eq!(
        text(problem(&by_template, &broken)),
        "Metric template mine.test error: template line 1, column 5: the variable \"a\" is not set and templateVariables is empty; set it in the metric's templateVariables"
    );
}

/// Metric entry, value in the query's unit, verdict, message, value, limit, recorded.
type Case = (
    &'static str,
    f64,
    Verdict,
    Option<&'static str>,
    Option<&'static str>,
    Option<&'static str>,
    Option<f64>,
);

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn verdicts_follow_limits_and_speak_with_flaggers_words() {
    use Verdict::{Failed, NoData, Passed};
    const RATE: &str = "{name: request-success-rate, thresholdRange: {min: 99}}";
    const TIME: &str = "{name: request-duration, thresholdRange: {max: 500}}";
    const NO_TRAFFIC: &str = "Halt advancement no values found for gatewayapi:v1 metric request-success-rate probably podinfo-app.test is not receiving traffic: no requests in the interval";
    let cases: [Case; 22] = [
        (
            RATE,
            98.0,
            Failed,
            Some("Halt podinfo.test advancement success rate 98.00% < 99%"),
            Some("98.00%"),
            Some("≥ 99%"),
            Some(98.0),
        ),
        (
            RATE,
            99.0,
            Passed,
            None,
            Some("99.00%"),
            Some("≥ 99%"),
            Some(99.0),
        ),
        (
            RATE,
            f64::NAN,
            NoData,
            Some(NO_TRAFFIC),
            None,
            Some("≥ 99%"),
            None,
        ),
        (
            RATE,
            f64::INFINITY,
            NoData,
            Some(NO_TRAFFIC),
            None,
            Some("≥ 99%"),
            None,
        ),
        (
            "{name: request-success-rate, threshold: 99.5}",
            99.4,
            Failed,
            Some("Halt podinfo.test advancement success rate 99.40% < 99.5%"),
            Some("99.40%"),
            Some("≥ 99.5%"),
            Some(99.4),
        ),
        (
            "{name: request-success-rate}",
            0.0,
            Passed,
            None,
            Some("0.00%"),
            Some("≥ 0%"),
            Some(0.0),
        ),
        (
            "{name: request-success-rate, thresholdRange: {max: 50}}",
            60.0,
            Failed,
            Some("Halt podinfo.test advancement success rate 60.00% > 50%"),
            Some("60.00%"),
            Some("≤ 50%"),
            Some(60.0),
        ),
        (
            "{name: request-success-rate, thresholdRange: {}}",
            0.0,
            Passed,
            None,
            Some("0.00%"),
            None,
            Some(0.0),
        ),
        (
            TIME,
            0.6,
            Failed,
            Some("Halt podinfo.test advancement request duration 600ms > 500ms"),
            Some("600ms"),
            Some("≤ 500ms"),
            Some(0.6),
        ),
        // 500.9 ms count as 500.
        (
            TIME,
            0.5009,
            Passed,
            None,
            Some("500ms"),
            Some("≤ 500ms"),
            Some(0.5),
        ),
        (
            TIME,
            1.5,
            Failed,
            Some("Halt podinfo.test advancement request duration 1.5s > 500ms"),
            Some("1.5s"),
            Some("≤ 500ms"),
            Some(1.5),
        ),
        (
            TIME,
            f64::INFINITY,
            Failed,
            Some("Halt podinfo.test advancement request duration +Inf > 500ms"),
            Some("+Inf"),
            Some("≤ 500ms"),
            Some(f64::INFINITY),
        ),
        (
            "{name: request-duration, thresholdRange: {min: 20.9, max: 500}}",
            0.0199,
            Failed,
            Some("Halt podinfo.test advancement request duration 19ms < 20ms"),
            Some("19ms"),
            Some("≥ 20ms and ≤ 500ms"),
            Some(0.019),
        ),
        (
            "{name: request-duration}",
            0.001,
            Failed,
            Some("Halt podinfo.test advancement request duration 1ms > 0s"),
            Some("1ms"),
            Some("≤ 0s"),
            Some(0.001),
        ),
        (
            "{name: request-duration}",
            0.0009,
            Passed,
            None,
            Some("0s"),
            Some("≤ 0s"),
            Some(0.0),
        ),
        (
            "{name: errors, query: x, thresholdRange: {max: 1}}",
            3.0,
            Failed,
            Some("Halt podinfo.test advancement errors 3.00 > 1"),
            Some("3.00"),
            Some("≤ 1"),
            Some(3.0),
        ),
        (
            "{name: errors, query: x, thresholdRange: {min: 5}}",
            3.0,
            Failed,
            Some("Halt podinfo.test advancement errors 3.00 < 5"),
            Some("3.00"),
            Some("≥ 5"),
            Some(3.0),
        ),
        (
            "{name: errors, query: x, threshold: 1000000}",
            999.0,
            Passed,
            None,
            Some("999.00"),
            Some("≤ 1e+06"),
            Some(999.0),
        ),
        (
            "{name: errors, query: x}",
            0.0,
            Passed,
            None,
            Some("0.00"),
            Some("≤ 0"),
            Some(0.0),
        ),
        (
            "{name: errors, query: x}",
            0.001_234,
            Failed,
            Some("Halt podinfo.test advancement errors 0.00 > 0"),
            Some("0.00123"),
            Some("≤ 0"),
            Some(0.001_234),
        ),
        (
            "{name: errors, query: x, thresholdRange: {max: 1}}",
            f64::INFINITY,
            Failed,
            Some("Halt podinfo.test advancement errors +Inf > 1"),
            Some("+Inf"),
            Some("≤ 1"),
            Some(f64::INFINITY),
        ),
        (
            "{name: errors, query: x}",
            f64::NAN,
            NoData,
            Some(
                "Halt advancement no values found for metric: errors: the query gave NaN: there was nothing to compute from",
            ),
            None,
            Some("≤ 0"),
            None,
        ),
    ];
    for (metric, value, verdict, message, shown, limit, recorded) in cases {
        let canary = canary(&format!("      - {metric}\n"));
        let found = judge(&canary, &only(&canary), &Measurement::Value(value));
        let expected = Judgement {
            verdict,
            message: message.map(str::to_owned),
            note: None,
            value_text: shown.map(str::to_owned),
            limit_text: limit.map(str::to_owned),
            recorded,
        };
        assert_eq!(found, expected, "{metric} {value}");
    }
}

#[test]
fn no_data_and_no_answer_are_not_failures() {
    let canary = canary("      - {name: request-duration, thresholdRange: {max: 500}}\n");
    let query = only(&canary);
    let none = judge(
        &canary,
        &query,
        &Measurement::NoData("no values found".to_owned()),
    );
    assert_eq!(none.verdict, Verdict::NoData);
    assert_eq!(
        none.message.as_deref(),
        Some(
            "Halt advancement no values found for gatewayapi:v1 metric request-duration probably podinfo-app.test is not receiving traffic: no values found"
        )
    );
    let error = judge(
        &canary,
        &query,
        &Measurement::Error("status 503".to_owned()),
    );
    assert_eq!(error.verdict, Verdict::Error);
    assert_eq!(
        error.message.as_deref(),
        Some("Prometheus query failed: status 503")
    );
}

#[test]
fn the_last_of_several_series_counts_and_a_note_says_so() {
    let canary = canary("      - {name: errors, query: x, thresholdRange: {max: 1}}\n");
    let found = judge(
        &canary,
        &only(&canary),
        &Measurement::LastOf {
            value: 0.0,
            series: 3,
        },
    );
    assert_eq!(found.verdict, Verdict::Passed);
    assert!(
        found
            .note
            .unwrap()
            .starts_with("the query of errors gave 3 series and only the last was judged")
    );
}

#[test]
fn a_knative_canary_asks_for_its_latest_revision() {
    let mut canary = canary("      - {name: request-success-rate}\n");
    canary.spec.target_ref.api_version = "serving.knative.dev/v1".to_owned();
    canary.spec.target_ref.kind = "Service".to_owned();
    canary.spec.provider = Some("knative".to_owned());
    let lookup = |_: &crate::object::ObjectRef| {
        Reading::Present(Arc::new(Object::new(
            json!({"status": {"latestCreatedRevisionName": "podinfo-00002"}}),
        )))
    };
    let query = queries(&canary, flags("istio", ""), &lookup)
        .remove(0)
        .unwrap();
    assert!(
        query
            .query
            .contains("envoy_cluster_name=~\"test/podinfo-00002\""),
        "{}",
        query.query
    );
}

/// A lookup that knows the target with these annotations of its pods, and one template.
fn with_target(annotations: Value, spec: Value) -> impl Fn(&crate::object::ObjectRef) -> Reading {
    move |name| {
        let object = match name.kind.kind.as_ref() {
            "Deployment" => {
                json!({"spec": {"template": {"metadata": {"annotations": annotations}}}})
            }
            _ => json!({
                "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate",
                "metadata": {"name": name.name, "namespace": name.namespace}, "spec": spec,
            }),
        };
        Reading::Present(Arc::new(Object::new(object)))
    }
}

#[test]
fn without_a_prometheus_the_built_in_checks_ask_the_canary_s_own_pods() {
    let canary = canary(
        "
      - {name: request-success-rate, thresholdRange: {min: 99}, interval: 30s}
      - {name: request-duration, thresholdRange: {max: 500}}
      - {name: median, query: 'request-duration?quantile=0.5', thresholdRange: {max: 50}}
      - {name: p90, templateRef: {name: p90}, thresholdRange: {max: 50}}
",
    );
    let lookup = with_target(
        json!({"prometheus.io/port": "9797", "prometheus.io/path": "/prom"}),
        json!({"provider": {"type": "scrape", "insecureSkipVerify": true}, "query": "request-duration?quantile=0.9&port=1&scheme=https\n"}),
    );
    let found: Vec<MetricQuery> = queries(&canary, flags("istio", "scrape?status=code"), &lookup)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let asked: Vec<(&str, &str)> = found
        .iter()
        .map(|query| (query.name.as_str(), query.query.as_str()))
        .collect();
    assert_eq!(
        asked,
        [
            (
                "request-success-rate",
                "request-success-rate?status=code&port=9797&path=/prom"
            ),
            (
                "request-duration",
                "request-duration?status=code&port=9797&path=/prom"
            ),
            (
                "median",
                "request-duration?quantile=0.5&port=9797&path=/prom"
            ),
            (
                "p90",
                "request-duration?quantile=0.9&port=1&scheme=https&path=/prom"
            ),
        ]
    );
    for query in &found {
        assert_eq!(query.provider_name(), "scrape");
        assert_eq!(
            query.provider.address.as_deref(),
            Some("podinfo-canary.test")
        );
    }
    assert_eq!(found[0].kind, MetricKind::SuccessRate);
    assert_eq!(
        found[1].kind,
        MetricKind::Duration(DurationUnit::Milliseconds)
    );
    assert!(found[3].provider.insecure_skip_verify && !found[0].provider.insecure_skip_verify);
    let unreachable = judge(&canary, &found[0], &Measurement::Error("why".into()));
    assert_eq!(
        unreachable.message.as_deref(),
        Some("Metric query failed for request-success-rate: why")
    );
}

#[test]
fn what_needs_a_prometheus_says_so_where_there_is_none() {
    let canary = canary(
        "
      - {name: errors, query: 'sum(up)', threshold: 1}
      - {name: saturation, threshold: 1}
      - {name: cpu, templateRef: {name: cpu}, threshold: 1}
",
    );
    let lookup = with_target(
        json!({}),
        json!({"provider": {"type": "prometheus"}, "query": "up"}),
    );
    let why: Vec<String> = queries(&canary, flags("kubernetes", "scrape"), &lookup)
        .into_iter()
        .map(|query| match query {
            Err(QueryProblem::Invalid { message, .. }) => message,
            other => panic!("expected a problem, found {other:?}"),
        })
        .collect();
    assert!(
        why[0].contains(
            "metricsServer is scrape, where no Prometheus answers: \"sum(up)\" is not a check"
        ),
        "{}",
        why[0]
    );
    assert!(
        why[1].contains("\"saturation\" is not built in"),
        "{}",
        why[1]
    );
    assert!(
        why[2].contains("spec.provider.address is missing, and the metrics server is scrape"),
        "{}",
        why[2]
    );
    let wrong = with_target(json!({"prometheus.io/port": "http"}), json!({}));
    let canary = super::tests::canary("      - {name: request-duration}\n");
    assert_eq!(
        queries(&canary, flags("kubernetes", "scrape"), &wrong),
        [Err(QueryProblem::Invalid {
            metric: "request-duration".into(),
            message: "Metric query failed for request-duration: scrape: port is \"http\"; expected a number from 1 to 65535".into(),
        })]
    );
}

#[test]
fn without_references_across_namespaces_the_api_server_is_asked_about_the_own_namespace_alone() {
    let canary = canary(
        "
      - {name: m, templateRef: {name: m}, interval: 1m}
",
    );
    let asked = |provider: Value, query: &str, forbidden: bool| {
        let flags = MetricFlags {
            no_cross_namespace_refs: forbidden,
            ..flags("kubernetes", "http://prometheus:9090")
        };
        let lookup = template(json!({"provider": provider, "query": query}));
        match queries(&canary, flags, &lookup).remove(0) {
            Ok(_) => None,
            Err(QueryProblem::Invalid { message, .. }) => Some(message),
            Err(other) => panic!("{other:?}"),
        }
    };
    let keptn = || json!({"type": "keptn"});
    let external = || json!({"type": "externalmetrics"});
    let elsewhere = json!({"type": "externalmetrics", "address": "https://adapter.example"});
    for (provider, query, allowed) in [
        (keptn(), "keptnmetric/{{ namespace }}/latency", true),
        (keptn(), "KeptnMetric/Test/latency", true),
        (keptn(), "keptnmetric/kube-system/latency", false),
        (keptn(), " Analysis/Prod/web/1m/a=b", false),
        (external(), "test/rate?labelSelector=a%3Db", true),
        (external(), "prod/rate", false),
        // Without a namespace the adapter's `default` is read.
        (external(), "rate", false),
        (elsewhere, "prod/rate", true),
    ] {
        let told = format!("{provider} {query}");
        assert_eq!(asked(provider.clone(), query, false), None, "{told}");
        let problem = asked(provider, query, true);
        assert_eq!(problem.is_none(), allowed, "{told}: {problem:?}");
        if let Some(message) = problem {
            assert!(message.contains("-no-cross-namespace-refs"), "{message}");
            assert!(message.contains("name test in it"), "{message}");
        }
    }
}

#[test]
fn what_may_be_a_credential_is_not_printed() {
    let mut config = ProviderConfig {
        headers: [("X-Api-Key".to_owned(), vec!["s3cret".to_owned()])].into(),
        ..ProviderConfig::default()
    };
    for (address, shown) in [
        (
            "https://ann:s3cret@prometheus:9090/x",
            "https://…@prometheus:9090/x",
        ),
        ("http://a:s3cret@b@prometheus", "http://…@prometheus"),
        ("http://prometheus/@me", "http://prometheus/@me"),
    ] {
        config.address = Some(address.to_owned());
        let text = format!("{config:?}");
        assert!(text.contains(&format!("{shown:?}")), "{text}");
        assert!(
            text.contains("X-Api-Key") && !text.contains("s3cret"),
            "{text}"
        );
    }
}

#[test]
fn given_calls_of_grpc_then_no_series_is_asked_that_knows_their_http_status_alone() {
    const OF_GATEWAYS: [&str; 3] = [
        "istio_requests_total",
        "envoy_cluster_upstream_rq",
        "traefik_service_request_duration_seconds_count",
    ];
    let asked = |canary: &Canary| -> usize {
        let found = sources(canary, flags("", "http://prometheus:9090"), &nothing).unwrap();
        let query = format!("{:?}", found.query);
        assert!(query.contains("http_request_duration_seconds_count"));
        let series = OF_GATEWAYS.iter();
        series.filter(|series| query.contains(*series)).count()
    };
    let metrics = "    - {name: request-success-rate, interval: 1m, thresholdRange: {min: 99}}";
    let mut one = canary(metrics);
    one.spec.provider = Some("gatewayapi:v1".to_owned());
    assert_eq!(asked(&one), 3);
    let mut generated = one.clone();
    let service = json!({"port": 80, "routeKind": "GRPCRoute"});
    generated.spec.service = serde_json::from_value(service).unwrap();
    assert_eq!(asked(&generated), 0);
    let reference =
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "name": "front"});
    let mut own = one.clone();
    own.spec.route_ref = serde_json::from_value(reference.clone()).unwrap();
    assert_eq!(asked(&own), 0);
    one.spec.route_refs = serde_json::from_value(json!([reference])).unwrap();
    assert_eq!(asked(&one), 0);
}
