//! Rocket.Chat: Slack's messages with colours by number.

use super::{Message, Receiver, chat};
use serde_json::Value;

pub(super) fn body(message: &Message, receiver: &Receiver) -> Value {
    chat::body(message, receiver, ("#0076D7", "#FF0000"))
}
