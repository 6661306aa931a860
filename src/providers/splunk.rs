//! Splunk Observability Cloud (Flagger chapter 4.5): a `SignalFlow` program over ten intervals, whose last value counts.
//!
//! Flagger runs the program through a WebSocket. The same computation answers a plain POST with server-sent events, which end by
//! themselves for a span in the past, so this takes the same client, deadlines and bounds as every other backend and no further library.
//! The address may be that of the API or of the stream, as in Flagger.

use super::exchange::{
    self, Point, get, headers, key, list, measured, number, post, sensitive, shortened, whole,
    window_start,
};
use super::http::Http;
use super::{Provider, QueryRequest};
use crate::analysis::Measurement;
use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use std::collections::BTreeSet;

/// The backend.
pub(super) struct Splunk;

impl Provider for Splunk {
    fn query<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async { ask(http, request).await.unwrap_or_else(Measurement::Error) })
    }

    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let mut url = address(request, "stream", "api", "/v2/metric")?;
            url.query_pairs_mut().append_pair("limit", "1");
            let call = get(request, url, token(request)?);
            exchange::json(http, &call).await.map(|_| ())
        })
    }
}

/// The address of the API or of the stream, whichever of the two the template names.
fn address(request: &QueryRequest, from: &str, to: &str, path: &str) -> Result<Url, String> {
    let mut request = request.clone();
    request.config.address = request.config.address.map(|address| {
        // wss://… is what Flagger calls; it is the same server.
        let address = match address.strip_prefix("ws") {
            Some(rest) => format!("http{rest}"),
            None => address,
        };
        address.replacen(&format!("://{from}."), &format!("://{to}."), 1)
    });
    exchange::url(&request, path)
}

fn token(request: &QueryRequest) -> Result<HeaderMap, String> {
    let mut headers = headers(request)?;
    headers.insert(
        "x-sf-token",
        sensitive(request, key(request, "sf_token_key")?)?,
    );
    Ok(headers)
}

async fn ask(http: &Http, request: &QueryRequest) -> Result<Measurement, String> {
    let mut url = address(request, "api", "stream", "/v2/signalflow/execute")?;
    url.query_pairs_mut()
        .append_pair("start", &whole(window_start(request) * 1000.0))
        .append_pair("stop", &whole(exchange::seconds(request.now) * 1000.0))
        .append_pair("immediate", "true");
    let mut headers = token(request)?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    let call = post(request, url, headers, request.query.clone().into_bytes());
    let answer = exchange::send(http, &call).await?;
    read(request, &String::from_utf8_lossy(&answer.body))
}

fn read(request: &QueryRequest, stream: &str) -> Result<Measurement, String> {
    let mut last: Option<Point> = None;
    let mut series = BTreeSet::new();
    let mut began = false;
    for (event, data) in events(stream) {
        if !matches!(event.as_str(), "control-message" | "data" | "error") {
            continue;
        }
        let data: Value = serde_json::from_str(&data)
            .map_err(|error| format!("a message of SignalFlow is not JSON: {error}"))?;
        match event.as_str() {
            "control-message" => {
                began = true;
                // The computation was ended, and its abort says why.
                if data["event"] == "CHANNEL_ABORT" {
                    let why = data["abortInfo"]["sf_job_abortReason"]
                        .as_str()
                        .unwrap_or("it does not say why");
                    return Err(format!("SignalFlow gave up: {}", shortened(why)));
                }
            }
            "error" => {
                let why = ["/message", "/errors/0/code", "/error"]
                    .iter()
                    .find_map(|place| data.pointer(place)?.as_str())
                    .map_or_else(|| data.to_string(), str::to_owned);
                return Err(format!(
                    "SignalFlow can't run the program: {}",
                    shortened(&why)
                ));
            }
            _ => {
                began = true;
                let at = number(&data["logicalTimestampMs"])?.map(|millis| millis / 1000.0);
                for payload in list(&data, "/data")? {
                    if let Some(value) = number(&payload["value"])? {
                        series.insert(payload["tsId"].as_str().unwrap_or_default().to_owned());
                        last = Some(Point { value, at });
                    }
                }
            }
        }
    }
    if !began {
        return Err("the answer is not a stream of SignalFlow; is the address https://stream.REALM.signalfx.com?".to_owned());
    }
    if series.len() > 1 {
        return Err(format!(
            "the program publishes {} time series; expected one: aggregate, for example with .sum() or .mean()",
            series.len()
        ));
    }
    Ok(measured(request, last))
}

/// The events of a stream with their data.
fn events(stream: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut event, mut data) = (String::new(), Vec::new());
    for line in stream.lines().chain([""]) {
        if line.is_empty() {
            if !data.is_empty() {
                found.push((std::mem::take(&mut event), data.join("\n")));
                data.clear();
            }
            event.clear();
            continue;
        }
        let (field, text) = line.split_once(':').unwrap_or((line, ""));
        let text = text.strip_prefix(' ').unwrap_or(text);
        match field.trim_end() {
            "event" => text.clone_into(&mut event),
            "data" => data.push(text.to_owned()),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::events;

    #[test]
    fn an_event_is_its_name_and_all_lines_of_its_data() {
        let stream = ": a comment\nevent: data\ndata: {\ndata: \"data\" : []\ndata: }\n\nevent: end\n\ndata:x\nid: 7";
        assert_eq!(
            events(stream),
            [
                ("data".to_owned(), "{\n\"data\" : []\n}".to_owned()),
                (String::new(), "x".to_owned()),
            ]
        );
    }
}
