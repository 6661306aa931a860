//! One replica of the controller under test: its cache that lags behind the store, its memory of answers, and the work that it is in the
//! middle of. It mirrors the rules of `controller`: decide, reading what is wanted; the status first, guarded by its version; what is
//! told after the status; then the writes in order; stop at the first that fails.

use crate::object::{Kind, Object, ObjectRef, Reading, kinds};
use crate::rollout::{Decision, Finding, ListRef, Listing, Memory, Snapshot, Want};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::store::{Change, Store};

const STREAMS: usize = 10;
/// More than the rounds that are under way can ask.
const MOST_ANSWERS: usize = 32;

/// The kinds that are watched, each by a stream of its own.
pub const WATCHED: [Kind; STREAMS] = [
    kinds::CANARY,
    kinds::DEPLOYMENT,
    kinds::SERVICE,
    kinds::ENDPOINT_SLICE,
    kinds::HTTP_ROUTE,
    kinds::CONTROLLER_REVISION,
    kinds::DAEMON_SET,
    kinds::CONFIG_MAP,
    kinds::HORIZONTAL_POD_AUTOSCALER,
    kinds::SCALED_OBJECT,
];

/// The position of a kind in [`WATCHED`].
#[must_use]
pub fn stream_of(kind: &Kind) -> Option<usize> {
    WATCHED.iter().position(|watched| watched == kind)
}

#[derive(Clone, Debug)]
struct Cached {
    revision: u64,
    /// `None` for an object that is gone; kept so that older news can't bring it back.
    object: Option<Arc<Object>>,
}

/// News of one kind, delivered in order.
#[derive(Clone, Debug, Default)]
struct Stream {
    news: VecDeque<News>,
    last: i64,
}

/// A change that is on its way to a replica.
#[derive(Clone, Debug)]
struct News {
    /// When it happened, in ms.
    happened: i64,
    /// When it arrives.
    due: i64,
    /// The store's revision, and what there is then.
    revision: u64,
    name: ObjectRef,
    object: Option<Arc<Object>>,
}

/// What a replica is carrying out.
#[derive(Clone, Debug)]
pub struct Work {
    /// The canary as it was decided from.
    pub canary: Arc<Object>,
    /// What was decided.
    pub decision: Decision,
    /// Whether the status has been dealt with.
    pub status_done: bool,
    /// The next write.
    pub next: usize,
    /// Whether anything was written.
    pub wrote: bool,
}

/// A replica.
#[derive(Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of one replica"
)]
pub struct Replica {
    /// Dead ones do nothing for ever; a restart is another replica.
    pub alive: bool,
    /// It lost its watches for good, and goes on.
    pub deaf: bool,
    /// A request that stands still on its way: when it went out in ms, and the store's revision then. It is the last one: by the time it
    /// arrives the lease is over, and nothing goes out without one.
    pub sent: Option<(i64, u64)>,
    /// Watch lag in ms.
    pub lag: i64,
    /// Until when the lag is as it is.
    pub lag_until: i64,
    /// Until when the watches are broken.
    pub broken_until: i64,
    cache: BTreeMap<ObjectRef, Cached>,
    streams: [Stream; STREAMS],
    /// Answers to what was asked, newest last.
    pub answers: VecDeque<(String, Finding)>,
    /// What was asked and not answered yet.
    pub pending: BTreeSet<String>,
    /// What the last decision looked at.
    pub wants: BTreeSet<Want>,
    /// What is being carried out.
    pub work: Option<Work>,
    /// Whether a pass is on the way.
    pub queued: bool,
    /// Something changed while work was carried out.
    pub dirty: bool,
    /// Failures in a row.
    pub failures: u32,
    /// When a request failed after which nothing was decided yet.
    pub failed_at: Option<i64>,
    /// Conflicts in a row.
    pub conflicts: u32,
    /// Passes in a row that wrote something.
    pub restless: u32,
    /// Serial number of the alarm that counts.
    pub alarm: u64,
    /// What earlier decisions worked out.
    pub memory: Arc<Memory>,
    /// What decisions are made from; kept from pass to pass, since little changes between them.
    pub snapshot: Option<Snapshot>,
    /// What became known since the snapshot was made up.
    news: BTreeSet<ObjectRef>,
}

impl Replica {
    /// A replica that has just listed everything.
    #[must_use]
    pub fn fresh(store: &Store, lag: i64) -> Self {
        let mut replica = Self {
            alive: true,
            lag,
            ..Self::default()
        };
        replica.relist(store);
        replica
    }

    /// Takes over everything as it is in the store; what was absorbed and is newer stays.
    pub fn relist(&mut self, store: &Store) {
        for kind in &WATCHED {
            for (name, revision, object) in store.of_kind(kind) {
                self.learn(name, revision, Some(object));
            }
        }
        let revision = store.revision();
        for (name, cached) in &mut self.cache {
            if cached.object.is_some() && cached.revision <= revision && store.get(name).is_none() {
                *cached = Cached {
                    revision,
                    object: None,
                };
                self.news.insert(name.clone());
            }
        }
        for stream in &mut self.streams {
            stream.news.clear();
        }
    }

    /// Takes over one object unless something newer is known. True if that is news.
    pub fn learn(&mut self, name: &ObjectRef, revision: u64, object: Option<&Arc<Object>>) -> bool {
        match self.cache.get(name) {
            Some(cached) if cached.revision >= revision => false,
            _ => {
                self.news.insert(name.clone());
                self.cache.insert(
                    name.clone(),
                    Cached {
                        revision,
                        object: object.cloned(),
                    },
                );
                true
            }
        }
    }

    /// Puts a change on its stream. Returns the stream and when it will be delivered.
    pub fn hear(&mut self, change: &Change, now: i64, jitter: i64) -> Option<(usize, i64)> {
        if !self.alive || self.deaf {
            return None;
        }
        let position = stream_of(&change.name.kind)?;
        let lag = if now < self.lag_until {
            self.lag * 40
        } else {
            self.lag
        };
        let stream = &mut self.streams[position];
        let at = (now + lag + jitter).max(stream.last).max(self.broken_until);
        stream.last = at;
        stream.news.push_back(News {
            happened: now,
            due: at,
            revision: change.revision,
            name: change.name.clone(),
            object: change.after.clone(),
        });
        Some((position, at))
    }

    /// Delivers what is due on a stream. True if something changed that the last decision looked at.
    pub fn deliver(&mut self, position: usize, now: i64) -> bool {
        let mut woken = false;
        while self.streams[position]
            .news
            .front()
            .is_some_and(|news| news.due <= now)
        {
            let Some(news) = self.streams[position].news.pop_front() else {
                break;
            };
            let object = news.object.as_ref();
            if self.learn(&news.name, news.revision, object) {
                woken |= news.name.kind == kinds::CANARY
                    || self.cares(&news.name, object.map(AsRef::as_ref));
            }
        }
        woken
    }

    fn cares(&self, name: &ObjectRef, object: Option<&Object>) -> bool {
        self.wants.iter().any(|want| match want {
            Want::Object(wanted) => wanted == name,
            Want::List(list) => {
                list.kind == name.kind && object.is_none_or(|object| has_labels(object, list))
            }
        })
    }

    /// An object as the cache knows it.
    #[must_use]
    pub fn read(&self, name: &ObjectRef) -> Reading {
        match self
            .cache
            .get(name)
            .and_then(|cached| cached.object.as_ref())
        {
            Some(object) => Reading::Present(Arc::clone(object)),
            None => Reading::Absent,
        }
    }

    /// A list as the cache knows it.
    #[must_use]
    pub fn list(&self, list: &ListRef) -> Listing {
        let found = self
            .cache
            .iter()
            .filter(|(name, _)| name.kind == list.kind && name.namespace == list.namespace);
        Listing::Known(
            found
                .filter_map(|(_, cached)| cached.object.clone())
                .filter(|object| has_labels(object, list))
                .collect(),
        )
    }

    /// How far the cache may be behind the store now, in ms.
    #[must_use]
    pub fn staleness(&self, now: i64) -> i64 {
        let lag = if now < self.lag_until + 20_000 {
            self.lag * 40
        } else {
            self.lag
        };
        let broken = self.deaf || now < self.broken_until + 1_000;
        let oldest = self
            .streams
            .iter()
            .filter_map(|stream| stream.news.front())
            .map(|news| now - news.happened)
            .max();
        (1_000 + lag + if broken { 30_000 } else { 0 }).max(1_000 + oldest.unwrap_or(0))
    }

    /// The canary and its version.
    #[must_use]
    pub fn canary(&self, name: &ObjectRef) -> Option<(u64, Arc<Object>)> {
        let cached = self.cache.get(name)?;
        Some((cached.revision, cached.object.clone()?))
    }

    /// Brings a snapshot to what is known now: what became known since it was last done, or everything that was ever wanted.
    pub fn inform(&mut self, snapshot: &mut Snapshot, everything: bool) {
        let news = std::mem::take(&mut self.news);
        for want in &self.wants {
            match want {
                Want::Object(name) if everything || news.contains(name) => {
                    snapshot.add_object(name.clone(), self.read(name));
                }
                Want::List(list)
                    if everything
                        || news.iter().any(|name| {
                            name.kind == list.kind && name.namespace == list.namespace
                        }) =>
                {
                    snapshot.add_list(list.clone(), self.list(list));
                }
                _ => {}
            }
        }
        if everything {
            for (key, finding) in &self.answers {
                snapshot.add_finding(key.clone(), finding.clone());
            }
        }
    }

    /// Wants more than before.
    pub fn want(&mut self, snapshot: &mut Snapshot, more: BTreeSet<Want>) {
        for want in &more {
            match want {
                Want::Object(name) => snapshot.add_object(name.clone(), self.read(name)),
                Want::List(list) => snapshot.add_list(list.clone(), self.list(list)),
            }
        }
        self.wants.extend(more);
    }

    /// Keeps an answer.
    pub fn keep(&mut self, key: String, finding: Finding) {
        self.pending.remove(&key);
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.add_finding(key.clone(), finding.clone());
        }
        self.answers.push_back((key, finding));
        if self.answers.len() > MOST_ANSWERS
            && let Some((old, _)) = self.answers.pop_front()
            && let Some(snapshot) = &mut self.snapshot
        {
            snapshot.forget_finding(&old);
        }
    }
}

fn has_labels(object: &Object, list: &ListRef) -> bool {
    list.labels
        .iter()
        .all(|(key, value)| object.at("/metadata/labels")[key.as_str()].as_str() == Some(value))
}
