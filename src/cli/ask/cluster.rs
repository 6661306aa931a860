//! What the asking commands need of a cluster: the Canaries that the flags name, what stands around one, and a place to leave a word. By the
//! user's own kubeconfig and rights.

use super::detail::{Surroundings, Workload, event_time};
use crate::api::{Canary, TargetKind};
use crate::object::{Kind, Object, kinds};
use crate::workload;
use anyhow::{Context, anyhow};
use clap::Args;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::path::PathBuf;

/// How kubectl is told whom to ask; the same here.
#[derive(Clone, Debug, Default, Args)]
pub struct KubeFlags {
    /// Path to a kubeconfig. Default: $KUBECONFIG, ~/.kube/config, or the service account of the pod.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use.
    #[arg(long)]
    pub context: Option<String>,
    /// The namespace. Default: that of the context.
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
}

/// The connection.
pub struct Cluster {
    client: Client,
    pub namespace: String,
}

impl Cluster {
    /// Reads the kubeconfig; no request is made yet.
    pub async fn connect(flags: &KubeFlags) -> anyhow::Result<Self> {
        let options = KubeConfigOptions {
            context: flags.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match &flags.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .with_context(|| format!("--kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .with_context(|| format!("--kubeconfig {}", path.display()))?
            }
            None if flags.context.is_some() => Config::from_kubeconfig(&options)
                .await
                .context("the context can't be used")?,
            None => Config::infer().await.context(
                "no kubeconfig and no service account: give one with --kubeconfig or $KUBECONFIG",
            )?,
        };
        config.connect_timeout = Some(std::time::Duration::from_secs(10));
        let namespace = flags
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("the client can't be made")?;
        Ok(Self { client, namespace })
    }

    /// The same cluster, another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            client: self.client.clone(),
            namespace: namespace.to_owned(),
        }
    }

    fn api(&self, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = resource(kind);
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    /// The Canaries of the namespace, for watching.
    pub fn canaries(&self) -> Api<DynamicObject> {
        self.api(&kinds::CANARY, &self.namespace)
    }

    /// Canaries by name, or all of them with these labels; `everywhere` looks in all namespaces. Sorted by namespace and name.
    pub async fn find(
        &self,
        names: &[String],
        selector: Option<&str>,
        everywhere: bool,
    ) -> anyhow::Result<Vec<Value>> {
        if !names.is_empty() {
            let mut found = Vec::new();
            for name in names {
                found.push(self.canary(name).await?);
            }
            return Ok(found);
        }
        let namespace = if everywhere { "" } else { &self.namespace };
        let mut list = self.list(&kinds::CANARY, namespace, selector, None).await?;
        list.sort_by_key(|one| (one.namespace().to_owned(), one.name().to_owned()));
        Ok(list.into_iter().map(Object::into_value).collect())
    }

    /// One Canary.
    pub async fn canary(&self, name: &str) -> anyhow::Result<Value> {
        let object = self.canaries().get(name).await.map_err(|error| {
            told(&error).context(format!("canary {name} in namespace {}", self.namespace))
        })?;
        Ok(whole(&object, &kinds::CANARY).into_value())
    }

    async fn list(
        &self,
        kind: &Kind,
        namespace: &str,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> anyhow::Result<Vec<Object>> {
        let mut parameters = ListParams::default();
        if let Some(labels) = labels {
            parameters = parameters.labels(labels);
        }
        if let Some(fields) = fields {
            parameters = parameters.fields(fields);
        }
        let list = self
            .api(kind, namespace)
            .list(&parameters)
            .await
            .map_err(|error| told(&error).context(format!("listing {}", kind.plural)))?;
        Ok(list
            .items
            .iter()
            .map(|object| whole(object, kind))
            .collect())
    }

    async fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Object> {
        let object = self.api(kind, namespace).get_opt(name).await.ok()??;
        Some(whole(&object, kind))
    }

    /// The target of a Canary; `None` where it can't be read or is of a kind without pods.
    pub async fn target(&self, canary: &Canary) -> Option<Object> {
        let kind = workload_kind(canary)?;
        self.get(&kind, &canary.metadata.namespace, canary.target_name())
            .await
    }

    /// What stands around a Canary. What can't be read is left out: the screen shows what it can.
    pub async fn surroundings(&self, canary: &Canary) -> Surroundings {
        let (primary, target, events) = tokio::join!(
            self.side(canary, canary.primary_name()),
            self.side(canary, canary.target_name().to_owned()),
            self.events(canary),
        );
        Surroundings {
            primary,
            canary: target,
            events,
        }
    }

    async fn side(&self, canary: &Canary, name: String) -> Workload {
        let namespace = &canary.metadata.namespace;
        let Some(kind) = workload_kind(canary) else {
            return Workload::default();
        };
        let object = self.get(&kind, namespace, &name).await;
        let selector = object.as_ref().map(|object| {
            object
                .string_map("/spec/selector/matchLabels")
                .into_iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(",")
        });
        let mut pods = match &selector {
            Some(selector) if !selector.is_empty() => self
                .list(&kinds::POD, namespace, Some(selector), None)
                .await
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        pods.sort_by_key(|pod| (pod.is_deleting(), pod.name().to_owned()));
        Workload { object, pods }
    }

    async fn events(&self, canary: &Canary) -> Vec<Object> {
        const EVENT: Kind = Kind::namespaced("", "v1", "Event", "events");
        let fields = format!(
            "involvedObject.kind=Canary,involvedObject.name={}",
            canary.metadata.name
        );
        let mut events = self
            .list(&EVENT, &canary.metadata.namespace, None, Some(&fields))
            .await
            .unwrap_or_default();
        events.sort_by_key(event_time);
        events
    }

    /// Sets an annotation of a Canary and gives the Canary back.
    pub async fn annotate(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
        value: &str,
    ) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        let parameters = PatchParams {
            field_manager: Some("serin-cli".to_owned()),
            ..PatchParams::default()
        };
        self.api(&kinds::CANARY, namespace)
            .patch(name, &parameters, &Patch::Merge(patch))
            .await
            .map_err(|error| {
                told(&error).context(format!("canary {name} in namespace {namespace}"))
            })?;
        Ok(())
    }

    /// Who we are to the API server; the name of the local user where it does not say.
    pub async fn whoami(&self) -> String {
        const REVIEW: Kind = Kind {
            group: std::borrow::Cow::Borrowed("authentication.k8s.io"),
            version: std::borrow::Cow::Borrowed("v1"),
            kind: std::borrow::Cow::Borrowed("SelfSubjectReview"),
            plural: std::borrow::Cow::Borrowed("selfsubjectreviews"),
            namespaced: false,
        };
        let asked = DynamicObject::new("", &resource(&REVIEW));
        let answer = self
            .api(&REVIEW, "")
            .create(&PostParams::default(), &asked)
            .await;
        answer
            .ok()
            .and_then(|review| {
                review.data["status"]["userInfo"]["username"]
                    .as_str()
                    .map(str::to_owned)
            })
            .or_else(|| std::env::var("USER").ok())
            .unwrap_or_default()
    }
}

/// The kind of a target that has pods.
fn workload_kind(canary: &Canary) -> Option<Kind> {
    match canary.spec.target_ref.target_kind() {
        TargetKind::Deployment => Some(kinds::DEPLOYMENT),
        TargetKind::DaemonSet => Some(kinds::DAEMON_SET),
        TargetKind::Service | TargetKind::Knative => None,
    }
}

/// The revision that the target carries, as the controller would hash it.
pub fn revision_of(canary: &Canary, target: &Object) -> String {
    let kind = workload::target_of(canary);
    workload::revision_hash(&kind.template(target))
}

fn resource(kind: &Kind) -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(&kind.group, &kind.version, &kind.kind),
        &kind.plural,
    )
}

/// The object as JSON with its kind, which items of a list lack.
pub fn whole(object: &DynamicObject, kind: &Kind) -> Object {
    let mut value = json!(object);
    value["apiVersion"] = Value::String(kind.api_version());
    value["kind"] = Value::String(kind.kind.to_string());
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    Object::new(value)
}

/// An error of the API in its own words, with what to do about it where that is known.
fn told(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status)
            if status.code == 404
                && status
                    .message
                    .contains("could not find the requested resource") =>
        {
            anyhow!(
                "the cluster does not know canaries.flagger.app; install them with: serin crd | kubectl apply --server-side -f -"
            )
        }
        kube::Error::Api(status) => anyhow!("{}", status.message),
        other => anyhow!("the cluster can't be reached: {other}"),
    }
}
