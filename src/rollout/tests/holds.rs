//! What a run waits for, how long, and what counts as a failed check.

use super::*;

/// What a metric answered, and what becomes of the run: failed checks, and whether it waits for data.
#[test]
fn a_failed_check_no_data_and_no_answer_are_three_things() {
    let table = [
        (Measurement::Value(99.5), "Passed", 0, false),
        (Measurement::Value(90.0), "Failed", 1, false),
        (
            Measurement::NoData("no series".to_owned()),
            "NoData",
            0,
            true,
        ),
        (Measurement::Error("503".to_owned()), "Error", 0, true),
    ];
    for (answer, verdict, failed_checks, waits) in table {
        let mut cluster = progressing(MEASURED);
        cluster.advance(1);
        assert_eq!(cluster.split(), Some((80, 20)));
        cluster
            .answer_metric(SUCCESS_RATE, answer.clone())
            .advance(10);
        if waits {
            // New pods may not have been scraped yet: the first silent round is passed over.
            assert_eq!(cluster.status().run.unwrap().no_data_since, None);
            cluster.advance(10);
        }
        let status = cluster.status();
        let run = status.run.clone().unwrap();
        assert_eq!(status.metrics[0].verdict.as_str(), verdict);
        assert_eq!(status.failed_checks, failed_checks, "{answer:?}");
        assert_eq!(run.no_data_since.is_some(), waits, "{answer:?}");
        assert_eq!(
            run.waiting_for.as_deref() == Some("metric request-success-rate"),
            waits
        );
        let moved = verdict == "Passed";
        assert_eq!(cluster.split() == Some((60, 40)), moved, "{answer:?}");
    }
}

/// What a silent round says is written once, however often it is looked at before the next.
#[test]
fn a_silent_round_is_written_down_once() {
    let silent = [
        "{name: request-duration, interval: 1m, thresholdRange: {max: 500}}",
        "{name: broken, templateRef: {name: nowhere}, thresholdRange: {min: 1}}",
    ];
    for metric in silent {
        let analysis = MEASURED.replace("metrics: [", &format!("metrics: [{metric}, "));
        let mut cluster = initialised(&analysis);
        cluster.answer_metric(
            "request-duration",
            Measurement::NoData("no series".to_owned()),
        );
        cluster.deploy("podinfo:2").advance(1);
        assert_eq!(cluster.split(), Some((80, 20)));
        cluster.status_writes = 0;
        cluster.advance(10);
        assert_eq!(cluster.status_writes, 1, "{metric}");
        for _ in 0..4 {
            cluster.advance(2);
        }
        assert_eq!(cluster.status_writes, 1, "{metric}");
        let measured = &cluster.status().metrics;
        assert_eq!(measured.len(), 2, "{measured:?}");
        assert!(
            measured.iter().all(|metric| metric.recent.len() < 2),
            "what was measured once counts once: {measured:?}"
        );
    }
}

#[test]
fn a_hook_that_can_not_be_reached_is_no_failed_check() {
    let table = [
        (HookAnswer::Passed, 0, false),
        (refused(), 1, false),
        (unreachable(), 0, true),
    ];
    for kind in ["pre-rollout", "rollout"] {
        for (answer, failed_checks, waits) in table.clone() {
            let mut cluster =
                initialised(&with_hooks("stepWeight: 20", &[&format!("{kind} test")]));
            cluster.answer_hook("test", answer.clone());
            cluster.deploy("podinfo:2").advance(12);
            if waits {
                cluster.advance(10);
            }
            let status = cluster.status();
            let one_more = i64::from(kind == "pre-rollout" && failed_checks > 0);
            // The pre-rollout hook is asked at once, so it has refused twice by now; two are the threshold.
            if one_more > 0 {
                assert_ne!(status.phase, Phase::Succeeded);
                assert_eq!(
                    cluster.times_told("pre-rollout check test failed not yet"),
                    2
                );
                continue;
            }
            assert_eq!(status.failed_checks, failed_checks, "{kind} {answer:?}");
            assert_eq!(
                status.run.unwrap().no_data_since.is_some(),
                waits,
                "{kind} {answer:?}"
            );
        }
    }
}

#[test]
fn data_that_come_back_end_the_wait() {
    let mut cluster = progressing(MEASURED);
    cluster.answer_metric(SUCCESS_RATE, Measurement::NoData("no series".to_owned()));
    cluster.advance(35);
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
    cluster.advance(10);
    assert_eq!(cluster.split(), Some((60, 40)));
    assert_eq!(cluster.status().run.unwrap().no_data_since, None);
}

#[test]
fn without_data_beyond_the_deadline_the_run_ends_on_the_safe_side() {
    let mut cluster = initialised(
        "{interval: 10s, threshold: 2, stepWeight: 20, noDataDeadline: 45s, \
         metrics: [{name: request-success-rate, interval: 1m, thresholdRange: {min: 99}}]}",
    );
    cluster.answer_metric(SUCCESS_RATE, Measurement::Error("503".to_owned()));
    cluster.deploy("podinfo:2").advance(40);
    assert_eq!(cluster.phase(), Phase::Progressing);
    cluster.advance(20);
    assert_eq!(cluster.phase(), Phase::Failed);
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(cluster.replicas("podinfo"), 0);
    assert_eq!(cluster.times_told("Nothing could be measured for 45s"), 1);
    assert_eq!(cluster.outcomes(), ["RolledBack"]);
}

#[test]
fn the_time_in_which_the_controller_was_away_is_not_time_without_data() {
    let mut cluster = progressing(MEASURED);
    cluster.answer_metric(SUCCESS_RATE, Measurement::NoData("no series".to_owned()));
    cluster.sleep(3600).run_until_calm();
    cluster.advance(20);
    assert_eq!(cluster.phase(), Phase::Progressing);
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
    cluster.run_until(Phase::Succeeded);
}

/// Each gate, with and without a longest stay.
#[test]
fn a_gate_waits_for_ever_or_until_its_timeout() {
    for (kind, closed, ended) in [
        ("confirm-rollout", Phase::Waiting, Phase::Failed),
        (
            "confirm-traffic-increase",
            Phase::Progressing,
            Phase::Failed,
        ),
        ("confirm-promotion", Phase::WaitingPromotion, Phase::Failed),
    ] {
        for (timeout, expected) in [("", closed), (", gateTimeout: 5m", ended)] {
            let analysis = with_hooks(
                &format!("stepWeight: 50{timeout}"),
                &[&format!("{kind} gate")],
            );
            let mut cluster = initialised(&analysis);
            cluster.answer_hook("gate", refused());
            cluster.deploy("podinfo:2").advance(250);
            assert_eq!(cluster.phase(), closed, "{kind} {timeout}");
            let run = cluster.status().run.unwrap();
            assert_eq!(run.waiting_for.as_deref(), Some("gate gate"));
            assert!(run.waiting_since.is_some());
            cluster.advance(150);
            assert_eq!(cluster.phase(), expected, "{kind} {timeout}");
            if expected == Phase::Failed {
                assert_eq!(cluster.split(), Some((100, 0)), "{kind}");
                assert_eq!(cluster.replicas("podinfo"), 0, "{kind}");
                assert!(cluster.has_told("beyond spec.analysis.gateTimeout"));
                assert_eq!(
                    cluster.outcomes().len(),
                    1,
                    "{kind}: {:?}",
                    cluster.outcomes()
                );
            }
        }
    }
}

/// Answers of one check each (`f`ailed, `p`assed), and after how many of them the run has failed.
#[test]
fn failure_modes_count_in_their_own_way() {
    let table = [
        // Flagger's way: a good check forgives nothing.
        ("cumulative", "fpf", Some(3)),
        ("consecutive", "fpfpff", Some(6)),
        ("consecutive", "fpfpfp", None),
        ("window, failureWindow: 3", "fppfppf", None),
        ("window, failureWindow: 3", "fppfpf", Some(6)),
    ];
    for (mode, answers, expected) in table {
        let mut cluster = progressing(&format!(
            "{{interval: 10s, threshold: 2, stepWeight: 1, failureMode: {mode}, \
             metrics: [{{name: request-success-rate, interval: 1m, thresholdRange: {{min: 99}}}}]}}"
        ));
        cluster.advance(1);
        let mut failed_after = None;
        for (position, answer) in answers.chars().enumerate() {
            let value = if answer == 'f' { 90.0 } else { 100.0 };
            cluster
                .answer_metric(SUCCESS_RATE, Measurement::Value(value))
                .advance(10);
            if cluster.has_told("failed checks threshold reached") && failed_after.is_none() {
                failed_after = Some(position + 1);
            }
        }
        assert_eq!(failed_after, expected, "{mode} {answers}");
    }
}

#[test]
fn a_threshold_that_is_lowered_in_mid_run_counts_at_once() {
    let mut cluster = initialised(&MEASURED.replace("threshold: 2", "threshold: 5"));
    cluster.deploy("podinfo:2").run_until_calm();
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
    cluster.advance(25);
    assert_eq!(cluster.status().failed_checks, 2);
    cluster.edit_canary(|spec| spec["analysis"]["threshold"] = json!(2));
    cluster.run_until_calm();
    assert!(cluster.has_told("Rolling back podinfo.test failed checks threshold reached 2"));
    cluster.run_until(Phase::Failed);
}

#[test]
fn step_weights_that_are_edited_in_mid_run_go_on_from_where_the_traffic_is() {
    // In Flagger a weight that is not in the list jumps to 100 (9.2 A7).
    let mut cluster = progressing("{interval: 10s, threshold: 2, stepWeights: [10, 20, 30]}");
    cluster.advance(1);
    assert_eq!(cluster.split(), Some((90, 10)));
    cluster.edit_canary(|spec| spec["analysis"]["stepWeights"] = json!([5, 15, 50]));
    cluster.forget_the_past();
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(90, 10), (85, 15), (50, 50), (100, 0)]);
}

#[test]
fn an_interval_that_is_changed_in_mid_run_takes_one_step_per_interval() {
    // In Flagger two ticks of one canary can run at once (9.2 A16).
    let mut cluster = progressing("{interval: 1m, threshold: 2, stepWeight: 10}");
    cluster.advance(1);
    assert_eq!(cluster.split(), Some((90, 10)));
    cluster.edit_canary(|spec| spec["analysis"]["interval"] = json!("10s"));
    cluster.advance(60);
    assert_eq!(
        cluster.split(),
        Some((80, 20)),
        "the step that is under way keeps its time"
    );
    cluster.advance(30);
    assert_eq!(cluster.split(), Some((50, 50)));
    cluster.edit_canary(|spec| spec["analysis"]["interval"] = json!("5m"));
    cluster.advance(10);
    assert_eq!(cluster.split(), Some((40, 60)));
    cluster.advance(290);
    assert_eq!(cluster.split(), Some((40, 60)));
}

#[test]
fn each_check_is_made_once_per_interval() {
    let mut cluster = initialised(&with_hooks("stepWeight: 1", &["rollout load"]));
    cluster.deploy("podinfo:2").advance(1);
    cluster.forget_the_past();
    cluster.advance(100);
    assert_eq!(cluster.called.len(), 10);
}

#[test]
fn a_route_that_is_never_accepted_ends_the_run_on_the_safe_side() {
    let mut cluster = initialised(STEPS);
    cluster
        .gateway_is_silent()
        .deploy("podinfo:2")
        .run_until_calm();
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster.advance(30);
    assert_eq!(
        cluster.split(),
        Some((80, 20)),
        "no step before the route is applied"
    );
    assert_eq!(
        cluster.status().run.unwrap().waiting_for.as_deref(),
        Some("the route to be applied")
    );
    cluster.advance(300);
    assert_eq!(cluster.phase(), Phase::Failed);
    assert_eq!(cluster.split(), Some((100, 0)));
}

/// A canary in its first step, whose route says so, and a gateway that does not take it on.
fn unapplied(analysis: &str) -> Cluster {
    let mut cluster = initialised(analysis);
    cluster
        .gateway_is_silent()
        .answer_hook("undo", refused())
        .deploy("podinfo:2")
        .run_until_calm();
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster
}

/// In Flagger a route that one of several gateways does not take on stops checks and hooks too (9.2 R6), though the others may follow it.
#[test]
fn a_bad_revision_is_found_out_while_a_gateway_is_silent() {
    let mut cluster = unapplied(MEASURED);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(50.0));
    cluster.advance(15);
    assert_eq!(
        cluster.status().failed_checks,
        0,
        "one interval is a moment in which gateways are late"
    );
    cluster.advance(20);
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.gateway_applies().run_until(Phase::Failed);
    let cause = cluster.status().history.last().unwrap().cause.clone();
    assert!(cause.contains("threshold"), "{cause}");
}

#[test]
fn a_good_revision_goes_no_further_while_a_gateway_is_silent() {
    let mut cluster = unapplied(MEASURED);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
    cluster.advance(30);
    cluster.status_writes = 0;
    cluster.advance(40);
    let status = cluster.status();
    assert_eq!(cluster.split(), Some((80, 20)));
    assert_eq!(status.failed_checks, 0);
    assert_eq!(
        status.run.unwrap().waiting_for.as_deref(),
        Some("the route to be applied")
    );
    assert_eq!(cluster.status_writes, 0, "nothing new is to be told");
    cluster.gateway_applies().run_until(Phase::Succeeded);
}

/// A failed check begins no new wait: the deadline of the route stands.
#[test]
fn failed_checks_do_not_put_off_the_deadline_of_the_route() {
    let mut cluster = unapplied(&MEASURED.replace("threshold: 2", "threshold: 1000"));
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(50.0));
    cluster.advance(100);
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.gateway_applies().run_until(Phase::Failed);
    let cause = cluster.status().history.last().unwrap().cause.clone();
    assert!(cause.contains("route"), "{cause}");
}

#[test]
fn a_rollback_hook_is_asked_while_a_gateway_is_silent() {
    let mut cluster = unapplied(&with_hooks("stepWeight: 20", &["rollback undo"]));
    cluster.answer_hook("undo", HookAnswer::Passed).advance(12);
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.gateway_applies().run_until(Phase::Failed);
}

#[test]
fn a_canary_that_loses_its_pods_loses_its_traffic_at_once_and_gets_it_back() {
    let mut cluster = progressing(STEPS);
    cluster.advance(1);
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster.pods("podinfo", Pods::Dead).run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(cluster.phase(), Phase::Progressing);
    cluster.advance(5);
    cluster.pods_ready("podinfo").run_until_calm();
    assert_eq!(cluster.split(), Some((80, 20)));
    assert_eq!(cluster.status().failed_checks, 0);
    cluster.run_until(Phase::Succeeded);
}

#[test]
fn a_primary_that_loses_its_pods_in_mid_run_sends_no_request_into_the_void() {
    let mut cluster = progressing(STEPS);
    cluster.advance(1);
    cluster.endpoints("podinfo-primary", 0).run_until_calm();
    assert_eq!(cluster.split(), Some((0, 100)));
    cluster.endpoints("podinfo-primary", 2).run_until_calm();
    assert_eq!(cluster.split(), Some((80, 20)));
}

#[test]
fn a_route_that_is_accepted_late_only_delays_the_step() {
    let mut cluster = initialised(STEPS);
    cluster.gateway_is_silent().deploy("podinfo:2").advance(30);
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster.gateway_applies().run_until(Phase::Succeeded);
}

#[test]
fn what_is_measured_while_a_gate_is_closed_is_written_now_and_then() {
    let measured = with_hooks(
        "stepWeight: 50, metrics: [{name: request-success-rate, interval: 1m, thresholdRange: {min: 99}}]",
        &["confirm-promotion gate"],
    );
    let mut cluster = initialised(&measured);
    cluster.answer_hook("gate", refused());
    cluster
        .deploy("podinfo:2")
        .run_until(Phase::WaitingPromotion);
    let value = |cluster: &Cluster| cluster.status().metrics[0].value.clone().unwrap();
    let first = value(&cluster);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(99.5));
    cluster.advance(60);
    assert_eq!(value(&cluster), first, "not in every interval");
    cluster.advance(300);
    assert_ne!(value(&cluster), first);
    cluster.forget_the_past();
    cluster.advance(600);
    assert!(cluster.writes.is_empty() && cluster.told.is_empty());
    assert_eq!(
        cluster.journal.len(),
        1,
        "nothing but the status is written"
    );
}

#[test]
fn what_the_api_server_refuses_is_said_in_the_conditions_and_taken_back() {
    let refusal = crate::rollout::Refusal {
        reason: "WriteRefused",
        message: "Service podinfo-primary.test: denied by policy".to_owned(),
    };
    let mut cluster = initialised(STEPS);
    cluster.refuse(Some(refusal.clone())).run_until_calm();
    assert_eq!(
        cluster.condition(condition_type::READY),
        (
            ConditionStatus::False,
            refusal.reason.to_owned(),
            refusal.message.clone()
        )
    );
    assert_eq!(
        cluster.condition(condition_type::STALLED).0,
        ConditionStatus::True
    );
    assert_eq!(cluster.times_told("denied by policy"), 1);
    // As long as it is so, nothing changes.
    cluster.advance(600);
    assert_eq!(cluster.times_told("denied by policy"), 1);
    cluster.refuse(None).run_until_calm();
    assert_eq!(
        cluster.condition(condition_type::READY).0,
        ConditionStatus::True
    );
}

/// Whatever the metrics say meanwhile, they don't say it of this step.
#[test]
fn a_step_that_the_route_does_not_carry_is_not_judged() {
    let mut cluster = initialised(MEASURED);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
    cluster.deny(route(), true).deploy("podinfo:2").advance(40);
    assert_eq!(cluster.split(), Some((100, 0)));
    let run = cluster.status().run.unwrap();
    assert_eq!((run.step, run.checks), (1, 1), "{run:?}");
    let waits = "The route is not applied yet: it carries 0 % for the canary, 20 % were asked";
    assert_eq!(run.message.as_deref(), Some(waits));
    assert_eq!(run.waiting_for.as_deref(), Some("the route to be applied"));

    // When it can be written, the step has its whole interval before it is judged.
    cluster.deny(route(), false).advance(9);
    assert_eq!(cluster.split(), Some((80, 20)));
    assert_eq!(cluster.status().run.unwrap().waiting_for, None);
    cluster.advance(1);
    assert_eq!(cluster.split(), Some((60, 40)));
}

/// Found by simulation: between two steps of a promotion nobody looked whether both sides still answer.
#[test]
fn a_side_that_goes_dark_while_the_primary_takes_over_by_steps_loses_its_traffic_at_once() {
    let analysis = "{interval: 60s, threshold: 2, stepWeight: 50, stepWeightPromotion: 20}";
    let returning = || {
        let mut cluster = initialised(analysis);
        cluster.deploy("podinfo:2").run_until(Phase::Promoting);
        while cluster.split() != Some((20, 80)) {
            cluster.advance(5);
        }
        cluster
    };

    let mut cluster = returning();
    cluster.endpoints("podinfo-canary", 0).run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.run_until(Phase::Succeeded);

    let mut cluster = returning();
    cluster.endpoints("podinfo-primary", 0).run_until_calm();
    assert_eq!(cluster.split(), Some((0, 100)));
    cluster.endpoints("podinfo-primary", 2).advance(60);
    assert_eq!(cluster.split(), Some((20, 80)));
    cluster.run_until(Phase::Succeeded);

    // Both changed between two looks.
    let mut cluster = returning();
    cluster.endpoints("podinfo-primary", 0).run_until_calm();
    cluster
        .endpoints("podinfo-primary", 2)
        .endpoints("podinfo-canary", 0)
        .sleep(60)
        .run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.run_until(Phase::Succeeded);
}

/// Found by simulation: the end of the drain before was taken for that of the one after it.
#[test]
fn a_way_back_that_is_gone_twice_drains_twice() {
    let analysis = MEASURED.replace("threshold: 2", "threshold: 1, drain: 8s");
    let mut cluster = initialised(&analysis);
    cluster.deploy("podinfo:2").advance(1);
    cluster
        .answer_metric(SUCCESS_RATE, Measurement::Value(90.0))
        .advance(10);
    let run = cluster.status().run.unwrap();
    assert_eq!(run.stage, "RollingBack");
    assert!(run.next_check_at.is_some(), "it drains: {run:?}");

    // Before the drain is over the primary goes dark, and somebody leads requests to what answers.
    cluster
        .pods("podinfo-primary", Pods::Dead)
        .steer(80, 20)
        .advance(30);
    assert_eq!(cluster.split(), Some((80, 20)));

    cluster.pods_ready("podinfo-primary").run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.advance(7);
    assert!(cluster.replicas("podinfo") > 0, "it drains again");
    cluster.advance(1);
    assert_eq!(cluster.replicas("podinfo"), 0);
    assert_eq!(cluster.phase(), Phase::Failed);
}

/// Found by simulation: a person leads requests to the only side that answers, and was undone.
#[test]
fn a_hand_that_leads_to_the_only_side_that_answers_is_left_until_the_primary_is_back() {
    let mut cluster = failed();
    cluster
        .endpoints("podinfo-primary", 0)
        .endpoints("podinfo-canary", 2)
        .steer(60, 40)
        .run_until_calm();
    assert_eq!(cluster.split(), Some((60, 40)));
    let said =
        "the primary has no ready endpoints, so the route stays as it is: 40 % for the canary";
    assert_eq!(
        cluster.condition(condition_type::READY),
        (
            ConditionStatus::False,
            "PrimaryNotServing".to_owned(),
            said.to_owned()
        )
    );
    assert_eq!(cluster.times_told(said), 1);
    cluster.endpoints("podinfo-primary", 2).run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    assert!(cluster.condition(condition_type::READY).2 != said);
}

/// What can't be written for as long as a rollout may take ends the run where it is safe.
#[test]
fn a_route_that_can_never_be_written_ends_the_run() {
    let mut cluster = initialised(MEASURED);
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
    cluster.deny(route(), true).deploy("podinfo:2").advance(700);
    assert_eq!(cluster.phase(), Phase::Failed);
    assert!(cluster.has_told("Rolling back podinfo.test route not applied"));
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
}

/// Found by simulation: the controller died between the status and the route, and when the next one came only the canary answered.
#[test]
fn a_way_back_that_never_reached_the_route_waits_for_the_primary() {
    let mut cluster = progressing(MEASURED);
    cluster.advance(1);
    cluster
        .gateway_is_silent()
        .answer_metric(SUCCESS_RATE, Measurement::Value(90.0))
        .advance(20);
    assert_eq!(cluster.status().run.unwrap().stage, "RollingBack");
    cluster
        .pods("podinfo-primary", Pods::Dead)
        .steer(80, 20)
        .run_until_calm();
    assert_eq!(cluster.split(), Some((80, 20)), "it stays as it is");
    assert_eq!(cluster.status().canary_weight, 20);
    cluster
        .pods_ready("podinfo-primary")
        .gateway_applies()
        .run_until(Phase::Failed);
    assert_eq!(cluster.split(), Some((100, 0)));
}

/// A gateway of another name, or one that admits no route from here: nothing else tells of it.
#[test]
fn a_first_route_that_is_not_taken_on_is_told_of() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster
        .given_deployment("podinfo:1")
        .gateway_is_silent()
        .advance(5);
    assert_eq!(
        cluster.times_told("The route is not applied yet"),
        0,
        "gateways may be late"
    );
    cluster.advance(30);
    let (_, _, message) = cluster.condition(condition_type::READY);
    assert!(
        message.contains("The route is not applied yet"),
        "{message}"
    );
    assert_eq!(cluster.times_told("The route is not applied yet"), 1);
    let run = cluster.status().run.unwrap();
    assert!(run.waiting_since.is_some() && run.deadline_at.is_some());
    cluster.gateway_applies().run_until(Phase::Initialized);
}

/// Found by simulation: the status went on saying that the canary has all traffic, while the run said none.
#[test]
fn a_fix_during_initialisation_keeps_requests_where_they_are_answered_until_its_primary_serves() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster
        .given_deployment("podinfo:1")
        .gateway_is_silent()
        .run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)), "the switch has begun");

    cluster.pods("podinfo-primary", Pods::Dead).run_until_calm();
    assert_eq!(cluster.split(), Some((0, 100)), "the target answers");

    cluster.deploy("podinfo:2").run_until_calm();
    assert_eq!(cluster.split(), Some((0, 100)), "it still does");
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");

    cluster
        .pods_ready("podinfo-primary")
        .gateway_applies()
        .run_until(Phase::Initialized);
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(cluster.status().canary_weight, 0);
    assert_eq!(cluster.replicas("podinfo"), 0);
}

/// Found by simulation: the route was taken back from the only side that answered.
#[test]
fn a_fix_during_initialisation_leaves_requests_that_a_hand_led_to_the_only_side_that_answers() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster
        .given_deployment("podinfo:1")
        .gateway_is_silent()
        .run_until_calm();
    cluster
        .pods("podinfo-primary", Pods::Dead)
        .steer(30, 70)
        .deploy("podinfo:2")
        .run_until_calm();
    assert_eq!(cluster.split(), Some((0, 100)));
    assert_eq!(cluster.status().canary_weight, 100);
}

/// Found by simulation: they stayed for ever, although the primary was back.
#[test]
fn pods_that_a_run_left_beside_a_dark_primary_go_when_it_is_back() {
    let mut cluster = initialised(STEPS);
    cluster
        .pods("podinfo-primary", Pods::Dead)
        .pods("podinfo", Pods::Dead)
        .deploy("podinfo:2")
        .run_until(Phase::Failed);
    cluster.advance(600);
    assert!(cluster.replicas("podinfo") > 0, "whoever is back may serve");
    assert!(cluster.status().rest.is_some());

    cluster.pods_ready("podinfo-primary").run_until_calm();
    assert!(cluster.replicas("podinfo") > 0, "they drain");
    cluster.advance(3);
    assert_eq!(cluster.replicas("podinfo"), 0);
    assert_eq!(cluster.status().rest, None);
    assert_eq!(cluster.outcomes(), ["RolledBack"], "it is told once");
}

/// Found by simulation, as above.
#[test]
fn pods_of_a_newer_revision_that_is_taken_back_before_its_run_begins_go_too() {
    let mut cluster = initialised(STEPS);
    cluster.deploy("podinfo:2").run_until(Phase::Finalising);
    cluster.run_once().deploy("podinfo:3").sleep(3);
    for _ in 0..4 {
        if cluster.phase() == Phase::Finalising {
            cluster.run_once();
        }
    }
    assert_eq!(cluster.phase(), Phase::Succeeded);
    assert!(cluster.replicas("podinfo") > 0, "they are the next run's");
    cluster.deploy("podinfo:2").run_until_calm();
    cluster.advance(3);
    assert_eq!(cluster.phase(), Phase::Succeeded);
    assert_eq!(cluster.replicas("podinfo"), 0);
}

/// The answer to the question which series there are, for a Gateway API: bits of the rows http, pods, istio, linkerd, contour, traefik-gateway.
fn series_of(place: u32) -> Measurement {
    Measurement::Value(f64::from(1_u32 << place))
}

#[test]
fn given_series_of_several_observers_when_a_run_has_data_then_its_choice_stays_to_the_end() {
    const SOURCES: &str = "metrics sources";
    let mut cluster = initialised(MEASURED);
    // Nothing has series yet: Flagger's row is asked, and nothing is chosen.
    cluster.deploy("podinfo:2").run_until_calm();
    cluster.answer_metric(SUCCESS_RATE, Measurement::NoData("none".to_owned()));
    cluster.advance(25);
    assert!(cluster.status().run.unwrap().no_data_since.is_some());
    assert!(cluster.status().run.unwrap().observers.is_empty());
    assert!(
        cluster
            .queries
            .iter()
            .all(|query| query.contains("kubernetes_pod_name"))
    );
    // Traefik's are found, and a step is taken by them.
    cluster.answer_metric(SOURCES, series_of(5));
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
    cluster.advance(10);
    assert_eq!(
        cluster.status().run.unwrap().observers[SUCCESS_RATE],
        "traefik-gateway"
    );
    let told = cluster.status().observed[SUCCESS_RATE].clone();
    assert!(
        told.starts_with(
            "traefik-gateway: traefik_service_request_duration_seconds_count{service=~"
        ),
        "{told}"
    );
    assert!(
        cluster
            .queries
            .last()
            .unwrap()
            .contains("@kubernetesgateway")
    );
    // The app's own come to be there, too: not in this run, and it does not even ask.
    let asked = cluster.sources_asked;
    cluster.answer_metric(SOURCES, series_of(0));
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.sources_asked, asked);
    assert!(
        cluster
            .queries
            .last()
            .unwrap()
            .contains("@kubernetesgateway")
    );
    assert_eq!(cluster.status().observed[SUCCESS_RATE], told);
    // The next run keeps to what has series.
    cluster.deploy("podinfo:3").run_until(Phase::Succeeded);
    assert!(cluster.sources_asked > asked);
    assert!(
        cluster
            .queries
            .last()
            .unwrap()
            .contains("kubernetes_pod_name")
    );
    assert!(cluster.status().observed[SUCCESS_RATE].starts_with("http: "));
}

#[test]
fn a_question_for_the_series_that_fails_holds_nothing_up() {
    let mut cluster = progressing(MEASURED);
    cluster.answer_metric(
        "metrics sources",
        Measurement::Error("not understood".to_owned()),
    );
    cluster.run_until(Phase::Succeeded);
    assert!(
        cluster
            .queries
            .iter()
            .all(|query| query.contains("kubernetes_pod_name"))
    );
    assert!(!cluster.status().observed.contains_key(SUCCESS_RATE));
}

/// A template that lacks what its backend needs: the condition says which field, the run goes on as far as it can, and mending it is enough.
#[test]
fn a_metric_that_can_not_be_asked_is_told_by_condition_and_stops_nothing() {
    const TEMPLATED: &str = "{interval: 10s, threshold: 2, stepWeight: 20, maxWeight: 40, metrics: [{name: errors, interval: 1m, templateRef: {name: errors}, thresholdRange: {max: 1}}]}";
    let mut cluster = Cluster::given_canary(&canary(TEMPLATED));
    cluster.given_deployment("podinfo:1");
    cluster.given(
        "
apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: errors}
spec: {provider: {type: cloudwatch}, query: '[]'}
",
    );
    let missing = "Metric template errors.test error: spec.provider.region: is required for cloudwatch; expected for example eu-central-1";
    cluster.run_until(Phase::Initialized);
    let refused = |cluster: &Cluster| {
        let (status, reason, message) = cluster.condition(condition_type::ACCEPTED);
        (status == ConditionStatus::False).then_some((reason, message))
    };
    let expected = Some(("MetricsInvalid".to_owned(), missing.to_owned()));
    assert_eq!(refused(&cluster), expected);
    assert_eq!(
        cluster.condition(condition_type::READY).0,
        ConditionStatus::False
    );
    cluster.run_until_calm().advance(60);
    let told = |cluster: &Cluster| {
        cluster
            .texts()
            .iter()
            .filter(|text| **text == format!("Warning MetricsInvalid {missing}"))
            .count()
    };
    assert_eq!(told(&cluster), 1, "{:?}", cluster.texts());

    cluster.deploy("podinfo:2").advance(25);
    assert_eq!(cluster.phase(), Phase::Progressing);
    assert_eq!(cluster.split(), Some((80, 20)));
    assert_eq!(refused(&cluster), expected);

    let template = crate::object::kinds::METRIC_TEMPLATE.named("test", "errors");
    cluster.answer_metric("errors", Measurement::Value(0.5));
    cluster
        .edit(&template, |template| {
            template["spec"]["provider"]["region"] = json!("eu-central-1");
        })
        .advance(12);
    assert_eq!(refused(&cluster), None);
    cluster.run_until(Phase::Succeeded);

    // Without an interval the request can't be made; a template that is gone can't be asked.
    cluster.edit_canary(|spec| {
        spec["analysis"]["metrics"][0]
            .as_object_mut()
            .unwrap()
            .remove("interval");
    });
    cluster.run_until_calm();
    let (_, message) = refused(&cluster).unwrap();
    assert_eq!(
        message,
        "spec.analysis.metrics[name=errors].interval: is required for metrics from cloudwatch: it says how far back to look; expected for example 1m"
    );
    cluster.remove(&template).run_until_calm();
    let (_, message) = refused(&cluster).unwrap();
    assert!(
        message.contains("there is no MetricTemplate errors in namespace test"),
        "{message}"
    );
}
