//! The writes that Serin can ask for. Each names what it expects to find, so that a decision made from a stale snapshot or by a
//! replica that lost its lease is refused by the API server instead of being carried out.

use super::inherit::inherit;
use super::{Kind, Object, ObjectRef, Reading, covers, short_digest};
use serde_json::{Value, json};

/// Annotation with the short digest of what Serin last applied. Together with [`covers`] it tells without a request whether an
/// apply would change anything, removed fields included.
pub const APPLIED_ANNOTATION: &str = "serin.dev/applied";

/// What a write expects of the object that it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing; used where a later writer can't be hurt.
    Any,
    /// The same object, whatever became of it since it was read; for a change that is right in any case, such as scaling up.
    Same {
        /// `metadata.uid` as read.
        uid: String,
    },
    /// The object as it was read.
    Version {
        /// `metadata.uid` as read.
        uid: String,
        /// `metadata.resourceVersion` as read.
        resource_version: String,
    },
}

impl Expect {
    /// Expects the object exactly as it was read.
    #[must_use]
    pub fn unchanged(object: &Object) -> Self {
        Self::Version {
            uid: object.uid().to_owned(),
            resource_version: object.resource_version().to_owned(),
        }
    }
}

impl Write {
    /// The same write with a weaker expectation: the object may have changed since it was read, if it is still the same one.
    #[must_use]
    pub fn whatever_version(mut self) -> Self {
        self.change_expectations(&mut |expect| {
            if let Expect::Version { uid, .. } = expect {
                *expect = Expect::Same {
                    uid: std::mem::take(uid),
                };
            }
        });
        self
    }

    /// Changes what the write, or each of several, expects.
    pub fn change_expectations(&mut self, change: &mut dyn FnMut(&mut Expect)) {
        match self {
            Self::Apply { expect, .. }
            | Self::Patch { expect, .. }
            | Self::Delete { expect, .. } => change(expect),
            Self::Together(writes) => {
                for write in writes {
                    write.change_expectations(change);
                }
            }
        }
    }
}

/// The body of a patch.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 7386 merge patch.
    Merge(Value),
    /// RFC 6902 JSON patch: a list of operations.
    Json(Vec<Value>),
}

/// One change to the cluster, safe to repeat.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Server-side apply with Serin's field manager, force on: `object` holds exactly the fields that Serin owns. Creates the
    /// object where there is none.
    Apply {
        /// The resource.
        kind: Kind,
        /// The fields that Serin owns, with `apiVersion`, `kind`, name and namespace.
        object: Object,
        /// What must still be true.
        expect: Expect,
    },
    /// A patch of an object that belongs to somebody else.
    Patch {
        /// Whose fields are changed.
        target: ObjectRef,
        /// How.
        patch: Patch,
        /// What must still be true.
        expect: Expect,
    },
    /// Deletion in the background; an object that is gone already is fine.
    Delete {
        /// What goes.
        target: ObjectRef,
        /// What must still be true.
        expect: Expect,
    },
    /// Several writes that belong together: none of them is done before the API server was asked, by dry runs, whether it would do
    /// all of them. No API server can promise more; a write that fails in spite of that is repaired by the next pass.
    Together(Vec<Write>),
}

impl Write {
    /// The object that the write is about; the first one where it is about several.
    #[must_use]
    pub fn target(&self) -> ObjectRef {
        match self {
            Self::Together(writes) => writes.first().map_or_else(
                || Kind::namespaced("", "", "", "").named("", ""),
                Self::target,
            ),
            Self::Apply { kind, object, .. } => kind.named(object.namespace(), object.name()),
            Self::Patch { target, .. } | Self::Delete { target, .. } => target.clone(),
        }
    }
}

/// Adds [`APPLIED_ANNOTATION`] to what shall be applied.
#[must_use]
pub fn seal(mut object: Object) -> Object {
    let seal = short_digest(object.value());
    let metadata = &mut object.value_mut()["metadata"];
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][APPLIED_ANNOTATION] = Value::String(seal);
    object
}

/// The apply that brings `live` to `desired`, or nothing where `live` already says all of it and nothing more of ours.
/// Unknown readings give nothing: what can't be seen is not written. Where Flagger wrote `live`, its fields are made ours first, and the
/// apply comes with the next pass.
#[must_use]
pub fn apply_if_needed(kind: &Kind, desired: Object, live: &Reading) -> Option<Write> {
    apply_sealed_if_needed(kind, seal(desired), live)
}

/// As [`apply_if_needed`] for an object that carries its seal already. Fields that were added after sealing don't count for the
/// seal: that is for values that others change too, such as replicas.
#[must_use]
pub fn apply_sealed_if_needed(kind: &Kind, desired: Object, live: &Reading) -> Option<Write> {
    let expect = match live {
        Reading::Unknown(_) => return None,
        Reading::Absent => Expect::Any,
        Reading::Present(live) => {
            if covers(live.value(), desired.value()) {
                return None;
            }
            if let Some(first) = inherit(kind, live) {
                return Some(first);
            }
            Expect::unchanged(live)
        }
    };
    Some(Write::Apply {
        kind: kind.clone(),
        object: desired,
        expect,
    })
}
