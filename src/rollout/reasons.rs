//! The reasons that conditions and events carry. They are stable: people match on them in alerts and scripts. `docs/status.md` lists them,
//! as `make docs-reference` writes it; a reason that is not listed here does not get past a test that meets it.

/// A reason and what it means.
pub type Reason = (&'static str, &'static str);

/// Reasons of conditions, beside the phases.
pub const OF_CONDITIONS: [Reason; 27] = [
    ("Accepted", "the spec can be carried out"),
    ("NotStalled", "work goes on by itself, or there is none"),
    (
        "Suspended",
        "`spec.suspend` is true: everything is left as it is",
    ),
    (
        "Paused",
        "a person has paused the canary: no step is taken and no run started until `resume`",
    ),
    (
        "InvalidSpec",
        "a field has a value that can't be worked with; the message names field, value and what would be right",
    ),
    (
        "MetricsInvalid",
        "a metric can't be asked: its template is missing or lacks what its backend needs; the message names the field. A run that is under way holds",
    ),
    (
        "TargetNotFound",
        "the object that `spec.targetRef` names does not exist",
    ),
    (
        "TargetUnfit",
        "the target, or a Service beside it, has a shape that can't be worked with, lacks a config that it needs, or belongs to somebody else",
    ),
    ("TargetClaimed", "an older canary controls the same target"),
    ("ApexClaimed", "an older canary has the same apex Service"),
    (
        "PrimaryNotOurs",
        "an object with the primary's name belongs to somebody else",
    ),
    (
        "PrimaryNotReady",
        "the first primary did not become ready; the user's workload serves on",
    ),
    (
        "PrimaryNotServing",
        "the primary has no ready endpoints, and somebody led requests to the canary, which has: the route is left until the primary is back",
    ),
    (
        "ProviderNotSupported",
        "`spec.provider` names a router that Serin does not have",
    ),
    (
        "RouterCannotExpress",
        "the router can't do what the spec asks for, and nothing near it would be right",
    ),
    (
        "RouteNotFound",
        "a route that `spec.routeRef` or `spec.ingressRef` names does not exist; nothing is changed until it does",
    ),
    (
        "RouteNotReadable",
        "a route that `spec.routeRef` names can't be read; the message says which rule the controller's role needs",
    ),
    (
        "RouteUnfit",
        "a route that `spec.routeRef` or `spec.ingressRef` names does not lead to the sides as it must; nothing is changed until it does",
    ),
    (
        "RouteNotWritable",
        "the route can't be written as it should be; the message says why",
    ),
    (
        "ConfigUnfit",
        "the primary's copy of a ConfigMap or Secret can't be written",
    ),
    (
        "AutoscalerUnfit",
        "the primary's autoscaler can't be made from the user's",
    ),
    (
        "KeptRevisionUnusable",
        "the ControllerRevision that keeps a template can't be read or written",
    ),
    (
        "WriteRefused",
        "the API server refuses a write (a right is missing, a policy denies it); tried again every 30 s",
    ),
    (
        "StatusPruned",
        "the Canary CRD of the cluster drops fields of status: install Serin's",
    ),
    (
        "AlertsReady",
        "each AlertProvider that the canary names is there and has an address",
    ),
    (
        "AlertProviderUnfit",
        "an AlertProvider that the canary names is missing, or lacks its address; the rollout goes on",
    ),
    (
        "Failed",
        "the last run failed, or was never needed because the first primary did not come up; a new revision starts the next run",
    ),
];

/// Reasons of events, beside those of conditions that refuse or stall a canary, which are events too.
pub const OF_EVENTS: [Reason; 44] = [
    ("Initialized", "the primary serves"),
    (
        "InitializationFailed",
        "the first primary is past its deadline; the user's workload serves on",
    ),
    (
        "MetricsProvidersAvailable",
        "each metrics backend answered when it was looked for, once, during the initialisation",
    ),
    (
        "MetricsProviderUnavailable",
        "a metrics backend did not answer then; nothing follows from it",
    ),
    (
        "NotSupported",
        "the router lacks something that the spec asks for, and the rollout goes on without it",
    ),
    (
        "ConfigShared",
        "a config that somebody else rotates is shared by both sides, not copied",
    ),
    (
        "Adopted",
        "a canary of Flagger's is taken over where it stands",
    ),
    ("NewRevision", "a run begins, or begins anew"),
    (
        "Queued",
        "as many runs as `-max-runs` allows are under way; the canary waits for its turn",
    ),
    ("AnalysisStarted", "the first checks are about to be made"),
    ("Advanced", "a step was taken"),
    ("CheckFailed", "a check failed and counts"),
    ("NoData", "nothing can be measured; the step is held"),
    (
        "NoDataDeadline",
        "nothing could be measured for too long; the run is rolled back",
    ),
    (
        "Waiting",
        "pods or the route are waited for; the run is held",
    ),
    ("HookPassed", "a hook answered with success"),
    ("GateClosed", "a hook of a gate holds the run"),
    (
        "GateTimedOut",
        "a gate stayed closed beyond `spec.analysis.gateTimeout`",
    ),
    ("RollbackHook", "a rollback hook answered with success"),
    (
        "Command",
        "a person's word (annotation `serin.dev/command`) is carried out",
    ),
    (
        "CommandRefused",
        "a person's word is not carried out; the message says why",
    ),
    ("Aborted", "a person has ended the run; it is rolled back"),
    ("RollbackRequested", "the run is rolled back for it"),
    (
        "ThresholdReached",
        "as many checks failed as the threshold allows; the run is rolled back",
    ),
    (
        "CanaryNotReady",
        "the canary is past its deadline; the run is rolled back",
    ),
    (
        "PrimaryLost",
        "the primary has no ready endpoints for longer than the progress deadline; the run is rolled back",
    ),
    (
        "RouteNotApplied",
        "the gateway did not take the route within the progress deadline; the run is rolled back",
    ),
    (
        "HeldOnCanary",
        "the primary did not come back, so the canary keeps the traffic",
    ),
    (
        "PodsFailing",
        "why pods that are waited for, or that failed, don't run",
    ),
    (
        "RolledBack",
        "the run has failed: the canary is scaled down",
    ),
    (
        "Reverted",
        "the target was set back to what is promoted; the run is over",
    ),
    (
        "TrafficDiverted",
        "a side can't keep its traffic; the other side gets all of it",
    ),
    (
        "TrafficRestored",
        "both sides serve again; the split of the step is back",
    ),
    (
        "RouteDrift",
        "somebody changed the split by hand; it is set back",
    ),
    ("Promoting", "the primary takes the judged template"),
    (
        "RoutingToPrimary",
        "all traffic goes to the promoted primary",
    ),
    (
        "PromotionFailed",
        "the promoted primary did not become ready",
    ),
    ("Succeeded", "the run ended with its promotion"),
    (
        "PostRolloutFailed",
        "a post-rollout hook did not succeed; nothing follows from it",
    ),
    (
        "Terminating",
        "the canary is being deleted, what it changed is given back",
    ),
    ("Terminated", "that is done"),
    ("Suspended", "`spec.suspend` was set"),
    (
        "AlertNotSent",
        "an alert could not be sent, and that was given up; the message says whom to and why",
    ),
    (
        "InternalError",
        "a pass over this canary broke off; it is tried again",
    ),
];

/// Whether a condition may carry this reason.
pub(super) fn is_of_condition(reason: &str) -> bool {
    reason.parse::<crate::api::Phase>().is_ok()
        || OF_CONDITIONS.iter().any(|(name, _)| *name == reason)
}

/// Whether an event may carry this reason.
pub(super) fn is_of_event(reason: &str) -> bool {
    OF_EVENTS
        .iter()
        .chain(&OF_CONDITIONS)
        .any(|(name, _)| *name == reason)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_that_the_code_names_is_listed() {
        // Reasons are told apart from other words by where they stand.
        let sources = [
            include_str!("view.rs"),
            include_str!("converge.rs"),
            include_str!("pass.rs"),
            include_str!("pass/adopt.rs"),
            include_str!("pass/analyse.rs"),
            include_str!("pass/command.rs"),
            include_str!("pass/gates.rs"),
            include_str!("pass/hold.rs"),
            include_str!("pass/idle.rs"),
            include_str!("pass/initialise.rs"),
            include_str!("pass/observe.rs"),
            include_str!("pass/promote.rs"),
            include_str!("pass/reasons.rs"),
            include_str!("pass/rollback.rs"),
            include_str!("pass/tell.rs"),
            include_str!("pass/terminate.rs"),
            include_str!("../controller/mod.rs"),
        ];
        let mut named = 0;
        for source in sources {
            let source = source.split_whitespace().collect::<Vec<_>>().join(" ");
            for before in [
                "Severity::Info, \"",
                "Severity::Warn, \"",
                "Severity::Error, \"",
                "reason: \"",
                "self.refuse(\"",
            ] {
                for found in source.split(before).skip(1) {
                    let reason = found.split('"').next().unwrap();
                    assert!(
                        is_of_event(reason),
                        "{reason} is not listed in src/rollout/reasons.rs"
                    );
                    named += 1;
                }
            }
        }
        assert!(
            named > 40,
            "only {named} reasons found: does the test still read the code?"
        );
    }
}
