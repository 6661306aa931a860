//! Requests to the API server on plain JSON, one deadline for each call. What can pass is tried again a few times with jitter (and with
//! the server's own `Retry-After`); what is left over is sorted by what the caller can do about it.

use super::tenure::Tenure;
use crate::object::{Kind, Object, ObjectRef};
use crate::providers::http::MAX_ANSWER;
use crate::providers::{ApiServer, ClusterError};
use crate::rollout::ListRef;
use backon::{ExponentialBuilder, Retryable};
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Longest time for one attempt of a call.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Additional attempts after the first.
const RETRIES: usize = 3;
/// Longest wait that a `Retry-After` may ask of a call; longer ones end the call and the pass is queued again.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10);
/// Page size of lists.
const PAGE: usize = 500;

/// Why a call came to nothing, sorted by what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The object does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The object is not what it was expected to be any more: read again, decide again.
    #[error("{0}")]
    Conflict(String),
    /// The API server does not know the resource.
    #[error("{0}")]
    Unserved(String),
    /// The API server won't do it, and won't later either.
    #[error("{message} (HTTP {code})")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The API server's text.
        message: String,
    },
    /// It may work later: overload, a time-out, a broken connection.
    #[error("{message}")]
    Transient {
        /// What happened.
        message: String,
        /// What the server asked for.
        retry_after: Option<Duration>,
    },
}

impl ApiError {
    fn transient(message: impl Into<String>) -> Self {
        Self::Transient {
            message: message.into(),
            retry_after: None,
        }
    }

    /// One word for metrics.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::Unserved(_) => "unserved",
            Self::Refused { .. } => "refused",
            Self::Transient { .. } => "transient",
        }
    }
}

/// The content types of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// Server-side apply (JSON is YAML).
    Apply,
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
}

impl PatchType {
    fn content_type(self) -> &'static str {
        match self {
            Self::Apply => "application/apply-patch+yaml",
            Self::Merge => "application/merge-patch+json",
            Self::Json => "application/json-patch+json",
        }
    }
}

/// The API server.
#[derive(Clone)]
pub struct KubeApi {
    clients: watch::Receiver<kube::Client>,
    tenure: Tenure,
    /// Plurals of kinds that the code does not name, as the API server gave them.
    plurals: Arc<Mutex<HashMap<Kind, String>>>,
}

impl KubeApi {
    /// Talks through a client of the newest of these configurations, whose own retries must be off. The first one must be usable
    /// ([`kube::Client::try_from`]); a later one that is not is passed over.
    ///
    /// # Errors
    /// When no client can be made of the first.
    pub fn following(mut configs: watch::Receiver<kube::Config>) -> Result<Self, kube::Error> {
        let first = kube::Client::try_from(configs.borrow_and_update().clone())?;
        let (sender, clients) = watch::channel(first);
        tokio::spawn(async move {
            while configs.changed().await.is_ok() {
                let config = configs.borrow_and_update().clone();
                match kube::Client::try_from(config) {
                    Ok(client) => {
                        let _ = sender.send(client);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the changed credentials can't be used; going on with the ones before");
                    }
                }
            }
            // Whoever listens for changes waits for ever.
            sender.closed().await;
        });
        Ok(Self {
            clients,
            tenure: Tenure::forever(),
            plurals: Arc::default(),
        })
    }

    /// Talks through these clients, for tests.
    #[cfg(test)]
    pub(super) fn through(clients: watch::Receiver<kube::Client>) -> Self {
        Self {
            clients,
            tenure: Tenure::forever(),
            plurals: Arc::default(),
        }
    }

    /// The same API server for somebody who may change things only while `tenure` holds.
    #[must_use]
    pub fn fenced(mut self, tenure: Tenure) -> Self {
        self.tenure = tenure;
        self
    }

    /// The client underneath, for watches.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.clients.borrow().clone()
    }

    /// Clients as they come with new credentials; the present one counts as seen.
    #[must_use]
    pub fn clients(&self) -> watch::Receiver<kube::Client> {
        let mut clients = self.clients.clone();
        clients.borrow_and_update();
        clients
    }

    /// Asks for nothing but an answer.
    pub async fn greet(&self) -> Result<(), ApiError> {
        self.call(&Method::GET, "/version", None, &Value::Null)
            .await
            .map(|_| ())
    }

    /// Reads one object.
    pub async fn get(&self, name: &ObjectRef) -> Result<Object, ApiError> {
        let path = object_path(&self.resolved(name).await?);
        self.call(&Method::GET, &path, None, &Value::Null)
            .await
            .map(|value| typed(value, &name.kind))
    }

    /// Reads a list, page by page.
    pub async fn list(&self, list: &ListRef) -> Result<Vec<Object>, ApiError> {
        let mut objects = Vec::new();
        let mut next = String::new();
        loop {
            let mut path = page_path(list, PAGE);
            if !next.is_empty() {
                path.push_str("&continue=");
                path.push_str(&query_escape(&next));
            }
            let mut page = self.call(&Method::GET, &path, None, &Value::Null).await?;
            if let Value::Array(items) = page["items"].take() {
                objects.extend(items.into_iter().map(|item| typed(item, &list.kind)));
            }
            page["metadata"]["continue"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut next);
            if next.is_empty() {
                return Ok(objects);
            }
        }
    }

    /// Reads the first objects of a list, so many at most, in one request.
    pub async fn list_some(&self, list: &ListRef, most: usize) -> Result<Vec<Object>, ApiError> {
        let path = page_path(list, most);
        let mut page = self.call(&Method::GET, &path, None, &Value::Null).await?;
        let Value::Array(items) = page["items"].take() else {
            return Ok(Vec::new());
        };
        Ok(items
            .into_iter()
            .map(|item| typed(item, &list.kind))
            .collect())
    }

    /// Creates an object; the body carries its name.
    pub async fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        body: &Value,
    ) -> Result<Object, ApiError> {
        let path = format!(
            "{}?fieldManager={}",
            collection_path(kind, namespace),
            super::FIELD_MANAGER
        );
        self.call(&Method::POST, &path, Some("application/json"), body)
            .await
            .map(|value| typed(value, kind))
    }

    /// Replaces an object whole, guarded by the resource version in the body.
    pub async fn replace(&self, name: &ObjectRef, body: &Value) -> Result<Object, ApiError> {
        let path = format!(
            "{}?fieldManager={}",
            object_path(name),
            super::FIELD_MANAGER
        );
        self.call(&Method::PUT, &path, Some("application/json"), body)
            .await
            .map(|value| typed(value, &name.kind))
    }

    /// Patches an object or, with `subresource`, a part of it.
    pub async fn patch(
        &self,
        name: &ObjectRef,
        subresource: Option<&str>,
        patch: PatchType,
        body: &Value,
    ) -> Result<Object, ApiError> {
        let mut url = object_path(&self.resolved(name).await?);
        if let Some(subresource) = subresource {
            url.push('/');
            url.push_str(subresource);
        }
        url.push_str("?fieldManager=");
        url.push_str(super::FIELD_MANAGER);
        if patch == PatchType::Apply {
            url.push_str("&force=true");
        }
        self.call(&Method::PATCH, &url, Some(patch.content_type()), body)
            .await
            .map(|value| typed(value, &name.kind))
    }

    /// Has the API server go through a patch of an object, with all its checks, and store nothing.
    pub async fn rehearse(
        &self,
        name: &ObjectRef,
        patch: PatchType,
        body: &Value,
    ) -> Result<Object, ApiError> {
        let url = format!(
            "{}?fieldManager={}&dryRun=All",
            object_path(&self.resolved(name).await?),
            super::FIELD_MANAGER
        );
        self.call(&Method::PATCH, &url, Some(patch.content_type()), body)
            .await
            .map(|value| typed(value, &name.kind))
    }

    /// The kind with the plural under which the API server serves it. Kinds of the code have theirs; that of a kind that only a canary names
    /// is asked for once and remembered.
    ///
    /// # Errors
    /// [`ApiError::Unserved`] for a kind that the API server doesn't serve in that version, [`ApiError::Refused`] for one that does not
    /// live in namespaces.
    pub async fn resolve(&self, kind: &Kind) -> Result<Kind, ApiError> {
        let known = self.known(kind);
        if !known.plural.is_empty() {
            return Ok(known);
        }
        let plural = self.discover(kind).await?;
        self.plurals().insert(kind.clone(), plural);
        Ok(self.known(kind))
    }

    /// The kind with its plural as far as it is known without asking; else with an empty one.
    #[must_use]
    pub fn known(&self, kind: &Kind) -> Kind {
        let mut kind = kind.clone();
        if kind.plural.is_empty()
            && let Some(plural) = self.plurals().get(&kind)
        {
            kind.plural = plural.clone().into();
        }
        kind
    }

    fn plurals(&self) -> MutexGuard<'_, HashMap<Kind, String>> {
        self.plurals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn resolved(&self, name: &ObjectRef) -> Result<ObjectRef, ApiError> {
        Ok(self
            .resolve(&name.kind)
            .await?
            .named(&name.namespace, &name.name))
    }

    async fn discover(&self, kind: &Kind) -> Result<String, ApiError> {
        let root = if kind.group.is_empty() { "api" } else { "apis" };
        let version = kind.api_version();
        let path = format!("/{root}/{version}");
        let list = match self.call(&Method::GET, &path, None, &Value::Null).await {
            Err(ApiError::NotFound(_) | ApiError::Unserved(_)) => Value::Null,
            other => other?,
        };
        plural_of(kind, &list)
    }

    /// Deletes an object with these `DeleteOptions`.
    pub async fn delete(&self, name: &ObjectRef, options: &Value) -> Result<(), ApiError> {
        self.call(
            &Method::DELETE,
            &object_path(name),
            Some("application/json"),
            options,
        )
        .await
        .map(|_| ())
    }

    /// No bound for the answer: the API server bounds its objects, and lists are read by pages.
    async fn call(
        &self,
        method: &Method,
        path: &str,
        content_type: Option<&str>,
        body: &Value,
    ) -> Result<Value, ApiError> {
        self.call_within(usize::MAX, method, path, content_type, body)
            .await
    }

    /// The same with a bound for the answer, in bytes.
    async fn call_within(
        &self,
        most: usize,
        method: &Method,
        path: &str,
        content_type: Option<&str>,
        body: &Value,
    ) -> Result<Value, ApiError> {
        let bytes = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let attempt = || async {
            self.attempt(most, method, path, content_type, bytes.clone())
                .await
        };
        attempt
            .retry(
                ExponentialBuilder::default()
                    .with_min_delay(Duration::from_millis(200))
                    .with_max_delay(Duration::from_secs(5))
                    .with_max_times(RETRIES)
                    .with_jitter(),
            )
            .when(|error| match error {
                ApiError::Transient { retry_after, .. } => {
                    retry_after.is_none_or(|wait| wait <= LONGEST_RETRY_AFTER)
                }
                _ => false,
            })
            .adjust(|error, planned| match error {
                ApiError::Transient {
                    retry_after: Some(wait),
                    ..
                } => planned.map(|planned| planned.max(*wait)),
                _ => planned,
            })
            .await
    }

    async fn attempt(
        &self,
        most: usize,
        method: &Method,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Value, ApiError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request
            .body(Body::from(body))
            .map_err(|error| ApiError::Refused {
                code: 0,
                message: format!("{path}: {error}"),
            })?;
        let client = self.client();
        let exchange = async {
            let response = client
                .send(request)
                .await
                .map_err(|error| ApiError::transient(error.to_string()))?;
            let status = response.status();
            let retry_after = response
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .map(Duration::from_secs);
            let bytes = Limited::new(response.into_body(), most)
                .collect()
                .await
                .map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                    Some(_) => ApiError::Refused {
                        code: status.as_u16(),
                        message: format!("{method} {path}: the answer is larger than {most} bytes"),
                    },
                    None => ApiError::transient(error.to_string()),
                })?
                .to_bytes();
            if status.is_success() {
                return serde_json::from_slice(&bytes).map_err(|error| {
                    ApiError::transient(format!("{method} {path}: the answer is not JSON: {error}"))
                });
            }
            Err(sort(status, &bytes, retry_after))
        };
        let deadline = if *method == Method::GET {
            CALL_DEADLINE
        } else {
            // What could arrive after the right to write is over is not sent, or given up in time.
            self.tenure.remaining().min(CALL_DEADLINE)
        };
        if deadline.is_zero() {
            return Err(ApiError::transient(format!(
                "{method} {path}: not sent, this replica does not hold the lease"
            )));
        }
        match tokio::time::timeout(deadline, exchange).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::transient(format!(
                "{method} {path}: no answer within {:.1} s",
                deadline.as_secs_f64()
            ))),
        }
    }
}

/// For backends that ask the API server of the own cluster.
/// What tenants have asked for may come from a server behind the API server, such as an adapter of metrics, so answers are bounded as those
/// of other backends are.
impl ApiServer for KubeApi {
    fn get<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move {
            let answer = self
                .call_within(MAX_ANSWER, &Method::GET, path, None, &Value::Null)
                .await;
            answer.map_err(|error| for_backends(&error))
        })
    }

    fn create<'a>(
        &'a self,
        path: &'a str,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move {
            let path = format!("{path}?fieldManager={}", super::FIELD_MANAGER);
            let answer = self
                .call(&Method::POST, &path, Some("application/json"), body)
                .await;
            answer.map_err(|error| for_backends(&error))
        })
    }

    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            let options = json!({});
            let answer = self
                .call(&Method::DELETE, path, Some("application/json"), &options)
                .await;
            answer.map(|_| ()).map_err(|error| for_backends(&error))
        })
    }
}

fn for_backends(error: &ApiError) -> ClusterError {
    let text = error.to_string();
    match error {
        ApiError::NotFound(_) => ClusterError::Absent(text),
        ApiError::Unserved(_) => ClusterError::Unserved(text),
        ApiError::Refused { code: 403, .. } => ClusterError::Forbidden(text),
        _ => ClusterError::Failed(text),
    }
}

/// All that newer API servers say of a JSON patch that does not fit what it finds; what is not valid they explain.
const UNTOLD: &str = "the server rejected our request due to an error in our request";

/// Makes an error of an answer that is not a success.
fn sort(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> ApiError {
    let answer: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let message = answer["message"].as_str().map_or_else(
        || {
            String::from_utf8_lossy(&body[..body.len().min(500)])
                .trim()
                .to_owned()
        },
        str::to_owned,
    );
    match status.as_u16() {
        // A missing object is named in the details; a missing resource is not.
        404 if answer["details"]["name"]
            .as_str()
            .is_some_and(|name| !name.is_empty()) =>
        {
            ApiError::NotFound(message)
        }
        404 => ApiError::Unserved(message),
        409 => ApiError::Conflict(message),
        // A JSON patch whose test fails is told as unprocessable.
        422 if message.contains("test failed")
            || message.contains("testing value")
            || message.contains("testing path")
            || (message == UNTOLD && answer["details"]["causes"].is_null()) =>
        {
            ApiError::Conflict(message)
        }
        // Credentials are renewed in place, so 401, a refusal to know us, may pass.
        401 | 408 | 425 | 429 | 500..=599 => ApiError::Transient {
            message: format!("{message} (HTTP {status})"),
            retry_after,
        },
        code => ApiError::Refused { code, message },
    }
}

/// Items of lists come without these two.
fn typed(mut value: Value, kind: &Kind) -> Object {
    if let Value::Object(map) = &mut value
        && map.get("kind").is_none_or(Value::is_null)
    {
        map.insert("apiVersion".to_owned(), Value::String(kind.api_version()));
        map.insert("kind".to_owned(), Value::String(kind.kind.to_string()));
    }
    Object::new(value)
}

/// The plural of a kind in an `APIResourceList`; subresources, whose names have a slash, don't count.
fn plural_of(kind: &Kind, list: &Value) -> Result<String, ApiError> {
    let resource = list["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|resource| {
            resource["kind"] == *kind.kind
                && resource["name"]
                    .as_str()
                    .is_some_and(|name| !name.is_empty() && !name.contains('/'))
        })
        .ok_or_else(|| ApiError::Unserved(unserved(kind)))?;
    let plural = resource["name"].as_str().unwrap_or_default();
    if resource["namespaced"] == Value::Bool(false) {
        return Err(ApiError::Refused {
            code: 0,
            message: format!(
                "{} of {} does not live in namespaces, so no canary can name one",
                kind.kind,
                kind.api_version()
            ),
        });
    }
    Ok(plural.to_owned())
}

/// What is said of a kind that the API server does not serve.
pub fn unserved(kind: &Kind) -> String {
    format!(
        "{} of {} is not served by this API server (is the CRD installed?)",
        kind.kind,
        kind.api_version()
    )
}

/// The first page of a list.
fn page_path(list: &ListRef, most: usize) -> String {
    let mut path = format!(
        "{}?limit={most}",
        collection_path(&list.kind, &list.namespace)
    );
    if !list.labels.is_empty() {
        let selector: Vec<String> = list
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        path.push_str("&labelSelector=");
        path.push_str(&query_escape(&selector.join(",")));
    }
    path
}

fn collection_path(kind: &Kind, namespace: &str) -> String {
    let root = if kind.group.is_empty() { "api" } else { "apis" };
    let version = kind.api_version();
    if kind.namespaced && !namespace.is_empty() {
        format!(
            "/{root}/{version}/namespaces/{}/{}",
            query_escape(namespace),
            kind.plural
        )
    } else {
        format!("/{root}/{version}/{}", kind.plural)
    }
}

fn object_path(name: &ObjectRef) -> String {
    format!(
        "{}/{}",
        collection_path(&name.kind, &name.namespace),
        query_escape(&name.name)
    )
}

/// Percent-encodes all but unreserved characters.
fn query_escape(text: &str) -> String {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::analysis::{Measurement, ProviderConfig};
    use crate::api::MetricProviderType;
    use crate::object::kinds;
    use crate::providers::http::Timing;
    use crate::providers::{Providers, QueryRequest, Surroundings};

    #[test]
    fn paths_follow_group_scope_and_name() {
        assert_eq!(
            object_path(&kinds::SERVICE.named("test", "web")),
            "/api/v1/namespaces/test/services/web"
        );
        assert_eq!(
            object_path(&kinds::CANARY.named("a", "b")),
            "/apis/flagger.app/v1beta1/namespaces/a/canaries/b"
        );
        assert_eq!(
            collection_path(&kinds::CANARY, ""),
            "/apis/flagger.app/v1beta1/canaries"
        );
        assert_eq!(
            query_escape("kubernetes.io/service-name=web"),
            "kubernetes.io%2Fservice-name%3Dweb"
        );
        // A name that wants out of its place in the path stays in it.
        assert_eq!(
            object_path(&kinds::SECRET.named("a", "../b")),
            "/api/v1/namespaces/a/secrets/..%2Fb"
        );
    }

    #[test]
    fn answers_are_sorted_by_what_can_be_done() {
        let body = |value: Value| value.to_string().into_bytes();
        let missing =
            body(json!({"message": "canaries \"x\" not found", "details": {"name": "x"}}));
        assert_eq!(
            sort(StatusCode::NOT_FOUND, &missing, None).class(),
            "not_found"
        );
        assert_eq!(
            sort(StatusCode::NOT_FOUND, b"404 page not found", None).class(),
            "unserved"
        );
        assert_eq!(sort(StatusCode::CONFLICT, b"{}", None).class(), "conflict");
        let test =
            body(json!({"message": "testing value /metadata/resourceVersion failed: test failed"}));
        assert_eq!(
            sort(StatusCode::UNPROCESSABLE_ENTITY, &test, None).class(),
            "conflict"
        );
        // As kube-apiserver 1.37 tells of a test that failed, and of a value that is not valid.
        let untold = body(json!({"reason": "Invalid", "details": {}, "message": UNTOLD}));
        assert_eq!(
            sort(StatusCode::UNPROCESSABLE_ENTITY, &untold, None).class(),
            "conflict"
        );
        let invalid = body(
            json!({"reason": "Invalid", "message": "HTTPRoute \"front\" is invalid", "details": {"causes": [{}]}}),
        );
        assert_eq!(
            sort(StatusCode::UNPROCESSABLE_ENTITY, &invalid, None).class(),
            "refused"
        );
        assert_eq!(
            sort(StatusCode::UNPROCESSABLE_ENTITY, b"{}", None).class(),
            "refused"
        );
        assert_eq!(sort(StatusCode::FORBIDDEN, b"{}", None).class(), "refused");
        let busy = sort(
            StatusCode::TOO_MANY_REQUESTS,
            b"{}",
            Some(Duration::from_secs(2)),
        );
        assert!(
            matches!(busy, ApiError::Transient { retry_after: Some(wait), .. } if wait.as_secs() == 2)
        );
    }

    #[tokio::test]
    async fn an_answer_that_tenants_asked_for_is_bounded_and_others_are_not() {
        let app = axum::Router::new().fallback(async || {
            let text = "x".repeat(MAX_ANSWER);
            axum::Json(json!({"kind": "Service", "text": text}))
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let (_configs, config) = watch::channel(kube::Config::new(address.parse().unwrap()));
        let api = KubeApi::following(config).unwrap();
        let found = api.get(&kinds::SERVICE.named("test", "web")).await.unwrap();
        assert_eq!(found.text("/text").len(), MAX_ANSWER);
        let error = ApiServer::get(&api, "/apis/x/v1/y").await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("GET /apis/x/v1/y: the answer is larger than 4194304 bytes"),
            "{text}"
        );
    }

    /// A server on this machine that gives these answers one after the other, the last one for ever, and counts who asks.
    async fn serve(
        answers: Vec<axum::response::Response<String>>,
        slow: bool,
    ) -> (String, Arc<Mutex<usize>>) {
        let count = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&count);
        let app = axum::Router::new().fallback(move || {
            let nth = {
                let mut count = counted.lock().unwrap();
                *count += 1;
                *count - 1
            };
            let (head, body) = answers[nth.min(answers.len() - 1)].clone().into_parts();
            async move {
                if slow {
                    std::future::pending::<()>().await;
                }
                axum::response::Response::from_parts(head, axum::body::Body::from(body))
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (address, count)
    }

    /// What comes of a question to a backend that the API server at this address answers for.
    async fn ask(backend: (MetricProviderType, &str), address: &str) -> Measurement {
        let mut config = kube::Config::new(address.parse().unwrap());
        config.auth_info.token = Some("s3cret-of-the-controller".to_owned().into());
        let (_configs, config) = watch::channel(config);
        let api: Arc<dyn ApiServer> = Arc::new(KubeApi::following(config).unwrap());
        let timing = Timing {
            overall: Duration::from_secs(5),
            ..Timing::default()
        };
        let surroundings = Surroundings::of_variables([].into()).in_cluster(api);
        let request = QueryRequest {
            config: ProviderConfig {
                provider_type: backend.0,
                ..ProviderConfig::default()
            },
            credentials: None,
            query: backend.1.to_owned(),
            interval: Duration::from_mins(1),
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let providers = Providers::new(timing, surroundings).unwrap();
        providers.ask(&request).await
    }

    #[tokio::test]
    async fn backends_behind_the_api_server_keep_the_contract_on_bad_days() {
        let answer = |status: u16, headers: &[(&str, &str)], body: &str| {
            let head = axum::response::Response::builder().status(status);
            let head = headers
                .iter()
                .fold(head, |head, (name, value)| head.header(*name, *value));
            head.body(body.to_owned()).unwrap()
        };
        let at = "1970-01-01T00:00:00Z";
        let good = json!({
            "status": {"value": "3", "lastUpdated": at},
            "items": [{"value": "3", "timestamp": at}],
        })
        .to_string();
        let good = || answer(200, &[], &good);
        for backend in [
            (MetricProviderType::Keptn, "keptnmetric/shop/response-time"),
            (MetricProviderType::ExternalMetrics, "shop/queue-length"),
        ] {
            let limited = answer(429, &[("retry-after", "1")], r#"{"message": "slow down"}"#);
            let (address, asked) = serve(vec![limited, good()], false).await;
            let begun = std::time::Instant::now();
            assert_eq!(ask(backend, &address).await, Measurement::Value(3.0));
            assert!(begun.elapsed() >= Duration::from_secs(1), "{backend:?}");
            assert_eq!(*asked.lock().unwrap(), 2, "{backend:?}");

            let (elsewhere, visits) = serve(vec![good()], false).await;
            for status in [301, 302, 307, 308] {
                let moved = answer(status, &[("location", &elsewhere)], "");
                let (address, _) = serve(vec![moved], false).await;
                let Measurement::Error(why) = ask(backend, &address).await else {
                    panic!("{backend:?} took a redirect for an answer")
                };
                assert!(why.contains(&status.to_string()), "{why}");
            }
            assert_eq!(*visits.lock().unwrap(), 0, "the token got elsewhere");

            let (address, _) =
                serve(vec![answer(200, &[], &" ".repeat(MAX_ANSWER + 1))], false).await;
            let Measurement::Error(why) = ask(backend, &address).await else {
                panic!("{backend:?} took a huge answer")
            };
            assert!(
                why.contains("the answer is larger than 4194304 bytes"),
                "{why}"
            );

            let (address, _) = serve(vec![good()], true).await;
            let begun = std::time::Instant::now();
            let Measurement::Error(why) = ask(backend, &address).await else {
                panic!("{backend:?} had an answer that never came")
            };
            assert!(why.contains("did not answer within 5s"), "{why}");
            assert!(begun.elapsed() < Duration::from_secs(9), "{backend:?}");
        }
    }

    #[test]
    fn a_kind_that_only_a_canary_names_is_found_in_what_the_api_server_serves() {
        let list = json!({"kind": "APIResourceList", "groupVersion": "demo.example/v1", "resources": [
            {"name": "splits/status", "kind": "Split", "namespaced": true},
            {"name": "splits", "kind": "Split", "namespaced": true},
            {"name": "worlds", "kind": "World", "namespaced": false},
        ]});
        let kind = |name: &'static str| Kind::namespaced("demo.example", "v1", name, "");
        assert_eq!(plural_of(&kind("Split"), &list), Ok("splits".to_owned()));
        let why = plural_of(&kind("Nothing"), &list).unwrap_err().to_string();
        assert!(
            why.contains("Nothing of demo.example/v1 is not served"),
            "{why}"
        );
        let why = plural_of(&kind("World"), &list).unwrap_err().to_string();
        assert!(why.contains("does not live in namespaces"), "{why}");
        assert!(plural_of(&kind("Split"), &Value::Null).is_err());
    }
}
