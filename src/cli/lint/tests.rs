//! Findings with their places, as golden files in `tests/fixtures/lint/`. `GOLDEN=write cargo test cli::lint` writes them anew.

use super::*;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn setting() -> ReviewSettings {
    ReviewSettings {
        mesh_provider: "gatewayapi:v1".to_owned(),
        no_cross_namespace_refs: false,
        refuse_unsupported: false,
    }
}

fn of_text(text: &str) -> Vec<Finding> {
    lint(
        &[("a.yaml".to_owned(), text.to_owned())],
        "default",
        &setting(),
    )
}

fn golden(name: &str, text: &str) {
    // A router more or less changes nothing of what is found here.
    let routers: Vec<&str> = crate::routing::table()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let text = text.replace(&routers.join(", "), "…");
    let path = root().join("tests/fixtures/lint").join(name);
    if std::env::var("GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text, expected,
        "{name} differs; GOLDEN=write writes it anew"
    );
}

#[test]
fn every_slip_of_the_shop_is_found_at_its_place() {
    let text = std::fs::read_to_string(root().join("tests/fixtures/lint/shop.yaml")).unwrap();
    let found = lint(&[("shop.yaml".to_owned(), text)], "default", &setting());
    for (format, name) in [
        (Format::Text, "shop.txt"),
        (Format::Json, "shop.json"),
        (Format::Github, "shop.github"),
        (Format::Azure, "shop.azure"),
    ] {
        golden(name, &told(&found, 1, format, Style::PLAIN));
    }
}

#[test]
fn what_the_routers_of_the_shop_lack_is_found_at_its_place() {
    let text = std::fs::read_to_string(root().join("tests/fixtures/lint/routers.yaml")).unwrap();
    let found = lint(&[("routers.yaml".to_owned(), text)], "default", &setting());
    golden("routers.txt", &told(&found, 1, Format::Text, Style::PLAIN));
}

#[test]
fn what_a_router_lacks_is_found_for_every_router_and_what_it_has_is_not() {
    let all = crate::routing::asked::all();
    let files: Vec<(String, String)> = all
        .iter()
        .enumerate()
        .map(|(index, asked)| (index.to_string(), asked.canary.to_string()))
        .collect();
    for refuse_unsupported in [false, true] {
        let setting = ReviewSettings {
            refuse_unsupported,
            ..setting()
        };
        let mut found = std::collections::BTreeMap::<&str, Vec<&Finding>>::new();
        let findings = lint(&files, "default", &setting);
        for one in findings.iter().filter(|one| one.rule == "router") {
            found.entry(&one.file).or_default().push(one);
        }
        for (index, asked) in all.iter().enumerate() {
            let found = found
                .get(index.to_string().as_str())
                .into_iter()
                .flatten()
                .filter(|one| asked.is_at(&one.field))
                .map(|one| one.severity)
                .min();
            let expected = asked.refused.map(|severity| match severity {
                crate::routing::Severity::Warning if !refuse_unsupported => Severity::Warning,
                _ => Severity::Error,
            });
            assert_eq!(found, expected, "{} {refuse_unsupported}", asked.what);
        }
    }
}

#[test]
fn the_examples_are_without_errors() {
    let mut texts = Vec::new();
    gather(&root().join("examples"), &mut texts).unwrap();
    assert!(texts.len() > 2);
    let found = lint(&texts, "default", &setting());
    let errors: Vec<&Finding> = found
        .iter()
        .filter(|one| one.severity != Severity::Note)
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn what_flagger_takes_is_no_schema_error() {
    let mut texts = Vec::new();
    gather(&root().join("tests/fixtures/canaries"), &mut texts).unwrap();
    let found = lint(&texts, "default", &setting());
    let wrong: Vec<&Finding> = found
        .iter()
        .filter(|one| one.rule == "schema" || one.rule == "yaml")
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_yaml_and_no_canary_are_told() {
    let found = of_text("kind: [\n");
    assert_eq!(found[0].rule, "yaml");
    let found = of_text("apiVersion: flagger.app/v1beta1\nkind: Canarie\nmetadata: {name: a}\n");
    assert_eq!((found[0].line, found[0].field.as_str()), (2, "kind"));
    assert_eq!(
        of_text("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n"),
        []
    );
}

#[test]
fn alerts_that_reach_nobody_are_found() {
    let text = "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: shop}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}
  service: {port: 80, gatewayRefs: [{name: gateway}]}
  analysis:
    interval: 1m
    threshold: 1
    stepWeight: 10
    alerts:
      - {name: a, providerRef: {name: chta}, template: '{{ .mesage }}'}
---
apiVersion: flagger.app/v1beta1
kind: AlertProvider
metadata: {name: chat}
spec: {type: slack, address: hooks.slack.com/s3cret, link: '{{ cluster }}'}
---
apiVersion: flagger.app/v1beta1
kind: AlertProvider
metadata: {name: pager}
spec: {type: webhook, secretRef: {name: pager}}
---
apiVersion: v1
kind: Secret
metadata: {name: pager}
stringData: {token: s3cret}
";
    let found = of_text(text);
    for (severity, field, words) in [
        (
            Severity::Warning,
            "spec.analysis.alerts[0].providerRef",
            "AlertProvider default/chta is not in these files; did you mean chat?",
        ),
        (
            Severity::Error,
            "spec.analysis.alerts[0].template",
            "there is no .mesage here",
        ),
        (Severity::Error, "spec.address", "is no address"),
        (
            Severity::Error,
            "spec.link",
            "the function \"cluster\" is not known",
        ),
        (
            Severity::Error,
            "spec.secretRef.name",
            "Secret default/pager lacks the key address",
        ),
    ] {
        assert!(
            found.iter().any(|one| one.severity == severity
                && one.field == field
                && one.message.contains(words)),
            "{field}: {words}: {found:#?}"
        );
    }
    assert!(
        found.iter().all(|one| !one.message.contains("s3cret")),
        "{found:#?}"
    );
}

/// A canary that brings its own route, with the route in the same file.
fn own_route(reference: &str, backends: &str) -> Vec<String> {
    let text = format!(
        "
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {{name: web}}
spec:
  targetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}
  routeRef: {reference}
  service: {{port: 80}}
  analysis: {{interval: 1m, threshold: 5, stepWeight: 10, maxWeight: 50}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop}}
spec: {{rules: [{{backendRefs: {backends}}}]}}
"
    );
    of_text(&text)
        .into_iter()
        .filter(|one| one.rule == "router")
        .map(|one| format!("{:?} {}: {}", one.severity, one.field, one.message))
        .collect()
}

#[test]
fn a_route_of_the_users_own_is_looked_at_where_it_stands_in_the_files() {
    const HTTP: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, name: shop}";
    let fine = "[{name: web, port: 80, weight: 100}, {name: web-canary, port: 80, weight: 0}]";
    assert_eq!(own_route(HTTP, fine), Vec::<String>::new());
    let elsewhere = HTTP.replace("shop", "elsewhere");
    assert_eq!(own_route(&elsewhere, "[]"), Vec::<String>::new());
    let table = [
        (
            HTTP,
            "[{name: web, port: 80}]",
            "Error spec.routeRef: HTTPRoute shop.default: spec.rules[0] names web and not web-canary",
        ),
        (
            HTTP,
            "[]",
            "Error spec.routeRef: HTTPRoute shop.default: no rule names both sides",
        ),
        (
            HTTP,
            "[{name: web, port: 80}, {name: web-canary, port: 80}]",
            "Warning spec.routeRef: the route gives web-canary a share while nothing is released",
        ),
        (
            "{apiVersion: demo.example/v1, kind: Split, name: shop}",
            fine,
            "Error spec.routeRef.kind: Split of demo.example/v1; where its weights stand is known for HTTPRoute",
        ),
        (
            "{apiVersion: demo.example/v1, kind: Split, name: shop, weightPaths: {canary: '.spec[*]'}}",
            fine,
            "Error spec.routeRef.weightPaths.canary: .spec[*]: [*] is not understood",
        ),
    ];
    for (reference, backends, wanted) in table {
        let found = own_route(reference, backends);
        assert!(
            found.len() == 1 && found[0].starts_with(wanted),
            "{backends}: {found:#?}"
        );
    }
}

#[test]
fn what_a_backend_needs_and_a_template_lacks_is_told_at_its_place() {
    let found = of_text(
        "apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: alarms, namespace: shop}
spec:
  provider:
    type: cloudwatch
    region: Frankfurt
    address: https://elsewhere.example
  query: '[]'
---
apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: errors, namespace: shop}
spec:
  provider: {type: splunk}
  query: data('errors').publish()
---
apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: rate, namespace: shop}
spec:
  provider: {type: datadog, secretRef: {name: keys}}
  query: sum:errors
---
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: web, namespace: shop}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  service: {port: 80, gatewayRefs: [{name: gateway, namespace: infra}]}
  analysis:
    interval: 1m
    threshold: 2
    stepWeight: 20
    metrics:
      - name: rate
        templateRef: {name: rate, namespace: shop}
        thresholdRange: {max: 1}
",
    );
    let told: Vec<String> = found
        .iter()
        .filter(|one| one.severity != Severity::Note)
        .map(|one| {
            format!(
                "{}:{}: {}: {}",
                one.line,
                word(one.severity),
                one.field,
                one.message
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "7:error: spec.provider.region: Frankfurt: is not a region's name; expected for example eu-central-1",
            "8:warning: spec.provider.address: https://elsewhere.example: is not used: the region's endpoint is asked with the controller's own identity, which no other server sees; the controller's environment can name another endpoint (AWS_ENDPOINT_URL_CLOUDWATCH)",
            "15:error: spec.provider.address: is required for splunk; expected for example https://api.REALM.signalfx.com",
            "15:error: spec.provider.secretRef: is required for splunk; name a Secret in the template's namespace with sf_token_key",
            "36:error: spec.analysis.metrics[0]: spec.analysis.metrics[name=rate].interval: is required for metrics from datadog: it says how far back to look; expected for example 1m",
        ]
    );
}
