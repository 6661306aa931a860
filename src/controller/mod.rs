//! The loop that drives the cluster to what decisions say. All I/O towards the API server happens here.
//!
//! ```text
//!   watches ─▶ caches ──wake──▶ queue ─▶ pass: snapshot ─▶ decide ─┬─ wants: read, decide again
//!                ▲                ▲                                ├─ needs: ask in the background ─▶ wake
//!                │                └── alarms, back-off             └─ status, then writes (executor) ─▶ told (announcer)
//!                └────────────────────── answers to our own writes ──────┘
//! ```
//!
//! One pass at a time for each canary, `-threadiness` at once in all. A pass that panics costs its own canary a back-off and an event, never
//! the fleet.

pub mod admission;
mod announcer;
mod asker;
mod cache;
mod client;
mod executor;
mod lease;
pub mod metrics;
mod notifier;
pub mod permissions;
mod queue;
pub mod review;
mod server;
mod sources;
mod store;
mod tenure;
pub(crate) mod tls;
mod turns;

pub use admission::AdmissionOptions;
pub use client::{ApiError, KubeApi, PatchType};
pub use lease::LeaseSettings;
pub use queue::CanaryKey;

use crate::api::{Canary, CanaryStatus, condition_type};
use crate::hooks::Hooks;
use crate::notify;
use crate::object::{Expect, Object, ObjectRef, Write, kinds};
use crate::providers::http::Timing;
use crate::providers::scrape::Scraper;
use crate::providers::{Providers, Surroundings};
use crate::rollout::{
    self, Decision, Refusal, Settings, Sibling, Snapshot, Stage, Stands, Tally, Want, decide,
};
use announcer::Announcer;
use asker::Asker;
use cache::{Caches, ReadError};
use executor::{Executor, WriteError};
use jiff::Timestamp;
use lease::Election;
use metrics::{CanaryView, Telemetry};
use notifier::Notifier;
use queue::Queue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tenure::Tenure;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use turns::{Turns, stands};

/// The field manager of all our writes.
pub const FIELD_MANAGER: &str = "serin";

/// Who we say we are to all servers.
const USER_AGENT: &str = concat!("serin/", env!("CARGO_PKG_VERSION"));
/// After so long without a byte a connection to the API server is given up.
const SILENCE: Duration = Duration::from_secs(130);
/// How often a decision may ask for more to read within one pass.
const ROUNDS: usize = 8;
/// How often a pass starts over because something changed under it.
const CONFLICTS: usize = 5;
/// Least wait after a write that the API server refused.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// Least wait after the first write that was forbidden.
const FORBIDDEN_WAIT: Duration = Duration::from_secs(2);
/// How long a canary waits for a cache that isn't ready before it looks again by itself.
const NOT_READY_WAIT: Duration = Duration::from_secs(10);
/// Passes in a row that wrote something before the canary is slowed down: a decision that never comes to rest must not flood the API server.
const RESTLESS_PASSES: u32 = 20;
/// How long running passes, and events that wait, are given at the end.
const LAST_MOMENTS: Duration = Duration::from_secs(10);

/// What the controller is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What decisions depend on.
    pub settings: Settings,
    /// Namespaces to watch; empty for all.
    pub namespaces: Vec<String>,
    /// Passes at the same time, at least 1.
    pub threadiness: usize,
    /// Where `/metrics` and the probes are served.
    pub listen: SocketAddr,
    /// Webhook that is told every event of canaries without event webhooks of their own.
    pub event_webhook: Option<String>,
    /// Channel that is told of alerts about canaries that name nobody.
    pub alerts: Option<notify::Receiver>,
    /// Name of this replica, such as its pod's; the API server's audit log tells replicas apart by it.
    pub replica: String,
    /// Set to work only while holding a lease.
    pub lease: Option<LeaseSettings>,
    /// Set to answer the API server's questions about objects that are applied.
    pub admission: Option<AdmissionOptions>,
}

/// Why the controller could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// No client for the API server could be made.
    #[error("no client for the API server: {0}")]
    Client(#[source] Box<kube::Error>),
    /// No client for webhooks could be made.
    #[error("no HTTP client: {0}")]
    Http(#[source] reqwest::Error),
    /// No client for metrics backends could be made.
    #[error("no client for metrics backends: {0}")]
    Providers(String),
    /// The port is taken, or the address is not ours.
    #[error("can't listen on {0}: {1}; choose another -port or --bind-address")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The admission webhook has no certificate.
    #[error("the certificate in {0}: {1}; expected tls.crt and tls.key")]
    Certificate(String, String),
    /// The system gives no thread for the election.
    #[error("no thread for leader election: {0}")]
    Thread(#[source] std::io::Error),
    /// Another replica may be at work now.
    #[error("the lease {0} was lost; stopping, so that two controllers never work on one canary")]
    LeaseLost(String),
}

/// What comes after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Look again at once: something was written.
    Again,
    /// Sleep until woken, or for so long.
    Sleep(Option<Duration>),
    /// Try again later, no sooner than this.
    BackOff(Duration),
    /// The canary is gone.
    Gone,
}

/// What the loop remembers of a canary between passes; all of it can be lost.
#[derive(Default)]
struct Memory {
    uid: String,
    generation: i64,
    wants: BTreeSet<Want>,
    restless: u32,
    refusal: Option<Refusal>,
    /// The last write was forbidden, for the first time.
    forbidden: bool,
}

struct Controller {
    settings: Arc<Settings>,
    queue: Arc<Queue>,
    caches: Arc<Caches>,
    executor: Executor,
    asker: Arc<Asker>,
    announcer: Arc<Announcer>,
    notifier: Arc<Notifier>,
    tenure: Tenure,
    telemetry: Arc<Telemetry>,
    memories: Mutex<HashMap<CanaryKey, Memory>>,
    turns: Turns,
}

/// Runs until `stop`, then lets running passes end and sends what waits. `configs` brings newer credentials while it runs.
pub async fn run(
    configs: watch::Receiver<kube::Config>,
    options: Options,
    stop: CancellationToken,
) -> Result<(), ControllerError> {
    let configs = tuned(configs, &options.replica);
    // A replica that waits for the lease keeps its caches warm and changes nothing.
    let tenure = match &options.lease {
        None => Tenure::forever(),
        Some(_) => Tenure::none(),
    };
    let api = KubeApi::following(configs.clone())
        .map_err(|error| ControllerError::Client(Box::new(error)))?
        .fenced(tenure.clone());
    let hooks = Hooks::new(USER_AGENT).map_err(ControllerError::Http)?;
    let surroundings = Surroundings::of_process().in_cluster(Arc::new(api.clone()));
    let providers = Providers::new(Timing::default(), surroundings)
        .map_err(|error| ControllerError::Providers(error.to_string()))?;
    let telemetry = Arc::new(Telemetry::new(&options.settings.mesh_provider));
    let queue = Arc::new(Queue::default());
    let caches = Caches::new(
        api.clone(),
        options.namespaces.clone(),
        Arc::clone(&queue),
        Arc::clone(&telemetry),
    );
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .map_err(|error| ControllerError::Listen(options.listen, error))?;
    let server_stop = CancellationToken::new();
    tokio::spawn(server::serve(
        listener,
        Arc::clone(&telemetry),
        Arc::clone(&caches),
        server_stop.clone(),
    ));
    admission::start(&options, server_stop.clone()).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %options.listen, mesh_provider = %options.settings.mesh_provider, "serin starts");
    caches.start();

    let lost = CancellationToken::new();
    let election = options
        .lease
        .clone()
        .map(|settings| Election::start(configs, settings, tenure.clone(), lost.clone()))
        .transpose()
        .map_err(ControllerError::Thread)?;

    let notices = TaskTracker::new();
    let announcer = Arc::new(Announcer::start(
        api.clone(),
        hooks.clone(),
        options.event_webhook.clone(),
        Arc::clone(&telemetry),
        notices.clone(),
    ));
    let notifier = Notifier::new(
        notifier::Setting::of(&options),
        notify::Sender::new(USER_AGENT, notify::Timing::default())
            .map_err(ControllerError::Http)?,
        Arc::clone(&caches),
        Arc::clone(&queue),
        Arc::clone(&announcer),
        Arc::clone(&telemetry),
        tenure.clone(),
    );
    let endpoints: Arc<Caches> = Arc::clone(&caches);
    let scraper =
        Scraper::new(endpoints).map_err(|error| ControllerError::Providers(error.to_string()))?;
    let metrics = sources::MetricSources::new(Arc::clone(&caches), Arc::new(providers), scraper);
    let controller = Arc::new(Controller {
        settings: Arc::new(options.settings.clone()),
        queue: Arc::clone(&queue),
        asker: Asker::new(api.clone(), Arc::clone(&queue), hooks, metrics),
        executor: Executor::new(api, Arc::clone(&caches), Arc::clone(&telemetry)),
        caches: Arc::clone(&caches),
        announcer,
        notifier,
        tenure: tenure.clone(),
        telemetry,
        memories: Mutex::default(),
        turns: Turns::new(options.settings.limits),
    });
    let began = tokio::spawn(async move {
        tenure.gained().await;
        caches.wake_all();
    });

    let passes = controller.work(options.threadiness, &lost, &stop).await;
    began.abort();
    if lost.is_cancelled() {
        // Passes are dropped where they stand; the next holder repairs from status.
        return Err(ControllerError::LeaseLost(
            options
                .lease
                .map(|lease| lease.to_string())
                .unwrap_or_default(),
        ));
    }
    finish(controller, passes, notices).await;
    if let Some(election) = election {
        election.release().await;
    }
    server_stop.cancel();
    tracing::info!("stopped");
    Ok(())
}

/// The API server as the controller talks to it, for who shares its ways. `replica` is who asks, in the API server's audit log.
///
/// # Errors
/// When no client can be made of the present configuration.
pub fn api_server(
    configs: watch::Receiver<kube::Config>,
    replica: &str,
) -> Result<KubeApi, ControllerError> {
    KubeApi::following(tuned(configs, replica))
        .map_err(|error| ControllerError::Client(Box::new(error)))
}

/// The configurations with what all our clients have in common.
fn tuned(
    mut configs: watch::Receiver<kube::Config>,
    replica: &str,
) -> watch::Receiver<kube::Config> {
    let user_agent = http::HeaderValue::from_str(&format!("{USER_AGENT} ({replica})"))
        .unwrap_or(http::HeaderValue::from_static(USER_AGENT));
    let tune = move |mut config: kube::Config| {
        // Our own calls retry in one place, with the server's Retry-After.
        config.default_retry = false;
        // The API server sends a bookmark about once a minute on each watch: two missed ones, and the connection is given up.
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        config
            .headers
            .push((http::header::USER_AGENT, user_agent.clone()));
        config
    };
    let first = tune(configs.borrow_and_update().clone());
    let (sender, tuned) = watch::channel(first);
    tokio::spawn(async move {
        while configs.changed().await.is_ok() {
            let config = tune(configs.borrow_and_update().clone());
            if sender.send(config).is_err() {
                return;
            }
        }
        sender.closed().await;
    });
    tuned
}

/// Lets running passes end and sends what waits, within bounds.
async fn finish(controller: Arc<Controller>, passes: TaskTracker, notices: TaskTracker) {
    tracing::info!("stopping: no new passes, running ones end");
    passes.close();
    if tokio::time::timeout(LAST_MOMENTS, passes.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            passes = passes.len(),
            "passes did not end in time; the next start goes on where they were"
        );
    }
    drop(passes);
    controller.note_alerts().await;
    // The announcer goes with the last pass; its queue then drains.
    drop(controller);
    notices.close();
    if tokio::time::timeout(LAST_MOMENTS, notices.wait())
        .await
        .is_err()
    {
        tracing::warn!("some events could not be sent in time");
    }
}

impl Controller {
    /// Has canaries looked at, so many at the same time, until `lost` or `stop`. Returns the passes that still run.
    async fn work(
        self: &Arc<Self>,
        threadiness: usize,
        lost: &CancellationToken,
        stop: &CancellationToken,
    ) -> TaskTracker {
        let passes = TaskTracker::new();
        let hands = Arc::new(Semaphore::new(threadiness.max(1)));
        loop {
            let Ok(hand) = Arc::clone(&hands).acquire_owned().await else {
                break;
            };
            let key = tokio::select! {
                biased;
                () = lost.cancelled() => break,
                () = stop.cancelled() => break,
                key = self.queue.next() => key,
            };
            let controller = Arc::clone(self);
            passes.spawn(async move {
                controller.handle(key).await;
                drop(hand);
            });
        }
        passes
    }

    fn with_memory<T>(&self, key: &CanaryKey, change: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        change(memories.entry(key.clone()).or_default())
    }

    /// One pass with all that surrounds it: a panic stays inside, the queue learns what comes next.
    async fn handle(self: Arc<Self>, key: CanaryKey) {
        let started = Instant::now();
        let controller = Arc::clone(&self);
        let name = key.clone();
        let next = match tokio::spawn(async move { controller.pass(&name).await }).await {
            Ok(next) => next,
            Err(error) => {
                let uid = self.with_memory(&key, |memory| memory.uid.clone());
                let message = format!(
                    "A defect in the controller ended the work on this canary ({}); trying again later. Please report it",
                    panic_text(error)
                );
                self.announcer.warn(&key, &uid, "InternalError", &message);
                Next::BackOff(REFUSED_WAIT)
            }
        };
        let result = match next {
            Next::Again => "wrote",
            Next::Sleep(_) => "rests",
            Next::BackOff(_) => "failed",
            Next::Gone => "gone",
        };
        self.telemetry.passed(result, started.elapsed());
        match next {
            Next::Again => {
                let passes = self.with_memory(&key, |memory| {
                    memory.restless = memory.restless.saturating_add(1);
                    memory.restless
                });
                let delay = if passes > RESTLESS_PASSES {
                    Duration::from_secs(u64::from(passes - RESTLESS_PASSES).min(60))
                } else {
                    Duration::ZERO
                };
                if passes == RESTLESS_PASSES + 1 {
                    tracing::warn!(canary = %key, passes, "every pass writes something; slowing down");
                }
                self.queue.done(key, Some(delay));
            }
            Next::Sleep(delay) => {
                self.with_memory(&key, |memory| memory.restless = 0);
                self.queue.done(key, delay);
            }
            Next::BackOff(least) => {
                let delay = self.queue.failed(key.clone(), least);
                tracing::debug!(canary = %key, ?delay, "trying again later");
            }
            Next::Gone => {
                let memory = self
                    .memories
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&key);
                if let Some(memory) = memory {
                    self.asker.forget(&memory.uid);
                    self.notifier.forget(&memory.uid);
                }
                self.asker.sample(&key, &[]);
                self.caches.settle(&key, &BTreeSet::new());
                self.wake_waiting();
                self.telemetry.forget(&key);
                self.queue.forget(&key);
            }
        }
    }

    /// The queue moved: those that wait for their turn look again.
    fn wake_waiting(&self) {
        for canary in self.caches.canaries() {
            if matches!(stands(&canary), Some(Stands::Waits(_))) {
                self.queue
                    .wake(CanaryKey::new(canary.namespace(), canary.name()));
            }
        }
    }

    async fn pass(&self, key: &CanaryKey) -> Next {
        let started = Instant::now();
        for _ in 0..=CONFLICTS {
            let Some(object) = self.caches.canary(key) else {
                return Next::Gone;
            };
            let canary = Canary::decode(object.value());
            if !self.tenure.holds() {
                // Reading what a decision wants is what keeps the caches warm; all canaries are woken when the lease is ours.
                return match canary {
                    Ok(canary) => match self.think(key, &object, &Arc::new(canary)).await {
                        Ok(_) => Next::Sleep(None),
                        Err(next) => next,
                    },
                    Err(_) => Next::Sleep(None),
                };
            }
            let canary = match canary {
                Ok(canary) => Arc::new(canary),
                Err(error) => return self.tell_invalid(key, &object, &error.to_string()).await,
            };
            self.show(key, &canary, canary.status.as_ref());
            self.notifier.look(key, &canary);
            let decision = match self.think(key, &object, &canary).await {
                Ok(decision) => decision,
                Err(next) => return next,
            };
            if begins(&canary, &decision) && !self.turns.grant(&self.caches, key, &object) {
                // Another canary was faster; the next decision waits.
                continue;
            }
            self.asker.sample(key, &decision.sampled);
            if !decision.needs.is_empty() {
                self.asker.ask(object.uid(), key, decision.needs.clone());
            }
            let carried_out = self
                .carry_out(key, &object, &canary, &decision, started)
                .await;
            self.turns.settle(key);
            match carried_out {
                Ok(wrote) => {
                    // The conditions still say so; the next pass takes that back.
                    let refused = self.with_memory(key, |memory| {
                        memory.forbidden = false;
                        memory.refusal.take().is_some()
                    });
                    return if wrote || refused {
                        Next::Again
                    } else {
                        Next::Sleep(decision.wake.map(until))
                    };
                }
                Err(WriteError::Conflict(name, why)) => {
                    tracing::debug!(canary = %key, object = %name, why, "changed under the decision; deciding again");
                    if let Err(error) = self.read_again(key, &object, &name).await {
                        tracing::warn!(canary = %key, object = %name, %error, "can't be read again");
                        return Next::BackOff(Duration::ZERO);
                    }
                }
                Err(error @ WriteError::Transient(..)) => {
                    tracing::warn!(canary = %key, %error, "trying again later");
                    return Next::BackOff(Duration::ZERO);
                }
                Err(error @ WriteError::Refused(_, ApiError::Refused { code: 403, .. }))
                    if !self.with_memory(key, |memory| {
                        std::mem::replace(&mut memory.forbidden, true)
                    }) =>
                {
                    // An API server that has just started may not know yet who may do what: believed the second time.
                    tracing::warn!(canary = %key, %error, "trying once more");
                    return Next::BackOff(FORBIDDEN_WAIT);
                }
                Err(error @ (WriteError::Refused(..) | WriteError::Pruned(_))) => {
                    if self.note_refused(key, &error) {
                        // The next pass says so in the conditions, and meets the refusal again.
                        continue;
                    }
                    return Next::BackOff(REFUSED_WAIT);
                }
            }
        }
        tracing::warn!(canary = %key, "somebody keeps changing what this canary writes; trying again later");
        Next::BackOff(Duration::ZERO)
    }

    /// Reads past the cache what changed under a decision, and the canary. Where another hand wrote its status there was another
    /// controller at work, and what is known of everything else may be as old: then all that decisions look at is read again.
    async fn read_again(
        &self,
        key: &CanaryKey,
        decided_from: &Object,
        name: &ObjectRef,
    ) -> Result<(), ApiError> {
        let canary = kinds::CANARY.named(&key.namespace, &key.name);
        // A status that this pass wrote before it met the conflict is in the cache by now, and is no other hand's.
        let cached = self
            .caches
            .canary(key)
            .filter(|_| name.kind != kinds::CANARY);
        let known = cached
            .as_deref()
            .unwrap_or(decided_from)
            .at("/status")
            .clone();
        for changed in BTreeSet::from([name, &canary]) {
            self.caches.refresh(changed, key).await?;
        }
        let rewritten = self
            .caches
            .canary(key)
            .is_some_and(|now| now.uid() == decided_from.uid() && *now.at("/status") != known);
        if rewritten {
            tracing::info!(canary = %key, "its status was written by another hand; reading everything again");
            let wants = self.with_memory(key, |memory| memory.wants.clone());
            for want in wants {
                match want {
                    Want::Object(object) => self.caches.refresh(&object, key).await?,
                    Want::List(list) => {
                        for object in self.caches.read_list(&list).await? {
                            self.caches.absorb(&list.kind, &object, key);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Decides, reading what the decision wants until it wants nothing more.
    async fn think(
        &self,
        key: &CanaryKey,
        object: &Object,
        canary: &Arc<Canary>,
    ) -> Result<Decision, Next> {
        // What was looked at last time is put in at once, unless the spec changed: then what is not looked at any more is let go.
        let (mut wants, fresh) = self.with_memory(key, |memory| {
            if memory.uid != object.uid() {
                self.asker.forget(&memory.uid);
                *memory = Memory {
                    uid: object.uid().to_owned(),
                    ..Memory::default()
                };
            }
            let fresh = memory.generation != object.generation();
            (
                if fresh {
                    BTreeSet::new()
                } else {
                    memory.wants.clone()
                },
                fresh,
            )
        });
        let mut known = Readings::default();
        let mut unread = wants.clone();
        for _ in 0..ROUNDS {
            for want in &unread {
                if let Err(error) = known.read(&self.caches, key, want).await {
                    // What was asked for so far wakes this canary.
                    self.with_memory(key, |memory| memory.wants.extend(wants.iter().cloned()));
                    return Err(match error {
                        ReadError::NotReady(kind) => {
                            tracing::debug!(canary = %key, kind, "waiting for a cache");
                            Next::Sleep(Some(NOT_READY_WAIT))
                        }
                        error @ ReadError::Failed(..) => {
                            tracing::warn!(canary = %key, %error, "trying again later");
                            Next::BackOff(Duration::ZERO)
                        }
                    });
                }
            }
            let mut decision = decide(&self.snapshot(key, object, canary, &known));
            if decision.wants.is_empty() {
                if fresh {
                    self.caches.settle(key, &wants);
                }
                self.with_memory(key, |memory| {
                    memory.generation = object.generation();
                    memory.wants = wants;
                });
                return Ok(decision);
            }
            unread = std::mem::take(&mut decision.wants);
            wants.extend(unread.iter().cloned());
        }
        tracing::error!(canary = %key, wants = ?unread, "the decision wants ever more; giving up for now");
        Err(Next::BackOff(REFUSED_WAIT))
    }

    fn snapshot(
        &self,
        key: &CanaryKey,
        object: &Object,
        canary: &Arc<Canary>,
        known: &Readings,
    ) -> Snapshot {
        let mut snapshot = Snapshot::new(
            Timestamp::now(),
            Arc::clone(canary),
            Arc::clone(&self.settings),
        );
        snapshot.entropy = rand::random();
        snapshot.turn = self.turns.of(&self.caches, key, object);
        snapshot.refusal = self.with_memory(key, |memory| memory.refusal.clone());
        snapshot.siblings = self
            .caches
            .canaries_in(&key.namespace)
            .iter()
            .filter(|other| other.name() != &*key.name)
            .map(|other| sibling(other))
            .collect();
        for (name, reading) in &known.objects {
            snapshot.add_object(name.clone(), reading.clone());
        }
        for (list, listing) in &known.lists {
            snapshot.add_list(list.clone(), listing.clone());
        }
        snapshot.alert_outcomes = self.notifier.outcomes(object.uid());
        for (need, finding) in self.asker.answers(object.uid()) {
            snapshot.add_finding(need, finding);
        }
        snapshot
    }

    /// Status, then what is told about it, then the writes and what is told of them. Returns whether anything was written.
    async fn carry_out(
        &self,
        key: &CanaryKey,
        object: &Arc<Object>,
        canary: &Canary,
        decision: &Decision,
        started: Instant,
    ) -> Result<bool, WriteError> {
        let mut wrote = false;
        // What is told without a change of status is told of the writes: a canary that is gone, for example.
        let (of_status, of_writes): (Vec<_>, Vec<_>) = decision
            .announcements
            .iter()
            .cloned()
            .partition(|one| decision.status.is_some() && !one.is_of_write());
        let mut live = Arc::clone(object);
        if let Some(status) = &decision.status {
            if let Some(written) = self
                .executor
                .write_status(key, object, canary.status.as_ref(), status)
                .await?
            {
                if stands(object).is_some() && stands(object) != stands(&written) {
                    self.wake_waiting();
                }
                live = written;
                wrote = true;
            }
            self.show(key, canary, Some(status));
            let told = Arc::new(Canary {
                status: Some(status.clone()),
                ..canary.clone()
            });
            self.announcer.tell(&told, &of_status);
            self.notifier.look(key, &told);
            self.tally(key, &decision.tallies, started);
        }
        for write in &decision.writes {
            let guarded = after_status(write, object, &live);
            wrote |= self.executor.write(key, &guarded).await?;
        }
        self.announcer.tell(canary, &of_writes);
        Ok(wrote)
    }

    /// Writes down who was told since the last write, before nobody knows it any more.
    async fn note_alerts(&self) {
        let known = self.notifier.finish(LAST_MOMENTS / 2).await;
        let writing = async {
            for (key, outcomes) in known {
                let Some(object) = self.caches.canary(&key) else {
                    continue;
                };
                let Ok(canary) = Canary::decode(object.value()) else {
                    continue;
                };
                let mut status = canary.status_or_default();
                if !rollout::acknowledge(&mut status, &outcomes) {
                    continue;
                }
                let before = canary.status.as_ref();
                if let Err(error) = self
                    .executor
                    .write_status(&key, &object, before, &status)
                    .await
                {
                    tracing::warn!(canary = %key, %error, "that an alert was sent could not be written down; it is sent once more");
                }
            }
        };
        if tokio::time::timeout(LAST_MOMENTS / 2, writing)
            .await
            .is_err()
        {
            tracing::warn!(
                "that alerts were sent could not be written down in time; they may be sent once more"
            );
        }
    }

    fn tally(&self, key: &CanaryKey, tallies: &[Tally], started: Instant) {
        for tally in tallies {
            match tally {
                Tally::Succeeded { skipped } => self.telemetry.succeeded(key, *skipped),
                Tally::Failed => self.telemetry.failed(key),
                Tally::Measured { metric, value } => self.telemetry.measured(key, metric, *value),
            }
        }
        if tallies
            .iter()
            .any(|tally| matches!(tally, Tally::Measured { .. }))
        {
            self.telemetry.analysed(key, started.elapsed());
        }
    }

    fn show(&self, key: &CanaryKey, canary: &Canary, status: Option<&CanaryStatus>) {
        let weight = status.map_or(0.0, |status| status.canary_weight as f64);
        self.telemetry.show(
            key,
            CanaryView {
                target: canary.target_name().to_owned(),
                phase: status
                    .map(|status| status.phase.to_string())
                    .unwrap_or_default(),
                weights: (100.0 - weight, weight),
                strategy: canary.spec.strategy().label(),
            },
        );
    }

    /// A canary that can't be understood says so itself; nothing else is done about it until it changes.
    async fn tell_invalid(&self, key: &CanaryKey, object: &Arc<Object>, why: &str) -> Next {
        self.with_memory(key, |memory| object.uid().clone_into(&mut memory.uid));
        let conditions = [
            condition(
                object,
                condition_type::ACCEPTED,
                "False",
                "InvalidSpec",
                why,
            ),
            condition(object, condition_type::STALLED, "True", "InvalidSpec", why),
        ];
        match self
            .executor
            .write_conditions(key, object, &conditions)
            .await
        {
            Ok(changed) => {
                if changed {
                    self.announcer.warn(key, object.uid(), "InvalidSpec", why);
                }
                Next::Sleep(None)
            }
            Err(error) => {
                tracing::warn!(canary = %key, %error, why, "the canary can't be understood, and its status can't be written");
                Next::BackOff(REFUSED_WAIT)
            }
        }
    }

    /// Remembers what the API server refused, for the decisions to come. True if it is news.
    fn note_refused(&self, key: &CanaryKey, error: &WriteError) -> bool {
        let mut message = error.to_string();
        if let WriteError::Refused(target, ApiError::Refused { code: 403, .. }) = error {
            message += &permissions::lacking(&self.caches.known(&target.kind));
        }
        let refusal = Refusal {
            reason: match error {
                WriteError::Pruned(_) => "StatusPruned",
                _ => "WriteRefused",
            },
            message,
        };
        tracing::debug!(canary = %key, why = refusal.message, "not written");
        self.with_memory(key, |memory| {
            memory.refusal.replace(refusal.clone()).as_ref() != Some(&refusal)
        })
    }
}

/// Whether a decision begins a run.
fn begins(canary: &Canary, decision: &Decision) -> bool {
    let under_way = |status: Option<&CanaryStatus>| {
        status
            .and_then(|status| status.run.as_ref())
            .and_then(|run| Stage::parse(&run.stage))
            .is_some_and(Stage::is_under_way)
    };
    under_way(decision.status.as_ref()) && !under_way(canary.status.as_ref())
}

/// What was read for one pass.
#[derive(Default)]
struct Readings {
    objects: BTreeMap<crate::object::ObjectRef, crate::object::Reading>,
    lists: BTreeMap<crate::rollout::ListRef, crate::rollout::Listing>,
}

impl Readings {
    async fn read(
        &mut self,
        caches: &Arc<Caches>,
        key: &CanaryKey,
        want: &Want,
    ) -> Result<(), ReadError> {
        match want {
            Want::Object(name) => {
                self.objects
                    .insert(name.clone(), caches.object(key, name).await?);
            }
            Want::List(list) => {
                self.lists
                    .insert(list.clone(), caches.list(key, list).await?);
            }
        }
        Ok(())
    }
}

/// A write to the canary itself that was guarded by the version before the status write is guarded by the version after it: nobody came
/// between, or the status write would have failed.
fn after_status(write: &Write, before: &Object, after: &Object) -> Write {
    let mut write = write.clone();
    write.change_expectations(&mut |expect| {
        if *expect == Expect::unchanged(before) {
            *expect = Expect::unchanged(after);
        }
    });
    write
}

fn until(at: Timestamp) -> Duration {
    // A deadline that just passed is looked at at once, but never in a closed loop.
    Duration::try_from(at.duration_since(Timestamp::now()))
        .unwrap_or_default()
        .max(Duration::from_millis(50))
}

fn sibling(canary: &Object) -> Sibling {
    let target_name = canary.text("/spec/targetRef/name");
    let apex = canary.text("/spec/service/name");
    Sibling {
        name: canary.name().to_owned(),
        created_at: canary.created_at(),
        target: format!("{}/{target_name}", canary.text("/spec/targetRef/kind")),
        apex: if apex.is_empty() { target_name } else { apex }.to_owned(),
    }
}

fn condition(object: &Object, kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut condition = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now,
    });
    if object.generation() > 0 {
        condition["observedGeneration"] = json!(object.generation());
    }
    condition
}

fn panic_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "panic".to_owned()),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_write_to_the_canary_itself_is_guarded_by_the_version_after_the_status_write() {
        let before = Object::new(
            json!({"metadata": {"name": "a", "namespace": "t", "uid": "u", "resourceVersion": "1"}}),
        );
        let after = Object::new(
            json!({"metadata": {"name": "a", "namespace": "t", "uid": "u", "resourceVersion": "2"}}),
        );
        let write = |expect| Write::Delete {
            target: kinds::CANARY.named("t", "a"),
            expect,
        };
        assert_eq!(
            after_status(&write(Expect::unchanged(&before)), &before, &after),
            write(Expect::unchanged(&after))
        );
        assert_eq!(
            after_status(&write(Expect::Any), &before, &after),
            write(Expect::Any)
        );
    }

    #[test]
    fn neighbours_are_read_from_plain_json() {
        let other = Object::new(
            json!({"metadata": {"name": "b"}, "spec": {"targetRef": {"kind": "Deployment", "name": "web"}, "service": 7}}),
        );
        assert_eq!(
            sibling(&other),
            Sibling {
                name: "b".into(),
                created_at: None,
                target: "Deployment/web".into(),
                apex: "web".into()
            }
        );
    }
}
