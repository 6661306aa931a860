//! Backends that the API server of the own cluster answers for: what is asked there, what is left behind, and that nothing of the
//! controller's goes elsewhere.

use super::http::Timing;
use super::surroundings::{ApiServer, ClusterError, Surroundings};
use super::{Credentials, Http, Measurement, Providers, QueryRequest};
use crate::analysis::ProviderConfig;
use crate::api::MetricProviderType;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

/// An API server that has one object, whose status is read so often before it is complete.
#[derive(Default)]
struct Cluster {
    asked: Mutex<Vec<String>>,
    answer: Option<Value>,
    error: Option<ClusterError>,
    /// Reads until an Analysis has its status.
    reads: usize,
}

impl Cluster {
    fn note(&self, what: String) -> usize {
        let mut asked = self.asked.lock().unwrap();
        asked.push(what);
        asked.len()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl ApiServer for Cluster {
    fn get<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Value, ClusterError>> {
        let count = self.note(format!("GET {path}"));
        Box::pin(async move {
            if let Some(error) = &self.error {
                return Err(error.clone());
            }
            let done = count > self.reads;
            Ok(if done {
                self.answer.clone().unwrap_or_default()
            } else {
                json!({})
            })
        })
    }

    fn create<'a>(
        &'a self,
        path: &'a str,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        self.note(format!("POST {path} {}", body["spec"]));
        Box::pin(async { self.error.clone().map_or(Ok(json!({})), Err) })
    }

    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), ClusterError>> {
        self.note(format!("DELETE {path}"));
        Box::pin(async { Ok(()) })
    }
}

fn providers(cluster: &Arc<Cluster>) -> Providers {
    static HTTP: LazyLock<Http> = LazyLock::new(|| {
        Http::new(Timing {
            attempt: Duration::from_secs(1),
            overall: Duration::from_secs(2),
            first_wait: Duration::from_millis(5),
            retries: 0,
        })
        .unwrap()
    });
    let cluster: Arc<dyn ApiServer> = cluster.clone();
    let surroundings = Surroundings::of_variables([].into()).in_cluster(cluster);
    Providers::over(HTTP.clone(), surroundings.clone()).hurried(surroundings)
}

fn request(kind: MetricProviderType, query: &str) -> QueryRequest {
    QueryRequest {
        config: ProviderConfig {
            provider_type: kind,
            ..ProviderConfig::default()
        },
        credentials: None,
        query: query.to_owned(),
        interval: Duration::from_mins(1),
        now: Timestamp::UNIX_EPOCH,
    }
}

/// The parts before the random end of a name.
fn without_chance(asked: &[String]) -> Vec<String> {
    let end = regex::Regex::new("web-[0-9a-f]{6}$").unwrap();
    asked
        .iter()
        .map(|text| end.replace(text, "web-…").into_owned())
        .collect()
}

#[tokio::test]
async fn an_analysis_is_made_waited_for_and_removed() {
    for (passed, expected) in [(true, 1.0), (false, 0.0)] {
        let cluster = Arc::new(Cluster {
            answer: Some(json!({"status": {"state": "Completed", "pass": passed}})),
            reads: 2,
            ..Cluster::default()
        });
        let asked = request(MetricProviderType::Keptn, "analysis/shop/web/5m/stage=dev");
        assert_eq!(
            providers(&cluster).ask(&asked).await,
            Measurement::Value(expected)
        );
        let root = "/apis/metrics.keptn.sh/v1beta1/namespaces/shop/analyses";
        let spec = r#"{"analysisDefinition":{"name":"web"},"args":{"stage":"dev"},"timeframe":{"recent":"5m"}}"#;
        assert_eq!(
            without_chance(&cluster.asked()),
            [
                format!("POST {root} {spec}"),
                format!("GET {root}/web-…"),
                format!("GET {root}/web-…"),
                format!("DELETE {root}/web-…"),
            ]
        );
    }
}

#[tokio::test]
async fn an_analysis_is_removed_whatever_becomes_of_it_or_of_who_asked() {
    let never = Arc::new(Cluster {
        reads: usize::MAX,
        ..Cluster::default()
    });
    let asked = request(MetricProviderType::Keptn, "analysis/shop/web");
    let Measurement::Error(why) = providers(&never).ask(&asked).await else {
        panic!("expected an error")
    };
    assert!(why.contains("was not done within"), "{why}");
    assert!(never.asked().last().unwrap().starts_with("DELETE"));

    let impatient = Arc::new(Cluster {
        reads: usize::MAX,
        ..Cluster::default()
    });
    let providers = providers(&impatient);
    let gone = tokio::time::timeout(Duration::from_millis(50), providers.ask(&asked)).await;
    assert!(gone.is_err());
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while !impatient
        .asked()
        .last()
        .is_some_and(|last| last.starts_with("DELETE"))
    {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            impatient.asked()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_external_metric_is_read_with_the_controllers_rights() {
    let cluster = Arc::new(Cluster {
        answer: Some(json!({"items": [{"value": "250m"}, {"value": "9"}]})),
        ..Cluster::default()
    });
    let asked = request(
        MetricProviderType::ExternalMetrics,
        "shop/queue?labelSelector=app%3Dweb",
    );
    assert_eq!(
        providers(&cluster).ask(&asked).await,
        Measurement::FirstOf {
            value: 0.25,
            series: 2
        }
    );
    assert_eq!(
        cluster.asked(),
        ["GET /apis/external.metrics.k8s.io/v1beta1/namespaces/shop/queue?labelSelector=app%3Dweb"]
    );
}

#[tokio::test]
async fn with_an_address_the_cluster_is_not_asked_and_its_token_goes_nowhere() {
    let cluster = Arc::new(Cluster::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let app = axum::Router::new().fallback(move |headers: axum::http::HeaderMap| {
        let token = headers
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned());
        noted.lock().unwrap().push(token);
        async { r#"{"items": [{"value": "7"}]}"# }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut asked = request(MetricProviderType::ExternalMetrics, "queue");
    asked.config.address = Some(address);
    assert_eq!(
        providers(&cluster).ask(&asked).await,
        Measurement::Value(7.0)
    );
    asked.credentials = Some(Credentials::from_entries([("token", "of-the-template")]));
    assert_eq!(
        providers(&cluster).ask(&asked).await,
        Measurement::Value(7.0)
    );
    assert_eq!(cluster.asked(), Vec::<String>::new());
    assert_eq!(
        *seen.lock().unwrap(),
        [None, Some("Bearer of-the-template".to_owned())]
    );
}

#[tokio::test]
async fn what_is_not_installed_or_not_granted_says_what_would_help() {
    let cases = [
        (
            MetricProviderType::Keptn,
            "keptnmetric/shop/x",
            ClusterError::Unserved("404 page not found".to_owned()),
            "KeptnMetric x.shop can't be had (is Keptn installed?): 404 page not found",
        ),
        (
            MetricProviderType::Keptn,
            "analysis/shop/x",
            ClusterError::Forbidden("forbidden".to_owned()),
            "can't be had (grant it with `serin rbac --metrics-providers keptn` or the chart's rbac.metricsProviders): forbidden",
        ),
        (
            MetricProviderType::ExternalMetrics,
            "x",
            ClusterError::Unserved("404".to_owned()),
            "the external metric can't be had (is an adapter for external metrics installed, and does it know this metric?): 404",
        ),
        (
            MetricProviderType::ExternalMetrics,
            "x",
            ClusterError::Forbidden("no".to_owned()),
            "the external metric can't be had (grant it with `serin rbac --metrics-providers externalmetrics` or the chart's rbac.metricsProviders): no",
        ),
    ];
    for (kind, query, error, expected) in cases {
        let cluster = Arc::new(Cluster {
            error: Some(error),
            ..Cluster::default()
        });
        let asked = request(kind, query);
        let Measurement::Error(why) = providers(&cluster).ask(&asked).await else {
            panic!("expected an error")
        };
        assert!(why.ends_with(expected), "{why}");
        assert!(providers(&cluster).probe(&asked).await.is_err());
    }
}
