//! What routers that write route objects of their own have in common: their metadata, whom they belong to, how a route of the user is
//! taken over and given back, what of others is kept, and which other hand wrote one last.

use super::{RouteError, RouteRequest};
use crate::api::{Canary, CustomMetadata};
use crate::object::{
    APPLIED_ANNOTATION, Expect, Kind, Object, ObjectRef, Patch, Reading, Write,
    apply_sealed_if_needed, seal,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Annotation with what a route said before Serin took it over: compact JSON
/// `{"spec": …, "labels": {key: value or null}, "annotations": {key: value or null}}`, where `null` stands for a key that was not there.
pub const ORIGINAL_ANNOTATION: &str = "serin.dev/original-route";

/// Annotation in which Flagger keeps what a `VirtualService` said before it took it over: the `spec` as JSON. It keeps what it found at
/// every later edit too, which then is a spec of Flagger's own.
const FLAGGERS_ORIGINAL_ANNOTATION: &str = "flagger.kubernetes.io/original-configuration";

/// Annotation in which `kubectl apply` keeps the object that it applied.
const KUBECTL_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Annotations are limited to 256 KiB for one object; a quarter of it is left to one of ours.
const LARGEST_ORIGINAL: usize = 64 * 1024;

/// Keeps Flux from putting back what it finds changed. Flagger sets the same two.
pub const TOOLKIT_ANNOTATIONS: [(&str, &str); 2] = [
    ("kustomize.toolkit.fluxcd.io/reconcile", "disabled"),
    ("helm.toolkit.fluxcd.io/driftDetection", "disabled"),
];

/// Field manager of Serin, and of the controller that it may have inherited the route from.
const OWN_HANDS: [&str; 2] = ["serin", "flagger"];

fn apex_metadata(canary: &Canary) -> Option<&CustomMetadata> {
    canary.spec.service.as_ref()?.apex.as_ref()
}

fn uid(canary: &Canary) -> &str {
    canary.metadata.uid.as_deref().unwrap_or_default()
}

/// The route of a canary: named like its apex Service, in its namespace.
pub fn route_of(canary: &Canary, kind: &Kind) -> ObjectRef {
    kind.named(&canary.metadata.namespace, canary.apex_name())
}

fn labels(canary: &Canary, selector_label: Option<&str>) -> BTreeMap<String, String> {
    let Some(apex) = apex_metadata(canary) else {
        return BTreeMap::new();
    };
    let mut labels = apex.labels.clone();
    if let Some(key) = selector_label {
        labels.insert(key.to_owned(), canary.apex_name().to_owned());
    }
    labels
}

pub fn annotations(canary: &Canary) -> BTreeMap<String, String> {
    let mut annotations = apex_metadata(canary)
        .map(|apex| apex.annotations.clone())
        .unwrap_or_default();
    for (key, value) in TOOLKIT_ANNOTATIONS {
        annotations.insert(key.to_owned(), value.to_owned());
    }
    annotations
}

/// The live route for reading: an error where it could not be read.
pub fn readable<'a>(
    target: &ObjectRef,
    live: &'a Reading,
) -> Result<Option<&'a Object>, RouteError> {
    match live {
        Reading::Unknown(why) => Err(RouteError::Unknown(Box::new(target.clone()), why.clone())),
        other => Ok(other.object()),
    }
}

/// True if the canary controls the object.
pub fn is_ours(canary: &Canary, object: &Object) -> bool {
    object
        .controller_owner()
        .is_some_and(|owner| !owner.uid.is_empty() && owner.uid == uid(canary))
}

/// Whether a spec already sends to the two Services of a canary.
fn sends_to_canary(canary: &Canary, spec: &Value) -> bool {
    let spec = spec.to_string();
    [canary.primary_service_name(), canary.canary_service_name()]
        .iter()
        .all(|name| spec.contains(&Value::String(name.clone()).to_string()))
}

/// What a route of the user said before Flagger took it over, as far as can be known: what kubectl applied last, else what Flagger
/// kept, else the live spec led back to the apex Service. The object holds labels and annotations of that time.
fn before_flagger(
    canary: &Canary,
    live: &Object,
    lead_back: fn(&Canary, &Value) -> Value,
) -> (Value, Object) {
    let json = |annotation: &str| serde_json::from_str::<Value>(live.annotation(annotation)?).ok();
    let users = |spec: &Value| spec.is_object() && !sends_to_canary(canary, spec);
    let applied = json(KUBECTL_ANNOTATION).map_or_else(|| Object::new(Value::Null), Object::new);
    let spec = if users(applied.at("/spec")) {
        applied.at("/spec").clone()
    } else {
        json(FLAGGERS_ORIGINAL_ANNOTATION)
            .filter(users)
            .unwrap_or_else(|| lead_back(canary, live.at("/spec")))
    };
    (spec, applied)
}

/// Whether [`before_flagger`] may be asked of a live route, so that what kubectl applied last must not be forgotten: nobody controls it,
/// and what it said is not kept yet.
#[must_use]
pub fn may_ask_what_was_applied(live: &Object) -> bool {
    live.controller_owner().is_none() && live.annotation(ORIGINAL_ANNOTATION).is_none()
}

/// What [`ORIGINAL_ANNOTATION`] holds: a spec, and what `before` had in place of the labels and annotations that are set.
fn record(
    spec: &Value,
    before: &Object,
    (labels, annotations): (&BTreeMap<String, String>, &BTreeMap<String, String>),
) -> Value {
    let values = |keys: &BTreeMap<String, String>, then: &BTreeMap<String, String>| -> Value {
        keys.keys()
            .map(|key| (key.clone(), json!(then.get(key))))
            .collect::<Map<_, _>>()
            .into()
    };
    json!({
        "spec": spec,
        "labels": values(labels, &before.labels()),
        "annotations": values(annotations, &before.annotations()),
    })
}

/// What the route said before it was taken over, to be kept as long as it serves the canary. `None` for a route that was never the
/// user's: one that Serin or Flagger made has this canary as controller.
fn original(
    request: &RouteRequest<'_>,
    target: &ObjectRef,
    live: &Object,
    set: (&BTreeMap<String, String>, &BTreeMap<String, String>),
    lead_back: fn(&Canary, &Value) -> Value,
) -> Result<Option<String>, RouteError> {
    let ours = is_ours(request.canary, live);
    if let Some(owner) = live.controller_owner()
        && !ours
    {
        return Err(RouteError::Unfit(
            Box::new(target.clone()),
            format!(
                "it is controlled by {} {} (uid {}); a route can serve one canary only: give spec.service.name of this \
                 canary a name that no other object uses, or remove that route",
                owner.kind, owner.name, owner.uid
            ),
        ));
    }
    if let Some(kept) = live.annotation(ORIGINAL_ANNOTATION) {
        return Ok(Some(kept.to_owned()));
    }
    if ours {
        return Ok(None);
    }
    let (spec, before) = if sends_to_canary(request.canary, live.at("/spec")) {
        before_flagger(request.canary, live, lead_back)
    } else {
        (live.at("/spec").clone(), live.clone())
    };
    let kept = record(&spec, &before, set).to_string();
    if kept.len() > LARGEST_ORIGINAL {
        return Err(RouteError::Unfit(
            Box::new(target.clone()),
            format!(
                "it exists already and is too large to be kept for giving it back ({} bytes, at most {LARGEST_ORIGINAL}); \
                 remove the route, or give spec.service.name of the canary a name of its own",
                kept.len()
            ),
        ));
    }
    Ok(Some(kept))
}

/// How a router looks at specs of its objects.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Whether a live spec says what a desired one does.
    pub says: fn(live: &Value, desired: &Value) -> bool,
    /// Makes a spec that sends to the canary's Services send to its apex Service alone, for a route of which nobody knows any more
    /// what it said.
    pub lead_back: fn(canary: &Canary, spec: &Value) -> Value,
    /// Adds to a desired spec what others wrote inside lists that are ours as a whole and that must not be lost.
    pub keep: fn(canary: &Canary, desired: &mut Value, live: &Value),
}

/// The apply that makes an object say `spec`, or nothing where it does. A route of the user is taken over and what it said is kept in
/// [`ORIGINAL_ANNOTATION`]; it gets no owner, since what the user made must not be collected with the canary.
pub fn apply_to(
    request: &RouteRequest<'_>,
    target: &ObjectRef,
    spec: &Value,
    live: &Reading,
    manner: &Manner,
) -> Result<Option<Write>, RouteError> {
    let canary = request.canary;
    let kind = &target.kind;
    let live_object = readable(target, live)?;
    let labels = labels(canary, request.selector_label);
    let mut annotations = annotations(canary);
    if let Some(object) = live_object {
        let set = (&labels, &annotations);
        if let Some(kept) = original(request, target, object, set, manner.lead_back)? {
            annotations.insert(ORIGINAL_ANNOTATION.to_owned(), kept);
        }
    }
    let mut metadata = json!({
        "name": target.name,
        "namespace": target.namespace,
        "annotations": annotations,
    });
    if live_object.is_none_or(|object| is_ours(canary, object)) {
        metadata["ownerReferences"] = canary.owner_reference().into_iter().collect();
    }
    if !labels.is_empty() {
        metadata["labels"] = json!(labels);
    }
    let mut desired = seal(Object::new(json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": metadata,
        "spec": spec,
    })));
    // After sealing: what others add later must not look like a change of ours.
    if let Some(object) = live_object {
        (manner.keep)(canary, &mut desired.value_mut()["spec"], object.at("/spec"));
    }
    if let Some(write) = apply_sealed_if_needed(kind, desired.clone(), live) {
        return Ok(Some(write));
    }
    // `covers` tolerates what it takes for foreign additions; in a route an added filter or match is drift.
    Ok(live_object
        .filter(|object| !(manner.says)(object.at("/spec"), desired.at("/spec")))
        .map(|object| Write::Apply {
            kind: kind.clone(),
            expect: Expect::unchanged(object),
            object: desired,
        }))
}

/// The patch that gives a taken-over route back as it was, without Serin's metadata; nothing for a route that was made for the
/// canary, since the API server collects it with its owner.
pub fn give_back(canary: &Canary, kind: &Kind, live: &Reading) -> Result<Vec<Write>, RouteError> {
    give_back_to(canary, &route_of(canary, kind), live, None)
}

/// The same for any object. With `lead_back` a route of the user that Flagger took over and that Serin has not written yet is given
/// back too.
pub fn give_back_to(
    canary: &Canary,
    target: &ObjectRef,
    live: &Reading,
    lead_back: Option<fn(&Canary, &Value) -> Value>,
) -> Result<Vec<Write>, RouteError> {
    let Some(object) = readable(target, live)? else {
        return Ok(Vec::new());
    };
    if object.controller_owner().is_some() && !is_ours(canary, object) {
        return Ok(Vec::new());
    }
    let kept: Value = match (object.annotation(ORIGINAL_ANNOTATION), lead_back) {
        (Some(kept), _) => serde_json::from_str(kept)
            .ok()
            .filter(|kept: &Value| kept["spec"].is_object())
            .ok_or_else(|| {
                RouteError::Unfit(
                    Box::new(target.clone()),
                    format!(
                        "annotation {ORIGINAL_ANNOTATION} should hold the route as it was before the take-over (JSON with a \
                         `spec` object) and can't be read; write the wanted spec by hand and remove the annotation"
                    ),
                )
            })?,
        (None, Some(lead_back))
            if !is_ours(canary, object) && sends_to_canary(canary, object.at("/spec")) =>
        {
            let (spec, before) = before_flagger(canary, object, lead_back);
            let set = (&labels(canary, None), &annotations(canary));
            record(&spec, &before, set)
        }
        _ => return Ok(Vec::new()),
    };
    let mut operations = vec![json!({"op": "replace", "path": "/spec", "value": kept["spec"]})];
    let mut ours = annotations(canary);
    for key in [
        APPLIED_ANNOTATION,
        ORIGINAL_ANNOTATION,
        FLAGGERS_ORIGINAL_ANNOTATION,
    ] {
        ours.insert(key.to_owned(), String::new());
    }
    operations.extend(restore("annotations", &kept["annotations"], &ours, object));
    operations.extend(restore(
        "labels",
        &kept["labels"],
        &labels(canary, None),
        object,
    ));
    let owners = object.at("/metadata/ownerReferences").as_array();
    let position = owners.and_then(|owners| {
        owners
            .iter()
            .position(|owner| owner["uid"].as_str() == Some(uid(canary)))
    });
    if let Some(position) = position {
        let path = format!("/metadata/ownerReferences/{position}");
        operations.push(json!({"op": "test", "path": format!("{path}/uid"), "value": uid(canary)}));
        operations.push(json!({"op": "remove", "path": path}));
    }
    Ok(vec![Write::Patch {
        target: target.clone(),
        patch: Patch::Json(operations),
        expect: Expect::unchanged(object),
    }])
}

/// The operations that put a map of the metadata back: keys that were there before get their old values, keys of ours go.
fn restore(
    map: &str,
    before: &Value,
    ours: &BTreeMap<String, String>,
    live: &Object,
) -> Vec<Value> {
    let now = live.string_map(&format!("/metadata/{map}"));
    let keys: BTreeSet<&String> = before
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .chain(ours.keys())
        .collect();
    keys.into_iter()
        .filter(|key| now.contains_key(*key))
        .map(|key| {
            let path = format!(
                "/metadata/{map}/{}",
                key.replace('~', "~0").replace('/', "~1")
            );
            match before[key.as_str()].as_str() {
                Some(value) => json!({"op": "replace", "path": path, "value": value}),
                None => json!({"op": "remove", "path": path}),
            }
        })
        .collect()
}

/// The writer, other than Serin (and Flagger, whose routes it inherits), that has the newest entry in `metadata.managedFields`.
/// Writers of the status don't count; a tie in time counts for Serin.
pub fn foreign_writer(object: &Object) -> Option<String> {
    let entries = object.at("/metadata/managedFields").as_array()?;
    let newest = entries
        .iter()
        .filter(|entry| entry["subresource"].as_str().unwrap_or_default().is_empty())
        .filter_map(|entry| {
            let manager = entry["manager"].as_str()?;
            let foreign = !OWN_HANDS.contains(&manager);
            // Times are whole seconds. Whoever wrote in the same second as we did came after us, else there would be nothing to ask.
            Some((entry["time"].as_str().unwrap_or_default(), foreign, manager))
        })
        .max()?;
    newest.1.then(|| newest.2.to_owned())
}
