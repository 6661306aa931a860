//! Provider `traefik`: one `TraefikService`, named like the apex Service, that divides requests between the two Services. Users name it
//! in the routes of their own `IngressRoute`.
//!
//! A side without weight is not in the list. Flagger writes its weight 0 as no weight, and Traefik reads that as 1; and Traefik drops a
//! weighted service as a whole when one of its Services has no endpoints, as the canary's has between two runs.

use super::{
    Applied, Capabilities, Lookup, Observed, RouteError, RouteRequest, Router, RoutingSettings,
    Split, Weight, refuse_errors,
    route_object::{self, Manner},
    weighted,
};
use crate::api::Canary;
use crate::object::{Kind, Object, ObjectRef, Reading, Write, kinds};
use serde_json::{Value, json};

const KIND: Kind = kinds::TRAEFIK_SERVICE;

/// The router for Traefik's own resources.
pub struct Traefik;

const MANNER: Manner = Manner {
    says: |_, _| true,
    lead_back,
    keep,
};

impl Router for Traefik {
    fn provider(&self) -> &'static str {
        "traefik"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::WEIGHTED
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        vec![route_object::route_of(canary, &KIND)]
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        refuse_errors(self.refusals(request.canary))?;
        let target = route_object::route_of(request.canary, &KIND);
        let spec = spec(request.canary, request.split)?;
        let write = route_object::apply_to(request, &target, &spec, &live(&target), &MANNER)?;
        Ok(write.into_iter().collect())
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let target = route_object::route_of(canary, &KIND);
        // Traefik writes no status; the drain time covers what it needs to read its configuration anew.
        let split = |object: &Object| split_of(canary, object);
        weighted::observed(&target, &live(&target), split, |_| Applied::Yes)
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let reading: Reading = live(&route_object::route_of(canary, &KIND));
        route_object::give_back(canary, &KIND, &reading)
    }
}

fn spec(canary: &Canary, split: Split) -> Result<Value, RouteError> {
    let service = canary
        .spec
        .service
        .as_ref()
        .ok_or_else(|| RouteError::Invalid {
            field: "spec.service".to_owned(),
            found: "missing".to_owned(),
            expected: "a TraefikService needs at least spec.service.port".to_owned(),
        })?;
    let sides = [
        (canary.primary_service_name(), split.primary()),
        (canary.canary_service_name(), split.canary),
    ];
    let services: Vec<Value> = sides
        .into_iter()
        .filter(|(_, weight)| *weight > Weight::NONE)
        .map(|(name, weight)| {
            json!({
                "kind": "Service",
                "name": name,
                "namespace": canary.metadata.namespace,
                "port": service.port,
                "weight": weight.percent(),
            })
        })
        .collect();
    Ok(json!({"weighted": {"services": services}}))
}

fn services(spec: &Value) -> &[Value] {
    spec["weighted"]["services"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

/// How a Service is called (`scheme`, `serversTransport`, `sticky` and so on) is the user's: an entry keeps what it has, and one that comes
/// anew takes over what its other side has, or what the entry of the apex had.
fn keep(canary: &Canary, desired: &mut Value, live: &Value) {
    let (primary, other) = (canary.primary_service_name(), canary.canary_service_name());
    let Some(wanted) = desired["weighted"]["services"].as_array_mut() else {
        return;
    };
    for entry in wanted {
        let own = entry["name"].as_str().unwrap_or_default().to_owned();
        let names = [own.as_str(), &primary, &other, canary.apex_name()];
        let model = names
            .into_iter()
            .find_map(|name| services(live).iter().find(|found| found["name"] == name));
        if let (Some(model), Some(entry)) =
            (model.and_then(Value::as_object), entry.as_object_mut())
        {
            for (key, value) in model {
                entry.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// The apex Service in place of the canary's two; what others share its weight with stays.
fn lead_back(canary: &Canary, spec: &Value) -> Value {
    let (primary, other) = (canary.primary_service_name(), canary.canary_service_name());
    let ours = |entry: &Value| entry["name"] == *primary || entry["name"] == *other;
    let mut spec = spec.clone();
    if let Some(services) = spec["weighted"]["services"].as_array_mut()
        && let Some(first) = services.iter().position(ours)
    {
        let mut apex = services[first].clone();
        apex["name"] = json!(canary.apex_name());
        apex["weight"] = json!(1);
        services.retain(|entry| !ours(entry));
        services.insert(0, apex);
    }
    spec
}

/// The split of a service that sends to the canary's Services and to nobody else.
fn split_of(canary: &Canary, object: &Object) -> Option<Split> {
    let (mut primary, mut other) = (0, 0);
    for entry in services(object.at("/spec")) {
        let weight = match &entry["weight"] {
            Value::Null => 1,
            weight => weight.as_u64()?,
        };
        if entry["name"] == canary.primary_service_name() {
            primary += weight;
        } else if entry["name"] == canary.canary_service_name() {
            other += weight;
        } else {
            return None;
        }
    }
    Some(Split {
        canary: Weight::proportion(primary, other)?,
        mirrored: false,
    })
}
