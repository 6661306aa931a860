//! What a person's word in the annotation `serin.dev/command` does in each phase, and that it does so once.

use super::*;
use crate::api::{Command, CommandWord};

/// Alice gives a word now, as the command line writes it.
fn say(cluster: &mut Cluster, word: CommandWord, reason: &str) {
    let command = Command {
        word,
        by: "alice".to_owned(),
        at: Some(cluster.now),
        reason: reason.to_owned(),
    };
    annotate(cluster, &command.encode());
}

fn annotate(cluster: &mut Cluster, text: &str) {
    let name = cluster.canary_name();
    cluster.edit(&name, |canary| {
        canary["metadata"]["annotations"] = json!({"serin.dev/command": text});
    });
    cluster.run_until_calm();
}

/// Outcome and sentence of the last answer.
fn answer(cluster: &Cluster) -> (String, String) {
    let command = cluster.status().command.unwrap();
    (command.outcome, command.message)
}

#[test]
fn abort_rolls_back_and_history_names_who_and_why() {
    let mut cluster = progressing(STEPS);
    cluster.advance(15);
    say(&mut cluster, CommandWord::Abort, "checkout is broken");
    assert_eq!(answer(&cluster).0, "Honoured");
    cluster.run_until(Phase::Failed);
    assert_eq!(cluster.split(), Some((100, 0)));
    let last = cluster.status().history.last().cloned().unwrap();
    assert_eq!(
        (last.outcome.as_str(), last.cause.as_str()),
        ("RolledBack", "Aborted by alice: checkout is broken")
    );
    assert!(
        last.commands[0].ends_with("abort by alice: checkout is broken"),
        "{:?}",
        last.commands
    );
    assert!(cluster.has_told("Rolling back podinfo.test aborted by alice: checkout is broken"));
}

#[test]
fn a_word_is_honoured_once() {
    let mut cluster = progressing(STEPS);
    say(&mut cluster, CommandWord::Abort, "");
    cluster.run_until(Phase::Failed);
    cluster.deploy("podinfo:3").run_until_calm();
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.times_told("abort by alice"), 1);
}

#[test]
fn promote_goes_past_steps_and_closed_gates_to_the_promotion() {
    let mut cluster = progressing(&with_hooks(
        "stepWeight: 20, maxWeight: 40",
        &["confirm-traffic-increase gate"],
    ));
    cluster.answer_hook("gate", refused());
    cluster.advance(60);
    assert_eq!(cluster.phase(), Phase::Progressing);
    say(&mut cluster, CommandWord::Promote, "tested by hand");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
    let last = cluster.status().history.last().cloned().unwrap();
    assert!(last.commands[0].contains("promote by alice"));
    assert!(last.cause.contains("by a person's word"), "{}", last.cause);
}

#[test]
fn promote_waits_for_pods_that_are_not_ready() {
    let mut cluster = initialised(STEPS);
    cluster.pods("podinfo", Pods::Dead);
    cluster.deploy("podinfo:2").run_until_calm();
    say(&mut cluster, CommandWord::Promote, "");
    assert_eq!(answer(&cluster).0, "Honoured");
    cluster.advance(20);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:1");
    cluster.pods_ready("podinfo");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
}

#[test]
fn promote_opens_the_gate_before_a_run_and_skip_analysis_does_not() {
    let gated = with_hooks("stepWeight: 20, maxWeight: 40", &["confirm-rollout gate"]);
    let waiting = || {
        let mut cluster = initialised(&gated);
        cluster.answer_hook("gate", refused());
        cluster.deploy("podinfo:2").run_until(Phase::Waiting);
        cluster
    };
    let mut cluster = waiting();
    say(&mut cluster, CommandWord::Promote, "");
    cluster.run_until(Phase::Succeeded);

    let mut cluster = waiting();
    say(&mut cluster, CommandWord::SkipAnalysis, "");
    cluster.advance(60);
    assert_eq!(cluster.phase(), Phase::Waiting);
    cluster
        .forget_the_past()
        .answer_hook("gate", HookAnswer::Passed);
    cluster.run_until(Phase::Succeeded);
    assert!(!cluster.splits.contains(&(80, 20)), "{:?}", cluster.splits);
}

#[test]
fn abort_at_the_gate_before_a_run_starts_nothing() {
    let mut cluster = initialised(&with_hooks("stepWeight: 20", &["confirm-rollout gate"]));
    cluster.answer_hook("gate", refused());
    cluster.deploy("podinfo:2").run_until(Phase::Waiting);
    say(&mut cluster, CommandWord::Abort, "not today");
    assert_eq!(cluster.phase(), Phase::Failed);
    cluster.answer_hook("gate", HookAnswer::Passed).advance(60);
    assert_eq!(cluster.phase(), Phase::Failed);
}

#[test]
fn retry_judges_a_failed_revision_once_more() {
    let mut cluster = failed();
    say(&mut cluster, CommandWord::Retry, "");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
    assert_eq!(cluster.outcomes(), ["RolledBack", "Promoted"]);
}

#[test]
fn a_pause_holds_the_step_and_resume_goes_on() {
    let mut cluster = progressing(STEPS);
    cluster.advance(5);
    say(&mut cluster, CommandWord::Pause, "lunch");
    let held = cluster.split();
    cluster.advance(600);
    assert_eq!(cluster.split(), held);
    assert_eq!(cluster.phase(), Phase::Progressing);
    let run = cluster.status().run.unwrap();
    assert_eq!(run.waiting_for.as_deref(), Some("a person to resume"));
    assert_eq!(run.message.as_deref(), Some("Paused by alice: lunch"));
    let (_, reason, _) = cluster.condition(condition_type::STALLED);
    assert_eq!(reason, "Paused");
    say(&mut cluster, CommandWord::Resume, "");
    cluster.run_until(Phase::Succeeded);
}

#[test]
fn a_paused_run_still_rolls_back_by_threshold() {
    let mut cluster = progressing(MEASURED);
    cluster.advance(15);
    say(&mut cluster, CommandWord::Pause, "");
    cluster.answer_metric(SUCCESS_RATE, Measurement::Value(50.0));
    cluster.run_until(Phase::Failed);
}

#[test]
fn a_pause_at_rest_starts_no_run_until_resume() {
    let mut cluster = initialised(STEPS);
    say(&mut cluster, CommandWord::Pause, "freeze");
    cluster.deploy("podinfo:2").advance(600);
    assert_eq!(cluster.phase(), Phase::Initialized);
    say(&mut cluster, CommandWord::Resume, "");
    cluster.run_until(Phase::Succeeded);
    assert_eq!(cluster.image("podinfo-primary"), "podinfo:2");
}

#[test]
fn a_word_that_makes_no_sense_now_is_refused_with_a_reason() {
    let table: [(CommandWord, &str); 5] = [
        (CommandWord::Abort, "no run is under way"),
        (CommandWord::Promote, "no run is under way"),
        (CommandWord::SkipAnalysis, "no run is under way"),
        (CommandWord::Retry, "nothing has failed"),
        (CommandWord::Resume, "it is not paused"),
    ];
    for (word, why) in table {
        let mut cluster = initialised(STEPS);
        say(&mut cluster, word, "");
        let (outcome, message) = answer(&cluster);
        assert_eq!(outcome, "Refused", "{word}");
        assert!(message.contains(why), "{word}: {message}");
        assert_eq!(cluster.phase(), Phase::Initialized);
    }
}

#[test]
fn a_word_from_a_backup_is_too_old_and_a_garbled_one_is_explained() {
    let mut cluster = progressing(STEPS);
    let old = Command {
        word: CommandWord::Abort,
        at: Some("2026-05-04T06:00:00Z".parse().unwrap()),
        ..Command::default()
    };
    annotate(&mut cluster, &old.encode());
    assert!(answer(&cluster).1.contains("more than an hour ago"));
    annotate(&mut cluster, "explode");
    assert!(answer(&cluster).1.contains("expected one of"));
    cluster.run_until(Phase::Succeeded);
}
