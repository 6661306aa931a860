//! `appmesh`: the first form. Routes stand in the `VirtualService`, which is named by a host name, `<apex>.<namespace>`.

use super::{
    ROUTE, Way, applied, apply_annotated, apply_node, capabilities_with, give_back_all, refusals,
    retries, split_of, ways,
};
use crate::api::{Canary, CanaryService};
use crate::object::{Object, ObjectRef, Write, kinds};
use crate::routing::{
    Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router, RoutingSettings,
    ServiceField, Split, route_object, weighted,
};
use serde_json::{Value, json};

/// The router.
pub struct V1Beta1;

impl Router for V1Beta1 {
    fn provider(&self) -> &'static str {
        "appmesh"
    }

    fn capabilities(&self) -> Capabilities {
        capabilities_with(&[
            ServiceField::Match,
            ServiceField::Hosts,
            ServiceField::Retries,
        ])
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut refusals = refusals(self, canary);
        let service = canary.spec.service.as_ref();
        if service.is_some_and(|service| mesh_name(service).is_none()) {
            refusals.push(Refusal::error(
                "spec.service.meshName",
                "missing; App Mesh's v1beta1 resources need the name of the mesh",
            ));
        }
        refusals
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        let nodes = nodes(canary).into_iter().map(|(node, _)| node);
        nodes
            .chain(sides(canary).map(|side| virtual_service(canary, &side)))
            .collect()
    }

    fn prepare(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let canary = request.canary;
        let service = weighted::service_of(canary, "VirtualNode")?;
        let mesh = required_mesh(service)?;
        let mut writes = Vec::new();
        for (node, host) in nodes(canary) {
            let spec = json!({
                "meshName": mesh,
                "listeners": [{"portMapping": {"port": service.port, "protocol": "http"}}],
                "serviceDiscovery": {"dns": {"hostName": format!("{host}.{}", canary.metadata.namespace)}},
            });
            writes.extend(apply_node(request, &node, spec, backend, live)?);
        }
        Ok(writes)
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let canary = request.canary;
        let service = weighted::service_of(canary, "VirtualService")?;
        let mut writes = self.prepare(request, live)?;
        let [apex, alone] = sides(canary);
        let target = virtual_service(canary, &alone);
        let only = Way {
            name: format!("{}-canary-route", canary.apex_name()),
            priority: None,
            conditions: json!({"prefix": super::prefix(service)}),
            split: Some(Split::CANARY),
        };
        let router = format!("{}-canary-router", canary.apex_name());
        let spec = spec(canary, service, &router, vec![only])?;
        writes.extend(route_object::apply_to(
            request,
            &target,
            &spec,
            &live(&target),
            &ROUTE,
        )?);
        let target = virtual_service(canary, &apex);
        let plain = format!("{}-route", canary.apex_name());
        let spec = self::spec(
            canary,
            service,
            &format!("{}-router", canary.apex_name()),
            ways(canary, service, request.split, plain),
        )?;
        writes.extend(apply_annotated(request, &target, &spec, &live(&target))?);
        Ok(writes)
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let [apex, _] = sides(canary);
        let target = virtual_service(canary, &apex);
        let split = |object: &Object| {
            let routes = weighted::list(object.at("/spec"), "routes");
            split_of(canary, routes, ("http", |to| &to["virtualNodeName"]))
        };
        weighted::observed(&target, &live(&target), split, applied)
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        give_back_all(self, canary, live)
    }
}

fn sides(canary: &Canary) -> [String; 2] {
    [canary.apex_name().to_owned(), canary.canary_service_name()]
}

/// The three nodes, each with the Service that answers its name: requests to the apex are answered by the primary.
fn nodes(canary: &Canary) -> [(ObjectRef, String); 3] {
    let primary = canary.primary_service_name();
    let other = canary.canary_service_name();
    [
        (canary.apex_name().to_owned(), primary.clone()),
        (primary.clone(), primary),
        (other.clone(), other),
    ]
    .map(|(name, host)| {
        let node = kinds::APPMESH_VIRTUAL_NODE_V1BETA1.named(&canary.metadata.namespace, &name);
        (node, host)
    })
}

fn backend(name: &str) -> Value {
    json!({"virtualService": {"virtualServiceName": name}})
}

fn virtual_service(canary: &Canary, service: &str) -> ObjectRef {
    let namespace = &canary.metadata.namespace;
    kinds::APPMESH_VIRTUAL_SERVICE_V1BETA1.named(namespace, &format!("{service}.{namespace}"))
}

fn mesh_name(service: &CanaryService) -> Option<&str> {
    service.mesh_name.as_deref().filter(|name| !name.is_empty())
}

fn required_mesh(service: &CanaryService) -> Result<&str, RouteError> {
    mesh_name(service).ok_or_else(|| RouteError::Invalid {
        field: "spec.service.meshName".to_owned(),
        found: "missing".to_owned(),
        expected: "App Mesh's v1beta1 resources need the name of the mesh".to_owned(),
    })
}

fn spec(
    canary: &Canary,
    service: &CanaryService,
    name: &str,
    ways: Vec<Way>,
) -> Result<Value, RouteError> {
    let to = |name: String, weight: u8| json!({"virtualNodeName": name, "weight": weight});
    let routes: Vec<Value> = ways
        .into_iter()
        .map(|way| {
            let primary = canary.primary_service_name();
            let targets = match way.split {
                Some(split) => vec![
                    to(canary.canary_service_name(), split.canary.percent()),
                    to(primary, split.primary().percent()),
                ],
                None => vec![to(primary, 100)],
            };
            let mut http = json!({"match": way.conditions, "action": {"weightedTargets": targets}});
            if let Some((attempts, each, events)) = retries(service) {
                http["retryPolicy"] = json!({
                    "maxRetries": attempts,
                    "perRetryTimeoutMillis": each,
                    "httpRetryPolicyEvents": events,
                });
            }
            let mut route = json!({"name": way.name, "http": http});
            if let Some(priority) = way.priority {
                route["priority"] = json!(priority);
            }
            route
        })
        .collect();
    Ok(json!({
        "meshName": required_mesh(service)?,
        "virtualRouter": {
            "name": name,
            "listeners": [{"portMapping": {"port": service.port, "protocol": "http"}}],
        },
        "routes": routes,
    }))
}
