//! What the API server does with a structural schema, as far as these CRDs use it: says whether a value is valid, and
//! prunes what the schema does not know.

use serde_json::Value;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// All reasons why `value` is not valid; empty when it is.
pub fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, value, "", &mut found);
    found
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    for (key, rule) in schema.as_object().into_iter().flatten() {
        let holds = match key.as_str() {
            "type" => has_type(rule.as_str().unwrap(), value),
            "x-kubernetes-int-or-string" => value.is_string() || has_type("integer", value),
            "enum" => rule.as_array().unwrap().contains(value),
            "pattern" => value
                .as_str()
                .is_none_or(|text| matches(rule.as_str().unwrap(), text)),
            "format" if rule == "date-time" => value
                .as_str()
                .is_none_or(|text| text.parse::<jiff::Timestamp>().is_ok()),
            "minimum" => value
                .as_f64()
                .is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value
                .as_f64()
                .is_none_or(|number| number <= rule.as_f64().unwrap()),
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap()),
            "maxLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().unwrap()),
            "maxItems" => value
                .as_array()
                .is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "required" => value.as_object().is_none_or(|fields| {
                rule.as_array()
                    .unwrap()
                    .iter()
                    .all(|name| fields.contains_key(name.as_str().unwrap()))
            }),
            "oneOf" => {
                rule.as_array()
                    .unwrap()
                    .iter()
                    .filter(|branch| violations(branch, value).is_empty())
                    .count()
                    == 1
            }
            "anyOf" => rule
                .as_array()
                .unwrap()
                .iter()
                .any(|branch| violations(branch, value).is_empty()),
            "not" => !violations(rule, value).is_empty(),
            "properties" | "items" | "additionalProperties" | "description" | "default" => true,
            other => other.starts_with("x-kubernetes-") || other == "format",
        };
        if !holds {
            found.push(format!("{path}: {value} does not meet {key} {rule}"));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match (
            schema["properties"].get(name),
            schema.get("additionalProperties"),
        ) {
            (Some(schema), _) | (None, Some(schema)) => check(schema, field, &path, found),
            (None, None) => {}
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(&schema["items"], item, &format!("{path}[{index}]"), found);
    }
}

/// Compiling a pattern costs far more than using it.
fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: LazyLock<Mutex<HashMap<String, regex::Regex>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap();
    let regex = compiled
        .entry(pattern.to_owned())
        .or_insert_with(|| regex::Regex::new(pattern).unwrap());
    regex.is_match(text)
}

fn has_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("type {other}"),
    }
}

/// The value as it would be stored: without fields that the schema does not know.
pub fn pruned(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(fields)
            if schema.get("properties").is_some()
                || schema.get("additionalProperties").is_some() =>
        {
            fields
                .iter()
                .filter_map(|(name, field)| {
                    let inner = schema["properties"]
                        .get(name)
                        .or_else(|| schema.get("additionalProperties"))?;
                    Some((name.clone(), pruned(inner, field)))
                })
                .collect()
        }
        Value::Array(items) => items
            .iter()
            .map(|item| pruned(&schema["items"], item))
            .collect(),
        other => other.clone(),
    }
}

/// The value without empty lists and empty free-form maps, which mean the same as nothing, and with whole numbers
/// written as such. Empty objects with fields of their own stay: `exact`-less matches and the like have a meaning.
pub fn without_empties(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter_map(|(name, field)| {
                let inner = schema["properties"]
                    .get(name)
                    .or_else(|| schema.get("additionalProperties"))?;
                let free_form = inner.get("additionalProperties").is_some();
                let empty = field.as_array().is_some_and(Vec::is_empty)
                    || (free_form && field.as_object().is_some_and(serde_json::Map::is_empty));
                (!empty).then(|| (name.clone(), without_empties(inner, field)))
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .map(|item| without_empties(&schema["items"], item))
            .collect(),
        Value::Number(number) => match number.as_f64() {
            #[allow(clippy::cast_possible_truncation)]
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => Value::from(float as i64),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}
