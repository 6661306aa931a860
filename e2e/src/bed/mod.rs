//! A bed: a real API server, controllers, gateway and Prometheus in one network namespace, with what scenarios do to it.
//!
//! ```text
//!   serin-e2e run ── unshare ──▶ serin-e2e (inside: number 1, loopback of its own)
//!                                  ├─ etcd ◀─ kube-apiserver ◀─ kube-controller-manager
//!                                  ├─ kubelet ─▶ pods: processes bound to 10.244.x.y
//!                                  ├─ prometheus ─▶ scrapes pods and gateway
//!                                  ├─ traefik 127.0.0.1:8000 ─▶ pods
//!                                  └─ serin (started by scenarios)
//! ```
//! Ports are fixed because each bed has a network of its own; beds run side by side. State is in `.bed/<name>/`: `logs/`, kubeconfigs,
//! `audit.log`. Everything ends when the bed's process ends: see [`namespace`].
pub mod audit;
pub mod namespace;
pub mod parts;
pub mod pki;
pub mod process;
pub mod timeline;
pub mod weather;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::Scope;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use self::audit::{Audit, AuditMark};
use self::parts::Part;
use self::pki::{Pki, kubeconfig};
use self::process::{Process, Program};
use self::timeline::Timeline;
use crate::figures::Book;
use crate::tools::{self, Tools, project_root};

/// How long a part may take to be ready before the bed gives up on it. Generous: builds may share the machine.
const PART_PATIENCE: Duration = Duration::from_mins(2);
/// How often a condition is looked at while waiting for it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Good answers in a row that show every backend with at least 5 % of the traffic to be known to the gateway, whose split is
/// round robin.
const SERVED_IN_A_ROW: usize = 40;
/// Who the bed is to the API server's field ownership.
const FIELD_MANAGER: &str = "bed";
/// The policy of the Gateway API's standard channel against kinds of the experimental one.
const GUARD: &str = "safe-upgrades.gateway.networking.k8s.io";
/// The definition of a `TCPRoute`, which the standard channel of the Gateway API has not.
const TCP_ROUTES: &str = "experimental/gateway.networking.k8s.io_tcproutes.yaml";

/// What a bed should have.
#[derive(Debug, Clone)]
pub struct BedOptions {
    /// Name of its state folder, `.bed/<name>`; what was there from an earlier bed is removed.
    pub name: String,
    /// Gateway and Prometheus; scale tests do without.
    pub traffic: bool,
}

impl BedOptions {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            traffic: true,
        }
    }

    #[must_use]
    pub fn without_traffic(mut self) -> Self {
        self.traffic = false;
        self
    }
}

/// The state folder of a bed by that name.
pub fn state_folder(name: &str) -> Result<PathBuf> {
    Ok(project_root()?.join(".bed").join(name))
}

/// A bed that is up.
pub struct Bed {
    state: PathBuf,
    tools: Tools,
    pki: Pki,
    client: Client,
    http: reqwest::Client,
    parts: Mutex<BTreeMap<Part, Process>>,
    kinds: Mutex<HashMap<GroupVersionKind, (ApiResource, Scope)>>,
    serins: AtomicUsize,
    timeline: Timeline,
    figures: Book,
    second_gateway: OnceCell<()>,
    ingress_gateway: OnceCell<()>,
    envoy_gateway: OnceCell<()>,
}

impl Bed {
    /// Brings up a bed. Must be called inside a fresh namespace: see [`namespace::spawn_inside`].
    pub async fn start(options: &BedOptions, tools: Tools) -> Result<Self> {
        namespace::prepare_network()?;
        let state = state_folder(&options.name)?;
        clear(&state)?;
        let pki = Pki::make(&state)?;
        let client = client_of(&state, "admin").await?;
        let authority = reqwest::Certificate::from_pem(pki.authority_pem().as_bytes())?;
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .add_root_certificate(authority)
            .build()?;
        let timeline = Timeline::start(&client);
        let bed = Self {
            state,
            tools,
            pki,
            client,
            http,
            parts: Mutex::default(),
            kinds: Mutex::default(),
            serins: AtomicUsize::new(0),
            timeline,
            figures: Book::default(),
            second_gateway: OnceCell::new(),
            ingress_gateway: OnceCell::new(),
            envoy_gateway: OnceCell::new(),
        };
        bed.start_part(Part::Etcd).await?;
        bed.start_part(Part::ApiServer).await?;
        let traffic = async {
            if options.traffic {
                bed.start_part(Part::Prometheus).await
            } else {
                Ok(())
            }
        };
        futures::try_join!(
            bed.install_definitions(),
            bed.start_part(Part::ControllerManager),
            bed.start_part(Part::Kubelet),
            traffic
        )?;
        if options.traffic {
            bed.start_part(Part::Traefik).await?;
            bed.apply(include_str!("../../manifests/gateway.yaml"))
                .await?;
            bed.wait("the gateway to be programmed", PART_PATIENCE, async || {
                let gateway = bed
                    .get(
                        "gateway.networking.k8s.io/v1",
                        "Gateway",
                        "gateway",
                        "traefik",
                    )
                    .await?;
                Ok(has_condition(&gateway.data, "Programmed").then_some(()))
            })
            .await?;
        }
        Ok(bed)
    }

    /// Brings up the gateway `contour` beside the bed's own, unless it is up: Contour with Envoy, at [`parts::SECOND_GATEWAY`].
    pub async fn start_second_gateway(&self) -> Result<()> {
        let start = || self.bring_up_second_gateway();
        self.second_gateway.get_or_try_init(start).await.map(drop)
    }

    async fn bring_up_second_gateway(&self) -> Result<()> {
        let tools = tokio::task::spawn_blocking(tools::contour).await??;
        self.apply_file(&tools.definitions).await?;
        self.apply(include_str!("../../manifests/second-gateway.yaml"))
            .await?;
        self.start_part(Part::Contour).await?;
        self.start_part(Part::Envoy).await
    }

    /// Brings up Envoy Gateway with an Envoy as its proxy, unless it is up, at [`parts::ENVOY_GATEWAY`].
    pub async fn start_envoy_gateway(&self) -> Result<()> {
        let start = || self.bring_up_envoy_gateway();
        self.envoy_gateway.get_or_try_init(start).await.map(drop)
    }

    async fn bring_up_envoy_gateway(&self) -> Result<()> {
        let tools = tokio::task::spawn_blocking(tools::envoy_gateway).await??;
        self.apply_file(&tools.definitions).await?;
        self.allow_tcp_routes().await?;
        self.install_gateway_certificate().await?;
        self.apply(include_str!("../../manifests/envoy-gateway.yaml"))
            .await?;
        let output = tokio::process::Command::new(&tools.control_plane)
            .args(["certgen", "--disable-topology-injector"])
            .env("KUBECONFIG", self.kubeconfig(Part::EnvoyGateway.name()))
            .output()
            .await?;
        anyhow::ensure!(
            output.status.success(),
            "envoy-gateway certgen: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let folder = parts::envoy_gateway_folder(&self.state);
        let secrets = Api::<Secret>::namespaced(self.client(), "envoy-gateway-system");
        for (secret, to) in [("envoy-gateway", "certs"), ("envoy", "proxy")] {
            let files = secrets.get(secret).await?.data.unwrap_or_default();
            std::fs::create_dir_all(folder.join(to))?;
            for (name, bytes) in files {
                std::fs::write(folder.join(to).join(name), bytes.0)?;
            }
        }
        self.start_part(Part::EnvoyGateway).await?;
        self.start_part(Part::EnvoyGatewayProxy).await
    }

    /// The Secret that listeners of TLS name.
    async fn install_gateway_certificate(&self) -> Result<()> {
        let secret = self.pki.issued(pki::GATEWAY)?.secret("gateway", "bed");
        self.apply(&secret.to_string()).await
    }

    /// Defines the kind `TCPRoute` beside the standard channel, whose policy against that must go first. Before Envoy Gateway starts, which looks
    /// only then which kinds there are.
    async fn allow_tcp_routes(&self) -> Result<()> {
        self.api_of(
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicyBinding",
            "",
        )
        .await?
        .delete(GUARD, &DeleteParams::default())
        .await?;
        let definition = self.tools.gateway_api.join(TCP_ROUTES);
        self.wait("TCPRoutes to be allowed", PART_PATIENCE, async || {
            self.apply_file(&definition).await.map(Some)
        })
        .await
    }

    /// Brings up Istio beside the bed's own gateway: istiod with an Envoy as its gateway, at [`parts::ISTIO_GATEWAY`] and, for routes of
    /// the Gateway API, at [`parts::ISTIO_ROUTE_GATEWAY`].
    pub async fn start_istio(&self) -> Result<()> {
        self.install_istio_definitions().await?;
        self.apply(include_str!("../../manifests/istio.yaml"))
            .await?;
        self.start_part(Part::Istiod).await?;
        self.start_part(Part::IstioGateway).await
    }

    /// Brings up the proxy of a workload in Istio's mesh, at [`parts::ISTIO_SIDECAR`], once Istio is up.
    pub async fn start_istio_sidecar(&self) -> Result<()> {
        self.start_part(Part::IstioSidecar).await
    }

    /// Istio's custom resources.
    pub async fn install_istio_definitions(&self) -> Result<()> {
        let tools = tokio::task::spawn_blocking(tools::istio).await??;
        self.apply_file(&tools.definitions).await
    }

    /// Brings up a Traefik that reads Ingresses with nginx's annotations and Traefik's own resources, unless it is up, at
    /// [`parts::INGRESS_GATEWAY`].
    pub async fn start_ingress_gateway(&self) -> Result<()> {
        let start = || self.bring_up_ingress_gateway();
        self.ingress_gateway.get_or_try_init(start).await.map(drop)
    }

    /// Brings up a Traefik that reads its own resources and lets a Service without pods pass, at [`parts::LENIENT_GATEWAY`].
    pub async fn start_lenient_gateway(&self) -> Result<()> {
        self.start_ingress_gateway().await?;
        self.start_part(Part::TraefikLenient).await
    }

    async fn bring_up_ingress_gateway(&self) -> Result<()> {
        let file = tokio::task::spawn_blocking(tools::traefik_definitions).await??;
        self.apply_file(&file).await?;
        self.apply(include_str!("../../manifests/ingress-class.yaml"))
            .await?;
        self.start_part(Part::TraefikIngress).await
    }

    async fn apply_file(&self, file: &Path) -> Result<()> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        self.apply(&text).await
    }

    /// Custom resources and Serin's rights.
    async fn install_definitions(&self) -> Result<()> {
        let mut folders = vec![self.tools.gateway_api.join("standard")];
        let own = project_root()?.join("crds");
        folders.extend(
            std::env::var_os("SERIN_BED_CRDS")
                .map(PathBuf::from)
                .or(Some(own)),
        );
        let mut files = vec![self.tools.scaled_objects.clone()];
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            for file in std::fs::read_dir(folder)? {
                files.push(file?.path());
            }
        }
        let mut definitions = String::new();
        for file in files {
            if file
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                let text = std::fs::read_to_string(&file)
                    .with_context(|| format!("reading {}", file.display()))?;
                definitions.extend(["---\n", &text, "\n"]);
            }
        }
        self.apply(&definitions)
            .await
            .context("applying the definitions of the Gateway API, of KEDA and of Serin")?;
        self.apply(&self.serin_roles().await?)
            .await
            .context("applying the roles of Serin")
    }

    /// The roles that Serin says it needs, bound to the user `serin`: what is missing in its table is refused in every scenario.
    async fn serin_roles(&self) -> Result<String> {
        // Not the chart's name: Helm takes over nothing that it did not make.
        self.roles_for("bed-serin", "--user=serin").await
    }

    /// The same roles under a name, bound to whom an argument of `serin rbac` says.
    pub async fn roles_for(&self, name: &str, whom: &str) -> Result<String> {
        let output = tokio::process::Command::new(beside("serin")?)
            .args([
                "rbac",
                "--name",
                name,
                whom,
                "--leader-election-namespace=kube-system",
            ])
            .output()
            .await?;
        anyhow::ensure!(
            output.status.success(),
            "serin rbac: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A client with all rights.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where logs, kubeconfigs and the audit log are.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Certificates and keys of the users.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The kubeconfig of `admin`, or of `serin` with exactly Serin's rights.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        kubeconfig(&self.state, user)
    }

    fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// What happened so far.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// What the stories measured so far.
    #[must_use]
    pub fn figures(&self) -> &Book {
        &self.figures
    }

    // ---- parts

    /// Starts a part (again) and waits until it does its work.
    pub async fn start_part(&self, part: Part) -> Result<()> {
        let started = Instant::now();
        let process = Process::start(
            part.name(),
            &part.program(&self.tools, &self.pki, &self.state)?,
            &self.logs(),
        )?;
        if self.parts.lock().await.insert(part, process).is_some() {
            bail!(
                "{} was already running: stop it before starting it again",
                part.name()
            );
        }
        let mut last = None;
        while started.elapsed() < PART_PATIENCE {
            if let Some(process) = self.parts.lock().await.get_mut(&part) {
                process.expect_running()?;
            }
            match part.is_ready(&self.client, &self.http).await {
                Ok(true) => {
                    eprintln!(
                        "  {} ready after {:.1} s",
                        part.name(),
                        started.elapsed().as_secs_f64()
                    );
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let log = self.logs().join(format!("{}.log", part.name()));
        let last = last
            .map(|error| format!(" (last answer: {error:#})"))
            .unwrap_or_default();
        bail!(
            "{} is not ready after {PART_PATIENCE:?}{last}; its log, {}, ends with:\n{}",
            part.name(),
            log.display(),
            process::tail(&log)
        )
    }

    async fn take_part(&self, part: Part) -> Result<Process> {
        self.timeline
            .note("", format!("{} is being stopped", part.name()));
        self.parts
            .lock()
            .await
            .remove(&part)
            .with_context(|| format!("{} is not running", part.name()))
    }

    /// Ends a part with SIGTERM and waits until it is gone.
    pub async fn stop_part(&self, part: Part) -> Result<()> {
        self.take_part(part).await?.stop().await.map(drop)
    }

    /// Ends a part with SIGKILL.
    pub async fn kill_part(&self, part: Part) -> Result<()> {
        self.take_part(part).await?.kill9().await.map(drop)
    }

    /// SIGSTOP to a part: it neither answers nor closes its connections until [`Self::resume_part`].
    pub async fn freeze_part(&self, part: Part) -> Result<()> {
        self.parts
            .lock()
            .await
            .get(&part)
            .with_context(|| format!("{} is not running", part.name()))?
            .freeze()
    }

    pub async fn resume_part(&self, part: Part) -> Result<()> {
        self.parts
            .lock()
            .await
            .get(&part)
            .with_context(|| format!("{} is not running", part.name()))?
            .resume()
    }

    /// Fails when a part has ended by itself, with the end of its log.
    pub async fn expect_parts_running(&self) -> Result<()> {
        self.parts
            .lock()
            .await
            .values_mut()
            .try_for_each(Process::expect_running)
    }

    /// Starts `serin controller ARGUMENTS` with exactly Serin's rights. Each gets a log of its own: `serin-1.log`, `serin-2.log`, ….
    pub fn start_serin<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Process> {
        self.start_serin_from(&beside("serin")?, arguments)
    }

    /// Like [`Self::start_serin`], from another build of the program.
    pub fn start_serin_from<'a>(
        &self,
        program: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Process> {
        self.start_program(Program::new(program), arguments)
    }

    /// Like [`Self::start_serin`], with these variables in its environment.
    pub fn start_serin_in<'a>(
        &self,
        environment: &[(&str, &str)],
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Process> {
        let program = environment
            .iter()
            .fold(Program::new(beside("serin")?), |program, (name, value)| {
                program.env(name, *value)
            });
        self.start_program(program, arguments)
    }

    fn start_program<'a>(
        &self,
        program: Program,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Process> {
        let number = self.serins.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("serin-{number}");
        // Pods live in the same network, so a listener on all addresses would take their ports.
        let port = (9400 + number % 500).to_string();
        let arguments: Vec<&str> = arguments.into_iter().collect();
        let own_port = arguments
            .iter()
            .any(|argument| argument.trim_start_matches('-').starts_with("port"));
        let program = program
            .env("KUBECONFIG", self.kubeconfig("serin"))
            .env("POD_NAME", &name)
            .env("POD_NAMESPACE", "serin-system")
            .args(["controller", "--bind-address", "127.0.0.1"])
            .args(if own_port {
                Vec::new()
            } else {
                vec!["--port", port.as_str()]
            })
            .args(arguments);
        Process::start(&name, &program, &self.logs())
    }

    /// Starts Flagger itself, for the stories of taking over from it. It does as it always does: looks every ten seconds.
    pub fn start_flagger(&self) -> Result<Process> {
        let program = Program::new(tools::flagger()?).args([
            // Pods live in the same network, and Flagger listens on all addresses.
            "-port=9399".to_owned(),
            "-log-level=info".to_owned(),
            "-mesh-provider=gatewayapi:v1".to_owned(),
            format!("-metrics-server={}", parts::PROMETHEUS),
            format!("-kubeconfig={}", self.kubeconfig("admin").display()),
        ]);
        Process::start("flagger", &program, &self.logs())
    }

    /// Helm with all rights; its output. Fails with what Helm said.
    pub async fn helm<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let arguments: Vec<&str> = arguments.into_iter().collect();
        let home = self.state.join("helm");
        let output = tokio::process::Command::new(&self.tools.helm)
            .args(&arguments)
            .env("KUBECONFIG", self.kubeconfig("admin"))
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"))
            .output()
            .await
            .context("cannot start helm")?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "helm {}: {}{}",
            arguments.join(" "),
            said(&output.stderr),
            said(&output.stdout)
        );
        Ok(said(&output.stdout))
    }

    // ---- objects

    /// Server-side apply of every document, in order; waits until definitions are established. Objects must name their namespace.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.apply_in("default", yaml).await
    }

    /// Like [`Self::apply`]; objects that name no namespace go to the one given.
    pub async fn apply_in(&self, namespace: &str, yaml: &str) -> Result<()> {
        let options = serde_saphyr::options! { budget: None };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(yaml, options)
            .context("reading the YAML to apply")?;
        let (definitions, rest): (Vec<Value>, Vec<Value>) = documents
            .into_iter()
            .filter(|document| !document.is_null())
            .partition(|document| document["kind"] == "CustomResourceDefinition");
        stream::iter(definitions)
            .map(|definition| self.apply_definition(definition))
            .buffer_unordered(16)
            .try_collect::<()>()
            .await?;
        for document in rest {
            self.apply_one(namespace, document).await?;
        }
        Ok(())
    }

    async fn apply_definition(&self, definition: Value) -> Result<()> {
        let applied = self.apply_one("", definition).await?;
        let name = applied.name_any();
        self.wait(
            &format!("{name} to be established"),
            PART_PATIENCE,
            async || {
                let now = self
                    .get(
                        "apiextensions.k8s.io/v1",
                        "CustomResourceDefinition",
                        "",
                        &name,
                    )
                    .await?;
                Ok(has_condition(&now.data, "Established").then_some(()))
            },
        )
        .await
    }

    async fn apply_one(&self, namespace: &str, document: Value) -> Result<DynamicObject> {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        let object: DynamicObject = serde_json::from_value(document)
            .with_context(|| format!("a document of kind {kind:?} is no Kubernetes object"))?;
        let name = object.name_any();
        let types = object
            .types
            .clone()
            .with_context(|| format!("{name}: expected apiVersion and kind"))?;
        let own = object.namespace();
        let api = self
            .api_of(
                &types.api_version,
                &types.kind,
                own.as_deref().unwrap_or(namespace),
            )
            .await?;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("applying {kind} {name}"))
    }

    /// Access to any kind; the namespace is ignored for kinds without.
    pub async fn api_of(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
    ) -> Result<Api<DynamicObject>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let wanted = GroupVersionKind::gvk(group, version, kind);
        let known = self.kinds.lock().await.get(&wanted).cloned();
        let (resource, scope) = if let Some(known) = known {
            known
        } else {
            let (resource, capabilities) = kube::discovery::pinned_kind(&self.client, &wanted)
                .await
                .with_context(|| {
                    format!("the API server does not serve {kind} of {api_version}")
                })?;
            self.kinds
                .lock()
                .await
                .insert(wanted, (resource.clone(), capabilities.scope.clone()));
            (resource, capabilities.scope)
        };
        Ok(match scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
        })
    }

    /// Reads one object of any kind.
    pub async fn get(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<DynamicObject> {
        Ok(self
            .api_of(api_version, kind, namespace)
            .await?
            .get(name)
            .await?)
    }

    /// Makes a namespace, or takes the one there is, ready for pods.
    pub async fn namespace(&self, name: &str) -> Result<Namespace<'_>> {
        self.apply_one(
            "",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        )
        .await?;
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), name);
        self.wait(
            &format!("namespace {name} to be usable"),
            PART_PATIENCE,
            async || Ok(accounts.get_opt("default").await?.map(drop)),
        )
        .await?;
        Ok(Namespace {
            bed: self,
            name: name.to_owned(),
        })
    }

    /// A fresh namespace for one scenario, so that several can share a bed.
    pub async fn scenario_namespace(&self, scenario: &str) -> Result<Namespace<'_>> {
        let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(self.client.clone());
        let mut name = scenario.to_owned();
        let mut number = 1;
        while namespaces.get_opt(&name).await?.is_some() {
            number += 1;
            name = format!("{scenario}-{number}");
        }
        self.namespace(&name).await
    }

    /// Looks again and again until `condition` gives something. An error counts as "not yet": it is shown if time runs out.
    pub async fn wait<T>(
        &self,
        description: &str,
        timeout: Duration,
        mut condition: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        let mut last: Option<anyhow::Error> = None;
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            match tokio::time::timeout(left, condition()).await {
                Ok(Ok(Some(found))) => return Ok(found),
                Ok(Ok(None)) => last = None,
                Ok(Err(error)) => last = Some(error),
                Err(_) => {}
            }
            if started.elapsed() >= timeout {
                let last = last
                    .map(|error| format!(" (last error: {error:#})"))
                    .unwrap_or_default();
                return Err(anyhow!(
                    "waited {:.1} s in vain for {description}{last}",
                    timeout.as_secs_f64()
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks Prometheus; the first sample's value, `None` when there is no series.
    pub async fn query(&self, query: &str) -> Result<Option<f64>> {
        let answer = self
            .http
            .get(format!("{}/api/v1/query", parts::PROMETHEUS))
            .query(&[("query", query)])
            .send()
            .await?
            .error_for_status()?;
        let answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
        let value = &answer["data"]["result"][0]["value"][1];
        value
            .as_str()
            .map(|text| {
                text.parse()
                    .with_context(|| format!("Prometheus answered {text:?} to {query}"))
            })
            .transpose()
    }

    /// Waits until the gateway answers a host's requests well: many in a row, because it may know one backend of a
    /// split before the other.
    pub async fn wait_served(&self, host: &str, timeout: Duration) -> Result<()> {
        self.wait_served_at(parts::GATEWAY, host, timeout).await
    }

    /// The same for the gateway at an address.
    pub async fn wait_served_at(&self, gateway: &str, host: &str, timeout: Duration) -> Result<()> {
        self.wait(
            &format!("{host} to be served through the gateway"),
            timeout,
            async || {
                for _ in 0..SERVED_IN_A_ROW {
                    let answer = self.http.get(gateway).header("host", host).send().await?;
                    anyhow::ensure!(
                        answer.status().is_success(),
                        "the gateway answered {}",
                        answer.status()
                    );
                }
                Ok(Some(()))
            },
        )
        .await
    }

    // ---- audit

    /// Where the audit log is now.
    pub fn audit_mark(&self) -> Result<AuditMark> {
        Audit::mark(&self.state.join("audit.log"))
    }

    /// Every request since a mark.
    pub fn audit_since(&self, mark: AuditMark) -> Result<Audit> {
        Audit::since(&self.state.join("audit.log"), mark)
    }
}

/// A namespace on a bed: what most lines of a scenario are said to.
pub struct Namespace<'a> {
    bed: &'a Bed,
    name: String,
}

impl Namespace<'_> {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A host name of this namespace's own, for routes and the load that goes through them: `app.<namespace>.bed`.
    #[must_use]
    pub fn host(&self, name: &str) -> String {
        format!("{name}.{}.bed", self.name)
    }

    /// Applies documents here; `${NAMESPACE}` becomes the namespace's name.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.bed
            .apply_in(&self.name, &yaml.replace("${NAMESPACE}", &self.name))
            .await
    }

    /// Reads one object.
    pub async fn get(&self, api_version: &str, kind: &str, name: &str) -> Result<DynamicObject> {
        self.bed.get(api_version, kind, &self.name, name).await
    }

    /// Reads a canary.
    pub async fn canary(&self, name: &str) -> Result<DynamicObject> {
        self.get("flagger.app/v1beta1", "Canary", name).await
    }

    /// A JSON merge patch.
    pub async fn patch(
        &self,
        api_version: &str,
        kind: &str,
        name: &str,
        patch: &Value,
    ) -> Result<DynamicObject> {
        let api = self.bed.api_of(api_version, kind, &self.name).await?;
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        api.patch(name, &params, &Patch::Merge(patch))
            .await
            .with_context(|| format!("patching {kind} {name}"))
    }

    /// Releases a version: the tag of the deployment's first container.
    pub async fn release(&self, deployment: &str, version: &str) -> Result<()> {
        let api = Api::<Deployment>::namespaced(self.bed.client(), &self.name);
        let found = api.get(deployment).await?;
        let container = found
            .spec
            .and_then(|spec| spec.template.spec)
            .and_then(|spec| spec.containers.into_iter().next())
            .with_context(|| format!("deployment {deployment} has no container"))?;
        let image = container.image.unwrap_or_default();
        let image = format!(
            "{}:{version}",
            image
                .rsplit_once(':')
                .map_or(image.as_str(), |(image, _)| image)
        );
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": container.name, "image": image}]}}}});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        api.patch(deployment, &params, &Patch::Strategic(patch))
            .await?;
        self.bed
            .timeline
            .note(&self.name, format!("released {deployment} {image}"));
        Ok(())
    }

    /// Waits until a canary is in a phase.
    pub async fn wait_phase(
        &self,
        canary: &str,
        phase: &str,
        timeout: Duration,
    ) -> Result<DynamicObject> {
        let mut seen = Value::Null;
        let waited = self
            .bed
            .wait(
                &format!("canary {}/{canary} to be {phase}", self.name),
                timeout,
                async || {
                    let now = self.canary(canary).await?;
                    seen = now.data["status"].clone();
                    Ok((now.data["status"]["phase"] == phase).then_some(now))
                },
            )
            .await;
        waited.with_context(|| format!("its status was last {seen}"))
    }

    /// Waits until every replica of a deployment's latest template is ready and no older one is left.
    pub async fn wait_ready(&self, deployment: &str, timeout: Duration) -> Result<()> {
        let api = Api::<Deployment>::namespaced(self.bed.client(), &self.name);
        self.bed
            .wait(
                &format!("deployment {}/{deployment} to be ready", self.name),
                timeout,
                async || {
                    let found = api.get(deployment).await?;
                    let wanted = found.spec.and_then(|spec| spec.replicas).unwrap_or(1);
                    let status = found.status.unwrap_or_default();
                    let current = status.observed_generation >= found.metadata.generation;
                    let ready = [
                        status.replicas,
                        status.updated_replicas,
                        status.ready_replicas,
                        status.available_replicas,
                    ];
                    Ok(
                        (current && ready.iter().all(|count| count.unwrap_or(0) == wanted))
                            .then_some(()),
                    )
                },
            )
            .await
    }
}

/// The program of that name in this program's own folder.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!(
            "{} is not there: build it with `cargo build`, in the same profile as serin-e2e",
            path.display()
        );
    }
    Ok(path)
}

/// Empties a state folder.
fn clear(state: &Path) -> Result<()> {
    for folder in ["etcd", "prometheus", "logs", "pods", "pki"] {
        match std::fs::remove_dir_all(state.join(folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("clearing {}", state.display()));
            }
            _ => {}
        }
    }
    let _ = std::fs::remove_file(state.join("audit.log"));
    std::fs::create_dir_all(state.join("logs/pods"))
        .with_context(|| format!("cannot make {}", state.display()))
}

/// A client with a user's rights.
pub async fn client_of(state: &Path, user: &str) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig(state, user))?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Whether `status.conditions` says True to a type.
#[must_use]
pub fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    })
}
