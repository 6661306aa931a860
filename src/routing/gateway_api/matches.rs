//! Request matches: from Istio's form, in which Flagger's manifests write them, to the Gateway API's. What the Gateway API can't
//! express is a problem that names the field and the value; it never widens an A/B test to everybody.

use super::Subject;
use crate::api::{AnalysisMatch, HeaderMatch, HttpMatch, StringMatch};
use crate::routing::RouteError;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The Gateway API allows this many matches in one rule.
const MOST_MATCHES: usize = 64;

/// And this many in all rules of a route.
const MOST_IN_ROUTE: usize = 127;

/// The matches of both places; those of the service are never empty.
pub struct SpecMatches {
    /// Of `spec.service.match`; one match of everything where it has none.
    pub service: Vec<Value>,
    /// Of `spec.analysis.match`; empty for a rollout that is no A/B test.
    pub analysis: Vec<Value>,
}

/// Something in a match that can't be expressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field.
    pub field: String,
    /// What it says.
    pub found: String,
    /// What would be right.
    pub expected: String,
    /// True where leaving it out only widens a match of the whole service, as Flagger does.
    pub harmless: bool,
}

/// The matches of a canary, or the first problem with which no right route can be written.
pub fn of(subject: &Subject<'_>) -> Result<SpecMatches, RouteError> {
    let (found, problems) = read(subject);
    match problems.into_iter().find(|problem| !problem.harmless) {
        Some(problem) => Err(RouteError::Invalid {
            field: problem.field,
            found: problem.found,
            expected: problem.expected,
        }),
        None => Ok(found),
    }
}

/// The matches of a canary and everything in them that can't be expressed.
pub fn read(subject: &Subject<'_>) -> (SpecMatches, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut service = Vec::new();
    for (position, entry) in subject.service.matches.iter().enumerate() {
        let path = format!("spec.service.match[{position}]");
        unmapped(entry, &path, &mut problems);
        service.extend(if subject.flavour.grpc {
            call(entry, &path, &mut problems)
        } else {
            one(entry, &path, &mut problems)
        });
    }
    if service.is_empty() {
        service.push(if subject.flavour.grpc {
            json!({})
        } else {
            json!({"path": everything()})
        });
    }
    let mut analysis = Vec::new();
    for (position, entry) in subject.canary.spec.analysis.matches.iter().enumerate() {
        let path = format!("spec.analysis.match[{position}]");
        analysis.extend(condition(entry, &path, subject.flavour.grpc, &mut problems));
    }
    problems.extend(too_many(subject, service.len(), analysis.len()));
    (SpecMatches { service, analysis }, problems)
}

/// More matches than a route may have, if so.
fn too_many(subject: &Subject<'_>, service: usize, analysis: usize) -> Option<Problem> {
    let affinity = subject.canary.spec.analysis.session_affinity.as_ref();
    let (most, total) = match (analysis, affinity) {
        (0, None) => (service, service),
        // Two rules that pin by cookie and the weighted one.
        (0, Some(_)) => (service, service * 3),
        (analysis, _) => (service * analysis, service * analysis + service),
    };
    (most > MOST_MATCHES || total > MOST_IN_ROUTE).then(|| Problem {
        field: "spec.service.match".to_owned(),
        found: format!(
            "{service} matches of the service and {analysis} of the analysis make {most} in a rule and {total} in the route"
        ),
        expected: format!("the Gateway API allows {MOST_MATCHES} in a rule and {MOST_IN_ROUTE} in a route"),
        harmless: false,
    })
}

/// Each condition combined with each match of the service; headers and query parameters of the condition replace those of the service.
pub fn product(conditions: &[Value], service: &[Value]) -> Vec<Value> {
    conditions
        .iter()
        .flat_map(|condition| {
            service.iter().map(move |base| {
                let mut merged = base.clone();
                for key in ["headers", "queryParams"] {
                    if let Some(list) = condition.get(key) {
                        merged[key] = list.clone();
                    }
                }
                merged
            })
        })
        .collect()
}

/// The first condition of an A/B test that a gateway would try only after the plain rule of the service: among matches of the same path
/// and method those with more headers come first, then those with more query parameters.
pub fn overruled(found: &SpecMatches) -> Option<&Value> {
    let rank = |entry: &Value| {
        ["headers", "queryParams"].map(|key| entry[key].as_array().map_or(0, Vec::len))
    };
    found.analysis.iter().find(|condition| {
        product(std::slice::from_ref(*condition), &found.service)
            .iter()
            .zip(&found.service)
            .any(|(merged, plain)| rank(merged) < rank(plain))
    })
}

/// Each match of the service with one more condition on a header. Nothing is replaced, so the rule takes no request that the service
/// does not take, and it has one header more than the plain rule, which the Gateway API therefore tries after it.
pub fn narrowed(service: &[Value], header: &Value) -> Vec<Value> {
    let same_name = |other: &Value| {
        other["name"]
            .as_str()
            .zip(header["name"].as_str())
            .is_some_and(|(one, two)| one.eq_ignore_ascii_case(two))
    };
    service
        .iter()
        .map(|base| {
            let mut merged = base.clone();
            let mut headers = base["headers"].as_array().cloned().unwrap_or_default();
            // The API allows one condition for a name.
            headers.retain(|other| !same_name(other));
            headers.push(header.clone());
            merged["headers"] = headers.into();
            merged
        })
        .collect()
}

/// The path that matches every request.
fn everything() -> Value {
    json!({"type": "PathPrefix", "value": "/"})
}

/// One entry; `None` where it says nothing that the Gateway API can express.
fn one(entry: &HttpMatch, path: &str, problems: &mut Vec<Problem>) -> Option<Value> {
    let mut found = json!({});
    if let Some(uri) = &entry.uri {
        let kinds = [
            ("RegularExpression", &uri.regex),
            ("Exact", &uri.exact),
            ("PathPrefix", &uri.prefix),
        ];
        match kinds
            .into_iter()
            .find_map(|(kind, value)| Some((kind, filled(value.as_ref())?)))
        {
            Some((kind, value)) => found["path"] = json!({"type": kind, "value": value}),
            None => problems.push(Problem {
                field: format!("{path}.uri"),
                found: shown(uri),
                expected: "the Gateway API knows `exact`, `prefix` and `regex` for a path"
                    .to_owned(),
                harmless: false,
            }),
        }
    }
    if let Some(method) = &entry.method {
        match filled(method.exact.as_ref()) {
            Some(value) => found["method"] = json!(value),
            None => problems.push(Problem {
                field: format!("{path}.method"),
                found: shown(method),
                expected: "the Gateway API knows only `exact` for a method".to_owned(),
                harmless: false,
            }),
        }
    }
    let headers = named(&entry.headers, &format!("{path}.headers"), problems);
    let query = named(
        &entry.query_params,
        &format!("{path}.queryParams"),
        problems,
    );
    if !headers.is_empty() {
        found["headers"] = headers.into();
    }
    if !query.is_empty() {
        found["queryParams"] = query.into();
    }
    if found.as_object().is_none_or(serde_json::Map::is_empty) {
        return None;
    }
    // The API server's default, written out so that what is live and what is desired read the same.
    if found.get("path").is_none() {
        found["path"] = everything();
    }
    Some(found)
}

/// One entry for calls of gRPC, whose path is `/package.Service/Method`; `None` where it says nothing that the Gateway API can express.
fn call(entry: &HttpMatch, path: &str, problems: &mut Vec<Problem>) -> Option<Value> {
    let mut found = json!({});
    if let Some(uri) = &entry.uri {
        let exact = filled(uri.exact.as_ref()).map(|path| (path, true));
        let prefix = filled(uri.prefix.as_ref()).map(|path| (path, false));
        let parts: Option<(Vec<&str>, bool)> = exact.or(prefix).and_then(|(path, whole)| {
            let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
            Some((parts, whole))
        });
        match parts.as_ref().map(|(parts, whole)| (parts.as_slice(), *whole)) {
            Some(([""], false)) => {}
            Some(([service] | [service, ""], false)) if !service.is_empty() => {
                found["method"] = json!({"type": "Exact", "service": service});
            }
            Some(([service, method], true)) if !service.is_empty() && !method.is_empty() => {
                found["method"] = json!({"type": "Exact", "service": service, "method": method});
            }
            _ => problems.push(Problem {
                field: format!("{path}.uri"),
                found: shown(uri),
                expected: "a GRPCRoute knows `exact: /package.Service/Method` and `prefix: /package.Service`"
                    .to_owned(),
                harmless: false,
            }),
        }
    }
    if let Some(method) = &entry.method
        && filled(method.exact.as_ref()) != Some("POST")
    {
        problems.push(Problem {
            field: format!("{path}.method"),
            found: shown(method),
            expected: "every call of gRPC is a POST; name its method in `uri`".to_owned(),
            harmless: false,
        });
    }
    if !entry.query_params.is_empty() {
        problems.push(Problem {
            field: format!("{path}.queryParams"),
            found: shown(&entry.query_params),
            expected: "calls of gRPC have none".to_owned(),
            harmless: false,
        });
    }
    let headers = named(&entry.headers, &format!("{path}.headers"), problems);
    if !headers.is_empty() {
        found["headers"] = headers.into();
    }
    found
        .as_object()
        .is_some_and(|found| !found.is_empty())
        .then_some(found)
}

/// One condition of an A/B test; `None`, with a problem, where it says nothing that the Gateway API can express.
fn condition(
    entry: &AnalysisMatch,
    path: &str,
    grpc: bool,
    problems: &mut Vec<Problem>,
) -> Option<Value> {
    let before = problems.len();
    let headers = named(&entry.headers, &format!("{path}.headers"), problems);
    let query = named(
        &entry.query_params,
        &format!("{path}.queryParams"),
        problems,
    );
    if grpc && !query.is_empty() {
        problems.push(Problem {
            field: format!("{path}.queryParams"),
            found: shown(&entry.query_params),
            expected: "calls of gRPC have none; use headers".to_owned(),
            harmless: false,
        });
    }
    if !entry.source_labels.is_empty() {
        problems.push(Problem {
            field: format!("{path}.sourceLabels"),
            found: shown(&entry.source_labels),
            expected: SOURCE_LABELS.to_owned(),
            harmless: false,
        });
    }
    let mut found = json!({});
    if !headers.is_empty() {
        found["headers"] = headers.into();
    }
    if !query.is_empty() && !grpc {
        found["queryParams"] = query.into();
    }
    if found.as_object().is_some_and(|found| !found.is_empty()) {
        return Some(found);
    }
    if problems.len() == before {
        problems.push(Problem {
            field: path.to_owned(),
            found: "no condition".to_owned(),
            expected: "name at least one of headers and queryParams, or every request would go to the canary".to_owned(),
            harmless: false,
        });
    }
    None
}

/// What a header or query parameter must be, in either of the forms in which manifests write it.
trait TextCondition: Serialize {
    fn exact(&self) -> Option<&str>;
    fn regex(&self) -> Option<&str>;
}

impl TextCondition for StringMatch {
    fn exact(&self) -> Option<&str> {
        filled(self.exact.as_ref())
    }
    fn regex(&self) -> Option<&str> {
        filled(self.regex.as_ref())
    }
}

impl TextCondition for HeaderMatch {
    fn exact(&self) -> Option<&str> {
        filled(self.exact.as_ref())
    }
    fn regex(&self) -> Option<&str> {
        filled(self.regex.as_ref())
    }
}

/// Headers or query parameters, sorted by name.
fn named<C: TextCondition>(
    map: &BTreeMap<String, C>,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Value> {
    let mut list = Vec::new();
    for (name, condition) in map {
        let kinds = [
            ("Exact", condition.exact()),
            ("RegularExpression", condition.regex()),
        ];
        match kinds.into_iter().find_map(|(kind, value)| Some((kind, value?))) {
            Some((kind, value)) => list.push(json!({"type": kind, "name": name, "value": value})),
            None => problems.push(Problem {
                field: format!("{path}.{name}"),
                found: shown(condition),
                expected: "the Gateway API knows `exact` and `regex` here; a prefix can be written as `regex: prefix.*`, a \
                           suffix as `regex: .*suffix`"
                    .to_owned(),
                harmless: false,
            }),
        }
    }
    list
}

/// Conditions of Istio's that have no counterpart at all.
fn unmapped(entry: &HttpMatch, path: &str, problems: &mut Vec<Problem>) {
    let value = serde_json::to_value(entry).unwrap_or_default();
    for (key, expected) in UNMAPPED {
        let found = &value[key];
        let nothing = found.is_null()
            || found == &json!(false)
            || found.as_array().is_some_and(Vec::is_empty)
            || found.as_object().is_some_and(serde_json::Map::is_empty);
        if !nothing {
            problems.push(Problem {
                field: format!("{path}.{key}"),
                found: found.to_string(),
                expected: (*expected).to_owned(),
                harmless: true,
            });
        }
    }
}

const SOURCE_LABELS: &str =
    "the Gateway API can't match by the labels of the caller; use headers or queryParams";

const UNMAPPED: &[(&str, &str)] = &[
    (
        "authority",
        "the Gateway API matches hosts by spec.service.hosts",
    ),
    (
        "gateways",
        "the Gateway API names gateways in spec.service.gatewayRefs",
    ),
    (
        "ignoreUriCase",
        "the Gateway API can match a path without case only by a `regex` such as `(?i)/path`",
    ),
    (
        "port",
        "the Gateway API names the port of a listener in spec.service.gatewayRefs[].port",
    ),
    (
        "scheme",
        "the Gateway API chooses the scheme by the listener in spec.service.gatewayRefs[].sectionName",
    ),
    ("sourceLabels", SOURCE_LABELS),
    (
        "sourceNamespace",
        "the Gateway API can't match by the namespace of the caller",
    ),
    (
        "withoutHeaders",
        "the Gateway API can't match by the absence of a header",
    ),
];

/// A text that is there and not empty.
fn filled(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|value| !value.is_empty())
}

/// A condition as the user wrote it.
fn shown(condition: &impl Serialize) -> String {
    serde_json::to_string(condition).unwrap_or_default()
}
