//! What a canary asks for that a route can't say, apart from what follows from the capabilities. Errors are those with which any route would be wrong; with warnings the rollout
//! goes on without that feature, as it does in Flagger.

use super::{Flavour, Subject, matches};
use crate::api::{Canary, CanaryService, RouteKind, parse_go_duration};
use crate::routing::{Refusal, RouteError, ServiceField};
use serde_json::Value;

/// Everything that is refused, in the order of the spec.
pub fn of(flavour: &Flavour, canary: &Canary) -> Vec<Refusal> {
    let subject = match Subject::of(flavour, canary) {
        Ok(subject) => subject,
        Err(RouteError::Invalid {
            field,
            found,
            expected,
        }) => return vec![Refusal::error(field, format!("{found}; {expected}"))],
        Err(other) => return vec![Refusal::error("spec.service", other.to_string())],
    };
    let mut refusals = Vec::new();
    if subject.service.gateway_refs.is_empty() {
        refusals.push(Refusal::error(
            "spec.service.gatewayRefs",
            format!("empty; {}", super::GATEWAY_REFS_EXPECTED),
        ));
    }
    if subject.service.route_kind == Some(RouteKind::Grpc) && !flavour.grpc {
        refusals.push(Refusal::error(
            "spec.service.routeKind",
            format!(
                "GRPCRoute; {} has none: use gatewayapi:v1",
                flavour.provider
            ),
        ));
    }
    refusals.extend(of_matches(&subject));
    refusals.extend(of_service(flavour, subject.service));
    refusals
}

fn of_matches(subject: &Subject<'_>) -> Vec<Refusal> {
    let (found, problems) = matches::read(subject);
    let overruled = matches::overruled(&found).map(|condition| {
        Refusal::warning(
            "spec.analysis.match",
            format!(
                "{condition} has fewer conditions than a match of spec.service.match; gateways prefer the rule with more of them, so \
                 requests that meet both stay on the primary: repeat the service's headers and queryParams in the analysis match"
            ),
        )
    });
    let rewrites_prefix = subject.service.rewrite.as_ref().is_some_and(|rewrite| {
        rewrite.rewrite_type.as_deref() == Some("ReplacePrefixMatch")
            && rewrite.uri.as_deref().is_some_and(|uri| !uri.is_empty())
    });
    let one_prefix =
        |matches: &[Value]| matches.len() == 1 && matches[0]["path"]["type"] == "PathPrefix";
    let unfit_rewrite = (!subject.flavour.grpc
        && rewrites_prefix
        && !(one_prefix(&found.service) && found.analysis.len() <= 1))
        .then(|| {
            Refusal::error(
                "spec.service.rewrite.type",
                format!(
                    "ReplacePrefixMatch with {} matches of the service and {} of the analysis; the Gateway API replaces a prefix only \
                     in a rule with exactly one match, whose path is a `prefix`: leave one, or rewrite the full path",
                    found.service.len(),
                    found.analysis.len()
                ),
            )
        });
    problems
        .into_iter()
        // Those follow from the capabilities.
        .filter(|problem| !problem.field.starts_with("spec.analysis.match["))
        .map(|problem| {
            let message = format!("{}; {}", problem.found, problem.expected);
            if problem.harmless {
                let message = format!(
                    "{message}; the condition is left out and the route takes more requests"
                );
                Refusal::warning(problem.field, message)
            } else {
                Refusal::error(problem.field, message)
            }
        })
        .chain(overruled)
        .chain(unfit_rewrite)
        .collect()
}

fn of_service(flavour: &Flavour, service: &CanaryService) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let timeouts = [
        ("spec.service.timeout", &service.timeout),
        ("spec.service.backendTimeout", &service.backend_timeout),
    ];
    for (field, value) in timeouts {
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else {
            continue;
        };
        if flavour.has(ServiceField::Timeout) && !is_gateway_duration(value) {
            refusals.push(Refusal::error(
                field,
                format!(
                    "{value}; the Gateway API wants one to four whole numbers of at most five digits, each with h, m, s or ms, \
                     for example 1m30s"
                ),
            ));
        }
    }
    let longest = |value: &Option<String>| {
        value
            .as_deref()
            .and_then(|value| parse_go_duration(value).ok())
            .filter(|value| !value.is_zero())
    };
    if flavour.has(ServiceField::Timeout)
        && let (Some(request), Some(backend)) =
            (longest(&service.timeout), longest(&service.backend_timeout))
        && backend > request
    {
        refusals.push(Refusal::error(
            "spec.service.backendTimeout",
            format!(
                "{}; the Gateway API wants it to be at most spec.service.timeout, which is {}",
                service.backend_timeout.as_deref().unwrap_or_default(),
                service.timeout.as_deref().unwrap_or_default()
            ),
        ));
    }
    for (position, host) in service.hosts.iter().enumerate() {
        if !is_gateway_host(host) {
            refusals.push(Refusal::error(
                format!("spec.service.hosts[{position}]"),
                format!(
                    "{host}; the Gateway API wants a lower-case host name without port, `*.` may stand in front: leave hosts empty for \
                     every host"
                ),
            ));
        }
    }
    if let Some(policy) = &service.cors_policy {
        if flavour.has(ServiceField::CorsPolicy) && !policy.allow_origins.is_empty() {
            refusals.push(Refusal::warning(
                "spec.service.corsPolicy.allowOrigins",
                "set; the Gateway API knows no conditions on origins, list them in allowOrigin (`*` may stand for a part)",
            ));
        }
        if let Some(age) = policy.max_age.as_deref()
            && flavour.has(ServiceField::CorsPolicy)
            && super::rules::cors_seconds(age).is_none()
        {
            refusals.push(Refusal::warning(
                "spec.service.corsPolicy.maxAge",
                format!(
                    "{age}; expected a duration of at least 1s such as 24h, the age is left out"
                ),
            ));
        }
    }
    refusals
}

/// The Gateway API's own form of durations (GEP-2257).
fn is_gateway_duration(text: &str) -> bool {
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|digit: char| digit.is_ascii_digit())
                .len();
        if !(1..=5).contains(&digits) {
            return false;
        }
        rest = &rest[digits..];
        let Some(unit) = ["ms", "h", "m", "s"]
            .into_iter()
            .find(|unit| rest.starts_with(unit))
        else {
            return false;
        };
        rest = &rest[unit.len()..];
        parts += 1;
    }
    (1..=4).contains(&parts)
}

/// A host name as the Gateway API takes it (RFC 1123, with at most a wildcard in front).
fn is_gateway_host(host: &str) -> bool {
    let name = host.strip_prefix("*.").unwrap_or(host);
    name.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    })
}
