//! Label and field selectors, as the API writes them.

use serde_json::Value;
use std::collections::BTreeSet;

/// Which objects a list or a watch is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(Vec<String>, bool, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    /// Reads both selectors; empty ones select everything.
    ///
    /// # Errors
    /// A sentence on what is not understood.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, String> {
        let labels = split(labels)
            .into_iter()
            .map(requirement)
            .collect::<Result<_, _>>()?;
        let mut wanted = Vec::new();
        for part in fields
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==") {
                (path, true, value)
            } else if let Some((path, value)) = part.split_once('=') {
                (path, true, value)
            } else {
                return Err(format!(
                    "the field selector {part:?} is not understood; expected FIELD=VALUE or FIELD!=VALUE"
                ));
            };
            let path = path.trim().split('.').map(str::to_owned).collect();
            wanted.push((path, equal, value.trim().to_owned()));
        }
        Ok(Self {
            labels,
            fields: wanted,
        })
    }

    /// Whether an object is selected.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        let labels = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|value| !values.contains(value))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
        });
        labels
            && self.fields.iter().all(|(path, equal, wanted)| {
                let found = path
                    .iter()
                    .fold(object, |value, step| &value[step.as_str()]);
                let same = match found {
                    Value::String(text) => text == wanted,
                    Value::Null => wanted.is_empty(),
                    other => {
                        serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *other)
                    }
                };
                same == *equal
            })
    }
}

/// The parts of a label selector; commas inside of parentheses belong to a part.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    let key = |key: &str| key.trim().to_owned();
    let several = |list: &str| -> Option<BTreeSet<String>> {
        let list = list.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(
            list.split(',')
                .map(|value| value.trim().to_owned())
                .collect(),
        )
    };
    let wrong = || {
        format!(
            "the label selector {part:?} is not understood; expected KEY=VALUE, KEY!=VALUE, KEY in (A, B), KEY notin (A, B), KEY or !KEY"
        )
    };
    if let Some((name, list)) = part.split_once(" notin ") {
        return Ok(Requirement::NotIn(
            key(name),
            several(list).ok_or_else(wrong)?,
        ));
    }
    if let Some((name, list)) = part.split_once(" in ") {
        return Ok(Requirement::In(key(name), several(list).ok_or_else(wrong)?));
    }
    if let Some((name, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(key(name), one(value)));
    }
    if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(key(name), one(value)));
    }
    match part.strip_prefix('!') {
        Some(name) => Ok(Requirement::Missing(key(name))),
        None if part.contains(char::is_whitespace) => Err(wrong()),
        None => Ok(Requirement::Exists(key(part))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_mean_what_they_mean_to_kubernetes() {
        let object = json!({"metadata": {"name": "web", "labels": {"app": "web", "tier": "front"}}, "spec": {"replicas": 2}});
        let cases = [
            ("", "", true),
            ("app=web,tier==front", "", true),
            ("app!=web", "", false),
            ("team!=a", "", true),
            ("app in (web, api),tier notin (back)", "", true),
            ("tier in (back)", "", false),
            ("app,!team", "", true),
            ("team", "", false),
            ("", "metadata.name=web", true),
            ("", "metadata.name!=web", false),
            ("", "spec.replicas=2,metadata.namespace=", true),
        ];
        for (labels, fields, expected) in cases {
            let selector = Selector::parse(labels, fields).unwrap();
            assert_eq!(selector.matches(&object), expected, "{labels:?} {fields:?}");
        }
        assert!(
            Selector::parse("app in web", "")
                .unwrap_err()
                .contains("KEY in (A, B)")
        );
        assert!(Selector::parse("", "metadata.name").is_err());
    }
}
