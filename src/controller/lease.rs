//! Leader election: one replica works, the others wait. The lease is renewed on a client of its own; a holder that could not renew in
//! time stops before anybody else may start, judged by its own clock alone.

use super::client::{ApiError, KubeApi};
use crate::object::Kind;
use jiff::Timestamp;
use serde_json::json;
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) const LEASE: Kind = Kind::namespaced("coordination.k8s.io", "v1", "Lease", "leases");
/// How long a lease holds after its last renewal, for those who wait.
const DURATION: Duration = Duration::from_mins(1);
/// After so long without a renewal the holder stops: well before others may start.
const RENEW_DEADLINE: Duration = Duration::from_secs(40);
/// How often it is renewed, and looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// Which lease, and who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name; Flagger's, so that the two never work at the same time.
    pub name: String,
    /// Unique for this process.
    pub identity: String,
}

impl fmt::Display for LeaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A lease that is held and renewed in the background.
pub struct Lease {
    api: KubeApi,
    settings: LeaseSettings,
    end: CancellationToken,
    renewing: tokio::task::JoinHandle<()>,
}

/// Waits until the lease is ours; `None` if `stop` came first. `lost` is cancelled when it could not be renewed.
pub async fn acquire(
    api: KubeApi,
    settings: LeaseSettings,
    lost: CancellationToken,
    stop: CancellationToken,
) -> Option<Lease> {
    // The record that somebody else renewed, and when we saw it change: other clocks are not trusted.
    let mut seen: Option<(String, Instant)> = None;
    tracing::info!(lease = %settings, identity = settings.identity, "waiting for the lease");
    loop {
        match take(&api, &settings, &mut seen).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(lease = %settings, %error, "the lease can't be read or written; trying again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(PERIOD.mul_f64(rand::random_range(0.8..1.2))) => {}
        }
    }
    tracing::info!(lease = %settings, "holding the lease");
    let end = CancellationToken::new();
    let renewing = tokio::spawn(keep(api.clone(), settings.clone(), lost, end.clone()));
    Some(Lease {
        api,
        settings,
        end,
        renewing,
    })
}

async fn keep(
    api: KubeApi,
    settings: LeaseSettings,
    lost: CancellationToken,
    end: CancellationToken,
) {
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let began = Instant::now();
        match tokio::time::timeout_at(renewed + RENEW_DEADLINE, take(&api, &settings, &mut None))
            .await
        {
            Ok(Ok(true)) => renewed = began,
            Ok(Ok(false)) => {
                tracing::error!(lease = %settings, "somebody else holds the lease");
                return lost.cancel();
            }
            Ok(Err(error)) => {
                tracing::warn!(lease = %settings, %error, "the lease can't be renewed; trying again");
            }
            Err(_) => {}
        }
        if renewed.elapsed() >= RENEW_DEADLINE {
            tracing::error!(lease = %settings, "the lease was not renewed in time");
            return lost.cancel();
        }
    }
}

/// Takes or renews the lease if it is free, ours, or was not renewed for its whole duration while we watched.
async fn take(
    api: &KubeApi,
    settings: &LeaseSettings,
    seen: &mut Option<(String, Instant)>,
) -> Result<bool, ApiError> {
    let name = LEASE.named(&settings.namespace, &settings.name);
    let now = Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let live = match api.get(&name).await {
        Ok(live) => live,
        Err(ApiError::NotFound(_)) => {
            let body = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": settings.name, "namespace": settings.namespace},
                "spec": {"holderIdentity": settings.identity, "leaseDurationSeconds": DURATION.as_secs(), "acquireTime": now, "renewTime": now, "leaseTransitions": 0},
            });
            return api
                .create(&LEASE, &settings.namespace, &body)
                .await
                .map(|_| true);
        }
        Err(error) => return Err(error),
    };
    let holder = live.text("/spec/holderIdentity");
    let ours = holder == settings.identity;
    if !ours && !holder.is_empty() {
        let record = format!("{holder} {}", live.text("/spec/renewTime"));
        let term = live
            .number("/spec/leaseDurationSeconds")
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DURATION, Duration::from_secs);
        let since = match seen {
            Some((before, since)) if *before == record => *since,
            _ => {
                *seen = Some((record, Instant::now()));
                return Ok(false);
            }
        };
        if since.elapsed() < term {
            return Ok(false);
        }
    }
    let mut body = live.clone().into_value();
    body["spec"]["renewTime"] = json!(now);
    body["spec"]["leaseDurationSeconds"] = json!(DURATION.as_secs());
    if !ours {
        body["spec"]["holderIdentity"] = json!(settings.identity);
        body["spec"]["acquireTime"] = json!(now);
        body["spec"]["leaseTransitions"] =
            json!(live.number("/spec/leaseTransitions").unwrap_or(0) + 1);
    }
    // A conflict (somebody was faster, or our own answer was lost) is an error like others: the next look tells which.
    api.replace(&name, &body).await.map(|_| true)
}

impl Lease {
    /// Gives the lease back, so that another replica need not wait.
    pub async fn release(self) {
        self.end.cancel();
        let _ = self.renewing.await;
        let name = LEASE.named(&self.settings.namespace, &self.settings.name);
        let Ok(live) = self.api.get(&name).await else {
            return;
        };
        if live.text("/spec/holderIdentity") != self.settings.identity {
            return;
        }
        let mut body = live.into_value();
        body["spec"]["holderIdentity"] = json!("");
        body["spec"]["leaseDurationSeconds"] = json!(1);
        match self.api.replace(&name, &body).await {
            Ok(_) => tracing::info!(lease = %self.settings, "the lease is given back"),
            Err(error) => {
                tracing::warn!(lease = %self.settings, %error, "the lease could not be given back");
            }
        }
    }
}
