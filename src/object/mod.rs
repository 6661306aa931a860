//! Kubernetes objects as the JSON that the API server gave.
//!
//! Typed structs drop the fields that they don't know, and Serin must not lose a field of somebody else's object. So every
//! object stays JSON, and the rooms read it through small views. This room also knows the writes that Serin can ask for
//! (a server-side apply, a guarded patch, a delete), when a live object already says what is desired, and the canonical
//! form from which revision hashes are made. No I/O happens here.
//!
//! ```text
//! Kind ── names a resource        ObjectRef ── names one object       Object ── its JSON
//! Reading ── what the cache knows of it: present, absent, unknown     Write ── what shall be done to it
//! ```

mod canonical;
mod inherit;
mod kind;
mod reading;
mod write;

pub use canonical::{canonical_json, covers, digest, short_digest};
pub use inherit::{FIELD_MANAGER, has_inheritance};
pub use kind::{Kind, ObjectRef, kinds};
pub use reading::{Endpoints, Pods, Reading};
pub use write::{
    APPLIED_ANNOTATION, Expect, Patch, Write, apply_if_needed, apply_sealed_if_needed, seal,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One Kubernetes object, whole, as JSON. The value is always a JSON object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(Value);

/// An entry of `metadata.ownerReferences` that has `controller: true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Kind of the owner, for example `Canary`.
    pub kind: String,
    /// Name of the owner in the same namespace.
    pub name: String,
    /// UID of the owner.
    pub uid: String,
}

/// What `serde_json`'s `pointer` finds, without its allocations for each step: pointers with an escape are left to it.
fn at<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    if pointer.contains('~') || !pointer.starts_with('/') {
        return value.pointer(pointer);
    }
    pointer[1..]
        .split('/')
        .try_fold(value, |value, step| match value {
            Value::Object(map) => map.get(step),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        })
}

impl Object {
    /// Wraps a JSON value; anything but a JSON object becomes an empty object.
    #[must_use]
    pub fn new(value: Value) -> Self {
        if value.is_object() {
            Self(value)
        } else {
            Self(Value::Object(serde_json::Map::new()))
        }
    }

    /// The JSON underneath.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The JSON underneath, to be changed in place.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.0
    }

    /// Gives the JSON away.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.0
    }

    /// The value at a JSON pointer such as `/spec/replicas`; `Null` where there is none.
    #[must_use]
    pub fn at(&self, pointer: &str) -> &Value {
        at(&self.0, pointer).unwrap_or(&Value::Null)
    }

    /// The string at a JSON pointer; empty where there is none.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    /// The whole number at a JSON pointer, if there is one.
    #[must_use]
    pub fn number(&self, pointer: &str) -> Option<i64> {
        self.at(pointer).as_i64()
    }

    /// `apiVersion`.
    #[must_use]
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// `kind`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// `metadata.namespace`; empty for cluster-scoped objects.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    /// `metadata.uid`; empty on an object that was never stored.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.text("/metadata/uid")
    }

    /// `metadata.resourceVersion`; empty on an object that was never stored.
    #[must_use]
    pub fn resource_version(&self) -> &str {
        self.text("/metadata/resourceVersion")
    }

    /// `metadata.generation`; 0 where the kind has none.
    #[must_use]
    pub fn generation(&self) -> i64 {
        self.number("/metadata/generation").unwrap_or(0)
    }

    /// True once somebody asked for the object's deletion.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        !self.text("/metadata/deletionTimestamp").is_empty()
    }

    /// `metadata.creationTimestamp`, if it is there and can be read.
    #[must_use]
    pub fn created_at(&self) -> Option<Timestamp> {
        self.text("/metadata/creationTimestamp").parse().ok()
    }

    /// A string map at a pointer, for example labels or annotations; entries that are not strings are left out.
    #[must_use]
    pub fn string_map(&self, pointer: &str) -> BTreeMap<String, String> {
        string_map(self.at(pointer))
    }

    /// `metadata.labels`.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.string_map("/metadata/labels")
    }

    /// `metadata.annotations`.
    #[must_use]
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.string_map("/metadata/annotations")
    }

    /// One annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.0
            .get("metadata")?
            .get("annotations")?
            .get(key)?
            .as_str()
    }

    /// The owner that controls this object, if one does.
    #[must_use]
    pub fn controller_owner(&self) -> Option<Owner> {
        self.at("/metadata/ownerReferences")
            .as_array()?
            .iter()
            .find(|owner| owner["controller"].as_bool() == Some(true))
            .map(|owner| Owner {
                kind: owner["kind"].as_str().unwrap_or_default().to_owned(),
                name: owner["name"].as_str().unwrap_or_default().to_owned(),
                uid: owner["uid"].as_str().unwrap_or_default().to_owned(),
            })
    }

    /// The writer, other than `ourselves`, that touched this object last according to `metadata.managedFields`
    /// (status writers left out). Used to name the hand behind a drift.
    #[must_use]
    pub fn last_foreign_writer(&self, ourselves: &str) -> Option<&str> {
        self.at("/metadata/managedFields")
            .as_array()?
            .iter()
            .filter(|entry| entry["subresource"].as_str().unwrap_or_default().is_empty())
            .filter(|entry| entry["manager"].as_str() != Some(ourselves))
            .max_by_key(|entry| entry["time"].as_str().unwrap_or_default().to_owned())
            .and_then(|entry| entry["manager"].as_str())
    }
}

/// A JSON object of strings as a map; anything else gives an empty map.
#[must_use]
pub fn string_map(value: &Value) -> BTreeMap<String, String> {
    value
        .as_object()
        .map(|map| {
            map.iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        })
        .unwrap_or_default()
}
