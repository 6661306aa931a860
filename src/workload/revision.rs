//! Kept revisions: the pod templates that were promoted or are being judged, each as an `apps/v1` `ControllerRevision` owned by
//! its Canary. The primary is made from these and never from the live target, so what runs is what was judged (I3), and a
//! deleted primary comes back as it was.
//!
//! ```text
//! metadata.name         <canary>-<first ten digits of the hash>
//! metadata.annotations  serin.dev/configs: checksums of the tracked configs (these may change, data may not)
//! data                  revision: s1:…   template: {…}
//! revision              number of the run
//! ```

use crate::api::Canary;
use crate::object::{Object, ObjectRef, Reading, Write, apply_if_needed, kinds, short_digest};
use crate::workload::ownership::{beside, owner_references};
use crate::workload::revision_hash;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Label that names the canary of a kept revision.
pub const CANARY_LABEL: &str = "serin.dev/canary";
/// Annotation with the checksums of the tracked configs, compact JSON from `configmap/<name>` or `secret/<name>` to checksum.
pub const CONFIGS_ANNOTATION: &str = "serin.dev/configs";
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "serin");

/// A revision as it was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptRevision {
    /// `s1:…`, see [`revision_hash`].
    pub hash: String,
    /// The raw pod template.
    pub template: Value,
    /// Number of the run that judged it last.
    pub number: i64,
    /// Checksums of the tracked configs at that time.
    pub configs: BTreeMap<String, String>,
}

/// Why a kept revision can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevisionError {
    /// A part is missing: not written by Serin, or by a later version of it.
    #[error(
        "ControllerRevision {name}: {field} is missing; expected data.revision (s1:…) and data.template (a pod template). It can't be promoted; delete it and it is made anew from a judged revision"
    )]
    Incomplete {
        /// Name of the `ControllerRevision`.
        name: String,
        /// The missing field.
        field: &'static str,
    },
    /// The template is not the one that was judged.
    #[error(
        "ControllerRevision {name}: data.template has the hash {found}, but data.revision says {expected}; it was changed after it was judged and is refused"
    )]
    Tampered {
        /// Name of the `ControllerRevision`.
        name: String,
        /// Hash that it claims.
        expected: String,
        /// Hash of its content.
        found: String,
    },
}

/// The object that keeps the revision `hash` of this canary.
#[must_use]
pub fn object_ref(canary: &Canary, hash: &str) -> ObjectRef {
    // A name has 253 characters at most.
    let canary_name: String = canary.metadata.name.chars().take(242).collect();
    let digits: String = hash
        .rsplit(':')
        .next()
        .unwrap_or(hash)
        .chars()
        .take(10)
        .collect();
    beside(
        canary,
        &kinds::CONTROLLER_REVISION,
        &format!("{canary_name}-{digits}"),
    )
}

/// A label value for a name: itself, or shortened with a digest where it is longer than the 63 characters of a label value.
#[must_use]
pub fn label_value(name: &str) -> String {
    if name.len() <= 63 {
        return name.to_owned();
    }
    let head: String = name.chars().take(46).collect();
    format!("{head}-{}", short_digest(&json!(name)))
}

/// The labels by which the kept revisions of a canary are found.
#[must_use]
pub fn labels(canary: &Canary) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
        (CANARY_LABEL.to_owned(), label_value(&canary.metadata.name)),
    ])
}

/// The `ControllerRevision` for a template. `hash` is its [`revision_hash`], `number` the number of the run, `configs` the checksums
/// of what it mounts.
#[must_use]
pub fn desired(
    canary: &Canary,
    hash: &str,
    template: &Value,
    configs: &BTreeMap<String, String>,
    number: i64,
) -> Object {
    let object = object_ref(canary, hash);
    let mut annotations = json!({});
    if !configs.is_empty() {
        annotations[CONFIGS_ANNOTATION] = json!(json!(configs).to_string());
    }
    Object::new(json!({
        "apiVersion": kinds::CONTROLLER_REVISION.api_version(),
        "kind": kinds::CONTROLLER_REVISION.kind,
        "metadata": {
            "name": object.name,
            "namespace": object.namespace,
            "labels": labels(canary),
            "annotations": annotations,
            "ownerReferences": owner_references(canary),
        },
        "data": {"revision": hash, "template": template},
        "revision": number,
    }))
}

/// The write that keeps a revision; none where it is kept. A revision that is kept already keeps its data, byte for byte: the API
/// server lets nobody change it, and two spellings of one template have the same hash.
pub fn keep(
    canary: &Canary,
    revision: &KeptRevision,
    live: &Reading,
) -> Result<Option<Write>, RevisionError> {
    let mut object = desired(
        canary,
        &revision.hash,
        &revision.template,
        &revision.configs,
        revision.number,
    );
    if let Some(found) = live.object() {
        let kept = decode(found)?;
        if kept.hash != revision.hash {
            return Err(RevisionError::Tampered {
                name: found.name().to_owned(),
                expected: revision.hash.clone(),
                found: kept.hash,
            });
        }
        object.value_mut()["data"] = found.at("/data").clone();
    }
    Ok(apply_if_needed(&kinds::CONTROLLER_REVISION, object, live))
}

/// Reads a kept revision and checks that its template is the one that its hash names.
pub fn decode(object: &Object) -> Result<KeptRevision, RevisionError> {
    let missing = |field| RevisionError::Incomplete {
        name: object.name().to_owned(),
        field,
    };
    let hash = object.text("/data/revision");
    if hash.is_empty() {
        return Err(missing("data.revision"));
    }
    let template = object.at("/data/template");
    if !template.is_object() {
        return Err(missing("data.template"));
    }
    let found = revision_hash(template);
    if found != hash {
        return Err(RevisionError::Tampered {
            name: object.name().to_owned(),
            expected: hash.to_owned(),
            found,
        });
    }
    Ok(KeptRevision {
        hash: hash.to_owned(),
        template: template.clone(),
        number: object.number("/revision").unwrap_or(0),
        configs: object
            .annotation(CONFIGS_ANNOTATION)
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default(),
    })
}

/// Which kept revisions go: all but the `limit` with the highest run numbers, and but those whose names are in use.
#[must_use]
pub fn expired<'a>(
    revisions: impl IntoIterator<Item = &'a Object>,
    keep: &BTreeSet<String>,
    limit: usize,
) -> Vec<&'a Object> {
    let mut revisions: Vec<&Object> = revisions.into_iter().collect();
    revisions.sort_by_key(|object| {
        let number = object.number("/revision").unwrap_or(0);
        (std::cmp::Reverse(number), object.name())
    });
    revisions
        .into_iter()
        .skip(limit)
        .filter(|object| !keep.contains(object.name()) && !object.is_deleting())
        .collect()
}
