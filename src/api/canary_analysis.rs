//! `spec.analysis`: steps, limits, metrics, gates and alerts of a run.
//!
//! The doc comment of each field is also its description in the CRD, what `kubectl explain` shows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::canary_service::StringMatch;
use super::schema;
use super::string_enum::string_enum;

/// How a new revision is judged.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = [
    { "required": ["interval", "threshold", "iterations"] },
    { "required": ["interval", "threshold", "stepWeight"] },
    { "required": ["interval", "threshold", "stepWeights"] }
]))]
pub struct CanaryAnalysis {
    /// Shortest time that a step lasts, and how often its checks are made, such as 30s or 1m. Honoured from 1s up.
    /// Default: 1m, also for a text that is no duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::period")]
    pub interval: Option<String>,

    /// Number of rounds of checks at full strength, for Blue/Green and, together with match, for A/B testing. A whole
    /// number. Default: 0, a weighted canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub iterations: Option<i64>,

    /// Number of failed checks that ends the run with a rollback, counted as failureMode says. A whole number; 0 and
    /// less count as 1. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub threshold: Option<i64>,

    /// Share of traffic in percent that the canary gets at most; when it is reached and the checks pass, promotion
    /// begins. A whole number. Default: 100; with stepWeights always the last of them, 100 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub max_weight: Option<i64>,

    /// Share of traffic in percent that each step moves to the canary. A whole number. Default: none, then stepWeights
    /// or iterations says how a run goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub step_weight: Option<i64>,

    /// The canary's share of traffic at each step in percent, ascending, such as 1, 5, 25, 50. Whole numbers. Default:
    /// none, then stepWeight or iterations says how a run goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::numbers")]
    pub step_weights: Vec<i64>,

    /// Share of traffic in percent that each step moves back to the primary once it carries the new revision. A whole
    /// number. Default: 0, all in one go.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub step_weight_promotion: Option<i64>,

    /// Send the canary a copy of requests, whose answers are thrown away, before it gets traffic of its own; with
    /// Blue/Green for the whole run. Only for requests that may safely be made twice. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<bool>,

    /// Share of requests in percent that are copied when mirror is true. A whole number. Default: 0, which means all
    /// of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub mirror_weight: Option<i64>,

    /// Percentage of the primary's updated pods that must be available for it to count as ready. A whole number.
    /// Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub primary_ready_threshold: Option<i64>,

    /// Percentage of the canary's updated pods that must be available for it to count as ready. A whole number.
    /// Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub canary_ready_threshold: Option<i64>,

    /// A/B testing: requests that meet any of these conditions go to the canary, all others to the primary. Counts
    /// only together with iterations. Default: none.
    #[serde(rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<AnalysisMatch>,

    /// What is measured at every check, each with the limits it must keep. Default: none, then only hooks judge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<CanaryMetric>,

    /// HTTP calls that start load, run tests, ask for approval or take events. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<CanaryWebhook>,

    /// Channels that are told about this canary. With any entry here the controller's own channel stays silent
    /// about it. Default: none, then the controller's channel is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<CanaryAlert>,

    /// Keep each client on the side it was first sent to, by a cookie. For Istio and Gateway API. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,

    /// Time between a route change that was seen to be applied and the scaling down of pods on the side that lost its
    /// traffic, such as 2s, so that open requests can end. Default: 2s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub drain: Option<String>,

    /// Longest time that a run may go on without any data from a metric it needs, such as 10m; then the run ends on
    /// the safe side. Default: the greater of progressDeadlineSeconds and three intervals.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub no_data_deadline: Option<String>,

    /// Longest time that a run may wait at a gate (a confirm hook) before it ends on the safe side, such as 24h.
    /// Default: none, a gate may wait for ever and says since when it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub gate_timeout: Option<String>,

    /// How failed checks are counted against threshold: cumulative counts all of the run, consecutive only those in a
    /// row, window those among the last failureWindow checks. Default: cumulative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_mode: Option<FailureMode>,

    /// Number of latest checks that failureMode window looks at, from 1. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub failure_window: Option<i64>,
}

string_enum! {
    /// How failed checks are counted against the threshold.
    pub enum FailureMode {
        /// All failed checks of the run, as Flagger counts.
        #[default]
        Cumulative = "cumulative",
        /// Failed checks in a row; a passed check starts over.
        Consecutive = "consecutive",
        /// Failed checks among the last `failureWindow`.
        Window = "window",
    }
}

/// One condition of an A/B test: all that is given must be met.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AnalysisMatch {
    /// Request headers by lower-case name, each with what its value must be. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderMatch>,
    /// Query parameters by name, each with what its value must be. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query_params: BTreeMap<String, StringMatch>,
    /// Labels that the calling pods must carry. Needs the gateway mesh in service.gateways. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub source_labels: BTreeMap<String, String>,
}

/// What a header's value must be: exactly one of the four.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = schema::exactly_one(&["exact", "prefix", "suffix", "regex"])))]
pub struct HeaderMatch {
    /// The value must be this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// The value must begin with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The value must end with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// The value must match this RE2 expression as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// One measurement with its limits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanaryMetric {
    /// Name of the metric. request-success-rate (percent) and request-duration (milliseconds) are built in; any other
    /// name needs templateRef or query.
    pub name: String,
    /// Span of time that the query looks back over, such as 1m. Default: 1m for built-in metrics and inline queries,
    /// none for templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::period")]
    pub interval: Option<String>,
    /// Older form of the limit, in the metric's unit: for request-success-rate the least value accepted, for all others
    /// the greatest. Counts only without thresholdRange. Default: none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "plain_number"
    )]
    #[schemars(schema_with = "schema::number")]
    pub threshold: Option<f64>,
    /// Limits of the measured value, in the metric's unit. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_range: Option<ThresholdRange>,
    /// Older form of a custom metric: a PromQL query that is sent to the metrics server. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The MetricTemplate that gives provider and query. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_ref: Option<CrossNamespaceRef>,
    /// Variables that the template's query can use, by name. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub template_variables: BTreeMap<String, String>,
}

/// Limits of a measured value.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ThresholdRange {
    /// Least value accepted, in the metric's unit; the limit itself passes. Default: no lower limit.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "plain_number"
    )]
    #[schemars(schema_with = "schema::number")]
    pub min: Option<f64>,
    /// Greatest value accepted, in the metric's unit; the limit itself passes. Default: no upper limit.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "plain_number"
    )]
    #[schemars(schema_with = "schema::number")]
    pub max: Option<f64>,
}

/// Writes `99` rather than `99.0`, the way manifests do.
#[allow(clippy::ref_option)] // the signature that serde asks for
fn plain_number<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(number) = number else {
        return serializer.serialize_none();
    };
    match serde_json::Number::from_f64(*number).and_then(|number| super::decode::whole(&number)) {
        Some(whole) => whole.serialize(serializer),
        None => serializer.serialize_f64(*number),
    }
}

/// A reference to an object that may live in another namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CrossNamespaceRef {
    /// Name of the object referred to.
    pub name: String,
    /// Namespace of the object referred to. Default: the namespace of the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// One HTTP call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanaryWebhook {
    /// Name of the hook, as it appears in events and in the request.
    pub name: String,
    /// When the hook is called: confirm-rollout before a run, pre-rollout before the first traffic, rollout at every
    /// check, confirm-traffic-increase before every step, confirm-promotion before the promotion, post-rollout after
    /// the run, rollback to ask whether to go back at once, event with every event. Default: rollout.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub hook_type: Option<HookType>,
    /// Send no alert about this hook. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mute_alert: Option<bool>,
    /// Address that the hook is posted to. The answers 200, 201 and 202 are a yes.
    pub url: String,
    /// Longest time that one attempt may take, such as 30s. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::period")]
    pub timeout: Option<String>,
    /// How many more attempts are made after one that could not connect or got 429 or 5xx. A whole number. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number")]
    pub retries: Option<i64>,
    /// Do not verify the server's certificate. Default: false.
    #[serde(
        rename = "disableTLS",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub disable_tls: Option<bool>,
    /// Texts that are sent along in the request, by key. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

string_enum! {
    /// When a hook is called.
    pub enum HookType {
        /// Not said; means `rollout`. [`CanaryWebhook::kind`] never gives this one.
        #[default]
        Unspecified = "",
        /// Gate before a run begins.
        ConfirmRollout = "confirm-rollout",
        /// Test before the canary gets any traffic.
        PreRollout = "pre-rollout",
        /// At every check of the run.
        Rollout = "rollout",
        /// Gate before the promotion.
        ConfirmPromotion = "confirm-promotion",
        /// After the run has ended.
        PostRollout = "post-rollout",
        /// With every event.
        Event = "event",
        /// A yes rolls back at once.
        Rollback = "rollback",
        /// Gate before every step and before the promotion.
        ConfirmTrafficIncrease = "confirm-traffic-increase",
    }
}

/// One chat channel that is told about this canary.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanaryAlert {
    /// Name of the alert, for people.
    pub name: String,
    /// Least severity that is sent: info sends everything, warn only warnings and errors, error only failed runs.
    /// Default: info.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<AlertSeverity>,
    /// The AlertProvider that gives address and form of the messages.
    pub provider_ref: CrossNamespaceRef,
    /// Text of the messages about this canary, in place of the provider's template. Default: the provider's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

string_enum! {
    /// How grave a message is.
    pub enum AlertSeverity {
        /// Not said; means info. [`CanaryAlert::severity`] never gives this one.
        #[default]
        Unspecified = "",
        /// Everything.
        Info = "info",
        /// Warnings and errors.
        Warn = "warn",
        /// Failed runs only.
        Error = "error",
    }
}

/// Cookie that keeps a client on the side it was first sent to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionAffinity {
    /// Name of the cookie that keeps clients on the canary.
    pub cookie_name: String,
    /// Name of the cookie that keeps clients on the primary; must differ from cookieName. Default: none, then clients
    /// of the primary may move to the canary as its share grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_cookie_name: Option<String>,
    /// Domain attribute of the cookie: the host that gets it back. Default: the host that set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// HttpOnly attribute: scripts in the page cannot read the cookie. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_only: Option<bool>,
    /// Max-Age attribute: seconds until the cookie expires. A whole number; 0 also means the default. Default: 86400,
    /// a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number", extend("x-default" = 86400))]
    pub max_age: Option<i64>,
    /// Partitioned attribute: the cookie is kept apart for each top-level site. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitioned: Option<bool>,
    /// Path attribute: the cookie is sent only for paths below this one. Default: the path that set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// SameSite attribute: whether requests from other sites carry the cookie. Default: the browser's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_site: Option<SameSite>,
    /// Secure attribute: the cookie is sent over HTTPS only, localhost excepted. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
}

string_enum! {
    /// Whether requests from other sites carry the cookie.
    pub enum SameSite {
        /// Never.
        Strict = "Strict",
        /// Only when the user follows a link.
        #[default]
        Lax = "Lax",
        /// Always; needs Secure.
        None = "None",
    }
}
