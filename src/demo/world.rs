//! What Kubernetes' own controllers, the kubelet and the gateway's controller do, in real time: pods for Deployments and `DaemonSet`s (the
//! simulation's [`Workload`]s), an app on loopback behind each pod, endpoints of Services, acceptance of routes, garbage collection.

use super::apiserver::GATEWAY;
use super::app::{self, App, Behaviour};
use super::cluster::{Cluster, WORKLOADS};
use crate::object::{Expect, Kind, Object, ObjectRef, kinds, short_digest};
use crate::sim::random::Random;
use crate::sim::store::{Hand, Store, whole_seconds};
use crate::sim::workloads::{Deployment, Nature, Turn, Turns, Workload};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many nodes a `DaemonSet` has pods on.
const NODES: usize = 2;
/// The least time between two looks at a world in which nothing happens.
const CALM: Duration = Duration::from_secs(1);
/// How many events are kept.
const MOST_EVENTS: usize = 500;

/// An app that runs behind a pod.
#[derive(Clone, Debug)]
pub struct Instance {
    pub namespace: String,
    pub pod: String,
    /// The pod's address in the cluster, which is simulated.
    pub ip: String,
    /// Where it really listens.
    pub address: SocketAddr,
    stop: CancellationToken,
}

/// All apps that run, by the id of their pod.
#[derive(Debug, Default)]
pub struct Instances(Mutex<BTreeMap<u64, Instance>>);

impl Instances {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Instance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Instance> {
        self.lock().values().cloned().collect()
    }

    /// Where the pod with this address really listens.
    pub fn address_of(&self, ip: &str) -> Option<SocketAddr> {
        self.lock()
            .values()
            .find(|instance| instance.ip == ip)
            .map(|instance| instance.address)
    }
}

/// A pod's life beside the workload's own record of it.
struct PodRecord {
    workload: ObjectRef,
    name: String,
    ip: String,
    labels: Value,
    /// It was ready once.
    was_ready: bool,
    stopping: bool,
}

/// When something happens to which pod of which workload.
type Due = (i64, u64, ObjectRef, Turn);

/// The simulated controllers.
pub struct World {
    cluster: Arc<Cluster>,
    instances: Arc<Instances>,
    workloads: BTreeMap<ObjectRef, Workload>,
    pods: BTreeMap<u64, PodRecord>,
    due: BinaryHeap<Reverse<Due>>,
    random: Random,
    ids: u64,
    began: Instant,
    stop: CancellationToken,
}

impl World {
    /// A world that ends with `stop`.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, instances: Arc<Instances>, stop: CancellationToken) -> Self {
        Self {
            cluster,
            instances,
            workloads: BTreeMap::new(),
            pods: BTreeMap::new(),
            due: BinaryHeap::new(),
            random: Random::new(rand::random(), "world"),
            ids: 0,
            began: Instant::now(),
            stop,
        }
    }

    /// Goes on until it is stopped.
    pub async fn run(mut self) {
        let mut changed = self.cluster.changes();
        let mut calm = tokio::time::interval(CALM);
        loop {
            changed.borrow_and_update();
            self.step();
            let next = self.due.peek().map_or(CALM, |Reverse((at, ..))| {
                Duration::from_millis(u64::try_from(at - self.now()).unwrap_or(0))
            });
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = changed.changed() => {}
                () = tokio::time::sleep(next) => {}
                _ = calm.tick() => {}
            }
        }
    }

    /// Milliseconds since the world began.
    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn step(&mut self) {
        let now = self.now();
        while self.due.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, pod, workload, turn))) = self.due.pop() else {
                break;
            };
            if let Some(known) = self.workloads.get_mut(&workload) {
                let turns = known.turn(pod, turn, false, &mut self.random);
                self.later(&workload, turns, false);
            }
        }
        let cluster = Arc::clone(&self.cluster);
        cluster.with(|store| {
            self.reconcile_all(store, now);
            self.write_pods(store);
            write_endpoints(store, &self.pods, &self.workloads);
            accept_routes(store);
            collect_garbage(store);
        });
        cluster.prune_events(MOST_EVENTS, Timestamp::now());
    }

    /// Notes what happens to pods later. A pod that just starts takes about half a second here, one that goes has a second to finish.
    fn later(&mut self, workload: &ObjectRef, turns: Turns, starting: bool) {
        let now = self.now();
        for (pod, delay, turn) in turns {
            let delay = match turn {
                Turn::Ready(true) if starting && delay <= 6_000 => 350 + delay % 400,
                Turn::Ready(_) => delay,
                Turn::Gone => 1_000 + delay,
            };
            self.due
                .push(Reverse((now + delay, pod, workload.clone(), turn)));
        }
    }

    fn reconcile_all(&mut self, store: &mut Store, now: i64) {
        let mut objects: BTreeMap<ObjectRef, Arc<Object>> = BTreeMap::new();
        for kind in &WORKLOADS {
            for (name, _, object) in store.of_kind(kind) {
                objects.insert(name.clone(), Arc::clone(object));
            }
        }
        let gone: Vec<ObjectRef> = self
            .workloads
            .keys()
            .filter(|name| !objects.contains_key(name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(workload) = self.workloads.get_mut(&name) {
                let turns = workload.abandon(&mut self.random);
                let empty = workload.pods.is_empty();
                self.later(&name, turns, false);
                if empty {
                    self.workloads.remove(&name);
                }
            }
        }
        for (name, object) in &objects {
            let nodes = (name.kind == kinds::DAEMON_SET).then_some(NODES);
            let workload = self
                .workloads
                .entry(name.clone())
                .or_insert_with(|| Workload::new(Deployment::Target, nodes));
            // A pod that somebody deleted is replaced, and has its second to finish.
            let mut turns = Turns::new();
            for pod in workload.pods.iter_mut().filter(|pod| !pod.stopping) {
                let deleted = self.pods.get(&pod.id).is_some_and(|record| {
                    let object = kinds::POD.named(&name.namespace, &record.name);
                    store.get(&object).is_none_or(|object| object.is_deleting())
                });
                if deleted {
                    pod.stopping = true;
                    turns.push((pod.id, 1_000, Turn::Gone));
                }
            }
            turns.extend(workload.reconcile(object, now, &mut self.ids, &mut self.random));
            let written = store.change_status(name, &Expect::Any, Hand::Cluster, |status| {
                let stamp = |at: i64| {
                    let ago = Duration::from_millis(u64::try_from(now - at).unwrap_or(0));
                    let at = Timestamp::now()
                        .checked_sub(ago)
                        .unwrap_or(Timestamp::UNIX_EPOCH);
                    whole_seconds(at)
                };
                // Only what is said anew gets a new time: a status that says the same stays as it is.
                let before = status.clone();
                workload.write_status(object, status, now, &stamp);
                if same_but_for_times(&before, status) {
                    *status = before;
                }
            });
            if let Err(refusal) = written {
                tracing::debug!(?refusal, object = %name, "no status");
            }
            self.later(name, turns, true);
        }
    }

    /// Brings pods and the apps behind them to what the workloads say.
    fn write_pods(&mut self, store: &mut Store) {
        let now = Timestamp::now();
        let mut living = BTreeSet::new();
        for (name, workload) in &self.workloads {
            let owner = store.get(name).cloned();
            for pod in &workload.pods {
                living.insert(pod.id);
                if !self.pods.contains_key(&pod.id) {
                    let Some(owner) = &owner else { continue };
                    let record = new_pod(store, name, owner, pod.id, now);
                    start(&self.instances, owner, &record, pod.id, pod.nature);
                    self.pods.insert(pod.id, record);
                }
                let Some(record) = self.pods.get_mut(&pod.id) else {
                    continue;
                };
                record.was_ready |= pod.ready;
                record.stopping = pod.stopping;
                let crashed = pod.nature == Nature::Crash && record.was_ready;
                let object = kinds::POD.named(&name.namespace, &record.name);
                let _ = store.change(&object, &Expect::Any, Hand::Cluster, now, |value| {
                    if pod.stopping && value["metadata"]["deletionTimestamp"].is_null() {
                        value["metadata"]["deletionTimestamp"] = json!(whole_seconds(now));
                    }
                    pod_status(value, &record.ip, pod.ready, crashed, now);
                    Ok(())
                });
            }
        }
        let gone: Vec<u64> = self
            .pods
            .keys()
            .filter(|id| !living.contains(id))
            .copied()
            .collect();
        for id in gone {
            if let Some(record) = self.pods.remove(&id) {
                let name = kinds::POD.named(&record.workload.namespace, &record.name);
                let _ = store.delete(&name, &Expect::Any, Hand::Cluster, now);
            }
            if let Some(instance) = self.instances.lock().remove(&id) {
                instance.stop.cancel();
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for instance in self.instances.lock().values() {
            instance.stop.cancel();
        }
    }
}

/// Whether two statuses differ in nothing but when they were written.
fn same_but_for_times(one: &Value, other: &Value) -> bool {
    let timeless = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            if let Some(condition) = condition.as_object_mut() {
                condition.remove("lastUpdateTime");
                condition.remove("lastTransitionTime");
            }
        }
        if status["conditions"].is_null()
            && let Some(status) = status.as_object_mut()
        {
            status.remove("conditions");
        }
        status
    };
    timeless(one) == timeless(other)
}

/// The characters of generated names.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A number as so many characters that look like Kubernetes' own.
fn suffix(mut number: u64, length: usize) -> String {
    // Neighbours shall not look alike.
    number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8;
    (0..length)
        .map(|_| {
            let letter = LETTERS[usize::try_from(number % LETTERS.len() as u64).unwrap_or(0)];
            number /= LETTERS.len() as u64;
            char::from(letter)
        })
        .collect()
}

fn new_pod(
    store: &mut Store,
    workload: &ObjectRef,
    owner: &Object,
    id: u64,
    now: Timestamp,
) -> PodRecord {
    let template = owner.at("/spec/template");
    let hash = short_digest(template);
    let name = if workload.kind == kinds::DAEMON_SET {
        format!("{}-{}", workload.name, suffix(id, 5))
    } else {
        format!("{}-{:.10}-{}", workload.name, hash, suffix(id, 5))
    };
    let ip = format!("10.244.{}.{}", id / 250, id % 250 + 1);
    let mut labels = template["metadata"]["labels"].clone();
    labels["pod-template-hash"] = json!(format!("{hash:.10}"));
    let mut spec = template["spec"].clone();
    spec["nodeName"] = json!("simulated");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": workload.namespace, "labels": labels,
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": [{
                "apiVersion": owner.api_version(), "kind": owner.kind(), "name": owner.name(), "uid": owner.uid(),
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": spec,
        "status": {"phase": "Pending"},
    });
    let reference = kinds::POD.named(&workload.namespace, &name);
    let _ = store.create(&reference, pod, Hand::Cluster, now);
    PodRecord {
        workload: workload.clone(),
        name,
        ip,
        labels,
        was_ready: false,
        stopping: false,
    }
}

fn pod_status(pod: &mut Value, ip: &str, ready: bool, crashed: bool, now: Timestamp) {
    let down = crashed && !ready;
    let state = if down {
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}})
    } else {
        json!({"running": {"startedAt": pod["metadata"]["creationTimestamp"]}})
    };
    let statuses: Vec<Value> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| {
            let mut status = json!({
                "name": container["name"], "image": container["image"], "ready": ready, "started": !down,
                "restartCount": i32::from(crashed), "state": state,
            });
            if crashed {
                status["lastState"] = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
            }
            status
        })
        .collect();
    let flag = if ready { "True" } else { "False" };
    let old = &pod["status"]["conditions"][0];
    let since = if old["status"] == flag {
        old["lastTransitionTime"].clone()
    } else {
        json!(whole_seconds(now))
    };
    pod["status"] = json!({
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "127.0.0.1",
        "conditions": [
            {"type": "Ready", "status": flag, "lastTransitionTime": since},
            {"type": "ContainersReady", "status": flag, "lastTransitionTime": since},
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": pod["metadata"]["creationTimestamp"]},
        ],
        "containerStatuses": statuses,
    });
}

/// Starts the app behind a pod. What it does is what its image's tag and its environment say, as in the demo on a real cluster.
fn start(instances: &Instances, owner: &Object, record: &PodRecord, id: u64, nature: Nature) {
    let container = owner.at("/spec/template/spec/containers/0");
    let variable = |name: &str| {
        container["env"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["name"] == name)
            .and_then(|one| one["value"].as_str())
            .unwrap_or_default()
    };
    let image = container["image"].as_str().unwrap_or_default();
    let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    let version = if tag.is_empty() {
        variable("VERSION")
    } else {
        tag
    };
    let mut error_rate = app::parse_rate(variable("ERROR_RATE")).unwrap_or(0.0);
    if nature == Nature::Bad && error_rate == 0.0 {
        error_rate = 0.05;
    }
    let behaviour = Behaviour {
        version: version.to_owned(),
        pod: record.name.clone(),
        error_rate,
        delay: Duration::from_millis(variable("DELAY_MS").parse().unwrap_or(0).min(5_000)),
        never_ready: nature == Nature::Never,
    };
    match launch(&behaviour) {
        Ok((address, stop)) => {
            instances.lock().insert(
                id,
                Instance {
                    namespace: record.workload.namespace.clone(),
                    pod: record.name.clone(),
                    ip: record.ip.clone(),
                    address,
                    stop,
                },
            );
        }
        Err(error) => tracing::warn!(pod = record.name, error, "the app can't be started"),
    }
}

fn launch(behaviour: &Behaviour) -> Result<(SocketAddr, CancellationToken), String> {
    let app = App::new(behaviour).map_err(|error| error.to_string())?;
    let listener =
        std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    listener
        .set_nonblocking(true)
        .map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let listener =
        tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())?;
    let stop = CancellationToken::new();
    let leave = stop.clone().cancelled_owned();
    tokio::spawn(app::serve(Arc::new(app), listener, leave, Duration::ZERO));
    Ok((address, stop))
}

/// One slice for each Service, with all pods that it selects.
fn write_endpoints(
    store: &mut Store,
    pods: &BTreeMap<u64, PodRecord>,
    workloads: &BTreeMap<ObjectRef, Workload>,
) {
    let now = Timestamp::now();
    let services: Vec<(ObjectRef, Arc<Object>)> = store
        .of_kind(&kinds::SERVICE)
        .map(|(name, _, object)| (name.clone(), Arc::clone(object)))
        .collect();
    for (name, service) in services {
        let selector = service.string_map("/spec/selector");
        if selector.is_empty() {
            continue;
        }
        let endpoints: Vec<Value> = pods
            .iter()
            .filter(|(_, record)| {
                record.workload.namespace == name.namespace
                    && selector
                        .iter()
                        .all(|(key, value)| record.labels[key.as_str()] == value.as_str())
            })
            .map(|(id, record)| {
                let serving = workloads
                    .get(&record.workload)
                    .is_some_and(|workload| workload.answers(*id));
                json!({
                    "addresses": [record.ip],
                    "conditions": {"ready": serving && !record.stopping, "serving": serving, "terminating": record.stopping},
                    "nodeName": "simulated",
                    "targetRef": {"kind": "Pod", "name": record.name, "namespace": name.namespace},
                })
            })
            .collect();
        let ports: Vec<Value> = service
            .at("/spec/ports")
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| {
                let target = match &port["targetPort"] {
                    Value::Number(_) => port["targetPort"].clone(),
                    _ => port["port"].clone(),
                };
                json!({"name": port["name"].as_str().unwrap_or_default(), "port": target, "protocol": "TCP"})
            })
            .collect();
        let slice = kinds::ENDPOINT_SLICE.named(&name.namespace, &format!("{}-sim", name.name));
        if store.get(&slice).is_some() {
            let _ = store.change(&slice, &Expect::Any, Hand::Cluster, now, |value| {
                value["endpoints"] = json!(endpoints);
                value["ports"] = json!(ports);
                Ok(())
            });
        } else {
            let value = json!({
                "apiVersion": kinds::ENDPOINT_SLICE.api_version(), "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "name": slice.name, "namespace": slice.namespace,
                    "labels": {"kubernetes.io/service-name": name.name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name.name, "uid": service.uid(), "controller": true}],
                },
                "endpoints": endpoints, "ports": ports,
            });
            let _ = store.create(&slice, value, Hand::Cluster, now);
        }
    }
}

/// The gateway's controller accepts every route for each parent that there is.
fn accept_routes(store: &mut Store) {
    let routes: Vec<(ObjectRef, Arc<Object>)> = store
        .of_kind(&kinds::HTTP_ROUTE)
        .map(|(name, _, object)| (name.clone(), Arc::clone(object)))
        .collect();
    for (name, route) in routes {
        let parents: Vec<Value> = route
            .at("/spec/parentRefs")
            .as_array()
            .into_iter()
            .flatten()
            .map(|parent| {
                let namespace = parent["namespace"].as_str().unwrap_or(&name.namespace);
                let gateway = GATEWAY.named(namespace, parent["name"].as_str().unwrap_or_default());
                let (state, reason) = if store.get(&gateway).is_some() {
                    ("True", "Accepted")
                } else {
                    ("False", "NoMatchingParent")
                };
                let condition = |of_type: &str, state: &str, reason: &str| {
                    let old = route
                        .at("/status/parents")
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter(|entry| entry["parentRef"] == *parent)
                        .flat_map(|entry| entry["conditions"].as_array().into_iter().flatten())
                        .find(|one| one["type"] == of_type && one["status"] == state);
                    json!({
                        "type": of_type, "status": state, "reason": reason, "message": "", "observedGeneration": route.generation(),
                        "lastTransitionTime": old.map_or_else(
                            || json!(whole_seconds(Timestamp::now())),
                            |old| old["lastTransitionTime"].clone(),
                        ),
                    })
                };
                json!({
                    "parentRef": parent, "controllerName": "demo.serin.dev/gateway",
                    "conditions": [condition("Accepted", state, reason), condition("ResolvedRefs", "True", "ResolvedRefs")],
                })
            })
            .collect();
        let _ = store.change_status(&name, &Expect::Any, Hand::Cluster, |status| {
            status["parents"] = json!(parents);
        });
    }
}

/// What belongs only to objects that are gone goes too.
fn collect_garbage(store: &mut Store) {
    let living: BTreeSet<&str> = store.all().map(|(_, object)| object.uid()).collect();
    let orphans: Vec<ObjectRef> = store
        .all()
        .filter(|(_, object)| {
            object
                .at("/metadata/ownerReferences")
                .as_array()
                .is_some_and(|owners| {
                    !owners.is_empty()
                        && owners.iter().all(|owner| {
                            !living.contains(owner["uid"].as_str().unwrap_or_default())
                        })
                })
        })
        // Pods go with their workload, after the time that they have to finish.
        .filter(|(name, _)| name.kind != kinds::POD)
        .map(|(name, _)| name.clone())
        .collect();
    for name in orphans {
        let _ = store.delete(&name, &Expect::Any, Hand::Cluster, Timestamp::now());
    }
}

/// Creates what the cluster has from its first moment.
pub fn furnish(cluster: &Cluster, namespaces: &[&str], gateway: (&str, &str)) {
    let now = Timestamp::now();
    cluster.with(|store| {
        let mut make = |kind: &Kind, namespace: &str, name: &str, more: Value| {
            let mut value = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name}});
            if !namespace.is_empty() {
                value["metadata"]["namespace"] = json!(namespace);
            }
            if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
                value.extend(more);
            }
            let _ = store.create(&kind.named(namespace, name), value, Hand::Cluster, now);
        };
        for namespace in namespaces {
            make(
                &super::apiserver::NAMESPACE,
                "",
                namespace,
                json!({"status": {"phase": "Active"}}),
            );
        }
        make(
            &GATEWAY,
            gateway.0,
            gateway.1,
            json!({"spec": {"gatewayClassName": "serin-demo", "listeners": [{"name": "web", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}]}}),
        );
    });
}
