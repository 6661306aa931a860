//! Many histories at once, over all cores; the smaller history of a failing seed; and the table of which fault struck in which phase.

use super::invariants::{Violation, fingerprint};
use super::mutant::{MUTANTS, Mutant};
use super::scenario::{FAULTS, Fault, Scenario};
use super::world::{Coverage, World};
use crate::api::Phase;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many lines of a story are shown.
const LINES: usize = 60;

/// What came of one history.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first violation, if there was one.
    pub violation: Option<Violation>,
    /// Faults that struck.
    pub coverage: Coverage,
    /// Passes of the controller.
    pub passes: u64,
    /// Phase at the end.
    pub ends: BTreeMap<String, u64>,
    /// The same for two runs of one seed.
    pub fingerprint: u64,
    /// The last lines of the story, where one was asked for.
    pub story: Vec<String>,
}

/// Lets one history happen.
#[must_use]
pub fn history(scenario: Scenario, mutant: Option<Mutant>, tell: bool) -> Outcome {
    finish(World::new(scenario, mutant, tell))
}

/// The same with decisions that work everything out anew each time.
#[must_use]
pub fn forgetful_history(scenario: Scenario) -> Outcome {
    let mut world = World::new(scenario, None, false);
    world.remembers = false;
    finish(world)
}

fn finish(mut world: World) -> Outcome {
    world.run();
    Outcome {
        violation: world.violations.first().cloned(),
        fingerprint: fingerprint(&world),
        story: world.story(LINES),
        coverage: world.coverage,
        passes: world.passes,
        ends: world.ends,
    }
}

/// The smallest history found that still violates the same invariant: acts and faults are left out one after the other.
#[must_use]
pub fn shrink(scenario: &Scenario, violation: &Violation, mutant: Option<Mutant>) -> Scenario {
    let fails = |scenario: &Scenario| {
        history(scenario.clone(), mutant, false)
            .violation
            .is_some_and(|found| found.invariant == violation.invariant)
    };
    let mut smallest = scenario.clone();
    loop {
        let Some(smaller) = smallest.smaller().find(fails) else {
            return smallest;
        };
        smallest = smaller;
    }
}

/// What came of many histories.
#[derive(Debug, Default)]
pub struct Report {
    /// How many.
    pub histories: u64,
    /// In what time.
    pub took: Duration,
    /// Passes of the controller in all of them.
    pub passes: u64,
    /// Seeds that violated something, with what.
    pub failures: Vec<(u64, Violation)>,
    /// Faults that struck.
    pub coverage: Coverage,
    /// Phases at the end.
    pub ends: BTreeMap<String, u64>,
}

/// Lets the histories of `seed`, `seed + 1`, … happen on all cores. Stops early after `enough` failures.
#[must_use]
pub fn histories(seed: u64, count: u64, enough: usize, mutant: Option<Mutant>) -> Report {
    watched_histories(seed, count, enough, mutant, None)
}

/// The same, with somebody who looks at what is done already.
fn watched_histories(
    seed: u64,
    count: u64,
    enough: usize,
    mutant: Option<Mutant>,
    progress: Option<&Progress>,
) -> Report {
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(0);
    let parts: Vec<Report> = std::thread::scope(|scope| {
        let work = || {
            let mut part = Report::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count || failed.load(Ordering::Relaxed) >= enough as u64 {
                    return part;
                }
                let seed = seed.wrapping_add(number);
                let outcome = history(Scenario::of(seed), mutant, false);
                part.histories += 1;
                part.passes += outcome.passes;
                add(&mut part.coverage, outcome.coverage);
                add(&mut part.ends, outcome.ends);
                if let Some(violation) = outcome.violation {
                    failed.fetch_add(1, Ordering::Relaxed);
                    part.failures.push((seed, violation));
                }
                if let Some(progress) = progress {
                    progress.say(number, count, failed.load(Ordering::Relaxed), started);
                }
            }
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .filter_map(|handle| handle.join().ok())
            .collect()
    });
    let mut report = Report::default();
    for part in parts {
        report.histories += part.histories;
        report.passes += part.passes;
        report.failures.extend(part.failures);
        add(&mut report.coverage, part.coverage);
        add(&mut report.ends, part.ends);
    }
    report.failures.sort_by_key(|(seed, _)| *seed);
    report.took = started.elapsed();
    report
}

/// Says now and then how far a long run has come: on a terminal in one line that changes, elsewhere a line every half minute.
struct Progress {
    terminal: bool,
    /// When it spoke last, in seconds since the start.
    spoke: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            spoke: AtomicU64::new(0),
        }
    }

    fn say(&self, done: u64, of: u64, failed: u64, started: Instant) {
        let seconds = started.elapsed().as_secs();
        let spoke = self.spoke.load(Ordering::Relaxed);
        let pause = if self.terminal { 1 } else { 30 };
        let due = seconds >= spoke + pause
            && self
                .spoke
                .compare_exchange(spoke, seconds, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !due {
            return;
        }
        let rate = done as f64 / seconds as f64;
        let text =
            format!("{done} of {of} histories, {rate:.0} a second, {failed} with violations");
        if self.terminal {
            eprint!("\r{text}  ");
        } else {
            eprintln!("{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.spoke.load(Ordering::Relaxed) > 0 {
            eprintln!();
        }
    }
}

fn add<K: Ord>(sum: &mut BTreeMap<K, u64>, part: BTreeMap<K, u64>) {
    for (key, count) in part {
        *sum.entry(key).or_default() += count;
    }
}

impl Report {
    /// Whether nothing was violated.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.took.as_secs_f64().max(0.001);
        writeln!(
            f,
            "{} histories in {seconds:.1} s ({:.0} a second), {} passes, {} violations",
            self.histories,
            self.histories as f64 / seconds,
            self.passes,
            self.failures.len()
        )?;
        let ends: Vec<String> = self
            .ends
            .iter()
            .map(|(phase, count)| format!("{phase} {count}"))
            .collect();
        writeln!(f, "ends: {}", ends.join(", "))?;
        write!(f, "{}", table(&self.coverage))
    }
}

/// Faults by the phase in which they struck.
fn table(coverage: &Coverage) -> String {
    let phases = [
        Phase::Unset,
        Phase::Initializing,
        Phase::Initialized,
        Phase::Waiting,
        Phase::Progressing,
        Phase::WaitingPromotion,
        Phase::Promoting,
        Phase::Finalising,
        Phase::Succeeded,
        Phase::Failed,
    ];
    let mut text = format!("{:<18}", "faults by phase");
    for (_, name) in FAULTS {
        let _ = write!(text, "{name:>14}");
    }
    text.push('\n');
    for phase in phases {
        let _ = write!(
            text,
            "{:<18}",
            if phase == Phase::Unset {
                "(new)"
            } else {
                phase.as_str()
            }
        );
        for (fault, _) in FAULTS {
            let count = coverage
                .get(&(phase.as_str().to_owned(), fault))
                .copied()
                .unwrap_or(0);
            let _ = write!(text, "{count:>14}");
        }
        text.push('\n');
    }
    text
}

/// The story of one seed, made as small as it can be: what is needed to understand a violation.
#[must_use]
pub fn explain(seed: u64, mutant: Option<Mutant>) -> String {
    let scenario = Scenario::of(seed);
    let outcome = history(scenario.clone(), mutant, true);
    let Some(violation) = outcome.violation else {
        return format!(
            "seed {seed} violates nothing\n{}\n",
            outcome.story.join("\n")
        );
    };
    let smaller = shrink(&scenario, &violation, mutant);
    let outcome = history(smaller.clone(), mutant, true);
    let violation = outcome.violation.unwrap_or(violation);
    let mut text = format!(
        "seed {seed} violates {}: {}\n",
        violation.invariant, violation.text
    );
    let _ = writeln!(text, "spec: {}", smaller.spec);
    let _ = writeln!(
        text,
        "replicas {}, gateway lag {} ms",
        smaller.replicas, smaller.gateway_lag
    );
    for (at, act) in &smaller.acts {
        let _ = writeln!(text, "  act   {:>9.3}s  {act:?}", *at as f64 / 1000.0);
    }
    for (at, fault) in &smaller.faults {
        let _ = writeln!(text, "  fault {:>9.3}s  {fault:?}", *at as f64 / 1000.0);
    }
    for reaction in &smaller.reactions {
        let _ = writeln!(
            text,
            "  on {} +{} ms {:?}",
            reaction.phase.as_str(),
            reaction.delay,
            reaction.what
        );
    }
    for line in outcome.story {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// What is asked of the simulation.
#[derive(Clone, Debug)]
pub struct Wish {
    /// How many histories.
    pub histories: u64,
    /// The seed of the first; the others follow by one.
    pub seed: u64,
    /// Tell the story of the one seed instead.
    pub story: bool,
    /// Put in one deliberate defect after the other instead, and say what caught each.
    pub mutants: bool,
    /// After how many histories with violations to stop.
    pub failures: usize,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            histories: 1_000,
            seed: 1,
            story: false,
            mutants: false,
            failures: 5,
        }
    }
}

/// What `serin simulate` does. Returns what to print and whether all is well.
#[must_use]
pub fn carry_out(wish: &Wish) -> (String, bool) {
    if wish.story {
        return (explain(wish.seed, None), true);
    }
    if wish.mutants {
        return mutants(wish.seed, wish.histories);
    }
    simulate(wish.seed, wish.histories, wish.failures)
}

/// Runs `count` histories from `seed` on.
fn simulate(seed: u64, count: u64, enough: usize) -> (String, bool) {
    let report = watched_histories(seed, count, enough, None, Some(&Progress::new()));
    let mut text = report.to_string();
    if let Some((seed, _)) = report.failures.first() {
        for (seed, violation) in &report.failures {
            let _ = writeln!(
                text,
                "seed {seed}: {}: {}",
                violation.invariant, violation.text
            );
        }
        text.push('\n');
        text.push_str(&explain(*seed, None));
    }
    (text, report.is_clean())
}

/// Puts in each defect of [`MUTANTS`], for at most `count` histories, and says what caught it.
fn mutants(seed: u64, count: u64) -> (String, bool) {
    let mut text = String::from(
        "| mutant | the defect | Flagger's | caught by | after histories |\n|---|---|---|---|---|\n",
    );
    let mut missed = 0;
    for mutant in MUTANTS {
        let report = histories(seed, count, 1, Some(mutant));
        let (by, after) = if let Some((_, violation)) = report.failures.first() {
            (violation.invariant, report.histories.to_string())
        } else {
            missed += 1;
            ("**nothing**", format!("{} and none", report.histories))
        };
        let (defect, stands_for) = mutant.meaning();
        let _ = writeln!(
            text,
            "| {mutant:?} | {defect} | {stands_for} | {by} | {after} |"
        );
    }
    let _ = writeln!(text, "{} mutants, {missed} missed", MUTANTS.len());
    (text, missed == 0)
}

/// A fault by its name in [`FAULTS`].
#[must_use]
pub fn fault_named(name: &str) -> Option<Fault> {
    FAULTS
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(fault, _)| *fault)
}
