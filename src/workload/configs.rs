//! Tracked configs: `ConfigMap`s and `Secret`s that the target's pods use. The primary gets copies, so that an edit reaches it
//! only with a promotion, and an edit starts a run like a new image does. What is tracked and what is shared is told in
//! `docs/configs.md`.

use crate::api::Canary;
use crate::object::{
    Expect, Kind, Object, ObjectRef, Patch, Reading, Write, apply_if_needed, kinds,
};
use crate::workload::metadata::included;
use crate::workload::ownership::{
    PRIMARY_SUFFIX, beside, controls, is_owner, owner_references, refuse_foreign,
};
use crate::workload::{WorkloadError, WorkloadSettings, pod_template};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Annotation on a source: a value that begins with `disable` leaves it shared, one that begins with `enable` has it tracked even
/// where its kind of owner would leave it shared.
pub const CONFIG_TRACKING: &str = "flagger.app/config-tracking";

/// A `ConfigMap` or `Secret` that the pods of a template use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigReference {
    /// `ConfigMap` or `Secret`.
    pub kind: &'static str,
    /// Its name, in the namespace of the canary.
    pub name: String,
    /// Whether pods start without it: only if every mention of it says so.
    pub optional: bool,
}

impl ConfigReference {
    /// The object that is referred to.
    #[must_use]
    pub fn object(&self, canary: &Canary) -> ObjectRef {
        beside(canary, &self.resource(), &self.name)
    }

    /// The primary's copy of it.
    #[must_use]
    pub fn copy(&self, canary: &Canary) -> ObjectRef {
        beside(canary, &self.resource(), &self.copy_name())
    }

    /// Name of the primary's copy.
    #[must_use]
    pub fn copy_name(&self) -> String {
        format!("{}{PRIMARY_SUFFIX}", self.name)
    }

    /// Its key in `status.trackedConfigs`, as Flagger writes it: `configmap/<name>` or `secret/<name>`.
    #[must_use]
    pub fn status_key(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), self.name)
    }

    /// Its key in [`crate::workload::PrimaryRequest::renamed_configs`].
    #[must_use]
    pub fn rename_key(&self) -> (String, String) {
        (self.kind.to_owned(), self.name.clone())
    }

    fn resource(&self) -> Kind {
        if self.kind == "Secret" {
            kinds::SECRET
        } else {
            kinds::CONFIG_MAP
        }
    }
}

/// All references of a pod template, each once, sorted by kind and name.
#[must_use]
pub fn references(template: &Value) -> Vec<ConfigReference> {
    let mut found: BTreeMap<(&'static str, String), bool> = BTreeMap::new();
    for mention in pod_template::config_references(&template["spec"]) {
        let optional = found.entry((mention.kind, mention.name)).or_insert(true);
        *optional &= mention.optional;
    }
    found
        .into_iter()
        .map(|((kind, name), optional)| ConfigReference {
            kind,
            name,
            optional,
        })
        .collect()
}

/// What becomes of one reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// It is copied for the primary, and a change of its checksum is a new revision.
    Copied {
        /// See [`checksum`].
        checksum: String,
    },
    /// Both sides use the original, and a change of it starts nothing. The text, if any, is worth an event.
    Shared(Option<String>),
    /// It does not exist, and the pods may start without it.
    Missing,
    /// It could not be read; nothing may be concluded from that. The text says why.
    Unknown(String),
}

/// Says what becomes of a reference, given its source. A source that is missing and needed is an error.
pub fn track(
    canary: &Canary,
    reference: &ConfigReference,
    source: &Reading,
) -> Result<Tracking, WorkloadError> {
    match source {
        Reading::Unknown(why) => Ok(Tracking::Unknown(why.clone())),
        Reading::Absent if reference.optional => Ok(Tracking::Missing),
        Reading::Absent => Err(WorkloadError::unfit(
            reference.object(canary),
            format!(
                "not found, but the pods of {} need it; create it, or mark each reference to it optional",
                canary.target_name()
            ),
        )),
        Reading::Present(source) => Ok(tracking_of(source)),
    }
}

/// Secrets of these types hold what an application reads; others (tokens, registry logins) belong to the cluster.
const TRACKED_SECRET_TYPES: [&str; 5] = [
    "",
    "Opaque",
    "kubernetes.io/basic-auth",
    "kubernetes.io/ssh-auth",
    "kubernetes.io/tls",
];

/// Annotations and labels by which tools that rotate a Secret mark it even where they are not its owner.
const ROTATION_MARKS: [(&str, &str); 5] = [
    ("cert-manager.io/certificate-name", "cert-manager"),
    (
        "reconcile.external-secrets.io/data-hash",
        "External Secrets",
    ),
    ("reconcile.external-secrets.io/managed", "External Secrets"),
    (
        "reconcile.external-secrets.io/created-by",
        "External Secrets",
    ),
    (
        "secrets.hashicorp.com/vso-ownerRefUID",
        "Vault Secrets Operator",
    ),
];

fn tracking_of(source: &Object) -> Tracking {
    let switch = source.annotation(CONFIG_TRACKING).unwrap_or_default();
    if switch.starts_with("disable") {
        return Tracking::Shared(None);
    }
    if source.kind() == "Secret" && !TRACKED_SECRET_TYPES.contains(&source.text("/type")) {
        return Tracking::Shared(None);
    }
    if !switch.starts_with("enable")
        && let Some(keeper) = keeper(source)
    {
        return Tracking::Shared(Some(format!(
            "{} {} is kept by {keeper}: primary and canary share it, since a copy would go stale when it is rotated \
             (annotate it with {CONFIG_TRACKING}: enabled to have it copied)",
            source.kind(),
            source.name(),
        )));
    }
    Tracking::Copied {
        checksum: checksum(source),
    }
}

/// Who rewrites the source by itself, if somebody does.
fn keeper(source: &Object) -> Option<String> {
    if let Some(owner) = source.controller_owner() {
        return Some(format!("{} {}", owner.kind, owner.name));
    }
    let labels = source.labels();
    ROTATION_MARKS
        .iter()
        .find(|(mark, _)| source.annotation(mark).is_some() || labels.contains_key(*mark))
        .map(|(_, keeper)| (*keeper).to_owned())
}

/// The first eight bytes, in hexadecimal, of a SHA-256 over `data` and, where there is any, `binaryData`. Without binary data it is
/// Flagger's checksum, byte for byte, so a canary that comes over from Flagger starts no run.
#[must_use]
pub fn checksum(source: &Object) -> String {
    let mut text = go_json(source.at("/data"));
    if source
        .at("/binaryData")
        .as_object()
        .is_some_and(|map| !map.is_empty())
    {
        text.push('\n');
        text.push_str(&go_json(source.at("/binaryData")));
    }
    Sha256::digest(text.as_bytes())
        .iter()
        .take(8)
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A string map as Go's `encoding/json` writes it: keys sorted, and what HTML could misread escaped.
fn go_json(map: &Value) -> String {
    let Some(map) = map.as_object() else {
        return "null".to_owned();
    };
    let sorted: BTreeMap<&String, &Value> = map.iter().collect();
    json!(sorted)
        .to_string()
        .chars()
        .fold(String::new(), |mut text, c| {
            match c {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    let _ = write!(text, "\\u{:04x}", u32::from(c));
                }
                c => text.push(c),
            }
            text
        })
}

/// The deletion of the copy of a config that the primary does not read any more, named by its key in `status.trackedConfigs`. Only what
/// this canary alone owns goes; `None` where there is nothing of ours, or where it is not known.
#[must_use]
pub fn forget_copy(live: &Object, canary: &Canary) -> Option<Write> {
    let owners = live.at("/metadata/ownerReferences").as_array()?;
    let ours = controls(canary, live) && owners.len() == 1 && !live.is_deleting();
    let kind = if live.kind() == "Secret" {
        kinds::SECRET
    } else {
        kinds::CONFIG_MAP
    };
    ours.then(|| Write::Delete {
        target: beside(canary, &kind, live.name()),
        expect: Expect::unchanged(live),
    })
}

/// The copy that belongs to a key of `status.trackedConfigs`; `None` for a key that is none.
#[must_use]
pub fn copy_of_key(canary: &Canary, key: &str) -> Option<ObjectRef> {
    let (kind, name) = key.split_once('/')?;
    let kind = match kind {
        "secret" => "Secret",
        "configmap" => "ConfigMap",
        _ => return None,
    };
    let reference = ConfigReference {
        kind,
        name: name.to_owned(),
        optional: true,
    };
    Some(reference.copy(canary))
}

/// The primary's copy of a source, ready for server-side apply. `immutable` is not copied, since the next promotion must be
/// able to change the copy. A copy that serves several canaries keeps all of them as owners; its controller is the first.
#[must_use]
pub fn desired_copy(
    canary: &Canary,
    source: &Object,
    live: &Reading,
    settings: &WorkloadSettings,
) -> Object {
    let mut copy = json!({
        "apiVersion": "v1",
        "kind": source.kind(),
        "metadata": {
            "name": format!("{}{PRIMARY_SUFFIX}", source.name()),
            "namespace": canary.metadata.namespace,
            "labels": included(&source.labels(), settings),
            "ownerReferences": owners(canary, live),
        },
    });
    for field in ["data", "binaryData", "type"] {
        let value = source.at("").get(field).unwrap_or(&Value::Null);
        if !value.is_null() {
            copy[field] = value.clone();
        }
    }
    Object::new(copy)
}

/// This canary, and the other canaries that own the live copy already.
fn owners(canary: &Canary, live: &Reading) -> Vec<Value> {
    let other_canaries: Vec<&Value> = live
        .object()
        .into_iter()
        .flat_map(|live| {
            live.at("/metadata/ownerReferences")
                .as_array()
                .into_iter()
                .flatten()
        })
        .filter(|owner| owner["kind"].as_str() == Some(&kinds::CANARY.kind))
        .filter(|owner| owner["uid"].as_str() != canary.metadata.uid.as_deref())
        .collect();
    let has_controller = other_canaries
        .iter()
        .any(|owner| owner["controller"] == true);
    let mut own = owner_references(canary);
    if let Some(own) = own.get_mut(0) {
        own["controller"] = json!(!has_controller);
    }
    let mut owners: Vec<Value> = own.as_array().cloned().unwrap_or_default();
    owners.extend(other_canaries.into_iter().cloned());
    // In one order for all, or each canary would see another's copy as not its own.
    owners.sort_by_key(|owner| owner["uid"].as_str().unwrap_or_default().to_owned());
    owners
}

/// The write that brings the primary's copy to what its source says now; none where it says so. To be carried out when the primary
/// is made and at each promotion, before the primary's template.
pub fn copy_if_needed(
    canary: &Canary,
    source: &Object,
    live: &Reading,
    settings: &WorkloadSettings,
) -> Result<Option<Write>, WorkloadError> {
    let desired = desired_copy(canary, source, live, settings);
    let kind = if source.kind() == "Secret" {
        kinds::SECRET
    } else {
        kinds::CONFIG_MAP
    };
    let object = beside(canary, &kind, desired.name());
    if let Some(found) = live.object() {
        let owned_by_a_canary = found
            .controller_owner()
            .is_some_and(|owner| owner.kind == kinds::CANARY.kind && !is_owner(canary, &owner));
        if !owned_by_a_canary {
            refuse_foreign(canary, &object, live)?;
        }
        // An apply removes only what it applied before; keys of another writer would reach the primary's pods.
        let stale: Map<String, Value> = ["data", "binaryData"]
            .into_iter()
            .filter_map(|field| Some((field.to_owned(), stale_keys(found, &desired, field)?)))
            .collect();
        if !stale.is_empty() {
            return Ok(Some(Write::Patch {
                target: object,
                patch: Patch::Merge(Value::Object(stale)),
                expect: Expect::unchanged(found),
            }));
        }
    }
    Ok(apply_if_needed(&kind, desired, live))
}

/// The merge patch that removes what `desired` does not have, if there is something.
fn stale_keys(live: &Object, desired: &Object, field: &str) -> Option<Value> {
    let stale: Map<String, Value> = live
        .at("")
        .get(field)?
        .as_object()?
        .keys()
        .filter(|key| desired.at("")[field].get(key.as_str()).is_none())
        .map(|key| (key.clone(), Value::Null))
        .collect();
    (!stale.is_empty()).then_some(Value::Object(stale))
}
