//! Autoscalers: the primary's copy of a `HorizontalPodAutoscaler` or a KEDA `ScaledObject`, and the pause of the user's own.
//!
//! The copy is the source's spec whole, fields unknown to this code included, with the names of the primary:
//!
//! ```text
//! scaleTargetRef.name                          <target>          ▶ <target>-primary
//! advanced.horizontalPodAutoscalerConfig.name  <name>            ▶ <name>-primary
//! triggers[].metadata.query                    <target>[-canary] ▶ <target>-primary, or what the canary says
//! min, max                                     as in the source, or what the canary says
//! ```

use crate::api::{AutoscalerRef, Canary};
use crate::object::{Expect, Kind, Object, ObjectRef, Patch, Write, kinds};
use crate::workload::metadata::all_that_travel;
use crate::workload::ownership::{PRIMARY_SUFFIX, beside, owner_references};
use crate::workload::{WorkloadError, pod_template};
use serde_json::{Map, Value, json};

/// KEDA's annotation that fixes the replicas of a scaled object.
pub const PAUSED_REPLICAS: &str = "autoscaling.keda.sh/paused-replicas";

/// The resource that an `autoscalerRef` names. The version that the user wrote does not matter: both kinds have one that is served.
fn kind_of(reference: &AutoscalerRef) -> Option<Kind> {
    match reference.kind.as_str() {
        "HorizontalPodAutoscaler" => Some(kinds::HORIZONTAL_POD_AUTOSCALER),
        "ScaledObject" => Some(kinds::SCALED_OBJECT),
        _ => None,
    }
}

/// The user's autoscaler, if the canary names one of a known kind.
#[must_use]
pub fn source(canary: &Canary) -> Option<ObjectRef> {
    let reference = canary.spec.autoscaler_ref.as_ref()?;
    Some(beside(canary, &kind_of(reference)?, &reference.name))
}

/// The primary's autoscaler, if the canary names one of a known kind.
#[must_use]
pub fn primary(canary: &Canary) -> Option<ObjectRef> {
    let mut object = source(canary)?;
    object.name.push_str(PRIMARY_SUFFIX);
    Some(object)
}

/// The primary's copy of the user's autoscaler, ready for server-side apply.
pub fn desired_primary_autoscaler(
    canary: &Canary,
    source: &Object,
) -> Result<Object, WorkloadError> {
    let (Some(reference), Some(object)) = (&canary.spec.autoscaler_ref, primary(canary)) else {
        let kind = canary
            .spec
            .autoscaler_ref
            .as_ref()
            .map_or("", |reference| &reference.kind);
        return Err(WorkloadError::unfit(
            beside(canary, &kinds::CANARY, &canary.metadata.name),
            format!(
                "spec.autoscalerRef.kind is {kind:?}; HorizontalPodAutoscaler or ScaledObject is expected"
            ),
        ));
    };
    let mut spec = source.at("/spec").clone();
    if !spec["scaleTargetRef"].is_object() {
        return Err(WorkloadError::unfit(
            object.kind.named(source.namespace(), source.name()),
            format!(
                "spec.scaleTargetRef is missing; it must name the canary's target {}",
                canary.target_name()
            ),
        ));
    }
    spec["scaleTargetRef"]["name"] = json!(canary.primary_name());
    let is_keda = object.kind == kinds::SCALED_OBJECT;
    let (least, most) = if is_keda {
        ("minReplicaCount", "maxReplicaCount")
    } else {
        ("minReplicas", "maxReplicas")
    };
    if let Some(bounds) = &reference.primary_scaler_replicas {
        for (field, bound) in [(least, bounds.min_replicas), (most, bounds.max_replicas)] {
            if let Some(bound) = bound {
                spec[field] = json!(bound);
            }
        }
    }
    if is_keda {
        rename_keda(&mut spec, canary, reference);
    }
    // A HPA's annotations are bookkeeping of its controller; KEDA's are settings.
    let annotations = if is_keda {
        all_that_travel(&source.annotations())
    } else {
        Map::new()
    };
    Ok(Object::new(json!({
        "apiVersion": object.kind.api_version(),
        "kind": object.kind.kind,
        "metadata": {
            "name": object.name,
            "namespace": object.namespace,
            "labels": all_that_travel(&source.labels()),
            "annotations": annotations,
            "ownerReferences": owner_references(canary),
        },
        "spec": spec,
    })))
}

/// Annotation on the primary's autoscaler: its minimum was raised to this for a promotion.
pub const FLOOR: &str = "serin.dev/floor";

/// How many pods a side needs that takes over the traffic of `replicas` pods, by the bounds of an autoscaler.
#[must_use]
pub fn capacity(autoscaler: &Object, replicas: i64) -> i64 {
    let (least, most) = bounds(autoscaler);
    replicas.max(least).min(most.unwrap_or(i64::MAX))
}

/// What the minimum of a live autoscaler was raised to, if it was.
#[must_use]
pub fn floor(autoscaler: &Object) -> Option<i64> {
    autoscaler.annotation(FLOOR)?.parse().ok()
}

/// The autoscaler with its minimum raised, where that is more than it has.
#[must_use]
pub fn with_floor(mut autoscaler: Object, floor: i64) -> Object {
    let floor = capacity(&autoscaler, floor);
    if floor <= bounds(&autoscaler).0 {
        return autoscaler;
    }
    let least = if is_scaled_object(&autoscaler) {
        "minReplicaCount"
    } else {
        "minReplicas"
    };
    let value = autoscaler.value_mut();
    value["spec"][least] = json!(floor);
    value["metadata"]["annotations"][FLOOR] = json!(floor.to_string());
    autoscaler
}

/// The least and the most replicas that an autoscaler keeps.
fn bounds(autoscaler: &Object) -> (i64, Option<i64>) {
    let number = |hpa: &str, keda: &str| {
        autoscaler
            .number(&format!("/spec/{hpa}"))
            .or_else(|| autoscaler.number(&format!("/spec/{keda}")))
    };
    let least = number("minReplicas", "minReplicaCount").unwrap_or(1).max(1);
    (least, number("maxReplicas", "maxReplicaCount"))
}

fn rename_keda(spec: &mut Value, canary: &Canary, reference: &AutoscalerRef) {
    if let Some(name) = spec.pointer_mut("/advanced/horizontalPodAutoscalerConfig/name")
        && let Some(text) = name.as_str().filter(|text| !text.is_empty())
    {
        *name = json!(format!("{text}{PRIMARY_SUFFIX}"));
    }
    for trigger in pod_template::items(spec, "triggers") {
        let trigger_name = trigger["name"].as_str().unwrap_or_default().to_owned();
        let Some(query) = trigger.pointer_mut("/metadata/query") else {
            continue;
        };
        if reference.primary_scaler_queries.is_empty() {
            if let Some(text) = query.as_str() {
                *query = json!(primary_query(text, canary.target_name()));
            }
        } else if let Some(said) = reference.primary_scaler_queries.get(&trigger_name) {
            *query = json!(said);
        }
    }
}

/// A query about the target made into one about the primary: `<target>-canary`, and `<target>` where it stands for itself, become
/// `<target>-primary`. Other words that begin or end with the name stay (`podinfo_requests_total`, `podinfo-backend`,
/// `my-podinfo`), and so does a label of that name (`app="x"` for a target `app`); Flagger replaces inside words too.
#[must_use]
pub fn primary_query(query: &str, target: &str) -> String {
    const SUFFIXES: [&str; 2] = ["-primary", "-canary"];
    if target.is_empty() {
        return query.to_owned();
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(query.len() + 16);
    let mut rest = query;
    while let Some(position) = rest.find(target) {
        let (before, found) = rest.split_at(position);
        out.push_str(before);
        let mut after = &found[target.len()..];
        let whole_before = !out.ends_with(|c| is_word(c) || c == '-');
        if let Some(tail) = SUFFIXES.iter().find_map(|suffix| {
            after
                .strip_prefix(suffix)
                .filter(|tail| !tail.starts_with(is_word))
        }) && whole_before
        {
            after = tail;
            out.push_str(target);
            out.push_str(PRIMARY_SUFFIX);
        } else {
            let mut next = after.chars();
            let ends_here = match next.next() {
                Some('-') => !next.next().is_some_and(is_word),
                Some(c) => !is_word(c),
                None => true,
            };
            let is_label = matches!(after.trim_start().chars().next(), Some('=' | '!'));
            out.push_str(target);
            if whole_before && ends_here && !is_label {
                out.push_str(PRIMARY_SUFFIX);
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Holds the user's `ScaledObject` at zero while its target is idle. Nothing where it is held already, and for a
/// `HorizontalPodAutoscaler`, which rests by itself when its target has no replicas.
#[must_use]
pub fn pause(source: &Object) -> Option<Write> {
    let wanted = is_scaled_object(source) && source.annotation(PAUSED_REPLICAS) != Some("0");
    wanted.then(|| annotate(source, &json!("0")))
}

/// Lets the user's `ScaledObject` scale again. A pause at another number than zero is the user's own and stays.
#[must_use]
pub fn resume(source: &Object) -> Option<Write> {
    let wanted = is_scaled_object(source) && source.annotation(PAUSED_REPLICAS) == Some("0");
    wanted.then(|| annotate(source, &Value::Null))
}

fn is_scaled_object(source: &Object) -> bool {
    kinds::SCALED_OBJECT.matches(source.api_version(), source.kind())
}

fn annotate(source: &Object, value: &Value) -> Write {
    Write::Patch {
        target: kinds::SCALED_OBJECT.named(source.namespace(), source.name()),
        patch: Patch::Merge(json!({"metadata": {"annotations": {PAUSED_REPLICAS: value}}})),
        expect: Expect::unchanged(source),
    }
}
