//! The built-in queries of each mesh and ingress, asked of a real Prometheus that holds series as that mesh or ingress exports them: the
//! labels are the exporter's, not taken from the queries. Beside the canary's requests are the primary's, all of them bad and slow. And why a
//! check has no data, as a canary's event says it.
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::routing::get;
use futures::future::try_join_all;
use serde_json::{Value, json};
use serin::analysis::{DurationUnit, Names, OBSERVERS, Observer};
use serin::api::TargetKind;

use super::shop::{self, PATIENCE, Plan, Shop};
use crate::bed::Bed;
use crate::bed::process::{Process, Program};

const PROMETHEUS: &str = "127.0.0.1:9091";
/// Seconds that a query looks back.
const SPAN: &str = "10s";
/// Requests per second of the canary, and the percentage of them that goes well.
const RATE: f64 = 100.0;
const GOOD: f64 = 95.0;
/// All requests of the canary take between these; a percentile of 99 is close to the end.
const FROM_MS: f64 = 100.0;
const TO_MS: f64 = 200.0;
const MEAN_MS: f64 = 150.0;

const NAMES: Names<'static> = Names {
    namespace: "shop",
    target: "web",
    service: "web-svc",
    ingress: "front.door",
    route: "web-00002",
    kind: TargetKind::Deployment,
};

/// How one exporter tells of requests. `SIDE` stands for what tells the canary from the primary.
struct Exporter {
    observer: &'static str,
    requests: &'static str,
    labels: &'static str,
    /// What `SIDE` is for the canary and for the primary.
    sides: (&'static str, &'static str),
    /// Label of the answer, and its value for good and bad ones.
    code: (&'static str, &'static str, &'static str),
    latency: &'static str,
    /// Labels of the latency where they are others.
    latency_labels: Option<&'static str>,
}

const ENVOY: Exporter = Exporter {
    observer: "",
    requests: "envoy_cluster_upstream_rq",
    labels: "",
    sides: ("canary", "primary"),
    code: ("envoy_response_code", "200", "503"),
    latency: "envoy_cluster_upstream_rq_time",
    latency_labels: None,
};

const EXPORTERS: &[Exporter] = &[
    Exporter {
        observer: "istio",
        requests: "istio_requests_total",
        labels: r#"reporter="destination",source_workload="gateway",destination_workload="SIDE",destination_workload_namespace="shop",destination_service_name="web-svc""#,
        sides: ("web", "web-primary"),
        code: ("response_code", "200", "500"),
        latency: "istio_request_duration_milliseconds",
        ..ENVOY
    },
    Exporter {
        observer: "linkerd",
        requests: "response_total",
        labels: r#"direction="inbound",namespace="shop",deployment="SIDE",tls="true""#,
        sides: ("web", "web-primary"),
        code: ("classification", "success", "failure"),
        latency: "response_latency_ms",
        ..ENVOY
    },
    Exporter {
        observer: "appmesh",
        labels: r#"kubernetes_namespace="shop",kubernetes_pod_name="SIDE""#,
        sides: ("web-5d8f7c9b6f-x2x7k", "web-primary-6c54bd9f7b-9jqzt"),
        ..ENVOY
    },
    Exporter {
        observer: "contour",
        labels: r#"envoy_cluster_name="shop_web-svc-SIDE_80""#,
        ..ENVOY
    },
    Exporter {
        observer: "gloo",
        labels: r#"envoy_cluster_name="shop-web-svc-SIDEupstream-80_shop""#,
        ..ENVOY
    },
    Exporter {
        observer: "kuma",
        labels: r#"service="web-svc-SIDE_shop_svc_80""#,
        ..ENVOY
    },
    Exporter {
        observer: "knative",
        labels: r#"envoy_cluster_name="shop/SIDE""#,
        sides: ("web-00002", "web-00001"),
        ..ENVOY
    },
    Exporter {
        observer: "nginx",
        requests: "nginx_ingress_controller_requests",
        labels: r#"namespace="shop",ingress="front.door",service="web-svc",canary="SIDE""#,
        sides: ("shop-web-svc-canary-80", ""),
        code: ("status", "200", "502"),
        latency: "nginx_ingress_controller_response_duration_seconds",
        ..ENVOY
    },
    Exporter {
        observer: "skipper",
        requests: "skipper_response_duration_seconds",
        labels: r#"route="kube_shop__front_door_canary__shop_example____web_svc_SIDE",method="GET""#,
        code: ("code", "200", "500"),
        latency: "skipper_serve_route_duration_seconds",
        ..ENVOY
    },
    Exporter {
        observer: "traefik",
        requests: "traefik_service_request_duration_seconds",
        labels: r#"service="shop-web-svc-SIDE-80@kubernetescrd",method="GET",protocol="http""#,
        code: ("code", "200", "502"),
        latency: "traefik_service_request_duration_seconds",
        ..ENVOY
    },
    Exporter {
        observer: "osm",
        requests: "osm_request_total",
        labels: r#"destination_namespace="shop",destination_kind="Deployment",destination_name="SIDE",source_name="gateway""#,
        sides: ("web", "web-primary"),
        code: ("response_code", "200", "500"),
        latency: "osm_request_duration_ms",
        ..ENVOY
    },
    Exporter {
        observer: "apisix",
        requests: "apisix_http_status",
        labels: r#"route="shop_web-00002-web-svc-SIDE_main""#,
        code: ("code", "200", "500"),
        latency: "apisix_http_latency",
        latency_labels: Some(r#"type="request",route="shop_web-00002-web-svc-SIDE_main""#),
        ..ENVOY
    },
    Exporter {
        observer: "http",
        requests: "http_request_duration_seconds",
        labels: r#"kubernetes_namespace="shop",kubernetes_pod_name="SIDE",path="/""#,
        sides: ("web-5d8f7c9b6f-x2x7k", "web-primary-6c54bd9f7b-9jqzt"),
        code: ("status", "200", "500"),
        latency: "http_request_duration_seconds",
        ..ENVOY
    },
    Exporter {
        observer: "pods",
        requests: "http_request_duration_seconds",
        labels: r#"namespace="shop",pod="SIDE",path="/""#,
        sides: ("web-5d8f7c9b6f-x2x7k", "web-primary-6c54bd9f7b-9jqzt"),
        code: ("status", "200", "500"),
        latency: "http_request_duration_seconds",
        ..ENVOY
    },
    Exporter {
        observer: "traefik-gateway",
        requests: "traefik_service_request_duration_seconds",
        labels: r#"service="httproute-shop-web-svc-gw-gateway-ep-web-0-svc-shop-web-svc-SIDE-http-80@kubernetesgateway",method="GET""#,
        code: ("code", "200", "502"),
        latency: "traefik_service_request_duration_seconds",
        ..ENVOY
    },
];

impl Exporter {
    /// Whether the requests are counted by a histogram, which is the latency's too.
    fn is_histogram(&self) -> bool {
        self.requests.ends_with("_seconds")
    }

    /// What it shows after so many seconds.
    fn page(&self, seconds: f64, out: &mut String) -> std::fmt::Result {
        let (code, good, bad) = self.code;
        let (canary, primary) = self.sides;
        let sides = [
            (canary, good, RATE * GOOD / 100.0, false),
            (canary, bad, RATE * (100.0 - GOOD) / 100.0, false),
            (primary, bad, 1000.0, true),
        ];
        for (side, answer, rate, slow) in sides {
            let labels = format!("{},{code}=\"{answer}\"", self.labels.replace("SIDE", side));
            if self.is_histogram() {
                histogram(self.requests, &labels, rate * seconds, slow, out)?;
            } else {
                writeln!(out, "{}{{{labels}}} {}", self.requests, rate * seconds)?;
            }
            if self.latency != self.requests {
                let labels = self.latency_labels.map_or(labels, |own| {
                    format!("{},part=\"{answer}\"", own.replace("SIDE", side))
                });
                histogram(self.latency, &labels, rate * seconds, slow, out)?;
            }
        }
        Ok(())
    }
}

/// A histogram of requests that take between [`FROM_MS`] and [`TO_MS`], or far longer.
fn histogram(
    name: &str,
    labels: &str,
    count: f64,
    slow: bool,
    out: &mut String,
) -> std::fmt::Result {
    let unit = if name.ends_with("_seconds") {
        1000.0
    } else {
        1.0
    };
    let within = if slow { 0.0 } else { count };
    for (end, so_far) in [(FROM_MS, 0.0), (TO_MS, within), (60_000.0, count)] {
        writeln!(
            out,
            "{name}_bucket{{{labels},le=\"{}\"}} {so_far}",
            end / unit
        )?;
    }
    let mean = if slow { 30_000.0 } else { MEAN_MS };
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(out, "{name}_sum{{{labels}}} {}", count * mean / unit)?;
    writeln!(out, "{name}_count{{{labels}}} {count}")
}

fn page(seconds: f64) -> String {
    let mut out = String::new();
    for exporter in EXPORTERS {
        // Writing to a string can't fail.
        let _ = exporter.page(seconds, &mut out);
    }
    out
}

/// Shows all exporters' series on one page, and a Prometheus that scrapes it every second. Both end with what is returned, or the bed.
async fn prometheus(bed: &Bed) -> Result<Process> {
    let began = Instant::now();
    let answer = move || async move { page(began.elapsed().as_secs_f64()) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/metrics", get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let state = bed.state().join("built-in-queries");
    std::fs::create_dir_all(&state)?;
    let config = state.join("prometheus.yaml");
    let text = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{
            "job_name": "exporters", "honor_labels": true,
            "static_configs": [{"targets": [address.to_string()]}],
        }],
    });
    std::fs::write(&config, text.to_string())?;
    let program = Program::new(&bed.tools().prometheus).args([
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", state.join("data").display()),
        format!("--web.listen-address={PROMETHEUS}"),
        "--log.level=warn".to_owned(),
    ]);
    Process::start(
        "prometheus-of-exporters",
        &program,
        &bed.state().join("logs"),
    )
}

async fn ask(query: &str) -> Result<Option<f64>> {
    let answer = reqwest::Client::new()
        .get(format!("http://{PROMETHEUS}/api/v1/query"))
        .query(&[("query", query)])
        .send()
        .await?;
    let text = answer.text().await?;
    let answer: Value = serde_json::from_str(&text)?;
    ensure!(answer["status"] == "success", "{query}: {text}");
    let result = answer["data"]["result"].as_array();
    let values: Vec<&str> = result
        .into_iter()
        .flatten()
        .filter_map(|series| series["value"][1].as_str())
        .collect();
    ensure!(values.len() < 2, "one value is expected of {query}: {text}");
    values
        .first()
        .map(|value| value.parse().context("a number"))
        .transpose()
}

/// Waits until a query gives about this.
async fn expect(bed: &Bed, observer: &Observer, query: &str, expected: f64) -> Result<()> {
    let mut last = None;
    let near = async || {
        last = ask(query).await?;
        Ok(last
            .filter(|value| (value - expected).abs() <= expected * 0.02)
            .map(drop))
    };
    let waited = bed.wait("the answer", Duration::from_secs(30), near).await;
    waited.with_context(|| {
        format!(
            "{}: about {expected} is expected of {query}, found {last:?}",
            observer.name
        )
    })
}

/// Each row answers with the canary's numbers, and with nothing about a canary that is not there.
async fn queries(bed: &Bed) -> Result<()> {
    let _running = prometheus(bed).await?;
    for observer in &OBSERVERS {
        ensure!(
            EXPORTERS.iter().any(|one| one.observer == observer.name),
            "nobody here exports what {} asks for",
            observer.name
        );
    }
    let absent = Names {
        namespace: "elsewhere",
        ..NAMES
    };
    try_join_all(OBSERVERS.iter().map(async |observer| {
        expect(bed, observer, &observer.success_rate(NAMES, SPAN), GOOD).await?;
        let duration = observer.duration(NAMES, SPAN);
        let percentile = FROM_MS + 0.99 * (TO_MS - FROM_MS);
        let expected = match observer.duration_unit {
            DurationUnit::Seconds => percentile / 1000.0,
            DurationUnit::Milliseconds if duration.contains("_quantile") => percentile,
            DurationUnit::Milliseconds => MEAN_MS,
        };
        expect(bed, observer, &duration, expected).await?;
        for query in [
            observer.success_rate(absent, SPAN),
            observer.duration(absent, SPAN),
        ] {
            let found = ask(&query).await?;
            ensure!(
                found.is_none(),
                "{}: {query} finds {found:?} of a canary that is not there",
                observer.name
            );
        }
        anyhow::Ok(())
    }))
    .await?;
    println!("        {} observers answered both checks", OBSERVERS.len());
    Ok(())
}

/// Queries that find nothing, and what the canary's event says of each.
const SILENT: &[(&str, &str, &str)] = &[
    (
        "unknown",
        "sum(rate(no_such_metric_total{namespace=\"{{ namespace }}\"}[5s]))",
        "Prometheus knows no metric no_such_metric_total",
    ),
    (
        "unlabelled",
        "sum(rate(http_request_duration_seconds_count{no_such_label=\"{{ target }}\"}[5s]))",
        "has the label no_such_label",
    ),
    (
        "unmatched",
        "sum(rate(http_request_duration_seconds_count{app=\"{{ target }}-of-nobody\"}[5s]))",
        "matches app=\"app-of-nobody\"",
    ),
];

async fn diagnosis(bed: &Bed) -> Result<()> {
    shop::serin(bed).await?;
    try_join_all(SILENT.iter().map(async |(name, query, told)| {
        let template = json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": {"name": name},
            "spec": {"provider": {"type": "prometheus", "address": crate::bed::parts::PROMETHEUS}, "query": query},
        });
        let plan = Plan {
            analysis: json!({
                "threshold": 2, "stepWeight": 50, "maxWeight": 50,
                "metrics": [{"name": name, "templateRef": {"name": name}, "thresholdRange": {"min": 1}}],
            }),
            beside: vec![template],
            ..Plan::default()
        };
        let shop = Shop::open(bed, &format!("silent-{name}"), plan).await?;
        shop.release("1.1.0").await?;
        let said = async || {
            let events = shop.events().await?;
            let found = events.iter().find(|event| event.contains(told)).cloned();
            Ok(found)
        };
        let event = bed
            .wait(&format!("an event that says {told:?}"), PATIENCE, said)
            .await?;
        println!("        {event}");
        shop.close().await.map(drop)
    }))
    .await
    .map(drop)
}

pub async fn run(bed: &Bed) -> Result<()> {
    queries(bed).await?;
    diagnosis(bed).await
}
