//! Google Cloud Monitoring (Flagger chapter 4.5): an MQL query; the newest point of the first series counts.
//!
//! Flagger asks by gRPC without a deadline; `timeSeries:query` is the same method over JSON. The token comes from the service account's key in
//! the template's Secret, or else from the controller's own identity (the file that `GOOGLE_APPLICATION_CREDENTIALS` names, or the metadata
//! server), and goes to Google's API alone. Flagger makes 0 of integers; they are numbers here.

use super::exchange::{self, Point, Several, among, list, measured, number};
use super::http::{Call, Http};
use super::secrets::Secrets;
use super::surroundings::Surroundings;
use super::{Provider, QueryRequest};
use crate::analysis::Measurement;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::BoxFuture;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

const API: &str = "https://monitoring.googleapis.com";
const SCOPE: &str = "https://www.googleapis.com/auth/monitoring.read";
const TOKENS: &str = "https://oauth2.googleapis.com/token";
const METADATA: &str = "metadata.google.internal";
/// The metadata server and Google's own tools know each other by this.
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
/// So long before its end a token is asked for anew.
const RESERVE: Duration = Duration::from_mins(5);
/// How many tokens are kept: one for each key in use.
const MOST_KEPT: usize = 256;

/// The backend.
pub(super) struct Stackdriver {
    surroundings: Surroundings,
    /// Tokens and when to ask anew, by the digest of what they were made of.
    kept: Mutex<HashMap<Vec<u8>, (String, Instant)>>,
}

/// Where a token comes from.
enum Source {
    Account(Box<Account>),
    Metadata(Url),
}

/// A service account's key, as Google's console gives it.
struct Account {
    email: String,
    key: KeyPair,
    key_id: Option<String>,
    tokens: Url,
}

impl Stackdriver {
    pub fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            kept: Mutex::default(),
        }
    }

    /// What identifies the request's token, and where to get it.
    async fn source(&self, request: &QueryRequest) -> Result<(Vec<u8>, Source), String> {
        let own = request
            .credentials
            .as_ref()
            .and_then(|credentials| credentials.get("serviceAccountKey"));
        let (key, place) = match own {
            Some(key) => (Some(key.to_owned()), "serviceAccountKey in the Secret"),
            None => (
                self.surroundings
                    .file("GOOGLE_APPLICATION_CREDENTIALS")
                    .await?,
                "the file that GOOGLE_APPLICATION_CREDENTIALS names",
            ),
        };
        if let Some(key) = key {
            let known_by = digest(&SHA256, key.as_bytes()).as_ref().to_vec();
            let account = account(&key).map_err(|why| format!("{place} {why}"))?;
            return Ok((known_by, Source::Account(Box::new(account))));
        }
        let host = self
            .surroundings
            .variable("GCE_METADATA_HOST")
            .unwrap_or_else(|| METADATA.to_owned());
        let url = Url::parse(&format!(
            "http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
        ))
        .map_err(|_| "GCE_METADATA_HOST of the controller is not a host".to_owned())?;
        Ok((b"metadata".to_vec(), Source::Metadata(url)))
    }

    async fn token(&self, http: &Http, request: &QueryRequest) -> Result<String, String> {
        let (known_by, source) = self.source(request).await?;
        let mut kept = self.kept.lock().await;
        let now = Instant::now();
        if let Some((token, until)) = kept.get(&known_by)
            && now < *until
        {
            return Ok(token.clone());
        }
        let answer = match source {
            Source::Account(account) => {
                let call = exchange_key(&account, request.now)?;
                exchange::send(http, &call).await.map_err(|why| {
                    format!("the service account's key can't be exchanged for a token: {why}")
                })
            }
            Source::Metadata(url) => {
                let mut headers = HeaderMap::new();
                headers.insert(FLAVOR, HeaderValue::from_static("Google"));
                let mut url = url;
                url.query_pairs_mut().append_pair("scopes", SCOPE);
                exchange::send(http, &call(Method::GET, url, headers, Vec::new()))
                    .await
                    .map_err(|why| {
                        format!("the Secret has no serviceAccountKey, and the metadata server gives the controller no token: {why}")
                    })
            }
        }?;
        let document: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        let token = document["access_token"]
            .as_str()
            .filter(|token| !token.is_empty())
            .ok_or("the answer with a token for Google has no access_token")?
            .to_owned();
        let lasts = Duration::from_secs(document["expires_in"].as_u64().unwrap_or(0));
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(
            known_by,
            (token.clone(), now + lasts.saturating_sub(RESERVE)),
        );
        Ok(token)
    }

    /// The answer to a query, or the status and what Google says.
    async fn ask(
        &self,
        http: &Http,
        request: &QueryRequest,
        query: &str,
    ) -> Result<Value, (u16, String)> {
        let here = |why: String| (0, why);
        let project = exchange::key(request, "project").map_err(here)?;
        let token = self.token(http, request).await.map_err(here)?;
        let secrets = Secrets::texts(vec![token.clone()]);
        let endpoint = self
            .surroundings
            .variable("CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING")
            .unwrap_or_else(|| API.to_owned());
        let mut url = Url::parse(&endpoint)
            .ok()
            .filter(|url| !url.cannot_be_a_base())
            .ok_or_else(|| {
                here(
                    "CLOUDSDK_API_ENDPOINT_OVERRIDES_MONITORING of the controller is not a URL"
                        .to_owned(),
                )
            })?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["v3", "projects", project, "timeSeries:query"]);
        }
        let mut headers = HeaderMap::new();
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| here("the token for Google can't stand in a header".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = json!({"query": query}).to_string().into_bytes();
        let call = call(Method::POST, url, headers, body);
        let answer = http
            .send(&call)
            .await
            .map_err(|error| here(secrets.hide(error.to_string())))?;
        if !answer.status.is_success() {
            let status = answer.status.as_u16();
            if status == 401 {
                // The next query asks for another.
                self.kept.lock().await.retain(|_, (kept, _)| *kept != token);
            }
            return Err((status, secrets.hide(exchange::refusal(&answer))));
        }
        exchange::parsed(&answer).map_err(here)
    }
}

impl Provider for Stackdriver {
    fn query<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async {
            let asked = async {
                let answer = self
                    .ask(http, request, &request.query)
                    .await
                    .map_err(|(_, why)| why)?;
                read(request, &answer)
            };
            asked.await.unwrap_or_else(Measurement::Error)
        })
    }

    /// An empty query is refused as invalid, by a Google that knows us and lets us ask.
    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            match self.ask(http, request, "").await {
                Ok(_) | Err((400, _)) => Ok(()),
                Err((_, why)) => Err(why),
            }
        })
    }
}

fn call(method: Method, url: Url, headers: HeaderMap, body: Vec<u8>) -> Call {
    Call {
        method,
        url,
        headers,
        body,
        confidential: true,
        insecure_skip_verify: false,
    }
}

/// Reads a key. What is wrong in it is not quoted.
fn account(text: &str) -> Result<Account, String> {
    let document: Value = serde_json::from_str(text)
        .map_err(|_| "is not JSON; expected the key of a service account".to_owned())?;
    let part = |name: &str| document[name].as_str().filter(|text| !text.is_empty());
    if let Some(other) = part("type").filter(|kind| *kind != "service_account") {
        return Err(format!(
            "is of type {}; expected service_account",
            exchange::shortened(other)
        ));
    }
    let missing = |name: &str| format!("has no {name}; expected the key of a service account");
    let pem = part("private_key").ok_or_else(|| missing("private_key"))?;
    let unusable =
        || "has a private_key that can't be used; expected an RSA key as PKCS #8 in PEM".to_owned();
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| unusable())?;
    let tokens = Url::parse(part("token_uri").unwrap_or(TOKENS))
        .ok()
        .filter(Url::has_host)
        .ok_or("has a token_uri that is not a URL")?;
    Ok(Account {
        email: part("client_email")
            .ok_or_else(|| missing("client_email"))?
            .to_owned(),
        key: KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| unusable())?,
        key_id: part("private_key_id").map(str::to_owned),
        tokens,
    })
}

/// The request that makes a token of a key: a claim for an hour, signed with it (RFC 7523).
fn exchange_key(account: &Account, now: Timestamp) -> Result<Call, String> {
    let mut head = json!({"alg": "RS256", "typ": "JWT"});
    if let Some(id) = &account.key_id {
        head["kid"] = json!(id);
    }
    let issued = now.as_second();
    let claims = json!({
        "iss": account.email,
        "scope": SCOPE,
        "aud": account.tokens.as_str(),
        "iat": issued,
        "exp": issued + 3600,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&head), part(&claims));
    let mut signature = vec![0; account.key.public().modulus_len()];
    account
        .key
        .sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            signed.as_bytes(),
            &mut signature,
        )
        .map_err(|_| "the service account's key can't sign".to_owned())?;
    let assertion = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    // Form encoding is that of a URL's query.
    let mut form = Url::parse("http://form").map_err(|error| error.to_string())?;
    form.query_pairs_mut()
        .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
        .append_pair("assertion", &assertion);
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    let body = form.query().unwrap_or_default().as_bytes().to_vec();
    Ok(call(Method::POST, account.tokens.clone(), headers, body))
}

fn read(request: &QueryRequest, answer: &Value) -> Result<Measurement, String> {
    let series = list(answer, "/timeSeriesData")?;
    let Some(first) = series.first() else {
        if let Some(why) = list(answer, "/partialErrors")?
            .first()
            .and_then(|error| error["message"].as_str())
        {
            return Err(format!(
                "Google can't answer the query: {}",
                exchange::shortened(why)
            ));
        }
        return Ok(exchange::nothing());
    };
    let Some(newest) = list(first, "/pointData")?.first() else {
        return Ok(exchange::nothing());
    };
    let Some(typed) = list(newest, "/values")?.first() else {
        return Ok(exchange::nothing());
    };
    let value = ["doubleValue", "int64Value"]
        .iter()
        .find_map(|kind| typed.get(kind));
    let value = match value {
        Some(value) => number(value)?,
        None => match typed.as_object().and_then(|typed| typed.keys().next()) {
            None => None,
            Some(kind) => {
                return Err(format!(
                    "the newest point is a {}; expected a number",
                    exchange::shortened(kind)
                ));
            }
        },
    };
    let at = newest["timeInterval"]["endTime"]
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok())
        .map(exchange::seconds);
    let point = value.map(|value| Point { value, at });
    Ok(among(
        measured(request, point),
        Several::First(series.len()),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
