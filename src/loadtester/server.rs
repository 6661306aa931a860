//! The paths of Flagger's load tester. As there, the method is not looked at, and what is no other path is a task.

use super::access::Access;
use super::gates::{Gate, GateKind, Gates};
use super::metrics::Telemetry;
use super::payload::Payload;
use super::tasks::{Answer, Refused, Tasks};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use std::sync::Arc;

/// Longest body that is read.
const LONGEST_BODY: usize = 1024 * 1024;

/// What all requests share.
pub struct Office {
    /// Who may ask.
    pub access: Access,
    /// The gates.
    pub gates: Gates,
    /// The tasks.
    pub tasks: Arc<Tasks>,
    /// What is counted.
    pub telemetry: Arc<Telemetry>,
}

/// What is done with a gate.
#[derive(Clone, Copy)]
enum Deed {
    Check,
    Open,
    Close,
}

/// The gates' paths.
const GATES: [(&str, GateKind, Deed); 6] = [
    ("/gate/check", GateKind::Gate, Deed::Check),
    ("/gate/open", GateKind::Gate, Deed::Open),
    ("/gate/close", GateKind::Gate, Deed::Close),
    ("/rollback/check", GateKind::Rollback, Deed::Check),
    ("/rollback/open", GateKind::Rollback, Deed::Open),
    ("/rollback/close", GateKind::Rollback, Deed::Close),
];

/// Status and text of an answer.
type Said = (StatusCode, String);

fn said(status: StatusCode, text: &str) -> Said {
    (status, text.to_owned())
}

/// All paths.
pub fn router(office: Arc<Office>) -> Router {
    let mut router = Router::new()
        .route("/healthz", get(|| async { "OK" }))
        .route("/metrics", get(metrics))
        .route("/gate/approve", any(approve))
        .route("/gate/halt", any(halt));
    for (path, kind, deed) in GATES {
        let answer = move |State(office): State<Arc<Office>>, headers: HeaderMap, body: Bytes| async move {
            let answer = at_gate(&office, kind, deed, &headers, &body).await;
            office.counted(path, answer)
        };
        router = router.route(path, any(answer));
    }
    router
        .fallback(any(task))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(office)
}

impl Office {
    fn counted(&self, path: &'static str, (status, text): Said) -> Response {
        self.telemetry.answered(path, status.as_u16());
        (status, text).into_response()
    }

    async fn payload(&self, headers: &HeaderMap, body: &[u8]) -> Result<Payload, Said> {
        let payload = Payload::read(body).map_err(|error| said(StatusCode::BAD_REQUEST, &error))?;
        self.access
            .check(headers, &payload)
            .await
            .map_err(|status| said(status, status.canonical_reason().unwrap_or_default()))?;
        Ok(payload)
    }
}

async fn metrics(State(office): State<Arc<Office>>) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TEXT)], office.telemetry.render()).into_response()
}

async fn approve(State(office): State<Arc<Office>>) -> Response {
    office.counted("/gate/approve", said(StatusCode::OK, "OK"))
}

async fn halt(State(office): State<Arc<Office>>) -> Response {
    office.counted("/gate/halt", said(StatusCode::FORBIDDEN, "Forbidden"))
}

async fn at_gate(
    office: &Office,
    kind: GateKind,
    deed: Deed,
    headers: &HeaderMap,
    body: &[u8],
) -> Said {
    let payload = match office.payload(headers, body).await {
        Ok(payload) => payload,
        Err(answer) => return answer,
    };
    let gate = match Gate::of(kind, &payload) {
        Ok(gate) => gate,
        Err(error) => return said(StatusCode::BAD_REQUEST, &error),
    };
    let answer = match deed {
        Deed::Check => office.gates.is_open(&gate).await.map(|open| {
            if open {
                said(StatusCode::OK, "Approved")
            } else {
                said(StatusCode::FORBIDDEN, "Forbidden")
            }
        }),
        Deed::Open | Deed::Close => {
            let open = matches!(deed, Deed::Open);
            office.gates.set(&gate, open).await.map(|()| {
                let state = if open { "open" } else { "closed" };
                tracing::info!(canary = ?payload, "{} {state}", kind.word());
                said(StatusCode::ACCEPTED, state)
            })
        }
    };
    answer.unwrap_or_else(|error| {
        tracing::error!(canary = ?payload, %error, "the gates can't be reached");
        let text = format!("the gates can't be reached: {error}");
        (StatusCode::SERVICE_UNAVAILABLE, text)
    })
}

async fn task(State(office): State<Arc<Office>>, headers: HeaderMap, body: Bytes) -> Response {
    let answer = match office.payload(&headers, &body).await {
        Ok(payload) => run(&office, &payload).await,
        Err(answer) => answer,
    };
    office.counted("/", answer)
}

async fn run(office: &Office, payload: &Payload) -> Said {
    let cmd = payload.text("cmd");
    let answer = match office.tasks.plan(payload) {
        Ok(task) => office.tasks.run(task).await,
        Err(refused) => Err(refused),
    };
    match answer {
        Ok(Answer::Accepted(text)) => (StatusCode::ACCEPTED, text),
        Ok(Answer::Ended(outcome)) if outcome.passed && payload.says("returnCmdOutput") => {
            (StatusCode::OK, outcome.output)
        }
        Ok(Answer::Ended(outcome)) if outcome.passed => said(StatusCode::OK, "OK"),
        Ok(Answer::Ended(outcome)) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            match cmd {
                "" => format!("{} failed: {}", payload.text("type"), outcome.output),
                cmd => format!("command {cmd} failed: {}", outcome.output),
            },
        ),
        Err(refused) => {
            tracing::warn!(canary = ?payload, %refused, "task refused");
            let status = match refused {
                Refused::Malformed(_) => StatusCode::BAD_REQUEST,
                Refused::NotAllowed(_) => StatusCode::FORBIDDEN,
                Refused::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            office.telemetry.ended("any", "refused");
            (status, refused.to_string())
        }
    }
}

#[cfg(test)]
mod tests;
