//! The resources that Serin reads and writes, as a table, and the name of one object.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A resource of the Kubernetes API: enough to build its URL.
#[derive(Clone, Debug)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// API version, for example `v1`.
    pub version: Cow<'static, str>,
    /// Kind, for example `Deployment`.
    pub kind: Cow<'static, str>,
    /// Plural as in the URL, for example `deployments`.
    pub plural: Cow<'static, str>,
    /// Whether objects of this kind live in namespaces.
    pub namespaced: bool,
}

/// Compares texts that mostly are the very same constant.
fn compare(one: &str, other: &str) -> Ordering {
    if std::ptr::eq(one, other) {
        Ordering::Equal
    } else {
        one.cmp(other)
    }
}

/// Kind, group and version say all: one resource has one plural and one scope.
impl Ord for Kind {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.group, &other.group)
            .then_with(|| compare(&self.version, &other.version))
            .then_with(|| compare(&self.kind, &other.kind))
    }
}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Kind {}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
        self.group.hash(state);
        self.version.hash(state);
    }
}

impl Kind {
    /// A namespaced kind of the table.
    #[must_use]
    pub const fn namespaced(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            kind: Cow::Borrowed(kind),
            plural: Cow::Borrowed(plural),
            namespaced: true,
        }
    }

    /// A kind of the table whose objects live in no namespace.
    #[must_use]
    pub const fn cluster(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            kind: Cow::Borrowed(kind),
            plural: Cow::Borrowed(plural),
            namespaced: false,
        }
    }

    /// `group/version`, or just `version` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Names one object of this kind.
    #[must_use]
    pub fn named(&self, namespace: &str, name: &str) -> ObjectRef {
        ObjectRef {
            kind: self.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Whether an object with these `apiVersion` and `kind` is of this kind (the version may differ, the group not).
    #[must_use]
    pub fn matches(&self, api_version: &str, kind: &str) -> bool {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.kind == kind && self.group == group
    }
}

/// The name of one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Its resource.
    pub kind: Kind,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// By name first: that tells most objects of a canary apart.
impl Ord for ObjectRef {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name
            .cmp(&other.name)
            .then_with(|| self.kind.cmp(&other.kind))
            .then_with(|| self.namespace.cmp(&other.namespace))
    }
}

impl PartialOrd for ObjectRef {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind.kind, self.name)
        } else {
            write!(f, "{} {}.{}", self.kind.kind, self.name, self.namespace)
        }
    }
}

/// The kinds that the code names.
pub mod kinds {
    use super::Kind;

    pub const CANARY: Kind = Kind::namespaced("flagger.app", "v1beta1", "Canary", "canaries");
    pub const METRIC_TEMPLATE: Kind = Kind::namespaced(
        "flagger.app",
        "v1beta1",
        "MetricTemplate",
        "metrictemplates",
    );
    pub const ALERT_PROVIDER: Kind =
        Kind::namespaced("flagger.app", "v1beta1", "AlertProvider", "alertproviders");
    pub const DEPLOYMENT: Kind = Kind::namespaced("apps", "v1", "Deployment", "deployments");
    pub const DAEMON_SET: Kind = Kind::namespaced("apps", "v1", "DaemonSet", "daemonsets");
    pub const CONTROLLER_REVISION: Kind =
        Kind::namespaced("apps", "v1", "ControllerRevision", "controllerrevisions");
    pub const SERVICE: Kind = Kind::namespaced("", "v1", "Service", "services");
    pub const CONFIG_MAP: Kind = Kind::namespaced("", "v1", "ConfigMap", "configmaps");
    pub const SECRET: Kind = Kind::namespaced("", "v1", "Secret", "secrets");
    pub const POD: Kind = Kind::namespaced("", "v1", "Pod", "pods");
    pub const ENDPOINT_SLICE: Kind =
        Kind::namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
    pub const HORIZONTAL_POD_AUTOSCALER: Kind = Kind::namespaced(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
    );
    pub const SCALED_OBJECT: Kind =
        Kind::namespaced("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects");
    pub const HTTP_ROUTE: Kind =
        Kind::namespaced("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes");
    pub const HTTP_ROUTE_V1BETA1: Kind = Kind::namespaced(
        "gateway.networking.k8s.io",
        "v1beta1",
        "HTTPRoute",
        "httproutes",
    );
    pub const GRPC_ROUTE: Kind =
        Kind::namespaced("gateway.networking.k8s.io", "v1", "GRPCRoute", "grpcroutes");
    pub const TRAFFIC_SPLIT_V1ALPHA1: Kind = Kind::namespaced(
        "split.smi-spec.io",
        "v1alpha1",
        "TrafficSplit",
        "trafficsplits",
    );
    pub const TRAFFIC_SPLIT_V1ALPHA2: Kind = Kind::namespaced(
        "split.smi-spec.io",
        "v1alpha2",
        "TrafficSplit",
        "trafficsplits",
    );
    pub const TRAFFIC_SPLIT_V1ALPHA3: Kind = Kind::namespaced(
        "split.smi-spec.io",
        "v1alpha3",
        "TrafficSplit",
        "trafficsplits",
    );
    pub const TRAFFIC_ROUTE: Kind =
        Kind::cluster("kuma.io", "v1alpha1", "TrafficRoute", "trafficroutes");
    pub const ROUTE_TABLE: Kind =
        Kind::namespaced("gateway.solo.io", "v1", "RouteTable", "routetables");
    pub const UPSTREAM: Kind = Kind::namespaced("gloo.solo.io", "v1", "Upstream", "upstreams");
    pub const APPMESH_VIRTUAL_NODE_V1BETA1: Kind =
        Kind::namespaced("appmesh.k8s.aws", "v1beta1", "VirtualNode", "virtualnodes");
    pub const APPMESH_VIRTUAL_SERVICE_V1BETA1: Kind = Kind::namespaced(
        "appmesh.k8s.aws",
        "v1beta1",
        "VirtualService",
        "virtualservices",
    );
    pub const APPMESH_VIRTUAL_NODE: Kind =
        Kind::namespaced("appmesh.k8s.aws", "v1beta2", "VirtualNode", "virtualnodes");
    pub const APPMESH_VIRTUAL_ROUTER: Kind = Kind::namespaced(
        "appmesh.k8s.aws",
        "v1beta2",
        "VirtualRouter",
        "virtualrouters",
    );
    pub const APPMESH_VIRTUAL_SERVICE: Kind = Kind::namespaced(
        "appmesh.k8s.aws",
        "v1beta2",
        "VirtualService",
        "virtualservices",
    );
    pub const VIRTUAL_SERVICE: Kind = Kind::namespaced(
        "networking.istio.io",
        "v1beta1",
        "VirtualService",
        "virtualservices",
    );
    pub const DESTINATION_RULE: Kind = Kind::namespaced(
        "networking.istio.io",
        "v1beta1",
        "DestinationRule",
        "destinationrules",
    );
    pub const INGRESS: Kind = Kind::namespaced("networking.k8s.io", "v1", "Ingress", "ingresses");
    pub const HTTP_PROXY: Kind =
        Kind::namespaced("projectcontour.io", "v1", "HTTPProxy", "httpproxies");
    pub const TRAEFIK_SERVICE: Kind = Kind::namespaced(
        "traefik.io",
        "v1alpha1",
        "TraefikService",
        "traefikservices",
    );
    pub const APISIX_ROUTE: Kind =
        Kind::namespaced("apisix.apache.org", "v2", "ApisixRoute", "apisixroutes");
    pub const KNATIVE_SERVICE: Kind =
        Kind::namespaced("serving.knative.dev", "v1", "Service", "services");
    pub const KNATIVE_REVISION: Kind =
        Kind::namespaced("serving.knative.dev", "v1", "Revision", "revisions");
}
