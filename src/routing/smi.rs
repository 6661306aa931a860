//! Providers `linkerd`, `osm` and `smi:v1alpha1` to `smi:v1alpha3`: one `TrafficSplit` of the Service Mesh Interface, named like the apex
//! Service, that divides what clients of the mesh send to that Service.
//!
//! The interface is archived, and so are some of the meshes that read it: a warning says what to move to.

use super::{
    Applied, Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, ServiceField, Split, capabilities,
    route_object::{self, Manner},
    weighted,
};
use crate::api::Canary;
use crate::object::{Kind, Object, ObjectRef, Write, kinds};
use serde_json::{Value, json};
use std::borrow::Cow;

/// One provider name.
#[derive(Debug)]
pub struct Flavour {
    provider: &'static str,
    kind: Kind,
    /// Weights are quantities, which the API writes as text.
    quantities: bool,
    /// Why to move on, and to what.
    notice: &'static str,
}

const ARCHIVED: &str = "the Service Mesh Interface was archived in October 2023 and no mesh of today reads it by itself: move to \
                        gatewayapi:v1 with the Service as parent, `gatewayRefs: [{kind: Service, name: APEX, port: PORT}]`";

/// `linkerd`
pub static LINKERD: Flavour = Flavour {
    provider: "linkerd",
    kind: kinds::TRAFFIC_SPLIT_V1ALPHA1,
    quantities: true,
    notice: "this writes a TrafficSplit, which Linkerd reads only with its SMI extension; since Linkerd 2.12 move to gatewayapi:v1 with \
             the Service as parent, `gatewayRefs: [{kind: Service, name: APEX, port: PORT}]`",
};

/// `osm`
pub static OSM: Flavour = Flavour {
    provider: "osm",
    kind: kinds::TRAFFIC_SPLIT_V1ALPHA2,
    quantities: false,
    notice: "Open Service Mesh was archived in 2023 and gets no fixes: move to another mesh, for example with gatewayapi:v1 or istio",
};

/// `smi:v1alpha1`
pub static V1ALPHA1: Flavour = Flavour {
    provider: "smi:v1alpha1",
    kind: kinds::TRAFFIC_SPLIT_V1ALPHA1,
    quantities: true,
    notice: ARCHIVED,
};

/// `smi:v1alpha2`
pub static V1ALPHA2: Flavour = Flavour {
    provider: "smi:v1alpha2",
    kind: kinds::TRAFFIC_SPLIT_V1ALPHA2,
    quantities: false,
    notice: ARCHIVED,
};

/// `smi:v1alpha3`
pub static V1ALPHA3: Flavour = Flavour {
    provider: "smi:v1alpha3",
    kind: kinds::TRAFFIC_SPLIT_V1ALPHA3,
    quantities: false,
    notice: ARCHIVED,
};

/// By it the adapter that translates for Istio knows the gateways; other meshes don't look at it.
const GATEWAYS_ANNOTATION: &str = "VirtualService.v1alpha3.networking.istio.io/spec.gateways";

const MANNER: Manner = Manner {
    says: weighted::says,
    lead_back,
    keep: |_, _, _| (),
};

impl Router for Flavour {
    fn provider(&self) -> &'static str {
        self.provider
    }

    /// As in Flagger, a mesh may follow the version: `smi:v1alpha2:istio`.
    fn answers_to(&self, provider: &str) -> bool {
        provider
            .strip_prefix(self.provider)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tcp: true,
            fields: &[ServiceField::Hosts],
            ..Capabilities::WEIGHTED
        }
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut refusals = vec![Refusal::warning(
            super::PROVIDER,
            format!("{}; {}", self.provider, self.notice),
        )];
        if canary.spec.service.is_none() {
            refusals.push(Refusal::error(
                "spec.service",
                "missing; a TrafficSplit needs at least spec.service.port",
            ));
        }
        refusals.extend(capabilities::refusals(
            self.provider,
            &self.capabilities(),
            canary,
        ));
        refusals
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        vec![route_object::route_of(canary, &self.kind)]
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let spec = self.spec(request.canary, request.split)?;
        let target = route_object::route_of(request.canary, &self.kind);
        let canary = annotated(request.canary);
        let request = RouteRequest {
            canary: &canary,
            // Without `service.apex` of the user's own there is no label for the annotation's sake.
            selector_label: request.selector_label.filter(|_| has_apex(request.canary)),
            ..request.clone()
        };
        let write = route_object::apply_to(&request, &target, &spec, &live(&target), &MANNER)?;
        Ok(write.into_iter().collect())
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let target = route_object::route_of(canary, &self.kind);
        // The interface has no status; the drain time covers what proxies need to follow.
        let split = |object: &Object| split_of(canary, object.at("/spec"));
        weighted::observed(&target, &live(&target), split, |_| Applied::Yes)
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let target = route_object::route_of(canary, &self.kind);
        route_object::give_back_to(
            &annotated(canary),
            &target,
            &live(&target),
            Some(MANNER.lead_back),
        )
    }
}

fn has_apex(canary: &Canary) -> bool {
    canary
        .spec
        .service
        .as_ref()
        .is_some_and(|service| service.apex.is_some())
}

/// The canary with the annotation of its gateways among those of the apex, which come to the route object.
fn annotated(canary: &Canary) -> Cow<'_, Canary> {
    let gateways = canary
        .spec
        .service
        .as_ref()
        .map(|service| service.gateways.clone())
        .unwrap_or_default();
    if gateways.is_empty() {
        return Cow::Borrowed(canary);
    }
    let mut canary = canary.clone();
    if let Some(service) = &mut canary.spec.service {
        service
            .apex
            .get_or_insert_default()
            .annotations
            .insert(GATEWAYS_ANNOTATION.to_owned(), json!(gateways).to_string());
    }
    Cow::Owned(canary)
}

impl Flavour {
    fn spec(&self, canary: &Canary, split: Split) -> Result<Value, RouteError> {
        let service = weighted::service_of(canary, "TrafficSplit")?;
        let backend = |name: String, percent: u8| {
            let weight = if self.quantities {
                json!(percent.to_string())
            } else {
                json!(percent)
            };
            json!({"service": name, "weight": weight})
        };
        Ok(json!({
            "service": service.hosts.first().map_or(canary.apex_name(), String::as_str),
            "backends": [
                backend(canary.canary_service_name(), split.canary.percent()),
                backend(canary.primary_service_name(), split.primary().percent()),
            ],
        }))
    }
}

fn split_of(canary: &Canary, spec: &Value) -> Option<Split> {
    weighted::split(
        (
            &canary.primary_service_name(),
            &canary.canary_service_name(),
        ),
        weighted::list(spec, "backends").iter().map(|backend| {
            let name = backend["service"].as_str().unwrap_or_default();
            (name, thousandths(&backend["weight"]))
        }),
    )
}

/// A quantity such as `500m`, `90` or `1k` in thousandths.
fn thousandths(value: &Value) -> Option<u64> {
    if let Some(whole) = value.as_u64() {
        return whole.checked_mul(1000);
    }
    let text = value.as_str()?.trim();
    let (number, unit) = match text.char_indices().last()? {
        (end, 'm') => (&text[..end], 1_u64),
        (end, 'k') => (&text[..end], 1_000_000),
        _ => (text, 1000),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction = fraction.parse::<u64>().ok()?.checked_mul(unit)? / scale;
    whole.checked_add(fraction)
}

/// The apex Service in place of the canary's two.
fn lead_back(canary: &Canary, spec: &Value) -> Value {
    let (primary, other) = (canary.primary_service_name(), canary.canary_service_name());
    let ours = |backend: &Value| backend["service"] == *primary || backend["service"] == *other;
    let mut spec = spec.clone();
    if let Some(backends) = spec["backends"].as_array_mut()
        && let Some(first) = backends.iter().position(ours)
    {
        let weight = if backends[first]["weight"].is_string() {
            json!("1")
        } else {
            json!(1)
        };
        backends.retain(|backend| !ours(backend));
        backends.insert(0, json!({"service": canary.apex_name(), "weight": weight}));
    }
    spec
}
