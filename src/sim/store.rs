//! An API server in memory: resource versions, uids, generations, preconditions, server-side apply, patches, the status subresource of
//! a Canary, and a log of changes from which watches are fed.

use super::merge;
use crate::object::{Expect, Kind, Object, ObjectRef, Patch, Write, kinds};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whose hand a write is: the field manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hand {
    /// The controller under test.
    Serin,
    /// A person.
    User,
    /// A tool that writes a manifest back.
    GitOps,
    /// The cluster's own controllers.
    Cluster,
    /// The controller that ran the canary before.
    Flagger,
    /// Somebody else, by the field manager's name.
    Other(&'static str),
}

impl Hand {
    fn manager(self) -> &'static str {
        match self {
            Self::Serin => "serin",
            Self::User => "kubectl-edit",
            Self::GitOps => "flux",
            Self::Cluster => "kube-controller-manager",
            Self::Flagger => "flagger",
            Self::Other(name) => name,
        }
    }
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 409: the object is not the one that was expected.
    Conflict(String),
    /// 404.
    NotFound,
    /// 422: never right.
    Invalid(String),
}

/// One change, as watches tell it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object.
    pub name: ObjectRef,
    /// Who did it.
    pub by: Hand,
    /// The resource version that it brought.
    pub revision: u64,
    /// The object before.
    pub before: Option<Arc<Object>>,
    /// The object after; `None` when it was deleted.
    pub after: Option<Arc<Object>>,
}

#[derive(Clone, Debug)]
struct Stored {
    object: Arc<Object>,
    revision: u64,
    /// What each manager that applies owns.
    owned: Arc<Owned>,
}

/// The fields that each manager owns.
type Owned = BTreeMap<Hand, Arc<Value>>;

/// The API server's memory.
#[derive(Clone, Debug, Default)]
pub struct Store {
    objects: BTreeMap<ObjectRef, Stored>,
    revision: u64,
    made: u64,
    changes: Vec<Change>,
}

impl Store {
    /// An object as it is now.
    #[must_use]
    pub fn get(&self, name: &ObjectRef) -> Option<&Arc<Object>> {
        self.objects.get(name).map(|stored| &stored.object)
    }

    /// An object and its version.
    #[must_use]
    pub fn get_versioned(&self, name: &ObjectRef) -> Option<(u64, &Arc<Object>)> {
        self.objects
            .get(name)
            .map(|stored| (stored.revision, &stored.object))
    }

    /// All objects of a kind, with their versions.
    pub fn of_kind<'a>(
        &'a self,
        kind: &'a Kind,
    ) -> impl Iterator<Item = (&'a ObjectRef, u64, &'a Arc<Object>)> {
        self.objects
            .iter()
            .filter(move |(name, _)| name.kind == *kind)
            .map(|(name, stored)| (name, stored.revision, &stored.object))
    }

    /// All objects.
    pub fn all(&self) -> impl Iterator<Item = (&ObjectRef, &Arc<Object>)> {
        self.objects
            .iter()
            .map(|(name, stored)| (name, &stored.object))
    }

    /// The version of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The changes since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Carries out one write. Returns the object as it is then; `None` after a deletion.
    pub fn write(
        &mut self,
        write: &Write,
        by: Hand,
        now: Timestamp,
    ) -> Result<Option<Arc<Object>>, Refusal> {
        match write {
            Write::Apply {
                kind,
                object,
                expect,
            } => {
                let name = kind.named(object.namespace(), object.name());
                self.apply(&name, object, expect, by, now).map(Some)
            }
            Write::Patch {
                target,
                patch,
                expect,
            } => self
                .change(target, expect, by, now, |value| match patch {
                    Patch::Merge(patch) => {
                        merge::merge_patch(value, patch);
                        Ok(())
                    }
                    Patch::Json(operations) => {
                        merge::json_patch(value, operations).map_err(Refusal::Conflict)
                    }
                })
                .map(Some),
            Write::Delete { target, expect } => match self.delete(target, expect, by, now) {
                Ok(()) | Err(Refusal::NotFound) => Ok(None),
                Err(refusal) => Err(refusal),
            },
            Write::Together(writes) => {
                let mut last = None;
                for write in writes {
                    last = self.write(write, by, now)?;
                }
                Ok(last)
            }
        }
    }

    /// Server-side apply with force.
    pub fn apply(
        &mut self,
        name: &ObjectRef,
        applied: &Object,
        expect: &Expect,
        by: Hand,
        now: Timestamp,
    ) -> Result<Arc<Object>, Refusal> {
        let mut body = applied.value().clone();
        if let Some(metadata) = body["metadata"].as_object_mut() {
            metadata.remove("uid");
            metadata.remove("resourceVersion");
        }
        let (live, mut owned) = match self.objects.get(name) {
            Some(stored) => {
                check(name, &stored.object, expect)?;
                (
                    Some(Arc::clone(&stored.object)),
                    stored.owned.as_ref().clone(),
                )
            }
            // An apply that expects a version never creates.
            None if !matches!(expect, Expect::Any | Expect::Absent) => {
                return Err(Refusal::Conflict(format!("{name} is gone")));
            }
            None => (None, BTreeMap::new()),
        };
        let mut value = live
            .as_ref()
            .map_or_else(|| json!({}), |live| live.value().clone());
        let others: Vec<&Value> = owned
            .iter()
            .filter(|(hand, _)| **hand != by)
            .map(|(_, part)| part.as_ref())
            .collect();
        merge::apply(
            &mut value,
            &body,
            owned.get(&by).map(AsRef::as_ref),
            &others,
        );
        owned.insert(by, Arc::new(body));
        self.put(name, live.as_ref(), value, by, Arc::new(owned), now)
    }

    /// Changes an object in place.
    pub fn change(
        &mut self,
        name: &ObjectRef,
        expect: &Expect,
        by: Hand,
        now: Timestamp,
        change: impl FnOnce(&mut Value) -> Result<(), Refusal>,
    ) -> Result<Arc<Object>, Refusal> {
        let stored = self.objects.get(name).ok_or(Refusal::NotFound)?;
        check(name, &stored.object, expect)?;
        let live = Arc::clone(&stored.object);
        let mut owned = Arc::clone(&stored.owned);
        let mut value = live.value().clone();
        change(&mut value)?;
        if owned
            .values()
            .any(|part| merge::disowns(part, live.value(), &value))
        {
            for part in Arc::make_mut(&mut owned).values_mut() {
                merge::disown(Arc::make_mut(part), live.value(), &value);
            }
        }
        self.put(name, Some(&live), value, by, owned, now)
    }

    /// Changes the status of an object and nothing else.
    pub fn change_status(
        &mut self,
        name: &ObjectRef,
        expect: &Expect,
        by: Hand,
        status: impl FnOnce(&mut Value),
    ) -> Result<Arc<Object>, Refusal> {
        let stored = self.objects.get(name).ok_or(Refusal::NotFound)?;
        check(name, &stored.object, expect)?;
        let live = Arc::clone(&stored.object);
        let before = live.at("/status");
        let mut after = if before.is_object() {
            before.clone()
        } else {
            json!({})
        };
        status(&mut after);
        if after == *before {
            return Ok(live);
        }
        let rest = live.value().as_object().into_iter().flatten();
        let mut value: serde_json::Map<String, Value> = rest
            .filter(|(key, _)| *key != "status")
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        value.insert("status".to_owned(), after);
        let value = Value::Object(value);
        let owned = Arc::clone(&stored.owned);
        Ok(self.keep(name, Some(&live), value, by, owned))
    }

    /// Makes an object that is not there yet.
    pub fn create(
        &mut self,
        name: &ObjectRef,
        value: Value,
        by: Hand,
        now: Timestamp,
    ) -> Result<Arc<Object>, Refusal> {
        if self.objects.contains_key(name) {
            return Err(Refusal::Conflict(format!("{name} exists already")));
        }
        self.put(name, None, value, by, Arc::default(), now)
    }

    /// Deletes an object: at once, or where it has finalizers when the last of them is gone.
    pub fn delete(
        &mut self,
        name: &ObjectRef,
        expect: &Expect,
        by: Hand,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let stored = self.objects.get(name).ok_or(Refusal::NotFound)?;
        check(name, &stored.object, expect)?;
        if has_finalizers(stored.object.value()) {
            let live = Arc::clone(&stored.object);
            let owned = Arc::clone(&stored.owned);
            let mut value = live.value().clone();
            if value["metadata"]["deletionTimestamp"].is_null() {
                value["metadata"]["deletionTimestamp"] = json!(whole_seconds(now));
                self.keep(name, Some(&live), value, by, owned);
            }
            return Ok(());
        }
        self.remove(name, by);
        Ok(())
    }

    fn remove(&mut self, name: &ObjectRef, by: Hand) {
        if let Some(gone) = self.objects.remove(name) {
            self.revision += 1;
            self.changes.push(Change {
                name: name.clone(),
                by,
                revision: self.revision,
                before: Some(gone.object),
                after: None,
            });
        }
    }

    /// Validates, fills in, and stores a main-resource write.
    fn put(
        &mut self,
        name: &ObjectRef,
        live: Option<&Arc<Object>>,
        mut value: Value,
        by: Hand,
        owned: Arc<Owned>,
        now: Timestamp,
    ) -> Result<Arc<Object>, Refusal> {
        merge::defaults(&name.kind, &mut value);
        if let Some(live) = live {
            if has_status(&name.kind) {
                value["status"] = live.at("/status").clone();
                if value["status"].is_null()
                    && let Some(map) = value.as_object_mut()
                {
                    map.remove("status");
                }
            }
            immutable(name, live, &value)?;
            if value == *live.value() {
                if let Some(stored) = self.objects.get_mut(name) {
                    stored.owned = owned;
                }
                return Ok(Arc::clone(live));
            }
            if value["spec"] != *live.at("/spec") {
                value["metadata"]["generation"] = json!(live.generation() + 1);
            }
        } else {
            self.made += 1;
            value["metadata"]["uid"] = json!(format!("uid-{}", self.made));
            value["metadata"]["generation"] = json!(1);
            value["metadata"]["creationTimestamp"] = json!(whole_seconds(now));
            if has_status(&name.kind)
                && let Some(map) = value.as_object_mut()
            {
                map.remove("status");
            }
        }
        note_manager(&mut value, by, now);
        let released = !value["metadata"]["deletionTimestamp"].is_null() && !has_finalizers(&value);
        if released {
            self.remove(name, by);
            return Ok(Arc::new(Object::new(value)));
        }
        Ok(self.keep(name, live, value, by, owned))
    }

    fn keep(
        &mut self,
        name: &ObjectRef,
        live: Option<&Arc<Object>>,
        mut value: Value,
        by: Hand,
        owned: Arc<Owned>,
    ) -> Arc<Object> {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let object = Arc::new(Object::new(value));
        self.objects.insert(
            name.clone(),
            Stored {
                object: Arc::clone(&object),
                revision: self.revision,
                owned,
            },
        );
        self.changes.push(Change {
            name: name.clone(),
            by,
            revision: self.revision,
            before: live.cloned(),
            after: Some(Arc::clone(&object)),
        });
        object
    }
}

/// Kinds whose status is a resource of its own.
fn has_status(kind: &Kind) -> bool {
    [
        kinds::CANARY,
        kinds::DEPLOYMENT,
        kinds::DAEMON_SET,
        kinds::HTTP_ROUTE,
    ]
    .contains(kind)
}

fn has_finalizers(value: &Value) -> bool {
    value["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|finalizers| !finalizers.is_empty())
}

fn check(name: &ObjectRef, live: &Object, expect: &Expect) -> Result<(), Refusal> {
    match expect {
        Expect::Any => Ok(()),
        Expect::Absent => Err(Refusal::Conflict(format!("{name} exists already"))),
        Expect::Asked { uid, generation }
            if live.uid() == uid && live.generation() == *generation =>
        {
            Ok(())
        }
        Expect::Asked { .. } => Err(Refusal::Conflict(format!(
            "{name} was asked something else"
        ))),
        Expect::Version {
            uid,
            resource_version,
        } if live.uid() == uid && live.resource_version() == resource_version => Ok(()),
        Expect::Version {
            resource_version, ..
        } => Err(Refusal::Conflict(format!(
            "{name} has version {}, not {resource_version}",
            live.resource_version()
        ))),
    }
}

fn immutable(name: &ObjectRef, live: &Object, value: &Value) -> Result<(), Refusal> {
    let same = |pointer: &str| value.pointer(pointer).unwrap_or(&Value::Null) == live.at(pointer);
    let frozen: &[&str] = if name.kind == kinds::DEPLOYMENT || name.kind == kinds::DAEMON_SET {
        &["/spec/selector"]
    } else if name.kind == kinds::CONTROLLER_REVISION {
        &["/data"]
    } else if name.kind == kinds::SERVICE {
        &["/spec/clusterIP"]
    } else {
        &[]
    };
    match frozen.iter().find(|pointer| !same(pointer)) {
        Some(pointer) => Err(Refusal::Invalid(format!(
            "{name}: {pointer} can't be changed"
        ))),
        None => Ok(()),
    }
}

/// Sets the time of a manager's entry in `metadata.managedFields`.
fn note_manager(value: &mut Value, by: Hand, now: Timestamp) {
    let time = json!(whole_seconds(now));
    if !value["metadata"]["managedFields"].is_array() {
        value["metadata"]["managedFields"] = json!([]);
    }
    let Some(entries) = value["metadata"]["managedFields"].as_array_mut() else {
        return;
    };
    match entries
        .iter_mut()
        .find(|entry| entry["manager"] == by.manager())
    {
        Some(entry) => entry["time"] = time,
        None => entries.push(json!({"manager": by.manager(), "operation": "Apply", "time": time})),
    }
}

/// A time as the API server writes it.
#[must_use]
pub fn whole_seconds(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn service(port: i64) -> Object {
        Object::new(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "t"}, "spec": {"ports": [{"port": port}]}}),
        )
    }

    #[test]
    fn a_write_that_changes_nothing_brings_no_version() {
        let mut store = Store::default();
        let name = kinds::SERVICE.named("t", "a");
        let first = store
            .apply(
                &name,
                &service(80),
                &Expect::Any,
                Hand::Serin,
                Timestamp::UNIX_EPOCH,
            )
            .unwrap();
        let second = store
            .apply(
                &name,
                &service(80),
                &Expect::Any,
                Hand::Serin,
                Timestamp::UNIX_EPOCH,
            )
            .unwrap();
        assert_eq!(first, second);
        assert_eq!(first.generation(), 1);
        let third = store
            .apply(
                &name,
                &service(81),
                &Expect::unchanged(&first),
                Hand::Serin,
                Timestamp::UNIX_EPOCH,
            )
            .unwrap();
        assert_eq!(third.generation(), 2);
        assert_eq!(
            third.at("/spec/ports").as_array().unwrap().len(),
            1,
            "the port that is applied no more goes"
        );
    }

    #[test]
    fn a_write_from_a_stale_reading_is_refused() {
        let mut store = Store::default();
        let name = kinds::SERVICE.named("t", "a");
        let read = store
            .apply(
                &name,
                &service(80),
                &Expect::Any,
                Hand::User,
                Timestamp::UNIX_EPOCH,
            )
            .unwrap();
        store
            .change(
                &name,
                &Expect::Any,
                Hand::User,
                Timestamp::UNIX_EPOCH,
                |value| {
                    value["spec"]["x"] = json!(1);
                    Ok(())
                },
            )
            .unwrap();
        let write = Write::Delete {
            target: name.clone(),
            expect: Expect::unchanged(&read),
        };
        assert!(matches!(
            store.write(&write, Hand::Serin, Timestamp::UNIX_EPOCH),
            Err(Refusal::Conflict(_))
        ));
        assert!(store.get(&name).is_some());
    }
}
