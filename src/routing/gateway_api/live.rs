//! What a live route says: its split, whether a gateway has taken it over, and whether it says what is desired.

use super::rules;
use crate::api::Canary;
use crate::object::{Object, ObjectRef, covers};
use crate::routing::{Applied, Observed, Split, Weight, route_object, session_cookie};
use serde_json::Value;

/// What is said where no controller has said anything.
const NOT_YET: &str = "no gateway has accepted the route yet";

/// Fields whose presence changes what a route does. Where only the live route has one of them somebody has added it by hand;
/// other fields that only the live route has are defaults of the API.
const MEANINGFUL: [&str; 19] = [
    "hostnames",
    "filters",
    "timeouts",
    "retry",
    "sessionPersistence",
    "headers",
    "queryParams",
    "method",
    "service",
    "namespace",
    "sectionName",
    "port",
    "path",
    "hostname",
    "add",
    "set",
    "remove",
    "percent",
    "fraction",
];

/// Whether a live spec says what the desired one does. Lists of a route are atomic: they must have the same elements in the same order.
pub fn says(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| match live.get(key) {
                Some(found) => says(found, value),
                None => covers(&Value::Null, value),
            }) && MEANINGFUL.iter().all(|key| {
                wanted.contains_key(*key)
                    || live
                        .get(*key)
                        .is_none_or(|extra| covers(&Value::Null, extra))
            })
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| says(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

/// Adds to the desired rules the names that somebody gave to the live ones with the same matches: policies hold on to a rule by its name.
pub fn keep(_: &Canary, desired: &mut Value, live: &Value) {
    let mut named: Vec<&Value> = list(live, "rules")
        .iter()
        .filter(|rule| !rule["name"].is_null())
        .collect();
    for rule in desired["rules"].as_array_mut().into_iter().flatten() {
        let same = |found: &&Value| says(&found["matches"], &rule["matches"]);
        // Each name once: the API refuses it twice in a route.
        if let Some(position) = named.iter().position(same) {
            rule["name"] = named.remove(position)["name"].clone();
        }
    }
}

/// The split, the acceptance and the last foreign writer of a route.
pub fn observed(canary: &Canary, target: &ObjectRef, route: Option<&Object>) -> Observed {
    let Some(route) = route else {
        return Observed::of_nothing(target);
    };
    Observed {
        split: split(canary, route),
        applied: applied(canary, route),
        foreign_writer: route_object::foreign_writer(route),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The weights of the rule that sends to both sides. With session affinity it is the one whose backends set cookies; rules that
/// pin by cookie don't count. Several such rules must say the same.
fn split(canary: &Canary, route: &Object) -> Option<Split> {
    let both: Vec<(&Value, Split)> = list(route.at("/spec"), "rules")
        .iter()
        .filter_map(|rule| Some((rule, split_of(canary, rule)?)))
        .collect();
    let analysis = &canary.spec.analysis;
    let affinity = analysis.session_affinity.as_ref();
    let Some(affinity) = affinity.filter(|_| analysis.matches.is_empty()) else {
        return agreed(both.iter());
    };
    let sets_cookie = |rule: &Value| {
        list(rule, "backendRefs")
            .iter()
            .any(|backend| !list(backend, "filters").is_empty())
    };
    if let Some(found) = agreed(both.iter().filter(|(rule, _)| sets_cookie(rule))) {
        return Some(found);
    }
    let names = session_cookie::names(affinity);
    let pins = |rule: &Value| {
        list(rule, "matches").iter().any(|found| {
            list(found, "headers").iter().any(|header| {
                let value = header["value"].as_str().unwrap_or_default();
                header["name"]
                    .as_str()
                    .is_some_and(|name| name.eq_ignore_ascii_case("Cookie"))
                    && header["type"] == "RegularExpression"
                    && names.iter().any(|name| value.contains(name.as_str()))
            })
        })
    };
    agreed(both.iter().filter(|(rule, _)| !pins(rule)))
}

fn agreed<'a>(mut found: impl Iterator<Item = &'a (&'a Value, Split)>) -> Option<Split> {
    let first = found.next()?.1;
    found.all(|(_, split)| *split == first).then_some(first)
}

/// The split of one rule that sends to both sides and to nobody else; `None` for other rules and for weights that make no sense.
fn split_of(canary: &Canary, rule: &Value) -> Option<Split> {
    let backends = list(rule, "backendRefs");
    if backends.len() != 2 {
        return None;
    }
    let weight = |name: &str| -> Option<u64> {
        let backend = backends.iter().find(|backend| backend["name"] == name)?;
        match &backend["weight"] {
            Value::Null => Some(1),
            weight => weight.as_u64(),
        }
    };
    let canary_service = canary.canary_service_name();
    let primary = weight(&canary.primary_service_name())?;
    let share = weight(&canary_service)?;
    Some(Split {
        canary: Weight::proportion(primary, share)?,
        mirrored: mirrors(canary, rule, &canary_service),
    })
}

/// Whether a rule mirrors to the canary, apart from the mirrors that the user asked for at all times.
fn mirrors(canary: &Canary, rule: &Value, canary_service: &str) -> bool {
    let found = list(rule, "filters")
        .iter()
        .filter(|filter| filter["requestMirror"]["backendRef"]["name"] == canary_service)
        .count();
    let permanent = canary
        .spec
        .service
        .iter()
        .flat_map(|service| &service.mirror)
        .filter_map(|mirror| mirror.backend_ref.as_ref())
        .filter(|backend| backend.name == canary_service)
        .count();
    found > permanent
}

/// Whether every parent has accepted the route as it is now. The Gateway API has each controller write an entry for each parent that
/// it looks after; one good entry is enough for a parent.
fn applied(canary: &Canary, route: &Object) -> Applied {
    let parents = canary
        .spec
        .service
        .iter()
        .flat_map(|service| &service.gateway_refs);
    accepted_by(parents.map(rules::parent_ref), route)
}

/// Whether each of these parents has accepted the route as it is now.
pub fn accepted_by(parents: impl Iterator<Item = Value>, route: &Object) -> Applied {
    let entries = list(route.at("/status"), "parents");
    if entries.is_empty() {
        return Applied::Pending(NOT_YET.to_owned());
    }
    let namespace = route.namespace();
    for parent in parents {
        let wanted = identity(&parent, namespace);
        let verdicts: Vec<Result<(), String>> = entries
            .iter()
            .filter(|entry| identity(&entry["parentRef"], namespace) == wanted)
            .map(|entry| acceptance(entry, route.generation()))
            .collect();
        if verdicts.iter().any(Result::is_ok) {
            continue;
        }
        let why = verdicts
            .into_iter()
            .find_map(Result::err)
            .unwrap_or_else(|| NOT_YET.to_owned());
        return Applied::Pending(format!(
            "parent {} {}: {why}",
            parent["kind"].as_str().unwrap_or_default(),
            parent["name"].as_str().unwrap_or_default()
        ));
    }
    Applied::Yes
}

/// What tells one parent from another, with the API's defaults.
fn identity<'a>(parent: &'a Value, namespace: &'a str) -> ([&'a str; 5], Option<i64>) {
    let text = |key: &str, default: &'a str| parent[key].as_str().unwrap_or(default);
    let names = [
        // Some controllers call the group of Services by its other name.
        match text("group", "gateway.networking.k8s.io") {
            "core" => "",
            group => group,
        },
        text("kind", "Gateway"),
        text("namespace", namespace),
        text("name", ""),
        text("sectionName", ""),
    ];
    (names, parent["port"].as_i64())
}

/// Whether one entry of the status accepts this generation; the error says what it says instead.
fn acceptance(entry: &Value, generation: i64) -> Result<(), String> {
    let condition = |kind: &str| {
        list(entry, "conditions")
            .iter()
            .find(|condition| condition["type"] == kind)
    };
    let refused = |condition: &Value| {
        format!(
            "{} is {}: {}: {}",
            condition["type"].as_str().unwrap_or_default(),
            condition["status"].as_str().unwrap_or_default(),
            condition["reason"].as_str().unwrap_or("no reason"),
            condition["message"].as_str().unwrap_or("no message"),
        )
    };
    let Some(accepted) = condition("Accepted") else {
        return Err(NOT_YET.to_owned());
    };
    let seen = accepted["observedGeneration"]
        .as_i64()
        .unwrap_or(generation);
    if seen < generation {
        return Err(format!(
            "the gateway has seen generation {seen} of the route, not yet {generation}"
        ));
    }
    if accepted["status"] != "True" {
        return Err(refused(accepted));
    }
    match condition("ResolvedRefs") {
        Some(resolved) if resolved["status"] == "False" => Err(refused(resolved)),
        _ => Ok(()),
    }
}
