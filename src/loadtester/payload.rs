//! What is posted: the body of Flagger's webhooks.

use serde::Deserialize;
use std::collections::BTreeMap;

/// A webhook's body, as far as the load tester looks at it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Payload {
    /// Name of the canary.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The hook's own texts.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Never with the metadata, which may hold a token.
impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Payload {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is not such a JSON object.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| {
            format!(
                "expected a JSON object with name, namespace and metadata (of texts), found something else: {error}"
            )
        })
    }

    /// A text of the metadata; empty if it is not there.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.metadata
            .as_ref()
            .and_then(|metadata| metadata.get(key))
            .map_or("", String::as_str)
    }

    /// Whether a text of the metadata says `true`.
    #[must_use]
    pub fn says(&self, key: &str) -> bool {
        self.text(key) == "true"
    }
}
