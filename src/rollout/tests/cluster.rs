//! A cluster in a map, for stories: it carries out what a decision asks for as a controller would (read what is wanted, ask what is
//! needed, status first, then the writes), brings pods up at once unless a story says otherwise, and has its own clock. Every pass is
//! checked on the way: a cluster that is calm stays calm, and nothing is told by a pass that changes nothing.

use crate::analysis::{Measurement, MetricQuery};
use crate::api::{Canary, CanaryStatus, ConditionStatus, Phase, PodFailure};
use crate::object::{Object, ObjectRef, Patch, Reading, Write, kinds};
use crate::rollout::{
    AlertOutcome, Announcement, Finding, HookAnswer, HookCall, Listing, Need, Refusal, Request,
    Settings, Severity, Sibling, Snapshot, Tally, Turn, Want, decide,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub const NAMESPACE: &str = "test";
/// Clocks are finer than what the status keeps.
const FRACTION: SignedDuration = SignedDuration::from_micros(123);

/// How the pods of a workload take a new template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// All become available at once.
    Ready,
    /// Those of a new template never do; the former ones go on serving.
    Stuck,
    /// None is available.
    Dead,
}

pub struct Cluster {
    pub now: Timestamp,
    pub settings: Settings,
    /// Whether a run may begin.
    pub turn: Turn,
    /// What was told, oldest first, with the phase that event hooks are told.
    pub told: Vec<Announcement>,
    /// Hook calls that were made: name and phase in the payload.
    pub called: Vec<(String, String)>,
    /// The same calls, whole.
    pub calls: Vec<HookCall>,
    pub tallies: Vec<Tally>,
    /// Each phase and canary weight that a status said, in order, without repetition.
    pub journal: Vec<(Phase, i64)>,
    /// Each split that the route carried, primary and canary, in order, without repetition.
    pub splits: Vec<(i64, i64)>,
    /// The stages in which metrics of the canary's own pods were sampled, in order, without repetition, and which metrics.
    pub sampled: Vec<(String, Vec<String>)>,
    /// How often it was asked which series there are, and the metrics queries in order without repetition.
    pub sources_asked: usize,
    pub queries: Vec<String>,
    /// All writes that were carried out.
    pub writes: Vec<Write>,
    objects: BTreeMap<ObjectRef, Object>,
    applied: BTreeMap<ObjectRef, Value>,
    pods: BTreeMap<String, Pods>,
    /// The template whose pods came up last, and how many serve.
    rollouts: BTreeMap<String, (Value, i64)>,
    endpoints: BTreeMap<String, i64>,
    metrics: BTreeMap<String, Measurement>,
    hooks: BTreeMap<String, HookAnswer>,
    /// What the pods of a workload say when they are asked why they don't run, and how often they were asked.
    reasons: BTreeMap<String, Vec<PodFailure>>,
    pub lists: usize,
    unreadable: BTreeMap<ObjectRef, String>,
    /// What the API server lets nobody write.
    denied: BTreeSet<ObjectRef>,
    refusal: Option<Refusal>,
    siblings: Vec<Sibling>,
    /// What became of alerts, as whoever sends them tells the next decision.
    pub alert_outcomes: Vec<AlertOutcome>,
    /// How often the status was written.
    pub status_writes: usize,
    /// What decisions wanted to read so far, as watches would have it.
    reads: BTreeSet<Want>,
    /// What was answered so far.
    findings: BTreeMap<String, Finding>,
    gateway: bool,
    version: u64,
    wake: Option<Timestamp>,
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

impl Cluster {
    /// A cluster with this canary and nothing else. The time is a round one.
    pub fn given_canary(text: &str) -> Self {
        let mut cluster = Self {
            now: "2026-05-04T08:00:00Z".parse().unwrap(),
            settings: Settings::default(),
            turn: Turn::Free,
            told: Vec::new(),
            called: Vec::new(),
            calls: Vec::new(),
            tallies: Vec::new(),
            journal: Vec::new(),
            splits: Vec::new(),
            sources_asked: 0,
            queries: Vec::new(),
            sampled: Vec::new(),
            writes: Vec::new(),
            objects: BTreeMap::new(),
            applied: BTreeMap::new(),
            pods: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            metrics: BTreeMap::new(),
            hooks: BTreeMap::new(),
            reasons: BTreeMap::new(),
            lists: 0,
            unreadable: BTreeMap::new(),
            denied: BTreeSet::new(),
            refusal: None,
            siblings: Vec::new(),
            alert_outcomes: Vec::new(),
            status_writes: 0,
            reads: BTreeSet::new(),
            findings: BTreeMap::new(),
            gateway: true,
            version: 100,
            wake: None,
        };
        cluster.given(text);
        cluster
    }

    /// Adds an object as a user would.
    pub fn given(&mut self, text: &str) -> &mut Self {
        let mut object = Object::new(yaml(text));
        let kind = kind_of(&object);
        object.value_mut()["metadata"]["namespace"] = json!(NAMESPACE);
        object.value_mut()["metadata"]["creationTimestamp"] = json!("2026-05-01T08:00:00Z");
        let name = kind.named(NAMESPACE, object.name());
        self.store(&name, object);
        self
    }

    /// The usual target.
    pub fn given_deployment(&mut self, image: &str) -> &mut Self {
        self.given(&format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: podinfo, labels: {{app: podinfo}}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: podinfo}}}}
  template:
    metadata: {{labels: {{app: podinfo}}}}
    spec: {{containers: [{{name: app, image: '{image}', ports: [{{containerPort: 9898, protocol: TCP}}]}}]}}
"
        ))
    }

    // ---- what the world does

    /// How the pods of a workload take what comes; the default is [`Pods::Ready`].
    pub fn pods(&mut self, workload: &str, pods: Pods) -> &mut Self {
        self.pods.insert(workload.to_owned(), pods);
        self.turn();
        self
    }

    pub fn pods_ready(&mut self, workload: &str) -> &mut Self {
        self.pods(workload, Pods::Ready)
    }

    /// Says how many ready endpoints a Service has, whatever the pods say.
    pub fn endpoints(&mut self, service: &str, ready: i64) -> &mut Self {
        self.endpoints.insert(service.to_owned(), ready);
        self
    }

    pub fn gateway_applies(&mut self) -> &mut Self {
        self.gateway = true;
        self.turn();
        self
    }

    pub fn gateway_is_silent(&mut self) -> &mut Self {
        self.gateway = false;
        self
    }

    pub fn answer_metric(&mut self, name: &str, answer: Measurement) -> &mut Self {
        self.metrics.insert(name.to_owned(), answer);
        self
    }

    /// What a hook answers, by its name or by `TYPE/NAME`.
    pub fn answer_hook(&mut self, name: &str, answer: HookAnswer) -> &mut Self {
        self.hooks.insert(name.to_owned(), answer);
        self
    }

    /// The pods of a workload crash with this exit code.
    pub fn pods_crash(&mut self, workload: &str, code: i64) -> &mut Self {
        let failure = PodFailure {
            reason: "CrashLoopBackOff".to_owned(),
            container: Some("app".to_owned()),
            pods: 2,
            exit_code: Some(code),
            ..PodFailure::default()
        };
        self.reasons.insert(workload.to_owned(), vec![failure]);
        self
    }

    pub fn unreadable(&mut self, name: ObjectRef, why: &str) -> &mut Self {
        self.unreadable.insert(name, why.to_owned());
        self
    }

    /// What the API server makes of the writes.
    /// Somebody sets the weights of the route.
    pub fn steer(&mut self, primary: i64, canary: i64) -> &mut Self {
        self.edit(&route(), |route| {
            let backends = &mut route["spec"]["rules"][0]["backendRefs"];
            for (position, weight) in [(0, primary), (1, canary)] {
                backends[position]["weight"] = json!(weight);
            }
        })
    }

    /// What is written to this object is refused; false lets it be written again.
    pub fn deny(&mut self, name: ObjectRef, denied: bool) -> &mut Self {
        if denied {
            self.denied.insert(name);
        } else {
            self.denied.remove(&name);
        }
        self
    }

    pub fn refuse(&mut self, refusal: Option<Refusal>) -> &mut Self {
        self.refusal = refusal;
        self
    }

    /// An older canary of this target and apex Service.
    pub fn given_rival(&mut self, target: &str, apex: &str) -> &mut Self {
        self.siblings.push(Sibling {
            name: "rival".to_owned(),
            created_at: "2020-01-01T00:00:00Z".parse().ok(),
            target: target.to_owned(),
            apex: apex.to_owned(),
        });
        self
    }

    pub fn rival_goes(&mut self) -> &mut Self {
        self.siblings.clear();
        self
    }

    pub fn readable_again(&mut self) -> &mut Self {
        self.unreadable.clear();
        self
    }

    /// A user sets another image in the target.
    pub fn deploy(&mut self, image: &str) -> &mut Self {
        self.edit(&deployment("podinfo"), |target| {
            target["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        })
    }

    /// Somebody changes an object.
    pub fn edit(&mut self, name: &ObjectRef, change: impl FnOnce(&mut Value)) -> &mut Self {
        let mut object = self
            .objects
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not there"))
            .clone();
        change(object.value_mut());
        self.store(name, object);
        self.turn();
        self
    }

    /// A user edits the spec of the canary.
    pub fn edit_canary(&mut self, change: impl FnOnce(&mut Value)) -> &mut Self {
        let name = self.canary_name();
        self.edit(&name, |canary| change(&mut canary["spec"]))
    }

    pub fn remove(&mut self, name: &ObjectRef) -> &mut Self {
        self.objects.remove(name);
        self.applied.remove(name);
        if name.kind == kinds::DEPLOYMENT {
            self.rollouts.remove(&name.name);
        }
        self
    }

    /// A user deletes the canary; it goes when its finalizers are gone.
    pub fn delete_canary(&mut self) -> &mut Self {
        let name = self.canary_name();
        let now = self.now.to_string();
        self.edit(&name, |canary| {
            canary["metadata"]["deletionTimestamp"] = json!(now);
        })
    }

    // ---- running

    /// Passes until nothing changes any more, at the present time; then that it stays so.
    pub fn run_until_calm(&mut self) -> &mut Self {
        self.turn();
        for _ in 0..60 {
            if self.is_gone() {
                return self;
            }
            if !self.pass() {
                assert!(!self.pass(), "a calm cluster did not stay calm");
                return self;
            }
            self.turn();
        }
        panic!(
            "no calm after 60 passes; status: {}, last writes: {:?}",
            json!(self.status()),
            &self.writes[self.writes.len().saturating_sub(3)..]
        );
    }

    /// One pass, with what it asks for.
    pub fn run_once(&mut self) -> &mut Self {
        self.turn();
        self.pass();
        self
    }

    /// Lets time go by, with a run at each moment for which a decision asked.
    pub fn advance(&mut self, seconds: i64) -> &mut Self {
        let end = self.now + SignedDuration::from_secs(seconds);
        self.run_until_calm();
        while let Some(wake) = self.wake.filter(|wake| *wake <= end && *wake > self.now) {
            self.now = wake;
            self.run_until_calm();
        }
        self.now = end;
        self.run_until_calm()
    }

    /// Lets time go by in which there is no controller.
    pub fn sleep(&mut self, seconds: i64) -> &mut Self {
        self.now += SignedDuration::from_secs(seconds);
        self
    }

    /// Lets time go by until the phase is reached, from one moment that a decision asked for to the next.
    pub fn run_until(&mut self, phase: Phase) -> &mut Self {
        self.run_until_calm();
        for _ in 0..60 {
            if self.phase() == phase {
                return self;
            }
            let seconds = self
                .wake
                .map_or(10, |wake| wake.duration_since(self.now).as_secs().max(1));
            self.advance(seconds);
        }
        panic!(
            "{phase} was not reached; journal: {:?}, told: {:#?}",
            self.journal,
            self.texts()
        );
    }

    /// One pass: reads what the decision wants, carries it out, and has what it needs answered by the next pass. True if anything
    /// changed or was answered.
    fn pass(&mut self) -> bool {
        for _ in 0..20 {
            let decision = decide(&self.snapshot());
            if !decision.wants.is_empty() {
                self.reads.extend(decision.wants);
                continue;
            }
            self.wake = decision.wake;
            let writes: Vec<Write> = decision
                .writes
                .into_iter()
                .take_while(|write| !self.denied.contains(&write.target()))
                .collect();
            let changed = decision.status.is_some() || !writes.is_empty();
            assert!(
                changed || decision.announcements.is_empty(),
                "told, though nothing changed: {:?}",
                decision.announcements
            );
            assert!(
                changed || decision.tallies.is_empty(),
                "counted, though nothing changed: {:?}",
                decision.tallies
            );
            if let Some(status) = decision.status {
                self.write_status(&status);
            }
            self.note_sampled(&decision.sampled);
            for write in writes {
                self.carry_out(&write);
                self.writes.push(write);
            }
            self.told.extend(decision.announcements);
            self.tallies.extend(decision.tallies);
            self.note_split();
            let open: Vec<Need> = decision
                .needs
                .into_iter()
                .filter(|need| !self.findings.contains_key(&need.key))
                .collect();
            for need in &open {
                let answer = self.answer(need);
                self.findings.insert(need.key.clone(), answer);
            }
            return changed || !open.is_empty();
        }
        panic!("a decision that never has all it wants to know");
    }

    fn note_sampled(&mut self, metrics: &[MetricQuery]) {
        if metrics.is_empty() {
            return;
        }
        let stage = self.status().run.unwrap_or_default().stage;
        let names = metrics.iter().map(|metric| metric.name.clone()).collect();
        let sampled = (stage, names);
        if self.sampled.last() != Some(&sampled) {
            self.sampled.push(sampled);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let canary = Canary::decode(self.objects[&self.canary_name()].value()).unwrap();
        let mut snapshot =
            Snapshot::new(self.now, Arc::new(canary), Arc::new(self.settings.clone()));
        snapshot.entropy = self.version;
        snapshot.turn = self.turn.clone();
        snapshot.refusal = self.refusal.clone();
        snapshot.siblings.clone_from(&self.siblings);
        snapshot.alert_outcomes.clone_from(&self.alert_outcomes);
        for want in &self.reads {
            match want {
                Want::Object(name) => snapshot.add_object(name.clone(), self.reading(name)),
                Want::List(list) => {
                    let found = self
                        .objects
                        .iter()
                        .filter(|(name, object)| {
                            name.kind == list.kind
                                && name.namespace == list.namespace
                                && list
                                    .labels
                                    .iter()
                                    .all(|(key, value)| object.labels().get(key) == Some(value))
                        })
                        .map(|(_, object)| Arc::new(object.clone()));
                    let mut found: Vec<Arc<Object>> = found.collect();
                    if list.kind == kinds::ENDPOINT_SLICE {
                        let service = &list.labels["kubernetes.io/service-name"];
                        found.push(Arc::new(self.endpoint_slice(service)));
                    }
                    snapshot.add_list(list.clone(), Listing::Known(found));
                }
            }
        }
        for (key, finding) in &self.findings {
            snapshot.add_finding(key.clone(), finding.clone());
        }
        snapshot
    }

    fn reading(&self, name: &ObjectRef) -> Reading {
        if let Some(why) = self.unreadable.get(name) {
            return Reading::Unknown(why.clone());
        }
        match self.objects.get(name) {
            Some(object) => Reading::Present(Arc::new(object.clone())),
            None => Reading::Absent,
        }
    }

    fn answer(&mut self, need: &Need) -> Finding {
        match &need.request {
            Request::Metric(query) => {
                if self.queries.last() != Some(&query.query) {
                    self.queries.push(query.query.clone());
                }
                Finding::Metric {
                    measurement: self
                        .metrics
                        .get(&query.name)
                        .cloned()
                        .unwrap_or(Measurement::Value(100.0)),
                    at: self.now + FRACTION,
                }
            }
            Request::Sources(query) => {
                self.sources_asked += 1;
                Finding::Metric {
                    measurement: self
                        .metrics
                        .get(&query.name)
                        .cloned()
                        .unwrap_or(Measurement::Value(0.0)),
                    at: self.now + FRACTION,
                }
            }
            Request::Probe(query) => Finding::Probe(match self.metrics.get(&query.name) {
                Some(Measurement::Error(why)) => Err(why.clone()),
                _ => Ok(()),
            }),
            Request::Pods(list) => {
                self.lists += 1;
                let said = self.reasons.get(&list.labels["app"]);
                Finding::Pods(Ok(said.cloned().unwrap_or_default()))
            }
            Request::Hook(call) => {
                self.called
                    .push((call.name.clone(), call.payload.phase.clone()));
                self.calls.push((**call).clone());
                // A rollback hook that says yes ends the run, so there silence is the usual answer.
                let usual = if call.name.starts_with("rollback") {
                    HookAnswer::Refused("no".to_owned())
                } else {
                    HookAnswer::Passed
                };
                // Hooks of different gates may bear one name; `hook/KIND/…` is how the question's key begins.
                let kind = need.key.split('/').nth(1).unwrap_or_default();
                let answer = self.hooks.get(&format!("{kind}/{}", call.name));
                let answer = answer.or_else(|| self.hooks.get(&call.name));
                Finding::Hook(answer.cloned().unwrap_or(usual))
            }
        }
    }

    // ---- what is there

    pub fn canary_name(&self) -> ObjectRef {
        self.objects
            .keys()
            .find(|name| name.kind == kinds::CANARY)
            .cloned()
            .unwrap_or_else(|| kinds::CANARY.named(NAMESPACE, "gone"))
    }

    /// When the last decision wanted to look again.
    pub fn wake(&self) -> Option<Timestamp> {
        self.wake
    }

    pub fn is_gone(&self) -> bool {
        !self.objects.keys().any(|name| name.kind == kinds::CANARY)
    }

    pub fn object(&self, name: &ObjectRef) -> Option<&Object> {
        self.objects.get(name)
    }

    /// The status as the API server gives it back.
    pub fn status(&self) -> CanaryStatus {
        Canary::decode(self.objects[&self.canary_name()].value())
            .unwrap()
            .status_or_default()
    }

    pub fn phase(&self) -> Phase {
        self.status().phase
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: &crate::object::Kind) -> usize {
        self.objects
            .keys()
            .filter(|name| name.kind == *kind)
            .count()
    }

    pub fn image(&self, workload: &str) -> String {
        self.objects[&deployment(workload)]
            .text("/spec/template/spec/containers/0/image")
            .to_owned()
    }

    pub fn replicas(&self, workload: &str) -> i64 {
        self.objects[&deployment(workload)]
            .number("/spec/replicas")
            .unwrap_or(1)
    }

    /// Weights on the route, primary and canary; `None` where no route leads to them.
    pub fn split(&self) -> Option<(i64, i64)> {
        if let Some(service) = self.objects.get(&knative_service()) {
            return split_of_revisions(service);
        }
        let (route, backends) = [
            (kinds::HTTP_ROUTE, "/spec/rules/0/backendRefs"),
            (kinds::VIRTUAL_SERVICE, "/spec/http/0/route"),
        ]
        .into_iter()
        .find_map(|(kind, backends)| {
            let route = self.objects.get(&kind.named(NAMESPACE, "podinfo"))?;
            Some((route, backends))
        })?;
        // A route of the user that was not taken over, or that was given back.
        if !route.at("/spec").to_string().contains("podinfo-canary") {
            return None;
        }
        let weight = |position: usize| {
            route
                .number(&format!("{backends}/{position}/weight"))
                .unwrap_or(0)
        };
        Some((weight(0), weight(1)))
    }

    /// The value of the apex Service's selector label.
    pub fn apex(&self) -> String {
        self.objects
            .get(&kinds::SERVICE.named(NAMESPACE, "podinfo"))
            .map(|service| service.text("/spec/selector/app").to_owned())
            .unwrap_or_default()
    }

    pub fn texts(&self) -> Vec<String> {
        self.told
            .iter()
            .map(|told| {
                let severity = if told.severity == Severity::Info {
                    "Normal"
                } else {
                    "Warning"
                };
                format!("{severity} {} {}", told.reason, told.message)
            })
            .collect()
    }

    pub fn has_told(&self, text: &str) -> bool {
        self.told.iter().any(|told| told.message.contains(text))
    }

    pub fn times_told(&self, text: &str) -> usize {
        self.told
            .iter()
            .filter(|told| told.message.contains(text))
            .count()
    }

    /// Status, reason and message of a condition.
    pub fn condition(&self, kind: &str) -> (ConditionStatus, String, String) {
        let status = self.status();
        let condition = status.condition(kind).unwrap();
        (
            condition.status,
            condition.reason.clone(),
            condition.message.clone().unwrap_or_default(),
        )
    }

    /// The outcomes in the history, oldest first.
    pub fn outcomes(&self) -> Vec<String> {
        self.status()
            .history
            .into_iter()
            .map(|run| run.outcome)
            .collect()
    }

    /// Forgets what was told, called and journalled so far.
    pub fn forget_the_past(&mut self) -> &mut Self {
        self.told.clear();
        self.called.clear();
        self.calls.clear();
        self.journal.clear();
        self.splits.clear();
        self.writes.clear();
        self.tallies.clear();
        self
    }

    /// What another controller left in the status.
    pub fn given_status(&mut self, text: &str) -> &mut Self {
        let name = self.canary_name();
        let status = yaml(text);
        self.objects.get_mut(&name).unwrap().value_mut()["status"] = status;
        self
    }

    // ---- the API server

    fn store(&mut self, name: &ObjectRef, mut object: Object) {
        let before = self.objects.get(name).cloned();
        self.version += 1;
        let version = self.version;
        let value = object.value_mut();
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        if value["metadata"]["uid"].is_null() {
            value["metadata"]["uid"] = json!(format!("uid-{version}"));
        }
        let changed = before
            .as_ref()
            .is_none_or(|before| before.at("/spec") != object.at("/spec"));
        if changed {
            let next = before.as_ref().map_or(0, Object::generation) + 1;
            object.value_mut()["metadata"]["generation"] = json!(next);
        }
        self.objects.insert(name.clone(), object);
    }

    fn write_status(&mut self, status: &CanaryStatus) {
        self.status_writes += 1;
        let name = self.canary_name();
        let mut canary = self.objects[&name].clone();
        canary.value_mut()["status"] = json!(status);
        self.store(&name, canary);
        let entry = (status.phase, status.canary_weight);
        if self.journal.last() != Some(&entry) {
            self.journal.push(entry);
        }
    }

    fn carry_out(&mut self, write: &Write) {
        let name = write.target();
        match write {
            Write::Together(writes) => {
                for write in writes {
                    self.carry_out(write);
                }
            }
            Write::Apply { object, .. } => {
                let mut live = self
                    .objects
                    .get(&name)
                    .map_or(json!({}), |live| live.value().clone());
                let before = self.applied.insert(name.clone(), object.value().clone());
                give_up(&mut live, &before.unwrap_or_default(), object.value());
                merge(&mut live, object.value());
                self.store(&name, Object::new(live));
            }
            Write::Patch { patch, .. } => {
                let Some(live) = self.objects.get(&name) else {
                    panic!("a patch of {name}, which is not there");
                };
                let mut live = live.value().clone();
                match patch {
                    Patch::Merge(change) => merge_patch(&mut live, change),
                    Patch::Json(operations) => {
                        for one in operations {
                            operate(&mut live, one);
                        }
                    }
                }
                self.store(&name, Object::new(live));
            }
            Write::Delete { .. } => {
                self.objects.remove(&name);
            }
        }
        let finished = self.objects.get(&name).is_some_and(|object| {
            object.is_deleting()
                && object
                    .at("/metadata/finalizers")
                    .as_array()
                    .is_none_or(Vec::is_empty)
        });
        if finished {
            self.objects.remove(&name);
        }
    }

    // ---- the other controllers

    /// Deployments and gateways catch up with what was written.
    fn turn(&mut self) {
        let names: Vec<ObjectRef> = self
            .objects
            .keys()
            .filter(|name| {
                [
                    kinds::DEPLOYMENT,
                    kinds::DAEMON_SET,
                    kinds::HTTP_ROUTE,
                    kinds::KNATIVE_SERVICE,
                ]
                .contains(&name.kind)
            })
            .cloned()
            .collect();
        for name in names {
            let status = if name.kind == kinds::DEPLOYMENT {
                self.roll(&name)
            } else if name.kind == kinds::DAEMON_SET {
                self.place(&name)
            } else if name.kind == kinds::KNATIVE_SERVICE {
                self.serve(&name)
            } else if self.gateway {
                self.accept(&name)
            } else {
                continue;
            };
            if let Some(object) = self.objects.get_mut(&name) {
                object.value_mut()["status"] = status;
            }
        }
    }

    fn roll(&mut self, name: &ObjectRef) -> Value {
        let object = &self.objects[name];
        let wanted = object.number("/spec/replicas").unwrap_or(1);
        let template = object.at("/spec/template").clone();
        let generation = object.generation();
        let pods = self.pods.get(&name.name).copied().unwrap_or(Pods::Ready);
        let (good, serving) = self
            .rollouts
            .get(&name.name)
            .cloned()
            .unwrap_or((Value::Null, 0));
        let comes_up = pods == Pods::Ready || (pods == Pods::Stuck && good == template);
        let (updated, available) = match pods {
            Pods::Dead => (wanted, 0),
            _ if comes_up => (wanted, wanted),
            _ if serving == 0 => (wanted, 0),
            _ => (1.min(wanted), serving.min(wanted)),
        };
        let good = if comes_up && wanted > 0 {
            template
        } else {
            good
        };
        self.rollouts.insert(name.name.clone(), (good, available));
        json!({
            "observedGeneration": generation,
            "replicas": wanted,
            "updatedReplicas": updated,
            "readyReplicas": available,
            "availableReplicas": available,
        })
    }

    /// A `DaemonSet` on two nodes, neither of which has labels.
    fn place(&self, name: &ObjectRef) -> Value {
        let object = &self.objects[name];
        let parked = object
            .at("/spec/template/spec/nodeSelector")
            .as_object()
            .is_some_and(|labels| !labels.is_empty());
        let wanted = if parked { 0 } else { 2 };
        let dead = self.pods.get(&name.name) == Some(&Pods::Dead);
        json!({
            "observedGeneration": object.generation(),
            "desiredNumberScheduled": wanted,
            "updatedNumberScheduled": wanted,
            "numberAvailable": if dead { 0 } else { wanted },
        })
    }

    /// Knative makes a Revision of each template that is not the latest one's; [`Self::pods`] says of each Revision how it comes up.
    fn serve(&mut self, name: &ObjectRef) -> Value {
        let service = self.objects[name].clone();
        let template = service.at("/spec/template");
        let mut latest = service.text("/status/latestCreatedRevisionName").to_owned();
        let revision = |name: &str| kinds::KNATIVE_REVISION.named(NAMESPACE, name);
        let known = self.objects.get(&revision(&latest));
        if known.is_none_or(|known| known.at("/spec") != template) {
            let number = latest.rsplit('-').next().unwrap_or_default();
            let number = number.parse().unwrap_or(0) + 1;
            latest = match template["metadata"]["name"].as_str() {
                Some(users) => users.to_owned(),
                None => format!("{}-{number:05}", name.name),
            };
            self.given(
                &json!({
                    "apiVersion": "serving.knative.dev/v1", "kind": "Revision",
                    "metadata": {"name": latest, "ownerReferences": [{
                        "apiVersion": "serving.knative.dev/v1", "kind": "Configuration", "name": name.name, "uid": "c", "controller": true,
                    }]},
                    "spec": template,
                })
                .to_string(),
            );
        }
        let mut ready = Value::Null;
        for (name, object) in &mut self.objects {
            if name.kind != kinds::KNATIVE_REVISION {
                continue;
            }
            let condition = match self.pods.get(&name.name).unwrap_or(&Pods::Ready) {
                Pods::Ready => json!({"type": "Ready", "status": "True"}),
                Pods::Stuck => json!({"type": "Ready", "status": "Unknown", "reason": "Deploying"}),
                Pods::Dead => {
                    json!({"type": "Ready", "status": "False", "reason": "ExitCode1", "message": "the container exited"})
                }
            };
            if condition["status"] == "True" {
                ready = json!(name.name);
            }
            object.value_mut()["status"] = json!({"conditions": [condition]});
        }
        let seen = if self.gateway {
            json!(service.generation())
        } else {
            service.at("/status/observedGeneration").clone()
        };
        json!({
            "observedGeneration": seen,
            "latestCreatedRevisionName": latest,
            "latestReadyRevisionName": ready,
            "conditions": [{"type": "RoutesReady", "status": "True"}],
        })
    }

    fn accept(&self, name: &ObjectRef) -> Value {
        let route = &self.objects[name];
        let parents: Vec<Value> = route
            .at("/spec/parentRefs")
            .as_array()
            .into_iter()
            .flatten()
            .map(|parent| {
                json!({"parentRef": parent, "controllerName": "test/gateway", "conditions": [
                    {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": route.generation()},
                    {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "observedGeneration": route.generation()},
                ]})
            })
            .collect();
        json!({"parents": parents})
    }

    fn endpoint_slice(&self, service: &str) -> Object {
        let selector = self
            .objects
            .get(&kinds::SERVICE.named(NAMESPACE, service))
            .map(|service| service.string_map("/spec/selector"));
        let selected = self
            .objects
            .values()
            .filter(|object| ["Deployment", "DaemonSet"].contains(&object.kind()))
            .filter(|object| {
                let labels = object.string_map("/spec/template/metadata/labels");
                selector.as_ref().is_some_and(|selector| {
                    selector
                        .iter()
                        .all(|(key, value)| labels.get(key) == Some(value))
                })
            })
            .filter_map(|object| {
                object
                    .number("/status/availableReplicas")
                    .or_else(|| object.number("/status/numberAvailable"))
            })
            .sum();
        let ready = self.endpoints.get(service).copied().unwrap_or(selected);
        let endpoints: Vec<Value> = (0..ready)
            .map(|one| json!({"addresses": [format!("10.0.{}.{one}", service.len())], "conditions": {"ready": true}}))
            .collect();
        Object::new(json!({"endpoints": endpoints}))
    }

    fn note_split(&mut self) {
        if let Some(split) = self.split()
            && self.splits.last() != Some(&split)
        {
            assert_eq!(split.0 + split.1, 100, "weights must sum to 100");
            self.splits.push(split);
        }
    }
}

pub fn deployment(name: &str) -> ObjectRef {
    kinds::DEPLOYMENT.named(NAMESPACE, name)
}

pub fn service(name: &str) -> ObjectRef {
    kinds::SERVICE.named(NAMESPACE, name)
}

pub fn route() -> ObjectRef {
    kinds::HTTP_ROUTE.named(NAMESPACE, "podinfo")
}

pub fn knative_service() -> ObjectRef {
    kinds::KNATIVE_SERVICE.named(NAMESPACE, "podinfo")
}

/// What goes to the Revision that is called the primary, and what does not.
fn split_of_revisions(service: &Object) -> Option<(i64, i64)> {
    let primary = service.annotation("flagger.app/primary-revision")?;
    let mut split = (0, 0);
    for entry in service.at("/spec/traffic").as_array().unwrap() {
        let percent = entry["percent"].as_i64().unwrap_or(0);
        if entry["revisionName"] == primary {
            split.0 += percent;
        } else {
            split.1 += percent;
        }
    }
    Some(split)
}

pub fn config_map(name: &str) -> ObjectRef {
    kinds::CONFIG_MAP.named(NAMESPACE, name)
}

fn kind_of(object: &Object) -> crate::object::Kind {
    [
        kinds::CANARY,
        kinds::METRIC_TEMPLATE,
        kinds::ALERT_PROVIDER,
        kinds::DEPLOYMENT,
        kinds::DAEMON_SET,
        kinds::SERVICE,
        kinds::CONFIG_MAP,
        kinds::SECRET,
        kinds::HTTP_ROUTE,
        kinds::INGRESS,
        kinds::APISIX_ROUTE,
        kinds::VIRTUAL_SERVICE,
        kinds::HORIZONTAL_POD_AUTOSCALER,
        kinds::SCALED_OBJECT,
        kinds::KNATIVE_SERVICE,
        kinds::KNATIVE_REVISION,
    ]
    .into_iter()
    .find(|kind| kind.matches(object.api_version(), object.kind()))
    .unwrap_or_else(|| {
        // A kind of the user's: its plural would come from the API server.
        let (group, version) = object.api_version().split_once('/').unwrap();
        crate::object::Kind {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            kind: object.kind().to_owned().into(),
            plural: "".into(),
            namespaced: true,
        }
    })
}

/// What an apply does to the fields that are given: maps are merged, all else is replaced.
fn merge(live: &mut Value, wanted: &Value) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            for (key, value) in wanted {
                merge(live.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (live, wanted) => *live = wanted.clone(),
    }
}

/// What an apply does to the fields that were applied before and are not given any more.
fn give_up(live: &mut Value, before: &Value, wanted: &Value) {
    let (Some(live), Some(before)) = (live.as_object_mut(), before.as_object()) else {
        return;
    };
    for (key, value) in before {
        match wanted.get(key) {
            None => {
                live.remove(key);
            }
            Some(wanted) => {
                if let Some(live) = live.get_mut(key) {
                    give_up(live, value, wanted);
                }
            }
        }
    }
}

/// RFC 7386.
fn merge_patch(live: &mut Value, change: &Value) {
    let Some(change) = change.as_object() else {
        *live = change.clone();
        return;
    };
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    let live = live.as_object_mut().unwrap();
    for (key, value) in change {
        if value.is_null() {
            live.remove(key);
        } else {
            merge_patch(live.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// One operation of RFC 6902, as far as Serin uses them.
fn operate(live: &mut Value, operation: &Value) {
    let path = operation["path"].as_str().unwrap();
    let (parent, last) = path.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/").replace("~0", "~");
    let what = operation["op"].as_str().unwrap();
    if what == "test" {
        assert_eq!(live.pointer(path), Some(&operation["value"]), "{operation}");
        return;
    }
    let parent = live
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("{operation}: no such place"));
    match (what, parent) {
        ("add" | "replace", Value::Object(parent)) => {
            parent.insert(last, operation["value"].clone());
        }
        ("remove", Value::Object(parent)) => {
            parent.remove(&last);
        }
        ("remove", Value::Array(parent)) => {
            parent.remove(last.parse().unwrap());
        }
        (other, _) => panic!("{other} is not known here"),
    }
}
