//! The AlertProvider: somebody who is told about runs, a chat service most often.
//!
//! The doc comment of each field is also its description in the CRD, what `kubectl explain` shows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::API_VERSION;
use super::decode::{self, DecodeError};
use super::metadata::Metadata;
use super::metric_template::SecretRef;
use super::string_enum::string_enum;

/// An AlertProvider as it stands in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AlertProvider {
    /// Name and identity.
    pub metadata: Metadata,
    /// Where messages go and in which form.
    pub spec: AlertProviderSpec,
}

impl AlertProvider {
    /// The kind in an object's `kind`.
    pub const KIND: &'static str = "AlertProvider";
    /// The resource name in API paths.
    pub const PLURAL: &'static str = "alertproviders";

    /// Reads an AlertProvider from the API server's JSON. When this fails, [`Metadata::of`] still names the object.
    pub fn decode(object: &Value) -> Result<Self, DecodeError> {
        Ok(Self {
            metadata: decode::envelope(object, Self::KIND)?,
            spec: decode::required(object, "spec")?,
        })
    }

    /// The object as JSON, with `apiVersion` and `kind`.
    #[must_use]
    pub fn encode(&self) -> Value {
        json!({ "apiVersion": API_VERSION, "kind": Self::KIND, "metadata": self.metadata, "spec": self.spec })
    }
}

/// Who is told: exactly one of address and secretRef says where messages go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{ "required": ["type", "address"] }, { "required": ["type", "secretRef"] }]))]
pub struct AlertProviderSpec {
    /// Which chat service it is; webhook for a receiver of your own, which gets CloudEvents, alertmanager for Prometheus's.
    #[serde(rename = "type")]
    pub provider_type: AlertProviderType,
    /// Channel that messages go to, where the service lets the sender choose. Default: general.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Name that messages are sent under, where the service lets the sender choose. Default: flagger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Address that messages are posted to; for alertmanager its base URL. Excludes secretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// HTTP proxy that messages go through, as a URL. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Secret, in the namespace of this object, whose key address holds the address; for slack, webhook and alertmanager
    /// the key token may hold a token, which is sent to that address alone. Excludes address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Form of messages of type msteams: adaptive-card for a webhook of Teams' Workflows, message-card for an old
    /// connector. Default: adaptive-card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TeamsFormat>,
    /// Text of the messages, in the template language of metric queries, such as "{{ .message }} on {{ .cluster }}".
    /// Default: the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Address of a page about the canary that messages link to, in the same language, such as
    /// "https://grafana.test/d/serin?var-canary={{ name }}". Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl AlertProviderSpec {
    /// Channel where the service lets the sender choose; Flagger's default when absent.
    #[must_use]
    pub fn channel(&self) -> &str {
        self.channel
            .as_deref()
            .filter(|channel| !channel.is_empty())
            .unwrap_or(DEFAULT_CHANNEL)
    }

    /// Name that messages are sent under; Flagger's default when absent.
    #[must_use]
    pub fn username(&self) -> &str {
        self.username
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or(DEFAULT_USERNAME)
    }

    /// The address that stands in the object itself.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.address
            .as_deref()
            .filter(|address| !address.is_empty())
    }
}

/// Flagger's defaults.
pub const DEFAULT_CHANNEL: &str = "general";
/// Flagger's defaults.
pub const DEFAULT_USERNAME: &str = "flagger";
/// Key of a Secret that holds the address.
pub const ADDRESS_KEY: &str = "address";
/// Key of a Secret that holds a token.
pub const TOKEN_KEY: &str = "token";

string_enum! {
    /// Who can be told.
    pub enum AlertProviderType {
        /// Slack.
        #[default]
        Slack = "slack",
        /// Microsoft Teams.
        MsTeams = "msteams",
        /// Discord.
        Discord = "discord",
        /// Rocket.Chat.
        Rocket = "rocket",
        /// Google Chat.
        GoogleChat = "gchat",
        /// A receiver of one's own: CloudEvents 1.0 in JSON.
        Webhook = "webhook",
        /// Prometheus Alertmanager.
        Alertmanager = "alertmanager",
    }
}

string_enum! {
    /// Forms of a Teams message.
    pub enum TeamsFormat {
        /// An adaptive card, what Workflows take.
        #[default]
        AdaptiveCard = "adaptive-card",
        /// The MessageCard of Office 365 connectors, Flagger's form.
        MessageCard = "message-card",
    }
}
