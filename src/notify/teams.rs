//! Microsoft Teams: an adaptive card, as the webhooks of its Workflows take it, or the `MessageCard` of the Office 365 connectors before
//! them, which is Flagger's form.

use super::{Message, Receiver};
use crate::api::{AlertSeverity, TeamsFormat};
use serde_json::{Value, json};

pub(super) fn body(message: &Message, receiver: &Receiver) -> Value {
    match receiver.format {
        TeamsFormat::AdaptiveCard => adaptive_card(message),
        TeamsFormat::MessageCard => message_card(message),
    }
}

fn adaptive_card(message: &Message) -> Value {
    let color = match message.severity {
        AlertSeverity::Error => "Attention",
        AlertSeverity::Warn => "Warning",
        _ => "Good",
    };
    let mut content = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": [
            {"type": "TextBlock", "text": message.text, "weight": "Bolder", "size": "Medium", "color": color, "wrap": true},
            {"type": "TextBlock", "text": message.full_name(), "isSubtle": true, "spacing": "None", "wrap": true},
        ],
    });
    if !message.fields.is_empty() {
        let facts: Vec<Value> = message
            .fields
            .iter()
            .map(|(title, value)| json!({"title": title, "value": value}))
            .collect();
        if let Some(body) = content["body"].as_array_mut() {
            body.push(json!({"type": "FactSet", "facts": facts}));
        }
    }
    if let Some(link) = &message.link {
        content["actions"] = json!([{"type": "Action.OpenUrl", "title": "Read on", "url": link}]);
    }
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": content,
        }],
    })
}

fn message_card(message: &Message) -> Value {
    let color = if message.severity == AlertSeverity::Error {
        "FF0000"
    } else {
        "0076D7"
    };
    let facts: Vec<Value> = message
        .fields
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let mut card = json!({
        "@type": "MessageCard",
        "@context": "http://schema.org/extensions",
        "themeColor": color,
        "summary": message.full_name(),
        "sections": [{
            "activityTitle": message.text,
            "activitySubtitle": message.full_name(),
            "facts": facts,
        }],
    });
    if let Some(link) = &message.link {
        card["potentialAction"] = json!([{
            "@type": "OpenUri", "name": "Read on", "targets": [{"os": "default", "uri": link}],
        }]);
    }
    card
}
