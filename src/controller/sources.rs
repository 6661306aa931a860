//! Where metrics queries go: to the backend that the query names. Its Secret is read through the caches when it is needed and goes to the
//! address that stands beside it in the same template, nowhere else.

use super::cache::Caches;
use super::queue::CanaryKey;
use crate::analysis::{Measurement, MetricQuery, SecretName};
use crate::api::MetricProviderType;
use crate::object::{Reading, kinds};
use crate::providers::desk::{Ask, Desk};
use crate::providers::scrape::Scraper;
use crate::providers::{Credentials, QueryRequest};
use jiff::Timestamp;
use std::sync::Arc;

/// Answers metrics queries.
pub struct MetricSources {
    caches: Arc<Caches>,
    desk: Desk,
    scraper: Arc<Scraper>,
}

impl MetricSources {
    /// Reads Secrets through `caches`, and asks `backends`, or the canary's own pods by `scraper`.
    #[must_use]
    pub fn new(caches: Arc<Caches>, backends: Arc<dyn Ask>, scraper: Arc<Scraper>) -> Self {
        Self {
            caches,
            desk: Desk::new(backends),
            scraper,
        }
    }

    /// From now on these metrics of the canary's own pods are sampled, and no others.
    pub fn sample(&self, canary: &CanaryKey, metrics: &[MetricQuery]) {
        self.scraper.follow(&canary.to_string(), metrics);
    }

    /// Asks the query's backend.
    pub async fn measure(&self, canary: &CanaryKey, query: &MetricQuery) -> Measurement {
        match self.request(canary, query).await {
            Err(why) => Measurement::Error(why),
            Ok(request) if request.config.provider_type == MetricProviderType::Scrape => {
                self.scraper.measure(&canary.to_string(), &request).await
            }
            Ok(request) => self.desk.ask(&canary.to_string(), request).await,
        }
    }

    /// Whether the query's backend can be reached and lets us in.
    pub async fn probe(&self, canary: &CanaryKey, query: &MetricQuery) -> Result<(), String> {
        let request = self.request(canary, query).await?;
        self.desk.probe(&canary.to_string(), request).await
    }

    async fn request(
        &self,
        canary: &CanaryKey,
        query: &MetricQuery,
    ) -> Result<QueryRequest, String> {
        Ok(QueryRequest {
            config: query.provider.clone(),
            credentials: self.credentials_of(canary, query).await?,
            query: query.query.clone(),
            interval: query.interval,
            now: Timestamp::now(),
        })
    }

    async fn credentials_of(
        &self,
        canary: &CanaryKey,
        query: &MetricQuery,
    ) -> Result<Option<Credentials>, String> {
        match &query.provider.secret {
            None => Ok(None),
            Some(secret) => self.credentials(canary, secret).await.map(Some),
        }
    }

    async fn credentials(
        &self,
        canary: &CanaryKey,
        secret: &SecretName,
    ) -> Result<Credentials, String> {
        let name = kinds::SECRET.named(&secret.namespace, &secret.name);
        match self.caches.object(canary, &name).await {
            Ok(Reading::Present(secret)) => Credentials::of(&secret),
            Ok(Reading::Absent) => Err(format!(
                "{name} not found; the template names it as secretRef"
            )),
            Ok(Reading::Unknown(why)) => Err(format!("{name} can't be read: {why}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
