//! Changes JSON documents as documents: a mutation of bytes mostly breaks the syntax, and what lies behind the parser is never seen.

use serde_json::{Map, Value, json};

/// A small generator of chance (SplitMix64): the same seed gives the same choices everywhere.
pub struct Chance(u64);

impl Chance {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where there is none.
    #[allow(clippy::cast_possible_truncation)] // any number will do
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() as usize).checked_rem(end).unwrap_or(0)
    }
}

/// Values at the edges of what fields mean.
fn odd(chance: &mut Chance) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(101),
        json!(2.5),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e308),
        json!(-1e-308),
        json!(""),
        json!("1m"),
        json!("-1h"),
        json!("9223372036854775807ns"),
        json!("1e9h"),
        json!("NaN"),
        json!("é\u{0}\u{202e}\n"),
        json!("x".repeat(300)),
        json!("9999-12-31T23:59:59Z"),
        json!("-009999-01-02T00:00:00Z"),
        json!("istio"),
        json!("gatewayapi:v1"),
        json!("kubernetes"),
        json!("Promoting"),
        json!("Waiting"),
        json!("Held"),
        json!([]),
        json!({}),
        json!([[[[]]]]),
        json!({"": {"": {}}}),
    ];
    odd[chance.below(odd.len())].clone()
}

/// The places of a document, each as the way to it.
fn places(value: &Value, way: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    found.push(way.clone());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                way.push(index.to_string());
                places(item, way, found);
                way.pop();
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                way.push(key.clone());
                places(item, way, found);
                way.pop();
            }
        }
        _ => {}
    }
}

fn at<'a>(value: &'a mut Value, way: &[String]) -> Option<&'a mut Value> {
    way.iter().try_fold(value, |value, step| match value {
        Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?),
        Value::Object(fields) => fields.get_mut(step),
        _ => None,
    })
}

/// Changes one to three places of a document.
pub fn document(value: &mut Value, chance: &mut Chance) {
    for _ in 0..=chance.below(3) {
        let mut found = Vec::new();
        places(value, &mut Vec::new(), &mut found);
        let way = found[chance.below(found.len())].clone();
        let other = found[chance.below(found.len())].clone();
        let copy = at(value, &other).map(|value| value.clone());
        let kind = chance.below(6);
        if kind == 0
            && let Some((last, parent)) = way.split_last()
        {
            match at(value, parent) {
                Some(Value::Object(fields)) => {
                    fields.remove(last);
                }
                Some(Value::Array(items)) => {
                    let index = last.parse::<usize>().unwrap_or(0);
                    if index < items.len() {
                        items.remove(index);
                    }
                }
                _ => {}
            }
            continue;
        }
        let fresh = odd(chance);
        let Some(place) = at(value, &way) else {
            continue;
        };
        match (kind, place) {
            // A field or an item taken over from elsewhere in the document.
            (1, place) => {
                if let Some(copy) = copy.filter(|copy| copy.to_string().len() < 2000) {
                    *place = copy;
                }
            }
            (2, Value::Array(items)) => {
                let again = items.last().cloned().unwrap_or(fresh);
                items.push(again);
            }
            (2 | 3, Value::Object(fields)) => {
                let name = other.last().cloned().unwrap_or_default();
                fields.insert(name, copy.unwrap_or(fresh));
            }
            (4, Value::Number(number)) => {
                let by = [1.0, -1.0, 0.5, -100.0, 1e6][chance.below(5)];
                shift(number, by);
            }
            (5, Value::String(text)) => {
                let cut = text
                    .char_indices()
                    .nth(chance.below(text.chars().count() + 1));
                text.truncate(cut.map_or(text.len(), |(at, _)| at));
            }
            (_, place) => *place = fresh,
        }
    }
}

fn shift(number: &mut serde_json::Number, by: f64) {
    let changed = number.as_f64().unwrap_or(0.0) + by;
    if let Some(changed) = serde_json::Number::from_f64(changed) {
        *number = changed;
    }
}

/// One input made of another: as a document where it is one, else byte by byte.
#[must_use]
pub fn bytes(input: &[u8], chance: &mut Chance) -> Vec<u8> {
    let whole_document = chance.below(8) != 0;
    if whole_document && let Ok(mut value) = serde_json::from_slice::<Value>(input) {
        document(&mut value, chance);
        return value.to_string().into_bytes();
    }
    let mut changed = input.to_vec();
    for _ in 0..=chance.below(4) {
        let place = chance.below(changed.len() + 1);
        #[allow(clippy::cast_possible_truncation)] // a byte of it
        let byte = chance.next() as u8;
        match chance.below(5) {
            0 => changed.insert(place, byte),
            1 if place < changed.len() => {
                changed.remove(place);
            }
            2 if place < changed.len() => changed[place] = byte,
            3 => changed.truncate(place),
            _ => {
                let from = chance.below(input.len() + 1);
                let piece = &input[from..(from + chance.below(40)).min(input.len())];
                let place = place.min(changed.len());
                changed.splice(place..place, piece.iter().copied());
            }
        }
    }
    changed
}

/// The same in place, for libFuzzer: the new length, or `None` where the fuzzer's own mutations shall have their turn.
pub fn within(data: &mut [u8], size: usize, most: usize, seed: u32) -> Option<usize> {
    if seed.is_multiple_of(3) {
        return None;
    }
    let mut value: Value = serde_json::from_slice(data.get(..size)?).ok()?;
    document(&mut value, &mut Chance::new(u64::from(seed)));
    let text = value.to_string();
    let room = data
        .get_mut(..text.len().min(most))
        .filter(|room| room.len() == text.len())?;
    room.copy_from_slice(text.as_bytes());
    Some(text.len())
}

/// A document from YAML; `None` where it is none.
#[must_use]
pub fn from_yaml(text: &str) -> Option<Value> {
    serde_saphyr::from_str::<Value>(text).ok().filter(|value| {
        value
            .as_object()
            .is_some_and(|fields: &Map<_, _>| !fields.is_empty())
    })
}
