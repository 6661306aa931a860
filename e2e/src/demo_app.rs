//! The program behind the demo pods: an HTTP/1.1 server that says its version in every answer, measures itself for
//! Prometheus, and fails, lags, starts late, dies or shuts down exactly as its environment asks. It is the known quantity
//! of every scenario: its true error rate is what was asked for, within one request.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The answer's header that names the version; [`crate::load`] tells the app's own answers from the gateway's by it.
pub const VERSION_HEADER: &str = "x-version";
/// The answer's header that names the pod.
pub const POD_HEADER: &str = "x-pod";

/// Upper bounds of the latency histogram, in seconds: dense from 1 ms to 1 s, so that a p99 read from it is off by
/// at most a third of its value.
const BUCKETS: [f64; 18] = [
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1.0, 2.5, 10.0,
];
/// How many distinct paths get their own series; the rest share `other`, so that a scan cannot fill the memory.
const MOST_PATHS: usize = 64;

/// How the demo app behaves. Every setting comes from the environment, as it would in a pod template.
#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    /// Address to listen on
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    pub address: String,
    /// Port to listen on
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// What the `x-version` header says
    #[arg(long, env = "VERSION", default_value = "0.0.0")]
    pub version: String,
    /// What the `x-pod` header says
    #[arg(long, env = "POD_NAME", default_value = "local")]
    pub pod: String,
    /// Share of requests answered with 500: a fraction (`0.05`) or percent (`5%`, `5`)
    #[arg(long, env = "ERROR_RATE", default_value = "0", value_parser = parse_rate)]
    pub error_rate: f64,
    /// Added to every answer, in milliseconds
    #[arg(long, env = "DELAY_MS", default_value_t = 0)]
    pub delay_ms: u64,
    /// Time before the port opens, in milliseconds
    #[arg(long, env = "START_DELAY_MS", default_value_t = 0)]
    pub start_delay_ms: u64,
    /// `1`: `/readyz` answers 503 for ever
    #[arg(long, env = "NEVER_READY", default_value = "", value_parser = parse_flag)]
    pub never_ready: bool,
    /// Exits with code 1 after so many milliseconds
    #[arg(long, env = "CRASH_AFTER_MS")]
    pub crash_after_ms: Option<u64>,
    /// After SIGTERM: time in milliseconds that requests are still served, while gateways learn that the pod goes
    #[arg(long, env = "SHUTDOWN_DELAY_MS", default_value_t = 2000)]
    pub shutdown_delay_ms: u64,
    /// `1`: exits at once on SIGTERM, with requests open
    #[arg(long, env = "DIE_AT_ONCE", default_value = "", value_parser = parse_flag)]
    pub die_at_once: bool,
}

/// Reads an error rate: `0.05` and `5%` and `5` are the same; a bare number above 1 is taken as percent.
fn parse_rate(text: &str) -> Result<f64, String> {
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

fn parse_flag(text: &str) -> Result<bool, String> {
    match text.trim() {
        "" | "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        other => Err(format!("expected 1 or 0, found {other:?}")),
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

struct App {
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
    fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let header = |name: &str, value: &str| {
            HeaderValue::from_str(value)
                .with_context(|| format!("{name} goes into a header, which cannot carry {value:?}"))
        };
        let mut registry = Registry::default();
        let latency = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register(
            "http_request_duration_seconds",
            "Time from the request's arrival to its answer",
            latency.clone(),
        );
        Ok(Self {
            version: header("VERSION", &arguments.version)?,
            pod: header("POD_NAME", &arguments.pod)?,
            body: format!("version {} pod {}\n", arguments.version, arguments.pod),
            delay: Duration::from_millis(arguments.delay_ms),
            failures: EvenFailures::new(arguments.error_rate),
            ready: AtomicBool::new(!arguments.never_ready),
            leaving: AtomicBool::new(false),
            latency,
            paths: std::sync::RwLock::default(),
            registry,
        })
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

async fn answer(State(app): State<Arc<App>>, request: Request) -> Response {
    let started = Instant::now();
    if !app.delay.is_zero() {
        tokio::time::sleep(app.delay).await;
    }
    let response = if app.failures.next_fails() {
        (StatusCode::INTERNAL_SERVER_ERROR, app.body.clone()).into_response()
    } else if request.uri().path() == "/headers" {
        echo(request.headers())
    } else {
        Response::new(Body::from(app.body.clone()))
    };
    let labels = RequestLabels {
        method: request.method().as_str().to_owned(),
        path: app.path_label(request.uri().path()),
        status: response.status().as_u16(),
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

/// Serves until `leave` changes to true, then goes on for the shutdown delay, then lets open requests end.
async fn serve(
    arguments: &Arguments,
    listener: TcpListener,
    mut leave: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let app = Arc::new(App::new(arguments)?);
    let delay = Duration::from_millis(arguments.shutdown_delay_ms);
    let leaving = Arc::clone(&app);
    let stop = async move {
        // A dropped sender means that nobody can ask any more: then serve on for ever.
        if leave.wait_for(|&leave| leave).await.is_err() {
            std::future::pending::<()>().await;
        }
        leaving.ready.store(false, Ordering::Relaxed);
        leaving.leaving.store(true, Ordering::Relaxed);
        tokio::time::sleep(delay).await;
    };
    let listener = listener.tap_io(|stream| {
        // Without it a small answer may wait 40 ms for the peer's delayed acknowledgement. Failing is harmless.
        stream.set_nodelay(true).ok();
    });
    axum::serve(listener, router(app))
        .with_graceful_shutdown(stop)
        .await
        .context("serving")
}

/// Runs the demo app until SIGTERM (exit 0) or until it crashes as asked (exit 1).
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (leave, leave_asked) = watch::channel(false);
    let asked = async {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        if arguments.die_at_once {
            std::process::exit(0);
        }
        leave.send(true).ok();
        std::future::pending::<anyhow::Result<()>>().await
    };
    let crash = async {
        match arguments.crash_after_ms {
            Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
            None => std::future::pending().await,
        }
        bail!(
            "crashing after {} ms, as CRASH_AFTER_MS asks",
            arguments.crash_after_ms.unwrap_or_default()
        )
    };
    let life = async {
        tokio::time::sleep(Duration::from_millis(arguments.start_delay_ms)).await;
        let address = format!("{}:{}", arguments.address, arguments.port);
        let listener = TcpListener::bind(&address)
            .await
            .with_context(|| format!("listening on {address} ($POD_IP:$PORT)"))?;
        serve(arguments, listener, leave_asked).await
    };
    tokio::select! { ended = life => ended, crashed = crash => crashed, never = asked => never }
}

/// Starts a demo app on a free loopback port, for tests; it ends with the returned sender's `true`.
#[cfg(test)]
pub(crate) async fn start_for_test(
    set: impl FnOnce(&mut Arguments),
) -> (
    std::net::SocketAddr,
    watch::Sender<bool>,
    tokio::task::JoinHandle<anyhow::Result<()>>,
) {
    let mut arguments = Arguments {
        address: "127.0.0.1".into(),
        port: 0,
        version: "1.0.0".into(),
        pod: "pod-a".into(),
        error_rate: 0.0,
        delay_ms: 0,
        start_delay_ms: 0,
        never_ready: false,
        crash_after_ms: None,
        shutdown_delay_ms: 0,
        die_at_once: false,
    };
    set(&mut arguments);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (leave, asked) = watch::channel(false);
    let task = tokio::spawn(async move { serve(&arguments, listener, asked).await });
    (address, leave, task)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn get(url: &str) -> reqwest::Response {
        crate::load::tests::plain_client()
            .get(url)
            .send()
            .await
            .unwrap()
    }

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

    #[tokio::test]
    async fn answers_carry_version_and_pod_and_are_measured_but_probes_are_not() {
        let (address, _leave, _task) = start_for_test(|a| a.error_rate = 0.5).await;
        let url = format!("http://{address}");
        for status in [200, 500, 200, 500] {
            let response = get(&format!("{url}/shop")).await;
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[VERSION_HEADER], "1.0.0");
            assert_eq!(response.text().await.unwrap(), "version 1.0.0 pod pod-a\n");
        }
        assert_eq!(get(&format!("{url}/readyz")).await.status(), 200);
        assert_eq!(get(&format!("{url}/healthz")).await.status(), 200);
        let metrics = get(&format!("{url}/metrics")).await.text().await.unwrap();
        for line in [
            r#"http_request_duration_seconds_count{method="GET",path="/shop",status="200"} 2"#,
            r#"http_request_duration_seconds_count{method="GET",path="/shop",status="500"} 2"#,
        ] {
            assert!(metrics.contains(line), "{metrics}");
        }
        assert!(
            !metrics.contains("healthz")
                && !metrics.contains("readyz")
                && !metrics.contains(r#"path="/metrics""#),
            "{metrics}"
        );
    }

    #[tokio::test]
    async fn the_headers_page_shows_what_arrived() {
        let (address, _leave, _task) = start_for_test(|_| ()).await;
        let client = crate::load::tests::plain_client();
        let response = client
            .get(format!("http://{address}/headers"))
            .header("x-added", "yes")
            .send()
            .await
            .unwrap();
        assert_eq!(
            response.json::<BTreeMap<String, String>>().await.unwrap()["x-added"],
            "yes"
        );
    }

    #[tokio::test]
    async fn given_never_ready_when_probed_then_503_while_traffic_is_still_answered() {
        let (address, _leave, _task) = start_for_test(|a| a.never_ready = true).await;
        assert_eq!(get(&format!("http://{address}/readyz")).await.status(), 503);
        assert_eq!(get(&format!("http://{address}/")).await.status(), 200);
    }

    #[tokio::test]
    async fn when_asked_to_leave_then_readiness_falls_at_once_and_requests_are_served_to_the_end() {
        let (address, leave, task) = start_for_test(|a| {
            a.shutdown_delay_ms = 300;
            a.delay_ms = 400;
        })
        .await;
        let open = tokio::spawn(async move { get(&format!("http://{address}/")).await.status() });
        while get(&format!("http://{address}/readyz")).await.status() == 200 {
            leave.send(true).unwrap();
        }
        let late = get(&format!("http://{address}/")).await;
        assert_eq!(
            (
                late.status().as_u16(),
                late.headers()["connection"].to_str().unwrap()
            ),
            (200, "close")
        );
        assert_eq!(open.await.unwrap(), 200);
        task.await.unwrap().unwrap();
        assert!(
            tokio::net::TcpStream::connect(address).await.is_err(),
            "the port is closed"
        );
    }

    #[test]
    fn paths_beyond_the_limit_share_one_label() {
        let arguments = Arguments {
            address: String::new(),
            port: 0,
            version: "1".into(),
            pod: "p".into(),
            error_rate: 0.0,
            delay_ms: 0,
            start_delay_ms: 0,
            never_ready: false,
            crash_after_ms: None,
            shutdown_delay_ms: 0,
            die_at_once: false,
        };
        let app = App::new(&arguments).unwrap();
        let labels: std::collections::HashSet<String> = (0..1000)
            .map(|n| app.path_label(&format!("/{n}")))
            .collect();
        assert_eq!(labels.len(), MOST_PATHS + 1);
        assert!(labels.contains("other"));
    }
}
