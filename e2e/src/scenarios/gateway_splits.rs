//! The bed itself, before Serin comes into it: pods run, the gateway splits, Prometheus counts, and a rollout loses nothing.
use std::time::Duration;

use anyhow::{Result, ensure};

use super::planes::CROWD;
use super::shop::PATIENCE;
use super::stays::ENOUGH;
use crate::bed::Bed;
use crate::bed::parts::GATEWAY;
use crate::load::{Load, Mark};

const ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app}
spec:
  parentRefs: [{name: traefik, namespace: gateway}]
  hostnames: [app.${NAMESPACE}.bed]
  rules:
  - backendRefs:
    - {name: stable, port: 80, weight: 80}
    - {name: next, port: 80, weight: 20}
";

/// A deployment of the demo app with its Service.
fn app(name: &str, version: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata:
      labels: {{app: {name}}}
      annotations: {{prometheus.io/scrape: "true", prometheus.io/port: "8080"}}
    spec:
      containers:
      - name: app
        image: serin-demo-app:{version}
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /readyz, port: http}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{sleep: {{seconds: 2}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"#
    )
}

pub async fn run(bed: &Bed) -> Result<()> {
    let shop = bed.scenario_namespace("gateway-splits").await?;
    shop.apply(&app("stable", "1.0.0")).await?;
    shop.apply(&app("next", "2.0.0")).await?;
    shop.apply(ROUTE).await?;
    shop.wait_ready("stable", Duration::from_secs(30)).await?;
    shop.wait_ready("next", Duration::from_secs(30)).await?;

    let host = shop.host("app");
    bed.wait_served(&host, Duration::from_secs(20)).await?;
    let load = Load::start(GATEWAY, &host, CROWD)?;
    bed.wait("enough answers", PATIENCE, async || {
        let answered = load.report_since(Mark::BEGINNING).answered();
        Ok((answered >= ENOUGH).then_some(()))
    })
    .await?;
    let report = load.settled_since(Mark::BEGINNING).await;
    report.none_lost()?;
    report.split_within("2.0.0", 0.2, 4.0)?;

    let query = format!(
        r#"sum(http_request_duration_seconds_count{{kubernetes_namespace="{}",app="next"}})"#,
        shop.name()
    );
    let counted = bed
        .wait(
            "Prometheus to count the requests",
            Duration::from_secs(10),
            async || bed.query(&query).await,
        )
        .await?;
    ensure!(
        counted > 0.0,
        "expected Prometheus to have counted requests of `next`, found {counted}"
    );

    shop.release("stable", "1.1.0").await?;
    shop.wait_ready("stable", Duration::from_mins(1)).await?;
    bed.wait(
        "the last pod of 1.0.0 to be out of use",
        Duration::from_secs(10),
        async || {
            let recent = load.report_since(load.mark_ago(Duration::from_secs(1)));
            Ok((recent.share_of("1.0.0") == 0.0 && recent.share_of("1.1.0") > 0.0).then_some(()))
        },
    )
    .await?;
    load.stop().await.none_lost()
}
