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
