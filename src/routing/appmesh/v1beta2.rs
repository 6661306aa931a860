//! `appmesh:v1beta2`: the second form. Routes stand in a `VirtualRouter` of their own, and nodes find their pods by labels.

use super::{
    ROUTE, Way, applied, apply_annotated, apply_node, capabilities_with, give_back_all,
    milliseconds, refusals, retries, split_of, ways,
};
use crate::api::{Canary, CanaryService, IntOrString};
use crate::object::{Kind, Object, ObjectRef, Write, kinds};
use crate::routing::{
    Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router, RoutingSettings,
    ServiceField, Split, route_object, weighted,
};
use serde_json::{Value, json};

/// The router.
pub struct V1Beta2;

const NODE: Kind = kinds::APPMESH_VIRTUAL_NODE;
const ROUTER: Kind = kinds::APPMESH_VIRTUAL_ROUTER;
const SERVICE: Kind = kinds::APPMESH_VIRTUAL_SERVICE;

impl Router for V1Beta2 {
    fn provider(&self) -> &'static str {
        "appmesh:v1beta2"
    }

    /// As in Flagger, a name counts by its beginning.
    fn answers_to(&self, provider: &str) -> bool {
        provider.starts_with(self.provider())
    }

    fn capabilities(&self) -> Capabilities {
        capabilities_with(&[
            ServiceField::Match,
            ServiceField::Hosts,
            ServiceField::Timeout,
            ServiceField::Retries,
        ])
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        refusals(self, canary)
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        let named = |kind: &Kind, name: &str| kind.named(&canary.metadata.namespace, name);
        let (apex, other) = (canary.apex_name(), canary.canary_service_name());
        vec![
            named(&NODE, &canary.primary_service_name()),
            named(&NODE, &other),
            named(&ROUTER, &other),
            named(&SERVICE, &other),
            named(&ROUTER, apex),
            named(&SERVICE, apex),
        ]
    }

    fn prepare(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let canary = request.canary;
        let service = weighted::service_of(canary, "VirtualNode")?;
        let namespace = &canary.metadata.namespace;
        let mut writes = Vec::new();
        let sides = [
            (canary.primary_service_name(), canary.primary_name()),
            (
                canary.canary_service_name(),
                canary.target_name().to_owned(),
            ),
        ];
        for (name, workload) in sides {
            let mut listener = json!({"portMapping": {"port": container_port(service), "protocol": protocol(service)}});
            if let Some(timeout) = timeout(service) {
                listener["timeout"] = json!({"http": timeout});
            }
            let mut spec = json!({
                "listeners": [listener],
                "serviceDiscovery": {"dns": {"hostname": format!("{name}.{namespace}.svc.cluster.local.")}},
            });
            if let Some(labels) = pod_labels(request, live, &name, &workload) {
                spec["podSelector"] = json!({"matchLabels": labels});
            }
            let target = NODE.named(namespace, &name);
            writes.extend(apply_node(request, &target, spec, backend, live)?);
        }
        Ok(writes)
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let canary = request.canary;
        let service = weighted::service_of(canary, "VirtualRouter")?;
        let namespace = &canary.metadata.namespace;
        let mut writes = self.prepare(request, live)?;
        let other = canary.canary_service_name();
        let alone = vec![Way {
            name: other.clone(),
            priority: None,
            conditions: json!({"prefix": super::prefix(service)}),
            split: Some(Split::CANARY),
        }];
        let apex = canary.apex_name().to_owned();
        let divided = ways(canary, service, request.split, apex.clone());
        for (name, ways, gateways) in [(other, alone, false), (apex, divided, true)] {
            let router = ROUTER.named(namespace, &name);
            let spec = router_spec(canary, service, ways);
            writes.extend(route_object::apply_to(
                request,
                &router,
                &spec,
                &live(&router),
                &ROUTE,
            )?);
            let target = SERVICE.named(namespace, &name);
            let spec = json!({"provider": {"virtualRouter": {"virtualRouterRef": {"name": name}}}});
            let reading = live(&target);
            writes.extend(if gateways {
                apply_annotated(request, &target, &spec, &reading)?
            } else {
                route_object::apply_to(request, &target, &spec, &reading, &ROUTE)?
            });
        }
        Ok(writes)
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let target = route_object::route_of(canary, &ROUTER);
        let split = |object: &Object| {
            let routes = weighted::list(object.at("/spec"), "routes");
            let name: fn(&Value) -> &Value = |to| &to["virtualNodeRef"]["name"];
            split_of(canary, routes, ("httpRoute", name))
        };
        weighted::observed(&target, &live(&target), split, applied)
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        give_back_all(self, canary, live)
    }
}

/// The labels by which the Service of a side finds its pods. Before it is there: what it will have, as long as the label is named like the
/// workload.
fn pod_labels(
    request: &RouteRequest<'_>,
    live: &Lookup<'_>,
    service: &str,
    workload: &str,
) -> Option<Value> {
    let name = kinds::SERVICE.named(&request.canary.metadata.namespace, service);
    let reading = live(&name);
    let found = reading.object().map(|object| object.at("/spec/selector"));
    if let Some(selector) = found.filter(|selector| selector.is_object()) {
        return Some(selector.clone());
    }
    let label = request.selector_label?;
    Some(json!({label: workload}))
}

fn backend(name: &str) -> Value {
    if name.starts_with("arn:aws") {
        json!({"virtualService": {"virtualServiceARN": name}})
    } else {
        json!({"virtualService": {"virtualServiceRef": {"name": name}}})
    }
}

fn protocol(service: &CanaryService) -> &'static str {
    let grpc = service
        .port_name
        .as_deref()
        .is_some_and(|name| name.contains("grpc"));
    if grpc { "grpc" } else { "http" }
}

fn container_port(service: &CanaryService) -> i64 {
    match &service.target_port {
        Some(IntOrString::Int(port)) if *port > 0 => *port,
        _ => service.port,
    }
}

fn timeout(service: &CanaryService) -> Option<Value> {
    let millis = service.timeout.as_deref().and_then(milliseconds)?;
    Some(json!({"perRequest": {"unit": "ms", "value": millis}}))
}

fn router_spec(canary: &Canary, service: &CanaryService, ways: Vec<Way>) -> Value {
    let to = |name: String, weight: u8| json!({"virtualNodeRef": {"name": name}, "weight": weight});
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
            if let Some(timeout) = timeout(service) {
                http["timeout"] = timeout;
            }
            if let Some((attempts, each, events)) = retries(service) {
                http["retryPolicy"] = json!({
                    "maxRetries": attempts,
                    "perRetryTimeout": {"unit": "ms", "value": each},
                    "httpRetryEvents": events,
                });
            }
            let mut route = json!({"name": way.name, "httpRoute": http});
            if let Some(priority) = way.priority {
                route["priority"] = json!(priority);
            }
            route
        })
        .collect();
    json!({
        "listeners": [{"portMapping": {"port": container_port(service), "protocol": protocol(service)}}],
        "routes": routes,
    })
}
