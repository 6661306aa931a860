//! A server on this machine that behaves as it is told and remembers what it was asked.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Reply {
    pub fn json(body: &str) -> Self {
        Self {
            status: 200,
            content_type: "application/json",
            body: body.to_owned(),
        }
    }

    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn typed(mut self, content_type: &'static str) -> Self {
        self.content_type = content_type;
        self
    }

    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap();
        (
            status,
            [(header::CONTENT_TYPE, self.content_type)],
            self.body,
        )
            .into_response()
    }
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub(super) enum Behaviour {
    Always(Reply),
    /// The first request is told to wait for a second.
    LimitedThen(Reply),
    /// Longer than anybody waits.
    Slow(Reply),
    /// Leads to another host; see [`Behaviour::towards`].
    Elsewhere,
    Redirect(String),
    /// Repeats all that it was asked.
    Echo {
        status: u16,
        json: bool,
    },
}

impl Behaviour {
    pub fn towards(self, address: &str) -> Self {
        match self {
            Self::Elsewhere => Self::Redirect(address.to_owned()),
            other => other,
        }
    }
}

#[derive(Clone)]
struct Shared {
    behaviour: Behaviour,
    beside: fn(&str) -> Option<Reply>,
    /// Each request as one text.
    seen: Arc<Mutex<Vec<String>>>,
}

pub(super) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub async fn start(behaviour: Behaviour, beside: fn(&str) -> Option<Reply>) -> Self {
        let seen = Arc::default();
        let shared = Shared {
            behaviour,
            beside,
            seen: Arc::clone(&seen),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(any(handle)).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, seen }
    }

    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked, in order: method, path and query, headers, body.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn handle(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut told = format!("{method} {uri}\n");
    for (name, value) in &headers {
        let _ = writeln!(
            told,
            "{name}: {}",
            String::from_utf8_lossy(value.as_bytes())
        );
    }
    told.push_str(&String::from_utf8_lossy(&body));
    if let Some(reply) = (shared.beside)(uri.path()) {
        return reply.into_response();
    }
    let count = {
        let mut seen = shared.seen.lock().unwrap();
        seen.push(told.clone());
        seen.len()
    };
    match shared.behaviour {
        Behaviour::LimitedThen(_) if count == 1 => (
            StatusCode::TOO_MANY_REQUESTS,
            [(header::RETRY_AFTER, "1")],
            "slow down",
        )
            .into_response(),
        Behaviour::Always(reply) | Behaviour::LimitedThen(reply) => reply.into_response(),
        Behaviour::Slow(reply) => {
            tokio::time::sleep(Duration::from_secs(30)).await;
            reply.into_response()
        }
        Behaviour::Redirect(target) => (
            StatusCode::TEMPORARY_REDIRECT,
            [(header::LOCATION, format!("{target}{uri}"))],
        )
            .into_response(),
        Behaviour::Elsewhere => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Behaviour::Echo { status, json } => {
            let body = if json {
                serde_json::json!({"error": {"message": format!("you said: {told}")}}).to_string()
            } else {
                told
            };
            (StatusCode::from_u16(status).unwrap(), body).into_response()
        }
    }
}
