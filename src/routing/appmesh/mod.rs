//! Providers `appmesh` and `appmesh:v1beta2`: AWS App Mesh, in the two forms of its resources.
//!
//! ```text
//! v1beta1   VirtualService <apex>.<ns> (with its routes)  ──▶ VirtualNode <apex>-primary, <apex>-canary
//! v1beta2   VirtualService <apex> ──▶ VirtualRouter <apex> ──▶ VirtualNode <apex>-primary, <apex>-canary
//! ```
//! Both also write what leads to the canary alone, by its own name. The sidecars of pods ask for their `VirtualNode` before they start, so
//! the nodes are made before the primary. AWS ended App Mesh on 30 September 2026, and a warning says so.

mod v1beta1;
mod v1beta2;

pub use v1beta1::V1Beta1;
pub use v1beta2::V1Beta2;

use super::{
    Applied, Capabilities, Condition, Lookup, Refusal, RouteError, RouteRequest, Router,
    ServiceField, Split, capabilities,
    route_object::{self, Manner},
    weighted,
};
use crate::api::{AnalysisMatch, Canary, CanaryService, parse_go_duration};
use crate::object::{Object, ObjectRef, Reading, Write};
use serde_json::{Map, Value, json};

const NOTICE: &str = "AWS ended App Mesh on 30 September 2026: move to a mesh that reads the Gateway API (gatewayapi:v1), to Istio, or to \
                      a load balancer in front";

/// On a Canary: `enabled` has the proxies of both sides write their access log to standard output.
const ACCESS_LOG_ANNOTATION: &str = "appmesh.flagger.app/accesslog";

/// What each route of an A/B test by conditions comes before; App Mesh tries lower numbers first.
const FIRST_PRIORITY: usize = 10;

const CONDITIONS: &[Condition] = &[
    Condition::HeaderExact,
    Condition::HeaderPrefix,
    Condition::HeaderSuffix,
    Condition::HeaderRegex,
    Condition::HeaderPresent,
];

/// Nodes keep what others add to their listener, such as a health check or TLS.
const NODE: Manner = Manner {
    says: weighted::says,
    lead_back: |_, spec| spec.clone(),
    keep: keep_listener,
};

/// Routers and services are ours as a whole.
const ROUTE: Manner = Manner {
    says: weighted::says,
    lead_back: |_, spec| spec.clone(),
    keep: |_, _, _| (),
};

fn capabilities_with(fields: &'static [ServiceField]) -> Capabilities {
    Capabilities {
        conditions: CONDITIONS,
        fields,
        ..Capabilities::WEIGHTED
    }
}

/// What both forms refuse.
fn refusals(router: &dyn Router, canary: &Canary) -> Vec<Refusal> {
    let provider = router.provider();
    let mut refusals = vec![Refusal::warning(
        crate::routing::PROVIDER,
        format!("{provider}; {NOTICE}"),
    )];
    match &canary.spec.service {
        None => refusals.push(Refusal::error(
            "spec.service",
            "missing; App Mesh needs at least spec.service.port",
        )),
        Some(service) if !is_one_prefix(service) => refusals.push(Refusal::warning(
            "spec.service.match",
            "more than one path prefix; App Mesh takes `uri.prefix` of the first entry and leaves out the rest",
        )),
        Some(_) => {}
    }
    // Each condition is a route, and App Mesh numbers them from here up to the plain one.
    refusals.extend(capabilities::refusals(
        provider,
        &router.capabilities(),
        canary,
    ));
    refusals
}

/// Whether `spec.service.match` says nothing that is left out.
fn is_one_prefix(service: &CanaryService) -> bool {
    let [only] = service.matches.as_slice() else {
        return service.matches.is_empty();
    };
    let value = serde_json::to_value(only).unwrap_or_default();
    let other = |object: &Value, known: &str| {
        object
            .as_object()
            .is_none_or(|object| object.keys().any(|key| key != known))
    };
    !other(&value, "uri") && !other(&value["uri"], "prefix")
}

/// The path prefix that all routes take.
fn prefix(service: &CanaryService) -> &str {
    service
        .matches
        .first()
        .and_then(|first| first.uri.as_ref())
        .and_then(|uri| uri.prefix.as_deref())
        .filter(|prefix| !prefix.is_empty())
        .unwrap_or("/")
}

/// The conditions of one entry, all of which must be met, in the order of their names.
fn headers(entry: &AnalysisMatch) -> Vec<Value> {
    entry
        .headers
        .iter()
        .map(|(name, value)| {
            let conditions: Map<String, Value> = [
                ("exact", &value.exact),
                ("prefix", &value.prefix),
                ("suffix", &value.suffix),
                ("regex", &value.regex),
            ]
            .into_iter()
            .filter_map(|(key, text)| {
                let text = text.as_deref().filter(|text| !text.is_empty())?;
                Some((key.to_owned(), json!(text)))
            })
            .collect();
            if conditions.is_empty() {
                json!({"name": name})
            } else {
                json!({"name": name, "match": conditions})
            }
        })
        .collect()
}

/// One route of the apex: its name, its priority in an A/B test, its matches, its split; nothing for the canary where it gets none by rule.
struct Way {
    name: String,
    priority: Option<usize>,
    conditions: Value,
    split: Option<Split>,
}

/// The ways of the apex: one, or with an A/B test one for each condition and the plain one to the primary.
fn ways(canary: &Canary, service: &CanaryService, split: Split, plain: String) -> Vec<Way> {
    let apex = canary.apex_name();
    let prefix = prefix(service);
    let matches = &canary.spec.analysis.matches;
    if matches.is_empty() {
        return vec![Way {
            name: plain,
            priority: None,
            conditions: json!({"prefix": prefix}),
            split: Some(split),
        }];
    }
    let mut ways: Vec<Way> = matches
        .iter()
        .enumerate()
        .map(|(index, entry)| Way {
            name: match index {
                0 => format!("{apex}-a"),
                more => format!("{apex}-a{}", more + 1),
            },
            priority: Some(FIRST_PRIORITY + index),
            conditions: json!({"prefix": prefix, "headers": headers(entry)}),
            split: Some(split),
        })
        .collect();
    ways.push(Way {
        name: format!("{apex}-b"),
        priority: Some((2 * FIRST_PRIORITY).max(FIRST_PRIORITY + matches.len())),
        conditions: json!({"prefix": prefix}),
        split: None,
    });
    ways
}

/// Attempts, milliseconds for each, and what counts as failed.
fn retries(service: &CanaryService) -> Option<(i64, u64, Vec<String>)> {
    let retries = service.retries.as_ref()?;
    let attempts = retries
        .attempts
        .filter(|attempts| *attempts > 0)
        .unwrap_or(1);
    let each = retries
        .per_try_timeout
        .as_deref()
        .and_then(milliseconds)
        .unwrap_or(250);
    let events = retries.retry_on.as_deref().filter(|on| !on.is_empty());
    let events = events
        .unwrap_or("gateway-error")
        .split(',')
        .map(|event| event.trim().to_owned())
        .filter(|event| !event.is_empty())
        .collect();
    Some((attempts, each, events))
}

fn milliseconds(text: &str) -> Option<u64> {
    let duration = parse_go_duration(text).ok()?;
    u64::try_from(duration.as_millis())
        .ok()
        .filter(|millis| *millis > 0)
}

/// `spec.logging` of a node, where the canary asks for it.
fn logging(canary: &Canary) -> Option<Value> {
    let asked = canary.metadata.annotations.get(ACCESS_LOG_ANNOTATION)?;
    (asked == "enabled").then(|| json!({"accessLog": {"file": {"path": "/dev/stdout"}}}))
}

/// The write of a node, with the backends and the logging that the canary asks for; `backend` is how an entry names one.
fn apply_node(
    request: &RouteRequest<'_>,
    node: &ObjectRef,
    mut spec: Value,
    backend: fn(&str) -> Value,
    live: &Lookup<'_>,
) -> Result<Option<Write>, RouteError> {
    let service = weighted::service_of(request.canary, "VirtualNode")?;
    if !service.backends.is_empty() {
        spec["backends"] = service.backends.iter().map(|name| backend(name)).collect();
    }
    if let Some(logging) = logging(request.canary) {
        spec["logging"] = logging;
    }
    route_object::apply_to(request, node, &spec, &live(node), &NODE)
}

/// What the router wrote is given back, in the order in which nothing leads to what is gone.
fn give_back_all(
    router: &dyn Router,
    canary: &Canary,
    live: &Lookup<'_>,
) -> Result<Vec<Write>, RouteError> {
    let canary = annotated(canary);
    let mut writes = Vec::new();
    for target in router.objects(&canary).iter().rev() {
        writes.extend(route_object::give_back_to(
            &canary,
            target,
            &live(target),
            None,
        )?);
    }
    Ok(writes)
}

/// The canary with what gateways of App Mesh read from the annotations of the apex's service, which come from those of the apex.
fn annotated(canary: &Canary) -> Canary {
    let mut canary = canary.clone();
    let Some(service) = &mut canary.spec.service else {
        return canary;
    };
    if service.hosts.is_empty() {
        return canary;
    }
    let mut annotations = vec![
        ("expose", "true".to_owned()),
        ("domain", service.hosts.join(",")),
    ];
    if let Some(timeout) = service
        .timeout
        .clone()
        .filter(|timeout| !timeout.is_empty())
    {
        annotations.push(("timeout", timeout));
    }
    let attempts = service
        .retries
        .as_ref()
        .and_then(|retries| retries.attempts);
    if let Some(attempts) = attempts.filter(|attempts| *attempts > 0) {
        annotations.push(("retries", attempts.to_string()));
    }
    let apex = service.apex.get_or_insert_default();
    for (key, value) in annotations {
        apex.annotations
            .insert(format!("gateway.appmesh.k8s.aws/{key}"), value);
    }
    canary
}

/// The write of the service of the apex, which alone carries the annotations for gateways.
fn apply_annotated(
    request: &RouteRequest<'_>,
    target: &ObjectRef,
    spec: &Value,
    live: &Reading,
) -> Result<Option<Write>, RouteError> {
    let canary = annotated(request.canary);
    let has_apex = |canary: &Canary| {
        let service = canary.spec.service.as_ref();
        service.is_some_and(|service| service.apex.is_some())
    };
    let request = RouteRequest {
        canary: &canary,
        selector_label: request.selector_label.filter(|_| has_apex(request.canary)),
        ..request.clone()
    };
    route_object::apply_to(&request, target, spec, live, &ROUTE)
}

/// What others added to the one listener of a node.
fn keep_listener(_: &Canary, desired: &mut Value, live: &Value) {
    if let (Some(desired), Some(live)) = (
        desired["listeners"][0].as_object_mut(),
        live["listeners"][0].as_object(),
    ) {
        for (key, value) in live {
            if key != "timeout" {
                desired.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Whether the controller has carried out this generation. Without conditions there is nothing to wait for.
fn applied(object: &Object) -> Applied {
    if object
        .number("/status/observedGeneration")
        .is_some_and(|seen| seen < object.generation())
    {
        return Applied::Pending(format!(
            "the controller of App Mesh has not seen generation {} of {} {} yet",
            object.generation(),
            object.kind(),
            object.name()
        ));
    }
    let refused = weighted::list(object.at("/status"), "conditions")
        .iter()
        .find(|condition| {
            condition["status"] == "False"
                && condition["type"]
                    .as_str()
                    .is_some_and(|kind| kind.ends_with("Active"))
        });
    match refused {
        Some(condition) => Applied::Pending(format!(
            "{} {}: {} is False: {}",
            object.kind(),
            object.name(),
            condition["type"].as_str().unwrap_or_default(),
            condition["message"].as_str().unwrap_or("no message")
        )),
        None => Applied::Yes,
    }
}

/// The split that the routes to both sides agree on.
fn split_of<'v>(
    canary: &Canary,
    routes: &'v [Value],
    (http, node): (&str, fn(&'v Value) -> &'v Value),
) -> Option<Split> {
    let sides = (canary.primary_service_name(), canary.canary_service_name());
    weighted::agreed(routes.iter().filter_map(|route| {
        weighted::split(
            (&sides.0, &sides.1),
            weighted::list(&route[http]["action"], "weightedTargets")
                .iter()
                .map(|target| {
                    let name = node(target).as_str().unwrap_or_default();
                    (name, target["weight"].as_u64())
                }),
        )
    }))
}
