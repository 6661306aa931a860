//! Tells people: Kubernetes events, and event webhooks. Both happen behind the passes, from bounded queues, so that a slow API server or
//! a dead webhook holds no rollout.

use super::client::{ApiError, KubeApi};
use super::metrics::Telemetry;
use super::queue::CanaryKey;
use crate::api::{Canary, HookType};
use crate::hooks::Hooks;
use crate::object::{Kind, short_digest};
use crate::rollout::{Announcement, HookPayload, Severity};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

/// Events, and batches of webhook calls, that may wait.
const WAITING: usize = 1024;
/// Webhook batches that are under way at the same time.
const CALLS: usize = 64;
/// How often an event is sent before it is given up, on top of the client's own retries.
const ATTEMPTS: usize = 3;
/// Longest message of an event, a limit of the API.
const LONGEST_MESSAGE: usize = 1024;
/// Time for the global webhook, which has no retries.
const GLOBAL_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) const EVENT: Kind = Kind::namespaced("", "v1", "Event", "events");

struct EventToSend {
    namespace: String,
    body: Value,
}

struct Target {
    url: String,
    timeout: Duration,
    retries: u32,
    skip_tls_verification: bool,
    metadata: BTreeMap<String, String>,
}

/// Tells people.
pub struct Announcer {
    events: mpsc::Sender<EventToSend>,
    hooks: Hooks,
    global_hook: Option<String>,
    telemetry: Arc<Telemetry>,
    tasks: TaskTracker,
    calls: Arc<Semaphore>,
    serial: AtomicU64,
}

impl Announcer {
    /// `global_hook` is called for canaries without event webhooks of their own.
    #[must_use]
    pub fn start(
        api: KubeApi,
        hooks: Hooks,
        global_hook: Option<String>,
        telemetry: Arc<Telemetry>,
        tasks: TaskTracker,
    ) -> Self {
        let (sender, mut receiver) = mpsc::channel::<EventToSend>(WAITING);
        let counting = Arc::clone(&telemetry);
        tasks.spawn(async move {
            while let Some(event) = receiver.recv().await {
                send(&api, &event, &counting).await;
            }
        });
        Self {
            events: sender,
            hooks,
            global_hook,
            telemetry,
            tasks,
            calls: Arc::new(Semaphore::new(CALLS)),
            serial: AtomicU64::new(rand::random()),
        }
    }

    /// Tells these, in order, about a canary.
    pub fn tell(&self, canary: &Canary, announcements: &[Announcement]) {
        for announcement in announcements {
            log(canary, announcement);
            self.event(
                &canary.metadata.namespace,
                &canary.metadata.name,
                canary.metadata.uid.as_deref(),
                announcement,
            );
        }
        self.call_hooks(canary, announcements);
    }

    /// Tells something about a canary that may not even be readable; no webhooks.
    pub fn warn(&self, key: &CanaryKey, uid: &str, reason: &'static str, message: &str) {
        tracing::warn!(canary = %key, reason, "{message}");
        let announcement = Announcement {
            severity: Severity::Error,
            reason,
            message: message.to_owned(),
            phase: String::new(),
            alert: None,
        };
        self.event(&key.namespace, &key.name, Some(uid), &announcement);
    }

    fn event(&self, namespace: &str, name: &str, uid: Option<&str>, announcement: &Announcement) {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        // A name may have 253 characters; the suffix takes 17.
        let prefix: String = name.chars().take(230).collect();
        let message: String = announcement.message.chars().take(LONGEST_MESSAGE).collect();
        let body = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": format!("{prefix}.{serial:016x}"), "namespace": namespace},
            "involvedObject": {"apiVersion": crate::api::API_VERSION, "kind": Canary::KIND, "name": name, "namespace": namespace, "uid": uid},
            "type": if announcement.severity == Severity::Info { "Normal" } else { "Warning" },
            "reason": announcement.reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "flagger"},
            "reportingComponent": "flagger",
            "reportingInstance": super::FIELD_MANAGER,
        });
        if self
            .events
            .try_send(EventToSend {
                namespace: namespace.to_owned(),
                body,
            })
            .is_err()
        {
            self.telemetry.dropped("event");
        }
    }

    fn call_hooks(&self, canary: &Canary, announcements: &[Announcement]) {
        let mut targets: Vec<Target> = canary
            .spec
            .analysis
            .hooks(HookType::Event)
            .map(|hook| Target {
                url: hook.url.clone(),
                timeout: hook.timeout(),
                retries: hook.retries(),
                skip_tls_verification: hook.skip_verify(),
                metadata: hook.metadata.clone(),
            })
            .collect();
        if targets.is_empty()
            && let Some(url) = &self.global_hook
        {
            targets.push(Target {
                url: url.clone(),
                timeout: GLOBAL_TIMEOUT,
                retries: 0,
                skip_tls_verification: false,
                metadata: BTreeMap::new(),
            });
        }
        if targets.is_empty() || announcements.is_empty() {
            return;
        }
        if self.tasks.len() > WAITING {
            self.telemetry.dropped("webhook");
            return;
        }
        let at = Timestamp::now().as_millisecond();
        let batch: Vec<(String, HookPayload)> = announcements
            .iter()
            .flat_map(|announcement| {
                targets.iter().map(move |target| {
                    (
                        target.url.clone(),
                        payload(canary, announcement, target, at),
                    )
                })
            })
            .collect();
        let hooks = self.hooks.clone();
        let calls = Arc::clone(&self.calls);
        self.tasks.spawn(async move {
            let Ok(_permit) = calls.acquire().await else { return };
            for (number, (url, payload)) in batch.iter().enumerate() {
                let target = &targets[number % targets.len()];
                let answer = hooks.post(url, target.timeout, target.retries, target.skip_tls_verification, payload).await;
                if answer != crate::rollout::HookAnswer::Passed {
                    tracing::warn!(canary = %format!("{}.{}", payload.name, payload.namespace), ?answer, "event webhook failed");
                }
            }
        });
    }
}

/// Flagger's payload of an event hook: its own three keys can't be overridden by the hook's metadata.
fn payload(canary: &Canary, announcement: &Announcement, target: &Target, at: i64) -> HookPayload {
    let mut metadata = target.metadata.clone();
    metadata.insert("eventMessage".to_owned(), announcement.message.clone());
    metadata.insert(
        "eventType".to_owned(),
        if announcement.severity == Severity::Info {
            "Normal"
        } else {
            "Warning"
        }
        .to_owned(),
    );
    metadata.insert("timestamp".to_owned(), at.to_string());
    HookPayload {
        name: canary.metadata.name.clone(),
        namespace: canary.metadata.namespace.clone(),
        phase: announcement.phase.clone(),
        checksum: checksum(canary),
        metadata,
    }
}

/// Changes when the revision or the tracked configs change.
fn checksum(canary: &Canary) -> String {
    let status = canary.status.as_ref();
    short_digest(&json!([
        status.and_then(|status| status.last_applied_spec.as_ref()),
        status.and_then(|status| status.tracked_configs.as_ref())
    ]))
}

fn log(canary: &Canary, announcement: &Announcement) {
    let name = format!("{}.{}", canary.metadata.name, canary.metadata.namespace);
    let reason = announcement.reason;
    match announcement.severity {
        Severity::Info => tracing::info!(canary = %name, reason, "{}", announcement.message),
        Severity::Warn => tracing::warn!(canary = %name, reason, "{}", announcement.message),
        Severity::Error => tracing::error!(canary = %name, reason, "{}", announcement.message),
    }
}

async fn send(api: &KubeApi, event: &EventToSend, telemetry: &Telemetry) {
    for attempt in 1..=ATTEMPTS {
        match api.create(&EVENT, &event.namespace, &event.body).await {
            // A conflict is an earlier attempt whose answer was lost.
            Ok(_) | Err(ApiError::Conflict(_)) => {
                telemetry.wrote("create", &EVENT, "ok");
                return;
            }
            // An API server that has just started may not know yet who may do what.
            Err(error @ (ApiError::Transient { .. } | ApiError::Refused { code: 403, .. }))
                if attempt < ATTEMPTS =>
            {
                tracing::debug!(%error, "an event could not be sent and is sent again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => {
                telemetry.wrote("create", &EVENT, error.class());
                tracing::warn!(%error, message = %event.body["message"], "an event could not be sent");
                return;
            }
        }
    }
}
