//! Providers `gatewayapi:v1` and `gatewayapi:v1beta1`: one `HTTPRoute`, or a `GRPCRoute` where the canary asks for it, named like the apex Service, that holds everything: parents,
//! host names, matches, filters, weights and the rules of session affinity. It is written whole, by server-side apply, and only when
//! it says something else; a name that somebody gave to a rule stays.
//!
//! ```text
//! rules ── spec for a split        matches ── Istio's conditions in the Gateway API's terms        affinity ── cookies
//! live ── what a route says now    refusals ── what a canary asks for in vain
//! ```

mod affinity;
mod live;
mod matches;
mod refusals;
mod rules;
#[cfg(test)]
mod tests;

pub use live::accepted_by;

use super::{
    Capabilities, Condition, Lookup, Mirror, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, ServiceField, capabilities, route_object,
};
use crate::api::{Canary, CanaryService, RouteKind};
use crate::object::{Kind, ObjectRef, Write, kinds};
use route_object::Manner;

/// Where the two versions of the API differ.
#[derive(Debug)]
pub struct Flavour {
    provider: &'static str,
    kind: Kind,
    /// Calls of gRPC are matched, by service and method.
    grpc: bool,
    /// The primary's users can be pinned too.
    primary_affinity: bool,
    /// Fields of `spec.service` that come to the route.
    fields: &'static [ServiceField],
}

/// `gatewayapi:v1`.
pub static V1: Flavour = Flavour {
    provider: "gatewayapi:v1",
    kind: kinds::HTTP_ROUTE,
    grpc: false,
    primary_affinity: true,
    fields: &[
        ServiceField::Match,
        ServiceField::Hosts,
        ServiceField::Headers,
        ServiceField::Rewrite,
        ServiceField::Timeout,
        ServiceField::BackendTimeout,
        ServiceField::CorsPolicy,
        ServiceField::Mirror,
    ],
};

/// `gatewayapi:v1beta1`.
pub static V1BETA1: Flavour = Flavour {
    provider: "gatewayapi:v1beta1",
    kind: kinds::HTTP_ROUTE_V1BETA1,
    grpc: false,
    primary_affinity: false,
    fields: &[
        ServiceField::Match,
        ServiceField::Hosts,
        ServiceField::Headers,
        ServiceField::Rewrite,
        ServiceField::Mirror,
    ],
};

/// `gatewayapi:v1` for a canary with `routeKind: GRPCRoute`.
static V1_GRPC: Flavour = Flavour {
    provider: "gatewayapi:v1",
    kind: kinds::GRPC_ROUTE,
    grpc: true,
    primary_affinity: false,
    fields: &[
        ServiceField::Match,
        ServiceField::Hosts,
        ServiceField::Headers,
        ServiceField::Mirror,
    ],
};

const ROUTE: Manner = Manner {
    says: live::says,
    lead_back: rules::lead_back,
    keep: live::keep,
};

const GATEWAY_REFS_EXPECTED: &str = "a route needs at least one parent: name the Gateway, for example \
                                     `gatewayRefs: [{name: my-gateway, namespace: my-namespace}]`, or a Service with `group: \"\"` \
                                     and `kind: Service` for traffic inside a mesh";

/// A canary with its service, which a route can't do without.
#[derive(Clone, Copy, Debug)]
struct Subject<'a> {
    flavour: &'a Flavour,
    canary: &'a Canary,
    service: &'a CanaryService,
}

impl<'a> Subject<'a> {
    fn of(flavour: &'a Flavour, canary: &'a Canary) -> Result<Self, RouteError> {
        match &canary.spec.service {
            Some(service) => Ok(Self {
                flavour,
                canary,
                service,
            }),
            None => Err(RouteError::Invalid {
                field: "spec.service".to_owned(),
                found: "missing".to_owned(),
                expected: "a route needs at least spec.service.port and spec.service.gatewayRefs"
                    .to_owned(),
            }),
        }
    }
}

impl Flavour {
    /// Whether a field of `spec.service` comes to the route.
    fn has(&self, field: ServiceField) -> bool {
        self.fields.contains(&field)
    }

    /// The flavour for a canary, which may ask for another kind of route.
    fn of(&self, canary: &Canary) -> &Self {
        let kind = canary
            .spec
            .service
            .as_ref()
            .and_then(|service| service.route_kind);
        if kind == Some(RouteKind::Grpc) && self.provider == V1_GRPC.provider {
            &V1_GRPC
        } else {
            self
        }
    }
}

impl Router for Flavour {
    fn provider(&self) -> &'static str {
        self.provider
    }

    /// As in Flagger, a name counts by its beginning: `gatewayapi:v1` also answers to `gatewayapi:v1.2`.
    fn answers_to(&self, provider: &str) -> bool {
        provider.starts_with(self.provider)
    }

    fn capabilities(&self) -> Capabilities {
        use Condition::{HeaderExact, HeaderRegex, QueryExact, QueryRegex};
        Capabilities {
            conditions: if self.grpc {
                &[HeaderExact, HeaderRegex]
            } else {
                &[HeaderExact, HeaderRegex, QueryExact, QueryRegex]
            },
            mirror: Mirror {
                blue_green: true,
                ..Mirror::NONE
            },
            affinity: !self.grpc,
            primary_affinity: self.primary_affinity,
            fields: self.fields,
            ..Capabilities::WEIGHTED
        }
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let flavour = self.of(canary);
        let mut found = refusals::of(flavour, canary);
        let name = if flavour.grpc {
            "a GRPCRoute"
        } else {
            flavour.provider
        };
        found.extend(capabilities::refusals(
            name,
            &flavour.capabilities(),
            canary,
        ));
        found
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        vec![route_object::route_of(canary, &self.of(canary).kind)]
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let flavour = self.of(request.canary);
        let spec = rules::spec(flavour, request)?;
        let target = route_object::route_of(request.canary, &flavour.kind);
        let write = route_object::apply_to(request, &target, &spec, &live(&target), &ROUTE)?;
        Ok(write.into_iter().collect())
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let target = route_object::route_of(canary, &self.of(canary).kind);
        let reading = live(&target);
        let route = route_object::readable(&target, &reading)?;
        Ok(live::observed(canary, &target, route))
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let kind = &self.of(canary).kind;
        let reading = live(&route_object::route_of(canary, kind));
        route_object::give_back(canary, kind, &reading)
    }
}
