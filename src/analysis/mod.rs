//! Judging: what to ask about a canary, and what follows from the answer.
//!
//! ```text
//!   metrics of the canary ─┐
//!   MetricTemplates ───────┼─ queries ─▶ MetricQuery ──(providers, outside)──▶ Measurement ─ judge ─▶ Judgement
//!   built-in queries ──────┘                                                        ▲
//!                                                                   limits ─────────┘
//! ```
//!
//! [`queries`] makes one question of each metric entry, [`judge`] holds the answer against the entry's limits. A value outside
//! of its limits, no data, and no answer are three different things and stay apart. Nothing here does I/O: the rooms outside ask.

pub mod alert;
mod backend;
mod builtin;
mod query;
pub mod sampling;
pub mod template;
mod verdict;

pub use backend::{
    Address, NEEDS, Needs, external_metric, interval_problem, is_region, keptn_parts,
    namespace_asked, needs_of, provider_problems,
};
pub use builtin::{
    DurationUnit, Names, OBSERVERS, Observer, metrics_provider, observer_for, observer_named,
};
pub use query::{
    Limits, MetricFlags, MetricKind, MetricQuery, Origin, ProviderConfig, QueryProblem,
    REQUEST_DURATION, REQUEST_SUCCESS_RATE, SecretName, Sources, queries, queries_over, sources,
};
pub use verdict::{Judgement, Measurement, judge};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
