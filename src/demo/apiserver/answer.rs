//! How the API server says no: `Status` objects with the codes and reasons that clients tell apart.

use super::Target;
use crate::sim::store::Refusal;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A request that is not carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    status: StatusCode,
    reason: &'static str,
    message: String,
    details: Value,
}

impl Failure {
    fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "the token of the demo's kubeconfig is needed",
        )
    }

    pub fn no_resource() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    pub fn exists(target: &Target, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", target.resource.kind.plural);
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(target, name)
    }

    pub fn not_found(target: &Target, name: &str) -> Self {
        let kind = &target.resource.kind;
        let resource = if kind.group.is_empty() {
            kind.plural.to_string()
        } else {
            format!("{}.{}", kind.plural, kind.group)
        };
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("{resource} {name:?} not found"),
        )
        .about(target, name)
    }

    pub fn unsupported_media(content_type: &str) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!(
                "found a body of type {content_type:?}; the demo reads JSON, for a server-side apply YAML too"
            ),
        )
    }

    pub fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub fn expired() -> Self {
        Self::new(
            StatusCode::GONE,
            "Expired",
            "too old resource version: list again",
        )
    }

    /// What the store says, about the object of this name.
    pub fn of(refusal: Refusal, target: &Target, name: &str) -> Self {
        match refusal {
            Refusal::NotFound => Self::not_found(target, name),
            Refusal::Invalid(message) => Self::invalid(message),
            // Clients know a failed test of a JSON patch by these words.
            Refusal::Conflict(message) if message.starts_with("the test of ") => {
                Self::invalid(format!("testing value: {message}: test failed"))
            }
            Refusal::Conflict(message) => Self::conflict(message),
        }
    }

    fn about(mut self, target: &Target, name: &str) -> Self {
        let kind = &target.resource.kind;
        self.details = json!({"name": name, "group": kind.group, "kind": kind.plural});
        self
    }

    /// The `Status` object.
    pub fn status_object(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.status.as_u16(),
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.status_object())).into_response()
    }
}
