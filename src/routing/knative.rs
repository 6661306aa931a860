//! Provider `knative`: the traffic list of the Knative Service that is the target. Its Revisions are the two sides, each by name: the
//! one that was promoted last and, while it has traffic, the one that is judged. Knative makes, scales and keeps them.
//!
//! ```text
//! metadata.annotations   flagger.app/primary-revision: podinfo-00001
//! spec.traffic           podinfo-00001 70 %    podinfo-00002 30 %    entries with a tag and without traffic: the user's
//! ```
//! Flagger leads the canary's share to the latest revision, whichever that is. Here a revision that comes in the middle of a run gets no
//! request before it is judged itself.

use super::{
    Applied, Capabilities, Lookup, Observed, Refusal, RouteError, RouteRequest, Router,
    RoutingSettings, Split, Weight, capabilities, refuse_errors, route_object, weighted,
};
use crate::api::Canary;
use crate::object::{Expect, Kind, Object, ObjectRef, Patch, Write, kinds};
use serde_json::{Value, json};

const KIND: Kind = kinds::KNATIVE_SERVICE;

/// Annotation of the Knative Service with the name of the Revision that is the primary, as Flagger writes it.
pub const PRIMARY_ANNOTATION: &str = "flagger.app/primary-revision";

/// The router for Knative.
pub struct Knative;

impl Router for Knative {
    fn provider(&self) -> &'static str {
        "knative"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::WEIGHTED
    }

    fn refusals(&self, canary: &Canary) -> Vec<Refusal> {
        let mut found = capabilities::refusals(self.provider(), &self.capabilities(), canary);
        let step = canary.spec.analysis.step_weight_promotion();
        if step > 0 {
            found.push(Refusal::warning(
                "spec.analysis.stepWeightPromotion",
                format!(
                    "{step}; with knative the judged revision itself becomes the primary, so there is nothing to lead back step by step"
                ),
            ));
        }
        found
    }

    fn objects(&self, canary: &Canary) -> Vec<ObjectRef> {
        vec![service_of(canary)]
    }

    fn desired(
        &self,
        request: &RouteRequest<'_>,
        live: &Lookup<'_>,
    ) -> Result<Vec<Write>, RouteError> {
        refuse_errors(self.refusals(request.canary))?;
        let target = service_of(request.canary);
        let reading = live(&target);
        let Some(service) = route_object::readable(&target, &reading)? else {
            return Err(RouteError::Missing(Box::new(target)));
        };
        let Some(primary) = request.revisions.primary else {
            let why = "none of its revisions is promoted yet, so its traffic can't be divided";
            return Err(RouteError::Unfit(Box::new(target), why.to_owned()));
        };
        let traffic = traffic(service, &shares(request, primary));
        Ok(patch(&target, service, Some(primary), &traffic))
    }

    fn observed(
        &self,
        canary: &Canary,
        _: &RoutingSettings,
        live: &Lookup<'_>,
    ) -> Result<Observed, RouteError> {
        let target = service_of(canary);
        let reading = live(&target);
        weighted::observed(&target, &reading, split_of, applied)
    }

    /// Between what a new canary would lead all traffic to, the latest revision, and what the user's traffic list says there may be no
    /// difference: nobody judged it.
    fn unfit(&self, canary: &Canary, live: &Lookup<'_>) -> Vec<RouteError> {
        let flaggers = canary
            .status
            .as_ref()
            .is_some_and(|status| status.last_applied_spec.is_some());
        let target = service_of(canary);
        let reading = live(&target);
        let Some(service) = reading.object().filter(|_| !flaggers) else {
            return Vec::new();
        };
        let latest = service.text("/status/latestCreatedRevisionName");
        let elsewhere = entries(service)
            .iter()
            .find(|entry| percent(entry) > 0 && !is_latest(entry) && name(entry) != latest);
        elsewhere
            .map(|entry| {
                RouteError::Unfit(
                    Box::new(target),
                    format!(
                        "spec.traffic sends {} % to the revision {}, and the latest is {latest}; a canary begins with the latest one: \
                         lead all traffic there first (`traffic: [{{latestRevision: true, percent: 100}}]`), or set the template back",
                        percent(entry),
                        name(entry)
                    ),
                )
            })
            .into_iter()
            .collect()
    }

    /// The annotation goes, and the promoted revision keeps the traffic. Where it is the latest one, the next follows it as without a
    /// canary.
    fn finalize(&self, canary: &Canary, live: &Lookup<'_>) -> Result<Vec<Write>, RouteError> {
        let target = service_of(canary);
        let reading = live(&target);
        let Some(service) = route_object::readable(&target, &reading)? else {
            return Ok(Vec::new());
        };
        let Some(primary) = service.annotation(PRIMARY_ANNOTATION) else {
            return Ok(Vec::new());
        };
        let latest = ["latestCreatedRevisionName", "latestReadyRevisionName"]
            .iter()
            .all(|field| service.text(&format!("/status/{field}")) == primary);
        let all = if latest {
            json!({"latestRevision": true, "percent": 100})
        } else {
            entry_of(service, primary, Weight::ALL)
        };
        Ok(patch(
            &target,
            service,
            None,
            &with_tags(service, vec![all]),
        ))
    }
}

/// The target, which is its own route.
fn service_of(canary: &Canary) -> ObjectRef {
    KIND.named(&canary.metadata.namespace, canary.target_name())
}

/// The Revision that carries the primary's traffic, by what Flagger or Serin wrote on the Service, or else by its traffic list.
#[must_use]
pub fn primary_of(service: &Object) -> Option<&str> {
    service.annotation(PRIMARY_ANNOTATION).or_else(|| {
        let named = entries(service)
            .iter()
            .filter(|entry| percent(entry) > 0 && !name(entry).is_empty());
        named.max_by_key(|entry| percent(entry)).map(name)
    })
}

fn entries(service: &Object) -> &[Value] {
    weighted::list(service.at("/spec"), "traffic")
}

fn name(entry: &Value) -> &str {
    entry["revisionName"].as_str().unwrap_or_default()
}

fn is_latest(entry: &Value) -> bool {
    entry["latestRevision"] == true
}

fn percent(entry: &Value) -> u64 {
    entry["percent"].as_u64().unwrap_or(0)
}

fn has_tag(entry: &Value) -> bool {
    entry["tag"].as_str().is_some_and(|tag| !tag.is_empty())
}

/// Who gets how much; a side without traffic is not named, so that Knative takes its pods away.
fn shares<'r>(request: &RouteRequest<'r>, primary: &'r str) -> Vec<(&'r str, Weight)> {
    match request.revisions.canary {
        // A revision that is being promoted is both sides at once.
        Some(canary) if canary != primary => [
            (primary, request.split.primary()),
            (canary, request.split.canary),
        ]
        .into_iter()
        .filter(|(_, weight)| *weight > Weight::NONE)
        .collect(),
        _ => vec![(primary, Weight::ALL)],
    }
}

/// The list for these shares, as it stands where it says so already.
fn traffic(service: &Object, shares: &[(&str, Weight)]) -> Value {
    let ours = shares
        .iter()
        .map(|(revision, weight)| entry_of(service, revision, *weight))
        .collect();
    with_tags(service, ours)
}

/// The entry of a revision, with what else its entry says.
fn entry_of(service: &Object, revision: &str, weight: Weight) -> Value {
    let live = entries(service)
        .iter()
        .find(|entry| name(entry) == revision && !has_tag(entry));
    let mut entry = live.cloned().unwrap_or_else(|| json!({}));
    entry["revisionName"] = json!(revision);
    entry["latestRevision"] = json!(false);
    entry["percent"] = json!(weight.percent());
    entry
}

/// Adds the entries that the user gave an address of their own by a tag. They keep it, and get no share.
fn with_tags(service: &Object, mut ours: Vec<Value>) -> Value {
    let tagged = entries(service).iter().filter(|entry| has_tag(entry));
    ours.extend(tagged.cloned().map(|mut entry| {
        if percent(&entry) > 0
            && let Some(entry) = entry.as_object_mut()
        {
            entry.remove("percent");
        }
        entry
    }));
    Value::Array(ours)
}

/// The patch that makes the Service name this primary and have this traffic list; none where it does. It is guarded by what was asked of
/// the Service, since Knative reports on it all the time.
fn patch(
    target: &ObjectRef,
    service: &Object,
    primary: Option<&str>,
    traffic: &Value,
) -> Vec<Write> {
    let named = service.annotation(PRIMARY_ANNOTATION) == primary;
    if named && weighted::says(service.at("/spec/traffic"), traffic) {
        return Vec::new();
    }
    let write = Write::Patch {
        target: target.clone(),
        patch: Patch::Merge(json!({
            "metadata": {"annotations": {PRIMARY_ANNOTATION: primary}},
            "spec": {"traffic": traffic},
        })),
        expect: Expect::unchanged(service),
    };
    vec![write.whatever_status(service)]
}

/// What the list gives to the primary and to whatever is not the primary.
fn split_of(service: &Object) -> Option<Split> {
    let primary = service.annotation(PRIMARY_ANNOTATION)?;
    let (mut kept, mut given) = (0_u64, 0_u64);
    for entry in entries(service) {
        let side = if name(entry) == primary && !is_latest(entry) {
            &mut kept
        } else {
            &mut given
        };
        *side = side.checked_add(percent(entry))?;
    }
    Some(Split {
        canary: Weight::proportion(kept, given)?,
        mirrored: false,
    })
}

/// Knative says of what it has seen whether its routes carry it.
fn applied(service: &Object) -> Applied {
    let seen = service.number("/status/observedGeneration").unwrap_or(0);
    if seen < service.generation() {
        return Applied::Pending("Knative has not looked at the traffic list yet".to_owned());
    }
    let routes = weighted::list(service.at("/status"), "conditions")
        .iter()
        .find(|condition| condition["type"] == "RoutesReady");
    match routes {
        Some(condition) if condition["status"] == "True" => Applied::Yes,
        Some(condition) => Applied::Pending(format!(
            "Knative says RoutesReady {}: {} {}",
            condition["status"].as_str().unwrap_or("Unknown"),
            condition["reason"].as_str().unwrap_or("no reason"),
            condition["message"].as_str().unwrap_or_default(),
        )),
        None => Applied::Pending("Knative has not said RoutesReady yet".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
