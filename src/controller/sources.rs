//! Where metrics queries go: to the backend that the query names. Its Secret is read once and watched, so that a query costs no
//! request to the API server, and goes to the address that stands beside it in the same template, nowhere else.

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
        match self.caches.kept_object(canary, &name).await {
            Ok(Reading::Present(secret)) => Credentials::of(&secret),
            Ok(Reading::Absent) => Err(format!(
                "{name} not found; the template names it as secretRef"
            )),
            Ok(Reading::Unknown(why)) => Err(format!("{name} can't be read: {why}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::client::KubeApi;
    use super::super::metrics::Telemetry;
    use super::super::queue::Queue;
    use super::*;
    use crate::analysis::{Limits, MetricKind, Origin, ProviderConfig};
    use crate::api::MetricProviderType;
    use crate::providers::http::Timing;
    use crate::providers::{Providers, Surroundings};
    use crate::rollout::Want;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::State;
    use axum::http::{HeaderMap, Uri};
    use axum::response::{IntoResponse, Response};
    use futures::StreamExt;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::time::Duration;
    use tokio::sync::{broadcast, watch};

    /// An API server with one Secret, and Graphite, behind one address.
    #[derive(Clone)]
    struct World {
        version: Arc<Mutex<u64>>,
        /// How often the Secret was read.
        reads: Arc<Mutex<usize>>,
        /// What Graphite was shown.
        shown: Arc<Mutex<Vec<String>>>,
        events: broadcast::Sender<Value>,
    }

    fn metadata(version: u64) -> Value {
        json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "graphite", "namespace": "test", "uid": "1", "resourceVersion": version.to_string()},
        })
    }

    async fn serve(State(world): State<World>, uri: Uri, headers: HeaderMap) -> Response {
        let version = *world.version.lock().unwrap();
        let json = |value: Value| {
            ([("content-type", "application/json")], value.to_string()).into_response()
        };
        match (uri.path(), uri.query().unwrap_or_default()) {
            ("/api/v1/secrets", query) if query.contains("watch=") => {
                let events = world.events.subscribe();
                let lines = futures::stream::unfold(events, |mut events| async {
                    let event = events.recv().await.ok()?;
                    Some((Ok::<_, std::io::Error>(format!("{event}\n")), events))
                });
                (
                    [("content-type", "application/json")],
                    Body::from_stream(lines.boxed()),
                )
                    .into_response()
            }
            ("/api/v1/secrets", _) => json(json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
                "metadata": {"resourceVersion": version.to_string()}, "items": [metadata(version)],
            })),
            ("/api/v1/namespaces/test/secrets/graphite", _) => {
                *world.reads.lock().unwrap() += 1;
                let mut secret = metadata(version);
                secret["apiVersion"] = json!("v1");
                secret["kind"] = json!("Secret");
                secret["stringData"] =
                    json!({"username": "u", "password": format!("password-{version}")});
                json(secret)
            }
            ("/render", _) => {
                let shown = headers
                    .get("authorization")
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                world.shown.lock().unwrap().push(shown);
                json(json!([{"target": "a", "datapoints": [[1, null]]}]))
            }
            (path, query) => panic!("unexpected: {path} {query}"),
        }
    }

    fn shown(version: u64) -> String {
        use base64::Engine;
        let text = format!("u:password-{version}");
        format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(text)
        )
    }

    #[tokio::test]
    async fn a_secret_is_read_once_and_again_when_it_changes() {
        crate::providers::http::install_crypto();
        let world = World {
            version: Arc::new(Mutex::new(1)),
            reads: Arc::default(),
            shown: Arc::default(),
            events: broadcast::channel(8).0,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(serve).with_state(world.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });

        let (_configs, config) = watch::channel(kube::Config::new(address.parse().unwrap()));
        let caches = Caches::new(
            KubeApi::following(config).unwrap(),
            Vec::new(),
            Arc::new(Queue::default()),
            Arc::new(Telemetry::new("gatewayapi:v1")),
        );
        let providers =
            Providers::new(Timing::default(), Surroundings::of_variables([].into())).unwrap();
        let scraper = Scraper::new(Arc::<Caches>::clone(&caches)).unwrap();
        let sources = MetricSources::new(Arc::clone(&caches), Arc::new(providers), scraper);
        let canary = CanaryKey::new("test", "web");
        let query = MetricQuery {
            name: "errors".to_owned(),
            kind: MetricKind::Value,
            origin: Origin::Inline,
            provider: ProviderConfig {
                provider_type: MetricProviderType::Graphite,
                address: Some(address),
                secret: Some(SecretName {
                    namespace: "test".to_owned(),
                    name: "graphite".to_owned(),
                }),
                ..ProviderConfig::default()
            },
            query: "target=a".to_owned(),
            interval: Duration::from_mins(1),
            limits: Limits::default(),
        };
        // What a pass wants in between: not the Secret.
        let wants = BTreeSet::from([Want::Object(kinds::DEPLOYMENT.named("test", "web"))]);
        for _ in 0..3 {
            assert_eq!(
                sources.measure(&canary, &query).await,
                Measurement::Value(1.0)
            );
            caches.settle(&canary, &wants);
        }
        assert_eq!(*world.reads.lock().unwrap(), 1);

        *world.version.lock().unwrap() = 2;
        world
            .events
            .send(json!({"type": "MODIFIED", "object": metadata(2)}))
            .unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while world.shown.lock().unwrap().last() != Some(&shown(2)) {
            assert!(std::time::Instant::now() < deadline, "{:?}", world.shown);
            assert_eq!(
                sources.measure(&canary, &query).await,
                Measurement::Value(1.0)
            );
        }
        assert_eq!(*world.reads.lock().unwrap(), 2);
        let all = world.shown.lock().unwrap().clone();
        assert_eq!(all[0], shown(1));
    }
}
