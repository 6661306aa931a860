//! Leader election: one replica works, the others wait with warm caches. It has a thread and a client of its own, so that neither busy
//! passes nor a storm of other requests keep a lease from being renewed. The holder's right to write ([`Tenure`]) ends by its own clock
//! well before anybody else may start; who waits counts from the last renewal that it saw, by its own clock too, since clocks of
//! others are not trusted.
//!
//! ```text
//!   renewed ─────────────── renew_deadline ──▶ the holder writes no more, and ends
//!   seen    ───────────────────────────────────────── duration ──▶ another one takes over
//! ```

use super::client::{ApiError, KubeApi};
use super::tenure::{Moment, Tenure};
use crate::object::{Kind, Object};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(super) const LEASE: Kind = Kind::namespaced("coordination.k8s.io", "v1", "Lease", "leases");
/// How long giving the lease back may take at the end.
const LAST_MOMENTS: Duration = Duration::from_secs(3);
/// A lease that is about to be taken is taken a little later by each replica, so that they do not collide.
const SPREAD: Duration = Duration::from_millis(300);

/// Which lease, who we are, and how patient everybody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name; Flagger's, so that the two never work at the same time.
    pub name: String,
    /// Unique for this process.
    pub identity: String,
    /// How long others wait after the last renewal that they saw.
    pub duration: Duration,
    /// How long after its last renewal the holder still works; less than `duration`.
    pub renew_deadline: Duration,
    /// How often the holder renews; less than `renew_deadline`.
    pub retry_period: Duration,
}

impl fmt::Display for LeaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An election that goes on in a thread of its own.
pub struct Election {
    end: CancellationToken,
    ended: CancellationToken,
}

impl Election {
    /// Starts to strive for the lease, for `tenure`. `lost` is cancelled when it was held and is held no more: nothing may be written then.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        configs: watch::Receiver<kube::Config>,
        settings: LeaseSettings,
        tenure: Tenure,
        lost: CancellationToken,
    ) -> std::io::Result<Self> {
        let end = CancellationToken::new();
        let ended = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, done) = (end.clone(), ended.clone());
        std::thread::Builder::new()
            .name("serin-lease".to_owned())
            .spawn(move || {
                let _ended = done.drop_guard();
                runtime.block_on(async {
                    let api = match KubeApi::following(configs) {
                        Ok(api) => api,
                        Err(error) => {
                            tracing::error!(%error, "no client for the lease");
                            return lost.cancel();
                        }
                    };
                    let candidate = Candidate {
                        api,
                        settings,
                        tenure,
                    };
                    candidate.campaign(&lost, &stop).await;
                });
                runtime.shutdown_background();
            })?;
        Ok(Self { end, ended })
    }

    /// Gives the lease back if it is ours, so that another replica need not wait.
    pub async fn release(self) {
        self.end.cancel();
        if tokio::time::timeout(LAST_MOMENTS + SPREAD, self.ended.cancelled())
            .await
            .is_err()
        {
            tracing::warn!("the lease could not be given back in time");
        }
    }
}

/// What was last seen of somebody else's lease, and when it was first seen so.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    record: String,
    since: Moment,
    term: Duration,
}

impl Seen {
    fn free_at(&self) -> Moment {
        self.since.after(self.term)
    }
}

/// What a look at the lease says.
#[derive(Clone, Debug, PartialEq)]
enum Standing {
    Ours,
    /// Nobody holds it.
    Free,
    Theirs(Seen),
}

struct Candidate {
    api: KubeApi,
    settings: LeaseSettings,
    tenure: Tenure,
}

impl Candidate {
    async fn campaign(&self, lost: &CancellationToken, stop: &CancellationToken) {
        let settings = &self.settings;
        tracing::info!(lease = %settings, identity = settings.identity, "waiting for the lease");
        let Some(taken) = self.wait(stop).await else {
            return;
        };
        tracing::info!(lease = %settings, "holding the lease");
        self.tenure.extend(taken.after(settings.renew_deadline));
        if self.keep(taken, stop).await {
            self.tenure.end();
            if tokio::time::timeout(LAST_MOMENTS, self.give_back())
                .await
                .is_err()
            {
                tracing::warn!(lease = %settings, "the lease could not be given back in time");
            }
        } else {
            self.tenure.end();
            lost.cancel();
        }
    }

    /// Waits until the lease is ours, and says since when; nothing if `stop` came first.
    async fn wait(&self, stop: &CancellationToken) -> Option<Moment> {
        let settings = &self.settings;
        let leases = kube::Api::<LeaseObject>::namespaced(self.api.client(), &settings.namespace);
        let config = watcher::Config::default()
            .timeout(60)
            .fields(&format!("metadata.name={}", settings.name));
        let mut events = std::pin::pin!(watcher(leases, config).default_backoff());
        let mut seen: Option<Seen> = None;
        loop {
            let began = Moment::now();
            // A look now and then keeps us right even if the watch fell silent or is not permitted.
            let next = match self.take(&mut seen).await {
                Ok(true) => return Some(began),
                Ok(false) => seen
                    .as_ref()
                    .map_or(settings.retry_period, |seen| seen.free_at().remaining()),
                Err(error) => {
                    tracing::warn!(lease = %settings, %error, "the lease can't be read or written; trying again");
                    settings.retry_period
                }
            };
            let mut next = Moment::now().after(next + SPREAD.mul_f64(rand::random()));
            loop {
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep(next.remaining()) => break,
                    Some(event) = events.next() => match event {
                        Ok(Event::Apply(lease) | Event::InitApply(lease)) => {
                            let live = Object::new(serde_json::to_value(&lease).unwrap_or(Value::Null));
                            match self.look(&live, &mut seen) {
                                Standing::Theirs(seen) => next = seen.free_at().after(SPREAD.mul_f64(rand::random())),
                                Standing::Ours | Standing::Free => break,
                            }
                        }
                        Ok(Event::Delete(_)) => break,
                        Ok(Event::Init | Event::InitDone) => {}
                        Err(error) => tracing::debug!(lease = %settings, %error, "the lease can't be watched; looking at it now and then"),
                    },
                }
            }
        }
    }

    /// Renews the lease until `stop` (true) or until it is lost (false).
    async fn keep(&self, taken: Moment, stop: &CancellationToken) -> bool {
        let settings = &self.settings;
        let mut renewed = taken;
        loop {
            tokio::select! {
                () = stop.cancelled() => return true,
                () = tokio::time::sleep(settings.retry_period) => {}
            }
            let deadline = renewed.after(settings.renew_deadline);
            let began = Moment::now();
            match tokio::time::timeout(deadline.remaining(), self.take(&mut None)).await {
                Ok(Ok(true)) => {
                    renewed = began;
                    self.tenure.extend(renewed.after(settings.renew_deadline));
                }
                Ok(Ok(false)) => {
                    tracing::error!(lease = %settings, "somebody else holds the lease");
                    return false;
                }
                Ok(Err(error)) => {
                    tracing::warn!(lease = %settings, %error, "the lease can't be renewed; trying again");
                }
                Err(_) => {}
            }
            if renewed.after(settings.renew_deadline).remaining().is_zero() {
                tracing::error!(lease = %settings, "the lease was not renewed in time");
                return false;
            }
        }
    }

    fn look(&self, live: &Object, seen: &mut Option<Seen>) -> Standing {
        let holder = live.text("/spec/holderIdentity");
        if holder == self.settings.identity {
            return Standing::Ours;
        }
        if holder.is_empty() {
            return Standing::Free;
        }
        let record = format!("{holder} {}", live.text("/spec/renewTime"));
        let term = live
            .number("/spec/leaseDurationSeconds")
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.settings.duration, Duration::from_secs);
        match seen {
            Some(seen) if seen.record == record => {}
            _ => {
                *seen = Some(Seen {
                    record,
                    since: Moment::now(),
                    term,
                });
            }
        }
        match seen {
            Some(seen) if !seen.free_at().remaining().is_zero() => Standing::Theirs(seen.clone()),
            _ => Standing::Free,
        }
    }

    /// Takes or renews the lease if it is free, ours, or was not renewed for its whole duration while we watched.
    async fn take(&self, seen: &mut Option<Seen>) -> Result<bool, ApiError> {
        let settings = &self.settings;
        let name = LEASE.named(&settings.namespace, &settings.name);
        let now = Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
            .to_string();
        let live = match self.api.get(&name).await {
            Ok(live) => live,
            Err(ApiError::NotFound(_)) => {
                let body = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": settings.name, "namespace": settings.namespace},
                    "spec": {"holderIdentity": settings.identity, "leaseDurationSeconds": settings.duration.as_secs(), "acquireTime": now, "renewTime": now, "leaseTransitions": 0},
                });
                return self
                    .api
                    .create(&LEASE, &settings.namespace, &body)
                    .await
                    .map(|_| true);
            }
            Err(error) => return Err(error),
        };
        let standing = self.look(&live, seen);
        if matches!(standing, Standing::Theirs(_)) {
            return Ok(false);
        }
        let mut body = live.clone().into_value();
        body["spec"]["renewTime"] = json!(now);
        body["spec"]["leaseDurationSeconds"] = json!(settings.duration.as_secs());
        if standing != Standing::Ours {
            body["spec"]["holderIdentity"] = json!(settings.identity);
            body["spec"]["acquireTime"] = json!(now);
            body["spec"]["leaseTransitions"] =
                json!(live.number("/spec/leaseTransitions").unwrap_or(0) + 1);
        }
        // A conflict (somebody was faster, or our own answer was lost) is an error like others: the next look tells which.
        self.api.replace(&name, &body).await.map(|_| true)
    }

    async fn give_back(&self) {
        let settings = &self.settings;
        let name = LEASE.named(&settings.namespace, &settings.name);
        let Ok(live) = self.api.get(&name).await else {
            return;
        };
        if live.text("/spec/holderIdentity") != settings.identity {
            return;
        }
        let mut body = live.into_value();
        body["spec"]["holderIdentity"] = json!("");
        body["spec"]["leaseDurationSeconds"] = json!(1);
        match self.api.replace(&name, &body).await {
            Ok(_) => tracing::info!(lease = %settings, "the lease is given back"),
            Err(error) => {
                tracing::warn!(lease = %settings, %error, "the lease could not be given back");
            }
        }
    }
}
