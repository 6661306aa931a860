//! From a canary and a split to the specs of its `VirtualService` and `DestinationRule`s.

use super::{MESH, Subject, affinity, live, matches};
use crate::api::{Canary, Headers, Retries, Rewrite};
use crate::routing::{RouteRequest, Split, Weight};
use serde_json::{Map, Value, json};

/// The `spec` of the `DestinationRule` for one of the two Services.
pub fn destination_rule(subject: &Subject<'_>, service: &str) -> Value {
    let mut spec = json!({"host": service});
    if let Some(policy) = &subject.service.traffic_policy {
        spec["trafficPolicy"] = json!(policy);
    }
    spec
}

/// The `spec` of the `VirtualService`.
pub fn virtual_service(subject: &Subject<'_>, request: &RouteRequest<'_>) -> Value {
    // Written even when empty: a delegate must have none, and those of a route that was taken over would stay otherwise.
    let mut spec = json!({"hosts": hosts(subject), "gateways": gateways(subject)});
    if subject.is_tcp() {
        spec["tcp"] = json!([connections(subject, request.split)]);
        return spec;
    }
    let service = matches::of_service(subject);
    let analysis = matches::of_analysis(subject);
    let weighted = rule(subject, &service, request.split);
    spec["http"] = if analysis.is_empty() {
        affinity::rules(subject, request, weighted, &service).into()
    } else {
        let mut matching = weighted;
        matching["match"] = matches::product(&analysis, &service).into();
        let mut others = rule(subject, &service, Split::PRIMARY);
        let primary = subject.canary.primary_service_name();
        others["route"] = json!([destination(subject, &primary, Weight::ALL)]);
        json!([matching, others])
    };
    spec
}

fn hosts(subject: &Subject<'_>) -> Vec<String> {
    if subject.service.delegation() {
        return Vec::new();
    }
    let mut hosts = subject.service.hosts.clone();
    let apex = subject.canary.apex_name();
    if !hosts.iter().any(|host| host == apex || host == "*") {
        hosts.push(apex.to_owned());
    }
    hosts
}

fn gateways(subject: &Subject<'_>) -> Vec<String> {
    let gateways = &subject.service.gateways;
    if gateways.is_empty() && !subject.service.delegation() {
        return vec![MESH.to_owned()];
    }
    gateways.clone()
}

/// One Service with a weight.
pub fn destination(subject: &Subject<'_>, name: &str, weight: Weight) -> Value {
    json!({"destination": host(subject, name), "weight": weight.percent()})
}

/// A Service without subset. Inside the mesh the port of the request counts; a gateway has ports of its own, so where a Service has
/// several the one to use is named.
fn host(subject: &Subject<'_>, name: &str) -> Value {
    let mut destination = json!({"host": name});
    let service = subject.service;
    let from_outside = service.delegation()
        || service
            .gateways
            .first()
            .is_some_and(|gateway| gateway != MESH);
    if service.port_discovery() && from_outside {
        destination["port"] = json!({"number": service.port});
    }
    destination
}

/// Both Services, always.
pub fn destinations(subject: &Subject<'_>, split: Split) -> Value {
    let canary = subject.canary;
    json!([
        destination(subject, &canary.primary_service_name(), split.primary()),
        destination(subject, &canary.canary_service_name(), split.canary),
    ])
}

/// An HTTP route with all that the canary asks for.
fn rule(subject: &Subject<'_>, matches: &[Value], split: Split) -> Value {
    let Subject { canary, service } = *subject;
    let mut rule = json!({"route": destinations(subject, split)});
    if !matches.is_empty() {
        rule["match"] = json!(matches);
    }
    if let Some(rewrite) = service.rewrite.as_ref().and_then(rewrite) {
        rule["rewrite"] = rewrite;
    }
    if let Some(timeout) = filled(service.timeout.as_ref()) {
        rule["timeout"] = json!(timeout);
    }
    if let Some(retries) = &service.retries {
        rule["retries"] = self::retries(retries);
    }
    if let Some(policy) = &service.cors_policy {
        let mut policy = json!(policy);
        if policy["maxAge"] == "" {
            policy["maxAge"].take();
        }
        rule["corsPolicy"] = without_nulls(policy);
    }
    if let Some(headers) = service.headers.as_ref().and_then(headers) {
        rule["headers"] = headers;
    }
    if split.mirrored {
        rule["mirror"] = host(subject, &canary.canary_service_name());
        if let Some(percent) = canary.spec.analysis.mirror_weight() {
            rule["mirrorPercentage"] = json!({"value": percent});
        }
    }
    rule
}

/// A TCP route.
fn connections(subject: &Subject<'_>, split: Split) -> Value {
    let mut rule = json!({"route": destinations(subject, split)});
    let matches = matches::of_connections(subject);
    if !matches.is_empty() {
        rule["match"] = matches.into();
    }
    rule
}

fn rewrite(rewrite: &Rewrite) -> Option<Value> {
    let mut value = Map::new();
    for (key, text) in [("uri", &rewrite.uri), ("authority", &rewrite.authority)] {
        if let Some(text) = filled(text.as_ref()) {
            value.insert(key.to_owned(), json!(text));
        }
    }
    (!value.is_empty()).then(|| value.into())
}

fn retries(retries: &Retries) -> Value {
    let mut value = json!(retries);
    for key in ["perTryTimeout", "retryOn"] {
        if value[key] == "" {
            value[key].take();
        }
    }
    without_nulls(value)
}

fn headers(headers: &Headers) -> Option<Value> {
    let mut value = Map::new();
    for (key, operations) in [
        ("request", &headers.request),
        ("response", &headers.response),
    ] {
        let operations = json!(operations);
        if operations.as_object().is_some_and(|map| !map.is_empty()) {
            value.insert(key.to_owned(), operations);
        }
    }
    (!value.is_empty()).then(|| value.into())
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    value
}

/// A text that is there and not empty.
pub fn filled(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|value| !value.is_empty())
}

/// A spec that sends to the apex Service where it sent to the canary's two. Of several routes of ours the last one stays: those before
/// it only tell an A/B test or bearers of a cookie apart.
pub fn lead_back(canary: &Canary, spec: &Value) -> Value {
    let names = [canary.primary_service_name(), canary.canary_service_name()];
    let is_ours = |entry: &Value| {
        names
            .iter()
            .any(|name| live::leads_to(canary, &entry["destination"], name))
    };
    let mut spec = spec.clone();
    for key in ["http", "tcp", "tls"] {
        let Some(rules) = spec[key].as_array_mut() else {
            continue;
        };
        let ours = |rule: &Value| live::list(rule, "route").iter().any(is_ours);
        let Some(last) = rules.iter().rposition(ours) else {
            continue;
        };
        let mut position = 0;
        rules.retain(|rule| {
            position += 1;
            position - 1 == last || !ours(rule)
        });
        for rule in rules.iter_mut().filter(|rule| ours(rule)) {
            let mirrors = names
                .iter()
                .any(|name| live::leads_to(canary, &rule["mirror"], name));
            if mirrors && let Some(rule) = rule.as_object_mut() {
                rule.remove("mirror");
                rule.remove("mirrorPercentage");
            }
            let route = live::list(rule, "route");
            let (mine, mut others): (Vec<Value>, Vec<Value>) =
                route.iter().cloned().partition(is_ours);
            let mut destination = mine[0]["destination"].clone();
            destination["host"] = json!(canary.apex_name());
            let mut apex = json!({"destination": destination});
            if !others.is_empty() {
                let weight: i64 = mine.iter().filter_map(|one| one["weight"].as_i64()).sum();
                apex["weight"] = json!(weight);
            }
            others.insert(0, apex);
            rule["route"] = others.into();
        }
    }
    spec
}
