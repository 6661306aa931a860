//! `serin history`: the runs that are remembered, the newest first, the one under way on top.

use super::facts::{Facts, outcome_tone};
use super::screen::{Cell, Style, Tone, clock, cut, short, span, table};
use crate::api::Canary;
use jiff::Timestamp;

/// The table of runs.
pub fn render(canary: &Canary, now: Timestamp, style: Style) -> String {
    let facts = Facts::of(canary, now);
    let mut rows: Vec<Vec<Cell>> = vec![
        ["RUN", "REVISION", "OUTCOME", "BEGAN", "TOOK", "WHY"]
            .map(|title| Cell::new(Tone::Faint, title))
            .to_vec(),
    ];
    let took = |from: Option<Timestamp>, to: Timestamp| {
        from.map_or_else(
            || "-".to_owned(),
            |from| span(to.duration_since(from).as_secs()),
        )
    };
    let began = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| clock(at, now));
    // A promotion that is held stands in the history already.
    let told = facts.status.history.last().map(|last| last.number);
    if let Some(run) = facts.run().filter(|run| Some(run.number) != told) {
        rows.push(vec![
            run.number.to_string().into(),
            short(&run.revision).into(),
            Cell::new(Tone::Strong, run.stage.clone()),
            began(run.started_at).into(),
            took(run.started_at, now).into(),
            cut(run.message.as_deref().unwrap_or_default(), 120).into(),
        ]);
    }
    for past in facts.status.history.iter().rev() {
        rows.push(vec![
            past.number.to_string().into(),
            short(&past.revision).into(),
            Cell::new(outcome_tone(&past.outcome), past.outcome.clone()),
            began(past.started_at).into(),
            past.ended_at
                .map_or_else(|| "-".to_owned(), |ended| took(past.started_at, ended))
                .into(),
            cut(&past.cause, 120).into(),
        ]);
    }
    if rows.len() == 1 {
        return format!("{} has had no run yet.\n", facts.name());
    }
    table(&rows, 0, style)
}
