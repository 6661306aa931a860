//! What answers behind the pods of the demos and of every scenario: a server that says its version in every answer, measures
//! itself for Prometheus, and fails or lags exactly as it is told. It speaks HTTP/1.1, and in the test bed HTTP/2 too, where any method of
//! gRPC can be called. It is the known quantity: its true error rate is what was asked for, within
//! one request.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use http_body_util::{BodyExt, Full};
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// The answer's header that names the version; the load tells the app's own answers from the gateway's by it.
pub const VERSION_HEADER: &str = "x-version";
/// The answer's header that names the pod.
pub const POD_HEADER: &str = "x-pod";

/// The content type of calls of gRPC.
pub const GRPC: &str = "application/grpc";
/// Where such a call says how it ended.
pub const GRPC_STATUS: &str = "grpc-status";
/// A message without content, in its frame.
pub const GRPC_EMPTY: &[u8] = &[0; 5];
/// `INTERNAL`.
const GRPC_FAILED: u32 = 13;

/// Upper bounds of the latency histogram, in seconds: dense from 1 ms to 1 s, so that a p99 read from it is off by
/// at most a third of its value.
const BUCKETS: [f64; 18] = [
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1.0, 2.5, 10.0,
];
/// How many distinct paths get their own series; the rest share `other`, so that a scan cannot fill the memory.
const MOST_PATHS: usize = 64;

/// Reads an error rate: `0.05` and `5%` and `5` are the same; a bare number above 1 is taken as percent.
///
/// # Errors
/// A sentence on what was found instead.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("expected a rate like 0.05, 5 or 5%, at most 100 %, found {text:?}");
    let text = text.trim();
    let (number, percent) = text.strip_suffix('%').map_or((text, false), |n| (n, true));
    let number: f64 = if number.is_empty() {
        0.0
    } else {
        number.trim().parse().map_err(|_| wrong())?
    };
    let rate = if percent || number > 1.0 {
        number / 100.0
    } else {
        number
    };
    if (0.0..=1.0).contains(&rate) {
        Ok(rate)
    } else {
        Err(wrong())
    }
}

/// Decides which requests fail: evenly spaced, so that after n requests the failures differ from n × rate by less than
/// one. A rate of 5 % fails the 20th, the 40th, …
#[derive(Debug)]
struct EvenFailures {
    rate: f64,
    seen: AtomicU64,
}

impl EvenFailures {
    fn new(rate: f64) -> Self {
        Self {
            rate,
            seen: AtomicU64::new(0),
        }
    }

    fn next_fails(&self) -> bool {
        let before = self.seen.fetch_add(1, Ordering::Relaxed);
        self.due_after(before + 1) > self.due_after(before)
    }

    /// Failures due among the first so many requests. The hair on top keeps 60 × 0.05 from falling below 3.
    fn due_after(&self, requests: u64) -> f64 {
        (requests as f64 * self.rate + 1e-9).floor()
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    path: String,
    status: u16,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// How an app behaves.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// What the `x-version` header says.
    pub version: String,
    /// What the `x-pod` header says.
    pub pod: String,
    /// Share of requests answered with 500, 0..=1.
    pub error_rate: f64,
    /// Added to every answer.
    pub delay: Duration,
    /// `/readyz` answers 503 for ever.
    pub never_ready: bool,
}

/// A header can't carry what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} goes into a header, which cannot carry {1:?}")]
pub struct AppError(&'static str, String);

/// The app itself.
pub struct App {
    version: HeaderValue,
    pod: HeaderValue,
    body: String,
    delay: Duration,
    failures: EvenFailures,
    ready: AtomicBool,
    leaving: AtomicBool,
    latency: Family<RequestLabels, Histogram, fn() -> Histogram>,
    paths: std::sync::RwLock<std::collections::HashSet<String>>,
    registry: Registry,
}

impl App {
    /// An app that behaves so.
    ///
    /// # Errors
    /// When a header can't carry version or pod.
    pub fn new(behaviour: &Behaviour) -> Result<Self, AppError> {
        let header = |name: &'static str, value: &str| {
            HeaderValue::from_str(value).map_err(|_| AppError(name, value.to_owned()))
        };
        let mut registry = Registry::default();
        let latency = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register(
            "http_request_duration_seconds",
            "Time from the request's arrival to its answer",
            latency.clone(),
        );
        Ok(Self {
            version: header("VERSION", &behaviour.version)?,
            pod: header("POD_NAME", &behaviour.pod)?,
            body: format!("version {} pod {}\n", behaviour.version, behaviour.pod),
            delay: behaviour.delay,
            failures: EvenFailures::new(behaviour.error_rate),
            ready: AtomicBool::new(!behaviour.never_ready),
            leaving: AtomicBool::new(false),
            latency,
            paths: std::sync::RwLock::default(),
            registry,
        })
    }

    /// From now on the app is on its way out: not ready, and its clients are asked to leave.
    pub fn leave(&self) {
        self.ready.store(false, Ordering::Relaxed);
        self.leaving.store(true, Ordering::Relaxed);
    }

    fn path_label(&self, path: &str) -> String {
        if self.paths.read().is_ok_and(|known| known.contains(path)) {
            return path.to_owned();
        }
        let Ok(mut known) = self.paths.write() else {
            return "other".to_owned();
        };
        if known.len() < MOST_PATHS {
            known.insert(path.to_owned());
        }
        if known.contains(path) {
            path.to_owned()
        } else {
            "other".to_owned()
        }
    }

    /// Marks an answer as this app's own, and asks the client to leave once the app is on its way out.
    fn sign(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.insert(
            HeaderName::from_static(VERSION_HEADER),
            self.version.clone(),
        );
        headers.insert(HeaderName::from_static(POD_HEADER), self.pod.clone());
        if self.leaving.load(Ordering::Relaxed) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &app.registry) {
        Ok(()) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn healthz() -> &'static str {
    "alive\n"
}

async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// What arrived, as JSON: shows which headers a route added or removed.
fn echo(headers: &HeaderMap) -> Response {
    let received: BTreeMap<&str, String> = headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    axum::Json(received).into_response()
}

/// An answer to any call of gRPC: an empty message, and behind it how the call ended.
fn answer_call(status: u32) -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from(status));
    let message = Full::new(Bytes::from_static(GRPC_EMPTY));
    let body = message.with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
    response
}

async fn answer(State(app): State<Arc<App>>, request: Request) -> Response {
    let started = Instant::now();
    if !app.delay.is_zero() {
        tokio::time::sleep(app.delay).await;
    }
    let fails = app.failures.next_fails();
    let is_call = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes()));
    let response = if is_call {
        answer_call(if fails { GRPC_FAILED } else { 0 })
    } else if fails {
        (StatusCode::INTERNAL_SERVER_ERROR, app.body.clone()).into_response()
    } else if request.uri().path() == "/headers" {
        echo(request.headers())
    } else {
        Response::new(Body::from(app.body.clone()))
    };
    let labels = RequestLabels {
        method: request.method().as_str().to_owned(),
        path: app.path_label(request.uri().path()),
        // A call of gRPC that went wrong counts as 500, since HTTP's own status is 200 then too.
        status: if is_call && fails {
            500
        } else {
            response.status().as_u16()
        },
    };
    app.latency
        .get_or_create(&labels)
        .observe(started.elapsed().as_secs_f64());
    app.sign(response)
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(answer)
        .with_state(app)
}

/// Serves until `leave` is over, then goes on for `delay`, then lets open requests end.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    leave: impl Future<Output = ()> + Send + 'static,
    delay: Duration,
) -> std::io::Result<()> {
    let leaving = Arc::clone(&app);
    let stop = async move {
        leave.await;
        leaving.leave();
        tokio::time::sleep(delay).await;
    };
    let listener = listener.tap_io(|stream| {
        // Without it a small answer may wait 40 ms for the peer's delayed acknowledgement. Failing is harmless.
        stream.set_nodelay(true).ok();
    });
    axum::serve(listener, router(app))
        .with_graceful_shutdown(stop)
        .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_may_be_a_fraction_or_percent() {
        for (text, rate) in [
            ("0", 0.0),
            ("0.05", 0.05),
            ("5%", 0.05),
            ("5", 0.05),
            ("1", 1.0),
            ("100", 1.0),
            ("0.5%", 0.005),
            ("", 0.0),
        ] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        assert!(parse_rate("101").is_err());
        assert!(parse_rate("often").unwrap_err().contains("often"));
    }

    #[test]
    fn given_any_rate_the_failures_stay_within_one_request_of_it() {
        for rate in [0.0, 0.001, 0.01, 0.05, 1.0 / 3.0, 0.5, 0.999, 1.0] {
            let failures = EvenFailures::new(rate);
            let mut failed = 0.0;
            for seen in 1..=2000 {
                failed += f64::from(u8::from(failures.next_fails()));
                assert!(
                    (failed - f64::from(seen) * rate).abs() < 1.0,
                    "{failed} of {seen} at {rate}"
                );
            }
        }
    }

    #[test]
    fn paths_beyond_the_limit_share_one_label() {
        let app = App::new(&Behaviour::default()).unwrap();
        let labels: std::collections::HashSet<String> = (0..1000)
            .map(|n| app.path_label(&format!("/{n}")))
            .collect();
        assert_eq!(labels.len(), MOST_PATHS + 1);
        assert!(labels.contains("other"));
    }
}
