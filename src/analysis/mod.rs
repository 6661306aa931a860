//! Judging: a measurement and its limits become a verdict. What to ask stands in [`MetricQuery`], what came back in
//! [`Measurement`], what follows from it in [`Judgement`].

use crate::api::{Canary, Verdict};
use crate::object::{ObjectRef, Reading};

/// What a metrics backend answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Measurement {
    /// A number, in the unit of the query.
    Value(f64),
    /// The backend answered, without a value; the text says what is known about why.
    NoData(String),
    /// The backend could not be asked, or answered with an error.
    Error(String),
}

/// One question to a metrics backend.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricQuery {
    /// Name of the metric in `spec.analysis.metrics`.
    pub name: String,
}

impl MetricQuery {
    /// Kind of the backend, such as `prometheus`.
    #[must_use]
    pub fn provider_name(&self) -> &'static str {
        "prometheus"
    }
}

/// Why a metric of the canary can't be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryProblem {
    /// It is wrong in itself, or its template is missing: a person must change something.
    Invalid {
        /// Name of the metric.
        metric: String,
        /// Flagger's sentence where it has one.
        message: String,
    },
    /// Its template could not be read just now.
    Unknown(String),
}

/// What follows from a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Flagger's sentence where the metric did not pass.
    pub message: Option<String>,
    /// The value for eyes, such as `98.00%`.
    pub value_text: Option<String>,
    /// The limit for eyes, such as `≥ 99%`.
    pub limit_text: Option<String>,
    /// The value as `flagger_canary_metric_analysis` records it.
    pub recorded: Option<f64>,
}

/// The questions of one round, in Flagger's order: built-in and inline metrics first, then templates.
#[must_use]
pub fn queries(
    _canary: &Canary,
    _mesh_provider: &str,
    _metrics_server: &str,
    _lookup: &dyn Fn(&ObjectRef) -> Reading,
) -> Vec<Result<MetricQuery, QueryProblem>> {
    Vec::new()
}

/// Holds a measurement against the limits of its metric.
#[must_use]
pub fn judge(_canary: &Canary, _query: &MetricQuery, measurement: &Measurement) -> Judgement {
    let (verdict, message) = match measurement {
        Measurement::Value(_) => (Verdict::Passed, None),
        Measurement::NoData(why) => (Verdict::NoData, Some(why.clone())),
        Measurement::Error(why) => (Verdict::Error, Some(why.clone())),
    };
    Judgement {
        verdict,
        message,
        value_text: None,
        limit_text: None,
        recorded: None,
    }
}
