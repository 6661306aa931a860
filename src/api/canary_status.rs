//! `status` of a Canary: Flagger's fields with Flagger's meaning, and our own record of the run.
//!
//! Intent lives here: routes and replicas are brought to what `run` says. All of it is optional, so the status of
//! Flagger or of an older version is read as it is. Flagger's counters are always written, because the printed columns
//! and people's scripts read them; everything else is left out when empty. Points in time are written in whole
//! milliseconds in our own fields, in whole seconds in Flagger's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::canary_analysis::AlertSeverity;
use super::schema;
use super::string_enum::string_enum;
use super::timestamp::{whole_millis, whole_seconds};

/// What was decided and seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryStatus {
    /// Where the canary is between idle and promoted. Empty: not yet looked at.
    pub phase: Phase,
    /// Number of failed checks that count against spec.analysis.threshold in this run.
    #[schemars(schema_with = "schema::number")]
    pub failed_checks: i64,
    /// Share of traffic in percent that is routed to the canary.
    #[schemars(schema_with = "schema::number")]
    pub canary_weight: i64,
    /// Number of rounds passed in this run, for Blue/Green and A/B testing.
    #[schemars(schema_with = "schema::number")]
    pub iterations: i64,
    /// ConfigMaps and Secrets that the target uses, as configmap/NAME and secret/NAME, each with a checksum of its
    /// content. Absent when configs are not tracked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracked_configs: Option<BTreeMap<String, String>>,
    /// Hash of the revision of the target that was last acted upon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_applied_spec: Option<String>,
    /// Hash of the revision of the target that the primary runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_promoted_spec: Option<String>,
    /// When this status was last changed, RFC 3339 in whole seconds.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_seconds"
    )]
    #[schemars(schema_with = "schema::time")]
    pub last_transition_time: Option<Timestamp>,
    /// Cookie, as name=value, that keeps clients on the canary in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity_cookie: Option<String>,
    /// Cookie, as name=value, that keeps clients on the primary in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_session_affinity_cookie: Option<String>,
    /// Cookie, as name=value, of the run before, which is deleted from clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_session_affinity_cookie: Option<String>,
    /// Statements for people and tools, one of each type: Promoted (the last revision was judged good and promoted),
    /// Accepted (the spec can be carried out), Alerting (those who are to be told can be told), Ready, Reconciling and
    /// Stalled (as other controllers use them).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The metadata.generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The run that is under way. Absent when idle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// The revision that the primary runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Promoted>,
    /// The last runs that ended, oldest first, ten at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<RunOutcome>,
    /// What each metric last said, against which limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricStatus>,
    /// Choices that were made where the spec left them open, such as the router and the source of metrics, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub observed: BTreeMap<String, String>,
    /// The last word that a person gave with the annotation serin.dev/command, and what became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandAnswer>,
    /// Set while a person has paused this canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// Set while there is no run and the target is yet to be put to rest: the run before had to leave its pods, or somebody woke its
    /// autoscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
    /// The last alerts about this canary, oldest first, and who was told. Only where somebody is to be told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<AlertRecord>,
    /// How far the clean-up has come when this object is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
}

/// How many entries `history` keeps.
pub const HISTORY_LENGTH: usize = 10;
/// How many values `metrics[].recent` keeps.
pub const RECENT_LENGTH: usize = 10;

impl CanaryStatus {
    /// The condition of a type, when there is one.
    #[must_use]
    pub fn condition(&self, condition_type: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.condition_type == condition_type)
    }

    /// Adds a run that ended and forgets the oldest beyond [`HISTORY_LENGTH`].
    pub fn remember(&mut self, outcome: RunOutcome) {
        self.history.push(outcome);
        let surplus = self.history.len().saturating_sub(HISTORY_LENGTH);
        self.history.drain(..surplus);
    }
}

string_enum! {
    /// Where a canary is between idle and promoted.
    pub enum Phase {
        /// Not yet looked at.
        #[default]
        Unset = "",
        /// The primary is being made.
        Initializing = "Initializing",
        /// The primary serves; nothing was judged yet.
        Initialized = "Initialized",
        /// A run waits for the confirm-rollout gate.
        Waiting = "Waiting",
        /// A run is being judged.
        Progressing = "Progressing",
        /// A run waits for the confirm-promotion gate.
        WaitingPromotion = "WaitingPromotion",
        /// The primary takes over the judged template.
        Promoting = "Promoting",
        /// Traffic is back on the primary, the canary is scaled down.
        Finalising = "Finalising",
        /// The last run ended with its promotion.
        Succeeded = "Succeeded",
        /// The last run ended on the safe side.
        Failed = "Failed",
        /// The object is being deleted and changes are being reverted.
        Terminating = "Terminating",
        /// The clean-up is done. Flagger declares and never sets it.
        Terminated = "Terminated",
    }
}

/// Names of the condition types.
pub mod condition_type {
    /// Flagger's: the last revision was judged good and promoted.
    pub const PROMOTED: &str = "Promoted";
    /// kstatus: all that the spec asks for is done.
    pub const READY: &str = "Ready";
    /// kstatus: work is under way.
    pub const RECONCILING: &str = "Reconciling";
    /// kstatus: work cannot go on without someone's help.
    pub const STALLED: &str = "Stalled";
    /// The spec can be carried out with the router and the target that it names.
    pub const ACCEPTED: &str = "Accepted";
    /// Those who are to be told can be told. Absent where the canary names nobody.
    pub const ALERTING: &str = "Alerting";
}

/// One statement about the canary.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the statement is about, such as Promoted or Ready.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// Whether it holds: True, False or Unknown.
    #[schemars(with = "String")]
    pub status: ConditionStatus,
    /// Why, in one word for tools; for Promoted the phase.
    pub reason: String,
    /// Why, in a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the condition was last written, RFC 3339 in whole seconds.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_seconds"
    )]
    #[schemars(schema_with = "schema::time")]
    pub last_update_time: Option<Timestamp>,
    /// When status last changed from one value to another, RFC 3339 in whole seconds.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_seconds"
    )]
    #[schemars(schema_with = "schema::time")]
    pub last_transition_time: Option<Timestamp>,
    /// The metadata.generation of the spec that the statement speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

string_enum! {
    /// Whether a condition holds.
    pub enum ConditionStatus {
        /// It holds.
        True = "True",
        /// It does not.
        False = "False",
        /// Not known, or not decided yet.
        #[default]
        Unknown = "Unknown",
    }
}

/// The run that is under way: one revision of the target on its way to promotion.
#[allow(
    clippy::struct_excessive_bools,
    reason = "facts that are independent of each other, as fields of an object"
)]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Run {
    /// Identity of the run, unique for this canary.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Number of the run, counted from 1 over the life of this canary.
    pub number: i64,
    /// Hash of the revision of the target that is judged.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Name of the ControllerRevision, or of the Knative Revision, that keeps the judged template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// ConfigMaps and Secrets of the judged revision, each with a checksum of its content.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tracked_configs: BTreeMap<String, String>,
    /// When the run began, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub started_at: Option<Timestamp>,
    /// What the run is doing, finer than the phase.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// Number of the present step, from 0 before the first traffic.
    pub step: i64,
    /// The traffic split that routes are brought to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<RunWeights>,
    /// Whether requests are copied to the canary now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mirrored: bool,
    /// When the present step began, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub step_started_at: Option<Timestamp>,
    /// When the next checks are due, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub next_check_at: Option<Timestamp>,
    /// Whose series each built-in check reads in this run, by check: a row of the table of built-in queries. Chosen at the
    /// first check that had data, and not changed afterwards.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub observers: BTreeMap<String, String>,
    /// Number of rounds of checks made in this run.
    pub checks: i64,
    /// Verdicts of the last rounds, oldest first, true for passed; as many as failureWindow asks for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recent_checks: Vec<bool>,
    /// Since when a metric that the run needs has given no data, RFC 3339. Absent while there is data.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub no_data_since: Option<Timestamp>,
    /// Since when the run waits for what waitingFor names, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub waiting_since: Option<Timestamp>,
    /// What the run waits for, such as a gate or ready pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// When the present wait ends on the safe side, RFC 3339. Absent when it may last for ever.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub deadline_at: Option<Timestamp>,
    /// From when the drain time counts: when the last route change was seen to be applied, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub drain_from: Option<Timestamp>,
    /// Whether traffic was moved away from its step because a side lost its ready pods.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub diverted: bool,
    /// Whether the pre-rollout hooks of this run have passed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pre_rollout_passed: bool,
    /// Whether a person asked to promote without further judging.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_analysis: bool,
    /// What people asked for in this run, each with when and by whom, oldest first, ten at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// What the run is doing and why, in a sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why pods of the side that is waited for, or that failed, did not run, the most frequent first, five at most. Empty while all is well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pod_failures: Vec<PodFailure>,
}

/// One way in which pods failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodFailure {
    /// What the cluster calls it, such as CrashLoopBackOff, ImagePullBackOff, Unschedulable or NotReady.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Name of the container. Absent where it is about the whole pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// How many pods failed so.
    pub pods: i64,
    /// How the container ended last, such as OOMKilled, where that says more than the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated: Option<String>,
    /// Exit code of the container when it ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// What the container or the cluster said last, 200 characters at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A traffic split in percent; the two sum to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunWeights {
    /// Share of the primary in percent.
    #[schemars(with = "i64", range(min = 0, max = 100))]
    pub primary: u32,
    /// Share of the canary in percent.
    #[schemars(with = "i64", range(min = 0, max = 100))]
    pub canary: u32,
}

/// The revision that the primary runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Promoted {
    /// Hash of the promoted revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Name of the ControllerRevision, or of the Knative Revision, that keeps the promoted template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// ConfigMaps and Secrets of the promoted revision, each with a checksum of its content.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tracked_configs: BTreeMap<String, String>,
    /// Keys of configs of former revisions whose copies for the primary are still to be removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stale_configs: Vec<String>,
    /// When the revision was promoted, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub promoted_at: Option<Timestamp>,
    /// Replicas of the primary at its promotion; a primary that was lost is rebuilt with as many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunOutcome {
    /// Number of the run, as it stood in run.number.
    pub number: i64,
    /// Hash of the revision that was judged.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// How it ended, in one word, such as Promoted, RolledBack or Superseded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// Why it ended so, in one sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// When the run began, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub started_at: Option<Timestamp>,
    /// When the run ended, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub ended_at: Option<Timestamp>,
    /// What people asked for in this run, each with when and by whom.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// A person's word and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CommandAnswer {
    /// Digest of the annotation that was answered; the same text is not answered again.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The word, such as abort.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub word: String,
    /// Who gave it, as they said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// When it was given, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub at: Option<Timestamp>,
    /// Why it was asked for, in the words of the one who asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What became of it: Honoured or Refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// What was done, or why not, in a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was answered, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub answered_at: Option<Timestamp>,
}

/// A pause that a person asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pause {
    /// Since when, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub since: Option<Timestamp>,
    /// The one who asked for it, as the annotation says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why it was asked for, in the words of the one who asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Something that people are told, once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AlertRecord {
    /// Identity of the alert, unique for this canary.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// When what it tells of was decided, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub at: Option<Timestamp>,
    /// Severity of the alert: info, warn or error.
    pub severity: AlertSeverity,
    /// Why, in one word for tools; the reason of the event that says the same.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What happened, in a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The phase that the canary went into.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Why it happened, in a sentence with the numbers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// What was measured last, against which limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
    /// Number of the run that it is about; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(schema_with = "schema::number")]
    pub run: i64,
    /// Hash of the revision that it is about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Who is still to be told: providers as NAMESPACE/NAME, or controller for the controller's own channel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// Receivers of this alert that have taken it, as `namespace/name` of their AlertProvider.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<String>,
    /// Who could not be told, each with why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde asks for
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// What a metric last said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricStatus {
    /// Name of the metric in spec.analysis.metrics.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Kind of the backend that was asked, such as prometheus.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// The measured value, as text. Absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The limit that it was held against, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// What follows from it. Empty: not yet judged.
    pub verdict: Verdict,
    /// Why, in a sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was measured, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub at: Option<Timestamp>,
    /// The last values, oldest first, ten at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<String>,
}

string_enum! {
    /// What follows from a measurement.
    pub enum Verdict {
        /// Not yet judged.
        #[default]
        Unset = "",
        /// Within its limits.
        Passed = "Passed",
        /// Outside its limits.
        Failed = "Failed",
        /// The backend answered, without a value.
        NoData = "NoData",
        /// The backend could not be asked, or answered with an error.
        Error = "Error",
    }
}

/// What is left to do until a target without a run is at rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rest {
    /// From when the drain time counts: when the primary was seen to serve all traffic, RFC 3339. Absent while it does not.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub drain_from: Option<Timestamp>,
}

/// How far the clean-up has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Deletion {
    /// When the clean-up began, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub started_at: Option<Timestamp>,
    /// When the clean-up gives up and lets the object go, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub deadline_at: Option<Timestamp>,
    /// From when the drain time counts: when the route change was seen to be applied, RFC 3339.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "whole_millis"
    )]
    #[schemars(schema_with = "schema::time")]
    pub drain_from: Option<Timestamp>,
    /// What the clean-up is doing, in one word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// What the clean-up is doing and why, in a sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
