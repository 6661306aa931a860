//! Node by node: ours accepts and keeps at least what Flagger's CRDs accept and keep.

use super::{flagger, ours, schema};
use serde_json::{Value, json};

#[test]
fn every_node_of_flaggers_schemas_is_accepted_at_least_as_widely_by_ours() {
    for (theirs, ours) in flagger().iter().zip(ours()) {
        let mut narrower = Vec::new();
        compare(schema(theirs), schema(ours), "", &mut narrower);
        assert!(narrower.is_empty(), "{narrower:#?}");
    }
}

#[test]
fn the_comparison_notices_what_would_be_narrower() {
    let theirs = json!({ "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "string" } } });
    let narrower = [
        json!({ "type": "object", "properties": { "a": { "type": "number" } } }),
        json!({ "type": "object", "properties": { "a": { "type": "integer" }, "b": { "type": "string" } } }),
        json!({ "type": "object", "required": ["a"], "properties": theirs["properties"] }),
        json!({ "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "string", "maxLength": 3 } } }),
        json!({ "type": "object", "properties": { "a": { "type": "number", "minimum": 0 }, "b": { "type": "string" } } }),
        json!({ "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "string", "enum": ["x"] } } }),
        json!({ "type": "object", "maxProperties": 3, "properties": theirs["properties"] }),
    ];
    for ours in narrower {
        let mut found = Vec::new();
        compare(&theirs, &ours, "", &mut found);
        assert!(!found.is_empty(), "not noticed: {ours}");
    }
}

/// Keys of a node that hold nothing back.
const HARMLESS: &[&str] = &[
    "description",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
];

fn compare(theirs: &Value, ours: &Value, path: &str, narrower: &mut Vec<String>) {
    let keys = ours.as_object().unwrap();
    for (key, value) in keys {
        let their = theirs.get(key);
        let accepted = match key.as_str() {
            _ if HARMLESS.contains(&key.as_str()) => true,
            "type" => {
                their == Some(value) || (their == Some(&json!("integer")) && value == "number")
            }
            "minimum" | "minLength" | "minItems" => {
                their.is_some_and(|their| value.as_f64() <= their.as_f64())
            }
            "maximum" | "maxLength" | "maxItems" => {
                their.is_some_and(|their| value.as_f64() >= their.as_f64())
            }
            "enum" => their.and_then(Value::as_array).is_some_and(|their| {
                let ours = value.as_array().unwrap();
                their.iter().all(|value| ours.contains(value))
            }),
            "required" => {
                let their = always_required(theirs);
                value
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|name| their.contains(name))
            }
            "x-kubernetes-validations" => rules(value)
                .iter()
                .all(|rule| their.map(rules).unwrap_or_default().contains(rule)),
            "oneOf" | "pattern" | "format" | "default" | "x-kubernetes-int-or-string" => {
                their == Some(value)
            }
            "properties" => true,
            "items" | "additionalProperties" => their.is_some(),
            _ => false,
        };
        if !accepted {
            narrower.push(format!("{path}: {key} is {value}, Flagger has {their:?}"));
        }
    }
    // The one list with keys: conditions, which Flagger writes with a single entry.
    if ours
        .get("x-kubernetes-list-type")
        .is_some_and(|kind| kind != "atomic")
        && path != ".status.conditions"
    {
        narrower.push(format!("{path}: entries with equal keys would be refused"));
    }
    for (name, field) in theirs["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match ours["properties"].get(name) {
            Some(our_field) => compare(field, our_field, &path, narrower),
            None => narrower.push(format!("{path}: would be pruned")),
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(their) = theirs.get(inner) {
            match ours.get(inner) {
                Some(our) => compare(their, our, &format!("{path}[]"), narrower),
                None => narrower.push(format!("{path}: {inner} would be pruned")),
            }
        }
    }
    if theirs.get("default").is_some() && ours.get("default").is_none() {
        narrower.push(format!("{path}: the default is gone"));
    }
}

/// The fields that a node asks for, itself or in every branch of its `oneOf`.
fn always_required(node: &Value) -> Vec<Value> {
    let names = |node: &Value| node["required"].as_array().cloned().unwrap_or_default();
    let mut required = names(node);
    let branches = node["oneOf"].as_array().cloned().unwrap_or_default();
    let in_first = branches.first().map(names).unwrap_or_default();
    required.extend(
        in_first
            .into_iter()
            .filter(|name| branches.iter().all(|branch| names(branch).contains(name))),
    );
    required
}

/// The CEL rules of a node, without regard to layout.
fn rules(validations: &Value) -> Vec<String> {
    let rules = validations
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|validation| validation["rule"].as_str());
    rules
        .map(|rule| rule.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}
