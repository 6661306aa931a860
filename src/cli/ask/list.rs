//! `serin get`: one line for each canary.

use super::facts::{Facts, phase_tone, verdict_tone, verdict_word};
use super::screen::{Cell, Style, Tone, ago, bar, cut, short, table};
use crate::api::{Canary, Metadata};
use jiff::Timestamp;
use serde_json::Value;

/// What stands in one line.
#[derive(Debug)]
pub enum Line {
    /// A canary.
    Canary(Box<Canary>),
    /// One that can't be read: its name, and why. It hides no other.
    Odd(Box<Metadata>, String),
}

impl Line {
    /// Of a custom resource as it is.
    pub fn of(value: &Value) -> Self {
        match Canary::decode(value) {
            Ok(canary) => Self::Canary(Box::new(canary)),
            Err(error) => Self::Odd(Box::new(Metadata::of(value)), error.to_string()),
        }
    }
}

/// What the table shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// A column for the namespace, first.
    pub namespace: bool,
    /// Target, router, revisions and the present sentence too.
    pub wide: bool,
}

/// The table, with its head.
pub fn render(lines: &[Line], columns: Columns, now: Timestamp, style: Style) -> String {
    let mut head = vec![
        "NAME", "PHASE", "TRAFFIC", "STEP", "FAILED", "VERDICT", "AGE",
    ];
    if columns.namespace {
        head.insert(0, "NAMESPACE");
    }
    if columns.wide {
        head.extend(["TARGET", "ROUTER", "PROMOTED", "JUDGED", "SAYS"]);
    }
    let mut rows = vec![
        head.into_iter()
            .map(|title| Cell::new(Tone::Faint, title))
            .collect(),
    ];
    rows.extend(lines.iter().map(|line| match line {
        Line::Canary(canary) => row(canary, columns, now),
        Line::Odd(metadata, why) => odd_row(metadata, why, columns, now),
    }));
    table(&rows, 0, style)
}

fn odd_row(metadata: &Metadata, why: &str, columns: Columns, now: Timestamp) -> Vec<Cell> {
    let nothing = || Cell::from("");
    let mut cells = vec![
        metadata.name.clone().into(),
        refused(),
        nothing(),
        nothing(),
        nothing(),
        nothing(),
        ago(metadata.creation_timestamp, now).into(),
    ];
    if columns.namespace {
        cells.insert(0, metadata.namespace.clone().into());
    }
    if columns.wide {
        cells.extend([
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            cut(why, 100).into(),
        ]);
    }
    cells
}

fn refused() -> Cell {
    Cell::new(Tone::Bad, "Refused")
}

fn row(canary: &Canary, columns: Columns, now: Timestamp) -> Vec<Cell> {
    let facts = Facts::of(canary, now);
    let status = &facts.status;
    let phase = match status.phase.as_str() {
        "" => "-",
        phase => phase,
    };
    let phase = if facts.refusal().is_some() {
        refused()
    } else if canary.spec.suspended() {
        Cell::new(Tone::Warning, "Suspended")
    } else {
        Cell::new(phase_tone(status.phase), phase)
    };
    let weight = facts.canary_weight();
    let failed = if facts.run().is_some() {
        let tone = if status.failed_checks > 0 {
            Tone::Warning
        } else {
            Tone::Plain
        };
        Cell::new(
            tone,
            format!("{}/{}", status.failed_checks, facts.threshold()),
        )
    } else {
        Cell::from("")
    };
    let verdict = facts.telling_metric().map_or_else(
        || Cell::from(""),
        |metric| {
            Cell::new(
                verdict_tone(metric.verdict),
                format!(
                    "{} {} {}",
                    metric.name,
                    metric.value.as_deref().unwrap_or("-"),
                    verdict_word(metric.verdict)
                ),
            )
        },
    );
    let mut cells = vec![
        canary.metadata.name.clone().into(),
        phase,
        format!("{} {weight:>3} %", bar(weight)).into(),
        facts.step().into(),
        failed,
        verdict,
        ago(canary.metadata.creation_timestamp, now).into(),
    ];
    if columns.namespace {
        cells.insert(0, canary.metadata.namespace.clone().into());
    }
    if columns.wide {
        let target = &canary.spec.target_ref;
        let promoted = status.promoted.as_ref().map(|one| short(&one.revision));
        let judged = facts.run().map(|run| short(&run.revision));
        let says = facts
            .refusal()
            .and_then(|refusal| refusal.message.clone())
            .or_else(|| facts.run().and_then(|run| run.message.clone()))
            .or_else(|| {
                let last = status.history.last()?;
                Some(last.cause.clone())
            });
        cells.extend([
            format!("{}/{}", target.kind.to_lowercase(), target.name).into(),
            status
                .observed
                .get("router")
                .cloned()
                .unwrap_or_default()
                .into(),
            promoted.unwrap_or_default().into(),
            judged.unwrap_or_default().into(),
            cut(&says.unwrap_or_default(), 100).into(),
        ]);
    }
    cells
}
