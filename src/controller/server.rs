//! The HTTP endpoints: `/metrics`, `/healthz` (the process lives) and `/readyz` (the caches are filled).

use super::cache::Caches;
use super::metrics::Telemetry;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    telemetry: Arc<Telemetry>,
    caches: Arc<Caches>,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(|| async { "OK" }))
        .route(
            "/readyz",
            get(move || {
                let readiness = caches.readiness();
                async move {
                    match readiness {
                        Ok(()) => (StatusCode::OK, "OK".to_owned()),
                        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
                    }
                }
            }),
        )
        .route(
            "/metrics",
            get(move || {
                let text = telemetry.render();
                async move {
                    (
                        [(
                            header::CONTENT_TYPE,
                            "application/openmetrics-text; version=1.0.0; charset=utf-8",
                        )],
                        text,
                    )
                        .into_response()
                }
            }),
        );
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
    {
        tracing::error!(%error, "the HTTP server ended");
    }
}
