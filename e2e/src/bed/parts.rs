//! The programs that make up a bed, their flags, and how each shows that it is ready.
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::{Api, Client};

use super::pki::{Pki, kubeconfig};
use super::process::Program;
use crate::tools::{self, Tools};

/// Where requests enter through the gateway; hosts are told apart by the `Host` header.
pub const GATEWAY: &str = "http://127.0.0.1:8000";
/// The same for the gateway `contour`, where a story has brought it up: Contour adds 8000 to the port of the listener.
pub const SECOND_GATEWAY: &str = "http://127.0.0.1:16001";
/// The same for Istio's gateway, where a story has brought Istio up.
pub const ISTIO_GATEWAY: &str = "http://127.0.0.1:8002";
/// The port of that gateway at which connections of any protocol enter.
pub const ISTIO_TCP_PORT: u16 = 8003;
/// Where that gateway serves routes of the Gateway API.
pub const ISTIO_ROUTE_GATEWAY: &str = "http://127.0.0.1:8004";
/// Where the proxy beside a workload of Istio's mesh takes its workload's requests; Services are told apart by the `Host` header.
pub const ISTIO_SIDECAR: &str = "http://127.0.0.1:8005";
/// Where requests enter that Ingresses and Traefik's own resources lead on, where a story has brought that up.
pub const INGRESS_GATEWAY: &str = "http://127.0.0.1:8010";
/// The same for a Traefik that takes a Service without pods for one that answers 503, and not for a mistake.
pub const LENIENT_GATEWAY: &str = "http://127.0.0.1:8011";
/// Where its connections enter.
pub const LENIENT_GATEWAY_TCP: &str = "http://127.0.0.1:8012";
/// Where requests enter that routes with a Gateway of Envoy Gateway's as parent lead on, where a story has brought that up.
pub const ENVOY_GATEWAY: &str = "http://127.0.0.1:8020";
/// Where its connections enter, and the encrypted ones, for routes of TCP and TLS.
pub const ENVOY_GATEWAY_TCP: &str = "http://127.0.0.1:8022";
pub const ENVOY_GATEWAY_TLS: &str = "https://localhost:8023";
/// Where Envoy Gateway says how it is.
pub const ENVOY_GATEWAY_HEALTH: &str = "127.0.0.1:18021";
/// Where Prometheus answers.
pub const PROMETHEUS: &str = "http://127.0.0.1:9090";
const TRAEFIK_METRICS: &str = "127.0.0.1:8899";
const INGRESS_METRICS: &str = "127.0.0.1:8898";
const LENIENT_METRICS: &str = "127.0.0.1:8897";
const ENVOY_METRICS: &str = "127.0.0.1:18010";
const ISTIO_METRICS: &str = "127.0.0.1:15000";
const SIDECAR_METRICS: &str = "127.0.0.1:15002";
const ENVOY_GATEWAY_METRICS: &str = "127.0.0.1:18020";
const ISTIO_MESH: &str =
    "enableAutoMtls: false\ndefaultConfig: {discoveryAddress: 127.0.0.1:15010}\n";
const ISTIO_BOOTSTRAP: &str = include_str!("../../manifests/istio-proxy-bootstrap.yaml");
const ENVOY_GATEWAY_CONFIG: &str = include_str!("../../manifests/envoy-gateway-config.yaml");
const ENVOY_GATEWAY_BOOTSTRAP: &str =
    include_str!("../../manifests/envoy-gateway-proxy-bootstrap.yaml");
const CONTOUR_CONFIG: &str = "gateway: {gatewayRef: {namespace: gateway, name: contour}}\n";
const ETCD: &str = "http://127.0.0.1:2379";
/// The address that nodes and the API server show; nothing listens there.
pub const NODE_ADDRESS: &str = "10.244.255.1";

const CONTROLLERS: &str = "deployment,replicaset,daemonset,statefulset,endpointslice,endpointslicemirroring,serviceaccount,serviceaccount-token,namespace,garbagecollector,horizontalpodautoscaling,job,ttl-after-finished";
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";
const PROMETHEUS_CONFIG: &str = include_str!("../../manifests/prometheus.yaml");

/// One program of the bed, in the order in which they are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Etcd,
    ApiServer,
    ControllerManager,
    Kubelet,
    Prometheus,
    Traefik,
    Contour,
    Envoy,
    TraefikIngress,
    TraefikLenient,
    Istiod,
    IstioGateway,
    IstioSidecar,
    EnvoyGateway,
    EnvoyGatewayProxy,
}

impl Part {
    pub const ALL: [Self; 15] = [
        Self::Etcd,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Kubelet,
        Self::Prometheus,
        Self::Traefik,
        Self::Contour,
        Self::Envoy,
        Self::TraefikIngress,
        Self::TraefikLenient,
        Self::Istiod,
        Self::IstioGateway,
        Self::IstioSidecar,
        Self::EnvoyGateway,
        Self::EnvoyGatewayProxy,
    ];

    /// Its name, which is also the name of its log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Kubelet => "kubelet",
            Self::Prometheus => "prometheus",
            Self::Traefik => "traefik",
            Self::Contour => "contour",
            Self::Envoy => "envoy",
            Self::TraefikIngress => "traefik-ingress",
            Self::TraefikLenient => "traefik-lenient",
            Self::Istiod => "istiod",
            Self::IstioGateway => "istio-gateway",
            Self::IstioSidecar => "istio-sidecar",
            Self::EnvoyGateway => "envoy-gateway",
            Self::EnvoyGatewayProxy => "envoy-gateway-proxy",
        }
    }

    /// What to start, for a bed whose state is in the folder given. Writes the part's configuration there.
    pub(super) fn program(self, tools: &Tools, pki: &Pki, state: &Path) -> Result<Program> {
        Ok(match self {
            Self::Etcd => etcd(tools, state),
            Self::ApiServer => api_server(tools, pki, state)?,
            Self::ControllerManager => controller_manager(tools, pki, state),
            Self::Kubelet => kubelet(state)?,
            Self::Prometheus => prometheus(tools, state)?,
            Self::Traefik => traefik(tools, state),
            Self::Contour => contour(state)?,
            Self::Envoy => envoy(state)?,
            Self::TraefikIngress => traefik_ingress(tools, state),
            Self::TraefikLenient => traefik_lenient(tools, state),
            Self::Istiod => istiod(state)?,
            Self::IstioGateway => istio_proxy(state, &INGRESS_PROXY)?,
            Self::IstioSidecar => istio_proxy(state, &SIDECAR_PROXY)?,
            Self::EnvoyGateway => envoy_gateway(pki, state)?,
            Self::EnvoyGatewayProxy => envoy_gateway_proxy(state)?,
        })
    }

    /// Whether the part does its work by now. An error counts as "not yet" and is shown if it stays.
    pub(super) async fn is_ready(self, client: &Client, http: &reqwest::Client) -> Result<bool> {
        let answers =
            async |url: String| anyhow::Ok(http.get(url).send().await?.status().is_success());
        match self {
            Self::Etcd => answers(format!("{ETCD}/health")).await,
            Self::ApiServer => {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                Ok(client.request_text(request).await? == "ok")
            }
            // Without it no pod can be created.
            Self::ControllerManager => {
                Ok(Api::<ServiceAccount>::namespaced(client.clone(), "default")
                    .get_opt("default")
                    .await?
                    .is_some())
            }
            Self::Kubelet => {
                let node = Api::<Node>::all(client.clone())
                    .get_opt(crate::kubelet::NODE)
                    .await?;
                let conditions = node
                    .and_then(|node| node.status)
                    .and_then(|status| status.conditions)
                    .unwrap_or_default();
                Ok(conditions
                    .iter()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True"))
            }
            Self::Prometheus => answers(format!("{PROMETHEUS}/-/ready")).await,
            Self::Traefik => answers(format!("http://{TRAEFIK_METRICS}/ping")).await,
            Self::Contour => answers("http://127.0.0.1:18013/healthz".to_owned()).await,
            Self::Envoy => answers(format!("http://{ENVOY_METRICS}/ready")).await,
            Self::TraefikIngress => answers(format!("http://{INGRESS_METRICS}/ping")).await,
            Self::TraefikLenient => answers(format!("http://{LENIENT_METRICS}/ping")).await,
            Self::Istiod => answers("http://127.0.0.1:15080/ready".to_owned()).await,
            Self::IstioGateway => answers(format!("http://{ISTIO_METRICS}/ready")).await,
            Self::IstioSidecar => answers(format!("http://{SIDECAR_METRICS}/ready")).await,
            Self::EnvoyGateway => answers(format!("http://{ENVOY_GATEWAY_HEALTH}/readyz")).await,
            Self::EnvoyGatewayProxy => {
                answers(format!("http://{ENVOY_GATEWAY_METRICS}/ready")).await
            }
        }
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|part| part.name() == name)
            .ok_or_else(|| {
                format!(
                    "expected one of {}, found {name:?}",
                    Self::ALL.map(Self::name).join(", ")
                )
            })
    }
}

/// `--name=value`
fn flag(name: &str, value: impl Into<OsString>) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(value.into());
    flag
}

fn etcd(tools: &Tools, state: &Path) -> Program {
    Program::new(&tools.etcd)
        .args([flag("data-dir", state.join("etcd"))])
        .args([
            flag("listen-client-urls", ETCD),
            flag("advertise-client-urls", ETCD),
        ])
        .args([
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ])
}

fn api_server(tools: &Tools, pki: &Pki, state: &Path) -> Result<Program> {
    let policy = state.join("audit-policy.yaml");
    std::fs::write(&policy, AUDIT_POLICY)?;
    Ok(Program::new(&tools.kube_apiserver)
        .args([
            flag("etcd-servers", ETCD),
            flag("tls-cert-file", pki.certificate("apiserver")),
            flag("tls-private-key-file", pki.key("apiserver")),
            flag("client-ca-file", pki.authority()),
            flag(
                "service-account-key-file",
                state.join("pki/service-account.pub"),
            ),
            flag(
                "service-account-signing-key-file",
                pki.key("service-account"),
            ),
            flag("audit-log-path", state.join("audit.log")),
            flag("audit-policy-file", policy),
            flag("advertise-address", NODE_ADDRESS),
        ])
        .args([
            "--audit-log-maxsize=4000",
            "--service-account-issuer=https://bed",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
            "--secure-port=6443",
            "--bind-address=127.0.0.1",
            "--allow-privileged",
            // Nobody here carries the addresses of Services: webhooks behind one are called at its pods.
            "--enable-aggregator-routing=true",
        ]))
}

fn controller_manager(tools: &Tools, pki: &Pki, state: &Path) -> Program {
    Program::new(&tools.kube_controller_manager)
        .args([
            flag(
                "kubeconfig",
                kubeconfig(state, Part::ControllerManager.name()),
            ),
            flag(
                "service-account-private-key-file",
                pki.key("service-account"),
            ),
            flag("root-ca-file", pki.authority()),
            flag("controllers", CONTROLLERS),
        ])
        .args([
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
        ])
        .args([
            "--concurrent-deployment-syncs=10",
            "--concurrent-replicaset-syncs=10",
            "--concurrent-service-endpoint-syncs=10",
            // Nobody wants to wait the default of 15 s for a minimum to be kept.
            "--horizontal-pod-autoscaler-sync-period=1s",
            // A second change to a Service's pods that comes before the controller has seen its own answer to the first is put off by
            // 1 s, then 2 s, then 4 s ("EndpointSlice informer cache is out of date"), in which gateways go on to use pods that
            // have ended. Joining the changes of this period keeps the second from coming too soon.
            "--endpointslice-updates-batch-period=250ms",
        ])
}

fn kubelet(state: &Path) -> Result<Program> {
    Ok(Program::new(std::env::current_exe()?)
        .args(["kubelet"])
        .args([
            flag("kubeconfig", kubeconfig(state, Part::Kubelet.name())),
            flag("state", state),
        ]))
}

fn prometheus(tools: &Tools, state: &Path) -> Result<Program> {
    let config = state.join("prometheus.yaml");
    let user = kubeconfig(state, Part::Prometheus.name());
    let text = PROMETHEUS_CONFIG
        .replace(
            "${KUBECONFIG}",
            user.to_str()
                .context("the state folder's path is not UTF-8")?,
        )
        .replace("${TRAEFIK}", TRAEFIK_METRICS)
        .replace("${INGRESS}", INGRESS_METRICS)
        .replace("${ENVOY}", ENVOY_METRICS)
        .replace("${ENVOY_GATEWAY}", ENVOY_GATEWAY_METRICS)
        .replace("${ISTIO}", ISTIO_METRICS);
    std::fs::write(&config, text)?;
    Ok(Program::new(&tools.prometheus).args([
        flag("config.file", config),
        flag("storage.tsdb.path", state.join("prometheus")),
        flag(
            "web.listen-address",
            PROMETHEUS.trim_start_matches("http://"),
        ),
        flag("log.level", "warn"),
    ]))
}

fn traefik(tools: &Tools, state: &Path) -> Program {
    traefik_at(tools, state, GATEWAY, TRAEFIK_METRICS).args([
        "--providers.kubernetesgateway=true",
        "--providers.kubernetesgateway.statusaddress.ip=127.0.0.1",
    ])
}

/// A Traefik of its own, since that of the bed would wait for definitions that most stories don't need.
fn traefik_ingress(tools: &Tools, state: &Path) -> Program {
    traefik_at(tools, state, INGRESS_GATEWAY, INGRESS_METRICS).args([
        "--providers.kubernetescrd=true",
        "--providers.kubernetesingressnginx=true",
        "--providers.kubernetesingressnginx.throttleduration=100ms",
    ])
}

fn traefik_lenient(tools: &Tools, state: &Path) -> Program {
    traefik_at(tools, state, LENIENT_GATEWAY, LENIENT_METRICS)
        .args([
            "--providers.kubernetescrd=true",
            "--providers.kubernetescrd.allowemptyservices=true",
        ])
        .args([flag(
            "entrypoints.connections.address",
            LENIENT_GATEWAY_TCP.trim_start_matches("http://"),
        )])
}

fn traefik_at(tools: &Tools, state: &Path, gateway: &str, metrics: &str) -> Program {
    Program::new(&tools.traefik)
        .env("KUBECONFIG", kubeconfig(state, Part::Traefik.name()))
        .args([
            flag(
                "entrypoints.web.address",
                gateway.trim_start_matches("http://"),
            ),
            flag("entrypoints.metrics.address", metrics),
        ])
        .args([
            "--metrics.prometheus=true",
            "--metrics.prometheus.entrypoint=metrics",
            "--metrics.prometheus.addserviceslabels=true",
            "--metrics.prometheus.addrouterslabels=true",
            "--ping=true",
            "--ping.entrypoint=metrics",
            "--providers.providersthrottleduration=100ms",
            "--log.level=INFO",
            "--global.sendanonymoususage=false",
            "--global.checknewversion=false",
        ])
}

fn contour(state: &Path) -> Result<Program> {
    let config = state.join("contour.yaml");
    std::fs::write(&config, CONTOUR_CONFIG)?;
    Ok(Program::new(&tools::contour()?.contour)
        .env("CONTOUR_NAMESPACE", "projectcontour")
        .args([
            OsString::from("serve"),
            flag("kubeconfig", kubeconfig(state, Part::Contour.name())),
            flag("config-path", config),
            flag("stats-port", port(ENVOY_METRICS)),
        ])
        .args([
            "--insecure",
            // Kinds that the standard channel of the Gateway API has not, or not in the version asked for.
            "--disable-feature=tlsroutes",
            "--disable-feature=tcproutes",
            "--disable-feature=backendtlspolicies",
            "--disable-leader-election",
            "--xds-address=127.0.0.1",
            "--xds-port=18011",
            "--http-address=127.0.0.1",
            "--http-port=18012",
            "--health-address=127.0.0.1",
            "--health-port=18013",
            "--stats-address=127.0.0.1",
            "--envoy-service-http-address=127.0.0.1",
            "--envoy-service-https-address=127.0.0.1",
        ]))
}

fn envoy(state: &Path) -> Result<Program> {
    let config = state.join("envoy.json");
    let tools = tools::contour()?;
    let output = std::process::Command::new(&tools.contour)
        .args(["bootstrap", "--xds-address=127.0.0.1", "--xds-port=18011"])
        .args(["--xds-resource-version=v3", "--namespace=projectcontour"])
        .arg(flag("admin-address", state.join("envoy-admin.sock")))
        .arg(&config)
        .output()
        .context("cannot start contour bootstrap")?;
    anyhow::ensure!(
        output.status.success(),
        "contour bootstrap: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(plain_envoy(&tools.envoy, config).args([
        "--service-cluster",
        "contour",
        "--service-node",
        "bed",
    ]))
}

/// The control plane alone: no certificates, no webhooks, no injection, and nothing that only Istio's own build of Envoy understands.
fn istiod(state: &Path) -> Result<Program> {
    let mesh = state.join("istio-mesh.yaml");
    std::fs::write(&mesh, ISTIO_MESH)?;
    let environment = [
        ("POD_NAME", "istiod"),
        ("POD_NAMESPACE", "istio-system"),
        ("CLUSTER_ID", "Kubernetes"),
        ("PILOT_CERT_PROVIDER", "none"),
        ("ENABLE_CA_SERVER", "false"),
        ("PILOT_ENABLE_ALPN_FILTER", "false"),
        ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
        ("PILOT_DISABLE_MX_ALPN", "true"),
        ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
        ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
        // Its proxies and classes are the bed's.
        ("PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER", "false"),
        ("PILOT_ENABLE_GATEWAY_API_GATEWAYCLASS_CONTROLLER", "false"),
    ];
    let program = Program::new(&tools::istio()?.discovery).args([
        OsString::from("discovery"),
        flag("kubeconfig", kubeconfig(state, Part::Istiod.name())),
        flag("meshConfig", mesh),
    ]);
    let program = program.args([
        "--httpAddr=127.0.0.1:15080",
        "--httpsAddr=",
        "--grpcAddr=127.0.0.1:15010",
        "--secureGRPCAddr=",
        "--monitoringAddr=127.0.0.1:15014",
    ]);
    Ok(environment
        .into_iter()
        .fold(program, |program, (name, value)| program.env(name, value)))
}

/// Who a plain Envoy is to istiod.
struct IstioProxy {
    part: Part,
    kind: &'static str,
    namespace: &'static str,
    /// Value of its label `istio`, by which gateways select it.
    label: &'static str,
    admin: &'static str,
}

const INGRESS_PROXY: IstioProxy = IstioProxy {
    part: Part::IstioGateway,
    kind: "router",
    namespace: "istio-system",
    label: "ingressgateway",
    admin: ISTIO_METRICS,
};

const SIDECAR_PROXY: IstioProxy = IstioProxy {
    part: Part::IstioSidecar,
    kind: "sidecar",
    namespace: "default",
    label: "visitor",
    admin: SIDECAR_METRICS,
};

/// The port of an address.
fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}

/// A plain Envoy that istiod configures.
fn istio_proxy(state: &Path, proxy: &IstioProxy) -> Result<Program> {
    let name = proxy.part.name();
    let config = state.join(format!("{name}.yaml"));
    let text = [
        ("${TYPE}", proxy.kind),
        ("${NAME}", name),
        ("${NAMESPACE}", proxy.namespace),
        ("${LABEL}", proxy.label),
        ("${PROXY_PORT}", port(ISTIO_SIDECAR)),
        ("${ADMIN_PORT}", port(proxy.admin)),
    ]
    .into_iter()
    .fold(ISTIO_BOOTSTRAP.to_owned(), |text, (key, value)| {
        text.replace(key, value)
    });
    std::fs::write(&config, text)?;
    Ok(plain_envoy(&tools::istio()?.envoy, config))
}

/// The folder of what Envoy Gateway and its proxy need of the bed's state, made anew.
pub(super) fn envoy_gateway_folder(state: &Path) -> PathBuf {
    state.join("envoy-gateway")
}

/// The control plane. It looks for its certificates at the root of the file system, so it gets a root of its own.
fn envoy_gateway(pki: &Pki, state: &Path) -> Result<Program> {
    let root = envoy_gateway_folder(state);
    let program = tools::envoy_gateway()?.control_plane;
    std::fs::create_dir_all(root.join("tmp"))?;
    std::fs::copy(&program, root.join("server"))
        .with_context(|| format!("copying {}", program.display()))?;
    std::fs::write(root.join("config.yaml"), ENVOY_GATEWAY_CONFIG)?;
    pki.pack(Part::EnvoyGateway.name(), &root)?;
    Ok(Program::new("chroot")
        .env("KUBECONFIG", "/kubeconfig")
        .args([root.into_os_string()])
        .args(["/server", "server", "--config-path=/config.yaml"]))
}

/// A plain Envoy that Envoy Gateway configures.
fn envoy_gateway_proxy(state: &Path) -> Result<Program> {
    let config = state.join("envoy-gateway-proxy.yaml");
    let certificates = envoy_gateway_folder(state).join("proxy");
    let certificates = certificates
        .to_str()
        .context("the state folder's path is not UTF-8")?;
    let text = ENVOY_GATEWAY_BOOTSTRAP
        .replace("${ADMIN_PORT}", port(ENVOY_GATEWAY_METRICS))
        .replace("${CERTIFICATES}", certificates);
    std::fs::write(&config, text)?;
    Ok(plain_envoy(&tools::envoy_gateway()?.envoy, config))
}

/// An Envoy that is told all it is to do by its configuration.
fn plain_envoy(program: &Path, config: PathBuf) -> Program {
    Program::new(program)
        .args([OsString::from("--config-path"), config.into()])
        .args([
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
        ])
}
