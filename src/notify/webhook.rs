//! A receiver of one's own: one `CloudEvent` for each alert, in the structured JSON form (version 1.0.2). `id` and `source` together are the alert's identity, by which a receiver knows one that it got twice.

use super::{Message, Receiver};
use serde_json::{Value, json};

pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";
/// `type` of the events; its number goes up when `data` changes in a way that readers would notice.
const TYPE: &str = "dev.serin.canary.alert.v1";

pub(super) fn body(message: &Message, _: &Receiver) -> Value {
    json!({
        "specversion": "1.0",
        "id": message.id,
        "source": format!("/apis/flagger.app/v1beta1/namespaces/{}/canaries/{}", message.namespace, message.name),
        "type": TYPE,
        "subject": message.reason,
        "time": message.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        "datacontenttype": "application/json",
        "data": {
            "cluster": message.cluster,
            "namespace": message.namespace,
            "canary": message.name,
            "target": message.target,
            "severity": message.severity.as_str(),
            "reason": message.reason,
            "phase": message.phase,
            "run": message.run,
            "revision": message.revision,
            "text": message.text,
            "cause": message.cause,
            "checks": message.checks,
            "link": message.link,
        },
    })
}
