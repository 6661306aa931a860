//! Every arrow of Flagger's phase diagram and its corner cases, chapter 2.15 of its behaviour; `docs/transitions.md` is the index.

use super::*;
use crate::object::{Write, kinds};

fn promoted_condition(cluster: &Cluster) -> (ConditionStatus, String) {
    let (status, reason, _) = cluster.condition(condition_type::PROMOTED);
    (status, reason)
}

// ---- arrows

#[test]
fn initializing_to_initialized_when_the_primary_is_ready() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster.given_deployment("podinfo:1");
    cluster
        .pods("podinfo-primary", Pods::Stuck)
        .run_until_calm();
    assert_eq!(cluster.phase(), Phase::Initializing);
    cluster
        .pods_ready("podinfo-primary")
        .run_until(Phase::Initialized);
    assert_eq!(
        promoted_condition(&cluster),
        (ConditionStatus::True, "Initialized".to_owned())
    );
}

#[test]
fn initializing_to_failed_leaves_the_users_workload_serving() {
    // In Flagger the live target is scaled to zero (9.2 A2).
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster.given_deployment("podinfo:1");
    cluster.pods("podinfo-primary", Pods::Stuck).advance(70);
    assert_eq!(cluster.phase(), Phase::Failed);
    assert_eq!(cluster.replicas("podinfo"), 2);
    assert_eq!(cluster.split(), None);
    assert_eq!(cluster.apex(), "");
    let writes = cluster.writes.len();
    cluster.advance(600);
    assert_eq!(cluster.writes.len(), writes);

    // It ends well when the primary comes up after all.
    cluster
        .pods_ready("podinfo-primary")
        .run_until(Phase::Initialized);
}

#[test]
fn initializing_follows_the_users_workload_until_the_primary_serves() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster.given_deployment("podinfo:broken");
    cluster.pods("podinfo-primary", Pods::Stuck).advance(70);
    assert_eq!(cluster.phase(), Phase::Failed);
    cluster.deploy("podinfo:1").run_until_calm();
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    cluster
        .pods_ready("podinfo-primary")
        .run_until(Phase::Initialized);
}

/// Found by simulation: the primary was ready with the revision before, and the seed was said to be promoted.
#[test]
fn a_seed_that_did_not_reach_the_primary_is_not_initialised() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster.given_deployment("podinfo:1");
    let primary = deployment("podinfo-primary");
    while cluster.object(&primary).is_none() {
        cluster.run_once();
    }
    cluster
        .deny(primary.clone(), true)
        .deploy("podinfo:2")
        .run_until_calm();
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    assert_eq!(cluster.phase(), Phase::Initializing);
    assert_eq!(cluster.status().run.unwrap().drain_from, None);

    cluster.deny(primary, false).run_until(Phase::Initialized);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
    assert_eq!(
        cluster.status().promoted.unwrap().revision,
        cluster.status().last_applied_spec.unwrap()
    );
}

/// Found by simulation: a controller died when the status said which fix the primary was to get, and nothing else; the next one found another
/// fix in the target, and said that the first was promoted, which nobody had any more.
#[test]
fn a_seed_that_nobody_has_is_not_initialised() {
    for known in [true, false] {
        let mut cluster = Cluster::given_canary(&canary(&with_hooks(
            "stepWeight: 50",
            &["confirm-rollout gate"],
        )));
        cluster
            .answer_hook("gate", refused())
            .given_deployment("podinfo:1")
            .gateway_is_silent()
            .run_until_calm();
        assert_eq!(cluster.split(), Some((100, 0)), "the switch has begun");
        let primary = deployment("podinfo-primary");
        cluster
            .pods("podinfo-primary", Pods::Dead)
            .deny(primary.clone(), true)
            .deploy("podinfo:2")
            .run_until_calm();
        let kept = cluster
            .writes
            .iter()
            .map(Write::target)
            .rfind(|target| target.kind == kinds::CONTROLLER_REVISION)
            .unwrap();
        if !known {
            cluster.remove(&kept);
        }
        cluster
            .deploy("podinfo:3")
            .pods_ready("podinfo-primary")
            .deny(primary, false)
            .gateway_applies()
            .advance(60);
        let phase = if known {
            Phase::Waiting
        } else {
            Phase::Initialized
        };
        assert_eq!(cluster.phase(), phase);
        let name = cluster.status().promoted.unwrap().template.unwrap();
        let kept = cluster
            .object(&kinds::CONTROLLER_REVISION.named("test", &name))
            .unwrap();
        let image = cluster.image("podinfo-primary");
        assert_eq!(image, if known { "podinfo:2" } else { "podinfo:3" });
        assert!(
            kept.value().to_string().contains(&image),
            "{known}: {image}"
        );
    }
}

/// Found by simulation: with the route switched and old pods of the primary serving, nothing followed a failed initialisation.
#[test]
fn a_failed_initialisation_is_followed_by_a_fix_also_behind_its_route() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster
        .given_deployment("podinfo:1")
        .gateway_is_silent()
        .run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)), "the switch has begun");
    cluster
        .pods("podinfo-primary", Pods::Dead)
        .endpoints("podinfo-primary", 1)
        .advance(90);
    assert_eq!(cluster.phase(), Phase::Failed);

    cluster.deploy("podinfo:2").run_until_calm();
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
    cluster
        .pods_ready("podinfo-primary")
        .gateway_applies()
        .run_until(Phase::Initialized);
    assert_eq!(cluster.split(), Some((100, 0)));
}

/// From each idle phase, a change goes straight on where there is no gate.
#[test]
fn idle_to_progressing_on_a_change() {
    let mut succeeded = progressing(MEASURED);
    succeeded.run_until(Phase::Succeeded);
    for mut cluster in [initialised(MEASURED), succeeded, failed()] {
        cluster.deploy("podinfo:3").run_until_calm();
        assert_eq!(cluster.phase(), Phase::Progressing);
        cluster.run_until(Phase::Succeeded);
        assert_eq!(cluster.image("podinfo-primary"), "podinfo:3");
    }
}

#[test]
fn idle_to_waiting_at_a_closed_gate_and_on_when_it_opens() {
    let mut cluster = initialised(&with_hooks("stepWeight: 50", &["confirm-rollout gate"]));
    cluster.answer_hook("gate", refused());
    cluster.deploy("podinfo:2").advance(30);
    assert_eq!(cluster.phase(), Phase::Waiting);
    assert_eq!(cluster.replicas("podinfo"), 0, "the target stays at zero");
    assert_eq!(
        cluster.times_told("Halt podinfo.test advancement waiting for approval gate"),
        1
    );
    cluster.answer_hook("gate", HookAnswer::Passed).advance(10);
    assert_eq!(cluster.phase(), Phase::Progressing);
    cluster.run_until(Phase::Succeeded);
}

#[test]
fn progressing_to_waiting_promotion_and_on_when_the_gate_opens() {
    let mut cluster = initialised(&with_hooks("stepWeight: 50", &["confirm-promotion gate"]));
    cluster.answer_hook("gate", refused());
    cluster.deploy("podinfo:2").advance(40);
    assert_eq!(cluster.phase(), Phase::WaitingPromotion);
    // Flagger says 0 here though the traffic is still split.
    assert_eq!(cluster.status().canary_weight, 100);
    assert_eq!(cluster.split(), Some((0, 100)));
    cluster.answer_hook("gate", HookAnswer::Passed).advance(10);
    assert!([Phase::Promoting, Phase::Finalising, Phase::Succeeded].contains(&cluster.phase()));
    cluster.run_until(Phase::Succeeded);
}

#[test]
fn waiting_promotion_to_progressing_on_a_new_revision() {
    let mut cluster = initialised(&with_hooks("stepWeight: 50", &["confirm-promotion gate"]));
    cluster.answer_hook("gate", refused());
    cluster.deploy("podinfo:2").advance(40);
    cluster.forget_the_past();
    cluster.deploy("podinfo:3").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Progressing);
    assert!(cluster.has_told("New revision detected! Restarting analysis for podinfo.test"));
    assert_eq!(cluster.splits[0], (100, 0));
}

/// What ends a run while it is judged, and the word that is said about it.
#[test]
fn progressing_or_waiting_promotion_to_failed() {
    let hooks = with_hooks(
        "stepWeight: 50",
        &[
            "rollback rollback",
            "confirm-promotion gate",
            "rollout load",
        ],
    );
    let table = [
        ("threshold", "failed checks threshold reached 2"),
        ("deadline", "canary deployment podinfo.test not ready: "),
        (
            "rollback hook",
            "Rolling back podinfo.test manual webhook invoked",
        ),
    ];
    for at_the_gate in [false, true] {
        for (what, text) in table {
            let mut cluster = initialised(&hooks);
            cluster.answer_hook("gate", refused());
            cluster.deploy("podinfo:2").run_until_calm();
            if at_the_gate {
                cluster.run_until(Phase::WaitingPromotion);
            }
            match what {
                "threshold" => cluster.answer_hook("load", refused()),
                "deadline" => cluster.pods("podinfo", Pods::Dead),
                _ => cluster.answer_hook("rollback", HookAnswer::Passed),
            };
            cluster.advance(100);
            assert_eq!(cluster.phase(), Phase::Failed, "{what} {at_the_gate}");
            assert_eq!(
                cluster.times_told(text),
                1 + usize::from(what == "deadline"),
                "{what}: {:#?}",
                cluster.texts()
            );
            assert_eq!(cluster.split(), Some((100, 0)), "{what}");
            assert_eq!(cluster.replicas("podinfo"), 0, "{what}");
            assert_eq!(cluster.image("podinfo-primary"), "podinfo:1", "{what}");
            assert_eq!(
                promoted_condition(&cluster),
                (ConditionStatus::False, "Failed".to_owned())
            );
            assert_eq!(cluster.outcomes(), ["RolledBack"], "{what}");
        }
    }
}

#[test]
fn finalising_with_a_primary_that_dies_keeps_the_traffic_on_the_canary() {
    let mut cluster = initialised("{interval: 10s, threshold: 2, stepWeight: 50, drain: 30s}");
    cluster.deploy("podinfo:2").run_until(Phase::Finalising);
    cluster.pods("podinfo-primary", Pods::Dead).run_until_calm();
    assert_eq!(cluster.split(), Some((0, 100)));
    cluster.advance(100);
    assert_eq!(cluster.phase(), Phase::Failed);
    assert_eq!(cluster.split(), Some((0, 100)));
    assert_eq!(
        cluster.replicas("podinfo"),
        2,
        "the only healthy copy stays"
    );
}

#[test]
fn promoting_with_a_canary_that_dies_goes_on_with_the_primary() {
    // In Flagger this is a rollback to a primary that runs the new revision, and Failed (2.7 c, 9.2 A8).
    let mut cluster = progressing(STEPS);
    cluster.pods("podinfo-primary", Pods::Stuck);
    cluster.run_until(Phase::Promoting);
    assert_eq!(cluster.split(), Some((60, 40)));
    cluster.pods("podinfo", Pods::Dead).run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster
        .pods_ready("podinfo-primary")
        .run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
}

/// Found by simulation: once diverted, the traffic stayed where it was for the rest of the promotion.
#[test]
fn promoting_moves_the_traffic_as_often_as_sides_go_dark() {
    let mut cluster = progressing(STEPS);
    cluster
        .pods("podinfo-primary", Pods::Stuck)
        .run_until(Phase::Promoting);
    cluster.pods("podinfo", Pods::Dead).run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster
        .pods_ready("podinfo")
        .pods("podinfo-primary", Pods::Dead)
        .run_until_calm();
    assert_eq!(cluster.split(), Some((0, 100)));
}

#[test]
fn promoting_with_no_side_healthy_gives_the_primary_its_former_template_back() {
    let mut cluster = progressing(STEPS);
    cluster.pods("podinfo-primary", Pods::Stuck);
    cluster.run_until(Phase::Promoting);
    cluster.pods("podinfo", Pods::Dead).run_until_calm();
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
}

// ---- corner cases

#[test]
fn a_revert_in_mid_run_cancels_the_run() {
    // Flagger goes on with the old pods, records the bad revision as promoted, and then starts a second run.
    let mut cluster = progressing(STEPS);
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster.deploy("podinfo:1").run_until(Phase::Succeeded);
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(cluster.replicas("podinfo"), 0);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    assert_eq!(cluster.outcomes(), ["Reverted"]);
    assert_eq!(
        cluster.status().last_applied_spec,
        cluster.status().last_promoted_spec
    );
    cluster.forget_the_past();
    cluster.advance(600);
    assert_eq!(cluster.told, []);
    assert_eq!(cluster.writes, []);
}

#[test]
fn a_revert_at_the_promotion_gate_cancels_the_run() {
    let mut cluster = initialised(&with_hooks("stepWeight: 50", &["confirm-promotion gate"]));
    cluster.answer_hook("gate", refused());
    cluster
        .deploy("podinfo:2")
        .run_until(Phase::WaitingPromotion);
    cluster.deploy("podinfo:1").run_until(Phase::Succeeded);
    assert_eq!(cluster.split(), Some((100, 0)));
    assert_eq!(cluster.outcomes(), ["Reverted"]);
}

#[test]
fn a_revert_while_promoting_is_the_next_run() {
    let mut cluster = progressing(STEPS);
    cluster.pods("podinfo-primary", Pods::Stuck);
    cluster.run_until(Phase::Promoting);
    cluster.deploy("podinfo:1").run_until_calm();
    cluster.pods_ready("podinfo-primary").advance(10);
    assert_eq!(cluster.outcomes(), ["Promoted"]);
    cluster.run_until(Phase::Succeeded);
    cluster.advance(60);
    assert_eq!(cluster.outcomes(), ["Promoted", "Promoted"]);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
}

#[test]
fn a_revert_while_idle_starts_nothing() {
    let mut succeeded = progressing(STEPS);
    succeeded.run_until(Phase::Succeeded);
    succeeded.forget_the_past();
    succeeded.deploy("podinfo:2").advance(60);
    assert_eq!(succeeded.told, []);

    let mut failed = failed();
    failed.forget_the_past();
    failed.deploy("podinfo:1").advance(60);
    assert_eq!(failed.phase(), Phase::Failed, "Failed stays");
    assert_eq!(failed.told, []);
}

#[test]
fn the_failed_image_again_after_a_revert_is_a_new_run() {
    let mut cluster = failed();
    cluster.deploy("podinfo:1").run_until_calm();
    cluster.deploy("podinfo:2").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Progressing);
}

#[test]
fn a_pod_annotation_is_enough_for_a_new_run_of_the_failed_image() {
    let mut cluster = failed();
    cluster.edit(&deployment("podinfo"), |target| {
        target["spec"]["template"]["metadata"]["annotations"]["retry"] = json!("1");
    });
    cluster.run_until_calm();
    assert_eq!(cluster.phase(), Phase::Progressing);
}

#[test]
fn the_failed_revision_is_not_tried_again_by_itself() {
    let mut cluster = failed();
    cluster.forget_the_past();
    cluster.advance(3600);
    assert_eq!(cluster.phase(), Phase::Failed);
    assert_eq!(cluster.told, []);
}

#[test]
fn an_idle_target_that_somebody_scales_up_gets_no_traffic_and_goes_after_the_next_run() {
    let mut cluster = initialised(STEPS);
    cluster.edit(&deployment("podinfo"), |target| {
        target["spec"]["replicas"] = json!(3);
    });
    cluster.advance(60);
    assert_eq!(cluster.replicas("podinfo"), 3);
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    assert_eq!(cluster.replicas("podinfo"), 0);
}

#[test]
fn a_tool_that_scales_the_canary_to_zero_in_mid_run_does_not_starve_it() {
    let mut cluster = progressing(STEPS);
    cluster.edit(&deployment("podinfo"), |target| {
        target["spec"]["replicas"] = json!(0);
    });
    cluster.run_until_calm();
    assert_eq!(cluster.replicas("podinfo"), 2);
    cluster.run_until(Phase::Succeeded);
}

#[test]
fn a_new_revision_while_promoting_is_judged_next() {
    let mut cluster = progressing(STEPS);
    cluster.pods("podinfo-primary", Pods::Stuck);
    cluster.run_until(Phase::Promoting);
    cluster.deploy("podinfo:3").run_until_calm();
    assert_eq!(
        cluster.image("podinfo-primary"),
        "podinfo:2",
        "what was judged is promoted"
    );
    assert_eq!(
        cluster.split(),
        Some((100, 0)),
        "the unjudged pods get no traffic"
    );
    cluster.pods_ready("podinfo-primary").advance(10);
    assert_eq!(cluster.outcomes(), ["Promoted"]);
    cluster.run_until(Phase::Succeeded);
    cluster.advance(120);
    assert_eq!(cluster.outcomes(), ["Promoted", "Promoted"]);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:3");
}

#[test]
fn a_new_revision_while_finalising_is_judged_next() {
    let mut cluster = initialised("{interval: 10s, threshold: 2, stepWeight: 50, drain: 20s}");
    cluster.deploy("podinfo:2").run_until(Phase::Finalising);
    cluster.deploy("podinfo:3").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Finalising);
    cluster.advance(300);
    assert_eq!(cluster.outcomes(), ["Promoted", "Promoted"]);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:3");
}

#[test]
fn a_new_revision_while_rolling_back_is_judged_next() {
    let mut cluster = initialised(&MEASURED.replace("threshold: 2", "threshold: 1, drain: 20s"));
    cluster.deploy("podinfo:2").run_until_calm();
    cluster
        .answer_metric(SUCCESS_RATE, Measurement::Value(90.0))
        .advance(12);
    assert_eq!(cluster.status().run.unwrap().stage, "RollingBack");
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(100.0));
    cluster.deploy("podinfo:3").run_until(Phase::Succeeded);
    assert_eq!(cluster.outcomes(), ["RolledBack", "Promoted"]);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:3");
}

#[test]
fn waiting_is_left_by_a_revert() {
    // In Flagger only approval, suspension or deletion lead out (9.2 A11).
    let mut cluster = initialised(&with_hooks("stepWeight: 50", &["confirm-rollout gate"]));
    cluster.answer_hook("gate", refused());
    cluster.deploy("podinfo:2").run_until(Phase::Waiting);
    cluster.deploy("podinfo:1").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
}

#[test]
fn waiting_lets_the_newest_revision_in() {
    let mut cluster = initialised(&with_hooks("stepWeight: 50", &["confirm-rollout gate"]));
    cluster.answer_hook("gate", refused());
    cluster.deploy("podinfo:2").run_until(Phase::Waiting);
    cluster.deploy("podinfo:3").advance(30);
    assert_eq!(cluster.phase(), Phase::Waiting);
    cluster
        .answer_hook("gate", HookAnswer::Passed)
        .run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:3");
    assert_eq!(cluster.outcomes(), ["Promoted"]);
}

fn with_settings() -> Cluster {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster.given(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {color: blue}}",
    );
    cluster.given_deployment("podinfo:1");
    cluster.edit(&deployment("podinfo"), |target| {
        target["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
            json!([{"configMapRef": {"name": "settings"}}]);
    });
    cluster.run_until(Phase::Initialized);
    cluster.forget_the_past();
    cluster
}

fn color(cluster: &Cluster, name: &str) -> String {
    cluster
        .object(&config_map(name))
        .unwrap()
        .text("/data/color")
        .to_owned()
}

/// Found by simulation: the primary waited for ever with the config that it could not start with.
#[test]
fn a_config_that_is_mended_while_initialising_reaches_the_primary() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster.given_deployment("podinfo:1").given(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {color: wrong}}",
    );
    cluster.edit(&deployment("podinfo"), |target| {
        target["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
            json!([{"configMapRef": {"name": "settings"}}]);
    });
    cluster.pods("podinfo-primary", Pods::Stuck).advance(70);
    assert_eq!(cluster.phase(), Phase::Failed);
    cluster
        .edit(&config_map("settings"), |config| {
            config["data"]["color"] = json!("red");
        })
        .run_until_calm();
    assert_eq!(color(&cluster, "settings-primary"), "red");
    cluster
        .pods_ready("podinfo-primary")
        .run_until(Phase::Initialized);
}

#[test]
fn a_change_of_a_config_alone_starts_a_run_and_is_promoted() {
    let mut cluster = with_settings();
    assert_eq!(color(&cluster, "settings-primary"), "blue");
    cluster.edit(&config_map("settings"), |config| {
        config["data"]["color"] = json!("red");
    });
    cluster.run_until_calm();
    assert_eq!(cluster.phase(), Phase::Progressing);
    assert_eq!(
        color(&cluster, "settings-primary"),
        "blue",
        "until it is judged"
    );
    cluster.run_until(Phase::Succeeded);
    assert_eq!(color(&cluster, "settings-primary"), "red");
}

#[test]
fn a_config_that_changes_in_mid_run_starts_over() {
    let mut cluster = with_settings();
    cluster.deploy("podinfo:2").run_until_calm();
    cluster.forget_the_past();
    cluster.edit(&config_map("settings"), |config| {
        config["data"]["color"] = json!("red");
    });
    cluster.run_until_calm();
    assert_eq!(
        cluster.texts()[0],
        "Normal NewRevision New revision detected! Restarting analysis for podinfo.test"
    );
    cluster.run_until(Phase::Succeeded);
    assert_eq!(color(&cluster, "settings-primary"), "red");
}

#[test]
fn an_analysis_that_is_edited_in_mid_run_counts_at_once() {
    let mut cluster = progressing("{interval: 10s, threshold: 2, stepWeight: 10}");
    assert_eq!(cluster.split(), Some((90, 10)));
    cluster.edit_canary(|spec| spec["analysis"]["stepWeight"] = json!(45));
    cluster.forget_the_past();
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.splits, [(90, 10), (45, 55), (0, 100), (100, 0)]);
}

/// A primary that somebody deletes comes back with what was promoted, whatever the target says by now.
#[test]
fn a_deleted_primary_is_rebuilt_from_what_was_promoted() {
    // Flagger makes it from the target, failed or not (issue 1207).
    let mut cluster = failed();
    cluster
        .remove(&deployment("podinfo-primary"))
        .run_until_calm();
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    assert_eq!(cluster.replicas("podinfo-primary"), 2);
    assert_eq!(cluster.phase(), Phase::Failed);

    let mut cluster = progressing(STEPS);
    cluster
        .remove(&deployment("podinfo-primary"))
        .run_until_calm();
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    cluster.run_until(Phase::Succeeded);

    cluster
        .remove(&deployment("podinfo-primary"))
        .run_until_calm();
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
}

#[test]
fn a_deleted_primary_keeps_the_requests_on_the_canary_until_it_is_back() {
    let mut cluster = progressing(STEPS);
    cluster.pods("podinfo-primary", Pods::Dead);
    cluster
        .remove(&deployment("podinfo-primary"))
        .run_until_calm();
    assert_eq!(cluster.split(), Some((0, 100)));
    cluster.pods_ready("podinfo-primary").run_until_calm();
    assert_eq!(cluster.split(), Some((80, 20)));
}

#[test]
fn a_split_that_somebody_changes_by_hand_is_set_back_and_told() {
    let mut cluster = progressing(STEPS);
    cluster.forget_the_past();
    cluster.edit(&route(), |route| {
        route["metadata"]["managedFields"] =
            json!([{"manager": "kubectl-edit", "operation": "Update", "time": "2026-05-04T08:00:03Z"}]);
        for (position, weight) in [(0, 50), (1, 50)] {
            route["spec"]["rules"][0]["backendRefs"][position]["weight"] = json!(weight);
        }
    });
    cluster.run_until_calm();
    assert_eq!(cluster.split(), Some((80, 20)), "and not to 100/0");
    assert!(cluster.has_told("kubectl-edit"), "{:?}", cluster.texts());
}

#[test]
fn deleted_objects_come_back_as_the_status_says() {
    let mut cluster = progressing(STEPS);
    cluster.remove(&route()).run_until_calm();
    assert_eq!(cluster.split(), Some((80, 20)));
    for name in ["podinfo", "podinfo-primary", "podinfo-canary"] {
        cluster.remove(&service(name)).run_until_calm();
        assert!(cluster.object(&service(name)).is_some(), "{name}");
    }
    cluster.run_until(Phase::Succeeded);
}

#[test]
fn a_target_that_is_deleted_stalls_the_canary_and_leaves_the_primary() {
    let mut cluster = initialised(STEPS);
    cluster.remove(&deployment("podinfo")).advance(60);
    assert_eq!(cluster.condition(condition_type::READY).1, "TargetNotFound");
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    assert_eq!(cluster.split(), Some((100, 0)));
    cluster.given_deployment("podinfo:1").run_until_calm();
    assert_eq!(
        cluster.condition(condition_type::READY).0,
        ConditionStatus::True
    );
}

#[test]
fn one_run_is_counted_once() {
    let mut cluster = progressing(MEASURED);
    cluster.run_until(Phase::Succeeded);
    cluster.advance(60);
    let runs = |cluster: &Cluster| {
        cluster
            .tallies
            .iter()
            .filter(|tally| !matches!(tally, crate::rollout::Tally::Measured { .. }))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        runs(&cluster),
        [crate::rollout::Tally::Succeeded { skipped: false }]
    );
    let mut cluster = failed();
    cluster.advance(60);
    assert_eq!(runs(&cluster), [crate::rollout::Tally::Failed]);
}

#[test]
fn kept_revisions_are_those_in_use_and_the_last_few() {
    let mut cluster = initialised_with(&canary_with(STEPS, ", revisionHistoryLimit: 2"));
    for image in ["podinfo:2", "podinfo:3", "podinfo:4", "podinfo:5"] {
        cluster.deploy(image).run_until_calm();
        cluster.run_until(Phase::Succeeded);
    }
    cluster.run_until_calm();
    let kept = cluster.count(&kinds::CONTROLLER_REVISION);
    assert!((1..=3).contains(&kept), "{kept}");
}
