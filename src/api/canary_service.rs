//! `spec.service`: the generated Services, and what the generated routes match, change and allow.
//!
//! The doc comment of each field is also its description in the CRD, what `kubectl explain` shows. Istio's and Gateway
//! API's own pieces are modelled as far as Flagger's CRD keeps them, so they pass through unchanged.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::string_enum::string_enum;
use super::traffic_policy::TrafficPolicy;

/// How clients reach the workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanaryService {
    /// Name of the Service that clients call; the generated ones add -primary and -canary. Default: the target's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port of the generated Services, 1 to 65535. A whole number.
    #[schemars(schema_with = "schema::number")]
    pub port: i64,
    /// Name of the port. Default: http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
    /// Application protocol of the port, such as http, grpc or kubernetes.io/h2c; tcp makes Istio route by connection.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// Which endpoints the generated Services prefer by their place in the cluster. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["PreferClose", "PreferSameZone", "PreferSameNode"]))]
    pub traffic_distribution: Option<String>,
    /// Number or name of the container port that the Services point at. Default: the same as port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int_or_string")]
    pub target_port: Option<IntOrString>,
    /// Also offer all other container ports of the target. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_discovery: Option<bool>,
    /// Generate Services without a cluster IP; counts only when they are created. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headless: Option<bool>,
    /// Longest time that the route waits for a response, such as 15s. Default: the router's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Gateway API: longest time that a single call to a pod may take, such as 5s. Default: the router's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_timeout: Option<String>,
    /// App Mesh (v1beta1 only, where it is required): name of the mesh. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_name: Option<String>,
    /// App Mesh: virtual services, by name or ARN, that the workload itself calls. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Host names that the routes answer to. Default: the apex Service's name where the router needs one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Istio: generate a VirtualService without hosts and gateways, to be included by another one. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<bool>,
    /// Requests that the routes take, any of these conditions. Istio knows all of them, Gateway API uri, method,
    /// headers and queryParams, Contour and App Mesh the first uri.prefix. Default: every request.
    #[serde(rename = "match", default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
    /// How often and when a failed request is repeated (Istio, Contour, App Mesh). Default: the router's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// What path and host a request carries when it reaches the pods (Istio, Gateway API). Default: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Gateway API: other backends that get a copy of every request at all times, apart from the canary's own
    /// mirroring. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror: Vec<MirrorFilter>,
    /// Headers that the routes add, set and remove (Istio, Gateway API). Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// Istio: names of the Gateways that the VirtualService is bound to. Default: mesh, traffic inside the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Gateway API (where at least one is required): parents that the route attaches to, 32 at most. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub gateway_refs: Vec<GatewayRef>,
    /// Gateway API: the kind of route that is written. A GRPCRoute (gatewayapi:v1) matches calls by service and method; where an existing
    /// canary changes its kind, its former route has to be deleted by hand. Default: HTTPRoute, which carries gRPC too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_kind: Option<RouteKind>,
    /// What scripts of other origins may call (Istio, Gateway API). Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors_policy: Option<CorsPolicy>,
    /// Istio: what the generated DestinationRules say about connections, load balancing, ejection of broken pods and
    /// TLS. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// Labels and annotations of the apex Service and of the route objects. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apex: Option<CustomMetadata>,
    /// Labels and annotations of the primary Service. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<CustomMetadata>,
    /// Labels and annotations of the canary Service. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CustomMetadata>,
    /// Labels and annotations of the generated Services that other tools write and that are left alone. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmanaged_metadata: Option<UnmanagedMetadata>,
}

string_enum! {
    /// A kind of route of the Gateway API.
    pub enum RouteKind {
        /// Routes requests of HTTP, gRPC among them.
        #[default]
        Http = "HTTPRoute",
        /// Routes calls of gRPC by their service and method.
        Grpc = "GRPCRoute",
    }
}

/// A number or a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A name, or a number written as text.
    String(String),
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::String(text) => text.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        match (value.as_i64(), value.as_str()) {
            (Some(number), _) => Ok(Self::Int(number)),
            (None, Some(text)) => Ok(Self::String(text.to_owned())),
            (None, None) => Err(serde::de::Error::custom(
                "expected a whole number or a text",
            )),
        }
    }
}

/// One condition that a request can meet, in Istio's terms: all that is given must be met.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// Host and port that the request was made to. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<StringMatch>,
    /// Names of the Gateways for which this condition counts. Default: those of the service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Request headers by lower-case name, each with what its value must be. Default: any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, StringMatch>,
    /// Compare uri without regard to upper and lower case. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_uri_case: Option<bool>,
    /// HTTP method of the request, such as GET. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<StringMatch>,
    /// Name of this condition, for Istio's statistics and logs. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port that the request was made to. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Query parameters by name, each with what its value must be. Default: any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query_params: BTreeMap<String, StringMatch>,
    /// Scheme of the request, http or https. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<StringMatch>,
    /// Labels that the calling pods must carry. Default: any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub source_labels: BTreeMap<String, String>,
    /// Namespace that the calling pods must be in. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_namespace: Option<String>,
    /// Path of the request. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<StringMatch>,
    /// Request headers by lower-case name, each with what its value must not be. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub without_headers: BTreeMap<String, StringMatch>,
}

/// What a text must be: at most one of the three; none means that it must only be there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = schema::at_most_one(&["exact", "prefix", "regex"])))]
pub struct StringMatch {
    /// It must be this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// It must begin with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// It must match this RE2 expression as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// How failed requests are repeated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retries {
    /// How often a failed request is repeated. Default: the router's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub attempts: Option<i64>,
    /// Longest time that one attempt may take, such as 2s. Default: the timeout of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<String>,
    /// What counts as failed, in Envoy's words separated by commas, such as 5xx,connect-failure. Default: the
    /// router's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<String>,
}

/// What path and host a request carries when it reaches the pods.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// The new path, or the new beginning of it. Default: unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The new host. Default: unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Gateway API: ReplacePrefixMatch replaces the part of the path that was matched, anything else the whole path.
    /// Default: ReplaceFullPath.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub rewrite_type: Option<String>,
}

/// A backend that gets a copy of every request at all times.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MirrorFilter {
    /// The backend that gets the copies; their answers are thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<MirrorBackendRef>,
}

/// A backend in Gateway API's terms.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "message": "a Service needs a port: set port",
    "rule": "(size(self.group) == 0 && self.kind == 'Service') ? has(self.port) : true"
}]))]
pub struct MirrorBackendRef {
    /// API group of the backend. Default: empty, the core group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = GROUP_PATTERN), extend("x-default" = ""))]
    pub group: Option<String>,
    /// Kind of the backend. Default: Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = KIND_PATTERN), extend("x-default" = "Service"))]
    pub kind: Option<String>,
    /// Name of the backend.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the backend. Default: the namespace of the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = NAMESPACE_PATTERN))]
    pub namespace: Option<String>,
    /// Port of the backend, 1 to 65535; required for a Service. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: Option<i64>,
}

const GROUP_PATTERN: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const KIND_PATTERN: &str = r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$";
const NAMESPACE_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SECTION_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// A parent that a route attaches to, in Gateway API's terms.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRef {
    /// API group of the parent; empty for a Service. Default: gateway.networking.k8s.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = GROUP_PATTERN), extend("x-default" = "gateway.networking.k8s.io"))]
    pub group: Option<String>,
    /// Kind of the parent: Gateway, or Service for traffic inside a mesh. Default: Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = KIND_PATTERN), extend("x-default" = "Gateway"))]
    pub kind: Option<String>,
    /// Name of the parent, such as that of the Gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the parent. Default: the namespace of the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = NAMESPACE_PATTERN))]
    pub namespace: Option<String>,
    /// Name of the listener of the Gateway. Default: all that accept the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECTION_PATTERN))]
    pub section_name: Option<String>,
    /// Port of the parent, 1 to 65535. Default: all that accept the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: Option<i64>,
}

/// Changes to the headers of requests and responses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Headers {
    /// Changes before a request reaches the pods. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<HeaderOperations>,
    /// Changes before a response reaches the client. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<HeaderOperations>,
}

/// Headers to add, set and remove.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderOperations {
    /// Values that are added to those already there, by header name. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
    /// Names of headers that are taken away. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Values that replace those already there, by header name. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
}

/// What scripts of other origins may call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    /// Whether requests may carry cookies and other credentials. Default: the router's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// Request headers that scripts may set. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// HTTP methods that scripts may use, such as GET. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Origins that may call, as exact texts. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_origin: Vec<String>,
    /// Istio: origins that may call, as conditions. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<OriginMatch>,
    /// Response headers that scripts may read. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// How long a browser may remember the answer to a preflight request, such as 24h. Default: the browser's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
}

/// What an origin must be: exactly one of the three.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = schema::exactly_one(&["exact", "prefix", "regex"])))]
pub struct OriginMatch {
    /// The origin must be this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// The origin must begin with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The origin must match this RE2 expression as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// Labels and annotations of a generated object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CustomMetadata {
    /// Labels that the object gets. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations that the object gets. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Keys of labels and annotations that other tools write.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UnmanagedMetadata {
    /// Keys of annotations that are left alone. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<String>,
    /// Keys of labels that are left alone. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}
