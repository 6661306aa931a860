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
    /// That there is none: what came into being since it was looked for is not overwritten.
    Absent,
    /// The object with everything that people and controllers asked of it, whatever its status says by now. Only operations of a JSON
    /// patch can expect this.
    Asked {
        /// `metadata.uid` as read.
        uid: String,
        /// `metadata.generation` as read.
        generation: i64,
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
    /// The same change of `live`, which its controller may have reported on since it was read: a merge patch becomes operations, since
    /// these can be guarded by what was asked of the object without its status. Other writes stay as they are.
    #[must_use]
    pub fn whatever_status(self, live: &Object) -> Self {
        match self {
            Self::Patch {
                target,
                patch: Patch::Merge(patch),
                ..
            } => {
                let mut operations = Vec::new();
                add_operations(&patch, live.value(), "", &mut operations);
                Self::Patch {
                    target,
                    patch: Patch::Json(operations),
                    expect: Expect::Asked {
                        uid: live.uid().to_owned(),
                        generation: live.generation(),
                    },
                }
            }
            other => other,
        }
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

/// The RFC 6902 operations that do to the part of an object at `at` what a merge patch does.
fn add_operations(wanted: &Value, live: &Value, at: &str, operations: &mut Vec<Value>) {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            for (key, value) in wanted {
                let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                match live.get(key) {
                    None if value.is_null() => {}
                    None => operations.push(json!({"op": "add", "path": at, "value": value})),
                    Some(_) if value.is_null() => {
                        operations.push(json!({"op": "remove", "path": at}));
                    }
                    Some(live) => add_operations(value, live, &at, operations),
                }
            }
        }
        (wanted, live) if wanted == live => {}
        (wanted, _) => operations.push(json!({"op": "replace", "path": at, "value": wanted})),
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
        Reading::Absent => Expect::Absent,
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::object::kinds;

    fn patched(live: Value, patch: Value) -> Write {
        let live = Object::new(live);
        Write::Patch {
            target: kinds::DEPLOYMENT.named("test", "web"),
            patch: Patch::Merge(patch),
            expect: Expect::unchanged(&live),
        }
        .whatever_status(&live)
    }

    #[test]
    fn a_change_that_may_meet_a_newer_status_expects_what_was_asked_of_the_object() {
        let live = json!({
            "metadata": {"uid": "u", "generation": 4, "resourceVersion": "17"},
            "spec": {"replicas": 0, "template": {"spec": {"nodeSelector": {"flagger.app/scale-to-zero": "true", "disk": "ssd"}}}},
        });
        let Write::Patch { patch, expect, .. } =
            patched(live.clone(), json!({"spec": {"replicas": 2}}))
        else {
            panic!("a patch stays one")
        };
        assert_eq!(
            patch,
            Patch::Json(vec![
                json!({"op": "replace", "path": "/spec/replicas", "value": 2})
            ])
        );
        let asked = Expect::Asked {
            uid: "u".to_owned(),
            generation: 4,
        };
        assert_eq!(expect, asked);
        let freed = json!({"spec": {"template": {"spec": {"nodeSelector": {"flagger.app/scale-to-zero": null, "gone": null}}}}});
        let Write::Patch { patch, .. } = patched(live, freed) else {
            panic!("a patch stays one")
        };
        assert_eq!(
            patch,
            Patch::Json(vec![json!({
                "op": "remove", "path": "/spec/template/spec/nodeSelector/flagger.app~1scale-to-zero"
            })])
        );
    }

    #[test]
    fn what_is_not_there_yet_is_added_and_what_is_the_same_is_left() {
        let live = json!({"metadata": {"uid": "u"}, "spec": {"paused": true}});
        let Write::Patch { patch, .. } = patched(
            live,
            json!({"spec": {"replicas": 3, "paused": true, "no": null}}),
        ) else {
            panic!("a patch stays one")
        };
        assert_eq!(
            patch,
            Patch::Json(vec![
                json!({"op": "add", "path": "/spec/replicas", "value": 3})
            ])
        );
    }

    #[test]
    fn what_is_made_is_not_put_over_what_came_into_being_meanwhile() {
        let desired = Object::new(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "test"}}),
        );
        let Some(Write::Apply { expect, .. }) =
            apply_if_needed(&kinds::SERVICE, desired, &Reading::Absent)
        else {
            panic!("what is absent is applied")
        };
        assert_eq!(expect, Expect::Absent);
    }
}
