//! Routes that the user owns (`spec.routeRef`, `spec.routeRefs`). Of such a route only the weights of the backends that name the two sides
//! are touched, by patches that test the value they found and replace it; order, filters, other backends and every field that
//! Serin never heard of stay byte for byte. At rest the weights are what the user wrote and nothing of ours is left on the route.
//!
//! ```text
//! kinds ── where the weights are, one row for each kind      path ── the same by the user's word, for any other kind
//! slots ── the places in a live route where traffic is divided between the sides, and what their numbers mean
//! shift ── the patch that brings them to a split, what the user wrote before, and giving it all back
//! ```

pub mod kinds;
mod path;
mod shift;
mod slots;
#[cfg(test)]
mod tests;

use super::{
    Applied, Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, Split, Weight, gateway_api, route_object,
};
use crate::api::{Canary, CanaryService, RouteRef, TargetKind};
use crate::object::{Kind, Object, ObjectRef, Reading, Write};
use kinds::Shape;
use path::Path;
use slots::Found;
use std::borrow::Cow;

/// Name of this router where a provider's name would stand.
pub const OWN_ROUTE: &str = "own-route";

/// The router of canaries that bring their own routes.
pub struct OwnRoute;

/// Providers that have a meaning of their own for `spec.routeRef`, as in Flagger.
const OWN_MEANING: [&str; 2] = ["apisix", "knative"];

/// A reference that is shifted here, with its field.
struct Reference<'a> {
    field: String,
    it: &'a RouteRef,
}

/// The references of a canary that are shifted here. An `ApisixRoute` means something to the provider apisix alone, as in Flagger.
fn references(canary: &Canary) -> Vec<Reference<'_>> {
    let spec = &canary.spec;
    let single = spec
        .route_ref
        .iter()
        .map(|it| ("spec.routeRef".to_owned(), it));
    let several = spec
        .route_refs
        .iter()
        .enumerate()
        .map(|(position, it)| (format!("spec.routeRefs[{position}]"), it));
    single
        .chain(several)
        .filter(|(_, it)| it.kind != "ApisixRoute" || it.weight_paths.is_some())
        .map(|(field, it)| Reference { field, it })
        .collect()
}

/// Whether a canary of this provider brings its own routes.
#[must_use]
pub fn claims(canary: &Canary, provider: &str) -> bool {
    let elsewhere = OWN_MEANING.contains(&provider)
        || canary.spec.target_ref.target_kind() == TargetKind::Knative;
    !elsewhere && !references(canary).is_empty()
}

impl Reference<'_> {
    /// The kind with its plural where it is known; else the controller asks the API server for it.
    fn kind(&self) -> Kind {
        let (group, version) = self
            .it
            .api_version
            .split_once('/')
            .unwrap_or(("", &self.it.api_version));
        let mut kind = Kind {
            group: Cow::Owned(group.to_owned()),
            version: Cow::Owned(version.to_owned()),
            kind: Cow::Owned(self.it.kind.clone()),
            plural: Cow::Borrowed(""),
            namespaced: true,
        };
        if let Some(shape) = kinds::shape_of(&kind) {
            kind.plural = shape.kind.plural.clone();
        }
        kind
    }

    fn shape(&self) -> Option<&'static Shape> {
        kinds::shape_of(&self.kind())
    }

    fn refusals(&self, refusals: &mut Vec<Refusal>) {
        let it = self.it;
        for (key, value) in [("apiVersion", &it.api_version), ("name", &it.name)] {
            if value.is_empty() {
                refusals.push(Refusal::error(
                    format!("{}.{key}", self.field),
                    "empty; a route is named by apiVersion, kind and name",
                ));
            }
        }
        let Some(paths) = &it.weight_paths else {
            if self.shape().is_none() {
                let known: Vec<String> = kinds::SHAPES
                    .iter()
                    .map(|shape| format!("{} of {}", shape.kind.kind, shape.kind.group))
                    .collect();
                refusals.push(Refusal::error(
                    format!("{}.kind", self.field),
                    format!(
                        "{} of {}; where its weights stand is known for {}: for any other kind say it in weightPaths, for example \
                         `weightPaths: {{canary: .spec.weights.canary, primary: .spec.weights.primary}}`",
                        it.kind,
                        it.api_version,
                        known.join(", ")
                    ),
                ));
            }
            return;
        };
        let of_primary = paths.primary.as_ref().map(|path| ("primary", path));
        for (key, text) in std::iter::once(("canary", &paths.canary)).chain(of_primary) {
            if let Err(why) = Path::parse(text) {
                refusals.push(Refusal::error(
                    format!("{}.weightPaths.{key}", self.field),
                    format!("{text}: {why}"),
                ));
            }
        }
        if paths.primary.as_ref() == Some(&paths.canary) {
            refusals.push(Refusal::error(
                format!("{}.weightPaths.primary", self.field),
                "the same place as the canary's; name the primary's weight, or leave it out",
            ));
        }
        if let Some(total) = paths.total.filter(|total| *total != 1 && *total < 100) {
            refusals.push(Refusal::error(
                format!("{}.weightPaths.total", self.field),
                format!(
                    "{total}; whole numbers say percents only with a total from 100, and 1 stands for fractions"
                ),
            ));
        }
    }
}

/// One object with all references to it.
struct Route<'a> {
    name: ObjectRef,
    references: Vec<Reference<'a>>,
}

fn routes(canary: &Canary) -> Vec<Route<'_>> {
    let mut routes: Vec<Route<'_>> = Vec::new();
    for reference in references(canary) {
        let name = reference
            .kind()
            .named(&canary.metadata.namespace, &reference.it.name);
        match routes.iter_mut().find(|route| route.name == name) {
            Some(route) => route.references.push(reference),
            None => routes.push(Route {
                name,
                references: vec![reference],
            }),
        }
    }
    routes
}

/// A route as it is now.
struct Live<'a> {
    route: Route<'a>,
    /// `None` for one that does not exist.
    reading: Reading,
    found: Found,
}

impl Live<'_> {
    fn object(&self) -> Option<&Object> {
        self.reading.object()
    }

    /// Why this route can't carry a split.
    fn problem(&self) -> Option<RouteError> {
        let name = || Box::new(self.route.name.clone());
        match (&self.reading, &self.found.problem) {
            (Reading::Absent, _) => Some(RouteError::Missing(name())),
            (Reading::Unknown(why), _) => Some(RouteError::Unknown(name(), why.clone())),
            (_, Some(why)) => Some(RouteError::Unfit(name(), why.clone())),
            _ => None,
        }
    }
}

/// All routes of a canary as they are now.
fn look<'a>(canary: &'a Canary, lookup: &Lookup<'_>) -> Vec<Live<'a>> {
    routes(canary)
        .into_iter()
        .map(|route| {
            let reading = lookup(&route.name);
            let mut found = Found::default();
            if let Some(object) = reading.object() {
                let mut by_kind = false;
                for reference in &route.references {
                    match (&reference.it.weight_paths, reference.shape()) {
                        (Some(paths), _) => slots::at_paths(paths, object, &mut found),
                        (None, Some(shape)) if !by_kind => {
                            by_kind = true;
                            let more = slots::find(canary, &shape.layout, object);
                            found.slots.extend(more.slots);
                            found.problem = found.problem.or(more.problem);
                        }
                        _ => {}
                    }
                }
            }
            Live {
                route,
                reading,
                found,
            }
        })
        .collect()
}

/// Fields of `spec.service` that describe a generated route.
fn ignored(service: &CanaryService) -> Vec<&'static str> {
    [
        ("timeout", service.timeout.is_some()),
        ("backendTimeout", service.backend_timeout.is_some()),
        ("hosts", !service.hosts.is_empty()),
        ("delegation", service.delegation.is_some()),
        ("match", !service.matches.is_empty()),
        ("retries", service.retries.is_some()),
        ("rewrite", service.rewrite.is_some()),
        ("mirror", !service.mirror.is_empty()),
        ("headers", service.headers.is_some()),
        ("gateways", !service.gateways.is_empty()),
        ("gatewayRefs", !service.gateway_refs.is_empty()),
        ("corsPolicy", service.cors_policy.is_some()),
        ("trafficPolicy", service.traffic_policy.is_some()),
    ]
    .into_iter()
    .filter_map(|(field, set)| set.then_some(field))
    .collect()
}

impl Router for OwnRoute {
    fn provider(&self) -> &'static str {
        OWN_ROUTE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tcp: true,
            ..Capabilities::WEIGHTED
        }
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for reference in references(canary) {
            reference.refusals(&mut refusals);
        }
        let analysis = &canary.spec.analysis;
        let asked = [
            (
                "spec.analysis.match",
                !analysis.matches.is_empty(),
                "matches belong into the route itself: a rule of yours that names the canary's Service alone is left alone, so testers \
                 can have one",
            ),
            (
                "spec.analysis.mirror",
                analysis.mirror(),
                "mirror to the canary's Service in the route itself",
            ),
            (
                "spec.analysis.sessionAffinity",
                analysis.session_affinity.is_some(),
                "cookies would need rules of Serin's own; let your gateway keep sessions, or let Serin write the route",
            ),
        ];
        for (field, set, instead) in asked {
            if set {
                refusals.push(Refusal::error(
                    field,
                    format!(
                        "set; of a route of your own (spec.routeRef) Serin changes nothing but weights: {instead}"
                    ),
                ));
            }
        }
        for field in canary.spec.service.iter().flat_map(ignored) {
            refusals.push(Refusal::warning(
                format!("spec.service.{field}"),
                "set; it describes a generated route and says nothing to a route of your own (spec.routeRef), which is left as you \
                 wrote it",
            ));
        }
        refusals
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        routes(canary).into_iter().map(|route| route.name).collect()
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        lookup: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        let share = request.split.canary;
        let live = look(request.canary, lookup);
        let problem = live.iter().find_map(Live::problem);
        if share > Weight::NONE
            && let Some(problem) = problem
        {
            return Err(problem);
        }
        let mut raises = false;
        let mut writes = Vec::new();
        for one in &live {
            let Some(object) = one.object() else { continue };
            let slots = &one.found.slots;
            let write = shift::patch(request.canary, &one.route.name, object, slots, share);
            let Some(write) = write else { continue };
            raises |= slots
                .iter()
                .any(|slot| shift::carried(request.canary, object, slots, slot) < Some(share));
            // What somebody has changed stands first: it is what is told of.
            if shift::is_drift(request.canary, object, slots) {
                writes.insert(0, write);
            } else {
                writes.push(write);
            }
        }
        match (problem, writes.len()) {
            // The way back is gone as far as it can be; what can't be seen or understood is told when all else is done.
            (Some(problem), 0) => Err(problem),
            (_, 2..) if raises => Ok(vec![Write::Together(writes)]),
            _ => Ok(writes),
        }
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        lookup: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let live = look(canary, lookup);
        let mut observed = Observed {
            split: None,
            applied: Applied::Yes,
            foreign_writer: None,
        };
        let mut shares = Vec::new();
        for one in &live {
            if let Some(problem) = one.problem() {
                if matches!(problem, RouteError::Unknown(..)) {
                    return Err(problem);
                }
                observed.applied = Applied::Pending(problem.to_string());
            }
            let Some(object) = one.object() else { continue };
            let slots = &one.found.slots;
            shares.extend(
                slots
                    .iter()
                    .map(|slot| shift::carried(canary, object, slots, slot)),
            );
            let changed =
                shift::is_drift(canary, object, slots) || shift::is_replaced(canary, object);
            if observed.foreign_writer.is_none() && changed {
                observed.foreign_writer =
                    route_object::foreign_writer(object).or_else(|| unnamed(object));
            }
            if observed.applied == Applied::Yes {
                observed.applied = accepted(&one.route, object);
            }
        }
        observed.split = match shares.split_first() {
            // A route that does not name the canary's Service can't carry anything for it.
            None => Some(Split::PRIMARY),
            Some((first, rest)) if rest.iter().all(|share| share == first) => {
                first.map(|canary| Split {
                    canary,
                    mirrored: false,
                })
            }
            Some(_) => None,
        };
        Ok(observed)
    }

    fn unfit(&self, canary: &Canary, lookup: &Lookup<'_>) -> Vec<RouteError> {
        look(canary, lookup)
            .iter()
            .filter_map(Live::problem)
            .collect()
    }

    fn finalize(&self, canary: &Canary, lookup: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let live = look(canary, lookup);
        Ok(live
            .iter()
            .filter_map(|one| {
                let object = one.object()?;
                let slots = &one.found.slots;
                shift::patch(canary, &one.route.name, object, slots, Weight::NONE)
            })
            .collect())
    }
}

/// Who changed a route of which the API server names no writers: it keeps none from when the last of them let go until somebody applies it
/// by server-side apply.
fn unnamed(object: &Object) -> Option<String> {
    let writers = object.at("/metadata/managedFields").as_array();
    writers
        .is_none_or(Vec::is_empty)
        .then(|| "somebody whom the API server does not name".to_owned())
}

/// Whether the data plane has taken a route over as it is, where its status says so.
fn accepted(route: &Route<'_>, object: &Object) -> Applied {
    let shape = route.references.iter().find_map(Reference::shape);
    let Some(shape) = shape else {
        return Applied::Yes;
    };
    if shape.has_parents {
        let parents = object.at("/spec/parentRefs").as_array();
        return gateway_api::accepted_by(parents.into_iter().flatten().cloned(), object);
    }
    if shape.kind == kinds::HTTP_PROXY && object.text("/status/currentStatus") == "invalid" {
        return Applied::Pending(format!(
            "{} is invalid: {}",
            route.name,
            object.text("/status/description")
        ));
    }
    Applied::Yes
}
