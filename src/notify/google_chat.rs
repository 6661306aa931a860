//! Google Chat: one card, a section for each field. Texts are a subset of HTML there.

use super::{Message, Receiver};
use serde_json::{Value, json};

/// Flagger's picture of the card.
const PICTURE: &str = "https://flagger.app/favicon.png";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\n', "<br>")
}

fn section(html: &str) -> Value {
    json!({"widgets": [{"textParagraph": {"text": html}}]})
}

fn strong(text: &str) -> String {
    format!(
        "<font color=#848484><strong>{}</strong></font>",
        escaped(text)
    )
}

pub(super) fn body(message: &Message, _: &Receiver) -> Value {
    let mut sections = vec![section(&strong(&message.text))];
    sections.extend(
        message
            .fields
            .iter()
            .map(|(name, value)| section(&format!("{}<br>{}", escaped(name), strong(value)))),
    );
    if let Some(link) = &message.link {
        sections.push(json!({"widgets": [{"buttons": [
            {"textButton": {"text": "Read on", "onClick": {"openLink": {"url": link}}}},
        ]}]}));
    }
    json!({"cards": [{
        "header": {"title": "Flagger", "subtitle": message.full_name(), "imageUrl": PICTURE},
        "sections": sections,
    }]})
}
