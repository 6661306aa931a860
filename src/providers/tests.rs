//! The contract with the Prometheus API, against a small server on this machine.

use super::http::{MAX_ANSWER, Timing};
use super::{Credentials, Providers, QueryRequest};
use crate::analysis::{Measurement, ProviderConfig, SecretName};
use crate::object::Object;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server saw: path, query, headers.
type Seen = Arc<Mutex<Vec<(String, String, HeaderMap)>>>;

type Respond = Arc<dyn Fn(usize, &str) -> Response + Send + Sync>;

#[derive(Clone)]
struct Served {
    seen: Seen,
    respond: Respond,
    delay: Duration,
}

struct Server {
    address: SocketAddr,
    seen: Seen,
}

async fn handle(
    State(served): State<Served>,
    uri: axum::http::Uri,
    Query(pairs): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let query = pairs.get("query").cloned().unwrap_or_default();
    let count = {
        let mut seen = served.seen.lock().unwrap();
        seen.push((uri.path().to_owned(), query.clone(), headers));
        seen.len()
    };
    tokio::time::sleep(served.delay).await;
    (served.respond)(count, &query)
}

impl Server {
    async fn start(respond: impl Fn(usize, &str) -> Response + Send + Sync + 'static) -> Self {
        Self::slow(Duration::ZERO, respond).await
    }

    async fn slow(
        delay: Duration,
        respond: impl Fn(usize, &str) -> Response + Send + Sync + 'static,
    ) -> Self {
        let seen = Seen::default();
        let served = Served {
            seen: Arc::clone(&seen),
            respond: Arc::new(respond),
            delay,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(any(handle)).with_state(served);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, seen }
    }

    fn request(&self, path: &str) -> QueryRequest {
        QueryRequest {
            config: ProviderConfig {
                address: Some(format!("http://{}{path}", self.address)),
                ..ProviderConfig::default()
            },
            credentials: None,
            query: "sum(\n  up{app=\"a\"}\n)".to_owned(),
            interval: Duration::from_mins(1),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn seen(&self) -> Vec<(String, String, HeaderMap)> {
        self.seen.lock().unwrap().clone()
    }
}

const TIMING: Timing = Timing {
    attempt: Duration::from_millis(400),
    overall: Duration::from_millis(1500),
    first_wait: Duration::from_millis(5),
    retries: 2,
};

fn providers() -> Providers {
    Providers::new(TIMING, super::Surroundings::of_variables([].into())).unwrap()
}

fn vector(values: &[&str]) -> String {
    let result: Vec<_> = values
        .iter()
        .map(|value| json!({"metric": {}, "value": [1_700_000_000.1, value]}))
        .collect();
    json!({"status": "success", "data": {"resultType": "vector", "result": result}}).to_string()
}

fn error(text: &str) -> Measurement {
    Measurement::Error(text.to_owned())
}

#[tokio::test]
async fn answers_are_read_as_flagger_reads_them() {
    let none = || Measurement::NoData("no values found".to_owned());
    let cases = [
        (vector(&["98.5"]), Measurement::Value(98.5)),
        (vector(&["1", "2", "3"]), Measurement::LastOf { value: 3.0, series: 3 }),
        (vector(&["+Inf"]), Measurement::Value(f64::INFINITY)),
        (vector(&[]), none()),
        (vector(&["NaN"]), none()),
        (json!({"status": "success", "data": {"resultType": "scalar", "result": [1, "7"]}}).to_string(), Measurement::Value(7.0)),
        (
            json!({"status": "success", "data": {"resultType": "matrix", "result": []}}).to_string(),
            error("the query gives multiple values over time (a matrix); expected one value: wrap the range selector, for example with rate(…[1m])"),
        ),
        (
            json!({"status": "error", "errorType": "bad_data", "error": "parse error"}).to_string(),
            error("bad_data: parse error"),
        ),
        (
            json!({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1]}]}}).to_string(),
            error("a sample is [1]; expected [time, \"number\"]"),
        ),
        (
            json!({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": []}]}}).to_string(),
            error("a sample is []; expected [time, \"number\"]"),
        ),
        (
            "<html>".to_owned(),
            error("the answer is not what the Prometheus API gives: expected value at line 1 column 1"),
        ),
    ];
    for (body, expected) in cases {
        let answer = body.clone();
        let server = Server::start(move |_, query| {
            // A diagnosis has nothing to add here.
            if query.contains("label_replace") {
                StatusCode::BAD_REQUEST.into_response()
            } else {
                answer.clone().into_response()
            }
        })
        .await;
        assert_eq!(
            providers().ask(&server.request("")).await,
            expected,
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_request_has_path_query_headers_and_credentials() {
    let server = Server::start(|_, _| vector(&["1"]).into_response()).await;
    let mut request = server.request("/select/0/prometheus/");
    request
        .config
        .headers
        .insert("X-Scope-OrgID".to_owned(), vec!["tenant".to_owned()]);
    request.credentials = Some(Credentials::from_entries([("token", "s3cret\n")]));
    assert_eq!(providers().ask(&request).await, Measurement::Value(1.0));
    request.credentials = Some(Credentials::from_entries([
        ("username", "u"),
        ("password", "p"),
    ]));
    assert_eq!(providers().ask(&request).await, Measurement::Value(1.0));
    let seen = server.seen();
    assert_eq!(seen[0].0, "/select/0/prometheus/api/v1/query");
    assert_eq!(seen[0].1, "sum( up{app=\"a\"} )");
    assert_eq!(seen[0].2["x-scope-orgid"], "tenant");
    assert_eq!(seen[0].2[header::AUTHORIZATION], "Bearer s3cret");
    assert_eq!(seen[1].2[header::AUTHORIZATION], "Basic dTpw");
}

#[tokio::test]
async fn wrong_or_missing_credentials_are_errors_that_say_what_is_right() {
    let server = Server::start(|_, _| (StatusCode::UNAUTHORIZED, "no entry").into_response()).await;
    let mut request = server.request("");
    assert_eq!(
        providers().ask(&request).await,
        error("status 401 (are the credentials in spec.provider.secretRef right?): no entry")
    );
    // A refusal is not tried again.
    assert_eq!(server.seen().len(), 1);
    request.credentials = Some(Credentials::from_entries([("username", "u")]));
    assert_eq!(
        providers().ask(&request).await,
        error(
            "the Secret of the prometheus provider needs the key token, or the keys username and password; it has username"
        )
    );
    request.credentials = None;
    request.config.secret = Some(SecretName {
        namespace: "test".to_owned(),
        name: "prom".to_owned(),
    });
    assert_eq!(
        providers().ask(&request).await,
        error("the Secret prom.test with the credentials was not found")
    );
}

#[tokio::test]
async fn an_outage_is_tried_again_and_is_an_error_in_the_end() {
    let healed = Server::start(|count, _| {
        if count < 3 {
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        } else {
            vector(&["5"]).into_response()
        }
    })
    .await;
    assert_eq!(
        providers().ask(&healed.request("")).await,
        Measurement::Value(5.0)
    );

    let down =
        Server::start(|_, _| (StatusCode::BAD_GATEWAY, "upstream\n down").into_response()).await;
    assert_eq!(
        providers().ask(&down.request("")).await,
        error("status 502: upstream down")
    );
    assert_eq!(down.seen().len(), 3);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut request = down.request("");
    let nowhere = listener.local_addr().unwrap();
    drop(listener);
    request.config.address = Some(format!("http://user:secret@{nowhere}"));
    let Measurement::Error(text) = providers().ask(&request).await else {
        panic!("expected an error")
    };
    assert!(
        text.starts_with(&format!("{nowhere} can't be reached: ")),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn retry_after_is_kept_where_there_is_time_and_ends_the_call_where_there_is_none() {
    let limited = |seconds: &'static str| {
        move |count: usize, _: &str| {
            if count == 1 {
                (
                    StatusCode::TOO_MANY_REQUESTS,
                    [(header::RETRY_AFTER, seconds)],
                    "slow down",
                )
                    .into_response()
            } else {
                vector(&["1"]).into_response()
            }
        }
    };
    let short = Server::start(limited("1")).await;
    let begun = std::time::Instant::now();
    assert_eq!(
        providers().ask(&short.request("")).await,
        Measurement::Value(1.0)
    );
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let long = Server::start(limited("3600")).await;
    assert_eq!(
        providers().ask(&long.request("")).await,
        error("status 429: slow down")
    );
    assert_eq!(long.seen().len(), 1);
}

#[tokio::test]
async fn retry_after_may_be_a_date() {
    let at = |seconds: i64| {
        move |count: usize, _: &str| {
            if count == 1 {
                let date = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
                let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    [(header::RETRY_AFTER, date)],
                    "slow down",
                )
                    .into_response()
            } else {
                vector(&["1"]).into_response()
            }
        }
    };
    let patient = Providers::new(
        Timing {
            overall: Duration::from_secs(10),
            ..TIMING
        },
        super::Surroundings::of_variables([].into()),
    )
    .unwrap();
    // The date has whole seconds.
    let short = Server::start(at(2)).await;
    let begun = std::time::Instant::now();
    assert_eq!(
        patient.ask(&short.request("")).await,
        Measurement::Value(1.0)
    );
    assert!(begun.elapsed() >= Duration::from_millis(900));
    let long = Server::start(at(3600)).await;
    assert_eq!(
        providers().ask(&long.request("")).await,
        error("status 503: slow down")
    );
    assert_eq!(long.seen().len(), 1);
    let past = Server::start(at(-3600)).await;
    assert_eq!(
        providers().ask(&past.request("")).await,
        Measurement::Value(1.0)
    );
}

#[tokio::test]
async fn slow_and_huge_answers_are_cut_off() {
    let slow = Server::slow(Duration::from_secs(30), |_, _| {
        vector(&["1"]).into_response()
    })
    .await;
    let begun = std::time::Instant::now();
    let Measurement::Error(text) = providers().ask(&slow.request("")).await else {
        panic!("expected an error")
    };
    assert!(text.contains("did not answer within"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let huge = Server::start(|_, _| " ".repeat(MAX_ANSWER + 1).into_response()).await;
    assert_eq!(
        providers().ask(&huge.request("")).await,
        error(&format!(
            "the answer of {} is larger than {MAX_ANSWER} bytes; aggregate in the query",
            huge.address
        ))
    );
}

#[tokio::test]
async fn a_redirect_never_carries_credentials_to_another_host() {
    let elsewhere = Server::start(|_, _| vector(&["1"]).into_response()).await;
    let target = format!("http://{}/api/v1/query", elsewhere.address);
    let server = Server::start(move |_, _| {
        (StatusCode::FOUND, [(header::LOCATION, target.clone())]).into_response()
    })
    .await;
    let mut request = server.request("");
    request.credentials = Some(Credentials::from_entries([("token", "s3cret")]));
    let expected = error(&format!(
        "{} redirects to {}, and credentials are not sent to another host; set the provider's address to where the answer is",
        server.address, elsewhere.address
    ));
    assert_eq!(providers().ask(&request).await, expected);
    // A header of the template may be a key, too.
    request.credentials = None;
    request
        .config
        .headers
        .insert("X-Api-Key".to_owned(), vec!["s3cret".to_owned()]);
    assert_eq!(providers().ask(&request).await, expected);
    assert!(elsewhere.seen().is_empty());
    // Without credentials there is nothing to lose.
    request.config.headers.clear();
    assert_eq!(providers().ask(&request).await, Measurement::Value(1.0));
}

/// What the server of a diagnosis knows: counts by their mark, the labels of the metric, and the growth of what matches.
#[derive(Clone, Copy)]
struct Knows {
    counts: &'static [(&'static str, &'static str)],
    labels: &'static [&'static str],
    growth: &'static [&'static str],
}

#[tokio::test]
async fn no_data_is_explained_by_at_most_two_more_questions() {
    const QUERY: &str =
        "sum(rate(requests{kubernetes_namespace=\"test\", app=~\"web\"}[1m])) / vector(0)";
    let nothing = Knows {
        counts: &[],
        labels: &[],
        growth: &[],
    };
    let of_two = [("all", "4"), ("0", "4"), ("1", "4"), ("matching", "2")].as_slice();
    let cases = [
        (
            nothing,
            "Prometheus knows no metric requests: is it scraped, and is the name right?",
            2,
        ),
        (
            Knows {
                counts: &[("all", "4"), ("1", "4")],
                labels: &["__name__", "namespace", "pod"],
                ..nothing
            },
            "none of the 4 series of requests has the label kubernetes_namespace; they have namespace, pod",
            3,
        ),
        (
            Knows {
                counts: &[("all", "4"), ("0", "4")],
                labels: &["__name__", "app"],
                ..nothing
            },
            "none of the 4 series of requests matches app=~\"web\"; they have the label, with other values",
            3,
        ),
        (
            Knows {
                counts: &[("all", "4"), ("0", "2"), ("1", "2")],
                ..nothing
            },
            "each part of {kubernetes_namespace=\"test\", app=~\"web\"} fits some of the 4 series of requests, but none fits all of it",
            2,
        ),
        (
            Knows {
                counts: of_two,
                growth: &["0"],
                ..nothing
            },
            "there was no traffic: 2 series of requests match, and none of them grew within 1m",
            3,
        ),
        (
            Knows {
                counts: of_two,
                ..nothing
            },
            "2 series of requests match, but none has two samples within 1m: look back over at least two scrapes",
            3,
        ),
        (
            Knows {
                counts: of_two,
                growth: &["7"],
                ..nothing
            },
            "2 series of requests match and grew within 1m, so another part of the query has no value",
            3,
        ),
    ];
    for (knows, expected, questions) in cases {
        let server = Server::start(move |_, query| {
            if query.is_empty() {
                return json!({"status": "success", "data": knows.labels})
                    .to_string()
                    .into_response();
            }
            if query.starts_with("sum(increase(requests{") {
                return vector(knows.growth).into_response();
            }
            if !query.contains("label_replace") {
                return vector(&[]).into_response();
            }
            let result: Vec<_> = knows
                .counts
                .iter()
                .map(|(what, value)| json!({"metric": {"found": what}, "value": [1, value]}))
                .collect();
            json!({"status": "success", "data": {"resultType": "vector", "result": result}})
                .to_string()
                .into_response()
        })
        .await;
        let request = QueryRequest {
            query: QUERY.to_owned(),
            ..server.request("")
        };
        assert_eq!(
            providers().ask(&request).await,
            Measurement::NoData(format!("no values found; {expected}"))
        );
        assert_eq!(server.seen().len(), questions, "{expected}");
    }
}

#[tokio::test]
async fn a_diagnosis_that_fails_takes_nothing_away_and_one_that_is_slow_ends() {
    let server = Server::start(|_, query| {
        if query.contains("label_replace") {
            (StatusCode::UNPROCESSABLE_ENTITY, "too many samples").into_response()
        } else {
            vector(&[]).into_response()
        }
    })
    .await;
    let none = Measurement::NoData("no values found".to_owned());
    assert_eq!(providers().ask(&server.request("")).await, none);
    let slow = Server::slow(Duration::from_millis(300), |_, _| {
        vector(&[]).into_response()
    })
    .await;
    let begun = std::time::Instant::now();
    let Measurement::NoData(why) = providers().ask(&slow.request("")).await else {
        panic!("expected no data")
    };
    assert!(why.starts_with("no values found"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_probe_asks_for_the_vector_of_one() {
    let server = Server::start(|_, query| {
        vector(&[if query == "vector(1)" { "1" } else { "0" }]).into_response()
    })
    .await;
    assert_eq!(providers().probe(&server.request("")).await, Ok(()));
    let odd = Server::start(|_, _| vector(&["2"]).into_response()).await;
    assert_eq!(
        providers().probe(&odd.request("")).await,
        Err("vector(1) gave 2; is this a Prometheus API?".to_owned())
    );
}

#[tokio::test]
async fn what_is_no_address_says_so() {
    let server = Server::start(|_, _| vector(&["1"]).into_response()).await;
    let mut request = server.request("");
    request.config.address = Some("prometheus:9090".to_owned());
    assert_eq!(
        providers().ask(&request).await,
        error(
            "the address of the prometheus provider is not a URL; expected for example http://prometheus.monitoring:9090"
        )
    );
}

#[test]
fn credentials_come_from_a_secret_and_are_not_printed() {
    let secret = Object::new(json!({
        "metadata": {"name": "prom", "namespace": "test"},
        "data": {"token": "czNjcmV0Cg==", "binary": "/w=="},
    }));
    let credentials = Credentials::of(&secret).unwrap();
    assert_eq!(credentials.get("token"), Some("s3cret"));
    assert_eq!(credentials.get("binary"), None);
    assert_eq!(format!("{credentials:?}"), "Credentials([\"token\"])");
    let broken = Object::new(json!({"metadata": {"name": "prom"}, "data": {"token": "%"}}));
    assert_eq!(
        Credentials::of(&broken),
        Err("data[token] of Secret prom is not base64".to_owned())
    );
}
