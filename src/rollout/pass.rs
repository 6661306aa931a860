//! One pass: where the canary stands, and the one transition, if any, that its phase allows now. A pass changes the draft of
//! the status; [`super::converge`] turns the draft into writes. Each phase is one function.

mod terminate;

use super::checks::{self, HookOutcome, Judged, MetricsOutcome, Round};
use super::conditions::{self, Remarks};
use super::converge;
use super::decision::{Announcement, Decision, Severity, Tally};
use super::ladder::{NextStep, next_step};
use super::need::Need;
use super::snapshot::Snapshot;
use super::stage::Stage;
use super::view::{Identity, Obstacle, Side, View, signed};
use crate::api::validation::{ProblemSeverity, ValidationOptions, validate};
use crate::api::{
    Canary, CanaryStatus, FailureMode, FailurePromotion, HookType, Phase, Promoted, Run,
    RunWeights, Strategy, Verdict,
};
use crate::object::Write;
use crate::routing::{Split, Weight};
use crate::workload::{Readiness, revision};
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

impl<'a> Pass<'a> {
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
        self.status
            .observed
            .insert("router".to_owned(), view.router.provider().to_owned());
        self.adopt(&view);
        match self.status.phase {
            Phase::Unset | Phase::Initializing => self.initialise(&view),
            Phase::Failed if self.status.promoted.is_none() => self.initialise(&view),
            Phase::Initialized | Phase::Succeeded | Phase::Failed => self.idle(&view),
            Phase::Waiting => self.waiting(&view),
            Phase::Progressing | Phase::WaitingPromotion => self.progress(&view),
            Phase::Promoting => self.promote(&view),
            Phase::Finalising => self.finalise(&view),
            Phase::Terminating | Phase::Terminated => return Vec::new(),
        }
        let plan = converge::writes(&view, &self.status, self.drained);
        if let Some(foreign) = plan.drift {
            self.tell_drift(&foreign);
        }
        if let Some((reason, message)) = plan.problem {
            self.remarks.stalled.get_or_insert((reason, message));
        }
        plan.writes
    }

    fn finish(mut self, mut writes: Vec<Write>) -> Decision {
        let before = self.canary.status_or_default();
        self.status.observed_generation = self.canary.metadata.generation;
        conditions::set(
            &mut self.status,
            &self.canary.spec.target_ref.kind,
            self.canary.metadata.generation,
            &self.remarks,
            self.now,
        );
        let changed = self.status != before;
        if changed {
            self.status.last_transition_time = Some(self.now);
        } else {
            writes.extend(self.finalizer_write());
            // What is only half decided, an answer being awaited, is told when it is done.
            self.announcements
                .retain(|told| TOLD_WITH_WRITES.contains(&told.reason));
            self.tallies.clear();
        }
        let wants = self.snapshot.take_missing();
        Decision {
            status: changed.then_some(self.status),
            writes,
            announcements: self.announcements,
            tallies: self.tallies,
            needs: self.needs,
            wants,
            because: self.because,
            wake: if changed { Some(self.now) } else { self.wake },
        }
    }

    // ---- what stands in the way

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
        let options = ValidationOptions {
            no_cross_namespace_refs: self.snapshot.settings.no_cross_namespace_refs,
            default_provider: self.snapshot.settings.mesh_provider.clone(),
        };
        let problems: Vec<String> = validate(self.canary, &options)
            .into_iter()
            .filter(|problem| problem.severity == ProblemSeverity::Error)
            .map(|problem| problem.to_string())
            .collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    fn refuse(&mut self, reason: &'static str, message: String) {
        if !self.was_blocked_by(reason, Some(&message)) {
            self.tell(Severity::Warn, reason, message.clone());
        }
        self.remarks.refused = Some((reason, message));
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

    // ---- Initializing

    fn initialise(&mut self, view: &View<'a>) {
        let seed = view.identity.clone();
        let fresh = self.status.run.is_none();
        let switching = self.run_ref().is_some_and(|run| run.drain_from.is_some());
        let seed_changed = self
            .run_ref()
            .is_some_and(|run| run.revision != seed.revision);
        if fresh || (seed_changed && !switching) {
            // Until the primary serves, the user's own workload does; so the primary follows it.
            self.status.phase = Phase::Initializing;
            let mut run = self.new_run(view, Stage::Initializing, 0);
            run.weights = None;
            self.status.run = Some(run);
            self.status.last_applied_spec = None;
            return;
        }
        let since = self.run_ref().and_then(|run| run.started_at);
        if !switching {
            match view.readiness(Side::Primary, since) {
                Readiness::Ready => {
                    let now = self.now;
                    self.with_run(|run| {
                        run.drain_from = Some(now);
                        run.weights = Some(weights(Split::PRIMARY));
                    });
                }
                Readiness::Waiting { message } => {
                    self.hold_initialisation(view, since, &message, false)
                }
                Readiness::Failed { message } => {
                    self.hold_initialisation(view, since, &message, true)
                }
            }
            return;
        }
        self.status.phase = Phase::Initializing;
        let diverted = self.run_ref().is_some_and(|run| run.diverted);
        if !diverted && view.is_dark(Side::Primary) && view.serves(Side::Canary) {
            return self.divert(view, Side::Primary);
        }
        if diverted && view.serves(Side::Primary) {
            let now = self.now;
            self.status.canary_weight = 0;
            return self.with_run(|run| {
                run.diverted = false;
                run.drain_from = Some(now);
            });
        }
        if !self.settled(view, Side::Primary) {
            return;
        }
        self.drained = true;
        if view.kind.replicas(&view.target) > 0 {
            return;
        }
        let Some(run) = self.status.run.take() else {
            return;
        };
        let identity = Identity {
            revision: run.revision.clone(),
            configs: run.tracked_configs.clone(),
        };
        self.record_applied(&identity);
        self.record_promoted(view, &identity, run.template);
        self.status.phase = Phase::Initialized;
        self.status.canary_weight = 0;
        self.status.failed_checks = 0;
        self.status.iterations = 0;
        let name = self.full_name();
        self.tell_and_alert(
            Severity::Info,
            "Initialized",
            format!("Initialization done! {name}"),
            format!(
                "New {} detected, initialization completed.",
                self.canary.spec.target_ref.kind
            ),
        );
    }

    /// The primary does not become ready. The user's workload goes on serving, so nothing is undone; it is only said.
    fn hold_initialisation(
        &mut self,
        view: &View<'_>,
        since: Option<Timestamp>,
        message: &str,
        failed: bool,
    ) {
        let late = self.is_past(since, signed(self.canary.spec.progress_deadline()));
        if !failed && !late {
            self.wake_after(since, signed(self.canary.spec.progress_deadline()));
            return;
        }
        let text = format!(
            "{}.{} not ready: {message}",
            view.canary.primary_name(),
            view.canary.metadata.namespace
        );
        if self.status.phase != Phase::Failed {
            self.status.phase = Phase::Failed;
            self.tell_and_alert(
                Severity::Error,
                "InitializationFailed",
                text.clone(),
                text.clone(),
            );
        }
        self.remarks.promoted = Some(format!(
            "The primary did not become ready, so {} still serves all traffic and nothing was changed about it.",
            view.canary.target_name()
        ));
        self.remarks.stalled = Some(("PrimaryNotReady", text));
    }

    /// A cluster that Flagger ran until now: the status has a phase and hashes, but nothing of ours, and Flagger's hashes can't be made
    /// anew. When target and primary carry the same template nothing is started; otherwise the target is a revision to be judged,
    /// unless it was judged and failed.
    fn adopt(&mut self, view: &View<'a>) {
        let foreign = self
            .status
            .last_applied_spec
            .as_deref()
            .is_some_and(|hash| !hash.starts_with("s1:"));
        let Some(primary) = view.primary.object() else {
            return;
        };
        if !foreign || self.status.promoted.is_some() || self.status.run.is_some() {
            return;
        }
        let same = crate::workload::runs_template(
            primary.at("/spec/template"),
            &view.template,
            self.canary.target_name(),
            &view.selector,
        );
        let promoted = if same {
            view.identity.clone()
        } else {
            Identity {
                revision: self
                    .status
                    .last_promoted_spec
                    .clone()
                    .unwrap_or_else(|| "unknown".to_owned()),
                configs: self.status.tracked_configs.clone().unwrap_or_default(),
            }
        };
        let kept = same.then(|| revision::object_ref(self.canary, &promoted.revision).name);
        let phase = self.status.phase;
        self.record_promoted(view, &promoted, kept);
        match phase {
            Phase::Initialized | Phase::Succeeded if !same => {}
            Phase::Waiting => {}
            _ => self.record_applied(&view.identity),
        }
        let split = view
            .route
            .as_ref()
            .ok()
            .and_then(|route| route.split)
            .unwrap_or(Split::PRIMARY);
        if phase == Phase::Failed && split == Split::CANARY {
            let mut run = self.new_run(view, Stage::Held, self.next_number());
            run.weights = Some(weights(Split::CANARY));
            run.message = Some(
                "Taken over after a failed promotion; the canary keeps the traffic.".to_owned(),
            );
            self.status.run = Some(run);
        }
        self.tell(
            Severity::Info,
            "Adopted",
            format!("{} is taken over in phase {phase}", self.full_name()),
        );
    }

    // ---- idle: Initialized, Succeeded, Failed

    fn idle(&mut self, view: &View<'a>) {
        if self.stage() == Some(Stage::Held) {
            return self.held(view);
        }
        if self.stage() == Some(Stage::PostRollout) {
            self.call_post_rollout(view);
        }
        self.follow_target(view);
    }

    /// The post-rollout hooks of the run that has just ended. They are told, not asked: nothing depends on their answers.
    fn call_post_rollout(&mut self, view: &View<'a>) {
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let phase = self.status.phase;
        let round = self.round(run.step_started_at.unwrap_or(self.now), &run.id);
        let late = self.is_past(
            run.step_started_at,
            self.interval().max(SignedDuration::from_secs(60)),
        );
        match checks::ask_hooks(
            view,
            &round,
            HookType::PostRollout,
            phase.as_str(),
            &mut self.needs,
        ) {
            HookOutcome::Pending if !late => return self.wake_at(Some(round.next)),
            HookOutcome::Pending => {}
            HookOutcome::Passed(hooks) => self.tell_passed("Post-rollout", &hooks),
            HookOutcome::Refused {
                hook, answer: why, ..
            }
            | HookOutcome::Unreachable { hook, why } => {
                self.tell(
                    Severity::Warn,
                    "PostRolloutFailed",
                    format!("Post-rollout hook {hook} failed {why}"),
                );
            }
        }
        self.needs.clear();
        self.status.run = None;
    }

    /// Starts a run where the target carries something that was neither promoted nor judged.
    fn follow_target(&mut self, view: &View<'a>) {
        if self.is_promoted(&view.identity) {
            self.record_applied(&view.identity);
            return;
        }
        if self.is_applied(&view.identity) {
            return;
        }
        self.open_gate(view);
    }

    /// The confirm-rollout gate, and the start of the run behind it.
    fn open_gate(&mut self, view: &View<'a>) {
        let phase = self.status.phase;
        // While idle nothing is written, so the rounds are counted from the last thing that was.
        let since = self
            .run_ref()
            .and_then(|run| run.waiting_since)
            .or(self.status.last_transition_time);
        let due = since.unwrap_or(Timestamp::UNIX_EPOCH);
        let round = self.round(due, &format!("confirm/{}", view.identity.revision));
        match checks::ask_hooks(
            view,
            &round,
            HookType::ConfirmRollout,
            phase.as_str(),
            &mut self.needs,
        ) {
            HookOutcome::Pending => {}
            HookOutcome::Passed(hooks) => {
                self.tell_passed("Confirm-rollout", &hooks);
                self.start_run(view);
            }
            HookOutcome::Refused { hook, muted, .. } => {
                self.wait_for_approval(view, &hook, muted, round.next)
            }
            HookOutcome::Unreachable { hook, .. } => {
                self.wait_for_approval(view, &hook, true, round.next)
            }
        }
    }

    fn wait_for_approval(&mut self, view: &View<'a>, hook: &str, muted: bool, next: Timestamp) {
        if self.status.phase != Phase::Waiting || self.run_ref().is_none() {
            let told = self.status.phase == Phase::Waiting;
            let only_canary = view.is_dark(Side::Primary) && view.serves(Side::Canary);
            let mut run = self.new_run(view, Stage::Waiting, self.next_number());
            run.weights = Some(weights(if only_canary {
                Split::CANARY
            } else {
                Split::PRIMARY
            }));
            run.waiting_since = Some(self.now);
            run.waiting_for = Some(format!("gate {hook}"));
            run.deadline_at = self.gate_deadline(self.now);
            run.message = Some(format!(
                "The confirm-rollout gate {hook} is closed; nothing is started until it opens."
            ));
            self.status.run = Some(run);
            self.status.phase = Phase::Waiting;
            if !told {
                let text = format!(
                    "Halt {} advancement waiting for approval {hook}",
                    self.full_name()
                );
                self.tell_gate(text, "Canary is waiting for approval.", muted);
            }
        }
        self.wake_at(Some(next));
    }

    fn waiting(&mut self, view: &View<'a>) {
        if self.is_promoted(&view.identity) {
            self.record_applied(&view.identity);
            return self.end_run(
                Phase::Succeeded,
                "Reverted",
                "The target was set back to the promoted revision.",
            );
        }
        if self
            .run_ref()
            .and_then(|run| run.deadline_at)
            .is_some_and(|deadline| deadline <= self.now)
        {
            self.record_applied(&view.identity);
            let cause = "The confirm-rollout gate stayed closed beyond spec.analysis.gateTimeout.";
            self.tell_and_alert(
                Severity::Error,
                "GateTimedOut",
                cause.to_owned(),
                cause.to_owned(),
            );
            self.tallies.push(Tally::Failed);
            return self.end_run(Phase::Failed, "TimedOut", cause);
        }
        let deadline = self.run_ref().and_then(|run| run.deadline_at);
        self.wake_at(deadline);
        let on_canary = self
            .run_ref()
            .is_some_and(|run| split_of(run).canary > Weight::NONE);
        if on_canary && view.serves(Side::Primary) {
            // The gate was reached after a failed promotion; the primary is back, and the canary's next revision is not judged.
            self.with_run(|run| run.weights = Some(weights(Split::PRIMARY)));
            self.status.canary_weight = 0;
            return;
        }
        self.open_gate(view);
    }

    fn start_run(&mut self, view: &View<'a>) {
        let mut run = self.new_run(view, Stage::ScalingUp, self.next_number());
        // Right after a failed promotion the canary may be the only side that serves: then the new run starts from there.
        let split = if view.is_dark(Side::Primary) && view.serves(Side::Canary) {
            Split::CANARY
        } else {
            Split::PRIMARY
        };
        run.weights = Some(weights(split));
        run.message = Some(format!("Scaling up {}.", self.target_name()));
        self.status.run = Some(run);
        self.status.phase = Phase::Progressing;
        self.status.failed_checks = 0;
        self.status.iterations = 0;
        self.status.canary_weight = i64::from(split.canary.percent());
        self.status.metrics.clear();
        self.record_applied(&view.identity);
        let text = format!("New revision detected! Scaling up {}", self.target_name());
        let alert = "New revision detected, progressing canary analysis.".to_owned();
        self.tell_and_alert(Severity::Info, "NewRevision", text, alert);
    }

    // ---- Progressing, WaitingPromotion

    fn progress(&mut self, view: &View<'a>) {
        if self.run_ref().is_none() {
            // A run of Flagger's: what it had reached is on the route, the rest is judged anew from there.
            return self.take_over_run(view);
        }
        if self.is_ours(&view.identity) {
            match self.stage() {
                Some(Stage::RollingBack | Stage::Cancelling) => self.roll_back_further(view),
                _ => self.judge(view),
            }
            return;
        }
        if self.is_promoted(&view.identity) {
            if self.stage() == Some(Stage::RollingBack) || self.stage() == Some(Stage::Cancelling) {
                return self.roll_back_further(view);
            }
            self.record_applied(&view.identity);
            let cause =
                "The target was set back to the promoted revision; the run is over.".to_owned();
            self.tell(
                Severity::Info,
                "Reverted",
                format!(
                    "{} was set back to the promoted revision, the analysis is cancelled",
                    self.target_name()
                ),
            );
            return self.begin_rollback(view, Stage::Cancelling, cause);
        }
        self.restart(view);
    }

    fn restart(&mut self, view: &View<'a>) {
        if let Some(old) = self.status.run.clone() {
            let outcome = if self.stage() == Some(Stage::RollingBack) {
                "RolledBack"
            } else {
                "Superseded"
            };
            let cause = old.message.clone().filter(|_| outcome == "RolledBack");
            let cause = cause.unwrap_or_else(|| {
                "A newer revision came before this one was judged to the end.".to_owned()
            });
            self.status
                .remember(checks::past_run(&old, outcome, &cause, self.now));
        }
        self.start_run(view);
        self.announcements.clear();
        self.tell(
            Severity::Info,
            "NewRevision",
            format!(
                "New revision detected! Restarting analysis for {}",
                self.target_name()
            ),
        );
    }

    fn take_over_run(&mut self, view: &View<'a>) {
        let split = view
            .route
            .as_ref()
            .ok()
            .and_then(|route| route.split)
            .unwrap_or(Split::PRIMARY);
        let mut run = self.new_run(view, Stage::Analysing, self.next_number());
        run.weights = Some(weights(split));
        run.next_check_at = self.after(self.interval());
        run.step_started_at = Some(self.now);
        run.pre_rollout_passed = split.canary > Weight::NONE;
        run.message = Some("Taken over in mid-run; the split was read from the route.".to_owned());
        self.status.canary_weight = i64::from(split.canary.percent());
        self.status.run = Some(run);
        self.record_applied(&view.identity);
    }

    /// Readiness of both sides first, then the round of checks when it is due, then the next step.
    fn judge(&mut self, view: &View<'a>) {
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        if run.stage == Stage::ScalingUp.as_str()
            && split_of(&run).canary > Weight::NONE
            && view.serves(Side::Primary)
        {
            // The run began after a failed promotion; what was promoted before serves again, and nothing of this revision is judged yet.
            self.status.canary_weight = 0;
            return self.with_run(|run| {
                run.diverted = false;
                run.weights = Some(weights(Split::PRIMARY));
            });
        }
        match view.readiness(Side::Canary, run.started_at) {
            Readiness::Ready => {}
            Readiness::Failed { message } => return self.fail_unready(view, &message),
            Readiness::Waiting { message } => return self.hold_for_canary(view, &run, &message),
        }
        if !view.serves(Side::Primary) && split_of(&run).canary < Weight::ALL {
            return self.hold_for_primary(view, &run);
        }
        if run.diverted {
            return self.restore(view);
        }
        if let Some(waiting) = &run.waiting_for
            && (waiting == WAIT_CANARY || waiting == WAIT_PRIMARY)
        {
            self.with_run(clear_wait);
        }
        if self.canary.spec.skip_analysis() {
            return self.start_promotion(view);
        }
        if run.step == 0
            && run.stage == Stage::ScalingUp.as_str()
            && view.router.capabilities().weights
            && !view.serves(Side::Canary)
        {
            return self.hold_for_canary(view, &run, "no ready endpoints");
        }
        if self.status.failed_checks >= self.canary.spec.analysis.threshold() {
            return self.threshold_reached(view, "spec.analysis.threshold was lowered");
        }
        let due = run.next_check_at.or(run.started_at).unwrap_or(self.now);
        if due > self.now {
            return self.wake_at(Some(due));
        }
        if let Err(why) = view.applied()
            && run.step > 0
        {
            return self.hold_for_route(view, &run, &why);
        }
        let round = self.round(due, &run.id);
        self.wake_at(Some(round.next));
        self.check(view, &run, &round);
    }

    fn check(&mut self, view: &View<'a>, run: &Run, round: &Round) {
        let phase = self.status.phase;
        match checks::ask_rollback_hooks(view, round, phase.as_str(), &mut self.needs) {
            Err(()) => {}
            Ok(None) => {}
            Ok(Some(hook)) => {
                self.tell(
                    Severity::Warn,
                    "RollbackHook",
                    format!("Rollback check {hook} passed"),
                );
                let text = format!("Rolling back {} manual webhook invoked", self.full_name());
                self.tell_and_alert(
                    Severity::Warn,
                    "RollbackRequested",
                    text,
                    "Rolling back manual webhook invoked".to_owned(),
                );
                return self.begin_rollback(
                    view,
                    Stage::RollingBack,
                    format!("The rollback hook {hook} asked for it."),
                );
            }
        }
        let untouched = run.step == 0 && split_of(run) == Split::PRIMARY;
        match (run.pre_rollout_passed, untouched) {
            (false, _) => self.check_pre_rollout(view, round),
            // Held by a gate before the first traffic: there is nothing to measure yet.
            (true, true) => self.advance(view, round, Vec::new()),
            (true, false) => self.check_analysis(view, run, round),
        }
    }

    fn check_pre_rollout(&mut self, view: &View<'a>, round: &Round) {
        match checks::ask_hooks(
            view,
            round,
            HookType::PreRollout,
            Phase::Progressing.as_str(),
            &mut self.needs,
        ) {
            HookOutcome::Pending => {}
            HookOutcome::Unreachable { hook, why } => {
                self.hold_for_data(view, &format!("pre-rollout hook {hook}"), &why)
            }
            HookOutcome::Refused { hook, answer, .. } => {
                let text = format!(
                    "Halt {} advancement pre-rollout check {hook} failed {answer}",
                    self.full_name()
                );
                self.failed_check(view, vec![text], Vec::new());
            }
            HookOutcome::Passed(hooks) => {
                if !self.needs.is_empty() {
                    return;
                }
                let started = self.run_ref().is_some_and(|run| run.checks > 0);
                if !started {
                    self.tell(
                        Severity::Info,
                        "AnalysisStarted",
                        format!("Starting canary analysis for {}", self.target_name()),
                    );
                }
                self.tell_passed("Pre-rollout", &hooks);
                self.with_run(|run| run.pre_rollout_passed = true);
                if self
                    .run_ref()
                    .is_some_and(|run| split_of(run) != Split::PRIMARY)
                {
                    // The canary has traffic from the start: it is measured before anything else.
                    return self.measure_first();
                }
                self.advance(view, round, Vec::new());
            }
        }
    }

    /// Begins the analysis with the traffic that the canary has.
    fn measure_first(&mut self) {
        let (now, next) = (self.now, self.after(self.interval()));
        self.with_run(|run| {
            run.stage = Stage::Analysing.as_str().to_owned();
            run.checks += 1;
            run.step_started_at = Some(now);
            run.next_check_at = next;
            run.no_data_since = None;
            clear_wait(run);
            run.message = Some(
                "The primary can't serve, so the canary is judged with all of the traffic."
                    .to_owned(),
            );
        });
    }

    fn check_analysis(&mut self, view: &View<'a>, run: &Run, round: &Round) {
        let hooks = checks::ask_hooks(
            view,
            round,
            HookType::Rollout,
            Phase::Progressing.as_str(),
            &mut self.needs,
        );
        let metrics = checks::ask_metrics(view, round, &mut self.needs);
        let MetricsOutcome::Judged(judged) = metrics else {
            return;
        };
        if hooks == HookOutcome::Pending || !self.needs.is_empty() {
            return;
        }
        let mut failures = Vec::new();
        if let HookOutcome::Refused { hook, answer, .. } = &hooks {
            failures.push(format!(
                "Halt {} advancement external check {hook} failed {answer}",
                self.full_name()
            ));
        }
        failures.extend(
            judged
                .iter()
                .filter(|one| one.status.verdict == Verdict::Failed)
                .filter_map(|one| one.message.clone()),
        );
        if !failures.is_empty() {
            return self.failed_check(view, failures, judged);
        }
        let silent = judged
            .iter()
            .find(|one| matches!(one.status.verdict, Verdict::NoData | Verdict::Error));
        let silent = match (&hooks, silent) {
            (HookOutcome::Unreachable { hook, why }, _) => {
                Some((format!("rollout hook {hook}"), why.clone()))
            }
            (_, Some(one)) => Some((
                format!("metric {}", one.status.name),
                one.message.clone().unwrap_or_default(),
            )),
            _ => None,
        };
        if let Some((what, why)) = silent {
            self.hold_for_data(view, &what, &why);
            if run.no_data_since.is_none() {
                self.record_metrics(&judged);
            }
            return;
        }
        self.advance(view, round, judged);
    }

    /// All checks of the round passed: go through the gates and take the next step of the strategy.
    fn advance(&mut self, view: &View<'a>, round: &Round, judged: Vec<Judged>) {
        self.end_silence();
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let analysis = &self.canary.spec.analysis;
        let weighted = view.router.capabilities().weights;
        match self.strategy(view) {
            Strategy::Canary => {
                // A run that waits for its promotion has had its last increase.
                let increases = self.status.phase != Phase::WaitingPromotion;
                if increases && !self.gate_passed(view, round, HookType::ConfirmTrafficIncrease) {
                    return;
                }
                let present = split_of(&run).canary;
                let mirror = analysis.mirror() && view.router.capabilities().mirror_canary;
                if mirror && present == Weight::NONE && !run.mirrored {
                    return self.take_step(
                        view,
                        Split {
                            canary: Weight::NONE,
                            mirrored: true,
                        },
                        judged,
                        String::new(),
                    );
                }
                match next_step(analysis, present) {
                    NextStep::Raise(weight) => {
                        let text = format!(
                            "Advance {} canary weight {}",
                            self.full_name(),
                            weight.percent()
                        );
                        self.take_step(
                            view,
                            Split {
                                canary: weight,
                                mirrored: false,
                            },
                            judged,
                            text,
                        );
                    }
                    NextStep::Top => self.confirm_and_promote(view, round, &judged),
                }
            }
            Strategy::AbTesting => {
                let (done, all) = (self.status.iterations, self.iterations());
                if done < all {
                    let text = format!(
                        "Advance {} canary iteration {}/{all}",
                        self.full_name(),
                        done + 1
                    );
                    self.status.iterations = done + 1;
                    self.take_step(view, Split::CANARY, judged, text);
                } else {
                    self.confirm_and_promote(view, round, &judged);
                }
            }
            Strategy::BlueGreen => {
                let (done, all) = (self.status.iterations, self.iterations());
                let mirror = analysis.mirror() && view.router.capabilities().mirror_blue_green;
                if done < all {
                    let text = format!(
                        "Advance {} canary iteration {}/{all}",
                        self.full_name(),
                        done + 1
                    );
                    self.status.iterations = done + 1;
                    let split = if view.is_dark(Side::Primary) {
                        Split::CANARY
                    } else {
                        Split {
                            canary: Weight::NONE,
                            mirrored: mirror,
                        }
                    };
                    self.take_step(view, split, judged, text);
                } else if done == all && weighted {
                    if !self.gate_passed(view, round, HookType::ConfirmPromotion) {
                        return;
                    }
                    let text = if mirror {
                        "Stop traffic mirroring and route all traffic to canary"
                    } else {
                        "Routing all traffic to canary"
                    };
                    self.status.iterations = all + 1;
                    self.take_step(view, Split::CANARY, judged, text.to_owned());
                } else {
                    self.confirm_and_promote(view, round, &judged);
                }
            }
        }
    }

    fn take_step(&mut self, view: &View<'a>, split: Split, judged: Vec<Judged>, text: String) {
        // I2: no weight is raised on a side that could not answer.
        if split.canary > Weight::NONE && !view.serves(Side::Canary) {
            return;
        }
        self.record_metrics(&judged);
        let (now, next) = (self.now, self.after(self.interval()));
        self.with_run(|run| {
            run.stage = Stage::Analysing.as_str().to_owned();
            run.weights = Some(weights(split));
            run.mirrored = split.mirrored;
            run.step += 1;
            run.checks += 1;
            run.pre_rollout_passed = true;
            run.step_started_at = Some(now);
            run.next_check_at = next;
            run.no_data_since = None;
            clear_wait(run);
            run.message = Some(format!(
                "Step {}: {} % of the traffic goes to the canary.",
                run.step,
                split.canary.percent()
            ));
        });
        self.passed_round();
        self.status.phase = Phase::Progressing;
        self.status.canary_weight = i64::from(split.canary.percent());
        self.keep_cookies();
        if !text.is_empty() {
            self.tell(Severity::Info, "Advanced", text);
        }
    }

    fn failed_check(&mut self, view: &View<'a>, texts: Vec<String>, judged: Vec<Judged>) {
        let analysis = &self.canary.spec.analysis;
        self.record_metrics(&judged);
        let next = self.after(self.interval());
        let window = analysis.failure_window();
        let mut failed_in_window = 0;
        self.with_run(|run| {
            run.checks += 1;
            run.next_check_at = next;
            run.no_data_since = None;
            end_wait(run);
            run.recent_checks.push(false);
            let surplus = run.recent_checks.len().saturating_sub(window.max(1));
            run.recent_checks.drain(..surplus);
            failed_in_window = run.recent_checks.iter().filter(|passed| !**passed).count();
            run.message = texts.first().cloned();
        });
        self.status.failed_checks = match analysis.failure_mode() {
            FailureMode::Window => i64::try_from(failed_in_window).unwrap_or(i64::MAX),
            _ => self.status.failed_checks + 1,
        };
        let cause = texts.first().cloned().unwrap_or_default();
        for text in texts {
            self.tell(Severity::Warn, "CheckFailed", text);
        }
        if self.status.failed_checks >= analysis.threshold() {
            self.threshold_reached(view, &cause);
        }
    }

    fn threshold_reached(&mut self, view: &View<'a>, last: &str) {
        let failed = self.status.failed_checks;
        let text = format!(
            "Rolling back {} failed checks threshold reached {failed}",
            self.full_name()
        );
        self.tell_and_alert(
            Severity::Error,
            "ThresholdReached",
            text,
            format!("Failed checks threshold reached {failed}"),
        );
        let cause = format!("{failed} failed checks reached the threshold; the last: {last}");
        self.begin_rollback(view, Stage::RollingBack, cause);
    }

    /// A passed round forgives, where the user asked for that.
    fn passed_round(&mut self) {
        let analysis = &self.canary.spec.analysis;
        let window = analysis.failure_window().max(1);
        match analysis.failure_mode() {
            FailureMode::Cumulative => {}
            FailureMode::Consecutive => self.status.failed_checks = 0,
            FailureMode::Window => {
                let mut failed = 0;
                self.with_run(|run| {
                    run.recent_checks.push(true);
                    let surplus = run.recent_checks.len().saturating_sub(window);
                    run.recent_checks.drain(..surplus);
                    failed = run.recent_checks.iter().filter(|passed| !**passed).count();
                });
                self.status.failed_checks = i64::try_from(failed).unwrap_or(i64::MAX);
            }
        }
    }

    /// A round that passed forgives also while a gate holds the next step; the next round is then a new one. Where there is nothing to
    /// forgive nothing is written, however long the gate stays closed.
    fn forgive_at_gate(&mut self) {
        let forgives = self.canary.spec.analysis.failure_mode() != FailureMode::Cumulative;
        if !forgives || self.status.failed_checks == 0 {
            return;
        }
        self.passed_round();
        let next = self.after(self.interval());
        self.with_run(|run| run.next_check_at = next);
    }

    /// Data came back.
    fn end_silence(&mut self) {
        self.with_run(|run| {
            if run.no_data_since.take().is_none() {
                return;
            }
            match gate_of(run).map(gate_text) {
                Some(text) => run.message = Some(text),
                None => clear_wait(run),
            }
        });
    }

    fn gate_passed(&mut self, view: &View<'a>, round: &Round, kind: HookType) -> bool {
        let promotion = kind == HookType::ConfirmPromotion;
        let label = if promotion {
            "Confirm-promotion"
        } else {
            "Confirm-traffic-increase"
        };
        let (hook, muted) = match checks::ask_hooks(
            view,
            round,
            kind,
            Phase::Progressing.as_str(),
            &mut self.needs,
        ) {
            HookOutcome::Pending => return false,
            HookOutcome::Passed(hooks) => {
                self.tell_passed(label, &hooks);
                return true;
            }
            HookOutcome::Refused { hook, muted, .. } => (hook, muted),
            HookOutcome::Unreachable { hook, .. } => (hook, true),
        };
        let waiting_for = format!("gate {hook}");
        let run = self.run_ref().cloned().unwrap_or_default();
        if run.waiting_for.as_deref() == Some(&waiting_for) {
            if run.deadline_at.is_some_and(|deadline| deadline <= self.now) {
                let cause =
                    format!("The gate {hook} stayed closed beyond spec.analysis.gateTimeout.");
                self.tell_and_alert(
                    Severity::Error,
                    "GateTimedOut",
                    cause.clone(),
                    cause.clone(),
                );
                self.begin_rollback(view, Stage::RollingBack, cause);
            } else {
                self.forgive_at_gate();
            }
            return false;
        }
        self.forgive_at_gate();
        let (now, deadline) = (self.now, self.gate_deadline(self.now));
        self.with_run(|run| {
            run.waiting_since = Some(now);
            run.waiting_for = Some(waiting_for);
            run.deadline_at = deadline;
            run.message = Some(gate_text(&hook));
        });
        if promotion {
            self.status.phase = Phase::WaitingPromotion;
            let text = format!(
                "Halt {} advancement waiting for promotion approval {hook}",
                self.full_name()
            );
            self.tell_gate(text, "Canary promotion is waiting for approval.", muted);
        } else {
            let text = format!(
                "Halt {} advancement waiting for traffic increase approval {hook}",
                self.full_name()
            );
            self.tell_gate(
                text,
                "Canary traffic increase is waiting for approval.",
                muted,
            );
        }
        false
    }

    fn confirm_and_promote(&mut self, view: &View<'a>, round: &Round, judged: &[Judged]) {
        if self.gate_passed(view, round, HookType::ConfirmPromotion) {
            self.record_metrics(judged);
            self.start_promotion(view);
        }
    }

    // ---- holds

    fn fail_unready(&mut self, view: &View<'a>, message: &str) {
        let kind = self.canary.spec.target_ref.kind.to_lowercase();
        let text = format!("canary {kind} {} not ready: {message}", self.target_name());
        let alert = format!("Progress deadline exceeded {message}");
        self.tell_and_alert(Severity::Error, "CanaryNotReady", text.clone(), alert);
        self.begin_rollback(view, Stage::RollingBack, text);
    }

    fn hold_for_canary(&mut self, view: &View<'a>, run: &Run, message: &str) {
        let kind = self.canary.spec.target_ref.kind.to_lowercase();
        let text = format!("canary {kind} {} not ready: {message}", self.target_name());
        let deadline = signed(self.canary.spec.progress_deadline());
        let split = split_of(run);
        if split.canary > Weight::NONE
            && !run.diverted
            && view.is_dark(Side::Canary)
            && view.serves(Side::Primary)
        {
            self.divert(view, Side::Canary);
        }
        if run.stage == Stage::ScalingUp.as_str() {
            // Scaling up takes a moment; it is worth a word only when it takes longer than a step would.
            if self.is_past(run.started_at, deadline) {
                return self.fail_unready(view, message);
            }
            self.wake_after(run.started_at, deadline);
            if self.is_past(
                run.started_at,
                self.interval().max(SignedDuration::from_secs(10)),
            ) {
                self.wait_for(WAIT_CANARY, &text, Some(deadline), run.started_at);
            } else {
                self.wake_after(
                    run.started_at,
                    self.interval().max(SignedDuration::from_secs(10)),
                );
            }
            return;
        }
        if self.wait_for(WAIT_CANARY, &text, Some(deadline), None) {
            self.fail_unready(view, message);
        }
    }

    fn hold_for_primary(&mut self, view: &View<'a>, run: &Run) {
        if !run.diverted && view.is_dark(Side::Primary) && view.serves(Side::Canary) {
            self.divert(view, Side::Primary);
        }
        let text = format!(
            "{}.{} not ready: no ready endpoints",
            self.canary.primary_name(),
            self.canary.metadata.namespace
        );
        let deadline = signed(self.canary.spec.progress_deadline());
        if self.wait_for(WAIT_PRIMARY, &text, Some(deadline), None) {
            self.begin_rollback(
                view,
                Stage::RollingBack,
                format!("{text} for longer than the progress deadline"),
            );
        }
    }

    fn hold_for_route(&mut self, view: &View<'a>, run: &Run, why: &str) {
        let text = format!("The route is not applied yet: {why}");
        let deadline = signed(self.canary.spec.progress_deadline());
        let grace = self.interval();
        if !self.is_past(run.next_check_at, grace) {
            return self.wake_after(run.next_check_at, grace);
        }
        if self.wait_for("the route to be applied", &text, Some(deadline), None) {
            self.begin_rollback(view, Stage::RollingBack, text);
        }
    }

    /// Nothing could be measured. That says nothing about the canary: the step holds, and after a finite time the run ends on the safe
    /// side.
    fn hold_for_data(&mut self, view: &View<'a>, what: &str, why: &str) {
        let deadline = signed(self.canary.spec.no_data_deadline());
        let (known_since, due) = self.run_ref().map_or((None, None), |run| {
            (run.no_data_since, run.next_check_at.or(run.started_at))
        });
        let since = known_since.or(due).unwrap_or(self.now);
        if known_since.is_none() && !self.is_past(due, self.interval()) {
            // Pods that have just got their first requests may not have been scraped yet: one silent round is nothing to tell of.
            return;
        }
        let (end, next) = (since.checked_add(deadline).ok(), self.wake);
        if end.is_some_and(|end| end <= self.now) {
            let cause = format!(
                "Nothing could be measured for {}: {what}: {why}",
                crate::api::GoDuration(self.canary.spec.no_data_deadline())
            );
            let text = format!("Rolling back {} {cause}", self.full_name());
            self.tell_and_alert(Severity::Error, "NoDataDeadline", text, cause.clone());
            return self.begin_rollback(view, Stage::RollingBack, cause);
        }
        let message = format!("Waiting for {what}: {why}");
        let at_gate = self.run_ref().is_some_and(|run| gate_of(run).is_some());
        let known = self.run_ref().is_some_and(|run| {
            run.no_data_since.is_some() && (at_gate || run.waiting_for.as_deref() == Some(what))
        });
        if !known {
            self.with_run(|run| {
                run.no_data_since = Some(since);
                run.message = Some(message);
                if !at_gate {
                    run.waiting_since = Some(since);
                    run.waiting_for = Some(what.to_owned());
                    run.deadline_at = end;
                }
            });
            self.tell(Severity::Warn, "NoData", why.to_owned());
        }
        self.wake_at(next);
        self.wake_at(end);
    }

    /// Notes a wait in the status, once. True when its time is over.
    fn wait_for(
        &mut self,
        what: &str,
        text: &str,
        limit: Option<SignedDuration>,
        since: Option<Timestamp>,
    ) -> bool {
        let now = self.now;
        let present = self.run_ref().and_then(|run| {
            (run.waiting_for.as_deref() == Some(what)).then_some(run.waiting_since)
        });
        if let Some(started) = present {
            let started = started.unwrap_or(now);
            let Some(limit) = limit else { return false };
            self.wake_after(Some(started), limit);
            return self.is_past(Some(started), limit);
        }
        let started = since.unwrap_or(now);
        let deadline = limit.and_then(|limit| started.checked_add(limit).ok());
        self.with_run(|run| {
            run.waiting_for = Some(what.to_owned());
            run.waiting_since = Some(started);
            run.deadline_at = deadline;
            run.message = Some(text.to_owned());
        });
        self.tell(Severity::Warn, "Waiting", text.to_owned());
        self.wake_at(deadline);
        false
    }

    /// A side that has weight lost its last ready endpoint, and the other one has some: traffic moves at once.
    fn divert(&mut self, _view: &View<'a>, dark: Side) {
        let (split, name) = match dark {
            Side::Canary => (Split::PRIMARY, "canary"),
            Side::Primary => (Split::CANARY, "primary"),
        };
        self.with_run(|run| run.diverted = true);
        self.status.canary_weight = i64::from(split.canary.percent());
        self.tell(
            Severity::Warn,
            "TrafficDiverted",
            format!(
                "The {name} of {} has no ready endpoints, all traffic goes to the other side",
                self.full_name()
            ),
        );
    }

    fn restore(&mut self, _view: &View<'a>) {
        let (now, next) = (self.now, self.after(self.interval()));
        let mut percent = 0;
        self.with_run(|run| {
            run.diverted = false;
            run.step_started_at = Some(now);
            run.next_check_at = next;
            clear_wait(run);
            percent = run.weights.map_or(0, |weights| weights.canary);
            run.message = Some(format!(
                "Both sides are ready again: {percent} % of the traffic goes to the canary."
            ));
        });
        self.status.canary_weight = i64::from(percent);
        self.tell(
            Severity::Info,
            "TrafficRestored",
            format!(
                "Both sides of {} are ready again, canary weight {percent}",
                self.full_name()
            ),
        );
    }

    // ---- rollback

    fn begin_rollback(&mut self, view: &View<'a>, stage: Stage, cause: String) {
        let to_primary = !view.is_dark(Side::Primary) || view.is_dark(Side::Canary);
        let now = self.now;
        if self.status.phase == Phase::WaitingPromotion {
            self.status.phase = Phase::Progressing;
        }
        self.with_run(|run| {
            run.stage = stage.as_str().to_owned();
            run.mirrored = false;
            run.diverted = false;
            clear_wait(run);
            run.no_data_since = None;
            run.next_check_at = None;
            run.waiting_since = Some(now);
            run.message = Some(cause);
            if to_primary {
                run.weights = Some(weights(Split::PRIMARY));
                run.drain_from = Some(now);
            }
        });
        if to_primary {
            self.status.canary_weight = 0;
        }
    }

    fn roll_back_further(&mut self, view: &View<'a>) {
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let deadline = signed(self.canary.spec.progress_deadline());
        let Some(_) = run.drain_from else {
            if view.serves(Side::Primary) {
                let now = self.now;
                self.with_run(|run| {
                    run.weights = Some(weights(Split::PRIMARY));
                    run.drain_from = Some(now);
                });
                self.status.canary_weight = 0;
            } else if self.is_past(run.waiting_since, deadline) {
                // The canary is the only side that serves. It stays, and a person or a new revision decides.
                self.hold_on_canary(
                    "The primary did not come back, so the canary keeps the traffic.",
                );
            } else {
                self.wake_after(run.waiting_since, deadline);
            }
            return;
        };
        let given_up = view.is_dark(Side::Primary) && self.is_past(run.drain_from, deadline);
        if !self.settled(view, Side::Primary) && !given_up {
            return self.wake_after(run.drain_from, deadline);
        }
        // A canary that is not needed any more goes; the only copy that may still serve stays.
        self.drained = !given_up;
        if self.drained && view.kind.replicas(&view.target) > 0 {
            return;
        }
        let cause = run.message.clone().unwrap_or_default();
        if run.stage == Stage::Cancelling.as_str() {
            self.remarks.promoted =
                Some("The target was set back to the promoted revision.".to_owned());
            return self.end_run(Phase::Succeeded, "Reverted", &cause);
        }
        let text = format!("Canary failed! Scaling down {}", self.full_name());
        self.tell(Severity::Warn, "RolledBack", text);
        self.announcements
            .last_mut()
            .into_iter()
            .for_each(|told| told.phase = Phase::Failed.as_str().to_owned());
        self.tallies.push(Tally::Failed);
        self.end_run(Phase::Failed, "RolledBack", &cause);
    }

    fn hold_on_canary(&mut self, cause: &str) {
        self.with_run(|run| {
            run.stage = Stage::Held.as_str().to_owned();
            run.weights = Some(weights(Split::CANARY));
            run.message = Some(cause.to_owned());
            clear_wait(run);
        });
        self.status.phase = Phase::Failed;
        self.status.canary_weight = 100;
        self.status.failed_checks = 0;
        self.status.iterations = 0;
        self.tallies.push(Tally::Failed);
        if let Some(run) = self.status.run.clone() {
            self.status
                .remember(checks::past_run(&run, "Held", cause, self.now));
        }
    }

    // ---- Promoting

    fn start_promotion(&mut self, _view: &View<'a>) {
        let now = self.now;
        self.with_run(|run| {
            run.stage = Stage::Promoting.as_str().to_owned();
            run.mirrored = false;
            run.step_started_at = Some(now);
            run.next_check_at = None;
            clear_wait(run);
            run.message = Some("The primary takes over the template that was judged.".to_owned());
        });
        self.status.phase = Phase::Promoting;
        let text = format!(
            "Copying {} template spec to {}.{}",
            self.target_name(),
            self.canary.primary_name(),
            self.canary.metadata.namespace
        );
        self.tell(Severity::Info, "Promoting", text);
    }

    fn promote(&mut self, view: &View<'a>) {
        if self.run_ref().is_none() {
            return self.take_over_promotion(view);
        }
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let weighted = view.router.capabilities().weights;
        let returning = run.stage == Stage::Returning.as_str();
        if !returning {
            if !converge::primary_carries(view, &self.status) {
                // The write is under way; it is repeated until the primary says so.
                let deadline = signed(self.canary.spec.progress_deadline());
                if self.is_past(run.step_started_at, deadline) {
                    return self.promotion_failed(
                        view,
                        "the template could not be written to the primary",
                    );
                }
                return self.wake_after(
                    run.step_started_at,
                    signed(self.canary.spec.progress_deadline()),
                );
            }
            match view.readiness(Side::Primary, run.step_started_at) {
                Readiness::Ready => {}
                Readiness::Failed { message } => return self.promotion_failed(view, &message),
                Readiness::Waiting { message } => {
                    let deadline = signed(self.canary.spec.progress_deadline());
                    if self.is_past(run.step_started_at, deadline) {
                        return self.promotion_failed(view, &message);
                    }
                    self.wake_after(run.step_started_at, deadline);
                    return self.keep_served(view, &run);
                }
            }
        }
        let step = self.canary.spec.analysis.step_weight_promotion();
        let present = split_of(&run).canary;
        if returning && run.next_check_at.is_some_and(|due| due > self.now) {
            return self.wake_at(run.next_check_at);
        }
        if returning && !view.serves(Side::Primary) {
            let deadline = signed(self.canary.spec.progress_deadline());
            if self.is_past(run.next_check_at, deadline) {
                return self.promotion_failed(view, "no ready endpoints");
            }
            self.wake_after(run.next_check_at, deadline);
            return self.keep_served(view, &run);
        }
        if step > 0 && weighted && i64::from(present.percent()) > step {
            let split = Split::canary(i64::from(present.percent()) - step);
            let next = self.after(self.interval());
            self.with_run(|run| {
                run.stage = Stage::Returning.as_str().to_owned();
                run.weights = Some(weights(split));
                run.diverted = false;
                run.next_check_at = next;
            });
            self.status.canary_weight = i64::from(split.canary.percent());
            let text = format!(
                "Advance {} primary weight {}",
                self.full_name(),
                split.primary().percent()
            );
            return self.tell(Severity::Info, "Advanced", text);
        }
        let text = if step > 0 && weighted {
            format!("Advance {} primary weight 100", self.full_name())
        } else {
            "Routing all traffic to primary".to_owned()
        };
        let now = self.now;
        self.with_run(|run| {
            run.stage = Stage::ScalingDown.as_str().to_owned();
            run.weights = Some(weights(Split::PRIMARY));
            run.diverted = false;
            run.drain_from = Some(now);
            run.next_check_at = None;
            clear_wait(run);
            run.message = Some("The primary serves all traffic; the canary drains.".to_owned());
        });
        self.status.canary_weight = 0;
        self.status.phase = Phase::Finalising;
        if weighted {
            self.tell(Severity::Info, "RoutingToPrimary", text);
        }
    }

    /// While the primary rolls, neither a canary that went dark nor one that carries a newer, unjudged template may keep the traffic.
    fn keep_served(&mut self, view: &View<'a>, run: &Run) {
        let split = split_of(run);
        let unjudged = !self.is_ours(&view.identity);
        if split.canary > Weight::NONE
            && !run.diverted
            && view.serves(Side::Primary)
            && (unjudged || view.is_dark(Side::Canary))
        {
            self.divert(view, Side::Canary);
        } else if split.canary < Weight::ALL
            && !run.diverted
            && !unjudged
            && view.is_dark(Side::Primary)
            && view.serves(Side::Canary)
        {
            self.divert(view, Side::Primary);
        }
    }

    fn promotion_failed(&mut self, view: &View<'a>, message: &str) {
        let text = format!(
            "Promotion of {} failed, primary not ready: {message}",
            self.target_name()
        );
        let alert = format!("Promotion failed, primary not ready: {message}");
        self.tell_and_alert(Severity::Error, "PromotionFailed", text.clone(), alert);
        if view.serves(Side::Canary)
            && self.is_ours(&view.identity)
            && view.router.capabilities().weights
        {
            self.remarks.promoted = Some(HELD_TEXT.to_owned());
            return self.hold_on_canary(&text);
        }
        // No healthy canary to hold on to: the primary gets its last promoted template back and keeps the traffic.
        self.begin_rollback(view, Stage::RollingBack, text);
        self.status.phase = Phase::Progressing;
    }

    /// After a failed promotion: the canary, which was judged good, keeps the traffic, and the primary gets the template back that it
    /// had. From here a new revision can always follow.
    fn held(&mut self, view: &View<'a>) {
        self.remarks.promoted = Some(HELD_TEXT.to_owned());
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let restored = converge::primary_carries(view, &self.status)
            && view.readiness(Side::Primary, None).is_ready();
        if self.is_promoted(&view.identity)
            || (restored && self.canary.spec.on_promotion_failure() == FailurePromotion::Rollback)
        {
            if restored {
                let (stage, cause) = if self.is_promoted(&view.identity) {
                    (
                        Stage::Cancelling,
                        "The target was set back to the promoted revision.".to_owned(),
                    )
                } else {
                    (Stage::RollingBack, run.message.clone().unwrap_or_default())
                };
                self.record_applied(&view.identity);
                self.status.phase = Phase::Progressing;
                return self.begin_rollback(view, stage, cause);
            }
            return;
        }
        if self.is_ours(&view.identity) {
            if split_of(&run).canary == Weight::ALL
                && !run.diverted
                && view.is_dark(Side::Canary)
                && view.serves(Side::Primary)
            {
                self.divert(view, Side::Canary);
            } else if run.diverted && view.serves(Side::Canary) && view.is_dark(Side::Primary) {
                self.restore(view);
            }
            return;
        }
        self.open_gate(view);
    }

    fn take_over_promotion(&mut self, view: &View<'a>) {
        let split = view
            .route
            .as_ref()
            .ok()
            .and_then(|route| route.split)
            .unwrap_or(Split::PRIMARY);
        let mut run = self.new_run(view, Stage::Promoting, self.next_number());
        run.weights = Some(weights(split));
        run.step_started_at = Some(self.now);
        run.message = Some("Taken over during its promotion.".to_owned());
        self.status.phase = Phase::Promoting;
        self.status.run = Some(run);
    }

    // ---- Finalising

    fn finalise(&mut self, view: &View<'a>) {
        if self.run_ref().is_none() {
            return self.take_over_promotion(view);
        }
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        if view.is_dark(Side::Primary) && view.serves(Side::Canary) && !run.diverted {
            return self.divert(view, Side::Primary);
        }
        if run.diverted {
            let deadline = signed(self.canary.spec.progress_deadline());
            if view.serves(Side::Primary) {
                let now = self.now;
                self.status.canary_weight = 0;
                return self.with_run(|run| {
                    run.diverted = false;
                    run.drain_from = Some(now);
                });
            }
            if self.is_past(run.drain_from, deadline) {
                return self.promotion_failed(view, "no ready endpoints");
            }
            return self.wake_after(run.drain_from, deadline);
        }
        if !self.settled(view, Side::Primary) {
            return;
        }
        self.drained = true;
        let superseded = self
            .run_ref()
            .is_some_and(|run| run.revision != view.identity.revision);
        if !superseded && view.kind.replicas(&view.target) > 0 {
            return;
        }
        let Some(run) = self.run_ref().cloned() else {
            return;
        };
        let identity = Identity {
            revision: run.revision.clone(),
            configs: run.tracked_configs.clone(),
        };
        self.record_promoted(view, &identity, run.template.clone());
        let skipped = self.canary.spec.skip_analysis();
        self.tallies.push(Tally::Succeeded { skipped });
        self.end_run(
            Phase::Succeeded,
            "Promoted",
            "All checks passed; the primary runs the revision.",
        );
        let (text, alert) = if skipped {
            (
                format!(
                    "Promotion completed! Canary analysis was skipped for {}",
                    self.target_name()
                ),
                "Canary analysis was skipped, promotion finished.",
            )
        } else {
            (
                format!("Promotion completed! Scaling down {}", self.target_name()),
                "Canary analysis completed successfully, promotion finished.",
            )
        };
        self.tell_and_alert(Severity::Info, "Succeeded", text, alert.to_owned());
    }

    /// Weights first, then the route is seen to be applied, then a drain time, only then pods go.
    fn settled(&mut self, view: &View<'a>, to: Side) -> bool {
        let Some(from) = self.run_ref().and_then(|run| run.drain_from) else {
            return false;
        };
        let deadline = signed(self.canary.spec.progress_deadline());
        if !view.serves(to) {
            return false;
        }
        let carried = !view.router.capabilities().weights
            || view
                .route
                .as_ref()
                .ok()
                .and_then(|route| route.split)
                .is_some_and(|split| split == Split::PRIMARY);
        let applied = view.applied().is_ok() || self.is_past(Some(from), deadline);
        let drain = signed(self.canary.spec.analysis.drain());
        self.wake_after(Some(from), drain);
        self.wake_after(Some(from), deadline);
        carried && applied && self.is_past(Some(from), drain)
    }

    // ---- the record

    fn end_run(&mut self, phase: Phase, outcome: &str, cause: &str) {
        if let Some(run) = self.status.run.take() {
            let told = self
                .status
                .history
                .last()
                .is_some_and(|last| last.number == run.number && last.outcome == "Held");
            if !told {
                self.status
                    .remember(checks::past_run(&run, outcome, cause, self.now));
            }
            if self
                .canary
                .spec
                .analysis
                .hooks(HookType::PostRollout)
                .next()
                .is_some()
            {
                self.status.run = Some(Run {
                    id: run.id,
                    number: run.number,
                    revision: run.revision,
                    template: run.template,
                    tracked_configs: run.tracked_configs,
                    stage: Stage::PostRollout.as_str().to_owned(),
                    step_started_at: Some(self.now),
                    ..Run::default()
                });
            }
        }
        self.status.phase = phase;
        self.status.canary_weight = 0;
        self.status.iterations = 0;
        self.status.failed_checks = 0;
        self.drop_cookies();
    }

    fn new_run(&self, view: &View<'a>, stage: Stage, number: i64) -> Run {
        Run {
            id: format!("{number}-{}", self.now.as_millisecond()),
            number,
            revision: view.identity.revision.clone(),
            template: Some(revision::object_ref(self.canary, &view.identity.revision).name),
            tracked_configs: view.identity.configs.clone(),
            started_at: Some(self.now),
            stage: stage.as_str().to_owned(),
            weights: Some(weights(Split::PRIMARY)),
            ..Run::default()
        }
    }

    fn next_number(&self) -> i64 {
        let past = self.status.history.last().map_or(0, |run| run.number);
        let present = self.run_ref().map_or(0, |run| {
            if run.stage == Stage::Waiting.as_str() {
                run.number - 1
            } else {
                run.number
            }
        });
        past.max(present) + 1
    }

    fn record_applied(&mut self, identity: &Identity) {
        self.status.last_applied_spec = Some(identity.revision.clone());
        self.status.tracked_configs = self
            .snapshot
            .settings
            .workload
            .config_tracking
            .then(|| identity.configs.clone());
    }

    fn record_promoted(&mut self, view: &View<'_>, identity: &Identity, template: Option<String>) {
        let replicas = view
            .primary
            .object()
            .map(|primary| view.kind.replicas(primary))
            .filter(|replicas| *replicas > 0);
        self.status.last_promoted_spec = Some(identity.revision.clone());
        self.status.promoted = Some(Promoted {
            revision: identity.revision.clone(),
            template,
            tracked_configs: identity.configs.clone(),
            promoted_at: Some(self.now),
            replicas,
        });
    }

    fn record_metrics(&mut self, judged: &[Judged]) {
        for one in judged {
            if let Some(value) = one.value {
                self.tallies.push(Tally::Measured {
                    metric: one.status.name.clone(),
                    value,
                });
            }
            let mut fresh = one.status.clone();
            let slot = self
                .status
                .metrics
                .iter_mut()
                .find(|known| known.name == fresh.name);
            let mut recent = slot
                .as_ref()
                .map(|known| known.recent.clone())
                .unwrap_or_default();
            recent.extend(fresh.value.clone());
            let surplus = recent
                .len()
                .saturating_sub(crate::api::canary_status::RECENT_LENGTH);
            recent.drain(..surplus);
            fresh.recent = recent;
            match slot {
                Some(known) => *known = fresh,
                None => self.status.metrics.push(fresh),
            }
        }
    }

    fn is_promoted(&self, identity: &Identity) -> bool {
        self.status.promoted.as_ref().is_some_and(|promoted| {
            promoted.revision == identity.revision && promoted.tracked_configs == identity.configs
        })
    }

    fn is_applied(&self, identity: &Identity) -> bool {
        let same_configs =
            self.status.tracked_configs.clone().unwrap_or_default() == identity.configs;
        self.status.last_applied_spec.as_deref() == Some(&identity.revision) && same_configs
    }

    fn is_ours(&self, identity: &Identity) -> bool {
        self.run_ref().is_some_and(|run| {
            run.revision == identity.revision && run.tracked_configs == identity.configs
        })
    }

    // ---- session affinity

    fn keep_cookies(&mut self) {
        let Some(affinity) = &self.canary.spec.analysis.session_affinity else {
            return;
        };
        if self.status.canary_weight > 0 && self.status.session_affinity_cookie.is_none() {
            self.status.session_affinity_cookie = Some(format!(
                "{}={}",
                affinity.cookie_name,
                letters(self.snapshot.entropy)
            ));
            self.status.primary_session_affinity_cookie = affinity
                .primary_cookie_name
                .as_ref()
                .map(|name| format!("{name}={}", letters(!self.snapshot.entropy)));
        }
    }

    fn drop_cookies(&mut self) {
        if let Some(cookie) = self.status.session_affinity_cookie.take() {
            self.status.previous_session_affinity_cookie = Some(cookie);
        }
        self.status.primary_session_affinity_cookie = None;
    }

    // ---- small things

    fn strategy(&self, view: &View<'_>) -> Strategy {
        if view.router.capabilities().weights {
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

    fn tell(&mut self, severity: Severity, reason: &'static str, message: String) {
        let phase = self.status.phase.as_str().to_owned();
        self.announcements.push(Announcement {
            severity,
            reason,
            message,
            phase,
            alert: None,
        });
    }

    fn tell_and_alert(
        &mut self,
        severity: Severity,
        reason: &'static str,
        message: String,
        alert: String,
    ) {
        self.tell(severity, reason, message);
        self.announcements
            .last_mut()
            .into_iter()
            .for_each(|told| told.alert = Some(alert.clone()));
    }

    fn tell_gate(&mut self, message: String, alert: &str, muted: bool) {
        self.tell(Severity::Warn, "GateClosed", message);
        if !muted {
            self.announcements
                .last_mut()
                .into_iter()
                .for_each(|told| told.alert = Some(alert.to_owned()));
        }
    }

    fn tell_passed(&mut self, label: &str, hooks: &[String]) {
        for hook in hooks {
            self.tell(
                Severity::Info,
                "HookPassed",
                format!("{label} check {hook} passed"),
            );
        }
    }

    fn tell_drift(&mut self, foreign: &converge::Drift) {
        self.tell(
            Severity::Warn,
            "RouteDrift",
            format!(
                "{} had been changed by {} to canary weight {}; it is set back to {}",
                foreign.object, foreign.writer, foreign.found, foreign.wanted
            ),
        );
    }
}

/// Reasons of announcements that go with writes rather than with a change of the status.
const TOLD_WITH_WRITES: [&str; 2] = ["RouteDrift", "Terminated"];
const WAIT_CANARY: &str = "the canary to become ready";
const WAIT_PRIMARY: &str = "the primary to become ready";
const HELD_TEXT: &str = "Promotion failed; the canary keeps the traffic and the primary gets back the revision that was promoted before.";

fn gate_text(hook: &str) -> String {
    format!("The gate {hook} is closed; the checks go on, the traffic stays as it is.")
}

/// The closed gate that a run stands at.
fn gate_of(run: &Run) -> Option<&str> {
    run.waiting_for.as_deref()?.strip_prefix("gate ")
}

/// Ends a wait that a check has answered; a gate stays closed whatever checks say, and its time runs on.
fn end_wait(run: &mut Run) {
    if gate_of(run).is_none() {
        clear_wait(run);
    }
}

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

/// Ten letters from a number, for a cookie's value.
fn letters(mut seed: u64) -> String {
    (0..10)
        .map(|_| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + u8::try_from((seed >> 33) % 26).unwrap_or(0))
        })
        .collect()
}
