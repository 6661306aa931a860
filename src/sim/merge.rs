//! How the API server merges: server-side apply with ownership of fields, merge patches, JSON patches, and the defaults that it fills
//! in. What a manager owns is kept as the JSON that it applied last, less what others changed since.

use crate::object::{Kind, kinds};
use serde_json::{Map, Value, json};

/// Keys by which the elements of a list are told apart; `None` for a list that is replaced as a whole.
fn list_keys(field: &str, elements: &[Value]) -> Option<&'static [&'static str]> {
    match field {
        "containers" | "initContainers" | "env" | "volumes" => Some(&["name"]),
        "volumeMounts" => Some(&["mountPath"]),
        "ownerReferences" => Some(&["uid"]),
        "ports"
            if elements
                .iter()
                .any(|port| port.get("containerPort").is_some()) =>
        {
            Some(&["containerPort", "protocol"])
        }
        "ports" => Some(&["port", "protocol"]),
        _ => None,
    }
}

fn same_element(one: &Value, other: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| {
        let of = |value: &Value| match (&value[*key], *key) {
            // The API server fills the protocol in before it compares.
            (Value::Null, "protocol") => json!("TCP"),
            (found, _) => found.clone(),
        };
        of(one) == of(other)
    })
}

/// Merges what a manager applies into `live`. `before` is what it owned until now: of that, what it applies no more goes, unless one
/// of `others` owns it too.
pub fn apply(live: &mut Value, applied: &Value, before: Option<&Value>, others: &[&Value]) {
    apply_field("", live, applied, before, others);
}

fn apply_field(
    field: &str,
    live: &mut Value,
    applied: &Value,
    before: Option<&Value>,
    others: &[&Value],
) {
    match applied {
        Value::Object(wanted) => {
            if !live.is_object() {
                *live = json!({});
            }
            let Some(map) = live.as_object_mut() else {
                return;
            };
            for (key, value) in wanted {
                let others: Vec<&Value> =
                    others.iter().filter_map(|other| other.get(key)).collect();
                let before = before.and_then(|before| before.get(key));
                let slot = map.entry(key.clone()).or_insert(Value::Null);
                apply_field(key, slot, value, before, &others);
            }
            for (key, owned) in before.and_then(Value::as_object).into_iter().flatten() {
                if wanted.contains_key(key) {
                    continue;
                }
                let others: Vec<&Value> =
                    others.iter().filter_map(|other| other.get(key)).collect();
                if let Some(slot) = map.get_mut(key)
                    && release(key, slot, owned, &others)
                {
                    map.remove(key);
                }
            }
        }
        Value::Array(wanted) => {
            let Some(keys) = list_keys(field, wanted) else {
                *live = applied.clone();
                return;
            };
            let before = before.and_then(Value::as_array);
            let mut merged = live.as_array().cloned().unwrap_or_default();
            if let Some(before) = before {
                merged.retain(|item| {
                    let dropped = before.iter().any(|owned| same_element(owned, item, keys))
                        && !wanted.iter().any(|kept| same_element(kept, item, keys));
                    let shared = others
                        .iter()
                        .filter_map(|other| other.as_array())
                        .flatten()
                        .any(|other| same_element(other, item, keys));
                    !dropped || shared
                });
            }
            for item in wanted {
                let owned = before
                    .and_then(|before| before.iter().find(|owned| same_element(owned, item, keys)));
                match merged
                    .iter_mut()
                    .find(|found| same_element(found, item, keys))
                {
                    Some(found) => apply_field("", found, item, owned, &[]),
                    None => merged.push(item.clone()),
                }
            }
            *live = Value::Array(merged);
        }
        scalar => *live = scalar.clone(),
    }
}

/// Takes out of `live` what only its former owner owned. True when nothing is left that is worth keeping.
fn release(field: &str, live: &mut Value, owned: &Value, others: &[&Value]) -> bool {
    match (live, owned) {
        (Value::Object(live), Value::Object(owned)) => {
            for (key, value) in owned {
                let others: Vec<&Value> =
                    others.iter().filter_map(|other| other.get(key)).collect();
                if let Some(slot) = live.get_mut(key)
                    && release(key, slot, value, &others)
                {
                    live.remove(key);
                }
            }
            live.is_empty() && others.is_empty()
        }
        (Value::Array(live), Value::Array(owned)) => {
            if let Some(keys) = list_keys(field, owned) {
                live.retain(|item| !owned.iter().any(|gone| same_element(gone, item, keys)));
                live.is_empty() && others.is_empty()
            } else {
                others.is_empty()
            }
        }
        _ => others.is_empty(),
    }
}

/// Takes from `owned` what somebody else changed: fields whose value differs between `before` and `after` have a new owner.
pub fn disown(owned: &mut Value, before: &Value, after: &Value) {
    let Some(map) = owned.as_object_mut() else {
        return;
    };
    map.retain(|key, part| {
        let (old, new) = (&before[key.as_str()], &after[key.as_str()]);
        if old == new {
            return true;
        }
        if part.is_object() && old.is_object() && new.is_object() {
            disown(part, old, new);
            return true;
        }
        false
    });
}

/// Whether [`disown`] would take anything away.
#[must_use]
pub fn disowns(owned: &Value, before: &Value, after: &Value) -> bool {
    let Some(map) = owned.as_object() else {
        return false;
    };
    map.iter().any(|(key, part)| {
        let (old, new) = (&before[key.as_str()], &after[key.as_str()]);
        if old == new {
            return false;
        }
        if part.is_object() && old.is_object() && new.is_object() {
            return disowns(part, old, new);
        }
        true
    })
}

/// RFC 7386.
pub fn merge_patch(live: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *live = patch.clone();
        return;
    };
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    let Some(map) = live.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge_patch(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Kubernetes' strategic merge patch: a merge patch whose lists of keyed elements are merged element by element. Of its directives the one
/// that deletes an element or a map, and the one that replaces them whole, are carried out; those about order and retained keys are passed over.
pub fn strategic_patch(live: &mut Value, patch: &Value) {
    strategic_field("", live, patch);
}

fn strategic_field(field: &str, live: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) => {
            if !live.is_object() || patch.get("$patch").is_some_and(|word| word == "replace") {
                *live = json!({});
            }
            let Some(map) = live.as_object_mut() else {
                return;
            };
            for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
                if value.is_null() || value["$patch"] == "delete" {
                    map.remove(key);
                } else {
                    strategic_field(key, map.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        Value::Array(wanted) => {
            let replaced = wanted.iter().any(|item| item["$patch"] == "replace");
            let keys = if field == "conditions" {
                Some(&["type"] as &[&str])
            } else {
                list_keys(field, wanted)
            };
            // Here a port is known by its number alone.
            let keys = keys.map(|keys| &keys[..1]);
            let (Some(keys), false) = (keys, replaced) else {
                let kept = wanted.iter().filter(|item| item.get("$patch").is_none());
                *live = Value::Array(kept.cloned().collect());
                return;
            };
            let mut merged = live.as_array().cloned().unwrap_or_default();
            for item in wanted {
                let place = merged
                    .iter()
                    .position(|found| same_element(found, item, keys));
                match place {
                    Some(place) if item["$patch"] == "delete" => {
                        merged.remove(place);
                    }
                    Some(place) => strategic_field("", &mut merged[place], item),
                    None if item["$patch"] == "delete" => {}
                    None => merged.push(item.clone()),
                }
            }
            *live = Value::Array(merged);
        }
        scalar => *live = scalar.clone(),
    }
}

/// RFC 6902, the operations that are in use. The error says which test failed or what is not there.
pub fn json_patch(live: &mut Value, operations: &[Value]) -> Result<(), String> {
    for operation in operations {
        let path = operation["path"].as_str().unwrap_or_default();
        match operation["op"].as_str().unwrap_or_default() {
            "test" => {
                if live.pointer(path) != Some(&operation["value"]) {
                    return Err(format!("the test of {path} failed"));
                }
            }
            "replace" if live.pointer(path).is_some() => {
                if let Some(slot) = live.pointer_mut(path) {
                    *slot = operation["value"].clone();
                }
            }
            "add" | "remove" => {
                let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
                let key = last.replace("~1", "/").replace("~0", "~");
                let slot = live
                    .pointer_mut(parent)
                    .ok_or_else(|| format!("{parent} is not there"))?;
                let remove = operation["op"] == "remove";
                match slot {
                    Value::Object(map) if remove => {
                        map.remove(&key)
                            .ok_or_else(|| format!("{path} is not there"))?;
                    }
                    Value::Object(map) => {
                        map.insert(key, operation["value"].clone());
                    }
                    Value::Array(items) if remove => match key.parse::<usize>() {
                        Ok(position) if position < items.len() => {
                            items.remove(position);
                        }
                        _ => return Err(format!("{path} is not there")),
                    },
                    Value::Array(items) => match key.parse::<usize>() {
                        Ok(position) if position < items.len() => {
                            items.insert(position, operation["value"].clone());
                        }
                        _ => items.push(operation["value"].clone()),
                    },
                    _ => return Err(format!("{path} can't be changed")),
                }
            }
            other => return Err(format!("{other} of {path} is not possible")),
        }
    }
    Ok(())
}

fn fill(map: &mut Value, key: &str, value: Value) {
    if map[key].is_null() {
        map[key] = value;
    }
}

fn elements<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    value
        .pointer_mut(pointer)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// An address for a Service; the same for the same name.
fn cluster_ip(service: &Value) -> String {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let sum = name.bytes().fold(0_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    format!("10.0.{}.{}", sum / 250 % 250, sum % 250 + 1)
}

/// Fills in what the API server fills in.
pub fn defaults(kind: &Kind, object: &mut Value) {
    if *kind == kinds::DEPLOYMENT || *kind == kinds::DAEMON_SET {
        if *kind == kinds::DEPLOYMENT {
            fill(&mut object["spec"], "replicas", json!(1));
            fill(&mut object["spec"], "progressDeadlineSeconds", json!(600));
        }
        fill(&mut object["spec"], "revisionHistoryLimit", json!(10));
        let pod = &mut object["spec"]["template"]["spec"];
        fill(pod, "restartPolicy", json!("Always"));
        fill(pod, "terminationGracePeriodSeconds", json!(30));
        for container in elements(pod, "/containers") {
            fill(container, "imagePullPolicy", json!("IfNotPresent"));
            for port in elements(container, "/ports") {
                fill(port, "protocol", json!("TCP"));
            }
        }
    } else if *kind == kinds::SERVICE {
        fill(&mut object["spec"], "type", json!("ClusterIP"));
        let address = cluster_ip(object);
        fill(&mut object["spec"], "clusterIP", json!(address));
        fill(&mut object["spec"], "sessionAffinity", json!("None"));
        for port in elements(object, "/spec/ports") {
            fill(port, "protocol", json!("TCP"));
        }
    } else if *kind == kinds::HTTP_ROUTE {
        for parent in elements(object, "/spec/parentRefs") {
            fill(parent, "group", json!("gateway.networking.k8s.io"));
            fill(parent, "kind", json!("Gateway"));
        }
        for rule in elements(object, "/spec/rules") {
            if rule["matches"].as_array().is_none_or(Vec::is_empty) {
                rule["matches"] = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
            }
            for backend in elements(rule, "/backendRefs") {
                fill(backend, "group", json!(""));
                fill(backend, "kind", json!("Service"));
                fill(backend, "weight", json!(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_applied_no_more_go_and_foreign_ones_stay() {
        let mut live = json!({"metadata": {"annotations": {"ours": "1", "foreign": "2"}}, "spec": {"a": 1, "b": 2}});
        let before = json!({"metadata": {"annotations": {"ours": "1"}}, "spec": {"a": 1}});
        apply(&mut live, &json!({"spec": {"c": 3}}), Some(&before), &[]);
        assert_eq!(
            live,
            json!({"metadata": {"annotations": {"foreign": "2"}}, "spec": {"b": 2, "c": 3}})
        );
    }

    #[test]
    fn containers_merge_by_name_and_routes_are_replaced() {
        let mut live = json!({"containers": [{"name": "proxy"}, {"name": "app", "image": "a:1", "tty": true}], "rules": [1, 2]});
        apply(
            &mut live,
            &json!({"containers": [{"name": "app", "image": "a:2"}], "rules": [3]}),
            None,
            &[],
        );
        assert_eq!(
            live,
            json!({"containers": [{"name": "proxy"}, {"name": "app", "image": "a:2", "tty": true}], "rules": [3]})
        );
    }

    #[test]
    fn a_strategic_patch_merges_containers_and_variables_and_deletes_what_it_names() {
        let mut live = json!({"spec": {"containers": [
            {"name": "app", "image": "a:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"name": "proxy", "image": "p:1"},
        ], "args": ["x"]}});
        strategic_patch(
            &mut live,
            &json!({"spec": {"$setElementOrder/containers": [{"name": "app"}], "args": ["y"], "containers": [
                {"name": "app", "image": "a:2", "env": [{"name": "B", "$patch": "delete"}, {"name": "C", "value": "3"}]},
                {"name": "proxy", "$patch": "delete"},
            ]}}),
        );
        assert_eq!(
            live,
            json!({"spec": {"containers": [
                {"name": "app", "image": "a:2", "env": [{"name": "A", "value": "1"}, {"name": "C", "value": "3"}]},
            ], "args": ["y"]}})
        );
    }

    #[test]
    fn what_others_changed_is_owned_no_more() {
        let mut owned = json!({"spec": {"replicas": 1, "paused": false}});
        disown(
            &mut owned,
            &json!({"spec": {"replicas": 1, "paused": false}}),
            &json!({"spec": {"replicas": 3, "paused": false}}),
        );
        assert_eq!(owned, json!({"spec": {"paused": false}}));
    }
}
