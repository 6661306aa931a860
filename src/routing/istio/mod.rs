//! Provider `istio`: a `VirtualService` named like the apex Service, which holds hosts, gateways, matches, weights, mirroring and the
//! rules of session affinity, and a `DestinationRule` for each of the canary's two Services with the traffic policy.
//!
//! They are written by server-side apply. What others write beside it stays: other fields of the objects as everywhere, and inside the
//! list of routes, which is ours as a whole, the fields that no Canary can ask for, such as `fault` or `name`.
//!
//! ```text
//! rules ── specs for a split        matches ── the conditions of routes      affinity ── cookies
//! live ── what objects say now      refusals ── what a canary asks for in vain
//! ```

mod affinity;
mod live;
mod matches;
mod refusals;
mod rules;
#[cfg(test)]
mod tests;

use super::{
    Capabilities, Condition, Lookup, Mirror, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, ServiceField, capabilities, route_object,
};
use crate::api::{Canary, CanaryService};
use crate::object::{ObjectRef, Write, kinds};
use route_object::Manner;
use serde_json::Value;

/// The gateway that stands for traffic between the workloads of the mesh.
const MESH: &str = "mesh";

/// The router.
pub struct Istio;

/// A canary with its service, which a route can't do without.
#[derive(Clone, Copy, Debug)]
struct Subject<'a> {
    canary: &'a Canary,
    service: &'a CanaryService,
}

impl<'a> Subject<'a> {
    fn of(canary: &'a Canary) -> Option<Self> {
        let service = canary.spec.service.as_ref()?;
        Some(Self { canary, service })
    }

    /// Whether connections are routed instead of requests.
    fn is_tcp(&self) -> bool {
        self.service
            .app_protocol
            .as_deref()
            .is_some_and(|protocol| protocol.eq_ignore_ascii_case("tcp"))
    }

    /// Whether traffic inside the mesh is routed.
    fn is_in_mesh(&self) -> bool {
        let gateways = &self.service.gateways;
        !self.service.delegation()
            && (gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH))
    }
}

const VIRTUAL_SERVICE: Manner = Manner {
    says: live::says,
    lead_back: rules::lead_back,
    keep: live::keep,
};

/// A `DestinationRule` has no lists of ours, and what only the live one has is somebody else's.
const DESTINATION_RULE: Manner = Manner {
    says: |_, _| true,
    lead_back: |_, spec| spec.clone(),
    keep: |_, _, _| (),
};

fn virtual_service(canary: &Canary) -> ObjectRef {
    route_object::route_of(canary, &kinds::VIRTUAL_SERVICE)
}

fn destination_rules(canary: &Canary) -> [ObjectRef; 2] {
    [canary.canary_service_name(), canary.primary_service_name()]
        .map(|name| kinds::DESTINATION_RULE.named(&canary.metadata.namespace, &name))
}

impl Router for Istio {
    fn provider(&self) -> &'static str {
        "istio"
    }

    fn capabilities(&self) -> Capabilities {
        use Condition::{
            HeaderExact, HeaderPrefix, HeaderPresent, HeaderRegex, HeaderSuffix, QueryExact,
            QueryPrefix, QueryPresent, QueryRegex, SourceLabels,
        };
        Capabilities {
            conditions: &[
                HeaderExact,
                HeaderPrefix,
                HeaderSuffix,
                HeaderRegex,
                HeaderPresent,
                QueryExact,
                QueryPrefix,
                QueryRegex,
                QueryPresent,
                SourceLabels,
            ],
            mirror: Mirror {
                blue_green: true,
                canary_step: true,
                percentage: true,
            },
            affinity: true,
            primary_affinity: true,
            tcp: true,
            fields: &[
                ServiceField::Match,
                ServiceField::Hosts,
                ServiceField::Headers,
                ServiceField::Rewrite,
                ServiceField::Timeout,
                ServiceField::Retries,
                ServiceField::CorsPolicy,
                ServiceField::TrafficPolicy,
            ],
            ..Capabilities::WEIGHTED
        }
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut found = refusals::of(canary);
        found.extend(capabilities::refusals(
            self.provider(),
            &self.capabilities(),
            canary,
        ));
        found
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        let [first, second] = destination_rules(canary);
        vec![first, second, virtual_service(canary)]
    }

    /// The policies of both sides come before the route that sends to them.
    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let canary = request.canary;
        let subject = refusals::unrefused(canary)?;
        let mut writes = Vec::new();
        let mut apply = |target: &ObjectRef, spec: &Value, manner: &Manner| {
            let write = route_object::apply_to(request, target, spec, &live(target), manner)?;
            writes.extend(write);
            Ok::<(), RouteError>(())
        };
        for rule in destination_rules(canary) {
            let spec = rules::destination_rule(&subject, &rule.name);
            apply(&rule, &spec, &DESTINATION_RULE)?;
        }
        let spec = rules::virtual_service(&subject, request);
        apply(&virtual_service(canary), &spec, &VIRTUAL_SERVICE)?;
        Ok(writes)
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let target = virtual_service(canary);
        let reading = live(&target);
        let route = route_object::readable(&target, &reading)?;
        Ok(live::observed(canary, route))
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let target = virtual_service(canary);
        let lead_back = Some(VIRTUAL_SERVICE.lead_back);
        let mut writes = route_object::give_back_to(canary, &target, &live(&target), lead_back)?;
        for target in destination_rules(canary) {
            let back = route_object::give_back_to(canary, &target, &live(&target), None)?;
            writes.extend(back);
        }
        Ok(writes)
    }
}
