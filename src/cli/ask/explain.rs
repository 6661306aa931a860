//! `serin explain`: why a canary is where it is, what it waits for and what happens next, from the object alone.

use super::facts::{Facts, Place, metric_line, outcome_tone, phase_tone, verdict_word};
use super::screen::{Style, Tone, ago, clock, moment, short, span};
use crate::api::{Canary, FailurePromotion, HookType, Phase, Strategy, Verdict};
use crate::rollout::Stage;
use jiff::Timestamp;
use std::fmt::Write as _;

/// A heading with its sentences.
struct Paragraph {
    title: &'static str,
    sentences: Vec<String>,
}

/// The whole explanation.
pub fn render(canary: &Canary, now: Timestamp, style: Style) -> String {
    let facts = Facts::of(canary, now);
    let paragraphs = [
        ("Where", whereabouts(&facts)),
        ("Why", reasons(&facts)),
        ("Reads", readings(&facts)),
        ("Waits", waits(&facts)),
        ("Next", next(&facts)),
        ("You can", ways(&facts)),
    ]
    .map(|(title, sentences)| Paragraph { title, sentences });
    let phase = facts.phase_word();
    let head = format!(
        "{} is {}{}\n",
        style.paint(Tone::Strong, &facts.name()),
        style.paint(phase_tone(facts.phase()), phase),
        facts
            .run()
            .map(|run| format!(
                ": run {} of revision {}, since {}",
                run.number,
                short(&run.revision),
                ago(run.started_at, now)
            ))
            .unwrap_or_default()
    );
    head + &lay_out(&paragraphs, style)
}

/// What is remembered of one run.
pub fn render_run(
    canary: &Canary,
    number: i64,
    now: Timestamp,
    style: Style,
) -> Result<String, String> {
    let facts = Facts::of(canary, now);
    if facts.run().is_some_and(|run| run.number == number) {
        return Ok(render(canary, now, style));
    }
    let Some(past) = facts
        .status
        .history
        .iter()
        .rev()
        .find(|past| past.number == number)
    else {
        let known: Vec<String> = facts
            .status
            .history
            .iter()
            .map(|past| past.number.to_string())
            .collect();
        return Err(format!(
            "{} remembers no run {number}; it remembers {}",
            facts.name(),
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        ));
    };
    let head = format!(
        "Run {number} of {} judged revision {}: {}\n",
        style.paint(Tone::Strong, &facts.name()),
        short(&past.revision),
        style.paint(outcome_tone(&past.outcome), &past.outcome),
    );
    let mut times = Vec::new();
    if let (Some(began), Some(ended)) = (past.started_at, past.ended_at) {
        times.push(format!(
            "It began at {} and ended at {}, after {}.",
            clock(began, now),
            clock(ended, now),
            span(ended.duration_since(began).as_secs())
        ));
    }
    let mut reasons = vec![sentence(&past.cause)];
    let last = facts.status.history.last().map(|last| last.number) == Some(number);
    if last && facts.run().is_none() {
        reasons.extend(measurements(&facts));
    }
    let paragraphs = [
        ("When", times),
        ("Why", reasons),
        ("Words", past.commands.clone()),
    ]
    .map(|(title, sentences)| Paragraph { title, sentences });
    Ok(head + &lay_out(&paragraphs, style))
}

fn lay_out(paragraphs: &[Paragraph], style: Style) -> String {
    let mut text = String::new();
    for paragraph in paragraphs.iter().filter(|one| !one.sentences.is_empty()) {
        for (line, sentence) in paragraph.sentences.iter().enumerate() {
            let title = if line == 0 { paragraph.title } else { "" };
            text.push_str(&style.paint(Tone::Faint, &format!("  {title:<9}")));
            text.push_str(sentence);
            text.push('\n');
        }
    }
    text
}

fn whereabouts(facts: &Facts<'_>) -> Vec<String> {
    let status = &facts.status;
    let weight = facts.canary_weight();
    let promoted = status.promoted.as_ref().map_or_else(
        || "what was there before".to_owned(),
        |one| format!("revision {}", short(&one.revision)),
    );
    if facts.canary.metadata.is_deleting() {
        let deletion = status.deletion.clone().unwrap_or_default();
        return vec![format!(
            "The canary is being deleted. {}",
            sentence(
                deletion
                    .message
                    .as_deref()
                    .unwrap_or("Changes are being reverted")
            )
        )];
    }
    let place = match (facts.phase(), facts.stage) {
        (Phase::Unset, _) if facts.refusal().is_some() => {
            "Nothing was done for it yet.".to_owned()
        }
        (Phase::Unset, _) => "No controller has looked at it yet.".to_owned(),
        (Phase::Initializing, _) => {
            "The primary is being made; the workload as it was still serves.".to_owned()
        }
        (Phase::Initialized, _) => format!("At rest. The primary serves all traffic with {promoted}; no run was made yet."),
        (Phase::Succeeded, _) => format!("At rest. The primary serves all traffic with {promoted}."),
        (Phase::Failed, Some(Stage::Held)) => format!(
            "The promotion failed. The canary, which was judged good, serves {weight} % of the traffic; the primary has {promoted}."
        ),
        (Phase::Failed, _) => format!("At rest after a failed run. The primary serves all traffic with {promoted}; the target is scaled down."),
        (Phase::Waiting, _) => "A new revision waits; nothing of it runs yet.".to_owned(),
        (Phase::Promoting, Some(Stage::Returning)) => format!("The primary has taken over the revision and gets its traffic back: the canary has {weight} %."),
        (Phase::Promoting, _) => format!("The checks are done. The primary takes over the revision; meanwhile the canary has {weight} % of the traffic."),
        (Phase::Finalising, _) => "The primary serves all traffic with the new revision; the canary drains and is scaled down.".to_owned(),
        (Phase::Progressing, Some(Stage::ScalingUp)) => "The canary's pods are coming up; it has no traffic yet.".to_owned(),
        (Phase::Progressing, Some(Stage::RollingBack)) => "On the way back: all traffic goes to the primary, then the canary drains and is scaled down.".to_owned(),
        (Phase::Progressing, Some(Stage::Cancelling)) => "The target was set back to what is promoted: the canary drains and is scaled down.".to_owned(),
        (Phase::Progressing | Phase::WaitingPromotion, _) => standing(facts, weight),
        (phase, _) => format!("Phase {phase}."),
    };
    vec![place]
}

fn standing(facts: &Facts<'_>, weight: i64) -> String {
    let mirrored = facts.run().is_some_and(|run| run.mirrored);
    match facts.strategy {
        Strategy::Canary if mirrored => {
            "Requests are copied to the canary; it answers none of them.".to_owned()
        }
        Strategy::Canary => format!(
            "Step {}: {weight} % of the traffic goes to the canary, {} % to the primary.",
            facts.step(),
            100 - weight
        ),
        Strategy::AbTesting => format!(
            "Round {}: requests that match spec.analysis.match go to the canary.",
            facts.step()
        ),
        Strategy::BlueGreen if weight > 0 => {
            format!("All checks passed; the canary has {weight} % of the traffic.")
        }
        Strategy::BlueGreen if mirrored => format!(
            "Round {}: the canary is tested with copies of requests.",
            facts.step()
        ),
        Strategy::BlueGreen => format!(
            "Round {}: the canary is tested, all traffic stays on the primary.",
            facts.step()
        ),
    }
}

fn reasons(facts: &Facts<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(refusal) = facts.refusal() {
        reasons.push(format!(
            "It can't be carried out ({}): {}",
            refusal.reason,
            sentence(refusal.message.as_deref().unwrap_or("no reason is given"))
        ));
    }
    let status = &facts.status;
    match facts.run() {
        Some(run) => {
            if let Some(message) = &run.message {
                reasons.push(sentence(message));
            }
            if run.diverted {
                reasons.push(
                    "Traffic was moved away from its step, because a side has no ready pods."
                        .to_owned(),
                );
            }
            reasons.extend(run.commands.iter().map(|word| format!("Word: {word}.")));
        }
        None => {
            if let Some(last) = status.history.last() {
                reasons.push(format!(
                    "Run {} ended {} ago ({}): {}",
                    last.number,
                    ago(last.ended_at, facts.now),
                    last.outcome,
                    sentence(&last.cause)
                ));
            }
        }
    }
    reasons.extend(measurements(facts));
    if let Some(command) = &status.command
        && command.outcome == "Refused"
    {
        reasons.push(format!(
            "The word {} was refused: {}",
            command.word,
            sentence(&command.message)
        ));
    }
    reasons
}

/// Whose series the built-in checks are asked of.
fn readings(facts: &Facts<'_>) -> Vec<String> {
    facts
        .series()
        .map(|(check, whose, series)| format!("{check} from {series} ({whose})"))
        .collect()
}

fn measurements(facts: &Facts<'_>) -> Vec<String> {
    facts
        .status
        .metrics
        .iter()
        .filter(|metric| metric.verdict != Verdict::Unset)
        .map(|metric| {
            let why = match (&metric.reason, metric.verdict) {
                (Some(reason), Verdict::NoData | Verdict::Error) => format!(": {reason}"),
                _ => String::new(),
            };
            format!(
                "{}: {}, {} ago{why}",
                metric_line(metric),
                verdict_word(metric.verdict),
                ago(metric.at, facts.now)
            )
        })
        .collect()
}

fn waits(facts: &Facts<'_>) -> Vec<String> {
    let mut waits = Vec::new();
    if facts.canary.spec.suspended() {
        waits.push(
            "spec.suspend is true: everything is left as it is until it is false.".to_owned(),
        );
        return waits;
    }
    if let Some(paused) = &facts.status.paused {
        let why = match paused.reason.as_str() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        waits.push(format!(
            "Paused by {} since {}{why}.",
            paused.by,
            ago(paused.since, facts.now)
        ));
    }
    let Some(run) = facts.run() else {
        if waits.is_empty() && !facts.is_busy() && facts.refusal().is_none() {
            waits.push("For a change of the target.".to_owned());
        }
        return waits;
    };
    if let Some(what) = &run.waiting_for {
        let mut text = format!("For {what}, since {}", ago(run.waiting_since, facts.now));
        match run.deadline_at {
            Some(deadline) => {
                let moment = moment(deadline, facts.now);
                let _ = write!(text, "; at {moment} the run ends on the safe side");
            }
            None if what.starts_with("gate ") => text.push_str("; it may stay closed for ever"),
            None => {}
        }
        waits.push(text + ".");
    } else if let Some(check) = run.next_check_at {
        waits.push(format!(
            "For the next checks at {}.",
            moment(check, facts.now)
        ));
    }
    waits
}

fn next(facts: &Facts<'_>) -> Vec<String> {
    let mut next = Vec::new();
    let spec = &facts.canary.spec;
    match (facts.phase(), facts.stage) {
        (Phase::Progressing | Phase::WaitingPromotion, Some(Stage::ScalingUp | Stage::Analysing)) => {
            next.extend(steps_ahead(facts));
        }
        (Phase::Progressing, _) => next.push("When the canary has drained and is scaled down, the run is over.".to_owned()),
        (Phase::Promoting, _) => next.push(match spec.on_promotion_failure() {
            FailurePromotion::Hold => "When the primary is ready, it gets all traffic. If it does not become ready, the canary keeps the traffic.".to_owned(),
            FailurePromotion::Rollback => "When the primary is ready, it gets all traffic. If it does not become ready, it gets its former revision back.".to_owned(),
        }),
        (Phase::Finalising, _) => next.push("When the canary is scaled down, the run is over.".to_owned()),
        (Phase::Waiting, _) => next.push("When the gate opens, the canary is scaled up and judged.".to_owned()),
        (Phase::Failed, Some(Stage::Held)) => next.push("Nothing by itself: a new revision, a retry, or setting the target back.".to_owned()),
        (Phase::Initialized | Phase::Succeeded | Phase::Failed, _) => {
            if spec.skip_analysis() {
                next.push("A new revision is promoted without being judged (spec.skipAnalysis).".to_owned());
            } else if let Some(way) = way(facts) {
                next.push(format!("A new revision goes {way}."));
            }
        }
        (Phase::Unset, _) if facts.refusal().is_some() => {
            next.push("When the spec or what it names is put right, it goes on by itself.".to_owned());
        }
        (Phase::Unset, _) => next.push("A controller that watches this namespace makes the primary. Is one running?".to_owned()),
        _ => {}
    }
    next
}

/// What a run that is being judged goes through if all is well, and what ends it if not.
fn steps_ahead(facts: &Facts<'_>) -> Vec<String> {
    let mut next = Vec::new();
    let spec = &facts.canary.spec;
    let ahead: Vec<_> = facts
        .rungs()
        .into_iter()
        .filter(|rung| rung.place == Place::Ahead)
        .collect();
    if let [first, rest @ ..] = ahead.as_slice() {
        let asked = spec
            .analysis
            .hooks(HookType::ConfirmTrafficIncrease)
            .next()
            .is_some();
        let gate = match facts.held_by() {
            Some(what) if what.starts_with("gate ") => " and the gate opens",
            Some(_) => " and the pause is over",
            None if asked => " and the gate opens",
            None => "",
        };
        let then: Vec<&str> = rest.iter().map(|rung| rung.label.as_str()).collect();
        let step = match facts.strategy {
            Strategy::Canary if first.label != "promotion" => {
                format!("the canary gets {} of the traffic", first.label)
            }
            _ if first.label == "promotion" => "the revision is promoted".to_owned(),
            _ => format!("round {} begins", first.label),
        };
        next.push(match then.as_slice() {
            [] => format!("If the checks pass{gate}, {step}."),
            then => format!(
                "If the checks pass{gate}, {step}; then {}.",
                then.join(", ")
            ),
        });
    }
    if facts.held_by().is_none()
        && let Some(at) = facts.rungs().last().and_then(|last| last.at)
    {
        next.push(format!(
            "Promotion at {} at the earliest.",
            moment(at, facts.now)
        ));
    }
    let left = (facts.threshold() - facts.status.failed_checks).max(1);
    next.push(format!(
        "{} of {} failed checks so far: {left} more and it is rolled back.",
        facts.status.failed_checks,
        facts.threshold()
    ));
    next
}

/// The ladder of a run to come: `10 %, 20 %, then promotion, at least 30s`.
fn way(facts: &Facts<'_>) -> Option<String> {
    let rungs = facts.rungs();
    let (_, steps) = rungs.split_last()?;
    let labels: Vec<&str> = steps.iter().map(|rung| rung.label.as_str()).collect();
    let least = span(facts.interval().as_secs() * i64::try_from(steps.len()).unwrap_or(0));
    let shown = match labels.as_slice() {
        [first, .., top] if labels.len() > 8 => format!("{first} … {top}"),
        labels => labels.join(", "),
    };
    Some(match facts.strategy {
        Strategy::Canary => format!("{shown}, then it is promoted: {least} at least"),
        _ => format!(
            "through {} rounds of checks, then it is promoted: {least} at least",
            steps.len()
        ),
    })
}

fn ways(facts: &Facts<'_>) -> Vec<String> {
    let name = &facts.canary.metadata.name;
    let say = |words: &[&str]| {
        words
            .iter()
            .map(|word| format!("serin {word} {name}"))
            .collect::<Vec<_>>()
            .join(" | ")
    };
    let paused = facts.status.paused.is_some();
    let text = match (facts.phase(), facts.stage) {
        (Phase::Progressing, Some(Stage::RollingBack | Stage::Cancelling)) => return Vec::new(),
        (Phase::Waiting | Phase::Progressing | Phase::WaitingPromotion, _) if paused => {
            say(&["resume", "promote", "abort"])
        }
        (Phase::Waiting | Phase::Progressing | Phase::WaitingPromotion, _) => {
            say(&["promote", "abort", "pause"])
        }
        (Phase::Failed, _) => say(&["retry"]),
        _ if paused => say(&["resume"]),
        _ => return Vec::new(),
    };
    vec![text]
}

/// The text with a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', '!', '?', '…']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}
