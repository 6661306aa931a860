//! A kubelet without containers: it binds pods to the one node, runs each container's program as a process bound to the
//! pod's own address, probes its readiness, restarts it, ends it as the API asks, and reports all that in the pod's status.
//!
//! An image is a name in [`PROGRAMS`]; its tag is the version. An image that is not there is only reported ready, without
//! any process, so that thousands of pods cost little. An image with the tag `missing` can never be pulled.
mod container;
mod environment;
mod status;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use self::container::{Container, Stop};
use crate::bed::parts::NODE_ADDRESS;

/// The only node.
pub const NODE: &str = "node-0";
/// Images whose tag is this can never be pulled.
const MISSING: &str = "missing";
/// Requests to the API server at a time.
const PARALLEL_REQUESTS: usize = 64;
/// What pods can be scheduled by.
const NODE_LABELS: [(&str, &str); 3] = [
    ("kubernetes.io/hostname", NODE),
    ("kubernetes.io/os", "linux"),
    ("kubernetes.io/arch", "amd64"),
];

/// Image name (without registry and tag), program beside this one, first arguments, and whether it talks to the API
/// server, in which case it finds its service account where pods do.
const PROGRAMS: [(&str, &str, &[&str], bool); 4] = [
    ("serin-demo-app", "serin-e2e", &["demo-app"], false),
    ("serin-load", "serin-e2e", &["load"], false),
    ("serin-loadtester", "serin", &["loadtester"], false),
    ("serin", "serin", &[], true),
];

/// Variable that names another build of `serin` to run in pods, such as the one of the image.
const OTHER_PROGRAM: &str = "SERIN_BED_PROGRAM";

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// With the rights of a kubelet
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The bed's state folder, where pods log
    #[arg(long)]
    state: PathBuf,
}

/// What all pods share.
pub(crate) struct Kubelet {
    client: Client,
    http: reqwest::Client,
    state: PathBuf,
    requests: Semaphore,
    addresses: Mutex<Addresses>,
}

/// Hands out pod addresses; each is used once until the range is through.
#[derive(Default)]
struct Addresses {
    next: u16,
    taken: HashSet<Ipv4Addr>,
}

impl Addresses {
    fn take(&mut self) -> Option<Ipv4Addr> {
        for _ in 0..=u16::MAX {
            self.next = self.next.wrapping_add(1);
            let [high, low] = self.next.to_be_bytes();
            let address = Ipv4Addr::new(10, 244, high, low);
            // 10.244.255.x is the node's; .0 and .255 look like networks to some programs.
            if high != 255 && low != 0 && low != 255 && self.taken.insert(address) {
                return Some(address);
            }
        }
        None
    }
}

/// What an image stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image {
    Missing,
    /// No process; ready at once.
    Nothing,
    Program {
        path: PathBuf,
        arguments: Vec<OsString>,
        version: String,
        talks_to_api: bool,
    },
}

impl Image {
    fn of(image: &str) -> Result<Self> {
        let (name, version) = name_and_tag(image);
        if version == MISSING {
            return Ok(Self::Missing);
        }
        let Some((_, program, arguments, talks_to_api)) =
            PROGRAMS.into_iter().find(|(known, ..)| *known == name)
        else {
            return Ok(Self::Nothing);
        };
        let path = match std::env::var_os(OTHER_PROGRAM) {
            Some(other) if program == "serin" => other.into(),
            _ => std::env::current_exe()?.with_file_name(program),
        };
        Ok(Self::Program {
            path,
            arguments: arguments.iter().map(Into::into).collect(),
            version: version.to_owned(),
            talks_to_api,
        })
    }
}

/// `registry/path/name:tag@digest` to name and tag.
fn name_and_tag(image: &str) -> (&str, &str) {
    let image = image.split('@').next().unwrap_or(image);
    let last = image.rsplit('/').next().unwrap_or(image);
    last.rsplit_once(':').unwrap_or((last, "latest"))
}

/// Runs until SIGTERM, which ends all pods' processes.
pub async fn run(arguments: Arguments) -> Result<()> {
    let config = Kubeconfig::read_from(&arguments.kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let kubelet = Arc::new(Kubelet {
        client: Client::try_from(config)?,
        http: reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .build()?,
        state: arguments.state,
        requests: Semaphore::new(PARALLEL_REQUESTS),
        addresses: Mutex::default(),
    });
    kubelet.register_node().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = kubelet.watch_pods() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

impl Kubelet {
    async fn register_node(&self) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let labels: HashMap<&str, &str> = NODE_LABELS.into_iter().collect();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}});
        nodes
            .patch(
                NODE,
                &PatchParams::apply("kubelet").force(),
                &Patch::Apply(node),
            )
            .await?;
        // The API server taints a new node as not ready; the controller that would lift this does not run here.
        nodes
            .patch(
                NODE,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": {"taints": null}})),
            )
            .await?;
        let now = Timestamp::now().to_string();
        let resources = json!({"cpu": "1000", "memory": "1000Gi", "pods": "60000"});
        let status = json!({"status": {
            "capacity": resources, "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Bed", "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }});
        nodes
            .patch_status(NODE, &PatchParams::default(), &Patch::Merge(status))
            .await?;
        Ok(())
    }

    async fn watch_pods(self: &Arc<Self>) {
        let mut events = watcher(
            Api::<Pod>::all(self.client.clone()),
            watcher::Config::default(),
        )
        .default_backoff()
        .boxed();
        let mut lives: HashMap<String, watch::Sender<Option<Pod>>> = HashMap::new();
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.extend(pod.uid());
                    self.see(pod, &mut lives);
                }
                Ok(watcher::Event::InitDone) => lives.retain(|uid, life| {
                    let stays = listed.contains(uid);
                    if !stays {
                        let _ = life.send(None);
                    }
                    stays
                }),
                Ok(watcher::Event::Apply(pod)) => self.see(pod, &mut lives),
                Ok(watcher::Event::Delete(pod)) => {
                    if let Some(life) = pod.uid().and_then(|uid| lives.remove(&uid)) {
                        let _ = life.send(None);
                    }
                }
                Err(error) => tracing::warn!(%error, "watching pods"),
            }
        }
    }

    fn see(self: &Arc<Self>, pod: Pod, lives: &mut HashMap<String, watch::Sender<Option<Pod>>>) {
        let Some(uid) = pod.uid() else { return };
        if let Some(address) = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_ref())
            .and_then(|ip| ip.parse().ok())
        {
            self.addresses
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .taken
                .insert(address);
        }
        if let Some(life) = lives.get(&uid) {
            let _ = life.send(Some(pod));
            return;
        }
        if !is_for_this_node(&pod) {
            return;
        }
        let (sender, latest) = watch::channel(Some(pod.clone()));
        lives.insert(uid, sender);
        let kubelet = Arc::clone(self);
        tokio::spawn(async move {
            let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
            if let Err(error) = kubelet.live(pod, latest).await {
                tracing::error!(pod = name, "{error:#}");
            }
        });
    }

    /// One pod from its binding to its end.
    #[allow(
        clippy::too_many_lines,
        reason = "one life from binding to deletion, told in order"
    )]
    async fn live(
        self: &Arc<Self>,
        pod: Pod,
        mut latest: watch::Receiver<Option<Pod>>,
    ) -> Result<()> {
        let pods =
            Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let spec = pod.spec.clone().context("a pod without spec")?;
        if spec.node_name.is_none() && pod.metadata.deletion_timestamp.is_none() {
            self.bind(&pods, &pod.name_any()).await?;
        }
        let known = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_ref())
            .and_then(|ip| ip.parse().ok());
        let address = match known {
            Some(address) => address,
            None => self
                .addresses
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
                .context("no pod address is left in the range")?,
        };

        let (stop, stopped) = watch::channel(None);
        let (states, mut changed) = mpsc::unbounded_channel();
        let mut current = Vec::new();
        let mut tasks = tokio::task::JoinSet::new();
        for (index, container) in spec.containers.iter().enumerate() {
            let image = Image::of(container.image.as_deref().unwrap_or_default())?;
            current.push(container::Report::first(&image));
            if let (Image::Program { .. }, None) = (&image, &pod.metadata.deletion_timestamp) {
                let container = Container::new(
                    Arc::clone(self),
                    pod.clone(),
                    container.clone(),
                    image,
                    address,
                );
                tasks.spawn(container.run(index, states.clone(), stopped.clone()));
            }
        }
        drop(states);

        let started = Timestamp::now();
        let mut written = None;
        let mut transitions = status::Transitions::default();
        let deleted = loop {
            // Deletion may have come with the very first sight of the pod.
            match latest.borrow_and_update().as_ref() {
                None => break None,
                Some(pod) if pod.metadata.deletion_timestamp.is_some() => break Some(pod.clone()),
                Some(_) => {}
            }
            let seen_now = status::of(&spec, &current, address, started, &mut transitions);
            if written.as_ref() != Some(&seen_now) {
                if let Err(error) = self.write_status(&pods, &pod.name_any(), &seen_now).await {
                    tracing::warn!(pod = pod.name_any(), %error, "writing status");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                } else {
                    written = Some(seen_now);
                }
                continue;
            }
            tokio::select! {
                report = changed.recv(), if !tasks.is_empty() => match report {
                    Some((index, report)) => current[index] = report,
                    // Every container has ended for good.
                    None => while tasks.join_next().await.is_some() {},
                },
                seen = latest.changed() => if seen.is_err() { break None },
            }
        };

        let grace = deleted
            .as_ref()
            .and_then(|pod| pod.metadata.deletion_grace_period_seconds)
            .unwrap_or(0);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let _ = stop.send(Some(Stop {
            deadline: Instant::now() + grace,
        }));
        let mut telling = true;
        loop {
            tokio::select! {
                ended = tasks.join_next() => if ended.is_none() { break },
                report = changed.recv(), if telling && deleted.is_some() => match report {
                    Some((index, report)) => {
                        current[index] = report;
                        let seen_now = status::of(&spec, &current, address, started, &mut transitions);
                        if let Err(error) = self.write_status(&pods, &pod.name_any(), &seen_now).await {
                            tracing::warn!(pod = pod.name_any(), %error, "writing the status of a pod that ends");
                        }
                    }
                    None => telling = false,
                },
                // A forced deletion takes away what grace was left.
                _ = latest.changed(), if deleted.is_some() => if latest.borrow_and_update().is_none() {
                    tasks.shutdown().await;
                    break;
                },
            }
        }
        let _ = std::fs::remove_dir_all(self.pod_folder(&pod));
        if deleted.is_some() {
            self.delete(&pods, &pod).await?;
        }
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .taken
            .remove(&address);
        Ok(())
    }

    async fn bind(&self, pods: &Api<Pod>, name: &str) -> Result<()> {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}});
        let _permit = self.requests.acquire().await?;
        let bound: kube::Result<kube::core::Status> = pods
            .create_subresource("binding", name, &PostParams::default(), &binding)
            .await;
        match bound {
            // Bound or deleted by someone else meanwhile: the watch tells.
            Err(kube::Error::Api(answer)) if answer.code == 409 || answer.code == 404 => Ok(()),
            other => other.map(drop).context("binding to the node"),
        }
    }

    async fn write_status(
        &self,
        pods: &Api<Pod>,
        name: &str,
        status: &serde_json::Value,
    ) -> kube::Result<()> {
        let Ok(_permit) = self.requests.acquire().await else {
            return Ok(());
        };
        match pods
            .patch_status(
                name,
                &PatchParams::default(),
                &Patch::Merge(json!({ "status": status })),
            )
            .await
        {
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }

    async fn delete(&self, pods: &Api<Pod>, pod: &Pod) -> Result<()> {
        let preconditions = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let _permit = self.requests.acquire().await?;
        match pods.delete(&pod.name_any(), &params).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => Ok(()),
            other => other.map(drop).context("deleting the pod"),
        }
    }

    /// Where a pod's own files are.
    pub(crate) fn pod_folder(&self, pod: &Pod) -> PathBuf {
        self.state.join("pods").join(pod.uid().unwrap_or_default())
    }
}

/// Whether a pod is bound to this node or may be.
fn is_for_this_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    if let Some(node) = &spec.node_name {
        return node == NODE;
    }
    let selector = spec.node_selector.iter().flatten();
    selector.into_iter().all(|(label, value)| {
        NODE_LABELS
            .iter()
            .any(|(known, has)| known == label && has == value)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pod(yaml: &str) -> Pod {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn an_image_is_known_by_its_last_name_and_tag() {
        assert_eq!(
            name_and_tag("ghcr.io/some/serin-demo-app:1.2.0"),
            ("serin-demo-app", "1.2.0")
        );
        assert_eq!(
            name_and_tag("localhost:5000/serin@sha256:00"),
            ("serin", "latest")
        );
        assert_eq!(Image::of("anything:missing").unwrap(), Image::Missing);
        assert_eq!(Image::of("anything:1").unwrap(), Image::Nothing);
        assert!(
            matches!(Image::of("serin-demo-app:1.2.0").unwrap(), Image::Program { version, .. } if version == "1.2.0")
        );
    }

    #[test]
    fn a_selector_that_no_node_has_keeps_a_pod_waiting() {
        assert!(is_for_this_node(&pod(
            "{spec: {containers: [], nodeSelector: {kubernetes.io/os: linux}}}"
        )));
        assert!(!is_for_this_node(&pod(
            "{spec: {containers: [], nodeSelector: {flagger.app/scale-to-zero: 'true'}}}"
        )));
    }

    #[test]
    fn addresses_never_repeat_while_taken_and_keep_off_the_node() {
        let mut addresses = Addresses::default();
        let first = addresses.take().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 244, 0, 1));
        let mut count = 1;
        while let Some(address) = addresses.take() {
            assert_ne!(address, first);
            assert_ne!(address.octets()[2], 255);
            count += 1;
        }
        assert_eq!(count, 255 * 254);
        addresses.taken.remove(&first);
        assert_eq!(addresses.take(), Some(first));
    }

    #[test]
    fn a_state_that_waits_is_not_ready() {
        assert!(!container::Report::first(&Image::Missing).is_ready());
        assert!(matches!(
            container::Report::first(&Image::Nothing).state,
            container::State::Running { ready: true, .. }
        ));
    }
}
