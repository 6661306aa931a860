//! The cluster's Deployment controller and kubelet: pods that start late, crash, never start or flap; rolling updates that keep old
//! pods until new ones are ready; status as the real controller writes it.

use super::random::Random;
use super::scenario::Scenario;
use crate::object::Object;
use serde_json::{Value, json};
use std::sync::Arc;

/// How the pods of a revision behave. It is written into the image's tag, so it travels with the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nature {
    /// Starts within seconds and answers well.
    Good,
    /// Starts, and fails a part of its requests.
    Bad,
    /// Never becomes ready.
    Never,
    /// Becomes ready and soon crashes, again and again.
    Crash,
    /// Loses and regains readiness.
    Flap,
    /// Takes long to start, but not too long.
    Slow,
    /// Good as a canary, never ready as a primary.
    Misfit,
}

const NATURES: [(Nature, &str); 7] = [
    (Nature::Good, "good"),
    (Nature::Bad, "bad"),
    (Nature::Never, "never"),
    (Nature::Crash, "crash"),
    (Nature::Flap, "flap"),
    (Nature::Slow, "slow"),
    (Nature::Misfit, "misfit"),
];

impl Nature {
    /// The image of release `number` of this nature.
    #[must_use]
    pub fn image(self, number: usize) -> String {
        let word = NATURES
            .iter()
            .find(|(nature, _)| *nature == self)
            .map_or("good", |(_, word)| word);
        format!("registry.test/web:{number}-{word}")
    }

    /// The nature of an image.
    #[must_use]
    pub fn of(image: &str) -> Self {
        let word = image.rsplit('-').next().unwrap_or_default();
        NATURES
            .iter()
            .find(|(_, known)| *known == word)
            .map_or(Self::Good, |(nature, _)| *nature)
    }

    /// Whether an honest analysis can never pass this revision.
    #[must_use]
    pub fn is_unfit(self) -> bool {
        matches!(self, Self::Bad | Self::Never)
    }
}

/// One of the two Deployments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deployment {
    /// `web`, the user's workload: the canary.
    Target,
    /// `web-primary`.
    Primary,
}

impl Deployment {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Target, Self::Primary];

    /// The object's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Target => "web",
            Self::Primary => "web-primary",
        }
    }
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Unlike any other pod's.
    pub id: u64,
    template: usize,
    /// How it behaves.
    pub nature: Nature,
    /// Whether its readiness probe succeeds.
    pub ready: bool,
    /// Whether it was told to stop; it answers until it is gone.
    pub stopping: bool,
}

/// What happens to a pod later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Its readiness changes.
    Ready(bool),
    /// It is gone.
    Gone,
}

/// A Deployment with its pods.
#[derive(Clone, Debug)]
pub struct Workload {
    which: Deployment,
    /// How many nodes there are, for a `DaemonSet`.
    nodes: Option<usize>,
    uid: String,
    templates: Vec<Value>,
    current: usize,
    /// Its pods, stopping ones included.
    pub pods: Vec<Pod>,
    /// The last rollout is complete; later unreadiness is no matter of progress any more.
    complete: bool,
    progress_at: i64,
    progress_mark: (usize, usize, usize),
    /// Whether a reconciliation is on the way.
    pub queued: bool,
}

/// What a reconciliation wants to happen later: pod, when from now in ms, what.
pub type Turns = Vec<(u64, i64, Turn)>;

impl Workload {
    /// No object, no pods.
    #[must_use]
    pub fn new(which: Deployment, nodes: Option<usize>) -> Self {
        Self {
            which,
            nodes,
            uid: String::new(),
            templates: Vec::new(),
            current: 0,
            pods: Vec::new(),
            complete: false,
            progress_at: 0,
            progress_mark: (0, 0, 0),
            queued: false,
        }
    }

    /// Pods that are ready and not told to stop: those that a Service may name.
    pub fn ready_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.ready && !pod.stopping)
    }

    /// Whether a pod answers requests.
    #[must_use]
    pub fn answers(&self, id: u64) -> bool {
        self.pods.iter().any(|pod| pod.id == id && pod.ready)
    }

    fn stop(&mut self, position: usize, random: &mut Random, turns: &mut Turns) {
        let pod = &mut self.pods[position];
        pod.stopping = true;
        turns.push((pod.id, random.between(200, 900), Turn::Gone));
    }

    /// All pods go: the object is gone or is another one.
    pub fn abandon(&mut self, random: &mut Random) -> Turns {
        let mut turns = Turns::new();
        for position in 0..self.pods.len() {
            if !self.pods[position].stopping {
                self.stop(position, random, &mut turns);
            }
        }
        self.uid.clear();
        turns
    }

    fn start(&mut self, ids: &mut u64, random: &mut Random, turns: &mut Turns) {
        *ids += 1;
        let template = &self.templates[self.current];
        let mut nature = Nature::of(
            template["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap_or_default(),
        );
        if nature == Nature::Misfit {
            nature = if self.which == Deployment::Primary {
                Nature::Never
            } else {
                Nature::Good
            };
        }
        self.pods.push(Pod {
            id: *ids,
            template: self.current,
            nature,
            ready: false,
            stopping: false,
        });
        match nature {
            Nature::Never => {}
            Nature::Slow => turns.push((*ids, random.between(15_000, 35_000), Turn::Ready(true))),
            _ => turns.push((*ids, random.between(800, 6_000), Turn::Ready(true))),
        }
    }

    /// A pod's readiness changes. Returns what follows. With `calm` pods stay as they are.
    pub fn turn(&mut self, id: u64, turn: Turn, calm: bool, random: &mut Random) -> Turns {
        let mut turns = Turns::new();
        let Some(position) = self.pods.iter().position(|pod| pod.id == id) else {
            return turns;
        };
        match turn {
            Turn::Gone => {
                self.pods.remove(position);
            }
            Turn::Ready(ready) => {
                let pod = &mut self.pods[position];
                pod.ready = ready && !(calm && pod.nature == Nature::Crash);
                match (pod.nature, ready) {
                    (Nature::Crash, true) if !calm => {
                        turns.push((id, random.between(2_000, 12_000), Turn::Ready(false)));
                    }
                    (Nature::Crash, false) if !calm => {
                        turns.push((id, random.between(10_000, 40_000), Turn::Ready(true)));
                    }
                    (Nature::Flap, true) if !calm => {
                        turns.push((id, random.between(4_000, 25_000), Turn::Ready(false)));
                    }
                    (Nature::Flap, false) => {
                        turns.push((id, random.between(1_000, 8_000), Turn::Ready(true)));
                    }
                    _ => {}
                }
            }
        }
        turns
    }

    /// One reconciliation: starts and stops pods. Returns the new status and what happens to pods later.
    pub fn reconcile(
        &mut self,
        object: &Object,
        now: i64,
        ids: &mut u64,
        random: &mut Random,
    ) -> Turns {
        let mut turns = Turns::new();
        if self.uid != object.uid() {
            turns = self.abandon(random);
            object.uid().clone_into(&mut self.uid);
            self.complete = false;
            self.progress_at = now;
        }
        let template = object.at("/spec/template");
        if self.templates.get(self.current) != Some(template) {
            self.current = self
                .templates
                .iter()
                .position(|known| known == template)
                .unwrap_or_else(|| {
                    self.templates.push(template.clone());
                    self.templates.len() - 1
                });
            self.complete = false;
            self.progress_at = now;
        }
        let wanted = self.wanted(object);
        self.roll(wanted, ids, random, &mut turns);
        let (all, updated, available) = self.counts();
        if (all, updated, available) != self.progress_mark {
            let (old_all, old_updated, old_available) = self.progress_mark;
            if updated > old_updated
                || available > old_available
                || (all < old_all && updated >= old_updated)
            {
                self.progress_at = now;
            }
            self.progress_mark = (all, updated, available);
        }
        if all == wanted && updated == wanted && available >= wanted {
            self.complete = true;
        }
        turns
    }

    /// How many pods there should be.
    fn wanted(&self, object: &Object) -> usize {
        usize::try_from(scale_of(object, self.nodes)).unwrap_or(0)
    }

    /// Pods that are not stopping: all, those of the current template, the ready ones.
    fn counts(&self) -> (usize, usize, usize) {
        let living = || self.pods.iter().filter(|pod| !pod.stopping);
        (
            living().count(),
            living().filter(|pod| pod.template == self.current).count(),
            living().filter(|pod| pod.ready).count(),
        )
    }

    /// A rolling update with `maxSurge` and `maxUnavailable` of 25 %.
    fn roll(&mut self, wanted: usize, ids: &mut u64, random: &mut Random, turns: &mut Turns) {
        let (surge, unavailable) = match self.nodes {
            // A DaemonSet replaces one pod after the other on its node.
            Some(_) => (0, 1),
            None => (wanted.div_ceil(4), wanted / 4),
        };
        let (all, updated, _) = self.counts();
        let start = wanted
            .saturating_sub(updated)
            .min((wanted + surge).saturating_sub(all));
        for _ in 0..start {
            self.start(ids, random, turns);
        }
        // Too many of the current template: unready ones first.
        let surplus = (updated + start).saturating_sub(wanted);
        self.stop_some(surplus, turns, random, |pod, current| {
            pod.template == current
        });
        // Old ones: unready ones at once, ready ones as far as enough stay available.
        let (all, _, _) = self.counts();
        let current = self.current;
        let unready_new = self
            .pods
            .iter()
            .filter(|pod| !pod.stopping && pod.template == current && !pod.ready)
            .count();
        let least = wanted.saturating_sub(unavailable);
        let budget = all.saturating_sub(least).saturating_sub(unready_new);
        let unready_old = self
            .pods
            .iter()
            .filter(|pod| !pod.stopping && pod.template != current && !pod.ready)
            .count();
        self.stop_some(budget.min(unready_old), turns, random, |pod, current| {
            pod.template != current && !pod.ready
        });
        let (_, _, available) = self.counts();
        let spare = available.saturating_sub(least);
        self.stop_some(spare, turns, random, |pod, current| pod.template != current);
        if wanted == 0 {
            self.stop_some(usize::MAX, turns, random, |_, _| true);
        }
    }

    fn stop_some(
        &mut self,
        mut count: usize,
        turns: &mut Turns,
        random: &mut Random,
        which: impl Fn(&Pod, usize) -> bool,
    ) {
        for ready in [false, true] {
            for position in 0..self.pods.len() {
                let pod = &self.pods[position];
                if count > 0 && !pod.stopping && pod.ready == ready && which(pod, self.current) {
                    self.stop(position, random, turns);
                    count -= 1;
                }
            }
        }
    }

    /// When the rollout will have made no progress for its deadline, if that can happen.
    #[must_use]
    pub fn deadline(&self, object: &Object) -> Option<i64> {
        let seconds = object
            .number("/spec/progressDeadlineSeconds")
            .unwrap_or(600);
        (!self.complete && !self.uid.is_empty() && self.nodes.is_none())
            .then(|| self.progress_at + seconds * 1000)
    }

    /// Brings the status of the Deployment up to date.
    pub fn write_status(
        &self,
        object: &Object,
        status: &mut Value,
        now: i64,
        time: &dyn Fn(i64) -> String,
    ) {
        let wanted = self.wanted(object);
        let (all, updated, available) = self.counts();
        if self.nodes.is_some() {
            *status = json!({
                "observedGeneration": object.generation(),
                "desiredNumberScheduled": wanted,
                "currentNumberScheduled": all,
                "updatedNumberScheduled": updated,
                "numberAvailable": available,
                "numberReady": available,
            });
            return;
        }
        let fields = [
            ("replicas", all),
            ("updatedReplicas", updated),
            ("readyReplicas", available),
            ("availableReplicas", available),
            ("unavailableReplicas", wanted.saturating_sub(available)),
        ];
        status["observedGeneration"] = json!(object.generation());
        for (field, count) in fields {
            // Zero is left out, as the real controller's encoder does.
            if count == 0 {
                if let Some(map) = status.as_object_mut() {
                    map.remove(field);
                }
            } else {
                status[field] = json!(count);
            }
        }
        let enough = available >= wanted.saturating_sub(wanted / 4);
        let (state, reason) = if enough {
            ("True", "MinimumReplicasAvailable")
        } else {
            ("False", "MinimumReplicasUnavailable")
        };
        condition(status, "Available", state, reason, &time(now));
        let overdue = self
            .deadline(object)
            .is_some_and(|deadline| deadline <= now);
        let (state, reason, at) = if self.complete {
            ("True", "NewReplicaSetAvailable", now)
        } else if overdue {
            ("False", "ProgressDeadlineExceeded", now)
        } else {
            ("True", "ReplicaSetUpdated", self.progress_at)
        };
        condition(status, "Progressing", state, reason, &time(at));
        if !self.complete && !overdue {
            // Progress moves the time even where nothing else changes.
            let at = time(self.progress_at);
            if let Some(progressing) = status["conditions"]
                .as_array_mut()
                .into_iter()
                .flatten()
                .find(|one| one["type"] == "Progressing")
            {
                progressing["lastUpdateTime"] = json!(at);
            }
        }
    }
}

/// How many pods a workload asks for; `nodes` is set for a `DaemonSet`, which has none where a node selector parks it.
#[must_use]
pub fn scale_of(object: &Object, nodes: Option<usize>) -> i64 {
    match nodes {
        None => object.number("/spec/replicas").unwrap_or(1),
        Some(nodes) => {
            let parked = object
                .at("/spec/template/spec/nodeSelector")
                .get(PARKED)
                .is_some();
            if parked {
                0
            } else {
                i64::try_from(nodes).unwrap_or(1)
            }
        }
    }
}

/// Node label that no node has.
pub const PARKED: &str = "flagger.app/scale-to-zero";

fn condition(status: &mut Value, kind: &str, state: &str, reason: &str, time: &str) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else {
        return;
    };
    match conditions.iter_mut().find(|one| one["type"] == kind) {
        Some(one) if one["status"] == state && one["reason"] == reason => {}
        Some(one) => {
            if one["status"] != state {
                one["lastTransitionTime"] = json!(time);
            }
            one["status"] = json!(state);
            one["reason"] = json!(reason);
            one["lastUpdateTime"] = json!(time);
        }
        None => conditions.push(json!({"type": kind, "status": state, "reason": reason, "lastUpdateTime": time, "lastTransitionTime": time})),
    }
}

/// Name of the `ConfigMap` that the pods read, in scenarios that have one.
pub const CONFIG: &str = "web-config";

/// The target as its owner writes it.
#[must_use]
pub fn manifest(scenario: &Scenario, image: &str, replicas: Option<i64>) -> Object {
    let mut manifest = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": super::NAMESPACE, "labels": {"app": "web"}},
        "spec": {
            "progressDeadlineSeconds": 60,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "app", "image": image, "ports": [{"containerPort": 8080, "name": "http"}]}]},
            },
        },
    });
    if scenario.config {
        manifest["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
            json!([{"configMapRef": {"name": CONFIG}}]);
    }
    if scenario.daemon {
        manifest["kind"] = json!("DaemonSet");
        if let Some(spec) = manifest["spec"].as_object_mut() {
            spec.remove("progressDeadlineSeconds");
        }
    } else if let Some(replicas) = replicas {
        manifest["spec"]["replicas"] = json!(replicas);
    }
    Object::new(manifest)
}

/// The image that a Deployment's template names.
#[must_use]
pub fn image_of(object: &Arc<Object>) -> String {
    object
        .text("/spec/template/spec/containers/0/image")
        .to_owned()
}
