//! What routers have in common whose objects list both sides with a weight each: reading a split, telling an edit, knowing nothing yet.

use super::{Applied, Observed, RouteError, Split, Weight, route_object};
use crate::api::{Canary, CanaryService};
use crate::object::{Object, ObjectRef, Reading, covers};
use serde_json::Value;

/// Whether a live spec says what the desired one does. Lists are ours as a whole: the same elements in the same order, without a field
/// that somebody added to one. What only the live one has beside them is somebody else's.
pub fn says(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => {
            desired.iter().all(|(key, value)| match live.get(key) {
                Some(found) => says(found, value),
                None => covers(&Value::Null, value),
            })
        }
        (Value::Array(live), Value::Array(desired)) => same_list(live, desired),
        (live, desired) => live == desired,
    }
}

fn same_list(live: &[Value], desired: &[Value]) -> bool {
    live.len() == desired.len()
        && live.iter().zip(desired).all(|(live, desired)| {
            says(live, desired)
                && match (live.as_object(), desired.as_object()) {
                    (Some(live), Some(desired)) => live.iter().all(|(key, value)| {
                        desired.contains_key(key) || covers(&Value::Null, value)
                    }),
                    _ => true,
                }
        })
}

/// The split of a list of names with weights; `None` where a weight can't be read, nobody gets anything, or a third gets something.
pub fn split<'v>(
    (primary, canary): (&str, &str),
    entries: impl IntoIterator<Item = (&'v str, Option<u64>)>,
) -> Option<Split> {
    let (mut to_primary, mut to_canary) = (0_u64, 0_u64);
    let mut seen = false;
    for (name, weight) in entries {
        let weight = weight?;
        let side = if name == primary {
            &mut to_primary
        } else if name == canary {
            seen = true;
            &mut to_canary
        } else if weight == 0 {
            continue;
        } else {
            return None;
        };
        *side = side.checked_add(weight)?;
    }
    // A list without the canary is the plain rule beside that of an A/B test.
    if !seen {
        return None;
    }
    Some(Split {
        canary: Weight::proportion(to_primary, to_canary)?,
        mirrored: false,
    })
}

/// The one split that all say, where they say the same.
pub fn agreed(splits: impl IntoIterator<Item = Split>) -> Option<Split> {
    let mut splits = splits.into_iter();
    let first = splits.next()?;
    splits.all(|split| split == first).then_some(first)
}

/// What the one object that carries the split says; nothing where it is not there.
pub fn observed(
    target: &ObjectRef,
    live: &Reading,
    split: impl FnOnce(&Object) -> Option<Split>,
    applied: impl FnOnce(&Object) -> Applied,
) -> Result<Observed, RouteError> {
    let object = route_object::readable(target, live)?;
    Ok(object.map_or_else(
        || Observed::of_nothing(target),
        |object| Observed {
            split: split(object),
            applied: applied(object),
            foreign_writer: route_object::foreign_writer(object),
        },
    ))
}

/// `spec.service`, without which none of these objects can be written.
pub fn service_of<'c>(canary: &'c Canary, kind: &str) -> Result<&'c CanaryService, RouteError> {
    canary
        .spec
        .service
        .as_ref()
        .ok_or_else(|| RouteError::Invalid {
            field: "spec.service".to_owned(),
            found: "missing".to_owned(),
            expected: format!("a {kind} needs at least spec.service.port"),
        })
}

/// A list below a value; empty where there is none.
pub fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}
