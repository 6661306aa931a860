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
            let selector = Selector::first_of(&request.query)?;
            let counts = Counts::ask(http, request, &selector).await?;
            let second = counts.second_question(&selector);
            let found = match &second {
                Some(Second::Labels) => Found::Labels(labels(http, request, selector.name).await),
                Some(Second::Growth(question)) => {
                    Found::Growth(ask(http, request, question).await.ok())
                }
                None => Found::Nothing,
            };
            Some(counts.explained(&selector, &found))
        })
    }
}

/// One sample of an answer.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    value: f64,
    /// Seconds since 1970.
    at: f64,
    /// The label `found`, by which [`Counts`] are told apart.
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
    call_to(request, "/api/v1/query", &[("query", &collapsed(query))])
}

/// A call to an endpoint of the API.
fn call_to(
    request: &QueryRequest,
    path: &str,
    parameters: &[(&str, &str)],
) -> Result<Call, String> {
    let mut url = exchange::url(request, path)?;
    url.query_pairs_mut().extend_pairs(parameters);
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

/// The labels that the series of a metric have had in the last hour; the first of them that people would look for.
async fn labels(http: &Http, request: &QueryRequest, name: &str) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Names {
        data: Vec<String>,
    }
    let end = request.now.as_second();
    let (start, end) = ((end - 3600).to_string(), end.to_string());
    let parameters = [
        ("match[]", name),
        ("start", start.as_str()),
        ("end", end.as_str()),
    ];
    let call = call_to(request, "/api/v1/labels", &parameters).ok()?;
    let answer = http.send(&call).await.ok()?;
    let names: Names = serde_json::from_slice(&answer.body).ok()?;
    Some(names.data)
}

/// The first metric of a query: `name{matchers}[range]`.
#[derive(Debug, PartialEq)]
struct Selector<'a> {
    name: &'a str,
    /// With its braces; empty where there are none.
    text: &'a str,
    /// What stands between them.
    matchers: Vec<&'a str>,
    range: Option<&'a str>,
}

/// Matchers that are looked at one by one.
const MOST_MATCHERS: usize = 8;
/// Labels that are told.
const MOST_LABELS: usize = 8;
/// Longest matcher that is told, in characters.
const MAX_MATCHER: usize = 120;

/// How many series there are: of the metric, of those that match all of the selector, and of those that match one part of it.
struct Counts {
    all: Option<f64>,
    matching: Option<f64>,
    parts: Vec<Option<f64>>,
}

/// What is asked after the counts.
#[derive(Debug, PartialEq)]
enum Second {
    /// Which labels the series have.
    Labels,
    /// By how much the series grew.
    Growth(String),
}

/// What came of it.
enum Found {
    Nothing,
    Labels(Option<Vec<String>>),
    Growth(Option<Vec<Sample>>),
}

impl Counts {
    async fn ask(http: &Http, request: &QueryRequest, selector: &Selector<'_>) -> Option<Self> {
        let samples = ask(http, request, &selector.counting()).await.ok()?;
        let count = |what: &str| {
            samples
                .iter()
                .find(|sample| sample.found == what)
                .map(|sample| sample.value)
        };
        Some(Self {
            all: count("all"),
            matching: count("matching"),
            parts: (0..selector.parts().len())
                .map(|place| count(&place.to_string()))
                .collect(),
        })
    }

    /// The first part of the selector that fits no series.
    fn culprit<'a>(&self, selector: &Selector<'a>) -> Option<&'a str> {
        match selector.parts() {
            [] => selector.matchers.first().copied(),
            parts => parts
                .iter()
                .zip(&self.parts)
                .find(|(_, count)| count.is_none())
                .map(|(part, _)| *part),
        }
    }

    fn second_question(&self, selector: &Selector<'_>) -> Option<Second> {
        match (self.all, self.matching) {
            (Some(_), None) => self.culprit(selector).map(|_| Second::Labels),
            (Some(_), Some(_)) => selector.range.map(|range| {
                let Selector { name, text, .. } = selector;
                Second::Growth(format!("sum(increase({name}{text}[{range}]))"))
            }),
            (None, _) => None,
        }
    }

    fn explained(&self, selector: &Selector<'_>, found: &Found) -> String {
        let name = selector.name;
        let Some(all) = self.all else {
            return format!(
                "Prometheus knows no metric {name}: is it scraped, and is the name right?"
            );
        };
        let Some(matching) = self.matching else {
            return match self.culprit(selector) {
                Some(part) => unmatched(name, all, part, found),
                None => format!(
                    "each part of {} fits some of the {all} series of {name}, but none fits all of it",
                    cut(selector.text, 2 * MAX_MATCHER)
                ),
            };
        };
        let range = selector.range.unwrap_or_default();
        match found {
            Found::Growth(Some(grown)) => match grown.last() {
                Some(sample) if sample.value > 0.0 => format!(
                    "{matching} series of {name} match and grew within {range}, so another part of the query has no value"
                ),
                Some(_) => format!(
                    "there was no traffic: {matching} series of {name} match, and none of them grew within {range}"
                ),
                None => format!(
                    "{matching} series of {name} match, but none has two samples within {range}: look back over at least two scrapes"
                ),
            },
            _ => {
                format!("{matching} series of {name} match, but the query as a whole has no value")
            }
        }
    }
}

/// Why a part of a selector fits none of the series.
fn unmatched(name: &str, all: f64, part: &str, found: &Found) -> String {
    let label = part
        .split(['=', '!', '~'])
        .next()
        .unwrap_or_default()
        .trim();
    let part = cut(part, MAX_MATCHER);
    let Found::Labels(Some(labels)) = found else {
        return format!("none of the {all} series of {name} matches {part}");
    };
    if labels.iter().any(|known| known == label) {
        return format!(
            "none of the {all} series of {name} matches {part}; they have the label, with other values"
        );
    }
    let mut told: Vec<&str> = labels
        .iter()
        .map(String::as_str)
        .filter(|known| *known != "__name__")
        .collect();
    let more = told.len() > MOST_LABELS;
    told.truncate(MOST_LABELS);
    format!(
        "none of the {all} series of {name} has the label {}; they have {}{}",
        cut(label, MAX_MATCHER),
        cut(&told.join(", "), 2 * MAX_MATCHER),
        if more { " and others" } else { "" },
    )
}

/// The text, or its beginning.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl<'a> Selector<'a> {
    /// The first metric of a query. A name counts if a selector or a range follows it directly.
    fn first_of(query: &'a str) -> Option<Self> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let mut at = 0;
        while let Some(c) = query[at..].chars().next() {
            if c == '"' || c == '\'' || c == '`' {
                at += closed(&query[at..])?;
            } else if is_name(c) {
                let rest = &query[at..];
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                if !c.is_ascii_digit() && after.starts_with(['{', '[']) {
                    return Self::read(name, after);
                }
                at += end;
            } else {
                at += c.len_utf8();
            }
        }
        None
    }

    fn read(name: &'a str, after: &'a str) -> Option<Self> {
        let length = if after.starts_with('{') {
            selector_length(after)?
        } else {
            0
        };
        let (text, rest) = after.split_at(length);
        let range = rest
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .map(|(range, _)| range)
            // A subquery's range says nothing about single series.
            .filter(|range| !range.contains(':'));
        Some(Self {
            name,
            text,
            matchers: matchers(text),
            range,
        })
    }

    /// The matchers that are worth a count of their own.
    fn parts(&self) -> &[&'a str] {
        match self.matchers.len() {
            2..=MOST_MATCHERS => &self.matchers,
            _ => &[],
        }
    }

    /// One question for all counts.
    fn counting(&self) -> String {
        let name = self.name;
        let mark = |selector: &str, what: &str| {
            format!("label_replace(count({name}{selector}), \"found\", \"{what}\", \"\", \"\")")
        };
        let mut counts = vec![mark("", "all"), mark(self.text, "matching")];
        let parts = self.parts().iter().enumerate();
        counts.extend(parts.map(|(place, part)| mark(&format!("{{{part}}}"), &place.to_string())));
        counts.join(" or ")
    }
}

/// The matchers of a selector such as `{a="b", c=~"d"}`.
fn matchers(selector: &str) -> Vec<&str> {
    let inner = selector
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or_default();
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(c) = inner[at..].chars().next() {
        match c {
            '"' | '\'' | '`' => match closed(&inner[at..]) {
                Some(length) => at += length,
                None => break,
            },
            ',' => {
                found.push(&inner[start..at]);
                at += 1;
                start = at;
            }
            c => at += c.len_utf8(),
        }
    }
    found.push(&inner[start..]);
    found
        .into_iter()
        .map(str::trim)
        .filter(|matcher| !matcher.is_empty())
        .collect()
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
    fn the_first_metric_of_a_query_is_found_with_its_selector_and_range() {
        type Parts<'a> = (&'a str, &'a str, &'a [&'a str], Option<&'a str>);
        let cases: [(&str, Option<Parts<'_>>); 9] = [
            (
                "sum(rate(http_requests{app=\"a},\", x=~\"1\\\"}\"}[1m])) / sum(x)",
                Some((
                    "http_requests",
                    "{app=\"a},\", x=~\"1\\\"}\"}",
                    &["app=\"a},\"", "x=~\"1\\\"}\""],
                    Some("1m"),
                )),
            ),
            ("100 - rate(a:b[5m])", Some(("a:b", "", &[], Some("5m")))),
            (
                "max(a{b='c',}[5m:1m])",
                Some(("a", "{b='c',}", &["b='c'"], None)),
            ),
            ("x{}", Some(("x", "{}", &[], None))),
            ("vector(1)", None),
            ("x{", None),
            (
                "label_replace(up{a='b'}, \"c{\", \"\", \"\", \"\")",
                Some(("up", "{a='b'}", &["a='b'"], None)),
            ),
            ("\"unclosed", None),
            ("é{}", None),
        ];
        for (query, expected) in cases {
            let expected = expected.map(|(name, text, matchers, range)| Selector {
                name,
                text,
                matchers: matchers.to_vec(),
                range,
            });
            assert_eq!(Selector::first_of(query), expected, "{query}");
        }
    }

    #[test]
    fn no_sentence_is_long_whatever_the_query_is() {
        let long = "é".repeat(5000);
        let query = format!("rate(x{{a=\"{long}\", b=\"{long}\"}}[1m])");
        let selector = Selector::first_of(&query).unwrap();
        let labels = || Found::Labels(Some(vec!["l".repeat(500); 500]));
        for (matching, parts, found) in [
            (None, vec![None, Some(1.0)], labels()),
            (None, vec![None, Some(1.0)], Found::Nothing),
            (None, vec![Some(1.0), Some(1.0)], Found::Nothing),
            (Some(1.0), vec![Some(1.0), Some(1.0)], Found::Growth(None)),
        ] {
            let counts = Counts {
                all: Some(4.0),
                matching,
                parts,
            };
            let sentence = counts.explained(&selector, &found);
            assert!(sentence.chars().count() < 500, "{sentence}");
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
        fn any_query_has_a_first_metric_or_none(query in "[a-z,={}\\[\\]\"'`\\\\()é1 ]{0,40}") {
            let _ = Selector::first_of(&query).map(|selector| selector.counting());
        }
    }
}
