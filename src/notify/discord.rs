//! Discord: its webhooks take Slack's messages at a path of their own.

use super::{Message, Receiver, chat};
use serde_json::{Value, json};

pub(super) const PATH: &str = "/slack";

pub(super) fn body(message: &Message, receiver: &Receiver) -> Value {
    let mut body = chat::body(message, receiver, ("good", "danger"));
    body["allowed_mentions"] = json!({"parse": []});
    body
}
