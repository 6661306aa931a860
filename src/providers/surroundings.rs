//! What backends find around the controller: its environment and files, in which clouds leave an identity, and the API server of its own
//! cluster. Backends get it when they are made, and nothing of it ever goes to an address that a template names.

use super::http::Http;
use futures::future::BoxFuture;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Why the API server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// There is no such object.
    #[error("{0}")]
    Absent(String),
    /// There is no such resource: a definition or an API service is not installed.
    #[error("{0}")]
    Unserved(String),
    /// The controller may not do it.
    #[error("{0}")]
    Forbidden(String),
    /// It did not work.
    #[error("{0}")]
    Failed(String),
}

/// The API server of the cluster that the controller works in, asked with the controller's own rights. Paths begin with `/apis/`, and
/// their parts are escaped.
pub trait ApiServer: Send + Sync {
    /// Reads.
    fn get<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Value, ClusterError>>;
    /// Creates an object in the collection at `path`.
    fn create<'a>(
        &'a self,
        path: &'a str,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>>;
    /// Deletes.
    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), ClusterError>>;
}

/// Reads within the time that a call to a backend may take in all: the controller's own client has more patience.
pub(super) async fn read(
    cluster: &dyn ApiServer,
    http: &Http,
    path: &str,
) -> Result<Value, ClusterError> {
    let overall = http.timing().overall;
    tokio::time::timeout(overall, cluster.get(path))
        .await
        .unwrap_or_else(|_| {
            Err(ClusterError::Failed(format!(
                "the API server did not answer within {overall:?}"
            )))
        })
}

type Environment = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Environment, files and API server.
#[derive(Clone)]
pub struct Surroundings {
    environment: Arc<Environment>,
    cluster: Option<Arc<dyn ApiServer>>,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            environment: Arc::new(|name| std::env::var(name).ok()),
            cluster: None,
        }
    }

    /// These variables and nothing else.
    #[must_use]
    pub fn of_variables(variables: BTreeMap<String, String>) -> Self {
        Self {
            environment: Arc::new(move |name| variables.get(name).cloned()),
            cluster: None,
        }
    }

    /// The same with an API server.
    #[must_use]
    pub fn in_cluster(mut self, cluster: Arc<dyn ApiServer>) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|text| !text.is_empty())
    }

    /// The text of the file that a variable names.
    pub(super) async fn file(&self, variable: &str) -> Result<Option<String>, String> {
        let Some(path) = self.variable(variable) else {
            return Ok(None);
        };
        match tokio::fs::read_to_string(&path).await {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) => Err(format!(
                "{variable} names {path}, which can't be read: {error}"
            )),
        }
    }

    pub(super) fn cluster(&self) -> Result<&Arc<dyn ApiServer>, String> {
        self.cluster
            .as_ref()
            .ok_or_else(|| "there is no API server to ask here".to_owned())
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Surroundings(cluster: {})", self.cluster.is_some())
    }
}

/// A part of a path or query: all but unreserved characters percent-encoded.
pub(super) fn escaped(text: &str) -> String {
    use std::fmt::Write;
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut out, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "%{byte:02X}");
            }
            out
        })
}

/// Whether a text can be the name of an object (RFC 1123 subdomain); what can't would lead elsewhere as part of a path.
pub(super) fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            label.bytes().all(|byte| inner(byte) || byte == b'-')
                && label.bytes().next().is_some_and(inner)
                && label.bytes().last().is_some_and(inner)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_and_no_way_out_of_a_path() {
        for good in ["a", "web-1", "a.b-c.d"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "A", "-a", "a-", "a..b", "a b", "%2e"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert_eq!(escaped("a/b=c d"), "a%2Fb%3Dc%20d");
    }
}
