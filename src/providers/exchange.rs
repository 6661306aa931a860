//! What the backends that speak HTTP have in common: the address, headers and keys of a request, answers as JSON with the backend's own
//! words where it refuses, and when a value is too old to say anything.

use super::QueryRequest;
use super::http::{Answer, Call, Http};
use crate::analysis::{Measurement, needs_of};
use crate::api::GoDuration;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde_json::Value;
use std::time::Duration;

/// Longest piece of a backend's own words that is passed on, in characters.
pub(super) const MAX_QUOTE: usize = 300;
/// How far back the backends look that are asked for points over time, in intervals (Flagger chapter 4.5).
pub(super) const WINDOW: u32 = 10;
/// A value that is older than so many intervals says nothing of what runs now …
const FRESH_INTERVALS: u32 = 3;
/// … but backends lag, so it may always be this old.
const ALWAYS_FRESH: Duration = Duration::from_mins(5);

/// The address of the request's backend with `path` after its own; a path begins with a slash.
pub(super) fn url(request: &QueryRequest, path: &str) -> Result<Url, String> {
    let kind = request.config.provider_type;
    let needs = needs_of(kind);
    let address = request
        .config
        .address
        .as_deref()
        .or(needs.address.default())
        .unwrap_or_default();
    // The address may hold a password, so it is not repeated in the message.
    let mut url = Url::parse(address)
        .ok()
        .filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| {
            format!(
                "the address of the {kind} provider is not a URL; expected for example {}",
                needs.address.example()
            )
        })?;
    let joined = format!("{}{path}", url.path().trim_end_matches('/'));
    url.set_path(&joined);
    Ok(url)
}

/// The headers that the template names.
pub(super) fn headers(request: &QueryRequest) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in &request.config.headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("spec.provider.headers: {name:?} is not a header's name"))?;
        for value in values {
            let value = HeaderValue::from_str(value).map_err(|_| {
                format!("spec.provider.headers[{name}]: a value holds characters that a header can't carry")
            })?;
            headers.append(header.clone(), value);
        }
    }
    Ok(headers)
}

/// A header's value that is never printed.
pub(super) fn sensitive(request: &QueryRequest, text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        format!(
            "the Secret of the {} provider holds characters that a header can't carry",
            request.config.provider_type
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The text under a key of the Secret that the backend can't do without.
pub(super) fn key<'a>(request: &'a QueryRequest, key: &str) -> Result<&'a str, String> {
    let kind = request.config.provider_type;
    let Some(credentials) = &request.credentials else {
        return Err(format!(
            "the {kind} provider needs a Secret with the key {key}; name it in spec.provider.secretRef"
        ));
    };
    credentials.get(key).ok_or_else(|| {
        format!(
            "the Secret of the {kind} provider needs the key {key}; it has {}",
            match credentials.keys().join(", ") {
                keys if keys.is_empty() => "none".to_owned(),
                keys => keys,
            }
        )
    })
}

/// Basic authentication by `username` and `password`, where a Secret is named.
pub(super) fn basic(request: &QueryRequest, headers: &mut HeaderMap) -> Result<(), String> {
    if request.credentials.is_none() {
        return Ok(());
    }
    let (username, password) = (key(request, "username")?, key(request, "password")?);
    let text = format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    );
    headers.insert(AUTHORIZATION, sensitive(request, &text)?);
    Ok(())
}

/// A GET with these headers. Whatever stands in headers may be a key, so none goes to another host.
pub(super) fn get(request: &QueryRequest, url: Url, headers: HeaderMap) -> Call {
    let has_user = !url.username().is_empty() || url.password().is_some();
    Call {
        method: Method::GET,
        confidential: !headers.is_empty() || has_user,
        url,
        headers,
        body: Vec::new(),
        insecure_skip_verify: request.config.insecure_skip_verify,
    }
}

/// A POST with these headers and this body.
pub(super) fn post(request: &QueryRequest, url: Url, headers: HeaderMap, body: Vec<u8>) -> Call {
    Call {
        method: Method::POST,
        body,
        ..get(request, url, headers)
    }
}

/// Sends a call; an answer other than a success is an error with what the backend says.
pub(super) async fn send(http: &Http, call: &Call) -> Result<Answer, String> {
    let answer = http.send(call).await.map_err(|error| error.to_string())?;
    if answer.status.is_success() {
        return Ok(answer);
    }
    Err(refusal(&answer))
}

/// The same, read as JSON.
pub(super) async fn json(http: &Http, call: &Call) -> Result<Value, String> {
    let answer = send(http, call).await?;
    parsed(&answer)
}

/// A body as JSON.
pub(super) fn parsed(answer: &Answer) -> Result<Value, String> {
    serde_json::from_slice(&answer.body).map_err(|error| format!("the answer is not JSON: {error}"))
}

/// What an answer says that is no success.
pub(super) fn refusal(answer: &Answer) -> String {
    let hint = match answer.status.as_u16() {
        401 | 403 => " (are the credentials in spec.provider.secretRef right?)",
        404 => " (is the address right?)",
        429 => " (too many requests: a longer interval, or fewer canaries at the same time)",
        _ => "",
    };
    format!(
        "status {}{hint}: {}",
        answer.status.as_u16(),
        shortened(&words(&answer.body))
    )
}

/// The backend's own words: the text that error documents of the vendors carry, or the document as it is.
fn words(body: &[u8]) -> String {
    const PLACES: [&str; 8] = [
        "/error/message",
        "/errors/0",
        "/message",
        "/Message",
        "/error_description",
        "/error",
        "/errors",
        "/code",
    ];
    let document: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    PLACES
        .iter()
        .find_map(|place| document.pointer(place)?.as_str())
        .map_or_else(|| beginning(body), str::to_owned)
}

/// The beginning of a body, marked where it was cut.
pub(super) fn beginning(body: &[u8]) -> String {
    let start = &body[..body.len().min(4 * MAX_QUOTE)];
    let cut = if start.len() < body.len() { "…" } else { "" };
    shortened(&format!("{}{cut}", String::from_utf8_lossy(start)))
}

/// On one line and not longer than [`MAX_QUOTE`].
pub(super) fn shortened(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A query on one line.
pub(super) fn one_line(query: &str) -> String {
    query.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value with the time that it is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// The number.
    pub value: f64,
    /// The end of the span that it is of, in seconds since 1970; `None` where the backend does not say.
    pub at: Option<f64>,
}

/// No value in the answer.
pub(super) fn nothing() -> Measurement {
    Measurement::NoData("no values found".to_owned())
}

/// What a point means: a number, unless there is none or it is too old.
pub(super) fn measured(request: &QueryRequest, point: Option<Point>) -> Measurement {
    let Some(point) = point.filter(|point| !point.value.is_nan()) else {
        return nothing();
    };
    fresh(request, Measurement::Value(point.value), point.at)
}

/// A measurement of this time, unless that is too long ago.
pub(super) fn fresh(
    request: &QueryRequest,
    measurement: Measurement,
    at: Option<f64>,
) -> Measurement {
    match (measurement, too_old(request, at)) {
        (measurement @ (Measurement::NoData(_) | Measurement::Error(_)), _)
        | (measurement, None) => measurement,
        (_, Some(why)) => Measurement::NoData(why),
    }
}

/// Says that the value is one of several, if it is.
pub(super) fn among(measurement: Measurement, several: Several) -> Measurement {
    match (measurement, several) {
        (Measurement::Value(value), Several::Last(series)) if series > 1 => {
            Measurement::LastOf { value, series }
        }
        (Measurement::Value(value), Several::First(series)) if series > 1 => {
            Measurement::FirstOf { value, series }
        }
        (measurement, _) => measurement,
    }
}

/// Which of so many series counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Several {
    First(usize),
    Last(usize),
}

/// Why a value of this time says nothing of what runs now, if so.
fn too_old(request: &QueryRequest, at: Option<f64>) -> Option<String> {
    let now = seconds(request.now);
    let age = Duration::try_from_secs_f64(now - at?).ok()?;
    let allowed = ALWAYS_FRESH.max(request.interval.saturating_mul(FRESH_INTERVALS));
    (age > allowed).then(|| {
        let whole = |duration: Duration| GoDuration(Duration::from_secs(duration.as_secs()));
        format!(
            "the newest value is {} old; with an interval of {} it may be {} old",
            whole(age),
            whole(request.interval),
            whole(allowed)
        )
    })
}

/// Seconds since 1970.
pub(super) fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// The beginning of the window that backends with points over time are asked for, in seconds since 1970.
pub(super) fn window_start(request: &QueryRequest) -> f64 {
    seconds(request.now) - request.interval.saturating_mul(WINDOW).as_secs_f64()
}

/// Whole seconds or milliseconds for a URL.
pub(super) fn whole(number: f64) -> String {
    format!("{number:.0}")
}

/// A number of JSON: as such, or as a text of digits, as some vendors write large ones. `null` and what is absent is none.
pub(super) fn number(value: &Value) -> Result<Option<f64>, String> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_f64()),
        Value::String(text) => text
            .parse()
            .map(Some)
            .map_err(|_| format!("{:?} is not a number", shortened(text))),
        other => Err(format!("{} is not a number", shortened(&other.to_string()))),
    }
}

/// The list at a place of the answer; what is absent or `null` is an empty one.
pub(super) fn list<'a>(value: &'a Value, place: &str) -> Result<&'a [Value], String> {
    match value.pointer(place) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(format!(
            "the answer has {} at {place}; expected a list",
            shortened(&other.to_string())
        )),
    }
}
