//! A small Kubernetes API server on loopback, over the simulation's store: discovery, reads, lists and watches with selectors and bookmarks,
//! creation, replacement, all kinds of patches, the status and scale subresources, tables for kubectl. Whoever comes without the token is refused.
//!
//! What a real one does beyond that is not here: admission, schemas of custom resources (a Canary must decode, that is all), other users and
//! their rights, paging (a list is whole), and conflicts of server-side apply (an apply takes the fields that it names).

mod answer;
mod kinds;
mod select;
mod table;
mod verbs;
mod watching;

pub use kinds::{EVENT, GATEWAY, NAMESPACE};

use super::cluster::Cluster;
use answer::Failure;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use table::Form;

/// One resource, one object or a part of one, as a path names it.
struct Target {
    resource: kinds::Resource,
    /// Empty for all, and for what lives in none.
    namespace: String,
    /// Empty for the collection.
    name: String,
    /// Subresource; empty for the object itself.
    part: String,
}

struct Api {
    cluster: Arc<Cluster>,
    token: String,
}

/// The API over `cluster`, for those who have `token`.
pub fn router(cluster: Arc<Cluster>, token: String) -> Router {
    Router::new()
        .fallback(serve)
        .with_state(Arc::new(Api { cluster, token }))
}

/// Whether the two are the same, without telling by the time it takes where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .fold(0, |differ, (one, other)| differ | (one ^ other))
            == 0
}

async fn serve(
    State(api): State<Arc<Api>>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let given = headers
        .get(header::AUTHORIZATION)
        .map(axum::http::HeaderValue::as_bytes)
        .and_then(|value| value.strip_prefix(b"Bearer "))
        .unwrap_or_default();
    if !same(given, api.token.as_bytes()) {
        return Failure::unauthorized().into_response();
    }
    let path = uri.path().trim_end_matches('/');
    let request = verbs::Asked {
        method,
        query,
        accept: Form::of(text(&headers, &header::ACCEPT)),
        content_type: text(&headers, &header::CONTENT_TYPE).to_owned(),
        agent: text(&headers, &header::USER_AGENT).to_owned(),
        body,
    };
    match answer(&api, path, &request) {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn answer(api: &Api, path: &str, request: &verbs::Asked) -> Result<Response, Failure> {
    let steps: Vec<String> = path
        .split('/')
        .skip(1)
        .map(decoded)
        .collect::<Result<_, _>>()?;
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let value = match steps.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => {
            return Ok((StatusCode::OK, "ok").into_response());
        }
        ["version"] => json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.0+serin-demo", "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "", "compiler": "", "platform": "simulated",
        }),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"]}),
        ["apis"] => kinds::group_list(),
        ["openapi", "v3"] => kinds::openapi_index(),
        ["openapi", "v3", root @ ..] => {
            kinds::openapi(&root.join("/")).ok_or_else(Failure::no_resource)?
        }
        ["api", version] => kinds::resource_list("", version).ok_or_else(Failure::no_resource)?,
        ["apis", group, version] => {
            kinds::resource_list(group, version).ok_or_else(Failure::no_resource)?
        }
        ["api", version, rest @ ..] => return object_call(api, "", version, rest, request),
        ["apis", group, version, rest @ ..] => {
            return object_call(api, group, version, rest, request);
        }
        _ => return Err(Failure::no_resource()),
    };
    Ok(Json(value).into_response())
}

/// A path segment without its percent signs.
fn decoded(step: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let mut rest = step.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let code = after
                .get(..2)
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or_else(|| Failure::bad_request(format!("{step:?} is not a path segment")))?;
            bytes.push(code);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::bad_request(format!("{step:?} is not a path segment")))
}

fn object_call(
    api: &Api,
    group: &str,
    version: &str,
    rest: &[&str],
    request: &verbs::Asked,
) -> Result<Response, Failure> {
    if let Some(review) = verbs::review(group, rest, request)? {
        return Ok((StatusCode::CREATED, Json(review)).into_response());
    }
    let (namespace, rest) = match rest {
        // A namespace itself, or a part of it, is no place in one.
        ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => {
            (*namespace, [&[*plural], rest].concat())
        }
        rest => ("", rest.to_vec()),
    };
    let (plural, name, part) = match rest.as_slice() {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, part] => (*plural, *name, *part),
        _ => return Err(Failure::no_resource()),
    };
    let resource = kinds::find(group, version, plural).ok_or_else(Failure::no_resource)?;
    if !part.is_empty() && !resource.parts.contains(&part)
        || !name.is_empty() && resource.kind.namespaced == namespace.is_empty()
    {
        return Err(Failure::no_resource());
    }
    let target = Target {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        part: part.to_owned(),
    };
    let wants_watch = request
        .query
        .get("watch")
        .is_some_and(|watch| watch == "true" || watch == "1");
    if request.method == Method::GET && wants_watch {
        let stream = watching::watch(&api.cluster, &target, request)?;
        return Ok((
            [(header::CONTENT_TYPE, "application/json")],
            Body::from_stream(stream),
        )
            .into_response());
    }
    verbs::carry_out(&api.cluster, &target, request)
        .map(|(status, value)| (status, Json(value)).into_response())
}
