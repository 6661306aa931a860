//! Gates that hooks of a canary ask at, for stories in which somebody has to say yes.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};

type Closed = Arc<Mutex<BTreeSet<String>>>;

/// Gates by name; open unless closed. Each story has an office of its own.
#[derive(Clone)]
pub struct Gates {
    closed: Closed,
    address: String,
}

impl Gates {
    /// Opens the office on the bed's loopback. It closes with the bed.
    pub async fn start() -> Result<Self> {
        let closed = Closed::default();
        let router = Router::new()
            .route("/{gate}", post(ask))
            .with_state(Arc::clone(&closed));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .context("the gates need a port")?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { closed, address })
    }

    fn closed(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn close(&self, gate: &str) {
        self.closed().insert(gate.to_owned());
    }

    pub fn open(&self, gate: &str) {
        self.closed().remove(gate);
    }

    /// `analysis.webhooks` with one hook of this type, which asks at the gate.
    #[must_use]
    pub fn hook(&self, kind: &str, name: &str) -> Value {
        json!([{"name": name, "type": kind, "url": self.url(name)}])
    }

    /// The same with a hook of each of these types, which all ask at one gate.
    #[must_use]
    pub fn hooks(&self, kinds: &[&str], name: &str) -> Value {
        kinds
            .iter()
            .map(|kind| json!({"name": kind, "type": kind, "url": self.url(name)}))
            .collect()
    }

    fn url(&self, gate: &str) -> String {
        format!("http://{}/{gate}", self.address)
    }
}

async fn ask(State(closed): State<Closed>, Path(gate): Path<String>) -> StatusCode {
    let closed = closed.lock().unwrap_or_else(PoisonError::into_inner);
    if closed.contains(&gate) {
        StatusCode::FORBIDDEN
    } else {
        StatusCode::OK
    }
}
