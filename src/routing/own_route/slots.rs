//! Where a live route divides traffic between the two sides of a canary. Each such place is a [`Slot`]: a rule that names both sides, or a
//! pair of paths. Rules that name neither side are nobody's business here; a rule that names only the primary's or only the canary's own
//! Service is a pin of the user, and left alone.

use super::kinds::{Layout, Missing, Naming};
use super::path::{Path, escape};
use crate::api::{Canary, WeightPaths};
use crate::object::{Object, short_digest};
use crate::routing::Weight;
use serde_json::{Value, json};

/// Marks an Ingress as the canary of another one with the same hosts, behind a prefix that the ingress controller may be told.
const INGRESS_CANARY: &str = "/canary";
/// The prefix that it has unless it is told another.
const USUAL_PREFIX: &str = "nginx.ingress.kubernetes.io";

/// Beside other backends two weights that sum to less say too little about percents.
const LEAST_SUM: f64 = 50.0;

/// One weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Where it stands.
    pub pointer: String,
    /// What stands there; `null` for nothing.
    pub found: Value,
}

/// What the numbers mean.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    /// They are relative to each other and to those of other backends.
    Relative {
        missing: Missing,
        /// Whether other backends of the rule get a share.
        others: bool,
    },
    /// Parts of a total.
    Fixed(u64),
}

/// One place in which a route divides traffic between the two sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Tells the slot from others of the object for as long as nothing but its weights changes.
    pub key: String,
    /// For people, such as `spec.rules[0]`.
    pub name: String,
    pub canary: Place,
    pub primary: Option<Place>,
    scale: Scale,
}

/// The two values of a slot; `null` for one that is not there.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    pub primary: Value,
    pub canary: Value,
}

/// The slots of one object, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Found {
    pub slots: Vec<Slot>,
    /// Why the object can't carry every split; a way back to the primary is still found in `slots`.
    pub problem: Option<String>,
}

impl Found {
    fn fault(&mut self, why: String) {
        self.problem.get_or_insert(why);
    }
}

impl Slot {
    /// What stands there now.
    pub fn live(&self) -> Values {
        Values {
            primary: self
                .primary
                .as_ref()
                .map_or(Value::Null, |place| place.found.clone()),
            canary: self.canary.found.clone(),
        }
    }

    /// What values mean: the parts of primary and canary.
    fn parts(&self, values: &Values) -> (f64, f64) {
        let read = |value: &Value, missing: f64| number(value).unwrap_or(missing);
        match self.scale {
            Scale::Fixed(total) => {
                let canary = read(&values.canary, 0.0);
                let primary = match self.primary {
                    Some(_) => read(&values.primary, 0.0),
                    None => total as f64 - canary,
                };
                (primary, canary)
            }
            Scale::Relative { missing, others } => {
                let missing_is = if missing == Missing::One { 1.0 } else { 0.0 };
                let found = (
                    read(&values.primary, missing_is),
                    read(&values.canary, missing_is),
                );
                if missing == Missing::Equal && !others && found == (0.0, 0.0) {
                    (1.0, 1.0)
                } else {
                    found
                }
            }
        }
    }

    /// The canary's share that these values give, rounded; a side that gets anything is never rounded to nothing. `None` where nobody gets
    /// anything.
    pub fn share(&self, values: &Values) -> Option<Weight> {
        let (primary, canary) = self.parts(values);
        let sum = primary + canary;
        if sum <= 0.0 || primary < 0.0 || canary < 0.0 {
            return None;
        }
        let percent = i64::try_from(whole(canary / sum * 100.0)).unwrap_or(100);
        Some(Weight::clamped(if primary > 0.0 && canary > 0.0 {
            percent.clamp(1, 99)
        } else {
            percent
        }))
    }

    /// The values for a share of the canary, where the user wrote `original`. At no share it is the user's own values, unless they would give
    /// the canary something.
    pub fn values(&self, share: Weight, original: &Values) -> Values {
        if share == Weight::NONE && self.share(original) == Some(Weight::NONE) {
            return original.clone();
        }
        let (primary, canary) = match self.scale {
            Scale::Fixed(1) => {
                let part = |share: Weight| {
                    if share.percent().is_multiple_of(100) {
                        json!(share.percent() / 100)
                    } else {
                        json!(f64::from(share.percent()) / 100.0)
                    }
                };
                (part(share.rest()), part(share))
            }
            Scale::Fixed(total) => divide(total, share),
            Scale::Relative { others: true, .. } => {
                let (primary, canary) = self.parts(original);
                divide(whole(primary + canary), share)
            }
            Scale::Relative { .. } => divide(100, share),
        };
        // Text stays text; a value that is not there yet is written as a number.
        let like = |model: &Value, value: Value| {
            if model.is_string() {
                Value::String(value.to_string())
            } else {
                value
            }
        };
        Values {
            primary: match &self.primary {
                Some(place) => like(&place.found, primary),
                None => Value::Null,
            },
            canary: like(&self.canary.found, canary),
        }
    }
}

/// A whole number of parts for each side: nobody who gets anything is rounded to nothing.
fn divide(total: u64, share: Weight) -> (Value, Value) {
    let exact = (u128::from(total) * u128::from(share.percent()) + 50) / 100;
    let exact = u64::try_from(exact).unwrap_or(total);
    let canary = match share.percent() {
        0 => 0,
        100 => total,
        _ => exact.clamp(1, total.saturating_sub(1).max(1)),
    };
    (json!(total - canary), json!(canary))
}

/// The nearest whole number from 0.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast of a float stops at the ends of the range"
)]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// A weight as a number; text counts where it is one.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

/// Whether two values say the same: 10 and 10.0 do, "10" is something else.
pub fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (one, other) => one == other,
    }
}

/// The slots of an object of a known kind.
pub fn find(canary: &Canary, layout: &Layout, object: &Object) -> Found {
    match layout {
        Layout::CanaryIngress => canary_ingress(canary, object),
        Layout::Lists {
            lists,
            naming,
            missing,
        } => {
            let mut found = Found::default();
            for pattern in *lists {
                for pointer in expand(object, pattern) {
                    rule(canary, *naming, *missing, object, &pointer, &mut found);
                }
            }
            if found.slots.is_empty() {
                found.fault(format!(
                    "no rule names both sides; let a rule name {} (or {}) and {} beside it, with weights 100 and 0",
                    canary.apex_name(),
                    canary.primary_service_name(),
                    canary.canary_service_name()
                ));
            }
            found
        }
    }
}

/// The pointers that a pattern stands for in an object.
fn expand(object: &Object, pattern: &str) -> Vec<String> {
    let Some((list, rest)) = pattern.split_once("/*") else {
        return vec![pattern.to_owned()];
    };
    let length = object.at(list).as_array().map_or(0, Vec::len);
    (0..length)
        .map(|position| format!("{list}/{position}{rest}"))
        .collect()
}

/// `/spec/rules/0/backendRefs` as `spec.rules[0]`.
fn spoken(pointer: &str) -> String {
    pointer
        .trim_start_matches('/')
        .split('/')
        .fold(String::new(), |mut text, step| {
            if step.bytes().all(|byte| byte.is_ascii_digit()) {
                text.push('[');
                text.push_str(step);
                text.push(']');
            } else {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(step);
            }
            text
        })
}

/// The Service of the canary's namespace that a backend names.
fn service<'a>(naming: Naming, namespace: &str, backend: &'a Value) -> Option<&'a str> {
    match naming {
        Naming::Reference => {
            let usual = |key: &str, usual: &str| backend[key].as_str().is_none_or(|it| it == usual);
            let core = backend["group"]
                .as_str()
                .is_none_or(|group| group.is_empty() || group == "core");
            (core && usual("kind", "Service") && usual("namespace", namespace))
                .then(|| backend["name"].as_str())
                .flatten()
        }
        Naming::Host => {
            let host = backend["destination"]["host"].as_str()?;
            let Some((name, rest)) = host.split_once('.') else {
                return Some(host);
            };
            let behind = rest.strip_prefix(namespace)?;
            (behind.is_empty() || behind == ".svc" || behind.starts_with(".svc.")).then_some(name)
        }
        Naming::Unmirrored => (backend["mirror"] != true)
            .then(|| backend["name"].as_str())
            .flatten(),
    }
}

/// Looks at one list of backends.
fn rule(
    canary: &Canary,
    naming: Naming,
    missing: Missing,
    object: &Object,
    pointer: &str,
    found: &mut Found,
) {
    let Some(backends) = object.at(pointer).as_array() else {
        return;
    };
    let namespace = canary.metadata.namespace.as_str();
    let named = |name: &str| -> Vec<usize> {
        (0..backends.len())
            .filter(|position| service(naming, namespace, &backends[*position]) == Some(name))
            .collect()
    };
    let (apex, primary) = (canary.apex_name(), canary.primary_service_name());
    let canary_service = canary.canary_service_name();
    let (of_apex, of_primary, of_canary) = (named(apex), named(&primary), named(&canary_service));
    let rule_pointer = pointer.rsplit_once('/').map_or("", |(rule, _)| rule);
    let name = spoken(rule_pointer);
    let (stable, shifted) = match (
        of_apex.as_slice(),
        of_primary.as_slice(),
        of_canary.as_slice(),
    ) {
        ([], _, []) | ([], [], _) => return,
        ([stable], [], [shifted]) | ([], [stable], [shifted]) => (*stable, *shifted),
        (_, _, []) => {
            return found.fault(format!(
                "{name} names {apex} and not {canary_service}, so it would get no canary traffic while others do; list {canary_service} \
                 beside it with weight 0, or name {primary} to keep the rule on the primary"
            ));
        }
        _ => {
            return found.fault(format!(
                "{name} names one side more than once; one backend of {apex} or {primary} and one of {canary_service} are expected in a rule"
            ));
        }
    };
    let others: Vec<&Value> = (0..backends.len())
        .filter(|position| ![stable, shifted].contains(position))
        .map(|position| &backends[position])
        .filter(|backend| naming != Naming::Unmirrored || backend["mirror"] != true)
        .collect();
    let shares = others.iter().any(|backend| match &backend["weight"] {
        Value::Null => missing == Missing::One,
        weight => number(weight).unwrap_or(0.0) > 0.0,
    });
    let place = |position: usize| Place {
        pointer: format!("{pointer}/{position}/weight"),
        found: backends[position]["weight"].clone(),
    };
    let slot = Slot {
        key: key(
            object.at(rule_pointer),
            pointer,
            [stable, shifted],
            &found.slots,
        ),
        canary: place(shifted),
        primary: Some(place(stable)),
        scale: Scale::Relative {
            missing,
            others: shares,
        },
        name,
    };
    let (of_stable, of_shifted) = slot.parts(&slot.live());
    let name = &slot.name;
    if shares && of_stable + of_shifted == 0.0 {
        // The user has given the whole rule to somebody else.
        return;
    }
    if shares && of_stable + of_shifted < LEAST_SUM {
        found.fault(format!(
            "{name} has other backends, and the weights of both sides sum to {} only; they keep that sum, so it must be at least {LEAST_SUM} \
             to be divided by percents: multiply all weights of the rule",
            of_stable + of_shifted
        ));
    } else if missing == Missing::Equal
        && !shares
        && !others.is_empty()
        && number(&slot.live().primary).unwrap_or(0.0) + number(&slot.live().canary).unwrap_or(0.0)
            == 0.0
    {
        return found.fault(format!(
            "{name} has other backends and no weights, so all share equally; write the weight of each"
        ));
    }
    found.slots.push(slot);
}

/// What a rule says but for its two weights: position and order of rules may change without losing what was remembered of one.
fn key(rule: &Value, list: &str, positions: [usize; 2], before: &[Slot]) -> String {
    let mut rule = rule.clone();
    let list = list.rsplit_once('/').map_or("", |(_, list)| list);
    for position in positions {
        if let Some(backend) = rule[list][position].as_object_mut() {
            backend.remove("weight");
        }
    }
    let digest = short_digest(&rule);
    let twins = before
        .iter()
        .filter(|slot| slot.key.starts_with(&digest))
        .count();
    if twins == 0 {
        digest
    } else {
        format!("{digest}-{twins}")
    }
}

/// nginx has no weights among the backends of an Ingress: a second Ingress is marked as the canary of the first by an annotation, and
/// another says its share.
fn canary_ingress(canary: &Canary, object: &Object) -> Found {
    let mut found = Found::default();
    let annotations = object.annotations();
    let prefix = annotations
        .iter()
        .filter(|(_, value)| *value == "true")
        .find_map(|(key, _)| key.strip_suffix(INGRESS_CANARY));
    let Some(prefix) = prefix else {
        found.fault(format!(
            "an Ingress has no weights; name a second Ingress here that leads the same hosts and paths to {} and has the annotations \
             {USUAL_PREFIX}/canary: \"true\" and {USUAL_PREFIX}/canary-weight: \"0\", as ingress-nginx and Traefik understand them",
            canary.canary_service_name()
        ));
        return found;
    };
    let (weight_key, total_key) = (
        format!("{prefix}/canary-weight"),
        format!("{prefix}/canary-weight-total"),
    );
    let paths = expand(object, "/spec/rules/*/http/paths")
        .into_iter()
        .filter_map(|pointer| object.at(&pointer).as_array())
        .flatten()
        .map(|path| &path["backend"]);
    let services: Vec<&str> = paths
        .chain(std::iter::once(object.at("/spec/defaultBackend")))
        .filter_map(|backend| backend["service"]["name"].as_str())
        .collect();
    let wanted = canary.canary_service_name();
    if let Some(other) = services.iter().find(|name| **name != wanted) {
        found.fault(format!(
            "a canary Ingress has one weight for all that it leads to, and it leads to {other} too; let it name {wanted} alone"
        ));
    } else if services.is_empty() {
        found.fault(format!("no backend names {wanted}"));
    }
    let total = match object.annotation(&total_key) {
        None => 100,
        Some(text) => match text.trim().parse::<u64>() {
            Ok(total) if total >= 100 => total,
            _ => {
                found.fault(format!(
                    "annotation {total_key} is {text:?}; a whole number from 100 is expected"
                ));
                return found;
            }
        },
    };
    let annotation = &object.at("/metadata/annotations")[weight_key.as_str()];
    found.slots.push(Slot {
        key: "canary-weight".to_owned(),
        name: format!("annotation {weight_key}"),
        canary: Place {
            pointer: format!("/metadata/annotations/{}", escape(&weight_key)),
            found: annotation.clone(),
        },
        primary: None,
        scale: Scale::Fixed(total),
    });
    found
}

/// The values of a canary Ingress are always text.
pub fn textual(slot: &Slot, mut values: Values) -> Values {
    let text = slot.canary.pointer.starts_with("/metadata/");
    let as_text = |value: Value| match value {
        Value::Number(number) => Value::String(number.to_string()),
        other => other,
    };
    if text {
        values.canary = as_text(values.canary);
    }
    if slot
        .primary
        .as_ref()
        .is_some_and(|place| place.pointer.starts_with("/metadata/"))
    {
        values.primary = as_text(values.primary);
    }
    values
}

/// The slot that two paths name.
pub fn at_paths(paths: &WeightPaths, object: &Object, found: &mut Found) {
    let mut place = |text: &str| -> Option<Place> {
        let path = match Path::parse(text) {
            Ok(path) => path,
            Err(why) => {
                found.fault(format!("{text}: {why}"));
                return None;
            }
        };
        let pointer = path.pointer();
        let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        let holder = object.value().pointer(parent);
        let value = object.value().pointer(&pointer).cloned();
        match (holder, value) {
            (Some(_), Some(value)) if number(&value).is_some_and(|weight| weight >= 0.0) => {
                Some(Place {
                    pointer,
                    found: value,
                })
            }
            // Nothing is there yet; in a list there would be no telling what to put there.
            (Some(Value::Object(_)), None | Some(Value::Null)) => Some(Place {
                pointer,
                found: Value::Null,
            }),
            (_, Some(value)) => {
                found.fault(format!(
                    "{text} is {value}; a number from 0 is expected, or text that is one"
                ));
                None
            }
            (_, None) => {
                found.fault(format!("{text} leads to nothing"));
                None
            }
        }
    };
    let Some(canary) = place(&paths.canary) else {
        return;
    };
    let primary = match &paths.primary {
        None => None,
        Some(path) => match place(path) {
            None => return,
            primary => primary,
        },
    };
    let total = paths.total.and_then(|total| u64::try_from(total).ok());
    found.slots.push(Slot {
        key: canary.pointer.clone(),
        name: paths.canary.clone(),
        canary,
        primary,
        scale: Scale::Fixed(total.unwrap_or(100)),
    });
}
