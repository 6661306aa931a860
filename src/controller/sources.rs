//! Where metrics queries go: to the provider that the query names. Secrets are read through the caches, for the provider's address only.

use super::cache::Caches;
use super::queue::CanaryKey;
use crate::analysis::{Measurement, MetricQuery};
use std::sync::Arc;

/// Answers metrics queries.
pub struct MetricSources {
    #[allow(dead_code, reason = "read once providers are here")]
    caches: Arc<Caches>,
}

impl MetricSources {
    /// Reads secrets through `caches`.
    #[must_use]
    pub fn new(caches: Arc<Caches>, _no_cross_namespace_refs: bool) -> Self {
        Self { caches }
    }

    /// Asks the query's provider.
    #[allow(clippy::unused_async, reason = "providers are asked over the network")]
    pub async fn measure(&self, _canary: &CanaryKey, _query: &MetricQuery) -> Measurement {
        Measurement::Error("metrics providers have not come yet".to_owned())
    }
}
