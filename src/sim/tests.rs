use super::mutant::{MUTANTS, Mutant};
use super::run::{explain, histories, history};
use super::scenario::Scenario;
use super::workloads::Nature;

/// What an unoptimised build can do in a few seconds. `make sim` does more.
const QUICK: u64 = if cfg!(debug_assertions) { 60 } else { 1_000 };

fn ends_as(nature: Nature, phase: &str) {
    let outcome = history(Scenario::plain(1, nature), None, true);
    assert!(
        outcome.violation.is_none() && outcome.ends.contains_key(phase),
        "{:?}\n{}",
        outcome.ends,
        outcome.story.join("\n")
    );
}

#[test]
fn a_good_release_is_promoted() {
    ends_as(Nature::Good, "Succeeded");
}

#[test]
fn a_slow_release_is_promoted() {
    ends_as(Nature::Slow, "Succeeded");
}

#[test]
fn a_bad_release_is_rolled_back() {
    ends_as(Nature::Bad, "Failed");
}

#[test]
fn a_release_that_never_starts_is_rolled_back() {
    ends_as(Nature::Never, "Failed");
}

#[test]
fn a_release_that_fails_as_primary_is_held_or_rolled_back() {
    ends_as(Nature::Misfit, "Failed");
}

#[test]
fn one_seed_gives_one_history() {
    for seed in 0..10 {
        let once = history(Scenario::of(seed), None, false);
        let again = history(Scenario::of(seed), None, true);
        assert_eq!(once.fingerprint, again.fingerprint, "seed {seed}");
    }
}

#[test]
fn no_history_violates_an_invariant() {
    let report = histories(1, QUICK, 1, None);
    assert!(
        report.is_clean(),
        "{report}\n{}",
        explain(report.failures[0].0, None)
    );
}

/// Defects that show in almost every history.
#[test]
fn glaring_defects_are_caught_at_once() {
    for mutant in [
        Mutant::NoDrain,
        Mutant::ScaleWithoutPrimary,
        Mutant::WeightsOverflow,
        Mutant::ImpatientSteps,
        Mutant::WriteTargetWhole,
        Mutant::NoAlarm,
    ] {
        let report = histories(1, 20, 1, Some(mutant));
        assert!(!report.is_clean(), "{mutant:?} was not caught");
    }
}

/// Each defect is caught: `cargo test --profile simulation --lib every_defect -- --ignored --nocapture` shows after how many histories.
#[test]
#[ignore = "minutes, even in an optimised build"]
fn every_defect_is_caught() {
    let caught = |mutant: &Mutant| {
        let report = histories(1, 3_000, 1, Some(*mutant));
        match report.failures.first() {
            Some((seed, violation)) => println!(
                "{mutant:?}: after {} by {} (seed {seed}: {})",
                report.histories, violation.invariant, violation.text
            ),
            None => println!("{mutant:?}: missed"),
        }
        !report.is_clean()
    };
    let missed: Vec<Mutant> = MUTANTS
        .into_iter()
        .filter(|mutant| !caught(mutant))
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
