//! The message with attachments that Slack made up and others took over.

use super::{Message, Receiver};
use crate::api::AlertSeverity;
use serde_json::{Value, json};

/// Flagger's message: one attachment with the canary as its author. `colors` are those of all messages and of errors.
pub(super) fn body(message: &Message, receiver: &Receiver, colors: (&str, &str)) -> Value {
    let color = if message.severity == AlertSeverity::Error {
        colors.1
    } else {
        colors.0
    };
    let fields: Vec<Value> = message
        .fields
        .iter()
        .map(|(title, value)| json!({"title": title, "value": value, "short": false}))
        .collect();
    let mut attachment = json!({
        "color": color,
        "author_name": message.full_name(),
        "text": message.text,
        "mrkdwn_in": ["text"],
        "fields": fields,
    });
    if let Some(link) = &message.link {
        attachment["author_link"] = json!(link);
    }
    json!({
        "channel": receiver.channel,
        "username": receiver.username,
        "icon_url": "",
        "icon_emoji": ":rocket:",
        "attachments": [attachment],
    })
}
