//! From the API server's JSON to our types, with errors that name the field, the value found and what would be right.
//!
//! Flagger's CRD says `number` where whole numbers are meant, so `stepWeight: 10.0` and even `2.5` can be stored. A
//! number without a fraction is read as whole wherever it stands; one with a fraction is an error of that one object,
//! never of the list it came in.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};
use thiserror::Error;

use super::{API_VERSION, Metadata};

/// A part of an object that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path}: {message}")]
pub struct DecodeError {
    /// Where, as one would write it in `kubectl explain`: `spec.analysis.stepWeights[1]`.
    pub path: String,
    /// The value found there, as compact JSON; `None` when the field is missing.
    pub found: Option<String>,
    /// What was found and what would be right, in one sentence.
    pub message: String,
}

impl DecodeError {
    fn at(path: impl Into<String>, found: Option<&Value>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            found: found.map(shown),
            message: message.into(),
        }
    }
}

/// What every kind is made of, before spec and status are looked at.
pub(crate) fn envelope(object: &Value, kind: &str) -> Result<Metadata, DecodeError> {
    if !object.is_object() {
        let message = format!("expected a {kind} object, found {}", shown(object));
        return Err(DecodeError::at("", Some(object), message));
    }
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", kind)] {
        // Items of a list may come without the two.
        match object.get(field) {
            None | Some(Value::Null) => {}
            Some(found) if found.as_str() == Some(expected) => {}
            Some(found) => {
                let message = format!("expected \"{expected}\", found {}", shown(found));
                return Err(DecodeError::at(field, Some(found), message));
            }
        }
    }
    let metadata = Metadata::of(object);
    if metadata.name.is_empty() {
        let found = object
            .get("metadata")
            .and_then(|metadata| metadata.get("name"));
        return Err(DecodeError::at(
            "metadata.name",
            found,
            "is required: the name of the object",
        ));
    }
    Ok(metadata)
}

/// Decodes the part of `object` under `field`, which must be there.
pub(crate) fn required<T: DeserializeOwned>(object: &Value, field: &str) -> Result<T, DecodeError> {
    match object.get(field) {
        None | Some(Value::Null) => Err(DecodeError::at(field, None, "is required and missing")),
        Some(part) => decode(&normalised(part), field),
    }
}

/// Decodes the part of `object` under `field` as far as it can be understood.
///
/// What cannot is treated as absent, piece by piece, and told in the second value. `None` when the field is absent.
pub(crate) fn lenient<T: DeserializeOwned>(
    object: &Value,
    field: &str,
) -> (Option<T>, Vec<DecodeError>) {
    let mut problems = Vec::new();
    let mut part = match object.get(field) {
        None | Some(Value::Null) => return (None, problems),
        Some(part) => normalised(part),
    };
    loop {
        match decode_at(&part) {
            Ok(decoded) => return (Some(decoded), problems),
            Err((steps, error)) => {
                problems.push(explain(&part, field, &steps, &error));
                // Each round takes a piece away, so this ends; a whole that is odd in itself is absent.
                if !remove(part.to_mut(), &steps) {
                    return (None, problems);
                }
            }
        }
    }
}

fn decode<T: DeserializeOwned>(part: &Value, field: &str) -> Result<T, DecodeError> {
    decode_at(part).map_err(|(steps, error)| explain(part, field, &steps, &error))
}

/// One step on the way into a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

fn decode_at<T: DeserializeOwned>(part: &Value) -> Result<T, (Vec<Step>, String)> {
    // Keeping track of the way costs as much as decoding; it is only needed where something is wrong.
    if let Ok(decoded) = T::deserialize(part) {
        return Ok(decoded);
    }
    serde_path_to_error::deserialize(part).map_err(|error| {
        let steps = error.path().iter().filter_map(|segment| match segment {
            serde_path_to_error::Segment::Seq { index } => Some(Step::Index(*index)),
            serde_path_to_error::Segment::Map { key } => Some(Step::Key(key.clone())),
            serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => {
                None
            }
        });
        (steps.collect(), error.inner().to_string())
    })
}

/// Makes a sentence of serde's error: what is there, and what would be right.
fn explain(part: &Value, field: &str, steps: &[Step], error: &str) -> DecodeError {
    let mut path = field.to_owned();
    let mut found = Some(part);
    for step in steps {
        match step {
            Step::Key(key) => {
                path.push('.');
                path.push_str(key);
                found = found.and_then(|value| value.get(key));
            }
            Step::Index(index) => {
                path.extend(["[", &index.to_string(), "]"]);
                found = found.and_then(|value| value.get(*index));
            }
        }
    }
    if let Some(missing) = error
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next())
    {
        return DecodeError::at(format!("{path}.{missing}"), None, "is required and missing");
    }
    let Some(value) = found else {
        return DecodeError::at(path, None, error);
    };
    let message = match (fraction(value), expectation(error)) {
        (Some(number), Some("a whole number")) => {
            format!(
                "{number} is not a whole number; use {} or {}",
                number.floor(),
                number.ceil()
            )
        }
        (_, Some(expected)) => format!("expected {expected}, found {}", shown(value)),
        (_, None) => format!("found {}: {error}", shown(value)),
    };
    DecodeError::at(path, Some(value), message)
}

fn fraction(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.fract() != 0.0)
}

/// What serde's message says was expected, in the words of a manifest's author.
fn expectation(error: &str) -> Option<&str> {
    let expected = error
        .split_once("expected ")
        .map(|(_, expected)| expected)?;
    Some(match expected {
        "i64" | "i32" | "u64" | "u32" | "u16" | "u8" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if expected.starts_with("struct ") => "an object",
        _ if expected.contains("timestamp") => "a time such as 2030-01-31T12:00:00Z",
        _ => expected,
    })
}

/// The value as compact JSON, cut to a length that still fits a message.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 120;
    let text = value.to_string();
    if text.chars().count() <= LONGEST {
        text
    } else {
        text.chars().take(LONGEST).chain("…".chars()).collect()
    }
}

/// The same value without nulls in objects, and with whole numbers written as such (`10.0` becomes `10`).
pub(crate) fn normalised(value: &Value) -> Cow<'_, Value> {
    if is_normal(value) {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(made_normal(value))
    }
}

fn is_normal(value: &Value) -> bool {
    match value {
        Value::Number(number) => whole(number).is_none(),
        Value::Array(items) => items.iter().all(is_normal),
        Value::Object(fields) => fields
            .values()
            .all(|value| !value.is_null() && is_normal(value)),
        _ => true,
    }
}

fn made_normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(whole(number).unwrap_or_else(|| number.clone())),
        Value::Array(items) => Value::Array(items.iter().map(made_normal).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), made_normal(value)))
                .collect::<Map<_, _>>(),
        ),
        other => other.clone(),
    }
}

/// The whole number that a floating one stands for, as far as a double holds whole numbers exactly.
#[allow(clippy::cast_possible_truncation)] // checked against the range just before
pub(crate) fn whole(number: &Number) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if !number.is_f64() {
        return None;
    }
    let value = number.as_f64()?;
    (value.fract() == 0.0 && value.abs() <= EXACT).then(|| Number::from(value as i64))
}

/// Takes away the piece at `steps`; false when that would be everything.
fn remove(value: &mut Value, steps: &[Step]) -> bool {
    let Some((last, way)) = steps.split_last() else {
        return false;
    };
    let mut holder = value;
    for step in way {
        let next = match step {
            Step::Key(key) => holder.get_mut(key),
            Step::Index(index) => holder.get_mut(*index),
        };
        match next {
            Some(next) => holder = next,
            None => return false,
        }
    }
    match (last, holder) {
        (Step::Key(key), Value::Object(fields)) => fields.remove(key).is_some(),
        (Step::Index(index), Value::Array(items)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}
