//! Taking over from Flagger what it wrote. Server-side apply removes only fields that the same manager applied before; what Flagger
//! wrote by update would stay for ever, so that a container which left the template would go on running in the primary. The
//! remedy is client-go's (`csaupgrade`): Flagger's entry in `metadata.managedFields` becomes part of ours, before the first apply.

use super::{Expect, Kind, Object, Patch, Write};
use serde_json::{Map, Value, json};

/// Serin's field manager.
pub const FIELD_MANAGER: &str = "serin";
const PREDECESSOR: &str = "flagger";

/// The patch that makes Flagger's fields of `live` ours; nothing where Flagger has none. Replicas stay Flagger's: an apply that leaves
/// them to an autoscaler would drop them as ours, and the API server would put 1 in their place.
#[must_use]
pub(super) fn inherit(kind: &Kind, live: &Object) -> Option<Write> {
    let entries = live.at("/metadata/managedFields").as_array()?;
    let is_predecessors = |entry: &Value| {
        entry["manager"] == PREDECESSOR
            && entry["operation"] == "Update"
            && entry["subresource"].as_str().unwrap_or_default().is_empty()
    };
    let is_ours = |entry: &Value| {
        entry["manager"] == FIELD_MANAGER
            && entry["operation"] == "Apply"
            && entry["subresource"].as_str().unwrap_or_default().is_empty()
    };
    let mut inherited = Value::Object(Map::new());
    let mut api_version = Value::Null;
    let mut left = Vec::new();
    for entry in entries.iter().filter(|entry| is_predecessors(entry)) {
        let mut fields = entry["fieldsV1"].clone();
        let replicas = fields
            .get_mut("f:spec")
            .and_then(Value::as_object_mut)
            .and_then(|spec| spec.remove("f:replicas"));
        if let Some(replicas) = replicas {
            let mut entry = entry.clone();
            entry["fieldsV1"] = json!({"f:spec": {"f:replicas": replicas}});
            left.push(entry);
        }
        unite(&mut inherited, &fields);
        api_version = entry["apiVersion"].clone();
    }
    let is_nothing = |fields: &Value| match fields.as_object() {
        Some(map) => map.is_empty() || *fields == json!({"f:spec": {}}),
        None => true,
    };
    if is_nothing(&inherited) {
        return None;
    }
    let mut heir = entries
        .iter()
        .find(|entry| is_ours(entry))
        .cloned()
        .unwrap_or_else(|| {
            json!({
                "manager": FIELD_MANAGER,
                "operation": "Apply",
                "apiVersion": api_version,
                "fieldsType": "FieldsV1",
                "fieldsV1": {},
            })
        });
    unite(&mut heir["fieldsV1"], &inherited);
    let others = entries
        .iter()
        .filter(|entry| !is_predecessors(entry) && !is_ours(entry))
        .cloned();
    let all: Vec<Value> = std::iter::once(heir).chain(left).chain(others).collect();
    Some(Write::Patch {
        target: kind.named(live.namespace(), live.name()),
        patch: Patch::Json(vec![
            json!({"op": "replace", "path": "/metadata/managedFields", "value": all}),
        ]),
        expect: Expect::unchanged(live),
    })
}

/// Whether Flagger has fields in `live` that [`inherit`] would make ours; caches keep `metadata.managedFields` whole as long as it has.
#[must_use]
pub fn has_inheritance(kind: &Kind, live: &Object) -> bool {
    inherit(kind, live).is_some()
}

/// The union of two sets of fields in the `FieldsV1` form.
fn unite(into: &mut Value, from: &Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        for (field, below) in from {
            unite(
                into.entry(field.clone())
                    .or_insert_with(|| Value::Object(Map::new())),
                below,
            );
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::object::{Reading, apply_if_needed, kinds};
    use std::sync::Arc;

    fn made_by_flagger() -> Object {
        Object::new(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "1", "managedFields": [
                {"manager": "flagger", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
                 "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"old\"}": {}}}}}}},
                {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status"},
            ]},
        }))
    }

    fn inherited(live: &Object) -> Option<Vec<Value>> {
        match inherit(&kinds::DEPLOYMENT, live)? {
            Write::Patch {
                patch: Patch::Json(operations),
                ..
            } => Some(operations[0]["value"].as_array().unwrap().clone()),
            other => panic!("a JSON patch is expected, found {other:?}"),
        }
    }

    #[test]
    fn flaggers_fields_become_ours_but_for_the_replicas() {
        let entries = inherited(&made_by_flagger()).unwrap();
        assert_eq!(entries[0]["manager"], "serin");
        assert_eq!(entries[0]["operation"], "Apply");
        assert!(entries[0]["fieldsV1"]["f:spec"].get("f:template").is_some());
        assert!(entries[0]["fieldsV1"]["f:spec"].get("f:replicas").is_none());
        assert_eq!(
            entries[1]["fieldsV1"],
            json!({"f:spec": {"f:replicas": {}}})
        );
        assert_eq!(entries[2]["manager"], "kube-controller-manager");
    }

    #[test]
    fn what_is_inherited_is_not_inherited_again() {
        let mut live = made_by_flagger();
        let entries = inherited(&live).unwrap();
        live.value_mut()["metadata"]["managedFields"] = Value::Array(entries);
        assert_eq!(inherited(&live), None);
    }

    #[test]
    fn an_apply_waits_for_the_inheritance() {
        let live = Reading::Present(Arc::new(made_by_flagger()));
        let desired = Object::new(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "p", "namespace": "n"}}),
        );
        let write = apply_if_needed(&kinds::DEPLOYMENT, desired.clone(), &live);
        assert!(matches!(write, Some(Write::Patch { .. })), "{write:?}");
        let write = apply_if_needed(&kinds::DEPLOYMENT, desired, &Reading::Absent);
        assert!(matches!(write, Some(Write::Apply { .. })), "{write:?}");
    }
}
