//! The demo's Prometheus: scrapes the instances and answers the HTTP API's instant queries, so that the real provider asks it as it would ask a
//! real one. It does not know the language. It answers `vector(1)` and the two built-in checks of the routers `gatewayapi:*` and `kubernetes`, as
//! `analysis/builtin.rs` writes them:
//!
//! ```text
//! (sum(rate(http_request_duration_seconds_count{kubernetes_namespace="N", kubernetes_pod_name=~"P", status!~"5.*"}[I])) or … * 0) / … * 100
//! histogram_quantile(0.99, sum(rate(http_request_duration_seconds_bucket{kubernetes_namespace="N", kubernetes_pod_name=~"P"}[I])) by (le))
//! ```
//!
//! Any other query gets an error that says so. Rates are the increase between the first and the last sample inside of the range over the time
//! between them; Prometheus extrapolates a little beyond both, which cancels out in these two.

use super::world::Instances;
use crate::analysis::sampling::{Growth, Reader, Source, Window, duration, success_rate};
use crate::analysis::{Names, Observer, observer_for};
use crate::api::{TargetKind, parse_go_duration};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use regex::Regex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How often the instances are scraped.
pub const SCRAPE_PERIOD: Duration = Duration::from_millis(500);
/// How far back samples are kept.
const KEPT: Duration = Duration::from_mins(5);
const METRIC: &str = "http_request_duration_seconds";

/// What was scraped.
pub struct Samples {
    instances: Arc<Instances>,
    /// By namespace and pod.
    pods: Mutex<BTreeMap<(String, String), Window>>,
    reader: Reader,
    began: Instant,
}

impl Samples {
    pub fn new(instances: Arc<Instances>) -> Arc<Self> {
        Arc::new(Self {
            instances,
            pods: Mutex::default(),
            reader: Reader::new(&Source {
                metric: Some(METRIC.to_owned()),
                status: Some("status".to_owned()),
                failed: "5.*".to_owned(),
                ..Source::default()
            }),
            began: Instant::now(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Window>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scrapes for ever.
    pub async fn scrape(self: Arc<Self>, client: reqwest::Client) {
        let mut ticks = tokio::time::interval(SCRAPE_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = self.instances.all().into_iter().map(|instance| {
                let client = client.clone();
                async move {
                    let url = format!("http://{}/metrics", instance.address);
                    let text = client.get(url).send().await.ok()?.text().await.ok()?;
                    Some(((instance.namespace, instance.pod), text))
                }
            });
            let answers = futures::future::join_all(asked).await;
            let now = self.began.elapsed();
            let mut pods = self.lock();
            for (pod, text) in answers.into_iter().flatten() {
                if let Ok(page) = self.reader.read(&text) {
                    pods.entry(pod).or_default().push(now, page);
                }
            }
            pods.retain(|_, window| {
                window.forget_before(now.saturating_sub(KEPT));
                !window.is_empty()
            });
        }
    }
}

/// What is asked of which pods.
#[derive(Clone, Debug, PartialEq)]
enum Question {
    /// Always 1: whether anybody is there.
    One,
    /// Which series there are for the built-in checks: not said, so that the row of the provider's name is asked.
    Sources,
    SuccessRate(Pods),
    Duration(Pods),
}

#[derive(Clone, Debug, PartialEq)]
struct Pods {
    namespace: String,
    pattern: String,
    interval: Duration,
}

/// Writes one of the built-in queries.
type Write = fn(&Observer, Names<'_>, &str) -> String;
/// Makes the question of the pods that a query names.
type Ask = fn(Pods) -> Question;

/// The question which series there are: there are those of the first row, the instances' own.
fn asks_for_sources(query: &str) -> Option<Question> {
    query
        .starts_with("sum(label_replace(count(http_request_duration_seconds_")
        .then_some(Question::Sources)
}

/// Understands the queries of the built-in checks, and no other: what is found in the place of their names is put into the query anew, and
/// the result must be the same text.
fn understood(query: &str) -> Option<Question> {
    if query == "vector(1)" {
        return Some(Question::One);
    }
    let http = observer_for("gatewayapi:v1");
    let forms: [(Write, Ask); 2] = [
        (Observer::success_rate, Question::SuccessRate),
        (Observer::duration, Question::Duration),
    ];
    let names = Names {
        namespace: "NAMESPACE",
        target: "TARGET",
        service: "",
        ingress: "",
        route: "",
        kind: TargetKind::Deployment,
    };
    let between = |from: &str, to: &str| -> Option<String> {
        let (_, rest) = query.split_once(from)?;
        Some(rest.split_once(to)?.0.to_owned())
    };
    let namespace = between("kubernetes_namespace=\"", "\"")?;
    let pattern = between("kubernetes_pod_name=~\"", "\"")?;
    let interval = between("}[", "]")?;
    for (write, question) in forms {
        let form = write(http, names, "INTERVAL");
        let (_, rest) = form.split_once("kubernetes_pod_name=~\"")?;
        let (own, _) = rest.split_once('"')?;
        let again = form
            .replace(own, "PATTERN")
            .replace("NAMESPACE", &namespace)
            .replace("INTERVAL", &interval)
            .replace("PATTERN", &pattern);
        if again == query {
            return Some(question(Pods {
                namespace,
                pattern: pattern.replace(r"\\", r"\"),
                interval: parse_go_duration(&interval).ok()?,
            }));
        }
    }
    None
}

impl Samples {
    /// By how much the series that are meant grew.
    fn growths(&self, pods: &Pods, now: Duration) -> Vec<Growth> {
        let Ok(pattern) = Regex::new(&format!("^(?:{})$", pods.pattern)) else {
            return Vec::new();
        };
        let from = now.saturating_sub(pods.interval);
        self.lock()
            .iter()
            .filter(|((namespace, pod), _)| *namespace == pods.namespace && pattern.is_match(pod))
            .filter_map(|(_, window)| window.growth(from))
            .collect()
    }

    /// The answer to a question; none where no series say anything, not a number without any request, as in Prometheus.
    fn evaluate(&self, question: &Question, now: Duration) -> Option<f64> {
        match question {
            Question::One => Some(1.0),
            Question::Sources => Some(0.0),
            Question::SuccessRate(pods) => success_rate(&self.growths(pods, now)),
            // The query is in seconds.
            Question::Duration(pods) => {
                duration(0.99, &self.growths(pods, now)).map(|milliseconds| milliseconds / 1e3)
            }
        }
    }
}

/// The HTTP API.
pub fn router(samples: Arc<Samples>) -> Router {
    Router::new()
        .route("/api/v1/query", get(ask))
        .with_state(samples)
}

async fn ask(
    State(samples): State<Arc<Samples>>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Response {
    answer(&samples, &parameters)
}

fn answer(samples: &Samples, parameters: &HashMap<String, String>) -> Response {
    let query = parameters.get("query").map_or("", String::as_str);
    let query = query.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some(question) = understood(&query).or_else(|| asks_for_sources(&query)) else {
        let body = json!({
            "status": "error", "errorType": "bad_data",
            "error": "the demo's Prometheus answers vector(1) and the built-in checks request-success-rate and request-duration of gatewayapi routers, and no other query; a real Prometheus answers this one",
        });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    };
    let time = jiff::Timestamp::now().as_millisecond() as f64 / 1e3;
    let result: Vec<Value> = samples
        .evaluate(&question, samples.began.elapsed())
        .map(|value| {
            let value = if value.is_nan() {
                "NaN".to_owned()
            } else {
                value.to_string()
            };
            json!({"metric": {}, "value": [time, value]})
        })
        .into_iter()
        .collect();
    Json(json!({"status": "success", "data": {"resultType": "vector", "result": result}}))
        .into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;
    use crate::analysis::sampling::{Bucket, Page, Requests};

    const NAMES: Names<'static> = Names {
        namespace: "demo",
        target: "my.shop",
        service: "shop",
        ingress: "",
        route: "",
        kind: TargetKind::Deployment,
    };

    #[test]
    fn the_built_in_checks_are_understood_and_nothing_else() {
        let http = observer_for("gatewayapi:v1");
        let pods = Pods {
            namespace: "demo".into(),
            pattern: r"my\.shop-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)".into(),
            interval: Duration::from_secs(3),
        };
        let success = http.success_rate(NAMES, "3s");
        assert_eq!(
            understood(&success),
            Some(Question::SuccessRate(pods.clone()))
        );
        assert_eq!(
            understood(&http.duration(NAMES, "3s")),
            Some(Question::Duration(pods))
        );
        assert_eq!(understood("vector(1)"), Some(Question::One));
        assert_eq!(understood(&success.replace("* 100", "* 99")), None);
        assert_eq!(understood("sum(up)"), None);
    }

    #[test]
    fn the_canary_s_rates_leave_the_primary_out() {
        let samples = Samples::new(Arc::default());
        let page = |good: f64, bad: f64| {
            let all = good + bad;
            Page {
                requests: Some(Requests { all, failed: bad }),
                buckets: [(10.0, all * 0.5), (100.0, all), (f64::INFINITY, all)]
                    .map(|(bound, count)| Bucket { bound, count })
                    .to_vec(),
                lacks_metric: false,
            }
        };
        let now = Duration::from_secs(2);
        for (pod, good, bad) in [
            ("shop-6d5f9c-x2x4z", 95.0, 5.0),
            ("shop-primary-6d5f9c-a", 0.0, 50.0),
        ] {
            let mut window = Window::default();
            window.push(Duration::ZERO, page(0.0, 0.0));
            window.push(now, page(good, bad));
            samples.lock().insert(("demo".into(), pod.into()), window);
        }
        let names = Names {
            target: "shop",
            ..NAMES
        };
        let http = observer_for("gatewayapi:v1");
        let ask = |query: String| samples.evaluate(&understood(&query).unwrap(), now);
        assert_eq!(ask(http.success_rate(names, "3s")), Some(95.0));
        let p99 = ask(http.duration(names, "3s")).unwrap();
        assert!((0.09..0.1).contains(&p99), "{p99}");
        assert_eq!(
            ask(http.success_rate(names, "1s")),
            None,
            "one sample says nothing"
        );
        let nobody = Names {
            target: "cart",
            ..NAMES
        };
        assert_eq!(ask(http.success_rate(nobody, "3s")), None);
    }
}
