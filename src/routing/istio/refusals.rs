//! What a canary asks for that Istio can't carry out, or that would not do what it seems to, apart from what follows from the
//! capabilities. Errors are those with which any route would be wrong; with warnings the rollout goes on without that feature.

use super::rules::filled;
use super::{Istio, Subject, matches};
use crate::api::{Canary, HttpMatch, parse_go_duration};
use crate::routing::{Refusal, RouteError, Router, Severity};
use serde_json::json;
use std::time::Duration;

/// With which any route would be wrong.
fn error(field: impl Into<String>, found: &str, expected: &str) -> Refusal {
    Refusal::error(field, format!("{found}; {expected}"))
}

/// Without which the rollout goes on.
fn warning(field: impl Into<String>, found: &str, expected: &str) -> Refusal {
    Refusal::warning(field, format!("{found}; {expected}"))
}

/// The subject of a canary that can be routed, or the first error.
pub fn unrefused(canary: &Canary) -> Result<Subject<'_>, RouteError> {
    let error = Istio
        .refusals(canary)
        .into_iter()
        .find(|refusal| refusal.severity == Severity::Error);
    match (Subject::of(canary), error) {
        (Some(subject), None) => Ok(subject),
        (_, error) => {
            let Refusal { field, message, .. } = error.unwrap_or_else(no_service);
            let (found, expected) = message.split_once("; ").unwrap_or((&message, ""));
            Err(RouteError::Invalid {
                field,
                found: found.to_owned(),
                expected: expected.to_owned(),
            })
        }
    }
}

fn no_service() -> Refusal {
    error(
        "spec.service",
        "missing",
        "a VirtualService needs at least spec.service.port",
    )
}

/// Everything, in the order of the spec.
pub fn of(canary: &Canary) -> Vec<Refusal> {
    let Some(subject) = Subject::of(canary) else {
        return vec![no_service()];
    };
    let mut refusals = of_service(&subject);
    refusals.extend(of_durations(&subject));
    refusals.extend(of_labels(&subject));
    refusals.extend(of_cookies(&subject));
    if subject.is_tcp() {
        refusals.extend(of_connections(&subject));
    }
    refusals
}

fn of_service(subject: &Subject<'_>) -> Vec<Refusal> {
    let service = subject.service;
    let mut refusals = Vec::new();
    if service.delegation() {
        for (field, list) in [
            ("spec.service.hosts", &service.hosts),
            ("spec.service.gateways", &service.gateways),
        ] {
            if !list.is_empty() {
                refusals.push(error(
                    field,
                    &list.join(", "),
                    "a delegate has none, the VirtualService that includes it has them: leave it empty, or set \
                     spec.service.delegation to false",
                ));
            }
        }
    }
    if subject.is_in_mesh() && service.hosts.iter().any(|host| host == "*") {
        refusals.push(error(
            "spec.service.hosts",
            "*",
            "Istio takes every host only at a gateway, not for the traffic inside the mesh: name the hosts, or leave mesh out of \
             spec.service.gateways",
        ));
    }
    let rewrite_type = service
        .rewrite
        .as_ref()
        .and_then(|rewrite| filled(rewrite.rewrite_type.as_ref()));
    if let Some(found) = rewrite_type {
        refusals.push(warning(
            "spec.service.rewrite.type",
            found,
            "Istio replaces what the `prefix` of a match has matched, or else the whole path",
        ));
    }
    refusals
}

fn of_durations(subject: &Subject<'_>) -> Vec<Refusal> {
    let service = subject.service;
    let retries = service.retries.as_ref();
    let cors = service.cors_policy.as_ref();
    [
        ("spec.service.timeout", service.timeout.as_ref()),
        (
            "spec.service.retries.perTryTimeout",
            retries.and_then(|retries| retries.per_try_timeout.as_ref()),
        ),
        (
            "spec.service.corsPolicy.maxAge",
            cors.and_then(|policy| policy.max_age.as_ref()),
        ),
    ]
    .into_iter()
    .filter_map(|(field, value)| {
        let value = filled(value)?;
        let good =
            parse_go_duration(value).is_ok_and(|duration| duration >= Duration::from_millis(1));
        (!good).then(|| {
            error(
                field,
                value,
                "Istio wants a duration of at least 1ms, such as 15s or 1m30s",
            )
        })
    })
    .collect()
}

/// Labels of callers where none has the workloads'.
fn of_labels(subject: &Subject<'_>) -> Vec<Refusal> {
    if subject.is_in_mesh() || subject.service.delegation() {
        return Vec::new();
    }
    let matches = &subject.canary.spec.analysis.matches;
    matches
        .iter()
        .enumerate()
        .filter(|(_, entry)| !entry.source_labels.is_empty())
        .map(|(position, entry)| {
            warning(
                format!("spec.analysis.match[{position}].sourceLabels"),
                &json!(entry.source_labels).to_string(),
                "callers from outside the mesh have no labels but those of the gateway's pods: add mesh to spec.service.gateways for \
                 callers inside it",
            )
        })
        .collect()
}

fn of_cookies(subject: &Subject<'_>) -> Option<Refusal> {
    subject.canary.spec.analysis.session_affinity.as_ref()?;
    let headers = subject.service.headers.as_ref()?;
    let response = headers.response.as_ref()?;
    let mut names = response.set.keys().chain(&response.remove);
    let name = names.find(|name| name.eq_ignore_ascii_case("set-cookie"))?;
    Some(warning(
        "spec.service.headers.response",
        name,
        "what the route sets or removes comes last, so no cookie of spec.analysis.sessionAffinity reaches a browser; use add",
    ))
}

/// What is asked of connections that only requests have.
fn of_connections(subject: &Subject<'_>) -> Vec<Refusal> {
    let service = subject.service;
    let analysis = &subject.canary.spec.analysis;
    let mut refusals = Vec::new();
    for (position, entry) in service.matches.iter().enumerate() {
        refusals.extend(of_requests(position, entry));
    }
    if service.delegation() {
        refusals.push(error(
            "spec.service.delegation",
            "true with appProtocol tcp",
            "Istio includes only routes of requests: set it to false, or remove appProtocol",
        ));
    }
    if !analysis.matches.is_empty() {
        refusals.push(error(
            "spec.analysis.match",
            &format!("{} conditions with appProtocol tcp", analysis.matches.len()),
            "connections can't be told apart by headers or query parameters, and everybody would go to the canary: remove the match \
             for a Blue/Green rollout",
        ));
    }
    if analysis.mirror() {
        refusals.push(error(
            "spec.analysis.mirror",
            "true with appProtocol tcp",
            "connections can't be mirrored: remove it",
        ));
    }
    let unwritten = [
        (
            "spec.analysis.sessionAffinity",
            analysis.session_affinity.is_some(),
        ),
        ("spec.service.timeout", service.timeout.is_some()),
        ("spec.service.retries", service.retries.is_some()),
        ("spec.service.rewrite", service.rewrite.is_some()),
        ("spec.service.headers", service.headers.is_some()),
        ("spec.service.corsPolicy", service.cors_policy.is_some()),
    ];
    refusals.extend(
        unwritten
            .into_iter()
            .filter(|(_, set)| *set)
            .map(|(field, _)| {
                warning(
                    field,
                    "set with appProtocol tcp",
                    "only requests have it, the rollout of connections goes on without it",
                )
            }),
    );
    refusals
}

/// Conditions of the service that no connection can meet.
fn of_requests(position: usize, entry: &HttpMatch) -> Vec<Refusal> {
    let value = json!(entry);
    value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !matches::OF_CONNECTIONS.contains(&key.as_str()) && *key != "name")
        .map(|(key, found)| {
            warning(
                format!("spec.service.match[{position}].{key}"),
                &found.to_string(),
                "a connection (appProtocol tcp) can only be matched by port, gateways, sourceLabels and sourceNamespace; the condition \
                 is left out",
            )
        })
        .collect()
}
