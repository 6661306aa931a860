//! Findings with their places, as golden files in `tests/fixtures/lint/`. `GOLDEN=write cargo test cli::lint` writes them anew.

use super::*;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn setting() -> Setting {
    Setting {
        mesh_provider: "gatewayapi:v1".to_owned(),
        no_cross_namespace_refs: false,
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
    let path = root().join("tests/fixtures/lint").join(name);
    if std::env::var("GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, text).unwrap();
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
