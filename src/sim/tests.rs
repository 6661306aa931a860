use super::mutant::Mutant;
use super::run::{self, explain, histories, history};
use super::scenario::Scenario;
use super::workloads::Nature;

/// What an unoptimised build can do in a few seconds. `make sim` does more.
const QUICK: u64 = if cfg!(debug_assertions) { 24 } else { 1_000 };

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

/// What earlier decisions worked out saves work and changes nothing.
#[test]
fn memory_changes_no_history() {
    for seed in 0..QUICK / 2 {
        let remembering = history(Scenario::of(seed), None, false);
        let forgetful = run::forgetful_history(Scenario::of(seed));
        assert_eq!(
            remembering.fingerprint, forgetful.fingerprint,
            "seed {seed}"
        );
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
