//! The metrics backends: one file for each, one line in [`Providers::backend`].
//!
//! ```text
//!   QueryRequest ─▶ Desk ─▶ Providers::ask ─▶ the backend's file ─▶ Http ─▶ Measurement
//!                                 └─ no data? ─▶ diagnose: at most two more questions, to say why
//! ```
//!
//! A backend answers with a [`Measurement`] and nothing else: what can't be asked or understood is `Error`, an answer without a value is
//! `NoData`. All waits are bounded by [`Timing`]. Credentials come in as the data of a Secret; they reach the host that the template
//! names and no other, and are never printed.

mod cloudwatch;
mod datadog;
pub mod desk;
mod dynatrace;
mod exchange;
pub mod externalmetrics;
mod graphite;
pub mod http;
mod influxdb;
pub mod keptn;
mod newrelic;
mod prometheus;
pub mod scrape;
mod secrets;
mod splunk;
mod stackdriver;
mod surroundings;

pub use surroundings::{ApiServer, ClusterError, Surroundings};

use crate::analysis::{Measurement, ProviderConfig};
use crate::api::MetricProviderType;
use crate::object::Object;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http::{Http, HttpError, Timing};
use jiff::Timestamp;
use secrets::Secrets;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The data of a Secret, decoded. Printing shows the keys only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, String>);

impl Credentials {
    /// Reads `data` (base64) and `stringData` of a Secret.
    pub fn of(secret: &Object) -> Result<Self, String> {
        let mut entries = BTreeMap::new();
        for (key, encoded) in secret.string_map("/data") {
            let bytes = STANDARD
                .decode(encoded.as_bytes())
                .map_err(|_| format!("data[{key}] of Secret {} is not base64", secret.name()))?;
            // Binary entries belong to somebody else; the backends read texts.
            if let Ok(text) = String::from_utf8(bytes) {
                entries.insert(key, text);
            }
        }
        entries.extend(secret.string_map("/stringData"));
        Ok(Self(entries))
    }

    /// Credentials from keys and texts.
    #[must_use]
    pub fn from_entries<K: Into<String>, V: Into<String>>(
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self(
            entries
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }

    /// The text under `key`, without the newline that `kubectl create secret --from-file` leaves at its end.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(|text| text.trim_end_matches(['\r', '\n']))
            .filter(|text| !text.is_empty())
    }

    /// All keys with their texts.
    fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, text)| (key.as_str(), text.as_str()))
    }

    /// The keys, for messages.
    #[must_use]
    pub fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.keys())
    }
}

/// One question, with all that a backend needs to ask it.
#[derive(Clone, Debug)]
pub struct QueryRequest {
    /// Whom to ask.
    pub config: ProviderConfig,
    /// The data of `config.secret`; `None` where no Secret is named.
    pub credentials: Option<Credentials>,
    /// What to ask.
    pub query: String,
    /// The span that the metric looks back over.
    pub interval: Duration,
    /// The end of that span.
    pub now: Timestamp,
}

/// A metrics backend.
pub trait Provider: Sync {
    /// Asks the question.
    fn query<'a>(&'a self, http: &'a Http, request: &'a QueryRequest)
    -> BoxFuture<'a, Measurement>;

    /// Whether the backend can be reached and lets us in; the error says what is wrong.
    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Why the question had no answer, by at most two more questions: one sentence without a full stop, bounded and without anything
    /// secret. `None` where nothing can be said.
    fn diagnose<'a>(
        &'a self,
        _http: &'a Http,
        _request: &'a QueryRequest,
    ) -> BoxFuture<'a, Option<String>> {
        Box::pin(async { None })
    }
}

/// What an answer of the Prometheus API means.
#[must_use]
pub fn read_prometheus_answer(status: u16, body: &[u8]) -> Measurement {
    prometheus::read(status, body)
}

/// All backends behind one door.
#[derive(Clone)]
pub struct Providers {
    http: Http,
    timing: Timing,
    own: Arc<Own>,
}

/// The backends that know the controller's surroundings, or remember something between queries.
struct Own {
    cloudwatch: cloudwatch::CloudWatch,
    stackdriver: stackdriver::Stackdriver,
    keptn: keptn::Keptn,
    externalmetrics: externalmetrics::ExternalMetrics,
}

impl Providers {
    /// Backends with these deadlines.
    pub fn new(timing: Timing, surroundings: Surroundings) -> Result<Self, HttpError> {
        Ok(Self::over(Http::new(timing)?, surroundings))
    }

    /// Backends that are asked through this client.
    #[must_use]
    pub fn over(http: Http, surroundings: Surroundings) -> Self {
        Self {
            timing: http.timing(),
            http,
            own: Arc::new(Own {
                cloudwatch: cloudwatch::CloudWatch::new(surroundings.clone()),
                stackdriver: stackdriver::Stackdriver::new(surroundings.clone()),
                keptn: keptn::Keptn::new(surroundings.clone()),
                externalmetrics: externalmetrics::ExternalMetrics::new(surroundings),
            }),
        }
    }

    /// The same with less patience where things are waited for.
    #[cfg(test)]
    fn hurried(self, surroundings: Surroundings) -> Self {
        Self {
            own: Arc::new(Own {
                cloudwatch: cloudwatch::CloudWatch::new(surroundings.clone()),
                stackdriver: stackdriver::Stackdriver::new(surroundings.clone()),
                keptn: keptn::Keptn::new(surroundings.clone()).hurried(),
                externalmetrics: externalmetrics::ExternalMetrics::new(surroundings),
            }),
            ..self
        }
    }

    /// The registry: the backend of a type.
    fn backend(&self, provider_type: MetricProviderType) -> &dyn Provider {
        match provider_type {
            MetricProviderType::Prometheus => &prometheus::Prometheus,
            MetricProviderType::Influxdb => &influxdb::Influxdb,
            MetricProviderType::Datadog => &datadog::Datadog,
            MetricProviderType::Newrelic => &newrelic::NewRelic,
            MetricProviderType::Graphite => &graphite::Graphite,
            MetricProviderType::Dynatrace => &dynatrace::Dynatrace,
            MetricProviderType::Splunk => &splunk::Splunk,
            MetricProviderType::Cloudwatch => &self.own.cloudwatch,
            MetricProviderType::Stackdriver => &self.own.stackdriver,
            MetricProviderType::Keptn => &self.own.keptn,
            MetricProviderType::ExternalMetrics => &self.own.externalmetrics,
            MetricProviderType::Scrape => &scrape::WithoutCanary,
        }
    }

    /// Asks the question. Where the backend has no data, it is asked why. No text of the answer holds a credential of the request.
    pub async fn ask(&self, request: &QueryRequest) -> Measurement {
        let secrets = Secrets::of(request);
        match self.ask_openly(request).await {
            Measurement::NoData(why) => Measurement::NoData(secrets.hide(why)),
            Measurement::Error(why) => Measurement::Error(secrets.hide(why)),
            measurement => measurement,
        }
    }

    async fn ask_openly(&self, request: &QueryRequest) -> Measurement {
        let provider = match self.provider(request) {
            Ok(provider) => provider,
            Err(why) => return Measurement::Error(why),
        };
        match provider.query(&self.http, request).await {
            Measurement::NoData(why) => {
                // A diagnosis is a courtesy: it may take one attempt's time and no more.
                let diagnosis = provider.diagnose(&self.http, request);
                match tokio::time::timeout(self.timing.attempt, diagnosis).await {
                    Ok(Some(diagnosis)) => Measurement::NoData(format!("{why}; {diagnosis}")),
                    _ => Measurement::NoData(why),
                }
            }
            measurement => measurement,
        }
    }

    /// Whether the backend can be reached and lets us in.
    pub async fn probe(&self, request: &QueryRequest) -> Result<(), String> {
        let answer = self.provider(request)?.probe(&self.http, request).await;
        answer.map_err(|why| Secrets::of(request).hide(why))
    }

    fn provider(&self, request: &QueryRequest) -> Result<&dyn Provider, String> {
        let config = &request.config;
        if let (Some(secret), None) = (&config.secret, &request.credentials) {
            return Err(format!(
                "the Secret {}.{} with the credentials was not found",
                secret.name, secret.namespace
            ));
        }
        Ok(self.backend(config.provider_type))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod cluster_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod contract;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
