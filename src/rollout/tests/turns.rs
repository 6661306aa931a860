//! Where only so many runs may be under way at once, a new revision waits for its turn, says its place, and goes on when it comes.

use super::*;
use crate::rollout::Turn;

fn full(place: usize) -> Turn {
    Turn::Waits {
        place,
        limit: "at most 2 runs at once (-max-runs)".to_owned(),
    }
}

#[test]
fn a_new_revision_waits_and_says_its_place_until_its_turn_comes() {
    let mut cluster = initialised(STEPS);
    cluster.turn = full(2);
    cluster.deploy("podinfo:2").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Waiting);
    let run = cluster.status().run.unwrap();
    assert_eq!(run.waiting_for.as_deref(), Some("its turn"));
    assert_eq!(
        run.message.as_deref(),
        Some("Place 2 in the queue: at most 2 runs at once (-max-runs).")
    );
    let since = run.waiting_since;
    assert_eq!(cluster.split(), Some((100, 0)));

    cluster.turn = full(1);
    cluster.advance(20);
    let run = cluster.status().run.unwrap();
    assert!(
        run.message
            .as_deref()
            .is_some_and(|text| text.starts_with("Place 1")),
        "{:?}",
        run.message
    );
    assert_eq!(run.waiting_since, since, "it keeps its place in the order");
    assert_eq!(cluster.times_told("waits for its turn"), 1);

    cluster.turn = Turn::Free;
    cluster.run_until(Phase::Succeeded);
}

#[test]
fn far_back_in_the_queue_a_move_is_not_written() {
    let mut cluster = initialised(STEPS);
    cluster.turn = full(40);
    cluster.deploy("podinfo:2").run_until_calm();
    let mut said = Vec::new();
    for place in (1..=40).rev() {
        cluster.turn = full(place);
        cluster.advance(20);
        said.extend(cluster.status().run.unwrap().message);
    }
    said.dedup();
    assert_eq!(said.len(), 12, "{said:?}");
    assert!(said[0].starts_with("Beyond place 20 in the queue: "));
    assert!(said[11].starts_with("Place 1 in the queue: "));
}

#[test]
fn a_target_that_is_set_back_leaves_the_queue() {
    let mut cluster = initialised(STEPS);
    cluster.turn = full(1);
    cluster.deploy("podinfo:2").run_until_calm();
    cluster.deploy("podinfo:1").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Succeeded);
}

#[test]
fn a_closed_gate_is_waited_for_before_the_turn() {
    let mut cluster = initialised(
        "{interval: 10s, threshold: 2, stepWeight: 20, maxWeight: 40, \
          webhooks: [{name: gate, type: confirm-rollout, url: 'http://gate'}]}",
    );
    cluster.answer_hook("gate", HookAnswer::Refused("no".to_owned()));
    cluster.turn = full(1);
    cluster.deploy("podinfo:2").run_until_calm();
    let waits_for = |cluster: &Cluster| cluster.status().run.unwrap().waiting_for;
    assert_eq!(waits_for(&cluster).as_deref(), Some("gate gate"));
    cluster.answer_hook("gate", HookAnswer::Passed);
    cluster.advance(20);
    assert_eq!(waits_for(&cluster).as_deref(), Some("its turn"));
    cluster.turn = Turn::Free;
    cluster.run_until(Phase::Succeeded);
}

#[test]
fn a_newer_revision_in_mid_run_needs_no_turn_of_its_own() {
    let mut cluster = progressing(STEPS);
    cluster.turn = full(1);
    cluster.deploy("podinfo:3").run_until_calm();
    assert_eq!(cluster.phase(), Phase::Progressing);
}
