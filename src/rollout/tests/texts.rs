//! What Serin says is what Flagger says: people have dashboards and alerts that match these words. Each text of Flagger's events
//! (chapter 5.2) and of its `Promoted` condition (chapter 1.5) occurs in a story here, with a reason of its own, or stands in the list of
//! those that are not said, with why.

use super::*;
use crate::rollout::Severity;
use std::collections::{BTreeMap, BTreeSet};

/// Type, shape of the text (`*` for what differs) and Serin's reason. Flagger's reason was always `Synced`.
const SAID: &[(&str, &str, &str)] = &[
    (
        "Normal",
        "skipping canary run as object is suspended",
        "Suspended",
    ),
    ("Normal", "Initialization done! podinfo.test", "Initialized"),
    (
        "Normal",
        "all the metrics providers are available!",
        "MetricsProvidersAvailable",
    ),
    (
        "Warning",
        "Error checking metric providers: *",
        "MetricsProviderUnavailable",
    ),
    (
        "Warning",
        "A/B testing is not supported when using the kubernetes provider",
        "NotSupported",
    ),
    (
        "Warning",
        "Progressive traffic is not supported when using the kubernetes provider",
        "NotSupported",
    ),
    (
        "Warning",
        "Setting canaryAnalysis.iterations: 10",
        "NotSupported",
    ),
    ("Normal", "Confirm-rollout check h passed", "HookPassed"),
    ("Normal", "Pre-rollout check h passed", "HookPassed"),
    (
        "Normal",
        "Confirm-traffic-increase check h passed",
        "HookPassed",
    ),
    ("Normal", "Confirm-promotion check h passed", "HookPassed"),
    ("Normal", "Post-rollout check h passed", "HookPassed"),
    (
        "Normal",
        "New revision detected! Scaling up podinfo.test",
        "NewRevision",
    ),
    (
        "Normal",
        "New revision detected! Restarting analysis for podinfo.test",
        "NewRevision",
    ),
    (
        "Normal",
        "Starting canary analysis for podinfo.test",
        "AnalysisStarted",
    ),
    ("Normal", "Advance podinfo.test canary weight *", "Advanced"),
    (
        "Normal",
        "Advance podinfo.test canary iteration 1/1",
        "Advanced",
    ),
    ("Normal", "Routing all traffic to canary", "Advanced"),
    (
        "Normal",
        "Stop traffic mirroring and route all traffic to canary",
        "Advanced",
    ),
    (
        "Normal",
        "Copying podinfo.test template spec to podinfo-primary.test",
        "Promoting",
    ),
    (
        "Normal",
        "Routing all traffic to primary",
        "RoutingToPrimary",
    ),
    (
        "Normal",
        "Advance podinfo.test primary weight 50",
        "Advanced",
    ),
    (
        "Normal",
        "Advance podinfo.test primary weight 100",
        "RoutingToPrimary",
    ),
    (
        "Normal",
        "Promotion completed! Scaling down podinfo.test",
        "Succeeded",
    ),
    (
        "Normal",
        "Promotion completed! Canary analysis was skipped for podinfo.test",
        "Succeeded",
    ),
    ("Normal", "Terminating canary podinfo.test", "Terminating"),
    ("Normal", "Terminated canary podinfo.test", "Terminated"),
    (
        "Warning",
        "Halt podinfo.test advancement waiting for approval h",
        "GateClosed",
    ),
    (
        "Warning",
        "Halt podinfo.test advancement waiting for promotion approval h",
        "GateClosed",
    ),
    (
        "Warning",
        "Halt podinfo.test advancement waiting for traffic increase approval h",
        "GateClosed",
    ),
    (
        "Warning",
        "Halt podinfo.test advancement pre-rollout check h failed *",
        "CheckFailed",
    ),
    (
        "Warning",
        "Halt podinfo.test advancement external check h failed *",
        "CheckFailed",
    ),
    (
        "Warning",
        "Halt podinfo.test advancement success rate 90.00% < 99%",
        "CheckFailed",
    ),
    (
        "Warning",
        "Halt advancement no values found for * metric request-success-rate probably podinfo.test is not receiving traffic: *",
        "NoData",
    ),
    ("Warning", "Rollback check rollback passed", "RollbackHook"),
    (
        "Warning",
        "Rolling back podinfo.test manual webhook invoked",
        "RollbackRequested",
    ),
    (
        "Warning",
        "Rolling back podinfo.test failed checks threshold reached 2",
        "ThresholdReached",
    ),
    (
        "Warning",
        "Canary failed! Scaling down podinfo.test",
        "RolledBack",
    ),
    (
        "Warning",
        "Promotion of podinfo.test failed, primary not ready: *",
        "PromotionFailed",
    ),
    (
        "Warning",
        "Post-rollout hook h failed *",
        "PostRolloutFailed",
    ),
    (
        "Warning",
        "podinfo-primary.test not ready: waiting for rollout to finish: *",
        "InitializationFailed",
    ),
    (
        "Warning",
        "canary deployment podinfo.test not ready: waiting for rollout to finish: *",
        "Waiting",
    ),
    (
        "Warning",
        "canary deployment podinfo.test not ready: waiting for rollout to finish: *",
        "CanaryNotReady",
    ),
];

/// Texts of Flagger's that are not said, because …
const NOT_SAID: [(&str, &str); 2] = [
    (
        "Rollback hook * not signaling a rollback",
        "it repeats in every interval that nothing happens",
    ),
    (
        "scaling down canary Deployment * failed: *",
        "a write that fails is said by the reason WriteRefused, with the object and what the API server answered",
    ),
];

fn fits(text: &str, shape: &str) -> bool {
    let mut rest = text;
    let mut parts = shape.split('*');
    let Some(found) = rest.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    rest = found;
    let parts: Vec<&str> = parts.collect();
    for (position, part) in parts.iter().enumerate() {
        let last = position + 1 == parts.len();
        if last {
            return part.is_empty() || rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

/// A hook of each kind, all called `h`.
const ALL_HOOKS: [&str; 6] = [
    "confirm-rollout h",
    "pre-rollout h",
    "rollout h",
    "confirm-traffic-increase h",
    "confirm-promotion h",
    "post-rollout h",
];

/// Stories that together say everything.
fn stories() -> Vec<Cluster> {
    let mut stories = Vec::new();

    let mut whole = Cluster::given_canary(&canary(&with_hooks(
        "stepWeight: 50, stepWeightPromotion: 50",
        &ALL_HOOKS,
    )));
    whole
        .given_deployment("podinfo:1")
        .run_until(Phase::Initialized);
    whole.deploy("podinfo:2").run_until_calm();
    whole.deploy("podinfo:3").run_until(Phase::Succeeded);
    whole.run_until_calm();
    whole.edit_canary(|spec| spec["suspend"] = json!(true));
    whole.run_until_calm();
    stories.push(whole);

    for strategy in ["iterations: 1", "iterations: 1, mirror: true"] {
        let mut blue_green = initialised(&format!("{{interval: 10s, threshold: 2, {strategy}}}"));
        blue_green.deploy("podinfo:2").run_until(Phase::Succeeded);
        stories.push(blue_green);
    }

    let mut skipped = initialised_with(&canary_with(
        STEPS,
        ", skipAnalysis: true, revertOnDeletion: true",
    ));
    skipped.deploy("podinfo:2").run_until(Phase::Succeeded);
    skipped.run_until_calm();
    skipped.delete_canary().advance(10);
    assert!(skipped.is_gone());
    stories.push(skipped);

    for kind in [
        "confirm-rollout",
        "confirm-promotion",
        "confirm-traffic-increase",
        "pre-rollout",
        "rollout",
        "post-rollout",
    ] {
        let mut closed = initialised(&with_hooks("stepWeight: 50", &[&format!("{kind} h")]));
        closed.answer_hook("h", refused());
        closed.deploy("podinfo:2").advance(60);
        stories.push(closed);
    }

    let mut asked_back = initialised(&with_hooks("stepWeight: 20", &["rollback rollback"]));
    asked_back.deploy("podinfo:2").run_until_calm();
    asked_back
        .answer_hook("rollback", HookAnswer::Passed)
        .run_until(Phase::Failed);
    stories.push(asked_back);

    stories.push(failed());

    let mut silent = progressing(MEASURED);
    silent
        .answer_metric(SUCCESS_RATE, Measurement::NoData("no series".to_owned()))
        .advance(20);
    stories.push(silent);

    let mut stuck = progressing(STEPS);
    stuck
        .pods("podinfo-primary", Pods::Stuck)
        .run_until(Phase::Failed);
    stories.push(stuck);

    let mut never = Cluster::given_canary(&canary(STEPS));
    never.given_deployment("podinfo:1");
    never.pods("podinfo-primary", Pods::Dead).advance(70);
    stories.push(never);

    let mut late = initialised(STEPS);
    late.pods("podinfo", Pods::Dead);
    late.deploy("podinfo:2").run_until(Phase::Failed);
    stories.push(late);

    for (strategy, backend) in [
        ("stepWeight: 20", Measurement::Value(1.0)),
        (
            "iterations: 1, match: [{headers: {x-user: {exact: insider}}}]",
            Measurement::Error("connection refused".to_owned()),
        ),
    ] {
        let analysis = format!(
            "{{interval: 10s, threshold: 2, {strategy}, metrics: [{{name: request-success-rate, interval: 1m, thresholdRange: {{min: 99}}}}]}}"
        );
        let mut without_mesh =
            Cluster::given_canary(&canary_with(&analysis, ", provider: kubernetes"));
        without_mesh
            .given_deployment("podinfo:1")
            .answer_metric(SUCCESS_RATE, backend)
            .pods("podinfo-primary", Pods::Dead)
            .run_until_calm();
        without_mesh
            .pods_ready("podinfo-primary")
            .run_until(Phase::Initialized);
        stories.push(without_mesh);
    }
    stories
}

#[test]
fn each_event_of_flaggers_is_said_with_a_reason_or_left_out_with_a_why() {
    let told: Vec<(&str, String, &str)> = stories()
        .into_iter()
        .flat_map(|story| story.told)
        .map(|told| {
            let severity = if told.severity == Severity::Info {
                "Normal"
            } else {
                "Warning"
            };
            (severity, told.message, told.reason)
        })
        .collect();
    let missing: Vec<_> = SAID
        .iter()
        .filter(|(severity, shape, reason)| {
            !told
                .iter()
                .any(|(s, text, r)| s == severity && r == reason && fits(text, shape))
        })
        .collect();
    assert!(
        missing.is_empty(),
        "not said: {missing:#?}\nsaid: {:#?}",
        told.iter().collect::<BTreeSet<_>>()
    );
    for (_, _, reason) in &told {
        assert!(
            crate::rollout::reasons::OF_EVENTS
                .iter()
                .chain(&crate::rollout::reasons::OF_CONDITIONS)
                .any(|(name, _)| name == reason),
            "{reason} is not listed"
        );
    }
    for (shape, why) in NOT_SAID {
        assert!(
            !told.iter().any(|(_, text, _)| fits(text, shape)),
            "{shape} is said, though {why}"
        );
    }
}

/// The table of chapter 1.5. Only one text differs: where a failed promotion left the canary running, Flagger's sentence would be false.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn the_promoted_condition_says_flaggers_sentences() {
    let sentences: BTreeMap<Phase, (ConditionStatus, &str)> = [
        (
            Phase::Terminating,
            (
                ConditionStatus::Unknown,
                "New Deployment detected, starting initialization.",
            ),
        ),
        (
            Phase::Initializing,
            (
                ConditionStatus::Unknown,
                "New Deployment detected, starting initialization.",
            ),
        ),
        (
            Phase::Initialized,
            (
                ConditionStatus::True,
                "Deployment initialization completed.",
            ),
        ),
        (
            Phase::Waiting,
            (ConditionStatus::Unknown, "Waiting for approval."),
        ),
        (
            Phase::WaitingPromotion,
            (ConditionStatus::Unknown, "Waiting for approval."),
        ),
        (
            Phase::Progressing,
            (
                ConditionStatus::Unknown,
                "New revision detected, progressing canary analysis.",
            ),
        ),
        (
            Phase::Promoting,
            (
                ConditionStatus::Unknown,
                "Canary analysis completed, starting primary rolling update.",
            ),
        ),
        (
            Phase::Finalising,
            (
                ConditionStatus::Unknown,
                "Canary analysis completed, routing all traffic to primary.",
            ),
        ),
        (
            Phase::Succeeded,
            (
                ConditionStatus::True,
                "Canary analysis completed successfully, promotion finished.",
            ),
        ),
        (
            Phase::Failed,
            (
                ConditionStatus::False,
                "Canary analysis failed, Deployment scaled to zero.",
            ),
        ),
    ]
    .into();
    let at = |phase: Phase| -> Cluster {
        match phase {
            Phase::Initializing => {
                let mut cluster = Cluster::given_canary(&canary(STEPS));
                cluster.given_deployment("podinfo:1");
                cluster.pods("podinfo-primary", Pods::Dead).run_until_calm();
                cluster
            }
            Phase::Initialized => initialised(STEPS),
            Phase::Failed => failed(),
            Phase::Terminating => {
                let mut cluster = initialised_with(&canary_with(STEPS, ", revertOnDeletion: true"));
                cluster.pods("podinfo", Pods::Dead);
                cluster.delete_canary().run_until_calm();
                cluster
            }
            _ => {
                let mut cluster = initialised(&with_hooks(
                    "stepWeight: 50, drain: 20s",
                    &["confirm-rollout first", "confirm-promotion last"],
                ));
                match phase {
                    Phase::Waiting => cluster.answer_hook("first", refused()),
                    Phase::WaitingPromotion => cluster.answer_hook("last", refused()),
                    Phase::Promoting => cluster.pods("podinfo-primary", Pods::Stuck),
                    _ => &mut cluster,
                };
                cluster.deploy("podinfo:2").run_until(phase);
                cluster
            }
        }
    };
    for (phase, (status, sentence)) in sentences {
        let cluster = at(phase);
        assert_eq!(cluster.phase(), phase);
        assert_eq!(
            cluster.condition(condition_type::PROMOTED),
            (status, phase.as_str().to_owned(), sentence.to_owned()),
            "{phase}"
        );
    }
}

/// Each of them is told once, however often the canary is looked at.
#[test]
fn what_a_router_lacks_and_what_backends_say_is_told_once() {
    let mut cluster = stories().pop().unwrap();
    let warning = "A/B testing is not supported when using the kubernetes provider";
    assert_eq!(cluster.times_told(warning), 1);
    assert_eq!(cluster.times_told("Error checking metric providers: "), 1);
    cluster.deploy("podinfo:2").advance(300);
    assert_eq!(cluster.times_told(warning), 1);
    let observed = cluster.status().observed;
    assert_eq!(observed["router"], "kubernetes");
    assert!(observed["spec.analysis.match"].starts_with(warning));
    assert!(
        !observed.contains_key("metricsProviders"),
        "what was said at the start says nothing of later"
    );
    // And again only after it was mended and broken anew.
    cluster.edit_canary(|spec| spec["analysis"]["match"] = json!([]));
    cluster.run_until_calm();
    cluster.edit_canary(|spec| {
        spec["analysis"]["match"] = json!([{"headers": {"a": {"exact": "b"}}}]);
    });
    cluster.run_until_calm();
    assert_eq!(cluster.times_told(warning), 2);
}

#[test]
fn after_a_failed_promotion_the_condition_does_not_say_that_the_canary_is_gone() {
    let mut cluster = progressing(STEPS);
    cluster
        .pods("podinfo-primary", Pods::Stuck)
        .run_until(Phase::Failed);
    cluster.run_until_calm();
    let (status, reason, message) = cluster.condition(condition_type::PROMOTED);
    assert_eq!(
        (status, reason.as_str()),
        (ConditionStatus::False, "Failed")
    );
    assert!(
        message.starts_with("Promotion failed; the canary keeps the traffic"),
        "{message}"
    );
}

/// The texts of the alerts (chapter 5.1), with their severity.
#[test]
fn alerts_say_flaggers_sentences() {
    let table = [
        (
            Severity::Info,
            "New Deployment detected, initialization completed.",
        ),
        (
            Severity::Info,
            "New revision detected, progressing canary analysis.",
        ),
        (Severity::Warn, "Canary is waiting for approval."),
        (Severity::Warn, "Canary promotion is waiting for approval."),
        (
            Severity::Warn,
            "Canary traffic increase is waiting for approval.",
        ),
        (Severity::Warn, "Rolling back manual webhook invoked"),
        (Severity::Error, "Failed checks threshold reached 2"),
        (Severity::Error, "Promotion failed, primary not ready: *"),
        (
            Severity::Info,
            "Canary analysis completed successfully, promotion finished.",
        ),
        (
            Severity::Info,
            "Canary analysis was skipped, promotion finished.",
        ),
        // In Flagger this one can't be reached.
        (Severity::Error, "Progress deadline exceeded *"),
    ];
    let alerts: Vec<(Severity, String)> = stories()
        .into_iter()
        .flat_map(|story| story.told)
        .filter_map(|told| Some((told.severity, told.alert?)))
        .collect();
    for (severity, shape) in table {
        let found: Vec<_> = alerts
            .iter()
            .filter(|(_, text)| fits(text, shape))
            .collect();
        assert!(!found.is_empty(), "{shape} is not sent");
        assert!(
            found.iter().all(|(s, _)| *s == severity),
            "{shape}: {found:?}"
        );
    }
}
