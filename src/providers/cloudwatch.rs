//! Amazon `CloudWatch` (Flagger chapter 4.5): `GetMetricData` over ten intervals with the template's list of `MetricDataQuery`; the newest value
//! of the first result counts. Requests are signed with the controller's own identity, and go to the region's endpoint or to the one
//! that the controller's environment names, never to an address of a template.

mod identity;
mod signature;

use super::exchange::{self, Point, Several, among, list, measured, number, window_start};
use super::http::{Answer, Call, Http};
use super::secrets::Secrets;
use super::surroundings::Surroundings;
use super::{Provider, QueryRequest};
use crate::analysis::{Measurement, is_region};
use futures::future::BoxFuture;
use identity::{Chain, Identity};
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Most values that are asked for, as in Flagger.
const MOST_VALUES: u32 = 20;
/// How often a request is made again that `CloudWatch` refuses as one too many, which it does with status 400.
const THROTTLED_RETRIES: u32 = 2;
/// The fields of a `MetricDataQuery` and of what is in it. Flagger takes them in any case, so that `id` is `Id`.
const FIELDS: [&str; 15] = [
    "Id",
    "Expression",
    "Label",
    "MetricStat",
    "Metric",
    "Namespace",
    "MetricName",
    "Dimensions",
    "Name",
    "Value",
    "Period",
    "Stat",
    "Unit",
    "ReturnData",
    "AccountId",
];

/// The backend.
pub(super) struct CloudWatch {
    surroundings: Surroundings,
    chain: Chain,
}

impl CloudWatch {
    pub fn new(surroundings: Surroundings) -> Self {
        Self {
            chain: Chain::new(surroundings.clone()),
            surroundings,
        }
    }

    async fn ask(
        &self,
        http: &Http,
        request: &QueryRequest,
        queries: &Value,
    ) -> Result<Answer, String> {
        let region = region(request)?;
        let now = Timestamp::now();
        let identity = self.chain.identity(http, region, now).await?;
        let secrets = Secrets::texts(identity.secrets());
        let body = json!({
            "StartTime": window_start(request).floor(),
            "EndTime": exchange::seconds(request.now).ceil(),
            "MaxDatapoints": MOST_VALUES,
            "MetricDataQueries": queries,
        });
        let call = self.call(&identity, region, &body, now)?;
        let mut wait = http.timing().first_wait;
        let mut retries = 0;
        loop {
            let answer = http
                .send(&call)
                .await
                .map_err(|error| secrets.hide(error.to_string()))?;
            if retries < THROTTLED_RETRIES && is_throttled(&answer) {
                retries += 1;
                tokio::time::sleep(wait).await;
                wait *= 2;
                continue;
            }
            if answer.status.is_success() {
                return Ok(answer);
            }
            return Err(secrets.hide(refusal(&answer)));
        }
    }

    fn call(
        &self,
        identity: &Identity,
        region: &str,
        body: &Value,
        now: Timestamp,
    ) -> Result<Call, String> {
        let endpoint = ["AWS_ENDPOINT_URL_CLOUDWATCH", "AWS_ENDPOINT_URL"]
            .iter()
            .find_map(|name| self.surroundings.variable(name))
            .unwrap_or_else(|| format!("https://monitoring.{region}.{}", domain(region)));
        let url = Url::parse(&endpoint)
            .ok()
            .filter(Url::has_host)
            .ok_or("AWS_ENDPOINT_URL_CLOUDWATCH of the controller is not a URL")?;
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-amz-json-1.0"),
        );
        headers.insert(
            "x-amz-target",
            HeaderValue::from_static("GraniteServiceVersion20100801.GetMetricData"),
        );
        let mut call = Call {
            method: Method::POST,
            url,
            headers,
            body: body.to_string().into_bytes(),
            confidential: true,
            insecure_skip_verify: false,
        };
        signature::sign(&mut call, identity, region, "monitoring", now)?;
        Ok(call)
    }

    async fn measure(&self, http: &Http, request: &QueryRequest) -> Result<Measurement, String> {
        let queries: Value = serde_json::from_str(&request.query).map_err(|error| {
            format!("the query is not JSON: {error}; expected a list of MetricDataQuery objects")
        })?;
        if !queries.is_array() {
            return Err(
                "the query is not a list; expected a list of MetricDataQuery objects".to_owned(),
            );
        }
        let queries = named(queries);
        let answer = self.ask(http, request, &queries).await?;
        read(request, &queries, &exchange::parsed(&answer)?)
    }
}

impl Provider for CloudWatch {
    fn query<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async {
            self.measure(http, request)
                .await
                .unwrap_or_else(Measurement::Error)
        })
    }

    /// An empty list is refused as invalid, by a `CloudWatch` that knows us and lets us ask.
    fn probe<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            match self.ask(http, request, &json!([])).await {
                Ok(_) => Ok(()),
                Err(why) if why.starts_with("status 400") && !is_about_us(&why) => Ok(()),
                Err(why) => Err(why),
            }
        })
    }
}

/// Errors with status 400 that are about who asks.
fn is_about_us(why: &str) -> bool {
    [
        "AccessDenied",
        "UnrecognizedClient",
        "InvalidClientTokenId",
        "ExpiredToken",
        "SignatureDoesNotMatch",
        "InvalidSignature",
        "IncompleteSignature",
        "MissingAuthenticationToken",
    ]
    .iter()
    .any(|code| why.contains(code))
}

fn region(request: &QueryRequest) -> Result<&str, String> {
    let region = request.config.region.as_deref().unwrap_or_default();
    if is_region(region) {
        return Ok(region);
    }
    // What is no region could turn the endpoint's name into another host's.
    Err("the cloudwatch provider needs a region; expected for example spec.provider.region: eu-central-1".to_owned())
}

/// The domain of the partition that a region is in.
fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    }
}

fn code(answer: &Answer) -> String {
    let document: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let code = ["/__type", "/code", "/Code"]
        .iter()
        .find_map(|place| document.pointer(place)?.as_str())
        .unwrap_or_default();
    code.rsplit('#').next().unwrap_or_default().to_owned()
}

fn is_throttled(answer: &Answer) -> bool {
    answer.status.as_u16() == 400 && code(answer).contains("Throttl")
}

fn refusal(answer: &Answer) -> String {
    let code = code(answer);
    let said = exchange::refusal(answer);
    let said = said.replace(
        "are the credentials in spec.provider.secretRef right?",
        "may the controller's own identity call cloudwatch:GetMetricData?",
    );
    match (said.split_once(": "), code.as_str()) {
        (_, "") | (None, _) => said,
        (Some((status, words)), code) => format!("{status}: {code}: {words}"),
    }
}

/// The fields of a query by their right names.
fn named(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let renamed: Map<String, Value> = fields
                .into_iter()
                .map(|(name, value)| {
                    let known = FIELDS
                        .iter()
                        .find(|known| known.eq_ignore_ascii_case(&name));
                    (
                        known.map_or(name, |known| (*known).to_owned()),
                        named(value),
                    )
                })
                .collect();
            Value::Object(renamed)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(named).collect()),
        other => other,
    }
}

fn read(request: &QueryRequest, queries: &Value, answer: &Value) -> Result<Measurement, String> {
    if !answer.is_object() {
        return Err("the answer is not what GetMetricData gives".to_owned());
    }
    let results = list(answer, "/MetricDataResults")?;
    let Some(first) = results.first() else {
        return Ok(exchange::nothing());
    };
    if let Some(code @ ("InternalError" | "Forbidden")) = first["StatusCode"].as_str() {
        let why = first["Messages"][0]["Value"].as_str().unwrap_or_default();
        return Err(format!(
            "CloudWatch can't compute {}: {code} {}",
            exchange::shortened(first["Id"].as_str().unwrap_or_default()),
            exchange::shortened(why)
        ));
    }
    let newest = |place| list(first, place).map(|items| items.first().unwrap_or(&Value::Null));
    let began = match newest("/Timestamps")? {
        Value::String(text) => text.parse::<Timestamp>().ok().map(exchange::seconds),
        other => number(other)?,
    };
    let at = began.map(|began| began + period(queries, first["Id"].as_str()));
    let point = number(newest("/Values")?)?.map(|value| Point { value, at });
    if point.is_some() && at.is_none() {
        let why = "the newest value has no time, so nothing says how old it is";
        return Ok(Measurement::NoData(why.to_owned()));
    }
    Ok(among(
        measured(request, point),
        Several::First(results.len()),
    ))
}

/// How long the span of a value is, by the query that it answers; that of an expression is that of what it is made of.
fn period(queries: &Value, id: Option<&str>) -> f64 {
    let own = |query: &Value| {
        query["Period"]
            .as_f64()
            .or_else(|| query["MetricStat"]["Period"].as_f64())
    };
    let all: Vec<&Value> = queries.as_array().into_iter().flatten().collect();
    all.iter()
        .find(|query| query["Id"].as_str() == id)
        .and_then(|query| own(query))
        .or_else(|| all.iter().filter_map(|query| own(query)).reduce(f64::max))
        .filter(|period| Duration::try_from_secs_f64(*period).is_ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

#[cfg(test)]
mod query_tests {
    use super::*;

    #[test]
    fn fields_are_known_in_any_case() {
        let query = json!([{"id": "m1", "metricStat": {"metric": {"dimensions": [{"name": "a", "VALUE": "b"}]}, "period": 60}, "Other": 1}]);
        assert_eq!(
            named(query),
            json!([{"Id": "m1", "MetricStat": {"Metric": {"Dimensions": [{"Name": "a", "Value": "b"}]}, "Period": 60}, "Other": 1}])
        );
    }

    #[test]
    fn the_span_of_an_expression_is_that_of_its_parts() {
        let queries = json!([
            {"Id": "e1", "Expression": "m1 / m2"},
            {"Id": "m1", "MetricStat": {"Period": 60}},
            {"Id": "m2", "MetricStat": {"Period": 300}},
        ]);
        let of = |id| exchange::whole(period(&queries, Some(id)));
        assert_eq!([of("e1"), of("m1"), of("m2")], ["300", "60", "300"]);
    }
}
