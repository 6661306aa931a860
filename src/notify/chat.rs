//! The message with attachments that Slack made up and others took over.

use super::{Message, Receiver, words_for};
use crate::api::AlertSeverity;
use serde_json::{Value, json};

/// What calls everybody in one chat service or another, after an `@`.
const EVERYBODY: [&str; 4] = ["all", "channel", "everyone", "here"];

/// Words from outside, in which nobody is called: a space without width stands in `@everyone` and the like.
pub(super) fn words(text: &str) -> String {
    let mut calm = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('@') {
        let (before, after) = rest.split_at(at + 1);
        calm.push_str(before);
        let end = after.find(|c: char| !(c.is_alphanumeric() || c == '_'));
        let name = &after[..end.unwrap_or(after.len())];
        if EVERYBODY.iter().any(|all| name.eq_ignore_ascii_case(all)) {
            calm.push('\u{200b}');
        }
        rest = after;
    }
    calm + rest
}

/// Flagger's message: one attachment with the canary as its author. `colors` are those of all messages and of errors.
pub(super) fn body(message: &Message, receiver: &Receiver, colors: (&str, &str)) -> Value {
    let words = words_for(receiver.kind);
    let color = if message.severity == AlertSeverity::Error {
        colors.1
    } else {
        colors.0
    };
    let fields: Vec<Value> = message
        .fields
        .iter()
        .map(|(title, value)| json!({"title": words(title), "value": words(value), "short": false}))
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
