//! What the stories of routers measured, for the table in `docs/testing.md`: with `SERIN_FIGURES=FILE` each story that passes writes its rows
//! into that file in place of those that it had there.
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::load::Report;
use crate::tools::project_root;

/// Names the file.
const FILE: &str = "SERIN_FIGURES";
/// The columns of a row.
pub const COLUMNS: [&str; 8] = [
    "scenario", "route", "plane", "sent", "lost", "away", "split", "seconds",
];

/// A split over a whole stay.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Percent that the new release was to answer.
    pub asked: i64,
    /// The part that it did answer, 0..=1.
    pub measured: f64,
    /// Answers of both sides.
    pub answers: u64,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} %: {:.1} % of {}",
            self.asked,
            self.measured * 100.0,
            self.answers
        )
    }
}

/// What one story measured on one plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// What is written to split the traffic, and whose it is.
    pub route: String,
    /// What carries the traffic.
    pub plane: String,
    /// Requests sent.
    pub sent: u64,
    /// Those that nobody answered, apart from `away`.
    pub lost: u64,
    /// Those that nobody answered while somebody had deleted the route.
    pub away: u64,
    /// What was found of the split.
    pub split: String,
}

impl Figures {
    /// From the whole account of the visitors, in which so many met a gateway whose route somebody had deleted.
    #[must_use]
    pub fn new(route: &str, plane: &str, whole: &Report, away: u64, split: String) -> Self {
        Self {
            route: route.to_owned(),
            plane: plane.to_owned(),
            sent: whole.requests,
            lost: whole.lost().saturating_sub(away),
            away,
            split,
        }
    }

    fn row(&self, scenario: &str, seconds: f64) -> String {
        let row = [
            scenario.to_owned(),
            self.route.clone(),
            self.plane.clone(),
            self.sent.to_string(),
            self.lost.to_string(),
            self.away.to_string(),
            self.split.clone(),
            format!("{seconds:.0}"),
        ];
        row.join("\t")
    }
}

/// The shares one after the other.
#[must_use]
pub fn in_words(shares: &[Share]) -> String {
    let words: Vec<String> = shares.iter().map(Share::to_string).collect();
    words.join("; ")
}

/// What the stories of a bed have measured so far, by the name of the story.
#[derive(Default)]
pub struct Book(Mutex<BTreeMap<String, Vec<Figures>>>);

impl Book {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Figures>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down what a story measured.
    pub fn note(&self, scenario: &str, figures: Figures) {
        println!(
            "        {}, {}: {} sent, {} lost, {} while the route was away; {}",
            figures.route, figures.plane, figures.sent, figures.lost, figures.away, figures.split
        );
        self.all()
            .entry(scenario.to_owned())
            .or_default()
            .push(figures);
    }

    /// Writes the rows of a story that passed, where somebody asks for them.
    pub fn publish(&self, scenario: &str, seconds: f64) -> Result<()> {
        let rows: Vec<String> = self
            .all()
            .remove(scenario)
            .into_iter()
            .flatten()
            .map(|figures| figures.row(scenario, seconds))
            .collect();
        let Some(name) = std::env::var_os(FILE).filter(|_| !rows.is_empty()) else {
            return Ok(());
        };
        let path = project_root()?.join(name);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("{FILE} names {}, which can't be opened", path.display()))?;
        // Beds run side by side.
        file.lock()?;
        let mut before = String::new();
        file.read_to_string(&mut before)?;
        let after = replaced(&before, scenario, rows)?;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(after.as_bytes())?;
        Ok(())
    }
}

/// The file's text with these rows in place of those that the story had in it, in the order of their names.
fn replaced(before: &str, scenario: &str, rows: Vec<String>) -> Result<String> {
    let head = COLUMNS.join("\t");
    let mut lines = before.lines();
    if let Some(found) = lines.next() {
        ensure!(
            found == head,
            "expected a file of figures to begin with {head:?}, found {found:?}"
        );
    }
    let others = lines.filter(|line| line.split('\t').next() != Some(scenario));
    let mut all: Vec<String> = others.map(str::to_owned).chain(rows).collect();
    all.sort();
    Ok(format!("{head}\n{}\n", all.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scenario: &str, sent: u64) -> String {
        let figures = Figures {
            route: "HTTPRoute".to_owned(),
            plane: "Traefik".to_owned(),
            sent,
            lost: 0,
            away: 3,
            split: in_words(&[Share {
                asked: 30,
                measured: 0.2991,
                answers: 2000,
            }]),
        };
        figures.row(scenario, 61.4)
    }

    #[test]
    fn a_story_that_is_told_again_replaces_its_rows_and_no_others() -> Result<()> {
        let once = replaced("", "b", vec![row("b", 1)])?;
        let twice = replaced(&once, "a", vec![row("a", 2)])?;
        let again = replaced(&twice, "b", vec![row("b", 3)])?;
        assert_eq!(
            again,
            "scenario\troute\tplane\tsent\tlost\taway\tsplit\tseconds\n\
             a\tHTTPRoute\tTraefik\t2\t0\t3\t30 %: 29.9 % of 2000\t61\n\
             b\tHTTPRoute\tTraefik\t3\t0\t3\t30 %: 29.9 % of 2000\t61\n"
        );
        assert!(replaced("something else\n", "a", Vec::new()).is_err());
        Ok(())
    }
}
