//! What absent and odd values mean: the effective value of each field that has a default or a bound.
//!
//! Flagger's rules, with two deliberate differences: an interval is honoured from 1 s up (Flagger lifts everything to
//! 10 s), and our own additions have defaults that keep to the safe side.

use std::time::Duration;

use super::canary::{Canary, CanarySpec, FailurePromotion, TargetKind, TargetRef};
use super::canary_analysis::{
    AlertSeverity, CanaryAlert, CanaryAnalysis, CanaryMetric, CanaryWebhook, CrossNamespaceRef,
    FailureMode, HookType, SessionAffinity,
};
use super::canary_service::{CanaryService, IntOrString};
use super::canary_status::{CanaryStatus, Phase};
use super::duration::parse_go_duration;

/// Analysis interval when the text is absent or no duration.
pub const DEFAULT_INTERVAL: Duration = Duration::from_mins(1);
/// Shortest interval that is honoured.
pub const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// Readiness deadline.
pub const DEFAULT_PROGRESS_DEADLINE: Duration = Duration::from_mins(10);
/// Time for one attempt of a hook.
pub const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Span that a query looks back over, as text in queries.
pub const DEFAULT_METRIC_INTERVAL: &str = "1m";
/// Time between a route change and the scaling down of the side that lost its traffic.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(2);
/// Lifetime of affinity cookies in seconds.
pub const DEFAULT_COOKIE_MAX_AGE: i64 = 86_400;
/// Number of promoted templates that are kept.
pub const DEFAULT_REVISION_HISTORY_LIMIT: usize = 10;
/// Number of checks that failure mode `window` looks at.
pub const DEFAULT_FAILURE_WINDOW: usize = 10;
/// Metrics that need neither template nor query.
pub const BUILT_IN_METRICS: &[&str] = &["request-success-rate", "request-duration"];

/// How traffic is moved; derived from the spec, never declared in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Growing shares of traffic.
    Canary,
    /// Requests that meet conditions, for a number of rounds.
    AbTesting,
    /// No traffic (or copies of it) for a number of rounds, then all.
    BlueGreen,
}

impl Strategy {
    /// Flagger's word for it, as it appears in metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::AbTesting => "ab-testing",
            Self::BlueGreen => "blue-green",
        }
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

impl Canary {
    /// Name of the Service that clients call: `spec.service.name`, else the target's name.
    #[must_use]
    pub fn apex_name(&self) -> &str {
        self.spec.apex_name()
    }

    /// Name of the Service in front of the primary.
    #[must_use]
    pub fn primary_service_name(&self) -> String {
        format!("{}-primary", self.apex_name())
    }

    /// Name of the Service in front of the canary.
    #[must_use]
    pub fn canary_service_name(&self) -> String {
        format!("{}-canary", self.apex_name())
    }

    /// Name of the target workload.
    #[must_use]
    pub fn target_name(&self) -> &str {
        &self.spec.target_ref.name
    }

    /// Name of the primary workload.
    #[must_use]
    pub fn primary_name(&self) -> String {
        format!("{}-primary", self.target_name())
    }

    /// The phase in status; [`Phase::Unset`] without a status.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.status
            .as_ref()
            .map_or(Phase::Unset, |status| status.phase)
    }

    /// The status, or an empty one.
    #[must_use]
    pub fn status_or_default(&self) -> CanaryStatus {
        self.status.clone().unwrap_or_default()
    }
}

impl CanarySpec {
    /// Name of the Service that clients call: `service.name`, else the target's name.
    #[must_use]
    pub fn apex_name(&self) -> &str {
        let name = self
            .service
            .as_ref()
            .and_then(|service| service.name.as_deref());
        given(name).unwrap_or(&self.target_ref.name)
    }

    /// The router's name: `provider`, else `flag` (the controller's `-mesh-provider`).
    #[must_use]
    pub fn provider_or<'a>(&'a self, flag: &'a str) -> &'a str {
        given(self.provider.as_deref()).unwrap_or(flag)
    }

    /// The Prometheus address: `metricsServer`, else `flag` (the controller's `-metrics-server`).
    #[must_use]
    pub fn metrics_server_or<'a>(&'a self, flag: &'a str) -> &'a str {
        given(self.metrics_server.as_deref()).unwrap_or(flag)
    }

    /// Longest time to become ready; 600 s when absent or not above 0.
    #[must_use]
    pub fn progress_deadline(&self) -> Duration {
        positive(self.progress_deadline_seconds)
            .map_or(DEFAULT_PROGRESS_DEADLINE, Duration::from_secs)
    }

    /// Whether a new revision is promoted without being judged.
    #[must_use]
    pub fn skip_analysis(&self) -> bool {
        self.skip_analysis.unwrap_or(false)
    }

    /// Whether everything is to be left as it is.
    #[must_use]
    pub fn suspended(&self) -> bool {
        self.suspend.unwrap_or(false)
    }

    /// Whether changes are undone when the Canary is deleted.
    #[must_use]
    pub fn revert_on_deletion(&self) -> bool {
        self.revert_on_deletion.unwrap_or(false)
    }

    /// How traffic is moved.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.analysis.strategy()
    }

    /// How many promoted templates are kept, at least 1.
    #[must_use]
    pub fn revision_history_limit(&self) -> usize {
        positive(self.revision_history_limit)
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(DEFAULT_REVISION_HISTORY_LIMIT)
    }

    /// What happens when the primary does not become ready with the promoted template.
    #[must_use]
    pub fn on_promotion_failure(&self) -> FailurePromotion {
        self.promotion
            .as_ref()
            .and_then(|promotion| promotion.on_failure)
            .unwrap_or_default()
    }

    /// Longest time without data: `analysis.noDataDeadline`, else the greater of the progress deadline and three
    /// intervals.
    #[must_use]
    pub fn no_data_deadline(&self) -> Duration {
        duration(self.analysis.no_data_deadline.as_deref()).unwrap_or_else(|| {
            self.progress_deadline()
                .max(self.analysis.interval().saturating_mul(3))
        })
    }
}

impl TargetRef {
    /// What sort of workload this is. Knative is told by `serving.knative.dev/v1` and `Service`, exactly; an unknown
    /// kind counts as Deployment, as in Flagger.
    #[must_use]
    pub fn target_kind(&self) -> TargetKind {
        match (self.api_version.as_str(), self.kind.as_str()) {
            ("serving.knative.dev/v1", "Service") => TargetKind::Knative,
            (_, "Service") => TargetKind::Service,
            (_, "DaemonSet") => TargetKind::DaemonSet,
            _ => TargetKind::Deployment,
        }
    }
}

impl CanaryAnalysis {
    /// Shortest time that a step lasts: 60 s when absent or no duration, never below 1 s. (Flagger: never below 10 s.)
    #[must_use]
    pub fn interval(&self) -> Duration {
        duration(self.interval.as_deref())
            .unwrap_or(DEFAULT_INTERVAL)
            .max(LEAST_INTERVAL)
    }

    /// Number of failed checks that ends the run, at least 1.
    #[must_use]
    pub fn threshold(&self) -> i64 {
        self.threshold
            .filter(|threshold| *threshold > 0)
            .unwrap_or(1)
    }

    /// Rounds of checks for Blue/Green and A/B testing; 0 for a weighted canary.
    #[must_use]
    pub fn iterations(&self) -> i64 {
        self.iterations.unwrap_or(0).max(0)
    }

    /// The canary's greatest share of traffic in percent: with `stepWeights` the last of them, 100 at most; else
    /// `maxWeight`, where 0 means 100.
    #[must_use]
    pub fn max_weight(&self) -> i64 {
        match (self.step_weights.last(), self.max_weight) {
            (Some(last), _) => (*last).min(100),
            (None, None | Some(0)) => 100,
            (None, Some(weight)) => weight,
        }
    }

    /// Share of traffic that each step adds; 0 when `stepWeights` or `iterations` rule.
    #[must_use]
    pub fn step_weight(&self) -> i64 {
        self.step_weight.unwrap_or(0)
    }

    /// Share of traffic that each step moves back to the primary; 0 means all in one go.
    #[must_use]
    pub fn step_weight_promotion(&self) -> i64 {
        self.step_weight_promotion.unwrap_or(0).max(0)
    }

    /// Whether requests are copied to the canary.
    #[must_use]
    pub fn mirror(&self) -> bool {
        self.mirror.unwrap_or(false)
    }

    /// Share of requests in percent that are copied; `None` when not said, which means all.
    #[must_use]
    pub fn mirror_weight(&self) -> Option<i64> {
        self.mirror_weight.filter(|weight| *weight != 0)
    }

    /// Percentage of the primary's updated pods that must be available.
    #[must_use]
    pub fn primary_ready_threshold(&self) -> i64 {
        self.primary_ready_threshold.unwrap_or(100)
    }

    /// Percentage of the canary's updated pods that must be available.
    #[must_use]
    pub fn canary_ready_threshold(&self) -> i64 {
        self.canary_ready_threshold.unwrap_or(100)
    }

    /// How traffic is moved: `match` with `iterations` is A/B testing, `iterations` alone Blue/Green, else canary.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        match (self.iterations() > 0, self.matches.is_empty()) {
            (true, false) => Strategy::AbTesting,
            (true, true) => Strategy::BlueGreen,
            (false, _) => Strategy::Canary,
        }
    }

    /// Time between a route change that was seen to be applied and the scaling down of the side that lost its traffic.
    #[must_use]
    pub fn drain(&self) -> Duration {
        duration(self.drain.as_deref()).unwrap_or(DEFAULT_DRAIN)
    }

    /// Longest stay at a gate; `None` for as long as it takes.
    #[must_use]
    pub fn gate_timeout(&self) -> Option<Duration> {
        duration(self.gate_timeout.as_deref())
    }

    /// How failed checks are counted.
    #[must_use]
    pub fn failure_mode(&self) -> FailureMode {
        self.failure_mode.unwrap_or_default()
    }

    /// Number of checks that [`FailureMode::Window`] looks at, at least 1.
    #[must_use]
    pub fn failure_window(&self) -> usize {
        positive(self.failure_window)
            .and_then(|checks| usize::try_from(checks).ok())
            .unwrap_or(DEFAULT_FAILURE_WINDOW)
    }

    /// The hooks of a type, in the order of the spec.
    pub fn hooks(&self, kind: HookType) -> impl Iterator<Item = &CanaryWebhook> {
        self.webhooks.iter().filter(move |hook| hook.kind() == kind)
    }
}

impl CanaryService {
    /// Name of the port; `http` when absent.
    #[must_use]
    pub fn port_name(&self) -> &str {
        given(self.port_name.as_deref()).unwrap_or("http")
    }

    /// The container port; the service's own port when absent, 0 or "0".
    #[must_use]
    pub fn target_port(&self) -> IntOrString {
        match &self.target_port {
            Some(IntOrString::Int(number)) if *number != 0 => IntOrString::Int(*number),
            Some(IntOrString::String(name)) if !name.is_empty() && name != "0" => {
                IntOrString::String(name.clone())
            }
            _ => IntOrString::Int(self.port),
        }
    }

    /// Whether all other container ports are offered too.
    #[must_use]
    pub fn port_discovery(&self) -> bool {
        self.port_discovery.unwrap_or(false)
    }

    /// Whether Services are made without a cluster IP.
    #[must_use]
    pub fn headless(&self) -> bool {
        self.headless.unwrap_or(false)
    }

    /// Whether the `VirtualService` is one for others to include.
    #[must_use]
    pub fn delegation(&self) -> bool {
        self.delegation.unwrap_or(false)
    }
}

impl CanaryMetric {
    /// Whether this is one of the metrics that need neither template nor query.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.template_ref.is_none()
            && given(self.query.as_deref()).is_none()
            && BUILT_IN_METRICS.contains(&self.name.as_str())
    }

    /// Span that the query looks back over, as text for the query; `1m` when absent.
    #[must_use]
    pub fn interval_text(&self) -> &str {
        given(self.interval.as_deref()).unwrap_or(DEFAULT_METRIC_INTERVAL)
    }

    /// Span that the query looks back over; 1 m when absent or no duration.
    #[must_use]
    pub fn interval(&self) -> Duration {
        duration(self.interval.as_deref()).unwrap_or(Duration::from_mins(1))
    }
}

impl CanaryWebhook {
    /// When the hook is called; `rollout` when not said.
    #[must_use]
    pub fn kind(&self) -> HookType {
        match self.hook_type {
            None | Some(HookType::Unspecified) => HookType::Rollout,
            Some(kind) => kind,
        }
    }

    /// Longest time for one attempt; 10 s when absent or no duration.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        duration(self.timeout.as_deref()).unwrap_or(DEFAULT_HOOK_TIMEOUT)
    }

    /// Further attempts after a failed one.
    #[must_use]
    pub fn retries(&self) -> u32 {
        positive(self.retries).map_or(0, |retries| u32::try_from(retries).unwrap_or(u32::MAX))
    }

    /// Whether no alert is sent about this hook.
    #[must_use]
    pub fn mute_alert(&self) -> bool {
        self.mute_alert.unwrap_or(false)
    }

    /// Whether the server's certificate goes unverified.
    #[must_use]
    pub fn skip_verify(&self) -> bool {
        self.disable_tls.unwrap_or(false)
    }
}

impl CanaryAlert {
    /// Least severity that is sent; info when absent or empty, as Flagger documents it.
    #[must_use]
    pub fn severity(&self) -> AlertSeverity {
        self.severity
            .filter(|severity| *severity != AlertSeverity::Unspecified)
            .unwrap_or(AlertSeverity::Info)
    }
}

impl CrossNamespaceRef {
    /// Namespace of the object referred to: its own, else `home` (the canary's).
    #[must_use]
    pub fn namespace_or<'a>(&'a self, home: &'a str) -> &'a str {
        given(self.namespace.as_deref()).unwrap_or(home)
    }
}

impl SessionAffinity {
    /// Lifetime of the cookie in seconds; a day when absent or 0.
    #[must_use]
    pub fn max_age(&self) -> i64 {
        self.max_age
            .filter(|seconds| *seconds != 0)
            .unwrap_or(DEFAULT_COOKIE_MAX_AGE)
    }
}

/// An empty text counts as absent, as in Go's types.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn positive(number: Option<i64>) -> Option<u64> {
    number
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| *number > 0)
}

fn duration(text: Option<&str>) -> Option<Duration> {
    parse_go_duration(text?).ok()
}
