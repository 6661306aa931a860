//! The charts say what the code says: rights, custom resource definitions, names of metrics, flags, and a README that knows every value. With
//! `SERIN_UPDATE=1` (as `make chart` sets it) what is generated is written anew.
#![allow(clippy::unwrap_used)]
use serde_json::Value;
use serin::api::crd;
use serin::controller::permissions;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The charts: of the controller, and of the load tester.
const CHARTS: [&str; 2] = ["serin", "loadtester"];

fn folder(chart: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("charts")
        .join(chart)
}

fn chart() -> PathBuf {
    folder("serin")
}

fn text_of(chart: &str, name: &str) -> String {
    fs::read_to_string(folder(chart).join(name)).unwrap()
}

fn text(name: &str) -> String {
    text_of("serin", name)
}

/// Holds a generated file of the chart to what it should be.
fn generated(name: &str, expected: &str) {
    generated_in("serin", name, expected);
}

fn generated_in(chart: &str, name: &str, expected: &str) {
    let path = folder(chart).join(name);
    if std::env::var_os("SERIN_UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "charts/{chart}/{name} is out of date: run make chart"
    );
}

#[test]
fn its_rights_are_the_tables() {
    let note = "# Written by `make chart` from src/controller/permissions.rs.\n";
    let table = crd::as_yaml(&permissions::for_chart());
    generated("files/permissions.yaml", &format!("{note}{table}"));
}

#[test]
fn its_definitions_are_the_types() {
    let all = crd::all();
    for (name, definition) in &all {
        generated(&format!("files/crds/{name}"), &crd::as_yaml(definition));
    }
    let found = fs::read_dir(chart().join("files/crds")).unwrap().count();
    assert_eq!(found, all.len(), "files/crds holds something else");
}

/// One value: its path, its default as YAML, its comment.
struct Row {
    path: String,
    default: String,
    comment: String,
}

/// The rows of `values.yaml`: each key with a comment above it, and keys below one that has none.
fn rows(values: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut comment = String::new();
    // Lines deeper than this belong to the default of the last row.
    let mut inside: Option<usize> = None;
    for line in values.lines() {
        let bare = line.trim_start();
        let depth = line.len() - bare.len();
        if bare.is_empty() {
            comment.clear();
            continue;
        }
        if inside.is_some_and(|least| depth > least) {
            let row = rows.last_mut().unwrap();
            row.default.push_str(&line[inside.unwrap() + 2..]);
            row.default.push('\n');
            continue;
        }
        inside = None;
        if let Some(words) = bare.strip_prefix("# ") {
            let sentence = format!("{comment} {words}");
            sentence.trim().clone_into(&mut comment);
            continue;
        }
        let (key, default) = bare.split_once(':').unwrap();
        while parents.last().is_some_and(|(other, _)| *other >= depth) {
            parents.pop();
        }
        parents.push((depth, key.to_owned()));
        if comment.is_empty() {
            assert!(
                default.is_empty(),
                "{key}: a value needs a comment above it"
            );
            continue;
        }
        let names: Vec<&str> = parents.iter().map(|(_, name)| name.as_str()).collect();
        if default.is_empty() {
            inside = Some(depth);
        }
        rows.push(Row {
            path: names.join("."),
            default: default.trim().to_owned(),
            comment: std::mem::take(&mut comment),
        });
    }
    rows
}

#[test]
fn the_readmes_know_every_value() {
    for chart in CHARTS {
        readme_knows_every_value(chart);
    }
}

fn readme_knows_every_value(chart: &str) {
    const MARK: &str =
        "<!-- values: written by `make chart` from the comments of values.yaml -->\n";
    let readme = text_of(chart, "README.md");
    let (head, _) = readme.split_once(MARK).unwrap();
    let mut table = String::from("\n| value | default | |\n|---|---|---|\n");
    for row in rows(&text_of(chart, "values.yaml")) {
        let default = if row.default.contains('\n') {
            let value: Value = serde_saphyr::from_str(&row.default).unwrap();
            value.to_string()
        } else {
            row.default
        };
        let _ = writeln!(
            table,
            "| `{}` | `{default}` | {} |",
            row.path,
            row.comment.replace('|', "\\|")
        );
    }
    generated_in(chart, "README.md", &format!("{head}{MARK}{table}"));
}

#[test]
fn the_schemas_know_every_value() {
    for chart in CHARTS {
        let schema: Value = serde_json::from_str(&text_of(chart, "values.schema.json")).unwrap();
        for row in rows(&text_of(chart, "values.yaml")) {
            let mut node = &schema;
            for name in row.path.split('.') {
                let next = &node["properties"][name];
                assert!(
                    next.is_object(),
                    "charts/{chart}/values.schema.json has nothing for {}",
                    row.path
                );
                node = next;
            }
        }
    }
}

#[test]
fn the_flags_that_the_charts_give_exist() {
    let command = serin::cli::command();
    let flag = regex::Regex::new(r#"(?m)^\s*- (?:\{\{ printf ")?--?([a-z][a-z-]+)"#).unwrap();
    for (chart, name) in [("serin", "controller"), ("loadtester", "loadtester")] {
        let known: BTreeSet<&str> = command
            .find_subcommand(name)
            .unwrap()
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .collect();
        let template = text_of(chart, "templates/deployment.yaml");
        let given: BTreeSet<&str> = flag
            .captures_iter(&template)
            .map(|found| found.get(1).unwrap().as_str())
            .collect();
        assert!(given.len() > 8, "{given:?}");
        let wrong: Vec<_> = given.difference(&known).collect();
        assert!(
            wrong.is_empty(),
            "charts/{chart} gives serin {name} {wrong:?}"
        );
    }
}

#[test]
fn dashboard_and_alerts_ask_for_series_that_there_are() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/controller/metrics.rs");
    let source = fs::read_to_string(source).unwrap();
    let known: BTreeSet<String> = regex::Regex::new(r#""((?:flagger|serin)_[a-z_]+)""#)
        .unwrap()
        .captures_iter(&source)
        .map(|found| found[1].to_owned())
        .collect();
    assert!(known.len() > 10, "{known:?}");
    let name = regex::Regex::new(r"\b(?:flagger|serin)_[a-z_]+\b").unwrap();
    for file in ["files/dashboard.json", "files/alerts.yaml"] {
        let text = text(file);
        let asked: BTreeSet<&str> = name.find_iter(&text).map(|found| found.as_str()).collect();
        assert!(asked.len() > 4, "{file}: {asked:?}");
        for series in asked {
            let family = ["_total", "_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| series.strip_suffix(suffix))
                .unwrap_or(series);
            assert!(
                known.contains(series) || known.contains(family),
                "{file} asks for {series}, which the controller does not have"
            );
        }
    }
}

#[test]
fn their_version_is_the_codes() {
    for chart in CHARTS {
        let meta: Value = serde_saphyr::from_str(&text_of(chart, "Chart.yaml")).unwrap();
        assert_eq!(meta["appVersion"], env!("CARGO_PKG_VERSION"));
    }
}
