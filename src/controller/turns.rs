//! Which canary may begin its run where only so many may be under way at once. The queue itself stands in the canaries' statuses, so that it
//! survives this process; here is only who was let through and has not written so yet.

use super::cache::Caches;
use super::queue::CanaryKey;
use crate::object::Object;
use crate::rollout::{Competitor, Limits, Stage, Stands, Turn, WAIT_TURN, turn};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lets canaries through.
#[derive(Debug, Default)]
pub struct Turns {
    limits: Limits,
    /// Let through, and not seen to run yet.
    granted: Mutex<HashSet<CanaryKey>>,
}

impl Turns {
    /// Lets through as many as `limits` say.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            granted: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<CanaryKey>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a run of this canary may begin.
    #[must_use]
    pub fn of(&self, caches: &Caches, key: &CanaryKey, object: &Object) -> Turn {
        if !self.limits.any() {
            return Turn::Free;
        }
        self.among(&self.lock(), caches, key, object)
    }

    /// Lets a canary through that is about to begin a run, unless others were faster. What was let through is given back with
    /// [`Turns::settle`].
    #[must_use]
    pub fn grant(&self, caches: &Caches, key: &CanaryKey, object: &Object) -> bool {
        if !self.limits.any() {
            return true;
        }
        let mut granted = self.lock();
        let free = self.among(&granted, caches, key, object) == Turn::Free;
        if free {
            granted.insert(key.clone());
        }
        free
    }

    /// The canary's status says by now where it stands.
    pub fn settle(&self, key: &CanaryKey) {
        if self.limits.any() {
            self.lock().remove(key);
        }
    }

    fn among(
        &self,
        granted: &HashSet<CanaryKey>,
        caches: &Caches,
        key: &CanaryKey,
        object: &Object,
    ) -> Turn {
        let others: Vec<Competitor> = caches
            .canaries()
            .iter()
            .map(|other| (CanaryKey::new(other.namespace(), other.name()), other))
            .filter(|(other, _)| other != key)
            .filter_map(|(other, canary)| {
                let stands = if granted.contains(&other) {
                    Stands::Runs
                } else {
                    stands(canary)?
                };
                Some(Competitor {
                    namespace: other.namespace.to_string(),
                    name: other.name.to_string(),
                    stands,
                })
            })
            .collect();
        let since = match stands(object) {
            Some(Stands::Waits(since)) => Some(since),
            _ => None,
        };
        turn(self.limits, &key.namespace, &key.name, since, &others)
    }
}

/// Where a canary stands, from its status: `None` for one that neither runs nor waits for its turn.
#[must_use]
pub fn stands(canary: &Object) -> Option<Stands> {
    let run = canary.at("/status/run");
    let stage = Stage::parse(run["stage"].as_str()?)?;
    if stage.is_under_way() {
        return Some(Stands::Runs);
    }
    let queued = run["waitingFor"].as_str() == Some(WAIT_TURN)
        && canary.at("/spec/suspend").as_bool() != Some(true)
        && !canary.is_deleting();
    let since = run["waitingSince"].as_str()?.parse().ok()?;
    queued.then_some(Stands::Waits(since))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_status_says_who_runs_and_who_waits() {
        let rows = [
            (json!({}), json!({}), None),
            (json!({}), json!({"stage": "Analysing"}), Some(Stands::Runs)),
            (json!({}), json!({"stage": "Held"}), None),
            (json!({}), json!({"stage": "Initializing"}), None),
            (
                json!({}),
                json!({"stage": "Waiting", "waitingFor": "gate ok", "waitingSince": "2026-01-01T00:00:00Z"}),
                None,
            ),
            (
                json!({}),
                json!({"stage": "Waiting", "waitingFor": "its turn", "waitingSince": "2026-01-01T00:00:00Z"}),
                Some(Stands::Waits("2026-01-01T00:00:00Z".parse().unwrap())),
            ),
            (
                json!({"suspend": true}),
                json!({"stage": "Waiting", "waitingFor": "its turn", "waitingSince": "2026-01-01T00:00:00Z"}),
                None,
            ),
        ];
        for (spec, run, expected) in rows {
            let canary = Object::new(json!({"spec": spec, "status": {"run": run}}));
            assert_eq!(stands(&canary), expected, "{}", canary.value());
        }
    }
}
