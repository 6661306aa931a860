//! The three Services of a Deployment or `DaemonSet`: apex, `-primary`, `-canary`.
//!
//! ```text
//! live Service            write
//! absent                  apply: ports, selector, labels, annotations, owner
//! controlled by canary    apply; a patch first where it has ports that are not ours
//! user's apex             take-over: one guarded patch of ports and selector, what was there is kept in an annotation
//! somebody else's         refused
//! ```
//! Type, cluster IP and node ports of a live Service are never touched.

use crate::api::{Canary, CanaryService, CustomMetadata, IntOrString};
use crate::object::{Expect, Object, ObjectRef, Patch, Reading, Write, apply_if_needed, kinds};
use crate::workload::metadata::RECONCILE_DISABLED;
use crate::workload::ownership::{beside, controls, owner_references, refuse_foreign};
use crate::workload::{DiscoveredPort, SelectorLabel, WorkloadError};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Annotation on a user's Service that was taken over: compact JSON with its `selector`, its `ports` and the Flux annotations
/// that stood there, to be put back when the canary is deleted.
pub const ORIGINAL_SERVICE: &str = "serin.dev/original-service";

/// Which of the three Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceRole {
    /// The one that clients call; selects the primary's pods.
    Apex,
    /// `-primary`.
    Primary,
    /// `-canary`, selects the target's pods.
    Canary,
    /// The apex while it leads back to the target's pods, since there is no route that could and the primary does not answer.
    ApexOfTarget,
}

impl ServiceRole {
    /// All three, in the order in which they are made: clients are led to the primary last.
    pub const ALL: [Self; 3] = [Self::Canary, Self::Primary, Self::Apex];

    /// The Service of this role.
    #[must_use]
    pub fn object(self, canary: &Canary) -> ObjectRef {
        let name = match self {
            Self::Apex | Self::ApexOfTarget => canary.apex_name().to_owned(),
            Self::Primary => canary.primary_service_name(),
            Self::Canary => canary.canary_service_name(),
        };
        beside(canary, &kinds::SERVICE, &name)
    }

    fn pods(self, selector: &SelectorLabel) -> String {
        match self {
            Self::Apex | Self::Primary => selector.primary_value(),
            Self::Canary | Self::ApexOfTarget => selector.value.clone(),
        }
    }

    fn custom(self, service: &CanaryService) -> Option<&CustomMetadata> {
        match self {
            Self::Apex | Self::ApexOfTarget => service.apex.as_ref(),
            Self::Primary => service.primary.as_ref(),
            Self::Canary => service.canary.as_ref(),
        }
    }
}

/// The ports that `portDiscovery` adds to the Services: those of the containers, without proxies' and without the one that
/// `spec.service` names already. A number is offered once, since a Service can't have it twice.
#[must_use]
pub fn discover_ports(pod_spec: &Value, canary: &Canary) -> Vec<DiscoveredPort> {
    const PROXIES: [&str; 2] = ["istio-proxy", "envoy"];
    let Some(service) = canary
        .spec
        .service
        .as_ref()
        .filter(|service| service.port_discovery())
    else {
        return Vec::new();
    };
    let target_port = service.target_port();
    let mut numbers = BTreeSet::from([service.port]);
    let mut names = BTreeSet::from([service.port_name().to_owned()]);
    let mut found = Vec::new();
    for container in pod_spec["containers"].as_array().into_iter().flatten() {
        let container_name = container["name"].as_str().unwrap_or_default();
        if PROXIES.contains(&container_name) {
            continue;
        }
        for (index, port) in container["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let Some(number) = port["containerPort"].as_i64() else {
                continue;
            };
            let own_name = port["name"].as_str().filter(|name| !name.is_empty());
            let is_main = match &target_port {
                IntOrString::Int(main) => number == *main,
                IntOrString::String(main) => {
                    own_name == Some(main.as_str()) || main.parse() == Ok(number)
                }
            };
            if is_main || !numbers.insert(number) {
                continue;
            }
            let name = own_name
                .filter(|name| !names.contains(*name))
                .map_or_else(|| format!("tcp-{container_name}-{index}"), str::to_owned);
            names.insert(name.clone());
            found.push(DiscoveredPort { name, port: number });
        }
    }
    found
}

/// The write that brings one of the Services to what the canary asks for; none where it says so already, and none where it
/// could not be read or is being deleted.
pub fn desired_services(
    canary: &Canary,
    selector: &SelectorLabel,
    ports: &[DiscoveredPort],
    which: ServiceRole,
    live: &Reading,
) -> Result<Option<Write>, WorkloadError> {
    let object = which.object(canary);
    let Some(service) = &canary.spec.service else {
        return Err(WorkloadError::unfit(
            beside(canary, &kinds::CANARY, &canary.metadata.name),
            format!(
                "spec.service is missing; a {} target needs it, with at least port",
                canary.spec.target_ref.kind
            ),
        ));
    };
    if live.object().is_some_and(Object::is_deleting) {
        return Ok(None);
    }
    let wanted_ports = service_ports(service, ports);
    let wanted_selector = json!({selector.key.as_str(): which.pods(selector)});
    if let Reading::Present(found) = live {
        let ours = controls(canary, found);
        if !ours {
            refuse_stranger(canary, which, &object, live)?;
            let users = recorded(found).filter(|record| {
                which == ServiceRole::ApexOfTarget && record["selector"].is_object()
            });
            let ports = users.as_ref().and_then(|users| users["ports"].as_array());
            let selector = users.as_ref().map(|users| &users["selector"]);
            return Ok(take_over(
                &object,
                which,
                found,
                ports.unwrap_or(&wanted_ports),
                selector.unwrap_or(&wanted_selector),
            ));
        }
    }
    let mut spec = json!({"ports": wanted_ports, "selector": wanted_selector});
    // Headless is decided at creation and can't be changed later; a field once applied must stay applied.
    let headless = match live.object() {
        Some(found) => found.text("/spec/clusterIP") == "None",
        None => true,
    };
    if service.headless() && headless {
        spec["clusterIP"] = json!("None");
    }
    if let Some(distribution) = &service.traffic_distribution {
        spec["trafficDistribution"] = json!(distribution);
    }
    let (labels, annotations) = service_metadata(service, which, selector, &object.name);
    let desired = Object::new(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": object.name,
            "namespace": object.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": owner_references(canary),
        },
        "spec": spec,
    }));
    apply_exactly(canary, desired, live)
}

/// The write that brings a Service of ours to `desired`, its ports exactly. An apply merges ports by number, so those of another
/// writer (Flagger before us, a hand) would stay beside ours: they go first, in a patch of their own.
pub fn apply_exactly(
    canary: &Canary,
    desired: Object,
    live: &Reading,
) -> Result<Option<Write>, WorkloadError> {
    let object = beside(canary, &kinds::SERVICE, desired.name());
    refuse_foreign(canary, &object, live)?;
    if let Reading::Present(found) = live
        && let Some(wanted) = desired.at("/spec/ports").as_array()
        && has_other_ports(found, wanted)
    {
        return Ok(Some(Write::Patch {
            target: object,
            patch: Patch::Merge(json!({"spec": {"ports": with_node_ports(wanted, found)}})),
            expect: Expect::unchanged(found),
        }));
    }
    Ok(apply_if_needed(&kinds::SERVICE, desired, live))
}

/// The custom labels and annotations of a Service, the selector label with the Service's own name, and the marks that keep
/// Flux away; without the keys that the user keeps for other tools.
fn service_metadata(
    service: &CanaryService,
    which: ServiceRole,
    selector: &SelectorLabel,
    name: &str,
) -> (Map<String, Value>, Map<String, Value>) {
    let texts = |entries: &std::collections::BTreeMap<String, String>| -> Map<String, Value> {
        entries
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect()
    };
    let custom = which.custom(service);
    let mut labels = custom
        .map(|custom| texts(&custom.labels))
        .unwrap_or_default();
    labels.insert(selector.key.clone(), json!(name));
    let mut annotations = custom
        .map(|custom| texts(&custom.annotations))
        .unwrap_or_default();
    for (key, value) in RECONCILE_DISABLED {
        annotations.insert(key.to_owned(), json!(value));
    }
    if let Some(unmanaged) = &service.unmanaged_metadata {
        labels.retain(|key, _| !unmanaged.labels.contains(key));
        annotations.retain(|key, _| !unmanaged.annotations.contains(key));
    }
    (labels, annotations)
}

fn service_ports(service: &CanaryService, discovered: &[DiscoveredPort]) -> Vec<Value> {
    let mut main = json!({
        "name": service.port_name(),
        "protocol": "TCP",
        "port": service.port,
        "targetPort": service.target_port(),
    });
    if let Some(protocol) = service
        .app_protocol
        .as_ref()
        .filter(|name| !name.is_empty())
    {
        main["appProtocol"] = json!(protocol);
    }
    let others = discovered.iter().map(|port| {
        json!({"name": port.name, "protocol": "TCP", "port": port.port, "targetPort": port.port})
    });
    std::iter::once(main).chain(others).collect()
}

/// The apex may be a user's Service, so there only another canary is a stranger. The other two names are ours alone.
fn refuse_stranger(
    canary: &Canary,
    which: ServiceRole,
    object: &ObjectRef,
    live: &Reading,
) -> Result<(), WorkloadError> {
    let owned_by_canary = live
        .object()
        .and_then(Object::controller_owner)
        .is_some_and(|owner| owner.kind == kinds::CANARY.kind);
    if matches!(which, ServiceRole::Apex | ServiceRole::ApexOfTarget) && !owned_by_canary {
        if let Some(found) = live.object()
            && found.text("/spec/type") == "ExternalName"
        {
            return Err(WorkloadError::unfit(
                object.clone(),
                format!(
                    "spec.type is ExternalName ({}), which selects no pods; a Service with a selector is needed, or none at all \
                     (then one is made), or another name in the canary's spec.service.name",
                    found.text("/spec/externalName")
                ),
            ));
        }
        return Ok(());
    }
    refuse_foreign(canary, object, live)
}

/// One patch that leads a Service of the user to our pods, and nothing where it does that already.
fn take_over(
    object: &ObjectRef,
    which: ServiceRole,
    live: &Object,
    ports: &[Value],
    selector: &Value,
) -> Option<Write> {
    let leads_elsewhere = live.at("/spec/selector") != selector;
    if !leads_elsewhere && !differs(live, ports) {
        return None;
    }
    let mut annotations: Map<String, Value> = RECONCILE_DISABLED
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    // Another selector than ours is what the user wants; our own is what we made of it, and its origin is written down.
    if which == ServiceRole::Apex && leads_elsewhere {
        annotations.insert(
            ORIGINAL_SERVICE.to_owned(),
            json!(original(live).to_string()),
        );
    }
    Some(Write::Patch {
        target: object.clone(),
        patch: Patch::Merge(json!({
            "metadata": {"annotations": annotations},
            "spec": {
                "ports": with_node_ports(ports, live),
                "selector": replacing(live.at("/spec/selector"), selector),
            },
        })),
        expect: Expect::unchanged(live),
    })
}

/// What must be known of a user's Service to give it back.
fn original(live: &Object) -> Value {
    // After a second take-over the Flux annotations are ours; what the user had is in the first record.
    let before = recorded(live);
    let annotations: Map<String, Value> = RECONCILE_DISABLED
        .iter()
        .filter_map(|(key, _)| {
            let value = match &before {
                Some(before) => before["annotations"].get(*key)?.clone(),
                None => json!(live.annotation(key)?),
            };
            Some(((*key).to_owned(), value))
        })
        .collect();
    let mut record =
        json!({"selector": live.at("/spec/selector"), "ports": live.at("/spec/ports")});
    if !annotations.is_empty() {
        record["annotations"] = Value::Object(annotations);
    }
    record
}

fn recorded(live: &Object) -> Option<Value> {
    serde_json::from_str::<Value>(live.annotation(ORIGINAL_SERVICE)?)
        .ok()
        .filter(Value::is_object)
}

/// The merge patch that turns one string map into exactly another.
fn replacing(from: &Value, to: &Value) -> Value {
    let mut patch: Map<String, Value> = from
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| (key.clone(), Value::Null))
        .collect();
    for (key, value) in to.as_object().into_iter().flatten() {
        patch.insert(key.clone(), value.clone());
    }
    Value::Object(patch)
}

/// Number and protocol: what a port of a Service is told apart by.
fn port_key(port: &Value) -> (i64, &str) {
    (
        port["port"].as_i64().unwrap_or_default(),
        port["protocol"].as_str().unwrap_or("TCP"),
    )
}

fn has_other_ports(live: &Object, wanted: &[Value]) -> bool {
    live.at("/spec/ports")
        .as_array()
        .into_iter()
        .flatten()
        .any(|port| !wanted.iter().any(|ours| port_key(ours) == port_key(port)))
}

/// Whether the ports, whatever their order, are not the wanted ones. Node ports don't count, they are the cluster's.
fn differs(live: &Object, wanted: &[Value]) -> bool {
    const FIELDS: [&str; 5] = ["name", "protocol", "port", "targetPort", "appProtocol"];
    let found: Vec<&Value> = live
        .at("/spec/ports")
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    found.len() != wanted.len()
        || wanted.iter().any(|ours| {
            !found
                .iter()
                .any(|port| FIELDS.iter().all(|field| port[*field] == ours[*field]))
        })
}

/// The wanted ports with the node ports that the live Service has for the same name, else for the same number.
fn with_node_ports(wanted: &[Value], live: &Object) -> Vec<Value> {
    let found: Vec<&Value> = live
        .at("/spec/ports")
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    wanted
        .iter()
        .map(|ours| {
            let mut port = ours.clone();
            let same = found
                .iter()
                .find(|port| port["name"] == ours["name"])
                .or_else(|| found.iter().find(|port| port_key(port) == port_key(ours)));
            if let Some(node_port) = same.map(|port| &port["nodePort"]).filter(|n| n.is_number()) {
                port["nodePort"] = node_port.clone();
            }
            port
        })
        .collect()
}

/// The write that gives a taken-over apex Service back: its selector and ports from our record, else from what kubectl applied
/// last, else the selector that the target's pods have. None for a Service that a canary controls (it goes with its canary), for
/// one that is not there, and for one that is given back already.
#[must_use]
pub fn restore_apex(canary: &Canary, selector: &SelectorLabel, live: &Reading) -> Option<Write> {
    let found = live.object()?;
    if found.is_deleting()
        || found
            .controller_owner()
            .is_some_and(|owner| owner.kind == kinds::CANARY.kind)
    {
        return None;
    }
    let record = recorded(found);
    let ours = json!({selector.key.as_str(): selector.primary_value()});
    if record.is_none() && found.at("/spec/selector") != &ours {
        // It was never taken over, or somebody gave it back already.
        return None;
    }
    let applied = found
        .annotation("kubectl.kubernetes.io/last-applied-configuration")
        .and_then(|text| serde_json::from_str::<Value>(text).ok())
        .map(|applied| applied["spec"].clone())
        .filter(|spec| {
            spec["selector"]
                .as_object()
                .is_some_and(|map| !map.is_empty())
        });
    let fallback = json!({"selector": {selector.key.as_str(): selector.value}});
    let origin = record.as_ref().or(applied.as_ref()).unwrap_or(&fallback);

    let mut spec = Map::new();
    if found.at("/spec/selector") != &origin["selector"] {
        spec.insert(
            "selector".to_owned(),
            replacing(found.at("/spec/selector"), &origin["selector"]),
        );
    }
    if let Some(ports) = origin["ports"].as_array()
        && (has_other_ports(found, ports)
            || !crate::object::covers(found.at("/spec/ports"), &origin["ports"]))
    {
        spec.insert("ports".to_owned(), json!(with_node_ports(ports, found)));
    }
    let mut annotations = Map::new();
    for (key, ours) in RECONCILE_DISABLED {
        let before = record
            .as_ref()
            .and_then(|record| record["annotations"].get(key))
            .and_then(Value::as_str);
        if found.annotation(key) == Some(ours) && before != Some(ours) {
            annotations.insert(key.to_owned(), json!(before));
        }
    }
    if found.annotation(ORIGINAL_SERVICE).is_some() {
        annotations.insert(ORIGINAL_SERVICE.to_owned(), Value::Null);
    }
    if spec.is_empty() && annotations.is_empty() {
        return None;
    }
    Some(Write::Patch {
        target: ServiceRole::Apex.object(canary),
        patch: Patch::Merge(json!({"metadata": {"annotations": annotations}, "spec": spec})),
        expect: Expect::unchanged(found),
    })
}
