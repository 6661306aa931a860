//! A canary that has nothing to do does nothing: no status, no write, no word, no wake-up (9.1, 9.2 E).

use super::*;

/// An hour in which nothing happens.
fn an_hour_of_silence(cluster: &mut Cluster) {
    cluster.run_until_calm();
    let before = cluster.status();
    cluster.forget_the_past();
    cluster.advance(3600);
    assert_eq!(cluster.status(), before);
    assert_eq!(cluster.writes, []);
    assert_eq!(cluster.told, []);
    assert!(cluster.called.is_empty());
    assert_eq!(cluster.wake(), None, "a canary with nothing to do sleeps");
}

#[test]
fn initialized_writes_nothing() {
    an_hour_of_silence(&mut initialised(MEASURED));
}

#[test]
fn succeeded_writes_nothing() {
    let mut cluster = progressing(MEASURED);
    cluster.run_until(Phase::Succeeded);
    an_hour_of_silence(&mut cluster);
}

#[test]
fn failed_writes_nothing() {
    // Flagger writes the status of a failed canary in every interval, for ever.
    an_hour_of_silence(&mut failed());
}

#[test]
fn held_after_a_failed_promotion_writes_nothing() {
    let mut cluster = progressing(STEPS);
    cluster.pods("podinfo-primary", Pods::Stuck);
    cluster.run_until(Phase::Failed);
    an_hour_of_silence(&mut cluster);
}

#[test]
fn suspended_tells_once_and_touches_nothing() {
    let mut cluster = progressing(STEPS);
    cluster.advance(1);
    assert_eq!(cluster.split(), Some((80, 20)));
    cluster.edit_canary(|spec| spec["suspend"] = json!(true));
    cluster.run_until_calm();
    assert_eq!(
        cluster.times_told("skipping canary run as object is suspended"),
        1
    );
    assert_eq!(cluster.condition(condition_type::READY).1, "Suspended");
    an_hour_of_silence(&mut cluster);
    assert_eq!(cluster.split(), Some((80, 20)), "the split stays");

    cluster.edit_canary(|spec| spec["suspend"] = json!(false));
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
}

#[test]
fn a_closed_gate_writes_and_tells_once_however_often_it_is_asked() {
    // Flagger repeats the event and the alert of a closed traffic gate in every interval.
    for (kind, phase) in [
        ("confirm-rollout", Phase::Waiting),
        ("confirm-traffic-increase", Phase::Progressing),
        ("confirm-promotion", Phase::WaitingPromotion),
    ] {
        let mut cluster = initialised(&with_hooks("stepWeight: 50", &[&format!("{kind} gate")]));
        cluster.answer_hook("gate", refused());
        cluster.deploy("podinfo:2").advance(60);
        assert_eq!(cluster.phase(), phase, "{kind}");
        cluster.forget_the_past();
        cluster.advance(600);
        assert_eq!(cluster.writes, [], "{kind}");
        assert_eq!(cluster.told, [], "{kind}");
        assert!(cluster.journal.is_empty(), "{kind}: {:?}", cluster.journal);
        let asked = cluster.called.len();
        assert!(
            (59..=61).contains(&asked),
            "{kind}: asked {asked} times in 60 intervals"
        );
    }
}

#[test]
fn a_refused_spec_is_told_once() {
    let mut cluster = initialised(STEPS);
    cluster.edit_canary(|spec| spec["provider"] = json!("nonesuch"));
    cluster.run_until_calm();
    assert_eq!(
        cluster.condition(condition_type::ACCEPTED).0,
        ConditionStatus::False
    );
    assert_eq!(cluster.told.len(), 1, "{:?}", cluster.texts());
    an_hour_of_silence(&mut cluster);
}

#[test]
fn what_can_not_be_read_starts_nothing() {
    let mut cluster = initialised(STEPS);
    cluster.unreadable(deployment("podinfo"), "the API server is away");
    cluster.deploy("podinfo:2").advance(300);
    assert_eq!(cluster.writes, []);
    assert_eq!(cluster.phase(), Phase::Initialized);
    cluster.readable_again().run_until(Phase::Succeeded);
}

#[test]
fn the_canary_s_pods_are_sampled_from_their_start_to_the_verdict_and_at_no_other_time() {
    let spec = canary_with(MEASURED, ", metricsServer: scrape");
    let mut cluster = initialised_with(&spec);
    assert_eq!(cluster.sampled, []);
    cluster.deploy("podinfo:2").run_until(Phase::Succeeded);
    let metrics = vec![SUCCESS_RATE.to_owned()];
    assert_eq!(
        cluster.sampled,
        [
            ("ScalingUp".to_owned(), metrics.clone()),
            ("Analysing".to_owned(), metrics)
        ]
    );
    cluster.forget_the_past();
    cluster.sampled.clear();
    an_hour_of_silence(&mut cluster);
    assert_eq!(cluster.sampled, []);
    // With a Prometheus nobody samples anything.
    let mut other = progressing(MEASURED);
    other.run_until(Phase::Succeeded);
    assert_eq!(other.sampled, []);
}
