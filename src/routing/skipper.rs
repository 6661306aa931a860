//! Provider `skipper`: an Ingress `<ingress>-canary` beside the user's own, which `spec.ingressRef` names. Each of its paths leads to both Services,
//! annotation `zalando.org/backend-weights` divides between them, and a predicate of more weight makes Skipper prefer it. While the canary has
//! no traffic the predicate is `False()`, and the user's Ingress serves.

use super::{
    Applied, Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, Split, Weight, capabilities, companion, nginx, refuse_errors,
};
use crate::api::Canary;
use crate::object::{Object, ObjectRef, Write};
use serde_json::{Value, json};
use std::collections::BTreeMap;

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
        let reading = live(&target);
        let source = match companion::ingress(canary, &name, live) {
            Ok(source) => source,
            Err(why) => {
                return companion::without_source(
                    canary,
                    (&target, &reading),
                    request.split,
                    |object| split_of(canary, object),
                    |object| {
                        let annotations = steering(canary, users(object), request.split);
                        Some(json!({"metadata": {"annotations": annotations}}))
                    },
                    why,
                );
            }
        };
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
        let users = source.annotation(PREDICATE).unwrap_or_default();
        annotations.extend(steering(canary, users, request.split));
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
        let (name, target) = nginx::names(canary)?;
        let source = companion::ingress(canary, &name, live).err();
        let split = |object: &Object| split_of(canary, object);
        companion::observed((&target, &live(&target)), source.as_ref(), split, |_| {
            Applied::Yes
        })
    }

    fn unfit(&self, canary: &Canary, live: &Lookup<'_>) -> Vec<RouteError> {
        nginx::unfit(canary, live)
    }

    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let (_, target) = nginx::names(canary)?;
        let reading = live(&target);
        Ok(companion::remove(canary, target, &reading))
    }
}

/// The two annotations that say a split. `users` is the predicate that the user wrote.
fn steering(canary: &Canary, users: &str, split: Split) -> BTreeMap<String, String> {
    let weights = json!({
        canary.primary_service_name(): split.primary().percent(),
        canary.canary_service_name(): split.canary.percent(),
    });
    BTreeMap::from([
        (WEIGHTS.to_owned(), weights.to_string()),
        (PREDICATE.to_owned(), predicate(users, split)),
    ])
}

/// What the user's Ingress said when the companion was written last.
fn users(companion: &Object) -> &str {
    let says = companion.annotation(PREDICATE).unwrap_or_default().trim();
    let rest = [ENABLED, DISABLED]
        .iter()
        .find_map(|first| says.strip_prefix(first));
    let Some(rest) = rest.map(str::trim_start) else {
        return says;
    };
    rest.strip_prefix("&&").unwrap_or(rest).trim_start()
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
