//! YAML with positions: every value and every key knows its line and column, so that a finding about `spec.analysis.stepWeights[1]` points at
//! the very number.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};
use std::fmt;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

impl Position {
    pub const START: Self = Self { line: 1, column: 1 };

    fn of(location: Location) -> Self {
        Self {
            line: location.line().max(1),
            column: location.column().max(1),
        }
    }
}

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub at: Position,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Scalar(Value),
    List(Vec<Node>),
    /// Keys with their places.
    Map(Vec<(String, Position, Node)>),
}

impl Node {
    /// The same without places.
    pub fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            Content::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, _, node)| (key.clone(), node.value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    fn entry(&self, key: &str) -> Option<(Position, &Node)> {
        match &self.content {
            Content::Map(entries) => entries
                .iter()
                .find(|(known, _, _)| known == key)
                .map(|(_, at, node)| (*at, node)),
            _ => None,
        }
    }

    /// Where `spec.analysis.metrics[0].name` stands; of what is missing, the nearest that is there. A value that fills lines is pointed at by
    /// its key.
    pub fn locate(&self, path: &str) -> Position {
        let mut node = self;
        let mut at = self.at;
        let mut rest = path;
        while !rest.is_empty() {
            if let Some(index) = rest.strip_prefix('[') {
                let Some((number, after)) = index.split_once(']') else {
                    return at;
                };
                let item = match (&node.content, number.parse::<usize>()) {
                    (Content::List(items), Ok(number)) => items.get(number),
                    _ => node.get(number),
                };
                let Some(item) = item else { return at };
                node = item;
                at = item.at;
                rest = after.trim_start_matches('.');
                continue;
            }
            // Keys may hold dots: the longest that fits counts.
            let Content::Map(entries) = &node.content else {
                return at;
            };
            let fitting = entries
                .iter()
                .filter(|(key, _, _)| {
                    rest.strip_prefix(key.as_str())
                        .is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
                })
                .max_by_key(|(key, _, _)| key.len());
            let Some((key, key_at, value)) = fitting else {
                return at;
            };
            rest = rest[key.len()..].trim_start_matches('.');
            at = match &value.content {
                Content::Scalar(scalar) if !scalar.is_null() => value.at,
                _ => *key_at,
            };
            node = value;
        }
        at
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Bare>::deserialize(deserializer)?;
        Ok(Self {
            at: Position::of(spanned.referenced),
            content: spanned.value.0,
        })
    }
}

/// The content alone: what a [`Node`] has within its span.
struct Bare(Content);

impl<'de> Deserialize<'de> for Bare {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BareVisitor).map(Self)
    }
}

struct BareVisitor;

impl<'de> Visitor<'de> for BareVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Scalar(
            Number::from_f64(value).map_or(Value::Null, Value::Number),
        ))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(Value::String(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Content, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = fields.next_key::<Spanned<String>>()? {
            let at = Position::of(key.referenced);
            map.push((key.value, at, fields.next_value()?));
        }
        Ok(Content::Map(map))
    }
}

/// The documents of a file.
pub fn read(text: &str) -> Result<Vec<Node>, (Position, String)> {
    serde_saphyr::from_multiple::<Node>(text).map_err(|error| {
        let at = error.location().map_or(Position::START, Position::of);
        let error = error.without_snippet().to_string();
        // The place is told by itself; the first line says what is wrong.
        let line = error.lines().next().unwrap_or_default();
        let message = line.split(" at line ").next().unwrap_or(line);
        (at, message.to_owned())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# first
kind: Canary
---
kind: Canary
metadata:
  labels: {app.kubernetes.io/name: web}
spec:
  analysis:
    stepWeights: [10, 20]
    metrics:
      - name: a
      - name: b
        thresholdRange:
          min: 99
";

    #[test]
    fn every_value_knows_its_place() {
        let documents = read(TEXT).unwrap();
        assert_eq!(documents.len(), 2);
        let document = &documents[1];
        for (path, line, column) in [
            ("kind", 4, 7),
            ("metadata.labels.app.kubernetes.io/name", 6, 36),
            ("spec.analysis.stepWeights", 9, 5),
            ("spec.analysis.stepWeights[1]", 9, 23),
            ("spec.analysis.metrics[1].thresholdRange.min", 14, 16),
            ("spec.analysis.metrics[1].query", 12, 9),
            ("spec.service.port", 7, 1),
        ] {
            assert_eq!(document.locate(path), Position { line, column }, "{path}");
        }
        assert_eq!(document.value()["spec"]["analysis"]["stepWeights"][1], 20);
    }

    #[test]
    fn what_is_no_yaml_is_pointed_at() {
        let (at, message) = read("a: 1\nb: [1\nc: 2\n").unwrap_err();
        assert!(at.line >= 2, "{at:?} {message}");
        let (at, message) = read("a: 1\na: 2\n").unwrap_err();
        assert_eq!(at.line, 2, "{message}");
    }
}
