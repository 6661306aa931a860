//! Discord: its webhooks take Slack's messages at a path of their own.

use super::{Message, Receiver, chat};
use serde_json::Value;

pub(super) const PATH: &str = "/slack";

pub(super) fn body(message: &Message, receiver: &Receiver) -> Value {
    chat::body(message, receiver, ("good", "danger"))
}
