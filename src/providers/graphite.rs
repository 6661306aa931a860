//! Graphite's render API (Flagger chapter 4.5). The query is what stands behind `/render?`, such as `target=…&from=-5min`; the last point
//! with a value of the last series that has one counts.

use super::exchange::{
    self, Point, Several, among, basic, get, headers, measured, number, one_line,
};
use super::http::{Answer, Call, Http};
use super::{Provider, QueryRequest};
use crate::analysis::Measurement;
use futures::future::BoxFuture;
use reqwest::Url;
use serde_json::Value;

/// The backend.
pub(super) struct Graphite;

impl Provider for Graphite {
    fn query<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async {
            let asked = async {
                let answer = exchange::send(http, &call(request, &request.query)?).await?;
                read(request, &parsed(&answer)?)
            };
            asked.await.unwrap_or_else(Measurement::Error)
        })
    }

    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let call = call(request, "target=test&from=-1min")?;
            match exchange::json(http, &call).await? {
                Value::Array(_) => Ok(()),
                _ => Err(
                    "the answer is not a list of series; is this Graphite's address?".to_owned(),
                ),
            }
        })
    }
}

fn call(request: &QueryRequest, query: &str) -> Result<Call, String> {
    let query = one_line(query);
    let pairs: Vec<(String, String)> = Url::parse(&format!("http://graphite/?{query}"))
        .map_err(|error| format!("the query is not what can follow /render?: {error}"))?
        .query_pairs()
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    if !pairs.iter().any(|(name, _)| name == "target") {
        return Err(
            "the query names no target; expected what follows /render?, such as target=sumSeries(app.*.errors)&from=-5min"
                .to_owned(),
        );
    }
    let mut url = exchange::url(request, "/render")?;
    {
        let mut query = url.query_pairs_mut();
        for (name, value) in pairs.iter().filter(|(name, _)| name != "format") {
            query.append_pair(name, value);
        }
        query.append_pair("format", "json");
    }
    let mut headers = headers(request)?;
    basic(request, &mut headers)?;
    Ok(get(request, url, headers))
}

/// Older releases write what Python does for a value that is no number, a bare `NaN`, which is not JSON.
fn parsed(answer: &Answer) -> Result<Value, String> {
    exchange::parsed(answer).or_else(|error| {
        let text = String::from_utf8_lossy(&answer.body);
        if !text.contains("[NaN,") {
            return Err(error);
        }
        let body = text.replace("[NaN,", "[null,").into_bytes();
        exchange::parsed(&Answer {
            body,
            ..answer.clone()
        })
    })
}

fn read(request: &QueryRequest, answer: &Value) -> Result<Measurement, String> {
    let mut last = None;
    let mut with_values = 0;
    for series in exchange::list(answer, "")? {
        let mut newest = None;
        for pair in exchange::list(series, "/datapoints")? {
            let (Some(value), Some(at)) = (pair.get(0), pair.get(1)) else {
                return Err(format!(
                    "a point of Graphite is {}; expected [value, time]",
                    exchange::shortened(&pair.to_string())
                ));
            };
            if let Some(value) = number(value)? {
                newest = Some(Point {
                    value,
                    at: number(at)?,
                });
            }
        }
        if newest.is_some() {
            with_values += 1;
            last = newest;
        }
    }
    Ok(among(measured(request, last), Several::Last(with_values)))
}
