//! Provider `apisix`: an `ApisixRoute` `<route>-<apex>-canary` beside the user's own, which `spec.routeRef` names. It has the user's HTTP entries that
//! lead to the apex Service, with more priority and with both Services as backends. The user's route is not written.

use super::{
    Applied, Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, Split, Weight, capabilities, companion, refuse_errors,
};
use crate::api::Canary;
use crate::object::{Kind, Object, ObjectRef, Write, kinds};
use serde_json::{Value, json};
use std::sync::Arc;

const KIND: Kind = kinds::APISIX_ROUTE;
/// Flagger's; an entry of the user with as much gets one more.
const PRIORITY: i64 = 10_000;
const ROUTE_REF_EXPECTED: &str = "name the ApisixRoute whose traffic shall be divided: `routeRef: {apiVersion: apisix.apache.org/v2, kind: ApisixRoute, name: my-route}`";

/// The router for APISIX.
pub struct Apisix;

impl Router for Apisix {
    fn provider(&self) -> &'static str {
        "apisix"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::WEIGHTED
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut found = capabilities::refusals(self.provider(), &self.capabilities(), canary);
        if names(canary).is_err() {
            let message = format!("missing; {ROUTE_REF_EXPECTED}");
            found.push(Refusal::error("spec.routeRef", message));
        }
        found
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        names(canary)
            .map(|(source, target)| vec![source, target])
            .unwrap_or_default()
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let canary = request.canary;
        refuse_errors(self.refusals(canary))?;
        let (name, target) = names(canary)?;
        let reading = live(&target);
        let (source, entries) = match source(canary, &name, request.split, live) {
            Ok(found) => found,
            Err(why) => {
                return companion::without_source(
                    canary,
                    (&target, &reading),
                    request.split,
                    |object| split(canary, object),
                    |object| {
                        let entries = reweighted(canary, object, request.split)?;
                        Some(json!({"spec": {"http": entries}}))
                    },
                    why,
                );
            }
        };
        let mut spec = source.at("/spec").clone();
        spec["http"] = entries;
        if let Some(spec) = spec.as_object_mut() {
            // Connections are served by the user's route.
            spec.remove("stream");
            spec.remove("tcp");
        }
        let annotations = companion::annotations(&source, |_| false);
        let whole = (&reading, ["http"].as_slice());
        let write = companion::apply(canary, &target, &source, annotations, &spec, whole)?;
        Ok(write.into_iter().collect())
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let (name, target) = names(canary)?;
        let source = source(canary, &name, Split::PRIMARY, live).err();
        let split = |object: &Object| split(canary, object);
        companion::observed((&target, &live(&target)), source.as_ref(), split, applied)
    }

    fn unfit(&self, canary: &Canary, live: &Lookup<'_>) -> Vec<RouteError> {
        names(canary).map_or_else(
            |_| Vec::new(),
            |(name, target)| {
                let source = source(canary, &name, Split::PRIMARY, live).err();
                companion::unfit(&live(&target), source)
            },
        )
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let (_, target) = names(canary)?;
        let reading = live(&target);
        Ok(companion::remove(canary, target, &reading))
    }
}

/// The user's route and the companion.
fn names(canary: &Canary) -> Result<(ObjectRef, ObjectRef), RouteError> {
    let name = canary
        .spec
        .route_ref
        .as_ref()
        .map(|reference| reference.name.as_str())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| RouteError::Invalid {
            field: "spec.routeRef".to_owned(),
            found: "missing".to_owned(),
            expected: ROUTE_REF_EXPECTED.to_owned(),
        })?;
    let namespace = &canary.metadata.namespace;
    Ok((
        KIND.named(namespace, name),
        KIND.named(namespace, &format!("{name}-{}-canary", canary.apex_name())),
    ))
}

/// The user's route and its entries with both sides as backends.
fn source(
    canary: &Canary,
    name: &ObjectRef,
    split: Split,
    live: &Lookup<'_>,
) -> Result<(Arc<Object>, Value), RouteError> {
    let route = companion::source(name, live)?;
    let entries = entries(canary, name, &route, split)?;
    Ok((route, entries))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The entries that lead to the apex Service, with both sides as backends.
fn entries(
    canary: &Canary,
    name: &ObjectRef,
    route: &Object,
    split: Split,
) -> Result<Value, RouteError> {
    let apex = canary.apex_name();
    let unfit = |why: String| RouteError::Unfit(Box::new(name.clone()), why);
    let mut entries = Vec::new();
    for entry in list(route.at("/spec"), "http") {
        let backends = list(entry, "backends");
        let Some(backend) = backends
            .iter()
            .find(|backend| backend["serviceName"] == apex)
        else {
            continue;
        };
        if backends.len() != 1 {
            return Err(unfit(format!(
                "entry {} has {} backends; one that leads to Service {apex} must have no other, so that its traffic can be divided",
                entry["name"],
                backends.len()
            )));
        }
        let side = |service: String, weight: Weight| {
            let mut backend = backend.clone();
            backend["serviceName"] = json!(service);
            backend["weight"] = json!(weight.percent());
            backend
        };
        let mut entry = entry.clone();
        let users = entry["priority"].as_i64().unwrap_or(0);
        entry["priority"] = json!(PRIORITY.max(users.saturating_add(1)));
        entry["backends"] = json!([
            side(canary.primary_service_name(), split.primary()),
            side(canary.canary_service_name(), split.canary),
        ]);
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(unfit(format!(
            "none of its HTTP entries leads to Service {apex}; at least one must, so that its traffic can be divided"
        )));
    }
    Ok(entries.into())
}

/// The entries of the companion with other weights; nothing where there is none, or one has other backends than the two sides.
fn reweighted(canary: &Canary, companion: &Object, split: Split) -> Option<Value> {
    let sides = [
        (canary.primary_service_name(), split.primary()),
        (canary.canary_service_name(), split.canary),
    ];
    let mut entries = companion.at("/spec/http").clone();
    for entry in entries.as_array_mut()? {
        let backends = entry["backends"].as_array_mut()?;
        for (name, weight) in &sides {
            let mut named = backends
                .iter_mut()
                .filter(|backend| backend["serviceName"] == *name);
            named.next()?["weight"] = json!(weight.percent());
        }
        if backends.len() != sides.len() {
            return None;
        }
    }
    (entries != json!([])).then_some(entries)
}

/// The weights of the entries, which must say the same.
fn split(canary: &Canary, route: &Object) -> Option<Split> {
    let mut found = list(route.at("/spec"), "http")
        .iter()
        .map(|entry| split_of(canary, entry));
    let first = found.next()??;
    found.all(|other| other == Some(first)).then_some(first)
}

fn split_of(canary: &Canary, entry: &Value) -> Option<Split> {
    let backends = list(entry, "backends");
    let weight = |name: String| {
        let backend = backends
            .iter()
            .find(|backend| backend["serviceName"] == name)?;
        match &backend["weight"] {
            Value::Null => Some(100),
            weight => weight.as_u64(),
        }
    };
    if backends.len() != 2 {
        return None;
    }
    let share = Weight::proportion(
        weight(canary.primary_service_name())?,
        weight(canary.canary_service_name())?,
    )?;
    Some(Split {
        canary: share,
        mirrored: false,
    })
}

/// Whether the ingress controller could bring the route to APISIX; versions that say nothing are believed.
fn applied(route: &Object) -> Applied {
    let refused = list(route.at("/status"), "conditions")
        .iter()
        .find(|condition| {
            condition["status"] == "False"
                && ["Accepted", "ResourcesAvailable"]
                    .contains(&condition["type"].as_str().unwrap_or_default())
        });
    match refused {
        Some(condition)
            if condition["observedGeneration"]
                .as_i64()
                .is_none_or(|seen| seen >= route.generation()) =>
        {
            Applied::Pending(format!(
                "the APISIX ingress controller says {}: {}",
                condition["reason"].as_str().unwrap_or("no reason"),
                condition["message"].as_str().unwrap_or("no message"),
            ))
        }
        _ => Applied::Yes,
    }
}
