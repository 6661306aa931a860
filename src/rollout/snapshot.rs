//! All that a decision may know: the canary, the settings, the clock, what was read of the cluster, and the answers to what was
//! asked. A snapshot notes what was looked for and is not in it; the controller reads that and decides again.

use super::alerts::AlertOutcome;
use super::need::{Finding, Need};
use super::turn::{Limits, Turn};
use crate::analysis::MetricFlags;
use crate::api::Canary;
use crate::object::{Endpoints, Kind, Object, ObjectRef, Reading, kinds};
use crate::routing::RoutingSettings;
use crate::workload::configs::{self, ConfigReference};
use crate::workload::{Sides, Target, WorkloadSettings, revision_hash};
use jiff::Timestamp;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

/// What the controller was started with, so far as decisions depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `-mesh-provider`: the router of canaries that name none.
    pub mesh_provider: String,
    /// `-metrics-server`: base URL for built-in and inline metrics of canaries that name none.
    pub metrics_server: String,
    /// `-no-cross-namespace-refs`.
    pub no_cross_namespace_refs: bool,
    /// `-cluster-name`.
    pub cluster_name: String,
    /// The controller has a channel of its own, for alerts about canaries that name nobody.
    pub alerts: bool,
    /// How many runs may be under way at once.
    pub limits: Limits,
    /// Settings of the workload room.
    pub workload: WorkloadSettings,
    /// Settings of the routing room.
    pub routing: RoutingSettings,
}

impl Settings {
    /// Those that questions to metrics backends depend on.
    #[must_use]
    pub fn metrics(&self) -> MetricFlags<'_> {
        MetricFlags {
            mesh_provider: &self.mesh_provider,
            metrics_server: &self.metrics_server,
            no_cross_namespace_refs: self.no_cross_namespace_refs,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mesh_provider: "gatewayapi:v1".to_owned(),
            metrics_server: "http://prometheus:9090".to_owned(),
            no_cross_namespace_refs: false,
            cluster_name: String::new(),
            alerts: false,
            limits: Limits::default(),
            workload: WorkloadSettings::default(),
            routing: RoutingSettings::default(),
        }
    }
}

/// Names a list of objects: one kind, one namespace, all of these labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListRef {
    /// The resource.
    pub kind: Kind,
    /// The namespace.
    pub namespace: String,
    /// Labels that every object of the list carries with these values.
    pub labels: BTreeMap<String, String>,
}

impl ListRef {
    /// The `EndpointSlice`s of a Service.
    #[must_use]
    pub fn endpoints(namespace: &str, service: &str) -> Self {
        Self {
            kind: kinds::ENDPOINT_SLICE,
            namespace: namespace.to_owned(),
            labels: [("kubernetes.io/service-name".to_owned(), service.to_owned())].into(),
        }
    }
}

/// What is known of a list.
#[derive(Clone, Debug, PartialEq)]
pub enum Listing {
    /// All objects of the list.
    Known(Vec<Arc<Object>>),
    /// It could not be read; the text says why.
    Unknown(String),
}

/// Something that a decision looked for and that the snapshot lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// One object.
    Object(ObjectRef),
    /// A list of objects.
    List(ListRef),
}

/// Another Canary of the cluster, as far as it can get in this one's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Its name, in the same namespace.
    pub name: String,
    /// When it was created; the older one keeps what both claim.
    pub created_at: Option<Timestamp>,
    /// `kind/name` of its target.
    pub target: String,
    /// Its apex Service name.
    pub apex: String,
}

/// A write that the API server won't do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable reason of the condition and the event.
    pub reason: &'static str,
    /// The object, and what the API server says of it.
    pub message: String,
}

/// What was worked out before and holds while nothing changes that it was worked out from: which parts of a plan needed no write, and
/// the target's revision. It saves work and changes no decision.
#[derive(Debug, Default)]
pub struct Memory {
    settled: Mutex<HashMap<u64, Vec<Seen>>>,
    target: Mutex<Option<TargetFacts>>,
}

/// What a target says of its revision.
#[derive(Clone, Debug)]
pub(super) struct TargetFacts {
    object: Arc<Object>,
    /// The template as it is kept.
    pub template: Arc<Value>,
    /// Its hash.
    pub revision: String,
    /// The configs that it names.
    pub references: Arc<[ConfigReference]>,
}

impl TargetFacts {
    fn of(kind: &dyn Target, object: &Arc<Object>) -> Self {
        let template = kind.template(object);
        Self {
            object: Arc::clone(object),
            revision: revision_hash(&template),
            references: configs::references(&template).into(),
            template: Arc::new(template),
        }
    }
}

/// An object as it was seen; `None` for one that was not there.
type Seen = (ObjectRef, Option<Arc<Object>>);

/// More than a canary has parts; beyond it everything is forgotten.
const MOST_REMEMBERED: usize = 256;

/// Everything that one decision may know.
#[derive(Debug)]
pub struct Snapshot {
    /// Now.
    pub now: Timestamp,
    /// The canary, decoded.
    pub canary: Arc<Canary>,
    /// Settings of the controller.
    pub settings: Arc<Settings>,
    /// Other canaries of the same namespace.
    pub siblings: Vec<Sibling>,
    /// Whether a run may begin, where only so many may at once.
    pub turn: Turn,
    /// What the API server refused when the decision before this one was carried out, if it still stands in the way.
    pub refusal: Option<Refusal>,
    /// What became of alerts that the status may still have as pending.
    pub alert_outcomes: Vec<AlertOutcome>,
    /// A value that differs from snapshot to snapshot; the only source of randomness (cookies).
    pub entropy: u64,
    /// What earlier decisions about this canary worked out; without it everything is worked out anew.
    pub memory: Option<Arc<Memory>>,
    objects: BTreeMap<ObjectRef, Reading>,
    lists: BTreeMap<ListRef, Listing>,
    findings: BTreeMap<String, Finding>,
    missing: RefCell<BTreeSet<Want>>,
}

impl Snapshot {
    /// A snapshot that knows the canary and nothing else.
    #[must_use]
    pub fn new(now: Timestamp, canary: Arc<Canary>, settings: Arc<Settings>) -> Self {
        Self {
            now,
            canary,
            settings,
            siblings: Vec::new(),
            turn: Turn::Free,
            refusal: None,
            alert_outcomes: Vec::new(),
            entropy: 0,
            memory: None,
            objects: BTreeMap::new(),
            lists: BTreeMap::new(),
            findings: BTreeMap::new(),
            missing: RefCell::new(BTreeSet::new()),
        }
    }

    /// Adds what is known of an object.
    pub fn add_object(&mut self, name: ObjectRef, reading: Reading) {
        self.objects.insert(name, reading);
    }

    /// Adds what is known of a list.
    pub fn add_list(&mut self, name: ListRef, listing: Listing) {
        self.lists.insert(name, listing);
    }

    /// Adds the answer to a need.
    pub fn add_finding(&mut self, key: String, finding: Finding) {
        self.findings.insert(key, finding);
    }

    /// Forgets the answer to a need.
    pub fn forget_finding(&mut self, key: &str) {
        self.findings.remove(key);
    }

    /// What was looked for and is not here. Empties the note.
    #[must_use]
    pub fn take_missing(&self) -> BTreeSet<Want> {
        std::mem::take(&mut self.missing.borrow_mut())
    }

    /// What is known of an object; one that was not read yet is unknown, and noted.
    #[must_use]
    pub fn object(&self, name: &ObjectRef) -> Reading {
        self.objects.get(name).cloned().unwrap_or_else(|| {
            self.missing.borrow_mut().insert(Want::Object(name.clone()));
            Reading::Unknown("not read yet".to_owned())
        })
    }

    /// What is known of a list; one that was not read yet is unknown, and noted.
    #[must_use]
    pub fn list(&self, name: &ListRef) -> Listing {
        self.lists.get(name).cloned().unwrap_or_else(|| {
            self.missing.borrow_mut().insert(Want::List(name.clone()));
            Listing::Unknown("not read yet".to_owned())
        })
    }

    /// The answer to a need, if it is there.
    #[must_use]
    pub fn finding(&self, need: &Need) -> Option<&Finding> {
        self.findings.get(&need.key)
    }

    fn seen(&self, name: &ObjectRef) -> Option<Seen> {
        match self.object(name) {
            Reading::Present(object) => Some((name.clone(), Some(object))),
            Reading::Absent => Some((name.clone(), None)),
            Reading::Unknown(_) => None,
        }
    }

    /// Whether this part of the plan needed no write before, and the canary's spec and all objects that it looked at are the same.
    pub(super) fn is_settled(&self, part: &impl Hash) -> bool {
        self.is_settled_by(part, Arc::ptr_eq)
    }

    /// The same for a part that looks at nothing but what objects ask for, not at what became of it.
    pub(super) fn is_settled_but_for_status(&self, part: &impl Hash) -> bool {
        self.is_settled_by(part, asks_the_same)
    }

    fn is_settled_by(
        &self,
        part: &impl Hash,
        same: fn(&Arc<Object>, &Arc<Object>) -> bool,
    ) -> bool {
        let Some(memory) = &self.memory else {
            return false;
        };
        let Ok(mut settled) = memory.settled.lock() else {
            return false;
        };
        settled.get_mut(&self.key(part)).is_some_and(|objects| {
            objects
                .iter_mut()
                .all(|(name, then)| match (then, self.objects.get(name)) {
                    (Some(then), Some(Reading::Present(now))) if same(then, now) => {
                        // The next comparison is one of pointers.
                        *then = Arc::clone(now);
                        true
                    }
                    (None, Some(Reading::Absent)) => true,
                    _ => false,
                })
        })
    }

    /// Remembers that this part of the plan needs no write, and what that was worked out from.
    pub(super) fn remember_settled(&self, part: &impl Hash, from: &[ObjectRef]) {
        let Some(memory) = &self.memory else { return };
        let Some(seen) = from.iter().map(|name| self.seen(name)).collect() else {
            return;
        };
        if let Ok(mut settled) = memory.settled.lock() {
            if settled.len() >= MOST_REMEMBERED {
                settled.clear();
            }
            settled.insert(self.key(part), seen);
        }
    }

    fn key(&self, part: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        let metadata = &self.canary.metadata;
        (&metadata.uid, metadata.generation).hash(&mut hasher);
        part.hash(&mut hasher);
        hasher.finish()
    }

    /// The target's template, its hash and the configs that it names.
    pub(super) fn target_facts(&self, kind: &dyn Target, target: &Arc<Object>) -> TargetFacts {
        let known = self
            .memory
            .as_ref()
            .and_then(|memory| memory.target.lock().ok());
        let Some(mut known) = known else {
            return TargetFacts::of(kind, target);
        };
        match known.as_mut() {
            // Which Revision Knative made last stands in the status.
            Some(facts)
                if kind.sides() != Sides::Revisions && asks_the_same(&facts.object, target) =>
            {
                facts.object = Arc::clone(target);
                facts.clone()
            }
            _ => known.insert(TargetFacts::of(kind, target)).clone(),
        }
    }

    /// The endpoints behind a Service of the canary's namespace, added up over its `EndpointSlice`s.
    pub fn endpoints(&self, service: &str) -> Result<Endpoints, String> {
        let name = ListRef::endpoints(&self.canary.metadata.namespace, service);
        match self.list(&name) {
            Listing::Unknown(why) => Err(why),
            Listing::Known(slices) => Ok(count_endpoints(&slices)),
        }
    }
}

/// Whether two states of an object differ in nothing but their status and what the API server keeps about writes.
fn asks_the_same(one: &Arc<Object>, other: &Arc<Object>) -> bool {
    const BOOKKEEPING: [&str; 3] = ["resourceVersion", "managedFields", "generation"];
    fn differ_only_in(
        keys: &[&str],
        one: &Value,
        other: &Value,
        within: fn(&str, &Value, &Value) -> bool,
    ) -> bool {
        let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else {
            return one == other;
        };
        let rest = |map: &serde_json::Map<String, Value>| {
            map.len() - keys.iter().filter(|key| map.contains_key(**key)).count()
        };
        rest(one) == rest(other)
            && one.iter().all(|(key, value)| {
                keys.contains(&key.as_str())
                    || other
                        .get(key)
                        .is_some_and(|other| within(key, value, other))
            })
    }
    Arc::ptr_eq(one, other)
        || differ_only_in(
            &["status"],
            one.value(),
            other.value(),
            |key, one, other| {
                if key == "metadata" {
                    differ_only_in(&BOOKKEEPING, one, other, |_, one, other| one == other)
                } else {
                    one == other
                }
            },
        )
}

fn count_endpoints(slices: &[Arc<Object>]) -> Endpoints {
    let mut count = Endpoints::default();
    let mut seen = BTreeSet::new();
    for endpoint in slices
        .iter()
        .filter_map(|slice| slice.at("/endpoints").as_array())
        .flatten()
    {
        let address = endpoint["addresses"][0].as_str().unwrap_or_default();
        // A moving endpoint may stand in two slices for a moment.
        if !seen.insert(address) {
            continue;
        }
        count.total += 1;
        if endpoint["conditions"]["ready"].as_bool().unwrap_or(true) {
            count.ready += 1;
            if let Some(pod) = endpoint["targetRef"]["name"].as_str() {
                count.ready_pods.push(pod.to_owned());
            }
        }
    }
    count.ready_pods.sort();
    count
}
