//! What Flagger's own scheduler tests assert, chapter 8.2 of its behaviour. Where Serin differs on purpose the comment says why.

use super::*;

#[test]
fn init_makes_the_primary_and_then_takes_the_target_to_zero() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster.given_deployment("podinfo:1");
    cluster
        .pods("podinfo-primary", Pods::Stuck)
        .run_until_calm();
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    assert_eq!(
        cluster.replicas("podinfo"),
        2,
        "the user's workload serves until the primary can"
    );
    assert_eq!(cluster.split(), None);
    assert_eq!(cluster.apex(), "");

    cluster
        .pods_ready("podinfo-primary")
        .run_until(Phase::Initialized);
    assert_eq!(cluster.replicas("podinfo"), 0);
    assert_eq!(cluster.replicas("podinfo-primary"), 2);
    assert_eq!(cluster.apex(), "podinfo-primary");
    assert_eq!(cluster.split(), Some((100, 0)));
}

#[test]
fn a_new_revision_scales_the_target_to_what_the_primary_has() {
    let cluster = progressing(STEPS);
    assert_eq!(cluster.replicas("podinfo"), 2);
}

#[test]
fn phases_and_weights_of_a_full_step_with_a_stepped_return() {
    let mut cluster =
        initialised("{interval: 10s, threshold: 2, stepWeight: 100, stepWeightPromotion: 50}");
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(
        cluster.journal,
        [
            (Phase::Progressing, 0),
            (Phase::Progressing, 100),
            (Phase::Promoting, 100),
            (Phase::Promoting, 50),
            (Phase::Finalising, 0),
            (Phase::Succeeded, 0),
        ]
    );
    assert_eq!(cluster.splits, [(100, 0), (0, 100), (50, 50), (100, 0)]);
}

/// Steps of an analysis and the primary's weights that they lead through.
#[test]
fn weights_of_the_primary() {
    let table: [(&str, &[i64]); 5] = [
        ("stepWeight: 20, maxWeight: 60", &[100, 80, 60, 40, 100]),
        ("stepWeight: 50", &[100, 50, 0, 100]),
        ("stepWeights: [1, 2, 10, 80]", &[100, 99, 98, 90, 20, 100]),
        ("stepWeights: [1, 2, 10, 200]", &[100, 99, 98, 90, 0, 100]),
        // The greatest weight is compared and not clamped to.
        ("stepWeight: 20, maxWeight: 50", &[100, 80, 60, 40, 100]),
    ];
    for (steps, expected) in table {
        let mut cluster = initialised(&format!("{{interval: 10s, threshold: 2, {steps}}}"));
        cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
        let primary: Vec<i64> = cluster.splits.iter().map(|split| split.0).collect();
        assert_eq!(primary, expected, "{steps}");
    }
}

#[test]
fn given_pods_that_are_replaced_all_at_once_when_promoted_then_the_canary_has_all_traffic_before() {
    let mut cluster = initialised("{interval: 10s, threshold: 2, stepWeight: 20, maxWeight: 40}");
    cluster.edit(&deployment("podinfo"), |target| {
        target["spec"]["strategy"] = serde_json::json!({"type": "Recreate"});
    });
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(
        cluster.splits,
        [(100, 0), (80, 20), (60, 40), (0, 100), (100, 0)]
    );
    assert!(
        cluster.journal.contains(&(Phase::Promoting, 100)),
        "the primary is not touched before: {:?}",
        cluster.journal
    );
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
}

#[test]
fn blue_green_goes_through_its_iterations_then_all_traffic_then_promotion() {
    let mut cluster = initialised("{interval: 10s, threshold: 2, iterations: 2}");
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(
        cluster.journal,
        [
            (Phase::Progressing, 0),
            (Phase::Progressing, 100),
            (Phase::Promoting, 100),
            (Phase::Finalising, 0),
            (Phase::Succeeded, 0),
        ]
    );
    assert!(cluster.has_told("Advance podinfo.test canary iteration 1/2"));
    assert!(cluster.has_told("Advance podinfo.test canary iteration 2/2"));
    assert!(cluster.has_told("Routing all traffic to canary"));
}

#[test]
fn ab_testing_sends_what_matches_to_the_canary_at_once() {
    let mut cluster = initialised(
        "{interval: 10s, threshold: 2, iterations: 2, match: [{headers: {x-user: {exact: insider}}}]}",
    );
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(100, 0), (0, 100), (100, 0)]);
    assert!(cluster.has_told("Advance podinfo.test canary iteration 1/2"));
}

#[test]
fn blue_green_with_a_mirror_copies_requests_until_the_canary_gets_them() {
    let mut cluster = initialised("{interval: 10s, threshold: 2, iterations: 1, mirror: true}");
    let mirrors = |cluster: &Cluster| {
        cluster
            .object(&route())
            .is_some_and(|route| route.at("/spec").to_string().contains("RequestMirror"))
    };
    cluster.deploy("podinfo:2").run_until_calm();
    cluster.advance(1);
    assert!(mirrors(&cluster));
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.run_until(Phase::Succeeded);
    assert!(!mirrors(&cluster));
    assert!(cluster.has_told("Stop traffic mirroring and route all traffic to canary"));
}

#[test]
fn without_a_router_a_rollout_is_blue_green_and_routes_nothing() {
    let mut cluster = initialised_with(&canary_with(
        "{interval: 10s, threshold: 2, iterations: 2}",
        ", provider: kubernetes",
    ));
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(cluster.split(), None);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
    assert_eq!(cluster.replicas("podinfo"), 0);
}

/// The order of 8.2. The three events about metric providers and about a primary that is not ready yet are not told: the first
/// repeats what a healthy system always says, the second what `kubectl rollout status` says better, and both are in the conditions
/// while they hold. `Promotion completed!` comes before the post-rollout hooks, since it is true before they are called.
#[test]
#[allow(clippy::too_many_lines, reason = "a list of events")]
fn event_order_of_a_run_with_every_hook() {
    let analysis = with_hooks(
        "stepWeight: 100, stepWeightPromotion: 50",
        &[
            "confirm-rollout start",
            "pre-rollout smoke",
            "rollout load",
            "confirm-traffic-increase raise",
            "confirm-promotion promote",
            "post-rollout after",
        ],
    );
    let mut cluster = Cluster::given_canary(&canary(&analysis));
    cluster.given_deployment("podinfo:1");
    cluster.run_until(Phase::Initialized);
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    cluster.run_until_calm();
    let told: Vec<(&str, &str, &str)> = cluster
        .told
        .iter()
        .map(|told| (told.message.as_str(), told.reason, told.phase.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (
                "Initialization done! podinfo.test",
                "Initialized",
                "Initialized"
            ),
            (
                "Confirm-rollout check start passed",
                "HookPassed",
                "Initialized"
            ),
            (
                "New revision detected! Scaling up podinfo.test",
                "NewRevision",
                "Progressing"
            ),
            (
                "Starting canary analysis for podinfo.test",
                "AnalysisStarted",
                "Progressing"
            ),
            (
                "Pre-rollout check smoke passed",
                "HookPassed",
                "Progressing"
            ),
            (
                "Confirm-traffic-increase check raise passed",
                "HookPassed",
                "Progressing"
            ),
            (
                "Advance podinfo.test canary weight 100",
                "Advanced",
                "Progressing"
            ),
            (
                "Confirm-traffic-increase check raise passed",
                "HookPassed",
                "Progressing"
            ),
            (
                "Confirm-promotion check promote passed",
                "HookPassed",
                "Progressing"
            ),
            // Flagger still says Progressing here; by then the status says Promoting.
            (
                "Copying podinfo.test template spec to podinfo-primary.test",
                "Promoting",
                "Promoting"
            ),
            (
                "Advance podinfo.test primary weight 50",
                "Advanced",
                "Promoting"
            ),
            (
                "Advance podinfo.test primary weight 100",
                "RoutingToPrimary",
                "Finalising"
            ),
            (
                "Promotion completed! Scaling down podinfo.test",
                "Succeeded",
                "Succeeded"
            ),
            ("Post-rollout check after passed", "HookPassed", "Succeeded"),
        ]
    );
    let calls: Vec<(&str, &str)> = cluster
        .called
        .iter()
        .map(|(name, phase)| (name.as_str(), phase.as_str()))
        .collect();
    assert_eq!(
        calls,
        [
            ("start", "Initialized"),
            ("smoke", "Progressing"),
            ("raise", "Progressing"),
            ("load", "Progressing"),
            ("raise", "Progressing"),
            ("promote", "Progressing"),
            ("after", "Succeeded"),
        ]
    );
}

#[test]
fn event_order_of_a_skipped_analysis() {
    let mut cluster = initialised_with(&canary_with(
        &with_hooks(
            "stepWeight: 10",
            &["pre-rollout smoke", "post-rollout after"],
        ),
        ", skipAnalysis: true",
    ));
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    cluster.run_until_calm();
    assert_eq!(
        cluster.texts(),
        [
            "Normal NewRevision New revision detected! Scaling up podinfo.test",
            "Normal Promoting Copying podinfo.test template spec to podinfo-primary.test",
            "Normal RoutingToPrimary Routing all traffic to primary",
            "Normal Succeeded Promotion completed! Canary analysis was skipped for podinfo.test",
            "Normal HookPassed Post-rollout check after passed",
        ]
    );
    assert_eq!(cluster.splits, [(100, 0)]);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
}

#[test]
fn a_skipped_analysis_succeeds_only_when_the_primary_is_ready() {
    // Flagger says Succeeded without a look at the primary (9.2 A15).
    let mut cluster = initialised_with(&canary_with(STEPS, ", skipAnalysis: true"));
    cluster.pods("podinfo-primary", Pods::Stuck);
    cluster.deploy("podinfo:2").run_until(Phase::Failed);
    cluster.run_until_calm();
    assert_eq!(cluster.split(), Some((0, 100)));
    assert_eq!(cluster.replicas("podinfo"), 2);
}

#[test]
fn as_many_failed_checks_as_the_threshold_end_the_run() {
    let mut cluster = progressing(MEASURED);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
    cluster.advance(10);
    assert_eq!(cluster.status().failed_checks, 1);
    cluster.run_until(Phase::Failed);
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(cluster.replicas("podinfo"), 0);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    assert_eq!(
        cluster.texts()[cluster.told.len() - 4..],
        [
            "Warning CheckFailed Halt podinfo.test advancement success rate 90.00% < 99%",
            "Warning CheckFailed Halt podinfo.test advancement success rate 90.00% < 99%",
            "Warning ThresholdReached Rolling back podinfo.test failed checks threshold reached 2",
            "Warning RolledBack Canary failed! Scaling down podinfo.test",
        ]
    );
}

#[test]
fn a_new_revision_in_mid_run_starts_over_from_no_traffic() {
    let mut cluster = progressing("{interval: 10s, threshold: 2, stepWeight: 10}");
    cluster.advance(1);
    assert_eq!(cluster.split(), Some((90, 10)));
    cluster.forget_the_past();
    cluster.deploy("podinfo:3").run_until_calm();
    assert_eq!(cluster.splits[0], (100, 0));
    assert_eq!(
        cluster.texts()[0],
        "Normal NewRevision New revision detected! Restarting analysis for podinfo.test"
    );
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:3");
    assert_eq!(cluster.outcomes(), ["Superseded", "Promoted"]);
}

#[test]
fn a_primary_that_is_stuck_while_promoting_leaves_the_traffic_on_the_canary() {
    let mut cluster = progressing(STEPS);
    cluster.pods("podinfo-primary", Pods::Stuck);
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    let status = cluster.status();
    assert_eq!((status.phase, status.canary_weight), (Phase::Failed, 100));
    assert_eq!(cluster.split(), Some((0, 100)));
    assert_eq!(cluster.replicas("podinfo"), 2, "the healthy copy stays");
    assert!(cluster.has_told("Promotion of podinfo.test failed, primary not ready: "));
    let promoted = status.condition("Promoted").unwrap();
    let message = promoted.message.as_deref().unwrap();
    assert!(
        message.contains("Release a fixed revision, or set the target back"),
        "both ways out are offered: {message}"
    );
    // The primary gets back what was promoted before, so it can serve again.
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
}

#[test]
fn after_a_failed_promotion_a_fixed_revision_can_follow() {
    // In Flagger it is rolled back on to the broken primary before it starts (9.2 A1).
    for primary in [Pods::Stuck, Pods::Dead] {
        let mut cluster = progressing(STEPS);
        cluster.pods("podinfo-primary", primary);
        cluster.run_until(Phase::Failed);
        cluster.run_until_calm();
        assert_eq!(cluster.split(), Some((0, 100)), "{primary:?}");
        cluster.deploy("podinfo:3").run_until_calm();
        assert_eq!(cluster.phase(), Phase::Progressing, "{primary:?}");
        assert_eq!(cluster.image("podinfo-primary"), "podinfo:1", "{primary:?}");
        cluster
            .pods_ready("podinfo-primary")
            .run_until(Phase::Succeeded);
        assert_eq!(cluster.image("podinfo-primary"), "podinfo:3");
        assert_eq!(cluster.split(), Some((100, 0)));
        assert_eq!(cluster.outcomes().last().unwrap(), "Promoted");
    }
}

/// The primary has no pods at all, so the fixed revision has to be judged where the traffic is.
#[test]
fn after_a_failed_promotion_without_a_primary_the_fixed_revision_is_judged_on_all_traffic() {
    for strategy in ["stepWeight: 20, maxWeight: 40", "iterations: 2"] {
        let mut cluster = progressing(&MEASURED.replace("stepWeight: 20, maxWeight: 40", strategy));
        cluster.pods("podinfo-primary", Pods::Dead);
        cluster.run_until(Phase::Failed);
        cluster.run_until_calm();
        cluster.forget_the_past();
        cluster.answer_metric(SUCCESS_RATE, Measurement::NoData("no series".to_owned()));
        cluster.deploy("podinfo:3").advance(15);
        assert_eq!(
            cluster.phase(),
            Phase::Progressing,
            "{strategy}: nothing is promoted that was not measured"
        );
        cluster
            .answer_metric(SUCCESS_RATE, Measurement::Value(100.0))
            .advance(45);
        assert_eq!(
            cluster.phase(),
            Phase::Promoting,
            "{strategy}: {:?}",
            cluster.texts()
        );
        assert_eq!(
            cluster.splits,
            [(0, 100)],
            "{strategy}: never to a primary without pods"
        );
        cluster
            .pods_ready("podinfo-primary")
            .run_until(Phase::Succeeded);
        assert_eq!(cluster.image("podinfo-primary"), "podinfo:3");
    }
}

#[test]
fn a_primary_that_comes_back_before_the_fixed_revision_was_judged_gets_the_traffic() {
    let mut cluster = progressing(STEPS);
    cluster.pods("podinfo-primary", Pods::Dead);
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    cluster.pods("podinfo", Pods::Stuck);
    cluster.deploy("podinfo:3").advance(5);
    cluster.forget_the_past();
    cluster.pods_ready("podinfo-primary").run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.pods_ready("podinfo").run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(100, 0), (80, 20), (60, 40), (100, 0)]);
}

#[test]
fn on_promotion_failure_rollback_goes_back_to_the_former_template() {
    let mut cluster = initialised_with(&canary_with(STEPS, ", promotion: {onFailure: rollback}"));
    cluster.deploy("podinfo:2").run_until_calm();
    cluster.pods("podinfo-primary", Pods::Stuck);
    cluster.run_until(Phase::Failed);
    cluster.advance(30);
    assert_eq!(cluster.phase(), Phase::Failed);
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    assert_eq!(cluster.replicas("podinfo"), 0);
}
