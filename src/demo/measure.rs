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
use crate::analysis::{Names, Observer, observer_for};
use crate::api::{TargetKind, parse_go_duration};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use regex::Regex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How often the instances are scraped.
pub const SCRAPE_PERIOD: Duration = Duration::from_millis(500);
/// How far back samples are kept.
const KEPT: Duration = Duration::from_mins(5);
const METRIC: &str = "http_request_duration_seconds";

/// One scrape of one series of a pod, by the status of the answers.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    count: f64,
    /// Upper bound in seconds and how many answers came within it.
    buckets: Vec<(f64, f64)>,
}

/// The series of one pod: when it was scraped, and for each status what was found.
#[derive(Clone, Debug, Default)]
struct Series(VecDeque<(Instant, BTreeMap<String, Sample>)>);

/// What was scraped.
pub struct Samples {
    instances: Arc<Instances>,
    /// By namespace and pod.
    pods: Mutex<BTreeMap<(String, String), Series>>,
}

impl Samples {
    pub fn new(instances: Arc<Instances>) -> Arc<Self> {
        Arc::new(Self {
            instances,
            pods: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Series>> {
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
                    Some(((instance.namespace, instance.pod), read(&text)))
                }
            });
            let answers = futures::future::join_all(asked).await;
            let now = Instant::now();
            let mut pods = self.lock();
            for (pod, found) in answers.into_iter().flatten() {
                pods.entry(pod).or_default().0.push_back((now, found));
            }
            pods.retain(|_, series| {
                while series
                    .0
                    .front()
                    .is_some_and(|(at, _)| now.duration_since(*at) > KEPT)
                {
                    series.0.pop_front();
                }
                !series.0.is_empty()
            });
        }
    }
}

/// The histogram of an instance's metrics page, added up over methods and paths.
fn read(text: &str) -> BTreeMap<String, Sample> {
    let mut found: BTreeMap<String, Sample> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once('{') else {
            continue;
        };
        let Some((labels, value)) = rest.rsplit_once('}') else {
            continue;
        };
        let Ok(value) = value
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .parse::<f64>()
        else {
            continue;
        };
        let label = |wanted: &str| {
            labels.split(',').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                (key == wanted).then(|| value.trim_matches('"'))
            })
        };
        let Some(status) = label("status") else {
            continue;
        };
        let sample = found.entry(status.to_owned()).or_default();
        match name.strip_prefix(METRIC) {
            Some("_count") => sample.count += value,
            Some("_bucket") => {
                let bound = match label("le") {
                    Some("+Inf") => f64::INFINITY,
                    Some(bound) => match bound.parse() {
                        Ok(bound) => bound,
                        Err(_) => continue,
                    },
                    None => continue,
                };
                match sample
                    .buckets
                    .iter_mut()
                    .find(|(known, _)| known.total_cmp(&bound).is_eq())
                {
                    Some((_, count)) => *count += value,
                    None => sample.buckets.push((bound, value)),
                }
            }
            _ => {}
        }
    }
    found
}

/// What is asked of which pods.
#[derive(Clone, Debug, PartialEq)]
enum Question {
    /// Always 1: whether anybody is there.
    One,
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
    /// The increases per second of the series that are meant, by status.
    fn rates(&self, pods: &Pods, now: Instant) -> Vec<(String, Sample)> {
        let Ok(pattern) = Regex::new(&format!("^(?:{})$", pods.pattern)) else {
            return Vec::new();
        };
        let from = now.checked_sub(pods.interval);
        let mut rates = Vec::new();
        for ((namespace, pod), series) in self.lock().iter() {
            if *namespace != pods.namespace || !pattern.is_match(pod) {
                continue;
            }
            let within: Vec<_> = series
                .0
                .iter()
                .filter(|(at, _)| from.is_none_or(|from| *at >= from))
                .collect();
            let statuses: std::collections::BTreeSet<&String> =
                within.iter().flat_map(|(_, found)| found.keys()).collect();
            for status in statuses {
                let mut samples = within
                    .iter()
                    .filter_map(|(at, found)| Some((*at, found.get(status)?)));
                let (Some((first_at, first)), Some((last_at, last))) =
                    (samples.next(), samples.next_back())
                else {
                    continue;
                };
                let seconds = last_at.duration_since(first_at).as_secs_f64();
                let buckets = last
                    .buckets
                    .iter()
                    .map(|(bound, count)| {
                        let before = first
                            .buckets
                            .iter()
                            .find(|(known, _)| known.total_cmp(bound).is_eq())
                            .map_or(0.0, |(_, count)| *count);
                        (*bound, (count - before) / seconds)
                    })
                    .collect();
                let count = (last.count - first.count) / seconds;
                rates.push((status.clone(), Sample { count, buckets }));
            }
        }
        rates
    }

    /// The answer to a question; none where no series say anything.
    fn evaluate(&self, question: &Question, now: Instant) -> Option<f64> {
        match question {
            Question::One => Some(1.0),
            Question::SuccessRate(pods) => {
                let rates = self.rates(pods, now);
                if rates.is_empty() {
                    return None;
                }
                let sum = |good: bool| -> f64 {
                    rates
                        .iter()
                        .filter(|(status, _)| !good || !status.starts_with('5'))
                        .map(|(_, rate)| rate.count)
                        .sum()
                };
                // Without any request this is not a number, as in Prometheus.
                Some(sum(true) / sum(false) * 100.0)
            }
            Question::Duration(pods) => {
                let rates = self.rates(pods, now);
                let mut buckets: Vec<(f64, f64)> = Vec::new();
                for (_, rate) in rates {
                    for (bound, count) in rate.buckets {
                        match buckets
                            .iter_mut()
                            .find(|(known, _)| known.total_cmp(&bound).is_eq())
                        {
                            Some((_, sum)) => *sum += count,
                            None => buckets.push((bound, count)),
                        }
                    }
                }
                if buckets.is_empty() {
                    return None;
                }
                buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
                Some(quantile(0.99, &buckets))
            }
        }
    }
}

/// The value below which this part of all observations lies, by linear interpolation inside of its bucket. Buckets are cumulative and sorted.
fn quantile(part: f64, buckets: &[(f64, f64)]) -> f64 {
    let all = buckets.last().map_or(0.0, |(_, count)| *count);
    if all <= 0.0 {
        return f64::NAN;
    }
    let rank = part * all;
    let place = buckets
        .iter()
        .position(|(_, count)| *count >= rank)
        .unwrap_or(buckets.len() - 1);
    let (bound, count) = buckets[place];
    let (lower, below) = if place == 0 {
        (0.0, 0.0)
    } else {
        buckets[place - 1]
    };
    if bound.is_infinite() {
        return lower;
    }
    if count <= below {
        return bound;
    }
    lower + (bound - lower) * (rank - below) / (count - below)
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
    let Some(question) = understood(&query) else {
        let body = json!({
            "status": "error", "errorType": "bad_data",
            "error": "the demo's Prometheus answers vector(1) and the built-in checks request-success-rate and request-duration of gatewayapi routers, and no other query; a real Prometheus answers this one",
        });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    };
    let time = jiff::Timestamp::now().as_millisecond() as f64 / 1e3;
    let result: Vec<Value> = samples
        .evaluate(&question, Instant::now())
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
    fn a_metrics_page_is_read_by_status() {
        let page = "# TYPE http_request_duration_seconds histogram\n\
            http_request_duration_seconds_sum{method=\"GET\",path=\"/\",status=\"200\"} 0.5\n\
            http_request_duration_seconds_count{method=\"GET\",path=\"/\",status=\"200\"} 19\n\
            http_request_duration_seconds_count{method=\"GET\",path=\"/a\",status=\"200\"} 1\n\
            http_request_duration_seconds_bucket{le=\"0.01\",method=\"GET\",path=\"/\",status=\"200\"} 18\n\
            http_request_duration_seconds_bucket{le=\"+Inf\",method=\"GET\",path=\"/\",status=\"200\"} 19\n\
            http_request_duration_seconds_count{method=\"GET\",path=\"/\",status=\"500\"} 1\n# EOF\n";
        let found = read(page);
        assert_eq!(found["200"].count, 20.0);
        assert_eq!(found["200"].buckets, [(0.01, 18.0), (f64::INFINITY, 19.0)]);
        assert_eq!(found["500"].count, 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_canary_s_rates_leave_the_primary_out() {
        let samples = Samples::new(Arc::default());
        let page = |good: f64, bad: f64| {
            let sample = |count: f64, fast: f64| Sample {
                count,
                buckets: vec![(0.01, fast), (0.1, count), (f64::INFINITY, count)],
            };
            BTreeMap::from([
                ("200".to_owned(), sample(good, good * 0.5)),
                ("500".to_owned(), sample(bad, bad * 0.5)),
            ])
        };
        let begin = Instant::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        let now = Instant::now();
        for (pod, good, bad) in [
            ("shop-6d5f9c-x2x4z", 95.0, 5.0),
            ("shop-primary-6d5f9c-a", 0.0, 50.0),
        ] {
            let series = Series(VecDeque::from([
                (begin, page(0.0, 0.0)),
                (now, page(good, bad)),
            ]));
            samples.lock().insert(("demo".into(), pod.into()), series);
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
