//! A measurement held against the limits of its metric. Passed, failed, no data and no answer are four different things: Flagger counts
//! the last three as failed checks; here only a value outside of its limits is one, and the engine holds on the others.
//! The sentences are Flagger's word for word (chapter 4.1), because people search logs and write alerts for them.

use super::template::go_number;
use super::{Limits, MetricKind, MetricQuery, Origin};
use crate::api::{Canary, CanaryMetric, GoDuration, MetricProviderType, Verdict};
use std::time::Duration;

/// What a metrics backend answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Measurement {
    /// A number, in the unit of the query.
    Value(f64),
    /// The query gave several series; by Flagger's rule the last one counts.
    LastOf {
        /// Value of the last series.
        value: f64,
        /// How many series there were.
        series: usize,
    },
    /// The query gave several series, of a backend where by Flagger's rule the first one counts.
    FirstOf {
        /// Value of the first series.
        value: f64,
        /// How many series there were.
        series: usize,
    },
    /// The backend answered, without a value; the text says what is known about why.
    NoData(String),
    /// The backend could not be asked, or answered with an error.
    Error(String),
}

/// What follows from a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Flagger's sentence where the metric did not pass.
    pub message: Option<String>,
    /// What a person should know even if it passed, such as that only one of several series was judged.
    pub note: Option<String>,
    /// The value for eyes, such as `98.00%`.
    pub value_text: Option<String>,
    /// The limit for eyes, such as `≥ 99%`; `None` where there is no limit.
    pub limit_text: Option<String>,
    /// The value as `flagger_canary_metric_analysis` records it: percent, seconds, or the number itself.
    pub recorded: Option<f64>,
}

impl Limits {
    /// The limits of a metric: its range, or by the older `threshold` the least success rate or the greatest other value. An absent
    /// threshold counts as 0.
    #[must_use]
    pub fn of(metric: &CanaryMetric, kind: MetricKind) -> Self {
        if let Some(range) = &metric.threshold_range {
            return Self {
                min: range.min,
                max: range.max,
            };
        }
        let threshold = metric.threshold.unwrap_or(0.0);
        match kind {
            MetricKind::SuccessRate => Self {
                min: Some(threshold),
                max: None,
            },
            MetricKind::Duration(_) | MetricKind::Value => Self {
                min: None,
                max: Some(threshold),
            },
        }
    }
}

/// Why a value is none: not a number, or a share of nothing.
fn emptiness(kind: MetricKind, value: f64) -> Option<&'static str> {
    match kind {
        MetricKind::SuccessRate if !value.is_finite() => Some("no requests in the interval"),
        _ if value.is_nan() => Some("the query gave NaN: there was nothing to compute from"),
        _ => None,
    }
}

/// Holds a measurement against the limits of its metric.
#[must_use]
pub fn judge(canary: &Canary, query: &MetricQuery, measurement: &Measurement) -> Judgement {
    let empty = Judgement {
        verdict: Verdict::NoData,
        message: None,
        note: None,
        value_text: None,
        limit_text: limit_text(query.kind, query.limits),
        recorded: None,
    };
    let (value, series, judged) = match measurement {
        Measurement::Value(value) => (*value, 1, ""),
        Measurement::LastOf { value, series } => (*value, *series, "last"),
        Measurement::FirstOf { value, series } => (*value, *series, "first"),
        Measurement::NoData(why) => {
            return Judgement {
                message: Some(no_data(canary, query, why)),
                ..empty
            };
        }
        Measurement::Error(why) => {
            return Judgement {
                verdict: Verdict::Error,
                message: Some(no_answer(query, why)),
                ..empty
            };
        }
    };
    if let Some(why) = emptiness(query.kind, value) {
        return Judgement {
            message: Some(no_data(canary, query, why)),
            ..empty
        };
    }
    let scale = Scale::of(query.kind);
    let value = (scale.value)(value);
    let below = query.limits.min.map(scale.limit).filter(|min| value < *min);
    let above = query.limits.max.map(scale.limit).filter(|max| value > *max);
    let broken = below.map(|min| ('<', min)).or(above.map(|max| ('>', max)));
    let message = broken.map(|(sign, limit)| {
        format!(
            "Halt {}.{} advancement {} {} {sign} {}",
            canary.metadata.name,
            canary.metadata.namespace,
            match query.kind {
                MetricKind::SuccessRate => "success rate",
                MetricKind::Duration(_) => "request duration",
                MetricKind::Value => &query.name,
            },
            (scale.shown)(value),
            (scale.shown_limit)(limit),
        )
    });
    Judgement {
        verdict: if message.is_some() { Verdict::Failed } else { Verdict::Passed },
        message,
        note: (series > 1).then(|| {
            format!(
                "the query of {} gave {series} series and only the {judged} was judged; aggregate them, for example with sum(…) or max(…)",
                query.name
            )
        }),
        value_text: Some(match query.kind {
            MetricKind::Value => plain(value),
            _ => (scale.shown)(value),
        }),
        recorded: Some((scale.recorded)(value)),
        ..empty
    }
}

/// How the numbers of a kind are compared, shown and recorded.
struct Scale {
    /// From the query's unit to the unit of comparison.
    value: fn(f64) -> f64,
    /// From the unit of the manifest to the unit of comparison.
    limit: fn(f64) -> f64,
    shown: fn(f64) -> String,
    shown_limit: fn(f64) -> String,
    recorded: fn(f64) -> f64,
}

impl Scale {
    fn of(kind: MetricKind) -> Self {
        match kind {
            MetricKind::SuccessRate => Self {
                value: |value| value,
                limit: |limit| limit,
                shown: |value| format!("{}%", two_decimals(value)),
                shown_limit: |limit| format!("{}%", go_number(limit)),
                recorded: |value| value,
            },
            // Whole milliseconds on both sides, as in Flagger.
            MetricKind::Duration(unit) => Self {
                value: match unit {
                    super::DurationUnit::Milliseconds => f64::trunc,
                    super::DurationUnit::Seconds => |value| (value * 1000.0).trunc(),
                },
                limit: f64::trunc,
                shown: milliseconds,
                shown_limit: milliseconds,
                recorded: |value| value / 1000.0,
            },
            MetricKind::Value => Self {
                value: |value| value,
                limit: |limit| limit,
                shown: two_decimals,
                shown_limit: go_number,
                recorded: |value| value,
            },
        }
    }
}

/// `%.2f`.
fn two_decimals(value: f64) -> String {
    if value.is_infinite() {
        return go_number(value);
    }
    format!("{value:.2}")
}

/// A Go duration.
fn milliseconds(value: f64) -> String {
    match Duration::try_from_secs_f64(value.abs() / 1000.0) {
        // The way through seconds may lose a nanosecond; whole milliseconds are wanted.
        Ok(duration) => {
            let rounded = Duration::from_millis(
                u64::try_from((duration + Duration::from_micros(500)).as_millis())
                    .unwrap_or(u64::MAX),
            );
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", GoDuration(rounded))
        }
        Err(_) => go_number(value),
    }
}

/// A number for eyes: two decimals, or three digits where two decimals would hide it.
fn plain(value: f64) -> String {
    if value == 0.0 || value.abs() >= 0.01 {
        return two_decimals(value);
    }
    let digits = format!("{value:.2e}");
    digits.parse().map_or(digits, go_number)
}

fn limit_text(kind: MetricKind, limits: Limits) -> Option<String> {
    let scale = Scale::of(kind);
    let shown = |sign: &str, limit: Option<f64>| {
        limit.map(|limit| format!("{sign} {}", (scale.shown_limit)((scale.limit)(limit))))
    };
    match (shown("≥", limits.min), shown("≤", limits.max)) {
        (Some(min), Some(max)) => Some(format!("{min} and {max}")),
        (min, max) => min.or(max),
    }
}

fn no_data(canary: &Canary, query: &MetricQuery, why: &str) -> String {
    match &query.origin {
        Origin::BuiltIn { metrics_provider } => format!(
            "Halt advancement no values found for {metrics_provider} metric {} probably {}.{} is not receiving traffic: {why}",
            query.name,
            canary.target_name(),
            canary.metadata.namespace,
        ),
        Origin::Inline => format!(
            "Halt advancement no values found for metric: {}: {why}",
            query.name
        ),
        Origin::Template { .. } => {
            format!(
                "Halt advancement no values found for custom metric: {}: {why}",
                query.name
            )
        }
    }
}

fn no_answer(query: &MetricQuery, why: &str) -> String {
    let asks_prometheus = query.provider.provider_type == MetricProviderType::Prometheus;
    match query.origin {
        Origin::BuiltIn { .. } if asks_prometheus => format!("Prometheus query failed: {why}"),
        Origin::Inline if asks_prometheus => {
            format!("Prometheus query failed for {}: {why}", query.name)
        }
        _ => format!("Metric query failed for {}: {why}", query.name),
    }
}
