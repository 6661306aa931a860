//! One pass: where the canary stands, and the one transition, if any, that its phase allows now. A pass changes the draft of
//! the status; [`super::converge`] turns the draft into writes. Each phase is one function.

mod adopt;
mod analyse;
mod command;
mod gates;
mod hold;
mod idle;
mod initialise;
mod observe;
mod promote;
mod reasons;
mod record;
mod rollback;
mod tell;
mod terminate;

use super::alerts;
use super::checks::Round;
use super::conditions::{self, Remarks};
use super::converge;
use super::decision::{Announcement, Decision, ROUTE_DRIFT, Severity, Tally};
use super::need::Need;
use super::snapshot::Snapshot;
use super::stage::Stage;
use super::view::{Obstacle, View, signed};
use crate::api::validation::{ProblemSeverity, ValidationOptions, validate};
use crate::api::{Canary, CanaryStatus, Phase, Run, RunWeights, Strategy};
use crate::object::Write;
use crate::routing::{Split, Weight};
use jiff::{SignedDuration, Timestamp};

/// Iterations of a canary that has no router to shift traffic with and names none, as in Flagger.
const DEFAULT_ITERATIONS: i64 = 10;

pub(super) struct Pass<'a> {
    snapshot: &'a Snapshot,
    canary: &'a Canary,
    now: Timestamp,
    status: CanaryStatus,
    remarks: Remarks,
    announcements: Vec<Announcement>,
    tallies: Vec<Tally>,
    needs: Vec<Need>,
    wake: Option<Timestamp>,
    /// Why nothing was decided.
    because: Option<String>,
    /// Set once the drain time is over: the target may go to zero.
    drained: bool,
}

/// One pass over one canary.
pub(super) fn decide(snapshot: &Snapshot) -> Decision {
    let mut pass = Pass {
        snapshot,
        canary: &snapshot.canary,
        now: snapshot.now,
        status: snapshot.canary.status_or_default(),
        remarks: Remarks::default(),
        announcements: Vec::new(),
        tallies: Vec::new(),
        needs: Vec::new(),
        wake: None,
        because: None,
        drained: false,
    };
    let writes = pass.run();
    pass.finish(writes)
}

impl Pass<'_> {
    fn run(&mut self) -> Vec<Write> {
        if self.canary.metadata.is_deleting() {
            return self.terminate();
        }
        if self.canary.spec.suspended() {
            self.suspended();
            return Vec::new();
        }
        if let Some(problem) = self.invalid() {
            self.refuse("InvalidSpec", problem);
            return Vec::new();
        }
        self.remember_refusal();
        self.remarks.alerts = Some(alerts::reach(self.snapshot));
        let view = match View::look(self.snapshot) {
            Ok(view) => view,
            Err(Obstacle::Unknown(why)) => {
                self.because = Some(why);
                self.wake_at(self.now.checked_add(SignedDuration::from_secs(30)).ok());
                return Vec::new();
            }
            Err(Obstacle::Refused { reason, message }) => {
                self.refuse(reason, message);
                return Vec::new();
            }
        };
        self.observe(&view);
        // Nothing stops for it: a run that can't be judged holds, and ends on the safe side when its data are missing for too long.
        if let Some(problem) = self.unanswerable() {
            self.refuse("MetricsInvalid", problem);
        }
        if let Some(first) = self.adopt(&view) {
            return vec![first];
        }
        let answered = self.obey(&view);
        match self.status.phase {
            _ if answered => {}
            Phase::Unset | Phase::Initializing => self.initialise(&view),
            Phase::Failed if self.status.promoted.is_none() => self.initialise(&view),
            Phase::Initialized | Phase::Succeeded | Phase::Failed => self.idle(&view),
            Phase::Waiting => self.waiting(&view),
            Phase::Progressing | Phase::WaitingPromotion => self.progress(&view),
            Phase::Promoting => self.promote(&view),
            Phase::Finalising => self.finalise(&view),
            Phase::Terminating | Phase::Terminated => return Vec::new(),
        }
        let mut plan = converge::writes(&view, &self.status, self.drained);
        // Last: whoever steers the traffic now does so before the one before him lets go.
        plan.writes.extend(self.undo_former(view.router.provider()));
        if let Some(foreign) = plan.drift {
            self.tell_drift(&foreign);
            self.drain_anew();
        }
        self.wake_at(plan.wake);
        if let Some((reason, message)) = plan.problem
            && self.remarks.stalled.is_none()
        {
            if self.remarks.refused.is_none() && !self.was_blocked_by(reason, Some(&message)) {
                self.tell_of_trouble(reason, &message);
            }
            self.remarks.stalled = Some((reason, message));
        }
        plan.writes
    }

    fn finish(mut self, mut writes: Vec<Write>) -> Decision {
        self.status.observed_generation = self.canary.metadata.generation;
        conditions::set(
            &mut self.status,
            &self.canary.spec.target_ref.kind,
            self.canary.metadata.generation,
            &self.remarks,
            self.now,
        );
        let changed = match &self.canary.status {
            Some(before) => self.status != *before,
            None => self.status != CanaryStatus::default(),
        };
        let mut noted = false;
        if changed {
            self.status.last_transition_time = Some(self.now);
            alerts::record(self.snapshot, &mut self.status, &self.announcements);
            alerts::acknowledge(&mut self.status, &self.snapshot.alert_outcomes);
        } else {
            let due = alerts::due(&self.status, &self.snapshot.alert_outcomes);
            if due.is_some_and(|due| due <= self.now) {
                noted = alerts::acknowledge(&mut self.status, &self.snapshot.alert_outcomes);
            }
            self.wake_at(due);
            self.wake_at(alerts::look_again(&self.status, self.now));
            writes.extend(self.finalizer_write());
            // What is only half decided, an answer being awaited, is told when it is done.
            self.announcements
                .retain(|told| TOLD_WITH_WRITES.contains(&told.reason));
            self.tallies.clear();
        }
        let sampled = self.sampled();
        let wants = self.snapshot.take_missing();
        Decision {
            status: (changed || noted).then_some(self.status),
            writes,
            announcements: self.announcements,
            tallies: self.tallies,
            needs: self.needs,
            sampled,
            wants,
            because: self.because,
            wake: if changed || noted {
                Some(self.now)
            } else {
                self.wake
            },
        }
    }

    fn suspended(&mut self) {
        let text = "skipping canary run as object is suspended";
        self.remarks.stalled = Some((
            "Suspended",
            "spec.suspend is true: everything is left as it is.".to_owned(),
        ));
        if !self.was_blocked_by("Suspended", None) {
            self.tell(Severity::Info, "Suspended", text.to_owned());
        }
    }

    /// What makes the canary impossible to carry out, if anything does.
    fn invalid(&self) -> Option<String> {
        if self.snapshot.is_settled(&"spec") {
            return None;
        }
        let options = ValidationOptions {
            no_cross_namespace_refs: self.snapshot.settings.no_cross_namespace_refs,
            default_provider: self.snapshot.settings.mesh_provider.clone(),
        };
        let problems: Vec<String> = validate(self.canary, &options)
            .into_iter()
            .filter(|problem| problem.severity == ProblemSeverity::Error)
            .map(|problem| problem.to_string())
            .collect();
        if problems.is_empty() {
            self.snapshot.remember_settled(&"spec", &[]);
            return None;
        }
        Some(problems.join("; "))
    }

    fn refuse(&mut self, reason: &'static str, message: String) {
        if !self.was_blocked_by(reason, Some(&message)) {
            self.tell_of_trouble(reason, &message);
        }
        self.remarks.refused = Some((reason, message));
    }

    /// What the API server refused to the pass before: one place sets the conditions, or they would change with every try.
    fn remember_refusal(&mut self) {
        let Some(refusal) = &self.snapshot.refusal else {
            return;
        };
        if !self.was_blocked_by(refusal.reason, Some(&refusal.message)) {
            self.tell_of_trouble(refusal.reason, &refusal.message);
        }
        self.remarks.stalled = Some((refusal.reason, refusal.message.clone()));
    }

    /// Whether the status already says so; then nobody is told again.
    fn was_blocked_by(&self, reason: &str, message: Option<&str>) -> bool {
        self.status
            .condition(crate::api::condition_type::READY)
            .is_some_and(|ready| {
                ready.reason == reason
                    && message.is_none_or(|message| ready.message.as_deref() == Some(message))
            })
    }

    fn strategy(&self, view: &View<'_>) -> Strategy {
        if view.router.capabilities().weighted() {
            self.canary.spec.strategy()
        } else {
            Strategy::BlueGreen
        }
    }

    fn iterations(&self) -> i64 {
        let asked = self.canary.spec.analysis.iterations();
        if asked < 1 { DEFAULT_ITERATIONS } else { asked }
    }

    fn interval(&self) -> SignedDuration {
        signed(self.canary.spec.analysis.interval())
    }

    fn gate_deadline(&self, since: Timestamp) -> Option<Timestamp> {
        since
            .checked_add(signed(self.canary.spec.analysis.gate_timeout()?))
            .ok()
    }

    fn round(&self, due: Timestamp, run: &str) -> Round {
        Round::at(run, due, self.interval(), self.now)
    }

    fn after(&self, duration: SignedDuration) -> Option<Timestamp> {
        self.now.checked_add(duration).ok()
    }

    fn is_past(&self, since: Option<Timestamp>, duration: SignedDuration) -> bool {
        since
            .and_then(|since| since.checked_add(duration).ok())
            .is_some_and(|end| end <= self.now)
    }

    fn wake_at(&mut self, at: Option<Timestamp>) {
        let Some(at) = at.filter(|at| *at > self.now) else {
            return;
        };
        self.wake = Some(self.wake.map_or(at, |present| present.min(at)));
    }

    fn wake_after(&mut self, since: Option<Timestamp>, duration: SignedDuration) {
        self.wake_at(since.and_then(|since| since.checked_add(duration).ok()));
    }

    fn run_ref(&self) -> Option<&Run> {
        self.status.run.as_ref()
    }

    fn with_run(&mut self, change: impl FnOnce(&mut Run)) {
        if let Some(run) = self.status.run.as_mut() {
            change(run);
        }
    }

    fn stage(&self) -> Option<Stage> {
        Stage::parse(&self.run_ref()?.stage)
    }

    fn full_name(&self) -> String {
        format!(
            "{}.{}",
            self.canary.metadata.name, self.canary.metadata.namespace
        )
    }

    fn target_name(&self) -> String {
        format!(
            "{}.{}",
            self.canary.target_name(),
            self.canary.metadata.namespace
        )
    }
}

/// Reasons of announcements that go with writes rather than with a change of the status.
const TOLD_WITH_WRITES: [&str; 2] = [ROUTE_DRIFT, "Terminated"];

fn clear_wait(run: &mut Run) {
    run.waiting_since = None;
    run.waiting_for = None;
    run.deadline_at = None;
}

/// The split that the run asks for, without regard to a diversion.
pub(super) fn split_of(run: &Run) -> Split {
    let canary = run.weights.map_or(0, |weights| weights.canary);
    Split {
        canary: Weight::clamped(i64::from(canary)),
        mirrored: run.mirrored,
    }
}

fn weights(split: Split) -> RunWeights {
    RunWeights {
        primary: u32::from(split.primary().percent()),
        canary: u32::from(split.canary.percent()),
    }
}
