//! What pods say of themselves on their metrics pages, kept for a while: how many requests they answered, how many of these badly, and how long they
//! took. The pure half of reading metrics without a Prometheus; the demo's Prometheus computes with it too.
//!
//! ```text
//!   page of a pod ─ read ─▶ Page ─▶ Window of the pod ─ growth ─┐
//!   page of a pod ─ read ─▶ Page ─▶ Window of the pod ─ growth ─┴─▶ success rate, quantile
//! ```
//!
//! Counters are added up over all series of a pod before their growth is taken: a process that starts anew begins all of them at zero at once.

use super::{REQUEST_DURATION, REQUEST_SUCCESS_RATE};
use regex::Regex;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What stands in `metricsServer` in place of a URL, alone or before a `?` with options.
pub const SCRAPE: &str = "scrape";
/// Metrics that are looked for where none is named, in this order: Flagger's, OpenTelemetry's, Spring's, and what many write by hand.
pub const METRICS: [&str; 4] = [
    "http_request_duration_seconds",
    "http_server_request_duration_seconds",
    "http_server_requests_seconds",
    "http_requests_total",
];
/// Labels that may hold the status where none is named.
pub const STATUS_LABELS: [&str; 5] = [
    "status",
    "code",
    "status_code",
    "http_response_status_code",
    "http_status_code",
];
/// Statuses of requests that went badly, where nothing else is said: Flagger's.
const FAILED: &str = "5.*";
/// Samples of one pod that are kept; beyond them the older half is thinned out.
const MOST_SAMPLES: usize = 128;
/// Different bounds of one histogram.
const MOST_BUCKETS: usize = 256;

/// The options of `metricsServer: scrape?…`; `None` where it is not `scrape`.
#[must_use]
pub fn scrape_options(metrics_server: &str) -> Option<&str> {
    let rest = metrics_server.trim().strip_prefix(SCRAPE)?;
    match rest.strip_prefix('?') {
        Some(options) => Some(options),
        None => rest.is_empty().then_some(""),
    }
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Check {
    /// Percent of requests that went well.
    SuccessRate,
    /// Milliseconds below which this part of all requests stays, in 0..=1.
    Duration(f64),
}

/// Where the numbers are found, and what they are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Port of the page; by default the Service's.
    pub port: Option<u16>,
    /// Path of the page.
    pub path: String,
    /// `https` in place of `http`.
    pub https: bool,
    /// Name of the metric, without `_count` or `_bucket`; by default the first of [`METRICS`] that is there.
    pub metric: Option<String>,
    /// Label that holds the status; by default the first of [`STATUS_LABELS`] that is there.
    pub status: Option<String>,
    /// Regular expression for statuses of requests that went badly.
    pub failed: String,
}

/// A question to the pods: `request-success-rate` or `request-duration`, perhaps with options as in `request-duration?port=9797&quantile=0.5`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScrapeQuery {
    /// What is computed.
    pub check: Check,
    /// From what.
    pub source: Source,
}

impl ScrapeQuery {
    /// Reads the question. The error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, options) = text.trim().split_once('?').unwrap_or((text.trim(), ""));
        let mut check = match name {
            REQUEST_SUCCESS_RATE => Check::SuccessRate,
            REQUEST_DURATION => Check::Duration(0.99),
            other => {
                return Err(format!(
                    "{other:?} is not a check of the scrape provider; expected {REQUEST_SUCCESS_RATE} or {REQUEST_DURATION}, perhaps with options after a ?"
                ));
            }
        };
        let mut source = Source {
            path: "/metrics".to_owned(),
            failed: FAILED.to_owned(),
            ..Source::default()
        };
        for option in options
            .split('&')
            .map(str::trim)
            .filter(|option| !option.is_empty())
        {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let wrong =
                |expected: &str| Err(format!("scrape: {key} is {value:?}; expected {expected}"));
            match key {
                "port" => match value.parse::<u16>() {
                    Ok(port) if port > 0 => source.port = Some(port),
                    _ => return wrong("a number from 1 to 65535"),
                },
                "path" if value.starts_with('/') => value.clone_into(&mut source.path),
                "path" => return wrong("a path that begins with /"),
                "scheme" if ["http", "https"].contains(&value) => source.https = value == "https",
                "scheme" => return wrong("http or https"),
                "metric" if is_name(value) => source.metric = Some(value.to_owned()),
                "metric" => return wrong("the name of a metric"),
                "status" if is_name(value) => source.status = Some(value.to_owned()),
                "status" => return wrong("the name of a label"),
                "failed" => match whole(value) {
                    Some(_) if !value.is_empty() => value.clone_into(&mut source.failed),
                    _ => return wrong("a regular expression such as 5.."),
                },
                "quantile" => match (value.parse::<f64>(), &mut check) {
                    (Ok(part), Check::Duration(quantile)) if (0.0..=1.0).contains(&part) => {
                        *quantile = part;
                    }
                    // The options of `metricsServer` stand behind both checks.
                    (Ok(part), Check::SuccessRate) if (0.0..=1.0).contains(&part) => {}
                    _ => return wrong("a number from 0 to 1"),
                },
                _ => {
                    return Err(format!(
                        "scrape: the option {key:?} is not known; there are port, path, scheme, metric, status, failed and quantile"
                    ));
                }
            }
        }
        Ok(Self { check, source })
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// A regular expression that must fit the whole text, as in Prometheus.
fn whole(pattern: &str) -> Option<Regex> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(64 * 1024)
        .build()
        .ok()
}

/// What one look at a page found, added up over all series of the metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Requests answered, and those of them that went badly; `None` where the page does not count requests by status.
    pub requests: Option<Requests>,
    /// Upper bounds, in milliseconds, and how many requests came within them; sorted, cumulative.
    pub buckets: Vec<Bucket>,
    /// The page has none of the metrics. Many programs add a series with its first request, so this counts as zero requests.
    pub lacks_metric: bool,
}

/// Counted requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requests {
    /// All of them.
    pub all: f64,
    /// Those that went badly.
    pub failed: f64,
}

/// One bucket of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// The upper bound; infinite for the last one.
    pub bound: f64,
    /// How many values are not above it.
    pub count: f64,
}

/// Reads pages for one [`Source`].
#[derive(Clone, Debug)]
pub struct Reader {
    metrics: Vec<String>,
    labels: Vec<String>,
    /// `None` fits nothing; a parsed [`Source`] has one that is right.
    failed: Option<Regex>,
}

/// What was found of one candidate.
#[derive(Default)]
struct Found {
    /// `NAME_count`, and `NAME` itself.
    counts: [Tally; 2],
    buckets: Vec<Bucket>,
}

#[derive(Default)]
struct Tally {
    requests: Requests,
    /// Whether a series has a status, and whether one has none.
    labelled: bool,
    bare: bool,
}

impl Tally {
    fn add(&mut self, value: f64, status: Option<&str>, failed: Option<&Regex>) {
        self.labelled |= status.is_some();
        self.bare |= status.is_none();
        self.requests.all += value;
        if let (Some(status), Some(failed)) = (status, failed)
            && failed.is_match(status)
        {
            self.requests.failed += value;
        }
    }
}

impl Reader {
    /// A reader for this source.
    #[must_use]
    pub fn new(source: &Source) -> Self {
        let one_or = |one: &Option<String>, many: &[&str]| match one {
            Some(one) => vec![one.clone()],
            None => many.iter().map(|name| (*name).to_owned()).collect(),
        };
        Self {
            metrics: one_or(&source.metric, &METRICS),
            labels: one_or(&source.status, &STATUS_LABELS),
            failed: whole(&source.failed).or_else(|| whole(FAILED)),
        }
    }

    /// What a page in Prometheus's text format or in `OpenMetrics` says. The error says what it lacks.
    pub fn read(&self, text: &str) -> Result<Page, String> {
        let mut found: Vec<Found> = self.metrics.iter().map(|_| Found::default()).collect();
        for series in text.lines().filter_map(Series::parse) {
            for (metric, found) in self.metrics.iter().zip(&mut found) {
                let Some(suffix) = series.name.strip_prefix(metric.as_str()) else {
                    continue;
                };
                match suffix {
                    "_count" | "" => {
                        let status = self.labels.iter().find_map(|label| series.label(label));
                        found.counts[usize::from(suffix.is_empty())].add(
                            series.value,
                            status.as_deref(),
                            self.failed.as_ref(),
                        );
                    }
                    "_bucket" => add_bucket(&mut found.buckets, metric, &series)?,
                    _ => {}
                }
            }
        }
        let mut buckets = found
            .iter_mut()
            .map(|found| std::mem::take(&mut found.buckets))
            .find(|buckets| !buckets.is_empty())
            .unwrap_or_default();
        buckets.sort_by(|one, other| one.bound.total_cmp(&other.bound));
        let counted = |tally: &&Tally| tally.labelled || tally.bare;
        let tally = found
            .iter()
            .find_map(|found| found.counts.iter().find(counted));
        let Some(tally) = tally else {
            return Ok(Page {
                requests: Some(Requests::default()),
                lacks_metric: buckets.is_empty(),
                buckets,
            });
        };
        if tally.bare && buckets.is_empty() {
            return Err(format!(
                "the page counts requests without one of the labels {}; name yours with the option status",
                self.labels.join(", ")
            ));
        }
        Ok(Page {
            requests: (!tally.bare).then_some(tally.requests),
            buckets,
            lacks_metric: false,
        })
    }

    /// The metrics that are looked for, for messages.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.metrics.join(", ")
    }
}

fn add_bucket(buckets: &mut Vec<Bucket>, metric: &str, series: &Series<'_>) -> Result<(), String> {
    let Some(bound) = series.label("le").and_then(|bound| number(&bound)) else {
        return Ok(());
    };
    let bound = bound * milliseconds_in(metric);
    add_count(buckets, bound, series.value);
    if buckets.len() > MOST_BUCKETS {
        return Err(format!(
            "{metric} has more than {MOST_BUCKETS} different buckets"
        ));
    }
    Ok(())
}

/// How many milliseconds the unit of a metric has; the unit stands at the end of the name.
fn milliseconds_in(metric: &str) -> f64 {
    const UNITS: [(&str, f64); 4] = [
        ("_milliseconds", 1.0),
        ("_ms", 1.0),
        ("_microseconds", 1e-3),
        ("_nanoseconds", 1e-6),
    ];
    UNITS
        .iter()
        .find(|(unit, _)| metric.ends_with(unit))
        .map_or(1000.0, |(_, milliseconds)| *milliseconds)
}

/// A number as metrics pages write it.
fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| !value.is_nan())
}

/// One line of a page.
#[derive(Debug, PartialEq)]
struct Series<'a> {
    name: &'a str,
    /// What stands between the braces.
    labels: &'a str,
    value: f64,
}

impl<'a> Series<'a> {
    /// `None` for comments, empty lines, what is no sample, and values that no counter has.
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim_start();
        if line.starts_with('#') {
            return None;
        }
        let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(inner) => {
                let close = end_of_labels(inner)?;
                (&inner[..close], &inner[close + 1..])
            }
            None => ("", rest),
        };
        let value = number(rest.split_whitespace().next()?)?;
        (value.is_finite() && value >= 0.0).then_some(Self {
            name,
            labels,
            value,
        })
    }

    /// The value of a label.
    fn label(&self, wanted: &str) -> Option<String> {
        let mut rest = self.labels;
        loop {
            let (name, after) = rest.split_once('=')?;
            let quoted = after.trim_start().strip_prefix('"')?;
            let end = end_of_text(quoted)?;
            if name.trim_matches([',', ' ', '\t']) == wanted {
                return Some(unescaped(&quoted[..end]));
            }
            rest = &quoted[end + 1..];
        }
    }
}

/// Where the closing brace is; those inside of quotes don't close anything.
fn end_of_labels(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        at += text[at..].find(['"', '}'])?;
        if text[at..].starts_with('}') {
            return Some(at);
        }
        at += 1;
        at += end_of_text(&text[at..])? + 1;
    }
}

/// Where the closing quote is.
fn end_of_text(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices()
        .find(|(_, c)| {
            let closes = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        })
        .map(|(at, _)| at)
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        match (escaped, c) {
            (false, '\\') => {
                escaped = true;
                continue;
            }
            (true, 'n') => out.push('\n'),
            (_, c) => out.push(c),
        }
        escaped = false;
    }
    out
}

/// The pages of one pod over time. Moments are counted from any beginning that all windows share.
#[derive(Clone, Debug, Default)]
pub struct Window(VecDeque<(Duration, Page)>);

/// By how much a pod's counters grew, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Growth {
    /// Requests; `None` where they are not counted by status.
    pub requests: Option<Requests>,
    /// Requests within each bound.
    pub buckets: Vec<Bucket>,
}

impl Window {
    /// Adds what was found at `at`, which is later than all before.
    pub fn push(&mut self, at: Duration, page: Page) {
        self.0.push_back((at, page));
        if self.0.len() > MOST_SAMPLES {
            let mut place = 0;
            self.0.retain(|_| {
                place += 1;
                // The first stays, and of the older half every other.
                place > MOST_SAMPLES / 2 || place % 2 == 1
            });
        }
    }

    /// Says that the pod had counted nothing yet at `at`, which is before all that is known.
    pub fn begin_at_zero(&mut self, at: Duration) {
        let Some((_, first)) = self.0.front() else {
            return;
        };
        let zero = Page {
            requests: first.requests.map(|_| Requests::default()),
            buckets: first
                .buckets
                .iter()
                .map(|bucket| Bucket {
                    count: 0.0,
                    ..*bucket
                })
                .collect(),
            lacks_metric: first.lacks_metric,
        };
        self.0.push_front((at, zero));
    }

    /// Forgets what was found before `from`.
    pub fn forget_before(&mut self, from: Duration) {
        while self.0.front().is_some_and(|(at, _)| *at < from) {
            self.0.pop_front();
        }
    }

    /// Nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the last page was read.
    #[must_use]
    pub fn last(&self) -> Option<Duration> {
        self.0.back().map(|(at, _)| *at)
    }

    /// The growth since `from`; `None` with fewer than two samples.
    #[must_use]
    pub fn growth(&self, from: Duration) -> Option<Growth> {
        let pages: Vec<&Page> = self
            .0
            .iter()
            .filter(|(at, _)| *at >= from)
            .map(|(_, page)| page)
            .collect();
        if pages.len() < 2 {
            return None;
        }
        let mut growth = Growth {
            requests: pages
                .last()
                .and_then(|page| page.requests)
                .map(|_| Requests::default()),
            buckets: Vec::new(),
        };
        for pair in pages.windows(2) {
            growth.add(pair[0], pair[1]);
        }
        Some(growth)
    }
}

impl Growth {
    fn add(&mut self, before: &Page, after: &Page) {
        // One counter that fell is a process that began anew: then all of them count from zero.
        let reset = fell(before, after);
        let since = |before: f64, after: f64| if reset { after } else { after - before };
        if let (Some(growth), Some(after)) = (&mut self.requests, after.requests) {
            let before = before.requests.unwrap_or_default();
            growth.all += since(before.all, after.all);
            growth.failed += since(before.failed, after.failed);
        }
        for bucket in &after.buckets {
            let grown = since(count_within(&before.buckets, bucket.bound), bucket.count);
            add_count(&mut self.buckets, bucket.bound, grown);
        }
    }
}

fn fell(before: &Page, after: &Page) -> bool {
    let requests = match (before.requests, after.requests) {
        (Some(before), Some(after)) => after.all < before.all || after.failed < before.failed,
        (before, after) => before.is_some() && after.is_none(),
    };
    requests
        || before
            .buckets
            .iter()
            .any(|bucket| count_within(&after.buckets, bucket.bound) < bucket.count)
}

fn count_within(buckets: &[Bucket], bound: f64) -> f64 {
    buckets
        .iter()
        .find(|bucket| bucket.bound.total_cmp(&bound).is_eq())
        .map_or(0.0, |bucket| bucket.count)
}

fn add_count(buckets: &mut Vec<Bucket>, bound: f64, count: f64) {
    match buckets
        .iter_mut()
        .find(|bucket| bucket.bound.total_cmp(&bound).is_eq())
    {
        Some(bucket) => bucket.count += count,
        None => buckets.push(Bucket { bound, count }),
    }
}

/// Percent of requests that went well; NaN without any, `None` where nobody counts them.
#[must_use]
pub fn success_rate(growths: &[Growth]) -> Option<f64> {
    let requests: Vec<Requests> = growths
        .iter()
        .filter_map(|growth| growth.requests)
        .collect();
    if requests.is_empty() {
        return None;
    }
    let all: f64 = requests.iter().map(|requests| requests.all).sum();
    let failed: f64 = requests.iter().map(|requests| requests.failed).sum();
    Some((all - failed) / all * 100.0)
}

/// Milliseconds below which this part of all requests stays; NaN without any, `None` where nobody measures them.
#[must_use]
pub fn duration(part: f64, growths: &[Growth]) -> Option<f64> {
    let mut sums: BTreeMap<u64, Bucket> = BTreeMap::new();
    for bucket in growths.iter().flat_map(|growth| &growth.buckets) {
        sums.entry(bucket.bound.to_bits())
            .and_modify(|sum| sum.count += bucket.count)
            .or_insert(*bucket);
    }
    if sums.is_empty() {
        return None;
    }
    Some(quantile(part, sums.into_values().collect()))
}

/// `histogram_quantile` of Prometheus for classic histograms: the value below which this part of all values stays, by linear interpolation inside of
/// its bucket. NaN without a bucket for all values, with fewer than two buckets, or without any value.
#[must_use]
pub fn quantile(part: f64, mut buckets: Vec<Bucket>) -> f64 {
    if part.is_nan() {
        return f64::NAN;
    }
    if part < 0.0 {
        return f64::NEG_INFINITY;
    }
    if part > 1.0 {
        return f64::INFINITY;
    }
    buckets.sort_by(|one, other| one.bound.total_cmp(&other.bound));
    // Counters that are read while they are counted may be a little out of order.
    let mut most = 0.0_f64;
    for bucket in &mut buckets {
        most = most.max(bucket.count);
        bucket.count = most;
    }
    let [.., before_last, last] = buckets.as_slice() else {
        return f64::NAN;
    };
    if last.bound != f64::INFINITY || last.count <= 0.0 {
        return f64::NAN;
    }
    let rank = part * last.count;
    let finite = &buckets[..buckets.len() - 1];
    let Some(place) = finite.iter().position(|bucket| bucket.count >= rank) else {
        return before_last.bound;
    };
    let Bucket { bound, count } = finite[place];
    if place == 0 && bound <= 0.0 {
        return bound;
    }
    let lower = match place.checked_sub(1) {
        Some(below) => finite[below],
        None => Bucket {
            bound: 0.0,
            count: 0.0,
        },
    };
    lower.bound + (bound - lower.bound) * ((rank - lower.count) / (count - lower.count))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reader(query: &str) -> Reader {
        Reader::new(&ScrapeQuery::parse(query).unwrap().source)
    }

    fn requests(all: f64, failed: f64) -> Page {
        Page {
            requests: Some(Requests { all, failed }),
            ..Page::default()
        }
    }

    fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
        pairs
            .iter()
            .map(|(bound, count)| Bucket {
                bound: *bound,
                count: *count,
            })
            .collect()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    const PAGE: &str = r#"
# HELP http_request_duration_seconds How long requests take.
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{method="GET",path="/items/{id}",status="200",le="0.1"} 90
http_request_duration_seconds_bucket{method="GET",path="/items/{id}",status="200",le="0.5"} 99
http_request_duration_seconds_bucket{method="GET",path="/items/{id}",status="200",le="+Inf"} 100
http_request_duration_seconds_sum{method="GET",path="/items/{id}",status="200"} 7.5
http_request_duration_seconds_count{method="GET",path="/items/{id}",status="200"} 100
http_request_duration_seconds_bucket{path="a\"}, status=\"500\"", status="503", le="0.1"} 1
http_request_duration_seconds_bucket{path="a\"}, status=\"500\"", status="503", le="0.5"} 1
http_request_duration_seconds_bucket{path="a\"}, status=\"500\"", status="503", le="+Inf"} 1 # {trace="x"} 0.01
http_request_duration_seconds_count{path="a\"}, status=\"500\"", status="503"} 1 1700000000000
http_request_duration_seconds_created{status="200"} 1.7e9
process_cpu_seconds_total 3
"#;

    #[test]
    fn a_page_is_added_up_over_its_series_whatever_their_labels_hold() {
        assert_eq!(
            reader("request-success-rate").read(PAGE),
            Ok(Page {
                requests: Some(Requests {
                    all: 101.0,
                    failed: 1.0
                }),
                buckets: buckets(&[(100.0, 91.0), (500.0, 100.0), (f64::INFINITY, 101.0)]),
                lacks_metric: false,
            })
        );
    }

    #[test]
    fn names_that_are_usual_are_found_and_others_can_be_said() {
        let cases = [
            (
                "request-success-rate",
                "http_requests_total{code=\"200\"} 9\nhttp_requests_total{code=\"502\"} 1",
                (10.0, 1.0),
            ),
            (
                "request-success-rate",
                "http_server_request_duration_seconds_count{http_response_status_code=\"500\"} 2\nhttp_requests_total{code=\"200\"} 9",
                (2.0, 2.0),
            ),
            (
                "request-success-rate",
                "http_server_requests_seconds_count{status=\"404\",uri=\"/\"} 4",
                (4.0, 0.0),
            ),
            (
                "request-success-rate?metric=calls_total&status=outcome&failed=error|timeout",
                "calls_total{outcome=\"ok\"} 1\ncalls_total{outcome=\"timeout\"} 2",
                (3.0, 2.0),
            ),
            // The whole status must fit, as in Prometheus.
            (
                "request-success-rate?failed=5",
                "http_requests_total{code=\"500\"} 5",
                (5.0, 0.0),
            ),
            (
                "request-success-rate?failed=4..|5..",
                "http_requests_total{code=\"404\"} 5\nhttp_requests_total_created{code=\"404\"} 7",
                (5.0, 5.0),
            ),
        ];
        for (query, page, (all, failed)) in cases {
            assert_eq!(
                reader(query).read(page).map(|page| page.requests),
                Ok(Some(Requests { all, failed })),
                "{query} {page}"
            );
        }
    }

    #[test]
    fn a_page_without_the_metric_counts_as_zero_and_one_without_a_status_is_refused() {
        let empty = reader("request-duration").read("up 1").unwrap();
        assert_eq!(empty.requests, Some(Requests::default()));
        assert!(empty.lacks_metric);
        assert_eq!(
            reader("request-success-rate?metric=calls").read("calls{outcome=\"ok\"} 1"),
            Err("the page counts requests without one of the labels status, code, status_code, http_response_status_code, http_status_code; name yours with the option status".to_owned())
        );
    }

    #[test]
    fn questions_are_read_with_their_options_and_refused_with_what_is_right() {
        let full = ScrapeQuery::parse(
            " request-duration?port=9797&path=/prometheus&scheme=https&metric=latency_ms&status=code&failed=4..&quantile=0.5\n",
        );
        assert_eq!(
            full,
            Ok(ScrapeQuery {
                check: Check::Duration(0.5),
                source: Source {
                    port: Some(9797),
                    path: "/prometheus".into(),
                    https: true,
                    metric: Some("latency_ms".into()),
                    status: Some("code".into()),
                    failed: "4..".into(),
                },
            })
        );
        let refused = [
            ("sum(up)", "\"sum(up)\" is not a check"),
            (
                "request-duration?port=0",
                "port is \"0\"; expected a number from 1 to 65535",
            ),
            (
                "request-duration?path=metrics",
                "expected a path that begins with /",
            ),
            ("request-duration?failed=(", "expected a regular expression"),
            (
                "request-duration?failed=((((.{99}){99}){99}){99})",
                "expected a regular expression",
            ),
            (
                "request-duration?quantile=99",
                "expected a number from 0 to 1",
            ),
            (
                "request-duration?bucket=1",
                "the option \"bucket\" is not known",
            ),
        ];
        for (query, expected) in refused {
            let why = ScrapeQuery::parse(query).unwrap_err();
            assert!(why.contains(expected), "{query}: {why}");
        }
    }

    #[test]
    fn a_metrics_server_is_scrape_or_a_url() {
        let cases = [
            ("scrape", Some("")),
            ("scrape?port=1", Some("port=1")),
            ("scraper", None),
            ("http://scrape:9090", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(scrape_options(text), expected, "{text}");
        }
    }

    #[test]
    fn growth_is_what_was_counted_since_through_restarts_and_new_statuses() {
        /// Name, samples (when, all, failed), since when, growth of all and failed.
        type Case<'a> = (&'a str, &'a [(u64, f64, f64)], u64, Option<(f64, f64)>);
        let cases: [Case<'_>; 7] = [
            ("one sample says nothing", &[(10, 5.0, 0.0)], 0, None),
            (
                "two do",
                &[(10, 5.0, 0.0), (20, 9.0, 1.0)],
                0,
                Some((4.0, 1.0)),
            ),
            (
                "what is older is left out",
                &[(0, 1.0, 0.0), (10, 5.0, 0.0), (20, 9.0, 1.0)],
                10,
                Some((4.0, 1.0)),
            ),
            (
                "a restart counts from zero",
                &[(0, 100.0, 0.0), (10, 110.0, 0.0), (20, 7.0, 3.0)],
                0,
                Some((17.0, 3.0)),
            ),
            (
                "a restart that only the failed ones show",
                &[(0, 10.0, 5.0), (10, 12.0, 1.0)],
                0,
                Some((12.0, 1.0)),
            ),
            (
                "two restarts",
                &[(0, 9.0, 0.0), (1, 2.0, 0.0), (2, 1.0, 1.0)],
                0,
                Some((3.0, 1.0)),
            ),
            (
                "nothing happened",
                &[(0, 9.0, 2.0), (5, 9.0, 2.0)],
                0,
                Some((0.0, 0.0)),
            ),
        ];
        for (name, samples, from, expected) in cases {
            let mut window = Window::default();
            for (at, all, failed) in samples {
                window.push(seconds(*at), requests(*all, *failed));
            }
            let found = window.growth(seconds(from)).map(|growth| {
                let requests = growth.requests.unwrap();
                (requests.all, requests.failed)
            });
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn a_pod_that_is_known_to_be_new_counts_from_zero() {
        let mut window = Window::default();
        window.begin_at_zero(seconds(1));
        assert!(window.is_empty());
        window.push(seconds(5), requests(40.0, 10.0));
        window.begin_at_zero(seconds(4));
        let growth = window.growth(seconds(4));
        assert_eq!(success_rate(&[growth.unwrap()]), Some(75.0));
    }

    #[test]
    fn a_window_keeps_so_many_samples_and_loses_no_growth_by_it() {
        let mut window = Window::default();
        for at in 0..10_000_u64 {
            window.push(seconds(at), requests(at as f64, 0.0));
        }
        assert!(window.0.len() <= MOST_SAMPLES);
        let growth = window.growth(Duration::ZERO).unwrap();
        assert_eq!(growth.requests.unwrap().all, 9999.0);
        window.forget_before(seconds(9990));
        assert_eq!(
            window.growth(Duration::ZERO).unwrap().requests.unwrap().all,
            9.0
        );
        window.forget_before(seconds(10_000));
        assert!(window.is_empty());
    }

    #[test]
    fn pods_count_by_their_requests() {
        let growth = |all, failed| Growth {
            requests: Some(Requests { all, failed }),
            buckets: Vec::new(),
        };
        assert_eq!(
            success_rate(&[growth(90.0, 0.0), growth(10.0, 5.0)]),
            Some(95.0)
        );
        assert_eq!(success_rate(&[growth(7.0, 7.0)]), Some(0.0));
        assert!(success_rate(&[growth(0.0, 0.0)]).unwrap().is_nan());
        assert_eq!(success_rate(&[Growth::default()]), None);
        assert_eq!(duration(0.99, &[Growth::default()]), None);
    }

    /// The cases and results are those of Prometheus for the same buckets.
    #[test]
    fn quantiles_are_those_of_prometheus() {
        /// Name, quantile, buckets, result.
        type Case<'a> = (&'a str, f64, &'a [(f64, f64)], f64);
        const INF: f64 = f64::INFINITY;
        let some: &[(f64, f64)] = &[(0.1, 50.0), (0.2, 80.0), (0.4, 90.0), (INF, 100.0)];
        let cases: [Case<'_>; 13] = [
            ("inside of a bucket", 0.6, some, 0.1 + 0.1 * (10.0 / 30.0)),
            ("in the first one, from zero", 0.25, some, 0.05),
            ("at an edge", 0.5, some, 0.1),
            ("beyond the last bound: that bound", 0.99, some, 0.4),
            ("all", 1.0, some, 0.4),
            ("none", 0.0, some, 0.0),
            ("below", -0.1, some, f64::NEG_INFINITY),
            ("above", 1.1, some, INF),
            (
                "a first bound below zero stands for itself",
                0.1,
                &[(-1.0, 5.0), (1.0, 10.0), (INF, 10.0)],
                -1.0,
            ),
            (
                "without a bucket for all",
                0.5,
                &[(0.1, 1.0), (0.2, 2.0)],
                f64::NAN,
            ),
            ("with one bucket", 0.5, &[(INF, 1.0)], f64::NAN),
            ("without values", 0.5, &[(0.1, 0.0), (INF, 0.0)], f64::NAN),
            (
                "out of order",
                0.5,
                &[(0.2, 4.0), (0.1, 5.0), (INF, 10.0)],
                0.1,
            ),
        ];
        for (name, part, pairs, expected) in cases {
            let found = quantile(part, buckets(pairs));
            assert!(
                (found - expected).abs() < 1e-12
                    || found == expected
                    || found.is_nan() && expected.is_nan(),
                "{name}: {found}, expected {expected}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_page_is_read_or_refused(page in "(http_requests_total|x)?[{}\"=,\\\\a-z0-9 #\n.+-]{0,120}") {
            let _ = reader("request-success-rate").read(&page);
        }

        #[test]
        fn a_quantile_lies_between_zero_and_the_last_bound(
            counts in proptest::collection::vec(0_u32..1000, 2..12), part in 0.001..=1.0_f64,
        ) {
            let mut sum = 0.0;
            let mut all: Vec<Bucket> = counts.iter().enumerate().map(|(place, count)| {
                sum += f64::from(*count);
                Bucket { bound: (place + 1) as f64, count: sum }
            }).collect();
            all.push(Bucket { bound: f64::INFINITY, count: sum });
            let found = quantile(part, all);
            prop_assert!(sum == 0.0 && found.is_nan() || (0.0..=counts.len() as f64).contains(&found), "{found}");
        }
    }
}
