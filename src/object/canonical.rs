//! The canonical form of JSON and its hash, and the question "does the live object already say this?".

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Members that API servers of different versions write as `{}` or leave out, meaning the same. Elsewhere `{}` says something:
/// an empty `namespaceSelector` selects all namespaces, a missing one none.
const EMPTY_MEANS_ABSENT: [&str; 8] = [
    "resources",
    "securityContext",
    "metadata",
    "labels",
    "annotations",
    "nodeSelector",
    "strategy",
    "status",
];

/// JSON with object keys sorted, no white space; the input of every hash. Members that are `null`, empty lists, or empty where that
/// means absent are left out, since the API server drops or adds them at will.
#[must_use]
pub fn canonical_json(value: &Value) -> String {
    let mut out = String::with_capacity(1024);
    write_canonical(value, &mut out);
    out
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn says_nothing(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty() && EMPTY_MEANS_ABSENT.contains(&key),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut members: Vec<(&String, &Value)> = map
                .iter()
                .filter(|(key, value)| !says_nothing(key, value))
                .collect();
            // Sorted already, unless some crate of the build asks serde_json to keep the order of insertion.
            if !members.is_sorted_by_key(|(key, _)| *key) {
                members.sort_by_key(|(key, _)| *key);
            }
            out.push('{');
            for (position, (key, value)) in members.into_iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write_canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::String(text) => write_string(text, out),
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// A JSON string. Most need no escape and are copied as they are.
fn write_string(text: &str, out: &mut String) {
    if text
        .bytes()
        .any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\')
    {
        out.push_str(&Value::String(text.to_owned()).to_string());
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

/// SHA-256 over [`canonical_json`], 64 lower-case hexadecimal digits.
#[must_use]
pub fn digest(value: &Value) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    Sha256::digest(canonical_json(value).as_bytes())
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// The first sixteen digits of [`digest`]: enough to tell objects apart, short enough for a name or an annotation.
#[must_use]
pub fn short_digest(value: &Value) -> String {
    let mut text = digest(value);
    text.truncate(16);
    text
}

/// Keys by which the API server merges the elements of lists that are not atomic, in the order in which they are tried.
const MERGE_KEYS: [&[&str]; 6] = [
    &["containerPort", "protocol"],
    &["port", "protocol"],
    &["mountPath"],
    &["topologyKey", "whenUnsatisfiable"],
    &["uid"],
    &["name"],
];

/// Whether `live` already says everything that `desired` says. Fields that only `live` has are defaults or belong to
/// somebody else and don't matter; in lists with a merge key the same holds for elements, other lists must have the same
/// length and match element by element. Empty values in `desired` are covered by nothing at all.
#[must_use]
pub fn covers(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (_, desired) if is_empty(desired) => true,
        (Value::Object(live), Value::Object(desired)) => desired.iter().all(|(key, value)| {
            is_empty(value) || live.get(key).is_some_and(|live| covers(live, value))
        }),
        (Value::Array(live), Value::Array(desired)) => covers_list(live, desired),
        (Value::Number(live), Value::Number(desired)) => {
            live == desired || live.as_f64() == desired.as_f64()
        }
        (live, desired) => live == desired,
    }
}

fn covers_list(live: &[Value], desired: &[Value]) -> bool {
    let identity = |item: &Value| -> Option<Vec<String>> {
        MERGE_KEYS.iter().find_map(|keys| {
            item.get(keys[0])?;
            Some(
                keys.iter()
                    .map(|key| item.get(*key).map_or_else(String::new, Value::to_string))
                    .collect(),
            )
        })
    };
    let keyed: Option<Vec<Vec<String>>> = desired.iter().map(identity).collect();
    // backendRefs and the rules of routes are atomic although their elements have names: only lists whose elements are
    // told apart by their key may be compared as sets.
    let unique = keyed.as_ref().is_some_and(|keys| {
        let mut sorted = keys.clone();
        sorted.sort();
        sorted.dedup();
        sorted.len() == keys.len()
    });
    if unique
        && live.len() >= desired.len()
        && !desired.iter().any(|item| item.get("weight").is_some())
    {
        return desired
            .iter()
            .all(|wanted| live.iter().any(|item| covers(item, wanted)));
    }
    live.len() == desired.len()
        && live
            .iter()
            .zip(desired)
            .all(|(live, desired)| covers(live, desired))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn canonical_form_ignores_order_and_emptiness() {
        let one = json!({"b": 1, "resources": {}, "a": [], "d": null, "c": ["z", "y"]});
        let other = json!({"c": ["z", "y"], "b": 1});
        assert_eq!(canonical_json(&one), canonical_json(&other));
        assert_eq!(canonical_json(&one), r#"{"b":1,"c":["z","y"]}"#);
        assert_ne!(digest(&one), digest(&json!({"b": 1, "c": ["y", "z"]})));
        assert_eq!(digest(&one).len(), 64);
    }

    #[test]
    fn an_empty_selector_is_not_a_missing_one() {
        assert_ne!(
            digest(&json!({"topologyKey": "zone", "namespaceSelector": {}})),
            digest(&json!({"topologyKey": "zone"}))
        );
    }

    #[test]
    fn a_live_object_with_defaults_and_foreign_fields_covers_the_desired_one() {
        let desired = json!({"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "app", "image": "a:1"}]}}}});
        let live = json!({"spec": {"replicas": 2, "paused": false, "template": {"spec": {"restartPolicy": "Always",
            "containers": [{"name": "proxy", "image": "p"}, {"name": "app", "image": "a:1", "imagePullPolicy": "Always"}]}}}});
        assert!(covers(&live, &desired));
        let other_image = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "a:2"}]}}}});
        assert!(!covers(&live, &other_image));
    }

    #[test]
    fn weighted_backends_are_compared_whole() {
        let desired = json!([{"name": "p", "weight": 90}, {"name": "c", "weight": 10}]);
        assert!(covers(
            &json!([{"name": "p", "weight": 90, "kind": "Service"}, {"name": "c", "weight": 10}]),
            &desired
        ));
        assert!(!covers(
            &json!([{"name": "p", "weight": 90}, {"name": "c", "weight": 10}, {"name": "x", "weight": 1}]),
            &desired
        ));
        assert!(!covers(
            &json!([{"name": "p", "weight": 80}, {"name": "c", "weight": 20}]),
            &desired
        ));
    }
}
