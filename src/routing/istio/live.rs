//! What a live `VirtualService` says: its split, whether it says what is desired, and what of others stays in it.

use super::Subject;
use crate::api::Canary;
use crate::object::{Object, canonical_json};
use crate::routing::{Applied, Observed, Split, Weight, route_object, session_cookie};
use serde_json::Value;

/// The fields of an HTTP route that a Canary decides about, and those that would take the requests away from its two Services. Other
/// fields belong to whoever wrote them.
const OURS_IN_HTTP: [&str; 15] = [
    "match",
    "route",
    "rewrite",
    "timeout",
    "retries",
    "corsPolicy",
    "headers",
    "mirror",
    "mirrorPercentage",
    "mirrorPercent",
    "mirror_percent",
    "mirrors",
    "redirect",
    "directResponse",
    "delegate",
];
const OURS_IN_TCP: [&str; 2] = ["match", "route"];

/// The same inside two parts of an HTTP route, where the canary asks for them.
const OURS_IN_PARTS: [(&str, &[&str]); 2] = [
    ("retries", &["attempts", "perTryTimeout", "retryOn"]),
    (
        "corsPolicy",
        &[
            "allowCredentials",
            "allowHeaders",
            "allowMethods",
            "allowOrigin",
            "allowOrigins",
            "exposeHeaders",
            "maxAge",
        ],
    ),
];

pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Whether a destination is a Service of the canary, by its short name or one that tells its namespace.
pub fn leads_to(canary: &Canary, destination: &Value, service: &str) -> bool {
    let host = destination["host"].as_str().unwrap_or_default();
    host.strip_prefix(service).is_some_and(|rest| {
        let namespace = &canary.metadata.namespace;
        rest.is_empty()
            || rest
                .strip_prefix('.')
                .and_then(|rest| rest.strip_prefix(namespace.as_str()))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Whether a live spec says what the desired one does. Of the spec only the fields that are desired count; the routes must be the same
/// whole, since others' fields in them are part of what is desired ([`keep`]).
pub fn says(live: &Value, desired: &Value) -> bool {
    desired
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, wanted)| canonical_json(&live[key]) == canonical_json(wanted))
}

/// Adds to the desired routes the fields that others wrote into the live ones: the list of routes is ours as a whole, what is in it is
/// not. The routes that lead to the canary's Services correspond from the last one backwards, since those that pin by cookie come and
/// go before it; a new one gets what the last one has, of which it is a copy.
pub fn keep(canary: &Canary, desired: &mut Value, live: &Value) {
    let primary = canary.primary_service_name();
    let sends = |rule: &&Value| {
        list(rule, "route")
            .iter()
            .any(|entry| leads_to(canary, &entry["destination"], &primary))
    };
    let parts: [(&str, &[&str]); 2] = [("http", &OURS_IN_HTTP), ("tcp", &OURS_IN_TCP)];
    for (key, ours) in parts {
        let present: Vec<&Value> = list(live, key).iter().filter(sends).collect();
        let Some(last) = present.last() else {
            continue;
        };
        let wanted = desired.get_mut(key).and_then(Value::as_array_mut);
        let mut present = present.iter().rev();
        for rule in wanted.into_iter().flatten().rev() {
            let from = present.next().unwrap_or(last);
            adopt(rule, from, ours);
            for (part, ours) in OURS_IN_PARTS {
                if rule[part].is_object() {
                    adopt(&mut rule[part], &from[part], ours);
                }
            }
        }
    }
}

/// Adds to an object the fields of another that are not `ours`.
fn adopt(into: &mut Value, from: &Value, ours: &[&str]) {
    for (key, value) in from.as_object().into_iter().flatten() {
        if !ours.contains(&key.as_str()) {
            into[key] = value.clone();
        }
    }
}

/// The split and the last foreign writer of a `VirtualService`. Istio doesn't tell when its proxies have taken one over; the drain time
/// covers it.
pub fn observed(canary: &Canary, route: Option<&Object>) -> Observed {
    let Some(route) = route else {
        return Observed {
            split: None,
            applied: Applied::Pending(format!(
                "VirtualService {}.{} does not exist yet",
                canary.apex_name(),
                canary.metadata.namespace
            )),
            foreign_writer: None,
        };
    };
    Observed {
        split: Subject::of(canary).and_then(|subject| split(&subject, route)),
        applied: Applied::Yes,
        foreign_writer: route_object::foreign_writer(route),
    }
}

/// The weights of the route that sends to both sides. With session affinity it is the one whose destinations set cookies; routes that
/// pin by cookie don't count. Several such routes must say the same.
fn split(subject: &Subject<'_>, route: &Object) -> Option<Split> {
    let canary = subject.canary;
    let key = if subject.is_tcp() { "tcp" } else { "http" };
    let both: Vec<(&Value, Split)> = list(route.at("/spec"), key)
        .iter()
        .filter_map(|rule| Some((rule, split_of(canary, rule)?)))
        .collect();
    let analysis = &canary.spec.analysis;
    let affinity = analysis.session_affinity.as_ref();
    let Some(affinity) = affinity.filter(|_| analysis.matches.is_empty()) else {
        return agreed(both.iter());
    };
    let names = session_cookie::names(affinity);
    let pins = |rule: &Value| {
        list(rule, "match").iter().any(|entry| {
            let headers = entry["headers"].as_object();
            headers.into_iter().flatten().any(|(name, condition)| {
                let expression = condition["regex"].as_str().unwrap_or_default();
                name.eq_ignore_ascii_case("cookie")
                    && names.iter().any(|name| expression.contains(name.as_str()))
            })
        })
    };
    let sets_cookie = |rule: &Value| {
        list(rule, "route")
            .iter()
            .any(|entry| entry["headers"].is_object())
    };
    agreed(
        both.iter()
            .filter(|(rule, _)| sets_cookie(rule) && !pins(rule)),
    )
    .or_else(|| agreed(both.iter().filter(|(rule, _)| !pins(rule))))
}

fn agreed<'a>(mut found: impl Iterator<Item = &'a (&'a Value, Split)>) -> Option<Split> {
    let first = found.next()?.1;
    found.all(|(_, split)| *split == first).then_some(first)
}

/// The split of one route that sends to both sides and to nobody else; `None` for other routes and for weights that make no sense.
fn split_of(canary: &Canary, rule: &Value) -> Option<Split> {
    let route = list(rule, "route");
    if route.len() != 2 {
        return None;
    }
    let weight = |name: &str| -> Option<u64> {
        let entry = route
            .iter()
            .find(|entry| leads_to(canary, &entry["destination"], name))?;
        match &entry["weight"] {
            // Flagger and the API leave a weight of 0 out.
            Value::Null => Some(0),
            weight => weight.as_u64(),
        }
    };
    let service = canary.canary_service_name();
    Some(Split {
        canary: Weight::proportion(weight(&canary.primary_service_name())?, weight(&service)?)?,
        mirrored: leads_to(canary, &rule["mirror"], &service),
    })
}
