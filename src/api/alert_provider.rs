//! The AlertProvider: a chat service that is told about runs.
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

/// A chat service: exactly one of address and secretRef says where messages go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{ "required": ["type", "address"] }, { "required": ["type", "secretRef"] }]))]
pub struct AlertProviderSpec {
    /// Which chat service it is.
    #[serde(rename = "type")]
    pub provider_type: AlertProviderType,
    /// Channel that messages go to, where the service lets the sender choose. Default: the one of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Name that messages are sent under, where the service lets the sender choose. Default: the controller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Address that messages are posted to. Excludes secretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// HTTP proxy that messages go through, as a URL. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Secret, in the namespace of this object, whose key address holds the address; for Slack the key token may hold a
    /// bot token. Excludes address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

string_enum! {
    /// The chat services.
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
    }
}
