//! What is remembered of pods that failed: it is asked before they go, and once.

use super::*;

const WHY: &str = "container app of 2 pods: CrashLoopBackOff, exit code 1";

#[test]
fn a_canary_that_never_gets_ready_leaves_the_reason_of_its_pods() {
    let mut cluster = initialised(STEPS);
    cluster.pods("podinfo", Pods::Dead).pods_crash("podinfo", 1);
    cluster.deploy("podinfo:2").advance(25);
    assert_eq!(cluster.lists, 0, "nothing is asked while there is time");
    cluster.advance(10);
    assert_eq!(cluster.lists, 1, "half of the deadline is past");
    assert_eq!(
        cluster.status().run.unwrap().pod_failures[0].exit_code,
        Some(1)
    );
    assert_eq!(
        cluster.times_told(&format!("Pods of podinfo.test don't run: {WHY}")),
        1
    );
    cluster.run_until(Phase::Failed);
    cluster.run_until_calm();
    assert_eq!(cluster.lists, 2, "and once more before they go");
    let status = cluster.status();
    let cause = &status.history.last().unwrap().cause;
    assert!(
        cause.starts_with("canary deployment podinfo.test not ready: ") && cause.ends_with(WHY),
        "{cause}"
    );
    // Flagger's words stay what they are.
    assert_eq!(
        cluster.times_told("Canary failed! Scaling down podinfo.test"),
        1
    );
    assert_eq!(
        cluster.condition(condition_type::PROMOTED).2,
        "Canary analysis failed, Deployment scaled to zero."
    );
    assert!(cluster.condition(condition_type::READY).2.ends_with(WHY));
}

#[test]
fn a_canary_that_fails_its_checks_is_asked_before_it_is_scaled_down() {
    let mut cluster = progressing(MEASURED);
    cluster
        .pods_crash("podinfo", 137)
        .answer_metric(SUCCESS_RATE, Measurement::Value(90.0));
    cluster.run_until(Phase::Failed);
    assert_eq!(cluster.lists, 1);
    let status = cluster.status();
    let cause = &status.history.last().unwrap().cause;
    assert!(
        cause.starts_with("2 failed checks reached the threshold")
            && cause.ends_with("CrashLoopBackOff, exit code 137"),
        "{cause}"
    );
}

#[test]
fn a_primary_that_fails_its_promotion_is_asked_before_it_gets_its_template_back() {
    let mut cluster = progressing(STEPS);
    cluster
        .pods("podinfo-primary", Pods::Stuck)
        .pods_crash("podinfo-primary", 1);
    cluster.run_until(Phase::Failed);
    let status = cluster.status();
    assert!(status.history.last().unwrap().cause.ends_with(WHY));
    assert!(cluster.has_told(WHY));
    assert_eq!(cluster.split(), Some((0, 100)));
}

#[test]
fn a_primary_that_never_gets_ready_says_why_while_the_users_workload_serves() {
    let mut cluster = Cluster::given_canary(&canary(STEPS));
    cluster.given_deployment("podinfo:1");
    cluster
        .pods("podinfo-primary", Pods::Dead)
        .pods_crash("podinfo-primary", 1)
        .advance(100);
    assert_eq!(cluster.phase(), Phase::Failed);
    assert!(cluster.condition(condition_type::STALLED).2.ends_with(WHY));
    cluster
        .pods_ready("podinfo-primary")
        .run_until(Phase::Initialized);
    assert_eq!(cluster.status().run, None);
}

#[test]
fn a_good_release_asks_nothing_and_a_late_one_forgets_what_it_was_told() {
    let mut cluster = progressing(MEASURED);
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.lists, 0);

    let mut late = initialised(MEASURED);
    late.pods("podinfo", Pods::Dead).pods_crash("podinfo", 1);
    late.deploy("podinfo:2").advance(35);
    assert!(!late.status().run.unwrap().pod_failures.is_empty());
    late.pods_ready("podinfo").run_until_calm();
    assert_eq!(late.status().run.unwrap().pod_failures, []);
    late.run_until(Phase::Succeeded);
}
