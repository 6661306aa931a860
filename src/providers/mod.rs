//! The metrics backends: one file for each, one line in [`provider_for`].
//!
//! ```text
//!   QueryRequest ─▶ Desk ─▶ Providers::ask ─▶ the backend's file ─▶ Http ─▶ Measurement
//!                                 └─ no data? ─▶ diagnose: at most two more questions, to say why
//! ```
//!
//! A backend answers with a [`Measurement`] and nothing else: what can't be asked or understood is `Error`, an answer without a value is
//! `NoData`. All waits are bounded by [`Timing`]. Credentials come in as the data of a Secret; they reach the host that the template
//! names and no other, and are never printed.

mod datadog;
pub mod desk;
mod dynatrace;
mod exchange;
mod graphite;
pub mod http;
mod influxdb;
mod newrelic;
mod prometheus;
pub mod scrape;
mod secrets;
mod splunk;

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

/// The registry: the backend of a type.
#[must_use]
pub fn provider_for(provider_type: MetricProviderType) -> Option<&'static dyn Provider> {
    match provider_type {
        MetricProviderType::Prometheus => Some(&prometheus::Prometheus),
        MetricProviderType::Influxdb => Some(&influxdb::Influxdb),
        MetricProviderType::Datadog => Some(&datadog::Datadog),
        MetricProviderType::Newrelic => Some(&newrelic::NewRelic),
        MetricProviderType::Graphite => Some(&graphite::Graphite),
        MetricProviderType::Dynatrace => Some(&dynatrace::Dynatrace),
        MetricProviderType::Splunk => Some(&splunk::Splunk),
        MetricProviderType::Scrape => Some(&scrape::WithoutCanary),
        _ => None,
    }
}

/// What an answer of the Prometheus API means.
#[must_use]
pub fn read_prometheus_answer(status: u16, body: &[u8]) -> Measurement {
    prometheus::read(status, body)
}

/// The names of the types that [`provider_for`] knows.
#[must_use]
pub fn supported() -> Vec<&'static str> {
    MetricProviderType::ALL
        .iter()
        .filter(|provider_type| provider_for(**provider_type).is_some())
        .map(|provider_type| provider_type.as_str())
        .collect()
}

/// All backends behind one door.
#[derive(Clone, Debug)]
pub struct Providers {
    http: Http,
    timing: Timing,
}

impl Providers {
    /// Backends with these deadlines.
    pub fn new(timing: Timing) -> Result<Self, HttpError> {
        Ok(Self::over(Http::new(timing)?))
    }

    /// Backends that are asked through this client.
    #[must_use]
    pub fn over(http: Http) -> Self {
        Self {
            timing: http.timing(),
            http,
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
        let provider = match Self::provider(request) {
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
        let answer = Self::provider(request)?.probe(&self.http, request).await;
        answer.map_err(|why| Secrets::of(request).hide(why))
    }

    fn provider(request: &QueryRequest) -> Result<&'static dyn Provider, String> {
        let config = &request.config;
        if let (Some(secret), None) = (&config.secret, &request.credentials) {
            return Err(format!(
                "the Secret {}.{} with the credentials was not found",
                secret.name, secret.namespace
            ));
        }
        provider_for(config.provider_type).ok_or_else(|| {
            format!(
                "the metrics provider {} is not supported; supported are: {}",
                config.provider_type,
                supported().join(", ")
            )
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod contract;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
