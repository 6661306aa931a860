//! Whose turn it is: where the operator allows only so many runs at once, in all or in one namespace, the others wait in the order in which they
//! came. One that only its namespace holds up stands in nobody's way elsewhere.

use jiff::Timestamp;

/// What `status.run.waitingFor` says meanwhile.
pub const WAIT_TURN: &str = "its turn";

/// How many runs may be under way at once; 0 is as many as there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// In all namespaces together (`-max-runs`).
    pub everywhere: usize,
    /// In each namespace (`-max-runs-per-namespace`).
    pub in_namespace: usize,
}

impl Limits {
    /// Whether anything is limited.
    #[must_use]
    pub fn any(self) -> bool {
        self.everywhere > 0 || self.in_namespace > 0
    }
}

/// Where another canary stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// A run of it is under way: pods of it run beside the primary's, or are about to.
    Runs,
    /// It waits for its turn since then.
    Waits(Timestamp),
}

/// Another canary that runs or waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Competitor {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub stands: Stands,
}

/// Whether a run may begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// At once.
    #[default]
    Free,
    /// Not yet.
    Waits {
        /// Position among those that wait for the same, 1 is the next.
        place: usize,
        /// What is full, for people.
        limit: String,
    },
}

/// Whether a run of the canary `name` may begin, which waits since `since`, or comes only now.
#[must_use]
pub fn turn(
    limits: Limits,
    namespace: &str,
    name: &str,
    since: Option<Timestamp>,
    others: &[Competitor],
) -> Turn {
    let running = |inside: Option<&str>| {
        others
            .iter()
            .filter(|other| other.stands == Stands::Runs)
            .filter(|other| inside.is_none_or(|namespace| other.namespace == namespace))
            .count()
    };
    let free = |limit: usize, taken: usize| match limit {
        0 => usize::MAX,
        limit => limit.saturating_sub(taken),
    };
    // Those that came before, in their order.
    let mut before: Vec<(Timestamp, &str, &str)> = others
        .iter()
        .filter_map(|other| match other.stands {
            Stands::Waits(at) => Some((at, other.namespace.as_str(), other.name.as_str())),
            Stands::Runs => None,
        })
        .filter(|other| since.is_none_or(|since| *other < (since, namespace, name)))
        .collect();
    before.sort_unstable();
    let mut everywhere = free(limits.everywhere, running(None));
    let mut granted: Vec<&str> = Vec::new();
    let slots_in = |inside: &str, granted: &[&str]| {
        let begun = granted.iter().filter(|one| **one == inside).count();
        free(limits.in_namespace, running(Some(inside)) + begun)
    };
    let mut left: Vec<&str> = Vec::new();
    for (_, inside, _) in before {
        if everywhere > 0 && slots_in(inside, &granted) > 0 {
            everywhere -= 1;
            granted.push(inside);
        } else {
            left.push(inside);
        }
    }
    let crowded = slots_in(namespace, &granted) == 0;
    if everywhere > 0 && !crowded {
        return Turn::Free;
    }
    if crowded {
        Turn::Waits {
            place: 1 + left.iter().filter(|inside| **inside == namespace).count(),
            limit: format!(
                "at most {} in the namespace {namespace} (-max-runs-per-namespace)",
                runs(limits.in_namespace)
            ),
        }
    } else {
        Turn::Waits {
            place: 1 + left.len(),
            limit: format!("at most {} (-max-runs)", runs(limits.everywhere)),
        }
    }
}

/// How the status tells a place: exactly where it is nearly one's turn, and by the round number that it is beyond further back. A long queue is
/// then not written anew at each move: of a thousand who wait ten are, and the few who come past a round number.
#[must_use]
pub fn place_told(place: usize) -> String {
    const EXACT: usize = 10;
    if place <= EXACT {
        return format!("Place {place} in the queue");
    }
    let round = std::iter::successors(Some(EXACT), |round| round.checked_mul(10))
        .flat_map(|ten| [1, 2, 5].map(|times| ten.saturating_mul(times)))
        .take_while(|round| *round < place)
        .last()
        .unwrap_or(EXACT);
    format!("Beyond place {round} in the queue")
}

fn runs(number: usize) -> String {
    match number {
        1 => "1 run at once".to_owned(),
        number => format!("{number} runs at once"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or_default()
    }

    fn other(namespace: &str, name: &str, waits: Option<i64>) -> Competitor {
        Competitor {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            stands: waits.map_or(Stands::Runs, |since| Stands::Waits(at(since))),
        }
    }

    fn place(turn: &Turn) -> usize {
        match turn {
            Turn::Free => 0,
            Turn::Waits { place, .. } => *place,
        }
    }

    /// limits (all, namespace); who runs; who waits since when; ours: namespace, since; place, 0 where it is our turn.
    type Row = (
        (usize, usize),
        &'static [&'static str],
        &'static [(&'static str, i64)],
        (&'static str, Option<i64>),
        usize,
    );

    #[test]
    fn turns_are_given_in_order_of_arrival() {
        let rows: [Row; 12] = [
            ((0, 0), &["a", "a"], &[("a", 1)], ("a", None), 0),
            ((2, 0), &["a"], &[], ("a", None), 0),
            ((2, 0), &["a", "b"], &[], ("a", None), 1),
            ((2, 0), &["a", "b"], &[("a", 1), ("b", 2)], ("a", None), 3),
            (
                (2, 0),
                &["a", "b"],
                &[("a", 1), ("b", 9)],
                ("a", Some(5)),
                2,
            ),
            // A slot is free, and somebody has waited for it.
            ((2, 0), &["a"], &[("b", 1)], ("a", None), 1),
            ((2, 0), &["a"], &[("b", 9)], ("a", Some(5)), 0),
            ((0, 1), &["a"], &[], ("b", None), 0),
            ((0, 1), &["a"], &[], ("a", None), 1),
            ((0, 1), &["a"], &[("a", 1), ("b", 2)], ("a", None), 2),
            // Who is held up by a full namespace stands in nobody's way elsewhere.
            ((2, 1), &["a"], &[("a", 1), ("a", 2)], ("b", None), 0),
            ((2, 1), &["a", "c"], &[("a", 1)], ("b", None), 2),
        ];
        for (
            number,
            ((everywhere, in_namespace), running, waiting, (namespace, since), expected),
        ) in rows.into_iter().enumerate()
        {
            let limits = Limits {
                everywhere,
                in_namespace,
            };
            let others: Vec<Competitor> = running
                .iter()
                .enumerate()
                .map(|(index, inside)| other(inside, &format!("r{index}"), None))
                .chain(waiting.iter().enumerate().map(|(index, (inside, since))| {
                    other(inside, &format!("w{index}"), Some(*since))
                }))
                .collect();
            let turn = turn(limits, namespace, "ours", since.map(at), &others);
            assert_eq!(place(&turn), expected, "row {number}: {turn:?}");
        }
    }

    #[test]
    fn a_place_is_told_exactly_where_it_is_near_and_by_rounds_further_back() {
        for (place, told) in [
            (1, "Place 1 in the queue"),
            (10, "Place 10 in the queue"),
            (11, "Beyond place 10 in the queue"),
            (20, "Beyond place 10 in the queue"),
            (21, "Beyond place 20 in the queue"),
            (100, "Beyond place 50 in the queue"),
            (101, "Beyond place 100 in the queue"),
            (999, "Beyond place 500 in the queue"),
        ] {
            assert_eq!(place_told(place), told);
        }
        // Of a thousand who move up by one so many are written.
        let written = (2..=1000).filter(|place| place_told(*place) != place_told(place - 1));
        assert_eq!(written.count(), 15);
    }

    #[test]
    fn what_is_full_is_said() {
        let limits = Limits {
            everywhere: 0,
            in_namespace: 1,
        };
        assert_eq!(
            turn(limits, "shop", "web", None, &[other("shop", "api", None)]),
            Turn::Waits {
                place: 1,
                limit: "at most 1 run at once in the namespace shop (-max-runs-per-namespace)"
                    .to_owned()
            }
        );
    }
}
