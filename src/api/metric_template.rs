//! The MetricTemplate: a metrics backend and a query that many canaries can use.
//!
//! The doc comment of each field is also its description in the CRD, what `kubectl explain` shows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::API_VERSION;
use super::decode::{self, DecodeError};
use super::metadata::Metadata;
use super::string_enum::string_enum;

/// A MetricTemplate as it stands in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricTemplate {
    /// Name and identity.
    pub metadata: Metadata,
    /// Backend and query.
    pub spec: MetricTemplateSpec,
}

impl MetricTemplate {
    /// The kind in an object's `kind`.
    pub const KIND: &'static str = "MetricTemplate";
    /// The resource name in API paths.
    pub const PLURAL: &'static str = "metrictemplates";

    /// Reads a MetricTemplate from the API server's JSON. When this fails, [`Metadata::of`] still names the object.
    pub fn decode(object: &Value) -> Result<Self, DecodeError> {
        Ok(Self {
            metadata: decode::envelope(object, Self::KIND)?,
            spec: decode::required(object, "spec")?,
        })
    }

    /// The object as JSON, with `apiVersion` and `kind`.
    #[must_use]
    pub fn encode(&self) -> Value {
        json!({ "apiVersion": API_VERSION, "kind": Self::KIND, "metadata": self.metadata, "spec": self.spec })
    }
}

/// A metrics backend and a query for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricTemplateSpec {
    /// The backend that answers the query.
    pub provider: MetricProvider,
    /// The query, in the backend's language. Text between double braces is replaced: name, namespace, target, service,
    /// ingress, route, interval and variables of the metric.
    pub query: String,
}

/// A metrics backend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricProvider {
    /// Which backend it is.
    #[serde(rename = "type")]
    pub provider_type: MetricProviderType,
    /// Address of the backend's API. Default: the backend's public one, where it has one; for prometheus the metrics
    /// server of the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Headers that every request carries, by name, each with its values. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Vec<String>>,
    /// Secret with the credentials of the backend, in the namespace of the template. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Region of the backend, for those that have regions, such as cloudwatch. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Do not verify the backend's certificate. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
}

string_enum! {
    /// The metrics backends.
    pub enum MetricProviderType {
        /// Prometheus, or anything that answers its API.
        #[default]
        Prometheus = "prometheus",
        /// InfluxDB.
        Influxdb = "influxdb",
        /// Datadog.
        Datadog = "datadog",
        /// The Kubernetes external metrics API.
        ExternalMetrics = "externalmetrics",
        /// Google Cloud Monitoring.
        Stackdriver = "stackdriver",
        /// Amazon `CloudWatch`.
        Cloudwatch = "cloudwatch",
        /// New Relic.
        Newrelic = "newrelic",
        /// Graphite.
        Graphite = "graphite",
        /// Dynatrace.
        Dynatrace = "dynatrace",
        /// Keptn.
        Keptn = "keptn",
        /// Splunk Observability.
        Splunk = "splunk",
        /// The canary's own pods, whose metrics pages Serin reads. Flagger has no such type.
        Scrape = "scrape",
    }
}

/// A Secret in the namespace of the object that refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret, in the same namespace.
    pub name: String,
}
