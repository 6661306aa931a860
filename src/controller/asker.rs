//! Asks what decisions need to know: metrics queries and webhooks, concurrently, each with its own deadline. A question is asked once;
//! its answer is kept for the passes to come, until newer answers of the same canary push it out or the canary goes.

use super::client::KubeApi;
use super::queue::{CanaryKey, Queue};
use super::sources::MetricSources;
use crate::analysis::MetricQuery;
use crate::api::PodFailure;
use crate::hooks::Hooks;
use crate::rollout::{Finding, HookAnswer, HookCall, ListRef, Need, Request};
use crate::workload::pods;
use jiff::Timestamp;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many answers of one canary are kept. A check asks for a few metrics and hooks; this is several checks.
const KEPT_ANSWERS: usize = 128;
/// Hook calls that are under way at the same time. Queries have a desk that sees to that, see [`crate::providers::desk`].
const CALLS: usize = 256;
/// What a call may take beyond its attempts: the waits between them.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// What a look at a metrics backend may take, tries included.
const PROBING: Duration = Duration::from_secs(30);
/// What a list of pods may take, tries included.
const LISTING: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Case {
    pending: HashSet<String>,
    answers: VecDeque<(String, Finding)>,
}

/// Asks, and keeps the answers.
pub struct Asker {
    cases: Mutex<HashMap<String, Case>>,
    queue: Arc<Queue>,
    api: KubeApi,
    hooks: Hooks,
    metrics: MetricSources,
    calls: Semaphore,
}

impl Asker {
    /// Wakes canaries in `queue` when their questions are answered.
    #[must_use]
    pub fn new(api: KubeApi, queue: Arc<Queue>, hooks: Hooks, metrics: MetricSources) -> Arc<Self> {
        Arc::new(Self {
            cases: Mutex::default(),
            queue,
            api,
            hooks,
            metrics,
            calls: Semaphore::new(CALLS),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Case>> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answers for the canary with this UID.
    #[must_use]
    pub fn answers(&self, uid: &str) -> Vec<(String, Finding)> {
        self.lock()
            .get(uid)
            .map(|case| case.answers.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Asks what was not asked yet. The canary is woken when nothing is open any more.
    pub fn ask(self: &Arc<Self>, uid: &str, canary: &CanaryKey, needs: Vec<Need>) {
        for need in needs {
            {
                let mut cases = self.lock();
                let case = cases.entry(uid.to_owned()).or_default();
                if case.pending.contains(&need.key)
                    || case.answers.iter().any(|(key, _)| *key == need.key)
                {
                    continue;
                }
                case.pending.insert(need.key.clone());
            }
            let asker = Arc::clone(self);
            let (uid, canary) = (uid.to_owned(), canary.clone());
            tokio::spawn(async move {
                let key = need.key;
                // A panic in a provider is an answer too; else the question would stay open for ever.
                let worker = Arc::clone(&asker);
                let asking = canary.clone();
                let finding =
                    match tokio::spawn(async move { worker.answer(&asking, need.request).await })
                        .await
                    {
                        Ok(finding) => finding,
                        Err(error) => {
                            tracing::error!(%canary, need = %key, %error, "asking failed");
                            None
                        }
                    };
                asker.keep(&uid, &canary, key, finding);
            });
        }
    }

    async fn answer(&self, canary: &CanaryKey, request: Request) -> Option<Finding> {
        match request {
            Request::Metric(query) | Request::Sources(query) => {
                let measurement = self.metrics.measure(canary, &query).await;
                Some(Finding::Metric {
                    measurement,
                    at: Timestamp::now(),
                })
            }
            Request::Probe(query) => {
                let answer = tokio::time::timeout(PROBING, self.metrics.probe(canary, &query))
                    .await
                    .unwrap_or_else(|_| {
                        Err(format!("{} did not answer in time", query.provider_name()))
                    });
                Some(Finding::Probe(answer))
            }
            Request::Pods(list) => {
                let failures = tokio::time::timeout(LISTING, self.list_pods(&list))
                    .await
                    .unwrap_or_else(|_| Err("the API server did not answer in time".to_owned()));
                tracing::debug!(%canary, ?failures, "pods listed");
                Some(Finding::Pods(failures))
            }
            Request::Hook(call) => {
                let _permit = self.calls.acquire().await.ok()?;
                let deadline =
                    (call.timeout + LONGEST_WAIT).saturating_mul(call.retries.saturating_add(1));
                let answer = tokio::time::timeout(deadline, self.hooks.call(&call))
                    .await
                    .unwrap_or_else(|_| gave_up(&call));
                tracing::debug!(%canary, hook = %call.name, ?answer, "webhook called");
                Some(Finding::Hook(answer))
            }
        }
    }

    async fn list_pods(&self, list: &ListRef) -> Result<Vec<PodFailure>, String> {
        let found = self.api.list_some(list, pods::MOST_PODS).await;
        found
            .map(|found| pods::failures(&found))
            .map_err(|error| error.to_string())
    }

    fn keep(&self, uid: &str, canary: &CanaryKey, key: String, finding: Option<Finding>) {
        let done = {
            let mut cases = self.lock();
            // The canary may have gone meanwhile.
            let Some(case) = cases.get_mut(uid) else {
                return;
            };
            case.pending.remove(&key);
            if let Some(finding) = finding {
                case.answers.push_back((key, finding));
                if case.answers.len() > KEPT_ANSWERS {
                    case.answers.pop_front();
                }
            }
            case.pending.is_empty()
        };
        if done {
            self.queue.wake(canary.clone());
        }
    }

    /// From now on these metrics of the canary's own pods are sampled, and no others.
    pub fn sample(&self, canary: &CanaryKey, metrics: &[MetricQuery]) {
        self.metrics.sample(canary, metrics);
    }

    /// The canary with this UID is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }
}

fn gave_up(call: &HookCall) -> HookAnswer {
    HookAnswer::Unreachable(format!(
        "no answer after {} attempts",
        call.retries.saturating_add(1)
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::analysis::{Limits, Measurement, MetricKind, Origin, ProviderConfig};
    use crate::controller::cache::Caches;
    use crate::controller::metrics::Telemetry;
    use crate::providers::QueryRequest;
    use crate::providers::desk::Ask;
    use crate::providers::scrape::Scraper;
    use futures::future::BoxFuture;
    use tokio::time::Instant;

    /// A backend that takes two seconds.
    struct Slow;

    impl Ask for Slow {
        fn ask(&self, _: QueryRequest) -> BoxFuture<'_, Measurement> {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Measurement::Value(1.0)
            })
        }

        fn probe(&self, _: QueryRequest) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async { Ok(()) })
        }
    }

    fn asker() -> (Arc<Asker>, Arc<Queue>) {
        crate::providers::http::install_crypto();
        // Nobody is there; nothing in these tests asks the API server.
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let api = KubeApi::following(tokio::sync::watch::channel(nowhere).1).unwrap();
        let queue = Arc::new(Queue::default());
        let telemetry = Arc::new(Telemetry::new("kubernetes"));
        let caches = Caches::new(api.clone(), Vec::new(), Arc::clone(&queue), telemetry);
        let endpoints: Arc<Caches> = Arc::clone(&caches);
        let scraper = Scraper::new(endpoints).unwrap();
        let metrics = MetricSources::new(caches, Arc::new(Slow), scraper);
        let hooks = Hooks::new("test").unwrap();
        (Asker::new(api, Arc::clone(&queue), hooks, metrics), queue)
    }

    fn metric(number: usize) -> Need {
        Need {
            key: format!("metric/{number}"),
            request: Request::Metric(Box::new(MetricQuery {
                name: format!("metric-{number}"),
                kind: MetricKind::Value,
                origin: Origin::Inline,
                provider: ProviderConfig::default(),
                query: format!("metric_{number}"),
                interval: Duration::from_mins(1),
                limits: Limits::default(),
            })),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_metrics_of_one_step_are_asked_at_the_same_time_and_the_canary_wakes_once_all_answered()
     {
        let (asker, queue) = asker();
        let canary = CanaryKey::new("test", "web");
        let begun = Instant::now();
        asker.ask("uid", &canary, (0..6).map(metric).collect());
        // The same needs of a later pass of the same round ask nothing.
        asker.ask("uid", &canary, (0..6).map(metric).collect());
        assert_eq!(queue.next().await, canary);
        assert_eq!(begun.elapsed().as_secs(), 2);
        let answers = asker.answers("uid");
        assert_eq!(answers.len(), 6);
        assert!(answers.iter().all(|(_, finding)| matches!(
            finding,
            Finding::Metric {
                measurement: Measurement::Value(_),
                ..
            }
        )));
    }
}
