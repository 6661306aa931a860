//! What is known of the objects of one kind, without any I/O: watch events, answers of reads and answers of our own writes come in, in
//! whatever order, and the newest wins. Only what some canary asked for is kept.
//!
//! ```text
//!   watch: init, objects, init done ──┐
//!   watch: changed, deleted ──────────┼──▶ entries (one object each), lists (objects of a label) ──▶ readings
//!   reads: GET, LIST, own writes ─────┘             │
//!                                                   └──▶ canaries to wake
//! ```

use super::queue::CanaryKey;
use crate::object::{Kind, Object, has_inheritance, kinds};
use crate::rollout::ListRef;
use crate::routing;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Namespace and name.
pub type Name = (String, String);

/// A resource version as a number; 0 where it is none, which is older than nothing and newer than nothing.
fn version(object: &Object) -> u128 {
    object.resource_version().parse().unwrap_or(0)
}

/// Whether `new` may take the place of `old`.
fn newer(new: u128, old: u128) -> bool {
    new == 0 || old == 0 || new > old
}

#[derive(Clone, Debug, PartialEq)]
enum Knowledge {
    /// To be read.
    Unread,
    Absent(u128),
    Present(Arc<Object>, u128),
}

#[derive(Debug)]
struct Entry {
    interest: BTreeSet<CanaryKey>,
    known: Knowledge,
    /// When the knowledge last changed, on the store's own clock.
    touched: u64,
}

#[derive(Debug)]
struct ListEntry {
    interest: BTreeSet<CanaryKey>,
    members: BTreeMap<String, (Arc<Object>, u128)>,
    /// False until all members were taken once.
    read: bool,
    registered: u64,
    touched: u64,
}

/// How far the watch of a kind is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first list is under way.
    Starting,
    /// Complete and followed.
    Ready,
    /// Can't be had; the text says why.
    Unserved(String),
}

/// What can be said of an object or list now.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup<T> {
    /// It is known.
    Known(T),
    /// It must be read; the number is the moment to hand back with the answer.
    Read(u64),
    /// The first list is not done.
    NotReady,
    /// Can't be had; the text says why.
    Unserved(String),
}

/// All that is known of one kind.
#[derive(Debug)]
pub struct Store {
    phase: Phase,
    keep_all: bool,
    metadata_only: bool,
    kind: Kind,
    entries: BTreeMap<Name, Entry>,
    lists: BTreeMap<ListRef, ListEntry>,
    clock: u64,
    init: Option<(u64, HashSet<Name>)>,
}

impl Store {
    /// An empty store for a kind. With `keep_all` every object is kept, not only those that somebody asked for.
    #[must_use]
    pub fn new(kind: Kind, keep_all: bool) -> Self {
        let metadata_only = metadata_only(&kind);
        Self {
            phase: Phase::Starting,
            keep_all,
            metadata_only,
            kind,
            entries: BTreeMap::new(),
            lists: BTreeMap::new(),
            clock: 0,
            init: None,
        }
    }

    /// How far the watch is.
    #[must_use]
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Number of objects that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| matches!(entry.known, Knowledge::Present(..)))
            .count()
            + self
                .lists
                .values()
                .map(|list| list.members.len())
                .sum::<usize>()
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    // What canaries ask

    /// What is known of an object; `canary` is woken when that changes from now on.
    pub fn object(&mut self, name: &Name, canary: &CanaryKey) -> Lookup<Option<Arc<Object>>> {
        let now = self.tick();
        let entry = self.entries.entry(name.clone()).or_insert_with(|| Entry {
            interest: BTreeSet::new(),
            known: Knowledge::Unread,
            touched: now,
        });
        if !entry.interest.contains(canary) {
            entry.interest.insert(canary.clone());
        }
        match (&self.phase, &entry.known) {
            (Phase::Unserved(why), _) => Lookup::Unserved(why.clone()),
            (Phase::Starting, _) => Lookup::NotReady,
            // A store that keeps all has seen all: what it does not hold is not there.
            (Phase::Ready, Knowledge::Unread) if self.keep_all => Lookup::Known(None),
            (Phase::Ready, Knowledge::Unread) => Lookup::Read(now),
            (Phase::Ready, Knowledge::Absent(_)) => Lookup::Known(None),
            (Phase::Ready, Knowledge::Present(object, _)) => {
                Lookup::Known(Some(Arc::clone(object)))
            }
        }
    }

    /// What is known of a list; `canary` is woken when that changes from now on.
    pub fn list(&mut self, list: &ListRef, canary: &CanaryKey) -> Lookup<Vec<Arc<Object>>> {
        let now = self.tick();
        let entry = self.lists.entry(list.clone()).or_insert_with(|| ListEntry {
            interest: BTreeSet::new(),
            members: BTreeMap::new(),
            read: false,
            registered: now,
            touched: now,
        });
        if !entry.interest.contains(canary) {
            entry.interest.insert(canary.clone());
        }
        match &self.phase {
            Phase::Unserved(why) => Lookup::Unserved(why.clone()),
            Phase::Starting => Lookup::NotReady,
            Phase::Ready if entry.read => Lookup::Known(
                entry
                    .members
                    .values()
                    .map(|(object, _)| Arc::clone(object))
                    .collect(),
            ),
            Phase::Ready => Lookup::Read(now),
        }
    }

    /// A list that somebody cares for, as far as it is known.
    #[must_use]
    pub fn known_list(&self, list: &ListRef) -> Option<Vec<Arc<Object>>> {
        let entry = self.lists.get(list).filter(|entry| entry.read)?;
        let members = entry.members.values();
        Some(members.map(|(object, _)| Arc::clone(object)).collect())
    }

    /// The objects of a store that keeps all.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.entries
            .values()
            .filter_map(|entry| match &entry.known {
                Knowledge::Present(object, _) => Some(object),
                _ => None,
            })
    }

    /// One object of a store that keeps all.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&Arc<Object>> {
        match &self.entries.get(name)?.known {
            Knowledge::Present(object, _) => Some(object),
            _ => None,
        }
    }

    /// `canary` does not care for this object any more.
    pub fn drop_object(&mut self, name: &Name, canary: &CanaryKey) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.interest.remove(canary);
            if entry.interest.is_empty() && !self.keep_all {
                self.entries.remove(name);
            }
        }
    }

    /// `canary` does not care for this list any more.
    pub fn drop_list(&mut self, list: &ListRef, canary: &CanaryKey) {
        if let Some(entry) = self.lists.get_mut(list) {
            entry.interest.remove(canary);
            if entry.interest.is_empty() {
                self.lists.remove(list);
            }
        }
    }

    // What comes in. Each returns the canaries to wake.

    /// The watch starts to list.
    pub fn begin(&mut self) {
        let now = self.tick();
        self.init = Some((now, HashSet::new()));
    }

    /// The watch listed this object.
    pub fn listed(&mut self, object: &Object) -> BTreeSet<CanaryKey> {
        let name = name_of(object);
        if let Some((_, seen)) = &mut self.init {
            seen.insert(name);
        }
        self.changed(object)
    }

    /// The watch listed all there is. Everybody who asked is woken the first time.
    pub fn complete(&mut self) -> BTreeSet<CanaryKey> {
        let now = self.tick();
        let (started, seen) = self.init.take().unwrap_or((now, HashSet::new()));
        let first = self.phase != Phase::Ready;
        let mut wake = BTreeSet::new();
        for (name, entry) in &mut self.entries {
            if seen.contains(name) {
                continue;
            }
            let known = match &entry.known {
                // Asked for before the listing began and not listed: not there.
                _ if entry.touched <= started => Knowledge::Absent(0),
                // Learned by a read or write while the listing was under way: look again.
                Knowledge::Present(..) => Knowledge::Unread,
                other => other.clone(),
            };
            if known != entry.known {
                wake.extend(entry.interest.iter().cloned());
                entry.known = known;
                entry.touched = now;
            }
        }
        for (list, entry) in &mut self.lists {
            let before = entry.members.len();
            entry
                .members
                .retain(|name, _| seen.contains(&(list.namespace.clone(), name.clone())));
            // Objects that were listed before somebody asked for them passed unseen.
            entry.read = entry.read || entry.registered <= started;
            if entry.members.len() != before {
                entry.touched = now;
                wake.extend(entry.interest.iter().cloned());
            }
        }
        if self.keep_all {
            self.entries
                .retain(|_, entry| matches!(entry.known, Knowledge::Present(..)));
        }
        self.phase = Phase::Ready;
        if first {
            wake.extend(self.interested());
        }
        wake
    }

    /// The kind can't be had.
    pub fn unserved(&mut self, why: String) -> BTreeSet<CanaryKey> {
        let now = self.tick();
        self.init = None;
        let changed = self.phase != Phase::Unserved(why.clone());
        self.phase = Phase::Unserved(why);
        for entry in self.entries.values_mut() {
            entry.known = Knowledge::Unread;
            entry.touched = now;
        }
        for list in self.lists.values_mut() {
            list.members.clear();
            list.read = false;
            list.registered = now;
        }
        if changed {
            self.interested()
        } else {
            BTreeSet::new()
        }
    }

    /// An object was created or changed, says the watch, a read, or the answer to a write.
    pub fn changed(&mut self, object: &Object) -> BTreeSet<CanaryKey> {
        let now = self.tick();
        let name = name_of(object);
        let version = version(object);
        let mut wake = BTreeSet::new();
        let mut kept = None;
        if self.keep_all && !self.entries.contains_key(&name) {
            self.entries.insert(
                name.clone(),
                Entry {
                    interest: BTreeSet::new(),
                    known: Knowledge::Unread,
                    touched: now,
                },
            );
        }
        if let Some(entry) = self.entries.get_mut(&name) {
            let fresh = match &entry.known {
                Knowledge::Unread => true,
                Knowledge::Absent(old) | Knowledge::Present(_, old) => newer(version, *old),
            };
            if fresh {
                let object = Arc::clone(
                    kept.get_or_insert_with(|| Arc::new(project(&self.kind, object.clone()))),
                );
                entry.known = Knowledge::Present(object, version);
                entry.touched = now;
                wake.extend(entry.interest.iter().cloned());
            }
        }
        for (list, entry) in &mut self.lists {
            let is_member = entry.members.get(&name.1).map(|(_, old)| *old);
            if list.namespace != name.0 || is_member.is_some_and(|old| !newer(version, old)) {
                continue;
            }
            if carries(object, &list.labels) {
                let object = Arc::clone(
                    kept.get_or_insert_with(|| Arc::new(project(&self.kind, object.clone()))),
                );
                entry.members.insert(name.1.clone(), (object, version));
            } else if is_member.is_some() {
                entry.members.remove(&name.1);
            } else {
                continue;
            }
            entry.touched = now;
            wake.extend(entry.interest.iter().cloned());
        }
        wake
    }

    /// The watch that sees only metadata says that an object has this version now.
    pub fn moved(&mut self, name: &Name, to: &str, listed: bool) -> BTreeSet<CanaryKey> {
        let now = self.tick();
        let to: u128 = to.parse().unwrap_or(0);
        if listed && let Some((_, seen)) = &mut self.init {
            seen.insert(name.clone());
        }
        let Some(entry) = self.entries.get_mut(name) else {
            return BTreeSet::new();
        };
        let fresh = match &entry.known {
            Knowledge::Unread => true,
            Knowledge::Absent(old) | Knowledge::Present(_, old) => newer(to, *old),
        };
        if !fresh {
            return BTreeSet::new();
        }
        entry.known = Knowledge::Unread;
        entry.touched = now;
        entry.interest.clone()
    }

    /// An object is gone.
    pub fn deleted(&mut self, name: &Name, at: &str) -> BTreeSet<CanaryKey> {
        let now = self.tick();
        let at: u128 = at.parse().unwrap_or(0);
        let mut wake = BTreeSet::new();
        if let Some(entry) = self.entries.get_mut(name)
            && match &entry.known {
                Knowledge::Present(_, old) => newer(at, *old) || at == *old,
                _ => true,
            }
        {
            entry.known = Knowledge::Absent(at);
            entry.touched = now;
            wake.extend(entry.interest.iter().cloned());
            if self.keep_all {
                self.entries.remove(name);
            }
        }
        for (list, entry) in &mut self.lists {
            let stale = entry
                .members
                .get(&name.1)
                .is_none_or(|(_, old)| !newer(at, *old) && at != *old);
            if list.namespace == name.0 && !stale {
                entry.members.remove(&name.1);
                entry.touched = now;
                wake.extend(entry.interest.iter().cloned());
            }
        }
        wake
    }

    /// What is known of an object may be out of date: read it before it is used again.
    pub fn doubt(&mut self, name: &Name) {
        let now = self.tick();
        if !self.keep_all
            && let Some(entry) = self.entries.get_mut(name)
        {
            entry.known = Knowledge::Unread;
            entry.touched = now;
        }
    }

    /// A GET that began at `started` found no object.
    pub fn found_absent(&mut self, name: &Name, started: u64) {
        let now = self.tick();
        if let Some(entry) = self.entries.get_mut(name)
            && entry.touched <= started
        {
            entry.known = Knowledge::Absent(0);
            entry.touched = now;
        }
    }

    /// A LIST that began at `started` found these objects. False if the list changed meanwhile and must be read again.
    pub fn found_list(&mut self, list: &ListRef, started: u64, objects: Vec<Object>) -> bool {
        let now = self.tick();
        let kind = self.kind.clone();
        let Some(entry) = self.lists.get_mut(list) else {
            return true;
        };
        if entry.touched > started {
            return false;
        }
        entry.members = objects
            .into_iter()
            .map(|object| {
                let version = version(&object);
                (
                    object.name().to_owned(),
                    (Arc::new(project(&kind, object)), version),
                )
            })
            .collect();
        entry.read = true;
        entry.touched = now;
        true
    }

    /// Whether only metadata is watched and content is read when the version changes.
    #[must_use]
    pub fn metadata_only(&self) -> bool {
        self.metadata_only
    }

    fn interested(&self) -> BTreeSet<CanaryKey> {
        let entries = self.entries.values().flat_map(|entry| &entry.interest);
        entries
            .chain(self.lists.values().flat_map(|list| &list.interest))
            .cloned()
            .collect()
    }
}

/// Whether a kind's content is kept from the watch: Secrets and `ConfigMaps` of the whole cluster are nobody's business.
#[must_use]
pub fn metadata_only(kind: &Kind) -> bool {
    *kind == kinds::SECRET || *kind == kinds::CONFIG_MAP
}

/// Namespace and name of an object.
#[must_use]
pub fn name_of(object: &Object) -> Name {
    (object.namespace().to_owned(), object.name().to_owned())
}

fn carries(object: &Object, labels: &BTreeMap<String, String>) -> bool {
    let have = &object.value()["metadata"]["labels"];
    labels
        .iter()
        .all(|(key, value)| have[key.as_str()].as_str() == Some(value))
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Kinds of which nobody asks who wrote them last.
fn is_route(kind: &Kind) -> bool {
    !matches!(
        kind.group.as_ref(),
        "" | "apps" | "autoscaling" | "batch" | "discovery.k8s.io" | "flagger.app" | "keda.sh"
    )
}

/// Drops what no decision looks at, and adds what items of lists come without.
fn project(kind: &Kind, mut object: Object) -> Object {
    if object.kind().is_empty()
        && let Some(whole) = object.value_mut().as_object_mut()
    {
        whole.insert("apiVersion".to_owned(), Value::String(kind.api_version()));
        whole.insert("kind".to_owned(), Value::String(kind.kind.to_string()));
    }
    let inherits = has_inheritance(kind, &object);
    let asks_what_was_applied = routing::may_ask_what_was_applied(&object);
    let Some(metadata) = object
        .value_mut()
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
    else {
        return object;
    };
    if inherits {
        // Needed whole: Flagger's fields become ours before the first apply.
    } else if is_route(kind) {
        if let Some(Value::Array(fields)) = metadata.get_mut("managedFields") {
            for entry in fields {
                if let Some(entry) = entry.as_object_mut() {
                    let all = std::mem::take(entry);
                    *entry = all
                        .into_iter()
                        .filter(|(key, _)| {
                            matches!(
                                key.as_str(),
                                "manager" | "operation" | "time" | "subresource"
                            )
                        })
                        .collect::<Map<_, _>>();
                }
            }
        }
    } else {
        metadata.remove("managedFields");
    }
    // A Service target is copied to the primary with the annotations that its author wrote, and a route that Flagger had taken over is
    // given back as kubectl applied it.
    let keeps_applied = *kind == kinds::SERVICE || (is_route(kind) && asks_what_was_applied);
    if !keeps_applied && let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.remove(LAST_APPLIED);
    }
    object
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::object::{ObjectRef, Patch, Reading, Write};
    use serde_json::json;

    fn canary() -> CanaryKey {
        CanaryKey::new("test", "podinfo")
    }

    fn name(name: &str) -> Name {
        ("test".to_owned(), name.to_owned())
    }

    fn service(name: &str, version: u64) -> Object {
        Object::new(
            json!({"metadata": {"name": name, "namespace": "test", "resourceVersion": version.to_string(),
            "labels": {"app": name, "team": "a"}, "managedFields": [{"manager": "kubectl"}]}}),
        )
    }

    fn ready_store() -> Store {
        let mut store = Store::new(kinds::SERVICE, false);
        store.begin();
        store.complete();
        store
    }

    fn known_version(store: &mut Store, object: &str) -> Option<String> {
        match store.object(&name(object), &canary()) {
            Lookup::Known(object) => object.map(|object| object.resource_version().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_said_before_the_first_list_is_done() {
        let mut store = Store::new(kinds::SERVICE, false);
        assert_eq!(store.object(&name("web"), &canary()), Lookup::NotReady);
        store.begin();
        store.listed(&service("web", 3));
        assert_eq!(store.object(&name("web"), &canary()), Lookup::NotReady);
        assert_eq!(
            store.complete(),
            BTreeSet::from([canary()]),
            "those who asked are woken"
        );
        assert_eq!(known_version(&mut store, "web").as_deref(), Some("3"));
    }

    #[test]
    fn an_object_asked_for_later_is_read_once_and_then_followed() {
        let mut store = ready_store();
        assert!(store.changed(&service("web", 3)).is_empty(), "nobody asked");
        assert!(store.held() == 0);
        assert!(matches!(
            store.object(&name("web"), &canary()),
            Lookup::Read(_)
        ));
        store.changed(&service("web", 3));
        assert_eq!(known_version(&mut store, "web").as_deref(), Some("3"));
        assert_eq!(
            store.changed(&service("web", 4)),
            BTreeSet::from([canary()])
        );
        assert_eq!(store.deleted(&name("web"), "5"), BTreeSet::from([canary()]));
        assert_eq!(known_version(&mut store, "web"), None);
    }

    #[test]
    fn a_store_never_goes_backwards() {
        let mut store = ready_store();
        store.object(&name("web"), &canary());
        store.changed(&service("web", 10));
        assert!(
            store.changed(&service("web", 9)).is_empty(),
            "9 is older than 10, though the text is greater"
        );
        assert!(
            store.changed(&service("web", 10)).is_empty(),
            "our own write comes back through the watch"
        );
        assert_eq!(known_version(&mut store, "web").as_deref(), Some("10"));
        store.deleted(&name("web"), "12");
        assert!(
            store.changed(&service("web", 11)).is_empty(),
            "a late answer does not bring the dead back"
        );
        assert_eq!(known_version(&mut store, "web"), None);
    }

    #[test]
    fn a_404_that_was_overtaken_by_an_event_does_not_count() {
        let mut store = ready_store();
        let Lookup::Read(started) = store.object(&name("web"), &canary()) else {
            panic!()
        };
        store.changed(&service("web", 3));
        store.found_absent(&name("web"), started);
        assert_eq!(known_version(&mut store, "web").as_deref(), Some("3"));
    }

    #[test]
    fn what_a_new_list_lacks_is_gone_and_what_came_meanwhile_is_read_again() {
        let mut store = ready_store();
        for object in ["old", "new"] {
            store.object(&name(object), &canary());
        }
        store.changed(&service("old", 3));
        store.begin();
        store.changed(&service("new", 9));
        assert_eq!(store.complete(), BTreeSet::from([canary()]));
        assert_eq!(known_version(&mut store, "old"), None);
        assert!(matches!(
            store.object(&name("new"), &canary()),
            Lookup::Read(_)
        ));
    }

    #[test]
    fn a_list_follows_the_labels_of_objects() {
        let mut store = ready_store();
        let list = ListRef {
            kind: kinds::SERVICE,
            namespace: "test".into(),
            labels: [("team".to_owned(), "a".to_owned())].into(),
        };
        let Lookup::Read(started) = store.list(&list, &canary()) else {
            panic!()
        };
        store.changed(&service("two", 5));
        assert!(
            !store.found_list(&list, started, vec![service("one", 3)]),
            "changed while it was read"
        );
        let Lookup::Read(started) = store.list(&list, &canary()) else {
            panic!()
        };
        assert!(store.found_list(&list, started, vec![service("one", 3), service("two", 5)]));
        let names = |store: &mut Store| match store.list(&list, &canary()) {
            Lookup::Known(objects) => objects
                .iter()
                .map(|object| object.name().to_owned())
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(names(&mut store), ["one", "two"]);
        let mut moved = service("one", 6);
        moved.value_mut()["metadata"]["labels"]["team"] = json!("b");
        assert_eq!(store.changed(&moved), BTreeSet::from([canary()]));
        assert_eq!(names(&mut store), ["two"]);
        store.deleted(&name("two"), "7");
        assert!(names(&mut store).is_empty());
    }

    #[test]
    fn content_is_read_again_when_its_metadata_moves() {
        let mut store = Store::new(kinds::SECRET, false);
        store.begin();
        store.complete();
        store.object(&name("s"), &canary());
        store.changed(&service("s", 3));
        assert!(store.moved(&name("s"), "3", false).is_empty());
        assert_eq!(
            store.moved(&name("s"), "4", false),
            BTreeSet::from([canary()])
        );
        assert!(matches!(
            store.object(&name("s"), &canary()),
            Lookup::Read(_)
        ));
    }

    #[test]
    fn a_kind_that_is_not_served_is_unknown_until_it_is() {
        let mut store = Store::new(kinds::HTTP_ROUTE, false);
        store.object(&name("r"), &canary());
        assert_eq!(store.unserved("no CRD".into()), BTreeSet::from([canary()]));
        assert!(store.unserved("no CRD".into()).is_empty(), "told once");
        assert_eq!(
            store.object(&name("r"), &canary()),
            Lookup::Unserved("no CRD".into())
        );
        store.begin();
        assert_eq!(store.complete(), BTreeSet::from([canary()]));
        assert!(matches!(
            store.object(&name("r"), &canary()),
            Lookup::Known(None)
        ));
    }

    #[test]
    fn interest_that_ends_frees_the_object() {
        let mut store = ready_store();
        store.object(&name("web"), &canary());
        store.changed(&service("web", 3));
        assert_eq!(store.held(), 1);
        store.drop_object(&name("web"), &canary());
        assert!(store.held() == 0);
    }

    #[test]
    fn only_routes_keep_the_names_of_their_writers() {
        let route = json!({"metadata": {"name": "r", "managedFields": [{"manager": "kubectl", "time": "t", "fieldsV1": {"f:spec": {}}}],
            "annotations": {LAST_APPLIED: "{}", "a": "b"}}});
        let kept = project(&kinds::HTTP_ROUTE, Object::new(route.clone()));
        assert_eq!(
            kept.at("/metadata/managedFields"),
            &json!([{"manager": "kubectl", "time": "t"}])
        );
        let service = project(&kinds::SERVICE, Object::new(route));
        assert!(service.at("/metadata/managedFields").is_null());
        assert!(service.annotation(LAST_APPLIED).is_some());
    }

    #[test]
    fn only_routes_that_nobody_knows_the_past_of_keep_what_kubectl_applied() {
        let route = |metadata: Value| {
            let mut route = Object::new(
                json!({"metadata": {"name": "r", "annotations": {LAST_APPLIED: "{}", "a": "b"}}}),
            );
            let into = route.value_mut()["metadata"].as_object_mut().unwrap();
            for (field, value) in metadata.as_object().unwrap() {
                into.insert(field.clone(), value.clone());
            }
            route
        };
        let owned = json!({"ownerReferences": [{"kind": "Canary", "name": "podinfo", "uid": "u", "controller": true}]});
        let recorded = json!({"annotations": {LAST_APPLIED: "{}", "a": "b", "serin.dev/original-route": "{}"}});
        for (kind, metadata, kept) in [
            (kinds::VIRTUAL_SERVICE, json!({}), true),
            (kinds::HTTP_ROUTE, json!({}), true),
            (kinds::HTTP_ROUTE, owned, false),
            (kinds::HTTP_ROUTE, recorded, false),
            (kinds::DEPLOYMENT, json!({}), false),
            (kinds::CONFIG_MAP, json!({}), false),
        ] {
            let object = project(&kind, route(metadata.clone()));
            assert_eq!(
                object.annotation(LAST_APPLIED).is_some(),
                kept,
                "{kind:?} {metadata}"
            );
            assert_eq!(object.annotation("a"), Some("b"));
        }
    }

    /// The whole way of a route that Flagger had taken over: from the watch to the patch that gives it back.
    #[test]
    fn a_route_that_flagger_had_taken_over_is_given_back_as_kubectl_applied_it() {
        let canary_object = crate::api::Canary::decode(&json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "podinfo", "namespace": "test", "uid": "u"},
            "spec": {"provider": "istio", "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podinfo"},
                "service": {"port": 80}, "analysis": {"interval": "1m", "stepWeight": 10, "maxWeight": 50}}}))
        .unwrap();
        let users = json!({"hosts": ["shop.example.com"], "http": [{"route": [{"destination": {"host": "podinfo", "port": {"number": 80}}}]}]});
        let applied = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "podinfo", "namespace": "test"}, "spec": users});
        let mut store = Store::new(kinds::VIRTUAL_SERVICE, false);
        store.object(&name("podinfo"), &canary());
        store.begin();
        store.listed(&Object::new(json!({"metadata": {"name": "podinfo", "namespace": "test", "uid": "r", "resourceVersion": "7",
            "annotations": {LAST_APPLIED: applied.to_string()}},
            "spec": {"hosts": ["podinfo"], "http": [{"route": [
                {"destination": {"host": "podinfo-primary"}, "weight": 100}, {"destination": {"host": "podinfo-canary"}, "weight": 0}]}]}})));
        store.complete();
        let Lookup::Known(Some(live)) = store.object(&name("podinfo"), &canary()) else {
            panic!("it was listed")
        };
        let router = routing::router("istio").unwrap();
        let route = kinds::VIRTUAL_SERVICE.named("test", "podinfo");
        let read = |target: &ObjectRef| {
            if *target == route {
                Reading::Present(Arc::clone(&live))
            } else {
                Reading::Absent
            }
        };
        let writes = router.finalize(&canary_object, &read).unwrap();
        let [
            Write::Patch {
                patch: Patch::Json(operations),
                ..
            },
        ] = writes.as_slice()
        else {
            panic!("{writes:?}")
        };
        assert_eq!(operations[0]["value"], users, "{writes:?}");
    }
}
