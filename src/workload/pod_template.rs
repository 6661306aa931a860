//! The pod template of the primary: the kept template with the renames that tell the two sides apart, and nothing else (I3).
//!
//! ```text
//! metadata.labels[L]                      V          ▶ V-primary
//! metadata.annotations[flagger-id]        –          ▶ derived from revision and configs
//! volumes, env, envFrom                   config     ▶ config-primary, where it is tracked
//! podAntiAffinity, topologySpreadConstraints  L = V  ▶ L = V-primary
//! ```

use crate::workload::metadata::drop_toolkit_keys;
use crate::workload::ownership::PRIMARY_SUFFIX;
use crate::workload::{PrimaryRequest, SelectorLabel};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Annotation on the primary's pods that changes with every promotion that must restart them.
pub(super) const FLAGGER_ID: &str = "flagger-id";

/// The value of `flagger-id` for a revision and the digest of its tracked configs, in the form of a UUID (version 8, RFC 9562).
/// Flagger puts a random one, so that every promotion restarts the primary; this one changes exactly when the pods would
/// see something new, so promoting what runs already restarts nothing.
#[must_use]
pub fn flagger_id(revision: &str, configs: &str) -> String {
    let digest = crate::object::digest(&json!([revision, configs]));
    format!(
        "{}-{}-8{}-a{}-{}",
        &digest[..8],
        &digest[8..12],
        &digest[12..15],
        &digest[15..18],
        &digest[18..30]
    )
}

/// The kept template with the primary's renames.
pub(super) fn primary_template(request: &PrimaryRequest<'_>) -> Value {
    let mut template = renamed(
        request.template,
        request.canary.target_name(),
        request.selector,
        request.renamed_configs,
    );
    template["metadata"]["annotations"][FLAGGER_ID] = Value::String(request.flagger_id.to_owned());
    template
}

fn renamed(
    template: &Value,
    target: &str,
    selector: &SelectorLabel,
    configs: &BTreeMap<(String, String), String>,
) -> Value {
    let mut template = json!({
        "metadata": template["metadata"],
        "spec": template["spec"],
    });
    let metadata = &mut template["metadata"];
    for field in ["labels", "annotations"] {
        if !metadata[field].is_object() {
            metadata[field] = json!({});
        }
        drop_toolkit_keys(&mut metadata[field]);
    }
    metadata["labels"][&selector.key] = Value::String(selector.primary_value());
    if let Some(metadata) = metadata.as_object_mut() {
        // A null timestamp is what older API servers and generators leave here; as an applied field it would be ours.
        metadata.remove("creationTimestamp");
    }
    visit_config_references(&mut template["spec"], &mut |reference| {
        let key = (reference.kind.to_owned(), reference.name.clone());
        if let Some(copy) = configs.get(&key) {
            reference.name.clone_from(copy);
        }
    });
    spread_among_primaries(&mut template["spec"], target, selector);
    for containers in ["initContainers", "containers"] {
        for container in items(&mut template["spec"], containers) {
            keep_last_of_each_name(container.get_mut("env"));
        }
    }
    template
}

/// The template that a primary of Flagger's was made from, as far as its renames are known: made into a primary again it gives the same
/// pods. Names of copied configs stay as they are, since the copies are what that revision was judged with.
pub(super) fn found_template(mut template: Value, selector: &SelectorLabel) -> Value {
    let metadata = &mut template["metadata"];
    metadata["labels"][&selector.key] = Value::String(selector.value.clone());
    if let Some(annotations) = metadata["annotations"].as_object_mut() {
        annotations.remove(FLAGGER_ID);
    }
    if metadata["annotations"]
        .as_object()
        .is_none_or(Map::is_empty)
        && let Some(metadata) = metadata.as_object_mut()
    {
        metadata.remove("annotations");
    }
    template
}

/// Pods may name a variable twice, and the last one counts; server-side apply takes each name once.
fn keep_last_of_each_name(variables: Option<&mut Value>) {
    let Some(variables) = variables.and_then(Value::as_array_mut) else {
        return;
    };
    let names: Vec<Value> = variables
        .iter()
        .map(|variable| variable["name"].clone())
        .collect();
    let mut position = 0;
    variables.retain(|_| {
        position += 1;
        !names[position..].contains(&names[position - 1])
    });
}

/// Whether `primary_template`, as it runs, is what `template` would be made into. Tracked configs are taken from the names that
/// the running template uses; `flagger-id` does not count. By this a canary that comes over from Flagger, whose hashes Serin can't
/// reproduce, is adopted without starting a run. Both sides must have the API server's defaults.
#[must_use]
pub fn runs_template(
    primary_template: &Value,
    template: &Value,
    target: &str,
    selector: &SelectorLabel,
) -> bool {
    let copies: Vec<(&'static str, String)> = config_references(&primary_template["spec"])
        .into_iter()
        .map(|reference| (reference.kind, reference.name))
        .collect();
    let configs = config_references(&template["spec"])
        .into_iter()
        .map(|reference| {
            let copy = format!("{}{PRIMARY_SUFFIX}", reference.name);
            ((reference.kind.to_owned(), reference.name), copy)
        })
        .filter(|((kind, _), copy)| copies.iter().any(|(k, name)| k == kind && name == copy))
        .collect();
    let mut running = json!({
        "metadata": primary_template["metadata"],
        "spec": primary_template["spec"],
    });
    if let Some(annotations) = running["metadata"]["annotations"].as_object_mut() {
        annotations.remove(FLAGGER_ID);
    }
    drop_toolkit_keys(&mut running["metadata"]["annotations"]);
    drop_toolkit_keys(&mut running["metadata"]["labels"]);
    for containers in ["initContainers", "containers"] {
        for container in items(&mut running["spec"], containers) {
            keep_last_of_each_name(container.get_mut("env"));
        }
    }
    crate::object::digest(&running)
        == crate::object::digest(&renamed(template, target, selector, &configs))
}

/// One place in a pod spec that names a `ConfigMap` or a `Secret`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mention {
    /// `ConfigMap` or `Secret`.
    pub kind: &'static str,
    /// Its name; a visitor may change it.
    pub name: String,
    /// Whether the pod may start without it.
    pub optional: bool,
}

/// Where a source object holds a reference, by kind: member, and the member of that which holds the name.
const VOLUME_SOURCES: [(&str, &str, &str); 2] = [
    ("configMap", "name", "ConfigMap"),
    ("secret", "secretName", "Secret"),
];
const PROJECTED_SOURCES: [(&str, &str, &str); 2] = [
    ("configMap", "name", "ConfigMap"),
    ("secret", "name", "Secret"),
];
const ENV_VALUES: [(&str, &str, &str); 2] = [
    ("configMapKeyRef", "name", "ConfigMap"),
    ("secretKeyRef", "name", "Secret"),
];
const ENV_FROM: [(&str, &str, &str); 2] = [
    ("configMapRef", "name", "ConfigMap"),
    ("secretRef", "name", "Secret"),
];

/// Calls `visitor` for each mention of a `ConfigMap` or `Secret` in a pod spec and writes a changed name back. Seen are volumes
/// (plain and projected), `env` and `envFrom` of containers and init containers; not seen are CSI drivers, pull secrets and
/// ephemeral containers.
pub(super) fn visit_config_references(spec: &mut Value, visitor: &mut dyn FnMut(&mut Mention)) {
    for volume in items(spec, "volumes") {
        visit_source(volume, &VOLUME_SOURCES, visitor);
        if let Some(projected) = volume.get_mut("projected") {
            for source in items(projected, "sources") {
                visit_source(source, &PROJECTED_SOURCES, visitor);
            }
        }
    }
    for containers in ["initContainers", "containers"] {
        for container in items(spec, containers) {
            for variable in items(container, "env") {
                if let Some(from) = variable.get_mut("valueFrom") {
                    visit_source(from, &ENV_VALUES, visitor);
                }
            }
            for source in items(container, "envFrom") {
                visit_source(source, &ENV_FROM, visitor);
            }
        }
    }
}

/// All mentions in a pod spec, in the order in which they stand.
pub(super) fn config_references(spec: &Value) -> Vec<Mention> {
    let mut found = Vec::new();
    visit_config_references(&mut spec.clone(), &mut |mention| {
        found.push(mention.clone());
    });
    found
}

fn visit_source(
    holder: &mut Value,
    sources: &[(&str, &str, &'static str)],
    visitor: &mut dyn FnMut(&mut Mention),
) {
    for (member, name_field, kind) in sources {
        let Some(source) = holder.get_mut(*member) else {
            continue;
        };
        let Some(name) = source[*name_field].as_str().filter(|name| !name.is_empty()) else {
            continue;
        };
        let mut mention = Mention {
            kind,
            name: name.to_owned(),
            optional: source["optional"].as_bool().unwrap_or(false),
        };
        let before = mention.name.clone();
        visitor(&mut mention);
        if mention.name != before {
            source[*name_field] = Value::String(mention.name);
        }
    }
}

/// The elements of a list member, none where there is no list. Never adds the member.
pub(super) fn items<'a>(
    holder: &'a mut Value,
    member: &str,
) -> impl Iterator<Item = &'a mut Value> {
    holder
        .get_mut(member)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Pods that keep away from their own kind shall do so among the primaries. Flagger rewrites the target's name under every
/// selector label; here only the label that really differs between the sides is rewritten, since the primary's pods carry the
/// others unchanged and a rewritten term would match no pod at all.
fn spread_among_primaries(spec: &mut Value, target: &str, selector: &SelectorLabel) {
    const SCHEDULING: &str = "DuringSchedulingIgnoredDuringExecution";
    if let Some(anti) = spec.pointer_mut("/affinity/podAntiAffinity") {
        for term in items(anti, &format!("required{SCHEDULING}")) {
            rewrite_selector(term.get_mut("labelSelector"), target, selector);
        }
        for weighted in items(anti, &format!("preferred{SCHEDULING}")) {
            rewrite_selector(
                weighted.pointer_mut("/podAffinityTerm/labelSelector"),
                target,
                selector,
            );
        }
    }
    for constraint in items(spec, "topologySpreadConstraints") {
        rewrite_selector(constraint.get_mut("labelSelector"), target, selector);
    }
}

fn rewrite_selector(found: Option<&mut Value>, target: &str, selector: &SelectorLabel) {
    let Some(found) = found else { return };
    let rewrite = |value: &mut Value| {
        if let Some(text) = value.as_str()
            && (text == target || text == selector.value)
        {
            *value = Value::String(format!("{text}{PRIMARY_SUFFIX}"));
        }
    };
    if let Some(value) = found
        .get_mut("matchLabels")
        .and_then(|labels| labels.get_mut(&selector.key))
    {
        rewrite(value);
    }
    for expression in items(found, "matchExpressions") {
        if expression["key"].as_str() == Some(&selector.key) {
            items(expression, "values").for_each(rewrite);
        }
    }
}
