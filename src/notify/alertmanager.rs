//! Prometheus Alertmanager: `POST /api/v2/alerts`. Labels say what it is about, so that routes and silences can be written for canaries;
//! without an end of its own an alert is resolved by Alertmanager after its `resolve_timeout`.

use super::{Message, Receiver};
use serde_json::{Map, Value, json};

pub(super) const PATH: &str = "/api/v2/alerts";

pub(super) fn body(message: &Message, _: &Receiver) -> Value {
    let mut labels = Map::new();
    for (name, value) in [
        ("alertname", format!("Canary{}", message.reason)),
        ("severity", severity(message).to_owned()),
        ("canary", message.name.clone()),
        ("namespace", message.namespace.clone()),
        ("reason", message.reason.clone()),
        ("cluster", message.cluster.clone()),
    ] {
        // An empty label is none.
        if !value.is_empty() {
            labels.insert(name.to_owned(), json!(value));
        }
    }
    let mut annotations = Map::new();
    for (name, value) in [
        ("summary", message.text.clone()),
        ("description", message.cause.clone()),
        ("checks", message.checks.join("\n")),
        ("target", message.target.clone()),
        ("id", message.id.clone()),
    ] {
        if !value.is_empty() {
            annotations.insert(name.to_owned(), json!(value));
        }
    }
    let mut alert = json!({
        "labels": labels,
        "annotations": annotations,
        "startsAt": message.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
    });
    if let Some(link) = &message.link {
        alert["generatorURL"] = json!(link);
    }
    json!([alert])
}

/// The words that Prometheus' rules use.
fn severity(message: &Message) -> &'static str {
    match message.severity.as_str() {
        "error" => "critical",
        "warn" => "warning",
        _ => "info",
    }
}
