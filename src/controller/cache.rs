//! The caches: one shared watch for each kind, started when the first canary wants that kind, cluster-wide or for each namespace of
//! `-namespace`. Objects stay whole JSON, so one that is odd disturbs no other. A watch that fell silent is restarted by its
//! own deadline; one that can't start (no CRD, no permission) is tried again with back-off and says so meanwhile.

use super::client::{self, ApiError, KubeApi};
use super::metrics::Telemetry;
use super::permissions;
use super::queue::{CanaryKey, Queue};
use super::store::{Lookup, Name, Phase, Store, metadata_only, name_of};
use crate::object::{Kind, Object, ObjectRef, Reading, kinds};
use crate::providers::scrape::Endpoints;
use crate::rollout::{ListRef, Listing, Want};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope, Resource};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long the API server keeps one watch open; five seconds later a watch that fell silent is given up.
const WATCH_SECONDS: u32 = 240;
/// How long a pass waits for the first list of a kind before it is put off.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often an API server that was lost is asked whether it is back.
const GREETING_PERIOD: Duration = Duration::from_secs(5);
/// How long something is kept that was asked for between passes.
const KEPT_FOR: Duration = Duration::from_hours(1);
/// How often a list that changes while it is read is read again.
const LIST_ATTEMPTS: usize = 4;
/// How many objects of a list are read past the cache.
const LARGEST_LIST: usize = 500;

/// The waits of a watch that breaks again and again: from half a second to eight, with jitter. A minute's peace starts them over; a list
/// that succeeded does not, or a server that breaks each watch off would be listed all the time.
#[derive(Default)]
struct Patience {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let calm = self
            .last
            .is_none_or(|last| last.elapsed() > Duration::from_mins(1));
        self.failures = if calm { 0 } else { self.failures + 1 };
        self.last = Some(Instant::now());
        let full = Duration::from_millis(500 << self.failures.min(4));
        Some(full.mul_f64(rand::random_range(0.75..=1.0)))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {}
}

/// An object as JSON with just enough typed metadata for the watch.
#[derive(Clone, Debug)]
struct Raw {
    value: Value,
    meta: ObjectMeta,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |key: &str| value["metadata"][key].as_str().map(str::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { value, meta })
    }
}

/// The same with the metadata alone asked of the API server.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
struct RawMetadata(Raw);

macro_rules! raw_resource {
    ($name:ident, $metadata_api:literal, |$object:ident| $meta:expr, $meta_mut:expr) => {
        impl Resource for $name {
            type DynamicType = ApiResource;
            type Scope = DynamicResourceScope;

            fn kind(resource: &ApiResource) -> Cow<'_, str> {
                resource.kind.as_str().into()
            }
            fn group(resource: &ApiResource) -> Cow<'_, str> {
                resource.group.as_str().into()
            }
            fn version(resource: &ApiResource) -> Cow<'_, str> {
                resource.version.as_str().into()
            }
            fn plural(resource: &ApiResource) -> Cow<'_, str> {
                resource.plural.as_str().into()
            }
            fn metadata_api() -> bool {
                $metadata_api
            }
            fn meta(&self) -> &ObjectMeta {
                let $object = self;
                $meta
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                let $object = self;
                $meta_mut
            }
        }
    };
}
raw_resource!(Raw, false, |object| &object.meta, &mut object.meta);
raw_resource!(
    RawMetadata,
    true,
    |object| &object.0.meta,
    &mut object.0.meta
);

impl From<RawMetadata> for Raw {
    fn from(metadata: RawMetadata) -> Self {
        metadata.0
    }
}

/// Why something could not be read now; the pass is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The first list of the kind is not done; the canary is woken when it is.
    #[error("the cache of {0} is not ready yet")]
    NotReady(String),
    /// The API server could not be asked.
    #[error("{0} can't be read: {1}")]
    Failed(String, ApiError),
}

/// One watch: a kind, in one namespace or all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct StoreKey {
    kind: Kind,
    namespace: Option<String>,
}

#[derive(Default)]
struct Inner {
    stores: HashMap<StoreKey, Store>,
    interests: HashMap<CanaryKey, BTreeSet<Want>>,
    /// What was asked for between passes, and when last: no decision wants it, and it is wanted again at the next check.
    keepsakes: HashMap<CanaryKey, HashMap<Want, Instant>>,
}

/// All caches.
pub struct Caches {
    api: KubeApi,
    /// Empty for the whole cluster.
    namespaces: Vec<String>,
    inner: Mutex<Inner>,
    queue: Arc<Queue>,
    telemetry: Arc<Telemetry>,
    advanced: Notify,
    /// Since when the API server does not answer, as far as is known.
    unreachable: Mutex<Option<Timestamp>>,
}

impl Caches {
    /// Caches that wake canaries in `queue`; `namespaces` is empty for the whole cluster.
    #[must_use]
    pub fn new(
        api: KubeApi,
        namespaces: Vec<String>,
        queue: Arc<Queue>,
        telemetry: Arc<Telemetry>,
    ) -> Arc<Self> {
        Arc::new(Self {
            api,
            namespaces,
            inner: Mutex::default(),
            queue,
            telemetry,
            advanced: Notify::new(),
            unreachable: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreachable(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.unreachable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A watch broke: asks the API server until it answers, and is not ready meanwhile. An answer at once leaves no trace.
    fn suspect(self: &Arc<Self>) {
        let mut unreachable = self.unreachable();
        if unreachable.is_some() {
            return;
        }
        *unreachable = Some(Timestamp::now());
        drop(unreachable);
        let caches = Arc::clone(self);
        tokio::spawn(async move {
            while let Err(error @ ApiError::Transient { .. }) = caches.api.greet().await {
                tracing::debug!(%error, "the API server does not answer");
                tokio::time::sleep(GREETING_PERIOD.mul_f64(rand::random_range(0.8..1.2))).await;
            }
            *caches.unreachable() = None;
        });
    }

    fn store_key(&self, kind: &Kind, namespace: &str) -> StoreKey {
        let namespace =
            (kind.namespaced && !self.namespaces.is_empty()).then(|| namespace.to_owned());
        StoreKey {
            kind: kind.clone(),
            namespace,
        }
    }

    /// The kind with its plural, as far as the API server gave it already.
    #[must_use]
    pub fn known(&self, kind: &Kind) -> Kind {
        self.api.known(kind)
    }

    /// Starts to watch the canaries themselves.
    pub fn start(self: &Arc<Self>) {
        for key in self.canary_stores() {
            self.ensure(&mut self.lock(), &key);
        }
    }

    fn canary_stores(&self) -> Vec<StoreKey> {
        if self.namespaces.is_empty() {
            vec![StoreKey {
                kind: kinds::CANARY,
                namespace: None,
            }]
        } else {
            self.namespaces
                .iter()
                .map(|namespace| StoreKey {
                    kind: kinds::CANARY,
                    namespace: Some(namespace.clone()),
                })
                .collect()
        }
    }

    /// Has every canary looked at.
    pub fn wake_all(&self) {
        let canaries = {
            let inner = self.lock();
            self.canary_stores()
                .iter()
                .filter_map(|key| inner.stores.get(key))
                .flat_map(inner_keys)
                .collect()
        };
        self.wake(canaries);
    }

    /// Whether the canaries are known and followed; otherwise why not.
    pub fn readiness(&self) -> Result<(), String> {
        if let Some(since) = *self.unreachable() {
            return Err(format!(
                "the API server can't be reached since {}",
                since.strftime("%Y-%m-%dT%H:%M:%SZ")
            ));
        }
        let inner = self.lock();
        for key in self.canary_stores() {
            match inner.stores.get(&key).map(Store::phase) {
                Some(Phase::Ready) => {}
                Some(Phase::Unserved(why)) => return Err(why.clone()),
                Some(Phase::Starting) | None => {
                    return Err("the canaries are being listed".to_owned());
                }
            }
        }
        Ok(())
    }

    /// The canary, as the cache last saw it.
    #[must_use]
    pub fn canary(&self, key: &CanaryKey) -> Option<Arc<Object>> {
        let store = self.store_key(&kinds::CANARY, &key.namespace);
        self.lock()
            .stores
            .get(&store)?
            .get(&(key.namespace.to_string(), key.name.to_string()))
            .cloned()
    }

    /// All canaries.
    #[must_use]
    pub fn canaries(&self) -> Vec<Arc<Object>> {
        self.lock()
            .stores
            .iter()
            .filter(|(key, _)| key.kind == kinds::CANARY)
            .flat_map(|(_, store)| store.all())
            .cloned()
            .collect()
    }

    /// All canaries of a namespace.
    #[must_use]
    pub fn canaries_in(&self, namespace: &str) -> Vec<Arc<Object>> {
        let store = self.store_key(&kinds::CANARY, namespace);
        let inner = self.lock();
        let Some(store) = inner.stores.get(&store) else {
            return Vec::new();
        };
        store
            .all()
            .filter(|canary| canary.namespace() == namespace)
            .cloned()
            .collect()
    }

    /// What is known of something that a decision wants; read where it is not known. From now on `canary` is woken when it changes.
    pub async fn object(
        self: &Arc<Self>,
        canary: &CanaryKey,
        name: &ObjectRef,
    ) -> Result<Reading, ReadError> {
        let key = self.store_key(&name.kind, &name.namespace);
        let id: Name = (name.namespace.clone(), name.name.clone());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let advanced = self.advanced.notified();
            let looked_up = {
                let mut inner = self.lock();
                inner
                    .interests
                    .entry(canary.clone())
                    .or_default()
                    .insert(Want::Object(name.clone()));
                self.ensure(&mut inner, &key).object(&id, canary)
            };
            match looked_up {
                Lookup::Known(Some(object)) => return Ok(Reading::Present(object)),
                Lookup::Known(None) => return Ok(Reading::Absent),
                Lookup::Unserved(why) => return Ok(Reading::Unknown(why)),
                Lookup::NotReady => {
                    if tokio::time::timeout_at(deadline, advanced).await.is_err() {
                        return Err(ReadError::NotReady(name.kind.kind.to_string()));
                    }
                }
                Lookup::Read(started) => match self.api.get(name).await {
                    Ok(object) => {
                        self.with_store(&key, |store| store.changed(&object));
                    }
                    Err(ApiError::NotFound(_)) => self
                        .with_store(&key, |store| store.found_absent(&id, started))
                        .unwrap_or_default(),
                    Err(error @ ApiError::Transient { .. }) => {
                        return Err(ReadError::Failed(name.to_string(), error));
                    }
                    Err(error) => return Ok(Reading::Unknown(error.to_string())),
                },
            }
        }
    }

    /// The same for what is needed outside of decisions, such as the Secret of a metrics backend: it is kept for the next time.
    pub async fn kept_object(
        self: &Arc<Self>,
        canary: &CanaryKey,
        name: &ObjectRef,
    ) -> Result<Reading, ReadError> {
        self.lock()
            .keepsakes
            .entry(canary.clone())
            .or_default()
            .insert(Want::Object(name.clone()), Instant::now());
        self.object(canary, name).await
    }

    /// The same for a list.
    pub async fn list(
        self: &Arc<Self>,
        canary: &CanaryKey,
        list: &ListRef,
    ) -> Result<Listing, ReadError> {
        let key = self.store_key(&list.kind, &list.namespace);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut attempts = 0;
        loop {
            let advanced = self.advanced.notified();
            let looked_up = {
                let mut inner = self.lock();
                inner
                    .interests
                    .entry(canary.clone())
                    .or_default()
                    .insert(Want::List(list.clone()));
                self.ensure(&mut inner, &key).list(list, canary)
            };
            match looked_up {
                Lookup::Known(objects) => return Ok(Listing::Known(objects)),
                Lookup::Unserved(why) => return Ok(Listing::Unknown(why)),
                Lookup::NotReady => {
                    if tokio::time::timeout_at(deadline, advanced).await.is_err() {
                        return Err(ReadError::NotReady(list.kind.kind.to_string()));
                    }
                }
                Lookup::Read(started) => {
                    attempts += 1;
                    if attempts > LIST_ATTEMPTS {
                        return Err(ReadError::NotReady(list.kind.kind.to_string()));
                    }
                    match self.api.list(list).await {
                        Ok(objects) => {
                            self.with_store(&key, |store| store.found_list(list, started, objects));
                        }
                        Err(error @ ApiError::Transient { .. }) => {
                            return Err(ReadError::Failed(list.kind.plural.to_string(), error));
                        }
                        Err(error) => return Ok(Listing::Unknown(error.to_string())),
                    }
                }
            }
        }
    }

    /// From now on `canary` cares for these and nothing else.
    pub fn settle(&self, canary: &CanaryKey, wants: &BTreeSet<Want>) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if wants.is_empty() {
            inner.keepsakes.remove(canary);
        }
        let kept = inner.keepsakes.get_mut(canary).map(|kept| {
            kept.retain(|_, asked| asked.elapsed() < KEPT_FOR);
            &*kept
        });
        let Some(before) = inner.interests.get_mut(canary) else {
            return;
        };
        let stays =
            |want: &Want| wants.contains(want) || kept.is_some_and(|kept| kept.contains_key(want));
        let dropped: Vec<Want> = before.iter().filter(|want| !stays(want)).cloned().collect();
        before.retain(stays);
        if before.is_empty() {
            inner.interests.remove(canary);
        }
        for want in dropped {
            match want {
                Want::Object(name) => {
                    let key = self.store_key(&name.kind, &name.namespace);
                    if let Some(store) = inner.stores.get_mut(&key) {
                        store.drop_object(&(name.namespace, name.name), canary);
                    }
                }
                Want::List(list) => {
                    let key = self.store_key(&list.kind, &list.namespace);
                    if let Some(store) = inner.stores.get_mut(&key) {
                        store.drop_list(&list, canary);
                    }
                }
            }
        }
    }

    /// Takes over what the API server answered to a write of `writer`, so that its next pass sees it. Others are woken.
    pub fn absorb(&self, kind: &Kind, object: &Object, writer: &CanaryKey) {
        let key = self.store_key(kind, object.namespace());
        if let Some(mut wake) = self.with_store(&key, |store| store.changed(object)) {
            wake.remove(writer);
            self.wake(wake);
        }
    }

    /// What is known of an object may be out of date.
    pub fn doubt(&self, name: &ObjectRef) {
        let key = self.store_key(&name.kind, &name.namespace);
        self.with_store(&key, |store| {
            store.doubt(&(name.namespace.clone(), name.name.clone()));
        });
    }

    /// Reads a list past the cache: as much of it as fits into one answer.
    pub async fn read_list(&self, list: &ListRef) -> Result<Vec<Object>, ApiError> {
        self.api.list_some(list, LARGEST_LIST).await
    }

    /// Reads an object past the cache, because the cache was shown to be behind.
    pub async fn refresh(&self, name: &ObjectRef, reader: &CanaryKey) -> Result<(), ApiError> {
        match self.api.get(name).await {
            Ok(object) => {
                self.absorb(&name.kind, &object, reader);
                Ok(())
            }
            Err(ApiError::NotFound(_)) => {
                let key = self.store_key(&name.kind, &name.namespace);
                self.with_store(&key, |store| {
                    if name.kind == kinds::CANARY {
                        store.deleted(&(name.namespace.clone(), name.name.clone()), "");
                    } else {
                        store.doubt(&(name.namespace.clone(), name.name.clone()));
                    }
                });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn with_store<T>(&self, key: &StoreKey, change: impl FnOnce(&mut Store) -> T) -> Option<T> {
        self.lock().stores.get_mut(key).map(change)
    }

    fn wake(&self, canaries: BTreeSet<CanaryKey>) {
        for canary in canaries {
            self.queue.wake(canary);
        }
    }

    fn ensure<'a>(self: &Arc<Self>, inner: &'a mut Inner, key: &StoreKey) -> &'a mut Store {
        inner.stores.entry(key.clone()).or_insert_with(|| {
            tracing::debug!(kind = %key.kind.kind, namespace = key.namespace.as_deref().unwrap_or("*"), "starting to watch");
            tokio::spawn(Arc::clone(self).follow(key.clone()));
            Store::new(
                key.kind.clone(),
                [kinds::CANARY, kinds::CONTROLLER_REVISION].contains(&key.kind),
            )
        })
    }

    /// Follows one watch for ever.
    async fn follow(self: Arc<Self>, key: StoreKey) {
        let kind = &self.resolve(&key).await;
        let resource = ApiResource {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            api_version: kind.api_version(),
            kind: kind.kind.to_string(),
            plural: kind.plural.to_string(),
        };
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if *kind == kinds::CONTROLLER_REVISION {
            config = config.labels("app.kubernetes.io/managed-by=serin");
        }
        let mut clients = self.api.clients();
        loop {
            let client = self.api.client();
            // New credentials are for new connections: the watch starts over with them.
            tokio::select! {
                () = self.follow_with(client, &key, &resource, config.clone()) => {}
                Ok(()) = clients.changed() => {
                    tracing::debug!(kind = %kind.kind, "watching anew with the changed credentials");
                }
            }
        }
    }

    /// The kind of a watch as the API server serves it, asked for until it is served.
    async fn resolve(&self, key: &StoreKey) -> Kind {
        let mut patience = Patience::default();
        loop {
            match self.api.resolve(&key.kind).await {
                Ok(kind) => return kind,
                Err(error @ ApiError::Transient { .. }) => {
                    tracing::warn!(kind = %key.kind.kind, %error, "can't be asked for; trying again");
                }
                Err(error) => {
                    let why = match error {
                        ApiError::Unserved(why) => why,
                        ApiError::Refused { message, .. } => message,
                        error => error.to_string(),
                    };
                    let woken = self.with_store(key, |store| store.unserved(why));
                    self.advanced.notify_waiters();
                    self.wake(woken.unwrap_or_default());
                }
            }
            tokio::time::sleep(patience.next().unwrap_or(GREETING_PERIOD)).await;
        }
    }

    async fn follow_with(
        self: &Arc<Self>,
        client: kube::Client,
        key: &StoreKey,
        resource: &ApiResource,
        config: watcher::Config,
    ) {
        if metadata_only(&key.kind) {
            let api = match &key.namespace {
                Some(namespace) => {
                    kube::Api::<RawMetadata>::namespaced_with(client, namespace, resource)
                }
                None => kube::Api::all_with(client, resource),
            };
            let mut events = std::pin::pin!(watcher(api, config).backoff(Patience::default()));
            while let Some(event) = events.next().await {
                self.take(key, event);
            }
        } else {
            let api = match &key.namespace {
                Some(namespace) => kube::Api::<Raw>::namespaced_with(client, namespace, resource),
                None => kube::Api::all_with(client, resource),
            };
            let mut events = std::pin::pin!(watcher(api, config).backoff(Patience::default()));
            while let Some(event) = events.next().await {
                self.take(key, event);
            }
        }
    }

    fn take<T: Into<Raw>>(
        self: &Arc<Self>,
        key: &StoreKey,
        event: Result<Event<T>, watcher::Error>,
    ) {
        let mut wake = BTreeSet::new();
        let mut siblings = BTreeSet::new();
        {
            let mut inner = self.lock();
            let Some(store) = inner.stores.get_mut(key) else {
                return;
            };
            let is_canary = key.kind == kinds::CANARY;
            match event {
                Ok(Event::Init) => store.begin(),
                Ok(Event::InitApply(raw)) => wake = take_object(store, raw.into(), true),
                Ok(Event::Apply(raw)) => {
                    let raw = raw.into();
                    if is_canary {
                        note_canary(store, &raw, &mut wake, &mut siblings);
                    }
                    wake.extend(take_object(store, raw, false));
                }
                Ok(Event::Delete(raw)) => {
                    let object = Object::new(raw.into().value);
                    wake = store.deleted(&name_of(&object), object.resource_version());
                    if is_canary {
                        wake.insert(CanaryKey::new(object.namespace(), object.name()));
                        siblings.insert(object.namespace().to_owned());
                    }
                }
                Ok(Event::InitDone) => {
                    let before: BTreeSet<CanaryKey> = if is_canary {
                        inner_keys(store)
                    } else {
                        BTreeSet::new()
                    };
                    let first = *store.phase() != Phase::Ready;
                    wake = store.complete();
                    if is_canary {
                        // Gone ones are woken too, so that they are forgotten.
                        wake.extend(before);
                        wake.extend(inner_keys(store));
                    }
                    if first {
                        tracing::info!(kind = %key.kind.kind, objects = store.held(), "the cache is ready");
                    }
                }
                Err(error) => {
                    wake = self.take_error(store, key, &error);
                    self.suspect();
                }
            }
            for namespace in siblings {
                wake.extend(
                    store
                        .all()
                        .filter(|canary| canary.namespace() == namespace)
                        .map(|canary| CanaryKey::new(&namespace, canary.name())),
                );
            }
            self.telemetry.cached(&key.kind, store.held());
        }
        self.advanced.notify_waiters();
        self.wake(wake);
    }

    fn take_error(
        &self,
        store: &mut Store,
        key: &StoreKey,
        error: &watcher::Error,
    ) -> BTreeSet<CanaryKey> {
        self.telemetry.watch_failed(&key.kind);
        let kind = &self.api.known(&key.kind);
        let refusal = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => match status.code {
                404 => Some(client::unserved(kind)),
                403 => Some(format!(
                    "{} can't be watched: {}{}",
                    kind.kind,
                    status.message,
                    permissions::lacking(kind)
                )),
                _ => None,
            },
            _ => None,
        };
        let Some(why) = refusal else {
            tracing::warn!(kind = %kind.kind, %error, "the watch failed and is started again");
            return BTreeSet::new();
        };
        if *store.phase() != Phase::Unserved(why.clone()) {
            tracing::warn!(kind = %kind.kind, "{why}; trying again");
        }
        store.unserved(why)
    }
}

/// The endpoints of Services that some canary cares for; nothing is read or watched for the asking.
impl Endpoints for Caches {
    fn of(&self, namespace: &str, service: &str) -> Result<Vec<Arc<Object>>, String> {
        let list = ListRef::endpoints(namespace, service);
        let key = self.store_key(&list.kind, namespace);
        self.lock()
            .stores
            .get(&key)
            .and_then(|store| store.known_list(&list))
            .ok_or_else(|| "they are not watched yet".to_owned())
    }
}

fn inner_keys(store: &Store) -> BTreeSet<CanaryKey> {
    store
        .all()
        .map(|canary| CanaryKey::new(canary.namespace(), canary.name()))
        .collect()
}

/// A canary wakes itself; a new one or a changed spec wakes its neighbours too, since two must not claim the same target.
fn note_canary(
    store: &Store,
    raw: &Raw,
    wake: &mut BTreeSet<CanaryKey>,
    siblings: &mut BTreeSet<String>,
) {
    let namespace = raw.meta.namespace.clone().unwrap_or_default();
    let name = raw.meta.name.clone().unwrap_or_default();
    let known = store.get(&(namespace.clone(), name.clone()));
    if known
        .is_some_and(|known| Some(known.resource_version()) == raw.meta.resource_version.as_deref())
    {
        return;
    }
    wake.insert(CanaryKey::new(&namespace, &name));
    if known.map(|known| known.generation()) != raw.value["metadata"]["generation"].as_i64() {
        siblings.insert(namespace);
    }
}

fn take_object(store: &mut Store, raw: Raw, listed: bool) -> BTreeSet<CanaryKey> {
    if store.metadata_only() {
        let name = (
            raw.meta.namespace.unwrap_or_default(),
            raw.meta.name.unwrap_or_default(),
        );
        return store.moved(
            &name,
            raw.meta.resource_version.as_deref().unwrap_or_default(),
            listed,
        );
    }
    let object = Object::new(raw.value);
    if listed {
        store.listed(&object)
    } else {
        store.changed(&object)
    }
}

/// Watches of API servers that answer within the process, so that the clock can be a virtual one.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures::stream;
    use http::Uri;
    use serde_json::json;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::watch;

    fn canary(name: &str, version: &str) -> Value {
        json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version},
        })
    }

    /// An API server that lists one canary. Its first watch never says a word; the next ones tell of another canary.
    fn silent_server(listed: &'static str, told: &'static str) -> kube::Client {
        let watches = Arc::new(AtomicUsize::new(0));
        let answer = move |uri: Uri| {
            let watches = Arc::clone(&watches);
            async move {
                let query = uri.query().unwrap_or_default();
                if !query.contains("watch=true") {
                    let list = json!({
                        "apiVersion": "flagger.app/v1beta1", "kind": "CanaryList",
                        "metadata": {"resourceVersion": "7"}, "items": [canary(listed, "7")],
                    });
                    return Body::from(list.to_string());
                }
                assert!(query.contains("resourceVersion=7"), "{query}");
                let mut lines = Vec::new();
                if watches.fetch_add(1, Ordering::Relaxed) > 0 {
                    let event = json!({"type": "ADDED", "object": canary(told, "8")});
                    lines.push(Ok::<_, Infallible>(format!("{event}\n")));
                }
                Body::from_stream(stream::iter(lines).chain(stream::pending()))
            }
        };
        kube::Client::new(axum::Router::new().fallback(answer), "default")
    }

    fn caches_of(clients: watch::Receiver<kube::Client>) -> Arc<Caches> {
        let caches = Caches::new(
            KubeApi::through(clients),
            Vec::new(),
            Arc::default(),
            Arc::new(Telemetry::new("")),
        );
        caches.start();
        caches
    }

    /// Waits until these canaries are known; how long that took by the virtual clock.
    async fn until_known(caches: &Caches, wanted: &[&str]) -> Duration {
        let started = tokio::time::Instant::now();
        let known = async {
            loop {
                let advanced = caches.advanced.notified();
                let mut names: Vec<String> = caches
                    .canaries()
                    .iter()
                    .map(|canary| canary.name().to_owned())
                    .collect();
                names.sort();
                if names == wanted {
                    return;
                }
                advanced.await;
            }
        };
        tokio::time::timeout(Duration::from_hours(1), known)
            .await
            .unwrap_or_else(|_| panic!("{wanted:?} are not known after an hour"));
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_fell_silent_is_given_up_and_begun_anew() {
        let (_clients, client) = watch::channel(silent_server("search", "web"));
        let caches = caches_of(client);
        until_known(&caches, &["search"]).await;
        assert_eq!(caches.readiness(), Ok(()));
        let silence = until_known(&caches, &["search", "web"]).await;
        let most = Duration::from_secs(u64::from(WATCH_SECONDS) + 10);
        assert!(silence <= most, "noticed after {silence:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn with_new_credentials_a_watch_begins_anew_at_once() {
        let (clients, client) = watch::channel(silent_server("search", "web"));
        let caches = caches_of(client);
        until_known(&caches, &["search"]).await;
        clients.send(silent_server("basket", "web")).unwrap();
        let took = until_known(&caches, &["basket"]).await;
        assert!(took < Duration::from_secs(1), "after {took:?}");
    }
}
