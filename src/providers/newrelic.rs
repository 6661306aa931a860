//! New Relic's Insights query API (Flagger chapter 4.5): one NRQL query over the metric's interval, one result.
//!
//! Flagger reads the field `result`, which only some functions answer with; a result with one number under another name (`average`, `count`,
//! `sum` and so on) is read as well.

use super::exchange::{
    self, Point, get, headers, key, list, measured, number, one_line, sensitive,
};
use super::http::{Call, Http};
use super::{Provider, QueryRequest};
use crate::analysis::Measurement;
use futures::future::BoxFuture;
use reqwest::header::{ACCEPT, HeaderValue};
use serde_json::Value;

/// The backend.
pub(super) struct NewRelic;

impl Provider for NewRelic {
    fn query<'a>(
        &'a self,
        http: &'a Http,
        request: &'a QueryRequest,
    ) -> BoxFuture<'a, Measurement> {
        Box::pin(async {
            let asked = async {
                let answer = exchange::json(http, &call(request, &request.query)?).await?;
                read(request, &answer)
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
            let call = call(request, "SELECT count(*) FROM Metric")?;
            exchange::json(http, &call).await.map(|_| ())
        })
    }
}

fn call(request: &QueryRequest, query: &str) -> Result<Call, String> {
    let account = key(request, "newrelic_account_id")?;
    if !account.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(
            "newrelic_account_id in the Secret of the newrelic provider is not an account's number"
                .to_owned(),
        );
    }
    let mut url = exchange::url(request, &format!("/v1/accounts/{account}/query"))?;
    url.query_pairs_mut()
        .append_pair("nrql", &since(query, request.interval.as_secs()));
    let mut headers = headers(request)?;
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(
        "x-query-key",
        sensitive(request, key(request, "newrelic_query_key")?)?,
    );
    Ok(get(request, url, headers))
}

/// The query over the last interval, unless it names a span itself.
fn since(query: &str, seconds: u64) -> String {
    let query = one_line(query);
    if unquoted(&query)
        .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
        .any(|word| word.eq_ignore_ascii_case("since"))
    {
        return query;
    }
    format!("{query} SINCE {seconds} seconds ago")
}

/// A query without its texts ('…', "…") and quoted names (`…`), in which a backslash takes its meaning from what follows it.
fn unquoted(query: &str) -> String {
    let mut bare = String::new();
    let mut characters = query.chars();
    while let Some(character) = characters.next() {
        bare.push(if "'\"`".contains(character) {
            while let Some(inner) = characters.next().filter(|inner| *inner != character) {
                if inner == '\\' {
                    characters.next();
                }
            }
            ' '
        } else {
            character
        });
    }
    bare
}

fn read(request: &QueryRequest, answer: &Value) -> Result<Measurement, String> {
    if answer.get("facets").is_some() {
        return Err("the query gives a value for each facet; expected one value: leave FACET out, or select one with WHERE".to_owned());
    }
    let result = match list(answer, "/results")? {
        [] => return Ok(exchange::nothing()),
        [only] => only,
        several => {
            return Err(format!(
                "the query selects {} values; expected one",
                several.len()
            ));
        }
    };
    let fields = result
        .as_object()
        .ok_or("a result of New Relic is not an object")?;
    let value = fields.get("result").or_else(|| fields.values().next());
    // `percentile()` answers with a table under one name.
    let is_one = fields.contains_key("result") || fields.len() < 2;
    let value = value.unwrap_or(&Value::Null);
    if !is_one || value.is_object() {
        return Err(format!(
            "the result has {}; expected one number",
            fields.keys().cloned().collect::<Vec<_>>().join(", ")
        ));
    }
    let at = number(&answer["metadata"]["endTimeMillis"])?.map(|millis| millis / 1000.0);
    let point = number(value)?.map(|value| Point { value, at });
    Ok(measured(request, point))
}

#[cfg(test)]
mod tests {
    use super::since;

    #[test]
    fn the_span_is_the_interval_unless_the_query_names_one() {
        assert_eq!(
            since("SELECT average(duration)\n  FROM Transaction", 60),
            "SELECT average(duration) FROM Transaction SINCE 60 seconds ago"
        );
        for own in [
            "SELECT count(*) FROM Transaction since 5 minutes ago",
            "SELECT count(*) FROM Transaction WHERE name = 'it\\'s' SINCE 5 minutes ago",
            "SINCE 5 minutes ago SELECT count(*) FROM Transaction",
            "SELECT count(*) FROM Transaction WHERE (name = 'a')SINCE 5 minutes ago",
        ] {
            assert_eq!(since(own, 60), own);
        }
    }

    #[test]
    fn a_text_or_a_name_that_says_since_is_no_span() {
        for query in [
            "SELECT count(*) FROM Log WHERE message LIKE '% since %'",
            "SELECT count(*) FROM Log WHERE message = 'it\\'s down since noon'",
            "SELECT count(`up since`) FROM Log",
            "SELECT count(up.since) FROM Log WHERE since_boot > 5",
        ] {
            assert_eq!(since(query, 60), format!("{query} SINCE 60 seconds ago"));
        }
    }
}
