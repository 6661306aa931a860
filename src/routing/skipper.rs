//! Provider `skipper`: an Ingress `<ingress>-canary` beside the user's own, which `spec.ingressRef` names. Each of its paths leads to both Services,
//! annotation `zalando.org/backend-weights` divides between them, and a predicate of more weight makes Skipper prefer it. While the canary has
//! no traffic the predicate is `False()`, and the user's Ingress serves.

use super::{
    Applied, Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, Split, Weight, capabilities, companion, nginx, refuse_errors, weighted,
};
use crate::api::Canary;
use crate::object::{Object, ObjectRef, Write};
use serde_json::{Value, json};

const WEIGHTS: &str = "zalando.org/backend-weights";
const PREDICATE: &str = "zalando.org/skipper-predicate";
/// Wins over the user's Ingress.
const ENABLED: &str = "Weight(100)";
/// Matches no request.
const DISABLED: &str = "False()";

/// The router for Skipper.
pub struct Skipper;

impl Router for Skipper {
    fn provider(&self) -> &'static str {
        "skipper"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::WEIGHTED
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut found = capabilities::refusals(self.provider(), &self.capabilities(), canary);
        found.extend(nginx::of_ingress_ref(canary));
        found
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        nginx::names(canary)
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
        let (name, target) = nginx::names(canary)?;
        let source = companion::source(&name, live)?;
        let sides = [canary.primary_service_name(), canary.canary_service_name()];
        let mut spec = source.at("/spec").clone();
        spec["rules"] = companion::rules(canary, &name, &source, |path| {
            let lead = |service: &String| companion::leading_to(path, service);
            sides.iter().map(lead).collect()
        })?;
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("defaultBackend");
        }
        let mut annotations = companion::annotations(&source, |key| key == WEIGHTS);
        let [primary, other] = &sides;
        let weights = json!({primary: request.split.primary().percent(), other: request.split.canary.percent()});
        annotations.insert(WEIGHTS.to_owned(), weights.to_string());
        let users = source.annotation(PREDICATE).unwrap_or_default();
        annotations.insert(PREDICATE.to_owned(), predicate(users, request.split));
        let reading = live(&target);
        let whole = (&reading, ["rules"].as_slice());
        let write = companion::apply(canary, &target, &source, annotations, &spec, whole)?;
        Ok(write.into_iter().collect())
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let (_, target) = nginx::names(canary)?;
        let split = |object: &Object| split_of(canary, object);
        weighted::observed(&target, &live(&target), split, |_| Applied::Yes)
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let (_, target) = nginx::names(canary)?;
        let reading = live(&target);
        Ok(companion::remove(canary, target, &reading))
    }
}

/// The predicate that decides who is asked first, before those that the user wrote.
fn predicate(users: &str, split: Split) -> String {
    let first = if split.canary > Weight::NONE {
        ENABLED
    } else {
        DISABLED
    };
    match users.trim() {
        "" => first.to_owned(),
        users => format!("{first} && {users}"),
    }
}

fn split_of(canary: &Canary, object: &Object) -> Option<Split> {
    let weights: Value = serde_json::from_str(object.annotation(WEIGHTS)?).ok()?;
    let weights = weights.as_object()?;
    if weights.len() != 2 {
        return None;
    }
    let weight = |name: String| weights.get(&name)?.as_u64();
    let share = Weight::proportion(
        weight(canary.primary_service_name())?,
        weight(canary.canary_service_name())?,
    )?;
    let predicate = object.annotation(PREDICATE).unwrap_or_default();
    let asleep = predicate.trim_start().starts_with(DISABLED);
    Some(Split {
        canary: if asleep { Weight::NONE } else { share },
        mirrored: false,
    })
}
