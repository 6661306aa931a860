//! What a decision needs to know from outside: measurements, the answers of hooks, and why pods don't run. A need has a key that is the same in every
//! pass of the same check, so that a question is asked once and its answer finds its place.

use super::snapshot::ListRef;
use crate::analysis::{Measurement, MetricQuery};
use crate::api::PodFailure;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A question, to be asked concurrently with others and with a deadline.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// The same in each pass of one check, different in the next check.
    pub key: String,
    /// What to ask.
    pub request: Request,
}

/// What to ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// A metrics query.
    Metric(Box<MetricQuery>),
    /// Which series there are for the built-in checks, a metrics query whose answer is a [`Finding::Metric`] too.
    Sources(Box<MetricQuery>),
    /// A webhook call.
    Hook(Box<HookCall>),
    /// Whether the backend of a metric can be reached.
    Probe(Box<MetricQuery>),
    /// Why the pods of one side don't run: one list of at most [`crate::workload::pods::MOST_PODS`] of them.
    Pods(Box<ListRef>),
}

/// A call of one webhook of the canary, by chapter 2.8 of Flagger's behaviour.
#[derive(Clone, Debug, PartialEq)]
pub struct HookCall {
    /// Name of the hook in the canary.
    pub name: String,
    /// Where to post.
    pub url: String,
    /// Time for one attempt.
    pub timeout: Duration,
    /// Additional attempts after the first.
    pub retries: u32,
    /// `disableTLS`: the server's certificate is not verified.
    pub skip_tls_verification: bool,
    /// The body.
    pub payload: HookPayload,
}

/// Body of a webhook call, field for field Flagger's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HookPayload {
    /// Name of the canary.
    pub name: String,
    /// Namespace of the canary.
    pub namespace: String,
    /// Phase, for example `Progressing`.
    pub phase: String,
    /// Changes when the revision or the tracked configs change.
    pub checksum: String,
    /// The hook's own metadata.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Of a metrics query.
    Metric {
        /// What was measured.
        measurement: Measurement,
        /// When.
        at: Timestamp,
    },
    /// Of a webhook.
    Hook(HookAnswer),
    /// Of a metrics backend; the text says what is wrong.
    Probe(Result<(), String>),
    /// Of a list of pods; the text says why there was no answer.
    Pods(Result<Vec<PodFailure>, String>),
}

/// How a webhook answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookAnswer {
    /// Status 200, 201 or 202.
    Passed,
    /// Another status; the text is the bounded body or what stands for it.
    Refused(String),
    /// No answer could be had; the text says why.
    Unreachable(String),
}
