//! What the caches know of an object. "Unknown" is a state of its own: a read that failed must start, stop and promote
//! nothing, so it can't be mistaken for "absent".

use super::Object;
use jiff::Timestamp;
use std::sync::Arc;

/// What is known of one object at the moment of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// The object, as the cache last saw it.
    Present(Arc<Object>),
    /// The API server says that there is no such object.
    Absent,
    /// It could not be read; the text says why.
    Unknown(String),
}

impl Reading {
    /// The object, if it is present.
    #[must_use]
    pub fn object(&self) -> Option<&Object> {
        match self {
            Self::Present(object) => Some(object),
            _ => None,
        }
    }

    /// True only where the API server said that the object does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Why the object could not be read, if that is so.
    #[must_use]
    pub fn unknown(&self) -> Option<&str> {
        match self {
            Self::Unknown(why) => Some(why),
            _ => None,
        }
    }
}

/// The endpoints behind one Service, added up over its `EndpointSlice`s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Addresses whose `ready` condition is true (or not set, which the API defines as ready).
    pub ready: usize,
    /// Names of the pods behind the ready addresses, as far as `targetRef` tells, sorted.
    pub ready_pods: Vec<String>,
    /// All addresses, whatever their condition.
    pub total: usize,
}

/// Why pods of a side are not well, captured while the pods are still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// Sentences such as `podinfo-abc: container app: CrashLoopBackOff: back-off 10s restarting failed container`, bounded.
    pub complaints: Vec<String>,
    /// When the newest complaint was seen.
    pub seen_at: Option<Timestamp>,
}
