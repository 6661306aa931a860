//! Provider `gloo`: one `RouteTable`, named like the apex Service, and an `Upstream` for each of the canary's two Services. Users delegate
//! to the table from a route of their own `VirtualService`, whose path matchers it inherits.
//!
//! An A/B test is a route for each condition, then a plain one to the primary: who meets no condition stays there. Flagger's table has no
//! plain route, so they get nothing.

use super::{
    Applied, Capabilities, Condition, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, Split, capabilities,
    route_object::{self, Manner},
    weighted,
};
use crate::api::{AnalysisMatch, Canary};
use crate::object::{Object, ObjectRef, Reading, Write, kinds};
use serde_json::{Map, Value, json};

/// The router.
pub struct Gloo;

/// What is taken over from the Upstream that `spec.upstreamRef` names.
const SETTINGS: [&str; 8] = [
    "sslConfig",
    "circuitBreakers",
    "connectionConfig",
    "loadBalancerConfig",
    "useHttp2",
    "initialStreamWindowSize",
    "initialConnectionWindowSize",
    "httpProxyHostname",
];

const TABLE: Manner = Manner {
    says: weighted::says,
    lead_back,
    keep: |_, _, _| (),
};

/// An Upstream has no lists of ours, and what only the live one has is somebody else's.
const UPSTREAM: Manner = Manner {
    says: |_, _| true,
    lead_back: |_, spec| spec.clone(),
    keep: |_, _, _| (),
};

impl Router for Gloo {
    fn provider(&self) -> &'static str {
        "gloo"
    }

    /// As in Flagger, a name counts by its beginning.
    fn answers_to(&self, provider: &str) -> bool {
        provider.starts_with("gloo")
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditions: &[
                Condition::HeaderExact,
                Condition::HeaderRegex,
                Condition::HeaderPresent,
                Condition::QueryExact,
                Condition::QueryRegex,
                Condition::QueryPresent,
            ],
            ..Capabilities::WEIGHTED
        }
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        if canary.spec.service.is_none() {
            refusals.push(Refusal::error(
                "spec.service",
                "missing; a RouteTable needs at least spec.service.port",
            ));
        }
        refusals.extend(capabilities::refusals(
            self.provider(),
            &self.capabilities(),
            canary,
        ));
        refusals
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        let [primary, other] = upstreams(canary);
        let mut objects = vec![primary, other, table(canary)];
        objects.extend(source(canary));
        objects
    }

    /// Both Upstreams come before the table that sends to them.
    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let canary = request.canary;
        let service = weighted::service_of(canary, "RouteTable")?;
        let names = upstreams(canary);
        let readings = names.each_ref().map(live);
        let mut writes = Vec::new();
        let settings = settings(canary, live);
        let made = readings.iter().all(|reading| reading.object().is_some());
        // The user's Upstream may be gone when traffic must go back: what both have of it already stays then.
        if settings.is_ok() || !made {
            let settings = settings?;
            let sides = [canary.primary_service_name(), canary.canary_service_name()];
            for ((name, reading), side) in names.iter().zip(&readings).zip(sides) {
                let mut spec = Value::Object(settings.clone());
                spec["kube"] = json!({
                    "serviceName": side,
                    "serviceNamespace": canary.metadata.namespace,
                    "servicePort": service.port,
                });
                writes.extend(route_object::apply_to(
                    request, name, &spec, reading, &UPSTREAM,
                )?);
            }
        }
        let target = table(canary);
        let spec = spec(canary, request.split);
        writes.extend(route_object::apply_to(
            request,
            &target,
            &spec,
            &live(&target),
            &TABLE,
        )?);
        Ok(writes)
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let target = table(canary);
        let split = |object: &Object| split_of(canary, object.at("/spec"));
        weighted::observed(&target, &live(&target), split, applied)
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let target = table(canary);
        route_object::give_back_to(canary, &target, &live(&target), Some(lead_back))
    }
}

fn table(canary: &Canary) -> ObjectRef {
    route_object::route_of(canary, &kinds::ROUTE_TABLE)
}

/// The names of Flagger: `<namespace>-<apex>-primaryupstream-<port>` and the canary's.
fn upstreams(canary: &Canary) -> [ObjectRef; 2] {
    let namespace = &canary.metadata.namespace;
    let port = canary
        .spec
        .service
        .as_ref()
        .map_or(0, |service| service.port);
    ["primary", "canary"].map(|side| {
        let name = format!("{namespace}-{}-{side}upstream-{port}", canary.apex_name());
        kinds::UPSTREAM.named(namespace, &name)
    })
}

/// The Upstream of the user whose settings both sides get.
fn source(canary: &Canary) -> Option<ObjectRef> {
    let reference = canary.spec.upstream_ref.as_ref()?;
    let namespace = reference
        .namespace
        .as_deref()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or(&canary.metadata.namespace);
    Some(kinds::UPSTREAM.named(namespace, &reference.name))
}

fn settings(canary: &Canary, live: &Lookup<'_>) -> Result<Map<String, Value>, RouteError> {
    let Some(name) = source(canary) else {
        return Ok(Map::new());
    };
    match live(&name) {
        Reading::Present(object) => Ok(SETTINGS
            .into_iter()
            .filter_map(|field| {
                let value = object.at("/spec").get(field)?;
                Some((field.to_owned(), value.clone()))
            })
            .collect()),
        Reading::Absent => Err(RouteError::Missing(Box::new(name))),
        Reading::Unknown(why) => Err(RouteError::Unknown(Box::new(name), why)),
    }
}

fn destination(upstream: &ObjectRef, percent: u8) -> Value {
    json!({
        "destination": {"upstream": {"name": upstream.name, "namespace": upstream.namespace}},
        "weight": percent,
    })
}

fn spec(canary: &Canary, split: Split) -> Value {
    let [primary, other] = upstreams(canary);
    let route = |destinations: Vec<Value>| {
        json!({
            "inheritablePathMatchers": true,
            "routeAction": {"multi": {"destinations": destinations}},
        })
    };
    let mut divided = route(vec![
        destination(&primary, split.primary().percent()),
        destination(&other, split.canary.percent()),
    ]);
    let matches = &canary.spec.analysis.matches;
    if matches.is_empty() {
        return json!({"routes": [divided]});
    }
    divided["matchers"] = matches.iter().map(matcher).collect();
    json!({"routes": [divided, route(vec![destination(&primary, 100)])]})
}

/// One condition; the matchers of a route are alternatives.
fn matcher(condition: &AnalysisMatch) -> Value {
    let one = |name: &str, exact: Option<&String>, regex: Option<&String>| {
        let filled = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
        match (filled(exact), filled(regex)) {
            (Some(value), _) => json!({"name": name, "value": value}),
            (None, Some(value)) => json!({"name": name, "value": value, "regex": true}),
            (None, None) => json!({"name": name}),
        }
    };
    let headers: Vec<Value> = condition
        .headers
        .iter()
        .map(|(name, value)| one(name, value.exact.as_ref(), value.regex.as_ref()))
        .collect();
    let query: Vec<Value> = condition
        .query_params
        .iter()
        .map(|(name, value)| one(name, value.exact.as_ref(), value.regex.as_ref()))
        .collect();
    let mut matcher = Map::new();
    if !headers.is_empty() {
        matcher.insert("headers".to_owned(), headers.into());
    }
    if !query.is_empty() {
        matcher.insert("queryParameters".to_owned(), query.into());
    }
    matcher.into()
}

/// What the routes to both sides say; the plain one of an A/B test leads to the primary alone.
fn split_of(canary: &Canary, spec: &Value) -> Option<Split> {
    let [primary, other] = upstreams(canary);
    let routes = weighted::list(spec, "routes").iter();
    weighted::agreed(routes.filter_map(|route| {
        let destinations = weighted::list(&route["routeAction"]["multi"], "destinations");
        weighted::split(
            (&primary.name, &other.name),
            destinations.iter().map(|entry| {
                let name = entry["destination"]["upstream"]["name"].as_str();
                // Gloo leaves out a weight of 0.
                let weight = match &entry["weight"] {
                    Value::Null => Some(0),
                    weight => weight.as_u64(),
                };
                (name.unwrap_or_default(), weight)
            }),
        )
    }))
}

/// Each gateway of Gloo's reports for itself; a table that one of them rejects is not applied there.
fn applied(object: &Object) -> Applied {
    let reports = object.at("/status/statuses").as_object();
    let rejected = reports.into_iter().flatten().find(|(_, report)| {
        let state = &report["state"];
        state == "Rejected" || state == 2
    });
    match rejected {
        Some((reporter, report)) => Applied::Pending(format!(
            "{reporter} rejects RouteTable {}: {}",
            object.name(),
            report["reason"].as_str().unwrap_or("no reason")
        )),
        None => Applied::Yes,
    }
}

/// The apex Service in place of the canary's two Upstreams.
fn lead_back(canary: &Canary, spec: &Value) -> Value {
    let [primary, other] = upstreams(canary);
    let ours = |entry: &Value| {
        let name = &entry["destination"]["upstream"]["name"];
        *name == *primary.name || *name == *other.name
    };
    let port = canary
        .spec
        .service
        .as_ref()
        .map_or(0, |service| service.port);
    let mut spec = spec.clone();
    for route in spec["routes"].as_array_mut().into_iter().flatten() {
        let Some(destinations) = route["routeAction"]["multi"]["destinations"].as_array_mut()
        else {
            continue;
        };
        if destinations.iter().any(ours) {
            destinations.retain(|entry| !ours(entry));
            let service = json!({
                "ref": {"name": canary.apex_name(), "namespace": canary.metadata.namespace},
                "port": port,
            });
            destinations.insert(0, json!({"destination": {"kube": service}, "weight": 1}));
        }
    }
    spec
}
