//! Routes of the Gateway API by each of its implementations here: Traefik, Contour with Envoy, Envoy Gateway, istiod with Envoy as gateway and
//! as the proxy beside a workload of the mesh; and calls of gRPC.
use anyhow::Result;
use serde_json::{Value, json};

use super::planes::{self, PLAIN, Plane, by_name, turned_over};
use super::shop::Gateway;
use crate::bed::Bed;

pub const HTTP_ROUTE: Plane = Plane {
    provider: "gatewayapi:v1",
    object: ("gateway.networking.k8s.io/v1", "HTTPRoute", "app"),
    weights: |object| {
        let backends = &object["spec"]["rules"][0]["backendRefs"];
        (
            by_name(backends, "app-primary"),
            by_name(backends, "app-canary"),
        )
    },
    edit: || turned_over("/spec/rules/0/backendRefs"),
    additions: || {
        json!([
            {"op": "add", "path": "/metadata/labels", "value": {"team": "night"}},
            {"op": "add", "path": "/metadata/annotations/example.com~1owner", "value": "night-shift"},
            {"op": "add", "path": "/spec/rules/0/name", "value": "main"},
        ])
    },
    queries: &[("?preview=1", "1.1.0"), ("?preview=0", "1.0.0")],
    ..PLAIN
};

/// The older version of the same kind.
const V1BETA1: Plane = Plane {
    provider: "gatewayapi:v1beta1",
    object: ("gateway.networking.k8s.io/v1beta1", "HTTPRoute", "app"),
    ..HTTP_ROUTE
};

const ISTIO: Plane = Plane {
    gateway: Gateway::IstioRoutes,
    ..HTTP_ROUTE
};

/// Inside a mesh host names are the Services' own, and without a route requests go to the Service that they name.
const MESH: Plane = Plane {
    gateway: Gateway::Mesh,
    service: || json!({"hosts": []}),
    needed: false,
    ..HTTP_ROUTE
};

const CONTOUR: Plane = Plane {
    gateway: Gateway::Contour,
    ..HTTP_ROUTE
};

const ENVOY: Plane = Plane {
    gateway: Gateway::Envoy,
    ..HTTP_ROUTE
};

const GRPC_ROUTE: Plane = Plane {
    object: ("gateway.networking.k8s.io/v1", "GRPCRoute", "app"),
    service: || json!({"routeKind": "GRPCRoute", "portName": "grpc", "appProtocol": "kubernetes.io/h2c"}),
    grpc: true,
    queries: &[],
    ..HTTP_ROUTE
};

const ISTIO_GRPC: Plane = Plane {
    gateway: Gateway::IstioRoutes,
    ..GRPC_ROUTE
};

const CONTOUR_GRPC: Plane = Plane {
    gateway: Gateway::Contour,
    ..GRPC_ROUTE
};

const ENVOY_GRPC: Plane = Plane {
    gateway: Gateway::Envoy,
    ..GRPC_ROUTE
};

pub async fn traefik_httproute(bed: &Bed) -> Result<()> {
    planes::release(bed, "traefik-httproute", &HTTP_ROUTE).await
}

pub async fn traefik_httproute_v1beta1(bed: &Bed) -> Result<()> {
    planes::release(bed, "traefik-httproute-v1beta1", &V1BETA1).await
}

pub async fn istio_httproute(bed: &Bed) -> Result<()> {
    planes::release(bed, "istio-httproute", &ISTIO).await
}

pub async fn mesh_httproute(bed: &Bed) -> Result<()> {
    planes::release(bed, "mesh-httproute", &MESH).await
}

pub async fn contour_httproute(bed: &Bed) -> Result<()> {
    planes::release(bed, "contour-httproute", &CONTOUR).await
}

pub async fn envoy_httproute(bed: &Bed) -> Result<()> {
    planes::release(bed, "envoy-httproute", &ENVOY).await
}

pub async fn traefik_grpcroute(bed: &Bed) -> Result<()> {
    planes::release(bed, "traefik-grpcroute", &GRPC_ROUTE).await
}

pub async fn istio_grpcroute(bed: &Bed) -> Result<()> {
    planes::release(bed, "istio-grpcroute", &ISTIO_GRPC).await
}

pub async fn contour_grpcroute(bed: &Bed) -> Result<()> {
    planes::release(bed, "contour-grpcroute", &CONTOUR_GRPC).await
}

pub async fn envoy_grpcroute(bed: &Bed) -> Result<()> {
    planes::release(bed, "envoy-grpcroute", &ENVOY_GRPC).await
}

/// One header with a value, or another one that a regular expression describes.
fn insiders() -> Value {
    json!([
        {"headers": {"x-canary": {"exact": "insider"}}},
        {"headers": {"x-team": {"regex": "shop-(window|floor)"}}},
    ])
}

async fn by_header(bed: &Bed, name: &str, plane: &Plane) -> Result<()> {
    let mut matches = insiders();
    if let (Some(matches), false) = (matches.as_array_mut(), plane.queries.is_empty()) {
        matches.push(json!({"queryParams": {"preview": {"exact": "1"}}}));
    }
    planes::by_header(
        bed,
        name,
        plane,
        matches,
        &[
            vec![("x-canary", "insider")],
            vec![("x-team", "shop-floor")],
        ],
        &[
            vec![("x-canary", "outsider")],
            vec![("x-team", "my-shop-floor")],
        ],
    )
    .await
}

pub async fn istio_by_header(bed: &Bed) -> Result<()> {
    by_header(bed, "istio-httproute-by-header", &ISTIO).await
}

pub async fn mesh_by_header(bed: &Bed) -> Result<()> {
    by_header(bed, "mesh-httproute-by-header", &MESH).await
}

pub async fn contour_routes_by_header(bed: &Bed) -> Result<()> {
    by_header(bed, "contour-httproute-by-header", &CONTOUR).await
}

pub async fn envoy_by_header(bed: &Bed) -> Result<()> {
    by_header(bed, "envoy-httproute-by-header", &ENVOY).await
}

pub async fn envoy_calls_by_header(bed: &Bed) -> Result<()> {
    by_header(bed, "envoy-grpcroute-by-header", &ENVOY_GRPC).await
}

pub async fn contour_mirrored(bed: &Bed) -> Result<()> {
    planes::mirrored(bed, "mirrored", &CONTOUR).await
}

pub async fn contour_calls_mirrored(bed: &Bed) -> Result<()> {
    planes::mirrored(bed, "contour-grpcroute-mirrored", &CONTOUR_GRPC).await
}

pub async fn envoy_mirrored(bed: &Bed) -> Result<()> {
    planes::mirrored(bed, "envoy-httproute-mirrored", &ENVOY).await
}

pub async fn envoy_calls_mirrored(bed: &Bed) -> Result<()> {
    planes::mirrored(bed, "envoy-grpcroute-mirrored", &ENVOY_GRPC).await
}

pub async fn istio_routes_mirrored(bed: &Bed) -> Result<()> {
    planes::mirrored(bed, "istio-httproute-mirrored", &ISTIO).await
}

pub async fn istio_calls_mirrored(bed: &Bed) -> Result<()> {
    planes::mirrored(bed, "istio-grpcroute-mirrored", &ISTIO_GRPC).await
}
