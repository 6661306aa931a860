//! Alerts on their way out: one file for each kind of receiver, one line in [`form_of`].
//!
//! ```text
//!   Message + Receiver ─▶ the receiver's file: address, headers, body ─▶ Sender: attempts, waits, deadline ─▶ told, or why not
//! ```
//!
//! What receivers answer is believed only as far as told or not told. The address is often a secret by itself, so it is in no error,
//! and a token goes to the address that it came with and to no other host.

mod alertmanager;
mod chat;
mod discord;
mod google_chat;
mod rocket;
mod send;
mod slack;
mod teams;
mod webhook;

pub use send::{Failure, Sender, Timing};

use crate::api::alert_provider::{ADDRESS_KEY, TOKEN_KEY};
use crate::api::{
    AlertProviderSpec, AlertProviderType, AlertSeverity, TeamsFormat,
    alert_provider::{DEFAULT_CHANNEL, DEFAULT_USERNAME},
};
use crate::providers::Credentials;
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use reqwest::Url;
use serde_json::Value;
use std::fmt;

/// What is told, whoever is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Identity: the same for every attempt to tell the same thing.
    pub id: String,
    /// Name of the canary.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Name and kind of its target, as `Deployment/podinfo`.
    pub target: String,
    /// Name of the cluster; empty where it has none.
    pub cluster: String,
    /// How grave it is.
    pub severity: AlertSeverity,
    /// Why, in one word for tools.
    pub reason: String,
    /// The phase of the canary.
    pub phase: String,
    /// When it happened.
    pub at: Timestamp,
    /// What is told, in the receiver's markup: what came from outside went through [`words_for`].
    pub text: String,
    /// Why, with the numbers; may be empty.
    pub cause: String,
    /// What was measured, against which limits.
    pub checks: Vec<String>,
    /// Number of the run.
    pub run: i64,
    /// Hash of its revision.
    pub revision: String,
    /// What chat services show beside the text: name and value.
    pub fields: Vec<(String, String)>,
    /// Where to read on.
    pub link: Option<String>,
}

impl Message {
    /// As Flagger names a canary to people.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }
}

/// Who is told, and how. Printing it shows no address and no token.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    /// What it is.
    pub kind: AlertProviderType,
    /// Form of a Teams message.
    pub format: TeamsFormat,
    /// Channel, where the sender may choose.
    pub channel: String,
    /// Name of the sender, where it may choose.
    pub username: String,
    /// Where messages go.
    pub address: String,
    /// Sent along to that address.
    pub token: Option<String>,
    /// Proxy on the way.
    pub proxy: Option<String>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({})", self.kind)
    }
}

impl Receiver {
    /// The receiver that an `AlertProvider` describes, with the data of the Secret that it names.
    pub fn of(spec: &AlertProviderSpec, secret: Option<&Credentials>) -> Result<Self, String> {
        let (address, token) = match (spec.address(), secret) {
            // A token is for the address beside it in the same Secret.
            (Some(address), _) => (address.to_owned(), None),
            (None, Some(secret)) => match secret.get(ADDRESS_KEY) {
                Some(address) => (
                    address.trim().to_owned(),
                    secret.get(TOKEN_KEY).map(|token| token.trim().to_owned()),
                ),
                None => return Err(format!("its Secret lacks the key {ADDRESS_KEY}")),
            },
            (None, None) => return Err("it has neither address nor secretRef".to_owned()),
        };
        Ok(Self {
            kind: spec.provider_type,
            format: spec.format.unwrap_or_default(),
            channel: spec.channel().to_owned(),
            username: spec.username().to_owned(),
            address,
            token,
            proxy: spec.proxy.clone().filter(|proxy| !proxy.is_empty()),
        })
    }

    /// The controller's own channel in a chat service; empty texts are those that were not given.
    #[must_use]
    pub fn of_flags(
        kind: AlertProviderType,
        address: &str,
        token: &str,
        proxy: &str,
        username: &str,
        channel: &str,
    ) -> Self {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            kind,
            format: TeamsFormat::default(),
            channel: given(channel).unwrap_or_else(|| DEFAULT_CHANNEL.to_owned()),
            username: given(username).unwrap_or_else(|| DEFAULT_USERNAME.to_owned()),
            address: address.to_owned(),
            token: given(token),
            proxy: given(proxy),
        }
    }
}

/// What the body of an answer says of its success.
pub type Reader = fn(&[u8]) -> Result<(), Failure>;

/// A request that tells something.
#[derive(Clone)]
pub struct Request {
    /// Where to.
    pub url: Url,
    /// Content type, and the token where there is one.
    pub headers: HeaderMap,
    /// JSON.
    pub body: Value,
    /// What a success says about itself in its body, where its status alone says too little.
    pub read: Option<Reader>,
}

/// How one kind of receiver is told.
struct Form {
    /// The body of the request.
    body: fn(&Message, &Receiver) -> Value,
    /// What comes after the path of the address, unless it is there already.
    path: &'static str,
    content_type: &'static str,
    /// Whether it takes a token.
    takes_token: bool,
    read: Option<Reader>,
    /// How words from outside are written in a text, so that they are no markup there.
    words: Words,
}

/// Writes words from outside, such as the last ones of a pod, in the markup of a receiver.
pub type Words = fn(&str) -> String;

/// How a text for a receiver of this type must write words from outside.
#[must_use]
pub fn words_for(kind: AlertProviderType) -> Words {
    form_of(kind).words
}

const PLAIN: Form = Form {
    body: slack::body,
    path: "",
    content_type: "application/json",
    takes_token: false,
    read: None,
    words: str::to_owned,
};

/// The registry: how the receivers of a type are told.
fn form_of(kind: AlertProviderType) -> Form {
    match kind {
        AlertProviderType::Slack => Form {
            takes_token: true,
            read: Some(slack::read),
            words: slack::words,
            ..PLAIN
        },
        AlertProviderType::MsTeams => Form {
            body: teams::body,
            ..PLAIN
        },
        AlertProviderType::Discord => Form {
            body: discord::body,
            path: discord::PATH,
            words: chat::words,
            ..PLAIN
        },
        AlertProviderType::Rocket => Form {
            body: rocket::body,
            words: chat::words,
            ..PLAIN
        },
        AlertProviderType::GoogleChat => Form {
            body: google_chat::body,
            ..PLAIN
        },
        AlertProviderType::Webhook => Form {
            body: webhook::body,
            content_type: webhook::CONTENT_TYPE,
            takes_token: true,
            ..PLAIN
        },
        AlertProviderType::Alertmanager => Form {
            body: alertmanager::body,
            path: alertmanager::PATH,
            takes_token: true,
            ..PLAIN
        },
    }
}

/// The request by which `receiver` is told. An error says what is wrong without saying what the address is.
pub fn request(message: &Message, receiver: &Receiver) -> Result<Request, String> {
    let form = form_of(receiver.kind);
    let mut url = Url::parse(&receiver.address)
        .ok()
        .filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
        .ok_or("its address is no URL that messages can be posted to")?;
    let path = url.path().trim_end_matches('/').to_owned();
    if !form.path.is_empty() && !path.ends_with(form.path) {
        url.set_path(&format!("{path}{}", form.path));
    }
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(form.content_type),
    );
    if let Some(token) = receiver.token.as_ref().filter(|_| form.takes_token) {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| "its token has characters that no header can carry")?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(Request {
        url,
        headers,
        body: (form.body)(message, receiver),
        read: form.read,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
