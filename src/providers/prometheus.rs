//! Prometheus and what speaks its API: Thanos, Mimir, `VictoriaMetrics`, Cortex (Flagger chapter 4.5).
//!
//! An instant query by GET. Of several series the last one counts, as in Flagger, and the measurement says how many there were.

use super::exchange::{self, shortened};
use super::http::{Answer, Call, Http};
use super::{Provider, QueryRequest};
use crate::analysis::Measurement;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use reqwest::StatusCode;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::Value;

/// The backend.
pub(super) struct Prometheus;

impl Provider for Prometheus {
    fn query<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async {
            match ask(http, request, &request.query).await {
                // An instant query is of now; an older answer comes out of a cache on the way, or from a clock that is wrong.
                Ok(samples) => exchange::fresh(
                    request,
                    measurement(&samples),
                    samples.last().map(|last| last.at),
                ),
                Err(why) => Measurement::Error(why),
            }
        })
    }

    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let samples = ask(http, request, "vector(1)").await?;
            match samples.last() {
                Some(sample) if (sample.value - 1.0).abs() < f64::EPSILON => Ok(()),
                Some(sample) => Err(format!(
                    "vector(1) gave {}; is this a Prometheus API?",
                    sample.value
                )),
                None => Err("vector(1) gave no value; is this a Prometheus API?".to_owned()),
            }
        })
    }

    fn diagnose<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Option<String>> {
        Box::pin(async {
            let (name, selector) = first_selector(&request.query)?;
            let mark = |expression: String, what: &str| {
                format!("label_replace({expression}, \"found\", \"{what}\", \"\", \"\")")
            };
            let question = format!(
                "{} or {}",
                mark(format!("count({name})"), "name"),
                mark(format!("count({name}{selector})"), "selector")
            );
            let samples = ask(http, request, &question).await.ok()?;
            let count = |what: &str| {
                samples
                    .iter()
                    .find(|sample| sample.found == what)
                    .map(|sample| sample.value)
            };
            Some(match (count("name"), count("selector")) {
                (None, _) => format!(
                    "Prometheus knows no metric {name}: is it scraped, and is the name right?"
                ),
                (Some(all), None) => {
                    format!("Prometheus has {all} series of {name}, but none matches {selector}")
                }
                (Some(_), Some(matching)) => format!(
                    "{matching} series of {name} match, but they give no value: rate() needs two samples inside of its range"
                ),
            })
        })
    }
}

/// One sample of an answer.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    value: f64,
    /// Seconds since 1970.
    at: f64,
    /// The label `found`, by which [`Prometheus::diagnose`] tells its two counts apart.
    found: String,
}

fn measurement(samples: &[Sample]) -> Measurement {
    let none = || Measurement::NoData("no values found".to_owned());
    match samples {
        [] => none(),
        [.., last] if last.value.is_nan() => none(),
        [only] => Measurement::Value(only.value),
        [.., last] => Measurement::LastOf {
            value: last.value,
            series: samples.len(),
        },
    }
}

async fn ask(http: &Http, request: &QueryRequest, query: &str) -> Result<Vec<Sample>, String> {
    let call = call(request, query)?;
    let answer = http.send(&call).await.map_err(|error| error.to_string())?;
    parse(&answer)
}

/// What an answer means, without having asked.
pub(super) fn read(status: u16, body: &[u8]) -> Measurement {
    let Ok(status) = StatusCode::from_u16(status) else {
        return Measurement::Error(format!("{status} is not an HTTP status"));
    };
    let body = body.to_vec();
    match parse(&Answer { status, body }) {
        Ok(samples) => measurement(&samples),
        Err(why) => Measurement::Error(why),
    }
}

fn call(request: &QueryRequest, query: &str) -> Result<Call, String> {
    let mut url = exchange::url(request, "/api/v1/query")?;
    url.query_pairs_mut()
        .append_pair("query", &collapsed(query));
    let mut headers = exchange::headers(request)?;
    if let Some(credentials) = &request.credentials {
        let text = if let Some(token) = credentials.get("token") {
            format!("Bearer {token}")
        } else if let (Some(username), Some(password)) =
            (credentials.get("username"), credentials.get("password"))
        {
            format!(
                "Basic {}",
                STANDARD.encode(format!("{username}:{password}"))
            )
        } else {
            return Err(format!(
                "the Secret of the prometheus provider needs the key token, or the keys username and password; it has {}",
                match credentials.keys().join(", ") {
                    keys if keys.is_empty() => "none".to_owned(),
                    keys => keys,
                }
            ));
        };
        headers.insert(AUTHORIZATION, exchange::sensitive(request, &text)?);
    }
    Ok(exchange::get(request, url, headers))
}

/// The query on one line, as Flagger sends it. A comment ends with its line, so a query with one stays as it is.
fn collapsed(query: &str) -> String {
    if query.contains('#') {
        return query.trim().to_owned();
    }
    query.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[derive(Deserialize)]
struct Document {
    status: String,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default, rename = "errorType")]
    error_type: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    result_type: String,
    result: Value,
}

/// The samples of an answer, in its order.
fn parse(answer: &Answer) -> Result<Vec<Sample>, String> {
    let document: Result<Document, _> = serde_json::from_slice(&answer.body);
    if !answer.status.is_success() {
        let said = match document {
            Ok(Document {
                error: Some(error),
                error_type,
                ..
            }) => {
                format!("{}: {error}", error_type.unwrap_or_default())
            }
            _ => exchange::beginning(&answer.body),
        };
        let hint = match answer.status.as_u16() {
            401 | 403 => " (are the credentials in spec.provider.secretRef right?)",
            404 => " (is the path of the address right? /api/v1/query is appended to it)",
            _ => "",
        };
        return Err(format!(
            "status {}{hint}: {}",
            answer.status.as_u16(),
            shortened(&said)
        ));
    }
    let document = document
        .map_err(|error| format!("the answer is not what the Prometheus API gives: {error}"))?;
    if document.status != "success" {
        return Err(format!(
            "{}: {}",
            document
                .error_type
                .unwrap_or_else(|| document.status.clone()),
            shortened(&document.error.unwrap_or_default())
        ));
    }
    let Some(data) = document.data else {
        return Err("the answer has no data".to_owned());
    };
    match data.result_type.as_str() {
        "scalar" => {
            let (at, value) = number(&data.result)?;
            Ok(vec![Sample { value, at, found: String::new() }])
        }
        "vector" => data
            .result
            .as_array()
            .ok_or("data.result of a vector is not a list")?
            .iter()
            .map(|series| {
                let value = series.get("value").ok_or(
                    "a series has no value (native histograms need histogram_quantile() or similar)",
                )?;
                let (at, value) = number(value)?;
                Ok(Sample {
                    value,
                    at,
                    found: series["metric"]["found"].as_str().unwrap_or_default().to_owned(),
                })
            })
            .collect(),
        "matrix" => Err(
            "the query gives multiple values over time (a matrix); expected one value: wrap the range selector, for example with rate(…[1m])"
                .to_owned(),
        ),
        other => Err(format!("the query gives a {}; expected a vector or a scalar", shortened(other))),
    }
}

/// Time and number in `[time, "number"]`.
fn number(sample: &Value) -> Result<(f64, f64), String> {
    match sample.as_array().map(Vec::as_slice) {
        Some([Value::Number(at), Value::String(text)]) => text
            .parse()
            .map(|value| (at.as_f64().unwrap_or_default(), value))
            .map_err(|_| format!("the sample value {:?} is not a number", shortened(text))),
        _ => Err(format!(
            "a sample is {}; expected [time, \"number\"]",
            shortened(&sample.to_string())
        )),
    }
}

/// The first metric of a query with its selector: `name` and `{…}`. A name counts if a selector or a range follows it directly.
fn first_selector(query: &str) -> Option<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut at = 0;
    while let Some(c) = query[at..].chars().next() {
        if c == '"' || c == '\'' || c == '`' {
            at += closed(&query[at..])?;
        } else if is_name(c) {
            let rest = &query[at..];
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if !c.is_ascii_digit() {
                if after.starts_with('{') {
                    let length = selector_length(after)?;
                    return Some((name, &after[..length]));
                }
                if after.starts_with('[') {
                    return Some((name, ""));
                }
            }
            at += end;
        } else {
            at += c.len_utf8();
        }
    }
    None
}

/// Length of the quoted text at the start.
fn closed(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut escaped = false;
    for (position, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote != '`' {
            escaped = true;
        } else if c == quote {
            return Some(position + c.len_utf8());
        }
    }
    None
}

fn selector_length(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let c = text[at..].chars().next()?;
        match c {
            '"' | '\'' | '`' => at += closed(&text[at..])?,
            '}' => return Some(at + 1),
            c => at += c.len_utf8(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(status: u16, body: &str) -> Result<Vec<Sample>, String> {
        parse(&Answer {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.as_bytes().to_vec(),
        })
    }

    #[test]
    fn a_query_goes_on_one_line_unless_a_comment_would_swallow_it() {
        assert_eq!(
            collapsed("  sum(\n    rate(x[1m])\n)\n"),
            "sum( rate(x[1m]) )"
        );
        assert_eq!(collapsed("sum(x) # all\n / 2\n"), "sum(x) # all\n / 2");
    }

    #[test]
    fn the_first_metric_of_a_query_is_found_with_its_selector() {
        let cases = [
            (
                "sum(rate(http_requests{app=\"a}\", x=~\"1\\\"}\"}[1m])) / sum(x)",
                Some(("http_requests", "{app=\"a}\", x=~\"1\\\"}\"}")),
            ),
            ("100 - rate(a:b[5m])", Some(("a:b", ""))),
            ("vector(1)", None),
            ("x{", None),
            (
                "label_replace(up{a='b'}, \"c{\", \"\", \"\", \"\")",
                Some(("up", "{a='b'}")),
            ),
            ("\"unclosed", None),
            ("é{}", None),
        ];
        for (query, expected) in cases {
            assert_eq!(first_selector(query), expected, "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(status in 200_u16..600, body in "\\PC{0,100}") {
            let _ = parsed(status, &body);
        }

        #[test]
        fn any_result_is_read_or_refused(
            kind in prop_oneof![Just("vector"), Just("scalar"), Just("matrix"), Just("string"), Just("")],
            result in "[\\[\\]{},:\"0-9a-z ]{0,60}|\\[(\\{\"metric\":\\{\\},\"value\":\\[[0-9]{0,3},?(\"[0-9.eNaInf+-]{0,6}\")?\\]\\},?){0,3}\\]",
        ) {
            let _ = parsed(200, &format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"{kind}\",\"result\":{result}}}}}"));
        }

        #[test]
        fn any_query_has_a_first_metric_or_none(query in "[a-z{}\\[\\]\"'`\\\\()é1 ]{0,40}") {
            let _ = first_selector(&query);
        }
    }
}
