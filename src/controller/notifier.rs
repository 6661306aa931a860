//! Sends the alerts that stand in status as pending. What was sent is remembered until the status says so too; so a pass that sees an older
//! status sends nothing again, and a controller that starts sends what its predecessor did not. Each receiver of each canary has a lane
//! of its own, in which alerts keep their order; a receiver that is slow or dead holds up nobody else, and no rollout.

use super::announcer::Announcer;
use super::cache::{Caches, ReadError};
use super::metrics::Telemetry;
use super::queue::{CanaryKey, Queue};
use super::tenure::Tenure;
use crate::analysis::alert as texts;
use crate::api::{AlertProvider, AlertRecord, Canary};
use crate::notify::{Message, Receiver, Sender, Words, request, words_for};
use crate::object::{Object, Reading, kinds};
use crate::providers::Credentials;
use crate::rollout::{AlertOutcome, CONTROLLER, provider_of};
use jiff::{SignedDuration, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Alerts that may wait; more stay in their status until the canary is looked at again.
const WAITING: usize = 1024;
/// Alerts that are under way at the same time.
const UNDER_WAY: usize = 32;
/// How long an outcome is remembered after the status has it, for a cache that goes back.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(10);
/// How often, and how long apart, a provider that can't be read is read again.
const READS: usize = 24;
const READ_AGAIN: Duration = Duration::from_secs(5);

/// One alert for one receiver.
struct Job {
    canary: Arc<Canary>,
    alert: AlertRecord,
    provider: String,
}

enum Progress {
    UnderWay,
    Over(AlertOutcome),
}

/// What is known of the alerts of one canary, by key and receiver.
type Known = HashMap<(String, String), Progress>;

/// A canary's UID and one of those whom it tells.
type Lane = (String, String);

#[derive(Default)]
struct State {
    /// By UID.
    known: HashMap<String, (CanaryKey, Known)>,
    lanes: HashMap<Lane, VecDeque<Job>>,
    waiting: usize,
}

/// What alerts need that does not come with them.
pub struct Setting {
    /// The controller's own channel.
    pub own: Option<Receiver>,
    /// `-cluster-name`.
    pub cluster: String,
    /// `-no-cross-namespace-refs`.
    pub no_cross_namespace_refs: bool,
}

impl Setting {
    pub(super) fn of(options: &super::Options) -> Self {
        Self {
            own: options.alerts.clone(),
            cluster: options.settings.cluster_name.clone(),
            no_cross_namespace_refs: options.settings.no_cross_namespace_refs,
        }
    }
}

/// Sends alerts.
pub struct Notifier {
    setting: Setting,
    sender: Sender,
    caches: Arc<Caches>,
    queue: Arc<Queue>,
    announcer: Arc<Announcer>,
    telemetry: Arc<Telemetry>,
    tenure: Tenure,
    state: Mutex<State>,
    hands: Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Notifier {
    /// Wakes canaries in `queue` when there is something to write down.
    #[must_use]
    pub fn new(
        setting: Setting,
        sender: Sender,
        caches: Arc<Caches>,
        queue: Arc<Queue>,
        announcer: Arc<Announcer>,
        telemetry: Arc<Telemetry>,
        tenure: Tenure,
    ) -> Arc<Self> {
        Arc::new(Self {
            setting,
            sender,
            caches,
            queue,
            announcer,
            telemetry,
            tenure,
            state: Mutex::default(),
            hands: Semaphore::new(UNDER_WAY),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that what is pending in this canary's status is under way.
    pub fn look(self: &Arc<Self>, key: &CanaryKey, canary: &Arc<Canary>) {
        let alerts = canary
            .status
            .as_ref()
            .map_or(&[][..], |status| &status.alerts);
        let uid = canary.metadata.uid.clone().unwrap_or_default();
        let mut state = self.lock();
        if alerts.is_empty() && !state.known.contains_key(&uid) {
            return;
        }
        let now = Timestamp::now();
        let State {
            known,
            lanes,
            waiting,
        } = &mut *state;
        let (_, known) = known
            .entry(uid.clone())
            .or_insert_with(|| (key.clone(), Known::new()));
        let pending = |name: &str, provider: &String| {
            alerts
                .iter()
                .any(|alert| alert.key == name && alert.pending.contains(provider))
        };
        known.retain(|(name, provider), progress| match progress {
            Progress::UnderWay => true,
            Progress::Over(outcome) => {
                pending(name, provider) || now.duration_since(outcome.at) < REMEMBERED
            }
        });
        for alert in alerts {
            for provider in &alert.pending {
                let id = (alert.key.clone(), provider.clone());
                if known.contains_key(&id) {
                    continue;
                }
                if *waiting >= WAITING {
                    self.telemetry.dropped("alert");
                    continue;
                }
                *waiting += 1;
                known.insert(id, Progress::UnderWay);
                let lane = (uid.clone(), provider.clone());
                let job = Job {
                    canary: Arc::clone(canary),
                    alert: alert.clone(),
                    provider: provider.clone(),
                };
                if let Some(queue) = lanes.get_mut(&lane) {
                    queue.push_back(job);
                } else {
                    lanes.insert(lane.clone(), VecDeque::from([job]));
                    self.tasks.spawn(Arc::clone(self).work(key.clone(), lane));
                }
            }
        }
    }

    /// What is known of this canary's alerts, for its next pass.
    #[must_use]
    pub fn outcomes(&self, uid: &str) -> Vec<AlertOutcome> {
        self.lock()
            .known
            .get(uid)
            .map(|(_, known)| over(known))
            .unwrap_or_default()
    }

    /// The canary with this UID is gone; what is under way for it is still sent.
    pub fn forget(&self, uid: &str) {
        self.lock().known.remove(uid);
    }

    /// Starts nothing more, and waits for what is being said at this moment. What waits stays in its status, for whoever comes next.
    /// Returns the canaries of which something is known that may not be written down.
    pub async fn finish(&self, within: Duration) -> Vec<(CanaryKey, Vec<AlertOutcome>)> {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(within, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("an alert did not end in time; it may be sent once more");
        }
        let state = self.lock();
        state
            .known
            .values()
            .map(|(key, known)| (key.clone(), over(known)))
            .filter(|(_, outcomes)| !outcomes.is_empty())
            .collect()
    }

    /// Empties a lane.
    async fn work(self: Arc<Self>, key: CanaryKey, lane: Lane) {
        loop {
            let job = {
                let mut state = self.lock();
                let Some(job) = state.lanes.get_mut(&lane).and_then(VecDeque::pop_front) else {
                    state.lanes.remove(&lane);
                    return;
                };
                state.waiting -= 1;
                job
            };
            let Ok(_hand) = self.hands.acquire().await else {
                return;
            };
            let outcome = self.deliver(&key, &job).await;
            let id = (job.alert.key.clone(), job.provider.clone());
            let mut state = self.lock();
            let Some((_, known)) = state.known.get_mut(&lane.0) else {
                continue;
            };
            let Some(result) = outcome else {
                known.remove(&id);
                continue;
            };
            let failure = result.err();
            known.insert(
                id,
                Progress::Over(AlertOutcome {
                    key: job.alert.key.clone(),
                    provider: job.provider.clone(),
                    failure: failure.clone(),
                    at: Timestamp::now(),
                }),
            );
            drop(state);
            self.report(&key, &lane.0, &job, failure.as_deref());
            self.queue.wake(key.clone());
        }
    }

    fn report(&self, key: &CanaryKey, uid: &str, job: &Job, failure: Option<&str>) {
        match failure {
            None => {
                self.telemetry.alerted("sent");
                tracing::debug!(canary = %key, alert = job.alert.reason, to = job.provider, "alert sent");
            }
            Some(why) => {
                self.telemetry.alerted("failed");
                let text = format!(
                    "The alert {} could not be sent to {}: {why}",
                    job.alert.reason, job.provider
                );
                self.announcer.warn(key, uid, "AlertNotSent", &text);
            }
        }
    }

    /// Tells one receiver. `None`: not told, and not given up either.
    async fn deliver(&self, key: &CanaryKey, job: &Job) -> Option<Result<(), String>> {
        let (receiver, template, link) = match self.receiver(key, &job.provider).await? {
            Ok(found) => found,
            Err(why) => return Some(Err(why)),
        };
        let message = self.message(
            job,
            words_for(receiver.kind),
            template.as_deref(),
            link.as_deref(),
        );
        let request = match request(&message, &receiver) {
            Ok(request) => request,
            Err(why) => return Some(Err(why)),
        };
        let tenure = &self.tenure;
        self.sender
            .send(
                &request,
                receiver.proxy.as_deref(),
                || tenure.holds(),
                &self.stop,
            )
            .await
    }

    /// Who is told, with the templates of text and link.
    async fn receiver(
        &self,
        key: &CanaryKey,
        provider: &str,
    ) -> Option<Result<(Receiver, Option<String>, Option<String>), String>> {
        if provider == CONTROLLER {
            return Some(match &self.setting.own {
                Some(own) => Ok((own.clone(), None, None)),
                None => Err("the controller has no channel of its own any more".to_owned()),
            });
        }
        let name =
            provider_of(provider).unwrap_or_else(|| kinds::ALERT_PROVIDER.named("", provider));
        if self.setting.no_cross_namespace_refs && *name.namespace != *key.namespace {
            return Some(Err(
                "it is in another namespace, which -no-cross-namespace-refs forbids".to_owned(),
            ));
        }
        let object = match self.read(key, &name).await? {
            Ok(object) => object,
            Err(why) => return Some(Err(why)),
        };
        let spec = match AlertProvider::decode(object.value()) {
            Ok(provider) => provider.spec,
            Err(error) => return Some(Err(error.to_string())),
        };
        let secret = match (spec.address(), &spec.secret_ref) {
            (None, Some(secret)) => {
                let name = kinds::SECRET.named(&name.namespace, &secret.name);
                match self.read(key, &name).await? {
                    Ok(object) => match Credentials::of(&object) {
                        Ok(secret) => Some(secret),
                        Err(why) => return Some(Err(why)),
                    },
                    Err(why) => return Some(Err(why)),
                }
            }
            _ => None,
        };
        let receiver = Receiver::of(&spec, secret.as_ref());
        Some(receiver.map(|receiver| (receiver, spec.template, spec.link)))
    }

    /// Reads through the caches; what can't be read now is tried again for a while.
    async fn read(
        &self,
        key: &CanaryKey,
        name: &crate::object::ObjectRef,
    ) -> Option<Result<Arc<Object>, String>> {
        let mut why = String::new();
        for _ in 0..READS {
            if self.stop.is_cancelled() {
                return None;
            }
            if self.caches.canary(key).is_none() {
                return Some(Err("the canary is gone".to_owned()));
            }
            why = match self.caches.object(key, name).await {
                Ok(Reading::Present(object)) => return Some(Ok(object)),
                Ok(Reading::Absent) => return Some(Err(format!("{name} not found"))),
                Ok(Reading::Unknown(why)) => why,
                Err(error @ (ReadError::NotReady(_) | ReadError::Failed(..))) => error.to_string(),
            };
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(READ_AGAIN) => {}
            }
        }
        Some(Err(format!("{name} can't be read: {why}")))
    }

    fn message(
        &self,
        job: &Job,
        words: Words,
        template: Option<&str>,
        link: Option<&str>,
    ) -> Message {
        let (canary, alert, cluster) = (&*job.canary, &job.alert, self.setting.cluster.as_str());
        let home = &canary.metadata.namespace;
        // The canary's own template goes before the provider's, if it is of an entry that this alert is for.
        let own = canary.spec.analysis.alerts.iter().find_map(|one| {
            let reference = &one.provider_ref;
            let name = format!("{}/{}", reference.namespace_or(home), reference.name);
            (name == job.provider && alert.severity >= one.severity())
                .then_some(one.template.as_deref())
                .flatten()
        });
        // An alert with a plain text is better than none.
        let text = texts::text(own.or(template), canary, alert, cluster, words).unwrap_or_else(|error| {
            tracing::warn!(canary = %canary.metadata.namespaced_name(), to = job.provider, %error, "the alert's template can't be used");
            words(&alert.message)
        });
        let link = texts::link(link, canary, alert, cluster).unwrap_or_else(|error| {
            tracing::warn!(canary = %canary.metadata.namespaced_name(), to = job.provider, %error, "the alert's link can't be used");
            None
        });
        let target = &canary.spec.target_ref;
        Message {
            id: format!(
                "{}/{}",
                canary.metadata.uid.as_deref().unwrap_or_default(),
                alert.key
            ),
            name: canary.metadata.name.clone(),
            namespace: home.clone(),
            target: format!("{}/{}", target.kind, target.name),
            cluster: cluster.to_owned(),
            severity: alert.severity,
            reason: alert.reason.clone(),
            phase: alert.phase.clone(),
            at: alert.at.unwrap_or_default(),
            text,
            cause: alert.cause.clone(),
            checks: alert.checks.clone(),
            run: alert.run,
            revision: alert.revision.clone(),
            fields: texts::fields(canary, alert, cluster),
            link,
        }
    }
}

fn over(known: &Known) -> Vec<AlertOutcome> {
    known
        .values()
        .filter_map(|progress| match progress {
            Progress::Over(outcome) => Some(outcome.clone()),
            Progress::UnderWay => None,
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
