//! Dynatrace's metrics API v2 (Flagger chapter 4.5): one value over ten intervals (`resolution=Inf`), of the first metric's last series.
//! Flagger reads `null` as 0; here it is no data.

use super::exchange::{
    self, Point, Several, among, get, headers, key, list, measured, number, one_line, sensitive,
    whole, window_start,
};
use super::http::Http;
use super::{Provider, QueryRequest};
use crate::analysis::Measurement;
use futures::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::Value;

/// The backend.
pub(super) struct Dynatrace;

impl Provider for Dynatrace {
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
            let mut url = exchange::url(request, "/api/v2/metrics")?;
            url.query_pairs_mut().append_pair("pageSize", "1");
            let call = get(request, url, token(request)?);
            exchange::json(http, &call).await.map(|_| ())
        })
    }
}

fn token(request: &QueryRequest) -> Result<HeaderMap, String> {
    let mut headers = headers(request)?;
    let text = format!("Api-Token {}", key(request, "dynatrace_token")?);
    headers.insert(AUTHORIZATION, sensitive(request, &text)?);
    Ok(headers)
}

async fn ask(http: &Http, request: &QueryRequest) -> Result<Measurement, String> {
    let mut url = exchange::url(request, "/api/v2/metrics/query")?;
    url.query_pairs_mut()
        .append_pair("metricSelector", &one_line(&request.query))
        .append_pair("resolution", "Inf")
        .append_pair("from", &whole(window_start(request) * 1000.0))
        .append_pair("to", &whole(exchange::seconds(request.now) * 1000.0));
    let answer = exchange::json(http, &get(request, url, token(request)?)).await?;
    read(request, &answer)
}

fn read(request: &QueryRequest, answer: &Value) -> Result<Measurement, String> {
    let Some(metric) = list(answer, "/result")?.first() else {
        return Ok(exchange::nothing());
    };
    let series = list(metric, "/data")?;
    let Some(last) = series.last() else {
        return Ok(exchange::nothing());
    };
    let first = |place| list(last, place).map(|items| items.first().unwrap_or(&Value::Null));
    let at = number(first("/timestamps")?)?.map(|millis| millis / 1000.0);
    let point = number(first("/values")?)?.map(|value| Point { value, at });
    Ok(among(measured(request, point), Several::Last(series.len())))
}
