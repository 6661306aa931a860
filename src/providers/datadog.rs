//! Datadog (Flagger chapter 4.5): the first series of a timeseries query over ten intervals.
//!
//! Of its points the newest whose span is over counts. Flagger takes the oldest, which is ten intervals old, because the newest is often
//! still being filled; and it reads `null` as 0.

use super::exchange::{
    self, Point, Several, among, get, headers, key, list, measured, number, sensitive, whole,
    window_start,
};
use super::http::Http;
use super::{Provider, QueryRequest};
use crate::analysis::Measurement;
use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// The backend.
pub(super) struct Datadog;

impl Provider for Datadog {
    fn query<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async { ask(http, request).await.unwrap_or_else(Measurement::Error) })
    }

    /// Datadog's own check of keys.
    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let url = exchange::url(request, "/api/v1/validate")?;
            let answer = exchange::json(http, &get(request, url, keys(request)?)).await?;
            match answer["valid"].as_bool() {
                Some(true) => Ok(()),
                _ => Err("Datadog does not take the keys of the Secret".to_owned()),
            }
        })
    }
}

fn keys(request: &QueryRequest) -> Result<HeaderMap, String> {
    let mut headers = headers(request)?;
    for (header, name) in [
        ("dd-api-key", "datadog_api_key"),
        ("dd-application-key", "datadog_application_key"),
    ] {
        headers.insert(header, sensitive(request, key(request, name)?)?);
    }
    Ok(headers)
}

async fn ask(http: &Http, request: &QueryRequest) -> Result<Measurement, String> {
    let mut url: Url = exchange::url(request, "/api/v1/query")?;
    url.query_pairs_mut()
        .append_pair("query", request.query.trim())
        .append_pair("from", &whole(window_start(request)))
        .append_pair("to", &whole(exchange::seconds(request.now)));
    let answer = exchange::json(http, &get(request, url, keys(request)?)).await?;
    read(request, &answer)
}

fn read(request: &QueryRequest, answer: &Value) -> Result<Measurement, String> {
    if answer["status"]
        .as_str()
        .is_some_and(|status| status != "ok")
    {
        let why = answer["error"].as_str().unwrap_or("it does not say why");
        return Err(format!(
            "Datadog can't answer the query: {}",
            exchange::shortened(why)
        ));
    }
    let series = list(answer, "/series")?;
    let Some(first) = series.first() else {
        return Ok(exchange::nothing());
    };
    let width = number(&first["interval"])?.unwrap_or(0.0);
    let mut newest: Option<Point> = None;
    let mut unfinished: Option<Point> = None;
    for pair in list(first, "/pointlist")? {
        let (Some(at), Some(value)) = (pair.get(0), pair.get(1)) else {
            return Err(format!(
                "a point of Datadog is {}; expected [time, value]",
                exchange::shortened(&pair.to_string())
            ));
        };
        let (Some(at), Some(value)) = (number(at)?, number(value)?) else {
            continue;
        };
        let end = at / 1000.0 + width;
        let point = Point {
            value,
            at: Some(end),
        };
        let place = if end <= exchange::seconds(request.now) {
            &mut newest
        } else {
            &mut unfinished
        };
        if place.is_none_or(|other| other.at <= point.at) {
            *place = Some(point);
        }
    }
    Ok(among(
        measured(request, newest.or(unfinished)),
        Several::First(series.len()),
    ))
}
