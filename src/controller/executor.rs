//! Carries decisions out: the status first, guarded by the version it was decided from, then the writes in order, each guarded by what
//! it expects. It stops at the first that fails; the next pass computes the rest anew.

use super::cache::Caches;
use super::client::{ApiError, KubeApi, PatchType};
use super::metrics::Telemetry;
use super::queue::CanaryKey;
use crate::api::CanaryStatus;
use crate::object::{Expect, Object, ObjectRef, Patch, Write, covers, kinds, short_digest};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A version that no object has, since the store's own first revision holds none. The API server compares the version of an apply with that of
/// the object that is there, and with nothing where there is none: so this creates and never overwrites.
const NO_VERSION: &str = "1";
/// How many fruitless applies are remembered at most.
const REMEMBERED: usize = 4096;

/// Why a decision was not carried out to the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Something is not as it was when the decision was made: decide again.
    #[error("{0} changed meanwhile: {1}")]
    Conflict(ObjectRef, String),
    /// It may work later.
    #[error("{0} can't be written now: {1}")]
    Transient(ObjectRef, ApiError),
    /// The API server won't do it.
    #[error("{0}: {1}")]
    Refused(ObjectRef, ApiError),
    /// The API server accepts the status and drops fields of it.
    #[error(
        "the Canary CRD of this cluster drops fields of status without which no rollout can be followed (such as {0}); install the one of this version: serin crd | kubectl apply --server-side -f -"
    )]
    Pruned(String),
}

/// Carries decisions out.
pub struct Executor {
    api: KubeApi,
    caches: Arc<Caches>,
    telemetry: Arc<Telemetry>,
    /// Applies after which the object still did not say what was applied: digest of the content, version that came back.
    fruitless: Mutex<HashMap<ObjectRef, (String, String)>>,
}

impl Executor {
    /// Answers of the API server go to `caches`.
    #[must_use]
    pub fn new(api: KubeApi, caches: Arc<Caches>, telemetry: Arc<Telemetry>) -> Self {
        Self {
            api,
            caches,
            telemetry,
            fruitless: Mutex::default(),
        }
    }

    /// Writes what differs between two statuses, provided that the canary is still `object`. Returns the canary as it is then, or
    /// nothing where nothing differs.
    pub async fn write_status(
        &self,
        key: &CanaryKey,
        object: &Object,
        old: Option<&CanaryStatus>,
        new: &CanaryStatus,
    ) -> Result<Option<Arc<Object>>, WriteError> {
        let old = old
            .and_then(|old| serde_json::to_value(old).ok())
            .unwrap_or_else(|| json!({}));
        let new = serde_json::to_value(new).unwrap_or_else(|_| json!({}));
        let patch = difference(&old, &new);
        if patch.as_object().is_some_and(Map::is_empty) && object.at("/status").is_object() {
            return Ok(None);
        }
        let written = self.patch_status(key, object, patch).await?;
        match dropped(&new, written.at("/status"), "status") {
            Some(field) => Err(WriteError::Pruned(field)),
            None => Ok(Some(written)),
        }
    }

    /// Puts `conditions` in the place of those of the same type, outside of any decision. Returns whether anything changed.
    pub async fn write_conditions(
        &self,
        key: &CanaryKey,
        object: &Object,
        conditions: &[Value],
    ) -> Result<bool, WriteError> {
        let mut all = object
            .at("/status/conditions")
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mut changed = false;
        for condition in conditions {
            let same = |other: &Value| other["type"] == condition["type"];
            match all.iter_mut().find(|other| same(other)) {
                Some(other)
                    if ["status", "reason", "message"]
                        .iter()
                        .all(|field| other[*field] == condition[*field]) => {}
                Some(other) => {
                    *other = condition.clone();
                    changed = true;
                }
                None => {
                    all.push(condition.clone());
                    changed = true;
                }
            }
        }
        if changed {
            self.patch_status(key, object, json!({"conditions": all}))
                .await?;
        }
        Ok(changed)
    }

    async fn patch_status(
        &self,
        key: &CanaryKey,
        object: &Object,
        status: Value,
    ) -> Result<Arc<Object>, WriteError> {
        let name = kinds::CANARY.named(&key.namespace, &key.name);
        let body = json!({
            "metadata": {"uid": object.uid(), "resourceVersion": object.resource_version()},
            "status": status,
        });
        let result = self
            .api
            .patch(&name, Some("status"), PatchType::Merge, &body)
            .await;
        self.count("status", &name, result.as_ref().err());
        let written = result.map_err(|error| sort(name, error))?;
        self.caches.absorb(&kinds::CANARY, &written, key);
        Ok(Arc::new(written))
    }

    /// Does one write, or several that belong together. Returns whether a request was made.
    pub async fn write(&self, key: &CanaryKey, write: &Write) -> Result<bool, WriteError> {
        let Write::Together(writes) = write else {
            return self.write_one(key, write).await;
        };
        for write in writes {
            self.rehearse(write).await?;
        }
        let mut requested = false;
        for write in writes {
            requested |= self.write_one(key, write).await?;
        }
        Ok(requested)
    }

    /// Asks the API server whether it would do a patch. Other writes are not rehearsed: only routes of the user are written together.
    async fn rehearse(&self, write: &Write) -> Result<(), WriteError> {
        let Write::Patch {
            target,
            patch: Patch::Json(operations),
            expect,
        } = write
        else {
            return Ok(());
        };
        let result = self
            .api
            .rehearse(target, PatchType::Json, &tested(operations, expect))
            .await;
        self.count("rehearse", target, result.as_ref().err());
        match result {
            Ok(_) => Ok(()),
            Err(ApiError::NotFound(why)) => Err(WriteError::Conflict(target.clone(), why)),
            Err(error) => Err(sort(target.clone(), error)),
        }
    }

    async fn write_one(&self, key: &CanaryKey, write: &Write) -> Result<bool, WriteError> {
        let target = write.target();
        let (verb, result) = match write {
            Write::Together(_) => return Ok(false),
            Write::Apply { object, expect, .. } => {
                if self.is_fruitless(&target, object, expect) {
                    return Ok(false);
                }
                let body = guarded(object.value().clone(), expect);
                let result = self.api.patch(&target, None, PatchType::Apply, &body).await;
                if let Ok(answer) = &result {
                    self.remember(&target, object, answer);
                }
                ("apply", result.map(Some))
            }
            Write::Patch {
                patch: Patch::Merge(patch),
                expect,
                ..
            } => {
                let body = guarded(patch.clone(), expect);
                (
                    "patch",
                    self.api
                        .patch(&target, None, PatchType::Merge, &body)
                        .await
                        .map(Some),
                )
            }
            Write::Patch {
                patch: Patch::Json(operations),
                expect,
                ..
            } => {
                let body = tested(operations, expect);
                (
                    "patch",
                    self.api
                        .patch(&target, None, PatchType::Json, &body)
                        .await
                        .map(Some),
                )
            }
            Write::Delete { expect, .. } => {
                let result = match self.api.delete(&target, &delete_options(expect)).await {
                    Ok(()) | Err(ApiError::NotFound(_)) => Ok(None),
                    Err(error) => Err(error),
                };
                self.caches.doubt(&target);
                ("delete", result)
            }
        };
        self.count(verb, &target, result.as_ref().err());
        match result {
            Ok(answer) => {
                tracing::debug!(canary = %key, verb, object = %target, "written");
                if let Some(answer) = answer {
                    self.caches.absorb(&target.kind, &answer, key);
                }
                Ok(true)
            }
            // What a patch was computed from is gone.
            Err(ApiError::NotFound(why)) if matches!(write, Write::Patch { .. }) => {
                Err(WriteError::Conflict(target, why))
            }
            Err(error) => Err(sort(target, error)),
        }
    }

    fn count(&self, verb: &'static str, target: &ObjectRef, error: Option<&ApiError>) {
        self.telemetry
            .wrote(verb, &target.kind, error.map_or("ok", ApiError::class));
    }

    fn fruitless(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectRef, (String, String)>> {
        self.fruitless
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fruitless(&self, target: &ObjectRef, object: &Object, expect: &Expect) -> bool {
        let Expect::Version {
            resource_version, ..
        } = expect
        else {
            return false;
        };
        let fruitless = self.fruitless();
        fruitless.get(target).is_some_and(|(digest, version)| {
            version == resource_version && *digest == short_digest(object.value())
        })
    }

    /// An apply that was accepted and yet changed nothing for good (a webhook puts it back, a field is not known to the API
    /// server) is not repeated until somebody changes the object or its desired content.
    fn remember(&self, target: &ObjectRef, object: &Object, answer: &Object) {
        let mut fruitless = self.fruitless();
        if covers(answer.value(), object.value()) {
            fruitless.remove(target);
            return;
        }
        tracing::warn!(object = %target, "applied, but the API server keeps something else; not repeated until the object changes");
        if fruitless.len() >= REMEMBERED {
            fruitless.clear();
        }
        fruitless.insert(
            target.clone(),
            (
                short_digest(object.value()),
                answer.resource_version().to_owned(),
            ),
        );
    }
}

fn sort(target: ObjectRef, error: ApiError) -> WriteError {
    match error {
        ApiError::Conflict(why) => WriteError::Conflict(target, why),
        // Only a canary's own status patch and deletes get here: it is gone, which the next pass sees.
        ApiError::NotFound(why) if target.kind == kinds::CANARY => {
            WriteError::Conflict(target, why)
        }
        error @ ApiError::Transient { .. } => WriteError::Transient(target, error),
        error => WriteError::Refused(target, error),
    }
}

/// The RFC 7386 merge patch that makes `new` of `old`: what differs, and `null` for what goes.
#[must_use]
pub fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return new.clone();
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                patch.insert(key.clone(), difference(before, value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

/// The first field that was written and is not there, by its path; values are not compared, since the API server may normalise them.
fn dropped(written: &Value, live: &Value, path: &str) -> Option<String> {
    match (written, live) {
        (Value::Null, _) => None,
        (_, Value::Null) => Some(path.to_owned()),
        (Value::Object(written), live) => written
            .iter()
            .find_map(|(key, value)| dropped(value, &live[key.as_str()], &format!("{path}.{key}"))),
        (Value::Array(written), live) => written
            .iter()
            .enumerate()
            .find_map(|(index, value)| dropped(value, &live[index], &format!("{path}[{index}]"))),
        _ => None,
    }
}

/// The identity that an object is expected to have, by field of its metadata.
fn identity(expect: &Expect) -> Vec<(&'static str, Value)> {
    match expect {
        Expect::Any => Vec::new(),
        Expect::Absent => vec![("resourceVersion", json!(NO_VERSION))],
        Expect::Asked { uid, generation } => {
            vec![("uid", json!(uid)), ("generation", json!(generation))]
        }
        Expect::Version {
            uid,
            resource_version,
        } => vec![
            ("uid", json!(uid)),
            ("resourceVersion", json!(resource_version)),
        ],
    }
}

/// Adds the expected identity to a body that has metadata.
fn guarded(mut body: Value, expect: &Expect) -> Value {
    for (field, value) in identity(expect) {
        if !body["metadata"].is_object() {
            body["metadata"] = json!({});
        }
        body["metadata"][field] = value;
    }
    body
}

/// Puts the tests of the expected identity before the operations.
fn tested(operations: &[Value], expect: &Expect) -> Value {
    let mut all: Vec<Value> = identity(expect)
        .into_iter()
        .map(|(field, value)| json!({"op": "test", "path": format!("/metadata/{field}"), "value": value}))
        .collect();
    all.extend(operations.iter().cloned());
    Value::Array(all)
}

fn delete_options(expect: &Expect) -> Value {
    let mut options =
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    for (field, value) in identity(expect) {
        options["preconditions"][field] = value;
    }
    options
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_status_patch_holds_the_differences_only() {
        let old = json!({"phase": "Progressing", "canaryWeight": 10, "run": {"id": "a", "step": 1}, "metrics": [1, 2], "gone": true});
        let new = json!({"phase": "Progressing", "canaryWeight": 20, "run": {"id": "a", "step": 2}, "metrics": [1], "new": {"a": 1}});
        assert_eq!(
            difference(&old, &new),
            json!({"canaryWeight": 20, "run": {"step": 2}, "metrics": [1], "new": {"a": 1}, "gone": null})
        );
        assert_eq!(difference(&old, &old), json!({}));
    }

    #[test]
    fn a_field_that_the_crd_drops_is_named() {
        let written =
            json!({"phase": "", "conditions": [{"type": "Ready", "observedGeneration": 1}]});
        assert_eq!(dropped(&written, &written, "status"), None);
        let live = json!({"phase": "", "conditions": [{"type": "Ready"}]});
        assert_eq!(
            dropped(&written, &live, "status").unwrap(),
            "status.conditions[0].observedGeneration"
        );
    }

    #[test]
    fn guards_name_the_object_that_was_read() {
        let expect = Expect::Version {
            uid: "u".into(),
            resource_version: "7".into(),
        };
        assert_eq!(
            guarded(json!({"spec": {}}), &expect),
            json!({"spec": {}, "metadata": {"uid": "u", "resourceVersion": "7"}})
        );
        assert_eq!(
            guarded(json!({"spec": {}}), &Expect::Any),
            json!({"spec": {}})
        );
        assert_eq!(
            guarded(json!({"spec": {}}), &Expect::Absent),
            json!({"spec": {}, "metadata": {"resourceVersion": "1"}})
        );
        let operations = tested(&[json!({"op": "remove", "path": "/x"})], &expect);
        assert_eq!(
            operations[0],
            json!({"op": "test", "path": "/metadata/uid", "value": "u"})
        );
        assert_eq!(operations.as_array().unwrap().len(), 3);
        let asked = Expect::Asked {
            uid: "u".into(),
            generation: 4,
        };
        assert_eq!(
            tested(&[], &asked)[1],
            json!({"op": "test", "path": "/metadata/generation", "value": 4})
        );
        assert_eq!(
            delete_options(&expect)["preconditions"]["resourceVersion"],
            "7"
        );
    }
}
