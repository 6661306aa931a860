//! What the demo's screen shows, as plain data.
use std::time::Duration;

/// How many verdicts and events the screen keeps.
pub const KEPT: usize = 6;

/// The split that the route carries, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    pub primary: u32,
    pub canary: u32,
}

/// What the load measured of one version over the last seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionLine {
    pub version: String,
    /// Answers per second.
    pub rate: f64,
    /// Answers of 500 and above over all answers, 0..=1.
    pub error_rate: f64,
    pub p99: Duration,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    /// No data, or the metrics backend could not be asked.
    Open,
}

/// One check of one metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictLine {
    /// Since the demo began.
    pub at: Duration,
    pub verdict: Verdict,
    pub text: String,
}

/// One event that the cluster recorded about the canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLine {
    /// Since the demo began.
    pub at: Duration,
    pub warning: bool,
    pub text: String,
}

/// The whole screen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DemoModel {
    /// Since the demo began.
    pub elapsed: Duration,
    /// What is being shown right now, in a sentence.
    pub headline: String,
    /// The canary's phase as its status says; empty before there is one.
    pub phase: String,
    /// None before there is a route.
    pub weights: Option<Weights>,
    pub versions: Vec<VersionLine>,
    /// Oldest first, the last [`KEPT`].
    pub verdicts: Vec<VerdictLine>,
    /// Oldest first, the last [`KEPT`].
    pub events: Vec<EventLine>,
    /// Requests that a version answered, since the load began.
    pub served: u64,
    /// Requests that no version answered.
    pub lost: u64,
    /// What one can do here, below everything else; not told in a pipe.
    pub footer: Vec<String>,
}

impl DemoModel {
    /// Adds a verdict, and forgets the oldest beyond [`KEPT`].
    pub fn add_verdict(&mut self, verdict: VerdictLine) {
        push_bounded(&mut self.verdicts, verdict);
    }

    /// Adds an event, and forgets the oldest beyond [`KEPT`].
    pub fn add_event(&mut self, event: EventLine) {
        push_bounded(&mut self.events, event);
    }
}

fn push_bounded<T>(lines: &mut Vec<T>, line: T) {
    if lines.len() == KEPT {
        lines.remove(0);
    }
    lines.push(line);
}
