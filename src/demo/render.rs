//! The demo's model as text: a frame for a terminal, or lines for a pipe. Pure: same model, same text.
use std::fmt::Write as _;
use std::time::Duration;

use super::model::{DemoModel, EventLine, KEPT, Verdict, VerdictLine, VersionLine, Weights};

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Widest bar, in cells.
const BAR: usize = 50;

/// A frame under construction; pads and cuts by characters first and paints afterwards, so colour never shifts a column.
struct Frame {
    text: String,
    width: usize,
    colour: bool,
}

impl Frame {
    fn line(&mut self, parts: &[(&str, &str)]) {
        let mut left = self.width;
        let mut line = String::new();
        for (style, text) in parts {
            let mut shown: String = text.chars().take(left).collect();
            if text.chars().count() > left && shown.pop().is_some() {
                shown.push('…');
            }
            left -= shown.chars().count();
            if self.colour && !style.is_empty() && !shown.is_empty() {
                let _ = write!(line, "\x1b[{style}m{shown}\x1b[0m");
            } else {
                line.push_str(&shown);
            }
        }
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.line(&[]);
        self.line(&[(DIM, text)]);
    }
}

/// `1:05` for 65 seconds.
pub(super) fn clock(at: Duration) -> String {
    format!("{}:{:02}", at.as_secs() / 60, at.as_secs() % 60)
}

fn count(cells: usize, filled: u32) -> usize {
    (cells * filled.min(100) as usize + 50) / 100
}

/// Lines of a frame beside the checks and events.
const FIXED: usize = 16;

/// One frame, always of the same height, each line at most `width` characters and ended by a newline. Checks and events that do not
/// fit into `height` lines are left out, oldest first.
#[must_use]
pub fn render(model: &DemoModel, width: usize, height: usize, colour: bool) -> String {
    let width = width.max(40);
    let fixed = FIXED + model.footer.len();
    let kept = (height.saturating_sub(fixed) / 2).clamp(1, KEPT);
    let mut frame = Frame {
        text: String::new(),
        width,
        colour,
    };

    let time = clock(model.elapsed);
    let room = width - time.len() - 1;
    let headline: String = model.headline.chars().take(room).collect();
    frame.line(&[
        (BOLD, &format!("{headline:<room$}")),
        ("", " "),
        (DIM, &time),
    ]);
    frame.line(&[(DIM, &"─".repeat(width))]);
    let phase = if model.phase.is_empty() {
        "–"
    } else {
        &model.phase
    };
    frame.line(&[(DIM, "phase     "), (phase_style(&model.phase), phase)]);
    frame.line(&[]);
    weight_bar(
        &mut frame,
        "primary",
        GREEN,
        model.weights.map(|weights| weights.primary),
    );
    weight_bar(
        &mut frame,
        "canary",
        YELLOW,
        model.weights.map(|weights| weights.canary),
    );

    frame.heading("version     requests/s   failing    p99 ms    last 5 s, as clients see it");
    for row in 0..2 {
        match model.versions.get(row) {
            None => frame.line(&[]),
            Some(version) => {
                let failing = format!("{:>8}", percent(version.error_rate));
                let style = if version.error_rate > 0.0 { RED } else { "" };
                frame.line(&[
                    (
                        "",
                        &format!("{:<10}{:>12.0}  ", version.version, version.rate),
                    ),
                    (style, &failing),
                    ("", &format!("{:>10.1}", version.p99.as_secs_f64() * 1e3)),
                ]);
            }
        }
    }

    frame.heading("checks");
    let verdicts = &model.verdicts[model.verdicts.len().saturating_sub(kept)..];
    for row in 0..kept {
        match verdicts.get(row) {
            None => frame.line(&[]),
            Some(check) => {
                let (style, sign) = verdict_sign(check.verdict);
                frame.line(&[
                    (DIM, &format!("{:>5}  ", clock(check.at))),
                    (style, sign),
                    ("", " "),
                    ("", &check.text),
                ]);
            }
        }
    }

    frame.heading("events");
    let events = &model.events[model.events.len().saturating_sub(kept)..];
    for row in 0..kept {
        match events.get(row) {
            None => frame.line(&[]),
            Some(event) => {
                let style = if event.warning { RED } else { "" };
                frame.line(&[
                    (DIM, &format!("{:>5}  ", clock(event.at))),
                    (style, &event.text),
                ]);
            }
        }
    }

    frame.line(&[]);
    let lost_style = if model.lost == 0 { GREEN } else { RED };
    frame.line(&[
        ("", &format!("{} requests served, ", model.served)),
        (lost_style, &format!("{} lost", model.lost)),
    ]);
    for line in &model.footer {
        frame.line(&[(DIM, line)]);
    }
    frame.text
}

fn weight_bar(frame: &mut Frame, name: &str, style: &str, weight: Option<u32>) {
    let cells = (frame.width - 17).min(BAR);
    match weight {
        None => frame.line(&[("", &format!("{name:<10}")), (DIM, &"░".repeat(cells))]),
        Some(weight) => {
            let filled = count(cells, weight);
            frame.line(&[
                ("", &format!("{name:<10}")),
                (style, &"█".repeat(filled)),
                (DIM, &"░".repeat(cells - filled)),
                (BOLD, &format!(" {weight:>3} %")),
            ]);
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn phase_style(phase: &str) -> &'static str {
    match phase {
        "Succeeded" | "Initialized" => GREEN,
        "Failed" => RED,
        _ => CYAN,
    }
}

fn verdict_sign(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Passed => (GREEN, "✓"),
        Verdict::Failed => (RED, "✗"),
        Verdict::Open => (YELLOW, "?"),
    }
}

/// Tells in lines what changed from one model to the next, for a pipe or a log.
#[derive(Debug, Default)]
pub struct PlainLog {
    headline: String,
    phase: String,
    weights: Option<Weights>,
    verdict: Option<VerdictLine>,
    event: Option<EventLine>,
    measured: Duration,
}

impl PlainLog {
    /// How often the measured traffic is told when nothing else happens.
    const MEASURE_EVERY: Duration = Duration::from_secs(5);

    /// The lines that tell what is new in `model`, each begun by its time.
    pub fn lines(&mut self, model: &DemoModel) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |at: Duration, text: &str| lines.push(format!("{:>5}  {text}", clock(at)));
        if self.headline != model.headline {
            self.headline.clone_from(&model.headline);
            say(model.elapsed, &format!("== {}", model.headline));
        }
        if self.phase != model.phase {
            self.phase.clone_from(&model.phase);
            say(model.elapsed, &format!("phase {}", model.phase));
        }
        for event in newer(&model.events, self.event.as_ref()) {
            say(
                event.at,
                &format!(
                    "{} {}",
                    if event.warning { "warning" } else { "event" },
                    event.text
                ),
            );
        }
        for check in newer(&model.verdicts, self.verdict.as_ref()) {
            say(
                check.at,
                &format!("check {} {}", verdict_sign(check.verdict).1, check.text),
            );
        }
        if let Some(weights) = model
            .weights
            .filter(|weights| self.weights != Some(*weights))
        {
            say(
                model.elapsed,
                &format!(
                    "weights primary {} canary {}",
                    weights.primary, weights.canary
                ),
            );
        }
        if !model.versions.is_empty()
            && model.elapsed.saturating_sub(self.measured) >= Self::MEASURE_EVERY
        {
            self.measured = model.elapsed;
            let versions: Vec<String> = model.versions.iter().map(traffic).collect();
            say(
                model.elapsed,
                &format!(
                    "traffic {}; {} served, {} lost",
                    versions.join(", "),
                    model.served,
                    model.lost
                ),
            );
        }
        self.weights = model.weights;
        self.event = model.events.last().cloned().or(self.event.take());
        self.verdict = model.verdicts.last().cloned().or(self.verdict.take());
        lines
    }
}

fn traffic(version: &VersionLine) -> String {
    format!(
        "{} {:.0}/s {} failing",
        version.version,
        version.rate,
        percent(version.error_rate)
    )
}

/// What follows the last line that was told; all of it if that one is gone already.
fn newer<'a, T: PartialEq>(lines: &'a [T], told: Option<&T>) -> &'a [T] {
    let from = told
        .and_then(|told| lines.iter().rposition(|line| line == told))
        .map_or(0, |at| at + 1);
    &lines[from..]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rolling_back() -> DemoModel {
        DemoModel {
            elapsed: at(95),
            headline: "1.2.0 fails 5 % of its requests".into(),
            phase: "Progressing".into(),
            weights: Some(Weights {
                primary: 80,
                canary: 20,
            }),
            versions: vec![
                VersionLine {
                    version: "1.1.0".into(),
                    rate: 160.2,
                    error_rate: 0.0,
                    p99: Duration::from_micros(4210),
                },
                VersionLine {
                    version: "1.2.0".into(),
                    rate: 39.8,
                    error_rate: 0.05,
                    p99: Duration::from_micros(4630),
                },
            ],
            verdicts: vec![
                VerdictLine {
                    at: at(91),
                    verdict: Verdict::Open,
                    text: "request-success-rate: no data yet".into(),
                },
                VerdictLine {
                    at: at(94),
                    verdict: Verdict::Failed,
                    text: "request-success-rate 95.0, limit ≥ 99".into(),
                },
                VerdictLine {
                    at: at(94),
                    verdict: Verdict::Passed,
                    text: "request-duration 9 ms, limit ≤ 500".into(),
                },
            ],
            events: vec![
                EventLine {
                    at: at(88),
                    warning: false,
                    text: "New revision detected".into(),
                },
                EventLine {
                    at: at(94),
                    warning: true,
                    text:
                        "Halt advancement: request-success-rate 95.0 is below its least value of 99"
                            .into(),
                },
            ],
            served: 18_950,
            lost: 0,
            footer: Vec::new(),
        }
    }

    #[test]
    fn a_frame_shows_the_whole_model() {
        let expected = "\
1.2.0 fails 5 % of its requests                                             1:35
────────────────────────────────────────────────────────────────────────────────
phase     Progressing

primary   ████████████████████████████████████████░░░░░░░░░░  80 %
canary    ██████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  20 %

version     requests/s   failing    p99 ms    last 5 s, as clients see it
1.1.0              160     0.0 %       4.2
1.2.0               40     5.0 %       4.6

checks
 1:31  ? request-success-rate: no data yet
 1:34  ✗ request-success-rate 95.0, limit ≥ 99
 1:34  ✓ request-duration 9 ms, limit ≤ 500




events
 1:28  New revision detected
 1:34  Halt advancement: request-success-rate 95.0 is below its least value of …





18950 requests served, 0 lost
";
        assert_eq!(render(&rolling_back(), 80, 30, false), expected);
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let painted = render(&rolling_back(), 80, 30, true);
        assert!(
            painted.contains("\x1b[31m✗\x1b[0m"),
            "a failed check is red"
        );
        let mut bare = String::new();
        let mut rest = painted.as_str();
        while let Some((before, after)) = rest.split_once("\x1b[") {
            bare.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        bare.push_str(rest);
        let bare: Vec<&str> = bare.lines().map(str::trim_end).collect();
        assert_eq!(
            bare,
            render(&rolling_back(), 80, 30, false)
                .lines()
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn every_frame_has_the_same_height_and_fits_its_width() {
        let empty = render(&DemoModel::default(), 60, 30, false);
        for width in [0, 40, 60, 200] {
            let frame = render(&rolling_back(), width, 30, false);
            assert_eq!(frame.lines().count(), empty.lines().count());
            assert!(
                frame
                    .lines()
                    .all(|line| line.chars().count() <= width.max(40)),
                "{frame}"
            );
        }
    }

    #[test]
    fn a_low_terminal_keeps_the_newest_lines() {
        for height in 20..40 {
            let frame = render(&rolling_back(), 80, height, false);
            assert!(frame.lines().count() <= height, "{height}:\n{frame}");
            assert!(frame.contains("✓ request-duration"), "{height}:\n{frame}");
        }
        assert!(!render(&rolling_back(), 80, 20, false).contains("no data yet"));
    }

    #[test]
    fn a_pipe_is_told_each_thing_once() {
        let mut log = PlainLog::default();
        let mut model = rolling_back();
        let told = log.lines(&model);
        assert_eq!(
            told,
            [
                " 1:35  == 1.2.0 fails 5 % of its requests",
                " 1:35  phase Progressing",
                " 1:28  event New revision detected",
                " 1:34  warning Halt advancement: request-success-rate 95.0 is below its least value of 99",
                " 1:31  check ? request-success-rate: no data yet",
                " 1:34  check ✗ request-success-rate 95.0, limit ≥ 99",
                " 1:34  check ✓ request-duration 9 ms, limit ≤ 500",
                " 1:35  weights primary 80 canary 20",
                " 1:35  traffic 1.1.0 160/s 0.0 % failing, 1.2.0 40/s 5.0 % failing; 18950 served, 0 lost",
            ]
        );
        assert_eq!(log.lines(&model), Vec::<String>::new());
        model.elapsed = at(97);
        model.weights = Some(Weights {
            primary: 100,
            canary: 0,
        });
        for n in 0..10 {
            model.add_event(EventLine {
                at: at(96),
                warning: false,
                text: format!("event {n}"),
            });
        }
        let told = log.lines(&model);
        assert_eq!(told.len(), KEPT + 1, "{told:?}");
        assert_eq!(told.last().unwrap(), " 1:37  weights primary 100 canary 0");
    }
}
