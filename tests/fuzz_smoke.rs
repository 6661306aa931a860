//! The fuzz targets of `fuzz/` for a moment and on the stable toolchain: every seed and some thousands of inputs made from it, the same
//! ones each time. `make fuzz` runs the targets under libFuzzer for as long as one likes.

#[allow(dead_code)] // what only libFuzzer calls
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};
use targets::mutate::{self, Chance};

/// How many inputs each target gets; passes over a cluster take longer than a look at a document.
fn inputs(target: &str) -> usize {
    match target {
        "cluster" | "status" => 150,
        _ => 5000,
    }
}

/// The longest that one input may take in a debug build on a busy machine.
const LONGEST: Duration = Duration::from_secs(5);

fn smoke(name: &str) {
    let (_, target) = targets::TARGETS
        .into_iter()
        .find(|(found, _)| *found == name)
        .unwrap_or_else(|| panic!("no target {name}"));
    let seeds = targets::seeds(Path::new(env!("CARGO_MANIFEST_DIR")), name);
    assert!(seeds.len() > 2, "{name} has {} seeds", seeds.len());
    let mut chance = Chance::new(4);
    let mut pool = seeds.clone();
    for round in 0..seeds.len() + inputs(name) {
        let input = match seeds.get(round) {
            Some(seed) => seed.clone(),
            None => mutate::bytes(&pool[chance.below(pool.len())].clone(), &mut chance),
        };
        let begun = Instant::now();
        assert!(
            catch_unwind(|| target(&input)).is_ok(),
            "{name} panics at input {round}: {}",
            String::from_utf8_lossy(&input)
        );
        assert!(
            begun.elapsed() < LONGEST,
            "{name} takes {:?} for input {round}: {}",
            begun.elapsed(),
            String::from_utf8_lossy(&input)
        );
        // Some go on from where others were, so that changes add up.
        if input.len() < 20_000 && chance.below(8) == 0 {
            let place = seeds.len() + chance.below(64);
            if place < pool.len() {
                pool[place] = input;
            } else {
                pool.push(input);
            }
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            let all = targets::TARGETS.map(|(name, _)| name);
            assert_eq!(all, [$(stringify!($name)),*]);
        }
    };
}

targets! { canary status template hook_answer prometheus_answer cluster }
