//! The part of `ObjectMeta` that decisions need, read so leniently that any object can be named in a report, even one
//! whose spec cannot be decoded.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name, identity and bookkeeping of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name within the namespace.
    pub name: String,
    /// Namespace; empty when the object was read from a file that does not say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The API server's identity for this very object; a recreated object has another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Opaque version, changes with every write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Counts changes of the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Finalizers that hold back the deletion.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Since when the object is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Timestamp>,
    /// When the object was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Timestamp>,
}

impl Metadata {
    /// Reads `metadata` of any object and never fails: what is missing or odd is left empty.
    ///
    /// A `deletionTimestamp` that is present but unreadable still counts as "being deleted" (since the epoch).
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |key: &str| metadata[key].as_str().map(str::to_owned);
        let time = |key: &str| text(key).and_then(|text| text.parse::<Timestamp>().ok());
        let map = |key: &str| -> BTreeMap<String, String> {
            let entries = metadata[key].as_object().into_iter().flatten();
            entries
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        };
        Self {
            name: text("name").unwrap_or_default(),
            namespace: text("namespace").unwrap_or_default(),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: metadata["generation"].as_i64(),
            labels: map("labels"),
            annotations: map("annotations"),
            finalizers: metadata["finalizers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect(),
            deletion_timestamp: text("deletionTimestamp")
                .map(|_| time("deletionTimestamp").unwrap_or_default()),
            creation_timestamp: time("creationTimestamp"),
        }
    }

    /// Whether the object is being deleted.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// `namespace/name`, the way objects are named in messages; the bare name without a namespace.
    #[must_use]
    pub fn namespaced_name(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}
