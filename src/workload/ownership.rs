//! Who owns what: the owner reference of the canary, and the refusal to touch what somebody else controls.

use crate::api::Canary;
use crate::object::{Kind, Object, ObjectRef, Owner, Reading, kinds};
use crate::workload::WorkloadError;
use serde_json::Value;

/// Suffix of everything that belongs to the primary.
pub(super) const PRIMARY_SUFFIX: &str = "-primary";

/// Names an object of `kind` beside the canary.
pub(super) fn beside(canary: &Canary, kind: &Kind, name: &str) -> ObjectRef {
    kind.named(&canary.metadata.namespace, name)
}

/// The entries of `metadata.ownerReferences` that make the canary the controller of an object: one, or none for a canary that
/// was never stored (read from a file).
pub(super) fn owner_references(canary: &Canary) -> Value {
    canary.owner_reference().into_iter().collect()
}

/// Whether `owner` is this canary. The UID counts, not the name: a canary that was deleted and made again is another one.
pub(super) fn is_owner(canary: &Canary, owner: &Owner) -> bool {
    owner.kind == kinds::CANARY.kind
        && canary.metadata.uid.as_deref().unwrap_or_default() == owner.uid
}

/// Whether the canary is the controller of `object`.
pub(super) fn controls(canary: &Canary, object: &Object) -> bool {
    object
        .controller_owner()
        .is_some_and(|owner| is_owner(canary, &owner))
}

/// Refuses a live object that somebody else controls. An object without a controller passes: it is adopted, as Flagger does.
pub fn refuse_foreign(
    canary: &Canary,
    object: &ObjectRef,
    live: &Reading,
) -> Result<(), WorkloadError> {
    match live.object().and_then(Object::controller_owner) {
        Some(owner) if !is_owner(canary, &owner) => Err(WorkloadError::Foreign {
            object: Box::new(object.clone()),
            owner: if owner.kind == kinds::CANARY.kind && owner.name == canary.metadata.name {
                format!("an earlier Canary {} (uid {})", owner.name, owner.uid)
            } else {
                format!("{} {}", owner.kind, owner.name)
            },
        }),
        _ => Ok(()),
    }
}
