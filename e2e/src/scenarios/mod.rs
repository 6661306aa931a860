//! The stories that are told on a bed, and the table of them.
mod gateway_splits;
mod serin_starts;

use anyhow::Result;
use futures::future::LocalBoxFuture;

use crate::bed::Bed;

/// Whom a scenario shares its bed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// Stays in namespaces of its own, so that others may run beside it on the same bed.
    Shared,
    /// Stops parts, or looks at the whole cluster: gets a bed of its own.
    Alone,
}

/// One story.
pub struct Scenario {
    /// What `serin-e2e run NAME` calls it.
    pub name: &'static str,
    /// What holds when it passes.
    pub title: &'static str,
    pub company: Company,
    pub run: for<'a> fn(&'a Bed) -> LocalBoxFuture<'a, Result<()>>,
}

macro_rules! scenario {
    ($company:ident, $name:literal, $run:path, $title:literal) => {
        Scenario {
            name: $name,
            title: $title,
            company: Company::$company,
            run: |bed| Box::pin($run(bed)),
        }
    };
}

/// Every scenario.
pub const ALL: &[Scenario] = &[
    scenario!(
        Shared,
        "gateway-splits",
        gateway_splits::run,
        "an HTTPRoute of 80 to 20 splits real traffic like that, and nothing is lost"
    ),
    scenario!(
        Shared,
        "serin-starts",
        serin_starts::run,
        "the controller starts, tells an odd Canary what is wrong with it, and stops with 0 on SIGTERM"
    ),
];

/// The scenarios of these names, all if none is named.
pub fn select(names: &[String]) -> Result<Vec<&'static Scenario>> {
    for name in names {
        let known: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        anyhow::ensure!(
            known.contains(&name.as_str()),
            "no scenario is called {name:?}; there are: {}",
            known.join(", ")
        );
    }
    Ok(ALL
        .iter()
        .filter(|scenario| names.is_empty() || names.iter().any(|name| name == scenario.name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_can_be_namespaces() {
        let names: std::collections::BTreeSet<&str> =
            ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            assert!(
                name.len() < 50
                    && name
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{name}"
            );
        }
    }
}
