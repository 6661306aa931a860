//! All that a decision may know: the canary, the settings, the clock, what was read of the cluster, and the answers to what was
//! asked. A snapshot notes what was looked for and is not in it; the controller reads that and decides again.

use super::need::{Finding, Need};
use crate::api::Canary;
use crate::object::{Endpoints, Kind, Object, ObjectRef, Reading, kinds};
use crate::workload::WorkloadSettings;
use jiff::Timestamp;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// Settings of the workload room.
    pub workload: WorkloadSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mesh_provider: "gatewayapi:v1".to_owned(),
            metrics_server: "http://prometheus:9090".to_owned(),
            no_cross_namespace_refs: false,
            cluster_name: String::new(),
            workload: WorkloadSettings::default(),
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
    /// What the API server refused when the decision before this one was carried out, if it still stands in the way.
    pub refusal: Option<Refusal>,
    /// A value that differs from snapshot to snapshot; the only source of randomness (cookies).
    pub entropy: u64,
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
            refusal: None,
            entropy: 0,
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

    /// The endpoints behind a Service of the canary's namespace, added up over its `EndpointSlice`s.
    pub fn endpoints(&self, service: &str) -> Result<Endpoints, String> {
        let name = ListRef {
            kind: kinds::ENDPOINT_SLICE,
            namespace: self.canary.metadata.namespace.clone(),
            labels: [("kubernetes.io/service-name".to_owned(), service.to_owned())].into(),
        };
        match self.list(&name) {
            Listing::Unknown(why) => Err(why),
            Listing::Known(slices) => Ok(count_endpoints(&slices)),
        }
    }
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
        if !seen.insert(address.to_owned()) {
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
