//! Istio's traffic policy as far as Flagger's CRD keeps it; it goes into the generated DestinationRules unchanged.
//!
//! The doc comment of each field is also its description in the CRD, what `kubectl explain` shows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::schema;

/// Connections, load balancing, ejection of broken pods and TLS towards the workload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// Limits on connections and requests. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// How requests are spread over the pods. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// When a pod that answers badly is left out for a while. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the pods. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

/// Limits on connections and requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionPool {
    /// Limits for HTTP/1.1, HTTP/2 and gRPC. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPool>,
}

/// Limits for HTTP/1.1, HTTP/2 and gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPool {
    /// Whether HTTP/1.1 connections are upgraded to HTTP/2. Default: DEFAULT, as the mesh says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]))]
    pub h2_upgrade_policy: Option<String>,
    /// Most requests that wait for a connection. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub http1_max_pending_requests: Option<i64>,
    /// Most requests that are open at the same time. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub http2_max_requests: Option<i64>,
    /// Time without a request after which a connection is closed, such as 1h. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// Most requests over one connection; 1 turns keep-alive off. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub max_requests_per_connection: Option<i64>,
    /// Most retries that are open at the same time. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub max_retries: Option<i64>,
}

/// How requests are spread: either simple or consistentHash.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = json!([
    { "required": ["simple"] },
    {
        "required": ["consistentHash"],
        "properties": {
            "consistentHash": { "oneOf": schema::exactly_one(
                &["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"]
            ) }
        }
    }
])))]
pub struct LoadBalancer {
    /// Send requests of the same client or key to the same pod, by exactly one of httpHeaderName, httpCookie,
    /// useSourceIp and httpQueryParameterName. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// Preference for pods by their place. Default: as the mesh says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality_lb_setting: Option<LocalityLoadBalancing>,
    /// Spread by a simple rule. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["ROUND_ROBIN", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "LEAST_REQUEST"]))]
    pub simple: Option<String>,
    /// Time over which a new pod gets slowly more requests, such as 30s. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_duration_secs: Option<String>,
}

/// What keeps requests on the same pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHash {
    /// Choose the pod by a cookie, which is set when missing. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_cookie: Option<HashCookie>,
    /// Choose the pod by the value of this request header. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_header_name: Option<String>,
    /// Choose the pod by the value of this query parameter. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_query_parameter_name: Option<String>,
    /// Least number of virtual nodes of the hash ring; more spread more evenly. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_ring_size: Option<i64>,
    /// Choose the pod by the address of the caller. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_source_ip: Option<bool>,
}

/// A cookie that keeps a client on a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HashCookie {
    /// Name of the cookie that carries the hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Path attribute of the cookie. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Lifetime of the cookie, such as 1h; 0s makes it last as long as the browser's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

/// Preference for pods by their place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLoadBalancing {
    /// Shares of traffic between places; excludes failover. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distribute: Vec<LocalityDistribution>,
    /// Whether place counts at all for this workload, whatever the mesh says. Default: as the mesh says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Where traffic goes when a region has no healthy pods; excludes distribute. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<LocalityFailover>,
}

/// Shares of the traffic of one place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityDistribution {
    /// Where requests come from, as region/zone/sub-zone, such as us-west/zone1/*.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Share in percent that each place gets, by place; the shares sum to 100.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub to: BTreeMap<String, i64>,
}

/// Where the traffic of a region goes when it has no healthy pods.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityFailover {
    /// Region that requests come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Region that takes over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// When a pod that answers badly is left out for a while.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Shortest time that a pod is left out, such as 30s; grows with each time. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<String>,
    /// Number of 5xx answers in a row after which a pod is left out. Default: Istio's.
    #[serde(
        rename = "consecutive5xxErrors",
        skip_serializing_if = "Option::is_none"
    )]
    pub consecutive_5xx_errors: Option<i64>,
    /// Older form of consecutive5xxErrors. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub consecutive_errors: Option<i64>,
    /// Number of 502, 503 and 504 answers in a row after which a pod is left out. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub consecutive_gateway_errors: Option<i64>,
    /// Number of failed connections in a row after which a pod is left out, when splitExternalLocalOriginErrors is
    /// true. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub consecutive_local_origin_failures: Option<i64>,
    /// Time between two looks at the pods, such as 10s. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Share of the pods in percent that may be left out at most. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub max_ejection_percent: Option<i64>,
    /// Share of healthy pods in percent below which none is left out any more. Default: Istio's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub min_health_percent: Option<i64>,
    /// Count failed connections apart from bad answers. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_external_local_origin_errors: Option<bool>,
}

/// TLS towards the pods.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Path, inside the proxy, of the certificates that the server's is checked against. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<String>,
    /// Path, inside the proxy, of the client's certificate; required with MUTUAL. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// Whether TLS is used, and whose certificates. Default: as the mesh says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]))]
    pub mode: Option<String>,
    /// Path, inside the proxy, of the client's private key; required with MUTUAL. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// Server name that the client asks for during the handshake. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Names of which the server's certificate must carry one. Default: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
}
