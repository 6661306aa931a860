//! `serin get NAME`: one canary on one screen.

use super::explain;
use super::facts::{Facts, Place, phase_tone, verdict_tone, verdict_word};
use super::screen::{Cell, Style, Tone, ago, bar, clock, cut, moment, short, sparkline, table};
use crate::api::Canary;
use crate::object::Object;
use jiff::Timestamp;
use std::fmt::Write as _;

/// What is shown beside the Canary itself; whatever could not be read is left out.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub primary: Workload,
    pub canary: Workload,
    /// Events about the canary, oldest first.
    pub events: Vec<Object>,
}

/// One of the two sides.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    pub object: Option<Object>,
    pub pods: Vec<Object>,
}

/// Most pods and events that are listed.
const MOST_PODS: usize = 6;
const MOST_EVENTS: usize = 8;

/// The screen.
pub fn render(canary: &Canary, around: &Surroundings, now: Timestamp, style: Style) -> String {
    let facts = Facts::of(canary, now);
    let mut text = headline(&facts, style);
    text.push('\n');
    text.push_str(&sides(&facts, around, style));
    text.push_str(&steps(&facts, style));
    text.push_str(&metrics(&facts, style));
    text.push_str(&series(&facts, style));
    text.push_str(&gates(&facts, style));
    text.push_str(&events(around, now, style));
    text
}

fn headline(facts: &Facts<'_>, style: Style) -> String {
    let phase = facts.phase_word();
    let mut line = format!(
        "{}  {}",
        style.paint(Tone::Strong, &facts.name()),
        style.paint(phase_tone(facts.phase()), phase)
    );
    if let Some(run) = facts.run() {
        let _ = write!(
            line,
            "  run {} since {}, failed checks {}/{}",
            run.number,
            ago(run.started_at, facts.now),
            facts.status.failed_checks,
            facts.threshold()
        );
    }
    line.push('\n');
    let says = facts
        .refusal()
        .and_then(|refusal| refusal.message.clone())
        .or_else(|| facts.run().and_then(|run| run.message.clone()))
        .or_else(|| facts.status.history.last().map(|last| last.cause.clone()));
    if let Some(says) = says {
        line.push_str(&cut(&says, 160));
        line.push('\n');
    }
    line
}

fn sides(facts: &Facts<'_>, around: &Surroundings, style: Style) -> String {
    let weight = facts.canary_weight();
    let promoted = facts
        .status
        .promoted
        .as_ref()
        .map(|one| short(&one.revision));
    let judged = facts.run().map(|run| short(&run.revision));
    let mut rows: Vec<Vec<Cell>> = vec![
        ["SIDE", "TRAFFIC", "REVISION", "READY", "PODS"]
            .map(|title| Cell::new(Tone::Faint, title))
            .to_vec(),
    ];
    for (side, share, revision, workload) in [
        ("primary", 100 - weight, promoted, &around.primary),
        ("canary", weight, judged, &around.canary),
    ] {
        let mut first = vec![
            Cell::new(Tone::Strong, side),
            format!("{} {share:>3} %", bar(share)).into(),
            revision.unwrap_or_else(|| "-".to_owned()).into(),
            readiness(workload),
        ];
        let mut lines: Vec<Cell> = workload
            .pods
            .iter()
            .take(MOST_PODS)
            .map(|pod| pod_cell(pod, facts.now))
            .collect();
        if workload.pods.len() > MOST_PODS {
            lines.push(Cell::new(
                Tone::Faint,
                format!("and {} more", workload.pods.len() - MOST_PODS),
            ));
        }
        let mut lines = lines.into_iter();
        first.extend(lines.next());
        rows.push(first);
        rows.extend(lines.map(|line| vec!["".into(), "".into(), "".into(), "".into(), line]));
    }
    table(&rows, 0, style)
}

fn readiness(workload: &Workload) -> Cell {
    let Some(object) = &workload.object else {
        return Cell::new(Tone::Faint, "-");
    };
    let daemons = object.kind() == "DaemonSet";
    let (wanted, ready) = if daemons {
        ("/status/desiredNumberScheduled", "/status/numberReady")
    } else {
        ("/spec/replicas", "/status/readyReplicas")
    };
    let wanted = object.number(wanted).unwrap_or(i64::from(!daemons));
    let ready = object.number(ready).unwrap_or(0);
    let tone = match (ready, wanted) {
        (_, 0) => Tone::Faint,
        (ready, wanted) if ready >= wanted => Tone::Good,
        (0, _) => Tone::Bad,
        _ => Tone::Warning,
    };
    Cell::new(tone, format!("{ready}/{wanted}"))
}

fn pod_cell(pod: &Object, now: Timestamp) -> Cell {
    let containers = pod.at("/status/containerStatuses").as_array();
    let restarts: i64 = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container["restartCount"].as_i64())
        .sum();
    let ready = pod
        .at("/status/conditions")
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    // A container that waits says more than the pod's phase.
    let waiting = containers
        .into_iter()
        .flatten()
        .find_map(|container| container["state"]["waiting"]["reason"].as_str());
    let state = if pod.is_deleting() {
        "Terminating"
    } else {
        waiting.unwrap_or(match pod.text("/status/phase") {
            "" => "Pending",
            phase => phase,
        })
    };
    let tone = match (ready, pod.is_deleting()) {
        (_, true) => Tone::Faint,
        (true, false) => Tone::Good,
        (false, false) => Tone::Warning,
    };
    let mut text = format!("{} {state}", pod.name());
    if ready && !pod.is_deleting() {
        text.push_str(", ready");
    }
    if restarts > 0 {
        let _ = write!(text, ", {restarts} restarts");
    }
    let _ = write!(text, ", {}", ago(pod.created_at(), now));
    Cell::new(tone, text)
}

fn steps(facts: &Facts<'_>, style: Style) -> String {
    if facts.run().is_none() {
        return String::new();
    }
    let rungs = facts.rungs();
    let mut rows = Vec::new();
    for rung in &rungs {
        let (sign, tone) = match rung.place {
            Place::Behind => ("✓", Tone::Good),
            Place::Here => ("▶", Tone::Strong),
            Place::Ahead => ("·", Tone::Faint),
        };
        let when = match (rung.place, rung.at) {
            (Place::Here, Some(at)) => format!("since {}", clock(at, facts.now)),
            (Place::Ahead, Some(at)) => format!("{} at the earliest", moment(at, facts.now)),
            _ => String::new(),
        };
        rows.push(vec![
            Cell::new(tone, format!("{sign} {}", rung.label)),
            Cell::new(Tone::Plain, when),
        ]);
    }
    // A long ladder shows what is around the present step.
    if rows.len() > 12 {
        let here = rungs
            .iter()
            .position(|rung| rung.place != Place::Behind)
            .unwrap_or(rows.len() - 1);
        let from = here.saturating_sub(3).min(rows.len() - 8);
        let last = rows.pop();
        rows = rows.into_iter().skip(from).take(7).collect();
        rows.push(vec![Cell::new(Tone::Faint, "…")]);
        rows.extend(last);
    }
    section("STEPS", &table(&rows, 2, style), style)
}

fn metrics(facts: &Facts<'_>, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = facts
        .status
        .metrics
        .iter()
        .map(|metric| {
            let tone = verdict_tone(metric.verdict);
            vec![
                metric.name.clone().into(),
                Cell::new(tone, metric.value.as_deref().unwrap_or("-")),
                metric
                    .limit
                    .clone()
                    .unwrap_or_else(|| "no limit".to_owned())
                    .into(),
                Cell::new(tone, verdict_word(metric.verdict)),
                Cell::new(tone, sparkline(&metric.recent)),
                Cell::new(Tone::Faint, format!("{} ago", ago(metric.at, facts.now))),
            ]
        })
        .collect();
    section("METRICS", &table(&rows, 2, style), style)
}

fn series(facts: &Facts<'_>, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = facts
        .series()
        .map(|(check, whose, series)| vec![check.into(), whose.into(), cut(series, 140).into()])
        .collect();
    section("SERIES", &table(&rows, 2, style), style)
}

fn gates(facts: &Facts<'_>, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = facts
        .gates()
        .into_iter()
        .map(|(kind, name, closed)| {
            let state = if closed {
                let since = facts.run().and_then(|run| run.waiting_since);
                Cell::new(
                    Tone::Warning,
                    format!("closed, since {}", ago(since, facts.now)),
                )
            } else {
                Cell::new(Tone::Faint, "not asked now")
            };
            vec![kind.as_str().into(), name.into(), state]
        })
        .collect();
    section("GATES", &table(&rows, 2, style), style)
}

fn events(around: &Surroundings, now: Timestamp, style: Style) -> String {
    let skipped = around.events.len().saturating_sub(MOST_EVENTS);
    let rows: Vec<Vec<Cell>> = around
        .events
        .iter()
        .skip(skipped)
        .map(|event| {
            let warning = event.text("/type") == "Warning";
            let tone = if warning { Tone::Warning } else { Tone::Plain };
            vec![
                Cell::new(Tone::Faint, ago(event_time(event), now)),
                Cell::new(tone, event.text("/reason")),
                cut(event_text(event), 140).into(),
            ]
        })
        .collect();
    section("EVENTS", &table(&rows, 2, style), style)
}

/// The text of an event of either API.
fn event_text(event: &Object) -> &str {
    match event.text("/message") {
        "" => event.text("/note"),
        text => text,
    }
}

/// When an event was seen last.
pub fn event_time(event: &Object) -> Option<Timestamp> {
    [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/deprecatedLastTimestamp",
        "/metadata/creationTimestamp",
    ]
    .into_iter()
    .find_map(|field| event.text(field).parse().ok())
}

fn section(title: &str, body: &str, style: Style) -> String {
    if body.is_empty() {
        return String::new();
    }
    format!("\n{}\n{body}", style.paint(Tone::Faint, title))
}

/// The screen with the explanation below it, for `serin get NAME -o wide`.
pub fn render_wide(canary: &Canary, around: &Surroundings, now: Timestamp, style: Style) -> String {
    let screen = render(canary, around, now, style);
    format!("{screen}\n{}", explain::render(canary, now, style))
}
