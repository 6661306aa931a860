//! The world of one history: a clock, a queue of what happens next, the cluster, the people, and the replicas of the controller under
//! test. Everything that happens goes through [`World::run`], one event after the other.

use super::invariants::{self, Violation, Witness};
use super::mutant::Mutant;
use super::random::Random;
use super::replica::{Replica, Work};
use super::scenario::{Act, Fault, Flagger, Reaction, Scaler, Scenario, What};
use super::store::{Change, Hand, Refusal, Store, whole_seconds};
use super::workloads::{
    CONFIG, Deployment, Nature, PARKED, Turn, Turns, Workload, image_of, manifest, scale_of,
};
use super::{CANARY, NAMESPACE};
use crate::analysis::{DurationUnit, Measurement, MetricKind};
use crate::api::{Canary, CanaryAnalysis, CanaryStatus, Phase};
use crate::object::{Expect, Object, ObjectRef, Patch, Write, kinds};
use crate::rollout::{
    Announcement, Finding, HookAnswer, Need, Request, Settings, Snapshot, Want, decide,
};
use crate::workload::autoscaler;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Where the virtual clock begins: 2026-01-01T00:00:00Z, in ms.
const START: i64 = 1_767_225_600_000;
/// How much virtual time a history gets after the last act, in ms.
const AFTERMATH: i64 = 900_000;
/// More events than any honest history has.
const MOST_EVENTS: usize = 20_000;
/// How many lines of the story are kept.
const STORY: usize = 4_000;

/// What happens at a point in time.
#[derive(Clone, Debug)]
enum Event {
    Reconcile(Deployment),
    Turn(Deployment, u64, Turn),
    Endpoints(usize),
    EndpointsSeen(usize),
    RouteSeen,
    RouteApplied,
    Deliver(usize, usize),
    Relist(usize),
    Pass(usize),
    Alarm(usize, u64),
    Effect(usize),
    Answer(usize, Box<Need>),
    Start,
    End(usize),
    Act(Act),
    Misfortune(Fault),
    /// Autoscalers look at the load; the flag says that they look again later.
    Autoscale(bool),
    /// What the canary owned goes with it.
    Collect(String),
    Calm,
}

/// The three Services.
pub const SERVICES: [&str; 3] = ["web", "web-primary", "web-canary"];

/// The gateway: what it carries, not what it is told.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    /// Lag in ms.
    pub lag: i64,
    /// Share of the canary in percent; `None` without a route.
    pub canary: Option<i64>,
    /// Since when the route says something else than what is carried, in ms.
    pub behind_since: Option<i64>,
    /// The pods behind each Service, as the gateway knows them.
    pub pods: [Vec<u64>; 3],
}

/// What is true and what people do with it.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// Number of the last release.
    pub released: usize,
    /// Whether gates are open.
    pub gates_open: bool,
    rollback_until: i64,
    silence_until: i64,
    nonsense_until: i64,
    down_until: [i64; 2],
    /// How many pods the load asks for.
    load: i64,
    configs: u64,
    /// When somebody asked for the canary's deletion.
    pub deleted_at: Option<i64>,
    /// Whether the canary is gone.
    pub gone: bool,
    /// Nothing unexpected happens any more.
    pub calm: bool,
}

/// How often which fault struck in which phase.
pub type Coverage = BTreeMap<(String, Fault), u64>;

/// The world.
pub struct World {
    /// What happens in this history.
    pub scenario: Scenario,
    /// Virtual time in ms since the start.
    pub now: i64,
    /// The API server.
    pub store: Store,
    /// The two Deployments.
    pub workloads: [Workload; 2],
    /// The gateway.
    pub gateway: Gateway,
    /// What is true.
    pub truth: Truth,
    /// The replicas, dead ones included.
    pub replicas: Vec<Replica>,
    /// What was seen, for the invariants.
    pub witness: Witness,
    /// What was violated.
    pub violations: Vec<Violation>,
    /// Faults that struck.
    pub coverage: Coverage,
    /// Passes that were made.
    pub passes: u64,
    /// Phases that a run ended in.
    pub ends: BTreeMap<String, u64>,
    /// The defect that was put in on purpose.
    pub mutant: Option<Mutant>,
    /// The last status as it is in the store.
    pub status: CanaryStatus,
    /// Whether decisions are helped by what earlier ones worked out, as long as that changes nothing.
    pub remembers: bool,
    /// The ready pods that each Service's slice names.
    pub ready: [Vec<u64>; 3],
    /// The pods that each Service's slice names, with their readiness; `None` where there is no slice.
    slices: [Option<Vec<(u64, bool)>>; 3],
    /// Whose pods each Service selects.
    selected: [Option<Deployment>; 3],
    /// Every version of the canary.
    canaries: BTreeMap<u64, Arc<Canary>>,
    /// The image that the target asks for.
    target_image: String,
    /// `spec.suspend`.
    pub suspended: bool,
    /// `metadata.generation` of the canary, and its `spec.analysis`.
    pub generation: i64,
    /// See `generation`.
    pub analysis: CanaryAnalysis,
    queue: BTreeMap<(i64, u64), Event>,
    serial: u64,
    random: Random,
    pods: u64,
    faults: VecDeque<(i64, Fault)>,
    settings: Arc<Settings>,
    story: Option<VecDeque<String>>,
}

impl World {
    /// The world before anything happened. With `tell` it keeps a story.
    #[must_use]
    pub fn new(scenario: Scenario, mutant: Option<Mutant>, tell: bool) -> Self {
        let random = Random::new(scenario.seed, "world");
        let faults = scenario.faults.iter().copied().collect();
        let gateway = Gateway {
            lag: scenario.gateway_lag,
            ..Gateway::default()
        };
        let nodes = scenario
            .daemon
            .then(|| usize::try_from(scenario.replicas).unwrap_or(1));
        let mut world = Self {
            scenario,
            now: 0,
            store: Store::default(),
            workloads: [
                Workload::new(Deployment::Target, nodes),
                Workload::new(Deployment::Primary, nodes),
            ],
            gateway,
            truth: Truth {
                gates_open: true,
                ..Truth::default()
            },
            replicas: Vec::new(),
            witness: Witness::default(),
            violations: Vec::new(),
            coverage: Coverage::new(),
            passes: 0,
            ends: BTreeMap::new(),
            mutant,
            status: CanaryStatus::default(),
            remembers: true,
            ready: Default::default(),
            slices: Default::default(),
            selected: [None; 3],
            canaries: BTreeMap::new(),
            target_image: String::new(),
            suspended: false,
            generation: 0,
            analysis: CanaryAnalysis::default(),
            queue: BTreeMap::new(),
            serial: 0,
            random,
            pods: 0,
            faults,
            settings: Arc::new(Settings::default()),
            story: tell.then(VecDeque::new),
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        let image = Nature::Good.image(0);
        if self.scenario.config {
            let _ = self.store.create(
                &kinds::CONFIG_MAP.named(NAMESPACE, CONFIG),
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG, "namespace": NAMESPACE}, "data": {"version": "0"}}),
                Hand::User,
                self.stamp(),
            );
        }
        self.user_writes(&Write::Apply {
            kind: self.reference(Deployment::Target).kind,
            object: manifest(&self.scenario, &image, Some(self.scenario.replicas)),
            expect: Expect::Any,
        });
        self.set_up_scaler();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        if self.random.chance(60) && self.scenario.flagger.is_none() {
            let name = kinds::SERVICE.named(NAMESPACE, "web");
            let _ = self.store.create(&name, service, Hand::User, self.stamp());
        }
        let canary = json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": CANARY, "namespace": NAMESPACE},
            "spec": self.scenario.spec,
        });
        let _ = self.store.create(
            &kinds::CANARY.named(NAMESPACE, CANARY),
            canary,
            Hand::User,
            self.stamp(),
        );
        self.spread();
        if let Some(flagger) = self.scenario.flagger {
            self.set_up_flagger(flagger);
            self.at(self.random.clone().between(8_000, 14_000), Event::Start);
        } else {
            self.at(self.random.clone().between(100, 4_000), Event::Start);
        }
        for position in 0..self.scenario.acts.len() {
            let (at, act) = self.scenario.acts[position];
            self.at_time(at, Event::Act(act));
        }
        let last = self
            .scenario
            .acts
            .iter()
            .map(|(at, _)| *at)
            .max()
            .unwrap_or(0);
        let last = self
            .scenario
            .faults
            .iter()
            .map(|(at, _)| *at)
            .max()
            .unwrap_or(0)
            .max(last);
        self.at_time(last + 20_000, Event::Calm);
    }

    fn set_up_scaler(&mut self) {
        self.truth.load = self.scenario.replicas;
        let (kind, least, most) = match self.scenario.scaler {
            Scaler::Hand => return,
            Scaler::Hpa => (
                kinds::HORIZONTAL_POD_AUTOSCALER,
                "minReplicas",
                "maxReplicas",
            ),
            Scaler::Keda => (kinds::SCALED_OBJECT, "minReplicaCount", "maxReplicaCount"),
        };
        let scaler = json!({
            "apiVersion": kind.api_version(), "kind": kind.kind,
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, least: 1, most: 5},
        });
        let now = self.stamp();
        let _ = self
            .store
            .create(&kind.named(NAMESPACE, "web"), scaler, Hand::User, now);
        self.at(15_000, Event::Autoscale(true));
    }

    /// What Flagger made, as it stood when it was stopped.
    fn set_up_flagger(&mut self, left: Flagger) {
        let now = self.stamp();
        let canary = kinds::CANARY.named(NAMESPACE, CANARY);
        let uid = self
            .store
            .get(&canary)
            .map(|canary| canary.uid().to_owned())
            .unwrap_or_default();
        let owner = json!([{"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "name": CANARY, "uid": uid, "controller": true, "blockOwnerDeletion": true}]);
        let old = Nature::Good.image(0);
        let newer = left.newer.map(|nature| nature.image(100));
        if let Some(image) = &newer {
            self.set_image(image);
            self.spread();
        }
        let running = newer.filter(|_| left.copied).unwrap_or(old);
        let mut primary =
            manifest(&self.scenario, &running, Some(self.scenario.replicas)).into_value();
        primary["metadata"]["name"] = json!("web-primary");
        primary["metadata"]["ownerReferences"] = owner.clone();
        primary["metadata"]["labels"]["app"] = json!("web-primary");
        primary["spec"]["selector"]["matchLabels"]["app"] = json!("web-primary");
        primary["spec"]["template"]["metadata"] = json!({"labels": {"app": "web-primary"}, "annotations": {"flagger-id": "8d4e7c1e-0d0c-4b6e-9c4c-2f1f6c1d3a55"}});
        let name = self.reference(Deployment::Primary);
        let _ = self.store.create(&name, primary, Hand::Flagger, now);
        for (service, pods) in [
            ("web", "web-primary"),
            ("web-primary", "web-primary"),
            ("web-canary", "web"),
        ] {
            let object = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": service, "namespace": NAMESPACE, "labels": {"app": service}, "ownerReferences": owner},
                "spec": {"type": "ClusterIP", "selector": {"app": pods}, "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
            });
            let name = kinds::SERVICE.named(NAMESPACE, service);
            let _ = self.store.create(&name, object, Hand::Flagger, now);
        }
        if self.scenario.gateway {
            let route = json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": "web", "namespace": NAMESPACE, "ownerReferences": owner},
                "spec": {
                    "parentRefs": [{"name": "edge", "namespace": "gateways"}],
                    "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [
                        {"name": "web-primary", "port": 80, "weight": 100 - left.weight},
                        {"name": "web-canary", "port": 80, "weight": left.weight},
                    ]}],
                },
            });
            let name = kinds::HTTP_ROUTE.named(NAMESPACE, "web");
            let _ = self.store.create(&name, route, Hand::Flagger, now);
        }
        if left.replicas == 0 {
            let patch = if self.scenario.daemon {
                json!({"spec": {"template": {"spec": {"nodeSelector": {PARKED: "true"}}}}})
            } else {
                json!({"spec": {"replicas": 0}})
            };
            self.edit(&self.reference(Deployment::Target), Hand::Flagger, patch);
        }
        let time = whole_seconds(now);
        let status = json!({
            "phase": left.phase.as_str(), "canaryWeight": left.weight, "failedChecks": 0, "iterations": 0,
            "lastAppliedSpec": "5978589476", "lastPromotedSpec": "76b8cbfd6", "lastTransitionTime": time, "trackedConfigs": {},
            "conditions": [{"type": "Promoted", "status": "Unknown", "reason": left.phase.as_str(), "message": "written by Flagger", "lastUpdateTime": time, "lastTransitionTime": time}],
        });
        let _ = self
            .store
            .change_status(&canary, &Expect::Any, Hand::Flagger, |live| *live = status);
        self.spread();
    }

    /// Where one of the two workloads is.
    #[must_use]
    pub fn reference(&self, which: Deployment) -> ObjectRef {
        let kind = if self.scenario.daemon {
            kinds::DAEMON_SET
        } else {
            kinds::DEPLOYMENT
        };
        kind.named(NAMESPACE, which.name())
    }

    /// How many pods a workload asks for.
    #[must_use]
    pub fn scale_of(&self, object: &Object) -> i64 {
        let nodes = self
            .scenario
            .daemon
            .then(|| usize::try_from(self.scenario.replicas).unwrap_or(1));
        scale_of(object, nodes)
    }

    /// Now, as the API writes it.
    #[must_use]
    pub fn stamp(&self) -> Timestamp {
        Timestamp::from_millisecond(START + self.now).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// A point in time as ms since the start.
    #[must_use]
    pub fn virtual_ms(at: Timestamp) -> i64 {
        at.as_millisecond() - START
    }

    fn at(&mut self, delay: i64, event: Event) {
        self.at_time(self.now + delay, event);
    }

    fn at_time(&mut self, at: i64, event: Event) {
        self.serial += 1;
        self.queue.insert((at.max(self.now), self.serial), event);
    }

    /// Adds a line to the story, where one is told.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            if story.len() >= STORY {
                story.pop_front();
            }
            story.push_back(format!("{:>9.3}s  {}", now as f64 / 1000.0, line()));
        }
    }

    /// The last lines of the story.
    #[must_use]
    pub fn story(&self, lines: usize) -> Vec<String> {
        let story = self.story.iter().flatten();
        let all = self.story.as_ref().map_or(0, VecDeque::len);
        story.skip(all.saturating_sub(lines)).cloned().collect()
    }

    /// Lets everything happen, until the first violation or the end of time.
    pub fn run(&mut self) {
        let last = self.queue.keys().next_back().map_or(0, |(at, _)| *at);
        let end = last + AFTERMATH;
        for _ in 0..MOST_EVENTS {
            let Some(entry) = self.queue.first_entry() else {
                break;
            };
            let (at, _) = *entry.key();
            if at > end {
                self.now = end;
                return self.finish();
            }
            self.now = at;
            let event = entry.remove();
            self.happen(event);
            self.spread();
            invariants::moment(self);
            if !self.violations.is_empty() {
                return;
            }
        }
        if self.queue.is_empty() {
            return self.finish();
        }
        self.violate(
            "I11 ends",
            format!("more than {MOST_EVENTS} events: something never comes to rest"),
        );
    }

    fn finish(&mut self) {
        *self
            .ends
            .entry(self.status.phase.as_str().to_owned())
            .or_default() += 1;
        invariants::end(self);
    }

    /// Notes a violation.
    pub fn violate(&mut self, invariant: &'static str, text: String) {
        self.tell(|| format!("VIOLATION {invariant}: {text}"));
        self.violations.push(Violation {
            invariant,
            at: self.now,
            text,
        });
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Reconcile(which) => self.reconcile(which),
            Event::Turn(which, pod, turn) => self.turn(which, pod, turn),
            Event::Endpoints(service) => self.write_endpoints(service),
            Event::EndpointsSeen(service) => {
                self.gateway.pods[service].clone_from(&self.ready[service]);
            }
            Event::RouteSeen => self.accept_route(),
            Event::RouteApplied => {
                self.gateway.canary = self.live_weight();
                self.gateway.behind_since = None;
            }
            Event::Deliver(replica, stream) => {
                if self.replicas[replica].alive && self.replicas[replica].deliver(stream, self.now)
                {
                    self.wake(replica, 1);
                }
            }
            Event::Relist(replica) => {
                if self.replicas[replica].alive && !self.replicas[replica].deaf {
                    self.replicas[replica].relist(&self.store);
                    self.wake(replica, 1);
                }
            }
            Event::Pass(replica) => self.pass(replica),
            Event::Alarm(replica, alarm) => {
                if self.replicas[replica].alarm == alarm {
                    self.wake(replica, 0);
                }
            }
            Event::Effect(replica) => self.effect(replica),
            Event::Answer(replica, need) => self.answer(replica, &need),
            Event::Start => self.start_replica(),
            Event::End(replica) => self.replicas[replica].alive = false,
            Event::Act(act) => self.act(act),
            Event::Misfortune(fault) if !self.truth.calm => {
                self.faults.push_front((self.now, fault));
            }
            Event::Misfortune(_) => {}
            Event::Autoscale(again) => self.autoscale(again),
            Event::Collect(uid) => self.collect(&uid),
            Event::Calm => self.calm(),
        }
    }

    /// Tells everyone what changed in the store.
    fn spread(&mut self) {
        for change in self.store.take_changes() {
            self.tell_change(&change);
            for replica in 0..self.replicas.len() {
                let jitter = self.random.between(0, 30);
                if let Some((stream, at)) = self.replicas[replica].hear(&change, self.now, jitter) {
                    self.at_time(at, Event::Deliver(replica, stream));
                }
            }
            self.notice(&change);
            self.follow(&change);
            if change.name.kind == kinds::CANARY
                && let Some(after) = &change.after
            {
                let before = std::mem::take(&mut self.status);
                let decoded = self.decoded(change.revision, after);
                self.status = decoded
                    .and_then(|canary| canary.status.clone())
                    .unwrap_or_default();
                self.react(before.phase);
                invariants::after_status(self, &change, &before);
            }
            invariants::after_write(self, &change);
        }
    }

    /// The canary of one version, decoded once for everybody.
    fn decoded(&mut self, revision: u64, object: &Object) -> Option<Arc<Canary>> {
        if let Some(known) = self.canaries.get(&revision) {
            return Some(Arc::clone(known));
        }
        let earlier = self.canaries.values().next_back();
        let decoded = match earlier {
            Some(earlier) => Canary::decode_after(earlier, object.value()),
            None => Canary::decode(object.value()),
        };
        let decoded = Arc::new(decoded.ok()?);
        self.canaries.insert(revision, Arc::clone(&decoded));
        Some(decoded)
    }

    /// Keeps at hand what is looked at all the time.
    fn notice(&mut self, change: &Change) {
        let kind = &change.name.kind;
        let after = change.after.as_deref();
        if *kind == kinds::ENDPOINT_SLICE {
            if let Some(service) = SERVICES
                .iter()
                .position(|name| change.name.name.strip_suffix("-slice") == Some(name))
            {
                self.ready[service] = after.map_or_else(Vec::new, ready_pods);
                if after.is_none() {
                    self.slices[service] = None;
                }
            }
        } else if *kind == kinds::SERVICE {
            if let Some(service) = SERVICES.iter().position(|name| *name == change.name.name) {
                let wanted = after.map_or("", |service| service.text("/spec/selector/app"));
                self.selected[service] = Deployment::ALL
                    .into_iter()
                    .find(|which| which.name() == wanted);
            }
        } else if (*kind == kinds::DEPLOYMENT || *kind == kinds::DAEMON_SET)
            && change.name.name == "web"
        {
            self.target_image = change.after.as_ref().map(image_of).unwrap_or_default();
        } else if *kind == kinds::CANARY {
            self.suspended = after.is_some_and(|canary| canary.at("/spec/suspend") == true);
            if let Some(canary) = &change.after
                && canary.generation() != self.generation
                && let Some(decoded) = self.decoded(change.revision, canary)
            {
                self.generation = canary.generation();
                self.analysis = decoded.spec.analysis.clone();
            }
            if after.is_none() {
                self.truth.gone = true;
                let uid = change.before.as_ref().map(|gone| gone.uid().to_owned());
                let delay = self.random.between(100, 1_500);
                self.at(delay, Event::Collect(uid.unwrap_or_default()));
            }
        }
    }

    /// What waits for a phase happens when it is entered.
    fn react(&mut self, before: Phase) {
        let phase = self.status.phase;
        if phase == before || self.truth.calm {
            return;
        }
        let (due, rest): (Vec<Reaction>, Vec<Reaction>) =
            std::mem::take(&mut self.scenario.reactions)
                .into_iter()
                .partition(|reaction| reaction.phase == phase);
        self.scenario.reactions = rest;
        for reaction in due {
            let event = match reaction.what {
                What::Act(act) => Event::Act(act),
                What::Fault(fault) => Event::Misfortune(fault),
            };
            self.at(reaction.delay, event);
        }
    }

    /// What the cluster does about a change.
    fn follow(&mut self, change: &Change) {
        let spec_changed = match (&change.before, &change.after) {
            (Some(before), Some(after)) => {
                before.generation() != after.generation() || before.uid() != after.uid()
            }
            _ => true,
        };
        let workload =
            change.name.kind == kinds::DEPLOYMENT || change.name.kind == kinds::DAEMON_SET;
        if change.name.kind == kinds::SCALED_OBJECT {
            let delay = self.random.between(10, 500);
            self.at(delay, Event::Autoscale(false));
        } else if workload && spec_changed {
            let which = if change.name.name == "web" {
                Deployment::Target
            } else {
                Deployment::Primary
            };
            self.reconcile_soon(which);
        } else if change.name.kind == kinds::SERVICE {
            if let Some(service) = SERVICES.iter().position(|name| *name == change.name.name) {
                let delay = self.random.between(5, 150);
                self.at(delay, Event::Endpoints(service));
            }
        } else if change.name.kind == kinds::ENDPOINT_SLICE {
            if let Some(service) = SERVICES
                .iter()
                .position(|name| change.name.name.strip_suffix("-slice") == Some(name))
            {
                let delay = self.random.between(10, 300);
                self.at(delay, Event::EndpointsSeen(service));
            }
        } else if change.name.kind == kinds::HTTP_ROUTE && spec_changed {
            self.gateway.behind_since.get_or_insert(self.now);
            let lag = self.gateway.lag + self.random.between(0, self.gateway.lag / 2);
            self.at(lag, Event::RouteSeen);
        }
    }

    // ---- workloads

    fn workload(&mut self, which: Deployment) -> &mut Workload {
        &mut self.workloads[usize::from(which == Deployment::Primary)]
    }

    fn reconcile_soon(&mut self, which: Deployment) {
        if !std::mem::replace(&mut self.workload(which).queued, true) {
            let delay = self.random.between(5, 200);
            self.at(delay, Event::Reconcile(which));
        }
    }

    /// The autoscalers of both sides bring their workloads to what the load asks for.
    fn autoscale(&mut self, again: bool) {
        let (kind, least, most) = match self.scenario.scaler {
            Scaler::Hand => return,
            Scaler::Hpa => (
                kinds::HORIZONTAL_POD_AUTOSCALER,
                "/spec/minReplicas",
                "/spec/maxReplicas",
            ),
            Scaler::Keda => (
                kinds::SCALED_OBJECT,
                "/spec/minReplicaCount",
                "/spec/maxReplicaCount",
            ),
        };
        for which in Deployment::ALL {
            let Some(scaler) = self.store.get(&kind.named(NAMESPACE, which.name())) else {
                continue;
            };
            let name = self.reference(which);
            let Some(live) = self.store.get(&name).map(|live| self.scale_of(live)) else {
                continue;
            };
            let load = self.truth.load.clamp(
                scaler.number(least).unwrap_or(1),
                scaler.number(most).unwrap_or(1),
            );
            let wanted = match (
                self.scenario.scaler,
                scaler.annotation(autoscaler::PAUSED_REPLICAS),
            ) {
                (Scaler::Keda, Some(paused)) => paused.parse().unwrap_or(0),
                // A HorizontalPodAutoscaler rests while its workload has no replicas.
                (Scaler::Hpa, _) if live == 0 => 0,
                _ => load,
            };
            if wanted != live {
                self.edit(&name, Hand::Cluster, json!({"spec": {"replicas": wanted}}));
            }
        }
        if again {
            self.at(20_000, Event::Autoscale(true));
        }
    }

    /// The garbage collector takes what only the canary owned.
    fn collect(&mut self, uid: &str) {
        let owned: Vec<ObjectRef> = self
            .store
            .all()
            .filter(|(_, object)| {
                let owners = object.at("/metadata/ownerReferences").as_array();
                owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
            })
            .map(|(name, _)| name.clone())
            .collect();
        let now = self.stamp();
        for name in owned {
            let _ = self.store.delete(&name, &Expect::Any, Hand::Cluster, now);
            if name.kind == kinds::HTTP_ROUTE {
                self.at(self.gateway.lag, Event::RouteApplied);
            }
        }
    }

    fn reconcile(&mut self, which: Deployment) {
        let position = usize::from(which == Deployment::Primary);
        self.workloads[position].queued = false;
        let name = self.reference(which);
        let Some(object) = self.store.get(&name).cloned() else {
            let turns = self.workloads[position].abandon(&mut self.random);
            self.later(which, turns);
            return;
        };
        let turns =
            self.workloads[position].reconcile(&object, self.now, &mut self.pods, &mut self.random);
        self.later(which, turns);
        let (workload, now) = (&self.workloads[position], self.now);
        let time = |at: i64| {
            whole_seconds(Timestamp::from_millisecond(START + at).unwrap_or(Timestamp::UNIX_EPOCH))
        };
        let _ = self
            .store
            .change_status(&name, &Expect::Any, Hand::Cluster, |status| {
                workload.write_status(&object, status, now, &time);
            });
        if let Some(deadline) = self.workloads[position]
            .deadline(&object)
            .filter(|deadline| *deadline > self.now)
        {
            self.at_time(deadline, Event::Reconcile(which));
        }
        self.endpoints_soon(which);
    }

    fn later(&mut self, which: Deployment, turns: Turns) {
        for (pod, delay, turn) in turns {
            self.at(delay, Event::Turn(which, pod, turn));
        }
    }

    fn endpoints_soon(&mut self, which: Deployment) {
        for service in 0..SERVICES.len() {
            if self.selected[service] == Some(which) {
                let delay = self.random.between(5, 150);
                self.at(delay, Event::Endpoints(service));
            }
        }
    }

    fn turn(&mut self, which: Deployment, pod: u64, turn: Turn) {
        let position = usize::from(which == Deployment::Primary);
        let down_until = self.truth.down_until[position];
        if turn == Turn::Ready(true) && down_until > self.now {
            let delay = self.random.between(0, 2_000);
            return self.at_time(down_until + delay, Event::Turn(which, pod, turn));
        }
        let turns = self.workloads[position].turn(pod, turn, self.truth.calm, &mut self.random);
        self.later(which, turns);
        self.reconcile_soon(which);
        self.endpoints_soon(which);
    }

    fn write_endpoints(&mut self, service: usize) {
        let name = kinds::ENDPOINT_SLICE.named(NAMESPACE, &format!("{}-slice", SERVICES[service]));
        if self
            .store
            .get(&kinds::SERVICE.named(NAMESPACE, SERVICES[service]))
            .is_none()
        {
            let now = self.stamp();
            let _ = self.store.delete(&name, &Expect::Any, Hand::Cluster, now);
            return;
        }
        let pods: Vec<(u64, bool)> = self.selected[service].map_or_else(Vec::new, |which| {
            self.workloads[usize::from(which == Deployment::Primary)]
                .pods
                .iter()
                .filter(|pod| !pod.stopping)
                .map(|pod| (pod.id, pod.ready))
                .collect()
        });
        if self.slices[service].as_ref() == Some(&pods) {
            return;
        }
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|(id, ready)| {
                json!({
                    "addresses": [id.to_string()],
                    "conditions": {"ready": ready},
                    "targetRef": {"kind": "Pod", "name": id.to_string()},
                })
            })
            .collect();
        self.slices[service] = Some(pods);
        let pods = endpoints;
        let now = self.stamp();
        if self.store.get(&name).is_some() {
            let _ = self
                .store
                .change(&name, &Expect::Any, Hand::Cluster, now, |value| {
                    value["endpoints"] = json!(pods);
                    Ok(())
                });
        } else {
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name.name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": SERVICES[service]}},
                "endpoints": pods,
            });
            let _ = self.store.create(&name, slice, Hand::Cluster, now);
        }
    }

    /// The ready pods that a Service's slice names.
    #[must_use]
    pub fn endpoints(&self, service: usize) -> &[u64] {
        &self.ready[service]
    }

    // ---- the gateway

    /// The canary's weight as the live route says it.
    #[must_use]
    pub fn live_weight(&self) -> Option<i64> {
        let route = self.store.get(&kinds::HTTP_ROUTE.named(NAMESPACE, "web"))?;
        weight_of(route)
    }

    fn accept_route(&mut self) {
        let name = kinds::HTTP_ROUTE.named(NAMESPACE, "web");
        // The data plane follows the acceptance within a second; that is what the drain time is for.
        let delay = self.random.between(0, 900);
        self.at(delay, Event::RouteApplied);
        let generation = self.store.get(&name).map(|route| route.generation());
        let _ = self.store.change_status(&name, &Expect::Any, Hand::Cluster, |status| {
            status["parents"] = json!([{
                "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge", "namespace": "gateways"},
                "controllerName": "gateway.test/controller",
                "conditions": [
                    {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": generation},
                    {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "observedGeneration": generation},
                ],
            }]);
        });
    }

    /// Where requests go now: Service and share in percent.
    #[must_use]
    pub fn shares(&self) -> Vec<(usize, i64)> {
        match self.gateway.canary {
            Some(canary) if self.scenario.gateway => vec![(1, 100 - canary), (2, canary)],
            _ => vec![(0, 100)],
        }
    }

    /// The share in percent that goes to one Service now.
    #[must_use]
    pub fn share(&self, service: usize) -> i64 {
        match (self.gateway.canary, service) {
            (Some(canary), 1) if self.scenario.gateway => 100 - canary,
            (Some(canary), 2) if self.scenario.gateway => canary,
            (Some(_), _) if self.scenario.gateway => 0,
            (_, 0) => 100,
            _ => 0,
        }
    }

    /// Whether any pod behind a Service, as the gateway knows it, answers.
    #[must_use]
    pub fn answers(&self, service: usize) -> bool {
        self.gateway.pods[service]
            .iter()
            .any(|id| self.workloads.iter().any(|workload| workload.answers(*id)))
    }

    // ---- people

    fn user_writes(&mut self, write: &Write) {
        let now = self.stamp();
        let _ = self.store.write(write, Hand::User, now);
    }

    fn edit(&mut self, name: &ObjectRef, hand: Hand, patch: Value) {
        let write = Write::Patch {
            target: name.clone(),
            patch: Patch::Merge(patch),
            expect: Expect::Any,
        };
        let now = self.stamp();
        let _ = self.store.write(&write, hand, now);
    }

    /// The image that the target asks for.
    #[must_use]
    pub fn target_image(&self) -> String {
        self.target_image.clone()
    }

    fn set_image(&mut self, image: &str) {
        let (name, now) = (self.reference(Deployment::Target), self.stamp());
        let _ = self
            .store
            .change(&name, &Expect::Any, Hand::User, now, |target| {
                target["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
                Ok(())
            });
    }

    /// The target's image becomes the one that was promoted last.
    fn revert(&mut self) {
        let promoted = self
            .status
            .promoted
            .as_ref()
            .map(|promoted| promoted.revision.clone())
            .unwrap_or_default();
        if let Some(image) = self.witness.image_of(&promoted).map(str::to_owned) {
            self.set_image(&image);
        }
    }

    fn act(&mut self, act: Act) {
        self.tell(|| format!("people: {act:?}"));
        let canary = kinds::CANARY.named(NAMESPACE, CANARY);
        let primary = self.reference(Deployment::Primary);
        let now = self.now;
        match act {
            Act::Release(nature) => {
                self.truth.released += 1;
                let image = nature.image(self.truth.released);
                self.set_image(&image);
            }
            Act::Revert => self.revert(),
            Act::EditSteps(step) => self.edit(
                &canary,
                Hand::User,
                json!({"spec": {"analysis": {"stepWeight": step, "stepWeights": null}}}),
            ),
            Act::EditInterval(seconds) => {
                self.edit(
                    &canary,
                    Hand::User,
                    json!({"spec": {"analysis": {"interval": format!("{seconds}s")}}}),
                );
            }
            Act::Suspend(suspend) => {
                self.edit(&canary, Hand::User, json!({"spec": {"suspend": suspend}}));
            }
            Act::Skip(skip) => {
                self.edit(&canary, Hand::User, json!({"spec": {"skipAnalysis": skip}}));
            }
            Act::DeletePrimary => self.user_writes(&Write::Delete {
                target: primary,
                expect: Expect::Any,
            }),
            Act::DeleteRoute => {
                let route = kinds::HTTP_ROUTE.named(NAMESPACE, "web");
                self.user_writes(&Write::Delete {
                    target: route,
                    expect: Expect::Any,
                });
            }
            Act::DeleteService(which) => {
                let service = kinds::SERVICE.named(NAMESPACE, SERVICES[usize::from(which).min(2)]);
                self.user_writes(&Write::Delete {
                    target: service,
                    expect: Expect::Any,
                });
            }
            Act::EditWeights(weight) => self.edit_weights(weight),
            // A DaemonSet has no replicas, and an autoscaler has its own mind.
            Act::ScaleTarget(_) | Act::ScalePrimary(_)
                if self.scenario.daemon || self.scenario.scaler != Scaler::Hand => {}
            Act::ScaleTarget(replicas) => self.edit(
                &self.reference(Deployment::Target),
                Hand::User,
                json!({"spec": {"replicas": replicas}}),
            ),
            Act::ScalePrimary(replicas) => self.edit(
                &primary,
                Hand::User,
                json!({"spec": {"replicas": replicas}}),
            ),
            Act::WriteBack => {
                let replicas =
                    (self.scenario.scaler == Scaler::Hand).then_some(self.scenario.replicas);
                let object = manifest(&self.scenario, &self.target_image(), replicas);
                let (name, stamp) = (self.reference(Deployment::Target), self.stamp());
                let _ = self
                    .store
                    .apply(&name, &object, &Expect::Any, Hand::GitOps, stamp);
            }
            Act::EditConfig => {
                self.truth.configs += 1;
                let version = self.truth.configs.to_string();
                let config = kinds::CONFIG_MAP.named(NAMESPACE, CONFIG);
                self.edit(&config, Hand::User, json!({"data": {"version": version}}));
            }
            Act::Load(pods) => self.truth.load = pods,
            Act::DeleteCanary => {
                self.truth.deleted_at = Some(now);
                let stamp = self.stamp();
                let _ = self.store.delete(&canary, &Expect::Any, Hand::User, stamp);
            }
            Act::Annotate => {
                let names: Vec<ObjectRef> =
                    self.store.all().map(|(name, _)| name.clone()).collect();
                for name in names {
                    self.edit(&name, Hand::User, json!({"metadata": {"annotations": {invariants::FOREIGN: now.to_string()}}}));
                }
            }
            Act::LoseTarget(seconds) => self.lose(Deployment::Target, seconds),
            Act::LosePrimary(seconds) => self.lose(Deployment::Primary, seconds),
            Act::CloseGates => self.truth.gates_open = false,
            Act::OpenGates => self.truth.gates_open = true,
            Act::AskRollback(seconds) => self.truth.rollback_until = now + seconds * 1000,
            Act::Silence(seconds) => self.truth.silence_until = now + seconds * 1000,
            Act::Nonsense(seconds) => self.truth.nonsense_until = now + seconds * 1000,
            Act::SlowGateway(lag) => self.gateway.lag = lag,
        }
        self.witness.acted(now, act);
    }

    fn edit_weights(&mut self, weight: i64) {
        let name = kinds::HTTP_ROUTE.named(NAMESPACE, "web");
        let now = self.stamp();
        let _ = self
            .store
            .change(&name, &Expect::Any, Hand::User, now, |value| {
                let backends = value
                    .pointer_mut("/spec/rules/0/backendRefs")
                    .and_then(Value::as_array_mut);
                for backend in backends.into_iter().flatten() {
                    backend["weight"] = json!(if backend["name"] == "web-canary" {
                        weight
                    } else {
                        100 - weight
                    });
                }
                Ok(())
            });
    }

    fn lose(&mut self, which: Deployment, seconds: i64) {
        let position = usize::from(which == Deployment::Primary);
        let until = self.now + seconds * 1000;
        self.truth.down_until[position] = until;
        let ids: Vec<u64> = self.workloads[position]
            .ready_pods()
            .map(|pod| pod.id)
            .collect();
        for id in ids {
            for pod in &mut self.workloads[position].pods {
                if pod.id == id {
                    pod.ready = false;
                }
            }
            let delay = self.random.between(0, 3_000);
            self.at_time(until + delay, Event::Turn(which, id, Turn::Ready(true)));
        }
        self.reconcile_soon(which);
        self.endpoints_soon(which);
    }

    /// From now on nothing unexpected happens: what remains must come to its end by itself.
    fn calm(&mut self) {
        self.tell(|| "calm: gates open, providers answer, nobody acts any more".to_owned());
        self.truth.calm = true;
        self.scenario.reactions.clear();
        self.truth.gates_open = true;
        self.truth.silence_until = 0;
        self.truth.nonsense_until = 0;
        self.truth.rollback_until = 0;
        self.gateway.lag = self.gateway.lag.min(1_000);
        self.faults.clear();
        let canary = kinds::CANARY.named(NAMESPACE, CANARY);
        self.edit(&canary, Hand::User, json!({"spec": {"suspend": false}}));
    }

    // ---- replicas

    fn start_replica(&mut self) {
        let lag = self.random.pick(&[(6, 5), (3, 40), (1, 400)]);
        self.replicas.push(Replica::fresh(&self.store, lag));
        let replica = self.replicas.len() - 1;
        self.tell(|| format!("replica {replica} starts"));
        self.wake(replica, 10);
    }

    fn wake(&mut self, replica: usize, delay: i64) {
        let one = &mut self.replicas[replica];
        if !one.alive {
            return;
        }
        if one.work.is_some() {
            one.dirty = true;
        } else if !one.queued {
            one.queued = true;
            self.at(delay, Event::Pass(replica));
        }
    }

    fn alarm(&mut self, replica: usize, at: i64) {
        let one = &mut self.replicas[replica];
        one.alarm += 1;
        let alarm = one.alarm;
        self.at_time(at.max(self.now + 50), Event::Alarm(replica, alarm));
    }

    fn pass(&mut self, replica: usize) {
        self.replicas[replica].queued = false;
        self.replicas[replica].failed_at = None;
        if !self.replicas[replica].alive {
            return;
        }
        let name = kinds::CANARY.named(NAMESPACE, CANARY);
        let Some((revision, object)) = self.replicas[replica].canary(&name) else {
            return;
        };
        let Some(canary) = self.decoded(revision, &object) else {
            return;
        };
        let mut decision = None;
        let now = self.stamp();
        // A defect may make more of what was read than is there, so nothing is taken from the pass before.
        let fresh = self.mutant.is_some() || !self.remembers;
        let kept = self.replicas[replica].snapshot.take();
        let everything = fresh || kept.is_none();
        let mut snapshot = match kept {
            Some(mut snapshot) if !fresh => {
                snapshot.now = now;
                snapshot.canary = Arc::clone(&canary);
                snapshot
            }
            _ => Snapshot::new(now, Arc::clone(&canary), Arc::clone(&self.settings)),
        };
        snapshot.memory = self
            .remembers
            .then(|| Arc::clone(&self.replicas[replica].memory));
        self.replicas[replica].inform(&mut snapshot, everything);
        for _ in 0..8 {
            snapshot.entropy = self.random.next();
            if let Some(mutant) = self.mutant {
                for want in &self.replicas[replica].wants {
                    if let Want::Object(name) = want {
                        let reading = self.replicas[replica].read(name);
                        let reading = mutant.reading(name, reading, self);
                        snapshot.add_object(name.clone(), reading);
                    }
                }
            }
            self.passes += 1;
            let made = decide(&snapshot);
            if made.wants.is_empty() {
                decision = Some(made);
                break;
            }
            self.replicas[replica].want(&mut snapshot, made.wants);
        }
        self.replicas[replica].snapshot = Some(snapshot);
        let Some(mut decision) = decision else {
            return self.violate(
                "I11 ends",
                "the decision wants ever more to read".to_owned(),
            );
        };
        if let Some(mutant) = self.mutant {
            mutant.decision(&mut decision, &canary, self);
        }
        for need in std::mem::take(&mut decision.needs) {
            self.ask(replica, need);
        }
        if decision.status.is_none() && decision.writes.is_empty() {
            let one = &mut self.replicas[replica];
            one.restless = 0;
            one.failures = 0;
            one.conflicts = 0;
            one.alarm += 1;
            if let Some(wake) = decision.wake {
                self.alarm(replica, Self::virtual_ms(wake));
            }
            return;
        }
        self.replicas[replica].work = Some(Work {
            canary: object,
            decision,
            status_done: false,
            next: 0,
            wrote: false,
        });
        let delay = self.random.between(1, 25);
        self.at(delay, Event::Effect(replica));
    }

    /// What a replica that starts now and believes nothing would write: `None` where that is nothing.
    #[must_use]
    pub fn owed(&self) -> Option<String> {
        let mut replica = Replica::fresh(&self.store, 0);
        let (_, object) = replica.canary(&kinds::CANARY.named(NAMESPACE, CANARY))?;
        let canary = Arc::new(Canary::decode(object.value()).ok()?);
        let mut snapshot = Snapshot::new(self.stamp(), canary, Arc::clone(&self.settings));
        for _ in 0..8 {
            let made = decide(&snapshot);
            if made.wants.is_empty() {
                let status = made.status.map(|_| "the status".to_owned());
                let writes = made.writes.iter().map(|write| write.target().to_string());
                let all: Vec<String> = status.into_iter().chain(writes).collect();
                return (!all.is_empty()).then(|| all.join(", "));
            }
            replica.want(&mut snapshot, made.wants);
        }
        None
    }

    /// One request of the work that a replica is in the middle of.
    fn effect(&mut self, replica: usize) {
        if !self.replicas[replica].alive {
            return;
        }
        let Some(mut work) = self.replicas[replica].work.take() else {
            return;
        };
        let status_first = !self.mutant.is_some_and(Mutant::status_last);
        let status_now =
            !work.status_done && (status_first || work.next >= work.decision.writes.len());
        if !status_now && work.next >= work.decision.writes.len() {
            let with_status = work.decision.status.is_some();
            self.announce(&work, |told| !with_status || told.is_of_write());
            return self.worked(replica, work.wrote);
        }
        if status_now && work.decision.status.is_none() {
            work.status_done = true;
            self.replicas[replica].work = Some(work);
            return self.effect(replica);
        }
        let fault = if self.replicas[replica].sent.is_some() {
            None
        } else {
            self.fault(replica)
        };
        if fault == Some(Fault::CrashBefore) {
            return self.crash(replica);
        }
        if fault == Some(Fault::Stands) {
            let pause = self.random.between(1_000, 60_000);
            self.replicas[replica].deaf = true;
            self.replicas[replica].sent = Some((self.now, self.store.revision()));
            self.replicas[replica].work = Some(work);
            self.at(pause / 10, Event::Start);
            self.at(pause, Event::Effect(replica));
            return;
        }
        self.witness.late = self.replicas[replica].sent;
        let result = if fault == Some(Fault::ErrorBefore) {
            Err(Refusal::Invalid("transient".to_owned()))
        } else if fault == Some(Fault::Conflict) {
            Err(Refusal::Conflict("somebody else was faster".to_owned()))
        } else if status_now {
            self.write_status(replica, &work)
        } else {
            self.write(replica, &work.decision.writes[work.next])
        };
        let result = match fault {
            _ if self.replicas[replica].sent.is_some() => {
                self.tell(|| format!("replica {replica}: its last request arrives: {result:?}"));
                self.replicas[replica].alive = false;
                return;
            }
            Some(Fault::CrashAfter) => return self.crash(replica),
            Some(Fault::ErrorAfter | Fault::TimeOut) => {
                Err(Refusal::Invalid("transient".to_owned()))
            }
            _ => result,
        };
        match result {
            Ok((changed, absorbed)) => {
                for (name, revision, object) in absorbed {
                    self.replicas[replica].learn(&name, revision, object.as_ref());
                }
                work.wrote |= changed;
                if status_now {
                    work.status_done = true;
                    self.announce(&work, |told| !told.is_of_write());
                } else {
                    work.next += 1;
                }
                self.replicas[replica].work = Some(work);
                let delay = self.random.between(1, 25);
                self.at(delay, Event::Effect(replica));
            }
            Err(refusal) => {
                let target = if status_now {
                    kinds::CANARY.named(NAMESPACE, CANARY)
                } else {
                    work.decision.writes[work.next].target()
                };
                let held = if fault == Some(Fault::TimeOut) {
                    10_000
                } else {
                    0
                };
                self.failed(replica, &target, &refusal, held);
            }
        }
    }

    /// A replica's work is done.
    fn worked(&mut self, replica: usize, wrote: bool) {
        let one = &mut self.replicas[replica];
        one.failures = 0;
        one.conflicts = 0;
        one.restless += u32::from(wrote);
        let restless = one.restless;
        one.dirty = false;
        if restless > 80 {
            return self.violate("I11 ends", "80 passes in a row wrote something".to_owned());
        }
        self.wake(replica, if restless > 20 { 1_000 } else { 1 });
    }

    fn failed(&mut self, replica: usize, target: &ObjectRef, refusal: &Refusal, held: i64) {
        self.tell(|| format!("replica {replica}: {target}: {refusal:?}"));
        let now = self.now;
        let one = &mut self.replicas[replica];
        one.failed_at = Some(now);
        one.dirty = false;
        match refusal {
            Refusal::Conflict(_) | Refusal::NotFound if one.conflicts < 5 => {
                one.conflicts += 1;
                // Read past the cache, which was shown to be behind.
                let canary = kinds::CANARY.named(NAMESPACE, CANARY);
                let status = |one: &Replica| {
                    let known = one.canary(&canary);
                    known.map(|(_, canary)| canary.at("/status").clone())
                };
                let before = status(&self.replicas[replica]);
                self.read_again(replica, target);
                self.read_again(replica, &canary);
                if status(&self.replicas[replica]) != before {
                    // Another controller is at work; what is known of everything else may be as old.
                    for want in self.replicas[replica].wants.clone() {
                        match want {
                            Want::Object(name) => self.read_again(replica, &name),
                            Want::List(list) => {
                                let found = self.store.of_kind(&list.kind);
                                let names: Vec<ObjectRef> =
                                    found.map(|(name, ..)| name.clone()).collect();
                                for name in names {
                                    self.read_again(replica, &name);
                                }
                            }
                        }
                    }
                }
                self.wake(replica, 5);
            }
            Refusal::Invalid(why) if why != "transient" => {
                let text = format!("{target}: {why}");
                self.violate("I11 ends", format!("a write that can never work: {text}"));
            }
            _ => {
                one.conflicts = 0;
                one.failures = (one.failures + 1).min(7);
                let delay = 100_i64 << one.failures;
                if !self.mutant.is_some_and(Mutant::gives_up) {
                    self.wake(replica, held + delay);
                }
            }
        }
    }

    fn read_again(&mut self, replica: usize, name: &ObjectRef) {
        let found = self
            .store
            .get_versioned(name)
            .map(|(revision, object)| (revision, Arc::clone(object)));
        let (revision, object) = found
            .map_or((self.store.revision(), None), |(revision, object)| {
                (revision, Some(object))
            });
        self.replicas[replica].learn(name, revision, object.as_ref());
    }

    fn write_status(&mut self, replica: usize, work: &Work) -> Result<Written, Refusal> {
        let name = kinds::CANARY.named(NAMESPACE, CANARY);
        let status = serde_json::to_value(&work.decision.status).unwrap_or_default();
        let expect = if self.mutant.is_some_and(Mutant::status_unguarded) {
            Expect::Any
        } else {
            Expect::unchanged(&work.canary)
        };
        self.tell(|| format!("replica {replica} writes the status"));
        let before = self.store.revision();
        self.store
            .change_status(&name, &expect, Hand::Serin, |live| *live = status)?;
        Ok(self.written(&name, before))
    }

    fn write(&mut self, replica: usize, write: &Write) -> Result<Written, Refusal> {
        let now = self.stamp();
        self.witness.writer = replica;
        let before = self.store.revision();
        if self.mutant.is_some_and(Mutant::writes_unguarded) {
            let mut write = write.clone();
            write.change_expectations(&mut |expect| *expect = Expect::Any);
            self.store.write(&write, Hand::Serin, now)?;
        } else {
            self.store.write(write, Hand::Serin, now)?;
        }
        Ok(self.written(&write.target(), before))
    }

    fn written(&self, name: &ObjectRef, before: u64) -> Written {
        let changed = self.store.revision() != before;
        let entry = match self.store.get_versioned(name) {
            Some((revision, object)) => (name.clone(), revision, Some(Arc::clone(object))),
            None => (name.clone(), self.store.revision(), None),
        };
        (changed, vec![entry])
    }

    /// Tells those of a decision's announcements that are due.
    fn announce(&mut self, work: &Work, due: impl Fn(&Announcement) -> bool) {
        let due: Vec<&Announcement> = work
            .decision
            .announcements
            .iter()
            .filter(|announcement| due(announcement))
            .collect();
        for announcement in &due {
            self.tell(|| format!("told: {} {}", announcement.reason, announcement.message));
        }
        let after = work.decision.status.as_ref();
        let before: Option<String> = work.canary.at("/status/run/id").as_str().map(str::to_owned);
        let run = match after
            .and_then(|status| status.run.as_ref())
            .map(|run| run.id.clone())
        {
            Some(id) => id,
            None => before.unwrap_or_default(),
        };
        for announcement in due {
            invariants::told(self, &run, announcement.reason);
        }
    }

    fn fault(&mut self, replica: usize) -> Option<Fault> {
        let (at, fault) = *self.faults.front()?;
        if at > self.now {
            return None;
        }
        self.faults.pop_front();
        self.tell(|| format!("fault for replica {replica}: {fault:?}"));
        *self
            .coverage
            .entry((self.status.phase.as_str().to_owned(), fault))
            .or_default() += 1;
        self.witness.last_fault = self.now;
        let pause = self.random.between(1_000, 20_000);
        let one = &mut self.replicas[replica];
        match fault {
            Fault::WatchesBreak => {
                one.broken_until = self.now + pause;
                self.at(pause, Event::Relist(replica));
            }
            Fault::WatchesLag => one.lag_until = self.now + pause,
            Fault::HandOver => {
                one.deaf = true;
                self.at(pause, Event::End(replica));
                self.at(pause / 10, Event::Start);
            }
            _ => return Some(fault),
        }
        None
    }

    fn crash(&mut self, replica: usize) {
        self.tell(|| format!("replica {replica} dies"));
        self.replicas[replica].alive = false;
        let pause = self.random.between(500, 15_000);
        self.at(pause, Event::Start);
    }

    // ---- answers

    fn ask(&mut self, replica: usize, need: Need) {
        let one = &mut self.replicas[replica];
        if one.pending.contains(&need.key) || one.answers.iter().any(|(key, _)| *key == need.key) {
            return;
        }
        one.pending.insert(need.key.clone());
        let delay = self.random.pick(&[(8, 60), (3, 700), (1, 6_000)]);
        self.at(delay, Event::Answer(replica, Box::new(need)));
    }

    fn answer(&mut self, replica: usize, need: &Need) {
        if !self.replicas[replica].alive {
            return;
        }
        let finding = self.finding(&need.request);
        self.tell(|| format!("replica {replica} is answered {}: {finding:?}", need.key));
        self.replicas[replica].keep(need.key.clone(), finding);
        if self.replicas[replica].pending.is_empty() {
            self.wake(replica, 1);
        }
    }

    /// What an honest provider or hook says now.
    fn finding(&mut self, request: &Request) -> Finding {
        let silent = self.truth.silence_until > self.now;
        let pods = &self.workloads[0].pods;
        let bad = pods
            .iter()
            .any(|pod| pod.ready && pod.nature == Nature::Bad);
        let dark = !pods.iter().any(|pod| pod.ready && !pod.stopping);
        match request {
            Request::Hook(call) => Finding::Hook(match call.name.as_str() {
                _ if silent => HookAnswer::Unreachable("connection refused".to_owned()),
                "start-gate" | "step-gate" | "promote-gate" if !self.truth.gates_open => {
                    HookAnswer::Refused("not yet".to_owned())
                }
                "stop" if self.truth.rollback_until > self.now => HookAnswer::Passed,
                "stop" => HookAnswer::Refused("no".to_owned()),
                "acceptance" if bad => HookAnswer::Refused("a request failed".to_owned()),
                "acceptance" if dark => HookAnswer::Refused("no answer".to_owned()),
                _ => HookAnswer::Passed,
            }),
            Request::Pods(_) => Finding::Pods(Ok(Vec::new())),
            Request::Probe(_) if silent => Finding::Probe(Err("connection refused".to_owned())),
            Request::Probe(_) => Finding::Probe(Ok(())),
            // The one row that the provider's name stands for is what there is.
            Request::Sources(_) => Finding::Metric {
                measurement: if silent {
                    Measurement::Error("connection refused".to_owned())
                } else {
                    Measurement::Value(if dark { 0.0 } else { 1.0 })
                },
                at: self.stamp(),
            },
            Request::Metric(query) => {
                let measurement = if silent {
                    Measurement::Error("connection refused".to_owned())
                } else if dark {
                    Measurement::NoData("no series".to_owned())
                } else if self.truth.nonsense_until > self.now {
                    Measurement::Value(f64::NAN)
                } else {
                    Measurement::Value(match (query.kind, bad) {
                        (MetricKind::Duration(DurationUnit::Seconds), _) => 0.04,
                        (MetricKind::Duration(DurationUnit::Milliseconds), _) => 40.0,
                        (_, true) => 84.0,
                        (_, false) => 99.9,
                    })
                };
                Finding::Metric {
                    measurement,
                    at: self.stamp(),
                }
            }
        }
    }

    fn tell_change(&mut self, change: &Change) {
        if self.story.is_none() {
            return;
        }
        let summary = match &change.after {
            None => "deleted".to_owned(),
            Some(after) => summary(after),
        };
        let line = format!("{:?}: {} {summary}", change.by, change.name);
        self.tell(|| line);
    }
}

/// The ready pods that a slice names.
fn ready_pods(slice: &Object) -> Vec<u64> {
    let endpoints = slice.at("/endpoints").as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] == true)
        .filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok())
        .collect()
}

/// Whether something changed, and what is known of the object now.
type Written = (bool, Vec<(ObjectRef, u64, Option<Arc<Object>>)>);

/// The canary's weight in a route: the first rule that sends to both sides.
#[must_use]
pub fn weight_of(route: &Object) -> Option<i64> {
    let rules = route.at("/spec/rules").as_array()?;
    let both = rules
        .iter()
        .filter_map(|rule| rule["backendRefs"].as_array())
        .filter(|backends| backends.len() == 2);
    let mut weights = both.filter_map(|backends| {
        let weight = |name: &str| {
            backends
                .iter()
                .find(|backend| backend["name"] == name)
                .and_then(|backend| backend["weight"].as_i64())
        };
        let (primary, canary) = (weight("web-primary")?, weight("web-canary")?);
        (primary + canary > 0).then(|| canary * 100 / (primary + canary))
    });
    // With session affinity a rule that pins comes first and says 0/100; the rule that divides is the last of them.
    weights.next_back()
}

fn summary(object: &Object) -> String {
    match object.kind() {
        "Canary" => {
            let run = object.at("/status/run");
            format!(
                "phase={} weight={} failed={} iterations={} stage={} step={} weights={} diverted={} waiting={} applied={} promoted={} message={}",
                object.text("/status/phase"),
                object.at("/status/canaryWeight"),
                object.at("/status/failedChecks"),
                object.at("/status/iterations"),
                run["stage"],
                run["step"],
                run["weights"],
                run["diverted"],
                run["waitingFor"],
                object
                    .text("/status/lastAppliedSpec")
                    .chars()
                    .take(9)
                    .collect::<String>(),
                object
                    .text("/status/promoted/revision")
                    .chars()
                    .take(9)
                    .collect::<String>(),
                run["message"],
            )
        }
        "Deployment" => format!(
            "image={} replicas={} generation={} observed={} updated={} available={} all={} {}",
            object.text("/spec/template/spec/containers/0/image"),
            object.at("/spec/replicas"),
            object.generation(),
            object.at("/status/observedGeneration"),
            object.at("/status/updatedReplicas"),
            object.at("/status/availableReplicas"),
            object.at("/status/replicas"),
            object.text("/status/conditions/1/reason"),
        ),
        "HTTPRoute" => format!(
            "canary weight {:?}, accepted {}",
            weight_of(object),
            object.at("/status/parents/0/conditions/0/observedGeneration")
        ),
        "Service" => format!("selector {}", object.at("/spec/selector")),
        "EndpointSlice" => {
            let ready: Vec<&str> = object
                .at("/endpoints")
                .as_array()
                .into_iter()
                .flatten()
                .filter(|endpoint| endpoint["conditions"]["ready"] == true)
                .filter_map(|endpoint| endpoint["addresses"][0].as_str())
                .collect();
            format!("ready {}", ready.join(" "))
        }
        _ => String::new(),
    }
}
