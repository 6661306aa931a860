//! Runs the commands of a line, one after the other, and says what came of them.

use super::commands::{Action, Fetch, Step};
use super::generator::{self, Destinations, Observer, Pace, Tally};
use crate::api::GoDuration;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// How much of an answer is looked at and shown, in bytes.
const LONGEST_BODY: usize = 1024 * 1024;

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it did what it should.
    pub passed: bool,
    /// What it has to say.
    pub output: String,
}

/// How far a running task is.
#[derive(Default)]
pub struct Progress(Mutex<Option<(String, Arc<Tally>)>>);

impl Progress {
    fn set(&self, what: String, tally: Arc<Tally>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((what, tally));
    }

    /// In one line; empty for what is not counted.
    #[must_use]
    pub fn shown(&self) -> String {
        let now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.as_ref().map_or_else(String::new, |(what, tally)| {
            format!("{what}: {}", tally.progress())
        })
    }
}

/// Runs commands until the last, one that fails before a `&&`, or `stop`. The line passes if its last command that ran did.
pub async fn run(
    steps: &[Step],
    destinations: &Arc<Destinations>,
    observer: &(dyn Fn() -> Observer + Sync),
    progress: &Progress,
    stop: &CancellationToken,
) -> Outcome {
    let mut outcome = Outcome {
        passed: true,
        output: String::new(),
    };
    for step in steps {
        if step.after_success && !outcome.passed {
            continue;
        }
        if stop.is_cancelled() {
            outcome.passed = false;
            outcome.output.push_str("stopped before the end\n");
            break;
        }
        let (passed, output) = match &step.action {
            Action::Load { plan, pace } => {
                match generator::prepared(plan, destinations, pace.timeout).await {
                    Err(why) => (false, format!("{}: {why}\n", step.shown())),
                    Ok(plan) => {
                        let what = format!("{}, {}", step.shown(), described(pace));
                        let tally = Arc::new(Tally::new(Some(observer())));
                        progress.set(step.shown(), Arc::clone(&tally));
                        generator::run(&plan, pace, destinations, &tally, stop).await;
                        (tally.answered() > 0, tally.report(&what))
                    }
                }
            }
            Action::Health { plan, timeout } => {
                match generator::check_health(plan, destinations, *timeout).await {
                    Ok(()) => (true, "status: SERVING\n".to_owned()),
                    Err(why) => (false, format!("{}: {why}\n", step.shown())),
                }
            }
            Action::Fetch(fetch) => tokio::select! {
                outcome = ask(fetch, destinations) => outcome,
                () = stop.cancelled() => (false, "stopped before the answer\n".to_owned()),
            },
        };
        outcome.passed = passed;
        outcome.output.push_str(&output);
    }
    outcome
}

fn described(pace: &Pace) -> String {
    let mut text = match pace.workers {
        1 => "1 worker".to_owned(),
        workers => format!("{workers} workers"),
    };
    match pace.rate {
        Some(rate) => {
            let _ = write!(text, ", {rate} requests a second");
        }
        None => text.push_str(", as fast as answers come"),
    }
    if let Some(time) = pace.time {
        let _ = write!(text, ", for {}", GoDuration(time));
    }
    if let Some(requests) = pace.requests {
        let _ = write!(text, ", {requests} requests");
    }
    text
}

/// One request and what is looked for in its answer. As in a shell, the last command of the pipe says whether it passed.
async fn ask(fetch: &Fetch, destinations: &Arc<Destinations>) -> (bool, String) {
    let answer = generator::fetch(&fetch.plan, destinations, fetch.timeout, LONGEST_BODY).await;
    let (mut passed, mut text, told) = match answer {
        Err(failure) => (
            false,
            fetch.write_out(0),
            format!("curl {}: {}\n", fetch.plan.target(), failure.words()),
        ),
        Ok((status, _)) if fetch.fail && status >= 400 => (
            false,
            fetch.write_out(status),
            format!("curl {}: the answer is {status}\n", fetch.plan.target()),
        ),
        Ok((status, body)) => {
            let mut text = String::new();
            if fetch.shows_body {
                text.push_str(&String::from_utf8_lossy(&body));
            }
            text.push_str(&fetch.write_out(status));
            (true, text, String::new())
        }
    };
    for filter in &fetch.filters {
        (text, passed) = filter.apply(&text);
    }
    if !passed && !fetch.filters.is_empty() && told.is_empty() {
        text.push_str("grep: nothing matches in the answer\n");
    }
    text.push_str(&told);
    (passed, text)
}
