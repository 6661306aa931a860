//! Provider `kuma`: one `TrafficRoute` that divides what all clients of the mesh send to the apex Service.
//!
//! The object belongs to no namespace, so its name holds that of the canary's (`podinfo.test`) and two canaries of one name don't meet; an
//! annotation says whose it is. The API server can't collect it with its canary: it is deleted before the canary goes. A route that
//! Flagger made, which is named like the apex alone, is kept as long as it speaks of this canary's Services.

use super::{
    Applied, Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, Split, capabilities, route_object, weighted,
};
use crate::api::Canary;
use crate::object::{
    Expect, Kind, Object, ObjectRef, Reading, Write, apply_if_needed, kinds, seal,
};
use serde_json::{Value, json};

const KIND: Kind = kinds::TRAFFIC_ROUTE;

/// On a Canary: the mesh that its workload is in. Flagger's and Kuma's own.
const MESH_ANNOTATION: &str = "kuma.io/mesh";

/// On the route: the canary that it belongs to, `<namespace>/<name>`.
const CANARY_ANNOTATION: &str = "serin.dev/canary";

/// The tag by which Kuma knows workloads.
const SERVICE_TAG: &str = "kuma.io/service";

/// The router.
pub struct Kuma;

impl Router for Kuma {
    fn provider(&self) -> &'static str {
        "kuma"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tcp: true,
            ..Capabilities::WEIGHTED
        }
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        if canary.spec.service.is_none() {
            refusals.push(Refusal::error(
                "spec.service",
                "missing; a TrafficRoute needs at least spec.service.port",
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
        vec![own_name(canary), flaggers_name(canary)]
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let canary = request.canary;
        let (target, reading) = route(canary, live)?;
        let desired = object(canary, &target, request.split)?;
        if let Some(write) = apply_if_needed(&KIND, desired.clone(), &reading) {
            return Ok(vec![write]);
        }
        Ok(reading
            .object()
            .filter(|object| !weighted::says(object.at("/spec"), desired.at("/spec")))
            .map(|object| Write::Apply {
                kind: KIND,
                expect: Expect::unchanged(object),
                object: seal(desired),
            })
            .into_iter()
            .collect())
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let (target, reading) = route(canary, live)?;
        // A policy of Kuma has no status; the drain time covers what proxies need to follow.
        let split = |object: &Object| split_of(canary, object);
        weighted::observed(&target, &reading, split, |_| Applied::Yes)
    }

    fn leaves_objects(&self) -> bool {
        true
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let (target, reading) = route(canary, live)?;
        Ok(reading
            .object()
            .map(|object| Write::Delete {
                target,
                expect: Expect::unchanged(object),
            })
            .into_iter()
            .collect())
    }
}

fn own_name(canary: &Canary) -> ObjectRef {
    let name = format!("{}.{}", canary.apex_name(), canary.metadata.namespace);
    KIND.named("", &name)
}

fn flaggers_name(canary: &Canary) -> ObjectRef {
    KIND.named("", canary.apex_name())
}

fn identity(canary: &Canary) -> String {
    format!("{}/{}", canary.metadata.namespace, canary.metadata.name)
}

/// The route that this canary steers with, as it is now: Flagger's where there is one that sends to this canary's Services, else its own.
fn route(canary: &Canary, live: &Lookup<'_>) -> Result<(ObjectRef, Reading), RouteError> {
    let old = flaggers_name(canary);
    let reading = live(&old);
    let readable = route_object::readable(&old, &reading)?;
    if readable.is_some_and(|object| {
        object.at("/mesh") == mesh(canary)
            && split_of(canary, object).is_some()
            && belongs(canary, object)
    }) {
        return Ok((old, reading));
    }
    let target = own_name(canary);
    let reading = live(&target);
    if let Some(object) = route_object::readable(&target, &reading)?
        && !belongs(canary, object)
    {
        return Err(RouteError::Unfit(
            Box::new(target),
            format!(
                "it belongs to the canary {}; remove one of the two, or give this one another spec.service.name",
                object.annotation(CANARY_ANNOTATION).unwrap_or_default()
            ),
        ));
    }
    Ok((target, reading))
}

fn belongs(canary: &Canary, object: &Object) -> bool {
    object
        .annotation(CANARY_ANNOTATION)
        .is_none_or(|owner| owner == identity(canary))
}

fn mesh(canary: &Canary) -> &str {
    canary
        .metadata
        .annotations
        .get(MESH_ANNOTATION)
        .map(String::as_str)
        .filter(|mesh| !mesh.is_empty())
        .unwrap_or("default")
}

/// The tag that Kuma gives the pods behind a port of a Service.
fn tag(canary: &Canary, service: &str) -> String {
    let port = canary
        .spec
        .service
        .as_ref()
        .map_or(0, |service| service.port);
    format!("{service}_{}_svc_{port}", canary.metadata.namespace)
}

fn object(canary: &Canary, target: &ObjectRef, split: Split) -> Result<Object, RouteError> {
    weighted::service_of(canary, "TrafficRoute")?;
    let side = |service: &str, percent: u8| json!({"weight": percent, "destination": {SERVICE_TAG: tag(canary, service)}});
    let mut annotations = route_object::annotations(canary);
    annotations.insert(CANARY_ANNOTATION.to_owned(), identity(canary));
    Ok(Object::new(json!({
        "apiVersion": KIND.api_version(),
        "kind": KIND.kind,
        "metadata": {"name": target.name, "annotations": annotations},
        "mesh": mesh(canary),
        "spec": {
            "sources": [{"match": {SERVICE_TAG: "*"}}],
            "destinations": [{"match": {SERVICE_TAG: tag(canary, canary.apex_name())}}],
            "conf": {"split": [
                side(&canary.primary_service_name(), split.primary().percent()),
                side(&canary.canary_service_name(), split.canary.percent()),
            ]},
        },
    })))
}

fn split_of(canary: &Canary, object: &Object) -> Option<Split> {
    weighted::split(
        (
            &tag(canary, &canary.primary_service_name()),
            &tag(canary, &canary.canary_service_name()),
        ),
        weighted::list(object.at("/spec/conf"), "split")
            .iter()
            .map(|entry| {
                let tag: &Value = &entry["destination"][SERVICE_TAG];
                (tag.as_str().unwrap_or_default(), entry["weight"].as_u64())
            }),
    )
}
