//! The files in `crds/` and what they must say.

use super::{flagger, in_repository, ours, schema};
use serde_json::Value;
use serin::api::crd;

#[test]
fn the_files_in_crds_are_what_the_types_say() {
    for (name, definition) in crd::all() {
        let path = in_repository("crds").join(name);
        let expected = crd::as_yaml(&definition);
        if std::env::var_os("SERIN_UPDATE").is_some() {
            std::fs::create_dir_all(in_repository("crds")).unwrap();
            std::fs::write(&path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == expected,
            "crds/{name} is out of date: run SERIN_UPDATE=1 cargo test --test crds"
        );
    }
}

#[test]
fn the_yaml_reads_back_as_the_same_definitions() {
    for (name, definition) in crd::all() {
        let read: Value = serde_saphyr::from_str(&crd::as_yaml(&definition)).unwrap();
        assert_eq!(read, definition, "{name}");
    }
    assert_eq!(crd::all_as_yaml().matches("---\n").count(), 3);
}

#[test]
fn group_names_columns_and_annotations_are_flaggers() {
    for (theirs, ours) in flagger().iter().zip(ours()) {
        let frame = |definition: &Value| {
            let mut frame = definition.clone();
            frame["spec"]["versions"][0]["schema"] = Value::Null;
            frame
        };
        assert_eq!(frame(ours), frame(theirs));
    }
}

#[test]
fn every_field_is_explained() {
    for definition in ours() {
        let mut poor = Vec::new();
        explained(schema(definition), "", &mut poor);
        assert!(
            poor.is_empty(),
            "fields without a sentence of explanation: {poor:#?}"
        );
    }
}

/// Collects fields whose description is missing, short, no sentence, or (where optional in a spec) says no default.
fn explained(node: &Value, path: &str, poor: &mut Vec<String>) {
    for (name, field) in node["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let description = field["description"].as_str().unwrap_or_default();
        let is_sentence = description.len() >= 20 && description.ends_with('.');
        if path != ".metadata" && !is_sentence {
            poor.push(format!("{path}: {description:?}"));
        }
        explained(field, &path, poor);
    }
    for inner in ["items", "additionalProperties"] {
        if node[inner].is_object() {
            explained(&node[inner], &format!("{path}[]"), poor);
        }
    }
}

#[test]
fn optional_numbers_and_durations_say_their_default() {
    for definition in ours() {
        let mut silent = Vec::new();
        defaults_said(
            &schema(definition)["properties"]["spec"],
            "spec",
            &mut silent,
        );
        assert!(
            silent.is_empty(),
            "optional fields that do not say their default: {silent:#?}"
        );
    }
}

fn defaults_said(node: &Value, path: &str, silent: &mut Vec<String>) {
    let required: Vec<&str> = node["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in node["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let kind = field["type"].as_str().unwrap_or_default();
        let description = field["description"].as_str().unwrap_or_default();
        if matches!(kind, "number" | "integer" | "boolean")
            && !required.contains(&name.as_str())
            && !description.contains("Default: ")
        {
            silent.push(path.clone());
        }
        defaults_said(field, &path, silent);
    }
    for inner in ["items", "additionalProperties"] {
        if node[inner].is_object() {
            defaults_said(&node[inner], &format!("{path}[]"), silent);
        }
    }
}
