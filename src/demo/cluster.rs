//! The cluster's memory: the simulation's [`Store`] behind a lock, with a log of changes from which watches are fed. The API server, the
//! simulated controllers of Kubernetes and the gateway all work on this one.

use crate::object::{Kind, kinds};
use crate::sim::store::{Change, Hand, Store};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Changes that are kept for watches that come back; older ones are answered with 410, as a real API server does.
const KEPT: usize = 4096;
/// Field managers that are told apart; more share one name, so that nobody can fill the memory with names.
const MOST_MANAGERS: usize = 64;

#[derive(Default)]
struct Inner {
    store: Store,
    log: VecDeque<Change>,
    /// The version up to which changes were forgotten.
    forgotten: u64,
    managers: BTreeSet<&'static str>,
}

/// The cluster's memory.
pub struct Cluster {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            changed: watch::channel(0).0,
        }
    }
}

impl Cluster {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the store while nobody else does, then tells those who watch.
    pub fn with<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        let mut inner = self.lock();
        let before = inner.store.revision();
        let result = work(&mut inner.store);
        let revision = inner.store.revision();
        if revision != before {
            let changes = inner.store.take_changes();
            inner.log.extend(changes);
            while inner.log.len() > KEPT {
                if let Some(gone) = inner.log.pop_front() {
                    inner.forgotten = gone.revision;
                }
            }
            drop(inner);
            self.changed.send_replace(revision);
        }
        result
    }

    /// The changes to objects of a kind after this version, and the version up to which they are; nothing where some are forgotten.
    pub fn since(&self, kind: &Kind, revision: u64) -> Option<(Vec<Change>, u64)> {
        let inner = self.lock();
        if revision < inner.forgotten {
            return None;
        }
        let from = inner
            .log
            .partition_point(|change| change.revision <= revision);
        let changes = inner
            .log
            .range(from..)
            .filter(|change| change.name.kind == *kind)
            .cloned()
            .collect();
        Some((changes, inner.store.revision()))
    }

    /// Tells the version after each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The hand that a field manager's name stands for.
    pub fn hand(&self, manager: &str) -> Hand {
        if manager == "serin" {
            return Hand::Serin;
        }
        let managers = &mut self.lock().managers;
        if let Some(known) = managers.get(manager) {
            return Hand::Other(known);
        }
        if managers.len() >= MOST_MANAGERS {
            return Hand::User;
        }
        // So many small names live as long as the process.
        let name: &'static str = String::leak(manager.chars().take(128).collect());
        managers.insert(name);
        Hand::Other(name)
    }

    /// Whether there is such a namespace.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.with(|store| {
            store
                .get(&super::apiserver::NAMESPACE.named("", name))
                .is_some()
        })
    }

    /// Forgets the oldest events beyond `most`.
    pub fn prune_events(&self, most: usize, now: jiff::Timestamp) {
        self.with(|store| {
            let mut events: Vec<_> = store
                .of_kind(&super::apiserver::EVENT)
                .map(|(name, revision, _)| (revision, name.clone()))
                .collect();
            if events.len() <= most {
                return;
            }
            events.sort();
            for (_, name) in events.iter().take(events.len() - most) {
                let _ = store.delete(name, &crate::object::Expect::Any, Hand::Cluster, now);
            }
        });
    }
}

/// Kinds whose pods the simulated controllers run.
pub const WORKLOADS: [Kind; 2] = [kinds::DEPLOYMENT, kinds::DAEMON_SET];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::object::Expect;
    use serde_json::json;

    #[test]
    fn a_watch_that_was_away_too_long_is_told_so() {
        let cluster = Cluster::default();
        let name = kinds::CONFIG_MAP.named("demo", "a");
        let now = jiff::Timestamp::UNIX_EPOCH;
        cluster.with(|store| {
            store
                .create(
                    &name,
                    json!({"metadata": {"name": "a", "namespace": "demo"}}),
                    Hand::User,
                    now,
                )
                .unwrap();
        });
        assert_eq!(cluster.since(&kinds::CONFIG_MAP, 0).unwrap().0.len(), 1);
        assert_eq!(cluster.since(&kinds::SECRET, 0).unwrap().0.len(), 0);
        for number in 0..=KEPT {
            cluster.with(|store| {
                store
                    .change(&name, &Expect::Any, Hand::User, now, |value| {
                        value["data"] = json!({"n": number.to_string()});
                        Ok(())
                    })
                    .unwrap();
            });
        }
        assert!(cluster.since(&kinds::CONFIG_MAP, 0).is_none());
        assert!(cluster.since(&kinds::CONFIG_MAP, 100).is_some());
    }

    #[test]
    fn the_names_of_managers_are_bounded() {
        let cluster = Cluster::default();
        assert_eq!(cluster.hand("serin"), Hand::Serin);
        assert_eq!(cluster.hand("kubectl"), Hand::Other("kubectl"));
        for number in 0..2 * MOST_MANAGERS {
            cluster.hand(&format!("m{number}"));
        }
        assert_eq!(cluster.hand("one more"), Hand::User);
        assert_eq!(cluster.hand("kubectl"), Hand::Other("kubectl"));
    }
}
