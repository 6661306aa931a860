//! The patch that brings a route of the user to a split, and back. What the user wrote is remembered on the route itself, in one annotation,
//! for as long as the weights are not the user's; with it goes the share that was written last, so that a hand in between is seen.

use super::path::escape;
use super::slots::{Place, Slot, Values, same, textual};
use crate::api::Canary;
use crate::object::{Expect, FIELD_MANAGER, Object, ObjectRef, Patch, Write};
use crate::routing::Weight;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Annotation on a route of the user while its weights are shifted: compact JSON
/// `{"CANARY": {"canary": 30, "was": {"KEY": [100, 0]}}}`, where `null` stands for a weight that was not there.
pub const SHIFTED_ANNOTATION: &str = "serin.dev/shifted-weights";

/// What is remembered of one canary on one route.
#[derive(Debug)]
struct Memory {
    share: Weight,
    was: Map<String, Value>,
}

/// The whole annotation; empty where there is none or it can't be read.
fn annotation(object: &Object) -> Map<String, Value> {
    object
        .annotation(SHIFTED_ANNOTATION)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

impl Memory {
    fn of(canary: &Canary, object: &Object, slots: &[Slot]) -> Option<Self> {
        let mut memory = Self::kept(canary, object)?;
        memory.recall(slots);
        Some(memory)
    }

    /// As the annotation has it.
    fn kept(canary: &Canary, object: &Object) -> Option<Self> {
        let mut all = annotation(object);
        let mine = all.remove(&canary.metadata.name)?;
        Some(Self {
            share: Weight::clamped(mine["canary"].as_i64()?),
            was: mine["was"].as_object()?.clone(),
        })
    }

    /// Knows rules again in which somebody has changed something beside the weights: such a rule has a new key, and still the weights that
    /// were written for what is remembered under its old one. What could stand for several rules is left, once all others are known.
    fn recall(&mut self, slots: &[Slot]) {
        let known = |key: &String| slots.iter().any(|slot| slot.key == *key);
        let mut left: Vec<Value> = self
            .was
            .iter()
            .filter(|(key, _)| !known(key))
            .map(|(_, was)| was.clone())
            .collect();
        let mut unknown: Vec<&Slot> = slots
            .iter()
            .filter(|slot| !self.was.contains_key(&slot.key))
            .collect();
        let share = self.share;
        let fits =
            |slot: &Slot, was: &Value| says(slot, &textual(slot, slot.values(share, &values(was))));
        while let Some((slot, was)) = unknown.iter().enumerate().find_map(|(position, slot)| {
            let mut all = (0..left.len()).filter(|index| fits(slot, &left[*index]));
            let first = all.next()?;
            all.all(|other| left[other] == left[first])
                .then_some((position, first))
        }) {
            let key = unknown.remove(slot).key.clone();
            self.was.insert(key, left.remove(was));
        }
    }

    fn original(&self, slot: &Slot) -> Option<Values> {
        self.was.get(&slot.key).map(values)
    }
}

/// What is remembered of one slot.
fn values(was: &Value) -> Values {
    Values {
        primary: was[0].clone(),
        canary: was[1].clone(),
    }
}

/// What the user wrote: what is remembered, else what stands there.
fn original(memory: Option<&Memory>, slot: &Slot) -> Values {
    memory
        .and_then(|memory| memory.original(slot))
        .unwrap_or_else(|| slot.live())
}

fn says(slot: &Slot, wanted: &Values) -> bool {
    let live = slot.live();
    same(&live.primary, &wanted.primary) && same(&live.canary, &wanted.canary)
}

/// The share of the canary that a slot carries. Where it has the numbers that Serin wrote it is exactly the share for which they were
/// written, whatever rounding made of it.
pub fn carried(canary: &Canary, object: &Object, slots: &[Slot], slot: &Slot) -> Option<Weight> {
    if let Some(memory) = Memory::of(canary, object, slots)
        && memory.was.contains_key(&slot.key)
        && says(slot, &written(&memory, slot))
    {
        return Some(memory.share);
    }
    slot.share(&slot.live())
}

fn written(memory: &Memory, slot: &Slot) -> Values {
    textual(
        slot,
        slot.values(memory.share, &original(Some(memory), slot)),
    )
}

/// Whether somebody else has changed the weights: they are not what was written last, or, where nothing was written, the canary gets
/// something that nobody gave it.
pub fn is_drift(canary: &Canary, object: &Object, slots: &[Slot]) -> bool {
    match Memory::of(canary, object, slots) {
        Some(memory) => slots
            .iter()
            .any(|slot| !says(slot, &written(&memory, slot))),
        None => slots
            .iter()
            .any(|slot| slot.share(&slot.live()) != Some(Weight::NONE)),
    }
}

/// Whether somebody has replaced a shifted route whole, so that nothing on it tells of the shift: it was written after the status last said
/// that the canary gets something.
pub fn is_replaced(canary: &Canary, object: &Object) -> bool {
    let Some(status) = &canary.status else {
        return false;
    };
    let shifted = status
        .run
        .as_ref()
        .and_then(|run| run.weights)
        .is_some_and(|weights| weights.canary > 0);
    let written = object
        .at("/metadata/managedFields")
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["subresource"].as_str().unwrap_or_default().is_empty())
        .filter_map(|entry| entry["time"].as_str()?.parse::<Timestamp>().ok())
        .max();
    shifted
        && Memory::kept(canary, object).is_none()
        && written
            .zip(status.last_transition_time)
            // The API server keeps whole seconds.
            .is_some_and(|(written, said)| written.as_second() >= said.as_second())
}

/// The patch that brings the slots of an object to a share of the canary; `None` where they say so.
pub fn patch(
    canary: &Canary,
    target: &ObjectRef,
    object: &Object,
    slots: &[Slot],
    share: Weight,
) -> Option<Write> {
    let memory = Memory::of(canary, object, slots);
    let mut operations = Vec::new();
    let mut was = Map::new();
    for slot in slots {
        let original = original(memory.as_ref(), slot);
        let wanted = textual(slot, slot.values(share, &original));
        if let Some(place) = &slot.primary {
            operations.extend(replace(place, &wanted.primary));
        }
        operations.extend(replace(&slot.canary, &wanted.canary));
        was.insert(slot.key.clone(), json!([original.primary, original.canary]));
    }
    let mine = (share > Weight::NONE && !slots.is_empty())
        .then(|| json!({"canary": share.percent(), "was": was}));
    operations.extend(remember(canary, object, mine));
    if operations.is_empty() && share == Weight::NONE {
        operations = let_go(object);
    }
    (!operations.is_empty()).then(|| Write::Patch {
        target: target.clone(),
        patch: Patch::Json(operations),
        expect: Expect::unchanged(object),
    })
}

/// Tests what was found at a place and puts the wanted value there.
fn replace(place: &Place, wanted: &Value) -> Vec<Value> {
    let path = &place.pointer;
    if same(&place.found, wanted) {
        return Vec::new();
    }
    if place.found.is_null() {
        return vec![json!({"op": "add", "path": path, "value": wanted})];
    }
    let test = json!({"op": "test", "path": path, "value": place.found});
    let change = if wanted.is_null() {
        json!({"op": "remove", "path": path})
    } else {
        json!({"op": "replace", "path": path, "value": wanted})
    };
    vec![test, change]
}

/// The operations that bring the annotation to what shall be remembered for this canary. Others may remember something on the same route.
fn remember(canary: &Canary, object: &Object, mine: Option<Value>) -> Vec<Value> {
    let before = annotation(object);
    let mut after = before.clone();
    match mine {
        Some(mine) => after.insert(canary.metadata.name.clone(), mine),
        None => after.remove(&canary.metadata.name),
    };
    let present = object.annotation(SHIFTED_ANNOTATION);
    if after == before && (present.is_some() != after.is_empty()) {
        return Vec::new();
    }
    let path = format!("/metadata/annotations/{}", escape(SHIFTED_ANNOTATION));
    let wanted = Value::Object(after.clone()).to_string();
    match present {
        Some(said) => {
            let test = json!({"op": "test", "path": path, "value": said});
            let change = if after.is_empty() {
                json!({"op": "remove", "path": path})
            } else {
                json!({"op": "replace", "path": path, "value": wanted})
            };
            vec![test, change]
        }
        None if object.at("/metadata/annotations").is_object() => {
            vec![json!({"op": "add", "path": path, "value": wanted})]
        }
        None => vec![json!({
            "op": "add", "path": "/metadata/annotations", "value": {SHIFTED_ANNOTATION: wanted}
        })],
    }
}

/// Lets go of the fields that the API server has down as Serin's, once nothing of Serin's is left in the route: else whoever applies it by
/// server-side apply would meet a conflict, and tools that leave the fields of other managers alone would leave the user's own alone.
fn let_go(object: &Object) -> Vec<Value> {
    if object.annotation(SHIFTED_ANNOTATION).is_some() {
        return Vec::new();
    }
    let entries = object.at("/metadata/managedFields").as_array();
    let entries = entries.map_or(&[][..], Vec::as_slice);
    let ours = entries.iter().position(|entry| {
        entry["manager"] == FIELD_MANAGER
            && entry["operation"] == "Update"
            && entry["subresource"].as_str().unwrap_or_default().is_empty()
    });
    let Some(position) = ours else {
        return Vec::new();
    };
    let path = format!("/metadata/managedFields/{position}");
    let test = json!({"op": "test", "path": format!("{path}/manager"), "value": FIELD_MANAGER});
    // An empty list would be taken for one that was left out; a list with one empty entry empties it.
    let change = if entries.len() == 1 {
        json!({"op": "replace", "path": "/metadata/managedFields", "value": [{}]})
    } else {
        json!({"op": "remove", "path": path})
    };
    vec![test, change]
}
