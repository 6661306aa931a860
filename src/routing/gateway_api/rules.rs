//! From a canary and a split to the `spec` of a route. Every list is emitted in a fixed order and every default of the API
//! is written out, so the same request always gives the same bytes.

use super::matches::{self, SpecMatches};
use super::{Flavour, Subject, affinity};
use crate::api::{Canary, CorsPolicy, GatewayRef, HeaderOperations, Rewrite, parse_go_duration};
use crate::routing::{RouteError, RouteRequest, ServiceField, Split, Weight};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The whole `spec`.
pub fn spec(flavour: &Flavour, request: &RouteRequest<'_>) -> Result<Value, RouteError> {
    let subject = Subject::of(flavour, request.canary)?;
    let Subject {
        canary, service, ..
    } = subject;
    if service.gateway_refs.is_empty() {
        return Err(RouteError::Invalid {
            field: "spec.service.gatewayRefs".to_owned(),
            found: "empty".to_owned(),
            expected: super::GATEWAY_REFS_EXPECTED.to_owned(),
        });
    }
    let SpecMatches {
        service: service_matches,
        analysis,
    } = matches::of(&subject)?;

    let weighted = rule(&subject, &service_matches, request.split);
    let rules = if analysis.is_empty() && flavour.grpc {
        vec![weighted]
    } else if analysis.is_empty() {
        affinity::rules(&subject, request, weighted, &service_matches)
    } else {
        let mut matching = weighted;
        matching["matches"] = json!(matches::product(&analysis, &service_matches));
        let mut others = rule(&subject, &service_matches, Split::PRIMARY);
        others["backendRefs"] = json!([backend(
            &subject,
            &canary.primary_service_name(),
            Weight::ALL
        )]);
        vec![matching, others]
    };
    Ok(json!({
        "parentRefs": service.gateway_refs.iter().map(parent_ref).collect::<Vec<_>>(),
        // Written even when empty: the host names of a route that was taken over would stay otherwise.
        "hostnames": service.hosts,
        "rules": rules,
    }))
}

/// One parent with its defaults written out.
pub fn parent_ref(parent: &GatewayRef) -> Value {
    let mut value = json!({
        "group": parent.group.as_deref().unwrap_or(match parent.kind.as_deref() {
            // There is no Service but the core group's.
            Some("Service") => "",
            _ => "gateway.networking.k8s.io",
        }),
        "kind": parent.kind.as_deref().unwrap_or("Gateway"),
        "name": parent.name,
    });
    if let Some(namespace) = &parent.namespace {
        value["namespace"] = json!(namespace);
    }
    if let Some(section) = &parent.section_name {
        value["sectionName"] = json!(section);
    }
    if let Some(port) = parent.port {
        value["port"] = json!(port);
    }
    value
}

/// One Service with a weight.
pub fn backend(subject: &Subject<'_>, name: &str, weight: Weight) -> Value {
    json!({
        "group": "",
        "kind": "Service",
        "name": name,
        "port": subject.service.port,
        "weight": weight.percent(),
    })
}

/// Both Services, always.
pub fn backends(subject: &Subject<'_>, split: Split) -> Vec<Value> {
    let canary = subject.canary;
    vec![
        backend(subject, &canary.primary_service_name(), split.primary()),
        backend(subject, &canary.canary_service_name(), split.canary),
    ]
}

/// A spec whose rules send to the apex Service where they sent to the canary's two.
pub fn lead_back(canary: &Canary, spec: &Value) -> Value {
    let (primary, other) = (canary.primary_service_name(), canary.canary_service_name());
    let ours = |backend: &Value| backend["name"] == *primary || backend["name"] == *other;
    let mut spec = spec.clone();
    for rule in spec["rules"].as_array_mut().into_iter().flatten() {
        let Some(backends) = rule["backendRefs"].as_array_mut() else {
            continue;
        };
        let Some(first) = backends.iter().position(ours) else {
            continue;
        };
        let port = backends[first]["port"].clone();
        let mut apex =
            json!({"group": "", "kind": "Service", "name": canary.apex_name(), "weight": 1});
        if !port.is_null() {
            apex["port"] = port;
        }
        backends.retain(|backend| !ours(backend));
        backends.insert(0, apex);
    }
    spec
}

/// A rule with the filters and timeouts that the canary asks for.
fn rule(subject: &Subject<'_>, matches: &[Value], split: Split) -> Value {
    let Subject {
        flavour,
        canary,
        service,
    } = *subject;
    let mut rule = json!({"backendRefs": backends(subject, split)});
    // A GRPCRoute says "every call" by no match at all.
    if !flavour.grpc || matches.iter().any(|entry| entry != &json!({})) {
        rule["matches"] = json!(matches);
    }
    let mut filters = filters(subject);
    if split.mirrored {
        filters.push(
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": {
                "group": "",
                "kind": "Service",
                "name": canary.canary_service_name(),
                "port": service.port,
            }}}),
        );
    }
    if !filters.is_empty() {
        rule["filters"] = json!(filters);
    }
    if flavour.has(ServiceField::Timeout) {
        let mut timeouts = Map::new();
        let fields = [
            ("request", &service.timeout),
            ("backendRequest", &service.backend_timeout),
        ];
        for (key, value) in fields {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                timeouts.insert(key.to_owned(), json!(value));
            }
        }
        if !timeouts.is_empty() {
            rule["timeouts"] = timeouts.into();
        }
    }
    rule
}

/// The filters in Flagger's order: request headers, response headers, rewrite, static mirrors, CORS.
fn filters(subject: &Subject<'_>) -> Vec<Value> {
    let Subject {
        flavour, service, ..
    } = *subject;
    let mut filters = Vec::new();
    if let Some(headers) = &service.headers {
        if let Some(request) = headers.request.as_ref().and_then(header_operations) {
            filters
                .push(json!({"type": "RequestHeaderModifier", "requestHeaderModifier": request}));
        }
        if let Some(response) = headers.response.as_ref().and_then(header_operations) {
            filters.push(
                json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": response}),
            );
        }
    }
    if !flavour.grpc
        && let Some(rewrite) = service.rewrite.as_ref().and_then(rewrite)
    {
        filters.push(json!({"type": "URLRewrite", "urlRewrite": rewrite}));
    }
    for mirror in &service.mirror {
        let Some(reference) = &mirror.backend_ref else {
            continue;
        };
        let mut backend = json!({
            "group": reference.group.as_deref().unwrap_or(""),
            "kind": reference.kind.as_deref().unwrap_or("Service"),
            "name": reference.name,
        });
        if let Some(namespace) = &reference.namespace {
            backend["namespace"] = json!(namespace);
        }
        if let Some(port) = reference.port {
            backend["port"] = json!(port);
        }
        filters.push(json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend}}));
    }
    if flavour.has(ServiceField::CorsPolicy)
        && let Some(policy) = &service.cors_policy
    {
        filters.push(json!({"type": "CORS", "cors": cors(policy)}));
    }
    filters
}

/// `add` and `set` sorted by name, `remove` as written; nothing where there is no operation, since the API refuses an empty filter.
fn header_operations(operations: &HeaderOperations) -> Option<Value> {
    let list = |map: &BTreeMap<String, String>| -> Vec<Value> {
        map.iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect()
    };
    let mut value = Map::new();
    if !operations.add.is_empty() {
        value.insert("add".to_owned(), list(&operations.add).into());
    }
    if !operations.set.is_empty() {
        value.insert("set".to_owned(), list(&operations.set).into());
    }
    if !operations.remove.is_empty() {
        value.insert("remove".to_owned(), json!(operations.remove));
    }
    (!value.is_empty()).then(|| value.into())
}

fn rewrite(rewrite: &Rewrite) -> Option<Value> {
    let mut value = Map::new();
    if let Some(host) = rewrite.authority.as_deref().filter(|host| !host.is_empty()) {
        value.insert("hostname".to_owned(), json!(host));
    }
    if let Some(uri) = rewrite.uri.as_deref().filter(|uri| !uri.is_empty()) {
        let path = if rewrite.rewrite_type.as_deref() == Some("ReplacePrefixMatch") {
            json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": uri})
        } else {
            json!({"type": "ReplaceFullPath", "replaceFullPath": uri})
        };
        value.insert("path".to_owned(), path);
    }
    (!value.is_empty()).then(|| value.into())
}

fn cors(policy: &CorsPolicy) -> Value {
    let mut value = Map::new();
    let lists = [
        ("allowOrigins", &policy.allow_origin),
        ("allowMethods", &policy.allow_methods),
        ("allowHeaders", &policy.allow_headers),
        ("exposeHeaders", &policy.expose_headers),
    ];
    for (key, list) in lists {
        if !list.is_empty() {
            value.insert(key.to_owned(), json!(list));
        }
    }
    if policy.allow_credentials == Some(true) {
        value.insert("allowCredentials".to_owned(), json!(true));
    }
    if let Some(seconds) = policy.max_age.as_deref().and_then(cors_seconds) {
        value.insert("maxAge".to_owned(), json!(seconds));
    }
    value.into()
}

/// Whole seconds of a CORS `maxAge`, at least 1.
pub fn cors_seconds(text: &str) -> Option<u64> {
    parse_go_duration(text)
        .ok()
        .map(|age| age.as_secs())
        .filter(|seconds| *seconds > 0)
}
