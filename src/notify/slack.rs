//! Slack: an incoming webhook, or with a token the method `chat.postMessage` of its API.

use super::{Failure, Message, Receiver, chat};
use serde_json::Value;

pub(super) fn body(message: &Message, receiver: &Receiver) -> Value {
    chat::body(message, receiver, ("good", "danger"))
}

/// Slack's markup is made of `&`, `<` and `>`, and they are written as entities where they are none of it
/// (<https://docs.slack.dev/messaging/formatting-message-text/#escaping>). Mattermost takes the same messages, and there `@here` is enough.
pub(super) fn words(text: &str) -> String {
    chat::words(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Errors of the API that pass by themselves.
const PASSING: [&str; 5] = [
    "ratelimited",
    "rate_limited",
    "internal_error",
    "fatal_error",
    "service_unavailable",
];

/// The API answers 200 whatever became of the message; a webhook answers `ok`, which is no JSON.
pub(super) fn read(answer: &[u8]) -> Result<(), Failure> {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else {
        return Ok(());
    };
    if answer["ok"] != false {
        return Ok(());
    }
    // A word of Slack's own, such as invalid_auth; anything else is not repeated.
    let word = answer["error"]
        .as_str()
        .filter(|word| {
            word.len() < 60
                && word
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .unwrap_or("an error");
    let why = format!("Slack answers {word}");
    if PASSING.contains(&word) {
        Err(Failure::Passing {
            why,
            retry_after: None,
        })
    } else {
        Err(Failure::Lasting(why))
    }
}
