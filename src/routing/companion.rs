//! What routers have in common that steer with an object of their own beside one of the user: a companion, made after the user's Ingress
//! or route and kept in step with it. The user's object is only read.
//!
//! ```text
//!   Ingress app (the user's) ──▶ Service app ─▶ primary        Ingress app-canary (the companion) ──▶ Service app-canary
//! ```
//!
//! Should the user's object go in mid-run, the companion leads to the canary all the same: it has hosts and paths of its own. So the way
//! back needs the companion alone, and only raises need both.

use super::route_object::{self, TOOLKIT_ANNOTATIONS};
use super::{Applied, Lookup, Observed, RouteError, Split, weighted};
use crate::api::Canary;
use crate::object::{
    Expect, Kind, Object, ObjectRef, Patch, Reading, Write, apply_if_needed, canonical_json, seal,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Annotations that say something about one object alone: what tools keep about the object that they manage. A certificate that two
/// Ingresses ask for is refused to both by some versions of cert-manager.
const ONE_OBJECTS_OWN: [&str; 8] = [
    "acme.cert-manager.io/",
    "argocd.argoproj.io/",
    "cert-manager.io/",
    "helm.toolkit.fluxcd.io/",
    "kubectl.kubernetes.io/",
    "kustomize.toolkit.fluxcd.io/",
    "meta.helm.sh/",
    "serin.dev/",
];

/// The user's object that the router builds on.
pub fn source(name: &ObjectRef, live: &Lookup<'_>) -> Result<Arc<Object>, RouteError> {
    match live(name) {
        Reading::Present(object) => Ok(object),
        Reading::Absent => Err(RouteError::Missing(Box::new(name.clone()))),
        Reading::Unknown(why) => Err(RouteError::Unknown(Box::new(name.clone()), why)),
    }
}

/// The user's Ingress, where at least one of its paths leads to the apex Service.
pub fn ingress(
    canary: &Canary,
    name: &ObjectRef,
    live: &Lookup<'_>,
) -> Result<Arc<Object>, RouteError> {
    let ingress = source(name, live)?;
    rules(canary, name, &ingress, |path| vec![path.clone()])?;
    Ok(ingress)
}

/// The annotations of the user's object, without those that belong to it alone and those that `apart` picks.
pub fn annotations(source: &Object, apart: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let mut annotations = source.annotations();
    annotations
        .retain(|key, _| !apart(key) && !ONE_OBJECTS_OWN.iter().any(|own| key.starts_with(own)));
    annotations
}

/// The live companion, if there is one; an error where the object of that name is not the canary's.
pub fn own<'a>(
    canary: &Canary,
    target: &ObjectRef,
    live: &'a Reading,
) -> Result<Option<&'a Object>, RouteError> {
    let Some(object) = route_object::readable(target, live)? else {
        return Ok(None);
    };
    if route_object::is_ours(canary, object) {
        return Ok(Some(object));
    }
    let owner = object.controller_owner().map_or_else(
        || "it belongs to no canary".to_owned(),
        |owner| {
            format!(
                "it is controlled by {} {} (uid {})",
                owner.kind, owner.name, owner.uid
            )
        },
    );
    Err(RouteError::Unfit(
        Box::new(target.clone()),
        format!(
            "{owner}; the router of this canary needs the name for an object of its own: remove or rename that object, or let the \
             canary name another one to build on"
        ),
    ))
}

/// The apply that makes the companion say `spec` and carry the labels of `source` and these annotations, or nothing where it does. Lists
/// named by `whole` must be exactly as desired.
pub fn apply(
    canary: &Canary,
    target: &ObjectRef,
    source: &Object,
    mut annotations: BTreeMap<String, String>,
    spec: &Value,
    (live, whole): (&Reading, &[&str]),
) -> Result<Option<Write>, RouteError> {
    let object = own(canary, target, live)?;
    for (key, value) in TOOLKIT_ANNOTATIONS {
        annotations.insert(key.to_owned(), value.to_owned());
    }
    let mut metadata = json!({
        "name": target.name,
        "namespace": target.namespace,
        "annotations": annotations,
        "ownerReferences": canary.owner_reference().into_iter().collect::<Vec<_>>(),
    });
    let labels = source.labels();
    if !labels.is_empty() {
        metadata["labels"] = json!(labels);
    }
    let kind: &Kind = &target.kind;
    let desired = Object::new(json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": metadata,
        "spec": spec,
    }));
    if let Some(write) = apply_if_needed(kind, desired.clone(), live) {
        return Ok(Some(write));
    }
    let differs = |object: &&Object| {
        whole
            .iter()
            .any(|list| canonical_json(&object.at("/spec")[*list]) != canonical_json(&spec[*list]))
    };
    Ok(object.filter(differs).map(|object| Write::Apply {
        kind: kind.clone(),
        expect: Expect::unchanged(object),
        object: seal(desired),
    }))
}

/// The way back of a companion whose user's object is gone, can't be read or leads elsewhere, which `why` says: the live companion takes
/// `split` over where the canary gets no more by it than it has now. `says` is the merge patch for that, or nothing where the companion is
/// not fit for one: then it goes, and nobody is led to the canary. What is refused, and what is left to do once the companion says so,
/// is `why`.
pub fn without_source(
    canary: &Canary,
    (target, live): (&ObjectRef, &Reading),
    split: Split,
    carried: impl FnOnce(&Object) -> Option<Split>,
    says: impl FnOnce(&Object) -> Option<Value>,
    why: RouteError,
) -> Result<Vec<Write>, RouteError> {
    let Some(object) = own(canary, target, live)? else {
        return Err(why);
    };
    let carried = carried(object);
    let raised = carried.is_none_or(|carried| split.canary > carried.canary);
    if carried == Some(split) || raised && split != Split::PRIMARY {
        return Err(why);
    }
    let target = target.clone();
    let expect = Expect::unchanged(object);
    Ok(vec![match says(object) {
        Some(patch) => Write::Patch {
            target,
            patch: Patch::Merge(patch),
            expect,
        },
        None => Write::Delete { target, expect },
    }])
}

/// What the companion says. One that is not there leads nobody to the canary; as long as it can be made, that is no split yet.
pub fn observed(
    (target, live): (&ObjectRef, &Reading),
    source: Option<&RouteError>,
    split: impl FnOnce(&Object) -> Option<Split>,
    applied: impl FnOnce(&Object) -> Applied,
) -> Result<Observed, RouteError> {
    let mut observed = weighted::observed(target, live, split, applied)?;
    if source.is_some() && *live == Reading::Absent {
        observed.split = Some(Split::PRIMARY);
        observed.applied = Applied::Yes;
    }
    Ok(observed)
}

/// Why a companion that is not there can't be made.
pub fn unfit(live: &Reading, source: Option<RouteError>) -> Vec<RouteError> {
    source
        .filter(|_| *live == Reading::Absent)
        .into_iter()
        .collect()
}

/// The deletion of the companion, so that nobody is sent to the canary's Service while that is being collected; nothing where it is gone,
/// or not the canary's.
pub fn remove(canary: &Canary, target: ObjectRef, live: &Reading) -> Vec<Write> {
    live.object()
        .filter(|object| route_object::is_ours(canary, object) && !object.is_deleting())
        .map(|object| Write::Delete {
            expect: Expect::unchanged(object),
            target,
        })
        .into_iter()
        .collect()
}

/// The rules of an Ingress that send to the apex Service, with what each of their paths becomes. Other paths are served by the user's
/// Ingress and are left out.
pub fn rules(
    canary: &Canary,
    name: &ObjectRef,
    ingress: &Object,
    becomes: impl Fn(&Value) -> Vec<Value>,
) -> Result<Value, RouteError> {
    let apex = canary.apex_name();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut rules = Vec::new();
    for mut rule in list(ingress.at("/spec/rules")) {
        let paths: Vec<Value> = list(&rule["http"]["paths"])
            .iter()
            .filter(|path| path["backend"]["service"]["name"] == apex)
            .flat_map(&becomes)
            .collect();
        if !paths.is_empty() {
            rule["http"]["paths"] = paths.into();
            rules.push(rule);
        }
    }
    if rules.is_empty() {
        return Err(RouteError::Unfit(
            Box::new(name.clone()),
            format!(
                "none of its paths leads to Service {apex}; at least one must, so that its traffic can be divided"
            ),
        ));
    }
    Ok(rules.into())
}

/// A path that leads to another Service, by the same port.
pub fn leading_to(path: &Value, service: &str) -> Value {
    let mut path = path.clone();
    path["backend"]["service"]["name"] = json!(service);
    path
}
