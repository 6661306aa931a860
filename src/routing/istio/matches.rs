//! The conditions of routes. Those of the service are Istio's own form already; an A/B test adds its headers, query parameters and
//! labels of the caller to each of them.

use super::Subject;
use super::rules::filled;
use crate::api::{AnalysisMatch, HeaderMatch, StringMatch};
use crate::routing::session_cookie::literal;
use serde_json::{Map, Value, json};

/// The conditions of the service; empty where it takes every request.
pub fn of_service(subject: &Subject<'_>) -> Vec<Value> {
    subject
        .service
        .matches
        .iter()
        .map(|entry| serde_json::to_value(entry).unwrap_or_default())
        .collect()
}

/// The conditions of the A/B test; empty for a rollout that is none.
pub fn of_analysis(subject: &Subject<'_>) -> Vec<Value> {
    let entries = &subject.canary.spec.analysis.matches;
    entries.iter().map(condition).collect()
}

fn condition(entry: &AnalysisMatch) -> Value {
    let mut found = Map::new();
    let headers: Map<String, Value> = entry
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), header(value)))
        .collect();
    let query: Map<String, Value> = entry
        .query_params
        .iter()
        .map(|(name, value)| (name.clone(), parameter(value)))
        .collect();
    for (key, conditions) in [("headers", headers), ("queryParams", query)] {
        if !conditions.is_empty() {
            found.insert(key.to_owned(), conditions.into());
        }
    }
    if !entry.source_labels.is_empty() {
        found.insert("sourceLabels".to_owned(), json!(entry.source_labels));
    }
    found.into()
}

/// Istio has no suffixes; as an expression over the whole value they are the same.
fn header(condition: &HeaderMatch) -> Value {
    let suffix = filled(condition.suffix.as_ref()).map(|suffix| format!(".*{}", literal(suffix)));
    first([
        ("exact", condition.exact.as_ref()),
        ("prefix", condition.prefix.as_ref()),
        ("regex", condition.regex.as_ref()),
        ("regex", suffix.as_ref()),
    ])
}

fn parameter(condition: &StringMatch) -> Value {
    first([
        ("exact", condition.exact.as_ref()),
        ("prefix", condition.prefix.as_ref()),
        ("regex", condition.regex.as_ref()),
    ])
}

/// The first condition that says something; none means that the value must only be there.
fn first<const N: usize>(conditions: [(&str, Option<&String>); N]) -> Value {
    conditions
        .into_iter()
        .find_map(|(kind, text)| Some(json!({kind: filled(text)?})))
        .unwrap_or_else(|| json!({}))
}

/// Each condition of the A/B test combined with each of the service; what the test says about headers, query parameters and labels of
/// the caller replaces what the service says.
pub fn product(analysis: &[Value], service: &[Value]) -> Vec<Value> {
    if service.is_empty() {
        return analysis.to_vec();
    }
    analysis
        .iter()
        .flat_map(|condition| {
            service.iter().map(move |base| {
                let mut merged = base.clone();
                for key in ["headers", "queryParams", "sourceLabels"] {
                    if let Some(wanted) = condition.get(key) {
                        merged[key] = wanted.clone();
                    }
                }
                merged
            })
        })
        .collect()
}

/// Each condition of the service, narrowed to requests whose `Cookie` header matches an expression.
pub fn bearing(service: &[Value], expression: &str) -> Vec<Value> {
    let everything = [json!({})];
    let service = if service.is_empty() {
        &everything
    } else {
        service
    };
    service
        .iter()
        .map(|base| {
            let mut narrowed = base.clone();
            // Names of headers don't care about case, keys do: a condition of the user on the same header stays, and both must be met.
            let names = ["Cookie", "cookie"];
            let taken = |name: &&&str| !base["headers"][**name].is_null();
            let name = names.iter().find(|name| !taken(name)).unwrap_or(&"Cookie");
            narrowed["headers"][*name] = json!({"regex": expression});
            narrowed
        })
        .collect()
}

/// The conditions of the service that a connection can meet. An entry that has none of them says nothing.
pub fn of_connections(subject: &Subject<'_>) -> Vec<Value> {
    of_service(subject)
        .into_iter()
        .filter_map(|entry| {
            let known: Map<String, Value> = entry
                .as_object()?
                .iter()
                .filter(|(key, _)| OF_CONNECTIONS.contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            (!known.is_empty()).then(|| known.into())
        })
        .collect()
}

/// The fields of a condition that a connection can meet.
pub const OF_CONNECTIONS: [&str; 4] = ["gateways", "port", "sourceLabels", "sourceNamespace"];
