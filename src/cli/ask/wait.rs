//! `serin wait`: for pipelines. It waits until the revision that the target carries has come to an end, and its exit code says to which.

use super::exit;
use super::facts::Facts;
use crate::api::{Canary, CanaryStatus, Phase};
use crate::rollout::Stage;
use std::fmt::Write as _;
use std::str::FromStr;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The revision is promoted.
    Succeeded,
    /// The revision is rolled back, or its promotion failed.
    Failed,
    /// The revision has come to an end, whichever.
    Done,
    /// The canary is initialised.
    Initialized,
    /// The phase is this one.
    Phase(Phase),
    /// A condition has this status.
    Condition(String, String),
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(condition) = text.strip_prefix("condition=") {
            let (kind, status) = condition.split_once('=').unwrap_or((condition, "True"));
            return Ok(Self::Condition(kind.to_owned(), status.to_owned()));
        }
        if let Some(phase) = text.strip_prefix("phase=") {
            return Phase::ALL
                .iter()
                .find(|known| known.as_str().eq_ignore_ascii_case(phase))
                .map(|phase| Self::Phase(*phase))
                .ok_or_else(|| {
                    let known: Vec<&str> = Phase::ALL.iter().map(|one| one.as_str()).collect();
                    format!(
                        "no phase is called {phase:?}; there are{}",
                        known.join(", ")
                    )
                });
        }
        match text.to_lowercase().as_str() {
            "succeeded" | "promoted" => Ok(Self::Succeeded),
            "failed" => Ok(Self::Failed),
            "done" => Ok(Self::Done),
            "initialized" => Ok(Self::Initialized),
            _ => Err("expected succeeded, failed, done, initialized, phase=PHASE or condition=TYPE[=STATUS]".to_owned()),
        }
    }
}

/// What one look says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Not yet; the sentence says what is going on.
    GoesOn(String),
    /// It is over: an exit code, and a sentence.
    Over(u8, String),
}

/// Looks at a Canary. `revision` is what the target carried when the waiting began; `None` where that is not known, then any revision counts.
pub fn look(canary: &Canary, goal: &Goal, revision: Option<&str>) -> Look {
    let facts = Facts::of(canary, jiff::Timestamp::UNIX_EPOCH);
    let status = &facts.status;
    let name = facts.name();
    match goal {
        Goal::Phase(phase) if status.phase == *phase => {
            return Look::Over(exit::OK, format!("{name} is {phase}"));
        }
        Goal::Condition(kind, wanted) => {
            let found = status.condition(kind).map(|one| one.status.as_str());
            if found.is_some_and(|found| found.eq_ignore_ascii_case(wanted)) {
                return Look::Over(exit::OK, format!("{name}: {kind} is {wanted}"));
            }
        }
        Goal::Initialized
            if status.promoted.is_some()
                || matches!(status.phase, Phase::Initialized | Phase::Succeeded) =>
        {
            return Look::Over(exit::OK, format!("{name} is initialised"));
        }
        Goal::Succeeded | Goal::Failed | Goal::Done => {
            if let Some((end, sentence)) = end(&name, status, revision) {
                return Look::Over(code(goal, end), sentence);
            }
        }
        _ => {}
    }
    if let Some(refusal) = facts.refusal() {
        return Look::Over(
            exit::REFUSED,
            format!(
                "{name} can't be carried out: {}",
                refusal.message.as_deref().unwrap_or_default()
            ),
        );
    }
    Look::GoesOn(progress(&facts))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Promoted,
    RolledBack,
    Superseded,
}

fn code(goal: &Goal, end: End) -> u8 {
    match (goal, end) {
        (Goal::Failed, End::Promoted) => exit::PROMOTED,
        (Goal::Failed, End::RolledBack) | (_, End::Promoted) => exit::OK,
        (_, End::RolledBack) => exit::ROLLED_BACK,
        (_, End::Superseded) => exit::SUPERSEDED,
    }
}

/// How the revision ended, if it has.
fn end(name: &str, status: &CanaryStatus, revision: Option<&str>) -> Option<(End, String)> {
    let short = |hash: &str| super::screen::short(hash);
    let resting = status
        .run
        .as_ref()
        .is_none_or(|run| Stage::parse(&run.stage) == Some(Stage::PostRollout));
    let promoted = status.promoted.as_ref().map(|one| one.revision.as_str());
    let held = status
        .run
        .as_ref()
        .is_some_and(|run| run.stage == Stage::Held.as_str());
    let mine = |hash: Option<&str>| revision.is_none_or(|revision| hash == Some(revision));
    let cause = status
        .history
        .last()
        .map(|last| last.cause.clone())
        .unwrap_or_default();
    match status.phase {
        Phase::Succeeded | Phase::Initialized if resting && mine(promoted) => Some((
            End::Promoted,
            format!(
                "{name}: revision {} is promoted",
                short(promoted.unwrap_or("?"))
            ),
        )),
        Phase::Failed if (resting || held) && mine(status.last_applied_spec.as_deref()) => {
            Some((End::RolledBack, format!("{name} failed: {cause}")))
        }
        _ => {
            // Another revision is under way: what became of ours stands in the history.
            let revision = revision?;
            let ours = status
                .history
                .iter()
                .rev()
                .find(|past| past.revision == revision)?;
            let under_way = status
                .run
                .as_ref()
                .is_some_and(|run| run.revision == revision);
            if under_way || ours.outcome == "Promoted" && promoted != Some(revision) {
                return None;
            }
            let end = match ours.outcome.as_str() {
                "Promoted" => End::Promoted,
                "Superseded" => End::Superseded,
                // The same revision is tried again, or the history speaks of an earlier try.
                _ if status.last_applied_spec.as_deref() != Some(revision) => return None,
                _ => End::RolledBack,
            };
            Some((
                end,
                format!(
                    "{name}: run {} ended: {}: {}",
                    ours.number, ours.outcome, ours.cause
                ),
            ))
        }
    }
}

/// One line about what is going on.
pub fn progress(facts: &Facts<'_>) -> String {
    let phase = facts.phase_word();
    let mut line = format!("{phase} {} % step {}", facts.canary_weight(), facts.step());
    if facts.run().is_none() {
        phase.clone_into(&mut line);
    }
    if let Some(what) = facts.run().and_then(|run| run.waiting_for.as_deref()) {
        let _ = write!(line, ", waits for {what}");
    }
    if facts.status.failed_checks > 0 {
        let failed = facts.status.failed_checks;
        let _ = write!(line, ", failed checks {failed}/{}", facts.threshold());
    }
    line
}
