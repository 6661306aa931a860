//! Watches: what is there, where nobody has seen it yet, then every change as it comes, bookmarks between them, and an end after the time
//! that was asked for.

use super::answer::Failure;
use super::select::Selector;
use super::table::{self, Form};
use super::verbs::{Asked, presented, selector};
use super::{Target, verbs};
use crate::demo::cluster::Cluster;
use crate::object::Kind;
use crate::sim::store::Change;
use axum::body::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often a watch without changes hears how far it is. A real API server does so about once a minute.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(30);
/// How long a watch lives that does not say.
const LONGEST: Duration = Duration::from_hours(1);

struct Watch {
    cluster: Arc<Cluster>,
    changed: watch::Receiver<u64>,
    kind: Kind,
    stored: Kind,
    namespace: String,
    selector: Selector,
    form: Form,
    bookmarks: bool,
    seen: u64,
    waiting: VecDeque<Value>,
    ends: Instant,
    over: bool,
}

/// Starts a watch.
pub fn watch(
    cluster: &Arc<Cluster>,
    target: &Target,
    request: &Asked,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send + use<>, Failure> {
    let asked = |key: &str| request.query.get(key).map_or("", String::as_str);
    let from = asked("resourceVersion");
    let initial = asked("sendInitialEvents") == "true";
    let mut selector = selector(request)?;
    if !target.name.is_empty() {
        selector = Selector::parse("", &format!("metadata.name={}", target.name))
            .map_err(Failure::bad_request)?;
    }
    let timeout = asked("timeoutSeconds")
        .parse()
        .map_or(LONGEST, Duration::from_secs)
        .min(LONGEST);
    let mut watch = Watch {
        changed: cluster.changes(),
        cluster: Arc::clone(cluster),
        kind: target.resource.kind.clone(),
        stored: target.resource.stored.clone(),
        namespace: target.namespace.clone(),
        selector,
        form: request.accept,
        bookmarks: asked("allowWatchBookmarks") == "true",
        seen: 0,
        waiting: VecDeque::new(),
        ends: Instant::now() + timeout,
        over: false,
    };
    if initial || matches!(from, "" | "0") {
        let (objects, revision) = verbs::listed(cluster, target, &watch.selector);
        watch.seen = revision;
        for object in objects {
            watch.tell("ADDED", &object);
        }
        if initial {
            watch.bookmark(true);
        }
    } else {
        watch.seen = from.parse().map_err(|_| {
            Failure::bad_request(format!(
                "resourceVersion: found {from:?}, expected a version that a list gave"
            ))
        })?;
        if cluster.since(&watch.stored, watch.seen).is_none() {
            return Err(Failure::expired());
        }
    }
    Ok(futures::stream::unfold(watch, |mut watch| async {
        let event = watch.next().await?;
        let mut line = event.to_string();
        line.push('\n');
        Some((Ok(Bytes::from(line)), watch))
    }))
}

impl Watch {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            // Marked as seen before it is looked at: what comes meanwhile wakes the next wait.
            self.changed.borrow_and_update();
            let before = self.seen;
            if let Some((changes, revision)) = self.cluster.since(&self.stored, self.seen) {
                self.seen = revision;
                for change in changes {
                    self.take(&change);
                }
            } else {
                let status = Failure::expired().status_object();
                self.waiting
                    .push_back(json!({"type": "ERROR", "object": status}));
                self.over = true;
            }
            if !self.waiting.is_empty() || before != self.seen && !self.bookmarks {
                continue;
            }
            tokio::select! {
                changed = self.changed.changed() => {
                    self.over = changed.is_err();
                }
                () = tokio::time::sleep_until(self.ends) => {
                    self.over = true;
                    if self.bookmarks {
                        self.bookmark(false);
                    }
                }
                () = tokio::time::sleep(BOOKMARK_PERIOD), if self.bookmarks => self.bookmark(false),
            }
        }
    }

    fn take(&mut self, change: &Change) {
        if !self.namespace.is_empty() && change.name.namespace != self.namespace {
            return;
        }
        let fits = |object: &Option<Arc<crate::object::Object>>| {
            object
                .as_ref()
                .is_some_and(|object| self.selector.matches(object.value()))
        };
        let what = match (fits(&change.before), fits(&change.after)) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return,
        };
        let Some(object) = change.after.as_ref().or(change.before.as_ref()) else {
            return;
        };
        let mut value = presented(&self.kind, object);
        value["metadata"]["resourceVersion"] = json!(change.revision.to_string());
        self.tell(what, &value);
    }

    fn tell(&mut self, what: &str, object: &Value) {
        let object = match self.form {
            Form::Whole => object.clone(),
            Form::Metadata => table::metadata_of(object),
            Form::Table => table::table(
                &self.kind,
                std::slice::from_ref(object),
                &json!({"resourceVersion": object["metadata"]["resourceVersion"]}),
            ),
        };
        self.waiting
            .push_back(json!({"type": what, "object": object}));
    }

    fn bookmark(&mut self, initial_end: bool) {
        let mut object = json!({
            "apiVersion": self.kind.api_version(), "kind": self.kind.kind,
            "metadata": {"resourceVersion": self.seen.to_string()},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self.form {
            Form::Whole => {}
            Form::Metadata => {
                object["apiVersion"] = json!("meta.k8s.io/v1");
                object["kind"] = json!("PartialObjectMetadata");
            }
            Form::Table => {
                object = table::table(&self.kind, &[], &object["metadata"]);
            }
        }
        self.waiting
            .push_back(json!({"type": "BOOKMARK", "object": object}));
    }
}
