//! The ingress planes: releases behind Traefik's own resources, behind an Ingress with nginx's annotations and behind Contour's `HTTPProxy`.
use anyhow::Result;
use serde_json::{Value, json};

use super::planes::{self, BUILT_IN, PLAIN, Plane, by_name, turned_over};
use super::shop::Gateway;
use crate::bed::Bed;

/// The host names are the user's own objects'.
const SERVICE: fn() -> Value = || json!({"service": {"port": 80, "targetPort": 8080}});

pub const TRAEFIK: Plane = Plane {
    provider: "traefik",
    gateway: Gateway::Ingress,
    object: ("traefik.io/v1alpha1", "TraefikService", "app"),
    weights: |object| {
        let services = &object["spec"]["weighted"]["services"];
        (
            by_name(services, "app-primary"),
            by_name(services, "app-canary"),
        )
    },
    edit: || turned_over("/spec/weighted/services"),
    additions: || json!([{"op": "add", "path": "/spec/weighted/services/0/passHostHeader", "value": true}]),
    own: || {
        vec![json!({
            "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": {"name": "app"},
            "spec": {
                "entryPoints": ["web"],
                "routes": [{
                    "kind": "Rule", "match": "Host(`app.${NAMESPACE}.bed`)",
                    "services": [{"kind": "TraefikService", "name": "app"}],
                }],
            },
        })]
    },
    spec: SERVICE,
    counted: "traefik_service_request_duration_seconds_bucket{service=~\"${NAMESPACE}-app-canary-[0-9a-zA-Z-]+@kubernetescrd\", le=\"+Inf\"}",
    ..PLAIN
};

pub const NGINX: Plane = Plane {
    provider: "nginx",
    gateway: Gateway::Ingress,
    object: ("networking.k8s.io/v1", "Ingress", "app-canary"),
    weights: |object| {
        let weight = object["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight"]
            .as_str()
            .and_then(|weight| weight.parse().ok())
            .filter(|_| {
                object["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-by-header"]
                    .is_null()
            })
            .unwrap_or(-1);
        (100 - weight, weight)
    },
    edit: || {
        let weight = "/metadata/annotations/nginx.ingress.kubernetes.io~1canary-weight";
        let header = "/metadata/annotations/nginx.ingress.kubernetes.io~1canary-by-header";
        json!([
            {"op": "replace", "path": weight, "value": "95"},
            {"op": "add", "path": header, "value": "x-night-shift"},
        ])
    },
    additions: || json!([{"op": "add", "path": "/metadata/annotations/example.com~1owner", "value": "night-shift"}]),
    own: || vec![own_ingress(), success_template()],
    spec: || {
        let mut spec = SERVICE();
        spec["ingressRef"] =
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "app"});
        spec
    },
    // Traefik has not the metrics of ingress-nginx.
    metrics: || json!([{"name": "success", "templateRef": {"name": "success"}, "interval": "5s", "thresholdRange": {"min": 99}}]),
    needed: false,
    ..PLAIN
};

pub const CONTOUR: Plane = Plane {
    provider: "contour",
    gateway: Gateway::Contour,
    object: ("projectcontour.io/v1", "HTTPProxy", "app"),
    weights: |object| {
        let services = &object["spec"]["routes"][0]["services"];
        (
            by_name(services, "app-primary"),
            by_name(services, "app-canary"),
        )
    },
    edit: || turned_over("/spec/routes/0/services"),
    // Nothing that gives Envoy a cluster anew: Contour sends routes and clusters apart, and a request may come between.
    additions: || json!([{"op": "add", "path": "/spec/routes/0/responseHeadersPolicy", "value": {"set": [{"name": "x-night", "value": "shift"}]}}]),
    own: || {
        vec![json!({
            "apiVersion": "projectcontour.io/v1", "kind": "HTTPProxy", "metadata": {"name": "root"},
            "spec": {
                "virtualhost": {"fqdn": "app.${NAMESPACE}.bed"},
                "includes": [{"name": "app", "conditions": [{"prefix": "/"}]}],
            },
        })]
    },
    spec: SERVICE,
    // Envoy brings its histograms up to date every five seconds.
    metrics: || {
        let mut metrics = BUILT_IN();
        metrics[1]["interval"] = json!("10s");
        metrics
    },
    counted: "envoy_cluster_upstream_rq{envoy_cluster_name=~\"${NAMESPACE}_app-canary_[0-9a-zA-Z-]+\"}",
    ..PLAIN
};

fn own_ingress() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "app"},
        "spec": {
            "ingressClassName": "nginx",
            "rules": [{
                "host": "app.${NAMESPACE}.bed",
                "http": {"paths": [{
                    "path": "/", "pathType": "Prefix",
                    "backend": {"service": {"name": "app", "port": {"number": 80}}},
                }]},
            }],
        },
    })
}

/// The success rate of the new release's own pods.
fn success_template() -> Value {
    let pods = r#"namespace="{{ namespace }}", pod=~"{{ target }}-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)""#;
    let count = "http_request_duration_seconds_count";
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": {"name": "success"},
        "spec": {
            "provider": {"type": "prometheus", "address": "http://127.0.0.1:9090"},
            "query": format!(
                "100 * sum(rate({count}{{{pods}, status!~\"5..\"}}[{{{{ interval }}}}])) / sum(rate({count}{{{pods}}}[{{{{ interval }}}}]))"
            ),
        },
    })
}

pub async fn traefik_release(bed: &Bed) -> Result<()> {
    planes::release(bed, "traefik-release", &TRAEFIK).await
}

pub async fn nginx_release(bed: &Bed) -> Result<()> {
    planes::release(bed, "nginx-release", &NGINX).await
}

pub async fn contour_release(bed: &Bed) -> Result<()> {
    planes::release(bed, "contour-release", &CONTOUR).await
}

/// A/B behind nginx's annotations: by a header or by a cookie.
pub async fn nginx_by_header(bed: &Bed) -> Result<()> {
    planes::by_header(
        bed,
        "nginx-by-header",
        &NGINX,
        json!([{"headers": {"x-canary": {"exact": "insider"}}}, {"headers": {"cookie": {"exact": "insider"}}}]),
        &[
            vec![("x-canary", "insider")],
            vec![("cookie", "a=b; insider=always")],
        ],
        &[vec![("x-canary", "outsider")], vec![("cookie", "insider=no")]],
    )
    .await
}

/// A/B behind nginx's annotations: by an expression that a header's value fits.
pub async fn nginx_by_expression(bed: &Bed) -> Result<()> {
    planes::by_header(
        bed,
        "nginx-by-expression",
        &NGINX,
        json!([{"headers": {"x-canary": {"regex": "^inside(r|d)$"}}}]),
        &[vec![("x-canary", "insider")], vec![("x-canary", "insided")]],
        &[
            vec![("x-canary", "insiders")],
            vec![("x-canary", "outsider")],
        ],
    )
    .await
}

/// A/B behind an `HTTPProxy`: by two headers at once, one of them by its beginning.
pub async fn contour_by_header(bed: &Bed) -> Result<()> {
    planes::by_header(
        bed,
        "contour-by-header",
        &CONTOUR,
        json!([{"headers": {"x-canary": {"exact": "insider"}, "x-team": {"prefix": "shop-"}}}]),
        &[vec![("x-canary", "insider"), ("x-team", "shop-window")]],
        &[
            vec![("x-canary", "insider")],
            vec![("x-canary", "insider"), ("x-team", "my-shop-window")],
            vec![("x-team", "shop-window")],
        ],
    )
    .await
}
